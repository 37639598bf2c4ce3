"""An ingest without a broker: keys of its own, a fake outbox, an application to call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from fastapi import FastAPI
from opentelemetry.sdk.trace import TracerProvider

from contracts.messages import Content, Headers, RecordReceived, TokenBlock, associated
from runtime.http import hash_token
from runtime.messages import Emit
from runtime.sealing import Opener, Sealer
from runtime.watched import WatchedFile
from services.ingest.adapters import Markers, NotKept, QueueFull, producers_from, tracing
from services.ingest.domain.flow import Flow, ThrottleRule
from services.ingest.domain.measures import Tally
from services.ingest.domain.receipts import Receipts
from services.ingest.domain.tokens import Tokeniser
from services.ingest.handlers import Ids, Intake
from services.ingest.routes import Desk, application
from services.ingest.settings import IngestSettings

SOURCE = "urn:estuaire:producer:chu-rennes"
TOKEN = "a token of the tests"
SECRET = {1: b"1" * 32}
PRIVATE = {name: X25519PrivateKey.from_private_bytes(name.encode().ljust(32)) for name in ("pseudonym", "access")}
EXAMPLES = Path(__file__).parents[3] / "contracts" / "examples" / "event" / "1"

Make = Callable[..., dict[str, Any]]


@dataclass
class FakeOutbox:
    """A broker that confirms, or does what the test asks for."""

    sent: list[Emit] = field(default_factory=list)
    room: bool = True
    full: bool = False
    failing: bool = False

    def has_room(self) -> bool:
        return self.room

    def send(self, emits: Sequence[Emit]) -> Future[None]:
        if self.full:
            raise QueueFull
        future: Future[None] = Future()
        if self.failing:
            future.set_exception(NotKept())
        else:
            self.sent += emits
            future.set_result(None)
        return future

    def opened(self, at: int = -1) -> tuple[TokenBlock, Content]:
        """What is sealed in one of the messages."""
        emit = self.sent[at]
        names = (Headers.EVENT_ID, Headers.TYPE, Headers.SOURCE, Headers.DIGEST)
        bound = associated(*(emit.headers[name].decode() for name in names))
        value = msgspec.msgpack.decode(emit.value or b"", type=RecordReceived)
        tokens = Opener([PRIVATE["pseudonym"]]).open(value.tokens, bound)
        content = Opener([PRIVATE["access"]]).open(value.content, bound)
        return msgspec.msgpack.decode(tokens, type=TokenBlock), msgspec.msgpack.decode(content, type=Content)


@dataclass
class Ingest:
    """The service, as its tests see it."""

    app: FastAPI
    outbox: FakeOutbox
    flow: Flow
    producers: Path
    tally: Tally

    def post(
        self, body: Any, kind: str = "application/x-ndjson", path: str = "/v1/events", **headers: str
    ) -> httpx.Response:
        """Send a body: bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.call("POST", path, content=content, headers={"Content-Type": kind, **headers})

    def get(self, path: str, **params: str) -> httpx.Response:
        """Ask."""
        return self.call("GET", path, params=params)

    def call(self, method: str, path: str, *, headers: dict[str, str] | None = None, **request: Any) -> httpx.Response:
        """One request, with the producer's token."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://ingest") as client:
                known = {"Authorization": f"Bearer {TOKEN}"} | (headers or {})
                return await client.request(method, path, headers=known, **request)

        return asyncio.run(ask())


def new_intake() -> Intake:
    """An intake under the keys of the tests."""
    to_pseudonym, to_access = (Sealer(PRIVATE[name].public_key()) for name in ("pseudonym", "access"))
    ids = Ids(b"e" * 32, b"d" * 32)
    trace = tracing(TracerProvider().get_tracer("test"), 0.0)
    return Intake(Tokeniser(SECRET), ids, to_pseudonym, to_access, trace)


@pytest.fixture
def ingest(tmp_path: Path) -> Iterator[Ingest]:
    producers = tmp_path / "producers.yaml"
    producers.write_text(json.dumps({"producers": [{"source": SOURCE, "token_sha256": hash_token(TOKEN)}]}))
    settings = IngestSettings(
        bootstrap_servers="nowhere:1", keys=tmp_path, producers=producers, max_body_bytes=100_000, max_events=1000
    )
    outbox, flow = FakeOutbox(), Flow(2, ThrottleRule())
    tally = Tally()
    desk = Desk(
        new_intake(),
        outbox,
        flow,
        Markers(flow, outbox, 2),
        WatchedFile(producers, producers_from),
        settings,
        tally,
        Receipts("here"),
    )
    yield Ingest(application(lambda: None, desk), outbox, flow, producers, tally)
    desk.close()


@pytest.fixture
def event() -> Make:
    """Makes a good event; changes replace its attributes, `identity` and `record` what is in its data."""

    def make(name: str = "hospital-stay", **changes: Any) -> dict[str, Any]:
        made: dict[str, Any] = json.loads((EXAMPLES / f"{name}.json").read_text()) | {"source": SOURCE}
        for part in ("identity", "record"):
            if part in changes:
                made["data"][part] = changes.pop(part)
        return made | changes

    return make
