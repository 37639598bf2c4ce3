"""What a producer is answered: acknowledged when kept, a reason for each bad event, and never an identity."""

from __future__ import annotations

import gzip
import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.events import OF_RIGHTS, RECORD_TYPES
from contracts.messages import Demographics, Headers
from runtime.http import hash_token
from runtime.messages import Emit, FlowSummary, Passed
from services.ingest import routes
from services.ingest.adapters import Budget
from services.ingest.domain import batches
from services.ingest.handlers import Document
from services.ingest.routes import Desk
from tests.unit.ingest.conftest import EXAMPLES, SOURCE, Ingest, Make, new_intake
from tests.unit.ingest.samples import NOW
from tests.unit.runtime.test_http import check_documents

pytestmark = pytest.mark.unit

ONE, MANY, NDJSON = "application/cloudevents+json", "application/cloudevents-batch+json", "application/x-ndjson"
PLANTED = "KERGUELEN-DE-TREMAREC"
IDENTITY = {"birth_family_name": PLANTED, "given_names": [PLANTED], "birth_date": "1985-05-12"}


def line(event: Any) -> bytes:
    return json.dumps(event).encode()


def bad_events(good: dict[str, Any]) -> dict[str, tuple[str, bytes]]:
    """Of each kind of bad event, the reason it gets and its JSON."""

    def changed(**changes: Any) -> bytes:
        return line({**good, "data": {**good["data"], "identity": IDENTITY}, **changes})

    def person(**changes: Any) -> bytes:
        return changed(data={**good["data"], "identity": {**IDENTITY, **changes}})

    def nir(value: Any) -> bytes:
        return person(identifiers=[{"system": "ins-nir", "value": value}])

    without_time = {name: value for name, value in good.items() if name != "time"}
    return {
        "unknown type": ("unknown-type", changed(type=f"{PLANTED}.v1")),
        "type is no text": ("bad-value", changed(type=[PLANTED])),
        "missing field": ("missing-field", line(without_time)),
        "wrong time": ("bad-value", changed(time=f"12th of {PLANTED}")),
        "wrong day": ("bad-value", changed(time="2026-02-30T10:00:00Z")),
        "no offset": ("bad-value", changed(time="2026-03-01T10:00:00")),
        "a number for a time": ("bad-value", changed(time=1740000000)),
        "a time out of range": ("bad-value", changed(time="0001-01-01T00:00:00+05:00")),
        "a time that stands for none": ("bad-value", changed(time="9999-12-31T00:00:00Z")),
        "a time too early": ("bad-value", changed(time="1849-12-31T23:59:59Z")),
        "a time too late": ("bad-value", changed(time="2199-12-31T23:30:00-01:00")),
        "no birth date": ("bad-value", person(birth_date="1985-13-45")),
        "bad NIR key": ("bad-nir-key", nir("285053523800199")),
        "bad NIR": ("bad-identifier", nir(PLANTED)),
        "NIR as a number": ("bad-value", nir(285053523800148)),
        "unknown system": ("bad-value", person(identifiers=[{"system": PLANTED, "value": PLANTED}])),
        "ipp of nobody": ("bad-value", person(identifiers=[{"system": "ipp", "value": PLANTED}])),
        "bad place": ("bad-value", person(birth_place=PLANTED)),
        "bad sex": ("bad-value", person(sex=PLANTED)),
        "names are one text": ("bad-value", person(given_names=PLANTED)),
        "too long a name": ("bad-value", person(birth_family_name=PLANTED * 20)),
        "not JSON": ("not-json", b'{"specversion": ' + PLANTED.encode()),
        "deep JSON": ("too-deep", b'{"data":' * 10_000 + b"1" + b"}" * 10_000),
        "NUL as an escape": ("nul-byte", changed(id=f"{PLANTED}\x00")),
        "NUL in a name": ("nul-byte", person(**{f"{PLANTED}\x00": 1})),
        "raw NUL": ("nul-byte", b'{"id": "\x00' + PLANTED.encode() + b'"}'),
        "no record": ("missing-field", changed(data={"identity": IDENTITY})),
        "record of nothing": ("invalid-record", changed(data={"identity": IDENTITY, "record": {PLANTED: PLANTED}})),
        "identity with a record": ("invalid-record", changed(type="identity.v1")),
        "unknown field": ("unknown-field", person(**{PLANTED: PLANTED})),
        "unknown attribute": ("unknown-field", changed(**{PLANTED: PLANTED})),
        "a list": ("bad-value", b"[1, 2]"),
        "a number": ("bad-value", b"17"),
        "nothing": ("bad-value", b"null"),
        "not a number": ("not-json", changed(version="@").replace(b'"@"', b"NaN")),
        "an endless number": ("bad-value", changed(version="@").replace(b'"@"', b"1e999")),
        "lone surrogate": ("not-json", changed(id="\ud800" + PLANTED)),
        "not UTF-8": ("not-json", changed(id="@@").replace(b"@@", b"\xff" + PLANTED.encode())),
        "wrong version": ("bad-value", changed(specversion=PLANTED)),
        "huge version": ("bad-value", changed(version=10**40)),
        "endless digits": ("bad-value", changed(version="@").replace(b'"@"', b"9" * 5000)),
        "another's": ("source-not-yours", changed(source=f"urn:{PLANTED}")),
        "no id": ("bad-value", changed(id="")),
        "data is text": ("bad-value", changed(data=PLANTED)),
    }


