"""An operator's client of statistics: the registry of producers, and the quality of what one of them sent."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any

import httpx
from rich.console import Group
from rich.table import Table
from rich.text import Text

from estuaire.client import Client, SendError
from estuaire.quality_page import LATENESS, percent

Quality = dict[str, Any]


class Statistics:
    """Statistics over HTTP, and linkage for what it alone knows, with an operator's token. Raise SendError."""

    def __init__(self, url: str, linkage: str, token: str) -> None:
        self._statistics, self._linkage = Client(url, token), Client(linkage, token)

    def sources(self) -> list[dict[str, Any]]:
        """Every producer that is registered or was seen."""
        found: list[dict[str, Any]] = self._statistics.ask("GET", "/v1/sources")["sources"]
        return found

    def quality(self, source: str, begin: dt.date | None = None, end: dt.date | None = None) -> Quality:
        """The report on a source from one day to another; its linkage rate under `linkage`, null if linkage is away."""
        period = {name: day.isoformat() for name, day in (("from", begin), ("to", end)) if day is not None}
        found: Quality = self._statistics.ask("GET", "/v1/sources/quality", params={"source": source, **period})
        try:
            linked = self._linkage.ask("GET", "/v1/linkage", params={"source": source})
        except (httpx.TransportError, SendError):
            linked = None
        return found | {"linkage": linked}


def sources_table(sources: Iterable[dict[str, Any]]) -> Table:
    """The producers, some lines each, so that 80 columns show all of them."""
    table = Table("producer", "last seven days", show_lines=True)
    for one in sources:
        about = (", ".join(one["formats"]), one["contact"]) if one["registered"] else ("not registered",)
        known = (one["title"], one["source"], *about)
        seen = (one["last_seen"] or "")[:16].replace("T", " ")
        expected = percent(one["expected_share"])
        figures = (
            f"{one['status']}, last {seen} UTC" if seen else one["status"],
            f"{one['accepted']:,} accepted, {one['refused']:,} refused",
            f"{one['per_day']:,.0f} a day" + (f", {expected} of expected" if expected else ""),
        )
        table.add_row(_plain("\n".join(filter(None, known))), _plain("\n".join(figures)))
    table.columns[1].no_wrap = True
    table.caption = "Events of the last seven days, and their mean a day."
    return table


def quality_table(found: Quality) -> Group:
    """The report, in tables."""
    title = f"{found['title'] or found['source']}, {found['from']} to {found['to']}"
    tables = [_counted(title, ("count", "share"), _volume(found))]
    for heading, parts in (
        ("refused, by reason", found["reasons"]),
        ("refused, by field", found["wrong"]),
        ("identity", [*found["identity"], *(one for one in found["identifiers"] if one["records"])]),
        ("identity status", found["statuses"]),
        ("contradictions", found["flags"]),
    ):
        rows = [(one["name"], one["records"], one["share"]) for one in parts if one["records"] or heading == "identity"]
        if rows:
            tables.append(_counted(heading, ("records", "share"), rows))
    late = [(LATENESS[one["name"]], one["records"], one["share"]) for one in found["lateness"] if one["records"]]
    tables.append(_counted("arrived after their event", ("records", "share"), late))
    for one in found["types"]:
        if one["records"]:
            tables.append(_fields(one))
    return Group(*tables)


def _volume(found: Quality) -> Iterator[tuple[str, int, float | None]]:
    yield "accepted", found["accepted"], None
    yield "refused", found["refused"], found["refused_share"]
    yield "duplicates", found["duplicates"], found["duplicates_share"]
    for name in ("corrections", "retractions", "conflicts"):
        yield name.replace("_", " "), found[name], None
    yield "dead letters", sum(one["records"] for one in found["dead_letters"]), None
    yield "unlinkable", found["unlinkable"]["records"], found["unlinkable"]["share"]
    if linkage := found["linkage"]:
        yield "identities linked to another source", linkage["with_another_source"], linkage["rate"]


def _fields(of_type: dict[str, Any]) -> Table:
    table = Table(
        "field", "records", "complete", "invalid", "", title=_title(f"{of_type['type']}: {of_type['records']:,}")
    )
    for one in of_type["fields"]:
        if one["records"] or one["invalid"]:
            counts = (f"{one['records']:,}", percent(one["share"]), f"{one['invalid']:,}")
            table.add_row(_plain(one["name"]), *counts, percent(one["invalid_share"]) if one["invalid"] else "")
    empty = [one["name"] for one in of_type["fields"] if not one["records"] and not one["invalid"]]
    table.caption = Text(f"in no record: {', '.join(empty)}", "table.caption") if empty else None
    return _aligned(table)


def _counted(title: str, headings: Iterable[str], rows: Iterable[tuple[str, int, float | None]]) -> Table:
    table = Table("", *headings, title=_title(title))
    for name, count, share in rows:
        table.add_row(_plain(name), f"{count:,}", percent(share))
    return _aligned(table)


def _plain(text: str) -> Text:
    """Text that others wrote, as it is: in a string, brackets would be styles and colons would be emoji."""
    return Text(text, overflow="fold")


def _title(text: str) -> Text:
    return Text(text, "table.title", overflow="fold")


def _aligned(table: Table) -> Table:
    table.title_justify = table.caption_justify = "left"
    for column in table.columns[1:]:
        column.justify = "right"
    return table
