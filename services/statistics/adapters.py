"""What statistics needs from outside: the broker, and the database both ways."""

from __future__ import annotations

import datetime as dt
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, Final, NamedTuple, Protocol

import psycopg
from psycopg_pool import ConnectionPool

from contracts.measures import RECORDS, REFUSED, RETRACTIONS
from runtime.database import Database
from runtime.messages import RetryLater
from services.statistics.domain.alarms import Alarm
from services.statistics.domain.counting import Counted

log = logging.getLogger("estuaire.statistics")

MIGRATIONS: Final = files("services.statistics") / "migrations"
_REMEMBERED: Final = dt.timedelta(days=8)
"""A writer that was silent for so long has no message left in the topic, which keeps seven days."""


# --- what is counted ---


class PostgresMemory:
    """What was counted, in the transaction of the database that it is given."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sources(self) -> set[str]:
        """The sources that were heard of."""
        return {source for (source,) in self._run("SELECT source FROM sources")}

    def words(self) -> set[str]:
        """The reasons, flags and verdicts that were met."""
        return {word for (word,) in self._run("SELECT word FROM words")}

    def numbers(self, writers: Collection[bytes]) -> dict[bytes, int]:
        """The number of each writer's last message."""
        return dict(self._run("SELECT writer, number FROM writers WHERE writer = ANY(%s)", list(writers)).fetchall())

    def add(self, counted: Counted, numbers: Mapping[bytes, int], today: dt.date) -> None:
        """Add to the counts, and note the writers' last numbers."""
        for word in counted.words:
            self._run("INSERT INTO words VALUES (%s) ON CONFLICT DO NOTHING", word)
        sources = {place.source for place in counted.counts} | counted.seen.keys()
        rows = [(source, *counted.seen.get(source, (None, None))) for source in sorted(sources)]
        if rows:
            self._run(
                "INSERT INTO sources AS old SELECT * FROM unnest(%s::text[], %s::timestamptz[], %s::timestamptz[])"
                " ON CONFLICT (source) DO UPDATE SET first_seen = least(old.first_seen, EXCLUDED.first_seen),"
                " last_seen = greatest(old.last_seen, EXCLUDED.last_seen)"
                " WHERE EXCLUDED.last_seen IS NOT NULL",
                *_columns(rows),
            )
        counts = [(*place, count) for place, count in sorted(counted.counts.items())]
        if counts:
            self._run(
                "INSERT INTO measures AS old"
                " SELECT * FROM unnest(%s::text[], %s::date[], %s::text[], %s::text[], %s::bigint[])"
                " ON CONFLICT (source, day, type, measure) DO UPDATE SET count = old.count + EXCLUDED.count",
                *_columns(counts),
            )
        if numbers:
            self._run(
                "INSERT INTO writers SELECT w, n, %s FROM unnest(%s::bytea[], %s::bigint[]) AS last (w, n)"
                " ON CONFLICT (writer) DO UPDATE SET number = EXCLUDED.number, seen = EXCLUDED.seen",
                today,
                *_columns(sorted(numbers.items())),
            )
            self._run("DELETE FROM writers WHERE seen < %s", today - _REMEMBERED)

    def _run(self, query: str, *parameters: Any) -> psycopg.Cursor[Any]:
        return self._database.connection.execute(query.encode(), parameters)


def _columns(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


# --- what HTTP reads, on connections of its own ---


class Seen(NamedTuple):
    """When a source was heard of, and what it sent since a day; what was refused, by reason."""

    first: dt.datetime | None
    last: dt.datetime | None
    accepted: int
    refused: Mapping[str, int]


class Totals(NamedTuple):
    """A source's counts in a period: by type and measure, and by day those of volume."""

    counts: dict[tuple[str, str], int]
    days: list[tuple[dt.date, str, int]]


class Reader(Protocol):
    """What the routes read. All raise RetryLater when the database does not answer."""

    def sources(self, begin: dt.date, end: dt.date) -> dict[str, Seen]:
        """Every source that was heard of, with what it sent from one day to another, both included."""

    def totals(self, source: str, begin: dt.date, end: dt.date) -> Totals:
        """A source's counts from one day to another, both included."""


class PostgresReader:
    """Reads over a pool of connections."""

    def __init__(self, url: str) -> None:
        options = "-c statement_timeout=10000 -c TimeZone=UTC"
        self._pool = ConnectionPool(url, min_size=0, max_size=4, timeout=5, open=False, kwargs={"options": options})

    def open(self) -> None:
        """Begin to connect, when asked."""
        self._pool.open()

    def close(self) -> None:
        """Give the connections back."""
        self._pool.close()

    def sources(self, begin: dt.date, end: dt.date) -> dict[str, Seen]:
        """Every source that was heard of, with what it sent from one day to another, both included."""
        rows = self._read(
            "SELECT s.source, first_seen, last_seen,"
            " coalesce(sum(count) FILTER (WHERE measure = ANY(%s)), 0)::bigint"
            " FROM sources s LEFT JOIN measures m ON m.source = s.source AND m.day BETWEEN %s AND %s GROUP BY s.source",
            *([RECORDS, RETRACTIONS], begin, end),
        )
        refused: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for source, measure, count in self._read(
            "SELECT source, measure, sum(count)::bigint FROM measures WHERE day BETWEEN %s AND %s"
            " AND starts_with(measure, %s) GROUP BY source, measure",
            *(begin, end, REFUSED),
        ):
            refused[source][measure.removeprefix(REFUSED)] = count
        return {source: Seen(first, last, took, refused.get(source, {})) for source, first, last, took in rows}

    def totals(self, source: str, begin: dt.date, end: dt.date) -> Totals:
        """A source's counts from one day to another, both included."""
        counts = self._read(
            "SELECT type, measure, sum(count)::bigint FROM measures WHERE source = %s AND day BETWEEN %s AND %s"
            " GROUP BY type, measure",
            *(source, begin, end),
        )
        days = self._read(
            "SELECT day, measure, sum(count)::bigint FROM measures WHERE source = %s AND day BETWEEN %s AND %s"
            " AND (measure = ANY(%s) OR starts_with(measure, %s)) GROUP BY day, measure ORDER BY day",
            *(source, begin, end, [RECORDS, RETRACTIONS], REFUSED),
        )
        return Totals({(kind, measure): count for kind, measure, count in counts}, days)

    def last_seen(self) -> dict[str, dt.datetime]:
        """When each source was last heard of."""
        return dict(self._read("SELECT source, last_seen FROM sources WHERE last_seen IS NOT NULL"))

    def alarms(self) -> list[Alarm]:
        """The alarms that stand."""
        return [Alarm(*row) for row in self._read("SELECT source, kind, since, expected, seen FROM alarms")]

    def replace_alarms(self, standing: Iterable[Alarm]) -> None:
        """From now on these stand."""
        rows = [(one.source, one.kind, one.since, one.expected, one.seen) for one in standing]
        with self._connected() as connection:
            connection.execute("LOCK TABLE alarms IN EXCLUSIVE MODE")
            connection.execute("DELETE FROM alarms")
            with connection.cursor() as cursor:
                cursor.executemany("INSERT INTO alarms VALUES (%s, %s, %s, %s, %s)", rows)

    def _read(self, query: str, *parameters: Any) -> list[Any]:
        with self._connected() as connection:
            return connection.execute(query.encode(), parameters).fetchall()

    @contextmanager
    def _connected(self) -> Iterator[psycopg.Connection]:
        try:
            with self._pool.connection() as connection:
                yield connection
        except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
            raise RetryLater("the database does not answer, or has no tables yet") from None
