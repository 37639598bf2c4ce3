"""Indicators out of the history: released when they are due, and giving nobody away.

The attack knows all that is published, how it is made, and which people differ between any two cells: everything but
the hub's secret. It asks which numbers of people are possible, all releases and permits together.
"""

from __future__ import annotations

import datetime as dt
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from fastapi.testclient import TestClient

from contracts.messages import AuditLeaf, PatientsMerged, PatientSplit
from estuaire.database import start_database
from runtime.database import Database
from runtime.kafka import BrokerAway
from services.access.adapters import PostgresHistory, PostgresReader, Vault
from services.access.authorization import Doors
from services.access.domain.indicators import NOISE, SHIFTS, SMALLEST, Perturbation, most
from services.access.indicators import Releaser
from services.access.routes import application
from tests.integration.test_access_history import KNOWN, Broker, as_
from tests.unit.access.hub import Hub, permit, subject_id

pytestmark = pytest.mark.integration
log = logging.getLogger("estuaire.tests")

SECRET: Final = {1: b"s" * 32}
MONTHLY: Final = {"every": "month"}
COMMUNES: Final = {"35": "35238", "29": "29019", "2A": "2A004", "56": "56121", "22": "22113", "44": "44109"}


class Told(list[AuditLeaf]):
    """What the audit log is told; `deaf`, it is not there."""

    deaf = False

    def __call__(self, leaf: AuditLeaf) -> None:
        if self.deaf:
            raise BrokerAway("the broker does not answer")
        self.append(leaf)


class Fixture(NamedTuple):
    """A hub with a database, what releases its indicators, and what it told of that."""

    hub: Hub
    releaser: Releaser
    told: Told
    api: TestClient


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Fixture]:
    with start_database(tmp_path) as server:
        url = server.url("access")
        vault = Vault({1: b"m" * 32})
        database = Database(url, files("services.access") / "migrations")
        hub = Hub(PostgresHistory(database, vault), vault, database.transaction)
        assert database.connection
        told = Told()
        releaser = Releaser(url, Perturbation(SECRET), told, lambda: hub.now)
        reader = PostgresReader(url, 2)
        reader.open()
        with TestClient(application(lambda: None, reader, Broker(hub), vault, Doors(KNOWN), lambda: hub.now)) as api:
            yield Fixture(hub, releaser, told, api)
        reader.close()
        database.close()


def read(one: Fixture, name: str = "cardio") -> dict[str, Any]:
    answer = one.api.get(f"/v1/permits/{name}/indicators", headers=as_("team"))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def cells(one: Fixture, name: str = "cardio") -> dict[tuple[str, str | None, str | None], int]:
    found = read(one, name)["cells"]
    by_place = {(cell["period"], cell["area"], cell["diagnosis"]): cell["people"] for cell in found}
    assert len(by_place) == len(found)
    return by_place


def people(hub: Hub, count: int, first: int = 0, **more: Any) -> None:
    known = {"commune": "35238", "time": "2026-03-10T10:00:00Z"} | more
    each = range(first, first + count)
    hub.run(*(hub.record(f"r{n}", f"s{n}", f"p{n}", {"code": "I50.1"}, **known) for n in each))


def test_they_are_released_when_a_period_is_over_and_revised_when_the_next_is(one: Fixture) -> None:
    hub = one.hub
    hub.now = dt.datetime(2026, 4, 20, 12, tzinfo=dt.UTC)
    hub.opened(permit(indicators=MONTHLY))
    people(hub, 100)
    assert one.releaser.release_due() == []
    before = read(one)
    assert (before["released"], before["next"], before["cells"]) == (None, "2026-05-01", [])
    hub.now = dt.datetime(2026, 5, 1, 0, 1, tzinfo=dt.UTC)
    people(hub, 40, 1000, time="2026-05-01T00:00:30Z")
    assert one.releaser.release_due() == ["cardio"]
    released = read(one)
    assert (released["released"], released["next"], released["every"]) == ("2026-05-01", "2026-06-01", "month")
    assert released["within"] == {"area": 10, "everywhere": 202}
    first = cells(one)
    assert set(first) == {("2026-03", "35", None), ("2026-03", "35", "I50")}
    assert all(abs(shown - 100) <= 10 for shown in first.values())
    assert one.releaser.release_due() == []
    people(hub, 60, 200)
    hub.now = dt.datetime(2026, 5, 31, 23, 59, tzinfo=dt.UTC)
    assert one.releaser.release_due() == []
    assert cells(one) == first
    hub.now = dt.datetime(2026, 6, 15, tzinfo=dt.UTC)
    assert one.releaser.release_due() == ["cardio"]
    second = cells(one)
    assert read(one)["released"] == "2026-06-01"
    assert second["2026-03", "35", None] - first["2026-03", "35", None] in (55, 60, 65)
    assert abs(second["2026-05", "35", "I50"] - 40) <= 10
    assert [(leaf.action, leaf.permit, leaf.count, leaf.about) for leaf in one.told] == [
        ("indicators-released", "cardio", len(first), "2026-05-01"),
        ("indicators-released", "cardio", len(second), "2026-06-01"),
    ]


