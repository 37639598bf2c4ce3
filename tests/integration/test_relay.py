"""A relay between a real broker and a hub that is busy or away, and relays that die: nothing is lost, order is kept."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from contracts.registry import TopicToCreate
from estuaire import relay as relaying
from estuaire.client import SendError
from estuaire.process import free_port
from estuaire.relay import REFUSED, Relay, Relayed, RelayError, Theirs
from runtime.kafka import create_topics, producer_config
from runtime.settings import RuntimeSettings
from tests.integration.looping import until

pytestmark = pytest.mark.integration

SECRET = "KERGUELEN-DE-TREMAREC"


class Hub:
    """An ingest that refuses what is bad, over real HTTP; `busy` answers to give first, `slow` seconds for each.

    While it is `dying`, it reads requests, and neither keeps nor answers them.
    """

    def __init__(self) -> None:
        self.requests: list[list[dict[str, Any]]] = []
        self.busy: list[int] = []
        self.slow = 0.0
        self.dying = False
        self.asked = 0
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                hub.asked += 1
                time.sleep(hub.slow)
                if hub.dying:
                    self.close_connection = True
                    return
                status, answer = hub.answer(body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, body: bytes) -> tuple[int, dict[str, Any]]:
        if self.busy:
            return self.busy.pop(0), {"title": "busy", "detail": "Wait."}
        events = [json.loads(line) or {"reason": "bad-value"} for line in body.split(b"\n")]
        self.requests.append(events)
        rejected = [
            {"index": at, "reason": one["reason"], "detail": "d"} for at, one in enumerate(events) if "reason" in one
        ]
        accepted = [{"source": "s", "id": one["id"], "event_id": "e"} for one in events if "reason" not in one]
        return (202 if accepted else 422), {"accepted": accepted, "rejected": rejected}

    def received(self) -> list[dict[str, Any]]:
        return [one for request in list(self.requests) for one in request]


class Topic:
    """One of the producer's own topics."""

    def __init__(self, broker: str, partitions: int = 2) -> None:
        self.broker = broker
        self.settings = RuntimeSettings(bootstrap_servers=broker)
        self.name = f"theirs-{secrets.token_hex(4)}"
        create_topics(self.settings, [TopicToCreate(name=self.name, partitions=partitions, settings={})])

    def theirs(self, config: Mapping[str, str] | None = None) -> Theirs:
        return Theirs(self.broker, self.name, f"relay-{self.name}", config or {"session.timeout.ms": "6000"})

    def write(self, values: Sequence[dict[str, Any] | bytes | None], partition: int = 0) -> None:
        producer = Producer(producer_config(self.settings))
        for value in values:
            raw = json.dumps(value).encode() if isinstance(value, dict) else value
            producer.produce(self.name, raw, partition=partition)
        assert producer.flush(20) == 0

    def read(self, name: str) -> list[bytes]:
        """All values of a topic of one partition."""
        consumer = Consumer({"bootstrap.servers": self.broker, "group.id": "check", "enable.partition.eof": True})
        consumer.assign([TopicPartition(name, 0, 0)])
        found: list[bytes] = []
        while True:
            message = consumer.poll(5)
            assert message is not None
            if message.error():
                consumer.close()
                return found
            found.append(message.value() or b"")

    def refused(self) -> list[dict[str, Any]]:
        return [json.loads(value) for value in self.read(self.name + REFUSED)]

    def committed(self, partitions: int = 2) -> list[int]:
        consumer = Consumer({"bootstrap.servers": self.broker, "group.id": f"relay-{self.name}"})
        places = consumer.committed([TopicPartition(self.name, number) for number in range(partitions)], timeout=10)
        consumer.close()
        return [one.offset for one in places]


@pytest.fixture
def hub() -> Iterator[Hub]:
    one = Hub()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture
def topic(broker: str) -> Topic:
    return Topic(broker)


