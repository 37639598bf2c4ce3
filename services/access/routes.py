"""HTTP of access: permits for officers, timelines for subscribers, tracing for operators."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import Annotated, Any, Final

import msgspec
import psycopg
from fastapi import Body, Depends, FastAPI, Header, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from contracts import audit, messages
from contracts.events import ViewEvent
from contracts.messages import PermitClosed, PermitGranted
from contracts.permits import (
    Permit,
    PermitError,
    check_grantable,
    permit_from,
    potential_identifiers,
    read_permit,
    widened,
)
from contracts.table import write_parquet
from runtime.http import (
    Documented,
    Json,
    ProblemError,
    Readiness,
    create_app,
    not_found,
    problem_response,
    problems,
    reference,
)
from runtime.kafka import BrokerAway, Publisher
from runtime.oidc import GUARDED, Caller
from services.access.adapters import CLOSED, FILLING, OPEN, SUSPENDED, StoredPermit
from services.access.authorization import Doors
from services.access.domain import views
from services.access.domain.dry_run import Released
from services.access.domain.projects import Terms
from services.access.dry_run import dry_run
from services.access.indicators import PermitId, add_indicator_routes
from services.access.lookup import PermitRow, Reader
from services.access.pages import EntryRow, Pages, ViewSubject
from services.access.project_routes import add_project_routes
from services.access.projects import PERMITS, register_of
from services.access.quotas import Quotas
from services.access.reconciliation import Release, open_body, release_from
from services.access.request_routes import add_request_routes
from services.access.vault import KeyBroken, Vault

Clock = Callable[[], dt.datetime]
EventId = Annotated[
    str, Path(pattern=r"^[0-9a-f]{32}$", description="The hub's own id of the record: `event_id` of the receipt.")
]
Cursor = Annotated[
    str | None, Query(max_length=100, description="`X-Next-Cursor` of the page before; absent for the first page.")
]
People = Annotated[int, Query(ge=1, le=1_000_000, description="How many people to look at, at most.")]
Limit = Annotated[
    int, Query(ge=1, le=10_000, description="Entries of a page; its last subject may bring it somewhat over.")
]


PermitBody = Annotated[Json, Documented(Permit), Body(title="Permit")]


class DryRunShown(BaseModel):
    """What a permit would release."""

    whole: bool = Field(description="Whether all people were looked at, or a sample alone.")
    potential_identifiers: list[str] = Field(description="Data by which somebody could be found that would leave.")
    released: Released


class PermitState(BaseModel):
    """Where a permit stands."""

    id: str
    state: str = Field(description="`granted` when it was new, otherwise the state it has.")


class PermitShown(BaseModel):
    """A permit and the size of its view."""

    id: str
    title: str
    state: str
    records: int
    patients: int
    shards_to_fill: int = Field(description="Parts of the history that are still to be looked through.")
    expires: str = Field(description="The last day on which anything leaves; empty if the permit cannot be read.")


class Permits(BaseModel):
    """The permits that the caller may see."""

    permits: list[PermitShown]


class TracedRecord(BaseModel):
    """Where a record is."""

    stored_at: str
    type: str
    revision: str
    retracted: bool
    patient: str
    link_version: int
    withheld: list[str] = Field(
        description="What an opposition of the person, or of somebody who may be, withholds: sources, or `*` for all."
    )
    views: dict[str, dt.datetime | None] = Field(
        description="By permit: since when its view holds the record; null where that was not kept. Under which id the"
        " view alone says: whoever had a record's ids side by side could join views."
    )


class ViewCounts(BaseModel):
    """How much is stored, and how much of it each view holds."""

    records: int
    patients: int
    views: dict[str, int] = Field(description="By permit: the entries of its view.")


NDJSON: Final = "application/x-ndjson"
PARQUET: Final = "application/vnd.apache.parquet"
_AT_ONCE = 100


def grant(permit: Permit, by: str, reader: Reader, publisher: Publisher, clock: Clock) -> str:
    """Publish a grant, unless it is known; returns its state. `by` is who grants, as the audit log names them.

    Raises PermitError, ProblemError, BrokerAway.
    """
    known = reader.permit(permit.id)
    if known is None:
        check_grantable(permit)
        if register_of(reader.project_steps()).holder(permit.id) is not None:
            raise ProblemError(409, "the permit is a project's", "Open the project: that grants it.")
    if known is not None and known.state == CLOSED:
        raise ProblemError(409, "the permit was closed", "A closed permit stays closed: grant it under another id.")
    if known is not None and known.state == SUSPENDED:
        raise ProblemError(409, "the permit is suspended", "Resume it.")
    if known is not None and known.definition not in (None, permit.definition()):
        detail = "A permit of this id has another definition: close it, and grant the new one under another id."
        raise ProblemError(409, "the permit is granted with another definition", detail)
    if known is None or known.state != OPEN:
        at = (known and known.granted) or clock().isoformat(timespec="seconds")
        granted = PermitGranted(permit.id, permit.definition(), at, by)
        publisher.publish(PERMITS, permit.id, messages.encode(granted))
    return "granted" if known is None else known.state


def application(
    ready: Readiness,
    reader: Reader,
    pages: Pages,
    publisher: Publisher,
    vault: Vault,
    doors: Doors,
    clock: Clock = lambda: dt.datetime.now(dt.UTC),
    terms: Terms = Terms(),
    quota: int = 1_000_000,
) -> FastAPI:
    """The application of this service."""
    quotas = Quotas(quota, time.monotonic)
    app = create_app("Estuaire access", "Permits, and the views that follow from them.", ready, ViewEvent)

    @app.exception_handler(psycopg.Error)
    async def database_away(_request: Request, _error: Exception) -> Response:
        return problem_response(503, "the database does not answer", "Try again later.", {"Retry-After": "5"})

    @app.exception_handler(BrokerAway)
    async def broker_away(_request: Request, _error: Exception) -> Response:
        detail = "The broker has not acknowledged it: send it again later."
        return problem_response(503, "the broker does not answer", detail, {"Retry-After": "5"})

    def tell(leaf: messages.AuditLeaf) -> None:
        """Have the audit log keep it. Raises BrokerAway, and then nothing may be answered."""
        publisher.publish(audit.AUDIT, leaf.actor, messages.encode(leaf))

    def readable(permit_id: str, subscriber: Caller) -> Release:
        return _readable(reader.permit(permit_id), subscriber, doors, vault, clock())

    @app.post("/v1/permits/{permit_id}/grant", summary="Grant a permit", **_GRANT)
    def grant_permit(
        permit_id: PermitId, body: PermitBody, officer: Caller = Depends(doors.may("grant"))
    ) -> PermitState:
        """Grant a permit; the answer comes when the broker has it. Granting the same again changes nothing."""
        try:
            permit = permit_from(body)
            if permit.id != permit_id:
                raise ProblemError(422, "the permit is another one", "Its `id` is not the one in the address.")
            return PermitState(
                id=permit.id, state=grant(permit, audit.actor("officer", officer.name), reader, publisher, clock)
            )
        except PermitError as wrong:
            raise _not_grantable(wrong) from None

    @app.post("/v1/permits/{permit_id}/narrow", summary="Let a permit allow less", **_CHANGE)
    def narrow_permit(
        permit_id: PermitId, body: PermitBody, officer: Caller = Depends(doors.may("change"))
    ) -> PermitState:
        """Replace an open permit by one that allows less, whole: its view is emptied at once, and filled anew."""
        try:
            permit = permit_from(body)
            stored = changeable(permit_id, OPEN, FILLING)
            if permit.definition() != stored.definition:
                check_grantable(permit)
                if wider := widened(permit, read_permit(stored.definition or b"")):
                    detail = f"{', '.join(wider)}: it would allow what the permit does not: grant another permit."
                    raise ProblemError(422, "the permit would be wider", detail)
        except PermitError as wrong:
            raise _not_grantable(wrong) from None
        return change(stored, permit.definition(), officer, suspended=False)

    @app.post("/v1/permits/{permit_id}/suspend", summary="Suspend a permit", **_CHANGE)
    def suspend_permit(permit_id: PermitId, officer: Caller = Depends(doors.may("change"))) -> PermitState:
        """Let nothing leave under a permit until it is resumed: its view is emptied at once."""
        stored = changeable(permit_id, OPEN, FILLING, SUSPENDED)
        return change(stored, stored.definition or b"", officer, suspended=True)

    @app.post("/v1/permits/{permit_id}/resume", summary="Resume a suspended permit", **_CHANGE)
    def resume_permit(permit_id: PermitId, officer: Caller = Depends(doors.may("change"))) -> PermitState:
        """Let a suspended permit be in force again: its view is filled anew, under the same ids."""
        stored = changeable(permit_id, SUSPENDED, OPEN, FILLING)
        return change(stored, stored.definition or b"", officer, suspended=False)

    def changeable(permit_id: str, *states: str) -> StoredPermit:
        """A permit that is nobody's project, in one of these states. Raises a problem."""
        stored = reader.permit(permit_id)
        if stored is None:
            raise ProblemError(404, f"there is no permit {permit_id}", "Look for its id in the list.")
        if (project := register_of(reader.project_steps()).holder(permit_id)) is not None:
            raise ProblemError(409, "the permit is a project's", f"Change the project {project}: that changes it.")
        if stored.state not in states:
            raise ProblemError(409, f"the permit is {stored.state}", f"It has to be {' or '.join(states)} for that.")
        return stored

    def change(stored: StoredPermit, definition: bytes, officer: Caller, *, suspended: bool) -> PermitState:
        by = audit.actor("officer", officer.name)
        state = SUSPENDED if suspended else FILLING
        if definition == stored.definition and (stored.state == SUSPENDED) == suspended:
            return PermitState(id=stored.permit, state=stored.state)
        revision = stored.revision + 1
        changed = PermitGranted(stored.permit, definition, stored.granted or "", by, revision, suspended)
        publisher.publish(PERMITS, stored.permit, messages.encode(changed))
        return PermitState(id=stored.permit, state=state)

    @app.post("/v1/permits/{permit_id}/close", summary="Close a permit for good", **_CLOSE)
    def close_permit(permit_id: PermitId, officer: Caller = Depends(doors.may("close"))) -> PermitState:
        """Close a permit for good: nothing more leaves under it, and its key is destroyed."""
        if reader.permit(permit_id) is None:
            raise ProblemError(404, f"there is no permit {permit_id}", "Look for its id in the list.")
        if (project := register_of(reader.project_steps()).holder(permit_id)) is not None:
            raise ProblemError(
                409, "the permit is a project's", f"Revoke or close the project {project}: that closes it."
            )
        closed = PermitClosed(permit_id, f"closed by {officer.name}", audit.actor("officer", officer.name))
        publisher.publish(PERMITS, permit_id, messages.encode(closed))
        return PermitState(id=permit_id, state=CLOSED)

    @app.post("/v1/permits/dry-run", summary="See what a permit would release", **_DRY_RUN)
    def try_permit(
        body: PermitBody, people: People = 20_000, officer: Caller = Depends(doors.may("try"))
    ) -> DryRunShown:
        """Count what the permit would release, without granting it: nothing leaves, and nothing is kept of it."""
        try:
            permit = permit_from(body)
        except PermitError as wrong:
            raise _not_grantable(wrong) from None
        released, whole = dry_run(permit, reader, vault, people, clock())
        by = audit.actor("officer", officer.name)
        tell(audit.leaf("permit-tried", by, clock(), permit=permit.id, count=released.looked_at))
        return DryRunShown(whole=whole, potential_identifiers=potential_identifiers(permit), released=released)

    @app.get("/v1/permits", summary="List permits", **_LIST)
    def list_permits(caller: Caller = Depends(doors.may("list"))) -> Permits:
        """All permits for an officer, one's own for a subscriber, with their state and the size of their views."""
        shown = (_shown(row, caller, doors, clock()) for row in reader.permits())
        return Permits(permits=[one for one in shown if one is not None])

    @app.get("/v1/permits/{permit_id}/timelines", summary="Read timelines", **_TIMELINES)
    def timelines(
        permit_id: PermitId,
        cursor: Cursor = None,
        limit: Limit = 1000,
        accept: Annotated[str, Header(description=f"`{PARQUET}` for a file; NDJSON otherwise.")] = NDJSON,
        subscriber: Caller = Depends(doors.is_subscriber),
    ) -> Response:
        """The view as NDJSON, subject by subject, each by time; as a Parquet file where `Accept` asks for one.

        The audit log has who read how much, and the root of the page's ids, before the page is answered.

        A page ends with a whole subject; `X-Next-Cursor` and `Link` lead to the next, and are absent from the last. A
        cursor is good for as long as the permit is, whatever happens to this server.
        """
        release = readable(permit_id, subscriber)
        quotas.check(subscriber.name)
        subjects, more = pages.subjects(release, _position(cursor), limit)
        quotas.add(subscriber.name, sum(one.entries for one in subjects))
        headers = {"Cache-Control": "no-store", "Vary": "Accept"}
        if more:
            following = _cursor(subjects[-1].subject)
            address = f"/v1/permits/{permit_id}/timelines?cursor={following}&limit={limit}"
            headers |= {"X-Next-Cursor": following, "Link": f'<{address}>; rel="next"'}
        events = list(_page(release, subjects, reader, pages, vault, clock))
        by, ids = audit.actor("subscriber", subscriber.name), [one.id for one in events]
        tell(audit.leaf("view-read", by, clock(), permit=permit_id, ids=ids))
        lines = b"".join(views.encode(one) + b"\n" for one in events)
        body, kind = (_file(lines), PARQUET) if PARQUET in accept else (lines, NDJSON)
        _check_open(release, reader, clock)
        return Response(body, media_type=kind, headers=headers)

    @app.get("/v1/records/{event_id}", summary="Trace a record to the views that hold it", **_TRACE)
    def trace_record(event_id: EventId, operator: Caller = Depends(doors.may("trace"))) -> TracedRecord:
        """Where a record is: when it was stored, its revision, its patient, and since when which views hold it."""
        row = reader.record(bytes.fromhex(event_id))
        if row is None:
            raise not_found()
        tell(
            audit.leaf(
                "record-traced", audit.actor("operator", operator.name), clock(), ids=(event_id,), about="access"
            )
        )
        return TracedRecord(
            stored_at=row.stored_at.isoformat(),
            type=row.type,
            revision=row.revision,
            retracted=row.retracted,
            patient=row.patient,
            link_version=row.link_version,
            withheld=sorted(reader.opposed([row.patient]).get(row.patient, ())),
            views=row.views,
        )

    @app.get("/v1/counts", summary="Count records, patients and views", **_COUNTS)
    def counts(_operator: Caller = Depends(doors.may("count"))) -> ViewCounts:
        """Records that hold, patients who have one, and the entries of each view."""
        records, patients, held = reader.counts()
        return ViewCounts(records=records, patients=patients, views=held)

    add_project_routes(app, reader, publisher, terms, doors, clock)
    add_request_routes(app, reader, publisher, doors, tell, clock)
    add_indicator_routes(app, pages, doors, readable, tell, clock)
    return app


