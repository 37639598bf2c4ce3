"""What a rule version would change: run over a copy of the index beside the stream, and compared with what is there.

The copy has the same tables in a schema of its own, which the very code of the step fills. Tokens and stewards'
decisions are views there, of what the index has. Nothing of the index itself is written.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

import msgspec
import psycopg
from psycopg.rows import dict_row

from runtime.database import Database
from runtime.messages import Message, Outputs
from services.linkage.adapters import EVERYBODY, Range, SqlPatientIndex, index_conninfo, with_options
from services.linkage.domain.patients import SILENT
from services.linkage.domain.rules import RuleVersion
from services.linkage.linking import Affected, Linker
from services.linkage.lookup import WAITING

AT_ONCE: Final = 500
"""Subjects in one transaction of the copy."""

Progress = Callable[[int, int], None]
"""Called with how many subjects are done, of how many."""


class Turned(msgspec.Struct, frozen=True):
    """Pairs that another outcome awaits: `before` and `after` are link, review, apart, or nothing where not kept."""

    before: str
    after: str
    pairs: int


class Example(msgspec.Struct, frozen=True):
    """A pair with another outcome: two subjects' ids joined by a hyphen, and both decisions with reason and weight."""

    pair: str
    before: str
    after: str
    method: str
    reason: str
    weight: float
    evidence: dict[str, float]


class Trial(msgspec.Struct, frozen=True):
    """What a version would make of an index. A patient counts while a record is about one of its subjects.

    `merged`: patients under this version that are several now; `split`: patients now that would be several; `moved`:
    subjects that would be another patient's. `waiting`: pairs left to stewards, before and after.
    """

    rules: str
    subjects: int
    patients_before: int
    patients_after: int
    merged: int
    split: int
    moved: int
    waiting_before: int
    waiting_after: int
    turned: list[Turned]
    examples: list[Example]


class TrialRuns(Exception):
    """Another trial runs on this index. One at a time."""


def try_rules(url: str, rules: RuleVersion, examples: int = 10, report: Progress = lambda _done, _all: None) -> Trial:
    """Run a version over a copy of the index at `url`, whose owner this is, and say what it would change.

    As long as it runs, the index may be written; who comes meanwhile is left out. Raises TrialRuns, and RetryLater
    where the database does not answer.
    """
    # the schema alone: what is not in it is not found, in place of being written in the index itself
    copy = Database(with_options(index_conninfo(url), ("search_path=shadow",)))
    with closing(copy), psycopg.connect(url, autocommit=True) as own:
        if own.execute("SELECT pg_try_advisory_lock(%s)", [_TRYING]).fetchone() != (True,):
            raise TrialRuns
        own.execute(_MAKE)
        try:
            waiting = _waiting(own, "public")
            _fill(copy, rules, report)
            return _compared(own, rules, waiting, examples)
        finally:
            own.execute(_DROP)


def _fill(copy: Database, rules: RuleVersion, report: Progress) -> None:
    index = SqlPatientIndex(copy)
    with copy.transaction():
        index.lift_marks(index.rules(), rules)
    linker = Linker(index)
    linker.use(rules)
    total, done, after = index.count_subjects(), 0, EVERYBODY.after
    while blocks := index.subjects_in(Range(after, EVERYBODY.until), AT_ONCE):
        with copy.transaction():
            linker.settle(Affected(dict.fromkeys(blocks, _NOBODY), blocks), Outputs())
        after, done = max(blocks), done + len(blocks)
        report(done, total)


def _compared(own: psycopg.Connection[Any], rules: RuleVersion, waiting: int, examples: int) -> Trial:
    with own.cursor(binary=True, row_factory=dict_row) as cursor:
        figures = cursor.execute(_FIGURES).fetchall()[0]
        turned = [Turned(**row) for row in cursor.execute(_TURNED).fetchall()]
        shown = [
            Example(**row | {"evidence": msgspec.msgpack.decode(row["evidence"], type=dict[str, float])})
            for row in cursor.execute(_EXAMPLES, [examples]).fetchall()
        ]
    figures |= {"waiting_before": waiting, "waiting_after": _waiting(own, "shadow")}
    return Trial(rules=rules.name, turned=turned, examples=shown, **figures)


def _waiting(own: psycopg.Connection[Any], schema: str) -> int:
    """How many pairs wait for a steward."""
    own.execute("SELECT set_config('search_path', %s, false)", [schema])
    ((pairs,),) = own.execute(_WAITING, [list(SILENT)]).fetchall()
    return int(pairs)


