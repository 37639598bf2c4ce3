"""Projects over HTTP: who sees what, and why something cannot be done. The loop is the real registrar, in memory."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from runtime.messages import Message, Outputs
from services.access import project_routes
from services.access.authorization import Doors
from services.access.projects import PROJECTS, Registrar, StepRow
from services.access.routes import application
from tests.unit.access.hub import TERMS, Known, MemorySteps
from tests.unit.access.test_projects import APPLICATION, CALL, PERMIT, REQUEST, REVIEW, SAYS

pytestmark = pytest.mark.unit

NOW = dt.datetime(2026, 3, 2, 9, tzinfo=dt.UTC)
HOLDERS = {
    "subscriber": ["team", "strangers", "reviewer-1"],
    "officer": ["officer"],
    "operator": [],
    "reviewer": ["reviewer-1", "reviewer-2", "team"],
}


class Office:
    """A reader, a publisher, and the loop between them."""

    def __init__(self) -> None:
        self.steps = MemorySteps()
        self.permits: set[str] = set()
        self.before: list[Message] = []
        self._registrar = Registrar(self.steps)

    def project_steps(self) -> list[StepRow]:
        return self.steps.all()

    def permit_ids(self) -> set[str]:
        return self.permits

    def permit(self, permit: str) -> Any:
        return permit if permit in self.permits else None

    def publish(self, topic: str, key: str, value: bytes) -> None:
        if topic == PROJECTS:
            batch = [*self.before, Message(topic, 0, 0, 0, key.encode(), value, {})]
            self.before = []
            self._registrar.handle(batch, Outputs())


class Caller:
    """Asks as somebody, `<role>:<name>`."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def __call__(self, who: str, path: str, says: Any = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {who}"}
        method = "GET" if says is None else "POST"
        answer: httpx.Response = self.client.request(method, f"/v1/{path}", headers=headers, json=says)
        return answer


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
def ask(office: Office, monkeypatch: pytest.MonkeyPatch) -> Iterator[Caller]:
    monkeypatch.setattr(project_routes, "_PATIENCE", 0.2)
    doors = Doors(Known(HOLDERS))
    both: Any = office
    vault: Any = None
    nothing: Any = None
    yield Caller(TestClient(application(lambda: None, both, nothing, both, vault, doors, lambda: NOW, TERMS)))


TEAM, STRANGERS, OFFICER = "subscriber:team", "subscriber:strangers", "officer:officer"
REVIEWER = "reviewer:reviewer-1"


def test_of_no_call_a_project_is_its_leads_and_the_officers_alone(ask: Caller) -> None:
    assert ask(TEAM, "projects", APPLICATION).status_code == 201
    for who, status in {TEAM: 200, OFFICER: 200, STRANGERS: 404, REVIEWER: 404, "reviewer:team": 404}.items():
        assert ask(who, "projects/heart-paths").status_code == status, who
        assert len(ask(who, "projects").json()["projects"]) == (status == 200)
    assert (
        ask(STRANGERS, "projects/heart-paths/request", REQUEST).json()
        == ask(STRANGERS, "projects/no/request", {}).json()
    )


def test_a_review_is_seen_by_officers_and_its_author_and_the_score_by_officers(ask: Caller) -> None:
    assert ask(OFFICER, "calls", CALL).status_code == 201
    of_call = {**APPLICATION, "call": "call-2026", "theme": "research"}
    assert ask("subscriber:reviewer-1", "projects", of_call).status_code == 201
    assert ask(REVIEWER, "projects/heart-paths/review", REVIEW).json()["title"] == "nobody reviews their own project"
    for reviewer in ("reviewer:reviewer-2", "reviewer:team"):
        assert ask(reviewer, "projects/heart-paths/review", REVIEW).status_code == 200
    seen = {
        who: [one["actor"] for one in ask(who, "projects/heart-paths").json()["steps"] if one["act"] == "review"]
        for who in (OFFICER, REVIEWER, "reviewer:team", "subscriber:reviewer-1")
    }
    assert seen == {
        OFFICER: ["reviewer-2", "team"],
        REVIEWER: [],
        "reviewer:team": ["team"],
        "subscriber:reviewer-1": [],
    }
    assert ask(OFFICER, "projects/heart-paths").json()["score"] == 3.0
    assert ask("reviewer:team", "projects/heart-paths").json()["score"] is None


def test_what_another_did_meanwhile_is_the_answer_not_try_again(ask: Caller, office: Office) -> None:
    ask(TEAM, "projects", APPLICATION)
    ask(STRANGERS, "projects", {**APPLICATION, "id": "another"})
    assert ask(STRANGERS, "projects/another/request", REQUEST).status_code == 200
    # asked for before the other was done
    rows, office.steps.rows = office.steps.rows, office.steps.rows[:2]
    publish = office.publish

    def meanwhile(topic: str, key: str, value: bytes) -> None:
        office.steps.rows = rows
        publish(topic, key, value)

    office.publish = meanwhile  # type: ignore[method-assign]
    refused = ask(TEAM, "projects/heart-paths/request", REQUEST)
    assert (refused.status_code, refused.json()["title"]) == (409, "the permit's id is taken")


def test_a_projects_permit_is_granted_and_closed_by_the_project_alone(ask: Caller, office: Office) -> None:
    ask(TEAM, "projects", APPLICATION)
    ask(TEAM, "projects/heart-paths/request", REQUEST)
    granted = ask(OFFICER, "permits/heart-paths/grant", PERMIT)
    assert (granted.status_code, granted.json()["title"]) == (409, "the permit is a project's")
    for act in ("find-complete", "give-opinion", "authorise", "sign", "open"):
        assert ask(OFFICER, f"projects/heart-paths/{act}", SAYS.get(act, {})).status_code == 200, act
    office.permits.add("heart-paths")
    closed = ask(OFFICER, "permits/heart-paths/close", {})
    assert (closed.status_code, "the project heart-paths" in closed.json()["detail"]) == (409, True)
    assert ask(OFFICER, "projects/heart-paths/close", SAYS["close"]).json()["standing"] == "closed"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * 5000, "the body is not JSON"),
        (b'{"id": ' + b"9" * 5000 + b"}", "the body is not JSON"),
        (b"\xff", "the body is not JSON"),
        (b"{", "it is not JSON"),
        (b"[1]", "body: it has to be a map"),
        (b'{"id": "x y"}', "use 2 to 41 small letters"),
    ],
)
def test_a_body_that_is_none_is_told_so(ask: Caller, body: bytes, words: str) -> None:
    headers = {"Authorization": f"Bearer {TEAM}", "content-type": "application/json"}
    answer = ask.client.post("/v1/projects", headers=headers, content=body)
    assert (answer.status_code, words in answer.text) == (422, True), answer.text
