"""HTTP of calls and projects: an act is judged here, so that who asks hears why not, and is done in the loop."""

from __future__ import annotations

import datetime as dt
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol

from fastapi import Body, Depends, FastAPI, Path
from pydantic import BaseModel, Field

from contracts import messages
from contracts.messages import ProjectStep
from contracts.projects import ACTS, OF_PROJECTS, PROJECT_ID, Application, Call, Role, document_of
from runtime.http import Authorization, Documented, Json, ProblemError, not_found, problems
from runtime.kafka import Publisher
from runtime.oidc import GUARDED
from services.access.acts import in_words, wait_until_done
from services.access.authorization import Doors
from services.access.domain.projects import (
    Door,
    Register,
    Step,
    Terms,
    day_of,
    due,
    next_act,
    score,
    standing_on,
)
from services.access.projects import PROJECTS, StepRow, register_of

ProjectId = Annotated[str, Path(pattern=PROJECT_ID, description="The project's `id`.")]


CallBody = Annotated[Json, Documented(Call), Body(title="Call")]
ApplicationBody = Annotated[Json, Documented(Application), Body(title="Application")]
ActBody = Annotated[
    Json,
    Documented(*dict.fromkeys(ACTS[one].says for one in OF_PROJECTS)),
    Body(title="What is said", description="By the act; nothing (`{}`) for those that say themselves."),
]
Act = Annotated[str, Path(description="What is done.", json_schema_extra={"enum": list(OF_PROJECTS)})]

