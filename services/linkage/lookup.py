"""The patient index as HTTP reads it: records, counts, and the pairs that wait for a steward."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec
import psycopg
from psycopg_pool import ConnectionPool

from contracts.messages import TokenBlock
from runtime.messages import RetryLater
from services.linkage.adapters import DECIDED, STATE, Tally, decided_from, find_version, state_from, with_options
from services.linkage.domain.comparison import birth_parts
from services.linkage.domain.components import Pair, pair_of
from services.linkage.domain.decide import Outcome
from services.linkage.domain.opinions import Opines, Opinion, in_force
from services.linkage.domain.patients import SILENT, Decided
from services.linkage.domain.rules import RULES, RuleVersion
from services.linkage.domain.states import State
from services.linkage.domain.tokens import ONE_TO_A_PERSON, is_unlinkable, search_tokens


class Side(NamedTuple):
    """One subject of a pair: where it is from, whose it is, what it can be known by, and a few of its records.

    `systems` and `traits` name what the identity has, not what it is. `records` are counted up to a thousand; `events`
    are keys of event ids.
    """

    subject: bytes
    patient: bytes
    source: str
    status: str
    systems: tuple[str, ...]
    traits: tuple[str, ...]
    records: int
    events: list[bytes]


class Word(NamedTuple):
    """What stewards last decided of a pair; `together` is None where the rules decide again. `second` may be empty."""

    together: bool | None
    steward: str
    decided_at: dt.datetime
    second: str


class Former(NamedTuple):
    """What an earlier rule version made of a pair, until when."""

    outcome: Outcome
    rule_version: str
    replaced_at: dt.datetime


class Review(NamedTuple):
    """A pair as a steward sees it: what the rules make of it (if they ever met) and made before, the latest first, both
    sides, the decision that they follow, and what each steward has said.

    `numbers` says by system whether the two have a number in common (True), two others that one person has only one of
    (False), others (None); systems of only one side are not there. `birth` are the parts of the birth date, where codes
    tell: whether they are the same.
    """

    decided: Decided | None
    left: Side
    right: Side
    word: Word | None
    former: list[Former]
    opinions: list[Opinion]
    numbers: dict[str, bool | None]
    birth: dict[str, bool]

    @property
    def pair(self) -> Pair:
        """The two."""
        return self.left.subject, self.right.subject

    @property
    def as_seen(self) -> str:
        """Changes with what a steward goes by: what linkage makes of the pair, and what holds of it."""
        made = (self.decided.decision, self.decided.rules, self.decided.guard) if self.decided else None
        one_patient = self.left.patient == self.right.patient
        seen = msgspec.json.encode((self.pair, made, one_patient, in_force(self.opinions)), order="deterministic")
        return hashlib.sha256(seen).hexdigest()[:32]


class Link(NamedTuple):
    """What brought a subject to its patient, since when: a pair with another subject of that patient, which stewards
    have put together (`stewarded`) or the rules have."""

    review: Review
    stewarded: bool
    decided_at: dt.datetime


class RecordStatus(NamedTuple):
    """Where a record stands in the index. States come with the moment of their linking, the current one first.

    `link` is what decides most; None where the patient has no other subject.
    """

    subject: bytes
    patient: bytes
    source: str
    current: State
    linked_at: dt.datetime
    states: list[tuple[State, dt.datetime]]
    link: Link | None


Which = Literal["all", "second", "mine"]


class Versions(NamedTuple):
    """The rule version that decides, who switched it on and when (nobody: it came with the hub), all that are kept.

    `searched` is the share of all subjects that have been searched again under it, from 0 to 1.
    """

    active: str
    operator: str
    switched_at: dt.datetime | None
    searched: float
    kept: list[tuple[str, dt.datetime]]


class LinkedSource(NamedTuple):
    """How far the identities of a source are linked, in a sample of them.

    `sampled` of the source's subjects that current records are about were looked at, about `share` of all. Of them
    `unlinkable` have nothing to be linked by; `shared` have a patient with another subject, `elsewhere` with one of
    another source.
    """

    share: float
    sampled: int
    unlinkable: int
    shared: int
    elsewhere: int


class Said(NamedTuple):
    """What a steward said of which pair, and when."""

    pair: Pair
    says: Opines
    said_at: dt.datetime


class Progress(NamedTuple):
    """A steward's work: how many pairs wait for them; on how many another's word waits for a second, and their own
    does; how many they have spoken of since a moment; and what they said last."""

    waiting: int
    seconds: int
    mine: int
    done: int
    last: Said | None


class Lookup(Protocol):
    """What HTTP asks of the index; all raise RetryLater when it does not answer."""

    def versions(self) -> Versions:
        """The rule versions of this hub, the one kept last first."""

    def version(self, name: str) -> RuleVersion | None:
        """A rule version that is kept."""

    def reviews(self, after: Pair | None, limit: int, steward: str, which: Which = "all") -> list[Review]:
        """So many of the pairs that wait for this steward, those that decide most first, after this one; or of those on
        which another's word waits for a second, or this one's own does, in the order of their ids."""

    def progress(self, steward: str, since: dt.datetime) -> Progress:
        """How much waits, and what this steward has done since a moment."""

    def waiting(self) -> tuple[int, float]:
        """How many pairs wait for a steward, counted up to MANY, and for how many seconds the oldest of them has."""

    def review(self, pair: Pair) -> Review | None:
        """Any two subjects; None where one of them is not there."""

    def record(self, event: bytes) -> RecordStatus | None:
        """A record by the key of its event id."""

    def counts(self) -> Tally:
        """How many subjects, patients, records and unlinkable subjects there are."""

    def linked_source(self, source: str) -> LinkedSource:
        """How far the identities of a source are linked."""


class SqlLookup:
    """The index as HTTP reads it, on connections of its own."""

    def __init__(self, url: str) -> None:
        self._pool = ConnectionPool(lookup_conninfo(url), min_size=0, max_size=4, timeout=5, open=False)
        self._block = msgspec.msgpack.Decoder(TokenBlock)

    def open(self) -> None:
        """Begin to connect, when asked."""
        self._pool.open()

    def close(self) -> None:
        """Give the connections back."""
        self._pool.close()

    def versions(self) -> Versions:
        """The rule versions of this hub, the one kept last first."""
        with self.answer() as connection:
            kept = connection.execute("SELECT name, kept_at FROM rule_versions ORDER BY kept_at DESC").fetchall()
            row = connection.execute("SELECT name, operator, switched_at FROM active_rules").fetchone()
            rescans = connection.execute("SELECT since, reached, until FROM rescans").fetchall()
        name, operator, switched_at = row or (RULES.name, "", None)
        return Versions(name, operator, switched_at if operator else None, _share(rescans), kept)

    def version(self, name: str) -> RuleVersion | None:
        """A rule version that is kept."""
        with self.answer() as connection:
            return find_version(connection, name)

    def record(self, event: bytes) -> RecordStatus | None:
        """A record by the key of its event id."""
        with self._snapshot() as cursor:
            states = [(state_from(rest), linked_at) for linked_at, *rest in cursor.execute(_STATUS, [event, event])]
            if not states:
                return None
            current, linked_at = states[0]
            row = cursor.execute(_SUBJECT, [current.subject]).fetchone()
            source, patient = row or ("", current.subject)
            link = self._link(cursor, current.subject, patient)
            return RecordStatus(current.subject, patient, source, current, linked_at, states, link)

    def _link(self, cursor: psycopg.Cursor[tuple[Any, ...]], subject: bytes, patient: bytes) -> Link | None:
        best = cursor.execute(_BEST_LINK, {"subject": subject, "patient": patient}).fetchone()
        if best is None:
            return None
        other, stewarded, decided_at = best
        review = self.review_by(cursor, pair_of(subject, other))
        return Link(review, stewarded, decided_at) if review else None

    def reviews(self, after: Pair | None, limit: int, steward: str, which: Which = "all") -> list[Review]:
        """So many of the pairs that wait for this steward, those that decide most first, after this one; or of those on
        which another's word waits for a second, or this one's own does, in the order of their ids."""
        if which == "all":
            beyond = "" if after is None else _BEYOND
            query = f"{WAITING} {_UNTOUCHED} {beyond} ORDER BY e.rank, (-e.weight), e.a, e.b LIMIT %s"
            asked = [list(SILENT), steward, *(after or ()), limit]
        else:
            beyond = "" if after is None else "AND (o.a, o.b) > (%s, %s)"
            query = f"{_SECOND if which == 'second' else _MINE} {beyond} ORDER BY o.a, o.b LIMIT %s"
            asked = [steward] * (2 if which == "second" else 1) + [*(after or ()), limit]
        with self._snapshot() as cursor:
            pairs = cursor.execute(query, asked).fetchall()
            found = (self.review_by(cursor, (left, right)) for left, right in pairs)
            return [one for one in found if one is not None]

    def waiting(self) -> tuple[int, float]:
        """How many pairs wait for a steward, counted up to MANY, and for how many seconds the oldest of them has."""
        with self.answer() as connection:
            row = connection.execute(_OLDEST.encode(), [list(SILENT), MANY]).fetchone()
        count, seconds = row or (0, 0.0)
        return int(count), float(seconds)

    def progress(self, steward: str, since: dt.datetime) -> Progress:
        """How much waits, each up to MOST_COUNTED, and what this steward has done since a moment."""
        with self._snapshot() as cursor:
            counts = (
                (f"{WAITING} {_UNTOUCHED}", [list(SILENT), steward]),
                (_SECOND, [steward, steward]),
                (_MINE, [steward]),
            )
            waiting, seconds, mine = (
                cursor.execute(f"{_COUNT} ({query} LIMIT %s)", [*asked, MOST_COUNTED]).fetchall()[0][0]
                for query, asked in counts
            )
            ((done,),) = cursor.execute(_DONE, [steward, since]).fetchall()
            last = cursor.execute(_LAST, [steward]).fetchone()
        return Progress(waiting, seconds, mine, done, Said(last[:2], *last[2:]) if last else None)

    def review(self, pair: Pair) -> Review | None:
        """Any two subjects; None where one of them is not there."""
        with self._snapshot() as cursor:
            return self.review_by(cursor, pair)

    def review_by(self, cursor: psycopg.Cursor[tuple[Any, ...]], pair: Pair) -> Review | None:
        """Any two subjects, read in a transaction of the caller's; None where one of them is not there."""
        rows = {row[0]: row for row in cursor.execute(_SIDES, [list(pair)])}
        if rows.keys() != set(pair):
            return None
        blocks = [self._block.decode(rows[one][3]) for one in pair]
        left, right = (_side(block, *rows[one]) for one, block in zip(pair, blocks, strict=True))
        edge = cursor.execute(_PAIR, pair).fetchone()
        said = cursor.execute(_WORD, pair).fetchone()
        return Review(
            decided_from(edge) if edge else None,
            left,
            right,
            Word(*said) if said else None,
            [Former(Outcome(outcome), *rest) for outcome, *rest in cursor.execute(_FORMER, pair)],
            [Opinion(*one) for one in cursor.execute(_OPINIONS, pair)],
            numbers_of(*blocks),
            self._birth(cursor, pair, *blocks),
        )

    def _birth(
        self, cursor: psycopg.Cursor[tuple[Any, ...]], pair: Pair, left: TokenBlock, right: TokenBlock
    ) -> dict[str, bool]:
        """The parts of the birth dates, by the codes under a token that both carry."""
        shared = sorted(search_tokens(left).keys() & search_tokens(right).keys())
        rows = {(token, subject): codes for token, subject, codes in cursor.execute(_CODES, [shared, list(pair)])}
        found = (birth_parts(*(rows.get((token, one), b"") for one in pair)) for token in shared)
        return next((one for one in found if one), {})

    def counts(self) -> Tally:
        """How many there are."""
        with self.answer() as connection:
            row = connection.execute(_COUNTS).fetchone()
            return Tally(*(int(one) for one in row or ()))

    def linked_source(self, source: str) -> LinkedSource:
        """How far the identities of a source are linked.

        Ids are spread evenly, so the first of a source are a random sample of it, and the last of them says how large a
        part. All are looked at where there are no more than ENOUGH.
        """
        with self.answer() as connection, connection.cursor(binary=True) as cursor:
            cursor.execute("SET LOCAL enable_sort = off")  # or it may read all of a large source to sort it
            under_hash = cursor.execute(_OF_SOURCE, [source, ENOUGH]).fetchall()
            cursor.execute("SET LOCAL enable_sort = on")
            share = int.from_bytes(under_hash[-1][0]) / 2**128 if len(under_hash) == ENOUGH else 1.0
            found = [(subject, block) for subject, block, whose in under_hash if whose == source]
            linkable = [subject for subject, block in found if not is_unlinkable(self._block.decode(block))]
            shared, elsewhere = cursor.execute(_SHARED, {"sample": linkable, "source": source}).fetchone() or (0, 0)
        return LinkedSource(share, len(found), len(found) - len(linkable), shared, elsewhere)

    @contextmanager
    def _snapshot(self) -> Iterator[psycopg.Cursor[tuple[Any, ...]]]:
        """One moment: a pair is never half before and half after what the loop does to it. Raises RetryLater."""
        with self.answer() as connection, connection.cursor(binary=True) as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield cursor

    @contextmanager
    def answer(self) -> Iterator[psycopg.Connection]:
        """A transaction. Raises RetryLater when the index does not answer."""
        try:
            with self._pool.connection() as connection:
                yield connection
        except (psycopg.OperationalError, psycopg.errors.UndefinedTable):
            raise RetryLater("the index does not answer, or has no tables yet") from None


