"""A hospital, the health insurance and a laboratory, which know forty people under numbers of their own."""

import datetime as dt
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from estuaire import local
from estuaire.population import Person, View, identity, population
from estuaire.sample import cip13

HOSPITAL = "urn:estuaire:producer:chu-nantes"
INSURANCE = "urn:estuaire:producer:assurance"
LABORATORY = "urn:estuaire:producer:laboratoire-ouest"
CHU = "440000271"
PEOPLE, TRANSPLANTED = 40, 12
BEGIN = dt.date(2025, 1, 6)
TRANSPLANTATION = "JAEA003"  # CCAM: kidney transplantation
TACROLIMUS, MYCOPHENOLATE, PARACETAMOL = "L04AD02", "L04AA06", "N02BE01"  # ATC
CREATININE = "14682-9"  # LOINC, in umol/L


class Follow(NamedTuple):
    """What a researcher should find about one transplanted patient."""

    sex: str
    birth_year: int
    transplanted: dt.date
    boxes: int
    longest_gap_days: int
    last_creatinine: int


class Record(NamedTuple):
    """A record of one person, and how its source knows them."""

    source: str
    type: str
    date: dt.date
    view: View
    person: int
    record: dict[str, Any]


def people() -> list[Person]:
    """Everybody who has records here."""
    return list(population(seed=42, people=PEOPLE, around="44", assigners=[CHU, LABORATORY]))


def story() -> tuple[list[Record], list[Follow]]:
    """All records, the same on every call, and what is true of the transplanted."""
    rng = Random(2)
    records: list[Record] = []
    truth: list[Follow] = []
    for number, person in enumerate(people()):
        day = BEGIN + dt.timedelta(days=rng.randrange(60))
        transplanted = number < TRANSPLANTED
        records.append(Record(HOSPITAL, "hospital-stay.v1", day, "hospital", number, stay(day, transplanted)))
        # Insurance says once which pseudonym is whose, and speaks of the pseudonym alone from then on.
        records.append(Record(INSURANCE, "identity.v1", day, "insurance-enrolment", number, {}))
        drugs = (TACROLIMUS, MYCOPHENOLATE) if transplanted else (PARACETAMOL,)
        missed = rng.choice([0, 0, 1, 2]) if transplanted else 0
        months = [month for month in range(6) if not 2 <= month < 2 + missed]
        for date in (day + dt.timedelta(days=14 + 30 * month) for month in months):
            for atc in drugs:
                records.append(
                    Record(INSURANCE, "dispensation.v1", date, "insurance-pseudonym", number, dispensation(date, atc))
                )
        creatinine = 0
        for week in (1, 4, 12, 24):
            date, creatinine = day + dt.timedelta(weeks=week), rng.randint(95, 160) + 60 * missed
            records.append(Record(LABORATORY, "observation.v1", date, "hospital", number, result(date, creatinine)))
        if transplanted:
            born = person.birth_date.year
            truth.append(Follow(person.sex, born, day, 2 * len(months), 30 * (1 + missed), creatinine))
    return records, truth


def stay(day: dt.date, transplanted: bool) -> dict[str, Any]:
    """A stay as PMSI has it: Z94.0 is a transplanted kidney, N18.5 the disease that led there."""
    record: dict[str, Any] = {
        "entry": day.isoformat(),
        "exit": (day + dt.timedelta(days=12)).isoformat(),
        "principal_diagnosis": "N185",
    }
    if transplanted:
        record |= {"associated_diagnoses": ["Z940"], "acts": [{"code": TRANSPLANTATION, "date": day.isoformat()}]}
    return record


def dispensation(day: dt.date, atc: str) -> dict[str, Any]:
    """A box for thirty days."""
    return {"date": day.isoformat(), "atc": atc, "cip13": cip13("340093000002"), "quantity": 1}


def result(day: dt.date, creatinine: int) -> dict[str, Any]:
    """A result of the laboratory, as FHIR."""
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": CREATININE}]},
        "effectiveDateTime": day.isoformat(),
        "valueQuantity": {"value": creatinine, "system": "http://unitsofmeasure.org", "code": "umol/L"},
    }


def events(source: str) -> Iterator[dict[str, Any]]:
    """The events of one source."""
    everybody = people()
    for number, one in enumerate(story()[0]):
        if one.source == source:
            known = identity(everybody[one.person], one.view, assigner=LABORATORY if source == LABORATORY else CHU)
            yield {
                "specversion": "1.0",
                "id": f"{one.type}-{number}",
                "source": source,
                "type": one.type,
                "time": f"{one.date}T12:00:00Z",
                "data": {"identity": known, **({"record": one.record} if one.record else {})},
            }


def main() -> None:
    """Each source sends on its own; in which order they come makes no difference."""
    for source in (LABORATORY, INSURANCE, HOSPITAL):
        with local.producer(source) as producer:
            kept = sum(len(answer.accepted) for answer in producer.send(events(source)))
            print(f"{source}: {kept} records kept, in the views: {producer.wait_for_views(source)}")


if __name__ == "__main__":
    main()
