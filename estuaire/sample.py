"""The demo's own sample: three producers and their people, with the troubles that producers have, all of it counted."""

from __future__ import annotations

import base64
import copy
import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Any, Final, Literal, NamedTuple

from estuaire.population import (
    CHU,
    DEVICE_MAKER,
    Corruption,
    Identity,
    Person,
    View,
    identity,
    population,
)

HOSPITAL: Final = "urn:estuaire:producer:chu-rennes"
INSURANCE: Final = "urn:estuaire:producer:cnam"
DEVICES: Final = DEVICE_MAKER
PREFIXES: Final = {HOSPITAL: "chu", INSURANCE: "cnam", DEVICES: "cts"}
"""How the ids of each source begin; a number of seven digits follows."""

BEGIN: Final = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
END: Final = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
"""Every event's time lies between the two."""

REPEATS: Final = 40
CORRECTIONS: Final = 10
RETRACTIONS: Final = 6
CONFLICTS: Final = 5

Kind = Literal["record", "repeat", "correction", "retraction", "conflict", "refused"]
Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SampleEvent:
    """One event, in the order in which its source sends it, and the truth about it.

    `person` is the person's number. `planted` are the strings that may not be found anywhere past ingest: every
    number, name, street, city and telephone number that the event carries. Birth dates stand there only as written
    in free text (12/05/1985): in ISO form they may equal a date of care.
    """

    source: str
    event: dict[str, object]
    person: int
    kind: Kind
    planted: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Whether ingest takes it."""
        return self.kind != "refused"


@dataclass(frozen=True, slots=True)
class SampleSummary:
    """What a hub that works makes of a sample: sent = accepted + rejected, accepted = linked + duplicates + conflicts.

    Corrections and retractions are among the linked; conflicts are dead-lettered.
    """

    sent: int
    accepted: int
    rejected: int
    linked: int
    duplicates: int
    conflicts: int
    corrections: int
    retractions: int
    patients: int


def sample(seed: int = 2026, people: int = 500, events: int = 6000) -> Iterator[SampleEvent]:
    """Exactly `events` events about exactly `people` people, the same for the same seed, in the order of sending.

    All accepted records of a person are connected by a NIR, a local number or the strict traits, and no two persons
    share one. A repeat, correction, retraction or conflict comes after its record, and no record has two of them.
    Raises ValueError for fewer than 50 people, or than six events a person and a hundred more.
    """
    if people < 50 or events < 6 * people + 100:
        raise ValueError("a sample needs 50 people or more, six events a person and a hundred more")
    rng = Random(f"sample {seed}")  # noqa: S311
    troubles = REPEATS + CORRECTIONS + RETRACTIONS + CONFLICTS + len(_FAULTS)
    sent = _numbered(_records(rng, list(population(seed, people, around="35")), events - troubles))
    sent += _troubles(rng, sent)
    for one in sorted(sent, key=lambda draft: draft.sent):
        yield SampleEvent(one.source, one.event, one.person.number, one.kind, tuple(sorted(one.planted)))


def sample_summary(seed: int = 2026, people: int = 500, events: int = 6000) -> SampleSummary:
    """What is to be expected of `sample` with the same arguments."""
    persons: set[int] = set()
    kinds: Counter[Kind] = Counter()
    for one in sample(seed, people, events):
        kinds[one.kind] += 1
        if one.accepted:
            persons.add(one.person)
    return SampleSummary(
        sent=kinds.total(),
        accepted=kinds.total() - kinds["refused"],
        rejected=kinds["refused"],
        linked=kinds["record"] + kinds["correction"] + kinds["retraction"],
        duplicates=kinds["repeat"],
        conflicts=kinds["conflict"],
        corrections=kinds["correction"],
        retractions=kinds["retraction"],
        patients=len(persons),
    )


# --- what happens to people ---


class _Disease(NamedTuple):
    """What brings people to hospital: ages, codes of PMSI (CIM-10, CCAM, GHM), treatment (ATC), results (LOINC)."""

    ages: range
    diagnosis: str
    associated: tuple[str, ...]
    acts: tuple[str, ...]
    ghm: str
    unit: str
    days: int
    atc: tuple[str, ...]
    results: tuple[str, ...]
    weight: int = 1
    women_only: bool = False


_DISEASES: Final = (
    _Disease(
        range(55, 111), "I500", ("I10", "E119"), ("DEQP003", "DZQM006"), "05M092", "03", 8,
        ("C03CA01", "C09AA05", "C07AB07"), ("33762-6", "8867-4", "2823-3"), 4,
    ),
    _Disease(
        range(60, 111), "I489", ("I10",), ("DEQP003",), "05M082", "03", 3,
        ("B01AF02", "C07AB07"), ("8867-4", "8480-6"), 3,
    ),
    _Disease(
        range(45, 100), "I219", ("E780", "F171"), ("DDAF006", "DEQP003"), "05K051", "01", 5,
        ("B01AC06", "C10AA05", "C07AB07"), ("6598-7", "8867-4"), 2,
    ),
    _Disease(range(65, 111), "I442", ("I10",), ("DELF005",), "05C152", "03", 3, ("B01AC06",), ("8867-4",), 1),
    _Disease(
        range(35, 100), "E119", ("I10", "E669"), ("BZQK001",), "10M162", "03", 4,
        ("A10BA02", "C10AA05"), ("4548-4", "2345-7"), 3,
    ),
    _Disease(
        range(0, 111), "J189", ("J960",), ("ZBQK002",), "04M052", "03", 7,
        ("J01CA04", "N02BE01"), ("1988-5", "59408-5", "8310-5"), 3,
    ),
    _Disease(range(50, 111), "J440", ("F171",), ("ZBQK002",), "04M082", "03", 9, ("R03AC02",), ("59408-5",), 2),
    _Disease(range(0, 30), "J459", (), ("GLQP012",), "04M032", "03", 2, ("R03AC02", "R03BA05"), ("59408-5",), 3),
    _Disease(range(0, 3), "J210", (), (), "04M182", "03", 3, ("N02BE01",), ("59408-5", "8310-5"), 8),
    _Disease(range(5, 60), "K358", (), ("HHFA016",), "06C091", "03", 3, ("J01CA04", "N02BE01"), ("1988-5",), 2),
    _Disease(range(70, 111), "S7200", ("M819",), ("NEKA020",), "08C472", "03", 11, ("N02BE01",), ("718-7",), 3),
    _Disease(range(60, 95), "H259", (), ("BFGA004",), "02C05J", "03", 0, ("S01BC03",), (), 3),
    _Disease(
        range(20, 43), "O800", ("Z370",), ("JQGD010",), "14Z14A", "03", 4,
        ("N02BE01",), ("718-7", "8480-6"), 8, women_only=True,
    ),
    _Disease(range(50, 100), "I639", ("I10",), ("ACQK001",), "01M302", "03", 9, ("B01AC06",), ("8480-6",), 2),
    _Disease(range(55, 90), "M171", (), ("NFKA007",), "08C242", "03", 6, ("N02BE01",), ("718-7",), 2),
    _Disease(range(18, 100), "N183", ("I10",), (), "11M041", "03", 4, ("C09AA05",), ("14682-9", "2823-3"), 1),
)  # fmt: skip

_UNITS: Final = {
    # LOINC: UCUM unit, lowest and highest value, decimals
    "8867-4": ("/min", 48, 118, 0),
    "8480-6": ("mm[Hg]", 98, 178, 0),
    "8462-4": ("mm[Hg]", 55, 104, 0),
    "29463-7": ("kg", 42, 118, 1),
    "8310-5": ("Cel", 36, 40, 1),
    "59408-5": ("%", 86, 100, 0),
    "4548-4": ("%", 5, 11, 1),
    "2345-7": ("mg/dL", 65, 260, 0),
    "14682-9": ("umol/L", 45, 320, 0),
    "2823-3": ("mmol/L", 3, 6, 1),
    "718-7": ("g/dL", 8, 17, 1),
    "33762-6": ("pg/mL", 120, 9000, 0),
    "6598-7": ("ug/L", 0, 4, 2),
    "1988-5": ("mg/L", 1, 240, 0),
}
_VITAL_SIGNS: Final = frozenset(("8867-4", "8480-6", "8462-4", "29463-7", "8310-5", "59408-5"))
_DEVICES: Final = (
    ("pacemaker", ("8867-4",)),
    ("implantable-defibrillator", ("8867-4",)),
    ("blood-pressure-monitor", ("8480-6", "8462-4", "8867-4")),
    ("weighing-scale", ("29463-7",)),
    ("pulse-oximeter", ("59408-5", "8867-4")),
)
_VACCINES: Final = ("J07BB02", "J07BN01", "J07AL02", "J07BD52", "J07AJ52")
_REPORTS: Final = ("18842-5", "11502-2", "34552-0")
_EVERYDAY: Final = ("N02BE01", "A02BC02", "H03AA01", "N06AB06", "C09AA05", "C10AA05", "J01CA04", "M01AE01", "R06AE07")
_CCAM: Final = "https://smt.esante.gouv.fr/terminologie-ccam"
_ATC: Final = "http://www.whocc.no/atc"
_ICD10: Final = "http://hl7.org/fhir/sid/icd-10"
_LOINC: Final = "http://loinc.org"
_UCUM: Final = "http://unitsofmeasure.org"
_HL7: Final = "http://terminology.hl7.org/CodeSystem"


def cip13(body: str) -> str:
    """A CIP13 from its first 12 digits: the EAN-13 check digit added (GS1 General Specifications, section 7.9)."""
    return body + str(-sum(int(digit) * (1 + place % 2 * 2) for place, digit in enumerate(body)) % 10)


_PACKAGES: Final = {
    atc: cip13(f"34009{3_000_001 + 13_577 * place}")
    for place, atc in enumerate(sorted({*_EVERYDAY, *(atc for disease in _DISEASES for atc in disease.atc)}))
}
"""A made-up package of each medicine."""

_SPELLINGS: Final[tuple[tuple[Corruption, ...], ...]] = (
    ("no-accents",),
    ("no-hyphens",),
    ("upper-case",),
    ("first-given-name-only",),
    ("no-accents", "no-hyphens", "upper-case"),
    ("first-given-name-only", "upper-case"),
)
"""How a hospital may write a name on another day."""

_Found = tuple[dt.datetime, str, Record]
"""When a record is sent, its type, and itself."""


@dataclass(slots=True)
class _Draft:
    sent: dt.datetime
    source: str
    type: str
    person: Person
    data: dict[str, Any]
    planted: set[str]
    anchor: bool = False
    kind: Kind = "record"
    event: dict[str, Any] = field(default_factory=dict)


def _records(rng: Random, persons: Sequence[Person], wanted: int) -> list[_Draft]:
    """`wanted` records, by time of sending. A source's first words on a person hold all it knows: the anchor."""
    sources = [_sources(rng, person) for person in persons]
    last = [END] * len(persons)
    deaths = _deaths(rng, persons, sources)
    counts = [Counter(dict.fromkeys(known, 1)) for known in sources]
    for place in deaths:
        last[place] = deaths[place]
    enrolled = sum(DEVICES in known for known in sources)
    left = wanted - sum(count.total() for count in counts) - enrolled - len(deaths)
    busy = [(1 + persons[place].age(BEGIN.date()) / 25) * rng.expovariate(1) ** 0.7 for place in range(len(persons))]
    for place in rng.choices(range(len(persons)), busy, k=left):
        counts[place][rng.choice(sources[place])] += 1
    drafts: list[_Draft] = []
    for place, person in enumerate(persons):
        for source in sources[place]:
            drafts += _history(rng, person, source, counts[place][source], last[place])
        if place in deaths:
            drafts.append(_death(rng, person, deaths[place]))
    return sorted(drafts, key=lambda draft: draft.sent)