def numbers_of(left: TokenBlock, right: TokenBlock) -> dict[str, bool | None]:
    """By system whether the two have a number in common, as `Review` says it."""
    mine, theirs = ({one.system: set[bytes]() for one in block.identifiers} for block in (left, right))
    for found, block in ((mine, left), (theirs, right)):
        for one in block.identifiers:
            found[one.system].add(one.token)
    return {
        system: True if mine[system] & theirs[system] else (False if system in ONE_TO_A_PERSON else None)
        for system in sorted(mine.keys() & theirs.keys())
    }


def _side(
    known: TokenBlock, subject: bytes, patient: bytes, source: str, _block: bytes, records: int, events: list[bytes]
) -> Side:
    systems = tuple(sorted({one.system for one in known.identifiers}))
    return Side(subject, patient, source, known.status, systems, known.present, records, events)


def _share(rescans: Iterable[tuple[bytes, bytes, bytes]]) -> float:
    """How much of the ranges is done; ids are spread evenly over them."""
    spans = [[int.from_bytes(one.ljust(16, b"\0")) for one in bounds] for bounds in rescans]
    whole = sum(until - since for since, _, until in spans)
    return sum(reached - since for since, reached, _ in spans) / whole if whole else 1.0


def lookup_conninfo(url: str) -> str:
    """The URL with a limit on how long a look-up may take."""
    return with_options(url, ("statement_timeout=5000",))


