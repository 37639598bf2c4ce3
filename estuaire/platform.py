"""The whole hub on one machine: broker, database, topics, keys, and one process for each service."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from threading import Thread

from contracts import acl
from contracts.registry import topics_to_create
from estuaire.broker import Broker, start_broker
from estuaire.console import links_folder
from estuaire.database import Database, start_database
from estuaire.keyring import ADMIN, AUDIENCE, ISSUER, Keyring
from estuaire.observe import Observers
from estuaire.process import Child, Report, StartError, free_port, is_free, require_home, wait_until_ready
from estuaire.rights import RightsKeeper, tell_metrics, write_accounts
from runtime.kafka import create_topics
from runtime.settings import RuntimeSettings

PORTS = {
    "ingest": 0,
    "access": 1,
    "pseudonym": 2,
    "linkage": 3,
    "statistics": 4,
    "audit": 5,
    "statistics.flow": 6,
    "console": 80,
}
"""All processes, by the module they run, and where each listens, from the base port on."""
SERVICES = tuple(name for name in PORTS if "." not in name)
"""All services: one has a second process, which goes by the account, the keys and the settings of the service."""
DATABASES = ("linkage", "access", "statistics", "audit")
"""The services that have a database of their own."""
READERS = {"access": ("staff", "subscriber")}
"""The roles with which a service reads for those who ask over HTTP, where it has any."""
BROKER_OFFSET = 1092
CHECKPOINTS = "checkpoints"
"""The folder of the home that is the audit log's second place."""


@dataclass(slots=True)
class Service:
    """One service's process, which can be killed and started again."""

    name: str
    url: str
    log: Path
    environment: Mapping[str, str]
    process: Child | None = field(default=None)

    def start(self) -> None:
        """Start the process; `wait` for it afterwards."""
        self.process = Child([sys.executable, "-m", f"services.{self.name}"], self.log, environment=self.environment)

    def wait(self, deadline: float) -> None:
        """Wait until the service says that it is ready. Raises StartError."""
        wait_until_ready(self.name, self, f"{self.url}/readyz", deadline)

    def running(self) -> bool:
        """Whether the process is there."""
        return self.process is not None and self.process.running()

    def last_error(self) -> str:
        """The last line it has logged that speaks of an error."""
        return self.process.last_error() if self.process else "it was never started"

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process:
            self.process.kill()

    def stop(self) -> None:
        """Let it finish the batch at hand."""
        if self.process:
            self.process.stop()


