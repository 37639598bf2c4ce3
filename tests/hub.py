"""A platform of the tests, with what tests do to it in a word each."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import httpx
import msgspec
import yaml
from confluent_kafka import Producer as KafkaProducer
from confluent_kafka.admin import AdminClient

from contracts.messages import Headers, Measures, associated, encode, measures_associated
from contracts.permits import Permit
from estuaire.demo import grant
from estuaire.platform import PORTS, Platform
from estuaire.producer import Answer, Producer
from estuaire.subscriber import Subscriber, View
from estuaire.topics import read
from runtime.kafka import common, producer_config
from runtime.keys import FolderKeyStore
from runtime.loop import message_from
from runtime.messages import SUMMARIES, FlowSummary, Message
from runtime.sealing import Opener, SealBroken, Sealer

_numbers = itertools.count(1)


class Hub:
    """The platform, with what tests do to it in a word each."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    def source(self) -> str:
        """A producer's source that no other test uses."""
        return f"urn:estuaire:producer:test-{next(_numbers)}"

    def register(self, source: str, silent_after: str | None = None) -> None:
        """Put a source into the registry, in place of what is said of it there."""
        path = self.platform.home / "sources.yaml"
        registry = yaml.safe_load(path.read_text())
        others = [one for one in registry["sources"] if one["source"] != source]
        entry = {"source": source, "title": "Of the tests"} | ({"silent_after": silent_after} if silent_after else {})
        path.write_text(yaml.safe_dump({"sources": [*others, entry]}))

    def remember(self, source: str, records: int, days: int) -> None:
        """Have the hub have counted so many records an hour of a source, at about this time of each of these days."""
        seal = Sealer(FolderKeyStore(self.platform.keyring.folder("ingest")).public("statistics-public"))
        writer, now = os.urandom(8), dt.datetime.now(dt.UTC)
        with self.writing() as producer:
            moments = [now - dt.timedelta(days=day, hours=hour) for day in range(1, days + 1) for hour in (-1, 0, 1)]
            for number, moment in enumerate(moments, 1):
                at = round(moment.timestamp() * 1000)
                counted = Measures(writer, number, {source: {"claim.v1": {"records": records}}})
                summary = FlowSummary("ingest", 0, at, (), measures=seal.seal(encode(counted), measures_associated(at)))
                producer.produce(SUMMARIES, encode(summary), b"ingest-0", timestamp=at)

    @contextmanager
    def writing(self) -> Iterator[KafkaProducer]:
        """Write to any topic, by the rights of the operator; at the end all of it is there."""
        producer = KafkaProducer(producer_config(self.platform.settings()))
        yield producer
        assert producer.flush(60) == 0

    def producer(self, source: str) -> Producer:
        """A client for that source."""
        return Producer(self.platform.ingest_url, self.platform.keyring.producer_token(source))

    def send(self, source: str, events: list[dict[str, Any]]) -> Answer:
        """Send events and wait until they are in the views."""
        with self.producer(source) as producer:
            (answer,) = producer.send(events, batch=max(1, len(events)))
            assert producer.wait_for_views(source), "not in the views in time"
        return answer

    def permit(self, *sources: str, **changes: Any) -> Permit:
        """Grant a permit over these sources, wide open but for the changes, and wait until it is open."""
        permit = self.drafted(*sources, **changes)
        grant(self.platform, [permit])
        return permit

    def drafted(self, *sources: str, **changes: Any) -> Permit:
        """Such a permit, not granted yet."""
        number = next(_numbers)
        definition: dict[str, Any] = {
            "id": f"permit-{number}",
            "title": "A permit of the tests",
            "purpose": "Tests",
            "sources": list(sources),
            "types": ["observation.v1", "claim.v1", "hospital-stay.v1", "diagnosis.v1"],
            "fields": {kind: ["*"] for kind in ("observation.v1", "claim.v1", "hospital-stay.v1", "diagnosis.v1")},
            "demographics": ["sex", "birth_year"],
            "potential_identifiers": 5,
            "expires": "2036-12-31",
            "subscribers": [f"team-{number}"],
        }
        return Permit.model_validate(definition | changes)

    def view(self, permit: Permit) -> View:
        """What a subscriber of the permit holds after reading to the end."""
        return Subscriber(self.platform.settings(), permit.id).read()

    def timelines(self, permit: Permit, limit: int = 1000) -> list[dict[str, Any]]:
        """All pages of the timelines over HTTP."""
        lines: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            params: dict[str, Any] = {"limit": limit} | ({"cursor": cursor} if cursor else {})
            page = self.get(f"/v1/permits/{permit.id}/timelines", "subscribers", permit.subscribers[0], **params)
            assert page.status_code == httpx.codes.OK, page.text
            lines += [json.loads(line) for line in page.text.splitlines()]
            cursor = page.headers.get("X-Next-Cursor")
        return lines

    def topics(self) -> list[str]:
        """The names of all topics but the broker's own."""
        names = AdminClient(common(self.platform.settings())).list_topics(timeout=10).topics
        return sorted(name for name in names if not name.startswith("__"))

    def messages(self, topic: str) -> list[Message]:
        """Every committed message of a topic."""
        return [message_from(one) for one in read(self.platform.settings(), topic)]

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        """Wait until the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition does not come true in time"
            time.sleep(0.1)

    def get(self, path: str, role: str, name: str, *, service: str = "access", **params: Any) -> httpx.Response:
        """Ask a service (access, if none is named), as somebody."""
        token = self.platform.keyring.token(name, role.removesuffix("s"))
        url = f"{self.platform.services[service].url}{path}"
        return httpx.get(url, params=params, headers={"Authorization": f"Bearer {token}"}, timeout=30)


@contextmanager
def meanwhile(work: Callable[[Event], None], seconds: float = 60) -> Iterator[None]:
    """Something goes on beside what is done here, in a thread: it is told when to end, and has so many seconds to."""
    stop = Event()
    thread = Thread(target=work, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(seconds)


def content(messages: Iterable[Message]) -> bytes:
    """All that stands in messages: keys, headers with their names, and values."""
    return b"\n".join(part for one in messages for part in _parts(one))


def _parts(message: Message) -> Iterator[bytes]:
    yield message.key or b""
    for name, value in message.headers.items():
        yield name.encode()
        yield value
    yield message.value or b""


def opened(message: Message, openers: Iterable[Opener]) -> Iterator[bytes]:
    """Each sealed part of a record, by whoever can open it."""
    if not message.value:
        return
    names = (Headers.EVENT_ID, Headers.TYPE, Headers.SOURCE, Headers.DIGEST)
    bound = associated(*(message.header(name) for name in names))
    for part in msgspec.msgpack.decode(message.value).values():
        for opener in openers:
            try:
                yield opener.open(part, bound)
            except SealBroken:
                continue


def free_base_port() -> int:
    """A base port of free ports; each process looks elsewhere first, for runs side by side."""
    first = os.getpid() % 1000
    for base in (18_000 + (first + number) % 1000 * 10 for number in range(1000)):
        try:
            for port in (base + offset for offset in PORTS.values()):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base
    raise RuntimeError("no free ports")
