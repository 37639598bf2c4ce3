"""What the broker's start decides before anything runs, and the one line it gives when it cannot."""

from __future__ import annotations

import shutil
import socket
import stat
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from estuaire import broker, process
from estuaire.broker import StartError, choose_port, find_jars, find_java, start_broker
from estuaire.process import Lock, free_port, hold, require_home

pytestmark = pytest.mark.unit

MAVEN = """#!/bin/sh
PATH=/bin:/usr/bin
echo call >> "{calls}"
for word in "$@"; do case $word in -DoutputDirectory=*) folder=${{word#*=}};; esac; done
mkdir -p "$folder"
echo "[INFO] Downloaded from central: https://repo/a/kafka.jar (8.5 MB at 3.2 MB/s)"
sleep 0.3
touch "$folder/kafka_2.13-0.jar"
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the path, empty; and a cache of our own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("JAVA_HOME", "KAFKA_BOOTSTRAP_SERVERS"):
        monkeypatch.delenv(name, raising=False)
    return folder


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(stat.S_IRWXU)


def silent(_: str) -> None: ...


def test_a_busy_port_that_is_asked_for_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"port {port} is in use"):
            choose_port(port)


def test_without_a_port_the_default_is_taken_if_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "DEFAULT_PORT", free_port())
    assert choose_port(None) == broker.DEFAULT_PORT
    with socket.create_server(("127.0.0.1", broker.DEFAULT_PORT)):
        assert choose_port(None) not in (broker.DEFAULT_PORT, 0)


def test_neither_docker_nor_java_says_what_to_install(programs: Path, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"install Docker, or Java 17\+ with Maven .*KAFKA_BOOTSTRAP_SERVERS"):
        start_broker(tmp_path / "home", report=silent)


@pytest.mark.parametrize(("said", "number"), [("1.8.0_392", "8"), ("11.0.21", "11")])
def test_an_old_java_is_named(programs: Path, said: str, number: str) -> None:
    program(programs, "java", f"#!/bin/sh\necho 'openjdk version \"{said}\"' >&2\n")
    with pytest.raises(StartError, match=f"Java {number} at .* is too old: Kafka needs 17"):
        find_java()


def test_a_home_that_a_newer_kafka_made_is_said(programs: Path, tmp_path: Path) -> None:
    program(
        programs,
        "java",
        """#!/bin/sh
case "$*" in
    -version) echo 'openjdk version "17.0.1"' >&2;;
    *kafka.Kafka*) echo "Caused by: org.UnsupportedVersionException: Can't read version 4 of BrokerEndpoint"; exit 1;;
esac
""",
    )
    (tmp_path / "cache" / "estuaire" / f"kafka-{broker.version()}").mkdir(parents=True)
    with pytest.raises(StartError, match=r"BrokerEndpoint \(a newer Kafka .* remove .*home, or set ESTUAIRE_HOME"):
        start_broker(tmp_path / "home", report=silent)


def test_a_new_java_will_do(programs: Path) -> None:
    program(programs, "java", "#!/bin/sh\necho 'openjdk version \"25\" 2025-09-16' >&2\n")
    assert find_java() == str(programs / "java")


def test_the_first_download_needs_maven(programs: Path) -> None:
    with pytest.raises(StartError, match="Maven is not installed"):
        find_jars(silent)


def test_a_failed_download_leaves_nothing_and_says_why(programs: Path, tmp_path: Path) -> None:
    program(programs, "mvn", "#!/bin/sh\necho '[ERROR] repo: unknown host'\nexit 1\n")
    with pytest.raises(StartError, match=r"try again, or set KAFKA_BOOTSTRAP_SERVERS .*: repo: unknown host"):
        find_jars(silent)
    assert not list((tmp_path / "cache").rglob("*.jar"))


def test_two_starts_at_once_download_once(programs: Path, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    program(programs, "mvn", MAVEN.format(calls=calls))
    said: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        first, second = (one.result() for one in [pool.submit(find_jars, said.append) for _ in range(2)])
    assert first == second == find_jars(silent)
    assert (first / "kafka_2.13-0.jar").exists()
    assert calls.read_text() == "call\n"
    assert "another start is downloading Kafka; waiting for it" in said


def test_what_a_killed_download_left_is_not_taken_for_kafka(programs: Path, tmp_path: Path) -> None:
    partial = tmp_path / "cache" / "estuaire" / f"kafka-{broker.version()}.partial"
    partial.mkdir(parents=True)
    (partial / "half.jar").touch()
    program(programs, "mvn", MAVEN.format(calls=tmp_path / "calls"))
    assert [jar.name for jar in find_jars(silent).iterdir()] == ["kafka_2.13-0.jar"]


def test_a_given_broker_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", address := f"127.0.0.1:{free_port()}")
    monkeypatch.setattr(broker, "GIVEN_SECONDS", 0.5)
    with pytest.raises(StartError, match=f"no broker answers at {address}"):
        start_broker(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 12_000_000))
    with pytest.raises(StartError, match=f"ESTUAIRE_HOME {tmp_path} has only 12 MB free; needs at least 500 MB"):
        require_home(tmp_path)


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="is not writable: Not a directory"):
        require_home(tmp_path / "file" / "home")


def test_one_server_on_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hold(tmp_path, "broker") as lock:
        lock.note("runs (process 7, port 9092)")
        monkeypatch.setattr(process, "HOLD_SECONDS", 0)
        with pytest.raises(StartError, match=r"a broker runs \(process 7, port 9092\) on .*: stop it"):
            hold(tmp_path, "broker")
        with hold(tmp_path, "database"):
            pass
    with hold(tmp_path, "broker"):
        pass


def test_a_lock_is_not_taken_twice(tmp_path: Path) -> None:
    with Lock(tmp_path / "lock") as one, Lock(tmp_path / "lock") as other:
        assert one.take()
        assert not other.take(0.2)
    with Lock(tmp_path / "lock") as third:
        assert third.take()
