"""Who is whose in one component, from its subjects, its decided pairs and the stewards' word. Pure.

One function settles a component however it came to be: as the stream changes it, under a version of the rules that is
only tried, or from scratch in a test.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple

from contracts.messages import TokenBlock
from services.linkage.domain.comparison import Evidence
from services.linkage.domain.components import (
    Edge,
    Likeness,
    Pair,
    Stewarded,
    between_two_sides,
    contradicted,
    pair_of,
    pairs_apart,
    partition,
    split_into_components,
    without_a_place,
)
from services.linkage.domain.decide import RELATIVES, SCORED, Decision, Outcome, decide
from services.linkage.domain.rules import RuleVersion

LAPSED: Final = "too many others carry the number"
RETIRED: Final = "no record of one of the two is left"
SILENT: Final = (LAPSED, RETIRED)
"""The guards that no steward is asked about."""
_NO_PLACE: Final = "the number carries two ranks, and one of the two subjects has none"
_TWO_SIDES: Final = "the number links to people who must not meet, and nothing says which of them this is"
_KEPT_APART: Final = "the link would bring together what must not be one patient, or is not alike on the whole"
_STEWARD: Final = "a steward keeps the two apart"


class Subject(NamedTuple):
    """A subject as the index holds it; `patient` is its founding subject, None before its first component.

    `retired`: no record is about it any more. It keeps its place with those it was linked to, and links nobody.
    """

    seq: int
    patient: bytes | None
    block: TokenBlock
    retired: bool = False


class Decided(NamedTuple):
    """A pair, what was decided on it, and the name of the version under which it was.

    `guard`: why the partition does not follow a link; empty where it does.
    """

    left: bytes
    right: bytes
    decision: Decision
    guard: str = ""
    rules: str = ""

    @property
    def pair(self) -> Pair:
        """The two subjects, the smaller id first."""
        return self.left, self.right

    @property
    def binds(self) -> bool:
        """Whether the two belong to one component: what becomes of one may depend on the other. (Relatives and doubts
        about a weight bind nobody.)"""
        return self.decision.rank < SCORED or self.decision.outcome is Outcome.LINK

    @property
    def links(self) -> bool:
        """Whether the two are linked, if no guard holds them back."""
        return self.decision.outcome is Outcome.LINK

    @property
    def edge(self) -> Edge:
        """The pair as the partition sees it."""
        return Edge(self.left, self.right, self.decision.method, self.decision.rank, self.decision.weight)


def decide_pairs(
    pairs: Mapping[Pair, Evidence], subjects: Mapping[bytes, Subject], rules: RuleVersion
) -> list[Decided]:
    """What a version of the rules makes of each pair, by its evidence."""
    return [
        Decided(left, right, decide(subjects[left].block, subjects[right].block, seen, rules), rules=rules.name)
        for (left, right), seen in pairs.items()
    ]


def decide_again(decided: Iterable[Decided], subjects: Mapping[bytes, Subject], rules: RuleVersion) -> list[Decided]:
    """The same pairs under these rules, from the evidence that was kept."""
    return decide_pairs({one.pair: one.decision.evidence for one in decided}, subjects, rules)


class Part(NamedTuple):
    """One component of some subjects: who is in it, the pairs within it, and what stewards have said of them."""

    members: list[bytes]
    decided: list[Decided]
    stewards: list[Stewarded]


def take_apart(
    subjects: Iterable[bytes], decided: Sequence[Decided], stewards: Sequence[Stewarded]
) -> tuple[list[Part], list[Decided]]:
    """The components, in the order of their ids, and the pairs that lead from one to another."""
    bound = chain((one.pair for one in decided if one.binds), ((one.left, one.right) for one in stewards))
    parts = [Part(members, [], []) for members in split_into_components(subjects, bound)]
    place = {subject: part for part in parts for subject in part.members}
    between = []
    for one in decided:
        if place[one.left] is place[one.right]:
            place[one.left].decided.append(one)
        else:
            between.append(one)
    for said in stewards:
        place[said.left].stewards.append(said)
    return parts, between


class Component(NamedTuple):
    """The founding subject of each subject's patient, and the links that guards hold back, with the reason of each."""

    patients: Mapping[bytes, bytes]
    guards: Mapping[Pair, str]


