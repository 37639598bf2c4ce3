"""The DCIR: lines that were checked by eye, and whatever else a file may hold."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ingest.domain.refusals import Refusal, Refused
from services.ingest.formats.reading import Line, Piece
from services.ingest.formats.snds.dcir import BIO, CAM, PHA, PRS, Dcir

from .tables import SOURCE, details, events, passed_over, read, records, refusals, table

pytestmark = pytest.mark.unit

KEY = {
    "FLX_DIS_DTD": "01APR2024:00:00:00",
    "FLX_TRT_DTD": "10MAR2024:00:00:00",
    "FLX_EMT_TYP": "1",
    "FLX_EMT_NUM": "7",
    "FLX_EMT_ORD": "120",
    "ORG_CLE_NUM": "01C351000",
    "DCT_ORD_NUM": "4711",
    "PRS_ORD_NUM": "1",
    "REM_TYP_AFF": "0",
}
ID = "20240401-20240310-1-7-120-01C351000-4711-1-0"
PERSON = {
    "BEN_NIR_PSA": "K7Q2M9ZT4XW8R1VBN",
    "BEN_RNG_GEM": "1",
    "ORG_AFF_BEN": "01C351000",
    "BEN_NAI_ANN": "1952",
    "BEN_SEX_COD": "1",
    "BEN_RES_DPT": "035",
    "BEN_RES_COM": "238",
    "BEN_CDI_NIR": "00",
}
# the consultation of the guide's table 3: 31 euros paid, 25 of them the base, 70 per cent of it paid back
CONSULTATION = {
    "EXE_SOI_DTD": "05MAR2024:00:00:00",
    "EXE_SOI_DTF": "05MAR2024:00:00:00",
    "PRS_NAT_REF": "1111",
    "BSE_PRS_NAT": "1111",
    "PRS_ACT_QTE": "1",
    "PRS_PAI_MNT": "31",
    "BSE_REM_BSE": "25",
    "BSE_REM_MNT": "17,5",
    "CPL_REM_BSE": "0",
    "CPL_REM_MNT": "0",
    "RGO_REM_TAU": "70",
    "CPL_MAJ_TOP": "0",
    "CPL_AFF_COD": "0",
    "CPL_PRS_NAT": "0",
    "DPN_QLF": "0",
    "PRS_DPN_QLP": "0",
    "RGO_ASU_NAT": "10",
    "EXO_MTF": "0",
    "EXE_LIE_COD": "0",
    "PSE_SPE_COD": "1",
    "PSP_SPE_COD": "99",
    "PFS_EXE_NUM": "351234567",
}
LINE = KEY | PERSON | CONSULTATION
PACKAGE = KEY | {"PHA_PRS_C13": "3400936404649", "PHA_ACT_QSN": "2", "PHA_ACT_PRU": "2,18", "PHA_ORD_NUM": "1"}
ACT = KEY | {"CAM_PRS_IDE": "DEQP003", "CAM_ACT_COD": "1", "CAM_TRT_PHA": "0", "CAM_ORD_NUM": "1"}
ANALYSIS = KEY | {"BIO_PRS_IDE": "552", "BIO_ACT_QSN": "1", "BIO_ORD_NUM": "1"}
COLUMNS: dict[str, Sequence[str]] = {PRS: [*LINE, "PRE_PRE_DTD"], PHA: [*PACKAGE], CAM: [*ACT], BIO: [*ANALYSIS]}


def prs(*rows: dict[str, str], separator: str = ";") -> bytes:
    return table(COLUMNS[PRS], *rows, separator=separator)


def another(number: int) -> dict[str, str]:
    return {"DCT_ORD_NUM": str(number)}


# --- what a line says ---


def test_a_consultation() -> None:
    (event,) = events(read(Dcir(), ER_PRS_F=prs(LINE)))
    assert event == {
        "specversion": "1.0",
        "id": f"prs:{ID}",
        "source": SOURCE,
        "type": "claim.v1",
        "time": "2024-03-05T00:00:00Z",
        "correction": True,
        "data": {
            "identity": {
                "identifiers": [
                    {"system": "ben-nir-psa", "value": "K7Q2M9ZT4XW8R1VBN", "rank": 1, "scheme": "rang-gemellaire"}
                ],
                "sex": "male",
                "birth_date": "1952",
                "residence": {"commune": "35238"},
            },
            "record": {
                "care_date": "2024-03-05",
                "end_date": "2024-03-05",
                "nature": "1111",
                "quantity": 1,
                "amount_paid": 31.0,
                "base_amount": 25.0,
                "amount_reimbursed": 17.5,
                "supplement_base_amount": 0.0,
                "supplement_amount_reimbursed": 0.0,
                "rate": 70,
                "insurance": "10",
                "place": "0",
                "specialty": "01",
            },
        },
    }


def test_a_medicine_is_handed_out_on_the_day_and_to_the_person_of_its_prestation() -> None:
    line = LINE | {"PRS_NAT_REF": "3313", "PRE_PRE_DTD": "04MAR2024:00:00:00", "PSP_SPE_COD": "3"}
    claim, dispensation = events(read(Dcir(), ER_PRS_F=prs(line), ER_PHA_F=table(COLUMNS[PHA], PACKAGE)))
    assert claim["data"]["record"]["nature"] == "3313"
    assert (dispensation["id"], dispensation["type"]) == (f"pha:{ID}:1", "dispensation.v1")
    assert dispensation["time"] == "2024-03-05T00:00:00Z"
    assert dispensation["data"]["identity"] == claim["data"]["identity"]
    assert dispensation["data"]["record"] == {
        "date": "2024-03-05",
        "cip13": "3400936404649",
        "quantity": 2,
        "unit_price": 2.18,
        "prescription_date": "2024-03-04",
        "prescriber_specialty": "03",
    }


def test_acts_and_analyses_are_the_claims() -> None:
    acts = table(
        [*COLUMNS[CAM], "CAM_ASS_COD", "CAM_MOD_COD", "CAM_REM_BSE"],
        ACT | {"CAM_ORD_NUM": "2", "CAM_PRS_IDE": "ZCQM008      ", "CAM_ACT_COD": "4"},
        ACT | {"CAM_ASS_COD": "1", "CAM_MOD_COD": "JK", "CAM_REM_BSE": "14,26"},
    )
    analyses = table(COLUMNS[BIO], ANALYSIS, ANALYSIS | {"BIO_PRS_IDE": "1104", "BIO_ORD_NUM": "2"})
    (claim,) = records(read(Dcir(), ER_PRS_F=prs(LINE), ER_CAM_F=acts, ER_BIO_F=analyses))
    assert claim["acts"] == [
        {
            "code": "DEQP003",
            "activity": "1",
            "phase": "0",
            "association": "1",
            "modifiers": "JK",
            "base_amount": 14.26,
        },
        {"code": "ZCQM008", "activity": "4", "phase": "0"},
    ]
    assert claim["biology"] == [{"code": "0552", "quantity": 1}, {"code": "1104", "quantity": 1}]


def test_no_number_of_a_professional_or_of_a_file_gets_into_a_record() -> None:
    (claim,) = records(read(Dcir(), ER_PRS_F=prs(LINE)))
    assert not {"351234567", "4711", "01C351000"} & {str(value) for value in claim.values()}


# --- who it is about ---


def identity(**columns: str) -> dict[str, Any]:
    line = LINE | columns
    (event,) = events(read(Dcir(), ER_PRS_F=table(line, line)))
    found: dict[str, Any] = event["data"]["identity"]
    return found


def test_a_lasting_pseudonym_and_a_birth_month_are_taken_where_the_export_has_them() -> None:
    found = identity(BEN_NIR_ANO="R4T8W2K6N1QZ9XMVB", BEN_NAI_MOI="03", BEN_SEX_COD="2")
    assert found["identifiers"][1] == {"system": "ben-nir-ano", "value": "R4T8W2K6N1QZ9XMVB"}
    assert (found["birth_date"], found["sex"]) == ("1952-03", "female")


def test_a_synthetic_number_is_one_or_the_other() -> None:
    lasting = identity(BEN_NIR_PSA="", BEN_IDT_ANO="R4T8W2K6N1QZ9XMVB", BEN_IDT_TOP="1")
    assert lasting["identifiers"] == [{"system": "ben-nir-ano", "value": "R4T8W2K6N1QZ9XMVB"}]
    joined = identity(BEN_NIR_PSA="", BEN_IDT_ANO="K7Q2M9ZT4XW8R1VBN2", BEN_IDT_TOP="0")
    assert [(one["value"], one["rank"]) for one in joined["identifiers"]] == [("K7Q2M9ZT4XW8R1VBN", 2)]


@pytest.mark.parametrize(
    ("fund", "ranked"), [("01C351000", True), ("91C751232", True), ("", True), ("02A350000", False)]
)
def test_a_rank_tells_twins_apart_in_the_general_scheme_only(fund: str, ranked: bool) -> None:
    (number,) = identity(ORG_AFF_BEN=fund, BEN_RNG_GEM="2")["identifiers"]
    assert ("rank" in number) is ranked


def test_a_fictitious_number_is_said_to_be_one() -> None:
    assert identity(BEN_CDI_NIR="08")["identity_status"] == "fictitious"
    assert "identity_status" not in identity(BEN_CDI_NIR="03")


def test_what_is_not_known_of_a_person_is_left_out() -> None:
    nothing = {"BEN_NIR_PSA": "", "BEN_SEX_COD": "9", "BEN_NAI_ANN": "0000", "BEN_RES_DPT": "999", "BEN_RES_COM": "999"}
    assert identity(**nothing) == {"identifiers": []}


# --- the rules on money and quantities ---


@pytest.mark.parametrize(
    ("qualifiers", "taken"),
    [
        *(({}, True), ({"DPN_QLF": "", "PRS_DPN_QLP": ""}, True), ({"DPN_QLF": "61"}, True)),
        *(({"DPN_QLF": "71"}, False), ({"DPN_QLF": "72"}, False), ({"PRS_DPN_QLP": "71"}, False)),
        ({"PRS_DPN_QLP": "71", "CPL_AFF_COD": "16", "CPL_MAJ_TOP": "2"}, True),
        ({"DPN_QLF": "71", "PRS_DPN_QLP": "71", "CPL_AFF_COD": "16", "CPL_MAJ_TOP": "2"}, False),
        ({"DPN_QLF": "", "PRS_DPN_QLP": "71", "CPL_AFF_COD": "16", "CPL_MAJ_TOP": "2"}, False),
        ({"DPN_QLF": "00", "PRS_DPN_QLP": " 71 ", "CPL_AFF_COD": "16", "CPL_MAJ_TOP": "2"}, True),
    ],
)
def test_a_line_for_information_is_not_taken_nor_are_its_medicines(qualifiers: dict[str, str], taken: bool) -> None:
    found = read(Dcir(), ER_PRS_F=prs(LINE | qualifiers), ER_PHA_F=table(COLUMNS[PHA], PACKAGE))
    reasons = [("ER_PRS_F.csv", 2, "for-information"), ("ER_PHA_F.csv", 2, "for-information")]
    assert len(found) == 2
    assert bool(events(found)) is taken
    if not taken:
        assert passed_over(found) == reasons


@pytest.mark.parametrize("column", ["DPN_QLF", "PRS_DPN_QLP", "CPL_AFF_COD"])
@pytest.mark.parametrize("text", ["71.0", "071", "71,0", "7l", "?"])
def test_a_qualifier_that_cannot_be_read_is_no_sign_of_payment(column: str, text: str) -> None:
    quoted = {name: f'"{value}"' for name, value in (LINE | {column: text}).items()}
    found = read(Dcir(), ER_PRS_F=prs(quoted))
    assert refusals(found) == [("ER_PRS_F.csv", 2, "unknown-code")]
    assert column in details(found)[0]


def test_a_complement_of_an_act_is_paid_with_it() -> None:
    """The guide's third example: 25 + 19.06 euros."""
    line = LINE | {"PRS_PAI_MNT": "44,06", "BSE_REM_MNT": "25", "CPL_REM_BSE": "19,06", "CPL_REM_MNT": "19,06"}
    (claim,) = records(read(Dcir(), ER_PRS_F=prs(line | {"CPL_MAJ_TOP": "1", "CPL_AFF_COD": "2"})))
    assert (claim["quantity"], claim["amount_paid"], claim["amount_reimbursed"]) == (1, 44.06, 44.06)
    assert (claim["supplement"], claim["supplement_kind"]) == ("1", "02")


