"""Clients of the platform that was last started here, or of the hub that the environment names.

`ESTUAIRE_INGEST_URL`, `ESTUAIRE_BROKER` and `ESTUAIRE_TOKEN` say where, and as whom; what is not set is the platform's.
"""

from __future__ import annotations

import os

from estuaire.home import addresses, home_folder
from estuaire.keyring import Keyring
from estuaire.producer import Producer
from estuaire.subscriber import Subscriber
from runtime.settings import RuntimeSettings


def producer(source: str) -> Producer:
    """A client that sends for this source. Raises SendError."""
    token = os.environ.get("ESTUAIRE_TOKEN") or Keyring(home_folder()).token("producers", source)
    return Producer(_address("ESTUAIRE_INGEST_URL", "http://127.0.0.1:8000"), token)


def subscriber(permit: str) -> Subscriber:
    """A client that reads the view of this permit."""
    return Subscriber(RuntimeSettings(bootstrap_servers=_address("ESTUAIRE_BROKER", "127.0.0.1:9092")), permit)


def _address(name: str, otherwise: str) -> str:
    return os.environ.get(name) or addresses(home_folder()).get(name, otherwise)
