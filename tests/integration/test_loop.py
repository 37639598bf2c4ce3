"""The loop on a real broker and a real PostgreSQL: exactly once in effect, whatever happens when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import psycopg
import pytest
from confluent_kafka import Message as RawMessage
from confluent_kafka import Producer

from runtime import loop as loop_module
from runtime.kafka import producer_config
from runtime.loop import Loop
from runtime.messages import Emit, FlowSummary, Message, Outputs, Place
from runtime.settings import RuntimeSettings
from runtime.telemetry import read_traceparent
from tests.integration.looping import (
    BACKFILL,
    DEAD,
    IN,
    OUT,
    Copy,
    open_database,
    receive,
    running,
    send,
    settings_for,
    until,
    values_by_partition,
)

pytestmark = pytest.mark.integration

POINTS = (
    "amid the outputs",
    "before the broker commits",
    "while the broker commits",
    "after both",
)
POINTS_WITH_STORE = ("before the store commits", "between the commits")

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def settings(broker: str, topics: str) -> RuntimeSettings:
    return settings_for(broker, topics)


@pytest.fixture
def start(settings: RuntimeSettings) -> Iterator[Start]:
    """Starts worker processes with environment variables; ends those that are left."""
    with ExitStack() as stack:

        def launch(**environment: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.looping"],
                env={
                    **os.environ,
                    "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
                    "ESTUAIRE_TOPIC_PREFIX": settings.topic_prefix,
                    "ESTUAIRE_BATCH_SIZE": "20",
                    **environment,
                },
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield launch


def seen(url: str) -> Counter[bytes]:
    with psycopg.connect(url) as connection:
        return Counter(bytes(key) for (key,) in connection.execute("SELECT key FROM seen"))


def expect_copies(settings: RuntimeSettings, count: int) -> None:
    """Every input's output is there exactly once, in the order of the inputs, and nothing else is."""
    read = receive(settings, IN, lambda found: len(found) >= count)
    written = receive(settings, OUT, lambda found: len(found) >= count)
    assert values_by_partition(written) == values_by_partition(read)


@pytest.mark.parametrize(
    "with_store",
    [pytest.param(False, id="broker", marks=pytest.mark.long), pytest.param(True, id="broker and database")],
)
def test_exactly_once_through_sudden_ends(
    settings: RuntimeSettings, database: Callable[[], str], start: Start, with_store: bool
) -> None:
    url = database() if with_store else ""
    count = 800
    send(settings, [b"%d" % number for number in range(count)])
    for point in POINTS + (POINTS_WITH_STORE if with_store else ()):
        batches = "30" if point == "amid the outputs" else "2"
        process = start(LOOPING_END=point, LOOPING_BATCHES=batches, LOOPING_DATABASE=url)
        assert process.wait(30) == -signal.SIGKILL, point
    last = start(LOOPING_DATABASE=url)
    expect_copies(settings, count)
    last.send_signal(signal.SIGTERM)
    assert last.wait(5) == 0
    expect_copies(settings, count)
    if with_store:
        noted = seen(url)
        assert len(noted) == count
        assert set(noted.values()) == {1}


def test_a_zombie_fails_at_the_progress_row(
    settings: RuntimeSettings, database: Callable[[], str], start: Start, tmp_path: Path
) -> None:
    url, count = database(), 200
    send(settings, [b"%d" % number for number in range(count)])
    sooner = json.dumps({"session.timeout.ms": 6000})
    held = tmp_path / "held"
    zombie = start(LOOPING_DATABASE=url, LOOPING_HOLD=str(held), ESTUAIRE_KAFKA_CONFIG=sooner)
    until(held.exists)
    successor = start(LOOPING_DATABASE=url, ESTUAIRE_SLOT="1", ESTUAIRE_KAFKA_CONFIG=sooner)
    receive(settings, OUT, lambda found: len(found) >= count)
    zombie.send_signal(signal.SIGCONT)
    assert zombie.stderr
    assert any("no longer at" in line for line in iter(zombie.stderr.readline, ""))
    send(settings, [b"%d" % number for number in range(count, count + 50)])
    expect_copies(settings, count + 50)
    assert set(seen(url).values()) <= {1, 2}, "keys 0 to 49 were sent twice"
    assert sum(seen(url).values()) == count + 50
    for process in (zombie, successor):
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0


