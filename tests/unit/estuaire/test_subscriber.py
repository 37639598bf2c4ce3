"""The reference consumer: whatever the order in which partitions are read, it ends in the same state."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.events import ViewEvent
from estuaire.subscriber import MERGED, RESET, WITHDRAWN, View

pytestmark = pytest.mark.unit

Log = dict[int, list[ViewEvent]]


class Publisher:
    """Publishes as access does: withdrawals first, a sequence for each subject, a partition from the subject."""

    def __init__(self, partitions: int) -> None:
        self.log: Log = defaultdict(list)
        self.truth: dict[str, tuple[str, int]] = {}
        self._partitions = partitions
        self._sequences: dict[str, int] = defaultdict(int)

    def send(self, name: str, kind: str, subject: str, **data: Any) -> None:
        self._sequences[subject] += 1
        event = ViewEvent(
            id=name, source="hub", type=kind, subject=subject, time="2026", sequence=self._sequences[subject], data=data
        )
        self.log[ord(subject) % self._partitions].append(event)

    def publish(self, record: str, subject: str, state: int) -> None:
        held = self.truth.get(record)
        if held and held[0] != subject:
            self.send(record, WITHDRAWN, held[0])
        self.send(record, "diagnosis.v1", subject, record={"state": state})
        self.truth[record] = (subject, state)

    def withdraw(self, record: str) -> None:
        if record in self.truth:
            self.send(record, WITHDRAWN, self.truth.pop(record)[0])

    def merge(self, survivor: str, retired: str, count: int) -> None:
        moved = [record for record, (subject, _) in self.truth.items() if subject == retired]
        if survivor == retired or not moved:
            return
        for record in moved:
            self.publish(record, survivor, self.truth[record][1])
        for subject in (survivor, retired):
            self.send(f"control-{count}-{subject}", MERGED, subject, survivor=survivor, retired=retired)


subjects = st.sampled_from("ABCD")
records = st.sampled_from(["r1", "r2", "r3"])
acts = st.lists(
    st.tuples(st.just("publish"), records, subjects)
    | st.tuples(st.just("withdraw"), records, subjects)
    | st.tuples(st.just("merge"), subjects, subjects),
    max_size=25,
)


def published(chosen: list[tuple[str, str, str]], partitions: int) -> Publisher:
    publisher = Publisher(partitions)
    for count, (act, one, other) in enumerate(chosen):
        if act == "publish":
            publisher.publish(one, other, count)
        elif act == "withdraw":
            publisher.withdraw(one)
        else:
            publisher.merge(one, other, count)
    return publisher


def interleaved(log: Log, data: st.DataObject) -> list[tuple[int, ViewEvent]]:
    """The partitions in any order, each in its own, and some messages twice, as after a restart."""
    queues = {partition: list(events) for partition, events in log.items()}
    found = []
    while open_ones := sorted(partition for partition, events in queues.items() if events):
        chosen = data.draw(st.sampled_from(open_ones))
        found.append((chosen, queues[chosen].pop(0)))
    return found


def compacted(log: Log) -> Log:
    """Of each key the last message of its partition."""
    return {
        partition: [one for at, one in enumerate(events) if one.id not in {later.id for later in events[at + 1 :]}]
        for partition, events in log.items()
    }


def state(view: View) -> dict[str, tuple[str, int]]:
    held = {event.id: (event.subject or "", event.data["record"]["state"]) for event in view.entries()}
    assert len(held) == len(view.entries())
    return held


@given(acts, st.integers(1, 3), st.data())
def test_any_interleaving_of_partitions_ends_in_the_same_state(
    chosen: list[tuple[str, str, str]], partitions: int, data: st.DataObject
) -> None:
    publisher = published(chosen, partitions)
    view, told = View(), View()
    for partition, event in interleaved(publisher.log, data):
        view.apply(event)
        told.apply(event, partition)
    assert state(view) == state(told) == publisher.truth


@given(acts, st.integers(1, 3), st.data())
def test_reading_again_changes_nothing(
    chosen: list[tuple[str, str, str]], partitions: int, data: st.DataObject
) -> None:
    publisher = published(chosen, partitions)
    view = View()
    for partition, event in interleaved(publisher.log, data):
        view.apply(event, partition)
    again = [view.apply(event, partition) for partition, event in interleaved(publisher.log, data)]
    assert not any(again)
    assert state(view) == publisher.truth


@given(acts, st.integers(1, 3), st.integers(0, 40), st.data())
def test_compaction_hides_nothing_from_who_comes_late_or_comes_back(
    chosen: list[tuple[str, str, str]], partitions: int, away: int, data: st.DataObject
) -> None:
    publisher = published(chosen, partitions)
    late, back = View(), View()
    read = interleaved(publisher.log, data)[:away]
    for partition, event in read:
        back.apply(event, partition)
    for partition, event in interleaved(compacted(publisher.log), data):
        late.apply(event, partition)
        if (partition, event) not in read:
            back.apply(event, partition)
    assert state(late) == publisher.truth
    assert state(back) == publisher.truth


def test_a_withdrawal_that_compaction_left_ends_what_was_known_of_another_subject() -> None:
    publisher = published([("publish", "r1", "A"), ("publish", "r1", "B"), ("withdraw", "r1", "B")], partitions=1)
    back = View()
    back.apply(publisher.log[0][0], 0)
    for event in compacted(publisher.log)[0]:
        assert back.apply(event, 0)
    assert back.entries() == []


def test_timelines_are_by_time_and_then_by_id() -> None:
    view = View()
    for sequence, (name, time) in enumerate([("b", "2026"), ("a", "2026"), ("c", "2025")], 1):
        view.apply(ViewEvent(id=name, source="", type="x", subject="S", time=time, sequence=sequence, data={}))
    assert [event.id for event in view.timelines()["S"]] == ["c", "a", "b"]


def test_a_reset_empties_the_view_and_it_fills_again() -> None:
    view = View()
    first = ViewEvent(id="a", source="", type="x", subject="S", sequence=1, data={})
    view.apply(first, 0)
    assert view.apply(ViewEvent(id="reset", source="", type=RESET, subject="S", sequence=2, data={}), 0)
    assert view.entries() == []
    assert not view.apply(first, 0)
    again = first.model_copy(update={"sequence": 3})
    assert view.apply(again, 0)
    assert view.entries() == [again]


@given(acts, st.integers(1, 3), st.data())
def test_a_timeline_is_that_of_all_timelines(
    chosen: list[tuple[str, str, str]], partitions: int, data: st.DataObject
) -> None:
    view = View()
    for partition, event in interleaved(published(chosen, partitions).log, data):
        view.apply(event, partition)
        whole = view.timelines()
        assert all(view.timeline(subject) == whole.get(subject, []) for subject in "ABCD")
