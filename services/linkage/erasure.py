"""What linkage forgets of subjects that an officer has erased, and whom it keeps for the sake of their oppositions."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from contracts import messages
from contracts.messages import OppositionReach
from runtime.messages import Emit, Message, Outputs
from services.linkage.adapters import Forgotten, PatientIndex, Tally
from services.linkage.domain.components import Pair, pair_id
from services.linkage.domain.tokens import is_unlinkable
from services.linkage.linking import REACH, REVIEWS, Affected, Linker

DECISIONS: Final = "link-decisions"


def forget(
    index: PatientIndex, linker: Linker, subjects: Collection[bytes], cause: Message, slot: int, outputs: Outputs
) -> None:
    """Forget subjects that are marked as erased: tokens, codes, pairs, and whose their records are.

    Whoever has objected, and still does, keeps the identity by which that holds for what others send later: of such
    a subject the records alone are forgotten. Those who are left of a component are settled anew, as if the others had
    never been there; what compacted topics still say of the forgotten is withdrawn.
    """
    locked = index.lock_components(subjects)
    there = locked.subjects.keys() & set(subjects)
    kept = index.find_opposed(there)
    gone = {subject: locked.subjects[subject] for subject in sorted(there - kept)}
    left = locked.subjects.keys() - gone.keys()
    index.let_go(kept)
    for emit in _withdrawn(index.forget({subject: one.block for subject, one in gone.items()}), index):
        outputs.emit(cause, emit)
    living = {locked.subjects[it].patient for it in left if not locked.subjects[it].retired}
    ended = {one.patient for one in gone.values() if one.patient and not one.retired} - living
    known = [one for one in gone.values() if one.patient is not None]
    unlinkable = sum(is_unlinkable(one.block) for one in known)
    index.count(slot, Tally(subjects=-len(known), patients=-len(ended), unlinkable=-unlinkable))
    if left:
        linker.settle(Affected(dict.fromkeys(sorted(left), cause), {}), outputs)


def _withdrawn(forgotten: Forgotten, index: PatientIndex) -> Iterator[Emit]:
    for topic, pairs in ((REVIEWS, forgotten.met), (DECISIONS, forgotten.said)):
        yield from (Emit(topic, _key(pair), None) for pair in sorted(pairs))
    yield from (Emit(REACH, subject.hex().encode(), None) for subject in sorted(forgotten.objected))
    versions = index.next_link_versions(len(forgotten.reaches)) if forgotten.reaches else []
    for (subject, suspects), version in zip(sorted(forgotten.reaches.items()), versions, strict=True):
        value = messages.encode(OppositionReach(subject, version, tuple(sorted(suspects))))
        yield Emit(REACH, subject.hex().encode(), value)


def _key(pair: Pair) -> bytes:
    return pair_id(pair).encode()
