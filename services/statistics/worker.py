"""The Faust application: flow-summaries in, the table of windows out, each summary in it once.

Faust delivers at least once, and acknowledges a message whose agent has raised. So here a message is acknowledged by
hand, when the broker has every window that it changes; what cannot be written is tried again, what is broken is passed
over, and where a key is missing nothing is acknowledged any more. A window takes no summary that is not newer than what
it has, so that one that comes again changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from threading import Event
from typing import Any, Final

import faust
import msgspec
from faust.transport.drivers import aiokafka as driver
from prometheus_client import Counter, Gauge

from contracts.messages import FlowWindow, encode
from runtime import telemetry
from runtime.messages import SUMMARIES, Message
from runtime.settings import RuntimeSettings
from services.statistics.domain.windows import Kept, Names, Windows, decode, parse_key
from services.statistics.handlers import KeyMissing, Opening

log = logging.getLogger("estuaire.flow")

WINDOWS: Final = "flow-windows"
GROUP: Final = "statistics-flow"
# Windows that this worker holds.
HELD: Final = Gauge("estuaire_flow_windows", "Windows that this worker holds.")
# Summaries that made the counting fail, and are passed over.
BROKEN: Final = Counter("estuaire_flow_summaries_broken", "Summaries that made the counting fail.")

_SESSION_SECONDS: Final = 10.0
_REQUEST_SECONDS: Final = 20.0
_SUSPENDED_SECONDS: Final = 6.0
"""Who was still for so long may have been given up by the group, and must not write before it has asked."""


class Unsupported(ValueError):
    """The client settings ask for what this client cannot do."""


class Suspended(Exception):
    """This process stood still for so long that another may have its partitions."""


class Table(faust.Table[bytes, bytes]):
    """A table whose state is never set back: of two states of a window, the one that has seen more holds.

    A worker that was cut off may have written the older one last, and compaction would leave that one alone. It comes
    back to the group then, so that all read on: who holds the window sees the older one, and writes the newer again.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.windows = Kept()
        self.outdated: set[bytes] = set()
        self.sources: defaultdict[str, int] = defaultdict(int)
        """How many windows there are of each."""

    def apply_changelog_batch(self, batch: Iterable[Any]) -> None:
        """Take what the changelog says, as a worker does that takes over."""
        for event in batch:
            self.keep(event.message.key, event.message.value)

    def keep(self, key: bytes, value: bytes | None) -> None:
        """Hold what the broker has; without a value, nothing."""
        try:
            source, is_held = parse_key(key).source, key in self.windows
            if value:
                is_newest = self.windows.keep(key, decode(value))
            else:
                self.windows.drop(key)
        except (ValueError, msgspec.MsgspecError):
            log.error("a message of %s is not one", WINDOWS)
            return
        (self.outdated.discard if not value or is_newest else self.outdated.add)(key)
        self.sources[source] += bool(value) - is_held
        if not self.sources[source]:
            del self.sources[source]

    def held(self, key: bytes) -> FlowWindow | None:
        """What is held under a key."""
        return self.windows.get(key)


