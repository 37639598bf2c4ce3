"""A platform that is looked at: a real trace store and a real Prometheus, every panel, alerts, and nobody in them."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml
from playwright.sync_api import Browser

from contracts import audit
from estuaire import demo
from estuaire.database import running_database
from estuaire.observe import INFRA, RULES, Observers, built_jaeger
from estuaire.platform import CHECKPOINTS, PORTS, Platform
from estuaire.sample import sample
from tests.browser import PHONE
from tests.contract.test_alerts import alerts
from tests.e2e.conftest import sign_in
from tests.hub import Hub, free_base_port
from tests.search import Search

pytestmark = pytest.mark.e2e

Make = Callable[..., dict[str, Any]]
Span = dict[str, Any]
Traces = Callable[..., list[dict[str, Any]]]

SMALLEST, SHORTER = 2, 60
"""Live, an hour of a rule is a minute; a window has at least so many seconds, for it needs two scrapes."""
AWAITED = 240.0


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A platform with what can be had here of both, through which the sample has gone and into which records flow."""
    home = tmp_path_factory.mktemp("observed")
    build = shutil.which("jaeger") is None and not built_jaeger().exists()
    platform = Platform(home, free_base_port(), report=lambda _line: None, trace_ratio=0.02, observe=True)
    if build and platform.observers:
        platform.observers.start_traces = lambda: None  # type: ignore[method-assign]  # it would take minutes
    with platform:
        demo.run(platform, None)
        yield Hub(platform)


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
    hub, source, stop = observed, observed.source(), threading.Event()
    hub.permit(source)
    client = hub.producer(source)  # here, for two threads may not make tokens at once

    def send() -> None:
        with client as producer:
            for number in range(10_000):
                events = [observation(source, f"f{number}-{at}", at) for at in range(20)]
                events.append(observation(source, "the same", 1, value=number))
                events.append(observation(source, f"b{number}", 1) | {"type": "no-such-type.v1"})
                list(producer.send(iter(events), len(events)))
                if stop.wait(0.3):
                    return

    sending = threading.Thread(target=send)
    sending.start()
    yield
    stop.set()
    sending.join(60)


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


