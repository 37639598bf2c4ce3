"""Passwords of the accounts at the broker and the database on one machine."""

from __future__ import annotations

import json
import secrets
from pathlib import Path


class Passwords:
    """A random password for each account, made when first asked for and kept in a file that only this user reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def has(self, name: str) -> bool:
        """Whether there is one."""
        return name in self._read()

    def of(self, name: str) -> str:
        """The account's password."""
        known = self._read()
        if name not in known:
            known[name] = secrets.token_urlsafe(32)
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            partial = self.path.with_suffix(".partial")
            partial.touch(mode=0o600)
            partial.write_text(json.dumps(known, indent=1))
            partial.replace(self.path)
        return known[name]

    def _read(self) -> dict[str, str]:
        known: dict[str, str] = json.loads(self.path.read_text()) if self.path.exists() else {}
        return known


def sasl(mechanism: str, user: str, password: str) -> dict[str, str]:
    """How a client of a broker on this machine connects as this user: nothing is encrypted."""
    return {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": mechanism,
        "sasl.username": user,
        "sasl.password": password,
    }
