"""Signing in: at an issuer by code, PKCE, state and nonce; by a link here; and how long a session lasts."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from runtime.http import hash_token
from services.console.adapters import Links
from services.console.sessions import LONGEST, Sessions
from services.console.sign_in import AWAY, Provider, SignInError, Tokens, tokens_of
from tests.unit.console.desk import CLIENT, ISSUER, URL, Console, FakeIssuer

pytestmark = pytest.mark.unit


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path, issuer_page=True)


def sent_away(console: Console, back: str = "/permits") -> dict[str, str]:
    """What the browser asks the issuer for."""
    answer = console.http.get("/sign-in/start", params={"back": back})
    assert answer.headers["location"].startswith(f"{ISSUER}/authorization?")
    return {name: value for name, (value,) in parse_qs(urlsplit(answer.headers["location"]).query).items()}


def test_somebody_signs_in_and_is_back_where_they_were(console: Console) -> None:
    assert console.http.get("/permits").headers["location"] == "/sign-in/start?back=%2Fpermits"
    asked = sent_away(console)
    identity = console.issuer.token(CLIENT, nonce=asked["nonce"])
    console.issuer.answer = httpx.Response(200, json={"access_token": console.issuer.token(), "id_token": identity})
    answer = console.http.get("/signed-in", params={"state": asked["state"], "code": "the-code"})
    assert answer.headers["location"] == "/permits"
    (sent,) = console.issuer.asked
    digest = hashlib.sha256(sent["code_verifier"].encode()).digest()
    assert base64.urlsafe_b64encode(digest).decode().rstrip("=") == asked["code_challenge"]
    assert (sent["code"], sent["client_secret"], sent["redirect_uri"]) == ("the-code", "the-secret", f"{URL}/signed-in")
    assert asked["code_challenge_method"] == "S256"
    page = console.http.get("/permits")
    assert "ada" in page.text
    assert ISSUER.partition("/realms")[0] in page.headers["content-security-policy"], (
        "a form that signs out leads there"
    )


def test_what_was_not_asked_for_signs_nobody_in(console: Console) -> None:
    asked = sent_away(console)
    access = console.issuer.token()
    good = {"access_token": access, "id_token": console.issuer.token(CLIENT, nonce=asked["nonce"])}
    wrong: list[tuple[str, dict[str, str], str]] = [
        ("another-state", good, "interrupted"),
        (asked["state"], good | {"id_token": console.issuer.token(CLIENT, nonce="another")}, "interrupted"),
        (asked["state"], good | {"id_token": console.issuer.token(CLIENT)}, "interrupted"),
        (asked["state"], good | {"id_token": console.issuer.token(nonce=asked["nonce"])}, "refused"),
        (asked["state"], good | {"id_token": good["id_token"][:-8]}, "refused"),
        (asked["state"], {"access_token": access}, "refused"),
        (asked["state"], good | {"access_token": console.issuer.token("another-api")}, "refused"),
        (asked["state"], good | {"access_token": ""}, "refused"),
    ]
    for state, said, why in wrong:
        console.issuer.answer = httpx.Response(200, json=said)
        answer = console.http.get("/signed-in", params={"state": state, "code": "c"})
        assert answer.headers["location"].startswith(f"/sign-in?why={why}&"), (state, why)
    console.issuer.answer = httpx.Response(400, json={"error": "invalid_grant"})
    answer = console.http.get("/signed-in", params={"state": asked["state"], "code": "c"})
    assert "why=refused" in answer.headers["location"]
    console.http.cookies.clear()
    answer = console.http.get("/signed-in", params={"state": asked["state"], "code": "c"})
    assert "why=interrupted" in answer.headers["location"], "another browser's code"
    assert not console.sessions._sessions


@pytest.mark.parametrize("away", [httpx.Response(502, text="<html>"), httpx.Response(503, json={"error": "busy"})])
def test_an_issuer_that_does_not_answer_is_told(console: Console, away: httpx.Response) -> None:
    asked = sent_away(console)
    console.issuer.answer = away
    answer = console.http.get("/signed-in", params={"state": asked["state"], "code": "c"})
    assert "The identity provider does not answer" in console.http.get(answer.headers["location"]).text


@pytest.mark.parametrize(
    "kept", ["[" * 3000, r'["\ud800", "n", "v", "/"]', r'["s", "\udfff", "v", "/"]', "[1, 2]", "7", '["s"]', "\x00"]
)
def test_a_cookie_that_is_not_as_we_packed_it_is_as_none(console: Console, kept: str) -> None:
    packed = base64.urlsafe_b64encode(kept.encode()).decode().rstrip("=")
    console.http.cookies.set(f"{console.desk.cookie}-errand", packed)
    answer = console.http.get("/signed-in", params={"state": "s", "code": "c"})
    assert answer.headers["location"].startswith("/sign-in?why=interrupted&")


def test_signing_out_ends_both_sessions(console: Console) -> None:
    key = console.sign_in()
    answer = console.http.post("/sign-out", data={"form_key": key})
    assert answer.headers["location"].startswith(f"{ISSUER}/end_session?client_id={CLIENT}")
    assert not console.sessions._sessions


@pytest.mark.parametrize(("url", "secure"), [(URL, False), ("https://console.hub.example", True)])
def test_no_script_and_no_other_site_has_the_sessions_cookie(tmp_path: Path, url: str, secure: bool) -> None:
    console = Console(tmp_path, url=url)
    link = a_link(tmp_path / "links", console.issuer)
    cookie = console.http.get(f"/enter?link={link}").headers["set-cookie"].split(",")[0]
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert (" Secure" in cookie.split(";"), cookie.startswith("__Host-")) == (secure, secure)
    assert ("strict-transport-security" in console.http.get("/sign-in").headers) == secure
    assert console.issuer.token()[:20] not in cookie


def a_link(folder: Path, issuer: FakeIssuer, until: float = 600) -> str:
    folder.mkdir(exist_ok=True)
    kept = {"token": issuer.token(), "until": time.time() + until}
    (folder / hash_token("the-link")).write_text(json.dumps(kept))
    return "the-link"


def test_a_link_signs_in_once_and_not_for_long(tmp_path: Path) -> None:
    console = Console(tmp_path)
    link = a_link(tmp_path / "links", console.issuer)
    assert console.http.get(f"/enter?link={link}").headers["location"] == "/"
    assert console.http.get("/").headers["location"] == "/projects"
    assert "why=used" in console.http.get(f"/enter?link={link}").headers["location"]
    a_link(tmp_path / "links", console.issuer, until=-1)
    assert "why=used" in console.http.get(f"/enter?link={link}").headers["location"]
    assert list((tmp_path / "links").iterdir()) == []


def test_without_a_folder_there_are_no_links() -> None:
    assert Links(None).open("anything") is None


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def test_a_session_goes_on_with_new_tokens_and_ends_without(tmp_path: Path) -> None:
    issuer, clock, renewed = FakeIssuer(tmp_path), Clock(), []

    def renew(refresh: str) -> Tokens:
        renewed.append(refresh)
        if len(renewed) > 2:
            raise SignInError("refused")
        return tokens_of(issuer.issuer, issuer.token(lifetime=10_000))._replace(refresh=None)

    sessions = Sessions(renew, clock)
    first = issuer.tokens(lifetime=100)._replace(refresh="again", identity="id")
    secret = sessions.begin(first)
    session = sessions.find(secret)
    assert session is not None
    assert (session.tokens, renewed) == (first, [])
    clock.now += 90
    session = sessions.find(secret)
    assert session is not None
    assert renewed == ["again"]
    assert (session.tokens.refresh, session.tokens.identity) == ("again", "id")
    assert session.tokens.access != first.access
    clock.now += LONGEST
    assert sessions.find(secret) is None
    assert sessions.find(secret) is None
    assert len(renewed) == 1


def test_an_issuer_that_is_away_ends_no_session(tmp_path: Path) -> None:
    issuer, clock, tried, away = FakeIssuer(tmp_path), Clock(), [], [True]

    def renew(refresh: str) -> Tokens:
        tried.append(refresh)
        if away[0]:
            raise SignInError(AWAY)
        return issuer.tokens(lifetime=1000)

    sessions = Sessions(renew, clock)
    secret, other = (sessions.begin(issuer.tokens(lifetime=100)._replace(refresh=one)) for one in ("one", "other"))
    clock.now += 90
    assert sessions.find(secret) is not None
    assert sessions.find(secret) is not None
    assert tried == ["one"], "it is not asked again with each page"
    clock.now += 6
    assert sessions.find(secret) is not None
    assert tried == ["one", "one"]
    clock.now += 6
    assert sessions.find(secret) is None, "the token has ended"
    away[0] = False
    assert sessions.find(other) is not None
    clock.now += 6
    assert sessions.find(secret) is not None, "it was kept until the issuer answered"


def test_a_session_without_a_refresh_token_ends_with_its_token(tmp_path: Path) -> None:
    issuer, clock = FakeIssuer(tmp_path), Clock()
    sessions = Sessions(None, clock)
    secret = sessions.begin(issuer.tokens(lifetime=100))
    clock.now += 98
    assert sessions.find(secret) is not None
    clock.now += 5
    assert sessions.find(secret) is None
    assert sessions.find("another") is None
    assert sessions.find(None) is None


def test_sessions_are_bounded_the_oldest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.console.sessions._MOST", 2)
    sessions, tokens = Sessions(None), FakeIssuer(tmp_path).tokens()
    first, *others = (sessions.begin(tokens) for _ in range(3))
    assert sessions.find(first) is None
    assert all(sessions.find(one) for one in others)


def test_codes_and_secrets_go_over_tls_alone(tmp_path: Path) -> None:
    issuer = FakeIssuer(tmp_path)
    plain = issuer.settings.model_copy(update={"oidc_configuration": "http://id.within:8080/openid-configuration"})
    with pytest.raises(ValueError, match="https://"):
        Provider(plain, issuer.issuer)
    said = {"issuer": ISSUER, "authorization_endpoint": f"{ISSUER}/a", "token_endpoint": "http://id.within:8080/token"}
    answers = httpx.MockTransport(lambda _request: httpx.Response(200, json=said))
    with pytest.raises(SignInError, match="away"):
        Provider(issuer.settings, issuer.issuer, httpx.Client(transport=answers)).begin("/")


def test_the_issuer_is_asked_where_it_is_and_browsers_are_led_where_it_says(tmp_path: Path) -> None:
    issuer, within, asked = FakeIssuer(tmp_path), "https://id.within:8443/openid-configuration", []

    def answered(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        said = {"issuer": ISSUER, "authorization_endpoint": f"{ISSUER}/a", "token_endpoint": f"{within}/token"}
        return httpx.Response(200, json=said) if request.method == "GET" else httpx.Response(400, json={})

    settings = issuer.settings.model_copy(update={"oidc_configuration": within})
    provider = Provider(settings, issuer.issuer, httpx.Client(transport=httpx.MockTransport(answered)))
    assert provider.begin("/")[0].startswith(f"{ISSUER}/a?")
    with pytest.raises(SignInError, match="refused"):
        provider.renew("a-token")
    assert asked == [within, f"{within}/token"]
    assert ISSUER.startswith(provider.origin)
