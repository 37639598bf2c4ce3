"""Two emergency rooms: each sends a FHIR bundle a day, and the day before's again with what was coded since."""

import datetime as dt
import json
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from estuaire import local
from estuaire.population import Person, population

SOURCES = ("urn:estuaire:producer:urgences-rennes", "urn:estuaire:producer:urgences-brest")
BEGIN, WEEKS = dt.date(2024, 1, 1), 6  # a Monday
SYNDROMES = {"influenza": "J10.1", "bronchiolitis": "J21.0", "gastroenteritis": "A08.4", "other": "S93.4"}
AGES = {"0-2": (0, 2), "3-64": (3, 64), "65+": (65, 110)}
ICD10 = "http://hl7.org/fhir/sid/icd-10"


class Visit(NamedTuple):
    """One visit to one emergency room. The reason is coded the day after."""

    source: str
    number: int
    day: dt.date
    person: Person
    syndrome: str


def visits() -> Iterator[Visit]:
    """Every visit, the same on every call: an epidemic of influenza that peaks in the fourth week."""
    rng = Random(3)
    everybody = list(population(seed=43, people=600, around="35", assigners=SOURCES))
    by_age = {group: [one for one in everybody if age_group(one.birth_date.year) == group] for group in AGES}
    number = 0
    for week in range(WEEKS):
        sizes = {("influenza", "3-64"): 10 + 12 * min(week, 5 - week // 2), ("influenza", "65+"): 4 + 5 * week}
        sizes |= {
            ("bronchiolitis", "0-2"): 14 - 2 * week,
            ("gastroenteritis", "3-64"): 11 + week,
            ("other", "3-64"): 30,
        }
        for (syndrome, group), size in sizes.items():
            for _ in range(size):
                day = BEGIN + dt.timedelta(weeks=week, days=rng.randrange(7))
                number += 1
                yield Visit(rng.choice(SOURCES), number, day, rng.choice(by_age[group]), syndrome)


def age_group(birth_year: int, year: int = BEGIN.year) -> str:
    """By the age reached in the year: the permit releases no more than the year of birth."""
    return next(group for group, (youngest, oldest) in AGES.items() if youngest <= year - birth_year <= oldest)


def counts() -> Counter[tuple[str, str, str]]:
    """How many visits there were of each week, syndrome and age group."""
    found: Counter[tuple[str, str, str]] = Counter()
    for one in visits():
        year, week, _ = one.day.isocalendar()
        if one.syndrome != "other":
            found[f"{year}-W{week:02d}", one.syndrome, age_group(one.person.birth_date.year)] += 1
    return found


def bundle(source: str, day: dt.date, mine: list[Visit]) -> bytes:
    """The visits of a day, and those of the day before, whose reasons are known by now."""
    entries: dict[str, dict[str, Any]] = {}
    for one in mine:
        if one.day not in (day, day - dt.timedelta(days=1)):
            continue
        person = one.person
        entries[person.ipp(source)] = {
            "resourceType": "Patient",
            "id": person.ipp(source),
            "name": [{"family": person.birth_family_name, "given": list(person.given_names)}],
            "gender": person.sex,
            "birthDate": person.birth_date.isoformat(),
        }
        coded = one.day < day
        reason = {"coding": [{"system": ICD10, "code": SYNDROMES[one.syndrome]}], "text": "as the patient put it"}
        entries[f"visit-{one.number}"] = {
            "resourceType": "Encounter",
            "id": f"visit-{one.number}",
            "meta": {"versionId": "2" if coded else "1"},  # the hub keeps the higher one, whichever comes first
            "status": "finished",
            "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "EMER"},
            "subject": {"reference": f"Patient/{person.ipp(source)}"},
            "period": {"start": f"{one.day}T20:15:00+01:00"},
            **({"reasonCode": [reason]} if coded else {}),
        }
    resources = [{"resource": one} for one in entries.values()]
    return json.dumps({"resourceType": "Bundle", "type": "batch", "entry": resources}).encode()


def main() -> None:
    """Day after day, a bundle from each emergency room that has one."""
    everything = list(visits())
    for source in SOURCES:
        mine = [one for one in everything if one.source == source]
        with local.producer(source) as producer:
            for day in (BEGIN + dt.timedelta(days=number) for number in range(7 * WEEKS + 1)):
                document = bundle(source, day, mine)
                if b"Encounter" in document:
                    producer.send_fhir(document)
            print(f"{source}: {len(mine)} visits, in the views: {producer.wait_for_views(source)}")


if __name__ == "__main__":
    main()
