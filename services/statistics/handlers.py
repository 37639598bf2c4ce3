"""Flow summaries in, counts out; it knows no Kafka. What is not well-formed is told of and passed over; where nothing
can be opened any more, for the key is not there, the reader stands.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec
from prometheus_client import Counter

from contracts.messages import Measures, measures_associated
from runtime.loop import Tally
from runtime.messages import FlowSummary, Message, Place
from runtime.sealing import KeyNotHeld, Opener, SealBroken
from services.statistics.domain.counting import Counted, Counting

log = logging.getLogger("estuaire.statistics")

# Summaries whose counts are taken, by step.
COUNTED: Final = Counter("estuaire_statistics_summaries", "Summaries that were counted.", ["step"])
# Summaries, or their measures, that are passed over, by reason.
IGNORED: Final = Counter("estuaire_statistics_summaries_ignored", "Summaries that were passed over.", ["reason"])
for _reason in ("decoding", "step", "keys", "seal", "schema"):  # from 0 on, or the first one is no increase
    IGNORED.labels(_reason)

_WRITER_BYTES: Final = 64
_LARGEST_NUMBER: Final = 2**63
STEPS: Final = frozenset(("ingest", "pseudonym", "linkage", "access", "audit"))


class Memory(Protocol):
    """What was counted before. All may raise RetryLater."""

    def sources(self) -> Collection[str]:
        """The sources that were heard of."""

    def words(self) -> Collection[str]:
        """The reasons, flags and verdicts that were met."""

    def numbers(self, writers: Collection[bytes]) -> Mapping[bytes, int]:
        """The number of each writer's last message."""

    def add(self, counted: Counted, numbers: Mapping[bytes, int], today: dt.date) -> None:
        """Add to the counts, and note the writers' last numbers."""


class KeyMissing(Exception):
    """So much is sealed to a key that is not held that it is the hub's own: whoever reads on would lose it."""

    def __init__(self) -> None:
        super().__init__("summaries are sealed to a statistics-private that is not held: put it there and restart")


class Opened(NamedTuple):
    """A summary, and the measures in it."""

    summary: FlowSummary
    measures: Measures | None


class Opening:
    """Reads summaries. What is not well-formed is told of and passed over; so is what is sealed to a key that is not
    held, up to as many as stop a partition of a step, too."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._tallies: defaultdict[Place, Tally] = defaultdict(Tally)
        self._next: defaultdict[Place, int] = defaultdict(int)
        self._summary = msgspec.msgpack.Decoder(FlowSummary)
        self._measures = msgspec.msgpack.Decoder(Measures)

    def open(self, message: Message) -> Opened | None:
        """What a message says; None if it is not one that counts. Raises KeyMissing."""
        try:
            summary = self._summary.decode(message.value)
        except msgspec.MsgspecError:
            _ignore("decoding")
            return None
        if summary.step not in STEPS:
            _ignore("step")
            return None
        if not summary.measures:
            return Opened(summary, None)
        try:
            opened = self._opener.open(summary.measures, measures_associated(summary.at))
            self._note(message, is_missing=False)
            measures = self._measures.decode(opened)
        except KeyNotHeld:
            self._note(message, is_missing=True)
            _ignore("keys")
        except SealBroken:
            _ignore("seal")
        except msgspec.MsgspecError:
            _ignore("schema")
        else:
            if len(measures.writer) <= _WRITER_BYTES and 0 < measures.number < _LARGEST_NUMBER:
                return Opened(summary, measures)
            _ignore("schema")
        return Opened(summary, None)

    def _note(self, message: Message, *, is_missing: bool) -> None:
        """Each message once: a batch may be read again."""
        tally = self._tallies[message.place]
        if message.offset >= self._next[message.place]:
            self._next[message.place] = message.offset + 1
            tally.add(is_missing)
        if is_missing and tally.too_many():
            raise KeyMissing


class Count:
    """Counts batches of summaries, each within one transaction of its memory."""

    def __init__(
        self,
        memory: Memory,
        opening: Opening,
        is_registered: Callable[[str], bool],
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._memory = memory
        self._opening = opening
        self._is_registered = is_registered
        self._clock = clock

    def handle(self, batch: Sequence[Message]) -> None:
        """Count a batch; a message of a writer that was counted before is not counted again. Raises KeyMissing."""
        opened = [one for one in map(self._opening.open, batch) if one is not None]
        now = self._clock()
        counting = Counting(self._is_registered, self._memory.sources(), self._memory.words(), now)
        writers = {one.measures.writer for one in opened if one.measures is not None}
        numbers = dict(self._memory.numbers(writers)) if writers else {}
        for summary, measures in opened:
            counting.verdicts(summary)
            if measures is not None and measures.number > numbers.get(measures.writer, 0):
                numbers[measures.writer] = measures.number
                counting.measures(measures, summary.at)
        self._memory.add(counting.counted, numbers, now.date())
        for one in opened:
            COUNTED.labels(one.summary.step).inc()


def _ignore(reason: str) -> None:
    IGNORED.labels(reason).inc()
    log.warning("a message of flow-summaries is passed over: %s", reason)
