"""The page of the flow: the pipeline as it is, or was at any moment of the last hour, of all producers or of one."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import FastAPI, Query
from starlette.responses import JSONResponse, Response

from services.console.adapters import Hub, Refusal
from services.console.domain.flow import HOUR, LOOKED, SPARE, STEPS, Health, picture, rows, series
from services.console.visits import SignedIn

Source = Annotated[str, Query(max_length=256)]
_ASKED: Final = (*STEPS, "statistics")
"""Who is asked how they are."""


def add_flow_routes(app: FastAPI) -> None:
    """Add them to the application of the console."""

    @app.get("/flow")
    def see_flow(visit: SignedIn, source: Source = "", ago: Annotated[int, Query(ge=0, le=3600)] = 0) -> Response:
        """The pipeline so many seconds ago; of now, also how the steps are, whoever of them answers."""
        at = visit.desk.clock() - dt.timedelta(seconds=ago)
        asked = [_windows(source, at - LOOKED - SPARE, at)] + ["/v1/flow/sources"] * (not visit.is_part)
        with ThreadPoolExecutor(len(_ASKED)) as threads:
            answers = threads.map(lambda one: _health(visit.desk.hub, one), () if ago else _ASKED)
            told, *listed = visit.told([], *(("statistics", path) for path in asked))
        health = {service: one for service, one in zip(_ASKED, answers, strict=False) if one is not None}
        values: dict[str, Any] = {
            "picture": picture(told, at, health),
            "told": told is not None,
            "statistics": health.get("statistics"),
            "source": source,
            "ago": ago,
        }
        if visit.is_part:
            return visit.page("flow_part.html", **values)
        sources = [one for found in listed if found for one in found["sources"]]
        return visit.page("flow.html", sources=sources, steps=STEPS, **values)

    @app.get("/flow/series")
    def last_hour(visit: SignedIn, source: Source = "") -> Response:
        """The last hour as figures, for the chart, and in words."""
        end = visit.desk.clock()
        words = visit.words
        found = series(visit.ask("GET", _windows(source, end - HOUR, end), of="statistics"), end)
        names = {step: words(f"step.{step}") for step in STEPS}
        means = {step: sum(rates) / max(1, len(rates)) for step, rates in found["rates"].items()}
        said = {
            "names": names,
            "means": ", ".join(f"{names[step]} {words.decimal(mean)}" for step, mean in means.items()),
            "rows": [[words.clock(at.isoformat()), *map(words.decimal, rates)] for at, rates in rows(found)],
        }
        return JSONResponse(found | said)


def _windows(source: str, begin: dt.datetime, end: dt.datetime) -> str:
    asked = {"from": begin.isoformat(), "to": end.isoformat()} | ({"source": source} if source else {})
    return f"/v1/flow?{urlencode(asked)}"


def _health(hub: Hub, service: str) -> Health | None:
    """How a service is; None where nobody has said where it listens."""
    try:
        reason = hub.ready(service)
    except Refusal as refusal:
        return None if refusal.status == 404 else Health("away")
    return Health("ready") if reason is None else Health("unready", reason)
