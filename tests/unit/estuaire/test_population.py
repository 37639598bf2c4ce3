"""The population: well-formed numbers, no two persons alike, and what sources make of them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import get_args

import pytest

from contracts.events import Identity
from estuaire.population import (
    CHU,
    CORRUPTIONS,
    DAY,
    DEVICE_MAKER,
    VIEWS,
    Corruption,
    Person,
    Sex,
    View,
    ben_nir_psa,
    identity,
    nir_key,
    population,
)
from services.ingest.domain.identity import contradictions, nir, normalise

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def people() -> list[Person]:
    return list(population(7, 4000, around="35"))


@pytest.mark.parametrize("known", ["255081416802538", "285053523800148", "172072901904286", "152032901904232"])
def test_the_key_of_a_nir(known: str) -> None:
    assert nir_key(known[:13]) == known[13:]


def test_corsican_keys_follow_both_ways_of_telling_the_rule() -> None:
    """INSEE also words it: A or B taken as 0, less 1,000,000 for A and 2,000,000 for B."""
    for letter, less in (("A", 1_000_000), ("B", 2_000_000)):
        number = f"180122{letter}004123"
        assert int(nir_key(number)) == 97 - (int(number.replace(letter, "0")) - less) % 97


def test_every_nir_is_one_and_agrees_with_its_person(people: list[Person]) -> None:
    for person in people:
        assert nir(person.nir_with_key) == person.nir
        assert not list(contradictions(person.nir, person.sex, person.birth_date.isoformat()))
        assert person.nir[5:10] == person.birth_place


def test_corsica_overseas_and_abroad_are_among_the_births() -> None:
    births = Counter(person.birth_place[:2] for person in population(3, 20_000))
    assert {"20", "2A", "2B", "97", "99", "35", "75"} <= births.keys()
    assert births["99"] < 3000


def test_corsica_is_20_before_1976_and_2a_or_2b_since() -> None:
    born = {
        (person.birth_place[:2] == "20", person.birth_date.year < 1976)
        for person in population(3, 20_000)
        if person.birth_place[:2] in ("20", "2A", "2B")
    }
    assert born == {(True, True), (False, False)}


def test_no_two_persons_share_what_links(people: list[Person]) -> None:
    strict = set()
    for person in people:
        known = normalise(Identity.model_validate(identity(person, "hospital")))
        strict.add((known.birth_family_name, known.given_name, known.birth_date))
    for distinct in (
        strict,
        {person.nir for person in people},
        {person.ben_nir_psa for person in people},
        {person.ipp(CHU) for person in people},
        {person.ipp(DEVICE_MAKER) for person in people},
    ):
        assert len(distinct) == len(people)


def test_it_looks_like_a_population(people: list[Person]) -> None:
    ages = [person.age(DAY) for person in people]
    assert min(ages) == 0
    assert 0.17 < sum(age < 18 for age in ages) / len(people) < 0.25
    assert 0.17 < sum(age >= 65 for age in ages) / len(people) < 0.25
    assert 0.48 < sum(person.sex == "female" for person in people) / len(people) < 0.56
    married = [person for person in people if person.used_family_name != person.birth_family_name]
    assert 0.1 < len(married) / len(people) < 0.35
    family_names = Counter(person.birth_family_name for person in people)
    assert family_names.most_common(1)[0][0] == "Martin"
    assert len(family_names) > 400
    young = Counter(person.given_names[0] for person in people if person.birth_date.year >= 2010)
    old = Counter(person.given_names[0] for person in people if person.birth_date.year < 1950)
    assert not {name for name, _ in young.most_common(10)} & {name for name, _ in old.most_common(10)}


def test_children_are_insured_by_a_parent(people: list[Person]) -> None:
    by_nir = {person.nir: person for person in people}
    insured = [person for person in people if person.insured_nir != person.nir]
    assert insured
    for child in insured:
        parent = by_nir[child.insured_nir]
        assert child.age(DAY) < 18 <= parent.age(child.birth_date)
        assert child.residence == parent.residence
        assert child.birth_family_name in (parent.birth_family_name, parent.used_family_name)


def test_a_larger_population_begins_with_the_smaller_one(people: list[Person]) -> None:
    assert list(population(7, 50, around="35")) == people[:50]
    assert list(population(8, 50, around="35")) != people[:50]


def test_the_same_on_every_run() -> None:
    program = "from estuaire.population import population; print(list(population(5, 300)))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert len(runs) == 1


def test_a_pseudonym_is_shared_by_twins_of_one_sex_only(people: list[Person]) -> None:
    one = people[0]
    assert len(one.ben_nir_psa) == 17
    assert one.ben_nir_psa.isalnum()
    assert one.ben_nir_psa == one.ben_nir_psa.upper()
    other: Sex = "male" if one.sex == "female" else "female"
    assert ben_nir_psa(one.insured_nir, one.birth_date, one.sex) == one.ben_nir_psa
    assert ben_nir_psa(one.insured_nir, one.birth_date, other) != one.ben_nir_psa


@pytest.mark.parametrize("view", get_args(View))
def test_every_view_is_an_identity(view: View, people: list[Person]) -> None:
    for person in people[:200]:
        Identity.model_validate(identity(person, view))


def test_views_say_no_more_than_their_source_knows(people: list[Person]) -> None:
    person = people[0]
    numbers = {
        view: {one.system for one in Identity.model_validate(identity(person, view)).identifiers} for view in VIEWS
    }
    assert numbers == {
        "hospital": {"ins-nir", "ipp"},
        "provisional": set(),
        "insurance": {"ins-nir"},
        "insurance-enrolment": {"ins-nir", "ben-nir-psa"},
        "insurance-pseudonym": {"ben-nir-psa"},
        "device-enrolment": {"ins-nir", "ipp"},
        "device": {"ipp"},
    }
    assert identity(person, "insurance").keys() == {"identifiers", "sex", "birth_date", "residence"}
    assert identity(person, "device").keys() == {"identifiers"}
    assert identity(person, "device")["identifiers"] == [
        {"system": "ipp", "assigner": DEVICE_MAKER, "value": person.ipp(DEVICE_MAKER)}
    ]


def test_every_corruption_leaves_the_strict_traits_alone_but_the_married_name(people: list[Person]) -> None:
    assert set(get_args(Corruption)) == CORRUPTIONS.keys()
    for person in people:
        known = normalise(Identity.model_validate(identity(person, "provisional")))
        for corruption in CORRUPTIONS:
            changed = normalise(
                Identity.model_validate(identity(person, "provisional", corruptions=[corruption, "upper-case"]))
            )
            assert changed.given_name == known.given_name
            if corruption != "married-name" or person.used_family_name == person.birth_family_name:
                assert changed.birth_family_name == known.birth_family_name
            else:
                assert not changed.birth_family_name


def test_corruptions_do_what_they_are_called(people: list[Person]) -> None:
    person = next(one for one in people if "-" in one.birth_family_name and len(one.given_names) == 3)
    assert len(_given(identity(person, "hospital", corruptions=["first-given-name-only"]))) == 1
    assert "-" not in str(identity(person, "hospital", corruptions=["no-hyphens"])["birth_family_name"])
    assert str(identity(person, "hospital", corruptions=["upper-case"])["birth_family_name"]).isupper()
    accented = next(one for one in people if not one.given_names[0].isascii())
    assert _given(identity(accented, "hospital", corruptions=["no-accents"]))[0].isascii()


def _given(known: dict[str, object]) -> list[str]:
    given = known["given_names"]
    assert isinstance(given, list)
    return given
