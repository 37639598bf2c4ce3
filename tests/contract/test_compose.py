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
from estuaire.observe import built_jaeger
from estuaire.platform import DATABASES, SERVICES
from services.linkage.settings import LinkageSettings

pytestmark = pytest.mark.contract

INFRA = Path(__file__).parents[2] / "infra"
PLATFORM, OBSERVE, KEYCLOAK, BROKER, ISSUER = (
    INFRA / f"compose{name}.yaml" for name in ("", ".observe", ".keycloak", ".broker", ".issuer")
)
FILES = (PLATFORM, OBSERVE, KEYCLOAK, BROKER, ISSUER)
DOCUMENT = " ".join((INFRA.parent / "docs" / "deployment.md").read_text().split())
WINDOWS = "statistics-windows"
OURS = {*SERVICES, WINDOWS, "establish", "rights", "operator"}
QUIET = {"establish", "rights", "operator"}
"""The operator's own, with every right already: they may share a network."""
POOL = 30
"""Networks for which Docker has addresses, where nothing else is set and nobody else has any."""
Edges = set[frozenset[str]]


def services(file: Path = PLATFORM) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text())["services"]
    return found


def members(*files: Path) -> dict[str, set[str]]:
    """Who is in each network of the platform's file and these."""
    found: dict[str, set[str]] = {}
    for file in (PLATFORM, *files):
        for name, one in services(file).items():
            for network in one.get("networks", ()):
                found.setdefault(network, set()).add(name)
    return found


def edges(*files: Path) -> Edges:
    """Who can reach whom: every two that share any network. A network leads both ways."""
    return {
        frozenset(pair)
        for who in members(*files).values()
        for pair in itertools.combinations(sorted(who), 2)
        if not set(pair) <= QUIET
    }


def between(one: str, *others: str) -> Edges:
    return {frozenset((one, other)) for other in others}


OVER_HTTP = {*SERVICES, WINDOWS} - {"console"}
TABLE = {
    # the table of docs/deployment.md, an edge for each client of each server
    *between("kafka", *acl.services(), WINDOWS, *QUIET),
    *between("postgres", *DATABASES, WINDOWS, "establish"),
    *between("console", *OVER_HTTP, "operator"),
    *between("operator", *OVER_HTTP),
    # two processes of one service: one account, the same keys
    *between("statistics", WINDOWS),
}
WATCHERS = {
    *between("prometheus", *OVER_HTTP, "console", "rights", "collector", "jaeger", "grafana", "operator"),
    *between("collector", *OVER_HTTP, "console", "jaeger", "operator"),
    *between("jaeger", "console", "grafana"),
}
ASKING = ("linkage", "access", "statistics", "audit", "console")
PROVIDER = between("keycloak", *ASKING, WINDOWS, "operator")


def test_nobody_reaches_whom_the_table_does_not_say() -> None:
    assert edges() == TABLE
    assert edges(BROKER) == edges(ISSUER) == TABLE, "a way out each, and to nobody else of the hub"


def test_who_watches_reaches_services_and_neither_broker_nor_database() -> None:
    assert edges(OBSERVE) == TABLE | WATCHERS
    assert not {edge for edge in WATCHERS if edge & {"kafka", "postgres"}}


def test_the_identity_provider_is_reached_by_who_asks_it() -> None:
    assert edges(KEYCLOAK) == TABLE | PROVIDER
    everything = edges(OBSERVE, KEYCLOAK, BROKER)
    assert everything == TABLE | WATCHERS | PROVIDER | between("keycloak", "prometheus", "collector")


def test_the_networks_are_as_many_as_the_document_says_and_docker_has_addresses_for() -> None:
    alone, most = len(members()), max(len(members(OBSERVE, BROKER, one)) for one in (KEYCLOAK, ISSUER))
    assert most < POOL
    assert f"{alone} networks, {most} with every other file" in DOCUMENT
    declared = {name for file in FILES for name in yaml.safe_load(file.read_text())["networks"]}
    assert declared == members(*FILES[1:]).keys()


def test_what_is_published_is_said_so_and_on_this_machine_alone() -> None:
    published = {name: one["ports"] for file in FILES for name, one in services(file).items() if "ports" in one}
    assert published.keys() == {"ingest", "console", "keycloak", "kafka", "prometheus", "grafana", "jaeger"}
    assert {name for name, (port,) in published.items() if "127.0.0.1" not in port} == {"kafka"}, "by a file of its own"
    assert {name for name, one in services().items() if "ports" in one} == {"ingest", "console"}
    assert {name for name, one in networks(*FILES).items() if not one.get("internal")} == {
        "outside", "kafka-outside", "keycloak-outside", "watched", *members(ISSUER).keys() - members().keys(),
    }  # fmt: skip


def networks(*files: Path) -> dict[str, dict[str, Any]]:
    return {name: one for file in files for name, one in yaml.safe_load(file.read_text())["networks"].items()}


def test_every_variable_that_the_document_tells_to_set_is_taken() -> None:
    """One that no file passes on would do nothing, and say nothing."""
    compose = DOCUMENT.partition("## Compose")[2].partition("## Kubernetes")[0]
    told = set(re.findall(r"\b(?:ESTUAIRE|KEYCLOAK)_[A-Z_]+", compose))
    taken = {name for file in FILES for name in re.findall(r"\$\{([A-Z_]+)", file.read_text())}
    secrets = {"ESTUAIRE_CONSOLE_CLIENT_SECRET"}  # a file of the folder
    assert told - secrets <= taken
    assert {"ESTUAIRE_REWIND", "ESTUAIRE_LINKAGE_FOUR_EYES", "ESTUAIRE_SITES"} <= taken & told