def test_the_store_keeps_no_outputs_that_the_broker_has(
    settings: RuntimeSettings, database: Callable[[], str], start: Start
) -> None:
    url = database()

    def kept() -> int:
        with psycopg.connect(url) as connection:
            rows = connection.execute("SELECT outputs FROM progress").fetchall()
            return sum(len(msgspec.msgpack.decode(outputs)) for (outputs,) in rows)

    send(settings, [b"%d" % number for number in range(100)])
    process = start(LOOPING_DATABASE=url, LOOPING_END="after both", LOOPING_BATCHES="1")
    assert process.wait(30) == -signal.SIGKILL
    assert kept() > 0
    last = start(LOOPING_DATABASE=url)
    expect_copies(settings, 100)
    until(lambda: kept() == 0)
    send(settings, [b"%d" % number for number in range(100, 150)])
    expect_copies(settings, 150)
    until(lambda: kept() == 0)
    last.send_signal(signal.SIGTERM)
    assert last.wait(5) == 0


def test_a_second_process_of_the_same_slot_ends_the_first(settings: RuntimeSettings, start: Start) -> None:
    send(settings, [b"0"])
    first = start()
    receive(settings, OUT, lambda found: len(found) == 1)
    second = start()
    assert first.wait(20) == 1
    assert first.stderr
    assert f"another process runs as {settings.topic_prefix}copy-0" in first.stderr.read().splitlines()[-1]
    send(settings, [b"1"])
    expect_copies(settings, 2)
    assert second.poll() is None


def test_an_old_database_is_refused_and_rewound(settings: RuntimeSettings, database: Callable[[], str]) -> None:
    send(settings, [b"%d" % number for number in range(40)], partition=0)
    store = open_database(database())
    with running(settings, Copy(store), store):
        receive(settings, OUT, lambda found: len(found) == 40)
    restored = open_database(database())
    with running(settings, Copy(restored), restored) as refused:
        until(lambda: refused.failures)
    (line,) = refused.failures
    assert "the database is older than the broker's offsets" in line
    assert f"{settings.topic_prefix}{IN}/0: 0 against 40" in line
    assert "ESTUAIRE_REWIND=true" in line
    with running(settings.model_copy(update={"rewind": True}), Copy(restored), restored):
        again = receive(settings, OUT, lambda found: len(found) == 80)
    assert Counter(one.value() for one in again) == {b"%d" % number: 2 for number in range(40)}


def test_the_log_of_another_broker_is_refused_and_begun_anew(
    settings: RuntimeSettings, database: Callable[[], str]
) -> None:
    """Its offsets say nothing about this one's; what was stored and not published there is published here."""
    send(settings, [b"%d" % number for number in range(40)], partition=0)
    url = database()
    store, place = open_database(url), Place(f"{settings.topic_prefix}{IN}", 0)
    assert store.meet("another")
    assert not store.meet("this one")
    with store.transaction():
        store.advance(place, None, 30, [Emit(OUT, b"left", b"left"), Emit("view-not-made", b"left", b"left")])
    with running(settings, Copy(store), store) as refused:
        until(lambda: refused.failures)
    (line,) = refused.failures
    assert "the database is about the log of another broker" in line
    assert "ESTUAIRE_REWIND=true" in line
    assert seen(url) == {}
    with running(settings.model_copy(update={"rewind": True}), Copy(store), store):
        found = receive(settings, OUT, lambda found: len(found) >= 41)
    assert Counter(one.value() for one in found) == {b"left": 1, **{b"%d" % number: 1 for number in range(40)}}
    assert set(seen(url).values()) == {1}
    assert store.load([place])[place].next_offset == 40
    with running(settings, Copy(store), store) as again:
        send(settings, [b"40"], partition=0)
        receive(settings, OUT, lambda found: len(found) == 42)
    assert not again.failures


@pytest.mark.parametrize(
    "with_store",
    [pytest.param(False, id="broker", marks=pytest.mark.long), pytest.param(True, id="broker and database")],
)
@pytest.mark.parametrize("word", [b"poison", b"huge"])
def test_one_bad_message_among_a_thousand_is_found(
    settings: RuntimeSettings, database: Callable[[], str], word: bytes, with_store: bool
) -> None:
    values = [b"%d" % number for number in range(1000)]
    values[617] = word
    send(settings, values, partition=0)
    url = database()
    store = open_database(url) if with_store else None
    step = Copy(store)
    with running(settings.model_copy(update={"linger_seconds": 0.5}), step, store):
        (dead,) = receive(settings, DEAD, lambda found: len(found) == 1)
        copies = receive(settings, OUT, lambda found: len(found) >= 999)
    assert max(map(len, step.batches)) == 1000
    expected = [value for value in values if value != word]
    assert Counter(one.value() for one in copies) == Counter(expected)
    (first,) = {one.partition() for one in copies[:1]}
    in_order = [one.value() for one in copies if one.partition() == first]
    assert in_order == [value for value in expected if value in set(in_order)]
    headers = dict(dead.headers() or ())
    assert dead.value() == word
    assert dead.key() == b"000617"
    assert headers["dlq_reason"] == b"internal"
    assert headers["ce_id"] == b"617"
    if with_store:
        noted = seen(url)
        assert len(noted) == 999
        assert set(noted.values()) == {1}


