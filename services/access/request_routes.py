"""HTTP of people's requests: what they ask, until when, what is held of them and where it went, and what is done."""

from __future__ import annotations

import datetime as dt
import json
import secrets
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Protocol

from fastapi import Body, Depends, FastAPI, Path, Query
from pydantic import BaseModel, Field

from contracts import audit, messages
from contracts.messages import RequestAct
from contracts.permits import PermitError, read_permit
from contracts.requests import ACTS, document_of
from runtime.http import Documented, Json, ProblemError, not_found, problems
from runtime.kafka import Publisher
from runtime.oidc import GUARDED, Caller
from services.access.acts import in_words, wait_until_done
from services.access.authorization import Doors
from services.access.domain.projects import day_of
from services.access.domain.requests import Request, check
from services.access.lookup import Held, HeldInView
from services.access.requests import REQUEST_ACTS, ActRow, RequestRow, request_of

Clock = Callable[[], dt.datetime]
Tell = Callable[[messages.AuditLeaf], None]

RequestId = Annotated[
    str, Path(pattern=r"^[0-9a-f]{32}$", description="The request's `event_id`, as its sender was told.")
]
ActName = Annotated[str, Path(description="What is done.", json_schema_extra={"enum": list(ACTS)})]
ActBody = Annotated[Json, Documented(*ACTS.values()), Body(title="What is said", description="By the act.")]
All = Annotated[bool, Query(alias="all", description="Those about which nothing is left to do, too.")]

_PATIENCE: Final = 20.0


class Reader(Protocol):
    """What these routes read."""

    def requests(self, only: bytes | None = None) -> list[tuple[RequestRow, list[ActRow]]]: ...
    def oppositions(self) -> list[tuple[str, int]]: ...
    def held(self, request: bytes) -> Held: ...


class ActShown(BaseModel):
    """What was done."""

    act: str
    by: str
    at: str
    says: dict[str, Any]
    records: int = Field(description="How many were erased.")


class RequestShown(BaseModel):
    """A person's request."""

    id: str = Field(description="The hub's id, by which its sender knows it.")
    kind: str
    source: str = Field(description="Who sent it, and knows the person.")
    received: dt.date
    standing: str = Field(
        description="open, erased (the person has still to be told), answered, refused or taken-back."
    )
    due: dt.date = Field(description="The last day: a month after it was received, or three (GDPR, art. 12(3)).")
    overdue: bool
    acts: list[ActShown]


class RequestsShown(BaseModel):
    """Requests, those first that are due first."""

    requests: list[RequestShown]


class Opposed(BaseModel):
    """Oppositions that withhold the same."""

    withholds: str = Field(description="A source, or `*` for everything.")
    oppositions: int


class OppositionsShown(BaseModel):
    """Oppositions in force, counted: whose they are nobody is told."""

    in_force: int
    by_what: list[Opposed]


class RecordsShown(BaseModel):
    """Records of one source and type. Times are those that were stated."""

    source: str
    type: str
    records: int
    first: str | None
    last: str | None


class ViewShown(BaseModel):
    """A permit under which something about the person has left."""

    permit: str
    title: str
    subscribers: list[str]
    environment: str | None
    state: str
    records: int = Field(description="In the view now.")
    messages: int = Field(description="About the person, withdrawals included, since the permit is open.")
    expires: str


class Report(BaseModel):
    """What is held of the person and where it went: of the patient that linkage is certain of, and of nobody else."""

    identities: int = Field(description="In how many ways sources know the person, this request included.")
    records: list[RecordsShown]
    demographics: list[str] = Field(description="What is known of the person besides; not what it is.")
    objects_to: list[str] = Field(description="Sources, or `*` for everything. It outlives an erasure.")
    views: list[ViewShown] = Field(description="Of closed permits the hub knows no longer who was in them.")
    as_seen: str = Field(description="To be said with `erase`: changes with what is held.")


class RequestReported(RequestShown):
    """A request with the report."""

    report: Report


class Desk:
    """Has acts done."""

    def __init__(self, reader: Reader, publisher: Publisher, clock: Clock) -> None:
        self._reader = reader
        self._publisher = publisher
        self._clock = clock

    def find(self, request_id: str) -> tuple[Request, RequestRow]:
        """A request. Raises ProblemError."""
        for row, done in self._reader.requests(bytes.fromhex(request_id)):
            return request_of(row, done), row
        raise not_found()

    def do(self, request_id: str, act: str, officer: str, data: Any) -> None:
        """Have an act done, and wait until it is. Raises ProblemError, BrokerAway."""
        now = self._clock()
        request, row = self.find(request_id)
        says = self._judged(request, act, data, now)
        subjects: tuple[bytes, ...] = ()
        if act == "erase":
            held = self._reader.held(row.event_id)
            if held.as_seen != says.as_seen:
                detail = "Look at the report again, and say its `as_seen`."
                raise ProblemError(409, "something else is held by now", detail)
            subjects = tuple(held.subjects)
        wanted = RequestAct(
            row.event_id,
            secrets.token_hex(16),
            act,
            audit.actor("officer", officer),
            int(now.timestamp() * 1000),
            says.model_dump_json().encode(),
            subjects,
        )
        self._publisher.publish(REQUEST_ACTS, request_id, messages.encode(wanted))
        self._wait_for(wanted, data, now)

    def _judged(self, request: Request, act: str, data: Any, now: dt.datetime) -> Any:
        with in_words():
            says = document_of(act, data)
            check(request, act, says, now)
        return says

    def _wait_for(self, wanted: RequestAct, data: Any, now: dt.datetime) -> None:
        """Until it is done. What others have done meanwhile may have made it impossible."""

        def look() -> bool | None:
            for row, done in self._reader.requests(wanted.request):
                if any(one.id == wanted.id for one in done):
                    return True
                self._judged(request_of(row, done), wanted.act, data, now)
            return None

        wait_until_done(look, _PATIENCE)


