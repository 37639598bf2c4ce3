"""Stays of RSS and VID-HOSP: the units (RUM) of one RSS become one hospital-stay.v1. Pure.

Sources: ATIH, guide méthodologique MCO (RUM, RSS); DRUIDES, guide utilisateur 2023, controls of the grouping function
(what a date, a mode, and a sequence of RUM may be).

Documentary codes are a hospital's own choice, of whatever classification: those that are no CIM-10 codes are dropped
and counted where the record is stripped, and refuse nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from services.ingest.domain.refusals import Refusal, Refused
from services.ingest.formats.fixed_width import Place, cutter, pieces_of, tables, text_of
from services.ingest.formats.pmsi import values, vid_hosp
from services.ingest.formats.reading import Piece, Read, read_as

_WITHIN: Final = ("6", "1")
"""A mutation within the hospital's MCO: it neither begins nor ends a stay."""


class _Rum(NamedTuple):
    finess: str
    stay: str
    rss: str
    rum: str
    birth_date: str
    sex: str
    bed: str
    entry: str
    entry_mode: str
    origin: str
    exit: str
    exit_mode: str
    destination: str
    postcode: str
    weight: str
    gestational_age: str
    last_period: str
    sessions: str
    principal: str
    related: str
    igs2: str
    emergency: str
    ghm: str
    ghm_version: str


class _Act(NamedTuple):
    date: str
    code: str
    extension: str
    phase: str
    activity: str
    times: str


class _Unit(NamedTuple):
    """A RUM that was read."""

    row: _Rum
    place: Place
    entry: dt.date
    exit: dt.date
    principal: str
    related: str | None
    associated: list[str]
    documentary: list[str]
    acts: list[dict[str, Any]]


_TABLE: Final = tables("pmsi-mco")["rss"]
_CUT: Final = {id(shape): cutter(shape, _Rum) for shape in _TABLE.shapes.values()}
_ACT_SHAPE: Final = tables("pmsi-mco")["rss-act"].shapes[""]
_CUT_ACT: Final = cutter(_ACT_SHAPE, _Act)


def reads(pieces: Sequence[Piece], source: str) -> Iterator[Read]:
    """The events of all RSS with one administrative number, and what is wrong with its VID-HOSP lines."""
    stays: dict[str, list[Piece]] = {}
    holders = []
    for piece in pieces:
        if piece.layout.part == "rss":
            stays.setdefault(_rss_number(piece), []).append(piece)
        else:
            holders.append(piece)
    holder, wrong = vid_hosp.holder_of(holders, has_stay=bool(stays))
    for rums in stays.values():
        outcome: dict[str, Any] | Refusal
        try:
            units = _sequence([_unit(one) for one in values.distinct(rums)])
            identifiers: Sequence[dict[str, Any]] = ()
            if holder:
                row = units[0].row
                odds = vid_hosp.contradiction(holder, row.birth_date, row.sex)
                if odds:
                    wrong.append(odds)
                else:
                    identifiers = holder.identifiers
            outcome = _event(units, identifiers, source)
        except Refused as refused:
            outcome = refused.refusal
        yield read_as(rums[0], outcome)
    yield from dict.fromkeys(wrong)


def _rss_number(piece: Piece) -> str:
    text = text_of(piece.line.data)
    try:
        field = _TABLE.shape(text).fields["rss"]
    except Refused:
        return ""
    return field.of(text).strip(" ")


def _unit(piece: Piece) -> _Unit:
    text = text_of(piece.line.data)
    shape = _TABLE.shape(text)
    place = Place(piece.line.number, shape.fields)
    associated, documentary, acts = pieces_of(text, shape, place)
    row = _CUT[id(shape)](text)
    entry = values.date(place, "entry", row.entry)
    exit_ = values.date(place, "exit", row.exit)
    if exit_ < entry:
        place.refuse("exit", "bad-date", "is before the entry into the unit")
    if values.date(place, "birth_date", row.birth_date) > entry:
        place.refuse("birth_date", "bad-date", "is after the entry into the unit")
    values.sex(place, row.sex)
    values.choice(place, "entry_mode", row.entry_mode, values.ENTRY_MODES)
    values.choice(place, "exit_mode", row.exit_mode, values.EXIT_MODES)
    values.choice_or_none(place, "origin", row.origin, values.FIELDS_OF_CARE)
    values.choice_or_none(place, "destination", row.destination, values.FIELDS_OF_CARE)
    principal = values.diagnosis(place, "principal", row.principal)
    if principal is None:
        place.refuse("principal", "missing-field", "is blank")
    return _Unit(
        row=row,
        place=place,
        entry=entry,
        exit=exit_,
        principal=principal,
        related=values.diagnosis(place, "related", row.related),
        associated=values.diagnoses(place.line, shape.length, associated),
        documentary=[code for piece in documentary if (code := piece.strip(" "))],
        acts=_acts(place, shape.length + sum(map(len, associated + documentary)), acts),
    )


def _acts(place: Place, base: int, pieces: list[str]) -> list[dict[str, Any]]:
    found = []
    for piece in pieces:
        here = Place(place.line, _ACT_SHAPE.fields, base)
        row = _CUT_ACT(piece)
        made = values.act(here, row)
        if (day := values.date_or_none(here, "date", row.date)) is not None:
            made["date"] = day.isoformat()
        found.append(made)
        base += len(piece)
    return found


