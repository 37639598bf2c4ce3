"""What a producer's client knows to be kept: for each record, a digest of the last state that the hub acknowledged."""

from __future__ import annotations

import hmac
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import msgspec

from estuaire.client import SendError

_BYTES = 16
_MOST = 500
"""Records asked about in one statement."""


class LedgerError(SendError):
    """The ledger cannot be read or written. One line."""


class _Named(msgspec.Struct):
    id: str


_named = msgspec.json.Decoder(_Named)


class Ledger:
    """One source's records at one hub, in a file that only its owner can read.

    It holds keyed digests alone, under a key of its own: whoever finds it learns how many records were sent. A record
    is told by its `id`; what counts is its last state: files are known where they end in the state that was kept last,
    whatever they say before. All methods raise LedgerError.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        with self._guarded():
            self._kept = sqlite3.connect(path)
            self._kept.execute("CREATE TABLE IF NOT EXISTS key (key BLOB NOT NULL)")
            self._kept.execute("CREATE TABLE IF NOT EXISTS kept (record BLOB PRIMARY KEY, state BLOB) WITHOUT ROWID")
            self._kept.execute("CREATE TEMP TABLE ahead (record BLOB PRIMARY KEY, state BLOB) WITHOUT ROWID")
            known = self._kept.execute("SELECT key FROM key").fetchone()
            self._key: bytes = known[0] if known else secrets.token_bytes(32)
            if not known:
                self._kept.execute("INSERT INTO key VALUES (?)", (self._key,))
                self._kept.commit()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._kept.close()

    def is_empty(self) -> bool:
        """Whether nothing is known to be kept."""
        with self._guarded():
            return self._kept.execute("SELECT 1 FROM kept LIMIT 1").fetchone() is None

    def look_ahead(self, events: Iterable[bytes]) -> None:
        """Note events that are about to be asked for, in their order: a record's last state is what it ends in."""
        self._write("ahead", events)

    def knows(self, events: Sequence[bytes]) -> list[bool]:
        """Of each event, as JSON, whether it need not be sent: its record ends in the state that was kept last.

        A record that was not looked ahead at ends in this event.
        """
        records = [self._record(event) for event in events]
        named = [one for one in records if one is not None]
        states: dict[bytes, tuple[bytes, bytes | None]] = {}
        with self._guarded():
            for at in range(0, len(named), _MOST):
                asked = named[at : at + _MOST]
                rows = self._kept.execute(
                    "SELECT record, kept.state, ahead.state FROM kept LEFT JOIN ahead USING (record)"  # noqa: S608
                    f" WHERE record IN ({','.join('?' * len(asked))})",
                    asked,
                )
                states.update((record, (kept, ahead)) for record, kept, ahead in rows)
        found = []
        for record, event in zip(records, events, strict=True):
            kept, ahead = states.get(record or b"", (b"", None))
            found.append(bool(kept) and kept == (ahead or self._digest(event)))
        return found

    def keep(self, events: Iterable[bytes]) -> None:
        """The hub has acknowledged these, in this order."""
        self._write("kept", events)

    def _write(self, table: str, events: Iterable[bytes]) -> None:
        rows = [(record, self._digest(event)) for event in events if (record := self._record(event)) is not None]
        with self._guarded(), self._kept:
            self._kept.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", rows)  # noqa: S608

    def _record(self, event: bytes) -> bytes | None:
        try:
            return self._digest(b"id\0" + _named.decode(event).id.encode(errors="replace"))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None

    def _digest(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, "sha256")[:_BYTES]

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise LedgerError(
                f"{self._path} cannot be used ({error}): end what else uses it and look for room on the disk; if it is"
                " broken, delete it, and everything is sent again, which changes nothing"
            ) from None


def ledger_of(home: Path, url: str, source: str) -> Path:
    """Where the ledger of a source at a hub is."""
    name = sha256("\n".join((url.rstrip("/"), source)).encode()).hexdigest()[:32]
    return home / "send" / f"{name}.sqlite"
