"""What leaves under a permit, against an oracle that is written as plainly as a lawyer would read the permit.

Random permits, people, records and oppositions in any order; each case is a permit and a record, on five paths: pushed
into the view, read over HTTP as NDJSON, as Parquet, counted by a dry run, and by indicators (before perturbation).
"""

from __future__ import annotations

import datetime as dt
import io
import json
import logging
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from typing import Any, Final, NamedTuple

import pyarrow.parquet
import pytest
from fastapi.testclient import TestClient

from contracts.permits import Permit
from estuaire.database import Database as Server
from estuaire.database import start_database
from runtime.database import Database
from services.access import indicators
from services.access.adapters import PostgresHistory
from services.access.authorization import Doors
from services.access.domain.indicators import Cell, Count, weight
from services.access.routes import application
from services.access.vault import Vault
from tests.integration.test_access_history import KNOWN, Broker, as_, reading
from tests.unit.access.hub import Hub, permit

pytestmark = pytest.mark.integration
log = logging.getLogger("estuaire.tests")

PERMITS: Final = 40
PEOPLE: Final = 50
TODAY: Final = dt.datetime(2026, 6, 1, 9, tzinfo=dt.UTC)
SOURCES: Final = ("urn:chu", "urn:cnam", "urn:telesuivi")
REGISTRY: Final = "urn:registry"
CODES: Final = ("I501", "I10", "J459", "E11")
FIELDS: Final = {
    "hospital-stay.v1": ("entry", "exit", "principal_diagnosis", "ghm", "finess"),
    "diagnosis.v1": ("code", "onsetDateTime"),
    "claim.v1": ("nature", "care_date", "amount_paid"),
}


class Someone(NamedTuple):
    """A person: what is known of it, and what it objects to (None if it does not)."""

    name: str
    demographics: dict[str, Any]
    objects_to: str | None
    objecting_source: str


class Kept(NamedTuple):
    """A record of somebody."""

    name: str
    person: str
    kind: str
    source: str
    time: dt.datetime
    record: dict[str, Any]
    retracted: bool


# the oracle


def leaves(
    granted: dict[str, Any], who: Someone, records: Sequence[Kept], one: Kept, year: int | None = None
) -> dict[str, Any] | None:
    """What a permit, granted in that year, releases of a record, as its reader sees it; None if it does not leave."""
    if one.retracted or TODAY.date().isoformat() > granted["expires"]:
        return None
    if one.kind not in granted["types"]:
        return None
    if "*" not in granted["sources"] and one.source not in granted["sources"]:
        return None
    day = one.time.date().isoformat()
    period = granted.get("period", {})
    if day < period.get("from", "0000") or day > period.get("to", "9999"):
        return None
    if "history_years" in granted and one.time.year < (year or YEARS[granted["id"]]) - granted["history_years"]:
        return None
    population = granted.get("population", {})
    if not is_admitted(population, who, records):
        return None
    if "age" in population:
        ages, born = population["age"], who.demographics.get("birth_year")
        if born is None or not ages.get("from", 0) <= one.time.year - born <= ages.get("to", 999):
            return None
    if "opposition_exemption" not in granted:
        if who.objects_to == "all":
            return None
        # whatever leaves under a cohort says that its source has the person
        if who.objects_to == "source" and who.objecting_source in (one.source, population.get("cohort")):
            return None
    return {
        "type": one.kind,
        "time": moment(one.time, granted),
        "source": one.source if granted["precision"]["source"] == "exact" else "urn:estuaire:hub",
        "record": released(granted, one),
        "demographics": said(granted, who),
    }


def is_admitted(population: dict[str, Any], who: Someone, records: Sequence[Kept]) -> bool:
    known = who.demographics
    if "sex" in population and known.get("sex") not in population["sex"]:
        return False
    if "birth_year" in population:
        years, year = population["birth_year"], known.get("birth_year")
        if year is None or year < years.get("from", 0) or year > years.get("to", 9999):
            return False
    if "departments" in population and (known.get("commune") or "")[:2] not in population["departments"]:
        return False
    if "diagnoses" in population:
        told = [code for one in records if one.person == who.name and not one.retracted for code in codes_of(one)]
        if not any(code.startswith(prefix) for code in told for prefix in population["diagnoses"]):
            return False
    if "cohort" in population:
        held = [one for one in records if one.person == who.name and not one.retracted]
        if not any(one.source == population["cohort"] for one in held):
            return False
    return True


