"""The maker of the devices: sends what thirty patients measured at home in two weeks, as it comes in."""

import datetime as dt
from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from estuaire import local
from estuaire.population import identity, population

SOURCE = "urn:estuaire:producer:telesuivi"
BEGIN = dt.datetime(2026, 3, 2, 7, 0, tzinfo=dt.UTC)
PATIENTS, DAYS = 30, 14
WEIGHT, OXYGEN, PULSE = "29463-7", "59408-5", "8867-4"  # LOINC
DEVICES = {WEIGHT: ("weighing-scale", "kg"), OXYGEN: ("pulse-oximeter", "%"), PULSE: ("pulse-oximeter", "/min")}


class Measure(NamedTuple):
    """What one device measured of one patient; `alert` says which alert has to come of it, if any."""

    patient: int
    metric: str
    value: float
    measured: dt.datetime
    alert: str | None = None


def measures() -> Iterator[Measure]:
    """Every measure, in the order in which they were taken: the same on every call."""
    rng = Random(1)
    dry_weights = [rng.randint(55, 95) for _ in range(PATIENTS)]
    for day in range(DAYS):
        for patient in range(PATIENTS):
            at = BEGIN + dt.timedelta(days=day, minutes=7 * patient)
            gains = patient % 10 == 3 and day >= 9  # 2.9 kg from one morning to the next, and they stay
            weight = dry_weights[patient] + round(rng.uniform(-0.3, 0.3), 1) + 2.9 * gains
            yield Measure(patient, WEIGHT, round(weight, 1), at, "weight" if gains and day < 12 else None)
            short = patient % 10 == 5 and day == 6
            yield Measure(patient, OXYGEN, 86 if short else rng.randint(93, 99), at, "oxygen" if short else None)
            racing = patient % 10 == 7 and day == 10
            yield Measure(patient, PULSE, 134 if racing else rng.randint(55, 100), at, "pulse" if racing else None)


def is_late(one: Measure) -> bool:
    """Patient 13's scale was out of reach for two days. What it weighed then decides on two of the alerts."""
    return one.patient == 13 and one.metric == WEIGHT and (one.measured - BEGIN).days in (7, 8)


def events() -> Iterator[dict[str, Any]]:
    """An enrolment for each patient, which says who they are, and then measures under the maker's own number."""
    people = list(population(seed=41, people=PATIENTS, around="35", assigners=[SOURCE]))
    for patient, person in enumerate(people):
        known = identity(person, "device-enrolment", assigner=SOURCE)
        yield event(f"enrolment-{patient}", "identity.v1", BEGIN - dt.timedelta(days=1), {"identity": known})
    for number, one in sorted(enumerate(measures()), key=lambda numbered: is_late(numbered[1])):
        kind, unit = DEVICES[one.metric]
        record = {
            "device_kind": kind,
            "metric": {"system": "http://loinc.org", "code": one.metric},
            "value": one.value,
            "unit": unit,
            "measured": one.measured.isoformat(),
        }
        known = identity(people[one.patient], "device", assigner=SOURCE)
        yield event(f"measure-{number}", "device-measure.v1", one.measured, {"identity": known, "record": record})


def event(name: str, kind: str, time: dt.datetime, data: dict[str, Any]) -> dict[str, Any]:
    """A CloudEvent. The hub knows the record by its source and id, so that sending it again changes nothing."""
    return {"specversion": "1.0", "id": name, "source": SOURCE, "type": kind, "time": time.isoformat(), "data": data}


def main() -> None:
    """Send them one by one, as a device would; the client makes batches of them."""
    with local.producer(SOURCE) as producer:
        for one in events():
            producer.submit(one, linger=0.2)
        producer.flush()
        print("everything is in the views:", producer.wait_for_views(SOURCE))


if __name__ == "__main__":
    main()
