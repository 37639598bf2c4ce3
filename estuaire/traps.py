"""A labelled set for linkage: a made-up population as several sources record it, with what makes linkage go wrong.

Every record says whose it is and what is difficult about it: the corruption (`day-month-swapped`), and the relation to
somebody else in the set (`relative:twin`). Everything follows from the seed.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from estuaire.population import CHU, DAY, Identity, Person, ben_nir_psa, identity, population, without_accents

CLINIC: Final = "350000099"
"""The FINESS number that stands for a second hospital, whose numbers look like those of the first."""
LABORATORY: Final = "laboratory"
INSURANCE: Final = "insurance"
SOURCES: Final = {
    CHU: "urn:estuaire:producer:chu-rennes",
    CLINIC: "urn:estuaire:producer:clinique-saint-malo",
    LABORATORY: "urn:estuaire:producer:laboratoire",
    INSURANCE: "urn:estuaire:producer:cnam",
}
FILLER_NIR: Final = "1999999999999"
"""What a hurried desk types for a number that it does not have."""
RANKS: Final = "rang-gemellaire"
"""The scheme that twins' ranks count in."""
TIME: Final = "2025-06-01T08:00:00Z"


class LabelledRecord(NamedTuple):
    """An `identity.v1` event, the number of its person, and its labels."""

    event: dict[str, Any]
    person: str
    labels: tuple[str, ...]


class _Draft(NamedTuple):
    """What a source knows; `owner` is empty for the person it is written for."""

    source: str
    known: Identity
    labels: tuple[str, ...] = ()
    owner: str = ""


@dataclass(slots=True)
class _Someone:
    """A person of the set, the relation to another one of it, and what comes of that."""

    person: Person
    relation: str = ""
    mother: Person | None = None
    rank: int | None = None


def labelled(seed: int, people: int, records: int) -> Iterator[LabelledRecord]:
    """Exactly `records` records about `people` people, two each at least, in no particular order.

    A record of a fictitious identity is a person of its own. Raises ValueError for fewer than two records a person.
    """
    if records < 2 * people or people < 100:
        raise ValueError("a labelled set needs 100 people or more, and two records for each")
    rng = Random(f"traps {seed}")  # noqa: S311
    everyone = list(population(seed, people, around="35", assigners=(CHU, CLINIC)))
    known = _with_relatives(rng, everyone)
    more = [0] * people
    for number in rng.choices(range(people), k=records - 2 * people):
        more[number] += 1
    drafts = [
        (draft, someone)
        for someone, further in zip(known, more, strict=True)
        for draft in _records_of(rng, someone, 2 + further, everyone)
    ]
    rng.shuffle(drafts)
    for number, (draft, someone) in enumerate(drafts):
        event = {
            "specversion": "1.0",
            "id": f"r{number:07d}",
            "source": SOURCES[draft.source],
            "type": "identity.v1",
            "time": TIME,
            "data": {"identity": draft.known},
        }
        relation = (f"relative:{someone.relation}",) if someone.relation else ()
        yield LabelledRecord(event, draft.owner or str(someone.person.number), (*draft.labels, *relation))


def write(records: Iterable[LabelledRecord], events: Path, truth: Path) -> None:
    """Write the events as NDJSON, and whose they are as CSV `source,id,person,trap`, labels joined by `;`."""
    with events.open("w", encoding="utf-8") as lines, truth.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("source", "id", "person", "trap"))
        for one in records:
            lines.write(json.dumps(one.event, ensure_ascii=False) + "\n")
            table.writerow((one.event["source"], one.event["id"], one.person, ";".join(one.labels)))


# --- relatives ---


