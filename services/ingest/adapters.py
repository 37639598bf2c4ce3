"""What ingest needs from outside: keys, producers' tokens, the broker both ways, traces, metrics."""

from __future__ import annotations

import logging
import math
import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from threading import Event, Lock
from typing import Any, Final, Protocol

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from opentelemetry.trace import Tracer
from prometheus_client import Counter, Gauge, Histogram

from contracts.messages import DailyReceipt, Measures, encode, measures_associated
from runtime.http import Bearers
from runtime.kafka import WholeTopic, consumer_config, producer_config
from runtime.keys import KeyStore, KeyUnavailable
from runtime.messages import MARKER, ORIGIN, SUMMARIES, Emit, FlowSummary
from runtime.sealing import Sealer
from runtime.settings import RuntimeSettings
from runtime.telemetry import read_traceparent, record_span, write_traceparent
from services.ingest.domain.flow import Flow, Lane, topic
from services.ingest.domain.keys import DIGEST, EVENT_ID, LEVEL_1, TO_ACCESS, TO_PSEUDONYM
from services.ingest.domain.measures import Counts, Tally, chunks
from services.ingest.domain.receipts import Receipts
from services.ingest.domain.tokens import Tokeniser
from services.ingest.handlers import RECEIVED, Ids, Intake, Seal, Trace

log = logging.getLogger("estuaire.ingest")

RECEIPTS: Final = "receipts"

