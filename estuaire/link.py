"""Link a file without a broker: the hub's own code for both token levels and linkage, one batch after another."""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import msgspec

from estuaire.database import start_database
from estuaire.keyring import Keyring
from runtime.database import Database
from runtime.keys import FolderKeyStore
from runtime.messages import Emit, Message, Outputs
from runtime.sealing import Opener
from services.ingest.adapters import intake_from
from services.ingest.handlers import Document, Intake
from services.linkage.adapters import MIGRATIONS, SqlPatientIndex, index_conninfo
from services.linkage.handlers import Link
from services.pseudonym.adapters import step_from

BATCH = 1000


class LinkError(Exception):
    """The file cannot be linked. One line."""


@dataclass(frozen=True, slots=True)
class Linked:
    """How a file was linked."""

    records: int
    patients: int
    refused: int
    seconds: float


def link_file(file: Path, out: IO[str]) -> Linked:
    """Write `source,id,patient_id` for each event of the file that names a source and an id and has a valid identity.

    Keys are made for this run and thrown away with its database, so patient ids of two runs do not compare.
    Raises LinkError.
    """
    begun = time.monotonic()
    if not file.is_file():
        raise LinkError(f"{file} does not exist")
    with tempfile.TemporaryDirectory(prefix="estuaire-link-") as folder:
        home = Path(folder)
        keyring = Keyring(home)
        keyring.prepare()
        with start_database(home, report=lambda _line: None) as server:
            database = Database(index_conninfo(server.url("linkage")), MIGRATIONS)
            names, refused = _run(file, keyring, database)
            patients = SqlPatientIndex(database).patients()
            rows = [(source, record_id, patients[event_id]) for event_id, (source, record_id) in names.items()]
            database.close()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(("source", "id", "patient_id"))
    table.writerows(rows)
    return Linked(len(rows), len({patient for _, _, patient in rows}), refused, time.monotonic() - begun)


def _run(file: Path, keyring: Keyring, database: Database) -> tuple[dict[str, tuple[str, str]], int]:
    """Push every event through ingest's, pseudonym's and linkage's steps; returns the names by event id."""
    intake = intake_from(FolderKeyStore(keyring.folder("ingest")), lambda _given, _begun: "", BATCH)
    pseudonym = step_from(FolderKeyStore(keyring.folder("pseudonym")), "")
    opener = Opener(FolderKeyStore(keyring.folder("linkage")).private("linkage-private"))
    linkage = Link(SqlPatientIndex(database), opener)
    names: dict[str, tuple[str, str]] = {}
    refused = 0
    offset = 0
    with file.open("rb") as lines:
        while chunk := list(islice(lines, BATCH)):
            emits, bad = _received(intake, chunk, names)
            received = _messages(emits, offset)
            offset += len(received)
            pseudonymised = _messages([emit for _, emit in pseudonym.handle(received).emits], offset)
            linkage.prepare(pseudonymised)
            with database.transaction():
                outputs: Outputs = linkage.handle(pseudonymised)
            refused += bad + len(outputs.dead)
    return names, refused


def _received(intake: Intake, chunk: list[bytes], names: dict[str, tuple[str, str]]) -> tuple[list[Emit], int]:
    emits, refused = [], 0
    for index, event in enumerate(_identities(chunk)):
        taken = intake.take([Document(index, event)], str(event.get("source")), "live", None)
        refused += len(taken.rejected)
        for kept in taken.kept:
            names[kept.event_id] = (str(event["source"]), kept.id)
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
