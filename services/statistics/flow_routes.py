"""HTTP of the flow: window by window, by source, and the alarms that stand. For operators."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from contracts.messages import FlowWindow
from contracts.sources import Registered
from runtime.http import NO_NUL, ProblemError, problems
from runtime.messages import RetryLater
from services.statistics.domain.flow import Alarms, Flow, SourcesFlow, flow, listed_alarms, sources_flow
from services.statistics.domain.windows import HOUR, KEPT, LEARNT, SHORT
from services.statistics.published import Published
from services.statistics.watch import Remembered

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LAST = dt.datetime(9000, 1, 1, tzinfo=dt.UTC)
Name = Annotated[
    str | None, Query(alias="source", max_length=256, pattern=NO_NUL, description="One source; all, if absent.")
]
Begin = Annotated[dt.datetime | None, Query(alias="from", description="RFC 3339; an hour before `to`, if absent.")]
End = Annotated[dt.datetime | None, Query(alias="to", description="RFC 3339; now, if absent.")]


def flow_router(
    operator: Callable[..., Any],
    published: Published,
    reading: Callable[[], str | None],
    remembered: Remembered,
    registry: Callable[[], Mapping[str, Registered]],
    clock: Callable[[], dt.datetime],
) -> APIRouter:
    """The routes. `operator` is the dependency that holds out everybody else; `reading` says why windows are not
    there yet."""
    router = APIRouter(dependencies=[Depends(operator)])

    def windows(seconds: int, begin: dt.datetime, end: dt.datetime) -> Iterator[FlowWindow]:
        if reading() is not None:
            raise RetryLater("the windows are being read")
        return published.windows(seconds, begin.timestamp(), end.timestamp())

    @router.get(
        "/flow",
        summary="Show the flow through the steps",
        response_description="The flow.",
        responses=problems({422: "A moment is none, or `from` is not before `to`."}),
    )
    def show_flow(source: Name = None, begin: Begin = None, end: End = None) -> Flow:
        """What each step did in windows of ten seconds: records read, what became of them, how old they were, how many
        messages waited, and when it last read. Windows are kept for an hour. Counted at least every second, so the
        newest one grows."""
        now = clock()
        last = _moment(end) or now
        first = _moment(begin) or last - dt.timedelta(hours=1)
        if not first < last:
            raise ProblemError(422, "not a period", "Ask for `from` before `to`.")
        kept = max(first, now - dt.timedelta(seconds=KEPT[SHORT] + SHORT))
        until = min(last, now)
        hour = kept.replace(minute=0, second=0, microsecond=0)
        before = chain(windows(HOUR, hour - dt.timedelta(days=1), hour), windows(SHORT, hour, kept))
        shown = flow(windows(SHORT, kept, until), before, (kept, until), source, published.counted_until)
        return shown.model_copy(update={"begin": first, "end": last})

    @router.get("/flow/sources", summary="List what each source sent of late", response_description="The sources.")
    def flow_of_sources() -> SourcesFlow:
        """Events of the last minute, hour and day, by windows that began within them, and those refused or
        dead-lettered, of every source that is registered or was seen within three weeks."""
        now = clock()
        short = windows(SHORT, now - dt.timedelta(seconds=HOUR + SHORT), now)
        hours = windows(HOUR, now - dt.timedelta(seconds=LEARNT), now)
        return sources_flow(short, hours, registry(), now)

    @router.get("/alarms", summary="List the alarms that stand", response_description="The alarms.")
    def alarms() -> Alarms:
        """Sources that are silent for longer than their interval, or than their own rhythm makes likely, and those of
        which an hour has ten times, or a tenth of, what such hours usually have."""
        return listed_alarms(remembered.alarms(), registry())

    return router


def _moment(told: dt.datetime | None) -> dt.datetime | None:
    """In UTC, which is also meant where no zone is told."""
    if told is None:
        return None
    zoned = told if told.tzinfo else told.replace(tzinfo=dt.UTC)
    if not _EPOCH.replace(year=1971) < zoned.replace(tzinfo=dt.UTC) < _LAST:
        raise ProblemError(422, "not a moment", "Ask for times between 1971 and 9000.")
    return zoned.astimezone(dt.UTC)
