"""The command line, as people and scripts use it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.messages import AuditLeaf
from tests.commands import estuaire
from tests.hub import Hub

pytestmark = pytest.mark.e2e

Make = Callable[..., dict[str, Any]]


def write(path: Path, events: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(event) + "\n" for event in events).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def test_send_reports_what_was_refused_and_why(hub: Hub, observation: Make, tmp_path: Path) -> None:
    source = hub.source()
    events = [observation(source, f"s{number}", 1) for number in range(5)]
    events[3] = {**events[3], "type": "wrong.v1"}
    file = write(tmp_path / "day.ndjson", events)
    done = estuaire(hub, "send", str(file), "--source", source, "--wait", expect=1)
    assert "sent 5: 4 accepted, 1 refused" in done.stdout
    (reason,) = [json.loads(line) for line in (tmp_path / "day.ndjson.rejected.ndjson").read_text().splitlines()]
    assert (reason["line"], reason["reason"]) == (4, "unknown-type")


def test_send_takes_gzip_and_says_when_it_is_cut_off(hub: Hub, observation: Make, tmp_path: Path) -> None:
    source = hub.source()
    file = write(tmp_path / "day.ndjson.gz", [observation(source, f"z{number}", 1) for number in range(3)])
    assert "3 accepted" in estuaire(hub, "send", str(file), "--source", source).stdout
    file.write_bytes(file.read_bytes()[:-15])
    done = estuaire(hub, "send", str(file), "--source", source, expect=1)
    assert "cannot be read to its end" in done.stderr


def test_trace_names_every_step(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    hub.send(source, [observation(source, "followed", 1)])
    done = estuaire(hub, "trace", source, "followed")
    for word in ("ingest", "accepted as", "linkage", "access", permit.id):
        assert word in done.stdout
    assert "nobody has seen" in estuaire(hub, "trace", source, "never-sent", expect=1).stderr
    team = hub.platform.keyring.token(permit.subscribers[0], "subscriber")
    assert "operator" in estuaire(hub, "trace", source, "followed", "--token", team, expect=1).stderr


def test_tap_shows_a_record_that_nobody_can_read(hub: Hub, observation: Make) -> None:
    source = hub.source()
    hub.send(source, [observation(source, "tapped", 4711)])
    lines = [json.loads(line) for line in estuaire(hub, "tap", "records-received").stdout.splitlines()]
    (line,) = [one for one in lines if one["headers"].get("ce_source") == source]
    assert set(line["value"]) == {"tokens", "content"}
    assert "4711" not in json.dumps(line)
    summaries = [json.loads(line) for line in estuaire(hub, "tap", "flow-summaries", "--max", "5").stdout.splitlines()]
    assert len(summaries) == 5
    assert "there is no topic" in estuaire(hub, "tap", "no-such-topic", expect=1).stderr


def test_replay_sends_dead_letters_round_again(hub: Hub, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    hub.send(source, [observation(source, "d", 1), observation(source, "d", 1, value=1)])
    letters = [one for one in hub.messages("records-pseudonymised-dlq") if one.headers["ce_source"] == source.encode()]
    (letter,) = letters
    assert letter.headers["dlq_reason"] == b"conflict"
    done = estuaire(hub, "replay", "records-pseudonymised-dlq", "--max", "1000")
    assert "sent round again" in done.stdout
    told = [msgspec.msgpack.decode(one.value, type=AuditLeaf) for one in hub.messages("audit")]
    *_, replayed = (one for one in told if one.action == "dead-letters-replayed")
    assert (replayed.about, f"{replayed.count} sent round again") == ("records-pseudonymised-dlq", done.stdout.strip())
    assert replayed.actor == "operator:operator"
    with hub.producer(source) as producer:
        assert producer.wait_for_views(source)

    def again() -> list[Any]:
        found = hub.messages("records-pseudonymised-dlq")
        return [one for one in found if one.headers["ce_source"] == source.encode()]

    hub.wait_for(lambda: len(again()) == 2)
    assert again()[0].headers["revision"] == again()[1].headers["revision"]
    (entry,) = hub.view(permit).entries()
    assert entry.data["record"]["valueQuantity"]["value"] == 72
    assert "no dead-letter topic" in estuaire(hub, "replay", "records-received", "--max", "1", expect=1).stderr


def test_subscribe_prints_the_view_and_writes_parquet(hub: Hub, observation: Make, tmp_path: Path) -> None:
    import pyarrow.parquet

    source = hub.source()
    permit = hub.permit(source)
    hub.send(source, [observation(source, f"p{number}", number) for number in range(4)])
    lines = [json.loads(line) for line in estuaire(hub, "subscribe", permit.id).stdout.splitlines()]
    assert len(lines) == 4
    table = tmp_path / "view.parquet"
    estuaire(hub, "subscribe", permit.id, "--format", "parquet", "--out", str(table))
    assert pyarrow.parquet.read_table(table).num_rows == 4


def test_a_permits_life_on_the_command_line(hub: Hub, observation: Make, tmp_path: Path) -> None:
    source = hub.source()
    file = tmp_path / "permit.yaml"
    file.write_text(
        f"""
        id: by-hand
        title: Granted by hand
        purpose: Tests
        sources: [{source}]
        types: [observation.v1]
        fields: {{observation.v1: [code, valueQuantity]}}
        indicators: {{every: month}}
        expires: 2036-12-31
        subscribers: [somebody]
        """
    )
    hub.send(source, [observation(source, "h", 1)])
    assert "granted by-hand" in estuaire(hub, "permit", "grant", str(file)).stdout
    hub.wait_for(lambda: "by-hand" in (listed := estuaire(hub, "permit", "list").stdout) and "open" in listed)
    shown = estuaire(hub, "permit", "indicators", "by-hand", "--as", "somebody").stdout
    assert "released: nothing yet; next: 2" in " ".join(shown.split())
    told = json.loads(estuaire(hub, "permit", "indicators", "by-hand", "--as", "somebody", "--json").stdout)
    assert (told["permit"], told["every"], told["cells"]) == ("by-hand", "month", [])
    assert "closed by-hand" in estuaire(hub, "permit", "close", "by-hand").stdout
    hub.wait_for(lambda: hub.get("/v1/permits/by-hand/timelines", "subscribers", "somebody").status_code == 403)
    before = len(hub.messages("view-by-hand"))
    hub.send(source, [observation(source, "later", 1)])
    assert len(hub.messages("view-by-hand")) == before
    file.write_text("id: Not A Permit\n")
    assert estuaire(hub, "permit", "grant", str(file), expect=1).stderr.startswith("error")


def test_errors_are_one_line(hub: Hub, tmp_path: Path) -> None:
    for arguments in (
        ["send", str(tmp_path / "missing.ndjson"), "--source", "x"],
        ["send", str(tmp_path), "--source", "x"],
        ["link", str(tmp_path / "missing.ndjson")],
        ["subscribe", "no-such-permit"],
        ["up", "--port", hub.platform.ingest_url.rsplit(":", 1)[1]],
    ):
        done = estuaire(hub, *arguments, expect=1)
        assert done.stderr.startswith("error: "), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_link_needs_no_platform(observation: Make, hub: Hub, tmp_path: Path) -> None:
    source = hub.source()
    file = write(tmp_path / "people.ndjson", [observation(source, f"l{number}", number % 3) for number in range(12)])
    done = estuaire(hub, "link", str(file))
    rows = [line.split(",") for line in done.stdout.splitlines()]
    assert rows[0] == ["source", "id", "patient_id"]
    assert len(rows) == 13
    assert len({patient for _, _, patient in rows[1:]}) == 3
    by_person = {number: {row[2] for row in rows[1:] if int(row[1][1:]) % 3 == number} for number in range(3)}
    assert all(len(patients) == 1 for patients in by_person.values())
