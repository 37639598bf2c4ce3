"""Why two records of a file were linked or were not: what linkage saw of the pairs of identities between them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from estuaire.link import Linked, Name
from services.linkage.adapters import SqlPatientIndex
from services.linkage.domain.comparison import compare_tagged, evidence
from services.linkage.domain.components import Edge, Pair, Stewarded, pair_of
from services.linkage.domain.decide import METHODS, SCORED, Outcome
from services.linkage.domain.patients import Decided, Subject, decide_pairs
from services.linkage.domain.rules import RuleVersion
from services.linkage.domain.tokens import search_tokens


@dataclass(frozen=True, slots=True)
class Held:
    """All that an index holds of a linked file; the rules as they are with the tokens that were found too common."""

    subject_of: Mapping[Name, bytes]
    subjects: Mapping[bytes, Subject]
    decided: Sequence[Decided]
    stewards: Sequence[Stewarded]
    rules: RuleVersion


class Step(NamedTuple):
    """Two records, and what was decided on their identities; None where these share no token and never met."""

    one: Name
    other: Name
    decided: Decided | None


def hold(index: SqlPatientIndex, linked: Linked) -> Held:
    """Read the whole index into memory."""
    subjects = index.subjects_by_event()
    locked = index.lock_components(set(subjects.values()))
    tokens = {token for one in locked.subjects.values() for token in search_tokens(one.block)}
    rules = linked.rules.without(index.find_common(tokens))
    subject_of = {name: subjects[event_id] for name, event_id in linked.events.items()}
    return Held(subject_of, locked.subjects, locked.decided, locked.stewards, rules)


def explain(
    held: Held, index: SqlPatientIndex, pairs: Sequence[tuple[Name, Name]]
) -> dict[tuple[Name, Name], list[Step]]:
    """The steps between the two records of each pair: of one patient, along the links that made them so; of two, one.

    No steps where both records give the very same identity.
    """
    record_of = {subject: name for name, subject in held.subject_of.items()}
    decided = {one.pair: one for one in held.decided}
    followed = _followed(held.decided)
    ways: dict[tuple[Name, Name], list[bytes]] = {}
    found: dict[tuple[Name, Name], list[Step]] = {pair: [] for pair in pairs}
    for one, other in pairs:
        start, end = held.subject_of[one], held.subject_of[other]
        if start != end:
            ways[one, other] = find_way(followed, start, end) or [start, end]
    direct = {pair_of(*step) for way in ways.values() for step in pairwise(way)}
    decided |= _not_kept(held, index, direct - decided.keys())
    for (one, other), way in ways.items():
        names = [one, *(record_of[subject] for subject in way[1:-1]), other]
        found[one, other] = [
            Step(*records, decided.get(pair_of(*subjects)))
            for records, subjects in zip(pairwise(names), pairwise(way), strict=True)
        ]
    return found


def find_way(followed: Mapping[bytes, Sequence[bytes]], start: bytes, end: bytes) -> list[bytes]:
    """One of the shortest ways along links, both ends included; empty where there is none."""
    came_from = {start: start}
    waiting = deque([start])
    while waiting and end not in came_from:
        here = waiting.popleft()
        for there in followed.get(here, ()):
            if there not in came_from:
                came_from[there] = here
                waiting.append(there)
    if end not in came_from:
        return []
    way = [end]
    while way[-1] != start:
        way.append(came_from[way[-1]])
    return way[::-1]


def in_words(decided: Decided | None) -> str:
    """What was decided on a pair, and why."""
    if decided is None:
        return "never compared: the two identities share no token that says who they are"
    decision = decided.decision
    by = METHODS.get(decision.method, f"the same {decision.method}")
    if decided.guard:
        return f"would link by {by}, held back: {decided.guard}"
    if decision.outcome is Outcome.LINK:
        against = " against contradicting traits" if decision.rank >= SCORED and decision.method != "traits" else ""
        return f"linked by {by}{against}"
    if decision.outcome is Outcome.REVIEW:
        return f"left to a steward: {decision.reason}"
    return f"kept apart: {decision.reason or 'rather two strangers'}"


def _followed(decided: Iterable[Decided]) -> dict[bytes, list[bytes]]:
    """Whom each subject is linked to by links that no guard holds back, the strongest first."""
    found: defaultdict[bytes, list[bytes]] = defaultdict(list)
    for edge in sorted((one.edge for one in decided if one.links and not one.guard), key=Edge.strength):
        found[edge.left].append(edge.right)
        found[edge.right].append(edge.left)
    return found


def _not_kept(held: Held, index: SqlPatientIndex, pairs: Iterable[Pair]) -> dict[Pair, Decided]:
    """What is decided on pairs that met and were not worth keeping, from the codes under a token that they share."""
    met: dict[Pair, bytes] = {}
    for left, right in pairs:
        mine, theirs = (search_tokens(held.subjects[one].block).keys() for one in (left, right))
        if shared := mine & theirs - held.rules.too_common:
            met[left, right] = min(shared)
    codes = {
        (token, subject): codes
        for token, holders in index.search(set(met.values())).items()
        for subject, codes in zip(holders.subjects(), holders.codes(), strict=True)
    }
    levels = compare_tagged([(codes[token, left], codes[token, right]) for (left, right), token in met.items()])
    seen = {pair: evidence(levels[place]) for place, pair in enumerate(met)}
    return {one.pair: one for one in decide_pairs(seen, held.subjects, held.rules)}