KINDS = sorted(bad_events(json.loads((EXAMPLES / "hospital-stay.json").read_text())))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [NDJSON, MANY])
def test_a_bad_event_gets_its_reason_and_harms_no_other(ingest: Ingest, event: Make, kind: str, form: str) -> None:
    reason, bad = bad_events(event(source=SOURCE))[kind]
    good = line(event(id="good"))
    body = good + b"\n" + bad + b"\n" + good if form == NDJSON else b"[" + good + b"," + bad + b" , " + good + b"]"
    if form == MANY and kind == "not JSON":
        bad += b"}"
        body = b"[" + good + b"," + bad + b"," + good + b"]"
    response = ingest.post(body, form)
    assert response.status_code == 202, response.text
    receipt = response.json()
    assert [one["id"] for one in receipt["accepted"]] == ["good", "good"]
    (refused,) = receipt["rejected"]
    assert (refused["index"], refused["reason"]) == (1, reason)
    assert refused["detail"]
    assert PLANTED not in response.text
    assert "1985" not in response.text
    assert len(ingest.outbox.sent) == 2
    alone = ingest.post(bad)
    assert alone.status_code == 422
    assert alone.headers["content-type"] == "application/problem+json"
    assert [one["reason"] for one in alone.json()["rejected"]] == [reason]
    assert alone.json()["accepted"] == []
    assert PLANTED not in alone.text


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_no_mutilated_event_crashes_or_is_repeated(data: st.DataObject) -> None:
    """Any value in any place, and bytes cut or changed anywhere."""
    made = json.loads((EXAMPLES / "hospital-stay.json").read_text())
    made["data"]["identity"] |= IDENTITY
    junk = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(PLANTED),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just(PLANTED), inner, max_size=3),
        max_leaves=5,
    )
    place = made
    for step in data.draw(st.sampled_from([(), ("data",), ("data", "identity"), ("data", "record")])):
        place = place[step]
    place[data.draw(st.sampled_from(sorted(place)) | st.just(PLANTED))] = data.draw(junk)
    raw = json.dumps(made).encode("utf-8", "surrogatepass")
    if data.draw(st.booleans()):
        cut = data.draw(st.integers(0, len(raw)))
        raw = raw[:cut] + data.draw(st.binary(max_size=4)) + raw[cut + data.draw(st.integers(0, 3)) :]
    taken = new_intake().take([batches.Element(0, raw)], SOURCE, "live", NOW)
    assert len(taken.kept) + len(taken.rejected) == 1
    for _, (reason, detail) in taken.rejected:
        assert reason != "internal-error"
        assert PLANTED not in reason + detail


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_split_or_are_refused(body: bytes) -> None:
    assert all(one.json for one in batches.lines(body))
    for split in (batches.array, batches.one_or_many):
        try:
            split(body)
        except batches.BadBody as bad:
            assert str(bad)


