"""Tokens of an issuer: what is taken, what is not, and where keys come from."""

from __future__ import annotations

import base64
import hmac
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from estuaire.deployment import COMPOSE, prepare
from runtime.http import ProblemError
from runtime.oidc import Caller, Issuer, Role
from runtime.settings import GuardedSettings

pytestmark = pytest.mark.unit

ISSUER = "https://issuer.example/realms/hub"
NOW = 1_800_000_000
KEY = ECKey.generate_key("P-256", {"use": "sig"}, auto_kid=True)
OTHER = ECKey.generate_key("P-256", {"use": "sig"}, auto_kid=True)
RSA = RSAKey.generate_key(2048, {"use": "sig"}, auto_kid=True)
CLAIMS = {"iss": ISSUER, "aud": "estuaire", "sub": "team", "roles": ["subscriber"], "iat": NOW, "exp": NOW + 300}


class Web:
    """The issuer's documents, and how often each was asked for."""

    def __init__(self, *keys: ECKey | RSAKey) -> None:
        self.keys = list(keys)
        self.away = False
        self.asked: list[str] = []
        self.configuration = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/certs"}

    def __call__(self, address: str) -> Any:
        self.asked.append(address.rpartition("/")[2])
        if self.away:
            raise OSError
        if address.endswith("openid-configuration"):
            return self.configuration
        return {"keys": [one.as_dict(private=False) for one in self.keys]}


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def settings(**more: Any) -> GuardedSettings:
    return GuardedSettings(bootstrap_servers="none", **{"oidc_issuer": ISSUER, **more})


def signed(key: Any = KEY, algorithm: str = "ES256", header: dict[str, Any] | None = None, **claims: Any) -> str:
    kept = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    return jwt.encode({"alg": algorithm, "kid": key.kid, **(header or {})}, kept, key, [algorithm])


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")


def text(part: dict[str, Any]) -> str:
    return encoded(json.dumps(part).encode())


@pytest.fixture
def web() -> Web:
    return Web(KEY, RSA)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def who(web: Web, clock: Clock) -> Callable[[str], Caller | int]:
    issuer = Issuer(settings(), web, clock)

    def ask(token: str) -> Caller | int:
        try:
            return issuer.caller(f"Bearer {token}")
        except ProblemError as problem:
            return problem.status_code

    return ask


Who = Callable[[str], Caller | int]


def test_a_token_of_the_issuers_names_somebody_and_their_roles(who: Who, web: Web) -> None:
    assert who(signed()) == Caller("team", frozenset({"subscriber"}))
    for algorithm in ("RS256", "PS256"):
        assert who(signed(RSA, algorithm)) == Caller("team", frozenset({"subscriber"}))
    assert who(signed(aud=["another", "estuaire"], roles=None)) == Caller("team", frozenset())
    assert who(signed(roles=["officer", 7, {"a": 1}])) == Caller("team", frozenset({"officer"}))
    assert web.asked == ["openid-configuration", "certs"]


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": NOW - 60},
        {"exp": None},
        {"iat": None},
        {"iat": NOW + 60},
        {"nbf": NOW + 60},
        {"exp": "tomorrow"},
        {"iss": "https://issuer.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": []},
        {"aud": None},
        {"sub": None},
        {"sub": ""},
        {"sub": ["team"]},
        {"sub": "x" * 257},
    ],
    ids=str,
)
def test_a_token_that_does_not_say_what_it_has_to_lets_nobody_in(who: Who, claims: dict[str, Any]) -> None:
    assert who(signed(**claims)) == 401


def test_a_token_that_nobody_or_somebody_else_has_signed_lets_nobody_in(who: Who) -> None:
    good = signed()
    head, body, signature = good.split(".")
    forged = text({**CLAIMS, "roles": ["officer"]})
    nobody, symmetric = (text({"alg": one, "kid": KEY.kid}) for one in ("none", "HS256"))
    mac = hmac.digest(KEY.as_pem(private=False), f"{symmetric}.{body}".encode(), "sha256")
    other = ECKey.import_key({**OTHER.as_dict(private=True), "kid": str(KEY.kid)})
    wrong = [
        f"{head}.{forged}.{signature}",
        f"{head}.{body}.",
        f"{nobody}.{body}.",
        f"{nobody}.{body}.{signature}",
        f"{head}.{body}",
        signed(OTHER),
        signed(other),
        f"{symmetric}.{body}.{encoded(mac)}",
        good[:-4],
        "x" * 20_000,
        "é",
        "",
    ]
    assert [who(one) for one in wrong] == [401] * len(wrong)
    assert who(good) == Caller("team", frozenset({"subscriber"}))


def test_the_schemes_name_does_not_matter_and_no_other_is_taken(web: Web, clock: Clock) -> None:
    issuer = Issuer(settings(), web, clock)
    assert issuer.caller(f"bearer  {signed()} ").name == "team"
    for header in (None, "", signed(), f"Basic {signed()}"):
        with pytest.raises(ProblemError) as refused:
            issuer.caller(header)
        assert (refused.value.status_code, refused.value.headers) == (401, {"WWW-Authenticate": "Bearer"})