def _sequence(units: list[_Unit]) -> list[_Unit]:
    """The units in the order of their dates, where they are all of one stay. Raises Refused."""
    units.sort(key=lambda one: (one.entry, one.exit, _begins_within(one), not _ends_within(one), one.row.rum))
    first, last = units[0], units[-1]
    if _begins_within(first):
        first.place.refuse("entry_mode", "incomplete-stay", "is a mutation from MCO: the RUM before it is missing")
    if _ends_within(last):
        last.place.refuse("exit_mode", "incomplete-stay", "is a mutation to MCO: the RUM after it is missing")
    seen: dict[str, _Unit] = {}
    for one in units:
        if (other := seen.setdefault(one.row.rum, one)) is not one:
            one.place.refuse("rum", "second-line", f"is that of line {other.place.line}, which differs")
        for field in ("birth_date", "sex"):
            if getattr(one.row, field) != getattr(first.row, field):
                one.place.refuse(field, "identities-disagree", f"is not that of line {first.place.line}, of one RSS")
    for before, after in pairwise(units):
        # A stay that another hospital's service suspends resumes later.
        suspended = before.row.exit_mode == "0" == after.row.entry_mode
        if after.entry < before.exit or (after.entry > before.exit and not suspended):
            says = f"is not the exit of the RUM before it (line {before.place.line}): look for a RUM that is missing"
            after.place.refuse("entry", "broken-sequence", says)
    return units


def _begins_within(one: _Unit) -> bool:
    return (one.row.entry_mode, one.row.origin) == _WITHIN


def _ends_within(one: _Unit) -> bool:
    return (one.row.exit_mode, one.row.destination) == _WITHIN


def _event(units: list[_Unit], identifiers: Sequence[dict[str, Any]], source: str) -> dict[str, Any]:
    """The stay; its name is that of the RSS within its administrative number, which no transmission changes."""
    first = units[0]
    row = first.row
    finess, stay, rss = row.finess, row.stay.strip(" "), row.rss.strip(" ")
    residence = values.present(postcode=values.postcode(row.postcode))
    identity: dict[str, Any] = {
        "sex": values.SEXES[row.sex],
        "birth_date": values.date(first.place, "birth_date", row.birth_date).isoformat(),
    }
    if identifiers:
        identity["identifiers"] = list(identifiers)
    if residence:
        identity["residence"] = residence
    return values.stay_event(source, f"rss:{finess}:{stay}:{rss}", first.entry, identity, _record(units))


def _record(units: list[_Unit]) -> dict[str, Any]:
    first, last = units[0], units[-1]
    principal = first.principal if len({one.principal for one in units}) == 1 else None
    related = first.related if principal and len({one.related for one in units}) == 1 else None
    others = dict.fromkeys(
        code
        for one in units
        for code in (one.principal, one.related, *one.associated)
        if code not in (principal, related)
    )
    others.pop(None, None)
    return values.present(
        entry=first.entry.isoformat(),
        exit=last.exit.isoformat(),
        entry_mode=first.row.entry_mode,
        origin=first.row.origin.strip() or None,
        exit_mode=last.row.exit_mode,
        destination=last.row.destination.strip() or None,
        emergency=next((code for one in units if (code := _emergency(one))), None),
        weight=_first(units, "weight"),
        gestational_age=_first(units, "gestational_age"),
        last_period=next((day for one in units if (day := _last_period(one))), None),
        sessions=sum(one.place.number("sessions", one.row.sessions) or 0 for one in units) or None,
        principal_diagnosis=principal,
        related_diagnosis=related,
        associated_diagnoses=list(others),
        documentary_codes=list(dict.fromkeys(code for one in units for code in one.documentary)),
        acts=[act for one in units for act in one.acts],
        units=[_unit_record(one, alone=len(units) == 1) for one in units],
        ghm=values.code(first.place, "ghm", first.row.ghm, "ghm", "a GHM") if first.row.ghm else None,
        ghm_version=first.place.number("ghm_version", first.row.ghm_version) if first.row.ghm_version else None,
        finess=first.row.finess,
    )


def _unit_record(one: _Unit, alone: bool) -> dict[str, Any]:
    """A unit; what the only one of a stay did is the stay's."""
    own = values.present(
        bed=values.code(one.place, "bed", one.row.bed, "unit-authorisation", "a type of authorisation"),
        entry=one.entry.isoformat(),
        exit=one.exit.isoformat(),
        igs2=one.place.number("igs2", one.row.igs2) or None,
    )
    if alone:
        return own
    return own | values.present(
        entry_mode=one.row.entry_mode,
        origin=one.row.origin.strip() or None,
        exit_mode=one.row.exit_mode,
        destination=one.row.destination.strip() or None,
        principal_diagnosis=one.principal,
        related_diagnosis=one.related,
        associated_diagnoses=one.associated,
        acts=one.acts,
    )


def _first(units: list[_Unit], field: str) -> int | None:
    """The first that is not nought, which numbers are filled up with."""
    return next((found for one in units if (found := one.place.number(field, getattr(one.row, field)))), None)


def _emergency(one: _Unit) -> str | None:
    return values.choice_or_none(one.place, "emergency", one.row.emergency, values.EMERGENCIES)


def _last_period(one: _Unit) -> str | None:
    day = values.date_or_none(one.place, "last_period", one.row.last_period)
    return day.isoformat() if day else None