@pytest.mark.parametrize("name", [path.stem for path in sorted(EXAMPLES.glob("*.json"))])
def test_every_example_is_taken(ingest: Ingest, event: Make, name: str) -> None:
    made = event(name)
    response = ingest.post(made, ONE)
    assert response.status_code == 202, response.text
    (accepted,) = response.json()["accepted"]
    (emit,) = ingest.outbox.sent
    of_rights = made["type"].removesuffix(".deleted") in OF_RIGHTS
    assert emit.topic == ("oppositions" if of_rights else "records-received")
    assert emit.key == accepted["event_id"].encode() == emit.headers[Headers.EVENT_ID]
    assert emit.headers.keys() == {
        "ce_id",
        "ce_source",
        "ce_type",
        "digest",
        "revision",
        "traceparent",
        "key_version",
    }
    assert emit.headers[Headers.TYPE].decode() == made["type"]
    assert emit.headers[Headers.REVISION] == str(made.get("version", 0)).encode()
    assert len(emit.headers[Headers.DIGEST]) == 32
    block, content = ingest.outbox.opened()
    assert block.correction is made.get("correction", False)
    assert content.type == made["type"].removesuffix(".deleted")
    assert content.type in RECORD_TYPES
    assert content.time.endswith("Z")
    identity = made["data"]["identity"]
    if of_rights:
        assert content.demographics == Demographics()
    elif "birth_date" in identity:
        assert content.demographics.birth_year == int(identity["birth_date"][:4])
    if name == "death":
        assert content.demographics.deceased == made["data"]["record"]["date"]


def test_the_range_of_times_is_told(ingest: Ingest, event: Make) -> None:
    for time_ in ("1850-01-01T00:00:00Z", "2199-12-31T23:59:59Z"):
        assert ingest.post(event(time=time_)).status_code == 202
    (rejected,) = ingest.post(event(time="9999-12-31T23:59:59-05:00")).json()["rejected"]
    assert rejected["reason"] == "bad-value"
    assert rejected["detail"].startswith("time: not within 1850 to 2199")


def test_a_time_that_the_source_does_not_know_is_the_moment_of_arrival(ingest: Ingest, event: Make) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    assert ingest.post(event(time=None)).status_code == 202
    assert before <= datetime.fromisoformat(ingest.outbox.opened()[1].time) <= datetime.now(UTC)


def test_time_is_told_in_utc(ingest: Ingest, event: Make) -> None:
    ingest.post(event(time="2026-03-01T01:30:00+02:00"))
    assert ingest.outbox.opened()[1].time == "2026-02-28T23:30:00Z"


def test_no_identity_is_in_a_message(ingest: Ingest, event: Make) -> None:
    ingest.post(event(identity=IDENTITY, subject=PLANTED, id=PLANTED))
    (emit,) = ingest.outbox.sent
    block, content = ingest.outbox.opened()
    everything = repr((emit, block, content))
    assert PLANTED not in everything
    assert hashlib.sha256(PLANTED.encode()).hexdigest() not in everything


def test_no_trace_id_of_a_producer_is_in_a_header(ingest: Ingest, event: Make) -> None:
    hidden = hashlib.sha256(PLANTED.encode()).hexdigest()
    for flags in ("00", "01"):
        assert ingest.post(event(traceparent=f"00-{hidden[:32]}-{hidden[32:48]}-{flags}")).status_code == 202
    headers = repr([emit.headers for emit in ingest.outbox.sent])
    assert hidden[:32] not in headers
    assert hidden[32:48] not in headers


def digests(ingest: Ingest, *events: dict[str, Any]) -> list[bytes]:
    for one in events:
        assert ingest.post(one).status_code == 202
    return [emit.headers[Headers.DIGEST] for emit in ingest.outbox.sent]


def test_a_digest_is_of_the_content(ingest: Ingest, event: Make) -> None:
    plain = event()
    turned = {name: plain[name] for name in reversed(plain)}
    turned["data"] = {name: dict(reversed(part.items())) for name, part in reversed(plain["data"].items())}
    same = [plain, turned, plain | {"correction": True}, plain | {"subject": "x"}]
    same += [plain | {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}, plain | {"id": "another"}]
    same += [plain | {"time": "2026-03-01T11:00:00+01:00"}]
    others = [plain | {"version": 1}, plain | {"time": "2026-03-01T10:00:01Z"}, event(record={"entry": "2026-02-24"})]
    found = digests(ingest, *same, *others)
    assert len(set(found[: len(same)])) == 1
    assert len(set(found)) == 1 + len(others)


def test_an_event_id_is_of_source_and_id(ingest: Ingest, event: Make) -> None:
    one = ingest.post(event(id="a")).json()["accepted"][0]
    assert ingest.post(event("claim", id="a")).json()["accepted"][0] == one
    asked = ingest.get("/v1/records", source=SOURCE, id="a")
    assert asked.json() == one
    assert ingest.get("/v1/records", source="urn:other", id="a").status_code == 403


