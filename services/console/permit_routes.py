"""The pages of permits: the list, a dry run as a picture, and the end of one."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from starlette.responses import Response

from contracts.permits import SMALL_CELL
from runtime.http import ProblemError
from services.console.adapters import Refusal, path_of
from services.console.domain.forms import Unreadable, read
from services.console.visits import Sent, SignedIn, Visit

_PERMITS: Final = "/v1/permits"
_ON_THE_WAY: Final = ("waiting-for-key", "waiting-for-grant", "filling")


def add_permit_routes(app: FastAPI) -> None:
    """Add them to the application of the console."""

    @app.get("/permits")
    def see_permits(visit: SignedIn) -> Response:
        """The permits that access lets them see."""
        permits = visit.ask("GET", _PERMITS)["permits"]
        moving = any(one["state"] in _ON_THE_WAY for one in permits)
        template = "permits_part.html" if visit.is_part else "permits.html"
        return visit.page(template, permits=permits, moving=moving, done=visit.done())

    @app.get("/permits/try")
    def see_dry_run(visit: SignedIn) -> Response:
        """Where to write a permit."""
        return visit.page("try.html", text="", found=None, sentences=[], back="/permits")

    @app.post("/permits/try")
    def try_permit(sent: Sent) -> Response:
        """What a permit would release."""
        return dry_run_of(sent.visit, sent.one("permit"), back="/permits")

    @app.get("/permits/{permit}/close")
    def see_closing(visit: SignedIn, permit: str) -> Response:
        """Before a permit is closed for good."""
        shown = next((one for one in visit.ask("GET", _PERMITS)["permits"] if one["id"] == permit), None)
        if shown is None:
            raise ProblemError(404, "not found", "There is no such permit that you may see.")
        return visit.page("close.html", permit=shown)

    @app.post("/permits/{permit}/close")
    def close(sent: Sent, permit: str) -> Response:
        """Close it."""
        sent.visit.ask("POST", f"{_PERMITS}{path_of(permit)}/close")
        return sent.visit.go("/permits", "close")


def dry_run_of(visit: Visit, text: str, back: str) -> Response:
    """The dry run of a permit that is written as YAML or JSON: a picture, or what to correct."""
    found: Any = None
    sentences: list[str] = []
    try:
        found = visit.ask("POST", f"{_PERMITS}/dry-run", _mapping(text))
    except Unreadable as unreadable:
        sentences = [str(unreadable)]
    except Refusal as refusal:
        if refusal.status != 422:
            raise
        sentences = refusal.detail.split("; ")
    template = "dry_run.html" if visit.is_part else "try.html"
    values = {"text": text, "found": found, "sentences": sentences, "back": back, "small_cell": SMALL_CELL}
    return visit.page(template, 422 if sentences else 200, **values)


def _mapping(text: str) -> Any:
    found = read(text)
    if not isinstance(found, dict):
        raise Unreadable(None)
    return found
