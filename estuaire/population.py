"""A made-up population in the French manner, and how different sources know its people.

Nobody here exists: names are drawn from common lists, telephone numbers from the ranges that Arcep keeps for fiction
(its numbering plan, décision 2018-0881), and everything follows from the seed alone, on any machine.
"""

from __future__ import annotations

import csv
import datetime as dt
import hashlib
import string
import unicodedata
from bisect import bisect
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import accumulate, count
from math import exp
from random import Random
from typing import Final, Generic, Literal, TypeVar

Sex = Literal["female", "male"]
View = Literal[
    "hospital",
    "provisional",
    "insurance",
    "insurance-enrolment",
    "insurance-pseudonym",
    "device-enrolment",
    "device",
]
Corruption = Literal["married-name", "no-accents", "no-hyphens", "upper-case", "first-given-name-only"]
Identity = dict[str, object]

CHU: Final = "350000022"
"""The FINESS number that stands for the hospital of the sample."""
DEVICE_MAKER: Final = "urn:estuaire:producer:cardio-telesuivi"

DAY: Final = dt.date(2024, 1, 1)
"""Everyone is born before this day; ages are counted on it."""


@dataclass(frozen=True, slots=True)
class Residence:
    """Where a person lives; `commune` is an INSEE code."""

    address: str
    city: str
    postcode: str
    commune: str


@dataclass(frozen=True, slots=True)
class Person:
    """One person and everything that is true of them; sources know parts of it (`identity`).

    `birth_place` is the INSEE code in force at birth (99 and the country's number for abroad; 20 for Corsica before
    1976). `nir` has 13 characters. `insured_nir` is that of whoever insures the person: a parent's for most children.
    `ipps` are (assigner, number) pairs.
    """

    number: int
    sex: Sex
    birth_family_name: str
    used_family_name: str
    given_names: tuple[str, ...]
    birth_date: dt.date
    birth_place: str
    nir: str
    insured_nir: str
    residence: Residence
    phone: str
    ipps: tuple[tuple[str, str], ...]

    @property
    def nir_with_key(self) -> str:
        """The NIR of 15 characters."""
        return self.nir + nir_key(self.nir)

    @property
    def ben_nir_psa(self) -> str:
        """The person's pseudonymised number in SNDS."""
        return ben_nir_psa(self.insured_nir, self.birth_date, self.sex)

    def ipp(self, assigner: str) -> str:
        """The person's own number at a hospital or a device maker. Raises KeyError where they have none."""
        return dict(self.ipps)[assigner]

    def age(self, day: dt.date) -> int:
        """Whole years lived on a day."""
        return day.year - self.birth_date.year - ((day.month, day.day) < (self.birth_date.month, self.birth_date.day))


def nir_key(number: str) -> str:
    """The key of a NIR of 13 characters, as 2 digits: 97 - n mod 97, where 2A counts as 19 and 2B as 18.

    Source: INSEE's rule for the NIR (décret 82-103 of 22 January 1982, on the répertoire national d'identification).
    """
    return f"{97 - int(number.replace('2A', '19').replace('2B', '18')) % 97:02d}"


