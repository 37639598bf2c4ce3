"""One record followed through the hub: the steps that have seen it, when, and what each made of it."""

from __future__ import annotations

import datetime as dt
from typing import Any

from rich.table import Table

from contracts.messages import accepted_at
from estuaire.client import Client

Seen = dict[str, Any]
ERASED = "whom it was about is erased"


def follow(event_id: str, linkage: str, access: str, token: str) -> tuple[Seen | None, Seen | None]:
    """What linkage and what access know of a record, with an operator's token; None from one that has not seen it.

    Raises SendError.
    """
    linked, stored = (Client(url, token, 10).find(f"/v1/records/{event_id}") for url in (linkage, access))
    return linked, stored


def trace_table(title: str, event_id: str, linked: Seen | None, stored: Seen | None) -> Table:
    """Every step that the record passed, a row or more each."""
    table = Table("step", "when", "what", title=title)
    table.add_row("ingest", _accepted(linked or stored), f"accepted as {event_id}")
    if linked is None:
        table.add_row("linkage", "", "has not seen it")
    else:
        for state in linked["states"]:
            words = "a retraction" if state["retracted"] else "a correction" if state["correction"] else "a state"
            at = state["coordinates"]
            where = f"{at['topic']}/{at['partition']}@{at['offset']}"
            table.add_row("linkage", _moment(state["linked_at"]), f"{words} of the record, from {where}")
        table.add_row(
            "linkage", "", f"patient {linked['patient_id']}, {_link(linked)}" if linked["patient_id"] else ERASED
        )
    if stored is None and linked is not None and not linked["patient_id"]:
        table.add_row("access", "", "keeps nothing of it")
    elif stored is None:
        table.add_row("access", "", "has not seen it")
    else:
        held = "retracted" if stored["retracted"] else f"kept, {stored['type']}"
        table.add_row("access", _moment(stored["stored_at"]), f"{held}, revision {stored['revision']}")
        if stored["withheld"]:
            table.add_row("access", "", f"withheld by an opposition: {', '.join(stored['withheld'])}")
        for permit, since in stored["views"].items():
            table.add_row("access", _moment(since) if since else "", f"in view-{permit}")
    return table


def _link(linked: Seen) -> str:
    link = linked["link"]
    if link is None:
        return "whom no other identity is linked to"
    return "by the word of a steward" if link["stewarded"] else f"by {link['method']}"


def _accepted(record: Seen | None) -> str:
    moment = accepted_at(record["revision"]) if record else 0
    return _moment(dt.datetime.fromtimestamp(moment / 1000, dt.UTC).isoformat()) if moment else ""


def _moment(text: str) -> str:
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
