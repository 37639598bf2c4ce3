"""The flow as a picture: what passes from step to step, what waits and how old it gets, and how each step is. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import fmean
from typing import Any, Final, NamedTuple

Told = Mapping[str, Any]
STEPS: Final = ("ingest", "pseudonym", "linkage", "access")
LOOKED: Final = dt.timedelta(seconds=60)
"""What is shown of a moment is the mean of so long before it."""
SPARE: Final = dt.timedelta(seconds=40)
"""So much longer is asked for: windows are counted a little later, and are looked at whole."""
HOUR: Final = dt.timedelta(hours=1)
STANDS: Final = dt.timedelta(seconds=30)
"""A step for which something waits, and that has read nothing for so long, stands."""
MANY: Final = 0.01
LEAST: Final = 10
"""A step that rejects such a share of what it reads, and so many, is looked at; fewer are a producer's matter."""
ROW_SECONDS: Final = 300
_REJECTED: Final = ("dead_lettered", "refused", "rejected")


class Health(NamedTuple):
    """What is said of a service now: that it is `ready`, `unready` and why, or `away`."""

    word: str
    reason: str = ""


class Passage(NamedTuple):
    """What goes into a step at a moment, and how the step is: records a second, messages that wait before it, seconds
    since acceptance (mean, and most), how many it rejected in the time that is looked at and what share that is, and
    when it last read. None for what is not known."""

    step: str
    rate: float | None
    waiting: int | None
    age: float | None
    oldest: float | None
    rejects: int
    share: float
    last_read: dt.datetime | None
    stands: bool
    health: Health | None

    @property
    def states(self) -> list[str]:
        """How it is, in words; several may hold."""
        health = [self.health.word] if self.health and self.health.word != "ready" else []
        stands = ["standing" if self.last_read else "never"] if self.stands else []
        found = [*health, *stands, *["rejecting"] * (self.rejects >= LEAST and self.share >= MANY)]
        return found or ["well" if self.last_read else "unknown"]

    @property
    def tone(self) -> str:
        """Whether somebody should look, as a colour beside the words."""
        tones = {"rejecting": "wait", "well": "good", "unknown": ""}
        return tones.get(self.states[0], "bad")


class Picture(NamedTuple):
    """The pipeline. Figures are of the minute until a moment; `is_behind` if what came after it is not counted yet.
    `kept` are the records a second that are new to the views."""

    until: dt.datetime
    is_behind: bool
    passages: list[Passage]
    kept: float | None


def picture(told: Told | None, at: dt.datetime, health: Mapping[str, Health]) -> Picture:
    """The pipeline at a moment, from what statistics tells of it and what the steps say of themselves."""
    known = _known(told, at)
    until = known - dt.timedelta(seconds=known.timestamp() % told["window_seconds"]) if told else at
    windows = told["windows"] if told else ()
    minute = [one["steps"] for one in windows if until - LOOKED <= _moment(one["at"]) < until]
    newest: Told = next((one["steps"] for one in reversed(windows) if _moment(one["at"]) <= known), {})
    seconds = len(minute) * told["window_seconds"] if told else 0
    passages = [
        _passage(step, [one[step] for one in minute], seconds, newest.get(step), known, health.get(step))
        for step in STEPS
    ]
    kept = sum(one["access"]["verdicts"].get(verdict, 0) for one in minute for verdict in ("stored", "retracted"))
    return Picture(until, at - known > STANDS, passages, kept / seconds if seconds else None)


def series(told: Told, end: dt.datetime) -> dict[str, Any]:
    """Records a second of each step, window by window, as a chart takes it: moments in seconds since the epoch. A
    window that is not whole yet is left out."""
    seconds = told["window_seconds"]
    known = _known(told, end).timestamp()
    whole = [one for one in told["windows"] if _moment(one["at"]).timestamp() + seconds <= known]
    return {
        "at": [round(_moment(one["at"]).timestamp()) for one in whole],
        "rates": {step: [round(one["steps"][step]["records"] / seconds, 2) for one in whole] for step in STEPS},
    }


def rows(found: Mapping[str, Any]) -> list[tuple[dt.datetime, list[float]]]:
    """The same as a table: the mean of each step, by five minutes."""
    numbers = range(len(found["at"]))
    return [
        (
            dt.datetime.fromtimestamp(start * ROW_SECONDS, dt.UTC),
            [fmean(found["rates"][step][one] for one in those) for step in STEPS],
        )
        for start, group in groupby(numbers, lambda one: found["at"][one] // ROW_SECONDS)
        for those in [list(group)]
    ]


def _passage(
    step: str, minute: Sequence[Told], seconds: int, newest: Told | None, known: dt.datetime, health: Health | None
) -> Passage:
    records = sum(one["records"] for one in minute)
    aged = [(one["records"], one["age_seconds"]) for one in minute if one["age_seconds"]]
    weight = sum(count for count, _ in aged)
    verdicts = [(verdict, count) for one in minute for verdict, count in one["verdicts"].items()]
    rejects = sum(count for verdict, count in verdicts if verdict.startswith(_REJECTED))
    waiting = newest["waiting"] if newest else None
    last_read = _moment(newest["last_read"]) if newest and newest["last_read"] else None
    return Passage(
        step,
        records / seconds if seconds else None,
        waiting,
        sum(count * age["mean"] for count, age in aged) / weight if weight else None,
        max((age["max"] for _, age in aged), default=None),
        rejects,
        rejects / max(records, rejects, 1),
        last_read,
        bool(waiting) and (last_read is None or known - last_read >= STANDS),
        health,
    )


def _known(told: Told | None, at: dt.datetime) -> dt.datetime:
    """Until when something is known, of what was until this moment."""
    counted = told["counted_until"] if told else None
    return min(at, _moment(counted)) if counted else at


def _moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)
