"""Keeps up the alarms: what is known, judged, remembered, and shown as metrics."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from prometheus_client import Gauge

from contracts.sources import Registered
from services.statistics.domain.alarms import KINDS, PAST, Alarm, Kind, judge
from services.statistics.domain.flow import known_sources
from services.statistics.domain.windows import HOUR
from services.statistics.published import Published

log = logging.getLogger("estuaire.statistics")

# Alarms that stand, by kind.
ALARMS: Final = Gauge("estuaire_alarms", "Alarms that stand.", ["kind"])
# 1 for each alarm that stands, by its source: one of the registry, or of as many others as are counted by their names.
OF_SOURCES: Final = Gauge("estuaire_source_alarms", "Alarms that stand, of each source.", ["source", "kind"])
# Seconds since a registered source was last heard of.
SILENT_SECONDS: Final = Gauge("estuaire_source_silent_seconds", "Since a registered source was heard of.", ["source"])


class Remembered(Protocol):
    """What outlives this process. All raise RetryLater when the database does not answer."""

    def alarms(self) -> list[Alarm]:
        """The alarms that stand."""

    def replace_alarms(self, standing: Iterable[Alarm]) -> None:
        """From now on these stand."""

    def last_seen(self) -> dict[str, dt.datetime]:
        """When each source was last heard of."""


class Watch:
    """Judges, as of the moment until which the workers have counted: nobody is silent because they are behind."""

    EVERY_SECONDS: Final = 10.0
    """How often it is asked to: three weeks of 300 sources take a second (measured), and alarms are of minutes."""

    def __init__(
        self,
        published: Published,
        remembered: Remembered,
        registry: Callable[[], Mapping[str, Registered]],
    ) -> None:
        self._published = published
        self._remembered = remembered
        self._registry = registry
        self._shown: set[tuple[str, Kind]] = set()

    def look(self) -> None:
        """Judge what is counted. Raises RetryLater."""
        until = self._published.counted_until
        if until is not None:
            self.judge(until)

    def judge(self, until: float) -> None:
        """Judge as of this moment (s since the epoch)."""
        now = dt.datetime.fromtimestamp(until, dt.UTC)
        registered = self._registry()
        hours = self._published.windows(HOUR, until - 2 * PAST.total_seconds(), until + HOUR)
        known = known_sources(hours, self._remembered.last_seen())
        before = {(one.source, one.kind): one for one in self._remembered.alarms()}
        standing = judge(now, known, registered, before)
        if standing != before:
            self._remembered.replace_alarms(standing.values())
            for source, kind in standing.keys() ^ before.keys():
                log.warning("an alarm of %s %s", kind, "stands" if (source, kind) in standing else "is over")
        for kind in KINDS:
            ALARMS.labels(kind).set(sum(one == kind for _, one in standing))
        for over in self._shown - standing.keys():  # one that stands on is never away: it would be told of again
            OF_SOURCES.remove(*over)
        for one in standing:
            OF_SOURCES.labels(*one).set(1)
        self._shown = set(standing)
        SILENT_SECONDS.clear()
        for source in registered.keys() & known.keys():
            SILENT_SECONDS.labels(source).set(max(0.0, round(time.time() - known[source].last_seen.timestamp(), 1)))
