"""The life of a project: which act may follow which, by whom, and what is due until when. Pure.

Two machines that do not mix: being chosen in a call (`selection`) and being authorised (`standing`). No act follows
from time alone; what is taken as given since time has passed is recorded by an officer, with its paper.
"""

from __future__ import annotations

import calendar
import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

import holidays

from contracts.permits import EVERYTHING, Permit, PermitError, check_grantable, widened
from contracts.projects import (
    ACTS,
    FORBIDDEN,
    Application,
    Call,
    Contribution,
    OutputRequest,
    Request,
    Review,
    Role,
)

Family = Literal["fund", "pmsi", "other"]
"""Whose data a source has: the national health insurance fund's (SNIIRAM), hospitals' PMSI, or others'."""

PATHS: Final[Mapping[str, tuple[str, ...]]] = {
    "standard": ("request", "find-complete", "give-opinion", "authorise", "sign", "open"),
    "mr-004": ("request", "find-complete", "declare", "sign", "open"),
    "mr-005": ("request", "find-complete", "give-opinion", "declare", "sign", "open"),
    "mr-006": ("request", "find-complete", "give-opinion", "declare", "sign", "open"),
    "permanent": ("request", "find-complete", "sign", "open"),
}
"""The acts of each path to a permit, in their order.

Loi 78-17, art. 66 and 76 (opinion of the committee, then the authority's decision, or a declaration that the project
conforms to a methodology of reference; MR-005 and MR-006 still ask for the opinion); Code de la santé publique,
art. R1461-12 (bodies with permanent access).
"""

STANDINGS: Final[Mapping[str, str]] = {
    "apply": "draft",
    "request": "requested",
    "find-incomplete": "incomplete",
    "find-complete": "complete",
    "give-opinion": "opinion-given",
    "authorise": "authorised",
    "refuse": "refused",
    "declare": "declared",
    "sign": "signed",
    "open": "open",
    "suspend": "suspended",
    "revoke": "revoked",
    "close": "closed",
    "withdraw": "withdrawn",
}
"""Where an act leaves the authorisation."""

CHANGES: Final = ("narrow", "suspend", "resume")
"""The acts that change an open permit."""
EXPIRED: Final = "expired"
APPLIED, CHOSEN, PASSED_OVER = "applied", "chosen", "passed-over"
_ACTS: Final = {standing: act for act, standing in STANDINGS.items()}
_OPENED: Final = ("open", "suspended")
_OVER: Final = ("refused", "revoked", "closed", "withdrawn")
_PARIS: Final = ZoneInfo("Europe/Paris")

_COMPLETENESS_DAYS = 7
_OPINION_MONTHS = 1
_DECISION_MONTHS = 2


class Refused(Exception):
    """The act cannot be done now, or not by this person. What it is, and what to do."""

    def __init__(self, title: str, detail: str) -> None:
        super().__init__(title)
        self.title = title
        self.detail = detail


class Step(NamedTuple):
    """An act, as it was done. `says` is its document."""

    act: str
    actor: str
    role: Role
    at: dt.datetime
    says: Any


@dataclass(frozen=True, slots=True)
class Terms:
    """What the hub's operator has written down: whose data each source has, and who has permanent access."""

    families: Mapping[str, Family] = field(default_factory=dict)
    bodies: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Door:
    """What is asked once, when an act is asked for, and not again when its step is read: rules change, steps do not."""

    terms: Terms
    permits: Collection[str] = ()
    """The ids of all permits that were granted or closed."""


@dataclass(frozen=True, slots=True)
class Around:
    """What an act depends on besides the project: its call, how many that has chosen, and whether the permit's id is
    somebody else's; at the door also the rules of the day."""

    door: Door | None = None
    call: Call | None = None
    chosen: int = 0
    permit_is_taken: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """What a project would take out of the secure environment; it stays there while nobody has said that it leaves."""

    asked: OutputRequest
    decision: Literal["leaves", "stays"] | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """Where a project stands. `since` is when it came to its standing; `outputs` are by the digests of their files."""

    application: Application
    lead: str
    since: dt.datetime
    selection: str | None = None
    standing: str = "draft"
    reviews: Mapping[str, Review] = field(default_factory=dict)
    request: Request | None = None
    extended: bool = False
    contributions: tuple[Contribution, ...] = ()
    outputs: dict[str, Output] = field(default_factory=dict)

    @property
    def permit(self) -> Permit | None:
        """The permit that was asked for."""
        return self.request.permit if self.request else None

    def is_seen_by(self, name: str, roles: Collection[Role]) -> bool:
        """Officers see all, reviewers what is applied for in calls, and leads their own."""
        of_call, own = "reviewer" in roles and self.selection is not None, "lead" in roles and name == self.lead
        return "officer" in roles or of_call or own