def test_supplements_are_money_and_no_acts() -> None:
    """The guide's fourth example: a consultation, its coordination, and a euro that the insured person pays."""
    extra = {"BSE_REM_BSE": "0", "BSE_REM_MNT": "0", "CPL_MAJ_TOP": "2"}
    coordination = extra | {"PRS_PAI_MNT": "3", "CPL_REM_MNT": "3", "CPL_AFF_COD": "18", "CPL_PRS_NAT": "1125"}
    contribution = extra | {"PRS_PAI_MNT": "0", "CPL_REM_MNT": "-1", "CPL_AFF_COD": "16", "CPL_PRS_NAT": "1951"}
    found = records(
        read(Dcir(), ER_PRS_F=prs(LINE, LINE | another(2) | coordination, LINE | another(3) | contribution))
    )
    assert [one["amount_reimbursed"] for one in found] == [17.5, 3, -1]
    assert [one.get("quantity") for one in found] == [1, None, None]
    assert [one.get("supplement_quantity") for one in found] == [None, 1, 1]


def test_a_medicine_of_a_supplement_is_not_handed_out_once_more() -> None:
    line = LINE | {"CPL_MAJ_TOP": "2", "CPL_AFF_COD": "21"}
    found = read(Dcir(), ER_PRS_F=prs(line), ER_PHA_F=table(COLUMNS[PHA], PACKAGE))
    assert [one["type"] for one in events(found)] == ["claim.v1"]
    assert passed_over(found) == [("ER_PHA_F.csv", 2, "medicine-of-a-supplement")]


