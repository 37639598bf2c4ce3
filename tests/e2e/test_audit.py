"""The audit log from end to end: what is done leaves its leaf, and a log that was changed is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from contracts.merkle import extends, includes, leaf_hash, root_of
from contracts.permits import Permit
from estuaire.audit import AuditLog, Verified, verify
from estuaire.client import SendError
from estuaire.database import running_database
from estuaire.keyring import AUDITOR, OPERATOR, STEWARD
from estuaire.platform import CHECKPOINTS
from services.audit.domain.checkpoints import Checkpoint, Verifier
from tests.commands import estuaire
from tests.hub import Hub

pytestmark = pytest.mark.e2e

Make = Callable[..., dict[str, Any]]


def log_of(hub: Hub) -> AuditLog:
    return AuditLog(hub.platform.services["audit"].url, hub.platform.keyring.token(AUDITOR, "auditor"))


def leaves(hub: Hub, **filters: str) -> list[dict[str, Any]]:
    return [json.loads(one.line) for one in log_of(hub).entries(filters)]


def of_permit(hub: Hub, permit: Permit, *actions: str) -> list[dict[str, Any]]:
    return [one for one in leaves(hub, permit=permit.id) if one["action"] in actions]


def count(found: list[dict[str, Any]]) -> int:
    return sum(one["count"] for one in found)


def verified(hub: Hub) -> Verified:
    return verify(log_of(hub), hub.platform.home / CHECKPOINTS, hub.platform.keyring.verifier_key)


def post(hub: Hub, service: str, path: str, role: str, name: str, body: Any = None) -> httpx.Response:
    keyring = hub.platform.keyring
    token = keyring.producer_token(name) if role == "producers" else keyring.token(name, role.removesuffix("s"))
    url = f"{hub.platform.services[service].url}{path}"
    return httpx.post(url, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=30)


def test_what_is_released_is_told_and_found_again_from_the_view(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit, narrow = hub.permit(source), hub.permit(source, types=["claim.v1"], fields={"claim.v1": ["*"]})
    hub.send(source, [observation(source, f"r{number}", 1, value=60 + number) for number in range(7)])
    hub.send(source, [observation(source, "r3", 1, value=99, correction=True)])
    hub.send(source, [observation(source, "r4", 1, type="observation.v1.deleted")])
    hub.wait_for(lambda: count(of_permit(hub, permit, "released")) == 8 and bool(of_permit(hub, permit, "withdrawn")))
    # one person, so one partition: its messages come in the order of the leaves
    sent = [json.loads(one.value) for one in hub.messages(f"view-{permit.id}")]
    for verdict in ("released", "withdrawn"):
        ids = iter(one["id"] for one in sent if (one["type"] == "record.withdrawn") == (verdict == "withdrawn"))
        for leaf in of_permit(hub, permit, verdict):
            assert leaf["root"] == root_of([next(ids) for _ in range(leaf["count"])]).hex()
            assert leaf["actor"] == "service:access"
        assert next(ids, None) is None
    assert [one["action"] for one in leaves(hub, permit=narrow.id)] == ["permit-key-derived", "permit-granted"] or [
        one["action"] for one in leaves(hub, permit=narrow.id)
    ] == ["permit-granted", "permit-key-derived"]
    granted, derived = of_permit(hub, permit, "permit-granted"), of_permit(hub, permit, "permit-key-derived")
    assert [one["actor"] for one in granted] == ["officer:officer"]
    assert [one["actor"] for one in derived] == ["service:pseudonym"]


def test_a_page_is_told_before_it_is_answered_and_its_root_is_that_of_its_ids(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    hub.send(source, [observation(source, f"p{number}", number) for number in range(5)])
    team = permit.subscribers[0]
    pages = [list(page) for page in timelines(hub, permit, 2)]
    hub.wait_for(lambda: len(of_permit(hub, permit, "view-read")) == len(pages))
    for leaf, page in zip(of_permit(hub, permit, "view-read"), pages, strict=True):
        assert (leaf["actor"], leaf["count"]) == (f"subscriber:{team}", len(page))
        assert leaf["root"] == root_of(page).hex()
    other = hub.get(f"/v1/permits/{permit.id}/timelines", "subscribers", "somebody else")
    assert other.status_code == httpx.codes.NOT_FOUND
    assert post(hub, "access", f"/v1/permits/{permit.id}/close", "officers", "officer").is_success
    hub.wait_for(lambda: bool(of_permit(hub, permit, "permit-closed")))
    (closed,) = of_permit(hub, permit, "permit-closed")
    assert (closed["actor"], closed["count"], closed["root"]) == ("officer:officer", 5, "")


def timelines(hub: Hub, permit: Permit, limit: int) -> Iterator[Iterator[str]]:
    cursor: str | None = ""
    while cursor is not None:
        params: dict[str, Any] = {"limit": limit} | ({"cursor": cursor} if cursor else {})
        page = hub.get(f"/v1/permits/{permit.id}/timelines", "subscribers", permit.subscribers[0], **params)
        yield (json.loads(line)["id"] for line in page.text.splitlines())
        cursor = page.headers.get("X-Next-Cursor")


def test_an_opposition_says_how_much_it_withholds(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    hub.send(source, [observation(source, f"o{number}", 1) for number in range(3)])
    who = observation(source, "o0", 1)["data"]["identity"]
    asked = post(
        hub, "ingest", "/v1/oppositions", "producers", source, {"id": "opp-1", "identity": who, "scope": "all"}
    )
    assert asked.is_success, asked.text
    hub.wait_for(lambda: count(of_permit(hub, permit, "withdrawn")) == 3)
    hub.send(source, [observation(source, f"o{number}", 1) for number in range(3, 5)])
    hub.wait_for(lambda: count(of_permit(hub, permit, "withheld")) == 2)
    assert count(of_permit(hub, permit, "released")) == 3
    later = hub.permit(source)
    hub.wait_for(lambda: count(of_permit(hub, later, "withheld")) == 5)
    assert of_permit(hub, later, "released") == []
    assert leaves(hub, action="opposition-applied")


def test_acts_of_people_name_who_did_them(hub: Hub, observation: Make) -> None:
    source = hub.source()
    answer = hub.send(source, [observation(source, f"s{number}", number) for number in (1, 2)])
    events = [one["event_id"] for one in answer.accepted]
    traced = [hub.get(f"/v1/records/{one}", "operators", OPERATOR, service="linkage").json() for one in events]
    pair = sorted(one["subject_id"] for one in traced)
    said = post(hub, "linkage", f"/v1/reviews/{'-'.join(pair)}", "stewards", STEWARD, {"decision": "apart"})
    assert said.is_success, said.text
    hub.get(f"/v1/records/{events[0]}", "operators", OPERATOR)
    hub.wait_for(lambda: any(one["root"] == root_of(pair).hex() for one in leaves(hub, action="link-decided")))
    (decided,) = (one for one in leaves(hub, action="link-decided") if one["root"] == root_of(pair).hex())
    assert (decided["actor"], decided["about"], decided["count"]) == (f"steward:{STEWARD}", "apart", 2)
    asked = leaves(hub, action="record-traced", actor=f"operator:{OPERATOR}")
    for event, service in ((events[0], "linkage"), (events[1], "linkage"), (events[0], "access")):
        assert any((one["root"], one["about"]) == (root_of([event]).hex(), service) for one in asked)


def test_nothing_of_a_person_is_in_the_log(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    answer = hub.send(source, [observation(source, "n1", 4711)])
    hub.wait_for(lambda: count(of_permit(hub, permit, "released")) == 1)
    (view,) = hub.timelines(permit)
    text = "\n".join(one.line.decode() for one in log_of(hub).entries())
    for word in ("P004711", "n1", answer.accepted[0]["event_id"], view["id"], view["subject"]):
        assert f'"{word}' not in text


def test_proofs_hold_against_the_signed_checkpoint(hub: Hub, observation: Make) -> None:
    source = hub.source()
    hub.permit(source)
    verifier = Verifier(hub.platform.keyring.verifier_key.read_text().split())

    def head() -> Checkpoint:
        return verifier.checkpoint(hub.get("/v1/checkpoint", "auditors", AUDITOR, service="audit").text)

    old = head()
    hub.permit(source)
    hub.wait_for(lambda: head().size > old.size)
    new = head()
    entries = list(log_of(hub).entries())
    for number in (0, old.size - 1, new.size - 1):
        found = proof(hub, "inclusion", number=number, size=new.size)
        assert includes(new.root, new.size, number, leaf_hash(entries[number].line), found)
        assert not includes(new.root, new.size, number, leaf_hash(b"another"), found)
    assert extends(old.root, old.size, new.root, new.size, proof(hub, "consistency", old=old.size, size=new.size))
    refused = hub.get("/v1/proofs/inclusion", "auditors", AUDITOR, service="audit", number=5, size=10**9)
    assert refused.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    assert hub.get("/v1/entries", "operators", OPERATOR, service="audit").status_code == httpx.codes.FORBIDDEN


def proof(hub: Hub, kind: str, **params: int) -> list[bytes]:
    answer = hub.get(f"/v1/proofs/{kind}", "auditors", AUDITOR, service="audit", **params)
    return [bytes.fromhex(one) for one in answer.json()["hashes"]]


def test_a_log_that_was_edited_is_found(hub: Hub, observation: Make) -> None:
    source = hub.source()
    hub.permit(source)
    hub.wait_for(lambda: verified(hub).unsigned == 0)
    assert verified(hub).findings == []
    assert "the log is what was signed" in estuaire(hub, "audit", "verify").stdout
    assert "permit-granted" in estuaire(hub, "audit", "list", "--action", "permit-granted", "--json").stdout
    url = running_database(hub.platform.home).url("audit")
    with psycopg.connect(url) as connection:
        with pytest.raises(psycopg.errors.RaiseException):
            connection.execute("UPDATE entries SET line = line WHERE number = 1")
        connection.rollback()
        (line,) = connection.execute("SELECT line FROM entries WHERE number = 1").fetchone() or ("",)
        connection.execute("ALTER TABLE entries DISABLE TRIGGER only_added_to")
        connection.execute("UPDATE entries SET line = %s WHERE number = 1", [line.replace('"count":', '"count":1')])
    try:
        refused = estuaire(hub, "audit", "verify", expect=1)
        assert "entry 1 was edited" in refused.stderr
        assert "the log is not what was signed" in refused.stderr
    finally:
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE entries SET line = %s WHERE number = 1", [line])
            connection.execute("ALTER TABLE entries ENABLE TRIGGER only_added_to")
    assert verified(hub).findings == []
    with pytest.raises(SendError, match="no key to verify with"):
        verify(log_of(hub), hub.platform.home / CHECKPOINTS, hub.platform.home / "none")
