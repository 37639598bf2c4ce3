"""Values of SNDS tables: every way to write one is read alike, and one that cannot be is refused and not repeated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.formats.snds.values import (
    Unreadable,
    amount,
    born,
    cents,
    cip13,
    code,
    commune,
    day,
    number,
    pseudonym,
    year_and_month,
)

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "text",
    [
        *("2024-03-01", "01/03/2024", "01032024", "20240301", "01MAR2024", "01mar2024", "01MAR2024:00:00:00"),
        *("2024-03-01 00:00:00", "2024-03-01T00:00:00", "2024-03-01 00:00:00.0", " 01/03/2024 00:00 "),
    ],
)
def test_a_day_is_read_however_an_export_writes_it(text: str) -> None:
    assert day(text) == "2024-03-01"


def test_eight_digits_are_one_day_only() -> None:
    assert (day("20012012"), day("20121220"), day("12122012")) == ("2012-01-20", "2012-12-20", "2012-12-12")


@pytest.mark.parametrize("text", ["", "  ", "01JAN1600:00:00:00", "0001-01-01", "31/12/9999"])
def test_some_days_say_that_there_is_none(text: str) -> None:
    assert day(text) is None


@pytest.mark.parametrize(
    "text",
    [
        *("30/02/2024", "2023-02-29", "01AVR2024", "00MAR2024", "1/3/2024", "2024-3-1", "45352", "01MAR24", "nonsense"),
        *("01MAR2024:10:30:00", "2024-03-01 12:00:00", "03/31/2024", "1066-10-14", "3024-01-01", "٠١٠٣٢٠٢٤"),
    ],
)
def test_what_is_no_day_is_refused(text: str) -> None:
    with pytest.raises(Unreadable) as refused:
        day(text)
    assert refused.value.reason == "bad-date"
    assert text not in refused.value.expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("12,50", 1250), ("12.5", 1250), ("-17,5", -1750), ("26", 2600), (",5", 50), ("-.05", -5), ("0", 0)),
        *(("12.500", 1250), ("99999999.99", 9_999_999_999), ("", None), ("-0", 0)),
    ],
)
def test_an_amount_is_whole_cents(text: str, expected: int | None) -> None:
    assert cents(text) == expected
    assert amount(text) == (None if expected is None else expected / 100)


@pytest.mark.parametrize(
    "text", ["12,505", "1 250,00", "12€", "1e3", "--1", "-", ".", "100000000", "1,2,3", "NaN", "²", f"1.{'0' * 13}"]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        cents(text)


def test_numbers_keep_their_sign_and_whole_ones_are_whole() -> None:
    assert [number(text) for text in ("1", "-2", "1,00", "0,5", "")] == [1, -2, 1, 0.5, None]
    assert isinstance(number("1,00"), int)


@pytest.mark.parametrize(
    ("department", "place", "expected"),
    [
        *(("035", "238", "35238"), ("35", "238", "35238"), ("001", "4", "01004"), ("075", "056", "75056")),
        *(("201", "004", "2A004"), ("202", "033", "2B033"), ("02A", "004", "2A004")),  # Ajaccio, Bastia
        *(("209", "004", None), ("020", "004", None)),
        *(("097", "101", "97101"), ("971", "101", "97101"), ("971", "001", "97101"[:3] + "01"), ("974", "11", "97411")),
        *(("974", "101", None), ("979", "101", None), ("978", "001", "97801"), ("098", "818", "98818")),
        *(("000", "238", None), ("099", "138", None), ("999", "238", None), ("035", "999", None), ("035", "000", None)),
        *(("035", "", None), ("", "238", None), ("0A5", "238", None), ("035", "2 8", None), ("096", "001", None)),
    ],
)
def test_a_commune_is_made_of_its_two_columns_or_dropped(department: str, place: str, expected: str | None) -> None:
    assert commune(department, place) == expected


def test_a_birth_has_a_month_if_the_calendar_has_it() -> None:
    told = [
        born("1952", "03"),
        born("1952", "3"),
        born("1952", ""),
        born("1952", "00"),
        born("1952", "62"),
        born("", ""),
    ]
    assert told == ["1952-03", "1952-03", "1952", "1952", "1952", None]
    for year in ("52", "1752", "19 2", "abcd"):
        with pytest.raises(Unreadable):
            born(year, "03")


def test_a_month_of_six_digits() -> None:
    assert (year_and_month("202403"), year_and_month("160001"), year_and_month("")) == ("2024-03", None, None)
    with pytest.raises(Unreadable):
        year_and_month("202413")


def test_a_package_has_its_check_digit() -> None:
    assert (cip13("3400936404649"), cip13("0"), cip13("")) == ("3400936404649", None, None)
    for text in ("3400936404648", "3640464", "3400836404649", "34009364046490"):
        with pytest.raises(Unreadable):
            cip13(text)


READERS: list[Callable[[str], object]] = [
    *(day, cents, amount, number, year_and_month, cip13, pseudonym, code(r"\d{1,2}", "a code", none=("0",), width=2)),
    *(lambda text: born(text, text), lambda text: commune(text, text)),
]


@given(st.text(max_size=30) | st.text("0123456789,.-/: JANMR", max_size=24))
def test_readers_take_any_text(text: str) -> None:
    for one in READERS:
        try:
            one(text)
        except Unreadable as refused:
            assert len(text) < 5 or text not in refused.expected
