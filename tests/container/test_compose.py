"""The hub of infra/compose.yaml: started from an empty folder, and the demo run through it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from estuaire.deployment import COMPOSE, prepare
from estuaire.platform import SERVICES
from estuaire.process import free_port
from tests.container.conftest import ROOT

pytestmark = pytest.mark.container

READY = "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"
REACHES = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"


class Composed:
    """The hub, and what tests ask of compose."""

    def __init__(self, folder: Path) -> None:
        self.ingest, self.console = free_port(), free_port()
        self._folder = folder
        self._project = f"estuaire-test-{os.getpid()}"

    def write(self, variables: Mapping[str, str]) -> None:
        """Set variables of the deployment, in place of those that are there."""
        file = self._folder / "compose.env"
        kept = [line for line in file.read_text().splitlines() if line.partition("=")[0] not in variables]
        file.write_text("\n".join([*kept, *(f"{name}={value}" for name, value in variables.items()), ""]))

    def __call__(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of compose."""
        variables = str(self._folder / "compose.env")
        named = ["--env-file", variables, "--project-name", self._project, "--file", "infra/compose.yaml"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ESTUAIRE_")}
        done = subprocess.run(
            ["docker-compose", *named, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
        )
        assert not check or done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done

    def reaches(self, service: str, host: str, port: int) -> bool:
        """Whether a service can open a connection there."""
        return self("exec", "-T", service, "python", "-c", REACHES, host, str(port), check=False).returncode == 0


@pytest.fixture(scope="module")
def compose(servers: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    if shutil.which("docker-compose") is None:
        pytest.skip("NO DOCKER-COMPOSE: the hub has not been started from its compose file")
    folder = tmp_path_factory.mktemp("composed") / "hub"
    prepare(folder, COMPOSE)
    hub = Composed(folder)
    listen = {"INGEST": hub.ingest, "CONSOLE": hub.console}
    hub.write(
        {
            **servers,
            **{f"ESTUAIRE_{name}_LISTEN": f"127.0.0.1:{port}" for name, port in listen.items()},
            "ESTUAIRE_VERSION": "test",
            "ESTUAIRE_HOT_PARTITIONS": "2",
        }
    )
    try:
        hub("up", "--detach", "--no-build")
        yield hub
    finally:
        hub("down", "--volumes", "--timeout", "5", check=False)


def demo(compose: Composed) -> dict[str, Any]:
    """What came out of the sample, sent through the hub."""
    done = compose("run", "--rm", "operator", "deployment", "try", "--json")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def result(compose: Composed) -> dict[str, Any]:
    return demo(compose)


def test_the_demo_runs_through_it(result: dict[str, Any]) -> None:
    assert result["sent"] == result["accepted"] + result["rejected"] == 6000
    assert result["accepted"] == result["linked"] + result["duplicates"] + result["dead_lettered"]
    assert result["patients"] == 500
    assert all(result["views"].values())


def test_ingest_and_the_console_answer_outside(compose: Composed) -> None:
    for port in (compose.ingest, compose.console):
        assert httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code == httpx.codes.OK


def test_services_reach_what_the_table_says_and_no_more(compose: Composed) -> None:
    for service in SERVICES:
        assert compose.reaches(service, "kafka", 9093) == (service != "console"), service
        owns = service in ("linkage", "access", "statistics", "audit")
        assert compose.reaches(service, "postgres", 5432) == owns, service


def test_the_operators_commands_work_in_its_network_as_whom_they_name(
    compose: Composed, result: dict[str, Any]
) -> None:
    verified = compose("run", "--rm", "operator", "audit", "verify")
    assert "the log is what was signed" in verified.stdout
    read = compose("run", "--rm", "operator", "subscribe", "cardio-rennes", "--as", "team-cardio")
    assert json.loads(read.stdout.splitlines()[0])["type"]


def test_what_is_recreated_goes_on_where_it_was(compose: Composed, result: dict[str, Any]) -> None:
    """An upgrade replaces the services: what was kept stays, and what is sent again is there already."""
    compose("up", "--detach", "--no-build", "--no-deps", "--force-recreate", "--timeout", "20", *SERVICES)
    deadline = time.monotonic() + 120
    for service in SERVICES:
        while compose("exec", "-T", service, "python", "-c", READY, check=False).returncode:
            assert time.monotonic() < deadline, f"{service} is not ready in time"
    again = demo(compose)
    assert again["linked"] == 0
    assert (again["patients"], again["views"]) == (result["patients"], result["views"])
