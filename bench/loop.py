"""Decision 4 on a real broker: the loop, a bare batch client and Faust do the same work, and what the store costs.

The work on each message: decode a MessagePack body of about 1 kB, one HMAC-SHA-256, encode, produce. Every contender
is a process of its own (`python -m bench.loop NAME`), all on one broker in one run, each `ROUNDS` times.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition

from contracts.registry import TopicToCreate
from estuaire.broker import start_broker
from estuaire.database import start_database
from runtime.database import Database
from runtime.kafka import consumer_config, create_topics, producer_config
from runtime.loop import Loop, Route
from runtime.messages import Emit, Message, Outputs, Place
from runtime.settings import RuntimeSettings
from runtime.telemetry import start_tracing

MESSAGES, ROUNDS, PARTITIONS = 20_000, 2, 2
IN, OUT = "bench-in", "bench-out"
CONTENDERS = {
    "loop": "the loop, transactional, no database",
    "loop-database": "the loop with a database, outputs stored in the progress row",
    "loop-database-bare": "the loop with a database, outputs not stored",
    "plain": "confluent-kafka in batches, without transactions",
    "faust": "a Faust agent that sends, at least once",
    "faust-exactly-once": "a Faust agent that sends, exactly_once",
}


class Body(msgspec.Struct):
    """What travels: a token and some content."""

    token: bytes
    content: bytes


class Figures(msgspec.Struct):
    """What a contender measured of itself, from its first message to its last commit."""

    seconds: float
    cpu: float
    wal: int = 0


_decode, _encode = msgspec.msgpack.Decoder(Body).decode, msgspec.msgpack.Encoder().encode


def work(value: bytes) -> bytes:
    """The work that all contenders do on a message."""
    body = _decode(value)
    token = hmac.digest(b"secret of the benchmark, 32 bytes", body.token, hashlib.sha256)
    return _encode(Body(token, body.content))


def main(json: bool = True, messages: int = MESSAGES, rounds: int = ROUNDS) -> dict[str, Any]:
    """Records per second and client CPU per record of each contender, and ratios to the loop."""
    found: dict[str, list[Figures]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory(prefix="estuaire-bench-") as folder:
        quiet: Callable[[str], None] = lambda _line: None  # noqa: E731
        home = Path(folder)
        with start_broker(home, report=quiet) as broker, start_database(home, report=quiet) as database:
            for _ in range(rounds):
                for name in CONTENDERS:
                    url = database.url(f"bench_{secrets.token_hex(4)}") if "database" in name else ""
                    found[name].append(_contend(name, broker.bootstrap_servers, url, messages))
    return _result(found, messages, json)


def _contend(name: str, servers: str, url: str, messages: int) -> Figures:
    settings = RuntimeSettings(bootstrap_servers=servers, topic_prefix=f"{name}-{secrets.token_hex(3)}-")
    names = (IN, OUT, "flow-summaries")
    create_topics(
        settings,
        [TopicToCreate(name=settings.topic_prefix + one, partitions=PARTITIONS, settings={}) for one in names],
    )
    producer = Producer(producer_config(settings))
    for number in range(messages):
        body = _encode(Body(os.urandom(16), os.urandom(960)))
        producer.produce(settings.topic_prefix + IN, body, b"%06d" % number, headers={"ce_source": b"bench"})
        producer.poll(0)
    producer.flush(60)
    child = subprocess.run(
        [sys.executable, "-m", "bench.loop", name],
        env=os.environ
        | {
            "KAFKA_BOOTSTRAP_SERVERS": servers,
            "ESTUAIRE_TOPIC_PREFIX": settings.topic_prefix,
            "BENCH_DATABASE": url,
            "BENCH_MESSAGES": str(messages),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=180,
        check=False,
    )
    line = next((one for one in child.stdout.splitlines() if one.startswith(b"{")), b"")
    if not line:
        raise RuntimeError(f"{name} ended without a figure (exit code {child.returncode})")
    return msgspec.json.decode(line, type=Figures)


def _result(found: dict[str, list[Figures]], messages: int, json: bool) -> dict[str, Any]:
    rows: dict[str, dict[str, float]] = {}
    for name, runs in found.items():
        rate = messages / statistics.mean(one.seconds for one in runs)
        cpu = statistics.mean(one.cpu for one in runs) / messages * 1e6
        rows[name] = {"records_per_second": round(rate), "cpu_us_per_record": round(cpu, 1)}
        if any(one.wal for one in runs):
            rows[name]["wal_bytes_per_record"] = round(statistics.mean(one.wal for one in runs) / messages)
    for row in rows.values():
        row["speed_against_loop"] = round(row["records_per_second"] / rows["loop"]["records_per_second"], 3)
        row["cpu_against_loop"] = round(row["cpu_us_per_record"] / rows["loop"]["cpu_us_per_record"], 2)
    if not json:
        for name, row in rows.items():
            figures = "  ".join(f"{label.replace('_', ' ')} {value:g}" for label, value in row.items())
            print(f"{CONTENDERS[name]}: {figures}")
    return {"messages": messages, "rounds": len(found["loop"]), **rows}


# The contenders, each in a process of its own


class _Clock:
    """Starts with the first message; says what it measured when all are done."""

    def __init__(self, messages: int) -> None:
        self._left = messages
        self._began: tuple[float, float] | None = None

    def start(self) -> None:
        if self._began is None:
            self._began = time.monotonic(), time.process_time()

    def done(self, count: int) -> bool:
        self._left -= count
        return self._left <= 0

    def say(self, wal: int = 0) -> None:
        assert self._began is not None
        figures = Figures(time.monotonic() - self._began[0], time.process_time() - self._began[1], wal)
        os.write(1, b"\n" + msgspec.json.encode(figures) + b"\n")


class _Step:
    def __init__(self, clock: _Clock) -> None:
        self._clock = clock

    def prepare(self, batch: Sequence[Message]) -> None: ...

    def origin(self, message: Message) -> tuple[str, int]:
        return message.header("ce_source"), message.timestamp

    def handle(self, batch: Sequence[Message]) -> Outputs:
        self._clock.start()
        outputs = Outputs()
        for one in batch:
            outputs.emit(one, Emit(OUT, one.key, work(one.value), dict(one.headers)))
            outputs.count(one.header("ce_source"), "worked")
        return outputs


class _Counted(Loop):
    clock: _Clock

    def _commit(self, done: Any) -> None:
        super()._commit(done)
        if self.clock.done(len(done.batch)):
            self.stop()


class _Bare(Database):
    """Keeps progress, but not the outputs."""

    def advance(self, place: Place, expected: int | None, next_offset: int, outputs: Sequence[Emit]) -> None:
        del outputs
        super().advance(place, expected, next_offset, ())


def _loop(clock: _Clock, settings: RuntimeSettings, name: str) -> None:
    url = os.environ["BENCH_DATABASE"]
    store = (_Bare if name.endswith("bare") else Database)(url) if url else None
    before = _wal(store)
    loop = _Counted("bench", settings, _Step(clock), Route((IN,)), start_tracing("bench", None), store)
    loop.clock = clock
    loop.run()
    clock.say(_wal(store) - before)


def _wal(store: Database | None) -> int:
    if store is None:
        return 0
    row = store.connection.execute("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')").fetchone()
    return int(row[0]) if row else 0


def _plain(clock: _Clock, settings: RuntimeSettings) -> None:
    producer = Producer(producer_config(settings))
    consumer = Consumer(consumer_config(settings, settings.topic_prefix + "plain"))
    consumer.subscribe([settings.topic_prefix + IN])
    while True:
        batch = [one for one in consumer.consume(1000, 0.05) if one.error() is None]
        if not batch:
            continue
        clock.start()
        ends: dict[int, int] = {}
        for one in batch:
            value, headers = one.value() or b"", one.headers()
            producer.produce(settings.topic_prefix + OUT, work(value), one.key(), headers=headers)
            ends[one.partition() or 0] = (one.offset() or 0) + 1
        producer.flush(30)
        offsets = [TopicPartition(settings.topic_prefix + IN, number, at) for number, at in ends.items()]
        consumer.commit(offsets=offsets, asynchronous=False)
        if clock.done(len(batch)):
            clock.say()
            return


def _faust(clock: _Clock, settings: RuntimeSettings, guarantee: str) -> None:
    import faust

    prefix = settings.topic_prefix
    with tempfile.TemporaryDirectory() as folder:
        app = faust.App(
            f"{prefix}faust",
            broker=f"kafka://{settings.bootstrap_servers}",
            store="memory://",
            datadir=folder,
            processing_guarantee=guarantee,
            topic_partitions=PARTITIONS,
            topic_disable_leader=True,
            web_enabled=False,
            consumer_auto_offset_reset="earliest",
        )
        raw: dict[str, Any] = {
            "key_type": bytes,
            "value_type": bytes,
            "key_serializer": "raw",
            "value_serializer": "raw",
        }
        source, target = app.topic(prefix + IN, **raw), app.topic(prefix + OUT, **raw)

        @app.agent(source)
        async def copy(stream: Any) -> None:
            async for event in stream.events():
                clock.start()
                await target.send(key=event.key, value=work(event.value), headers=event.headers)
                if clock.done(1):
                    clock.say()
                    os._exit(0)

        faust.Worker(app, loglevel="ERROR").execute_from_commandline()


def contend(name: str) -> None:
    """Be that contender."""
    clock, settings = _Clock(int(os.environ["BENCH_MESSAGES"])), RuntimeSettings()
    if name == "plain":
        _plain(clock, settings)
    elif name.startswith("faust"):
        _faust(clock, settings, "exactly_once" if name.endswith("once") else "at_least_once")
    else:
        _loop(clock, settings, name)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        contend(sys.argv[1])
    else:
        main(json=False)
