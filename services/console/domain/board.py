"""Projects as a board: a column for each standing; on each card what comes next, by whom, and until when. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from contracts.projects import ACTS, OF_PROJECTS

COLUMNS: Final = (
    "draft",
    "requested",
    "incomplete",
    "complete",
    "opinion-given",
    "authorised",
    "declared",
    "signed",
    "open",
    "suspended",
    "expired",
    "closed",
    "refused",
    "revoked",
    "withdrawn",
)
"""The standings, from an application to its end; one that is not among them comes last."""
ROLES: Final = {"officer": "officer", "reviewer": "reviewer", "subscriber": "lead"}
"""As what somebody with a role of the issuer's acts on projects."""
_APPLIED: Final = "applied"


class Due(NamedTuple):
    """What is awaited, or ends, and its last day."""

    what: str
    day: str
    overdue: bool


class Card(NamedTuple):
    """A project. `act` is what comes next, if anything, and `who` does it; `told` is all that access says of it."""

    told: Mapping[str, Any]
    act: str | None
    who: str | None
    due: Due | None


class Column(NamedTuple):
    """The projects of one standing, those that are due first at the top."""

    standing: str
    cards: list[Card]


def board(
    projects: Iterable[Mapping[str, Any]], calls: Mapping[str, Mapping[str, Any]], today: dt.date
) -> list[Column]:
    """The columns that have a project."""
    columns: dict[str, list[Card]] = {standing: [] for standing in COLUMNS}
    for one in projects:
        columns.setdefault(one["standing"], []).append(card(one, calls, today))
    return [Column(standing, sorted(cards, key=_order)) for standing, cards in columns.items() if cards]


def card(project: Mapping[str, Any], calls: Mapping[str, Mapping[str, Any]], today: dt.date) -> Card:
    """A project, with what comes next: while its call has not chosen that is the selection, which `next` leaves out."""
    call = calls.get(project["call"] or "")
    due = Due(**project["due"]) if project["due"] else None
    act: str | None = project["next"]
    if project["standing"] == "draft" and project["selection"] is not None:
        if project["selection"] == _APPLIED and call is not None:
            act = "review" if project["reviews"] < call["reviewers"] else "choose"
            due = due or Due("end of the call", call["closes"], call["closes"] < today.isoformat())
        elif project["selection"] != "chosen":
            act = None
    return Card(project, act, ACTS[act].role if act and act in ACTS else None, due)


def acts_of(roles: Iterable[str], first: str | None) -> list[str]:
    """The acts on a project that are of these roles of the issuer's, what comes next first."""
    mine = {ROLES[one] for one in roles if one in ROLES}
    found = [act for act in OF_PROJECTS if ACTS[act].role in mine]
    return sorted(found, key=lambda act: act != first)


def _order(one: Card) -> tuple[bool, str, str]:
    return one.due is None, one.due.day if one.due else "", str(one.told["title"])
