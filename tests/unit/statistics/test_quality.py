"""The arithmetic of the report, and the list of producers."""

from __future__ import annotations

import datetime as dt

import pytest

from contracts.sources import Registered
from services.statistics.domain.quality import Quality, listed, report

pytestmark = pytest.mark.unit

SOURCE = "urn:estuaire:producer:chu-rennes"
NOW = dt.datetime(2026, 3, 10, 12, tzinfo=dt.UTC)
PERIOD = (dt.date(2026, 3, 1), dt.date(2026, 3, 10))
COUNTS = {
    ("hospital-stay.v1", "records"): 8,
    ("hospital-stay.v1", "retractions"): 2,
    ("hospital-stay.v1", "field.entry"): 8,
    ("hospital-stay.v1", "field.ghm"): 6,
    ("hospital-stay.v1", "invalid.ghm"): 1,
    ("hospital-stay.v1", "removed"): 5,
    ("hospital-stay.v1", "identity.birth_date"): 6,
    ("hospital-stay.v1", "system.ins-nir"): 4,
    ("hospital-stay.v1", "status.qualified"): 8,
    ("hospital-stay.v1", "late.day"): 2,
    ("hospital-stay.v1", "late.more"): 6,
    ("hospital-stay.v1", "unlinkable"): 1,
    ("hospital-stay.v1", "flag.nir-contradicts-sex"): 1,
    ("hospital-stay.v1", "refused.invalid-record"): 3,
    ("hospital-stay.v1", "wrong.record.entry"): 2,
    ("observation.v1", "records"): 2,
    ("observation.v1", "field.resourceType"): 2,
    ("observation.v1", "field.code"): 2,
    ("observation.v1", "identity.birth_date"): 2,
    ("observation.v1", "late.day"): 2,
    ("", "refused.not-json"): 5,
    ("", "other"): 9,
    ("", "linkage.linked"): 9,
    ("", "linkage.duplicates"): 2,
    ("", "linkage.corrections"): 1,
    ("", "linkage.dead_lettered:conflict"): 1,
    ("", "access.stored"): 7,
    ("", "access.dead_lettered:keys"): 2,
}
DAYS = [
    (dt.date(2026, 3, 2), "records", 10),
    (dt.date(2026, 3, 2), "refused.not-json", 5),
    (dt.date(2026, 3, 1), "retractions", 2),
    (dt.date(2026, 3, 2), "refused.invalid-record", 3),
]


@pytest.fixture
def found() -> Quality:
    return report(Registered(source=SOURCE, title="Rennes"), PERIOD, COUNTS, DAYS, is_registered=True)


def test_volumes_add_up(found: Quality) -> None:
    assert (found.accepted, found.records, found.retractions, found.refused) == (12, 10, 2, 8)
    assert found.refused_share == 0.4
    assert sum(one.records for one in found.reasons) == found.refused
    assert [one.name for one in found.reasons] == ["not-json", "invalid-record"]
    assert [(one.name, one.records, one.share) for one in found.wrong] == [("record.entry", 2, 0.25)]
    assert sum(one.records for one in found.types) == found.records
    assert sum(one.refused for one in found.types) == found.refused
    assert [(str(one.day), one.accepted, one.refused) for one in found.days] == [
        ("2026-03-01", 2, 0),
        ("2026-03-02", 10, 8),
    ]


def test_completeness_is_over_the_records(found: Quality) -> None:
    identity = {one.name: (one.records, one.share) for one in found.identity}
    assert identity["birth_date"] == (8, 0.8)
    assert identity["sex"] == (0, 0.0)
    assert {one.name: one.share for one in found.identifiers}["ins-nir"] == 0.4
    stays, observations, unknown = found.types
    assert (stays.type, observations.type, unknown.type) == ("hospital-stay.v1", "observation.v1", "")
    fields = {one.name: one for one in stays.fields}
    assert (fields["ghm"].share, fields["ghm"].invalid, fields["ghm"].invalid_share) == (0.75, 1, 0.125)
    assert (fields["finess"].records, fields["finess"].share) == (0, 0.0), "a field that none has is listed"
    assert "resourceType" not in {one.name for one in observations.fields}
    assert {one.name for one in observations.fields} >= {"code", "valueQuantity"}
    assert unknown.fields == []


def test_lateness_flags_and_what_cannot_be_linked(found: Quality) -> None:
    late = {one.name: one.records for one in found.lateness}
    assert (late["day"], late["more"], late["hour"]) == (4, 6, 0)
    assert sum(late.values()) == found.records
    assert [(one.name, one.records) for one in found.flags] == [("nir-contradicts-sex", 1)]
    assert (found.unlinkable.records, found.unlinkable.share) == (1, 0.1)


def test_what_later_steps_made_of_it(found: Quality) -> None:
    assert (found.duplicates, found.corrections, found.conflicts) == (2, 1, 1)
    assert found.duplicates_share == round(2 / 12, 4)
    assert [(one.step, one.reason, one.records) for one in found.dead_letters] == [
        ("linkage", "conflict", 1),
        ("access", "keys", 2),
    ]
    assert found.accepted == sum(found.steps["linkage"].get(one, 0) for one in ("linked", "duplicates")) + 1


def test_nothing_has_no_shares() -> None:
    nothing = report(Registered(source=SOURCE), PERIOD, {}, [], is_registered=False)
    assert (nothing.accepted, nothing.refused_share, nothing.unlinkable.share, nothing.types) == (0, None, None, [])


def test_the_form_that_came_says_which_fields_there_could_be() -> None:
    counts = {("claim.v1", "records"): 3, ("claim.v1", "field.resourceType"): 3}
    fhir = report(Registered(source=SOURCE), PERIOD, counts, [], is_registered=True).types[0]
    both = report(Registered(source=SOURCE), PERIOD, counts | {("claim.v1", "records"): 4}, [], is_registered=True)
    assert "care_date" not in {one.name for one in fhir.fields}
    assert "care_date" in {one.name for one in both.types[0].fields}


def test_producers_are_listed_with_what_was_seen() -> None:
    registered = {
        "urn:b": Registered(source="urn:b", title="B", expected_per_day=100),
        "urn:c": Registered(source="urn:c"),
    }
    day = dt.timedelta(days=1)
    refused = {"bad-value": 4, "not-json": 1}
    seen = {"urn:a": (NOW - 40 * day, NOW - 2 * day, 0, {}), "urn:b": (NOW - 2 * day, NOW, 300, refused)}
    b, c, a = listed(registered, seen, NOW)
    assert (b.source, b.status, b.per_day, b.expected_share, b.registered) == ("urn:b", "active", 100.0, 1.0, True)
    assert (b.refused, b.reasons) == (5, refused)
    assert (c.source, c.status, c.last_seen, c.expected_share) == ("urn:c", "never seen", None, None)
    assert (a.source, a.status, a.registered) == ("urn:a", "silent", False)
