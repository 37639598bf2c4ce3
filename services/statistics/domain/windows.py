"""Flow summaries as windows: what each step made of each source's records in 10 seconds and in an hour. Pure.

A message may come again, and of what it changes some may be kept and some not. So each window has the offset of the
last summary that is in it, and takes none that is not newer. Which windows a message falls into depends on the message,
never on the clock, so that one that comes again falls into those that it was in before. (But for sources that have no
window of their own: if, between its two comings, one gets it because it is registered now, or others are gone, the
message is in its window and in that of the others.)
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from contracts.events import DELETED, RECORD_TYPES
from contracts.measures import RECORDS, REFUSED, RETRACTIONS
from contracts.messages import FlowWindow, Measures, encode
from runtime.messages import FlowSummary
from services.statistics.domain.counting import LARGEST, MOST_SOURCES, OTHER

SHORT: Final = 10
HOUR: Final = 3600
KEPT: Final[Mapping[int, int]] = {SHORT: HOUR, HOUR: 26 * HOUR}
"""How long windows are kept after their end (s): those for an hour so long that a day is behind any that is shown."""
LEARNT: Final = 22 * 24 * HOUR
"""How long those of ingest for an hour are, from which is learnt what is usual: three weeks are behind any day."""
ACCEPTED, REJECTED = "accepted", "rejected"
"""What ingest made of records: its measures have reasons, which are told elsewhere."""

MOST_VERDICTS: Final = 64
"""So many verdicts a window has under their own names, the first that come."""
MOST_INPUTS: Final = 512
"""So many partitions of topics, likewise."""
MOST_WRITERS: Final = 64
"""So many processes of ingest; of more, the oldest are forgotten."""

_VERDICT: Final = re.compile(r"[a-z][a-z0-9_-]{0,40}(:[a-z][a-z0-9_-]{0,40})?", re.ASCII)
_INPUT: Final = re.compile(r"[a-z0-9._-]{1,200}", re.ASCII)
_SKEW_MS: Final = HOUR * 1000
_LATE_MS: Final = 8 * 24 * 3600 * 1000
_OLDEST_MS: Final = 100 * 366 * 24 * 3600 * 1000
_TYPES: Final = frozenset(RECORD_TYPES)

decode: Final = msgspec.msgpack.Decoder(FlowWindow).decode
"""A window as it is written. Raises msgspec.MsgspecError."""


@dataclass(slots=True)
class Part:
    """What one summary says of one source."""

    types: dict[str, int] = field(default_factory=dict)
    verdicts: dict[str, int] = field(default_factory=dict)
    ages: tuple[int, int, int] = (0, 0, 0)
    waiting: dict[str, tuple[int, int]] = field(default_factory=dict)
    writer: tuple[str, int] | None = None


class Names:
    """Sources under their own names: those registered, and of the others the first that come."""

    def __init__(self, is_registered: Callable[[str], bool], known: Collection[str] = ()) -> None:
        self._is_registered = is_registered
        self._known = {one for one in known if one not in ("", OTHER) and not is_registered(one)}

    def name(self, source: str) -> str:
        """The name under which it is counted."""
        if not source or self._is_registered(source) or source in self._known:
            return source
        if len(self._known) >= MOST_SOURCES or len(source) > 256 or not source.isprintable():
            return OTHER
        self._known.add(source)
        return source


class Windows:
    """Adds summaries to windows. `read` gives what is held under a key; `changed` is what has become of it."""

    def __init__(self, read: Callable[[bytes], FlowWindow | None], names: Names, now: float) -> None:
        """`now` (s since the epoch) only says which windows are over for good."""
        self.changed: dict[bytes, FlowWindow] = {}
        self._read = read
        self._names = names
        self._now = now

    def add(self, partition: int, offset: int, written: int, summary: FlowSummary, measures: Measures | None) -> None:
        """A summary, where it stands in flow-summaries, and when it was written there (ms since the epoch)."""
        moment = _moment(summary.at, written)
        for source, part in _parts(summary, measures, moment, self._names.name):
            for seconds in KEPT:
                start = moment // 1000 // seconds * seconds
                if period_of(seconds, start, summary.step).until >= self._now:
                    key = key_of(partition, seconds, start, summary.step, source)
                    _add(self._window(key, FlowWindow(summary.step, source, start, seconds)), offset, moment, part)

    def _window(self, key: bytes, fresh: FlowWindow) -> FlowWindow:
        if key not in self.changed:
            self.changed[key] = self._read(key) or fresh
        return self.changed[key]


def key_of(partition: int, seconds: int, start: int, step: str, source: str) -> bytes:
    """The key of a window: it has the partition, because a window holds what one partition tells."""
    return f"{partition}/{seconds}/{start}/{step}/{source}".encode()


class Period(NamedTuple):
    """When a window is, and until when it is kept: together they come and go."""

    seconds: int
    start: int
    until: int

    def is_over(self, now: float) -> bool:
        """Whether nobody asks for its windows any more, or its time cannot be."""
        return not self.start - 2 * HOUR <= now <= self.until


def period_of(seconds: int, start: int, step: str) -> Period:
    """The period of a step's window."""
    kept = LEARNT if step == "ingest" and seconds == HOUR else KEPT.get(seconds, 0)
    return Period(seconds, start, start + seconds + kept)


