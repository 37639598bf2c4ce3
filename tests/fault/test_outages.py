"""The loop while its broker is away, and after its process was suspended amid a transaction."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts.registry import topics_to_create
from estuaire.broker import start_broker
from estuaire.process import free_port
from runtime.kafka import create_topics
from tests.integration.looping import IN, OUT, Copy, receive, running, send, settings_for, until, values_by_partition

pytestmark = pytest.mark.fault

AWAY_SECONDS = float(os.environ.get("ESTUAIRE_FAULT_AWAY", "18"))
"""Longer than a message may take to be delivered (14 s), so that the producer is made anew."""


def test_a_broker_that_was_away_is_taken_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    port = free_port()
    broker = start_broker(tmp_path, port, lambda _line: None)
    settings = settings_for(broker.bootstrap_servers, "away-", batch_size=20)
    create_topics(settings, topics_to_create(2, "away-"))
    send(settings, [b"%d" % number for number in range(2000)])
    try:
        with running(settings, Copy()) as loop:
            receive(settings, OUT, lambda found: len(found) > 100)
            broker.kill()
            came_back = time.monotonic() + AWAY_SECONDS
            until(lambda: time.monotonic() > came_back, AWAY_SECONDS + 5)
            broker = start_broker(tmp_path, port, lambda _line: None)
            copies = receive(settings, OUT, lambda found: len(found) >= 2000)
            until(lambda: loop.readiness() is None)
            assert values_by_partition(copies) == values_by_partition(
                receive(settings, IN, lambda found: len(found) >= 2000)
            )
            broker.kill()
            begun = time.monotonic()
            loop.stop()
            until(lambda: loop.readiness() == "not running")
            assert time.monotonic() - begun < 3
    finally:
        broker.kill()


@pytest.mark.long
@pytest.mark.parametrize("with_store", [False, True], ids=["broker", "broker and database"])
def test_a_process_suspended_amid_a_transaction_goes_on(
    broker: str, topics: str, database: Callable[[], str], tmp_path: Path, with_store: bool
) -> None:
    settings = settings_for(broker, topics)
    send(settings, [b"%d" % number for number in range(200)])
    held = tmp_path / "held"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.looping"],
        env=os.environ
        | {
            "KAFKA_BOOTSTRAP_SERVERS": broker,
            "ESTUAIRE_TOPIC_PREFIX": topics,
            "ESTUAIRE_BATCH_SIZE": "20",
            "ESTUAIRE_KAFKA_CONFIG": json.dumps(
                {"transaction.timeout.ms": 2000, "delivery.timeout.ms": 2000, "socket.timeout.ms": 1500}
            ),
            "LOOPING_END": "suspended amid the outputs",
            "LOOPING_BATCHES": "30",
            "LOOPING_HOLD_FILE": str(held),
            "LOOPING_DATABASE": database() if with_store else "",
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(held.exists, 30)
        gone = time.monotonic() + 14
        until(lambda: time.monotonic() > gone)
        process.send_signal(signal.SIGCONT)
        copies = receive(settings, OUT, lambda found: len(found) >= 200)
        assert values_by_partition(copies) == values_by_partition(
            receive(settings, IN, lambda found: len(found) >= 200)
        )
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        print(process.communicate()[1])  # noqa: T201
