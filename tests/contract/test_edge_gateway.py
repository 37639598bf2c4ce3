"""The gateway's compose file is one that Docker takes, and gives the service no more than it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from estuaire.gateway import GIVEN, OWN, SHARED
from services.ingest.settings import IngestSettings

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
FILE = ROOT / "infra" / "compose.edge.yaml"


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


def test_the_document_names_every_key() -> None:
    document = (ROOT / "docs" / "edge-gateway.md").read_text()
    assert all(f"`{name}`" in document for name in (SHARED, *OWN, *GIVEN))


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
