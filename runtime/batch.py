"""One batch: what was read together, what the loop adds to the step's outputs, and what it tells operators."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from opentelemetry.trace import Link, Tracer

from runtime import telemetry
from runtime.messages import (
    BACKFILL,
    DEAD_LETTERS,
    MARKER,
    ORIGIN,
    SUMMARIES,
    TRACEPARENT,
    TYPE,
    Emit,
    FlowSummary,
    InvalidMessage,
    Message,
    Outputs,
    Passed,
    Place,
    Reason,
    Step,
)
from runtime.settings import RuntimeSettings

_LINKS = 128
_EVERY = 16
"""Of so many records the age of one is shown: quantiles need no more than a sample."""


@dataclass(frozen=True, slots=True)
class Route:
    """What a step reads, in order of priority, and where markers go on from each input."""

    lanes: Sequence[str]
    forward: Mapping[str, Sequence[str]] = field(default_factory=dict)
    broadcast: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Batch:
    """Messages that were read together: all of them by partition, the records among them, and the markers."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.begun = time.time()
        self.records: list[Message] = []
        self.markers: list[tuple[Message, Passed]] = []
        self.places: defaultdict[Place, list[Message]] = defaultdict(list)
        for message in messages:
            self.places[message.place].append(message)
            passed = _marker(message) if MARKER in message.headers else None
            if passed:
                self.markers.append((message, passed))
            else:
                self.records.append(message)

    def __len__(self) -> int:
        return len(self.messages)

    def next_offsets(self) -> dict[Place, int]:
        """Where each partition goes on after this batch."""
        return {place: messages[-1].offset + 1 for place, messages in self.places.items()}


