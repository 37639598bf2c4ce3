"""Events of a producer's own Kafka go through the ingest at its site into the views."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from contracts.registry import TopicToCreate
from runtime.kafka import create_topics, producer_config
from tests.hub import Hub

pytestmark = pytest.mark.e2e

Make = Callable[..., dict[str, Any]]


def test_a_topic_of_the_producers_own_ends_in_the_views(hub: Hub, observation: Make, tmp_path: Path) -> None:
    source = hub.source()
    permit = hub.permit(source)
    topic = f"theirs-{secrets.token_hex(4)}"
    settings = hub.platform.settings()
    create_topics(settings, [TopicToCreate(name=topic, partitions=1, settings={})])
    producer = Producer(producer_config(settings))
    for number in range(20):
        producer.produce(topic, json.dumps(observation(source, f"s{number}", 1), indent=1))
    producer.produce(topic, json.dumps(observation(source, "s3", 1, value=61, correction=True)))
    for number in range(20):
        headers, data = binary(observation(source, f"b{number}", 1))
        producer.produce(topic, data, headers=headers)
    headers, _ = binary(observation(source, "b7", 1, type="observation.v1.deleted"))
    producer.produce(topic, None, headers=headers)
    producer.produce(topic, None)
    headers, data = binary(observation(hub.source(), "not mine", 1))
    producer.produce(topic, data, headers=headers)
    assert producer.flush(20) == 0

    account = tmp_path / "account.properties"
    account.write_text("".join(f"{name}={value}\n" for name, value in settings.kafka_config.items()))
    command = [sys.executable, "-m", "estuaire", "relay", topic, "--broker", settings.bootstrap_servers]
    command += ["--broker-config", str(account)]
    done = subprocess.run(
        [*command, "--source", source, "--once"],
        env={**os.environ, "ESTUAIRE_HOME": str(hub.platform.home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "relayed: 42 accepted, 1 refused, 1 tombstones passed over\n"), done
    (refused,) = hub.messages(f"{topic}-refused")
    assert (refused.key, json.loads(refused.value)["reason"]) == (b"0-43", "source-not-yours")
    with hub.producer(source) as client:
        assert client.wait_for_views(source)
    entries = hub.view(permit).entries()
    values = sorted(entry.data["record"]["valueQuantity"]["value"] for entry in entries)
    assert values == [61] + [72] * 38
    assert len({entry.subject for entry in entries}) == 1


def binary(event: dict[str, Any]) -> tuple[list[tuple[str, str | bytes | None]], bytes]:
    """An event in the binary content mode."""
    attributes = {name: value for name, value in event.items() if name not in ("data", "datacontenttype")}
    headers: list[tuple[str, str | bytes | None]] = [
        (f"ce_{name}", str(value).lower() if isinstance(value, bool) else str(value))
        for name, value in attributes.items()
    ]
    return [*headers, ("content-type", "application/json")], json.dumps(event["data"]).encode()
