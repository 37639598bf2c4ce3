"""An event's bytes in, a message of records-received out. Pure but for the seals' randomness."""

from __future__ import annotations

import hmac
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from io import BytesIO
from itertools import islice
from time import time as clock
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import msgspec
from pydantic import ValidationError

from contracts.events import DELETED, OF_RIGHTS, OPPOSITION, RECORD_TYPES, Event, Objection, PersonsRequest
from contracts.messages import Content, Demographics, Headers, RecordReceived, associated, encode
from runtime.messages import Emit
from runtime.telemetry import where
from services.ingest.domain import batches, content, measures, refusals
from services.ingest.domain.batches import Element
from services.ingest.domain.content import Stripped
from services.ingest.domain.flow import Lane, topic
from services.ingest.domain.identity import InvalidIdentity, demographics
from services.ingest.domain.measures import RefusedAs, Shape
from services.ingest.domain.refusals import Refusal, Refused, refusing
from services.ingest.domain.tokens import Tokeniser
from services.ingest.formats import reading
from services.ingest.formats.fhir import entries as fhir
from services.ingest.formats.fhir import files as fhir_files
from services.ingest.formats.hl7v2 import messages as hl7v2
from services.ingest.formats.reading import Outcome

log = logging.getLogger("estuaire.ingest")

RECEIVED: Final = "records-received"
OPPOSITIONS: Final = "oppositions"
LARGEST: Final = 900_000
"""Bytes of a message; the broker takes no batch of more than a megabyte."""

_Said = TypeVar("_Said", Objection, PersonsRequest)

Trace = Callable[[str | None, float, str], str]
"""From the traceparent that a producer gave, if any, the time (epoch seconds) at which the work on its record began,
and the hub's id of the record (empty where its trace shall not say it), to the traceparent that it travels under."""


class Seal(Protocol):
    """Seals to one recipient; `runtime.sealing.Sealer` is one."""

    def seal(self, plaintext: bytes, associated: bytes) -> bytes: ...


class Kept(NamedTuple):
    """An event that is taken, if the broker takes the message."""

    id: str
    event_id: str
    emit: Emit
    removed: int
    shape: Shape


@dataclass(slots=True)
class Taken:
    """What becomes of some elements of a request."""

    kept: list[Kept] = field(default_factory=list)
    rejected: list[tuple[int, Refusal]] = field(default_factory=list)
    refused: Counter[RefusedAs] = field(default_factory=Counter)

    def reject(self, place: int, document: object, refusal: Refusal) -> None:
        """Refuse the element at this place; the document is what could be read of it."""
        self.rejected.append((place, refusal))
        self.refused[measures.refused_as(document, refusal)] += 1


class Document(NamedTuple):
    """An event that is decoded already. `place` is its position in the request."""

    place: int
    event: dict[str, Any] | Refusal

    def is_not_of(self, name: str) -> bool:
        """Whether the event is of another FHIR resource than <type>/<id>."""
        return isinstance(self.event, dict) and str(self.event["id"]).partition("#")[0] != name

    def checked_for_nul(self) -> Document:
        """Refused if it has a NUL in a text."""
        nul = isinstance(self.event, dict) and batches.has_nul(self.event)
        return self._replace(event=refusals.NUL_BYTE) if nul else self

    def as_update(self) -> Document:
        """The same, replacing what was there where no version says which is the later."""
        return self if isinstance(self.event, Refusal) else self._replace(event=fhir.replacing(self.event))


class Ids:
    """The hub's own ids and digests. Both keys are for good: they do not change with secret 1."""

    def __init__(self, event_id: bytes, digest: bytes) -> None:
        self._event_id = event_id
        self._digest = digest

    def event_id(self, source: str, record_id: str) -> str:
        """The hub's name of a record, as hex."""
        return hmac.digest(self._event_id, f"{source}\0{record_id}".encode(), "sha256")[:16].hex()

    def digest(self, kind: str, time: str | None, version: int | None, data: Any) -> str:
        """The digest of a record's state, as hex; it does not depend on the order of names."""
        said = [kind, time, data] if version is None else [kind, time, data, version]
        return hmac.digest(self._digest, msgspec.json.encode(said, order="sorted"), "sha256")[:16].hex()


