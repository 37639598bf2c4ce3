"""Every service killed in turn, again and again, while records flow: nothing lost, nothing twice, nothing backwards."""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from contracts.events import ViewEvent
from estuaire.audit import AuditLog, verify
from estuaire.keyring import AUDITOR, OPERATOR
from estuaire.platform import CHECKPOINTS, SERVICES
from estuaire.subscriber import View
from runtime.messages import SUMMARIES, FlowSummary
from tests.hub import Hub

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

    allowed = 0

    def paced() -> Iterator[dict[str, Any]]:
        """The events, held back so that there are always some left for the next kill to meet."""
        for number, event in enumerate(events):
            while number >= allowed:
                sent.wait(0.01)
            yield event

    def stream() -> None:
        try:
            with hub.producer(source) as producer:
                for answer in producer.send(paced(), BATCH):
                    assert not answer.rejected
                    accepted.extend(answer.accepted)
        except BaseException as error:
            failures.append(error)
        finally:
            sent.set()

    sender = threading.Thread(target=stream)
    sender.start()
    victims = [name for _ in range(KILLS) for name in SERVICES]
    share = len(events) // (len(victims) + 1)
    for number, name in enumerate(victims):
        allowed = (number + 2) * share
        while len(accepted) < number * share + share // 4 and not sent.is_set():
            sent.wait(0.02)
        hub.platform.services[name].kill()
        hub.platform.start_services(name)
    allowed = len(events)
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

    def counted() -> dict[str, dict[str, int]]:
        params = {"source": source}
        steps: dict[str, dict[str, int]] = hub.get(
            "/v1/sources/quality", "operators", OPERATOR, service="statistics", **params
        ).json()["steps"]
        return steps

    recount: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for message in hub.messages(SUMMARIES):
        summary = msgspec.msgpack.decode(message.value, type=FlowSummary)
        if source in summary.counts:
            recount[summary.step].update(summary.counts[source])
    hub.wait_for(lambda: counted() == {step: dict(verdicts) for step, verdicts in recount.items()})

    # the audit log has each message of the view once, and is what was signed
    log = AuditLog(hub.platform.services["audit"].url, hub.platform.keyring.token(AUDITOR, "auditor"))

    def told() -> int:
        leaves = (json.loads(one.line) for one in log.entries({"permit": permit.id}))
        return sum(leaf["count"] for leaf in leaves if leaf["action"] == "released")

    hub.wait_for(lambda: told() == len(messages))
    found = verify(log, hub.platform.home / CHECKPOINTS, hub.platform.keyring.verifier_key)
    assert found.findings == []
    assert found.checkpoints
