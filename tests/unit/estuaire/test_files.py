"""Files are sent in batches, and a repeated call sends only what the hub has not kept yet."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from estuaire import files
from estuaire.client import SendError
from estuaire.files import FHIR, FileSender, Group, Sent, groups_of
from estuaire.ledger import Ledger, LedgerError, ledger_of
from estuaire.producer import Answer
from services.ingest import files as formats
from services.ingest.domain.refusals import Refusal
from services.ingest.formats.reading import Layout, Piece, Read

pytestmark = pytest.mark.unit

SOURCE = "urn:x"


class Fake:
    """A hub that takes everything that is not bad, and goes away after so many requests."""

    def __init__(self, patience: int = 1000) -> None:
        self.events: list[dict[str, Any]] = []
        self.calls = 0
        self.patience = patience

    def send_lines(self, sent: Sequence[bytes]) -> Answer:
        if self.calls == self.patience:
            raise SendError("no answer")
        self.calls += 1
        lines = [json.loads(line) for line in sent]
        bad = [at for at, line in enumerate(lines) if line.get("bad")]
        self.events += [line for line in lines if not line.get("bad")]
        rejected = [{"index": at, "reason": "bad", "detail": "d"} for at in bad]
        return Answer([{"source": "s", "id": "i", "event_id": "e"}] * (len(lines) - len(bad)), rejected)


def send(hub: Fake, path: Path, ledger: Ledger | None = None, *, again: bool = False) -> Sent:
    total = Sent()
    groups, sender = groups_of([path])[0], FileSender(hub, SOURCE, ledger, again=again, batch=10)  # type: ignore[arg-type]
    sender.look_ahead(groups)
    for group in groups:
        total.include(sender.send(group))
    return total


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(ledger_of(tmp_path, "http://hub", SOURCE)) as opened:
        yield opened


def write(path: Path, events: Sequence[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(event) + "\n" for event in events).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def test_a_repeated_call_goes_on_where_the_last_one_stopped(tmp_path: Path, ledger: Ledger) -> None:
    file = write(tmp_path / "a.ndjson", [{"id": str(number)} for number in range(35)])
    hub = Fake(patience=2)
    with pytest.raises(SendError):
        send(hub, file, ledger)
    hub.patience = 1000
    sent = send(hub, file, ledger)
    assert (sent.accepted, sent.known) == (15, 20)
    assert [event["id"] for event in hub.events] == [str(number) for number in range(35)]
    assert send(hub, file, ledger) == Sent(known=35)


def test_what_was_corrected_is_sent_and_an_earlier_state_that_comes_back_too(tmp_path: Path, ledger: Ledger) -> None:
    hub = Fake()
    for state in ("first", "second", "first", "first"):
        send(hub, write(tmp_path / "a.ndjson", [{"id": "a", "state": state}, {"id": "b"}]), ledger)
    assert [event.get("state") for event in hub.events] == ["first", None, "second", "first"]


def test_a_file_with_several_states_of_a_record_is_known_by_the_last(tmp_path: Path, ledger: Ledger) -> None:
    hub = Fake()
    states = [{"id": "a", "state": state} for state in "ABC"]
    others = [{"id": str(number)} for number in range(15)]  # so that the states are in several batches
    file = write(tmp_path / "a.ndjson", [states[0], *others, *states[1:]])
    assert send(hub, file, ledger).accepted == 18
    for _ in range(2):
        assert send(hub, file, ledger) == Sent(known=18)
    write(file, [states[0], *others, states[2], states[1]])
    assert send(hub, file, ledger) == Sent(accepted=3, known=15)
    assert [event["state"] for event in hub.events if "state" in event] == ["A", "B", "C", "A", "C", "B"]
    (tmp_path / "b.ndjson").write_text(json.dumps(states[2]))  # after a.ndjson: the files end in C
    assert send(hub, tmp_path, ledger).accepted == 4
    assert send(hub, tmp_path, ledger) == Sent(known=19)


def test_what_is_sent_again_is_written_down_too(tmp_path: Path, ledger: Ledger) -> None:
    hub = Fake()
    send(hub, write(tmp_path / "x.ndjson", [{"id": "a", "state": "x"}]), ledger)
    send(hub, write(tmp_path / "y.ndjson", [{"id": "a", "state": "y"}]), ledger, again=True)
    assert send(hub, tmp_path / "x.ndjson", ledger).accepted == 1
    assert send(hub, tmp_path / "x.ndjson", ledger, again=True).accepted == 1


def test_what_is_not_acknowledged_is_not_written_down(tmp_path: Path, ledger: Ledger) -> None:
    class Away(Fake):
        def send_lines(self, sent: Sequence[bytes]) -> Answer:
            raise SendError("away")

    file = write(tmp_path / "a.ndjson", [{"id": "a"}])
    with pytest.raises(SendError, match="away"):
        send(Away(), file, ledger)
    assert send(Fake(), file, ledger).accepted == 1


def test_a_broken_ledger_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"no database, but long enough to be taken for one" * 50)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite cannot be used"):
        Ledger(path)


def test_what_is_no_file_is_left_aside(tmp_path: Path) -> None:
    write(tmp_path / "a.ndjson", [{"id": "a"}])
    os.mkfifo(tmp_path / "pipe.ndjson")
    (tmp_path / "gone.ndjson").symlink_to(tmp_path / "nowhere")
    groups, left = groups_of([tmp_path])
    assert [group.name for group in groups] == ["a.ndjson"]
    assert [path.name for path in left] == ["gone.ndjson", "pipe.ndjson"]


def test_an_indented_array_is_sent_event_by_event(tmp_path: Path) -> None:
    hub = Fake()
    events = [{"specversion": "1.0", "id": name, "bad": name == "b"} for name in "abc"]
    (tmp_path / "a.json").write_text(json.dumps(events, indent=2))
    assert send(hub, tmp_path / "a.json").accepted == 2
    assert json.loads((tmp_path / "a.json.rejected.ndjson").read_text())["line"] == 2


def test_no_document_and_no_line_is_held_whatever_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_AT_ONCE", 100)
    (tmp_path / "a.json").write_text("[" + ",".join(["{}"] * 60) + "]")
    with pytest.raises(SendError, match="an event a line"):
        send(Fake(), tmp_path / "a.json")


def test_what_was_refused_is_sent_once_it_is_mended_and_without_a_ledger_everything_is(
    tmp_path: Path, ledger: Ledger
) -> None:
    hub = Fake()
    events: list[dict[str, Any]] = [{"id": "a"}, {"id": "b", "bad": True}, {"id": "c"}]
    assert send(hub, write(tmp_path / "a.ndjson", events), ledger).rejected == 1
    sent = send(hub, write(tmp_path / "a.ndjson", [{"id": "a"}, {"id": "b"}, {"id": "c"}]), ledger)
    assert (sent.accepted, sent.rejected, sent.known) == (1, 0, 2)
    assert not (tmp_path / "a.ndjson.rejected.ndjson").exists()
    assert send(hub, tmp_path / "a.ndjson").accepted == 3


def test_a_ledger_holds_no_id_and_no_content(tmp_path: Path, ledger: Ledger) -> None:
    send(Fake(), write(tmp_path / "a.ndjson", [{"id": "LEGOFF-1985", "name": "LEGOFF"}]), ledger)
    (kept,) = (tmp_path / "send").glob("*.sqlite")
    assert b"LEGOFF" not in kept.read_bytes()
    assert kept.stat().st_mode & 0o077 == 0
    assert ledger_of(tmp_path, "http://hub/", SOURCE) == kept != ledger_of(tmp_path, "http://other", SOURCE)


def test_the_reasons_name_the_line_in_the_file(tmp_path: Path) -> None:
    events = [{"id": str(number), "bad": number == 23} for number in range(30)]
    assert send(Fake(), write(tmp_path / "a.ndjson.gz", events)).rejected == 1
    assert json.loads((tmp_path / "a.ndjson.gz.rejected.ndjson").read_text())["line"] == 24


def test_an_array_of_events_and_a_bundle_are_sent_as_their_events(tmp_path: Path) -> None:
    hub = Fake()
    (tmp_path / "a.json").write_text('[{"specversion": "1.0", "id": "one"}, {"specversion": "1.0", "id": "two"}]')
    patient = {"resourceType": "Patient", "id": "p"}
    entries = [patient, {"resourceType": "Observation", "id": "o"}, {"resourceType": "Goal", "id": "g"}]
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": [{"resource": one} for one in entries]}
    (tmp_path / "b.json").write_text(json.dumps(bundle))
    write(tmp_path / "c.ndjson", [{"resourceType": "Patient", "id": "q"}])
    sent = send(hub, tmp_path)
    assert sorted(event["id"] for event in hub.events) == ["Patient/p", "Patient/q", "one", "two"]
    assert (sent.accepted, sent.rejected, sent.not_taken) == (4, 1, {"Goal": 1})


def test_an_event_that_is_no_json_or_too_large_harms_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 100)
    path = write(tmp_path / "a.ndjson", [{"id": "a"}, {"id": "b", "text": "x" * 100}, {"id": "c"}])
    sent = send(Fake(), path)
    assert (sent.accepted, sent.rejected) == (2, 1)
    (tmp_path / "b.ndjson").write_text('{"resourceType": "Patient", "id": "p"}\n{"resourceType": "Pat\n')
    assert send(Fake(), tmp_path / "b.ndjson").rejected == 1


def test_progress_ends_at_the_whole(tmp_path: Path) -> None:
    shares: list[float] = []
    file = write(tmp_path / "a.ndjson", [{"id": str(number), "text": "x" * 5000} for number in range(35)])
    FileSender(Fake(), SOURCE, batch=10).send(  # type: ignore[arg-type]
        groups_of([file])[0][0], lambda _sent, share: shares.append(share)
    )
    assert shares == sorted(shares)
    assert shares[0] < 0.5
    assert shares[-1] == 1.0


class Pairs:
    """Lines of a key, a colon and a value; `.left` files lead, `.right` files follow."""

    name = "pairs"
    parts: tuple[str, ...] = ("left", "right")

    def part_of(self, file: str, head: bytes) -> str | None:
        return next((part for part in self.parts if file.endswith(part)), None)

    def layout(self, part: str, first: bytes) -> Layout:
        return Keyed(part)

    def events(self, pieces: Sequence[Piece], source: str) -> Iterator[Read]:
        file, line, data = pieces[0].line
        outcome: Any = {"id": data.decode(), "lines": len(pieces)}
        if data.startswith(b"bad"):
            outcome = Refusal("bad", "it is")
        yield Read(file, line, "nothing" if data.startswith(b"none") else outcome)


class Keyed:
    headings = 0

    def __init__(self, part: str) -> None:
        self.part = part

    def key(self, data: bytes) -> bytes:
        return data.partition(b":")[0]


def test_files_of_one_format_are_read_together_where_they_lie_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(formats.FORMATS, "pairs", Pairs())
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.left").write_bytes(b"a:1\nbad:2\nnone:3\n")
    (tmp_path / "one" / "x.right.gz").write_bytes(gzip.compress(b"a:4\n"))
    (tmp_path / "one" / "notes.txt").write_text("by hand")
    groups, left = groups_of([tmp_path])
    assert [(group.kind, len(group.files)) for group in groups] == [("pairs", 2), ("pairs", 1)]
    assert [path.name for path in left] == ["notes.txt"]
    hub = Fake()
    sent = send(hub, tmp_path)
    assert [event["lines"] for event in hub.events] == [2, 1]
    assert (sent.accepted, sent.rejected, sent.not_taken) == (2, 2, {"nothing": 2})
    assert json.loads((tmp_path / "two" / "x.left.rejected.ndjson").read_text())["line"] == 2
    named = [tmp_path / "one" / "x.left", tmp_path / "one" / "x.right.gz", tmp_path / "two" / "x.left"]
    assert [len(group.files) for group in groups_of(named)[0]] == [3]


def test_a_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a.ndjson.gz", [{"id": str(number)} for number in range(30)])
    file.write_bytes(file.read_bytes()[:-15])
    with pytest.raises(SendError, match=r"a\.ndjson\.gz cannot be read to its end"):
        send(Fake(), file)


def test_what_cannot_be_sent_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    for path, words in (
        (tmp_path, "no file of records"),
        (tmp_path / "a.txt", "no format knows it"),
        (tmp_path / "b.json", "exist"),
    ):
        with pytest.raises(SendError, match=words):
            groups_of([path])


def test_a_group_is_named_by_its_files(tmp_path: Path) -> None:
    assert Group(FHIR, (tmp_path / "a.json", tmp_path / "b.json")).name == "a.json and 1 more"
