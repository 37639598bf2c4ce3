"""Made-up SNDS files hold what they say they hold, for the readers of ingest, to the cent."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from estuaire.generate.dcir import Insured, Separator, Totals, write_dcir, write_deaths, write_register
from services.ingest.files import File, join
from services.ingest.formats.reading import JoinedFormat, Read
from services.ingest.formats.snds.beneficiaries import Register
from services.ingest.formats.snds.cepidc import Cepidc
from services.ingest.formats.snds.dcir import Dcir

pytestmark = pytest.mark.unit

PEOPLE = [
    Insured(
        f"PSEUDO{number:011}",
        1,
        dt.date(1930 + number, 1 + number % 12, 5),
        "female" if number % 2 else "male",
        ("35238", "2A004", "97411")[number % 3],
        f"LASTING{number:010}" if number % 4 else "",
    )
    for number in range(50)
]


def read(form: JoinedFormat, folder: Path) -> list[Read]:
    paths = sorted(path for path in folder.iterdir() if path.stem in form.parts)
    return list(join(form, [File(path.name, path.stem, path.open("rb")) for path in paths], "urn:x"))


def totals(found: list[Read]) -> dict[str, Any]:
    records = [
        one.outcome["data"]["record"] | {"type": one.outcome["type"]} for one in found if isinstance(one.outcome, dict)
    ]
    claims = [one for one in records if one["type"] == "claim.v1"]
    handed_out = [one for one in records if one["type"] == "dispensation.v1"]
    return {
        "claims": len(claims),
        "dispensations": len(handed_out),
        "for_information": Counter(one.outcome for one in found if isinstance(one.outcome, str))["for-information"],
        "supplements": sum(one.get("supplement") == "2" for one in claims),
        "acts": sum(len(one.get("acts", ())) for one in claims),
        "analyses": sum(len(one.get("biology", ())) for one in claims),
        "quantity": sum(one.get("quantity", 0) for one in claims),
        "paid": sum(round(one["amount_paid"] * 100) for one in claims),
        "reimbursed": sum(round(one["amount_reimbursed"] * 100) for one in claims),
        "packages": sum(one["quantity"] for one in handed_out),
    }


def expected(told: Totals) -> dict[str, Any]:
    return {name: value for name, value in vars(told).items() if name not in ("lines", "reversals")}


@pytest.mark.parametrize(("separator", "shuffled"), [(";", False), (";", True), (",", False)])
def test_a_reader_finds_what_was_written(tmp_path: Path, separator: Separator, shuffled: bool) -> None:
    told = write_dcir(tmp_path, PEOPLE, 3000, seed=4, separator=separator, shuffled=shuffled)
    found = read(Dcir(), tmp_path)
    assert totals(found) == expected(told)
    assert told.reversals > 20 and told.supplements > 50 and told.for_information > 30
    assert len(found) == told.records + told.for_information
    ids = [one.outcome["id"] for one in found if isinstance(one.outcome, dict)]
    assert len(set(ids)) == len(ids)


def test_the_seed_decides_everything_and_the_order_nothing(tmp_path: Path) -> None:
    files = []
    for name, seed, shuffled in (("a", 1, False), ("b", 1, False), ("c", 2, False), ("d", 1, True)):
        (tmp_path / name).mkdir()
        write_dcir(tmp_path / name, PEOPLE, 200, seed, shuffled=shuffled)
        files.append((tmp_path / name / "ER_PRS_F.csv").read_bytes())
    assert files[0] == files[1] != files[2]
    assert files[0] != files[3]
    assert sorted(files[0].splitlines()) == sorted(files[3].splitlines())


def test_the_register_and_the_deaths_are_about_the_same_people(tmp_path: Path) -> None:
    write_register(tmp_path / "IR_BEN_R.csv", PEOPLE)
    write_deaths(tmp_path, PEOPLE, seed=1)
    entries = [one.outcome for one in read(Register(), tmp_path)]
    deaths = [one.outcome for one in read(Cepidc(), tmp_path)]
    assert len(entries) == len(deaths) == len(PEOPLE)
    for someone, entry, death in zip(PEOPLE, entries, deaths, strict=True):
        assert isinstance(entry, dict) and isinstance(death, dict)
        assert len(death["data"]["record"]["causes"]) == 3
        known = {one["value"] for one in entry["data"]["identity"]["identifiers"]}
        assert known == {someone.pseudo_nir, someone.nir_ano} - {""}
        assert {one["value"] for one in death["data"]["identity"]["identifiers"]} <= known
        for one in (entry, death):
            assert one["data"]["identity"]["birth_date"] == f"{someone.birth_date:%Y-%m}"
            assert one["data"]["identity"]["residence"] == {"commune": someone.commune}
