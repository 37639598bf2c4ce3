"""Indicators: how many people a view has by period, area and diagnosis, so that no release points at one. Pure.

A cell of `n` people is shown as `n + shift + noise`, rounded to a multiple of 5 (docs/adr/0025-indicators.md):

- the *shift* is the area's, one of twelve whole numbers that the hub's secret draws once and for all: the same in every
  period, category, release and permit; that of everywhere is the sum of those of all areas. So whatever is published
  fits equally well twelve values of any area's counts, all of them moved by the same amount: what is added up,
  subtracted, nested or compared over time only ever moves with them;
- the *noise* is keyed on the members (the cell-key method: Fraser and Wooton, "A proposed method for confidentialising
  tabular output to protect against differencing", UNECE 2005): the same people give the same noise wherever they
  are counted, and whoever learns the shift from a count they know still has that to get over.

What is shown stands for at least 11 people. The rest is not listed, whether it is withheld or empty.
"""

from __future__ import annotations

import datetime as dt
import hmac
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from contracts.permits import Every, Permit
from services.access.domain.policy import department, diagnoses
from services.access.domain.views import Event

SMALLEST: Final = 11
BASE: Final = 5
NOISE: Final = 2
"""The noise is one of -2 to 2."""
SHIFTS: Final = range(-6, 6)
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
_SIGMAS: Final = 4


class Counted(NamedTuple):
    """Where an entry of a view counts: the first day of the period, the area, and categories of ICD-10."""

    period: dt.date
    area: str
    diagnoses: tuple[str, ...]


class Count(NamedTuple):
    """The people of a cell of one area, and the sum of their record keys."""

    period: dt.date
    area: str
    diagnosis: str
    people: int
    key: int


class Cell(NamedTuple):
    """A cell that is shown, with the people that it says."""

    period: dt.date
    area: str
    diagnosis: str
    people: int


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


def areas_of(permit: Permit) -> tuple[str, ...]:
    """The areas that the people of a permit may live in."""
    asked = permit.population
    if asked is None or (asked.departments is None and asked.communes is None):
        return (*sorted(_DEPARTMENTS), OTHER)
    asked_for = (*(asked.departments or ()), *map(department, asked.communes or ()))
    return tuple(sorted(set(map(_known, asked_for))))


class Perturbation:
    """Makes of counts what may be shown, under the hub's secret."""

    def __init__(self, secrets: Mapping[int, bytes]) -> None:
        """Of the secrets by version the first holds for good: with another, two releases tell what one does not."""
        self._secret = secrets[min(secrets)]

    def shift(self, area: str) -> int:
        """The shift of an area, one of `SHIFTS`."""
        return SHIFTS[self._drawn(b"area\0" + area.encode(), len(SHIFTS))]

    def noise(self, key: int) -> int:
        """The noise of these members, by the sum of their record keys."""
        return self._drawn(b"members\0" + (key % 2**64).to_bytes(8), 2 * NOISE + 1) - NOISE

    def cells(self, permit: Permit, counts: Iterable[Count]) -> Iterator[Cell]:
        """The cells that are shown: of each area, where the permit releases it, and of everywhere."""
        shows_areas = bool({"department", "commune"} & set(permit.demographics))
        everywhere: defaultdict[tuple[dt.date, str], list[Count]] = defaultdict(list)
        for one in counts:
            everywhere[one.period, one.diagnosis].append(one)
            if shows_areas:
                yield from self._shown(one, (one.area,))
        areas = areas_of(permit)
        for (period, diagnosis), parts in everywhere.items():
            people, key = sum(one.people for one in parts), sum(one.key for one in parts)
            yield from self._shown(Count(period, EVERYWHERE, diagnosis, people, key), areas)

    def _shown(self, one: Count, areas: Collection[str]) -> Iterator[Cell]:
        shift = sum(map(self.shift, areas))
        moved = one.people + shift + self.noise(one.key)
        if moved >= SMALLEST + NOISE + max(most(len(areas)), shift):
            rounded = (moved + BASE // 2) // BASE * BASE
            yield Cell(one.period, one.area, one.diagnosis, rounded)

    def _drawn(self, what: bytes, among: int) -> int:
        return int.from_bytes(hmac.digest(self._secret, what, "sha256")) % among


def most(areas: int) -> int:
    """How far the shifts of so many areas come to, up or down: at most, or (for many) all but once in 15,000 secrets.

    Shifts are uniform over twelve numbers: their standard deviation is the root of (12² - 1) / 12, their mean is -1/2.
    """
    bound = len(SHIFTS) // 2 * areas
    return min(bound, math.ceil(areas / 2 + _SIGMAS * math.sqrt(areas * (len(SHIFTS) ** 2 - 1) / 12)))


def within(areas: int) -> int:
    """How far what is shown is from the people, up or down, where so many areas are added up."""
    return most(areas) + NOISE + BASE // 2
