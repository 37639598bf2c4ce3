"""The log in PostgreSQL, for the loop and for readers; the second place of its checkpoints; and the notary."""

from __future__ import annotations

import datetime as dt
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from threading import Event
from typing import Any, Final, NamedTuple, Protocol

import psycopg
from prometheus_client import Gauge
from psycopg_pool import ConnectionPool

from contracts.merkle import Tree, extends
from runtime.database import Database
from runtime.messages import RetryLater
from services.audit.domain.checkpoints import Checkpoint, NoteBroken, Signer, Verifier
from services.audit.domain.proofs import Node, consistency, cover, nodes_of, proof
from services.audit.domain.verification import Stored

log = logging.getLogger("estuaire.audit")

MIGRATIONS: Final = files("services.audit") / "migrations"
_GATE: Final = 4053022
_NODES: Final = (
    "SELECT level, index, hash FROM nodes JOIN unnest(%s::smallint[], %s::bigint[]) AS wanted (level, index)"
    " USING (level, index)"
)
_ENTRIES: Final = "SELECT number, line, coalesce(hash, '') FROM entries LEFT JOIN nodes ON level = 0 AND index = number"
_SIZE: Final = "SELECT coalesce(max(number) + 1, 0) FROM entries"

# Entries that no checkpoint holds fast yet: an alarm where it does not come back to 0.
UNSIGNED: Final = Gauge("estuaire_audit_entries_unsigned", "Entries after the last checkpoint.")
# When the log was last found to be what was signed before, and all of it signed (epoch seconds).
CHECKED_AT: Final = Gauge("estuaire_audit_checked_at_seconds", "When all of the log was last signed, or was already.")
# 1 once the log is not what was signed before; nothing is signed any more.
DISTRUSTED: Final = Gauge("estuaire_audit_distrusted", "Whether the log is not what was signed.")


# --- for the loop ---


class NodesMissing(Exception):
    """The tree is not whole."""


