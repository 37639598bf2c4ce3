"""The states of a record: what is new, what is a re-send, what contradicts."""

from __future__ import annotations

import msgspec
import pytest

from services.linkage.domain.states import Coordinates, State, Verdict, accept, judge, place

pytestmark = pytest.mark.unit


def state(text: str, offset: int = 0, *, at: int | None = None) -> State:
    """`A`: plain content A; `B!`: a correction; `-`: a retraction; a number before it is the producer's version."""
    version = int(text[0]) if text[0].isdigit() else 0
    content = text.lstrip("0123456789")
    revision = f"{version:010d}-{offset if at is None else at:013d}-{offset:012d}"
    where = Coordinates(backfill=False, partition=0, offset=offset)
    return State(content.rstrip("!"), revision, "claim.v1", content == "-", content.endswith("!"), where, b"s")


SEQUENCES = {
    "A": "first",
    "A A": "first duplicate",
    "A B": "first conflict",
    "A B!": "first next",
    "A A!": "first duplicate",
    "A B! B!": "first next duplicate",
    "A B! A": "first next duplicate",
    "A B! A!": "first next next",
    "A B! C": "first next conflict",
    "A -": "first next",
    "A - -": "first next duplicate",
    "A - A": "first next duplicate",
    "A - B": "first next conflict",
    "A - A!": "first next next",
    "A - B! -": "first next next next",
    "-": "first",
    "- -": "first duplicate",
    "- A": "first conflict",
    "- A!": "first next",
    "1A 2B": "first next",
    "2B 1A": "first next",
    "2B 1A 1A": "first next duplicate",
    "2B 1A 1C": "first next conflict",
    "1A 2A": "first next",
    "1A 1B": "first conflict",
    "1A 1B!": "first next",
    "1A 2B! 3C! 2B!": "first next next duplicate",
    "1A 2-": "first next",
    "2- 1A": "first next",
    "3A -": "first next",
    "3A - -": "first next duplicate",
    "3A - 3A": "first next duplicate",
    "3A - 4B": "first next next",
    "3A - 4B -": "first next next next",
    "2A B!": "first next",
    "2A B! 2A": "first next duplicate",
    "2A B! 2C": "first next conflict",
    "- 3A": "first next",
    "- 3A -": "first next next",
}


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_sequence(sequence: str) -> None:
    known: list[State] = []
    verdicts = []
    for offset, text in enumerate(sequence.split()):
        one = place(state(text, offset), known)
        verdict = judge(one, known)
        verdicts.append(verdict.value)
        if verdict in (Verdict.FIRST, Verdict.NEXT):
            known = accept(one, known)
    assert " ".join(verdicts) == SEQUENCES[sequence]


@pytest.mark.parametrize(
    ("sequence", "current"),
    [
        ("3A -", "0000000003-0000000000001-000000000001"),
        ("3A - 4B", "0000000004-0000000000002-000000000002"),
        ("3A - 4B -", "0000000004-0000000000003-000000000003"),
        ("2A B!", "0000000002-0000000000001-000000000001"),
        ("2A 1B C!", "0000000002-0000000000002-000000000002"),
        ("-", "0000000000-0000000000000-000000000000"),
        ("- 3A", "0000000003-0000000000001-000000000001"),
        ("3A B", "0000000003-0000000000000-000000000000"),
    ],
)
def test_without_a_version_arrival_orders_what_replaces(sequence: str, current: str) -> None:
    known: list[State] = []
    for offset, text in enumerate(sequence.split()):
        known = accept(place(state(text, offset), known), known)
    assert known[0].revision == current


def test_a_replayed_retraction_keeps_the_revision_it_got() -> None:
    known: list[State] = []
    for offset, text in enumerate(["3A", "-", "4B"]):
        known = accept(place(state(text, offset), known), known)
    again = place(state("-", 1), known)
    assert (again.revision, judge(again, known)) == (known[1].revision, Verdict.AGAIN)
    replayed = place(msgspec.structs.replace(state("-", 9), revision=state("-", 1).revision), known)
    assert (replayed.revision, judge(replayed, known)) == (known[1].revision, Verdict.DUPLICATE)
    late = place(msgspec.structs.replace(state("C!", 9), revision=state("C!", 1).revision), known)
    assert accept(late, known)[0] is known[0], "accepted before version 4, read after it"


@pytest.mark.parametrize("overtaking", ["-", "B!"])
def test_an_original_overtaken_on_its_way_is_no_conflict(overtaking: str) -> None:
    known = [state(overtaking, 0, at=100)]
    original = state("A", 1, at=50)
    assert judge(original, known) is Verdict.NEXT
    assert accept(original, known)[0] is known[0]


def test_the_same_coordinates_are_the_same_message() -> None:
    known = [state("A", 5)]
    assert judge(state("A", 5), known) is Verdict.AGAIN
    other = state("B!", 5, at=100)
    assert (place(other, known), judge(other, known)) == (other, Verdict.NEXT), "of another broker, with its offsets"


def test_the_highest_revision_is_the_current_state() -> None:
    states: list[State] = []
    for offset, text in enumerate(("2B", "1A", "3C")):
        states = accept(state(text, offset), states)
    assert [one.digest for one in states] == ["C", "B", "A"]
