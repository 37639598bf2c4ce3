"""A real identity provider: whose tokens access takes, and whose it does not."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from estuaire.deployment import COMPOSE, prepare
from runtime.database import Database
from runtime.http import ProblemError
from runtime.oidc import Issuer
from runtime.settings import GuardedSettings
from services.access.authorization import Doors
from services.access.routes import application
from services.access.vault import Vault
from services.console.adapters import Links, Refusal
from services.console.routes import application as console
from services.console.sessions import Sessions
from services.console.settings import ConsoleSettings
from services.console.sign_in import Provider, SignInError
from services.console.visits import Desk
from tests.browser import NoChromium, chromium
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

pytestmark = [pytest.mark.integration, pytest.mark.long]
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
    settings = GuardedSettings.model_validate({"bootstrap_servers": "none", **keycloak.settings("access")})
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


def test_services_ask_it_where_they_are_over_tls_by_the_deployments_authority(
    keycloak: Keycloak, secrets: dict[str, str], tmp_path: Path
) -> None:
    token = bearer(keycloak.token(OPERATOR, secrets[OPERATOR]))["Authorization"]
    told = {"bootstrap_servers": "none", **keycloak.settings("linkage")}
    assert (told["oidc_issuer"], told["oidc_keys"]) == (keycloak.issuer, "")
    assert told["oidc_configuration"].startswith("https://localhost:"), "and not where browsers are led"
    assert Issuer(GuardedSettings.model_validate(told)).caller(token).name == account(OPERATOR)
    prepare(tmp_path, COMPOSE)
    for authority in (str(tmp_path / "kafka" / "config" / "ca.pem"), ""):
        with pytest.raises(ProblemError) as away:
            Issuer(GuardedSettings.model_validate({**told, "oidc_ca": authority})).caller(token)
        assert away.value.status_code == 503, "it is of another deployment, or of nobody's that is known"


class AccessHub:
    """Access, asked in this process."""

    def __init__(self, api: TestClient) -> None:
        self._api = api

    def ask(self, service: str, method: str, path: str, token: str | None = None, body: Any = None) -> Any:
        answer = self._api.request(method, path, headers=bearer(token) if token else {}, json=body)
        if answer.is_error:
            raise Refusal(answer.status_code, answer.json()["title"], answer.json()["detail"])
        return answer.json()

    def ready(self, service: str) -> str | None:
        return None


@pytest.fixture
def desk(keycloak: Keycloak, api: TestClient, clock: Clock) -> Desk:
    return desk_at("http://127.0.0.1:8080", "console", keycloak, api, clock)


def desk_at(url: str, client: str, keycloak: Keycloak, api: TestClient, clock: Clock) -> Desk:
    own = {"url": url, "access": "http://127.0.0.1:8001", "client_id": client}
    settings = ConsoleSettings.model_validate({**own, **keycloak.settings("console")})
    issuer = Issuer(settings)
    provider = Provider(settings, issuer)
    return Desk(AccessHub(api), Sessions(provider.renew, clock), issuer, Links(None), settings.url, provider)


@pytest.fixture
def browser(desk: Desk) -> TestClient:
    return TestClient(console(desk), base_url=desk.url, follow_redirects=False)


def signed_in(browser: TestClient, keycloak: Keycloak, name: str, password: str, path: str) -> str:
    """Go to a page of the console, sign in at the provider, and be led back; where to."""
    away = browser.get(browser.get(path).headers["location"]).headers["location"]
    back = keycloak.sign_in(away, name, password)
    answer = browser.get(back.removeprefix("http://127.0.0.1:8080"))
    return str(answer.headers["location"])


def test_people_sign_in_at_the_console_and_see_what_access_lets_them_see(
    keycloak: Keycloak, browser: TestClient, desk: Desk, clock: Clock, hub: Hub
) -> None:
    hub.opened(permit(subscribers=["anne"]))
    passwords = {"olive": keycloak.user("olive", "officer"), "anne": keycloak.user("anne", "subscriber")}
    for name, may_close in (("olive", True), ("anne", False)):
        browser.cookies.clear()
        assert signed_in(browser, keycloak, name, passwords[name], "/permits") == "/permits"
        page = browser.get("/permits")
        assert page.status_code == 200
        assert name in page.text
        assert ("/permits/cardio/close" in page.text) == may_close
    form_key = next(iter(desk.sessions._sessions.values())).form_key
    assert browser.post("/permits/cardio/close", data={"form_key": form_key}).status_code == 403, "another's form"
    (mine,) = [one for one in desk.sessions._sessions.values() if one.caller.name == "anne"]
    assert browser.post("/permits/cardio/close", data={"form_key": mine.form_key}).status_code == 403, "access says no"


def test_a_session_is_renewed_and_ends_at_the_provider_too(
    keycloak: Keycloak, browser: TestClient, desk: Desk, clock: Clock
) -> None:
    password = keycloak.user("renee", "officer")
    signed_in(browser, keycloak, "renee", password, "/projects")
    (session,) = desk.sessions._sessions.values()
    before = session.tokens
    clock.ahead = 290
    assert browser.get("/projects").status_code == 200
    assert session.tokens.access != before.access
    assert desk.provider is not None
    known = desk.provider._known()
    assert known["token_endpoint"].startswith("https://localhost:"), "the console's way"
    assert known["authorization_endpoint"].startswith(keycloak.url), "the browser's"
    left = browser.post("/sign-out", data={"form_key": session.form_key}).headers["location"]
    assert httpx.get(left).headers["location"] == "http://127.0.0.1:8080/sign-in"
    with pytest.raises(SignInError):
        assert session.tokens.refresh is not None
        desk.provider.renew(session.tokens.refresh)


@pytest.fixture
def served(keycloak: Keycloak, api: TestClient, clock: Clock) -> Iterator[str]:
    """The address of a console that listens."""
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    keycloak.page_client("console-here", url)
    app = console(desk_at(url, "console-here", keycloak, api, clock))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = Thread(target=server.run, args=[[listening]])
    thread.start()
    yield url
    server.should_exit = True
    thread.join()


def test_a_real_browser_signs_in_and_out(keycloak: Keycloak, served: str) -> None:
    """What the pages' policy and the cookies' rules come to is the browser's to say: it is led there and back."""
    password = keycloak.user("chris", "officer")
    try:
        with chromium() as browser:
            page = browser.new_page()
            heard: list[str] = []
            page.on("console", lambda one: heard.append(one.text))
            page.goto(f"{served}/calls")
            page.get_by_label("Username").fill("chris")
            page.locator("#password").fill(password)
            page.get_by_role("button", name="Sign In").click()
            page.wait_for_url(f"{served}/calls")
            (session,) = [one for one in page.context.cookies(served) if one["name"].startswith("estuaire")]
            assert (session["httpOnly"], session["sameSite"]) == (True, "Lax")
            page.get_by_role("button", name="Sign out").click()
            page.wait_for_url(f"{served}/sign-in")
            page.goto(f"{served}/calls")
            assert page.get_by_label("Username").is_visible(), "the provider asks again"
            assert not [one for one in heard if "Security Policy" in one]
    except NoChromium as why:
        pytest.skip(f"NO CHROMIUM: nobody has signed in at a real identity provider in a browser: {why}")


def _kid(token: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))["kid"]


def _encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
