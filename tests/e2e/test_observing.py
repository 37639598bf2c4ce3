"""A platform that is looked at: a real trace store and a real Prometheus, every panel, alerts, and nobody in them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
import yaml
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanContext
from playwright.sync_api import Browser

from estuaire import demo
from estuaire.observe import INFRA, RULES, Observers, built_jaeger
from estuaire.platform import Platform
from estuaire.rights import RightsKeeper
from estuaire.sample import sample
from tests.alarms import CAUSES, Alarms, scaled
from tests.browser import PHONE
from tests.contract.test_alerts import alerts
from tests.e2e.conftest import sign_in
from tests.hub import Hub, free_base_port, meanwhile
from tests.search import Search

pytestmark = [pytest.mark.e2e, pytest.mark.long]

Make = Callable[..., dict[str, Any]]
Span = dict[str, Any]
Traces = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A platform with what can be had here of both, through which the sample has gone and into which records flow."""
    home = tmp_path_factory.mktemp("observed")
    patch = pytest.MonkeyPatch()
    patch.setattr(RightsKeeper, "CHECK_SECONDS", 2)
    build = shutil.which("jaeger") is None and not built_jaeger().exists()
    platform = Platform(home, free_base_port(), report=lambda _line: None, trace_ratio=0.02, observe=True)
    if build and platform.observers:
        platform.observers.start_traces = lambda: None  # type: ignore[method-assign]  # it would take minutes
    with platform:
        demo.run(platform, None)
        yield Hub(platform)
    patch.undo()


@pytest.fixture
def traces(observed: Hub) -> Traces:
    """Asks the trace store by Jaeger's query API."""
    url = observed.platform.observers and observed.platform.observers.traces_url
    if not url:
        pytest.skip("NO TRACE STORE HERE, no trace is tried in one: `make traces` builds Jaeger, with Go 1.26+")

    def ask(path: str, **params: Any) -> list[dict[str, Any]]:
        answer = httpx.get(f"{url}/api/{path}", params=params, timeout=30)
        found: list[dict[str, Any]] = answer.json()["data"] or []
        return found

    return ask


@pytest.fixture
def prometheus(observed: Hub) -> str:
    """Where Prometheus listens, with the platform's own rules."""
    url = observed.platform.observers and observed.platform.observers.prometheus_url
    if not url:
        pytest.skip("NO PROMETHEUS HERE, no panel and no alert is tried on one: apt install prometheus")
    return url


@pytest.fixture
def flow(observed: Hub, observation: Make) -> Iterator[None]:
    """Records come in all the while, a few of them refused, a few contradicting others."""
    hub, source = observed, observed.source()
    hub.permit(source)
    client = hub.producer(source)  # here, for two threads may not make tokens at once

    def send(stop: Event) -> None:
        with client as producer:
            for number in range(10_000):
                events = [observation(source, f"f{number}-{at}", at) for at in range(20)]
                events.append(observation(source, "the same", 1, value=number))
                events.append(observation(source, f"b{number}", 1) | {"type": "no-such-type.v1"})
                list(producer.send(iter(events), len(events)))
                if stop.wait(0.3):
                    return

    with meanwhile(send):
        yield


# --- traces ---


def service(trace: dict[str, Any], span: Span) -> str:
    return str(trace["processes"][span["processID"]]["serviceName"])


def tags(span: Span) -> dict[str, Any]:
    return {one["key"]: one["value"] for one in span["tags"]}


def edges(trace: dict[str, Any]) -> set[tuple[str, str]]:
    """Which service's span is the parent of which's."""
    by_id = {span["spanID"]: span for span in trace["spans"]}
    return {
        (service(trace, by_id[it["spanID"]]), service(trace, span))
        for span in trace["spans"]
        for it in span["references"]
        if it["refType"] == "CHILD_OF" and it["spanID"] in by_id
    }


def linked(traces: Traces, asked: str) -> list[dict[str, Any]]:
    """The hub's traces of what a producer asked to be followed under this trace of its own."""
    return traces("traces", service="ingest", tags=json.dumps({"linked_trace": asked}), lookback="1h", limit=10)


def spans_of(traces: Traces, trace: str) -> set[str]:
    """What the spans of a trace are called."""
    return {one["operationName"] for it in traces(f"traces/{trace}") for one in it["spans"]}


