"""The dead letters of a service's own topics: what waits and why, and sending some of it round again.

Each service answers for the topics that it reads: it may write there what it alone reads.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from itertools import product
from threading import Event, Lock
from typing import Final, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage

from runtime.kafka import BrokerAway, consumer_config, producer_config
from runtime.loop import message_from
from runtime.messages import BACKFILL, DEAD_LETTERS, TRACEPARENT, Message, Reason
from runtime.settings import RuntimeSettings
from runtime.telemetry import DEAD_LETTERS_WAITING, read_traceparent

MOST: Final = 10_000
"""Of so many letters, the newest, it is known what they are."""
_EVENT_ID: Final = re.compile(r"[0-9a-f]{32}")

Restore = Callable[[Mapping[str, bytes]], dict[str, bytes]]
"""The headers of a message as it was, from those of its dead letter."""
Tell = Callable[[str, str, int], tuple[str, bytes, bytes]]
"""Topic, key and value of what the audit log is told: by whom, of which topic, how many."""
Delivered = Callable[[KafkaError | None, KafkaMessage], None]


class Places(NamedTuple):
    """Messages of a partition, by their offsets."""

    topic: str
    partition: int
    offsets: Sequence[int]


class Became(NamedTuple):
    """What became of messages that were sent round again: how many their step has taken, how many of them are dead
    letters again, by reason, and of how many that is not known yet."""

    taken: int
    died: Mapping[str, int]
    unknown: int


class Letter(NamedTuple):
    """One dead letter, without what is in it. `at` is when it became one (ms since the epoch), `cause` the topic,
    partition and offset of the message that it was."""

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
    cause: tuple[str, int, int]


class Busy(Exception):
    """Somebody is sending dead letters round already."""


class DeadLetters:
    """Follows a service's dead letters, and sends them round again."""

    PATIENCE_SECONDS: Final = 30.0
    ASKED_EVERY_SECONDS: Final = 5.0
    ANSWER_SECONDS: Final = 3.0
    """So long is waited for what became of messages: for the broker's word, and for letters to be read."""
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
        self._step = f"{self._prefix}{service}"
        self._restore = restore
        self._tell = tell
        self.lanes: Final = frozenset(lanes)
        self.topics: Final = tuple(sorted({lane.removesuffix(BACKFILL) + DEAD_LETTERS for lane in self.lanes}))
        self._letters: deque[Letter] = deque(maxlen=MOST)
        self._done: dict[tuple[str, int], int] = {}
        self._read_to: dict[tuple[str, int], int] = {}
        self._replaying = Lock()
        self._stop = Event()

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()

    def run(self) -> None:
        """Follow them until asked to stop."""
        consumer = Consumer(consumer_config(self._settings, self._group) | {"enable.partition.eof": True})
        try:
            asked = -math.inf
            while not self._stop.is_set():
                for one in consumer.consume(500, 0.5) if consumer.assignment() else ():
                    if (error := one.error()) is None:
                        self._note(message_from(one))
                    elif error.code() == KafkaError._PARTITION_EOF:
                        number, offset = _place(one)
                        self._read_to[one.topic() or "", number] = offset
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

    def replay(self, topic: str, most: int, by: str) -> list[Places]:
        """Send the oldest letters that wait back to where they came from, in one transaction; returns where they are.

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

    def became(self, sent: Sequence[Places]) -> Became:
        """What became of messages in our lanes. Raises BrokerAway."""
        config = consumer_config(self._settings, self._step)
        asked = [TopicPartition(self._prefix + one.topic, one.partition) for one in sent]
        try:
            with closing(Consumer(config)) as consumer:
                # first how far the step is: what it wrote until then can be read
                passed = [one.offset for one in consumer.committed(asked, self.ANSWER_SECONDS)] if asked else []
                is_read = self._is_read(self._ends(consumer, {one.topic for one in sent}))
        except (KafkaException, TypeError):
            raise BrokerAway("the broker does not answer") from None
        reasons = {one.cause: one.reason for one in list(self._letters)}
        found = [
            reasons.get((one.topic, one.partition, offset)) or ("" if is_read and offset < next_offset else None)
            for one, next_offset in zip(sent, passed, strict=True)
            for offset in one.offsets
        ]
        counts = Counter(found)
        return Became(counts.pop("", 0), {reason: count for reason, count in counts.items() if reason}, counts[None])

    def _ends(self, consumer: Consumer, lanes: Iterable[str]) -> dict[tuple[str, int], int]:
        """Where the dead letters of these lanes end."""
        names = {self._prefix + lane.removesuffix(BACKFILL) + DEAD_LETTERS for lane in lanes}
        ends = {}
        for name in names:
            for number in consumer.list_topics(name, self.ANSWER_SECONDS).topics[name].partitions:
                _, ends[name, number] = consumer.get_watermark_offsets(
                    TopicPartition(name, number), timeout=self.ANSWER_SECONDS
                )
        return ends

    def _is_read(self, ends: Mapping[tuple[str, int], int]) -> bool:
        """Whether all letters before these ends are known, soon."""
        deadline = time.monotonic() + self.ANSWER_SECONDS
        while any(self._read_to.get(place, -1) < end for place, end in ends.items()):
            if time.monotonic() > deadline or self._stop.wait(0.05):
                return False
        return True

    def _replay(self, consumer: Consumer, topic: str, most: int, by: str) -> list[Places]:
        producer = Producer(producer_config(self._settings, self._group))
        # first of all: another process's transaction is over before it is asked how far letters went
        producer.init_transactions(self.PATIENCE_SECONDS)
        letters, after = self._read(consumer, topic, most)
        sent: defaultdict[tuple[str, int], list[int]] = defaultdict(list)

        def delivered(error: KafkaError | None, message: KafkaMessage) -> None:
            if error is None:
                number, offset = _place(message)
                sent[(message.topic() or "").removeprefix(self._prefix), number].append(offset)

        if not after:
            return []
        producer.begin_transaction()
        try:
            for one in letters:
                self._send(producer, one, delivered)
            producer.flush(self.PATIENCE_SECONDS)
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
        return [Places(*place, sorted(offsets)) for place, offsets in sorted(sent.items())]

    def _send(self, producer: Producer, letter: Message, delivered: Delivered) -> None:
        target, number = self._prefix + letter.header("dlq_topic"), int(letter.header("dlq_partition"))
        headers: list[tuple[str, str | bytes | None]] = [*self._restore(letter.headers).items()]
        producer.produce(target, letter.value or None, letter.key, number, delivered, headers=headers)
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
        counts = Counter((one.topic, one.reason) for one in self.waiting())
        for topic, reason in product(self.topics, Reason):
            DEAD_LETTERS_WAITING.labels(self._service, topic, reason).set(counts[topic, reason])

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
                (_text(message, "dlq_topic"), _number(message, "dlq_partition"), _number(message, "dlq_offset")),
            )
        )

    def _is_ours(self, message: Message) -> bool:
        """A topic may have two readers; each has letters of its own."""
        return _text(message, "dlq_step") == self._service


def _place(message: KafkaMessage) -> tuple[int, int]:
    return message.partition() or 0, message.offset() or 0


def _number(message: Message, name: str) -> int:
    text = _text(message, name)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1


def _text(message: Message, name: str) -> str:
    return message.headers.get(name, b"").decode(errors="replace")
