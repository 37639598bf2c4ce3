"""Files of a format over HTTP: told apart by field, name or beginning; each refusal names its file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from services.ingest import files
from services.ingest.domain.refusals import Refusal
from services.ingest.formats.reading import Layout, Piece, Read
from tests.unit.ingest.conftest import Ingest, Make
from tests.unit.ingest.test_files import Keyed

pytestmark = pytest.mark.unit

FORM = "/v1/files/parted"
MULTIPART = "multipart/form-data"
PLANTED = "KERGUELEN-DE-TREMAREC"


class Parted:
    """The first part has whole events, the second says how many lines follow."""

    name = "parted"
    parts: tuple[str, ...] = ("events", "more")

    def part_of(self, file: str, head: bytes) -> str | None:
        return "events" if head[:1] == b"{" else "more" if file.endswith(".more") else None

    def layout(self, part: str, first: bytes) -> Layout:
        return Keyed(part)

    def events(self, pieces: Sequence[Piece], source: str) -> Iterator[Read]:
        file, line, data = pieces[0].line
        outcome: Any = "a-note"
        if pieces[0].layout.part == "events":
            outcome = json.loads(data.partition(b"|")[2]) | {"source": source}
        elif data.startswith(b"alone"):
            outcome = Refusal("alone", "it has no event")
        yield Read(file, line, outcome)


@pytest.fixture(autouse=True)
def parted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(files.FORMATS, "parted", Parted())


def upload(ingest: Ingest, *sent: tuple[str, tuple[str, bytes]], path: str = FORM) -> httpx.Response:
    request = httpx.Request("POST", "http://ingest", files=sent)
    return ingest.post(request.read(), request.headers["content-type"], path)


def lines(*events: dict[str, Any]) -> bytes:
    return b"\n".join(f"{number}|{json.dumps(one)}".encode() for number, one in enumerate(events))


def test_files_that_belong_together_are_kept_and_refusals_name_file_and_line(ingest: Ingest, event: Make) -> None:
    body = lines(event(), event(id="b", type="wrong.v1"), event(id="c"))
    response = upload(
        ingest,
        ("events", (PLANTED, body)),
        ("any", (f"{PLANTED}.more", b"2|\nalone|\nnote|")),
        ("any", (f"{PLANTED}.more", b"alone too|")),
    )
    assert response.status_code == 202, response.text
    receipt = response.json()
    assert len(receipt["accepted"]) == 2
    assert [(one["file"], one["line"], one["reason"]) for one in receipt["rejected"]] == [
        ("events", 2, "unknown-type"),
        ("more", 2, "alone"),
        ("more-2", 1, "alone"),
    ]
    assert receipt["not_taken"] == {"a-note": 1}
    assert PLANTED not in response.text


def test_one_file_may_be_the_body_and_nothing_but_refusals_is_a_problem(ingest: Ingest, event: Make) -> None:
    whole = lines(event()).removeprefix(b"0|")
    assert ingest.post(b"{}|" + whole, "text/plain", FORM).status_code == 202
    response = upload(ingest, ("more", ("x", b"alone|")))
    assert response.status_code == 422
    assert response.json()["rejected"][0]["file"] == "more"


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [("/v1/files/none", 404, "parted"), (FORM, 422, "file 1 is none of events, more of parted")],
)
def test_what_cannot_be_read_is_named(ingest: Ingest, path: str, status: int, says: str) -> None:
    response = upload(ingest, ("x", (PLANTED, b"what is this")), path=path)
    assert response.status_code == status
    assert says in response.json()["detail"]
    assert PLANTED not in response.text


@pytest.mark.parametrize("body", [b"", b"--x\r\n", b"nonsense", b"--x\r\nContent-Disposition: form-data\r\n\r\n"])
@pytest.mark.parametrize("kind", [f"{MULTIPART}; boundary=x", MULTIPART, f"{MULTIPART}; boundary="])
def test_a_broken_form_is_a_problem_and_never_an_error(ingest: Ingest, body: bytes, kind: str) -> None:
    assert ingest.post(body, kind, FORM).status_code == 422


def test_more_records_than_a_request_may_have_are_refused_before_all_are_read(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = 0

    def events(_self: Parted, pieces: Sequence[Piece], source: str) -> Iterator[Read]:
        nonlocal told
        told += 1
        yield Read("more", 1, "a-note")

    monkeypatch.setattr(Parted, "events", events)
    body = b"".join(b"%d|\n" % number for number in range(5000))
    assert upload(ingest, ("more", ("x", body))).status_code == 413
    assert told <= 1001
    assert ingest.post(body, "application/json", FORM).status_code == 415


def test_no_path_that_was_asked_for_is_a_label_of_a_metric(ingest: Ingest) -> None:
    ingest.post(b"x", "text/plain", f"/v1/files/{PLANTED}")
    assert PLANTED not in ingest.get("/metrics").text
