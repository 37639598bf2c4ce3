"""How right a linkage is, against the truth: precision and recall over pairs, overall and by what is difficult."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

from estuaire.explanation import Held
from estuaire.link import Linked, LinkError, Name
from services.linkage.domain.patients import decide_again
from services.linkage.domain.trials import settle_all, shifted

SHIFTS: Final = range(-9, 21)
"""Bits: from where every doubt about a weight links to where identifiers do almost alone."""
RELATIVE = "relative:"
"""How labels of a relation begin: the record's person has a relative of this kind in the file."""


class Truth(NamedTuple):
    """Whose a record really is, and the labels of what is difficult about it."""

    person: str
    traps: tuple[str, ...]


@dataclass(slots=True)
class Tally:
    """Pairs of records: those found to be of one person, those that are, and those that are both."""

    found: int = 0
    true: int = 0
    both: int = 0

    @property
    def precision(self) -> float:
        """The share of the found pairs that are true; 1 where none is found."""
        return self.both / self.found if self.found else 1.0

    @property
    def recall(self) -> float:
        """The share of the true pairs that are found; 1 where there is none."""
        return self.both / self.true if self.true else 1.0

    @property
    def f1(self) -> float:
        """The harmonic mean of the two."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


class Point(NamedTuple):
    """The pairs as they would be with every linking threshold so many bits higher."""

    bits: int
    tally: Tally


@dataclass(slots=True)
class Evaluation:
    """Pairs overall and by trap; by relation, of how many records, and how many are with a relative's."""

    records: int
    patients: int
    overall: Tally
    by_trap: dict[str, Tally] = field(default_factory=dict)
    with_relative: dict[str, tuple[int, int]] = field(default_factory=dict)
    missed: list[tuple[Name, Name]] = field(default_factory=list)
    wrong: list[tuple[Name, Name]] = field(default_factory=list)


