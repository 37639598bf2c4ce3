"""The keys and tokens of a platform on one machine, made once and kept under `$ESTUAIRE_HOME`.

A deployment gives each service its own key store instead; here each service has its own folder.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from pathlib import Path

import yaml
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from runtime.http import hash_token
from runtime.keys import write_key

SECRETS = {
    "ingest": ("level-1", "event-id", "digest"),
    "pseudonym": ("level-2", "permit-root"),
    "linkage": (),
    "access": ("history",),
    "statistics": (),
}
PUBLIC = {
    "ingest": ("pseudonym", "access", "statistics"),
    "pseudonym": ("linkage", "access"),
    "linkage": (),
    "access": (),
    "statistics": (),
}
OFFICER, OPERATOR, STEWARD = "officer", "operator", "steward"


class Keyring:
    """Keys in `<home>/keys/<service>/`, who holds which token in `<home>/tokens/`."""

    def __init__(self, home: Path) -> None:
        self._keys = home / "keys"
        self._tokens = home / "tokens"

    def prepare(self) -> None:
        """Make whatever is missing; what exists stays."""
        for service, names in SECRETS.items():
            for name in names:
                self._once(service, name)
        for recipient in ("pseudonym", "linkage", "access", "statistics"):
            self._key_pair(recipient)
        for role in ("producers", "subscribers", "officers", "operators", "reviewers", "stewards"):
            if not self.holders(role).exists():
                self._write(role, {})
        self.token("officers", OFFICER)
        self.token("operators", OPERATOR)
        self.token("stewards", STEWARD)

    def folder(self, service: str) -> Path:
        """Where one service's keys are."""
        return self._keys / service

    def holders(self, role: str) -> Path:
        """The file a service reads: names and the hashes of their tokens."""
        return self._tokens / f"{role}.yaml"

    def token(self, role: str, name: str) -> str:
        """The token of a producer (by its source) or of another holder of a role; made when there is none."""
        known = self._read(role)
        if name not in known:
            known[name] = secrets.token_urlsafe(32)
            self._write(role, known)
        return known[name]

    def names(self, role: str) -> list[str]:
        """Who holds a token of this role."""
        return list(self._read(role))

    def ensure(self, role: str, names: Iterable[str]) -> None:
        """Make tokens for all these names."""
        known = self._read(role)
        fresh = {name: secrets.token_urlsafe(32) for name in names if name not in known}
        if fresh:
            self._write(role, known | fresh)

    def _once(self, service: str, name: str) -> None:
        if not (self.folder(service) / f"{name}.json").exists():
            write_key(self.folder(service), name, {1: secrets.token_bytes(32)})

    def _key_pair(self, recipient: str) -> None:
        if (self.folder(recipient) / f"{recipient}-private.json").exists():
            return
        private = X25519PrivateKey.generate()
        write_key(self.folder(recipient), f"{recipient}-private", {1: private.private_bytes_raw()})
        for service, recipients in PUBLIC.items():
            if recipient in recipients:
                public = private.public_key().public_bytes_raw()
                write_key(self.folder(service), f"{recipient}-public", {1: public})

    def _read(self, role: str) -> dict[str, str]:
        path = self._tokens / f"{role}.json"
        known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
        return known

    def _write(self, role: str, known: dict[str, str]) -> None:
        self._tokens.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._tokens / f"{role}.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(known, indent=1))
        field = "source" if role == "producers" else "name"
        listed = [{field: name, "token_sha256": hash_token(token)} for name, token in known.items()]
        self.holders(role).write_text(yaml.safe_dump({role: listed}, allow_unicode=True))
