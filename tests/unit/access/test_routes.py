"""What access answers over HTTP, as its document says it, and what an officer is told of a permit that is none."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from contracts.permits import Permit
from runtime.http import ProblemError
from services.access.authorization import Doors
from services.access.quotas import Quotas
from services.access.routes import application
from tests.unit.access.hub import Known
from tests.unit.runtime.test_http import check_documents

pytestmark = pytest.mark.unit


class NoPermits:
    """A reader that has none."""

    def permit(self, permit: str) -> None:
        return None

    def project_steps(self) -> list[Any]:
        return []


@pytest.fixture
def app() -> FastAPI:
    reader: Any = NoPermits()
    nothing: Any = None
    roles = ("subscriber", "officer", "operator", "reviewer")
    doors = Doors(Known({one: (f"{one}s",) for one in roles}))
    return application(lambda: None, reader, nothing, nothing, nothing, doors)


def test_the_document_says_what_is_answered(app: FastAPI) -> None:
    document = check_documents(
        app,
        {
            "POST /v1/permits/{permit_id}/grant": {202, 401, 403, 409, 422, 503},
            "POST /v1/permits/{permit_id}/close": {202, 401, 403, 404, 409, 422, 503},
            **{
                f"POST /v1/permits/{{permit_id}}/{act}": {202, 401, 403, 404, 409, 422, 503}
                for act in ("narrow", "suspend", "resume")
            },
            "POST /v1/permits/dry-run": {200, 401, 403, 422, 503},
            "GET /v1/permits": {200, 401, 403, 503},
            "GET /v1/permits/{permit_id}/timelines": {200, 401, 403, 404, 422, 429, 503},
            "GET /v1/permits/{permit_id}/indicators": {200, 401, 403, 404, 422, 503},
            "GET /v1/records/{event_id}": {200, 401, 403, 404, 422, 503},
            "GET /v1/counts": {200, 401, 403, 503},
            "GET /v1/oppositions": {200, 401, 403, 503},
            "GET /v1/requests": {200, 401, 403, 422, 503},
            "GET /v1/requests/{request_id}": {200, 401, 403, 404, 422, 503},
            "POST /v1/requests/{request_id}/{act}": {200, 401, 403, 404, 409, 422, 503},
            "POST /v1/calls": {201, 401, 403, 409, 422, 503},
            "GET /v1/calls": {200, 401, 403, 503},
            "POST /v1/projects": {201, 401, 403, 409, 422, 503},
            "GET /v1/projects": {200, 401, 403, 503},
            "GET /v1/projects/{project_id}": {200, 401, 403, 404, 422, 503},
            "POST /v1/projects/{project_id}/{act}": {200, 401, 403, 404, 409, 422, 503},
        },
    )
    paths = document["paths"]
    grant = paths["/v1/permits/{permit_id}/grant"]["post"]["requestBody"]["content"]["application/json"]
    assert grant["schema"]["title"] == "Permit"
    assert set(grant["schema"]["properties"]) == set(Permit.model_fields)
    page = paths["/v1/permits/{permit_id}/timelines"]["get"]["responses"]["200"]
    assert page["content"]["application/x-ndjson"] == {"schema": {"$ref": "#/components/schemas/ViewEvent"}}
    assert page["content"].keys() == {"application/x-ndjson", "application/vnd.apache.parquet"}
    assert "X-Next-Cursor" in page["headers"]


def test_who_may_see_all_permits_is_told_which_there_is_none_of(app: FastAPI) -> None:
    client = TestClient(app)
    closed = client.post("/v1/permits/cardio/close", headers={"Authorization": "Bearer officers"})
    assert (closed.status_code, closed.json()["title"]) == (404, "there is no permit cardio")
    read = client.get("/v1/permits/cardio/timelines", headers={"Authorization": "Bearer subscribers"})
    assert (read.status_code, "cardio" in read.text) == (404, False)


def test_a_permit_to_correct_is_answered_in_sentences(app: FastAPI) -> None:
    client = TestClient(app, headers={"Authorization": "Bearer officers"})
    refused = client.post("/v1/permits/cardio/grant", json={"id": "cardio"})
    assert refused.status_code == 422
    assert "this clause is missing" in refused.json()["detail"]


def test_a_quota_is_of_an_hour_and_of_one_subscriber() -> None:
    now = 7200.0
    quotas = Quotas(10, lambda: now)
    for _ in range(3):
        quotas.check("team")
        quotas.add("team", 4)
    with pytest.raises(ProblemError) as refused:
        quotas.check("team")
    assert (refused.value.status_code, (refused.value.headers or {})["Retry-After"]) == (429, "3601")
    quotas.check("another")
    now += 3600
    quotas.check("team")
    quotas.add("team", 4)
    quotas.check("team")
