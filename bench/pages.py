"""How long a page of the console takes in a browser that has kept nothing, while records flow and while none do."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from bench.flow import lines, send
from estuaire.console import sign_in_link
from estuaire.demo import bundled_permits, grant
from estuaire.platform import Platform
from estuaire.process import StartError
from estuaire.producer import Producer
from estuaire.sample import sample
from tests.browser import NoChromium, chromium

PAGES = (
    ("operator", "/flow"),
    ("operator", "/producers"),
    ("operator", "/rejects"),
    ("officer", "/projects"),
    ("officer", "/permits"),
    ("steward", "/reviews"),
    ("auditor", "/audit"),
)
EVERY_SECONDS = 0.5
ENOUGH = 0.95
"""The share of the rate that has to have flowed, or the figures are of something else."""
_TOOK = "() => performance.getEntriesByType('navigation')[0].loadEventEnd"
"""Milliseconds; 0 until then."""


def main(home: Path, port: int, per_second: int = 1_000, times: int = 10) -> dict[str, Any]:
    """Milliseconds from asking for a page to all of it being there: the median quiet, and the median and the most while
    so many events a second go through the hub; with what really went through. Raises StartError."""
    try:
        with chromium() as browser, Platform(home, port, report=lambda _line: None) as platform:
            return _measured(browser, platform, per_second, times)
    except NoChromium as why:
        raise StartError(str(why)) from None


def _measured(browser: Browser, platform: Platform, per_second: int, times: int) -> dict[str, Any]:
    grant(platform, bundled_permits())
    sources = sorted({one.source for one in sample()})
    platform.keyring.ensure_producers(sources)
    send(platform, sources, 2_000, f"warm-{time.time_ns()}")
    _open(platform, browser, 2)
    quiet = _open(platform, browser, times)
    with _flowing(platform, sources, per_second) as sent:
        begun, before = time.monotonic(), sum(sent)
        flowing = _open(platform, browser, times)
        rate = (sum(sent) - before) / (time.monotonic() - begun)
    if rate < per_second * ENOUGH:
        raise RuntimeError(f"only {rate:.0f} events a second flowed")
    return {
        "events_per_second": round(rate),
        "pages": {
            path: {
                "quiet_ms": round(statistics.median(quiet[path])),
                "flowing_ms": round(statistics.median(flowing[path])),
                "flowing_most_ms": round(max(flowing[path])),
                "ratio": round(statistics.median(flowing[path]) / statistics.median(quiet[path]), 2),
            }
            for _, path in PAGES
        },
    }


def _open(platform: Platform, browser: Browser, times: int) -> dict[str, list[float]]:
    """Each page so often, each time by somebody whose browser has kept nothing."""
    took: dict[str, list[float]] = {path: [] for _, path in PAGES}
    for _ in range(times):
        for role, path in PAGES:
            context = browser.new_context(base_url=platform.console_url)
            page = context.new_page()
            # the session alone is made before: a link that signs in leads to a page, whose parts would be kept
            page.route("**/*.{js,css,svg}", lambda route: route.abort())
            page.goto(sign_in_link(platform.home, platform.console_url, role, role))
            page.unroute("**/*.{js,css,svg}")
            page.goto(path)
            took[path].append(float(page.wait_for_function(_TOOK).json_value()))
            context.close()
    return took


@contextmanager
def _flowing(platform: Platform, sources: list[str], per_second: int) -> Iterator[list[int]]:
    """Events flow at this rate, spread over the sources, from when they have begun to; how many each has sent."""
    stop, sent = threading.Event(), [0] * len(sources)
    batch = round(per_second * EVERY_SECONDS / len(sources))

    def stream(number: int, client: Producer) -> None:
        events, begun, turn = lines(sources[number], f"pages-{time.time_ns()}"), time.monotonic(), 0
        with client as producer:
            while not stop.is_set():
                sent[number] += sum(len(one.accepted) for one in producer.send(list(islice(events, batch)), batch))
                turn += 1
                stop.wait(max(0.0, begun + turn * EVERY_SECONDS - time.monotonic()))

    clients = [Producer(platform.ingest_url, platform.keyring.producer_token(source)) for source in sources]
    with ThreadPoolExecutor(len(sources)) as pool:
        streams = [pool.submit(stream, *one) for one in enumerate(clients)]
        try:
            stop.wait(5)
            yield sent
        finally:
            stop.set()
        for one in streams:
            one.result()