def settle(
    subjects: Mapping[bytes, Subject], decided: Iterable[Decided], stewards: Sequence[Stewarded], rules: RuleVersion
) -> Component:
    """The patients of a whole component: the same in any order of arrival, and whatever they were before.

    Retired subjects take no part in it. Afterwards each joins whom its strongest link leads to, so that a patient keeps
    its founding subject, and brings nobody together.
    """
    if len(subjects) == 1:
        return Component({subject: subject for subject in subjects}, {})
    live = {subject: one.block for subject, one in subjects.items() if not one.retired}
    pairs = [one for one in decided if one.left in live and one.right in live]
    heard = [one for one in stewards if one.left in live and one.right in live]
    seen = {one.pair: one.decision.evidence for one in pairs}
    links = [one.edge for one in pairs if one.links]
    reasons = dict.fromkeys(without_a_place(live, links), _NO_PLACE)
    links = [edge for edge in links if edge.pair not in reasons]
    doubtful = [one.edge for one in pairs if one.decision.outcome is Outcome.REVIEW]
    apart = pairs_apart(live, links, heard) | contradicted(live, doubtful, seen, heard)
    kept_apart = {pair_of(one.left, one.right) for one in heard if not one.together}
    reasons |= dict.fromkeys(between_two_sides(live, links, apart | kept_apart, seen, rules), _TWO_SIDES)
    links = [edge for edge in links if edge.pair not in reasons]
    patients = partition(
        {subject: one.seq for subject, one in subjects.items()},
        links,
        apart,
        heard,
        household=[one.pair for one in pairs if one.decision.reason in RELATIVES],
        margin=rules.margin,
        leaves=_leaves(decided, stewards, live),
        likeness=_likeness(live, pairs, rules),
    )
    reasons |= dict.fromkeys(kept_apart, _STEWARD)
    guards = {
        one.pair: reasons.get(one.pair, _KEPT_APART) if one.left in live and one.right in live else RETIRED
        for one in decided
        if one.links and patients[one.left] != patients[one.right]
    }
    return Component(patients, guards)


def _likeness(blocks: Mapping[bytes, TokenBlock], decided: Iterable[Decided], rules: RuleVersion) -> Likeness:
    """The weights of scored pairs. A pair that was not kept weighs less than `review`: that is what it counts for."""
    weights: defaultdict[bytes, dict[bytes, float]] = defaultdict(dict)
    for one in decided:
        if one.decision.rank >= SCORED and one.decision.outcome is not Outcome.APART:
            weights[one.left][one.right] = weights[one.right][one.left] = one.decision.weight
    comparable = {subject for subject, block in blocks.items() if len(block.present) > 1}
    return Likeness(weights, comparable, rules.review, rules.link)


def _leaves(
    decided: Iterable[Decided], stewards: Iterable[Stewarded], live: Collection[bytes]
) -> list[tuple[bytes, bytes]]:
    """Retired subjects with the live ones they are linked to, the strongest first."""
    ends = [(one.left, one.right) for one in sorted(stewards) if one.together]
    ends += [edge.pair for edge in sorted((one.edge for one in decided if one.links), key=Edge.strength)]
    return [
        (leaf, other)
        for left, right in ends
        for leaf, other in ((left, right), (right, left))
        if leaf not in live and other in live
    ]


def worth_asking(
    decided: Iterable[Decided],
    patients: Mapping[bytes, bytes],
    guards: Mapping[Pair, str],
    ages: Mapping[bytes, int],
    most: int,
) -> list[Decided]:
    """The doubtful pairs that a steward has to decide on, the strongest first; `most` of those of one newer subject.

    A pair that is one patient all the same is no question, and neither is one that lapsed.
    """
    found = []
    per_subject: Counter[bytes] = Counter()
    for one in sorted(decided, key=lambda it: (it.decision.rank, -it.decision.weight, it.pair)):
        guard = guards.get(one.pair, "")
        if guard in SILENT or not (guard or one.decision.outcome is Outcome.REVIEW):
            continue
        if patients.get(one.left, one.left) == patients.get(one.right, one.right):
            continue
        newer = max(one.pair, key=ages.__getitem__)
        per_subject[newer] += 1
        if per_subject[newer] <= most:
            found.append(one)
    return found
