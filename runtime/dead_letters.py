"""The dead letters of a service's own topics: what waits and why, and sending some of it round again.

Each service answers for the topics that it reads: it may write there what it alone reads.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from threading import Event, Lock
from typing import Final, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage

from runtime.kafka import BrokerAway, consumer_config, producer_config
from runtime.loop import message_from
from runtime.messages import BACKFILL, DEAD_LETTERS, TRACEPARENT, Message
from runtime.settings import RuntimeSettings
from runtime.telemetry import DEAD_LETTERS_WAITING, read_traceparent

MOST: Final = 10_000
"""Of so many letters, the newest, it is known what they are."""
_EVENT_ID: Final = re.compile(r"[0-9a-f]{32}")

Restore = Callable[[Mapping[str, bytes]], dict[str, bytes]]
"""The headers of a message as it was, from those of its dead letter."""
Tell = Callable[[str, str, int], tuple[str, bytes, bytes]]
"""Topic, key and value of what the audit log is told: by whom, of which topic, how many."""


class Letter(NamedTuple):
    """One dead letter, without what is in it. `at` is when it became one (ms since the epoch)."""

    topic: str
    partition: int
    offset: int
    at: int
    reason: str
    detail: str
    source: str
    type: str
    event_id: str
    trace: str


class Busy(Exception):
    """Somebody is sending dead letters round already."""


class DeadLetters:
    """Follows a service's dead letters, and sends them round again."""

    PATIENCE_SECONDS: Final = 30.0
    ASKED_EVERY_SECONDS: Final = 5.0
    MOST_BYTES: Final = 32 * 2**20
    """Of messages that go round at once."""

    def __init__(
        self, service: str, settings: RuntimeSettings, lanes: Iterable[str], restore: Restore, tell: Tell
    ) -> None:
        """`lanes` are the topics that the service reads, as its route has them."""
        self._service = service
        self._settings = settings
        self._prefix = settings.topic_prefix
        self._group = f"{self._prefix}{service}-replay"
        self._restore = restore
        self._tell = tell
        self.topics: Final = tuple(sorted({lane.removesuffix(BACKFILL) + DEAD_LETTERS for lane in lanes}))
        self._letters: deque[Letter] = deque(maxlen=MOST)
        self._done: dict[tuple[str, int], int] = {}
        self._replaying = Lock()
        self._stop = Event()

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()

    def run(self) -> None:
        """Follow them until asked to stop."""
        consumer = Consumer(consumer_config(self._settings, self._group))
        try:
            asked = -math.inf
            while not self._stop.is_set():
                for one in consumer.consume(500, 0.5) if consumer.assignment() else ():
                    if one.error() is None:
                        self._note(message_from(one))
                if time.monotonic() > asked + self.ASKED_EVERY_SECONDS:
                    self._ask(consumer)
                    self._measure()
                    asked = time.monotonic()
                elif not consumer.assignment():
                    self._stop.wait(0.5)
        finally:
            consumer.close()

    def waiting(self) -> list[Letter]:
        """Those that nobody has sent round again, the oldest first."""
        return [one for one in list(self._letters) if one.offset >= self._done.get((one.topic, one.partition), 0)]

    def replay(self, topic: str, most: int, by: str) -> int:
        """Send the oldest letters that wait back to where they came from, in one transaction; returns how many.

        Raises BrokerAway, and then nothing was sent, or it was and is not known to be. Raises Busy while
        somebody does the same.
        """
        if not self._replaying.acquire(blocking=False):
            raise Busy
        config = consumer_config(self._settings, self._group) | {"enable.partition.eof": True}
        try:
            with closing(Consumer(config)) as consumer:
                return self._replay(consumer, topic, most, by)
        except (KafkaException, BufferError):
            raise BrokerAway("the broker does not answer") from None
        finally:
            self._replaying.release()

    def _replay(self, consumer: Consumer, topic: str, most: int, by: str) -> int:
        producer = Producer(producer_config(self._settings, self._group))
        # first of all: another process's transaction is over before it is asked how far letters went
        producer.init_transactions(self.PATIENCE_SECONDS)
        letters, after = self._read(consumer, topic, most)
        if not after:
            return 0
        producer.begin_transaction()
        try:
            for one in letters:
                self._send(producer, one)
            if letters:
                about, key, value = self._tell(by, topic, len(letters))
                producer.produce(self._prefix + about, value, key)
            places = [TopicPartition(self._prefix + topic, number, offset) for number, offset in after.items()]
            producer.send_offsets_to_transaction(places, consumer.consumer_group_metadata(), self.PATIENCE_SECONDS)
            producer.commit_transaction(self.PATIENCE_SECONDS)
        except BaseException:
            with suppress(KafkaException):
                producer.abort_transaction(self.PATIENCE_SECONDS)
            raise
        self._done |= {(topic, number): offset for number, offset in after.items()}
        return len(letters)

    def _send(self, producer: Producer, letter: Message) -> None:
        target, number = self._prefix + letter.header("dlq_topic"), int(letter.header("dlq_partition"))
        headers: list[tuple[str, str | bytes | None]] = [*self._restore(letter.headers).items()]
        producer.produce(target, letter.value or None, letter.key, number, headers=headers)
        producer.poll(0)

    def _read(self, consumer: Consumer, topic: str, most: int) -> tuple[list[Message], dict[int, int]]:
        """The oldest letters of ours, and what comes after them in each partition."""
        name = self._prefix + topic
        numbers = consumer.list_topics(name, self.PATIENCE_SECONDS).topics[name].partitions
        begun = consumer.committed([TopicPartition(name, number) for number in numbers], self.PATIENCE_SECONDS)
        for one in begun:
            one.offset = one.offset if one.offset >= 0 else OFFSET_BEGINNING
        consumer.assign(begun)
        letters: list[Message] = []
        after: dict[int, int] = {}
        left, deadline = set(numbers), time.monotonic() + self.PATIENCE_SECONDS
        size = 0
        while left and len(letters) < most and size < self.MOST_BYTES and time.monotonic() < deadline:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error() is not None:
                left.discard(_place(message)[0])
                continue
            number, offset = _place(message)
            after[number] = offset + 1
            letter = message_from(message)
            if self._is_ours(letter):
                letters.append(letter)
                size += len(letter.value)
        return letters, after

    def _ask(self, consumer: Consumer) -> None:
        """Read on from topics that are there by now, and how far letters were sent round again or have passed away."""
        try:
            known = consumer.list_topics(timeout=5).topics
            names = [self._prefix + one for one in self.topics]
            there = {(name, number) for name in names if name in known for number in known[name].partitions}
            new = there - {(one.topic, one.partition) for one in consumer.assignment()}
            if new:
                consumer.incremental_assign([TopicPartition(*place, OFFSET_BEGINNING) for place in new])
            for one in consumer.committed(consumer.assignment(), 5):
                oldest, _ = consumer.get_watermark_offsets(TopicPartition(one.topic, one.partition), timeout=5)
                self._done[one.topic.removeprefix(self._prefix), one.partition] = max(one.offset, oldest)
        except (KafkaException, TypeError):  # get_watermark_offsets gives None when nobody answers
            return

    def _measure(self) -> None:
        counts = Counter(one.topic for one in self.waiting())
        for topic in self.topics:
            DEAD_LETTERS_WAITING.labels(self._service, topic).set(counts[topic])

    def _note(self, message: Message) -> None:
        if not self._is_ours(message):
            return
        self._letters.append(
            Letter(
                message.topic.removeprefix(self._prefix),
                message.partition,
                message.offset,
                message.timestamp,
                _text(message, "dlq_reason"),
                _text(message, "dlq_detail"),
                _text(message, "ce_source"),
                _text(message, "ce_type"),
                event_id if _EVENT_ID.fullmatch(event_id := _text(message, "ce_id")) else "",
                f"{trace.trace_id:032x}" if (trace := read_traceparent(message.headers.get(TRACEPARENT))) else "",
            )
        )

    def _is_ours(self, message: Message) -> bool:
        """A topic may have two readers; each has letters of its own."""
        return _text(message, "dlq_step") == self._service


def _place(message: KafkaMessage) -> tuple[int, int]:
    return message.partition() or 0, message.offset() or 0


def _text(message: Message, name: str) -> str:
    return message.headers.get(name, b"").decode(errors="replace")
