"""The made-up devices have every trouble that devices have."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from itertools import pairwise

import pytest

from estuaire.generate.devices import BEGIN, DAY, deliveries, devices

pytestmark = pytest.mark.unit


def test_deliveries_are_late_repeated_out_of_order_and_wrongly_dated() -> None:
    found = list(deliveries(2000, 3))
    assert found == list(deliveries(2000, 3))
    fresh = [one for one in found if not one.is_repeat]
    assert len({one.event["id"] for one in fresh}) == len(fresh) == 6000
    assert 60 < len(found) - len(fresh) < 180
    assert all(left.arrived <= right.arrived for left, right in pairwise(found))
    clocks = Counter(one.clock for one in devices(2000))
    assert min(clocks.values()) > 3
    assert clocks["right"] > 1900
    right = {one.number for one in devices(2000) if one.clock == "right"}
    lateness = [one.arrived - one.measured for one in fresh if one.device in right]
    assert sum(late > dt.timedelta(hours=1) for late in lateness) > 100
    assert all(BEGIN <= one.measured < BEGIN + DAY for one in fresh if one.device in right)
    by_device = {number: [one.measured for one in fresh if one.device == number] for number in range(2000)}
    assert any(times != sorted(times) for times in by_device.values())
