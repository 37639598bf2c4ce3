"""HTTP of statistics: the registry of sources, the quality of what each sent, and the flow. For operators."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from contracts.sources import Registered
from runtime.http import (
    NO_NUL,
    Authorization,
    ProblemError,
    Readiness,
    create_app,
    problem_response,
    problems,
)
from runtime.messages import RetryLater
from runtime.oidc import GUARDED, Gate
from services.statistics.adapters import Reader
from services.statistics.domain.quality import WEEK_DAYS, Quality, Source, listed, report
from services.statistics.flow_routes import flow_router
from services.statistics.published import Published
from services.statistics.watch import Remembered

Clock = Callable[[], dt.datetime]
MONTH_DAYS = 30
MOST_DAYS = 3 * 366
"""The longest period of a report."""


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who may see what flows."""

    name: str


class Sources(BaseModel):
    """All producers: those of the registry first, then those that were seen without being in it."""

    sources: list[Source]


Name = Annotated[
    str, Query(alias="source", max_length=256, pattern=NO_NUL, description="The source, as `GET /v1/sources` lists it.")
]
Day = Annotated[dt.date, Field(ge=dt.date(1900, 1, 1), le=dt.date(9000, 1, 1))]
Begin = Annotated[Day | None, Query(alias="from", description="The first day (UTC); 29 days before the last.")]
End = Annotated[Day | None, Query(alias="to", description="The last day, included; today, if absent.")]


def application(
    ready: Readiness,
    reader: Reader,
    registry: Callable[[], Mapping[str, Registered]],
    operators: Gate,
    clock: Clock = lambda: dt.datetime.now(dt.UTC),
    *,
    published: Published,
    reading: Readiness,
    remembered: Remembered,
) -> FastAPI:
    """The application of this service. `reading` says why `published` is not complete yet."""
    app = create_app("Estuaire statistics", "What each producer sent, and how good it is.", ready)
    router = APIRouter(prefix="/v1", responses=problems({**GUARDED, 503: _AWAY}))

    def operator(authorization: Authorization) -> Operator:
        return Operator(operators.name(authorization))

    @router.get("/sources", summary="List the producers", response_description="The producers.")
    def sources(_operator: Operator = Depends(operator)) -> Sources:
        """Every producer that is registered or was seen, with what it sent in the last seven days."""
        now = clock()
        today = now.date()
        seen = reader.sources(today - dt.timedelta(days=WEEK_DAYS - 1), today)
        return Sources(sources=listed(registry(), seen, now))

    @router.get(
        "/sources/quality",
        summary="Report on the quality of a producer's data",
        response_description="The report.",
        responses=problems({404: _NOBODY, 422: "A day is none, or the period is longer than three years."}),
    )
    def quality(source: Name, begin: Begin = None, end: End = None, _operator: Operator = Depends(operator)) -> Quality:
        """What a producer sent from one day to another: volume, completeness of each field, values outside of their
        grammar, refusals by reason, lateness, and what the later steps made of it. All of it is counts, none
        withheld: where they are small they are about few people, and for this producer and operators alone."""
        last = end or clock().date()
        first = begin or last - dt.timedelta(days=MONTH_DAYS - 1)
        if not 0 <= (last - first).days < MOST_DAYS:
            raise ProblemError(422, "not a period", f"Ask for `from` until `to`, {MOST_DAYS} days at the most.")
        totals = reader.totals(source, first, last)
        registered = registry().get(source)
        if registered is None and not totals.counts and source not in reader.sources(last, last):
            raise ProblemError(404, "no such producer", _NOBODY)
        known = registered or Registered(source=source)
        return report(known, (first, last), totals.counts, totals.days, is_registered=registered is not None)

    @app.exception_handler(RetryLater)
    async def away(_request: Request, _error: RetryLater) -> Response:
        return problem_response(503, "try again later", _AWAY, {"Retry-After": "5"})

    router.include_router(flow_router(operator, published, reading, remembered, registry, clock))
    app.include_router(router)
    return app


_AWAY = "The database of counts does not answer, or the windows of the flow are being read."
_NOBODY = "No producer of this source is registered or was seen."
