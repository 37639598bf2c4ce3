"""The broker's side of ingest, on librdkafka's own mock of a broker; keys and traces."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from runtime.keys import FolderKeyStore, KeyUnavailable, write_key
from runtime.messages import Emit
from runtime.settings import RuntimeSettings
from runtime.watched import WatchedFile
from services.ingest.adapters import KafkaOutbox, NotKept, QueueFull, intake_from, producers_from, tracing
from tests.unit.ingest.conftest import PRIVATE

pytestmark = pytest.mark.unit


@contextmanager
def running(partitions: int = 4, **config: Any) -> Iterator[KafkaOutbox]:
    config = {"test.mock.num.brokers": 1, "log_level": 0, **config}
    outbox = KafkaOutbox(
        RuntimeSettings(bootstrap_servers="mock", kafka_config=config, hot_partitions=partitions, topic_prefix="t-")
    )
    thread = threading.Thread(target=outbox.run)
    thread.start()
    try:
        yield outbox
    finally:
        outbox.stop()
        thread.join(20)
        assert not thread.is_alive()


def ready(outbox: KafkaOutbox) -> bool:
    deadline = time.monotonic() + 10
    while outbox.readiness() is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    return outbox.readiness() is None


def test_what_is_sent_is_confirmed() -> None:
    with running() as outbox:
        assert ready(outbox)
        outbox.send([Emit("records-received", b"k", b"v", {"a": b"b"}), Emit("x", None, b"", {}, 1)]).result(10)
        outbox.send([]).result(1)
        assert outbox.has_room()


def test_a_broker_cut_otherwise_is_not_ready() -> None:
    with running(partitions=7) as outbox:
        deadline = time.monotonic() + 10
        while "partitions" not in (outbox.readiness() or "") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "has 4 partitions" in (outbox.readiness() or "")


def test_without_a_broker_nothing_is_kept_and_little_is_held() -> None:
    nowhere: dict[str, Any] = {"test.mock.num.brokers": 0, "bootstrap.servers": "127.0.0.1:9"}
    with running(**nowhere) as outbox:
        assert outbox.readiness() == "waiting for the broker"
        body = b"x" * 900_000
        future = outbox.send([Emit("x", b"k", b"v")])
        with pytest.raises(QueueFull):
            for _ in range(100):
                outbox.send([Emit("x", b"k", body)])
        with pytest.raises(NotKept):
            outbox.send([Emit("x", b"k", b"x" * 2_000_000)])
        assert not future.done()
        outbox._producer.purge()
        with pytest.raises(NotKept):
            future.result(20)


def keys(folder: Path) -> FolderKeyStore:
    for name in ("level-1", "event-id", "digest"):
        write_key(folder, name, {1: name.encode() * 8})
    for name, private in PRIVATE.items():
        write_key(folder, f"{name}-public", {1: private.public_key().public_bytes_raw()})
    return FolderKeyStore(folder)


@pytest.mark.parametrize("name", ["level-1", "event-id", "digest", "pseudonym-public", "access-public"])
def test_every_key_is_needed(tmp_path: Path, name: str) -> None:
    store = keys(tmp_path)
    assert intake_from(store, lambda *_: "", 1).ids.event_id("s", "i")
    (tmp_path / f"{name}.json").unlink()
    with pytest.raises(KeyUnavailable, match=name):
        intake_from(store, lambda *_: "", 1)


def test_keys_that_name_records_do_not_rotate_and_a_chain_has_no_gap(tmp_path: Path) -> None:
    store = keys(tmp_path)
    write_key(tmp_path, "digest", {1: b"1" * 32, 2: b"2" * 32})
    with pytest.raises(KeyUnavailable, match="digest has 2 versions"):
        intake_from(store, lambda *_: "", 1)
    write_key(tmp_path, "digest", {1: b"1" * 32})
    write_key(tmp_path, "level-1", {2: b"2" * 32})
    with pytest.raises(KeyUnavailable, match="level-1"):
        intake_from(store, lambda *_: "", 1)


def test_every_record_has_a_trace_of_its_own() -> None:
    tracer = TracerProvider().get_tracer("test")
    trace, span = "4" * 32, "5" * 16
    quiet, loud = tracing(tracer, 0.0), tracing(tracer, 1.0)
    stated = f"00-{trace}-{span}-01"
    begun = [quiet(stated, 0.0, "e1"), quiet(stated, 0.0, "e2"), loud(stated, 0.0, "e3"), loud(None, 0.0, "e4")]
    assert all(int(one.split("-")[3], 16) & 1 for one in begun)
    for unsampled in (None, f"00-{trace}-{span}-00", "00-" + "0" * 32 + f"-{span}-01"):
        begun.append(quiet(unsampled, 0.0, "e5"))
        assert begun[-1].endswith("-00")
        begun.append(loud(unsampled, 0.0, "e6"))
        assert int(begun[-1].split("-")[3], 16) & 1
    ids = [one.split("-")[1] for one in begun]
    assert len(set(ids)) == len(ids)
    assert {trace, "0" * 32}.isdisjoint(ids)


def test_a_sampled_call_leads_to_the_hubs_trace_in_the_trace_store_alone() -> None:
    store = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(store))
    trace, span = "4" * 32, "5" * 16
    header = tracing(provider.get_tracer("test"), 0.0)(f"00-{trace}-{span}-01", 0.0, "e1")
    call, record = store.get_finished_spans()
    assert (call.name, record.name) == ("ingest call", "ingest record")
    assert call.parent is not None
    assert (f"{call.context.trace_id:032x}", f"{call.parent.span_id:016x}") == (trace, span)
    assert record.parent is None
    assert record.attributes == {"linked_trace": trace, "event_id": "e1"}
    assert "event_id" not in (call.attributes or {}), "the producer's trace says nothing of the record"
    assert [link.context.span_id for link in record.links] == [call.context.span_id]
    assert header.split("-")[1:3] == [f"{record.context.trace_id:032x}", f"{record.context.span_id:016x}"]
    assert trace not in header


@pytest.mark.parametrize("text", ["", "producers: 1", "producers: [{source: x}]", "[", "\x00"])
def test_a_producers_file_is_one_or_refused_in_a_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "producers.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"producers\.yaml") as refused:
        WatchedFile(path, producers_from)
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="none cannot be read"):
        WatchedFile(tmp_path / "none", producers_from)