def read_truth(path: Path) -> dict[Name, Truth]:
    """The truth from a CSV file `source,id,person,trap`; labels of one record are joined by `;`. Raises LinkError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            lacking = {"source", "id", "person"} - set(table.fieldnames or ())
            if lacking:
                raise LinkError(f"{path} lacks the column {', '.join(sorted(lacking))}: expected source,id,person,trap")
            return {
                Name(row["source"], row["id"]): Truth(
                    row["person"], tuple(filter(None, (row.get("trap") or "").split(";")))
                )
                for row in table
            }
    except (OSError, UnicodeDecodeError):
        raise LinkError(f"{path} cannot be read: expected a CSV file source,id,person,trap in UTF-8") from None


def evaluate(patients: Mapping[Name, str], truth: Mapping[Name, Truth], examples: int = 20) -> Evaluation:
    """Compare who was found to be whose with whose each is. Raises LinkError where a record has no truth.

    A pair counts under a trap if one of its records bears that label.
    """
    unknown = len(patients.keys() - truth.keys())
    if unknown:
        raise LinkError(f"the truth says nothing of {unknown} of the {len(patients)} records")
    by_patient: defaultdict[str, list[Name]] = defaultdict(list)
    by_person: defaultdict[str, list[Name]] = defaultdict(list)
    for name, patient in patients.items():
        by_patient[patient].append(name)
        by_person[truth[name].person].append(name)
    result = Evaluation(len(patients), len(by_patient), Tally())
    traps: defaultdict[str, Tally] = defaultdict(Tally)
    for one, other in _pairs(by_patient.values()):
        right = truth[one].person == truth[other].person
        for tally in _tallies(one, other, truth, result.overall, traps):
            tally.found += 1
            tally.both += right
        if not right and len(result.wrong) < examples:
            result.wrong.append((one, other))
    for one, other in _pairs(by_person.values()):
        for tally in _tallies(one, other, truth, result.overall, traps):
            tally.true += 1
        if patients[one] != patients[other] and len(result.missed) < examples:
            result.missed.append((one, other))
    result.by_trap = dict(sorted(traps.items()))
    result.with_relative = _with_relative(patients, truth, by_patient)
    return result


def count_pairs(patients: Mapping[Name, str], truth: Mapping[Name, Truth]) -> Tally:
    """The overall tally of `evaluate`, without going through the pairs."""
    persons = {name: truth[name].person for name in patients}
    return Tally(
        found=_within(patients.values()),
        true=_within(persons.values()),
        both=_within((patient, persons[name]) for name, patient in patients.items()),
    )


def threshold_curve(held: Held, truth: Mapping[Name, Truth], shifts: Sequence[int] = SHIFTS) -> list[Point]:
    """The pairs under each shift (bits, ascending) of the linking thresholds; those under 0 are the evaluation's own.

    Each point decides the kept pairs again and settles everybody anew, as the service would. Pairs that link under the
    first shift and do not under the last are looked at for each; the others are the same between.
    """
    if not shifts:
        return []
    lowest, highest = (
        decide_again(held.decided, held.subjects, shifted(held.rules, bits)) for bits in (shifts[0], shifts[-1])
    )
    ends = list(zip(lowest, highest, strict=True))
    firm = [one for one, other in ends if one == other]
    torn = [one for one, other in ends if one != other]
    points = []
    for bits in shifts:
        rules = shifted(held.rules, bits)
        decided = [*firm, *decide_again(torn, held.subjects, rules)]
        patients = settle_all(held.subjects, decided, held.stewards, rules)
        found = {name: patients[subject].hex() for name, subject in held.subject_of.items()}
        points.append(Point(bits, count_pairs(found, truth)))
    return points


def as_json(found: Evaluation, seconds: float) -> str:
    """The figures as one JSON object."""
    overall = found.overall
    return json.dumps(
        {
            "records": found.records,
            "patients": found.patients,
            "precision": round(overall.precision, 5),
            "recall": round(overall.recall, 5),
            "f1": round(overall.f1, 5),
            "by_trap": {
                trap: {
                    "pairs": one.true,
                    "precision": round(one.precision, 5),
                    "recall": round(one.recall, 5),
                    "f1": round(one.f1, 5),
                }
                for trap, one in found.by_trap.items()
            },
            "with_relative": {
                relation: {"records": records, "merged": merged}
                for relation, (records, merged) in found.with_relative.items()
            },
            "seconds": round(seconds, 1),
        }
    )


def as_table(found: Evaluation, linked: Linked) -> Group:
    """The figures and a few mistakes, for a person."""
    overall = found.overall
    table = Table(title=f"{found.records} records, {found.patients} patients, {linked.seconds:.1f} s")
    for heading in ("", "pairs", "precision", "recall", "F1"):
        table.add_column(heading, justify="left" if not heading else "right")
    for label, one in (("all", overall), *found.by_trap.items()):
        table.add_row(Text(label), str(one.true), f"{one.precision:.4f}", f"{one.recall:.4f}", f"{one.f1:.4f}")
    lines = [
        f"{relation}: {merged} of {records} records merged with the relative ({merged / records:.2%})"
        for relation, (records, merged) in found.with_relative.items()
    ]
    lines += [f"missed: {one.source} {one.id} and {other.source} {other.id}" for one, other in found.missed[:5]]
    lines += [f"wrong:  {one.source} {one.id} and {other.source} {other.id}" for one, other in found.wrong[:5]]
    return Group(table, *map(Text, (*lines, f"rules {linked.rules.name}")))


def _within(groups: Iterable[object]) -> int:
    """How many pairs there are within groups, given the group of each member."""
    return sum(size * (size - 1) // 2 for size in Counter(groups).values())


def _pairs(groups: Iterable[list[Name]]) -> Iterable[tuple[Name, Name]]:
    return (pair for group in groups for pair in combinations(group, 2))


def _tallies(
    one: Name, other: Name, truth: Mapping[Name, Truth], overall: Tally, traps: defaultdict[str, Tally]
) -> list[Tally]:
    return [overall, *(traps[trap] for trap in {*truth[one].traps, *truth[other].traps})]


def _with_relative(
    patients: Mapping[Name, str], truth: Mapping[Name, Truth], by_patient: Mapping[str, list[Name]]
) -> dict[str, tuple[int, int]]:
    """By relation: records that bear it, and those whose patient holds another person's record that bears it, too."""
    bearing: Counter[str] = Counter()
    merged: Counter[str] = Counter()
    persons_of: dict[tuple[str, str], set[str]] = {}
    for patient, names in by_patient.items():
        for name in names:
            for trap in truth[name].traps:
                if trap.startswith(RELATIVE):
                    persons_of.setdefault((patient, trap), set()).add(truth[name].person)
    for name, patient in patients.items():
        for trap in truth[name].traps:
            if trap.startswith(RELATIVE):
                bearing[trap] += 1
                merged[trap] += len(persons_of[patient, trap]) > 1
    return {trap.removeprefix(RELATIVE): (bearing[trap], merged[trap]) for trap in sorted(bearing)}