def ben_nir_psa(insured_nir: str, birth_date: dt.date, sex: Sex) -> str:
    """A stand-in for SNDS's BEN_NIR_PSA: 17 capitals and digits made from the same three things, and from no secret.

    As there, twins of one sex share it, and a person who is insured by somebody else from now on gets another.
    """
    digest = hashlib.sha256(f"{insured_nir}/{birth_date.isoformat()}/{sex}".encode()).digest()
    number, characters = int.from_bytes(digest), string.digits + string.ascii_uppercase
    return "".join(characters[number // 36**place % 36] for place in range(17))


def population(
    seed: int, people: int, *, around: str | None = None, assigners: Sequence[str] = (CHU, DEVICE_MAKER)
) -> Iterator[Person]:
    """`people` persons, the same for the same seed; a larger population begins with the smaller one.

    Half of the births and three quarters of the homes are in the department `around`, if given. Everyone has a number
    at each of `assigners`. No two persons share a NIR, a pseudonym, such a number, or birth family name, first given
    name and birth date together, whatever the case, accents, particles, hyphens or spaces.
    """
    births = _Births(seed, around, assigners)
    for number in range(people):
        yield births.person(number)


def identity(
    person: Person, view: View, *, assigner: str | None = None, corruptions: Sequence[Corruption] = ()
) -> Identity:
    """What a source says of a person, as the `data.identity` of an event; a fresh dict.

    `assigner` is whose number the hospital and device views carry, by default CHU and DEVICE_MAKER. Views:
    - hospital: qualified, with NIR, own number and all traits; provisional: the traits without any number
    - insurance: NIR, birth date, sex, residence; insurance-pseudonym: BEN_NIR_PSA in place of the NIR;
      insurance-enrolment: both numbers
    - device-enrolment: the maker's number and the NIR, with names; device: the maker's number alone

    Corruptions are applied in their order. Raises KeyError for a view or a corruption that does not exist.
    """
    known = VIEWS[view](person, assigner)
    for name in corruptions:
        known = CORRUPTIONS[name](known)
    return known


# --- as sources know a person ---


def _hospital(person: Person, assigner: str | None) -> Identity:
    assigner = assigner or CHU
    numbers = [
        {"system": "ins-nir", "value": person.nir_with_key},
        {"system": "ipp", "assigner": assigner, "value": person.ipp(assigner)},
    ]
    return {"identifiers": numbers, "identity_status": "qualified", **_traits(person)}


def _provisional(person: Person, _: str | None) -> Identity:
    return {"identity_status": "provisional", **_traits(person)}


def _insurance(person: Person, _: str | None) -> Identity:
    return {"identifiers": [{"system": "ins-nir", "value": person.nir}], **_administrative(person)}


def _insurance_pseudonym(person: Person, _: str | None) -> Identity:
    return {"identifiers": [{"system": "ben-nir-psa", "value": person.ben_nir_psa}], **_administrative(person)}


def _insurance_enrolment(person: Person, _: str | None) -> Identity:
    numbers = [{"system": "ins-nir", "value": person.nir}, {"system": "ben-nir-psa", "value": person.ben_nir_psa}]
    return {"identifiers": numbers, **_administrative(person)}


def _device_enrolment(person: Person, assigner: str | None) -> Identity:
    known = _device(person, assigner)
    traits = _traits(person)
    del traits["residence"]
    nir = {"system": "ins-nir", "value": person.nir_with_key}
    return {"identifiers": [nir, *_list(known["identifiers"])], "identity_status": "validated", **traits}


def _device(person: Person, assigner: str | None) -> Identity:
    assigner = assigner or DEVICE_MAKER
    return {"identifiers": [{"system": "ipp", "assigner": assigner, "value": person.ipp(assigner)}]}


def _traits(person: Person) -> Identity:
    married = person.used_family_name != person.birth_family_name
    return {
        "birth_family_name": person.birth_family_name,
        **({"used_family_name": person.used_family_name} if married else {}),
        "given_names": list(person.given_names),
        "sex": person.sex,
        "birth_date": person.birth_date.isoformat(),
        "birth_place": person.birth_place,
        "residence": _residence(person),
    }


def _administrative(person: Person) -> Identity:
    return {"sex": person.sex, "birth_date": person.birth_date.isoformat(), "residence": _residence(person)}


def _residence(person: Person) -> dict[str, str]:
    home = person.residence
    return {"address": home.address, "city": home.city, "postcode": home.postcode, "commune": home.commune}


VIEWS: Final[Mapping[View, Callable[[Person, str | None], Identity]]] = {
    "hospital": _hospital,
    "provisional": _provisional,
    "insurance": _insurance,
    "insurance-enrolment": _insurance_enrolment,
    "insurance-pseudonym": _insurance_pseudonym,
    "device-enrolment": _device_enrolment,
    "device": _device,
}
"""How each kind of source knows a person; `identity` says what they hold."""


# --- what goes wrong with names ---

_NAMES: Final = ("birth_family_name", "used_family_name", "given_names")
_LIGATURES: Final = str.maketrans({"Œ": "OE", "œ": "oe", "Æ": "AE", "æ": "ae"})


def without_accents(text: str) -> str:
    """The text without accents, its ligatures written out."""
    decomposed = unicodedata.normalize("NFKD", text.translate(_LIGATURES))
    return "".join(one for one in decomposed if not unicodedata.combining(one))


def _each_name(change: Callable[[str], str]) -> Callable[[Identity], Identity]:
    def changed(known: Identity) -> Identity:
        return known | {
            name: [change(one) for one in _list(known[name])] if name == "given_names" else change(str(known[name]))
            for name in _NAMES
            if name in known
        }

    return changed


def _married_name(known: Identity) -> Identity:
    if "used_family_name" not in known:
        return known
    return {name: value for name, value in known.items() if name != "birth_family_name"}


def _first_given_name(known: Identity) -> Identity:
    return known | {"given_names": _list(known["given_names"])[:1]} if "given_names" in known else known


def _list(value: object) -> list[str]:
    return list(value) if isinstance(value, list) else []


CORRUPTIONS: Final[Mapping[Corruption, Callable[[Identity], Identity]]] = {
    "married-name": _married_name,
    "no-accents": _each_name(without_accents),
    "no-hyphens": _each_name(lambda name: name.translate(str.maketrans("-'", "  "))),
    "upper-case": _each_name(str.upper),
    "first-given-name-only": _first_given_name,
}
"""What sources do to an identity; each leaves alone what it finds nothing to do to."""


# --- births ---

_T = TypeVar("_T")

# Thousands of people by five years of age, roughly. Under 20 and from 65 the shares are those that INED gives for 2022
# (23.4 % and 21.2 %; "Population par sexe et âge", after INSEE).
_PYRAMID: Final = (
    3500, 3950, 4250, 4250, 4050, 3850, 4050, 4200, 4400, 4150, 4500, 4400, 4200, 3900, 3650, 2900, 1750, 1300, 750,
    200, 30,
)  # fmt: skip
_GENERATION: Final = 13.0
"""Years around its peak in which a given name is common."""
_FICTION: Final = ("06 39 98 ", "02 61 91 ", "01 99 00 ", "03 53 01 ", "04 65 71 ", "05 36 49 ")
_BRITTANY: Final = frozenset(("22", "29", "35", "56"))
_USUAL: Final = {"french": 82.0, "breton": 3.0, "corsican": 0.5, "maghreb": 6.0, "portuguese": 3.0}
_RARER: Final = {"mediterranean": 2.5, "african": 2.0, "asian": 1.0}


class _Choice(Generic[_T]):
    """A weighted choice, made once and drawn from often."""

    def __init__(self, weighted: Sequence[tuple[_T, float]]) -> None:
        self._items = [item for item, _ in weighted]
        self._sums = list(accumulate(weight for _, weight in weighted))

    def draw(self, rng: Random) -> _T:
        return self._items[min(bisect(self._sums, rng.random() * self._sums[-1]), len(self._items) - 1)]


@dataclass(frozen=True, slots=True)
class _Commune:
    code: str
    postcode: str
    name: str
    weight: float

    @property
    def department(self) -> str:
        return self.code[:2]


@cache
def _rows(name: str) -> tuple[dict[str, str], ...]:
    file = files("estuaire") / "data" / "population" / f"{name}.csv"
    return tuple(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


@cache
def _communes() -> tuple[_Commune, ...]:
    return tuple(_Commune(row["code"], row["postcode"], row["name"], float(row["weight"])) for row in _rows("communes"))


@cache
def _places(around: str | None, share: float) -> _Choice[_Commune]:
    """Communes by their weight, those of the department `around` with that share of all."""
    if not any(one.department == around for one in _communes()):
        return _Choice([(one, one.weight) for one in _communes()])
    here = sum(one.weight for one in _communes() if one.department == around)
    elsewhere = sum(one.weight for one in _communes()) - here
    return _Choice(
        [
            (one, one.weight / here * share if one.department == around else one.weight / elsewhere * (1 - share))
            for one in _communes()
        ]
    )


@cache
def _countries() -> _Choice[tuple[str, str]]:
    return _Choice([((row["code"], row["origin"]), float(row["weight"])) for row in _rows("countries")])


@cache
def _streets() -> tuple[str, ...]:
    return tuple(row["name"] for row in _rows("streets"))


@cache
def _origins(department: str) -> _Choice[str]:
    weights = _USUAL | _RARER
    if department in _BRITTANY:
        weights |= {"breton": 40.0}
    if department in ("20", "2A", "2B"):
        weights |= {"corsican": 120.0}
    return _Choice(list(weights.items()))


@cache
def _family_names(origin: str) -> _Choice[str]:
    """Names of an origin, the first in the list the commonest (Zipf's law, flattened at its head)."""
    names = [row["name"] for row in _rows("family_names") if row["origin"] == origin]
    return _Choice([(name, 1 / (rank + 5)) for rank, name in enumerate(names)])


@cache
def _given_names(sex: Sex, origin: str, decade: int) -> _Choice[str]:
    weighted: list[tuple[str, float]] = []
    ranks: dict[str, count[int]] = {}
    for row in _rows("given_names"):
        if (row["sex"], row["origin"]) == (sex, origin):
            rank = next(ranks.setdefault(row["peak"], count()))
            distance = (decade + 5 - int(row["peak"])) / _GENERATION
            weighted.append((row["name"], exp(-distance * distance / 2) / (rank + 4) + 1e-4))
    return _Choice(weighted) if weighted else _given_names(sex, "french", decade)


_ages: Final = _Choice([(5 * band, weight) for band, weight in enumerate(_PYRAMID)])


class _Births:
    def __init__(self, seed: int, around: str | None, assigners: Sequence[str]) -> None:
        self._rng = Random(f"population {seed}")  # noqa: S311
        self._births = _places(around, 0.5)
        self._homes = _places(around, 0.75)
        self._assigners = [(assigner, self._rng.randrange(10**9)) for assigner in assigners]
        self._parents: deque[Person] = deque(maxlen=2000)
        self._taken: set[str | tuple[str, str, dt.date]] = set()

    def person(self, number: int) -> Person:
        while True:
            person = self._draw(number)
            strict = (_letters(person.birth_family_name), _letters(person.given_names[0]), person.birth_date)
            keys: set[str | tuple[str, str, dt.date]] = {person.nir, person.ben_nir_psa, strict}
            if keys.isdisjoint(self._taken):
                self._taken |= keys
                if 18 <= person.age(DAY) < 65:
                    self._parents.append(person)
                return person

    def _draw(self, number: int) -> Person:
        rng = self._rng
        age = _ages.draw(rng) + rng.randrange(5)
        birth_date = DAY - dt.timedelta(days=1 + int((age + rng.random()) * 365.24))
        sex: Sex = "female" if rng.random() < 0.49 + max(0, age - 50) * 0.0045 else "male"
        birth_place, origin = self._birth_place(age, birth_date)
        family_name = self._family_name(origin)
        nir = f"{'12'[sex == 'female']}{birth_date:%y%m}{birth_place}{rng.randrange(1, 1000):03d}"
        insured_nir, residence, phone = nir, self._residence(), self._phone()
        if age < 18 and rng.random() < 0.85 and (parent := self._parent(birth_date)):
            family_name = parent.birth_family_name if parent.sex == "male" else parent.used_family_name
            insured_nir, residence, phone = parent.insured_nir, parent.residence, parent.phone
        return Person(
            number=number,
            sex=sex,
            birth_family_name=family_name,
            used_family_name=self._used_name(family_name, sex, birth_date.year, age),
            given_names=self._given_names(sex, origin, birth_date.year),
            birth_date=birth_date,
            birth_place=birth_place,
            nir=nir,
            insured_nir=insured_nir,
            residence=residence,
            phone=phone,
            ipps=tuple((assigner, _local_number(assigner, start, number)) for assigner, start in self._assigners),
        )

    def _birth_place(self, age: int, birth_date: dt.date) -> tuple[str, str]:
        """The INSEE code in force at birth, and the origin of the name."""
        rng = self._rng
        if rng.random() < (0.12 if age >= 18 else 0.02):
            return _countries().draw(rng)
        code = self._births.draw(rng).code
        if birth_date.year < 1976 and code[:2] in ("2A", "2B"):
            code = "20" + code[2:]
        return code, _origins(code[:2]).draw(rng)

    def _family_name(self, origin: str) -> str:
        name = _family_names(origin).draw(self._rng)
        if self._rng.random() < 0.02:
            name += "-" + _family_names("french").draw(self._rng)
        return name

    def _used_name(self, own: str, sex: Sex, birth_year: int, age: int) -> str:
        """The spouse's name, or both, for those who took it: most women of the older generations."""
        rng = self._rng
        custom = 0.85 if birth_year < 1950 else 0.65 if birth_year < 1970 else 0.45 if birth_year < 1985 else 0.2
        share = custom if sex == "female" else 0.01
        if age < 22 or rng.random() >= share:
            return own
        spouse = self._family_name(_origins("").draw(rng))
        return f"{own}-{spouse}" if rng.random() < 0.1 else spouse

    def _given_names(self, sex: Sex, origin: str, birth_year: int) -> tuple[str, ...]:
        """The first of the person's generation, the others of its grandparents'."""
        rng = self._rng
        first = _given_names(sex, origin if rng.random() < 0.7 else "french", birth_year // 10 * 10).draw(rng)
        further = rng.choices((0, 1, 2), (15, 45, 40))[0]
        before = (birth_year - 40) // 10 * 10
        return tuple(dict.fromkeys((first, *(_given_names(sex, "french", before).draw(rng) for _ in range(further)))))

    def _parent(self, birth_date: dt.date) -> Person | None:
        tries = (self._rng.choice(self._parents) for _ in range(min(30, len(self._parents))))
        return next((one for one in tries if 18 <= one.age(birth_date) <= 45), None)

    def _residence(self) -> Residence:
        rng = self._rng
        commune = self._homes.draw(rng)
        repeated = rng.choices(("", " bis", " ter"), (94, 5, 1))[0]
        address = f"{1 + int(rng.paretovariate(0.8)) % 180}{repeated} {rng.choice(_streets())}"
        return Residence(address, commune.name, commune.postcode, commune.code)

    def _phone(self) -> str:
        rng = self._rng
        prefix = rng.choices(_FICTION, (75, 15, 4, 2, 2, 2))[0]
        return f"{prefix}{rng.randrange(100):02d} {rng.randrange(100):02d}"


def _local_number(assigner: str, start: int, number: int) -> str:
    """Numbers that follow in no visible order, each given once: the factor is odd and no multiple of 5."""
    prefix = "R" if assigner.isdigit() else "patient-"
    return f"{prefix}{(start + number * 618_033_989) % 10**9:09d}"


_PARTICLES: Final = frozenset(("D", "DA", "DE", "DES", "DO", "DOS", "DU", "L", "LA"))


def _letters(name: str) -> str:
    """The coarsest form in which two names may be taken for one another."""
    words = "".join(one if one.isalnum() else " " for one in without_accents(name).upper()).split()
    return "".join(word for word in words if word not in _PARTICLES) or "".join(words)
