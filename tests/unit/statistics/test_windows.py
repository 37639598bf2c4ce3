"""Summaries become windows, each once, under names that cannot become too many; and windows what operators see."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import FlowWindow, Measures, encode
from contracts.sources import Registered
from runtime.http import Bearers, hash_token
from runtime.messages import FlowSummary, Message
from runtime.sealing import Opener
from runtime.settings import RuntimeSettings
from services.statistics import published as published_module
from services.statistics import worker as worker_module
from services.statistics.domain.counting import MOST_SOURCES, OTHER
from services.statistics.domain.flow import flow, known_sources, sources_flow
from services.statistics.domain.windows import HOUR, SHORT, Kept, Names, Windows, key_of, newer, parse_key, period_of
from services.statistics.handlers import KeyMissing, Opening
from services.statistics.published import Published, WindowsReader
from services.statistics.routes import application
from services.statistics.worker import FlowWorker, Suspended, Table, Unsupported, _Consumer, credentials

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
    period = parse_key(key_of(0, SHORT, NOW, "linkage", "")).period
    assert not period.is_over(NOW + 3600)
    assert period.is_over(NOW + 3611)
    assert period.is_over(NOW - 3 * 3600), "of a time that is far ahead"


def test_hours_are_kept_for_a_day_behind_the_oldest_moment_that_is_shown_and_of_ingest_for_three_weeks() -> None:
    hour = NOW // HOUR * HOUR
    for step, days in (("ingest", 21), ("linkage", 1)):
        oldest = hour - HOUR - days * 24 * HOUR  # at most an hour and ten seconds ago is shown, from its hour on
        for now in (hour, hour + SHORT, hour + HOUR - 1):
            assert not period_of(HOUR, oldest, step).is_over(now)
    assert period_of(HOUR, hour, "linkage").is_over(hour + 28 * HOUR)
    assert not add({}, (0, summary(at=AT - 28 * HOUR * 1000)))
    assert add({}, (0, summary("ingest", at=AT - 28 * HOUR * 1000)))


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from((0, NOW, NOW - 50 * HOUR)), st.booleans()), max_size=20))
def test_windows_are_kept_by_their_keys(said: list[tuple[int, int, bool]]) -> None:
    kept, plain = Kept(), Held()
    for offset, (partition, moment, is_there) in enumerate(said):
        one = FlowWindow("linkage", SOURCE, moment, HOUR, offset)
        key = key_of(partition, HOUR, moment, "linkage", SOURCE)
        plain |= {key: one}
        if is_there:
            assert kept.keep(key, one)
            assert not kept.keep(key, FlowWindow("linkage", SOURCE, moment, HOUR, offset - 1))
        else:
            kept.drop(key)
            plain.pop(key)
    assert len(kept) == len(plain)
    assert all(kept.get(key) == one for key, one in plain.items())
    over = {key for key, one in plain.items() if one.start != NOW and parse_key(key).partition != 1}
    assert {*kept.over(NOW, {0, 2})} == over
    kept.forget(NOW)
    assert len(kept) == sum(one.start == NOW for one in plain.values())


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
        self._writing = asyncio.Lock()
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
    app, stream = SimpleNamespace(consumer_generation_id=1, rebalancing=False), Stream()
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
    worker._table = SimpleNamespace(held={}.get, outdated=())  # type: ignore[assignment]
    changed = worker.windows([Message("flow-summaries", 2, offset, AT, None, b"", {}) for offset in range(4)])
    (one,) = (one for one in changed.values() if one and one.seconds == SHORT)
    assert (one.types, one.offset) == ({"claim.v1": 8}, 3)


def test_partitions_change_only_between_writings() -> None:
    """Or what is written later than by who took them over would be the older state, and the last one."""

    class Slow(Worker):
        async def write(self, windows: Any) -> None:
            writing.set()
            await landed.wait()
            await super().write(windows)

    async def taken_while_it_writes() -> None:
        worker, stream = Slow(0, app), Stream()
        consumer: Any = _Consumer.__new__(_Consumer)
        consumer.transport = SimpleNamespace(writing=worker._writing)
        taking = asyncio.ensure_future(worker._take(app, stream, [event(1)]))
        await writing.wait()
        app.rebalancing = True
        revoking = asyncio.ensure_future(consumer.on_partitions_revoked(set()))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(revoking), 0.05)
        landed.set()
        await taking
        with pytest.raises(AttributeError):  # of this consumer there is no more than its beginning
            await revoking
        assert stream.acknowledged == [1]
        taking = asyncio.ensure_future(worker._take(app, stream, [event(2)]))
        await asyncio.sleep(0)
        app.consumer_generation_id, app.rebalancing = 2, False
        await taking
        assert (worker.written, stream.acknowledged) == (1, [1])

    app, writing, landed = (
        SimpleNamespace(consumer_generation_id=1, rebalancing=False),
        asyncio.Event(),
        asyncio.Event(),
    )
    asyncio.run(taken_while_it_writes())


def test_where_a_key_is_missing_nothing_is_acknowledged_and_it_says_why() -> None:
    class Missing(Worker):
        def windows(self, messages: Any) -> dict[bytes, FlowWindow | None]:
            raise KeyMissing

    stream, app = Stream(), SimpleNamespace(consumer_generation_id=1, rebalancing=False)
    worker = Missing(0, app)
    worker._missing, worker._ready = None, True
    assert worker.readiness() is None
    asyncio.run(
        worker._take(SimpleNamespace(consumer_generation_id=1, rebalancing=False), stream, [event(1), event(2)])
    )
    assert not stream.acknowledged
    assert "statistics-private" in (worker.readiness() or "")
    assert worker._anew, "the application ends, and none is made while it is missing"


def table() -> Table:
    app = faust.App("test", broker="memory://", store="memory://")
    return Table(app, name="flow-windows", key_type=bytes, value_type=bytes)


def changelog(*written: tuple[bytes, FlowWindow | None]) -> list[Any]:
    return [SimpleNamespace(message=SimpleNamespace(key=key, value=one and encode(one))) for key, one in written]


def test_an_older_state_that_was_written_last_is_written_over() -> None:
    """By a worker that was cut off; after compaction it would be the only one."""
    mine, others = (key_of(partition, HOUR, 0, "linkage", "") for partition in (2, 3))
    older, newest = (FlowWindow("linkage", "", 0, HOUR, offset) for offset in (100, 150))
    worker = FlowWorker.__new__(FlowWorker)
    worker._clock, worker._sweep_at, worker._table = (lambda: 1.0), 2.0, table()
    worker._names, worker._opening = Names(lambda _: False), Opening(Opener([]))
    log = changelog((mine, older), (mine, newest), (mine, older), (others, newest), (others, older))
    worker._table.apply_changelog_batch(log)
    message = Message("flow-summaries", 2, 151, AT, None, encode(FlowSummary("audit", 0, AT, ())), {})
    assert worker.windows([message]) == {mine: newest}
    worker._table.keep(mine, encode(newest))
    assert worker.windows([message]) == {}
    worker._table.apply_changelog_batch(changelog((mine, older), (mine, newest)))
    assert worker.windows([message]) == {}, "it is the last one again"


def test_a_sweep_ends_what_is_over_little_by_little_and_counts_sources_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = FlowWorker.__new__(FlowWorker)
    worker._clock, worker._table, worker._opening = (lambda: float(NOW)), table(), Opening(Opener([]))
    worker._sweep_at, worker._is_registered = 0.0, lambda _: False
    monkeypatch.setattr(FlowWorker, "MOST_OVER", 2)
    late, other = (NOW - 30 * HOUR) // HOUR * HOUR, NOW // HOUR * HOUR
    written = [FlowWindow("linkage", f"urn:{number}", late, HOUR, 1) for number in range(3)]
    written.append(FlowWindow("linkage", "urn:0", other, HOUR, 1))
    held = {key_of(2, HOUR, one.start, one.step, one.source): one for one in written}
    others = key_of(3, HOUR, late, "linkage", "urn:0")
    worker._table.apply_changelog_batch(changelog(*held.items(), (others, written[0]), (b"none", written[0])))
    message = Message("flow-summaries", 2, 9, AT, None, encode(FlowSummary("audit", 0, AT, ())), {})
    for left in (2, 1, 0):
        over = worker.windows([message])
        assert len(over) == left
        for key, window in over.items():
            assert held.pop(key).start == late
            assert window is None
            worker._table.keep(key, None)
    assert dict(worker._table.sources) == {"urn:0": 2}
    assert worker._sweep_at == NOW + FlowWorker.SWEEP_SECONDS


def test_a_worker_that_stood_still_writes_nothing_until_it_has_asked_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(worker_module, "time", SimpleNamespace(monotonic=lambda: now))
    worker = FlowWorker.__new__(FlowWorker)
    worker._alive = now
    now += 5
    worker._beat()
    now += 20
    for _ in range(2):  # whoever looks first does not hide it from the others
        with pytest.raises(Suspended):
            worker._beat()
    with pytest.raises(Suspended):
        asyncio.run(worker.write({}))


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
    found = Published()
    for number, one in enumerate(windows):
        found.take(key_of(number, one.seconds, one.start, one.step, one.source), encode(one))
    return found


def moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def shown(said: Published, begin: int, end: int, source: str | None = None) -> list[dict[str, Any]]:
    """The flow's windows as HTTP tells them; what was in hours before is known by the hour."""
    hour = begin // HOUR * HOUR
    before = [*said.windows(HOUR, 0, hour), *said.windows(SHORT, hour, begin)]
    found = flow(said.windows(SHORT, begin, end), before, (moment(begin), moment(end)), source, None)
    windows: list[dict[str, Any]] = found.model_dump(mode="json", by_alias=True)["windows"]
    return windows


