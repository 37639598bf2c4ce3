"""Statistics on a real broker and a real PostgreSQL: every summary counts once, whatever happens when."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from contracts.messages import Measures, encode, measures_associated
from runtime.database import Database, ProgressMoved
from runtime.kafka import producer_config
from runtime.messages import FlowSummary, Message, Place, RetryLater
from runtime.sealing import Opener, Sealer
from runtime.settings import RuntimeSettings
from services.statistics.adapters import MIGRATIONS, PostgresMemory, PostgresReader
from services.statistics.handlers import Count, Opening
from services.statistics.summaries import COUNTED_UNTIL, SummariesReader
from tests.integration.looping import settings_for, until

pytestmark = pytest.mark.integration

PRIVATE = X25519PrivateKey.from_private_bytes(b"statistics".ljust(32))
SEALER = Sealer(PRIVATE.public_key())
TODAY = dt.datetime.now(dt.UTC)
AT = int(TODAY.timestamp() * 1000)

Summary = Callable[[int], bytes]


@pytest.fixture
def settings(broker: str, topics: str) -> RuntimeSettings:
    return settings_for(broker, topics)


@pytest.fixture
def url(database: Callable[[], str]) -> str:
    return database()


def linked(number: int) -> bytes:
    return encode(FlowSummary("linkage", 0, AT, (), {f"urn:{number % 3}": {"linked": 1}}))


def measured(number: int) -> bytes:
    measures = Measures(b"writer", number + 1, {f"urn:{number % 3}": {"claim.v1": {"records": 1}}})
    sealed = SEALER.seal(encode(measures), measures_associated(AT))
    return encode(FlowSummary("ingest", 0, AT, (), measures=sealed))


def send(settings: RuntimeSettings, values: list[bytes]) -> None:
    producer = Producer(producer_config(settings))
    for value in values:
        producer.produce(f"{settings.topic_prefix}flow-summaries", value, partition=0)  # as one key does
    assert producer.flush(30) == 0


def reader(settings: RuntimeSettings, url: str, key: X25519PrivateKey = PRIVATE) -> SummariesReader:
    database = Database(url, MIGRATIONS)
    return SummariesReader(settings, database, Count(PostgresMemory(database), Opening(Opener([key])), lambda _: False))


@contextmanager
def running(*readers: SummariesReader) -> Iterator[None]:
    threads = [threading.Thread(target=one.run) for one in readers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for one in readers:
            one.stop()
        for thread in threads:
            thread.join(15)
            assert not thread.is_alive()


def total(url: str, measure: str) -> int:
    with psycopg.connect(url) as connection:
        try:
            row = connection.execute("SELECT coalesce(sum(count), 0) FROM measures WHERE measure = %s", [measure])
        except psycopg.errors.UndefinedTable:
            return 0
        return int((row.fetchone() or (0,))[0])


def test_counts_go_on_where_they_were(settings: RuntimeSettings, url: str) -> None:
    for turn in range(1, 4):
        send(settings, [*map(linked, range(50)), *map(measured, range(50 * turn - 50, 50 * turn)), b"nonsense"])
        one = reader(settings, url)
        with running(one):
            until(lambda turn=turn: total(url, "linkage.linked") == 50 * turn)  # type: ignore[misc]
            assert one.readiness() is None
        assert total(url, "records") == 50 * turn
    assert reader(settings, url).readiness() == "waiting for partitions"


def test_without_the_key_it_stands_and_loses_nothing(settings: RuntimeSettings, url: str) -> None:
    send(settings, [linked(0), *map(measured, range(150))])
    without = reader(settings, url, X25519PrivateKey.generate())
    with running(without):
        until(lambda: "statistics-private" in (without.readiness() or ""))
        assert without._database.load([Place(f"{settings.topic_prefix}flow-summaries", 0)]) == {}
    assert total(url, "linkage.linked") == 0
    with running(reader(settings, url)):
        until(lambda: total(url, "records") == 150)
    assert total(url, "linkage.linked") == 1


def batch(number: int, start: int = 0, topic: str = "flow-summaries") -> list[Message]:
    return [Message(topic, 0, start + at, 0, None, linked(at), {}) for at in range(number)]


def test_what_comes_again_is_not_counted_again(settings: RuntimeSettings, url: str) -> None:
    first, second = reader(settings, url), reader(settings, url)
    place = Place("flow-summaries", 0)
    for one in (first, second):
        one._database.load([place])
    first._take(batch(10))
    with pytest.raises(ProgressMoved):
        second._take(batch(10))
    second._next[place] = 10
    second._take(batch(5, start=10))
    with pytest.raises(ProgressMoved):
        first._take(batch(5, start=10))
    assert total(url, "linkage.linked") == 15


def test_two_readers_of_the_same_partition_count_it_once(settings: RuntimeSettings, url: str) -> None:
    """As if the group had given the partition to both: each reads all of it."""
    one = reader(settings, url)
    other = reader(settings.model_copy(update={"kafka_config": {"group.id": f"{settings.topic_prefix}other"}}), url)
    with running(one, other):
        for start in range(0, 300, 50):
            send(settings, [*map(linked, range(50)), *map(measured, range(start, start + 50))])
        until(lambda: total(url, "linkage.linked") >= 300, 40)
        until(lambda: one.readiness() is None and other.readiness() is None)
    assert (total(url, "linkage.linked"), total(url, "records")) == (300, 300)


def test_the_next_member_of_the_group_takes_over(settings: RuntimeSettings, url: str) -> None:
    send(settings, list(map(linked, range(30))))
    with running(reader(settings, url)):
        until(lambda: total(url, "linkage.linked") == 30)
        with running(reader(settings.model_copy(update={"slot": 1}), url)):
            send(settings, list(map(linked, range(30))))
            until(lambda: total(url, "linkage.linked") == 60)
    with running(reader(settings.model_copy(update={"slot": 1}), url)):
        send(settings, list(map(linked, range(30))))
        until(lambda: total(url, "linkage.linked") == 90)


def test_a_failure_within_the_transaction_leaves_nothing(settings: RuntimeSettings, url: str) -> None:
    one = reader(settings, url)
    one._database.load([Place("flow-summaries", 0)])
    real = PostgresMemory.add

    def half(memory: PostgresMemory, *arguments: Any) -> None:
        real(memory, *arguments)
        raise RetryLater("the database has gone")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RetryLater):
        patch.setattr(PostgresMemory, "add", half)
        one._take(batch(10))
    assert total(url, "linkage.linked") == 0
    one._take(batch(10))
    assert total(url, "linkage.linked") == 10


def test_a_summary_that_makes_the_step_fail_is_left_out_alone(
    settings: RuntimeSettings, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    one = reader(settings, url)
    one._database.load([Place("flow-summaries", 0)])
    real = Count.handle

    def spoilt(count: Count, messages: list[Message]) -> None:
        real(count, messages)
        if any(message.offset == 7 for message in messages):
            raise ValueError("secret of offset 7")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Count, "handle", spoilt)
        one._take(batch(10))
    assert total(url, "linkage.linked") == 9
    assert "secret" not in caplog.text


def test_a_database_of_another_version_costs_no_summary(settings: RuntimeSettings, url: str) -> None:
    place = Place("flow-summaries", 0)
    one = reader(settings, url)
    one._database.load([place])
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("ALTER TABLE measures RENAME COLUMN count TO how_many")
        with pytest.raises(RetryLater, match="not what this version needs"):
            one._take(batch(10))
        admin.execute("ALTER TABLE measures RENAME COLUMN how_many TO count")
    one._take(batch(10))
    assert total(url, "linkage.linked") == 10


def test_it_says_until_when_it_has_counted(settings: RuntimeSettings, url: str) -> None:
    with running(reader(settings, url)):
        send(settings, [linked(0)])
        until(lambda: total(url, "linkage.linked") == 1)
        began = time.time()
        until(lambda: counted_until() > began)
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE measures IN ACCESS EXCLUSIVE MODE")
            locked = time.time()
            send(settings, [linked(1)])
            until(lambda: other.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone() is not None)
            assert counted_until() < locked + SummariesReader.PAUSE_SECONDS
            stood = counted_until()
            until(lambda: time.time() > locked + 3 * SummariesReader.PAUSE_SECONDS)
            assert counted_until() == stood
        until(lambda: counted_until() > locked + 3 * SummariesReader.PAUSE_SECONDS)
    assert total(url, "linkage.linked") == 2


def counted_until() -> float:
    """Seconds since the epoch."""
    return float(COUNTED_UNTIL._value.get())


def test_the_log_of_another_broker_is_counted_from_its_beginning(settings: RuntimeSettings, url: str) -> None:
    place = Place(f"{settings.topic_prefix}flow-summaries", 0)
    one = reader(settings, url)
    assert one._database.meet("another")
    with one._database.transaction():
        one._database.advance(place, None, 15, ())
    send(settings, list(map(linked, range(20))))
    with running(one):
        until(lambda: "of another broker" in (one.readiness() or ""))
    assert total(url, "linkage.linked") == 0
    with running(reader(settings.model_copy(update={"rewind": True}), url)):
        until(lambda: total(url, "linkage.linked") == 20)


def test_a_log_that_was_cut_is_read_on_where_it_goes_on(settings: RuntimeSettings, url: str) -> None:
    place = Place(f"{settings.topic_prefix}flow-summaries", 0)
    one = reader(settings, url)
    one._database.load([place])
    with one._database.transaction():
        one._database.advance(place, None, 1000, ())
    send(settings, list(map(linked, range(20))))
    with running(one):
        until(lambda: one.readiness() is None)
        send(settings, list(map(linked, range(5))))
        until(lambda: total(url, "linkage.linked") == 5)


WORKER = """
import os, signal, sys
from runtime.settings import RuntimeSettings
from services.statistics.adapters import PostgresMemory
from runtime.database import Database
from tests.integration.test_statistics import reader
left = int(os.environ["AFTER"])
def die():
    global left
    left -= 1
    if left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
