"""The register of beneficiaries ties the numbers of the DCIR to the one that a person keeps."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.domain.refusals import Refused
from services.ingest.formats.reading import Line, Piece
from services.ingest.formats.snds.beneficiaries import Register

from .tables import SOURCE, events, passed_over, read, refusals, table

pytestmark = pytest.mark.unit

ENTRY = {
    "BEN_NIR_PSA": "K7Q2M9ZT4XW8R1VBN",
    "BEN_RNG_GEM": "2",
    "BEN_NIR_ANO": "R4T8W2K6N1QZ9XMVB",
    "BEN_IDT_ANO": "R4T8W2K6N1QZ9XMVB",
    "BEN_IDT_TOP": "1",
    "BEN_CDI_NIR": "00",
    "BEN_NAI_ANN": "1952",
    "BEN_NAI_MOI": "03",
    "BEN_SEX_COD": "2",
    "BEN_RES_DPT": "035",
    "BEN_RES_COM": "238",
}


def test_an_entry_is_an_identity() -> None:
    (event,) = events(read(Register(), IR_BEN_R=table(ENTRY, ENTRY)))
    assert event == {
        "specversion": "1.0",
        "id": "ben:K7Q2M9ZT4XW8R1VBN-2",
        "source": SOURCE,
        "type": "identity.v1",
        "time": None,
        "correction": True,
        "data": {
            "identity": {
                "identifiers": [
                    {"system": "ben-nir-psa", "value": "K7Q2M9ZT4XW8R1VBN", "rank": 2, "scheme": "rang-gemellaire"},
                    {"system": "ben-nir-ano", "value": "R4T8W2K6N1QZ9XMVB"},
                ],
                "sex": "female",
                "birth_date": "1952-03",
                "residence": {"commune": "35238"},
            }
        },
    }


def test_numbers_that_stand_for_nobody_pass_and_are_known_later() -> None:
    (event,) = events(read(Register(), IR_BEN_R=table(ENTRY, ENTRY | {"BEN_NIR_PSA": "x" * 17})))
    assert event["data"]["identity"]["identifiers"][0]["value"] == "x" * 17


def test_one_number_and_rank_is_one_person() -> None:
    twin = ENTRY | {"BEN_RNG_GEM": "3", "BEN_NIR_ANO": "Z" * 16 + "1"}
    found = read(Register(), IR_BEN_R=table(ENTRY, ENTRY, ENTRY, twin))
    assert (len(events(found)), passed_over(found)) == (2, [("IR_BEN_R.csv", 3, "duplicate-line")])
    found = read(Register(), IR_BEN_R=table(ENTRY, ENTRY, ENTRY | {"BEN_SEX_COD": "1"}))
    assert [reason for _, _, reason in refusals(found)] == ["conflicting-lines"] * 2


def test_the_register_of_the_next_year_replaces_that_of_the_last() -> None:
    first, moved = (
        events(read(Register(), IR_BEN_R=table(ENTRY, ENTRY | {"BEN_RES_COM": place})))[0] for place in ("238", "051")
    )
    assert (first["id"], first["correction"]) == (moved["id"], moved["correction"]) == (first["id"], True)
    assert moved["data"]["identity"]["residence"] == {"commune": "35051"}


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        *(("BEN_NIR_PSA", "", "missing-field"), ("BEN_NIR_PSA", "short", "bad-identifier")),
        *(("BEN_RNG_GEM", "first", "unknown-code"), ("BEN_NAI_MOI", "mars", "bad-date")),
    ],
)
def test_a_bad_value_refuses_its_line(column: str, value: str, reason: str) -> None:
    assert refusals(read(Register(), IR_BEN_R=table(ENTRY, ENTRY | {column: value}))) == [("IR_BEN_R.csv", 2, reason)]


def test_which_file_it_is() -> None:
    form = Register()
    assert form.part_of("x.csv", table(ENTRY)) == "IR_BEN_R"
    assert form.part_of("IR_BEN_R_2024.csv", b"") == "IR_BEN_R"
    assert form.part_of("x.csv", table([*ENTRY, "PRS_NAT_REF"])) is None


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=3))
def test_any_bytes_are_read_or_refused(lines: list[bytes]) -> None:
    form = Register()
    layout = form.layout("IR_BEN_R", table(ENTRY).strip())
    for data in lines:
        form.part_of("x", data)
        with suppress(Refused):
            layout.key(data)
        with suppress(Refused):
            form.layout("IR_BEN_R", data)
    assert list(form.events([Piece(layout, Line("x", 1, data), b"k") for data in lines], SOURCE))