class Intake:
    """Takes events, one after another. For one thread."""

    def __init__(self, tokeniser: Tokeniser, ids: Ids, to_pseudonym: Seal, to_access: Seal, trace: Trace) -> None:
        self.ids = ids
        self._tokeniser = tokeniser
        self._key_version = str(tokeniser.version).encode()
        self._to_pseudonym = to_pseudonym
        self._to_access = to_access
        self._trace = trace
        self._json = msgspec.json.Decoder()

    def take(self, elements: Sequence[Element | Document], source: str, lane: Lane, now: datetime) -> Taken:
        """Messages for the good ones, reasons for the bad ones. `now` (aware) is the time of what has none."""
        taken = Taken()
        for element in elements:
            document = None
            try:
                document = self._decoded(element.json) if isinstance(element, Element) else element.event
                if isinstance(document, Refusal):
                    raise Refused(document)
                taken.kept.append(self._keep(document, source, lane, now))
            except Refused as refused:
                taken.reject(element.place, document, refused.refusal)
            except RecursionError:
                taken.reject(element.place, document, refusals.TOO_DEEP)
            except Exception as error:
                log.error("an event cannot be read: %s", where(error))
                taken.reject(element.place, document, refusals.INTERNAL)
        return taken

    def documents(self, body: bytes, source: str) -> tuple[list[Document], Counter[str]]:
        """The events of a FHIR document, and what it has besides. Raises BadBody.

        One in which an object has a name twice is read as a file is, so that the same is refused of it.
        """
        try:
            document = self._json.decode(body)
        except RecursionError:
            raise batches.BadBody("the document is nested too deeply") from None
        except (msgspec.MsgspecError, ValueError):
            raise batches.BadBody(
                "the document is not JSON (RFC 8259) in UTF-8, or has a number out of range"
            ) from None
        if not _has_all_names(body, document):
            return _documents((place, outcome) for _, place, outcome in fhir_files.read(BytesIO(body), "", source))
        documents, not_taken = _documents(fhir.outcomes_of(document, source))
        if b"\\u0000" in body:
            documents = [one.checked_for_nul() for one in documents]
        return documents, not_taken

    def opposition(self, body: bytes, source: str) -> Document:
        """The event of a person's objection, or why it is none."""

        def says(said: Objection) -> tuple[str, dict[str, Any]]:
            return OPPOSITION, {"scope": said.scope}

        return self._of_rights(body, source, Objection, says)

    def request(self, body: bytes, source: str) -> Document:
        """The event of a person's request, or why it is none."""

        def says(said: PersonsRequest) -> tuple[str, dict[str, Any]]:
            return f"{said.kind}-request.v1", {"received": said.received}

        return self._of_rights(body, source, PersonsRequest, says)

    def _of_rights(
        self, body: bytes, source: str, form: type[_Said], says: Callable[[_Said], tuple[str, dict[str, Any]]]
    ) -> Document:
        try:
            stated = self._decoded(body)
            said = form.model_validate(stated)
        except Refused as refused:
            return Document(0, refused.refusal)
        except RecursionError:
            return Document(0, refusals.TOO_DEEP)
        except ValidationError as error:
            return Document(0, refusals.from_validation(error))
        kind, record = says(said)
        data: dict[str, Any] = {"identity": stated.get("identity", {})}
        if said.made:
            data["record"] = record
        # made again after it was lifted, it says what it said before: that is no re-send
        kind = kind if said.made else kind + DELETED
        return Document(0, reading.event(source, kind, said.id, None, data, correction=True, version=said.version))

    def messages(
        self, messages: Sequence[bytes], first: int, source: str, zone: tzinfo
    ) -> tuple[list[Document], Counter[str]]:
        """The events of HL7 v2 messages, the first of which has that position, and what these have besides.

        `zone` is where times without an offset are from.
        """
        return _documents(
            (place, outcome)
            for place, message in enumerate(messages, first)
            for outcome in hl7v2.events_of(message, source, zone)
        )

    def _decoded(self, raw: bytes) -> dict[str, Any]:
        if b"\0" in raw:
            raise Refused(refusals.NUL_BYTE)
        try:
            document = self._json.decode(raw)
        except msgspec.ValidationError:  # the one thing that an untyped decoder finds invalid
            raise Refused(refusals.NUMBER_OUT_OF_RANGE) from None
        except (msgspec.MsgspecError, ValueError):
            raise Refused(refusals.NOT_JSON) from None
        if b"\\u0000" in raw and batches.has_nul(document):
            raise Refused(refusals.NUL_BYTE)
        if not isinstance(document, dict):
            raise Refused(refusals.NOT_AN_OBJECT)
        return document

    def _keep(self, document: dict[str, Any], source: str, lane: Lane, now: datetime) -> Kept:
        begun = clock()
        event, stated = _validated(document)
        time = stated or utc(now)
        if event.source != source:
            raise Refused(refusals.SOURCE_NOT_YOURS)
        record, removed, invalid = _stripped(event)
        event_id = self.ids.event_id(source, event.id)
        try:
            block = self._tokeniser.block(source, event.data.identity, event_id)
        except InvalidIdentity as wrong:
            raise refusing(wrong.reason, wrong.detail) from None
        of_rights = event.record_type in OF_RIGHTS
        if of_rights and not event.deleted and not (block.identifiers or block.blocking):
            raise Refused(refusals.NOBODY_FOUND)
        if event.correction:
            block = msgspec.structs.replace(block, correction=True)
        digest = self.ids.digest(event.type, stated, event.version, document.get("data"))
        deceased = record.get("date") if event.record_type == "death.v1" else None
        body = Content(
            event.record_type,
            time,
            1,
            record,
            # who wants something of the hub tells nothing of themselves that a permit could release
            Demographics() if of_rights else demographics(event.data.identity, deceased),
            stated is not None,
        )
        bound = associated(event_id, event.type, source, digest)
        received = RecordReceived(
            self._to_pseudonym.seal(encode(block), bound), self._to_access.seal(encode(body), bound)
        )
        value = encode(received)
        if len(value) > LARGEST:
            raise Refused(refusals.TOO_LARGE)
        headers = {
            Headers.EVENT_ID: event_id.encode(),
            Headers.SOURCE: source.encode(),
            Headers.TYPE: event.type.encode(),
            Headers.DIGEST: digest.encode(),
            Headers.REVISION: str(event.version or 0).encode(),
            Headers.TRACEPARENT: self._trace(event.traceparent, begun, "" if of_rights else event_id).encode(),
            Headers.KEY_VERSION: self._key_version,
        }
        age = (now - event.time).total_seconds() if event.time else None
        late = measures.lateness(age, is_backfill=lane == "backfill")
        shape = measures.shape(event, record, invalid, removed, block.flags, late)
        into = OPPOSITIONS if of_rights else topic(RECEIVED, lane)
        emit = Emit(into, event_id.encode(), value, headers)
        return Kept(event.id, event_id, emit, removed, shape)


