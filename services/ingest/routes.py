"""HTTP of ingest."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil
from typing import Annotated, Any, Final

import msgspec
from fastapi import Depends, FastAPI, Path, Query, Request
from pydantic import AwareDatetime, BaseModel, Field
from starlette.responses import Response

from contracts.events import Accepted, Event, Objection, PersonsRequest, Receipt, Rejected
from runtime.http import (
    PROBLEM,
    Authorization,
    Bearers,
    Problem,
    ProblemError,
    Readiness,
    create_app,
    problems,
    reference,
)
from runtime.watched import WatchedFile
from services.ingest import adapters, handlers
from services.ingest.adapters import Budget, Hold, Markers, NotKept, Outbox, QueueFull
from services.ingest.domain import batches
from services.ingest.domain.batches import Element
from services.ingest.domain.flow import LANES, Flow, Lane
from services.ingest.domain.measures import RefusedAs, Shape, Tally
from services.ingest.domain.receipts import Day, Receipts
from services.ingest.domain.refusals import Refusal
from services.ingest.files import FORMATS, join, uploaded
from services.ingest.formats.reading import JoinedFormat, Read
from services.ingest.handlers import Document, Intake
from services.ingest.settings import IngestSettings

CLOUDEVENT: Final = "application/cloudevents+json"
CLOUDEVENTS: Final = "application/cloudevents-batch+json"
NDJSON: Final = "application/x-ndjson"
JSON: Final = "application/json"
FHIR: Final = "application/fhir+json"
FILES: Final = ("multipart/form-data", "text/plain", "text/csv", "application/octet-stream")
HL7V2: Final = ("application/hl7-v2", "x-application/hl7-v2+er7")
"""As in HAPI's "HL7 over HTTP", and as other engines have it."""
SLICE: Final = 200
"""Events taken in one go of the worker thread, so that requests take turns."""
PATIENCE_SECONDS: Final = 20.0
"""How long the broker's confirmation is waited for; the client itself gives up after 14 s."""

Split = Callable[[bytes], list[Element]]
SPLITS: Final[dict[str, Split]] = {
    CLOUDEVENT: batches.one,
    CLOUDEVENTS: batches.array,
    NDJSON: batches.lines,
    JSON: batches.one_or_many,
}


class NothingTaken(Problem):
    """A problem that also says, when the body could be read, why each of its events is refused."""

    accepted: list[Accepted] = Field(default_factory=list, description="Always empty.")
    rejected: list[Rejected] = Field(default_factory=list)
    not_taken: dict[str, int] = Field(default_factory=dict, description="FHIR resource types passed over, with counts.")
    removed: int = Field(0, description="Values that no allow-list names.")


class DayReceipt(BaseModel):
    """What a source was answered on one day. A record that was sent twice counts twice."""

    source: str
    date: dt.date = Field(description="In UTC, by the moment of the answer.")
    accepted: int = Field(description="Events acknowledged.")
    rejected: dict[str, int] = Field(description="Events refused, by reason.")
    digest: str = Field(
        pattern="^[0-9a-f]{32}$",
        description="The sum of the `event_id` of every event acknowledged, as numbers in base 16, modulo 2^128.",
    )


class Status(BaseModel):
    """How far the records of a source have come."""

    source: str
    through: str
    complete: bool = Field(description="Whether everything acknowledged before `through` is in the views.")
    watermark: dict[Lane, str | None] = Field(description="By lane: before when everything acknowledged is complete.")
    counts: dict[str, dict[str, int]] = Field(description="By step and verdict: records since ingest was started.")