def waiting(windows: list[dict[str, Any]]) -> list[int | None]:
    return [one["steps"]["linkage"]["waiting"] for one in windows]


def told(start: int, left: int, seconds: int = SHORT) -> FlowWindow:
    """Linkage is heard of, 4 s after the window's beginning."""
    at = start * 1000 + 4_000
    return FlowWindow("linkage", "", start, seconds, 1, at, waiting={"in/0": (at, left)})


def written(start: int, count: int, verdict: str = "pseudonymised", seconds: int = SHORT) -> FlowWindow:
    """Pseudonym has passed so many on, until the window's end."""
    return FlowWindow("pseudonym", SOURCE, start, seconds, 1, (start + seconds) * 1000, {}, {verdict: count})


START = NOW // SHORT * SHORT + 600


def test_the_flow_adds_partitions_up_and_knows_what_waited_before() -> None:
    said = published(
        FlowWindow("linkage", "", START - 20, SHORT, 1, waiting={"in/0": (1, 7), "in/1": (1, 2)}),
        FlowWindow("linkage", "", START, SHORT, 1, waiting={"in/0": (2, 3)}),
        FlowWindow("linkage", SOURCE, START, SHORT, 1, START * 1000, {"claim.v1": 4}, {"linked": 4}, (4, 2_000, 900)),
        FlowWindow("linkage", SOURCE, START, SHORT, 1, 0, {"claim.v1": 1}, {"linked": 1}, (1, 3_000, 3_000)),
        FlowWindow("ingest", "urn:other", START, SHORT, 1, 0, {"claim.v1": 9}, {"accepted": 9}),
    )
    before, last = shown(said, START - 10, START + 10, SOURCE)
    assert last["at"] == moment(START).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert last["steps"]["linkage"] == {
        "records": 5,
        "verdicts": {"linked": 5},
        "waiting": 5,
        "last_read": moment(START).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "age_seconds": {"mean": 1.0, "max": 3.0},
    }
    assert last["steps"]["ingest"]["records"] == 0, "they are another's"
    assert before["steps"]["linkage"]["waiting"] == 9, "also where nothing happened"
    assert before["steps"]["access"]["waiting"] is None


