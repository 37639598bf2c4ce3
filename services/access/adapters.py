"""The history and the views in PostgreSQL."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import psycopg
from psycopg.types.json import set_json_loads

from contracts.events import OF_RIGHTS, OPPOSITION
from contracts.messages import mark_of
from runtime.database import Database
from runtime.messages import RetryLater
from services.access.domain.indicators import Counted
from services.access.domain.policy import Evidence, Facts, Rows
from services.access.domain.views import Entry, Told, told_by
from services.access.vault import Vault

log = logging.getLogger("estuaire.access")
WAITING_FOR_KEY = "waiting-for-key"
WAITING_FOR_GRANT = "waiting-for-grant"
FILLING = "filling"
OPEN = "open"
SUSPENDED = "suspended"
CLOSED = "closed"
STATES = (WAITING_FOR_KEY, WAITING_FOR_GRANT, FILLING, OPEN, SUSPENDED, CLOSED)
_GATE = 4053020
SHARD_BYTES: Final = 2
PLACE_BYTES: Final = 32


@dataclass(slots=True)
class Subject:
    """A subject as the database has it. `key` is wrapped, None once erased."""

    subject: bytes
    patient: str
    link_version: int
    key: bytes | None
    told: Told


class StoredRecord(NamedTuple):
    """A row to write into the history."""

    facts: Facts
    schema_version: int
    diagnoses: Sequence[str]
    body: bytes | None
    told: Mapping[str, Any]


class Prior(NamedTuple):
    """What the history holds of a record."""

    facts: Facts
    diagnoses: Sequence[str]
    told: Mapping[str, Any]


class Seen(NamedTuple):
    """How a patient was last seen under a permit."""

    qualified: bool
    digest: bytes


class Numbering(NamedTuple):
    """Take sequence numbers for messages to a patient in a view, and remember how it is seen now."""

    permit: str
    patient: str
    subject: str
    messages: int
    qualified: bool
    digest: bytes


class EntryToWrite(NamedTuple):
    """A record to put into a view, and where it counts in the permit's indicators, if it does."""

    permit: str
    event_id: bytes
    entry: Entry
    sequence: int
    counted: Counted | None


class StoredPermit(NamedTuple):
    """A permit as the database has it. `key` is wrapped; `revision` counts its changes."""

    permit: str
    definition: bytes | None
    granted: str | None
    key: bytes | None
    state: str
    revision: int = 0


def shard_range(shard: int, shards: int) -> tuple[bytes, bytes | None]:
    """The places of a shard: from the first (included) to the second (not included; None: to the end)."""
    space = 256**SHARD_BYTES
    low, high = shard * space // shards, (shard + 1) * space // shards
    return low.to_bytes(SHARD_BYTES), None if high == space else high.to_bytes(SHARD_BYTES)


