"""Whether two subjects are one person, by their exact identifiers and traits. Pure.

A decision depends on the two token blocks and on a rule version alone, so that it is the same in any order of
arrival. What depends on more than two subjects (guards) is in `services.linkage.domain.components`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from contracts.messages import TokenBlock

BIRTH_DATE: Final = "birth_date"
GIVEN_NAME: Final = "given_name"
FAMILY_NAMES: Final = ("birth_family_name", "used_family_name")
"""At birth and in use: tokens of one domain, so that either may agree with either."""
FAMILY_NAME: Final = "family_name"
STRICT: Final = "strict"
"""The strict traits of the INS as one token: birth family name, first given name, birth date, sex and birth place."""

QUALIFIED: Final = "qualified"
FICTITIOUS: Final = "fictitious"
INS_NIR: Final = "ins-nir"
PSEUDO_NIR: Final = "pseudo-nir"
CONTRADICTS_ITSELF: Final = "nir-contradicts-"
"""The beginning of the flags of an identity whose NIR disagrees with its own sex or birth date."""


class Outcome(StrEnum):
    """What becomes of a pair."""

    LINK = "link"
    REVIEW = "review"
    APART = "apart"


class Decision(msgspec.Struct, frozen=True):
    """A pair's outcome: by which rule, of which rank (lower is stronger), and a match weight for scored pairs.

    `evidence` is by trait: 1 agrees, -1 contradicts.
    """

    outcome: Outcome
    method: str
    rank: int
    weight: float = 0.0
    reason: str = ""
    evidence: dict[str, float] = {}


class RuleVersion(msgspec.Struct, frozen=True):
    """What decisions depend on beside the pair; never changed, only followed by another version.

    `too_common` are tokens that decide nothing, from the start. A token that more subjects carry than `most_holders`
    (a filler such as "INCONNU" for a number; `most_identities` for a NIR or NIA) decides nothing either, from then on
    and on those that it had linked. `most_reviews` is how many pairs are put to stewards per new subject. (The
    weights, term frequencies and thresholds of scored pairs belong here too.)
    """

    name: str
    too_common: frozenset[bytes] = frozenset()
    most_holders: int = 50
    most_identities: int = 200
    most_reviews: int = 5

    def most(self, system: str) -> int:
        """How many subjects may carry one token of this system."""
        return self.most_identities if SYSTEMS.get(system, _OTHER).alone_if_qualified else self.most_holders

    def without(self, common: frozenset[bytes]) -> RuleVersion:
        """The same rules, where these tokens decide nothing."""
        return msgspec.structs.replace(self, too_common=self.too_common | common)


EXACT: Final = RuleVersion("exact-2")


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
TRAITS_RANK: Final = 50
PERSON_TRAITS: Final = (BIRTH_DATE, GIVEN_NAME, *FAMILY_NAMES)

METHODS: Final = {
    INS_NIR: "the same NIR (INS)",
    "ins-nia": "the same NIA (INS)",
    "ben-nir-ano": "the same BEN_NIR_ANO",
    "ipp": "the same number of one hospital or server",
    "nir-opener": "the same insured person's number, birth date and sex, and an agreeing given name",
    PSEUDO_NIR: "the same pseudonymised NIR (BEN_NIR_PSA or NIR_ANO_17)",
    STRICT: "the same strict traits (birth family name, given name, birth date, sex and birth place)",
}
"""The rules in words, for people who follow a record."""


def is_unlinkable(block: TokenBlock) -> bool:
    """Whether the subject meets nobody: fictitious, or with neither an identifier nor names and birth date."""
    if block.status == FICTITIOUS:
        return True
    named = any(name in block.traits for name in FAMILY_NAMES) and GIVEN_NAME in block.traits
    return not block.identifiers and not (named and BIRTH_DATE in block.traits)


def search_tokens(block: TokenBlock) -> dict[bytes, str]:
    """The tokens by which a subject finds its candidates, and is found, with the system of each."""
    if block.status == FICTITIOUS:
        return {}
    tokens = {one.token: one.system for one in block.identifiers}
    if STRICT in block.traits:
        tokens[block.traits[STRICT]] = STRICT
    return tokens


def decide(left: TokenBlock, right: TokenBlock, rules: RuleVersion) -> Decision:
    """Link, review or apart, for two subjects that share a token; the order of the two does not matter."""
    evidence = compare_traits(left, right)
    shared = _shared(left, right, rules)
    if not shared:
        return Decision(Outcome.APART, "none", SYSTEMS[PSEUDO_NIR].rank, evidence=evidence)
    conflict = must_not_link(left, right)
    decisions = [_by_system(system, left, right, evidence, conflict) for system in shared]
    return min(decisions, key=lambda one: (_PREFERENCE[one.outcome], one.rank))


def linking_tokens(left: TokenBlock, right: TokenBlock, rules: RuleVersion) -> set[bytes]:
    """The shared tokens each of which would link these two by itself."""
    theirs = search_tokens(right)
    evidence, conflict = compare_traits(left, right), must_not_link(left, right)
    return {
        token
        for token, system in search_tokens(left).items()
        if theirs.get(token) == system
        and token not in rules.too_common
        and _by_system(system, left, right, evidence, conflict).outcome is Outcome.LINK
    }


def owned_numbers(block: TokenBlock) -> frozenset[bytes]:
    """The NIR and NIA whose rightful owner this is: qualified, and not at odds with its own sex or birth date."""
    if block.status != QUALIFIED or any(flag.startswith(CONTRADICTS_ITSELF) for flag in block.flags):
        return frozenset()
    return frozenset(one.token for one in block.identifiers if SYSTEMS.get(one.system, _OTHER).alone_if_qualified)


def compare_traits(left: TokenBlock, right: TokenBlock) -> dict[str, float]:
    """1 for each of a person's traits that both have and agree on, -1 for each they contradict each other in."""
    evidence: dict[str, float] = {
        name: 1.0 if left.traits[name] == right.traits[name] else -1.0
        for name in (BIRTH_DATE, GIVEN_NAME)
        if name in left.traits and name in right.traits
    }
    mine, theirs = ({one.traits[name] for name in FAMILY_NAMES if name in one.traits} for one in (left, right))
    if mine and theirs:
        evidence[FAMILY_NAME] = 1.0 if mine & theirs else -1.0
    return evidence


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


