"""What is removed of the records that are sent, as their producer sees it."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import pytest
from rich.console import Console

from estuaire.removed import Removed, WatchedProducer, removed_table
from services.ingest.domain.content import strip
from services.ingest.domain.removals import Reason, Removal

pytestmark = pytest.mark.unit


def event(name: str = "o-1", **fields: Any) -> bytes:
    code = {"coding": [{"system": "http://loinc.org", "code": "8302-2", "display": "LE GOFF"}]}
    record = {"resourceType": "Observation", "status": "final", "code": code, **fields}
    return json.dumps({"id": name, "type": "observation.v1", "data": {"record": record}}).encode()


def test_what_is_counted_is_what_is_removed() -> None:
    removed = Removed()
    good = event(note=[{"text": "M. LE GOFF"}], effectiveDateTime="hier")
    removed.add(good)
    removed.add(good)
    assert removed.found == {
        Removal("Observation.code.coding[].display", Reason.NO_PLACE): 2,
        Removal("Observation.note[].text", Reason.NO_PLACE): 2,
        Removal("Observation.effectiveDateTime", Reason.BAD_VALUE): 2,
    }
    assert removed.found.total() == 2 * strip("observation.v1", json.loads(good)["data"]["record"]).removed


@pytest.mark.parametrize(
    "told",
    [
        *(b"", b"[]", b"7", b"{", b'{"type": 7}', b'{"type": "x.v1", "data": {"record": {"a": 1}}}', b"[" * 10_000),
        *(b'{"type": "observation.v1.deleted", "data": {"record": {"a": 1}}}', b'{"type": [], "data": {"record": {}}}'),
        *(b'{"type": "identity.v1", "data": {"record": {"a": 1}}}', b'{"type": "observation.v1", "data": null}'),
    ],
)
def test_of_what_has_no_record_nothing_is(told: bytes) -> None:
    removed = Removed()
    removed.add(told)
    assert not removed.found


def test_a_producer_counts_what_was_accepted_and_prints_no_value() -> None:
    def hub(request: httpx.Request) -> httpx.Response:
        lines = request.read().split(b"\n")
        if len(lines) > 2:
            return httpx.Response(413, json={"title": "too large"})
        bad = [at for at, line in enumerate(lines) if b'"bad"' in line]
        kept = [{"source": "s", "id": "i", "event_id": "e"}] * (len(lines) - len(bad))
        rejected = [{"index": at, "reason": "bad", "detail": "d"} for at in bad]
        return httpx.Response(202, json={"accepted": kept, "rejected": rejected})

    producer = WatchedProducer("http://hub", "token", packed=False, transport=httpx.MockTransport(hub))
    with producer:
        producer.send_lines([event(), event("bad"), event(), event()])
    assert producer.removed.found == {Removal("Observation.code.coding[].display", Reason.NO_PLACE): 3}
    Console(width=100, file=(printed := io.StringIO())).print(removed_table(producer.removed))
    text = printed.getvalue()
    for word in ("Observation.code.coding[].display", "no-place", "3"):
        assert word in text
    assert "GOFF" not in text