def _with_relatives(rng: Random, people: Sequence[Person]) -> list[_Someone]:
    """The people, some of them made relatives (or homonyms) of the one before; a NIR is one person's alone."""
    found = [_Someone(person) for person in people]
    given_out = {person.nir for person in people}
    number = 0
    while number + 1 < len(found):
        first, second = found[number], found[number + 1]
        kind = rng.choices(("", "twin", "parent", "homonym", "mother"), (92, 2.5, 2, 2, 1.5))[0]
        made = _RELATIVES[kind](rng, first.person, second.person) if kind else None
        if made is not None and made.nir not in given_out:
            given_out.add(made.nir)
            first.relation = second.relation = kind
            second.person = made
            if kind == "mother":
                second.mother = first.person
            if kind == "twin" and rng.random() < 0.5:
                first.rank, second.rank = 1, 2
            number += 1
        number += 1
    return found


def _twin(rng: Random, one: Person, other: Person) -> Person | None:
    """Born the same day to the same parents; of the same sex and on the same insured number, mostly."""
    same_sex = rng.random() < 0.6
    sex = one.sex if same_sex else ("female" if one.sex == "male" else "male")
    given = other.given_names if sex == other.sex else None
    if given is None or given[0] == one.given_names[0]:
        return None
    return replace(
        other,
        sex=sex,
        birth_family_name=one.birth_family_name,
        used_family_name=one.birth_family_name,
        given_names=given,
        birth_date=one.birth_date,
        birth_place=one.birth_place,
        nir=_nir_beside(one.nir, sex),
        insured_nir=one.insured_nir if one.insured_nir != one.nir else _nir_beside(one.nir, sex),
        residence=one.residence if rng.random() < 0.7 else other.residence,
    )


def _son(rng: Random, one: Person, other: Person) -> Person | None:
    """A son of his father's names, still at home; or a daughter of her mother's."""
    born = one.birth_date + dt.timedelta(days=rng.randrange(22 * 365, 38 * 365))
    if born >= DAY:
        return None
    namesake = _namesake(rng, one, other, born)
    return replace(namesake, residence=one.residence if rng.random() < 0.7 else other.residence)


def _homonym(rng: Random, one: Person, other: Person) -> Person | None:
    """A stranger of the same names, born the same day elsewhere."""
    return None if other.birth_place == one.birth_place else _namesake(rng, one, other, one.birth_date)


def _namesake(rng: Random, one: Person, other: Person, born: dt.date) -> Person:
    """The other, with the sex, family name and first given name of the one, and a number to fit."""
    nir = f"{one.nir[0]}{born:%y%m}{other.birth_place}{rng.randrange(1, 1000):03d}"
    return replace(
        other,
        sex=one.sex,
        birth_family_name=one.birth_family_name,
        used_family_name=one.birth_family_name,
        given_names=(one.given_names[0], *other.given_names[1:]),
        birth_date=born,
        nir=nir,
        insured_nir=nir,
    )


def _newborn(rng: Random, one: Person, other: Person) -> Person | None:
    """A child of a few months, on its mother's number."""
    born = DAY - dt.timedelta(days=rng.randrange(1, 300))
    if one.sex != "female" or not 17 < one.age(born) < 45:
        return None
    nir = f"{'12'[other.sex == 'female']}{born:%y%m}{other.birth_place}{rng.randrange(1, 1000):03d}"
    return replace(
        other,
        birth_family_name=one.used_family_name,
        used_family_name=one.used_family_name,
        birth_date=born,
        nir=nir,
        insured_nir=one.nir,
        residence=one.residence,
    )


_RELATIVES: Final[Mapping[str, Callable[[Random, Person, Person], Person | None]]] = {
    "twin": _twin,
    "parent": _son,
    "homonym": _homonym,
    "mother": _newborn,
}


def _nir_beside(nir: str, sex: str) -> str:
    """The number that the register gives out next, at the same place in the same month."""
    return f"{'12'[sex == 'female']}{nir[1:10]}{(int(nir[10:]) + 1) % 1000:03d}"


# --- records ---


