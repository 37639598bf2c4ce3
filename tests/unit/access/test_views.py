"""The project's ids, the difference between two states of a view, and whose demographics hold."""

from __future__ import annotations

import hashlib
import hmac
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.events import ViewEvent
from contracts.messages import Demographics, revision
from services.access.adapters import shard_range
from services.access.domain import views
from services.access.domain.policy import Policy
from services.access.domain.views import Entry, Ids, difference
from tests.unit.access.hub import permit
from tests.unit.access.test_policy import facts

pytestmark = pytest.mark.unit

KEY, OTHER = b"k" * 32, b"o" * 32


def test_ids_are_those_of_the_contract() -> None:
    event = bytes(range(16))
    expected = hmac.new(KEY, b"record\0" + event.hex().encode(), hashlib.sha256).digest()[:16].hex()
    assert Ids(KEY).record(event) == expected
    assert Ids(KEY).subject("p1") == hmac.new(KEY, b"patient\0p1", hashlib.sha256).digest()[:16].hex()


def test_two_projects_share_no_id_and_a_record_is_no_patient() -> None:
    one, two = Ids(KEY), Ids(OTHER)
    assert len({one.record(b"a" * 16), two.record(b"a" * 16), one.subject("p"), two.subject("p")}) == 4
    assert len({one.order(), two.order(), one.order()}) == 2
    assert one.control(1, "s") != one.control(2, "s") != one.control(2, "t")


def test_a_message_is_a_view_event_and_says_nothing_else() -> None:
    policy, ids = Policy(permit()), Ids(KEY)
    person = views.person_under(policy, Demographics(sex="female", birth_month=5), False)
    event = views.published(policy, facts(), {"code": "I50", "x": None}, person, ids.record(b"e" * 16), "ab", 3)
    read = ViewEvent.model_validate_json(views.encode(event))
    assert read.data == {"record": {"code": "I50"}, "demographics": {"sex": "female"}}
    assert (read.time, read.sequence, read.subject, read.traceparent) == ("2026-03-01", 3, "ab", None)
    for other in (views.withdrawn("id", "ab", 4), views.control("control-1", views.MERGED, "ab", 5, {"retired": "b"})):
        assert ViewEvent.model_validate_json(views.encode(other)).time is None


entries = st.dictionaries(
    st.binary(min_size=1, max_size=1),
    st.builds(Entry, st.sampled_from(["p", "q", "r"]), st.sampled_from([b"1", b"2"])),
    max_size=8,
)


@given(entries, entries)
def test_a_difference_leads_from_what_is_held_to_what_is_wanted(
    wanted: dict[bytes, Entry], held: dict[bytes, Entry]
) -> None:
    state = {(event_id, entry.patient): entry.version for event_id, entry in held.items()}
    for change in difference(wanted, held):
        if change.withdraw:
            del state[change.event_id, change.withdraw]
        if change.publish:
            state[change.event_id, change.publish.patient] = change.publish.version
    assert state == {(event_id, entry.patient): entry.version for event_id, entry in wanted.items()}
    assert difference(wanted, dict(wanted)) == []


def test_an_entry_changes_with_its_revision_and_with_what_is_said_of_the_person() -> None:
    policy = Policy(permit())
    plain = views.person_under(policy, Demographics(sex="female"), False)
    silent = views.person_under(policy, Demographics(sex="female", birth_month=3), False)
    older = views.person_under(policy, Demographics(sex="female", birth_year=1950), False)
    assert views.version_of("1", plain) == views.version_of("1", silent)
    assert len({views.version_of("1", plain), views.version_of("2", plain), views.version_of("1", older)}) == 3


def test_who_is_not_admitted_has_no_demographics() -> None:
    policy = Policy(permit(population={"sex": ["male"]}))
    assert views.person_under(policy, Demographics(sex="female"), False).demographics == {}


revisions = st.builds(revision, st.sampled_from("019"), st.integers(1, 3), st.integers(1, 2)) | st.just("whole-not")
tellings = st.lists(
    st.dictionaries(st.sampled_from(views.FIELDS), st.tuples(st.sampled_from(["unknown", 1, 2]), revisions), max_size=3)
)


@given(tellings, st.randoms())
def test_demographics_do_not_depend_on_the_order_of_tellings(
    told: list[dict[str, tuple[Any, str]]], shuffle: random.Random
) -> None:
    expected = views.newest(told)
    shuffled = list(told)
    shuffle.shuffle(shuffled)
    assert views.newest(shuffled) == expected
    half = len(told) // 2
    assert views.newest([views.newest(shuffled[:half]), views.newest(shuffled[half:])]) == expected


@pytest.mark.parametrize(
    ("told", "holds"),
    [
        ([("male", revision("7", 100, 1)), ("female", revision("0", 200, 2))], "female"),
        ([("male", revision("0", 300, 9)), ("female", revision("8", 200, 2))], "male"),
        ([("male", revision("0", 100, 1)), ("unknown", revision("0", 200, 2))], "male"),
        ([("unknown", revision("0", 200, 2))], "unknown"),
        ([("male", revision("0", 100, 1)), ("female", "no whole revision")], "male"),
    ],
)
def test_who_was_accepted_last_holds_whatever_its_version_and_unknown_is_no_knowledge(
    told: list[tuple[str, str]], holds: str
) -> None:
    found = views.newest({"sex": one} for one in told)
    assert views.demographics_of(found) == Demographics(sex=holds)


@pytest.mark.parametrize("shards", [1, 2, 3, 48])
def test_shards_cover_every_event_id_once(shards: int) -> None:
    ranges = [shard_range(shard, shards) for shard in range(shards)]
    assert ranges[0][0] == b"\0\0"
    assert ranges[-1][1] is None
    assert all(one[1] == following[0] for one, following in pairwise(ranges))
