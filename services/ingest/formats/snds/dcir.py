"""SNIIRAM/DCIR: reimbursements, as ER_PRS_F with its children ER_PHA_F, ER_CAM_F and ER_BIO_F (CSV). Pure.

A line of ER_PRS_F is a `claim.v1` with the acts of its lines of ER_CAM_F and ER_BIO_F; a line of ER_PHA_F is a
`dispensation.v1`. All of them belong together by nine columns, which are the identity of a line of ER_PRS_F.

What the rules rest on: the schemas of the tables (Health Data Hub, schema-snds); its guide to the SNDS,
"Table des prestations"; its page "Requête type dans la table prestations du DCIR" (Santé publique France); the CNAM's
answers on the DCIR (documentation-snds, faq_dcir). In short:

- **For information** are lines with DPN_QLF 71 or 72, or PRS_DPN_QLP 71: public hospitals tell of care that they are
  not paid for here, and not of all of it (guide). They are not taken, nor are their children. Of one kind the
  CNAM says that it is really paid, and has to stay in costs: the flat contribution of the insured person (CPL_AFF_COD
  16) with DPN_QLF 0 and PRS_DPN_QLP 71.
- **Supplements**, CPL_MAJ_TOP 2, are lines of their own beside the act that they go with (guide): their money
  counts and their quantity does not (guide). They are taken, with all amounts, and have `supplement_quantity` in
  place of `quantity`; so the sums over claims are right for both. A medicine on one is not handed out once more.
- **Reversals** are lines with negative quantities and amounts, which cancel an earlier line; lines are never changed
  (guide). They are taken as they are, as records of their own: sums come out right, and no earlier record changes.
- **Corrections** are something else: a file that was sent cut short, or a month without one of its files, and sent
  again whole. So every event is one, and a line that is sent again replaces what was read of it before.
- **Reimbursed** is what the act and its complement come to: BSE_REM_MNT + CPL_REM_MNT, counted in cents.
- Amounts are the claim's alone. ER_PHA_F has a unit price, and repeats no amount.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from hashlib import blake2b
from itertools import groupby
from typing import Any, Final, NamedTuple, cast

from services.ingest.domain.refusals import Refusal, Refused
from services.ingest.formats.reading import Outcome, Piece, Read, event, read_as
from services.ingest.formats.separated import Separated, Table, columns
from services.ingest.formats.snds.beneficiaries import PERSON, person
from services.ingest.formats.snds.lines import DUPLICATE, conflicting, values_of
from services.ingest.formats.snds.values import (
    Field,
    Reader,
    Unreadable,
    amount,
    ccam,
    cip13,
    code,
    columns_of,
    day,
    missing,
    number,
    record,
)

PRS, PHA, CAM, BIO = "ER_PRS_F", "ER_PHA_F", "ER_CAM_F", "ER_BIO_F"

FOR_INFORMATION: Final = "for-information"
SUPPLEMENT: Final = "medicine-of-a-supplement"
"""Names of what is not taken: there is nothing wrong with it."""

# --- the tables: what is read of each column, and what the hub calls it ---

_SNDS_CODE: Final = code(r"\d{1,2}", "a code of one or two digits", none=("0", "00", "99"), width=2)
_KIND: Final = code(r"\d{1,4}", "a nature of benefit of at most four digits (IR_NAT_V)", none=("0", "9999"))
_ORDINAL: Final = code(r"\d{1,9}", "a whole number of at most nine digits")
_ORGANISATION: Final = code(r"[0-9A-Za-z]{1,9}", "an organisation of at most nine letters and digits (IR_ORG_V)")

_KEY: Final[tuple[tuple[str, Reader], ...]] = (
    ("FLX_DIS_DTD", day),
    ("FLX_TRT_DTD", day),
    ("FLX_EMT_TYP", _ORDINAL),
    ("FLX_EMT_NUM", _ORDINAL),
    ("FLX_EMT_ORD", _ORDINAL),
    ("ORG_CLE_NUM", _ORGANISATION),
    ("DCT_ORD_NUM", _ORDINAL),
    ("PRS_ORD_NUM", _ORDINAL),
    ("REM_TYP_AFF", _ORDINAL),
)
_KEY_COLUMNS: Final = tuple(column for column, _ in _KEY)
_RULES: Final = ("DPN_QLF", "PRS_DPN_QLP", "CPL_AFF_COD")
_QUALIFIER: Final = code(r"\d{1,2}", "a code of one or two digits", width=2)
"""What the rules are about: 0 is a value here, as 00, and an empty one is none."""
_IS_SUPPLEMENT: Final = "2"
"""CPL_MAJ_TOP from here on."""
_CARE: Final = Field("EXE_SOI_DTD", "care_date", day)
_CLAIM: Final = (
    _CARE,
    Field("PRS_NAT_REF", "nature", _KIND),
    Field("EXE_SOI_DTF", "end_date", day),
    Field("PRE_PRE_DTD", "prescription_date", day),
    Field("PRS_ACT_QTE", "quantity", number),
    Field("PRS_ACT_NBR", "count", number),
    Field("PRS_ACT_CFT", "coefficient", number),
    Field("PRS_PAI_MNT", "amount_paid", amount),
    Field("PRS_DEP_MNT", "amount_in_excess", amount),
    Field("BSE_REM_BSE", "base_amount", amount),
    Field("BSE_REM_MNT", "amount_reimbursed", amount),
    Field("CPL_REM_BSE", "supplement_base_amount", amount),
    Field("CPL_REM_MNT", "supplement_amount_reimbursed", amount),
    Field("RGO_REM_TAU", "rate", number),
    Field("DPN_QLF", "expense_qualifier", _SNDS_CODE),
    Field("CPL_MAJ_TOP", "supplement", code(r"[1-9]", "0, 1 or 2", none=("0",))),
    Field("CPL_AFF_COD", "supplement_kind", _SNDS_CODE),
    Field("CPL_PRS_NAT", "supplement_nature", _KIND),
    Field("RGO_ASU_NAT", "insurance", _SNDS_CODE),
    Field("EXO_MTF", "exemption", _SNDS_CODE),
    Field("EXE_LIE_COD", "place", code("[01]", "0, 1, 2, 8 or 9 (IR_LIE_V)", none=("2", "8", "9"))),
    Field("PSE_SPE_COD", "specialty", _SNDS_CODE),
    Field("PSE_ACT_NAT", "profession", _SNDS_CODE),
    Field("PSP_SPE_COD", "prescriber_specialty", _SNDS_CODE),
    Field("PSP_ACT_NAT", "prescriber_profession", _SNDS_CODE),
)
_ACT: Final = (
    Field("CAM_PRS_IDE", "code", ccam),
    Field("CAM_ACT_COD", "activity", code("[1-5]", "an activity from 1 to 5 (XC_ATE_V)", none=("0",))),
    Field("CAM_TRT_PHA", "phase", code("[0-3]", "a phase from 0 to 3 (XC_PHA_V)")),
    Field("CAM_ASS_COD", "association", code("[1-5]", "an association from 1 to 5 (IR_ASS_V)", none=("0", "9"))),
    Field("CAM_MOD_COD", "modifiers", code("[0-9A-Z]{1,4}", "up to four modifiers", none=("0",))),
    Field("CAM_ACT_PRU", "unit_price", amount),
    Field("CAM_REM_BSE", "base_amount", amount),
)
_ANALYSIS: Final = (
    Field("BIO_PRS_IDE", "code", code(r"\d{4}", "a NABM code of four digits", none=("0", "0000"), width=4)),
    Field("BIO_ACT_QSN", "quantity", number),
)
_PACKAGE: Final = (
    Field("PHA_PRS_C13", "cip13", cip13),
    Field("PHA_ACT_QSN", "quantity", number),
    Field("PHA_ACT_PRU", "unit_price", number),
    Field("PHA_DEC_QSU", "loose_quantity", number),
    Field("PHA_DEC_PRU", "loose_unit_price", number),
    Field("PHA_SEQ_RNV", "renewal", _SNDS_CODE),
    Field("PHA_SUB_MTF", "substitution", code("[1-8]", "a reason from 0 to 9 (IR_SUB_V)", none=("0", "9"))),
)
_ORDER: Final = {PHA: "PHA_ORD_NUM", CAM: "CAM_ORD_NUM", BIO: "BIO_ORD_NUM"}
_CHILD_FIELDS: Final = {PHA: _PACKAGE, CAM: _ACT, BIO: _ANALYSIS}


TABLES: Final = {
    PRS: Table(
        PRS,
        _KEY_COLUMNS,
        ("EXE_SOI_DTD", "PRS_NAT_REF", "BEN_NIR_PSA", "DPN_QLF", "PRS_DPN_QLP", "CPL_MAJ_TOP"),
        (*_RULES, *PERSON, *columns_of(_CLAIM)),
    ),
} | {
    part: Table(part, _KEY_COLUMNS, (fields[0].column,), (_ORDER[part], *columns_of(fields)))
    for part, fields in _CHILD_FIELDS.items()
}
_CLAIM_AT: Final = len(_RULES) + len(PERSON)

# --- refusals ---

_NO_PRESTATION: Final = Refusal(
    "no-prestation", f"{PRS} has no line with this line's key: send all files of a month together"
)
_PRESTATION_REFUSED: Final = Refusal("prestation-refused", f"its line of {PRS} is refused: correct that one first")


class _Child(NamedTuple):
    """A line of a child table: what tells it from the others of its key, and what it says."""

    order: str
    fields: dict[str, Any]
    piece: Piece


class Dcir:
    """The format `dcir` (a JoinedFormat)."""

    name = "dcir"
    parts: tuple[str, ...] = (PRS, PHA, CAM, BIO)

    def part_of(self, file: str, head: bytes) -> str | None:
        """By the columns; by the name where a header lacks what tells, so that it can be refused for that."""
        named = columns(head)
        told = (
            part for part, table in TABLES.items() if table.required[0] in named and not named.isdisjoint(_KEY_COLUMNS)
        )
        return next(told, None) or next((part for part in self.parts if part in file.upper()), None)

    def layout(self, part: str, first: bytes) -> Separated:
        return Separated(TABLES[part], lambda values: _key(part, values), first)

    def events(self, pieces: Sequence[Piece], source: str) -> Iterator[Read]:
        of_part: dict[str, list[Piece]] = {part: [] for part in self.parts}
        for piece in pieces:
            of_part[piece.layout.part].append(piece)
        if not of_part[PRS]:
            yield from (read_as(piece, _NO_PRESTATION) for piece in pieces)
            return
        prestation, *others = of_part[PRS]
        claim = _claim(prestation, source)
        if others and not all(_claim(one, source) == claim for one in others):
            claim = conflicting(PRS)
            yield from (read_as(one, claim) for one in others)
        else:
            yield from (read_as(one, DUPLICATE) for one in others)
        bad = yield from _add_acts(claim, of_part) if isinstance(claim, dict) else ()
        yield bad or read_as(prestation, claim)
        yield from _dispensations(_PRESTATION_REFUSED if bad or isinstance(claim, Refusal) else claim, of_part[PHA])


def _key(part: str, values: tuple[str, ...]) -> bytes:
    """Alike for all ways to write the same dates and numbers, with zeros before them or without."""
    found = []
    for (column, read), text in zip(_KEY, values, strict=True):
        try:
            value = read(text)
        except Unreadable as unreadable:
            raise Refused(unreadable.refusal(part, column)) from None
        if value is None:
            raise Refused(missing(part, column))
        found.append(value.replace("-", "") if read is day else value.lstrip("0") or "0" if read is _ORDINAL else value)
    return "-".join(found).encode()


# --- claims ---


def _claim(piece: Piece, source: str) -> Outcome:
    """The event of a line of ER_PRS_F, why it is refused, or the name of why it is not taken."""
    try:
        values = values_of(piece)
        if _is_for_information(values[: len(_RULES)]):
            return FOR_INFORMATION
        told = _amounts(record(PRS, _CLAIM, values[_CLAIM_AT:]))
        if _CARE.name not in told:
            return missing(PRS, _CARE.column)
        identity = person(PRS, values[len(_RULES) : _CLAIM_AT])
    except Refused as refused:
        return refused.refusal
    when, data = f"{told['care_date']}T00:00:00Z", {"identity": identity, "record": told}
    return event(source, "claim.v1", f"prs:{piece.key.decode()}", when, data, correction=True)


def _is_for_information(values: Sequence[str]) -> bool:
    """Raises Refused: a qualifier that cannot be read may be that of a line that nobody is paid for."""
    told: dict[str, str | None] = dict.fromkeys(_RULES)
    for column, text in zip(_RULES, values, strict=True):
        try:
            told[column] = _QUALIFIER(text)
        except Unreadable as unreadable:
            raise Refused(unreadable.refusal(PRS, column)) from None
    qualifier, transmitted, kind = told.values()
    return qualifier in ("71", "72") or (transmitted == "71" and not (qualifier == "00" and kind == "16"))


def _amounts(told: dict[str, Any]) -> dict[str, Any]:
    """What is reimbursed in all, and the quantity under the name by which it counts."""
    parts = [told[name] for name in ("amount_reimbursed", "supplement_amount_reimbursed") if name in told]
    if parts:
        told["amount_reimbursed"] = sum(round(part * 100) for part in parts) / 100
    if told.get("supplement", "0") >= _IS_SUPPLEMENT and "quantity" in told:
        told["supplement_quantity"] = told.pop("quantity")
    return told


def _add_acts(claim: dict[str, Any], of_part: dict[str, list[Piece]]) -> Generator[Read, None, Read | None]:
    """Put the acts and analyses into a claim. Returns the first line that is refused, and the claim with it: without
    an act that its file has, it would be another claim under the same id."""
    bad = None
    for part, name in ((CAM, "acts"), (BIO, "biology")):
        found = []
        for child in _children(part, of_part[part]):
            if isinstance(child, _Child):
                found.append(child.fields)
            elif isinstance(child.outcome, Refusal):
                bad = bad or child
            else:
                yield child
        if found:
            claim["data"]["record"][name] = found
    return bad


def _dispensations(claim: Outcome, pieces: Sequence[Piece]) -> Iterator[Read]:
    if not isinstance(claim, dict):
        yield from (read_as(piece, claim) for piece in pieces)
        return
    supplement = claim["data"]["record"].get("supplement", "0") >= _IS_SUPPLEMENT
    for child in _children(PHA, pieces):
        if isinstance(child, _Child):
            yield read_as(child.piece, SUPPLEMENT if supplement else _dispensation(claim, child))
        else:
            yield child


# --- children ---


def _children(part: str, pieces: Sequence[Piece]) -> Iterator[_Child | Read]:
    """The lines of one key, in an order that does not depend on the file's; refused or repeated ones as Read.

    They are numbered by the table's own column. Where the file lacks it, a line is known by what it says, and by how
    often that was said before: so one more line leaves the others what they were.
    """
    if not pieces:
        return
    numbered = _ORDER[part] in cast("Separated", pieces[0].layout).has
    children: list[_Child] = []
    for piece in pieces:
        try:
            children.append(_child(part, piece, numbered))
        except Refused as refused:
            yield read_as(piece, refused.refusal)
    children.sort(key=lambda one: (len(one.order), one.order, repr(one.fields)))
    if not numbered:
        for order, alike in groupby(children, key=lambda one: one.order):
            first, *others = alike
            yield first
            yield from (one._replace(order=f"{order}-{times}") for times, one in enumerate(others, start=2))
        return
    for _, alike in groupby(children, key=lambda one: one.order):
        first, *others = alike
        if all(one.fields == first.fields for one in others):
            yield first
            yield from (read_as(one.piece, DUPLICATE) for one in others)
        else:
            yield from (read_as(one.piece, conflicting(part)) for one in (first, *others))


def _child(part: str, piece: Piece, numbered: bool) -> _Child:
    """Raises Refused."""
    fields = _CHILD_FIELDS[part]
    order, *values = values_of(piece)
    told = record(part, fields, values)
    if fields[0].name not in told:
        raise Refused(missing(part, fields[0].column))
    return _Child(_order(part, order) if numbered else _digest(told), told, piece)


def _digest(told: dict[str, Any]) -> str:
    return blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=8).hexdigest()


def _order(part: str, text: str) -> str:
    try:
        found = _ORDINAL(text)
    except Unreadable as unreadable:
        raise Refused(unreadable.refusal(part, _ORDER[part])) from None
    if found is None:
        raise Refused(missing(part, _ORDER[part]))
    return found.lstrip("0") or "0"


def _dispensation(claim: dict[str, Any], child: _Child) -> dict[str, Any]:
    """A medicine is handed out on the day of its prestation, to the person of its prestation."""
    of_claim = claim["data"]["record"]
    prescribed = {name: of_claim[name] for name in ("prescription_date", "prescriber_specialty") if name in of_claim}
    told = {"date": of_claim["care_date"]} | child.fields | prescribed
    return claim | {
        "id": f"pha:{claim['id'].removeprefix('prs:')}:{child.order}",
        "type": "dispensation.v1",
        "data": {"identity": claim["data"]["identity"], "record": told},
    }
