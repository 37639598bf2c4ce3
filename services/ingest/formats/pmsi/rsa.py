"""Stays of RSA and their chaining file (ANO): one hospital-stay.v1 for each RSA. Pure.

A RSA has neither a name nor a birth date: it finds its person by pseudo-NIR only. The nine return codes of its ANO line
all have to be 0 for that (NIR_RET, NAI_RET, SEX_RET, SEJ_RET, FHO_RET, PMS_RET, DAT_RET, COH_NAI_RET, COH_SEX_RET):
confirmed in the SNDS documentation (indsante/Documentation-SNDS: fiches/requete_type_pmsi_mco.md and the Cnam's guide
on causes of death), in the Health Data Hub's sndsTools (extract_stays_mcob.R), and by ATIH, GENRSA, manuel 2022, where
0 is "RAS". The number that chains a mother with her child is read by nobody here.
A RSA that is not chained is refused, `not-chained`: nobody can be found by it, and nothing names it that lasts.

The number of a RSA counts the stays of one transmission. GENRSA and DRUIDES write a table of correspondence (.tra) with
each; of the other number that it gives, a unit's, GENRSA's manual says that it may change from one run to the next
(2022); no source says that a RSA keeps its number. Under its number a stay would be overwritten by
another one next month, and would be there twice once it is chained. So a stay is named by what stays: hospital,
pseudo-NIR and birth rank, entry and exit. Weight and GHM are corrected from one month to the next, and are no part of
it: stays of one person on the same days are told apart by being several (`services/ingest/files.py`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from services.ingest.domain.identity import is_dummy
from services.ingest.domain.refusals import Refusal, Refused, refusing
from services.ingest.formats.fixed_width import Place, cutter, pieces_of, tables, text_of
from services.ingest.formats.pmsi import values
from services.ingest.formats.reading import Piece, Read, read_as

RANKS: Final = "pmsi"
"""The scheme that the birth rank of an ANO line counts in: hospitals give it, the health insurance gives another."""


class _Rsa(NamedTuple):
    finess: str
    number: str
    ghm_version: str
    ghm: str
    age_years: str
    age_days: str
    sex: str
    entry_mode: str
    origin: str
    exit_month: str
    exit_year: str
    exit_mode: str
    destination: str
    nights: str
    postcode: str
    weight: str
    gestational_age: str
    sessions: str
    emergency: str
    principal: str
    related: str


class _UnitRow(NamedTuple):
    finess: str
    principal: str
    related: str
    igs2: str
    associated: str
    acts: str
    nights: str
    authorisation: str
    hospitalisation: str


class _Act(NamedTuple):
    day: str
    code: str
    extension: str
    phase: str
    activity: str
    times: str


class _Ano(NamedTuple):
    controls: str
    pseudonym: str
    entry: str
    exit: str
    rank_control: str
    rank: str


class _Chain(NamedTuple):
    """What an ANO line says of its stay: whose it is, where the chaining is valid, and its days."""

    number: dict[str, Any] | None = None
    entry: dt.date | None = None
    exit: dt.date | None = None


_NOT_CHAINED: Final = (
    "no ANO line with nine return codes of 0 says whose stay it is: send the RSA and ANO files of one transmission"
    " together, or correct the number in VID-HOSP, and the stay is taken with the transmission that chains it"
)
_TABLES: Final = tables("pmsi-mco")
_TABLE: Final = _TABLES["rsa"]
_CUT: Final = {id(shape): cutter(shape, _Rsa) for shape in _TABLE.shapes.values()}
_UNIT_SHAPE: Final = _TABLES["rsa-unit"].shapes[""]
_CUT_UNIT: Final = cutter(_UNIT_SHAPE, _UnitRow)
_ACT_SHAPE: Final = _TABLES["rsa-act"].shapes[""]
_CUT_ACT: Final = cutter(_ACT_SHAPE, _Act)
_ANO_SHAPE: Final = _TABLES["ano"].shapes[""]
_CUT_ANO: Final = cutter(_ANO_SHAPE, _Ano)


def reads(pieces: Sequence[Piece], source: str) -> Iterator[Read]:
    """The event of the RSA with one number, and what is wrong with its other lines."""
    lines = values.distinct(pieces)
    stays = [one for one in lines if one.layout.part == "rsa"]
    chains = [one for one in lines if one.layout.part != "rsa"]
    if not stays:
        for piece in chains:
            yield _refused(piece, "no-stay", "no RSA in these files has the number of this ANO line")
        return
    if len(stays) > 1:
        for piece in stays:
            yield _refused(piece, "second-line", "several RSA that differ have its number")
        return
    if len(chains) > 1:
        for piece in chains:
            yield _refused(piece, "second-line", "several ANO lines that differ have its number")
        chains = []
    try:
        stay = _Stay(stays[0])
        chain = _Chain()
        if chains:
            try:
                chain = _chain(chains[0], stay)
            except Refused as refused:
                yield read_as(chains[0], refused.refusal)
        yield read_as(stays[0], stay.event(chain, source))
    except Refused as refused:
        yield read_as(stays[0], refused.refusal)


def _refused(piece: Piece, reason: str, says: str) -> Read:
    return read_as(piece, Refusal(reason, f"line {piece.line.number}: {says}"))


def _chain(piece: Piece, stay: _Stay) -> _Chain:
    """Raises Refused where the line is not of this stay: the ANO of another transmission has other numbers."""
    text = text_of(piece.line.data)
    place = Place(piece.line.number, _ANO_SHAPE.fields)
    pieces_of(text, _ANO_SHAPE, place)
    row = _CUT_ANO(text)
    entry = values.date_or_none(place, "entry", row.entry)
    exit_ = values.date_or_none(place, "exit", row.exit)
    if exit_ and (exit_.year, exit_.month) != stay.exit_month:
        place.refuse("exit", "not-of-this-stay", "is not in the month of exit of its RSA")
    if entry and exit_ and not stay.may_last((exit_ - entry).days):
        place.refuse("entry", "not-of-this-stay", "does not agree with the duration of its RSA")
    pseudonym = row.pseudonym.strip(" ")
    if set(row.controls) != {"0"} or not pseudonym or is_dummy(pseudonym):
        return _Chain()
    if not (len(pseudonym) == 17 and pseudonym.isascii() and pseudonym.isprintable()):
        place.refuse("pseudonym", "bad-identifier", "is not 17 characters")
    number: dict[str, Any] = {"system": "nir-ano-17", "value": pseudonym}
    if row.rank_control == "0" and row.rank in tuple("123456789"):
        number |= {"rank": int(row.rank), "scheme": RANKS}
    return _Chain(number, entry, exit_)


class _Stay:
    """A RSA. Raises Refused where it cannot be read."""

    def __init__(self, piece: Piece) -> None:
        text = text_of(piece.line.data)
        shape = _TABLE.shape(text)
        place = self.place = Place(piece.line.number, shape.fields)
        authorisations, radiotherapy, self._units, self._associated, self._acts = pieces_of(text, shape, place)
        self._base = shape.length + sum(map(len, authorisations + radiotherapy))
        row = self.row = _CUT[id(shape)](text)
        month, year = row.exit_month, place.number("exit_year", row.exit_year) or 0
        if values.calendar_day(f"01{month}{row.exit_year}") is None:
            place.refuse("exit_month", "bad-date", "with the year of exit is not a month")
        self.exit_month = (year, int(month))
        self.nights = place.number("nights", row.nights)

    def may_last(self, days: int) -> bool:
        """Whether it can have its nights within so many days: those of a suspension, between two units, are not its
        own."""
        suspended = len(self._units) > 1
        return self.nights is None or self.nights == days or (suspended and self.nights < days)

    def event(self, chain: _Chain, source: str) -> dict[str, Any]:
        """The stay: its exit is a day where the chaining file says it, and a month else. Raises Refused."""
        row, place = self.row, self.place
        year, month = self.exit_month
        identity: dict[str, Any] = {"sex": values.sex(place, row.sex)}
        record = self._record(chain)
        if chain.number is None:
            raise refusing("not-chained", f"line {place.line}: {_NOT_CHAINED}")
        identity["identifiers"] = [chain.number]
        if home := values.postcode(row.postcode):
            identity["residence"] = {"postcode": home}
        days = f"{chain.entry or ''}:{chain.exit or f'{year}-{month:02}'}"
        name = f"rsa:{row.finess}:{chain.number['value']}:{chain.number.get('rank', '')}:{days}"
        when = chain.entry or chain.exit or dt.date(year, month, 1)
        return values.stay_event(source, name, when, identity, record)

    def _record(self, chain: _Chain) -> dict[str, Any]:
        row, place = self.row, self.place
        year, month = self.exit_month
        principal = values.diagnosis(place, "principal", row.principal)
        related = values.diagnosis(place, "related", row.related)
        acts, units = self._read_acts(chain.entry), self._read_units()
        associated = values.diagnoses(place.line, self._base + sum(map(len, self._units)), self._associated)
        self._share_out(units, associated, acts)
        told = (
            code for one in units for code in (one.get("principal_diagnosis"), one.get("related_diagnosis")) if code
        )
        others = [code for code in dict.fromkeys((*told, *associated)) if code not in (principal, related)]
        if len(units) == 1:
            for field in ("principal_diagnosis", "related_diagnosis", "associated_diagnoses", "acts"):
                units[0].pop(field, None)
        return values.present(
            entry=chain.entry.isoformat() if chain.entry else None,
            exit=chain.exit.isoformat() if chain.exit else f"{year}-{month:02}",
            entry_mode=values.choice(place, "entry_mode", row.entry_mode, values.ENTRY_MODES),
            origin=values.choice_or_none(place, "origin", row.origin, values.FIELDS_OF_CARE),
            exit_mode=values.choice(place, "exit_mode", row.exit_mode, values.EXIT_MODES),
            destination=values.choice_or_none(place, "destination", row.destination, values.FIELDS_OF_CARE),
            emergency=values.choice_or_none(place, "emergency", row.emergency, values.EMERGENCIES),
            nights=self.nights,
            age_years=place.number("age_years", row.age_years),
            age_days=place.number("age_days", row.age_days),
            weight=place.number("weight", row.weight) or None,
            gestational_age=place.number("gestational_age", row.gestational_age) or None,
            sessions=place.number("sessions", row.sessions) or None,
            principal_diagnosis=principal,
            related_diagnosis=related,
            associated_diagnoses=others,
            acts=acts,
            units=[one for one in units if one],
            ghm=values.code(place, "ghm", row.ghm, "ghm", "a GHM"),
            ghm_version=place.number("ghm_version", row.ghm_version),
            finess=row.finess,
        )

    def _read_units(self) -> list[dict[str, Any]]:
        return [
            self._unit(Place(self.place.line, _UNIT_SHAPE.fields, self._base + number * len(piece)), _CUT_UNIT(piece))
            for number, piece in enumerate(self._units)
        ]

    def _unit(self, place: Place, row: _UnitRow) -> dict[str, Any]:
        """A unit, with how many of the stay's diagnoses and acts are its own."""
        return values.present(
            code=values.code(
                place, "authorisation", row.authorisation, "unit-authorisation", "a type of authorisation"
            ),
            hospitalisation=values.choice_or_none(place, "hospitalisation", row.hospitalisation, frozenset("CPM")),
            finess=values.code(place, "finess", row.finess, "finess", "a FINESS number"),
            nights=place.number("nights", row.nights),
            igs2=place.number("igs2", row.igs2) or None,
            principal_diagnosis=values.diagnosis(place, "principal", row.principal),
            related_diagnosis=values.diagnosis(place, "related", row.related),
            associated_diagnoses=place.number("associated", row.associated) or 0,
            acts=place.number("acts", row.acts) or 0,
        )

    def _share_out(self, units: list[dict[str, Any]], associated: list[str], acts: list[dict[str, Any]]) -> None:
        """Diagnoses and acts stand in the order of the units, as many for each as it says."""
        for field, count, told in (("associated_diagnoses", "associated", associated), ("acts", "acts", acts)):
            if sum(one[field] for one in units) != len(told):
                self.place.refuse(count, "counts-disagree", "is not the sum of those of its units")
            rest = iter(told)
            for one in units:
                own = list(islice(rest, one.pop(field)))
                if own:
                    one[field] = own

    def _read_acts(self, entry: dt.date | None) -> list[dict[str, Any]]:
        base = self._base + sum(map(len, self._units + self._associated))
        found = []
        for piece in self._acts:
            place = Place(self.place.line, _ACT_SHAPE.fields, base)
            row = _CUT_ACT(piece)
            made = values.act(place, row)
            day = place.number("day", row.day)
            if day is not None:
                if entry is not None:
                    made["date"] = (entry + dt.timedelta(days=day)).isoformat()
                else:
                    made["day"] = day
            found.append(made)
            base += len(piece)
        return found