def test_the_three_forms_and_plain_json(ingest: Ingest, event: Make) -> None:
    one, two = event(id="1"), event(id="2")
    lines = b"\xef\xbb\xbf" + line(one) + b"\r\n\n \n" + line(two) + b"\n"
    for body, kind, count in [
        (one, ONE, 1),
        ([one, two], MANY, 2),
        (lines, NDJSON, 2),
        (one, "application/json", 1),
        ([one, two], "application/json; charset=utf-8", 2),
        ([one, one], MANY, 2),
    ]:
        assert len(ingest.post(body, kind).json()["accepted"]) == count, kind
    assert ingest.post(line(one) + b"\n\nnope", NDJSON).json()["rejected"][0]["index"] == 2


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", NDJSON, 422),
        (b"[]", MANY, 422),
        (b"", ONE, 422),
        (b"{}", "text/html", 415),
        (b"{}", "", 415),
        (b"[" * 50_000, MANY, 422),
        (b'{"a":1}', MANY, 422),
        (b"nonsense", MANY, 422),
        (b'["' + b'\\"' * 20_000, MANY, 422),
        (b"x" * 100_001, NDJSON, 413),
        (b"1\n" * 1001, NDJSON, 413),
    ],
)
def test_a_body_that_is_no_body(ingest: Ingest, body: bytes, kind: str, status: int) -> None:
    response = ingest.post(body, kind)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert response.json()["detail"]


def test_gzip_is_taken_within_bounds(ingest: Ingest, event: Make) -> None:
    packed = gzip.compress(line(event()))
    encoding = {"Content-Encoding": "gzip"}
    assert ingest.post(packed, **encoding).status_code == 202
    assert len(ingest.post(packed + gzip.compress(b"\n") + packed, **encoding).json()["accepted"]) == 2
    for broken in (packed[:-9], packed[:-1], packed + b"x", line(event()), packed[:20] + b"xxxxxxx" + packed[27:]):
        response = ingest.post(broken, **encoding)
        assert (response.status_code, response.headers["content-type"]) == (400, "application/problem+json")
    assert ingest.post(gzip.compress(b"x" * 50_000_000), **encoding).status_code == 413
    assert ingest.post(packed, **{"Content-Encoding": "br"}).status_code == 415


def test_a_gzip_body_has_few_members(ingest: Ingest) -> None:
    empty = gzip.compress(b"")
    assert ingest.post(empty * 65, **{"Content-Encoding": "gzip"}).status_code == 400
    assert batches.unpack(empty * 63 + gzip.compress(b"x"), 100, lambda _: True) == b"x"
    with pytest.raises(batches.BadBody, match="more than 64 members"):
        batches.unpack(empty * 200_000, 100, lambda _: True)


def test_an_empty_gzip_body_is_cut_short_or_empty() -> None:
    assert batches.unpack(b"", 100, lambda _: True) == b""
    assert batches.unpack(gzip.compress(b""), 100, lambda _: True) == b""
    with pytest.raises(batches.BadBody, match="cut short"):
        batches.unpack(gzip.compress(b"")[:10], 100, lambda _: True)


def test_what_is_unpacked_is_held_until_it_is_answered(ingest: Ingest, event: Make) -> None:
    desk: Desk = ingest.app.state.desk
    desk._budget = Budget(50_000)
    held: list[int] = []
    outbox_send = ingest.outbox.send

    def send(emits: Sequence[Emit]) -> Future[None]:
        held.append(desk._budget._held)
        return outbox_send(emits)

    ingest.outbox.send = send  # type: ignore[method-assign]
    encoding = {"Content-Encoding": "gzip"}
    body = line(event())
    assert ingest.post(gzip.compress(body + b"\n" * 20_000), **encoding).status_code == 202
    assert held == [len(body) + 20_000]
    busy = ingest.post(gzip.compress(body + b" " * 60_000), **encoding)
    assert (busy.status_code, "retry-after" in busy.headers) == (429, True)
    assert desk._budget._held == 0


def test_a_hold_that_has_ended_takes_nothing() -> None:
    budget = Budget(10)
    with budget.hold() as hold, budget.hold() as other:
        assert hold.take(7)
        assert not other.take(4)
        hold.give_back(2)
        assert other.take(4)
    assert not hold.take(1)
    assert budget._held == 0


def test_a_token_is_needed(ingest: Ingest, event: Make) -> None:
    for value in ("", "Bearer nonsense", "Basic x"):
        response = ingest.post(event(), Authorization=value)
        assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert ingest.outbox.sent == []


