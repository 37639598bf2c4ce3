"""Records and planted identities that the tests of ingest's domain share."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from services.ingest.domain.refusals import Refusal
from services.ingest.formats.fhir.entries import outcomes_of

ROOT = Path(__file__).parents[3]
SYNTHEA = (ROOT / "../shared/data/synthea").resolve()
NOW = datetime(2026, 3, 20, tzinfo=UTC)
SOURCE = "urn:estuaire:producer:chu-rennes"

HUB: list[tuple[str, dict[str, Any]]] = [
    ("opposition.v1", {"scope": "all"}),
    ("access-request.v1", {"received": "2026-05-11"}),
    ("erasure-request.v1", {"received": "2026-05-11"}),
    (
        "hospital-stay.v1",
        {
            "entry": "2026-03-01",
            "exit": "2026-03-06",
            "entry_mode": "8",
            "exit_mode": "8",
            "principal_diagnosis": "I500",
            "related_diagnosis": "I110",
            "associated_diagnoses": ["E119", "N183"],
            "acts": [{"code": "DEQP003", "date": "2026-03-01", "activity": "1", "phase": "0"}],
            "units": [{"code": "07A", "entry": "2026-03-01", "exit": "2026-03-06"}],
            "ghm": "05M092",
            "finess": "350000022",
        },
    ),
    (
        "hospital-act.v1",
        {"code": "DEQP003", "date": "2026-03-01", "activity": "1", "phase": "0", "finess": "350000022"},
    ),
    (
        "claim.v1",
        {
            "care_date": "2026-03-02",
            "nature": "1111",
            "act": "DEQP003",
            "quantity": 1,
            "amount_paid": 26.5,
            "amount_reimbursed": 16.55,
            "specialty": "01",
        },
    ),
    (
        "dispensation.v1",
        {"date": "2026-03-03", "cip13": "3400935163905", "atc": "N02BE01", "quantity": 2, "amount_reimbursed": 1.51},
    ),
    (
        "device-measure.v1",
        {
            "device_kind": "blood-pressure-monitor",
            "metric": {"system": "http://loinc.org", "code": "8480-6"},
            "value": 141,
            "unit": "mm[Hg]",
            "measured": "2026-03-04T07:30:00Z",
        },
    ),
    ("death.v1", {"date": "2026-04-01", "commune": "35238", "causes": ["I500", "J189"]}),
]

_MEDICINE = {"coding": [{"system": "http://www.whocc.no/atc", "code": "C03CA01"}]}
_MILLIGRAMS = {"value": 40, "unit": "mg", "system": "http://unitsofmeasure.org", "code": "mg"}
_DOSAGE = {
    "sequence": 1,
    "timing": {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d", "when": ["MORN"], "timeOfDay": ["08:00:00"]}},
    "route": {"coding": [{"system": "http://standardterms.edqm.eu", "code": "20053000"}]},
    "doseAndRate": [{"doseQuantity": _MILLIGRAMS}],
}
MEDICINES: list[tuple[str, dict[str, Any]]] = [
    (
        "dispensation.v1",
        {
            "resourceType": "MedicationDispense",
            "status": "completed",
            "medicationCodeableConcept": _MEDICINE,
            "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "FF"}]},
            "quantity": {"value": 30, "unit": "{tablets}"},
            "whenHandedOver": "2026-03-02T10:00:00Z",
            "dosageInstruction": [_DOSAGE],
            "substitution": {"wasSubstituted": True},
        },
    ),
    (
        "medication.v1",
        {
            "resourceType": "MedicationAdministration",
            "status": "completed",
            "medicationCodeableConcept": _MEDICINE,
            "effectivePeriod": {"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T10:05:00Z"},
            "dosage": {"dose": _MILLIGRAMS, "rateRatio": {"numerator": _MILLIGRAMS, "denominator": {"value": 1}}},
        },
    ),
    (
        "medication.v1",
        {
            "resourceType": "MedicationStatement",
            "status": "active",
            "medicationCodeableConcept": _MEDICINE,
            "effectiveDateTime": "2026-03",
            "dosage": [_DOSAGE],
        },
    ),
]

PLANTED: tuple[Any, ...] = (
    "LE GOFF",
    "Yves LE GOFF",
    "MARTIN",
    "Anne",
    "172072901904286",
    "1720729019042",
    "1 72 07 29 019 042 86",
    "06 12 34 56 78",
    "0612345678",
    "+33612345678",
    "12 rue du Port",
    "yves.legoff@example.org",
    "8002914-IPP",
    "1972-07-14 LE GOFF",
    172072901904286,
    1720729019042,
    612345678,
    33612345678,
    {"family": "LE GOFF", "given": ["Yves"]},
    ["LE GOFF", "0612345678"],
)


def french_stay() -> dict[str, Any]:
    """The bundle of `tests/fixtures/fhir`: a stay in a French hospital with identities in every corner."""
    bundle: dict[str, Any] = json.loads((ROOT / "tests/fixtures/fhir/french-stay.json").read_text())
    return bundle


class FhirEvents(NamedTuple):
    """The events (or refusals) in the order of their resources, and how many of which type are not the hub's.

    `places` has the position in the bundle of each event.
    """

    events: list[dict[str, Any] | Refusal]
    not_taken: dict[str, int]
    places: list[int]


def events_of(document: Any, source: str) -> FhirEvents:
    """What a decoded FHIR R4 resource or Bundle comes to."""
    found = FhirEvents([], {}, [])
    for place, outcome in outcomes_of(document, source):
        if isinstance(outcome, str):
            found.not_taken[outcome] = found.not_taken.get(outcome, 0) + 1
        else:
            found.events.append(outcome)
            found.places.append(place)
    return found


def records() -> list[tuple[str, dict[str, Any]]]:
    """One record or more of every type that has one."""
    events = [event for event in events_of(french_stay(), SOURCE).events if isinstance(event, dict)]
    return [(event["type"], event["data"]["record"]) for event in events if "record" in event["data"]] + MEDICINES + HUB


def with_each_place_replaced(record: dict[str, Any], planted: Any) -> Iterator[dict[str, Any]]:
    """The record, once for each value in it, with `planted` there."""
    for path in _paths(record):
        yield _changed(record, path, lambda parent, key: parent.__setitem__(key, copy.deepcopy(planted)))


def with_each_text_spoilt(record: dict[str, Any], planted: str) -> Iterator[dict[str, Any]]:
    """The record, once for each text in it and each way to hide `planted` in that: a code, a unit, a system's URL."""
    ways = ["{0}{1}", "{1}{0}", "{0} {1}", "{0}\n{1}", "{0}{{{1}}}", *(f"{{0}}{mark}{{1}}" for mark in "#?|/.-:")]
    for path in _paths(record):
        value: Any = record
        for key in path:
            value = value[key]
        for way in ways if isinstance(value, str) else ():
            changed = copy.deepcopy(record)
            parent: Any = changed
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = way.format(value, planted)
            yield changed


