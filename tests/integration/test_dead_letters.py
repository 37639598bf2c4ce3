"""What a service could not process: seen, sent round again once, by whoever may."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from fastapi.testclient import TestClient
from prometheus_client import REGISTRY

from contracts.audit import replayed
from contracts.messages import AuditLeaf, restored
from estuaire.topics import read
from runtime.dead_letter_routes import add_dead_letter_routes
from runtime.dead_letters import DeadLetters
from runtime.http import create_app
from runtime.kafka import consumer_config, producer_config
from runtime.loop import message_from
from runtime.messages import Message
from runtime.settings import RuntimeSettings
from tests.integration.looping import until

pytestmark = pytest.mark.integration

LANES = ("permits", "records-received", "records-received-backfill")
DEAD = "records-received-dlq"


def counted(reason: str) -> float | None:
    """How many wait, as the metric has it."""
    labels = {"step": "pseudonym", "topic": DEAD, "reason": reason}
    return REGISTRY.get_sample_value("estuaire_dead_letters_waiting", labels)


class Desk:
    """A service's dead letters, and what is asked of them over HTTP."""

    def __init__(self, broker: str, prefix: str) -> None:
        self.settings = RuntimeSettings(bootstrap_servers=broker, topic_prefix=prefix)
        self._producer = Producer(producer_config(self.settings))
        self.letters = DeadLetters("pseudonym", self.settings, LANES, restored, replayed)
        app = create_app("A", "B", lambda: None)
        add_dead_letter_routes(app, self.letters, lambda _authorization: "ada")
        self.http = TestClient(app)

    def write(
        self,
        number: int,
        step: str = "pseudonym",
        lane: str = "records-received",
        topic: str = DEAD,
        offset: int | None = None,
    ) -> None:
        headers = {
            "ce_id": f"{number:032x}",
            "ce_source": "urn:chu",
            "ce_type": "claim.v1",
            "revision": "0" if number != 4 else "eleven",
            "dlq_step": step,
            "dlq_reason": "schema" if number % 2 else "keys",
            "dlq_detail": "header digest is missing",
            "dlq_topic": lane,
            "dlq_partition": "1" if lane.startswith("records") else "0",
            "dlq_offset": str(number if offset is None else offset),
            "dlq_timestamp": "1790000000000",
            **({"traceparent": f"00-{number:032x}-{1:016x}-01"} if number else {}),
        }
        encoded: list[tuple[str, str | bytes | None]] = [(name, text.encode()) for name, text in headers.items()]
        self._producer.produce(
            self.settings.topic_prefix + topic, b"sealed", f"{number:032x}".encode(), headers=encoded
        )
        assert self._producer.flush(20) == 0

    def written(self, topic: str) -> list[Message]:
        return [message_from(one) for one in read(self.settings, self.settings.topic_prefix + topic)]

    def shown(self, **params: str) -> dict[str, Any]:
        answer = self.http.get("/v1/dead-letters", params=params)
        assert answer.status_code == httpx.codes.OK
        found: dict[str, Any] = answer.json()
        return found

    def replay(self, most: int, topic: str = DEAD) -> httpx.Response:
        answer: httpx.Response = self.http.post("/v1/dead-letters/replay", json={"topic": topic, "most": most})
        return answer

    def became(self, sent_to: list[dict[str, Any]]) -> dict[str, Any]:
        answer = self.http.post("/v1/dead-letters/became", json={"sent_to": sent_to})
        assert answer.status_code == httpx.codes.OK
        found: dict[str, Any] = answer.json()
        return found


@contextmanager
def following(desk: Desk) -> Iterator[Desk]:
    thread = threading.Thread(target=desk.letters.run)
    thread.start()
    try:
        yield desk
    finally:
        desk.letters.stop()
        thread.join(20)