class History(Protocol):
    """The history and the views, as the step sees them. Every method is within the loop's transaction."""

    def enter(self, *, alone: bool) -> None:
        """Go in beside other batches, or alone: a permit opens only when no batch is under way that ignores it."""

    def open_permits(self) -> dict[str, str]:
        """Permits that are filling or open, with a digest of their definition, key and grant."""

    def permit(self, permit: str) -> StoredPermit | None:
        """One permit."""

    def save_permit(self, permit: StoredPermit) -> None:
        """Write a permit's row whole."""

    def start_scans(self, permit: str, shards: int) -> None:
        """Note that these shards have to be gone through, for a view that has just been opened or cleared."""

    def scans_left(self, permit: str) -> list[int]:
        """The shards that still have to be gone through."""

    def order_scan(self, permit: str, secret: bytes, low: bytes, high: bytes | None, rows: Rows) -> None:
        """Give each of these records a place by this secret, and write down those that have theirs in the shard."""

    def page(self, permit: str, after: bytes, high: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        """The next (place, event id) of a shard, in the order of places, after `after`."""

    def end_scan(self, permit: str, shard: int, low: bytes, high: bytes | None) -> None:
        """Note that it is done, and forget the places."""

    def clear_view(self, permit: str) -> int:
        """Forget what the view holds, to make it anew under the same ids; how many records that were."""

    def drop_view(self, permit: str) -> int:
        """Forget the view; how many records it held."""

    def claim(self, hints: Mapping[bytes, str], patients: Iterable[str]) -> dict[bytes, Subject]:
        """Lock these patients and those of these subjects; returns all subjects of all of them.

        `hints` names subjects, with the patient to take for one that is not known yet; one that was erased has no key.
        Raises RetryLater when a subject has moved meanwhile.
        """

    def relink(self, moves: Mapping[bytes, tuple[str, int]]) -> None:
        """Give claimed subjects another patient and link version."""

    def tell(self, told: Mapping[bytes, Told]) -> None:
        """Replace what is known of these claimed subjects."""

    def tellings(self, subjects: Collection[bytes]) -> dict[bytes, list[Told]]:
        """What the records of these claimed subjects tell about them."""

    def priors(self, event_ids: Collection[bytes]) -> dict[bytes, Prior]:
        """What is held of these records."""

    def store(self, records: Sequence[StoredRecord]) -> None:
        """Write records whose revisions are higher than what is held."""

    def facts_of(self, subjects: Collection[bytes]) -> list[Facts]:
        """All records of these subjects."""

    def bodies(self, event_ids: Collection[bytes]) -> dict[bytes, bytes]:
        """The sealed bodies of those records that have one."""

    def qualified(self, patients: Collection[str], evidence: Evidence) -> set[str]:
        """Those of these claimed patients whose records give the evidence."""

    def oppose(self, oppositions: Mapping[bytes, tuple[bytes, str | None]]) -> None:
        """Keep, by event, which subject objects and to what: everything (`*`), a source, or nothing any more (None)."""

    def keep_suspects(self, reaches: Iterable[tuple[bytes, int, Collection[bytes]]]) -> None:
        """Keep whom each subject's oppositions withhold besides, unless a higher version is kept."""

    def suspects_of(self, subjects: Iterable[bytes]) -> dict[bytes, str]:
        """Those whom these subjects' oppositions withhold besides, if they are known, with their patients."""

    def opposed(self, patients: Collection[str]) -> dict[str, frozenset[str]]:
        """To what those of these patients object who do, or may be somebody who does."""

    def mark_erased(self, subjects: Collection[bytes]) -> None:
        """Remember, by their marks, that these are erased."""

    def find_erased(self, subjects: Iterable[bytes]) -> set[bytes]:
        """Those of the subjects that are erased."""

    def find_known(self, subjects: Iterable[bytes]) -> set[bytes]:
        """Those of the subjects that something is known of."""

    def erase(self, subjects: Collection[bytes]) -> list[bytes]:
        """Forget claimed subjects but for the oppositions of those who object; returns the records that were theirs."""

    def let_go(self, event_ids: Collection[bytes]) -> None:
        """Forget records but for their ids and revisions."""

    def sweep(self, event_ids: Collection[bytes], patients: Collection[str]) -> int:
        """Forget entries of these records that are left in views, and those of these patients that have no subject any
        more; how many entries were left."""

    def seen(self, permits: Collection[str], patients: Collection[str]) -> dict[tuple[str, str], Seen]:
        """How these patients were last seen under these permits."""

    def entries(self, permits: Collection[str], event_ids: Collection[bytes]) -> dict[str, dict[bytes, Entry]]:
        """What the views hold of these records."""

    def entries_of(self, pairs: Collection[tuple[str, str]]) -> dict[str, dict[bytes, Entry]]:
        """All that the views hold of these (permit, patient)."""

    def number(self, wanted: Sequence[Numbering]) -> dict[tuple[str, str], int]:
        """Take sequence numbers; returns the last one of each."""

    def write_entries(self, entries: Sequence[EntryToWrite]) -> None:
        """Put these into the views."""

    def defer(self, entries: Sequence[tuple[str, bytes]], since: dt.datetime) -> None:
        """Note that these (permit, event id) are to be looked at again, at the next delivery to their views."""

    def deferred(self, permit: str, secret: bytes, before: dt.datetime, limit: int) -> list[bytes]:
        """The first of those that were noted before a moment, in the order that this secret gives."""

    def deliver(self, permit: str, event_ids: Collection[bytes]) -> None:
        """Note that they are looked at."""

    def mark(self, entries: Sequence[tuple[str, bytes]]) -> None:
        """Note that the periods in which these (permit, event id) count now have to be counted again."""

    def delete_entries(self, entries: Sequence[tuple[str, bytes]]) -> None:
        """Take (permit, event id) out of the views."""


_FACTS = "SELECT event_id, subject, revision, type, source, time, retracted, dated, diagnoses, told FROM history WHERE "


class PostgresHistory:
    """The history over the loop's own connection. Many rows a statement, few statements a batch. Sequence numbers go on
    beyond a number, for a database that was restored: subscribers have seen those that the lost one had given out."""

    def __init__(self, database: Database, vault: Vault, beyond: int = 0) -> None:
        self._database = database
        self._beyond = beyond
        self._vault = vault
        set_json_loads(msgspec.json.decode)

    def _run(self, query: str, *parameters: Any) -> psycopg.Cursor[Any]:
        cursor = self._database.connection.cursor(binary=True)
        return cursor.execute(query.encode(), parameters)

    def enter(self, *, alone: bool) -> None:
        self._run(f"SELECT pg_advisory_xact_lock{'' if alone else '_shared'}({_GATE})")

    # permits

    def open_permits(self) -> dict[str, str]:
        query = (
            "SELECT permit, coalesce(md5(definition || key || convert_to(coalesce(granted, ''), 'UTF8')), '')"
            " FROM permits WHERE state IN (%s, %s)"
        )
        rows = self._run(query, FILLING, OPEN)
        return dict(rows.fetchall())

    def permit(self, permit: str) -> StoredPermit | None:
        row = self._run(SELECT_PERMIT, permit).fetchone()
        return None if row is None else StoredPermit(*row)

    def save_permit(self, permit: StoredPermit) -> None:
        self._run(
            "INSERT INTO permits (permit, definition, granted, key, state, revision) VALUES (%s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (permit) DO UPDATE SET state = EXCLUDED.state, definition = EXCLUDED.definition,"
            " granted = EXCLUDED.granted, key = EXCLUDED.key, revision = EXCLUDED.revision",
            *permit,
        )

    def start_scans(self, permit: str, shards: int) -> None:
        self._run("INSERT INTO permit_scans SELECT %s::text, generate_series(0, %s::int)", permit, shards - 1)

    def scans_left(self, permit: str) -> list[int]:
        rows = self._run("SELECT shard FROM permit_scans WHERE permit = %s ORDER BY shard", permit)
        return [shard for (shard,) in rows]

    def order_scan(self, permit: str, secret: bytes, low: bytes, high: bytes | None, rows: Rows) -> None:
        sources = None if rows.sources is None else sorted(rows.sources)
        self._run(
            "INSERT INTO scan_places SELECT %s::text, place, event_id"
            " FROM (SELECT sha256(%b::bytea || event_id) AS place, event_id FROM history WHERE NOT retracted"
            " AND type = ANY(%s) AND (%s::text[] IS NULL OR source = ANY(%s::text[]))"
            " AND (%s::timestamptz IS NULL OR time >= %s::timestamptz)"
            " AND (%s::timestamptz IS NULL OR time < %s::timestamptz) OFFSET 0) AS placed"
            " WHERE place >= %b AND (%b::bytea IS NULL OR place < %b::bytea) ORDER BY place ON CONFLICT DO NOTHING",
            *(permit, secret, sorted(rows.types), sources, sources, rows.start, rows.start, rows.before, rows.before),
            *(low, high, high),
        )
        self._run("ANALYZE scan_places")  # or the first pages are sorted from all that is left, and not read in order

    def page(self, permit: str, after: bytes, high: bytes | None, limit: int) -> list[tuple[bytes, bytes]]:
        return self._run(
            "SELECT place, event_id FROM scan_places WHERE permit = %s AND place > %b"
            " AND (%b::bytea IS NULL OR place < %b::bytea) ORDER BY permit, place LIMIT %s",
            *(permit, after, high, high, limit),
        ).fetchall()

    def end_scan(self, permit: str, shard: int, low: bytes, high: bytes | None) -> None:
        self._run("DELETE FROM permit_scans WHERE permit = %s AND shard = %s", permit, shard)
        self._run(
            "DELETE FROM scan_places WHERE permit = %s AND place >= %b AND (%b::bytea IS NULL OR place < %b::bytea)",
            *(permit, low, high, high),
        )

    def clear_view(self, permit: str) -> int:
        for table in _OF_A_VIEW:
            self._run(f"DELETE FROM {table} WHERE permit = %s", permit)  # noqa: S608 - names from the line above
        # sequences go on, but what else is known of its patients was found under the former definition
        self._run("UPDATE view_patients SET digest = '' WHERE permit = %s", permit)
        return self._run("DELETE FROM view_entries WHERE permit = %s", permit).rowcount

    def drop_view(self, permit: str) -> int:
        held = self.clear_view(permit)
        self._run("DELETE FROM view_patients WHERE permit = %s", permit)
        return held

    # subjects

    def claim(self, hints: Mapping[bytes, str], patients: Iterable[str]) -> dict[bytes, Subject]:
        known = dict(self._run("SELECT subject, patient FROM subjects WHERE subject = ANY(%b)", list(hints)).fetchall())
        fresh = {subject: patient for subject, patient in hints.items() if subject not in known}
        locked = {*patients, *known.values(), *fresh.values()}
        self._lock(sorted(locked))
        if fresh:
            erased = self.find_erased(fresh)
            new = [
                (subject, fresh[subject], None if subject in erased else self._vault.new_subject_key(subject))
                for subject in sorted(fresh)
            ]
            self._run(
                "INSERT INTO subjects (subject, patient, link_version, key)"
                " SELECT s, p, 0, k FROM unnest(%b::bytea[], %b::text[], %b::bytea[]) AS new (s, p, k)"
                " ON CONFLICT DO NOTHING",
                *_columns(new),
            )
        rows = self._run(
            "SELECT subject, patient, link_version, key, demographics FROM subjects WHERE patient = ANY(%b)",
            list(locked),
        )
        found = {row[0]: Subject(*row) for row in rows}
        if not hints.keys() <= found.keys():
            raise RetryLater("a subject has another patient now")
        return found

    def _lock(self, patients: list[str]) -> None:
        """Lock the patients' rows, always in the same order, making those that are missing."""
        lock = "SELECT patient FROM patients WHERE patient = ANY(%b) ORDER BY patient FOR NO KEY UPDATE"
        missing = sorted(set(patients) - {one for (one,) in self._run(lock, patients)})
        if missing:
            made = self._run(
                "INSERT INTO patients SELECT unnest(%b::text[]) ON CONFLICT DO NOTHING RETURNING patient", missing
            )
            late = sorted(set(missing) - {one for (one,) in made})
            if late:
                self._run(lock, late)

    def relink(self, moves: Mapping[bytes, tuple[str, int]]) -> None:
        rows = [(subject, patient, version) for subject, (patient, version) in moves.items()]
        if rows:
            self._run(
                "UPDATE subjects SET patient = p, link_version = v"
                " FROM unnest(%b::bytea[], %b::text[], %b::bigint[]) AS moved (s, p, v) WHERE subject = s",
                *_columns(rows),
            )

    def tell(self, told: Mapping[bytes, Told]) -> None:
        rows = [(subject, msgspec.json.encode(demographics).decode()) for subject, demographics in told.items()]
        if rows:
            self._run(
                "UPDATE subjects SET demographics = d::jsonb"
                " FROM unnest(%b::bytea[], %b::text[]) AS told (s, d) WHERE subject = s",
                *_columns(rows),
            )

    def tellings(self, subjects: Collection[bytes]) -> dict[bytes, list[Told]]:
        found: dict[bytes, list[Told]] = {}
        query = "SELECT subject, revision, told FROM history WHERE subject = ANY(%b) AND told <> '{}'"
        for subject, revision, told in self._run(query, list(subjects)):
            found.setdefault(subject, []).append(told_by(told, revision))
        return found

    # records

    def priors(self, event_ids: Collection[bytes]) -> dict[bytes, Prior]:
        rows = self._run(_FACTS + "event_id = ANY(%b)", list(event_ids))
        return {row[0]: Prior(Facts(*row[:8]), row[8], row[9]) for row in rows}

    def store(self, records: Sequence[StoredRecord]) -> None:
        if not records:
            return
        rows = [
            (
                *(one.facts.event_id, one.facts.subject, one.facts.revision, one.facts.type, one.facts.source),
                *(one.facts.time, one.schema_version, " ".join(one.diagnoses), one.facts.retracted, one.body),
                *(msgspec.json.encode(one.told).decode(), one.facts.dated),
            )
            for one in records
        ]
        done = self._run(
            "INSERT INTO history (event_id, subject, revision, type, source, time, schema_version, diagnoses,"
            " retracted, body, told, dated) SELECT e, s, r, t, o, at, v, string_to_array(d, ' '), x, b, j::jsonb, y"
            " FROM unnest(%b::bytea[], %b::bytea[], %b::text[], %b::text[], %b::text[], %b::timestamptz[],"
            " %b::smallint[], %b::text[], %b::boolean[], %b::bytea[], %b::text[], %b::boolean[])"
            " AS new (e, s, r, t, o, at, v, d, x, b, j, y)"
            " ON CONFLICT (event_id) DO UPDATE SET subject = EXCLUDED.subject, revision = EXCLUDED.revision,"
            " type = EXCLUDED.type, source = EXCLUDED.source, time = EXCLUDED.time,"
            " schema_version = EXCLUDED.schema_version, diagnoses = EXCLUDED.diagnoses,"
            " retracted = EXCLUDED.retracted, stored_at = EXCLUDED.stored_at, body = EXCLUDED.body,"
            " told = EXCLUDED.told, dated = EXCLUDED.dated"
            " WHERE history.revision < EXCLUDED.revision",
            *_columns(rows),
        )
        if done.rowcount != len(rows):
            raise RetryLater("a record has a higher revision now")

    def facts_of(self, subjects: Collection[bytes]) -> list[Facts]:
        rows = self._run(_FACTS + "subject = ANY(%b)", list(subjects))
        return [Facts(*row[:8]) for row in rows]

    def bodies(self, event_ids: Collection[bytes]) -> dict[bytes, bytes]:
        query = "SELECT event_id, body FROM history WHERE event_id = ANY(%b) AND body IS NOT NULL"
        return dict(self._run(query, list(event_ids)).fetchall())

    def qualified(self, patients: Collection[str], evidence: Evidence) -> set[str]:
        return {patient for (patient,) in self._run(_QUALIFIED, *_asked(patients, evidence))}

    # oppositions

    def oppose(self, oppositions: Mapping[bytes, tuple[bytes, str | None]]) -> None:
        self._run("DELETE FROM oppositions WHERE event_id = ANY(%b)", list(oppositions))
        made = [(event, *one) for event, one in sorted(oppositions.items()) if one[1] is not None]
        if made:
            self._run(
                "INSERT INTO oppositions (event_id, subject, withholds)"
                " SELECT * FROM unnest(%b::bytea[], %b::bytea[], %b::text[])",
                *_columns(made),
            )

    def keep_suspects(self, reaches: Iterable[tuple[bytes, int, Collection[bytes]]]) -> None:
        for subject, version, suspects in reaches:
            moved = self._run(
                "INSERT INTO opposition_reaches AS known VALUES (%b, %b) ON CONFLICT (subject) DO UPDATE"
                " SET version = EXCLUDED.version WHERE known.version < EXCLUDED.version",
                *(subject, version),
            )
            if moved.rowcount:
                self._run("DELETE FROM opposition_suspects WHERE subject = %b", subject)
                query = "INSERT INTO opposition_suspects (suspect, subject) SELECT unnest(%b::bytea[]), %b"
                self._run(query, *(list(suspects), subject))

    def suspects_of(self, subjects: Iterable[bytes]) -> dict[bytes, str]:
        rows = self._run(
            "SELECT s.subject, s.patient FROM opposition_suspects o JOIN subjects s ON s.subject = o.suspect"
            " WHERE o.subject = ANY(%b)",
            list(subjects),
        )
        return dict(rows.fetchall())

    def opposed(self, patients: Collection[str]) -> dict[str, frozenset[str]]:
        return withheld_by(self._run(SELECT_OPPOSED, list(patients)))

    # erasures

    def mark_erased(self, subjects: Collection[bytes]) -> None:
        marks = sorted(mark_of(one) for one in subjects)
        self._run("INSERT INTO erased SELECT unnest(%b::bytea[]) ON CONFLICT DO NOTHING", marks)

    def find_erased(self, subjects: Iterable[bytes]) -> set[bytes]:
        marks = {mark_of(one): one for one in subjects}
        rows = self._run("SELECT mark FROM erased WHERE mark = ANY(%b)", list(marks)) if marks else ()
        return {marks[mark] for (mark,) in rows}

    def find_known(self, subjects: Iterable[bytes]) -> set[bytes]:
        rows = self._run("SELECT subject FROM subjects WHERE subject = ANY(%b)", list(subjects))
        return {subject for (subject,) in rows}

    def erase(self, subjects: Collection[bytes]) -> list[bytes]:
        rows = self._run("SELECT DISTINCT subject FROM oppositions WHERE subject = ANY(%b)", list(subjects))
        kept = [subject for (subject,) in rows]
        gone = sorted(set(subjects) - set(kept))
        rows = self._run(
            _LET_GO + "subject = ANY(%b) AND NOT (subject = ANY(%b) AND type = %b AND NOT retracted)"
            " RETURNING event_id",
            *(list(subjects), kept, OPPOSITION),
        )
        event_ids = [event_id for (event_id,) in rows]
        self._run("UPDATE history SET body = NULL, told = '{}' WHERE subject = ANY(%b)", kept)
        self._run("UPDATE subjects SET key = NULL, demographics = '{}' WHERE subject = ANY(%b)", kept)
        self._run("DELETE FROM subjects WHERE subject = ANY(%b)", gone)
        for table in ("opposition_suspects", "opposition_reaches"):
            self._run(f"DELETE FROM {table} WHERE subject = ANY(%b)", gone)  # noqa: S608 - names from the line above
        self._run("DELETE FROM opposition_suspects WHERE suspect = ANY(%b)", gone)
        self._run("UPDATE requests SET subject = NULL WHERE subject = ANY(%b)", gone)
        return event_ids

    def let_go(self, event_ids: Collection[bytes]) -> None:
        if event_ids:
            self._run(_LET_GO + "event_id = ANY(%b)", list(event_ids))

    def sweep(self, event_ids: Collection[bytes], patients: Collection[str]) -> int:
        left = self._run("DELETE FROM view_entries WHERE event_id = ANY(%b)", list(event_ids)).rowcount
        empty = "patient = ANY(%b) AND NOT EXISTS (SELECT FROM subjects s WHERE s.patient = ended.patient)"
        for table in ("view_patients", "patients"):
            self._run(f"DELETE FROM {table} AS ended WHERE {empty}", list(patients))  # noqa: S608 - names from above
        return left

    # views

    def seen(self, permits: Collection[str], patients: Collection[str]) -> dict[tuple[str, str], Seen]:
        rows = self._run(
            "SELECT permit, patient, qualified, digest FROM view_patients WHERE permit = ANY(%b) AND patient = ANY(%b)",
            *(list(permits), list(patients)),
        )
        return {(permit, patient): Seen(qualified, digest) for permit, patient, qualified, digest in rows}

    def entries(self, permits: Collection[str], event_ids: Collection[bytes]) -> dict[str, dict[bytes, Entry]]:
        return self._entries(
            "SELECT permit, event_id, patient, version FROM view_entries WHERE permit = ANY(%b) AND event_id = ANY(%b)",
            *(list(permits), list(event_ids)),
        )

    def entries_of(self, pairs: Collection[tuple[str, str]]) -> dict[str, dict[bytes, Entry]]:
        return self._entries(
            "SELECT permit, event_id, patient, version FROM view_entries"
            " JOIN unnest(%b::text[], %b::text[]) AS pair (permit, patient) USING (permit, patient)",
            *_columns(list(pairs)),
        )

    def _entries(self, query: str, *parameters: Any) -> dict[str, dict[bytes, Entry]]:
        found: dict[str, dict[bytes, Entry]] = {}
        for permit, event_id, patient, version in self._run(query, *parameters):
            found.setdefault(permit, {})[event_id] = Entry(patient, version)
        return found

    def number(self, wanted: Sequence[Numbering]) -> dict[tuple[str, str], int]:
        if not wanted:
            return {}
        if self._beyond:
            self._run("UPDATE view_floor SET floor = %b WHERE floor < %b", self._beyond, self._beyond)
        rows = self._run(
            "INSERT INTO view_patients AS old (permit, patient, subject, sequence, qualified, digest, begun)"
            " SELECT p, who, s, floor + n, q, d, floor FROM view_floor, unnest(%b::text[], %b::text[], %b::text[],"
            " %b::bigint[], %b::boolean[], %b::bytea[]) AS new (p, who, s, n, q, d)"
            " ON CONFLICT (permit, patient) DO UPDATE SET"
            " sequence = greatest(old.sequence, EXCLUDED.begun) + EXCLUDED.sequence - EXCLUDED.begun,"
            " begun = old.begun + greatest(0, EXCLUDED.begun - old.sequence),"
            " qualified = EXCLUDED.qualified, digest = EXCLUDED.digest RETURNING permit, patient, sequence",
            *_columns(sorted(wanted)),
        )
        return {(permit, patient): sequence for permit, patient, sequence in rows}

    def write_entries(self, entries: Sequence[EntryToWrite]) -> None:
        rows = [
            (one.permit, one.event_id, one.entry.patient, one.entry.version, one.sequence, *_place(one.counted))
            for one in entries
        ]
        if rows:
            self._run(
                "INSERT INTO view_entries (permit, event_id, patient, version, sequence, period, area, diagnoses)"
                " SELECT p, e, who, v, n, d, a, string_to_array(c, ' ') FROM unnest(%b::text[], %b::bytea[],"
                " %b::text[], %b::bytea[], %b::bigint[], %b::date[], %b::text[], %b::text[])"
                " AS new (p, e, who, v, n, d, a, c) ON CONFLICT (permit, event_id) DO UPDATE SET"
                " patient = EXCLUDED.patient, version = EXCLUDED.version, sequence = EXCLUDED.sequence,"
                " period = EXCLUDED.period, area = EXCLUDED.area, diagnoses = EXCLUDED.diagnoses",
                *_columns(rows),
            )
        if changed := sorted({(one.permit, one.counted.period) for one in entries if one.counted}):
            self._run(
                "INSERT INTO indicator_marks (permit, period) SELECT * FROM unnest(%b::text[], %b::date[])",
                *_columns(changed),
            )

    def defer(self, entries: Sequence[tuple[str, bytes]], since: dt.datetime) -> None:
        if entries:
            self._run(
                "INSERT INTO view_pending (permit, event_id, since) SELECT p, e, %b::timestamptz"
                " FROM unnest(%b::text[], %b::bytea[]) AS new (p, e) ON CONFLICT DO NOTHING",
                *(since, *_columns(sorted(entries))),
            )

    def deferred(self, permit: str, secret: bytes, before: dt.datetime, limit: int) -> list[bytes]:
        rows = self._run(
            "SELECT event_id FROM view_pending WHERE permit = %s AND since < %b::timestamptz"
            " ORDER BY sha256(%b::bytea || event_id) LIMIT %s",
            *(permit, before, secret, limit),
        )
        return [event_id for (event_id,) in rows]

    def deliver(self, permit: str, event_ids: Collection[bytes]) -> None:
        self._run("DELETE FROM view_pending WHERE permit = %s AND event_id = ANY(%b)", permit, list(event_ids))

    def mark(self, entries: Sequence[tuple[str, bytes]]) -> None:
        if entries:
            self._run(
                "INSERT INTO indicator_marks (permit, period) SELECT DISTINCT permit, period FROM view_entries"
                " JOIN unnest(%b::text[], %b::bytea[]) AS changed (permit, event_id) USING (permit, event_id)"
                " WHERE period IS NOT NULL",
                *_columns(list(entries)),
            )

    def delete_entries(self, entries: Sequence[tuple[str, bytes]]) -> None:
        if entries:
            self._run(
                "DELETE FROM view_entries USING unnest(%b::text[], %b::bytea[]) AS gone (p, e)"
                " WHERE permit = p AND event_id = e",
                *_columns(list(entries)),
            )


def _place(counted: Counted | None) -> tuple[dt.date | None, str | None, str | None]:
    return (None, None, None) if counted is None else (counted.period, counted.area, " ".join(counted.diagnoses))


_LET_GO: Final = (
    "UPDATE history SET subject = '', type = '', source = '', time = 'epoch', schema_version = 0, diagnoses = '{}',"
    " retracted = true, dated = false, body = NULL, told = '{}' WHERE "
)
SELECT_PERMIT: Final = "SELECT permit, definition, granted, key, state, revision FROM permits WHERE permit = %s"
_OF_A_VIEW: Final = ("permit_scans", "scan_places", "view_pending", "indicator_marks", "indicator_cells")
"""Tables with what follows from a view's definition, beside its entries."""
SELECT_OPPOSED: Final = "SELECT patient, withholds FROM opposed WHERE patient = ANY(%b::text[])"
_QUALIFIED: Final = (
    "SELECT patient FROM subjects JOIN history USING (subject) WHERE patient = ANY(%b::text[]) AND NOT retracted"
    " GROUP BY patient HAVING (%b::text IS NULL OR bool_or(source = %b::text AND type <> ALL(%b::text[])))"
    " AND (%b::text[] = '{}' OR bool_or(EXISTS (SELECT FROM unnest(diagnoses) AS code, unnest(%b::text[]) AS prefix"
    " WHERE starts_with(code, prefix))))"
)


"""Whose records give the evidence that a population asks for, each part of it by any of their subjects."""


def _asked(patients: Collection[str], evidence: Evidence) -> list[Any]:
    prefixes = list(evidence.prefixes)
    return [list(patients), evidence.cohort, evidence.cohort, list(OF_RIGHTS), prefixes, prefixes]


def withheld_by(rows: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """To what each patient objects, from rows of both."""
    found: dict[str, set[str]] = {}
    for patient, withholds in rows:
        found.setdefault(patient, set()).add(withholds)
    return {patient: frozenset(found) for patient, found in found.items()}


def _columns(rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