@dataclass(slots=True)
class _Answer:
    """A receipt in the making."""

    accepted: list[dict[str, str]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    not_taken: dict[str, int] = field(default_factory=dict)
    removed: int = 0
    shapes: Counter[Shape] = field(default_factory=Counter)
    refused: Counter[RefusedAs] = field(default_factory=Counter)

    @property
    def reasons(self) -> Counter[str]:
        """How many are refused, by reason."""
        found: Counter[str] = Counter()
        for (_, reason, _), count in self.refused.items():
            found[reason] += count
        return found


class Desk:
    """Takes requests to the intake, on the one thread that it is for, and their messages to the broker."""

    def __init__(
        self,
        intake: Intake,
        outbox: Outbox,
        flow: Flow,
        markers: Markers,
        producers: WatchedFile[Bearers],
        limits: IngestSettings,
        tally: Tally,
        receipts: Receipts,
        has_all_receipts: Callable[[], bool] = lambda: True,
    ) -> None:
        self.flow = flow
        self.receipts = receipts
        self.has_all_receipts = has_all_receipts
        self.ids = intake.ids
        self.markers = markers
        self.producers = producers
        self._intake = intake
        self._outbox = outbox
        self._limits = limits
        self._tally = tally
        self._budget = Budget(limits.max_pending_bytes)
        self._worker = ThreadPoolExecutor(1, "intake")
        self._reader = ThreadPoolExecutor(1, "files")

    def close(self) -> None:
        """End the threads."""
        self._reader.shutdown()
        self._worker.shutdown()

    async def events(self, request: Request, source: str, lane: Lane) -> Response:
        """A request of CloudEvents. Raises ProblemError."""
        split = SPLITS[_media_type(request, SPLITS)]
        async with self._body(request, source) as body:
            elements: list[Element] = await self._work(self._worker, split, body)
            del body
            return await self._answered(elements, source, lane, {})

    async def fhir(self, request: Request, source: str, lane: Lane) -> Response:
        """A FHIR document. Raises ProblemError."""
        _media_type(request, (FHIR, JSON))
        async with self._body(request, source) as body:
            documents, not_taken = await self._work(self._worker, self._intake.documents, body, source)
            del body
            return await self._answered(documents, source, lane, not_taken)

    async def opposition(self, request: Request, source: str) -> Response:
        """A person's objection. Raises ProblemError."""
        return await self._of_rights(request, source, self._intake.opposition)

    async def request(self, request: Request, source: str) -> Response:
        """A person's request. Raises ProblemError."""
        return await self._of_rights(request, source, self._intake.request)

    async def _of_rights(self, request: Request, source: str, read: Callable[[bytes, str], Document]) -> Response:
        _media_type(request, (JSON,))
        async with self._body(request, source) as body:
            document = await self._work(self._worker, read, body, source)
            del body
            return await self._answered([document], source, "live", {})

    async def pushed(self, request: Request, source: str, lane: Lane, name: str) -> Response:
        """A FHIR resource that its server sends as an update to <type>/<id>. Raises ProblemError.

        Without a version of its own it replaces what was there.
        """
        _media_type(request, (FHIR, JSON))
        async with self._body(request, source) as body:
            documents, not_taken = await self._work(self._worker, self._intake.documents, body, source)
            del body
            if any(document.is_not_of(name) for document in documents):
                raise ProblemError(400, "another resource", "The resource is not of the type and id of the URL.")
            documents = [document.as_update() for document in documents]
            return _outcome(await self._taken(documents, source, lane, not_taken))

    async def hl7v2(self, request: Request, source: str, lane: Lane) -> Response:
        """HL7 v2 messages. Raises ProblemError."""
        _media_type(request, HL7V2)
        async with self._body(request, source) as body:
            messages: list[bytes] = await self._work(None, handlers.messages_of, body, self._limits.max_events + 1)
            del body
            self._bound(messages)
            return _receipt(await self._adt(messages, source, lane))

    async def message(self, message: bytes, source: str) -> list[Refusal]:
        """One HL7 v2 message that came over MLLP: why what it says is refused, once all the rest of it is kept.

        Raises ProblemError where it cannot be taken now, or not as it is.
        """
        self._admit(source)
        with self._budget.hold() as hold:
            if not hold.take(len(message)):
                raise _full()
            answer = await self._adt([message], source, "live")
        return [Refusal(one["reason"], one["detail"]) for one in answer.rejected]

    async def _adt(self, messages: Sequence[bytes], source: str, lane: Lane) -> _Answer:
        documents: list[Document] = []
        passed_over: Counter[str] = Counter()
        for at in range(0, len(messages), SLICE):
            part = messages[at : at + SLICE]
            found, over = await self._in_thread(self._intake.messages, part, at, source, self._limits.zone)
            documents += found
            passed_over += over
        return await self._taken(documents, source, lane, passed_over)

    async def files(self, request: Request, name: str, source: str, lane: Lane) -> Response:
        """Files of a format, which belong together. Raises ProblemError."""
        form = FORMATS.get(name)
        if form is None:
            raise ProblemError(404, "unknown format", f"Send one of {', '.join(FORMATS)}.")
        _media_type(request, FILES)
        kind = request.headers.get("content-type", "")
        async with self._body(request, source) as body:
            reads: list[Read] = await self._work(self._reader, self._read, form, body, kind, source)
            del body
            passed_over = Counter(one.outcome for one in reads if isinstance(one.outcome, str))
            places = [one for one in reads if not isinstance(one.outcome, str)]
            documents = [Document(at, one.outcome) for at, one in enumerate(places) if not isinstance(one.outcome, str)]
            return await self._answered(documents, source, lane, passed_over, places)

    def _read(self, form: JoinedFormat, body: bytes, content_type: str, source: str) -> list[Read]:
        """On a thread of its own, for it may take a while. Raises BadBody, ProblemError."""
        reads: list[Read] = []
        for one in join(form, uploaded(form, body, content_type), source):
            reads.append(one)
            self._bound(reads)
        return reads

    async def _answered(
        self,
        elements: Sequence[Element | Document],
        source: str,
        lane: Lane,
        not_taken: dict[str, int],
        places: Sequence[Read] = (),
    ) -> Response:
        answer = await self._taken(elements, source, lane, not_taken)
        for one in answer.rejected if places else ():
            one |= {"file": places[one["index"]].file, "line": places[one["index"]].line}
        return _receipt(answer)

    async def _taken(
        self, elements: Sequence[Element | Document], source: str, lane: Lane, not_taken: dict[str, int]
    ) -> _Answer:
        if not elements and not not_taken:
            raise ProblemError(422, "nothing was sent", "The body has no event: send one at least.")
        self._bound(elements)
        answer = _Answer(not_taken=not_taken)
        now = datetime.now(UTC).replace(microsecond=0)
        sent: list[Future[None]] = []
        try:
            for at in range(0, len(elements), SLICE):
                part = elements[at : at + SLICE]
                sent.append(await self._in_thread(self._take, part, source, lane, now, answer))
            await asyncio.wait_for(asyncio.gather(*map(asyncio.wrap_future, sent)), PATIENCE_SECONDS)
        except QueueFull:
            raise _busy() from None
        except (NotKept, TimeoutError):
            raise ProblemError(
                503,
                "the broker did not confirm",
                "Nothing is claimed to be kept. Send the same again: a record is known by its source and id.",
                {"Retry-After": "2"},
            ) from None
        self._count(source, answer)
        return answer

    def _bound(self, elements: Sequence[Any]) -> None:
        if len(elements) > self._limits.max_events:
            raise ProblemError(
                413, "too many events", f"A request may have {self._limits.max_events} events: send them in parts."
            )

    def _take(
        self, part: Sequence[Element | Document], source: str, lane: Lane, now: datetime, answer: _Answer
    ) -> Future[None]:
        """On the worker thread: tokenise, strip, seal, hand over."""
        taken = self._intake.take(part, source, lane, now)
        for one in taken.kept:
            answer.accepted.append({"source": source, "id": one.id, "event_id": one.event_id})
            answer.removed += one.removed
            answer.shapes[one.shape] += 1
        for index, (reason, detail) in taken.rejected:
            answer.rejected.append({"index": index, "reason": reason, "detail": detail})
        answer.refused += taken.refused
        return self._outbox.send([one.emit for one in taken.kept])

    def _count(self, source: str, answer: _Answer) -> None:
        adapters.ACCEPTED.labels(source).inc(len(answer.accepted))
        adapters.REMOVED.labels(source).inc(answer.removed)
        reasons = answer.reasons
        for reason, count in reasons.items():
            adapters.REJECTED.labels(source, reason).inc(count)
        self.flow.answered(source, len(answer.accepted), len(answer.rejected))
        self._tally.add(source, answer.shapes, answer.refused)
        today = Day(source, datetime.now(UTC).date().isoformat())
        self.receipts.answered(today, (one["event_id"] for one in answer.accepted), reasons)

    async def _work(self, thread: ThreadPoolExecutor | None, act: Callable[..., Any], *arguments: Any) -> Any:
        """Read a body, on the intake's thread only where that has a part in it. Raises ProblemError."""
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, act, *arguments)
        except batches.BadBody as bad:
            raise _unreadable(bad) from None

    async def _in_thread(self, act: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._worker, act, *arguments)

    def _admit(self, source: str) -> None:
        """Raises ProblemError where nothing of this source is taken now."""
        if wait := self.flow.throttle.seconds_left(source, time.monotonic()):
            raise ProblemError(
                429,
                "too many of your records were refused",
                "Too large a share of this source's last records contradicts records of the same id, or was refused."
                " Send changes as corrections, and look at the counts of /v1/status.",
                {"Retry-After": str(int(wait) + 1)},
            )
        if not self._outbox.has_room():
            raise _busy()

    @asynccontextmanager
    async def _body(self, request: Request, source: str) -> AsyncIterator[bytes]:
        """The request's body, unpacked and counted against the budget. Raises ProblemError."""
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip"):
            raise ProblemError(415, "unknown content encoding", "Send gzip, or none.", {"Accept-Encoding": "gzip"})
        self._admit(source)
        most = self._limits.max_body_bytes
        if int(request.headers.get("content-length") or 0) > most:
            raise _too_large(most)
        parts: list[bytes] = []
        with self._budget.hold() as hold:
            async for chunk in request.stream():
                if not hold.take(len(chunk)):
                    raise _full()
                if hold.count > most:
                    raise _too_large(most)
                parts.append(chunk)
            parts = [b"".join(parts)]
            if encoding == "gzip":
                packed = hold.count
                parts = [await self._unpacked(parts.pop(), most, hold)]
                hold.give_back(packed)
            yield parts.pop()

    async def _unpacked(self, body: bytes, most: int, hold: Hold) -> bytes:
        """On the one thread, so never two at a time; what comes of it is held until the request is answered."""
        try:
            unpacked: bytes = await self._in_thread(batches.unpack, body, most, hold.take)
            return unpacked
        except batches.BadBody as bad:
            raise ProblemError(400, "the body cannot be unpacked", str(bad)) from None
        except batches.TooLarge:
            raise _too_large(most) from None
        except batches.NoRoom:
            raise _full() from None


