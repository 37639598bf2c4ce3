"""Which subjects of a component are one patient: one pure function, the same in any order of arrival.

A component is everything that edges reach, also those edges that guards do not follow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from itertools import combinations, product

import msgspec

from contracts.messages import TokenBlock
from services.linkage.domain.comparison import BIRTH_DATE, FAMILY_NAME, GIVEN_NAME, Evidence
from services.linkage.domain.decide import SCORED, linking_tokens, signs
from services.linkage.domain.rules import RuleVersion
from services.linkage.domain.tokens import (
    PSEUDO_NIR,
    identifying_tokens,
    must_not_link,
    owned_numbers,
    qualified_nirs,
    ranks_by_number,
)

Pair = tuple[bytes, bytes]
EvidenceOf = Mapping[Pair, Evidence]
"""What is known of the pairs of a component that have met; the smaller id first."""


class Edge(msgspec.Struct, frozen=True):
    """Two subjects that a rule links; `left` is the smaller id. Scored edges have the rank SCORED and a weight."""

    left: bytes
    right: bytes
    method: str
    rank: int
    weight: float = 0.0

    @property
    def pair(self) -> Pair:
        """The two subjects, the smaller id first."""
        return self.left, self.right

    def strength(self) -> tuple[int, float, bytes, bytes]:
        """What orders edges, the strongest first: exact ones by rank, scored ones by weight, ties by ids."""
        return self.rank, -self.weight, self.left, self.right


class Stewarded(msgspec.Struct, frozen=True, order=True):
    """A steward's decision on a pair, `left` the smaller id; it outranks every rule."""

    left: bytes
    right: bytes
    together: bool


class Likeness(msgspec.Struct, frozen=True):
    """How alike the pairs of a component are, in bits: `weights` of those that are not apart, from both ends.

    Two subjects that both have traits (`comparable`) and are not in it count for `unlike`. Clusters whose pairs weigh
    `least` on average may be one person.
    """

    weights: Mapping[bytes, Mapping[bytes, float]]
    comparable: Set[bytes]
    unlike: float
    least: float


def partition(
    ages: Mapping[bytes, int],
    edges: Iterable[Edge],
    apart: Collection[Pair],
    stewards: Sequence[Stewarded] = (),
    household: Collection[Pair] = (),
    margin: float = 0.0,
    leaves: Iterable[tuple[bytes, bytes]] = (),
    likeness: Likeness | None = None,
) -> dict[bytes, bytes]:
    """The founding (oldest, lowest in `ages`) subject of each subject's patient.

    Stewards' decisions come first, then exact edges by rank, then scored ones by weight, ties by ids. A union that
    would bring a pair of `apart` together is skipped; stewards' joins ask stewards alone. Pairs of a `household` are
    kept apart from scored edges only; where scored edges lead from one cluster to two that must not meet, with weights
    that differ by less than `margin`, none of them is followed, nor is one between clusters that are not alike on the
    whole. Each of `leaves` comes last, as the first of its pairs has it, past every guard: it brings nobody together.
    """
    ordered = sorted(edges, key=Edge.strength)
    patients = _Patients(ages)
    for one in stewards:
        if not one.together:
            patients.forbid(one.left, one.right)
    for one in sorted(stewards):
        if one.together:
            patients.join(one.left, one.right)
    for left, right in apart:
        patients.forbid(left, right)
    scored = [edge for edge in ordered if edge.rank >= SCORED]
    for edge in ordered[: len(ordered) - len(scored)]:
        patients.join(edge.left, edge.right)
    for left, right in household:
        patients.forbid(left, right)
    torn = patients.torn(scored, margin)
    for edge in scored:
        if edge.pair not in torn and (likeness is None or patients.are_alike(edge, likeness)):
            patients.join(edge.left, edge.right)
    for leaf, other in leaves:
        patients.attach(leaf, other)
    return patients.founders()


