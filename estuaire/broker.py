"""The broker of a hub on one machine: the one that is given, one in a container, or Apache Kafka run natively."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from estuaire.passwords import sasl
from estuaire.process import Child, Lock, Report, StartError, free_port, hold, is_free, require_home
from runtime.kafka import common
from runtime.settings import RuntimeSettings

__all__ = ["Broker", "StartError", "start_broker"]

INFRA = Path(__file__).resolve().parent.parent / "infra" / "kafka"
DEFAULT_PORT = 9092
BROKER = "broker"
START_SECONDS, GIVEN_SECONDS, PULL_SECONDS, DOWNLOAD_SECONDS = 90, 10, 300, 900
INSTEAD = "or set KAFKA_BOOTSTRAP_SERVERS to a broker that runs"
# The first compiler tier alone: half the CPU per record of the default in runs of minutes, and ready sooner.
JVM = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError")
JAVA = 17


@dataclass(slots=True)
class Broker:
    """A broker that answers. At the end of `with` it is stopped, unless it was given."""

    bootstrap_servers: str
    kind: str
    """`given`, `container` or `native`."""
    kafka_config: Mapping[str, str] = field(default_factory=dict)
    """How to connect to it as itself, where it is secured: it may do everything, until it stops."""
    _child: Child | None = None
    _container: str | None = None

    def running(self) -> bool:
        """Whether its process runs; a given broker is taken to."""
        return self._child is None or self._child.running()

    def stop(self) -> None:
        """Stop it, with its data on disk; a given broker goes on."""
        if self._child:
            self._child.stop()

    def kill(self) -> None:
        """End it at once, as a crash would; a given broker goes on."""
        if self._container:
            _remove(self._container)
        if self._child:
            self._child.kill()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_broker(home: Path, port: int | None = None, report: Report = print, *, secured: bool = False) -> Broker:
    """Start a broker on 127.0.0.1 and wait until it answers; or check the one at `KAFKA_BOOTSTRAP_SERVERS`.

    Docker is used where an engine answers and has or gets the image, else Java. Both keep their data in
    `home/kafka` and log to `home/logs/kafka.log`, so that one can follow the other. Without `port` it is 9092, or
    any free one. A broker that we started ends with this process, however that ends. One that is `secured` lets nobody
    in but those whom it is told of, as `Broker.kafka_config`. Raises StartError.
    """
    given = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if given:
        if not answers(given, GIVEN_SECONDS):
            raise StartError(f"KAFKA_BOOTSTRAP_SERVERS: no broker answers at {given} within {GIVEN_SECONDS} s")
        return Broker(given, "given")
    home = home.absolute()
    require_home(home)
    with hold(home, "broker") as lock:
        port = choose_port(port)
        (home / "kafka").mkdir(exist_ok=True)
        run = _in_container(home, port, report) or _natively(report)
        config = sasl("PLAIN", BROKER, secrets.token_urlsafe(32)) if secured else {}
        child = _launch(run, home, port, lock, config)
    return Broker(f"127.0.0.1:{port}", run.kind, config, child, run.container)


def choose_port(wanted: int | None) -> int:
    """The port that is asked for, else 9092 if free, else any. Raises StartError if the one asked for is taken."""
    if wanted is None:
        return DEFAULT_PORT if is_free(DEFAULT_PORT) else free_port()
    if not is_free(wanted):
        raise StartError(f"port {wanted} is in use, and the broker needs it: choose another")
    return wanted


@dataclass(frozen=True, slots=True)
class _Run:
    """How to run Kafka's classes."""

    kind: str
    java: tuple[str, ...]
    classpath: str
    address: str = "127.0.0.1"
    container: str | None = None


def _launch(run: _Run, home: Path, port: int, lock: Lock, config: Mapping[str, str]) -> Child:
    folder, log = home / "kafka", home / "logs" / "kafka.log"
    properties = (INFRA / "broker.properties").read_text() + _placement(port, free_port(), run.address)
    (folder / "broker.properties").touch(mode=0o600)
    (folder / "broker.properties").chmod(0o600)
    (folder / "broker.properties").write_text(properties + (security(config) if config else "") + _more())
    log4j = f"-Dlog4j2.configurationFile={INFRA / 'log4j2.yaml'}"
    # a path with an accent is unreadable to Java in the C locale
    environment = os.environ | {"LC_ALL": "C.UTF-8"}

    def start(*arguments: str) -> Child:
        command = (*run.java, *JVM, log4j, "-cp", run.classpath, *arguments)
        return Child(command, log, folder=folder, held=lock, environment=environment)

    deadline = time.monotonic() + START_SECONDS
    if not (folder / "data" / "meta.properties").exists():
        formatting = start("kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", "broker.properties")
        if formatting.wait(START_SECONDS) != 0:
            formatting.kill()
            raise StartError(f"the broker's folder cannot be formatted; see {log}: {formatting.last_error()}")
    child = start("kafka.Kafka", "broker.properties")
    lock.note(f"runs (process {child.pid}, port {port})")
    # by its id: another that starts at this moment may have been quicker to take the port
    if answers(f"127.0.0.1:{port}", deadline - time.monotonic(), child.running, config, _kept_id(folder)):
        return child
    ended = "does not answer in time" if child.running() else "ended while starting"
    child.stop()
    why = child.last_error()
    if "UnsupportedVersionException" in why:
        why += f" (a newer Kafka than {version()} made this home: remove {home}, or set ESTUAIRE_HOME to another)"
    raise StartError(f"the broker {ended}; see {log}: {why}")


