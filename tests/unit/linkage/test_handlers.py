"""The step on an index in memory: batches in, outputs out."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import msgspec
import pytest

from contracts.messages import (
    Headers,
    LinkReview,
    PatientsMerged,
    PatientSplit,
    RecordLinked,
    SubjectsLinked,
    TokenBlock,
)
from runtime.messages import Message, Outputs
from services.linkage.adapters import Tally
from services.linkage.handlers import Link, event_key
from tests.unit.linkage.builders import Topic, apply_links, counts, identity, links, number, of, opener, sets, token
from tests.unit.linkage.memory import MemoryIndex

pytestmark = pytest.mark.unit

NIR, OTHER_NIR, IPP = number("ins-nir", "1"), number("ins-nir", "2"), number("ipp", "8812")
ANNE: dict[str, Any] = {"given_name": "ANNE", "birth_date": "1985-05-12"}
PAUL: dict[str, Any] = {"given_name": "PAUL", "birth_date": "2015-01-02"}


class Worker:
    """A step with its index, fed batch by batch."""

    def __init__(self, hot_partitions: int = 4) -> None:
        self.index = MemoryIndex()
        self.step = Link(self.index, opener(), hot_partitions=hot_partitions)
        self.known: dict[bytes, str] = {}

    def take(self, *batch: Message) -> Outputs:
        self.step.prepare(batch)
        outputs = self.step.handle(batch)
        apply_links(self.known, outputs)
        return outputs


def reviews(outputs: Outputs) -> list[LinkReview]:
    return [
        msgspec.msgpack.decode(emit.value or b"", type=LinkReview)
        for _, emit in outputs.emits
        if emit.topic == "link-reviews"
    ]


def test_a_record_is_passed_on_with_its_subject_and_a_hint() -> None:
    worker, topic = Worker(), Topic(backfill=True)
    message = topic.record("e", identity("a", NIR))
    outputs = worker.take(message)
    patient = token("subject:a").hex()
    assert links(outputs) == [SubjectsLinked(1, patient, (token("subject:a"),))]
    (emit,) = (emit for _, emit in outputs.emits if emit.topic.startswith("records-linked"))
    assert emit.topic == "records-linked-backfill"
    assert emit.key == message.key
    assert emit.headers == {**message.headers, "patient_id": patient.encode()}
    assert msgspec.msgpack.decode(emit.value or b"", type=RecordLinked) == RecordLinked(token("subject:a"), b"content")
    assert counts(outputs) == {"linked": 1}


def test_a_known_subject_costs_no_link() -> None:
    worker, topic = Worker(), Topic()
    worker.take(topic.record("e1", identity("a", NIR)))
    outputs = worker.take(topic.record("e2", identity("a", NIR)))
    assert links(outputs) == []
    assert counts(outputs) == {"linked": 1}


def test_duplicates_conflicts_corrections_and_retractions() -> None:
    worker, topic = Worker(), Topic()
    plain, corrected = identity("a", NIR), identity("a", NIR, correction=True)
    outputs = worker.take(
        topic.record("e", plain, digest="A"),
        topic.record("e", plain, digest="A"),
        topic.record("e", plain, digest="B"),
        topic.record("e", corrected, digest="C"),
        topic.record("e", plain, digest="A"),
        topic.record("e", identity("a", NIR), digest="D", kind="claim.v1.deleted"),
        topic.record("e", identity("a", NIR), digest="D", kind="claim.v1.deleted"),
        topic.record("e", plain, digest="F", version=3),
    )
    assert counts(outputs) == {"linked": 4, "duplicates": 3, "conflict": 1, "corrections": 1, "retractions": 1}
    assert [state.digest for state in worker.index.states[event_key(token("e").hex())]] == ["F", "D", "C", "A"]
    assert worker.index.tally == Tally(subjects=1, patients=1, records=1, unlinkable=0)


def test_a_retraction_without_identity_is_about_the_records_subject() -> None:
    worker, topic = Worker(), Topic()
    nobody = identity("nobody")
    worker.take(topic.record("e", identity("a", NIR)))
    outputs = worker.take(topic.record("e", nobody, digest="D", kind="claim.v1.deleted"))
    (emit,) = (emit for _, emit in outputs.emits)
    assert msgspec.msgpack.decode(emit.value or b"", type=RecordLinked).subject == token("subject:a")
    assert nobody.subject not in worker.index.subjects
    outputs = worker.take(topic.record("unknown", nobody, digest="D", kind="claim.v1.deleted"))
    assert counts(outputs) == {"linked": 1, "retractions": 1}
    assert len(links(outputs)) == 1


@pytest.mark.parametrize("size", [1, 4])
def test_an_unversioned_retraction_outranks_the_versions_it_follows(size: int) -> None:
    worker, topic = Worker(), Topic()
    nobody = identity("nobody")
    batch = [
        topic.record("e", identity("a", NIR), digest="A", version=3),
        topic.record("e", nobody, digest="D", kind="claim.v1.deleted"),
        topic.record("e", identity("a", NIR), digest="B", version=4),
        topic.record("e", identity("a", NIR, correction=True), digest="C"),
    ]
    outputs = [worker.take(*batch[at : at + size]) for at in range(0, 4, size)]
    again = [worker.take(*batch[at : at + size]) for at in range(0, 4, size)]
    for taken in (outputs, again):
        told = [emit for one in taken for _, emit in one.emits if emit.topic == "records-linked"]
        versions = [(emit.headers["revision"], emit.headers["ce_type"]) for emit in told]
        assert versions == [
            (b"0000000003-0000000000000-000000000000", b"claim.v1"),
            (b"0000000003-0000000000001-000000000001", b"claim.v1.deleted"),
            (b"0000000004-0000000000002-000000000002", b"claim.v1"),
            (b"0000000004-0000000000003-000000000003", b"claim.v1"),
        ]
    assert [state.digest for state in worker.index.states[event_key(token("e").hex())]] == ["C", "B", "D", "A"]


def test_a_family_of_records_in_one_batch_is_one_patient_without_merges() -> None:
    worker, topic = Worker(), Topic()
    blocks = [identity("b", IPP, **ANNE), identity("a", NIR, **ANNE), identity("c", NIR, IPP, **ANNE)]
    outputs = worker.take(*(topic.record(f"e{at}", block) for at, block in enumerate(blocks)))
    subjects = tuple(sorted(block.subject for block in blocks))
    assert links(outputs) == [SubjectsLinked(1, token("subject:b").hex(), subjects)]


def test_a_merge_goes_to_both_partitions_with_one_version() -> None:
    worker, topic = Worker(hot_partitions=1000), Topic()
    worker.take(topic.record("e1", identity("a", NIR, **ANNE)))
    worker.take(topic.record("e2", identity("b", IPP, **ANNE)))
    outputs = worker.take(topic.record("e3", identity("c", NIR, IPP, **ANNE)))
    a, b, c = (token(f"subject:{name}") for name in "abc")
    assert links(outputs) == [SubjectsLinked(3, a.hex(), (c,)), PatientsMerged(4, a.hex(), b.hex(), (b,))]
    sent = [(emit.key, emit.partition) for _, emit in outputs.emits if emit.topic == "patient-links"]
    expected = {one.hex().encode(): int(one.hex()[:8], 16) % 1000 for one in (a, b)}
    assert sorted(sent) == sorted([(a.hex().encode(), expected[a.hex().encode()]), *expected.items()])


def test_a_mothers_nir_on_a_newborn_asks_a_steward_once() -> None:
    worker, topic = Worker(), Topic()
    mother = identity("m", NIR, status="qualified", **ANNE)
    newborn = identity("n", NIR, status="qualified", **PAUL)
    worker.take(topic.record("e1", mother))
    outputs = worker.take(topic.record("e2", newborn))
    (review,) = reviews(outputs)
    assert {review.left, review.right} == {mother.subject, newborn.subject}
    assert (review.evidence["birth_date"], review.evidence["given_name"]) == (0.0, 0.0)
    assert counts(outputs) == {"linked": 1, "reviews": 1}
    assert len(set(worker.known.values())) == 2
    outputs = worker.take(topic.record("e3", identity("m2", NIR, status="qualified", **ANNE)))
    assert len(reviews(outputs)) == 1
    assert sets(worker.known) == {
        frozenset((mother.subject, token("subject:m2"))),
        frozenset((newborn.subject,)),
    }


def test_a_rank_that_comes_later_splits_whom_a_number_had_joined() -> None:
    worker, topic = Worker(), Topic()
    date: dict[str, Any] = {"birth_date": "1985-05-12"}
    neither = identity("x", number("pseudo-nir", "n"), **date)
    first = identity("1", number("pseudo-nir", "n", 1), **date)
    second = identity("2", number("pseudo-nir", "n", 2), **date)
    worker.take(topic.record("e1", neither))
    worker.take(topic.record("e2", first))
    assert len(set(worker.known.values())) == 1
    outputs = worker.take(topic.record("e3", second))
    split = next(link for link in links(outputs) if isinstance(link, PatientSplit))
    assert (split.patient, split.new_patient) == (neither.subject.hex(), first.subject.hex())
    assert len(set(worker.known.values())) == 3
    assert len(reviews(outputs)) == 2
    assert worker.index.tally.patients == 3


def test_fictitious_and_nameless_identities_meet_nobody() -> None:
    worker, topic = Worker(), Topic()
    outputs = worker.take(
        topic.record("e1", identity("a", NIR, status="qualified")),
        topic.record("e2", identity("b", NIR, status="fictitious")),
        topic.record("e3", identity("c")),
        topic.record("e4", identity("d", birth_date="1985-05-12")),
        topic.record("e5", identity("e", birth_date="1985-05-12")),
    )
    assert counts(outputs) == {"linked": 5, "unlinkable": 4}
    assert len(set(worker.known.values())) == 5
    assert worker.index.tally == Tally(subjects=5, patients=5, records=5, unlinkable=4)


def test_bad_messages_are_dead_letters_and_the_others_go_on() -> None:
    worker, topic = Worker(), Topic()
    good, moved, garbled, headless, unversioned, short = (topic.record(f"e{at}", identity("a", NIR)) for at in range(6))
    moved = replace(moved, headers={**moved.headers, Headers.EVENT_ID: b"another"})
    garbled = replace(garbled, value=b"\xc1")
    headless = replace(headless, headers={})
    unversioned = replace(unversioned, headers={**unversioned.headers, Headers.REVISION: b"0"})
    short = topic.record("e6", TokenBlock(b"short", "urn:test", "provisional"))
    outputs = worker.take(good, moved, garbled, headless, unversioned, short)
    assert counts(outputs) == {"linked": 1, "keys": 1, "decoding": 1, "schema": 3}
    assert worker.step.origin(headless) == ("", 0)
    assert worker.step.origin(unversioned) == ("urn:test", 0)


PSEUDO = number("pseudo-nir", "twins")
MOTHER = identity("m", NIR, status="qualified", family_name="X", **ANNE)
NEWBORN = identity("n", NIR, family_name="X", given_name="LEA", birth_date="2015-01-02")
NAMELESS = identity("n", NIR, status="qualified", birth_date="2015-01-02", flags=("nir-contradicts-birth-date",))
BORROWER = identity("b", NIR, family_name="Y", given_name="PAUL", birth_date="1970-01-01")
CLAIM = identity("c", NIR)
TWINS = [identity(name, PSEUDO, given_name=name, birth_date="1985-05-12", family_name="X") for name in ("ANNE", "LEA")]
BRIDGES = {
    "the claim is its owner's": ([MOTHER, NEWBORN, CLAIM, BORROWER], [{"m", "c"}, {"n"}, {"b"}]),
    "a newborn without a name": ([MOTHER, NAMELESS, CLAIM, BORROWER], [{"m", "c"}, {"n"}, {"b"}]),
    "nobody owns it": ([NEWBORN, CLAIM, BORROWER, identity("c2", NIR)], [{"n"}, {"c"}, {"c2"}, {"b"}]),
    "two own it": (
        [MOTHER, identity("q", NIR, status="qualified", given_name="ZOE", birth_date="1991-11-23"), CLAIM, BORROWER],
        [{"m"}, {"q"}, {"c"}, {"b"}],
    ),
    "a family name that one side has": ([NEWBORN, BORROWER, identity("y", NIR, family_name="Y")], [{"n"}, {"b", "y"}]),
    "twins and a line without traits": ([*TWINS, identity("c", PSEUDO)], [{"ANNE"}, {"LEA"}, {"c"}]),
    "twins and lines with their date": (
        [*TWINS, *(identity(it, PSEUDO, birth_date="1985-05-12") for it in ("c", "d"))],
        [{"ANNE"}, {"LEA"}, {"c"}, {"d"}],
    ),
    "another number says which twin": (
        [TWINS[0], identity("LEA", PSEUDO, IPP, given_name="LEA", birth_date="1985-05-12"), identity("c", PSEUDO, IPP)],
        [{"ANNE"}, {"LEA", "c"}],
    ),
}


@pytest.mark.parametrize("case", BRIDGES)
def test_nobody_bridges_whom_their_own_traits_keep_apart(case: str) -> None:
    blocks, people = BRIDGES[case]
    expected = {frozenset(token(f"subject:{name}") for name in one) for one in people}
    for order in permutations(enumerate(blocks)):
        for size in (1, 2, len(blocks)):
            worker = run([(f"e{at}", block) for at, block in order], size)
            assert sets(worker.known) == expected
            assert worker.index.tally.patients == len(expected)


def test_who_may_be_either_goes_to_review_and_leaves_when_the_contradiction_comes_later() -> None:
    worker, topic = Worker(), Topic()
    worker.take(topic.record("e1", identity("c", PSEUDO)), topic.record("e2", TWINS[0]))
    assert len(set(worker.known.values())) == 1
    outputs = worker.take(topic.record("e3", TWINS[1]))
    assert any(isinstance(link, PatientSplit) for link in links(outputs))
    asked = {frozenset((one.left, one.right)) for one in reviews(outputs)}
    twins = [one.subject for one in TWINS]
    assert asked == {frozenset(twins), *(frozenset((token("subject:c"), twin)) for twin in twins)}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_conflict_leaves_nobody_to_link_through(size: int) -> None:
    one, other = number("ipp", "1"), number("ipp", "2")
    block, refused = identity("r", one), identity("r2", one, other)
    others = [identity("q", other), identity("q2", one)]
    for order in permutations(range(4)):
        if order.index(0) > order.index(1):
            continue
        worker, topic = Worker(), Topic()
        messages = [
            topic.record("r", block, digest="A"),
            topic.record("r", refused, digest="B"),
            *(topic.record(f"q{at}", it) for at, it in enumerate(others)),
        ]
        batch = [messages[at] for at in order]
        outputs = [worker.take(*batch[start : start + size]) for start in range(0, 4, size)]
        assert of(outputs)["conflict"] == 1
        assert refused.subject not in worker.index.subjects
        q, q2 = (it.subject for it in others)
        assert sets(worker.known) == {frozenset((q,)), frozenset((block.subject, q2))}


def crowd(people: int) -> list[tuple[str, TokenBlock]]:
    """People on one filler number: some without traits, and some with two identities under a NIR of their own."""
    filler, found = number("ipp", "INCONNU"), []
    for at in range(people):
        traits: dict[str, Any] = {} if at % 3 else {"given_name": f"given{at}", "birth_date": f"date{at}"}
        nir = [number("ins-nir", str(at // 2))] if at % 4 < 2 else []
        found.append((f"event{at}", identity(f"p{at}", filler, *nir, **traits)))
    return found


def test_a_filler_number_decides_nothing_and_asks_nobody() -> None:
    records = [
        (f"e{at}", identity(f"p{at}", IPP, given_name=f"given{at}", birth_date=f"date{at}")) for at in range(300)
    ]
    start = time.perf_counter()
    worker, topic = Worker(), Topic()
    outputs = worker.take(*(topic.record(event, block) for event, block in records))
    assert time.perf_counter() - start < 3
    assert counts(outputs) == {"linked": 300, "too_common": 300}
    assert worker.index.edges == {}
    assert len(set(worker.known.values())) == 300


def test_a_number_below_the_cap_asks_little_about_each_new_subject() -> None:
    worker, topic = Worker(), Topic()
    for at in range(8):
        block = identity(f"p{at}", IPP, given_name=f"given{at}", birth_date=f"date{at}")
        assert len(reviews(worker.take(topic.record(f"e{at}", block)))) == min(at, 5)


def test_a_number_that_becomes_too_common_lets_go_whom_it_had_linked() -> None:
    worker, topic = Worker(), Topic()
    for at in range(50):
        worker.take(topic.record(f"e{at}", identity(f"p{at}", IPP)))
    assert len(set(worker.known.values())) == 1
    outputs = worker.take(topic.record("e50", identity("p50", IPP)))
    assert sum(isinstance(link, PatientSplit) for link in links(outputs)) == 49
    assert reviews(outputs) == []
    assert len(set(worker.known.values())) == worker.index.tally.patients == 51
    outputs = worker.take(topic.record("e51", identity("p51", IPP, NIR)), topic.record("e52", identity("p52", NIR)))
    assert counts(outputs) == {"linked": 2, "too_common": 1}
    assert len(set(worker.known.values())) == 52


@pytest.mark.parametrize("size", [1, 7, 40, 120])
def test_beyond_the_cap_any_order_ends_in_the_same_patients(size: int) -> None:
    records = crowd(120)
    expected = sets(run(records, len(records)).known)
    assert len(expected) == 90
    shuffled = random.Random(size).sample(records, len(records))
    worker = run(shuffled, size)
    assert sets(worker.known) == expected
    assert worker.index.tally.patients == 90


def population(people: int, records: int, seed: int) -> list[tuple[str, TokenBlock]]:
    """Records of people who carry some of their numbers, and now and then somebody else's."""
    draw = random.Random(seed)
    found = []
    for at in range(records):
        person = draw.randrange(people)
        twin = person // 2
        numbers = draw.sample(
            [
                number("ins-nir", str(person if draw.random() < 0.9 else twin)),
                number("ins-nia", str(person)),
                number("ipp", str(draw.choice((person, person + 1)))),
                number("pseudo-nir", str(twin), draw.choice((None, 1 + person % 2))),
                number("nir-opener", str(twin)),
            ],
            draw.randint(0, 3),
        )
        traits = {
            "given_name": f"given{person}",
            "birth_date": f"date{twin}",
            "family_name": f"family{twin}",
        }
        kept: dict[str, Any] = {name: traits[name] for name in draw.sample(sorted(traits), draw.randint(0, 3))}
        status = draw.choice(("qualified", "provisional", "provisional", "fictitious"))
        name = repr((numbers, sorted(kept.items()), status))
        found.append((f"event{at}", identity(name, *numbers, status=status, **kept)))
    return found


