"""Causes of death (CépiDc): KI_CCI_R, a line for each death, and KI_ECD_R, a line for each of its causes (CSV). Pure.

A death is a `death.v1`, which closes a timeline. Source: CNAM, guide of the causes of death in SNDS
(documentation-snds, guide_cepidc). DCD_IDT_ENC identifies a death in both tables. A death that was
matched to the beneficiaries has BEN_NIR_ANO, or in BEN_IDT_ANO the pseudonymised NIR with its rank, as BEN_IDT_TOP
says; one that was not has neither, and is found by its traits or nobody's. The initial cause may be none of those in
KI_ECD_R. R99 is an unknown cause, and is kept as what it is. What a doctor wrote (ECD_CAU_LIB, DCD_LIE_LIB) is not
read. What is sent again replaces what was read of a death before: causes may be coded anew, or have been cut off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from services.ingest.domain.refusals import Refusal, Refused, refusing
from services.ingest.formats.reading import Outcome, Piece, Read, event, last_day, read_as
from services.ingest.formats.separated import Separated, Table, columns
from services.ingest.formats.snds.beneficiaries import PERSON, person
from services.ingest.formats.snds.lines import DUPLICATE, conflicting, values_of
from services.ingest.formats.snds.values import (
    Field,
    Unreadable,
    cim10,
    code,
    columns_of,
    commune,
    day,
    missing,
    number,
    record,
    year_and_month,
)

CCI, ECD = "KI_CCI_R", "KI_ECD_R"

NOT_FINAL: Final = "not-final"
"""TRT_STA_COD 2: what the CépiDc is still working on (in SNDS all are final)."""

_DIGIT: Final = "a code of one digit"
_FIELDS: Final = (
    Field("BEN_DCD_DTE", "date", day),
    Field("DCD_CIM_COD", "initial_cause", cim10),
    Field("DCD_LIE_COD", "place", code("[0-7]", "a place from 0 to 7 (DS_LIE_V)")),
    Field("TYP_CER_COD", "certificate", code("[12]", "1 or 2 (DS_CER_V)")),
    Field("DCD_CIR_COD", "circumstance", code("[1-9]", "a circumstance from 1 to 9 (DS_CIR_V)")),
    Field("DCD_CAU_COD", "investigation", code("[1-5]", "an investigation from 1 to 5 (DS_CAU_V)")),
    Field("DCD_ATT_COD", "at_work", code("[1-3]", "1, 2 or 3 (DS_ATT_V)")),
    Field("DCD_GRS_COD", "pregnancy", code("[1-3]", "1, 2 or 3 (DS_GRS_V)")),
    Field("DCD_FIA_COD", "date_reliability", code("[12]", "1 or 2 (DS_FIA_V)")),
)
_CAUSE: Final = (
    Field("ECD_CIM_COD", "code", cim10),
    Field("CER_LIG_NUM", "line", number),
    Field("ECD_CAU_RNG", "rank", number),
)
_RULES: Final = ("TRT_STA_COD", "DCD_CIM_VER", "BEN_DCD_AME", "DCD_DPT_COD", "DCD_COM_COD")
_KEY: Final = "DCD_IDT_ENC"
_CIM10_VERSION: Final = "2"
TABLES: Final = {
    CCI: Table(
        CCI,
        (_KEY,),
        ("BEN_DCD_DTE", "DCD_CIM_COD"),
        (*_RULES, *PERSON, *columns_of(_FIELDS)),
    ),
    ECD: Table(ECD, (_KEY,), ("ECD_CIM_COD",), columns_of(_CAUSE)),
}
_FIELDS_AT: Final = len(_RULES) + len(PERSON)

_NO_DEATH: Final = Refusal("no-death", f"{CCI} has no line with this line's {_KEY}: send the two files together")


class Cepidc:
    """The format `cepidc` (a JoinedFormat)."""

    name = "cepidc"
    parts: tuple[str, ...] = (CCI, ECD)

    def part_of(self, file: str, head: bytes) -> str | None:
        """By the columns; by the name where a header lacks what tells, so that it can be refused for that."""
        named = columns(head)
        told = (part for part, mark in ((ECD, "ECD_CIM_COD"), (CCI, "DCD_CIM_COD")) if mark in named)
        return next(told, None) or next((part for part in self.parts if part in file.upper()), None)

    def layout(self, part: str, first: bytes) -> Separated:
        return Separated(TABLES[part], lambda values: _key(part, values), first)

    def events(self, pieces: Sequence[Piece], source: str) -> Iterator[Read]:
        deaths = [one for one in pieces if one.layout.part == CCI]
        if not deaths:
            yield from (read_as(one, _NO_DEATH) for one in pieces)
            return
        first, *others = deaths
        death = _death(first, source)
        if others and not all(_death(one, source) == death for one in others):
            yield from (read_as(one, conflicting(CCI)) for one in deaths)
            return
        yield _with_causes(first, death, pieces) if isinstance(death, dict) else read_as(first, death)
        yield from (read_as(one, DUPLICATE) for one in others)


def _key(part: str, values: tuple[str, ...]) -> bytes:
    value = values[0].strip()
    if not value:
        raise Refused(missing(part, _KEY))
    if re.fullmatch(r"[!-~]{1,64}", value, re.ASCII) is None:
        raise refusing("bad-identifier", f"{part}, {_KEY}: not at most 64 characters without a space")
    return value.encode()


def _death(piece: Piece, source: str) -> Outcome:
    try:
        values = values_of(piece)
        status, version, month, department, place = (text.strip() for text in values[: len(_RULES)])
        if status == "2":
            return NOT_FINAL
        told = record(CCI, _FIELDS, values[_FIELDS_AT:])
        if version not in ("", _CIM10_VERSION):
            told.pop("initial_cause", None)
        known = told.get("date") or _month(month)
        if known is None:
            return missing(CCI, "BEN_DCD_DTE")
        told["date"] = known
        if (where := commune(department, place)) is not None:
            told["commune"] = where
        identity = person(CCI, values[len(_RULES) : _FIELDS_AT])
    except Refused as refused:
        return refused.refusal
    when, data = f"{last_day(known)}T00:00:00Z", {"identity": identity, "record": told}
    return event(source, "death.v1", f"cci:{piece.key.decode()}", when, data, correction=True)


def _month(text: str) -> str | None:
    """BEN_DCD_AME, for those who may not read the day."""
    try:
        return year_and_month(text)
    except Unreadable as unreadable:
        raise Refused(unreadable.refusal(CCI, "BEN_DCD_AME")) from None


class _Cause(NamedTuple):
    line: float
    rank: float
    code: str


def _with_causes(first: Piece, death: dict[str, Any], pieces: Sequence[Piece]) -> Read:
    """The death with its initial cause, then the others in the order of the certificate, each once."""
    told, mentioned = death["data"]["record"], []
    for piece in pieces:
        if piece.layout.part == ECD:
            try:
                cause = record(ECD, _CAUSE, values_of(piece))
            except Refused as refused:
                return read_as(piece, refused.refusal)
            if "code" in cause:
                mentioned.append(_Cause(cause.get("line", 0), cause.get("rank", 0), cause["code"]))
    initial = [told["initial_cause"]] if "initial_cause" in told else []
    if causes := dict.fromkeys(initial + [one.code for one in sorted(mentioned)]):
        told["causes"] = list(causes)
    return read_as(first, death)
