"""The pages of requests and oppositions: what is asked until when, what is held and where it went, and the acts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import FastAPI, Path, Query
from starlette.responses import Response

from contracts.requests import ACTS, GROUNDS
from runtime.http import ProblemError
from services.console.acts import Wrong, do
from services.console.adapters import path_of
from services.console.domain.forms import Form, Given
from services.console.visits import Sent, SignedIn, Visit

_REQUESTS: Final = "/v1/requests"
OF_STANDING: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("access", "open"): ("answer", "extend", "refuse"),
    ("erasure", "open"): ("erase", "extend", "refuse"),
    ("erasure", "erased"): ("answer",),
}
"""What is offered, what comes next first; access says whether it can be done."""

RequestId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
ActName = Annotated[str, Path(max_length=50)]
AsSeen = Annotated[str, Query(pattern=r"^([0-9a-f]{32})?$")]


def add_request_routes(app: FastAPI) -> None:
    """Add them to the application of the console."""

    @app.get("/requests")
    def see_requests(visit: SignedIn, every: Annotated[bool, Query(alias="all")] = False) -> Response:
        """What people have asked for, those first that are due first, and how many object."""
        requests = visit.ask("GET", f"{_REQUESTS}?all=true" if every else _REQUESTS)["requests"]
        oppositions = visit.ask("GET", "/v1/oppositions")
        return visit.page("requests.html", requests=requests, every=every, oppositions=oppositions)

    @app.get("/requests/{request}")
    def see_request(visit: SignedIn, request: RequestId) -> Response:
        """A request with its report. The audit log has that it was looked at."""
        told = visit.ask("GET", _REQUESTS + path_of(request))
        acts = OF_STANDING.get((told["kind"], told["standing"]), ())
        return visit.page("request.html", told=told, acts=acts, done=visit.done())

    @app.get("/requests/{request}/{act}")
    def see_act(visit: SignedIn, request: RequestId, act: ActName, as_seen: AsSeen = "") -> Response:
        """The form of an act; `as_seen` is that of the report that was looked at."""
        told = _listed(visit, request)
        return _act_page(visit, told, act, _form(visit, told, act, {"as_seen": [as_seen]}))

    @app.post("/requests/{request}/{act}")
    def do_act(sent: Sent, request: RequestId, act: ActName) -> Response:
        """Do an act, or say why not beside the form."""
        visit = sent.visit
        told = _listed(visit, request)
        form = _form(visit, told, act, sent.given)
        wrong = do(sent, form, _REQUESTS + path_of(request, act))
        if wrong is None:
            return visit.go(path_of("requests", request), act)
        return _act_page(visit, told, act, form, wrong)


def _listed(visit: Visit, request: str) -> Mapping[str, Any]:
    """A request without its report: a form needs none, so nobody is said to have looked."""
    for one in visit.ask("GET", f"{_REQUESTS}?all=true")["requests"]:
        if one["id"] == request:
            found: Mapping[str, Any] = one
            return found
    raise ProblemError(404, "not found", "There is no such request.")


def _form(visit: Visit, told: Mapping[str, Any], act: str, given: Given) -> Form:
    if act not in ACTS:
        raise ProblemError(404, "not found", "There is no such act.")
    grounds = {
        name: f"{visit.words(f'choice.ground.{name}')} (art. {article})"
        for name, article in GROUNDS[told["kind"]].items()
    }
    return Form(ACTS[act], given, {"ground": grounds})


def _act_page(visit: Visit, told: Mapping[str, Any], act: str, form: Form, wrong: Wrong | None = None) -> Response:
    status = 422 if wrong and wrong.sentences else 200
    return visit.page("request_act.html", status, told=told, act=act, form=form, wrong=wrong)