class Key(NamedTuple):
    """A key, taken apart."""

    partition: int
    seconds: int
    start: int
    step: str
    source: str

    @property
    def period(self) -> Period:
        """That of its window."""
        return period_of(self.seconds, self.start, self.step)

    @property
    def place(self) -> str:
        """What the keys of a period differ in."""
        return f"{self.partition}/{self.step}/{self.source}"


def parse_key(key: bytes) -> Key:
    """Raises ValueError, if it is none."""
    partition, seconds, start, step, source = key.decode().split("/", 4)
    return Key(int(partition), int(seconds), int(start), step, source)


def newer(one: FlowWindow, other: FlowWindow | None) -> FlowWindow:
    """That of two states of a window which has seen more: a worker that was cut off may have written the older last."""
    return one if other is None or one.offset >= other.offset else other


class Kept:
    """The windows that are kept, by period: what is over is found without a look at the others.

    They are kept as they are written, and by strings that they share with those of other periods: taken apart they are
    three times as large. What takes a key raises ValueError, if it is none.
    """

    def __init__(self) -> None:
        self._periods: dict[Period, dict[str, bytes]] = {}

    def __len__(self) -> int:
        """How many windows there are."""
        return sum(map(len, self._periods.values()))

    def __contains__(self, key: bytes) -> bool:
        """Whether there is one under a key."""
        return self._value(parse_key(key)) is not None

    def get(self, key: bytes) -> FlowWindow | None:
        """What is kept under a key."""
        value = self._value(parse_key(key))
        return None if value is None else decode(value)

    def _value(self, key: Key) -> bytes | None:
        return self._periods.get(key.period, {}).get(key.place)

    def keep(self, key: bytes, window: FlowWindow) -> bool:
        """Keep it, unless what is kept has seen more; whether it is kept."""
        parsed = parse_key(key)
        windows = self._periods.setdefault(parsed.period, {})
        value = windows.get(parsed.place)
        if value is not None and newer(window, decode(value)) is not window:
            return False
        windows[sys.intern(parsed.place)] = encode(window)
        return True

    def drop(self, key: bytes) -> None:
        """Keep nothing under a key."""
        parsed = parse_key(key)
        if windows := self._periods.get(parsed.period):
            windows.pop(parsed.place, None)
            if not windows:
                del self._periods[parsed.period]

    def over(self, now: float, partitions: Collection[int]) -> Iterator[bytes]:
        """The keys of windows of these partitions that are over."""
        for period in [one for one in self._periods if one.is_over(now)]:
            for place in self._periods[period]:
                partition, rest = place.split("/", 1)
                if int(partition) in partitions:
                    yield f"{partition}/{period.seconds}/{period.start}/{rest}".encode()

    def forget(self, now: float) -> None:
        """Drop windows that are over."""
        for period in [one for one in self._periods if one.until < now]:
            del self._periods[period]

    def between(self, seconds: int, begin: float, end: float) -> list[bytes]:
        """Those of this length that begin from one moment until before another, in the order of their start."""
        periods = sorted(one for one in self._periods if one.seconds == seconds and begin <= one.start < end)
        return [value for period in periods for value in self._periods[period].values()]


