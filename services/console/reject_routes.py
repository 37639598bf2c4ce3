"""The pages of what was rejected: dead letters and refusals by reason and producer, each with its field, and a bounded
replay with what became of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
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
_WAITING: Final = tuple((step, f"{_LETTERS}?limit=1") for step in STEPS)
Name = Annotated[str, Query(max_length=256)]


def add_reject_routes(app: FastAPI) -> None:
    """Add them to the application of the console."""

    @app.get("/rejects")
    def see_rejects(visit: SignedIn) -> Response:
        """What waits at each step, and what ingest refused of each producer."""
        away: list[str] = []
        rounds = _rounds(visit, away)  # before what waits: what came back by now is among it
        *told, sources = visit.told(away, *_WAITING, ("statistics", "/v1/sources"))
        found = _by_step(told, away)
        refused = [one for one in sources["sources"] if one["refused"]] if sources else []
        values: dict[str, Any] = {"refused": refused, "reasons": _by_reason(refused), "rounds": rounds}
        return visit.page("rejects.html", steps=found, away=away, part=False, **values)

    @app.get("/rejects/rounds")
    def see_rounds(visit: SignedIn) -> Response:
        """What became of what they sent round again last; when all of it is known, what waits by then, too."""
        away: list[str] = []
        rounds = _rounds(visit, away)
        settled = not any(one.is_going for one in rounds)
        found = _by_step(visit.told(away, *_WAITING), away) if settled else None
        return visit.page("rounds_part.html", rounds=rounds, steps=found, away=away, part=True)

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

    @property
    def is_going(self) -> bool:
        """Whether something is not known yet."""
        return self.became is None or bool(self.became["unknown"])


def _by_step(told: Iterable[Any], away: list[str]) -> dict[str, Any]:
    """What each step has said; one that has no such desk yet is noted in `away`."""
    found = {step: one for step, one in zip(STEPS, told, strict=True) if one is not None}
    away += [step for step in STEPS if step not in found and step not in away]
    return found


def _rounds(visit: Visit, away: list[str]) -> list[Round]:
    """What they sent; a step that does not answer what became of it is noted in `away`."""
    sent: Mapping[str, Any] = dict(visit.session.rounds) if visit.session else {}
    return [
        Round(
            step,
            one["topic"],
            one["at"],
            one["replayed"],
            _became(visit, step, one["sent_to"], away),
        )
        for step, one in sent.items()
    ]


def _became(visit: Visit, step: str, sent_to: Any, away: list[str]) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = visit.ask("POST", f"{_LETTERS}/became", {"sent_to": sent_to}, of=step)
    except Refusal as refusal:
        if refusal.status == 401:
            raise
        if refusal.status >= 500:
            away.append(step)
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
