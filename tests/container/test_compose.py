"""The hub of the compose files: started from an empty folder, and what its documentation says done to it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

import httpx
import pytest

from contracts.acl import subscriber
from contracts.permits import Permit
from estuaire.broker import answers
from estuaire.client import SendError
from estuaire.deployment import COMPOSE, Deployment, prepare
from estuaire.platform import Platform
from estuaire.process import free_port
from estuaire.subscriber import Subscriber
from runtime.messages import Message
from tests.container.conftest import ROOT
from tests.contract.test_compose import BROKER, KEYCLOAK, OVER_HTTP, PLATFORM, WINDOWS, edges
from tests.hub import Hub
from tests.keycloak import Realm

pytestmark = [pytest.mark.container, pytest.mark.long]

DOCUMENT = (ROOT / "docs" / "deployment.md").read_text()
READY = "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"
REACHED = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def reached(place):
    host, _, port = place.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 2).close()
        return place
    except OSError:
        return None
print(*filter(None, ThreadPoolExecutor(64).map(reached, sys.argv[1:])))
"""
PORTS = {"kafka": 9093, "postgres": 5432, **dict.fromkeys([*OVER_HTTP, "console", "rights"], 8000)}
Make = Callable[..., dict[str, Any]]


class Outside(Deployment):
    """The hub of a folder, as its clients elsewhere know it."""

    def __init__(self, folder: Path, ingest: int, access: int, broker: int) -> None:
        super().__init__(folder)
        services = {"INGEST": ingest, "ACCESS": access}
        self._addresses |= {f"ESTUAIRE_{name}_URL": f"http://127.0.0.1:{port}" for name, port in services.items()}
        self._addresses["ESTUAIRE_BROKER"] = f"localhost:{broker}"


class Composed:
    """The hub, and what tests ask of compose."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ingest, self.access, self.console, self.broker = (free_port() for _ in range(4))
        self._project = f"estuaire-test-{os.getpid()}"
        # access is published as the document says that an operator may
        own = re.search(r"```yaml\n(services:\n  access: .+?)```", DOCUMENT, re.DOTALL)
        assert own is not None
        published = folder.parent / "compose.access.yaml"
        published.write_text(own[1].replace("127.0.0.1:8001:", f"127.0.0.1:{self.access}:"))
        self.files = [PLATFORM, BROKER, published]

    @property
    def outside(self) -> Outside:
        """The hub as clients elsewhere know it."""
        return Outside(self.folder, self.ingest, self.access, self.broker)

    @property
    def hub(self) -> Hub:
        """What tests do to a hub, from outside."""
        return Hub(cast(Platform, self.outside))

    def write(self, variables: Mapping[str, str]) -> None:
        """Set variables of the deployment, in place of those that are there."""
        file = self.folder / "compose.env"
        kept = [line for line in file.read_text().splitlines() if line.partition("=")[0] not in variables]
        file.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in variables.items()), ""]))

    def __call__(
        self, *words: str, check: bool = True, given: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """A command of compose."""
        files = [word for file in self.files for word in ("--file", str(file))]
        named = ["--env-file", str(self.folder / "compose.env"), "--project-name", self._project, *files]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ESTUAIRE_")}
        done = subprocess.run(
            ["docker-compose", *named, *words], cwd=ROOT, env=environment, input=given, capture_output=True, timeout=300
        )
        assert not check or done.returncode == 0, f"{done.stdout[-2000:].decode()}\n{done.stderr[-2000:].decode()}"
        return done

    def up(self, *services: str, anew: bool = False) -> None:
        """Start these and wait until they are ready."""
        more = ["--force-recreate"] if anew else []
        self("up", "--detach", "--no-build", "--no-deps", "--timeout", "20", *more, *services)
        deadline = time.monotonic() + 120
        for service in services:
            while self("exec", "-T", service, "python", "-c", READY, check=False).returncode:
                assert time.monotonic() < deadline, f"{service} is not ready in time"

    def addresses(self, service: str) -> list[str]:
        """Of the service's container in each of its networks."""
        container = self("ps", "--quiet", service).stdout.decode().strip()
        asked = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        told = subprocess.run(
            ["docker", "inspect", "--format", asked, container], capture_output=True, text=True, check=True
        )
        return told.stdout.split()

    def reached(self, service: str, places: Mapping[str, str]) -> set[str]:
        """Whose places (by host:port) a service can open a connection to."""
        done = self("exec", "-T", service, "python", "-c", REACHED, *places)
        return {places[one] for one in done.stdout.decode().split()}


