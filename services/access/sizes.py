"""How large views are, counted no more often than it costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Final

SIZES: Final = (
    "SELECT permit, sum(entries)::bigint, count(*) FROM"
    " (SELECT permit, patient, count(*) AS entries FROM view_entries GROUP BY permit, patient) AS held GROUP BY permit"
)
"""Permit, entries and patients of each view."""


class Sizes:
    """How many entries and patients views have. Where counting takes long, it is not done again before twenty times as
    long has passed: it never takes more than a twentieth of a connection's time, however often somebody looks."""

    AT_ONCE: Final = 0.05
    """Seconds: what takes no longer is counted whenever it is asked for."""
    TIMES: Final = 20

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: dict[str, tuple[int, int]] | None = None
        self._until = 0.0
        self._counting = Lock()

    def now(self, count: Callable[[], Iterable[tuple[str, int, int]]]) -> Mapping[str, tuple[int, int]]:
        """Entries and patients by permit. Who asks while another counts has what was counted before, if it was."""
        if self._found is not None and self._clock() < self._until:
            return self._found
        if not self._counting.acquire(blocking=self._found is None):
            return self._found or {}
        try:
            if self._found is not None and self._clock() < self._until:  # somebody has counted meanwhile
                return self._found
            begun = self._clock()
            self._found = {permit: (entries, patients) for permit, entries, patients in count()}
            took = self._clock() - begun
            self._until = begun + took * (1 + self.TIMES) if took > self.AT_ONCE else 0.0
            return self._found
        finally:
            self._counting.release()
