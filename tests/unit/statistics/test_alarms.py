"""Alarms on simulated weeks: normal rhythms raise none; who stops, or sends tenfold, raises one that clears."""

from __future__ import annotations

import datetime as dt
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from contracts.sources import Registered
from services.statistics.domain.alarms import Alarm, Kind, Known, judge

pytestmark = pytest.mark.unit

BEGIN = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)  # a Monday
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
SOURCE = "urn:a"
Rate = Callable[[dt.datetime], float]
Standing = dict[tuple[str, Kind], Alarm]


def hospital(at: dt.datetime) -> float:
    """By day ten times what comes at night, half of it on Saturdays, little on Sundays."""
    by_day = 400 if 7 <= at.hour < 19 else 40
    return by_day * {5: 0.5, 6: 0.15}.get(at.weekday(), 1.0)


def laboratory(at: dt.datetime) -> float:
    """On working days alone, and nothing at night."""
    return 150.0 if at.weekday() < 5 and 6 <= at.hour < 20 else 0.0


def practice(at: dt.datetime) -> float:
    """A few records in office hours."""
    return 1.5 if at.weekday() < 5 and at.hour in (9, 10, 11, 14, 15, 16) else 0.0


def batch(at: dt.datetime) -> float:
    """All of the day's records at two in the morning."""
    return 5000.0 if at.hour == 2 else 0.0


def devices(_at: dt.datetime) -> float:
    """The same at all hours."""
    return 900.0


class Simulation:
    """A producer's hours, record by record in their number, and its alarms at every quarter of an hour."""

    def __init__(self, rate: Rate, seed: int = 1, after: dt.timedelta | None = None) -> None:
        self._rate = rate
        self._random = random.Random(seed)
        self._registered = {SOURCE: Registered(source=SOURCE, silent_after=None)}
        if after is not None:
            self._registered = {SOURCE: Registered.model_validate({"source": SOURCE, "silent_after": _text(after)})}
        self.now = BEGIN
        self.hours: Counter[dt.datetime] = Counter()
        self.last_seen: dt.datetime | None = None
        self.standing: Standing = {}

    def run(self, days: float, times: float = 1.0) -> Iterator[Standing]:
        """So many days, with so many times the usual; the alarms at each quarter."""
        end = self.now + days * DAY
        while self.now < end:
            hour = self.now.replace(minute=0)
            count = self._poisson(self._rate(hour) * times / 4)
            self.now += dt.timedelta(minutes=15)
            if count:
                self.hours[hour] += count
                self.last_seen = self.now - dt.timedelta(seconds=30)
            if self.last_seen is not None:
                known = {SOURCE: Known(self.last_seen, self.hours)}
                self.standing = judge(self.now, known, self._registered, self.standing)
            yield self.standing

    def quiet(self, days: float, times: float = 1.0) -> None:
        """So many days without an alarm."""
        for standing in self.run(days, times):
            assert not standing, (self.now, standing)

    def until_alarm(self, days: float, times: float) -> Alarm:
        """The first alarm within so many days."""
        for standing in self.run(days, times):
            if standing:
                (found,) = standing.values()
                return found
        raise AssertionError("no alarm in time")

    def _poisson(self, mean: float) -> int:
        return max(0, round(self._random.gauss(mean, math.sqrt(mean)))) if mean else 0


def _text(span: dt.timedelta) -> str:
    return f"{span // dt.timedelta(minutes=1)}m"


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("rate", [hospital, laboratory, practice, batch, devices])
def test_no_rhythm_of_nights_and_weekends_is_an_alarm(rate: Rate, seed: int) -> None:
    Simulation(rate, seed).quiet(42)


@pytest.mark.parametrize("rate", [hospital, laboratory, devices])
@pytest.mark.parametrize("shift", [-1, 1])
def test_a_day_that_begins_an_hour_earlier_or_later_is_none(rate: Rate, shift: int) -> None:
    """As it does twice a year, where the clock by which people live is not UTC."""
    change = BEGIN + 28 * DAY
    Simulation(lambda at: rate(at + shift * HOUR if at >= change else at)).quiet(42)


