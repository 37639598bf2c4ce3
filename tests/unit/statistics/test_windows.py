"""Summaries become windows, each once, under names that cannot become too many; and windows what operators see."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import FlowWindow, Measures
from contracts.sources import Registered
from runtime.messages import FlowSummary, Message
from services.statistics.domain.counting import MOST_SOURCES, OTHER
from services.statistics.domain.flow import flow, known_sources, sources_flow
from services.statistics.domain.windows import HOUR, SHORT, Names, Windows, key_of, newer, parse_key
from services.statistics.published import Published
from services.statistics.worker import FlowWorker, Unsupported, credentials

pytestmark = pytest.mark.unit

NOW = 1_772_359_207
AT = NOW * 1000
SOURCE = "urn:a/b"
Held = dict[bytes, FlowWindow]


def summary(step: str = "linkage", at: int = AT, **changes: Any) -> FlowSummary:
    said: dict[str, Any] = {"counts": {SOURCE: {"linked": 3}}, "types": {SOURCE: {"claim.v1": 4}}}
    return FlowSummary(step, 0, at, (), **(said | changes))


def add(held: Held, *summaries: tuple[int, FlowSummary], registered: Callable[[str], bool] = lambda _: False) -> Held:
    windows = Windows(held.get, Names(registered, {parse_key(key).source for key in held}), NOW)
    for offset, one in summaries:
        windows.add(2, offset, AT, one, None)
    return held | windows.changed


def of(held: Held, source: str = SOURCE, step: str = "linkage", seconds: int = SHORT) -> FlowWindow:
    return held[key_of(2, seconds, NOW // seconds * seconds, step, source)]


def test_a_summary_is_in_the_window_of_its_ten_seconds_and_of_its_hour() -> None:
    held = add({}, (7, summary(ages={SOURCE: (4, 100, 90)}, waiting=(("in", 1, 5),))))
    for seconds in (SHORT, HOUR):
        one = of(held, seconds=seconds)
        assert (one.types, one.verdicts, one.ages) == ({"claim.v1": 4}, {"linked": 3}, (4, 100, 90))
        assert (one.offset, one.last, one.start) == (7, AT, NOW // seconds * seconds)
        assert of(held, "", seconds=seconds).waiting == {"in/1": (AT, 5)}
    assert len(held) == 4
    assert parse_key(key_of(2, 10, 20, "linkage", SOURCE)) == (2, 10, 20, "linkage", SOURCE)


@given(st.lists(st.integers(0, 9), max_size=30), st.randoms())
def test_what_comes_again_changes_nothing_whatever_was_kept_of_it(
    redelivered: list[int], random_: random.Random
) -> None:
    """Of a batch that was not acknowledged, some windows may have been written and others not."""
    all_of_it = [(number, summary(counts={f"urn:{number % 3}": {"linked": 1}})) for number in range(10)]
    once = add({}, *all_of_it)
    half = add({}, *all_of_it[:5])
    some = {key: (once if random_.random() < 0.5 else half).get(key) for key in once}
    held = {key: one for key, one in some.items() if one is not None}
    again = add(held, *all_of_it[min([5, *redelivered]) :])
    assert {key: (one.types, one.verdicts) for key, one in again.items()} == {
        key: (one.types, one.verdicts) for key, one in once.items()
    }


def test_ingests_measures_count_by_their_number() -> None:
    counts = {
        SOURCE: {"claim.v1": {"records": 5, "retractions": 1, "refused.bad-value": 2}, "": {"refused.not-json": 1}}
    }
    held: Held = {}
    for offset, number in enumerate((1, 1, 2, 1)):
        windows = Windows(held.get, Names(lambda _: False), NOW)
        windows.add(0, offset, AT, FlowSummary("ingest", 0, AT, ()), Measures(b"w", number, counts))
        held |= windows.changed
    one = held[key_of(0, HOUR, NOW // HOUR * HOUR, "ingest", SOURCE)]
    assert (one.verdicts, one.types) == ({"accepted": 12, "rejected": 6}, {"claim.v1": 16, "other": 2})


def test_names_are_bounded() -> None:
    everybody = {f"urn:{number:04d}": {"linked": 1} for number in range(MOST_SOURCES + 10)}
    held = add({}, (0, summary(counts=everybody, types={})), registered=lambda name: name == "urn:0505")
    assert of(held, OTHER).verdicts == {"linked": 9}
    assert of(held, "urn:0505").verdicts == {"linked": 1}
    held = add(held, (1, summary(counts={"urn:new": {"linked": 1}}, types={})))
    assert of(held, OTHER).verdicts == {"linked": 10}
    words = {f"word-{number}": 1 for number in range(200)} | {"LE GOFF": 1}
    one = of(add({}, (0, summary(counts={SOURCE: words}, types={SOURCE: {"LE GOFF": 2, "claim.v1.deleted": 3}}))))
    assert len(one.verdicts) == 64
    assert sum(one.verdicts.values()) == 201
    assert one.types == {"other": 2, "claim.v1": 3}
    many = tuple(("in", number, 1) for number in range(2000))
    assert len(of(add({}, (0, summary(waiting=(*many, ("IN", 0, 1))))), "").waiting) == 512


@pytest.mark.parametrize("count", [0, -1, 10**9 + 1])
def test_counts_that_cannot_be_are_none(count: int) -> None:
    held = add({}, (0, summary(counts={SOURCE: {"linked": count}}, ages={SOURCE: (1, count, -1)})))
    assert (of(held).verdicts, of(held).ages) == ({}, (0, 0, 0))


@pytest.mark.parametrize("at", [0, -5, AT + 2 * 3_600_000, 10**18])
def test_a_moment_that_cannot_be_is_when_it_was_written(at: int) -> None:
    assert of(add({}, (0, summary(at=at)))).last == AT


def test_what_is_old_is_in_its_hour_alone_and_windows_end() -> None:
    held = add({}, (0, summary(at=AT - 2 * 3_600_000)))
    assert [one.seconds for one in held.values()] == [HOUR]
    key = parse_key(key_of(0, SHORT, NOW, "linkage", ""))
    assert not key.is_over(NOW + 3600)
    assert key.is_over(NOW + 3611)
    assert key.is_over(NOW - 3 * 3600), "of a time that is far ahead"


def test_of_two_states_the_one_that_has_seen_more_holds() -> None:
    older, later = FlowWindow("linkage", "", 0, 10, 5), FlowWindow("linkage", "", 0, 10, 9)
    assert newer(older, later) is newer(later, older) is later
    assert newer(older, None) is older


# the worker: never acknowledged what is not written


class Stream:
    def __init__(self) -> None:
        self.acknowledged: list[int] = []

    async def ack(self, event: Any) -> None:
        self.acknowledged.append(event.message.offset)


class Worker(FlowWorker):
    """A worker that cannot write at first, and whose partitions may be taken meanwhile."""

    RETRY_SECONDS = 0.001

    def __init__(self, failures: int, app: Any, taken_after: int = 10**9) -> None:
        self.failures, self._anew, self._generation, self.written = failures, False, 1, 0
        self._app, self._taken_after = app, taken_after

    def windows(self, messages: Any) -> dict[bytes, FlowWindow | None]:
        return {b"%d" % one.offset: None for one in messages}

    async def write(self, windows: Any) -> None:
        self.failures -= 1
        if self.failures >= 0:
            self._taken_after -= 1
            if self._taken_after == 0:
                self._app.consumer_generation_id += 1
            raise OSError("the broker is away")
        self.written += len(windows)


def event(offset: int, generation: int = 1) -> Any:
    raw = {"topic": "flow-summaries", "partition": 0, "timestamp": 1.5, "key": b"", "value": b"", "headers": ()}
    return SimpleNamespace(message=SimpleNamespace(offset=offset, generation_id=generation, **raw))


@pytest.mark.parametrize(
    ("failures", "taken_after", "acknowledged"), [(0, 10**9, [1, 2]), (3, 10**9, [1, 2]), (5, 2, [])]
)
def test_nothing_is_acknowledged_before_it_is_written(failures: int, taken_after: int, acknowledged: list[int]) -> None:
    app, stream = SimpleNamespace(consumer_generation_id=1), Stream()
    worker = Worker(failures, app, taken_after)
    asyncio.run(worker._take(app, stream, [event(0, generation=0), event(1), event(2)]))
    assert stream.acknowledged == acknowledged
    assert worker.written == len(acknowledged)


def test_a_summary_that_makes_the_counting_fail_is_passed_over_alone() -> None:
    class Broken:
        def open(self, message: Message) -> Any:
            if message.offset == 1:
                raise ZeroDivisionError
            return (summary(), None) if message.offset else None

    worker = FlowWorker.__new__(FlowWorker)
    worker._clock, worker._opening, worker._is_registered = (lambda: float(NOW)), Broken(), lambda _: False  # type: ignore
    worker._names, worker._sweep_at = Names(lambda _: False), float(NOW + 1)
    worker._table = SimpleNamespace(held={}.get)  # type: ignore[assignment]
    changed = worker.windows([Message("flow-summaries", 2, offset, AT, None, b"", {}) for offset in range(4)])
    (one,) = (one for one in changed.values() if one and one.seconds == SHORT)
    assert (one.types, one.offset) == ({"claim.v1": 8}, 3)


@pytest.mark.parametrize(
    ("config", "protocol"),
    [
        ({}, None),
        ({"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-512"}, "SASL_PLAINTEXT"),
        ({"security.protocol": "sasl_ssl", "sasl.mechanisms": "PLAIN"}, "SASL_SSL"),
        ({"security.protocol": "SSL"}, "SSL"),
    ],
)
def test_the_clients_settings_are_those_of_the_other_services(config: dict[str, str], protocol: str | None) -> None:
    found = credentials(config)
    assert protocol == (None if found is None else found.protocol.value)


def test_what_the_client_cannot_do_is_said() -> None:
    with pytest.raises(Unsupported, match=r"ESTUAIRE_KAFKA_CONFIG.*SCRAM.*OAUTHBEARER"):
        credentials({"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER", "sasl.password": "secret"})


# what operators see


def published(*windows: FlowWindow) -> Published:
    from contracts.messages import encode

    found = Published()
    for number, one in enumerate(windows):
        found.take(key_of(number, one.seconds, one.start, one.step, one.source), encode(one))
    return found


def moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def test_the_flow_adds_partitions_up_and_knows_what_waited_before() -> None:
    start = NOW // SHORT * SHORT
    said = published(
        FlowWindow("linkage", "", start - 20, SHORT, 1, waiting={"in/0": (1, 7), "in/1": (1, 2)}),
        FlowWindow("linkage", "", start, SHORT, 1, waiting={"in/0": (2, 3)}),
        FlowWindow("linkage", SOURCE, start, SHORT, 1, 0, {"claim.v1": 4}, {"linked": 4}, (4, 2_000, 900)),
        FlowWindow("linkage", SOURCE, start, SHORT, 1, 0, {"claim.v1": 1}, {"linked": 1}, (1, 3_000, 3_000)),
        FlowWindow("ingest", "urn:other", start, SHORT, 1, 0, {"claim.v1": 9}, {"accepted": 9}),
    )
    begin, end = moment(start - 10), moment(start + 10)
    shown = flow(
        said.windows(SHORT, begin.timestamp(), end.timestamp()),
        said.windows(SHORT, 0, begin.timestamp()),
        begin,
        end,
        SOURCE,
    ).model_dump(mode="json", by_alias=True)
    assert (shown["window_seconds"], shown["steps"]) == (10, ["ingest", "pseudonym", "linkage", "access"])
    linkage = {"records": 5, "verdicts": {"linked": 5}, "waiting": 5, "age_seconds": {"mean": 1.0, "max": 3.0}}
    assert shown["windows"] == [{"at": moment(start).strftime("%Y-%m-%dT%H:%M:%SZ"), "steps": {"linkage": linkage}}]


def test_sources_have_their_minute_hour_and_day() -> None:
    accepted = {"accepted": 3, "rejected": 1}
    said = [
        FlowWindow("ingest", "urn:a", NOW - 20, SHORT, 1, AT - 15_000, {"claim.v1": 4}, accepted),
        FlowWindow("ingest", "urn:a", NOW - 600, SHORT, 1, AT - 600_000, {"claim.v1": 4}, accepted),
        FlowWindow(
            "linkage", "urn:a", NOW - 20, SHORT, 1, AT, {"claim.v1": 3}, {"linked": 2, "dead_lettered:conflict": 1}
        ),
    ]
    hours = [FlowWindow("ingest", "urn:a", NOW - 7200, HOUR, 1, AT - 15_000, {"claim.v1": 40}, accepted)]
    first, second = sources_flow(said, hours, {"urn:b": Registered(source="urn:b", title="B")}, moment(NOW)).sources
    assert (first.source, first.title, first.last_seen, first.records.day) == ("urn:b", "B", None, 0)
    assert second.records.model_dump() == {"minute": 4, "hour": 8, "day": 40}
    assert second.rejected.model_dump() == {"minute": 2, "hour": 3, "day": 1}
    assert second.last_seen == moment(NOW - 15)
    known = known_sources(hours, {"urn:old": moment(5), "urn:a": moment(6)})
    assert (known["urn:a"].last_seen, known["urn:old"].last_seen) == (moment(NOW - 15), moment(5))
    assert sum(known["urn:a"].hours.values()) == 40


def test_a_tombstone_and_time_end_windows() -> None:
    said = published(FlowWindow("linkage", "", 0, SHORT, 1), FlowWindow("linkage", "", NOW, SHORT, 1))
    said.forget(NOW)
    assert [one.start for one in said.windows(SHORT, 0, 2 * NOW)] == [NOW]
    said.take(key_of(1, SHORT, NOW, "linkage", ""), None)
    assert not list(said.windows(SHORT, 0, 2 * NOW))