class PostgresLog:
    """The log over the loop's own connection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tree(self) -> Tree:
        """The tree over it; nobody else appends until the transaction ends."""
        connection = self._database.connection
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_GATE])
        try:
            return _tree(lambda query, *values: connection.execute(query.encode(), values).fetchall())
        except NodesMissing as damage:
            # no leaf is to blame, and none may become a dead letter: they wait until the log is repaired
            raise RetryLater(f"the audit log is damaged: {damage}") from None

    def append(self, lines: Sequence[tuple[int, bytes]], nodes: Sequence[tuple[Node, bytes]]) -> None:
        """Write lines by their numbers at the end, and the nodes of the tree that they make whole."""
        with self._database.connection.cursor() as cursor:
            with cursor.copy("COPY entries (number, line) FROM STDIN") as copy:
                for number, line in lines:
                    copy.write_row((number, line.decode()))
            with cursor.copy("COPY nodes (level, index, hash) FROM STDIN") as copy:
                for (level, index), hashed in nodes:
                    copy.write_row((level, index, hashed))


# --- for HTTP and the notary, on connections of their own ---


class Wanted(NamedTuple):
    """Which entries: `begin` and `end` are moments as entries state them, the second not included."""

    permit: str | None = None
    actor: str | None = None
    action: str | None = None
    begin: str | None = None
    end: str | None = None


class Reader(Protocol):
    """What the routes read. All raise RetryLater when the database does not answer."""

    def size(self) -> int:
        """How many entries there are."""

    def nodes(self, wanted: Iterable[Node]) -> dict[Node, bytes]:
        """Those of these nodes that are there."""

    def entries(self, start: int, most: int, wanted: Wanted) -> list[Stored]:
        """Entries from a number on, in their order."""

    def entries_back(self, start: int, most: int, wanted: Wanted) -> list[Stored]:
        """Entries from a number back, the newest first."""

    def checkpoints(self, after: int, most: int) -> list[tuple[int, str]]:
        """Signed notes of more than so many entries, with their sizes, in this order."""

    def last_checkpoint(self) -> str | None:
        """The newest note."""


class PostgresReader:
    """Reads over a pool of connections."""

    def __init__(self, url: str) -> None:
        options = "-c statement_timeout=60000 -c TimeZone=UTC"
        kwargs = {"options": options, "autocommit": True}
        self._pool = ConnectionPool(url, min_size=0, max_size=4, timeout=5, open=False, kwargs=kwargs)

    def open(self) -> None:
        """Begin to connect, when asked."""
        self._pool.open()

    def close(self) -> None:
        """Give the connections back."""
        self._pool.close()

    def size(self) -> int:
        """How many entries there are."""
        return int(self._run(_SIZE)[0][0])

    def tree(self) -> Tree:
        """The tree as it is now."""
        return _tree(self._run)

    def nodes(self, wanted: Iterable[Node]) -> dict[Node, bytes]:
        """Those of these nodes that are there."""
        return _nodes(self._run, list(wanted))

    def entries(self, start: int, most: int, wanted: Wanted) -> list[Stored]:
        """Entries from a number on, in their order."""
        return self._entries("number >= %s", "number", start, most, wanted)

    def entries_back(self, start: int, most: int, wanted: Wanted) -> list[Stored]:
        """Entries from a number back, the newest first."""
        return self._entries("number <= %s", "number DESC", start, most, wanted)

    def _entries(self, side: str, order: str, start: int, most: int, wanted: Wanted) -> list[Stored]:
        clauses = {
            "permit = %s": wanted.permit,
            "actor = %s": wanted.actor,
            "action = %s": wanted.action,
            "at >= %s": wanted.begin,
            "at < %s": wanted.end,
        }
        asked = {clause: value for clause, value in clauses.items() if value is not None}
        query = f"{_ENTRIES} WHERE {' AND '.join([side, *asked])} ORDER BY {order} LIMIT %s"
        rows = self._run(query, start, *asked.values(), most)
        return [Stored(number, line.encode(), bytes(hashed)) for number, line, hashed in rows]

    def checkpoints(self, after: int, most: int) -> list[tuple[int, str]]:
        """Signed notes of more than so many entries, with their sizes, in this order."""
        return self._run("SELECT size, note FROM checkpoints WHERE size > %s ORDER BY size LIMIT %s", after, most)

    def last_checkpoint(self) -> str | None:
        """The newest note."""
        rows = self._run("SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1")
        return rows[0][0] if rows else None

    def keep(self, size: int, note: str) -> None:
        """Write a note down."""
        self._run("INSERT INTO checkpoints VALUES (%s, %s) ON CONFLICT DO NOTHING", size, note)

    def _run(self, query: str, *values: Any) -> list[Any]:
        try:
            with self._pool.connection() as connection:
                cursor = connection.execute(query.encode(), values)
                return cursor.fetchall() if cursor.description else []
        except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
            raise RetryLater("the database does not answer, or has no tables yet") from None


Run = Callable[..., list[Any]]


def _tree(run: Run) -> Tree:
    size = int(run(_SIZE)[0][0])
    wanted = cover(0, size)
    found = _nodes(run, wanted)
    if len(found) != len(wanted):
        raise NodesMissing("nodes of the tree are missing")
    return Tree(size, [found[node] for node in wanted])


def _nodes(run: Run, wanted: Sequence[Node]) -> dict[Node, bytes]:
    rows = run(_NODES, [level for level, _ in wanted], [index for _, index in wanted])
    return {(level, index): bytes(hashed) for level, index, hashed in rows}


# --- the second place ---


class SecondPlace:
    """A folder outside of the database: notes one after the other, an empty line after each, in one file a month."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._whole: Path | None = None

    def notes(self) -> list[str]:
        """All notes, in the order in which they were written, and what stands for one and is none. Raises OSError."""
        read = (_notes(file.read_text(encoding="utf-8")) for file in self._files())
        return [note for whole, rest in read for note in (*whole, *([rest] if rest else []))]

    def last(self, count: int = 1000) -> list[str]:
        """The last whole notes, so many at least if there are, oldest first. Raises OSError."""
        found: list[str] = []
        for file in reversed(self._files()):
            found = _notes(file.read_text(encoding="utf-8"))[0] + found
            if len(found) >= count:
                break
        return found

    def add(self, note: str, month: str) -> None:
        """Write a note at the end, and wait until it is on the disk. What a crash left half written of it is completed.

        Raises OSError.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"checkpoints-{month}.txt"
        text = f"{note}\n"
        if path != self._whole and path.exists():
            rest = _notes(path.read_text(encoding="utf-8"))[1]
            # what is no part of this note is closed as one that nobody has signed
            text = (
                text.removeprefix(rest) if text.startswith(rest) else f"\n\n{'' if _END in rest else '-' + _END}{text}"
            )
        self._whole = None
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if os.write(descriptor, text.encode()) != len(text.encode()):
                raise OSError("the disk is full")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._whole = path

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("checkpoints-*.txt"))


_END: Final = "\n\n"


def _notes(text: str) -> tuple[list[str], str]:
    """The whole notes of a file, and what is left at its end."""
    blocks = text.split(_END)
    whole = (len(blocks) - 1) // 2
    notes = [f"{blocks[2 * at]}{_END}{blocks[2 * at + 1]}\n" for at in range(whole)]
    return notes, _END.join(blocks[2 * whole :])


# --- the notary ---


class Distrust(Exception):
    """The log is not what was signed before: nothing of it is signed any more. One line."""


class Notary:
    """Signs the head of the log where it has grown, into the database and then into the second place.

    Before it signs, it proves by the stored nodes that the log is what the second place holds, with more at its end.
    """

    def __init__(
        self,
        reader: PostgresReader,
        place: SecondPlace,
        signer: Signer,
        verifier: Verifier,
        seconds: float,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._reader = reader
        self._place = place
        self._signer = signer
        self._verifier = verifier
        self._seconds = seconds
        self._clock = clock
        self._last: Checkpoint | None = None
        self._is_even = False
        self._trouble: str | None = None
        self._distrusts = False
        self._stop = Event()

    def readiness(self) -> str | None:
        """None when it signs, otherwise why not."""
        return self._trouble

    def distrusts(self) -> bool:
        """Whether the log was not what was signed before, when it was last looked at."""
        return self._distrusts

    def stop(self) -> None:
        """Ask it to end; it signs once more."""
        self._stop.set()

    def run(self) -> None:
        """Sign every few seconds until asked to stop."""
        while not self._stop.wait(self._seconds):
            self._try()
        self._try()

    def sign(self) -> None:
        """Sign the head, if the log has grown. Raises Distrust, RetryLater, OSError."""
        if not self._is_even:
            self._even_out()
        try:
            tree, last = self._reader.tree(), self._last
        except NodesMissing as damage:
            raise Distrust(str(damage)) from None
        UNSIGNED.set(tree.size - (last.size if last else 0))
        if last is not None:
            self._check(last, tree)
        if tree.size == (last.size if last else 0):
            return
        head = Checkpoint(self._signer.origin, tree.size, tree.root(), self._clock().replace(microsecond=0))
        note = self._signer.sign(head)
        self._is_even = False
        self._reader.keep(head.size, note)
        self._place.add(note, f"{head.at:%Y-%m}")
        self._last, self._is_even = head, True
        UNSIGNED.set(0)

    def _check(self, last: Checkpoint, tree: Tree) -> None:
        if tree.size < last.size:
            raise Distrust(f"{last.size} entries were signed, and {tree.size} are there")
        spans = consistency(last.size, tree.size)
        try:
            hashes = proof(spans, self._reader.nodes(nodes_of(spans)))
        except KeyError:
            raise Distrust("nodes of the tree are missing") from None
        if not extends(last.root, last.size, tree.root(), tree.size, hashes):
            raise Distrust(f"the first {last.size} entries are not those that were signed")

    def _even_out(self) -> None:
        """Give each place the newest notes that only the other has: a crash, or a restored backup, lost them."""
        there = {one.size: note for note in self._place.last() if (one := self._opened(note)) is not None}
        newest = max(there, default=0)
        kept = dict(self._reader.checkpoints(min(there, default=0) - 1, 1_000_000))
        for size in sorted(there.keys() - kept.keys()):
            if size > max(kept, default=0):
                self._reader.keep(size, there[size])
        for size, note in sorted(kept.items()):
            one = self._opened(note)
            if size > newest and one is not None:
                self._place.add(note, f"{one.at:%Y-%m}")
                there[size] = note
        last = there[max(there)] if there else None
        self._last = self._opened(last) if last else None
        self._is_even = True

    def _opened(self, note: str) -> Checkpoint | None:
        try:
            return self._verifier.checkpoint(note)
        except NoteBroken as broken:
            log.error("a checkpoint is passed over: %s", broken)
            return None

    def _try(self) -> None:
        try:
            self.sign()
            self._trouble, self._distrusts = None, False
            CHECKED_AT.set(self._clock().timestamp())
            DISTRUSTED.set(0)
        except Distrust as why:
            self._distrusts = True
            DISTRUSTED.set(1)
            self._complain(f"the audit log is not signed any more, run `estuaire audit verify`: {why}")
        except (OSError, RetryLater) as away:
            self._complain(f"the head of the audit log is not signed yet ({type(away).__name__})")

    def _complain(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.error("%s", trouble)
        self._trouble = trouble


def keys_of(signer: Callable[[bytes], Signer], seeds: Mapping[int, bytes]) -> tuple[Signer, Verifier]:
    """The signer under the newest key, and a verifier of all."""
    signers = {version: signer(seed[:32]) for version, seed in seeds.items()}
    return signers[max(signers)], Verifier(one.verifier_key() for one in signers.values())
