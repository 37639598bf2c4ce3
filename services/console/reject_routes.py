"""The pages of what was rejected: dead letters and refusals by reason and producer, each with its field, and a bounded
replay with what became of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import urlencode

from fastapi import FastAPI, Query
from starlette.responses import Response

from runtime.http import ProblemError
from services.console.adapters import Refusal
from services.console.visits import Sent, SignedIn, Visit

STEPS: Final = ("pseudonym", "linkage", "access", "audit")
"""The services that have dead letters."""
_LETTERS: Final = "/v1/dead-letters"
Name = Annotated[str, Query(max_length=256)]


def add_reject_routes(app: FastAPI) -> None:
    """Add them to the application of the console."""

    @app.get("/rejects")
    def see_rejects(visit: SignedIn) -> Response:
        """What waits at each step, and what ingest refused of each producer."""
        away: list[str] = []
        questions = [(step, f"{_LETTERS}?limit=1") for step in STEPS]
        *told, sources = visit.told(away, *questions, ("statistics", "/v1/sources"))
        found = {step: one for step, one in zip(STEPS, told, strict=True) if one is not None}
        away += [step for step in STEPS if step not in found and step not in away]  # it has no such desk yet
        refused = [one for one in sources["sources"] if one["refused"]] if sources else []
        reasons, rounds = _by_reason(refused), _rounds(visit, away)
        return visit.page("rejects.html", steps=found, away=away, refused=refused, reasons=reasons, rounds=rounds)

    @app.get("/rejects/rounds")
    def see_rounds(visit: SignedIn) -> Response:
        """What became of what they sent round again last."""
        return visit.page("rounds_part.html", rounds=_rounds(visit))

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
        if sent.visit.session:
            sent.visit.session.rounds[step] = done | {"at": sent.visit.desk.clock().isoformat()}
        return sent.visit.go("/rejects")


class Round(NamedTuple):
    """Letters of a topic that were sent round again: when (ISO, UTC), how many, and what became of them; None where the
    step does not say."""

    step: str
    topic: str
    at: str
    letters: int
    became: Mapping[str, Any] | None


def _rounds(visit: Visit, away: Collection[str] = ()) -> list[Round]:
    """What they sent; of a step that is away it is not asked what became of it."""
    sent: Mapping[str, Any] = dict(visit.session.rounds) if visit.session else {}
    return [
        Round(
            step,
            one["topic"],
            one["at"],
            one["replayed"],
            None if step in away else _became(visit, step, one["sent_to"]),
        )
        for step, one in sent.items()
    ]


def _became(visit: Visit, step: str, sent_to: Any) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = visit.ask("POST", f"{_LETTERS}/became", {"sent_to": sent_to}, of=step)
    except Refusal as refusal:
        if refusal.status == 401:
            raise
        return None
    return found


def _by_reason(sources: Iterable[Mapping[str, Any]]) -> list[tuple[str, int, list[tuple[Mapping[str, Any], int]]]]:
    """The refusals of each reason, the commonest first, by producer."""
    found: defaultdict[str, list[tuple[Mapping[str, Any], int]]] = defaultdict(list)
    for one in sources:
        for reason, count in one["reasons"].items():
            found[reason].append((one, count))
    counted = [(reason, sum(count for _, count in of), of) for reason, of in found.items()]
    return sorted(counted, key=lambda one: (-one[1], one[0]))


def _step(name: str) -> str:
    if name not in STEPS:
        raise ProblemError(404, "not found", "There is no such step.")
    return name
