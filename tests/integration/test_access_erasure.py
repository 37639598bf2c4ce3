"""Erasure in access on a real PostgreSQL: what leaves the views, and what is left of somebody, byte by byte."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import msgspec
import psycopg
import pytest
from fastapi.testclient import TestClient

from contracts.merkle import root_of
from contracts.messages import PatientsMerged, PatientSplit, SubjectsErased, SubjectsLinked
from runtime.database import Database
from runtime.messages import Message
from services.access.adapters import PostgresHistory
from services.access.authorization import Doors
from services.access.lookup import PostgresReader
from services.access.requests import PostgresRequests
from services.access.routes import application
from services.access.vault import Vault
from tests.integration.test_access_history import (
    KNOWN,
    Broker,
    as_,
    code,
    database,
    one_timeline,
    pages,
    readers,
    reading,
    server,
    url,
    vault,
)
from tests.integration.test_erasure import everything
from tests.unit.access.hub import SOURCE, Hub, bodies, event_id, permit, subject_id

pytestmark = pytest.mark.integration

__all__ = ["database", "server", "url", "vault"]


@pytest.fixture
def broker(hub: Hub) -> Broker:
    return Broker(hub)


@pytest.fixture
def api(broker: Broker, hub: Hub, vault: Vault, url: str) -> Iterator[TestClient]:
    with reading(*readers(url)) as (reader, views):
        yield TestClient(application(lambda: None, reader, views, broker, vault, Doors(KNOWN), lambda: hub.now))


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
    (told,) = (one for one in hub.emitted if one.topic == "erasures")
    assert msgspec.msgpack.decode(told.value or b"", type=SubjectsErased).subjects == (subject_id("a"), subject_id("b"))
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


@pytest.mark.parametrize(
    "together", [pytest.param(False, id="one by one", marks=pytest.mark.long), pytest.param(True, id="in one batch")]
)
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


# over HTTP

PAPER = {"title": "letter.pdf", "date": "2026-05-20", "sha256": "0" * 64}


def request(api: TestClient, name: str, who: str = "officer") -> Any:
    return api.get(f"/v1/requests/{event_id(name)}", headers=as_(who))


def do(api: TestClient, name: str, act: str, **says: Any) -> Any:
    return api.post(f"/v1/requests/{event_id(name)}/{act}", json=says, headers=as_("officer"))


def a_person(hub: Hub) -> None:
    """Of two identities, with records in a view; and somebody else."""
    hub.opened(permit(environment="bubble-7"), permit("other", sources=["urn:nobody"]))
    told: dict[str, Any] = {"sex": "female", "birth_year": 1985}
    hub.run(hub.record("a", "s", patient("s"), code("I50"), time="2026-01-05T10:00:00Z", **told))
    hub.run(hub.record("b", "s", patient("s"), code("J45"), time="2026-03-07T10:00:00Z"))
    stay = {"entry": "2026-02-01"}
    hub.run(hub.record("c", "u", patient("s"), stay, kind="hospital-stay.v1", source="urn:clinic", dated=False))
    hub.run(hub.record("x", "x", patient("x"), code("E11")))
    hub.run(hub.request("r", "s", patient("s")), hub.request("q", "u", patient("s"), "access"))


def test_the_report_says_what_is_held_and_where_it_went(hub: Hub, api: TestClient, broker: Broker) -> None:
    a_person(hub)
    hub.run(hub.objection("o", "u", patient("s")))
    hub.run(hub.objection("o", "u", patient("s"), deleted=True, revision=2))
    found = request(api, "q").json()
    report = found.pop("report")
    assert found == {
        **{"id": event_id("q"), "kind": "access", "source": SOURCE, "received": "2026-05-11", "standing": "open"},
        **{"due": "2026-06-11", "overdue": False, "acts": []},
    }
    assert len(report.pop("as_seen")) == 32
    assert report == {
        "identities": 2,
        "records": [
            {"source": "urn:clinic", "type": "hospital-stay.v1", "records": 1, "first": None, "last": None},
            {"source": SOURCE, "type": "diagnosis.v1", "records": 2, "first": "2026-01-05", "last": "2026-03-07"},
        ],
        "demographics": ["birth_year", "sex"],
        "objects_to": [],
        "views": [
            {
                **{"permit": "cardio", "title": "A test", "subscribers": ["team"], "environment": "bubble-7"},
                **{"state": "open", "records": 3, "messages": 9, "expires": "2099-12-31"},
            }
        ],
    }
    assert [(one.action, one.actor, one.root) for one in broker.told] == [
        ("request-read", "officer:officer", root_of([event_id("q")]))
    ]
    broker.is_deaf = True
    assert request(api, "q").status_code == 503, "nothing is read that the audit log has not kept"


def test_an_erasure_from_the_list_to_the_letter(hub: Hub, api: TestClient, url: str) -> None:
    a_person(hub)
    listed = api.get("/v1/requests", headers=as_("officer")).json()["requests"]
    assert {(one["id"], one["kind"], one["due"]) for one in listed} == {
        (event_id("r"), "erasure", "2026-06-11"),
        (event_id("q"), "access", "2026-06-11"),
    }
    seen = request(api, "r").json()["report"]["as_seen"]
    assert do(api, "r", "answer", document=PAPER).json()["title"] == "nothing is erased yet"
    hub.run(hub.record("d", "u", patient("s"), code("E11"), revision=2))
    stale = do(api, "r", "erase", as_seen=seen)
    assert (stale.status_code, stale.json()["title"]) == (409, "something else is held by now")
    done = do(api, "r", "erase", as_seen=request(api, "r").json()["report"]["as_seen"])
    assert done.status_code == 200, done.text
    assert done.json()["standing"] == "erased"
    assert done.json()["report"]["identities"] == 0
    assert done.json()["acts"][0]["records"] == 6
    assert hub.shape() == [bodies("E11")]
    assert traces(url, "s", "u") == []
    assert do(api, "r", "answer", document=PAPER).json()["standing"] == "answered"
    assert do(api, "r", "refuse", ground="research", reason="Late.", document=PAPER).status_code == 409
    assert [one["id"] for one in api.get("/v1/requests", headers=as_("officer")).json()["requests"]] == [event_id("q")]
    assert len(api.get("/v1/requests?all=true", headers=as_("officer")).json()["requests"]) == 2
    told = [one.action for one in hub.leaves("person-erased", "request-answered")]
    assert told == ["person-erased", "request-answered"]


def test_a_request_is_refused_on_a_ground_of_the_law_and_extended_once(hub: Hub, api: TestClient) -> None:
    a_person(hub)
    assert do(api, "q", "erase", as_seen="0" * 32).json()["title"] == "the person has not asked to be erased"
    wrong = do(api, "q", "refuse", ground="research", reason="For science.", document=PAPER)
    assert (wrong.status_code, wrong.json()["title"]) == (409, "research is no ground for this")
    assert "rights-of-others (art. 15(4))" in wrong.json()["detail"]
    extended = do(api, "q", "extend", reason="There are many of them.", document=PAPER).json()
    assert (extended["due"], extended["standing"]) == ("2026-08-11", "open")
    assert do(api, "q", "extend", reason="Still.", document=PAPER).status_code == 409
    refused = do(api, "r", "refuse", ground="research", reason="For science.", document=PAPER).json()
    assert refused["standing"] == "refused"
    assert refused["report"]["identities"] == 2
    assert {one.action for one in hub.leaves("request-extended", "request-refused")} == {
        "request-extended",
        "request-refused",
    }


def test_a_request_that_is_taken_back_needs_nothing(hub: Hub, api: TestClient) -> None:
    a_person(hub)
    hub.run(hub.request("r", "s", patient("s"), deleted=True, revision=9))
    assert request(api, "r").json()["standing"] == "taken-back"
    assert do(api, "r", "erase", as_seen="0" * 32).status_code == 409
    hub.run(hub.request("r", "s", patient("s"), revision=10))
    assert request(api, "r").json()["standing"] == "open"


def test_requests_are_for_officers_and_what_is_wrong_is_said_in_words(hub: Hub, api: TestClient) -> None:
    a_person(hub)
    for who in ("team", "operator", "reviewer"):
        assert request(api, "r", who).status_code == 403
        assert api.get("/v1/requests", headers=as_(who)).status_code == 403
        assert api.get("/v1/oppositions", headers=as_(who)).status_code == 403
    assert request(api, "nothing").status_code == 404
    assert do(api, "r", "forget").json()["detail"] == "The acts are answer, refuse, extend, erase."
    wrong = do(api, "r", "refuse", ground="because", document={**PAPER, "sha256": "x"})
    assert wrong.status_code == 422
    assert "reason: this clause is missing" in wrong.json()["detail"]
    assert "document.sha256: use the SHA-256 of the document" in wrong.json()["detail"]


def test_of_two_officers_at_the_same_moment_one_acts(hub: Hub, api: TestClient) -> None:
    a_person(hub)
    first, second = (hub.act("q", "answer"), hub.act("q", "answer"))
    outputs = hub.run(first, second)
    assert [why.reason.value for _, why in outputs.dead] == ["conflict"]
    assert len(request(api, "q").json()["acts"]) == 1
    assert hub.run(first).dead == [], "the very same act again changes nothing"
    assert len(request(api, "q").json()["acts"]) == 1
    letter = {"ground": "research", "reason": "For science.", "document": PAPER}
    refused, erased = hub.act("r", "refuse", says=letter), hub.act("r", "erase", "s", "u")
    outputs = hub.run(refused, erased)
    assert [why.detail for _, why in outputs.dead] == ["the request is refused"]
    assert not [emit for _, emit in outputs.emits if emit.topic == "erasures"], "and linkage hears of none"
    assert sorted(map(len, hub.shape())) == [1, 3]


def test_the_catalogue_and_a_dry_run_know_nothing_of_requests(hub: Hub, api: TestClient, url: str) -> None:
    hub.run(*(hub.request(f"r{n}", f"s{n}", patient(f"s{n}"), "access") for n in range(3)))
    reader = PostgresReader(readers(url)[0], 1)
    reader.open()
    assert reader.holdings() == []
    reader.close()
    wanted = permit(types=["diagnosis.v1"], fields={"diagnosis.v1": ["*"]})
    tried = wanted.model_dump(mode="json", by_alias=True, exclude_none=True)
    found = api.post("/v1/permits/dry-run", json=tried, headers=as_("officer")).json()
    assert found["released"]["people"] == 0
    asked = {**tried, "types": ["access-request.v1"], "fields": {}}
    refused = api.post("/v1/permits/dry-run", json=asked, headers=as_("officer"))
    assert "who wants what of the hub is nobody's to know" in refused.json()["detail"]
