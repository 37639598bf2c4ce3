"""Problem documents name what is wrong and never repeat what was sent."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from pydantic import BaseModel

from runtime.http import Bearers, ProblemError, create_app, hash_token

pytestmark = pytest.mark.unit

SECRET = "LE GOFF"


class Person(BaseModel):
    name: str
    age: int


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
