"""What a permit lets out: rows, columns, precision, population; and what it refuses in words."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import Demographics
from contracts.permits import Permit, PermitError, Population, permit_from, read_permit
from estuaire.documents import ROOT
from services.access.domain.policy import Evidence, Facts, Policy, department, diagnoses
from tests.unit.access.hub import permit

pytestmark = pytest.mark.unit


def facts(**changes: Any) -> Facts:
    values: dict[str, Any] = {
        "event_id": b"e" * 16,
        "subject": b"s" * 16,
        "revision": "1",
        "type": "diagnosis.v1",
        "source": "urn:a",
        "time": dt.datetime(2026, 3, 1, 10, tzinfo=dt.UTC),
        "retracted": False,
    }
    return Facts(**(values | changes))


@pytest.mark.parametrize(
    ("clauses", "changes", "allowed"),
    [
        ({}, {}, True),
        ({}, {"retracted": True}, False),
        ({}, {"type": "claim.v1"}, False),
        ({}, {"type": "identity.v1"}, False),
        ({"sources": ["urn:a"]}, {}, True),
        ({"sources": ["urn:b"]}, {}, False),
        ({"period": {"from": "2026-03-01", "to": "2026-03-01"}}, {}, True),
        ({"period": {"from": "2026-03-02"}}, {}, False),
        ({"period": {"to": "2026-02-28"}}, {}, False),
        (
            {"period": {"to": "2026-02-28"}},
            {"time": dt.datetime(2026, 3, 1, 0, 30, tzinfo=dt.timezone(dt.timedelta(hours=1)))},
            True,
        ),
    ],
)
def test_rows(clauses: dict[str, Any], changes: dict[str, Any], allowed: bool) -> None:
    assert Policy(permit(**clauses)).allows(facts(**changes)) is allowed


NEW_YEAR_IN_PARIS = dt.datetime(2026, 1, 1, 0, 30, tzinfo=dt.timezone(dt.timedelta(hours=1)))


@pytest.mark.parametrize(
    ("ages", "born", "changes", "allowed"),
    [
        ({"from": 18}, 2008, {}, True),
        ({"from": 18}, 2009, {}, False),
        ({"to": 17}, 2009, {}, True),
        ({"to": 17}, 2008, {}, False),
        ({"from": 0, "to": 0}, 2026, {}, True),
        ({"to": 0}, 2027, {}, False),  # before they were born
        ({"from": 0}, None, {}, False),
        ({"to": 17}, 2008, {"time": NEW_YEAR_IN_PARIS}, True),
        ({"to": 150}, 2008, {"dated": False}, False),
        ({"from": 18}, 2008, {"retracted": True}, False),
    ],
)
def test_an_age_is_that_reached_in_the_year_of_the_record(
    ages: Any, born: int | None, changes: dict[str, Any], allowed: bool
) -> None:
    assert Policy(permit(population={"age": ages})).allows(facts(**changes), born) is allowed


@pytest.mark.parametrize(
    ("years", "granted", "period", "first"),
    [
        (0, "2026-06-01T09:41:07+00:00", None, "2026-01-01"),
        (5, "2026-06-01T09:41:07+00:00", None, "2021-01-01"),
        (5, "2026-06-01", None, "2021-01-01"),
        (0, "2026-01-01T00:30:00+01:00", None, "2025-01-01"),
        (5, "2026-06-01T09:41:07", "2023-02-01", "2023-02-01"),
        (5, "2026-06-01T09:41:07", "2020-02-01", "2021-01-01"),
        (None, None, "2020-02-01", "2020-02-01"),
        (None, "some day", "2020-02-01", "2020-02-01"),
    ],
)
def test_history_is_as_deep_as_the_year_of_the_grant_and_so_many_before(
    years: int | None, granted: str | None, period: str | None, first: str
) -> None:
    one = permit(period={"from": period}, history_years=years)
    policy, day = Policy(one, granted), dt.datetime.fromisoformat(first).replace(tzinfo=dt.UTC)
    assert policy.rows.start == day
    assert policy.allows(facts(time=day))
    assert not policy.allows(facts(time=day - dt.timedelta(microseconds=1)))


@pytest.mark.parametrize("granted", [None, "", "some day", "0001-01-01T00:00:00+01:00", "0100-01-01"])
def test_a_depth_that_counts_from_no_moment_releases_nothing(granted: str | None) -> None:
    with pytest.raises(PermitError, match="it is not known when the permit was granted"):
        Policy(permit(history_years=120), granted)


def test_the_last_day_is_included_and_nothing_leaves_after_it() -> None:
    policy = Policy(permit(expires="2026-06-30"))
    assert policy.in_force(dt.datetime(2026, 6, 30, 23, 59, tzinfo=dt.UTC))
    assert not policy.in_force(dt.datetime(2026, 7, 1, tzinfo=dt.UTC))


RECORD = {
    "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}, {"system": "x", "code": "1234-5"}]},
    "effectiveDateTime": "2026-03-01T10:15:00+01:00",
    "valueTime": "10:15:00",
    "valueQuantity": {"value": 0, "unit": "/min"},
    "component": [{"valueDateTime": "2026-03", "valueBoolean": False}, {"valueTime": "08:00:00"}],
    "recorded": "2024",
}


EXACT = {"effectiveDateTime": "2026-03-01T10:15:00+01:00", "valueTime": "10:15:00"}


@pytest.mark.parametrize(
    ("paths", "precision", "expected"),
    [
        ([], "day", {}),
        (["unknown", "code.nothing", "valueTime.deeper"], "day", {}),
        (["effectiveDateTime"], "day", {"effectiveDateTime": "2026-03-01"}),
        (["effectiveDateTime"], "month", {"effectiveDateTime": "2026-03"}),
        (["effectiveDateTime"], "year", {"effectiveDateTime": "2026"}),
        (["effectiveDateTime", "valueTime"], "exact", EXACT),
        (["valueTime"], "day", {}),
        (["valueQuantity.value"], "day", {"valueQuantity": {"value": 0}}),
        (["code.coding.code"], "day", {"code": {"coding": [{"code": "8867-4"}, {"code": "1234-5"}]}}),
        (["code.coding.code", "code"], "day", {"code": RECORD["code"]}),
        (["code", "code.coding.code"], "day", {"code": RECORD["code"]}),
        (["component"], "year", {"component": [{"valueDateTime": "2026", "valueBoolean": False}]}),
        (["*"], "exact", RECORD),
    ],
)  # fmt: skip
def test_columns_and_precision(paths: list[str], precision: str, expected: dict[str, Any]) -> None:
    one = permit(types=["observation.v1"], fields={"observation.v1": paths}, precision={"time": precision})
    assert Policy(one).record("observation.v1", RECORD) == expected


def test_a_type_without_fields_releases_that_it_happened_and_no_field() -> None:
    policy = Policy(permit(types=["observation.v1"], fields={}))
    assert policy.allows(facts(type="observation.v1"))
    assert policy.record("observation.v1", RECORD) == {}


def test_places_and_establishments_follow_the_precision() -> None:
    record = {"date": "2026-03-01", "commune": "2A004", "finess": "350000022"}
    fields: dict[str, Any] = {"types": ["death.v1"], "fields": {"death.v1": ["*"]}}
    assert Policy(permit(**fields)).record("death.v1", record) == {"date": "2026-03-01", "commune": "2A"}
    exact = Policy(permit(**fields, precision={"place": "commune", "source": "exact"}))
    assert exact.record("death.v1", record) == record


def test_demographics_are_those_the_permit_lists() -> None:
    person = Demographics("female", 1985, 5, "97411", "2026-03-01T10:00:00Z")
    assert Policy(permit(demographics=[])).demographics(person) == {}
    everything = ["sex", "birth_year", "birth_month", "department", "deceased"]
    assert Policy(permit(demographics=everything, precision={"time": "month"})).demographics(person) == {
        "sex": "female",
        "birth_year": 1985,
        "birth_month": 5,
        "department": "974",
        "deceased": "2026-03",
    }
    assert Policy(permit(demographics=everything)).demographics(Demographics()) == {}


@pytest.mark.parametrize(
    ("population", "person", "qualified", "admitted"),
    [
        (None, Demographics(), False, True),
        ({"sex": ["female"]}, Demographics(sex="female"), False, True),
        ({"sex": ["female"]}, Demographics(), False, False),
        ({"birth_year": {"from": 1950, "to": 1960}}, Demographics(birth_year=1950), False, True),
        ({"birth_year": {"from": 1950, "to": 1960}}, Demographics(birth_year=1961), False, False),
        ({"birth_year": {"to": 1960}}, Demographics(), False, False),
        ({"departments": ["35", "2A"]}, Demographics(commune="2A004"), False, True),
        ({"departments": ["35"]}, Demographics(commune="22001"), False, False),
        ({"departments": ["35"], "communes": ["22001"]}, Demographics(commune="22001"), False, True),
        ({"communes": ["22001"]}, Demographics(), False, False),
        ({"diagnoses": ["I50"]}, Demographics(), True, True),
        ({"diagnoses": ["I50"]}, Demographics(), False, False),
        ({"diagnoses": ["I50"], "sex": ["male"]}, Demographics(sex="female"), True, False),
        ({"cohort": "urn:registry"}, Demographics(), True, True),
        ({"cohort": "urn:registry"}, Demographics(), False, False),
    ],
)
def test_population(population: Any, person: Demographics, qualified: bool, admitted: bool) -> None:
    assert Policy(permit(population=population)).admits(person, qualified) is admitted


ASKED = st.builds(Evidence, st.sampled_from([(), ("I50",), ("I50", "J4")]), st.sampled_from([None, "urn:registry"]))
RECORDS = st.lists(
    st.tuples(
        st.builds(
            facts,
            type=st.sampled_from(["diagnosis.v1", "identity.v1", "opposition.v1"]),
            source=st.sampled_from(["urn:a", "urn:registry"]),
            retracted=st.booleans(),
        ),
        st.lists(st.sampled_from(["I501", "J45", "K00"]), max_size=2),
    ),
    max_size=4,
)


@given(ASKED, RECORDS, RECORDS)
def test_only_a_record_that_gives_evidence_changes_who_qualifies_and_it_takes_nobody_out(
    asked: Evidence, some: Any, more: Any
) -> None:
    """What lets the history be asked only where it is in doubt."""
    before, after = asked.qualifies(some), asked.qualifies(some + more)
    assert after >= before
    if not any(asked.is_in(one, codes) for one, codes in more):
        assert after == before


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"type": "identity.v1"}, True),
        ({"type": "opposition.v1"}, False),
        ({"retracted": True}, False),
        ({"source": "urn:registry:2"}, False),
    ],
)
def test_any_record_of_the_cohort_s_source_counts_but_what_a_person_wants_of_the_hub(
    changes: Any, counts: bool
) -> None:
    record = facts(**{"source": "urn:registry"} | changes)
    asked = Policy(permit(population={"cohort": "urn:registry"})).evidence
    assert asked.is_in(record, []) is asked.qualifies([(record, [])]) is counts


@pytest.mark.parametrize(
    ("kind", "record", "codes"),
    [
        ("diagnosis.v1", {"code": {"coding": [{"system": "icd", "code": "i50.1"}, {"code": "44"}]}}, ["44", "I501"]),
        ("diagnosis.v1", {"bodySite": [{"coding": [{"code": "I50"}]}]}, []),
        ("hospital-stay.v1", {"principal_diagnosis": "I50.1", "acts": [{"code": "DZQM006"}]}, ["I501"]),
        ("hospital-stay.v1", {"associated_diagnoses": ["E11.9", "I10", "I10"]}, ["E119", "I10"]),
        ("dispensation.v1", {"atc": "C03CA01"}, []),
        ("claim.v1", {"diagnosis": [{"diagnosisCodeableConcept": {"coding": [{"code": "I10"}]}}]}, ["I10"]),
        ("encounter.v1", {"reasonCode": [{"coding": [{"code": "I10"}]}], "class": {"code": "AMB"}}, ["I10"]),
    ],
)  # fmt: skip
def test_diagnoses_are_where_a_type_has_them(kind: str, record: dict[str, Any], codes: list[str]) -> None:
    assert diagnoses(kind, record) == codes


@pytest.mark.parametrize(("commune", "expected"), [("35238", "35"), ("2B033", "2B"), ("97411", "974"), ("x", None)])
def test_departments(commune: str, expected: str | None) -> None:
    assert department(commune) == expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.dates().map(str) | st.datetimes().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in leaves(one)]
    if isinstance(value, list):
        return [leaf for one in value for leaf in leaves(one)]
    return [value]


@given(st.dictionaries(st.sampled_from("abc"), JSON), st.lists(st.sampled_from(["a", "b.c", "b", "c.a.b", "*"])))
def test_nothing_leaves_that_was_not_there_or_is_not_named(record: dict[str, Any], paths: list[str]) -> None:
    policy = Policy(permit(types=["claim.v1"], fields={"claim.v1": paths}, precision={"time": "year"}))
    released = policy.record("claim.v1", record)
    assert set(released) <= {path.split(".")[0] for path in paths} | (set(record) if "*" in paths else set())
    before = leaves(record)
    for leaf in leaves(released):
        assert leaf in before or any(isinstance(one, str) and one.startswith(leaf) for one in before)
        assert not (isinstance(leaf, str) and len(leaf) > 6 and leaf[:4].isdecimal() and leaf[4] == leaf[7:8] == "-")


GOOD = permit().model_dump(mode="json", by_alias=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": "Not Good"}, "id: use 2 to 41 small letters"),
        ({"types": []}, "types"),
        ({"types": ["identity.v1"]}, "makes no entry in a timeline"),
        ({"types": ["stay"]}, "stay is not a type of record"),
        ({"fields": {"claim.v1": ["*"]}}, "releases fields of claim.v1, which `types` does not list"),
        ({"fields": {"diagnosis.v1": ["code..x"]}}, "use field names such as"),
        ({"sources": ["*", "urn:a"]}, "keep one or the other"),
        ({"period": {"from": "2026-02-01", "to": "2026-01-01"}}, "`to` is before `from`"),
        ({"period": {"from": "2026-02-30"}}, "period.from"),
        ({"demographics": ["commune"]}, "set `precision.place` to commune"),
        ({"demographics": ["name"]}, "demographics"),
        ({"population": {}}, "names no criterion"),
        ({"population": {"sex": []}}, "nobody would meet it"),
        ({"population": {"diagnoses": ["I"]}}, "first 3 characters"),
        ({"population": {"departments": ["Ille"]}}, "department numbers"),
        ({"population": {"cohort": "*"}}, "population.cohort: name the producer"),
        ({"population": {"age": {}}}, "population.age: give `from`, `to` or both"),
        ({"population": {"age": {"from": 40, "to": 18}}}, "population.age: `to` is before `from`"),
        ({"population": {"age": {"from": 17.5}}}, "population.age.from"),
        ({"history_years": -1}, "history_years"),
        ({"population": {"cohort": " "}}, "population.cohort"),
        ({"precision": {"time": "hour"}}, "precision.time"),
        ({"expires": None}, "expires"),
        ({"subscribers": []}, "subscribers"),
        ({"fieldz": 1}, "fieldz: no clause has this name"),
    ],
)
def test_a_wrong_permit_is_refused_in_words(change: dict[str, Any], says: str) -> None:
    with pytest.raises(PermitError) as refused:
        permit_from(GOOD | change)
    assert says in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "a: [", "\x00", "&a [*a]", "- 1", "{" * 5000, "a: 9999-99-99"])
def test_what_is_no_permit_is_refused(text: str) -> None:
    with pytest.raises(PermitError):
        read_permit(text)


def test_every_clause_is_needed_or_denies() -> None:
    for clause in ("id", "title", "purpose", "sources", "types", "expires", "subscribers"):
        with pytest.raises(PermitError, match=f"{clause}: this clause is missing"):
            permit_from({name: value for name, value in GOOD.items() if name != clause})


def test_every_clause_stands_in_the_rules() -> None:
    rules = (ROOT / "docs" / "projects.md").read_text(encoding="utf-8")
    table = rules[rules.index("| clause |") : rules.index("**Who enters")]
    for clause in (*Permit.model_fields, *Population.model_fields):
        assert f"`{clause}`" in table


def test_a_definition_is_the_permit_again() -> None:
    one = permit(population={"birth_year": {"from": 1950}}, period={"from": "2024-01-01"})
    assert read_permit(one.definition()) == one
    assert read_permit(one.definition()).definition() == one.definition()
