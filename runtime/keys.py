"""Keys from a folder that only the service can read; one file per key, versions inside."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey


class KeyUnavailable(Exception):
    """A key cannot be read. Names the key and the fix, never its value."""


class KeyStore(Protocol):
    """Where a service's keys are. A deployment may put a vault here."""

    def secret(self, name: str) -> dict[int, bytes]:
        """All versions of a secret, by version number."""

    def private(self, name: str) -> list[X25519PrivateKey]:
        """All versions of a private key, newest first."""

    def public(self, name: str) -> X25519PublicKey:
        """The newest version of a public key."""


class FolderKeyStore:
    """Keys as `<folder>/<name>.json`, each `{"<version>": "<base64>"}`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def secret(self, name: str) -> dict[int, bytes]:
        """All versions of the secret `name`. Raises KeyUnavailable."""
        path = self._folder / f"{name}.json"
        try:
            versions = {
                int(version): base64.b64decode(text, validate=True)
                for version, text in json.loads(path.read_text()).items()
            }
        except (OSError, ValueError, AttributeError, TypeError):
            raise KeyUnavailable(
                f"key {name} cannot be read: expected {path} as a JSON map of version to base64"
            ) from None
        if not versions or any(len(value) < 32 for value in versions.values()):
            raise KeyUnavailable(f"key {name} in {path} needs versions of at least 32 bytes each")
        return versions

    def private(self, name: str) -> list[X25519PrivateKey]:
        """All versions of the private key `name`, newest first. Raises KeyUnavailable."""
        versions = self.secret(name)
        return [X25519PrivateKey.from_private_bytes(versions[version]) for version in sorted(versions, reverse=True)]

    def public(self, name: str) -> X25519PublicKey:
        """The newest public key `name`. Raises KeyUnavailable."""
        versions = self.secret(name)
        return X25519PublicKey.from_public_bytes(versions[max(versions)])


def write_key(folder: Path, name: str, versions: dict[int, bytes]) -> None:
    """Write a key so that only its owner can read it; an existing one is replaced whole."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{name}.json"
    text = json.dumps({str(version): base64.b64encode(value).decode() for version, value in versions.items()})
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.replace(path)
