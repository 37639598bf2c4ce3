"""From windows to what operators see: the flow through the steps, and what each source sent. Pure."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, pairwise
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from contracts.messages import FlowWindow
from contracts.sources import Registered
from services.statistics.domain.alarms import Alarm, Known
from services.statistics.domain.counting import OTHER
from services.statistics.domain.windows import ACCEPTED, REJECTED, SHORT

STEPS: Final = ("ingest", "pseudonym", "linkage", "access")
_WRITTEN: Final = {"ingest": ACCEPTED, "pseudonym": "pseudonymised", "linkage": "linked"}
"""What a step calls what it has written for the next one."""
_TOLD_LATER_MS: Final = 5_000
"""A step may tell of what it has written so much later than the next one tells of having read it: ingest tells once a
second."""


class Ages(BaseModel):
    """How long ago records were accepted, when a step had done with them. Seconds."""

    mean: float
    max: float


class StepFlow(BaseModel):
    """What a step did in a window."""

    records: int = Field(description="Records that it read; of ingest, events that it answered for.")
    verdicts: dict[str, int] = Field(description="What became of them; a record may have several, or none.")
    waiting: int | None = Field(
        description="Messages that it had still to read, of all sources, at the window's end: as many as it told of"
        " last, and what the step before it has written since, but for the rest of the window in which it told. Null"
        " where nothing was told within a day; before ingest nothing waits."
    )
    last_read: dt.datetime | None = Field(
        description="When it last had done with something, of any source, as of the window's end."
    )
    age_seconds: Ages | None = Field(description="Null where no record has an age: at ingest, none does.")


class Window(BaseModel):
    """What the steps did in one window."""

    at: dt.datetime = Field(description="Its beginning.")
    steps: dict[str, StepFlow]


class Flow(BaseModel):
    """The flow, window by window: all of the period that are kept and have begun, also where nothing happened."""

    model_config = ConfigDict(populate_by_name=True)

    window_seconds: int
    begin: dt.datetime = Field(alias="from")
    end: dt.datetime = Field(alias="to", description="Windows that begin before it are included.")
    steps: list[str] = Field(description="In the order in which records pass them.")
    counted_until: dt.datetime | None = Field(
        description="Until when the flow is counted: of windows that end later, some is missing. Null where not known."
    )
    windows: list[Window]


class Spans(BaseModel):
    """Counts of the windows that began within the last minute and hour (of ten seconds each), and day (of an hour)."""

    minute: int = 0
    hour: int = 0
    day: int = 0


class SourceFlow(BaseModel):
    """What a source sent of late."""

    source: str
    title: str
    registered: bool
    records: Spans = Field(description="Events that ingest answered for.")
    rejected: Spans = Field(description="Those it refused, and the dead letters of later steps.")
    last_seen: dt.datetime | None = Field(description="When ingest last answered for an event of it.")


class SourcesFlow(BaseModel):
    """All sources that are registered, or were seen within three weeks."""

    sources: list[SourceFlow]


class StandingAlarm(BaseModel):
    """An alarm that stands."""

    source: str
    kind: str = Field(description="`silence` or `volume`.")
    since: dt.datetime
    expected: float | None = Field(
        description="Records that are usual: in the silence when it became an alarm, or in such an hour; null where an"
        " interval is registered."
    )
    seen: int = Field(description="Records that came instead.")
    title: str = Field(description="The source's title in the registry.")


class Alarms(BaseModel):
    """All alarms that stand, the oldest first."""

    alarms: list[StandingAlarm]


@dataclass(slots=True)
class _Known:
    """What is known of a step while windows go by: when it was last heard of (ms), what was left for it to read then,
    by topic and partition, and how much was written for it since."""

    last: int = 0
    left: dict[str, tuple[int, int]] = field(default_factory=dict)
    since: int = 0

    @property
    def waiting(self) -> int | None:
        return sum(left for _, left in self.left.values()) + self.since if self.left or self.since else None


def flow(
    windows: Iterable[FlowWindow],
    before: Iterable[FlowWindow],
    period: tuple[dt.datetime, dt.datetime],
    source: str | None,
    counted_until: float | None,
) -> Flow:
    """The flow in a period, from its windows, and those before it for what was known then; all in the order of their
    start, windows of ten seconds after those of an hour."""
    begin, end = period
    known = {step: _Known() for step in STEPS}
    for _, together in groupby(before, _start):
        _learn(known, list(together))
    found, groups = [], groupby(windows, _start)
    coming = next(groups, None)
    for start in range(-int(-begin.timestamp() // SHORT) * SHORT, math.ceil(end.timestamp()), SHORT):
        parts: list[FlowWindow] = []
        while coming is not None and coming[0] <= start:  # one start at a time, for there may be a million windows
            parts = list(coming[1])
            coming = next(groups, None)
        _learn(known, parts)
        mine = [one for one in parts if source is None or one.source == source]
        steps = {step: _step([one for one in mine if one.step == step], known[step]) for step in STEPS}
        found.append(Window(at=dt.datetime.fromtimestamp(start, dt.UTC), steps=steps))
    counted = None if counted_until is None else dt.datetime.fromtimestamp(counted_until, dt.UTC)
    return Flow(window_seconds=SHORT, begin=begin, end=end, steps=list(STEPS), counted_until=counted, windows=found)


def _start(window: FlowWindow) -> int:
    return window.start


def _learn(known: Mapping[str, _Known], windows: Sequence[FlowWindow]) -> None:
    """From the windows of one start."""
    written: Counter[str] = Counter()
    for one in windows:
        if one.step not in known:
            continue
        step = known[one.step]
        if one.last > step.last:
            step.last, step.since = one.last, 0
        for place, told in one.waiting.items():
            step.left[place] = max(told, step.left.get(place, told))
        written[one.step] += one.verdicts.get(_WRITTEN.get(one.step, ""), 0)
    for before, after in pairwise(STEPS):
        if written[before] and windows[0].start * 1000 >= known[after].last + _TOLD_LATER_MS:
            known[after].since += written[before]


def _step(windows: Iterable[FlowWindow], known: _Known) -> StepFlow:
    types: Counter[str] = Counter()
    verdicts: Counter[str] = Counter()
    count = total = most = 0
    for one in windows:
        types.update(one.types)
        verdicts.update(one.verdicts)
        count, total, most = count + one.ages[0], total + one.ages[1], max(most, one.ages[2])
    return StepFlow(
        records=types.total(),
        verdicts=dict(sorted(verdicts.items())),
        waiting=known.waiting,
        last_read=dt.datetime.fromtimestamp(known.last / 1000, dt.UTC) if known.last else None,
        age_seconds=Ages(mean=round(total / count / 1000, 3), max=round(most / 1000, 3)) if count else None,
    )


def sources_flow(
    short: Iterable[FlowWindow], hours: Iterable[FlowWindow], registered: Mapping[str, Registered], now: dt.datetime
) -> SourcesFlow:
    """What each source sent: in the minute and hour from the short windows, in the day from those of an hour."""
    records: defaultdict[str, Counter[str]] = defaultdict(Counter)
    rejected: defaultdict[str, Counter[str]] = defaultdict(Counter)
    last: dict[str, int] = {}
    at = now.timestamp()
    for window in chain(short, hours):
        source, ingest = window.source, window.step == "ingest"
        if not source or window.step not in STEPS:
            continue
        if ingest:
            last[source] = max(last.get(source, 0), window.last)
        bad = sum(n for verdict, n in window.verdicts.items() if verdict == REJECTED or verdict.startswith("dead_"))
        for span, seconds, length in (("minute", SHORT, 60), ("hour", SHORT, 3600), ("day", 3600, 86_400)):
            if window.seconds == seconds and window.start > at - length:
                records[source][span] += sum(window.types.values()) if ingest else 0
                rejected[source][span] += bad
    return SourcesFlow(
        sources=[
            SourceFlow(
                source=name,
                title=registered[name].title if name in registered else "",
                registered=name in registered,
                records=Spans(**records[name]),
                rejected=Spans(**rejected[name]),
                last_seen=dt.datetime.fromtimestamp(last[name] / 1000, dt.UTC) if name in last else None,
            )
            for name in sorted(registered.keys() | records.keys() | last.keys(), key=lambda n: (n not in registered, n))
        ]
    )


def known_sources(hours: Iterable[FlowWindow], seen: Mapping[str, dt.datetime]) -> dict[str, Known]:
    """What is known of each source that ingest has heard of; `seen` says when, of those that were before any window."""
    counts: defaultdict[str, Counter[dt.datetime]] = defaultdict(Counter)
    last = dict(seen)
    for one in hours:
        if one.step == "ingest" and one.source and one.source != OTHER:
            counts[one.source][dt.datetime.fromtimestamp(one.start, dt.UTC)] += sum(one.types.values())
            at = dt.datetime.fromtimestamp(one.last / 1000, dt.UTC)
            last[one.source] = max(at, last.get(one.source, at))
    return {source: Known(last[source], counts[source]) for source in last}


def listed_alarms(standing: Iterable[Alarm], registered: Mapping[str, Registered]) -> Alarms:
    """Alarms with the titles of their sources."""
    return Alarms(
        alarms=[
            StandingAlarm(**one._asdict(), title=registered[one.source].title if one.source in registered else "")
            for one in sorted(standing, key=lambda one: (one.since, one.source, one.kind))
        ]
    )
