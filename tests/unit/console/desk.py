"""A console with a fake access behind it, and a fake issuer."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
from fastapi.testclient import TestClient
from joserfc import jwt
from joserfc.jwk import ECKey

from contracts.merkle import leaf_hash
from runtime.oidc import Issuer
from services.console import reject_routes
from services.console.adapters import Links, Refusal
from services.console.routes import application
from services.console.sessions import Sessions
from services.console.settings import ConsoleSettings
from services.console.sign_in import Provider, Tokens, tokens_of
from services.console.visits import Desk

ROLES = ("auditor", "officer", "operator", "reviewer", "steward", "subscriber")
URL, ISSUER, CLIENT = "http://127.0.0.1:8080", "https://id.example/realms/hub", "console"


class FakeHub:
    """Answers what it was told to, and remembers what it was asked: method, path, whether with a token, and body.

    A path of another service than access begins with its name: `linkage/v1/reviews`.
    """

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], Any] = {
            ("GET", "/v1/projects"): {"projects": [PROJECT]},
            ("GET", "/v1/projects/hearts"): PROJECT | {"steps": STEPS, "outputs": OUTPUTS},
            ("GET", "/v1/calls"): {"calls": [CALL]},
            ("GET", "/v1/permits"): {"permits": [PERMIT]},
            ("GET", "/v1/catalogue"): CATALOGUE,
            ("GET", f"linkage/v1/records/{EVENT_ID}"): LINKED,
            ("GET", f"/v1/records/{EVENT_ID}"): STORED,
            ("GET", "statistics/v1/sources"): {"sources": SOURCES},
            ("GET", "statistics/v1/flow"): FLOW,
            ("GET", "statistics/v1/flow/sources"): {"sources": SOURCES},
            ("GET", "statistics/v1/alarms"): {"alarms": ALARMS},
            ("GET", "statistics/v1/sources/quality?source=urn%3Achu"): QUALITY,
            ("GET", "linkage/v1/linkage?source=urn%3Achu"): {"rate": 0.913},
            ("GET", "/v1/catalogue?q="): CATALOGUE,
            ("GET", "/v1/requests"): {"requests": [REQUEST]},
            ("GET", "/v1/requests?all=true"): {"requests": [REQUEST]},
            ("GET", f"/v1/requests/{REQUEST['id']}"): REQUEST | {"report": REPORT},
            ("GET", "/v1/oppositions"): {"in_force": 3, "by_what": [{"withholds": "*", "oppositions": 3}]},
            **{("GET", f"linkage/v1/reviews?which=all&limit={most}"): {"reviews": [PAIR]} for most in (5, 20)},
            ("GET", "linkage/v1/reviews/progress"): PROGRESS,
            ("GET", "audit/v1/state"): STATE,
            ("GET", "audit/v1/entries?order=newest&limit=50"): {"entries": [ENTRY], "next_start": 6},
            ("GET", "audit/v1/entries?start=0&limit=1"): {"entries": [ENTRY], "next_start": 1},
            ("GET", "audit/v1/entries?start=0&limit=5000"): {"entries": [ENTRY], "next_start": None},
            ("GET", "audit/v1/proofs/inclusion?number=0&size=1"): {"size": 1, "hashes": []},
            ("GET", f"linkage/v1/reviews/{PAIR['id']}"): PAIR,
            ("GET", f'traces/ingest?{{"event_id": "{EVENT_ID}"}}'): {"data": [TRACE]},
            ("GET", f'traces/access?{{"linked_trace": "{TRACE["traceID"]}"}}'): {"data": [{"traceID": "8f" * 16}]},
        }
        for step in reject_routes.STEPS:
            at = "" if step == "access" else step
            for query in ("limit=1", f"event_id={EVENT_ID}", OF_CONFLICTS):
                letters = LETTERS if step == "linkage" else NO_LETTERS
                self.answers["GET", f"{at}/v1/dead-letters?{query}"] = letters
        self.asked: list[tuple[str, str, Any]] = []
        self.tokens: list[str | None] = []

    def ready(self, service: str) -> str | None:
        answer = self.answers.get(("GET", f"{service}/readyz"))
        if isinstance(answer, Refusal):
            raise answer
        return answer if answer is None else str(answer)

    def ask(self, service: str, method: str, path: str, token: str | None = None, body: Any = None) -> Any:
        path = path if service == "access" else service + path
        self.asked.append((method, path, body))
        self.tokens.append(token)
        path = "statistics/v1/flow" if path.startswith("statistics/v1/flow?") else path
        if path.startswith("traces/"):
            asked = dict(parse_qsl(urlsplit(path).query))
            path = f"traces/{asked['service']}?{asked['tags']}" if asked else path.replace("/api/traces", "")
        if path.startswith("linkage/v1/reviews/progress?since="):
            path = "linkage/v1/reviews/progress"
        answer = self.answers.get((method, path), Refusal(404, "not found", "There is nothing here."))
        if isinstance(answer, Refusal):
            raise answer
        return answer


class FakeIssuer:
    """Signs tokens, and answers as an issuer does."""

    def __init__(self, folder: Path) -> None:
        self.key = ECKey.generate_key("P-256", {"use": "sig"}, auto_kid=True)
        keys = folder / "issuer.jwks"
        keys.write_text(json.dumps({"keys": [self.key.as_dict(private=False)]}))
        self.settings = ConsoleSettings(
            url=URL,
            access="http://127.0.0.1:8001",
            client_id=CLIENT,
            client_secret="the-secret",
            oidc_issuer=ISSUER,
            oidc_keys=keys.as_uri(),
        )
        self.issuer = Issuer(self.settings)
        self.asked: list[dict[str, str]] = []
        self.answer: httpx.Response | None = None

    def token(self, audience: str = "estuaire", lifetime: int = 300, **more: Any) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "aud": audience, "sub": "ada", "roles": ["officer"], "iat": now, "exp": now + lifetime}
        return jwt.encode({"alg": "ES256", "kid": self.key.kid}, claims | more, self.key)

    def tokens(self, **more: Any) -> Tokens:
        return tokens_of(self.issuer, self.token(**more))

    def provider(self) -> Provider:
        return Provider(self.settings, self.issuer, httpx.Client(transport=httpx.MockTransport(self._answered)))

    def _answered(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/openid-configuration"):
            pages = {name: f"{ISSUER}/{name}" for name in ("authorization", "token", "end_session")}
            found = {f"{name}_endpoint": page for name, page in pages.items()} | {"issuer": ISSUER}
            return httpx.Response(200, json=found)
        self.asked.append(dict(httpx.QueryParams(request.content.decode())))
        assert self.answer is not None
        return self.answer


class Console:
    """A browser at the console."""

    def __init__(self, folder: Path, *, issuer_page: bool = False, url: str = URL) -> None:
        self.hub = FakeHub()
        self.issuer = FakeIssuer(folder)
        provider = self.issuer.provider() if issuer_page else None
        self.sessions = Sessions(provider.renew if provider else None)
        self.desk = Desk(self.hub, self.sessions, self.issuer.issuer, Links(folder / "links"), url, provider)
        self.app = application(self.desk)
        self.http = TestClient(self.app, base_url=url, follow_redirects=False, raise_server_exceptions=False)

    def sign_in(self, *roles: str, **more: Any) -> str:
        """Sign in; the key that this session's forms have."""
        secret = self.sessions.begin(self.issuer.tokens(**({"roles": list(roles)} if roles else {}), **more))
        self.http.cookies.set(self.desk.cookie, secret)
        session = self.sessions.find(secret)
        assert session is not None
        return session.form_key


