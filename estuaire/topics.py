"""Looking into the topics: print one, follow one record, send dead letters round again."""

from __future__ import annotations

import base64
import datetime as dt
import getpass
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, Producer, TopicPartition

from contracts import audit
from contracts.messages import VALUES, Headers, revision
from contracts.registry import BACKFILL, DEAD_LETTERS
from runtime.kafka import consumer_config, producer_config
from runtime.messages import SUMMARIES, FlowSummary
from runtime.settings import RuntimeSettings


class TopicError(Exception):
    """The topic cannot be read. One line."""


def read(settings: RuntimeSettings, topic: str, *, follow: bool = False) -> Iterator[Message]:
    """Every committed message of a topic, from the beginning to its present end, or on. Raises TopicError."""
    consumer = Consumer(consumer_config(settings, "estuaire-reader") | {"enable.partition.eof": True})
    try:
        known = consumer.list_topics(topic, timeout=10).topics[topic]
        if known.error is not None:
            raise TopicError(f"there is no topic {topic}")
        places = [TopicPartition(topic, number, OFFSET_BEGINNING) for number in known.partitions]
        consumer.assign(places)
        open_partitions = set(known.partitions)
        while open_partitions or follow:
            message = consumer.poll(1.0)
            if message is None:
                continue
            error = message.error()
            if error is None:
                yield message
            elif error.name() == "_PARTITION_EOF":
                open_partitions.discard(message.partition())
            else:
                raise TopicError(f"{topic}: {error.str()}")
    except KafkaException as error:
        raise TopicError(f"{topic}: {error.args[0].str()}") from None
    finally:
        consumer.close()


def describe(message: Message) -> dict[str, Any]:
    """A message for a person: coordinates, headers, and the decoded envelope (sealed bytes stay base64)."""
    headers = {name: _text(value) for name, value in _headers(message).items()}
    return {
        "topic": message.topic(),
        "partition": message.partition(),
        "offset": message.offset(),
        "timestamp": message.timestamp()[1],
        "key": _text(message.key()),
        "headers": headers,
        "value": _value(str(message.topic()), message.value(), marker="marker" in headers),
    }


def replay(settings: RuntimeSettings, dead_letters: str, most: int) -> int:
    """Send dead letters back to where they came from, each once, in one transaction; returns how many.

    The audit log has how many, of which topic, and the name of whoever's terminal it was, which nobody has checked.

    A message keeps its revision, made whole from where it was first received, so that it never outranks a newer one.
    """
    group = f"replay-{dead_letters}"
    consumer = Consumer(consumer_config(settings, group))
    producer = Producer(producer_config(settings, group))
    producer.init_transactions(30)
    consumer.subscribe([dead_letters])
    batch: list[Message] = []
    idle = 0
    try:
        while len(batch) < most and idle < 5:
            message = consumer.poll(1.0)
            if message is None or message.error():
                idle += 1
            else:
                batch.append(message)
        if not batch:
            return 0
        producer.begin_transaction()
        for message in batch:
            headers = _headers(message)
            topic = settings.topic_prefix + headers["dlq_topic"].decode()
            if Headers.REVISION in headers:
                stated = headers[Headers.REVISION].decode()
                whole = revision(stated, int(headers["dlq_timestamp"]), int(headers["dlq_offset"]))
                headers[Headers.REVISION] = whole.encode()
            kept = [(name, value) for name, value in headers.items() if not name.startswith("dlq_")]
            producer.produce(topic, message.value(), message.key(), headers=kept)
        told = audit.leaf(
            "dead-letters-replayed",
            audit.actor("terminal", _user()),
            dt.datetime.now(dt.UTC),
            count=len(batch),
            about=dead_letters.removeprefix(settings.topic_prefix),
        )
        topic, key, value = audit.message(told)
        producer.produce(settings.topic_prefix + topic, value, key)
        after = {message.partition() or 0: (message.offset() or 0) + 1 for message in batch}
        places = [TopicPartition(dead_letters, number, at) for number, at in after.items()]
        producer.send_offsets_to_transaction(places, consumer.consumer_group_metadata(), 30)
        producer.commit_transaction(30)
        return len(batch)
    finally:
        consumer.close()


def print_topic(
    settings: RuntimeSettings, topic: str, most: int | None, follow: bool, out: Callable[[str], None]
) -> None:
    """Print messages as NDJSON. Raises TopicError."""
    for count, message in enumerate(read(settings, topic, follow=follow), 1):
        out(json.dumps(describe(message), ensure_ascii=False))
        if most is not None and count >= most:
            return


def _value(topic: str, value: bytes | None, *, marker: bool) -> Any:
    plain = topic.removesuffix(DEAD_LETTERS).removesuffix(BACKFILL)
    if not value or marker:
        return None
    if plain.startswith("view-"):
        return json.loads(value)
    kind = FlowSummary if plain == SUMMARIES else VALUES.get(plain)
    if kind is None:
        return _text(value)
    try:
        return msgspec.to_builtins(msgspec.msgpack.decode(value, type=kind))
    except msgspec.MsgspecError:
        return _text(value)


def _headers(message: Message) -> dict[str, Any]:
    return dict(message.headers() or ())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _text(value: bytes | str | None) -> str | None:
    if value is None or isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()
