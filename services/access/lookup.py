"""What HTTP reads of the history and the views, on connections of its own."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row
from psycopg_pool import ConnectionPool

from contracts.events import IN_NO_TIMELINE, OF_RIGHTS
from services.access.adapters import CLOSED, FILLING, OPEN, SELECT_OPPOSED, SELECT_PERMIT, StoredPermit, withheld_by
from services.access.domain.catalogue import Holding
from services.access.domain.policy import Facts
from services.access.domain.views import Told
from services.access.projects import STEPS, TAKEN, StepRow
from services.access.requests import ASKED, DONE, ActRow, RequestRow
from services.access.sizes import SIZES, Sizes

_HELD_IN_VIEWS: Final = (
    "SELECT permit, definition, state, (SELECT count(*) FROM view_entries e WHERE e.permit = v.permit"
    " AND e.patient = v.patient), sequence - begun FROM view_patients v JOIN permits USING (permit)"
    " WHERE patient = ANY(%b) AND sequence > begun ORDER BY permit"
)


class PermitRow(NamedTuple):
    """A permit for its officer or its subscribers."""

    permit: str
    definition: bytes | None
    granted: str | None
    key: bytes | None
    state: str
    records: int
    patients: int
    scans_left: int


class KeptRow(NamedTuple):
    """A record of a person, still sealed, with the diagnoses that it tells."""

    facts: Facts
    key: bytes | None
    body: bytes | None
    diagnoses: list[str]


class PersonRow(NamedTuple):
    """A patient with all that is kept of it, and what each of its subjects says of it."""

    patient: str
    told: list[Told]
    records: list[KeptRow]


class RecordRow(NamedTuple):
    """Where a record is; `views` say by permit since when, or None where that was not kept."""

    stored_at: dt.datetime
    revision: str
    type: str
    retracted: bool
    patient: str
    link_version: int
    views: dict[str, dt.datetime | None]


class HeldRecords(NamedTuple):
    """What is held of somebody from one source, of one type; times are those that were stated."""

    source: str
    type: str
    records: int
    first: dt.datetime | None
    last: dt.datetime | None


class HeldInView(NamedTuple):
    """What of somebody is in a view, and how many messages about them it has had."""

    permit: str
    definition: bytes | None
    state: str
    records: int
    messages: int


class Held(NamedTuple):
    """All that is held of whoever has made a request. `as_seen` is a digest of the subjects and of their records."""

    subjects: list[bytes]
    records: list[HeldRecords]
    demographics: list[str]
    objects_to: list[str]
    views: list[HeldInView]
    as_seen: str


class Reader(Protocol):
    """What the routes read."""

    def permits(self) -> list[PermitRow]: ...
    def permit(self, permit: str) -> StoredPermit | None: ...
    def opposed(self, patients: Sequence[str]) -> dict[str, frozenset[str]]: ...
    def people(self, after: str, count: int) -> list[PersonRow]: ...
    def record(self, event_id: bytes) -> RecordRow | None: ...
    def counts(self) -> tuple[int, int, dict[str, int]]: ...
    def project_steps(self) -> list[StepRow]: ...
    def permit_ids(self) -> set[str]: ...
    def definitions(self) -> list[tuple[str, bytes]]: ...
    def waiting(self) -> list[tuple[StoredPermit, dt.datetime]]: ...
    def holdings(self) -> list[Holding]: ...
    def requests(self, only: bytes | None = None) -> list[tuple[RequestRow, list[ActRow]]]: ...
    def oppositions(self) -> list[tuple[str, int]]: ...
    def held(self, request: bytes) -> Held: ...


def in_utc(url: str) -> str:
    """The connection's options, and times in UTC: elsewhere the first and last days that Python knows have none."""
    given = conninfo_to_dict(url).get("options") or os.environ.get("PGOPTIONS", "")
    return f"{given} -c TimeZone=UTC".strip()


class WrongRole(Exception):
    """A role cannot be used to read with: it is missing, or row-level security does not hold it."""


_IS_HELD: Final = (
    "SELECT bool_and(row_security_active(oid) AND NOT pg_has_role(relowner, 'MEMBER')) FROM pg_class WHERE oid = ANY("
    "'{view_entries,view_patients,indicator_cells,indicator_releases,history,subjects}'::regclass[])"
)


def _confine(connection: psycopg.Connection[Any]) -> None:
    """Let it read, in snapshots, and as a role that row-level security holds. Raises WrongRole."""
    (is_held,) = connection.execute(_IS_HELD).fetchone() or (False,)
    connection.commit()
    if not is_held:
        raise WrongRole(f"row-level security does not hold the role {connection.info.user}")
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True


