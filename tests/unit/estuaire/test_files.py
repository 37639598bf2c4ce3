"""Files are sent in pieces, and a repeated call goes on after the last piece that was kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from estuaire.files import FileSender, files_of
from estuaire.producer import Answer, SendError

pytestmark = pytest.mark.unit


class Fake:
    """A hub that takes everything, and goes away after so many requests."""

    def __init__(self, patience: int = 1000) -> None:
        self.bodies: list[tuple[str, bytes]] = []
        self.patience = patience

    def post(self, path: str, body: bytes, _content_type: str) -> Answer:
        if len(self.bodies) == self.patience:
            raise SendError("no answer")
        self.bodies.append((path, body))
        lines = body.splitlines()
        rejected = [{"index": at, "reason": "bad", "detail": "d"} for at, line in enumerate(lines) if b"bad" in line]
        accepted = [{"source": "s", "id": str(at), "event_id": "e"} for at in range(len(lines) - len(rejected))]
        return Answer(accepted, rejected)


def sender(hub: Fake, state: Path) -> FileSender:
    return FileSender(hub, "urn:x", state, batch=10)  # type: ignore[arg-type]


def test_a_repeated_call_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    file = tmp_path / "a.ndjson"
    file.write_text("".join(json.dumps({"n": number}) + "\n" for number in range(35)))
    hub = Fake(patience=2)
    with pytest.raises(SendError):
        sender(hub, tmp_path / "state").send(file)
    hub.patience = 1000
    assert sender(hub, tmp_path / "state").send(file).accepted == 15
    sent = [json.loads(line)["n"] for _, body in hub.bodies for line in body.splitlines()]
    assert sent == list(range(35))


def test_once_through_a_file_is_sent_from_its_beginning(tmp_path: Path) -> None:
    file = tmp_path / "a.ndjson"
    file.write_text('{"n": 1}\n')
    hub = Fake()
    for _ in range(2):
        assert sender(hub, tmp_path / "state").send(file).accepted == 1


def test_the_reasons_name_the_line_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.ndjson"
    file.write_text("".join("bad\n" if number == 23 else "good\n" for number in range(30)))
    assert sender(Fake(), tmp_path / "state").send(file).rejected == 1
    assert json.loads((tmp_path / "a.ndjson.rejected.ndjson").read_text())["line"] == 24


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ('{"resourceType": "Bundle"}', "/v1/fhir"),
        ('{"specversion": "1.0"}', "/v1/events"),
        ("[]", "/v1/events"),
        ("not json", "/v1/events"),
    ],
)
def test_a_json_file_goes_where_it_belongs(tmp_path: Path, body: str, path: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(body)
    hub = Fake()
    sender(hub, tmp_path / "state").send(file)
    assert [one for one, _ in hub.bodies] == [path]


def test_what_cannot_be_sent_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    for path, words in (
        (tmp_path, "no file of records"),
        (tmp_path / "a.txt", "form is not known"),
        (tmp_path / "b.json", "exist"),
    ):
        with pytest.raises(SendError, match=words):
            files_of(path)
