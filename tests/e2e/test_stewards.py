"""Stewards' decisions from the command line to views, timelines and a subscriber that is running."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from estuaire.subscriber import Subscriber, View
from tests.commands import estuaire
from tests.e2e.test_flow import identity
from tests.hub import Hub

pytestmark = pytest.mark.e2e

Make = Callable[..., dict[str, Any]]


class Follower:
    """A subscriber that is running: its view is always as new as its topic."""

    def __init__(self, hub: Hub, permit: str) -> None:
        self.view = View()
        self._stop = threading.Event()
        self._events = Subscriber(hub.platform.settings(), permit).follow(self.view, self._stop.is_set)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        for _ in self._events:
            pass

    def people(self) -> dict[str, int]:
        """How many records each subject has now."""
        while True:
            with suppress(RuntimeError):  # the view grew meanwhile
                return {subject: len(events) for subject, events in self.view.timelines().items()}


def trace(hub: Hub, source: str, record: str) -> dict[str, Any]:
    """Where a record is in the index."""
    with hub.producer(source) as producer:
        event_id = producer.event_id(source, record)
    found: dict[str, Any] = hub.get(f"/v1/records/{event_id}", "operators", "operator", service="linkage").json()
    return found


def test_a_patient_of_a_thousand_records_splits_and_merges_everywhere(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    for person in (1, 2):
        hub.send(source, [observation(source, f"p{person}-{at}", person) for at in range(500)])
    both = [{"system": "ipp", "assigner": source, "value": f"P{person:06d}"} for person in (1, 2)]
    hub.send(source, [identity(source, *both)])
    first, second = (trace(hub, source, name) for name in ("p1-0", "p2-0"))
    assert first["patient_id"] == second["patient_id"]
    pair = f"{first['subject_id']}-{second['subject_id']}"
    with Follower(hub, permit.id) as follower:

        def agree(sizes: list[int]) -> bool:
            view = follower.people()
            if sorted(view.values()) != sizes:
                return False
            return Counter(line["subject"] for line in hub.timelines(permit)) == view

        hub.wait_for(lambda: agree([1000]))
        subjects = set(follower.people())
        for decision, sizes in (("apart", [500, 500]), ("together", [1000]), ("apart", [500, 500])):
            said = estuaire(hub, "review", "decide", pair, decision).stdout
            assert ("one patient" in said) == (decision == "together")
            hub.wait_for(lambda sizes=sizes: agree(sizes))  # type: ignore[misc]
            subjects |= set(follower.people())
        assert len(subjects) == 2, "the same patients come back"
        fresh = hub.view(permit).timelines()
        assert follower.people() == {subject: len(events) for subject, events in fresh.items()}


def test_a_steward_lists_shows_and_decides(hub: Hub, observation: Make) -> None:
    source = hub.source()
    nir = {"system": "ins-nir", "value": "285053523800148"}
    traits = {"birth_family_name": "LE GOFF", "sex": "female", "identity_status": "qualified"}
    mother = {"identifiers": [nir], **traits, "given_names": ["Anne"], "birth_date": "1985-05-12"}
    child = {"identifiers": [nir], **traits, "given_names": ["Lou"], "birth_date": "2026-01-02"}
    events = [observation(source, name, 1) for name in ("mother", "child")]
    for event, known in zip(events, (mother, child), strict=True):
        event["data"]["identity"] = known
    hub.send(source, events)
    pair = "-".join(sorted(trace(hub, source, name)["subject_id"] for name in ("mother", "child")))
    listed = estuaire(hub, "review", "list", "--max", "1000").stdout
    assert f"{pair}\n  the same ins-nir, but the person's own traits contradict it" in listed
    said = re.sub(r"[0-9a-f]{32}", "", listed)  # in ids of so many pairs any four digits are, by chance
    for word in ("LE GOFF", "Anne", "Lou", "1985", nir["value"]):
        assert word not in said
    shown = estuaire(hub, "review", "show", pair).stdout
    assert "two patients" in shown
    assert "birth date 0, " in shown
    assert "steward said apart" in estuaire(hub, "review", "decide", pair, "apart").stdout
    assert pair not in estuaire(hub, "review", "list", "--max", "1000").stdout
    assert pair in estuaire(hub, "review", "take-back", pair).stdout
    hub.wait_for(lambda: pair in estuaire(hub, "review", "list", "--max", "1000").stdout)
    assert "you said unsure" in estuaire(hub, "review", "decide", pair, "unsure").stdout
    assert pair not in estuaire(hub, "review", "list", "--max", "1000").stdout
    nothing = estuaire(hub, "review", "take-back", "-".join(("0" * 32, "1" * 32)), expect=1).stderr
    assert "nothing to take back" in nothing
    assert "no such pair" in estuaire(hub, "review", "show", "-".join(("0" * 32, "1" * 32)), expect=1).stderr
    assert "string_pattern_mismatch" in estuaire(hub, "review", "show", "nonsense", expect=1).stderr
