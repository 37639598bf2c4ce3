"""The page of one record: its way through the hub, by the hub's own id of it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query
from starlette.responses import Response

from services.console.adapters import path_of
from services.console.domain.journey import journey
from services.console.reject_routes import STEPS
from services.console.visits import SignedIn

_EVENT_ID: Final = re.compile(r"[0-9a-f]{32}")


def add_record_routes(app: FastAPI) -> None:
    """Add them to the application of the console."""

    @app.get("/records")
    def see_record(visit: SignedIn, event_id: Annotated[str, Query(max_length=100)] = "") -> Response:
        """Where a record is; without an id, where to ask for one."""
        asked = event_id.strip().lower()
        values: dict[str, Any] = {"event_id": asked, "stops": [], "away": [], "wrong": False, "patient": None}
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
        return visit.page("record.html", status, **values | {"stops": stops, "away": away, "patient": patient})
