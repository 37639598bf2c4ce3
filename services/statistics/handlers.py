"""Flow summaries in, counts out; it knows no Kafka. What is not well-formed is told of and passed over."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec
from prometheus_client import Counter

from contracts.messages import Measures, measures_associated
from runtime.messages import FlowSummary, Message
from runtime.sealing import Opener, SealBroken
from services.statistics.domain.counting import Counted, Counting

log = logging.getLogger("estuaire.statistics")

# Summaries whose counts are taken, by step.
COUNTED: Final = Counter("estuaire_statistics_summaries", "Summaries that were counted.", ["step"])
# Summaries, or their measures, that are passed over, by reason.
IGNORED: Final = Counter("estuaire_statistics_summaries_ignored", "Summaries that were passed over.", ["reason"])

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


class Opened(NamedTuple):
    """A summary, and the measures in it."""

    summary: FlowSummary
    measures: Measures | None


class Opening:
    """Reads summaries. What is not well-formed is told of and passed over."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._summary = msgspec.msgpack.Decoder(FlowSummary)
        self._measures = msgspec.msgpack.Decoder(Measures)

    def open(self, message: Message) -> Opened | None:
        """What a message says; None if it is not one that counts."""
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
            measures = self._measures.decode(opened)
        except SealBroken:
            _ignore("keys")
        except msgspec.MsgspecError:
            _ignore("schema")
        else:
            if len(measures.writer) <= _WRITER_BYTES and 0 < measures.number < _LARGEST_NUMBER:
                return Opened(summary, measures)
            _ignore("schema")
        return Opened(summary, None)


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
        """Count a batch; a message of a writer that was counted before is not counted again."""
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
