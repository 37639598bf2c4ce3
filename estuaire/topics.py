"""Looking into the topics: print one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from contracts.messages import VALUES
from contracts.registry import BACKFILL, DEAD_LETTERS
from runtime.kafka import SILENT, consumer_config
from runtime.messages import SUMMARIES, FlowSummary
from runtime.settings import RuntimeSettings


class TopicError(Exception):
    """The topic cannot be read. One line."""


def read(settings: RuntimeSettings, topic: str, *, follow: bool = False) -> Iterator[Message]:
    """Every committed message of a topic, from the beginning to its present end, or on. Raises TopicError."""
    consumer = Consumer(consumer_config(settings, "estuaire-reader") | {"enable.partition.eof": True, **SILENT})
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


def _text(value: bytes | str | None) -> str | None:
    if value is None or isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()