PERMIT = {
    "id": "hearts",
    "title": "Hearts",
    "state": "filling",
    "records": 1200,
    "patients": 31,
    "shards_to_fill": 2,
    "expires": "2035-12-31",
}
CALL = {
    "id": "call",
    "title": "A call",
    "themes": {"research": "Research"},
    "criteria": {"novelty": {"title": "Novelty", "weight": 2}},
    "opens": "2026-01-01",
    "closes": "2099-12-31",
    "places": 3,
    "reviewers": 2,
    "accompanied_months": 12,
}
PROJECT: dict[str, Any] = {
    "id": "hearts",
    "title": "Hearts <script>",
    "organisation": "CHU",
    "lead": "team-heart",
    "call": "call",
    "theme": "research",
    "selection": "chosen",
    "reviews": 2,
    "score": 3.5,
    "path": "standard",
    "standing": "requested",
    "next": "find-complete",
    "due": {"what": "completeness check", "day": "2026-01-05", "overdue": True},
    "permit": "hearts",
}
STEPS: list[dict[str, Any]] = [
    {"act": "apply", "actor": "team-heart", "at": "2026-01-02T10:00:00+00:00", "says": {"title": "Hearts"}},
    {
        "act": "request",
        "actor": "team-heart",
        "at": "2026-01-03T10:00:00+00:00",
        "says": {
            "path": "standard",
            "permit": {"id": "hearts", "sources": ["*"]},
            "protocol": {"title": "p.pdf", "date": "2026-01-01", "sha256": "ab" * 32},
        },
    },
]
CATALOGUE: dict[str, Any] = {
    "dcat:dataset": [
        {
            "@type": "dcat:Dataset",
            "dct:identifier": "urn:x:y",
            "dct:title": "A hospital",
            "dct:description": "Stays.",
            "dct:creator": {"foaf:name": "CHU"},
            "dcat:keyword": ["stay"],
            "healthdcatap:numberOfRecords": {"@value": "1200"},
            "healthdcatap:numberOfUniqueIndividuals": {"@value": "1000"},
            "dct:temporal": {"dcat:startDate": {"@value": "2020-01-01"}, "dcat:endDate": {"@value": "2024-12-31"}},
            "healthdcatap:hasVariables": {
                "csvw:table": [
                    {
                        "dct:title": "hospital-stay.v1",
                        "csvw:column": [
                            {"csvw:name": "entry", "csvw:datatype": "date", "dct:description": "entry: date"}
                        ],
                    }
                ]
            },
        }
    ],
    "dcat:resource": [],
}
SIDE: dict[str, Any] = {
    "subject_id": "1" * 32,
    "patient_id": "1" * 32,
    "source": "urn:one",
    "identity_status": "qualified",
    "identifiers": ["ins-nir", "ipp"],
    "traits": ["birth_date", "given_name", "family_name"],
    "records": 3,
    "event_ids": ["e" * 32],
}
PAIR: dict[str, Any] = {
    "id": f"{'1' * 32}-{'2' * 32}",
    "reason": "alike, but not enough to be sure",
    "method": "the likeness of names, birth, sex and residence",
    "weight": -1.5,
    "evidence": {"family_name": 1.0, "given_name": 0.5, "birth_date": 0.9, "sex": 0.0, "names_in_order": 0.0},
    "birth_date_parts": {"year": True, "month": False, "day": False},
    "numbers": {"ins-nir": "different"},
    "rule_version": "2026-1",
    "left": SIDE,
    "right": SIDE | {"subject_id": "2" * 32, "source": "urn:two", "identifiers": ["ins-nir"], "traits": []},
    "word": None,
    "former": [],
    "in_force": None,
    "mine": None,
    "others": 1,
    "as_seen": "a" * 32,
}
PROGRESS: dict[str, Any] = {
    "waiting": 12,
    "seconds": 2,
    "mine": 1,
    "done": 7,
    "four_eyes": True,
    "last": {"id": f"{'3' * 32}-{'4' * 32}", "decision": "apart", "said_at": "2026-03-01T10:00:00Z"},
}
LINE = (
    '{"number":0,"at":"2026-03-01T10:00:05.123Z","actor":"=officer:ada","action":"released","permit":"hearts",'
    '"count":3,"root":"80b5","about":"","origin":"0@57"}'
)
ENTRY = {"number": 0, "line": LINE, "hash": leaf_hash(LINE.encode()).hex()}
SIGNED = f"log.example\n1\n{b64encode(leaf_hash(LINE.encode())).decode()}\ntime 2026-03-01T10:00:10Z\n"
STATE: dict[str, Any] = {
    "entries": 2,
    "signed": 1,
    "note": f"{SIGNED}\n\u2014 log.example c2ln\n",
    "trouble": None,
    "distrusted": False,
}
LETTER = {"title": "letter.pdf", "date": "2026-03-02", "sha256": "cd" * 32}
REQUEST: dict[str, Any] = {
    "id": "5" * 32,
    "kind": "erasure",
    "source": "urn:one",
    "received": "2026-03-01",
    "standing": "open",
    "due": "2026-04-01",
    "overdue": True,
    "acts": [
        {
            "act": "extend",
            "by": "officer:ada",
            "at": "2026-03-02T10:00:00+00:00",
            "says": {"reason": "Many records.", "document": LETTER},
            "records": 0,
        }
    ],
}
REPORT: dict[str, Any] = {
    "identities": 2,
    "records": [{"source": "urn:one", "type": "claim.v1", "records": 4, "first": "2026-01-01", "last": None}],
    "demographics": ["sex"],
    "objects_to": ["*"],
    "views": [
        {
            "permit": "hearts",
            "title": "Hearts",
            "subscribers": ["team-heart"],
            "environment": None,
            "state": "open",
            "records": 4,
            "messages": 5,
            "expires": "2035-12-31",
        }
    ],
    "as_seen": "b" * 32,
}
RELEASED: dict[str, Any] = {
    "whole": False,
    "potential_identifiers": ["day of care"],
    "released": {
        "looked_at": 2000,
        "people": 90,
        "records": 240,
        "types": {"claim.v1": {"records": 240, "people": 90, "fields": {}}},
        "cells": {"cells": 8, "smallest": 9, "small": 4, "people_in_small": 38},
        "uniqueness": {"demographics": 0.0, "one_event": 0.1, "timeline": 0.8},
        "joins": {"other": {"people_in_both": 90, "joined": 74}},
    },
}
OUTPUTS: list[dict[str, Any]] = [
    {"sha256": "cd" * 32, "title": "stays.csv", "kind": "table", "decision": "leaves"},
    {"sha256": "ef" * 32, "title": "model.onnx", "kind": "model", "decision": None},
]