def authenticated(request: Request, authorization: Authorization) -> str:
    """The source that the request's token was given for. Raises a 401 problem."""
    desk: Desk = request.app.state.desk
    return desk.producers.now().name(authorization)


async def timed(request: Request) -> AsyncIterator[None]:
    """Measure the request."""
    begun = time.perf_counter()
    try:
        yield
    finally:
        route: str = request.scope["route"].path  # not the path asked for, which may hold anything
        adapters.REQUEST_SECONDS.labels(route).observe(time.perf_counter() - begun)


Source = Annotated[str, Depends(authenticated)]
OfSource = Annotated[str, Query(alias="source", max_length=256, description="The source that your token is for.")]
Through = Annotated[AwareDatetime, Query(description="Ask about what was acknowledged before then (RFC 3339).")]
RecordId = Annotated[str, Query(max_length=256, description="The `id` that the record was sent under.")]
ResourceType = Annotated[str, Path(max_length=64, description="The resource's type.")]
ResourceId = Annotated[str, Path(max_length=64, description="The resource's id.")]
OfDay = Annotated[dt.date, Path(description="The day of the answers, in UTC, as YYYY-MM-DD.")]
InLane = Annotated[Lane, Query(description="`backfill` for history: it never delays what is `live`.")]
OfLane = Annotated[Lane | None, Query(description="Ask about this lane only; about both, if absent.")]
FormatName = Annotated[str, Path(description=f"One of {', '.join(FORMATS)}.")]
Timed = Annotated[None, Depends(timed)]


