"""What a service does by itself, again and again, beside its loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import Event

import psycopg

from runtime.kafka import BrokerAway
from runtime.messages import RetryLater

log = logging.getLogger("estuaire.rounds")


class Rounds:
    """Does one thing every few seconds, until asked to stop; while the database or the broker is away, it waits."""

    def __init__(self, what: str, act: Callable[[], object], seconds: float) -> None:
        self._what = what
        self._act = act
        self._seconds = seconds
        self._stop = Event()

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()

    def run(self) -> None:
        """Until asked to stop."""
        while not self._stop.wait(self._seconds):
            try:
                self._act()
            except (psycopg.Error, BrokerAway, RetryLater) as away:
                log.warning("%s wait: %s", self._what, type(away).__name__)
