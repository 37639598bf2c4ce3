"""From a producer's own Kafka to the ingest at its site: events are read there, and sent as any producer sends them.

Offsets are committed after the hub's acknowledgement alone, and after what was refused is written down: so each event
is sent at least once, whenever the process dies, and the hub makes nothing of a re-send. One request is under way at a
time, and no partition is given away while it is: so the order within a partition is kept, and a correction never comes
after the one that replaced it.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from estuaire.client import SendError
from estuaire.process import Report
from estuaire.producer import BATCH, BATCH_BYTES, LONGEST_PAUSE, line_of
from estuaire.producer import Producer as Hub
from runtime.kafka import common, consumer_config, producer_config
from runtime.settings import RuntimeSettings
from services.ingest.domain.refusals import NOT_JSON, SOURCE_NOT_YOURS, Refusal

REFUSED: Final = "-refused"
"""What the name of the topic of refusals ends in, on the producer's broker."""
IDLE_SECONDS: Final = 0.5
LINGER_SECONDS: Final = 0.05
"""How long an open batch waits for more."""
TOLD_AFTER_SECONDS: Final = 5.0
"""Waiting for the hub that takes longer is reported."""
NOT_YOURS_IN_A_ROW: Final = 100
"""Events of another source one after another, at which the relay itself is taken for the one with a wrong name."""
ANSWER_SECONDS: Final = 10.0
"""How long the producer's broker is waited for, at the start."""
_ACKNOWLEDGED_SECONDS: Final = 20.0
_OWN: Final = {
    "auto.offset.reset",
    "bootstrap.servers",
    "debug",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "isolation.level",
    "log_level",
    "max.poll.interval.ms",
    "partition.assignment.strategy",
    "transactional.id",
}
"""Settings of the client that the relay's promises rest on: nothing lost, and nothing secret in a log."""
_SILENT: Final = {"log_level": 0}
"""What the client would log, a line for each attempt to connect: the relay says once what is wrong."""


class RelayError(Exception):
    """The relay cannot start or go on. One line, without a value of the broker's settings."""


class _Stopped(Exception):
    """The relay was asked to stop while it waited; nothing of the batch at hand is committed."""


class _GivenAway(Exception):
    """The group gave a partition to another relay while this one waited: who has it now sends its events."""


@dataclass(slots=True)
class Relayed:
    """What became of the events of a topic."""

    accepted: int = 0
    refused: int = 0
    tombstones: int = 0


@dataclass(frozen=True, slots=True)
class Theirs:
    """A topic of the producer's broker, and how to reach it; `config` are settings of librdkafka."""

    broker: str
    topic: str
    group: str
    config: Mapping[str, str]

    def settings(self) -> RuntimeSettings:
        """The settings of a client."""
        return RuntimeSettings(bootstrap_servers=self.broker, kafka_config=dict(self.config) | _SILENT)


