"""Passwords of the accounts at the broker and the database on one machine."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
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
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self._alone():
                known = self._read()
                known.setdefault(name, secrets.token_urlsafe(32))
                partial = self.path.with_suffix(".partial")
                partial.touch(mode=0o600)
                partial.write_text(json.dumps(known, indent=1))
                partial.replace(self.path)
        return known[name]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process makes one meanwhile. The folder is locked: a file for it would be of whoever came first."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

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
