"""What is counted of the records that are taken and refused: no value of theirs, only that there is one. Pure.

A record becomes a shape, a plain tuple; equal shapes are counted together, and only what comes of them in a second is
written out as measures (`contracts.measures`).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from itertools import compress
from threading import Lock
from typing import Any, Final

from contracts.events import DELETED, RECORD_TYPES, Event, Identity
from contracts.measures import (
    BACKFILL,
    FIELD,
    FLAG,
    FUTURE,
    IDENTITY,
    IDENTITY_FIELDS,
    INVALID,
    LATE,
    MORE,
    RECORDS,
    REFUSED,
    REMOVED,
    RETRACTIONS,
    SKEW_SECONDS,
    SPANS,
    STATUS,
    SYSTEM,
    UNKNOWN,
    UNLINKABLE,
    WRONG,
    fields,
)
from services.ingest.domain.refusals import Refusal
from services.ingest.domain.tokens import UNLINKABLE as UNLINKABLE_FLAG

Shape = tuple[Any, ...]
"""A record's type, whether it is a retraction, and all that is counted of it (see `shape`)."""
RefusedAs = tuple[str, str, tuple[str, ...]]
"""Under which type, why, and for which fields an event is refused (see `refused_as`)."""
Counts = dict[str, dict[str, dict[str, int]]]
"""By source, record type and measure."""


def shape(
    event: Event, record: Mapping[str, Any], invalid: tuple[str, ...], removed: int, flags: tuple[str, ...], late: str
) -> Shape:
    """What is counted of a record: which parts of its identity and which top-level fields it has; the rest as given.

    `invalid` are the fields of which a value was not taken, `flags` those of its identity, `late` how late it came.
    """
    if event.deleted:
        return event.record_type, True
    return event.type, False, _identity(event.data.identity), tuple(record), invalid, removed, flags, late


def lateness(seconds: float | None, *, is_backfill: bool) -> str:
    """How long after its event a record came, as a span of `contracts.measures`; `seconds` is None without a time."""
    if is_backfill:
        return BACKFILL
    if seconds is None:
        return UNKNOWN
    return _SPANS[bisect_right(_LIMITS, seconds)]


_LIMITS: Final = (-SKEW_SECONDS, *SPANS.values())
_SPANS: Final = (FUTURE, *SPANS, MORE)


def _identity(identity: Identity) -> tuple[Any, ...]:
    born, home = identity.birth_date, identity.residence
    return (
        identity.identity_status,
        tuple([one.system for one in identity.identifiers]),
        # in the order of IDENTITY_FIELDS
        identity.birth_family_name is not None,
        identity.used_family_name is not None,
        bool(identity.given_names),
        identity.sex is not None and identity.sex != "unknown",
        born is not None and len(born) == _WHOLE_DATE,
        identity.birth_place is not None,
        home is not None,
        home is not None and home.commune is not None,
    )


_WHOLE_DATE: Final = len("2026-03-01")


def refused_as(document: object, refusal: Refusal) -> RefusedAs:
    """What is counted of a refused event: the type that it states, if that is known, and the fields that the refusal
    names, of those that `contracts.measures` has."""
    kind = document.get("type") if isinstance(document, dict) else None
    stated = kind.removesuffix(DELETED) if isinstance(kind, str) else ""
    named = (_field(*one) for one in _NAMED.findall(refusal.detail))
    wrong = tuple(dict.fromkeys(one for one in named if one))
    return stated if stated in RECORD_TYPES else "", refusal.reason, wrong


_NAMED: Final = re.compile(r"(?:^|; )([A-Za-z][\w.*\[\]]*)(?:: (\w+))?")
"""The place that begins a sentence of a refusal, and the word after it."""


def _field(place: str, word: str) -> str | None:
    """`data.identity: birth_date ...` is about that, `data.record.code.coding[0]` and `Observation.code` about
    `record.code`."""
    first, *rest = re.findall(r"\w+", place)
    if first[0].isupper():
        tried = [["record", *rest[:1]]] if rest else []
    else:
        names = rest if first == "data" else [first, *rest]
        tried = [names[:2], names[:1]] if len(names) > 1 else [[*names, word], names]
    return next((one for parts in tried if (one := ".".join(parts)) in fields()), None)


class Tally:
    """What was taken and refused since it was last asked for. Safe across threads.

    It is bounded, however long nobody asks: shapes that become too many are kept as the measures that come of them.
    """

    MOST_SHAPES: Final = 5_000
    """Of one source."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._taken: defaultdict[str, Counter[Shape]] = defaultdict(Counter)
        self._refused: defaultdict[str, Counter[RefusedAs]] = defaultdict(Counter)
        self._measured: dict[str, defaultdict[str, Counter[str]]] = {}

    def add(self, source: str, taken: Mapping[Shape, int], refused: Mapping[RefusedAs, int]) -> None:
        """One request's records by shape, and its refusals."""
        with self._lock:
            if taken:
                self._taken[source].update(taken)
            if refused:
                self._refused[source].update(refused)
            if len(self._taken[source]) + len(self._refused[source]) > self.MOST_SHAPES:
                self._measure(source)

    def take(self) -> Counts:
        """All of it as measures; it counts from nothing again."""
        with self._lock:
            taken, self._taken = self._taken, defaultdict(Counter)
            refused, self._refused = self._refused, defaultdict(Counter)
            measured, self._measured = self._measured, {}
        found = {}
        for source in {**measured, **taken, **refused}:
            of_source = measured.get(source) or defaultdict(Counter)
            measure(of_source, taken[source], refused[source])
            found[source] = {kind: dict(counts) for kind, counts in of_source.items()}
        return found

    def _measure(self, source: str) -> None:
        of_source = self._measured.setdefault(source, defaultdict(Counter))
        measure(of_source, self._taken.pop(source, {}), self._refused.pop(source, {}))


def measure(
    found: defaultdict[str, Counter[str]], taken: Mapping[Shape, int], refused: Mapping[RefusedAs, int]
) -> None:
    """Add shapes and refusals as measures, by type."""
    for one, count in taken.items():
        of_type = found[one[0]]
        if one[1]:
            of_type[RETRACTIONS] += count
            continue
        _, _, (status, systems, *present), fields, invalid, removed, flags, late = one
        of_type[RECORDS] += count
        of_type[STATUS + status] += count
        of_type[LATE + late] += count
        if removed:
            of_type[REMOVED] += removed * count
        for prefix, names in (
            (IDENTITY, compress(IDENTITY_FIELDS, present)),
            (SYSTEM, set(systems)),
            (FIELD, fields),
            (INVALID, invalid),
        ):
            for name in names:
                of_type[prefix + name] += count
        for flag in flags:
            of_type[UNLINKABLE if flag == UNLINKABLE_FLAG else FLAG + flag] += count
    for (kind, reason, wrong), count in refused.items():
        for name in (REFUSED + reason, *(WRONG + one for one in wrong)):
            found[kind][name] += count


def chunks(counts: Counts, most: int) -> Collection[Counts]:
    """The counts in parts of at most so many sources."""
    sources = list(counts)
    return [{one: counts[one] for one in sources[at : at + most]} for at in range(0, len(sources), most)]
