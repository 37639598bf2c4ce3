"""Made-up SNDS tables as CSV: the DCIR, the register of beneficiaries, the causes of death.

Nobody here exists, and nothing is true of anybody: amounts and codes are of the right kind, and that is all. Everything
follows from the seed and the people, line by line, in bounded memory.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final, Literal, NamedTuple

Separator = Literal[";", ","]

_KEY: Final = (
    *("DCT_ORD_NUM", "FLX_DIS_DTD", "FLX_EMT_NUM", "FLX_EMT_ORD", "FLX_EMT_TYP", "FLX_TRT_DTD", "ORG_CLE_NUM"),
    *("PRS_ORD_NUM", "REM_TYP_AFF"),
)
COLUMNS: Final = {
    "ER_PRS_F": (
        *("BEN_CDI_NIR", "BEN_NAI_ANN", "BEN_NIR_PSA", "BEN_RNG_GEM", "BEN_RES_COM", "BEN_RES_DPT", "BEN_SEX_COD"),
        *("ORG_AFF_BEN", "EXE_SOI_DTD", "EXE_SOI_DTF", "PRE_PRE_DTD", "BSE_REM_BSE", "BSE_REM_MNT", "CPL_REM_BSE"),
        *("CPL_REM_MNT", "PRS_ACT_CFT", "PRS_ACT_NBR", "PRS_ACT_QTE", "PRS_DEP_MNT", "PRS_PAI_MNT", "BSE_PRS_NAT"),
        *("CPL_AFF_COD", "CPL_MAJ_TOP", "CPL_PRS_NAT", "DPN_QLF", "EXE_LIE_COD", "EXO_MTF", "PRS_DPN_QLP"),
        *("PRS_NAT_REF", "RGO_ASU_NAT", "RGO_REM_TAU", "PFS_EXE_NUM", "PSE_ACT_NAT", "PSE_SPE_COD", "PSP_SPE_COD"),
        *_KEY,
    ),
    "ER_PHA_F": ("PHA_ACT_PRU", "PHA_ACT_QSN", "PHA_ORD_NUM", "PHA_PRS_C13", "PHA_SEQ_RNV", "PHA_SUB_MTF", *_KEY),
    "ER_CAM_F": (
        *("CAM_ACT_COD", "CAM_ACT_PRU", "CAM_ASS_COD", "CAM_MOD_COD", "CAM_ORD_NUM", "CAM_PRS_IDE", "CAM_REM_BSE"),
        *("CAM_TRT_PHA", *_KEY),
    ),
    "ER_BIO_F": ("BIO_ACT_QSN", "BIO_ORD_NUM", "BIO_PRS_IDE", *_KEY),
    "IR_BEN_R": (
        *("BEN_NIR_PSA", "BEN_RNG_GEM", "BEN_NIR_ANO", "BEN_IDT_ANO", "BEN_IDT_TOP", "BEN_CDI_NIR", "BEN_NAI_ANN"),
        *("BEN_NAI_MOI", "BEN_SEX_COD", "BEN_RES_DPT", "BEN_RES_COM", "ORG_AFF_BEN"),
    ),
    "KI_CCI_R": (
        *("DCD_IDT_ENC", "DCD_IDT_TOP", "BEN_IDT_ANO", "BEN_IDT_TOP", "BEN_NIR_ANO", "FLX_PER_ANN", "TRT_STA_COD"),
        *("TYP_CER_COD", "DCD_DPT_COD", "DCD_COM_COD", "BEN_RES_DPT", "BEN_RES_COM", "BEN_DCD_DTE", "BEN_DCD_AME"),
        *("DCD_LIE_COD", "BEN_NAI_ANN", "BEN_NAI_MOI", "BEN_SEX_COD", "DCD_CIM_COD", "DCD_LIE_LIB"),
    ),
    "KI_ECD_R": ("DCD_IDT_ENC", "CER_LIG_NUM", "ECD_CAU_RNG", "ECD_CAU_LIB", "ECD_CIM_COD"),
}

_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_PACKAGES: Final = ("3400936404649", "3400935163905", "3400930000014", "3400930135914", "3400930271704")
_ACTS: Final = ("DEQP003", "YYYY001", "ZCQM008", "BFGA004", "HHQE005")
_ANALYSES: Final = ("1104", "0552", "0519", "1208", "0996")
_CAUSES: Final = ("I219", "C349", "J189", "G309", "R99", "I500", "C509")
_WINDOW: Final = 20_000
"""Lines that a shuffled file mixes at a time."""
_FUND: Final = "01C351000"


class Insured(NamedTuple):
    """Someone as the insurance knows them. `commune` is an INSEE code; `nir_ano` may be unknown."""

    pseudo_nir: str
    rank: int
    birth_date: dt.date
    sex: Literal["female", "male"]
    commune: str
    nir_ano: str = ""


@dataclass
class Totals:
    """What the files came to: what a reader has to find in them. Money in cents."""

    lines: int = 0
    claims: int = 0
    dispensations: int = 0
    for_information: int = 0
    supplements: int = 0
    reversals: int = 0
    acts: int = 0
    analyses: int = 0
    quantity: int = 0
    paid: int = 0
    reimbursed: int = 0
    packages: int = 0

    @property
    def records(self) -> int:
        return self.claims + self.dispensations


def write_dcir(
    folder: Path,
    people: Sequence[Insured],
    prestations: int,
    seed: int,
    *,
    month: dt.date = dt.date(2024, 3, 1),
    separator: Separator = ";",
    shuffled: bool = False,
) -> Totals:
    """ER_PRS_F, ER_PHA_F, ER_CAM_F and ER_BIO_F of one month, of that many lines of ER_PRS_F about people in turn.

    Of a hundred lines, about three are for information, six supplements, and two reversals of the line before them.
    """
    totals = Totals()
    tables = ("ER_PRS_F", "ER_PHA_F", "ER_CAM_F", "ER_BIO_F")
    with ExitStack() as open_files:
        files = {
            name: open_files.enter_context((folder / f"{name}.csv").open("w", encoding="utf-8")) for name in tables
        }
        waiting: dict[str, list[str]] = {name: [] for name in tables}
        for name, file in files.items():
            file.write(separator.join(COLUMNS[name]) + "\n")
        mixing = Random(f"{seed}/order")  # noqa: S311 - made-up data

        def flush(name: str) -> None:
            if shuffled:
                mixing.shuffle(waiting[name])
            files[name].writelines(waiting[name])
            waiting[name].clear()

        for name, values in _prestations(people, prestations, seed, month, totals):
            row = [values.get(column, "") for column in COLUMNS[name]]
            waiting[name].append(separator.join(_quoted(value, separator) for value in row) + "\n")
            totals.lines += 1
            if len(waiting[name]) >= _WINDOW:
                flush(name)
        for name in tables:
            flush(name)
    return totals


def write_register(path: Path, people: Iterable[Insured], *, separator: Separator = ";") -> None:
    """IR_BEN_R."""
    rows = (
        {
            **_person(one),
            "BEN_NIR_ANO": one.nir_ano,
            "BEN_IDT_ANO": one.nir_ano or f"{one.pseudo_nir}{one.rank}",
            "BEN_IDT_TOP": "1" if one.nir_ano else "0",
            "BEN_NAI_MOI": f"{one.birth_date:%m}",
        }
        for one in people
    )
    _write(path, "IR_BEN_R", rows, separator)


def write_deaths(
    folder: Path, people: Sequence[Insured], seed: int, *, year: int = 2024, separator: Separator = ";"
) -> None:
    """KI_CCI_R and KI_ECD_R: these people die in the year, each of three causes."""
    deaths = (_death(one, number, seed, year)[0] for number, one in enumerate(people))
    causes = (cause for number, one in enumerate(people) for cause in _death(one, number, seed, year)[1])
    _write(folder / "KI_CCI_R.csv", "KI_CCI_R", deaths, separator)
    _write(folder / "KI_ECD_R.csv", "KI_ECD_R", causes, separator)


def _death(one: Insured, number: int, seed: int, year: int) -> tuple[dict[str, str], list[dict[str, str]]]:
    """A line of KI_CCI_R, and those of its further causes in KI_ECD_R."""
    rng = Random(f"{seed}/{number}")  # noqa: S311 - made-up data
    on = dt.date(year, 1, 1) + dt.timedelta(days=rng.randrange(365))
    home, code = _person(one), f"{number:064x}"
    initial, *others = rng.sample(_CAUSES, 3)
    death = {
        **home,
        "DCD_IDT_ENC": code,
        "DCD_IDT_TOP": "1",
        "BEN_IDT_ANO": one.nir_ano or f"{one.pseudo_nir}{one.rank}",
        "BEN_IDT_TOP": "1" if one.nir_ano else "0",
        "BEN_NIR_ANO": one.nir_ano,
        "FLX_PER_ANN": str(year),
        "TRT_STA_COD": "1",
        "TYP_CER_COD": "1",
        "DCD_DPT_COD": home["BEN_RES_DPT"],
        "DCD_COM_COD": home["BEN_RES_COM"],
        "BEN_DCD_DTE": _sas(on),
        "BEN_DCD_AME": f"{on:%Y%m}",
        "DCD_LIE_COD": str(rng.randrange(7)),
        "BEN_NAI_MOI": f"{one.birth_date:%m}",
        "DCD_CIM_COD": initial,
        "DCD_LIE_LIB": "Hôpital; chambre",
    }
    return death, [
        {"DCD_IDT_ENC": code, "CER_LIG_NUM": str(line), "ECD_CAU_RNG": "1", "ECD_CIM_COD": cause}
        for line, cause in enumerate(others, start=1)
    ]


def _write(path: Path, name: str, rows: Iterable[dict[str, str]], separator: Separator) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(separator.join(COLUMNS[name]) + "\n")
        for row in rows:
            values = (_quoted(row.get(column, ""), separator) for column in COLUMNS[name])
            file.write(separator.join(values) + "\n")


def _prestations(
    people: Sequence[Insured], prestations: int, seed: int, month: dt.date, totals: Totals
) -> Iterator[tuple[str, dict[str, str]]]:
    """Table and values of each line, a line of ER_PRS_F before its children."""
    rng = Random(seed)  # noqa: S311 - made-up data
    known = [_person(one) for one in people]
    days = [_sas(month + dt.timedelta(days=number)) for number in range(28)]
    flow = _sas((month + dt.timedelta(days=32)).replace(day=1))
    last: list[tuple[str, dict[str, str]]] = []
    for number in range(prestations):
        key = {
            "DCT_ORD_NUM": str(number // 3 + 1),
            "FLX_DIS_DTD": flow,
            "FLX_EMT_NUM": "1",
            "FLX_EMT_ORD": "12",
            "FLX_EMT_TYP": "1",
            "FLX_TRT_DTD": _sas(month + dt.timedelta(days=28)),
            "ORG_CLE_NUM": _FUND,
            "PRS_ORD_NUM": str(number % 3 + 1),
            "REM_TYP_AFF": "0",
        }
        chance = rng.random()
        if chance < 0.02 and last:
            found = [(name, _reversed(values) | key) for name, values in last]
            totals.reversals += 1
            last = []
        else:
            person = known[number % len(known)]
            found = [(name, values | key) for name, values in _care(rng, person, rng.choice(days), chance)]
            last = found
        _count(totals, found)
        yield from found


def _care(rng: Random, person: dict[str, str], on: str, chance: float) -> list[tuple[str, dict[str, str]]]:
    """A line of ER_PRS_F about somebody on a day, and its children."""
    base, excess = rng.randrange(100, 20_000), rng.randrange(0, 3_000) if chance > 0.8 else 0
    rate = rng.choice((65, 70, 100))
    line = {
        **person,
        **{"EXE_SOI_DTD": on, "EXE_SOI_DTF": on, "PRE_PRE_DTD": on, "BSE_REM_BSE": _euros(base)},
        **{"BSE_REM_MNT": _euros(base * rate // 100), "CPL_REM_BSE": "0", "CPL_REM_MNT": "0", "PRS_ACT_CFT": "1"},
        **{"PRS_ACT_NBR": "1", "PRS_ACT_QTE": "1", "PRS_DEP_MNT": _euros(excess), "PRS_PAI_MNT": _euros(base + excess)},
        **{"BSE_PRS_NAT": "1111", "CPL_AFF_COD": "0", "CPL_MAJ_TOP": "0", "CPL_PRS_NAT": "0", "DPN_QLF": "0"},
        **{"EXE_LIE_COD": "0", "EXO_MTF": "0", "PRS_DPN_QLP": "0", "PRS_NAT_REF": "1111", "RGO_ASU_NAT": "10"},
        **{"RGO_REM_TAU": str(rate), "PFS_EXE_NUM": "351234567", "PSE_ACT_NAT": "0"},
        **{"PSE_SPE_COD": str(rng.randrange(1, 20)), "PSP_SPE_COD": "1"},
    }
    if chance < 0.05:
        qualifier = rng.choice(({"DPN_QLF": "71"}, {"DPN_QLF": "72"}, {"PRS_DPN_QLP": "71"}))
        return [("ER_PRS_F", line | qualifier)]
    if chance < 0.11:
        kind, nature, amount = rng.choice((("18", "1125", 300), ("16", "1951", -100), ("17", "1099", 500)))
        paid = max(amount, 0)
        supplement = {
            **{"CPL_MAJ_TOP": "2", "CPL_AFF_COD": kind, "CPL_PRS_NAT": nature, "CPL_REM_MNT": _euros(amount)},
            **{"CPL_REM_BSE": _euros(paid), "PRS_PAI_MNT": _euros(paid), "BSE_REM_BSE": "0", "BSE_REM_MNT": "0"},
            **{"BSE_PRS_NAT": "0", "PRS_DEP_MNT": "0"},
        }
        return [("ER_PRS_F", line | supplement)]
    if chance < 0.45:
        boxes = rng.choice((1, 1, 1, 2, 3))
        package = {
            **{"PHA_ACT_PRU": _euros(base // boxes), "PHA_ACT_QSN": str(boxes), "PHA_ORD_NUM": "1"},
            **{"PHA_PRS_C13": rng.choice(_PACKAGES), "PHA_SEQ_RNV": str(rng.randrange(4)), "PHA_SUB_MTF": "2"},
        }
        return [("ER_PRS_F", line | {"PRS_NAT_REF": "3313", "PRS_ACT_QTE": str(boxes)}), ("ER_PHA_F", package)]
    if chance < 0.6:
        acts = rng.sample(_ACTS, rng.choice((1, 1, 2)))
        return [("ER_PRS_F", line | {"PRS_NAT_REF": "1352"})] + [
            (
                "ER_CAM_F",
                {
                    **{"CAM_ACT_COD": "1", "CAM_TRT_PHA": "0", "CAM_ASS_COD": str(number), "CAM_ORD_NUM": str(number)},
                    **{"CAM_PRS_IDE": act, "CAM_ACT_PRU": _euros(base), "CAM_REM_BSE": _euros(base)},
                },
            )
            for number, act in enumerate(acts, start=1)
        ]
    if chance < 0.7:
        analyses = rng.sample(_ANALYSES, rng.randrange(1, 5))
        return [("ER_PRS_F", line | {"PRS_NAT_REF": "3211"})] + [
            ("ER_BIO_F", {"BIO_ACT_QSN": "1", "BIO_ORD_NUM": str(number), "BIO_PRS_IDE": analysis.lstrip("0")})
            for number, analysis in enumerate(analyses, start=1)
        ]
    return [("ER_PRS_F", line)]


_SIGNED: Final = frozenset(
    (
        *("BSE_REM_BSE", "BSE_REM_MNT", "CPL_REM_BSE", "CPL_REM_MNT", "PRS_ACT_NBR", "PRS_ACT_QTE", "PRS_DEP_MNT"),
        *("PRS_PAI_MNT", "PHA_ACT_QSN", "BIO_ACT_QSN"),
    )
)


def _reversed(values: dict[str, str]) -> dict[str, str]:
    """The same line with its amounts and quantities the other way round."""
    return {column: _negative(value) if column in _SIGNED else value for column, value in values.items()}


def _negative(value: str) -> str:
    return value if value == "0" else value[1:] if value.startswith("-") else f"-{value}"


def _count(totals: Totals, found: Sequence[tuple[str, dict[str, str]]]) -> None:
    """What a reader has to make of a line of ER_PRS_F and its children."""
    (_, line), children = found[0], found[1:]
    if line["DPN_QLF"] in ("71", "72") or line["PRS_DPN_QLP"] == "71":
        totals.for_information += 1
        return
    totals.claims += 1
    totals.paid += _cents(line["PRS_PAI_MNT"])
    totals.reimbursed += _cents(line["BSE_REM_MNT"]) + _cents(line["CPL_REM_MNT"])
    if line["CPL_MAJ_TOP"] == "2":
        totals.supplements += 1
    else:
        totals.quantity += int(line["PRS_ACT_QTE"])
    for name, values in children:
        if name == "ER_PHA_F":
            totals.dispensations += 1
            totals.packages += int(values["PHA_ACT_QSN"])
        else:
            totals.acts += name == "ER_CAM_F"
            totals.analyses += name == "ER_BIO_F"


def _person(one: Insured) -> dict[str, str]:
    commune = one.commune
    department = f"20{'AB'.index(commune[1]) + 1}" if commune[1] in "AB" else f"0{commune[:2]}"
    return {
        "BEN_CDI_NIR": "00",
        "BEN_NAI_ANN": str(one.birth_date.year),
        "BEN_NIR_PSA": one.pseudo_nir,
        "BEN_RNG_GEM": str(one.rank),
        "BEN_RES_DPT": department,
        "BEN_RES_COM": commune[2:],
        "BEN_SEX_COD": "1" if one.sex == "male" else "2",
        "ORG_AFF_BEN": _FUND,
    }


def _sas(day: dt.date) -> str:
    """As SAS writes DATETIME20."""
    return f"{day.day:02}{_MONTHS[day.month - 1]}{day.year}:00:00:00"


def _euros(cents: int) -> str:
    """With a decimal comma, and as few digits as there are."""
    sign, cents = "-" if cents < 0 else "", abs(cents)
    return sign + f"{cents // 100},{cents % 100:02}".rstrip("0").rstrip(",")


def _cents(text: str) -> int:
    whole, _, fraction = text.removeprefix("-").partition(",")
    value = int(whole) * 100 + int(fraction.ljust(2, "0"))
    return -value if text.startswith("-") else value


def _quoted(value: str, separator: Separator) -> str:
    return f'"{value}"' if separator in value or '"' in value else value
