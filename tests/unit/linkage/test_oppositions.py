"""An opposition withholds its patient and whoever may be the same person, in whatever order all is heard."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import pytest

from contracts import messages
from contracts.messages import OppositionReach, StewardDecision
from runtime.messages import Message, Outputs
from services.linkage.domain.oppositions import suspects

from .builders import Topic, identity, number, token
from .test_handlers import PSEUDO, TWINS, Worker

pytestmark = pytest.mark.unit

A, B, C, D, E = (bytes([number]) * 16 for number in range(5))


def test_whom_a_doubt_ties_to_the_patient_is_a_suspect_unless_a_steward_says_apart() -> None:
    patients = {A: A, B: A, C: C, D: D, E: D}
    doubts = [(B, C), (C, D), (A, B), (A, E)]
    assert suspects([A], patients, doubts, set()) == {A: {C, E}}
    assert suspects([A, D], patients, doubts, {(A, E)}) == {A: {C}, D: {C}}
    assert suspects([E], patients, [], set()) == {E: frozenset()}


OBJECTOR = identity("c", PSEUDO)


def reaches(outputs: Outputs) -> list[OppositionReach]:
    return [
        msgspec.msgpack.decode(emit.value, type=OppositionReach)
        for _, emit in outputs.emits
        if emit.topic == "opposition-reach" and emit.value is not None
    ]


class Hub(Worker):
    """A worker with what access would know of it: who objects, whom else that withholds, and who is whose."""

    def __init__(self) -> None:
        super().__init__()
        self.reach: dict[bytes, OppositionReach] = {}
        self.objecting: dict[str, bool] = {}

    def take(self, *batch: Message) -> Outputs:
        outputs = super().take(*batch)
        for one in reaches(outputs):
            if one.subject not in self.reach or self.reach[one.subject].version < one.version:
                self.reach[one.subject] = one
        return outputs

    def withheld(self) -> set[bytes]:
        """The subjects whose patients are withheld."""
        opposed = {subject for subject, in_force in self.index.oppositions.values() if in_force}
        named = opposed | {one for it in opposed if it in self.reach for one in self.reach[it].suspects}
        patients = {self.known[it] for it in named if it in self.known}
        return {it for it, patient in self.known.items() if patient in patients}


def parts() -> dict[str, Message]:
    records, oppositions = Topic(), Topic(name="oppositions-pseudonymised")
    left, right = sorted((OBJECTOR.subject, TWINS[1].subject))
    said = StewardDecision(left, right, False, "steward", 1)
    return {
        "twin": records.record("e1", TWINS[0]),
        "other twin": records.record("e2", TWINS[1]),
        "objects": oppositions.record("o", OBJECTOR, kind="opposition.v1"),
        "apart": Message("link-decisions", 0, 0, 0, b"pair", messages.encode(said), {}),
    }


def test_an_opposition_travels_on_its_own_topic_with_its_subject() -> None:
    hub = Hub()
    outputs = hub.take(parts()["objects"])
    (emit,) = (emit for _, emit in outputs.emits if emit.topic == "oppositions-linked")
    assert emit.headers["ce_type"] == b"opposition.v1"
    assert hub.withheld() == {OBJECTOR.subject}


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one batch"])
def test_any_order_ends_in_the_same_people_withheld(together: bool) -> None:
    for order in permutations(parts()):
        hub, made = Hub(), parts()
        if together:
            hub.take(*(made[name] for name in order))
        else:
            for name in order:
                hub.take(made[name])
        assert hub.withheld() == {OBJECTOR.subject, TWINS[0].subject}, order


def test_both_who_may_be_the_person_are_withheld_until_it_is_lifted_and_again_when_it_is_made_again() -> None:
    hub, oppositions = Hub(), Topic(name="oppositions-pseudonymised")
    hub.take(*(parts()[name] for name in ("twin", "other twin")))
    hub.take(oppositions.record("o", OBJECTOR, kind="opposition.v1"))
    everybody = {OBJECTOR.subject, *(one.subject for one in TWINS)}
    assert hub.withheld() == everybody
    hub.take(oppositions.record("o", OBJECTOR, kind="opposition.v1.deleted", digest="d2"))
    assert hub.withheld() == set()
    again = msgspec.structs.replace(OBJECTOR, correction=True)
    hub.take(oppositions.record("o", again, kind="opposition.v1"))
    assert hub.withheld() == everybody


def test_the_highest_version_holds_whatever_comes_last() -> None:
    hub, oppositions = Hub(), Topic(name="oppositions-pseudonymised")
    hub.take(oppositions.record("o", OBJECTOR, kind="opposition.v1.deleted", version=2, digest="d2"))
    hub.take(oppositions.record("o", OBJECTOR, kind="opposition.v1", version=1))
    assert hub.withheld() == set()
    hub.take(oppositions.record("o", OBJECTOR, kind="opposition.v1", version=3, digest="d3"))
    assert hub.withheld() == {OBJECTOR.subject}


def test_it_follows_a_merge_and_a_record_that_comes_later() -> None:
    nir: Any = number("ins-nir", "1")
    hub, records, oppositions = Hub(), Topic(), Topic(name="oppositions-pseudonymised")
    hub.take(oppositions.record("o", identity("a", nir), kind="opposition.v1"))
    hub.take(records.record("e", identity("b", nir)))
    assert hub.withheld() == {token("subject:a"), token("subject:b")}


def test_who_does_not_object_costs_nothing() -> None:
    hub = Hub()
    for name in ("twin", "other twin", "apart"):
        assert reaches(hub.take(parts()[name])) == []