def with_corners_filled(record: dict[str, Any], planted: Any) -> dict[str, Any]:
    """The record with `planted` in every element that FHIR R4 allows anywhere and no allow-list names."""
    filled = copy.deepcopy(record)
    for node in [node for node in _nodes(filled) if isinstance(node, dict)]:
        for name in [name for name, value in node.items() if not isinstance(value, dict | list)]:
            node.setdefault("_" + name, {"id": planted, "extension": [{"url": "urn:x", "valueString": planted}]})
        node["id"] = planted
        node["extension"] = [{"url": f"http://example.org/{planted}", "valueString": planted}]
        node["modifierExtension"] = [{"url": "urn:x", "valueHumanName": {"text": planted}}]
        for name in ("text", "display", "reference", "note", "identifier", "comment", "version", "photo", "lotNumber"):
            node[name] = planted
        node[str(planted)] = planted
        for name in ("valueString", "conclusion", "contained", "presentedForm", "performer", "telecom", "address"):
            node[name] = [{"value": planted, "display": planted}]
    return filled


def _nodes(value: Any) -> Iterator[Any]:
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _nodes(inner)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from _paths(inner, (*path, key))


def _changed(record: dict[str, Any], path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> dict[str, Any]:
    changed = copy.deepcopy(record)
    parent: Any = changed
    for key in path[:-1]:
        parent = parent[key]
    change(parent, path[-1])
    return changed
