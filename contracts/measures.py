"""What is counted of what producers send: the names of measures, which ingest writes and statistics reads.

All are counts of records but `removed`, which counts values. Ingest counts under the record's type (empty where it is
not known), once a record is acknowledged or refused:

- `records` that came with content or an identity, and `retractions`, apart: together they are what was accepted;
- of records, `identity.<what>`, `system.<identifier system>`, `status.<identity status>` and `field.<name>`: those
  that have it; `flag.<flag>`: those whose identity has this flag; `unlinkable`: those with nothing to be linked by;
- of records, `invalid.<field>`: those with a value in this field that its grammar does not take, such as a code that
  its system does not have. (A coding of another system beside one that is taken is none.)
- `removed`: values that no allow-list names, and invalid ones;
- of records, `late.<span>`: those that came so long after their event;
- `refused.<reason>`: those that were refused;
- of these, `wrong.<field>`: those that were refused for this field, of `fields()`. (What names no such field, such as a
  column of a file, counts under its reason alone.)
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final, get_args

import yaml

from contracts.events import RECORD_TYPES, Event, Identity, IdentityStatus, IdentitySystem

RECORDS: Final = "records"
RETRACTIONS: Final = "retractions"
REMOVED: Final = "removed"
UNLINKABLE: Final = "unlinkable"
IDENTITY: Final = "identity."
SYSTEM: Final = "system."
STATUS: Final = "status."
FLAG: Final = "flag."
FIELD: Final = "field."
INVALID: Final = "invalid."
LATE: Final = "late."
REFUSED: Final = "refused."
WRONG: Final = "wrong."

IDENTITY_FIELDS: Final = (
    "birth_family_name",
    "used_family_name",
    "given_names",
    "sex",
    "birth_date",
    "birth_place",
    "residence",
    "commune",
)
"""What an identity may have besides numbers. A birth date counts whole only, a sex unless it is `unknown`."""
SYSTEMS: Final[tuple[str, ...]] = get_args(IdentitySystem)
STATUSES: Final[tuple[str, ...]] = get_args(IdentityStatus)

_DAY: Final = 24 * 3600
SKEW_SECONDS: Final = 300
"""So far ahead of the hub's clock an event's time may be without being called of the future."""
SPANS: Final[Mapping[str, int]] = {
    "hour": 3600,
    "day": _DAY,
    "week": 7 * _DAY,
    "month": 31 * _DAY,
    "year": 366 * _DAY,
}
"""Each is less than so many seconds after the event, and no less than the one before it."""
FUTURE, MORE, UNKNOWN, BACKFILL = "future", "more", "unknown", "backfill"
LATENESS: Final = (FUTURE, *SPANS, MORE, UNKNOWN, BACKFILL)
"""How late a record may be: `unknown` is without a time, `backfill` came on the lane for history."""

OPEN: Final = (REFUSED, FLAG)
"""Measures whose second part is ingest's own word, and on no list here."""


@cache
def forms(record_type: str) -> Mapping[str, tuple[str, ...]]:
    """The top-level fields that a record of this type may keep, by the form it comes in: `hub`, or a FHIR resource."""
    path = files("contracts") / "content" / f"{record_type}.yaml"
    if not path.is_file():
        return {}
    told = yaml.safe_load(path.read_text(encoding="utf-8"))["forms"]
    return {
        form: tuple(name.removesuffix("[]") for name in fields if name not in _DIRECTIVES)
        for form, fields in told.items()
    }


@cache
def fields() -> frozenset[str]:
    """The fields for which an event can be refused: its own, `identity.<name>`, `record` and `record.<name>`."""
    own = (*(name for name in Event.model_fields if name != "data"), "identity", "record")
    records = (name for one in RECORD_TYPES for names in forms(one).values() for name in names)
    identity = (f"identity.{name}" for name in Identity.model_fields)
    return frozenset((*own, *identity, *(f"record.{name}" for name in records)))


@cache
def closed(record_type: str) -> frozenset[str]:
    """The measures that there can be under a type, but for those that begin as one of `OPEN` does; of no type, those
    that a refused event may have."""
    wrong = frozenset(WRONG + name for name in fields())
    if record_type not in RECORD_TYPES:
        return frozenset() if record_type else wrong
    names = [RECORDS, RETRACTIONS, REMOVED, UNLINKABLE]
    names += [IDENTITY + name for name in IDENTITY_FIELDS]
    names += [SYSTEM + name for name in SYSTEMS]
    names += [STATUS + name for name in STATUSES]
    names += [LATE + name for name in LATENESS]
    for of_form in forms(record_type).values():
        names += [prefix + name for name in of_form for prefix in (FIELD, INVALID)]
    return wrong.union(names)


_DIRECTIVES: Final = ("one_of", "any_of")
