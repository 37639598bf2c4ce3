"""The values that RSS and RSA have in common: dates, codes of a list, diagnoses, acts. Pure.

Each takes the text of a field and the place where it stands, and raises Refused there; blank is None where it may be.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from contracts.events import EARLIEST, LATEST
from services.ingest.domain.content import known
from services.ingest.formats.fixed_width import Field, Place
from services.ingest.formats.reading import Piece, event

SEXES: Final = {"1": "male", "2": "female", "3": "other"}
ENTRY_MODES: Final = frozenset("0678NO")
EXIT_MODES: Final = frozenset("06789")
FIELDS_OF_CARE: Final = frozenset("1234567RU")
EMERGENCIES: Final = frozenset("5UV")
_ACTIVITIES: Final = frozenset("12345")
_PHASES: Final = frozenset("0123")


def distinct(pieces: Iterable[Piece]) -> list[Piece]:
    """The lines without those that are the same as one before: files of cumulative transmissions may overlap."""
    seen: dict[bytes, Piece] = {}
    for piece in pieces:
        seen.setdefault(piece.line.data, piece)
    return list(seen.values())


@lru_cache(maxsize=1 << 16)
def calendar_day(text: str) -> dt.date | None:
    """The day that JJMMAAAA is, or None where there is no such day within the years that the hub takes."""
    if not (len(text) == 8 and text.isascii() and text.isdigit()):
        return None
    try:
        day = dt.date(int(text[4:]), int(text[2:4]), int(text[:2]))
    except ValueError:
        return None
    return day if EARLIEST.date() <= day < LATEST.date() else None


def date(place: Place, field: str, text: str) -> dt.date:
    """A day that has to be there."""
    day = calendar_day(text)
    if day is None:
        place.refuse(field, "bad-date", "is not a date of the calendar (DDMMYYYY)")
    return day


def date_or_none(place: Place, field: str, text: str) -> dt.date | None:
    """A day, or None where it is blank."""
    return date(place, field, text) if text.strip() else None


def choice(place: Place, field: str, text: str, among: frozenset[str]) -> str:
    """A code of a list that has to be there."""
    if text not in among:
        place.refuse(field, "unknown-code", f"is not one of {', '.join(sorted(among))}")
    return text


def choice_or_none(place: Place, field: str, text: str, among: frozenset[str]) -> str | None:
    """A code of a list, or None where it is blank."""
    return choice(place, field, text, among) if text.strip() else None


def sex(place: Place, text: str) -> str:
    """The sex as an identity has it."""
    return SEXES[choice(place, "sex", text, frozenset(SEXES))]


def postcode(text: str) -> str | None:
    """A French postcode; 99 and a country's code stand for a residence abroad, and are none."""
    return text if len(text) == 5 and text.isascii() and text.isdigit() and not text.startswith(("99", "00")) else None


def code(place: Place, field: str, text: str, pattern: str, what: str) -> str | None:
    """A code by a pattern of `contracts/content/systems.yaml`, or None where it is blank."""
    text = text.strip(" ")
    if not text:
        return None
    if not known(pattern, text):
        place.refuse(field, "unknown-code", f"is not {what}")
    return text


def diagnosis(place: Place, field: str, text: str) -> str | None:
    """A CIM-10 code, or None where it is blank."""
    return code(place, field, text, "cim10", "a CIM-10 code as PMSI writes it")


def diagnoses(line: int, base: int, pieces: list[str]) -> list[str]:
    """The associated diagnoses of a line, of which the first stands at `base`; none may be blank."""
    found = []
    for piece in pieces:
        text = piece.strip(" ")
        if not known("cim10", text):
            fields = {"code": Field(0, len(piece), "associated diagnosis")}
            Place(line, fields, base).refuse("code", "unknown-code", "is not a CIM-10 code as PMSI writes it")
        found.append(text)
        base += len(piece)
    return found


def act(place: Place, row: Any) -> dict[str, Any]:
    """A CCAM act without its date; `row` has the code, its PMSI extension, phase, activity and times."""
    found, wrong = _act(row.code, row.extension, row.phase, row.activity, row.times)
    if wrong:
        place.refuse(*wrong)
    return dict(found)


@lru_cache(maxsize=1 << 16)
def _act(
    ccam: str, extension: str, phase: str, activity: str, times: str
) -> tuple[dict[str, Any], tuple[str, str, str] | None]:
    """An act, or what is wrong with it: the field, the reason, and the sentence."""
    ccam, extension, times = ccam.strip(" "), extension.strip(" -"), times.strip(" ")
    if not known("ccam", ccam):
        return {}, ("code", "unknown-code", "is not a CCAM code")
    if extension:
        ccam = f"{ccam}-{extension}"
        if not known("ccam", ccam):
            return {}, ("extension", "unknown-code", "is not a PMSI extension of a CCAM code")
    if phase not in _PHASES:
        return {}, ("phase", "unknown-code", f"is not one of {', '.join(sorted(_PHASES))}")
    if activity not in _ACTIVITIES:
        return {}, ("activity", "unknown-code", f"is not one of {', '.join(sorted(_ACTIVITIES))}")
    made: dict[str, Any] = {"code": ccam, "activity": activity, "phase": phase}
    if times:
        if not (times.isascii() and times.isdigit()):
            return {}, ("times", "bad-number", "is not a whole number")
        made["count"] = int(times)
    return made, None


def present(**fields: Any) -> dict[str, Any]:
    """The fields that there is something in."""
    return {name: value for name, value in fields.items() if value is not None and value != []}


def stay_event(
    source: str, name: str, when: dt.date, identity: dict[str, Any], record: dict[str, Any]
) -> dict[str, Any]:
    """The CloudEvent of a stay: a correction of whatever was sent of the stay before."""
    data = {"identity": identity, "record": record}
    return event(source, "hospital-stay.v1", name, f"{when.isoformat()}T00:00:00Z", data, correction=True)
