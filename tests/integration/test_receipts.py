"""Receipts outlive the process that wrote them, and every process of ingest knows those of all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from runtime.settings import RuntimeSettings
from services.ingest.adapters import KafkaOutbox, ReceiptsKeeper
from services.ingest.domain.receipts import Day, Receipts
from tests.integration.looping import until

pytestmark = pytest.mark.integration

DAY = Day("urn:a", "2026-03-01")
ONE = "0" * 31 + "1"


@contextmanager
def keeping(settings: RuntimeSettings, receipts: Receipts) -> Iterator[ReceiptsKeeper]:
    outbox = KafkaOutbox(settings)
    keeper = ReceiptsKeeper(settings, receipts, outbox)
    threads = [threading.Thread(target=one.run) for one in (outbox, keeper)]
    for thread in threads:
        thread.start()
    try:
        yield keeper
    finally:
        keeper.stop()
        outbox.stop()
        for thread in threads:
            thread.join(20)


def test_what_was_answered_is_known_to_others_and_to_whoever_comes_later(broker: str, topics: str) -> None:
    settings = RuntimeSettings(bootstrap_servers=broker, topic_prefix=topics)
    first, second, later = Receipts("first"), Receipts("second"), Receipts("later")
    with keeping(settings, first) as one, keeping(settings, second) as two:
        until(lambda: one.is_complete() and two.is_complete(), 30)
        first.answered(DAY, [ONE], {"not-json": 1})
        until(lambda: second.of(DAY).accepted == 1, 30)
        second.answered(DAY, [ONE, ONE], {})
        until(lambda: first.of(DAY).accepted == 3, 30)
        first.answered(DAY, [], {"not-json": 1})  # written as it ends
    with keeping(settings, later) as three:
        until(three.is_complete, 30)
        total = later.of(DAY)
        assert (total.accepted, total.rejected, int.from_bytes(total.digest)) == (3, {"not-json": 2}, 3)
