"""A real identity provider: whose tokens access takes, and whose it does not."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from runtime.database import Database
from runtime.oidc import Issuer
from runtime.settings import GuardedSettings
from services.access.adapters import Vault
from services.access.authorization import Doors
from services.access.routes import application
from tests.integration.test_access_history import (
    Broker,
    body,
    code,
    database,
    hub,
    readers,
    reading,
    server,
    url,
    vault,
)
from tests.keycloak import Keycloak, NoKeycloak
from tests.unit.access.hub import Hub, permit

pytestmark = pytest.mark.integration
__all__ = ["database", "hub", "server", "url", "vault"]

TEAM, STRANGERS, OFFICER, OPERATOR = "team-heart", "strangers", "the-officer", "the-operator"


class Clock:
    """The real time, moved on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture(scope="module")
def keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    try:
        with Keycloak(tmp_path_factory.mktemp("keycloak")) as started:
            yield started
    except NoKeycloak as why:
        pytest.skip(f"NO KEYCLOAK: tokens of a real identity provider have not been tried: {why}")


@pytest.fixture(scope="module")
def secrets(keycloak: Keycloak) -> dict[str, str]:
    roles = {TEAM: ["subscriber"], STRANGERS: ["subscriber"], OFFICER: ["officer"], OPERATOR: ["operator"]}
    return {name: keycloak.client(name, *given) for name, given in roles.items()}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api(keycloak: Keycloak, clock: Clock, hub: Hub, url: str, database: Database, vault: Vault) -> Iterator[TestClient]:
    assert database.connection
    settings = GuardedSettings(
        bootstrap_servers="none", oidc_issuer=keycloak.issuer, oidc_name_claim="preferred_username"
    )
    doors = Doors(Issuer(settings, clock=clock))
    with reading(*readers(url)) as (reader, pages):
        app = application(lambda: None, reader, pages, Broker(hub), vault, doors, lambda: hub.now)
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def account(client: str) -> str:
    return f"service-account-{client}"


PAGE = "/v1/permits/cardio/timelines"


def test_roles_and_names_are_the_identity_providers(
    api: TestClient, keycloak: Keycloak, secrets: dict[str, str], hub: Hub
) -> None:
    token = {name: bearer(keycloak.token(name, secret)) for name, secret in secrets.items()}
    named = body(subscribers=[account(TEAM)])
    statuses = {
        who: api.post("/v1/permits/cardio/grant", json=named, headers=one).status_code for who, one in token.items()
    }
    assert statuses == {TEAM: 403, STRANGERS: 403, OFFICER: 202, OPERATOR: 403}
    hub.run(hub.key("cardio"))
    hub.run(hub.record("r1", "s1", "p1", code("I50")))
    pages = {who: api.get(PAGE, headers=one) for who, one in token.items()}
    assert {who: one.status_code for who, one in pages.items()} == {
        TEAM: 200,
        STRANGERS: 404,
        OFFICER: 403,
        OPERATOR: 403,
    }
    assert len(pages[TEAM].text.splitlines()) == 1
    assert pages[STRANGERS].json() == api.get(PAGE.replace("cardio", "none"), headers=token[STRANGERS]).json()
    assert api.get("/v1/counts", headers=token[OPERATOR]).json()["records"] == 1


def test_what_is_forged_unsigned_expired_or_for_somebody_else_is_refused(
    api: TestClient, keycloak: Keycloak, secrets: dict[str, str], clock: Clock, hub: Hub
) -> None:
    hub.opened(permit(subscribers=[account(TEAM)]))
    good = keycloak.token(TEAM, secrets[TEAM])
    assert api.get(PAGE, headers=bearer(good)).status_code == 200
    head, claims, signature = good.split(".")
    said = json.loads(base64.urlsafe_b64decode(claims + "=="))
    assert (said["aud"], "subscriber" in said["roles"]) == ("estuaire", True)
    more = _encoded({**said, "roles": ["officer", "subscriber"]})
    unsigned = _encoded({"alg": "none", "typ": "JWT"})
    elsewhere = keycloak.client("elsewhere", "subscriber", scope=False)
    identity = keycloak.tokens(TEAM, secrets[TEAM], "openid")["id_token"]
    wrong = {
        "forged": f"{head}.{more}.{signature}",
        "unsigned": f"{unsigned}.{claims}.",
        "of another realm": keycloak.admins_token(),
        "for another audience": keycloak.token("elsewhere", elsewhere),
        "an identity token": identity,
        "cut off": good[:-8],
    }
    assert {name: api.get(PAGE, headers=bearer(one)).status_code for name, one in wrong.items()} == dict.fromkeys(
        wrong, 401
    )
    clock.ahead = 400
    assert api.get(PAGE, headers=bearer(good)).status_code == 401, "expired"


def test_a_new_key_of_the_provider_is_taken_without_a_restart(
    api: TestClient, keycloak: Keycloak, secrets: dict[str, str], clock: Clock
) -> None:
    before = keycloak.token(OPERATOR, secrets[OPERATOR])
    assert api.get("/v1/counts", headers=bearer(before)).status_code == 200
    keycloak.rotate()
    after = keycloak.token(OPERATOR, secrets[OPERATOR])
    assert _kid(after) != _kid(before)
    clock.ahead = 15
    assert [api.get("/v1/counts", headers=bearer(one)).status_code for one in (after, before)] == [200, 200]


def _kid(token: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))["kid"]


def _encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
