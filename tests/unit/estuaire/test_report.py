"""The parts of an evaluation's page: the curve, the way between two records, words."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from estuaire.chart import draw, spread
from estuaire.evaluation import Truth, count_pairs, evaluate
from estuaire.explanation import find_way, in_words
from estuaire.link import Name
from services.linkage.domain.decide import SCORED, Decision, Outcome
from services.linkage.domain.patients import Decided

pytestmark = pytest.mark.unit

SVG = "{http://www.w3.org/2000/svg}"


def drawn(shifts: list[int], **series: list[float]) -> ElementTree.Element:
    text = draw(shifts, series)
    return ElementTree.fromstring(text.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def test_a_curve_has_a_line_for_each_series_and_a_value_for_each_shift() -> None:
    picture = drawn([-1, 0, 1], precision=[0.9, 0.95, 1.0], recall=[1.0, 0.9, 0.8])
    lines = picture.findall(f"{SVG}polyline")
    assert [line.get("class") for line in lines] == ["line s1", "line s2"]
    heights = [float(point.split(",")[1]) for point in (lines[0].get("points") or "").split()]
    assert heights == sorted(heights, reverse=True), "higher is better"
    titles = [title.text for title in picture.iter(f"{SVG}title")]
    assert titles[0] == "−1 bits: precision 0.9000, recall 1.0000"
    assert len(titles) == 3
    assert "the rules as they are" in {text.text for text in picture.iter(f"{SVG}text")}


@pytest.mark.parametrize(
    ("lowest", "label"), [(1.0, "0.999"), (0.9995, "0.999"), (0.997, "0.997"), (0.871, "0.85"), (0.05, "0"), (0.0, "0")]
)
def test_the_scale_begins_just_below_the_lowest_value(lowest: float, label: str) -> None:
    picture = drawn([0, 5], recall=[1.0, lowest])
    ticks = [text.text for text in picture.iter(f"{SVG}text") if text.get("text-anchor") == "end"]
    assert (ticks[0], ticks[-1]) == (label, "1")
    assert len(ticks) <= 8
    (line,) = picture.findall(f"{SVG}polyline")
    assert all(0 <= float(point.split(",")[1]) <= 300 for point in (line.get("points") or "").split())


def test_names_do_not_lie_on_one_another() -> None:
    assert spread([10, 11, 40], 15) == [10, 25, 40]
    assert spread([], 15) == []


def test_the_way_between_two_is_short_and_may_not_be_there() -> None:
    links = {b"a": [b"b", b"c"], b"b": [b"a", b"c"], b"c": [b"b", b"a", b"d"], b"d": [b"c"]}
    assert find_way(links, b"a", b"d") == [b"a", b"c", b"d"]
    assert find_way(links, b"d", b"a") == [b"d", b"c", b"a"]
    assert find_way(links, b"a", b"e") == []


@pytest.mark.parametrize(
    ("outcome", "method", "rank", "reason", "guard", "words"),
    [
        (Outcome.LINK, "ins-nir", 10, "", "", "linked by the same NIR (INS)"),
        (Outcome.LINK, "ipp", SCORED, "", "", "against contradicting traits"),
        (Outcome.LINK, "traits", SCORED, "", "a steward keeps the two apart", "held back: a steward keeps"),
        (Outcome.REVIEW, "traits", SCORED, "alike, but", "", "left to a steward: alike, but"),
        (Outcome.APART, "traits", SCORED, "", "", "kept apart: rather two strangers"),
    ],
)
def test_a_decision_in_words(outcome: Outcome, method: str, rank: int, reason: str, guard: str, words: str) -> None:
    decision = Decision(outcome, method, rank, 3.0, reason)
    assert words in in_words(Decided(b"a", b"b", decision, guard))


def test_two_that_never_met_are_said_to() -> None:
    assert in_words(None).startswith("never compared")


def test_counting_pairs_and_going_through_them_is_the_same() -> None:
    names = [Name("s", str(number)) for number in range(6)]
    patients = dict(zip(names, "ppqqqr", strict=True))
    truth = {name: Truth(person, ()) for name, person in zip(names, "aaabbc", strict=True)}
    assert count_pairs(patients, truth) == evaluate(patients, truth).overall
