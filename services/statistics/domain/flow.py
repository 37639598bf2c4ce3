"""From windows to what operators see: the flow through the steps, and what each source sent. Pure."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from contracts.messages import FlowWindow
from contracts.sources import Registered
from services.statistics.domain.alarms import Alarm, Known
from services.statistics.domain.counting import OTHER
from services.statistics.domain.windows import REJECTED, SHORT

STEPS: Final = ("ingest", "pseudonym", "linkage", "access")


class Ages(BaseModel):
    """How long ago records were accepted, when a step had done with them. Seconds."""

    mean: float
    max: float


class StepFlow(BaseModel):
    """What a step did in a window."""

    records: int = Field(description="Records that it read; of ingest, events that it answered for.")
    verdicts: dict[str, int] = Field(description="What became of them; a record may have several, or none.")
    waiting: int | None = Field(
        description="Messages that it had still to read, of all sources, as last known at the window's end."
    )
    age_seconds: Ages | None = Field(description="Null where no record has an age: at ingest, none does.")


class Window(BaseModel):
    """What the steps did in one window. A step is left out if it did nothing and what waits for it is not known."""

    at: dt.datetime = Field(description="Its beginning.")
    steps: dict[str, StepFlow]


class Flow(BaseModel):
    """The flow, window by window. Windows in which nothing happened are left out."""

    model_config = ConfigDict(populate_by_name=True)

    window_seconds: int
    begin: dt.datetime = Field(alias="from")
    end: dt.datetime = Field(alias="to", description="Windows that begin before it are included.")
    steps: list[str] = Field(description="In the order in which records pass them.")
    windows: list[Window]


class Spans(BaseModel):
    """Counts of the last minute, hour and day."""

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


def flow(
    windows: Iterable[FlowWindow],
    before: Iterable[FlowWindow],
    begin: dt.datetime,
    end: dt.datetime,
    source: str | None,
) -> Flow:
    """The flow in a period, from its windows in the order of their start, and those before it for what waited then."""
    waiting: dict[str, dict[str, tuple[int, int]]] = {step: {} for step in STEPS}
    for one in before:
        _note(waiting, one)
    by_start: defaultdict[int, list[FlowWindow]] = defaultdict(list)
    for one in windows:
        by_start[one.start].append(one)
    found = []
    for start, parts in sorted(by_start.items()):
        for one in parts:
            _note(waiting, one)
        mine = [one for one in parts if source is None or one.source == source]
        if any(one.types or one.verdicts for one in mine):
            steps = {step: _step([one for one in mine if one.step == step], waiting[step]) for step in STEPS}
            at = dt.datetime.fromtimestamp(start, dt.UTC)
            shown = {step: one for step, one in steps.items() if one.records or one.verdicts or one.waiting is not None}
            found.append(Window(at=at, steps=shown))
    return Flow(window_seconds=SHORT, begin=begin, end=end, steps=list(STEPS), windows=found)


def _note(waiting: Mapping[str, dict[str, tuple[int, int]]], window: FlowWindow) -> None:
    known = waiting.get(window.step)
    if known is not None:
        for place, told in window.waiting.items():
            known[place] = max(told, known.get(place, told))


def _step(windows: Iterable[FlowWindow], waiting: Mapping[str, tuple[int, int]]) -> StepFlow:
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
        waiting=sum(left for _, left in waiting.values()) if waiting else None,
        age_seconds=Ages(mean=round(total / count / 1000, 3), max=round(most / 1000, 3)) if count else None,
    )


def sources_flow(
    short: Iterable[FlowWindow], hours: Iterable[FlowWindow], registered: Mapping[str, Registered], now: dt.datetime
) -> SourcesFlow:
    """What each source sent: the minute and hour from the short windows, the day from those of an hour."""
    records: defaultdict[str, Spans] = defaultdict(Spans)
    rejected: defaultdict[str, Spans] = defaultdict(Spans)
    last: dict[str, int] = {}

    def add(spans: defaultdict[str, Spans], source: str, span: str, count: int) -> None:
        setattr(spans[source], span, getattr(spans[source], span) + count)

    at = now.timestamp()
    for window in (*short, *hours):
        source, ingest = window.source, window.step == "ingest"
        if not source or window.step not in STEPS:
            continue
        if ingest:
            last[source] = max(last.get(source, 0), window.last)
        bad = sum(n for verdict, n in window.verdicts.items() if verdict == REJECTED or verdict.startswith("dead_"))
        for span, seconds, length in (("minute", SHORT, 60), ("hour", SHORT, 3600), ("day", 3600, 86_400)):
            if window.seconds == seconds and window.start > at - length - seconds + 1:
                add(records, source, span, sum(window.types.values()) if ingest else 0)
                add(rejected, source, span, bad)
    return SourcesFlow(
        sources=[
            SourceFlow(
                source=name,
                title=registered[name].title if name in registered else "",
                registered=name in registered,
                records=records[name],
                rejected=rejected[name],
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
