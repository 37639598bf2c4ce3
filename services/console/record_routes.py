"""The page of one record: its way through the hub, by the hub's own id of it."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import FastAPI, Query
from starlette.responses import Response

from runtime.telemetry import LINKED_TRACE, OF_RECORD
from services.console.adapters import Hub, Refusal, path_of
from services.console.domain.journey import Stop, journey
from services.console.domain.spans import Trace, traces
from services.console.reject_routes import STEPS
from services.console.settings import TRACES
from services.console.visits import SignedIn

_EVENT_ID: Final = re.compile(r"[0-9a-f]{32}")
_MOST_TRACES: Final = 5
_MOST_VIEWS: Final = 100
_BEFORE: Final = dt.timedelta(minutes=10)
"""A record's trace begins so long, at most, before the first step has told of it."""


def add_record_routes(app: FastAPI) -> None:
    """Add them to the application of the console."""

    @app.get("/records")
    def see_record(visit: SignedIn, event_id: Annotated[str, Query(max_length=100)] = "") -> Response:
        """Where a record is; without an id, where to ask for one."""
        asked = event_id.strip().lower()
        values: dict[str, Any] = {"event_id": asked, "stops": [], "away": [], "wrong": False, "patient": None}
        values |= {"followed": None}
        if not asked:
            return visit.page("record.html", **values)
        if not _EVENT_ID.fullmatch(asked):
            return visit.page("record.html", 422, **values | {"wrong": True})
        away: list[str] = []
        linked = visit.told(f"/v1/records{path_of(asked)}", "linkage", away)
        stored = visit.told(f"/v1/records{path_of(asked)}", "access", away)
        letters = []
        for step in STEPS:
            told = visit.told(f"/v1/dead-letters?event_id={asked}", step, away)
            letters += [(step, one) for one in told["letters"]] if told else []
        stops = journey(linked, stored, letters)
        patient = linked["patient_id"] if linked else None
        status = 200 if stops or away else 404
        followed = (
            _traces(visit.desk.hub, asked, stops, visit.desk.clock(), away) if stops and visit.desk.traces else None
        )
        found = {"stops": stops, "away": away, "patient": patient, "followed": followed}
        return visit.page("record.html", status, **values | found)


def _traces(hub: Hub, event_id: str, stops: list[Stop], now: dt.datetime, away: list[str]) -> list[Trace] | None:
    """The traces that the store has of a record; None where it does not answer, which is noted in `away`."""
    since = dt.datetime.fromisoformat(stops[0].at) - _BEFORE

    def ask(service: str, most: int, **tags: str) -> list[dict[str, Any]]:
        span = {"start": round(since.timestamp() * 1e6), "end": round((now + _BEFORE).timestamp() * 1e6)}
        query = urlencode({"service": service, "tags": json.dumps(tags), "limit": most} | span)
        found: list[dict[str, Any]] = hub.ask(TRACES, "GET", f"/api/traces?{query}")["data"] or []
        return found

    try:
        of_record = ask("ingest", _MOST_TRACES, **{OF_RECORD: event_id})
        ids = [one["traceID"] for one in of_record]
        beyond = {one: [it["traceID"] for it in ask("access", _MOST_VIEWS, **{LINKED_TRACE: one})] for one in ids}
    except Refusal:
        away.append(TRACES)
        return None
    return traces(of_record, beyond)
