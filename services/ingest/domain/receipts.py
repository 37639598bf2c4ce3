"""What a source was answered on a day: counts, and a digest of the ids acknowledged, so that both sides can compare.

The digest is the sum of the event ids as numbers, modulo 2^128: it depends on no order, and parts of a day add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Final, NamedTuple

from contracts.messages import DailyReceipt

MODULUS: Final = 2**128


class Day(NamedTuple):
    """A source's day (UTC), as YYYY-MM-DD."""

    source: str
    date: str


class Receipts:
    """The days of all sources that this process and others have written down. Safe across threads."""

    def __init__(self, writer: str) -> None:
        self._writer = writer
        self._lock = Lock()
        self._known: dict[Day, dict[str, DailyReceipt]] = {}
        self._changed: set[Day] = set()

    def answered(self, day: Day, event_ids: Iterable[str], reasons: Mapping[str, int]) -> None:
        """Add what a request was answered."""
        numbers = [int(one, 16) for one in event_ids]
        more = DailyReceipt(self._writer, *day, len(numbers), dict(reasons), _digest(sum(numbers)))
        with self._lock:
            of_day = self._known.setdefault(day, {})
            of_day[self._writer] = add(of_day.get(self._writer, _nothing(self._writer, day)), more)
            self._changed.add(day)

    def changed(self) -> list[DailyReceipt]:
        """This process's days that have changed since it was last asked, as they now are."""
        with self._lock:
            changed, self._changed = self._changed, set()
            return [self._known[day][self._writer] for day in sorted(changed)]

    def heard(self, receipt: DailyReceipt) -> None:
        """What a process has written down; its later word on a day replaces its earlier one."""
        if receipt.writer != self._writer:
            with self._lock:
                self._known.setdefault(Day(receipt.source, receipt.date), {})[receipt.writer] = receipt

    def of(self, day: Day) -> DailyReceipt:
        """The day over all processes."""
        with self._lock:
            parts = list(self._known.get(day, {}).values())
        total = _nothing("", day)
        for part in parts:
            total = add(total, part)
        return total


def add(one: DailyReceipt, more: DailyReceipt) -> DailyReceipt:
    """Both together, under the first's name."""
    digest = int.from_bytes(one.digest) + int.from_bytes(more.digest)
    rejected = dict(sorted((Counter(one.rejected) + Counter(more.rejected)).items()))
    return DailyReceipt(one.writer, one.source, one.date, one.accepted + more.accepted, rejected, _digest(digest))


def _nothing(writer: str, day: Day) -> DailyReceipt:
    return DailyReceipt(writer, *day, 0, {}, bytes(16))


def _digest(number: int) -> bytes:
    return (number % MODULUS).to_bytes(16)
