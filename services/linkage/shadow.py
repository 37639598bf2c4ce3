"""What a rule version would change: run over a copy of the index beside the stream, and compared with what is there.

The copy has the same tables in a schema of its own, which the very code of the step fills. Tokens and stewards'
decisions are read where they are. Nothing of the index itself is written.
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


def try_rules(url: str, rules: RuleVersion, examples: int = 10, report: Progress = lambda _done, _all: None) -> Trial:
    """Run a version over a copy of the index at `url`, whose owner this is, and say what it would change.

    As long as it runs, the index may be written; who comes meanwhile is left out. Raises RetryLater where the database
    does not answer.
    """
    copy = Database(with_options(index_conninfo(url), ("search_path=shadow,public",)))
    with closing(copy), psycopg.connect(url, autocommit=True) as own:
        own.execute(_MAKE)
        try:
            _fill(copy, rules, report)
            return _compared(own, rules, examples)
        finally:
            own.execute(_DROP)


def _fill(copy: Database, rules: RuleVersion, report: Progress) -> None:
    index = SqlPatientIndex(copy)
    linker = Linker(index)
    linker.use(rules)
    total, done, after = index.count_subjects(), 0, EVERYBODY.after
    while blocks := index.subjects_in(Range(after, EVERYBODY.until), AT_ONCE):
        with copy.transaction():
            linker.settle(Affected(dict.fromkeys(blocks, _NOBODY), blocks), Outputs())
        after, done = max(blocks), done + len(blocks)
        report(done, total)


def _compared(own: psycopg.Connection[Any], rules: RuleVersion, examples: int) -> Trial:
    with own.cursor(binary=True, row_factory=dict_row) as cursor:
        figures = cursor.execute(_FIGURES).fetchall()[0]
        for when, path in (("before", "public"), ("after", "shadow, public")):
            cursor.execute(f"SET search_path = {path}")
            figures[f"waiting_{when}"] = cursor.execute(_WAITING, [list(SILENT)]).fetchall()[0]["pairs"]
        turned = [Turned(**row) for row in cursor.execute(_TURNED).fetchall()]
        shown = [
            Example(**row | {"evidence": msgspec.msgpack.decode(row["evidence"], type=dict[str, float])})
            for row in cursor.execute(_EXAMPLES, [examples]).fetchall()
        ]
    return Trial(rules=rules.name, turned=turned, examples=shown, **figures)


_NOBODY: Final = Message("", 0, 0, 0, b"", b"", {})
_DROP: Final = "DROP SCHEMA IF EXISTS shadow CASCADE"
_MAKE: Final = """
DROP SCHEMA IF EXISTS shadow CASCADE;
CREATE SCHEMA shadow;
CREATE UNLOGGED TABLE shadow.subjects (LIKE public.subjects INCLUDING ALL);
CREATE UNLOGGED TABLE shadow.edges (LIKE public.edges INCLUDING ALL);
CREATE UNLOGGED TABLE shadow.neighbours (LIKE public.neighbours INCLUDING ALL);
CREATE UNLOGGED TABLE shadow.common_tokens (LIKE public.common_tokens INCLUDING ALL);
CREATE UNLOGGED TABLE shadow.counts (LIKE public.counts INCLUDING ALL);
CREATE UNLOGGED TABLE shadow.former_edges (LIKE public.former_edges INCLUDING ALL);
CREATE SEQUENCE shadow.link_version_seq;
INSERT INTO shadow.subjects (subject, seq, source, status, block, retired)
SELECT subject, seq, source, status, block, retired FROM public.subjects;
INSERT INTO shadow.neighbours
SELECT a, b FROM public.steward_decisions UNION SELECT b, a FROM public.steward_decisions;
"""
_FIGURES: Final = """
WITH stands AS (
    SELECT coalesce(was.patient, subject) AS before, it.patient AS after, it.retired
    FROM shadow.subjects it JOIN public.subjects was USING (subject)),
held AS (SELECT DISTINCT before, after FROM stands WHERE NOT retired)
SELECT (SELECT count(*) FROM stands) AS subjects,
    (SELECT count(DISTINCT before) FROM held) AS patients_before,
    (SELECT count(DISTINCT after) FROM held) AS patients_after,
    (SELECT count(*) FROM (SELECT FROM held GROUP BY after HAVING count(*) > 1)) AS merged,
    (SELECT count(*) FROM (SELECT FROM held GROUP BY before HAVING count(*) > 1)) AS split,
    (SELECT count(*) FROM stands WHERE before <> after) AS moved
"""
_WAITING: Final = f"SELECT count(*) AS pairs FROM ({WAITING}) AS waiting"  # noqa: S608 - constants
_OTHERS: Final = """
WITH turned AS (
    SELECT a, b, coalesce(was.outcome, '') AS before, coalesce(it.outcome, '') AS after,
        coalesce(it.method, was.method) AS method, coalesce(it.reason, was.reason) AS reason,
        coalesce(it.weight, was.weight) AS weight, coalesce(it.evidence, was.evidence) AS evidence
    FROM public.edges was FULL JOIN shadow.edges it USING (a, b)
    WHERE was.outcome IS DISTINCT FROM it.outcome AND (was.outcome <> 'apart' OR it.outcome <> 'apart'))
"""
_TURNED: Final = _OTHERS + "SELECT before, after, count(*) AS pairs FROM turned GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"  # noqa: S608 - constants
_EXAMPLES: Final = f"""
{_OTHERS}
SELECT encode(a, 'hex') || '-' || encode(b, 'hex') AS pair, before, after, method, reason, weight, evidence FROM (
    SELECT *, row_number() OVER (PARTITION BY before, after ORDER BY sha256(a || b)) AS place FROM turned) AS placed
WHERE 'link' IN (before, after) AND place <= %s ORDER BY before, after, place
"""  # noqa: S608 - constants