def _placement(port: int, controller: int, address: str) -> str:
    # The voters are set here, not in the data, so that the controller can move to another port at each start.
    return (
        f"\nlisteners=CLIENT://{address}:{port},CONTROLLER://127.0.0.1:{controller}"
        f"\nadvertised.listeners=CLIENT://127.0.0.1:{port}"
        f"\ncontroller.quorum.voters=1@127.0.0.1:{controller}"
        "\nlog.dirs=data\n"
    )


def security(config: Mapping[str, str]) -> str:
    """The settings of a secured broker, whose own account this is."""
    # The controller cannot use SCRAM, whose accounts are in the metadata that it keeps, and accounts in SCRAM are made
    # by somebody who is let in before there are any. So the broker has an account of its own, in this file alone.
    user, password = config["sasl.username"], config["sasl.password"]
    plain = (
        "org.apache.kafka.common.security.plain.PlainLoginModule required"
        f' username="{user}" password="{password}" user_{user}="{password}";'
    )
    accounts = (f"listener.name.{name}.plain.sasl.jaas.config={plain}\n" for name in ("client", "controller"))
    return (INFRA / "secured.properties").read_text() + "".join(accounts)


def _more() -> str:
    """The operator's own settings of the broker, which go before all others."""
    path = os.environ.get("ESTUAIRE_BROKER_PROPERTIES")
    return Path(path).read_text() if path else ""


def _kept_id(folder: Path) -> str | None:
    """The id of the cluster whose data are there."""
    kept = folder / "data" / "meta.properties"
    found = re.search(r"^cluster\.id=(.+)$", kept.read_text(), re.MULTILINE) if kept.exists() else None
    return found[1] if found else None


def _cluster_id() -> str:
    return base64.urlsafe_b64encode(b"E" + uuid.uuid4().bytes[1:]).decode().rstrip("=")


def answers(
    servers: str,
    seconds: float,
    running: Callable[[], bool] = lambda: True,
    config: Mapping[str, str] | None = None,
    cluster: str | None = None,
) -> bool:
    """Whether a broker (of the cluster of this id, if there is one) answers within so many seconds, while `running`."""
    settings = common(RuntimeSettings(bootstrap_servers=servers)) | dict(config or {})
    admin = AdminClient(settings | {"log_level": 0, "reconnect.backoff.ms": 50, "reconnect.backoff.max.ms": 200})
    deadline = time.monotonic() + seconds
    while running() and time.monotonic() < deadline:
        with suppress(KafkaException):
            found = admin.list_topics(timeout=0.5)
            if found.brokers and cluster in (None, found.cluster_id):
                return True
    return False


# Docker


def _in_container(home: Path, port: int, report: Report) -> _Run | None:
    """None where no engine answers, or the image cannot be had (which is reported)."""
    if not _docker("info", "--format", "{{.ServerVersion}}", seconds=5):
        return None
    image = f"apache/kafka:{version()}"
    if not _docker("image", "inspect", image, seconds=10):
        report(f"pulling {image}")
        pulled = _docker("pull", "--quiet", image, seconds=PULL_SECONDS)
        if not pulled:
            report(f"{image} cannot be pulled, so Kafka runs natively: {pulled.error}")
            return None
    name = f"estuaire-kafka-{hashlib.sha256(str(home).encode()).hexdigest()[:12]}"
    _remove(name)  # we hold the home's lock, so what bears its name was left behind by a killed client
    folder = str(home / "kafka")
    options = ("--name", name, "--user", f"{os.getuid()}:{os.getgid()}", "--publish", f"127.0.0.1:{port}:{port}")
    mounts = ("--volume", f"{folder}:{folder}", "--volume", f"{INFRA}:{INFRA}:ro", "--workdir", folder)
    command = ("docker", "run", "--rm", *options, *mounts, "--entrypoint", "java", image)
    return _Run("container", command, "/opt/kafka/libs/*", "0.0.0.0", name)  # noqa: S104  published on 127.0.0.1 only


