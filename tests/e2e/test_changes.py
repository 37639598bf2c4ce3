"""Whatever ends or narrows what may leave reaches everybody who reads within five seconds, and is in the audit log."""

from __future__ import annotations

import datetime as dt
import io
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import httpx
import pyarrow.parquet
import pytest

from contracts.acl import subscriber
from contracts.permits import Permit, permit_from
from estuaire.keyring import OFFICER
from estuaire.permits import Officer
from estuaire.subscriber import Subscriber, View, ViewError
from tests.commands import estuaire
from tests.e2e.test_audit import count, of_permit
from tests.hub import Hub

pytestmark = pytest.mark.e2e
log = logging.getLogger("estuaire.tests")

Make = Callable[..., dict[str, Any]]
PEOPLE: Final = 20


class Reader:
    """One subscriber on three paths: running on Kafka with its own account, amid pages over HTTP, and as Parquet."""

    def __init__(self, hub: Hub, permit: Permit) -> None:
        self.hub = hub
        self.permit = permit
        self.view = View()
        self.ended = ""
        self._stop = threading.Event()
        self._account = hub.platform.settings_as(subscriber(permit.subscribers[0]))
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Reader:
        self.hub.wait_for(self._may_read)
        self._thread.start()
        self.hub.wait_for(lambda: len(self.kafka()) == PEOPLE)
        self.cursor = self._page(limit=5).headers["X-Next-Cursor"]
        http, parquet = self.http(), self.parquet()
        assert isinstance(http, list) and isinstance(parquet, list)
        assert len(http) == len(parquet) > 10
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _may_read(self) -> bool:
        try:
            Subscriber(self._account, self.permit.id).read()
        except ViewError:
            return False
        return True

    def _run(self) -> None:
        try:
            for _ in Subscriber(self._account, self.permit.id).follow(self.view, self._stop.is_set):
                pass
        except ViewError as error:
            self.ended = str(error)

    def _page(self, accept: str = "application/x-ndjson", **params: Any) -> httpx.Response:
        token = self.hub.platform.keyring.token(self.permit.subscribers[0], "subscriber")
        url = f"{self.hub.platform.access_url}/v1/permits/{self.permit.id}/timelines"
        headers = {"Authorization": f"Bearer {token}", "Accept": accept}
        return httpx.get(url, params=params, headers=headers, timeout=30)

    def kafka(self) -> list[Any]:
        """What the running subscriber holds."""
        return [event.data for event in list(self.view.entries())]

    def http(self) -> list[Any] | int:
        """What follows the cursor, or why nothing does."""
        answer = self._page(cursor=self.cursor, limit=1000)
        if answer.status_code != httpx.codes.OK:
            return answer.status_code
        return [json.loads(line)["data"] for line in answer.text.splitlines()]

    def parquet(self) -> list[Any] | int:
        """The same as a file."""
        answer = self._page("application/vnd.apache.parquet", cursor=self.cursor, limit=1000)
        if answer.status_code != httpx.codes.OK:
            return answer.status_code
        return [json.loads(row["record"]) for row in pyarrow.parquet.read_table(io.BytesIO(answer.content)).to_pylist()]

    def reaches(self, what: str, begun: float, condition: Callable[[], bool]) -> None:
        """Wait for it, and tell how long after it was asked for it came."""
        self.hub.wait_for(condition)
        log.warning("%s after %.2f s", what, time.monotonic() - begun)


def officer(hub: Hub) -> Officer:
    return Officer(hub.platform.access_url, hub.platform.keyring.token("officers", OFFICER))


@pytest.fixture
def filled(hub: Hub, observation: Make) -> tuple[str, Permit]:
    source = hub.source()
    permit = hub.permit(source, demographics=["sex", "birth_year"])
    events = [observation(source, f"r{number}", number) for number in range(PEOPLE)]
    for number, event in enumerate(events):
        event["data"]["identity"]["sex"] = ("male", "female")[number % 2]
    hub.send(source, events)
    return source, permit


def changed(permit: Permit, **clauses: Any) -> Permit:
    return permit_from(permit.model_dump(mode="json", by_alias=True, exclude_none=True) | clauses)


def test_a_permit_that_is_closed(hub: Hub, filled: tuple[str, Permit]) -> None:
    _, permit = filled
    with Reader(hub, permit) as reader:
        begun = time.monotonic()
        officer(hub).close(permit.id)
        reader.reaches("HTTP refuses", begun, lambda: reader.http() == reader.parquet() == 403)
        reader.reaches("Kafka refuses", begun, lambda: "authorization failed" in reader.ended)
        reader.reaches("audit tells", begun, lambda: count(of_permit(hub, permit, "permit-closed")) == PEOPLE)
    assert hub.messages(f"view-{permit.id}") == []


