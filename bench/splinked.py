"""Splink (UK Ministry of Justice) on the benchmark's records in the clear: it trains, compares and clusters in one go.

It gets what the index knows of everybody, and another record of every tenth person. Splink is no dependency (`uv run
--with splink estuaire bench linkage`); it runs in a process of its own, `python -m bench.splinked PEOPLE`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

import pyarrow as pa

from bench.people import Known, another_record, chunks, first_record

LIMIT: Final = 600.0
"""Seconds that Splink has at most."""
SKIPPED: Final = "SKIPPED: Splink is not installed, so nothing stands beside linkage; run `uv run --with splink ...`"
_TRAITS: Final = ("birth_family_name", "used_family_name", "sex", "birth_date", "birth_place")
_COLUMNS: Final = ("unique_id", *_TRAITS, "given_name", "nir", "address", "city", "postcode")


def measure(people: int, limit: float = LIMIT) -> dict[str, Any]:
    """Splink's records per second, all records over its whole time; nothing where it is not installed.

    `splink_stopped` says that it was not done after `limit` seconds: it does fewer per second than the figure says.
    """
    if find_spec("splink") is None:
        print(SKIPPED, file=sys.stderr)
        return {}
    command = [sys.executable, "-m", "bench.splinked", str(people)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        records = int(child.stdout.readline())
        begun, stopped = time.monotonic(), False
        try:
            child.wait(limit)
        except subprocess.TimeoutExpired:
            stopped = True
            child.kill()
        if not stopped and child.returncode:
            raise RuntimeError(f"Splink ended with exit code {child.returncode}")
        figure = {"splink_per_second": round(records / (time.monotonic() - begun))}
    return figure | ({"splink_stopped": True} if stopped else {})


def table(people: int) -> pa.Table:
    """The records in the clear, a column for each trait."""
    rows = list(_rows(people))
    return pa.table({name: [row.get(name) for row in rows] for name in _COLUMNS})


def _rows(people: int) -> Iterator[Mapping[str, object]]:
    for chunk in chunks(people):
        for person in chunk:
            yield _row(2 * person.number, first_record(person))
            if person.number % 10 == 0:
                yield _row(2 * person.number + 1, another_record(person))


def _row(number: int, record: Known) -> dict[str, object]:
    said: Any = record[1]
    home = said.get("residence", {})
    numbers = {one["system"]: one["value"][:13] for one in said.get("identifiers", ())}
    return {
        "unique_id": number,
        **{name: said.get(name) for name in _TRAITS},
        "given_name": next(iter(said.get("given_names", ())), None),
        "nir": numbers.get("ins-nir"),
        **{name: home.get(name) for name in ("address", "city", "postcode")},
    }


def link(records: pa.Table) -> int:
    """Splink from training to clusters, as its documentation has it for people; how many clusters."""
    splink, compare = import_module("splink"), import_module("splink.comparison_library")
    block = splink.block_on
    settings = splink.SettingsCreator(
        link_type="dedupe_only",
        comparisons=[
            compare.NameComparison("birth_family_name"),
            compare.NameComparison("given_name"),
            compare.DateOfBirthComparison("birth_date", input_is_string=True),
            compare.ExactMatch("sex"),
            compare.ExactMatch("birth_place"),
            compare.ExactMatch("nir"),
            compare.JaroWinklerAtThresholds("address"),
            compare.ExactMatch("postcode"),
        ],
        blocking_rules_to_generate_predictions=[
            block("nir"),
            block("birth_date", "given_name"),
            block("birth_date", "birth_family_name"),
            block("birth_date", "postcode"),
            block("birth_family_name", "given_name", "postcode"),
            block("address", "postcode", "given_name"),
        ],
        retain_matching_columns=False,
    )
    database = splink.DuckDBAPI()
    linker = splink.Linker(database.register(records), settings)
    linker.training.estimate_probability_two_random_records_match(
        [block("nir"), block("birth_date", "birth_family_name", "given_name")], recall=0.8
    )
    linker.training.estimate_u_using_random_sampling(max_pairs=1e6, seed=1)
    for rule in (block("birth_date"), block("birth_family_name", "given_name")):
        linker.training.estimate_parameters_using_expectation_maximisation(rule)
    pairs = linker.inference.predict(threshold_match_probability=0.5)
    clusters = linker.clustering.cluster_pairwise_predictions_at_threshold(pairs, 0.95)
    found = database.query_sql(f"SELECT count(DISTINCT cluster_id) AS found FROM {clusters.physical_name}")  # noqa: S608
    return int(found.as_record_list()[0]["found"])


if __name__ == "__main__":
    everything = table(int(sys.argv[1]))
    print(everything.num_rows, flush=True)
    link(everything)