def test_the_producers_file_is_read_again(ingest: Ingest, event: Make) -> None:
    listed = [{"source": "urn:new", "token_sha256": hash_token("new")}]
    ingest.producers.write_text(json.dumps({"producers": listed}))
    assert ingest.post(event(source="urn:new"), Authorization="Bearer new").status_code == 202
    ingest.producers.write_text("nonsense: [")
    assert ingest.post(event(source="urn:new"), Authorization="Bearer new").status_code == 202


def test_nothing_is_claimed_that_the_broker_has_not_confirmed(ingest: Ingest, event: Make) -> None:
    ingest.outbox.failing = True
    unconfirmed = ingest.post(event())
    assert (unconfirmed.status_code, "retry-after" in unconfirmed.headers) == (503, True)
    ingest.outbox.full = True
    full = ingest.post(event())
    assert (full.status_code, "retry-after" in full.headers) == (429, True)
    ingest.outbox.full, ingest.outbox.room = False, False
    assert ingest.post(event()).status_code == 429
    for answer in (unconfirmed, full):
        assert "accepted" not in answer.json()


def test_the_backfill_lane_is_asked_for(ingest: Ingest, event: Make) -> None:
    ingest.post(event(), path="/v1/events?lane=backfill")
    assert ingest.outbox.sent[-1].topic == "records-received-backfill"
    assert ingest.post(event(), path="/v1/events?lane=other").status_code == 422


def test_a_source_whose_records_end_as_dead_letters_has_to_wait(ingest: Ingest, event: Make) -> None:
    def report(**verdicts: int) -> None:
        counts = {name.replace("_conflict", ":conflict"): count for name, count in verdicts.items()}
        ingest.flow.seen(FlowSummary("linkage", 0, 0, (), {SOURCE: counts}), time.monotonic())

    report(dead_lettered_conflict=199)
    assert ingest.post(event()).status_code == 202
    report(linked=1)
    response = ingest.post(event())
    assert response.status_code == 429
    assert 0 < int(response.headers["retry-after"]) <= 61


def test_status_is_complete_when_a_marker_is_through_everywhere(ingest: Ingest, event: Make) -> None:
    ingest.post(event())
    now = "2026-01-01T00:00:00Z"
    first = ingest.get("/v1/status", source=SOURCE, through=now).json()
    assert (first["complete"], first["watermark"]) == (False, {"live": None, "backfill": None})
    assert first["counts"]["ingest"] == {"accepted": 1, "rejected": 0}
    markers = [emit for emit in ingest.outbox.sent if "marker" in emit.headers]
    assert [(one.topic, one.partition, one.headers["marker_origin"], one.value, one.key) for one in markers] == [
        (f"records-received{lane}", origin, str(origin).encode(), b"", None)
        for lane in ("", "-backfill")
        for origin in range(2)
    ]
    ingest.get("/v1/status", source=SOURCE, through=now)
    assert len(ingest.outbox.sent) == 1 + len(markers)
    for lane, marker in (("", markers[0]), ("-backfill", markers[2])):
        name = marker.headers["marker"].decode()
        passed = [Passed(name, f"records-linked{lane}", origin, origin) for origin in range(2)]
        passed += [Passed(name, "patient-links", place, origin) for place in range(2) for origin in range(2)]
        for one in passed:
            ingest.flow.seen(FlowSummary("linkage", 0, 0, (), {}, (one,)), 0)
            status = ingest.get("/v1/status", source=SOURCE, through=now).json()
            assert status["complete"] is False
            ingest.flow.seen(FlowSummary("access", 0, 0, (), {}, (one,)), 0)
        alone = "backfill" if lane else "live"
        assert ingest.get("/v1/status", source=SOURCE, through=now, lane=alone).json()["complete"] is True
    status = ingest.get("/v1/status", source=SOURCE, through=now).json()
    assert status["complete"] is True
    assert status["watermark"]["live"].endswith("Z")
    assert ingest.get("/v1/status", source=SOURCE, through="2090-01-01T00:00:00Z").json()["complete"] is False
    assert ingest.get("/v1/status", source="urn:other", through=now).status_code == 403
    assert ingest.get("/v1/status", source=SOURCE, through="yesterday").status_code == 422


BUNDLE: dict[str, Any] = {
    "resourceType": "Bundle",
    "type": "collection",
    "entry": [
        {"resource": {"resourceType": "Organization", "id": "o"}},
        {"resource": {"resourceType": "Patient", "id": "p", "name": [{"family": PLANTED, "given": ["Anne"]}]}},
        {"resource": {"resourceType": "Observation", "id": "no person"}},
        {"resource": {"resourceType": "Practitioner", "id": "d"}},
        {
            "resource": {
                "resourceType": "Patient",
                "id": "q",
                "identifier": [{"system": "urn:oid:1.2.250.1.213.1.4.8", "value": "285053523800199"}],
            }
        },
    ],
}


