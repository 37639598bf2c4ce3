"""What is counted of a record: that it has something, never what."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from contracts import measures as names
from contracts.events import RECORD_TYPES
from contracts.messages import Measures, measures_associated
from runtime.messages import Emit, FlowSummary
from runtime.sealing import Opener, Sealer
from runtime.settings import RuntimeSettings
from services.ingest.adapters import MeasuresSender, NotKept, QueueFull
from services.ingest.domain.content import strip
from services.ingest.domain.flow import Flow, ThrottleRule
from services.ingest.domain.measures import Counts, Tally, lateness, refused_as
from services.ingest.domain.refusals import Refusal
from tests.unit.ingest.conftest import SOURCE, FakeOutbox, Ingest, Make

pytestmark = pytest.mark.unit

HOUR = 3600.0
PRIVATE = X25519PrivateKey.generate()


def counted(ingest: Ingest) -> dict[str, dict[str, int]]:
    """What the tally has of the tests' source, by type."""
    return ingest.tally.take().get(SOURCE, {})


def test_a_record_is_counted_by_what_it_has(ingest: Ingest, event: Make) -> None:
    identity = {
        "identifiers": [
            {"system": "ins-nir", "value": "285053523800148"},
            {"system": "ipp", "assigner": "a", "value": "1"},
            {"system": "ipp", "assigner": "b", "value": "2"},
        ],
        "birth_family_name": "LE GOFF",
        "sex": "male",
        "birth_date": "1985-05",
        "residence": {"city": "Rennes"},
    }
    record = {"entry": "2026-03-01", "exit": "2026-03-04", "associated_diagnoses": ["Z602", "NONE"], "surname": "X"}
    ago = (datetime.now(UTC) - timedelta(hours=3)).isoformat()
    assert ingest.post(event(identity=identity, record=record, time=ago)).status_code == 202
    assert counted(ingest) == {
        "hospital-stay.v1": {
            "records": 1,
            "status.provisional": 1,
            "late.day": 1,
            "removed": 2,
            "identity.birth_family_name": 1,
            "identity.sex": 1,
            "identity.residence": 1,
            "system.ins-nir": 1,
            "system.ipp": 1,
            "field.entry": 1,
            "field.exit": 1,
            "field.associated_diagnoses": 1,
            "invalid.associated_diagnoses": 1,
            "flag.nir-contradicts-sex": 1,
        }
    }
    assert counted(ingest) == {}, "it counts from nothing again"


def test_what_cannot_be_linked_is_counted_and_an_unknown_sex_is_none(ingest: Ingest, event: Make) -> None:
    ingest.post(event(identity={"sex": "unknown"}, time=None), path="/v1/events?lane=backfill")
    ingest.post(event(identity={"sex": "other", "birth_date": "1985-05-12"}, time=None))
    stays = counted(ingest)["hospital-stay.v1"]
    assert (stays["unlinkable"], stays["identity.sex"], stays["identity.birth_date"]) == (2, 1, 1)
    assert (stays["late.backfill"], stays["late.unknown"]) == (1, 1)


def test_retractions_are_counted_apart(ingest: Ingest, event: Make) -> None:
    ingest.post(event("hospital-stay-deleted"))
    assert counted(ingest) == {"hospital-stay.v1": {"retractions": 1}}


def test_refusals_are_counted_by_the_type_they_state(ingest: Ingest, event: Make) -> None:
    lines = [
        event(record={"entry": "2026-02-30"}),
        event(type="hospital-stay.v1.deleted", specversion="0.3"),
        event(type="horoscope.v1"),
        event(identity={"birth_date": "1985-02-31"}),
        event(identity={"birth_date": "LE GOFF", "sex": "LE GOFF", "LE GOFF": 1}),
        event(identity={"identifiers": [{"system": "ins-nir", "value": "LE GOFF"}]}),
        event(),
    ]
    body = b"\n".join([*(msgspec.json.encode(line) for line in lines), b"{nonsense"])
    assert ingest.post(body).status_code == 202
    found = counted(ingest)
    assert found[""] == {"refused.unknown-type": 1, "refused.not-json": 1, "wrong.type": 1}
    stays = found["hospital-stay.v1"]
    assert (stays["refused.invalid-record"], stays["refused.bad-value"], stays["records"]) == (1, 2, 1)
    assert {name: count for name, count in stays.items() if name.startswith("wrong.")} == {
        "wrong.record.entry": 1,
        "wrong.specversion": 1,
        "wrong.identity.birth_date": 2,
        "wrong.identity.sex": 1,
        "wrong.identity.identifiers": 1,
        "wrong.identity": 1,
    }
    assert {name for name in stays if not name.startswith(names.OPEN)} <= names.closed("hospital-stay.v1")


