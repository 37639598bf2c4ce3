"""Whoever is erased is met by nobody again, and known again by their own word alone, in whatever order all is heard."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import pytest

from contracts import messages
from contracts.messages import OppositionReach, PatientSplit, RecordLinked, StewardDecision, SubjectsErased, mark_of
from runtime.messages import Message, Outputs
from services.linkage.adapters import Tally
from services.linkage.handlers import event_key

from .builders import Topic, counts, identity, links, number, sets, token
from .test_handlers import ANNE, TWINS, Worker
from .test_oppositions import OBJECTOR, Hub

pytestmark = pytest.mark.unit

NIR = number("ins-nir", "1")
HERE, THERE, LATER = (identity(name, NIR, source=f"urn:{name}", **ANNE) for name in ("here", "there", "later"))


def erasure(*subjects: bytes, offset: int = 0) -> Message:
    said = SubjectsErased(token("request"), subjects)
    return Message("erasures", 0, offset, 0, b"request", messages.encode(said), {})


def passed_on(outputs: Outputs) -> list[tuple[str, RecordLinked]]:
    return [
        (emit.headers["patient_id"].decode(), msgspec.msgpack.decode(emit.value or b"", type=RecordLinked))
        for _, emit in outputs.emits
        if emit.topic.startswith(("records-linked", "oppositions-linked"))
    ]


def withdrawn(outputs: Outputs) -> list[tuple[str, bytes]]:
    return sorted((emit.topic, emit.key or b"") for _, emit in outputs.emits if emit.value is None)


def holds(index: Any, subject: bytes) -> bool:
    """Whether the index, but for its marks, knows of a subject."""
    found = {**vars(index), "marks": None}
    return subject.hex() in repr({name: _plain(one) for name, one in found.items()})


def _plain(one: Any) -> Any:
    if isinstance(one, bytes):
        return one.hex()
    if isinstance(one, dict):
        return {repr(_plain(key)): _plain(value) for key, value in one.items() if value or value == 0}
    if isinstance(one, (list, tuple, set, frozenset)):
        return [_plain(it) for it in one]
    return _plain(msgspec.structs.asdict(one)) if isinstance(one, msgspec.Struct) else repr(one)


def test_an_erased_subject_is_forgotten_with_its_tokens() -> None:
    worker, topic = Worker(), Topic()
    worker.take(topic.record("e1", HERE), topic.record("e2", THERE))
    assert worker.index.tally == Tally(subjects=2, patients=1, records=2)
    outputs = worker.take(erasure(HERE.subject, THERE.subject))
    assert links(outputs) == []
    assert not any(holds(worker.index, it) for it in (HERE.subject, THERE.subject, NIR.token))
    assert worker.index.marks == {mark_of(HERE.subject), mark_of(THERE.subject)}
    assert worker.index.tally == Tally(subjects=0, patients=0, records=2)


def test_records_that_come_later_are_passed_on_as_nobodys_and_empty() -> None:
    worker, topic = Worker(), Topic()
    worker.take(topic.record("e1", HERE))
    worker.take(erasure(HERE.subject))
    outputs = worker.take(topic.record("e2", HERE))
    assert passed_on(outputs) == [("", RecordLinked(b"", b""))]
    assert counts(outputs) == {"linked": 1, "erased": 1}
    assert links(outputs) == []
    assert not holds(worker.index, HERE.subject)


def test_a_re_send_changes_nothing() -> None:
    worker, topic = Worker(), Topic()
    first = topic.record("e1", HERE)
    worker.take(first)
    worker.take(erasure(HERE.subject))
    before = worker.index.states[event_key(token("e1").hex())]
    assert counts(worker.take(topic.record("e1", HERE))) == {"duplicates": 1}
    assert passed_on(worker.take(first)) == [("", RecordLinked(b"", b""))], "the very same message is passed on again"
    assert counts(worker.take(topic.record("e1", HERE, digest="d2"))) == {"conflict": 1}
    assert worker.index.states[event_key(token("e1").hex())] == before
    nobody = identity("nobody")
    outputs = worker.take(topic.record("e1", nobody, digest="d3", kind="claim.v1.deleted"))
    assert passed_on(outputs) == [("", RecordLinked(b"", b""))], "a retraction is about whom the record was about"
    assert nobody.subject not in worker.index.subjects


def test_a_correction_says_that_the_record_is_anothers() -> None:
    worker, topic = Worker(), Topic()
    worker.take(topic.record("e1", HERE), topic.record("e2", identity("paul", correction=False)))
    worker.take(erasure(HERE.subject))
    other = identity("paul", correction=True)
    assert passed_on(worker.take(topic.record("e1", other, digest="d2")))[0][1].subject == other.subject
    back = msgspec.structs.replace(HERE, correction=True)
    outputs = worker.take(topic.record("e2", back, digest="d2"))
    assert passed_on(outputs) == [("", RecordLinked(b"", b""))]
    assert not worker.index.subjects[other.subject].retired


def parts() -> dict[str, Message]:
    topic = Topic()
    return {
        "here": topic.record("e1", HERE),
        "there": topic.record("e2", THERE),
        "here again": topic.record("e3", HERE),
        "erased": erasure(HERE.subject, THERE.subject),
        "later": topic.record("e4", LATER),
    }


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one batch"])
def test_any_order_ends_in_the_same_index(together: bool) -> None:
    for order in permutations(parts()):
        worker, made = Worker(), parts()
        if together:
            worker.take(*(made[name] for name in order))
        else:
            for name in order:
                worker.take(made[name])
        assert worker.index.patients() == {LATER.subject: LATER.subject}, order
        assert worker.index.tally._replace(records=0) == Tally(subjects=1, patients=1), order
        assert not any(holds(worker.index, it) for it in (HERE.subject, THERE.subject)), order


def test_who_is_left_of_the_patient_has_an_id_of_its_own() -> None:
    worker, topic = Worker(), Topic()
    worker.take(topic.record("e1", HERE), topic.record("e2", THERE))
    outputs = worker.take(erasure(HERE.subject))
    (split,) = links(outputs)
    assert isinstance(split, PatientSplit)
    assert (split.patient, split.new_patient) == (HERE.subject.hex(), THERE.subject.hex())
    assert sets(worker.known) >= {frozenset({THERE.subject})}
    assert worker.index.tally == Tally(subjects=1, patients=1, records=2)


def test_a_bridge_that_is_erased_splits_whom_it_brought_together() -> None:
    other = number("ins-nia", "2")
    left, right = identity("left", NIR), identity("right", other)
    worker, topic = Worker(), Topic()
    bridge = identity("bridge", NIR, other)
    worker.take(topic.record("e1", left), topic.record("e2", bridge), topic.record("e3", right))
    assert len(set(worker.known.values())) == 1
    worker.take(erasure(bridge.subject))
    assert worker.known[left.subject] != worker.known[right.subject]


def test_what_stewards_say_of_the_forgotten_is_withdrawn_and_not_heard_again() -> None:
    worker, topic = Worker(), Topic()
    worker.take(topic.record("e1", TWINS[0]), topic.record("e2", TWINS[1]))
    left, right = sorted(one.subject for one in TWINS[:2])
    said = messages.encode(StewardDecision(left, right, True, "steward", 1))
    key = f"{left.hex()}-{right.hex()}".encode()
    heard = Message("link-decisions", 0, 0, 0, key, said, {})
    worker.take(heard)
    assert ("link-decisions", key) in withdrawn(worker.take(erasure(TWINS[0].subject)))
    worker.take(heard, Message("link-decisions", 0, 1, 0, key, b"", {}))
    assert not holds(worker.index, TWINS[0].subject)
    assert worker.index.patients() == {TWINS[1].subject: TWINS[1].subject}


def test_who_objects_is_known_by_that_until_it_is_lifted_and_by_nothing_else() -> None:
    hub, records, oppositions = Hub(), Topic(), Topic(name="oppositions-pseudonymised")
    hub.take(oppositions.record("o", HERE, kind="opposition.v1"), records.record("e1", HERE))
    hub.take(erasure(HERE.subject))
    assert hub.index.subjects.keys() == {HERE.subject}
    assert passed_on(hub.take(records.record("e2", HERE))) == [("", RecordLinked(b"", b""))]
    hub.take(records.record("e3", LATER))
    assert hub.withheld() == {HERE.subject, LATER.subject}, "it holds for what others send later"
    hub.take(oppositions.record("o", HERE, kind="opposition.v1.deleted", digest="d2"))
    assert hub.index.patients() == {LATER.subject: LATER.subject}
    assert not holds(hub.index, HERE.subject)


def test_who_was_erased_may_object_and_ask_all_the_same() -> None:
    for kind in ("opposition.v1", "access-request.v1", "erasure-request.v1"):
        hub, records, oppositions = Hub(), Topic(), Topic(name="oppositions-pseudonymised")
        hub.take(records.record("e1", HERE))
        hub.take(erasure(HERE.subject))
        ((hint, linked),) = passed_on(hub.take(oppositions.record("o", HERE, kind=kind)))
        assert (hint, linked.subject) == (HERE.subject.hex(), HERE.subject)
        assert passed_on(hub.take(records.record("e2", HERE))) == [("", RecordLinked(b"", b""))]
        hub.take(oppositions.record("o", HERE, kind=f"{kind}.deleted", digest="d2"))
        assert not holds(hub.index, HERE.subject)


def test_whom_an_opposition_may_be_about_besides_is_told_without_the_forgotten() -> None:
    hub, records, oppositions = Hub(), Topic(), Topic(name="oppositions-pseudonymised")
    hub.take(*(records.record(f"e{number}", one) for number, one in enumerate(TWINS[:2])))
    hub.take(oppositions.record("o", OBJECTOR, kind="opposition.v1"))
    before = hub.reach[OBJECTOR.subject]
    gone = before.suspects[0]
    hub.take(erasure(gone))
    after: OppositionReach = hub.reach[OBJECTOR.subject]
    assert gone not in after.suspects
    assert after.version > before.version


def test_what_is_no_erasure_is_a_dead_letter() -> None:
    worker = Worker()
    assert counts(worker.take(Message("erasures", 0, 0, 0, b"x", b"\xc1", {}))) == {"decoding": 1}
    assert counts(worker.take(erasure(b"short"))) == {"schema": 1}
    outputs = worker.take(erasure())
    assert (outputs.emits, outputs.dead) == ([], [])