@pytest.mark.parametrize("file", [PLATFORM, OBSERVE, KEYCLOAK], ids=lambda file: file.name)
def test_every_container_is_nobody_and_writes_where_it_is_said(file: Path) -> None:
    for name, one in services(file).items():
        if "image" not in one:
            continue  # of the platform's file, with a network more
        assert one["read_only"] is True, name
        assert one["cap_drop"] == ["ALL"], name
        assert one["security_opt"] == ["no-new-privileges:true"], name
        assert "user" in one, name
        assert "mem_limit" in one, name
        assert "restart" in one, name


@pytest.mark.parametrize("file", [PLATFORM, OBSERVE, KEYCLOAK], ids=lambda file: file.name)
def test_every_image_that_is_not_ours_has_a_version(file: Path) -> None:
    for name, one in services(file).items():
        image = str(one.get("image", ""))
        if "build" in one:
            image = one["build"]["args"]["KEYCLOAK"]
        if image and name not in OURS:
            tag = image.removesuffix("}").rpartition(":")[2]
            assert re.search(r"\d+\.\d+", tag), f"{name}: {image}"
    assert f"apache/kafka:{version()}}}" in services()["kafka"]["image"], "the version of infra/kafka/pom.xml"
    postgres = re.search(r"postgres:([\d.]+)-", services()["postgres"]["image"])
    databases = (INFRA / "kubernetes" / "base" / "databases.yaml").read_text()
    assert postgres
    assert set(re.findall(r"postgresql:([\d.]+)-", databases)) == {postgres[1]}, "one version everywhere"


def test_a_service_has_its_own_keys_and_secrets_alone_and_writes_none_of_them() -> None:
    for name in (*SERVICES, "rights"):
        mounts = [str(one).replace("${ESTUAIRE_FOLDER}", "") for one in services()[name]["volumes"]]
        for mount in mounts:
            source, target, *mode = mount.split(":") if "CHECKPOINTS" not in mount else ("/checkpoints", "", "rw")
            if source in ("/links", "/checkpoints", "/accounts"):
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
    files = "".join(one.read_text() for one in FILES)
    mounted = set(re.findall(r"\$\{ESTUAIRE_FOLDER(?::\?)?\}(/[a-z0-9./-]+)", files))
    assert {path for path in mounted if not (tmp_path / path[1:]).exists()} == set()
    secrets = {path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_mode & 0o077}
    assert {path.name for path in secrets} <= {
        "producers.yaml", "issuer.jwks", "audit-verifier.txt", "addresses.json",
        "catalogue.yaml", "sources.yaml", "terms.yaml",
    }  # fmt: skip
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    prepare(tmp_path, COMPOSE)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}, "nothing made anew"


def resolved(folder: Path, *more: Path) -> dict[str, Any]:
    """The files with the variables of a folder, as compose has them."""
    files = [word for file in (PLATFORM, *more) for word in ("-f", str(file))]
    command = ["docker-compose", "--env-file", str(folder / "compose.env"), *files, "config"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ESTUAIRE_", "KEYCLOAK_"))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


needs_compose = pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")


@needs_compose
@pytest.mark.parametrize("more", [(), (OBSERVE,), (KEYCLOAK,), (ISSUER, BROKER), (OBSERVE, KEYCLOAK, BROKER)], ids=str)
def test_docker_compose_takes_them(tmp_path: Path, more: tuple[Path, ...]) -> None:
    prepare(tmp_path, COMPOSE)
    found = resolved(tmp_path, *more)
    assert found["networks"]["linkage"]["internal"] is True
    assert found["services"]["access"]["depends_on"]["establish"]["condition"] == "service_completed_successfully"
    assert found["networks"].keys() == members(*more).keys()


@needs_compose
@pytest.mark.parametrize(("said", "means"), [(None, False), ("", False), ("true", True)])
def test_what_is_set_for_linkage_is_what_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, *, means: bool
) -> None:
    prepare(tmp_path, COMPOSE)
    if said is not None:
        with (tmp_path / "compose.env").open("a") as variables:
            variables.write(f"ESTUAIRE_REWIND={said}\nESTUAIRE_LINKAGE_FOUR_EYES={said}\n")
    for name, value in resolved(tmp_path, KEYCLOAK)["services"]["linkage"]["environment"].items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("ESTUAIRE_SECRETS", str(tmp_path / "secrets" / "linkage"))
    settings = LinkageSettings()
    assert (settings.rewind, settings.four_eyes) == (means, means)
    assert settings.oidc_document == "https://keycloak:8443/realms/estuaire/.well-known/openid-configuration"
    assert (settings.oidc_keys, settings.oidc_issuer) == ("", "http://127.0.0.1:8081/realms/estuaire")


def test_the_trace_store_has_the_file_that_says_how_much_it_keeps() -> None:
    jaeger = services(OBSERVE)["jaeger"]
    config = (INFRA / "jaeger" / "jaeger.yaml").read_text()
    assert any(one.startswith("./jaeger/jaeger.yaml:") for one in jaeger["volumes"])
    assert set(re.findall(r"\$\{env:([A-Z_]+)", config)) <= jaeger["environment"].keys()
    kept = yaml.safe_load(config)["extensions"]["jaeger_storage"]["backends"]["memory"]["memory"]["max_traces"]
    assert f"the newest {kept:,}" in OBSERVE.read_text()


@pytest.mark.skipif(not built_jaeger().exists(), reason="NO JAEGER HERE to try its settings: `make traces` builds it")
def test_the_trace_store_takes_its_settings() -> None:
    environment = os.environ | {
        str(name): str(value) for name, value in services(OBSERVE)["jaeger"]["environment"].items()
    }
    command = [str(built_jaeger()), "validate", "--config", str(INFRA / "jaeger" / "jaeger.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
