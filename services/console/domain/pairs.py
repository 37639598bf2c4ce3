"""A doubtful pair as a page shows it: trait by trait how alike the two are, their numbers, and the odds. Pure.

Nobody's identity is in it: linkage has none.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, Final, NamedTuple

TRAITS: Final = ("family_name", "given_name", "birth_date", "sex", "birth_place", "residence")
KNOWN: Final = frozenset(("family_name", "given_name", "birth_date"))
"""The traits of which linkage says whether a side has them."""
IN_ORDER: Final = "names_in_order"
_SEATED: Final = dt.timedelta(minutes=2)
_MOST_BITS: Final = 60
_STRICT: Final = "strict"


class Trait(NamedTuple):
    """How alike a trait is, from 0 to 1, or None where there is nothing to compare; `word` names the level.

    `lacks` are the sides of which it is known that they do not have it. `parts` are those of a birth date.
    """

    name: str
    likeness: float | None
    word: str
    tone: str
    lacks: tuple[str, ...]
    parts: Mapping[str, bool]


class Linked(NamedTuple):
    """What brought two subjects together, by the names of its words: numbers and traits with their likeness and tone,
    and the odds of one person to two, where traits decided."""

    found: Sequence[tuple[str, str, str]]
    odds: int | None


class Pair(NamedTuple):
    """A pair: `told` is all that linkage says of it; `odds` are of one person to two, or of two to one if `against`."""

    told: Mapping[str, Any]
    traits: Sequence[Trait]
    numbers: Sequence[tuple[str, str]]
    swapped: bool
    odds: int | None
    against: bool

    @property
    def names_method(self) -> bool:
        """Whether the reason says by which number the two met."""
        return any(f"the same {one}" in self.told["reason"] for one in self.told["numbers"])

    @property
    def agreeing(self) -> list[str]:
        """The traits that agree."""
        return [one.name for one in self.traits if one.tone == "good"]

    @property
    def differing(self) -> list[str]:
        """The traits that say another person."""
        return [one.name for one in self.traits if one.tone == "bad"]


def pair(told: Mapping[str, Any]) -> Pair:
    """A pair, from what linkage answers."""
    weight = told["weight"]
    return Pair(
        told,
        [_trait(name, told) for name in TRAITS],
        _numbers(told),
        told["evidence"].get(IN_ORDER) == 0,
        None if weight is None else _odds(weight),
        weight is not None and weight < 0,
    )


def linked_by(told: Mapping[str, Any]) -> Linked:
    """The evidence of a link, from what linkage answers; what either of the two lacks is not there."""
    numbers = ((f"system.{one}", f"numbers.{said}", _TONES.get(said, "")) for one, said in told["numbers"].items())
    traits = (_trait(name, told) for name in TRAITS if name in told["evidence"])
    likeness = ((f"trait.{one.name}", f"likeness.{one.word}", one.tone) for one in traits)
    swapped = [(f"trait.{IN_ORDER}", "likeness.swapped", "")] if told["evidence"].get(IN_ORDER) == 0 else []
    found = [one for one in numbers if one[0] != f"system.{_STRICT}"]
    return Linked([*found, *likeness, *swapped], None if told["weight"] is None else _odds(told["weight"]))


_TONES: Final = {"same": "good", "different": "bad"}


def _trait(name: str, told: Mapping[str, Any]) -> Trait:
    likeness = told["evidence"].get(name)
    parts = told["birth_date_parts"] if name == "birth_date" else {}
    if likeness is None:
        lacks = (side for side in ("left", "right") if name in KNOWN and name not in told[side]["traits"])
        return Trait(name, None, "missing", "", tuple(lacks), parts)
    tone = "good" if likeness >= 0.75 else "" if likeness >= 0.3 else "bad"
    return Trait(name, likeness, f"{name}.p{round(likeness * 100)}", tone, (), parts)


def _numbers(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each system that one of the two has a number of, and how they compare. The strict traits are no number."""
    left, right = (set(told[side]["identifiers"]) - {_STRICT} for side in ("left", "right"))
    return [(one, told["numbers"].get(one, "one-side")) for one in sorted(left | right)]


def _odds(weight: float) -> int:
    """What a weight in bits comes to; two digits of it are enough."""
    odds = 2 ** min(abs(weight), _MOST_BITS)
    digits = max(0, len(str(int(odds))) - 2)
    unit: int = 10**digits
    return round(odds / unit) * unit


class Seats:
    """Who looks at which pair, so that stewards at work at once are not given the same one. For two minutes each."""

    def __init__(self, clock: Callable[[], dt.datetime]) -> None:
        self._clock = clock
        self._lock = Lock()
        self._taken: dict[str, tuple[str, dt.datetime]] = {}

    def take(self, pairs: Sequence[Mapping[str, Any]], who: str) -> Mapping[str, Any] | None:
        """The first of these pairs that nobody else looks at; the first of all, where somebody looks at each."""
        with self._lock:
            until = self._clock() + _SEATED
            taken = self._others(who)
            free = (one for one in pairs if one["id"] not in taken)
            found = next(free, pairs[0] if pairs else None)
            self._taken = taken | ({found["id"]: (who, until)} if found else {})
            return found

    def others(self, who: str) -> int:
        """How many pairs others look at."""
        with self._lock:
            return len(self._others(who))

    def _others(self, who: str) -> dict[str, tuple[str, dt.datetime]]:
        now = self._clock()
        return {pair: seat for pair, seat in self._taken.items() if seat[1] > now and seat[0] != who}
