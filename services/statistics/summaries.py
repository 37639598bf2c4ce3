"""Flow summaries from the broker into the counts: the thread that reads, and where it goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from threading import Event
from typing import Final

import psycopg
from confluent_kafka import Consumer, KafkaException, TopicPartition
from prometheus_client import Gauge

from runtime import telemetry
from runtime.database import Database, ProgressMoved
from runtime.kafka import consumer_config
from runtime.loop import message_from
from runtime.messages import SUMMARIES, Message, Place, RetryLater
from runtime.settings import RuntimeSettings
from services.statistics.handlers import Count, KeyMissing

log = logging.getLogger("estuaire.statistics")

# The moment until which summaries are counted (seconds since the epoch): counts and reports are as of then.
COUNTED_UNTIL: Final = Gauge("estuaire_statistics_counted_until_seconds", "Until when summaries are counted.")


class SummariesReader:
    """Counts flow-summaries, exactly once in effect: counts and offset are one transaction of the database.

    Where it goes on is the database's progress row alone, moved by compare-and-set: a second reader of the same
    messages fails there, and a broker's redelivery is never counted again. (Not the loop of `runtime.loop`, whose every
    batch writes a summary: it would read what it writes.)
    """

    PAUSE_SECONDS: Final = 1.0
    """How long a batch waits for more, and so at least about the time between two transactions."""

    BATCH: Final = 1000

    def __init__(self, settings: RuntimeSettings, database: Database, count: Count) -> None:
        self._settings = settings
        self._database = database
        self._count = count
        self._topic = settings.topic_prefix + SUMMARIES
        self._assigned: list[Place] | None = None
        self._next: dict[Place, int | None] = {}
        self._short_since: float | None = None
        self._trouble: str | None = "waiting for partitions"
        self._stop = Event()

    def readiness(self) -> str | None:
        """None when it reads, otherwise why not."""
        return self._trouble

    def stop(self) -> None:
        """Ask it to end after the batch at hand."""
        self._stop.set()

    def run(self) -> None:
        """Count until asked to stop; where a key is missing, stand until then."""
        try:
            self._read()
        except KeyMissing as missing:
            log.critical("standing: %s", missing)
            self._trouble = str(missing)
            self._stop.wait()
        finally:
            self._trouble = "not running"

    def _read(self) -> None:
        group = f"{self._settings.topic_prefix}statistics"
        consumer = Consumer(consumer_config(self._settings, group, f"{group}-{self._settings.slot}"))
        try:
            consumer.subscribe([self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke)
            while not self._stop.is_set():
                try:
                    self._turn(consumer)
                except (ProgressMoved, RetryLater) as doubt:
                    log.warning("going back to what is counted: %s", doubt)
                    self._trouble = str(doubt)
                    self._stop.wait(self.PAUSE_SECONDS)
        finally:
            consumer.close()

    def _on_assign(self, consumer: Consumer, partitions: Iterable[TopicPartition]) -> None:
        self._assigned, self._trouble = [Place(one.topic, one.partition) for one in partitions], "taking over"
        consumer.assign([])

    def _on_revoke(self, consumer: Consumer, _partitions: Iterable[TopicPartition]) -> None:
        self._assigned, self._trouble = None, "waiting for partitions"
        consumer.unassign()

    def _turn(self, consumer: Consumer) -> None:
        if self._trouble is not None and self._assigned is not None:
            self._settle(consumer, self._assigned)
        begun = time.time()
        # while it waits for partitions it looks often, so as to be ready soon
        read = consumer.consume(self.BATCH, self.PAUSE_SECONDS if self._trouble is None else 0.05)
        messages = [message_from(one) for one in read if one.error() is None]
        if self._trouble is not None:
            return
        if messages:
            self._take(messages)
        self._measure_lag(consumer)
        is_short = len(read) < self.BATCH
        if is_short and self._short_since is not None:  # twice, for once may be a broker that is slow
            COUNTED_UNTIL.set(self._short_since)
        self._short_since = begun if is_short else None

    def _settle(self, consumer: Consumer, places: Sequence[Place]) -> None:
        """Go on from the progress rows; from the log's beginning or end, where it no longer or not yet reaches there.

        A log that is shorter than what was counted has lost its end: what it has may have been counted, and is passed
        over. That of another broker is begun at its beginning, as `runtime.loop` does.
        """
        self._meet(consumer)
        progress = self._database.load(places)
        starts = []
        self._next.clear()
        self._short_since = None
        telemetry.LAG.clear()
        for place in places:
            counted = progress[place].next_offset if place in progress else None
            low, high = self._bounds(consumer, place)
            if counted is not None and counted > high:
                log.error("%s/%s is shorter than what was counted: going on at its end", *place)
            self._next[place] = counted
            starts.append(TopicPartition(*place, low if counted is None else max(low, min(counted, high))))
        consumer.assign(starts)
        self._trouble = None

    def _meet(self, consumer: Consumer) -> None:
        try:
            cluster = consumer.list_topics(self._topic, timeout=2).cluster_id
        except KafkaException:
            raise RetryLater("the broker does not answer") from None
        if not cluster or self._database.meet(cluster):
            return
        if not self._settings.rewind:
            raise RetryLater(f"the counts are of another broker than this one ({cluster}): see ESTUAIRE_REWIND")
        log.warning("begins at the beginning of the log of another broker")
        with self._database.begin_anew(cluster):
            pass

    def _take(self, messages: Sequence[Message]) -> None:
        """Count a batch in one transaction; where one of its messages makes it fail, that message is left out. Raises
        KeyMissing, ProgressMoved, RetryLater."""
        try:
            self._commit(messages, messages)
        except (KeyMissing, ProgressMoved, RetryLater):
            raise
        except psycopg.ProgrammingError as error:  # a right or a table is missing, which is no message's doing
            raise RetryLater(f"the database is not what this version needs ({type(error).__name__})") from None
        except Exception as error:
            log.error("cannot count %d summaries: %s", len(messages), telemetry.where(error))
            if len(messages) == 1:
                self._commit(messages, [])
                return
            half = len(messages) // 2
            self._take(messages[:half])
            self._take(messages[half:])

    def _commit(self, messages: Sequence[Message], counted: Sequence[Message]) -> None:
        ends = {message.place: message.offset + 1 for message in messages}
        with self._database.transaction():
            for place, end in sorted(ends.items()):
                self._database.advance(place, self._next.get(place), end, ())
            self._count.handle(counted)
        self._next.update(ends)

    def _measure_lag(self, consumer: Consumer) -> None:
        """Raises RetryLater where the broker does not answer: then nobody knows what waits."""
        for place, at in self._next.items():
            low, high = self._bounds(consumer, place)
            waiting = high - (low if at is None else at)
            telemetry.LAG.labels("statistics", SUMMARIES, str(place.partition)).set(max(0, waiting))

    def _bounds(self, consumer: Consumer, place: Place) -> tuple[int, int]:
        """The first offset of a partition, and the one after its last. Raises RetryLater."""
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(*place), timeout=2)
        except (KafkaException, TypeError):  # it gives None when nobody answers
            raise RetryLater("the broker does not answer") from None
        return low, high