def test_a_reversal_is_a_record_of_its_own_that_cancels_another() -> None:
    signs = {"PRS_ACT_QTE": "-1", "PRS_PAI_MNT": "-31", "BSE_REM_BSE": "-25", "BSE_REM_MNT": "-17,5"}
    back = PACKAGE | another(2) | {"PHA_ACT_QSN": "-2"}
    found = read(Dcir(), ER_PRS_F=prs(LINE, LINE | another(2) | signs), ER_PHA_F=table(COLUMNS[PHA], PACKAGE, back))
    claims = [one["data"]["record"] for one in events(found) if one["type"] == "claim.v1"]
    handed_out = [one["data"]["record"] for one in events(found) if one["type"] == "dispensation.v1"]
    for name in ("quantity", "amount_paid", "base_amount", "amount_reimbursed"):
        assert sum(one[name] for one in claims) == 0
    assert sum(one["quantity"] for one in handed_out) == 0
    assert len({one["id"] for one in events(found)}) == 4


# --- lines that belong together ---


def test_keys_are_alike_however_they_are_written() -> None:
    key = {"FLX_DIS_DTD": "2024-04-01", "FLX_TRT_DTD": "10/03/2024", "FLX_EMT_NUM": "07", "DCT_ORD_NUM": "000004711"}
    found = read(Dcir(), ER_PRS_F=prs(LINE), ER_PHA_F=table(COLUMNS[PHA], PACKAGE | key))
    assert [one["id"] for one in events(found)] == [f"prs:{ID}", f"pha:{ID}:1"]


