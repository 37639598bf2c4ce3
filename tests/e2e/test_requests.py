"""Somebody asks what is held of them, and to be erased: sent, worked on by the command line, and searched for after."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.commands import estuaire
from tests.e2e.test_audit import leaves
from tests.e2e.test_oppositions import backfilling
from tests.e2e.test_stewards import Follower
from tests.hub import Hub
from tests.integration.test_erasure import everything

pytestmark = pytest.mark.e2e
log = logging.getLogger("estuaire.tests")

Make = Callable[..., dict[str, Any]]
NIR = {"system": "ins-nir", "value": "231072227841706"}
PERSON = {
    "birth_family_name": "KERBELLEC",
    "given_names": ["Soizic"],
    "sex": "female",
    "birth_date": "1931-07-19",
    "identity_status": "qualified",
}
DATABASES = ("linkage", "access")


def url_of(hub: Hub, service: str) -> str:
    return hub.platform.services[service].environment[f"ESTUAIRE_{service.upper()}_DATABASE_URL"]


def rows(hub: Hub, service: str, query: str, *parameters: Any) -> list[Any]:
    with psycopg.connect(url_of(hub, service)) as connection:
        return [one for row in connection.execute(sql.SQL(query), parameters, binary=True) for one in row]


def secrets_of(hub: Hub, event_ids: list[str]) -> list[bytes]:
    """All by which the hub knows the person of these records, and nobody else of the tests: subjects, tokens, codes,
    wrapped keys, sealed bodies."""
    events = [bytes.fromhex(one) for one in event_ids]
    subjects = rows(hub, "linkage", "SELECT DISTINCT subject FROM records WHERE event_id = ANY(%s)", events)
    own = (
        "SELECT token, codes FROM subject_tokens mine WHERE subject = ANY(%s) AND NOT EXISTS"
        " (SELECT FROM subject_tokens other WHERE other.token = mine.token AND other.subject <> ALL(%s))"
    )
    found = rows(hub, "linkage", own, subjects, subjects)
    found += rows(hub, "access", "SELECT key FROM subjects WHERE subject = ANY(%s)", subjects)
    found += rows(hub, "access", "SELECT body FROM history WHERE event_id = ANY(%s)", events)
    return sorted({bytes(one) for one in (*subjects, *found) if one and any(one)})


def left(hub: Hub, secrets: list[bytes]) -> Iterator[tuple[str, int]]:
    """Which of these are still in which database."""
    for service in DATABASES:
        data = everything(url_of(hub, service))
        for place, one in enumerate(secrets):
            if one in data or one.hex().encode() in data:
                yield service, place


def in_outputs(hub: Hub, secrets: list[bytes]) -> bool:
    """Whether any of these is in what steps keep until it is published."""
    kept = b"".join(bytes(one) for service in DATABASES for one in rows(hub, service, "SELECT outputs FROM progress"))
    return any(one in kept or one.hex().encode() in kept for one in secrets)


def test_from_the_request_to_the_letter(hub: Hub, observation: Make, tmp_path: Path) -> None:
    hospital, insurer, portal, old = (hub.source() for _ in range(4))
    permit = hub.permit(hospital, insurer, old, environment="bubble-7")

    def about(source: str, name: str, *identifiers: Any) -> dict[str, Any]:
        event = observation(source, name, 1)
        event["data"]["identity"] = {**PERSON, "identifiers": identifiers or [NIR]}
        return event

    ipp = {"system": "ipp", "assigner": hospital, "value": "P-000417-KERBELLEC"}
    theirs = [about(hospital, f"h{at}", NIR, ipp) for at in range(20)]
    answer = hub.send(hospital, theirs)
    answer.accepted += hub.send(insurer, [about(insurer, f"i{at}") for at in range(5)]).accepted
    hub.send(hospital, [observation(hospital, f"o{at}", 2) for at in range(7)])
    conflict = about(hospital, "h0", NIR, ipp)
    conflict["data"]["record"]["valueQuantity"]["value"] = 99
    hub.send(hospital, [conflict])

    asking = {"id": "r-1", "kind": "erasure", "received": "2026-05-11", "identity": {**PERSON, "identifiers": [NIR]}}
    file, letter = tmp_path / "request.yaml", tmp_path / "letter.txt"
    file.write_text(json.dumps(asking))
    letter.write_text("You are erased.")
    with Follower(hub, permit.id) as follower:
        hub.wait_for(lambda: sorted(follower.people().values()) == [7, 25])
        kept, gone = sorted(follower.people(), key=follower.people().__getitem__)
        event_id = estuaire(hub, "request", "send", str(file), "--source", portal).stdout.split()[-1]
        hub.wait_for(lambda: event_id in estuaire(hub, "request", "list").stdout)
        shown = json.loads(estuaire(hub, "request", "show", event_id, "--json").stdout)
        report = shown["report"]
        assert (shown["kind"], shown["standing"], report["identities"]) == ("erasure", "open", 3)
        assert {(one["source"], one["records"]) for one in report["records"]} == {(hospital, 20), (insurer, 5)}
        assert set(report["demographics"]) >= {"sex", "birth_year"}
        (view,) = report["views"]
        assert (view["permit"], view["environment"], view["records"]) == (permit.id, "bubble-7", 25)
        assert "bubble-7" in estuaire(hub, "request", "show", event_id).stdout
        early = estuaire(hub, "request", "answer", event_id, "--paper", str(letter), expect=1)
        assert "nothing is erased yet" in early.stderr

        secrets = secrets_of(hub, [event_id, *(one["event_id"] for one in answer.accepted)])
        assert len(secrets) > 3 * 2 + 25
        assert {place for _, place in left(hub, secrets)} == set(range(len(secrets))), "the search finds them all"
        with backfilling(hub, old, observation):
            hub.wait_for(lambda: len(follower.people()) > 10)
            with ThreadPoolExecutor(1) as pool:
                erasing = pool.submit(estuaire, hub, "request", "erase", event_id, "--yes", "--json")
                hub.wait_for(lambda: not follower.people().get(gone))
                left_at = dt.datetime.now(dt.UTC)
                (done,) = json.loads(erasing.result().stdout)["acts"]
            seconds = (left_at - dt.datetime.fromisoformat(done["at"])).total_seconds()
            log.warning("withdrawn within %.1f s of the officer's act, amid a backfill", seconds)
            hub.send(hospital, theirs)
        assert done["records"] == 26
        hub.wait_for(lambda: not in_outputs(hub, secrets))
        assert not list(left(hub, secrets))

        # what comes later, or comes again, brings nobody back
        hub.send(hospital, [about(hospital, "later", NIR, ipp)])
        estuaire(hub, "replay", "records-pseudonymised-dlq", "--max", "10")
        hub.send(hospital, [observation(hospital, "last", 2)])
        hub.wait_for(lambda: follower.people().get(kept) == 8)
        assert not follower.people().get(gone)
        assert not any(line["data"]["demographics"].get("birth_year") for line in hub.timelines(permit))
        hub.wait_for(lambda: not in_outputs(hub, secrets))
        assert not list(left(hub, secrets))
        assert not [one for one in hub.messages("records-linked-dlq") if one.headers["ce_source"] == hospital.encode()]
        assert "whom it was about is erased" in estuaire(hub, "trace", hospital, "later").stdout

    assert "answered" in estuaire(hub, "request", "answer", event_id, "--paper", str(letter)).stdout
    assert event_id not in estuaire(hub, "request", "list").stdout
    hub.wait_for(lambda: bool(leaves(hub, action="request-answered")))
    told = {one["action"]: one for one in leaves(hub, actor="officer:officer")}
    assert told["person-erased"]["count"] == 26
    assert told["request-read"]["count"] == 1


def test_somebody_asks_what_is_held_and_takes_it_back(hub: Hub, observation: Make, tmp_path: Path) -> None:
    source = hub.source()
    hub.send(source, [observation(source, "a", 1)])
    asking = {"id": "r-2", "kind": "access", "received": "2026-05-11"}
    asking["identity"] = observation(source, "a", 1)["data"]["identity"]
    file = tmp_path / "request.yaml"
    file.write_text(json.dumps(asking))
    event_id = estuaire(hub, "request", "send", str(file), "--source", source).stdout.split()[-1]
    hub.wait_for(lambda: event_id in estuaire(hub, "request", "list").stdout)
    assert json.loads(estuaire(hub, "request", "show", event_id, "--json").stdout)["report"]["identities"] == 1
    refused = estuaire(hub, "request", "erase", event_id, "--yes", expect=1).stderr
    assert "the person has not asked to be erased" in refused
    assert "taken back" in estuaire(hub, "request", "send", str(file), "--source", source, "--take-back").stdout
    hub.wait_for(lambda: event_id not in estuaire(hub, "request", "list").stdout)
