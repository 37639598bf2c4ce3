"""Views are counted whenever that is quick, and seldom where it is not."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from prometheus_client import REGISTRY

from services.access.app import count as show_counts
from services.access.sizes import Sizes

pytestmark = pytest.mark.unit


class Counting:
    """Counts a view that grows by an entry each time, and takes some seconds for it."""

    def __init__(self, seconds: float) -> None:
        self.now = 100.0
        self.times = 0
        self._seconds = seconds

    def clock(self) -> float:
        return self.now

    def __call__(self) -> list[tuple[str, int, int]]:
        self.times += 1
        self.now += self._seconds
        return [("cardio", self.times, 1)]


def test_what_is_counted_quickly_is_counted_whenever_somebody_asks() -> None:
    count = Counting(0.01)
    sizes = Sizes(count.clock)
    assert [sizes.now(count)["cardio"] for _ in range(3)] == [(1, 1), (2, 1), (3, 1)]


def test_what_takes_long_takes_a_twentieth_of_the_time() -> None:
    count = Counting(2.0)
    sizes = Sizes(count.clock)
    begun = count.now
    while count.now < begun + 4200:
        sizes.now(count)
        count.now += 0.05
    assert count.times == 100
    assert sizes.now(count)["cardio"][0] in (100, 101)


def test_who_asks_while_another_counts_is_not_kept_waiting() -> None:
    sizes, counts, go = Sizes(lambda: 0.0), threading.Event(), threading.Event()
    sizes.now(lambda: [("cardio", 1, 1)])

    def slowly() -> list[tuple[str, int, int]]:
        counts.set()
        assert go.wait(10)
        return [("cardio", 2, 1)]

    thread = threading.Thread(target=sizes.now, args=[slowly])
    thread.start()
    assert counts.wait(10)
    assert sizes.now(lambda: [("cardio", 3, 1)])["cardio"] == (1, 1)
    go.set()
    thread.join()
    assert sizes.now(lambda: [("cardio", 3, 1)])["cardio"] == (3, 1)


def test_a_count_that_fails_leaves_what_was_counted_and_the_next_one_counts() -> None:
    sizes = Sizes(lambda: 0.0)

    def fails() -> list[tuple[str, int, int]]:
        raise OSError

    with pytest.raises(OSError):
        sizes.now(fails)
    assert sizes.now(lambda: [("cardio", 1, 1)])["cardio"] == (1, 1)


def test_permits_and_oppositions_are_as_the_database_has_them_also_where_nothing_was_said_since_the_start() -> None:
    class Reader:
        def count_permits(self) -> dict[str, int]:
            return {"open": 2}

        def oppositions(self) -> list[tuple[str, int]]:
            return opposed

    reader: Any = Reader()
    for opposed in ([("*", 5), ("urn:hospital", 2)], []):
        show_counts(reader)
        assert REGISTRY.get_sample_value("estuaire_oppositions_in_force") == sum(count for _, count in opposed)
    assert REGISTRY.get_sample_value("estuaire_permits", {"state": "open"}) == 2
    assert REGISTRY.get_sample_value("estuaire_permits", {"state": "closed"}) == 0
