"""Summaries become counts, each once, under names that cannot become too many."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from contracts import examples
from contracts.messages import Measures, encode, measures_associated
from runtime.messages import FlowSummary, Message
from runtime.sealing import Opener, Sealer
from services.statistics.domain.counting import MOST_SOURCES, MOST_WORDS, Counted
from services.statistics.handlers import Count, KeyMissing, Opening
from tests.contract.seal_examples import private_key

pytestmark = pytest.mark.unit

NOW = dt.datetime(2026, 3, 2, 10, tzinfo=dt.UTC)
AT = int(NOW.timestamp() * 1000)
SOURCE = "urn:estuaire:producer:chu-rennes"
PRIVATE = X25519PrivateKey.generate()
SEALER = Sealer(PRIVATE.public_key())


class FakeMemory:
    """What was counted, in memory."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, str, str]] = Counter()
        self.seen: dict[str, tuple[dt.datetime, dt.datetime]] = {}
        self.known: set[str] = set()
        self.met: set[str] = set()
        self.last: dict[bytes, int] = {}

    def sources(self) -> Collection[str]:
        return self.known

    def words(self) -> Collection[str]:
        return self.met

    def numbers(self, writers: Collection[bytes]) -> Mapping[bytes, int]:
        return {writer: number for writer, number in self.last.items() if writer in writers}

    def add(self, counted: Counted, numbers: Mapping[bytes, int], today: dt.date) -> None:
        for place, count in counted.counts.items():
            self.counts[place.source, place.day.isoformat(), place.type, place.measure] += count
            self.known.add(place.source)
        self.seen |= counted.seen
        self.met |= counted.words
        self.last |= numbers


def message(value: bytes) -> Message:
    return Message("flow-summaries", 0, 0, 0, b"", value, {})


def verdicts(step: str, counts: dict[str, dict[str, int]], at: int = AT) -> Message:
    return message(encode(FlowSummary(step, 0, at, (), counts)))


def measured(
    counts: dict[str, dict[str, dict[str, int]]], number: int = 1, writer: bytes = b"w", at: int = AT
) -> Message:
    sealed = SEALER.seal(encode(Measures(writer, number, counts)), measures_associated(at))
    return message(encode(FlowSummary("ingest", 0, at, (), measures=sealed)))


def count(memory: FakeMemory, *batch: Message, registered: Collection[str] = ()) -> FakeMemory:
    Count(memory, Opening(Opener([PRIVATE])), registered.__contains__, lambda: NOW).handle(batch)
    return memory


def test_verdicts_and_measures_are_added_up_by_day_source_and_type() -> None:
    memory = FakeMemory()
    yesterday = AT - 24 * 3600 * 1000
    count(
        memory,
        verdicts("linkage", {SOURCE: {"linked": 3, "dead_lettered:conflict": 1}}),
        verdicts("linkage", {SOURCE: {"linked": 2}}, at=yesterday),
        measured({SOURCE: {"claim.v1": {"records": 4, "field.care_date": 4}, "": {"refused.not-json": 1}}}),
        measured({SOURCE: {"claim.v1": {"records": 1}}}, number=2),
    )
    assert memory.counts == {
        (SOURCE, "2026-03-02", "", "linkage.linked"): 3,
        (SOURCE, "2026-03-02", "", "linkage.dead_lettered:conflict"): 1,
        (SOURCE, "2026-03-01", "", "linkage.linked"): 2,
        (SOURCE, "2026-03-02", "claim.v1", "records"): 5,
        (SOURCE, "2026-03-02", "claim.v1", "field.care_date"): 4,
        (SOURCE, "2026-03-02", "", "refused.not-json"): 1,
    }
    assert memory.seen == {SOURCE: (NOW, NOW)}


def test_a_writers_message_counts_once_however_often_it_comes() -> None:
    memory, once = FakeMemory(), {SOURCE: {"claim.v1": {"records": 1}}}
    first, second = measured(once, 1), measured(once, 2)
    other = measured(once, 1, b"another")
    count(memory, first, first, second, other)
    count(memory, second, first, other)
    assert memory.counts[SOURCE, "2026-03-02", "claim.v1", "records"] == 3


def test_names_are_bounded() -> None:
    memory = FakeMemory()
    everybody = {f"urn:{number:04d}": {"claim.v1": {"records": 1}} for number in range(MOST_SOURCES + 10)}
    count(memory, measured(everybody))
    assert memory.counts["other", "2026-03-02", "claim.v1", "records"] == 10
    count(memory, measured({SOURCE: {"claim.v1": {"records": 1}}}, 2), registered=[SOURCE])
    assert memory.counts[SOURCE, "2026-03-02", "claim.v1", "records"] == 1, "a registered one always has its own"
    words = {f"refused.reason-{number}": 1 for number in range(MOST_WORDS + 7)}
    count(memory, measured({SOURCE: {"claim.v1": words}}, 3), registered=[SOURCE])
    assert memory.counts[SOURCE, "2026-03-02", "claim.v1", "other"] == 7


@pytest.mark.parametrize(
    ("kind", "measure", "known"),
    [
        ("claim.v1", "field.care_date", ("claim.v1", "field.care_date")),
        ("claim.v1", "field.entry", ("claim.v1", "other")),
        ("claim.v1", "field.LE GOFF", ("claim.v1", "other")),
        ("claim.v1", "refused.LE GOFF", ("claim.v1", "other")),
        ("claim.v1", "refused.285053523800148", ("claim.v1", "other")),
        ("claim.v1", "wrong.identity.birth_date", ("claim.v1", "wrong.identity.birth_date")),
        ("", "wrong.record.entry", ("", "wrong.record.entry")),
        ("claim.v1", "wrong.LE GOFF", ("claim.v1", "other")),
        ("LE GOFF", "records", ("", "other")),
        ("", "records", ("", "other")),
        ("", "refused.not-json", ("", "refused.not-json")),
    ],
)
def test_names_of_no_grammar_are_kept_nowhere(kind: str, measure: str, known: tuple[str, str]) -> None:
    memory = count(FakeMemory(), measured({SOURCE: {kind: {measure: 1}}}))
    assert memory.counts == {(SOURCE, "2026-03-02", *known): 1}


