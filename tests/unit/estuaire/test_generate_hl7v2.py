"""The made-up HL7 v2 feed: all of it is taken, and comes to what was meant."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any

import pytest

from estuaire.generate.hl7v2 import Message, messages
from estuaire.population import CHU, Person, population
from services.ingest.formats.hl7v2.messages import events_of, header

pytestmark = pytest.mark.unit

SOURCE = "urn:estuaire:producer:chu-rennes"


@pytest.fixture(scope="module")
def people() -> list[Person]:
    return list(population(7, 600, around="35"))


@pytest.fixture(scope="module")
def feed(people: list[Person]) -> list[Message]:
    return list(messages(7, people, 6000))


@pytest.fixture(scope="module")
def events(feed: list[Message]) -> list[list[dict[str, Any]]]:
    made = []
    for message in feed:
        outcomes = [one for one in events_of(message.data, SOURCE) if one != "stay without its state"]
        made.append([one for one in outcomes if isinstance(one, dict)])
        assert len(made[-1]) == len(outcomes), outcomes
    return made


def test_the_same_seed_gives_the_same_feed(people: list[Person], feed: list[Message]) -> None:
    assert list(messages(7, people, 500)) == feed[:500]
    assert next(messages(8, people, 1)) != feed[0]
    assert len(feed) == 6000


def test_all_events_are_there_and_none_of_one_second(feed: list[Message], events: list[list[dict[str, Any]]]) -> None:
    assert {message.trigger for message in feed} == {"A01", "A03", "A04", "A08", "A31", "A40"}
    heads = [header(message.data) for message in feed]
    assert Counter(head.field(18) for head in heads if head).keys() == {b"UNICODE UTF-8", b"8859/15"}
    versions = [made[0]["version"] for made in events]
    assert versions == sorted(set(versions))


def test_people_are_told_as_they_are(
    people: list[Person], feed: list[Message], events: list[list[dict[str, Any]]]
) -> None:
    for message, made in islice(zip(feed, events, strict=True), 2000):
        person, identity = people[message.person], made[-1]["data"]["identity"]
        own = {"system": "ipp", "assigner": CHU, "value": person.ipp(CHU)}
        if own in identity["identifiers"]:
            assert {"system": "ins-nir", "value": person.nir_with_key} in identity["identifiers"]
            assert identity["identity_status"] == "qualified"
        else:
            assert identity["identity_status"] == "provisional"
        assert identity["birth_family_name"] == person.birth_family_name
        assert identity["given_names"] == list(person.given_names)
        assert identity["birth_date"] == person.birth_date.isoformat()
        assert (identity["birth_place"], identity["sex"]) == (person.birth_place, person.sex)
        assert identity["residence"]["commune"] == person.residence.commune


def test_a_visit_begins_once_and_ends(feed: list[Message], events: list[list[dict[str, Any]]]) -> None:
    ended = [message.visit for message in feed if message.trigger == "A03"]
    assert len(ended) == len(set(ended)) > 1000
    stays: dict[str, list[dict[str, Any]]] = {}
    for one in (one for made in events for one in made if one["type"] == "encounter.v1"):
        stays.setdefault(one["id"], []).append(one["data"]["record"])
    for visit in ended:
        told = stays[f"Encounter/{CHU}|{visit}"]
        assert len({one["period"]["start"] for one in told}) == 1
        assert [one["status"] for one in told] == ["in-progress"] * (len(told) - 1) + ["finished"]
        assert told[-1]["period"]["end"] > told[0]["period"]["start"]


def test_merges_join_two_numbers_and_the_dead_stay_away(
    people: list[Person], feed: list[Message], events: list[list[dict[str, Any]]]
) -> None:
    merges = [one for made in events for one in made if one["id"].startswith("Merge/")]
    assert len(merges) == sum(message.trigger == "A40" for message in feed) > 30
    retired = {one["id"].rpartition("|")[2] for one in merges}
    assert len(retired) == len(merges)
    dead: set[int] = set()
    for message, made in zip(feed, events, strict=True):
        assert message.person not in dead
        if any(one["type"] == "death.v1" for one in made):
            dead.add(message.person)
    assert dead


def test_a_feed_ends_with_its_people(people: list[Person]) -> None:
    assert 0 < len(list(messages(1, people[:1], 10_000))) < 10_000
    assert list(messages(1, [], 10)) == []
