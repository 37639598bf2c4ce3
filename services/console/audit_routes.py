"""The pages of the audit log: search, whether it is held fast, an entry with its proof, and the export of a search."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

from fastapi import FastAPI, Path, Query
from starlette.responses import Response

from contracts.audit import ACTS, LONGEST
from runtime.http import ProblemError
from services.console.adapters import Refusal
from services.console.domain.ledger import Entry, as_csv, as_ndjson, checkpoint, entry, proven
from services.console.visits import SignedIn, Visit
from services.console.wording import PARIS

MOST: Final = 50_000
"""Entries of an export: a log of years is for `estuaire audit list`, which reads it in pages."""
_OF: Final = "audit"
_PAGE: Final = 50
_AT_ONCE: Final = 5_000
_DAY: Final = dt.timedelta(days=1)

Start = Annotated[int | None, Query(ge=0, le=2**62)]


def add_audit_routes(app: FastAPI) -> None:
    """Add them to the application of the console."""

    @app.get("/audit")
    def search(visit: SignedIn, start: Start = None) -> Response:
        """The entries that were looked for, the newest first."""
        asked = _asked(visit)
        state = visit.ask("GET", "/v1/state", of=_OF)
        found: Mapping[str, Any] = {"entries": [], "next_start": None}
        wrong = ""
        try:
            filters = _filters(asked)
            page = {"order": "newest", "limit": _PAGE} | ({"start": start} if start is not None else {})
            found = visit.ask("GET", f"/v1/entries?{urlencode(filters | page)}", of=_OF)
        except Refusal as refusal:
            if refusal.status != 422:
                raise
            wrong = refusal.detail
        following = found["next_start"]
        return visit.page(
            "audit_part.html" if visit.is_part else "audit.html",
            422 if wrong else 200,
            entries=[entry(one) for one in found["entries"]],
            asked=asked,
            actions=ACTS,
            wrong=wrong,
            state=state,
            head=checkpoint(state["note"] or ""),
            older=f"/audit?{urlencode(asked | {'start': following})}" if following is not None else None,
            search=urlencode(asked),
            most=MOST,
        )

    @app.get("/audit/export")
    def export(visit: SignedIn, form: Literal["csv", "ndjson"] = "ndjson") -> Response:
        """All that a search finds, the oldest first, as a file."""
        found = _all(visit, _filters(_asked(visit)))
        kind, text = ("text/csv", as_csv(found)) if form == "csv" else ("application/x-ndjson", as_ndjson(found))
        name = f"audit-{visit.today.isoformat()}.{form}"
        return Response(text, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})

    @app.get("/audit/{number}")
    def see_entry(visit: SignedIn, number: Annotated[int, Path(ge=0, le=2**62)]) -> Response:
        """An entry, and the proof that it is in the log that was signed."""
        found = visit.ask("GET", f"/v1/entries?{urlencode({'start': number, 'limit': 1})}", of=_OF)["entries"]
        if not found or found[0]["number"] != number:
            raise ProblemError(404, "not found", "There is no such entry.")
        one = entry(found[0])
        head = checkpoint(visit.ask("GET", "/v1/state", of=_OF)["note"] or "")
        shows = None
        if head is not None and number < head.size:
            asked = urlencode({"number": number, "size": head.size})
            shows = proven(one, head, visit.ask("GET", f"/v1/proofs/inclusion?{asked}", of=_OF)["hashes"])
        return visit.page("audit_entry.html", one=one, head=head, proven=shows)


def _asked(visit: Visit) -> dict[str, str]:
    """What was looked for, as the form has it."""
    query = visit.request.query_params
    return {name: query.get(name, "").strip()[:LONGEST] for name in ("actor", "action", "permit", "from", "to")}


def _filters(asked: Mapping[str, str]) -> dict[str, Any]:
    """The same, as audit takes it: days in France as moments, the last one included. Raises Refusal."""
    days = {"from": _day(asked, "from"), "to": _day(asked, "to")}
    moments = {"from": days["from"], "to": days["to"] and days["to"] + _DAY}
    said = {name: asked[name] for name in ("actor", "action", "permit") if asked[name]}
    return said | {name: _moment(day) for name, day in moments.items() if day is not None}


def _day(asked: Mapping[str, str], name: str) -> dt.date | None:
    try:
        day = dt.date.fromisoformat(asked[name]) if asked[name] else None
        return day if day is None or 1970 <= day.year < 9999 else dt.date.fromisoformat("")
    except ValueError:
        raise Refusal(422, "not a day", f"{name}: write a day such as 2026-03-01.") from None


def _moment(day: dt.date) -> str:
    moment = dt.datetime.combine(day, dt.time(), PARIS).astimezone(dt.UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _all(visit: Visit, filters: Mapping[str, Any]) -> list[Entry]:
    found: list[Entry] = []
    start: int | None = 0
    while start is not None:
        page = visit.ask("GET", f"/v1/entries?{urlencode({**filters, 'start': start, 'limit': _AT_ONCE})}", of=_OF)
        found += map(entry, page["entries"])
        start = page["next_start"]
        if len(found) > MOST:
            detail = f"More than {MOST:,} entries: look for less, or use `estuaire audit list --json`."
            raise ProblemError(422, "too many for one file", detail)
    return found
