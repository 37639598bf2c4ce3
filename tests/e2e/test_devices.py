"""Ten thousand devices, some away for hours, some with clocks wrong: everything is kept, once, at its stated time."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from estuaire.generate.devices import BEGIN, DAY, deliveries
from tests.hub import Hub

pytestmark = [pytest.mark.e2e, pytest.mark.long]

DEVICES, EACH = 10_000, 2
FIELDS = {"device-measure.v1": ["metric", "value", "measured"]}


def test_every_measure_is_in_its_timeline_once_and_at_the_time_that_its_device_says(hub: Hub) -> None:
    source = hub.source()
    permit = hub.permit(source, types=["device-measure.v1"], fields=FIELDS, precision={"time": "exact"})
    sent = list(deliveries(DEVICES, EACH, source=source))
    repeats = sum(one.is_repeat for one in sent)
    with hub.producer(source) as producer:
        answers = list(producer.send(one.event for one in sent))
        assert producer.wait_for_views(source, 240)
        counts = producer.status(source)["counts"]["linkage"]
    assert not any(answer.rejected for answer in answers)
    assert sum(len(answer.accepted) for answer in answers) == DEVICES * EACH + repeats
    assert (counts["linked"], counts["duplicates"]) == (DEVICES * EACH, repeats)

    expected: defaultdict[int, list[tuple[str, float]]] = defaultdict(list)
    for one in sent:
        if not one.is_repeat:
            expected[one.device].append((one.event["time"], one.value))
    timelines = hub.view(permit).timelines()
    found = [tuple((str(one.time), one.data["record"]["value"]) for one in entries) for entries in timelines.values()]
    assert Counter(found) == Counter(tuple(sorted(one)) for one in expected.values())
    assert all(one.data["record"]["measured"] == one.time for entries in timelines.values() for one in entries)

    # A time in the future is not replaced: the measure is where its device says, and the period of a permit decides.
    ahead = [one for one in sent if not one.is_repeat and one.measured > BEGIN + 2 * DAY]
    assert ahead
    until = hub.permit(
        source, types=["device-measure.v1"], fields=FIELDS, period={"from": "2026-01-01", "to": "2026-12-31"}
    )
    in_period = [one for one in sent if not one.is_repeat and one.measured.year == 2026]
    hub.wait_for(lambda: len(hub.view(until).entries()) == len(in_period), 60)
    assert len(in_period) < DEVICES * EACH - len(ahead)
