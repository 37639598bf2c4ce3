"""HTTP of ingest."""

from __future__ import annotations

import asyncio
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
from fastapi import Depends, FastAPI, Query, Request
from pydantic import AwareDatetime
from starlette.responses import Response

from contracts.events import Receipt
from runtime.http import Authorization, Problem, ProblemError, Readiness, create_app
from services.ingest import adapters, handlers
from services.ingest.adapters import Budget, Hold, Markers, NotKept, Outbox, ProducersFile, QueueFull
from services.ingest.domain import batches
from services.ingest.domain.batches import Element
from services.ingest.domain.flow import LANES, Flow, Lane
from services.ingest.handlers import Document, Intake
from services.ingest.settings import IngestSettings

CLOUDEVENT: Final = "application/cloudevents+json"
CLOUDEVENTS: Final = "application/cloudevents-batch+json"
NDJSON: Final = "application/x-ndjson"
JSON: Final = "application/json"
FHIR: Final = "application/fhir+json"
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


@dataclass(slots=True)
class _Answer:
    """A receipt in the making."""

    accepted: list[dict[str, str]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    not_taken: dict[str, int] = field(default_factory=dict)
    removed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class Desk:
    """Takes requests to the intake, on the one thread that it is for, and their messages to the broker."""

    def __init__(
        self,
        intake: Intake,
        outbox: Outbox,
        flow: Flow,
        markers: Markers,
        producers: ProducersFile,
        limits: IngestSettings,
    ) -> None:
        self.flow = flow
        self.ids = intake.ids
        self.markers = markers
        self.producers = producers
        self._intake = intake
        self._outbox = outbox
        self._limits = limits
        self._budget = Budget(limits.max_pending_bytes)
        self._worker = ThreadPoolExecutor(1, "intake")

    def close(self) -> None:
        """End the thread."""
        self._worker.shutdown()

    async def events(self, request: Request, source: str, lane: Lane) -> Response:
        """A request of CloudEvents. Raises ProblemError."""
        split = SPLITS[_media_type(request, SPLITS)]
        async with self._body(request, source) as body:
            elements: list[Element] = await self._work(split, body)
            del body
            return await self._answered(elements, source, lane, None, {})

    async def fhir(self, request: Request, source: str, lane: Lane) -> Response:
        """A FHIR document. Raises ProblemError."""
        _media_type(request, (FHIR, JSON))
        now = datetime.now(UTC).replace(microsecond=0)
        async with self._body(request, source) as body:
            documents, not_taken = await self._work(self._intake.documents, body, source, now)
            del body
            return await self._answered(documents, source, lane, now, not_taken)

    async def _answered(
        self,
        elements: Sequence[Element | Document],
        source: str,
        lane: Lane,
        now: datetime | None,
        not_taken: dict[str, int],
    ) -> Response:
        if not elements and not not_taken:
            raise ProblemError(422, "nothing was sent", "The body has no event: send one at least.")
        if len(elements) > self._limits.max_events:
            raise ProblemError(
                413, "too many events", f"A request may have {self._limits.max_events} events: send them in parts."
            )
        answer = _Answer(not_taken=not_taken)
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
        return _receipt(answer)

    def _take(
        self, part: Sequence[Element | Document], source: str, lane: Lane, now: datetime | None, answer: _Answer
    ) -> Future[None]:
        """On the worker thread: tokenise, strip, seal, hand over."""
        taken = self._intake.take(part, source, lane, now)
        for one in taken.kept:
            answer.accepted.append({"source": source, "id": one.id, "event_id": one.event_id})
            answer.removed += one.removed
        for index, (reason, detail) in taken.rejected:
            answer.rejected.append({"index": index, "reason": reason, "detail": detail})
        answer.reasons += handlers.tally(taken.rejected)
        return self._outbox.send([one.emit for one in taken.kept])

    def _count(self, source: str, answer: _Answer) -> None:
        adapters.ACCEPTED.labels(source).inc(len(answer.accepted))
        adapters.REMOVED.labels(source).inc(answer.removed)
        for reason, count in answer.reasons.items():
            adapters.REJECTED.labels(source, reason).inc(count)
        self.flow.answered(source, len(answer.accepted), len(answer.rejected))

    async def _work(self, act: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return await self._in_thread(act, *arguments)
        except batches.BadBody as bad:
            raise ProblemError(422, "the body cannot be read", str(bad)) from None

    async def _in_thread(self, act: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._worker, act, *arguments)

    @asynccontextmanager
    async def _body(self, request: Request, source: str) -> AsyncIterator[bytes]:
        """The request's body, unpacked and counted against the budget. Raises ProblemError."""
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("identity", "gzip"):
            raise ProblemError(415, "unknown content encoding", "Send gzip, or none.", {"Accept-Encoding": "gzip"})
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


def authenticated(request: Request, authorization: Authorization = None) -> str:
    """The source that the request's token was given for. Raises a 401 problem."""
    desk: Desk = request.app.state.desk
    return desk.producers.source(authorization)


async def timed(request: Request) -> AsyncIterator[None]:
    """Measure the request."""
    begun = time.perf_counter()
    try:
        yield
    finally:
        adapters.REQUEST_SECONDS.labels(request.url.path).observe(time.perf_counter() - begun)


Source = Annotated[str, Depends(authenticated)]
OfSource = Annotated[str, Query(alias="source", max_length=256)]
Timed = Annotated[None, Depends(timed)]


def application(ready: Readiness, desk: Desk) -> FastAPI:
    """The application of this service."""
    app = create_app(
        "Estuaire ingest",
        "Identities become tokens, content is stripped and sealed, and what is acknowledged is kept.",
        ready,
    )

    app.state.desk = desk

    @app.post("/v1/events", status_code=202, responses=_RESPONSES, openapi_extra=_body_of(*SPLITS))
    async def events(request: Request, source: Source, _: Timed, lane: Lane = "live") -> Response:
        """CloudEvents, acknowledged when the broker has them. `contracts/schemas/event.v1.schema.json` says how."""
        return await desk.events(request, source, lane)

    @app.post("/v1/fhir", status_code=202, responses=_RESPONSES, openapi_extra=_body_of(FHIR, JSON))
    async def fhir(request: Request, source: Source, _: Timed, lane: Lane = "live") -> Response:
        """A FHIR R4 Bundle or resource, acknowledged when the broker has its records."""
        return await desk.fhir(request, source, lane)

    @app.get("/v1/status", responses=_PROBLEMS)
    def status(mine: Source, source: OfSource, through: AwareDatetime, lane: Lane | None = None) -> dict[str, Any]:
        """Whether everything acknowledged before `through` is in the views, and what became of it."""
        _require_own(mine, source)
        moment = ceil(through.timestamp() * 1000)
        lanes = (lane,) if lane else LANES
        watermarks = desk.flow.watermarks
        for one in lanes:
            if not watermarks.is_complete(one, moment):
                desk.markers.ask(one, moment)
        return {
            "source": source,
            "through": through.isoformat(),
            "complete": all(watermarks.is_complete(one, moment) for one in lanes),
            "watermark": {one: _rfc3339(watermarks.reached(one)) for one in LANES},
            "counts": desk.flow.counts(source),
        }

    @app.get("/v1/records", responses=_PROBLEMS)
    def records(mine: Source, source: OfSource, id: Annotated[str, Query(max_length=256)]) -> dict[str, str]:
        """The hub's own id of a record."""
        _require_own(mine, source)
        return {"source": source, "id": id, "event_id": desk.ids.event_id(source, id)}

    return app


def _media_type(request: Request, known: Sequence[str] | dict[str, Split]) -> str:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in known:
        raise ProblemError(415, "unknown content type", f"Send one of {', '.join(known)}.")
    return kind


def _require_own(mine: str, source: str) -> None:
    if mine != source:
        raise ProblemError(403, "not your source", "Ask about the source that your token was given for.")


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
    return Response(msgspec.json.encode(problem.model_dump() | receipt), 422, media_type="application/problem+json")


def _rfc3339(moment: int | None) -> str | None:
    if moment is None:
        return None
    return datetime.fromtimestamp(moment / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _body_of(*kinds: str) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {kind: {"schema": {"type": "object"}} for kind in kinds}}}


_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    401: {"model": Problem, "description": "No known bearer token."},
    403: {"model": Problem, "description": "Another producer's source."},
}
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    202: {"model": Receipt, "description": "At least one event is kept."},
    400: {"model": Problem, "description": "The gzip body cannot be unpacked."},
    401: {"model": Problem, "description": "No known bearer token."},
    413: {"model": Problem, "description": "More bytes or events than a request may have."},
    415: {"model": Problem, "description": "Another content type or encoding."},
    422: {"model": Problem, "description": "No event is taken; `rejected` says why."},
    429: {"model": Problem, "description": "Wait for Retry-After seconds and send the same again."},
    503: {"model": Problem, "description": "The broker did not confirm; send the same again."},
}
