"""The patient index: what the step asks of it, and how PostgreSQL answers, a batch at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.resources import files
from itertools import chain
from typing import Any, Final, LiteralString, NamedTuple, Protocol

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from contracts.events import OPPOSITION
from contracts.messages import RulesSwitched, StewardDecision, TokenBlock, mark_of
from runtime.database import Database
from services.linkage.domain.candidates import Holders, is_over
from services.linkage.domain.comparison import TAGGED_CODES, tagged_rows
from services.linkage.domain.components import Pair, Stewarded, pair_of
from services.linkage.domain.decide import Decision, Outcome
from services.linkage.domain.patients import Decided, Subject
from services.linkage.domain.rules import RULES, RuleVersion, checked, from_bytes, to_bytes
from services.linkage.domain.states import Coordinates, State
from services.linkage.domain.tokens import search_tokens

MIGRATIONS: Final = files("services.linkage") / "migrations"


class Known(NamedTuple):
    """What the fast path needs of a subject."""

    patient: bytes | None
    settled: bool
    retired: bool = False


class Holder(NamedTuple):
    """A subject that carries a token, and its row of codes under it as `comparison.tagged_rows` has it."""

    subject: bytes
    codes: bytes


class Move(NamedTuple):
    """A subject's patient and standing; without a link version, the patient it had already."""

    subject: bytes
    patient: bytes
    link_version: int | None
    settled: bool
    retired: bool = False


class Locked(NamedTuple):
    """Whole components: their subjects, all that was decided on their pairs, and what stewards have decided."""

    subjects: dict[bytes, Subject]
    decided: list[Decided]
    stewards: list[Stewarded]


class Range(NamedTuple):
    """The subjects after one id up to another."""

    after: bytes
    until: bytes


EVERYBODY: Final = Range(b"", b"\xff" * 16)


class AnotherVersion(Exception):
    """There is a rule version of this name with other content. Versions never change."""


class Saved(NamedTuple):
    """A record's accepted states before and after a batch, the current one first."""

    event: bytes
    before: Sequence[State]
    after: Sequence[State]


class Tally(NamedTuple):
    """How many there are, or how many more."""

    subjects: int = 0
    patients: int = 0
    records: int = 0
    unlinkable: int = 0


class Forgotten(NamedTuple):
    """What was known of subjects that are forgotten: the pairs that were decided on, those that stewards spoke of, who
    of them had ever objected, and those who object and had one of them as a suspect, with the suspects left."""

    met: Collection[Pair]
    said: Collection[Pair]
    objected: Collection[bytes]
    reaches: Mapping[bytes, Collection[bytes]]


class PatientIndex(Protocol):
    """The memory of linkage. Within the loop's transaction, or `apart`; all may raise RetryLater."""

    def apart(self) -> AbstractContextManager[None]:
        """A transaction of its own, before the loop's."""

    def find_strange(self, subjects: Iterable[bytes]) -> set[bytes]:
        """Those of the subjects that are not known."""

    def insert(self, blocks: Sequence[TokenBlock]) -> None:
        """Insert subjects that were new just now, with their tokens, unless another worker has."""

    def find_states(self, events: Iterable[bytes]) -> dict[bytes, list[State]]:
        """The accepted states of those records that are known, the current one first."""

    def find_subjects(self, subjects: Iterable[bytes]) -> dict[bytes, Known]:
        """The subjects that are known. Within the loop's transaction none of them retires until its end."""

    def find_deserted(self, subjects: Iterable[bytes]) -> frozenset[bytes]:
        """Those of the subjects that no record is about, as all workers have it."""

    def keep_stewards(self, decisions: Sequence[StewardDecision]) -> None:
        """Keep stewards' decisions, unless a later one on the pair is kept; the pair is one component from now on."""

    def search(self, tokens: Iterable[bytes]) -> dict[bytes, Holders]:
        """The subjects that carry each token, with their codes under it."""

    def find_common(self, tokens: Iterable[bytes]) -> frozenset[bytes]:
        """Those of the tokens that are marked as too common."""

    def mark_common(self, tokens: Iterable[bytes]) -> None:
        """Mark tokens as too common, for ever."""

    def lock_components(self, subjects: Iterable[bytes]) -> Locked:
        """The components of those of these subjects that are there, locked against other workers."""

    def write_edges(self, new: Sequence[Decided], revised: Sequence[Decided], guards: Mapping[Pair, str]) -> None:
        """Keep new decisions, and revised ones in place of others; `guards` are older links', where they changed."""

    def drop_edges(self, pairs: Collection[Pair]) -> None:
        """Forget pairs on which there is nothing left to say."""

    def rules(self) -> RuleVersion:
        """The version that decides, until the end of the transaction."""

    def switch(self, switched: RulesSwitched, rules: RuleVersion, ranges: Sequence[Range]) -> bool:
        """Let this version decide, and begin to search the subjects in these ranges again; what is not too common under
        its limits is no longer. False where a switch of that time or later is known.

        Raises AnotherVersion.
        """

    def subjects_in(self, given: Range, most: int) -> dict[bytes, TokenBlock]:
        """So many of the subjects in a range, in the order of their ids."""

    def met(self, subjects: Iterable[bytes]) -> set[bytes]:
        """Whom subjects have met, of those with higher ids."""

    def reach(self, given: Range, after: bytes) -> bool:
        """The subjects of a range up to `after` are searched again now; False where they were before."""

    def next_link_versions(self, count: int) -> list[int]:
        """So many link versions, ascending; higher than any that another worker gave to a locked subject."""

    def move(self, moves: Sequence[Move]) -> None:
        """Give subjects their patients."""

    def save(self, records: Sequence[Saved]) -> None:
        """Keep the records' states."""

    def count(self, slot: int, more: Tally) -> None:
        """Add to the counts."""

    def keep_oppositions(self, oppositions: Mapping[bytes, tuple[bytes, bool]]) -> None:
        """Keep, by event, which subject objects and whether that is in force."""

    def find_opposed(self, subjects: Iterable[bytes]) -> set[bytes]:
        """Those of the subjects that object."""

    def find_suspects(self, subjects: Iterable[bytes]) -> dict[bytes, frozenset[bytes]]:
        """Whom these subjects' oppositions were last said to withhold besides."""

    def keep_suspects(self, suspects: Mapping[bytes, Collection[bytes]]) -> None:
        """Keep whom these subjects' oppositions withhold now."""

    def erase(self, subjects: Collection[bytes]) -> None:
        """Mark subjects as erased, for ever. Waits for the batches of other workers; those after it know of it."""

    def find_erased(self, subjects: Iterable[bytes]) -> set[bytes]:
        """Those of the subjects that are marked as erased; nobody else is until the end of the transaction."""

    def let_go(self, subjects: Collection[bytes]) -> None:
        """Forget which records are about these subjects, but for their oppositions."""

    def forget(self, blocks: Mapping[bytes, TokenBlock]) -> Forgotten:
        """Forget these locked subjects, and which records are about them."""