@pytest.mark.parametrize("rate", [hospital, laboratory, devices])
def test_a_producer_that_stops_is_an_alarm_within_hours_of_its_working_time_until_it_is_heard_again(rate: Rate) -> None:
    simulated = Simulation(rate)
    simulated.quiet(29.5)  # a Tuesday at noon
    stopped = simulated.now
    alarm = simulated.until_alarm(1, times=0)
    assert (alarm.source, alarm.kind, alarm.seen) == (SOURCE, "silence", 0)
    assert dt.timedelta(hours=1) < alarm.since - stopped <= dt.timedelta(hours=4)
    assert alarm.expected is not None and alarm.expected > 100
    for standing in simulated.run(62, times=0):  # long after there is any hour to compare with
        assert standing[SOURCE, "silence"] == alarm
    standing = next(simulated.run(1))
    assert (SOURCE, "silence") not in standing


def test_a_producer_that_stops_for_the_weekend_is_an_alarm_on_monday() -> None:
    simulated = Simulation(laboratory)
    simulated.quiet(4 * 7 + 4 + 20 / 24)  # a Friday evening
    assert simulated.until_alarm(5, times=0).since.strftime("%a") == "Mon"


def test_a_batch_that_does_not_come_is_an_alarm_after_days() -> None:
    simulated = Simulation(batch)
    simulated.quiet(29.5)
    stopped = simulated.now
    assert 2 * DAY < simulated.until_alarm(10, times=0).since - stopped < 6 * DAY


@pytest.mark.parametrize("after", [dt.timedelta(hours=1), dt.timedelta(hours=6), dt.timedelta(days=2)])
def test_a_registered_interval_decides_alone(after: dt.timedelta) -> None:
    simulated = Simulation(devices, after=after)
    simulated.quiet(0.5)
    assert simulated.last_seen is not None
    alarm = simulated.until_alarm(3, times=0)
    assert alarm == Alarm(SOURCE, "silence", simulated.last_seen + after, None, 0)
    assert simulated.now - alarm.since <= dt.timedelta(minutes=15)


@pytest.mark.parametrize("after", ["90m", "3d"])
def test_a_rhythm_whose_nights_are_shorter_than_the_interval_raises_none(after: str) -> None:
    span = {"90m": dt.timedelta(minutes=90), "3d": 3 * DAY}[after]
    Simulation(devices if after == "90m" else laboratory, after=span).quiet(21)


@pytest.mark.parametrize("rate", [hospital, laboratory, devices])
@pytest.mark.parametrize("times", [15.0, 0.05])
def test_tenfold_and_a_tenth_are_alarms_that_clear(rate: Rate, times: float) -> None:
    simulated = Simulation(rate)
    simulated.quiet(29 + 10 / 24)
    alarm = simulated.until_alarm(1, times)
    assert (alarm.kind, alarm.source) == ("volume", SOURCE)
    assert alarm.since == dt.datetime(2026, 2, 3, 10, tzinfo=dt.UTC)
    assert alarm.expected is not None
    assert alarm.expected == pytest.approx(rate(alarm.since), rel=0.2)
    assert alarm.seen >= 10 * alarm.expected or alarm.seen <= alarm.expected / 10
    (*_, standing) = simulated.run(3 / 24)
    assert not standing


def test_an_alarm_of_volume_keeps_its_beginning_while_it_lasts() -> None:
    simulated = Simulation(devices)
    simulated.quiet(29)
    begun = simulated.now
    (*_, standing) = simulated.run(0.5, times=12)
    assert standing[SOURCE, "volume"].since == begun


def test_a_small_producer_has_its_ups_and_downs() -> None:
    simulated = Simulation(practice)
    simulated.quiet(28)
    simulated.quiet(1, times=12)


def test_a_new_producer_is_no_alarm_not_even_with_all_its_past_at_once() -> None:
    simulated = Simulation(hospital)
    simulated.quiet(0.25, times=200)
    simulated.quiet(14)


def test_who_leaves_the_registry_or_was_never_heard_is_not_silent() -> None:
    known = {SOURCE: Known(BEGIN, {BEGIN: 1})}
    silent = Registered.model_validate({"source": SOURCE, "silent_after": "1h"})
    registered = {SOURCE: silent, "urn:never": silent.model_copy(update={"source": "urn:never"})}
    standing = judge(BEGIN + DAY, known, registered, {})
    assert set(standing) == {(SOURCE, "silence")}
    assert judge(BEGIN + DAY, known, {}, standing) == {}
    patient = {SOURCE: Registered.model_validate({"source": SOURCE, "silent_after": "2d"})}
    assert judge(BEGIN + DAY, known, patient, standing) == {}, "it may be silent for longer now"
    learnt = {SOURCE: Registered(source=SOURCE, silent_after=None)}
    assert judge(BEGIN + DAY, known, learnt, standing) == standing