@pytest.mark.parametrize("source", ["", "x" * 257, "a\0b", "line\nbreak"])
def test_a_source_that_is_none_is_other(source: str) -> None:
    memory = count(FakeMemory(), verdicts("linkage", {source: {"linked": 1}}))
    assert memory.counts == {("other", "2026-03-02", "", "linkage.linked"): 1}


@pytest.mark.parametrize("number", [0, -1, 10**9 + 1, 2**63])
def test_a_count_that_cannot_be_is_none(number: int) -> None:
    assert not count(FakeMemory(), verdicts("linkage", {SOURCE: {"linked": number}})).counts


@pytest.mark.parametrize("at", [0, -1, AT + 2 * 3600 * 1000, AT - 9 * 24 * 3600 * 1000, 10**18])
def test_a_moment_that_cannot_be_is_now(at: int) -> None:
    memory = count(FakeMemory(), verdicts("linkage", {SOURCE: {"linked": 1}}, at=at))
    assert memory.counts == {(SOURCE, "2026-03-02", "", "linkage.linked"): 1}


def test_what_is_not_well_formed_is_passed_over_and_the_rest_counts() -> None:
    sealed_to_another = Sealer(X25519PrivateKey.generate().public_key()).seal(b"x", measures_associated(AT))
    moved = msgspec.msgpack.decode(measured({SOURCE: {"claim.v1": {"records": 1}}}).value, type=FlowSummary)
    bad: list[Any] = [
        b"",
        b"nonsense",
        encode(FlowSummary("horoscope", 0, AT, (), {SOURCE: {"linked": 1}})),
        encode(FlowSummary("ingest", 0, AT, (), measures=b"short")),
        encode(FlowSummary("ingest", 0, AT, (), measures=sealed_to_another)),
        encode(FlowSummary("ingest", 0, AT + 1, (), measures=moved.measures)),
        encode(FlowSummary("ingest", 0, AT, (), measures=SEALER.seal(b"\x01", measures_associated(AT)))),
        measured({SOURCE: {"claim.v1": {"records": 1}}}, number=2**63).value,
        measured({SOURCE: {"claim.v1": {"records": 1}}}, writer=b"w" * 65).value,
    ]
    memory = count(FakeMemory(), *map(message, bad), verdicts("linkage", {SOURCE: {"linked": 1}}))
    assert memory.counts == {(SOURCE, "2026-03-02", "", "linkage.linked"): 1}


def sealed(opening: Opening, offset: int, seal: Sealer = SEALER, partition: int = 0) -> bool:
    """Have it read a message of measures under this seal; whether they count. Raises KeyMissing."""
    measures = seal.seal(encode(Measures(b"w", 1, {})), measures_associated(AT))
    value = encode(FlowSummary("ingest", 0, AT, (), measures=measures))
    opened = opening.open(Message("flow-summaries", partition, offset, 0, b"", value, {}))
    return opened is not None and opened.measures is not None


def test_where_nothing_can_be_opened_any_more_it_stands_at_that_message() -> None:
    """As when ingest seals to a new key that is not here yet."""
    opening, fresh = Opening(Opener([PRIVATE])), X25519PrivateKey.generate()
    seal = Sealer(fresh.public_key())
    assert sealed(opening, 0)
    for number in range(1, 100):
        assert not sealed(opening, number, seal)
        assert not sealed(opening, number, seal), "the batch is read again: it counts once"
        opening.open(Message("flow-summaries", 0, number, 0, b"", verdicts("linkage", {}).value, {}))
    for _ in range(2):
        with pytest.raises(KeyMissing, match="statistics-private"):
            sealed(opening, 100, seal)
    memory = FakeMemory()
    last = message(encode(FlowSummary("ingest", 0, AT, (), measures=seal.seal(b"", b""))))
    with pytest.raises(KeyMissing):
        Count(memory, opening, lambda _: False).handle([verdicts("linkage", {SOURCE: {"linked": 1}}), last])
    assert not memory.counts
    assert sealed(Opening(Opener([PRIVATE, fresh])), 100, seal), "a restart that brings the key goes on"


def test_a_message_under_a_key_that_nobody_has_stops_nothing() -> None:
    opening, forged = Opening(Opener([PRIVATE])), Sealer(X25519PrivateKey.generate().public_key())
    for number in range(0, 4_000, 200):
        assert not sealed(opening, number, forged)
        assert all(sealed(opening, number + more) for more in range(1, 200))
    opening = Opening(Opener([PRIVATE]))
    for number in range(198):
        assert not sealed(opening, number, forged, number % 2), "99 are not yet a hundred: each partition by itself"


def test_every_example_is_counted() -> None:
    memory = FakeMemory()
    read = Count(memory, Opening(Opener([private_key("statistics")])), lambda _: False, lambda: NOW)
    read.handle([message(example.value) for example in examples.load("flow-summaries")])
    assert memory.counts[SOURCE, "2026-03-01", "hospital-stay.v1", "records"] == 2
    assert memory.counts[SOURCE, "2026-03-01", "", "pseudonym.pseudonymised"] == 998


@given(st.binary(max_size=200))
def test_no_bytes_stop_it(value: bytes) -> None:
    count(FakeMemory(), message(value))
