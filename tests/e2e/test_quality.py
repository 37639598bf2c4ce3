"""The quality report reconciles with what was sent, to the record."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from estuaire.keyring import OPERATOR
from runtime.messages import SUMMARIES, FlowSummary
from tests.commands import estuaire
from tests.hub import Hub

pytestmark = pytest.mark.e2e

Make = Callable[..., dict[str, Any]]
NIR = "285053523800148"


def report(hub: Hub, source: str) -> dict[str, Any]:
    """The report on a source, today."""
    found: dict[str, Any] = hub.get(
        "/v1/sources/quality", "operators", OPERATOR, service="statistics", source=source
    ).json()
    return found


def settled(hub: Hub, source: str, events: int) -> dict[str, Any]:
    """The report, once all steps have spoken of so many events and nothing changes any more."""

    def whole() -> bool:
        found = report(hub, source)
        if found.get("accepted", 0) + found.get("refused", 0) != events:
            return False
        steps: dict[str, dict[str, int]] = found["steps"]
        linkage, access = (sum(steps.get(step, {}).values()) for step in ("linkage", "access"))
        return linkage >= int(found["accepted"]) and access >= steps["linkage"].get("linked", 0)

    hub.wait_for(whole)
    return report(hub, source)


def named(parts: list[dict[str, Any]]) -> dict[str, int]:
    return {one["name"]: one["records"] for one in parts if one["records"]}


def test_the_report_is_what_was_sent(hub: Hub, observation: Make, tmp_path: Path) -> None:
    source, other = hub.source(), hub.source()
    now = dt.datetime.now(dt.UTC)

    def person(event: dict[str, Any], **identity: Any) -> dict[str, Any]:
        event["data"]["identity"] = event["data"]["identity"] | identity
        return event

    def ago(**span: float) -> str:
        return (now - dt.timedelta(**span)).isoformat()

    insured = {"identifiers": [{"system": "ins-nir", "value": NIR}], "sex": "male", "birth_date": "1985-05-12"}
    plain = [observation(source, f"q{number}", number, time=ago(minutes=5)) for number in range(20)]
    invalid = [observation(source, f"i{number}", 1, time=ago(days=3)) for number in range(3)]
    for event in invalid:
        event["data"]["record"] |= {"bodySite": {"coding": [{"system": "http://loinc.org", "code": "0-0"}]}}
        event["data"]["record"] |= {"subject": {"display": "KERGUELEN"}}
    known = [person(observation(source, "known", 2, time=ago(days=40)), **insured)]
    unlinkable = [observation(source, "nobody", 0, time=None)]
    unlinkable[0]["data"]["identity"] = {"sex": "unknown"}
    early = [observation(source, "early", 3, time=ago(hours=-1))]
    again = [*plain[:4], observation(source, "q5", 5, value=1, time=ago(minutes=5))]
    corrected = [observation(source, "q6", 6, value=2, time=ago(minutes=5), correction=True)]
    retracted = [{**plain[7], "type": "observation.v1.deleted", "data": {"identity": plain[7]["data"]["identity"]}}]
    wrong_key = person(observation(source, "r1", 1), identifiers=[{"system": "ins-nir", "value": NIR[:13] + "99"}])
    refused = [wrong_key, observation(source, "r2", 1, type="horoscope.v1"), observation(source, "r3", 1, time="now")]
    hub.send(source, [*plain, *invalid, *known, *unlinkable, *early])
    hub.send(source, [*again, *corrected, *retracted, *refused])
    hub.send(other, [person(observation(other, "theirs", 9), **insured)])

    found = settled(hub, source, 36)
    assert (found["accepted"], found["records"], found["retractions"], found["refused"]) == (33, 32, 1, 3)
    assert named(found["reasons"]) == {"bad-nir-key": 1, "bad-value": 1, "unknown-type": 1}
    assert named(found["wrong"]) == {"identity.identifiers": 1, "time": 1, "type": 1}
    assert (found["duplicates"], found["conflicts"], found["corrections"]) == (4, 1, 1)
    linkage = found["steps"]["linkage"]
    assert linkage["linked"] + linkage["duplicates"] + linkage["dead_lettered:conflict"] == found["accepted"]
    assert found["dead_letters"] == [{"step": "linkage", "reason": "conflict", "records": 1}]
    assert found["steps"]["pseudonym"] == {"pseudonymised": 33}
    assert found["steps"]["access"] == {"stored": 27, "retracted": 1}
    assert named(found["lateness"]) == {"future": 1, "hour": 26, "week": 3, "year": 1, "unknown": 1}
    assert named(found["identity"]) == {"sex": 1, "birth_date": 1}
    assert named(found["identifiers"]) == {"ins-nir": 1, "ipp": 30}
    assert named(found["flags"]) == {"nir-contradicts-sex": 1}
    assert named([found["unlinkable"]]) == {"unlinkable": 1}
    observations, unknown = found["types"]
    assert (observations["records"], observations["refused"], unknown["refused"]) == (32, 2, 1)
    fields = {one["name"]: (one["records"], one["invalid"]) for one in observations["fields"]}
    assert (fields["code"], fields["bodySite"]) == ((32, 0), (0, 3))
    assert found["removed"] == observations["removed"] == 9
    assert [sum(day[name] for day in found["days"]) for name in ("accepted", "refused")] == [33, 3]

    # the same for people, with what linkage says now
    as_json = json.loads(estuaire(hub, "quality", source, "--json", "--page", str(tmp_path / "page.html")).stdout)
    assert as_json["linkage"] | {"definition": ""} == {
        "source": source,
        "subjects": 21,
        "share": 1.0,
        "sampled": 21,
        "unlinkable": 1,
        "with_another_identity": 1,
        "with_another_source": 1,
        "rate": 0.05,
        "definition": "",
    }
    page = (tmp_path / "page.html").read_text()
    assert "KERGUELEN" not in page
    assert re.search(r"unknown-type.*?<td>1</td>", page)
    assert source in estuaire(hub, "quality").stdout
    assert "no such producer" in estuaire(hub, "quality", "urn:nobody", expect=1).stderr


def test_what_ingest_counts_is_for_statistics_alone(hub: Hub, observation: Make) -> None:
    source = hub.source()
    hub.send(source, [observation(source, "one", 1)])
    settled(hub, source, 1)
    for message in hub.messages(SUMMARIES):
        summary = msgspec.msgpack.decode(message.value, type=FlowSummary)
        if summary.step == "ingest":
            assert (summary.counts, summary.inputs) == ({}, ())
            assert source.encode() not in message.value


def test_statistics_killed_and_ingest_stopped_lose_nothing(hub: Hub, observation: Make) -> None:
    source = hub.source()
    events = [observation(source, f"k{number}", number % 5) for number in range(60)]
    hub.send(source, events[:20])
    hub.platform.services["statistics"].kill()
    hub.send(source, events[20:40])
    with hub.producer(source) as producer:
        (answer,) = producer.send(events[40:], batch=20)
        assert len(answer.accepted) == 20
    hub.platform.services["ingest"].stop()
    hub.platform.start_services("ingest", "statistics")
    found = settled(hub, source, 60)
    assert (found["records"], found["steps"]["access"]["stored"]) == (60, 60)
