"""The audit log on a real broker and a real PostgreSQL: every leaf once, and nothing signed that was changed."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import Producer

from contracts.audit import AUDIT, leaf, message
from contracts.merkle import Tree, leaf_hash
from runtime.database import Database
from runtime.kafka import producer_config
from runtime.loop import Loop, Route
from runtime.messages import Message, RetryLater
from runtime.settings import RuntimeSettings
from runtime.telemetry import start_tracing
from services.audit.adapters import (
    MIGRATIONS,
    Distrust,
    Notary,
    PostgresLog,
    PostgresReader,
    SecondPlace,
    Wanted,
    keys_of,
)
from services.audit.domain.checkpoints import Signer
from services.audit.domain.verification import Finding, Verification, opened
from services.audit.handlers import LANES, Append
from tests.integration.looping import settings_for, until

pytestmark = pytest.mark.integration

AT = dt.datetime(2026, 3, 1, 10, tzinfo=dt.UTC)
SIGNER, VERIFIER = keys_of(partial(Signer, "example.org/audit"), {1: bytes(range(32))})


@pytest.fixture
def settings(broker: str, topics: str) -> RuntimeSettings:
    return settings_for(broker, topics, batch_size=40)


@pytest.fixture
def url(database: Callable[[], str]) -> str:
    return database()


def value(number: int) -> bytes:
    who = ("service:access", "officer:anne", "steward:jean")[number % 3]
    permit = f"permit-{number % 4}" if number % 2 else None
    moment = AT + dt.timedelta(minutes=number)
    act = ("released", "permit-granted", "link-decided")[number % 3]
    return message(leaf(act, who, moment, permit=permit, ids=[str(number)], about=str(number)))[2]


def send(settings: RuntimeSettings, values: list[bytes]) -> None:
    producer = Producer(producer_config(settings))
    for one in values:
        producer.produce(f"{settings.topic_prefix}{AUDIT}", one)
    assert producer.flush(30) == 0


def loop_of(settings: RuntimeSettings, url: str) -> Loop:
    database = Database(url, MIGRATIONS)
    step = Append(PostgresLog(database), settings.topic_prefix)
    return Loop("audit", settings, step, Route(LANES), start_tracing("audit", None), database)


@contextmanager
def running(*loops: Loop) -> Iterator[None]:
    threads = [threading.Thread(target=one.run) for one in loops]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for one in loops:
            one.stop()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture
def reader(url: str) -> Iterator[PostgresReader]:
    found = PostgresReader(url)
    found.open()
    yield found
    found.close()


def size(reader: PostgresReader) -> int:
    with suppress(RetryLater):
        return reader.size()
    return 0


def lines(reader: PostgresReader) -> list[bytes]:
    found = reader.entries(0, 100_000, Wanted())
    tree = Tree()
    for number, one in enumerate(found):
        assert one.number == number
        assert one.hashed == leaf_hash(one.line)
        tree.append(one.hashed)
    assert reader.tree().root() == tree.root()
    return [one.line for one in found]


def abouts(reader: PostgresReader) -> list[str]:
    return [json.loads(one)["about"] for one in lines(reader)]


def test_every_message_is_an_entry_once_in_the_order_of_the_topic(
    settings: RuntimeSettings, url: str, reader: PostgresReader, database: Callable[[], str]
) -> None:
    for turn in range(3):
        send(settings, [value(number) for number in range(100 * turn, 100 * turn + 100)])
        with running(loop_of(settings, url)):
            until(lambda turn=turn: size(reader) == 100 * turn + 100)  # type: ignore[misc]
    assert abouts(reader) == [str(number) for number in range(300)]
    # a database that was lost is the same again, byte for byte, from the topic
    again = database()
    with running(
        loop_of(settings.model_copy(update={"kafka_config": {"group.id": f"{settings.topic_prefix}2"}}), again)
    ):
        other = PostgresReader(again)
        other.open()
        until(lambda: size(other) == 300)
        assert lines(other) == lines(reader)
        other.close()


def test_what_is_no_leaf_is_kept_as_its_hash(settings: RuntimeSettings, url: str, reader: PostgresReader) -> None:
    long = leaf("released", "service:access", AT)
    bad = [
        b"nonsense",
        b"",
        message(leaf("released", "a\0b", AT))[2],
        value(1).replace(b"officer", b"of\xffi\xff\xffr"),
    ]
    bad.append(message(type(long)("yesterday", "service:access", "released", None, 1, b""))[2])
    bad.append(message(type(long)(long.at, "service:access", "released", None, -1, b""))[2])
    send(settings, [value(0), *bad, value(1)])
    with running(loop_of(settings, url)):
        until(lambda: size(reader) == len(bad) + 2)
    read = [json.loads(one) for one in lines(reader)]
    assert [one["action"] for one in read] == ["released", *["unreadable"] * len(bad), "permit-granted"]
    assert all(len(one["root"]) == 64 and one["actor"] == "service:unknown" for one in read[1:-1])


WORKER = """
import os, signal
from runtime.settings import RuntimeSettings
from services.audit.adapters import PostgresLog
from tests.integration.test_audit import loop_of
left = int(os.environ["AFTER"])
def dying(call):
    def wrapped(self, *arguments):
        global left
        left -= 1
        if left <= 0 and os.environ["POINT"] == "after the commit":
            os.kill(os.getpid(), signal.SIGKILL)
        found = call(self, *arguments)
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return found
    return wrapped