def test_corrections_retractions_moves_and_closings_are_followed(one: Fixture) -> None:
    hub = one.hub
    hub.now = dt.datetime(2026, 4, 1, tzinfo=dt.UTC)
    hub.opened(permit(indicators=MONTHLY))
    people(hub, 200)
    hub.now = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    one.releaser.release_due()
    assert {place for place in cells(one) if place[1]} == {("2026-03", "35", None), ("2026-03", "35", "I50")}
    moved: dict[str, Any] = {"commune": "29019", "time": "2026-03-10T10:00:00Z", "revision": 2}
    hub.run(*(hub.record(f"r{n}", f"s{n}", f"p{n}", {"code": "J45"}, **moved) for n in range(60)))
    later: dict[str, Any] = {"commune": "35238", "time": "2026-02-01T10:00:00Z", "revision": 2}
    hub.run(*(hub.record(f"r{n}", f"s{n}", f"p{n}", {"code": "I50"}, **later) for n in range(60, 140)))
    gone: dict[str, Any] = {"deleted": True, "revision": 2}
    hub.run(*(hub.record(f"r{n}", f"s{n}", f"p{n}", **gone) for n in range(140, 170)))
    hub.now = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
    one.releaser.release_due()
    found = {place: shown for place, shown in cells(one).items() if place[1]}
    expected = {("2026-03", "29"): 60, ("2026-02", "35"): 80, ("2026-03", "35"): 30}
    codes = {("2026-03", "29"): "J45", ("2026-02", "35"): "I50", ("2026-03", "35"): "I50"}
    assert found.keys() == {(*place, code) for place in expected for code in (None, codes[place])}
    assert all(abs(shown - expected[place[0], str(place[1])]) <= 10 for place, shown in found.items())
    hub.run(hub.closed("cardio"))
    assert one.api.get("/v1/permits/cardio/indicators", headers=as_("team")).status_code == 403
    hub.now = dt.datetime(2026, 7, 1, tzinfo=dt.UTC)
    assert one.releaser.release_due() == []


def test_somebody_counts_once_whatever_is_merged_and_not_at_all_who_objects(one: Fixture) -> None:
    hub = one.hub
    hub.now = dt.datetime(2026, 4, 1, tzinfo=dt.UTC)
    hub.opened(permit(indicators=MONTHLY), permit("exempt", indicators=MONTHLY, opposition_exemption="A law."))
    people(hub, 90)
    hub.run(*(hub.record(f"again{n}", f"s{n}", f"p{n}", {"code": "I50.0"}, time="2026-03-20T10:00:00Z",
                         commune="35238") for n in range(90)))  # fmt: skip
    hub.run(*(hub.link(PatientsMerged(n, f"p{n}", f"p{n + 1}", (subject_id(f"s{n + 1}"),))) for n in range(0, 40, 2)))
    hub.run(*(hub.objection(f"o{n}", f"s{n}", f"p{n}") for n in range(60, 90)))
    hub.run(hub.link(PatientSplit(100, "p0", "p1", (subject_id("s1"),))))
    hub.now = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    assert one.releaser.release_due() == ["cardio", "exempt"]
    assert abs(cells(one)["2026-03", "35", None] - 41) <= 10
    assert abs(cells(one, "exempt")["2026-03", "35", None] - 71) <= 10


