"""What a producer's client knows to be kept: for each record, a digest of the last state that the hub acknowledged."""

from __future__ import annotations

import hmac
import os
import secrets
import sqlite3
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec

_BYTES = 16
_MOST = 500
"""Records asked about in one statement."""


class _Named(msgspec.Struct):
    id: str


_named = msgspec.json.Decoder(_Named)


class Ledger:
    """One source's records at one hub, in a file that only its owner can read.

    It holds keyed digests alone, under a key of its own: whoever finds it learns how many records were sent. A record
    is told by its `id`, so that a state which was replaced and comes back is sent again.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._kept = sqlite3.connect(path)
        self._kept.execute("CREATE TABLE IF NOT EXISTS key (key BLOB NOT NULL)")
        self._kept.execute("CREATE TABLE IF NOT EXISTS kept (record BLOB PRIMARY KEY, state BLOB) WITHOUT ROWID")
        known = self._kept.execute("SELECT key FROM key").fetchone()
        self._key: bytes = known[0] if known else secrets.token_bytes(32)
        if not known:
            self._kept.execute("INSERT INTO key VALUES (?)", (self._key,))
            self._kept.commit()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()

    def knows(self, events: Sequence[bytes]) -> list[bool]:
        """Of each event, as JSON, whether the last state kept of its record is the same. `_MOST` at a time."""
        records = [self._record(event) for event in events]
        named = [one for one in records if one is not None]
        states: dict[bytes, bytes] = {}
        for at in range(0, len(named), _MOST):
            asked = named[at : at + _MOST]
            rows = self._kept.execute(f"SELECT record, state FROM kept WHERE record IN ({_marks(asked)})", asked)  # noqa: S608
            states.update(rows)
        return [
            record is not None and states.get(record) == self._digest(event)
            for record, event in zip(records, events, strict=True)
        ]

    def keep(self, events: Iterable[bytes]) -> None:
        """The hub has acknowledged these, in this order."""
        rows = [(record, self._digest(event)) for event in events if (record := self._record(event)) is not None]
        with self._kept:
            self._kept.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", rows)

    def _record(self, event: bytes) -> bytes | None:
        try:
            return self._digest(b"id\0" + _named.decode(event).id.encode(errors="replace"))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None

    def _digest(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, "sha256")[:_BYTES]


def ledger_of(home: Path, url: str, source: str) -> Path:
    """Where the ledger of a source at a hub is."""
    name = sha256("\n".join((url.rstrip("/"), source)).encode()).hexdigest()[:32]
    return home / "send" / f"{name}.sqlite"


def _marks(asked: Sequence[bytes]) -> str:
    return ",".join("?" * len(asked))
