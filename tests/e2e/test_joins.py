"""Two projects who put their views together join no more than chance does, but for what the views themselves say.

What the views say in common is the figure that the dry run announced. `make joins` does the same with 50 permits over
100,000 people.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
import os
import random
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final

import httpx
import numpy as np
import psycopg
import pytest

from contracts.permits import Permit
from estuaire.demo import grant
from estuaire.keyring import OFFICER
from estuaire.topics import read
from runtime.keys import FolderKeyStore
from runtime.loop import message_from
from services.access.adapters import StoredPermit
from services.access.reconciliation import release_from
from services.access.vault import Vault
from tests.hub import Hub

pytestmark = pytest.mark.e2e
log = logging.getLogger("estuaire.tests")

PEOPLE: Final = int(os.environ.get("ESTUAIRE_JOIN_PEOPLE", "500"))
PERMITS: Final = int(os.environ.get("ESTUAIRE_JOIN_PERMITS", "6"))
EACH: Final = 3
"""Records of a person."""
COMMUNES: Final = ("35238", "29019", "2A004", "44109", "75056", "13055")
CODES: Final = ("I501", "I10", "J459", "E119", "N185", "C509")
ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "diagnosis.v1": ("code",),
    "observation.v1": ("code", "valueQuantity"),
}
TIMES: Final = ("day", "month", "year")
SIGMAS: Final = 5.0


def event(source: str, person: int, number: int) -> dict[str, Any]:
    """A record of somebody; the same whenever it is asked for."""
    dice = random.Random(f"{person}/{number}")
    about = random.Random(person)
    identity = {
        "identifiers": [{"system": "ipp", "assigner": source, "value": f"P{person:07d}"}],
        "sex": about.choice(["male", "female"]),
        "birth_date": f"{about.randint(1930, 2010)}-{about.randint(1, 12):02}-{about.randint(1, 28):02}",
        "residence": {"commune": about.choice(COMMUNES)},
    }
    kind = dice.choice(list(ATTRIBUTES))
    icd = {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10", "code": dice.choice(CODES)}]}
    record: dict[str, Any] = {"resourceType": "Condition", "code": icd}
    if kind == "observation.v1":
        unit = {"system": "http://unitsofmeasure.org", "code": "/min"}
        record = {
            "resourceType": "Observation",
            "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
            "valueQuantity": {"value": dice.randint(50, 99), **unit},
        }
    day = dt.date(2022, 1, 1) + dt.timedelta(days=dice.randrange(4 * 365))
    return {
        "specversion": "1.0",
        "id": f"r{person}-{number}",
        "source": source,
        "type": kind,
        "time": f"{day}T{dice.randint(10, 18)}:00:00Z",
        "datacontenttype": "application/json",
        "data": {"identity": identity, "record": record},
    }


def clauses(number: int) -> dict[str, Any]:
    """What one permit asks for."""
    dice = random.Random(number)
    types = dice.choice([["observation.v1"], ["diagnosis.v1"], list(ATTRIBUTES), list(ATTRIBUTES)])
    found: dict[str, Any] = {
        "types": types,
        "fields": {kind: dice.sample(ATTRIBUTES[kind], dice.randint(1, len(ATTRIBUTES[kind]))) for kind in types},
        "demographics": dice.sample(["sex", "birth_year", "department"], dice.randint(1, 3)),
        "precision": {"time": dice.choice(TIMES), "source": "hub", "place": "department"},
    }
    if dice.random() < 0.5:
        first = dice.randint(2022, 2024)
        found["period"] = {"from": f"{first}-01-01", "to": f"{first + 1}-12-31"}
    if dice.random() < 0.6:
        first = dice.randint(1930, 1990)
        ways: list[dict[str, Any]] = [{"sex": ["female"]}, {"birth_year": {"from": first, "to": first + 30}}]
        found["population"] = dice.choice(ways)
    return found


@dataclass
class Seen:
    """A view as its subscriber has it, a row for each message, and of each row which record of the hub it is."""

    permit: Permit
    truth: array[int] = field(default_factory=lambda: array("l"))
    partition: array[int] = field(default_factory=lambda: array("b"))
    offset: array[int] = field(default_factory=lambda: array("l"))
    timestamps: set[int] = field(default_factory=set)
    names: set[bytes] = field(default_factory=set)
    """Ids, subjects, traces: whatever could be the same in two views."""
    envelopes: set[int] = field(default_factory=set)
    """How long messages are without what they say."""
    lines: dict[str, list[tuple[str, str, Any]]] = field(default_factory=lambda: defaultdict(list))
    demographics: dict[str, dict[str, Any]] = field(default_factory=dict)
    person: dict[str, int] = field(default_factory=dict)

    def positions(self) -> dict[int, float]:
        """Where among all messages each record is, from 0 to 1."""
        order = sorted(zip(self.offset, self.partition, self.truth, strict=True))
        return {truth: rank / len(order) for rank, (_, _, truth) in enumerate(order)}


def seen(hub: Hub, permit: Permit, records: dict[str, int], vault: Vault, url: str) -> Seen:
    """Read a view, with its own ids known by the test alone."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT permit, definition, granted, key, state, revision FROM permits WHERE permit = %s", [permit.id]
        ).fetchone()
    ids = release_from(StoredPermit(*(row or ())), vault).ids
    named = {ids.record(bytes.fromhex(event_id)): number for event_id, number in records.items()}
    found = Seen(permit)
    for one in read(hub.platform.settings(), f"view-{permit.id}"):
        message = message_from(one)
        told = json.loads(message.value)
        number = named[told["id"]]
        found.truth.append(number)
        found.partition.append(message.partition)
        found.offset.append(message.offset)
        found.timestamps.add(message.timestamp)
        _, trace, span, _ = message.header("traceparent").split("-")
        assert set(message.headers) == {"content-type", "traceparent"}
        assert message.key == told["id"].encode()
        found.names |= {told["id"].encode(), told["subject"].encode(), trace.encode(), span.encode()}
        said = len(json.dumps(told["data"], separators=(",", ":"), ensure_ascii=False).encode())
        said += len(told["type"]) + len(str(told["sequence"])) + len(told["time"])
        found.envelopes.add(len(message.value) - said)
        found.lines[told["subject"]].append((told["type"], told["time"], told["data"]["record"]))
        found.demographics[told["subject"]] = told["data"]["demographics"]
        found.person[told["subject"]] = number // EACH
    return found


