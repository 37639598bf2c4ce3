"""What statistics answers over HTTP, as its document says it; the registry's file."""

from __future__ import annotations

import datetime as dt
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from contracts.sources import sources_from
from estuaire.platform import SERVICES
from runtime.http import Bearers, hash_token
from runtime.messages import RetryLater
from runtime.watched import WatchedFile
from services.statistics.adapters import Seen, Totals
from services.statistics.routes import application
from tests.unit.runtime.test_http import check_documents

pytestmark = pytest.mark.unit

NOW = dt.datetime(2026, 3, 10, 12, tzinfo=dt.UTC)
SOURCE = "urn:estuaire:producer:chu-rennes"
OPERATOR = {"Authorization": "Bearer secret"}


class FakeReader:
    """Counts of one source; away, if it is told so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dt.date, dt.date]] = []
        self.away = False

    def sources(self, begin: dt.date, end: dt.date) -> dict[str, Seen]:
        if self.away:
            raise RetryLater("away")
        return {SOURCE: Seen(NOW, NOW, 4, {"bad-value": 1})}

    def totals(self, source: str, begin: dt.date, end: dt.date) -> Totals:
        self.asked.append((source, begin, end))
        return Totals({("claim.v1", "records"): 4} if source == SOURCE else {}, [])


@pytest.fixture
def reader() -> FakeReader:
    return FakeReader()


@pytest.fixture
def client(reader: FakeReader) -> TestClient:
    operators = Bearers({hash_token("secret"): "operator"})
    nothing: Any = None
    app = application(
        lambda: None, reader, dict, operators, lambda: NOW, published=nothing, reading=nothing, remembered=nothing
    )
    return TestClient(app, headers=OPERATOR)


@pytest.mark.parametrize("params", [{"to": "0001-01-01"}, {"from": "9999-12-31"}, {"source": "a\0b"}])
def test_a_day_of_no_calendar_and_a_source_that_is_none_are_told_so(client: TestClient, params: dict[str, str]) -> None:
    assert client.get("/v1/sources/quality", params={"source": SOURCE, **params}).status_code == 422


def test_the_document_says_what_is_answered() -> None:
    nothing: Any = None
    check_documents(
        application(
            lambda: None, nothing, nothing, Bearers({}), published=nothing, reading=nothing, remembered=nothing
        ),
        {
            "GET /v1/sources": {200, 401, 403, 503},
            "GET /v1/sources/quality": {200, 401, 403, 404, 422, 503},
            "GET /v1/flow": {200, 401, 403, 422, 503},
            "GET /v1/flow/sources": {200, 401, 403, 503},
            "GET /v1/alarms": {200, 401, 403, 503},
        },
    )


def test_operators_alone_may_ask(client: TestClient) -> None:
    for path in ("/v1/sources", f"/v1/sources/quality?source={SOURCE}"):
        assert client.get(path).status_code == 200
        assert client.get(path, headers={"Authorization": "Bearer other"}).status_code == 401


def test_the_period_is_thirty_days_unless_it_is_said(client: TestClient, reader: FakeReader) -> None:
    answer = client.get("/v1/sources/quality", params={"source": SOURCE}).json()
    assert (answer["from"], answer["to"], answer["accepted"]) == ("2026-02-09", "2026-03-10", 4)
    client.get("/v1/sources/quality", params={"source": SOURCE, "from": "2026-03-01", "to": "2026-03-01"})
    day = dt.date(2026, 3, 1)
    assert reader.asked[-1] == (SOURCE, day, day)


@pytest.mark.parametrize(
    "period", [{"from": "2026-03-02", "to": "2026-03-01"}, {"from": "2019-01-01"}, {"to": "yesterday"}]
)
def test_a_period_that_is_none_is_refused(client: TestClient, period: dict[str, str]) -> None:
    assert client.get("/v1/sources/quality", params={"source": SOURCE, **period}).status_code == 422


def test_nobody_knows_this_source(client: TestClient) -> None:
    assert client.get("/v1/sources/quality", params={"source": "urn:nobody"}).status_code == 404
    assert client.get("/v1/sources/quality", params={"source": ""}).status_code == 404
    assert client.get("/v1/sources/quality").status_code == 422


def test_a_database_that_is_away_is_said(client: TestClient, reader: FakeReader) -> None:
    reader.away = True
    answer = client.get("/v1/sources")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


# the registry


def test_the_registry_is_read_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text("sources: [{source: urn:a, title: A, formats: [fhir], expected_per_day: 10}]")
    registry = WatchedFile(path, sources_from)
    assert registry.now()["urn:a"].formats == ("fhir",)
    path.write_text("sources: [{source: urn:b}, {source: urn:c}]")
    assert registry.now().keys() == {"urn:b", "urn:c"}
    with caplog.at_level(logging.ERROR):
        path.write_text("sources: [{source: urn:d, phone: 0123456789}]")
        os.utime(path, (1, 1))
        assert registry.now().keys() == {"urn:b", "urn:c"}
    assert "0123456789" not in caplog.text
    path.unlink()
    assert registry.now().keys() == {"urn:b", "urn:c"}


@pytest.mark.parametrize(
    "text", ["", "sources: 1", "sources: [{title: x}]", "[", "sources: [{source: x, expected_per_day: 0}]"]
)
def test_a_registry_is_one_or_refused_in_a_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"sources\.yaml") as refused:
        WatchedFile(path, sources_from)
    assert "\n" not in str(refused.value)


def test_the_demos_registry_names_its_producers() -> None:
    from estuaire.sample import PREFIXES

    path = Path(__file__).parents[3] / "estuaire" / "data" / "sources.yaml"
    assert WatchedFile(path, sources_from).now().keys() == set(PREFIXES)
    assert SERVICES[4] == "statistics", "its port is the fifth"
