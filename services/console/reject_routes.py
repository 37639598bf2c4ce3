"""The pages of what was rejected: dead letters by reason and producer, each with its field, and a bounded replay."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import FastAPI, Query
from starlette.responses import Response

from runtime.http import ProblemError
from services.console.visits import Sent, SignedIn

STEPS: Final = ("pseudonym", "linkage", "access", "audit")
"""The services that have dead letters."""
_LETTERS: Final = "/v1/dead-letters"
Name = Annotated[str, Query(max_length=256)]


def add_reject_routes(app: FastAPI) -> None:
    """Add them to the application of the console."""

    @app.get("/rejects")
    def see_rejects(visit: SignedIn, sent: Annotated[int | None, Query(ge=0)] = None, topic: Name = "") -> Response:
        """What waits at each step, and what ingest refused of each producer."""
        away: list[str] = []
        told = {step: visit.told(f"{_LETTERS}?limit=1", step, away) for step in STEPS}
        away += [step for step, one in told.items() if one is None and step not in away]  # it has no such desk yet
        found = {step: one for step, one in told.items() if one is not None}
        sources = visit.told("/v1/sources", "statistics", away)
        refused = [one for one in sources["sources"] if one["refused"]] if sources else []
        return visit.page("rejects.html", steps=found, away=away, refused=refused, sent=sent, topic=topic)

    @app.get("/rejects/{step}")
    def see_letters(
        visit: SignedIn, step: str, topic: Name = "", reason: Name = "", source: Name | None = None
    ) -> Response:
        """The letters of one reason, the newest first."""
        asked = {"topic": topic, "reason": reason} | ({} if source is None else {"source": source})
        told = visit.ask("GET", f"{_LETTERS}?{urlencode(asked)}", of=_step(step))
        return visit.page("letters.html", step=step, asked=asked, letters=told["letters"], groups=told["groups"])

    @app.post("/rejects/{step}/replay")
    def replay(sent: Sent, step: str) -> Response:
        """Send some of a topic's round again."""
        most = sent.one("most")
        body = {"topic": sent.one("topic"), "most": int(most) if most.isdecimal() and len(most) < 6 else most}
        done = sent.visit.ask("POST", f"{_LETTERS}/replay", body, of=_step(step))
        told = urlencode({"sent": done["replayed"], "topic": done["topic"]})
        return sent.visit.go(f"/rejects?{told}")


def _step(name: str) -> str:
    if name not in STEPS:
        raise ProblemError(404, "not found", "There is no such step.")
    return name
