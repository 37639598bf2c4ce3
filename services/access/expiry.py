"""Closes permits whose last day is over: nothing leaves by then, and their keys and views go."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from contracts import messages
from contracts.messages import PermitClosed
from contracts.permits import PermitError, read_permit
from runtime.kafka import Publisher
from services.access.projects import PERMITS
from services.access.reconciliation import ACCESS


class Reader(Protocol):
    """What it reads."""

    def definitions(self) -> list[tuple[str, bytes]]: ...


class Expiry:
    """Says what every officer could: that the permit is closed."""

    def __init__(self, reader: Reader, publisher: Publisher, clock: Callable[[], dt.datetime]) -> None:
        self._reader = reader
        self._publisher = publisher
        self._clock = clock

    def close_expired(self) -> list[str]:
        """Close those whose last day is over (UTC); returns which. Raises psycopg.Error, BrokerAway."""
        today = self._clock().astimezone(dt.UTC).date()
        over = [permit for permit, definition in self._reader.definitions() if _expires(definition) < today]
        for permit in over:
            closed = PermitClosed(permit, "it has expired", ACCESS)
            self._publisher.publish(PERMITS, permit, messages.encode(closed))
        return over


@lru_cache(maxsize=1000)
def _expires(definition: bytes) -> dt.date:
    """The last day; for a permit that cannot be read, and so releases nothing, one that does not come."""
    try:
        return read_permit(definition).expires
    except PermitError:
        return dt.date.max
