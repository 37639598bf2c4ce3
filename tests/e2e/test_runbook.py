"""What the runbook says to do in a bad hour is done here, as it says it, while records go on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from estuaire.database import running_database
from estuaire.platform import DATABASES, READERS, Platform
from estuaire.process import StartError
from runtime.keys import FolderKeyStore, write_key
from runtime.sealing import Opener
from tests.commands import estuaire
from tests.hub import Hub, free_base_port, opened

pytestmark = pytest.mark.e2e

Make = Callable[..., dict[str, Any]]
RUNBOOK = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()


def test_a_recipients_key_is_rotated_and_records_go_on(hub: Hub, observation: Make) -> None:
    source, services = hub.source(), hub.platform.services
    permit = hub.permit(source)
    hub.send(source, [observation(source, "before", 1)])
    old = FolderKeyStore(hub.platform.keyring.folder("pseudonym"))
    old_key = old.secret("pseudonym-private")
    (script,) = re.findall(r"uv run python - <<'PYTHON'\n(.*?)\nPYTHON", RUNBOOK, re.DOTALL)
    environment = os.environ | {"ESTUAIRE_HOME": str(hub.platform.home)}
    done = subprocess.run(
        [sys.executable, "-"], input=script, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, ["restart ingest after pseudonym"]), done.stderr
    for name in ("pseudonym", "ingest"):
        services[name].stop()
        hub.platform.start_services(name)
    hub.send(source, [observation(source, "after", 1, value=80)])
    assert len(hub.view(permit).entries()) == 2

    openers = [Opener(FolderKeyStore(hub.platform.keyring.folder("pseudonym")).private("pseudonym-private"))]
    for version in old_key:
        folder = hub.platform.home / f"key-{version}"
        openers.append(Opener(_private(folder, {version: old_key[version]})))
    records = (one for one in hub.messages("records-received") if one.value)
    mine = [one for one in records if one.header("ce_source") == source]
    reads = [[any(opened(one, [opener])) for opener in openers] for one in mine]
    assert [both for both, _ in reads] == [True, True], "nothing that was sealed before is lost"
    assert sorted(old for _, old in reads) == [False, True], "what came after is sealed to the new key alone"


def test_databases_are_restored_and_read_again_what_came_since(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    hub.send(source, [observation(source, f"a{number}", number % 10) for number in range(100)])
    with stopped(hub, "linkage", "access") as restored:
        restored.keep()
    since = hub.send(source, [observation(source, f"b{number}", number % 20, value=60) for number in range(100)])
    hub.send(source, [observation(source, "b7", 7, value=61, correction=True)])
    before = told(hub, permit)
    assert len(before) == 200

    with stopped(hub, "linkage", "access") as restored:
        restored.put_back()
        for name in ("linkage", "access"):
            with pytest.raises(StartError, match="older than the broker's offsets"):
                restored.start(name)
            restored.start(name, ESTUAIRE_REWIND="true")
        reads_on(hub, source)
    assert told(hub, permit) == before
    for one in since.accepted:
        for service in ("linkage", "access"):
            assert hub.get(f"/v1/records/{one['event_id']}", "operators", "olga", service=service).status_code == 200
    # what comes after is newer than anything that a subscriber has, also where less was told on the way here
    hub.send(source, [observation(source, "b7", 7, value=62, correction=True)])
    values = [one.data["record"]["valueQuantity"]["value"] for one in hub.view(permit).entries()]
    assert (values.count(61), values.count(62)) == (0, 1)


@pytest.mark.long
def test_a_lost_cluster_is_begun_anew(tmp_path: Path, observation: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """All topics are gone, what was not read yet with them; the databases are there, linkage's as of minutes before."""
    port = free_base_port()
    with platform(tmp_path, port) as hub:
        source = hub.source()
        permit = hub.permit(source)
        hub.send(source, [observation(source, f"a{number}", number % 10) for number in range(50)])
        with stopped(hub, "linkage") as restored:
            restored.keep()
        since = [observation(source, f"b{number}", number % 20, value=60) for number in range(50)]
        hub.send(source, since)
        hub.platform.services["access"].stop()
        lost = [observation(source, f"c{number}", number % 20, value=70) for number in range(20)]
        with hub.producer(source) as producer:
            list(producer.send(iter(lost), len(lost)))
        hub.wait_for(lambda: len(hub.messages("records-linked")) >= 120)
        for name in ("ingest", "pseudonym", "linkage"):
            hub.platform.services[name].stop()
        Restored(hub, ("linkage",)).put_back()
    shutil.rmtree(tmp_path / "kafka")

    with pytest.raises(StartError, match="about the log of another broker"), platform(tmp_path, port):
        pass
    monkeypatch.setenv("ESTUAIRE_REWIND", "true")
    with platform(tmp_path, port) as hub:
        for act in ("suspend", "resume"):
            estuaire(hub, "permit", act, permit.id)
        with hub.producer(source) as producer:
            list(producer.send(iter([*since, *lost]), 100))
            assert producer.wait_for_views(source)
        told_now = hub.view(permit).entries()
        assert (
            sorted(one.data["record"]["valueQuantity"]["value"] for one in told_now)
            == [60] * 50 + [70] * 20 + [72] * 50
        )
        assert len({one.subject for one in told_now}) == 20
        assert [one for one in told_now if one.id not in {line["id"] for line in hub.timelines(permit)}] == []
    monkeypatch.delenv("ESTUAIRE_REWIND")
    with platform(tmp_path, port) as hub:
        hub.send(source, [observation(source, "c7", 7, value=71, correction=True)])
        values = [one.data["record"]["valueQuantity"]["value"] for one in hub.view(permit).entries()]
        assert (values.count(70), values.count(71)) == (19, 1)


