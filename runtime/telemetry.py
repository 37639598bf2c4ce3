"""Logs, traces and metrics. Nothing in here ever holds a payload, a key or an identifier."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    set_span_in_context,
)
from opentelemetry.trace.status import Status, StatusCode
from prometheus_client import Counter, Gauge, Histogram

LINKED_TRACE: Final = "linked_trace"
"""The attribute of a span whose trace begins where another ends: the other's id."""
OF_RECORD: Final = "event_id"
"""The attribute of the first span of a record's trace: the hub's own id of the record."""

_IDS: Final = RandomIdGenerator()
_FINE: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_COARSE: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)

MESSAGES_READ: Final = Counter("estuaire_messages_read", "Messages a step has read.", ["step", "topic"])
MESSAGES_WRITTEN: Final = Counter("estuaire_messages_written", "Messages a step has written, committed.", ["step"])
RECORDS: Final = Counter("estuaire_records", "Records by source and verdict.", ["step", "source", "verdict"])
DEAD_LETTERS: Final = Counter("estuaire_dead_letters", "Dead letters by reason.", ["step", "reason"])
DEAD_LETTERS_WAITING: Final = Gauge(
    "estuaire_dead_letters_waiting", "Dead letters that nobody has sent round again.", ["step", "topic", "reason"]
)
BATCH_SECONDS: Final = Histogram("estuaire_batch_seconds", "Seconds a batch took.", ["step"], buckets=_FINE)
AGE_SECONDS: Final = Histogram(
    "estuaire_record_age_seconds",
    "Seconds since acceptance, at this step, of one record in sixteen.",
    ["step", "source"],
    buckets=_COARSE,
)
LAG: Final = Gauge("estuaire_lag", "Messages waiting to be read.", ["step", "topic", "partition"])
# When a step was last between two batches (seconds since the epoch): one that hangs in a batch has a time that stands.
TURNED: Final = Gauge("estuaire_step_turned_seconds", "When the step last began to read.", ["step"])
PRODUCER_RESETS: Final = Counter("estuaire_producer_resets", "Producers made anew after a doubt.", ["step"])
# By cause: away (a database, a key store, the broker's answer), progress (another had the batch), doubt (all else).
WENT_BACK: Final = Counter(
    "estuaire_steps_went_back", "Times a step dropped a batch and went back to what is committed.", ["step", "cause"]
)
PARTITIONS_STOPPED: Final = Gauge("estuaire_partitions_stopped", "Partitions stopped by dead letters.", ["step"])


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, logger and text; of an exception only its kind and place, for its text may hold a value."""
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info and record.exc_info[0]:
            line["error"] = where(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def where(error: BaseException | None) -> str:
    """An exception as its kind and the places it passed, without its text."""
    if error is None:
        return ""
    places = []
    frame = error.__traceback__
    while frame is not None:
        code = frame.tb_frame.f_code
        places.append(f"{Path(code.co_filename).name}:{frame.tb_lineno} {code.co_name}")
        frame = frame.tb_next
    return f"{type(error).__name__} at {' > '.join(places[-6:])}"


def start_logging(level: str) -> None:
    """Log JSON lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("uvicorn.access").disabled = True


class FileSpanExporter(SpanExporter):
    """Spans as JSON lines, where no collector is configured."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append the spans."""
        self._file.writelines(span.to_json(indent=None) + "\n" for span in spans)
        self._file.flush()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Close the file."""
        self._file.close()


def start_tracing(service: str, trace_file: str | None) -> Tracer:
    """A tracer that exports to the OTLP endpoint of the environment, or to a file, or nowhere."""
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    elif trace_file:
        provider.add_span_processor(BatchSpanProcessor(FileSpanExporter(Path(trace_file)), schedule_delay_millis=500))
    return provider.get_tracer("estuaire")


def read_traceparent(text: bytes | str | None) -> SpanContext | None:
    """The context of a W3C traceparent, or None."""
    if not text:
        return None
    parts = (text.decode("ascii", "replace") if isinstance(text, bytes) else text).split("-")
    try:
        _, trace, span, flags = parts
        context = SpanContext(int(trace, 16), int(span, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    except ValueError:
        return None
    return context if context.is_valid else None


def write_traceparent(context: SpanContext, flags: str | None = None) -> str:
    """A context as a W3C traceparent, with its own flags unless others are given."""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{flags or f'{context.trace_flags:02x}'}"


def random_context() -> SpanContext:
    """The context of a trace that nobody follows."""
    return SpanContext(_IDS.generate_trace_id(), _IDS.generate_span_id(), is_remote=False)


def record_span(
    tracer: Tracer,
    name: str,
    parent: SpanContext | None,
    begun: float,
    *,
    fresh: bool = False,
    error: str | None = None,
    event_id: str | None = None,
) -> SpanContext:
    """The span of one record in one step, from `begun` (epoch seconds) to now.

    `fresh` begins a trace of its own that is only linked to the parent's: what leaves the hub carries no trace
    that two readers could join by. One in `error` is recorded also where its trace was not to be. By `event_id` the
    trace of a record is found.
    """
    if parent and error:
        parent = SpanContext(parent.trace_id, parent.span_id, True, TraceFlags(TraceFlags.SAMPLED))
    around = set_span_in_context(NonRecordingSpan(parent)) if parent and not fresh else None
    links = [Link(parent)] if parent and fresh else []
    # what a trace is linked to can be searched for in no store that we know, what a span says in all
    said = {LINKED_TRACE: f"{parent.trace_id:032x}"} if parent and fresh else {}
    said |= {"reason": error} if error else {}
    said |= {OF_RECORD: event_id} if event_id else {}
    kind = SpanKind.PRODUCER if fresh else SpanKind.CONSUMER
    span = tracer.start_span(name, context=around, kind=kind, links=links, start_time=int(begun * 1e9), attributes=said)
    if error:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end()
    return span.get_span_context()
