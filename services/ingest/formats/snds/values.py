"""Values as the tables of SNDS have them (SNIIRAM and causes of death): dates, codes, amounts, places. Pure.

Sources: the Table Schemas and value tables of the Health Data Hub (gitlab.com/healthdatahub, schema-snds), and its
documentation (documentation-snds.health-data-hub.fr), from which the pages are named below. A reader gives None for a
value that says "none" or "unknown", and raises Unreadable for one that cannot be.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from services.ingest.domain.content import known
from services.ingest.domain.refusals import Refusal, Refused


class Unreadable(Exception):
    """A value cannot be what its column holds: a reason, and what belongs there. Neither repeats the value."""

    def __init__(self, reason: str, expected: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.expected = expected

    def refusal(self, table: str, column: str) -> Refusal:
        return Refusal(self.reason, f"{table}, {column}: {self.expected}")


_cached = lru_cache(maxsize=1 << 16)
"""For readers of values that many lines share. `separated.py` bounds how long one is; pseudonyms are not kept."""

# --- columns ---

Reader = Callable[[str], Any]


class Field(NamedTuple):
    """A column that becomes a field of a record as it is."""

    column: str
    name: str
    read: Reader


def columns_of(fields: Sequence[Field]) -> tuple[str, ...]:
    return tuple(one.column for one in fields)


def record(table: str, fields: Sequence[Field], values: Sequence[str]) -> dict[str, Any]:
    """What the columns say; what has no value is left out. Raises Refused, naming the column."""
    found: dict[str, Any] = {}
    column = ""
    try:
        for (column, name, read), text in zip(fields, values, strict=True):  # noqa: B007 - named if it is refused
            if text and (value := read(text)) is not None:
                found[name] = value
    except Unreadable as unreadable:
        raise Refused(unreadable.refusal(table, column)) from None
    return found


def missing(table: str, column: str) -> Refusal:
    return Refusal("missing-field", f"{table}, {column}: this field is empty, or says that there is none")


# --- dates ---

_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAY: Final = re.compile(
    r"(?:(?P<iso>\d{4}-\d{2}-\d{2})|(?P<french>\d{2}/\d{2}/\d{4})|(?P<sas>\d{2}[A-Z]{3}\d{4})|(?P<digits>\d{8}))"
    r"(?:[ T:]00:00(?::00(?:\.0{1,6})?)?)?",
    re.ASCII,
)
_NO_YEARS: Final = frozenset((1, 1600, 9999))
_EARLIEST, _LATEST = 1850, 2199
_BAD_DATE: Final = "not a day of the calendar as 2024-03-31, 31/03/2024, 31032024, 20240331 or 31MAR2024[:00:00:00]"
_BAD_MONTH: Final = "not a month as 202403"
_BAD_YEAR: Final = "not a year as 1957, within 1850 to 2199"


@_cached
def day(text: str) -> str | None:
    """The date, as YYYY-MM-DD. A time of day may follow if it is midnight, as it is in an Oracle or SAS date.

    SAS writes DATETIME20. (01JAN2024:00:00:00, so in the value tables of SNDS) or DATE9., Oracle and R write ISO 8601,
    requests to_date(..., 'DDMMYYYY'), dictionaries AAAAMMJJ. Eight digits are never both of the last two: their last
    four are a year from 1850 on, or a month and a day. Years 1, 1600 and 9999 say that there is no date (1600: guide
    of the causes of death).
    """
    text = text.strip().upper()
    if not text:
        return None
    match = _DAY.fullmatch(text)
    if match is None:
        raise Unreadable("bad-date", _BAD_DATE)
    year, month, on = _parts(match)
    if year in _NO_YEARS:
        return None
    try:
        found = dt.date(year, month, on)
    except ValueError:
        raise Unreadable("bad-date", _BAD_DATE) from None
    if not _EARLIEST <= year <= _LATEST:
        raise Unreadable("bad-date", "not within 1850 to 2199")
    return found.isoformat()


def _parts(match: re.Match[str]) -> tuple[int, int, int]:
    if text := match["iso"]:
        return int(text[:4]), int(text[5:7]), int(text[8:])
    if text := match["french"]:
        return int(text[6:]), int(text[3:5]), int(text[:2])
    if text := match["sas"]:
        month = text[2:5]
        return int(text[5:]), _MONTHS.index(month) + 1 if month in _MONTHS else 0, int(text[:2])
    text = match["digits"]
    if int(text[4:]) > 1231:
        return int(text[4:]), int(text[2:4]), int(text[:2])
    return int(text[:4]), int(text[4:6]), int(text[6:])


@_cached
def year_and_month(text: str) -> str | None:
    """AAAAMM, as YYYY-MM."""
    text = text.strip()
    if not text or text.startswith(("1600", "0000")):
        return None
    if not re.fullmatch(r"\d{4}-?\d{2}", text, re.ASCII) or not "01" <= text[-2:] <= "12":
        raise Unreadable("bad-date", _BAD_MONTH)
    return f"{_year(text[:4])}-{text[-2:]}"


@_cached
def born(year: str, month: str) -> str | None:
    """BEN_NAI_ANN and BEN_NAI_MOI as YYYY-MM, or the year where the month is none of the calendar (as in some NIR)."""
    year, month = year.strip(), month.strip().zfill(2)
    if not year or year in ("0", "0000", "1600", "9999"):
        return None
    if not month.isascii() or not month.isdigit():
        raise Unreadable("bad-date", "BEN_NAI_MOI is not a month of two digits")
    known = _year(year)
    return f"{known}-{month}" if "01" <= month <= "12" else known


def _year(text: str) -> str:
    if not re.fullmatch(r"\d{4}", text, re.ASCII) or not _EARLIEST <= int(text) <= _LATEST:
        raise Unreadable("bad-date", _BAD_YEAR)
    return text


# --- codes and numbers ---

_AMOUNT: Final = re.compile(r"(-?)(\d{0,8})(?:[.,](\d{0,12}))?", re.ASCII)


def code(pattern: str, about: str, none: Collection[str] = (), width: int = 0) -> Callable[[str], str | None]:
    """A reader of codes: `none` are those that stand for none; `width` is what leading zeros fill up to."""
    match = re.compile(pattern, re.ASCII).fullmatch
    unknown = Unreadable("unknown-code", f"not {about}")

    @_cached
    def read(text: str) -> str | None:
        text = text.strip()
        if not text or text in none:
            return None
        text = text.zfill(width)
        if match(text) is None:
            raise Unreadable(unknown.reason, unknown.expected)
        return text

    return read


@_cached
def cents(text: str) -> int | None:
    """An amount in euros as whole cents; the point may be a comma. The sign is the amount's own."""
    text = text.strip()
    if not text:
        return None
    match = _AMOUNT.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        raise Unreadable("bad-number", "not an amount of less than 100 million as 12.50, 12,50 or -12.5")
    fraction = (match[3] or "").rstrip("0")
    if len(fraction) > 2:
        raise Unreadable("bad-number", "not an amount in whole cents")
    value = int(match[2] or "0") * 100 + int(fraction.ljust(2, "0"))
    return -value if match[1] else value