def check_role(url: str) -> None:
    """Whether one can read with the role of this URL, in a database that answers. Raises WrongRole."""
    try:
        with psycopg.connect(url, connect_timeout=5) as connection:
            _confine(connection)
    except psycopg.Error as error:
        why = str(error).strip().splitlines()[-1:]
        raise WrongRole(f"the role {conninfo_to_dict(url).get('user')} cannot be used: {''.join(why)}") from None


class PooledReader:
    """Reads over a pool of connections, each call in one snapshot; with a role that has too many rights, not at all."""

    def __init__(self, url: str, connections: int) -> None:
        self._pool = ConnectionPool(
            url,
            min_size=1,
            max_size=connections,
            open=False,
            timeout=5,
            configure=_confine,
            kwargs={"row_factory": tuple_row, "options": in_utc(url)},
        )

    def open(self) -> None:
        """Connect in the background."""
        self._pool.open()

    def close(self) -> None:
        """Give the connections back."""
        self._pool.close()


class PostgresReader(PooledReader):
    """What officers, operators and the service itself read, as the role of the staff."""

    def __init__(self, url: str, connections: int) -> None:
        super().__init__(url, connections)
        self._sizes = Sizes()

    def permits(self) -> list[PermitRow]:
        """All permits with the size of their views; of large ones as `Sizes` has it."""
        with self._pool.connection() as connection:
            sizes = self._sizes.now(lambda: connection.execute(SIZES).fetchall())
            rows = connection.execute(
                "SELECT permit, definition, granted, key, state,"
                " (SELECT count(*) FROM permit_scans s WHERE s.permit = p.permit) FROM permits p ORDER BY permit"
            )
            found = ((*row[:5], *sizes.get(row[0], (0, 0)), *row[5:]) for row in rows)
            return [PermitRow(*one) for one in found]

    def count_permits(self) -> dict[str, int]:
        """How many permits are in each state."""
        with self._pool.connection() as connection:
            return dict(connection.execute("SELECT state, count(*) FROM permits GROUP BY state").fetchall())

    def permit(self, permit: str) -> StoredPermit | None:
        """One permit."""
        with self._pool.connection() as connection:
            row = connection.execute(SELECT_PERMIT, [permit]).fetchone()
            return None if row is None else StoredPermit(*row)

    def opposed(self, patients: Sequence[str]) -> dict[str, frozenset[str]]:
        """To what those of these patients object who do, or may be somebody who does."""
        with self._pool.connection() as connection:
            return withheld_by(connection.execute(SELECT_OPPOSED.encode(), [list(patients)]))

    def people(self, after: str, count: int) -> list[PersonRow]:
        """The next patients by their ids, with all that is kept of them."""
        with self._pool.connection() as connection:
            found: dict[str, PersonRow] = {}
            for patient, told in connection.execute(
                "SELECT patient, demographics FROM subjects WHERE patient IN"
                " (SELECT DISTINCT patient FROM subjects WHERE patient > %s ORDER BY patient LIMIT %s)"
                " ORDER BY patient",
                [after, count],
            ):
                found.setdefault(patient, PersonRow(patient, [], [])).told.append(told)
            for row in connection.execute(
                "SELECT patient, event_id, subject, revision, type, source, time, retracted, dated, key, body,"
                " diagnoses FROM history JOIN subjects USING (subject) WHERE patient = ANY(%s)",
                [list(found)],
                binary=True,
            ):
                found[row[0]].records.append(KeptRow(Facts(*row[1:9]), *row[9:]))
            return list(found.values())

    def record(self, event_id: bytes) -> RecordRow | None:
        """Where a record is, for an operator."""
        with self._pool.connection() as connection:
            row = connection.execute(
                "SELECT stored_at, revision, type, retracted, patient, link_version"
                " FROM history JOIN subjects USING (subject) WHERE event_id = %b",
                [event_id],
            ).fetchone()
            views = connection.execute(
                "SELECT permit, entered FROM view_entries WHERE event_id = %b ORDER BY permit", [event_id]
            )
            return None if row is None else RecordRow._make((*row, dict(views.fetchall())))

    def counts(self) -> tuple[int, int, dict[str, int]]:
        """Records that are not retracted, patients with at least one of them, and the entries of each view."""
        with self._pool.connection() as connection:
            row = connection.execute(
                "SELECT count(*), count(DISTINCT patient) FROM history JOIN subjects USING (subject)"
                " WHERE NOT retracted"
            ).fetchone()
            records, patients = row or (0, 0)
            views = connection.execute(
                "SELECT permit, (SELECT count(*) FROM view_entries e WHERE e.permit = p.permit) FROM permits p"
                " WHERE state IN (%s, %s) ORDER BY permit",
                [FILLING, OPEN],
            )
            return records, patients, dict(views.fetchall())

    def project_steps(self) -> list[StepRow]:
        """All steps of calls and projects, in the order in which they were done."""
        with self._pool.connection() as connection:
            return [StepRow(*row) for row in connection.execute(STEPS)]

    def permit_ids(self) -> set[str]:
        """The ids of all permits that were granted or closed."""
        with self._pool.connection() as connection:
            return {permit for (permit,) in connection.execute(TAKEN)}

    def definitions(self) -> list[tuple[str, bytes]]:
        """The definitions of all permits that were granted and not closed."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                "SELECT permit, definition FROM permits WHERE state <> %s AND definition IS NOT NULL ORDER BY permit",
                [CLOSED],
            )
            return rows.fetchall()

    def waiting(self) -> list[tuple[StoredPermit, dt.datetime]]:
        """Open permits to whose views something is to be delivered, and since when the first of it waits."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                "SELECT permit, definition, granted, key, state, revision, since FROM permits CROSS JOIN LATERAL"
                " (SELECT min(since) AS since FROM view_pending v WHERE v.permit = permits.permit) AS first"
                " WHERE state = %s AND since IS NOT NULL ORDER BY permit",
                [OPEN],
            )
            return [(StoredPermit(*row[:6]), row[6]) for row in rows]

    def holdings(self) -> list[Holding]:
        """What is kept of each source: which types, how much, of how many people, and of which years."""
        with self._pool.connection() as connection:
            rows = connection.execute(
                "SELECT source, array_agg(DISTINCT type), count(*), count(DISTINCT patient),"
                " extract(year FROM min(time) FILTER (WHERE dated))::int,"
                " extract(year FROM max(time) FILTER (WHERE dated))::int"
                " FROM history JOIN subjects USING (subject) WHERE NOT retracted AND type <> ALL(%s) GROUP BY source",
                [list(IN_NO_TIMELINE)],
            )
            return [Holding(*row) for row in rows]

    def requests(self, only: bytes | None = None) -> list[tuple[RequestRow, list[ActRow]]]:
        """All requests, or one, with what was done about each; those first that were received first."""
        with self._pool.connection() as connection:
            done: dict[bytes, list[ActRow]] = {}
            for row in connection.execute(f"{DONE} WHERE request = coalesce(%b, request) ORDER BY place", [only]):
                done.setdefault(row[0], []).append(ActRow(*row))
            rows = connection.execute(f"{ASKED} WHERE event_id = coalesce(%b, event_id) ORDER BY received", [only])
            return [(RequestRow(*row), done.get(row[0], [])) for row in rows]

    def oppositions(self) -> list[tuple[str, int]]:
        """How many oppositions in force withhold what: a source, or `*` for everything."""
        with self._pool.connection() as connection:
            return connection.execute(
                "SELECT withholds, count(*) FROM oppositions GROUP BY withholds ORDER BY withholds"
            ).fetchall()

    def held(self, request: bytes) -> Held:
        """What is held of whoever has made a request: of the patient that linkage gives, and of nobody else."""
        with self._pool.connection() as connection:
            found = connection.execute(
                "SELECT s.subject, s.patient, s.demographics FROM subjects s JOIN subjects asking USING (patient)"
                " JOIN requests r ON r.subject = asking.subject WHERE r.event_id = %b ORDER BY s.subject",
                [request],
            ).fetchall()
            subjects, patients = [subject for subject, _, _ in found], [patient for _, patient, _ in found[:1]]
            records = connection.execute(
                "SELECT source, type, count(*), min(time) FILTER (WHERE dated), max(time) FILTER (WHERE dated)"
                " FROM history WHERE subject = ANY(%b) AND NOT retracted AND type <> ALL(%b)"
                " GROUP BY source, type ORDER BY source, type",
                [subjects, list(OF_RIGHTS)],
            ).fetchall()
            opposed = connection.execute(
                "SELECT DISTINCT withholds FROM oppositions WHERE subject = ANY(%b) ORDER BY withholds", [subjects]
            ).fetchall()
            views = connection.execute(_HELD_IN_VIEWS, [patients]).fetchall()
            seen = hashlib.sha256(b"".join(subjects))
            for event_id, revision in connection.execute(
                "SELECT event_id, revision FROM history WHERE subject = ANY(%b) ORDER BY event_id", [subjects]
            ):
                seen.update(event_id + revision.encode())
            return Held(
                subjects,
                [HeldRecords(*row) for row in records],
                sorted({name for _, _, told in found for name in told}),
                [withholds for (withholds,) in opposed],
                [HeldInView(*row) for row in views],
                seen.hexdigest()[:32],
            )
