"""The compose files are ones that compose takes, give each container what it needs, and no more."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts import acl
from estuaire.broker import version
from estuaire.database import SETTINGS
from estuaire.deployment import COMPOSE, prepare
from estuaire.platform import DATABASES, SERVICES

pytestmark = pytest.mark.contract

INFRA = Path(__file__).parents[2] / "infra"
PLATFORM, OBSERVE, KEYCLOAK = (INFRA / f"compose{name}.yaml" for name in ("", ".observe", ".keycloak"))
OURS = {*SERVICES, "statistics-windows", "establish", "rights", "operator"}
WINDOWS = "statistics-windows"


def services(file: Path = PLATFORM) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text())["services"]
    return found


def edges(*files: Path) -> set[frozenset[str]]:
    """Who can reach whom: every two that share a network from which ports are not just published."""
    members: dict[str, set[str]] = {}
    for file in (PLATFORM, *files):
        for name, one in services(file).items():
            for network in one["networks"]:
                members.setdefault(network, set()).add(name)
    shared = {network: who for network, who in members.items() if network not in ("outside", "issuer", "watched")}
    return {frozenset(pair) for who in shared.values() for pair in itertools.combinations(sorted(who), 2)}


def allowed() -> set[frozenset[str]]:
    """The design's table: clients of the broker, a database and its service, and the console over the others' HTTP."""
    clients = {"kafka", *acl.services(), WINDOWS, "establish", "rights", "operator"}
    found = {frozenset(pair) for pair in itertools.combinations(sorted(clients), 2)}  # one network, of one broker
    found |= {frozenset(("postgres", name)) for name in (*DATABASES, WINDOWS, "establish")}
    found |= {frozenset(("console", name)) for name in (*SERVICES, WINDOWS, "operator") if name != "console"}
    return found


def test_nobody_reaches_whom_the_table_does_not_say() -> None:
    assert edges() == allowed()
    assert {name for name, one in services().items() if "database" in str(one["networks"])} == {
        "postgres",
        "establish",
        WINDOWS,
        *DATABASES,
    }, "each its own, and pseudonym none"


def test_who_watches_reaches_services_and_neither_broker_nor_database() -> None:
    """A service's network leads to its collector, too: which so could also reach the service, as Prometheus does."""
    steps = {*acl.services(), WINDOWS, "operator"}
    found = {frozenset(("collector", one)) for one in (*steps, "console", "prometheus", "jaeger")}
    found |= {frozenset(("prometheus", one)) for one in (*steps, "console", "grafana", "jaeger")}
    found |= {frozenset(("jaeger", one)) for one in ("console", "grafana")}
    assert edges(OBSERVE) - edges() == found


def test_only_ingest_and_the_console_are_published_and_on_this_machine_alone() -> None:
    published = {name: one["ports"] for name, one in services().items() if "ports" in one}
    assert published.keys() == {"ingest", "console"}
    assert all("127.0.0.1" in port for (port,) in published.values())
    networks = yaml.safe_load(PLATFORM.read_text())["networks"]
    assert {name for name, one in networks.items() if not one.get("internal")} == {"outside"}
    assert {name for name, one in services().items() if "outside" in one["networks"]} == published.keys()


@pytest.mark.parametrize("file", [PLATFORM, OBSERVE, KEYCLOAK], ids=lambda file: file.name)
def test_every_container_is_nobody_and_writes_where_it_is_said(file: Path) -> None:
    for name, one in services(file).items():
        if "image" not in one:
            continue  # of the platform's file, with a network more
        assert one["read_only"] is (name != "keycloak"), name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert "user" in one, name
        assert "mem_limit" in one, name
        assert "restart" in one, name


@pytest.mark.parametrize("file", [PLATFORM, OBSERVE, KEYCLOAK], ids=lambda file: file.name)
def test_every_image_that_is_not_ours_has_a_version(file: Path) -> None:
    for name, one in services(file).items():
        image = str(one.get("image", ""))
        if image and name not in OURS:
            tag = image.removesuffix("}").rpartition(":")[2]
            assert re.search(r"\d+\.\d+", tag), f"{name}: {image}"
    assert f"apache/kafka:{version()}}}" in services()["kafka"]["image"], "the version of infra/kafka/pom.xml"


def test_a_service_has_its_own_keys_and_secrets_alone_and_writes_none_of_them() -> None:
    for name in SERVICES:
        mounts = [str(one).replace("${ESTUAIRE_FOLDER}", "") for one in services()[name]["volumes"]]
        for mount in mounts:
            source, target, *mode = mount.split(":") if "CHECKPOINTS" not in mount else ("/checkpoints", "", "rw")
            if source in ("/links", "/checkpoints"):
                continue
            assert mode == ["ro"], mount
            own = {f"/keys/{name}", f"/secrets/{name}", "/hub", "/tokens/issuer.jwks"}
            assert source in own | ({"/producers"} if name == "ingest" else set()), f"{name}: {mount}"
            assert target.startswith("/etc/estuaire/")


def test_no_environment_holds_a_secret() -> None:
    for name, one in services().items():
        for variable in one.get("environment", {}):
            assert not re.search("PASSWORD$|SECRET$|KAFKA_CONFIG|DATABASE_URL|STAFF_URL|SUBSCRIBER_URL", variable), name


def test_the_database_logs_no_value_of_a_row() -> None:
    options = dict(one.removeprefix("--").split("=") for one in services()["postgres"]["command"][1:])
    quiet = {name: value for name, value in SETTINGS.items() if re.match("log_(min|error|statement|param)", name)}
    assert quiet.items() <= options.items()


def test_what_prepare_writes_is_what_the_files_mount(tmp_path: Path) -> None:
    prepare(tmp_path, COMPOSE)
    mounted = set(re.findall(r"\$\{ESTUAIRE_FOLDER(?::\?)?\}(/[a-z./-]+)", PLATFORM.read_text()))
    assert {path for path in mounted if not (tmp_path / path[1:]).exists()} == set()
    secrets = {path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_mode & 0o077}
    assert {path.name for path in secrets} <= {
        "producers.yaml", "issuer.jwks", "audit-verifier.txt", "addresses.json",
        "catalogue.yaml", "sources.yaml", "terms.yaml",
    }  # fmt: skip
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    prepare(tmp_path, COMPOSE)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}, "nothing made anew"


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
@pytest.mark.parametrize("more", [(), (OBSERVE,), (KEYCLOAK,), (OBSERVE, KEYCLOAK)], ids=str)
def test_docker_compose_takes_them(tmp_path: Path, more: tuple[Path, ...]) -> None:
    prepare(tmp_path, COMPOSE)
    files = [word for file in (PLATFORM, *more) for word in ("-f", str(file))]
    command = ["docker-compose", "--env-file", str(tmp_path / "compose.env"), *files, "config"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ESTUAIRE_")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    resolved = yaml.safe_load(done.stdout)
    assert resolved["networks"]["issuer"]["internal"] is True
    assert resolved["services"]["access"]["depends_on"]["establish"]["condition"] == "service_completed_successfully"