@contextmanager
def sending(name: str, hub: Hub) -> Iterator[SpanContext]:
    """A span of a producer that has traces of its own, and sends them to the same store."""
    assert hub.platform.observers
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    exporter = OTLPSpanExporter(f"{hub.platform.observers.otlp_url}/v1/traces")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer(name).start_as_current_span("send") as span:
        yield span.get_span_context()
    provider.shutdown()


def test_a_records_trace_goes_from_its_producer_to_access_and_is_tied_to_the_views(
    observed: Hub, traces: Traces, observation: Make
) -> None:
    hub, source = observed, observed.source()
    permit = hub.permit(source)
    with sending("hospital", observed) as span:
        asked = f"{span.trace_id:032x}"
        hub.send(source, [observation(source, "traced", 1, traceparent=f"00-{asked}-{span.span_id:016x}-01")])
    wanted = {("ingest", "pseudonym"), ("pseudonym", "linkage"), ("linkage", "access")}

    def mine() -> list[dict[str, Any]]:
        return linked(traces, asked)

    hub.wait_for(lambda: bool(mine()) and wanted <= edges(mine()[0]))
    (trace,) = mine()
    (first,) = [one for one in trace["spans"] if one["operationName"] == "ingest record"]
    assert asked in {it["traceID"] for it in first["references"]}, "the producer's trace is linked to the hub's"
    hub.wait_for(lambda: any(edges(one) for one in traces(f"traces/{asked}")))
    assert edges(traces(f"traces/{asked}")[0]) == {("hospital", "ingest")}

    (message,) = hub.messages(f"view-{permit.id}")
    _, fresh, _, flags = message.header("traceparent").split("-")
    assert flags == "00"
    assert fresh not in (asked, trace["traceID"])
    hub.wait_for(lambda: bool(traces(f"traces/{fresh}")))
    (beyond,) = traces(f"traces/{fresh}")
    (tie,) = beyond["spans"]
    assert service(beyond, tie) == "access"
    assert {it["traceID"] for it in tie["references"]} == {trace["traceID"]} == {tags(tie)["linked_trace"]}


def test_a_records_page_shows_its_trace_beside_its_way(
    observed: Hub, browser: Browser, traces: Traces, observation: Make
) -> None:
    hub, source, asked = observed, observed.source(), os.urandom(16).hex()
    hub.permit(source)
    followed = observation(source, "followed", 1, traceparent=f"00-{asked}-b7ad6b7169203331-01")
    answer = hub.send(source, [followed, observation(source, "not", 1, value=2)])
    event_id, other = (one["event_id"] for one in answer.accepted)

    def edges_of(found: list[dict[str, Any]]) -> set[tuple[str, str]]:
        return edges(found[0]) if found else set()

    of_record = json.dumps({"event_id": event_id})
    hub.wait_for(lambda: ("linkage", "access") in edges_of(traces("traces", service="ingest", tags=of_record, limit=5)))
    operator = sign_in(browser, hub, "operator", "operator")
    operator.go(f"/records?event_id={event_id}")
    for step in ("Ingest", "Pseudonym", "Linkage", "Access"):
        rows = operator.page.locator("table th", has_text=f"{step}the record")
        assert rows.count() == 1, (step, operator.page.locator("table").all_inner_texts())
    hub.wait_for(lambda: "traces of their own" in operator.go(f"/records?event_id={event_id}").content())
    operator.is_accessible()
    operator.picture("trace")
    operator.go(f"/records?event_id={other}")
    operator.sees("The store has no trace of it.")
    operator.is_accessible()
    hub.send(source, [observation(source, "not", 1, value=3)])
    hub.wait_for(lambda: "dead letter: Conflict" in operator.go(f"/records?event_id={other}").content())
    operator.leave()
    phone = sign_in(browser, hub, "operator", "operator", language="fr-FR", scheme="dark", size=PHONE)
    phone.go(f"/records?event_id={event_id}")
    phone.sees("Sa trace")
    phone.is_accessible()
    phone.leave()


def test_each_step_tells_its_batches_with_links_to_the_traces_that_they_carried(
    observed: Hub, traces: Traces, observation: Make
) -> None:
    hub, source = observed, observed.source()
    asked = "7d3f65191f6c4a0d9e2b8c1a5e4f0b7a"
    hub.send(source, [observation(source, "traced", 1, traceparent=f"00-{asked}-b7ad6b7169203331-01")])

    def mine() -> list[dict[str, Any]]:
        return linked(traces, asked)

    hub.wait_for(lambda: bool(mine()))
    trace = mine()[0]["traceID"]

    def carried(step: str) -> bool:
        found = traces("traces", service=step, operation=f"{step} batch", lookback="10m", limit=500)
        batches = [span for trace in found for span in trace["spans"] if span["operationName"] == f"{step} batch"]
        return any(it["traceID"] == trace for span in batches for it in span["references"])

    hub.wait_for(lambda: all(map(carried, ("pseudonym", "linkage", "access"))))


