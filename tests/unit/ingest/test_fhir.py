"""FHIR bundles and resources as events."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.events import Event
from services.ingest.domain.content import strip
from services.ingest.domain.refusals import Refusal

from .samples import ROOT, SOURCE, SYNTHEA, FhirEvents, events_of, french_stay

pytestmark = pytest.mark.unit

A, B = "https://a.example/fhir", "https://b.example/fhir"


def read(document: Any) -> FhirEvents:
    return events_of(document, SOURCE)


def one(document: Any) -> dict[str, Any]:
    (event,) = read(document).events
    assert isinstance(event, dict), event
    Event.model_validate(event)
    return event


def refusal(document: Any) -> Refusal:
    (event,) = read(document).events
    assert isinstance(event, Refusal)
    return event


def bundle(*resources: Any, kind: str = "collection") -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": kind, "entry": [{"resource": resource} for resource in resources]}


def types(told: FhirEvents) -> list[tuple[str, str]]:
    assert all(isinstance(event, dict) and Event.model_validate(event) for event in told.events), told
    return [(event["id"], event["type"]) for event in told.events if isinstance(event, dict)]


def observation(**fields: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": "o-1",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8302-2"}]},
        "subject": {"reference": "Patient/p-1"},
    } | fields


def patient(**fields: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": "p-1"} | fields


def identity(**fields: Any) -> dict[str, Any]:
    told: dict[str, Any] = one(patient(**fields))["data"]["identity"]
    return told


# --- the golden bundle ---


def test_the_french_stay_becomes_what_was_checked_by_eye() -> None:
    told = read(french_stay())
    events = []
    for event in told.events:
        assert isinstance(event, dict)
        Event.model_validate(event)
        if "record" in event["data"]:
            kept, removed, _ = strip(event["type"], event["data"]["record"])
            event = event | {"data": event["data"] | {"record": kept}, "removed": removed}
        events.append(event)
    golden = json.loads((ROOT / "tests/fixtures/fhir/french-stay.kept.json").read_text())
    assert {"events": events, "not_taken": told.not_taken} == golden


def test_no_identity_of_the_french_stay_is_kept() -> None:
    golden = json.loads((ROOT / "tests/fixtures/fhir/french-stay.kept.json").read_text())
    kept = json.dumps([event["data"].get("record") for event in golden["events"]], ensure_ascii=False)
    for planted in ("GOFF", "Yves", "MARTIN", "172072901904286", "0612345678", "06 12", "rue du Port", "SN-778899"):
        assert planted.lower() not in kept.lower()
    for word in ("mm[Hg]", "148", "92.5", "1850", "9.98", "I50.0", "DEQP003", "C03CA01", "J07BB02", "85354-9"):
        assert word in kept


# --- Synthea ---

SYNTHEA_TYPES = {
    "Observation": 313,
    "Claim": 56,
    "Encounter": 49,
    "ExplanationOfBenefit": 49,
    "Immunization": 42,
    "Condition": 27,
    "DiagnosticReport": 21,
    "Procedure": 14,
    "MedicationRequest": 7,
    "Patient": 6,
}


@pytest.mark.skipif(not SYNTHEA.is_dir(), reason=f"the reference bundles of {SYNTHEA} are not here")
def test_every_synthea_resource_is_taken_and_keeps_its_coded_content() -> None:
    counts: Counter[str] = Counter()
    not_taken: Counter[str] = Counter()
    for path in sorted(SYNTHEA.glob("*.json")):
        document = json.loads(path.read_text())
        told = read(document)
        not_taken.update(told.not_taken)
        sent = {
            f"{resource['resourceType']}/{resource['id']}": resource
            for resource in (entry["resource"] for entry in document["entry"])
        }
        people = set()
        for event in told.events:
            assert isinstance(event, dict), event
            Event.model_validate(event)
            people.add(event["data"]["identity"]["identifiers"][-1]["value"])
            counts[event["id"].partition("/")[0]] += 1
            if "record" in event["data"]:
                kept = strip(event["type"], event["data"]["record"]).record
                assert substance(kept) == substance(sent[event["id"]])
        assert len(people) == 1
    assert counts == SYNTHEA_TYPES
    assert not_taken == {"Organization": 9, "Practitioner": 9, "CarePlan": 5, "Goal": 5}


def substance(value: Any, name: str = "") -> Counter[str]:
    """What a researcher reads: codes with their systems, numbers, dates, states; but no meta and nothing contained."""
    told: Counter[str] = Counter()
    if isinstance(value, dict):
        if isinstance(value.get("system"), str) and "code" in value:
            told[f"{value['system']} {value['code']}"] += 1
        for inner_name, inner in value.items():
            if inner_name not in ("meta", "contained", "text", "extension", "identifier"):
                told += substance(inner, inner_name)
    elif isinstance(value, list):
        for inner in value:
            told += substance(inner, name)
    elif isinstance(value, bool | int):
        told[f"{name} {value}"] += 1
    elif isinstance(value, float):
        told[f"{name} {value:.2f}"] += 1
    elif name.endswith(("Date", "DateTime", "start", "end", "issued", "created", "status", "authoredOn", "currency")):
        told[f"{name} {value}"] += 1
    return told


# --- events ---


@pytest.mark.parametrize(
    ("fields", "time"),
    [
        ({"effectiveDateTime": "2026-03-01T10:15:00+01:00"}, "2026-03-01T09:15:00Z"),
        ({"effectiveDateTime": "2026-03-01"}, "2026-03-01T00:00:00Z"),
        ({"effectiveDateTime": "2026"}, "2026-01-01T00:00:00Z"),
        ({"effectivePeriod": {"start": "2026-03-02"}, "issued": "2026-03-05T00:00:00Z"}, "2026-03-02T00:00:00Z"),
        (
            {"effectiveDateTime": "2026-02-30", "issued": "2026-03-05T00:00:00.123456789Z"},
            "2026-03-05T00:00:00.123456Z",
        ),
        ({"meta": {"lastUpdated": "2026-03-06T00:00:00Z"}}, "2026-03-06T00:00:00Z"),
        ({"effectiveDateTime": "2026-02-30T00:00:00+14:00"}, None),
        ({"effectiveDateTime": "2026-03-01", "issued": "9999-12-31"}, "2026-03-01T00:00:00Z"),
        ({"effectiveDateTime": "2026-03-01T10:15:00", "meta": []}, None),
    ],
)
def test_the_time_of_an_event(fields: dict[str, Any], time: str | None) -> None:
    assert one(observation(**fields))["time"] == time


@pytest.mark.parametrize("year", ["0001", "1849", "2200", "9999"])
def test_a_time_that_stands_for_none_is_refused_and_never_replaced(year: str) -> None:
    for value in (f"{year}-12-31", year, f"{year}-12-31T23:59:59-14:00"):
        refused = refusal(observation(effectiveDateTime=value, issued="2026-03-01"))
        assert refused.reason == "bad-date"
        assert "Observation.effectiveDateTime" in refused.detail
        assert year not in refused.detail.replace("1850 to 2199", "")
    gone = one(observation(status="entered-in-error", effectiveDateTime=f"{year}-12-31", issued="2026-03-01"))
    assert gone["time"] == "2026-03-01T00:00:00Z"


@pytest.mark.parametrize(
    ("version", "expected"), [("3", 3), ("0", None), ("x", None), ("99999999999", None), (3, None), ("²", None)]
)
def test_the_version_of_an_event(version: Any, expected: int | None) -> None:
    assert one(observation(meta={"versionId": version})).get("version") == expected


@pytest.mark.parametrize("kind", ["transaction", "batch", "collection", "history", "searchset", "document"])
def test_kinds_of_bundle(kind: str) -> None:
    told = read(bundle(observation(), {"resourceType": "Goal"}, {"resourceType": "Sortie de M. LE GOFF"}, kind=kind))
    assert len(told.events) == 1
    assert told.not_taken == {"Goal": 1, "unknown": 1}


def test_what_was_entered_in_error_is_retracted() -> None:
    assert one(observation(status="entered-in-error"))["type"] == "observation.v1.deleted"
    condition = {
        "resourceType": "Condition",
        "id": "c-1",
        "subject": {"reference": "Patient/p-1"},
        "verificationStatus": {"coding": [{"code": "entered-in-error"}]},
    }
    event = one(condition)
    assert event["type"] == "diagnosis.v1.deleted"
    assert "record" not in event["data"]
    assert one(observation(status="entered-in-error", subject=None))["data"] == {"identity": {}}


def test_a_delete_needs_no_resource() -> None:
    entry = {
        "request": {"method": "DELETE", "url": "Observation/o-1"},
        "response": {"lastModified": "2026-03-01T00:00:00Z", "etag": 'W/"4"'},
    }
    event = one({"resourceType": "Bundle", "type": "history", "entry": [entry]})
    assert (event["id"], event["type"], event["version"]) == ("Observation/o-1", "observation.v1.deleted", 4)
    assert event["time"] == "2026-03-01T00:00:00Z"
    of_a_patient = {"request": {"method": "DELETE", "url": "Patient/p-1"}}
    assert types(read({"resourceType": "Bundle", "entry": [of_a_patient]})) == [
        ("Patient/p-1", "identity.v1.deleted"),
        ("Patient/p-1#deceased", "death.v1.deleted"),
    ]


@pytest.mark.parametrize(
    ("method", "replaces"), [("PUT", True), ("PATCH", True), ("POST", None), ("put", None), ([], None), (None, None)]
)
def test_an_update_within_a_bundle_replaces_what_was_there(method: Any, replaces: bool | None) -> None:
    request = {"request": {"method": method, "url": "x"}} if method is not None else {}
    told = (observation(), observation(status="entered-in-error"), patient(deceasedDateTime="2026-01-01"))
    events = read({"resourceType": "Bundle", "type": "transaction", "entry": [{"resource": r} | request for r in told]})
    assert [one.get("correction") for one in events.events if isinstance(one, dict)] == [replaces] * 4
    assert types(events)
    versioned = {"resource": observation(meta={"versionId": "2"})} | request
    assert "correction" not in one({"resourceType": "Bundle", "type": "batch", "entry": [versioned]})


@pytest.mark.parametrize(
    ("url", "version"),
    [
        ("Observation/o-1", None),
        ("/Observation/o-1", None),
        ("Observation/o-1/_history/3", 3),
        (f"{A}/Observation/o-1", None),
        ("HTTPS://A.example/fhir//Observation/o-1/_history/4", 4),
    ],
)
def test_a_delete_is_read_in_each_form_of_its_url(url: str, version: int | None) -> None:
    event = one({"resourceType": "Bundle", "entry": [{"request": {"method": "DELETE", "url": url}}]})
    assert (event["id"], event["type"]) == ("Observation/o-1", "observation.v1.deleted")
    assert event.get("version") == version


@pytest.mark.parametrize(
    "url",
    [
        *("Observation?subject=Patient/p-1", "Observation", "", "/", None, 7, "LE GOFF/1", "Observation/LE GOFF"),
        *("Observation/o-1/", "x/Observation/o-1", "https:///Observation/o-1", "Observation/o-1?x=LE GOFF"),
    ],
)
def test_a_delete_that_names_no_resource_is_refused_and_never_passed_over(url: Any) -> None:
    refused = refusal({"resourceType": "Bundle", "entry": [{"request": {"method": "DELETE", "url": url}}]})
    assert refused.reason == "no-id"
    assert "request.url" in refused.detail
    assert "GOFF" not in refused.detail


def test_a_delete_of_what_the_hub_does_not_take_is_counted() -> None:
    entries = [{"request": {"method": "DELETE", "url": url}} for url in ("Goal/1", f"{A}/Goal/1")]
    assert read({"resourceType": "Bundle", "entry": entries}).not_taken == {"Goal": 2}


def test_of_a_history_without_versions_the_newest_states_are_taken() -> None:
    newest, older = patient(name=[{"family": "LE GOFF"}]), patient(deceasedDateTime="2026-01-01")
    deleted = {"request": {"method": "DELETE", "url": "Observation/o-1"}}
    entries = [{"resource": newest}, deleted, {"resource": older}, {"resource": observation()}]
    told = read({"resourceType": "Bundle", "type": "history", "entry": entries})
    assert [(name, kind) for name, kind in types(told)] == [
        ("Patient/p-1", "identity.v1"),
        ("Observation/o-1", "observation.v1.deleted"),
    ]
    assert told.not_taken == {"superseded": 2}
    versioned = [{"resource": observation(meta={"versionId": version})} for version in ("3", "2", "1")]
    told = read({"resourceType": "Bundle", "type": "history", "entry": versioned})
    assert [event["version"] for event in told.events if isinstance(event, dict)] == [3, 2, 1]


# --- the person ---


@pytest.mark.parametrize(
    ("reference", "person"),
    [
        ("Patient/p-1", "p-1"),
        ("Patient/p-1/_history/2", "p-1"),
        ("/Patient/p-1", "p-1"),
        ("urn:uuid:7f0d6a53-3c0e-4f04-9a43-5d2d6b0b8f01", "7f0d6a53-3c0e-4f04-9a43-5d2d6b0b8f01"),
    ],
)
def test_references_to_a_person(reference: str, person: str) -> None:
    event = one(observation(subject={"reference": reference}))
    assert event["data"]["identity"] == {"identifiers": [{"system": "ipp", "assigner": SOURCE, "value": person}]}


@pytest.mark.parametrize(
    "subject",
    [
        None,
        "Patient/p-1",
        [],
        {},
        {"reference": 7},
        {"reference": ""},
        {"reference": "#pat"},
        {"reference": "Group/g-1"},
        {"reference": "Patient"},
        {"reference": "Patient/"},
        {"reference": "Patient?identifier=LE+GOFF"},
        {"reference": "Patient/LE GOFF"},
        {"reference": "urn:oid:1.2.3"},
        {"display": "Yves LE GOFF"},
        {"identifier": {"system": "http://chu.example/ipp", "value": "8002914"}},
    ],
)
def test_a_resource_of_nobody_is_refused_with_the_field_and_the_fix(subject: Any) -> None:
    refused = refusal(observation(subject=subject))
    assert refused.reason == "no-person"
    assert "Observation.subject" in refused.detail
    assert "GOFF" not in refused.detail


def test_a_full_url_is_resolved_within_the_bundle() -> None:
    url, other = "urn:uuid:7f0d6a53-3c0e-4f04-9a43-5d2d6b0b8f01", "https://elsewhere.example/x/1"
    document = {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {"resource": observation(subject={"reference": url})},
            {"resource": observation(id="o-2", subject={"reference": other})},
            {"fullUrl": url, "resource": patient()},
            {"fullUrl": other, "resource": {"resourceType": "Group", "id": "g-1"}},
        ],
    }
    first, second, _ = read(document).events
    assert isinstance(first, dict)
    assert first["data"]["identity"]["identifiers"][0]["value"] == "p-1"
    assert isinstance(second, Refusal)
    assert second.detail.startswith("entry[1]: ")


def test_a_resource_without_an_id_goes_by_its_temporary_one_within_a_transaction() -> None:
    person, group = "urn:uuid:7f0d6a53-3c0e-4f04-9a43-5d2d6b0b8f01", "urn:uuid:7f0d6a53-3c0e-4f04-9a43-5d2d6b0b8f02"
    nameless = {name: value for name, value in patient().items() if name != "id"}
    entries = [
        {"fullUrl": person, "resource": nameless, "request": {"method": "POST", "url": "Patient"}},
        {"fullUrl": group, "resource": {"resourceType": "Group"}},
        {"resource": observation(subject={"reference": person})},
        {"resource": observation(id="o-2", subject={"reference": group})},
        {"resource": nameless},
    ]
    told = read({"resourceType": "Bundle", "type": "transaction", "entry": entries})
    first, about, of_group, unnamed = told.events
    assert isinstance(first, dict)
    assert isinstance(about, dict)
    assert first["id"] == f"Patient/{person.removeprefix('urn:uuid:')}"
    assert first["data"]["identity"]["identifiers"] == about["data"]["identity"]["identifiers"]
    assert isinstance(of_group, Refusal)
    assert of_group.reason == "no-person"
    assert isinstance(unnamed, Refusal)
    assert unnamed.reason == "no-id"
    assert told.places == [0, 2, 3, 4]


def assigners(*entries: tuple[str | None, dict[str, Any]]) -> list[list[str]]:
    listed = [{"resource": resource} | ({"fullUrl": url} if url else {}) for url, resource in entries]
    events = read({"resourceType": "Bundle", "type": "searchset", "entry": listed}).events
    assert all(isinstance(event, dict) and Event.model_validate(event) for event in events), events
    return [
        [number["assigner"] for number in event["data"]["identity"]["identifiers"]]
        for event in events
        if isinstance(event, dict)
    ]


def about(reference: str, name: str = "o-1") -> dict[str, Any]:
    return observation(id=name, subject={"reference": reference})


def test_the_same_id_on_two_servers_is_two_people() -> None:
    told = assigners((None, about(f"{A}/Patient/p-1")), (None, about(f"{B}/Patient/p-1")), (None, about("Patient/p-1")))
    assert told == [[f"{SOURCE}|{A}"], [f"{SOURCE}|{B}"], [SOURCE]]
    assert assigners((None, about("HTTPS://A.example/fhir//Patient/p-1/_history/3"))) == [[f"{SOURCE}|{A}"]]


def test_within_a_bundle_of_one_server_relative_and_absolute_references_agree() -> None:
    told = assigners(
        (f"{A}/Observation/o-1", about("Patient/p-1")),
        (f"{A}/Observation/o-2", about(f"{A}/Patient/p-1", "o-2")),
        (f"{A}/Observation/o-3", about(f"{A}/Patient/p-2", "o-3")),
        (f"{A}/Observation/o-4", about(f"{B}/Patient/p-1", "o-4")),
        (f"{A}/Patient/p-1", patient()),
    )
    assert told == [[SOURCE], [SOURCE], [SOURCE], [f"{SOURCE}|{B}"], [f"{SOURCE}|{A}", SOURCE]]


def test_a_bundle_of_two_servers_has_no_own_one() -> None:
    told = assigners(
        (f"{A}/Patient/p-1", patient()),
        (f"{A}/Observation/o-1", about("Patient/p-1")),
        (f"{B}/Observation/o-2", about("Patient/p-1", "o-2")),
        (f"{B}/Observation/o-3", about(f"{A}/Patient/p-1", "o-3")),
    )
    assert told == [[f"{SOURCE}|{A}"], [f"{SOURCE}|{A}"], [f"{SOURCE}|{B}"], [f"{SOURCE}|{A}"]]


def names(*entries: dict[str, Any], kind: str = "history") -> list[str]:
    told = read({"resourceType": "Bundle", "type": kind, "entry": list(entries)})
    return [name for name, _ in types(told)]


def test_records_of_one_id_on_two_servers_are_two() -> None:
    on_a, on_b = ({"fullUrl": f"{base}/Observation/o-1", "resource": observation()} for base in (A, B))
    gone = {"request": {"method": "DELETE", "url": f"{B}/Observation/o-1"}}
    by_url = {"request": {"method": "DELETE", "url": "Observation/o-1"}, "fullUrl": f"{B}/Observation/o-1"}
    assert names(on_a, on_b) == [f"{A}/Observation/o-1", f"{B}/Observation/o-1"]
    assert names(on_a, gone) == names(on_a, by_url) == [f"{A}/Observation/o-1", f"{B}/Observation/o-1"]
    died = {"fullUrl": f"{B}/Patient/p-1", "resource": patient(deceasedDateTime="2026-01-01")}
    assert names(on_a, died)[1:] == [f"{B}/Patient/p-1", f"{B}/Patient/p-1#deceased"]


def test_records_of_the_own_server_are_named_without_it() -> None:
    entry = {"fullUrl": f"{A}/Observation/o-1", "resource": observation()}
    practitioner = {"fullUrl": f"{B}/Practitioner/1", "resource": {"resourceType": "Practitioner", "id": "1"}}
    gone = {"fullUrl": f"{A}/Observation/o-2", "request": {"method": "DELETE", "url": "Observation/o-2"}}
    assert names(entry, practitioner, gone) == ["Observation/o-1", "Observation/o-2"]
    assert names(gone) == ["Observation/o-2"]
    assert names({"resource": observation()}, {"fullUrl": "urn:uuid:1", "resource": observation(id="o-2")}) == [
        "Observation/o-1",
        "Observation/o-2",
    ]


def test_the_name_of_a_record_is_never_too_long() -> None:
    server = "https://c.example/" + "x" * 300
    long = {"resourceType": "MedicationAdministration", "id": "i" * 64, "status": "entered-in-error"}
    entries = [
        {"fullUrl": f"{base}/MedicationAdministration/{'i' * 64}", "resource": long}
        for base in (server, server + "y", "https://d.example/" + "x" * 110)
    ]
    assert len(set(names(*entries))) == 3


def test_a_long_base_is_hashed() -> None:
    long = "https://c.example/" + "x" * 300
    ((first,), (second,)) = assigners((None, about(f"{long}/Patient/p-1")), (None, about(f"{long}y/Patient/p-1")))
    assert first.startswith("sha256:")
    assert first != second


def test_a_person_may_be_named_by_a_national_number() -> None:
    subject = {"identifier": {"system": "urn:oid:1.2.250.1.213.1.4.8", "value": "1 72 07 29 019 042 86"}}
    told = one(observation(subject=subject))["data"]["identity"]
    assert told == {"identifiers": [{"system": "ins-nir", "value": "172072901904286"}]}


@pytest.mark.parametrize(
    "reference",
    [
        "Patient?identifier=urn:oid:1.2.250.1.213.1.4.8|172072901904286",
        "Patient?identifier=urn%3Aoid%3A1.2.250.1.213.1.4.8%7C172072901904286",
    ],
)
def test_a_conditional_reference_may_be_by_a_national_number(reference: str) -> None:
    told = one(observation(subject={"reference": reference}))["data"]["identity"]
    assert told == {"identifiers": [{"system": "ins-nir", "value": "172072901904286"}]}


@pytest.mark.parametrize(
    "query",
    [
        "identifier=172072901904286",
        "identifier=|172072901904286",
        "identifier=http://chu.example/ipp|8002914",
        "identifier=urn:oid:1.2.250.1.213.1.4.8|172072901904286&birthdate=1972-07-14",
        "name=LE%20GOFF",
        "&" * 100,
        "",
    ],
)
def test_any_other_conditional_reference_is_of_nobody(query: str) -> None:
    assert refusal(observation(subject={"reference": f"Patient?{query}"})).reason == "no-person"


# --- the Patient ---

OID = "urn:oid:1.2.250.1.213.1.4."


@pytest.mark.parametrize(
    ("oid", "system", "status"),
    [("8", "ins-nir", None), ("9", "ins-nia", None), ("10", "ins-nir", "fictitious"), ("11", "ins-nir", "fictitious")],
)
def test_national_numbers(oid: str, system: str, status: str | None) -> None:
    told = identity(identifier=[{"system": OID + oid, "value": "172072901904286"}])
    assert told["identifiers"] == [
        {"system": system, "value": "172072901904286"},
        {"system": "ipp", "assigner": SOURCE, "value": "p-1"},
    ]
    assert told.get("identity_status") == status


def test_other_numbers_are_dropped_and_the_insured_persons_is_not_the_patients() -> None:
    told = identity(
        identifier=[
            {"system": "http://hl7.org/fhir/sid/us-ssn", "value": "999-40-1490"},
            {"system": OID + "2", "value": "0123456789012345678901"},
            {"system": OID + "8", "value": "172072901904286", "type": {"coding": [{"code": "NH"}]}},
        ]
    )
    assert [number["system"] for number in told["identifiers"]] == ["nir-opener", "ipp"]


@pytest.mark.parametrize(
    ("code", "ins", "status"),
    [
        ("VALI", True, "qualified"),
        ("VALI", False, "validated"),
        ("PROV", True, "retrieved"),
        ("PROV", False, "provisional"),
        ("QUAL", True, "qualified"),
        ("RECUP", True, "retrieved"),
        ("FICT", True, "fictitious"),
        ("ANOM", False, "fictitious"),
        ("VIDE", True, None),
        (7, True, None),
    ],
)
def test_the_status_of_an_identity(code: Any, ins: bool, status: str | None) -> None:
    told = identity(
        identifier=[{"system": OID + "8", "value": "172072901904286"}] if ins else [],
        extension=[
            {
                "url": "https://hl7.fr/ig/fhir/core/StructureDefinition/fr-core-identity-reliability",
                "extension": [{"url": "identityStatus", "valueCoding": {"code": code}}],
            }
        ],
    )
    assert told.get("identity_status") == status


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([{"use": "official", "family": "LE GOFF", "given": ["Anne"]}], ("LE GOFF", None, ["Anne"])),
        (
            [{"use": "official", "family": "LE GOFF", "given": ["Anne"]}, {"use": "usual", "family": "MARTIN"}],
            ("LE GOFF", "MARTIN", ["Anne"]),
        ),
        (
            [{"use": "official", "family": "Martin", "given": ["Ann"]}, {"use": "maiden", "family": "Goff"}],
            ("Goff", "Martin", ["Ann"]),
        ),
        ([{"family": "LE GOFF"}], ("LE GOFF", None, None)),
        ([{"use": "usual", "family": "MARTIN", "given": ["Anne"]}], (None, "MARTIN", ["Anne"])),
        ([{"use": "nickname", "family": "Nana"}, {"use": "old", "family": "X"}], (None, None, None)),
        ([{"use": "official", "family": 7, "given": [None, " ", "Anne", 3]}], (None, None, ["Anne"])),
    ],
)
def test_names(names: list[Any], expected: tuple[Any, ...]) -> None:
    told = identity(name=names)
    assert (told.get("birth_family_name"), told.get("used_family_name"), told.get("given_names")) == expected


def test_traits_that_are_not_what_they_should_be_are_left_out() -> None:
    told = identity(
        gender="homme",
        birthDate="1972-07",
        address=[{"use": "old", "city": "Brest"}, {"city": "Rennes", "postalCode": "35000"}],
        extension=[
            {"url": "http://hl7.org/fhir/StructureDefinition/patient-birthPlace", "valueAddress": {"city": "Brest"}}
        ],
        active=False,
    )
    assert told == {
        "identifiers": [{"system": "ipp", "assigner": SOURCE, "value": "p-1"}],
        "birth_date": "1972-07",
        "residence": {"city": "Rennes", "postcode": "35000"},
    }


# --- linked Patients ---

LINKED = [
    ([{"other": {"reference": "Patient/p-2"}, "type": "replaces"}], [SOURCE], ["p-2"], 0),
    ([{"other": {"reference": "Patient/p-2"}, "type": "refer"}], [SOURCE], ["p-2"], 0),
    ([{"other": {"reference": "Patient/p-2/_history/3"}, "type": "seealso"}], [SOURCE], ["p-2"], 0),
    ([{"other": {"reference": f"{A}/Patient/p-2"}, "type": "seealso"}], [f"{SOURCE}|{A}"], ["p-2"], 0),
    ([{"other": {"reference": "Patient/p-1"}, "type": "replaced-by"}], [], [], 0),
    ([{"other": {"reference": "Patient/p-2"}, "type": "seealso"}] * 2, [SOURCE], ["p-2"], 0),
    ([{"other": {"reference": "RelatedPerson/r-1"}, "type": "seealso"}], [], [], 1),
    ([{"other": {"reference": "#p-2"}, "type": "replaces"}], [], [], 1),
    ([{"other": {"display": "Yves LE GOFF"}, "type": "replaces"}], [], [], 1),
    ([{"other": {"reference": "Patient/p-2"}, "type": "child"}], [], [], 1),
    ([{"other": "Patient/p-2"}, None, 7], [], [], 3),
    ("Patient/p-2", [], [], 0),
    ([{"other": {"reference": f"Patient/p-{at}"}, "type": "seealso"} for at in range(2, 15)], [SOURCE] * 10, None, 3),
]


@pytest.mark.parametrize(("link", "assigners", "values", "passed_over"), LINKED)
def test_a_linked_patients_number_is_the_persons_too(
    link: Any, assigners: list[str], values: list[str] | None, passed_over: int
) -> None:
    told = read(patient(link=link, gender="male"))
    (event,) = told.events
    assert isinstance(event, dict)
    Event.model_validate(event)
    *linked, own = event["data"]["identity"]["identifiers"]
    assert own == {"system": "ipp", "assigner": SOURCE, "value": "p-1"}
    assert [number["assigner"] for number in linked] == assigners
    assert values is None or [number["value"] for number in linked] == values
    assert event["data"]["identity"]["sex"] == "male"
    assert told.not_taken == ({"Patient.link": passed_over} if passed_over else {})


def test_a_link_is_resolved_like_any_reference() -> None:
    url = "urn:uuid:7f0d6a53-3c0e-4f04-9a43-5d2d6b0b8f01"
    linked = patient(link=[{"other": {"reference": url}, "type": "replaces"}])
    entries = [{"resource": linked}, {"fullUrl": url, "resource": patient(id="p-2")}]
    first, _ = read({"resourceType": "Bundle", "entry": entries}).events
    assert isinstance(first, dict)
    assert [number["value"] for number in first["data"]["identity"]["identifiers"]] == ["p-2", "p-1"]


@pytest.mark.parametrize("active", [True, False, None])
def test_of_a_replaced_patient_the_numbers_are_all_that_counts(active: bool | None) -> None:
    replaced = patient(
        active=active,
        link=[{"other": {"reference": "Patient/p-2"}, "type": "replaced-by"}],
        name=[{"family": "INCONNU"}],
        birthDate="1900-01-01",
        identifier=[{"system": OID + "8", "value": "172072901904286"}],
        deceasedDateTime="2026-01-01",
    )
    told = read(replaced)
    assert types(told) == [("Patient/p-1", "identity.v1"), ("Patient/p-1#deceased", "death.v1.deleted")]
    for event in told.events:
        assert isinstance(event, dict)
        assert event["data"] == {
            "identity": {
                "identifiers": [
                    {"system": "ipp", "assigner": SOURCE, "value": "p-2"},
                    {"system": "ipp", "assigner": SOURCE, "value": "p-1"},
                ]
            }
        }


def test_patients_that_replace_each_other_and_all_in_a_circle_end() -> None:
    def linked(name: str, other: str) -> dict[str, Any]:
        return patient(id=name, link=[{"other": {"reference": f"Patient/{other}"}, "type": "replaced-by"}])

    told = read(bundle(linked("a", "b"), linked("b", "c"), linked("c", "a")))
    assert [kind for _, kind in types(told)] == ["identity.v1", "death.v1.deleted"] * 3


# --- oppositions ---


def consent(*scopes: str, **fields: Any) -> dict[str, Any]:
    scope = {
        "coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": one} for one in scopes]
    }
    return {
        "resourceType": "Consent",
        "id": "c-1",
        "status": "active",
        "scope": scope,
        "patient": {"reference": "Patient/p-1"},
    } | fields


def opposition(document: dict[str, Any]) -> dict[str, Any]:
    (found,) = read(bundle(document)).events
    assert isinstance(found, dict), found
    return found


DENY: dict[str, Any] = {"provision": {"type": "deny", "period": {"start": "2026-03-01", "end": "2027"}}}
NESTED: dict[str, Any] = {"provision": {"type": "permit", "provision": [{"type": "permit"}, {"type": "deny"}]}}
OPTOUT: dict[str, Any] = {"policyRule": {"coding": [{"code": "OPTOUT"}]}}
OPTIN: dict[str, Any] = {"policyRule": {"coding": [{"code": "OPTIN"}]}, "provision": {"type": "permit"}}


@pytest.mark.parametrize("fields", [DENY, NESTED, OPTOUT, OPTIN | {"status": "rejected"}])
def test_a_consent_that_denies_is_an_opposition_and_is_never_swallowed(fields: dict[str, Any]) -> None:
    for scopes in (("research",), ("patient-privacy",), ("treatment", "research"), ("unheard-of",), ()):
        found = opposition(consent(*scopes, **fields))
        assert (found["type"], found["id"], found["correction"]) == ("opposition.v1", "Consent/c-1", True)
        assert found["data"] == {
            "identity": {"identifiers": [{"system": "ipp", "assigner": SOURCE, "value": "p-1"}]},
            "record": {"scope": "all"},
        }
        told = read(bundle(observation(), consent(*scopes, **fields)))
        assert told.not_taken == {}
        assert told.events[1] == found


def test_an_opposition_holds_from_when_its_consent_says() -> None:
    assert opposition(consent("research", **DENY))["time"] == "2026-03-01T00:00:00Z"
    assert opposition(consent("research", **OPTOUT, dateTime="2026-02-01"))["time"] == "2026-02-01T00:00:00Z"


def test_states_of_a_consent_are_in_the_order_of_their_versions() -> None:
    stated = opposition(consent("research", **DENY, meta={"versionId": "3"}))
    assert (stated["version"], "correction" in stated) == (3, False)


@pytest.mark.parametrize("status", ["inactive", "entered-in-error", "rejected"])
def test_an_opposition_that_is_over_is_lifted(status: str) -> None:
    lifted = opposition(consent("research", **DENY, status=status))
    assert lifted["type"] == "opposition.v1.deleted"
    assert lifted["data"].keys() == {"identity"}


@pytest.mark.parametrize(
    "document",
    [
        consent("treatment", **DENY),
        consent("adr", "treatment", **OPTOUT),
        consent("research", **OPTIN),
        consent("research"),
        consent("research", **DENY, status="draft"),
        consent("research", **DENY, status="proposed"),
        consent("research", **OPTIN, status="inactive"),
    ],
)
def test_a_consent_that_objects_to_nothing_is_not_the_hubs(document: dict[str, Any]) -> None:
    assert read(document) == FhirEvents([], {"Consent": 1}, [])


def test_an_opposition_of_nobody_is_refused_as_such() -> None:
    assert refusal(consent("research", **DENY, patient={"display": "Yves LE GOFF"})).reason == "no-person"
    assert refusal(consent("research", **DENY, id="LE GOFF")).reason == "no-id"


def test_a_consent_without_an_end_counts_as_one_that_denies() -> None:
    provision: dict[str, Any] = {"type": "permit"}
    provision["provision"] = [provision]
    assert opposition(consent("research", provision=provision))["type"] == "opposition.v1"


# --- death ---


@pytest.mark.parametrize(
    ("died", "date", "moment"),
    [
        ("2026-04-01", "2026-04-01", "2026-04-01T00:00:00Z"),
        ("2026-04", "2026-04", "2026-04-30T00:00:00Z"),
        ("2024-02", "2024-02", "2024-02-29T00:00:00Z"),
        ("2026", "2026", "2026-12-31T00:00:00Z"),
        ("2199", "2199", "2199-12-31T00:00:00Z"),
        ("2026-04-01T01:30:00+02:00", "2026-04-01", "2026-03-31T23:30:00Z"),
    ],
)
def test_a_death_is_a_record_of_its_own(died: str, date: str, moment: str) -> None:
    told = read(patient(deceasedDateTime=died, meta={"versionId": "3", "lastUpdated": "2026-05-01T00:00:00Z"}))
    assert types(told) == [("Patient/p-1", "identity.v1"), ("Patient/p-1#deceased", "death.v1")]
    who, death = told.events
    assert isinstance(who, dict)
    assert isinstance(death, dict)
    assert death["data"] == {"identity": who["data"]["identity"], "record": {"date": date}}
    assert strip("death.v1", death["data"]["record"]) == ({"date": date}, 0, ())
    assert (death["time"], death["version"]) == (moment, 3)
    assert told.places == [0, 0]


@pytest.mark.parametrize(
    ("fields", "kinds", "not_taken"),
    [
        ({"deceasedBoolean": False}, ["identity.v1", "death.v1.deleted"], {}),
        ({"deceasedBoolean": False, "meta": {"versionId": "2"}}, ["identity.v1", "death.v1.deleted"], {}),
        ({"deceasedBoolean": False, "meta": {"versionId": "1"}}, ["identity.v1"], {}),
        ({"deceasedBoolean": True}, ["identity.v1"], {"Patient.deceasedBoolean": 1}),
        ({"deceasedBoolean": "true"}, ["identity.v1"], {}),
        ({}, ["identity.v1"], {}),
    ],
)
def test_a_death_without_a_date_and_the_living(
    fields: dict[str, Any], kinds: list[str], not_taken: dict[str, int]
) -> None:
    told = read(patient(**fields))
    assert [kind for _, kind in types(told)] == kinds
    assert told.not_taken == not_taken


@pytest.mark.parametrize("died", ["0001-01-01", "2026-02-30", "yesterday, LE GOFF", 2026, []])
def test_a_death_of_no_date_is_refused_and_the_patient_is_not(died: Any) -> None:
    who, death = read(bundle(patient(deceasedDateTime=died))).events
    assert isinstance(who, dict)
    assert isinstance(death, Refusal)
    assert death.reason == "bad-date"
    assert death.detail.startswith("entry[0]: Patient.deceasedDateTime")
    assert "GOFF" not in death.detail


# --- medicines ---

MEDICINE = {"coding": [{"system": "http://www.whocc.no/atc", "code": "C03CA01", "display": "for Yves LE GOFF"}]}
MEDICINES = [
    (
        "MedicationDispense",
        "dispensation.v1",
        {
            "status": "completed",
            "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "FF"}]},
            "quantity": {"value": 30, "unit": "{tablets}"},
            "daysSupply": {"value": 30, "system": "http://unitsofmeasure.org", "code": "d"},
            "whenPrepared": "2026-03-01",
            "whenHandedOver": "2026-03-02T10:00:00Z",
            "dosageInstruction": [{"sequence": 1, "asNeededBoolean": False}],
            "substitution": {"wasSubstituted": True},
        },
        {"location": {"display": "LE GOFF"}, "receiver": [{"reference": "Patient/p-1"}], "note": [{"text": "LE GOFF"}]},
        "2026-03-02T10:00:00Z",
    ),
    (
        "MedicationAdministration",
        "medication.v1",
        {
            "status": "completed",
            "effectivePeriod": {"start": "2026-03-02T10:00:00Z", "end": "2026-03-02T10:05:00Z"},
            "dosage": {"dose": {"value": 40, "unit": "mg"}, "rateQuantity": {"value": 8, "unit": "mg/min"}},
        },
        {"performer": [{"actor": {"display": "LE GOFF"}}], "device": [{"display": "SN-778899"}]},
        "2026-03-02T10:00:00Z",
    ),
    (
        "MedicationStatement",
        "medication.v1",
        {"status": "active", "effectiveDateTime": "2026-03", "dateAsserted": "2026-04-01", "dosage": [{"sequence": 1}]},
        {"informationSource": {"display": "Yves LE GOFF"}, "derivedFrom": [{"display": "LE GOFF"}]},
        "2026-03-01T00:00:00Z",
    ),
]


@pytest.mark.parametrize(("kind", "record_type", "kept", "removed", "when"), MEDICINES)
def test_medicines_handed_out_given_and_taken(
    kind: str, record_type: str, kept: dict[str, Any], removed: dict[str, Any], when: str
) -> None:
    subject = {"subject": {"reference": "Patient/p-1", "display": "LE GOFF"}}
    event = one({"resourceType": kind, "id": "m-1", "medicationCodeableConcept": MEDICINE} | subject | kept | removed)
    assert (event["id"], event["type"], event["time"]) == (f"{kind}/m-1", record_type, when)
    medicine = {"coding": [{"system": "http://www.whocc.no/atc", "code": "C03CA01"}]}
    stripped = strip(record_type, event["data"]["record"])
    assert stripped.record == {"resourceType": kind, "medicationCodeableConcept": medicine} | kept
    contained = {"contained": [{"resourceType": "Medication", "id": "med", "code": MEDICINE}]}
    reference = {"medicationReference": {"reference": "#med"}}
    event = one({"resourceType": kind, "id": "m-1"} | subject | contained | reference | kept)
    assert strip(record_type, event["data"]["record"]).record == stripped.record


# --- bad input ---


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (None, "not-fhir"),
        ([], "not-fhir"),
        ("Bundle", "not-fhir"),
        ({}, "not-fhir"),
        ({"resourceType": 3}, "not-fhir"),
        ({"resourceType": "Bundle", "type": "batch-response"}, "bundle-type"),
        ({"resourceType": "Bundle", "type": ["batch"]}, "bundle-type"),
        ({"resourceType": "Bundle", "entry": {}}, "malformed"),
        ({"resourceType": "Bundle", "entry": [7]}, "malformed"),
        ({"resourceType": "Bundle", "entry": [{}]}, "no-resource"),
        ({"resourceType": "Bundle", "entry": [{"request": {"method": "GET", "url": "Patient/1"}}]}, "no-resource"),
        ({"resourceType": "Bundle", "entry": [{"resource": []}]}, "malformed"),
        ({"resourceType": "Bundle", "entry": [{"resource": {"resourceType": []}}]}, "malformed"),
        (bundle(bundle(observation())), "nested-bundle"),
        (observation(id=7), "no-id"),
        (observation(id=None), "no-id"),
        (observation(id="LE GOFF"), "no-id"),
        (patient(birthDate="14/07/1972"), "bad-date"),
        (patient(birthDate="1972-02-30"), "bad-date"),
        (patient(birthDate=1972), "bad-date"),
        (patient(name={"family": "LE GOFF"}), "malformed"),
        (patient(name=["LE GOFF"]), "malformed"),
        (patient(name=[{"given": "Yves"}]), "malformed"),
        (patient(address="12 rue du Port"), "malformed"),
        (patient(identifier=["172072901904286"]), "malformed"),
        (patient(identifier=[{"system": OID + "8", "value": 172072901904286}]), "malformed"),
    ],
)
def test_bad_input_is_refused_by_its_reason(document: Any, reason: str) -> None:
    refused = refusal(document)
    assert refused.reason == reason
    for planted in ("GOFF", "1972-02", "14/07", "rue du Port", "172072901904286"):
        assert planted not in refused.detail


def test_one_bad_entry_does_not_hold_up_the_others() -> None:
    told = read(bundle(observation(id=7), observation(), None, patient()))
    assert [isinstance(event, Refusal) for event in told.events] == [True, False, True, False]


def test_a_bundle_within_itself_and_a_deep_one_end() -> None:
    cyclic = bundle()
    cyclic["entry"].append({"resource": cyclic})
    assert refusal(cyclic).reason == "nested-bundle"
    deep: Any = {}
    for _ in range(10_000):
        deep = {"extension": [deep]}
    assert isinstance(read(bundle(observation(extension=[deep]), patient(extension=[deep]), deep)).events[2], Refusal)


@pytest.mark.parametrize("value", [10**5000, ["x"]], ids=["number", "list"])
def test_what_stands_where_text_belongs_never_raises(value: Any) -> None:
    for _ in range(10_000 if isinstance(value, list) else 0):
        value = [value]
    contained = [{"resourceType": "Medication", "id": value}]
    reference = {"medicationReference": {"reference": "#x"}, "subject": {"reference": "Patient/p-1"}}
    medicine = {"resourceType": "MedicationRequest", "id": "m-1", "contained": contained} | reference
    deleted = {"request": {"method": "DELETE", "url": value}}
    document = bundle(patient(extension=[{"url": value}]), medicine)
    document["entry"].append(deleted)
    assert [isinstance(event, Refusal) for event in read(document).events] == [False, False, True]


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
NAMES = (
    *("resourceType", "type", "entry", "resource", "id", "meta", "versionId", "lastUpdated", "subject", "patient"),
    *(
        "reference",
        "identifier",
        "system",
        "value",
        "name",
        "family",
        "given",
        "use",
        "address",
        "line",
        "city",
        "_city",
    ),
    *("extension", "url", "valueCoding", "valueAddress", "valueString", "code", "coding", "gender", "birthDate"),
    *(
        "link",
        "other",
        "deceasedBoolean",
        "deceasedDateTime",
        "status",
        "verificationStatus",
        "fullUrl",
        "request",
        "method",
        "response",
        "etag",
        "contained",
    ),
    *("medicationReference", "period", "start", "effectiveDateTime", "onsetPeriod", "billablePeriod", "authoredOn"),
)
WORDS = st.sampled_from(
    (
        *("Bundle", "Patient", "Observation", "Condition", "MedicationRequest", "Medication", "Claim", "collection"),
        *(
            "Patient/p-1",
            "replaced-by",
            "seealso",
            "#x",
            "urn:uuid:",
            "urn:uuid:1",
            "DELETE",
            "Patient?identifier=x|y",
            "Consent",
            "deny",
            "active",
            "Observation/1",
            "official",
            "maiden",
            "NH",
            "VALI",
        ),
        *(
            OID + "8",
            OID + "10",
            "2026-03-01",
            "2026-03-01T10:00:00Z",
            "9999-12-31T23:59:59-14:00",
            "p-1",
            "entered-in-error",
        ),
        *("https://x/fr-core-identity-reliability", "identityStatus", "x/patient-birthPlace", "x/insee-code", "29019"),
    )
)
FHIR_LIKE = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=8),
    max_leaves=40,
)


@given(
    document=FHIR_LIKE
    | st.builds(lambda entries: {"resourceType": "Bundle", "entry": entries}, st.lists(FHIR_LIKE, max_size=4))
    | st.builds(lambda fields: patient() | fields, st.dictionaries(st.sampled_from(NAMES), FHIR_LIKE, max_size=8))
    | st.builds(lambda fields: observation() | fields, st.dictionaries(st.sampled_from(NAMES), FHIR_LIKE, max_size=8))
)
def test_arbitrary_json_never_raises(document: Any) -> None:
    for event in read(document).events:
        if isinstance(event, dict):
            Event.model_validate(event)
        else:
            assert event.reason
            assert event.detail
