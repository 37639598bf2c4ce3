"""Measures of many devices as their maker's gateway sends them: late, repeated, out of order, and with clocks wrong."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal, NamedTuple

SOURCE: Final = "urn:estuaire:producer:telesuivi"
BEGIN: Final = dt.datetime(2026, 3, 2, tzinfo=dt.UTC)
DAY: Final = dt.timedelta(days=1)
MOST_LATE: Final = dt.timedelta(hours=30)

Clock = Literal["right", "fast", "ahead", "slow", "reset"]
_CLOCKS: Final[tuple[tuple[Clock, int, dt.timedelta], ...]] = (
    ("right", 970, dt.timedelta()),
    ("fast", 12, dt.timedelta(minutes=7)),
    ("ahead", 6, dt.timedelta(days=400)),
    ("slow", 6, -dt.timedelta(hours=25)),
    ("reset", 6, dt.datetime(2000, 1, 1, tzinfo=dt.UTC) - BEGIN),
)
"""How a clock is wrong, of how many devices in a thousand, and by how much: a flat battery begins again with 2000."""

_KINDS: Final = (
    # kind, LOINC, UCUM, lowest, highest
    ("weighing-scale", "29463-7", "kg", 45, 120),
    ("pulse-oximeter", "59408-5", "%", 88, 100),
    ("heart-rate-monitor", "8867-4", "/min", 45, 130),
    ("blood-pressure-monitor", "8480-6", "mm[Hg]", 95, 180),
    ("continuous-glucose-monitor", "2345-7", "mg/dL", 60, 260),
)


@dataclass(frozen=True, slots=True)
class Device:
    """One person's device. `offset` is added to what its clock should say."""

    number: int
    kind: int
    clock: Clock
    offset: dt.timedelta
    is_away: bool
    """Whether it reaches its gateway a few times a day only, and delivers then what it has gathered."""


class Delivered(NamedTuple):
    """One delivery, in the order of arrival. `measured` is what the device's clock said, `arrived` the true time."""

    device: int
    measured: dt.datetime
    arrived: dt.datetime
    value: float
    event: dict[str, Any]
    is_repeat: bool


def devices(count: int, seed: int = 1) -> list[Device]:
    """So many devices, the same for the same seed."""
    rng = Random(f"devices {seed}")  # noqa: S311
    found = []
    for number in range(count):
        ((clock, _, offset),) = rng.choices(_CLOCKS, [share for _, share, _ in _CLOCKS])
        found.append(Device(number, rng.randrange(len(_KINDS)), clock, offset, rng.random() < 0.05))
    return found


def deliveries(count: int = 10_000, each: int = 5, seed: int = 1, source: str = SOURCE) -> Iterator[Delivered]:
    """`each` measures within a day of each of `count` devices, and one in fifty of them again; by time of arrival.

    Every event names its person by the maker's number alone, and is dated as the device's clock said. A repeat is the
    same event, byte for byte, some time later.
    """
    rng = Random(f"deliveries {seed}")  # noqa: S311
    found: list[Delivered] = []
    for device in devices(count, seed):
        for turn in range(each):
            taken = BEGIN + DAY * ((turn + rng.random()) / each)
            measured = (taken + device.offset).replace(microsecond=0)
            late = MOST_LATE * rng.random() if device.is_away else dt.timedelta(seconds=rng.expovariate(1 / 20))
            one = _delivered(rng, device, turn, measured, taken + late, source)
            found.append(one)
            if rng.random() < 0.02:
                found.append(one._replace(arrived=one.arrived + DAY * rng.random() / 4, is_repeat=True))
    yield from sorted(found, key=lambda one: one.arrived)


def _delivered(
    rng: Random, device: Device, turn: int, measured: dt.datetime, arrived: dt.datetime, source: str
) -> Delivered:
    kind, metric, unit, lowest, highest = _KINDS[device.kind]
    value = round(rng.uniform(lowest, highest), 1)
    moment = measured.isoformat().replace("+00:00", "Z")
    record = {
        "device_kind": kind,
        "metric": {"system": "http://loinc.org", "code": metric},
        "value": value,
        "unit": unit,
        "measured": moment,
    }
    known = {"identifiers": [{"system": "ipp", "assigner": source, "value": f"wearer-{device.number}"}]}
    event = {
        "specversion": "1.0",
        "id": f"device-{device.number}-{turn}",
        "source": source,
        "type": "device-measure.v1",
        "time": moment,
        "data": {"identity": known, "record": record},
    }
    return Delivered(device.number, measured, arrived, value, event, is_repeat=False)