class Report:
    """What a batch writes beside the step's own outputs (dead letters, markers, a summary), and its figures."""

    def __init__(self, name: str, settings: RuntimeSettings, step: Step, route: Route, tracer: Tracer) -> None:
        self._name = name
        self._settings = settings
        self._step = step
        self._route = route
        self._tracer = tracer
        self._skipped = 0
        """Of the next batch's records: so one weighs the same in a small batch and in a large one."""
        for reason in Reason:  # from 0 on, or the first one is no increase to whoever watches
            telemetry.DEAD_LETTERS.labels(name, reason)

    def complete(
        self, batch: Batch, outputs: Outputs, waiting: Mapping[Place, int] | None = None
    ) -> list[tuple[Message, Emit]]:
        """All that the batch writes, in order: outputs with their traces, dead letters, markers, the summary.

        `waiting` is how many messages are left to read after it.
        """
        emits = [(cause, self._traced(cause, emit, batch.begun)) for cause, emit in outputs.emits]
        emits += [(cause, self._dead_letter(cause, why, batch.begun)) for cause, why in outputs.dead]
        emits += [(marker, emit) for marker, _ in batch.markers for emit in self._forwarded(marker)]
        summary = msgspec.msgpack.encode(self._summary(batch, outputs, waiting or {}))
        key = f"{self._name}-{self._settings.slot}".encode()
        return [*emits, (batch.messages[0], Emit(SUMMARIES, key, summary))]

    def account(self, batch: Batch, outputs: Outputs, written: int) -> None:
        """Count a batch that is committed."""
        now = int(time.time() * 1000)
        for place, messages in batch.places.items():
            telemetry.MESSAGES_READ.labels(self._name, self.plain(place.topic)).inc(len(messages))
        telemetry.MESSAGES_WRITTEN.labels(self._name).inc(written)
        for (source, verdict), count in outputs.counts.items():
            telemetry.RECORDS.labels(self._name, source, verdict).inc(count)
            telemetry.AGE_SECONDS.labels(self._name, source)  # from 0 on, likewise
        for _, why in outputs.dead:
            telemetry.DEAD_LETTERS.labels(self._name, why.reason).inc()
        for one in batch.records[self._skipped :: _EVERY]:
            source, accepted = self._origin(one)
            if accepted:
                telemetry.AGE_SECONDS.labels(self._name, source).observe((now - accepted) / 1000)
        self._skipped = (self._skipped - len(batch.records)) % _EVERY
        carried = (parent for one in batch.records if (parent := one.headers.get(TRACEPARENT)))
        # those that are followed come first: of the others there are no spans, unless they end as dead letters
        first = sorted(carried, key=lambda parent: parent[-1:] not in b"13579bdf")[:_LINKS]
        links = [Link(context) for context in map(telemetry.read_traceparent, first) if context]
        began = int(batch.begun * 1e9)
        self._tracer.start_span(
            f"{self._name} batch", links=links, start_time=began, attributes={"messages": len(batch)}
        ).end()
        telemetry.BATCH_SECONDS.labels(self._name).observe(time.time() - batch.begun)

    def plain(self, topic: str) -> str:
        """A topic's name without the deployment's prefix."""
        return topic.removeprefix(self._settings.topic_prefix)

    def _traced(self, cause: Message, emit: Emit, begun: float) -> Emit:
        if emit.trace == "none":
            return emit
        context = telemetry.read_traceparent(cause.headers.get(TRACEPARENT))
        followed = context is not None and context.trace_flags.sampled
        if followed:
            context = telemetry.record_span(self._tracer, f"{self._name} record", context, begun)
        if emit.trace == "fresh":
            if followed:
                context = telemetry.record_span(self._tracer, f"{self._name} view", context, begun, fresh=True)
            text = telemetry.write_traceparent(context if followed and context else telemetry.random_context(), "00")
        elif followed and context is not None:
            text = telemetry.write_traceparent(context)
        else:
            return emit
        emit.headers = {**emit.headers, TRACEPARENT: text.encode()}
        return emit

    def _dead_letter(self, cause: Message, why: InvalidMessage, begun: float) -> Emit:
        context = telemetry.read_traceparent(cause.headers.get(TRACEPARENT))
        ended = telemetry.record_span(self._tracer, f"{self._name} dead letter", context, begun, error=why.reason)
        plain = self.plain(cause.topic)
        coordinates = {
            "dlq_step": self._name,
            "dlq_reason": why.reason,
            "dlq_detail": why.detail,
            "dlq_topic": plain,
            "dlq_partition": str(cause.partition),
            "dlq_offset": str(cause.offset),
            "dlq_timestamp": str(cause.timestamp),
        }
        # sent round again, it is followed through every step, in the trace that ends here
        coordinates[TRACEPARENT] = telemetry.write_traceparent(ended)
        headers = {**cause.headers, **{name: text.encode() for name, text in coordinates.items()}}
        return Emit(plain.removesuffix(BACKFILL) + DEAD_LETTERS, cause.key, cause.value or None, headers)

    def _forwarded(self, marker: Message) -> Iterator[Emit]:
        topic = self.plain(marker.topic)
        headers = dict(marker.headers)
        for target in self._route.forward.get(topic, ()):
            yield Emit(target, None, b"", headers, marker.partition, "none")
        for target in self._route.broadcast.get(topic, ()):
            for partition in range(self._settings.hot_partitions):
                yield Emit(target, None, b"", headers, partition, "none")

    def _summary(self, batch: Batch, outputs: Outputs, waiting: Mapping[Place, int]) -> FlowSummary:
        now = int(time.time() * 1000)
        counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for (source, verdict), count in outputs.counts.items():
            counts[source][verdict] = count
        for cause, why in outputs.dead:
            of_source = counts[self._origin(cause)[0]]
            of_source[f"dead_lettered:{why.reason}"] = of_source.get(f"dead_lettered:{why.reason}", 0) + 1
        return FlowSummary(
            self._name,
            self._settings.slot,
            now,
            tuple(
                (self.plain(place.topic), place.partition, messages[0].offset, messages[-1].offset + 1)
                for place, messages in batch.places.items()
            ),
            dict(counts),
            tuple(self._passed(passed) for _, passed in batch.markers),
            round(time.time() - batch.begun, 4),
            b"",
            *self._types_and_ages(batch.records, now),
            tuple((self.plain(place.topic), place.partition, left) for place, left in waiting.items()),
        )

    def _types_and_ages(
        self, records: Iterable[Message], now: int
    ) -> tuple[dict[str, dict[str, int]], dict[str, tuple[int, int, int]]]:
        """Records by source and type, and by source how old they are. It is done to every record, so it is plain."""
        types: dict[str, dict[str, int]] = {}
        ages: dict[str, list[int]] = {}
        for one in records:
            source, accepted = self._origin(one)
            if kind := one.headers.get(TYPE):
                of_source = types.setdefault(source, {})
                name = kind.decode("utf-8", "replace")
                of_source[name] = of_source.get(name, 0) + 1
            if accepted:
                ages.setdefault(source, []).append(max(0, now - accepted))
        return types, {source: (len(found), sum(found), max(found)) for source, found in ages.items()}

    def _passed(self, passed: Passed) -> Passed:
        return msgspec.structs.replace(passed, topic=self.plain(passed.topic))

    def _origin(self, message: Message) -> tuple[str, int]:
        """The step's word on where a message is from, even if the step cannot read the message."""
        try:
            return self._step.origin(message)
        except Exception:
            return "", 0


def _marker(message: Message) -> Passed | None:
    """What a marker says; None if it is garbled, and so a record like any other to the step, which refuses it."""
    try:
        name, origin = message.headers[MARKER].decode(), int(message.headers[ORIGIN])
    except (KeyError, ValueError):
        return None
    return Passed(name, message.topic, message.partition, origin)


def by_place(emits: Iterable[tuple[Message, Emit]]) -> Mapping[Place, list[Emit]]:
    """Outputs by the partition of their cause."""
    found: defaultdict[Place, list[Emit]] = defaultdict(list)
    for cause, emit in emits:
        found[cause.place].append(emit)
    return found
