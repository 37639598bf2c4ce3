"""A tiny step for the loop, the topics around it, and a worker process that ends itself at a chosen point.

`python -m tests.integration.looping` is the worker; its settings are the runtime's, and `LOOPING_*`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka import Message as RawMessage

from runtime import loop
from runtime.database import Database
from runtime.kafka import consumer_config, producer_config
from runtime.loop import Loop, Route, Stopped
from runtime.messages import Emit, InvalidMessage, Message, Outputs, Reason
from runtime.settings import RuntimeSettings
from runtime.telemetry import JsonFormatter, start_tracing

IN, BACKFILL, OUT, DEAD = (
    "records-received",
    "records-received-backfill",
    "records-pseudonymised",
    "records-received-dlq",
)
ROUTE = Route((IN, BACKFILL), forward={IN: (OUT,)}, broadcast={IN: ("patient-links",)})


class Copy:
    """Copies each record's value, notes it in the database if there is one, and fails where a value says so."""

    def __init__(self, database: Database | None = None) -> None:
        self._database = database
        self.batches: list[list[bytes]] = []
        self.origins = 0

    def prepare(self, batch: Sequence[Message]) -> None:
        """Nothing."""

    def origin(self, message: Message) -> tuple[str, int]:
        """Fails on what the step cannot read, as a real one might."""
        if message.value == b"unreadable":
            raise ValueError(message.value)
        return message.header("ce_source"), message.timestamp

    def handle(self, batch: Sequence[Message]) -> Outputs:
        """One output for each record."""
        self.batches.append([one.value for one in batch])
        outputs = Outputs()
        for one in batch:
            word = one.value.split(b" ")[0]
            if word == b"poison":
                raise ValueError("secret of " + one.value.decode())
            if word in (b"unreadable", b"ours"):
                outputs.reject(one, InvalidMessage(Reason.DECODING, "not one of ours"))
                continue
            if word == b"conflict":
                outputs.reject(one, InvalidMessage(Reason.CONFLICT, "the same id with another body"))
                continue
            value = bytes(1_000_001) if word == b"huge" else one.value
            if word == b"nowhere":
                outputs.emit(one, Emit("no-such-topic", one.key, value))
                continue
            outputs.emit(one, Emit(OUT, one.key, value))
            outputs.count(one.header("ce_source"), "copied")
        if self._database:
            with self._database.connection.cursor() as cursor:
                cursor.executemany("INSERT INTO seen VALUES (%s)", [(emit.key,) for _, emit in outputs.emits])
        return outputs


def open_database(url: str) -> Database:
    """A database with the step's table: no key on it, so that a record noted twice shows."""
    database = Database(url)
    database.connection.execute("CREATE TABLE IF NOT EXISTS seen (key bytea)")
    return database


def settings_for(broker: str, topics: str, **changes: Any) -> RuntimeSettings:
    """The runtime's settings for a test."""
    return RuntimeSettings(bootstrap_servers=broker, topic_prefix=topics, **changes)


def send(
    settings: RuntimeSettings, values: Sequence[bytes | None], topic: str = IN, partition: int | None = None
) -> None:
    """Send records with keys 0, 1, 2 ... and wait until they are kept."""
    producer = Producer(producer_config(settings))
    for number, value in enumerate(values):
        options: dict[str, Any] = {} if partition is None else {"partition": partition}
        headers: dict[str, Any] = {"ce_source": b"hospital", "ce_id": str(number).encode()}
        producer.produce(settings.topic_prefix + topic, value, b"%06d" % number, headers=headers, **options)
        producer.poll(0)
    assert producer.flush(20) == 0


