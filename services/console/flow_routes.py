"""The page of the flow: the pipeline as it is, or was at any moment of the last hour, of all producers or of one."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import FastAPI, Query
from starlette.responses import JSONResponse, Response

from services.console.domain.flow import HOUR, LOOKED, picture, series
from services.console.visits import SignedIn, Visit

Source = Annotated[str, Query(max_length=256)]


def add_flow_routes(app: FastAPI) -> None:
    """Add them to the application of the console."""

    @app.get("/flow")
    def see_flow(visit: SignedIn, source: Source = "", ago: Annotated[int, Query(ge=0, le=3600)] = 0) -> Response:
        """The pipeline so many seconds ago."""
        at = visit.desk.clock() - dt.timedelta(seconds=ago)
        passages = picture(_windows(visit, source, at - LOOKED, at)["windows"], at)
        values: dict[str, Any] = {"passages": passages, "source": source, "ago": ago, "at": at.isoformat()}
        if visit.is_part:
            return visit.page("flow_part.html", **values)
        sources = visit.ask("GET", "/v1/flow/sources", of="statistics")["sources"]
        return visit.page("flow.html", sources=sources, **values)

    @app.get("/flow/series")
    def last_hour(visit: SignedIn, source: Source = "") -> Response:
        """The last hour as figures, for the chart."""
        end = visit.desk.clock()
        told = _windows(visit, source, end - HOUR, end)
        found = series(told["windows"], told["window_seconds"], end - HOUR, end)
        return JSONResponse(found | {"names": {step: visit.words(f"step.{step}") for step in found["rates"]}})


def _windows(visit: Visit, source: str, begin: dt.datetime, end: dt.datetime) -> Any:
    asked = {"from": begin.isoformat(), "to": end.isoformat()} | ({"source": source} if source else {})
    return visit.ask("GET", f"/v1/flow?{urlencode(asked)}", of="statistics")