def add_request_routes(
    app: FastAPI, reader: Reader, publisher: Publisher, doors: Doors, tell: Tell, clock: Clock
) -> None:
    """Add them to the application of access."""
    desk = Desk(reader, publisher, clock)

    @app.get("/v1/requests", summary="List people's requests", **_LIST)
    def list_requests(every: All = False, _officer: Caller = Depends(doors.may("answer"))) -> RequestsShown:
        """What people have asked for, and until when each has to be told; without those that are done, unless `all`."""
        found = [(row, request_of(row, done)) for row, done in reader.requests()]
        shown = [RequestShown(**_said(row, one, clock())) for row, one in found if every or one.is_open]
        return RequestsShown(requests=sorted(shown, key=lambda one: (one.due, one.id)))

    @app.get("/v1/oppositions", summary="Count the oppositions in force", **_COUNT)
    def count_oppositions(_officer: Caller = Depends(doors.may("answer"))) -> OppositionsShown:
        """How many oppositions are in force, and what they withhold. They are lifted by whoever sent them."""
        found = [Opposed(withholds=what, oppositions=count) for what, count in reader.oppositions()]
        return OppositionsShown(in_force=sum(one.oppositions for one in found), by_what=found)

    @app.get("/v1/requests/{request_id}", summary="See a request, what is held, and where it went", **_SEE)
    def see_request(request_id: RequestId, officer: Caller = Depends(doors.may("answer"))) -> RequestReported:
        """The request with a report of what is held of the person and where it went. The audit log has it first."""
        return _reported(request_id, officer)

    @app.post("/v1/requests/{request_id}/{act}", summary="Answer, refuse, extend or carry out a request", **_ACT)
    def act_on_request(
        request_id: RequestId, act: ActName, body: ActBody, officer: Caller = Depends(doors.may("answer"))
    ) -> RequestReported:
        """Do one act; the answer comes when it is done. `erase` cannot be undone; the person has to be told after it.

        An erasure holds on every path at once: what is in views is withdrawn, and what comes later is not kept.
        """
        if act not in ACTS:
            raise ProblemError(422, "there is no such act", f"The acts are {', '.join(ACTS)}.")
        desk.do(request_id, act, officer.name, body)
        return _reported(request_id, officer)

    def _reported(request_id: str, officer: Caller) -> RequestReported:
        request, row = desk.find(request_id)
        held = reader.held(row.event_id)
        tell(audit.leaf("request-read", audit.actor("officer", officer.name), clock(), ids=[request_id]))
        return RequestReported(**_said(row, request, clock()), report=_report(held))


def _said(row: RequestRow, request: Request, now: dt.datetime) -> dict[str, Any]:
    return {
        "id": row.event_id.hex(),
        "kind": request.kind,
        "source": row.source,
        "received": request.received,
        "standing": request.standing,
        "due": request.due,
        "overdue": request.is_open and request.due < day_of(now),
        "acts": [
            ActShown(
                act=one.act,
                by=one.by,
                at=one.at.isoformat(timespec="seconds"),
                says=json.loads(one.says.model_dump_json()),
                records=one.records,
            )
            for one in request.acts
        ],
    }


def _report(held: Held) -> Report:
    return Report(
        identities=len(held.subjects),
        records=[
            RecordsShown(
                source=one.source, type=one.type, records=one.records, first=_day(one.first), last=_day(one.last)
            )
            for one in held.records
        ],
        demographics=held.demographics,
        objects_to=held.objects_to,
        views=_views(held.views),
        as_seen=held.as_seen,
    )


def _views(rows: Sequence[HeldInView]) -> list[ViewShown]:
    found = []
    for row in rows:
        try:
            permit = read_permit(row.definition) if row.definition is not None else None
        except PermitError:
            permit = None
        found.append(
            ViewShown(
                permit=row.permit,
                title=permit.title if permit else "",
                subscribers=list(permit.subscribers) if permit else [],
                environment=permit.environment if permit else None,
                state=row.state,
                records=row.records,
                messages=row.messages,
                expires=permit.expires.isoformat() if permit else "",
            )
        )
    return found


def _day(moment: dt.datetime | None) -> str | None:
    return None if moment is None else moment.date().isoformat()


_AWAY: Final = "The database or the broker does not answer, or it is not done yet: look again later."
_LIST: Final[dict[str, Any]] = {
    "response_description": "The requests.",
    "responses": problems({**GUARDED, 422: "`all` is neither true nor false.", 503: _AWAY}),
}
_COUNT: Final[dict[str, Any]] = {
    "response_description": "The counts.",
    "responses": problems({**GUARDED, 503: _AWAY}),
}
_SEE: Final[dict[str, Any]] = {
    "response_description": "The request with the report.",
    "responses": problems({**GUARDED, 404: "There is no such request.", 422: "The id is not of its form.", 503: _AWAY}),
}
_ACT: Final[dict[str, Any]] = {
    "response_description": "The request after it.",
    "responses": problems(
        {
            **GUARDED,
            404: "There is no such request.",
            409: "It cannot be done now, or something else is held by now; the problem says what can.",
            422: "It cannot be taken as it is written; there is a sentence for each thing to correct.",
            503: _AWAY,
        }
    ),
}
