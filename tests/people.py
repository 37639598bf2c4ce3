"""Made-up people that the files of several sources are about."""

from __future__ import annotations

import datetime as dt
from random import Random
from typing import Literal, NamedTuple

from estuaire.generate.dcir import Insured
from estuaire.generate.pmsi import Patient
from services.ingest.domain.identity import nir_key

_SEXES: tuple[Literal["female", "male"], ...] = ("female", "male")


class Someone(NamedTuple):
    """A person, and the numbers that the sources know them by; `nir` has its 13 characters."""

    number: int
    nir: str
    pseudo_nir: str
    nir_ano: str
    birth_date: dt.date
    sex: Literal["female", "male"]

    def insured(self) -> Insured:
        """As the health insurance knows them."""
        return Insured(self.pseudo_nir, 1, self.birth_date, self.sex, "35238", self.nir_ano)

    def patient(self) -> Patient:
        """As a hospital knows them; they are insured under their own number."""
        return Patient(self.birth_date, self.sex, self.nir, f"IPP{self.number:07}", pseudo_nir=self.pseudo_nir)

    @property
    def nir_with_key(self) -> str:
        """15 characters."""
        return f"{self.nir}{nir_key(self.nir):02}"


def people(count: int, seed: int = 1) -> list[Someone]:
    """So many, all different in every number."""
    rng = Random(seed)
    found = []
    for number in range(count):
        born = dt.date(1930, 1, 1) + dt.timedelta(days=rng.randrange(34_000))
        sex = _SEXES[number % 2]
        nir = f"{1 if sex == 'male' else 2}{born:%y%m}35{number // 1000 % 1000:03}{number % 1000:03}"
        pseudo_nir, nir_ano = (f"{rng.getrandbits(68):017x}" for _ in range(2))
        found.append(Someone(number, nir, pseudo_nir, nir_ano, born, sex))
    return found
