"""The partition of a component: the same in any order, and equal to a naive one."""

from __future__ import annotations

import random
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import PatientsMerged, PatientSplit, SubjectsLinked
from services.linkage.domain.changes import compare_partitions
from services.linkage.domain.components import (
    Edge,
    Likeness,
    Pair,
    Stewarded,
    contradicted,
    pairs_apart,
    partition,
    split_into_components,
    without_a_place,
)
from services.linkage.domain.decide import SCORED
from tests.unit.linkage.builders import evidence_of, identity, number, sets

pytestmark = pytest.mark.unit

SUBJECTS = [bytes([one]) for one in range(8)]


def pair(left: bytes, right: bytes) -> Pair:
    return min(left, right), max(left, right)


pairs = st.tuples(st.sampled_from(SUBJECTS), st.sampled_from(SUBJECTS)).filter(lambda it: it[0] != it[1])
canonical = pairs.map(lambda it: pair(*it))
edges = st.builds(
    lambda it, rank, weight: Edge(it[0], it[1], "m", rank, weight if rank == SCORED else 0.0),
    canonical,
    st.sampled_from([10, 20, SCORED]),
    st.sampled_from([1.0, 2.0, 3.0]),
)
stewards = st.dictionaries(canonical, st.booleans(), max_size=4).map(
    lambda it: [Stewarded(*key, together) for key, together in it.items()]
)


def naive(
    ages: dict[bytes, int], links: list[Edge], apart: list[Pair], decisions: list[Stewarded]
) -> dict[bytes, bytes]:
    """Groups as a list of sets, searched from the beginning each time."""
    groups = [{subject} for subject in ages]
    forbidden = {frozenset((one.left, one.right)) for one in decisions if not one.together}

    def join(left: bytes, right: bytes) -> None:
        one = next(group for group in groups if left in group)
        other = next(group for group in groups if right in group)
        if one is not other and not any(frozenset(it) in forbidden for it in product(one, other)):
            groups.remove(other)
            one |= other

    for decision in sorted((one for one in decisions if one.together), key=lambda it: (it.left, it.right)):
        join(decision.left, decision.right)
    forbidden |= {frozenset(it) for it in apart}
    remaining = list(links)
    while remaining:
        strongest = min(remaining, key=lambda it: (it.rank, -it.weight, it.left, it.right))
        remaining.remove(strongest)
        join(strongest.left, strongest.right)
    return {subject: min(group, key=lambda it: ages[it]) for group in groups for subject in group}


@given(
    st.lists(edges, max_size=16),
    st.lists(canonical, max_size=6),
    stewards,
    st.permutations(range(len(SUBJECTS))),
    st.randoms(use_true_random=False),
)
def test_partition_equals_the_naive_one_in_any_order(
    links: list[Edge], apart: list[Pair], decisions: list[Stewarded], order: list[int], shuffle: random.Random
) -> None:
    ages = dict(zip(SUBJECTS, order, strict=True))
    expected = naive(ages, links, apart, decisions)
    for given_links in (links, shuffle.sample(links, len(links))):
        shuffled = shuffle.sample(decisions, len(decisions))
        others = dict(shuffle.sample(sorted(ages.items()), len(ages)))
        assert partition(others, given_links, shuffle.sample(apart, len(apart)), shuffled) == expected


@given(st.lists(canonical, max_size=10))
def test_components_are_what_pairs_reach(found: list[Pair]) -> None:
    components = split_into_components(SUBJECTS, found)
    assert sorted(subject for one in components for subject in one) == SUBJECTS
    assert all(any(left in one and right in one for one in components) for left, right in found)
    everything = [Edge(*one, "m", 1) for one in found]
    founders = naive({it: it[0] for it in SUBJECTS}, everything, [], [])
    assert {min(one) for one in components} == set(founders.values())


def test_stronger_edges_come_first() -> None:
    a, b, c = SUBJECTS[:3]
    ages = {a: 3, b: 2, c: 1}
    apart = [pair(b, c)]
    assert partition(ages, [Edge(a, b, "m", 20), Edge(a, c, "m", 10)], apart) == {a: c, c: c, b: b}
    assert partition(ages, [Edge(a, b, "m", SCORED, 9.0), Edge(a, c, "m", SCORED, 8.0)], apart) == {a: b, b: b, c: c}
    assert partition(ages, [Edge(a, b, "m", 20), Edge(a, c, "m", 20)], apart) == {a: b, b: b, c: c}


def test_stewards_outrank_rules() -> None:
    a, b, c = SUBJECTS[:3]
    ages = {a: 1, b: 2, c: 3}
    link = [Edge(a, b, "m", 10)]
    assert partition(ages, link, [], [Stewarded(a, b, together=False)])[b] == b
    assert partition(ages, [], [(a, b)], [Stewarded(a, b, together=True)])[b] == a


NIR, OTHER_NIR = number("ins-nir", "1"), number("ins-nir", "2")


def test_two_qualified_nirs_until_somebody_joins_them() -> None:
    one = identity("1", NIR, status="qualified")
    other = identity("2", OTHER_NIR, status="qualified")
    both = identity("3", NIR, OTHER_NIR, status="qualified")
    blocks = {it.subject: it for it in (one, other, both)}
    joining = [Edge(*pair(it.subject, both.subject), "ins-nir", 10) for it in (one, other)]
    apart = {pair(one.subject, other.subject)}
    assert pairs_apart(blocks, []) == apart
    assert pairs_apart(blocks, joining[:1]) == apart
    assert pairs_apart(blocks, joining) == set()
    assert pairs_apart(blocks, [], [Stewarded(*pair(one.subject, other.subject), together=True)]) == set()