_STATUS: Final = (
    f"SELECT linked_at, {STATE} FROM (SELECT linked_at, {STATE}, 0 AS place FROM records"  # noqa: S608
    f" WHERE event_id = %s UNION ALL SELECT linked_at, {STATE}, 1 FROM record_states WHERE event_id = %s)"
    " AS found ORDER BY place, revision DESC"
)
_SUBJECT: Final = "SELECT source, coalesce(patient, subject) FROM subjects WHERE subject = %s"
_BEST_LINK: Final = """
SELECT n.other, d.a IS NOT NULL, coalesce(d.decided_at, e.decided_at) FROM neighbours n
JOIN subjects s ON s.subject = n.other AND s.patient = %(patient)s
LEFT JOIN steward_decisions d
    ON d.a = least(n.subject, n.other) AND d.b = greatest(n.subject, n.other) AND d.together
LEFT JOIN edges e
    ON e.a = least(n.subject, n.other) AND e.b = greatest(n.subject, n.other) AND e.outcome = 'link' AND e.guard = ''
WHERE n.subject = %(subject)s AND (d.a IS NOT NULL OR e.a IS NOT NULL)
ORDER BY d.a IS NULL, e.rank, e.weight DESC, n.other LIMIT 1
"""
_COUNTS: Final = """
SELECT coalesce(sum(subjects), 0), coalesce(sum(patients), 0), coalesce(sum(records), 0), coalesce(sum(unlinkable), 0)
FROM counts
"""
_OF_SOURCE: Final = """
SELECT subject, block, source FROM subjects WHERE hashtext(source) = hashtext(%s) AND NOT retired
ORDER BY subject LIMIT %s
"""
_SHARED: Final = """
WITH RECURSIVE mine AS (
    SELECT subject, coalesce(patient, subject) AS patient FROM subjects WHERE subject = ANY(%(sample)s)
), walk (patient, subject, source, retired) AS (
    SELECT m.patient, m.subject, %(source)s::text, false FROM mine m
    UNION
    SELECT w.patient, o.subject, o.source, o.retired FROM walk w
    CROSS JOIN LATERAL (SELECT n.other FROM neighbours n WHERE n.subject = w.subject OFFSET 0) n
    CROSS JOIN LATERAL (
        SELECT o.subject, o.source, o.retired, o.patient FROM subjects o WHERE o.subject = n.other OFFSET 0) o
    WHERE o.patient = w.patient
), patients AS (
    SELECT patient, count(*) FILTER (WHERE NOT retired) > 1 AS shared,
        bool_or(NOT retired AND source <> %(source)s) AS elsewhere
    FROM walk GROUP BY patient
)
SELECT count(*) FILTER (WHERE shared), count(*) FILTER (WHERE elsewhere) FROM mine JOIN patients USING (patient)
"""
ENOUGH: Final = 2_000
"""Identities of a source that are looked at: each is a page from anywhere in a large table."""
_PAIR: Final = f"SELECT {DECIDED} FROM edges e WHERE e.a = %s AND e.b = %s"  # noqa: S608
_WORD: Final = "SELECT together, steward, decided_at, second FROM steward_decisions WHERE a = %s AND b = %s"
_CODES: Final = "SELECT token, subject, codes FROM subject_tokens WHERE token = ANY(%s) AND subject = ANY(%s)"
_OPINIONS: Final = "SELECT steward, says, said_at, alone FROM steward_opinions WHERE a = %s AND b = %s ORDER BY steward"
_FORMER: Final = """
SELECT outcome, rule_version, replaced_at FROM former_edges WHERE a = %s AND b = %s ORDER BY replaced_at DESC LIMIT 10
"""
_SIDES: Final = """
SELECT s.subject, coalesce(s.patient, s.subject), s.source, s.block,
    (SELECT count(*) FROM (SELECT FROM records r WHERE r.subject = s.subject AND NOT r.retracted LIMIT 1000)),
    ARRAY(SELECT r.event_id FROM records r WHERE r.subject = s.subject AND NOT r.retracted LIMIT 5)
FROM subjects s WHERE s.subject = ANY(%s)
"""
WAITING: Final = """
SELECT e.a, e.b FROM edges e
JOIN subjects l ON l.subject = e.a JOIN subjects r ON r.subject = e.b
WHERE (e.outcome = 'review' OR e.guard <> '') AND e.guard <> ALL (%s)
AND NOT l.retired AND NOT r.retired AND l.patient <> r.patient
AND NOT EXISTS (SELECT FROM steward_decisions d WHERE d.a = e.a AND d.b = e.b AND d.together IS NOT NULL)
"""
"""The pairs that wait for a steward; its parameter are the guards that no steward is asked about."""
MANY: Final = 10_000
_OLDEST: Final = f"""
SELECT count(*), coalesce(extract(epoch FROM now() - min(decided_at)), 0)
FROM (SELECT w.decided_at FROM edges w JOIN ({WAITING}) p USING (a, b) LIMIT %s) AS waiting
"""  # noqa: S608
_UNTOUCHED: Final = """
AND NOT EXISTS (
    SELECT FROM steward_opinions o WHERE o.a = e.a AND o.b = e.b AND o.steward = %s
    AND (o.says IN ('together', 'apart') OR o.says = 'unsure' AND o.said_at >= e.decided_at))
"""
"""... for this steward: who was unsure is asked again once linkage makes something else of the pair."""
_SECOND: Final = """
SELECT DISTINCT o.a, o.b FROM steward_opinions o WHERE o.waits AND o.steward <> %s AND NOT EXISTS (
    SELECT FROM steward_opinions m WHERE m.a = o.a AND m.b = o.b AND m.steward = %s AND (m.waits OR m.says = 'unsure'))
"""
_MINE: Final = "SELECT o.a, o.b FROM steward_opinions o WHERE o.waits AND o.steward = %s"
_COUNT: Final = "SELECT count(*) FROM"
_DONE: Final = "SELECT count(*) FROM steward_opinions WHERE steward = %s AND said_at >= %s"
_LAST: Final = """
SELECT a, b, says, said_at FROM steward_opinions WHERE steward = %s ORDER BY said_at DESC, a, b LIMIT 1
"""
MOST_COUNTED: Final = 1_000
"""Up to how many that wait are counted: it is asked after every decision."""
_BEYOND: Final = """
AND (e.rank, (-e.weight), e.a, e.b) > (SELECT x.rank, -x.weight, x.a, x.b FROM edges x WHERE x.a = %s AND x.b = %s)
"""