def test_a_bundle_is_taken_by_resource(ingest: Ingest) -> None:
    response = ingest.post(BUNDLE, "application/fhir+json", "/v1/fhir")
    assert response.status_code == 202, response.text
    receipt = response.json()
    assert [one["id"] for one in receipt["accepted"]] == ["Patient/p"]
    assert [one["index"] for one in receipt["rejected"]] == [2, 4]
    assert receipt["rejected"][1]["reason"] == "bad-nir-key"
    assert receipt["not_taken"] == {"Organization": 1, "Practitioner": 1}
    assert PLANTED not in response.text


def test_a_resource_without_a_time_is_the_same_when_sent_again(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = BUNDLE["entry"][1]["resource"]
    for now in (datetime(2026, 3, 1, 10, 0, 0, tzinfo=UTC), datetime(2026, 3, 1, 10, 0, 1, tzinfo=UTC)):
        monkeypatch.setattr(routes, "datetime", type("Stopped", (datetime,), {"now": lambda _zone, now=now: now}))
        ingest.post(patient, "application/fhir+json", "/v1/fhir")
    first, again = ingest.outbox.sent
    assert first.headers[Headers.DIGEST] == again.headers[Headers.DIGEST]


PUSHED: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "o-1",
    "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "8302-2"}]},
    "subject": {"reference": "Patient/p", "display": PLANTED},
    "valueQuantity": {"value": 176},
}


def push(ingest: Ingest, resource: Any, name: str = "Observation/o-1", kind: str = "application/fhir+json") -> Any:
    headers = {"Content-Type": kind}
    return ingest.call("PUT", f"/v1/fhir/{name}", content=json.dumps(resource).encode(), headers=headers)


def outcome(response: Any) -> list[tuple[str, str]]:
    assert (response.status_code, response.headers["content-type"]) == (200, "application/fhir+json")
    told = response.json()
    assert told["resourceType"] == "OperationOutcome"
    return [(issue["severity"], issue["diagnostics"].partition(":")[0]) for issue in told["issue"]]


def test_a_subscriptions_push_is_an_update_of_its_resource(ingest: Ingest) -> None:
    assert outcome(push(ingest, PUSHED)) == [("information", "kept")]
    block, content = ingest.outbox.opened()
    assert block.correction
    assert content.record["valueQuantity"] == {"value": 176}
    assert outcome(push(ingest, PUSHED | {"meta": {"versionId": "4"}})) == [("information", "kept")]
    assert not ingest.outbox.opened()[0].correction
    assert ingest.outbox.sent[-1].headers[Headers.REVISION] == b"4"
    dead = {"resourceType": "Patient", "id": "p", "deceasedDateTime": "0001"}
    assert outcome(push(ingest, dead, "Patient/p")) == [("information", "kept"), ("warning", "bad-date")]
    both = push(ingest, dead | {"deceasedDateTime": "2026-03-01"}, "Patient/p")
    assert outcome(both) == [("information", "kept")] * 2
    other = {"resourceType": "Organization", "id": "o"}
    assert outcome(push(ingest, other, "Organization/o")) == [("information", "not taken")]


def test_a_push_that_is_no_update_of_its_resource(ingest: Ingest) -> None:
    for name in ("Observation/o-2", "Patient/o-1", f"Observation/{PLANTED.encode().hex()}"):
        response = push(ingest, PUSHED, name)
        assert (response.status_code, response.json()["title"]) == (400, "another resource")
    refused = push(ingest, PUSHED | {"subject": {"display": PLANTED}})
    assert refused.status_code == 422
    assert [one["reason"] for one in refused.json()["rejected"]] == ["no-person"]
    assert PLANTED not in refused.text
    assert push(ingest, PUSHED, kind="text/plain").status_code == 415
    assert push(ingest, PUSHED, f"Observation/{'x' * 65}").status_code == 422
    assert ingest.outbox.sent == []
    assert ingest.call("DELETE", "/v1/fhir/Observation/o-1").status_code == 405
    assert "o-1" not in ingest.get("/metrics").text