@pytest.mark.parametrize("column", KEY)
def test_each_of_nine_parts_tells_prestations_apart(column: str) -> None:
    other = {column: "02C351000" if column == "ORG_CLE_NUM" else "20240501" if "DTD" in column else "9"}
    found = read(Dcir(), ER_PRS_F=prs(LINE, LINE | other))
    assert len({one["id"] for one in events(found)}) == 2


def test_children_without_their_prestation_are_refused() -> None:
    found = read(
        Dcir(),
        ER_PRS_F=prs(LINE),
        ER_PHA_F=table(COLUMNS[PHA], PACKAGE | another(1)),
        ER_CAM_F=table(COLUMNS[CAM], ACT | another(2)),
        ER_BIO_F=table(COLUMNS[BIO], ANALYSIS | another(3)),
    )
    assert refusals(found) == [(f"{part}.csv", 2, "no-prestation") for part in (PHA, CAM, BIO)]
    assert len(events(found)) == 1


def test_lines_twice_count_once_and_lines_that_differ_under_one_key_do_not() -> None:
    same = LINE | {"BSE_REM_MNT": "17.50", "EXE_SOI_DTD": "2024-03-05"}
    found = read(Dcir(), ER_PRS_F=prs(LINE, same), ER_PHA_F=table(COLUMNS[PHA], PACKAGE, PACKAGE))
    assert [one["type"] for one in events(found)] == ["claim.v1", "dispensation.v1"]
    assert passed_over(found) == [("ER_PRS_F.csv", 3, "duplicate-line"), ("ER_PHA_F.csv", 3, "duplicate-line")]
    found = read(Dcir(), ER_PRS_F=prs(LINE, LINE | {"PRS_PAI_MNT": "32"}), ER_PHA_F=table(COLUMNS[PHA], PACKAGE))
    assert sorted(refusals(found)) == [
        ("ER_PHA_F.csv", 2, "prestation-refused"),
        ("ER_PRS_F.csv", 2, "conflicting-lines"),
        ("ER_PRS_F.csv", 3, "conflicting-lines"),
    ]