def _records_of(rng: Random, someone: _Someone, count: int, everyone: Sequence[Person]) -> list[_Draft]:
    """So many records of a person: the plain ones, and those of one trap for about half of the people."""
    person = someone.person
    drafts = _relations_own(rng, someone)[:count]
    if not drafts and rng.random() < 0.55:
        name = rng.choice(tuple(TRAPS))
        drafts = [draft._replace(labels=(*draft.labels, name)) for draft in TRAPS[name](rng, person, everyone)][:count]
    while len(drafts) < count:
        is_known = any("ward" in draft.labels for draft in drafts)
        kind = "ward" if not is_known and rng.random() < 0.5 else rng.choice(tuple(_KINDS))
        drafts.append(_Draft(*_KINDS[kind](rng, person), ("ward",) if kind == "ward" else ()))
    return [
        _moved(rng, draft, everyone)._replace(labels=tuple(one for one in draft.labels if one != "ward"))
        for draft in drafts
    ]


def _ward(rng: Random, person: Person) -> tuple[str, Identity]:
    hospital = rng.choice((CHU, CLINIC))
    return hospital, identity(person, "hospital", assigner=hospital)


def _emergency(rng: Random, person: Person) -> tuple[str, Identity]:
    hospital = rng.choice((CHU, CLINIC))
    number = {"system": "ipp", "assigner": hospital, "value": person.ipp(hospital)}
    return hospital, {"identifiers": [number], **identity(person, "provisional")}


def _laboratory(rng: Random, person: Person) -> tuple[str, Identity]:
    known = identity(person, "provisional")
    if rng.random() < 0.1:
        del known["birth_place"]
    return LABORATORY, known


def _claim(_rng: Random, person: Person) -> tuple[str, Identity]:
    return INSURANCE, identity(person, "insurance")


_KINDS: Final = {"ward": _ward, "emergency": _emergency, "laboratory": _laboratory, "claim": _claim}


def _moved(rng: Random, draft: _Draft, everyone: Sequence[Person]) -> _Draft:
    """One in eight records has another residence of the person, one in twenty none."""
    if "residence" not in draft.known or draft.owner:
        return draft
    chance = rng.random()
    if chance < 0.05:
        return draft._replace(known={name: value for name, value in draft.known.items() if name != "residence"})
    if chance < 0.17:
        home = identity(rng.choice(everyone), "provisional")["residence"]
        return draft._replace(known=draft.known | {"residence": home})
    return draft


def _relations_own(rng: Random, someone: _Someone) -> list[_Draft]:
    """The records that are difficult because of the relative."""
    person = someone.person
    hospital = rng.choice((CHU, CLINIC))
    ward = _Draft(hospital, identity(person, "hospital", assigner=hospital))
    plain = identity(person, "provisional")
    ipp = {"system": "ipp", "assigner": hospital, "value": person.ipp(hospital)}
    if someone.mother is not None:
        unnamed = {name: value for name, value in plain.items() if name not in ("given_names", "used_family_name")}
        nir = {"system": "ins-nir", "value": someone.mother.nir_with_key}
        opener = {"system": "nir-opener", "value": someone.mother.nir, "rank": 1}
        return [
            _Draft(hospital, {"identifiers": [nir, ipp], **unnamed}, ("mothers-nir",)),
            _Draft(hospital, {"identifiers": [ipp], **unnamed}, ("newborn-without-given-name",)),
            ward,
            _Draft(hospital, {"identifiers": [opener], **plain}, ("openers-number",)),
        ]
    if someone.relation == "twin":
        number = {"system": "ben-nir-psa", "value": ben_nir_psa(person.insured_nir, person.birth_date, person.sex)}
        if someone.rank is None:
            shared = {"identifiers": [number], **plain}
            return [_Draft(hospital, shared, ("twins-number-without-rank",)), ward]
        ranked = {**number, "rank": someone.rank, "scheme": RANKS}
        enrolled = identity(person, "insurance-enrolment")
        nir = {"system": "ins-nir", "value": person.nir}
        claim = identity(person, "insurance-pseudonym") | {"identifiers": [ranked]}
        return [
            _Draft(INSURANCE, claim, ("twins-number-with-rank",)),
            _Draft(INSURANCE, enrolled | {"identifiers": [nir, ranked]}, ("twins-number-with-rank",)),
            ward,
        ]
    if someone.relation:
        return [_Draft(LABORATORY, plain), ward] if rng.random() < 0.5 else [ward, _Draft(LABORATORY, plain)]
    return []