loop = loop_of(RuntimeSettings(), os.environ["URL"])
if os.environ["POINT"] == "before the commit":
    PostgresLog.append = dying(PostgresLog.append)
else:
    type(loop)._publish = dying(type(loop)._publish)
loop.run()
"""


@pytest.mark.parametrize("point", ["before the commit", "after the commit"])
def test_killed_anywhere_it_keeps_each_leaf_once(
    settings: RuntimeSettings, url: str, reader: PostgresReader, point: str
) -> None:
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
                send(settings, [value(sent)])
                sent += 1
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
            assert process.returncode == -9
    with running(loop_of(settings, url)):
        until(lambda: size(reader) == sent)
    assert abouts(reader) == [str(number) for number in range(sent)]


def test_two_that_append_at_once_append_one_after_the_other(url: str, reader: PostgresReader) -> None:
    def append(start: int) -> None:
        database = Database(url, MIGRATIONS)
        step = Append(PostgresLog(database))
        for number in range(start, start + 50):
            with database.transaction():
                step.handle([Message(AUDIT, 0, number, 0, None, value(number), {})])
        database.close()

    Database(url, MIGRATIONS).load([])
    threads = [threading.Thread(target=append, args=[start]) for start in (0, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(reader)) == 100


# the notary, and the second place


class Notarised:
    """A log that grows by hand, its notary, and its second place."""

    def __init__(self, url: str, reader: PostgresReader, folder: Path) -> None:
        self.url, self.reader, self.place = url, reader, SecondPlace(folder)
        self.file = folder / "checkpoints-2026-03.txt"
        self._database = Database(url, MIGRATIONS)
        self._database.load([])
        self._step = Append(PostgresLog(self._database))
        self._sent = 0
        self.notary = self.new_notary()

    def new_notary(self) -> Notary:
        """As after a restart."""
        self.notary = Notary(self.reader, SecondPlace(self.file.parent), SIGNER, VERIFIER, 1, lambda: AT)
        return self.notary

    def grow(self, count: int, sign: bool = True) -> None:
        batch = [Message(AUDIT, 0, one, 0, None, value(one), {}) for one in range(self._sent, self._sent + count)]
        self._sent += count
        with self._database.transaction():
            self._step.handle(batch)
        if sign:
            self.notary.sign()

    def tamper(self, *statements: str) -> None:
        """What the owner of the tables could do."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for table in ("entries", "nodes", "checkpoints"):
                connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER only_added_to".encode())
            for statement in statements:
                connection.execute(statement.encode())

    def sizes(self) -> tuple[list[int], list[int]]:
        """Those of the database's checkpoints, and of the second place's."""
        kept = [VERIFIER.checkpoint(note).size for _, note in self.reader.checkpoints(0, 1000)]
        return kept, [VERIFIER.checkpoint(note).size for note in self.place.notes()]

    def findings(self) -> list[Finding]:
        kept = [note for _, note in self.reader.checkpoints(0, 1000)]
        signed, found = opened({"the database": kept, "the second place": self.place.notes()}, VERIFIER)
        verification = Verification.begin(signed)
        for one in self.reader.entries(0, 100_000, Wanted()):
            verification.add(one)
        return [*verification.finish(), *found]


@pytest.fixture
def log(url: str, reader: PostgresReader, tmp_path: Path) -> Notarised:
    return Notarised(url, reader, tmp_path)


def test_a_log_that_grew_is_signed_in_both_places_once(log: Notarised) -> None:
    log.notary.sign()
    assert log.sizes() == ([], [])
    for count in (1, 6, 1):
        log.grow(count)
        log.notary.sign()
    log.new_notary().sign()
    assert log.sizes() == ([1, 7, 8], [1, 7, 8])
    assert log.findings() == []


def test_a_restart_completes_what_a_crash_left_out_of_a_place(log: Notarised) -> None:
    for count in (3, 4, 5):
        log.grow(count)
    whole = log.file.read_text()
    for cut in range(len(whole)):
        log.file.write_text(whole[:cut])
        log.new_notary().sign()
        assert log.file.read_text() == whole, cut
    log.tamper("DELETE FROM checkpoints WHERE size > 3")
    log.new_notary().sign()
    assert log.sizes() == ([3, 7, 12], [3, 7, 12])
    log.grow(1)
    assert log.findings() == []


def test_what_somebody_else_wrote_into_the_second_place_is_found(log: Notarised) -> None:
    log.grow(3)
    for nonsense in ("nonsense", "non\n\nsense"):
        with log.file.open("a") as file:
            file.write(nonsense)
        log.new_notary().sign()
        log.grow(1)
        assert {one.kind for one in log.findings()} == {"forged"}
    assert [size for size, _ in log.reader.checkpoints(0, 10)] == [3, 4, 5]