class FlowWorker:
    """Runs the application in a thread, and makes it anew when it has failed."""

    MOST: Final = 500
    PAUSE_SECONDS: Final = 0.2
    """How long a batch waits for more: a window is written once for all that the batch adds to it."""
    SWEEP_SECONDS: Final = 30.0
    MOST_OVER: Final = 2000
    """So many windows end with one batch: those of a day that nobody was there would hold it up for a minute."""
    RETRY_SECONDS = 1.0

    def __init__(
        self,
        settings: RuntimeSettings,
        opening: Opening,
        is_registered: Callable[[str], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises Unsupported."""
        self._settings = settings
        self._opening = opening
        self._is_registered = is_registered
        self._clock = clock
        self._credentials = credentials(settings.kafka_config)
        self._table: Table
        self._ready = False
        self._stop = Event()
        self._missing: KeyMissing | None = None
        self._alive = 0.0
        self._anew = False
        self._names = Names(is_registered)
        self._sweep_at = 0.0
        self._generation = -1
        self._writing: asyncio.Lock

    def readiness(self) -> str | None:
        """None when it counts, otherwise why not."""
        return str(self._missing) if self._missing else None if self._ready else "waiting for partitions"

    def stop(self) -> None:
        """Ask it to end after the batch at hand."""
        self._stop.set()

    def run(self) -> None:
        """Count until asked to stop; where a key is missing, stand until then."""
        with tempfile.TemporaryDirectory() as folder:
            while not self._stop.is_set():
                try:
                    asyncio.run(self._serve(folder))
                except Suspended as still:
                    log.warning("%s", still)
                except Exception as error:
                    log.error("the application has failed and is made anew: %s", telemetry.where(error))
                self._stop.wait(None if self._missing else self.RETRY_SECONDS)

    async def _serve(self, folder: str) -> None:
        """One life of the application. It belongs to this thread: what others ask about it is noted here, for even to
        look into it makes parts of it."""
        app = self.application(folder)
        self._anew = False
        self._alive = time.monotonic()
        starting = asyncio.ensure_future(app.start())
        try:
            while not (self._stop.is_set() or self._anew or app.should_stop or app.crashed):
                if starting.done():
                    starting.result()
                self._beat()
                self._ready = starting.done() and not app.rebalancing
                await asyncio.sleep(0.1)
        finally:
            self._ready = False
            starting.cancel()
            await app.stop()

    def _beat(self) -> None:
        """Be alive; once it stood still it is not again, so that nothing is written before the group is asked. Raises
        Suspended."""
        if time.monotonic() - self._alive > _SUSPENDED_SECONDS:
            raise Suspended("this process stood still: asking the group anew")
        self._alive = time.monotonic()

    def application(self, folder: str) -> Any:
        """The application, not started."""
        settings = self._settings
        prefix = settings.topic_prefix
        servers = [f"kafka://{one.strip()}" for one in settings.bootstrap_servers.split(",")]
        app = faust.App(
            prefix + GROUP,
            broker=servers,
            broker_credentials=self._credentials,
            broker_session_timeout=_SESSION_SECONDS,
            broker_heartbeat_interval=2.0,
            broker_request_timeout=_REQUEST_SECONDS,
            broker_commit_interval=1.0,
            consumer_auto_offset_reset="earliest",
            consumer_metadata_max_age_ms=30_000,
            producer_request_timeout=15.0,
            producer_compression_type="lz4",
            producer_linger=0.005,
            store="memory://",
            datadir=folder,
            web_enabled=False,
            topic_allow_declare=False,
            topic_disable_leader=True,
            table_standby_replicas=0,
            stream_wait_empty=False,
            stream_recovery_delay=0.0,
            logging_config=None,
        )
        transport: Any = app.transport
        self._writing = asyncio.Lock()  # of this life's loop
        transport.Consumer, transport.writing = _Consumer, self._writing
        raw: dict[str, Any] = {
            "key_type": bytes,
            "value_type": bytes,
            "key_serializer": "raw",
            "value_serializer": "raw",
        }
        changelog = app.topic(prefix + WINDOWS, **raw, acks=False, internal=True, allow_empty=True)
        self._table = Table(app, name=WINDOWS, key_type=bytes, value_type=bytes, changelog_topic=changelog)
        app.tables.add(self._table)

        @app.agent(app.topic(prefix + SUMMARIES, **raw), name="count")
        async def count(stream: Any) -> None:
            async for events in stream.noack_take(self.MOST, within=self.PAUSE_SECONDS):
                await self._take(app, stream, events)

        return app

    async def _take(self, app: Any, stream: Any, events: Sequence[Any]) -> None:
        """Count a batch and acknowledge it once it is written. What was read before a change of partitions is left to
        whoever reads it again, and none is made while something is being written."""
        while not self._anew:
            async with self._writing:
                if not app.rebalancing and await self._is_done(app, stream, events):
                    return
            await asyncio.sleep(0.05 if app.rebalancing else self.RETRY_SECONDS)

    async def _is_done(self, app: Any, stream: Any, events: Sequence[Any]) -> bool:
        """Whether nothing of the batch is left to this worker, after it has tried."""
        mine = [one for one in events if one.message.generation_id == app.consumer_generation_id]
        if self._generation != app.consumer_generation_id:  # what is held has changed
            self._generation, self._sweep_at = app.consumer_generation_id, 0.0
        try:
            if mine:
                await self.write(self.windows([_message(one.message) for one in mine]))
        except (KeyMissing, Suspended) as why:
            log.error("%s", why)
            self._missing = why if isinstance(why, KeyMissing) else None
            self._anew = True
        except Exception as error:
            log.warning("cannot write windows, trying again: %s", telemetry.where(error))
            return False
        else:
            for one in mine:
                await stream.ack(one)
        return True

    def windows(self, messages: Sequence[Message]) -> dict[bytes, FlowWindow | None]:
        """What becomes of the windows. A message that is broken, or makes the counting fail, is passed over. Raises
        KeyMissing."""
        now, partitions = self._clock(), {one.partition for one in messages}
        over = self._sweep(now, partitions) if now >= self._sweep_at else []
        again = [key for key in self._table.outdated if parse_key(key).partition in partitions]
        read = Windows(self._table.held, self._names, now)
        for message in messages:
            try:
                opened = self._opening.open(message)
                if opened is not None:
                    read.add(message.partition, message.offset, message.timestamp, *opened)
            except KeyMissing:
                raise
            except Exception as error:
                BROKEN.inc()
                log.error("a summary cannot be counted and is passed over: %s", telemetry.where(error))
        return {**{key: self._table.held(key) for key in again}, **dict.fromkeys(over), **read.changed}

    def _sweep(self, now: float, partitions: Collection[int]) -> list[bytes]:
        """The windows of these partitions that are over, soon again where they are many; and count sources anew, under
        which there are windows."""
        over = list(islice(self._table.windows.over(now, partitions), self.MOST_OVER))
        self._sweep_at = now if len(over) == self.MOST_OVER else now + self.SWEEP_SECONDS
        self._names = Names(self._is_registered, self._table.sources)
        return over

    async def write(self, windows: Mapping[bytes, FlowWindow | None]) -> None:
        """Write windows and wait until the broker has them; only then are they held. Raises what the client raises."""
        self._beat()
        values = {key: None if window is None else encode(window) for key, window in windows.items()}
        sent = [self._table.send_changelog(parse_key(key).partition, key, value) for key, value in values.items()]
        await asyncio.wait_for(asyncio.gather(*sent), 30)
        for key, value in values.items():
            self._table.keep(key, value)
        HELD.set(len(self._table.windows))


class _ConsumerThread(driver.AIOKafkaConsumerThread):
    """Reads what is committed: summaries are written in transactions, and Faust reads so in its own mode alone. Where
    nothing is acknowledged yet it goes back to the beginning, where the driver stays behind what it has read."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"
        return consumer

    async def seek_to_committed(self) -> Mapping[Any, int]:
        committed: Mapping[Any, int] = await super().seek_to_committed()
        new = [place for place, offset in committed.items() if not offset and place.topic.endswith(SUMMARIES)]
        if new:
            await self.seek_wait(await self.earliest_offsets(*new))
        return committed


class _Consumer(driver.Consumer):
    """Lets a batch be written to its end before partitions go to another worker. When it is to go back it gives nothing
    that it has fetched by then, and goes back before it fetches more: Faust does so while it fetches and gives, and
    then takes all that was before for given."""

    _goes_back = False

    def _new_consumer_thread(self) -> Any:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        """Have the one who fetches go back to what is acknowledged."""
        self._goes_back = True

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[Any, Any]]:
        """What is read next."""
        if self._goes_back and self.flow_active and self.assignment():
            self._goes_back = False
            try:
                await asyncio.wait_for(super().perform_seek(), _REQUEST_SECONDS)
            except Exception as error:
                log.warning("cannot go back to what is acknowledged, trying again: %s", telemetry.where(error))
                self._goes_back = True
        async for place, message in super().getmany(timeout):
            if not (self._goes_back and place.topic.endswith(SUMMARIES)):
                yield place, message

    def resume_partitions(self, tps: Any) -> None:
        """Read from these again, from where it is to go back to."""
        self._goes_back = True
        super().resume_partitions(tps)

    def _new_offset(self, tp: Any) -> int | None:
        """Where one would read on who takes over: after the last that is acknowledged, for here that is done in order.
        Faust waits for what nobody gets (marks of transactions, and what was aborted), acknowledges it one gap a
        second, and none after offset 0: it would fall behind further and further."""
        acked = self._acked.pop(tp, ())
        self._acked_index[tp].difference_update(acked)
        return max(acked) + 1 if acked else None

    async def _add_gap(self, tp: Any, offset_from: int, offset_to: int) -> None:
        """None is waited for."""

    async def on_partitions_revoked(self, revoked: set[Any]) -> None:
        """The group waits for it: who takes over is to find all that was written here, and nothing after that."""
        async with self.transport.writing:  # type: ignore[attr-defined]
            await super().on_partitions_revoked(revoked)


def _message(raw: Any) -> Message:
    """A message as handlers know it."""
    headers = {name: value for name, value in dict(raw.headers or ()).items() if value is not None}
    stamp = round((raw.timestamp or 0) * 1000)
    return Message(raw.topic, raw.partition, raw.offset, stamp, raw.key, raw.value or b"", headers)


def credentials(config: Mapping[str, Any]) -> Any:
    """Client settings as librdkafka knows them, for the client under Faust. Raises Unsupported, naming the setting."""
    protocol = str(config.get("security.protocol", "PLAINTEXT")).upper()
    if protocol == "PLAINTEXT":
        return None
    context = None
    if protocol.endswith("SSL"):
        context = ssl.create_default_context(cafile=config.get("ssl.ca.location"), cadata=config.get("ssl.ca.pem"))
        if "ssl.certificate.location" in config:
            context.load_cert_chain(
                config["ssl.certificate.location"], config.get("ssl.key.location"), config.get("ssl.key.password")
            )
    if protocol == "SSL":
        return faust.SSLCredentials(context)
    mechanism = str(config.get("sasl.mechanism", config.get("sasl.mechanisms", ""))).upper()
    if not protocol.startswith("SASL_") or mechanism not in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        raise Unsupported(
            "ESTUAIRE_KAFKA_CONFIG: the flow's worker connects by PLAINTEXT or SSL, or by SASL_PLAINTEXT or SASL_SSL"
            f" with sasl.mechanism PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; it says {protocol} {mechanism}".rstrip()
        )
    return faust.SASLCredentials(
        username=config.get("sasl.username"),
        password=config.get("sasl.password"),
        mechanism=mechanism,
        ssl_context=context,
    )