@pytest.fixture(scope="module")
def compose(servers: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    if shutil.which("docker-compose") is None:
        pytest.skip("NO DOCKER-COMPOSE: the hub has not been started from its compose file")
    folder = tmp_path_factory.mktemp("composed") / "hub"
    prepare(folder, COMPOSE)
    hub = Composed(folder)
    listen = {"INGEST": hub.ingest, "CONSOLE": hub.console, "BROKER": hub.broker}
    hub.write(
        {
            **servers,
            **{f"ESTUAIRE_{name}_LISTEN": f"127.0.0.1:{port}" for name, port in listen.items()},
            "ESTUAIRE_BROKER_OUTSIDE": f"localhost:{hub.broker}",
            "ESTUAIRE_CONSOLE_URL": f"http://127.0.0.1:{hub.console}",
            "ESTUAIRE_SITES": "site-b",
            "ESTUAIRE_VERSION": "test",
            "ESTUAIRE_HOT_PARTITIONS": "2",
        }
    )
    try:
        hub("up", "--detach", "--no-build")
        hub.up(*OVER_HTTP, "console")
        yield hub
    finally:
        hub("down", "--volumes", "--timeout", "5", check=False)


@pytest.fixture(scope="module")
def result(compose: Composed) -> dict[str, Any]:
    """What came out of the sample, sent through the hub."""
    done = compose("run", "--rm", "operator", "deployment", "try", "--json")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture
def source(compose: Composed) -> str:
    """A producer's, which ingest knows; the folder is theirs again who run the containers."""
    source = compose.hub.source()
    compose.outside.keyring.producer_token(source)
    prepare(compose.folder, COMPOSE)
    return source


def test_the_demo_runs_through_it(result: dict[str, Any]) -> None:
    assert result["sent"] == result["accepted"] + result["rejected"] == 6000
    assert result["accepted"] == result["linked"] + result["duplicates"] + result["dead_lettered"]
    assert result["patients"] == 500
    assert all(result["views"].values())


def test_ingest_and_the_console_answer_outside(compose: Composed) -> None:
    for port in (compose.ingest, compose.console):
        assert httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code == httpx.codes.OK


def test_services_reach_what_the_table_says_and_no_more_by_whatever_address(compose: Composed) -> None:
    places = {f"{address}:{port}": name for name, port in PORTS.items() for address in compose.addresses(name)}
    assert len(places) > 30
    allowed = edges(BROKER)
    for service in (*OVER_HTTP, "console", "rights"):
        expected = {name for name in PORTS if frozenset((service, name)) in allowed}
        assert compose.reached(service, places) - {service} == expected, service
    assert compose.reached("ingest", places) == {"ingest", "kafka", "console"}


def test_the_operators_commands_work_in_its_network_as_whom_they_name(
    compose: Composed, result: dict[str, Any]
) -> None:
    verified = compose("run", "--rm", "operator", "audit", "verify")
    assert b"the log is what was signed" in verified.stdout
    read = compose("run", "--rm", "operator", "subscribe", "cardio-rennes", "--as", "team-cardio")
    assert json.loads(read.stdout.splitlines()[0])["type"]


def test_who_has_an_account_reaches_the_broker_from_elsewhere_and_nobody_else(
    compose: Composed, source: str, observation: Make
) -> None:
    hub, outside = compose.hub, compose.outside
    permit = hub.permit(source)
    hub.send(source, [observation(source, f"r{number}", number) for number in range(5)])
    settings = outside.settings_as(subscriber(permit.subscribers[0]))
    hub.wait_for(lambda: answers(settings.bootstrap_servers, 2, config=settings.kafka_config))
    assert len(Subscriber(settings, permit.id).read().entries()) == 5
    gateway, itself, nobody = (
        outside.settings_as("site-b"), outside.settings_as_broker(), outside.settings_as("site-c"),
    )  # fmt: skip
    hub.wait_for(lambda: answers(gateway.bootstrap_servers, 2, config=gateway.kafka_config))
    for other in (itself, nobody):
        assert not answers(other.bootstrap_servers, 3, config=other.kafka_config)


def values(messages: list[Any]) -> Counter[float]:
    """How often each value is there."""
    return Counter(one.data["record"]["valueQuantity"]["value"] for one in messages)


class Traffic:
    """Records of one source, ten at a time, each with a value of its own, until it is told to stop."""

    def __init__(self, hub: Hub, source: str, observation: Make) -> None:
        self._hub, self._source, self._observation = hub, source, observation
        self.sent = 0
        self.trouble: SendError | None = None
        self._stop = Event()
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(150)

    def _run(self) -> None:
        try:
            with self._hub.producer(self._source) as producer:
                while not self._stop.wait(0.05):
                    events = [self._observation(self._source, f"r{one}", one % 7, one) for one in self._next()]
                    (answer,) = producer.send(events)
                    assert len(answer.accepted) == len(events)
                    self.sent += len(events)
        except SendError as trouble:
            self.trouble = trouble

    def _next(self) -> range:
        return range(self.sent + 1, self.sent + 11)


def test_an_upgrade_loses_nothing_and_has_nothing_twice(compose: Composed, source: str, observation: Make) -> None:
    """Every service is replaced while records come, in the order of the document: readers before writers."""
    hub = compose.hub
    permit = hub.permit(source)
    order = ("audit", "statistics", WINDOWS, "access", "linkage", "pseudonym", "ingest", "console")
    assert set(order) == {*OVER_HTTP, "console"}
    with Traffic(hub, source, observation) as traffic:
        for service in order:
            before, container = traffic.sent, compose("ps", "--quiet", service).stdout
            compose.up(service, anew=True)
            assert compose("ps", "--quiet", service).stdout != container
            hub.wait_for(lambda before=before: traffic.sent > before, 60)  # type: ignore[misc]
    assert traffic.trouble is None
    wanted = Counter(dict.fromkeys(range(1, traffic.sent + 1), 1))
    hub.wait_for(lambda: len(hub.view(permit).entries()) >= traffic.sent, 120)
    assert values(hub.view(permit).entries()) == wanted
    published = Counter(one.key for one in records(hub, permit))
    assert (len(published), set(published.values())) == (traffic.sent, {1})


def records(hub: Hub, permit: Permit) -> list[Message]:
    return [one for one in hub.messages(f"view-{permit.id}") if one.value and b"record.withdrawn" not in one.value]


def test_a_database_that_is_restored_goes_back_on_the_broker_and_on(
    compose: Composed, source: str, observation: Make
) -> None:
    """By the commands of the document."""
    words = {
        name: shlex.split(found[1])
        for name in ("pg_dump", "pg_restore")
        if (found := re.search(rf"^hub (exec -T postgres {name} .+?) [<>] \S*linkage\.dump$", DOCUMENT, re.MULTILINE))
    }
    hub = compose.hub
    permit = hub.permit(source)
    hub.send(source, [observation(source, f"r{number}", number % 3, number) for number in range(1, 11)])
    dump = compose(*words["pg_dump"]).stdout
    hub.send(source, [observation(source, f"r{number}", number % 5, number) for number in range(11, 31)])
    compose("stop", "linkage")
    compose(*words["pg_restore"], given=dump)
    compose("up", "--detach", "--no-build", "--no-deps", "linkage")
    hub.wait_for(lambda: b"ESTUAIRE_REWIND" in compose("logs", "--no-color", "linkage").stdout, 60)
    compose.write({"ESTUAIRE_REWIND": "true"})
    compose.up("linkage")
    hub.send(source, [observation(source, f"r{number}", number % 7, number) for number in range(31, 41)])
    hub.wait_for(lambda: len(hub.view(permit).entries()) >= 40, 60)
    assert values(hub.view(permit).entries()) == Counter(dict.fromkeys(range(1, 41), 1))
    compose.write({"ESTUAIRE_REWIND": ""})
    compose.up("linkage")
    hub.send(source, [observation(source, "r41", 1, 41)])
    hub.wait_for(lambda: len(hub.view(permit).entries()) == 41, 60)


def test_keycloak_is_the_issuer_of_a_hub(compose: Composed, keycloak_image: str, result: dict[str, Any]) -> None:
    """The last of these tests: from here on nobody comes in by a token of the folder's."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    compose.files.append(KEYCLOAK)
    compose.write({"KEYCLOAK_URL": url, "KEYCLOAK_LISTEN": f"127.0.0.1:{port}", "ESTUAIRE_CONSOLE_CLIENT_ID": "here"})
    compose("up", "--detach", "--no-build", "--no-deps", "keycloak")
    realm = Realm(url, (compose.folder / "keycloak" / "config" / "admin").read_text())
    compose.hub.wait_for(realm.answers, 180)
    compose.hub.wait_for(lambda: b"(healthy)" in compose("ps", "keycloak").stdout, 60)
    compose.up("linkage", "access", "statistics", "audit", "console")
    secret = realm.client("the-operator", "operator")
    headers = {"Authorization": f"Bearer {realm.token('the-operator', secret)}"}
    counted = httpx.get(f"{compose.outside.access_url}/v1/counts", headers=headers, timeout=10)
    assert (counted.status_code, counted.json()["records"] > 0) == (httpx.codes.OK, True)
    own = {"Authorization": f"Bearer {compose.outside.keyring.token('the-operator', 'operator')}"}
    refused = httpx.get(f"{compose.outside.access_url}/v1/counts", headers=own, timeout=10)
    assert refused.status_code == httpx.codes.UNAUTHORIZED
    console = f"http://127.0.0.1:{compose.console}"
    realm.page_client("here", console)
    password = realm.user("olive", "officer")
    with httpx.Client(base_url=console, timeout=30) as browser:
        away = browser.get(browser.get("/permits").headers["location"]).headers["location"]
        assert away.startswith(url)
        assert browser.get(realm.sign_in(away, "olive", password)).headers["location"] == "/permits"
        page = browser.get("/permits")
        assert page.status_code == httpx.codes.OK
        assert "olive" in page.text
        assert "cardio-rennes" in page.text