@pytest.mark.parametrize(
    ("statement", "kind", "number"),
    [
        ("UPDATE entries SET line = replace(line, 'anne', 'jean') WHERE number = 4", "edited", 4),
        ("DELETE FROM entries WHERE number = 5", "missing", 5),
        ("DELETE FROM entries WHERE number >= 11", "cut short", 11),
        ("UPDATE nodes SET hash = sha256('\\x00') WHERE level = 0 AND index = 2", "edited", 2),
        ("UPDATE checkpoints SET note = replace(note, 'time 2026', 'time 2027') WHERE size = 12", "forged", None),
        ("DELETE FROM checkpoints WHERE size = 7", "checkpoint missing", None),
    ],
)
def test_what_is_done_to_the_database_is_found(log: Notarised, statement: str, kind: str, number: int | None) -> None:
    for count in (3, 4, 5):
        log.grow(count)
    with psycopg.connect(log.url) as connection, pytest.raises(psycopg.errors.RaiseException):
        connection.execute(statement.encode())
    assert log.findings() == []
    log.tamper(statement)
    assert (log.findings()[0].kind, log.findings()[0].number) == (kind, number)


def test_nothing_more_is_signed_of_a_log_that_is_not_what_was_signed(log: Notarised) -> None:
    log.grow(5)
    log.grow(7)
    before = log.sizes()
    rewritten = "UPDATE nodes SET hash = sha256('\\x00') WHERE level = 3 AND index = 0"
    for statements in ([rewritten], ["DELETE FROM nodes WHERE level = 3"], ["DELETE FROM entries WHERE number > 5"]):
        with psycopg.connect(log.url) as connection:
            kept = [connection.execute(f"SELECT * FROM {table}".encode()).fetchall() for table in ("nodes", "entries")]
        log.tamper(*statements)
        for notary in (log.notary, log.new_notary()):
            with pytest.raises(Distrust):
                notary.sign()
            notary._try()
            assert "audit" in (notary.readiness() or "")
            assert notary.distrusts()
        with psycopg.connect(log.url) as connection:
            connection.execute("DELETE FROM nodes")
            connection.execute("DELETE FROM entries")
            cursor = connection.cursor()
            cursor.executemany("INSERT INTO nodes VALUES (%s, %s, %s)", kept[0])
            cursor.executemany("INSERT INTO entries (number, line) VALUES (%s, %s)", [row[:2] for row in kept[1]])
        log.new_notary().sign()
    assert log.sizes() == before


def test_a_second_place_that_cannot_be_written_is_no_other_log(log: Notarised) -> None:
    log.grow(3)
    kept = log.file.read_bytes()
    log.file.unlink()
    log.file.mkdir()
    notary = log.new_notary()
    notary._try()
    assert ("is not signed yet" in (notary.readiness() or ""), notary.distrusts()) == (True, False)
    log.file.rmdir()
    log.file.write_bytes(kept)
    notary._try()
    assert (notary.readiness(), notary.distrusts()) == (None, False)


def test_a_log_that_comes_back_from_a_backup_is_signed_when_it_has_caught_up(
    log: Notarised, database: Callable[[], str], tmp_path: Path
) -> None:
    for count in (3, 4, 5):
        log.grow(count)
    url = database()
    reader = PostgresReader(url)
    reader.open()
    restored = Notarised(url, reader, tmp_path)
    restored.grow(4, sign=False)
    with pytest.raises(Distrust, match="12 entries were signed, and 4 are there"):
        restored.notary.sign()
    restored.grow(9)
    assert restored.sizes() == ([3, 7, 12, 13], [3, 7, 12, 13])
    assert restored.findings() == []
    reader.close()


def test_what_http_reads_can_be_asked_by_what_the_lines_say(log: Notarised) -> None:
    log.grow(40)
    first = log.reader.entries(0, 1, Wanted())[0]
    assert json.loads(first.line)["number"] == 0

    def numbers(start: int = 0, most: int = 100, **wanted: Any) -> list[int]:
        return [one.number for one in log.reader.entries(start, most, Wanted(**wanted))]

    assert numbers(permit="permit-1") == list(range(1, 40, 4))
    assert numbers(actor="officer:anne", action="permit-granted") == list(range(1, 40, 3))
    assert numbers(begin="2026-03-01T10:30:00.000Z", end="2026-03-01T10:33") == [30, 31, 32]
    assert numbers(begin="2026-03-02") == []
    assert numbers(start=5, most=3) == [5, 6, 7]
    assert log.reader.last_checkpoint() == log.place.notes()[-1]


def test_a_database_without_tables_is_said(url: str, reader: PostgresReader) -> None:
    for call in (reader.size, reader.tree, lambda: reader.checkpoints(0, 1), lambda: reader.nodes([(0, 0)])):
        with pytest.raises(RetryLater):
            call()
