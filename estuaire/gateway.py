"""The keys of an edge gateway: those of its own, those it is given, and fingerprints to compare over the telephone."""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path
from typing import Final

from runtime.keys import FolderKeyStore, write_key
from services.ingest.domain import keys

SHARED: Final = keys.LEVEL_1
"""What every site has the same: it is made once."""
OWN: Final = keys.OWN
"""What each site makes for itself."""
GIVEN: Final = keys.RECIPIENTS
"""What the hub's operator gives out."""


def prepare(folder: Path, *, first: bool = False) -> dict[str, str]:
    """Make the site's own keys where they are missing, and with `first` secret 1 too; the fingerprint of every key.

    What is there stays as it is. Raises KeyUnavailable for what has to be given and is not there.
    """
    for name in (*OWN, *((SHARED,) if first else ())):
        if not (folder / f"{name}.json").exists():
            write_key(folder, name, {1: secrets.token_bytes(32)})
    store = FolderKeyStore(folder)
    return {name: _fingerprint(store.secret(name)) for name in (SHARED, *GIVEN, *OWN)}


def _fingerprint(versions: dict[int, bytes]) -> str:
    """Twelve digits by which two sites see that they hold the same versions, and nobody else sees anything."""
    whole = b"".join(version.to_bytes(4) + versions[version] for version in sorted(versions))
    digits = hmac.digest(whole, b"estuaire fingerprint", "sha256")[:6].hex()
    return " ".join(digits[at : at + 4] for at in range(0, 12, 4))