def _not_grantable(wrong: PermitError) -> ProblemError:
    return ProblemError(422, "the permit cannot be granted as it is written", str(wrong))


def _readable(stored: StoredPermit | None, subscriber: Caller, doors: Doors, vault: Vault, now: dt.datetime) -> Release:
    """The permit, ready to read by. Raises a problem: 404 alike for what is not theirs and what is not there."""
    if stored is None or stored.definition is None:
        raise not_found()
    try:
        permit = read_permit(stored.definition)
    except PermitError:
        raise not_found() from None
    if not doors.reads(subscriber, permit, is_open=True):
        raise not_found()
    if not doors.reads(subscriber, permit, is_open=stored.state in (FILLING, OPEN)):
        raise ProblemError(403, f"the permit is {stored.state}", "Nothing leaves under it now.")
    try:
        release = release_from(stored, vault)
    except (PermitError, KeyBroken):
        raise ProblemError(503, "the permit cannot be used", "The operator has an alarm.") from None
    if not release.policy.in_force(now):
        raise ProblemError(403, "the permit has expired", "Nothing leaves under it any more.")
    return release


def _page(
    release: Release, subjects: Sequence[ViewSubject], reader: Reader, pages: Pages, vault: Vault, clock: Clock
) -> Iterator[views.Event]:
    """The timelines of these subjects. Raises a 403 problem when the permit ends meanwhile."""
    for begin in range(0, len(subjects), _AT_ONCE):
        _check_open(release, reader, clock)
        yield from _events(release, subjects[begin : begin + _AT_ONCE], pages, vault)


