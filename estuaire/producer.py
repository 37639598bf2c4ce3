"""A producer's client: sends events in batches, slows down when asked to, and knows what was kept.

    with Producer("https://ingest.chu-rennes.example", token) as producer:
        for answer in producer.send(events):                  # CloudEvents as dicts, or as JSON
            for refused in answer.rejected:
                print(answer.first + refused["index"], refused["reason"], refused["detail"])
        producer.wait_for_views("urn:estuaire:producer:chu-rennes")

Where events come one by one, `submit` gathers them, and leaving `with` sends the last of them:

    with Producer(url, token) as producer:
        for measure in device.measures():
            producer.submit(event_of(measure))

A request is repeated until it is answered, and the next one goes only then: so a correction never overtakes its
original, whatever has to be sent again. A producer is for one thread.
"""

from __future__ import annotations

import email.utils
import gzip
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import httpx
import msgspec

from estuaire.client import SendError

NDJSON: Final = "application/x-ndjson"
RETRY: Final = {
    httpx.codes.TOO_MANY_REQUESTS,
    httpx.codes.SERVICE_UNAVAILABLE,
    httpx.codes.BAD_GATEWAY,
    httpx.codes.GATEWAY_TIMEOUT,
}
BATCH: Final = 500
BATCH_BYTES: Final = 4 * 2**20
"""Events, and bytes of them, in one request; ingest takes four times as many bytes, and forty times as many events."""
PACKED_FROM: Final = 16 * 2**10
"""Bytes of a body from which on gzip pays: it is then a fifth of its size or less, for some 4 microseconds an event."""
LONGEST_PAUSE: Final = 5.0
"""Seconds between two attempts where the hub names none."""

_HERE: Final = {"127.0.0.1", "localhost", "::1"}
_HINTS: Final[dict[int, str]] = {
    httpx.codes.UNAUTHORIZED: "Ask who runs this ingest for the token of your source.",
    httpx.codes.NOT_FOUND: "Is the address that of ingest, without a path?",
}

_TOO_LARGE: Final = {
    "reason": "too-large",
    "detail": "the event is larger than a request to this ingest may be: send it in parts",
}

Event = Mapping[str, Any] | bytes
"""A CloudEvent, or its JSON on one line."""


