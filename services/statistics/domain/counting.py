"""Flow summaries as counts by day, source, type and measure, under names that cannot become too many. Pure."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from contracts.events import RECORD_TYPES
from contracts.measures import OPEN, closed
from contracts.messages import Measures
from runtime.messages import FlowSummary

OTHER: Final = "other"
MOST_SOURCES: Final = 500
"""So many sources that are not registered are counted under their own names, the first that come."""
MOST_WORDS: Final = 500
"""So many reasons, flags and verdicts are, the first that come."""
LARGEST: Final = 10**9
"""No second has more records than that: a larger count, or a negative one, is none."""

_WORD: Final = re.compile(r"[a-z]{1,20}\.[a-z][a-z0-9_-]{0,40}(:[a-z][a-z0-9_-]{0,40})?", re.ASCII)
_KEPT: Final = dt.timedelta(days=8)
"""No summary is older: the topic keeps seven days."""


class Place(NamedTuple):
    """What a count is of."""

    source: str
    day: dt.date
    type: str
    measure: str


@dataclass(slots=True)
class Counted:
    """What some summaries add: counts, when ingest heard of a source first and last, and words that are new."""

    counts: Counter[Place] = field(default_factory=Counter)
    seen: dict[str, tuple[dt.datetime, dt.datetime]] = field(default_factory=dict)
    words: set[str] = field(default_factory=set)


class Counting:
    """Counts summaries. `sources` and `words` are those met before."""

    def __init__(
        self,
        is_registered: Callable[[str], bool],
        sources: Collection[str],
        words: Collection[str],
        now: dt.datetime,
    ) -> None:
        self.counted = Counted()
        self._is_registered = is_registered
        self._sources = {one for one in sources if not is_registered(one)}
        self._words = set(words)
        self._now = now

    def verdicts(self, summary: FlowSummary) -> None:
        """What a step has made of records."""
        day = self._moment(summary.at).date()
        for source, verdicts in summary.counts.items():
            for verdict, count in verdicts.items():
                self._add(self._source(source), day, "", self._word(f"{summary.step}.{verdict}"), count)

    def measures(self, measures: Measures, at: int) -> None:
        """What ingest has counted; `at` in ms since the epoch."""
        moment = self._moment(at)
        for name, types in measures.counts.items():
            source = self._source(name)
            first, last = self.counted.seen.get(source, (moment, moment))
            self.counted.seen[source] = min(first, moment), max(last, moment)
            for kind, counts in types.items():
                is_type = kind in RECORD_TYPES or not kind
                for measure, count in counts.items():
                    known = self._measure(kind, measure) if is_type else OTHER
                    self._add(source, moment.date(), kind if is_type else "", known, count)

    def _add(self, source: str, day: dt.date, kind: str, measure: str, count: int) -> None:
        if 0 < count <= LARGEST:
            self.counted.counts[Place(source, day, kind, measure)] += count

    def _moment(self, at: int) -> dt.datetime:
        """When it was counted; now, where the writer's clock says what cannot be."""
        try:
            moment = dt.datetime.fromtimestamp(at / 1000, dt.UTC)
        except (OverflowError, ValueError, OSError):
            return self._now
        return moment if self._now - _KEPT <= moment <= self._now + dt.timedelta(hours=1) else self._now

    def _source(self, name: str) -> str:
        if self._is_registered(name) or name in self._sources:
            return name
        if len(self._sources) >= MOST_SOURCES or not (0 < len(name) <= 256 and name.isprintable()):
            return OTHER
        self._sources.add(name)
        return name

    def _measure(self, kind: str, name: str) -> str:
        if name in closed(kind):
            return name
        return self._word(name) if name.startswith(OPEN) else OTHER

    def _word(self, word: str) -> str:
        if word in self._words:
            return word
        if len(self._words) >= MOST_WORDS or not _WORD.fullmatch(word):
            return OTHER
        self._words.add(word)
        self.counted.words.add(word)
        return word