def test_what_the_audit_log_does_not_take_is_neither_released_nor_answered(one: Fixture) -> None:
    hub = one.hub
    hub.now = dt.datetime(2026, 4, 1, tzinfo=dt.UTC)
    hub.opened(permit(indicators=MONTHLY))
    people(hub, 50)
    hub.now = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    one.told.deaf = True
    with pytest.raises(BrokerAway):
        one.releaser.release_due()
    assert read(one)["released"] is None
    one.told.deaf = False
    assert one.releaser.release_due() == ["cardio"]
    assert read(one)["cells"]


def test_who_may_read_them(one: Fixture) -> None:
    hub = one.hub
    hub.opened(permit(indicators=MONTHLY), permit("plain"))
    at = "/v1/permits/{}/indicators".format
    assert one.api.get(at("cardio")).status_code == 401
    assert one.api.get(at("cardio"), headers=as_("officer")).status_code == 403
    strangers, nobody = (one.api.get(at(name), headers=as_("strangers")) for name in ("cardio", "there-is-none"))
    assert (strangers.status_code, strangers.json()) == (nobody.status_code, nobody.json())
    without = one.api.get(at("plain"), headers=as_("team"))
    assert (without.status_code, without.json()["title"]) == (404, "the permit has no indicators")
    assert one.api.get(at("NO ID"), headers=as_("team")).status_code == 422


# the attack


class Place(NamedTuple):
    """A cell: of which release of which permit, when, where and with what."""

    release: int
    permit: str
    period: str
    area: str
    diagnosis: str | None


Possible = tuple[int, int] | None
"""The least and the greatest number of people, or None where there is none."""


def possible(shown: int | None, shift: int) -> Possible:
    """Which numbers of people may stand behind a cell that is shown so (None: not at all), if its shift is known."""
    threshold = SMALLEST + NOISE + max(most(1), shift)
    low, high = (0 - 10**6, threshold - 1) if shown is None else (max(shown - 2, threshold), shown + 2)
    least, greatest = max(0, low - shift - NOISE), high - shift + NOISE
    return None if greatest < least else (least, greatest)


def bounds(
    groups: Iterable[dict[Place, int]], truth: dict[Place, int], shown: dict[Place, int], shifts: Iterable[int]
) -> dict[Place, tuple[int, int]]:
    """The numbers of people that are possible in each cell of an area.

    A group is what the attacker knows by how much differs, as offsets from a number of its own; a shift of the area
    for which any group is impossible is none.
    """
    found: dict[Place, tuple[int, int]] = {}
    for shift in shifts:
        every: list[tuple[dict[Place, int], int, int]] = []
        for group in groups:
            ranges = [(possible(shown.get(place), shift), offset) for place, offset in group.items()]
            least = max(-(10**6) if one is None else one[0] - offset for one, offset in ranges)
            greatest = min(-(10**7) if one is None else one[1] - offset for one, offset in ranges)
            every.append((group, least, greatest))
        if any(greatest < least for _, least, greatest in every):
            continue
        for group, least, greatest in every:
            for place, offset in group.items():
                low, high = found.get(place, (10**6, 0))
                found[place] = min(low, least + offset), max(high, greatest + offset)
    assert all(low <= truth[place] <= high for place, (low, high) in found.items()), "the attack is right"
    return found


def differing_by_one(members: dict[Place, frozenset[str]]) -> list[tuple[Place, Place]]:
    """Pairs of cells of one period and area whose people are the same but for one."""
    by_where: defaultdict[tuple[str, str], list[Place]] = defaultdict(list)
    for place in members:
        by_where[place.period, place.area].append(place)
    return [
        (one, other)
        for places in by_where.values()
        for one, other in combinations(places, 2)
        if len(members[one] ^ members[other]) == 1
    ]


def known_differences(
    members: dict[Place, frozenset[str]], pairs: Iterable[tuple[Place, Place]]
) -> dict[str, list[dict[Place, int]]]:
    """What hangs together by such pairs, by area, each with its offsets."""
    joined: defaultdict[Place, set[Place]] = defaultdict(set)
    for one, other in pairs:
        joined[one].add(other)
        joined[other].add(one)
    groups: defaultdict[str, list[dict[Place, int]]] = defaultdict(list)
    left = set(members)
    while left:
        first = min(left, key=str)
        group, todo = {first: 0}, [first]
        while todo:
            at = todo.pop()
            for other in joined[at] - group.keys():
                group[other] = group[at] + len(members[other]) - len(members[at])
                todo.append(other)
        left -= group.keys()
        groups[first.area].append(group)
    return groups


