"""Linkage is right: a labelled population through both token levels and a real index, and the report on it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from contracts.events import Event
from estuaire.cli import app
from estuaire.evaluation import Evaluation, Point, Truth, as_json, evaluate, read_truth, threshold_curve
from estuaire.explanation import Step, explain, hold
from estuaire.link import LinkError, Name, index_of, link_file
from estuaire.traps import SOURCES, TRAPS, labelled, write
from services.linkage.domain.decide import Outcome
from services.linkage.domain.rules import RULES
from tests.search import Search

pytestmark = pytest.mark.integration


class Run(NamedTuple):
    """A population linked and compared with the truth."""

    found: Evaluation
    curve: list[Point]
    explained: dict[tuple[Name, Name], list[Step]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("population")
    write(labelled(seed=4, people=1000, records=3000), folder / "events.ndjson", folder / "truth.csv")
    truth = read_truth(folder / "truth.csv")
    with index_of(folder / "events.ndjson") as (linked, index):
        assert linked.refused == 0
        assert linked.rules.name.startswith(f"{RULES.name}+")
        assert len(set(linked.events.values())) == 3000
        found = evaluate(linked.patients, truth)
        held = hold(index, linked)
        strangers = list(linked.patients)[:2]
        pairs = [*found.missed, *found.wrong, (strangers[0], strangers[1])]
        yield Run(found, threshold_curve(held, truth, (-9, 0, 6, 20)), explain(held, index, pairs))


@pytest.fixture(scope="module")
def result(run: Run) -> Evaluation:
    return run.found


def test_people_are_found_and_nobody_is_taken_for_another(result: Evaluation) -> None:
    assert result.records == 3000
    assert result.overall.precision >= 0.995
    assert result.overall.recall >= 0.98


def test_no_trap_is_fatal(result: Evaluation) -> None:
    assert TRAPS.keys() - {"fictitious"} <= result.by_trap.keys()
    for trap, tally in result.by_trap.items():
        assert tally.precision >= 0.97, trap
        assert tally.recall >= 0.8, trap


def test_relatives_stay_apart(result: Evaluation) -> None:
    assert result.with_relative.keys() == {"homonym", "mother", "parent", "twin"}
    for relation, (records, merged) in result.with_relative.items():
        assert merged <= 0.02 * records, relation


def test_the_curve_goes_through_the_evaluation_and_down_to_the_identifiers(run: Run) -> None:
    lowest, own, higher, highest = (point.tally for point in run.curve)
    assert own == run.found.overall
    assert lowest.recall >= own.recall > higher.recall > highest.recall > 0.5
    assert lowest.true == highest.true


def test_what_was_missed_is_explained(run: Run) -> None:
    assert run.found.missed
    for one, other in run.found.missed:
        (step,) = run.explained[one, other]
        assert (step.one, step.other) == (one, other)
        if step.decided is not None:
            assert step.decided.guard or step.decided.decision.outcome is not Outcome.LINK
    for one, other in run.found.wrong:
        steps = run.explained[one, other]
        assert all(step.decided is not None and step.decided.links for step in steps)
    assert any(step.decided is not None and step.decided.decision.evidence for (step,) in run.explained.values())


def test_the_command_writes_a_page_that_names_records_and_nobody(tmp_path: Path) -> None:
    events, truth, page = tmp_path / "events.ndjson", tmp_path / "truth.csv", tmp_path / "report.html"
    drawn = list(labelled(seed=5, people=100, records=300))
    write(drawn, events, truth)
    rows = list(csv.reader(truth.open()))
    for row in rows[1:6]:
        row[2] = f"another than {row[2]}"  # so that there are wrong pairs to show
    csv.writer(truth.open("w")).writerows(rows)
    done = CliRunner().invoke(app, ["evaluate", str(events), "--truth", str(truth), "--report", str(page), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["precision"] < 1
    text = page.read_text()
    assert f"{said['f1']:.4f}" in text
    for word in ("digit-wrong", "twin", "log₂ m/u", "linked by the same", "<polyline"):
        assert word in text
    assert "$" not in text
    assert not re.search(r"<script|https?://", text)
    assert re.search(rf"<code>{rows[1][1]}</code></td><td><code>[0-9a-f]{{32}}</code>", text)
    for source in SOURCES.values():
        text = text.replace(source, "")  # one is named after its town
    values = [value for one in drawn for value in _values(one.event["data"]["identity"])]
    assert not list(Search(values).bytes("page", text.encode()))
    assert list(Search(values).bytes("page", f"{text}{max(values, key=len)}".encode()))
    words = {word.lower() for word in re.findall(r"\w+", text)} - {"parent"}  # a relation, and a family name
    assert not words & {value.lower() for value in values if len(value) > 5 and value.isalpha()}


def test_a_page_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("source,id,person,trap\n")
    arguments = [
        "evaluate",
        "missing",
        "--truth",
        str(tmp_path / "truth.csv"),
        "--report",
        str(tmp_path / "no" / "page"),
    ]
    assert isinstance(CliRunner().invoke(app, arguments).exception, FileNotFoundError)


def _values(known: object) -> Iterator[str]:
    """Every text of an identity but the names of systems and its status."""
    if isinstance(known, str):
        yield known
    elif isinstance(known, dict):
        kept = (
            value for name, value in known.items() if name not in ("system", "scheme", "assigner", "identity_status")
        )
        yield from (text for value in kept for text in _values(value))
    elif isinstance(known, list):
        yield from (text for value in known for text in _values(value))


def test_the_labelled_set_is_its_seeds_and_valid() -> None:
    once, again = (list(labelled(seed=9, people=200, records=500)) for _ in range(2))
    assert once == again
    assert len(once) == 500
    for one in once:
        Event.model_validate(one.event)
    with pytest.raises(ValueError, match="two records"):
        list(labelled(seed=9, people=200, records=399))


def test_pairs_are_counted_by_hand() -> None:
    names = [Name("s", str(number)) for number in range(5)]
    patients = dict(zip(names, ("p", "p", "q", "q", "r"), strict=True))
    twin = ("relative:twin",)
    truth = dict(
        zip(
            names,
            (Truth("a", ("slip",)), Truth("a", ()), Truth("a", ()), Truth("b", twin), Truth("c", twin)),
            strict=True,
        )
    )
    found = evaluate(patients, truth)
    assert (found.overall.found, found.overall.true, found.overall.both) == (2, 3, 1)
    assert (found.by_trap["slip"].true, found.by_trap["slip"].both) == (2, 1)
    assert found.with_relative == {"twin": (2, 0)}
    assert len(found.missed) == 2
    assert len(found.wrong) == 1
    said = json.loads(as_json(found, 1.0))
    assert said.keys() >= {"records", "patients", "precision", "recall", "f1", "by_trap", "seconds"}
    assert said["recall"] == 0.33333


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="does not exist"):
        link_file(tmp_path / "nothing.ndjson")
    with pytest.raises(LinkError, match="cannot be read"):
        read_truth(tmp_path / "nothing.csv")
    (tmp_path / "truth.csv").write_text("id,who\n1,2\n")
    with pytest.raises(LinkError, match="lacks the column person, source"):
        read_truth(tmp_path / "truth.csv")
    with pytest.raises(LinkError, match="says nothing of 1 of the 1"):
        evaluate({Name("s", "1"): "p"}, {})
