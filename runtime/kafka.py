"""Clients of the broker: their settings in one place, the making of topics, and a writer of single messages."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final, Protocol

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions, NewTopic

from runtime.settings import RuntimeSettings

LARGEST: Final = 1_000_000
"""Bytes a step may put into a message. Brokers take 1,048,588: a dead letter of it needs room for its headers."""
SILENT: Final = {"log_level": 2}
"""For a client that raises whatever goes wrong: it writes nothing itself."""


class Wanted(Protocol):
    """A topic to create."""

    @property
    def name(self) -> str: ...
    @property
    def partitions(self) -> int: ...
    @property
    def settings(self) -> dict[str, str]: ...
    @property
    def may_grow(self) -> bool: ...


def common(settings: RuntimeSettings) -> dict[str, Any]:
    """What every client needs."""
    return {"bootstrap.servers": settings.bootstrap_servers, "log_level": 3, **settings.kafka_config}


def producer_config(settings: RuntimeSettings, transactional_id: str | None = None) -> dict[str, Any]:
    """An idempotent producer with a bounded queue; transactional when given an id."""
    config = {
        "enable.idempotence": True,
        "acks": "all",
        "compression.type": "lz4",
        "linger.ms": 5,
        "batch.num.messages": 10_000,
        "message.max.bytes": LARGEST + 40_000,
        "queue.buffering.max.kbytes": 65_536,
        "partitioner": "murmur2_random",
        "delivery.timeout.ms": 14_000,
        "socket.timeout.ms": 6_000,
    }
    if transactional_id:
        config |= {"transactional.id": transactional_id, "transaction.timeout.ms": 15_000}
    return config | common(settings)


def consumer_config(settings: RuntimeSettings, group: str, instance: str | None = None) -> dict[str, Any]:
    """A read-committed consumer that commits nothing by itself; a static member when given an instance."""
    config = {
        "group.id": group,
        "isolation.level": "read_committed",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "session.timeout.ms": 10_000,
        "partition.assignment.strategy": "range",
        "queued.max.messages.kbytes": 32_768,
        # a few batches ahead and no more: what is live waits behind what was fetched before it
        "queued.min.messages": 2_000,
        "fetch.queue.backoff.ms": 10,
        "fetch.wait.max.ms": 100,
        "topic.metadata.refresh.interval.ms": 30_000,
    }
    if instance:
        config["group.instance.id"] = instance
    return config | common(settings)


def create_topics(settings: RuntimeSettings, wanted: Iterable[Wanted], replication: int = -1) -> list[str]:
    """Create those topics that do not exist, in one call; returns the names of the new ones.

    One that may grow and has fewer partitions than wanted, as it was made by an older release, gets the others.
    """
    wanted = list(wanted)
    admin = AdminClient(common(settings))
    existing = admin.list_topics(timeout=10).topics
    grown = [
        NewPartitions(one.name, one.partitions)
        for one in wanted
        if one.may_grow and one.name in existing and len(existing[one.name].partitions) < one.partitions
    ]
    for future in admin.create_partitions(grown, operation_timeout=20).values() if grown else ():
        future.result()
    fresh = [
        NewTopic(one.name, num_partitions=one.partitions, replication_factor=replication, config=one.settings)
        for one in wanted
        if one.name not in existing
    ]
    if not fresh:
        return []
    created = []
    for name, future in admin.create_topics(fresh, operation_timeout=20).items():
        try:
            future.result()
            created.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    return created


def empty_topic(settings: RuntimeSettings, name: str) -> None:
    """Delete what was written to a topic until now; readers go on with what comes next. Raises KafkaException."""
    admin = AdminClient(common(settings))
    partitions = admin.list_topics(name, timeout=10).topics[name].partitions
    whole = [TopicPartition(name, number, OFFSET_END) for number in partitions]
    if whole:
        for future in admin.delete_records(whole, request_timeout=20).values():
            future.result()


class WholeTopic:
    """A topic read from its beginning on, by nobody's offsets; knows when all has been read that was there at first."""

    def __init__(self, settings: RuntimeSettings, topic: str, group: str) -> None:
        """`group` is what the broker allows this reader to call itself."""
        self._name = settings.topic_prefix + topic
        self._consumer = Consumer(consumer_config(settings, settings.topic_prefix + group))
        self._ends: dict[int, int] | None = None

    def close(self) -> None:
        """Read no more."""
        self._consumer.close()

    def is_complete(self) -> bool:
        """Whether what was there when reading began has been read, and was dealt with: more was asked for after it."""
        return self._ends == {}

    def read(self) -> list[Message]:
        """The messages that come next, within 0.2 s; none while the topic cannot be found. Raises KafkaException."""
        if self._ends is None:
            self._begin()
        elif self._ends:  # by position, for the end may be a marker, or compacted away
            positions = self._consumer.position([TopicPartition(self._name, number) for number in self._ends])
            self._ends = {one.partition: end for one in positions if one.offset < (end := self._ends[one.partition])}
        return [one for one in self._consumer.consume(1000, 0.2) if one.error() is None]

    def _begin(self) -> None:
        try:
            found = self._consumer.list_topics(self._name, timeout=2).topics[self._name].partitions
            places = [TopicPartition(self._name, number) for number in found]
            marks = {one.partition: self._consumer.get_watermark_offsets(one, timeout=2) for one in places}
        except KafkaException:
            return
        if marks and None not in marks.values():
            self._consumer.assign([TopicPartition(self._name, number, OFFSET_BEGINNING) for number in marks])
            self._ends = {number: high for number, (low, high) in marks.items() if low < high}


class BrokerAway(Exception):
    """The broker has not acknowledged a message in time."""


class Publisher(Protocol):
    """Writes one message and returns when the broker has it."""

    def publish(self, topic: str, key: str, value: bytes) -> None:
        """Raises BrokerAway."""


class KafkaPublisher:
    """An idempotent producer for the few messages that people cause."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self._prefix = settings.topic_prefix
        self._producer = Producer(producer_config(settings))

    def publish(self, topic: str, key: str, value: bytes) -> None:
        """Write and wait for the acknowledgement. Raises BrokerAway."""
        answers: list[KafkaError | None] = []
        try:
            self._producer.produce(
                self._prefix + topic, value, key, on_delivery=lambda error, _message: answers.append(error)
            )
            deadline = time.monotonic() + 15
            while not answers and time.monotonic() < deadline:
                self._producer.poll(0.1)
        except (KafkaException, BufferError):
            raise BrokerAway("the broker does not answer") from None
        if answers != [None]:
            raise BrokerAway("the broker has not acknowledged the message")
