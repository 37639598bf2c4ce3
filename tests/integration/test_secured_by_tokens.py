"""Subscribers with accounts of an identity provider: OAUTHBEARER by settings alone, at the broker and the client."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from contracts.acl import permit_rights, subscriber
from contracts.registry import view_topic
from estuaire import broker as broker_module
from estuaire.broker import start_broker
from estuaire.rights import Rights
from runtime.kafka import common, create_topics
from runtime.settings import RuntimeSettings

pytestmark = pytest.mark.integration

ISSUER = "https://identity.hub.example"
PROPERTIES = """
sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN,OAUTHBEARER
listener.name.client.oauthbearer.sasl.jaas.config=\
org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;
listener.name.client.oauthbearer.sasl.server.callback.handler.class=\
org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler
sasl.oauthbearer.jwks.endpoint.url={url}/jwks
sasl.oauthbearer.expected.issuer={issuer}
sasl.oauthbearer.expected.audience=estuaire-kafka
sasl.oauthbearer.sub.claim.name=kafka_principal
"""


class Provider:
    """An identity provider: its public keys, and a token for whoever asks, as the client's id says."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        self.signing = self._key
        self.changes: dict[str, Any] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({"keys": [provider.public()]})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                kind, _, given = self.headers["Authorization"].partition(" ")
                assert kind == "Basic"
                name = base64.b64decode(given).decode().partition(":")[0]
                self._answer({"access_token": provider.token(name), "token_type": "bearer", "expires_in": 300})

            def _answer(self, document: dict[str, Any]) -> None:
                body = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def public(self) -> dict[str, str]:
        numbers = self._key.public_key().public_numbers()
        n, e = (number.to_bytes((number.bit_length() + 7) // 8, "big") for number in (numbers.n, numbers.e))
        return {"kty": "RSA", "kid": "one", "alg": "RS256", "use": "sig", "n": _text(n), "e": _text(e)}

    def token(self, name: str) -> str:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": "estuaire-kafka",
            "sub": "admin",
            "kafka_principal": subscriber(name),
            "iat": now,
            "exp": now + 300,
        } | self.changes
        head = {"alg": "RS256", "kid": "one", "typ": "JWT"}
        signed = ".".join(_text(json.dumps(part).encode()) for part in (head, claims))
        return f"{signed}.{_text(self.signing.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


@pytest.fixture
def provider() -> Iterator[Provider]:
    it = Provider()
    thread = Thread(target=it.server.serve_forever)
    thread.start()
    try:
        yield it
    finally:
        it.server.shutdown()
        thread.join(10)
        it.server.server_close()


def shown(address: str, provider: Provider, name: str, seconds: float = 10) -> set[str]:
    """The topics that a subscriber sees with a token."""
    config = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "OAUTHBEARER",
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": name,
        "sasl.oauthbearer.client.secret": "secret",
        "sasl.oauthbearer.token.endpoint.url": f"{provider.url}/token",
        "log_level": 0,
    }
    settings = RuntimeSettings(bootstrap_servers=address, kafka_config=config)
    return set(AdminClient(common(settings)).list_topics(timeout=seconds).topics)


def test_a_token_of_the_identity_provider_opens_its_owners_view(
    tmp_path: Path, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokens.properties").write_text(PROPERTIES.format(url=provider.url, issuer=ISSUER))
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setenv("ESTUAIRE_BROKER_PROPERTIES", str(tmp_path / "tokens.properties"))
    allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={provider.url}/jwks"
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", allowed)
    monkeypatch.setattr(broker_module, "_in_container", lambda *_: None)
    with start_broker(tmp_path / "home", report=lambda _line: None, secured=True) as broker:
        address = broker.bootstrap_servers
        itself = RuntimeSettings(bootstrap_servers=address, kafka_config=dict(broker.kafka_config))
        create_topics(itself, [view_topic("one", 1), view_topic("two", 1)])
        Rights(itself).replace(permit_rights("one", ["team-a"]) | permit_rights("two", ["team-b"]))
        assert shown(address, provider, "team-a") == {"view-one"}
        assert shown(address, provider, "team-b") == {"view-two"}
        assert shown(address, provider, "team-c") == set()
        for wrong in ({"iss": "https://other"}, {"aud": "other"}, {"exp": int(time.time()) - 60}):
            provider.changes = wrong
            with pytest.raises(KafkaException):
                shown(address, provider, "team-a", 2)
        provider.changes = {}
        provider.signing = rsa.generate_private_key(65537, 2048)
        with pytest.raises(KafkaException):
            shown(address, provider, "team-a", 2)