@pytest.fixture
def start(topic: Topic, hub: Hub, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts relay processes; ends those that are left."""
    config = tmp_path / "broker.properties"
    config.write_text("session.timeout.ms=6000\n")
    with ExitStack() as stack:

        def launch() -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "estuaire", "relay", topic.name, "--broker", topic.broker]
            command += ["--source", "s", "--url", hub.url, "--group", f"relay-{topic.name}"]
            command += ["--broker-config", str(config)]
            process = subprocess.Popen(
                command,
                env={**os.environ, "ESTUAIRE_TOKEN": "t"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield launch


def once(topic: Topic, hub: Hub) -> Relayed:
    return Relay(topic.theirs(), hub.url, "t", lambda _line: None).run(once=True)


def numbered(count: int, first: int = 0, lane: str = "a") -> list[dict[str, Any] | bytes | None]:
    return [{"id": f"{lane}{number}"} for number in range(first, first + count)]


def in_order(hub: Hub, lane: str) -> list[int]:
    """The numbers of one partition's events as they came for the first time."""
    return list(dict.fromkeys(int(one["id"][1:]) for one in hub.received() if one["id"][0] == lane))


def test_once_ends_where_the_topic_ended_and_goes_on_there(topic: Topic, hub: Hub) -> None:
    topic.write(numbered(1200), 0)
    topic.write([*numbered(5, lane="b"), None, None], 1)
    assert once(topic, hub) == Relayed(1205, 0, 2)
    assert topic.committed() == [1200, 7]
    topic.write(numbered(3, 1200), 0)
    assert once(topic, hub) == Relayed(3)
    assert once(topic, hub) == Relayed()
    assert in_order(hub, "a") == list(range(1203))


def test_what_comes_after_the_end_is_left(topic: Topic, hub: Hub) -> None:
    topic.write(numbered(10), 0)
    hub.slow = 1.0
    relay = Relay(topic.theirs(), hub.url, "t", lambda _line: None)
    thread = threading.Thread(target=relay.run, kwargs={"once": True})
    thread.start()
    until(lambda: hub.asked)
    topic.write(numbered(10, 10), 0)
    thread.join(20)
    assert relay.relayed == Relayed(10)
    assert topic.committed() == [10, -1001]


def test_what_is_refused_is_listed_by_its_place_and_never_its_content(topic: Topic, hub: Hub) -> None:
    bad = {"id": SECRET, "reason": "missing-field"}
    topic.write([{"id": "a0"}, bad, b"", {"id": "a1"}], 0)
    assert once(topic, hub) == Relayed(2, 2)
    assert topic.refused() == [
        {"partition": 0, "offset": 1, "reason": "missing-field", "detail": "d"},
        {"partition": 0, "offset": 2, "reason": "bad-value", "detail": "d"},
    ]
    assert SECRET.encode() not in b"".join(topic.read(topic.name + REFUSED))


@pytest.mark.long
def test_a_busy_hub_is_waited_for_in_the_group(topic: Topic, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for longer than a member of the group may take between two batches."""
    monkeypatch.setattr(relaying, "TOLD_AFTER_SECONDS", 1.0)
    topic.write(numbered(700), 0)
    topic.write(numbered(700, lane="b"), 1)
    hub.busy = [503, 429] * 5
    said: list[str] = []
    config = {"max.poll.interval.ms": "6000", "session.timeout.ms": "6000"}
    relay = Relay(topic.theirs(config), hub.url, "t", said.append)
    begun = time.monotonic()
    assert relay.run(once=True) == Relayed(1400)
    assert time.monotonic() - begun > 10
    assert len(hub.received()) == 1400, "nothing is sent twice, so the group was never left"
    assert said[1:] == ["the hub is busy or away; waiting", "going on"]
    assert in_order(hub, "a") == in_order(hub, "b") == list(range(700))


def test_a_hub_that_is_away_is_waited_for_and_stopping_does_not_wait(topic: Topic, hub: Hub) -> None:
    topic.write(numbered(10), 0)
    relay = Relay(topic.theirs(), f"http://127.0.0.1:{free_port()}", "t", lambda _line: None)
    thread = threading.Thread(target=relay.run)
    thread.start()
    until(lambda: relay._waiting_since is not None)
    relay.stop()
    thread.join(5)
    assert not thread.is_alive()
    assert topic.committed() == [-1001, -1001]
    assert once(topic, hub) == Relayed(10)


def test_killed_in_the_middle_and_started_again_nothing_is_lost(
    topic: Topic, hub: Hub, start: Callable[[], subprocess.Popen[str]]
) -> None:
    count = 4000
    events: list[dict[str, Any] | bytes | None] = [
        {"id": f"a{number}", **({"reason": "bad"} if number % 100 == 7 else {})} for number in range(count)
    ]
    topic.write(events, 0)
    topic.write(numbered(count, lane="b"), 1)
    hub.slow = 0.2
    for kills in range(1, 4):
        process = start()
        enough = hub.asked + 2
        until(lambda enough=enough: hub.asked >= enough)  # type: ignore[misc]
        hub.dying = kills != 2
        time.sleep(0.05 * kills)  # in a request that is kept, in one that is not, between it and the commit
        process.kill()
        process.wait(10)
        time.sleep(0.3)
        hub.dying = False
    hub.slow = 0.0
    process = start()
    until(lambda: topic.committed() == [count, count], seconds=60)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "relayed: " in output
    assert in_order(hub, "a") == in_order(hub, "b") == list(range(count))
    assert {one["offset"] for one in topic.refused()} == {number for number in range(count) if number % 100 == 7}


def test_what_is_refused_is_written_down_before_it_is_passed_over(
    topic: Topic, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(Exception):
        pass

    def die(*_: object) -> None:
        raise Died

    topic.write([{"id": "a0", "reason": "bad"}], 0)
    relay = Relay(topic.theirs(), hub.url, "t", lambda _line: None)
    monkeypatch.setattr(relay, "_write_down", die)
    with pytest.raises(Died):
        relay.run(once=True)
    assert topic.committed() == [-1001, -1001]
    assert once(topic, hub) == Relayed(0, 1)
    assert len(topic.refused()) == 1


def test_what_is_sent_again_is_sent_in_order(topic: Topic, hub: Hub) -> None:
    """Whatever was sent after an event the first time is sent after it the second time, too: the last state wins."""
    topic.write(numbered(50), 0)
    relay = Relay(topic.theirs(), hub.url, "t", lambda _line: None)
    relay._commit = lambda: relay.stop()  # type: ignore[method-assign]
    relay.run()
    once(topic, hub)
    assert [int(one["id"][1:]) for one in hub.received()] == [*range(50), *range(50)]


def test_two_relays_share_a_topic_and_one_takes_over_from_the_other(
    topic: Topic, hub: Hub, start: Callable[[], subprocess.Popen[str]]
) -> None:
    topic.write(numbered(3000), 0)
    topic.write(numbered(3000, lane="b"), 1)
    hub.slow = 0.1
    first = start()
    until(lambda: hub.asked > 2)
    start()
    time.sleep(2)
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=20)
    assert first.returncode == 0
    until(lambda: topic.committed() == [3000, 3000], seconds=60)
    assert in_order(hub, "a") == in_order(hub, "b") == list(range(3000))


def test_a_wrong_source_stops_the_relay_before_it_drains_the_topic(topic: Topic, hub: Hub) -> None:
    topic.write([{"id": f"a{number}", "reason": "source-not-yours"} for number in range(300)], 0)
    with pytest.raises(SendError, match="have another source than the token is for"):
        once(topic, hub)
    assert topic.committed() == [-1001, -1001]


def test_what_cannot_be_read_is_named(broker: str, topic: Topic, hub: Hub) -> None:
    for theirs, words in (
        (Theirs(broker, "no-such-topic", "g", {}), "there is no topic no-such-topic"),
        (Theirs(f"127.0.0.1:{free_port()}", "t", "g", {"socket.timeout.ms": "1000"}), "the broker of t: "),
    ):
        with pytest.raises(RelayError, match=words):
            Relay(theirs, hub.url, "t", lambda _line: None).run(once=True)


def test_the_topic_of_refusals_is_made(topic: Topic, hub: Hub) -> None:
    once(topic, hub)
    names = AdminClient({"bootstrap.servers": topic.broker}).list_topics(timeout=10).topics
    assert topic.name + REFUSED in names


def test_a_password_is_never_said(topic: Topic, tmp_path: Path) -> None:
    """The broker here takes no SASL, so that the client complains of it in every way it can."""
    config = tmp_path / "broker.properties"
    settings = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "relay-of-b"}
    lines = [f"{name}={value}\n" for name, value in (settings | {"sasl.password": SECRET}).items()]
    config.write_text("".join([*lines, "socket.timeout.ms=2000\n"]))
    command = [sys.executable, "-m", "estuaire", "relay", topic.name, "--broker", topic.broker, "--source", "s"]
    done = subprocess.run(
        [*command, "--broker-config", str(config)],
        env={**os.environ, "ESTUAIRE_TOKEN": "t"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"error: the broker of {topic.name}: " in done.stderr
    assert SECRET not in done.stdout + done.stderr