def test_two_medicines_under_one_number_cannot_both_be_right() -> None:
    two = table(COLUMNS[PHA], PACKAGE, PACKAGE | {"PHA_ACT_QSN": "1"}, PACKAGE | {"PHA_ORD_NUM": "2"})
    found = read(Dcir(), ER_PRS_F=prs(LINE), ER_PHA_F=two)
    assert [one["id"] for one in events(found)] == [f"prs:{ID}", f"pha:{ID}:2"]
    assert [reason for _, _, reason in refusals(found)] == ["conflicting-lines"] * 2
    assert all(PHA in detail for detail in details(found))


def test_a_file_without_numbers_has_its_lines_named_by_what_they_say() -> None:
    columns = [column for column in COLUMNS[PHA] if column != "PHA_ORD_NUM"]
    rows = [PACKAGE, PACKAGE | {"PHA_PRS_C13": "3400935163905"}, PACKAGE]
    found = [
        {
            one["id"]: one["data"]["record"]
            for one in events(read(Dcir(), ER_PRS_F=prs(LINE), ER_PHA_F=table(columns, *order)))
        }
        for order in (rows, rows[::-1], [rows[1], rows[0], rows[2]])
    ]
    assert len(found[0]) == 4
    assert found[0] == found[1] == found[2]
    more = [*rows, PACKAGE | {"PHA_ACT_QSN": "1"}, PACKAGE | {"PHA_PRS_C13": "3400930000014"}]
    later = {
        one["id"]: one["data"]["record"]
        for one in events(read(Dcir(), ER_PRS_F=prs(LINE), ER_PHA_F=table(columns, *more)))
    }
    assert len(later) == 6
    assert found[0].items() <= later.items()


def test_an_act_that_cannot_be_read_takes_its_claim_with_it_and_nothing_else() -> None:
    acts = table(COLUMNS[CAM], ACT, ACT | {"CAM_ORD_NUM": "2", "CAM_PRS_IDE": "DEQP3"}, ACT | another(2))
    found = read(Dcir(), ER_PRS_F=prs(LINE, LINE | another(2)), ER_CAM_F=acts, ER_PHA_F=table(COLUMNS[PHA], PACKAGE))
    assert refusals(found) == [("ER_CAM_F.csv", 3, "unknown-code"), ("ER_PHA_F.csv", 2, "prestation-refused")]
    assert [one["acts"] for one in records(found)] == [[{"code": "DEQP003", "activity": "1", "phase": "0"}]]


@pytest.mark.parametrize("first", ["cut off", "absent"])
def test_a_file_that_is_mended_replaces_what_was_read_before(first: str) -> None:
    whole = table(COLUMNS[CAM], ACT)
    before = {} if first == "absent" else {CAM: whole[: whole.rindex(b";", 0, -10)]}
    files = {PRS: prs(LINE), PHA: table(COLUMNS[PHA], PACKAGE)}
    short, long = (events(read(Dcir(), **files, **acts)) for acts in (before, {CAM: whole}))
    assert [one["id"] for one in short] == [one["id"] for one in long]
    assert short != long
    assert [one["correction"] for one in (*short, *long)] == [True] * 4