class Story(NamedTuple):
    """Releases under three permits, and who really is in each cell."""

    shown: dict[Place, int]
    members: dict[Place, frozenset[str]]


def story(one: Fixture, seed: int) -> Story:
    """Groups of 3 to 60 people by department and month. Before each release one thing happens to one person of each.

    Of the three permits one leaves out a person of each group, and one is exempt from oppositions.
    """
    hub, dice = one.hub, random.Random(seed)
    hub.now = dt.datetime(2026, 1, 15, tzinfo=dt.UTC)
    women = {"sex": ["female"]}
    permits = ["everybody", "women", "exempt"]
    hub.opened(
        permit("everybody", indicators=MONTHLY),
        permit("women", indicators=MONTHLY, population=women),
        permit("exempt", indicators=MONTHLY, opposition_exemption="A law."),
    )
    months = [f"2025-{month:02}" for month in range(1, 9)]
    where = {(period, area): dice.randint(3, 60) for period in months for area in COMMUNES}
    in_view: dict[str, dict[tuple[str, str], dict[str, set[str]]]] = {
        name: {place: {} for place in where} for name in permits
    }
    """Of each permit and group the people, with their diagnoses."""

    def arrive(place: tuple[str, str], who: str, code: str, sex: str = "female") -> Any:
        period, area = place
        for name in permits:
            if name != "women" or sex == "female":
                in_view[name][place].setdefault(who, set()).add(code)
        time = f"{period}-15T10:00:00Z"
        return hub.record(
            f"r-{who}-{code}", f"s-{who}", f"p-{who}", {"code": code}, time=time, commune=COMMUNES[area], sex=sex
        )

    first = []
    for place, size in where.items():
        name = "".join(place)
        first += [arrive(place, f"{name}-{n}", "I50") for n in range(size)]
        first += [arrive(place, f"{name}-man", "I50", "male"), arrive(place, f"{name}-other", "J45")]
    for begin in range(0, len(first), 500):
        hub.run(*first[begin : begin + 500])

    def one_more(place: tuple[str, str], name: str) -> Any:
        return arrive(place, f"{name}-late", "I50")

    def objects(place: tuple[str, str], name: str) -> Any:
        for view in ("everybody", "women"):
            del in_view[view][place][f"{name}-0"]
        return hub.objection(f"o-{name}", f"s-{name}-0", f"p-{name}-0")

    def are_one(place: tuple[str, str], name: str) -> Any:
        for view in permits:
            in_view[view][place][f"{name}-1"] |= in_view[view][place].pop(f"{name}-2")
        moved = (subject_id(f"s-{name}-2"),)
        return hub.link(PatientsMerged(1, f"p-{name}-1", f"p-{name}-2", moved))

    happenings: list[Callable[[tuple[str, str], str], Any] | None] = [None, one_more, objects, are_one]
    shown: dict[Place, int] = {}
    members: dict[Place, frozenset[str]] = {}
    for number, happens in enumerate(happenings):
        if happens is not None:
            batch = [happens(place, "".join(place)) for place in where]
            hub.run(*batch)
        hub.now = dt.datetime(2026, 2 + number, 1, tzinfo=dt.UTC)
        assert one.releaser.release_due() == sorted(permits)
        for name in permits:
            for (period, area, code), value in cells(one, name).items():
                if area is not None:
                    shown[Place(number, name, period, area, code)] = value
            for (period, area), inside in in_view[name].items():
                for code in (None, "I50", "J45"):
                    who = frozenset(who for who, codes in inside.items() if code is None or code in codes)
                    members[Place(number, name, period, area, code)] = who
    return Story(shown, members)


