"""Closes permits whose last day is over: nothing leaves by then, and their keys and views go."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from threading import Event
from typing import Final, Protocol

import psycopg

from contracts import messages
from contracts.messages import PermitClosed
from contracts.permits import PermitError, read_permit
from runtime.kafka import BrokerAway, Publisher
from services.access.projects import PERMITS
from services.access.reconciliation import ACCESS

log = logging.getLogger("estuaire.access")

SECONDS: Final = 2.0


class Reader(Protocol):
    """What it reads."""

    def definitions(self) -> list[tuple[str, bytes]]: ...


class Expiry:
    """Looks every two seconds, and says what every officer could: that the permit is closed."""

    def __init__(self, reader: Reader, publisher: Publisher, clock: Callable[[], dt.datetime]) -> None:
        self._reader = reader
        self._publisher = publisher
        self._clock = clock
        self._stop = Event()

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()

    def run(self) -> None:
        """Close what expires, until asked to stop."""
        while not self._stop.wait(SECONDS):
            try:
                self.close_expired()
            except (psycopg.Error, BrokerAway) as away:
                log.warning("permits that expire wait: %s", type(away).__name__)

    def close_expired(self) -> list[str]:
        """Close those whose last day is over (UTC); returns which. Raises psycopg.Error, BrokerAway."""
        today = self._clock().astimezone(dt.UTC).date()
        over = [permit for permit, definition in self._reader.definitions() if _expires(definition) < today]
        for permit in over:
            closed = PermitClosed(permit, "it has expired", ACCESS)
            self._publisher.publish(PERMITS, permit, messages.encode(closed))
        return over


def _expires(definition: bytes) -> dt.date:
    """The last day; for a permit that cannot be read, and so releases nothing, one that does not come."""
    try:
        return read_permit(definition).expires
    except PermitError:
        return dt.date.max
