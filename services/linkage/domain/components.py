"""Which subjects of a component are one patient: one pure function, the same in any order of arrival.

A component is everything that edges reach, also those edges that guards do not follow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations, product
from typing import Final

import msgspec

from contracts.messages import TokenBlock
from services.linkage.domain.decide import PSEUDO_NIR, must_not_link, qualified_nirs, ranks_by_number

Pair = tuple[bytes, bytes]
SCORED: Final = 1000
"""The rank of scored edges: after every exact one."""


class Edge(msgspec.Struct, frozen=True):
    """Two subjects that a rule links; `left` is the smaller id. Scored edges have the rank SCORED and a weight."""

    left: bytes
    right: bytes
    method: str
    rank: int
    weight: float = 0.0


class Stewarded(msgspec.Struct, frozen=True):
    """A steward's decision on a pair; it outranks every rule."""

    left: bytes
    right: bytes
    together: bool


def partition(
    ages: Mapping[bytes, int],
    edges: Iterable[Edge],
    apart: Collection[Pair],
    stewards: Sequence[Stewarded] = (),
) -> dict[bytes, bytes]:
    """The founding (oldest, lowest in `ages`) subject of each subject's patient.

    Stewards' decisions come first, then exact edges by rank, then scored ones by weight, ties by ids. A union that
    would bring a pair of `apart` together is skipped; stewards' joins ask stewards alone.
    """
    patients = _Patients(ages)
    for one in stewards:
        if not one.together:
            patients.forbid(one.left, one.right)
    for one in sorted(stewards, key=lambda it: (it.left, it.right)):
        if one.together:
            patients.join(one.left, one.right)
    for left, right in apart:
        patients.forbid(left, right)
    for edge in sorted(edges, key=lambda it: (it.rank, -it.weight, it.left, it.right)):
        patients.join(edge.left, edge.right)
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
    linked = _neighbours((edge.left, edge.right) for edge in edges)
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
        (edge.left, edge.right)
        for edge in edges
        if edge.method == PSEUDO_NIR
        and not any(
            is_placed(edge.left, number) and is_placed(edge.right, number)
            for number in own[edge.left].keys() & own[edge.right].keys()
        )
    }


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
        members = self._members[large]
        if any(not members.isdisjoint(self._forbidden[subject]) for subject in self._members[small]):
            return
        for subject in self._members.pop(small):
            self._cluster[subject] = large
            members.add(subject)

    def founders(self) -> dict[bytes, bytes]:
        """Each subject's founding subject: the oldest member of its cluster."""
        oldest = {
            cluster: min(members, key=lambda it: (self._ages[it], it)) for cluster, members in self._members.items()
        }
        return {subject: oldest[cluster] for subject, cluster in self._cluster.items()}