def pairs_apart(
    blocks: Mapping[bytes, TokenBlock], edges: Iterable[Edge], stewards: Sequence[Stewarded] = ()
) -> set[Pair]:
    """The must-not-link pairs of a component.

    Two different qualified NIRs are none when a subject linked to both carries both, or a steward has joined them.
    """
    alike: defaultdict[object, list[bytes]] = defaultdict(list)
    for subject, block in blocks.items():
        ranks = frozenset((number, *one) for number, given in ranks_by_number(block).items() for one in given.items())
        if ranks or qualified_nirs(block):
            alike[qualified_nirs(block), ranks].append(subject)
    found = {
        (min(left, right), max(left, right))
        for some, others in combinations(alike.values(), 2)
        if must_not_link(blocks[some[0]], blocks[others[0]])
        for left, right in product(some, others)
    }
    if not found:
        return found
    linked = _neighbours(edge.pair for edge in edges)
    joined: set[frozenset[bytes]] = set()
    for subject, block in blocks.items():
        own = qualified_nirs(block)
        for one, other in combinations(sorted(linked[subject]), 2) if len(own) > 1 else ():
            if (one, other) in found and all(own & qualified_nirs(blocks[it]) for it in (one, other)):
                found.discard((one, other))
    for decision in stewards:
        if decision.together:
            left, right = (qualified_nirs(blocks[it]) for it in (decision.left, decision.right))
            joined |= {frozenset((mine, theirs)) for mine in left for theirs in right}
    return {
        (left, right)
        for left, right in found
        if not any(
            frozenset((mine, theirs)) in joined
            for mine in qualified_nirs(blocks[left])
            for theirs in qualified_nirs(blocks[right])
        )
    }


def contradicted(
    blocks: Mapping[bytes, TokenBlock], doubtful: Iterable[Edge], seen: EvidenceOf, stewards: Sequence[Stewarded] = ()
) -> set[Pair]:
    """The must-not-link pairs among pairs on which an exact rule was left in doubt, by the person's own contradiction.

    Nobody else joins them either, until a steward has joined two with the same birth dates and given names. (A doubt
    about a weight contradicts nothing. Where two numbers contradict each other, `pairs_apart` decides.)
    """

    def is_alike(one: bytes, other: bytes) -> bool:
        said = seen.get(pair_of(one, other), {})
        return one == other or said.get(BIRTH_DATE) == said.get(GIVEN_NAME) == 1.0

    joined = [(one.left, one.right) for one in stewards if one.together]
    return {
        edge.pair
        for edge in doubtful
        if edge.rank < SCORED
        and not must_not_link(blocks[edge.left], blocks[edge.right])
        and not any(
            (is_alike(edge.left, left) and is_alike(edge.right, right))
            or (is_alike(edge.left, right) and is_alike(edge.right, left))
            for left, right in joined
        )
    }


def between_two_sides(
    blocks: Mapping[bytes, TokenBlock],
    edges: Sequence[Edge],
    apart: Collection[Pair],
    seen: EvidenceOf,
    rules: RuleVersion,
) -> set[Pair]:
    """The edges not to follow of subjects that say too little of themselves to tell two sides of one number apart.

    A subject without birth date or given name that a number links to two who must not meet joins the side whose
    traits agree better; else the number's qualified owner, if that is one side; else neither by that number.
    """
    foes = _neighbours(apart)
    linked = _neighbours(edge.pair for edge in edges if edge.rank < SCORED)
    carried = {subject: identifying_tokens(blocks[subject]).keys() - rules.too_common for subject in linked}

    def by_number(left: bytes, right: bytes) -> set[bytes]:
        """The numbers that link two whom some number does link: if they share one, that one."""
        shared = carried[left] & carried[right]
        if len(shared) == 1:
            return shared
        return linking_tokens(blocks[left], blocks[right], seen.get(pair_of(left, right), {}), rules)

    torn: dict[tuple[bytes, bytes], tuple[set[bytes], set[bytes]]] = {}
    for subject in foes and linked:
        if {BIRTH_DATE, GIVEN_NAME} <= set(blocks[subject].present):
            continue
        if all(foes[one].isdisjoint(linked[subject]) for one in linked[subject]):
            continue
        holders: defaultdict[bytes, set[bytes]] = defaultdict(set)
        for other in linked[subject]:
            for number in by_number(subject, other):
                holders[number].add(other)
        for number, near in holders.items():
            if sides := _at_odds(near, foes):
                torn[subject, number] = sides, _chosen(subject, number, sides, blocks, seen, foes)
    if not torn:
        return set()

    def follows(subject: bytes, other: bytes, number: bytes) -> bool:
        if (subject, number) not in torn:
            return True
        sides, chosen = torn[subject, number]
        if other in sides:
            return other in chosen
        return (other, number) not in torn or (bool(chosen) and torn[other, number][1] == chosen)

    undecided = {subject for subject, _ in torn}
    return {
        edge.pair
        for edge in edges
        if edge.rank < SCORED
        and not undecided.isdisjoint(edge.pair)
        and not any(
            follows(edge.left, edge.right, number) and follows(edge.right, edge.left, number)
            for number in by_number(edge.left, edge.right)
        )
    }