def codes_of(one: Kept) -> list[str]:
    if one.kind == "hospital-stay.v1":
        return [one.record["principal_diagnosis"]]
    return [one.record["code"]] if one.kind == "diagnosis.v1" else []


def moment(time: dt.datetime, granted: dict[str, Any]) -> str:
    text = time.isoformat().replace("+00:00", "Z")
    return {"exact": text, "day": text[:10], "month": text[:7], "year": text[:4]}[granted["precision"]["time"]]


def released(granted: dict[str, Any], one: Kept) -> dict[str, Any]:
    named = granted["fields"].get(one.kind, [])
    found = {}
    for name, value in one.record.items():
        if "*" not in named and name not in named:
            continue
        if name == "finess" and granted["precision"]["source"] != "exact":
            continue
        if name in ("entry", "exit", "onsetDateTime", "care_date"):
            length = {"exact": 99, "day": 10, "month": 7, "year": 4}[granted["precision"]["time"]]
            value = value[:length]
        found[name] = value
    return found


def said(granted: dict[str, Any], who: Someone) -> dict[str, Any]:
    known = dict(who.demographics)
    if known.get("commune"):
        known["department"] = known["commune"][:2]
    return {name: known[name] for name in granted["demographics"] if known.get(name) is not None}


def counted(granted: dict[str, Any], who: Someone, records: Sequence[Kept], one: Kept) -> list[tuple[str, str, Any]]:
    """In which cells somebody counts by this record: period, area and diagnosis."""
    what = leaves(granted, who, records, one)
    if what is None:
        return []
    year, month = what["time"][:4], what["time"][5:7]
    period = {
        "month": f"{year}-{month}",
        "quarter": f"{year}-Q{(int(month) + 2) // 3}",
        "week": one.time.strftime("%G-W%V"),
    }[granted["indicators"]["every"]]
    area = what["demographics"].get("department", "other")
    codes = [what["record"][name] for name in ("principal_diagnosis", "code") if name in what["record"]]
    return [(period, area, None), *((period, area, code[:3]) for code in codes)]


def plainly(_permit: Permit, counts: Iterable[Count], _before: Any) -> Iterator[Cell]:
    """Shows the sum of weights of each area, as it was counted."""
    for one in counts:
        yield Cell(one.period, one.area, one.diagnosis, one.weight)


# what is made up

YEARS: Final = {f"permit-{number}": 2022 + number % 4 for number in range(PERMITS)}
"""In which year each permit was granted."""


def somebody(dice: random.Random, number: int) -> Someone:
    known = {
        "sex": dice.choice(["male", "female", None]),
        "birth_year": dice.choice([1940, 1960, 1980, 2000, None]),
        "birth_month": dice.choice([1, 12, None]),
        "commune": dice.choice(["35238", "29019", "2A004", None]),
    }
    objects_to = dice.choice([None, None, None, "all", "source", "source"])
    given = {name: value for name, value in known.items() if value is not None}
    return Someone(f"p{number}", given, objects_to, dice.choice([*SOURCES, REGISTRY]))


def something(dice: random.Random, name: str, who: Someone) -> Kept:
    kind = dice.choice([*FIELDS, "identity.v1"])
    time = dt.datetime(dice.randint(2023, 2026), dice.randint(1, 5), dice.randint(1, 28), 23, 30, tzinfo=dt.UTC)
    record = a_record(dice, kind, time.date().isoformat())
    source = dice.choice([*SOURCES, REGISTRY])
    return Kept(name, who.name, kind, source, time, record, dice.random() < 0.15)


def a_record(dice: random.Random, kind: str, day: str) -> dict[str, Any]:
    if kind == "hospital-stay.v1":
        code = dice.choice(CODES)
        entry = f"{day}T08:00:00Z"
        return {"entry": entry, "exit": day, "principal_diagnosis": code, "ghm": "05M09", "finess": "350000022"}
    if kind == "diagnosis.v1":
        return {"code": dice.choice(CODES), "onsetDateTime": day[: dice.choice([4, 7, 10])]}
    if kind == "identity.v1":
        return {}
    return {"nature": "1111", "care_date": day, "amount_paid": dice.randint(1, 9000) / 100}