@dataclass(frozen=True, slots=True)
class _Answer:
    error: str | None = None

    def __bool__(self) -> bool:
        return self.error is None


def _docker(*arguments: str, seconds: float) -> _Answer:
    try:
        done = subprocess.run(("docker", *arguments), capture_output=True, text=True, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return _Answer(str(error))
    if done.returncode or not done.stdout.strip():
        return _Answer((done.stderr.strip().splitlines() or ["no answer"])[-1][:200])
    return _Answer()


def _remove(container: str) -> None:
    _docker("rm", "--force", container, seconds=30)


# Java


def _natively(report: Report) -> _Run:
    return _Run("native", (find_java(),), f"{find_jars(report)}/*")


def find_java() -> str:
    """Java 17 or later: `$JAVA_HOME`'s, else the one on the path. Raises StartError."""
    under_home = Path(os.environ.get("JAVA_HOME") or "/nowhere") / "bin" / "java"
    java = str(under_home) if under_home.exists() else shutil.which("java")
    # macOS has a `java` that only says that there is none
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False) if java else None
    if not java or not said or said.returncode:
        raise StartError(
            "the broker needs Docker or Java, and neither can be used here: install Docker, or Java 17+ with Maven"
            f" (apt install openjdk-17-jre-headless maven, brew install openjdk maven), {INSTEAD}"
        )
    found = re.search(r'version "(?:1\.)?(\d+)', said.stderr)
    if not found or int(found[1]) < JAVA:
        number = found[1] if found else "of an unknown version"
        raise StartError(f"Java {number} at {java} is too old: Kafka needs {JAVA} or later; install it, {INSTEAD}")
    return java


def find_jars(report: Report) -> Path:
    """The folder of Kafka's jars in the user's cache, downloaded once, whole or not at all. Raises StartError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "estuaire"
    folder = cache / f"kafka-{version()}"
    try:
        if folder.is_dir():
            return folder
        with Lock(cache / f"kafka-{version()}.lock") as lock:
            if not lock.take():
                report("another start is downloading Kafka; waiting for it")
                if not lock.take(DOWNLOAD_SECONDS):
                    raise StartError(f"another start still holds {lock.path}: end it, {INSTEAD}")
            if not folder.is_dir():
                _download(folder, report)
    except OSError as error:
        raise StartError(f"Kafka cannot be kept in {cache}: {error.strerror}; set XDG_CACHE_HOME, {INSTEAD}") from None
    return folder


def version() -> str:
    """The version of Kafka that is pinned, as a Maven artifact and as an image."""
    found = re.search("<kafka.version>(.+?)</kafka.version>", (INFRA / "pom.xml").read_text())
    assert found
    return found[1]


def _download(folder: Path, report: Report) -> None:
    maven = shutil.which("mvn")
    if not maven:
        raise StartError(
            "Maven is not installed, and the first start downloads Kafka with it:"
            f" install it (apt install maven, brew install maven), {INSTEAD}"
        )
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    goal = ("dependency:copy-dependencies", f"-DoutputDirectory={partial}")
    errors = []
    with (
        _progress(f"downloading Kafka {version()}", report) as advance,
        subprocess.Popen(
            (maven, "-B", "-f", str(INFRA / "pom.xml"), *goal),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        for line in process.stdout or ():
            if jar := re.search(r"Downloaded from \S+ \S+\.jar \(([\d.]+) (B|kB|MB)", line):
                advance(int(float(jar[1]) * {"B": 1, "kB": 1000, "MB": 1_000_000}[jar[2]]))
            elif "[ERROR]" in line:
                errors.append(line.split("[ERROR]", 1)[1].strip())
    if process.returncode or not any(partial.glob("kafka_*.jar")):
        why = errors[0][:300] if errors else f"mvn ended with {process.returncode}"
        raise StartError(f"Kafka could not be downloaded; try again, {INSTEAD}: {why}")
    partial.rename(folder)


@contextmanager
def _progress(title: str, report: Report) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, else a line for every ten jars."""
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda size: bar.advance(task, size)
        return
    report(title)
    sizes: list[int] = []

    def advance(size: int) -> None:
        sizes.append(size)
        if len(sizes) % 10 == 0:
            report(f"{title}: {len(sizes)} jars, {sum(sizes) / 1e6:.0f} MB")

    yield advance