def _at_odds(subjects: Collection[bytes], foes: Mapping[bytes, set[bytes]]) -> set[bytes]:
    """Those who must not meet some other of them."""
    return {one for one in subjects if not foes[one].isdisjoint(subjects)}


def _chosen(
    subject: bytes,
    number: bytes,
    sides: set[bytes],
    blocks: Mapping[bytes, TokenBlock],
    seen: EvidenceOf,
    foes: Mapping[bytes, set[bytes]],
) -> set[bytes]:
    """Of those who must not meet, the one side that the subject joins by this number; nobody if it may be either."""
    weights: dict[bytes, tuple[float, float]] = {}
    for other in sides:
        said = signs(seen.get(pair_of(subject, other), {}))
        weights[other] = sum(said.get(name, 0) for name in (BIRTH_DATE, GIVEN_NAME)), said.get(FAMILY_NAME, 0)
    best = {other for other, weight in weights.items() if weight == max(weights.values())}
    if not _at_odds(best, foes):
        return best
    owners = {other for other in best if number in owned_numbers(blocks[other])}
    return set() if _at_odds(owners, foes) else owners


def without_a_place(blocks: Mapping[bytes, TokenBlock], edges: Iterable[Edge]) -> set[Pair]:
    """The edges that rest on a number with two ranks, of which one end has none in that scheme: it fits neither."""
    ranks: defaultdict[tuple[bytes, str | None], set[int]] = defaultdict(set)
    own = {subject: ranks_by_number(block) for subject, block in blocks.items()}
    for numbers in own.values():
        for number, by_scheme in numbers.items():
            for scheme, rank in by_scheme.items():
                ranks[number, scheme].add(rank)
    shared: defaultdict[bytes, set[str | None]] = defaultdict(set)
    for (number, scheme), given in ranks.items():
        if len(given) > 1:
            shared[number].add(scheme)

    def is_placed(subject: bytes, number: bytes) -> bool:
        return shared[number] <= own[subject][number].keys()

    return {
        edge.pair
        for edge in edges
        if edge.method == PSEUDO_NIR
        and not any(
            is_placed(edge.left, number) and is_placed(edge.right, number)
            for number in own[edge.left].keys() & own[edge.right].keys()
        )
    }


def pair_of(one: bytes, other: bytes) -> Pair:
    """Two subjects, the smaller id first."""
    return (one, other) if one < other else (other, one)


def pair_id(pair: Pair) -> str:
    """Two subjects as the key of a message and as an address: their ids in hexadecimal, joined by a hyphen."""
    return "-".join(one.hex() for one in pair)