@pytest.mark.parametrize("followed", [True, False], ids=["followed", "not followed before"])
def test_a_dead_letters_trace_ends_in_its_reason(
    observed: Hub, traces: Traces, observation: Make, followed: bool
) -> None:
    hub, source = observed, observed.source()
    asked = f"7d3f65191f6c4a0d9e2b8c1a5e4f0b8{followed:d}"
    how = {"traceparent": f"00-{asked}-b7ad6b7169203331-0{followed:d}"}
    hub.send(source, [observation(source, "c", 1), observation(source, "c", 1, value=1, **how)])
    letters = [one for one in hub.messages("records-pseudonymised-dlq") if one.header("ce_source") == source]
    (letter,) = letters
    _, trace, span, flags = letter.header("traceparent").split("-")
    assert int(flags, 16) & 1, "sent round again, it is followed"

    def last() -> Span | None:
        found = [one for it in traces(f"traces/{trace}") for one in it["spans"] if one["spanID"] == span]
        return found[0] if found else None

    hub.wait_for(lambda: last() is not None)
    (ended,) = [it for it in (last(),) if it is not None]
    assert ended["operationName"] == "linkage dead letter"
    assert tags(ended)["reason"] == "conflict"
    assert tags(ended)["error"] is True

    if not followed:  # until what came after it has got there
        later = os.urandom(16).hex()
        hub.send(source, [observation(source, "later", 1, traceparent=f"00-{later}-b7ad6b7169203331-01")])
        hub.wait_for(lambda: any("pseudonym record" in spans_of(traces, it["traceID"]) for it in linked(traces, later)))
    hub.wait_for(lambda: ("pseudonym record" in spans_of(traces, trace)) is followed)


def test_a_collector_takes_the_example_as_its_configuration() -> None:
    program = shutil.which("jaeger") or built_jaeger()
    if not Path(program).exists():
        pytest.skip("NO JAEGER HERE, whose collector tries infra/otel/collector.yaml: `make traces` builds it")
    command = [str(program), "validate", "--config", str(INFRA / "otel" / "collector.yaml")]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


# --- dashboards ---