def test_dead_letters_say_where_they_are_from(settings: RuntimeSettings) -> None:
    send(settings, [b"good", b"conflict", None, b"unreadable"], topic=BACKFILL, partition=1)
    with running(settings, Copy()):
        dead = receive(settings, DEAD, lambda found: len(found) == 2)
        copies = receive(settings, OUT, lambda found: len(found) == 2)
    assert {one.value() for one in copies} == {b"good", b""}
    headers = dict(dead[0].headers() or ())
    timestamp, parent = headers.pop("dlq_timestamp"), read_traceparent(headers.pop("traceparent"))
    assert parent is not None
    assert parent.trace_flags.sampled, "sent round again, it is followed"
    assert abs(int(timestamp or 0) / 1000 - time.time()) < 60
    assert headers == {
        "ce_source": b"hospital",
        "ce_id": b"1",
        "dlq_step": b"copy",
        "dlq_reason": b"conflict",
        "dlq_detail": b"the same id with another body",
        "dlq_topic": BACKFILL.encode(),
        "dlq_partition": b"1",
        "dlq_offset": b"1",
    }
    assert dict(dead[1].headers() or ())["dlq_reason"] == b"decoding"


@pytest.mark.parametrize(
    ("values", "dead"),
    [
        ([b"ours"] * 99 + [b"good"] + [b"ours"] * 150, 0),
        ([b"good"] * 989 + [b"ours"] * 12 + [b"good"] * 500, 0),
        ([b"conflict"] * 300 + [b"good"], 300),
    ],
    ids=["in a row", "past one per cent", "a producer's fault"],
)
def test_the_hubs_own_dead_letters_stop_their_partition_alone(
    settings: RuntimeSettings, values: list[bytes], dead: int
) -> None:
    send(settings, values, partition=0)
    with running(settings.model_copy(update={"linger_seconds": 0.5, "batch_size": 2000}), Copy()) as loop:
        if dead:
            receive(settings, DEAD, lambda found: len(found) == dead)
            receive(settings, OUT, lambda found: len(found) == 1)
            assert loop.readiness() is None
            return
        until(lambda: loop.stopped and loop.readiness() and "is stopped" in str(loop.readiness()))
        assert [place.partition for place in loop.stopped] == [0]
        send(settings, [b"other %d" % number for number in range(100)], partition=1)
        send(settings, [b"never"], partition=0)
        copies = receive(settings, OUT, lambda found: len(found) >= 100)
        assert all(str(one.value()).startswith("b'other") for one in copies), "the stopped batch is not published"
        assert f"{settings.topic_prefix}{IN}/0 is stopped: too many dead letters" in str(loop.readiness())


def test_a_marker_keeps_its_place_and_a_garbled_one_is_a_record(settings: RuntimeSettings) -> None:
    producer = Producer(producer_config(settings))
    name = settings.topic_prefix + IN
    for partition in (0, 1):
        for number in range(30):
            source: dict[str, Any] = {"ce_source": b"x"}
            producer.produce(name, b"%d" % number, b"k", partition=partition, headers=source)
            if number == 14:
                marker: dict[str, Any] = {"marker": b"m1", "marker_origin": b"%d" % partition}
                producer.produce(name, b"", None, partition=partition, headers=marker)
                producer.produce(name, b"", None, partition=partition, headers={"marker": b"m2", "ce_source": None})
    assert producer.flush(10) == 0
    step = Copy()
    with running(settings, step):
        out = receive(settings, OUT, lambda found: len(found) >= 62)
        links = receive(settings, "patient-links", lambda found: len(found) >= 4)
        dead = receive(settings, DEAD, lambda found: len(found) >= 2)
        summaries = receive(settings, "flow-summaries", lambda found: len(_passed(found)) >= 2)
    assert sorted((one.partition(), dict(one.headers() or ())["marker_origin"]) for one in links) == [
        (0, b"0"),
        (0, b"1"),
        (1, b"0"),
        (1, b"1"),
    ]
    markers = [one for one in out if "marker" in dict(one.headers() or ())]
    assert sorted(one.partition() or 0 for one in markers) == [0, 1]
    assert {dict(one.headers() or ()).get("dlq_reason") for one in dead} == {b"internal"}
    passed = _passed(summaries)
    assert sorted((one[0], one[1], one[2], one[3]) for one in passed) == [("m1", IN, 0, 0), ("m1", IN, 1, 1)]


