"""Whether a log is what was signed: every entry hashed anew, against every checkpoint of both places. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from contracts.merkle import Tree, leaf_hash
from services.audit.domain.checkpoints import Checkpoint, NoteBroken, Verifier
from services.audit.domain.entries import Entry

MOST: Final = 20
"""Findings that are told one by one."""


class Stored(NamedTuple):
    """An entry as the log gives it: under which number, its line, and the hash that is kept of it."""

    number: int
    line: bytes
    hashed: bytes


class Finding(NamedTuple):
    """Something that is not as it was signed: what kind of thing, from which entry on, and a sentence."""

    kind: str
    number: int | None
    says: str


class Signed(NamedTuple):
    """A checkpoint whose signature holds, and where it was found."""

    checkpoint: Checkpoint
    place: str


def opened(notes: Mapping[str, Iterable[str]], verifier: Verifier) -> tuple[list[Signed], list[Finding]]:
    """The checkpoints of each place, and what is wrong with those that are none.

    A place that has lost one in the middle, or at its end, is told of by the other.
    """
    signed: list[Signed] = []
    findings: list[Finding] = []
    held: dict[str, set[tuple[int, bytes]]] = {}
    for place, texts in notes.items():
        held[place] = set()
        for number, note in enumerate(texts):
            try:
                checkpoint = verifier.checkpoint(note)
            except NoteBroken as broken:
                findings.append(Finding("forged", None, f"checkpoint {number} of {place} cannot be trusted: {broken}"))
                continue
            held[place].add((checkpoint.size, checkpoint.root))
            signed.append(Signed(checkpoint, place))
    for one in sorted(signed, key=lambda one: one.checkpoint.size):
        for place, known in held.items():
            if (one.checkpoint.size, one.checkpoint.root) not in known:
                says = f"{place} has no checkpoint at {one.checkpoint.size} entries, and {one.place} has one"
                findings.append(Finding("checkpoint missing", None, says))
    return signed, findings[:MOST]


@dataclass(slots=True)
class Verification:
    """Takes the entries one by one, in the order of their numbers, and compares the tree with each checkpoint."""

    checkpoints: Sequence[Signed]
    """Sorted by size: see `begin`."""
    tree: Tree = field(default_factory=Tree)
    findings: list[Finding] = field(default_factory=list)
    _next: int = 0
    _held: int = 0
    _broken: bool = False

    @classmethod
    def begin(cls, signed: Iterable[Signed]) -> Verification:
        """Begin with an empty log."""
        found = cls(sorted(signed, key=lambda one: one.checkpoint.size))
        found._compare()
        return found

    def copy(self) -> Verification:
        """As it is now, to go on in two ways."""
        return Verification(
            self.checkpoints, self.tree.copy(), list(self.findings), self._next, self._held, self._broken
        )

    def add(self, entry: Stored) -> None:
        """Take the next entry."""
        number, hashed = self.tree.size, leaf_hash(entry.line)
        if entry.number != number and not self._broken:
            self._broken = True
            if entry.number > number:
                self._find(
                    "missing", number, f"entry {number} is missing: the next one that is there is {entry.number}"
                )
            else:
                self._find("reordered", number, f"entry {entry.number} comes where entry {number} should be")
        if not self._broken:
            self._look_at(number, entry.line, entry.hashed != hashed)
        self.tree.append(hashed)
        self._compare()

    def finish(self) -> list[Finding]:
        """No more comes: everything that was found, the first things first."""
        if self._next < len(self.checkpoints):
            most, there = self.checkpoints[-1].checkpoint.size, self.tree.size
            says = f"the log is cut short: {most} entries were signed, {there} are there; entry {there} is missing"
            self._find("cut short", there, says)
        return self.findings

    @property
    def unsigned(self) -> int:
        """Entries after the last checkpoint that holds: nothing says yet that they are what they were."""
        return self.tree.size - self._held

    def _look_at(self, number: int, line: bytes, differs: bool) -> None:
        says = _number_of(line)
        if says is not None and says != number:
            self._broken = True
            verb, kind = (
                ("was moved here", "reordered") if says < number else ("comes too early", "missing or reordered")
            )
            self._find(kind, number, f"entry {number} says that it is entry {says}: it {verb}, or one was taken out")
        elif differs:
            self._find("edited", number, f"entry {number} was edited: it is not what its hash was made of")

    def _compare(self) -> None:
        """Against the checkpoints of this size. The first that does not hold says between which entries it happened."""
        while self._next < len(self.checkpoints) and self.checkpoints[self._next].checkpoint.size == self.tree.size:
            signed = self.checkpoints[self._next]
            self._next += 1
            if signed.checkpoint.root == self.tree.root():
                self._held = self.tree.size
            elif not any(one.kind == "changed" for one in self.findings):
                first, last = self._held, max(self.tree.size - 1, 0)
                says = f"what is signed at {self.tree.size} entries ({signed.place}) is not what is there"
                self._find(
                    "changed", first, f"{says}: one of the entries {first} to {last} was changed, added or removed"
                )

    def _find(self, kind: str, number: int, says: str) -> None:
        if len(self.findings) < MOST:
            self.findings.append(Finding(kind, number, says))


def _number_of(line: bytes) -> int | None:
    try:
        return msgspec.json.decode(line, type=Entry).number
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
