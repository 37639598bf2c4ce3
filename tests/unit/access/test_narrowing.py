"""Which permits allow less than another."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from contracts.permits import Permit, permit_from, widened
from services.access.domain.policy import Facts, Policy

pytestmark = pytest.mark.unit

WHOLE: dict[str, Any] = {
    "id": "cardio",
    "title": "A test",
    "purpose": "To test.",
    "sources": ["urn:chu", "urn:cnam"],
    "types": ["hospital-stay.v1", "diagnosis.v1"],
    "fields": {"hospital-stay.v1": ["entry", "units"], "diagnosis.v1": ["*"]},
    "demographics": ["sex", "commune"],
    "population": {
        "birth_year": {"from": 1940},
        "age": {"from": 18, "to": 75},
        "departments": ["35"],
        "communes": ["29019"],
        "diagnoses": ["I50", "J45"],
        "cohort": "urn:registry",
    },
    "period": {"from": "2024-01-01", "to": "2026-12-31"},
    "history_years": 5,
    "precision": {"time": "day", "source": "exact", "place": "commune"},
    "potential_identifiers": 3,
    "indicators": {"every": "month"},
    "delivery": "hourly",
    "opposition_exemption": "A law.",
    "environment": "Bubble",
    "expires": "2027-12-31",
    "subscribers": ["a", "b"],
}


def permit(**changes: Any) -> Permit:
    return permit_from({name: value for name, value in (WHOLE | changes).items() if value is not None})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"title": "Another"},
        {"sources": ["urn:cnam"]},
        {"types": ["diagnosis.v1"], "fields": {"diagnosis.v1": ["code.coding"]}},
        {"fields": {"hospital-stay.v1": ["units.kind", "entry"]}},
        {"demographics": ["department"]},
        {"population": {**WHOLE["population"], "sex": ["male"], "birth_year": {"from": 1950, "to": 1960}}},
        {"population": {**WHOLE["population"], "departments": None, "communes": ["35238"], "diagnoses": ["I50.1"]}},
        {"population": {**WHOLE["population"], "age": {"from": 18, "to": 74}}},
        {"period": {"from": "2025-01-01", "to": "2026-12-31"}},
        {"history_years": 4},
        {"history_years": 0},
        {"precision": {"time": "year", "source": "hub", "place": "commune"}, "indicators": None},
        {"potential_identifiers": None},
        {"opposition_exemption": None, "indicators": None},
        {"expires": "2026-12-31"},
        {"subscribers": ["b"]},
        {"delivery": "daily"},
    ],
)
def test_what_allows_less_or_the_same(changes: dict[str, Any]) -> None:
    assert widened(permit(**changes), permit()) == []


@pytest.mark.parametrize(
    ("clause", "value"),
    [
        ("id", "another"),
        ("purpose", "Something else."),
        ("environment", None),
        ("sources", ["*"]),
        ("sources", ["urn:chu", "urn:else"]),
        ("types", ["hospital-stay.v1", "diagnosis.v1", "claim.v1"]),
        ("fields", {"hospital-stay.v1": ["*"]}),
        ("fields", {"hospital-stay.v1": ["unitsandmore"]}),
        ("demographics", ["sex", "birth_year"]),
        ("demographics", ["sex", "commune", "deceased"]),
        ("population", None),
        ("population", {**WHOLE["population"], "diagnoses": None}),
        ("population", {**WHOLE["population"], "cohort": None}),
        ("population", {**WHOLE["population"], "cohort": "urn:another"}),
        ("population", {**WHOLE["population"], "age": None}),
        ("population", {**WHOLE["population"], "age": {"from": 18}}),
        ("population", {**WHOLE["population"], "age": {"from": 17, "to": 75}}),
        ("population", {**WHOLE["population"], "birth_year": {"from": 1939}}),
        ("population", {**WHOLE["population"], "birth_year": {"to": 1960}}),
        ("population", {**WHOLE["population"], "departments": ["35", "22"]}),
        ("population", {**WHOLE["population"], "communes": ["29020"]}),
        ("population", {**WHOLE["population"], "departments": None, "communes": None}),
        ("population", {**WHOLE["population"], "diagnoses": ["I50", "E11"]}),
        ("period", {"from": "2023-12-31", "to": "2026-12-31"}),
        ("period", {"from": "2024-01-01"}),
        ("period", {}),
        ("history_years", None),
        ("history_years", 6),
        ("precision", {"time": "exact", "source": "exact", "place": "commune"}),
        ("potential_identifiers", 4),
        ("indicators", {"every": "week"}),
        ("opposition_exemption", "Another law."),
        ("expires", "2028-01-01"),
        ("subscribers", ["a", "c"]),
        ("delivery", None),
    ],
)
def test_what_allows_more(clause: str, value: Any) -> None:
    assert widened(permit(**{clause: value}), permit()) == [clause]


@pytest.mark.parametrize(
    ("clause", "value"),
    [
        ("sources", ["*"]),
        ("period", {}),
        ("opposition_exemption", None),
        ("population", None),
        ("population", {**WHOLE["population"], "cohort": None}),
        ("population", {**WHOLE["population"], "age": None}),
        ("history_years", None),
    ],
)
def test_what_is_open_may_be_closed_but_not_the_reverse(clause: str, value: Any) -> None:
    wide, narrow = permit(**{clause: value}), permit()
    assert (widened(narrow, wide), widened(wide, narrow)) in (([], [clause]), ([clause], []))


def test_a_narrower_permit_allows_no_record_that_the_wider_does_not() -> None:
    times = [dt.datetime(year, 6, 1, tzinfo=dt.UTC) for year in range(2022, 2029)]
    facts = [
        Facts(b"", b"", "", kind, source, time, retracted=False)
        for kind in ("hospital-stay.v1", "diagnosis.v1", "claim.v1")
        for source in ("urn:chu", "urn:cnam", "urn:else")
        for time in times
    ]
    some = [permit(sources=sources, types=types, fields={}, period=period, history_years=years, population=population)
            for sources in (["*"], ["urn:chu"], ["urn:chu", "urn:cnam"])
            for types in (["claim.v1"], ["hospital-stay.v1", "claim.v1"])
            for period in ({}, {"from": "2024-01-01"}, {"to": "2026-01-01"}, {"from": "2024-01-01", "to": "2026-01-01"})
            for years in (None, 0, 3)
            for population in (None, {"age": {"from": 37}}, {"age": {"from": 36, "to": 38}}, {"age": {"to": 38}})
            ]  # fmt: skip
    compiled = [(one, Policy(one, "2026-06-01")) for one in some]
    allowed = [(one, {at for at, fact in enumerate(facts) if policy.allows(fact, 1988)}) for one, policy in compiled]
    compared = 0
    for one, of_one in allowed:
        for other, of_other in allowed:
            if not widened(one, other):
                compared += 1
                assert of_one <= of_other
    assert compared > len(some)
