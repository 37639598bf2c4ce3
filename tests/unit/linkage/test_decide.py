"""Pair decisions: a row for each rule."""

from __future__ import annotations

from typing import Any

import pytest

from contracts.messages import IdentifierToken, TokenBlock
from services.linkage.domain.decide import Outcome, decide
from services.linkage.domain.rules import RULES, RuleVersion
from services.linkage.domain.tokens import is_unlinkable, must_not_link
from tests.unit.linkage.builders import evidence_of, identity, number

pytestmark = pytest.mark.unit

NIR, OTHER_NIR, NIA = number("ins-nir", "1"), number("ins-nir", "2"), number("ins-nia", "1")
IPP, ANO, OPENER = number("ipp", "8812"), number("ben-nir-ano", "1"), number("nir-opener", "1")
PSEUDO = number("pseudo-nir", "1")
FIRST, SECOND = number("pseudo-nir", "1", 1, "s"), number("pseudo-nir", "1", 2, "s")
SECOND_ELSEWHERE = number("pseudo-nir", "1", 2, "another scheme")
ANNE: dict[str, Any] = {"given_name": "ANNE", "birth_date": "1985-05-12"}
PAUL: dict[str, Any] = {"given_name": "PAUL", "birth_date": "2015-01-02"}
LINK, REVIEW, APART = Outcome.LINK, Outcome.REVIEW, Outcome.APART


def q(name: str, *numbers: IdentifierToken, **traits: Any) -> TokenBlock:
    return identity(name, *numbers, status="qualified", **traits)


A = "a"
B = "b"
ROWS = {
    "qualified NIR alone": (q(A, NIR), q(B, NIR), LINK, "ins-nir"),
    "qualified NIR, given name misspelt": (
        q(A, NIR, **ANNE),
        q(B, NIR, given_name="ANNA", birth_date="1985-05-12"),
        LINK,
        "ins-nir",
    ),
    "qualified NIR, birth date wrong": (
        q(A, NIR, **ANNE),
        q(B, NIR, given_name="ANNE", birth_date="1985-12-05"),
        LINK,
        "ins-nir",
    ),
    "qualified NIR, only a given name that differs": (
        q(A, NIR, given_name="ANNE"),
        q(B, NIR, given_name="ANNA"),
        LINK,
        "ins-nir",
    ),
    "a mother's NIR on a newborn": (
        q(A, NIR, family_name="X", **ANNE),
        q(B, NIR, family_name="X", **PAUL),
        REVIEW,
        "ins-nir",
    ),
    "a mother's NIR on a newborn without a given name": (
        q(A, NIR, family_name="X", **ANNE),
        q(B, NIR, family_name="X", birth_date="2015-01-02", flags=("nir-contradicts-birth-date",)),
        REVIEW,
        "ins-nir",
    ),
    "a mother's NIR, provisional": (identity(A, NIR, **ANNE), identity(B, NIR, **PAUL), REVIEW, "ins-nir"),
    "qualified NIA alone": (q(A, NIA), q(B, NIA), LINK, "ins-nia"),
    "NIA, contradicted": (q(A, NIA, **ANNE), q(B, NIA, **PAUL), REVIEW, "ins-nia"),
    "provisional NIR, a trait agrees": (
        identity(A, NIR, **ANNE),
        q(B, NIR, given_name="ANNE", birth_date="1985-12-05"),
        LINK,
        "ins-nir",
    ),
    "provisional NIR, no trait agrees": (
        identity(A, NIR, given_name="ANNE"),
        q(B, NIR, given_name="PAUL"),
        REVIEW,
        "ins-nir",
    ),
    "provisional NIR, one side has no traits": (identity(A, NIR), q(B, NIR, **ANNE), LINK, "ins-nir"),
    "BEN_NIR_ANO, a trait agrees": (identity(A, ANO, **ANNE), identity(B, ANO, **ANNE), LINK, "ben-nir-ano"),
    "BEN_NIR_ANO, no trait agrees": (
        identity(A, ANO, birth_date="1985-05-12"),
        identity(B, ANO, birth_date="1990-11-30"),
        REVIEW,
        "ben-nir-ano",
    ),
    "IPP with the number alone": (identity(A, IPP), identity(B, IPP, **ANNE), LINK, "ipp"),
    "IPP, a trait agrees": (
        identity(A, IPP, **ANNE),
        identity(B, IPP, given_name="ANNE", birth_date="1990-01-01"),
        LINK,
        "ipp",
    ),
    "IPP, contradicted": (identity(A, IPP, **ANNE), identity(B, IPP, **PAUL), REVIEW, "ipp"),
    "IPP, only the family name agrees, the date contradicts": (
        identity(A, IPP, family_name="X", birth_date="1985-05-12"),
        identity(B, IPP, family_name="X", birth_date="2015-01-02"),
        REVIEW,
        "ipp",
    ),
    "IPP, only the birth date agrees, both names contradict": (
        identity(A, IPP, family_name="X", **ANNE),
        identity(B, IPP, family_name="Y", given_name="PAUL", birth_date="1985-05-12"),
        REVIEW,
        "ipp",
    ),
    "IPP, the birth date and the family name agree": (
        identity(A, IPP, family_name="X", **ANNE),
        identity(B, IPP, family_name="X", given_name="PAUL", birth_date="1985-05-12"),
        LINK,
        "ipp",
    ),
    "IPP, only a family name, and it agrees": (
        identity(A, IPP, family_name="X"),
        identity(B, IPP, family_name="X"),
        LINK,
        "ipp",
    ),
    "IPP, a married name": (
        identity(A, IPP, family_name="X", used_family_name="Y"),
        identity(B, IPP, family_name="Y"),
        LINK,
        "ipp",
    ),
    "pseudo-NIR, the date agrees": (
        identity(A, PSEUDO, birth_date="1985-05-12"),
        identity(B, PSEUDO, birth_date="1985-05-12"),
        LINK,
        "pseudo-nir",
    ),
    "pseudo-NIR, twins without ranks": (
        identity(A, PSEUDO, given_name="ANNE", birth_date="1985-05-12"),
        identity(B, PSEUDO, given_name="MARIE", birth_date="1985-05-12"),
        REVIEW,
        "pseudo-nir",
    ),
    "pseudo-NIR, twins with ranks": (
        identity(A, FIRST, birth_date="1985-05-12"),
        identity(B, SECOND, birth_date="1985-05-12"),
        APART,
        "pseudo-nir",
    ),
    "pseudo-NIR, the same rank": (
        identity(A, FIRST, birth_date="1985-05-12"),
        identity(B, FIRST, birth_date="1985-05-12"),
        LINK,
        "pseudo-nir",
    ),
    "pseudo-NIR, ranks of two schemes": (
        identity(A, FIRST, birth_date="1985-05-12"),
        identity(B, SECOND_ELSEWHERE, birth_date="1985-05-12"),
        LINK,
        "pseudo-nir",
    ),
    "pseudo-NIR, one side without rank": (
        identity(A, FIRST, birth_date="1985-05-12"),
        identity(B, PSEUDO, birth_date="1985-05-12"),
        LINK,
        "pseudo-nir",
    ),
    "opener's number, the given name agrees": (
        identity(A, OPENER, **ANNE),
        identity(B, OPENER, **ANNE),
        LINK,
        "nir-opener",
    ),
    "opener's number, twins": (
        identity(A, OPENER, given_name="ANNE", birth_date="1985-05-12"),
        identity(B, OPENER, given_name="MARIE", birth_date="1985-05-12"),
        REVIEW,
        "nir-opener",
    ),
    "full traits": (identity(A, family_name="X", **ANNE), identity(B, family_name="X", **ANNE), LINK, "strict"),
    "homonyms with two qualified NIRs": (
        q(A, NIR, family_name="X", **ANNE),
        q(B, OTHER_NIR, family_name="X", **ANNE),
        APART,
        "strict",
    ),
    "one IPP, two qualified NIRs": (q(A, NIR, IPP), q(B, OTHER_NIR, IPP), REVIEW, "ipp"),
    "two NIRs, one not qualified": (q(A, NIR, IPP), identity(B, OTHER_NIR, IPP), LINK, "ipp"),
    "a subject with both numbers": (q(A, NIR), q(B, NIR, OTHER_NIR), LINK, "ins-nir"),
    "NIA then NIR": (q(A, NIA), q(B, NIA, NIR), LINK, "ins-nia"),
    "the strongest rule is named": (q(A, IPP, NIR), q(B, IPP, NIR), LINK, "ins-nir"),
    "fictitious": (identity(A, NIR, status="fictitious"), q(B, NIR), APART, "none"),
    "nothing shared": (q(A, NIR), q(B, NIA), APART, "none"),
}


