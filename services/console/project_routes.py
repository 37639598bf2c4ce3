"""The pages of calls and projects: the board, a project's life, and a form for every act of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import FastAPI, Query
from starlette.responses import Response

from contracts.projects import ACTS, OF_PROJECTS
from runtime.http import ProblemError
from services.console.acts import Wrong, do
from services.console.adapters import path_of
from services.console.domain.board import acts_of, board, card
from services.console.domain.forms import Form, Given, as_yaml
from services.console.permit_routes import dry_run_of
from services.console.visits import Posted, Sent, SignedIn, Visit

_PROJECTS: Final = "/v1/projects"

Chosen = Annotated[str, Query(max_length=50, description="The call to apply in.")]


def add_project_routes(app: FastAPI) -> None:
    """Add them to the application of the console."""

    @app.get("/projects")
    def see_board(visit: SignedIn) -> Response:
        """All projects that access lets them see."""
        projects = visit.ask("GET", _PROJECTS)["projects"]
        calls = _calls(visit)
        columns = board(projects, calls, visit.today)
        template = "board_part.html" if visit.is_part else "board.html"
        return visit.page(template, columns=columns, calls=_titles(calls))

    @app.get("/projects/{project}")
    def see_project(visit: SignedIn, project: str) -> Response:
        """A project, its life, and what can be done with it."""
        told = visit.ask("GET", _PROJECTS + path_of(project))
        calls = _calls(visit)
        shown = card(told, calls, visit.today)
        return visit.page(
            "project.html",
            card=shown,
            call=(call := calls.get(told["call"] or "")),
            titles={name: one["title"] for name, one in call["criteria"].items()} if call else {},
            known={"call": _titles(calls), "theme": call["themes"] if call else {}},
            acts=acts_of(visit.roles, shown.act),
            permit=_permit(told),
            done=visit.done(),
        )

    @app.get("/projects/{project}/acts/{act}")
    def see_act(visit: SignedIn, project: str, act: str) -> Response:
        """The form of an act."""
        told = visit.ask("GET", _PROJECTS + path_of(project))
        form = _form(visit, _of_projects(act), told, _begun(told))
        return _act_page(visit, act, form, told=told)

    @app.post("/projects/{project}/acts/{act}")
    def do_act(sent: Sent, project: str, act: str) -> Response:
        """Do an act, or say why not beside the form."""
        visit = sent.visit
        told = visit.ask("GET", _PROJECTS + path_of(project))
        form = _form(visit, _of_projects(act), told, sent.given)
        wrong = do(sent, form, f"{_PROJECTS}{path_of(project, act)}")
        if wrong is None:
            return visit.go(path_of("projects", project), act)
        return _act_page(visit, act, form, wrong, told=told)

    @app.post("/projects/{project}/dry-run")
    def try_project(sent: Sent, project: str) -> Response:
        """What the permit that a project asks for would release."""
        told = sent.visit.ask("GET", _PROJECTS + path_of(project))
        return dry_run_of(sent.visit, as_yaml(_permit(told) or {}), back=path_of("projects", project))

    @app.get("/calls")
    def see_calls(visit: SignedIn) -> Response:
        """All calls."""
        calls = sorted(_calls(visit).values(), key=lambda one: str(one["closes"]), reverse=True)
        return visit.page("calls.html", calls=calls, today=visit.today.isoformat(), done=visit.done())

    @app.get("/calls/announce")
    def see_call_form(visit: SignedIn) -> Response:
        """The form of a call."""
        return _act_page(visit, "announce", _form(visit, "announce"))

    @app.post("/calls/announce")
    def announce(sent: Sent) -> Response:
        """Announce a call."""
        form = _form(sent.visit, "announce", given=sent.given)
        wrong = do(sent, form, "/v1/calls")
        return sent.visit.go("/calls", "announce") if wrong is None else _act_page(sent.visit, "announce", form, wrong)

    @app.get("/apply")
    def see_application_form(visit: SignedIn, call: Chosen = "") -> Response:
        """The form of an application, in a call or in none."""
        return _application_page(visit, call, None)

    @app.post("/apply")
    def apply(sent: Sent, call: Chosen = "") -> Response:
        """Apply with a project."""
        return _application_page(sent.visit, call, sent)


def _application_page(visit: Visit, call: str, sent: Posted | None) -> Response:
    calls = _calls(visit)
    chosen = calls.get(call)
    known = {
        "call": {chosen["id"]: chosen["title"]} if chosen else {},
        "theme": chosen["themes"] if chosen else {},
    }
    given = sent.given if sent else ({"call": [call]} if chosen else {})
    form = Form(ACTS["apply"].says, given, known)
    wrong = None
    if sent is not None:
        wrong = do(sent, form, _PROJECTS)
        if wrong is None:
            return visit.go(path_of("projects", str(form.says().get("id", ""))), "apply")
    today = visit.today.isoformat()
    open_calls = [one for one in calls.values() if one["opens"] <= today <= one["closes"]]
    return _act_page(visit, "apply", form, wrong, calls=open_calls, chosen=chosen)


def _act_page(visit: Visit, act: str, form: Form, wrong: Wrong | None = None, **more: Any) -> Response:
    """The page of an act: of a project (`told`), or one that begins a call or a project (`calls`, `chosen`)."""
    values = {"act": act, "form": form, "wrong": wrong, "told": None, "calls": None, "chosen": None} | more
    return visit.page("act.html", 422 if wrong and wrong.sentences else 200, **values)


def _form(visit: Visit, act: str, told: Mapping[str, Any] | None = None, given: Given | None = None) -> Form:
    """The form of an act. A review scores what the call says; a check is of an output that awaits it."""
    known: dict[str, dict[str, str]] = {}
    if told is not None and told["outputs"]:
        known["output"] = {one["sha256"]: one["title"] for one in told["outputs"] if not one["decision"]}
    if told is not None and told["call"]:
        criteria = _calls(visit).get(told["call"], {}).get("criteria", {})
        known["scores"] = {name: one["title"] for name, one in criteria.items()}
    return Form(ACTS[act].says, given, known)


def _begun(told: Mapping[str, Any]) -> Given:
    """What a form has in it at first: a permit that is asked for anew, or changed, begins as it is."""
    permit = _permit(told)
    return {"permit": [as_yaml(permit)]} if permit else {}


def _permit(told: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The permit that was asked for last."""
    said = [one["says"]["permit"] for one in told["steps"] if "permit" in one["says"]]
    return said[-1] if said else None


def _calls(visit: Visit) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in visit.ask("GET", "/v1/calls")["calls"]}


def _titles(calls: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    return {name: str(one["title"]) for name, one in calls.items()}


def _of_projects(act: str) -> str:
    if act not in OF_PROJECTS:
        raise ProblemError(404, "not found", "There is no such act.")
    return act
