"""Indicators: how many people a view has by period, area and diagnosis, so that no release points at one. Pure.

Everybody counts with a *weight* of their own, from 0.1 to 1.9, random and lasting; a cell's *sum* is that of its
members' weights. It is shown as the multiple of 5 below it or above it: which, the members decide, so that it is right
on average and the same wherever the same people are counted; and it stays for as long as it is within 5 of the sum.
Cells of a sum under 11 times 1.9, and so all of fewer than 11 people, are not listed (docs/adr/0025-indicators.md).

Why nobody is given away: weights are added up as people are, so that all that is shown fits together whatever is added,
subtracted or nested, over time and between permits. And as every number shown is a multiple of 5 less than 5 from its
sum, what follows by adding and subtracting any of them is, for the weight of any group of people, nothing better than
that it is between two multiples of 5: at best under 5, which 0 to 49 people have. (Linear programs over all numbers at
once do better, since they may halve a sum; the tests run them.)

Random rounding to base 5 is an old practice of statistical offices (Nargundkar and Saveland, "Random rounding to
prevent statistical disclosures", American Statistical Association, 1972); numbers keyed on the members are the cell-key
method's (Fraser and Wooton, UNECE 2005). Weights take from the first that it averages out, from the second that parts
betray what is between them.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

from contracts.permits import Every, Permit
from services.access.domain.policy import department, diagnoses
from services.access.domain.views import Event

SMALLEST: Final = 11
BASE: Final = 5
THOUSAND: Final = 1000
"""Weights are whole thousandths."""
LIGHTEST: Final = 100
HEAVIEST: Final = 1900
EVERYWHERE: Final = ""
OTHER: Final = "other"
"""The area of those who live in no department that is known."""
ANY: Final = ""
_DAY: Final = len("2026-03-01")
_MONTH: Final = len("2026-03")
_CATEGORY: Final = re.compile(r"[A-Z]\d[0-9A-Z]")
_DEPARTMENTS: Final = frozenset(
    [
        *(f"{number:02}" for number in range(1, 96) if number != 20),
        *("2A", "2B", "986", "987", "988"),
        *(str(number) for number in range(971, 979)),
    ]
)
"""Those of France, and its communities overseas, as INSEE numbers them."""


class Counted(NamedTuple):
    """Where an entry of a view counts: the first day of the period, the area, and categories of ICD-10."""

    period: dt.date
    area: str
    diagnoses: tuple[str, ...]


class Count(NamedTuple):
    """A cell of one area: the sum of its members' weights, in thousandths, and of their record keys."""

    period: dt.date
    area: str
    diagnosis: str
    weight: int
    key: int


class Cell(NamedTuple):
    """A cell that is shown, with the people that it says."""

    period: dt.date
    area: str
    diagnosis: str
    people: int

    def place(self) -> Place:
        """Which cell it is."""
        return self[:3]


Place = tuple[dt.date, str, str]


def begins(every: Every, day: dt.date) -> dt.date:
    """The first day of the week (Monday, ISO 8601), month or quarter that this day is in."""
    if every == "week":
        return day - dt.timedelta(days=min(day.weekday(), day.toordinal() - 1))
    return day.replace(day=1, month=day.month if every == "month" else (day.month - 1) // 3 * 3 + 1)


def follows(every: Every, day: dt.date) -> dt.date:
    """The first day after the period that this day is in: when it is released."""
    return begins(every, begins(every, day) + dt.timedelta(days={"week": 7, "month": 31, "quarter": 92}[every]))


def period_name(every: Every, begin: dt.date) -> str:
    """What a period is called: `2026-W10`, `2026-03` or `2026-Q1`."""
    if every == "week":
        year, week, _ = begin.isocalendar()
        return f"{year}-W{week:02}"
    return begin.isoformat()[:_MONTH] if every == "month" else f"{begin.year:04}-Q{begin.month // 3 + 1}"


def counted(permit: Permit, event: Event) -> Counted | None:
    """Where a message that puts a record into the view counts, by what it says itself: no more than was released.

    None for a permit without indicators, and for a record whose time nobody stated.
    """
    time = str(event.time)
    if permit.indicators is None or event.data.get("undated") or len(time) < _MONTH:
        return None
    day = dt.date.fromisoformat(time[:_DAY] if len(time) >= _DAY else f"{time[:_MONTH]}-01")
    codes = {code[:3] for code in diagnoses(event.type, event.data["record"]) if _CATEGORY.match(code)}
    return Counted(begins(permit.indicators.every, day), _area(event.data["demographics"]), tuple(sorted(codes)))


def _area(demographics: dict[str, Any]) -> str:
    return _known(demographics.get("department") or department(demographics.get("commune")))


def _known(area: str | None) -> str:
    return area if area in _DEPARTMENTS else OTHER


def weight(record_key: int) -> int:
    """A person's weight, in thousandths: evenly spread between the lightest and the heaviest."""
    return LIGHTEST + record_key % (HEAVIEST - LIGHTEST + 1)


def cells(permit: Permit, counts: Iterable[Count], before: Mapping[Place, int]) -> Iterator[Cell]:
    """The cells that are shown: of each area, where the permit releases it, and of everywhere.

    `before` is what is shown until now.
    """
    shows_areas = bool({"department", "commune"} & set(permit.demographics))
    everywhere: defaultdict[tuple[dt.date, str], list[Count]] = defaultdict(list)
    for one in counts:
        everywhere[one.period, one.diagnosis].append(one)
        if shows_areas:
            yield from _shown(one, before)
    for (period, diagnosis), parts in everywhere.items():
        total, key = sum(one.weight for one in parts), sum(one.key for one in parts)
        yield from _shown(Count(period, EVERYWHERE, diagnosis, total, key), before)


def _shown(one: Count, before: Mapping[Place, int]) -> Iterator[Cell]:
    place = one[:3]
    if one.weight < SMALLEST * HEAVIEST:
        return
    known = before.get(place)
    if known is None or abs(one.weight - known * THOUSAND) >= BASE * THOUSAND:
        known = rounded(one.weight, one.key)
    yield Cell(*place, known)


def rounded(weight: int, key: int) -> int:
    """A multiple of 5 next to a sum of weights: the nearer, the likelier; the same for the same members."""
    below, rest = divmod(weight, BASE * THOUSAND)
    drawn = int.from_bytes(sha256(b"members\0" + (key % 2**64).to_bytes(8)).digest()) % (BASE * THOUSAND)
    return BASE * (below + (drawn < rest))


def deviation(people: int) -> float:
    """The standard deviation of what is shown from so many people: of their weights, and of the rounding."""
    spread = (HEAVIEST - LIGHTEST) / THOUSAND
    return math.sqrt(people * spread**2 / 12 + BASE**2 / 6)