# --- traps ---

Trap = Callable[[Random, Person, Sequence[Person]], list[_Draft]]


def _on_traits(change: Callable[[Random, Person, Identity], Identity | None]) -> Trap:
    """One record, of a laboratory or an emergency room, with the change; none where there is nothing to change."""

    def drafts(rng: Random, person: Person, _everyone: Sequence[Person]) -> list[_Draft]:
        source, known = rng.choice((_laboratory, _emergency))(rng, person)
        changed = change(rng, person, known)
        return [] if changed is None else [_Draft(source, changed)]

    return drafts


def _married_name(_rng: Random, person: Person, known: Identity) -> Identity | None:
    if person.used_family_name == person.birth_family_name:
        return None
    kept = {name: value for name, value in known.items() if name != "used_family_name"}
    return kept | {"birth_family_name": person.used_family_name}


def _spelling(_rng: Random, person: Person, known: Identity) -> Identity | None:
    def plainly(name: str) -> str:
        return without_accents(name).upper().replace("-", " ").replace("'", " ")

    names = (person.birth_family_name, *person.given_names)
    if all(plainly(name) == name.upper() for name in names):
        return None
    return known | {
        "birth_family_name": plainly(person.birth_family_name),
        "given_names": [plainly(name) for name in person.given_names],
    }


def _particle(rng: Random, person: Person, known: Identity) -> Identity | None:
    first, _, rest = person.birth_family_name.partition(" ")
    if rest and first.upper() in ("LE", "LA", "DE", "DU", "DES"):
        return known | {"birth_family_name": rest}
    return known | {"birth_family_name": rng.choice(("de ", "du ", "Le ")) + person.birth_family_name}


def _given_swapped(_rng: Random, person: Person, known: Identity) -> Identity | None:
    return known | {"given_names": list(reversed(person.given_names))} if len(person.given_names) > 1 else None


def _given_missing(_rng: Random, _person: Person, known: Identity) -> Identity | None:
    return {name: value for name, value in known.items() if name != "given_names"}


def _letter_wrong(rng: Random, person: Person, known: Identity) -> Identity | None:
    name = person.birth_family_name
    at = rng.randrange(len(name))
    changed = rng.choice((name[:at] + name[at + 1 :], name[:at] + rng.choice("aeiourstln") + name[at + 1 :]))
    return known | {"birth_family_name": changed} if changed.strip() else None


def _born(date: dt.date) -> dict[str, object]:
    return {"birth_date": date.isoformat()}


def _day_month_swapped(_rng: Random, person: Person, known: Identity) -> Identity | None:
    born = person.birth_date
    if born.day > 12 or born.day == born.month:
        return None
    return known | _born(born.replace(month=born.day, day=born.month))


def _digit_wrong(rng: Random, person: Person, known: Identity) -> Identity | None:
    born = person.birth_date
    day = (born.day + rng.choice((1, 2, 3, 10)) - 1) % 28 + 1
    return known | _born(born.replace(day=day)) if day != born.day else None


def _year_off(rng: Random, person: Person, known: Identity) -> Identity | None:
    born = person.birth_date
    day = 28 if (born.month, born.day) == (2, 29) else born.day
    return known | _born(born.replace(year=born.year + rng.choice((-1, 1)), day=day))


def _sex_miscoded(_rng: Random, person: Person, known: Identity) -> Identity | None:
    return known | {"sex": "male" if person.sex == "female" else "female"}


def _birth_place_wrong(rng: Random, person: Person, known: Identity) -> Identity | None:
    if rng.random() < 0.5:
        return {name: value for name, value in known.items() if name != "birth_place"}
    return known | {"birth_place": "35238" if person.birth_place != "35238" else "75056"}


def _nir_digit_wrong(rng: Random, person: Person, known: Identity) -> Identity | None:
    wrong = f"{person.nir[:10]}{(int(person.nir[10:]) + rng.randrange(1, 999)) % 1000:03d}"
    return known | {"identifiers": [{"system": "ins-nir", "value": wrong}]}