def read_config(path: Path) -> dict[str, str]:
    """Settings of librdkafka from a properties file, a `name=value` a line. Raises RelayError, which holds no value."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise RelayError(f"{path.name} is not UTF-8: save it as UTF-8 (iconv -f latin1 -t utf-8)") from None
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, equals, value = (part.strip() for part in line.partition("="))
        if not name or name.startswith(("#", "!")):
            continue
        if not equals:
            raise RelayError(f"{path.name}, line {number}: not name=value")
        if name in _OWN:
            raise RelayError(f"{path.name}: {name} is the relay's own setting: take it out")
        found[name] = value
    if "sasl.jaas.config" in found:
        raise RelayError(f"{path.name}: sasl.jaas.config is for Java: write sasl.username and sasl.password")
    return found


def event_of(message: Message) -> bytes | Refusal | None:
    """A message as an event on one line, why it is none, or None for a tombstone.

    Source: the CloudEvents Kafka protocol binding 1.0, sections 3.2 (binary mode: attributes are headers `ce_*`, the
    value is the data, and no value is an event without data) and 3.3 (structured mode: the value is the event). A
    message with neither the content type of an event nor `ce_specversion` is taken as structured: connectors often
    write no headers.
    """
    headers: dict[str, Any] = {name.lower(): value for name, value in dict(message.headers() or ()).items()}
    value = message.value()
    kind = _text(headers.get("content-type")) or ""
    if kind.lower().startswith("application/cloudevents") or "ce_specversion" not in headers:
        return None if value is None else line_of(value)
    event: dict[str, Any] = {}
    for name, raw in headers.items():
        if name.startswith("ce_"):
            if (text := _text(raw)) is None:
                return _NO_TEXT
            event[name.removeprefix("ce_")] = _typed(name, text)
    if kind:
        event["datacontenttype"] = _JSON if _IS_JSON.fullmatch(kind) else kind
    if value is not None:
        try:
            event["data"] = msgspec.json.decode(value)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return NOT_JSON
    try:
        return msgspec.json.encode(event)
    except (ValueError, RecursionError):
        return NOT_JSON


class Relay:
    """Sends what comes in one topic, for one source. For one thread; `stop` may come from any, or from a signal."""

    def __init__(self, theirs: Theirs, url: str, token: str, report: Report, *, backfill: bool = False) -> None:
        """Raises RelayError where the broker's settings are wrong, SendError on a bad address."""
        self.relayed = Relayed()
        self._theirs = theirs
        self._report = report
        self._stopping = threading.Event()
        self._hub = Hub(url, token, patience=math.inf, backfill=backfill, pause=self._pause)
        settings = theirs.settings()
        try:
            own = {"enable.partition.eof": True, "error_cb": self._heard}
            self._consumer = Consumer(consumer_config(settings, theirs.group) | own)
            self._producer = Producer(producer_config(settings))
        except KafkaException as error:
            raise RelayError(_wrong_setting(error, theirs.config)) from None
        self._batch: list[Message] = []
        self._early: list[Message] = []
        """What came after the batch at hand while that waited."""
        self._ends: dict[int, int] | None = None
        self._left: set[int] | None = None
        """With `once`: the partitions of this relay that are not read to their end yet; None before it has any."""
        self._given_away = False
        self._waiting_since: float | None = None
        self._told = False
        self._not_yours = 0
        self._trouble: KafkaError | None = None

    def stop(self) -> None:
        """End after the request under way."""
        self._stopping.set()

    def run(self, *, once: bool = False) -> Relayed:
        """Relay until asked to stop; with `once`, to the topic's end as it is now. Raises RelayError, SendError."""
        try:
            with self._hub:
                self._prepare(once)
                while not self._stopping.is_set() and (self._left != set() or self._early):
                    try:
                        self._gather()
                        self._relay()
                    except _Stopped:
                        break
                    except _GivenAway:
                        self._batch, self._early = [], []
        except KafkaException as error:
            raise RelayError(f"the broker of {self._theirs.topic}: {self._said(error.args[0])}") from None
        finally:
            self._consumer.close()
        return self.relayed

    def _prepare(self, once: bool) -> None:
        topic = self._theirs.topic
        try:
            known = self._consumer.list_topics(timeout=ANSWER_SECONDS).topics
        except KafkaException:
            self._consumer.poll(0)  # whose callback has heard why
            raise
        if topic not in known:
            raise RelayError(f"there is no topic {topic} on {self._theirs.broker}, or it may not be read")
        if topic + REFUSED not in known:
            self._create_refused()
        if once:
            self._ends = {}
            for number in known[topic].partitions:
                marks = self._consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=ANSWER_SECONDS)
                if marks is None:
                    raise RelayError(f"the broker does not say where {topic} ends: try again")
                self._ends[number] = marks[1]
        self._consumer.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        self._report(f"relaying {topic} as group {self._theirs.group}")

    def _create_refused(self) -> None:
        name = self._theirs.topic + REFUSED
        try:
            admin = AdminClient(common(self._theirs.settings()))
            admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=-1)])[name].result(20)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise RelayError(
                    f"{name} is not there and cannot be made ({error.args[0].name()}): make it, or allow it; what the"
                    " hub refuses is listed in it"
                ) from None

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.assign(partitions)
        if self._waiting_since is not None:
            consumer.pause(partitions)
        if self._ends is not None:
            self._left = {one.partition for one in partitions}

    def _revoked(self, consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        """Whatever was read and not committed is read again, by whoever gets the partition."""
        consumer.unassign()
        self._given_away = True
        self._left = None

    def _gather(self) -> None:
        """Fill the batch: a first event is waited for, and the others as long as they come at once."""
        self._given_away = False
        self._batch, self._early = self._early, []
        size = sum(map(len, self._batch))
        until = time.monotonic() + (LINGER_SECONDS if self._batch else IDLE_SECONDS)
        while len(self._batch) < BATCH and size < BATCH_BYTES and (now := time.monotonic()) < until:
            message = self._consumer.poll(until - now)
            if self._given_away:
                raise _GivenAway
            if message is None or not self._is_due(message):
                continue
            if not self._batch:
                until = time.monotonic() + LINGER_SECONDS
            self._batch.append(message)
            size += len(message)

    def _is_due(self, message: Message) -> bool:
        """Whether this is to be sent: no news of an end, and nothing beyond the end that was asked for."""
        error, partition, offset = message.error(), message.partition() or 0, message.offset() or 0
        if error is not None and error.code() != KafkaError._PARTITION_EOF:
            if error.fatal() or error.code() in _FOR_GOOD:
                raise KafkaException(error)
            return False
        if self._ends is not None and self._left is not None:
            end = self._ends.get(partition, 0)
            if offset + (error is None) >= end:
                self._left.discard(partition)
            if offset >= end:
                return False
        return error is None

    def _relay(self) -> None:
        """Send the batch, write down what was refused, and commit."""
        if not self._batch:
            return
        lines: list[bytes] = []
        sent: list[Message] = []
        refused: list[tuple[Message, str, str]] = []
        tombstones = 0
        for message in self._batch:
            event = event_of(message)
            if event is None:
                tombstones += 1
            elif isinstance(event, Refusal):
                refused.append((message, *event))
            else:
                lines.append(event)
                sent.append(message)
        if lines:
            answer = self._hub.send_lines(lines)
            self._watch(len(answer.accepted), answer.rejected)
            refused += [(sent[one["index"]], one["reason"], one["detail"]) for one in answer.rejected]
        self._write_down(refused)
        self._commit()
        if self._waiting_since is not None:
            self._go_on()
        self.relayed.accepted += len(self._batch) - len(refused) - tombstones
        self.relayed.refused += len(refused)
        self.relayed.tombstones += tombstones
        self._batch.clear()

    def _watch(self, accepted: int, rejected: Sequence[Mapping[str, Any]]) -> None:
        """A wrong name or token would send a whole topic to the refusals: stop before it does."""
        others = sum(one["reason"] == SOURCE_NOT_YOURS.reason for one in rejected)
        self._not_yours = 0 if accepted else self._not_yours + others
        if self._not_yours >= NOT_YOURS_IN_A_ROW:
            raise SendError(
                f"the last {self._not_yours} events of {self._theirs.topic} have another source than the token is for:"
                " give the name that they have as `source`"
            )

    def _write_down(self, refused: Sequence[tuple[Message, str, str]]) -> None:
        """List refusals with the coordinates of their events, and nothing of these. Waits while the broker is away."""
        name = self._theirs.topic + REFUSED
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failed.append(error)

        while refused:
            failed.clear()
            for message, reason, detail in refused:
                partition, offset = message.partition(), message.offset()
                line = {"partition": partition, "offset": offset, "reason": reason, "detail": detail}
                key = f"{partition}-{offset}"
                self._producer.produce(name, msgspec.json.encode(line), key, on_delivery=delivered)
                self._producer.poll(0)
            left = self._producer.flush(_ACKNOWLEDGED_SECONDS)
            if not left and not failed:
                return
            for error in failed:
                if error.code() in _FOR_GOOD:
                    raise KafkaException(error)
            self._report(f"{name} cannot be written; waiting")
            self._pause(LONGEST_PAUSE)

    def _commit(self) -> None:
        """A commit that fails is no loss: the next one has its offsets too, or the events are sent again."""
        after = {message.partition() or 0: (message.offset() or 0) + 1 for message in self._batch}
        places = [TopicPartition(self._theirs.topic, number, offset) for number, offset in after.items()]
        try:
            self._consumer.commit(offsets=places, asynchronous=False)
        except KafkaException as error:
            self._report(f"the offsets are not committed ({error.args[0].name()}): these events may be sent again")

    def _pause(self, seconds: float) -> None:
        """Between two attempts: stay in the group, with nothing read. Raises _Stopped, _GivenAway."""
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
            self._consumer.pause(self._consumer.assignment())
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            if self._stopping.is_set():
                raise _Stopped
            message = self._consumer.poll(min(0.2, until - now))
            if self._given_away:
                self._go_on()
                raise _GivenAway
            if message is not None and self._is_due(message):
                self._early.append(message)
            if not self._told and now - self._waiting_since > TOLD_AFTER_SECONDS:
                self._told = True
                self._report("the hub is busy or away; waiting")

    def _go_on(self) -> None:
        self._consumer.resume(self._consumer.assignment())
        self._waiting_since = None
        if self._told:
            self._told = False
            self._report("going on")

    def _heard(self, error: KafkaError) -> None:
        """From the client, whenever something is wrong with the broker; kept as the cause of what fails later."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._trouble = error

    def _said(self, error: KafkaError) -> str:
        """What is wrong, in the client's words, unless they repeat a setting."""
        known = [one for one in (error, self._trouble) if one is not None]
        text = ": ".join(dict.fromkeys(one.str() for one in known))
        if any(len(value) > 2 and value in text for value in self._theirs.config.values()):
            return ": ".join(one.name() for one in known)
        return text


_FOR_GOOD: Final = {
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}
"""What waiting does not mend."""
_JSON: Final = "application/json"
_IS_JSON: Final = re.compile(r"\s*application/json\s*(;\s*charset\s*=\s*\"?utf-8\"?\s*)?", re.IGNORECASE)
_NO_TEXT: Final = Refusal("bad-value", "a header `ce_*` is not UTF-8: write attributes as text")


def _text(raw: str | bytes | None) -> str | None:
    if raw is None or isinstance(raw, str):
        return raw
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def _typed(name: str, text: str) -> Any:
    """The two attributes of an event that are no text, where they are what they should be."""
    if name == "ce_correction" and text in ("true", "false"):
        return text == "true"
    if name == "ce_version" and text.isascii() and text.isdigit():
        return int(text[:20])
    return text


def _wrong_setting(error: KafkaException, config: Mapping[str, str]) -> str:
    """Names the setting: librdkafka's own words may repeat its value."""
    named = re.findall(r'"([a-z0-9_.]+)"', error.args[0].str())
    setting = next((one for one in named if one in config), None)
    return (
        f"the broker's settings: {setting or 'one of them'} is not one of librdkafka's, or has a value it cannot take"
    )