def panels() -> list[tuple[str, str, str]]:
    """(dashboard, panel, query) of every panel of every dashboard, and of what its variables are chosen from."""
    found = []
    for path in sorted((INFRA / "grafana" / "dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        found += [(path.stem, one["title"], it["expr"]) for one in board["panels"] for it in one["targets"]]
        for variable in board["templating"]["list"]:
            metric, label = variable["definition"].removeprefix("label_values(").removesuffix(")").split(", ")
            found.append((path.stem, variable["label"], f'{metric}{{{label}!=""}}'))
    return found


def substituted(query: str) -> str:
    """With what Grafana puts in place of its variables, for `all`."""
    for name, value in {"$__rate_interval": "1m", "$__range": "5m", "$source": ".*", "$permit": ".*"}.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


def answer(url: str, query: str) -> list[dict[str, Any]]:
    """Its samples that are numbers."""
    said = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=30).json()
    assert said["status"] == "success", said
    return [one for one in said["data"]["result"] if one["value"][1] != "NaN"]


def oppositions(hub: Hub) -> float:
    """How many came into force, as access tells it."""
    lines = httpx.get(f"{hub.platform.access_url}/metrics", timeout=30).text.splitlines()
    (line,) = [one for one in lines if one.startswith("estuaire_opposition_seconds_count")]
    return float(line.split()[-1])


def test_every_panel_of_every_dashboard_has_data_while_records_flow(
    observed: Hub, prometheus: str, flow: None, observation: Make
) -> None:
    hub, source = observed, observed.source()
    hub.register(source)
    hub.send(source, [observation(source, "o", 1)])
    before = oppositions(hub)
    with hub.producer(source) as producer:
        assert producer.oppose(
            {"id": "objection", "identity": observation(source, "o", 1)["data"]["identity"]}
        ).accepted
    hub.wait_for(lambda: oppositions(hub) > before)
    missing = panels()
    assert len(missing) > 30

    def none_is_missing() -> bool:
        missing[:] = [one for one in missing if not answer(prometheus, substituted(one[2]))]
        return not missing

    try:
        hub.wait_for(none_is_missing, 90)
    except AssertionError:
        pytest.fail(f"no data for {missing}")


def test_every_metric_that_panels_and_rules_name_is_one(prometheus: str) -> None:
    """Also where no sample is an answer (`or vector(0)`), or makes no alert."""
    told = httpx.get(f"{prometheus}/api/v1/metadata", timeout=30).json()["data"].keys()
    queries = [query for _, _, query in panels()]
    for path in RULES.glob("*.yaml"):
        queries += [rule["expr"] for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
    named = {name for query in queries for name in re.findall(r"(?<![:\w])estuaire_\w+", query)}
    assert len(named) > 30
    assert {name for name in named if not {name, re.sub("_(bucket|count|sum)$", "", name)} & told} == set()


def test_prometheus_holds_every_service_and_has_no_rule_that_fails(observed: Hub, prometheus: str) -> None:
    def up() -> set[str]:
        return {one["metric"]["service"] for one in answer(prometheus, 'up{job="estuaire"} == 1')}

    observed.wait_for(lambda: up() == observed.platform.metrics().keys())
    groups = httpx.get(f"{prometheus}/api/v1/rules", timeout=30).json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in rules} >= set(alerts())
    assert not [rule["name"] for rule in rules if rule["health"] == "err"]


# --- nobody ---


def test_nobody_is_in_what_prometheus_and_the_trace_store_hold(observed: Hub, prometheus: str, traces: Traces) -> None:
    search = Search(string for one in sample() for string in one.planted)
    series = httpx.get(f"{prometheus}/api/v1/series", params={"match[]": '{__name__=~".+"}'}, timeout=60).content
    held = [
        json.dumps(traces("traces", service=name, lookback="1h", limit=20_000)).encode()
        for name in ("ingest", "pseudonym", "linkage", "access", "audit")
    ]
    assert len(series) > 10_000
    assert len(b"".join(held)) > 100_000
    hits = [
        hit
        for place, data in [("series", series), *(("spans", one) for one in held)]
        for hit in search.bytes(place, data)
    ]
    hits += search.folder(observed.platform.home / "observe")
    hits += search.folder(observed.platform.home / "logs")
    assert not hits, {(hit.place, hit.form) for hit in hits}


def test_labels_are_bounded(prometheus: str) -> None:
    """Names of steps, sources, permits, reasons, routes: nothing that grows with records or people."""
    flow, acts = {"step", "source", "topic", "partition", "verdict", "reason", "cause"}, {"permit", "state", "action"}
    known = flow | acts | {"kind", "what", "route", "status", "answer"}
    ours = httpx.get(f"{prometheus}/api/v1/series", params={"match[]": '{__name__=~"estuaire_.+"}'}, timeout=60).json()
    labels = {label for series in ours["data"] for label in series}
    assert labels <= {*known, "__name__", "instance", "job", "service", "le"}
    assert len(ours["data"]) < 10_000


# --- alerts, live ---

SAMPLE = ("ServiceDown", "RejectsHigh")


def test_every_alert_is_made_here() -> None:
    assert {name.partition(":")[0] for name in CAUSES} == set(alerts())


@pytest.fixture(scope="module")
def alarm_prometheus(observed: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second Prometheus beside the same services, with the scaled rules."""
    if shutil.which("prometheus") is None:
        pytest.skip("NO PROMETHEUS HERE, no alert is fired on one: apt install prometheus")
    home = tmp_path_factory.mktemp("alarms")
    observers = Observers(home, lambda _line: None)
    observers.start_prometheus(observed.platform.metrics(), scaled(home / "rules"), "1s")
    assert observers.prometheus_url
    yield observers.prometheus_url
    observers.stop()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("of", CAUSES if os.environ.get("ESTUAIRE_ALERTS") else SAMPLE)
def test_an_alert_is_fired_by_its_cause_and_clears(
    observed: Hub, alarm_prometheus: str, observation: Make, of: str
) -> None:
    alarms, (name, *_) = Alarms(observed, observation, alarm_prometheus), of.split(":")
    alarms.clears(name)
    cause = CAUSES[of](alarms)
    next(cause)
    try:
        alarms.fires(name)
    finally:
        next(cause, None)
    alarms.clears(name)