_ROLES: Final[dict[str, Role]] = {"officer": "officer", "reviewer": "reviewer", "subscriber": "lead"}
_PATIENCE: Final = 10.0


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who has to do with projects, and as what."""

    name: str
    roles: frozenset[Role]

    def for_act(self, act: str) -> Role:
        """As what they do it: as whoever may, if they are that."""
        wanted = ACTS[act].role if act in ACTS else None
        return wanted if wanted in self.roles else min(self.roles)


class Reader(Protocol):
    """What these routes read."""

    def project_steps(self) -> list[StepRow]: ...
    def permit_ids(self) -> set[str]: ...


class DueShown(BaseModel):
    """What is awaited, or ends, and its last day."""

    what: str
    day: dt.date
    overdue: bool


class StepShown(BaseModel):
    """One step."""

    act: str
    actor: str
    at: str
    says: dict[str, Any]


class ProjectSummary(BaseModel):
    """Where a project stands."""

    id: str
    title: str
    organisation: str
    lead: str
    call: str | None
    theme: str | None
    selection: str | None = Field(description="In its call: applied, chosen or passed-over; null if it is of none.")
    reviews: int
    score: float | None = Field(description="The mean of the reviews, from 0 to 5; for officers alone.")
    path: str | None
    standing: str
    next: str | None = Field(description="The act that leads on towards the permit.")
    due: DueShown | None
    permit: str | None


class OutputShown(BaseModel):
    """A file that the project would take out of its secure environment."""

    sha256: str
    title: str
    kind: str
    decision: str | None = Field(description="`leaves` or `stays`; null, and it stays, while it is not checked.")


class ProjectShown(ProjectSummary):
    """A project with the steps of its life. Reviews are shown to officers, and to whoever wrote them."""

    outputs: list[OutputShown]
    steps: list[StepShown]


class Projects(BaseModel):
    """The projects that the caller may see."""

    projects: list[ProjectSummary]


class Calls(BaseModel):
    """All calls for projects."""

    calls: list[Call]


class Secretariat:
    """Has acts done."""

    def __init__(self, reader: Reader, publisher: Publisher, terms: Terms, clock: Callable[[], dt.datetime]) -> None:
        self._reader = reader
        self._publisher = publisher
        self._terms = terms
        self._clock = clock

    def do(self, subject: str, act: str, actor: Actor, data: Any) -> Register:
        """Have an act done, and wait until it is; the register after it. Raises ProblemError, BrokerAway."""
        rows = self._reader.project_steps()
        now = self._clock()
        says = self._judged(register_of(rows), subject, act, actor, data, now)
        role = actor.for_act(act)
        step = ProjectStep(
            subject=subject,
            number=sum(row.subject == subject for row in rows) + 1,
            id=secrets.token_hex(16),
            act=act,
            actor=actor.name,
            role=role,
            at=int(now.timestamp() * 1000),
            details=says.model_dump_json(by_alias=True, exclude_none=True).encode(),
        )
        self._publisher.publish(PROJECTS, f"{subject}#{step.id}", messages.encode(step))
        return self._done(step, Step(act, actor.name, role, now, says))

    def _judged(self, register: Register, subject: str, act: str, actor: Actor, data: Any, now: dt.datetime) -> Any:
        """What the act says, if it can be done now."""
        kind, _, name = subject.partition("/")
        project = register.projects.get(name) if kind == "project" else None
        unseen = project is None or not project.is_seen_by(actor.name, actor.roles)
        if kind == "project" and act != "apply" and unseen:
            raise not_found()
        with in_words():
            says = document_of(act, data)
            step = Step(act, actor.name, actor.for_act(act), now, says)
            register.check(subject, step, Door(self._terms, self._reader.permit_ids()))
        return says

    def _done(self, step: ProjectStep, made: Step) -> Register:
        """The register once the step is in it. What others have done meanwhile may have made it impossible."""

        def look() -> Register | None:
            rows = self._reader.project_steps()
            done = next((row.id for row in rows if (row.subject, row.number) == (step.subject, step.number)), None)
            if done == step.id:
                return register_of(rows)
            if done is not None:
                raise ProblemError(409, "somebody acted at the same moment", "Look at it again, and do what is left.")
            with in_words():
                register_of(rows).check(step.subject, made)
            return None

        return wait_until_done(look, _PATIENCE)


def add_project_routes(
    app: FastAPI,
    reader: Reader,
    publisher: Publisher,
    terms: Terms,
    doors: Doors,
    clock: Callable[[], dt.datetime],
) -> None:
    """Add them to the application of access."""
    secretariat = Secretariat(reader, publisher, terms, clock)
    take_part = doors.may("take-part")

    def door(authorization: Authorization) -> Actor:
        caller = take_part(authorization)
        return Actor(caller.name, frozenset(role for name, role in _ROLES.items() if name in caller.roles))

    @app.post("/v1/calls", summary="Announce a call for projects", status_code=201, **_ANNOUNCE)
    def announce_call(body: CallBody, actor: Actor = Depends(door)) -> Call:
        """Announce a call: an officer says for which themes, by which criteria, until when."""
        name = str(body.get("id", ""))
        return secretariat.do(f"call/{name}", "announce", actor, body).calls[name]

    @app.get("/v1/calls", summary="List calls for projects", **_LIST)
    def list_calls(_actor: Actor = Depends(door)) -> Calls:
        """All calls, as they were announced."""
        return Calls(calls=list(register_of(reader.project_steps()).calls.values()))

    @app.post("/v1/projects", summary="Apply with a project", status_code=201, **_APPLY)
    def apply_with_project(body: ApplicationBody, actor: Actor = Depends(door)) -> ProjectShown:
        """Apply: whoever holds a subscriber's token leads the project that it applies with."""
        name = str(body.get("id", ""))
        return _shown(secretariat.do(f"project/{name}", "apply", actor, body), name, actor, clock())

    @app.get("/v1/projects", summary="List projects", **_LIST)
    def list_projects(actor: Actor = Depends(door)) -> Projects:
        """All for an officer, those of calls for a reviewer, their own for a lead."""
        register = register_of(reader.project_steps())
        seen = (name for name, one in register.projects.items() if one.is_seen_by(actor.name, actor.roles))
        return Projects(projects=[ProjectSummary(**_said(register, name, actor, clock())) for name in seen])

    @app.get("/v1/projects/{project_id}", summary="See a project with all its steps", **_SEE)
    def see_project(project_id: ProjectId, actor: Actor = Depends(door)) -> ProjectShown:
        """Where it stands, what is due, and how it came there."""
        register = register_of(reader.project_steps())
        project = register.projects.get(project_id)
        if project is None or not project.is_seen_by(actor.name, actor.roles):
            raise not_found()
        return _shown(register, project_id, actor, clock())

    @app.post("/v1/projects/{project_id}/{act}", summary="Take a project one step on", **_ACT)
    def act_on_project(project_id: ProjectId, act: Act, body: ActBody, actor: Actor = Depends(door)) -> ProjectShown:
        """Do one act; the answer comes when it is done. `open` grants the permit, `revoke` and `close` close it."""
        if act not in OF_PROJECTS:
            raise ProblemError(422, "there is no such act", f"The acts are {', '.join(OF_PROJECTS)}.")
        return _shown(secretariat.do(f"project/{project_id}", act, actor, body), project_id, actor, clock())


