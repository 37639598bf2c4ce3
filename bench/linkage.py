"""Linkage's step on a real index of ten thousand to a million people, beside Splink on the same records in the clear.

The step is called as the loop calls it, without a broker: `prepare`, then `handle` and the progress row in one
transaction. Known subjects are those that the index has; of three new ones, two are another source's record of somebody
in it, and the third is a stranger.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bench import splinked
from bench.filling import REVISION, fill
from bench.people import Tokens, first_record, newcomers
from contracts import messages
from contracts.messages import Headers, RecordPseudonymised, TokenBlock
from estuaire.database import start_database
from runtime.database import Database
from runtime.messages import Message, Place
from runtime.sealing import Opener, Sealer
from services.linkage.adapters import MIGRATIONS, SqlPatientIndex, index_conninfo
from services.linkage.domain.candidates import Holders
from services.linkage.handlers import LINKED, PSEUDONYMISED, Link

SMALLEST: Final = 1000
"""People in the smallest index that says anything."""
BATCH: Final = 1000
KNOWN: Final = 10_000
NEW: Final = 4_500
CONTENT_BYTES: Final = 1000
_WARM_BATCHES: Final = 12
_PLACE: Final = Place(PSEUDONYMISED, 0)


class Figures(msgspec.Struct):
    """What records cost: seconds on the clock, CPU seconds of this process (the database's are its own), and how many
    subjects' codes their searches brought; and the patients they were given."""

    records: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    candidates: int = 0
    patients: list[str] = []


def main(sizes: Sequence[int], json: bool = True, known: int = KNOWN, new: int = NEW) -> dict[str, Any]:
    """By the number of people in the index: records per second, CPU per record, and how the cost of new ones grows."""
    people: dict[str, dict[str, Any]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="estuaire-bench-") as folder,
        start_database(Path(folder), report=lambda _line: None) as server,
    ):
        for size in sorted(sizes):
            row = people[str(size)] = measure(server.url(f"linkage_{size}"), size, known, new) | splinked.measure(size)
            if not json:
                print(f"{size} people: " + "  ".join(f"{name.replace('_', ' ')} {one:g}" for name, one in row.items()))
    rates = [row["new_per_second"] for row in people.values()]
    return {"people": people, "new_cost_ratio": round(rates[0] / rates[-1], 2)}


def measure(url: str, people: int, known: int, new: int) -> dict[str, Any]:
    """Fill an empty index, then link a record of each of `known` people in it, and `new` records of new subjects.

    `candidates_per_new`: how many subjects' codes a search brings. `found`: the share of those new subjects whose
    person is in the index that were given this patient.
    """
    keys = {name: secrets.token_bytes(32) for name in ("level-1", "level-2")}
    known, strangers = min(known, people), new // 3
    begun = time.monotonic()
    persons = fill(url, people, keys, known, strangers)
    filled = time.monotonic() - begun
    inside, outside = persons[:known], persons[known:]
    fresh = newcomers(inside[:: max(1, known // (new - strangers))][: new - strangers], outside)
    tokens = Tokens(keys)
    with closing(Worker(url)) as worker:
        of_known = worker.link(tokens.blocks([first_record(one) for one in inside]))
        of_new = worker.link(tokens.blocks([one.record for one in fresh]))
    right = tokens.blocks([one.first for one in fresh if one.first])
    given = [patient for one, patient in zip(fresh, of_new.patients, strict=True) if one.first]
    found = [block.subject.hex() == patient for block, patient in zip(right, given, strict=True)]
    return {
        "known_per_second": round(of_known.records / of_known.seconds),
        "new_per_second": round(of_new.records / of_new.seconds),
        "cpu_us_per_known": round(of_known.cpu / of_known.records * 1e6, 1),
        "cpu_us_per_new": round(of_new.cpu / of_new.records * 1e6, 1),
        "candidates_per_new": round(of_new.candidates / of_new.records, 1),
        "found": round(sum(found) / len(found), 3),
        "fill_seconds": round(filled, 1),
    }


class Worker:
    """The step on a connection of its own, called as the loop does."""

    def __init__(self, url: str) -> None:
        self._database = Database(index_conninfo(url), MIGRATIONS)
        self._index = _Counting(self._database)
        private = X25519PrivateKey.generate()
        self._sealer = Sealer(private.public_key())
        self._step = Link(self._index, Opener([private]))
        self._offset: int | None = None

    def link(self, blocks: Sequence[TokenBlock]) -> Figures:
        """Link a record of each block. The first eighth, in small batches, is to warm up, and not in the figures."""
        figures = Figures()
        warm = len(blocks) // 8
        for batch in _batches(self._messages(blocks[:warm]), max(1, warm // _WARM_BATCHES)):
            self._take(batch, figures)
        figures = Figures(patients=figures.patients)
        for batch in _batches(self._messages(blocks[warm:]), BATCH):
            self._take(batch, figures)
        return figures

    def close(self) -> None:
        """Give the connection back."""
        self._database.close()

    def _take(self, batch: Sequence[Message], figures: Figures) -> None:
        before = self._index.candidates
        begun, cpu = time.monotonic(), time.process_time()
        self._step.prepare(batch)
        with self._database.transaction():
            outputs = self._step.handle(batch)
            next_offset = batch[-1].offset + 1
            self._database.advance(_PLACE, self._offset, next_offset, [emit for _, emit in outputs.emits])
        self._offset = next_offset
        figures.seconds += time.monotonic() - begun
        figures.cpu += time.process_time() - cpu
        figures.records += len(batch)
        figures.candidates += self._index.candidates - before
        figures.patients += (
            emit.headers[Headers.PATIENT_ID].decode() for _, emit in outputs.emits if emit.topic == LINKED
        )

    def _messages(self, blocks: Iterable[TokenBlock]) -> list[Message]:
        """A record of each block, new to the index."""
        return [self._message(block, (self._offset or 0) + number) for number, block in enumerate(blocks)]

    def _message(self, block: TokenBlock, offset: int) -> Message:
        event_id = hashlib.blake2b(f"new {offset}".encode(), digest_size=16).hexdigest()
        bound = messages.associated(event_id, "identity.v1", block.source, event_id)
        tokens = self._sealer.seal(msgspec.msgpack.encode(block), bound)
        headers = {
            Headers.EVENT_ID: event_id,
            Headers.TYPE: "identity.v1",
            Headers.SOURCE: block.source,
            Headers.DIGEST: event_id,
            Headers.REVISION: REVISION,
        }
        return Message(
            *_PLACE,
            offset,
            0,
            event_id.encode(),
            messages.encode(RecordPseudonymised(tokens, os.urandom(CONTENT_BYTES))),
            {name: text.encode() for name, text in headers.items()},
        )


class _Counting(SqlPatientIndex):
    """The index, and how many subjects' codes its searches have brought."""

    candidates = 0

    def search(self, tokens: Iterable[bytes]) -> dict[bytes, Holders]:
        found = super().search(tokens)
        self.candidates += sum(one.count for one in found.values())
        return found


def _batches(batch: Sequence[Message], size: int) -> list[Sequence[Message]]:
    return [batch[start : start + size] for start in range(0, len(batch), size)]