def common_lines(one: Seen, other: Permit) -> dict[str, str]:
    """Of each subject what both permits release of it, as plainly as it can be said; nothing where that is nothing."""
    mine = one.permit
    characters = {"day": 10, "month": 7, "year": 4}
    length = min(characters[mine.precision.time], characters[other.precision.time])
    first = (other.period.start or dt.date.min).year
    last = (other.period.end or dt.date.max).year
    found = {}
    for subject, lines in one.lines.items():
        left = []
        for kind, time, record in lines:
            if kind in other.types and first <= int(time[:4]) <= last:
                kept = {name: record[name] for name in other.fields.get(kind, ()) if name in record}
                left.append((kind, time[:length], json.dumps(kept, sort_keys=True)))
        if left:
            names = [name for name in mine.demographics if name in other.demographics]
            said = {name: one.demographics[subject].get(name) for name in names}
            found[subject] = json.dumps([said, sorted(left)], sort_keys=True)
    return found


def joined_by_content(one: Seen, other: Seen) -> tuple[int, int]:
    """Who is in both with something in common, and how many are joined rightly, being like nobody else in either."""
    mine, theirs = common_lines(one, other.permit), common_lines(other, one.permit)
    counts, others = Counter(mine.values()), Counter(theirs.values())
    by_line = {line: subject for subject, line in theirs.items() if others[line] == 1}
    both = {one.person[subject] for subject in mine} & {other.person[subject] for subject in theirs}
    right = sum(
        counts[line] == 1 and line in by_line and other.person[by_line[line]] == one.person[subject]
        for subject, line in mine.items()
    )
    return len(both), right