def test_letters_are_counted_by_reason_and_each_goes_round_again_once(broker: str, topics: str) -> None:
    with following(Desk(broker, topics)) as desk:
        for number in range(5):
            desk.write(number, lane="records-received-backfill" if number == 0 else "records-received")
        until(lambda: desk.shown()["waiting"] == 5, 30)
        until(lambda: (counted("keys"), counted("schema"), counted("conflict")) == (3, 2, 0), 30)
        shown = desk.shown()
        assert shown["topics"] == ["permits-dlq", DEAD]
        assert [(one["reason"], one["source"], one["count"]) for one in shown["groups"]] == [
            ("keys", "urn:chu", 3),
            ("schema", "urn:chu", 2),
        ]
        (letter,) = desk.shown(reason="schema", limit="1")["letters"]
        assert (letter["event_id"], letter["detail"]) == (f"{3:032x}", "header digest is missing")
        assert [one["trace"] for one in desk.shown()["letters"]][-2:] == [f"{1:032x}", ""]
        assert len(desk.shown(event_id=f"{2:032x}")["letters"]) == 1
        assert "sealed" not in str(desk.shown())

        assert desk.replay(2).json() == {
            "topic": DEAD,
            "replayed": 2,
            "sent_to": [
                {"topic": "records-received", "partition": 1, "offsets": [0]},
                {"topic": "records-received-backfill", "partition": 1, "offsets": [0]},
            ],
        }
        assert desk.shown()["waiting"] == 3
        (old,) = desk.written("records-received-backfill")
        (again,) = desk.written("records-received")
        assert (old.value, old.key, again.key) == (b"sealed", f"{0:032x}".encode(), f"{1:032x}".encode())
        assert again.partition == 1, "where it was"
        assert again.headers == {
            "ce_id": f"{1:032x}".encode(),
            "ce_source": b"urn:chu",
            "ce_type": b"claim.v1",
            "revision": b"0000000000-1790000000000-000000000001",
            "traceparent": f"00-{1:032x}-{1:016x}-01".encode(),
        }
        assert desk.replay(1000).json()["replayed"] == 3
        assert desk.replay(1000).json()["replayed"] == 0
        assert len(desk.written("records-received")) == 4
        assert desk.written("records-received")[-1].headers["revision"] == b"eleven", (
            "it is wrong again, and blocks none"
        )
        leaves = [msgspec.msgpack.decode(one.value, type=AuditLeaf) for one in desk.written("audit")]
        assert [(one.actor, one.about, one.count) for one in leaves] == [
            ("operator:ada", DEAD, 2),
            ("operator:ada", DEAD, 3),
        ]


def test_it_is_told_what_became_of_those_that_were_sent_round(broker: str, topics: str) -> None:
    with following(Desk(broker, topics)) as desk:
        for number in range(4):
            desk.write(number, offset=1000 + number)
        sent = desk.replay(1000).json()["sent_to"]
        assert desk.became(sent) == {"taken": 0, "died": {}, "unknown": 4}, "the step has not come to them"
        (places,) = sent
        desk.write(5, offset=places["offsets"][2])
        step = Consumer(consumer_config(desk.settings, f"{topics}pseudonym"))
        place = TopicPartition(f"{topics}records-received", places["partition"], places["offsets"][2] + 1)
        step.commit(offsets=[place], asynchronous=False)
        step.close()
        assert desk.became(sent) == {"taken": 2, "died": {"schema": 1}, "unknown": 1}
        assert desk.became([]) == {"taken": 0, "died": {}, "unknown": 0}
        other = desk.http.post("/v1/dead-letters/became", json={"sent_to": [places | {"topic": "audit"}]})
        assert other.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    later = Desk(broker, topics)
    later.letters.ANSWER_SECONDS = 0.5  # type: ignore[misc]
    assert later.became(sent) == {"taken": 0, "died": {}, "unknown": 4}, "nobody says before the letters are read"


def test_who_starts_later_knows_what_was_sent_round(broker: str, topics: str) -> None:
    desk = Desk(broker, topics)
    for number in range(3):
        desk.write(number)
    assert desk.replay(2).json()["replayed"] == 2, "nobody has to have followed them"
    with following(Desk(broker, topics)) as later:
        until(lambda: later.shown()["waiting"] == 1, 30)


def test_a_topic_with_two_readers_has_letters_of_each(broker: str, topics: str) -> None:
    with following(Desk(broker, topics)) as desk:
        desk.write(1, "access", "permits", "permits-dlq")
        desk.write(2, "pseudonym", "permits", "permits-dlq")
        until(lambda: desk.shown()["waiting"] == 1, 30)
        assert desk.replay(10, "permits-dlq").json()["replayed"] == 1
        (again,) = desk.written("permits")
        assert again.key == f"{2:032x}".encode()


def test_what_is_asked_wrongly_is_told(broker: str, topics: str) -> None:
    desk = Desk(broker, topics)
    assert "the topics are permits-dlq, records-received-dlq" in desk.replay(1, "view-x").json()["detail"]
    assert desk.replay(1001).status_code == httpx.codes.UNPROCESSABLE_ENTITY
    away = Desk("127.0.0.1:1", topics)
    away.letters.PATIENCE_SECONDS = 1.0  # type: ignore[misc]
    answer = away.replay(1)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_two_processes_that_replay_send_each_letter_once(broker: str, topics: str) -> None:
    one, other = Desk(broker, topics), Desk(broker, topics)
    for number in range(200):
        one.write(number)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(desk.replay, 1000) for desk in (one, other)]
    sent = [answer.result() for answer in answers]
    assert {answer.status_code for answer in sent} <= {200, 503}
    one.replay(1000)
    keys = [message.key for message in one.written("records-received")]
    assert len(keys) == len(set(keys)) == 200
    leaves = [msgspec.msgpack.decode(message.value, type=AuditLeaf) for message in one.written("audit")]
    assert sum(leaf.count for leaf in leaves) == 200


def test_nobody_replays_while_somebody_does(broker: str, topics: str) -> None:
    desk = Desk(broker, topics)
    with desk.letters._replaying:
        assert desk.replay(1).status_code == httpx.codes.CONFLICT