def receive(settings: RuntimeSettings, topic: str, enough: Callable[[list[RawMessage]], bool]) -> list[RawMessage]:
    """All committed messages of a topic from the beginning, until there are enough of them."""
    consumer = Consumer(consumer_config(settings, "looping-check"))
    name = settings.topic_prefix + topic
    partitions = consumer.list_topics(name, timeout=10).topics[name].partitions
    consumer.assign([TopicPartition(name, number, 0) for number in partitions])
    found: list[RawMessage] = []
    deadline = time.monotonic() + 40
    try:
        while not enough(found):
            assert time.monotonic() < deadline, f"{topic} has {len(found)} messages after 40 s"
            found += [one for one in consumer.consume(1000, 0.05) if one.error() is None]
        return found
    finally:
        consumer.close()


def values_by_partition(messages: Sequence[RawMessage]) -> dict[int, list[bytes | None]]:
    """Values in their order, by partition."""
    found: defaultdict[int, list[bytes | None]] = defaultdict(list)
    for one in messages:
        found[one.partition() or 0].append(one.value())
    return found


class Watched(Loop):
    """A loop that remembers why it stopped."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.failures: list[str] = []


@contextmanager
def running(settings: RuntimeSettings, step: Copy, store: Database | None = None) -> Iterator[Watched]:
    """The loop in a thread; stopped at the end."""
    one = Watched("copy", settings, step, ROUTE, start_tracing("copy", None), store)

    def run() -> None:
        try:
            one.run()
        except Stopped as stopped:
            one.failures.append(str(stopped))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield one
    finally:
        one.stop()
        thread.join(15)
        assert not thread.is_alive()


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)


# The worker process


def end_at(point: str, batches: int) -> None:
    """From now on, die without a word at this point of the so many-th batch."""
    left = batches

    def die() -> None:
        nonlocal left
        left -= 1
        if point.startswith("suspended") and left == 0:
            Path(os.environ["LOOPING_HOLD_FILE"]).touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        elif left <= 0 and not point.startswith("suspended"):
            os.kill(os.getpid(), signal.SIGKILL)

    if point == "before the store commits":
        real_advance = Database.advance

        def advance(self: Database, *arguments: Any) -> None:
            real_advance(self, *arguments)
            die()

        Database.advance = advance  # type: ignore[method-assign, assignment]
    elif point == "between the commits":
        real_publish = Loop._publish

        def publish(self: Loop, *arguments: Any) -> None:
            die()
            real_publish(self, *arguments)

        Loop._publish = publish  # type: ignore[method-assign, assignment]
    elif point.endswith("amid the outputs"):
        real_produce = Loop._produce

        def produce(self: Loop, producer: Producer, emit: Emit) -> None:
            real_produce(self, producer, emit)
            if left == 1:
                producer.flush(2)
            die()

        Loop._produce = produce  # type: ignore[method-assign]
    elif point:

        class Ending(Producer):
            def commit_transaction(self, *arguments: Any) -> None:
                if point == "before the broker commits":
                    die()
                if point == "while the broker commits":
                    threading.Timer(0.001, die).start()
                super().commit_transaction(*arguments)
                if point == "after both":
                    die()

        loop.Producer = Ending  # type: ignore[attr-defined]


def main() -> int:
    """Run the loop with the test step; `LOOPING_HOLD` names a file that stops this process in its second batch."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level="INFO", handlers=[handler])
    end_at(os.environ.get("LOOPING_END", ""), int(os.environ.get("LOOPING_BATCHES", "1")))
    url, hold = os.environ.get("LOOPING_DATABASE"), os.environ.get("LOOPING_HOLD")
    store = open_database(url) if url else None
    step = Copy(store)
    if hold:
        real_handle = step.handle

        def handle(batch: Sequence[Message]) -> Outputs:
            if len(step.batches) == 1:
                Path(hold).touch()
                os.kill(os.getpid(), signal.SIGSTOP)
            return real_handle(batch)

        step.handle = handle  # type: ignore[method-assign]
    one = Loop("copy", RuntimeSettings(), step, ROUTE, start_tracing("copy", None), store)
    signal.signal(signal.SIGTERM, lambda *_: one.stop())
    try:
        one.run()
    except Stopped as stopped:
        print(stopped, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
