"""Every service is known wherever one has to be named."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from contracts.acl import services
from estuaire.home import addresses
from estuaire.keyring import PUBLIC, SECRETS, Keyring
from estuaire.platform import SERVICES

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[3]


def test_the_platform_the_keyring_and_the_import_rules_know_every_service() -> None:
    folders = {path.parent.name for path in (ROOT / "services").glob("*/app.py")}
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (independent,) = [rule["modules"] for rule in rules if rule["type"] == "independence"]
    assert folders == set(SERVICES) == set(SECRETS) == set(PUBLIC)
    assert {f"services.{name}" for name in folders} == set(independent)


def test_every_service_has_the_same_files() -> None:
    wanted = {"README.md", "__main__.py", "settings.py", "adapters.py", "routes.py", "app.py"}
    for name in SERVICES:
        folder = ROOT / "services" / name
        of_messages = {"handlers.py"} if name in services() else set()
        assert wanted | of_messages <= {path.name for path in folder.iterdir()}, name
        assert (folder / "domain.py").exists() or (folder / "domain").is_dir(), name


def test_keys_and_tokens_are_made_once_and_are_nobody_elses(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    keyring.prepare()
    token = keyring.producer_token("urn:x")
    kept = [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".jwk")]
    before = {path: path.read_bytes() for path in kept}
    keyring.prepare()
    assert {path: path.read_bytes() for path in kept} == before
    assert keyring.producer_token("urn:x") == token
    assert all(path.stat().st_mode & 0o077 == 0 for path in before)
    listed = keyring.producers.read_text()
    assert "urn:x" in listed
    assert token not in listed


def test_no_two_services_share_a_secret(tmp_path: Path) -> None:
    Keyring(tmp_path).prepare()
    for name in SERVICES:
        held = {path.stem for path in (tmp_path / "keys" / name).glob("*.json")}
        expected = set(SECRETS[name]) | {f"{recipient}-public" for recipient in PUBLIC[name]}
        assert held - {f"{name}-private"} == expected


def test_addresses_of_no_platform(tmp_path: Path) -> None:
    assert addresses(tmp_path) == {}
