"""How fast records go through all services, beside a plain pass-through of the same bytes on the same broker."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Consumer, Producer

from contracts.registry import TopicToCreate
from estuaire.demo import bundled_permits, grant
from estuaire.platform import PORTS, Platform
from estuaire.producer import Producer as Client
from estuaire.sample import sample
from runtime.kafka import consumer_config, create_topics, producer_config

BATCH = 500
TICKS = os.sysconf("SC_CLK_TCK")


def main(home: Path, port: int, events: int = 20_000) -> dict[str, Any]:
    """Events per second through the hub with its two permits open, and through the pass-through, in one run."""
    with Platform(home, port, report=lambda _line: None, trace_ratio=0.0) as platform:
        grant(platform, bundled_permits())
        sources = sorted({one.source for one in sample()})
        platform.keyring.ensure_producers(sources)
        run = f"bench-{time.time_ns()}"
        send(platform, sources, 2_000, f"{run}-warm")
        before = {name: _cpu_seconds(platform, name) for name in PORTS}
        seconds, size = send(platform, sources, events, run)
        cpu = {name: round((_cpu_seconds(platform, name) - before[name]) * 1e6 / events, 1) for name in PORTS}
        passthrough = passthrough_rate(platform, events, size)
    rate = events / seconds
    return {
        "records_per_second": round(rate),
        "passthrough_per_second": round(passthrough),
        "ratio": round(rate / passthrough, 3),
        "cpu_us_per_record": cpu,
    }


def send(platform: Platform, sources: list[str], count: int, name: str) -> tuple[float, int]:
    """Seconds until all of `count` events are in the views, and the mean size of an event in bytes."""
    chunks = {source: list(islice(lines(source, name), count // len(sources))) for source in sources}
    size = sum(len(line) for chunk in chunks.values() for line in chunk) // max(1, sum(map(len, chunks.values())))
    clients = {source: Client(platform.ingest_url, platform.keyring.producer_token(source)) for source in sources}
    begun = time.monotonic()

    def stream(source: str) -> None:
        for answer in clients[source].send(chunks[source], BATCH):
            if answer.rejected:
                raise RuntimeError(f"{len(answer.rejected)} events refused: {answer.rejected[0]['reason']}")
        if not clients[source].wait_for_views(source):
            raise RuntimeError("not in the views after two minutes")

    with ThreadPoolExecutor(len(sources)) as pool:
        list(pool.map(stream, sources))
    return time.monotonic() - begun, size


def lines(source: str, name: str) -> Iterator[bytes]:
    """The sample's plain events of a source, over and over, each time with ids of their own."""
    seen: dict[str, dict[str, Any]] = {}
    for one in sample():
        plain = one.accepted and not one.event.get("correction") and not str(one.event["type"]).endswith(".deleted")
        if one.source == source and plain:
            seen.setdefault(str(one.event["id"]), one.event)
    turn = 0
    while True:
        for record_id, event in seen.items():
            yield msgspec.json.encode({**event, "id": f"{name}-{turn}-{record_id}"})
        turn += 1


def passthrough_rate(platform: Platform, count: int, size: int) -> float:
    """Messages per second of a producer and a consumer that pass the same number of bytes on, and do nothing else."""
    settings = platform.settings()
    topic = f"bench-{os.getpid()}-{time.time_ns()}"
    create_topics(settings, [TopicToCreate(name=topic, partitions=settings.hot_partitions, settings={})])
    producer = Producer(producer_config(settings))
    consumer = Consumer(consumer_config(settings, topic))
    consumer.subscribe([topic])
    body = os.urandom(size)
    begun = time.monotonic()
    for number in range(count):
        producer.produce(topic, body, str(number).encode())
        if not number % 1000:
            producer.poll(0)
    producer.flush(60)
    received = 0
    while received < count and time.monotonic() < begun + 120:
        received += len(consumer.consume(1000, 0.2))
    consumer.close()
    return received / (time.monotonic() - begun)


def _cpu_seconds(platform: Platform, name: str) -> float:
    process = platform.services[name].process
    if process is None:
        return 0.0
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