def some_permit(dice: random.Random, number: int) -> dict[str, Any]:
    types = dice.sample(list(FIELDS), dice.randint(1, 3))
    granted: dict[str, Any] = {
        "id": f"permit-{number}",
        "sources": dice.choice([["*"], dice.sample(SOURCES, dice.randint(1, 2))]),
        "types": types,
        "fields": {
            kind: dice.choice([["*"], dice.sample(FIELDS[kind], dice.randint(1, 2))])
            for kind in types
            if dice.random() < 0.8
        },
        "demographics": dice.sample(["sex", "birth_year", "birth_month", "department"], dice.randint(0, 4)),
        "precision": {
            "time": dice.choice(["exact", "day", "month", "year"]),
            "source": dice.choice(["hub", "exact"]),
            "place": "department",
        },
        "expires": dice.choice(["2026-05-31", "2026-06-01", "2030-12-31", "2030-12-31"]),
        "potential_identifiers": 5,
    }
    if dice.random() < 0.5:
        years = {"from": "2024-01-01", "to": "2025-12-31"}
        granted["period"] = dice.choice([{"from": "2024-02-10"}, {"to": "2025-03-15"}, years])
    if dice.random() < 0.3:
        granted["history_years"] = dice.randint(0, 3)
    if dice.random() < 0.7:
        granted["population"] = dict(
            dice.sample(
                [
                    ("sex", ["female"]),
                    ("birth_year", {"from": 1950}),
                    ("departments", ["35", "2A"]),
                    ("diagnoses", dice.choice([["I50"], ["E11", "J45"]])),
                    ("cohort", dice.choice([REGISTRY, REGISTRY, "urn:cnam"])),
                    ("age", dice.choice([{"from": 65}, {"to": 44}, {"from": 24, "to": 65}])),
                ],
                dice.randint(1, 2),
            )
        )
    if granted["precision"]["time"] != "year":
        every = ["month", "quarter"] if granted["precision"]["time"] == "month" else ["week", "month", "quarter"]
        granted["indicators"] = {"every": dice.choice(every)}
    if dice.random() < 0.25:
        granted["opposition_exemption"] = "Surveillance, by an order of the minister."
    return granted


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with start_database(tmp_path_factory.mktemp("oracle")) as started:
        yield started


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_views_pages_files_and_indicators_hold_what_the_permit_says_and_nothing_else(
    server: Server, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    dice = random.Random(seed)
    vault = Vault({1: b"m" * 32})
    url = server.url("access")
    readers = server.reader_url("access", "staff"), server.reader_url("access", "subscriber")
    database = Database(url, files("services.access") / "migrations")
    hub = Hub(PostgresHistory(database, vault), vault, database.transaction)
    hub.now = TODAY
    people = [somebody(dice, number) for number in range(PEOPLE)]
    records = [something(dice, f"{who.name}-{number}", who) for who in people for number in range(dice.randint(3, 8))]
    permits = [some_permit(dice, number) for number in range(PERMITS)]
    clauses = {name for one in permits for name in (*one, *one.get("population", {}))}
    assert clauses >= {"period", "history_years", "cohort", "age", "diagnoses", "birth_year", "sex", "departments"}
    # some permits are there before, some come in the middle, some at the end; oppositions come anywhere
    acts: list[Any] = [*permits, *records, *(who for who in people if who.objects_to)]
    dice.shuffle(acts)
    for act in acts:
        if isinstance(act, dict):
            given = permit_of(act)
            hub.run(hub.granted(given, f"{YEARS[act['id']]}-12-31T23:30:00+00:00"), hub.key(act["id"]))
        elif isinstance(act, Kept):
            who = next(one for one in people if one.name == act.person)
            time = act.time.isoformat().replace("+00:00", "Z")
            sent: dict[str, Any] = {"kind": act.kind, "source": act.source, "time": time}
            subject = f"{act.person} at {act.source}"
            hub.run(hub.record(act.name, subject, act.person, act.record, **sent, **who.demographics))
            if act.retracted:
                hub.run(hub.record(act.name, subject, act.person, revision=2, deleted=True, **sent))
        else:
            subject = f"{act.name} at {act.objecting_source}"
            hub.run(hub.objection(f"{act.name}-o", subject, act.name, act.objects_to, source=act.objecting_source))
    known = {who.name: who for who in people}
    expected = {
        one["id"]: sorted(
            json.dumps(what, sort_keys=True)
            for record in records
            if (what := leaves(one, known[record.person], records, record)) is not None
        )
        for one in permits
    }
    assert any(expected.values())
    log.warning("%d cases, %d of which leave", len(permits) * len(records), sum(map(len, expected.values())))
    for one in permits:
        timelines = hub.views[one["id"]].timelines().values()
        pushed = [event.model_dump(mode="json", exclude_none=True) for events in timelines for event in events]
        assert sorted(map(plain, pushed)) == expected[one["id"]]
    with (
        reading(*readers) as (reader, pages),
        TestClient(application(lambda: None, reader, pages, Broker(hub), vault, Doors(KNOWN), lambda: hub.now)) as api,
    ):
        for one in permits:
            lines, rows = read_whole(api, one["id"])
            assert sorted(map(plain, lines)) == expected[one["id"]]
            assert sorted(map(plain, rows)) == expected[one["id"]]
            if one["expires"] >= TODAY.date().isoformat():
                tried = api.post(
                    "/v1/permits/dry-run", json=json.loads(permit_of(one).definition()), headers=as_("officer")
                ).json()["released"]
                today = [leaves(one, known[record.person], records, record, TODAY.year) for record in records]
                assert tried["records"] == sum(what is not None for what in today)
        hub.now = TODAY + dt.timedelta(days=30)
        due = [one for one in permits if "indicators" in one and one["expires"] > hub.now.date().isoformat()]
        monkeypatch.setattr(indicators, "cells", plainly)
        released = indicators.Releaser(url, vault, lambda leaf: None, lambda: hub.now).release_due()
        weights = {
            patient: weight(key)
            for patient, key in database.connection.execute("SELECT patient, record_key FROM patients")
        }
        assert released == sorted(one["id"] for one in due)
        for one in due:
            members: defaultdict[tuple[str, str, Any], set[str]] = defaultdict(set)
            for record in records:
                for cell in counted(one, known[record.person], records, record):
                    members[cell].add(record.person)
            answer = api.get(f"/v1/permits/{one['id']}/indicators", headers=as_("team")).json()["cells"]
            shown = {(cell["period"], cell["area"], cell["diagnosis"]): cell["people"] for cell in answer}
            assert shown == {cell: sum(map(weights.__getitem__, who)) for cell, who in members.items()}
    database.close()


def permit_of(granted: dict[str, Any]) -> Permit:
    return permit(granted["id"], **{name: value for name, value in granted.items() if name != "id"})


def read_whole(api: TestClient, name: str) -> tuple[list[Any], list[Any]]:
    """A view over HTTP, page by page, as lines and as rows of Parquet files."""
    address: str | None = f"/v1/permits/{name}/timelines?limit=7"
    lines: list[Any] = []
    rows: list[Any] = []
    while address:
        page = api.get(address, headers=as_("team"))
        file = api.get(address, headers=as_("team") | {"Accept": "application/vnd.apache.parquet"})
        assert page.status_code == file.status_code
        if page.status_code == 403:
            return [], []
        lines += [json.loads(line) for line in page.text.splitlines()]
        for row in pyarrow.parquet.read_table(io.BytesIO(file.content)).to_pylist():
            told = {name: value for name, value in row["demographics"].items() if value is not None}
            rows.append({**row, "data": {"record": json.loads(row["record"]), "demographics": told}})
        address = page.links["next"]["url"] if "next" in page.links else None
    return lines, rows


def plain(event: dict[str, Any]) -> str:
    """What the oracle speaks of."""
    said = {name: event[name] for name in ("type", "time", "source")}
    data = {name: event["data"][name] for name in ("record", "demographics")}
    return json.dumps(said | data, sort_keys=True)
