"""The gateway's compose file is one that Docker takes, and gives the service no more than it needs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from contracts.registry import topics
from estuaire.gateway import GIVEN, OWN, SHARED
from estuaire.keyring import Keyring
from runtime.keys import FolderKeyStore
from services.ingest import app
from services.ingest.settings import IngestSettings

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
FILE = ROOT / "infra" / "compose.edge.yaml"
DOCUMENT = ROOT / "docs" / "edge-gateway.md"


def service() -> dict[str, Any]:
    (one,) = yaml.safe_load(FILE.read_text())["services"].values()
    assert isinstance(one, dict)
    return one


def test_the_service_is_no_root_and_writes_nowhere() -> None:
    one = service()
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert int(one["user"].split(":")[0]) > 0
    assert all(volume.endswith(":ro") for volume in one["volumes"])
    assert "readyz" in str(one["healthcheck"]["test"])
    assert "127.0.0.1" in one["ports"][0], "not open to the network unless somebody says so"


def test_its_settings_are_those_of_ingest_and_none_of_them_is_a_secret() -> None:
    known = {
        name
        for field in IngestSettings.model_fields.values()
        for name in getattr(field.validation_alias, "choices", ())
    } | {f"ESTUAIRE_{name.upper()}" for name in IngestSettings.model_fields}
    assert service()["environment"].keys() <= known


class Recording(FolderKeyStore):
    """A key store that knows what was asked of it."""

    asked: ClassVar[set[str]] = set()

    def secret(self, name: str) -> dict[int, bytes]:
        self.asked.add(name)
        return super().secret(name)


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the keys that ingest loads, as it starts; it ends where it finds no list of producers."""
    keyring = Keyring(tmp_path)
    keyring.prepare()
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "nowhere:1")
    settings = IngestSettings(keys=keyring.folder("ingest"), producers=tmp_path / "none.yaml")
    monkeypatch.setattr(app, "read_settings", lambda _kind: settings)
    monkeypatch.setattr(app, "start_logging", lambda _level: None)
    monkeypatch.setattr(app, "FolderKeyStore", Recording)
    monkeypatch.setattr(Recording, "asked", set())
    assert app.main() == 2
    return Recording.asked


def test_a_site_makes_or_is_given_every_key_that_ingest_loads_and_no_other(loaded: set[str], tmp_path: Path) -> None:
    assert {SHARED, *OWN, *GIVEN} == loaded
    assert {path.stem for path in Keyring(tmp_path).folder("ingest").iterdir()} == loaded


def test_the_document_names_every_key_and_who_makes_it() -> None:
    document = DOCUMENT.read_text()
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| ([^|]+) \| [^|]+ \|$", document, re.MULTILINE))
    assert {name for name, whose in rows.items() if whose.startswith("given out")} == set(GIVEN)
    assert {name for name, whose in rows.items() if whose == "the site's own"} == set(OWN)
    _, _, travel = document.partition("## How keys travel")
    assert all(f"`{name}.json`" in travel for name in GIVEN)


def test_the_document_has_the_rights_that_the_topics_give_to_ingest() -> None:
    rows = re.findall(r"^\| (`[^|]+`) \| ((?:read|write)[^|]*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    stated = {name: set(rights.split(", ")) for names, rights in rows for name in re.findall(r"`([a-z-]+)`", names)}
    declared: dict[str, set[str]] = {}
    for topic in topics().values():
        rights = {"write"} if "ingest" in topic.producers else set()
        rights |= {"read"} if "ingest" in topic.consumers else set()
        if rights:
            declared |= dict.fromkeys(topic.lane_names(), rights | {"describe"})
    assert stated == declared


@pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose is not installed")
def test_docker_compose_takes_it(tmp_path: Path) -> None:
    (tmp_path / "edge.env").write_text("ESTUAIRE_KAFKA_CONFIG={}\n")
    environment = {**os.environ, "GATEWAY_HOME": str(tmp_path), "KAFKA_BOOTSTRAP_SERVERS": "kafka.hub.example:9093"}
    command = ["docker-compose", "-f", str(FILE), "config"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    resolved = yaml.safe_load(done.stdout)["services"]["ingest"]
    assert resolved["environment"]["ESTUAIRE_KAFKA_CONFIG"] == "{}"
    del environment["GATEWAY_HOME"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "the folder with keys, producers and edge.env" in done.stderr
