"""Clients of the platform that was last started here, or of the hub that the environment names.

`ESTUAIRE_INGEST_URL`, `ESTUAIRE_BROKER`, `ESTUAIRE_TOKEN` and `ESTUAIRE_KAFKA_CONFIG` say where, and as whom; what is
not set is the platform's.
"""

from __future__ import annotations

import os

from contracts import acl
from estuaire.home import addresses, home_folder, is_secured
from estuaire.keyring import ADMIN, Keyring
from estuaire.producer import Producer
from estuaire.subscriber import Subscriber
from runtime.settings import RuntimeSettings


def producer(source: str) -> Producer:
    """A client that sends for this source. Raises SendError."""
    token = os.environ.get("ESTUAIRE_TOKEN") or Keyring(home_folder()).producer_token(source)
    return Producer(_address("ESTUAIRE_INGEST_URL", "http://127.0.0.1:8000"), token)


def subscriber(permit: str, name: str = "") -> Subscriber:
    """A client that reads the view of this permit: on the platform here as one of its subscribers, or its operator."""
    principal = acl.subscriber(name) if name else ""
    return Subscriber(at_broker(_address("ESTUAIRE_BROKER", "127.0.0.1:9092"), principal), permit)


def at_broker(broker: str, principal: str = "") -> RuntimeSettings:
    """Settings for this broker: as `ESTUAIRE_KAFKA_CONFIG` says, else the platform's, as this principal or operator."""
    settings = RuntimeSettings(bootstrap_servers=broker)
    if settings.kafka_config or not is_secured(home_folder(), broker):
        return settings
    config = Keyring(home_folder()).kafka_config(principal or ADMIN)
    return settings.model_copy(update={"kafka_config": config})


def service_url(service: str) -> str:
    """Where a service listens."""
    from estuaire.platform import PORTS

    return _address(f"ESTUAIRE_{service.upper()}_URL", f"http://127.0.0.1:{8000 + PORTS[service]}")


def _address(name: str, otherwise: str) -> str:
    return os.environ.get(name) or addresses(home_folder()).get(name, otherwise)
