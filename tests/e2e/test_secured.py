"""The whole platform on a broker that asks everybody who they are: from send to a subscriber's own reading."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from contracts.acl import subscriber
from estuaire.keyring import OFFICER
from estuaire.permits import Officer
from estuaire.platform import SERVICES, Service
from estuaire.subscriber import Subscriber, View, ViewError
from tests.commands import estuaire
from tests.hub import Hub

pytestmark = pytest.mark.e2e

Make = Callable[..., dict[str, Any]]


def can_read(hub: Hub, permit: str, name: str) -> bool:
    try:
        Subscriber(hub.platform.settings_as(subscriber(name)), permit).read()
    except ViewError:
        return False
    return True


def test_a_subscriber_reads_its_view_and_no_other(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit, other = hub.permit(source), hub.permit(source)
    (name,), (others_name,) = permit.subscribers, other.subscribers
    hub.wait_for(lambda: can_read(hub, permit.id, name) and can_read(hub, other.id, others_name))
    hub.send(source, [observation(source, f"s{number}", 1) for number in range(3)])
    done = estuaire(hub, "subscribe", permit.id, "--as", name)
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["id"] for one in entries} == {one.id for one in hub.view(permit).entries()}
    assert len(entries) == 3
    assert "not yours" in estuaire(hub, "subscribe", permit.id, "--as", others_name, expect=1).stderr
    assert "not yours" in estuaire(hub, "subscribe", other.id, "--as", name, expect=1).stderr
    assert "there is no topic" in estuaire_as(hub, name, "tap", "records-linked").stderr


def estuaire_as(hub: Hub, name: str, *arguments: str) -> Any:
    """Run a command that fails, with a subscriber's account in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTUAIRE_KAFKA_CONFIG", json.dumps(hub.platform.settings_as(subscriber(name)).kafka_config))
        return estuaire(hub, *arguments, expect=1)


def test_a_running_subscriber_is_cut_off_when_its_permit_closes(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    (name,) = permit.subscribers
    hub.wait_for(lambda: can_read(hub, permit.id, name))
    hub.send(source, [observation(source, "s", 1)])
    events = Subscriber(hub.platform.settings_as(subscriber(name)), permit.id).follow(View())
    next(events)
    Officer(hub.platform.access_url, hub.platform.keyring.token("officers", OFFICER)).close(permit.id)
    begun = time.monotonic()
    with pytest.raises(ViewError, match="authorization failed"):
        list(events)
    assert time.monotonic() - begun < 5
    assert not can_read(hub, permit.id, name)


def test_no_service_is_denied_what_it_asks_for(hub: Hub, observation: Make) -> None:
    source = hub.source()
    hub.permit(source)
    hub.send(source, [observation(source, "s", 1)])
    log = (hub.platform.home / "logs" / "kafka.log").read_text()
    assert "default result=DENIED" in log
    denied = re.findall(rf"Principal = User:(?:{'|'.join(SERVICES)}) is Denied.*", log)
    assert not denied, denied[:3]


def test_rights_are_shown(hub: Hub) -> None:
    permit = hub.permit(hub.source())
    shown = estuaire(hub, "rights", "--site", "site-b").stdout
    for line in (
        "access .* create .* view-\\*",
        "pseudonym .* read .* records-received ",
        "site-b .* write .* receipts",
    ):
        assert re.search(line, shown), shown
    assert re.search(f"subscriber/{permit.subscribers[0]} .* read .* view-{permit.id} ", shown)
    assert not re.search("ingest .* read .* records", shown)


@pytest.mark.parametrize("role", ["staff", "subscriber"])
def test_access_does_not_start_with_a_role_that_may_too_much_or_is_missing(hub: Hub, role: str) -> None:
    running = hub.platform.services["access"]
    setting = f"ESTUAIRE_ACCESS_{role.upper()}_URL"
    owner, good = running.environment["ESTUAIRE_ACCESS_DATABASE_URL"], running.environment[setting]
    said = {owner: "row-level security does not hold the role access;", good.replace(f"access_{role}", "none"): "none"}
    for url, why in said.items():
        log = hub.platform.home / "logs" / "access-refused.log"
        refused = Service("access", running.url, log, {**running.environment, setting: url})
        refused.start()
        assert refused.process is not None
        assert refused.process.wait(30) == 2
        assert why in refused.last_error()
        assert "see Roles in services/access/README.md" in log.read_text()
        assert url.split("password=")[1].split("&")[0] not in log.read_text()
