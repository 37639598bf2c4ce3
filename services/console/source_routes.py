"""The pages of producers: who sends, who went silent, and the quality of what one of them sent."""

from __future__ import annotations

import datetime as dt
from typing import Annotated
from urllib.parse import urlencode

from fastapi import FastAPI, Query
from starlette.responses import Response

from runtime.http import ProblemError
from services.console.adapters import Refusal
from services.console.visits import SignedIn

Day = Annotated[dt.date | None, Query()]


def add_source_routes(app: FastAPI) -> None:
    """Add them to the application of the console."""

    @app.get("/producers")
    def see_producers(visit: SignedIn) -> Response:
        """All producers, those that have an alarm first."""
        sources = visit.ask("GET", "/v1/sources", of="statistics")["sources"]
        (told,) = visit.told([], ("statistics", "/v1/alarms"))
        alarms = told and told["alarms"]
        # who has both is silent
        rung = {one["source"]: one["kind"] for one in sorted(alarms or (), key=lambda one: one["kind"] == "silence")}
        template = "producers_part.html" if visit.is_part else "producers.html"
        shown = sorted(sources, key=lambda one: one["source"] not in rung)
        return visit.page(template, sources=shown, alarms=alarms, rung=rung)

    @app.get("/producers/report")
    def see_report(
        visit: SignedIn,
        source: Annotated[str, Query(max_length=256)],
        begin: Annotated[str, Query(alias="from", max_length=10)] = "",
        end: Annotated[str, Query(alias="to", max_length=10)] = "",
    ) -> Response:
        """The quality of what a producer sent."""
        period = {name: day for name, day in (("from", begin), ("to", end)) if day}
        quality = ("statistics", f"/v1/sources/quality?{urlencode({'source': source} | period)}")
        away: list[str] = []
        found, rate, sentences = None, None, list[str]()
        try:
            found, rate = visit.told(away, quality, ("linkage", f"/v1/linkage?{urlencode({'source': source})}"))
            if found is None and "statistics" not in away:
                raise ProblemError(404, "not found", "There is no such producer.")
        except Refusal as refusal:
            if refusal.status != 422:
                raise
            sentences = refusal.detail.split("; ")
        values = {"found": found, "rate": rate, "source": source, "sentences": sentences, "away": away}
        return visit.page("report.html", 422 if sentences else 200, begin=begin, end=end, **values)
