"""Which permits are open, as the messages of `permits` say."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.acl import subscriber
from contracts.messages import PermitClosed, PermitGranted, PermitKeyWrapped, ViewScan, encode
from contracts.permits import Permit
from estuaire.home import is_secured
from estuaire.keyring import ADMIN, Keyring
from estuaire.rights import OpenPermits, RightsKeeper
from runtime.settings import RuntimeSettings

pytestmark = pytest.mark.unit

LAST = dt.date(2026, 6, 30)


def granted(name: str = "one", **changes: Any) -> PermitGranted:
    definition = {"id": name, "title": "A", "purpose": "Tests", "sources": ["*"], "types": ["claim.v1"]}
    permit = Permit.model_validate(definition | {"expires": LAST, "subscribers": ["a"]} | changes)
    return PermitGranted(name, permit.definition(), "2026-01-01T00:00:00+00:00")


def subscribers(*messages: Any, today: dt.date = LAST) -> dict[str, tuple[str, ...]]:
    permits = OpenPermits()
    for message in messages:
        permits.apply(message if isinstance(message, bytes | None) else encode(message))
    return {one.id: one.subscribers for one in permits.on(today)}


def test_a_permit_is_open_from_its_grant_to_its_last_day() -> None:
    assert subscribers(granted()) == {"one": ("a",)}
    assert subscribers(granted(), today=LAST + dt.timedelta(days=1)) == {}


def test_what_is_closed_stays_closed() -> None:
    closed = PermitClosed("one", "tests")
    assert subscribers(granted(), closed) == {}
    assert subscribers(granted(), closed, granted()) == {}
    assert subscribers(closed, granted()) == {}
    assert subscribers(granted(), granted("two"), closed) == {"two": ("a",)}


def test_of_two_grants_the_first_holds() -> None:
    assert subscribers(granted(), granted(subscribers=["b"])) == {"one": ("a",)}


def test_the_higher_revision_holds_and_who_is_suspended_reads_nothing() -> None:
    fewer = msgspec.structs.replace(granted(subscribers=["b"]), revision=1)
    assert subscribers(granted(), fewer) == subscribers(fewer) == subscribers(fewer, granted()) == {"one": ("b",)}
    suspended = msgspec.structs.replace(fewer, revision=2, suspended=True)
    assert subscribers(granted(), suspended) == subscribers(suspended, fewer) == {}
    resumed = msgspec.structs.replace(fewer, revision=3)
    assert subscribers(suspended, resumed) == {"one": ("b",)}
    assert subscribers(suspended, PermitClosed("one", "tests"), resumed) == {}


def test_what_cannot_be_read_grants_nothing() -> None:
    broken = PermitGranted("one", b"{}", "2026-01-01T00:00:00+00:00")
    of_another = PermitGranted("one", granted("two").definition, "2026-01-01T00:00:00+00:00")
    wrapped, scan = PermitKeyWrapped("one", b"key"), ViewScan("one", 0)
    assert subscribers(None, b"", b"\xc1", broken, of_another, wrapped, scan) == {}


def test_a_password_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    config = Keyring(tmp_path).kafka_config(ADMIN)
    assert config == Keyring(tmp_path).kafka_config(ADMIN)
    assert "group.id" not in config
    other = Keyring(tmp_path).kafka_config(subscriber("a b"))
    assert other["sasl.password"] != config["sasl.password"]
    assert other["group.id"] == "subscriber/a%20b/estuaire"
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*.json")} == {0o600}


def test_accounts_of_the_home_are_for_its_own_broker(tmp_path: Path) -> None:
    assert not is_secured(tmp_path, "127.0.0.1:9092")
    (tmp_path / "addresses.json").write_text('{"ESTUAIRE_BROKER": "127.0.0.1:9092"}')
    assert not is_secured(tmp_path, "127.0.0.1:9092")
    (tmp_path / "addresses.json").write_text('{"ESTUAIRE_BROKER": "127.0.0.1:9092", "ESTUAIRE_BROKER_USER": "admin"}')
    assert is_secured(tmp_path, "127.0.0.1:9092")
    assert not is_secured(tmp_path, "kafka.example:9092")


def test_a_site_is_introduced_once_as_subscribers_are_and_no_service_is() -> None:
    told: list[set[str]] = []
    keeper = RightsKeeper(
        RuntimeSettings(bootstrap_servers="none"), lambda names: told.append(set(names)), sites=["site-b"]
    )
    for _ in range(2):
        keeper._meet(keeper._always)
    assert told == [{"site-b"}]
