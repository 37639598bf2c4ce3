"""Every service killed in turn, again and again, while records flow: nothing lost, nothing twice, nothing backwards."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from contracts.events import ViewEvent
from estuaire.platform import SERVICES
from estuaire.subscriber import View
from tests.e2e.conftest import Hub

pytestmark = pytest.mark.fault

EVENTS = int(os.environ.get("ESTUAIRE_FAULT_EVENTS", "3000"))
KILLS = int(os.environ.get("ESTUAIRE_FAULT_KILLS", "1"))
PEOPLE = 200
BATCH = 100


@pytest.mark.timeout(1800)
def test_kills_lose_nothing_and_double_nothing(hub: Hub, observation: Callable[..., dict[str, Any]]) -> None:
    source = hub.source()
    permit = hub.permit(source)
    events = [observation(source, f"k{number}", number % PEOPLE, value=number) for number in range(EVENTS)]
    # A correction of every tenth record, so that there are revisions to go backwards.
    events += [
        observation(source, f"k{number}", number % PEOPLE, value=-1, correction=True) for number in range(0, EVENTS, 10)
    ]
    accepted: list[dict[str, str]] = []
    sent = threading.Event()
    failures: list[BaseException] = []

    def stream() -> None:
        try:
            with hub.producer(source) as producer:
                for answer in producer.send(events, BATCH):
                    assert not answer.rejected
                    accepted.extend(answer.accepted)
        except BaseException as error:
            failures.append(error)
        finally:
            sent.set()

    sender = threading.Thread(target=stream)
    sender.start()
    progress = 0
    for _ in range(KILLS):
        for name in SERVICES:
            progress = _wait_for_more(accepted, progress, sent)
            hub.platform.services[name].kill()
            hub.platform.start_services(name)
    sent.wait(600)
    sender.join()
    assert not failures, failures
    with hub.producer(source) as producer:
        assert producer.wait_for_views(source, 300)

    messages = hub.messages(f"view-{permit.id}")
    view = View()
    sequences: defaultdict[str, list[int]] = defaultdict(list)
    values: defaultdict[str, list[float]] = defaultdict(list)
    for message in messages:
        event = ViewEvent.model_validate_json(message.value)
        view.apply(event)
        sequences[str(event.subject)].append(event.sequence)
        if event.type == "observation.v1":
            values[event.id].append(json.loads(message.value)["data"]["record"]["valueQuantity"]["value"])
    assert all(later > earlier for one in sequences.values() for earlier, later in itertools.pairwise(one))
    assert all(-1 not in one[:-1] for one in values.values()), "a revision went backwards"
    held = Counter(entry.data["record"]["valueQuantity"]["value"] for entry in view.entries())
    expected = Counter(float(number) for number in range(EVENTS) if number % 10)
    expected[-1.0] = len(range(0, EVENTS, 10))
    assert held == expected
    assert len({entry.subject for entry in view.entries()}) == PEOPLE
    timeline = hub.timelines(permit)
    assert Counter(line["id"] for line in timeline) == Counter(entry.id for entry in view.entries())


def _wait_for_more(accepted: list[dict[str, str]], before: int, sent: threading.Event) -> int:
    """Wait until more has been accepted, so that each kill meets records on their way."""
    moved = threading.Event()
    while len(accepted) < before + BATCH and not sent.is_set():
        moved.wait(0.02)
    return len(accepted)
