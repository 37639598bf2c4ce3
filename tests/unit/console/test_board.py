"""The board: where each project is, what comes next, and what is late."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from contracts.projects import ACTS, OF_PROJECTS
from services.access.domain.projects import EXPIRED, STANDINGS
from services.console.domain.board import COLUMNS, acts_of, board, card

pytestmark = pytest.mark.unit

TODAY = dt.date(2026, 3, 1)
CALLS = {"call": {"id": "call", "reviewers": 2, "closes": "2026-02-28"}}


def project(name: str = "one", **changes: Any) -> dict[str, Any]:
    told = {"id": name, "title": name, "call": None, "selection": None, "reviews": 0, "standing": "draft"}
    return told | {"next": "request", "due": None} | changes


def test_every_standing_that_access_knows_has_a_column() -> None:
    assert set(STANDINGS.values()) | {EXPIRED} <= set(COLUMNS)


def test_a_column_has_what_is_due_first_at_its_top() -> None:
    def due(day: str) -> dict[str, Any]:
        return {"what": "completeness check", "day": day, "overdue": day < TODAY.isoformat()}

    told = [
        project("later", standing="requested", due=due("2026-04-01")),
        project("never", standing="requested"),
        project("late", standing="requested", due=due("2026-02-01")),
        project("new", standing="unheard-of"),
        project("first"),
    ]
    columns = board(told, {}, TODAY)
    assert [(one.standing, [card.told["id"] for card in one.cards]) for one in columns] == [
        ("draft", ["first"]),
        ("requested", ["late", "later", "never"]),
        ("unheard-of", ["new"]),
    ]
    assert columns[1].cards[0].due is not None
    assert columns[1].cards[0].due.overdue


@pytest.mark.parametrize(
    ("selection", "reviews", "act", "who"),
    [
        (None, 0, "request", "lead"),
        ("applied", 1, "review", "reviewer"),
        ("applied", 2, "choose", "officer"),
        ("chosen", 2, "request", "lead"),
        ("passed-over", 2, None, None),
    ],
)
def test_in_a_call_the_selection_comes_next(selection: str | None, reviews: int, act: str | None, who: str) -> None:
    told = project(call=selection and "call", selection=selection, reviews=reviews)
    shown = card(told, CALLS, TODAY)
    assert (shown.act, shown.who) == (act, who)
    assert (shown.due is not None and shown.due.overdue) == (selection == "applied"), "the call is over"


def test_an_act_is_offered_to_those_whose_it_is_what_comes_next_first() -> None:
    assert set(acts_of(["officer"], None)) == {act for act in OF_PROJECTS if ACTS[act].role == "officer"}
    assert acts_of(["officer"], "sign")[0] == "sign"
    assert acts_of(["reviewer", "operator"], "sign") == ["review"]
    assert acts_of(["operator"], "sign") == []
