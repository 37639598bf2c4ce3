"""How fast a file of each format becomes sealed messages, in one process, beside a public reader of the same file.

Two figures for ours: reading (files to CloudEvents, at the producer's) and taking (CloudEvents to messages, at ingest:
validation, tokens, comparison codes, allow-list, seals). The public reader only reads the same files: the tables of
national formats by pandas (there is no reader of PMSI or DCIR among Python's packages). Rates are of our records. The
readers are no dependency: `uv run --with fhir.resources --with cloudevents --with pandas estuaire bench ingest`.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec

from estuaire.files import Reading, groups_of
from estuaire.generate import dcir, hl7v2, pmsi
from estuaire.keyring import Keyring
from estuaire.population import population
from estuaire.sample import sample
from runtime.keys import FolderKeyStore
from services.ingest.adapters import intake_from
from services.ingest.domain.batches import Element
from services.ingest.formats.fixed_width import tables
from services.ingest.formats.hl7v2.messages import messages as split_messages
from services.ingest.handlers import Intake

SOURCE: Final = "urn:estuaire:producer:bench"
BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Case:
    """A format: how to write files of about so many records of it, and the public reader that reads them besides."""

    write: Callable[[Path, int], list[Path]]
    reader: str
    beside: Callable[[list[Path]], object]


def main(records: int, only: str | None = None) -> dict[str, Any]:
    """For each format: records per second of CPU, ours and the public reader's, and ours divided by theirs."""
    with TemporaryDirectory(prefix="estuaire-bench-") as folder:
        return {
            name: measure(case, Path(folder) / name, records)
            for name, case in CASES.items()
            if only is None or name == only
        }


def measure(case: Case, folder: Path, records: int) -> dict[str, Any]:
    """One format."""
    folder.mkdir()
    paths = case.write(folder, records)
    begun = time.process_time()
    events = [one for group in groups_of(paths)[0] for one in _events(Reading(group, SOURCE))]
    reading = time.process_time() - begun
    taking = _take(_intake(folder), events)
    found: dict[str, Any] = {
        "records": len(events),
        "read_per_second": round(len(events) / reading),
        "taken_per_second": round(len(events) / taking),
        "records_per_second": round(len(events) / (reading + taking)),
    }
    if find_spec(case.reader.partition(".read")[0].partition(".parse")[0]) is None:
        print(f"SKIPPED: {case.reader} is not installed, so nothing stands beside ours", file=sys.stderr)
        return found
    begun = time.process_time()
    case.beside(paths)
    beside = len(events) / (time.process_time() - begun)
    return found | {
        "reader": case.reader,
        "reader_per_second": round(beside),
        "read_ratio": round(found["read_per_second"] / beside, 2),
        "ratio": round(found["records_per_second"] / beside, 2),
    }


def _events(reading: Reading) -> Iterator[bytes]:
    for one in reading.records():
        if isinstance(one.event, bytes):
            yield one.event
        elif not isinstance(one.event, str):
            raise RuntimeError(f"the benchmark's own file has a bad record: {one.event.reason}: {one.event.detail}")


def _intake(folder: Path) -> Intake:
    keyring = Keyring(folder / "home")
    keyring.prepare()
    return intake_from(FolderKeyStore(keyring.folder("ingest")), lambda *_: "", 20_000)


def _take(intake: Intake, events: list[bytes]) -> float:
    """CPU seconds."""
    begun = time.process_time()
    now = dt.datetime.now(dt.UTC)
    for at in range(0, len(events), BATCH):
        part = [Element(place, event) for place, event in enumerate(events[at : at + BATCH])]
        if refused := intake.take(part, SOURCE, "backfill", now).rejected:
            raise RuntimeError(f"the benchmark's own record is refused: {refused[0][1].detail}")
    return time.process_time() - begun


# --- what is measured ---


def _cloudevents(folder: Path, records: int) -> list[Path]:
    """The demo's good events, over and over, each time with ids of their own."""
    good = [one.event for one in sample() if one.accepted]
    path = folder / "events.ndjson"
    with path.open("wb") as out:
        for number in range(records):
            event = {**good[number % len(good)], "source": SOURCE, "id": f"e-{number}"}
            out.write(msgspec.json.encode(event) + b"\n")
    return [path]