def _file(lines: bytes) -> bytes:
    """The lines of a page as a Parquet file."""
    out = BytesIO()
    write_parquet(map(msgspec.json.decode, lines.splitlines()), out)
    return out.getvalue()


def _check_open(release: Release, reader: Reader, clock: Clock) -> None:
    stored = reader.permit(release.permit)
    if stored is None or stored.state not in (FILLING, OPEN) or not release.policy.in_force(clock()):
        raise ProblemError(403, "the permit has ended", "Nothing leaves under it now.")
    if stored.revision != release.revision:
        raise ProblemError(403, "the permit has changed", "Read the page again: it has what is allowed now.")


def _events(release: Release, chunk: Sequence[ViewSubject], pages: Pages, vault: Vault) -> Iterator[views.Event]:
    patients = [one.patient for one in chunk]
    rows, told = pages.timelines(release, patients)
    qualified = pages.qualified(release, patients)
    opposed = pages.opposed(release, patients)
    rows_of: defaultdict[str, list[EntryRow]] = defaultdict(list)
    for row in rows:
        rows_of[row.patient].append(row)
    for patient in patients:
        events: list[views.Event] = []
        demographics = views.demographics_of(views.newest(told.get(patient, ())))
        objects_to = opposed.get(patient, frozenset())
        person = views.person_under(release.policy, demographics, patient in qualified, objects_to)
        subject = release.ids.subject(patient)
        for row in rows_of[patient]:
            if views.wanted_entry(release.policy, row.facts, patient, person) is None:
                continue
            try:
                record = open_body(vault, row.facts, row.key, row.body)
            except KeyBroken:
                continue
            name = release.ids.record(row.facts.event_id)
            events.append(views.published(release.policy, row.facts, record, person, name, subject, row.sequence))
        yield from sorted(events, key=views.Event.place)


