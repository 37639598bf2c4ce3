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
from services.linkage.domain.rules import RuleVersion
from services.linkage.domain.scoring import Score, score
from services.linkage.domain.tokens import (
    BLOCKING,
    CONTRADICTS_ITSELF,
    INS_NIR,
    PSEUDO_NIR,
    QUALIFIED,
    STRICT,
    SYSTEMS,
    SystemRule,
    must_not_link,
    numbers_differ,
    ranks_by_number,
    rule_of,
    search_tokens,
)

TRAITS: Final = "traits"
"""The method of scored pairs."""
NOTHING: Final = "none"
"""The method of pairs that share nothing, or only what too many carry."""
SCORED: Final = 1000
"""The rank of scored edges: after every exact one."""


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


def decide(left: TokenBlock, right: TokenBlock, evidence: Evidence, rules: RuleVersion) -> Decision:
    """Link, review or apart, for two subjects that share a token; the order of the two does not matter."""
    shared = _shared(left, right, rules)
    identifying = sorted({system for system in shared.values() if system not in BLOCKING})
    if not shared:
        return Decision(Outcome.APART, NOTHING, SYSTEMS[PSEUDO_NIR].rank, evidence=dict(evidence))
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
    says = decision.outcome is not Outcome.APART or bool(decision.reason) or decision.rank < SCORED
    return says and decision.method != NOTHING


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
    address = evidence.get(RESIDENCE, 0.0)
    if FAMILY_NAME in evidence or GIVEN_NAME in evidence:
        enough = rules.link_contradicted if _is_another(evidence) and address < 0.8 else rules.link
    else:
        # a rank says that there may be a twin, who differs in nothing but the names; a city has many of one birth date
        enough = rules.link_nameless if address >= 0.9 and not (_has_rank(left) or _has_rank(right)) else inf
    outcome, reason = _scored(found, conflict, enough, rules)
    return Decision(outcome, TRAITS, SCORED, round(found.weight, 6), reason, dict(evidence))


def _is_another(evidence: Evidence) -> bool:
    """Whether a name or the birth date is another, or only a later given name is the same and the date is not whole."""
    by_second_name = evidence.get(GIVEN_NAME) == 0.6 and evidence.get(BIRTH_DATE, 1.0) < 1
    return by_second_name or 0.0 in (evidence.get(trait) for trait in (BIRTH_DATE, GIVEN_NAME, FAMILY_NAME))


def _has_rank(block: TokenBlock) -> bool:
    return any(ranks_by_number(block).values())


def _is_ones_own(system: str) -> bool:
    return rule_of(system).names_one_person


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
    rule = rule_of(system)
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
HOUSEHOLD: Final = "two people of one household, by their traits"
RELATIVE: Final = "alike, but rather a relative than the same person"
RELATIVES: Final = (HOUSEHOLD, RELATIVE)
"""The reasons of pairs that scored links may not bring together."""