class Due(NamedTuple):
    """What is to be done, or ends, and its last day."""

    what: str
    day: dt.date


def evolve(project: Project | None, step: Step) -> Project:
    """The project after an act that was allowed; it begins with `apply`."""
    says = step.says
    if project is None or step.act == "apply":
        return Project(says, step.actor, step.at, None if says.call is None else APPLIED)
    match step.act:
        case "review":
            return replace(project, reviews={**project.reviews, step.actor: says})
        case "choose":
            return replace(project, selection=CHOSEN)
        case "pass-over":
            return replace(project, selection=PASSED_OVER)
        case "extend":
            return replace(project, extended=True)
        case "narrow" if project.request is not None:
            return replace(project, request=project.request.model_copy(update={"permit": says.permit}))
        case "resume":
            return replace(project, standing="open", since=step.at)
        case "ask-output":
            return replace(project, outputs=project.outputs | {says.document.sha256: Output(says)})
        case "check-output":
            checked = replace(project.outputs[says.output], decision=says.decision)
            return replace(project, outputs=project.outputs | {says.output: checked})
    refused = step.act == "give-opinion" and says.verdict == "unfavourable"
    moved = replace(project, standing="refused" if refused else STANDINGS[step.act], since=step.at)
    match step.act:
        case "request":
            return replace(moved, request=says, extended=False)
        case "close":
            return replace(moved, contributions=says.contributions)
    return moved


def check(project: Project | None, step: Step, around: Around) -> None:
    """Whether this person may do this now. Raises Refused."""
    if ACTS[step.act].role != step.role:
        raise Refused("not yours to do", f"`{step.act}` is for: {ACTS[step.act].role}.")
    if project is None:
        if step.act != "apply":
            raise Refused("there is no such project", "A project begins with its application.")
        _may_apply(step, around)
        return
    if step.act == "apply":
        raise Refused("there is such a project already", "id: choose another.")
    if step.role == "lead" and step.actor != project.lead:
        raise Refused("not yours to do", "Only the project's own lead does that.")
    if step.act in ("review", "choose", "pass-over"):
        _is_in_selection(project, step, around)
        return
    if project.standing in _OVER:
        raise Refused(f"the project is {project.standing}", "It stays so: apply with another project.")
    _CHECKS.get(step.act, _is_next)(project, step, around)


def _may_apply(step: Step, around: Around) -> None:
    application: Application = step.says
    wrong = [one for one in application.purposes if one in FORBIDDEN]
    if wrong:
        raise Refused(
            "the purpose is forbidden",
            f"purposes: {', '.join(wrong)}: no project can have it (Code de la santé publique, L1461-1 V).",
        )
    if application.call is None:
        return
    call = around.call
    if call is None:
        raise Refused("there is no such call", "call: take the id of a call that is announced, or leave it out.")
    if not call.opens <= day_of(step.at) <= call.closes:
        raise Refused("the call is not open", f"Applications are taken from {call.opens} to {call.closes}.")
    if application.theme not in call.themes:
        raise Refused("the theme is not of this call", f"theme: the themes are {', '.join(call.themes)}.")