def test_a_permit_that_expires(hub: Hub, filled: tuple[str, Permit]) -> None:
    _, permit = filled
    yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
    with Reader(hub, permit) as reader:
        begun = time.monotonic()
        officer(hub).narrow(changed(permit, expires=yesterday.isoformat()))
        reader.reaches("HTTP refuses", begun, lambda: reader.http() == reader.parquet() == 403)
        reader.reaches("Kafka refuses", begun, lambda: "authorization failed" in reader.ended)
        ends = ("permit-narrowed", "permit-closed")
        reader.reaches(
            "audit tells", begun, lambda: [one["action"] for one in of_permit(hub, permit, *ends)] == [*ends]
        )
        assert count(of_permit(hub, permit, "permit-narrowed")) == PEOPLE
    assert hub.messages(f"view-{permit.id}") == []


def test_a_permit_that_is_narrowed(hub: Hub, observation: Make, filled: tuple[str, Permit]) -> None:
    source, permit = filled
    men = {"sex": ["male"]}
    narrower = changed(permit, fields={"observation.v1": ["code"]}, types=["observation.v1"], population=men)
    with Reader(hub, permit) as reader:
        before = reader.kafka()
        of_men = [one for one in before if one["demographics"]["sex"] == "male"]
        assert 0 < len(of_men) < PEOPLE

        def is_narrow() -> bool:
            held = reader.kafka()
            return len(held) == len(of_men) and all(one["record"].keys() == {"code"} for one in held)

        begun = time.monotonic()
        officer(hub).narrow(narrower)
        reader.reaches("Kafka has less", begun, is_narrow)
        http, parquet = reader.http(), reader.parquet()
        assert isinstance(http, list) and isinstance(parquet, list)
        assert all(one["record"].keys() == {"code"} and one["demographics"]["sex"] == "male" for one in http)
        assert [one["record"] for one in http] == parquet
        assert count(of_permit(hub, permit, "permit-narrowed")) == PEOPLE
        raw = b"".join(one.value for one in hub.messages(f"view-{permit.id}"))
        assert b"valueQuantity" not in raw and b"female" not in raw, "the topic holds what left before no more"
        assert b"view.reset" in raw
        hub.send(source, [observation(source, "late", 1, value=99)])
        assert b"valueQuantity" not in b"".join(one.value for one in hub.messages(f"view-{permit.id}"))


def test_a_permit_that_is_suspended_and_resumed(hub: Hub, filled: tuple[str, Permit]) -> None:
    _, permit = filled
    with Reader(hub, permit) as reader:
        before = {event.id: event.subject for event in reader.view.entries()}
        begun = time.monotonic()
        assert "suspended" in estuaire(hub, "permit", "suspend", permit.id).stdout
        assert f"{permit.id} " in (listed := estuaire(hub, "permit", "list").stdout) and "suspended" in listed
        begun = time.monotonic()
        reader.reaches("HTTP refuses", begun, lambda: reader.http() == reader.parquet() == 403)
        reader.reaches("Kafka refuses", begun, lambda: "authorization failed" in reader.ended)
        assert count(of_permit(hub, permit, "permit-suspended")) == PEOPLE
    estuaire(hub, "permit", "resume", permit.id)
    with Reader(hub, permit) as reader:
        assert {event.id: event.subject for event in reader.view.entries()} == before


def test_somebody_who_objects(hub: Hub, observation: Make, filled: tuple[str, Permit]) -> None:
    source, permit = filled
    with Reader(hub, permit) as reader, hub.producer(source) as producer:
        held = len(reader.kafka())
        begun = time.monotonic()
        producer.oppose({"id": "objection", "identity": observation(source, "x", 3)["data"]["identity"]})
        reader.reaches("Kafka has one less", begun, lambda: len(reader.kafka()) == held - 1)
        everything = reader._page(limit=1000).text.splitlines()
        assert len(everything) == held - 1
        reader.reaches("audit tells", begun, lambda: count(of_permit(hub, permit, "withdrawn")) == 1)
        hub.send(source, [observation(source, "later", 3)])
        hub.wait_for(lambda: count(of_permit(hub, permit, "withheld")) == 1)
        assert len(reader.kafka()) == held - 1