# Events acknowledged, by source.
ACCEPTED: Final = Counter("estuaire_ingest_events_accepted", "Events acknowledged.", ["source"])
# Events refused, by source and reason.
REJECTED: Final = Counter("estuaire_ingest_events_rejected", "Events refused.", ["source", "reason"])
# Values that no allow-list names, removed from accepted records.
REMOVED: Final = Counter("estuaire_ingest_values_removed", "Values removed from accepted records.", ["source"])
# Seconds from a request's first byte to its answer.
REQUEST_SECONDS: Final = Histogram(
    "estuaire_ingest_request_seconds",
    "Seconds from a request's first byte to its answer.",
    ["route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
# HL7 v2 messages over MLLP, by source and how they were answered: AA, AE, AR, or not at all (none).
MLLP_MESSAGES: Final = Counter("estuaire_ingest_mllp_messages", "Messages over MLLP.", ["source", "answer"])
# Connections of MLLP that were closed, by source and cause: broken, too-long, idle, refused, busy, failed.
MLLP_CLOSED: Final = Counter("estuaire_ingest_mllp_closed", "Connections of MLLP closed by us.", ["source", "cause"])
# Connections of MLLP that are open, by source.
MLLP_OPEN: Final = Gauge("estuaire_ingest_mllp_open", "Connections of MLLP open.", ["source"])
# Seconds since there was last nothing left to send, of measures and of receipts. Above a minute, the broker takes none.
UNSENT_SECONDS: Final = Gauge("estuaire_ingest_unsent_seconds", "Seconds since all of these was sent.", ["what"])
# Sources that have to wait because too much of theirs ends as dead letters.
SOURCES_THROTTLED: Final = Gauge("estuaire_ingest_sources_throttled", "Sources that have to wait.")


def intake_from(keys: KeyStore, trace: Trace, remember: int) -> Intake:
    """The intake with its keys. Raises KeyUnavailable."""
    try:
        tokeniser = Tokeniser(keys.secret(LEVEL_1), remember)
    except ValueError as gap:
        raise KeyUnavailable(f"key {LEVEL_1}: {gap}") from None
    return Intake(
        tokeniser=tokeniser,
        ids=Ids(_for_good(keys, EVENT_ID), _for_good(keys, DIGEST)),
        to_pseudonym=Sealer(keys.public(TO_PSEUDONYM)),
        to_access=Sealer(keys.public(TO_ACCESS)),
        trace=trace,
    )


def _for_good(keys: KeyStore, name: str) -> bytes:
    versions = keys.secret(name)
    if len(versions) != 1:
        raise KeyUnavailable(f"key {name} has {len(versions)} versions, but it names records for good: keep its first")
    return next(iter(versions.values()))


def tracing(tracer: Tracer, ratio: float) -> Trace:
    """Traces of records: every record begins one of the hub's own, for this share of them with spans.

    Nothing that a producer chose travels on: its trace id could be a hash of an identity, or one for all of a person's
    records, and any reader of the broker sees it. What it asks for by a sampled traceparent is a span in its own trace,
    to which the hub's is linked; that tie stays in the trace store.
    """

    def begin(stated: str | None, begun: float, event_id: str) -> str:
        caller = read_traceparent(stated)
        if caller is not None and caller.trace_flags.sampled:
            call = record_span(tracer, "ingest call", caller, begun)
            return write_traceparent(record_span(tracer, "ingest record", call, begun, fresh=True, event_id=event_id))
        if random.random() < ratio:  # noqa: S311 - sampling, no secret
            return write_traceparent(record_span(tracer, "ingest record", None, begun, event_id=event_id))
        return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"

    return begin


def producers_from(data: Any) -> Bearers:
    """Who holds which bearer token, from what a file says. Raises ValueError, in one line."""
    try:
        return Bearers({str(one["token_sha256"]).lower(): str(one["source"]) for one in data["producers"]})
    except (LookupError, TypeError):
        raise ValueError("is not a list of producers, each with its source and token_sha256") from None


class NotKept(Exception):
    """The broker has not confirmed that it has these messages. Says its error's name, if it gave one."""


class QueueFull(Exception):
    """The broker does not keep up: nothing more fits in front of it."""


class Outbox(Protocol):
    """Where messages go."""

    def has_room(self) -> bool:
        """Whether there is place in front of the broker."""

    def send(self, emits: Sequence[Emit]) -> Future[None]:
        """Done when all in-sync replicas have all of the messages, or NotKept. Raises QueueFull, NotKept."""


class _Delivery:
    """The acknowledgements of one call, counted down by the poll thread."""

    __slots__ = ("_failed", "_left", "future")

    def __init__(self, count: int) -> None:
        self.future: Future[None] = Future()
        self.future.set_running_or_notify_cancel()  # whoever waits may give up, and that does not cancel it
        self._left = count
        self._failed = ""
        if not count:
            self.future.set_result(None)

    def report(self, error: KafkaError | None, _message: object) -> None:
        if error is not None:
            self._failed = error.name()
        self._left -= 1
        if not self._left:
            if self._failed:
                self.future.set_exception(NotKept(self._failed))
            else:
                self.future.set_result(None)


class KafkaOutbox:
    """An idempotent producer, acknowledged by all in-sync replicas. Its worker thread hands out the confirmations."""

    ENOUGH: Final = 60_000
    """Messages in front of the broker beyond which no request is begun (the client takes 100,000)."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self._settings = settings
        self._stop = Event()
        self._reached: str | None = "waiting for the broker"
        self._broken = False
        self._producer = self._new()

    def readiness(self) -> str | None:
        """None when the broker has answered, otherwise why not."""
        return self._reached

    def has_room(self) -> bool:
        """Whether there is place in front of the broker."""
        return len(self._producer) < self.ENOUGH

    def send(self, emits: Sequence[Emit]) -> Future[None]:
        """Done when all in-sync replicas have all of the messages, or NotKept. Raises QueueFull, NotKept."""
        delivery = _Delivery(len(emits))
        producer, prefix = self._producer, self._settings.topic_prefix
        for emit in emits:
            options: dict[str, Any] = {"partition": emit.partition} if emit.partition >= 0 else {}
            try:
                producer.produce(
                    prefix + emit.topic,
                    emit.value,
                    emit.key,
                    headers=list(emit.headers.items()),
                    on_delivery=delivery.report,
                    **options,
                )
            except BufferError:
                raise QueueFull from None
            except KafkaException as error:
                self._on_error(error.args[0])
                raise NotKept(error.args[0].name()) from None
        return delivery.future

    def run(self) -> None:
        """Hand out confirmations until asked to stop; a producer that cannot go on is made anew."""
        while not self._stop.is_set():
            self._producer.poll(0.1)
            if self._broken:
                self._broken = False
                old, self._producer = self._producer, self._new()
                old.purge()
                old.poll(0)
            if self._reached is not None:
                self._reach()
        self._producer.flush(5)

    def stop(self) -> None:
        """End, after what is under way is confirmed."""
        self._stop.set()

    def _new(self) -> Producer:
        return Producer(producer_config(self._settings) | {"error_cb": self._on_error})

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            log.error("the producer is made anew: %s", error.name())
            self._broken = True
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._reached = "waiting for the broker"

    def _reach(self) -> None:
        name = self._settings.topic_prefix + RECEIVED
        try:
            found = self._producer.list_topics(name, timeout=1).topics[name]
        except KafkaException:
            self._stop.wait(0.1)
            return
        there, wanted = len(found.partitions), self._settings.hot_partitions
        if there == wanted:
            self._reached = None
            return
        self._reached = (
            f"{name} has {there} partitions, and ESTUAIRE_HOT_PARTITIONS is {wanted}: make them agree"
            if there
            else f"{name} is not there yet"
        )
        self._stop.wait(0.2)


class Markers:
    """Sends markers and forgets those that the broker did not take."""

    def __init__(self, flow: Flow, outbox: Outbox, partitions: int) -> None:
        self._watermarks = flow.watermarks
        self._outbox = outbox
        self._partitions = partitions

    def ask(self, lane: Lane, through: int) -> None:
        """See to it that a marker which answers for `through` is on its way, soon if not now."""
        marker = self._watermarks.issue(lane, through, int(time.time() * 1000))
        if marker is None:
            return
        emits = [
            Emit(topic(RECEIVED, lane), None, b"", {MARKER: marker.encode(), ORIGIN: str(origin).encode()}, origin)
            for origin in range(self._partitions)
        ]
        try:
            self._outbox.send(emits).add_done_callback(lambda sent: self._settle(marker, sent))
        except (QueueFull, NotKept):
            self._watermarks.lost(marker)

    def _settle(self, marker: str, sent: Future[None]) -> None:
        if sent.exception() is not None:
            self._watermarks.lost(marker)


class Steady:
    """Sends messages in their order, each until the broker has it. For one thread at a time.

    New ones are asked for only when nothing is left, so a broker that takes none makes nothing grow here.
    """

    PATIENCE_SECONDS: Final = 20.0
    """How long a confirmation is waited for before the same is sent again; at the end, a fifth of it."""
    SAID_EVERY_SECONDS: Final = 60.0

    def __init__(self, outbox: Outbox, what: str) -> None:
        """`what` names the messages, in the log and in the metric."""
        self._outbox = outbox
        self._what = what
        self._waiting: deque[Emit] = deque()
        self._lock = Lock()
        self._end = math.inf
        self._sent = time.monotonic()
        self._said = -math.inf
        UNSENT_SECONDS.labels(what).set_function(lambda: time.monotonic() - self._sent)

    def end(self) -> None:
        """From now on, give up soon."""
        self._end = time.monotonic() + self.PATIENCE_SECONDS / 5

    def send(self, take: Callable[[], Iterable[Emit]]) -> None:
        """Send what is left from before, and once nothing is, what is taken now; what cannot be sent is left."""
        with self._lock:
            if self._drain():
                self._waiting.extend(take())
                if self._drain():
                    self._sent = time.monotonic()

    def _drain(self) -> bool:
        while self._waiting:
            if (cause := self._trouble(self._waiting[0])) is not None:
                self._say(cause)
                return False
            self._waiting.popleft()
        if self._said > -math.inf:
            self._said = -math.inf
            log.info("%s are sent again", self._what)
        return True

    def _trouble(self, message: Emit) -> str | None:
        """Why the broker may not have this message; None when it has."""
        try:
            sent = self._outbox.send([message])
            until = time.monotonic() + self.PATIENCE_SECONDS
            while not wait([sent], 0.1).done:
                if time.monotonic() > min(until, self._end):
                    return "no confirmation"
            sent.result()
        except QueueFull:
            return "too much waits for the broker"
        except NotKept as error:
            return str(error) or "no confirmation"
        return None

    def _say(self, cause: str) -> None:
        now = time.monotonic()
        if now >= self._said + self.SAID_EVERY_SECONDS:
            self._said = now
            log.error("%s wait, and are sent later: the broker has not taken them (%s)", self._what, cause)


class MeasuresSender:
    """Sends what the tally has counted to statistics, sealed, once a second.

    A message that may have come through comes again under its number, so that it is counted once. Only what is counted
    within the last second before a crash is lost, and no record with it.
    """

    EVERY_SECONDS: Final = 1.0
    SOURCES: Final = 10
    """In one message: of each there are some thousand counts at the most."""

    def __init__(self, settings: RuntimeSettings, tally: Tally, outbox: Outbox, seal: Seal) -> None:
        self._slot = settings.slot
        self._tally = tally
        self._steady = Steady(outbox, "measures")
        self._seal = seal
        self._writer = secrets.token_bytes(8)
        self._number = 0
        self._stop = Event()

    def run(self) -> None:
        """Send until asked to stop."""
        while not self._stop.wait(self.EVERY_SECONDS):
            self._send()

    def stop(self) -> None:
        """End, after what is left is sent. To be asked before the outbox is."""
        self._steady.end()
        self._stop.set()
        self._send()

    def _send(self) -> None:
        self._steady.send(lambda: [self._message(one) for one in chunks(self._tally.take(), self.SOURCES)])

    def _message(self, counts: Counts) -> Emit:
        self._number += 1
        at = int(time.time() * 1000)
        measures = encode(Measures(self._writer, self._number, counts))
        summary = FlowSummary("ingest", self._slot, at, (), measures=self._seal.seal(measures, measures_associated(at)))
        return Emit(SUMMARIES, f"ingest-{self._slot}".encode(), encode(summary))


class ReceiptsKeeper:
    """Writes this process's receipts down once a second, and reads those of all, from the beginning of their topic."""

    EVERY_SECONDS: Final = 1.0

    def __init__(self, settings: RuntimeSettings, receipts: Receipts, outbox: Outbox) -> None:
        self._settings = settings
        self._receipts = receipts
        self._steady = Steady(outbox, "receipts")
        self._stop = Event()
        self._complete = False
        self._decoder = msgspec.msgpack.Decoder(DailyReceipt)

    def is_complete(self) -> bool:
        """Whether all has been read that was there at the start."""
        return self._complete

    def run(self) -> None:
        """Read and write until asked to stop."""
        topic = WholeTopic(self._settings, RECEIPTS, "ingest-receipts")
        written = time.monotonic()
        try:
            while not self._stop.is_set():
                for message in topic.read():
                    try:
                        self._receipts.heard(self._decoder.decode(message.value() or b""))
                    except msgspec.MsgspecError:
                        log.error("a message of receipts is not one")
                self._complete = topic.is_complete()
                if time.monotonic() > written + self.EVERY_SECONDS:
                    self._write()
                    written = time.monotonic()
        finally:
            topic.close()

    def stop(self) -> None:
        """End, after what is left is written. To be asked before the outbox is."""
        self._steady.end()
        self._stop.set()
        self._write()

    def _write(self) -> None:
        self._steady.send(
            lambda: [
                Emit(RECEIPTS, "\n".join((one.source, one.date, one.writer)).encode(), encode(one))
                for one in self._receipts.changed()
            ]
        )


class SummariesReader:
    """Tells `flow` what the steps report from now on. Assigned, not subscribed: every ingest reads all of it."""

    def __init__(self, settings: RuntimeSettings, flow: Flow) -> None:
        self._settings = settings
        self._flow = flow
        self._stop = Event()
        self._assigned = False
        self._decoder = msgspec.msgpack.Decoder(FlowSummary)

    def readiness(self) -> str | None:
        """None when reading, otherwise why not."""
        return None if self._assigned else f"waiting for {self._settings.topic_prefix}{SUMMARIES}"

    def run(self) -> None:
        """Read until asked to stop."""
        group = f"{self._settings.topic_prefix}ingest-summaries"
        consumer = Consumer(consumer_config(self._settings, group) | {"auto.offset.reset": "latest"})
        try:
            while not self._stop.is_set():
                if not self._assigned:
                    self._assign(consumer)
                    continue
                self._tell(one.value() or b"" for one in consumer.consume(500, 0.2) if one.error() is None)
        finally:
            consumer.close()

    def stop(self) -> None:
        """End soon."""
        self._stop.set()

    def _assign(self, consumer: Consumer) -> None:
        """From the current end, found before any marker is sent: what comes after it is read."""
        name = self._settings.topic_prefix + SUMMARIES
        try:
            partitions = [
                TopicPartition(name, one) for one in consumer.list_topics(name, timeout=2).topics[name].partitions
            ]
            for one in partitions:
                one.offset = consumer.get_watermark_offsets(one, timeout=2)[1]
            consumer.assign(partitions)
            self._assigned = bool(partitions)
        except (KafkaException, TypeError):  # get_watermark_offsets gives None when there is no answer in time
            pass
        if not self._assigned:
            self._stop.wait(0.2)

    def _tell(self, values: Iterable[bytes]) -> None:
        now = time.monotonic()
        for value in values:
            try:
                self._flow.seen(self._decoder.decode(value), now)
            except msgspec.MsgspecError:
                log.error("a message of flow-summaries is not one")
        SOURCES_THROTTLED.set(self._flow.throttle.waiting(now))


class Budget:
    """The bytes of bodies held at one time, as sent and unpacked."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._lock = Lock()

    @contextmanager
    def hold(self) -> Iterator[Hold]:
        """A request's part of it, given back at the end."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            hold.end()

    def move(self, count: int) -> bool:
        """Whether so many more can be held (fewer, if negative); they are from then on."""
        with self._lock:
            if count > 0 and self._held + count > self._most:
                return False
            self._held += count
            return True


class Hold:
    """What one request holds of a budget. Its end may come before a thread that works for it has noticed."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._ended = False
        self._lock = Lock()
        self.count = 0

    def take(self, count: int) -> bool:
        """Whether there is place for so many more bytes; never after the end."""
        with self._lock:
            if self._ended or not self._budget.move(count):
                return False
            self.count += count
            return True

    def give_back(self, count: int) -> None:
        """So many are no longer held."""
        self.take(-count)

    def end(self) -> None:
        """Nothing is held any more, nor will be."""
        with self._lock:
            self._ended = True
            self._budget.move(-self.count)
            self.count = 0