def _is_in_selection(project: Project, step: Step, around: Around) -> None:
    call = around.call
    if call is None or project.selection is None:
        raise Refused("the project is of no call", "It needs no selection: request its permit.")
    if project.selection != APPLIED:
        raise Refused(f"the project is {project.selection}", "The selection is over for it.")
    if project.standing == "withdrawn":
        raise Refused("the project is withdrawn", "There is nothing left to judge.")
    if step.act == "review":
        if step.actor == project.lead:
            raise Refused("nobody reviews their own project", "Another reviewer has to.")
        if step.says.scores.keys() != call.criteria.keys():
            names = ", ".join(call.criteria)
            raise Refused("the scores are not those of the call", f"scores: give one for each of {names}.")
    if step.act == "choose":
        if len(project.reviews) < call.reviewers:
            have = f"It has {len(project.reviews)} of {call.reviewers}."
            raise Refused("the application needs more reviews", have)
        if around.chosen >= call.places:
            raise Refused("the call has no place left", f"All {call.places} places are given.")


def _is_next(project: Project, step: Step, around: Around) -> None:
    following = next_act(project)
    if step.act != following:
        what = f"What comes next is `{following}`." if following else "Nothing is to be done now."
        raise Refused(f"the project is {project.standing}", what)
    if step.act in ("give-opinion", "authorise") and step.says.tacit:
        last = due(project)
        if last is not None and day_of(step.at) <= last.day:
            raise Refused("the time for an answer is not over", f"tacit: silence counts after {last.day}.")
    if step.act == "open":
        if around.permit_is_taken:
            raise Refused("the permit's id is taken", "Somebody was granted a permit of this id meanwhile.")
        if project.permit and _utc_day(step.at) > project.permit.expires:
            raise Refused("the permit has expired", "It was asked for until then: apply with another project.")


def _may_request(project: Project, step: Step, around: Around) -> None:
    if project.standing not in ("draft", "incomplete"):
        raise Refused(f"the project is {project.standing}", "A request is changed only while it is incomplete.")
    if project.selection not in (None, CHOSEN):
        raise Refused(f"the project is {project.selection}", "It has to be chosen in its call before.")
    request: Request = step.says
    if around.permit_is_taken:
        raise Refused("the permit's id is taken", "permit.id: choose one that no other permit has.")
    if request.permit.expires <= _utc_day(step.at):
        raise Refused("the permit would have expired", "permit.expires: ask for a day to come.")
    if around.door is not None:
        _is_grantable(request.permit)
        _path_is_for(request, project.application, around.door.terms)


def _is_grantable(permit: Permit) -> None:
    try:
        check_grantable(permit)
    except PermitError as wrong:
        raise Refused("the permit cannot be granted as it is written", f"permit.{wrong}") from None


def _path_is_for(request: Request, application: Application, terms: Terms) -> None:
    """A path is open to some sources and some organisations alone."""
    kind, sources = application.organisation.kind, dict.fromkeys(request.permit.all_sources())
    not_pmsi = [one for one in sources if one == EVERYTHING or terms.families.get(one) != "pmsi"]
    # a source of which nobody has said whose it is may be the fund's
    of_the_fund = [one for one in sources if one == EVERYTHING or terms.families.get(one, "fund") == "fund"]
    if request.path == "mr-004" and of_the_fund:
        raise Refused(
            "MR-004 is not for data of the national insurance fund",
            f"permit: {', '.join(of_the_fund)} may have such: take the standard path, or leave them out.",
        )
    if request.path in ("mr-005", "mr-006") and not_pmsi:
        raise Refused(
            f"{request.path.upper()} is for PMSI alone",
            f"permit: {', '.join(not_pmsi)} is not known to be such: take the standard path, or leave it out.",
        )
    if request.path == "mr-005" and kind not in ("health-establishment", "association"):
        raise Refused("MR-005 is for health establishments and their federations", "path: take the standard one.")
    if request.path == "mr-006" and kind != "company":
        raise Refused("MR-006 is for companies", "path: take the standard one.")
    if request.path == "permanent" and application.organisation.name not in terms.bodies:
        raise Refused(
            "the organisation has no permanent access",
            "path: take the standard one; organisation.name has to be as the decree's list has it.",
        )


def _is_checked(project: Project, _step: Step, _around: Around) -> None:
    if project.standing != "requested":
        raise Refused(f"the project is {project.standing}", "Completeness is checked once a permit is requested.")


def _is_awaited(project: Project, step: Step, _around: Around) -> None:
    if next_act(project) != "authorise":
        raise Refused(f"the project is {project.standing}", "No decision of the authority is awaited.")
    if step.act == "extend" and project.extended:
        raise Refused("the time is extended already", "It can be once.")


