"""One person as the national sources know them, each by a number of its own: one patient, whatever comes first."""

from __future__ import annotations

from itertools import permutations
from typing import Any, Final

import pytest

from contracts.events import Identity
from contracts.messages import TokenBlock
from services.ingest.domain.tokens import Tokeniser
from services.linkage.handlers import Link
from tests.unit.linkage.builders import Topic, apply_links, opener, sets
from tests.unit.linkage.memory import MemoryIndex

pytestmark = pytest.mark.unit

TOKENISER: Final = Tokeniser({1: b"1" * 32})
OPENER: Final = "2570435238001"
"""The insured person's number: the mother's own, and her newborn's."""
PSEUDO, NEWBORN_PSEUDO = "kQ7vB2mZx81LpRt0d", "Wc40sYhE9uJq3FnGb"


def numbered(*numbers: tuple[str, str] | tuple[str, str, int], **traits: Any) -> Identity:
    identifiers = [dict(zip(("system", "value", "rank"), one, strict=False)) for one in numbers]
    for one in identifiers:
        if one["system"] == "ipp":
            one["assigner"] = "350000022"
    return Identity.model_validate({"identifiers": identifiers, **traits})


RSA = numbered(("nir-ano-17", PSEUDO), sex="female")
CLAIM = numbered(("ben-nir-psa", PSEUDO, 1), sex="female", birth_date="1985-05", residence={"commune": "35288"})
RSS = numbered(("nir-opener", OPENER, 1), sex="female", birth_date="1985-05-12", residence={"postcode": "35400"})
BUNDLE = numbered(
    ("ins-nir", "285053523800148"),
    ("ipp", "8812"),
    birth_family_name="LE GOFF",
    given_names=["Anne"],
    sex="female",
    birth_date="1985-05-12",
)
BOTH = numbered(
    ("ben-nir-psa", PSEUDO),
    ("nir-opener", OPENER, 1),
    ("ins-nir", "2850535238001"),
    sex="female",
    birth_date="1985-05-12",
)
NEWBORN_RSA = numbered(("nir-ano-17", NEWBORN_PSEUDO), sex="female")
NEWBORN_RSS = numbered(("nir-opener", OPENER, 1), sex="female", birth_date="2026-03-01")
NEWBORN_BOTH = numbered(
    ("nir-ano-17", NEWBORN_PSEUDO), ("nir-opener", OPENER, 1), sex="female", birth_date="2026-03-01"
)


def block(name: str, identity: Identity) -> TokenBlock:
    return TOKENISER.block(f"urn:{name}", identity, f"urn:{name}|1")


PERSON = [block(f"s{number}", one) for number, one in enumerate((RSA, CLAIM, RSS, BUNDLE, BOTH))]
NEWBORN = [block(f"s{number}", one) for number, one in enumerate((NEWBORN_RSA, NEWBORN_RSS, NEWBORN_BOTH))]


def linked(*blocks: TokenBlock) -> set[frozenset[bytes]]:
    """The patients after these records, one batch each."""
    step, topic = Link(MemoryIndex(), opener()), Topic()
    known: dict[bytes, str] = {}
    for number, one in enumerate(blocks):
        batch = [topic.record(f"e{number}", one)]
        step.prepare(batch)
        apply_links(known, step.handle(batch))
    return sets(known)


@pytest.mark.parametrize("first", range(len(PERSON)))
def test_stay_claim_and_bundle_are_one_patient_whatever_comes_first(first: int) -> None:
    assert len({one.subject for one in PERSON}) == 5
    rest = PERSON[:first] + PERSON[first + 1 :]
    for order in permutations(rest):
        assert linked(PERSON[first], *order) == {frozenset(one.subject for one in PERSON)}


def merge(*retired: dict[str, Any]) -> list[TokenBlock]:
    """A patient, who a number was merged into stands for, and the merge, as of HL7 v2 (A40)."""
    own = {"birth_family_name": "LE GOFF", "given_names": ["Anne"], "birth_date": "1985-05-12"}
    surviving = numbered(("ipp", "8812"), **own)
    both = numbered(("ipp", "8812"), ("ipp", "9901"), **own)
    before = [numbered(("ipp", "9901"), **traits) for traits in retired]
    return [block("chu", one) for one in (*before, surviving, both)]


@pytest.mark.parametrize(
    "traits",
    [
        {},
        {"birth_family_name": "LE GOFF", "given_names": ["Anne"], "birth_date": "1985-05-12"},
        {"birth_family_name": "MARTIN", "given_names": ["Anne"], "birth_date": "1985-05"},
    ],
)
def test_a_merge_brings_two_numbers_of_a_hospital_together_whatever_comes_first(traits: dict[str, Any]) -> None:
    blocks = merge(traits)
    for order in permutations(blocks):
        assert linked(*order) == {frozenset(one.subject for one in blocks)}


def test_a_merge_of_two_who_contradict_each_other_waits_for_a_steward() -> None:
    other = merge({"birth_family_name": "KERBRAT", "given_names": ["Yves"], "birth_date": "1931-02-03"})
    for order in permutations(other):
        assert linked(*order) == {frozenset([other[0].subject]), frozenset(one.subject for one in other[1:])}


def test_without_the_record_that_has_two_numbers_they_are_two() -> None:
    patients = linked(*PERSON[:-1])
    assert frozenset(one.subject for one in PERSON[:2]) in patients
    assert len(patients) >= 2


def test_a_mother_and_her_newborn_on_one_insured_number_stay_two() -> None:
    assert len(NEWBORN) == 3
    alternating = [one for pair in zip(PERSON[2:], NEWBORN, strict=True) for one in pair] + PERSON[:2]
    expected = {frozenset(one.subject for one in who) for who in (PERSON, NEWBORN)}
    assert linked(*PERSON, *NEWBORN) == linked(*NEWBORN, *PERSON) == linked(*alternating) == expected