_NOBODY: Final = Message("", 0, 0, 0, b"", b"", {})
_TRYING: Final = 4053021
_DROP: Final = "DROP SCHEMA IF EXISTS shadow CASCADE"
_MAKE: Final = """
DROP SCHEMA IF EXISTS shadow CASCADE;
CREATE SCHEMA shadow;
CREATE UNLOGGED TABLE shadow.subjects (LIKE public.subjects INCLUDING ALL);
ALTER TABLE shadow.subjects ADD COLUMN stood bytea NOT NULL;
CREATE UNLOGGED TABLE shadow.edges (LIKE public.edges INCLUDING ALL);
CREATE UNLOGGED TABLE shadow.neighbours (LIKE public.neighbours INCLUDING ALL);
CREATE UNLOGGED TABLE shadow.common_tokens (LIKE public.common_tokens INCLUDING ALL);
CREATE UNLOGGED TABLE shadow.counts (LIKE public.counts INCLUDING ALL);
CREATE UNLOGGED TABLE shadow.former_edges (LIKE public.former_edges INCLUDING ALL);
-- empty: a trial withholds nobody
CREATE UNLOGGED TABLE shadow.oppositions (LIKE public.oppositions INCLUDING ALL);
CREATE UNLOGGED TABLE shadow.opposition_suspects (LIKE public.opposition_suspects INCLUDING ALL);
CREATE SEQUENCE shadow.link_version_seq;
CREATE VIEW shadow.subject_tokens AS SELECT * FROM public.subject_tokens;
CREATE VIEW shadow.steward_decisions AS SELECT * FROM public.steward_decisions;
CREATE VIEW shadow.active_rules AS SELECT * FROM public.active_rules;
CREATE VIEW shadow.rule_versions AS SELECT * FROM public.rule_versions;
INSERT INTO shadow.subjects (subject, seq, source, status, block, retired, stood)
SELECT subject, seq, source, status, block, retired, coalesce(patient, subject) FROM public.subjects;
INSERT INTO shadow.neighbours
SELECT a, b FROM public.steward_decisions UNION SELECT b, a FROM public.steward_decisions;
INSERT INTO shadow.common_tokens SELECT * FROM public.common_tokens;
"""
_FIGURES: Final = """
WITH held AS (SELECT DISTINCT stood AS before, patient AS after FROM shadow.subjects WHERE NOT retired)
SELECT (SELECT count(*) FROM shadow.subjects) AS subjects,
    (SELECT count(DISTINCT before) FROM held) AS patients_before,
    (SELECT count(DISTINCT after) FROM held) AS patients_after,
    (SELECT count(*) FROM (SELECT FROM held GROUP BY after HAVING count(*) > 1)) AS merged,
    (SELECT count(*) FROM (SELECT FROM held GROUP BY before HAVING count(*) > 1)) AS split,
    (SELECT count(*) FROM shadow.subjects WHERE stood <> patient) AS moved
"""
_WAITING: Final = f"SELECT count(*) AS pairs FROM ({WAITING}) AS waiting"  # noqa: S608 - constants
_OTHERS: Final = """
WITH turned AS (
    SELECT a, b, coalesce(was.outcome, '') AS before, coalesce(it.outcome, '') AS after,
        coalesce(it.method, was.method) AS method, coalesce(it.reason, was.reason) AS reason,
        coalesce(it.weight, was.weight) AS weight, coalesce(it.evidence, was.evidence) AS evidence
    FROM (
        SELECT e.* FROM public.edges e
        JOIN shadow.subjects l ON l.subject = e.a JOIN shadow.subjects r ON r.subject = e.b
    ) AS was FULL JOIN shadow.edges it USING (a, b)
    WHERE was.outcome IS DISTINCT FROM it.outcome AND (was.outcome <> 'apart' OR it.outcome <> 'apart'))
"""
_TURNED: Final = _OTHERS + "SELECT before, after, count(*) AS pairs FROM turned GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"  # noqa: S608 - constants
_EXAMPLES: Final = f"""
{_OTHERS}
SELECT encode(a, 'hex') || '-' || encode(b, 'hex') AS pair, before, after, method, reason, weight, evidence FROM (
    SELECT *, row_number() OVER (PARTITION BY before, after ORDER BY sha256(a || b)) AS place FROM turned) AS placed
WHERE 'link' IN (before, after) AND place <= %s ORDER BY before, after, place
"""  # noqa: S608 - constants