def application(ready: Readiness, desk: Desk) -> FastAPI:
    """The application of this service."""
    app = create_app(
        "Estuaire ingest",
        "Identities become tokens, content is stripped and sealed, and what is acknowledged is kept.",
        ready,
        Event,
        Objection,
        PersonsRequest,
        NothingTaken,
    )

    app.state.desk = desk

    @app.post("/v1/events", summary="Send events", openapi_extra=_body_of(_EVENTS), **_SENDING)
    async def events(request: Request, source: Source, _: Timed, lane: InLane = "live") -> Response:
        """CloudEvents: one, an array, or one a line. The answer comes when the broker has those that are accepted.

        A refused event harms no other, and sending the same again changes nothing. The body may be gzip.
        """
        return await desk.events(request, source, lane)

    @app.post("/v1/fhir", summary="Send FHIR", openapi_extra=_body_of(_RESOURCES), **_SENDING)
    async def fhir(request: Request, source: Source, _: Timed, lane: InLane = "live") -> Response:
        """A FHIR R4 Bundle or resource. The answer comes when the broker has the records made of it.

        Sending the same again changes nothing. The body may be gzip.
        """
        return await desk.fhir(request, source, lane)

    @app.post("/v1/oppositions", summary="Send a person's opposition", openapi_extra=_body_of(_OBJECTION), **_SENDING)
    async def opposition(request: Request, source: Source, _: Timed) -> Response:
        """A person objects to the use of their data, or no longer does. The answer comes when the broker has it.

        From then on nothing about them leaves the hub, and what is in views is withdrawn, but under permits that are
        exempt by law. Whoever may be the same person is withheld too, until a steward has looked.
        """
        return await desk.opposition(request, source)

    @app.post("/v1/requests", summary="Send a person's request", openapi_extra=_body_of(_REQUEST), **_SENDING)
    async def person_request(request: Request, source: Source, _: Timed) -> Response:
        """A person asks what is held of them and where it went, or to be erased, or takes that back.

        The answer comes when the broker has it. An officer of the hub answers within a month of the day on which the
        person asked (GDPR, art. 12(3)), by the way that the hub has with you.
        """
        return await desk.request(request, source)

    @app.put("/v1/fhir/{kind}/{id}", summary="Take a push of FHIR", openapi_extra=_body_of(_RESOURCES), **_PUSHED)
    async def pushed(
        request: Request, source: Source, _: Timed, kind: ResourceType, id: ResourceId, lane: InLane = "live"
    ) -> Response:
        """What the rest-hook of a Subscription sends (R4, subscription.html): a resource as an update to its name.

        Give `/v1/fhir` as the channel's `endpoint`, `application/fhir+json` as its `payload`, and the bearer token
        among its `header`s. R4 pushes no deletions: send those as a Bundle of type `history`.
        """
        return await desk.pushed(request, source, lane, f"{kind}/{id}")

    @app.post("/v1/hl7v2", summary="Send HL7 v2", openapi_extra=_body_of(_MESSAGES), **_SENDING)
    async def hl7v2(request: Request, source: Source, _: Timed, lane: InLane = "live") -> Response:
        """ADT messages, one after another. The answer comes when the broker has the records made of them.

        `index` is a message's position. Sending the same again changes nothing. The body may be gzip.
        """
        return await desk.hl7v2(request, source, lane)

    @app.post("/v1/files/{format}", summary="Send files", openapi_extra=_body_of(_FILES), **_SENDING_FILES)
    async def files(request: Request, format: FormatName, source: Source, _: Timed, lane: InLane = "live") -> Response:
        """Files of one format that belong together, such as RSS with their VID-HOSP, as multipart/form-data; a single
        file may be the body by itself. Lines may come in any order.

        The answer comes when the broker has the records made of them. Sending the same again changes nothing. Files
        that are larger than a body may be are for `estuaire send`.
        """
        return await desk.files(request, format, source, lane)

    @app.get(
        "/v1/status",
        summary="Ask whether records have arrived",
        response_description="How far the records of this source have come.",
        responses=_ASKING,
    )
    def status(mine: Source, source: OfSource, through: Through, lane: OfLane = None) -> Status:
        """Whether everything acknowledged before `through` is in the views, and what became of it."""
        _require_own(mine, source)
        moment = ceil(through.timestamp() * 1000)
        lanes = (lane,) if lane else LANES
        watermarks = desk.flow.watermarks
        for one in lanes:
            if not watermarks.is_complete(one, moment):
                desk.markers.ask(one, moment)
        return Status(
            source=source,
            through=through.isoformat(),
            complete=all(watermarks.is_complete(one, moment) for one in lanes),
            watermark={one: _rfc3339(watermarks.reached(one)) for one in LANES},
            counts=desk.flow.counts(source),
        )

    @app.get(
        "/v1/receipts/{date}",
        summary="Ask what was answered on a day",
        response_description="Counts, and a digest to compare with one's own.",
        responses=_ASKING
        | problems({503: "What earlier processes have answered is still being read: ask again soon."}),
    )
    def receipts(date: OfDay, mine: Source, source: OfSource) -> DayReceipt:
        """What this source was answered on a day (UTC), over all processes of ingest: both sides can compare.

        It is written down once a second: a crash of ingest may lose what the last second was answered, though no
        record.
        """
        _require_own(mine, source)
        if not desk.has_all_receipts():
            raise ProblemError(503, "not read yet", "Earlier receipts are still being read.", {"Retry-After": "1"})
        found = desk.receipts.of(Day(source, date.isoformat()))
        return DayReceipt(
            source=source,
            date=date,
            accepted=found.accepted,
            rejected=found.rejected,
            digest=found.digest.hex(),
        )

    @app.get(
        "/v1/records",
        summary="Look up the hub's id of a record",
        response_description="The record's ids, whether or not it has been sent.",
        responses=_ASKING,
    )
    def records(mine: Source, source: OfSource, id: RecordId) -> Accepted:
        """The hub's own id of a record, by which operators trace it."""
        _require_own(mine, source)
        return Accepted(source=source, id=id, event_id=desk.ids.event_id(source, id))

    return app


