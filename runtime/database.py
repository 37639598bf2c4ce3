"""PostgreSQL under a step: one connection that comes back, migrations, and the progress row.

Kafka's fence does not cover the database. So a step's writes, its progress row (topic, partition, next offset)
and the outputs of the batch are one transaction here, moved by compare-and-set, before the Kafka transaction
begins. A zombie's batch fails at the row; a batch that was stored but not published is published again from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.resources.abc import Traversable
from typing import NamedTuple, Protocol

import msgspec
import psycopg

from runtime.messages import Emit, Place, RetryLater


class Progress(NamedTuple):
    """How far a partition has come: the next offset to read, and what the last batch put out."""

    next_offset: int
    outputs: list[Emit]


class ProgressMoved(Exception):
    """Another process has moved this partition on: what this one did is rolled back."""


class Store(Protocol):
    """The database of a step, as the loop sees it."""

    def meet(self, cluster: str) -> bool:
        """Whether the progress is about this broker's log, as it is about that of the first broker that it meets."""

    def begin_anew(self, cluster: str) -> AbstractContextManager[list[Emit]]:
        """Forget all progress, for it is about another broker's log; gives all outputs that may not be published, to
        be published before the end of it; no output where another process has begun anew."""

    def load(self, places: Sequence[Place]) -> dict[Place, Progress]:
        """The progress of those partitions that have any."""

    def transaction(self) -> AbstractContextManager[None]:
        """One transaction: the step's writes and its progress. Raises RetryLater when the database is away."""

    def advance(self, place: Place, expected: int | None, next_offset: int, outputs: Sequence[Emit]) -> None:
        """Move a partition on within the transaction. Raises ProgressMoved."""

    def clear(self, published: Mapping[Place, int]) -> None:
        """Forget the outputs of partitions that are at these offsets still: they are published. Raises RetryLater."""


_PROGRESS = """
CREATE TABLE IF NOT EXISTS progress (
    topic text NOT NULL, partition integer NOT NULL, next_offset bigint NOT NULL, outputs bytea NOT NULL,
    PRIMARY KEY (topic, partition));
ALTER TABLE progress ALTER outputs SET STORAGE EXTERNAL;
CREATE TABLE IF NOT EXISTS cluster (id text NOT NULL, one boolean PRIMARY KEY DEFAULT true CHECK (one));
CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now());
"""


class Database:
    """A service's own database. One connection, for one thread; it is opened again after it broke."""

    def __init__(self, url: str, migrations: Traversable | None = None) -> None:
        self._url = url
        self._migrations = migrations
        self._connection: psycopg.Connection | None = None
        self._outputs = msgspec.msgpack.Decoder(list[Emit])

    @property
    def connection(self) -> psycopg.Connection:
        """The connection, opened (and the schema brought up to date) when needed. Raises RetryLater."""
        if self._connection is None or self._connection.closed:
            try:
                self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=5)
                # a process suspended amid a transaction must not hold its successor up for ever
                self._connection.execute("SET idle_in_transaction_session_timeout = '60s'; SET TimeZone = 'UTC'")
                self._migrate(self._connection)
            except psycopg.OperationalError:
                raise RetryLater("the database does not answer") from None
        return self._connection

    def _migrate(self, connection: psycopg.Connection) -> None:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(4053019)")
            cursor.execute(_PROGRESS)
            done = {name for (name,) in cursor.execute("SELECT name FROM migrations")}
            files = self._migrations.iterdir() if self._migrations else ()
            for file in sorted(files, key=lambda one: one.name):
                if file.name.endswith(".sql") and file.name not in done:
                    cursor.execute(file.read_text().encode())
                    cursor.execute("INSERT INTO migrations (name) VALUES (%s)", [file.name])

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One transaction. Raises RetryLater when the database is away or asks for another try."""
        connection = self.connection
        try:
            with connection.transaction():
                yield
        except psycopg.Error as error:
            if not connection.closed and not isinstance(error, psycopg.OperationalError):
                raise
            raise RetryLater(f"the database asks for another try ({type(error).__name__})") from None

    def meet(self, cluster: str) -> bool:
        """Whether the progress is about this broker's log, as about that of the first one met. Raises RetryLater."""
        with self.transaction():
            self.connection.execute("INSERT INTO cluster VALUES (%s) ON CONFLICT DO NOTHING", [cluster])
            return self._cluster() == cluster

    def _cluster(self) -> str:
        row = self.connection.execute("SELECT id FROM cluster FOR UPDATE").fetchone()
        return row[0] if row else ""

    @contextmanager
    def begin_anew(self, cluster: str) -> Iterator[list[Emit]]:
        """Forget all progress once its outputs, which are given, are published. Raises RetryLater."""
        with self.transaction():
            if self._cluster() == cluster:
                yield []
                return
            rows = self.connection.execute("DELETE FROM progress RETURNING outputs").fetchall()
            yield [emit for (stored,) in rows for emit in self._outputs.decode(stored)]
            self.connection.execute("UPDATE cluster SET id = %s", [cluster])

    def load(self, places: Sequence[Place]) -> dict[Place, Progress]:
        """The progress of those partitions that have any. Raises RetryLater."""
        found = {}
        with self.transaction():
            for place in places:
                row = self.connection.execute(
                    "SELECT next_offset, outputs FROM progress WHERE topic = %s AND partition = %s", place
                ).fetchone()
                if row:
                    found[place] = Progress(row[0], self._outputs.decode(row[1]))
        return found

    def advance(self, place: Place, expected: int | None, next_offset: int, outputs: Sequence[Emit]) -> None:
        """Move a partition from `expected` (None: it has no row) to `next_offset`. Raises ProgressMoved."""
        stored = msgspec.msgpack.encode(outputs)
        if expected is None:
            done = self.connection.execute(
                "INSERT INTO progress VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
                [*place, next_offset, stored],
            )
        else:
            done = self.connection.execute(
                "UPDATE progress SET next_offset = %s, outputs = %s"
                " WHERE topic = %s AND partition = %s AND next_offset = %s",
                [next_offset, stored, *place, expected],
            )
        if done.rowcount != 1:
            raise ProgressMoved(f"{place.topic}/{place.partition} is no longer at {expected}")

    def clear(self, published: Mapping[Place, int]) -> None:
        """Forget the outputs of partitions that are at these offsets still. Raises RetryLater."""
        with self.transaction():
            for place, next_offset in published.items():
                self.connection.execute(
                    "UPDATE progress SET outputs = %s WHERE topic = %s AND partition = %s AND next_offset = %s",
                    [msgspec.msgpack.encode([]), *place, next_offset],
                )

    def close(self) -> None:
        """Give the connection back."""
        if self._connection is not None:
            self._connection.close()
