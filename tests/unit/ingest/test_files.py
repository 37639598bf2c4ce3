"""Files are read in any order of their lines, every line counts once, and what cannot be read harms nothing else."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Sequence

import pytest

from services.ingest import files
from services.ingest.domain.refusals import Refusal, Refused
from services.ingest.files import File, join
from services.ingest.formats.reading import Layout, Piece, Read

pytestmark = pytest.mark.unit


class Keyed:
    """Lines of a key, a colon and a value."""

    def __init__(self, part: str, headings: int = 0) -> None:
        self.part = part
        self.headings = headings

    def key(self, data: bytes) -> bytes:
        key, colon, _ = data.replace(b"|", b":").partition(b":")
        if not colon:
            raise Refused(Refusal("no-key", "the line has no colon"))
        return key


class Colons:
    name = "colons"
    parts: tuple[str, ...] = ("head", "tail")

    def part_of(self, file: str, head: bytes) -> str | None:
        return None

    def layout(self, part: str, first: bytes) -> Layout:
        if first == b"broken":
            raise Refused(Refusal("no-format", "not a file of this format"))
        return Keyed(part, int(first.startswith(b"#")))

    def events(self, pieces: Sequence[Piece], source: str) -> Iterator[Read]:
        told = {
            "id": "same" if pieces[0].line.data.endswith(b"=") else str(pieces[0].line),
            "lines": [(one.layout.part, one.line.number, one.line.data) for one in pieces],
        }
        yield Read(pieces[0].line.file, pieces[0].line.number, told)


def read(*told: tuple[str, str, bytes]) -> list[Read]:
    return list(join(Colons(), [File(name, part, io.BytesIO(body)) for name, part, body in told], "urn:x"))


def lines(one: Read) -> list[bytes]:
    assert isinstance(one.outcome, dict)
    return [data for _, _, data in one.outcome["lines"]]


def test_lines_of_one_key_are_one_record_whatever_stands_between_them() -> None:
    found = read(("t", "tail", b"b:4\r\na:5\r\nc:6"), ("h", "head", b"a:1\nb:2\n\na:3\n"))
    assert [(one.file, one.line) for one in found] == [("h", 1), ("h", 2), ("t", 3)]
    assert [lines(one) for one in found] == [[b"a:1", b"a:3", b"a:5"], [b"b:2", b"b:4"], [b"c:6"]]


def test_a_heading_is_no_record_and_several_files_may_be_of_one_part() -> None:
    found = read(("one", "head", b"#k:v\na:1\n"), ("two", "head", b"a:2\nb:3\n"))
    assert [lines(one) for one in found] == [[b"a:1", b"a:2"], [b"b:3"]]


def test_a_bad_line_is_refused_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", 10)
    found = read(("h", "head", b"a:1\nnonsense\n" + b"x:" + b"9" * 50 + b"\nb:2\na:0123456789"))
    assert {(one.line, one.outcome.reason) for one in found if isinstance(one.outcome, Refusal)} == {
        (2, "no-key"),
        (3, "line-too-long"),
        (5, "line-too-long"),
    }
    assert [lines(one) for one in found if isinstance(one.outcome, dict)] == [[b"a:1"], [b"b:2"]]


def test_a_file_of_another_format_is_refused_as_a_whole_and_the_others_are_read() -> None:
    found = read(("h", "head", b"broken\na:1\n"), ("t", "tail", b"a:2\n"))
    assert [(one.file, one.line) for one in found] == [("h", 1), ("t", 1)]
    assert isinstance(found[0].outcome, Refusal)


def test_a_key_of_too_many_lines_is_refused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_LINES", 3)
    found = read(("h", "head", b"a:1\na:2\nb:3\na:4\na:5\n"))
    assert [type(one.outcome) for one in found] == [Refusal, dict]


def test_lines_of_one_key_cost_no_more_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is fetched once, however many have its key: counted, for a clock says nothing on a loaded machine."""
    fetched = 0

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal fetched
            fetched += 1
            return super().read(size)

    body = b"a:1\n" * 3000 + b"b:1\n" * 3000
    assert len(list(join(Colons(), [File("h", "head", Counting(body))], "urn:x"))) == 2
    assert fetched == 6000


def test_a_million_lines_of_one_key_are_refused_at_once() -> None:
    (one,) = read(("h", "head", b"a:\n" * 1_000_000))
    assert isinstance(one.outcome, Refusal)
    assert (one.line, one.outcome.reason) == (1, "too-many-lines")
    assert one.outcome.detail.startswith("1000000 lines")


def test_records_of_one_id_are_told_apart_and_none_replaces_another() -> None:
    found = [one.outcome for one in read(("h", "head", b"a:=\nb:2\nc:=\nd:=\n"))]
    assert [one["id"] for one in found if isinstance(one, dict)][::2] == ["same", "same:2"]
    assert isinstance(found[3], dict)
    assert found[3]["id"] == "same:3"


def test_no_line_is_lost_or_read_twice_in_a_long_shuffled_file() -> None:
    told = [f"{key}:{value}".encode() for key in range(700) for value in range(5)]
    random.Random(4).shuffle(told)
    found = read(("h", "head", b"\n".join(told[:2000])), ("t", "tail", b"\n".join(told[2000:])))
    assert sorted(line for one in found for line in lines(one)) == sorted(told)
    assert len(found) == 700
