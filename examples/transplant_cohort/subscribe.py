"""The researchers' table: a line for each transplanted patient, joined from three sources that share no number."""

import csv
import datetime as dt
import sys
from itertools import pairwise
from typing import Any

from contracts.events import ViewEvent
from estuaire import local

PERMIT, TEAM = "transplant-cohort", "team-transplantation"
TRANSPLANTATION = "JAEA003"  # CCAM: kidney transplantation
IMMUNOSUPPRESSANTS = "L04"  # ATC
CREATININE = "14682-9"  # LOINC, in umol/L
COLUMNS = ("patient", "sex", "birth_year", "transplanted", "boxes", "longest_gap_days", "last_creatinine")


def row(patient: str, timeline: list[ViewEvent]) -> dict[str, Any] | None:
    """One patient's line, or None for whom no transplantation is known of. The timeline is ordered by time."""
    transplanted: str | None = None
    dispensed: list[dt.date] = []
    creatinine: float | None = None
    for event in timeline:
        record = event.data["record"]
        if event.type == "hospital-stay.v1":
            dates = [act["date"] for act in record.get("acts", []) if act["code"] == TRANSPLANTATION]
            transplanted = transplanted or next(iter(dates), None)
        elif event.type == "dispensation.v1" and record["atc"].startswith(IMMUNOSUPPRESSANTS):
            dispensed.append(dt.date.fromisoformat(record["date"]))
        elif event.type == "observation.v1" and record["code"]["coding"][0]["code"] == CREATININE:
            creatinine = record["valueQuantity"]["value"]
    if transplanted is None:
        return None
    days = sorted(set(dispensed))
    return {
        "patient": patient,
        **timeline[0].data["demographics"],
        "transplanted": transplanted,
        "boxes": len(dispensed),
        "longest_gap_days": max(((later - day).days for day, later in pairwise(days)), default=None),
        "last_creatinine": creatinine,
    }


def main() -> None:
    """Read the view as it is now, and write the table to standard output."""
    table = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
    table.writeheader()
    for patient, timeline in sorted(local.subscriber(PERMIT, TEAM).read().timelines().items()):
        if (line := row(patient, timeline)) is not None:
            table.writerow(line)


if __name__ == "__main__":
    main()
