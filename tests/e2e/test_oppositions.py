"""Somebody objects: over HTTP, by the command line and by a FHIR Consent, while the hub has other things to do."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from estuaire.producer import Producer
from tests.commands import estuaire
from tests.e2e.test_stewards import Follower
from tests.hub import Hub, meanwhile

pytestmark = pytest.mark.e2e
log = logging.getLogger("estuaire.tests")

Make = Callable[..., dict[str, Any]]
EXEMPT = {"opposition_exemption": "Surveillance, by an order of the minister."}


@contextmanager
def backfilling(hub: Hub, source: str, observation: Make) -> Iterator[None]:
    """Others' old records come in on the lane of lower priority meanwhile, at most 10,000 ahead of the views."""
    token = hub.platform.keyring.producer_token(source)

    def send(stop: Event) -> None:
        with Producer(hub.platform.ingest_url, token, backfill=True) as producer:
            for number in range(1000):
                if stop.is_set():
                    return
                events = (observation(source, f"old-{number}-{at}", 1000 + at) for at in range(500))
                list(producer.send(events))
                while number % 20 == 19 and not stop.is_set() and not producer.wait_for_views(source, 1):
                    pass

    with meanwhile(send):
        yield


def test_an_objection_empties_the_views_and_its_end_fills_them_again(
    hub: Hub, observation: Make, tmp_path: Path
) -> None:
    source, old, portal = hub.source(), hub.source(), hub.source()
    permit, duty = hub.permit(source, old), hub.permit(source, **EXEMPT)
    for person in (1, 2):
        hub.send(source, [observation(source, f"o{person}-{at}", person) for at in range(20)])
    objection = {"id": "objection-1", "identity": observation(source, "x", 1)["data"]["identity"]}

    def read(**params: Any) -> Any:
        return hub.get(f"/v1/permits/{permit.id}/timelines", "subscribers", permit.subscribers[0], **params)

    with Follower(hub, permit.id) as follower, Follower(hub, duty.id) as bound_by_duty:
        hub.wait_for(lambda: sorted(follower.people().values()) == [20, 20])
        both = set(follower.people())
        cursor = read(limit=1).headers["X-Next-Cursor"]
        with backfilling(hub, old, observation), hub.producer(portal) as producer:
            hub.wait_for(lambda: len(follower.people()) > 10)
            begun = time.monotonic()
            (accepted,) = producer.oppose(objection).accepted
            hub.wait_for(lambda: not both <= set(follower.people()))
            log.warning("withdrawn %.2f s after it was sent, amid a backfill", time.monotonic() - begun)
            (objector,) = both - set(follower.people())
            assert objector not in read(cursor=cursor, limit=10_000).text
            assert objector not in read(limit=10_000).text
        assert sorted(bound_by_duty.people().values()) == [20, 20], "who is exempt by law is not bound"
        hub.send(source, [observation(source, "later", 1)])
        assert objector not in follower.people()
        assert "withheld by an opposition" in estuaire(hub, "trace", source, "later").stdout

        file = tmp_path / "objection.yaml"
        file.write_text(json.dumps(objection))
        said = estuaire(hub, "oppose", str(file), "--source", portal, "--lift").stdout
        assert accepted["event_id"] in said
        hub.wait_for(lambda: follower.people().get(objector) == 21)
        assert "in force" in estuaire(hub, "oppose", str(file), "--source", portal).stdout
        hub.wait_for(lambda: objector not in follower.people())


def test_a_consent_that_denies_is_an_objection(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    patient = {"resourceType": "Patient", "id": "p-1", "gender": "female"}
    seen = {
        "resourceType": "Observation",
        "id": "o-1",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": "Patient/p-1"},
        "effectiveDateTime": "2026-03-01T10:00:00Z",
        "valueQuantity": {"value": 72, "system": "http://unitsofmeasure.org", "code": "/min"},
    }
    denies = {
        "resourceType": "Consent",
        "id": "c-1",
        "status": "active",
        "scope": {"coding": [{"code": "research"}]},
        "patient": {"reference": "Patient/p-1"},
        "provision": {"type": "deny"},
    }
    with hub.producer(source) as producer, Follower(hub, permit.id) as follower:
        bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": patient}, {"resource": seen}]}
        assert len(producer.send_fhir(json.dumps(bundle).encode()).accepted) == 2
        hub.wait_for(lambda: list(follower.people().values()) == [1])
        assert producer.send_fhir(json.dumps(denies).encode()).accepted
        hub.wait_for(lambda: follower.people() == {})
        assert producer.send_fhir(json.dumps({**denies, "status": "inactive"}).encode()).accepted
        hub.wait_for(lambda: list(follower.people().values()) == [1])


def test_one_by_whom_nobody_could_be_found_is_refused_in_words(hub: Hub, tmp_path: Path) -> None:
    file = tmp_path / "objection.yaml"
    file.write_text("{id: x, identity: {sex: female}}")
    refused = estuaire(hub, "oppose", str(file), "--source", hub.source(), expect=1).stderr
    assert "nobody-found" in refused
    assert "give an identifier" in refused
