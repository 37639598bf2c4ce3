"""Bad input gets its reason, the good events beside it go on, nothing crashes, and no answer repeats an identity."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.hub import Hub

pytestmark = pytest.mark.e2e

Make = Callable[..., dict[str, Any]]
SECRET = "KERGUELEN-DE-TREMAREC"
IDENTITY = {"birth_family_name": SECRET, "given_names": [SECRET], "birth_date": "1985-05-12"}


def bad_events(good: dict[str, Any]) -> dict[str, bytes]:
    """One bad event of each kind, as JSON."""

    def changed(**changes: Any) -> bytes:
        return json.dumps({**good, "data": {**good["data"], "identity": IDENTITY}, **changes}).encode()

    def person(**changes: Any) -> bytes:
        return changed(data={**good["data"], "identity": {**IDENTITY, **changes}})

    nir = {"system": "ins-nir", "value": "285053523800199"}
    return {
        "unknown type": changed(type=f"{SECRET}.v1"),
        "missing field": json.dumps({name: value for name, value in good.items() if name != "time"}).encode(),
        "wrong date": changed(time="the 12th of May"),
        "wrong birth date": person(birth_date="1985-13-45"),
        "bad NIR key": person(identifiers=[nir]),
        "not JSON": b'{"specversion": ' + SECRET.encode(),
        "deep JSON": b'{"data":' * 10_000 + b"1" + b"}" * 10_000,
        "NUL bytes": changed(id=f"{SECRET}\x00"),
        "raw NUL": b'{"id": "\x00' + SECRET.encode() + b'"}',
        "no record": changed(data={"identity": IDENTITY}),
        "record of nothing": changed(data={"identity": IDENTITY, "record": {SECRET: SECRET}}),
        "unknown field": person(**{SECRET: SECRET}),
        "a list": b"[1, 2]",
        "a number": b"17",
        "not a number": changed().replace(b"72", b"NaN"),
        "lone surrogate": changed(id="\ud800" + SECRET),
        "wrong version": changed(specversion="0.3"),
        "huge number": changed(version=10**40),
    }


def post(hub: Hub, source: str, body: bytes, kind: str = "application/x-ndjson", **headers: str) -> httpx.Response:
    token = hub.platform.keyring.producer_token(source)
    all_headers = {"Authorization": f"Bearer {token}", "Content-Type": kind, **headers}
    return httpx.post(f"{hub.platform.ingest_url}/v1/events", content=body, headers=all_headers, timeout=60)


def test_each_bad_event_gets_its_reason_and_the_good_one_goes_on(hub: Hub, observation: Make) -> None:
    source = hub.source()
    good = observation(source, "good", 1)
    for name, bad in bad_events(observation(source, "bad", 1)).items():
        response = post(hub, source, json.dumps(good).encode() + b"\n" + bad)
        assert response.status_code == httpx.codes.ACCEPTED, (name, response.text)
        receipt = response.json()
        assert [one["id"] for one in receipt["accepted"]] == ["good"], name
        (refused,) = receipt["rejected"]
        assert refused["index"] == 1, name
        assert refused["reason"], name
        assert refused["detail"], name
        assert SECRET not in response.text, name
        alone = post(hub, source, bad)
        assert alone.status_code == httpx.codes.UNPROCESSABLE_ENTITY, (name, alone.text)
        assert SECRET not in alone.text, name


def test_a_body_that_is_no_body(hub: Hub, observation: Make) -> None:
    source = hub.source()
    packed = gzip.compress(json.dumps(observation(source, "x", 1)).encode())
    encoding = {"Content-Encoding": "gzip"}
    assert post(hub, source, packed, "application/cloudevents+json", **encoding).status_code == 202
    truncated = post(hub, source, packed[:-20], "application/cloudevents+json", **encoding)
    assert (truncated.status_code, truncated.headers["content-type"]) == (400, "application/problem+json")
    assert post(hub, source, b"x" * 50_000_000).status_code == 413
    assert post(hub, source, gzip.compress(b"x" * 50_000_000), **encoding).status_code == 413
    assert post(hub, source, b"{}", "text/html").status_code == 415
    assert post(hub, source, b"").status_code == 422
    assert post(hub, source, b"[" * 100_000, "application/cloudevents-batch+json").status_code == 422


def test_the_three_forms_of_a_batch(hub: Hub, observation: Make) -> None:
    source = hub.source()
    one = observation(source, "f1", 1)
    two = observation(source, "f2", 1)
    assert len(post(hub, source, json.dumps(one).encode(), "application/cloudevents+json").json()["accepted"]) == 1
    array = json.dumps([one, two]).encode()
    assert len(post(hub, source, array, "application/cloudevents-batch+json").json()["accepted"]) == 2
    lines = json.dumps(one).encode() + b"\r\n\n" + json.dumps(two).encode() + b"\n"
    assert len(post(hub, source, lines).json()["accepted"]) == 2


def test_the_service_is_well_after_all_that(hub: Hub) -> None:
    assert httpx.get(f"{hub.platform.ingest_url}/readyz", timeout=10).status_code == httpx.codes.OK
