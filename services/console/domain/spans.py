"""The traces of a record, from what a trace store says of them in Jaeger's query API. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

Told = Mapping[str, Any]
LEAST: Final = 0.004
"""The share of a trace that a span takes at least in a picture, so that it can be seen."""


class Span(NamedTuple):
    """What one step did: from when after the trace's begin, for how long (ms), and both as shares of the whole."""

    step: str
    name: str
    after_ms: float
    took_ms: float
    begin: float
    share: float
    reason: str


class Trace(NamedTuple):
    """A record on its way once: since when (ISO, UTC), how long it took (ms), its spans in the order of time, and how
    many traces of views begin where it ends. (Not which: by those that its messages carry, views were joined.)"""

    id: str
    at: str
    took_ms: float
    spans: list[Span]
    beyond: int

    def when(self, span: Span) -> dt.datetime:
        """When one of the spans began."""
        return dt.datetime.fromisoformat(self.at) + dt.timedelta(milliseconds=span.after_ms)


def traces(found: Iterable[Told], beyond: Mapping[str, int]) -> list[Trace]:
    """The traces of a record, the newest first; `beyond` says how many of views are linked to each."""
    made = [_trace(one, beyond.get(one["traceID"], 0)) for one in found if one["spans"]]
    return sorted(made, key=lambda it: it.at, reverse=True)


def _trace(told: Told, beyond: int) -> Trace:
    spans = sorted(told["spans"], key=lambda it: (it["startTime"], it["duration"]))
    first = spans[0]["startTime"]
    whole = max(1, *(it["startTime"] + it["duration"] - first for it in spans))
    at = dt.datetime.fromtimestamp(first / 1e6, dt.UTC).isoformat()
    made = [_span(it, told["processes"], first, whole) for it in spans]
    # a step has a span for each message that it made of the record: they are one line, the longest
    lines = {(it.step, it.name, it.after_ms, it.reason): it for it in made}
    return Trace(told["traceID"], at, whole / 1000, list(lines.values()), beyond)


def _span(told: Told, processes: Told, first: int, whole: int) -> Span:
    step = str(processes[told["processID"]]["serviceName"])
    after, took = told["startTime"] - first, told["duration"]
    reason = next((str(one["value"]) for one in told["tags"] if one["key"] == "reason"), "")
    share = max(took / whole, LEAST)
    begin = min(after / whole, 1 - share)
    return Span(step, told["operationName"].removeprefix(f"{step} "), after / 1000, took / 1000, begin, share, reason)