def _shared(left: TokenBlock, right: TokenBlock, rules: RuleVersion) -> Iterable[str]:
    theirs = search_tokens(right)
    return sorted(
        {
            system
            for token, system in search_tokens(left).items()
            if theirs.get(token) == system and token not in rules.too_common
        }
    )


def _by_system(
    system: str, left: TokenBlock, right: TokenBlock, evidence: Mapping[str, float], conflict: str | None
) -> Decision:
    rule = SYSTEMS.get(system, _OTHER)
    rank = TRAITS_RANK if system == STRICT else rule.rank

    def outcome(kind: Outcome, reason: str = "") -> Decision:
        return Decision(kind, system, rank, reason=reason, evidence=dict(evidence))

    if conflict:
        kind = Outcome.REVIEW if rule.names_one_person and system != STRICT else Outcome.APART
        return outcome(kind, f"{conflict}, but the same {system}")
    if system == STRICT:
        return outcome(Outcome.LINK)
    if _contradicts_person(left, right, evidence):
        return outcome(Outcome.REVIEW, f"the same {system}, but the person's own traits contradict it")
    if rule.alone_if_qualified and left.status == right.status == QUALIFIED:
        return outcome(Outcome.LINK)
    if not (_has_traits(left) and _has_traits(right)):
        return outcome(Outcome.LINK)
    if _agrees(rule, evidence):
        return outcome(Outcome.LINK)
    return outcome(Outcome.REVIEW, f"the same {system}, but no trait agrees")


def _contradicts_person(left: TokenBlock, right: TokenBlock, evidence: Mapping[str, float]) -> bool:
    """A mother's NIR on a newborn, a borrowed card: birth date and given name both say another person.

    A newborn has no given name yet; there, a NIR that contradicts its own bearer stands for it.
    """
    if evidence.get(BIRTH_DATE) != -1.0:
        return False
    if GIVEN_NAME in evidence:
        return evidence[GIVEN_NAME] == -1.0
    return any(flag.startswith(CONTRADICTS_ITSELF) for flag in (*left.flags, *right.flags))


def _has_traits(block: TokenBlock) -> bool:
    return any(name in block.traits for name in PERSON_TRAITS)


def _agrees(rule: SystemRule, evidence: Mapping[str, float]) -> bool:
    """One agreeing trait. Relatives share a name and twins a date, so these count only where nothing contradicts."""
    if rule.reused and evidence.get(GIVEN_NAME) == evidence.get(FAMILY_NAME) == -1.0:
        return False
    own = {name: sign for name, sign in evidence.items() if name != FAMILY_NAME}
    if -1.0 in own.values():
        return any(sign == 1.0 and name not in rule.implied for name, sign in own.items())
    return 1.0 in evidence.values()


_PREFERENCE: Final = {Outcome.LINK: 0, Outcome.REVIEW: 1, Outcome.APART: 2}
_OTHER: Final = SystemRule("other", 80, reused=True)