def test_pairs_that_differ_by_one_person_leave_eleven_numbers_open_at_least(one: Fixture) -> None:
    found = story(one, 1)
    pairs = differing_by_one(found.members)
    truth = {place: len(who) for place, who in found.members.items()}
    assert set(found.shown) <= set(truth)
    assert all(truth[place] >= SMALLEST for place in found.shown)
    assert all(place in found.shown for place in truth if truth[place] >= 27)
    groups = known_differences(found.members, pairs)
    widths: dict[Place, int] = {}
    for area in COMMUNES:
        open_to_all = bounds(groups[area], truth, found.shown, SHIFTS)
        widths |= {place: high - low for place, (low, high) in open_to_all.items()}
    assert widths.keys() == truth.keys()
    over_time = sum(a.release != b.release for a, b in pairs)
    permits = sum(a.permit != b.permit for a, b in pairs)
    nested = sum(a.diagnosis != b.diagnosis for a, b in pairs)
    log.warning("%d pairs: %d over time, %d of permits, %d nested", len(pairs), over_time, permits, nested)
    assert len(pairs) >= 1000
    assert min(over_time, permits, nested) >= 500
    assert any((a in found.shown) != (b in found.shown) for a, b in pairs), "one of some pairs is withheld"
    assert min(min(widths[a], widths[b]) for a, b in pairs) >= SMALLEST
    assert min(widths.values()) >= SMALLEST


def test_without_the_shift_the_attack_finds_people(one: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Perturbation, "shift", lambda _self, _area: 0)
    found = story(one, 2)
    pairs = differing_by_one(found.members)
    truth = {place: len(who) for place, who in found.members.items()}
    groups = known_differences(found.members, pairs)
    narrow = 0
    for area in COMMUNES:
        narrow += sum(high - low < SMALLEST for low, high in bounds(groups[area], truth, found.shown, [0]).values())
    assert narrow > len(truth) / 2


def test_nested_areas_move_together(one: Fixture) -> None:
    """Everywhere and the one department in which there is anybody, or anybody but one person."""
    hub = one.hub
    hub.now = dt.datetime(2026, 4, 1, tzinfo=dt.UTC)
    hub.opened(permit(indicators=MONTHLY, population={"departments": ["35", "29"]}))
    sizes = range(20, 60)
    months = [(size, f"{2000 + size % 25:04}-{1 + size // 25:02}") for size in sizes]
    for size, month in months:
        time = f"{month}-10T10:00:00Z"
        here: dict[str, Any] = {"commune": "35238", "time": time}
        hub.run(
            *(hub.record(f"r{size}-{n}", f"s{size}-{n}", f"p{size}-{n}", {"code": "I50"}, **here) for n in range(size))
        )
        if size % 2:
            hub.run(hub.record(f"x{size}", f"x{size}", f"x{size}", {"code": "I50"}, commune="29019", time=time))
    hub.now = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    one.releaser.release_due()
    found = cells(one)
    open_to_all: defaultdict[int, set[int]] = defaultdict(set)
    for one_shift in SHIFTS:
        for other_shift in SHIFTS:
            fits: dict[int, set[int]] = {}
            for size, month in months:
                everywhere, area = found.get((month, None, "I50")), found.get((month, "35", "I50"))
                if everywhere is None or area is None:
                    continue
                inside = set(range(area - 4 - one_shift, area + 5 - one_shift))
                total = {
                    n - size % 2
                    for n in range(everywhere - 4 - one_shift - other_shift, everywhere + 5 - one_shift - other_shift)
                }
                fits[size] = inside & total
            if all(fits.values()):
                for size, numbers in fits.items():
                    open_to_all[size] |= numbers
    assert len(open_to_all) > 10
    for size, numbers in open_to_all.items():
        assert size in numbers
        assert max(numbers) - min(numbers) >= SMALLEST


def test_releases_say_the_same_again_while_nobody_changes(one: Fixture) -> None:
    hub = one.hub
    hub.now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    hub.opened(permit(indicators=MONTHLY))
    people(hub, 77, time="2025-12-01T00:00:00Z")
    seen = []
    for month in range(2, 8):
        hub.now = dt.datetime(2026, month, 1, tzinfo=dt.UTC)
        hub.run(*(hub.record(f"r{n}", f"s{n}", f"p{n}", {"code": "I50.1"}, revision=month, commune="35238",
                             time="2025-12-01T00:00:00Z") for n in range(77)))  # fmt: skip
        one.releaser.release_due()
        seen.append(cells(one))
    assert all(one_after == before for before, one_after in pairwise(seen))
    assert seen[0]