if os.environ["POINT"] == "before the commit":
    real = PostgresMemory.add
    def add(self, *arguments):
        real(self, *arguments)
        die()
    PostgresMemory.add = add
else:
    one = type(reader(RuntimeSettings(), os.environ["URL"]))
    real = one._measure_lag
    def lag(self, consumer):
        die()
    one._measure_lag = lag
reader(RuntimeSettings(), os.environ["URL"]).run()
"""


@pytest.mark.parametrize("point", [pytest.param("before the commit", marks=pytest.mark.long), "after the commit"])
def test_killed_anywhere_it_counts_each_summary_once(settings: RuntimeSettings, url: str, point: str) -> None:
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "ESTUAIRE_TOPIC_PREFIX": settings.topic_prefix,
        "URL": url,
        "POINT": point,
        "AFTER": "2",
    }
    sent = 0
    with ExitStack() as stack:
        for _ in range(3):
            process = subprocess.Popen([sys.executable, "-c", WORKER], env=environment)
            stack.callback(process.wait)
            stack.callback(process.kill)
            while process.poll() is None:
                send(settings, [linked(sent), measured(sent)])
                sent += 1
                pause(process)
            assert process.returncode == -9
    with running(reader(settings, url)):
        until(lambda: total(url, "linkage.linked") == sent)
    assert (total(url, "linkage.linked"), total(url, "records")) == (sent, sent)


def pause(process: subprocess.Popen[bytes]) -> None:
    """Wait a little for its end."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(0.2)