def _read_cloudevents(paths: list[Path]) -> object:
    read = import_module("cloudevents.core.formats.json").JSONFormat().read
    return sum(read(None, line) is not None for path in paths for line in path.open("rb"))


def _fhir(folder: Path, records: int) -> list[Path]:
    path = folder / "bulk.ndjson"
    with path.open("wb") as out:
        out.writelines(msgspec.json.encode(one) + b"\n" for one in islice(bulk_export(), records))
    return [path]


def bulk_export() -> Iterator[dict[str, Any]]:
    """A Patient and nine Observations of each, without end."""
    for number in range(sys.maxsize):
        yield {
            "resourceType": "Patient",
            "id": f"p{number}",
            "name": [{"use": "official", "family": f"MARTIN{number % 977}", "given": ["Anne", "Marie"]}],
            "gender": "female",
            "birthDate": f"19{number % 90 + 10}-05-12",
        }
        for turn in range(9):
            yield {
                "resourceType": "Observation",
                "id": f"o{number}-{turn}",
                "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4", "display": "Heart rate"}]},
                "subject": {"reference": f"Patient/p{number}"},
                "effectiveDateTime": f"2026-03-0{turn + 1}T10:00:00+01:00",
                "valueQuantity": {
                    "value": 60 + turn,
                    "unit": "beats/minute",
                    "system": "http://unitsofmeasure.org",
                    "code": "/min",
                },
            }


def _read_fhir(paths: list[Path]) -> object:
    model = import_module("fhir.resources.R4B").get_fhir_model_class
    return [model((told := json.loads(line))["resourceType"])(**told) for path in paths for line in path.open("rb")]


def _stays(folder: Path, records: int) -> list[Path]:
    patients = [
        pmsi.Patient(dt.date(1930, 1, 1) + dt.timedelta(days=7 * number), "male", f"1{number:012}", f"I{number}")
        for number in range(max(1, records // 5))
    ]
    return list(pmsi.write(folder, patients, records, seed=1).values())


def _read_stays(paths: list[Path]) -> object:
    """The fixed part of every line, by the same positions; pieces of variable number are beyond it."""
    read = import_module("pandas").read_fwf
    shapes = [tables("pmsi-mco")["rss"].shapes["122"], tables("pmsi-mco")["vid-hosp"].shapes["V015"]]
    columns = [[(field.start, field.end) for field in shape.fields.values()] for shape in shapes]
    return [read(path, colspecs=of, header=None, dtype=str) for path, of in zip(paths, columns, strict=True)]


def _claims(folder: Path, records: int) -> list[Path]:
    people = [
        dcir.Insured(f"{number:017x}", 1, dt.date(1930, 1, 1) + dt.timedelta(days=number % 30_000), "male", "35238")
        for number in range(max(1, records // 20))
    ]
    dcir.write_dcir(folder, people, records * 10 // 12, seed=1)
    return sorted(folder.glob("ER_*.csv"))


def _read_claims(paths: list[Path]) -> object:
    """All four tables, and the children joined to their claims."""
    read = import_module("pandas").read_csv
    read_tables = {path.stem: read(path, sep=";", dtype=str) for path in paths}
    claims = read_tables.pop("ER_PRS_F")
    keys = [name for name in claims.columns if name.startswith(("DCT_", "FLX_", "ORG_CLE", "PRS_ORD", "REM_TYP"))]
    return [claims.merge(child, on=keys) for child in read_tables.values()]


def _messages(folder: Path, records: int) -> list[Path]:
    """Each tells of two records and a half."""
    path = folder / "feed.hl7"
    told = hl7v2.messages(1, list(population(1, max(20, records // 50))), records * 2 // 5)
    path.write_bytes(b"\r\n".join(one.data for one in told))
    return [path]


def _read_messages(paths: list[Path]) -> object:
    parse = import_module("hl7").parse
    return [parse(one.decode("latin-1")) for path in paths for _, one in split_messages(path.open("rb"))]


CASES: Final[Mapping[str, Case]] = {
    "cloudevents": Case(_cloudevents, "cloudevents", _read_cloudevents),
    "fhir": Case(_fhir, "fhir.resources", _read_fhir),
    "pmsi-mco": Case(_stays, "pandas.read_fwf", _read_stays),
    "dcir": Case(_claims, "pandas.read_csv", _read_claims),
    "hl7v2": Case(_messages, "hl7.parse", _read_messages),
}
