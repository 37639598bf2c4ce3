"""An officer's client of access for people's requests: list, look, answer, refuse, extend, erase."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from estuaire.client import Client


class Requests:
    """Access over HTTP, with an officer's token. All raise SendError."""

    def __init__(self, url: str, token: str) -> None:
        self._access = Client(f"{url}/v1/requests", token)

    def list(self, *, every: bool = False) -> list[dict[str, Any]]:
        """Requests, those first that are due first; those that are done, too, if `every`."""
        found: list[dict[str, Any]] = self._access.ask("GET", "?all=true" if every else "")["requests"]
        return found

    def show(self, request: str) -> dict[str, Any]:
        """A request with what is held of the person, and where it went."""
        found: dict[str, Any] = self._access.ask("GET", f"/{request}")
        return found

    def do(self, request: str, act: str, says: Any) -> dict[str, Any]:
        """Do something about it; the request after that."""
        found: dict[str, Any] = self._access.ask("POST", f"/{request}/{act}", says)
        return found


def requests_table(requests: Iterable[dict[str, Any]]) -> Table:
    """The requests, a row each."""
    table = Table("request", "kind", "standing", "received", "due", "source")
    for one in requests:
        due = one["due"] + (", overdue" if one["overdue"] else "")
        table.add_row(one["id"], one["kind"], one["standing"], one["received"], due, one["source"])
    return table


def report_tables(one: dict[str, Any]) -> list[Table]:
    """A request: where it stands, what was done, what is held of the person, and where it went."""
    report = one["report"]
    standing = Table("request", one["id"], show_header=True)
    standing.add_row("kind", one["kind"])
    standing.add_row("standing", one["standing"])
    standing.add_row("received", f"{one['received']}, by {one['source']}")
    standing.add_row("due", one["due"] + (", overdue" if one["overdue"] else ""))
    for done in one["acts"]:
        says = done["says"]
        more = [says.get("ground"), says.get("reason"), says.get("document", {}).get("title")]
        more += [f"{done['records']} records"] if done["act"] == "erase" else []
        standing.add_row(done["act"], f"{done['at']} {done['by']}: {', '.join(filter(None, more))}")
    standing.add_row("identities", str(report["identities"]))
    standing.add_row("known besides", ", ".join(report["demographics"]) or "nothing")
    standing.add_row("objects to", ", ".join(report["objects_to"]) or "nothing")
    held = Table("source", "type", "records", "first", "last", title="what is held")
    for row in report["records"]:
        held.add_row(row["source"], row["type"], str(row["records"]), row["first"] or "", row["last"] or "")
    went = Table("permit", "title", "subscribers", "environment", "records", "until", title="where it went")
    for row in report["views"]:
        count = f"{row['records']} ({row['messages']} messages)"
        subscribers = ", ".join(row["subscribers"])
        went.add_row(row["permit"], row["title"], subscribers, row["environment"] or "", count, row["expires"])
    return [standing, held, went]
