"""A record goes from a producer to a subscriber, and what happens to it on the way is what was meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from runtime.messages import Message
from tests.hub import Hub

pytestmark = pytest.mark.e2e

Make = Callable[..., dict[str, Any]]


def identity(source: str, *identifiers: dict[str, str]) -> dict[str, Any]:
    """An event that carries identifiers and nothing else."""
    return {
        "specversion": "1.0",
        "id": "-".join(one["value"] for one in identifiers),
        "source": source,
        "type": "identity.v1",
        "time": "2026-03-01T09:00:00Z",
        "data": {"identity": {"identifiers": list(identifiers)}},
    }


def test_a_record_reaches_the_view(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    answer = hub.send(source, [observation(source, f"r{number}", number % 3) for number in range(30)])
    assert len(answer.accepted) == 30
    entries = hub.view(permit).entries()
    assert len(entries) == 30
    assert len({entry.subject for entry in entries}) == 3
    assert all(entry.data["record"]["valueQuantity"]["value"] == 72 for entry in entries)


def test_history_comes_first_when_a_permit_opens_later(hub: Hub, observation: Make) -> None:
    source = hub.source()
    hub.send(source, [observation(source, f"before{number}", 1) for number in range(20)])
    permit = hub.permit(source)
    hub.send(source, [observation(source, f"after{number}", 1) for number in range(20)])
    hub.wait_for(lambda: len(hub.view(permit).entries()) == 40)


def test_a_repeat_is_a_duplicate_and_a_silent_change_a_conflict(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    event = observation(source, "one", 1)
    hub.send(source, [event, event, observation(source, "one", 1, value=99)])
    (entry,) = hub.view(permit).entries()
    assert entry.data["record"]["valueQuantity"]["value"] == 72
    with hub.producer(source) as producer:
        counts = producer.status(source)["counts"]
    assert counts["linkage"]["duplicates"] == 1
    assert counts["linkage"]["dead_lettered:conflict"] == 1


def test_a_correction_replaces_and_a_retraction_withdraws(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    hub.send(source, [observation(source, "kept", 1), observation(source, "wrong", 1), observation(source, "gone", 1)])
    gone = observation(source, "gone", 1, type="observation.v1.deleted")
    hub.send(source, [observation(source, "wrong", 1, value=61, correction=True), gone])
    values = sorted(entry.data["record"]["valueQuantity"]["value"] for entry in hub.view(permit).entries())
    assert values == [61, 72]


def test_a_producers_version_outranks_arrival(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    hub.send(
        source, [observation(source, "v", 1, value=80, version=3), observation(source, "v", 1, value=70, version=2)]
    )
    (entry,) = hub.view(permit).entries()
    assert entry.data["record"]["valueQuantity"]["value"] == 80


def test_a_merge_reaches_the_view_and_the_timeline(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    hub.send(source, [observation(source, f"a{number}", 1) for number in range(5)])
    hub.send(source, [observation(source, f"b{number}", 2) for number in range(5)])
    assert len({entry.subject for entry in hub.view(permit).entries()}) == 2
    both = [{"system": "ipp", "assigner": source, "value": f"P{person:06d}"} for person in (1, 2)]
    hub.send(source, [identity(source, *both)])
    merged = hub.view(permit).entries()
    assert len(merged) == 10
    assert len({entry.subject for entry in merged}) == 1
    timeline = hub.timelines(permit)
    assert {line["id"] for line in timeline} == {entry.id for entry in merged}
    assert {line["subject"] for line in timeline} == {merged[0].subject}


def test_the_timeline_over_http_is_the_view(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    times = [f"2026-0{month}-01T10:00:00Z" for month in (3, 1, 2)]
    hub.send(source, [observation(source, f"t{time}", 7, time=time) for time in times])
    lines = hub.timelines(permit, limit=2)
    assert {line["id"] for line in lines} == {entry.id for entry in hub.view(permit).entries()}
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)


def test_not_yours_and_not_there_look_the_same(hub: Hub) -> None:
    permit = hub.permit(hub.source())
    stranger = hub.get(f"/v1/permits/{permit.id}/timelines", "subscribers", permit.subscribers[0] + "-other")
    nowhere = hub.get("/v1/permits/no-such-permit/timelines", "subscribers", permit.subscribers[0])
    assert stranger.status_code in (401, 404)
    assert nowhere.status_code == 404
    other = hub.permit(hub.source())
    not_mine = hub.get(f"/v1/permits/{other.id}/timelines", "subscribers", permit.subscribers[0])
    assert (not_mine.status_code, not_mine.json()) == (nowhere.status_code, nowhere.json())


def test_a_permit_lets_through_only_what_it_names(hub: Hub, observation: Make) -> None:
    source, other = hub.source(), hub.source()
    narrow = hub.permit(source, types=["claim.v1"], fields={"claim.v1": ["amount_paid"]})
    late = hub.permit(source, period={"from": "2027-01-01", "to": "2027-12-31"})
    hub.send(source, [observation(source, "x", 1)])
    hub.send(other, [observation(other, "x", 1)])
    assert not hub.view(narrow).entries()
    assert not hub.view(late).entries()


def test_two_views_of_the_same_people_share_nothing_that_joins(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permits = [hub.permit(source), hub.permit(source)]
    sampled = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    for start in range(0, 200, 20):
        numbers = range(start, start + 20)
        followed = [sampled if number % 3 == 0 else {} for number in numbers]
        events = [
            observation(source, f"r{number}", number % 20, number, **more)
            for number, more in zip(numbers, followed, strict=True)
        ]
        with hub.producer(source) as producer:
            list(producer.send(events))
    hub.send(source, [observation(source, "last", 0, 200)])
    left, right = (hub.messages(f"view-{permit.id}") for permit in permits)
    assert len(left) == len(right) == 201
    for joins in (_id, _subject, _trace, _span):
        assert not {joins(one) for one in left} & {joins(one) for one in right}
    assert not {one.key for one in left} & {one.key for one in right}
    for one in (*left, *right):
        assert set(one.headers) == {"content-type", "traceparent"}, "a header that only some carry tells which"
        assert one.headers["traceparent"].endswith(b"-00")
        assert one.timestamp % 3_600_000 == 0
        assert b"0af7651916cd43dd8448eb211c80319c" not in one.value + one.headers["traceparent"]
    # Where a person's records lie, and how many lie together, says nothing of where they lie in the other view.
    assert _layout(left) != _layout(right)


def _id(message: Message) -> str:
    return str(json.loads(message.value)["id"])


def _subject(message: Message) -> str:
    return str(json.loads(message.value)["subject"])


def _trace(message: Message) -> str:
    return message.header("traceparent").split("-")[1]


def _span(message: Message) -> str:
    return message.header("traceparent").split("-")[2]


def _layout(messages: list[Message]) -> list[list[float]]:
    """The values on each partition in their order: the one thing of the test's records that both views show."""
    return [
        [
            json.loads(one.value)["data"]["record"]["valueQuantity"]["value"]
            for one in messages
            if one.partition == number
        ]
        for number in (0, 1)
    ]


