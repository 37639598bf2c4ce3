"""Evidence from codes, its weight, and what a next version would learn."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from services.linkage.domain.comparison import (
    LEVELS,
    TRAITS,
    birth_parts,
    compare_tagged,
    distinct_births,
    evidence,
    tagged_rows,
)
from services.linkage.domain.decide import HOUSEHOLD, Outcome, decide
from services.linkage.domain.estimation import estimate
from services.linkage.domain.rules import RULES
from services.linkage.domain.scoring import DEFAULT, Scorer, score
from tests.unit.linkage.builders import evidence_of, identity, number

pytestmark = pytest.mark.unit

HOME = {"address": "12 RUE DU PORT", "city": "SAINTMALO", "postcode": "35400", "commune": "35288"}
ANNE: dict[str, Any] = {
    "family_name": "LEGOFF",
    "given_name": "ANNE",
    "birth_date": "1985-05-12",
    "sex": "female",
    "birth_place": "35238",
    **HOME,
}


def pair(**changed: Any) -> dict[str, float]:
    """The evidence of Anne and of another record with these traits changed; None leaves one out."""
    other = {name: value for name, value in (ANNE | changed).items() if value is not None}
    return evidence_of(identity("a", blocked=True, **ANNE), identity("b", blocked=True, **other))


@pytest.mark.parametrize(
    ("family_name", "given_name"),
    [("ANNE", "LEGOFF"), ("ANNELISE", "LEGOFF"), ("ANNE", "LEGOF"), ("ANNETTE", "LEGOUFF"), ("PAUL", "LEGOFF")],
)
def test_a_pair_has_one_evidence_whichever_of_the_two_comes_first(family_name: str, given_name: str) -> None:
    """Crosswise, too, where one name is nearer than the other."""
    other = ANNE | {"family_name": family_name, "given_name": given_name}
    one, two = (identity(name, blocked=True, **traits) for name, traits in (("a", ANNE), ("b", other)))
    assert evidence_of(one, two) == evidence_of(two, one)


@pytest.mark.parametrize(
    ("changed", "trait", "level"),
    [
        ({}, "family_name", 1.0),
        ({"family_name": "LEGOF"}, "family_name", 0.75),
        ({"family_name": "MARTIN", "used_family_name": "LEGOFF"}, "family_name", 1.0),
        ({"family_name": "MARTIN"}, "family_name", 0.0),
        ({"birth_date": "1985-12-05"}, "birth_date", 0.9),
        ({"birth_date": "1986-05-12"}, "birth_date", 0.9),
        ({"birth_date": "1986-05-13"}, "birth_date", 0.5),
        ({"birth_date": "1961-11-30"}, "birth_date", 0.0),
        ({"birth_date": "1985-05"}, "birth_date", 0.8),
        ({"birth_date": "1961"}, "birth_date", 0.1),
        ({"sex": "male"}, "sex", 0.0),
        ({"birth_place": "35288"}, "birth_place", 0.4),
        ({"birth_place": "75056"}, "birth_place", 0.0),
        ({}, "residence", 1.0),
        ({"address": "3 ALLEE DES LILAS"}, "residence", 0.5),
        ({"city": "RENNES", "postcode": "35000", "commune": "35238"}, "residence", 0.6),
        ({"address": "3 ALLEE DES LILAS", "city": "LYON", "postcode": "69001", "commune": "69381"}, "residence", 0.0),
        ({"family_name": "ANNE", "given_name": "LEGOFF"}, "names_in_order", 0.0),
    ],
)
def test_levels(changed: dict[str, Any], trait: str, level: float) -> None:
    assert pair(**changed)[trait] == level


def test_what_one_lacks_is_no_evidence() -> None:
    found = pair(given_name=None, sex=None, birth_place=None)
    assert not {"given_name", "sex", "birth_place", "names_in_order"} & found.keys()


def test_rows_of_two_versions_do_not_compare() -> None:
    one = identity("a", blocked=True, **ANNE)
    other = msgspec.structs.replace(one, code_version="2.1")
    mine, theirs = tagged_rows(one), tagged_rows(other)
    levels = compare_tagged([(mine[token], theirs[token]) for token in mine])
    assert evidence(levels[0]) == {}


@pytest.mark.parametrize(
    ("born", "parts"),
    [
        ("1985-05-12", {"year": True, "month": True, "day": True}),
        ("1985-12-05", {"year": True, "month": False, "day": False}),
        ("1986-05-12", {"year": False, "month": True, "day": True}),
        ("1985", {"year": True}),
    ],
)
def test_parts_of_birth_dates_are_told_apart(born: str, parts: dict[str, bool]) -> None:
    one = identity("a", blocked=True, **ANNE)
    other = identity("b", blocked=True, **ANNE | {"birth_date": born})
    mine, theirs = tagged_rows(one), tagged_rows(other)
    token = next(iter(mine.keys() & theirs.keys()))
    assert birth_parts(mine[token], theirs[token]) == parts
    assert birth_parts(mine[token], b"") == {}


def test_weights_are_probabilities() -> None:
    for table in (DEFAULT.one, DEFAULT.household, DEFAULT.twins, DEFAULT.strangers_by_trait):
        assert table.keys() == set(TRAITS)
        for trait, found in table.items():
            assert len(found) == len(LEVELS[trait])
            whole, partial = (found[:4], found[4:]) if trait == "birth_date" else (found, ())
            assert sum(whole) == pytest.approx(1)
            assert not partial or sum(partial) == pytest.approx(1)


def test_one_pair_and_many_are_scored_alike() -> None:
    one = identity("a", blocked=True, **ANNE)
    others = [
        identity(str(at), blocked=True, **ANNE | changed)
        for at, changed in enumerate(({}, {"given_name": "LEA"}, {"birth_date": "1961-11-30"}))
    ]
    token = one.blocking[0].token
    rows = [(tagged_rows(one)[token], tagged_rows(other).get(token, b"")) for other in others]
    levels = compare_tagged(rows)
    weights, relatives = Scorer(DEFAULT).scores(levels)
    for at, found in enumerate(levels):
        alone = score(DEFAULT, evidence(found))
        assert alone.weight == pytest.approx(weights[at])
        assert alone.relatives == pytest.approx(relatives[at])


def decided(left: dict[str, Any], right: dict[str, Any], *numbers: Any) -> tuple[Outcome, str]:
    one = identity("a", *numbers[:1], blocked=True, **left)
    other = identity("b", *numbers[1:], blocked=True, **right)
    decision = decide(one, other, evidence_of(one, other), RULES)
    return decision.outcome, decision.reason


MOVED = ANNE | {"address": "3 ALLEE DES LILAS", "city": "LYON", "postcode": "69001", "commune": "69381"}


@pytest.mark.parametrize(
    ("changed", "outcome"),
    [
        ({"family_name": "LEGOF"}, Outcome.LINK),
        ({"birth_date": "1985-12-05"}, Outcome.LINK),
        ({"sex": "male", "birth_place": None}, Outcome.LINK),
        ({"given_name": None, "birth_place": None}, Outcome.LINK),
        ({"family_name": None, "given_name": None}, Outcome.REVIEW),
    ],
)
def test_a_slip_does_not_part_a_person(changed: dict[str, Any], outcome: Outcome) -> None:
    other = {name: value for name, value in (ANNE | changed).items() if value is not None}
    left = {name: value for name, value in ANNE.items() if name != "birth_place"}
    assert decided(left, other)[0] is outcome


@pytest.mark.parametrize(
    "relative",
    [
        {"given_name": "LEA"},
        {"given_name": "PAUL", "sex": "male"},
        {"birth_date": "2012-11-30"},
        {"given_name": "LEA", "birth_date": "2012-11-30"},
    ],
    ids=["a twin", "a twin brother", "a daughter of the same name", "a daughter"],
)
def test_a_relative_is_another(relative: dict[str, Any]) -> None:
    assert decided(ANNE, ANNE | relative)[0] is not Outcome.LINK


def test_a_household_is_kept_in_mind() -> None:
    assert decided(ANNE, ANNE | {"given_name": "PAUL", "sex": "male", "birth_date": "2012-11-30"}) == (
        Outcome.APART,
        HOUSEHOLD,
    )


def test_two_numbers_of_one_system_weigh_against() -> None:
    slip = MOVED | {"family_name": "LEGOF"}
    left = {name: value for name, value in slip.items() if name not in ("birth_place", "sex")}
    right = {name: value for name, value in ANNE.items() if name not in ("birth_place", "sex")}
    assert decided(left, right)[0] is Outcome.LINK
    assert decided(left, right, number("ins-nir", "1"), number("ins-nir", "2"))[0] is not Outcome.LINK


@pytest.mark.parametrize(("residence", "outcome"), [(0.95, Outcome.LINK), (0.8, Outcome.REVIEW)])
def test_who_has_no_name_to_compare_needs_the_whole_address(residence: float, outcome: Outcome) -> None:
    """A city has many of one birth date, and a few of them in streets whose names have a word in common."""
    one, other = (identity(name, birth_date="1985-05-12", city="RENNES", blocked=True) for name in "ab")
    evidence = {"birth_date": 1.0, "sex": 1.0, "birth_place": 1.0, "residence": residence}
    rules = msgspec.structs.replace(RULES, link_nameless=4.0, weights=msgspec.structs.replace(DEFAULT, strangers=3e3))
    decision = decide(one, other, evidence, rules)
    assert decision.weight >= rules.link_nameless
    assert decision.outcome is outcome


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, Outcome.LINK),
        ({"birth_date": 0.9}, Outcome.REVIEW),
        ({"birth_date": 0.9, "residence": 0.9}, Outcome.LINK),
        ({"given_name": 0.75, "birth_date": 0.9}, Outcome.LINK),
    ],
)
def test_a_second_given_name_and_a_date_not_quite_the_same_are_no_person(
    changes: dict[str, float], outcome: Outcome
) -> None:
    """Brothers are called after one grandfather, and a city has namesakes born on days of nearly the same digits."""
    one, other = (identity(name, birth_date="1985-05-12", city="RENNES", blocked=True) for name in "ab")
    evidence = {"family_name": 1.0, "given_name": 0.6, "birth_date": 1.0, "sex": 1.0, "birth_place": 1.0} | changes
    weights = msgspec.structs.replace(DEFAULT, strangers=1e3, relatives=0.3)
    rules = msgspec.structs.replace(RULES, weights=weights, link_kin=-9.0, link_contradicted=99.0)
    assert decide(one, other, evidence, rules).outcome is outcome


def test_frequent_names_weigh_less() -> None:
    found = pair(birth_date=None)
    assert score(DEFAULT, found, 0.001).weight < score(DEFAULT, found).weight


def test_what_is_learnt_are_the_slips_of_the_file() -> None:
    draw = np.random.default_rng(1)
    people = draw.random(4000) < 0.5
    levels = np.full((4000, len(TRAITS)), -1, np.int8)
    shares = {"family_name": (0.05, 0.95), "given_name": (0.12, 0.95), "birth_date": (0.02, 0.99)}
    for trait, (one, stranger) in shares.items():
        another = draw.random(4000) < np.where(people, one, stranger)
        levels[:, TRAITS.index(trait)] = np.where(another, 3 if trait == "birth_date" else len(LEVELS[trait]) - 1, 0)
    before = msgspec.structs.replace(DEFAULT, relatives=1e-5)
    found = estimate(levels, levels[:0], None, 4000, before)
    assert found.one["given_name"][-1] == pytest.approx(0.12, abs=0.04)
    assert found.one["family_name"][-1] == pytest.approx(0.05, abs=0.04)
    assert found.repeats == pytest.approx(1.0, abs=0.15)
    assert found.strangers == 4000
    assert found == estimate(levels, levels[:0], None, 4000, before)


def test_neighbours_do_not_become_what_one_person_looks_like() -> None:
    """A street's people have an address in common and nothing else; there are many more of them than slips."""
    draw = np.random.default_rng(2)
    size, street = 40_000, 36_000
    levels = np.zeros((size, len(TRAITS)), np.int8)
    neighbours = np.arange(size) < street
    for trait, last in (("family_name", 4), ("given_name", 5), ("birth_date", 3)):
        another = draw.random(size) < np.where(neighbours, 0.985, 0.04)
        levels[:, TRAITS.index(trait)] = np.where(another, last, 0)
    levels[:, TRAITS.index("sex")] = np.where(neighbours, draw.integers(0, 2, size), 0)
    levels[:, TRAITS.index("birth_place")] = np.where(neighbours, 2, 0)
    levels[:, TRAITS.index("residence")] = np.where(neighbours, draw.integers(0, 2, size), 0)
    found = estimate(levels, levels[:0], None, 4000, DEFAULT)
    assert all(found.one[trait][0] > 0.8 for trait in ("family_name", "given_name", "birth_date"))
    assert found.repeats == pytest.approx(2.0, abs=0.4)


def test_births_under_one_token_are_counted_once_each() -> None:
    shared = number("ipp", "filler")
    dates = ["1985-05-12", "1985-05-12", "1961-11-30", "1961", None]
    born: list[dict[str, Any]] = [{"birth_date": date} if date else {} for date in dates]
    blocks = [identity(str(at), shared, **one) for at, one in enumerate(born)]
    assert distinct_births(tagged_rows(one)[shared.token] for one in blocks) == 2
