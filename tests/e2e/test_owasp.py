"""The OWASP API Security Top 10 (2023), by name: of each what is allowed, and what is refused."""

from __future__ import annotations

import base64
import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from estuaire.keyring import AUDIENCE, ISSUER
from tests.hub import Hub

pytestmark = pytest.mark.e2e

Make = Callable[..., dict[str, Any]]
PAPER = {"title": "p", "date": "2026-01-01", "sha256": "0" * 64}


class Caller:
    """Asks a service as somebody in a role."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    def __call__(
        self, who: str, method: str, path: str, service: str = "access", token: str | None = None, **more: Any
    ) -> httpx.Response:
        """`who` is `<name>` or `<name>/<role>`; a token stands for itself."""
        name, _, role = who.partition("/")
        held = self.hub.platform.keyring.token(name, role or "subscriber") if token is None else token
        headers = {**more.pop("headers", {}), **({"Authorization": f"Bearer {held}"} if held else {})}
        url = f"{self.hub.platform.services[service].url}{path}"
        return httpx.request(method, url, headers=headers, timeout=60, **more)

    def send(self, source: str, body: bytes, kind: str = "application/x-ndjson", **headers: str) -> httpx.Response:
        """Send to ingest as a producer."""
        token = self.hub.platform.keyring.producer_token(source)
        all_headers = {"Content-Type": kind, **headers}
        return self(source, "POST", "/v1/events", "ingest", token, content=body, headers=all_headers)


@pytest.fixture
def ask(hub: Hub) -> Caller:
    return Caller(hub)


def test_api1_broken_object_level_authorization(hub: Hub, ask: Caller, observation: Make) -> None:
    source = hub.source()
    mine, theirs = hub.permit(source), hub.permit(source)
    hub.send(source, [observation(source, "o1", 1)])
    team = mine.subscribers[0]
    assert len(ask(team, "GET", f"/v1/permits/{mine.id}/timelines").text.splitlines()) == 1
    none = ask(team, "GET", "/v1/permits/no-such-permit/timelines")
    refused = [
        ask(team, "GET", f"/v1/permits/{theirs.id}/timelines"),
        ask(team, "GET", f"/v1/permits/{theirs.id}/timelines", headers={"Accept": "application/vnd.apache.parquet"}),
        ask(team, "GET", f"/v1/permits/{theirs.id}/timelines?cursor=MQ"),
    ]
    assert [(one.status_code, one.text) for one in refused] == [(404, none.text)] * 3
    assert theirs.id not in ask(team, "GET", "/v1/permits").text


def test_api2_broken_authentication(hub: Hub, ask: Caller) -> None:
    good = hub.platform.keyring.token("somebody", "operator")
    assert ask("", "GET", "/v1/counts", token=good).status_code == 200
    head, claims, signature = good.split(".")
    stranger = ECKey.generate_key("P-256", auto_kid=True)
    now = int(time.time())
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "roles": ["operator"], "iat": now, "exp": now + 600}
    own = hub.platform.keyring._signing_key()
    unsigned = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).decode().rstrip("=")
    wrong = [
        "",
        f"{unsigned}.{claims}.",
        f"{head}.{claims}.{signature[:-6]}AAAAAA",
        jwt.encode({"alg": "ES256", "kid": stranger.kid}, said, stranger),
        jwt.encode({"alg": "ES256", "kid": own.kid}, {**said, "iat": now - 900, "exp": now - 600}, own),
        jwt.encode({"alg": "ES256", "kid": own.kid}, {**said, "aud": "another"}, own),
    ]
    for service, path in (
        ("access", "/v1/counts"),
        ("linkage", "/v1/counts"),
        ("statistics", "/v1/sources"),
        ("audit", "/v1/entries"),
    ):
        answers = [ask("", "GET", path, service, token=one) for one in wrong]
        assert [(one.status_code, one.text) for one in answers] == [(401, answers[0].text)] * len(wrong), service
        assert {one.headers["WWW-Authenticate"] for one in answers} == {"Bearer"}


def test_api3_broken_object_property_level_authorization(hub: Hub, ask: Caller, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source, fields={"observation.v1": ["status"]}, demographics=[])
    hub.send(source, [observation(source, "o1", 1)])
    (line,) = hub.timelines(permit)
    assert line["data"] == {"record": {"status": "final"}} or set(line["data"].get("record", line["data"])) == {
        "status"
    }
    body = permit.model_dump(mode="json", by_alias=True, exclude_none=True) | {"id": "mass-assigned"}
    refused = [
        ask("o/officer", "POST", "/v1/permits/mass-assigned/grant", json={**body, "state": "open"}),
        ask("o/officer", "POST", "/v1/permits/mass-assigned/grant", json={**body, "granted": "2020-01-01"}),
        ask("lead", "POST", "/v1/projects", json={"id": "mass-assigned", "standing": "open", "lead": "somebody"}),
    ]
    assert [one.status_code for one in refused] == [422] * 3
    event = observation(source, "o2", 1)
    event["data"]["identity"]["patient_id"] = "another's"
    assert ask.send(source, json.dumps(event).encode()).status_code == 422


def test_api4_unrestricted_resource_consumption(hub: Hub, ask: Caller, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    one = json.dumps(observation(source, "o1", 1)).encode()
    assert ask.send(source, one).status_code == 202
    bomb = gzip.compress(b"[" + b" " * 300_000_000)
    refused = [
        ask.send(source, bomb, **{"Content-Encoding": "gzip"}).status_code,
        ask.send(source, b'{"data":' * 100_000).status_code,
        ask(permit.subscribers[0], "GET", f"/v1/permits/{permit.id}/timelines?limit=1000000000").status_code,
        ask("o/officer", "POST", "/v1/permits/dry-run?people=1000000000", json={}).status_code,
    ]
    assert refused == [413, 422, 422, 422]
    assert ask.send(source, one).status_code == 202


def test_api5_broken_function_level_authorization(hub: Hub, ask: Caller) -> None:
    permit = hub.permit(hub.source())
    assert ask("o/officer", "GET", "/v1/permits").status_code == 200
    body = permit.model_dump(mode="json", by_alias=True, exclude_none=True)
    refused = [
        ask("team/subscriber", "POST", f"/v1/permits/{permit.id}/grant", json=body),
        ask("op/operator", "POST", f"/v1/permits/{permit.id}/close"),
        ask("r/reviewer", "GET", "/v1/counts"),
        ask("team/subscriber", "GET", f"/v1/records/{'0' * 32}"),
        ask("o/officer", "GET", f"/v1/permits/{permit.id}/timelines"),
        ask("team/subscriber", "GET", "/v1/reviews", "linkage"),
        ask("op/operator", "POST", f"/v1/reviews/{'0' * 32}-{'1' * 32}", "linkage", json={"decision": "together"}),
        ask("st/steward", "POST", "/v1/rules", "linkage", json={"name": "x"}),
        ask("st/steward", "GET", "/v1/sources", "statistics"),
    ]
    assert [one.status_code for one in refused] == [403] * len(refused)


def test_api6_unrestricted_access_to_sensitive_business_flows(hub: Hub, ask: Caller) -> None:
    name = "sensitive-flow"
    application = {
        "id": name,
        "title": "A flow",
        "summary": "Tests.",
        "organisation": {"name": "CHU", "kind": "health-establishment"},
        "purposes": ["research"],
        "public_interest": "None.",
    }
    permit = {
        "id": name,
        "title": "A flow",
        "purpose": "Tests",
        "sources": [hub.source()],
        "types": ["claim.v1"],
        "environment": "A bubble",
        "expires": "2035-12-31",
        "subscribers": ["lead"],
    }
    request = {"path": "standard", "permit": permit, "protocol": PAPER}
    assert ask("lead", "POST", "/v1/projects", json=application).status_code == 201
    assert ask("lead", "POST", f"/v1/projects/{name}/request", json=request).status_code == 200
    refused = [
        ask("o/officer", "POST", f"/v1/projects/{name}/open", json={}),
        ask("o/officer", "POST", f"/v1/projects/{name}/authorise", json={"reference": "x", "document": PAPER}),
        ask("lead", "POST", f"/v1/projects/{name}/find-complete", json={}),
        ask("o/officer", "POST", f"/v1/permits/{name}/grant", json=permit),
        ask("lead", "POST", "/v1/projects", json={**application, "id": "x1", "purposes": ["insurance-risk"]}),
    ]
    assert [one.status_code for one in refused] == [409] * len(refused)


@pytest.fixture
def trap() -> Iterator[tuple[str, list[str]]]:
    """An address of ours, and what was asked for there."""
    hits: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", hits
    server.shutdown()


def test_api7_server_side_request_forgery(
    hub: Hub, ask: Caller, observation: Make, trap: tuple[str, list[str]]
) -> None:
    address, hits = trap
    source = hub.source()
    now = int(time.time())
    key = ECKey.generate_key("P-256", auto_kid=True)
    said = {"iss": address, "aud": AUDIENCE, "sub": "x", "roles": ["operator"], "iat": now, "exp": now + 600}
    refused = [
        jwt.encode({"alg": "ES256", "kid": "x", "jku": f"{address}/jku"}, said, key),
        jwt.encode({"alg": "ES256", "kid": "x", "x5u": f"{address}/x5u"}, said, key),
        jwt.encode({"alg": "ES256", "kid": f"{address}/kid"}, said, key),
    ]
    assert [ask("", "GET", "/v1/counts", token=one).status_code for one in refused] == [401] * 3
    event = observation(source, "o1", 1)
    event["data"]["record"]["subject"] = {"reference": f"{address}/Patient/1"}
    assert ask.send(source, json.dumps(event).encode()).status_code in (202, 422)
    event = observation(source, "o2", 1, dataschema=f"{address}/schema")
    assert ask.send(source, json.dumps(event).encode()).status_code in (202, 422)
    assert ask.send(source, json.dumps(observation(source, "o3", 1)).encode()).status_code == 202
    assert httpx.get(f"{address}/itself").status_code == 404
    assert hits == ["/itself"], "nothing is fetched because somebody named its address"


def test_api8_security_misconfiguration(hub: Hub, ask: Caller) -> None:
    for service in hub.platform.services:
        assert ask("", "GET", "/healthz", service, token="").status_code == 200
        elsewhere = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "GET"}
        refused = [
            ask("", "OPTIONS", "/readyz", service, token="", headers=elsewhere),
            ask("", "TRACE", "/readyz", service, token=""),
            ask("", "GET", "/no-such-path", service, token=""),
            ask("", "DELETE", "/healthz", service, token=""),
        ]
        assert {one.status_code for one in refused} <= {404, 405}, service
        for one in refused:
            assert "access-control-allow-origin" not in one.headers
            pages = service == "console" and "text/html; charset=utf-8"
            assert one.headers["content-type"] == (pages or "application/problem+json")
            assert "Traceback" not in one.text


def test_api9_improper_inventory_management(hub: Hub, ask: Caller) -> None:
    without = {"console", "statistics.flow"}
    for service in without:
        assert ask("", "GET", "/openapi.json", service, token="").status_code == 404, "it has no interface"
    for service in hub.platform.services.keys() - without:
        paths = ask("", "GET", "/openapi.json", service, token="").json()["paths"]
        assert all(path.startswith("/v1/") for path in paths), service
        old = [path.replace("/v1/", f"/{version}/") for path in paths for version in ("v0", "v2", "beta")]
        asked = [
            ask("", "GET", path.partition("{")[0], service, token="") for path in [*old, "/debug", "/admin", "/env"]
        ]
        assert {one.status_code for one in asked} == {404}, service


def test_api10_unsafe_consumption_of_apis(hub: Hub, ask: Caller, observation: Make) -> None:
    """What producers and their own servers send is not trusted: it has a form, or it goes no further."""
    source = hub.source()
    permit = hub.permit(source)
    planted = observation(source, "o1", 1)
    planted["data"]["record"]["code"]["coding"][0]["display"] = "KERGUELEN-DE-TREMAREC"
    planted["data"]["record"]["note"] = [{"text": "<script>alert('KERGUELEN-DE-TREMAREC')</script>"}]
    planted["data"]["record"]["code"]["coding"].append({"system": "urn:KERGUELEN", "code": "KERGUELEN-DE-TREMAREC"})
    hub.send(source, [planted])
    (line,) = hub.timelines(permit)
    assert "8867-4" in json.dumps(line)
    assert "KERGUELEN" not in json.dumps(line)
    refused = [
        observation("urn:estuaire:producer:somebody-else", "o2", 1),
        observation(source, "o3", 1, time="yesterday"),
        observation(source, "o4", 1, type="malware.v1"),
    ]
    assert [ask.send(source, json.dumps(one).encode()).status_code for one in refused] == [422] * 3
