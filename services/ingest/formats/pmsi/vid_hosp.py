"""VID-HOSP: who a stay is about, by number. Pure.

The line has the insured person's number, and may have the person's own (of the carte Vitale, or the national health
identity). It says nothing of how the identity was checked. The birth rank is that of twins; the rank of the beneficiary
counts something else. A number is valid where its key fits; 13 X stand for none (ATIH, GENRSA, manuel 2022), as they do
for the permanent number of the patient. A number that begins with 3, 4, 7 or 8 is one being assigned (NIA), which its
holder's NIR replaces (for 7 and 8: CNAM, FAQ DCIR); no field that is read says so by its OID. The stay is taken without
a line that is refused here: ATIH keeps a stay that fails to chain, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from services.ingest.domain.identity import InvalidIdentity, is_dummy, nir, nir_key
from services.ingest.domain.refusals import Refusal, Refused
from services.ingest.formats.fixed_width import Place, cutter, pieces_of, tables, text_of
from services.ingest.formats.pmsi import values
from services.ingest.formats.reading import Piece, Read, read_as

_TABLE: Final = tables("pmsi-mco")["vid-hosp"]
_INSURED: Final = re.compile(r"\d{5}(\d\d|2[AB])\d{6}", re.ASCII)
_BEING_ASSIGNED: Final = ("3", "4", "7", "8")
_WITHOUT: Final = "; the stay is taken without this line"


class _Row(NamedTuple):
    finess: str
    insured: str
    insured_key: str
    birth_date: str
    sex: str
    own: str
    own_key: str
    rank: str
    ipp: str
    ins: str


_CUT: Final = {id(shape): cutter(shape, _Row) for shape in _TABLE.shapes.values()}


class Holder(NamedTuple):
    """What a line says of who it is about; birth date and sex as they stand there."""

    piece: Piece
    place: Place
    birth_date: str
    sex: str
    identifiers: tuple[dict[str, Any], ...]


def holder_of(pieces: Sequence[Piece], has_stay: bool) -> tuple[Holder | None, list[Read]]:
    """The first line of a stay that can be read, and what is wrong with the others. The same line again is no other."""
    holder = None
    wrong = []
    for piece in values.distinct(pieces):
        if not has_stay:
            says = "no RSS in these files has the administrative number of this VID-HOSP line"
            wrong.append(read_as(piece, Refusal("no-stay", f"line {piece.line.number}: {says}")))
            continue
        try:
            found = _read(piece)
        except Refused as refused:
            reason, detail = refused.refusal
            wrong.append(read_as(piece, Refusal(reason, detail + _WITHOUT)))
            continue
        if holder:
            says = f"line {holder.piece.line.number} has the same administrative number and differs"
            wrong.append(read_as(piece, Refusal("second-line", f"line {piece.line.number}: {says}{_WITHOUT}")))
        else:
            holder = found
    return holder, wrong


def contradiction(holder: Holder, birth_date: str, sex: str) -> Read | None:
    """What is wrong with a line whose birth date or sex is not that of its RSS: the return codes COH_NAI and COH_SEX.

    The number is then another person's as likely as this one's: a mother's on her child, say.
    """
    for field, own, stated in (("birth_date", holder.birth_date, birth_date), ("sex", holder.sex, sex)):
        if own.strip("X ") and own != stated:
            detail = f"line {holder.place.line}: {holder.place.fields[field].named()} is not that of its RSS{_WITHOUT}"
            return read_as(holder.piece, Refusal("identities-disagree", detail))
    return None


def _read(piece: Piece) -> Holder:
    text = text_of(piece.line.data)
    shape = _TABLE.shape(text)
    place = Place(piece.line.number, shape.fields)
    pieces_of(text, shape, place)
    row = _CUT[id(shape)](text)
    if row.birth_date.strip("X "):
        values.date(place, "birth_date", row.birth_date)
    identifiers = [_own(place, row), _insured(place, row), _ipp(place, row)]
    return Holder(piece, place, row.birth_date, row.sex, tuple(one for one in identifiers if one))


def _own(place: Place, row: _Row) -> dict[str, Any] | None:
    for field, text in (("ins", row.ins), ("own", row.own + row.own_key)):
        number = text.strip(" ")
        if not number or is_dummy(number):
            continue
        try:
            nir(number)
        except InvalidIdentity as invalid:
            place.refuse(field, invalid.reason, "is not a NIR whose key fits")
        return {"system": "ins-nia" if number.startswith(_BEING_ASSIGNED) else "ins-nir", "value": number}
    return None


def _insured(place: Place, row: _Row) -> dict[str, Any] | None:
    number, key = row.insured.strip(" "), row.insured_key.strip(" ")
    if not number or is_dummy(number):
        return None
    if not _INSURED.fullmatch(number):
        place.refuse("insured", "bad-identifier", "is not 13 digits (2A or 2B for Corsica), nor 13 X for one unknown")
    if key and not (key.isascii() and key.isdigit() and int(key) == nir_key(number)):
        place.refuse("insured_key", "bad-nir-key", "does not fit the number")
    found: dict[str, Any] = {"system": "nir-opener", "value": number}
    if row.rank in tuple("123456789"):
        found["rank"] = int(row.rank)
    return found


def _ipp(place: Place, row: _Row) -> dict[str, Any] | None:
    number = row.ipp.strip(" ")
    if not number or is_dummy(number):
        return None
    if not (number.isascii() and number.isprintable()):
        place.refuse("ipp", "bad-characters", "has characters that are not ASCII")
    return {"system": "ipp", "value": number, "assigner": row.finess}
