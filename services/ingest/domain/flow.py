"""How far the records have come, and which sources send too much that is refused later. Pure; safe across threads."""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Literal

from contracts.registry import BACKFILL
from runtime.messages import FlowSummary, Passed

Lane = Literal["live", "backfill"]
LANES: Final[tuple[Lane, ...]] = ("live", "backfill")
LAST_STEP: Final = "access"
NOT_SOONER_MS: Final = 250
GIVEN_UP_MS: Final = 5_000
_REMEMBERED: Final = 64
_PRODUCERS_FAULT: Final = frozenset(("dead_lettered:conflict", "dead_lettered:refused"))


def topic(name: str, lane: Lane) -> str:
    """A topic in a lane."""
    return name if lane == "live" else name + BACKFILL


@dataclass(slots=True)
class _InFlight:
    issued: int
    missing: set[tuple[str, int, int]]


class Watermarks:
    """The markers that ingest has sent and access has not seen everywhere; the newest it has, by lane.

    A record acknowledged before a marker was issued stands before it in its partition, so once the marker has come
    through on every partition, the record is in the views (docs/adr/0009). Times are ms since the epoch.
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._in_flight: dict[Lane, dict[str, _InFlight]] = {lane: {} for lane in LANES}
        self._reached: dict[Lane, int | None] = dict.fromkeys(LANES)
        self._lock = Lock()

    def reached(self, lane: Lane) -> int | None:
        """Everything acknowledged before this moment is in the views; None before the first marker."""
        return self._reached[lane]

    def is_complete(self, lane: Lane, through: int) -> bool:
        """Whether everything of the lane acknowledged before `through` is in the views."""
        reached = self._reached[lane]
        return reached is not None and reached >= through

    def issue(self, lane: Lane, through: int, now: int) -> str | None:
        """The marker to send to every partition of the lane, or None while one on its way will do.

        One that is on its way will do for 5 s if it answers the question, for 250 ms if it does not.
        """
        with self._lock:
            in_flight = self._in_flight[lane]
            for one in in_flight.values():
                if now - one.issued < (GIVEN_UP_MS if one.issued >= through else NOT_SOONER_MS):
                    return None
            marker = f"{now}:{secrets.token_hex(8)}:{lane}"
            in_flight[marker] = _InFlight(now, self._everywhere(lane))
            while len(in_flight) > _REMEMBERED:
                del in_flight[next(iter(in_flight))]
            return marker

    def lost(self, marker: str) -> None:
        """The broker did not take this marker."""
        with self._lock:
            for in_flight in self._in_flight.values():
                in_flight.pop(marker, None)

    def passed(self, passed: Passed) -> None:
        """A marker has reached the last step."""
        with self._lock:
            for lane, in_flight in self._in_flight.items():
                one = in_flight.get(passed.marker)
                if one is None:
                    continue
                one.missing.discard((passed.topic, passed.partition, passed.origin))
                if not one.missing:
                    self._reached[lane] = max(one.issued, self._reached[lane] or 0)
                    for marker in [marker for marker, other in in_flight.items() if other.issued <= one.issued]:
                        del in_flight[marker]

    def _everywhere(self, lane: Lane) -> set[tuple[str, int, int]]:
        origins = range(self._partitions)
        linked = {(topic("records-linked", lane), origin, origin) for origin in origins}
        return linked | {("patient-links", partition, origin) for partition in origins for origin in origins}


@dataclass(frozen=True, slots=True)
class ThrottleRule:
    """Above this share of dead letters of a producer's making, among at least so many records, it has to wait."""

    share: float = 0.2
    least: int = 200
    window_seconds: float = 60.0


@dataclass(slots=True)
class _Recent:
    total: int = 0
    refused: int = 0
    batches: deque[tuple[float, int, int]] = field(default_factory=deque)


class Throttle:
    """Which sources have to wait, and until when. Times are seconds of one clock."""

    def __init__(self, rule: ThrottleRule) -> None:
        self._rule = rule
        self._recent: defaultdict[tuple[str, str], _Recent] = defaultdict(_Recent)
        self._until: dict[str, float] = {}
        self._lock = Lock()

    def seen(self, step: str, source: str, verdicts: Mapping[str, int], now: float) -> None:
        """What a step has decided on a batch of a source's records."""
        total = sum(verdicts.values())
        refused = sum(count for verdict, count in verdicts.items() if verdict in _PRODUCERS_FAULT)
        with self._lock:
            recent = self._recent[step, source]
            recent.batches.append((now, total, refused))
            recent.total += total
            recent.refused += refused
            while recent.batches and recent.batches[0][0] <= now - self._rule.window_seconds:
                _, old_total, old_refused = recent.batches.popleft()
                recent.total -= old_total
                recent.refused -= old_refused
            if recent.total >= self._rule.least and recent.refused > self._rule.share * recent.total:
                self._until[source] = now + self._rule.window_seconds
                del self._recent[step, source]

    def seconds_left(self, source: str, now: float) -> float:
        """How long the source has to wait; 0 if it does not."""
        with self._lock:
            left = self._until.get(source, now) - now
            if left <= 0:
                self._until.pop(source, None)
            return max(0.0, left)

    def waiting(self, now: float) -> int:
        """How many sources have to wait."""
        with self._lock:
            return sum(until > now for until in self._until.values())


class Flow:
    """All that ingest knows of what comes after it."""

    def __init__(self, partitions: int, rule: ThrottleRule) -> None:
        self.watermarks = Watermarks(partitions)
        self.throttle = Throttle(rule)
        self._counts: defaultdict[str, defaultdict[str, Counter[str]]]
        self._counts = defaultdict(lambda: defaultdict(Counter))
        self._lock = Lock()

    def seen(self, summary: FlowSummary, now: float) -> None:
        """One batch of one step."""
        for source, verdicts in summary.counts.items():
            self.throttle.seen(summary.step, source, verdicts, now)
            with self._lock:
                self._counts[source][summary.step].update(verdicts)
        if summary.step == LAST_STEP:
            for passed in summary.passed:
                self.watermarks.passed(passed)

    def answered(self, source: str, accepted: int, rejected: int) -> None:
        """What ingest itself has answered to a source."""
        with self._lock:
            self._counts[source]["ingest"].update(accepted=accepted, rejected=rejected)

    def counts(self, source: str) -> dict[str, dict[str, int]]:
        """By step and verdict: what ingest has answered, and what it has heard of since it started."""
        with self._lock:
            return {step: dict(verdicts) for step, verdicts in self._counts[source].items()}
