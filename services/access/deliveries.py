"""Orders deliveries to the views of permits that get what is new by the hour or by the day."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Protocol

from contracts.permits import PermitError
from runtime.kafka import Publisher
from services.access.adapters import StoredPermit
from services.access.handlers import delivery
from services.access.reconciliation import release_from
from services.access.vault import KeyBroken, Vault


class Reader(Protocol):
    """What it reads."""

    def waiting(self) -> list[tuple[StoredPermit, dt.datetime]]: ...


class Deliveries:
    """Orders them once an hour or a day is over for which something waits."""

    def __init__(self, reader: Reader, publisher: Publisher, vault: Vault, clock: Callable[[], dt.datetime]) -> None:
        self._reader = reader
        self._publisher = publisher
        self._vault = vault
        self._clock = clock

    def order_due(self) -> list[str]:
        """Order what is due; returns for which permits. Raises psycopg.Error, BrokerAway."""
        due = [one for one, since in self._reader.waiting() if self._is_due(one, since)]
        for one in due:
            order = delivery(one)
            self._publisher.publish(order.topic, (order.key or b"").decode(), order.value or b"")
        return [one.permit for one in due]

    def _is_due(self, stored: StoredPermit, since: dt.datetime) -> bool:
        try:
            policy = release_from(stored, self._vault).policy
        except (PermitError, KeyBroken):
            return False  # it releases nothing, and has its alarm elsewhere
        return since < policy.delivered_until(self._clock())
