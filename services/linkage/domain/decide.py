"""Whether two subjects are one person, by their identifiers or by how alike their traits are. Pure.

A decision depends on the two token blocks, on the evidence that their codes give, and on a rule version alone, so that
it is the same in any order of arrival. What depends on more than two subjects (guards) is in
`services.linkage.domain.components`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from math import inf
from typing import Final

import msgspec

from contracts.messages import TokenBlock
from services.linkage.domain.comparison import BIRTH_DATE, FAMILY_NAME, GIVEN_NAME, RESIDENCE, Evidence
from services.linkage.domain.scoring import DEFAULT, Score, Weights, score

STRICT: Final = "strict"
"""The system of the token that the strict traits of the INS make together: birth family name, first given name, birth
date, sex and birth place."""
NAMES: Final = "names"
"""The kind of the blocking token that a family and a given name make together."""
BIRTH: Final = "birth-date"
"""The kind of the blocking token of a whole birth date."""
TRAITS: Final = "traits"
"""The method of scored pairs."""
SCORED: Final = 1000
"""The rank of scored edges: after every exact one."""

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

    `evidence` is by trait, from 0 (another) to 1 (the same), as `comparison.LEVELS` has it.
    """

    outcome: Outcome
    method: str
    rank: int
    weight: float = 0.0
    reason: str = ""
    evidence: dict[str, float] = {}


class RuleVersion(msgspec.Struct, frozen=True):
    """What decisions depend on beside the pair; never changed, only followed by another version.

    Weights are in bits. A pair that shares no identifier is linked from `link` on, if the odds against relatives alone
    are `link_kin` at least; from `link_contradicted` on where a name or the birth date is another and the address does
    not agree (a city has many of one name); from `link_nameless` on where no name is compared. It is put to a steward
    from `review` on, and kept as two of one household from `household` on. A pair that shares a number against which
    the person's own traits speak is linked from `link_against` on. Of two scored links to people who must not meet,
    neither holds where their weights differ by less than `margin`. `too_common` are tokens that decide nothing, from
    the start. A
    number of subjects with more than `most_births` different birth dates (a filler such as "INCONNU" for a number), or
    a token of more subjects than `most_holders` (`most_identities` for a NIR or NIA, `most_in_block` for a blocking
    token), decides nothing either, from then on and on those that it had linked. `most_reviews` is how many pairs are
    put to stewards per new subject.
    """

    name: str
    weights: Weights = DEFAULT
    link: float = 1.0
    link_nameless: float = 5.5
    link_contradicted: float = 6.5
    link_kin: float = 4.5
    link_against: float = 6.0
    review: float = -2.0
    household: float = 4.0
    margin: float = 4.0
    too_common: frozenset[bytes] = frozenset()
    most_births: int = 8
    most_holders: int = 50
    most_identities: int = 200
    most_in_block: int = 100
    most_reviews: int = 5

    def most(self, system: str) -> int:
        """How many subjects may carry one token of this system."""
        if system in BLOCKING:
            return self.most_in_block
        return self.most_identities if SYSTEMS.get(system, _OTHER).alone_if_qualified else self.most_holders

    def without(self, common: frozenset[bytes]) -> RuleVersion:
        """The same rules, where these tokens decide nothing."""
        return msgspec.structs.replace(self, too_common=self.too_common | common)


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
TRAITS_RANK: Final = 50

METHODS: Final = {
    INS_NIR: "the same NIR (INS)",
    "ins-nia": "the same NIA (INS)",
    "ben-nir-ano": "the same BEN_NIR_ANO",
    "ipp": "the same number of one hospital or server",
    "nir-opener": "the same insured person's number, birth date and sex, and an agreeing given name",
    PSEUDO_NIR: "the same pseudonymised NIR (BEN_NIR_PSA or NIR_ANO_17)",
    STRICT: "the same strict traits (birth family name, given name, birth date, sex and birth place)",
    TRAITS: "the likeness of names, birth, sex and residence",
}
"""The rules in words, for people who follow a record."""


