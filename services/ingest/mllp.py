"""HL7 v2 over MLLP (HL7 v2 Transport Specification: MLLP, Release 1), for senders that have no HTTP.

An address stands for one source: who may reach it may send as that source. So it is bound to a loopback or a hospital's
own network, and across networks it asks for a certificate of one of the authorities that are named (mutual TLS).

A connection has one message at a time, as the protocol has it. A message is answered once the broker has what came of
it; when it cannot be taken now, nothing is answered, and after a while the connection is closed: in the original mode
a sender repeats what was not answered, and repeating is always safe here. An AE or AR would be taken as final by many.
So a defect of the hub's own is not answered either, whatever else of the message is kept.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final

from runtime.http import ProblemError
from runtime.loop import Stopped
from runtime.telemetry import where
from services.ingest.adapters import MLLP_CLOSED, MLLP_MESSAGES, MLLP_OPEN
from services.ingest.domain.refusals import INTERNAL, Refusal
from services.ingest.formats.hl7v2 import messages as hl7v2
from services.ingest.formats.hl7v2.acknowledgement import acknowledgement, code_of
from services.ingest.routes import Desk
from services.ingest.settings import IngestSettings, Listening

log = logging.getLogger("estuaire.ingest")

START: Final = b"\x0b"
END: Final = b"\x1c\r"
FRAME_SECONDS: Final = 60.0
"""How long a message may take to arrive, from its first byte."""
PATIENCE_SECONDS: Final = 30.0
"""How long a message waits for a hub that cannot take it, before its connection is closed."""
_LATER: Final = (429, 503)


class Closed(Exception):
    """The connection is to be closed; the cause is counted."""


def tls_of(settings: IngestSettings) -> ssl.SSLContext | None:
    """What MLLP is heard under: certificates on both sides, or none. Raises ValueError."""
    if settings.mllp_certificate is None or settings.mllp_key is None or settings.mllp_clients is None:
        if settings.mllp_certificate or settings.mllp_key or settings.mllp_clients:
            raise ValueError("MLLP over TLS needs all of MLLP_CERTIFICATE, MLLP_KEY and MLLP_CLIENTS")
        return None
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=settings.mllp_clients)
        context.load_cert_chain(settings.mllp_certificate, settings.mllp_key)
    except OSError as error:  # SSLError is one
        raise ValueError(
            f"MLLP: the certificate, its key or the authorities cannot be read: {error.strerror}"
        ) from None
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class MllpListener:
    """Hears at all its addresses, in a loop of its own; a worker of the service."""

    def __init__(
        self,
        desk: Desk,
        settings: IngestSettings,
        tls: ssl.SSLContext | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._desk = desk
        self._settings = settings
        self._tls = tls
        self._patience = patience
        self._stopping = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.addresses: list[tuple[str, int]] = []
        self.started = threading.Event()

    def run(self) -> None:
        """Hear until asked to stop. Raises Stopped where an address cannot be had."""
        asyncio.run(self._run())

    def stop(self) -> None:
        """End soon. What is under way is not answered."""
        self._stopping.set()

    async def _run(self) -> None:
        servers = [await self._hear(one) for one in self._settings.listening]
        self.addresses = [server.sockets[0].getsockname()[:2] for server in servers]
        self.started.set()
        await asyncio.to_thread(self._stopping.wait)
        for server in servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _hear(self, at: Listening) -> asyncio.Server:
        try:
            return await asyncio.start_server(
                partial(self._connected, at.source), at.host, at.port, limit=hl7v2.LONGEST, ssl=self._tls
            )
        except OSError as error:
            raise Stopped(f"MLLP cannot be heard at {at.host}:{at.port}: {error.strerror}") from None

    async def _connected(self, source: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._tasks) >= self._settings.mllp_connections:
            MLLP_CLOSED.labels(source, "refused").inc()
            writer.close()
            return
        self._tasks.add(task)
        MLLP_OPEN.labels(source).inc()
        try:
            while not self._stopping.is_set() and (message := await self._message(reader)) is not None:
                answer = await self._answer(message, source)
                writer.write(START + answer + END)
                async with asyncio.timeout(FRAME_SECONDS):
                    await writer.drain()
        except Closed as closed:
            MLLP_CLOSED.labels(source, str(closed)).inc()
        except (OSError, TimeoutError):
            MLLP_CLOSED.labels(source, "broken").inc()
        except Exception as error:
            log.error("a message over MLLP cannot be taken: %s", where(error))
            MLLP_CLOSED.labels(source, "failed").inc()
        finally:
            MLLP_OPEN.labels(source).dec()
            self._tasks.discard(task)
            writer.close()

    async def _message(self, reader: asyncio.StreamReader) -> bytes | None:
        """The next message, or None where the sender has ended. Raises Closed."""
        try:
            async with asyncio.timeout(self._settings.mllp_idle_seconds):
                first = await _first(reader)
        except TimeoutError:
            raise Closed("idle") from None
        if not first:
            return None
        if first != START:
            raise Closed("broken")
        try:
            async with asyncio.timeout(FRAME_SECONDS):
                message = await reader.readuntil(END)
        except asyncio.LimitOverrunError:
            raise Closed("too-long") from None
        except (asyncio.IncompleteReadError, TimeoutError):
            raise Closed("broken") from None
        return message.removesuffix(END)

    async def _answer(self, message: bytes, source: str) -> bytes:
        refusals = await self._taken(message, source)
        MLLP_MESSAGES.labels(source, code_of(refusals)).inc()
        now = datetime.now(self._settings.zone)
        return acknowledgement(hl7v2.header(message), refusals, now, secrets.token_hex(8))

    async def _taken(self, message: bytes, source: str) -> Sequence[Refusal]:
        """What is refused of a message, once the rest is kept. Raises Closed where it cannot be taken."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                refusals = await self._desk.message(message, source)
                if INTERNAL in refusals:
                    MLLP_MESSAGES.labels(source, "none").inc()
                    raise Closed("failed")
                return refusals
            except ProblemError as problem:
                if problem.status_code not in _LATER:
                    return [Refusal("not-hl7", str(problem.detail))]
                wait = float((problem.headers or {}).get("Retry-After", 1))
            if time.monotonic() + wait > deadline:
                MLLP_MESSAGES.labels(source, "none").inc()
                raise Closed("busy")
            await asyncio.sleep(wait)


async def _first(reader: asyncio.StreamReader) -> bytes:
    """The first byte that is no line end: some senders put one between messages. Empty at the end."""
    while (byte := await reader.read(1)) in (b"\r", b"\n"):
        pass
    return byte