def _shown(row: PermitRow, caller: Caller, doors: Doors, now: dt.datetime) -> PermitShown | None:
    try:
        permit = read_permit(row.definition) if row.definition is not None else None
    except PermitError:
        permit = None
    if not doors.sees(caller, permit):
        return None
    state = row.state
    if permit is not None and state != CLOSED and now.date() > permit.expires:
        state = "expired"
    return PermitShown(
        id=row.permit,
        title=permit.title if permit else "",
        state=state,
        records=row.records,
        patients=row.patients,
        shards_to_fill=row.scans_left,
        expires=permit.expires.isoformat() if permit else "",
    )


def _cursor(subject: str) -> str:
    return base64.urlsafe_b64encode(b"1" + bytes.fromhex(subject)).decode().rstrip("=")


def _position(cursor: str | None) -> str:
    """The subject after which a page begins. Raises a 422 problem."""
    if not cursor:
        return ""
    try:
        read = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        read = b""
    if len(read) != 17 or read[:1] != b"1":
        raise ProblemError(422, "the cursor is not one of ours", "Start without one, or take it from X-Next-Cursor.")
    return read[1:].hex()


_AWAY: Final = "The database or the broker does not answer: try again later."
_GRANT: Final[dict[str, Any]] = {
    "status_code": 202,
    "response_description": "The broker has the grant, or had it before.",
    "responses": problems(
        {
            **GUARDED,
            409: "The permit was closed, is granted with another definition, or is a project's.",
            422: "The permit cannot be granted as it is written.",
            503: _AWAY,
        }
    ),
}
_DRY_RUN: Final[dict[str, Any]] = {
    "response_description": "What it would release.",
    "responses": problems({**GUARDED, 422: "The permit cannot be granted as it is written.", 503: _AWAY}),
}
_CLOSE: Final[dict[str, Any]] = {
    "status_code": 202,
    "response_description": "The broker has the order to close it.",
    "responses": problems(
        {
            **GUARDED,
            404: "There is no such permit.",
            409: "It is a project's: revoke or close that.",
            422: "The id is not of its form.",
            503: _AWAY,
        }
    ),
}
_CHANGE: Final[dict[str, Any]] = {
    "status_code": 202,
    "response_description": "The broker has the change.",
    "responses": problems(
        {
            **GUARDED,
            404: "There is no such permit.",
            409: "It is a project's, or not in a state for that.",
            422: "The permit cannot be granted as it is written, would allow more, or the id is not of its form.",
            503: _AWAY,
        }
    ),
}
_LIST: Final[dict[str, Any]] = {
    "response_description": "The permits that you may see.",
    "responses": problems({**GUARDED, 503: _AWAY}),
}
_TIMELINES: Final[dict[str, Any]] = {
    "response_class": Response,
    "responses": problems(
        {
            401: GUARDED[401],
            403: "It is for subscribers, or the permit is closed, has expired or is not yet open.",
            404: "No permit of this id names you.",
            422: "The id, the cursor or the limit is not of its form.",
            429: "You have read what you may in an hour: go on later.",
            503: "The permit cannot be used, or the database does not answer: try again later.",
        }
    )
    | {
        200: {
            "description": "A page of the view: one `ViewEvent` a line.",
            "content": {
                NDJSON: {"schema": reference(ViewEvent)},
                PARQUET: {"schema": {"type": "string", "format": "binary"}},
            },
            "headers": {
                "X-Next-Cursor": {"description": "`cursor` of the next page, if any.", "schema": {"type": "string"}},
                "Link": {"description": "The next page's address, if any.", "schema": {"type": "string"}},
            },
        }
    },
}
_TRACE: Final[dict[str, Any]] = {
    "response_description": "Where the record is.",
    "responses": problems(
        {
            **GUARDED,
            404: "No such record is stored.",
            422: "The id is not of its form.",
            503: _AWAY,
        }
    ),
}
_COUNTS: Final[dict[str, Any]] = {
    "response_description": "How much there is.",
    "responses": problems({**GUARDED, 503: _AWAY}),
}