RULES: Final = RuleVersion("2026-1")
"""The version that a hub begins with."""


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


def decide(left: TokenBlock, right: TokenBlock, evidence: Evidence, rules: RuleVersion) -> Decision:
    """Link, review or apart, for two subjects that share a token; the order of the two does not matter."""
    shared = _shared(left, right, rules)
    identifying = sorted({system for system in shared.values() if system not in BLOCKING})
    if not shared:
        return Decision(Outcome.APART, "none", SYSTEMS[PSEUDO_NIR].rank, evidence=dict(evidence))
    conflict = must_not_link(left, right)
    if not identifying:
        return _by_traits(left, right, shared, evidence, conflict, rules)
    decisions = [_by_system(system, left, right, evidence, conflict) for system in identifying]
    best = min(decisions, key=lambda one: (_PREFERENCE[one.outcome], one.rank))
    if best.outcome is Outcome.REVIEW and not conflict and _is_ones_own(best.method):
        return _on_balance(best, evidence, rules)
    return best


def is_worth_keeping(decision: Decision) -> bool:
    """Whether a decision says more than that two subjects are strangers."""
    return decision.outcome is not Outcome.APART or bool(decision.reason) or decision.rank < SCORED


def linking_tokens(left: TokenBlock, right: TokenBlock, evidence: Evidence, rules: RuleVersion) -> set[bytes]:
    """The shared tokens each of which would link these two by itself."""
    conflict = must_not_link(left, right)
    return {
        token
        for token, system in _shared(left, right, rules).items()
        if system not in BLOCKING and _by_system(system, left, right, evidence, conflict).outcome is Outcome.LINK
    }


def signs(evidence: Evidence) -> dict[str, int]:
    """1 for each of birth date, given and family name that agrees, slips included; -1 for each that contradicts."""
    return {
        trait: 1 if evidence[trait] >= agreeing else -1
        for trait, agreeing in ((BIRTH_DATE, 0.8), (GIVEN_NAME, 0.5), (FAMILY_NAME, 0.5))
        if trait in evidence
    }


def owned_numbers(block: TokenBlock) -> frozenset[bytes]:
    """The NIR and NIA whose rightful owner this is: qualified, and not at odds with its own sex or birth date."""
    if block.status != QUALIFIED or any(flag.startswith(CONTRADICTS_ITSELF) for flag in block.flags):
        return frozenset()
    return frozenset(one.token for one in block.identifiers if SYSTEMS.get(one.system, _OTHER).alone_if_qualified)


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
        one.system in _ONE_TO_A_PERSON and theirs.get(one.system, one.token) != one.token for one in left.identifiers
    )


def _shared(left: TokenBlock, right: TokenBlock, rules: RuleVersion) -> dict[bytes, str]:
    theirs = search_tokens(right)
    return {
        token: system
        for token, system in search_tokens(left).items()
        if theirs.get(token) == system and token not in rules.too_common
    }


def _by_traits(
    left: TokenBlock,
    right: TokenBlock,
    shared: Mapping[bytes, str],
    evidence: Evidence,
    conflict: str | None,
    rules: RuleVersion,
) -> Decision:
    """Fellegi and Sunter's three outcomes, and a fourth: two people of one household."""
    share = max((rules.weights.frequent_names.get(token, 0.0) for token in shared), default=0.0)
    differ = rules.weights.another_number if numbers_differ(left, right) else None
    found = score(rules.weights, evidence, share, differ)
    has_address = evidence.get(RESIDENCE, 0) >= 0.8
    if FAMILY_NAME in evidence or GIVEN_NAME in evidence:
        another = 0.0 in (evidence.get(trait) for trait in (BIRTH_DATE, GIVEN_NAME, FAMILY_NAME))
        enough = rules.link_contradicted if another and not has_address else rules.link
    else:
        # a rank says that there may be a twin, who differs in nothing but the names; a city has many of one birth date
        enough = rules.link_nameless if has_address and not (_has_rank(left) or _has_rank(right)) else inf
    outcome, reason = _scored(found, conflict, enough, rules)
    return Decision(outcome, TRAITS, SCORED, round(found.weight, 6), reason, dict(evidence))


