"""The pages of doubtful links: the queue, a pair side by side, and what a steward says of it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

from fastapi import FastAPI, Path, Query
from starlette.responses import Response

from runtime.http import ProblemError
from services.console.adapters import Refusal, path_of
from services.console.domain.pairs import Pair, Seats, pair
from services.console.visits import Desk, Posted, Sent, SignedIn, Visit
from services.console.wording import PARIS

SAYS: Final = {"l": "together", "s": "apart", "u": "unsure"}
"""What a steward says, by its key; `z` takes the last back."""
KEYS: Final = "estuaire-keys"
"""The cookie of those who want no shortcuts of one letter (WCAG 2.1.4)."""
_OF: Final = "linkage"
_REVIEWS: Final = "/v1/reviews"
_AHEAD: Final = 5
_MOST: Final = 100
"""Linkage gives no more at once."""
_YEAR: Final = 365 * 86_400

Which = Annotated[Literal["all", "second", "mine"], Query()]
PairId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}-[0-9a-f]{32}$")]


def add_review_routes(app: FastAPI) -> None:
    """Add them to the application of the console."""
    desk: Desk = app.state.desk
    seats = Seats(desk.clock)

    @app.get("/reviews")
    def see_queue(visit: SignedIn, which: Which = "all") -> Response:
        """The pairs that wait, and how the work goes."""
        pairs = [pair(one) for one in _listed(visit, which, 20)]
        return visit.page("reviews.html", pairs=pairs, which=which, **_common(visit))

    @app.get("/reviews/next")
    def see_next(visit: SignedIn, which: Which = "all") -> Response:
        """The pair that is to be settled next."""
        return _next(visit, which)

    @app.post("/reviews/keys")
    def choose_keys(sent: Sent) -> Response:
        """With the shortcuts, or without them."""
        answer = sent.visit.go(f"/reviews/next?{urlencode({'which': _which(sent)})}")
        desk.keep(answer, KEYS, "on" if sent.one("keys") == "on" else "off", _YEAR)
        return answer

    @app.post("/reviews/undo")
    def undo(sent: Sent) -> Response:
        """Take back what was said of a pair, and look at it again."""
        visit, one = sent.visit, sent.one("pair")
        try:
            visit.ask("DELETE", _REVIEWS + path_of(one), of=_OF)
        except Refusal as refusal:
            if refusal.status != 404:
                return _not_now(visit, refusal)
            return _next(visit, _which(sent), "said.nothing-to-undo")
        return _shown(visit, visit.ask("GET", _REVIEWS + path_of(one), of=_OF), _which(sent), "said.taken-back")

    @app.get("/reviews/{one}")
    def see_pair(visit: SignedIn, one: PairId, which: Which = "all") -> Response:
        """A pair, whatever was said of it."""
        return _shown(visit, visit.ask("GET", _REVIEWS + path_of(one), of=_OF), which)

    @app.post("/reviews/{one}")
    def say(sent: Sent, one: PairId) -> Response:
        """Say what a pair is; the next pair comes with the answer."""
        visit, which, says = sent.visit, _which(sent), sent.one("says")
        if says not in SAYS.values():
            raise ProblemError(422, "nothing was said", "Press one of the buttons.")
        body = {"decision": says, "as_seen": sent.one("as_seen")}
        try:
            said = visit.ask("POST", _REVIEWS + path_of(one), body, of=_OF)
        except Refusal as refusal:
            if refusal.status == 404:
                return _next(visit, which, "said.gone")
            if refusal.status != 409:
                return _not_now(visit, refusal)
            told = visit.ask("GET", _REVIEWS + path_of(one), of=_OF)
            if told["in_force"] in (None, "as-the-rules-say"):
                return _shown(visit, told, which, "said.changed")
            return _next(visit, which, f"said.decided-{told['in_force']}")
        return _next(visit, which, "said.waits" if said["waits"] else f"said.{says}")

    def _next(visit: Visit, which: str, said: str | None = None) -> Response:
        name = _name(visit)
        pairs = _listed(visit, which, min(_MOST, _AHEAD + seats.others(name)))
        return _shown(visit, seats.take(pairs, name), which, said)

    def _shown(visit: Visit, told: Mapping[str, Any] | None, which: str, said: str | None = None) -> Response:
        if told is not None:
            seats.take([told], _name(visit))
        shown: Pair | None = pair(told) if told else None
        template = "pair_part.html" if visit.is_part else "pair.html"
        return visit.page(template, pair=shown, which=which, said=said, part=visit.is_part, **_common(visit))

    def _not_now(visit: Visit, refusal: Refusal) -> Response:
        """What did not come through leaves the pair where it is."""
        if not visit.is_part:
            raise refusal
        answer = visit.page("problem_part.html", refusal.status, title=refusal.title, detail=refusal.detail)
        answer.headers.update({"HX-Retarget": "#said", "HX-Reswap": "innerHTML"})
        return answer


def _listed(visit: Visit, which: str, most: int) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = visit.ask(
        "GET", f"{_REVIEWS}?{urlencode({'which': which, 'limit': most})}", of=_OF
    )["reviews"]
    return found


def _common(visit: Visit) -> dict[str, Any]:
    """How the work goes, and whether there are shortcuts."""
    since = dt.datetime.combine(visit.today, dt.time(), PARIS).isoformat()
    progress = visit.ask("GET", f"{_REVIEWS}/progress?{urlencode({'since': since})}", of=_OF)
    keys = visit.request.cookies.get(KEYS) != "off"
    return {"progress": progress, "keys": keys, "says": SAYS}


def _which(sent: Posted) -> str:
    said = sent.one("which")
    return said if said in ("second", "mine") else "all"


def _name(visit: Visit) -> str:
    return visit.session.caller.name if visit.session else ""
