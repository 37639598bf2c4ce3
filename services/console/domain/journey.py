"""A record's way through the hub: what each step has made of it and when, from what the services say of it. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

from contracts.messages import accepted_at

Told = Mapping[str, Any]
Tone = Literal["", "good", "wait", "bad"]
_NONE: Final[Told] = {}


class Stop(NamedTuple):
    """Something that became of the record: at which step, when (ISO, UTC), and the name of the words that say it."""

    step: str
    at: str
    word: str
    values: Told = _NONE
    tone: Tone = ""


def journey(linked: Told | None, stored: Told | None, letters: Iterable[tuple[str, Told]]) -> list[Stop]:
    """All that is known of a record, in the order in which it happened.

    `linked` is what linkage says, `stored` what access says, None from one that has not seen it; `letters` are its dead
    letters by the step that could not take it.
    """
    stops = [*_accepted(linked or stored), *_linked(linked), *_stored(linked, stored)]
    stops += [Stop(step, one["at"], "stop.dead", one, "bad") for step, one in letters]
    return sorted(stops, key=lambda one: dt.datetime.fromisoformat(one.at))


def _accepted(told: Told | None) -> list[Stop]:
    moment = accepted_at(told["revision"]) if told else 0
    at = dt.datetime.fromtimestamp(moment / 1000, dt.UTC).isoformat()
    return [Stop("ingest", at, "stop.accepted", tone="good")] if moment else []


def _linked(told: Told | None) -> list[Stop]:
    if told is None:
        return []
    stops = []
    for state in reversed(told["states"]):
        kind = "retraction" if state["retracted"] else "correction" if state["correction"] else "state"
        stops.append(Stop("linkage", state["linked_at"], f"stop.{kind}", state["coordinates"], "good"))
    if told["patient_id"]:
        word = "stop.linked" if told["method"] else "stop.own"
        return [*stops, Stop("linkage", told["linked_at"], word, told, "good")]
    return [*stops, Stop("linkage", told["linked_at"], "stop.erased", tone="wait")]


def _stored(linked: Told | None, told: Told | None) -> list[Stop]:
    if told is None:
        waits = linked is not None and bool(linked["patient_id"])
        return [Stop("access", linked["linked_at"], "stop.unseen", tone="wait")] if linked and waits else []
    at = told["stored_at"]
    stops = [Stop("access", at, "stop.retracted" if told["retracted"] else "stop.kept", told, "good")]
    stops += [Stop("access", at, "stop.withheld", {"permit": one}, "wait") for one in told["withheld"]]
    held = ({"permit": permit, "id": name} for permit, name in told["views"].items())
    views = [Stop("view", at, "stop.view", one, "good") for one in held]
    return [*stops, *(views or [Stop("view", at, "stop.no-view", tone="wait")])]