@pytest.mark.parametrize(
    ("detail", "wrong"),
    [
        ("Observation.effectiveDateTime is not within 1850 to 2199", ("record.effectiveDateTime",)),
        ("data.record.associated_diagnoses[0].code: expected a code", ("record.associated_diagnoses",)),
        ("data.record: this field is missing; it holds the fields of the type", ("record",)),
        ("data.identity.*: it has a field that no event has; id: empty", ("identity", "id")),
        ("ER_PRS_F, EXE_SOI_DTD: this field is empty; Patient.LeGoff: none", ()),
        ("line 3: the line ends before the end of it", ()),
    ],
)
def test_the_fields_that_a_refusal_names_are_those_of_the_contract(detail: str, wrong: tuple[str, ...]) -> None:
    assert refused_as({"type": "claim.v1.deleted"}, Refusal("bad-value", detail)) == ("claim.v1", "bad-value", wrong)


def test_what_the_broker_does_not_confirm_is_not_counted(ingest: Ingest, event: Make) -> None:
    ingest.outbox.failing = True
    assert ingest.post(event()).status_code == 503
    ingest.outbox.failing, ingest.outbox.full = False, True
    assert ingest.post(event()).status_code == 429
    assert counted(ingest) == {}


@pytest.mark.parametrize(
    ("seconds", "span"),
    [
        (-301, "future"),
        (-300, "hour"),
        (0, "hour"),
        (HOUR - 1, "hour"),
        (HOUR, "day"),
        (24 * HOUR, "week"),
        (7 * 24 * HOUR, "month"),
        (31 * 24 * HOUR, "year"),
        (366 * 24 * HOUR, "more"),
        (None, "unknown"),
    ],
)
def test_lateness(seconds: float | None, span: str) -> None:
    assert lateness(seconds, is_backfill=False) == span
    assert lateness(seconds, is_backfill=True) == "backfill"
    assert span in names.LATENESS


@given(st.dictionaries(st.sampled_from(["entry", "ghm", "finess", "other", "units"]), st.text() | st.integers()))
def test_every_measure_is_one_of_the_contract(record: dict[str, Any]) -> None:
    try:
        stripped = strip("hospital-stay.v1", {"entry": "2026-03-01", "exit": "2026-03-02", **record})
    except Exception:
        return
    known = names.closed("hospital-stay.v1")
    assert {f"field.{name}" for name in stripped.record} | {f"invalid.{name}" for name in stripped.invalid} <= known


def test_the_contract_has_fields_of_each_type() -> None:
    for kind in RECORD_TYPES:
        assert {"records", "late.hour", "system.ipp"} <= names.closed(kind)
        assert bool(names.forms(kind)) == (kind != "identity.v1")
    assert names.closed("horoscope.v1") == frozenset()
    assert names.closed("") == {f"wrong.{name}" for name in names.fields()}


# what is sent


class Doubtful(FakeOutbox):
    """A broker that fails as often as it is told to, having kept the message or not."""

    failures = 0
    kept = True

    def send(self, emits: Any) -> Future[None]:
        if self.failures:
            self.failures -= 1
            if self.kept:
                self.sent += emits
            raise NotKept
        return super().send(emits)


def sender(outbox: FakeOutbox, tally: Tally) -> MeasuresSender:
    return MeasuresSender(
        RuntimeSettings(bootstrap_servers="nowhere:1", slot=3), tally, outbox, Sealer(PRIVATE.public_key())
    )


def opened(emit: Emit) -> tuple[FlowSummary, Measures]:
    summary = msgspec.msgpack.decode(emit.value or b"", type=FlowSummary)
    plain = Opener([PRIVATE]).open(summary.measures, measures_associated(summary.at))
    return summary, msgspec.msgpack.decode(plain, type=Measures)


def add(tally: Tally, source: str = SOURCE, count: int = 1) -> None:
    tally.add(source, {}, {("claim.v1", "bad-nir-key", ()): count})


def test_it_sends_what_was_counted_sealed_and_nothing_when_there_is_nothing() -> None:
    tally, outbox = Tally(), FakeOutbox()
    one = sender(outbox, tally)
    one._send()
    assert outbox.sent == []
    add(tally)
    one._send()
    (emit,) = outbox.sent
    assert (emit.topic, emit.key) == ("flow-summaries", b"ingest-3")
    assert SOURCE.encode() not in (emit.value or b"")
    summary, measures = opened(emit)
    assert (summary.step, summary.slot, summary.inputs, summary.counts, summary.passed) == ("ingest", 3, (), {}, ())
    assert measures.counts == {SOURCE: {"claim.v1": {"refused.bad-nir-key": 1}}}


