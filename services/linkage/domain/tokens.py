"""The tokens that a subject carries: identifiers, with the rules of the system of each, and blocking tokens. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from contracts.messages import TokenBlock
from services.linkage.domain.comparison import BIRTH_DATE

STRICT: Final = "strict"
"""The system of the token that the strict traits of the INS make together: birth family name, first given name, birth
date, sex and birth place."""
NAMES: Final = "names"
"""The kind of the blocking token that a family and a given name make together."""
BIRTH: Final = "birth-date"
"""The kind of the blocking token of a whole birth date."""
QUALIFIED: Final = "qualified"
FICTITIOUS: Final = "fictitious"
INS_NIR: Final = "ins-nir"
PSEUDO_NIR: Final = "pseudo-nir"
CONTRADICTS_ITSELF: Final = "nir-contradicts-"
"""The beginning of the flags of an identity whose NIR disagrees with its own sex or birth date."""

BLOCKING: Final = frozenset((BIRTH, NAMES, "family-place", "given-place", "street-place", "street-number"))
"""Kinds of blocking tokens: they bring pairs together and decide nothing by themselves."""


class SystemRule(msgspec.Struct, frozen=True):
    """How one kind of token links. `implied` are traits the token is itself made of: they agree by construction.

    `reused`: given to another by mistake, so that a birth date alone does not outweigh two names that contradict.
    """

    system: str
    rank: int
    alone_if_qualified: bool = False
    implied: frozenset[str] = frozenset()
    names_one_person: bool = True
    reused: bool = False


SYSTEMS: Final = {
    rule.system: rule
    for rule in (
        # Référentiel Identifiant national de santé (ANS, v2, section 3.3): a qualified INS identifies its bearer.
        SystemRule(INS_NIR, 10, alone_if_qualified=True),
        # The same, for the NIA that people born abroad have before their NIR; it conflicts with no NIR.
        SystemRule("ins-nia", 20, alone_if_qualified=True),
        # SNDS, ORAVUE/IR_BEN_R: BEN_NIR_ANO is the pseudonym of the person's own certified NIR.
        SystemRule("ben-nir-ano", 30),
        # A hospital's own number, or a FHIR server's Patient id: unique within its assigner, reused by mistake.
        SystemRule("ipp", 40, reused=True),
        # PMSI, VID-HOSP: the insured person's number with birth date, sex and rank. Ranks are mistaken, so a given
        # name has to agree where both have one.
        SystemRule("nir-opener", 60, implied=frozenset((BIRTH_DATE,)), names_one_person=False),
        # SNDS, BEN_NIR_PSA and PMSI's NIR_ANO_17 (FOIN): the insured person's number with this person's birth date
        # and sex. Twins of one sex share it unless BEN_RNG_GEM tells them apart; a person has several in a life.
        SystemRule(PSEUDO_NIR, 70, implied=frozenset((BIRTH_DATE,)), names_one_person=False),
    )
}
OTHER: Final = SystemRule("other", 80, reused=True)
"""The rule of a system that is not in the table."""
ONE_TO_A_PERSON: Final = frozenset((INS_NIR, "ins-nia", "ben-nir-ano"))
"""The systems that give a person one number."""


def rule_of(system: str) -> SystemRule:
    """The rule of a system."""
    return SYSTEMS.get(system, OTHER)


def is_unlinkable(block: TokenBlock) -> bool:
    """Whether the subject meets nobody: fictitious, or with neither an identifier nor two traits to be known by."""
    return block.status == FICTITIOUS or not (block.identifiers or block.blocking)


def search_tokens(block: TokenBlock) -> dict[bytes, str]:
    """The tokens by which a subject finds its candidates, and is found, with the system or kind of each."""
    if block.status == FICTITIOUS:
        return {}
    return identifying_tokens(block) | {one.token: one.kind for one in block.blocking}


def identifying_tokens(block: TokenBlock) -> dict[bytes, str]:
    """The tokens that may link by themselves, with the system of each."""
    return {} if block.status == FICTITIOUS else {one.token: one.system for one in block.identifiers}


def owned_numbers(block: TokenBlock) -> frozenset[bytes]:
    """The NIR and NIA whose rightful owner this is: qualified, and not at odds with its own sex or birth date."""
    if block.status != QUALIFIED or any(flag.startswith(CONTRADICTS_ITSELF) for flag in block.flags):
        return frozenset()
    return frozenset(one.token for one in block.identifiers if rule_of(one.system).alone_if_qualified)


def must_not_link(left: TokenBlock, right: TokenBlock) -> str | None:
    """Why these two can be no one person, or None: two qualified NIRs, or two ranks on one pseudonymised NIR."""
    mine, theirs = qualified_nirs(left), qualified_nirs(right)
    if mine and theirs:
        return None if mine & theirs else "two different qualified NIRs"
    ranks = ranks_by_number(left)
    for number, by_scheme in ranks_by_number(right).items():
        for scheme, rank in by_scheme.items():
            if ranks.get(number, {}).get(scheme, rank) != rank:
                return "two ranks on one number"
    return None


def qualified_nirs(block: TokenBlock) -> frozenset[bytes]:
    """The NIRs that were qualified against the national base."""
    if block.status != QUALIFIED:
        return frozenset()
    return frozenset(one.token for one in block.identifiers if one.system == INS_NIR)


def ranks_by_number(block: TokenBlock) -> dict[bytes, dict[str | None, int]]:
    """The birth ranks on each pseudonymised NIR, by numbering scheme; a number without any rank has none."""
    found: dict[bytes, dict[str | None, int]] = {}
    for one in block.identifiers:
        if one.system == PSEUDO_NIR:
            of_number = found.setdefault(one.token, {})
            if one.rank is not None:
                of_number[one.scheme] = one.rank
    return found


def numbers_differ(left: TokenBlock, right: TokenBlock) -> bool:
    """Whether both have a number of a system that gives one to a person, and it is not the same."""
    theirs = {one.system: one.token for one in right.identifiers}
    return any(
        one.system in ONE_TO_A_PERSON and theirs.get(one.system, one.token) != one.token for one in left.identifiers
    )
