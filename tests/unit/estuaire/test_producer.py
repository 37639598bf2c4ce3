"""The client keeps order, waits as it is asked to, and says what to mend."""

from __future__ import annotations

import email.utils
import gzip
import json
import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from estuaire.client import SendError
from estuaire.producer import PACKED_FROM, Answer, Producer, line_of

pytestmark = pytest.mark.unit


class Hub:
    """Takes every event that is not bad; before that, answers with what it was given to answer first."""

    def __init__(self, *first: httpx.Response | Exception, most: int = 10**9) -> None:
        self.first = list(first)
        self.most = most
        self.requests: list[httpx.Request] = []
        self.ids: list[str] = []
        self.pauses: list[float] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.first:
            first = self.first.pop(0)
            if isinstance(first, Exception):
                raise first
            return first
        body = request.content
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if len(body) > self.most:
            return problem(413)
        lines = [json.loads(line) for line in body.split(b"\n")]
        bad = [at for at, line in enumerate(lines) if line is None or line.get("bad")]
        good = [line["id"] for at, line in enumerate(lines) if at not in bad]
        self.ids += good
        return httpx.Response(
            202 if good else 422,
            json={
                "accepted": [{"source": "s", "id": one, "event_id": "e"} for one in good],
                "rejected": [{"index": at, "reason": "bad", "detail": "d"} for at in bad],
            },
        )

    def producer(self, **options: Any) -> Producer:
        options = {"pause": self.pauses.append, **options}
        return Producer("https://hub.example", "token", transport=httpx.MockTransport(self.answer), **options)


def problem(status: int, **headers: str) -> httpx.Response:
    body = {"title": "no", "status": status, "detail": "Do something."}
    return httpx.Response(status, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


def events(count: int, **more: Any) -> Iterator[dict[str, Any]]:
    return ({"id": f"{number}", **more} for number in range(count))


def test_batches_are_bounded_by_count_and_by_bytes() -> None:
    hub = Hub()
    with hub.producer(packed=False) as producer:
        answers = list(producer.send(events(25), batch=10))
        assert [(one.first, len(one.accepted)) for one in answers] == [(0, 10), (10, 10), (20, 5)]
        list(producer.send(events(10, text="x" * 400), batch_bytes=1000))
    assert [len(one.content.splitlines()) for one in hub.requests[3:]] == [3, 3, 3, 1]


def test_the_next_events_are_drawn_only_when_the_last_ones_are_answered() -> None:
    numbers = iter(range(100))
    with Hub().producer() as producer:
        answers = producer.send(({"id": str(one)} for one in numbers), batch=10)
        next(answers)
        assert next(numbers) == 10


def test_a_busy_hub_is_waited_for_as_long_as_it_says_and_order_is_kept() -> None:
    later = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=30))
    hub = Hub(
        problem(429, Retry_After="7"),
        problem(503, Retry_After=later),
        httpx.ReadError("reset"),
        httpx.ConnectError("away"),
        problem(502),
        problem(504, Retry_After="soon"),
    )
    with hub.producer(patience=math.inf) as producer:
        list(producer.send(events(20), batch=10))
    assert hub.ids == [str(number) for number in range(20)]
    asked, dated, *own = hub.pauses
    assert 7 <= asked <= 7.1
    assert 28 < dated < 31
    assert all(0.05 <= one <= 5 for one in own)
    assert len({hub.requests[at].content for at in range(7)}) == 1, "the same request until it is answered"


def test_an_answer_that_does_not_tell_of_each_event_is_none() -> None:
    with Hub(httpx.Response(202, json={"status": "ok"})).producer() as producer:
        with pytest.raises(SendError, match="is no ingest"):
            list(producer.send(events(2)))
        answers = list(producer.send(events(1)))
    assert [len(one.accepted) for one in answers] == [3], "what was taken stays, and goes with the next call"