@dataclass(slots=True)
class Answer:
    """What became of one request: the receipts of the events kept, and why the others were refused.

    `rejected` has the `index` of each within the request, a `reason` and a `detail`; `first` is the place of the
    request's first event among all that were sent.
    """

    accepted: list[dict[str, str]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    not_taken: dict[str, int] = field(default_factory=dict)
    first: int = 0


class Producer:
    """Sends for one source, over one connection. Retries are safe: the hub knows a record by its source and id."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        patience: float = 120.0,
        backfill: bool = False,
        packed: bool | None = None,
        pause: Callable[[float], object] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`patience`: seconds for which a request is repeated while the hub is busy or away; `math.inf` for ever.
        `packed`: whether large bodies are sent as gzip; if not said, unless the hub is on this machine. `pause` is
        called with the seconds between two attempts, and may raise to give up. Raises SendError on a bad address.
        """
        address = httpx.URL(url)
        if address.scheme not in ("http", "https") or not address.host:
            raise SendError(f"{url} is no address of ingest: write it as https://host:port")
        self._client = httpx.Client(
            base_url=address,
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
            params={"lane": "backfill" if backfill else "live"},
            transport=transport,
        )
        self._patience = patience
        self._packed = address.host not in _HERE if packed is None else packed
        self._pause = pause
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._pending_since = 0.0
        self._sent = 0

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """What was submitted is sent, unless an error led here."""
        try:
            if kind is None:
                self.flush()
        finally:
            self._client.close()

    def send(self, events: Iterable[Event], batch: int = BATCH, batch_bytes: int = BATCH_BYTES) -> Iterator[Answer]:
        """Send events in batches, an answer for each; more are asked for only when it is there. Raises SendError."""
        for event in events:
            if (answer := self._add(event, batch, batch_bytes, math.inf)) is not None:
                yield answer
        if (answer := self.flush()) is not None:
            yield answer

    def submit(
        self, event: Event, batch: int = BATCH, batch_bytes: int = BATCH_BYTES, linger: float = 1.0
    ) -> Answer | None:
        """Take one event, to be sent with the next ones; the answer, where it is the one that makes a batch go.

        That is when there are `batch` events or `batch_bytes` bytes of them, or the first has waited `linger` seconds
        (looked at when an event comes). It blocks while the hub is busy. Raises SendError; what was taken stays, and
        goes with the next call.
        """
        return self._add(event, batch, batch_bytes, linger)

    def flush(self) -> Answer | None:
        """Send what was submitted; None where there was nothing. Raises SendError."""
        if not self._pending:
            return None
        answer = self.send_lines(self._pending)
        answer.first = self._sent
        self._sent += len(self._pending)
        self._pending, self._pending_bytes = [], 0
        return answer

    def send_lines(self, lines: Sequence[bytes]) -> Answer:
        """Send events, each as `line_of` has it, in one request; in more where ingest takes less.

        The answer tells of each. Raises SendError.
        """
        try:
            answer = self.post("/v1/events", b"\n".join(lines), NDJSON)
        except SendError as error:
            if error.status != httpx.codes.REQUEST_ENTITY_TOO_LARGE:
                raise
        else:
            if len(answer.accepted) + len(answer.rejected) != len(lines):
                raise SendError("what answers is no ingest, or one of another version: it does not tell what it kept")
            return answer
        if len(lines) == 1:
            return Answer(rejected=[{"index": 0, **_TOO_LARGE}])
        half = len(lines) // 2
        left, right = self.send_lines(lines[:half]), self.send_lines(lines[half:])
        later = [{**one, "index": one["index"] + half} for one in right.rejected]
        return Answer(left.accepted + right.accepted, left.rejected + later)

    def send_fhir(self, document: bytes) -> Answer:
        """Send a FHIR R4 Bundle or resource. Raises SendError."""
        return self.post("/v1/fhir", document, "application/fhir+json")

    def oppose(self, objection: Mapping[str, Any]) -> Answer:
        """Send a person's opposition, or its end, as `contracts.events.Objection` has it. Raises SendError."""
        return self.post("/v1/oppositions", msgspec.json.encode(objection), "application/json")

    def ask(self, request: Mapping[str, Any]) -> Answer:
        """Send a person's request, as `contracts.events.PersonsRequest` has it. Raises SendError."""
        return self.post("/v1/requests", msgspec.json.encode(request), "application/json")

    def post(self, path: str, body: bytes, content_type: str) -> Answer:
        """One request, repeated for as long as the hub asks for patience. Raises SendError."""
        headers = {"Content-Type": content_type}
        if self._packed and len(body) >= PACKED_FROM:
            body = gzip.compress(body, 1, mtime=0)
            headers["Content-Encoding"] = "gzip"
        deadline = time.monotonic() + self._patience
        most = 0.1
        while True:
            try:
                response = self._client.post(path, content=body, headers=headers)
            except httpx.TransportError as error:
                status, asked = None, None
                host = self._client.base_url.host
                reason = f"no answer from {host} ({type(error).__name__}): is ingest running, and reachable?"
            else:
                status, asked = response.status_code, _retry_after(response)
                if status not in RETRY:
                    return _answer(response)
                reason = _title(response)
            wait = random.uniform(most / 2, most) if asked is None else asked + random.uniform(0, most)  # noqa: S311
            if time.monotonic() + wait > deadline:
                raise SendError(
                    f"{reason}; gave up after {self._patience:.0f} s. Nothing unacknowledged is kept: send again.",
                    status,
                )
            self._pause(wait)
            most = min(most * 2, LONGEST_PAUSE)

    def status(self, source: str, through: str | None = None) -> dict[str, Any]:
        """Whether everything acknowledged in this client's lane before `through` (now, if absent) is in the views.
        Raises SendError."""
        params = {"source": source, "through": through or datetime.now(UTC).isoformat()}
        response = self._client.get("/v1/status", params=params)
        if response.status_code != httpx.codes.OK:
            raise SendError(_title(response), response.status_code)
        status: dict[str, Any] = response.json()
        return status

    def wait_for_views(self, source: str, deadline_seconds: float = 120.0) -> bool:
        """Wait until everything acknowledged so far in this client's lane is in the views, whatever others are
        backfilling meanwhile; False when the deadline passes first."""
        through = datetime.now(UTC).isoformat()
        deadline = time.monotonic() + deadline_seconds
        while not self.status(source, through)["complete"]:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def event_id(self, source: str, record_id: str) -> str:
        """The hub's own id of a record. Raises SendError."""
        response = self._client.get("/v1/records", params={"source": source, "id": record_id})
        if response.status_code != httpx.codes.OK:
            raise SendError(_title(response), response.status_code)
        event_id: str = response.json()["event_id"]
        return event_id

    def _add(self, event: Event, most: int, most_bytes: int, linger: float) -> Answer | None:
        if not self._pending:
            self._pending_since = time.monotonic()
        self._pending.append(line_of(event))
        self._pending_bytes += len(self._pending[-1]) + 1
        full = len(self._pending) >= most or self._pending_bytes >= most_bytes
        return self.flush() if full or time.monotonic() - self._pending_since >= linger else None


def line_of(event: Event) -> bytes:
    """An event as JSON on one line. What is no JSON stays none, and what is empty becomes null, so that each event has
    its line and its reason."""
    if not isinstance(event, bytes):
        return msgspec.json.encode(event)
    line = event.removeprefix(b"\xef\xbb\xbf").replace(b"\n", b"\r")
    return line if line.strip() else b"null"


def _answer(response: httpx.Response) -> Answer:
    try:
        body = response.json()
    except ValueError:
        body = {}
    if response.status_code == httpx.codes.ACCEPTED or "rejected" in body:
        return Answer(body.get("accepted", []), body.get("rejected", []), body.get("not_taken", {}))
    hint = _HINTS.get(response.status_code, "")
    raise SendError(f"{_title(response)} {hint}".strip(), response.status_code)


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds, from either form of the header (RFC 9110, 10.2.3)."""
    asked = response.headers.get("Retry-After", "")
    if asked.isdigit():
        return float(asked)
    try:
        moment = email.utils.parsedate_to_datetime(asked).astimezone(UTC)
    except (ValueError, TypeError):
        return None
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _title(response: httpx.Response) -> str:
    try:
        problem = response.json()
        return f"{response.status_code}: {problem['title']}: {problem['detail']}"
    except (ValueError, KeyError):
        return f"the hub answered {response.status_code}"
