"""Rows of codes: names share codes under one token, and nothing under two; lengths and frequencies do not show."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from contracts.comparison import PARTS, ROW_CODES
from services.ingest.domain.encodings import Comparable, blocking_values, sound
from services.ingest.domain.identity import Person

pytestmark = pytest.mark.unit

COMPARABLE = Comparable(b"k" * 32)
MEETING, ELSEWHERE = b"m" * 16, b"n" * 16


def part(name: str, person: Person, token: bytes = MEETING) -> set[int]:
    row = np.frombuffer(COMPARABLE.rows(person, [token]), "<u2")
    assert len(row) == ROW_CODES
    return set(row[PARTS[name].start : PARTS[name].stop].tolist()) - {0}


def called(family: str) -> Person:
    return Person("provisional", birth_family_name=family)


@pytest.mark.parametrize("family", ["LE", "MARTIN", "KERGUELENDETREMAREC", "A"])
def test_every_name_has_as_many_codes_as_any_other(family: str) -> None:
    assert len(part("birth_family_name", called(family))) == PARTS["birth_family_name"].size


@pytest.mark.parametrize(
    ("one", "other", "least", "most"),
    [
        ("MARTIN", "MARTIN", 12, 12),
        ("MARTIN", "MARTINE", 7, 11),
        ("MARTIN", "MARTNI", 4, 10),
        ("MARTIN", "KOWALSKI", 0, 1),
    ],
)
def test_the_share_of_equal_codes_follows_the_names(one: str, other: str, least: int, most: int) -> None:
    shared = len(part("birth_family_name", called(one)) & part("birth_family_name", called(other)))
    assert least <= shared <= most


def test_one_name_has_unrelated_codes_under_two_tokens_and_two_keys() -> None:
    here = part("birth_family_name", called("MARTIN"))
    assert len(here & part("birth_family_name", called("MARTIN"), ELSEWHERE)) <= 1
    other = np.frombuffer(Comparable(b"o" * 32).rows(called("MARTIN"), [MEETING]), "<u2")
    assert len(here & set(other.tolist())) <= 1


def test_no_code_of_a_frequent_name_is_frequent() -> None:
    codes: Counter[int] = Counter()
    for number in range(2000):
        codes.update(part("birth_family_name", called("MARTIN"), number.to_bytes(16)))
    assert max(codes.values()) < 12


def test_either_family_name_and_the_given_name_can_be_compared() -> None:
    person = Person("provisional", birth_family_name="MARTIN", used_family_name="MARTIN", given_name="MARTIN")
    assert part("birth_family_name", person) == part("used_family_name", person) == part("given_name", person)


def test_day_and_month_in_either_order_have_one_code_in_common() -> None:
    one, other = (Person("provisional", birth_date=date) for date in ("1985-05-12", "1985-12-05"))
    assert part("birth_swapped", one) == part("birth_swapped", other)
    assert len(part("birth_digits", one)) == 8
    assert len(part("birth_digits", Person("provisional", birth_date="1985-05"))) == 6


def test_a_person_without_traits_has_no_row() -> None:
    assert COMPARABLE.rows(Person("provisional"), [MEETING]) == b""


@pytest.mark.parametrize(
    ("one", "other"),
    [("DUPONT", "DUPOND"), ("RENAUD", "RENAULT"), ("PHILIPPE", "FILIPE"), ("CECILE", "SESSILE"), ("HENRI", "ENRY")],
)
def test_names_that_sound_alike_block_alike(one: str, other: str) -> None:
    assert sound(one) == sound(other) != ""


def test_names_that_do_not_sound_alike_block_apart() -> None:
    assert len({sound(one) for one in ("MARTIN", "BERNARD", "PETIT", "GARNIER", "LEGOFF")}) == 5
    assert sound("") == sound("123") == ""


def test_blocks_are_met_by_who_swaps_names_and_digits_of_the_postcode() -> None:
    one = Person("provisional", birth_family_name="MARTIN", given_name="ANNE", postcode="35400")
    other = Person("provisional", birth_family_name="ANNE", given_name="MARTIN", postcode="35040")
    assert dict(blocking_values(one))["names"] == dict(blocking_values(other))["names"]
    again = one._replace(postcode="35040")
    assert dict(blocking_values(one))["family-place"] == dict(blocking_values(again))["family-place"]
