"""Where the state of the platform on this machine is, and where the one that was last started listens."""

from __future__ import annotations

import json
import os
from pathlib import Path


def home_folder() -> Path:
    """Where the state lives: `$ESTUAIRE_HOME`, or `.estuaire` here."""
    return Path(os.environ.get("ESTUAIRE_HOME", ".estuaire")).absolute()


def addresses(home: Path) -> dict[str, str]:
    """Where the platform that was last started here listens, by the environment variable a client reads it from."""
    path = home / "addresses.json"
    try:
        found: dict[str, str] = json.loads(path.read_text())
    except (OSError, ValueError):
        found = {}
    return found


def is_secured(home: Path, broker: str) -> bool:
    """Whether this is the broker that was last started here, and it asks for accounts."""
    found = addresses(home)
    return broker == found.get("ESTUAIRE_BROKER") and "ESTUAIRE_BROKER_USER" in found