def test_two_views_are_joined_by_what_they_say_alone_and_as_announced(hub: Hub) -> None:
    source = hub.source()
    records: dict[str, int] = {}
    with hub.producer(source) as producer:
        stream = (event(source, person, number) for person in range(PEOPLE) for number in range(EACH))
        for answer in producer.send(stream):
            assert not answer.rejected
            for accepted in answer.accepted:
                person, number = accepted["id"].removeprefix("r").split("-")
                records[accepted["event_id"]] = int(person) * EACH + int(number)
        assert producer.wait_for_views(source, 3600)
    assert len(records) == PEOPLE * EACH
    permits = [hub.drafted(source, **clauses(number)) for number in range(PERMITS)]
    grant(hub.platform, permits, 60 + PEOPLE * PERMITS / 200)
    vault = Vault(FolderKeyStore(hub.platform.keyring.folder("access")).secret("history"))
    url = hub.platform.services["access"].environment["ESTUAIRE_ACCESS_DATABASE_URL"]
    views = [seen(hub, one, records, vault, url) for one in permits]
    log.warning("%d views with %d entries", len(views), sum(len(one.truth) for one in views))
    for one in views:
        assert len(one.truth) > PEOPLE / 20
        assert len(one.envelopes) == 1, "a message is as long as what it says"
        assert all(moment % 3_600_000 == 0 for moment in one.timestamps)
    worst = 0.0
    hits = chance = pairs = 0.0
    positions = [one.positions() for one in views]
    for (a, one), (b, other) in combinations(enumerate(views), 2):
        assert not one.names & other.names
        both = sorted(positions[a].keys() & positions[b].keys())
        if len(both) < 100:
            continue
        pairs += 1
        worst = max(worst, correlation([positions[a][n] for n in both], [positions[b][n] for n in both]))
        shards = [dict(zip(view.truth, view.partition, strict=True)) for view in (one, other)]
        worst = max(worst, correlation([shards[0][n] for n in both], [shards[1][n] for n in both]))
        # who is at the same place, and at the same offset, is no likelier to be the same
        for guess in (same_place(one, other, positions[a], positions[b]), same_offset(one, other)):
            hits += guess[0]
            chance += guess[1]
    log.warning("%d pairs: order, shard %.1f sigma at most; %d hits, by chance %.1f", pairs, worst, hits, chance)
    assert pairs >= 1
    assert worst < SIGMAS
    assert hits < chance + SIGMAS * math.sqrt(chance) + SIGMAS
    announced = dry_run(hub, permits[-1])
    for other in views[:-1]:
        told = announced["joins"][other.permit.id]
        assert joined_by_content(views[-1], other) == (told["people_in_both"], told["joined"])
    log.warning("%s", {name: announced["joins"][name] for name in (one.id for one in permits[:-1])})


def dry_run(hub: Hub, permit: Permit) -> dict[str, Any]:
    """What an officer is told of a permit like this one, beside those that are open."""
    body = permit.model_dump(mode="json", by_alias=True, exclude_none=True) | {"id": permit.id}
    headers = {"Authorization": f"Bearer {hub.platform.keyring.token('officers', OFFICER)}"}
    address = f"{hub.platform.access_url}/v1/permits/dry-run?people=1000000"
    answer = httpx.post(address, json=body, headers=headers, timeout=3600)
    assert answer.status_code == httpx.codes.OK, answer.text
    found: dict[str, Any] = answer.json()["released"]
    return found


def correlation(some: list[float], others: list[float]) -> float:
    """How far two lists are from being unrelated, in standard deviations."""
    if len(set(some)) < 2 or len(set(others)) < 2:
        return 0.0
    ranks = [np.argsort(np.argsort(np.array(one))) if len(set(one)) > 2 else np.array(one) for one in (some, others)]
    return float(abs(np.corrcoef(ranks[0], ranks[1])[0, 1]) * math.sqrt(len(some) - 1))


def same_place(one: Seen, other: Seen, mine: dict[int, float], theirs: dict[int, float]) -> tuple[int, float]:
    """Guess that a record is the one at the same place of the other view: how often that is right, and would be."""
    ordered = sorted(theirs, key=theirs.__getitem__)
    right = sum(ordered[int(place * len(ordered))] == truth for truth, place in mine.items())
    return right, len(mine.keys() & theirs.keys()) / len(ordered)


def same_offset(one: Seen, other: Seen) -> tuple[int, float]:
    """Guess that a record is the one of the same partition and offset of the other view."""
    at = {(p, o): t for t, p, o in zip(other.truth, other.partition, other.offset, strict=True)}
    found = [at.get((p, o)) for p, o in zip(one.partition, one.offset, strict=True)]
    right = sum(t == guess for t, guess in zip(one.truth, found, strict=True))
    guessed = sum(guess is not None for guess in found)
    return right, guessed * len(set(one.truth) & set(other.truth)) / max(1, len(one.truth) * len(other.truth))