def test_what_http_reads(settings: RuntimeSettings, url: str) -> None:
    one = reader(settings, url)
    one._database.load([Place("flow-summaries", 0)])
    one._take([*batch(9), Message("flow-summaries", 0, 9, 0, None, measured(0), {})])
    read = PostgresReader(url)
    read.open()
    try:
        today = TODAY.date()
        sources = read.sources(today, today)
        assert sources.keys() == {"urn:0", "urn:1", "urn:2"}
        assert (sources["urn:0"].accepted, sources["urn:1"].accepted) == (1, 0)
        assert sources["urn:0"].last is not None
        assert abs((sources["urn:0"].last - TODAY).total_seconds()) < 1
        assert sources["urn:1"].last is None, "ingest has not spoken of it"
        with psycopg.connect(url) as connection:
            for reason, kind in (("bad-value", "claim.v1"), ("bad-value", ""), ("not-json", "")):
                row = ["urn:1", today, kind, f"refused.{reason}", 2]
                connection.execute("INSERT INTO measures VALUES (%s, %s, %s, %s, %s)", row)
        assert read.sources(today, today)["urn:1"].refused == {"bad-value": 4, "not-json": 2}
        totals = read.totals("urn:0", today, today)
        assert totals.counts == {("", "linkage.linked"): 3, ("claim.v1", "records"): 1}
        assert totals.days == [(today, "records", 1)]
        before = today - dt.timedelta(days=1)
        assert read.totals("urn:0", before, before).counts == {}
        assert read.sources(before, before)["urn:0"].accepted == 0
    finally:
        read.close()


def test_a_database_without_tables_or_that_is_away_is_said(url: str) -> None:
    for address in (url, url.replace("dbname=", "dbname=no")):
        read = PostgresReader(address)
        read.open()
        with pytest.raises(RetryLater):
            read.sources(TODAY.date(), TODAY.date())
        read.close()
