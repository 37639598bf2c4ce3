"""The sample: ingest takes what it should, exact identifiers alone find its people, and its counts are known."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.events import OF_RIGHTS, RECORD_TYPES, Event, Identity
from estuaire.sample import (
    CONFLICTS,
    CORRECTIONS,
    DEVICES,
    HOSPITAL,
    INSURANCE,
    REPEATS,
    RETRACTIONS,
    SampleEvent,
    SampleSummary,
    cip13,
    sample,
    sample_summary,
)
from services.ingest.domain.content import InvalidRecord, strip
from services.ingest.domain.identity import InvalidIdentity, normalise

pytestmark = pytest.mark.unit

Key = tuple[str, ...]


@pytest.fixture(scope="module")
def events() -> list[SampleEvent]:
    return list(sample())


def test_its_size_and_its_sources(events: list[SampleEvent]) -> None:
    assert len(events) == 6000
    assert {one.person for one in events if one.accepted} == set(range(500))
    by_source = Counter(one.source for one in events)
    assert by_source.keys() == {HOSPITAL, INSURANCE, DEVICES}
    assert min(by_source.values()) > 300
    types = {str(one.event["type"]).removesuffix(".deleted") for one in events if one.accepted}
    assert types == set(RECORD_TYPES) - {"encounter.v1", "medication.v1", *OF_RIGHTS}


def test_ingest_takes_all_but_what_it_should_refuse(events: list[SampleEvent]) -> None:
    wrong = [
        (one.kind, one.event["id"], refusal) for one in events if one.accepted == bool(refusal := _refusal(one.event))
    ]
    assert not wrong


def test_nothing_but_what_may_name_somebody_is_stripped(events: list[SampleEvent]) -> None:
    """What an allow-list removes is a careless hospital's free text, a reference, or a lot number."""
    removed = set()
    for one in events:
        if one.accepted and (record := _data(one).get("record")):
            kept = strip(str(one.event["type"]), record).record
            removed |= record.keys() - kept.keys()
            assert "valueQuantity" not in record or kept["valueQuantity"] == record["valueQuantity"]
    assert removed == {"note", "text", "conclusion", "presentedForm", "subject", "lotNumber"}


def test_shared_identifiers_and_strict_traits_make_exactly_the_people(events: list[SampleEvent]) -> None:
    people_by_key: defaultdict[Key, set[int]] = defaultdict(set)
    keys_by_person: defaultdict[int, list[set[Key]]] = defaultdict(list)
    for one in events:
        if one.accepted:
            keys = set(_keys(one))
            assert keys
            keys_by_person[one.person].append(keys)
            for key in keys:
                people_by_key[key].add(one.person)
    assert max(len(people) for people in people_by_key.values()) == 1
    for groups in keys_by_person.values():
        assert _connected(groups)


def test_a_persons_first_event_at_a_source_precedes_those_that_lean_on_it(events: list[SampleEvent]) -> None:
    enrolled = set()
    for one in events:
        if one.source == DEVICES and one.accepted:
            assert one.event["type"] == "identity.v1" or one.person in enrolled
            enrolled.add(one.person)


def test_ids_are_unique_but_for_what_follows_on_purpose(events: list[SampleEvent]) -> None:
    states: defaultdict[tuple[str, Any], list[SampleEvent]] = defaultdict(list)
    for one in events:
        states[one.source, one.event["id"]].append(one)
    followed = Counter(one.kind for several in states.values() for one in several[1:])
    assert followed == {
        "repeat": REPEATS,
        "correction": CORRECTIONS,
        "retraction": RETRACTIONS,
        "conflict": CONFLICTS,
    }
    for first, *later in states.values():
        assert first.kind in ("record", "refused")
        assert len(later) <= 1
        for one in later:
            same = one.event == first.event
            assert same == (one.kind == "repeat")
            assert one.person == first.person
            assert _data(one)["identity"] == _data(first)["identity"]
            assert ("record" in _data(one)) == (one.kind != "retraction")
            assert str(one.event["type"]).endswith(".deleted") == (one.kind == "retraction")
            assert bool(one.event.get("correction")) == (one.kind == "correction")


def test_times_are_within_bounds_and_interleaved(events: list[SampleEvent]) -> None:
    times = [str(one.event["time"]) for one in events if one.kind == "record"]
    assert times == sorted(times)
    assert times[0] >= "2024-01-01"
    assert times[-1] < "2026-03-01"
    assert any(left.source != right.source for left, right in pairwise(events[:100]))


def test_every_string_of_an_identity_is_planted_and_is_in_the_event(events: list[SampleEvent]) -> None:
    for one in events:
        known, text = _data(one)["identity"], json.dumps(one.event, ensure_ascii=False)
        names = {known.get(name) for name in ("birth_family_name", "used_family_name")} - {None}
        numbers = {number["value"] for number in known.get("identifiers", ())}
        assert {*names, *numbers, *known.get("given_names", ())} <= set(one.planted)
        if residence := known.get("residence"):
            assert residence["address"] in one.planted
        # A letter is in base64: what it says beside the identity is not to be found as it is.
        assert "presentedForm" in text or all(string in text for string in one.planted)
    assert len({string for one in events for string in one.planted if len(string) >= 10}) > 2000


def test_a_good_share_of_clinical_records_names_the_patient(events: list[SampleEvent]) -> None:
    phones = sum(any(string.startswith("06 39 98") for string in one.planted) for one in events)
    assert phones > 200


def test_the_summary(events: list[SampleEvent]) -> None:
    assert sample_summary() == SampleSummary(
        sent=6000,
        accepted=5990,
        rejected=10,
        linked=5945,
        duplicates=40,
        conflicts=5,
        corrections=10,
        retractions=6,
        patients=500,
    )


@pytest.mark.parametrize("seed", range(8))
def test_other_seeds_and_sizes(seed: int) -> None:
    summary = sample_summary(seed, people=50, events=400)
    assert (summary.sent, summary.patients, summary.rejected) == (400, 50, 10)
    with pytest.raises(ValueError, match="50 people"):
        next(sample(seed, people=50, events=399))


def test_the_same_on_every_run() -> None:
    program = "from estuaire.sample import sample; print(list(sample(5, 60, 500)))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert len(runs) == 1


@pytest.mark.parametrize("known", ["3400935955838", "3400930000014", "3400936404649"])
def test_the_check_digit_of_a_cip13(known: str) -> None:
    assert cip13(known[:12]) == known


def _data(one: SampleEvent) -> dict[str, Any]:
    data = one.event["data"]
    assert isinstance(data, dict)
    return data


def _refusal(document: dict[str, object]) -> str | None:
    """Why ingest's rules refuse an event."""
    try:
        event = Event.model_validate(document)
        normalise(event.data.identity)
        if not event.deleted and event.record_type != "identity.v1":
            strip(event.type, event.data.record or {})
    except (ValidationError, InvalidIdentity, InvalidRecord) as refusal:
        return type(refusal).__name__
    return None


def _keys(one: SampleEvent) -> Iterator[Key]:
    known = normalise(Identity.model_validate(_data(one)["identity"]))
    for number in known.numbers:
        yield number.namespace, number.value
    strict = (known.birth_family_name, known.given_name, known.birth_date, known.sex, known.birth_place)
    if all(strict):
        yield "strict", *strict


def _connected(groups: list[set[Key]]) -> bool:
    reached, *left = groups
    while near := [keys for keys in left if keys & reached]:
        reached = reached.union(*near)
        left = [keys for keys in left if not keys & reached]
    return not left