class Platform:
    """Started with `with`; everything it has started is stopped at the end, services first."""

    def __init__(
        self, home: Path, port: int = 8000, report: Report = print, *, trace_ratio: float = 0.01, observe: bool = False
    ) -> None:
        self.home = home
        self.observers = Observers(home, report) if observe else None
        self.keyring = Keyring(home)
        self.bootstrap_servers = ""
        self.services: dict[str, Service] = {}
        self._port = port
        self._report = report
        self._trace_ratio = trace_ratio
        self._secured = False
        self._rights_port: int | None = None
        self._stack = ExitStack()

    @property
    def ingest_url(self) -> str:
        """Where producers send."""
        return self.services["ingest"].url

    @property
    def access_url(self) -> str:
        """Where subscribers and officers ask."""
        return self.services["access"].url

    @property
    def console_url(self) -> str:
        """Where people look and act."""
        return self.services["console"].url

    def settings(self) -> RuntimeSettings:
        """Settings for a client of this platform."""
        return self.settings_as(ADMIN)

    def settings_as(self, principal: str) -> RuntimeSettings:
        """Settings for a client of this platform that goes by this principal at a broker that was started here."""
        settings = RuntimeSettings(bootstrap_servers=self.bootstrap_servers)
        if not self._secured:
            return settings
        config = settings.kafka_config | self.keyring.kafka_config(principal)
        return settings.model_copy(update={"kafka_config": config})

    def __enter__(self) -> Platform:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def metrics(self) -> dict[str, str]:
        """Where Prometheus finds figures, by the names that infra/prometheus has."""
        found = {name.replace("statistics.flow", "statistics-windows"): one.url for name, one in self.services.items()}
        return found | ({"rights": _url(self._rights_port)} if self._rights_port else {})

    def make_service(self, name: str, url: str, log: Path, environment: Mapping[str, str]) -> Service:
        """How a service runs: a process here; the container tests run it otherwise."""
        return Service(name, url, log, environment)

    def start_services(self, *names: str) -> None:
        """Start these services (all, when none is named) and wait until they are ready."""
        chosen = [self.services[name] for name in names or PORTS]
        for service in chosen:
            service.start()
        deadline = time.monotonic() + 60
        for service in chosen:
            service.wait(deadline)

    def _start(self) -> None:
        begun = time.monotonic()
        require_home(self.home)
        (self.home / "logs").mkdir(parents=True, exist_ok=True)
        ports = {name: self._port + offset for name, offset in PORTS.items()}
        for name, port in ports.items():
            if not is_free(port):
                raise StartError(f"port {port} is in use, and {name} needs it: choose another base port with --port")
        self.keyring.prepare()
        for name in OWN_FILES:
            if not (self.home / name).exists():
                (self.home / name).write_bytes((files("estuaire") / "data" / name).read_bytes())
        if self.observers:
            self._stack.callback(self.observers.stop)
            self.observers.start_traces()
        self._report("starting broker and database")
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(self._start_broker)
            database = self._stack.enter_context(start_database(self.home, report=self._report))
            urls = {name: self._urls(database, name) for name in DATABASES}  # while the broker is on its way
            broker = starting.result()
        self.bootstrap_servers, self._secured = broker.bootstrap_servers, bool(broker.kafka_config)
        if self._secured:
            self._open_accounts(broker)
        create_topics(self.settings(), topics_to_create(self.settings().hot_partitions))
        if self._secured:
            self._keep_rights()
        for name, port in ports.items():
            environment = self._environment(name, ports) | urls.get(name, {})
            self.services[name] = self.make_service(name, _url(port), self.home / "logs" / f"{name}.log", environment)
            self._stack.callback(self.services[name].stop)
        self._report("starting the services")
        self.start_services()
        if self.observers:
            self.observers.start_prometheus(self.metrics())
        self._write_addresses()
        self._report(f"ready in {time.monotonic() - begun:.1f} s")

    @staticmethod
    def _urls(database: Database, name: str) -> dict[str, str]:
        urls = {"database": database.url(name)}
        urls |= {reader: database.reader_url(name, reader) for reader in READERS.get(name, ())}
        return {f"ESTUAIRE_{name.upper()}_{kind.upper()}_URL": url for kind, url in urls.items()}

    def _write_addresses(self) -> None:
        found = {
            f"ESTUAIRE_{name.upper().replace('.', '_')}_URL": service.url for name, service in self.services.items()
        }
        found["ESTUAIRE_BROKER"] = self.bootstrap_servers
        if self._secured:
            found["ESTUAIRE_BROKER_USER"] = ADMIN
        (self.home / "addresses.json").write_text(json.dumps(found, indent=1))

    def _start_broker(self) -> Broker:
        """Beside the services (9092 for 8000), so that two platforms never share a port by accident."""
        port = self._port + BROKER_OFFSET
        started = start_broker(self.home, port if is_free(port) else None, self._report, secured=True)
        return self._stack.enter_context(started)

    def _open_accounts(self, broker: Broker) -> None:
        """The operator's and the services', written with the broker's own account; from here on it is not used."""
        settings = RuntimeSettings(bootstrap_servers=broker.bootstrap_servers)
        itself = settings.model_copy(update={"kafka_config": dict(broker.kafka_config)})
        write_accounts(itself, self.keyring.passwords([ADMIN, *sorted(acl.services())]))

    def _keep_rights(self) -> None:
        """In this process, which is the operator's: no service may give rights, least of all to itself."""
        settings = self.settings()
        keeper = RightsKeeper(settings, lambda names: write_accounts(settings, self.keyring.passwords(names)))
        if self.observers:
            self._rights_port = free_port()
            tell_metrics(self._rights_port, "127.0.0.1")
        thread = Thread(target=keeper.run, name="rights", daemon=True)
        thread.start()
        self._stack.callback(thread.join, 10)
        self._stack.callback(keeper.stop)
        if not keeper.settled.wait(30):
            raise StartError("the broker does not take its access rules in time")

    def _environment(self, name: str, ports: Mapping[str, int]) -> dict[str, str]:
        service = name.partition(".")[0]
        own = f"ESTUAIRE_{service.upper()}_"
        inherited = {key: value for key, value in os.environ.items() if key != "DATABASE_URL"}
        common = {**inherited, "ESTUAIRE_PORT": str(ports[name]), **self._callers(name)}
        if name == "console":
            url = self.observers and self.observers.traces_url
            return common | {
                f"{own}URL": _url(ports[name]),
                **{f"{own}{one.upper()}": _url(ports[one]) for one in SERVICES if one != name},
                f"{own}LINKS": str(links_folder(self.home)),
                **({f"{own}TRACES": url, f"{own}TRACES_API": url} if url else {}),
            }
        return {
            **common,
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "ESTUAIRE_KAFKA_CONFIG": json.dumps(self.settings_as(service).kafka_config),
            "ESTUAIRE_TRACE_FILE": str(self.home / "logs" / f"{name}.spans.ndjson"),
            "ESTUAIRE_TRACE_RATIO": str(self._trace_ratio),
            **(self.observers.environment() if self.observers else {}),
            f"{own}KEYS": str(self.keyring.folder(service)),
            **({f"{own}CHECKPOINTS": str(self.home / CHECKPOINTS)} if name == "audit" else {}),
            **{own + key: str(self.home / file) for file, (key, readers) in OWN_FILES.items() if service in readers},
        }

    def _callers(self, name: str) -> dict[str, str]:
        """Whose tokens a service takes."""
        match name:
            case "ingest":
                return {"ESTUAIRE_INGEST_PRODUCERS": str(self.keyring.producers)}
            case "statistics.flow":
                return {}
        keys = self.keyring.issuer_keys.absolute().as_uri()
        return {"ESTUAIRE_OIDC_ISSUER": ISSUER, "ESTUAIRE_OIDC_AUDIENCE": AUDIENCE, "ESTUAIRE_OIDC_KEYS": keys}


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


OWN_FILES = {
    "sources.yaml": ("SOURCES", ("access", "statistics")),
    "terms.yaml": ("TERMS", ("access",)),
    "catalogue.yaml": ("CATALOGUE", ("access",)),
}
"""What is the operator's to write, in the home: as which setting, and who reads it. The demo's is there at first."""
