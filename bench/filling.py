"""A patient index with many people in it, within minutes: the rows that linkage would have written, by COPY."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from typing import Final, LiteralString

import psycopg

from bench.people import Tokens, chunks, first_record
from contracts.messages import TokenBlock
from estuaire.population import Person
from runtime.database import Database
from services.linkage.adapters import MIGRATIONS, index_conninfo, subject_row, token_rows
from services.linkage.domain.rules import RULES
from services.linkage.handlers import event_key

PROCESSES: Final = min(2, os.cpu_count() or 1)
REVISION: Final = "0000000000-1760000000000-000000000000"
_SUBJECTS: Final = (
    "COPY subjects (subject, seq, source, status, block, patient, link_version, settled) FROM STDIN (FORMAT binary)",
    ("bytea", "bigint", "text", "text", "bytea", "bytea", "bigint", "boolean"),
)
_TOKENS: Final = (
    "COPY subject_tokens (token, subject, system, codes) FROM STDIN (FORMAT binary)",
    ("bytea", "bytea", "text", "bytea"),
)
_RECORDS: Final = (
    'COPY records (event_id, subject, revision, digest, type, retracted, correction, backfill, partition, "offset")'
    " FROM STDIN (FORMAT binary)",
    ("bytea", "bytea", "text", "text", "text", "boolean", "boolean", "boolean", "integer", "bigint"),
)


def fill(url: str, people: int, secrets: Mapping[str, bytes], sampled: int, strangers: int) -> list[Person]:
    """Fill an empty index with one settled subject and one record of each of `people` persons.

    Returns some people of the same population: `sampled` of those in the index, evenly spread, and after them as many
    `strangers` who are not.
    """
    with closing(Database(index_conninfo(url), MIGRATIONS)) as database:
        connection = database.connection
        # a fork would inherit the locks and the libraries of whatever threads there are
        with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
            parts = [
                pool.submit(_fill_part, url, people, secrets, sampled, strangers, part) for part in range(PROCESSES)
            ]
            found = [person for part in parts for person in part.result()]
        with connection.transaction():
            connection.execute("SELECT setval('subject_seq', %s), setval('link_version_seq', %s)", [people, people])
            connection.execute("INSERT INTO counts VALUES (0, %s, %s, %s, 0)", [people] * 3)
            _mark_common(connection)
        connection.execute("VACUUM (ANALYZE)")
    return sorted(found, key=lambda one: one.number)


def _fill_part(
    url: str, people: int, secrets: Mapping[str, bytes], sampled: int, strangers: int, part: int
) -> list[Person]:
    tokens = Tokens(secrets)
    step = max(1, people // sampled)
    found: list[Person] = []
    with psycopg.connect(url) as connection:
        for chunk in chunks(people + strangers, part, PROCESSES):
            inside = [person for person in chunk if person.number < people]
            _write(connection, tokens.blocks([first_record(one) for one in inside]), inside)
            found += (
                person
                for person in chunk
                if person.number >= people or (person.number % step == 0 and person.number < step * sampled)
            )
    return found


def _write(connection: psycopg.Connection, blocks: Sequence[TokenBlock], people: Sequence[Person]) -> None:
    aged = [(block, person.number + 1) for block, person in zip(blocks, people, strict=True)]
    _copy(connection, *_SUBJECTS, ((*subject_row(one, seq), one.subject, seq, True) for one, seq in aged))
    _copy(connection, *_TOKENS, (row for one in blocks for row in token_rows(one)))
    _copy(connection, *_RECORDS, (_record(one, seq) for one, seq in aged))
    connection.commit()


def _record(block: TokenBlock, number: int) -> tuple[object, ...]:
    event = event_key(f"record {number}")
    return (event, block.subject, REVISION, event.hex()[:32], "identity.v1", False, False, False, 0, number)


def _copy(
    connection: psycopg.Connection, statement: LiteralString, types: Sequence[str], rows: Iterable[tuple[object, ...]]
) -> None:
    with connection.cursor().copy(statement) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


def _mark_common(connection: psycopg.Connection) -> None:
    """Mark what more subjects carry than the rules allow, as linkage would have done at its first search."""
    systems = [system for (system,) in connection.execute("SELECT DISTINCT system FROM subject_tokens")]
    connection.execute(
        "INSERT INTO common_tokens (token) SELECT token FROM subject_tokens"
        " JOIN unnest(%s::text[], %s::integer[]) AS limits (system, most) USING (system)"
        " GROUP BY token, most HAVING count(*) > most",
        [systems, [RULES.most(system) for system in systems]],
    )