def _passed(found: Sequence[RawMessage]) -> list[tuple[str, str, int, int]]:
    summaries = [msgspec.msgpack.decode(one.value() or b"", type=FlowSummary) for one in found]
    return [(p.marker, p.topic, p.partition, p.origin) for summary in summaries for p in summary.passed]


def test_one_message_takes_little_time_and_a_stop_too(settings: RuntimeSettings) -> None:
    with running(settings, Copy()) as loop:
        until(lambda: loop.readiness() is None)
        for sent in range(1, 8):
            send(settings, [b"%d" % sent])
            out = receive(settings, OUT, lambda found, sent=sent: len(found) == sent)  # type: ignore[misc]
        begun = time.monotonic()
        loop.stop()
        until(lambda: loop.readiness() == "not running")
        assert time.monotonic() - begun < 2
    into = receive(settings, IN, lambda found: len(found) == 7)
    arrived = {one.value(): one.timestamp()[1] for one in into}
    taken = sorted(one.timestamp()[1] - arrived[one.value()] for one in out)
    assert taken[3] < 60, "milliseconds from the input's append to the output's"


def test_a_database_that_is_away_is_waited_for(settings: RuntimeSettings, database: Callable[[], str]) -> None:
    url = database()
    store = open_database(url)
    with running(settings, Copy(store), store) as loop:
        until(lambda: loop.readiness() is None)
        real, store._url = store._url, "postgresql://127.0.0.1:1/none"
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid()"
                " AND datname = current_database()"
            )
        send(settings, [b"%d" % number for number in range(100)])
        until(lambda: loop.readiness() == "the database does not answer")
        store._url = real
        expect_copies(settings, 100)
        assert loop.readiness() is None
    assert set(seen(url).values()) == {1}


def test_a_stop_is_heard_while_waiting(settings: RuntimeSettings, database: Callable[[], str]) -> None:
    store = open_database(database())
    store.close()
    store._url = "postgresql://127.0.0.1:1/none"
    with running(settings, Copy(store), store) as loop:
        until(lambda: loop.readiness() == "the database does not answer")
        begun = time.monotonic()
        loop.stop()
        until(lambda: loop.readiness() == "not running")
        assert time.monotonic() - begun < 2


def test_backfill_gives_way_and_comes_back(settings: RuntimeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[bool] = []
    real = Loop._give_way

    def note(self: Loop, ranks: Counter[int]) -> None:
        real(self, ranks)
        held.append(bool(self._held))

    monkeypatch.setattr(Loop, "_give_way", note)
    sent = Event()

    class Waiting(Copy):
        def handle(self, batch: Sequence[Message]) -> Outputs:
            if any(one.value.startswith(b"old") for one in batch):
                sent.wait(30)
            return super().handle(batch)

    send(settings, [b"first"], topic=BACKFILL)
    send(settings, [b"first"])
    step = Waiting()
    with running(settings.model_copy(update={"batch_size": 100}), step):
        receive(settings, OUT, lambda found: len(found) >= 2)
        send(settings, [b"old" + bytes(1000)] * 20_000, topic=BACKFILL)
        send(settings, [b"new" + bytes(1000)] * 3000)
        sent.set()
        receive(settings, OUT, lambda found: len(found) >= 23_002)
    assert any(held)
    order = [value[:3] for batch in step.batches for value in batch]
    last_new = len(order) - order[::-1].index(b"new")
    # at most 2,000 messages and one answer of the broker's (1 MiB) are fetched ahead of each of the two partitions
    assert order[:last_new].count(b"old") < 12_000, "the backfill that was not fetched yet came after the live lane"


def test_missing_topics_are_named(settings: RuntimeSettings) -> None:
    elsewhere = settings.model_copy(update={"topic_prefix": settings.topic_prefix + "none-"})
    with running(elsewhere, Copy()) as loop:
        until(lambda: f"{elsewhere.topic_prefix}{IN}" in str(loop.readiness()))


def test_a_transaction_that_never_ends_is_left_behind(
    settings: RuntimeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = Event()

    class Hanging(Producer):
        hangs = True

        def send_offsets_to_transaction(self, *arguments: Any) -> None:
            if Hanging.hangs:
                Hanging.hangs = False
                release.wait(60)
            super().send_offsets_to_transaction(*arguments)

    monkeypatch.setattr(loop_module, "Producer", Hanging)
    monkeypatch.setattr(loop_module, "_PATIENCE", 1.0)
    send(settings, [b"%d" % number for number in range(100)])
    with running(settings, Copy()):
        expect_copies(settings, 100)
    release.set()
