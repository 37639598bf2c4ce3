"""What a dry run counts, on people few enough to count by hand; and what lets somebody be found."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from contracts.messages import Demographics
from contracts.permits import PermitError, check_grantable, potential_identifiers
from services.access.domain.dry_run import Cells, DryRun, Joins, Kept, TypeReleased, Uniqueness, common
from services.access.domain.policy import Facts, Policy
from tests.unit.access.hub import permit

pytestmark = pytest.mark.unit


def kept(kind: str, day: int, code: str = "I50", **more: Any) -> Kept:
    moment = dt.datetime(2026, 3, day, tzinfo=dt.UTC)
    facts = Facts(b"e", b"s", "1", kind, more.get("source", "urn:chu"), moment, more.get("retracted", False))
    return Kept(facts, {"code": {"coding": [{"code": code}]}, "onsetDateTime": f"2026-03-{day:02}"}, [code])


def policy(name: str = "one", **clauses: Any) -> Policy:
    fields = {kind: ["code"] for kind in clauses.get("types", ["diagnosis.v1"])}
    given = {"types": ["diagnosis.v1"], "fields": fields, "demographics": ["sex"], "sources": ["*"], **clauses}
    return Policy(permit(name, **given))


WOMAN, MAN = Demographics(sex="female", birth_year=1950), Demographics(sex="male", birth_year=1950)


def test_volumes_fields_cells_and_uniqueness_are_counted_of_those_who_are_admitted() -> None:
    run = DryRun(policy(types=["diagnosis.v1", "procedure.v1"], population={"diagnoses": ["I50"]}), {})
    run.person(WOMAN, [kept("diagnosis.v1", 1), kept("procedure.v1", 2, "J45")])
    run.person(WOMAN, [kept("diagnosis.v1", 1), kept("diagnosis.v1", 3)])
    run.person(WOMAN, [kept("diagnosis.v1", 1), kept("diagnosis.v1", 3)])
    run.person(MAN, [kept("diagnosis.v1", 1)])
    run.person(MAN, [kept("diagnosis.v1", 1, "J45")])  # has nothing of the population's
    run.person(MAN, [kept("diagnosis.v1", 1, retracted=True)])
    found = run.released()
    assert (found.looked_at, found.people, found.records) == (6, 4, 7)
    assert found.types == {
        "diagnosis.v1": TypeReleased(6, 4, {"code.coding.code": 6}),
        "procedure.v1": TypeReleased(1, 1, {"code.coding.code": 1}),
    }
    assert found.cells == Cells(cells=2, smallest=1, small=2, people_in_small=4)
    # the man by his sex; the first woman by one of her two events, and by both
    assert found.uniqueness == Uniqueness(0.25, round((0.5 + 1) / 4, 4), 0.5)
    assert DryRun(policy(), {}).released().uniqueness == Uniqueness(0, 0, 0)


def test_a_cohort_is_whom_its_source_knows() -> None:
    run = DryRun(policy(population={"cohort": "urn:registry", "diagnoses": ["I50"]}), {"all": policy("all")})
    known = kept("identity.v1", 2, "", source="urn:registry")
    run.person(WOMAN, [kept("diagnosis.v1", 1), known])
    run.person(WOMAN, [kept("diagnosis.v1", 1)])
    run.person(MAN, [kept("diagnosis.v1", 1, "J45"), known])
    run.person(MAN, [kept("diagnosis.v1", 1), known], {"urn:registry"})
    found = run.released()
    assert (found.people, found.records, found.joins["all"].people_in_both) == (1, 1, 1)


def test_ages_and_the_depth_of_history_are_those_of_the_view() -> None:
    grown = policy(population={"age": {"from": 76}})
    run = DryRun(grown, {"young": policy("young", population={"age": {"to": 75}}), "all": policy("all")})
    run.person(WOMAN, [kept("diagnosis.v1", 1)])
    run.person(Demographics(sex="female", birth_year=1951), [kept("diagnosis.v1", 1)])
    run.person(Demographics(sex="female"), [kept("diagnosis.v1", 1)])
    found = run.released()
    assert (found.people, found.records) == (1, 1)
    assert (found.joins["young"].people_in_both, found.joins["all"].people_in_both) == (0, 1)
    deep = Policy(permit("deep", history_years=3), "2030-01-01")
    assert DryRun(deep, {"all": policy("all")}).released().records == 0


def test_views_are_joined_by_what_both_release_at_the_coarser_precision() -> None:
    others = {
        "by-month": policy("by-month", precision={"time": "month"}),
        "of-men": policy("of-men", population={"sex": ["male"]}),
        "nothing-common": policy("nothing-common", types=["procedure.v1"]),
    }
    run = DryRun(policy(), others)
    run.person(WOMAN, [kept("diagnosis.v1", 1)])
    run.person(WOMAN, [kept("diagnosis.v1", 2), kept("procedure.v1", 2)])
    run.person(MAN, [kept("diagnosis.v1", 1)])
    assert run.released().joins == {
        "by-month": Joins(people_in_both=3, joined=1),
        "of-men": Joins(people_in_both=1, joined=1),
        "nothing-common": Joins(people_in_both=0, joined=0),
    }


def test_what_is_common_to_two_permits() -> None:
    one = permit(
        types=["diagnosis.v1", "claim.v1"],
        fields={"diagnosis.v1": ["*"], "claim.v1": ["total.value", "type"]},
        demographics=["sex", "commune"],
        precision={"time": "exact", "place": "commune", "source": "exact"},
    )
    other = permit(
        types=["claim.v1", "diagnosis.v1"],
        fields={"diagnosis.v1": ["code"], "claim.v1": ["total", "item"]},
        demographics=["commune", "birth_year"],
        precision={"time": "month", "place": "commune"},
    )
    found = common(one, other)
    assert found.fields == {"diagnosis.v1": ("code",), "claim.v1": ("total.value",)}
    assert (found.demographics, found.precision.time, found.precision.source) == (("commune",), "month", "hub")
    assert common(other, one).fields == found.fields


@pytest.mark.parametrize(
    ("clauses", "found"),
    [
        ({"precision": {"time": "month"}}, []),
        ({}, ["day of care"]),
        ({"precision": {"time": "exact"}}, ["day of care"]),
        ({"demographics": ["birth_month", "deceased"]}, ["birth month", "day of care", "day of death"]),
        ({"demographics": ["deceased"], "precision": {"time": "year"}}, []),
        (
            {"demographics": ["commune"], "precision": {"place": "commune", "time": "month"}},
            ["commune of residence"],
        ),
        ({"types": ["death.v1"], "fields": {"death.v1": ["date", "commune"]}}, ["day of death"]),
        (
            {"types": ["death.v1"], "fields": {"death.v1": ["*"]}, "precision": {"place": "commune"}},
            ["day of death", "commune of death"],
        ),
    ],
)
def test_potential_identifiers_are_found_wherever_they_stand(clauses: dict[str, Any], found: list[str]) -> None:
    given = {"types": ["diagnosis.v1"], "fields": {}, "demographics": [], **clauses}
    assert potential_identifiers(permit(**given)) == found
    if len(found) > 1:
        with pytest.raises(PermitError, match=f"ask for {len(found)}"):
            check_grantable(permit(**given))
    check_grantable(permit(**given, potential_identifiers=max(1, len(found))))
    if found:
        with pytest.raises(PermitError, match="0 may leave"):
            check_grantable(permit(**given, potential_identifiers=0))