def test_a_contradicted_pair_is_apart_until_a_steward_joins_such_two() -> None:
    one, again = (identity(name, NIR, given_name="ANNE", birth_date="1985-05-12") for name in "12")
    other = identity("3", NIR, given_name="PAUL", birth_date="1970-01-01")
    blocks = {it.subject: it for it in (one, again, other)}
    doubtful = [Edge(*pair(it.subject, other.subject), "ins-nir", 10) for it in (one, again)]
    seen = {
        pair(left.subject, right.subject): evidence_of(left, right) for left, right in combinations(blocks.values(), 2)
    }
    assert contradicted(blocks, doubtful, seen) == {(it.left, it.right) for it in doubtful}
    assert contradicted(blocks, [Edge(one.subject, other.subject, "scored", SCORED, 1.0)], seen) == set()
    joined = Stewarded(*pair(one.subject, other.subject), together=True)
    assert contradicted(blocks, doubtful, seen, [joined]) == set()


def test_a_subject_without_rank_has_no_place_on_a_number_with_two() -> None:
    first = identity("1", number("pseudo-nir", "n", 1))
    second = identity("2", number("pseudo-nir", "n", 2))
    neither = identity("3", number("pseudo-nir", "n"))
    again = identity("4", number("pseudo-nir", "n", 1))
    elsewhere = identity("5", number("pseudo-nir", "n"), number("pseudo-nir", "m"))
    other = identity("6", number("pseudo-nir", "n"), number("pseudo-nir", "m"))
    blocks = {it.subject: it for it in (first, second, neither, again, elsewhere, other)}

    def edge(left: str, right: str, method: str = "pseudo-nir") -> Edge:
        by_name = {"1": first, "2": second, "3": neither, "4": again, "5": elsewhere, "6": other}
        return Edge(*pair(by_name[left].subject, by_name[right].subject), method, 70)

    links = [edge("1", "3"), edge("2", "3"), edge("1", "4"), edge("5", "6"), edge("3", "5"), edge("1", "3", "strict")]
    stays = {(it.left, it.right) for it in (edge("1", "3"), edge("2", "3"), edge("3", "5"))}
    assert without_a_place(blocks, links) == stays
    del blocks[second.subject]
    assert without_a_place(blocks, [it for it in links if second.subject not in (it.left, it.right)]) == set()


A, B, C, D, E = (bytes([one]) * 16 for one in range(1, 6))


def test_changes_name_who_joins_merges_and_splits() -> None:
    def told(before: dict[bytes, bytes | None], after: dict[bytes, bytes]) -> list[object]:
        return [change.link(7) for change in compare_partitions(before, after)]

    assert told({A: None, B: None}, {A: A, B: A}) == [SubjectsLinked(7, A.hex(), (A, B))]
    assert told({A: A, B: None}, {A: A, B: A}) == [SubjectsLinked(7, A.hex(), (B,))]
    assert told({A: A, B: B, C: B}, {A: A, B: A, C: A}) == [PatientsMerged(7, A.hex(), B.hex(), (B, C))]
    assert told({A: A, B: A, C: A}, {A: A, B: B, C: B}) == [PatientSplit(7, A.hex(), B.hex(), (B, C))]
    assert told({A: A, B: A, C: C}, {A: A, B: C, C: C}) == [SubjectsLinked(7, C.hex(), (B,))]
    # B's patient ends: its founding subject goes to A, and D, which stays behind, is a patient of its own.
    assert told({A: A, B: B, D: B}, {A: A, B: A, D: D}) == [
        PatientsMerged(7, A.hex(), B.hex(), (B,)),
        PatientSplit(7, B.hex(), D.hex(), (D,)),
    ]
    assert told({A: A, B: A}, {A: A, B: A}) == []


def test_changes_affect_the_old_patient_and_the_new() -> None:
    (change,) = compare_partitions({A: A, B: B}, {A: A, B: A})
    assert change.patients == (A, B)
    (change,) = compare_partitions({E: None}, {E: E})
    assert change.patients == (E,)


def test_one_weak_link_does_not_bring_two_people_together() -> None:
    """Each of two people has two records; one pair of the four across is alike, and the others are not."""
    one, one_too, other, other_too = SUBJECTS[:4]
    ages = {subject: age for age, subject in enumerate(SUBJECTS[:4])}
    links = [
        Edge(one, one_too, "traits", SCORED, 20.0),
        Edge(other, other_too, "traits", SCORED, 18.0),
        Edge(one_too, other, "traits", SCORED, 3.0),
    ]

    def found(comparable: set[bytes], *more: tuple[bytes, bytes, float]) -> set[frozenset[bytes]]:
        weights: dict[bytes, dict[bytes, float]] = {subject: {} for subject in ages}
        for left, right, weight in (*((it.left, it.right, it.weight) for it in links), *more):
            weights[left][right] = weights[right][left] = weight
        patients = partition(ages, links, [], likeness=Likeness(weights, comparable, unlike=-2.0, least=1.0))
        return sets(patients)

    apart = {frozenset((one, one_too)), frozenset((other, other_too))}
    assert found(set(ages)) == apart
    assert found(set(ages), (one, other, 2.0), (one, other_too, 0.5)) == apart
    assert found(set(ages), (one, other, 3.0), (one, other_too, 0.5)) == {frozenset(ages)}
    assert found({one_too, other}) == {frozenset(ages)}, "who has no traits to compare says nothing against it"