def messages_of(body: bytes, most: int) -> list[bytes]:
    """The first `most` HL7 v2 messages of a body. Raises BadBody where there is none."""
    found = [message for _, message in islice(hl7v2.messages(BytesIO(body)), most)]
    if not found:
        raise batches.BadBody("the body has no HL7 v2 message: send one at least, beginning with MSH")
    return found


def utc(moment: datetime) -> str:
    """An aware moment in UTC as RFC 3339."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _validated(document: dict[str, Any]) -> tuple[Event, str | None]:
    """The event, and its time in UTC as RFC 3339, if it has one."""
    kind = document.get("type")
    if isinstance(kind, str) and kind.removesuffix(DELETED) not in RECORD_TYPES:
        raise Refused(refusals.UNKNOWN_TYPE)
    stated = document.get("time")
    if stated is not None and not (isinstance(stated, str) and stated[4:5] == "-"):  # pydantic takes numbers, too
        raise Refused(refusals.BAD_TIME)
    data = document.get("data", {})
    if isinstance(kind, str) and isinstance(data, dict) and data.get("record") in (None, {}) and _needs_record(kind):
        raise Refused(refusals.NO_RECORD)
    try:
        event = Event.model_validate(document)
        return event, utc(event.time) if event.time else None
    except ValidationError as error:
        raise Refused(refusals.from_validation(error)) from None
    except OverflowError:
        raise Refused(refusals.BAD_TIME) from None


def _needs_record(kind: str) -> bool:
    return kind != "identity.v1" and not kind.endswith(DELETED)


def _has_all_names(body: bytes, document: Any) -> bool:
    """Whether it is sure that decoding lost none, as it does of two alike: written again, there are as many colons."""
    try:
        colons = msgspec.json.encode(document).count(b":")
    except RecursionError:
        return False
    return colons == body.count(b":") and b"\\u003a" not in body and b"\\u003A" not in body


def _documents(outcomes: Iterable[tuple[int, Outcome]]) -> tuple[list[Document], Counter[str]]:
    """What is to be taken of what was read, by its position, and how often what else is there."""
    documents: list[Document] = []
    passed_over: Counter[str] = Counter()
    for place, outcome in outcomes:
        if isinstance(outcome, str):
            passed_over[outcome] += 1
        else:
            documents.append(Document(place, outcome))
    return documents, passed_over


def _stripped(event: Event) -> Stripped:
    """The record as it may be kept; a retraction and an identity have none."""
    record = event.data.record
    if event.deleted or (event.record_type == "identity.v1" and not record):
        return Stripped({}, 0)
    if event.record_type == "identity.v1":
        raise Refused(refusals.NO_RECORD_TAKEN)
    try:
        return content.strip(event.record_type, record or {})
    except content.InvalidRecord as invalid:
        raise Refused(refusals.invalid_record(invalid.path, invalid.expected)) from None
