"""The patient index in memory: a fake for tests of the step without a database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import msgspec

from contracts.events import OPPOSITION
from contracts.messages import RulesSwitched, StewardDecision, TokenBlock, mark_of
from services.linkage.adapters import AnotherVersion, Forgotten, Known, Locked, Move, Range, Saved, Tally
from services.linkage.domain.candidates import Holders, is_over
from services.linkage.domain.comparison import TAGGED_CODES, tagged_rows
from services.linkage.domain.components import Pair, Stewarded
from services.linkage.domain.patients import Decided, Subject
from services.linkage.domain.rules import RULES, RuleVersion
from services.linkage.domain.states import State
from services.linkage.domain.tokens import search_tokens


class MemoryIndex:
    """Everything in dictionaries; one worker only."""

    def __init__(self, rules: RuleVersion = RULES) -> None:
        self.subjects: dict[bytes, Subject] = {}
        self.settled: set[bytes] = set()
        self.tokens: defaultdict[bytes, bytes] = defaultdict(bytes)
        self.edges: dict[Pair, Decided] = {}
        self.near: defaultdict[bytes, set[bytes]] = defaultdict(set)
        self.met_pairs: defaultdict[bytes, set[Pair]] = defaultdict(set)
        self.states: dict[bytes, list[State]] = {}
        self.said: dict[Pair, StewardDecision] = {}
        self.tally = Tally()
        self.version = 0
        self.common: frozenset[bytes] = frozenset()
        self.active = rules
        self.versions = {rules.name: rules}
        self.switched_at = -1
        self.reached: dict[bytes, bytes] = {}
        self.oppositions: dict[bytes, tuple[bytes, bool]] = {}
        self.suspects: dict[bytes, frozenset[bytes]] = {}
        self.marks: set[bytes] = set()
        self.seq = 0

    def apart(self) -> AbstractContextManager[None]:
        return nullcontext()

    def find_strange(self, subjects: Iterable[bytes]) -> set[bytes]:
        return set(subjects) - self.subjects.keys()

    def insert(self, blocks: Sequence[TokenBlock]) -> None:
        for block in blocks:
            self.seq += 1
            self.subjects[block.subject] = Subject(self.seq, None, block)
            rows = tagged_rows(block)
            for token in search_tokens(block):
                self.tokens[token] += block.subject + (rows[token] or bytes(2 * TAGGED_CODES))

    def find_states(self, events: Iterable[bytes]) -> dict[bytes, list[State]]:
        return {event: self.states[event] for event in events if event in self.states}

    def find_subjects(self, subjects: Iterable[bytes]) -> dict[bytes, Known]:
        return {
            subject: Known(self.subjects[subject].patient, subject in self.settled, self.subjects[subject].retired)
            for subject in subjects
            if subject in self.subjects
        }

    def search(self, tokens: Iterable[bytes]) -> dict[bytes, Holders]:
        return {token: Holders(self.tokens[token]) for token in tokens}

    def find_common(self, tokens: Iterable[bytes]) -> frozenset[bytes]:
        return frozenset(tokens) & self.common

    def mark_common(self, tokens: Iterable[bytes]) -> None:
        self.common |= frozenset(tokens)

    def find_deserted(self, subjects: Iterable[bytes]) -> frozenset[bytes]:
        held = {states[0].subject for states in self.states.values() if not states[0].retracted}
        return frozenset(subjects) - held

    def keep_oppositions(self, oppositions: Mapping[bytes, tuple[bytes, bool]]) -> None:
        self.oppositions |= oppositions

    def find_opposed(self, subjects: Iterable[bytes]) -> set[bytes]:
        wanted = set(subjects)
        return {subject for subject, in_force in self.oppositions.values() if in_force and subject in wanted}

    def find_suspects(self, subjects: Iterable[bytes]) -> dict[bytes, frozenset[bytes]]:
        return {subject: self.suspects[subject] for subject in subjects if subject in self.suspects}

    def keep_suspects(self, suspects: Mapping[bytes, Collection[bytes]]) -> None:
        self.suspects |= {subject: frozenset(who) for subject, who in suspects.items()}

    def erase(self, subjects: Collection[bytes]) -> None:
        self.marks |= {mark_of(one) for one in subjects}

    def find_erased(self, subjects: Iterable[bytes]) -> set[bytes]:
        return {one for one in subjects if mark_of(one) in self.marks}

    def let_go(self, subjects: Collection[bytes], but: str = OPPOSITION) -> None:
        for event, states in self.states.items():
            self.states[event] = [
                msgspec.structs.replace(one, subject=b"", type="")
                if one.subject in subjects and not (but and one.type.startswith(but))
                else one
                for one in states
            ]

    def forget(self, blocks: Mapping[bytes, TokenBlock]) -> Forgotten:
        self.let_go(blocks, "")
        met = {pair for pair in self.edges if not blocks.keys().isdisjoint(pair)}
        said = {pair for pair in self.said if not blocks.keys().isdisjoint(pair)}
        objected = {who for who, _ in self.oppositions.values() if who in blocks}
        tied = {who: them - blocks.keys() for who, them in self.suspects.items() if them & blocks.keys()}
        for pair in met:
            del self.edges[pair]
        for pair in said:
            del self.said[pair]
        for pairs in self.met_pairs.values():
            pairs -= met
        for near in self.near.values():
            near.difference_update(blocks)
        for subject, block in blocks.items():
            for token in search_tokens(block):
                rows = Holders(self.tokens[token])
                self.tokens[token] = b"".join(
                    it + codes for it, codes in zip(rows.subjects(), rows.codes(), strict=True) if it != subject
                )
            for memory in (self.subjects, self.suspects, self.near, self.met_pairs):
                memory.pop(subject, None)
            self.settled.discard(subject)
        self.suspects |= {who: them for who, them in tied.items() if who not in blocks}
        self.oppositions = {event: one for event, one in self.oppositions.items() if one[0] not in blocks}
        return Forgotten(met, said, objected, {who: them for who, them in tied.items() if who not in blocks})

    def keep_stewards(self, decisions: Sequence[StewardDecision]) -> None:
        for one in decisions:
            known = self.said.get((one.left, one.right), one)
            if one.decided_at >= known.decided_at:
                self.said[one.left, one.right] = one
            self._bind(one.left, one.right)

    def lock_components(self, subjects: Iterable[bytes]) -> Locked:
        reached: set[bytes] = set()
        waiting = set(subjects)
        while waiting:
            subject = waiting.pop()
            reached.add(subject)
            waiting |= self.near[subject] - reached
        there = reached & self.subjects.keys()
        pairs = {pair for subject in there for pair in self.met_pairs[subject] if there.issuperset(pair)}
        return Locked(
            {subject: self.subjects[subject] for subject in there},
            [self.edges[pair] for pair in sorted(pairs)],
            [
                Stewarded(*pair, one.together)
                for pair, one in self.said.items()
                if there.issuperset(pair) and one.together is not None
            ],
        )

    def rules(self) -> RuleVersion:
        return self.active

    def switch(self, switched: RulesSwitched, rules: RuleVersion, ranges: Sequence[Range]) -> bool:
        if self.versions.setdefault(rules.name, rules) != rules:
            raise AnotherVersion(rules.name)
        if switched.switched_at <= self.switched_at:
            return False
        if rules.lifts(self.active):
            systems = {it: name for one in self.subjects.values() for it, name in search_tokens(one.block).items()}
            found = self.search(self.common)
            self.common = frozenset(it for it in self.common if is_over(rules, systems[it], found[it]))
        self.active, self.switched_at = rules, switched.switched_at
        self.reached = {one.until: one.after for one in ranges}
        return True

    def subjects_in(self, given: Range, most: int) -> dict[bytes, TokenBlock]:
        found = sorted(subject for subject in self.subjects if given.after < subject <= given.until)
        return {subject: self.subjects[subject].block for subject in found[:most]}

    def met(self, subjects: Iterable[bytes]) -> set[bytes]:
        return {right for subject in subjects for left, right in self.met_pairs[subject] if left == subject}

    def reach(self, given: Range, after: bytes) -> bool:
        if self.reached.get(given.until) != given.after:
            return False
        self.reached[given.until] = after
        return True

    def drop_edges(self, pairs: Collection[Pair]) -> None:
        for pair in pairs:
            del self.edges[pair]
            self._loosen(pair)
            for subject in pair:
                self.met_pairs[subject].discard(pair)

    def _loosen(self, pair: Pair) -> None:
        if pair not in self.said:
            self.near[pair[0]].discard(pair[1])
            self.near[pair[1]].discard(pair[0])

    def write_edges(self, new: Sequence[Decided], revised: Sequence[Decided], guards: Mapping[Pair, str]) -> None:
        for one in (*new, *revised):
            self.edges[one.pair] = one
            for subject in one.pair:
                self.met_pairs[subject].add(one.pair)
            if one.binds:
                self._bind(*one.pair)
            elif one in revised:
                self._loosen(one.pair)
        for pair, guard in guards.items():
            self.edges[pair] = self.edges[pair]._replace(guard=guard)

    def _bind(self, left: bytes, right: bytes) -> None:
        self.near[left].add(right)
        self.near[right].add(left)

    def next_link_versions(self, count: int) -> list[int]:
        self.version += count
        return list(range(self.version - count + 1, self.version + 1))

    def move(self, moves: Sequence[Move]) -> None:
        for one in moves:
            self.subjects[one.subject] = self.subjects[one.subject]._replace(patient=one.patient, retired=one.retired)
            if one.settled:
                self.settled.add(one.subject)

    def save(self, records: Sequence[Saved]) -> None:
        for one in records:
            self.states[one.event] = list(one.after)

    def count(self, slot: int, more: Tally) -> None:
        self.tally = Tally(*(before + now for before, now in zip(self.tally, more, strict=True)))

    def patients(self) -> dict[bytes, bytes | None]:
        """Who is whose."""
        return {subject: one.patient for subject, one in self.subjects.items()}
