"""The audit log as a page shows it: entries, whether it is held fast, and what an inclusion proof shows. Pure."""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from contracts.merkle import includes, leaf_hash

FIELDS: Final = ("number", "at", "actor", "action", "permit", "count", "root", "about", "origin")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class Entry(NamedTuple):
    """An entry: what its line says, the line as it is hashed, and the hash that is kept."""

    says: Mapping[str, Any]
    line: str
    hash: str


class Checkpoint(NamedTuple):
    """A signed head: of which log, how many entries, their root, when, and under which key's name."""

    origin: str
    size: int
    root: bytes
    at: str
    signer: str


class Proven(NamedTuple):
    """What the proof of an entry shows: that its line has the hash, and that this leads to the root that is signed."""

    hash_fits: bool
    root_fits: bool
    steps: int
    root: str

    @property
    def holds(self) -> bool:
        """Whether the entry is in the log that was signed."""
        return self.hash_fits and self.root_fits


def entry(told: Mapping[str, Any]) -> Entry:
    """An entry, as audit answers it."""
    return Entry(json.loads(told["line"]), told["line"], told["hash"])


def checkpoint(note: str) -> Checkpoint | None:
    """What a note says; None for one that cannot be read. Its signature is for whoever has the key."""
    text, _, signatures = note.rpartition("\n\n")
    try:
        origin, size, root, time = text.splitlines()
        signer = signatures.split()[1]
        return Checkpoint(origin, int(size), base64.b64decode(root, validate=True), time.removeprefix("time "), signer)
    except (ValueError, IndexError, binascii.Error):
        return None


def proven(one: Entry, head: Checkpoint, hashes: Sequence[str]) -> Proven:
    """Work a proof out (RFC 9162, section 2.1.3.2)."""
    made = leaf_hash(one.line.encode())
    path = [bytes.fromhex(it) for it in hashes]
    fits = includes(head.root, head.size, one.says["number"], made, path)
    return Proven(made.hex() == one.hash, fits, len(path), head.root.hex())


def as_csv(entries: Iterable[Entry]) -> str:
    """Entries for a spreadsheet, a row each; what it would take for a formula begins with an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow((*FIELDS, "hash"))
    for one in entries:
        cells = [("" if one.says.get(name) is None else str(one.says.get(name))) for name in FIELDS]
        writer.writerow([f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in (*cells, one.hash)])
    return text.getvalue()


def as_ndjson(entries: Iterable[Entry]) -> str:
    """Entries as they are hashed, a line each: whoever has them can prove them."""
    return "".join(f"{one.line}\n" for one in entries)
