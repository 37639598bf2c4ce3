"""Link a file without a broker: the hub's own code for both token levels and linkage, one batch after another."""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from contracts.messages import RulesSwitched
from estuaire.database import start_database
from estuaire.keyring import Keyring
from runtime.database import Database
from runtime.keys import FolderKeyStore
from runtime.messages import Emit, Message
from runtime.sealing import Opener
from services.ingest.adapters import intake_from
from services.ingest.handlers import Document, Intake
from services.linkage.adapters import MIGRATIONS, SqlPatientIndex, index_conninfo
from services.linkage.domain.rules import RULES, RuleVersion
from services.linkage.handlers import Link
from services.linkage.proposals import propose
from services.pseudonym.adapters import step_from

BATCH = 1000


class LinkError(Exception):
    """The file cannot be linked. One line."""


class Name(NamedTuple):
    """A record as its producer knows it."""

    source: str
    id: str


@dataclass(frozen=True, slots=True)
class Linked:
    """How a file was linked: the patient of each record, how many were refused, under which rules, and event ids."""

    patients: dict[Name, str]
    refused: int
    rules: RuleVersion
    seconds: float
    events: dict[Name, str]


def link_file(file: Path, estimated: bool = True) -> Linked:
    """Link each event of the file that names a source and an id and has a valid identity.

    `estimated`: under the rule version that linkage would propose for an index that holds this file, otherwise under
    the one that a hub begins with. Keys are made for this run and thrown away with its database, so patient and event
    ids of two runs do not compare. Raises LinkError.
    """
    with index_of(file, estimated) as (linked, _):
        return linked


@contextmanager
def index_of(file: Path, estimated: bool = True) -> Iterator[tuple[Linked, SqlPatientIndex]]:
    """`link_file`, with the index as it is afterwards, for as long as the context lasts."""
    begun = time.monotonic()
    if not file.is_file():
        raise LinkError(f"{file} does not exist")
    with tempfile.TemporaryDirectory(prefix="estuaire-link-") as folder:
        home = Path(folder)
        keyring = Keyring(home)
        keyring.prepare()
        with start_database(home, report=lambda _line: None) as server:
            database = Database(index_conninfo(server.url("linkage")), MIGRATIONS)
            index = SqlPatientIndex(database)
            names, batches, refused = _pseudonymised(file, keyring)
            opener = Opener(FolderKeyStore(keyring.folder("linkage")).private("linkage-private"))
            linkage = Link(index, opener)
            for batch in batches:
                linkage.prepare(batch)
            rules = RULES
            if estimated:
                rules = propose(index, RULES)
                with database.transaction():
                    index.switch(RulesSwitched(rules.name, b"", "", int(time.time() * 1000)), rules, ())
            for batch in batches:
                with database.transaction():
                    refused += len(linkage.handle(batch).dead)
            patients = index.patients()
            events = {name: event_id for event_id, name in names.items() if event_id in patients}
            found = {name: patients[event_id] for name, event_id in events.items()}
            try:
                yield Linked(found, refused, rules, time.monotonic() - begun, events), index
            finally:
                database.close()


def write_csv(linked: Linked, out: IO[str]) -> None:
    """Write `source,id,patient_id` for each record."""
    table = csv.writer(out, lineterminator="\n")
    table.writerow(("source", "id", "patient_id"))
    table.writerows((*name, patient) for name, patient in linked.patients.items())


def _pseudonymised(file: Path, keyring: Keyring) -> tuple[dict[str, Name], list[list[Message]], int]:
    """Every event through ingest's and pseudonym's steps: names by event id, batches for linkage, how many refused."""
    intake = intake_from(FolderKeyStore(keyring.folder("ingest")), lambda *_: "", BATCH)
    pseudonym = step_from(FolderKeyStore(keyring.folder("pseudonym")), "")
    names: dict[str, Name] = {}
    batches = []
    refused = 0
    offset = 0
    with file.open("rb") as lines:
        while chunk := list(islice(lines, BATCH)):
            emits, bad = _received(intake, chunk, names)
            received = _messages(emits, offset)
            offset += len(received)
            outputs = pseudonym.handle(received)
            batches.append(_messages([emit for _, emit in outputs.emits], offset))
            refused += bad + len(outputs.dead)
    return names, batches, refused


def _received(intake: Intake, chunk: list[bytes], names: dict[str, Name]) -> tuple[list[Emit], int]:
    emits, refused, now = [], 0, datetime.now(UTC)
    for index, event in enumerate(_identities(chunk)):
        taken = intake.take([Document(index, event)], str(event.get("source")), "live", now)
        refused += len(taken.rejected)
        for kept in taken.kept:
            names[kept.event_id] = Name(str(event["source"]), kept.id)
            emits.append(kept.emit)
    return emits, refused


def _identities(chunk: list[bytes]) -> Iterator[dict[str, Any]]:
    """The events with their identity alone, since the record plays no part in linkage."""
    for line in chunk:
        if not line.strip():
            continue
        try:
            event = msgspec.json.decode(line)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            event = None
        if not isinstance(event, dict):
            yield {}
            continue
        suffix = ".deleted" if str(event.get("type", "")).endswith(".deleted") else ""
        data = event.get("data")
        identity = data.get("identity", {}) if isinstance(data, dict) else {}
        yield {**event, "type": f"identity.v1{suffix}", "data": {"identity": identity}}


def _messages(emits: list[Emit], offset: int) -> list[Message]:
    now = int(time.time() * 1000)
    return [
        Message(emit.topic, 0, offset + number, now, emit.key, emit.value or b"", emit.headers)
        for number, emit in enumerate(emits)
    ]
