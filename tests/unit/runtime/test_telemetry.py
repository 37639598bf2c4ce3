"""Logs and traces say where and what kind, never what."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanContext, TraceFlags

from runtime.telemetry import JsonFormatter, read_traceparent, record_span, start_tracing, where, write_traceparent

pytestmark = pytest.mark.unit

SECRET = "285053523800148"


def _fail() -> None:
    raise ValueError(f"invalid literal: {SECRET}")


def _wrap() -> None:
    try:
        _fail()
    except ValueError as error:
        raise KeyError(SECRET) from error


@pytest.mark.parametrize("act", [_fail, _wrap])
def test_where_never_shows_the_text(act: object) -> None:
    with pytest.raises((ValueError, KeyError)) as caught:
        act()  # type: ignore[operator]
    told = where(caught.value)
    assert SECRET not in told
    assert told.startswith(type(caught.value).__name__)
    assert "test_telemetry.py" in told
    assert where(None) == ""


def test_a_logged_exception_shows_no_text() -> None:
    try:
        _wrap()
    except KeyError:
        record = logging.LogRecord("estuaire", logging.ERROR, "x.py", 1, "failed on %d", (3,), sys.exc_info())
    line = JsonFormatter().format(record)
    assert SECRET not in line
    told = json.loads(line)
    assert told["message"] == "failed on 3"
    assert told["level"] == "error"
    assert told["error"].startswith("KeyError at ")


@given(trace=st.integers(1, 2**128 - 1), span=st.integers(1, 2**64 - 1), sampled=st.booleans())
def test_a_traceparent_comes_back(trace: int, span: int, sampled: bool) -> None:
    context = SpanContext(trace, span, is_remote=True, trace_flags=TraceFlags(int(sampled)))
    assert read_traceparent(write_traceparent(context)) == context


@given(text=st.one_of(st.none(), st.binary(max_size=60), st.text(max_size=60)))
def test_anything_else_is_no_context(text: bytes | str | None) -> None:
    assert read_traceparent(text) is None


def test_a_fresh_span_shares_no_trace_with_its_parent(tmp_path: Path) -> None:
    tracer = start_tracing("test", str(tmp_path / "spans.ndjson"))
    parent = SpanContext(1 << 100, 1 << 50, is_remote=True, trace_flags=TraceFlags(1))
    mine = record_span(tracer, "step record", parent, 1.0)
    fresh = record_span(tracer, "step view", mine, 1.0, fresh=True)
    assert mine.trace_id == parent.trace_id
    assert fresh.trace_id != parent.trace_id


def test_an_end_in_error_is_recorded_also_where_its_trace_was_not_to_be(tmp_path: Path) -> None:
    tracer = start_tracing("test", str(tmp_path / "spans.ndjson"))
    parent = SpanContext(1 << 100, 1 << 50, is_remote=True, trace_flags=TraceFlags(0))
    assert not record_span(tracer, "step record", parent, 1.0).trace_flags.sampled
    ended = record_span(tracer, "step dead letter", parent, 1.0, error="conflict")
    assert ended.trace_id == parent.trace_id
    assert ended.trace_flags.sampled
