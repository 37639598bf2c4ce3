"""The page of one record: its way through the hub, by the hub's own id of it."""

from __future__ import annotations

import datetime as dt
import json
import re
import time
from collections.abc import Iterable
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import FastAPI, Query
from starlette.responses import Response

from runtime.telemetry import LINKED_TRACE, OF_RECORD
from services.console.adapters import Hub, Refusal, path_of
from services.console.domain.journey import journey
from services.console.domain.spans import Trace, traces
from services.console.reject_routes import STEPS
from services.console.settings import TRACES, TRACES_SECONDS
from services.console.visits import SignedIn

_EVENT_ID: Final = re.compile(r"[0-9a-f]{32}")
_MOST_TRACES: Final = 5
_MOST_VIEWS: Final = 100
_KEPT: Final = dt.timedelta(days=8)
"""Messages are kept for seven days: a record that is older has been through."""
_SKEW: Final = dt.timedelta(minutes=10)
"""So much may clocks differ."""


def add_record_routes(app: FastAPI) -> None:
    """Add them to the application of the console."""

    @app.get("/records")
    def see_record(visit: SignedIn, event_id: Annotated[str, Query(max_length=100)] = "") -> Response:
        """Where a record is; without an id, where to ask for one."""
        asked = event_id.strip().lower()
        values: dict[str, Any] = {"event_id": asked, "wrong": False, "unknown": False}
        values |= {"stops": [], "away": [], "patient": None, "followed": None}
        if not asked:
            return visit.page("record.html", **values)
        if not _EVENT_ID.fullmatch(asked):
            return visit.page("record.html", 422, **values | {"wrong": True})
        away: list[str] = []
        of_record = [(of, f"/v1/records{path_of(asked)}") for of in ("linkage", "access")]
        of_letters = [(step, f"/v1/dead-letters?event_id={asked}") for step in STEPS]
        linked, stored, *found = visit.told(away, *of_record, *of_letters)
        letters = [(step, one) for step, told in zip(STEPS, found, strict=True) if told for one in told["letters"]]
        patient = linked["patient_id"] if linked else None
        unknown = not (linked or stored or letters or away)
        followed = None
        if visit.desk.follows:
            store = _Store(visit.desk.hub, visit.desk.clock())
            followed = _traces(store, asked, [one["trace"] for _, one in letters], away)
        stops = journey(linked, stored, letters, followed or ())
        status = 404 if unknown and not followed else 200
        shown = {"stops": stops, "away": away, "patient": patient, "followed": followed, "unknown": unknown}
        return visit.page("record.html", status, **values | shown)


class _Store:
    """The trace store, asked for what it has of a record. Nobody's token goes there. All raise Refusal."""

    def __init__(self, hub: Hub, now: dt.datetime) -> None:
        self._hub = hub
        self._span = {"start": round((now - _KEPT).timestamp() * 1e6), "end": round((now + _SKEW).timestamp() * 1e6)}

    def find(self, service: str, most: int, **tags: str) -> list[dict[str, Any]]:
        """The newest traces with a span of this service that says this."""
        query = urlencode({"service": service, "tags": json.dumps(tags), "limit": most} | self._span)
        return self._ask(f"?{query}")

    def get(self, trace: str) -> list[dict[str, Any]]:
        """A trace, if it is there."""
        try:
            return self._ask(path_of(trace))
        except Refusal as refusal:
            if refusal.status != 404:
                raise
            return []

    def _ask(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._hub.ask(TRACES, "GET", f"/api/traces{path}")["data"] or []
        return found


def _traces(store: _Store, event_id: str, letters: Iterable[str], away: list[str]) -> list[Trace] | None:
    """The traces of a record, those that end in these dead letters among them; None where the store does not answer as
    one does, which is noted in `away`. What it cannot tell in time is left out, the views first."""
    deadline = time.monotonic() + TRACES_SECONDS
    try:
        found = {one["traceID"]: one for one in store.find("ingest", _MOST_TRACES, **{OF_RECORD: event_id})}
        # of a record that was not followed there is its end, which says nothing of the record
        for trace in list(dict.fromkeys(letters))[:_MOST_TRACES]:
            if trace and trace not in found and time.monotonic() < deadline:
                found |= {one["traceID"]: one for one in store.get(trace)}
        beyond: dict[str, int] = {}
        for trace in found:
            if time.monotonic() < deadline:
                beyond[trace] = len(store.find("access", _MOST_VIEWS, **{LINKED_TRACE: trace}))
        return traces(found.values(), beyond)
    except (Refusal, LookupError, TypeError, AttributeError):
        away.append(TRACES)
        return None