@_cached
def amount(text: str) -> float | None:
    """An amount in euros."""
    value = cents(text)
    return None if value is None else value / 100


@_cached
def number(text: str) -> int | float | None:
    """A number with its sign; whole ones are int."""
    text = text.strip()
    if not text:
        return None
    match = _AMOUNT.fullmatch(text)
    if match is None or not (match[2] or match[3]) or len(match[3] or "") > 6:
        raise Unreadable("bad-number", "not a number as 2, -1 or 1.5")
    value = float(text.replace(",", "."))
    return int(value) if value.is_integer() else value


def known_code(pattern: str, about: str) -> Callable[[str], str | None]:
    """A reader of codes by a pattern of `contracts/content/systems.yaml`; zeros alone stand for none."""

    def read(text: str) -> str | None:
        text = text.strip()
        if not text.strip("0"):
            return None
        if not known(pattern, text):
            raise Unreadable("unknown-code", f"not {about}")
        return text

    return read


cim10: Final = known_code("cim10", "a CIM-10 code without a dot, as I219")
ccam: Final = known_code("ccam", "a CCAM code as DEQP003")
cip13: Final = known_code("cip13", "a CIP13 (34009 and eight digits), or its check digit does not fit")


# --- places ---


@_cached
def commune(department: str, place: str) -> str | None:
    """The INSEE code made of a department and a commune of three characters each, or None where it cannot be told.

    documentation-snds, "Localisation géographique des bénéficiaires": the last two of the department and the commune;
    000, 099 and 999 are missing values. Corsica is 201 and 202 (2A, 2B; in 209 and 020 it is one or the other).
    Overseas is 097 with three digits in the general scheme; with departments 971 to 978 the commune keeps its three
    digits (MSA) or has two (RSI), which its first digit tells.
    """
    department, place = department.strip().upper().zfill(3), place.strip().zfill(3)
    if not re.fullmatch(r"0\d\d|02[AB]|20[12]|97[1-8]", department, re.ASCII):
        return None
    if not re.fullmatch(r"\d{3}", place, re.ASCII) or place in ("000", "999"):
        return None
    if department in ("000", "020", "096", "099"):
        return None
    if department.startswith("20"):
        return f"2{'AB'[int(department[2]) - 1]}{place}"
    if department.startswith("97"):
        if place[0] == department[2]:
            return f"97{place}"
        return department + place[1:] if place[0] == "0" else None
    return department[1:] + place


# --- pseudonyms ---

_PSEUDONYM: Final = re.compile(r"[!-~]{17}", re.ASCII)


def pseudonym(text: str) -> str | None:
    """BEN_NIR_PSA or BEN_NIR_ANO. Those that stand for nobody pass: linkage knows them."""
    text = text.strip()
    if not text:
        return None
    if _PSEUDONYM.fullmatch(text) is None:
        raise Unreadable("bad-identifier", "not a pseudonym of 17 characters")
    return text
