"""Measures of 10,000 devices through the whole hub, beside a pass-through; and how long a single live one takes.

Known and new devices, and the same records packed with gzip, each until all of them are in a permit's view.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from bench.flow import passthrough_rate
from contracts.permits import Permit
from estuaire.demo import grant
from estuaire.generate.devices import SOURCE, deliveries
from estuaire.platform import Platform
from estuaire.producer import Producer
from estuaire.subscriber import Subscriber, View

PERMIT = Permit.model_validate(
    {
        "id": "bench-devices",
        "title": "Devices",
        "purpose": "A benchmark",
        "sources": [SOURCE],
        "types": ["device-measure.v1"],
        "fields": {"device-measure.v1": ["*"]},
        "precision": {"time": "exact"},
        "expires": "2036-12-31",
        "subscribers": ["bench"],
    }
)


_LAST = 999.0


def main(home: Path, port: int, devices: int = 10_000, each: int = 3, live: int = 300) -> dict[str, Any]:
    """Records per second for devices that the hub does not know yet, and for those that it does; seconds from POST to
    the view for `live` measures, ten a second."""
    with Platform(home, port, report=lambda _line: None, trace_ratio=0.0) as platform:
        grant(platform, [PERMIT])
        platform.keyring.ensure_producers([SOURCE])
        first = [msgspec.json.encode(one.event) for one in deliveries(devices, each)]
        second = [line.replace(b'"id":"device-', b'"id":"again-device-') for line in first]
        result = {
            "devices": devices,
            "records_per_second_of_new_devices": round(_rate(platform, first)),
            "records_per_second_of_known_devices": round(_rate(platform, second)),
            "records_per_second_packed": round(
                _rate(
                    platform, [line.replace(b'"id":"device-', b'"id":"packed-device-') for line in first], packed=True
                )
            ),
            "passthrough_per_second": round(passthrough_rate(platform, len(first), len(first[0]))),
        }
        seconds = sorted(_latencies(platform, live))
    cuts = statistics.quantiles(seconds, n=100)
    return result | {
        "live_seconds_p50": round(cuts[49], 3),
        "live_seconds_p99": round(cuts[98], 3),
        "live_seconds_most": round(seconds[-1], 3),
    }


def _producer(platform: Platform, **options: Any) -> Producer:
    return Producer(platform.ingest_url, platform.keyring.producer_token(SOURCE), **options)


def _rate(platform: Platform, lines: Iterable[bytes], packed: bool = False) -> float:
    """Records per second until all are in the view."""
    begun = time.monotonic()
    with _producer(platform, packed=packed) as producer:
        count = sum(len(answer.accepted) for answer in producer.send(lines))
        if not producer.wait_for_views(SOURCE, 300):
            raise RuntimeError("not in the views after five minutes")
    return count / (time.monotonic() - begun)


def _latencies(platform: Platform, count: int) -> list[float]:
    """Seconds from the POST of a measure to its arrival at a subscriber, each told by its value."""
    arrived: dict[float, float] = {}
    caught_up, stop = threading.Event(), threading.Event()

    def follow() -> None:
        view = View()
        for event in Subscriber(platform.settings(), PERMIT.id).follow(view, stop.is_set):
            value = event.data["record"]["value"]
            arrived.setdefault(value, time.monotonic())
            if value == _LAST:
                caught_up.set()

    thread = threading.Thread(target=follow)
    thread.start()
    (last,) = deliveries(1, 1, seed=3)
    last.event["data"]["record"]["value"] = _LAST
    with _producer(platform) as producer:
        list(producer.send([last.event | {"id": "the end of what was sent before"}]))
    caught_up.wait(120)
    sent: dict[float, float] = {}
    events = (one.event for one in deliveries(count, 1, seed=2))
    with _producer(platform) as producer:
        for number, event in enumerate(islice(events, count)):
            value = 1000.0 + number
            event["id"] = f"live-{number}"
            event["data"]["record"]["value"] = value
            sent[value] = time.monotonic()
            list(producer.send([event]))
            time.sleep(0.1)
        producer.wait_for_views(SOURCE)
    deadline = time.monotonic() + 30
    while sent.keys() - arrived.keys() and time.monotonic() < deadline:
        time.sleep(0.1)
    stop.set()
    thread.join(10)
    return [arrived[value] - moment for value, moment in sent.items()]
