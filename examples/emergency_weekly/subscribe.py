"""The epidemiologists' table: visits by week, syndrome and age group, with every small cell withheld."""

import csv
import datetime as dt
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

from contracts.events import ViewEvent
from estuaire import local

PERMIT, TEAM = "emergency-weekly", "veille-sanitaire"
SYNDROMES = {"J09": "influenza", "J10": "influenza", "J11": "influenza", "J21": "bronchiolitis"} | {
    "A08": "gastroenteritis",
    "A09": "gastroenteritis",
}
AGES = ((2, "0-2"), (64, "3-64"), (200, "65+"))
SMALLEST = 11
"""A count below it could point at somebody: SNDS releases none."""


def cell(event: ViewEvent) -> tuple[str, str, str] | None:
    """The week, syndrome and age group of a visit; None for what is none of the three syndromes, or not coded yet."""
    record, born = event.data["record"], event.data.get("demographics", {}).get("birth_year")
    reasons = [coding["code"] for reason in record.get("reasonCode", []) for coding in reason["coding"]]
    syndrome = next((SYNDROMES[code[:3]] for code in reasons if code[:3] in SYNDROMES), None)
    if syndrome is None or born is None or record["class"]["code"] != "EMER":
        return None
    year, week, _ = dt.date.fromisoformat(record["period"]["start"]).isocalendar()
    age = int(record["period"]["start"][:4]) - born
    return f"{year}-W{week:02d}", syndrome, next(group for oldest, group in AGES if age <= oldest)


def table(events: Iterable[ViewEvent]) -> list[dict[str, Any]]:
    """A line for each week and syndrome, a column for each age group.

    There are no totals: what is withheld could be had from them by subtraction. Nor does a withheld cell say whether
    anybody is in it.
    """
    counts = Counter(found for one in events if (found := cell(one)) is not None)
    lines = []
    for week, syndrome in sorted({(week, syndrome) for week, syndrome, _ in counts}):
        known = {group: counts[week, syndrome, group] for _, group in AGES}
        shown = {group: count if count >= SMALLEST else f"<{SMALLEST}" for group, count in known.items()}
        lines.append({"week": week, "syndrome": syndrome, **shown})
    return lines


def main() -> None:
    """Read the view as it is now, and write the table to standard output."""
    out = csv.DictWriter(sys.stdout, ["week", "syndrome", *(group for _, group in AGES)], lineterminator="\n")
    out.writeheader()
    out.writerows(table(local.subscriber(PERMIT, TEAM).read().entries()))


if __name__ == "__main__":
    main()
