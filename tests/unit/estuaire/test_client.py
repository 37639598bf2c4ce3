"""A service's answers are its JSON; what it refuses, and what is no service, are told in a line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import httpx
import pytest

from estuaire.client import Client, SendError

pytestmark = pytest.mark.unit
URL = "http://hub.example/v1/permits"
Answering = Callable[..., Client]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """A client of a service that has one answer, to whoever holds the token."""

    def made(answer: httpx.Response, url: str = URL) -> Client:
        def handle(request: httpx.Request) -> httpx.Response:
            assert request.headers["authorization"] == "Bearer the-token"
            assert str(request.url) in (URL, f"{URL}/hearts")
            return answer

        monkeypatch.setattr(httpx, "Client", partial(httpx.Client, transport=httpx.MockTransport(handle)))
        return Client(url, "the-token")

    return made


def test_an_answer_is_its_json(answering: Answering) -> None:
    assert answering(httpx.Response(200, json={"permits": []})).ask("GET", "") == {"permits": []}


def test_a_refusal_is_its_problem_in_a_line(answering: Answering) -> None:
    problem = {"title": "not allowed", "detail": "This takes an officer."}
    with pytest.raises(SendError, match=r"^not allowed: This takes an officer\.$") as refused:
        answering(httpx.Response(403, json=problem)).find("/hearts")
    assert refused.value.status == 403


def test_what_is_not_there_is_none(answering: Answering) -> None:
    assert answering(httpx.Response(404, json={"title": "not found"})).find("/hearts") is None


def test_a_slash_at_the_end_of_an_address_is_no_part_of_it(answering: Answering) -> None:
    assert answering(httpx.Response(200, json={}), "http://hub.example//v1/permits").ask("GET", "/hearts") == {}


@pytest.mark.parametrize("answer", [["bad gateway"], "bad gateway", {"error": "bad gateway"}])
def test_json_of_something_between_is_told_without_it(answering: Answering, answer: object) -> None:
    with pytest.raises(SendError, match=r"does not answer as a service of the hub \(502\)$"):
        answering(httpx.Response(502, json=answer)).ask("GET", "/hearts")


@pytest.mark.parametrize("status", [200, 502])
def test_a_page_of_something_between_is_told_without_it(answering: Answering, status: int) -> None:
    said = f"^{URL}/hearts does not answer as a service of the hub .{status}.$"
    with pytest.raises(SendError, match=said):
        answering(httpx.Response(status, text="<html>Bad gateway of ada</html>")).ask("GET", "/hearts")
