"""Whom each page is for: the menu, and the roles that the console asks for at each of its routes.

What a page asks of a service is allowed or refused there all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from contracts.projects import ACTS
from services.console.domain.board import ROLES

Roles = frozenset[str]
"""Those who have one of these roles; everybody, where it names none."""

_EVERYBODY: Final[Roles] = frozenset()
_LEADS: Final = frozenset({"subscriber"})
_OFFICERS: Final = frozenset({"officer"})
_OPERATORS: Final = frozenset({"operator"})
_STEWARDS: Final = frozenset({"steward"})
_AUDITORS: Final = frozenset({"auditor"})
_OF_PROJECTS: Final = frozenset(ROLES)


class Page(NamedTuple):
    """A page of the menu."""

    path: str
    word: str
    roles: Roles


MENU: Final = (
    Page("/flow", "menu.flow", _OPERATORS),
    Page("/producers", "menu.producers", _OPERATORS),
    Page("/records", "menu.records", _OPERATORS),
    Page("/rejects", "menu.rejects", _OPERATORS),
    Page("/projects", "menu.projects", _OF_PROJECTS),
    Page("/calls", "menu.calls", _OF_PROJECTS),
    Page("/permits", "menu.permits", _OFFICERS | _LEADS),
    Page("/requests", "menu.requests", _OFFICERS),
    Page("/reviews", "menu.reviews", _STEWARDS),
    Page("/audit", "menu.audit", _AUDITORS),
    Page("/catalogue", "menu.catalogue", _EVERYBODY),
)
_ACT: Final = "/projects/{project}/acts/{act}"

ROUTES: Final[Mapping[str, Roles]] = {one.path: one.roles for one in MENU} | {
    "/": _EVERYBODY,
    "/sign-in": _EVERYBODY,
    "/sign-in/start": _EVERYBODY,
    "/signed-in": _EVERYBODY,
    "/enter": _EVERYBODY,
    "/sign-out": _EVERYBODY,
    "/language/{language}": _EVERYBODY,
    "/flow/series": _OPERATORS,
    "/producers/report": _OPERATORS,
    "/rejects/{step}": _OPERATORS,
    "/rejects/rounds": _OPERATORS,
    "/rejects/{step}/replay": _OPERATORS,
    "/projects/{project}": _OF_PROJECTS,
    _ACT: _OF_PROJECTS,
    "/projects/{project}/dry-run": _OFFICERS,
    "/calls/announce": _OFFICERS,
    "/apply": _LEADS,
    "/permits/try": _OFFICERS,
    "/permits/{permit}/close": _OFFICERS,
    "/requests/{request}": _OFFICERS,
    "/requests/{request}/{act}": _OFFICERS,
    "/reviews/next": _STEWARDS,
    "/reviews/keys": _STEWARDS,
    "/reviews/undo": _STEWARDS,
    "/reviews/{one}": _STEWARDS,
    "/audit/export": _AUDITORS,
    "/audit/{number}": _AUDITORS,
    "/catalogue/{entry:path}": _EVERYBODY,
}
"""Each route, as it is written. One that is not here lets nobody in."""


def roles_at(route: str, act: str = "") -> Roles:
    """The roles that a route is for; for an act on a project, those that do it. Raises KeyError for a route that is not
    declared."""
    roles = ROUTES[route]
    if route == _ACT and act in ACTS:
        return frozenset(one for one in roles if ROLES[one] == ACTS[act].role)
    return roles
