"""What the flow's worker fetches is given once it can be acknowledged, and fetched again otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from runtime.messages import SUMMARIES
from services.statistics import worker

pytestmark = pytest.mark.unit

MESSAGES, CHANGES = TP(f"prefix-{SUMMARIES}", 0), TP("prefix-flow-windows", 0)


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """It fetches ten messages and ten changes at a time; the first time that it is to go back it cannot."""
    one: Any = worker._Consumer.__new__(worker._Consumer)
    one.at, one.failures = 0, 1

    async def getmany(self: Any, _timeout: float) -> AsyncIterator[tuple[TP, int]]:
        first, self.at = self.at, self.at + 10
        for number in range(first, first + 10):
            yield MESSAGES, number
            yield CHANGES, number

    async def perform_seek(self: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError
        self.at = 0

    monkeypatch.setattr(driver.Consumer, "assignment", lambda _: {MESSAGES})
    monkeypatch.setattr(driver.Consumer, "getmany", getmany)
    monkeypatch.setattr(driver.Consumer, "perform_seek", perform_seek)
    return one


def test_what_was_fetched_before_it_was_told_to_go_back_is_given_when_it_is_fetched_again(consumer: Any) -> None:
    async def given(turns: int, told: int = -1) -> list[tuple[TP, int]]:
        found = []
        for _ in range(turns):
            async for place, number in consumer.getmany(1.0):
                found.append((place, number))
                if (place, number) == (MESSAGES, told):
                    await consumer.perform_seek()
        return found

    def numbers(found: list[tuple[TP, int]], place: TP) -> list[int]:
        return [number for where, number in found if where == place]

    found = asyncio.run(given(1, told=3))
    assert numbers(found, MESSAGES) == [0, 1, 2, 3]
    assert numbers(found, CHANGES) == [*range(10)], "what recovers the table has positions of its own"
    assert numbers(asyncio.run(given(1)), MESSAGES) == [], "it could not go back yet"
    assert numbers(asyncio.run(given(2)), MESSAGES) == [*range(20)]


def test_nobody_goes_back_while_partitions_change_hands(consumer: Any) -> None:
    async def turn() -> None:
        await consumer.perform_seek()
        consumer.flow_active = False
        async for place, _ in consumer.getmany(1.0):
            assert place == CHANGES

    asyncio.run(turn())
    assert consumer.failures == 1
