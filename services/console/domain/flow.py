"""The flow as a picture: how fast each step is, what waits before it, how old it gets, what it rejects. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

Told = Mapping[str, Any]
STEPS: Final = ("ingest", "pseudonym", "linkage", "access")
LOOKED: Final = dt.timedelta(seconds=60)
"""What is shown of a moment is the mean of so long before it."""
HOUR: Final = dt.timedelta(hours=1)
_REJECTED: Final = ("dead_lettered", "refused", "rejected")


class Passage(NamedTuple):
    """A step at a moment: records a second, messages that wait before it, seconds since acceptance (mean, and most),
    and how many it rejected in the time that is looked at. None for what is not known."""

    step: str
    rate: float
    waiting: int | None
    age: float | None
    oldest: float | None
    rejects: int

    @property
    def tone(self) -> str:
        """Whether somebody should look: it rejects, or something waits and nothing moves."""
        return "bad" if self.rejects else "wait" if self.waiting and not self.rate else ""


def picture(windows: Iterable[Told], at: dt.datetime) -> list[Passage]:
    """All steps at a moment, from the windows that statistics tells of."""
    near = sorted((one for one in windows if at - LOOKED < _moment(one) <= at), key=_moment)
    return [_passage(step, [one["steps"][step] for one in near if step in one["steps"]]) for step in STEPS]


def series(windows: Iterable[Told], seconds: int, begin: dt.datetime, end: dt.datetime) -> dict[str, Any]:
    """Records a second of each step, window by window, as a chart takes it: moments in seconds since the epoch."""
    first = int(begin.timestamp()) // seconds * seconds
    moments = list(range(first, int(end.timestamp()), seconds))
    found = {int(_moment(one).timestamp()): one["steps"] for one in windows}

    def rate(step: str, at: int) -> float:
        told = found.get(at, {}).get(step)
        return round(told["records"] / seconds, 2) if told else 0.0

    return {"at": moments, "rates": {step: [rate(step, at) for at in moments] for step in STEPS}}


def _passage(step: str, told: Sequence[Told]) -> Passage:
    records = sum(one["records"] for one in told)
    aged = [(one["records"], one["age_seconds"]) for one in told if one["age_seconds"]]
    weight = sum(count for count, _ in aged)
    waiting = [one["waiting"] for one in told if one["waiting"] is not None]
    verdicts = [(verdict, count) for one in told for verdict, count in one["verdicts"].items()]
    return Passage(
        step,
        records / LOOKED.total_seconds(),
        waiting[-1] if waiting else None,
        sum(count * age["mean"] for count, age in aged) / weight if weight else None,
        max((age["max"] for _, age in aged), default=None),
        sum(count for verdict, count in verdicts if verdict.startswith(_REJECTED)),
    )


def _moment(window: Told) -> dt.datetime:
    return dt.datetime.fromisoformat(window["at"])