def _is_open(project: Project, _step: Step, _around: Around) -> None:
    if project.standing != "open":
        raise Refused(f"the project is {project.standing}", "Only an open one is narrowed or suspended.")


def _has_been_opened(project: Project, _step: Step, _around: Around) -> None:
    if project.standing not in _OPENED:
        raise Refused(f"the project is {project.standing}", "Only one that has been opened is revoked or closed.")


def _has_not_been_opened(project: Project, _step: Step, _around: Around) -> None:
    if project.standing in _OPENED:
        raise Refused(f"the project is {project.standing}", "It is closed, with what it contributes.")


def _may_narrow(project: Project, step: Step, around: Around) -> None:
    _is_open(project, step, around)
    if around.door is None or project.permit is None:
        return
    permit: Permit = step.says.permit
    if wider := widened(permit, project.permit):
        detail = f"permit: {', '.join(wider)}: it would allow what the permit does not: apply with another project."
        raise Refused("the permit would be wider", detail)
    _is_grantable(permit)


def _may_resume(project: Project, step: Step, _around: Around) -> None:
    if project.standing != "suspended":
        raise Refused(f"the project is {project.standing}", "Only a suspended one is resumed.")
    if project.permit and _utc_day(step.at) > project.permit.expires:
        raise Refused("the permit has expired", "It is closed, with what it contributes.")


def _has_not_expired(project: Project, step: Step) -> None:
    if project.permit and _utc_day(step.at) > project.permit.expires:
        raise Refused("the permit has expired", "Nothing leaves any more.")


def _may_ask_output(project: Project, step: Step, _around: Around) -> None:
    if project.standing not in _OPENED:
        raise Refused(f"the project is {project.standing}", "Outputs are of projects that have been opened.")
    _has_not_expired(project, step)
    known = project.outputs.get(step.says.document.sha256)
    if known is not None:
        raise Refused(
            "this file was asked for already",
            f"document.sha256: it {known.decision}." if known.decision else "document.sha256: its check is awaited.",
        )


def _may_check_output(project: Project, step: Step, _around: Around) -> None:
    if step.actor == project.lead:
        raise Refused("nobody checks their own output", "Another officer has to.")
    known = project.outputs.get(step.says.output)
    if known is None:
        raise Refused("nobody has asked for this output", "output: take the SHA-256 of one of this project.")
    if known.decision is not None:
        detail = f"output: it {known.decision}; a changed file has another SHA-256, and is asked for anew."
        raise Refused("the output is checked already", detail)
    if step.says.decision == "leaves":
        if project.standing != "open":
            raise Refused(f"the project is {project.standing}", "decision: nothing leaves now; it can stay.")
        _has_not_expired(project, step)


_CHECKS: Final = {
    "request": _may_request,
    "find-incomplete": _is_checked,
    "extend": _is_awaited,
    "refuse": _is_awaited,
    "narrow": _may_narrow,
    "suspend": _is_open,
    "resume": _may_resume,
    "ask-output": _may_ask_output,
    "check-output": _may_check_output,
    "revoke": _has_been_opened,
    "close": _has_been_opened,
    "withdraw": _has_not_been_opened,
}