def _has_rank(block: TokenBlock) -> bool:
    return any(ranks_by_number(block).values())


def _is_ones_own(system: str) -> bool:
    return SYSTEMS.get(system, _OTHER).names_one_person


def _on_balance(doubt: Decision, evidence: Evidence, rules: RuleVersion) -> Decision:
    """The link that a number and the other traits make together, where they outweigh those that contradict it."""
    found = score(rules.weights, evidence, numbers=rules.weights.same_number)
    if found.weight < rules.link_against:
        return doubt
    return msgspec.structs.replace(doubt, outcome=Outcome.LINK, rank=SCORED, weight=round(found.weight, 6), reason="")


def _scored(found: Score, conflict: str | None, link: float, rules: RuleVersion) -> tuple[Outcome, str]:
    if found.weight >= rules.review:
        if conflict:
            return Outcome.APART, f"{conflict}, though alike"
        if found.weight >= link and found.kin >= rules.link_kin:
            return Outcome.LINK, ""
        return Outcome.REVIEW, RELATIVE if found.relatives > 0 else "alike, but not enough to be sure"
    return Outcome.APART, HOUSEHOLD if found.relatives >= rules.household else ""


def _by_system(system: str, left: TokenBlock, right: TokenBlock, evidence: Evidence, conflict: str | None) -> Decision:
    rule = SYSTEMS.get(system, _OTHER)
    rank = TRAITS_RANK if system == STRICT else rule.rank

    def outcome(kind: Outcome, reason: str = "") -> Decision:
        return Decision(kind, system, rank, reason=reason, evidence=dict(evidence))

    if conflict:
        kind = Outcome.REVIEW if rule.names_one_person and system != STRICT else Outcome.APART
        return outcome(kind, f"{conflict}, but the same {system}")
    if system == STRICT:
        return outcome(Outcome.LINK)
    said = signs(evidence)
    if _contradicts_person(left, right, said):
        return outcome(Outcome.REVIEW, f"the same {system}, but the person's own traits contradict it")
    if rule.alone_if_qualified and left.status == right.status == QUALIFIED:
        return outcome(Outcome.LINK)
    if not (left.present and right.present):
        return outcome(Outcome.LINK)
    if _agrees(rule, said):
        return outcome(Outcome.LINK)
    return outcome(Outcome.REVIEW, f"the same {system}, but no trait agrees")


def _contradicts_person(left: TokenBlock, right: TokenBlock, said: Mapping[str, int]) -> bool:
    """A mother's NIR on a newborn, a borrowed card: birth date and given name both say another person.

    A newborn has no given name yet; there, a NIR that contradicts its own bearer stands for it.
    """
    if said.get(BIRTH_DATE) != -1:
        return False
    if GIVEN_NAME in said:
        return said[GIVEN_NAME] == -1
    return any(flag.startswith(CONTRADICTS_ITSELF) for flag in (*left.flags, *right.flags))


def _agrees(rule: SystemRule, said: Mapping[str, int]) -> bool:
    """One agreeing trait. Relatives share a name and twins a date, so these count only where nothing contradicts."""
    if rule.reused and said.get(GIVEN_NAME) == said.get(FAMILY_NAME) == -1:
        return False
    own = {name: sign for name, sign in said.items() if name != FAMILY_NAME}
    if -1 in own.values():
        return any(sign == 1 and name not in rule.implied for name, sign in own.items())
    return 1 in said.values()


_PREFERENCE: Final = {Outcome.LINK: 0, Outcome.REVIEW: 1, Outcome.APART: 2}
_OTHER: Final = SystemRule("other", 80, reused=True)
_ONE_TO_A_PERSON: Final = frozenset((INS_NIR, "ins-nia", "ben-nir-ano"))
HOUSEHOLD: Final = "two people of one household, by their traits"
RELATIVE: Final = "alike, but rather a relative than the same person"
RELATIVES: Final = (HOUSEHOLD, RELATIVE)
"""The reasons of pairs that scored links may not bring together."""