def test_a_new_key_is_fetched_and_one_that_is_gone_is_forgotten(who: Who, web: Web, clock: Clock) -> None:
    assert who(signed()) != 401
    web.keys = [OTHER]
    assert who(signed(OTHER)) == 401, "not more often than every ten seconds, whatever is sent"
    clock.now += 11
    assert who(signed(OTHER)) != 401
    assert who(signed()) == 401


def test_without_the_issuer_its_keys_hold_for_an_hour(who: Who, web: Web, clock: Clock) -> None:
    web.away = True
    assert who(signed()) == 503
    clock.now, web.away = clock.now + 11, False
    assert who(signed(iat=NOW, exp=NOW + 10_000)) != 503
    web.away = True
    clock.now += 3500
    assert who(signed(exp=NOW + 10_000)) == Caller("team", frozenset({"subscriber"}))
    clock.now += 200
    assert who(signed(exp=NOW + 10_000)) == 503


def test_a_configuration_of_another_issuer_is_not_taken(who: Who, web: Web) -> None:
    web.configuration["issuer"] = "https://another.example"
    assert who(signed()) == 503


@pytest.mark.parametrize("address", ["http://issuer.example", "ftp://issuer.example", "issuer"])
def test_keys_come_over_tls_or_from_this_machine(address: str, web: Web) -> None:
    with pytest.raises(ValueError, match="https://"):
        Issuer(settings(oidc_issuer=address))
    with pytest.raises(ValueError, match="https://"):
        Issuer(settings(oidc_keys=address))
    web.configuration["jwks_uri"] = address
    with pytest.raises(ProblemError) as refused:
        Issuer(settings(), web, Clock()).caller(f"Bearer {signed()}")
    assert refused.value.status_code == 503


def test_where_the_configuration_is_may_be_said_but_not_whose(who: Who, web: Web, clock: Clock) -> None:
    asked: list[str] = []

    def fetch(address: str) -> Any:
        asked.append(address)
        return web(address)

    within = "https://issuer.within:8443/realms/hub/.well-known/openid-configuration"
    issuer = Issuer(settings(oidc_issuer="http://issuer.example", oidc_configuration=within), fetch, clock)
    web.configuration["issuer"] = "http://issuer.example"
    assert issuer.caller(f"Bearer {signed(iss='http://issuer.example')}").name == "team"
    assert asked[0] == within
    web.configuration["issuer"] = ISSUER
    with pytest.raises(ProblemError):
        Issuer(settings(oidc_issuer="http://issuer.example", oidc_configuration=within), fetch, clock).caller(
            f"Bearer {signed(iss='http://issuer.example')}"
        )
    with pytest.raises(ValueError, match="https://"):
        Issuer(settings(oidc_configuration="http://issuer.within:8080/openid-configuration"))


def test_keys_come_from_who_has_a_certificate_of_the_authority_that_is_named(tmp_path: Path, clock: Clock) -> None:
    folders = [tmp_path / "here", tmp_path / "elsewhere"]
    for folder in folders:
        prepare(folder, COMPOSE)
    ours, others = (str(folder / "kafka" / "config" / "ca.pem") for folder in folders)
    with keys_over_tls(folders[0] / "keycloak" / "config" / "server.pem") as address:
        where = {"oidc_keys": address}
        token = f"Bearer {signed()}"
        assert Issuer(settings(**where, oidc_ca=ours), clock=clock).caller(token).name == "team"
        for authority in (others, ""):
            with pytest.raises(ProblemError) as away:
                Issuer(settings(**where, oidc_ca=authority), clock=clock).caller(token)
            assert away.value.status_code == 503
    with pytest.raises(ValueError, match="ESTUAIRE_OIDC_CA"):
        Issuer(settings(oidc_ca=str(tmp_path / "none.pem")))


@contextmanager
def keys_over_tls(certificate: Path) -> Iterator[str]:
    """A server that has this certificate and the issuer's keys; its address."""

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"keys": [KEY.as_dict(private=False)]}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ThreadingHTTPServer(("127.0.0.1", 0), Keys) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://localhost:{server.server_port}/certs"
        server.shutdown()


def test_keys_of_a_file_and_claims_by_other_names(tmp_path: Path, clock: Clock) -> None:
    keys = tmp_path / "the keys.jwks"
    keys.write_text(json.dumps({"keys": [KEY.as_dict(private=False)]}))
    named = settings(
        oidc_keys=keys.as_uri(), oidc_name_claim="preferred_username", oidc_roles_claim="realm_access.roles"
    )
    issuer = Issuer(named, clock=clock)
    token = signed(preferred_username="camille", realm_access={"roles": ["steward"]})
    assert issuer.caller(f"Bearer {token}") == Caller("camille", frozenset({"steward"}))
    token = signed(preferred_username="camille", realm_access="steward")
    assert issuer.caller(f"Bearer {token}").roles == frozenset()


def test_a_gate_is_for_one_role(web: Web, clock: Clock) -> None:
    issuer = Issuer(settings(), web, clock)
    assert Role(issuer, "subscriber").name(f"Bearer {signed()}") == "team"
    with pytest.raises(ProblemError) as refused:
        Role(issuer, "officer").name(f"Bearer {signed()}")
    assert (refused.value.status_code, refused.value.detail) == (403, "This is for: officer.")
