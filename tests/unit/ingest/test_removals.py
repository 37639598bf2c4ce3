"""The report of what is removed from a record: complete, and in words of the standard alone."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.domain.content import InvalidRecord, allowed, strip
from services.ingest.domain.fhir_names import NAMES
from services.ingest.domain.removals import Reason, removals

from .samples import PLANTED, records, with_corners_filled, with_each_place_replaced
from .test_content import FHIR_LIKE, JSON, WITH_RECORD, observation

pytestmark = pytest.mark.unit

WORDS = NAMES | {name for kind in WITH_RECORD for leaf in allowed(kind) for name in re.split(r"[.\[\]]+", leaf.path)}


def told(record: dict[str, Any], kind: str = "observation.v1") -> dict[tuple[str, str], int]:
    return {(path, reason.value): count for (path, reason), count in removals(kind, record).items()}


def check(kind: str, record: dict[str, Any]) -> None:
    """Every value that goes is in the report, once, and nothing in it is the record's own word."""
    try:
        removed = strip(kind, record).removed
    except InvalidRecord:
        return
    found = removals(kind, record)
    assert found.total() == removed
    for path, _ in found:
        first, *names = (
            path.removeprefix(kind).removeprefix(".").split(".") if path.startswith(kind) else path.split(".")
        )
        for name in (first, *names):
            bare = name.replace("[]", "").removeprefix("_")
            assert bare in WORDS or bare in ("*", record.get("resourceType"), "")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"note": [{"text": "M. LE GOFF", "time": "2026"}]}, {"note[].text no-place": 1, "note[].time no-place": 1}),
        ({"LE GOFF": 1}, {"* no-place": 1}),
        ({"LE GOFF": {"id": 1, "YVES": [2, 3]}}, {"*.id no-place": 1, "*.*[] no-place": 2}),
        ({"_status": {"extension": [{"valueString": "x"}]}}, {"_status.extension[].valueString no-place": 1}),
        ({"_LE GOFF": "x"}, {"* no-place": 1}),
        ({"effectiveDateTime": "hier"}, {"effectiveDateTime bad-value": 1}),
        ({"effectiveDateTime": {"LE GOFF": ["x"]}}, {"effectiveDateTime.*[] no-place": 1}),
        ({"effectiveDateTime": "2026", "effectiveInstant": "2026"}, {"effectiveInstant another-choice": 1}),
        ({"valueBoolean": True}, {"valueBoolean another-choice": 1}),
        ({"interpretation": []}, {"interpretation bad-value": 1}),
        ({"interpretation": [{}]}, {"interpretation[] bad-value": 1}),
        (
            {"interpretation": [{"coding": [{"system": "http://loinc.org", "code": "LE GOFF", "display": "x"}]}]},
            {
                "interpretation[].coding[].system bad-value": 1,
                "interpretation[].coding[].code bad-value": 1,
                "interpretation[].coding[].display no-place": 1,
            },
        ),
        (
            {"component": [{"valueInteger": 3}, {"valueInteger": 4, "id": "x"}]},
            {"component[].valueInteger incomplete": 2, "component[].id no-place": 1},
        ),
        (
            {"valueQuantity": {"value": 1, "unit": "LE GOFF", "id": "x", "extension": []}},
            {
                "valueQuantity.unit bad-value": 1,
                "valueQuantity.id no-place": 1,
                "valueQuantity.extension no-place": 1,
            },
        ),
    ],
)
def test_what_is_removed_from_where_and_why(fields: dict[str, Any], expected: dict[str, int]) -> None:
    record = observation(**fields)
    assert told(record) == {
        (f"Observation.{path}", reason): count
        for (path, reason), count in ((tuple(place.rsplit(" ", 1)), count) for place, count in expected.items())
    }
    check("observation.v1", record)


def test_the_hubs_own_form_goes_by_its_type() -> None:
    record = {"date": "2026-04-01", "commune": "x", "LE GOFF": 1, "causes": ["I500", "x"]}
    assert told(record, "death.v1") == {
        ("death.v1.commune", "bad-value"): 1,
        ("death.v1.*", "no-place"): 1,
        ("death.v1.causes[]", "bad-value"): 1,
    }
    for kind, form in (("identity.v1", None), ("observation.v1", "LE GOFF"), ("observation.v1", [])):
        with pytest.raises(InvalidRecord) as refused:
            removals(kind, {"resourceType": form})
        assert "GOFF" not in str(refused.value)


def test_deep_and_endless_values_have_short_paths() -> None:
    deep: Any = "x"
    for _ in range(10_000):
        deep = [deep]
    cyclic: dict[str, Any] = {}
    cyclic["again"] = [cyclic, cyclic]
    for value in (deep, cyclic):
        record = observation(extension=value)
        found = removals("observation.v1", record)
        assert all(len(path) < 100 for path, _ in found)
        assert found.total() == strip("observation.v1", record).removed


@pytest.mark.parametrize(("kind", "record"), records(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_report_adds_up(kind: str, record: dict[str, Any]) -> None:
    check(kind, record)
    for planted in PLANTED[::4]:
        for variant in (*with_each_place_replaced(record, planted), with_corners_filled(record, planted)):
            check(kind, variant)


def test_reasons_are_words() -> None:
    assert [str(reason) for reason in Reason] == ["no-place", "bad-value", "incomplete", "another-choice"]


@given(
    sample=st.sampled_from(records()),
    changes=st.dictionaries(st.sampled_from(sorted(WORDS)) | st.text(max_size=5), FHIR_LIKE | JSON, max_size=6),
)
def test_the_report_of_anything_adds_up(sample: tuple[str, dict[str, Any]], changes: dict[str, Any]) -> None:
    kind, record = sample
    check(kind, record | changes)