def _moment(at: int, written: int) -> int:
    """When a summary was made; when it was written, where its writer's clock says what cannot be."""
    return at if written - _LATE_MS <= at <= written + _SKEW_MS and at > 0 else max(0, written)


def _parts(
    summary: FlowSummary, measures: Measures | None, moment: int, name: Callable[[str], str]
) -> Iterator[tuple[str, Part]]:
    found: dict[str, Part] = {}

    def part(source: str) -> Part:
        return found.setdefault(name(source), Part())

    for source, verdicts in summary.counts.items():
        _count(part(source).verdicts, verdicts, _verdict, MOST_VERDICTS)
    for source, types in summary.types.items():
        _count(part(source).types, types, _type, len(_TYPES) + 1)
    for source, ages in summary.ages.items():
        one = part(source)
        one.ages = _older(one.ages, ages)
    if summary.waiting:
        for topic, partition, left in summary.waiting[:MOST_INPUTS]:
            if _INPUT.fullmatch(topic) and 0 <= partition < 100_000 and 0 <= left < 2**53:
                part("").waiting[f"{topic}/{partition}"] = (moment, left)
    if measures is not None:
        for source, of_types in measures.counts.items():
            one = part(source)
            one.writer = (measures.writer.hex(), measures.number)
            for kind, counts in of_types.items():
                taken = _sum(counts.get(RECORDS, 0), counts.get(RETRACTIONS, 0))
                refused = _sum(*(count for measure, count in counts.items() if measure.startswith(REFUSED)))
                _count(one.types, {kind: taken + refused}, _type, len(_TYPES) + 1)
                _count(one.verdicts, {ACCEPTED: taken, REJECTED: refused}, str, MOST_VERDICTS)
    yield from found.items()


def _add(window: FlowWindow, offset: int, moment: int, part: Part) -> None:
    """Add what is said of a window, unless it is in it."""
    if offset <= window.offset:
        return
    window.offset = offset
    if part.writer is not None:
        writer, number = part.writer
        if number <= window.writers.get(writer, 0):
            return
        window.writers = dict(list({**window.writers, writer: number}.items())[-MOST_WRITERS:])
    window.last = max(window.last, moment)
    window.types, window.verdicts = dict(window.types), dict(window.verdicts)
    _count(window.types, part.types, str, len(_TYPES) + 1)
    _count(window.verdicts, part.verdicts, str, MOST_VERDICTS)
    window.ages = _older(window.ages, part.ages)
    window.waiting = dict(window.waiting)
    for place, told in part.waiting.items():
        known = window.waiting.get(place)
        if known is not None or len(window.waiting) < MOST_INPUTS:
            window.waiting[place] = max(known or told, told)


def _count(into: dict[str, int], counts: Mapping[str, int], name: Callable[[str], str], most: int) -> None:
    for word, count in counts.items():
        if 0 < count <= LARGEST:
            known = name(word)
            if known not in into and len(into) >= most - 1:
                known = OTHER
            into[known] = into.get(known, 0) + count


def _sum(*counts: int) -> int:
    return sum(count for count in counts if 0 < count <= LARGEST)


def _older(one: tuple[int, int, int], other: tuple[int, int, int]) -> tuple[int, int, int]:
    count, total, most = other
    if not (0 < count <= LARGEST and 0 <= most <= _OLDEST_MS and most <= total <= count * most):
        return one
    return one[0] + count, one[1] + total, max(one[2], most)


def _type(kind: str) -> str:
    plain = kind.removesuffix(DELETED)
    return plain if plain in _TYPES else OTHER


def _verdict(verdict: str) -> str:
    return verdict if _VERDICT.fullmatch(verdict) else OTHER
