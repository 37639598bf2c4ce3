"""People's requests in the loop: each is kept as it arrives, and each act of an officer is judged, done and told."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from contracts import audit
from contracts.events import ACCESS_REQUEST
from contracts.messages import AuditLeaf, Content, RequestAct, accepted_at
from contracts.projects import DocumentError
from contracts.requests import ACTS, Kind, document_of
from runtime.database import Database
from runtime.messages import InvalidMessage, Message, Outputs, Reason
from services.access.domain.policy import Facts
from services.access.domain.projects import Refused
from services.access.domain.requests import Done, Request, check, received_on
from services.access.projects import moment_of

REQUEST_ACTS: Final = "request-acts"
TOLD_AS: Final = {
    "answer": "request-answered",
    "refuse": "request-refused",
    "extend": "request-extended",
    "erase": "person-erased",
}
"""What the audit log calls each act."""


class RequestRow(NamedTuple):
    """A request as the database has it. Who asks is None once they are erased."""

    event_id: bytes
    subject: bytes | None
    kind: Kind
    source: str
    received: dt.date
    taken_back: bool


class ActRow(NamedTuple):
    """An act as the database has it."""

    request: bytes
    id: str
    act: str
    actor: str
    at: dt.datetime
    details: bytes
    records: int


ASKED: Final = "SELECT event_id, subject, kind, source, received, taken_back FROM requests"
DONE: Final = "SELECT request, id, act, actor, at, details, records FROM request_acts"


def request_of(row: RequestRow, acts: Iterable[ActRow]) -> Request:
    """A request with what was done about it."""
    done = [
        Done(one.act, one.actor, one.at, document_of(one.act, json.loads(one.details)), one.records) for one in acts
    ]
    return Request(row.kind, row.received, row.taken_back, done)


class Requests(Protocol):
    """What the loop keeps of requests."""

    def ask(self, row: RequestRow) -> None:
        """Keep a request as it is now."""

    def find(self, event_id: bytes) -> RequestRow | None:
        """A request, if it has arrived."""

    def done(self, event_id: bytes) -> list[ActRow]:
        """What was done about it, in order."""

    def keep(self, row: ActRow) -> None:
        """Keep an act; one that is kept already is the same."""


class PostgresRequests:
    """The requests in the loop's own database, within its transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ask(self, row: RequestRow) -> None:
        self._database.connection.execute(
            "INSERT INTO requests (event_id, subject, kind, source, received, taken_back)"
            " VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (event_id) DO UPDATE SET subject = EXCLUDED.subject,"
            " kind = EXCLUDED.kind, received = EXCLUDED.received, taken_back = EXCLUDED.taken_back",
            row,
        )

    def find(self, event_id: bytes) -> RequestRow | None:
        row = self._database.connection.execute(f"{ASKED} WHERE event_id = %s", [event_id]).fetchone()
        return None if row is None else RequestRow(*row)

    def done(self, event_id: bytes) -> list[ActRow]:
        rows = self._database.connection.execute(f"{DONE} WHERE request = %s ORDER BY place", [event_id])
        return [ActRow(*row) for row in rows]

    def keep(self, row: ActRow) -> None:
        self._database.connection.execute(
            "INSERT INTO request_acts (request, id, act, actor, at, details, records)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            row,
        )


class Keeper:
    """Keeps requests and acts. Of two acts that were asked for at the same moment the first is done."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests
        self._decoder = msgspec.msgpack.Decoder(RequestAct)

    def ask(self, facts: Facts, content: Content | None) -> None:
        """Keep a request; without content it was taken back, and its day is the one that is known."""
        kind: Kind = "access" if facts.type == ACCESS_REQUEST else "erasure"
        known = self._requests.find(facts.event_id)
        stated = "" if content is None else str(content.record.get("received", ""))
        arrived = dt.datetime.fromtimestamp(accepted_at(facts.revision) / 1000, dt.UTC)
        received = known.received if content is None and known else received_on(stated, arrived)
        self._requests.ask(RequestRow(facts.event_id, facts.subject, kind, facts.source, received, content is None))

    def judged(self, batch: Sequence[Message], outputs: Outputs) -> Iterator[tuple[Message, RequestAct]]:
        """The acts that are to be done, one after another: each has to be kept before the next is judged.

        An act about a request that has not arrived is done: it was judged when it was asked for, and the log is being
        read again.
        """
        for message in batch:
            try:
                yield message, self._judge(message)
            except InvalidMessage as why:
                outputs.reject(message, why)

    def _judge(self, message: Message) -> RequestAct:
        try:
            act = self._decoder.decode(message.value)
        except msgspec.MsgspecError:
            raise InvalidMessage(Reason.DECODING, "the body is no RequestAct") from None
        at = moment_of(act.at)
        if act.act not in ACTS or len(act.request) != 16 or any(len(one) != 16 for one in act.subjects):
            raise InvalidMessage(Reason.SCHEMA, "there is no such act, or an id is not 16 bytes long")
        if act.subjects and act.act != "erase":
            raise InvalidMessage(Reason.SCHEMA, "nobody is to be forgotten but by an erasure")
        says = _said(act)
        row, done = self._requests.find(act.request), self._requests.done(act.request)
        if row is not None and act.id not in {one.id for one in done}:
            try:
                check(request_of(row, done), act.act, says, at)
            except Refused as refused:
                raise InvalidMessage(Reason.CONFLICT, refused.title) from None
        return act

    def keep(self, act: RequestAct, erased: Collection[str]) -> AuditLeaf:
        """Keep an act that is done, with how many records it erased; what is told of it, with their ids if it did."""
        at = moment_of(act.at)
        self._requests.keep(ActRow(act.request, act.id, act.act, act.by, at, act.details, len(erased)))
        ids = erased if act.act == "erase" else (act.request.hex(),)
        return audit.leaf(TOLD_AS[act.act], act.by, at, ids=ids)


def _said(act: RequestAct) -> Any:
    try:
        return document_of(act.act, json.loads(act.details))
    except (DocumentError, ValueError):
        raise InvalidMessage(Reason.SCHEMA, "the act does not say what it has to") from None
