"""Causes of death: lines that were checked by eye, and whatever else a file may hold."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.domain.refusals import Refusal, Refused
from services.ingest.formats.reading import Line, Piece
from services.ingest.formats.snds.cepidc import CCI, ECD, Cepidc

from .tables import SOURCE, details, events, passed_over, read, records, refusals, table

pytestmark = pytest.mark.unit

CODE = "9f" * 32
DEATH = {
    "DCD_IDT_ENC": CODE,
    "DCD_IDT_TOP": "1",
    "BEN_IDT_ANO": "R4T8W2K6N1QZ9XMVB",
    "BEN_IDT_TOP": "1",
    "BEN_NIR_ANO": "R4T8W2K6N1QZ9XMVB",
    "FLX_PER_ANN": "2023",
    "TRT_STA_COD": "1",
    "TYP_CER_COD": "1",
    "DCD_DPT_COD": "201",
    "DCD_COM_COD": "004",
    "BEN_RES_DPT": "035",
    "BEN_RES_COM": "238",
    "BEN_DCD_DTE": "17NOV2023:00:00:00",
    "BEN_DCD_AME": "202311",
    "DCD_LIE_COD": "2",
    "BEN_NAI_ANN": "1952",
    "BEN_NAI_MOI": "03",
    "BEN_SEX_COD": "1",
    "DCD_CIM_COD": "I219",
    "DCD_ATT_COD": "2",
    "DCD_CIM_VER": "2",
    "DCD_LIE_LIB": "Hôpital",
}
COLUMNS = [*DEATH]
CAUSES = ["DCD_IDT_ENC", "CER_LIG_NUM", "ECD_CAU_RNG", "ECD_CAU_LIB", "ECD_CIM_COD"]


def cause(line: int, rank: int, code: str) -> dict[str, str]:
    return {"DCD_IDT_ENC": CODE, "CER_LIG_NUM": str(line), "ECD_CAU_RNG": str(rank), "ECD_CIM_COD": code}


def death(**columns: str) -> dict[str, Any]:
    (found,) = events(read(Cepidc(), KI_CCI_R=table(COLUMNS, DEATH | columns)))
    return found


def test_a_death() -> None:
    assert death() == {
        "specversion": "1.0",
        "id": f"cci:{CODE}",
        "source": SOURCE,
        "type": "death.v1",
        "time": "2023-11-17T00:00:00Z",
        "correction": True,
        "data": {
            "identity": {
                "identifiers": [{"system": "ben-nir-ano", "value": "R4T8W2K6N1QZ9XMVB"}],
                "sex": "male",
                "birth_date": "1952-03",
                "residence": {"commune": "35238"},
            },
            "record": {
                "date": "2023-11-17",
                "commune": "2A004",
                "initial_cause": "I219",
                "causes": ["I219"],
                "place": "2",
                "certificate": "1",
                "at_work": "2",
            },
        },
    }


def test_the_number_of_one_without_a_lasting_one_is_that_of_the_dcir() -> None:
    found = death(BEN_NIR_ANO="", BEN_IDT_TOP="0", BEN_IDT_ANO="K7Q2M9ZT4XW8R1VBN2")["data"]["identity"]
    (number,) = found["identifiers"]
    assert (number["system"], number["value"], number["rank"]) == ("ben-nir-psa", "K7Q2M9ZT4XW8R1VBN", 2)


def test_a_death_that_was_matched_to_nobody_has_no_number() -> None:
    found = death(BEN_NIR_ANO="", BEN_IDT_TOP="", BEN_IDT_ANO="", DCD_IDT_TOP="0")["data"]["identity"]
    assert found["identifiers"] == []
    assert found["birth_date"] == "1952-03"


def test_causes_stand_in_the_order_of_the_certificate_after_the_initial_one() -> None:
    rows = [cause(6, 1, "E119"), cause(2, 2, "I500"), cause(2, 1, "J189"), cause(1, 1, "I219"), cause(10, 1, "F03")]
    for order in (rows, rows[::-1]):
        found = records(read(Cepidc(), KI_CCI_R=table(COLUMNS, DEATH), KI_ECD_R=table(CAUSES, *order)))
        assert [one["causes"] for one in found] == [["I219", "J189", "I500", "E119", "F03"]]


def test_a_month_is_the_date_where_the_day_is_not_given() -> None:
    found = death(BEN_DCD_DTE="", BEN_DCD_AME="202402")
    assert (found["data"]["record"]["date"], found["time"]) == ("2024-02", "2024-02-29T00:00:00Z")


def test_a_cause_of_another_classification_is_not_taken_for_one() -> None:
    found = death(DCD_CIM_VER="1", DCD_CIM_COD="V100")["data"]["record"]
    assert "initial_cause" not in found and "causes" not in found


def test_an_unknown_cause_is_a_cause() -> None:
    assert death(DCD_CIM_COD="R99")["data"]["record"]["causes"] == ["R99"]


def test_what_is_still_being_worked_on_is_not_taken() -> None:
    found = read(Cepidc(), KI_CCI_R=table(COLUMNS, DEATH | {"TRT_STA_COD": "2"}))
    assert passed_over(found) == [("KI_CCI_R.csv", 2, "not-final")]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        *(("BEN_DCD_DTE", "31NOV2023", "bad-date"), ("DCD_CIM_COD", "infarctus", "unknown-code")),
        *(
            ("DCD_LIE_COD", "8", "unknown-code"),
            ("BEN_SEX_COD", "M", "unknown-code"),
            ("DCD_IDT_ENC", "", "missing-field"),
        ),
        *(("BEN_NIR_ANO", "R4T8", "bad-identifier"), ("DCD_IDT_ENC", "no spaces here", "bad-identifier")),
    ],
)
def test_a_bad_value_refuses_its_line_naming_the_column_and_not_the_value(column: str, value: str, reason: str) -> None:
    good = DEATH | {"DCD_IDT_ENC": "0" * 64}
    found = read(Cepidc(), KI_CCI_R=table(COLUMNS, DEATH | {column: value}, good))
    assert refusals(found) == [("KI_CCI_R.csv", 2, reason)]
    assert column in details(found)[0]
    assert len(value) < 4 or value not in details(found)[0]
    assert len(events(found)) == 1


def test_a_death_has_a_date() -> None:
    found = read(Cepidc(), KI_CCI_R=table(COLUMNS, DEATH | {"BEN_DCD_DTE": "01JAN1600:00:00:00", "BEN_DCD_AME": ""}))
    assert refusals(found) == [("KI_CCI_R.csv", 2, "missing-field")]


def test_causes_without_their_death_and_a_bad_one_with_it() -> None:
    found = read(Cepidc(), KI_ECD_R=table(CAUSES, cause(1, 1, "I219")))
    assert refusals(found) == [("KI_ECD_R.csv", 2, "no-death")]
    causes = table(CAUSES, cause(1, 1, "I219"), cause(2, 1, "x"))
    assert refusals(read(Cepidc(), KI_CCI_R=table(COLUMNS, DEATH), KI_ECD_R=causes)) == [
        ("KI_ECD_R.csv", 3, "unknown-code")
    ]


def test_a_file_of_causes_that_is_mended_replaces_what_was_read_before() -> None:
    causes = table(CAUSES, cause(1, 1, "I219"), cause(2, 1, "E119"))
    short, long = (
        events(read(Cepidc(), KI_CCI_R=table(COLUMNS, DEATH), KI_ECD_R=one)) for one in (causes[:-8], causes)
    )
    assert [one["data"]["record"]["causes"] for one in (*short, *long)] == [["I219"], ["I219", "E119"]]
    assert short[0]["id"] == long[0]["id"]
    assert short[0]["correction"] and long[0]["correction"]


def test_a_cause_may_have_what_pmsi_has_after_its_code() -> None:
    assert death(DCD_CIM_COD="J961+0")["data"]["record"]["causes"] == ["J961+0"]


def test_a_death_twice_is_one_and_two_that_differ_are_none() -> None:
    found = read(Cepidc(), KI_CCI_R=table(COLUMNS, DEATH, DEATH))
    assert (len(events(found)), passed_over(found)) == (1, [("KI_CCI_R.csv", 3, "duplicate-line")])
    found = read(Cepidc(), KI_CCI_R=table(COLUMNS, DEATH, DEATH | {"DCD_CIM_COD": "C349"}))
    assert [reason for _, _, reason in refusals(found)] == ["conflicting-lines"] * 2
    assert all(CCI in detail for detail in details(found))


@pytest.mark.parametrize("column", ["DCD_IDT_ENC", "BEN_DCD_DTE", "DCD_CIM_COD"])
def test_a_file_without_a_column_is_refused_whole_naming_it(column: str) -> None:
    found = read(Cepidc(), KI_CCI_R=table([one for one in COLUMNS if one != column], DEATH))
    assert [(one.line, one.outcome.reason) for one in found if isinstance(one.outcome, Refusal)] == [
        (1, "missing-column")
    ]
    assert column in details(found)[0]


def test_which_table_a_file_is() -> None:
    assert Cepidc().part_of("x.csv", table(COLUMNS)) == CCI
    assert Cepidc().part_of("x.csv", table(CAUSES)) == ECD
    assert Cepidc().part_of("ki_cci_r.csv", b"") == CCI
    assert Cepidc().part_of("x.csv", b"a;b\n") is None


@given(st.lists(st.tuples(st.sampled_from([CCI, ECD]), st.binary(max_size=200)), min_size=1, max_size=4))
def test_any_bytes_are_read_or_refused(lines: list[tuple[str, bytes]]) -> None:
    form = Cepidc()
    layouts = {CCI: form.layout(CCI, table(COLUMNS).strip()), ECD: form.layout(ECD, table(CAUSES).strip())}
    for part, data in lines:
        form.part_of("x", data)
        with suppress(Refused):
            form.layout(part, data)
        with suppress(Refused):
            layouts[part].key(data)
    lines.sort(key=lambda one: one[0])
    assert list(form.events([Piece(layouts[part], Line("x", 1, data), b"k") for part, data in lines], SOURCE))


@given(st.data())
def test_a_good_file_with_bytes_changed_gives_what_ingest_takes_or_refusals(data: st.DataObject) -> None:
    body = bytearray(table(COLUMNS, DEATH))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from(b'0123456789;,"\n\xe9\x00-JX '))
    read(Cepidc(), KI_CCI_R=bytes(body), KI_ECD_R=table(CAUSES, cause(1, 1, "I219")))
