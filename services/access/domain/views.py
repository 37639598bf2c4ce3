"""A view: the project's own ids, its messages, and the difference between what it holds and what it should. Pure."""

from __future__ import annotations

import datetime as dt
import hmac
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec

from contracts.messages import Demographics, accepted_at
from services.access.domain.policy import HUB, Facts, Policy

WITHDRAWN = "record.withdrawn"
MERGED = "patient.merged"
SPLIT = "patient.split"
RESET = "view.reset"
_REMEMBERED = 20_000


class Ids:
    """Level 3: the ids of one project, under its permit's key. Each is 32 hexadecimal digits."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._subjects: dict[str, str] = {}

    def record(self, event_id: bytes) -> str:
        """The project's id of a record."""
        return self._id(b"record\0" + event_id.hex().encode())

    def subject(self, patient: str) -> str:
        """The project's id of a patient."""
        known = self._subjects.get(patient)
        if known is None:
            if len(self._subjects) > _REMEMBERED:
                self._subjects.clear()
            known = self._subjects[patient] = self._id(b"patient\0" + patient.encode())
        return known

    def control(self, link_version: int, subject: str) -> str:
        """The id of the control event that tells `subject` of a change of links."""
        return "control-" + self._id(f"control\0{link_version}\0{subject}".encode())

    def reset(self, revision: int, partition: int) -> str:
        """The id of the control event by which a partition of the view begins anew."""
        return "control-" + self._id(f"reset\0{revision}\0{partition}".encode())

    def order(self) -> bytes:
        """The secret by which this view is filled in an order of its own."""
        return hmac.digest(self._key, b"order\0", "sha256")

    def _id(self, text: bytes) -> str:
        return hmac.digest(self._key, text, "sha256")[:16].hex()


def partition(subject: str, partitions: int) -> int:
    """The partition of the view's topic in which all messages of a subject are."""
    return int(subject[:8], 16) % partitions


@dataclass(frozen=True, slots=True)
class Person:
    """A patient under one permit: whether in its population, what may be said, which oppositions bind, and a digest.

    `born` is the year of birth, where the permit asks for ages.
    """

    admitted: bool
    demographics: dict[str, Any]
    opposed: Collection[str]
    digest: bytes
    born: int | None = None


def person_under(
    policy: Policy, demographics: Demographics, qualified: bool, opposed: Collection[str] = frozenset()
) -> Person:
    """The patient as this permit lets it be seen; `opposed` is what it objects to: everything (`*`), or sources."""
    admitted = policy.admits(demographics, qualified)
    said = policy.demographics(demographics) if admitted else {}
    binding = () if policy.exempt else tuple(sorted(opposed))
    born = demographics.birth_year if policy.ages else None
    seen = (admitted, said, *(one for one in (binding, born) if one))
    digest = blake2b(msgspec.msgpack.encode(seen), digest_size=8).digest()
    return Person(admitted, said, binding, digest, born)


def version_of(revision: str, person: Person) -> bytes:
    """A digest of all that an entry's content depends on: it is published again when this changes."""
    return blake2b(revision.encode(), key=person.digest, digest_size=8).digest()


@dataclass(frozen=True, slots=True)
class Entry:
    """A record in a view: under which patient, and in which version. The hub's ids."""

    patient: str
    version: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """What has to be done for one record: withdraw it from a patient, publish it under one, or both."""

    event_id: bytes
    withdraw: str | None
    publish: Entry | None


def wanted_entry(policy: Policy, facts: Facts, patient: str, person: Person) -> Entry | None:
    """The entry that a view should hold of this record, if any."""
    if not person.admitted or not policy.allows(facts, person.born) or policy.withholds(person.opposed, facts.source):
        return None
    return Entry(patient, version_of(facts.revision, person))


def withheld(policy: Policy, facts: Facts, person: Person) -> bool:
    """Whether the view would hold this record, if its person did not object."""
    return person.admitted and policy.allows(facts, person.born) and policy.withholds(person.opposed, facts.source)


def difference(wanted: Mapping[bytes, Entry | None], held: Mapping[bytes, Entry]) -> list[Change]:
    """What turns `held` into `wanted`, in the order of event ids; a record that only `held` names is withdrawn."""
    changes = []
    for event_id in sorted(wanted.keys() | held.keys()):
        new, old = wanted.get(event_id), held.get(event_id)
        if new == old:
            continue
        leaves = old is not None and (new is None or new.patient != old.patient)
        changes.append(Change(event_id, old.patient if leaves and old else None, new))
    return changes