def test_a_fhir_body_that_is_none(ingest: Ingest) -> None:
    fhir = ("application/fhir+json", "/v1/fhir")
    for body in (b"", b"nonsense", b'{"a":' * 10_000, b"[1]", b'{"resourceType":"\xff"}', b'{"a":1e999}'):
        assert ingest.post(body, *fhir).status_code == 422, body[:20]
    nul = json.dumps(BUNDLE["entry"][1]["resource"] | {"birthDate": "\x00"}).encode()
    assert ingest.post(nul, *fhir).status_code == 422
    assert ingest.post(b"{}", "text/plain", "/v1/fhir").status_code == 415
    only = {"resourceType": "Organization", "id": "o"}
    assert ingest.post(only, *fhir).json()["not_taken"] == {"Organization": 1}


def test_a_record_too_large_for_the_broker_is_refused_alone(event: Make) -> None:
    acts = [{"code": "DEQP003", "date": "2026-02-24", "activity": "1", "phase": "0"}] * 1000
    units = [{"code": "07A", "entry": "2026-02-24", "exit": "2026-03-01"}] * 1000
    big = event(record={"entry": "2026-02-24", "exit": "2026-03-01", "acts": acts, "units": units})
    intake = new_intake()
    taken = intake.take([Document(0, big), Document(1, event())], SOURCE, "live", NOW)
    assert len(taken.kept) == 2
    intake = new_intake()
    intake._to_access = type("Huge", (), {"seal": lambda *_: b"x" * 1_000_000})()
    assert [refusal.reason for _, refusal in intake.take([Document(0, big)], SOURCE, "live", NOW).rejected] == [
        "not-kept"
    ]


def test_a_day_is_told_by_counts_and_a_digest_that_the_producer_can_make_too(ingest: Ingest, event: Make) -> None:
    answers = [ingest.post(line(event(id=name)) + b"\nnope").json() for name in ("a", "b", "a")]
    today = datetime.now(UTC).date().isoformat()
    told = ingest.get(f"/v1/receipts/{today}", source=SOURCE).json()
    ids = [int(one["event_id"], 16) for answer in answers for one in answer["accepted"]]
    assert told == {
        "source": SOURCE,
        "date": today,
        "accepted": 3,
        "rejected": {"not-json": 3},
        "digest": f"{sum(ids) % 2**128:032x}",
    }
    nothing = ingest.get("/v1/receipts/2020-02-29", source=SOURCE).json()
    assert (nothing["accepted"], nothing["rejected"], nothing["digest"]) == (0, {}, "0" * 32)
    assert ingest.get("/v1/receipts/2021-02-29", source=SOURCE).status_code == 422
    assert ingest.get(f"/v1/receipts/{today}", source="urn:other").status_code == 403


def test_metrics_and_documents(ingest: Ingest, event: Make) -> None:
    ingest.post(line(event()) + b"\nnope")
    text = ingest.get("/metrics").text
    assert f'estuaire_ingest_events_accepted_total{{source="{SOURCE}"}}' in text
    assert f'estuaire_ingest_events_rejected_total{{reason="not-json",source="{SOURCE}"}}' in text
    assert 'estuaire_ingest_request_seconds_count{route="/v1/events"}' in text
    paths = ingest.get("/openapi.json").json()["paths"]
    assert set(paths["/v1/events"]["post"]["requestBody"]["content"]) == {ONE, MANY, NDJSON, "application/json"}
    assert ingest.get("/readyz").status_code == 200


def test_the_document_says_what_is_answered(ingest: Ingest) -> None:
    sending, asking = {202, 400, 401, 413, 415, 422, 429, 503}, {200, 401, 403, 422}
    document = check_documents(
        ingest.app,
        {
            "POST /v1/events": sending,
            "POST /v1/fhir": sending,
            "POST /v1/oppositions": sending,
            "POST /v1/requests": sending,
            "PUT /v1/fhir/{kind}/{id}": sending - {202} | {200},
            "POST /v1/hl7v2": sending,
            "POST /v1/files/{format}": sending | {404},
            "GET /v1/status": asking,
            "GET /v1/records": asking,
            "GET /v1/receipts/{date}": asking | {503},
        },
    )
    body = document["paths"]["/v1/events"]["post"]["requestBody"]["content"]
    event = {"$ref": "#/components/schemas/Event"}
    assert body[ONE]["schema"] == event
    assert body[MANY]["schema"]["items"] == event
    assert body[NDJSON]["schema"]["type"] == "string"
    assert ingest.get("/docs").status_code == 200


# --- oppositions ---

OBJECTION = {"id": "o-1", "identity": {**IDENTITY, "identifiers": [{"system": "ins-nir", "value": "285053523800148"}]}}


