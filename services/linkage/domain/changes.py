"""What a new partition changes for those who hold the old one: joined, merged, split. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import msgspec

from contracts.messages import PatientLink, PatientsMerged, PatientSplit, SubjectsLinked


class Change(msgspec.Struct, frozen=True):
    """Subjects that have a new patient. `patients` are those affected; `link` makes the message for a version."""

    patient: bytes
    subjects: tuple[bytes, ...]
    patients: tuple[bytes, ...]
    link: Callable[[int], PatientLink]


def compare_partitions(before: Mapping[bytes, bytes | None], after: Mapping[bytes, bytes]) -> list[Change]:
    """The changes from one partition of a component to the next, in the order of the patients' ids.

    A patient lives while its founding subject is its own; one that ends has merged into where that subject went.
    """
    moves: defaultdict[tuple[bytes, bytes], list[bytes]] = defaultdict(list)
    for subject, patient in after.items():
        old = before[subject]
        if old != patient:
            moves[patient, old or b""].append(subject)
    existed = set(before.values())
    found = []
    for (patient, old), subjects in sorted(moves.items()):
        moved = tuple(sorted(subjects))
        if old and after.get(old) == patient:
            link = _merged(patient, old, moved)
        elif old and patient not in existed:
            link = _split(old, patient, moved)
        else:
            link = _linked(patient, moved)
        found.append(Change(patient, moved, (patient, old) if old else (patient,), link))
    return found


def _linked(patient: bytes, moved: tuple[bytes, ...]) -> Callable[[int], PatientLink]:
    return lambda version: SubjectsLinked(version, patient.hex(), moved)


def _merged(survivor: bytes, retired: bytes, moved: tuple[bytes, ...]) -> Callable[[int], PatientLink]:
    return lambda version: PatientsMerged(version, survivor.hex(), retired.hex(), moved)


def _split(patient: bytes, new_patient: bytes, moved: tuple[bytes, ...]) -> Callable[[int], PatientLink]:
    return lambda version: PatientSplit(version, patient.hex(), new_patient.hex(), moved)
