"""Made-up PMSI MCO files of given people: RSS with VID-HOSP, RSA with ANO, as many stays as wanted.

Nobody here exists, and no stay means anything: codes are of the right kind, and that is all. Everything follows from
the seed, the people and the year, stay by stay, in bounded memory; RUMs are shuffled within a window.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Final, Literal, NamedTuple

from services.ingest.domain.identity import nir_key
from services.ingest.formats.fixed_width import tables

Part = Literal["rss", "vid-hosp", "rsa", "ano"]

_TABLES: Final = tables("pmsi-mco")
_HOSPITALS: Final = ("350000022", "750712184", "910019447")
_DIAGNOSES: Final = ("I500", "J189", "K359", "S7200", "E119", "C509", "N179", "O800", "Z511", "G409", "J961+0", "I10")
_ACTS: Final = ("DEQP003", "HHFA011", "NEKA020", "ZCQM008", "YYYY300", "JVJF004", "EBFA002")
_GHMS: Final = ("05M092", "04M053", "06C091", "08C471", "28Z07Z", "14Z13T")
_UNITS: Final = ("07A", "53", "04", "29")
_VERSIONS: Final = {2024: ("122", "V014", "228"), 2025: ("122", "V015", "229"), 2026: ("123", "V016", "229")}
_WINDOW: Final = 2_000
_SEXES: Final = {"male": "1", "female": "2"}


class Patient(NamedTuple):
    """Someone as a hospital knows them. The own NIR, the rank (0) and the pseudo-NIR may be unknown.

    `insured` is the number of whoever insures them, of 13 characters; `own` has 13, `pseudo_nir` has 17.
    """

    birth_date: dt.date
    sex: Literal["female", "male"]
    insured: str
    ipp: str
    postcode: str = "35400"
    rank: int = 1
    own: str = ""
    pseudo_nir: str = ""


class Act(NamedTuple):
    code: str
    date: dt.date


class Unit(NamedTuple):
    entry: dt.date
    exit: dt.date
    authorisation: str
    principal: str
    associated: tuple[str, ...]
    acts: tuple[Act, ...]


class Stay(NamedTuple):
    """A stay of one to three units, by its number within its year."""

    number: int
    patient: Patient
    finess: str
    ghm: str
    units: tuple[Unit, ...]

    @property
    def entry(self) -> dt.date:
        return self.units[0].entry

    @property
    def exit(self) -> dt.date:
        return self.units[-1].exit


def stays(patients: Sequence[Patient], count: int, seed: int, year: int) -> Iterator[Stay]:
    """Stays that end in the year, of people who are born by then; patients take turns."""
    rng = Random(f"{seed}:{year}")  # noqa: S311
    first, last = dt.date(year, 1, 1), dt.date(year, 12, 31)
    for number in range(1, count + 1):
        patient = patients[(number - 1) % len(patients)]
        nights = [rng.choice((0, 1, 2, 3, 5, 8)) for _ in range(rng.choice((1, 1, 1, 1, 1, 1, 1, 2, 2, 3)))]
        exit_ = first + dt.timedelta(days=rng.randrange((last - first).days + 1))
        entry = max(exit_ - dt.timedelta(days=sum(nights)), patient.birth_date)
        units = []
        for position, length in enumerate(nights):
            ends = exit_ if position == len(nights) - 1 else min(entry + dt.timedelta(days=length), exit_)
            units.append(_unit(rng, entry, ends))
            entry = ends
        yield Stay(number, patient, _HOSPITALS[number % len(_HOSPITALS)], rng.choice(_GHMS), tuple(units))


def _unit(rng: Random, entry: dt.date, exit_: dt.date) -> Unit:
    principal, *associated = rng.sample(_DIAGNOSES, 1 + rng.randrange(4))
    acts = tuple(
        Act(rng.choice(_ACTS), entry + dt.timedelta(days=rng.randrange((exit_ - entry).days + 1)))
        for _ in range(rng.randrange(4))
    )
    return Unit(entry, exit_, rng.choice(_UNITS), principal, tuple(associated), acts)


def rss_lines(stay: Stay, version: str = "123") -> list[str]:
    """The RUMs of a stay, in order."""
    patient, last = stay.patient, len(stay.units) - 1
    return [
        _compose(
            "rss",
            version,
            {
                "ghm_version": "11",
                "ghm": stay.ghm,
                "finess": stay.finess,
                "rss": f"{stay.number:07}",
                "stay": _stay_number(stay),
                "rum": f"{position + 1:04}",
                "birth_date": _day(patient.birth_date),
                "sex": _SEXES[patient.sex],
                "entry": _day(unit.entry),
                "entry_mode": "6" if position else "8",
                "origin": "1" if position else "",
                "exit": _day(unit.exit),
                "exit_mode": "6" if position < last else "8",
                "destination": "1" if position < last else "",
                "postcode": patient.postcode,
                "weight": "0000",
                "gestational_age": "00",
                "sessions": "00",
                "associated": f"{len(unit.associated):02}",
                "documentary": "00",
                "acts": f"{len(unit.acts):03}",
                "principal": unit.principal,
                "igs2": "000",
            },
        )
        + "".join(code.ljust(8) for code in unit.associated)
        + "".join(_rss_act(act, version) for act in unit.acts)
        for position, unit in enumerate(stay.units)
    ]


def _rss_act(act: Act, version: str) -> str:
    size = _TABLES["rss"].shapes[version].groups[-1].size
    told = {"date": _day(act.date), "code": act.code, "phase": "0", "activity": "1", "times": "01"}
    return _compose("rss-act", "", told).ljust(size)


def vid_hosp_line(stay: Stay, version: str = "V015") -> str:
    """The VID-HOSP line of a stay."""
    patient = stay.patient
    told = {
        "insured": patient.insured,
        "insured_key": f"{nir_key(patient.insured):02}",
        "birth_date": _day(patient.birth_date),
        "sex": _SEXES[patient.sex],
        "stay": _stay_number(stay),
        "finess": stay.finess,
        "own": patient.own,
        "own_key": f"{nir_key(patient.own):02}" if patient.own else "",
        "rank": str(patient.rank) if patient.rank else "",
        "ipp": patient.ipp,
        "disciplines": "00",
    }
    line = _compose("vid-hosp", version, told)
    return line + "000" if version == "V016" else line


def rsa_line(stay: Stay, version: str = "229") -> str:
    """The RSA of a stay."""
    patient, units = stay.patient, stay.units
    days = (stay.entry - patient.birth_date).days
    told = {
        "finess": stay.finess,
        "number": f"{stay.number:010}",
        "ghm_version": "11",
        "ghm": stay.ghm,
        "units": f"{len(units):02}",
        "age_years": f"{days // 365:03}" if days >= 365 else "000",
        "age_days": f"{days:03}" if days < 365 else "",
        "sex": _SEXES[patient.sex],
        "entry_mode": "8",
        "exit_month": f"{stay.exit:%m}",
        "exit_year": f"{stay.exit:%Y}",
        "exit_mode": "8",
        "nights": f"{(stay.exit - stay.entry).days:04}",
        "postcode": patient.postcode,
        "weight": "0000",
        "gestational_age": "00",
        "sessions": "00",
        "authorisations": "0",
        "radiotherapy": "0",
        "principal": units[0].principal,
        "associated": f"{sum(len(unit.associated) for unit in units):04}",
        "acts": f"{sum(len(unit.acts) for unit in units):05}",
    }
    return "".join(
        (
            _compose("rsa", version, told),
            *(_rsa_unit(unit) for unit in units),
            *(code.ljust(6) for unit in units for code in unit.associated),
            *(_rsa_act(act, stay.entry) for unit in units for act in unit.acts),
        )
    )


def _rsa_unit(unit: Unit) -> str:
    told = {
        "principal": unit.principal,
        "igs2": "000",
        "associated": f"{len(unit.associated):02}",
        "acts": f"{len(unit.acts):03}",
        "nights": f"{(unit.exit - unit.entry).days:04}",
        "authorisation": unit.authorisation,
        "hospitalisation": "C",
    }
    return _compose("rsa-unit", "", told)


def _rsa_act(act: Act, entry: dt.date) -> str:
    told = {"day": f"{(act.date - entry).days:03}", "code": act.code, "phase": "0", "activity": "1", "times": "01"}
    return _compose("rsa-act", "", told)


def ano_line(stay: Stay, controls: str = "000000000") -> str:
    """The line of the chaining file of a stay."""
    patient = stay.patient
    told = {
        "finess": stay.finess,
        "exit_year": f"{stay.exit:%Y}",
        "controls": controls,
        "pseudonym": patient.pseudo_nir,
        "number": f"{stay.number:010}",
        "entry": _day(stay.entry),
        "exit": _day(stay.exit),
        "rank_control": "0",
        "rank": str(patient.rank) if patient.rank else "",
    }
    line = _compose("ano", "", told)
    return f"{line[:44]}015{line[47:]}"


def write(
    folder: Path, patients: Sequence[Patient], count: int, seed: int, year: int = 2025, anonymous: bool = False
) -> dict[Part, Path]:
    """Write the files of a year there: RSS and VID-HOSP, or RSA and ANO. RUMs and RSA are shuffled."""
    rss, vid_hosp, rsa = _VERSIONS[year]
    parts: tuple[Part, Part] = ("rsa", "ano") if anonymous else ("rss", "vid-hosp")
    paths: dict[Part, Path] = {part: folder / f"{year}.{part.replace('-', '')}" for part in parts}
    rng = Random(seed)  # noqa: S311
    window: list[str] = []
    with paths[parts[0]].open("w", newline="") as records, paths[parts[1]].open("w", newline="") as holders:
        for stay in stays(patients, count, seed, year):
            if anonymous:
                holders.write(f"{ano_line(stay)}\r\n")
                window.append(rsa_line(stay, rsa))
            else:
                holders.write(f"{vid_hosp_line(stay, vid_hosp)}\r\n")
                window.extend(rss_lines(stay, rss))
            while len(window) > _WINDOW:
                at = rng.randrange(len(window))
                window[at], window[-1] = window[-1], window[at]
                records.write(f"{window.pop()}\r\n")
        rng.shuffle(window)
        records.writelines(f"{line}\r\n" for line in window)
    return paths


def _stay_number(stay: Stay) -> str:
    return f"{stay.exit:%Y}{stay.number:08}"


def _day(day: dt.date) -> str:
    return f"{day:%d%m%Y}"


@cache
def _columns(kind: str, version: str) -> tuple[tuple[str, int, int], ...]:
    """The fields of a line from left to right: name, spaces before it, width; the last is the rest of the line."""
    table = _TABLES[kind]
    shape = table.shapes[version]
    fields = dict(shape.fields)
    if table.version:
        fields["version"] = table.version
    columns, at = [], 0
    for name, field in sorted(fields.items(), key=lambda one: one[1].start):
        columns.append((name, field.start - at, field.end - field.start))
        at = field.end
    return (*columns, ("", shape.length - at, 0))


def _compose(kind: str, version: str, told: dict[str, str]) -> str:
    told["version"] = version
    return "".join(" " * gap + told.get(name, "").ljust(width) for name, gap, width in _columns(kind, version))