def objects(ingest: Ingest, **changes: Any) -> Any:
    return ingest.post(json.dumps({**OBJECTION, **changes}).encode(), "application/json", "/v1/oppositions")


def test_an_opposition_is_tokens_and_a_scope_and_tells_nothing_of_its_person(ingest: Ingest) -> None:
    response = objects(ingest)
    assert response.status_code == 202, response.text
    (emit,) = ingest.outbox.sent
    assert (emit.topic, emit.headers[Headers.TYPE]) == ("oppositions", b"opposition.v1")
    block, content = ingest.outbox.opened()
    assert block.identifiers
    assert block.correction
    assert content.record == {"scope": "all"}
    assert content.demographics == Demographics()
    assert objects(ingest, made=False, scope="source", version=3).status_code == 202
    emit = ingest.outbox.sent[-1]
    assert (emit.headers[Headers.TYPE], emit.headers[Headers.REVISION]) == (b"opposition.v1.deleted", b"3")
    assert emit.key == ingest.outbox.sent[0].key, "an opposition and its end are one"


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"id": ""}, "bad-value", "id"),
        ({"scope": PLANTED}, "bad-value", "scope"),
        ({"made": PLANTED}, "bad-value", "made"),
        ({PLANTED: 1}, "unknown-field", "spelling mistake"),
        ({"identity": {"sex": "female"}}, "nobody-found", "data.identity"),
        ({"identity": {**IDENTITY, "identity_status": "fictitious"}}, "nobody-found", "data.identity"),
        ({"identity": {"identifiers": [{"system": "ins-nir", "value": PLANTED}]}}, "bad-identifier", "value"),
    ],
)
def test_an_opposition_that_could_not_be_followed_is_refused_with_what_to_mend(
    ingest: Ingest, changes: dict[str, Any], reason: str, field: str
) -> None:
    response = objects(ingest, **changes)
    assert response.status_code == 422
    (rejected,) = response.json()["rejected"]
    assert rejected["reason"] == reason
    assert field in rejected["detail"]
    assert PLANTED not in response.text
    assert ingest.outbox.sent == []


def test_an_opposition_that_is_no_json_is_said_to_be_none(ingest: Ingest) -> None:
    for body in (b"{", b"[]", b'"x"', b'{"id": "\\u0000"}'):
        assert ingest.post(body, "application/json", "/v1/oppositions").status_code == 422
    assert ingest.post(b"{}", "text/plain", "/v1/oppositions").status_code == 415


# --- requests ---

REQUEST = {**OBJECTION, "id": "r-1", "kind": "erasure", "received": "2026-05-11"}


def asks(ingest: Ingest, **changes: Any) -> Any:
    return ingest.post(json.dumps({**REQUEST, **changes}).encode(), "application/json", "/v1/requests")


@pytest.mark.parametrize("kind", ["access", "erasure"])
def test_a_request_goes_the_way_of_oppositions_and_tells_nothing_of_its_person(ingest: Ingest, kind: str) -> None:
    response = asks(ingest, kind=kind)
    assert response.status_code == 202, response.text
    (emit,) = ingest.outbox.sent
    assert (emit.topic, emit.headers[Headers.TYPE]) == ("oppositions", f"{kind}-request.v1".encode())
    block, content = ingest.outbox.opened()
    assert block.identifiers
    assert content.record == {"received": "2026-05-11"}
    assert content.demographics == Demographics()
    assert asks(ingest, kind=kind, made=False).status_code == 202
    assert ingest.outbox.sent[-1].headers[Headers.TYPE] == f"{kind}-request.v1.deleted".encode()
    assert ingest.outbox.sent[-1].key == emit.key, "a request is taken back by its own name"


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"kind": PLANTED}, "bad-value", "kind"),
        ({"received": PLANTED}, "bad-value", "received"),
        ({"received": "2026-02-30"}, "bad-value", "received is not a day of the calendar"),
        ({"received": 0}, "bad-value", "received"),
        ({PLANTED: 1}, "unknown-field", "spelling mistake"),
        ({"identity": {"sex": "female"}}, "nobody-found", "data.identity"),
    ],
)
def test_a_request_that_could_not_be_followed_is_refused_with_what_to_mend(
    ingest: Ingest, changes: dict[str, Any], reason: str, field: str
) -> None:
    response = asks(ingest, **changes)
    assert response.status_code == 422
    (rejected,) = response.json()["rejected"]
    assert rejected["reason"] == reason
    assert field in rejected["detail"]
    assert PLANTED not in response.text
    assert ingest.outbox.sent == []
