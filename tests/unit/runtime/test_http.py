"""Problem documents name what is wrong and never repeat what was sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from pydantic import BaseModel

from runtime.http import (
    PROBLEM,
    Authorization,
    Bearers,
    ProblemError,
    create_app,
    hash_token,
    problems,
    reference,
)

pytestmark = pytest.mark.unit

SECRET = "LE GOFF"


class Person(BaseModel):
    name: str
    age: int


def check_documents(app: FastAPI, statuses: dict[str, set[int]]) -> dict[str, Any]:
    """The OpenAPI document, once it is seen to tell a reader what each route is for, needs, and answers."""
    document = app.openapi()
    text = json.dumps(document)
    assert "HTTPValidationError" not in text
    defined = set(document["components"]["schemas"])
    assert {one.rpartition("/")[2] for one in _references(document)} <= defined
    assert {name for name, one in document["components"]["securitySchemes"].items() if one["scheme"] == "bearer"}
    found = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            name = f"{method.upper()} {path}"
            found[name] = {int(status) for status in operation["responses"]}
            assert operation["summary"] not in _default_summaries(app), name
            assert operation["description"], name
            assert operation["security"], name
            assert all(one.get("description") for one in operation.get("parameters", ())), name
            assert all(one["name"].lower() != "authorization" for one in operation.get("parameters", ())), name
            for status, answer in operation["responses"].items():
                kinds = set(answer["content"])
                assert (kinds == {PROBLEM}) is (int(status) >= 400), f"{name} {status}"
                assert all(one["schema"] for one in answer["content"].values()), f"{name} {status}"
                assert answer["description"] not in ("Successful Response", "Validation Error"), f"{name} {status}"
                assert status != "429" or "Retry-After" in answer["headers"], name
    assert found == statuses
    return document


def _references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from _references(one)


def _default_summaries(app: FastAPI) -> set[str]:
    return {route.name.replace("_", " ").title() for route in app.routes if isinstance(route, APIRoute)}


@pytest.fixture
def client() -> TestClient:
    reason: list[str | None] = [None]
    app = create_app("test", "test", lambda: reason[0])
    app.state.reason = reason

    @app.post("/people")
    def add(person: Person) -> str:
        return person.name

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError(SECRET)

    @app.get("/busy")
    def busy() -> None:
        raise ProblemError(429, "too many", "Come back later.", {"Retry-After": "5"})

    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/people", {"name": SECRET, "age": SECRET}, 422),
        ("POST", "/people", {SECRET: 1}, 422),
        ("GET", "/broken", None, 500),
        ("GET", "/busy", None, 429),
        ("GET", f"/{SECRET}", None, 404),
        ("PUT", "/people", None, 405),
    ],
)
def test_every_failure_is_a_problem_document(
    client: TestClient, method: str, path: str, body: dict[str, object] | None, status: int
) -> None:
    answer = client.request(method, path, json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    assert set(answer.json()) == {"type", "title", "status", "detail"}
    assert SECRET not in answer.text


def test_headers_of_a_problem_are_kept(client: TestClient) -> None:
    assert client.get("/busy").headers["retry-after"] == "5"


def test_health_readiness_and_metrics(client: TestClient) -> None:
    assert client.get("/healthz").text == "alive\n"
    assert client.get("/readyz").status_code == 200
    client.app.state.reason[0] = "waiting for partitions"  # type: ignore[attr-defined]
    answer = client.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "waiting for partitions\n")
    assert "estuaire_messages_read" in client.get("/metrics").text


def test_answers_are_counted_by_status_and_readiness_is_told(client: TestClient) -> None:
    def told(line: str) -> float:
        found = [one for one in client.get("/metrics").text.splitlines() if one.startswith(f"{line} ")]
        return float(found[0].split()[-1]) if found else 0.0

    fine, missing = (f'estuaire_http_answers_total{{status="{status}"}}' for status in (200, 404))
    before = told(fine), told(missing)
    client.get("/nowhere")
    client.get("/healthz")
    assert (told(fine), told(missing)) == (before[0], before[1] + 1)
    assert told("estuaire_ready") == float(client.get("/readyz").status_code == httpx.codes.OK)


def test_bearers_are_known_by_their_hash() -> None:
    bearers = Bearers({hash_token("secret"): "chu"})
    assert bearers.name("Bearer secret") == "chu"
    assert bearers.name("bearer  secret ") == "chu"
    answers = set()
    for wrong in (None, "", "secret", "Basic secret", "Bearer", "Bearer other"):
        with pytest.raises(ProblemError) as refused:
            bearers.name(wrong)
        answers.add((refused.value.status_code, refused.value.title, refused.value.detail))
    assert len(answers) == 1


def test_a_bearer_token_is_documented_as_such_and_read_from_its_header() -> None:
    app = create_app("test", "test", lambda: None, Person)

    @app.get("/me", summary="Who am I", response_description="A name.", responses=problems({401: "Nobody."}))
    def me(authorization: Authorization) -> str:
        """Your name."""
        return Bearers({hash_token("secret"): "chu"}).name(authorization)

    document = check_documents(app, {"GET /me": {200, 401}})
    assert document["components"]["securitySchemes"]["bearer"]["type"] == "http"
    assert document["components"]["schemas"]["Person"]["required"] == ["name", "age"]
    assert reference(Person) == {"$ref": "#/components/schemas/Person"}
    client = TestClient(app)
    assert client.get("/me", headers={"Authorization": "Bearer secret"}).json() == "chu"
    answers = [client.get("/me", headers={"Authorization": wrong}) for wrong in ("", "secret", "Basic secret")]
    answers.append(client.get("/me"))
    assert {(one.status_code, one.text, one.headers["www-authenticate"]) for one in answers} == {
        (401, answers[0].text, "Bearer")
    }
