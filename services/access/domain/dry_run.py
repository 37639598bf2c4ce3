"""What a permit would release, counted without releasing it: fields, volumes, small cells, and how unique people are.

Uniqueness follows de Montjoye et al. (Unique in the Crowd, Scientific Reports 3:1376, 2013): the share of people whom
somebody singles out who knows their demographics alone, or one event besides, or everything. Two views are joined by
what they release by somebody who knows both permits: each view is cut down to what both release, at the precision of
the coarser, and a person is joined whose timeline is nobody else's in either. Pure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec

from contracts.messages import Demographics
from contracts.permits import EVERYTHING, SMALL_CELL, Permit, Precision
from services.access.domain.policy import Facts, Policy


class Kept(NamedTuple):
    """A record that is kept, opened; `codes` are the diagnoses that it tells."""

    facts: Facts
    record: Mapping[str, Any]
    codes: Sequence[str]


@dataclass(frozen=True, slots=True)
class TypeReleased:
    """How many records of a type, of how many people, and in how many of the records each field is."""

    records: int
    people: int
    fields: dict[str, int]


@dataclass(frozen=True, slots=True)
class Cells:
    """People by their demographics as released: how many cells there are, the smallest, and those that are small."""

    cells: int
    smallest: int
    small: int
    people_in_small: int


@dataclass(frozen=True, slots=True)
class Uniqueness:
    """Shares of people, from 0 to 1, whom nobody else is like: by demographics, with one event besides, wholly."""

    demographics: float
    one_event: float
    timeline: float


@dataclass(frozen=True, slots=True)
class Joins:
    """How many people are in both views, and how many of them can be joined by what both release."""

    people_in_both: int
    joined: int


@dataclass(frozen=True, slots=True)
class Released:
    """What a permit would release of the people who were looked at."""

    looked_at: int
    people: int
    records: int
    types: dict[str, TypeReleased]
    cells: Cells
    uniqueness: Uniqueness
    joins: dict[str, Joins]


class DryRun:
    """Takes in people, one by one; `others` are the permits that are open, by their ids."""

    def __init__(self, policy: Policy, others: Mapping[str, Policy]) -> None:
        self._policy = policy
        self._looked_at = 0
        self._records: Counter[str] = Counter()
        self._people: Counter[str] = Counter()
        self._fields: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._cells: Counter[bytes] = Counter()
        self._events: Counter[bytes] = Counter()
        self._timelines: Counter[bytes] = Counter()
        self._known: list[tuple[list[bytes], bytes]] = []
        self._joins = {name: _Join(policy, other) for name, other in others.items()}

    def person(
        self, demographics: Demographics, records: Collection[Kept], opposed: Collection[str] = frozenset()
    ) -> None:
        """Count one more person, with all that is kept of it and what it objects to."""
        self._looked_at += 1
        admitted = _admits(self._policy, demographics, records)
        for join in self._joins.values():
            join.person(admitted, demographics, records, opposed)
        born = demographics.birth_year
        released = [one for one in records if admitted and _leaves(self._policy, one, born, opposed)]
        if not released:
            return
        said = _digest(sorted(self._policy.demographics(demographics).items()))
        events = []
        for one in released:
            kind, record = one.facts.type, self._policy.record(one.facts.type, one.record)
            self._records[kind] += 1
            self._fields[kind].update(set(_paths(record)))
            events.append((kind, self._policy.time(one.facts.time), _plain(record)))
        self._people.update({one.facts.type for one in released})
        known = [_digest((said, *event)) for event in {(kind, time) for kind, time, _ in events}]
        timeline = _digest((said, sorted(events)))
        self._cells[said] += 1
        self._events.update(known)
        self._timelines[timeline] += 1
        self._known.append((known, timeline))

    def released(self) -> Released:
        """What all of them come to."""
        people = len(self._known)
        small = [count for count in self._cells.values() if count < SMALL_CELL]
        one_event = sum(sum(self._events[one] == 1 for one in known) / len(known) for known, _ in self._known)
        return Released(
            looked_at=self._looked_at,
            people=people,
            records=self._records.total(),
            types={
                kind: TypeReleased(count, self._people[kind], dict(sorted(self._fields[kind].items())))
                for kind, count in sorted(self._records.items())
            },
            cells=Cells(len(self._cells), min(self._cells.values(), default=0), len(small), sum(small)),
            uniqueness=Uniqueness(
                _share(sum(count == 1 for count in self._cells.values()), people),
                _share(one_event, people),
                _share(sum(self._timelines[timeline] == 1 for _, timeline in self._known), people),
            ),
            joins={name: join.joins() for name, join in self._joins.items()},
        )


class _Join:
    """Two views, cut down to what both release."""

    def __init__(self, one: Policy, other: Policy) -> None:
        self._one, self._other = one, other
        self._common = Policy(common(one.permit, other.permit))
        self._in_one: Counter[bytes] = Counter()
        self._in_other: Counter[bytes] = Counter()
        self._in_both: list[bytes] = []

    def person(
        self, admitted: bool, demographics: Demographics, records: Collection[Kept], opposed: Collection[str]
    ) -> None:
        in_other = _admits(self._other, demographics, records)
        if not admitted and not in_other:
            return
        events = [
            (one.facts.type, self._common.time(one.facts.time), _plain(self._common.record(one.facts.type, one.record)))
            for one in records
            if all(_leaves(view, one, demographics.birth_year, opposed) for view in (self._one, self._other))
        ]
        if not events:
            return
        seen = _digest((sorted(self._common.demographics(demographics).items()), sorted(events)))
        self._in_one[seen] += admitted
        self._in_other[seen] += in_other
        if admitted and in_other:
            self._in_both.append(seen)

    def joins(self) -> Joins:
        joined = sum(self._in_one[one] == 1 and self._in_other[one] == 1 for one in self._in_both)
        return Joins(len(self._in_both), joined)


_TIMES: Final = ("exact", "day", "month", "year")


def common(one: Permit, other: Permit) -> Permit:
    """What two permits both release, at the precision of the coarser; about everybody, and of all years."""
    types = tuple(kind for kind in one.types if kind in other.types)
    precision = Precision(
        time=max(one.precision.time, other.precision.time, key=_TIMES.index),
        source="exact" if one.precision.source == other.precision.source == "exact" else "hub",
        place="commune" if one.precision.place == other.precision.place == "commune" else "department",
    )
    named = tuple(name for name in one.demographics if name in other.demographics)
    return one.model_copy(
        update={
            "types": types,
            "fields": {kind: _common_paths(one.fields.get(kind, ()), other.fields.get(kind, ())) for kind in types},
            "demographics": named if precision.place == "commune" else tuple(n for n in named if n != "commune"),
            "precision": precision,
            "population": None,
            "history_years": None,
        }
    )


def _common_paths(some: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    """Paths that both release: of two of which one is within the other, the inner."""
    found: dict[str, None] = {}
    for one in some:
        for other in others:
            if _is_within(one, other):
                found[one] = None
            elif _is_within(other, one):
                found[other] = None
    return tuple(found)


def _is_within(path: str, other: str) -> bool:
    return other in (EVERYTHING, path) or path.startswith(other + ".")


def _leaves(policy: Policy, one: Kept, born: int | None, opposed: Collection[str]) -> bool:
    return policy.allows(one.facts, born) and not policy.withholds(opposed, one.facts.source)


def _admits(policy: Policy, demographics: Demographics, records: Collection[Kept]) -> bool:
    return policy.admits(demographics, policy.evidence.qualifies([(one.facts, one.codes) for one in records]))


def _paths(value: Any, at: str = "") -> Iterator[str]:
    """The paths of a record's leaves."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _paths(below, f"{at}.{name}" if at else name)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _paths(one, at)
    else:
        yield at


def _plain(record: Mapping[str, Any]) -> bytes:
    return _encoder.encode(record)


def _digest(value: Any) -> bytes:
    return blake2b(_encoder.encode(value), digest_size=16).digest()


_encoder: Final = msgspec.msgpack.Encoder(order="deterministic")


def _share(part: float, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
