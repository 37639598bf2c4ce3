"""The states of one record, told apart from re-sends and conflicts by digest, revision and declaration. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec


class Coordinates(msgspec.Struct, frozen=True, gc=False):
    """Where a message was read."""

    backfill: bool
    partition: int
    offset: int


class State(msgspec.Struct, frozen=True, gc=False):
    """One accepted state of a record. A correction and a retraction are declared: they replace on purpose."""

    digest: str
    revision: str
    type: str
    retracted: bool
    correction: bool
    coordinates: Coordinates
    subject: bytes

    @property
    def version(self) -> int:
        """The producer's version; 0 where it gave none."""
        return int(self.revision.partition("-")[0])

    @property
    def declared(self) -> bool:
        """Whether the producer said that this replaces what was there."""
        return self.correction or self.retracted


class Verdict(StrEnum):
    """What a message is to the record it names. AGAIN is the very same message, read once more."""

    FIRST = "first"
    NEXT = "next"
    AGAIN = "again"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"


def place(state: State, known: Sequence[State]) -> State:
    """The state with the revision it has among those accepted so far; what `judge` and `accept` take.

    A correction or retraction without a version is about the record as it stands when it is read: it takes the highest
    version known, so that arrival orders it. One that was accepted before keeps the revision it got then. (One read
    before every versioned state of its record, having overtaken them in the other lane, has no version to take.)
    """
    arrival = state.revision.partition("-")[2]
    for one in known:
        if _is_same(one, state) or (
            not state.version
            and (state.digest, state.retracted, state.correction, arrival)
            == (one.digest, one.retracted, one.correction, one.revision.partition("-")[2])
        ):
            return msgspec.structs.replace(state, revision=one.revision)
    if not known or state.version or not state.declared:
        return state
    highest = max(known, key=lambda one: one.version).revision.partition("-")[0]
    return msgspec.structs.replace(state, revision=f"{highest}-{arrival}")


def judge(state: State, known: Sequence[State]) -> Verdict:
    """The verdict on a state, given those accepted so far, the current (highest) one first.

    A plain state is a re-send when its content was accepted before, in any state; a declared one only when it says
    what already holds, for a correction may go back to an earlier content and a revived record be retracted again.
    Two plain states of one version with different contents contradict each other; one that a correction or a
    retraction has overtaken on its way does not.
    """
    if not known:
        return Verdict.FIRST
    if any(_is_same(one, state) for one in known):
        return Verdict.AGAIN
    alike = [
        one
        for one in known
        if (one.digest, one.version, one.retracted) == (state.digest, state.version, state.retracted)
    ]
    if alike and (not state.declared or known[0] in alike or state.version < known[0].version):
        return Verdict.DUPLICATE
    rivals = [one for one in known if one.version == state.version]
    if state.declared or not rivals or all(one.declared and one.revision > state.revision for one in rivals):
        return Verdict.NEXT
    return Verdict.CONFLICT


def _is_same(one: State, other: State) -> bool:
    """Of the same message. (On a broker that was made anew, another one may get coordinates that were given before.)"""
    return (one.coordinates, one.digest) == (other.coordinates, other.digest)


def accept(state: State, known: Sequence[State]) -> list[State]:
    """The states after this one, the current (highest revision) first."""
    return sorted((*known, state), key=lambda one: one.revision, reverse=True)