def test_the_status_names_its_watermark(hub: Hub, observation: Make) -> None:
    source = hub.source()
    hub.send(source, [observation(source, "w", 1)])
    with hub.producer(source) as producer:
        early = producer.status(source, through="2026-01-01T00:00:00Z")
        late = producer.status(source, through="2036-01-01T00:00:00Z")
    assert early["complete"] is True
    assert late["complete"] is False
    assert early["watermark"]["live"]


def test_a_fhir_bundle_becomes_a_timeline(hub: Hub) -> None:
    source = hub.source()
    permit = hub.permit(source)
    url = "urn:uuid:3f2b8f0e-9a43-4c5e-8f0e-0d6f8a1c2b11"
    observation = {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4", "display": "Pulse of Mme LE GOFF"}]},
        "subject": {"reference": url, "display": "Mme LE GOFF"},
        "effectiveDateTime": "2026-02-03",
        "valueQuantity": {"value": 70, "unit": "/min", "system": "http://unitsofmeasure.org", "code": "/min"},
        "note": [{"text": "Mme LE GOFF called from 06 12 34 56 78"}],
    }
    patient = {
        "resourceType": "Patient",
        "id": "p1",
        "name": [{"family": "LE GOFF", "given": ["Anne"]}],
        "gender": "female",
    }
    bundle = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {"resource": observation, "request": {"method": "POST", "url": "Observation"}},
            {"fullUrl": url, "resource": patient, "request": {"method": "POST", "url": "Patient"}},
            {"resource": {"resourceType": "Organization", "id": "x"}},
        ],
    }
    with hub.producer(source) as producer:
        answer = producer.send_fhir(json.dumps(bundle).encode())
        assert producer.wait_for_views(source)
    assert len(answer.accepted) == 2
    assert answer.not_taken == {"Organization": 1}
    (entry,) = hub.view(permit).entries()
    assert "GOFF" not in entry.model_dump_json()
    assert "06 12" not in entry.model_dump_json()
    assert entry.data["demographics"] == {"sex": "female"}


def test_a_token_is_needed(hub: Hub, observation: Make) -> None:
    source = hub.source()
    url = f"{hub.platform.ingest_url}/v1/events"
    event = observation(source, "x", 1)
    assert httpx.post(url, json=event).status_code == 401
    assert httpx.post(url, json=event, headers={"Authorization": "Bearer nonsense"}).status_code == 401
    foreign = hub.send(source, [observation(hub.source(), "x", 1), observation(source, "y", 1)])
    assert [one["reason"] for one in foreign.rejected] == ["source-not-yours"]