def split_into_components(subjects: Iterable[bytes], pairs: Iterable[Pair]) -> list[list[bytes]]:
    """The connected components over all pairs, whatever was decided on them; each sorted, in the order of the ids."""
    linked = _neighbours(pairs)
    seen: set[bytes] = set()
    components = []
    for start in sorted(subjects):
        if start in seen:
            continue
        seen.add(start)
        component, waiting = [], [start]
        while waiting:
            subject = waiting.pop()
            component.append(subject)
            fresh = linked[subject] - seen
            seen |= fresh
            waiting.extend(fresh)
        components.append(sorted(component))
    return components


def _neighbours(pairs: Iterable[Pair]) -> defaultdict[bytes, set[bytes]]:
    linked: defaultdict[bytes, set[bytes]] = defaultdict(set)
    for left, right in pairs:
        linked[left].add(right)
        linked[right].add(left)
    return linked


class _Patients:
    """Clusters of subjects under union, each knowing whom it must not meet."""

    def __init__(self, ages: Mapping[bytes, int]) -> None:
        self._ages = ages
        self._cluster = {subject: subject for subject in ages}
        self._members = {subject: {subject} for subject in ages}
        self._forbidden: defaultdict[bytes, set[bytes]] = defaultdict(set)

    def forbid(self, left: bytes, right: bytes) -> None:
        self._forbidden[left].add(right)
        self._forbidden[right].add(left)

    def join(self, left: bytes, right: bytes) -> None:
        small, large = sorted((self._cluster[left], self._cluster[right]), key=lambda it: len(self._members[it]))
        if small == large:
            return
        if not self._are_at_odds(small, large):
            self._merge(small, large)

    def are_alike(self, edge: Edge, likeness: Likeness) -> bool:
        """Whether the two clusters of an edge are alike on average (Sokal and Michener 1958), and not by it alone."""
        clusters = self._cluster[edge.left], self._cluster[edge.right]
        near, far = sorted((self._members[it] for it in clusters), key=len)
        known = [weight for one in near for other, weight in likeness.weights[one].items() if other in far]
        pairs = len(likeness.comparable & near) * len(likeness.comparable & far)
        missing = max(0, pairs - len(known))
        return sum(known) + missing * likeness.unlike >= likeness.least * (len(known) + missing)

    def attach(self, leaf: bytes, other: bytes) -> None:
        """Join a leaf, unless it is no longer alone."""
        if len(self._members[self._cluster[leaf]]) == 1:
            self._merge(self._cluster[leaf], self._cluster[other])

    def _merge(self, small: bytes, large: bytes) -> None:
        for subject in self._members.pop(small):
            self._cluster[subject] = large
            self._members[large].add(subject)

    def torn(self, scored: Sequence[Edge], margin: float) -> set[Pair]:
        """The scored edges that lead from one cluster to two that must not meet, with nearly the same best weight."""
        best: defaultdict[bytes, dict[bytes, float]] = defaultdict(dict)
        between: defaultdict[tuple[bytes, bytes], set[Pair]] = defaultdict(set)
        for edge in scored:
            for here, there in ((edge.left, edge.right), (edge.right, edge.left)):
                one, other = self._cluster[here], self._cluster[there]
                best[one][other] = max(edge.weight, best[one].get(other, edge.weight))
                between[one, other].add(edge.pair)
        found: set[Pair] = set()
        for cluster, weights in best.items():
            for one, other in combinations(weights, 2) if len(weights) > 1 else ():
                if abs(weights[one] - weights[other]) < margin and self._are_at_odds(one, other):
                    found |= between[cluster, one] | between[cluster, other]
        return found

    def _are_at_odds(self, one: bytes, other: bytes) -> bool:
        members = self._members[other]
        return any(not members.isdisjoint(self._forbidden[subject]) for subject in self._members[one])

    def founders(self) -> dict[bytes, bytes]:
        """Each subject's founding subject: the oldest member of its cluster."""
        oldest = {
            cluster: min(members, key=lambda it: (self._ages[it], it)) for cluster, members in self._members.items()
        }
        return {subject: oldest[cluster] for subject, cluster in self._cluster.items()}