def _media_type(request: Request, known: Sequence[str] | dict[str, Split]) -> str:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in known:
        raise ProblemError(415, "unknown content type", f"Send one of {', '.join(known)}.")
    return kind


def _require_own(mine: str, source: str) -> None:
    if mine != source:
        raise ProblemError(403, "not your source", "Ask about the source that your token was given for.")


def _unreadable(bad: batches.BadBody) -> ProblemError:
    return ProblemError(422, "the body cannot be read", str(bad))


def _busy() -> ProblemError:
    return ProblemError(
        429,
        "the hub is busy",
        "The broker does not keep up. Nothing is claimed: send the same again.",
        {"Retry-After": "1"},
    )


def _full() -> ProblemError:
    return ProblemError(
        429,
        "the hub is busy",
        "Too much is being read at once. Nothing is claimed: send the same again, or less at a time.",
        {"Retry-After": "1"},
    )


def _too_large(most: int) -> ProblemError:
    return ProblemError(
        413, "too large", f"A body may have {most} bytes, also unpacked: send it in parts.", {"Connection": "close"}
    )


def _receipt(answer: _Answer) -> Response:
    receipt: dict[str, Any] = {
        "accepted": answer.accepted,
        "rejected": answer.rejected,
        "not_taken": answer.not_taken,
        "removed": answer.removed,
    }
    if answer.accepted or not answer.rejected:
        return Response(msgspec.json.encode(receipt), 202, media_type=JSON)
    problem = Problem(
        title="no event is taken", status=422, detail="Every event has its reason under `rejected`: correct them."
    )
    return Response(msgspec.json.encode(problem.model_dump() | receipt), 422, media_type=PROBLEM)


