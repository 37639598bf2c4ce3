"""The workers' tables as they publish them: flow-windows, followed from its beginning, without a group.

So HTTP answers over all workers and asks none of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from threading import Event, Lock
from typing import Final

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from prometheus_client import Gauge

from contracts.messages import FlowWindow
from runtime.kafka import WholeTopic, consumer_config
from runtime.messages import SUMMARIES
from runtime.settings import RuntimeSettings
from services.statistics.domain.windows import Kept, decode, parse_key

log = logging.getLogger("estuaire.statistics")

WINDOWS: Final = "flow-windows"
GROUP: Final = "statistics-flow"
# The moment until which the workers have counted the flow (seconds since the epoch): alarms are as of then.
COUNTED_UNTIL: Final = Gauge("estuaire_flow_counted_until_seconds", "Until when the flow is counted.")


class Published:
    """All windows that are kept, by length and start. Safe across threads."""

    def __init__(self) -> None:
        self.counted_until: float | None = None
        """The workers have counted everything that was written until then (s since the epoch); None if unknown."""
        self.counted: dict[int, int] = {}
        """The offset after the newest summary that is in a window, by partition of flow-summaries."""
        self._kept = Kept()
        self._lock = Lock()

    def take(self, key: bytes, value: bytes | None) -> None:
        """Hold what is published under a key; without a value, nothing. Raises ValueError, msgspec.MsgspecError."""
        with self._lock:
            if not value:
                self._kept.drop(key)
                return
            window, partition = decode(value), parse_key(key).partition
            self._kept.keep(key, window)
            self.counted[partition] = max(window.offset + 1, self.counted.get(partition, 0))

    def forget(self, now: float) -> None:
        """Windows that are over; the workers may be away, who would say so."""
        with self._lock:
            self._kept.forget(now)

    def windows(self, seconds: int, begin: float, end: float) -> Iterator[FlowWindow]:
        """Those of this length that begin from one moment until before another, in the order of their start."""
        with self._lock:
            found = self._kept.between(seconds, begin, end)
        return map(decode, found)


class WindowsReader:
    """Follows flow-windows, and finds up to when the workers have counted."""

    LOOK_SECONDS: Final = 2.0

    def __init__(self, settings: RuntimeSettings, published: Published) -> None:
        self._settings = settings
        self._published = published
        self._stop = Event()
        self._complete = False
        self._asked: tuple[float, dict[int, tuple[int, int]]] | None = None

    def readiness(self) -> str | None:
        """None once all has been read that was there at the start, otherwise why not."""
        return None if self._complete else f"reading {self._settings.topic_prefix}{WINDOWS}"

    def stop(self) -> None:
        """End soon."""
        self._stop.set()

    def run(self) -> None:
        """Read until asked to stop."""
        windows = WholeTopic(self._settings, WINDOWS, f"{GROUP}-published")
        # to look at what they have committed, and whether anything comes after it
        config = consumer_config(self._settings, self._settings.topic_prefix + GROUP)
        workers = Consumer(config | {"enable.partition.eof": True})
        looked = 0.0
        try:
            while not self._stop.is_set():
                try:
                    self._read(windows)
                    if self._complete and time.monotonic() - looked > self.LOOK_SECONDS:
                        looked = time.monotonic()
                        self._published.forget(time.time())
                        self._look(workers)
                except (KafkaException, TypeError) as error:  # get_watermark_offsets gives None when nobody answers
                    log.warning("the broker does not answer about the flow (%s)", type(error).__name__)
                    self._stop.wait(0.5)
        finally:
            windows.close()
            workers.close()

    def _read(self, windows: WholeTopic) -> None:
        for message in windows.read():
            try:
                self._published.take(message.key() or b"", message.value())
            except (ValueError, msgspec.MsgspecError):
                log.error("a message of %s is not one", WINDOWS)
        self._complete = windows.is_complete()

    def _look(self, consumer: Consumer) -> None:
        """The workers have counted until a moment once nothing is left for them of what was written then. How far they
        are their windows say, too: what they commit may be behind by a message for each transaction (Faust goes over
        one mark of a transaction a second), or not move at all."""
        name = self._settings.topic_prefix + SUMMARIES
        if self._asked is None:
            now, bounds = time.time(), {}
            for number in consumer.list_topics(name, timeout=2).topics[name].partitions:
                low, high = consumer.get_watermark_offsets(TopicPartition(name, number), timeout=2)
                if low < high:
                    bounds[number] = low, high
            self._asked = now, bounds
        now, bounds = self._asked
        places = [TopicPartition(name, number) for number in bounds]
        committed = consumer.committed(places, timeout=2) if places else []
        reached = {one.partition: max(one.offset, self._published.counted.get(one.partition, 0)) for one in committed}
        left = {
            number: TopicPartition(name, number, max(bounds[number][0], at))
            for number, at in reached.items()
            if at < bounds[number][1] - 1  # the last offset is a mark as a rule
        }
        if not left or self._is_over(consumer, left, bounds):
            self._published.counted_until, self._asked = now, None
            COUNTED_UNTIL.set(now)

    def _is_over(
        self, consumer: Consumer, left: dict[int, TopicPartition], bounds: Mapping[int, tuple[int, int]]
    ) -> bool:
        """Whether who goes on from here gets nothing more before the upper bounds: marks of transactions, and what was
        aborted, take offsets that nobody ever gets."""
        consumer.assign(list(left.values()))
        deadline = time.monotonic() + self.LOOK_SECONDS
        try:
            while left and time.monotonic() < deadline:
                if (found := consumer.poll(0.2)) is None:
                    continue
                if (error := found.error()) is not None:
                    over = error.code() == KafkaError._PARTITION_EOF
                else:
                    over = (found.offset() or 0) >= bounds[found.partition() or 0][1]
                if not over:
                    return False
                left.pop(found.partition() or 0, None)
            return not left
        finally:
            consumer.unassign()