def test_patience_ends_with_what_went_wrong_and_what_to_do() -> None:
    for first, words in (
        (problem(429, Retry_After="500"), "429: no: Do something.; gave up after 1 s. Nothing unacknowledged is kept"),
        (httpx.ConnectError("x"), r"no answer from hub.example \(ConnectError\): is ingest running"),
    ):
        hub = Hub(*[first] * 1000)
        producer = hub.producer(patience=1.0, pause=lambda _seconds: time.sleep(0.3))
        with pytest.raises(SendError, match=words):
            list(producer.send(events(1)))


def test_errors_name_the_fix_and_the_status() -> None:
    for status, words in ((401, "token of your source"), (404, "address that of ingest"), (400, "Do something")):
        with Hub(problem(status)).producer() as producer, pytest.raises(SendError, match=words) as error:
            producer.send_fhir(b"{}")
        assert error.value.status == status
    for url in ("hub.example:8000", "ftp://hub.example", "hub"):
        with pytest.raises(SendError, match="https://host:port"):
            Producer(url, "token")


def test_a_refused_event_harms_no_other_and_is_told_by_its_place() -> None:
    hub = Hub()
    lines = [b'{"id": "a"}', b'{"id": "b", "bad": true}', b"", b'{\n"id": "c"\n}']
    with hub.producer() as producer:
        (answer,) = producer.send(lines)
        assert [one["index"] for one in answer.rejected] == [1, 2]
        (alone,) = producer.send([b'{"bad": true}'])
        assert (alone.first, alone.accepted) == (4, [])
    assert hub.ids == ["a", "c"]


def test_where_ingest_takes_less_the_request_is_halved_and_one_that_is_too_large_refused() -> None:
    hub = Hub(most=300)
    sized = [{"id": str(number), "text": "x" * (400 if number == 5 else 50)} for number in range(16)]
    with hub.producer() as producer:
        (answer,) = producer.send(sized)
    assert hub.ids == [str(number) for number in range(16) if number != 5]
    ((at, reason),) = [(one["index"], one["reason"]) for one in answer.rejected]
    assert (at, reason) == (5, "too-large")


def test_large_bodies_are_packed_for_a_hub_elsewhere() -> None:
    hub = Hub()
    with hub.producer() as producer:
        list(producer.send(events(1, text="x" * PACKED_FROM)))
        list(producer.send(events(1, text="x")))
    large, small = hub.requests
    assert large.headers["Content-Encoding"] == "gzip"
    assert len(large.content) < PACKED_FROM / 10
    assert "Content-Encoding" not in small.headers
    assert Producer("http://127.0.0.1:8000", "t")._packed is False


def test_what_is_submitted_goes_when_there_is_enough_or_it_has_waited_and_at_the_end() -> None:
    hub = Hub()
    with hub.producer() as producer:
        answers = [producer.submit(event, batch=3) for event in events(7)]
        assert [type(one) for one in answers] == [type(None), type(None), Answer] * 2 + [type(None)]
        time.sleep(0.02)
        assert producer.submit({"id": "late"}, linger=0.01) is not None
        producer.submit({"id": "last"})
        assert hub.ids[-1] == "late"
    assert hub.ids == [*map(str, range(7)), "late", "last"]


def test_what_could_not_be_sent_stays_and_goes_first() -> None:
    hub = Hub(problem(401))
    with hub.producer() as producer:
        with pytest.raises(SendError):
            producer.submit({"id": "a"}, batch=1)
        producer.submit({"id": "b"})
    assert hub.ids == ["a", "b"]


def test_after_an_error_nothing_more_is_sent() -> None:
    hub = Hub()
    with pytest.raises(ZeroDivisionError), hub.producer() as producer:
        producer.submit({"id": "a"})
        raise ZeroDivisionError
    assert not hub.requests


def test_an_event_is_one_line() -> None:
    assert line_of({"id": "é\n"}) == '{"id":"é\\n"}'.encode()
    assert json.loads(line_of(b'\xef\xbb\xbf{\n "id": 1\r\n}')) == {"id": 1}
    assert line_of(b" \n ") == b"null"
