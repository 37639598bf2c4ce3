"""What subscribers read over HTTP, as a role that PostgreSQL holds to the rows of one permit (ADR 30)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import psycopg

from contracts.events import OF_RIGHTS
from services.access.adapters import withheld_by
from services.access.domain.indicators import Cell
from services.access.domain.policy import Facts
from services.access.domain.views import Told
from services.access.lookup import PooledReader
from services.access.reconciliation import Release


class ViewSubject(NamedTuple):
    """A patient of a view, by the project's id, and how many entries it has."""

    subject: str
    patient: str
    entries: int


class EntryRow(NamedTuple):
    """A record of a view, still sealed."""

    patient: str
    sequence: int
    facts: Facts
    key: bytes | None
    body: bytes | None


class Pages(Protocol):
    """What subscribers' routes read: of the permit that they were let in under, and nothing else."""

    def subjects(self, release: Release, after: str, entries: int) -> tuple[list[ViewSubject], bool]: ...
    def timelines(self, release: Release, patients: Sequence[str]) -> tuple[list[EntryRow], dict[str, list[Told]]]: ...
    def qualified(self, release: Release, patients: Sequence[str]) -> set[str]: ...
    def opposed(self, release: Release, patients: Sequence[str]) -> dict[str, frozenset[str]]: ...
    def indicators(
        self, release: Release, area: str | None, diagnosis: str | None
    ) -> tuple[dt.date | None, list[Cell]]: ...


class PostgresPages(PooledReader):
    """Each call is one snapshot, and empty once the permit is closed or suspended."""

    @contextmanager
    def _opened(self, release: Release) -> Iterator[psycopg.Connection[Any]]:
        """A transaction that sees the rows of this permit alone, until its end."""
        with self._pool.connection() as connection:
            connection.execute("SELECT set_config('estuaire.ticket', %s, true)", [release.ticket])
            yield connection

    def subjects(self, release: Release, after: str, entries: int) -> tuple[list[ViewSubject], bool]:
        """The next patients of a view by their ids there, until they have `entries`; and whether more follow."""
        found: list[ViewSubject] = []
        total = 0
        with self._opened(release) as connection, connection.cursor(name="subjects") as cursor:
            cursor.itersize = min(entries, 500)
            cursor.execute(
                "SELECT v.subject, v.patient, e.entries FROM view_patients v CROSS JOIN LATERAL"
                " (SELECT count(*) AS entries FROM view_entries WHERE permit = v.permit AND patient = v.patient) e"
                " WHERE v.permit = %s AND v.subject > %s AND e.entries > 0 ORDER BY v.subject",
                [release.permit, after],
            )
            for row in cursor:
                if total >= entries:
                    return found, True
                found.append(ViewSubject(*row))
                total += row[2]
        return found, False

    def timelines(self, release: Release, patients: Sequence[str]) -> tuple[list[EntryRow], dict[str, list[Told]]]:
        """The entries of these patients, and what each patient's subjects say of it."""
        with self._opened(release) as connection:
            keys: dict[tuple[str, bytes], bytes | None] = {}
            told: dict[str, list[Told]] = {}
            for patient, subject, key, demographics in connection.execute(
                "SELECT patient, subject, key, demographics FROM subjects WHERE patient = ANY(%s)",
                [list(patients)],
                binary=True,
            ):
                keys[patient, subject] = key
                told.setdefault(patient, []).append(demographics)
            rows = connection.execute(
                "SELECT e.patient, e.sequence, event_id, subject, revision, type, source, time, retracted, dated, body"
                " FROM view_entries e JOIN history h USING (event_id) WHERE e.permit = %s AND e.patient = ANY(%s)",
                [release.permit, list(patients)],
                binary=True,
            )
            # a record whose subject is somebody else's by now has none of its patient's keys
            return [
                EntryRow(row[0], row[1], Facts(*row[2:10]), keys[row[0], row[3]], row[10])
                for row in rows
                if (row[0], row[3]) in keys
            ], told

    def qualified(self, release: Release, patients: Sequence[str]) -> set[str]:
        """Those patients whose records give the evidence that the permit's population asks for."""
        evidence = release.policy.evidence
        if not evidence.is_asked():
            return set()
        with self._opened(release) as connection:
            rows = connection.execute(
                "SELECT patient FROM qualified_in_view(%s, %s, %s, %s)",
                [list(patients), evidence.cohort, list(OF_RIGHTS), list(evidence.prefixes)],
            )
            return {patient for (patient,) in rows}

    def opposed(self, release: Release, patients: Sequence[str]) -> dict[str, frozenset[str]]:
        """To what those of these patients object who do, or may be somebody who does."""
        with self._opened(release) as connection:
            rows = connection.execute("SELECT patient, withholds FROM opposed_in_view(%s)", [list(patients)])
            return withheld_by(rows)

    def indicators(
        self, release: Release, area: str | None, diagnosis: str | None
    ) -> tuple[dt.date | None, list[Cell]]:
        """When indicators were released last, if ever, and the cells that are shown."""
        with self._opened(release) as connection:
            released = connection.execute(
                "SELECT released FROM indicator_releases WHERE permit = %s", [release.permit]
            ).fetchone()
            rows = connection.execute(
                "SELECT period, area, diagnosis, people FROM indicator_cells WHERE permit = %s"
                " AND (%s::text IS NULL OR area = %s) AND (%s::text IS NULL OR diagnosis = %s)"
                " ORDER BY period, area, diagnosis",
                [release.permit, area, area, diagnosis, diagnosis],
            )
            return released[0] if released else None, [Cell(*one) for one in rows]