def _filler(_rng: Random, _person: Person, known: Identity) -> Identity | None:
    numbers = known.get("identifiers", [])
    assert isinstance(numbers, list)
    return known | {"identifiers": [{"system": "ins-nir", "value": FILLER_NIR}, *numbers]}


def _fictitious(_rng: Random, person: Person, _everyone: Sequence[Person]) -> list[_Draft]:
    known = identity(person, "hospital") | {"identity_status": "fictitious"}
    return [_Draft(CHU, known, owner=f"fictitious-{person.number}")]


def _nia_then_nir(_rng: Random, person: Person, _everyone: Sequence[Person]) -> list[_Draft]:
    nia = {"system": "ins-nia", "value": f"{'78'[person.sex == 'female']}{person.nir[1:]}"}
    nir = {"system": "ins-nir", "value": person.nir_with_key}
    before = identity(person, "insurance") | {"identifiers": [nia]}
    both = identity(person, "provisional") | {"identifiers": [nia, nir], "identity_status": "qualified"}
    return [_Draft(CLINIC, both), _Draft(INSURANCE, before), _Draft(INSURANCE, identity(person, "insurance"))]


def _several_pseudo(rng: Random, person: Person, everyone: Sequence[Person]) -> list[_Draft]:
    """Insured by a parent first, then by themselves."""
    parent = rng.choice(everyone)
    first = {"system": "ben-nir-psa", "value": ben_nir_psa(parent.nir, person.birth_date, person.sex)}
    then = {"system": "nir-ano-17", "value": ben_nir_psa(person.nir, person.birth_date, person.sex)}
    nir = {"system": "ins-nir", "value": person.nir}
    known = identity(person, "insurance")
    return [
        _Draft(INSURANCE, known | {"identifiers": [first, nir]}),
        _Draft(INSURANCE, known | {"identifiers": [then, nir]}),
        _Draft(INSURANCE, known | {"identifiers": [first]}),
        _Draft(INSURANCE, known | {"identifiers": [then]}),
    ]


def _openers_number(_rng: Random, person: Person, _everyone: Sequence[Person]) -> list[_Draft]:
    number = {"system": "nir-opener", "value": person.insured_nir, "rank": 1}
    known = identity(person, "provisional") | {"identifiers": [number]}
    return [_Draft(CHU, known), _Draft(CHU, known)]


def _look_alike(rng: Random, person: Person, everyone: Sequence[Person]) -> list[_Draft]:
    """The second hospital's number of this person is the first's of another."""
    other = rng.choice(everyone)
    number = {"system": "ipp", "assigner": CLINIC, "value": other.ipp(CHU)}
    return [_Draft(CLINIC, {"identifiers": [number], **identity(person, "provisional")})]


TRAPS: Final[Mapping[str, Trap]] = {
    "married-name": _on_traits(_married_name),
    "hyphens-and-accents": _on_traits(_spelling),
    "particle": _on_traits(_particle),
    "given-names-swapped": _on_traits(_given_swapped),
    "given-name-missing": _on_traits(_given_missing),
    "letter-wrong": _on_traits(_letter_wrong),
    "day-month-swapped": _on_traits(_day_month_swapped),
    "digit-wrong": _on_traits(_digit_wrong),
    "year-off-by-one": _on_traits(_year_off),
    "sex-miscoded": _on_traits(_sex_miscoded),
    "birth-place-missing-or-wrong": _on_traits(_birth_place_wrong),
    "nir-digit-wrong": _on_traits(_nir_digit_wrong),
    "filler-nir": _on_traits(_filler),
    "fictitious": _fictitious,
    "nia-then-nir": _nia_then_nir,
    "several-pseudo-nirs": _several_pseudo,
    "openers-number": _openers_number,
    "look-alike-ipp": _look_alike,
}
"""What makes a record difficult by itself. (`mothers-nir`, `newborn-without-given-name` and `twins-number-…` come with
the relation.)"""