class Event(msgspec.Struct, kw_only=True):
    """A message of a view, as `contracts.events.ViewEvent` describes it; made by the thousand, so lighter than that."""

    id: str
    source: str
    type: str
    subject: str | msgspec.UnsetType = msgspec.UNSET
    time: str | msgspec.UnsetType = msgspec.UNSET
    sequence: int
    data: dict[str, Any]
    specversion: str = "1.0"
    datacontenttype: str = "application/json"

    def place(self) -> tuple[str, str]:
        """Where it is in its timeline."""
        return str(self.time), self.id


def published(
    policy: Policy, facts: Facts, record: Mapping[str, Any], person: Person, name: str, subject: str, sequence: int
) -> Event:
    """The message that puts a record into the view, as `name`.

    `undated` says that its time is that of arrival, `after_death` that it is later than its person's death. The latter
    is told only where the permit releases the death, and from the two times as it releases them: what the flag says,
    its reader could have found.
    """
    time = policy.time(facts.time)
    data: dict[str, Any] = {"record": policy.record(facts.type, record), "demographics": person.demographics}
    if not facts.dated:
        data["undated"] = True
    elif facts.type != "death.v1" and is_after(time, person.demographics.get("deceased")):
        data["after_death"] = True
    return Event(
        id=name,
        source=policy.source(facts.source),
        type=facts.type,
        subject=subject,
        time=time,
        sequence=sequence,
        data=data,
    )


def is_after(time: str, death: str | None) -> bool:
    """Whether an ISO 8601 time is later than a death, as far as the less precise of the two tells.

    A day of the one may be another day of the other, for times are in UTC and deaths are local: the day after is none.
    """
    if death is None:
        return False
    if len(time) < _DAY or len(death) < _DAY:
        return time[: len(death)] > death[: len(time)]
    return dt.date.fromisoformat(time[:_DAY]) > dt.date.fromisoformat(death[:_DAY]) + dt.timedelta(days=1)


_DAY = len("2026-03-01")


def withdrawn(name: str, subject: str, sequence: int) -> Event:
    """The message that takes a record out; it has the record's id, so that compaction removes the body."""
    return Event(id=name, source=HUB, type=WITHDRAWN, subject=subject, sequence=sequence, data={})


def control(name: str, kind: str, subject: str, sequence: int, data: dict[str, str]) -> Event:
    """The message that closes a merge or a split for one of its two subjects."""
    return Event(id=name, source=HUB, type=kind, subject=subject, sequence=sequence, data=dict(data))


def reset(name: str) -> Event:
    """The message by which a partition begins anew: nothing holds any more that came before it."""
    return Event(id=name, source=HUB, type=RESET, sequence=0, data={})


def encode(event: Event) -> bytes:
    """The event as JSON, without what it does not say."""
    return _json.encode(event)


_json = msgspec.json.Encoder()

FIELDS = ("sex", "birth_year", "birth_month", "commune", "deceased")
Told = Mapping[str, tuple[Any, str]]
"""Demographics with the revision that gave each."""


def telling(demographics: Demographics) -> dict[str, Any]:
    """What a record tells about its subject."""
    return {name: value for name in FIELDS if (value := getattr(demographics, name)) is not None}


def told_by(telling: Mapping[str, Any], revision: str) -> Told:
    """A record's telling, with the revision that gave it."""
    return {name: (value, revision) for name, value in telling.items()}


def newest(tellings: Iterable[Told]) -> dict[str, tuple[Any, str]]:
    """For each field, what the record said that the hub accepted last; `unknown` only where nobody knows.

    Versions count within one record, of which only the highest revision is asked, and never between two: each
    producer numbers as it likes. Of equal times the greater value holds, so that order is nothing.
    """
    found: dict[str, tuple[Any, str]] = {}
    ranks: dict[str, tuple[bool, int, str, str]] = {}
    for told in tellings:
        for name, (value, revision) in told.items():
            rank = (value != "unknown", _accepted(revision), str(value), revision)
            if name not in ranks or ranks[name] < rank:
                found[name], ranks[name] = (value, revision), rank
    return found


def demographics_of(told: Told) -> Demographics:
    """The values alone."""
    return Demographics(**{name: value for name, (value, _) in told.items()})


def _accepted(revision: str) -> int:
    try:
        return accepted_at(revision)
    except ValueError:
        return 0