def _outcome(answer: _Answer) -> Response:
    """The answer to a FHIR server, which reads no other than a FHIR resource (R4, operationoutcome.html)."""
    if answer.rejected and not answer.accepted:
        return _receipt(answer)
    issues = [("information", "informational", "kept")] * len(answer.accepted)
    issues += [("information", "not-supported", f"not taken: {kind}") for kind in answer.not_taken]
    issues += [("warning", "invalid", f"{one['reason']}: {one['detail']}") for one in answer.rejected]
    listed = [{"severity": severity, "code": code, "diagnostics": text} for severity, code, text in issues]
    body = {"resourceType": "OperationOutcome", "issue": listed}
    return Response(msgspec.json.encode(body), 200, media_type=FHIR)


def _rfc3339(moment: int | None) -> str | None:
    if moment is None:
        return None
    return datetime.fromtimestamp(moment / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _body_of(schemas: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {kind: {"schema": one} for kind, one in schemas.items()}}}


_ONE: Final = reference(Event)
_MANY: Final = {"type": "array", "items": _ONE, "minItems": 1}
_LINES: Final = {"type": "string", "description": "One event a line, each as JSON of the schema `Event`."}
_EVENTS: Final = {CLOUDEVENT: _ONE, CLOUDEVENTS: _MANY, NDJSON: _LINES, JSON: {"anyOf": [_ONE, _MANY]}}
_OBJECTION: Final = {JSON: reference(Objection)}
_REQUEST: Final = {JSON: reference(PersonsRequest)}
_RESOURCE: Final = {
    "type": "object",
    "description": "A FHIR R4 Bundle, or one resource.",
    "properties": {"resourceType": {"type": "string", "examples": ["Bundle", "Patient"]}},
    "required": ["resourceType"],
}
_RESOURCES: Final = dict.fromkeys((FHIR, JSON), _RESOURCE)
_ADT: Final = {"type": "string", "description": "HL7 v2 ADT (ER7): A01, A03, A04, A08, A11, A13, A28, A31, A40."}
_MESSAGES: Final = dict.fromkeys(HL7V2, _ADT)
_CONTENT: Final = {"type": "string", "format": "binary"}
_FILES: Final[dict[str, dict[str, Any]]] = {
    "multipart/form-data": {
        "type": "object",
        "description": "A field for each file; named after its part of the format, or told by the file's beginning.",
        "additionalProperties": _CONTENT,
    },
    **dict.fromkeys(FILES[1:], _CONTENT),
}
_ASKING: Final = problems(
    {
        401: "No known bearer token.",
        403: "Another producer's source.",
        422: "A parameter is missing or is not of its form.",
    }
)
_SENDING: Final[dict[str, Any]] = {
    "status_code": 202,
    "response_model": Receipt,
    "response_description": "At least one event is kept, or there was nothing to keep; `rejected` says what is not.",
    "responses": problems(
        {
            400: "The gzip body cannot be unpacked.",
            401: "No known bearer token.",
            413: "More bytes or events than a request may have.",
            415: "Another content type or encoding.",
            429: "The hub is busy, or too many of this source's records were refused: wait, and send the same again.",
            503: "The broker did not confirm: nothing is claimed to be kept; send the same again.",
        }
    )
    | problems({422: "The body or a parameter cannot be read, or no event is taken: see `rejected`."}, NothingTaken),
}
_SENDING_FILES: Final = _SENDING | {"responses": _SENDING["responses"] | problems({404: "No format has this name."})}
_PUSHED: Final[dict[str, Any]] = {
    "response_class": Response,
    "responses": _SENDING["responses"]
    | problems({400: "The resource is not the one of the URL, or the gzip body cannot be unpacked."})
    | {
        200: {
            "description": "An OperationOutcome: kept, or not a type that the hub takes.",
            "content": {FHIR: {"schema": {"type": "object", "description": "A FHIR R4 OperationOutcome."}}},
        }
    },
}
