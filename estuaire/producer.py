"""A producer's client: sends events in batches, slows down when asked to, and knows what was kept."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import httpx
import msgspec

NDJSON = "application/x-ndjson"
RETRY = {httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.BAD_GATEWAY}


class SendError(Exception):
    """The hub cannot take what was sent. One line that says why, and never what."""


@dataclass(slots=True)
class Answer:
    """What became of one request: the receipts of the events kept, and why the others were refused."""

    accepted: list[dict[str, str]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    not_taken: dict[str, int] = field(default_factory=dict)


class Producer:
    """Sends for one source, over one connection. Retries are safe: the hub knows a record by its source and id."""

    def __init__(self, url: str, token: str, *, patience: float = 120.0, backfill: bool = False) -> None:
        self._client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
            params={"lane": "backfill"} if backfill else {},
        )
        self._patience = patience

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def send(self, events: Iterable[Mapping[str, Any] | bytes], batch: int = 500) -> Iterator[Answer]:
        """Send events (or their JSON, a line each) in batches; an answer for each batch. Raises SendError."""
        lines = (event if isinstance(event, bytes) else msgspec.json.encode(event) for event in events)
        while chunk := list(islice(lines, batch)):
            yield self.post("/v1/events", b"\n".join(chunk), NDJSON)

    def send_fhir(self, document: bytes) -> Answer:
        """Send a FHIR R4 Bundle or resource. Raises SendError."""
        return self.post("/v1/fhir", document, "application/fhir+json")

    def post(self, path: str, body: bytes, content_type: str) -> Answer:
        """One request, repeated for as long as the hub asks for patience. Raises SendError."""
        deadline = time.monotonic() + self._patience
        pause = 0.1
        while True:
            try:
                response = self._client.post(path, content=body, headers={"Content-Type": content_type})
            except httpx.TransportError as error:
                reason, asked = f"no answer ({type(error).__name__})", None
            else:
                if response.status_code not in RETRY:
                    return _answer(response)
                reason, asked = f"the hub answered {response.status_code}", response.headers.get("Retry-After")
            wait = float(asked) if asked and asked.isdigit() else pause
            if time.monotonic() + wait > deadline:
                raise SendError(
                    f"{reason}; gave up after {self._patience:.0f} s. Nothing unacknowledged is kept: send again."
                )
            time.sleep(wait)
            pause = min(pause * 2, 5.0)

    def status(self, source: str, through: str | None = None) -> dict[str, Any]:
        """Whether everything acknowledged before `through` (now, if absent) is in the views. Raises SendError."""
        params = {"source": source, "through": through or datetime.now(UTC).isoformat()}
        response = self._client.get("/v1/status", params=params)
        if response.status_code != httpx.codes.OK:
            raise SendError(_title(response))
        status: dict[str, Any] = response.json()
        return status

    def wait_for_views(self, source: str, deadline_seconds: float = 120.0) -> bool:
        """Wait until everything acknowledged so far is in the views; False when the deadline passes first."""
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
            raise SendError(_title(response))
        event_id: str = response.json()["event_id"]
        return event_id


def _answer(response: httpx.Response) -> Answer:
    try:
        body = response.json()
    except ValueError:
        body = {}
    if response.status_code == httpx.codes.ACCEPTED or "rejected" in body:
        return Answer(body.get("accepted", []), body.get("rejected", []), body.get("not_taken", {}))
    raise SendError(_title(response))


def _title(response: httpx.Response) -> str:
    try:
        problem = response.json()
        return f"{response.status_code}: {problem['title']}: {problem['detail']}"
    except (ValueError, KeyError):
        return f"the hub answered {response.status_code}"


def checked(response: httpx.Response) -> Any:
    """The answer of any service as JSON. Raises SendError with its problem."""
    if response.is_error:
        problem = response.json()
        raise SendError(f"{problem.get('title')}: {problem.get('detail')}")
    return response.json()
