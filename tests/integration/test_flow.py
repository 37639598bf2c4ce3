"""The flow's workers on a real broker: whatever is killed, started and moved, the tables are a plain recount.

`ESTUAIRE_FLOW_SUMMARIES` and `ESTUAIRE_FLOW_TURNS` make the load longer (`make flow`).
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from contracts.messages import FlowWindow, Measures, encode, measures_associated
from runtime.kafka import common, consumer_config, producer_config
from runtime.keys import write_key
from runtime.messages import FlowSummary
from runtime.sealing import Opener, Sealer
from runtime.settings import RuntimeSettings
from services.statistics.domain.windows import period_of
from services.statistics.handlers import Opening
from services.statistics.published import GROUP, Published, WindowsReader
from services.statistics.worker import FlowWorker
from tests.hub import meanwhile
from tests.integration.looping import settings_for, until

pytestmark = pytest.mark.integration

PRIVATE = X25519PrivateKey.generate()
SEALER = Sealer(PRIVATE.public_key())
PRIVATE_OPENER = Opener([PRIVATE])
SUMMARIES = int(os.environ.get("ESTUAIRE_FLOW_SUMMARIES", "2000"))
TURNS = int(os.environ.get("ESTUAIRE_FLOW_TURNS", "1"))
STEPS = ("pseudonym", "linkage", "access")
TYPES = ("claim.v1", "observation.v1", "hospital-stay.v1.deleted", "horoscope.v1")
PARTITIONS = 4


@pytest.fixture
def settings(broker: str, topics: str) -> RuntimeSettings:
    return settings_for(broker, topics)


class Process:
    """One worker's process."""

    def __init__(self, settings: RuntimeSettings, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        if not (folder / "statistics-private.json").exists():
            write_key(folder, "statistics-private", {1: PRIVATE.private_bytes_raw()})
        self.log = (folder / f"{self._port}.log").open("wb")
        environment = {
            **os.environ,
            "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
            "ESTUAIRE_TOPIC_PREFIX": settings.topic_prefix,
            "ESTUAIRE_STATISTICS_KEYS": str(folder),
            "ESTUAIRE_PORT": str(self._port),
        }
        command = [sys.executable, "-m", "services.statistics.flow"]
        self.process = subprocess.Popen(command, env=environment, stderr=self.log, stdout=self.log)

    def ready(self) -> bool:
        """Whether it counts."""
        assert self.process.poll() is None, "the worker has ended"
        try:
            return httpx.get(f"http://127.0.0.1:{self._port}/readyz", timeout=2).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def says(self) -> str:
        """Why it does not count, if it says so."""
        try:
            return httpx.get(f"http://127.0.0.1:{self._port}/readyz", timeout=2).text
        except httpx.TransportError:
            return ""

    def end(self, how: signal.Signals) -> None:
        """End it, by this signal."""
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(40)
        self.log.close()


@contextmanager
def workers(settings: RuntimeSettings, folder: Path) -> Iterator[Any]:
    """Makes workers; those that are left are stopped at the end."""
    started: list[Process] = []

    def start() -> Process:
        started.append(Process(settings, folder))
        return started[-1]

    try:
        yield start
    finally:
        for one in started:
            one.end(signal.SIGKILL)


class Load:
    """Summaries as steps and ingest write them: in transactions, some of which come to nothing, and some messages of
    ingest twice."""

    def __init__(self, settings: RuntimeSettings, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._topic = f"{settings.topic_prefix}flow-summaries"
        self._settings = settings
        self._steps = self._transactional()
        self._ingest = Producer(producer_config(settings))
        self._number = 0
        self._begun = time.time()

    def send(self, count: int, seconds: float = 0.0) -> None:
        """Send about so many, over about so long."""
        pace = threading.Event()
        for _ in range(count // 10):
            self._transaction()
            if self._random.random() < 0.5:
                self._measured()
            pace.wait(seconds / (count // 10))
        assert self._ingest.flush(30) == 0

    def go_on(self, stop: threading.Event) -> None:
        """Send until told to stop."""
        while not stop.is_set():
            self.send(20, 0.2)

    def _transactional(self) -> Producer:
        producer = Producer(
            producer_config(self._settings, f"{self._settings.topic_prefix}load-{secrets.token_hex(4)}")
        )
        producer.init_transactions(20)
        return producer

    def _transaction(self) -> None:
        """One that is committed or comes to nothing. Where the broker does not say which, a step begins anew, too."""
        try:
            self._transact()
        except KafkaException as error:
            assert error.args[0].fatal() or error.args[0].retriable(), error
            self._steps = self._transactional()

    def _transact(self) -> None:
        self._steps.begin_transaction()
        for _ in range(10):
            step, slot = self._random.choice(STEPS), self._random.randrange(3)
            self._steps.produce(self._topic, encode(self._summary(step, slot)), f"{step}-{slot}".encode())
        if self._random.random() < 0.1:
            self._steps.abort_transaction(20)
        else:
            self._steps.commit_transaction(20)

    def _summary(self, step: str, slot: int) -> FlowSummary:
        at = int((time.time() - self._random.choice((0, 0, 0, 30, 700, 72_000))) * 1000)
        counts: dict[str, dict[str, int]] = {}
        types: dict[str, dict[str, int]] = {}
        ages: dict[str, tuple[int, int, int]] = {}
        for number in self._random.sample(range(4), 2):
            source, records = f"urn:{number}", self._random.randint(1, 50)
            counts[source] = {"done": records, "dead_lettered:conflict": 1}
            types[source] = {self._random.choice(TYPES): records}
            ages[source] = (records, records * 100, self._random.randint(100, 100 * records))
        waiting = ((f"{step}-in", slot, self._random.randrange(1000)),)
        return FlowSummary(step, slot, at, (), counts, (), 0.1, b"", types, ages, waiting)

    def measure(self, count: int) -> None:
        """Send so many messages of measures, of four events each."""
        for _ in range(count):
            self._measured()
        assert self._ingest.flush(30) == 0

    def _measured(self) -> None:
        self._number += 1
        at = int(time.time() * 1000)
        measures = Measures(b"writer", self._number, {"urn:0": {"claim.v1": {"records": 3, "refused.bad-value": 1}}})
        summary = FlowSummary("ingest", 0, at, (), measures=SEALER.seal(encode(measures), measures_associated(at)))
        for _ in range(self._random.choice((1, 1, 2))):
            self._ingest.produce(self._topic, encode(summary), b"ingest-0")

    def leave_marks(self) -> None:
        """End every partition in messages that nobody gets, and marks of transactions."""
        for _ in range(2):
            self._steps.begin_transaction()
            for number in range(PARTITIONS):
                self._steps.produce(self._topic, encode(self._summary("access", 0)), partition=number)
            assert self._steps.flush(20) == 0
            self._steps.abort_transaction(20)


def everything(settings: RuntimeSettings, topic: str) -> list[Any]:
    """Every committed message of a topic, now."""
    consumer = Consumer(consumer_config(settings, f"{settings.topic_prefix}recount") | {"enable.partition.eof": True})
    found: list[Any] = []
    at_end: set[int | None] = set()
    consumer.assign([TopicPartition(settings.topic_prefix + topic, number, 0) for number in range(PARTITIONS)])
    try:
        while len(at_end) < PARTITIONS:
            for one in consumer.consume(1000, 1):
                if (error := one.error()) is None:
                    found.append(one)
                elif error.code() == KafkaError._PARTITION_EOF:
                    at_end.add(one.partition())
        return found
    finally:
        consumer.close()


Tables = dict[tuple[int, int, str, str], dict[str, Any]]


def recount(settings: RuntimeSettings) -> Tables:
    """The tables as flow-summaries have them, counted plainly: no state, no offsets, all of it at once."""
    tables: Tables = defaultdict(lambda: {"types": Counter(), "verdicts": Counter(), "ages": (0, 0, 0)})
    newest: dict[tuple[Any, ...], tuple[int, int]] = {}
    counted = 0
    for raw in everything(settings, "flow-summaries"):
        summary = msgspec.msgpack.decode(raw.value(), type=FlowSummary)
        said = {source: (summary.counts[source], types) for source, types in summary.types.items()}
        if summary.step == "ingest":
            opened = PRIVATE_OPENER.open(summary.measures, measures_associated(summary.at))
            number = msgspec.msgpack.decode(opened, type=Measures).number
            if number <= counted:
                continue
            counted = number
            said = {"urn:0": ({"accepted": 3, "rejected": 1}, {"claim.v1": 4})}
        for seconds in (10, 3600):
            start = summary.at // 1000 // seconds * seconds
            if period_of(seconds, start, summary.step).until < time.time():
                continue
            for source, (verdicts, types) in said.items():
                one = tables[seconds, start, summary.step, source]
                one["verdicts"].update(verdicts)
                for kind, count in types.items():
                    known = "other" if kind == "horoscope.v1" else kind.removesuffix(".deleted")
                    one["types"][known] += count
                if source in summary.ages:
                    count, total, most = one["ages"]
                    more = summary.ages[source]
                    one["ages"] = (count + more[0], total + more[1], max(most, more[2]))
            for topic, partition, left in summary.waiting:
                place = (seconds, start, summary.step, f"{topic}/{partition}")
                newest[place] = max(newest.get(place, (0, 0)), (summary.at, left))
    for (seconds, start, step, place), found in newest.items():
        tables[seconds, start, step, ""].setdefault("waiting", {})[place] = found
    return dict(tables)


def published(settings: RuntimeSettings) -> Tables:
    """The tables as the workers have written them: of each key the newest message, partitions added up."""
    newest = {raw.key(): raw.value() for raw in everything(settings, "flow-windows")}
    tables: Tables = defaultdict(lambda: {"types": Counter(), "verdicts": Counter(), "ages": (0, 0, 0)})
    for value in newest.values():
        if value is None:
            continue
        window = msgspec.msgpack.decode(value, type=FlowWindow)
        one = tables[window.seconds, window.start, window.step, window.source]
        one["types"].update(window.types)
        one["verdicts"].update(window.verdicts)
        count, total, most = one["ages"]
        one["ages"] = (count + window.ages[0], total + window.ages[1], max(most, window.ages[2]))
        for place, told in window.waiting.items():
            waiting = one.setdefault("waiting", {})
            waiting[place] = max(told, waiting.get(place, told))
    return dict(tables)


def agree(settings: RuntimeSettings) -> bool:
    """Whether the tables are the recount. What is not alike is shown when it stays so."""
    return recount(settings) == published(settings)


@contextmanager
def reader(settings: RuntimeSettings) -> Iterator[Published]:
    found = Published()
    one = WindowsReader(settings, found)
    thread = threading.Thread(target=one.run)
    thread.start()
    try:
        yield found
    finally:
        one.stop()
        thread.join()


def held(settings: RuntimeSettings) -> list[set[int]]:
    """The partitions of flow-summaries that each worker has, by the group's word."""
    group = f"{settings.topic_prefix}{GROUP}"
    admin = AdminClient(common(settings))
    members = admin.describe_consumer_groups([group], request_timeout=10)[group].result().members
    return [{one.partition for one in member.assignment.topic_partitions} for member in members]


def acknowledged(settings: RuntimeSettings) -> dict[int, int]:
    """From where in each partition one would read on who takes it over."""
    consumer = Consumer(consumer_config(settings, f"{settings.topic_prefix}{GROUP}"))
    topic = f"{settings.topic_prefix}flow-summaries"
    places = consumer.committed([TopicPartition(topic, number) for number in range(PARTITIONS)], timeout=10)
    consumer.close()
    return {one.partition: one.offset for one in places}


def until_more_is_counted(settings: RuntimeSettings) -> None:
    counted = published(settings)
    until(lambda: published(settings) != counted, 30)


def test_the_flow_is_counted_until_now_also_where_it_ends_in_what_was_aborted(
    settings: RuntimeSettings, tmp_path: Path
) -> None:
    load = Load(settings)
    with workers(settings, tmp_path) as start, reader(settings) as looking:
        until(start().ready, 60)
        load.send(40)
        load.leave_marks()
        sent = time.time()
        until(lambda: (looking.counted_until or 0) > sent, 60)
        assert published(settings) == recount(settings)
        load.send(900)  # each of its transactions leaves a mark in all partitions
        sent = time.time()
        until(lambda: (looking.counted_until or 0) > sent, 20)
        assert published(settings) == recount(settings)
        last: Counter[int] = Counter()
        for one in everything(settings, "flow-summaries"):
            last[one.partition()] = max(last[one.partition()], one.offset())
        until(lambda: all(offset > last[number] for number, offset in acknowledged(settings).items()), 10)


def test_what_was_read_and_is_not_acknowledged_is_read_again_from_the_first_one(settings: RuntimeSettings) -> None:
    """Also where nothing has ever been acknowledged, and what is read meanwhile."""
    seen: Counter[tuple[int, int]] = Counter()
    lives: list[tuple[Any, asyncio.AbstractEventLoop]] = []

    class Forgetful(FlowWorker):
        def application(self, folder: str) -> Any:
            lives.append((super().application(folder), asyncio.get_running_loop()))
            return lives[-1][0]

        async def _take(self, app: Any, stream: Any, events: Sequence[Any]) -> None:
            seen.update((one.message.partition, one.message.offset) for one in events)

    worker = Forgetful(settings, Opening(PRIVATE_OPENER), lambda _: True)
    load = Load(settings)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        until(lambda: worker.readiness() is None, 60)
        with meanwhile(load.go_on):
            until(lambda: len(seen) > 100, 60)
            for _ in range(3):
                first = Counter(seen)
                app, loop = lives[0]
                asyncio.run_coroutine_threadsafe(app.consumer.perform_seek(), loop).result(20)
                until(lambda first=first: all(seen[one] > first[one] for one in first), 30)  # type: ignore[misc]
        sent = {(one.partition(), one.offset()) for one in everything(settings, "flow-summaries")}
        until(lambda: seen.keys() == sent, 30)
    finally:
        worker.stop()
        thread.join()
    assert len(lives) == 1


def test_workers_killed_restarted_and_rebalanced_end_with_a_plain_recount(
    settings: RuntimeSettings, tmp_path: Path
) -> None:
    load = Load(settings)
    with workers(settings, tmp_path) as start:
        running = [start(), start()]
        until(lambda: all(one.ready() for one in running), 60)
        for turn in range(TURNS):
            sending = threading.Thread(target=load.send, args=(SUMMARIES // TURNS, 15))
            sending.start()
            running[0].end(signal.SIGKILL)  # its partitions go to the other one after the session's end
            running[0] = start()
            until(lambda: all(one.ready() for one in running), 60)
            running.append(start())  # partitions move to a third
            until(lambda: all(one.ready() for one in running), 60)
            running.pop(1).end(signal.SIGTERM)  # and from one that goes in peace
            sending.join()
            if turn % 2 == 0:  # one stands still until it is given up, and goes on
                until(lambda: len(held(settings)) == len(running), 30)
                with meanwhile(load.go_on):
                    until_more_is_counted(settings)
                    running[0].process.send_signal(signal.SIGSTOP)
                    until(lambda: held(settings) == [{*range(PARTITIONS)}], 60)  # all are the other one's
                    until_more_is_counted(settings)
                    running[0].process.send_signal(signal.SIGCONT)
                    until(lambda: len(held(settings)) == len(running), 60)
            until(lambda: all(one.ready() for one in running), 60)
        deadline = time.monotonic() + 60
        while not agree(settings) and time.monotonic() < deadline:
            threading.Event().wait(0.5)
        assert published(settings) == recount(settings)
        assert sum(sum(one["types"].values()) for one in recount(settings).values()) > SUMMARIES


def test_a_worker_without_the_key_stands_and_counts_once_it_has_it(settings: RuntimeSettings, tmp_path: Path) -> None:
    write_key(tmp_path, "statistics-private", {1: X25519PrivateKey.generate().private_bytes_raw()})
    load = Load(settings)
    load.measure(300)
    with workers(settings, tmp_path) as start:
        without = start()
        until(lambda: "statistics-private" in without.says(), 60)
        assert not without.ready()
        without.end(signal.SIGTERM)
        write_key(tmp_path, "statistics-private", {1: PRIVATE.private_bytes_raw()})
        until(start().ready, 60)
        # the first 99 may have been passed over, each as a message by itself
        until(lambda: ingested(settings) >= 4 * (300 - 99), 60)


def ingested(settings: RuntimeSettings) -> int:
    """Events of ingest, by the hour, as the workers have counted them."""
    hours = [one["types"] for place, one in published(settings).items() if place[0] == 3600 and place[2] == "ingest"]
    return sum(sum(one.values()) for one in hours)