EVENT_ID = "0123456789abcdef" * 2
OF_CONFLICTS = "topic=records-pseudonymised-dlq&reason=conflict&source=urn%3Achu"
LINKED: dict[str, Any] = {
    "event_id": EVENT_ID,
    "revision": "0000000000-1790000000000-000000000007",
    "patient_id": "12" * 16,
    "linked_at": "2026-09-21T14:13:21.500+00:00",
    "link": {
        "method": "the same NIR (INS)",
        "stewarded": False,
        "decided_at": "2026-09-20T08:00:00+00:00",
        "rule_version": "1",
        "weight": None,
        "evidence": {"birth_date": 0.9, "given_name": 1.0},
        "birth_date_parts": {"year": True, "month": True, "day": False},
        "numbers": {"ins-nir": "same", "ipp": "none-in-common", "strict": "different"},
    },
    "states": [
        {
            "revision": "0000000000-1790000000000-000000000007",
            "type": "claim.v1",
            "retracted": False,
            "correction": True,
            "linked_at": "2026-09-21T14:13:21.500+00:00",
            "coordinates": {"topic": "records-pseudonymised", "partition": 1, "offset": 7},
        }
    ],
}
STORED: dict[str, Any] = {
    "stored_at": "2026-09-21T14:13:22.250+00:00",
    "type": "claim.v1",
    "revision": "0000000000-1790000000000-000000000007",
    "retracted": False,
    "withheld": ["*"],
    "views": {"hearts": "2026-11-30T10:00:00.500+00:00", "older": None},
}
TRACE: dict[str, Any] = {
    "traceID": "7e" * 16,
    "processes": {"p1": {"serviceName": "linkage"}, "p2": {"serviceName": "ingest"}},
    "spans": [
        {
            "operationName": "linkage dead letter",
            "startTime": 1790000000800000,
            "duration": 200000,
            "tags": [{"key": "reason", "type": "string", "value": "conflict"}],
            "processID": "p1",
        },
        {
            "operationName": "ingest record",
            "startTime": 1790000000000000,
            "duration": 400,
            "tags": [{"key": "event_id", "type": "string", "value": EVENT_ID}],
            "processID": "p2",
        },
    ],
}
NO_LETTERS: dict[str, Any] = {"topics": [], "waiting": 0, "groups": [], "letters": []}
LETTERS: dict[str, Any] = {
    "topics": ["records-pseudonymised-dlq"],
    "waiting": 2,
    "groups": [
        {
            "topic": "records-pseudonymised-dlq",
            "reason": "conflict",
            "source": "urn:chu",
            "count": 2,
            "first": "2026-09-21T14:13:23+00:00",
            "last": "2026-09-21T14:13:24+00:00",
        }
    ],
    "letters": [
        {
            "topic": "records-pseudonymised-dlq",
            "partition": 0,
            "offset": 3,
            "at": "2026-09-21T14:13:24+00:00",
            "reason": "conflict",
            "detail": "the same id with other content",
            "source": "urn:chu",
            "type": "claim.v1",
            "event_id": EVENT_ID,
            "trace": "7e" * 16,
        }
    ],
}
SOURCES: list[dict[str, Any]] = [
    {
        "source": "urn:chu",
        "title": "CHU de Rennes",
        "contact": "dsi@chu.example",
        "formats": ["fhir"],
        "registered": True,
        "last_seen": "2026-09-21T14:13:24+00:00",
        "status": "active",
        "accepted": 1234,
        "refused": 5,
        "reasons": {"bad-date": 4, "impossible-date": 1},
        "per_day": 176.3,
        "expected_share": 0.98,
    },
    {
        "source": "urn:quiet",
        "title": "",
        "contact": "",
        "formats": [],
        "registered": False,
        "last_seen": None,
        "status": "never seen",
        "accepted": 0,
        "refused": 0,
        "reasons": {},
        "per_day": 0.0,
        "expected_share": None,
    },
]
ALARMS: list[dict[str, Any]] = [
    {
        "source": "urn:quiet",
        "kind": "silence",
        "since": "2026-09-21T10:00:00+00:00",
        "expected": 40.0,
        "seen": 0,
        "title": "",
    }
]
QUALITY: dict[str, Any] = {
    "source": "urn:chu",
    "title": "CHU de Rennes",
    "registered": True,
    "from": "2026-08-23",
    "to": "2026-09-21",
    "accepted": 10,
    "refused": 5,
    "duplicates": 1,
    "corrections": 0,
    "conflicts": 2,
    "reasons": [
        {"name": "bad-date", "records": 4, "share": 0.267},
        {"name": "impossible-date", "records": 1, "share": 0.067},
    ],
    "wrong": [{"name": "identity.birth_date", "records": 4, "share": 0.8}],
    "dead_letters": [{"step": "linkage", "reason": "conflict", "records": 2}],
    "lateness": [{"name": "hour", "records": 9, "share": 0.9}],
    "identity": [{"name": "birth_date", "records": 10, "share": 1.0}],
    "identifiers": [{"name": "ins-nir", "records": 10, "share": 1.0}],
    "flags": [],
    "unlinkable": {"name": "unlinkable", "records": 0, "share": 0.0},
    "days": [{"day": "2026-09-21", "accepted": 10, "refused": 5}],
    "types": [
        {
            "type": "claim.v1",
            "records": 10,
            "fields": [{"name": "amount", "records": 9, "share": 0.9, "invalid": 1, "invalid_share": 0.1}],
        }
    ],
}

FLOW: dict[str, Any] = {"window_seconds": 10, "counted_until": None, "windows": []}
"""Of a hub where nothing flows."""
