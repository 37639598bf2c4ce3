"""The loop every step runs in: read a batch, transform it, write it, all of it exactly once in effect.

Read-committed in, one transaction out with the input's offsets inside. A step with a store commits there first
(see `runtime.database`); on any doubt about a Kafka transaction the producer is destroyed and made anew, and the
loop goes back to what the broker has committed.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from opentelemetry.trace import Link, Tracer

from runtime import telemetry
from runtime.database import Place, Progress, ProgressMoved, Store
from runtime.kafka import consumer_config, producer_config
from runtime.messages import (
    DEAD_LETTERS,
    MARKER,
    ORIGIN,
    SUMMARIES,
    TRACEPARENT,
    Emit,
    FlowSummary,
    InvalidMessage,
    Message,
    Outputs,
    Passed,
    Reason,
    RetryLater,
    Step,
)
from runtime.settings import RuntimeSettings

log = logging.getLogger("estuaire.loop")

_TRIES = 3
_PATIENCE = 30.0


class Stopped(Exception):
    """The loop cannot go on by itself; the message is one line for the operator."""


class _GoBack(Exception):
    """Something is in doubt: drop the batch and go back to what is committed."""


@dataclass(frozen=True, slots=True)
class Route:
    """What a step reads, in order of priority, and where markers go on from each input."""

    lanes: Sequence[str]
    forward: Mapping[str, Sequence[str]] = field(default_factory=dict)
    broadcast: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(slots=True)
class _Tally:
    """A partition's recent dead letters of the hub's own making."""

    seen: int = 0
    ours: int = 0
    in_a_row: int = 0

    def too_many(self) -> bool:
        return self.in_a_row >= 100 or (self.seen >= 1000 and self.ours > self.seen // 100)

    def add(self, is_ours: bool) -> None:
        if self.seen >= 10_000:
            self.seen //= 2
            self.ours //= 2
        self.seen += 1
        self.ours += is_ours
        self.in_a_row = self.in_a_row + 1 if is_ours else 0


class Loop:
    """One slot of one step. `run` returns when asked to stop, or raises Stopped."""

    def __init__(
        self,
        name: str,
        settings: RuntimeSettings,
        step: Step,
        route: Route,
        tracer: Tracer,
        store: Store | None = None,
    ) -> None:
        self.name = name
        self.ready = False
        self.stopped: dict[Place, str] = {}
        self._settings = settings
        self._step = step
        self._route = route
        self._store = store
        self._tracer = tracer
        self._identity = f"{settings.topic_prefix}{name}-{settings.slot}"
        self._priority = {settings.topic_prefix + lane: rank for rank, lane in enumerate(route.lanes)}
        self._expected: dict[Place, int | None] = {}
        self._pending: dict[Place, Progress] = {}
        self._tallies: defaultdict[Place, _Tally] = defaultdict(_Tally)
        self._held: list[TopicPartition] = []
        self._assignments = 0
        self._stop = Event()
        self._producer: Producer
        self._consumer: Consumer

    def stop(self) -> None:
        """Ask the loop to end after the batch at hand."""
        self._stop.set()

    def readiness(self) -> str | None:
        """None when the loop is reading all of its partitions, otherwise why not."""
        if self.stopped:
            return "; ".join(
                f"{place.topic}/{place.partition} is stopped: {why}" for place, why in self.stopped.items()
            )
        return None if self.ready else "waiting for partitions"

    def run(self) -> None:
        """Read, transform, write, until asked to stop. Raises Stopped."""
        settings = self._settings
        group = settings.topic_prefix + self.name
        self._consumer = Consumer(consumer_config(settings, group, self._identity))
        self._patiently(self._new_producer)
        self._consumer.subscribe(list(self._priority), on_assign=self._on_assign, on_revoke=self._on_revoke)
        looked = 0.0
        try:
            while not self._stop.is_set():
                try:
                    self._turn()
                except (_GoBack, ProgressMoved) as doubt:
                    log.warning("%s goes back to what is committed: %s", self.name, doubt)
                    self._patiently(self._go_back)
                if time.monotonic() - looked > 2:
                    looked = time.monotonic()
                    self._measure_lag()
        except Stopped:
            if not self._stop.is_set():
                raise
        except KafkaException as error:
            raise Stopped(f"{self.name}: {error.args[0].str()}") from None
        finally:
            self.ready = False
            self._consumer.close()

    def _turn(self) -> None:
        batch = self._read()
        if self._pending:
            self._publish_pending()
        if not batch:
            return
        begun = time.time()
        self._process(batch)
        telemetry.BATCH_SECONDS.labels(self.name).observe(time.time() - begun)

    # reading

    def _read(self) -> list[Message]:
        first = self._consumer.poll(0.2)
        if first is None:
            self._resume()
            return []
        assignment = self._assignments
        wanted = self._settings.batch_size
        raw = [first, *self._consumer.consume(wanted - 1, self._settings.linger_seconds)] if wanted > 1 else [first]
        batch = []
        for one in raw:
            error = one.error()
            if error is None:
                batch.append(_message(one))
            elif error.fatal():
                raise Stopped(f"{self.name}: {error.str()}")
        if assignment != self._assignments:
            raise _GoBack("the partitions changed within a batch")
        self._give_way(batch, full=len(raw) >= wanted)
        return batch

    def _give_way(self, batch: Sequence[Message], *, full: bool) -> None:
        """While a lane fills whole batches, hold back the lanes below it."""
        if not full or not batch:
            self._resume()
        elif not self._held:
            highest = min(self._priority[one.topic] for one in batch)
            self._held = [one for one in self._consumer.assignment() if self._priority[one.topic] > highest]
            self._consumer.pause(self._held)

    def _resume(self) -> None:
        if self._held:
            self._consumer.resume(self._held)
            self._held = []

    # positions

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._patiently(lambda: self._assign(consumer, partitions))
        self.ready = True

    def _on_revoke(self, _consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        self.ready = False
        self._forget()

    def _forget(self) -> None:
        self._assignments += 1
        self._expected.clear()
        self._pending.clear()
        self._held = []

    def _assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Read on from the committed offsets, or further on where the store has already been."""
        self._forget()
        committed = consumer.committed(partitions, timeout=_PATIENCE) if partitions else []
        places = [Place(one.topic, one.partition) for one in committed]
        stored = self._store.load(places) if self._store else {}
        starts = []
        for place, one in zip(places, committed, strict=True):
            at = one.offset if one.offset >= 0 else None
            progress = stored.get(place)
            if self._store:
                have = progress.next_offset if progress else None
                if at is not None and (have or 0) < at:
                    self._refuse_old_database(place, have or 0, at)
                elif progress and progress.next_offset > (at or 0):
                    self._pending[place] = progress
                at = have
            self._expected[place] = at
            starts.append(TopicPartition(*place, OFFSET_BEGINNING if at is None else at))
        consumer.assign([one for one in starts if Place(one.topic, one.partition) not in self.stopped])

    def _refuse_old_database(self, place: Place, have: int, committed: int) -> None:
        if not self._settings.rewind:
            raise Stopped(
                f"{self.name}: the database is older than the broker's offsets"
                f" ({place.topic}/{place.partition}: {have} against {committed}). Restore a newer backup,"
                " or set ESTUAIRE_REWIND=true to read again from where the database is."
            )
        log.warning("%s rewinds %s/%s from %s to %s", self.name, place.topic, place.partition, committed, have)

    def _go_back(self) -> None:
        self._new_producer()
        self._assign(self._consumer, self._consumer.assignment())

    def _new_producer(self) -> None:
        """Make the producer anew: what its predecessor left open is settled by the broker first."""
        if hasattr(self, "_producer"):
            telemetry.PRODUCER_RESETS.labels(self.name).inc()
            self._producer.purge()
        self._producer = Producer(producer_config(self._settings, self._identity))
        self._producer.init_transactions(_PATIENCE)

    # processing

    def _process(self, batch: Sequence[Message]) -> None:
        """One batch, with the failure rules: an error that names no record is retried, then the batch is halved."""
        for attempt in range(1, _TRIES + 1):
            try:
                self._patiently(lambda: self._attempt(batch))
            except (_GoBack, ProgressMoved, Stopped):
                raise
            except Exception as error:
                log.error(
                    "%s failed on %d messages, try %d: %s",
                    self.name,
                    len(batch),
                    attempt,
                    telemetry.where(error),
                )
                self._wait(0.05 * 4**attempt)
            else:
                return
        if len(batch) == 1:
            culprit = InvalidMessage(Reason.INTERNAL, "the step fails on this message alone")
            self._patiently(lambda: self._attempt(batch, dead=culprit))
            return
        half = len(batch) // 2
        self._process(batch[:half])
        self._process(batch[half:])

    def _attempt(self, batch: Sequence[Message], dead: InvalidMessage | None = None) -> None:
        begun = time.time()
        records = [one for one in batch if MARKER not in one.headers]
        next_offsets: dict[Place, int] = {Place(one.topic, one.partition): one.offset + 1 for one in batch}
        if dead is None and records:
            self._step.prepare(records)
        with self._store.transaction() if self._store else nullcontext():
            if dead is None:
                outputs = self._step.handle(records) if records else Outputs()
            else:
                outputs = Outputs(dead=[(batch[0], dead)])
            tallies = self._keep_limits(outputs, records)
            emits = self._finish(batch, outputs, begun)
            if self._store:
                for place, next_offset in next_offsets.items():
                    mine = [emit for cause, emit in emits if Place(cause.topic, cause.partition) == place]
                    self._store.advance(place, self._expected[place], next_offset, mine)
        self._publish((emit for _, emit in emits), next_offsets)
        self._tallies.update(tallies)
        self._account(batch, outputs, len(emits))

    def _publish_pending(self) -> None:
        """Publish what the store holds of a batch that never reached the broker."""
        emits = [emit for progress in self._pending.values() for emit in progress.outputs]
        self._publish(emits, {place: progress.next_offset for place, progress in self._pending.items()})
        self._pending.clear()

    def _publish(self, emits: Iterable[Emit], next_offsets: Mapping[Place, int]) -> None:
        producer, prefix = self._producer, self._settings.topic_prefix
        try:
            producer.begin_transaction()
            for emit in emits:
                options: dict[str, Any] = {"partition": emit.partition} if emit.partition >= 0 else {}
                while True:
                    try:
                        producer.produce(
                            prefix + emit.topic,
                            emit.value,
                            emit.key,
                            headers=list(emit.headers.items()),
                            **options,
                        )
                        break
                    except BufferError:
                        producer.poll(0.1)
            offsets = [TopicPartition(topic, number, at) for (topic, number), at in next_offsets.items()]
            producer.send_offsets_to_transaction(offsets, self._consumer.consumer_group_metadata(), _PATIENCE)
            producer.commit_transaction(_PATIENCE)
        except KafkaException as error:
            reason = error.args[0]
            if reason.code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED):
                raise Stopped(f"{self.name}: another process runs as {self._identity}") from None
            raise _GoBack(f"transaction in doubt ({reason.name()})") from None
        for place, at in next_offsets.items():
            self._expected[place] = at

    def _finish(self, batch: Sequence[Message], outputs: Outputs, begun: float) -> list[tuple[Message, Emit]]:
        """All that the batch writes: the step's outputs with their traces, dead letters, markers, the summary."""
        emits = [(cause, self._traced(cause, emit, begun)) for cause, emit in outputs.emits]
        emits += [(cause, self._dead_letter(cause, why, begun)) for cause, why in outputs.dead]
        passed = []
        for one in batch:
            if MARKER in one.headers:
                emits += [(one, emit) for emit in self._forwarded(one)]
                origin = int(one.headers[ORIGIN])
                passed.append(Passed(one.headers[MARKER].decode(), self._plain(one.topic), one.partition, origin))
        summary = self._summarise(batch, outputs, tuple(passed), begun)
        key = f"{self.name}-{self._settings.slot}".encode()
        emits.append((batch[0], Emit(SUMMARIES, key, msgspec.msgpack.encode(summary))))
        return emits

    def _traced(self, cause: Message, emit: Emit, begun: float) -> Emit:
        if emit.trace == "none":
            return emit
        context = telemetry.read_traceparent(cause.headers.get(TRACEPARENT))
        if context is None or not context.trace_flags.sampled:
            return emit
        mine = telemetry.record_span(self._tracer, f"{self.name} record", context, begun)
        if emit.trace == "fresh":
            mine = telemetry.record_span(self._tracer, f"{self.name} view", mine, begun, fresh=True)
        emit.headers = {**emit.headers, TRACEPARENT: telemetry.write_traceparent(mine).encode()}
        return emit

    def _dead_letter(self, cause: Message, why: InvalidMessage, begun: float) -> Emit:
        telemetry.record_span(
            self._tracer,
            f"{self.name} dead letter",
            telemetry.read_traceparent(cause.headers.get(TRACEPARENT)),
            begun,
            error=why.reason,
        )
        plain = self._plain(cause.topic)
        coordinates = {
            "dlq_step": self.name,
            "dlq_reason": why.reason,
            "dlq_detail": why.detail,
            "dlq_topic": plain,
            "dlq_partition": str(cause.partition),
            "dlq_offset": str(cause.offset),
            "dlq_timestamp": str(cause.timestamp),
        }
        headers = {**cause.headers, **{name: text.encode() for name, text in coordinates.items()}}
        return Emit(plain.removesuffix("-backfill") + DEAD_LETTERS, cause.key, cause.value, headers)

    def _forwarded(self, marker: Message) -> Iterable[Emit]:
        topic = self._plain(marker.topic)
        headers = dict(marker.headers)
        for target in self._route.forward.get(topic, ()):
            yield Emit(target, None, b"", headers, marker.partition, "none")
        for target in self._route.broadcast.get(topic, ()):
            for partition in range(self._settings.hot_partitions):
                yield Emit(target, None, b"", headers, partition, "none")

    def _summarise(
        self, batch: Sequence[Message], outputs: Outputs, passed: tuple[Passed, ...], begun: float
    ) -> FlowSummary:
        spans: dict[Place, tuple[int, int]] = {}
        for one in batch:
            place = Place(one.topic, one.partition)
            spans[place] = (spans.get(place, (one.offset, 0))[0], one.offset + 1)
        counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for (source, verdict), count in outputs.counts.items():
            counts[source][verdict] = count
        for cause, why in outputs.dead:
            of_source = counts[self._step.origin(cause)[0]]
            of_source[f"dead_lettered:{why.reason}"] = of_source.get(f"dead_lettered:{why.reason}", 0) + 1
        inputs = tuple((self._plain(topic), number, *span) for (topic, number), span in spans.items())
        now = time.time()
        return FlowSummary(
            self.name,
            self._settings.slot,
            int(now * 1000),
            inputs,
            dict(counts),
            passed,
            round(now - begun, 4),
        )

    # limits, patience, figures

    def _keep_limits(self, outputs: Outputs, records: Sequence[Message]) -> dict[Place, _Tally]:
        """The tallies after this batch. A partition in which the hub spoils too many is stopped, unread."""
        ours = {id(cause) for cause, why in outputs.dead if why.reason.ours}
        tallies: dict[Place, _Tally] = {}
        for one in records:
            place = Place(one.topic, one.partition)
            tally = tallies.get(place) or tallies.setdefault(place, replace(self._tallies[place]))
            tally.add(id(one) in ours)
            if tally.too_many():
                self.stopped[place] = "too many dead letters of the hub's own making"
                telemetry.PARTITIONS_STOPPED.labels(self.name).set(len(self.stopped))
                raise _GoBack(f"{place.topic}/{place.partition} is stopped: {self.stopped[place]}")
        return tallies

    def _patiently(self, act: Callable[[], None]) -> None:
        """Do it, again and again while what it needs is away; nothing is committed meanwhile."""
        delay = 0.05
        while True:
            try:
                act()
                return
            except RetryLater as away:
                log.warning("%s waits: %s", self.name, away)
            except KafkaException as error:
                if error.args[0].fatal():
                    raise Stopped(f"{self.name}: {error.args[0].str()}") from None
                log.warning("%s waits for the broker: %s", self.name, error.args[0].name())
            self._wait(delay)
            delay = min(delay * 2, 5.0)

    def _wait(self, seconds: float) -> None:
        """Wait without losing the partitions: the consumer is polled, paused."""
        deadline = time.monotonic() + seconds
        assigned = self._consumer.assignment()
        if assigned:
            self._consumer.pause(assigned)
        assignment = self._assignments
        while (left := deadline - time.monotonic()) > 0 and not self._stop.is_set():
            if not assigned:
                self._stop.wait(left)
            elif self._consumer.poll(min(left, 0.5)) is not None or assignment != self._assignments:
                raise _GoBack("the partitions changed while waiting")
        if self._stop.is_set():
            raise Stopped(f"{self.name} was asked to stop while it waited")
        if assigned:
            self._consumer.resume(assigned)
            self._held = []

    def _account(self, batch: Sequence[Message], outputs: Outputs, written: int) -> None:
        now = int(time.time() * 1000)
        for topic, count in Counter(one.topic for one in batch).items():
            telemetry.MESSAGES_READ.labels(self.name, self._plain(topic)).inc(count)
        telemetry.MESSAGES_WRITTEN.labels(self.name).inc(written)
        for (source, verdict), count in outputs.counts.items():
            telemetry.RECORDS.labels(self.name, source, verdict).inc(count)
        for _, why in outputs.dead:
            telemetry.DEAD_LETTERS.labels(self.name, why.reason).inc()
        ages: defaultdict[str, list[int]] = defaultdict(list)
        links = []
        for one in batch:
            if MARKER in one.headers:
                continue
            source, accepted = self._step.origin(one)
            if accepted:
                ages[source].append(now - accepted)
            context = telemetry.read_traceparent(one.headers.get(TRACEPARENT))
            if context:
                links.append(Link(context))
        for source, values in ages.items():
            histogram = telemetry.AGE_SECONDS.labels(self.name, source)
            for value in values:
                histogram.observe(value / 1000)
        with self._tracer.start_as_current_span(f"{self.name} batch", links=links[:128]) as span:
            span.set_attribute("messages", len(batch))

    def _measure_lag(self) -> None:
        for one in self._consumer.position(self._consumer.assignment()):
            low, high = self._consumer.get_watermark_offsets(one, cached=True)
            at = one.offset if one.offset >= 0 else low
            if high >= 0:
                telemetry.LAG.labels(self.name, self._plain(one.topic), str(one.partition)).set(max(0, high - at))

    def _plain(self, topic: str) -> str:
        return topic.removeprefix(self._settings.topic_prefix)


def _message(raw: Any) -> Message:
    return Message(
        raw.topic(),
        raw.partition(),
        raw.offset(),
        raw.timestamp()[1],
        raw.key(),
        raw.value() or b"",
        dict(raw.headers() or ()),
    )
