"""A record's way through the hub: what each step has made of it and when, from what the services say of it. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from contracts.messages import accepted_at
from services.console.domain.pairs import linked_by
from services.console.domain.spans import Trace

Told = Mapping[str, Any]
Tone = Literal["", "good", "wait", "bad"]
_NONE: Final[Told] = {}
_LAST: Final = dt.datetime.max.replace(tzinfo=dt.UTC)
KEEPS_NOTHING: Final = "pseudonym"


class Stop(NamedTuple):
    """Something that became of the record: at which step, when (ISO, UTC), and the name of the words that say it.

    Without a time it is what holds now; of pseudonym, which keeps nothing, that it has been there.
    """

    step: str
    at: str
    word: str
    values: Told = _NONE
    tone: Tone = ""


Placed = tuple[dt.datetime, Stop]
"""A stop, and the moment by which it has its place on the way."""


def journey(
    linked: Told | None,
    stored: Told | None,
    letters: Iterable[tuple[str, Told]],
    followed: Iterable[Trace] = (),
) -> list[Stop]:
    """All that is known of a record, in the order in which it happened; what holds now comes last.

    `linked` is what linkage says, `stored` what access says, None from one that has not seen it; `letters` are its dead
    letters by the step that could not take it, `followed` its traces.
    """
    stops = [*_states(linked, stored, followed), *_linked(linked), *_stored(linked, stored)]
    stops += [(_moment(one["at"]), Stop(step, one["at"], "stop.dead", one, "bad")) for step, one in letters]
    return [stop for _, stop in sorted(stops, key=lambda placed: placed[0])]


def _states(linked: Told | None, stored: Told | None, followed: Iterable[Trace]) -> Iterator[Placed]:
    """Each state of the record: accepted, through pseudonym, and at linkage, if that says so."""
    states: list[tuple[Told, str]] = [(one, one["linked_at"]) for one in reversed(linked["states"])] if linked else []
    if linked is None and stored is not None:
        states = [({"revision": stored["revision"]}, stored["stored_at"])]
    passed = sorted(one.when(span) for one in followed for span in one.spans if span.step == KEEPS_NOTHING)
    for state, at in states:
        accepted, there = dt.datetime.fromtimestamp(accepted_at(state["revision"]) / 1000, dt.UTC), _moment(at)
        if accepted.timestamp():
            yield accepted, Stop("ingest", accepted.isoformat(), "stop.accepted", tone="good")
        traced = next((one for one in passed if accepted <= one <= there), None)
        word, when = ("stop.traced", traced.isoformat()) if traced else ("stop.passed", "")
        yield traced or there, Stop(KEEPS_NOTHING, when, word, tone="good")
        if linked:
            kind = "retraction" if state["retracted"] else "correction" if state["correction"] else "state"
            yield there, Stop("linkage", at, f"stop.{kind}", state["coordinates"], "good")


def _linked(told: Told | None) -> Iterator[Placed]:
    """Whose it is: since it came, or since what links it was decided later."""
    if told is None:
        return
    came = min(_moment(one["linked_at"]) for one in told["states"])
    if not told["patient_id"]:
        yield _moment(told["linked_at"]), Stop("linkage", "", "stop.erased", tone="wait")
    elif (link := told["link"]) is None:
        yield came, Stop("linkage", "", "stop.own", tone="good")
    else:
        decided = _moment(link["decided_at"])
        since = max(came, decided)
        values = {"link": link, "evidence": linked_by(link), "decided": link["decided_at"] if decided < came else None}
        yield since, Stop("linkage", since.isoformat(), "stop.linked", values, "good")


def _stored(linked: Told | None, told: Told | None) -> Iterator[Placed]:
    if told is None:
        if linked and linked["patient_id"]:
            yield _LAST, Stop("access", "", "stop.unseen", tone="wait")
        return
    at = told["stored_at"]
    yield _moment(at), Stop("access", at, "stop.retracted" if told["retracted"] else "stop.kept", told, "good")
    for permit, since in told["views"].items():
        yield _moment(since) if since else _LAST, Stop("view", since or "", "stop.view", {"permit": permit}, "good")
    for one in told["withheld"]:
        word = "stop.objects-to-all" if one == "*" else "stop.objects"
        yield _LAST, Stop("access", "", word, {"source": one}, "wait")
    if not (told["views"] or told["withheld"] or told["retracted"]):
        yield _LAST, Stop("view", "", "stop.no-view", tone="wait")


def _moment(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)
