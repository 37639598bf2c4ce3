"""The keys and tokens of a platform on one machine, made once and kept under `$ESTUAIRE_HOME`.

A deployment gives each service its own key store instead, and has an issuer of tokens (OpenID Connect); here each
service has its own folder, and whoever can read the home is the issuer.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from joserfc import jwt
from joserfc.jwk import ECKey

from contracts.acl import SUBSCRIBER, services
from estuaire.broker import BROKER
from estuaire.passwords import Passwords, sasl
from runtime.http import hash_token
from runtime.keys import FolderKeyStore, write_key
from services.audit.domain.checkpoints import ORIGIN, Signer

SECRETS = {
    "ingest": ("level-1", "event-id", "digest"),
    "pseudonym": ("level-2", "permit-root"),
    "linkage": (),
    "access": ("history",),
    "statistics": (),
    "audit": ("checkpoint",),
    "console": (),
}
PUBLIC = {
    "ingest": ("pseudonym", "access", "statistics"),
    "pseudonym": ("linkage", "access"),
    "linkage": (),
    "access": (),
    "statistics": (),
    "audit": (),
    "console": (),
}
OFFICER, OPERATOR, STEWARD, AUDITOR = "officer", "operator", "steward", "auditor"
ISSUER, AUDIENCE = "https://localhost/estuaire", "estuaire"
"""Who issues the tokens here, and for what. Nothing listens there: the keys are a file."""
LIFETIME = 3600
"""Seconds."""
ADMIN = "admin"
"""The operator's principal at the broker, who may do everything there."""


class Keyring:
    """Keys in `<home>/keys/<service>/`, tokens, the issuer's keys, accounts at the broker.

    What one service may read is a folder of its own, for a container to be given.
    """

    def __init__(self, home: Path) -> None:
        self._keys = home / "keys"
        self._of_the_hub = Passwords(home / "keys" / "kafka.json")
        self._of_others = Passwords(home / "accounts" / "kafka.json")
        self._connection = home / "keys" / "kafka-connection.json"
        self._tokens = home / "tokens"
        self._producers = home / "producers"

    def prepare(self) -> None:
        """Make whatever is missing; what exists stays."""
        for service, names in SECRETS.items():
            for name in names:
                self._once(service, name)
        for recipient in ("pseudonym", "linkage", "access", "statistics"):
            self._key_pair(recipient)
        self._verifier_key()
        if not self.producers.exists():
            self._list(self._read())
        self._signing_key()

    def folder(self, service: str) -> Path:
        """Where one service's keys are."""
        return self._keys / service

    @property
    def verifier_key(self) -> Path:
        """The file with the public keys of the audit log's checkpoints, one a line: what an auditor keeps."""
        return self._keys / "audit-verifier.txt"

    @property
    def producers(self) -> Path:
        """The file that ingest reads: sources and the hashes of their tokens."""
        return self._producers / "producers.yaml"

    @property
    def issuer_keys(self) -> Path:
        """The issuer's public keys, a JWK set."""
        return self._tokens / "issuer.jwks"

    def producer_token(self, source: str) -> str:
        """The token of a producer; made when there is none."""
        self.ensure_producers([source])
        return self._read()[source]

    def ensure_producers(self, sources: Iterable[str]) -> None:
        """Make tokens for all these."""
        known = self._read()
        fresh = {one: secrets.token_urlsafe(32) for one in sources if one not in known}
        if fresh:
            _write(self._tokens / "producers.json", json.dumps(known | fresh, indent=1), 0o600)
            self._list(fresh)

    def token(self, name: str, *roles: str) -> str:
        """A token for somebody in these roles, good for an hour."""
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": name, "roles": list(roles), "iat": now, "exp": now + LIFETIME}
        key = self._signing_key()
        return jwt.encode({"alg": "ES256", "typ": "at+jwt", "kid": key.kid}, claims, key)

    def _signing_key(self) -> ECKey:
        path = self._keys / "issuer" / "signing.jwk"
        if path.exists():
            return ECKey.import_key(json.loads(path.read_text()))
        key = ECKey.generate_key("P-256", {"use": "sig"}, auto_kid=True)
        _write(path, json.dumps(key.as_dict(private=True)), 0o600)
        _write(self.issuer_keys, json.dumps({"keys": [key.as_dict(private=False)]}), 0o644)
        return key

    def passwords(self, principals: Iterable[str]) -> dict[str, str]:
        """The passwords of these principals at the broker; made where there are none."""
        return {name: self._accounts(name).of(name) for name in principals}

    def _accounts(self, principal: str) -> Passwords:
        """Those of subscribers and gateways lie apart: who makes them needs none of the hub's own."""
        return self._of_the_hub if principal in {ADMIN, BROKER} | services() else self._of_others

    def kafka_config(self, principal: str) -> dict[str, str]:
        """How a client connects to the broker as this principal; a subscriber's, in a group that it may use."""
        password = self._accounts(principal).of(principal)
        config = sasl("SCRAM-SHA-512", principal, password) | self._connected()
        return config | ({"group.id": f"{principal}/estuaire"} if principal.startswith(SUBSCRIBER) else {})

    def connect(self, config: Mapping[str, str]) -> None:
        """Say how clients connect besides, where the broker is not on this machine."""
        _write(self._connection, json.dumps(dict(config), indent=1), 0o600)

    def _connected(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self._connection.read_text()) if self._connection.exists() else {}
        return found

    def _once(self, service: str, name: str) -> None:
        if not (self.folder(service) / f"{name}.json").exists():
            write_key(self.folder(service), name, {1: secrets.token_bytes(32)})

    def _verifier_key(self) -> None:
        seeds = FolderKeyStore(self.folder("audit")).secret("checkpoint")
        keys = [Signer(ORIGIN, seeds[version][:32]).verifier_key() for version in sorted(seeds)]
        self.verifier_key.write_text("".join(f"{key}\n" for key in keys))

    def _key_pair(self, recipient: str) -> None:
        if (self.folder(recipient) / f"{recipient}-private.json").exists():
            return
        private = X25519PrivateKey.generate()
        write_key(self.folder(recipient), f"{recipient}-private", {1: private.private_bytes_raw()})
        for service, recipients in PUBLIC.items():
            if recipient in recipients:
                public = private.public_key().public_bytes_raw()
                write_key(self.folder(service), f"{recipient}-public", {1: public})

    def _read(self) -> dict[str, str]:
        path = self._tokens / "producers.json"
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return known

    def _list(self, tokens: Mapping[str, str]) -> None:
        """Add to the producers that ingest knows; what somebody has entered there, or taken out, stays as it is."""
        listed = yaml.safe_load(self.producers.read_text())["producers"] if self.producers.exists() else []
        listed += [{"source": source, "token_sha256": hash_token(token)} for source, token in tokens.items()]
        _write(self.producers, yaml.safe_dump({"producers": listed}, allow_unicode=True), 0o644)


def _write(path: Path, text: str, mode: int) -> None:
    """Replace the file whole, so that nobody reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    fresh.touch(mode)
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
