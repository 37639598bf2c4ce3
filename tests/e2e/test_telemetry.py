"""One trace from the producer's call to access, a fresh one per view, and metrics on each service."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.hub import Hub

pytestmark = pytest.mark.e2e

Make = Callable[..., dict[str, Any]]


def spans(hub: Hub) -> list[dict[str, Any]]:
    """Every span that the services have written."""
    found = []
    for path in (hub.platform.home / "logs").glob("*.spans.ndjson"):
        found += [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
    return found


def trace_of(hub: Hub, producers_trace: str) -> str | None:
    """The hub's own trace of what was sent under a producer's trace: tied to it by a link, in the trace store alone."""
    for span in spans(hub):
        if span["name"] == "ingest record" and any(
            link["context"]["trace_id"] == f"0x{producers_trace}" for link in span["links"]
        ):
            return str(span["context"]["trace_id"])
    return None


def test_one_trace_from_call_to_access_and_a_fresh_one_beyond(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    sent = "7d3f65191f6c4a0d9e2b8c1a5e4f0b77"
    hub.send(source, [observation(source, "traced", 1, traceparent=f"00-{sent}-b7ad6b7169203331-01")])

    def chain() -> list[str]:
        trace = trace_of(hub, sent)
        mine = {span["context"]["span_id"]: span for span in spans(hub) if span["context"]["trace_id"] == trace}
        last = next((one for one in mine.values() if one["name"] == "access record"), None)
        names = []
        while last is not None:
            names.append(last["name"])
            last = mine.get(last["parent_id"])
        return names[::-1]

    wanted = ["ingest record", "pseudonym record", "linkage record", "access record"]
    hub.wait_for(lambda: chain() == wanted)
    assert any(span["name"] == "ingest call" and span["context"]["trace_id"] == f"0x{sent}" for span in spans(hub))
    (message,) = hub.messages(f"view-{permit.id}")
    fresh = message.header("traceparent").split("-")[1]
    assert fresh not in (sent, str(trace_of(hub, sent))[2:])
    hub.wait_for(lambda: any(span["context"]["trace_id"] == f"0x{fresh}" for span in spans(hub)))
    (tie,) = [span for span in spans(hub) if span["context"]["trace_id"] == f"0x{fresh}"]
    assert [link["context"]["trace_id"] for link in tie["links"]] == [trace_of(hub, sent)]


def test_a_dead_letters_trace_ends_in_its_reason(hub: Hub, observation: Make) -> None:
    source = hub.source()
    trace = "9d3f65191f6c4a0d9e2b8c1a5e4f0b78"
    traced = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
    hub.send(source, [observation(source, "c", 1), observation(source, "c", 1, value=1, **traced)])

    def ended() -> bool:
        mine = trace_of(hub, trace)
        return any(
            span["context"]["trace_id"] == mine and span["status"].get("description") == "conflict"
            for span in spans(hub)
        )

    hub.wait_for(ended)


def test_metrics_on_each_service(hub: Hub, observation: Make) -> None:
    source = hub.source()
    hub.send(source, [observation(source, "m", 1)])
    for name, service in hub.platform.services.items():
        text = httpx.get(f"{service.url}/metrics", timeout=10).text
        assert "estuaire_" in text, name
        assert httpx.get(f"{service.url}/healthz", timeout=10).status_code == httpx.codes.OK
    linkage = httpx.get(f"{hub.platform.services['linkage'].url}/metrics", timeout=10).text
    assert f'estuaire_records_total{{source="{source}",step="linkage",verdict="linked"}}' in linkage
