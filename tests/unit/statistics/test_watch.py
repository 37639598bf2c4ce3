"""From summaries through the tables to the alarms: a rhythm of nights and weekends raises none; what departs does."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

import pytest
from prometheus_client import REGISTRY

from contracts.messages import FlowWindow, Measures, encode
from contracts.sources import Registered
from runtime.messages import FlowSummary
from services.statistics.domain.alarms import Alarm
from services.statistics.domain.windows import Names, Windows
from services.statistics.published import Published
from services.statistics.watch import Watch
from tests.unit.statistics.test_alarms import BEGIN, DAY, SOURCE, Rate, batch, hospital, laboratory

pytestmark = pytest.mark.unit

QUARTER = dt.timedelta(minutes=15)


class Memory:
    """What outlives the process."""

    def __init__(self) -> None:
        self.standing: list[Alarm] = []

    def alarms(self) -> list[Alarm]:
        return self.standing

    def replace_alarms(self, standing: Iterable[Alarm]) -> None:
        self.standing = list(standing)

    def last_seen(self) -> dict[str, dt.datetime]:
        return {}


class Tables:
    """A worker's windows, published and watched, while a producer sends."""

    def __init__(self, rate: Rate) -> None:
        self.now = BEGIN
        self._rate = rate
        self._held: dict[bytes, FlowWindow] = {}
        self._number = 0
        self._published, self._memory = Published(), Memory()
        self._watch = Watch(self._published, self._memory, lambda: {SOURCE: Registered(source=SOURCE)})

    def run(self, days: float, times: float = 1.0) -> None:
        """The producer sends so many times the usual, a message of measures each quarter of an hour."""
        end = self.now + days * DAY
        while self.now < end:
            count = round(self._rate(self.now.replace(minute=0)) * times / 4)
            at = self.now + QUARTER / 2
            self.now += QUARTER
            if count:
                self._count(count, round(at.timestamp() * 1000))

    def raised(self, days: float, times: float = 1.0) -> set[str]:
        """So many days; the kinds of alarms that stand at the end of any of their hours."""
        found: set[str] = set()
        for _ in range(round(days * 24)):
            self.run(1 / 24, times)
            found |= self.alarms()
        return found

    def alarms(self) -> set[str]:
        """The kinds of alarms that stand now."""
        self._published.counted_until = self.now.timestamp()
        self._watch.look()
        return {one.kind for one in self._memory.standing}

    def _count(self, count: int, at: int) -> None:
        self._number += 1
        windows = Windows(self._held.get, Names(lambda _: True), self.now.timestamp())
        measures = Measures(b"writer", self._number, {SOURCE: {"claim.v1": {"records": count}}})
        windows.add(0, self._number, at, FlowSummary("ingest", 0, at, ()), measures)
        self._held |= windows.changed
        for key, window in windows.changed.items():
            self._published.take(key, encode(window))


@pytest.mark.parametrize("rate", [hospital, laboratory, batch])
def test_a_rhythm_of_nights_and_weekends_raises_no_alarm_and_what_departs_from_it_does(rate: Rate) -> None:
    tables = Tables(rate)
    tables.run(21)
    assert not tables.raised(8)
    assert tables.raised(1, times=12) == {"volume"}
    tables.run(7, times=0)
    assert tables.alarms() == {"silence"}
    tables.run(1)
    assert not tables.alarms()


def test_each_alarm_is_shown_under_its_source_while_it_stands() -> None:
    tables = Tables(hospital)

    def shown(kind: str) -> float | None:
        return REGISTRY.get_sample_value("estuaire_source_alarms", {"source": SOURCE, "kind": kind})

    tables.run(21)
    tables.run(7, times=0)
    assert tables.alarms() == {"silence"}
    assert (shown("silence"), shown("volume")) == (1, None)
    tables.run(1)
    assert not tables.alarms()
    assert shown("silence") is None


def test_while_nobody_knows_until_when_the_flow_is_counted_nobody_is_silent() -> None:
    tables = Tables(hospital)
    tables.run(21)
    tables.run(3, times=0)
    tables._watch.look()
    assert not tables._memory.standing
    assert tables.alarms() == {"silence"}
