"""Linkage is right: a labelled population through both token levels and a real index, and the report on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.events import Event
from estuaire.evaluation import Evaluation, Truth, as_json, evaluate, read_truth
from estuaire.link import LinkError, Name, link_file
from estuaire.traps import TRAPS, labelled, write

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evaluation]:
    folder = tmp_path_factory.mktemp("population")
    write(labelled(seed=4, people=1000, records=3000), folder / "events.ndjson", folder / "truth.csv")
    linked = link_file(folder / "events.ndjson")
    assert linked.refused == 0
    assert linked.rules.name.startswith("2026-1+")
    yield evaluate(linked.patients, read_truth(folder / "truth.csv"))


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