@pytest.mark.parametrize("row", ROWS)
def test_pair(row: str) -> None:
    left, right, outcome, method = ROWS[row]
    decision = decide(left, right, evidence_of(left, right), RULES)
    assert (decision.outcome, decision.method) == (outcome, method)
    assert decide(right, left, evidence_of(right, left), RULES) == decision
    assert bool(decision.reason) == (outcome is REVIEW or (outcome is APART and method != "none"))


def test_tokens_too_common_decide_nothing() -> None:
    rules = RuleVersion("test", too_common=frozenset((IPP.token,)))
    assert decide(identity(A, IPP), identity(B, IPP), {}, rules).outcome is APART


def test_evidence_says_what_agrees_and_what_contradicts() -> None:
    left, right = q(A, NIR, **ANNE), q(B, NIR, given_name="ANNE", birth_date="1985-12-05")
    decision = decide(left, right, evidence_of(left, right), RULES)
    assert decision.evidence == {"birth_date": 0.9, "given_name": 1.0}


def test_whom_nobody_can_meet() -> None:
    assert is_unlinkable(identity(A))
    assert is_unlinkable(identity(A, birth_date="1985-05-12"))
    assert is_unlinkable(identity(A, NIR, status="fictitious"))
    assert not is_unlinkable(identity(A, IPP))
    assert not is_unlinkable(identity(A, family_name="X", **ANNE))


def test_a_common_qualified_nir_outweighs_ranks() -> None:
    assert must_not_link(q(A, NIR, FIRST), q(B, NIR, SECOND)) is None
    assert must_not_link(identity(A, NIR, FIRST), q(B, NIR, SECOND)) == "two ranks on one number"
