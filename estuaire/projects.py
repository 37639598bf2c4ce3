"""A client of access for calls for projects and projects: announce, apply, take a project on, and look."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from estuaire.client import Client, SendError


class Projects:
    """Access over HTTP, with the token of an officer, a reviewer or a lead. All raise SendError."""

    def __init__(self, url: str, token: str) -> None:
        self._access = Client(f"{url}/v1", token)

    def announce(self, call: Any) -> None:
        """Announce a call for projects."""
        self._access.ask("POST", "/calls", call)

    def calls(self) -> list[dict[str, Any]]:
        """All calls."""
        found: list[dict[str, Any]] = self._access.ask("GET", "/calls")["calls"]
        return found

    def apply(self, application: Any) -> dict[str, Any]:
        """Apply with a project."""
        found: dict[str, Any] = self._access.ask("POST", "/projects", application)
        return found

    def do(self, project: str, act: str, says: Any) -> dict[str, Any]:
        """Take a project one step on; the project after it."""
        found: dict[str, Any] = self._access.ask("POST", f"/projects/{project}/{act}", says)
        return found

    def project(self, project: str) -> dict[str, Any]:
        """A project with its steps."""
        found: dict[str, Any] = self._access.ask("GET", f"/projects/{project}")
        return found

    def projects(self) -> list[dict[str, Any]]:
        """The projects that may be seen."""
        found: list[dict[str, Any]] = self._access.ask("GET", "/projects")["projects"]
        return found


def read_document(path: Path) -> dict[str, Any]:
    """A map from YAML or JSON, dates as they are written. Raises SendError."""
    try:
        read = yaml.load(path.read_text(encoding="utf-8"), _Dates)  # noqa: S506 - a SafeLoader
    except (UnicodeDecodeError, yaml.YAMLError):
        raise SendError(f"{path.name} is neither YAML nor JSON in UTF-8") from None
    if not isinstance(read, dict):
        raise SendError(f"{path.name} is not a map of what is to be said")
    return read


def paper(path: Path, day: dt.date) -> dict[str, str]:
    """A document as the register names it: its title, the day, and its SHA-256."""
    return {"title": path.name, "date": day.isoformat(), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def projects_table(projects: Iterable[dict[str, Any]]) -> Table:
    """The projects, a row each."""
    table = Table("project", "standing", "next", "due", "call", "reviews", "permit", "title")
    for one in projects:
        call = f"{one['call']}: {one['selection']}" if one["call"] else ""
        score = "" if one["score"] is None else f", score {one['score']:.2f}"
        reviews = f"{one['reviews']}{score}" if one["call"] else ""
        row = (one["id"], one["standing"], one["next"] or "", _due(one), call, reviews, one["permit"] or "")
        table.add_row(*map(escape, (*row, one["title"])))
    return table


def calls_table(calls: Iterable[dict[str, Any]]) -> Table:
    """The calls, a row each."""
    table = Table("call", "opens", "closes", "places", "themes", "title")
    for one in calls:
        table.add_row(
            one["id"], one["opens"], one["closes"], str(one["places"]), ", ".join(one["themes"]), one["title"]
        )
    return table


def life_table(project: dict[str, Any]) -> Table:
    """A project's steps, a row each, with what was said."""
    title = f"{escape(project['title'])}: {project['standing']}"
    table = Table("when", "who", "what", "said", title=title, caption=_caption(project))
    for one in project["steps"]:
        said = yaml.safe_dump(one["says"], allow_unicode=True, sort_keys=False).strip() if one["says"] else ""
        table.add_row(one["at"], escape(one["actor"]), one["act"], escape(said))
    return table


def _caption(project: dict[str, Any]) -> str:
    following = f"next: {project['next']}" if project["next"] else ""
    return ", ".join(part for part in (following, _due(project)) if part)


def _due(project: dict[str, Any]) -> str:
    due = project["due"]
    return f"{due['what']} {due['day']}{' (overdue)' if due['overdue'] else ''}" if due else ""


class _Dates(yaml.SafeLoader):
    """Dates stay text: they go into JSON."""


_Dates.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
