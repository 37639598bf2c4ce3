"""When a producer's silence, or the volume of an hour, is worth an alarm. Pure.

What is usual is learnt from the producer's own past: from the same hours of past days of the same kind (working days,
Saturdays, Sundays; all in UTC), so that a night, a weekend and a batch at two o'clock are no alarm.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Final, Literal, NamedTuple

from contracts.sources import Registered

Kind = Literal["silence", "volume"]
KINDS: Final[tuple[Kind, ...]] = ("silence", "volume")

HOUR: Final = dt.timedelta(hours=1)
DAY: Final = dt.timedelta(days=1)
PAST: Final = dt.timedelta(days=21)
"""So much of the past is compared with."""
BY_CHANCE: Final = 0.001
"""A silence that comes by chance more often than this is none."""
TIMES: Final = 10
"""An hour has so many times, or one in so many, of what is usual."""
FLOOR: Final = 100
"""Hours of fewer records, or in which fewer are usual, are not compared: small producers have their ups and downs."""
LEAST_DAYS: Final = 3
"""So many comparable days it takes to say what is usual."""

Hours = Mapping[dt.datetime, int]
"""Records by the hour in which they came; an hour that is absent had none."""


class Alarm(NamedTuple):
    """What is wrong. `expected` are records: in the silence so far, or in the hour; None where nothing is learnt."""

    source: str
    kind: Kind
    since: dt.datetime
    expected: float | None
    seen: int


class Known(NamedTuple):
    """What is known of a source."""

    last_seen: dt.datetime
    hours: Hours


def judge(
    now: dt.datetime,
    known: Mapping[str, Known],
    registered: Mapping[str, Registered],
    standing: Mapping[tuple[str, Kind], Alarm],
) -> dict[tuple[str, Kind], Alarm]:
    """The alarms that stand at this moment, given those that stood before.

    Silence is for registered sources that were heard of; it stands until the source is heard again, leaves the
    registry, or is allowed a longer silence there. Volume is for every source; it stands while the hour at hand, or
    the one before it, is unusual.
    """
    found: dict[tuple[str, Kind], Alarm] = {}
    for source, one in known.items():
        if source in registered:
            after, before = registered[source].silent_after, standing.get((source, "silence"))
            if before is not None and before.since >= one.last_seen and after is None:
                found[source, "silence"] = before
            elif silent := _silence(source, now, one, after):
                found[source, "silence"] = silent
        if volume := _volume(source, now, one.hours):
            before = standing.get((source, "volume"))
            since = min(volume.since, before.since) if before else volume.since
            found[source, "volume"] = volume._replace(since=since)
    return found


def _silence(source: str, now: dt.datetime, known: Known, after: dt.timedelta | None) -> Alarm | None:
    if after is not None:
        since = known.last_seen + after
        return Alarm(source, "silence", since, None, 0) if now > since else None
    return _unlikely_silence(source, now, known)


def _unlikely_silence(source: str, now: dt.datetime, known: Known) -> Alarm | None:
    """By how likely each whole hour that passed was to have records: all of them to have none has to be unlikely.

    Of `n` comparable hours, `k` of them with records, the next has some with a likelihood of k/(n+1): what was always
    so need not go on for ever.
    """
    heard = known.last_seen.replace(minute=0, second=0, microsecond=0)
    first = min(known.hours, default=heard)
    chance, expected, hour = 1.0, 0.0, heard + HOUR
    while hour + HOUR <= now and hour - heard <= PAST:
        counts = [known.hours.get(one, 0) for one in _comparable(hour, max(first, heard - PAST), heard)]
        chance *= 1 - sum(count > 0 for count in counts) / (len(counts) + 1)
        expected += sum(counts) / max(1, len(counts))
        if chance < BY_CHANCE:
            return Alarm(source, "silence", hour + HOUR, round(expected, 1), 0)
        hour += HOUR
    return None


def _volume(source: str, now: dt.datetime, hours: Hours) -> Alarm | None:
    """Of the hour at hand, which can only be too full yet, and the one before it; the beginning is where it went on."""
    at = now.replace(minute=0, second=0, microsecond=0)
    if not (alarm := _unusual(source, at, hours, over=False) or _unusual(source, at - HOUR, hours, over=True)):
        return None
    while earlier := _unusual(source, alarm.since - HOUR, hours, over=True):
        alarm = alarm._replace(since=earlier.since)
    return alarm


def _unusual(source: str, hour: dt.datetime, hours: Hours, *, over: bool) -> Alarm | None:
    """An hour that has too much, or, once it is over, too little; none at all is a silence. The hours around it count
    as comparable, too: a day's beginning moves, twice a year by an hour."""
    seen = hours.get(hour, 0)
    if not seen:
        return None
    first = min(hours)
    around = [
        [hours.get(one + step * HOUR, 0) for step in (-1, 0, 1)]
        for one in _comparable(hour, max(first, hour - PAST), hour - HOUR)
    ]
    if len(around) < LEAST_DAYS:
        return None
    usual, high, low = (median(of(counts) for counts in around) for of in (lambda counts: counts[1], max, min))
    too_much = seen >= max(FLOOR, TIMES * high)
    too_little = over and low >= FLOOR and seen * TIMES <= low
    return Alarm(source, "volume", hour, round(usual, 1), seen) if too_much or too_little else None


def _comparable(hour: dt.datetime, begin: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
    """The same hours of past days of the same kind, from the first whole day of the past until before the end."""
    kind = _kind(hour)
    one = hour - DAY
    while one >= begin:
        if one < end and _kind(one) == kind:
            yield one
        one -= DAY


def _kind(hour: dt.datetime) -> int:
    return max(4, hour.weekday())
