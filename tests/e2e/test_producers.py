"""What producers' files hold comes out in timelines, to the record and to the cent; sent again, it changes nothing.

`make volumes` does the same with 100,000 records of each format.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from contracts.events import IN_NO_TIMELINE, RECORD_TYPES, ViewEvent
from estuaire.generate import dcir, hl7v2, pmsi
from estuaire.population import population
from tests.commands import estuaire
from tests.hub import Hub
from tests.people import Someone, people

pytestmark = pytest.mark.e2e

RECORDS: Final = int(os.environ.get("ESTUAIRE_VOLUME", "600"))
SYNTHEA: Final = Path(__file__).parents[2] / "../shared/data/synthea"
RESOURCES: Final = {
    "Encounter": "encounter.v1",
    "Condition": "diagnosis.v1",
    "Observation": "observation.v1",
    "Procedure": "procedure.v1",
    "Immunization": "immunization.v1",
    "MedicationRequest": "medication.v1",
    "MedicationAdministration": "medication.v1",
    "Claim": "claim.v1",
    "ExplanationOfBenefit": "claim.v1",
    "DiagnosticReport": "report.v1",
}
TYPES: Final = [kind for kind in RECORD_TYPES if kind not in IN_NO_TIMELINE]


@dataclass
class Expected:
    """What files hold: records by type, sums in cents by field, and what is passed over."""

    types: Counter[str]
    cents: dict[str, int] = field(default_factory=dict)
    not_taken: int = 0


def stays(folder: Path, who: list[Someone], count: int) -> Expected:
    pmsi.write(folder, [one.patient() for one in who], count, seed=7)
    return Expected(Counter({"hospital-stay.v1": count}))


def anonymous_stays(folder: Path, who: list[Someone], count: int) -> Expected:
    pmsi.write(folder, [one.patient() for one in who], count, seed=8, anonymous=True)
    return Expected(Counter({"hospital-stay.v1": count}))


def reimbursements(folder: Path, who: list[Someone], count: int) -> Expected:
    lines = count * 10 // 12  # the claims of so many lines have some dispensations besides
    told = dcir.write_dcir(folder, [one.insured() for one in who], lines, seed=9, shuffled=True)
    cents = {"amount_paid": told.paid, "amount_reimbursed": told.reimbursed}
    types = Counter({"claim.v1": told.claims, "dispensation.v1": told.dispensations})
    return Expected(types, cents, told.for_information)


def deaths(folder: Path, who: list[Someone], _count: int) -> Expected:
    dcir.write_deaths(folder, [one.insured() for one in who], seed=10)
    return Expected(Counter({"death.v1": len(who)}))


Write = Callable[[Path, list[Someone], int], Expected]
LONGER = [pytest.param(one, marks=pytest.mark.long) for one in (anonymous_stays, reimbursements, deaths)]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("write", [stays, *LONGER], ids=lambda one: one.__name__)
def test_files_come_out_complete(hub: Hub, tmp_path: Path, write: Write) -> None:
    source = hub.source()
    permit = hub.permit(source, types=TYPES, fields={kind: ["*"] for kind in TYPES}, precision={"time": "exact"})
    who = people(max(20, RECORDS // 5))
    expected = write(tmp_path, who, RECORDS)
    count = expected.types.total()
    done = estuaire(hub, "send", str(tmp_path), "--source", source, "--wait", within=1800)
    assert f"sent {count}: {count} accepted, 0 refused" in done.stdout
    entries = hub.view(permit).entries()
    assert Counter(one.type for one in entries) == expected.types
    assert {name: cents(entries, name) for name in expected.cents} == expected.cents
    assert len({one.subject for one in entries}) == len(who)
    before = {one.id: one.sequence for one in entries}
    assert f"{count} kept before" in estuaire(hub, "send", str(tmp_path), "--source", source).stdout
    again = estuaire(hub, "send", str(tmp_path), "--source", source, "--wait", "--again", within=1800)
    assert f"sent {count}: {count} accepted" in again.stdout
    assert {one.id: one.sequence for one in hub.view(permit).entries()} == before
    with hub.producer(source) as producer:
        linkage = producer.status(source)["counts"]["linkage"]
    assert (linkage["linked"], linkage["duplicates"]) == (count, count)


@pytest.mark.timeout(3600)
def test_a_feed_of_messages_comes_out_complete(hub: Hub, tmp_path: Path) -> None:
    """Many messages tell of one stay: what counts is how many stays, diagnoses and deaths they tell of."""
    source = hub.source()
    permit = hub.permit(source, types=TYPES, fields={kind: ["*"] for kind in TYPES})
    feed = list(hl7v2.messages(3, list(population(3, max(20, RECORDS // 50))), RECORDS))
    file = tmp_path / "feed.hl7"
    file.write_bytes(b"\r\n".join(one.data for one in feed))
    told = [(one, [part.split("|") for part in one.data.decode("latin-1").split("\r") if part]) for one in feed]
    diagnoses = {(one.visit, part[3].split("^")[0]) for one, parts in told for part in parts if part[0] == "DG1"}
    dead = {one.person for one, parts in told for part in parts if part[0] == "PID" and "Y" in part[30:31]}
    visits = {one.visit: one.person for one in feed if one.visit}
    done = estuaire(hub, "send", str(file), "--source", source, "--wait", within=1800)
    assert " 0 refused" in done.stdout
    entries = hub.view(permit).entries()
    assert Counter(one.type for one in entries) == Counter(
        {"encounter.v1": len(visits), "diagnosis.v1": len(diagnoses), "death.v1": len(dead)}
    )
    assert len({one.subject for one in entries}) == len(set(visits.values()))
    estuaire(hub, "send", str(file), "--source", source, "--wait", "--again", within=1800)
    assert {one.id: one.data for one in hub.view(permit).entries()} == {one.id: one.data for one in entries}


@pytest.mark.skipif(not SYNTHEA.exists(), reason="THE SYNTHEA BUNDLES ARE NOT BESIDE THIS CHECKOUT: nothing was sent")
def test_synthea_comes_out_complete(hub: Hub) -> None:
    source = hub.source()
    permit = hub.permit(source, types=TYPES, fields={kind: ["*"] for kind in TYPES})
    bundles = [json.loads(path.read_bytes()) for path in SYNTHEA.glob("*.json")]
    kinds = Counter(one["resource"]["resourceType"] for bundle in bundles for one in bundle["entry"])
    expected: Counter[str] = Counter()
    for kind, record in RESOURCES.items():
        expected[record] += kinds[kind]
    done = estuaire(hub, "send", str(SYNTHEA), "--source", source, "--wait")
    assert " 0 refused" in done.stdout
    entries = hub.view(permit).entries()
    assert Counter(one.type for one in entries) == +expected
    assert len({one.subject for one in entries}) == kinds["Patient"] == 6
    before = {one.id: one.sequence for one in entries}
    estuaire(hub, "send", str(SYNTHEA), "--source", source, "--wait", "--again")
    assert {one.id: one.sequence for one in hub.view(permit).entries()} == before


def cents(entries: list[ViewEvent], name: str) -> int:
    """The sum of an amount of money over records."""
    return int(sum(Decimal(str(one.data["record"].get(name, 0))) for one in entries) * 100)


def test_a_person_of_all_sources_is_one_timeline(hub: Hub, tmp_path: Path) -> None:
    """RSA, claim, RSS with VID-HOSP and FHIR, which meet by the pseudo-NIR and by one record with two numbers."""
    insurance, hospital, atih = hub.source(), hub.source(), hub.source()
    permit = hub.permit(insurance, hospital, atih, types=TYPES, fields={kind: ["*"] for kind in TYPES})
    who = people(30, seed=5)
    bridges = [_bridge(one, insurance) for one in who]
    for name in ("rss", "rsa", "dcir"):
        (tmp_path / name).mkdir()
    expected = stays(tmp_path / "rss", who, 60).types
    expected += anonymous_stays(tmp_path / "rsa", who, 60).types
    expected += reimbursements(tmp_path / "dcir", who, 120).types
    bundle = tmp_path / "bundle.json"
    bundle.write_text(_bundle(who))
    expected["observation.v1"] += len(who)
    for path, source in ((tmp_path / "rsa", atih), (bundle, hospital), (tmp_path / "dcir", insurance)):
        estuaire(hub, "send", str(path), "--source", source)
    hub.send(insurance, bridges)
    estuaire(hub, "send", str(tmp_path / "rss"), "--source", hospital, "--wait")
    hub.send(atih, [_bridge(one, atih) for one in who[:1]])
    timelines = hub.view(permit).timelines()
    assert sum((Counter(one.type for one in entries) for entries in timelines.values()), Counter()) == expected
    assert len(timelines) == len(who)
    assert all(
        {one.type for one in entries} >= {"observation.v1", "hospital-stay.v1"} for entries in timelines.values()
    )


def _bridge(one: Someone, source: str) -> dict[str, Any]:
    """What the register of an insurance knows: the NIR beside its pseudonym."""
    identifiers = [
        {"system": "ben-nir-psa", "value": one.pseudo_nir},
        {"system": "nir-opener", "value": one.nir, "rank": 1},
        {"system": "ins-nir", "value": one.nir},
    ]
    identity = {"identifiers": identifiers, "birth_date": one.birth_date.isoformat(), "sex": one.sex}
    return {
        "specversion": "1.0",
        "id": f"register-{one.number}",
        "source": source,
        "type": "identity.v1",
        "time": dt.datetime(2026, 1, 1, tzinfo=dt.UTC).isoformat(),
        "data": {"identity": identity},
    }


def _bundle(who: list[Someone]) -> str:
    entries: list[dict[str, Any]] = []
    for one in who:
        ins = {"system": "urn:oid:1.2.250.1.213.1.4.8", "value": one.nir_with_key}
        entries.append(
            {
                "resourceType": "Patient",
                "id": f"p{one.number}",
                "identifier": [ins],
                "gender": one.sex,
                "birthDate": one.birth_date.isoformat(),
            }
        )
        entries.append(
            {
                "resourceType": "Observation",
                "id": f"o{one.number}",
                "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
                "subject": {"reference": f"Patient/p{one.number}"},
                "effectiveDateTime": "2026-02-01",
                "valueQuantity": {"value": 61, "system": "http://unitsofmeasure.org", "code": "/min"},
            }
        )
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": [{"resource": one} for one in entries]})
