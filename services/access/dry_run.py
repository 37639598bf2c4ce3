"""Reads people from the history for a dry run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol

from contracts.permits import Permit, PermitError, read_permit
from services.access.adapters import CLOSED
from services.access.domain import views
from services.access.domain.dry_run import DryRun, Kept, Released
from services.access.domain.policy import Policy
from services.access.lookup import KeptRow, PermitRow, PersonRow
from services.access.reconciliation import open_body
from services.access.vault import KeyBroken, Vault

_AT_ONCE = 500


class Reader(Protocol):
    """What it reads."""

    def permits(self) -> list[PermitRow]: ...
    def people(self, after: str, count: int) -> list[PersonRow]: ...
    def opposed(self, patients: Sequence[str]) -> dict[str, frozenset[str]]: ...


def dry_run(permit: Permit, reader: Reader, vault: Vault, most: int, now: dt.datetime) -> tuple[Released, bool]:
    """What a permit would release of so many people if it were granted now, and whether these are all.

    Patients' ids are random, so that the first of them are a sample.
    """
    policy = Policy(permit, now.isoformat())
    run = DryRun(policy, dict(_others(permit.id, reader)))
    looked_at, after = 0, ""
    while looked_at < most and (page := reader.people(after, min(_AT_ONCE, most - looked_at))):
        opposed = reader.opposed([one.patient for one in page])
        for person in page:
            told = views.demographics_of(views.newest(person.told))
            kept = [_kept(row, policy, vault) for row in person.records]
            run.person(told, kept, opposed.get(person.patient, frozenset()))
        looked_at, after = looked_at + len(page), page[-1].patient
    return run.released(), not reader.people(after, 1)


def _others(permit: str, reader: Reader) -> Iterator[tuple[str, Policy]]:
    for row in reader.permits():
        if row.permit == permit or row.state == CLOSED or row.definition is None:
            continue
        with suppress(PermitError):
            yield row.permit, Policy(read_permit(row.definition), row.granted)


def _kept(row: KeptRow, policy: Policy, vault: Vault) -> Kept:
    record: dict[str, Any] = {}
    if policy.rows.include(row.facts):
        with suppress(KeyBroken):
            record = open_body(vault, row.facts, row.key, row.body)
    return Kept(row.facts, record, row.diagnoses)