def run(records: Sequence[tuple[str, TokenBlock]], size: int) -> Worker:
    worker, topic = Worker(), Topic()
    for start in range(0, len(records), size):
        worker.take(*(topic.record(event, block) for event, block in records[start : start + size]))
    return worker


@pytest.mark.parametrize("seed", range(8))
def test_any_order_and_batching_ends_in_the_same_patients(seed: int) -> None:
    records = population(people=12, records=60, seed=seed)
    expected = sets(run(records, len(records)).known)
    for size, shuffle in ((1, 0), (7, 1), (1, 2), (25, 3)):
        shuffled = random.Random(shuffle).sample(records, len(records)) if shuffle else records
        worker = run(shuffled, size)
        assert sets(worker.known) == expected
        stored = {subject: patient.hex() for subject, patient in worker.index.patients().items() if patient}
        assert stored == worker.known, "what was published is what is stored"
        assert worker.index.tally.patients == len(expected)


def households(people: int, records: int, seed: int) -> list[tuple[str, TokenBlock]]:
    """Records of people who live together, some of them twins, with slips and without most numbers."""
    draw = random.Random(seed)
    names = ("ANNE", "PAUL", "LEA", "JEAN", "MARIE", "LOUIS")
    found = []
    for at in range(records):
        person = draw.randrange(people)
        home = person // 3
        born = f"date{home}-{0 if person % 3 == 2 else person % 3}"  # the first and the third are twins
        traits: dict[str, Any] = {
            "family_name": f"family{home}",
            "given_name": names[(person * 5 + person % 3) % len(names)],
            "birth_date": born if draw.random() < 0.9 else f"date{at}",
            "sex": "female" if person % 2 else "male",
            "address": f"{home} RUE DU PORT",
            "postcode": "35400",
        }
        kept = {name: value for name, value in traits.items() if draw.random() < 0.85}
        numbers = [number("ins-nir", str(person))] if draw.random() < 0.3 else []
        status = draw.choice(("qualified", "provisional"))
        name = repr((numbers, sorted(kept.items()), status))
        found.append((f"event{at}", identity(name, *numbers, status=status, blocked=True, **kept)))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_people_who_are_alike_ends_in_the_same_patients(seed: int) -> None:
    records = households(people=12, records=60, seed=seed)
    whole = run(records, len(records))
    expected = sets(whole.known)
    assert any(edge.decision.method == "traits" for edge in whole.index.edges.values())
    for size, shuffle in ((1, 0), (7, 1), (1, 2), (25, 3)):
        shuffled = random.Random(shuffle).sample(records, len(records)) if shuffle else records
        worker = run(shuffled, size)
        assert sets(worker.known) == expected
        assert worker.index.tally.patients == len(expected)


def test_who_may_be_either_twin_joins_neither() -> None:
    worker, topic = Worker(), Topic()
    home: dict[str, Any] = {"family_name": "LEGOFF", "birth_date": "1985-05-12", "address": "12 RUE DU PORT"}
    home |= {"sex": "female", "city": "SAINTMALO", "postcode": "35400"}
    twins = [identity(name, blocked=True, given_name=name, **home) for name in ("ANNE", "LEA")]
    unnamed = identity("x", blocked=True, **home)
    outputs = worker.take(*(topic.record(f"e{at}", one) for at, one in enumerate((*twins, unnamed))))
    assert len(set(worker.known.values())) == 3
    assert {frozenset((one.left, one.right)) for one in reviews(outputs)} >= {
        frozenset((unnamed.subject, twin.subject)) for twin in twins
    }


def test_counts_add_up_over_batches() -> None:
    worker, topic = Worker(), Topic()
    records = [topic.record(f"e{at % 5}", identity("a", NIR), digest=str(at % 7)) for at in range(40)]
    outputs = [worker.take(*records[start : start + 9]) for start in range(0, 40, 9)]
    verdicts = of(outputs)
    assert verdicts["linked"] + verdicts["duplicates"] + verdicts["conflict"] == 40
