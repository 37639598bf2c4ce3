"""Batches, limits and lanes, as far as they need no broker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from runtime.batch import Batch, Report, Route, by_place
from runtime.loop import Tally, busy_lane
from runtime.messages import Emit, FlowSummary, InvalidMessage, Message, Outputs, Place, Reason
from runtime.settings import RuntimeSettings
from runtime.telemetry import start_tracing

pytestmark = pytest.mark.unit


def message(offset: int = 0, partition: int = 0, value: bytes = b"v", topic: str = "p-in", **headers: bytes) -> Message:
    return Message(topic, partition, offset, 1_000, b"key", value, headers)


class Step:
    def prepare(self, batch: Sequence[Message]) -> None: ...

    def handle(self, batch: Sequence[Message]) -> Outputs:
        return Outputs()

    def origin(self, message: Message) -> tuple[str, int]:
        return message.header("source"), 0


def report() -> Report:
    settings = RuntimeSettings(bootstrap_servers="nowhere:1", topic_prefix="p-", hot_partitions=3)
    route = Route(("in", "in-backfill"), forward={"in": ("out",)}, broadcast={"in": ("links",)})
    return Report("step", settings, Step(), route, start_tracing("test", None))


def test_a_tally_stops_at_a_hundred_in_a_row() -> None:
    tally = Tally()
    tally.add(False, 500)
    for _ in range(99):
        tally.add(True)
    assert not tally.too_many()
    tally.add(False)
    tally.add(True)
    assert not tally.too_many()
    for _ in range(99):
        tally.add(True)
    assert tally.too_many()


@pytest.mark.parametrize(("seen", "ours", "stops"), [(999, 50, False), (1000, 10, False), (1000, 11, True)])
def test_a_tally_stops_past_one_per_cent_of_a_thousand(seen: int, ours: int, stops: bool) -> None:
    tally = Tally()
    for number in range(seen):
        tally.add(number % 19 == 0 and number // 19 < ours)
    assert (tally.seen, tally.ours) == (seen, ours)
    assert tally.too_many() is stops


def test_a_tally_forgets_slowly() -> None:
    tally = Tally(seen=10_000, ours=90)
    tally.add(False)
    assert (tally.seen, tally.ours) == (5001, 45)


@pytest.mark.parametrize(
    ("ranks", "busy"),
    [({}, None), ({0: 1000}, 0), ({1: 1000}, 1), ({0: 10, 2: 990}, 2), ({0: 10, 1: 300, 2: 690}, 1), ({0: 9}, None)],
)
def test_the_busy_lane_fills_a_quarter(ranks: dict[int, int], busy: int | None) -> None:
    assert busy_lane(ranks, 1000) == busy


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=50))
def test_a_batch_knows_its_partitions(parts: list[tuple[int, bool]]) -> None:
    marks: dict[bool, dict[str, Any]] = {True: {"marker": b"m", "marker_origin": b"1"}, False: {}}
    messages = [message(at, part, **marks[marker]) for at, (part, marker) in enumerate(parts)]
    batch = Batch(messages)
    assert len(batch) == len(batch.records) + len(batch.markers) == len(messages)
    assert sorted(one.offset for group in batch.places.values() for one in group) == list(range(len(messages)))
    for place, after in batch.next_offsets().items():
        assert after == 1 + max(one.offset for one in messages if one.place == place)


@pytest.mark.parametrize("headers", [{"marker": b"m"}, {"marker": b"\xff", "marker_origin": b"1"},
                                     {"marker": b"m", "marker_origin": b"one"}])  # fmt: skip
def test_a_garbled_marker_is_a_record(headers: dict[str, Any]) -> None:
    batch = Batch([message(**headers)])
    assert len(batch.records) == 1
    assert not batch.markers


def test_what_a_batch_writes_and_in_which_order() -> None:
    good, bad = message(0, source=b"a"), message(1, source=b"a", value=b"")
    unreadable = message(4, partition=1, topic="p-in-backfill")
    marker = message(2, marker=b"m", marker_origin=b"1")
    outputs = Outputs()
    outputs.emit(good, Emit("out", b"key", b"1"))
    outputs.count("a", "copied")
    outputs.reject(bad, InvalidMessage(Reason.SCHEMA, "no value"))
    outputs.reject(unreadable, InvalidMessage(Reason.DECODING, "no header"))
    emits = report().complete(Batch([good, bad, marker, unreadable]), outputs)
    assert [(emit.topic, emit.partition) for _, emit in emits] == [
        ("out", -1), ("in-dlq", -1), ("in-dlq", -1), ("out", 0), ("links", 0), ("links", 1), ("links", 2),
        ("flow-summaries", -1),
    ]  # fmt: skip
    assert emits[1][1].value is None
    assert emits[1][1].headers["dlq_detail"] == b"no value"
    assert emits[2][1].headers["dlq_topic"] == b"in-backfill"
    summary = msgspec.msgpack.decode(emits[-1][1].value or b"", type=FlowSummary)
    assert summary.inputs == (("in", 0, 0, 3), ("in-backfill", 1, 4, 5))
    assert summary.counts == {"a": {"copied": 1, "dead_lettered:schema": 1}, "": {"dead_lettered:decoding": 1}}
    assert [(one.marker, one.topic, one.origin) for one in summary.passed] == [("m", "in", 1)]
    assert {place: len(found) for place, found in by_place(emits).items()} == {
        Place("p-in", 0): 7,
        Place("p-in-backfill", 1): 1,
    }


def test_a_summary_has_types_ages_and_what_waits() -> None:
    class Aged(Step):
        def origin(self, message: Message) -> tuple[str, int]:
            return message.header("source"), int(message.headers.get("accepted", b"0"))

    settings = RuntimeSettings(bootstrap_servers="nowhere:1", topic_prefix="p-")
    one = Report("step", settings, Aged(), Route(("in",)), start_tracing("test", None))
    now = int(time.time() * 1000)
    ages = [(b"a", 500), (b"a", 3_000), (b"b", 100), (b"b", -60_000)]
    records = [
        message(at, source=source, ce_type=b"claim.v1", accepted=str(now - age).encode())
        for at, (source, age) in enumerate(ages)
    ]
    records += [message(4, source=b"a"), message(5), message(6, marker=b"m", marker_origin=b"1", ce_type=b"claim.v1")]
    waiting = {Place("p-in", 0): 12, Place("p-in", 1): 0}
    ((_, emit),) = one.complete(Batch(records), Outputs(), waiting)
    summary = msgspec.msgpack.decode(emit.value or b"", type=FlowSummary)
    assert summary.types == {"a": {"claim.v1": 2}, "b": {"claim.v1": 2}}
    assert summary.waiting == (("in", 0, 12), ("in", 1, 0))
    late = summary.at - now
    assert summary.ages == {"a": (2, 3_500 + 2 * late, 3_000 + late), "b": (2, 100 + late, 100 + late)}


@given(st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_ages_are_of_one_record_in_sixteen_however_they_are_batched(sizes: list[int]) -> None:
    class Aged(Step):
        def origin(self, message: Message) -> tuple[str, int]:
            return "urn:aged", 1

    def shown() -> float | None:
        return REGISTRY.get_sample_value("estuaire_record_age_seconds_count", {"step": "aged", "source": "urn:aged"})

    settings = RuntimeSettings(bootstrap_servers="nowhere:1")
    one = Report("aged", settings, Aged(), Route(("in",)), start_tracing("test", None))
    nothing = Outputs()
    nothing.count("urn:aged", "copied")
    one.account(Batch([message(marker=b"m", marker_origin=b"1")]), nothing, 0)
    before = shown()
    assert before is not None, "an increase is seen from the first one on"
    for size in sizes:
        one.account(Batch([message(at) for at in range(size)]), Outputs(), 0)
    assert shown() == before + -(-sum(sizes) // 16)


@pytest.mark.parametrize(
    ("flags", "trace", "kept", "same_trace"),
    [(b"00", "continue", True, True), (b"01", "continue", False, True), (b"01", "fresh", False, False),
     (b"01", "none", True, True)],
)  # fmt: skip
def test_traces_go_on_begin_anew_or_stay(flags: bytes, trace: str, kept: bool, same_trace: bool) -> None:
    parent = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-" + flags
    cause = message(0, source=b"a", traceparent=parent)
    outputs = Outputs()
    emit = Emit("out", None, b"", {"traceparent": parent, "other": b"1"}, trace=trace)  # type: ignore[arg-type]
    outputs.emit(cause, emit)
    (_, written), _ = report().complete(Batch([cause]), outputs)
    assert (written.headers["traceparent"] == parent) is kept
    assert (written.headers["traceparent"][3:35] == parent[3:35]) is same_trace
    assert written.headers["other"] == b"1"


@pytest.mark.parametrize(("name", "headers"), [("absent", {}), ("garbled", {"garbled": b"\xff\xfe"})])
def test_a_header_that_is_no_text_makes_an_invalid_message(name: str, headers: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage) as invalid:
        message(**headers).header(name)
    assert invalid.value.reason is Reason.SCHEMA


def test_the_hub_is_to_blame_for_four_reasons() -> None:
    assert {reason for reason in Reason if reason.ours} == {"decoding", "schema", "keys", "internal"}


@pytest.mark.parametrize("flags", [b"00", b"01"], ids=["not followed before", "followed"])
def test_a_dead_letter_is_followed_from_its_end_on(flags: bytes) -> None:
    parent = b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-" + flags
    cause = message(0, source=b"a", traceparent=parent)
    outputs = Outputs()
    outputs.reject(cause, InvalidMessage(Reason.CONFLICT, "value"))
    (_, letter), _ = report().complete(Batch([cause]), outputs)
    _, trace, span, sampled = letter.headers["traceparent"].split(b"-")
    assert trace == b"a" * 32
    assert span != b"b" * 16
    assert int(sampled, 16) & 1
