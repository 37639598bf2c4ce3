"""From counts to a report: what a source sent, how complete and how valid it is, and what became of it. Pure."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from contracts.measures import (
    FIELD,
    FLAG,
    IDENTITY,
    IDENTITY_FIELDS,
    INVALID,
    LATE,
    LATENESS,
    RECORDS,
    REFUSED,
    REMOVED,
    RETRACTIONS,
    STATUS,
    STATUSES,
    SYSTEM,
    SYSTEMS,
    UNLINKABLE,
    WRONG,
    forms,
)
from contracts.sources import Registered

SILENT_AFTER: Final = dt.timedelta(days=1)
WEEK_DAYS: Final = 7
Counts = Mapping[tuple[str, str], int]
"""By record type and measure."""


class Source(BaseModel):
    """A producer: what the registry says of it, and what was seen."""

    source: str
    title: str
    contact: str
    formats: tuple[str, ...]
    expected_per_day: float | None = Field(description="Events a day, as registered.")
    registered: bool
    first_seen: dt.datetime | None = Field(description="When ingest first took or refused something of it.")
    last_seen: dt.datetime | None
    status: Literal["active", "silent", "never seen"] = Field(description="Silent: nothing for a day.")
    accepted: int = Field(description="Events acknowledged in the last seven days, today among them.")
    refused: int = Field(description="Events refused in the last seven days.")
    reasons: dict[str, int] = Field(description="These by reason.")
    per_day: float = Field(description="Mean of accepted events a day in that time, from the first one on.")
    expected_share: float | None = Field(description="`per_day` as a share of what is expected.")


class Part(BaseModel):
    """Some of the records."""

    name: str
    records: int
    share: float | None = Field(description="Of all that could be; null where there is none.")


class FieldQuality(BaseModel):
    """A top-level field of a record type."""

    name: str
    records: int = Field(description="Records that have it with a value that is kept.")
    share: float | None = Field(description="Completeness: of the records of this type.")
    invalid: int = Field(description="Records with a value in it that its grammar does not take, such as a wrong code.")
    invalid_share: float | None = Field(description="Of the records of this type.")


class TypeQuality(BaseModel):
    """The records of one type."""

    type: str = Field(description="Empty for refused events that state no known type.")
    records: int
    retractions: int
    refused: int
    removed: int = Field(description="Values that no allow-list names, and invalid ones; none of them is kept.")
    fields: list[FieldQuality]
    lateness: list[Part]


class DeadLetters(BaseModel):
    """Records that a later step could not take."""

    step: str
    reason: str
    records: int


class Day(BaseModel):
    """The volume of one day (UTC)."""

    day: dt.date
    accepted: int
    refused: int


class Quality(BaseModel):
    """The data quality of a source in a period. Days are UTC, and those on which something was counted."""

    model_config = ConfigDict(populate_by_name=True)

    source: str
    title: str
    registered: bool
    begin: dt.date = Field(alias="from")
    end: dt.date = Field(alias="to", description="Included.")
    accepted: int = Field(description="Events acknowledged: records and retractions, those sent again among them.")
    records: int
    retractions: int
    refused: int
    refused_share: float | None = Field(description="Of all events, accepted and refused.")
    reasons: list[Part] = Field(description="Refused events by reason; shares of all events.")
    wrong: list[Part] = Field(
        description="Refused events by the field that is wrong, where that is one of the hub's own form; shares of the"
        " refused. An event may have several."
    )
    removed: int = Field(description="Values that were not kept of accepted records.")
    identity: list[Part] = Field(description="Completeness: records whose identity has this field.")
    identifiers: list[Part] = Field(description="Records whose identity has a number of this system.")
    statuses: list[Part] = Field(description="Records by the status of their identity.")
    flags: list[Part] = Field(description="Records whose identity contradicts itself.")
    unlinkable: Part = Field(description="Records whose identity has nothing to be linked by.")
    lateness: list[Part] = Field(description="Records by how long after their event they arrived.")
    types: list[TypeQuality]
    duplicates: int = Field(description="Accepted events that the hub had already, with the same content.")
    duplicates_share: float | None = Field(description="Of the accepted events.")
    corrections: int
    conflicts: int = Field(description="Accepted events with other content under a known id, and no correction.")
    dead_letters: list[DeadLetters]
    steps: dict[str, dict[str, int]] = Field(description="What each later step made of the records, by verdict.")
    days: list[Day]


def listed(
    registered: Mapping[str, Registered],
    seen: Mapping[str, tuple[dt.datetime | None, dt.datetime | None, int, Mapping[str, int]]],
    now: dt.datetime,
) -> list[Source]:
    """The registry with what was seen (first, last, within seven days accepted and by reason refused), unregistered
    ones last."""
    found = []
    for name in sorted(registered.keys() | seen.keys(), key=lambda one: (one not in registered, one)):
        known = registered.get(name, Registered(source=name))
        first, last, accepted, reasons = seen.get(name, (None, None, 0, {}))
        days = min(WEEK_DAYS, max(1, (now.date() - first.date()).days + 1)) if first else WEEK_DAYS
        per_day = round(accepted / days, 1)
        expected = known.expected_per_day
        found.append(
            Source(
                source=name,
                title=known.title,
                contact=known.contact,
                formats=known.formats,
                expected_per_day=expected,
                registered=name in registered,
                first_seen=first,
                last_seen=last,
                status="never seen" if last is None else "active" if now - last < SILENT_AFTER else "silent",
                accepted=accepted,
                refused=sum(reasons.values()),
                reasons=dict(reasons),
                per_day=per_day,
                expected_share=round(per_day / expected, 4) if expected else None,
            )
        )
    return found


def report(
    known: Registered,
    period: tuple[dt.date, dt.date],
    counts: Counts,
    days: Iterable[tuple[dt.date, str, int]],
    *,
    is_registered: bool,
) -> Quality:
    """The report on a source, from its counts in the period; `days` are those of volume, by day and measure."""
    total: Counter[str] = Counter()
    by_type: defaultdict[str, Counter[str]] = defaultdict(Counter)
    steps: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for (kind, measure), count in counts.items():
        step, _, verdict = measure.partition(".")
        if step in STEPS:
            steps[step][verdict] = count
        else:
            total[measure] += count
            by_type[kind][measure] += count
    records, retractions, refused = total[RECORDS], total[RETRACTIONS], _under(total, REFUSED)
    accepted = records + retractions
    linkage = steps.get("linkage", {})
    return Quality(
        source=known.source,
        title=known.title,
        registered=is_registered,
        begin=period[0],
        end=period[1],
        accepted=accepted,
        records=records,
        retractions=retractions,
        refused=refused,
        refused_share=_share(refused, accepted + refused),
        reasons=_most(_parts(total, REFUSED, accepted + refused)),
        wrong=_most(_parts(total, WRONG, refused)),
        removed=total[REMOVED],
        identity=list(_parts(total, IDENTITY, records, IDENTITY_FIELDS)),
        identifiers=list(_parts(total, SYSTEM, records, SYSTEMS)),
        statuses=list(_parts(total, STATUS, records, STATUSES)),
        flags=_most(_parts(total, FLAG, records)),
        unlinkable=_part(UNLINKABLE, total[UNLINKABLE], records),
        lateness=list(_parts(total, LATE, records, LATENESS)),
        types=sorted((_of_type(*one) for one in by_type.items()), key=lambda one: (-one.records, one.type)),
        duplicates=linkage.get("duplicates", 0),
        duplicates_share=_share(linkage.get("duplicates", 0), accepted),
        corrections=linkage.get("corrections", 0),
        conflicts=linkage.get(f"{_DEAD}conflict", 0),
        dead_letters=[
            DeadLetters(step=step, reason=verdict.removeprefix(_DEAD), records=count)
            for step in STEPS
            for verdict, count in sorted(steps.get(step, {}).items())
            if verdict.startswith(_DEAD)
        ],
        steps={step: dict(sorted(steps[step].items())) for step in STEPS if step in steps},
        days=_days(days),
    )


STEPS: Final = ("pseudonym", "linkage", "access")
_DEAD: Final = "dead_lettered:"


def _of_type(kind: str, counts: Counter[str]) -> TypeQuality:
    records = counts[RECORDS]
    return TypeQuality(
        type=kind,
        records=records,
        retractions=counts[RETRACTIONS],
        refused=_under(counts, REFUSED),
        removed=counts[REMOVED],
        fields=[
            FieldQuality(
                name=name,
                records=counts[FIELD + name],
                share=_share(counts[FIELD + name], records),
                invalid=counts[INVALID + name],
                invalid_share=_share(counts[INVALID + name], records),
            )
            for name in _fields(kind, counts)
        ],
        lateness=list(_parts(counts, LATE, records, LATENESS)),
    )


def _fields(kind: str, counts: Counter[str]) -> Iterator[str]:
    """The fields of the forms in which records of this type came, also those that none of them has."""
    resources = counts[FIELD + _RESOURCE]
    came = {"hub": counts[RECORDS] > resources}
    fields = [name for form, names in forms(kind).items() if came.get(form, resources > 0) for name in names]
    yield from (name for name in dict.fromkeys(fields) if name != _RESOURCE)


_RESOURCE: Final = "resourceType"


def _days(counts: Iterable[tuple[dt.date, str, int]]) -> list[Day]:
    days: defaultdict[dt.date, Counter[str]] = defaultdict(Counter)
    for day, measure, count in counts:
        days[day]["refused" if measure.startswith(REFUSED) else "accepted"] += count
    return [Day(day=day, accepted=one["accepted"], refused=one["refused"]) for day, one in sorted(days.items())]


def _parts(counts: Counter[str], prefix: str, whole: int, names: Iterable[str] | None = None) -> Iterator[Part]:
    """The measures that begin so, as parts of the whole: those named, with none of some, or those there are."""
    if names is None:
        names = sorted(measure.removeprefix(prefix) for measure in counts if measure.startswith(prefix))
    for name in names:
        yield _part(name, counts[prefix + name], whole)


def _most(parts: Iterable[Part]) -> list[Part]:
    return sorted(parts, key=lambda part: (-part.records, part.name))


def _part(name: str, records: int, whole: int) -> Part:
    return Part(name=name, records=records, share=_share(records, whole))


def _under(counts: Counter[str], prefix: str) -> int:
    return sum(count for measure, count in counts.items() if measure.startswith(prefix))


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
