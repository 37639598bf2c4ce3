"""Files of FHIR: whatever their size, and however they are broken."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.domain import refusals
from services.ingest.domain.refusals import Refusal
from services.ingest.formats.fhir import entries as fhir
from services.ingest.formats.fhir import files as fhir_files
from services.ingest.formats.fhir.references import Servers
from services.ingest.formats.reading import Outcome, Read

from .conftest import new_intake
from .samples import ROOT, SOURCE

pytestmark = pytest.mark.unit

STAY = (ROOT / "tests/fixtures/fhir/french-stay.json").read_bytes()


def read(content: bytes | io.RawIOBase, name: str = "export.json") -> list[tuple[int, Outcome]]:
    opened: Any = io.BytesIO(content) if isinstance(content, bytes) else content
    found = list(fhir_files.read(opened, name, SOURCE))
    assert all(type(one) is Read and one.file == name for one in found)
    return [(one.line, one.outcome) for one in found]


def reasons(content: bytes | io.RawIOBase, name: str = "export.json") -> list[tuple[int, str]]:
    """Where what was refused, and where something else came of it."""
    return [(line, one.reason if isinstance(one, Refusal) else "") for line, one in read(content, name)]


def observation(name: str = "o-1", person: str = "Patient/p-1", **fields: Any) -> dict[str, Any]:
    code = {"coding": [{"system": "http://loinc.org", "code": "8302-2"}]}
    return {
        "resourceType": "Observation",
        "id": name,
        "status": "final",
        "code": code,
        "subject": {"reference": person},
        **fields,
    }


def bundle(*entries: Any, **fields: Any) -> bytes:
    return json.dumps({"resourceType": "Bundle", "type": "collection", **fields, "entry": list(entries)}).encode()


def entry(*arguments: Any, **fields: Any) -> dict[str, Any]:
    return {"resource": observation(*arguments, **fields)}


# --- as a whole document ---


def whole(content: bytes) -> list[tuple[int, Outcome]]:
    return list(fhir.outcomes_of(msgspec.json.decode(content), SOURCE))


def test_a_bundle_comes_to_the_same_in_parts_as_a_whole() -> None:
    assert read(STAY) == whole(STAY)
    assert len(read(STAY)) > 10
    assert read(b"\xef\xbb\xbf" + STAY) == whole(STAY)
    one = json.dumps(observation()).encode()
    assert read(one) == whole(one)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
URLS = st.sampled_from(
    [
        *("urn:uuid:7f0d6a53-3c0e-4f04-9a43-5d2d6b0b8f01", "https://a.example/fhir/Patient/p-1", "Patient/p-1"),
        *("https://b.example/Patient/p-1", "https://a.example/fhir/Group/p-1", "x", "/Patient/p-1"),
    ]
)
ENTRIES = st.builds(
    lambda method, url: {"fullUrl": url, "request": {"method": method, "url": url}},
    st.sampled_from(["DELETE", "PUT"]),
    URLS,
) | st.builds(
    lambda url, kind, person, more: {
        "fullUrl": url,
        "request": more,
        "resource": {"resourceType": kind, "id": "p-1", "subject": {"reference": person}, "more": more},
    },
    URLS,
    st.sampled_from(["Patient", "Group", "Observation", "Nothing"]),
    URLS,
    VALUES,
)


@given(
    entries=st.lists(ENTRIES | VALUES, max_size=5),
    head=st.dictionaries(st.sampled_from(["resourceType", "type", "id", "entry", "x"]), VALUES, max_size=3),
    last=st.booleans(),
)
def test_any_document_comes_to_the_same_in_parts_as_a_whole(
    entries: list[Any], head: dict[str, Any], last: bool
) -> None:
    rest = {"resourceType": "Bundle", "type": "history"} | head
    document = {"entry": entries} | rest if last else rest | {"entry": entries}
    content = json.dumps(document).replace("\\u0000", " ").replace("\\ud", "\\u0d").encode()
    try:
        expected = whole(content)
    except msgspec.DecodeError:
        return
    assert read(content) == expected


@given(content=st.binary(max_size=60) | st.text(alphabet='{}[]",:e1 \\ntruefalse', max_size=40).map(str.encode))
def test_no_bytes_raise(content: bytes) -> None:
    for name in ("x.json", "x.ndjson"):
        read(content, name)
    read(b'{"resourceType":"Bundle","entry":[' + content)


# --- references ---


def test_a_reference_finds_an_entry_that_comes_later() -> None:
    url = "urn:uuid:7f0d6a53-3c0e-4f04-9a43-5d2d6b0b8f01"
    content = bundle(
        entry("o-1", url),
        {"fullUrl": url, "resource": {"resourceType": "Patient", "id": "p-9"}},
        entry("o-2", "https://a.example/Patient/p-9"),
        {"fullUrl": "https://a.example/Encounter/e", "resource": {"resourceType": "Encounter", "id": "e"}},
    )
    (_, first), _, (_, third), _ = read(content)
    for outcome in (first, third):
        assert isinstance(outcome, dict)
        assert outcome["data"]["identity"] == {
            "identifiers": [{"system": "ipp", "assigner": SOURCE, "value": "p-9"}],
        }


# --- what is broken ---

GOOD = entry("good")
LARGEST = 2**18
"""A limit for tests, as they have no time for the real one."""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", [(0, "not-json")]),
        (b"nonsense", [(0, "not-json")]),
        (b"17", [(0, "not-fhir")]),
        (b"[]", [(0, "not-fhir")]),
        (b"{}", [(0, "not-fhir")]),
        (b'{"resourceType":"Bundle","type":"batch-response"}', [(0, "bundle-type")]),
        (b'{"resourceType":"Bundle","entry":{}}', [(0, "malformed")]),
        (b'{"resourceType":"Bundle","resourceType":"Patient"}', [(0, "duplicate-name")]),
        (b'{"resourceType":"Patient","id":"p"', [(0, "not-json")]),
        (b'{"resourceType":"Patient","id":"p","id":"q"}', [(0, "duplicate-name")]),
        (bundle(GOOD)[:-2], [(0, ""), (1, "not-json")]),
        (bundle(GOOD, GOOD)[:-40], [(0, ""), (1, "not-json")]),
        (bundle(GOOD).replace(b'"final"', b'"fi\xffnal"'), [(0, "not-json")]),
        (bundle(GOOD, {"resource": {"x": "NUMBER"}}, GOOD).replace(b'"NUMBER"', b"01"), [(0, ""), (1, "not-json")]),
        (bundle(GOOD)[:-1] + b', "entry": [1]}', [(0, ""), (1, "duplicate-name")]),
        (bundle(GOOD) + b" x", [(0, ""), (1, "not-json")]),
    ],
)
def test_a_broken_document_is_refused_at_its_place(content: bytes, expected: list[tuple[int, str]]) -> None:
    assert reasons(content) == expected


def spoilt(**fields: Any) -> Callable[[bytes], bytes]:
    text = json.dumps(observation("bad", **fields)).encode()
    return lambda value: b'{"resource": ' + text.replace(b'"HERE"', value) + b"}"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"LE GOFF": 1, "LE GOFF": 2}', "duplicate-name"),
        (b'"LE GOFF\\u0000"', "nul-byte"),
        (b'{"LE GOFF\\u0000": 1}', "nul-byte"),
        (b"1e999", "bad-value"),
        (b"18446744073709551616", "bad-value"),
        (b"-9223372036854775809", "bad-value"),
        (b"-" + b"1" * 4301, "bad-value"),
        (b"1." + b"1" * 100_000, "bad-value"),
        (b"[" * 200 + b"]" * 200, "too-deep"),
        (b'"' + b"x" * LARGEST + b'"', "too-large"),
        (b"[" + b'"x",' * (LARGEST // 4 + 1) + b"1]", "too-large"),
    ],
)
def test_a_bad_entry_or_line_is_refused_alone(value: bytes, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fhir_files, "LARGEST", LARGEST)
    bad = spoilt(note="HERE")(value)
    in_a_bundle = bundle(GOOD, "BAD", GOOD).replace(b'"BAD"', bad)
    assert reasons(in_a_bundle) == [(0, ""), (1, reason), (2, "")]
    if reason == "too-deep":  # a line is decoded as over HTTP, and found to be too deep when it is taken
        return
    good = json.dumps(GOOD["resource"]).encode()
    line = bad.removeprefix(b'{"resource": ').removesuffix(b"}")
    in_lines = b"\n".join((good, line, b"", good))
    assert reasons(in_lines, "x.ndjson") == [(1, ""), (2, reason), (4, "")]
    for _, outcome in read(in_a_bundle) + read(in_lines, "x.ndjson"):
        if isinstance(outcome, Refusal):
            assert "GOFF" not in outcome.detail


@pytest.mark.parametrize("stretch", [2500, 2501, 4096, 2**18])
@pytest.mark.parametrize("text", [b"1" * 2000, b'\\\\\\"' + b"1" * 2000, b"1" * 2000 + b"\\u00e9"])
def test_only_what_is_no_text_is_too_long_for_a_number(
    stretch: int, text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fhir_files, "_STRETCH", stretch)
    long = json.dumps(observation("o-2", note="HERE")).encode().replace(b"HERE", text)
    content = bundle(GOOD, "LONG", {"resource": {"n": "NUMBER"}}, "LONG", GOOD)
    content = content.replace(b'"LONG"', b'{"resource":' + long + b"}").replace(b'"NUMBER"', b"1" * 5000)
    found = read(content)
    assert [one.reason if isinstance(one, Refusal) else "" for _, one in found] == ["", "", "bad-value", "", ""]
    (_, kept) = found[1]
    assert isinstance(kept, dict)
    assert kept["data"]["record"] == json.loads(long)


@given(
    parts=st.lists(
        st.sampled_from(["1", "1" * 999, "1" * 1000, '"', "\\\\", '\\"', "-", "true", ",", "é"]), max_size=12
    ),
    size=st.integers(1, 2000),
)
def test_numbers_are_bounded_alike_in_stretches_of_any_size(parts: list[str], size: int) -> None:
    content = "".join([*parts, " "]).encode()
    whole, numbers = fhir_files._Numbers(), fhir_files._Numbers()
    expected = whole.bounded(content) + whole.held
    found = [numbers.bounded(content[at : at + size]) for at in range(0, len(content), size)]
    assert b"".join(found) + numbers.held == expected
    if "1" * 999 not in content.decode():
        assert expected == content


@pytest.mark.parametrize("number", [b"1" * 5000, b"1e99999999999999999999", b"-" * 5000])
def test_a_number_beyond_all_bounds_never_raises(number: bytes) -> None:
    for name, start, end in (
        ("x.json", b"", b""),
        ("x.json", b'{"resourceType":', b"}"),
        ("x.json", b'{"resourceType":"Patient","id":"p","a":', b"}"),
        ("x.json", b'{"resourceType":"Bundle","entry":[{},', b"]}"),
        ("x.ndjson", b'{"resourceType":"Patient","id":"p","a":', b"}"),
    ):
        assert reasons(start + number + end, name)[-1][1] in ("bad-value", "not-json", "not-fhir", "malformed")
        assert reasons(start + number, name)


def test_a_text_without_an_end_ends_the_reading_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fhir_files, "LARGEST", LARGEST)

    class Endless(io.RawIOBase):
        position = 0

        def seek(self, position: int, _whence: int = 0) -> int:
            self.position = position
            return position

        def read(self, size: int = -1) -> bytes:
            start = b'{"resourceType":"Bundle","entry":[' + json.dumps(GOOD).encode() + b',{"resource":"'
            stretch = start[self.position : self.position + size].ljust(size, b"x")
            self.position += size
            return stretch

        def readline(self, size: int | None = -1) -> bytes:
            return self.read(size or -1)

    assert reasons(Endless(), "x.json") == [(0, ""), (1, "too-large")]


# --- lines ---


def test_lines_are_resources_or_bundles() -> None:
    lines = [
        json.dumps(observation("o-1")).encode(),
        b"",
        bundle(entry("o-2"), {"resource": {"resourceType": "Goal"}}, {}),
        b'{"resourceType": "Patient", "id": "p-1"',
        b"\xff",
        b'{"resourceType": "Patient", "id": "p-1"}\r',
    ]
    content = b"\n".join(lines)
    for name in ("Patient.ndjson", "0001.jsonl", "export", "export.json"):
        found = read(b"\xef\xbb\xbf" + content, name)
        assert [line for line, _ in found] == [1, 3, 3, 3, 4, 5, 6], name
        assert [
            one.reason if isinstance(one, Refusal) else one if isinstance(one, str) else one["id"] for _, one in found
        ] == [
            "Observation/o-1",
            "Observation/o-2",
            "Goal",
            "no-resource",
            "not-json",
            "not-json",
            "Patient/p-1",
        ]
    assert found[3][1] == Refusal("no-resource", "entry[2]: " + fhir_refusal())
    assert found[4][1] == refusals.NOT_JSON


def fhir_refusal() -> str:
    (refusal,) = fhir.outcomes({}, Servers(SOURCE, {}, None))
    assert isinstance(refusal, Refusal)
    return refusal.detail


def test_a_line_of_a_million_values_is_not_decoded() -> None:
    good = json.dumps(observation()).encode()
    line = json.dumps(observation(note="HERE")).encode().replace(b'"HERE"', b"[" + b"[]," * 1_100_000 + b"1]")
    assert reasons(b"\n".join((good, line, good)), "x.ndjson") == [(1, ""), (2, "too-large"), (3, "")]


# --- memory ---


class Repeated(io.RawIOBase):
    """A file of any size that is nowhere: a beginning, the same entry over and over, an end."""

    def __init__(self, start: bytes, part: bytes, count: int, end: bytes) -> None:
        self._start, self._part, self._count, self._end = start, part, count, end
        self.seek(0)

    def _parts(self) -> Iterator[bytes]:
        yield self._start
        for number in range(self._count):
            yield self._part.replace(b"NUMBER", b"%08d" % number)
        yield self._end

    def seek(self, position: int, _whence: int = 0) -> int:
        self._left, self._rest, self._at = self._parts(), b"", 0
        while self._at < position:
            self.read(min(position - self._at, 2**16))
        return position

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        size = size or -1
        while len(self._rest) < size and (part := next(self._left, b"")):
            self._rest += part
        read, self._rest = self._rest[:size], self._rest[size:]
        self._at += len(read)
        return read

    def readline(self, size: int | None = -1) -> bytes:
        while b"\n" not in self._rest and (part := next(self._left, b"")):
            self._rest += part
        line, end, self._rest = self._rest.partition(b"\n")
        return line + end


def test_long_numbers_are_not_held() -> None:
    content: Any = Repeated(
        b'{"resourceType":"Bundle","entry":[{"resource":{"n":[1', b",\n" + b"1" * 4200, 3000, b"]}}]}"
    )
    tracemalloc.start()
    assert [read.outcome for read in fhir_files.read(content, "x", SOURCE)] == [
        Refusal("bad-value", "entry[0]: " + refusals.NUMBER_OUT_OF_RANGE.detail)
    ]
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("form", ["bundle", "lines"])
def test_memory_does_not_grow_with_the_file(form: str) -> None:
    resource = json.dumps(observation("NUMBER", note=[{"text": "x" * 2000}])).encode()
    if form == "bundle":
        one = b'{"fullUrl":"urn:uuid:%s","resource":%s}' % (b"NUMBER", resource)
        parts = (b'{"resourceType":"Bundle","entry":[' + one, b",\n" + one, b"]}")
    else:
        parts = (resource, b"\n" + resource, b"")
    peaks = []
    for count in (1000, 3000):
        content: Any = Repeated(parts[0], parts[1], count, parts[2])
        tracemalloc.start()
        outcomes = (one.outcome for one in fhir_files.read(content, "x", SOURCE))
        assert sum(isinstance(one, dict) for one in outcomes) == count + 1
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1_000_000


# --- the same over HTTP ---


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"a": 1, "a": 1}', "duplicate-name"),
        (b'{"a": 1, "\\u0061": "\\u003a"}', "duplicate-name"),
        (b'{"a": "\\u003a \\u003A", "b": ":"}', ""),
        (b'{"a": "\\\\u003a"}', ""),
        (b"[" * 200 + b"]" * 200, ""),
    ],
)
def test_a_name_that_is_there_twice_is_refused_over_http_too(value: bytes, reason: str) -> None:
    bad = spoilt(note="HERE")(value)
    body = bundle(GOOD, "BAD", {"resource": {"resourceType": "Goal"}}, GOOD).replace(b'"BAD"', bad)
    documents, not_taken = new_intake().documents(body, SOURCE)
    told = [(place, one.reason if isinstance(one, Refusal) else "") for place, one in documents]
    assert told == [(0, ""), (1, reason), (3, "")]
    assert not_taken == {"Goal": 1}
    if reason:
        assert [(place, one) for place, one in read(body) if not isinstance(one, str)] == documents


def test_a_document_that_has_a_name_twice_is_refused_as_a_whole_over_http_too() -> None:
    documents, _ = new_intake().documents(b'{"resourceType":"Patient","id":"p","id":"q"}', SOURCE)
    assert [(place, one.reason) for place, one in documents if isinstance(one, Refusal)] == [(0, "duplicate-name")]
