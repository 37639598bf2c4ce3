"""The loop every step runs in: read a batch, transform it, write it, all of it exactly once in effect.

Read-committed in, one transaction out with the input's offsets inside. A step with a store commits there first
(see `runtime.database`). On any doubt there is one way out: let go of the partitions, wait a little while still a
member of the group, make the producer anew if a transaction was open, and settle on what is committed. The same way
is taken when partitions are assigned, so nothing is done inside the consumer's callbacks.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka import Message as RawMessage
from opentelemetry.trace import Tracer

from runtime import telemetry
from runtime.batch import Batch, Report, Route, by_place
from runtime.database import Progress, ProgressMoved, Store
from runtime.kafka import LARGEST, consumer_config, producer_config
from runtime.messages import Emit, InvalidMessage, Message, Outputs, Place, Reason, RetryLater, Step
from runtime.settings import RuntimeSettings

__all__ = ["Loop", "Route", "Stopped"]

log = logging.getLogger("estuaire.loop")

_TRIES = 3
_PATIENCE = 10.0
_SHORTEST, _LONGEST = 0.05, 5.0
_FENCED = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED)


class Stopped(Exception):
    """The loop cannot go on by itself; the message is one line for the operator."""


class _GoBack(Exception):
    """Something is in doubt: drop the batch and go back to what is committed, after `seconds` at least."""

    def __init__(self, why: str, seconds: float = 0.0) -> None:
        super().__init__(why)
        self.seconds = seconds


class _Done(NamedTuple):
    """A batch that is transformed, and stored if the step has a store, but not yet published."""

    batch: Batch
    outputs: Outputs
    emits: list[Emit]
    tallies: Mapping[Place, Tally]


@dataclass(slots=True)
class Tally:
    """A partition's recent dead letters of the hub's own making."""

    seen: int = 0
    ours: int = 0
    in_a_row: int = 0

    def too_many(self) -> bool:
        """100 in a row, or past 1 % of at least 1,000."""
        return self.in_a_row >= 100 or (self.seen >= 1000 and self.ours * 100 > self.seen)

    def add(self, is_ours: bool, count: int = 1) -> None:
        """Count messages; of more than 10,000 the older ones weigh half."""
        if self.seen >= 10_000:
            self.seen //= 2
            self.ours //= 2
        self.seen += count
        self.ours += count * is_ours
        self.in_a_row = self.in_a_row + count if is_ours else 0


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
        self.stopped: dict[Place, str] = {}
        self._settings = settings
        self._step = step
        self._store = store
        self._report = Report(name, settings, step, route, tracer)
        self._identity = f"{settings.topic_prefix}{name}-{settings.slot}"
        self._ranks = {settings.topic_prefix + lane: rank for rank, lane in enumerate(route.lanes)}
        self._tallies: defaultdict[Place, Tally] = defaultdict(Tally)
        self._assigned: list[Place] | None = None
        self._settled = False
        self._next: dict[Place, int | None] = {}
        self._measured: set[Place] = set()
        self._published: dict[Place, int] = {}
        self._held: list[TopicPartition] = []
        self._trouble: str | None = "waiting for partitions"
        self._stop = Event()
        self._producer: Producer | None = None
        self._consumer: Consumer
        for cause in ("away", "progress", "doubt"):  # from 0 on, as dead letters
            telemetry.WENT_BACK.labels(name, cause)
        telemetry.PRODUCER_RESETS.labels(name)

    def stop(self) -> None:
        """Ask the loop to end after the batch at hand."""
        self._stop.set()

    def readiness(self) -> str | None:
        """None when the loop is reading all of its partitions, otherwise why not."""
        stopped = [f"{place.topic}/{place.partition} is stopped: {why}" for place, why in self.stopped.items()]
        return "; ".join([self._trouble] if self._trouble else stopped) or None

    def run(self) -> None:
        """Read, transform, write, until asked to stop. Raises Stopped."""
        group = self._settings.topic_prefix + self.name
        self._consumer = Consumer(consumer_config(self._settings, group, self._identity))
        delay, looked = _SHORTEST, 0.0
        try:
            self._consumer.subscribe(list(self._ranks), on_assign=self._on_assign, on_revoke=self._on_revoke)
            while not self._stop.is_set():
                try:
                    self._settle()
                    if self._turn():
                        delay = _SHORTEST
                    if time.monotonic() - looked > 2:
                        self._forget_published()
                except (_GoBack, ProgressMoved, RetryLater) as doubt:
                    log.warning("%s goes back to what is committed: %s", self.name, doubt)
                    telemetry.WENT_BACK.labels(self.name, _cause(doubt)).inc()
                    self._let_go(str(doubt))
                    self._wait(max(delay, getattr(doubt, "seconds", 0.0)))
                    delay = min(delay * 2, _LONGEST)
                if time.monotonic() - looked > 2:
                    looked = time.monotonic()
                    self._measure_lag()
                    telemetry.TURNED.labels(self.name).set_to_current_time()
        except KafkaException as error:
            raise Stopped(f"{self.name}: {error.args[0].str()}") from None
        finally:
            self._consumer.close()
            self._trouble = "not running"

    def _turn(self) -> bool:
        messages = self._read()
        if messages:
            self._process(messages, _TRIES)
        return bool(messages)

    # reading

    def _read(self) -> list[Message]:
        """The next batch: whatever is there, waiting a little for more; empty when the partitions change meanwhile."""
        size = self._settings.batch_size
        first = self._consumer.poll(0.02 if self._held else 0.2)
        if first is None:
            self._resume()
            return []
        rest = self._consumer.consume(size - 1, self._settings.linger_seconds) if size > 1 else []
        messages = [message_from(one) for one in (first, *rest) if self._is_message(one)]
        if not self._settled:
            return []
        self._give_way(Counter(self._ranks[one.topic] for one in messages))
        return messages

    def _is_message(self, polled: RawMessage) -> bool:
        """Whether it is one. What else the consumer has to say is logged, or ends the loop."""
        error = polled.error()
        if error is None:
            return True
        if error.fatal() or error.code() == KafkaError._FATAL:
            fenced = "same group.instance.id" in error.str()
            why = f"another process runs as {self._identity}" if fenced else error.str()
            raise Stopped(f"{self.name}: {why}")
        log.warning("%s: %s", self.name, error.str())
        if not self._settled:
            self._trouble = f"waiting for partitions: {error.str()}"
        return False

    def _give_way(self, ranks: Mapping[int, int]) -> None:
        """While a lane is busy, hold back the lanes below it."""
        busy = busy_lane(ranks, self._settings.batch_size)
        if busy is None:
            self._resume()
        elif not self._held:
            self._held = [one for one in self._consumer.assignment() if self._ranks[one.topic] > busy]
            self._consumer.pause(self._held)

    def _resume(self) -> None:
        if self._held:
            self._consumer.resume(self._held)
            self._held = []

    # positions

    def _on_assign(self, consumer: Consumer, partitions: Iterable[TopicPartition]) -> None:
        self._assigned = [Place(one.topic, one.partition) for one in partitions]
        self._settled, self._trouble = False, "taking over partitions"
        consumer.assign([])

    def _on_revoke(self, consumer: Consumer, _partitions: Iterable[TopicPartition]) -> None:
        self._assigned = None
        self._settled, self._trouble = False, "waiting for partitions"
        consumer.unassign()

    def _let_go(self, why: str) -> None:
        """Read nothing more until settled again."""
        self._settled, self._trouble = False, why
        self._consumer.unassign()

    def _settle(self) -> None:
        """Read on from where the broker is, or from where the store is if that is further on."""
        if self._producer is None:
            self._new_producer()
        if self._settled or self._assigned is None:
            return
        self.stopped = {place: why for place, why in self.stopped.items() if place in self._assigned}
        telemetry.PARTITIONS_STOPPED.labels(self.name).set(len(self.stopped))
        places = [place for place in self._assigned if place not in self.stopped]
        self._next, self._published = dict(self._committed(places)), {}
        if self._store:
            self._meet(self._store)
            self._catch_up(self._store.load(places))
        starts = [TopicPartition(*place, OFFSET_BEGINNING if at is None else at) for place, at in self._next.items()]
        self._consumer.assign(starts)
        self._consumer.resume(starts)
        self._held = []
        self._settled, self._trouble = True, None

    def _committed(self, places: Sequence[Place]) -> Iterable[tuple[Place, int | None]]:
        """The broker's offsets; waits for the end of a transaction that another process left open (KIP-447)."""
        wanted = [TopicPartition(*place) for place in places]
        for one in self._insist(self._consumer.committed, wanted) if wanted else ():
            if one.error is not None:
                raise _GoBack(one.error.str())
            yield Place(one.topic, one.partition), one.offset if one.offset >= 0 else None

    def _meet(self, store: Store) -> None:
        """Progress is offsets of one log: of another broker's, they would leave out what is there.

        What was stored and is not published yet goes to this one, but for topics (views) that are not made there yet:
        they are filled from the store's records once they are.
        """
        cluster = self._insist(self._consumer.list_topics, next(iter(self._ranks))).cluster_id
        if not cluster or store.meet(cluster):
            return
        if not self._settings.rewind:
            raise Stopped(
                f"{self.name}: the database is about the log of another broker than this one ({cluster}). If that one"
                " is lost for good, set ESTUAIRE_REWIND=true to begin at the beginning of this one's."
            )
        log.warning("%s begins at the beginning of the log of another broker", self.name)
        topics = self._insist(self._consumer.list_topics, None).topics
        with store.begin_anew(cluster) as left:
            self._publish((one for one in left if self._settings.topic_prefix + one.topic in topics), {})

    def _catch_up(self, stored: Mapping[Place, Progress]) -> None:
        """Publish what the store holds of a batch that never reached the broker, and go on from the store."""
        pending = {}
        for place, committed in self._next.items():
            progress = stored.get(place)
            have = progress.next_offset if progress else None
            if committed is not None and (have or 0) < committed:
                self._refuse_old_database(place, have or 0, committed)
            elif progress and progress.next_offset > (committed or 0):
                pending[place] = progress
            self._next[place] = have
        if pending:
            emits = [emit for progress in pending.values() for emit in progress.outputs]
            self._publish(emits, {place: progress.next_offset for place, progress in pending.items()})
        self._published = {place: progress.next_offset for place, progress in stored.items()}

    def _refuse_old_database(self, place: Place, have: int, committed: int) -> None:
        if not self._settings.rewind:
            raise Stopped(
                f"{self.name}: the database is older than the broker's offsets"
                f" ({place.topic}/{place.partition}: {have} against {committed}). Restore a newer backup,"
                " or set ESTUAIRE_REWIND=true to read again from where the database is."
            )
        log.warning("%s rewinds %s/%s from %s to %s", self.name, place.topic, place.partition, committed, have)

    # processing

    def _process(self, messages: Sequence[Message], tries: int) -> None:
        """One batch, with the failure rules: an error that names no record is retried, then the batch is halved."""
        batch = Batch(messages)
        for attempt in range(1, tries + 1):
            try:
                done = self._transform(batch)
            except (_GoBack, ProgressMoved):
                raise
            except Exception as error:
                if isinstance(error, RetryLater):
                    if attempt == tries:
                        raise
                else:
                    place = telemetry.where(error)
                    log.error("%s failed on %d messages, try %d: %s", self.name, len(batch), attempt, place)
                if attempt < tries and self._stop.wait(_SHORTEST * 2**attempt):
                    raise _GoBack("asked to stop") from None
            else:
                self._commit(done)
                return
        if len(batch) == 1:
            why = InvalidMessage(Reason.INTERNAL, "the step fails on this message alone")
            self._commit(self._transform(batch, Outputs(dead=[(messages[0], why)])))
            return
        half = len(batch) // 2
        self._process(messages[:half], tries=1)
        self._process(messages[half:], tries=1)

    def _transform(self, batch: Batch, outputs: Outputs | None = None) -> _Done:
        """The step's outputs (or those given) and the loop's own, stored with the progress if there is a store."""
        if outputs is None and batch.records:
            self._step.prepare(batch.records)
        with self._store.transaction() if self._store else nullcontext():
            if outputs is None:
                outputs = self._step.handle(batch.records) if batch.records else Outputs()
            if any(emit.value and len(emit.value) > LARGEST for _, emit in outputs.emits):
                raise ValueError("an output is larger than the broker takes")
            tallies = self._keep_limits(batch, outputs)
            ends = batch.next_offsets()
            emits = self._report.complete(batch, outputs, self._waiting(ends))
            if self._store:
                mine = by_place(emits)
                for place, next_offset in ends.items():
                    self._store.advance(place, self._next[place], next_offset, mine.get(place, ()))
        return _Done(batch, outputs, [emit for _, emit in emits], tallies)

    def _commit(self, done: _Done) -> None:
        self._publish(done.emits, done.batch.next_offsets())
        self._published.update(done.batch.next_offsets())
        self._tallies.update(done.tallies)
        self._report.account(done.batch, done.outputs, len(done.emits))

    def _keep_limits(self, batch: Batch, outputs: Outputs) -> Mapping[Place, Tally]:
        """The tallies after this batch. A partition in which the hub spoils too many is stopped, unread."""
        spoilt = {id(cause) for cause, why in outputs.dead if why.reason.ours}
        tallies = {place: replace(self._tallies[place]) for place in batch.places}
        if not spoilt:
            for place, messages in batch.places.items():
                tallies[place].add(False, len(messages))
            return tallies
        for one in batch.records:
            tally = tallies[one.place]
            tally.add(id(one) in spoilt)
            if tally.too_many():
                self.stopped[one.place] = "too many dead letters of the hub's own making"
                raise _GoBack(f"{one.topic}/{one.partition} is stopped: {self.stopped[one.place]}")
        return tallies

    def _forget_published(self) -> None:
        """Keep no outputs in the store that the broker has: what is erased must not be left in them."""
        if self._store and self._settled and self._published:
            self._store.clear(self._published)
            self._published = {}

    # the producer

    def _new_producer(self) -> None:
        """Make the producer: what a predecessor of the same name left open is settled by the broker first."""
        producer = Producer(producer_config(self._settings, self._identity))
        self._insist(producer.init_transactions)
        self._producer = producer

    def _publish(self, emits: Iterable[Emit], next_offsets: Mapping[Place, int]) -> None:
        """Outputs and offsets in one transaction. We never abort: a new producer settles what this one left open."""
        producer, self._producer = self._producer, None
        assert producer is not None
        offsets = [TopicPartition(*place, at) for place, at in next_offsets.items()]
        member = self._consumer.consumer_group_metadata()

        def end() -> None:
            producer.send_offsets_to_transaction(offsets, member, _PATIENCE)
            producer.commit_transaction(_PATIENCE)

        try:
            producer.begin_transaction()
            for emit in emits:
                self._produce(producer, emit)
            self._bounded(end)
        except (KafkaException, _GoBack) as error:
            telemetry.PRODUCER_RESETS.labels(self.name).inc()
            raise error if isinstance(error, _GoBack) else _verdict(error) from None
        self._producer = producer
        self._next.update(next_offsets)

    def _produce(self, producer: Producer, emit: Emit) -> None:
        options: dict[str, Any] = {"headers": emit.headers}
        if emit.partition >= 0:
            options["partition"] = emit.partition
        if emit.timestamp:
            options["timestamp"] = emit.timestamp
        while True:
            try:
                producer.produce(self._settings.topic_prefix + emit.topic, emit.value, emit.key, **options)
                return
            except BufferError:
                producer.poll(0.1)

    def _bounded(self, call: Callable[[], None]) -> None:
        """Call it in a thread that is left behind when it hangs, or when we are asked to stop and it takes long.

        librdkafka heeds no timeout while it looks for the group's coordinator, and after a broker's restart it may look
        for ever (confluentinc/librdkafka#5456, #5511).
        """
        answers: SimpleQueue[BaseException | None] = SimpleQueue()
        Thread(target=lambda: answers.put(_outcome(call)), daemon=True, name="transaction").start()
        until = time.monotonic() + 2 * _PATIENCE
        while True:
            with suppress(Empty):
                outcome = answers.get(timeout=1.0)
                if outcome is not None:
                    raise outcome
                return
            if self._stop.is_set() or time.monotonic() > until:
                raise _GoBack("the transaction does not end")

    def _insist(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call it with a timeout of a second, again and again, so that a request to stop is heard meanwhile."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                return call(*arguments, 1.0)
            except KafkaException as error:
                again = error.args[0].retriable() or error.args[0].code() == KafkaError._TIMED_OUT
                if not again or self._stop.is_set() or time.monotonic() > until:
                    raise _verdict(error) from None

    # patience, figures

    def _wait(self, seconds: float) -> None:
        """Stay a member of the group, with nothing assigned."""
        until = time.monotonic() + seconds
        while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
            polled = self._consumer.poll(min(left, 0.2))
            if polled is not None:
                self._is_message(polled)

    def _measure_lag(self) -> None:
        for place in self._measured - self._next.keys():  # another's by now: who adds up would count it twice
            telemetry.LAG.remove(self.name, self._report.plain(place.topic), str(place.partition))
        self._measured &= self._next.keys()
        for place, left in self._waiting({}).items():
            telemetry.LAG.labels(self.name, self._report.plain(place.topic), str(place.partition)).set(left)
            self._measured.add(place)

    def _waiting(self, ends: Mapping[Place, int]) -> dict[Place, int]:
        """How many messages are left to read, once these ends are reached, as the broker's last answers have it.

        One offset is none: a transaction ends with a mark that takes one, and no reader ever gets it.
        """
        found = {}
        for place, next_offset in self._next.items():
            with suppress(KafkaException):
                low, high = self._consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
                if high >= 0:
                    at = ends.get(place, next_offset)
                    left = high - (low if at is None else at)
                    found[place] = left if left > 1 else 0
        return found


def _cause(doubt: Exception) -> str:
    return "away" if isinstance(doubt, RetryLater) else "progress" if isinstance(doubt, ProgressMoved) else "doubt"


def _outcome(call: Callable[[], None]) -> BaseException | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def _verdict(error: KafkaException) -> _GoBack:
    """What a broker's error means to the loop.

    A fence is either another process of our name, or a transaction that timed out while we were suspended or the
    broker was away. The group knows which: given two heartbeats' time, it ends the membership of the older of two.
    """
    reason = error.args[0]
    return _GoBack("fenced", 7.0) if reason.code() in _FENCED else _GoBack(f"{reason.name()}: {reason.str()}")


def busy_lane(ranks: Mapping[int, int], size: int) -> int | None:
    """The lane that, with those above it, fills at least a quarter of a batch of this size, if there is one.

    A backlog does, even where the broker's answers mix it with another; a trickle does not.
    """
    seen = 0
    for rank in sorted(ranks):
        seen += ranks[rank]
        if seen * 4 >= size:
            return rank
    return None


def message_from(raw: Any) -> Message:
    """A message as the client gives it, as a step reads it."""
    headers = dict(raw.headers() or ())
    if None in headers.values():  # a header without a value is as good as missing
        headers = {name: value for name, value in headers.items() if value is not None}
    return Message(
        raw.topic(), raw.partition(), raw.offset(), raw.timestamp()[1], raw.key(), raw.value() or b"", headers
    )