def test_the_order_of_lines_changes_nothing() -> None:
    lines = {
        PRS: [LINE | another(number) for number in range(20)],
        PHA: [PACKAGE | another(number % 7) | {"PHA_ORD_NUM": str(number)} for number in range(20)],
        CAM: [ACT | another(number % 5) | {"CAM_ORD_NUM": str(number)} for number in range(20)],
        BIO: [ANALYSIS | another(number % 3) | {"BIO_ORD_NUM": str(number)} for number in range(20)],
    }
    found = []
    for seed in range(3):
        for rows in lines.values():
            random.Random(seed).shuffle(rows)
        told = events(read(Dcir(), **{part: table(COLUMNS[part], *rows) for part, rows in lines.items()}))
        found.append({one["id"]: one for one in told})
    assert len(found[0]) == 40
    assert found[0] == found[1] == found[2]


# --- files that are not as they should be ---


@pytest.mark.parametrize("part", [PRS, PHA, CAM, BIO])
@pytest.mark.parametrize("column", KEY)
def test_a_file_without_a_column_of_the_key_is_refused_whole_naming_it(part: str, column: str) -> None:
    columns = [one for one in COLUMNS[part] if one != column]
    found = read(Dcir(), **{part: table(columns, LINE | PACKAGE | ACT | ANALYSIS)})
    assert [(one.line, one.outcome.reason) for one in found if isinstance(one.outcome, Refusal)] == [
        (1, "missing-column")
    ]
    assert column in details(found)[0]


@pytest.mark.parametrize("column", ["EXE_SOI_DTD", "PRS_NAT_REF", "DPN_QLF", "PRS_DPN_QLP", "CPL_MAJ_TOP"])
def test_a_file_that_the_rules_cannot_be_applied_to_is_refused(column: str) -> None:
    found = read(Dcir(), ER_PRS_F=table([one for one in COLUMNS[PRS] if one != column], LINE))
    assert [reason for _, _, reason in refusals(found)] == ["missing-column"]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        *(("EXE_SOI_DTD", "31FEB2024", "bad-date"), ("EXE_SOI_DTD", "", "missing-field")),
        *(("EXE_SOI_DTD", "01JAN1600:00:00:00", "missing-field"), ("EXE_SOI_DTF", "32/01/2024", "bad-date")),
        *(("PRS_PAI_MNT", "31,005", "bad-number"), ("BSE_REM_MNT", "dix-sept", "bad-number")),
        *(
            ("PRS_ACT_QTE", "1-", "bad-number"),
            ("PRS_NAT_REF", "C", "unknown-code"),
            ("CPL_MAJ_TOP", "X", "unknown-code"),
        ),
        *(("BEN_SEX_COD", "3", "unknown-code"), ("BEN_NIR_PSA", "K7Q2M9ZT4XW8", "bad-identifier")),
        *(
            ("BEN_NAI_ANN", "152", "bad-date"),
            ("EXO_MTF", "ALD", "unknown-code"),
            ("PSE_SPE_COD", "é1", "unknown-code"),
        ),
        *(
            ("DCT_ORD_NUM", "", "missing-field"),
            ("FLX_DIS_DTD", "soon", "bad-date"),
            ("ORG_CLE_NUM", "?", "unknown-code"),
        ),
    ],
)
def test_a_bad_value_refuses_its_line_naming_the_column_and_not_the_value(column: str, value: str, reason: str) -> None:
    found = read(Dcir(), ER_PRS_F=prs(LINE | another(1), LINE | {column: value}, LINE | another(2)))
    assert refusals(found) == [("ER_PRS_F.csv", 3, reason)]
    (detail,) = details(found)
    assert column in detail
    assert len(value) < 4 or value not in detail
    assert len(events(found)) == 2


def test_what_a_value_is_padded_with_is_not_kept_in_memory() -> None:
    pad = " " * 50_000
    padded = [
        LINE | {"DCT_ORD_NUM": str(number), "EXE_SOI_DTD": f"{pad[number:]}05MAR2024", "PRS_PAI_MNT": f"31{pad}"}
        for number in range(100)
    ]
    body = prs(*padded)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        assert len(records(read(Dcir(), ER_PRS_F=body))) == 100
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2_000_000


@pytest.mark.parametrize("column", ["PRS_PAI_MNT", "DCT_ORD_NUM", "BEN_NIR_PSA"])
def test_a_value_longer_than_any_column_is_refused_unread(column: str) -> None:
    found = read(Dcir(), ER_PRS_F=prs(LINE | {column: "1." + "0" * 70}, LINE | another(2)))
    assert refusals(found) == [("ER_PRS_F.csv", 2, "value-too-long")]
    assert column in details(found)[0]
    assert len(events(found)) == 1