def test_what_waits_is_what_was_told_last_and_what_was_written_since() -> None:
    said = published(
        told(START, 7),
        written(START, 900),  # before that was told, or after: nobody knows
        written(START + 10, 100),
        written(START + 10, 5000, "dead_lettered:schema"),
        written(START + 20, 50),
        told(START + 30, 3),
        written(START + 30, 40),
    )
    assert waiting(shown(said, START, START + 40)) == [7, 107, 157, 3]
    assert waiting(shown(said, START + 20, START + 30)) == [157], "also for who looks at a part of it"
    assert waiting(shown(said, START + 600, START + 610)) == [3]


def test_what_waits_is_known_of_a_step_that_stands_for_hours() -> None:
    hour = NOW // HOUR * HOUR
    said = published(
        told(hour - 3 * HOUR, 7, HOUR),
        written(hour - 3 * HOUR, 900, seconds=HOUR),
        written(hour - 2 * HOUR, 100, seconds=HOUR),
        written(hour - HOUR, 50, seconds=HOUR),
        written(hour, 2),
    )
    (last,) = shown(said, hour + 600, hour + 610)
    assert last["steps"]["linkage"]["waiting"] == 159
    assert last["steps"]["linkage"]["last_read"] == moment(hour - 3 * HOUR + 4).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize("late", [0, 1_500])
def test_what_was_read_before_ingest_told_of_it_does_not_wait(late: int) -> None:
    """Ingest tells once a second of what it has accepted: by then pseudonym may have read it."""
    at = START * 1000 - late
    said = published(
        FlowWindow("pseudonym", "", START - 10, SHORT, 1, at, waiting={"in/0": (at, 0)}),
        FlowWindow("ingest", SOURCE, START, SHORT, 1, START * 1000 + 10, {}, {"accepted": 1}),
    )
    (last,) = shown(said, START, START + 10)
    assert last["steps"]["pseudonym"]["waiting"] == 0


