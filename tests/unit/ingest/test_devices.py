"""Devices in FHIR: what they measured passes, and what tells one device from another does not."""

from __future__ import annotations

from typing import Any

import pytest

from services.ingest.domain import content
from services.ingest.domain.refusals import Refusal

from .samples import events_of

pytestmark = pytest.mark.unit

SOURCE = "urn:estuaire:producer:telesuivi"
SERIAL = "SN-4711-0815-KERGUELEN"
DEVICE: dict[str, Any] = {
    "resourceType": "Device",
    "id": "d1",
    "identifier": [{"system": "urn:oid:1.2.840.10004.1.1.1.0.0.1.0.0.1.2680", "value": SERIAL}],
    "serialNumber": SERIAL,
    "udiCarrier": [{"deviceIdentifier": SERIAL}],
    "patient": {"reference": "Patient/p1"},
}


def observation(**more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2026-03-02T03:00:00Z",
        "valueQuantity": {"value": 71, "system": "http://unitsofmeasure.org", "code": "/min"},
        **more,
    }


def bundle(*resources: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": "batch", "entry": [{"resource": one} for one in resources]}


@pytest.mark.parametrize(
    "device",
    [
        {"reference": f"Device/{SERIAL}"},
        {"identifier": {"system": "urn:oid:1.2.840.10004", "value": SERIAL}},
        {"display": f"Pacemaker {SERIAL}"},
        {"reference": f"DeviceMetric/{SERIAL}", "type": SERIAL},
    ],
)
def test_nothing_of_the_device_of_an_observation_passes(device: dict[str, Any]) -> None:
    told = events_of(bundle(DEVICE, observation(device=device)), SOURCE)
    assert told.not_taken == {"Device": 1}
    (event,) = told.events
    assert isinstance(event, dict)
    kept, removed, _ = content.strip("observation.v1", event["data"]["record"])
    assert kept["valueQuantity"]["value"] == 71
    assert "device" not in kept
    assert SERIAL not in str(kept)
    assert removed >= 1
    assert SERIAL not in str(event["data"]["identity"])


def test_an_observation_about_a_device_alone_is_about_nobody() -> None:
    (refusal,) = events_of(observation(subject={"reference": f"Device/{SERIAL}"}), SOURCE).events
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "no-person"
    assert SERIAL not in refusal.detail
