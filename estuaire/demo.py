"""The main job, once through: stream a sample from several producers and say what came out of each step."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import httpx
import msgspec
from rich.table import Table

from contracts.acl import subscriber
from contracts.permits import Permit, read_permit
from estuaire.client import Client, SendError
from estuaire.files import FileSender, Sent, groups_of
from estuaire.keyring import OFFICER, OPERATOR, Keyring
from estuaire.permits import Officer
from estuaire.producer import Producer
from estuaire.sample import sample
from estuaire.subscriber import Subscriber
from estuaire.topics import read
from runtime.messages import SUMMARIES, FlowSummary
from runtime.settings import RuntimeSettings

FILE_SOURCE = "urn:estuaire:producer:files"
Step = Mapping[str, Mapping[str, int]]


class Hub(Protocol):
    """A hub that runs: the platform here, or one in containers."""

    keyring: Keyring

    @property
    def ingest_url(self) -> str: ...
    @property
    def access_url(self) -> str: ...
    def settings(self) -> RuntimeSettings: ...
    def settings_as(self, principal: str) -> RuntimeSettings: ...


@dataclass(slots=True)
class Result:
    """What the demo prints: sent = accepted + rejected, accepted = linked + duplicates + dead_lettered."""

    sent: int = 0
    accepted: int = 0
    rejected: int = 0
    linked: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    patients: int = 0
    views: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def json(self) -> str:
        """One line of JSON."""
        return msgspec.json.encode(asdict(self)).decode()


def run(hub: Hub, records: Path | None) -> Result:
    """Grant the bundled permits, send the sample (or the files at `records`), wait for the views, and count."""
    begun = time.monotonic()
    permits = bundled_permits()
    grant(hub, permits)
    before = verdicts(hub)
    sent = _send_files(hub, records) if records else _send_sample(hub)
    after = verdicts(hub)
    linked, duplicates = (after[word] - before[word] for word in ("linked", "duplicates"))
    dead = sum(count - before[word] for word, count in after.items() if word.startswith("dead_lettered"))
    return Result(
        sent=sent.sent,
        accepted=sent.accepted,
        rejected=sent.rejected,
        linked=linked,
        duplicates=duplicates,
        dead_lettered=dead,
        patients=_counts(hub)["patients"],
        views={permit.id: _entries(hub, permit) for permit in permits},
        seconds=round(time.monotonic() - begun, 2),
    )


def as_table(result: Result) -> Table:
    """What came out of each step, for a person."""
    table = Table("step", "what came out", title=f"{result.sent} events in {result.seconds} s")
    table.add_row("ingest", f"{result.accepted} accepted, {result.rejected} refused with a reason")
    linked = f"{result.linked} linked, {result.duplicates} duplicates, {result.dead_lettered} dead letters"
    table.add_row("linkage", f"{linked}; {result.patients} patients")
    for permit, count in result.views.items():
        table.add_row("access", f"view-{permit}: {count} records")
    return table


def bundled_permits() -> list[Permit]:
    """The permits of the demo."""
    folder = files("estuaire") / "data" / "permits"
    return [read_permit(file.read_text()) for file in sorted(folder.iterdir(), key=lambda one: one.name)]


def grant(hub: Hub, permits: Sequence[Permit], deadline_seconds: float = 60.0) -> None:
    """Grant permits, with a token for each subscriber, and wait until they are open. Raises SendError."""
    officer = Officer(hub.access_url, hub.keyring.token(OFFICER, "officer"))
    for permit in permits:
        officer.grant(permit)
    wanted = {permit.id for permit in permits}
    deadline = time.monotonic() + deadline_seconds
    while wanted - _open(officer):
        if time.monotonic() > deadline:
            raise SendError(f"not open in time: {', '.join(sorted(wanted))}")
        time.sleep(0.05)


def _open(officer: Officer) -> set[str]:
    """The permits that are open; none, while access is busy. Raises SendError."""
    try:
        return {one["id"] for one in officer.permits() if one["state"] == "open"}
    except SendError as refused:
        if refused.status != httpx.codes.SERVICE_UNAVAILABLE:
            raise
        return set()


def verdicts(hub: Hub) -> Counter[str]:
    """What linkage has decided so far, by verdict; dead letters of any step count."""
    counts: Counter[str] = Counter()
    for message in read(hub.settings(), SUMMARIES):
        summary = msgspec.msgpack.decode(message.value() or b"", type=FlowSummary)
        for of_source in summary.counts.values():
            for verdict, count in of_source.items():
                if summary.step == "linkage" or verdict.startswith("dead_lettered"):
                    counts[verdict] += count
    return counts


def _send_sample(hub: Hub) -> Sent:
    """Each producer sends its own events in order, side by side with the others."""
    by_source: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in sample():
        by_source[one.source].append(one.event)
    hub.keyring.ensure_producers(by_source)
    total = Sent()

    def stream(source: str) -> Sent:
        mine = Sent()
        with Producer(hub.ingest_url, hub.keyring.producer_token(source)) as producer:
            for answer in producer.send(by_source[source]):
                mine.add(answer)
            _wait(producer, source)
        return mine

    with ThreadPoolExecutor(len(by_source)) as pool:
        for mine in pool.map(stream, by_source):
            total.include(mine)
    return total


def _send_files(hub: Hub, records: Path) -> Sent:
    token = hub.keyring.producer_token(FILE_SOURCE)
    total = Sent()
    with Producer(hub.ingest_url, token) as producer:
        sender = FileSender(producer, FILE_SOURCE)
        for group in groups_of([records])[0]:
            total.include(sender.send(group))
        _wait(producer, FILE_SOURCE)
    return total


def _wait(producer: Producer, source: str) -> None:
    if not producer.wait_for_views(source):
        raise SendError("what was sent is not in the views after two minutes; see the services' logs")


def _entries(hub: Hub, permit: Permit) -> int:
    """What its first subscriber reads of a view, by the rights of its own."""
    settings = hub.settings_as(subscriber(permit.subscribers[0]))
    return len(Subscriber(settings, permit.id).read().entries())


def _counts(hub: Hub) -> dict[str, Any]:
    token = hub.keyring.token(OPERATOR, "operator")
    counts: dict[str, Any] = Client(hub.access_url, token).ask("GET", "/v1/counts")
    return counts
