"""How much a subscriber may read over HTTP in an hour."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Final

from runtime.http import ProblemError

HOUR: Final = 3600.0


class Quotas:
    """Counts the entries each subscriber reads, hour by hour, in this process."""

    def __init__(self, entries: int, clock: Callable[[], float]) -> None:
        """`entries` an hour; `clock` gives seconds that only grow."""
        self._entries = entries
        self._clock = clock
        self._read: dict[str, tuple[int, int]] = {}
        self._lock = Lock()

    def check(self, subscriber: str) -> None:
        """Raises a 429 problem where the hour's entries are read. A page that is begun may go over."""
        hour, left = divmod(self._clock(), HOUR)
        with self._lock:
            begun, read = self._read.get(subscriber, (hour, 0))
        if begun == hour and read >= self._entries:
            detail = f"You may read {self._entries} entries an hour: go on from the cursor after Retry-After seconds."
            raise ProblemError(
                429, "the quota of this hour is read", detail, {"Retry-After": str(int(HOUR - left) + 1)}
            )

    def add(self, subscriber: str, entries: int) -> None:
        """So many more are read."""
        hour = int(self._clock() // HOUR)
        with self._lock:
            begun, read = self._read.get(subscriber, (hour, 0))
            self._read[subscriber] = (hour, entries + (read if begun == hour else 0))