def test_a_records_trace_goes_from_its_producer_to_access_and_is_tied_to_the_views(
    observed: Hub, traces: Traces, observation: Make
) -> None:
    hub, source = observed, observed.source()
    permit = hub.permit(source)
    asked = "7d3f65191f6c4a0d9e2b8c1a5e4f0b79"
    hub.send(source, [observation(source, "traced", 1, traceparent=f"00-{asked}-b7ad6b7169203331-01")])
    wanted = {("ingest", "pseudonym"), ("pseudonym", "linkage"), ("linkage", "access")}

    def mine() -> list[dict[str, Any]]:
        return linked(traces, asked)

    hub.wait_for(lambda: bool(mine()) and wanted <= edges(mine()[0]))
    (trace,) = mine()
    (first,) = [one for one in trace["spans"] if one["operationName"] == "ingest record"]
    assert asked in {it["traceID"] for it in first["references"]}, "the producer's trace is linked to the hub's"
    (call,) = traces(f"traces/{asked}")[0]["spans"]
    assert call["operationName"] == "ingest call"

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
    """(dashboard, panel, query) of every panel of every dashboard."""
    found = []
    for path in sorted((INFRA / "grafana" / "dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        found += [(path.stem, one["title"], it["expr"]) for one in board["panels"] for it in one["targets"]]
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


def test_prometheus_holds_every_service_and_has_no_rule_that_fails(observed: Hub, prometheus: str) -> None:
    def up() -> set[str]:
        return {one["metric"]["service"] for one in answer(prometheus, 'up{job="estuaire"} == 1')}

    observed.wait_for(lambda: up() == set(PORTS))
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


def scaled(folder: Path) -> Path:
    """The rules with an hour as a minute, in a folder of their own; of the thresholds, those that would take long."""
    folder.mkdir()
    seconds = {"s": 1, "m": 60, "h": 3600}

    def short(found: re.Match[str]) -> str:
        return f"{max(SMALLEST, int(found[1]) * seconds[found[2]] // SHORTER)}s"

    for path in RULES.glob("*.yaml"):
        document = yaml.safe_load(path.read_text())
        for group in document["groups"]:
            for rule in group["rules"]:
                windows = re.sub(r"(?<=\[)(\d+)([smh])(?=\])", short, rule["expr"])
                rule["expr"] = windows.replace("[2s]", "[4s]")
                if rule.get("for"):
                    rule["for"] = re.sub(r"^(\d+)([smh])$", short, rule["for"]) if rule["for"] != "0m" else "0s"
                for long, less in THRESHOLDS.get(rule.get("alert", ""), {}).items():
                    if long == "for":
                        rule["for"] = less
                        continue
                    assert long in rule["expr"], rule["expr"]
                    rule["expr"] = rule["expr"].replace(long, less)
        (folder / path.name).write_text(yaml.safe_dump(document))
    return folder


THRESHOLDS = {
    "RecordsLate": {"> 60": "> 4", "for": "0s"},
    "DeadLettersMany": {"> 100": "> 5"},
    "RejectsHigh": {"> 20": "> 2"},
    "OutputsWait": {"> 60": "> 6"},
    "CheckpointsOld": {"> 300": "> 15"},
    "ProducerResets": {"> 3": "> 0"},
    "FlowBehind": {"> 300": "> 20"},
    "LagGrows": {"> 10000": "> 500", "for": "0s"},
    "AuditBehind": {"> 1000": "> 200", "for": "0s"},
}
"""What is waited for less long or of which less is made, so that a run takes minutes."""


PROMTOOL_ALONE = {
    "AnswersFail": "needs a defect",
    "StatisticsBehind": "its reader keeps up, and one that hangs tells no lag",
}
"""What is not made here, and why; tests/prometheus/alerts.yaml has them all."""


class Alarms:
    """What fires on a Prometheus with the scaled rules, and the ways to make it."""

    def __init__(self, hub: Hub, observation: Make, url: str) -> None:
        self.hub = hub
        self.observation = observation
        self._url = url

    def firing(self) -> set[str]:
        data = httpx.get(f"{self._url}/api/v1/alerts", timeout=30).json()["data"]["alerts"]
        return {one["labels"]["alertname"] for one in data if one["state"] == "firing"}

    def fires(self, name: str) -> None:
        self.hub.wait_for(lambda: name in self.firing(), AWAITED)

    def clears(self, name: str) -> None:
        self.hub.wait_for(lambda: name not in self.firing(), AWAITED)

    def down(self) -> Iterator[None]:
        console = self.hub.platform.services["console"]
        console.stop()
        yield
        console.start()
        console.wait(time.monotonic() + 60)

    def rejects(self) -> Iterator[None]:
        source = self.hub.source()
        bad = self.observation(source, "bad", 1) | {"type": "no-such-type.v1"}
        stop, client = threading.Event(), self.hub.producer(source)

        def send() -> None:
            with client as producer:
                while not stop.wait(0.2):
                    list(producer.send(iter([bad, self.observation(source, "good", 1)]), 2))

        sending = threading.Thread(target=send)
        sending.start()
        yield
        stop.set()
        sending.join(30)

    def silent(self) -> Iterator[None]:
        source = self.hub.source()
        self.hub.send(source, [self.observation(source, "first", 1)])
        self.hub.register(source, "1m")
        yield
        self.hub.send(source, [self.observation(source, "second", 2)])

    def uncounted(self) -> Iterator[None]:
        yield from self.standing("statistics.flow")

    def standing(self, process: str = "linkage") -> Iterator[None]:
        """A process, linkage's unless another is named, stands still, while records come."""
        child = self.hub.platform.services[process].process
        assert child is not None
        source, stop = self.hub.source(), threading.Event()
        self.hub.send(source, [self.observation(source, "first", 1)])  # or its figures begin with what is late
        client = self.hub.producer(source)

        def send() -> None:
            with client as producer:
                for number in range(100_000):
                    list(producer.send(iter([self.observation(source, f"s{number}", 1)]), 1))
                    if stop.wait(0.2):
                        return

        sending = threading.Thread(target=send)
        sending.start()
        os.kill(child.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(child.pid, signal.SIGCONT)
            stop.set()
            sending.join(60)

    def late(self) -> Iterator[None]:
        """Records wait at linkage for a while, and are late in access when it goes on."""
        standing, begun = self.standing(), time.monotonic()
        next(standing)
        self.hub.wait_for(lambda: time.monotonic() > begun + 15)
        next(standing, None)
        yield

    def opposed_late(self) -> Iterator[None]:
        source = self.hub.source()
        self.hub.send(source, [self.observation(source, "o", 1)])
        child = self.hub.platform.services["linkage"].process
        assert child is not None
        os.kill(child.pid, signal.SIGSTOP)
        try:
            begun, client = time.monotonic(), self.hub.producer(source)

            def oppose() -> None:
                with client as producer:
                    known = self.observation(source, "o", 1)["data"]["identity"]
                    producer.oppose({"id": "objection", "identity": known})

            sending = threading.Thread(target=oppose)
            sending.start()
            self.hub.wait_for(lambda: time.monotonic() > begun + 7)
        finally:
            os.kill(child.pid, signal.SIGCONT)
        sending.join(60)
        yield

    def database_away(self) -> Iterator[None]:
        """Linkage's role may not connect, and what it has is cut."""
        with psycopg.connect(**self._admin(), autocommit=True) as admin:
            admin.execute("ALTER ROLE linkage NOLOGIN")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'linkage'")
            source = self.hub.source()
            with self.hub.producer(source) as producer:
                list(producer.send(iter([self.observation(source, "a", 1)]), 1))
            try:
                yield
            finally:
                admin.execute("ALTER ROLE linkage LOGIN")

    def wrong_key(self) -> Iterator[None]:
        """Pseudonym is started with another's private key, as a wrong deployment would."""
        service = self.hub.platform.services["pseudonym"]
        right = service.environment
        folder = self.hub.platform.home / "wrong-keys"
        shutil.copytree(right["ESTUAIRE_PSEUDONYM_KEYS"], folder)
        others = Path(self.hub.platform.services["linkage"].environment["ESTUAIRE_LINKAGE_KEYS"])
        for mine, wrong in zip(folder.glob("pseudonym-private*"), others.glob("linkage-private*"), strict=True):
            shutil.copy(wrong, mine)
        service.stop()
        service.environment = dict(right) | {"ESTUAIRE_PSEUDONYM_KEYS": str(folder)}
        service.start()
        service.wait(time.monotonic() + 60)
        source = self.hub.source()
        with self.hub.producer(source) as producer:
            dead = len(self.hub.messages("records-received-dlq"))
            few = [self.observation(source, f"k{number}", number) for number in range(40)]
            list(producer.send(iter(few), len(few)))
            self.hub.wait_for(lambda: len(self.hub.messages("records-received-dlq")) >= dead + 40)
            many = [self.observation(source, f"m{number}", number) for number in range(600)]
            list(producer.send(iter(many), len(many)))
        try:
            yield
        finally:
            service.stop()
            service.environment = right
            service.start()
            service.wait(time.monotonic() + 60)
            shutil.rmtree(folder)

    def unusual(self) -> Iterator[None]:
        """Ten times what is usual at this time of the day, until that has been usual."""
        source = self.hub.source()
        self.hub.remember(source, 120, 21)
        self.hub.send(source, [self.observation(source, f"u{at}", at % 300) for at in range(1_400)])
        yield
        self.hub.remember(source, 1_400, 21)

    def flooded(self) -> Iterator[None]:
        """More records than the steps keep up with."""
        source = self.hub.source()
        events = (self.observation(source, f"l{at}", at % 500) for at in range(20_000))
        client = self.hub.producer(source)

        def send() -> None:
            with client as producer:
                list(producer.send(events, 500))

        sending = threading.Thread(target=send)
        sending.start()
        yield
        sending.join(300)
        with self.hub.producer(source) as producer:
            assert producer.wait_for_views(source, 300)

    def many_acts(self) -> Iterator[None]:
        told = audit.leaf("record-traced", audit.actor("operator", "flood"), dt.datetime.now(dt.UTC), ids=("ab" * 16,))
        self._flood(itertools.repeat(audit.message(told), 40_000))
        yield

    def _flood(self, messages: Iterable[tuple[str, bytes, bytes]]) -> None:
        with self.hub.writing() as producer:
            for topic, key, value in messages:
                while True:
                    try:
                        producer.produce(topic, value, key)
                        break
                    except BufferError:
                        producer.poll(0.5)

    def conflicts(self) -> Iterator[None]:
        source = self.hub.source()
        self.hub.send(source, [self.observation(source, f"c{at}", at) for at in range(300)])
        self.hub.send(source, [self.observation(source, f"c{at}", at, value=1) for at in range(200)])
        yield

    def refusing(self) -> Iterator[None]:
        """A producer that has to wait sends on all the same."""
        source = self.hub.source()
        self.hub.send(source, [self.observation(source, f"c{at}", at) for at in range(300)])
        self.hub.send(source, [self.observation(source, f"c{at}", at, value=1) for at in range(200)])
        with self._posting(source, [self.observation(source, "again", 1)]):
            yield

    @contextmanager
    def _posting(self, source: str, events: list[dict[str, Any]]) -> Iterator[None]:
        """These are sent again and again, whatever the answer, and some are refused or given up meanwhile."""
        token = self.hub.platform.keyring.producer_token(source)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-ndjson"}
        stop = threading.Event()

        def send() -> None:
            while not stop.wait(0.1):
                lines = "\n".join(json.dumps(one | {"id": f"{one['id']}-{time.monotonic_ns()}"}) for one in events)
                with suppress(httpx.TransportError):
                    httpx.post(f"{self.hub.platform.ingest_url}/v1/events", content=lines, headers=headers, timeout=2)

        sending = threading.Thread(target=send)
        sending.start()
        try:
            yield
        finally:
            stop.set()
            sending.join(30)

    def no_second_place(self) -> Iterator[None]:
        place = self.hub.platform.home / CHECKPOINTS
        aside = place.with_name("aside")
        place.rename(aside)
        place.write_text("not a folder")
        source = self.hub.source()
        try:
            self.hub.permit(source)
            self.hub.send(source, [self.observation(source, "a", 1)])
            yield
        finally:
            place.unlink()
            aside.rename(place)

    def changed_log(self) -> Iterator[None]:
        """A bit of each node is turned over, and back."""
        source = self.hub.source()
        self.hub.permit(source)
        self.hub.send(source, [self.observation(source, "a", 1)])
        turn = "UPDATE nodes SET hash = set_byte(hash, 0, get_byte(hash, 0) # 1) WHERE index < 100000"
        with psycopg.connect(**self._admin("audit"), autocommit=True) as admin:
            admin.execute("SET session_replication_role = replica")
            admin.execute(turn)
            try:
                yield
            finally:
                admin.execute(turn)

    def broken_permit(self) -> Iterator[None]:
        source = self.hub.source()
        permit = self.hub.permit(source)
        turn = "UPDATE permits SET key = set_byte(key, 20, get_byte(key, 20) # 1) WHERE permit = %s"
        with psycopg.connect(**self._admin("access"), autocommit=True) as admin:
            admin.execute(turn, [permit.id])
            self.hub.send(source, [self.observation(source, "a", 1)])
            try:
                yield
            finally:
                admin.execute(turn, [permit.id])
                self.hub.send(source, [self.observation(source, "b", 1)])

    def filling(self) -> Iterator[None]:
        permit = self.hub.permit(self.hub.source())
        state = "UPDATE permits SET state = %s WHERE permit = %s"
        with psycopg.connect(**self._admin("access"), autocommit=True) as admin:
            admin.execute(state, ["filling", permit.id])
            try:
                yield
            finally:
                admin.execute(state, ["open", permit.id])

    def old_reviews(self) -> Iterator[None]:
        """A mother's number on her newborn waits for a steward, for eight days by its date."""
        source = self.hub.source()
        nir = {"system": "ins-nir", "value": "285053523800148"}
        shared = {"identifiers": [nir], "birth_family_name": "LE GOFF", "identity_status": "qualified"}
        people = (
            {"given_names": ["Anne"], "birth_date": "1985-05-12"},
            {"given_names": ["Lou"], "birth_date": "2026-01-02"},
        )
        events = [self.observation(source, f"r{at}", at) for at, _ in enumerate(people)]
        for event, person in zip(events, people, strict=True):
            event["data"]["identity"] = shared | {"sex": "female"} | person
        self.hub.send(source, events)
        older = "UPDATE edges SET decided_at = decided_at {} interval '8 days' WHERE outcome = 'review' OR guard <> ''"
        with psycopg.connect(**self._admin("linkage"), autocommit=True) as admin:
            assert admin.execute(older.format("-").encode()).rowcount
            try:
                yield
            finally:
                admin.execute(older.format("+").encode())

    def broker_away(self) -> Iterator[None]:
        """The broker's process stands still, again and again: once it is amid a step's transaction, and for longer than
        counts may wait."""
        broker = next(pid for pid in self._children() if b"kafka.Kafka" in Path(f"/proc/{pid}/cmdline").read_bytes())
        source = self.hub.source()
        good = [self.observation(source, f"g{at}", at) for at in range(50)]
        with self._posting(source, [*good, self.observation(source, "bad", 1) | {"type": "no-such-type.v1"}]):
            stop = threading.Event()

            def stand() -> None:
                while not stop.wait(5):
                    os.kill(broker, signal.SIGSTOP)
                    stop.wait(30)
                    os.kill(broker, signal.SIGCONT)

            standing = threading.Thread(target=stand)
            standing.start()
            try:
                yield
            finally:
                stop.set()
                standing.join(60)

    def _children(self) -> list[int]:
        mine = Path(f"/proc/{os.getpid()}/task").glob("*/children")
        return [int(pid) for one in mine for pid in one.read_text().split()]

    def _admin(self, name: str = "postgres") -> dict[str, Any]:
        return dict(running_database(self.hub.platform.home)._admin) | {"dbname": name}


CAUSES: dict[str, Callable[[Alarms], Iterator[None]]] = {
    "ServiceDown": Alarms.down,
    "RejectsHigh": Alarms.rejects,
    "StepWaits": Alarms.database_away,
    "ServiceNotReady": Alarms.database_away,
    "RecordsLate": Alarms.late,
    "OppositionsLate": Alarms.opposed_late,
    "StepStands": Alarms.standing,
    "ProducerSilent": Alarms.silent,
    "ProducerUnusual": Alarms.unusual,
    "LagGrows": Alarms.flooded,
    "AuditBehind": Alarms.many_acts,
    "FlowBehind": Alarms.uncounted,
    "DeadLettersOfOurs": Alarms.wrong_key,
    "PartitionStopped": Alarms.wrong_key,
    "DeadLettersMany": Alarms.conflicts,
    "ProducerThrottled": Alarms.conflicts,
    "IngestRefuses": Alarms.refusing,
    "CheckpointsOld": Alarms.no_second_place,
    "AuditLogChanged": Alarms.changed_log,
    "PermitsUnusable": Alarms.broken_permit,
    "PermitsFillLong": Alarms.filling,
    "ReviewsOld": Alarms.old_reviews,
    "OutputsWait": Alarms.broker_away,
    "ProducerResets": Alarms.broker_away,
}
"""By alert, what is done to the platform: begun, and ended once it fires."""
SAMPLE = ("ServiceDown", "RejectsHigh")


def test_every_alert_is_made_here_or_said_why_not() -> None:
    assert {*CAUSES, *PROMTOOL_ALONE} == set(alerts())
    assert not set(CAUSES) & set(PROMTOOL_ALONE)


@pytest.fixture(scope="module")
def alarm_prometheus(observed: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second Prometheus beside the same services, with the scaled rules."""
    if shutil.which("prometheus") is None:
        pytest.skip("NO PROMETHEUS HERE, no alert is fired on one: apt install prometheus")
    home = tmp_path_factory.mktemp("alarms")
    observers = Observers(home, lambda _line: None)
    services = {name: one.url for name, one in observed.platform.services.items()}
    observers.start_prometheus(services, scaled(home / "rules"), "1s")
    assert observers.prometheus_url
    yield observers.prometheus_url
    observers.stop()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", CAUSES if os.environ.get("ESTUAIRE_ALERTS") else SAMPLE)
def test_an_alert_is_fired_by_its_cause_and_clears(
    observed: Hub, alarm_prometheus: str, observation: Make, name: str
) -> None:
    alarms = Alarms(observed, observation, alarm_prometheus)
    alarms.clears(name)
    cause = CAUSES[name](alarms)
    next(cause)
    try:
        alarms.fires(name)
    finally:
        next(cause, None)
    alarms.clears(name)