def test_every_window_that_is_kept_and_has_begun_is_told_and_no_more() -> None:
    nothing: Any = None
    said = published(told(NOW // SHORT * SHORT - HOUR, 4))
    said.counted_until = NOW - 2.0
    app = application(
        lambda: None,
        nothing,
        dict,
        Bearers({hash_token("secret"): "operator"}),
        lambda: moment(NOW),
        published=said,
        reading=lambda: None,
        remembered=nothing,
    )
    asked = {"from": "1971-02-03T00:00:00Z", "to": "2100-01-01T00:00:00Z"}
    answer = TestClient(app).get("/v1/flow", params=asked, headers={"Authorization": "Bearer secret"}).json()
    assert {name: answer[name] for name in asked} == asked
    begun = [dt.datetime.fromisoformat(one["at"]).timestamp() for one in answer["windows"]]
    assert begun == list(range(NOW // SHORT * SHORT - HOUR, NOW, SHORT))
    assert waiting(answer["windows"]) == [4] * len(begun)
    assert dt.datetime.fromisoformat(answer["counted_until"]).timestamp() == NOW - 2


def test_sources_have_their_minute_hour_and_day() -> None:
    accepted = {"accepted": 3, "rejected": 1}
    said = [
        FlowWindow("ingest", "urn:a", NOW - 20, SHORT, 1, AT - 15_000, {"claim.v1": 4}, accepted),
        FlowWindow("ingest", "urn:a", NOW - 60, SHORT, 1, AT - 55_000, {"claim.v1": 2}, {}),
        FlowWindow("ingest", "urn:a", NOW - 600, SHORT, 1, AT - 600_000, {"claim.v1": 4}, accepted),
        FlowWindow(
            "linkage", "urn:a", NOW - 20, SHORT, 1, AT, {"claim.v1": 3}, {"linked": 2, "dead_lettered:conflict": 1}
        ),
    ]
    hours = [
        FlowWindow("ingest", "urn:a", start, HOUR, 1, AT - 15_000, {"claim.v1": 40}, accepted)
        for start in (NOW - 7200, NOW - 24 * HOUR)  # the latter has nothing of the last day
    ]
    first, second = sources_flow(said, hours, {"urn:b": Registered(source="urn:b", title="B")}, moment(NOW)).sources
    assert (first.source, first.title, first.last_seen, first.records.day) == ("urn:b", "B", None, 0)
    assert second.records.model_dump() == {"minute": 4, "hour": 10, "day": 40}
    assert second.rejected.model_dump() == {"minute": 2, "hour": 3, "day": 1}
    assert second.last_seen == moment(NOW - 15)
    known = known_sources(hours, {"urn:old": moment(5), "urn:a": moment(6)})
    assert (known["urn:a"].last_seen, known["urn:old"].last_seen) == (moment(NOW - 15), moment(5))
    assert sum(known["urn:a"].hours.values()) == 80


def test_windows_say_how_far_each_partition_is_counted() -> None:
    said = published(FlowWindow("linkage", "", 0, SHORT, 7), FlowWindow("linkage", "", 0, SHORT, 3))
    said.take(key_of(0, HOUR, 0, "access", ""), encode(FlowWindow("access", "", 0, HOUR, 5)))
    assert said.counted == {0: 8, 1: 4}


def test_until_all_is_read_nobody_says_until_when_the_flow_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or alarms would be judged by a part of the hours."""

    class Whole:
        def __init__(self, *_: Any) -> None:
            self.turns = 0

        def read(self) -> list[Message]:
            self.turns += 1
            return []

        def is_complete(self) -> bool:
            return self.turns >= 3

        def close(self) -> None:
            pass

    class Reader(WindowsReader):
        def _look(self, consumer: Any) -> None:
            looked.append(self.readiness())
            self.stop()

    looked: list[str | None] = []
    monkeypatch.setattr(published_module, "WholeTopic", Whole)
    monkeypatch.setattr(WindowsReader, "LOOK_SECONDS", -1.0)
    reader = Reader(RuntimeSettings(bootstrap_servers="nowhere:1"), Published())
    reader.run()
    assert looked == [None]


def test_a_tombstone_and_time_end_windows() -> None:
    said = published(FlowWindow("linkage", "", 0, SHORT, 1), FlowWindow("linkage", "", NOW, SHORT, 1))
    said.forget(NOW)
    assert [one.start for one in said.windows(SHORT, 0, 2 * NOW)] == [NOW]
    said.take(key_of(1, SHORT, NOW, "linkage", ""), None)
    assert not list(said.windows(SHORT, 0, 2 * NOW))
