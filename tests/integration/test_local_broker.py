"""The broker and the database on one machine: kept over restarts, apart from one another, gone with their parent."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from estuaire import broker as broker_module
from estuaire import process
from estuaire.broker import Broker, StartError, start_broker
from estuaire.database import Database, start_database
from estuaire.process import free_port

pytestmark = pytest.mark.integration

UNTIL_KILLED = """
import sys, time
from pathlib import Path
from estuaire.broker import start_broker
from estuaire.database import start_database
home = Path(sys.argv[1])
database = start_database(home, report=str)
broker = start_broker(home, report=str)
print(database.url("linkage"), flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setattr(process, "HOLD_SECONDS", 1)
    monkeypatch.setattr(broker_module, "_in_container", lambda *_: None)


def timed_broker(home: Path, port: int) -> tuple[Broker, float]:
    begun = time.monotonic()
    return start_broker(home, port), time.monotonic() - begun


def send(servers: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": servers, "transactional.id": "test", "log_level": 3})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, value)
    producer.commit_transaction(30)


def receive(servers: str, topic: str) -> bytes | None:
    settings = {"bootstrap.servers": servers, "group.id": f"test-{time.time_ns()}", "auto.offset.reset": "earliest"}
    consumer = Consumer(settings | {"isolation.level": "read_committed"})
    consumer.subscribe([topic])
    try:
        message = consumer.poll(30)
        assert message is not None
        assert message.error() is None
        return message.value()
    finally:
        consumer.close()


@pytest.mark.long
def test_a_broker_keeps_what_was_committed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, port = tmp_path / "home, é", free_port()
    first, first_seconds = timed_broker(home, port)
    with first:
        admin = AdminClient({"bootstrap.servers": first.bootstrap_servers})
        for made in admin.create_topics([NewTopic("kept", num_partitions=2, replication_factor=1)]).values():
            made.result()
        send(first.bootstrap_servers, "kept", b"one")
        assert receive(first.bootstrap_servers, "kept") == b"one"
        with pytest.raises(StartError, match=f"a broker runs .*port {port}"):
            start_broker(home)
    assert not first.running()
    second, second_seconds = timed_broker(home, port)
    with second:
        assert receive(second.bootstrap_servers, "kept") == b"one"
    crashed, _ = timed_broker(home, port)
    crashed.kill()
    third, third_seconds = timed_broker(home, port)
    with third:
        assert receive(third.bootstrap_servers, "kept") == b"one"
    with capsys.disabled():
        seconds = f"first {first_seconds:.1f} s, second {second_seconds:.1f} s, after a crash {third_seconds:.1f} s"
        sys.stdout.write(f"\nbroker's start: {seconds}\n")


def test_a_broker_that_was_quicker_to_take_the_port_is_not_taken_for_ones_own(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module, "choose_port", lambda _: int(broker.rpartition(":")[2]))
    with pytest.raises(StartError, match="the broker ended while starting"):
        start_broker(tmp_path)


def test_a_broker_that_dies_while_starting_names_its_log(tmp_path: Path) -> None:
    with start_broker(tmp_path, free_port()):
        pass
    (tmp_path / "kafka" / "data" / "meta.properties").write_text("version=1\ncluster.id=other\nnode.id=9\n")
    with pytest.raises(StartError, match=r"the broker ended while starting; see .*kafka\.log: .*Stored node id 9"):
        start_broker(tmp_path, free_port())


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with start_database(tmp_path) as started:
        yield started


def as_role(url: str, name: str, database: str) -> str:
    return url.replace(f"dbname={name}", f"dbname={database}")


def test_a_role_reaches_its_own_database_alone(database: Database, tmp_path: Path) -> None:
    linkage, access = database.url("linkage"), database.url("access")
    assert linkage == database.url("linkage")
    with psycopg.connect(linkage) as connection:
        connection.execute("CREATE TABLE patients (id integer PRIMARY KEY)")
        assert connection.execute("SELECT current_user, current_database()").fetchone() == ("linkage", "linkage")
    with psycopg.connect(access) as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    for other in ("linkage", "postgres", "template1"):
        with pytest.raises(psycopg.OperationalError, match=f'permission denied for database "{other}"'):
            psycopg.connect(as_role(access, "access", other))
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(access.replace("user=access", "user=linkage").replace("dbname=access", "dbname=linkage"))
    assert (tmp_path / "keys" / "postgres.json").stat().st_mode & 0o077 == 0


def test_no_value_enters_the_log(database: Database, tmp_path: Path) -> None:
    with psycopg.connect(database.url("linkage"), autocommit=True) as connection:
        connection.execute("CREATE TABLE subjects (name text UNIQUE)")
        for _ in range(2):
            with suppress(psycopg.errors.UniqueViolation):
                connection.execute("INSERT INTO subjects VALUES (%s)", ["LE GOFF"])
        with pytest.raises(psycopg.DataError, match="LE GOFF"):
            connection.execute("SELECT 'LE GOFF'::integer")
    log = (tmp_path / "logs" / "postgres.log").read_text()
    assert "ready to accept connections" in log
    assert "LE GOFF" not in log


@pytest.mark.parametrize("folder", ["home", "a home, é", "deep/" * 30])
def test_a_database_keeps_its_rows(tmp_path: Path, folder: str) -> None:
    home = tmp_path / folder
    with start_database(home) as first:
        with psycopg.connect(first.url("linkage")) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        with pytest.raises(StartError, match="a database runs"):
            start_database(home)
    assert not first.running()
    with start_database(home) as second, psycopg.connect(second.url("linkage")) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)


def test_a_lost_password_is_said(tmp_path: Path) -> None:
    with start_database(tmp_path):
        pass
    (tmp_path / "keys" / "postgres.json").unlink()
    with pytest.raises(StartError, match=r"postgres\.json is missing"):
        start_database(tmp_path)


def test_a_given_database_is_used_and_left_running(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployer = as_role(database.url("deployer"), "deployer", "postgres")
    with psycopg.connect(**database._admin, autocommit=True) as connection:
        connection.execute("GRANT CONNECT ON DATABASE postgres TO deployer")
    monkeypatch.setenv("DATABASE_URL", deployer)
    with start_database(tmp_path / "other", prefix="a_") as given, pytest.raises(StartError, match="permission denied"):
        given.url("linkage")
    with psycopg.connect(**database._admin, autocommit=True) as connection:
        connection.execute("ALTER ROLE deployer CREATEDB CREATEROLE")
    with start_database(tmp_path / "other", prefix="a_") as given:
        linkage, access = given.url("linkage"), given.url("access")
        assert linkage == given.url("linkage")
        reader = given.reader_url("access", "reader")
        assert reader == given.reader_url("access", "reader")
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(as_role(access, "a_access", "a_linkage"))
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(as_role(reader, "a_access", "a_linkage"))
    with psycopg.connect(access) as owner, psycopg.connect(reader) as connection:
        owner.execute("CREATE TABLE secrets (a int)")
        owner.commit()
        assert connection.execute("SELECT current_user::text").fetchone() == ("a_access_reader",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM secrets")
    with psycopg.connect(linkage) as connection:
        assert connection.execute("SELECT current_user::text").fetchone() == ("a_linkage",)


def test_a_given_database_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://admin:secret@127.0.0.1:{free_port()}/postgres")
    with pytest.raises(StartError, match="DATABASE_URL: no database answers") as refused:
        start_database(tmp_path)
    assert "secret" not in str(refused.value)


def test_a_malformed_url_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres//admin:secret@127.0.0.1/postgres")
    with pytest.raises(StartError, match="DATABASE_URL is not of the form") as refused:
        start_database(tmp_path)
    assert "secret" not in str(refused.value)


def test_both_end_with_a_killed_parent_and_start_again(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", UNTIL_KILLED, str(tmp_path)],
        env=os.environ | {"DOCKER_HOST": "unix:///nowhere"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout
    with parent, psycopg.connect(parent.stdout.readline().strip(), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
        parent.kill()
    with start_database(tmp_path) as database, psycopg.connect(database.url("linkage")) as connection:
        assert connection.execute("SELECT n FROM kept").fetchone() == (1,)
    with start_broker(tmp_path, free_port()) as broker:
        assert broker.running()