def _sources(rng: Random, person: Person) -> list[str]:
    known = list(rng.choices(((HOSPITAL, INSURANCE), (HOSPITAL,), (INSURANCE,)), (78, 12, 10))[0])
    if HOSPITAL in known and rng.random() < (0.4 if person.age(BEGIN.date()) >= 50 else 0.1):
        known.append(DEVICES)
    return known


def _deaths(rng: Random, persons: Sequence[Person], sources: Sequence[Sequence[str]]) -> dict[int, dt.datetime]:
    """Who dies, and when: about one in fifty, of the old whom insurance knows."""
    old = [
        place for place in range(len(persons)) if INSURANCE in sources[place] and persons[place].age(END.date()) > 64
    ]
    dying = sorted(rng.sample(old, min(len(old), 1 + len(persons) // 50)))
    return {place: _between(rng, BEGIN + dt.timedelta(days=200), END - dt.timedelta(days=20)) for place in dying}


def _history(rng: Random, person: Person, source: str, number: int, last: dt.datetime) -> list[_Draft]:
    """So many records of a person from one source, by time, the first with all that it knows.

    The device maker's are preceded by an identity."""
    tell = {HOSPITAL: _in_hospital, INSURANCE: _at_home, DEVICES: _measured}[source]
    found = sorted(islice(tell(rng, person, last), number), key=lambda one: one[0])
    if source == DEVICES:
        found.insert(0, (found[0][0] - dt.timedelta(minutes=rng.randrange(5, 3000)), "identity.v1", {}))
    drafts: list[_Draft] = []
    by_pseudonym = source == INSURANCE and rng.random() < 0.5
    for place, (sent, kind, record) in enumerate(found):
        if source == HOSPITAL:
            known = _as_hospital(rng, person, first=place == 0)
        elif source == INSURANCE:
            known = identity(person, _insurance_view(rng, by_pseudonym, first=place == 0))
        else:
            known = identity(person, "device-enrolment" if place == 0 else "device")
        planted = identity_strings(known)
        if source == HOSPITAL and "resourceType" in record and rng.random() < 0.55:
            planted |= _careless(rng, person, record)
        data = {"identity": known, "record": record} if record else {"identity": known}
        drafts.append(_Draft(sent, source, kind, person, data, planted, anchor=place == 0))
    return drafts


def _as_hospital(rng: Random, person: Person, *, first: bool) -> Identity:
    if first:
        return identity(person, "hospital")
    spelling = rng.choice(_SPELLINGS) if rng.random() < 0.3 else ()
    if rng.random() < 0.1:
        return identity(person, "provisional", corruptions=spelling)
    if rng.random() < 0.1:
        spelling = ("married-name", *spelling)
    return identity(person, "hospital", corruptions=spelling)


def _insurance_view(rng: Random, by_pseudonym: bool, *, first: bool) -> View:
    if not by_pseudonym:
        return "insurance"
    return "insurance-enrolment" if first or rng.random() < 0.1 else "insurance-pseudonym"


def _in_hospital(rng: Random, person: Person, last: dt.datetime) -> Iterator[_Found]:
    """Stays and what is done in them, for ever, in no order; vaccinations between."""
    while True:
        entry = _between(rng, BEGIN, last - dt.timedelta(days=14))
        if rng.random() < 0.2:
            yield entry, "immunization.v1", _immunization(rng, entry)
            continue
        disease = _disease(rng, person)
        leaving = min(last, entry + dt.timedelta(days=disease.days and rng.randint(1, 2 * disease.days), hours=5))
        parts = [
            (leaving, "hospital-stay.v1", _stay(rng, disease, entry, leaving, died=leaving == last < END)),
            (_between(rng, entry, leaving), "diagnosis.v1", _diagnosis(disease, entry)),
            *((at, "hospital-act.v1", _act(act, at)) for act in disease.acts if (at := _between(rng, entry, leaving))),
            *(
                (at, "observation.v1", _observation(rng, result, at))
                for result in disease.results
                if (at := _between(rng, entry, leaving))
            ),
            (leaving, "report.v1", _report(rng, disease, leaving)),
        ]
        if disease.acts:
            at = _between(rng, entry, leaving)
            parts.append((at, "procedure.v1", _procedure(disease.acts[0], at)))
        rng.shuffle(parts)
        yield from parts


def _at_home(rng: Random, _: Person, last: dt.datetime) -> Iterator[_Found]:
    """Visits to doctors and pharmacies as insurance pays them, some days later."""
    usual = rng.sample(_EVERYDAY, 3)
    while True:
        care = _between(rng, BEGIN, last - dt.timedelta(days=12))
        specialist = rng.random() < 0.3
        paid = 55.0 if specialist else 26.5 if care < dt.datetime(2024, 12, 22, tzinfo=dt.UTC) else 30.0
        claim: Record = {
            "care_date": _day(care),
            "nature": "1112" if specialist else "1111",
            "quantity": 1,
            "amount_paid": paid,
            "amount_reimbursed": round(paid * 0.7 - 2, 2),
            "specialty": rng.choice(("03", "05", "13", "15")) if specialist else "01",
        }
        if specialist and claim["specialty"] == "03":
            claim |= {"nature": "1321", "act": "DEQP003"}
        yield _later(rng, care), "claim.v1", claim
        for atc in rng.sample(usual, rng.randint(1, 2)):
            bought = care + dt.timedelta(days=rng.randrange(3))
            dispensation = {
                "date": _day(bought),
                "cip13": _PACKAGES[atc],
                "atc": atc,
                "quantity": rng.randint(1, 3),
                "amount_reimbursed": round(rng.uniform(1, 40), 2),
            }
            yield _later(rng, bought), "dispensation.v1", dispensation


def _measured(rng: Random, _: Person, last: dt.datetime) -> Iterator[_Found]:
    """A device that reports at night, from the day it was given out."""
    kind, metrics = rng.choice(_DEVICES)
    begin = _between(rng, BEGIN + dt.timedelta(days=3), last - dt.timedelta(days=60))
    while True:
        measured = _between(rng, begin, last).replace(hour=3, second=0)
        measured = min(measured, last - dt.timedelta(minutes=5))
        metric = rng.choice(metrics)
        record = {
            "device_kind": kind,
            "metric": {"system": _LOINC, "code": metric},
            "value": _value(rng, metric),
            "unit": _UNITS[metric][0],
            "measured": _moment(measured),
        }
        yield measured + dt.timedelta(seconds=rng.randrange(20, 300)), "device-measure.v1", record


def _death(rng: Random, person: Person, died: dt.datetime) -> _Draft:
    record = {"date": _day(died), "commune": person.residence.commune, "causes": [_disease(rng, person).diagnosis]}
    known = identity(person, "insurance")
    sent = died + dt.timedelta(days=rng.randrange(3, 18))
    return _Draft(sent, INSURANCE, "death.v1", person, {"identity": known, "record": record}, identity_strings(known))


def _disease(rng: Random, person: Person) -> _Disease:
    age = person.age(END.date())
    possible = [one for one in _DISEASES if age in one.ages and (person.sex == "female" or not one.women_only)]
    return rng.choices(possible, [one.weight for one in possible])[0]


def _between(rng: Random, first: dt.datetime, last: dt.datetime) -> dt.datetime:
    return first + dt.timedelta(seconds=rng.randrange(max(1, int((last - first).total_seconds()))))


def _later(rng: Random, care: dt.datetime) -> dt.datetime:
    return care + dt.timedelta(days=rng.randrange(1, 9), minutes=rng.randrange(600))


def _day(moment: dt.datetime) -> str:
    return moment.date().isoformat()


def _moment(moment: dt.datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


# --- records ---


def _stay(rng: Random, disease: _Disease, entry: dt.datetime, leaving: dt.datetime, *, died: bool) -> Record:
    record: Record = {
        "entry": _day(entry),
        "exit": _day(leaving),
        "entry_mode": "8",
        "exit_mode": "9" if died else rng.choices(("8", "6", "7"), (85, 10, 5))[0],
        "principal_diagnosis": disease.diagnosis,
        "units": [{"code": disease.unit, "entry": _day(entry), "exit": _day(leaving)}],
        "ghm": disease.ghm,
        "finess": CHU,
    }
    if disease.acts:
        record["acts"] = [{"code": act, "date": _day(_between(rng, entry, leaving))} for act in disease.acts]
    if disease.associated:
        record["associated_diagnoses"] = list(disease.associated)
    if disease.associated and rng.random() < 0.2:
        record["related_diagnosis"] = disease.associated[0]
    return record


def _act(code: str, at: dt.datetime) -> Record:
    return {"code": code, "date": _day(at), "activity": "1", "phase": "0", "finess": CHU}


def _coded(system: str, code: str) -> Record:
    return {"coding": [{"system": system, "code": code}]}


def _icd10(code: str) -> Record:
    """PMSI writes the code without its dot."""
    return _coded(_ICD10, f"{code[:3]}.{code[3:]}" if code[3:] else code)


def _diagnosis(disease: _Disease, entry: dt.datetime) -> Record:
    return {
        "resourceType": "Condition",
        "clinicalStatus": _coded(f"{_HL7}/condition-clinical", "active"),
        "code": _icd10(disease.diagnosis),
        "onsetDateTime": _day(entry),
    }


def _observation(rng: Random, metric: str, at: dt.datetime) -> Record:
    unit = _UNITS[metric][0]
    category = "vital-signs" if metric in _VITAL_SIGNS else "laboratory"
    return {
        "resourceType": "Observation",
        "status": "final",
        "category": [_coded(f"{_HL7}/observation-category", category)],
        "code": _coded(_LOINC, metric),
        "effectiveDateTime": _moment(at),
        "valueQuantity": {"value": _value(rng, metric), "unit": unit, "system": _UCUM, "code": unit},
    }


def _value(rng: Random, metric: str) -> float | int:
    _, lowest, highest, decimals = _UNITS[metric]
    return round(rng.uniform(lowest, highest), decimals) if decimals else rng.randint(lowest, highest)


def _procedure(act: str, at: dt.datetime) -> Record:
    return {
        "resourceType": "Procedure",
        "status": "completed",
        "code": _coded(_CCAM, act),
        "performedDateTime": _moment(at),
    }


def _immunization(rng: Random, at: dt.datetime) -> Record:
    return {
        "resourceType": "Immunization",
        "status": "completed",
        "vaccineCode": _coded(_ATC, rng.choice(_VACCINES)),
        "occurrenceDateTime": _day(at),
        "lotNumber": f"LOT{rng.randrange(10**6):06d}",
    }


def _report(rng: Random, disease: _Disease, at: dt.datetime) -> Record:
    return {
        "resourceType": "DiagnosticReport",
        "status": "final",
        "code": _coded(_LOINC, rng.choice(_REPORTS)),
        "effectiveDateTime": _moment(at),
        "conclusionCode": [_icd10(disease.diagnosis)],
    }


# --- identities, and where they should not be ---

_NOT_NAMING: Final = frozenset(
    ("system", "assigner", "identity_status", "sex", "birth_date", "birth_place", "postcode", "commune")
)


def identity_strings(known: object) -> set[str]:
    """Every string of an identity that can name its person: numbers (a NIR also without its key), names, residence."""
    if isinstance(known, str):
        return {known}
    if isinstance(known, list):
        return {text for one in known for text in identity_strings(one)}
    if not isinstance(known, dict):
        return set()
    strings = {text for name, one in known.items() if name not in _NOT_NAMING for text in identity_strings(one)}
    return strings | {known["value"][:13]} if known.get("system") == "ins-nir" else strings


def _careless(rng: Random, person: Person, record: Record) -> set[str]:
    """Leave in a FHIR resource what a careless hospital would; the strings that name the person."""
    name = f"{person.used_family_name.upper()} {person.given_names[0]}"
    born = f"{person.birth_date:%d/%m/%Y}"
    title = "Mme" if person.sex == "female" else "M."
    number = person.nir_with_key
    spaced = " ".join((number[0], number[1:3], number[3:5], number[5:7], number[7:10], number[10:13], number[13:]))
    home = person.residence
    letter = f"{title} {name}, {born}, {home.address}, {home.postcode} {home.city}"
    free_text: list[tuple[set[str], Record]] = [
        ({name, person.phone}, {"note": [{"text": f"{title} {name}, tel {person.phone}"}]}),
        ({name, born}, {"note": [{"text": f"Vu ce jour {title} {name}, né(e) le {born}, accord oral."}]}),
        (
            {name, home.address, home.city, spaced},
            {
                "text": {
                    "status": "generated",
                    "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{title} {name}, {home.address}, {home.city}, '
                    f"NIR {spaced}</div>",
                }
            },
        ),
        ({name, person.ipp(CHU)}, {"subject": {"reference": f"Patient/{person.ipp(CHU)}", "display": name}}),
    ]
    if record["resourceType"] == "DiagnosticReport":
        letter_form = {"contentType": "text/plain", "data": base64.b64encode(letter.encode()).decode()}
        free_text = [
            ({name, person.phone}, {"conclusion": f"{title} {name} va bien. Rappeler au {person.phone}."}),
            ({name, born, home.address, home.city}, {"presentedForm": [letter_form]}),
            *free_text[2:],
        ]
    planted: set[str] = set()
    for strings, elements in rng.sample(free_text, rng.randint(1, 2)):
        planted |= strings
        for place, element in elements.items():
            record[place] = [*record.get(place, []), *element] if isinstance(element, list) else element
    return planted


# --- troubles ---


def _numbered(drafts: list[_Draft]) -> list[_Draft]:
    """The drafts, each with its event; ids follow the order of sending within a source."""
    numbers: Counter[str] = Counter()
    for draft in drafts:
        numbers[draft.source] += 1
        draft.event = {
            "specversion": "1.0",
            "id": f"{PREFIXES[draft.source]}-{numbers[draft.source]:07d}",
            "source": draft.source,
            "type": draft.type,
            "time": _moment(draft.sent),
            "datacontenttype": "application/json",
            "data": draft.data,
        }
    return drafts


def _troubles(rng: Random, drafts: Sequence[_Draft]) -> list[_Draft]:
    """Repeats, corrections, retractions, conflicts and faulty events, each from a record of its own."""
    latest = END - dt.timedelta(days=40)
    able = [one for one in drafts if not one.anchor and one.type != "death.v1" and one.sent < latest]
    changed = rng.sample([one for one in able if one.type in _REVISIONS], CORRECTIONS + CONFLICTS)
    untouched = {id(one) for one in changed}
    others = rng.sample([one for one in able if id(one) not in untouched], REPEATS + RETRACTIONS)
    return [
        *(_again(rng, one, "correction", version=place % 2) for place, one in enumerate(changed[:CORRECTIONS])),
        *(_again(rng, one, "conflict") for one in changed[CORRECTIONS:]),
        *(_again(rng, one, "repeat") for one in others[:REPEATS]),
        *(_again(rng, one, "retraction") for one in others[REPEATS:]),
        *_faulty(rng, drafts),
    ]


def _again(rng: Random, draft: _Draft, kind: Kind, *, version: int = 0) -> _Draft:
    """A further event on the same record, sent up to a month later."""
    event = copy.deepcopy(draft.event)
    sent = draft.sent + dt.timedelta(seconds=rng.choice((1, 60, 3600, 86_400)) * rng.randint(1, 30))
    if kind in ("correction", "conflict"):
        _REVISIONS[draft.type](event["data"]["record"])
    if kind == "correction":
        event |= {"time": _moment(sent), "correction": True}
    if version:
        event["version"] = version
    if kind == "retraction":
        event |= {"type": f"{draft.type}.deleted", "time": _moment(sent)}
        del event["data"]["record"]
    planted = identity_strings(event["data"]["identity"]) if kind == "retraction" else draft.planted
    return _Draft(sent, draft.source, event["type"], draft.person, event["data"], planted, kind=kind, event=event)


def _revise_stay(record: Record) -> None:
    record["associated_diagnoses"] = [*record.get("associated_diagnoses", ()), "Z602"]


def _revise_claim(record: Record) -> None:
    record["amount_reimbursed"] = record["amount_paid"]


def _revise_dispensation(record: Record) -> None:
    record["quantity"] += 1


def _revise_observation(record: Record) -> None:
    record["valueQuantity"]["value"] += 1


def _revise_measure(record: Record) -> None:
    record["value"] += 1


_REVISIONS: Final[dict[str, Callable[[Record], None]]] = {
    "hospital-stay.v1": _revise_stay,
    "claim.v1": _revise_claim,
    "dispensation.v1": _revise_dispensation,
    "observation.v1": _revise_observation,
    "device-measure.v1": _revise_measure,
}
"""How a second version of a record of each type differs from the first."""


def _faulty(rng: Random, drafts: Sequence[_Draft]) -> Iterator[_Draft]:
    """One event for each of the faults, under an id that no other has."""
    with_nir = [one for one in drafts if any(it["system"] == "ins-nir" for it in _numbers(one.event))]
    for place, (kind, spoil) in enumerate(_FAULTS):
        model = rng.choice([one for one in with_nir if one.type == kind])
        event = copy.deepcopy(model.event)
        event["id"] = f"{PREFIXES[model.source]}-{9_000_000 + place}"
        spoil(event)
        planted = model.planted - identity_strings(model.data["identity"]) | identity_strings(event["data"]["identity"])
        yield _Draft(model.sent, model.source, kind, model.person, event["data"], planted, kind="refused", event=event)


def _numbers(event: Record) -> list[dict[str, str]]:
    numbers: list[dict[str, str]] = event["data"]["identity"].get("identifiers", [])
    return numbers


def _wrong_key(event: Record) -> None:
    nir = next(one for one in _numbers(event) if one["system"] == "ins-nir")
    nir["value"] = f"{nir['value'][:13]}{int(nir['value'][13:]) % 97 + 1:02d}"


def _short_nir(event: Record) -> None:
    number = next(one for one in _numbers(event) if one["system"] == "ins-nir")
    number["value"] = number["value"][:12]


def _no_type(event: Record) -> None:
    del event["type"]


def _unknown_type(event: Record) -> None:
    event["type"] = "prescription.v1"


def _no_moment(event: Record) -> None:
    event["time"] = "01/03/2026 10:00"


def _no_such_birth_date(event: Record) -> None:
    event["data"]["identity"]["birth_date"] = event["data"]["identity"]["birth_date"][:4] + "-02-30"


def _no_such_care_date(event: Record) -> None:
    event["data"]["record"]["care_date"] = "2025-02-30"


def _no_record(event: Record) -> None:
    del event["data"]["record"]


def _unknown_field(event: Record) -> None:
    event["data"]["identity"]["phone"] = "06 39 98 00 00"


def _no_assigner(event: Record) -> None:
    for number in _numbers(event):
        number.pop("assigner", None)


_FAULTS: Final[tuple[tuple[str, Callable[[Record], None]], ...]] = (
    ("hospital-stay.v1", _wrong_key),
    ("observation.v1", _unknown_type),
    ("diagnosis.v1", _no_moment),
    ("report.v1", _no_such_birth_date),
    ("hospital-stay.v1", _unknown_field),
    ("claim.v1", _short_nir),
    ("claim.v1", _no_such_care_date),
    ("dispensation.v1", _no_type),
    ("claim.v1", _no_record),
    ("identity.v1", _no_assigner),
)
"""What ingest must refuse, and the type of the record that it is made from."""