@pytest.mark.parametrize("kept", [True, False])
def test_in_doubt_the_very_same_message_is_sent_again(kept: bool) -> None:
    tally, outbox = Tally(), Doubtful()
    one = sender(outbox, tally)
    outbox.failures, outbox.kept = 2, kept
    add(tally)
    one._send()
    add(tally, count=5)
    one._send()
    one._send()
    found = [opened(emit)[1] for emit in outbox.sent]
    by_number: dict[int, Counts] = {}
    for measures in found:
        assert by_number.setdefault(measures.number, measures.counts) == measures.counts
    assert [counts[SOURCE]["claim.v1"]["refused.bad-nir-key"] for counts in by_number.values()] == [1, 5]
    assert len({measures.writer for measures in found}) == 1
    assert [measures.number for measures in found] == sorted(measures.number for measures in found)


def test_many_sources_are_several_messages() -> None:
    tally, outbox = Tally(), FakeOutbox()
    for number in range(25):
        add(tally, f"urn:{number}")
    sender(outbox, tally)._send()
    assert [len(opened(emit)[1].counts) for emit in outbox.sent] == [10, 10, 5]


def test_what_is_left_is_sent_at_the_end_and_a_broker_that_is_away_does_not_hold_it_up() -> None:
    tally, outbox = Tally(), FakeOutbox()
    add(tally)
    sender(outbox, tally).stop()
    assert len(outbox.sent) == 1

    class Silent(FakeOutbox):
        def send(self, emits: Any) -> Future[None]:
            return Future()

    add(tally)
    one = sender(Silent(), tally)
    one._steady.PATIENCE_SECONDS = 1.0  # type: ignore[misc]
    begun = time.monotonic()
    one.stop()
    assert time.monotonic() - begun < 2

    class Full(FakeOutbox):
        def send(self, emits: Any) -> Future[None]:
            raise QueueFull

    add(tally)
    sender(Full(), tally).stop()


@pytest.mark.parametrize("error", [NotKept("TOPIC_AUTHORIZATION_FAILED"), QueueFull()])
def test_while_the_broker_takes_none_nothing_grows_and_it_is_said_and_measured(
    error: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(FakeOutbox):
        def send(self, emits: Any) -> Future[None]:
            raise error

    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    tally, outbox = Tally(), Refusing()
    one = sender(outbox, tally)
    for _ in range(180):
        add(tally)
        one._send()
        clock[0] += 1
    assert len(one._steady._waiting) == 1
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3, "once a minute"
    assert str(error) in said[0]
    assert SOURCE not in "".join(said)
    unsent = ("estuaire_ingest_unsent_seconds", {"what": "measures"})
    assert REGISTRY.get_sample_value(*unsent) == 180

    working = FakeOutbox()
    one._steady._outbox = working
    one._send()
    counts = [opened(emit)[1].counts[SOURCE]["claim.v1"]["refused.bad-nir-key"] for emit in working.sent]
    assert counts == [1, 179]
    assert REGISTRY.get_sample_value(*unsent) == 0


def test_a_tally_that_nobody_asks_is_bounded_and_counts_the_same() -> None:
    held, asked = Tally(), Tally()
    total: Counter[str] = Counter()
    for number in range(12_000):
        taken = {("claim.v1", False, ("validated", ("ipp",), number % 2), ("entry",), (), number, (), "hour"): 1}
        held.add(SOURCE, taken, {("claim.v1", "bad-value", ("time",)): 1})
        asked.add(SOURCE, taken, {("claim.v1", "bad-value", ("time",)): 1})
        if number % 1000 == 999:
            total.update(asked.take()[SOURCE]["claim.v1"])
    assert len(held._taken[SOURCE]) <= Tally.MOST_SHAPES
    assert held.take() == {SOURCE: {"claim.v1": dict(total)}}
    assert held.take() == {}


def test_ingests_own_summaries_change_nothing_for_its_flow() -> None:
    flow = Flow(2, ThrottleRule(least=1))
    flow.seen(FlowSummary("ingest", 0, 0, (), measures=b"sealed"), 0.0)
    assert flow.counts(SOURCE) == {}
    assert flow.throttle.seconds_left(SOURCE, 0.0) == 0