@dataclass(slots=True)
class Register:
    """All calls and projects by their ids, and the steps of each, in the order in which they were done."""

    calls: dict[str, Call] = field(default_factory=dict)
    projects: dict[str, Project] = field(default_factory=dict)
    steps: dict[str, list[Step]] = field(default_factory=dict)

    def check(self, subject: str, step: Step, door: Door | None = None) -> None:
        """Whether this can be done after what was done before; at the door also whether it may be now. Raises Refused.

        `subject` is `call/<id>` or `project/<id>`.
        """
        kind, _, name = subject.partition("/")
        if kind == "call":
            if step.act != "announce" or step.role != ACTS["announce"].role:
                raise Refused("not yours to do", "A call is announced by an officer.")
            if name in self.calls:
                raise Refused("there is such a call already", "id: choose another.")
            return
        project = self.projects.get(name)
        application = step.says if project is None and step.act == "apply" else project and project.application
        call = self.calls.get(application.call or "") if application else None
        check(project, step, Around(door, call, self._chosen(call), self._permit_is_taken(name, step, door)))

    def add(self, subject: str, step: Step) -> None:
        """Take in what was done."""
        kind, _, name = subject.partition("/")
        if kind == "call":
            self.calls[name] = step.says
        else:
            self.projects[name] = evolve(self.projects.get(name), step)
        self.steps.setdefault(subject, []).append(step)

    def holder(self, permit: str) -> str | None:
        """The project that has a permit's id, from its request on; one that ends before it is open gives it back."""
        for name, one in self.projects.items():
            if one.permit is not None and one.permit.id == permit and one.standing not in ("refused", "withdrawn"):
                return name
        return None

    def _chosen(self, call: Call | None) -> int:
        """How many places of a call are given; who withdraws gives it back."""
        if call is None:
            return 0
        of_call = (one for one in self.projects.values() if one.application.call == call.id)
        return sum(one.selection == CHOSEN and one.standing != "withdrawn" for one in of_call)

    def _permit_is_taken(self, name: str, step: Step, door: Door | None) -> bool:
        permit: Permit | None = None
        if step.act == "request":
            permit = step.says.permit
        elif step.act == "open" and name in self.projects:
            permit = self.projects[name].permit
        if permit is None:
            return False
        return self.holder(permit.id) not in (None, name) or (door is not None and permit.id in door.permits)


def granted_at(step: Step) -> str:
    """When the permit was granted that a step opens."""
    return step.at.isoformat(timespec="seconds")


def next_act(project: Project) -> str | None:
    """The act that leads on towards the permit, if the project is on its way."""
    if project.request is None or project.standing == "incomplete":
        return "request" if project.standing in ("draft", "incomplete") else None
    path = PATHS[project.request.path]
    done = _ACTS[project.standing]
    following = path.index(done) + 1 if done in path else len(path)
    return path[following] if following < len(path) else None


def standing_on(project: Project, now: dt.datetime) -> str:
    """Where the project stands on a day: an open permit ends by itself."""
    over = project.standing in _OPENED and project.permit is not None and _utc_day(now) > project.permit.expires
    return EXPIRED if over else project.standing


def due(project: Project) -> Due | None:
    """What is awaited and until when, or when the permit ends.

    Seven working days for the completeness check, one month for the opinion, two for the authority's decision, which
    can take as long again once (loi 78-17, art. 66 V and 76).
    """
    since = day_of(project.since)
    if project.standing == "requested":
        return Due("completeness check", working_days_after(since, _COMPLETENESS_DAYS))
    if project.standing in _OPENED and project.permit is not None:
        return Due("end of the permit", project.permit.expires)
    awaited = next_act(project)
    if awaited == "give-opinion":
        return Due("opinion of the committee", months_after(since, _OPINION_MONTHS))
    if awaited == "authorise":
        return Due("decision of the authority", months_after(since, _DECISION_MONTHS * (2 if project.extended else 1)))
    return None


def score(project: Project, call: Call) -> float | None:
    """The mean of the reviews, from 0 to 5, each criterion by its weight; None before there is one."""
    if not project.reviews:
        return None
    weights = {name: one.weight for name, one in call.criteria.items()}
    total = sum(weights[name] * given for one in project.reviews.values() for name, given in one.scores.items())
    return total / (sum(weights.values()) * len(project.reviews))


def day_of(moment: dt.datetime) -> dt.date:
    """The day in France on which a moment is."""
    return moment.astimezone(_PARIS).date()


def _utc_day(moment: dt.datetime) -> dt.date:
    """The day by which permits expire."""
    return moment.astimezone(dt.UTC).date()


def working_days_after(day: dt.date, count: int) -> dt.date:
    while count:
        day += dt.timedelta(days=1)
        count -= day.weekday() < 5 and day not in _holidays(day.year)
    return day


def months_after(day: dt.date, count: int) -> dt.date:
    """The same day of a later month, or that month's last."""
    years, month = divmod(day.month - 1 + count, 12)
    year, month = day.year + years, month + 1
    return dt.date(year, month, min(day.day, calendar.monthrange(year, month)[1]))


@cache
def _holidays(year: int) -> holidays.HolidayBase:
    return holidays.country_holidays("FR", years=year)