class SqlPatientIndex:
    """The index in PostgreSQL 16 or later, on the connection of the loop's store. Link versions go on beyond a number,
    for a database that was restored: access has seen those that the lost one had given out."""

    def __init__(self, database: Database, beyond: int = 0) -> None:
        self._database = database
        self._beyond = beyond
        self._block = msgspec.msgpack.Decoder(TokenBlock)
        self._active: RuleVersion | None = None

    def patients(self) -> dict[str, str]:
        """Every record's event id with its patient, both as hex: what a file that was linked whole comes to."""
        rows: Iterable[tuple[str, str]] = self._database.connection.execute(
            "SELECT encode(event_id, 'hex'), encode(coalesce(patient, records.subject), 'hex')"
            " FROM records LEFT JOIN subjects USING (subject)"
        )
        return dict(rows)

    def subjects_by_event(self) -> dict[str, bytes]:
        """Every record's event id, as hex, with its subject."""
        rows: Iterable[tuple[str, bytes]] = self._database.connection.execute(
            "SELECT encode(event_id, 'hex'), subject FROM records"
        )
        return dict(rows)

    def count_subjects(self) -> int:
        """How many subjects there are."""
        ((count,),) = self._rows("SELECT count(*) FROM subjects", [])
        return int(count)

    def sample(self, share: float, most: int) -> list[list[Holder]]:
        """Who carries each of this share of the tokens, of those that two to `most` carry."""
        found: defaultdict[bytes, list[Holder]] = defaultdict(list)
        for token, subject, codes in self._rows(_SAMPLE, [int(share * 65_536), most]):
            found[token].append(Holder(subject, codes))
        return list(found.values())

    def blocks(self, subjects: list[bytes]) -> dict[bytes, TokenBlock]:
        """Subjects' blocks."""
        rows = self._rows(
            "SELECT subject, block FROM unnest(%b::bytea[]) AS wanted (subject) JOIN subjects USING (subject)",
            [subjects],
        )
        return {subject: self._block.decode(block) for subject, block in rows}

    def frequent(self, kind: str, least: int) -> dict[bytes, int]:
        """How many carry each token of a kind, where it is this many at least."""
        rows = self._rows(
            "SELECT token, count(*) FROM subject_tokens WHERE system = %b GROUP BY token HAVING count(*) >= %b",
            [kind, least],
        )
        return dict(rows)

    def apart(self) -> AbstractContextManager[None]:
        """A transaction of its own; committed at its end."""
        return self._database.transaction()

    def find_strange(self, subjects: Iterable[bytes]) -> set[bytes]:
        """Those of the subjects that are not known."""
        wanted = set(subjects)
        rows = self._rows(
            "SELECT subject FROM unnest(%b::bytea[]) AS wanted (subject) JOIN subjects USING (subject)", [list(wanted)]
        )
        return wanted - {subject for (subject,) in rows}

    def insert(self, blocks: Sequence[TokenBlock]) -> None:
        """Insert subjects, older first; written in the order of their ids, so that workers do not deadlock.

        A subject's tokens are written by whoever inserts it.
        """
        if not blocks:
            return
        seqs = self._rows("SELECT nextval('subject_seq') FROM generate_series(1, %b)", [len(blocks)])
        aged = sorted(zip(blocks, seqs, strict=True), key=lambda one: one[0].subject)
        columns = zip(*(subject_row(one, seq) for one, (seq,) in aged), strict=True)
        inserted = {subject for (subject,) in self._rows(_INSERT, [list(column) for column in columns])}
        rows = chain.from_iterable(token_rows(block) for block in blocks if block.subject in inserted)
        self._copy(*_TOKENS, sorted(rows))

    def find_states(self, events: Iterable[bytes]) -> dict[bytes, list[State]]:
        """The accepted states of those records that are known, the current one first."""
        found: defaultdict[bytes, list[State]] = defaultdict(list)
        more = []
        for event, states, *rest in self._rows(_FIND_RECORDS, [list(events)]):
            found[event].append(state_from(rest))
            if states > 1:
                more.append(event)
        for event, *rest in self._rows(_FIND_STATES, [more]) if more else ():
            found[event].append(state_from(rest))
        return found

    def find_subjects(self, subjects: Iterable[bytes]) -> dict[bytes, Known]:
        """The subjects that are known, held so that none of them retires meanwhile (see `find_deserted`)."""
        rows = self._rows(
            "SELECT s.subject, s.patient, s.settled, s.retired FROM unnest(%b::bytea[]) AS wanted (subject), LATERAL ("
            "SELECT * FROM subjects WHERE subjects.subject = wanted.subject FOR KEY SHARE) s",
            [list(subjects)],
        )
        return {subject: Known(*rest) for subject, *rest in rows}

    def find_deserted(self, subjects: Iterable[bytes]) -> frozenset[bytes]:
        """Those of the subjects that no record is about; waits for other workers' records about them."""
        wanted = sorted(subjects)
        if not wanted:
            return frozenset()
        self._rows("SELECT FROM subjects WHERE subject = ANY(%b::bytea[]) ORDER BY subject FOR UPDATE", [wanted])
        rows = self._rows(
            "SELECT subject FROM unnest(%b::bytea[]) AS wanted (subject) WHERE NOT EXISTS"
            " (SELECT FROM records r WHERE r.subject = wanted.subject AND NOT r.retracted)",
            [wanted],
        )
        return frozenset(subject for (subject,) in rows)

    def keep_stewards(self, decisions: Sequence[StewardDecision]) -> None:
        """Keep stewards' decisions, unless a later one on the pair is kept."""
        latest = {(one.left, one.right): one for one in sorted(decisions, key=lambda it: it.decided_at)}
        ordered = [latest[pair] for pair in sorted(latest)]
        self._write(
            "INSERT INTO steward_decisions AS known (a, b, together, steward, decided_at, second)"
            " SELECT a, b, together, steward, to_timestamp(decided_at / 1000.0), second"
            " FROM unnest(%b::bytea[], %b::bytea[], %b::boolean[], %b::text[], %b::bigint[], %b::text[])"
            " AS said (a, b, together, steward, decided_at, second)"
            " ON CONFLICT (a, b) DO UPDATE SET together = excluded.together, steward = excluded.steward,"
            " second = excluded.second, decided_at = excluded.decided_at"
            " WHERE excluded.decided_at >= known.decided_at",
            [(one.left, one.right, one.together, one.steward, one.decided_at, one.second) for one in ordered],
        )
        self._write(_BIND, sorted(chain.from_iterable((pair, pair[::-1]) for pair in latest)))

    def search(self, tokens: Iterable[bytes]) -> dict[bytes, Holders]:
        """The subjects that carry each token, with their codes under it."""
        return {token: Holders(rows or b"") for token, rows in self._rows(_SEARCH, [list(tokens)])}

    def find_common(self, tokens: Iterable[bytes]) -> frozenset[bytes]:
        """Those of the tokens that are marked as too common."""
        rows = self._rows(
            "SELECT token FROM unnest(%b::bytea[]) AS wanted (token) JOIN common_tokens USING (token)", [list(tokens)]
        )
        return frozenset(token for (token,) in rows)

    def mark_common(self, tokens: Iterable[bytes]) -> None:
        """Mark tokens as too common, in their order, so that workers do not deadlock."""
        self._write(
            "INSERT INTO common_tokens (token) SELECT * FROM unnest(%b::bytea[]) ON CONFLICT DO NOTHING",
            [(token,) for token in sorted(tokens)],
        )

    def lock_components(self, subjects: Iterable[bytes]) -> Locked:
        """Reach, lock in the order of ids, and reach again: a component may have grown while this one waited."""
        seen: set[bytes] = set()
        reached = set(subjects)
        rows: dict[bytes, Subject] = {}
        while fresh := (reached := self._reach(list(reached))) - seen:
            seen |= fresh
            for subject, seq, patient, block, retired in self._rows(_LOCK, [sorted(fresh)]):
                rows[subject] = Subject(seq, patient, self._block.decode(block), retired)
        wanted = list(rows)
        edges = [one for one in map(decided_from, self._rows(_EDGES, [wanted])) if one.right in rows]
        stewards = [
            Stewarded(left, right, together)
            for left, right, together in self._rows(_STEWARDS, [wanted])
            if right in rows
        ]
        return Locked(rows, edges, stewards)

    def _reach(self, seeds: list[bytes]) -> set[bytes]:
        return {subject for (subject,) in self._rows(_REACH, [seeds])}

    def write_edges(self, new: Sequence[Decided], revised: Sequence[Decided], guards: Mapping[Pair, str]) -> None:
        """Keep decisions; one that another version's replaces is kept beside, where the outcome changes."""
        self._write(_FORMER, [(*one.pair, one.decision.outcome.value) for one in revised])
        fresh = sorted((*new, *revised), key=lambda it: it.pair)
        rows = [
            (
                *one.pair,
                one.decision.outcome.value,
                one.decision.method,
                one.decision.rank,
                one.decision.weight,
                one.decision.reason,
                msgspec.msgpack.encode(one.decision.evidence),
                one.rules,
                one.guard,
            )
            for one in fresh
        ]
        self._write(
            "INSERT INTO edges (a, b, outcome, method, rank, weight, reason, evidence, rule_version, guard)"
            " SELECT * FROM unnest(%b::bytea[], %b::bytea[], %b::text[], %b::text[], %b::integer[],"
            " %b::double precision[], %b::text[], %b::bytea[], %b::text[], %b::text[])"
            " ON CONFLICT (a, b) DO UPDATE SET outcome = excluded.outcome, method = excluded.method,"
            " rank = excluded.rank, weight = excluded.weight, reason = excluded.reason, evidence = excluded.evidence,"
            " rule_version = excluded.rule_version, guard = excluded.guard, decided_at = now()",
            rows,
        )
        self._write(_BIND, sorted(chain.from_iterable((one.pair, one.pair[::-1]) for one in fresh if one.binds)))
        self._loosen(one.pair for one in revised if not one.binds)
        self._write(
            "UPDATE edges SET guard = moved.guard FROM unnest(%b::bytea[], %b::bytea[], %b::text[])"
            " AS moved (a, b, guard) WHERE edges.a = moved.a AND edges.b = moved.b",
            [(*pair, guard) for pair, guard in sorted(guards.items())],
        )

    def _loosen(self, pairs: Iterable[Pair]) -> None:
        """What becomes of one of a pair no longer depends on the other, unless a steward has spoken of the two."""
        self._write(_LOOSEN, sorted(chain.from_iterable((pair, pair[::-1]) for pair in pairs)))

    def drop_edges(self, pairs: Collection[Pair]) -> None:
        """Forget pairs on which there is nothing left to say; what was decided is kept beside."""
        self._loosen(pairs)
        self._write(_FORMER, [(*pair, "") for pair in sorted(pairs)])
        self._write(
            "DELETE FROM edges USING unnest(%b::bytea[], %b::bytea[]) AS gone (a, b)"
            " WHERE edges.a = gone.a AND edges.b = gone.b",
            sorted(pairs),
        )

    def rules(self) -> RuleVersion:
        """The version that decides; nobody switches until the end of the transaction."""
        self._rows("SELECT pg_advisory_xact_lock_shared(%b)", [_SWITCHING])
        active = self._rows(_ACTIVE, [])
        if not active:
            self.keep(RULES)
            self._write(
                "INSERT INTO active_rules (name, operator, switched_at) SELECT name, '', to_timestamp(0)"
                " FROM unnest(%b::text[]) AS first (name) ON CONFLICT DO NOTHING",
                [(RULES.name,)],
            )
            active = self._rows(_ACTIVE, [])
        ((name,),) = active
        if self._active is None or self._active.name != name:
            self._active = self.version(name)
        assert self._active is not None  # the table refers to it
        return self._active

    def switch(self, switched: RulesSwitched, rules: RuleVersion, ranges: Sequence[Range]) -> bool:
        """Let this version decide; waits for the batches that other workers decide under the one before."""
        self._rows("SELECT pg_advisory_xact_lock(%b)", [_SWITCHING])
        before = self.rules()
        self.keep(rules)
        moved = self._rows(
            "UPDATE active_rules SET name = %b, operator = %b, switched_at = to_timestamp(%b::bigint / 1000.0)"
            " WHERE switched_at < to_timestamp(%b::bigint / 1000.0) RETURNING name",
            [rules.name, switched.operator, switched.switched_at, switched.switched_at],
        )
        if moved:
            self.lift_marks(before, rules)
            self._rows("DELETE FROM rescans RETURNING NULL", [])
            self._write(
                "INSERT INTO rescans (since, reached, until)"
                " SELECT * FROM unnest(%b::bytea[], %b::bytea[], %b::bytea[])",
                [(one.after, one.after, one.until) for one in ranges],
            )
        return bool(moved)

    def subjects_in(self, given: Range, most: int) -> dict[bytes, TokenBlock]:
        """So many of the subjects in a range, in the order of their ids."""
        rows = self._rows(
            "SELECT subject, block FROM subjects WHERE subject > %b AND subject <= %b ORDER BY subject LIMIT %b",
            [*given, most],
        )
        return {subject: self._block.decode(block) for subject, block in rows}

    def met(self, subjects: Iterable[bytes]) -> set[bytes]:
        """Whom subjects have met, of those with higher ids."""
        rows = self._rows("SELECT b FROM unnest(%b::bytea[]) AS wanted (a) JOIN edges USING (a)", [list(subjects)])
        return {other for (other,) in rows}

    def lift_marks(self, before: RuleVersion, after: RuleVersion) -> None:
        """Tokens that were too common under one version are searched again where they are not under another."""
        if not after.lifts(before):
            return
        marked = [token for (token,) in self._rows("SELECT token FROM common_tokens ORDER BY token", [])]
        most = max(after.most_holders, after.most_identities, after.most_in_block) + 1
        for start in range(0, len(marked), _AT_ONCE):
            found = self._rows(_MARKED, [marked[start : start + _AT_ONCE], most])
            lifted = [(token,) for token, system, rows in found if not is_over(after, system, Holders(rows))]
            self._write(
                "DELETE FROM common_tokens USING unnest(%b::bytea[]) AS lifted (token)"
                " WHERE common_tokens.token = lifted.token",
                lifted,
            )

    def reach(self, given: Range, after: bytes) -> bool:
        """The subjects of a range up to `after` are searched again now; False where they were before."""
        return bool(
            self._rows(
                "UPDATE rescans SET reached = %b WHERE until = %b AND reached = %b RETURNING until",
                [after, given.until, given.after],
            )
        )

    def keep(self, rules: RuleVersion) -> None:
        """Keep a version, which decides nothing until it is switched to. Raises AnotherVersion, RulesError."""
        checked(rules)
        self._write(
            "INSERT INTO rule_versions (name, body) SELECT * FROM unnest(%b::text[], %b::bytea[])"
            " ON CONFLICT DO NOTHING",
            [(rules.name, to_bytes(rules))],
        )
        if self.version(rules.name) != rules:
            raise AnotherVersion(rules.name)

    def version(self, name: str) -> RuleVersion | None:
        """A version that is kept."""
        return find_version(self._database.connection, name)

    def next_link_versions(self, count: int) -> list[int]:
        """So many link versions, ascending."""
        if self._beyond:  # no transaction takes a sequence back
            self._rows(
                "SELECT setval('link_version_seq', %b) FROM link_version_seq WHERE last_value < %b", [self._beyond] * 2
            )
            self._beyond = 0
        rows = self._rows("SELECT nextval('link_version_seq') FROM generate_series(1, %b)", [count])
        return [version for (version,) in rows]

    def keep_oppositions(self, oppositions: Mapping[bytes, tuple[bytes, bool]]) -> None:
        """Keep which subject objects."""
        self._write(
            "INSERT INTO oppositions (event_id, subject, in_force)"
            " SELECT * FROM unnest(%b::bytea[], %b::bytea[], %b::boolean[])"
            " ON CONFLICT (event_id) DO UPDATE SET subject = excluded.subject, in_force = excluded.in_force",
            [(event, *one) for event, one in sorted(oppositions.items())],
        )

    def find_opposed(self, subjects: Iterable[bytes]) -> set[bytes]:
        """Those of the subjects that object."""
        query = "SELECT DISTINCT subject FROM oppositions WHERE in_force AND subject = ANY(%b::bytea[])"
        return {subject for (subject,) in self._rows(query, [list(subjects)])}

    def find_suspects(self, subjects: Iterable[bytes]) -> dict[bytes, frozenset[bytes]]:
        """Whom these subjects' oppositions were last said to withhold besides."""
        found: defaultdict[bytes, set[bytes]] = defaultdict(set)
        query = "SELECT subject, suspect FROM opposition_suspects WHERE subject = ANY(%b::bytea[])"
        for subject, suspect in self._rows(query, [list(subjects)]):
            found[subject].add(suspect)
        return {subject: frozenset(found) for subject, found in found.items()}

    def keep_suspects(self, suspects: Mapping[bytes, Collection[bytes]]) -> None:
        """Keep whom these subjects' oppositions withhold now."""
        self._write("DELETE FROM opposition_suspects WHERE subject = ANY(%b::bytea[])", [(one,) for one in suspects])
        self._write(
            "INSERT INTO opposition_suspects (subject, suspect) SELECT * FROM unnest(%b::bytea[], %b::bytea[])",
            sorted((subject, one) for subject, found in suspects.items() for one in found),
        )

    def erase(self, subjects: Collection[bytes]) -> None:
        """Mark subjects as erased. The lock is the one of switches: every batch shares it."""
        self._rows("SELECT pg_advisory_xact_lock(%b)", [_SWITCHING])
        self._write(
            "INSERT INTO erased SELECT * FROM unnest(%b::bytea[]) ON CONFLICT DO NOTHING",
            [(mark_of(one),) for one in sorted(subjects)],
        )

    def find_erased(self, subjects: Iterable[bytes]) -> set[bytes]:
        """Those of the subjects that are marked as erased."""
        marks = {mark_of(one): one for one in subjects}
        self._rows("SELECT pg_advisory_xact_lock_shared(%b)", [_SWITCHING])
        rows = self._rows("SELECT mark FROM unnest(%b::bytea[]) AS wanted (mark) JOIN erased USING (mark)", [[*marks]])
        return {marks[mark] for (mark,) in rows}

    def let_go(self, subjects: Collection[bytes]) -> None:
        """Forget which records are about these subjects, but for their oppositions."""
        for query in _LET_GO:
            self._rows(query, [list(subjects), f"{OPPOSITION}%"])

    def forget(self, blocks: Mapping[bytes, TokenBlock]) -> Forgotten:
        """Forget locked subjects. Whoever they have met carries one of their tokens, or a steward spoke of the two."""
        subjects = list(blocks)
        for query in _LET_GO:
            self._rows(query, [subjects, ""])
        carried = [(token, subject) for subject, block in blocks.items() for token in search_tokens(block)]
        holders = self.search({token for token, _ in carried})
        met = {pair_of(subject, it) for token, subject in carried for it in holders[token].subjects() if it != subject}
        rows = self._rows(_FORGET_NEIGHBOURS, [subjects])
        met |= {pair_of(subject, other) for subject, other in rows}
        self._write(_UNBIND, rows)
        pairs = [list(column) for column in zip(*sorted(met), strict=True)] or [[], []]
        decided = {pair for query in _FORGET_PAIRS for pair in self._rows(query, pairs)}
        said = set(self._rows(_FORGET_STEWARDS, pairs))
        self._write(_FORGET_TOKENS, carried)
        self._write("DELETE FROM subjects WHERE subject = ANY(%b::bytea[])", [(one,) for one in subjects])
        rows = self._rows("DELETE FROM oppositions WHERE subject = ANY(%b::bytea[]) RETURNING subject", [subjects])
        rows += self._rows(
            "DELETE FROM opposition_suspects WHERE subject = ANY(%b::bytea[]) RETURNING subject", [subjects]
        )
        objected = {subject for (subject,) in rows}
        rows = self._rows(
            "DELETE FROM opposition_suspects WHERE suspect = ANY(%b::bytea[]) RETURNING subject", [subjects]
        )
        tied = {subject for (subject,) in rows}
        left = self.find_suspects(tied)
        return Forgotten(decided, said, objected, {subject: left.get(subject, frozenset()) for subject in tied})

    def move(self, moves: Sequence[Move]) -> None:
        """Give subjects their patients."""
        self._write(
            "UPDATE subjects SET patient = moved.patient, settled = subjects.settled OR moved.settled,"
            " link_version = coalesce(moved.link_version, subjects.link_version), retired = moved.retired"
            " FROM unnest(%b::bytea[], %b::bytea[], %b::bigint[], %b::boolean[], %b::boolean[])"
            " AS moved (subject, patient, link_version, settled, retired) WHERE subjects.subject = moved.subject",
            moves,
        )

    def save(self, records: Sequence[Saved]) -> None:
        """Keep the records' states: the current one in `records`, those it has replaced or outranked beside it."""
        moved = [one for one in records if one.before and one.after[0] is not one.before[0]]
        self._copy(*_RECORDS, [(one.event, len(one.after), *_row(one.after[0])) for one in records if not one.before])
        self._write(
            f"INSERT INTO record_states (event_id, linked_at, {STATE}) SELECT event_id, linked_at, {STATE}"  # noqa: S608
            " FROM unnest(%b::bytea[]) AS moved (event_id) JOIN records USING (event_id)",
            [(one.event,) for one in moved],
        )
        self._write(
            f"UPDATE records SET (states, {STATE}, linked_at)"  # noqa: S608
            f" = (now_.states, {', '.join(f'now_.{name.strip()}' for name in STATE.split(','))}, now())"
            f" FROM unnest(%b::bytea[], %b::integer[], {_UNNEST}) AS now_ (event_id, states, {STATE})"
            " WHERE records.event_id = now_.event_id",
            [(one.event, len(one.after), *_row(one.after[0])) for one in moved],
        )
        self._write(
            "UPDATE records SET states = now_.states"
            " FROM unnest(%b::bytea[], %b::integer[]) AS now_ (event_id, states)"
            " WHERE records.event_id = now_.event_id",
            [(one.event, len(one.after)) for one in records if one.before and one.after[0] is one.before[0]],
        )
        self._write(
            f"INSERT INTO record_states (event_id, {STATE}) SELECT * FROM unnest(%b::bytea[], {_UNNEST})",  # noqa: S608
            [(one.event, *_row(state)) for one in records for state in one.after[1:] if state not in one.before],
        )

    def count(self, slot: int, more: Tally) -> None:
        """Add to this slot's counts."""
        if any(more):
            self._database.connection.execute(
                "INSERT INTO counts VALUES (%s, %s, %s, %s, %s) ON CONFLICT (slot) DO UPDATE SET"
                " subjects = counts.subjects + excluded.subjects, patients = counts.patients + excluded.patients,"
                " records = counts.records + excluded.records, unlinkable = counts.unlinkable + excluded.unlinkable",
                [slot, *more],
            )

    def _rows(self, query: LiteralString, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        with self._database.connection.cursor(binary=True) as cursor:
            return cursor.execute(query, parameters).fetchall()

    def _write(self, query: LiteralString, rows: Sequence[Sequence[Any]]) -> None:
        if rows:
            with self._database.connection.cursor() as cursor:
                cursor.execute(query, [list(column) for column in zip(*rows, strict=True)])

    def _copy(self, statement: LiteralString, types: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows none of which is there: by half of what an INSERT costs, for it fills whole pages."""
        if rows:
            with self._database.connection.cursor() as cursor, cursor.copy(statement) as copy:
                copy.set_types(types)
                for row in rows:
                    copy.write_row(row)


def index_conninfo(url: str) -> str:
    """The URL with planner options: every query here looks keys up, so none may turn to scans and hash joins on the
    statistics of a table that has grown since."""
    return with_options(url, ("jit=off", "enable_seqscan=off", "enable_hashjoin=off", "enable_mergejoin=off"))


def with_options(url: str, settings: Sequence[str]) -> str:
    """The URL with more settings of the session."""
    before = conninfo_to_dict(url).get("options") or ""
    return make_conninfo(url, options=" ".join((str(before), *(f"-c {one}" for one in settings))).strip())


def find_version(connection: psycopg.Connection, name: str) -> RuleVersion | None:
    """A rule version that is kept, or came with the hub."""
    row = connection.execute("SELECT body FROM rule_versions WHERE name = %s", [name]).fetchone()
    if row is None:
        return RULES if name == RULES.name else None
    return from_bytes(row[0])


def decided_from(row: Sequence[Any]) -> Decided:
    """A pair from the columns `DECIDED`."""
    left, right, outcome, method, rank, weight, reason, seen, guard, rules = row
    decision = Decision(Outcome(outcome), method, rank, weight, reason, _evidence.decode(seen))
    return Decided(left, right, decision, guard, rules)


def subject_row(block: TokenBlock, seq: int) -> tuple[bytes, int, str, str, bytes]:
    """The columns subject, seq, source, status and block of `subjects`.

    The block is kept without what belongs to one message, and without the codes, which are kept with its tokens.
    """
    identity = msgspec.structs.replace(block, correction=False, codes=b"")
    return block.subject, seq, block.source, block.status, msgspec.msgpack.encode(identity)


def token_rows(block: TokenBlock) -> Iterator[tuple[bytes, bytes, str, bytes]]:
    """The columns token, subject, system and codes of `subject_tokens`, for each token that a search may look up."""
    rows = tagged_rows(block)
    return ((token, block.subject, system, rows[token]) for token, system in search_tokens(block).items())


def _row(state: State) -> tuple[Any, ...]:
    at = state.coordinates
    declared = (state.retracted, state.correction)
    return (state.subject, state.revision, state.digest, state.type, *declared, at.backfill, at.partition, at.offset)


def state_from(row: Sequence[Any]) -> State:
    """A state from the columns `STATE`."""
    subject, revision, digest, kind, retracted, correction, backfill, number, offset = row
    return State(digest, revision, kind, retracted, correction, Coordinates(backfill, number, offset), subject)


_evidence = msgspec.msgpack.Decoder(dict[str, float])
STATE: Final = 'subject, revision, digest, type, retracted, correction, backfill, partition, "offset"'
_UNNEST: Final = (
    "%b::bytea[], %b::text[], %b::text[], %b::text[], %b::boolean[], %b::boolean[], %b::boolean[], %b::integer[],"
    " %b::bigint[]"
)
_INSERT: Final = """
INSERT INTO subjects (subject, seq, source, status, block)
SELECT * FROM unnest(%b::bytea[], %b::bigint[], %b::text[], %b::text[], %b::bytea[])
ON CONFLICT DO NOTHING RETURNING subject
"""
_TOKENS: Final = (
    "COPY subject_tokens (token, subject, system, codes) FROM STDIN (FORMAT binary)",
    ("bytea", "bytea", "text", "bytea"),
)
_RECORDS: Final = (
    f"COPY records (event_id, states, {STATE}) FROM STDIN (FORMAT binary)",
    ("bytea", "int4", "bytea", "text", "text", "text", "bool", "bool", "bool", "int4", "int8"),
)
_FIND_RECORDS: Final = (
    f"SELECT event_id, states, {STATE} FROM unnest(%b::bytea[]) AS wanted (event_id)"  # noqa: S608
    " JOIN records USING (event_id)"
)
_FIND_STATES: Final = (
    f"SELECT event_id, {STATE} FROM unnest(%b::bytea[]) AS wanted (event_id)"  # noqa: S608
    " JOIN record_states USING (event_id) ORDER BY event_id, revision DESC"
)
_REACH: Final = """
WITH RECURSIVE reached (subject) AS (
    SELECT unnest(%b::bytea[])
    UNION
    SELECT n.other FROM reached JOIN neighbours n USING (subject))
SELECT subject FROM reached
"""
# in the order of the ids that are given; one look-up each, since a plain join loses rows that another worker changes
# while this one waits for them
_LOCK: Final = """
SELECT s.subject, s.seq, s.patient, s.block, s.retired FROM unnest(%b::bytea[]) AS wanted (subject), LATERAL (
    SELECT subject, seq, patient, block, retired FROM subjects WHERE subjects.subject = wanted.subject
    FOR NO KEY UPDATE) s
"""
_SAMPLE: Final = """
WITH looked_at AS (
    SELECT token FROM subject_tokens WHERE get_byte(token, 0) * 256 + get_byte(token, 1) < %b
    GROUP BY token HAVING count(*) BETWEEN 2 AND %b)
SELECT token, subject, codes FROM looked_at JOIN subject_tokens USING (token) ORDER BY token, subject
"""
_NO_CODES: Final = f"'\\x{'00' * 2 * TAGGED_CODES}'::bytea"
# one value for each token: a row for each holder costs more to send and to read than to find
_HOLDERS: Final = (
    f"string_agg(t.subject || CASE WHEN length(t.codes) = {2 * TAGGED_CODES} THEN t.codes ELSE {_NO_CODES} END, '')"
)
_MARKED: Final = f"""
SELECT wanted.token, min(t.system), {_HOLDERS}
FROM unnest(%b::bytea[]) AS wanted (token)
CROSS JOIN LATERAL (SELECT * FROM subject_tokens s WHERE s.token = wanted.token LIMIT %b) AS t
GROUP BY wanted.token
"""  # noqa: S608 - constants
_SEARCH: Final = f"""
SELECT token, (SELECT {_HOLDERS} FROM subject_tokens t WHERE t.token = wanted.token)
FROM unnest(%b::bytea[]) AS wanted (token)
"""  # noqa: S608 - constants
DECIDED: Final = "e.a, e.b, e.outcome, e.method, e.rank, e.weight, e.reason, e.evidence, e.guard, e.rule_version"
"""The columns that `decided_from` takes."""
_EDGES: Final = f"SELECT {DECIDED} FROM unnest(%b::bytea[]) AS wanted (a) JOIN edges e USING (a)"  # noqa: S608
_FORMER: Final = """
INSERT INTO former_edges (a, b, outcome, method, rank, weight, reason, guard, evidence, rule_version, decided_at)
SELECT e.a, e.b, e.outcome, e.method, e.rank, e.weight, e.reason, e.guard, e.evidence, e.rule_version, e.decided_at
FROM unnest(%b::bytea[], %b::bytea[], %b::text[]) AS now_ (a, b, outcome)
JOIN edges e ON e.a = now_.a AND e.b = now_.b AND e.outcome <> now_.outcome
"""
_ACTIVE: Final = "SELECT name FROM active_rules"
_SWITCHING: Final = 4053020
"""The lock that batches share, and that a switch waits for alone: unlike locks on a row, its queue is fair."""
_AT_ONCE: Final = 200
_LOOSEN: Final = """
DELETE FROM neighbours n USING unnest(%b::bytea[], %b::bytea[]) AS gone (subject, other)
WHERE n.subject = gone.subject AND n.other = gone.other AND NOT EXISTS (
    SELECT FROM steward_decisions d WHERE d.a = least(n.subject, n.other) AND d.b = greatest(n.subject, n.other))
"""
_STEWARDS: Final = """
SELECT d.a, d.b, d.together FROM unnest(%b::bytea[]) AS wanted (a) JOIN steward_decisions d USING (a)
WHERE d.together IS NOT NULL
"""
_LET_GO: Final = (
    "UPDATE records SET subject = '', type = '' WHERE subject = ANY(%b::bytea[]) AND type NOT LIKE %b RETURNING NULL",
    "UPDATE record_states SET subject = '', type = '' WHERE subject = ANY(%b::bytea[]) AND type NOT LIKE %b"
    " RETURNING NULL",
)
_FORGET_NEIGHBOURS: Final = "DELETE FROM neighbours WHERE subject = ANY(%b::bytea[]) RETURNING subject, other"
_UNBIND: Final = """
DELETE FROM neighbours n USING unnest(%b::bytea[], %b::bytea[]) AS gone (subject, other)
WHERE n.subject = gone.other AND n.other = gone.subject
"""
_FORGET_PAIRS: Final = (
    "DELETE FROM edges e USING unnest(%b::bytea[], %b::bytea[]) AS gone (a, b)"
    " WHERE e.a = gone.a AND e.b = gone.b RETURNING e.a, e.b",
    "DELETE FROM former_edges e USING unnest(%b::bytea[], %b::bytea[]) AS gone (a, b)"
    " WHERE e.a = gone.a AND e.b = gone.b RETURNING e.a, e.b",
)
_FORGET_STEWARDS: Final = """
DELETE FROM steward_decisions d USING unnest(%b::bytea[], %b::bytea[]) AS gone (a, b)
WHERE d.a = gone.a AND d.b = gone.b RETURNING d.a, d.b
"""
_FORGET_TOKENS: Final = """
DELETE FROM subject_tokens t USING unnest(%b::bytea[], %b::bytea[]) AS gone (token, subject)
WHERE t.token = gone.token AND t.subject = gone.subject
"""
_BIND: Final = "INSERT INTO neighbours SELECT * FROM unnest(%b::bytea[], %b::bytea[]) ON CONFLICT DO NOTHING"
