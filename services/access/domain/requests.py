"""What people ask of the hub: what may be done about it when, and until when it has to be. Pure.

Articles are those of the GDPR. A period ends on the day of the month on which it began, or on that month's last; where
that is no working day, on the next (regulation 1182/71, art. 3).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from contracts.requests import GROUNDS, Kind
from services.access.domain.projects import Refused, day_of, months_after, working_days_after

OPEN, ERASED, ANSWERED, REFUSED, TAKEN_BACK = "open", "erased", "answered", "refused", "taken-back"
_ENDS: Final = {"answer": ANSWERED, "refuse": REFUSED, "erase": ERASED}
_MONTHS, _MONTHS_MORE = 1, 2


class Done(NamedTuple):
    """An act that was done about a request. `records` is how many were erased, `says` its document."""

    act: str
    by: str
    at: dt.datetime
    says: Any
    records: int = 0


@dataclass(frozen=True, slots=True)
class Request:
    """A person's request, and what was done about it, in order."""

    kind: Kind
    received: dt.date
    taken_back: bool
    acts: Sequence[Done] = ()

    @property
    def standing(self) -> str:
        """Where it stands. One that was taken back is so, unless it was closed before."""
        standing = next((_ENDS[one.act] for one in reversed(self.acts) if one.act in _ENDS), OPEN)
        return TAKEN_BACK if self.taken_back and standing == OPEN else standing

    @property
    def is_open(self) -> bool:
        """Whether something has still to be done: whoever is erased has to be told."""
        return self.standing in (OPEN, ERASED)

    @property
    def extended(self) -> bool:
        """Whether it was extended."""
        return any(one.act == "extend" for one in self.acts)

    @property
    def due(self) -> dt.date:
        """The last day on which the person may be told: a month, or three if it was extended (art. 12(3))."""
        months = _MONTHS + (_MONTHS_MORE if self.extended else 0)
        return working_days_after(months_after(self.received, months) - dt.timedelta(days=1), 1)


def received_on(stated: str, arrived: dt.datetime) -> dt.date:
    """The day from which the deadline runs: as stated, but not after arrival; the first day of what is less precise."""
    latest = day_of(arrived)
    parts = [int(part) for part in stated.split("-") if part.isdigit()]
    try:
        return min(dt.date(*(*parts, 1, 1)[:3]), latest) if parts else latest
    except ValueError:
        return latest


def check(request: Request, act: str, says: Any, at: dt.datetime) -> None:
    """Whether this can be done now. Raises Refused, with what can."""
    if not request.is_open:
        raise Refused(f"the request is {request.standing}", "Nothing is left to do about it.")
    if act == "erase" and request.kind != "erasure":
        raise Refused("the person has not asked to be erased", "Answer it, or refuse it.")
    if act in ("erase", "refuse") and request.standing == ERASED:
        raise Refused("the person is erased", "Answer it: the person has to be told.")
    if act == "answer" and request.kind == "erasure" and request.standing != ERASED:
        raise Refused("nothing is erased yet", "Erase first, also where nothing is held, or refuse it.")
    if act == "refuse" and says.ground not in GROUNDS[request.kind]:
        grounds = ", ".join(f"{name} (art. {article})" for name, article in GROUNDS[request.kind].items())
        raise Refused(f"{says.ground} is no ground for this", f"ground: those to refuse it on are {grounds}.")
    if act == "extend" and request.extended:
        raise Refused("it is extended already", "It can be once, by two months.")
    if act == "extend" and day_of(at) > request.due:
        raise Refused("it is too late to extend it", f"The month ended on {request.due.isoformat()}: answer it now.")