def _shown(register: Register, name: str, actor: Actor, now: dt.datetime) -> ProjectShown:
    steps = [
        StepShown(
            act=one.act,
            actor=one.actor,
            at=one.at.isoformat(timespec="seconds"),
            says=json.loads(one.says.model_dump_json(by_alias=True, exclude_none=True)),
        )
        for one in register.steps[f"project/{name}"]
        if one.act != "review" or "officer" in actor.roles or ("reviewer" in actor.roles and one.actor == actor.name)
    ]
    outputs = [
        OutputShown(sha256=sha256, title=one.asked.document.title, kind=one.asked.kind, decision=one.decision)
        for sha256, one in register.projects[name].outputs.items()
    ]
    return ProjectShown(**_said(register, name, actor, now), outputs=outputs, steps=steps)


def _said(register: Register, name: str, actor: Actor, now: dt.datetime) -> dict[str, Any]:
    project = register.projects[name]
    application = project.application
    call = register.calls.get(application.call or "")
    last = due(project)
    return {
        "id": name,
        "title": application.title,
        "organisation": application.organisation.name,
        "lead": project.lead,
        "call": application.call,
        "theme": application.theme,
        "selection": project.selection,
        "reviews": len(project.reviews),
        "score": score(project, call) if call is not None and "officer" in actor.roles else None,
        "path": project.request.path if project.request else None,
        "standing": standing_on(project, now),
        "next": next_act(project),
        "due": last and DueShown(what=last.what, day=last.day, overdue=last.day < day_of(now)),
        "permit": project.permit.id if project.permit else None,
    }


_AWAY: Final = "The database or the broker does not answer, or it is not done yet: look again later."
_WRITTEN: Final = "It cannot be taken as it is written; there is a sentence for each thing to correct."
_ANNOUNCE: Final[dict[str, Any]] = {
    "response_description": "The call is announced.",
    "responses": problems(
        {
            **GUARDED,
            409: "There is such a call, or it is not yours to do.",
            422: _WRITTEN,
            503: _AWAY,
        }
    ),
}
_APPLY: Final[dict[str, Any]] = {
    "response_description": "The application is taken.",
    "responses": problems(
        {
            **GUARDED,
            409: "The purpose is forbidden, the call is not open, or the id is taken.",
            422: _WRITTEN,
            503: _AWAY,
        }
    ),
}
_LIST: Final[dict[str, Any]] = {
    "response_description": "Those that you may see.",
    "responses": problems({**GUARDED, 503: _AWAY}),
}
_SEE: Final[dict[str, Any]] = {
    "response_description": "The project.",
    "responses": problems(
        {
            **GUARDED,
            404: "There is none that you may see.",
            422: "The id is not of its form.",
            503: _AWAY,
        }
    ),
}
_ACT: Final[dict[str, Any]] = {
    "response_description": "The project after it.",
    "responses": problems(
        {
            **GUARDED,
            404: "There is none that you may see.",
            409: "It cannot be done now, or not by you; the problem says what can.",
            422: _WRITTEN,
            503: _AWAY,
        }
    ),
}