@contextmanager
def platform(home: Path, port: int) -> Iterator[Hub]:
    with Platform(home, port, report=lambda _line: None, trace_ratio=0.0) as started:
        yield Hub(started)


class Restored:
    """Databases of services that are stopped, and copies of them."""

    def __init__(self, hub: Hub, names: tuple[str, ...]) -> None:
        self._hub = hub
        self._names = names
        self._database = running_database(hub.platform.home)

    def keep(self) -> None:
        for name in self._names:
            self._run("CREATE DATABASE {} OWNER {} TEMPLATE {}", f"{name}_kept", name, name)

    def put_back(self) -> None:
        for name in self._names:
            self._run("DROP DATABASE {}", name)
            self._run("ALTER DATABASE {} RENAME TO {}", f"{name}_kept", name)
            self._database.url(name)
            for reader in READERS.get(name, ()):
                self._database.reader_url(name, reader)

    def start(self, name: str, **settings: str) -> None:
        service = self._hub.platform.services[name]
        trial = replace(service, environment={**service.environment, **settings}, process=None)
        trial.start()
        service.process = trial.process
        try:
            trial.wait(time.monotonic() + 60)
        except StartError:
            trial.kill()
            raise

    def _run(self, query: str, *names: str) -> None:
        with psycopg.connect(**self._database._admin, autocommit=True) as connection:
            connection.execute(sql.SQL(query).format(*map(sql.Identifier, names)))


@contextmanager
def stopped(hub: Hub, *names: str) -> Iterator[Restored]:
    """Without these services; at the end they run, as they did before."""
    assert set(names) <= set(DATABASES)
    for name in names:
        hub.platform.services[name].stop()
    yield Restored(hub, names)
    for name in names:
        hub.platform.services[name].stop()
    hub.platform.start_services(*names)


def reads_on(hub: Hub, source: str) -> None:
    with hub.producer(source) as producer:
        assert producer.wait_for_views(source)


def told(hub: Hub, permit: Any) -> list[tuple[str, str | None, Any]]:
    return sorted(
        (one.id, one.subject, one.data["record"]["valueQuantity"]["value"]) for one in hub.view(permit).entries()
    )


def _private(folder: Path, versions: dict[int, bytes]) -> Any:
    folder.mkdir()
    write_key(folder, "pseudonym-private", versions)
    return FolderKeyStore(folder).private("pseudonym-private")