def test_a_line_that_was_cut_off_is_refused_and_the_rest_goes_on() -> None:
    body = prs(LINE, LINE | another(2))
    found = read(Dcir(), ER_PRS_F=body[: body.rindex(b";", 0, -40)])
    assert refusals(found) == [("ER_PRS_F.csv", 3, "wrong-columns")]
    assert len(events(found)) == 1


def test_commas_separate_as_well_and_quotes_hold_one() -> None:
    quoted = {column: f'"{value}"' for column, value in LINE.items()}
    for separator in (",", ";", "\t"):
        (found,) = records(read(Dcir(), ER_PRS_F=prs(quoted, separator=separator)))
        assert found["amount_reimbursed"] == 17.5
    assert refusals(read(Dcir(), ER_PRS_F=prs(LINE, separator=","))) == [("ER_PRS_F.csv", 2, "wrong-columns")]


def test_a_quote_that_is_not_closed_is_refused() -> None:
    found = read(Dcir(), ER_PRS_F=prs(LINE | {"PFS_EXE_NUM": '"35'}, LINE | another(2)))
    assert [reason for _, _, reason in refusals(found)] == ["bad-quotes"]
    assert len(events(found)) == 1


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252"])
def test_text_that_nobody_reads_may_be_in_any_encoding(encoding: str) -> None:
    body = table([*COLUMNS[PRS], "LIBELLE"], LINE | {"LIBELLE": "Hôpital Pontchaillou, côté est"})
    (found,) = records(read(Dcir(), ER_PRS_F=body.decode().encode(encoding)))
    assert found["nature"] == "1111"


def test_windows_line_ends_and_small_letters_in_the_header() -> None:
    header, _, rest = prs(LINE).replace(b"\n", b"\r\n").partition(b"\r\n")
    assert len(records(read(Dcir(), ER_PRS_F=header.lower() + b"\r\n" + rest))) == 1


def test_a_column_that_stands_twice_is_refused() -> None:
    found = read(Dcir(), ER_PRS_F=prs(LINE).replace(b"PFS_EXE_NUM", b"BEN_SEX_COD"))
    assert [reason for _, _, reason in refusals(found)] == ["repeated-column"]


def test_which_table_a_file_is() -> None:
    form = Dcir()
    for part, columns in COLUMNS.items():
        assert form.part_of("export.csv", table(columns, {})) == part
        assert form.part_of(f"{part.lower()}_2024.csv", b"\x00") == part
    assert form.part_of("export.csv", b"a;b;c\n1;2;3\n") is None
    assert form.part_of("export.csv", b"") is None


# --- anything at all ---


@given(st.lists(st.tuples(st.sampled_from([PRS, PHA, CAM, BIO]), st.binary(max_size=200)), max_size=4), st.binary())
def test_any_bytes_are_read_or_refused(lines: list[tuple[str, bytes]], head: bytes) -> None:
    form = Dcir()
    form.part_of("x", head)
    layouts = {part: form.layout(part, table(columns).strip()) for part, columns in COLUMNS.items()}
    for part, data in lines:
        with suppress(Refused):
            form.layout(part, data)
        with suppress(Refused):
            layouts[part].key(data)
    pieces = [Piece(layouts[part], Line("x", number, data), b"k") for number, (part, data) in enumerate(lines)]
    pieces.sort(key=lambda one: form.parts.index(one.layout.part))
    if pieces:
        assert list(form.events(pieces, SOURCE))


@settings(max_examples=150)
@given(st.data())
def test_a_good_file_with_bytes_changed_gives_what_ingest_takes_or_refusals(data: st.DataObject) -> None:
    files = {
        PRS: prs(LINE, LINE | another(2)),
        PHA: table(COLUMNS[PHA], PACKAGE),
        CAM: table(COLUMNS[CAM], ACT),
        BIO: table(COLUMNS[BIO], ANALYSIS),
    }
    part = data.draw(st.sampled_from(sorted(files)))
    body = bytearray(files[part])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.sampled_from(b'0123456789;,"\n\xe9\x00-JX '))
    read(Dcir(), **files | {part: bytes(body)})
