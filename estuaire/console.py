"""Links that sign in at the console of the platform here, where no identity provider has a page to sign in on.

A link is good once, for ten minutes. The console knows it by a file under the hash of its secret, which holds a token
for whoever opens it: the console makes no tokens, and has no key to make them with.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from pathlib import Path
from typing import Final

from estuaire.keyring import Keyring
from runtime.http import hash_token

LIFETIME: Final = 600
"""Seconds."""


def links_folder(home: Path) -> Path:
    """Where the links are that nobody has opened yet."""
    return home / "links"


def sign_in_link(home: Path, url: str, name: str, *roles: str) -> str:
    """A link to the console at `url` that signs in as somebody in these roles, once."""
    folder = links_folder(home)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    now = time.time()
    for old in folder.iterdir():
        if now - old.stat().st_mtime > LIFETIME:
            old.unlink(missing_ok=True)
    secret = secrets.token_urlsafe(32)
    kept = {"token": Keyring(home).token(name, *roles), "until": int(now) + LIFETIME}
    fresh = folder / f".{os.getpid()}.{secrets.token_hex(4)}"
    fresh.touch(0o600)
    fresh.write_text(json.dumps(kept))
    fresh.replace(folder / hash_token(secret))
    return f"{url}/enter?link={secret}"
