"""One function that brings views to what they should hold: for new records, merges, splits, populations and scans."""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec
from prometheus_client import Counter as Metric

from contracts import audit
from contracts.messages import Content, Demographics, PatientLink, PatientsMerged, PatientSplit, SubjectsLinked
from contracts.permits import PermitError, read_permit
from runtime.messages import Emit, Message, Outputs
from services.access.adapters import EntryToWrite, History, Numbering, Prior, Seen, StoredPermit, Subject
from services.access.domain import indicators, views
from services.access.domain.policy import Facts, Policy, diagnoses
from services.access.domain.views import Change, Entry, Event, Ids, Person
from services.access.vault import KeyBroken, Vault

log = logging.getLogger("estuaire.access")

# Messages put into views, by permit and kind.
VIEW_MESSAGES: Final = Metric("estuaire_view_messages", "Messages put into views.", ["permit", "kind"])

ACCESS: Final = audit.actor("service", "access")
_CONTENT_TYPE: Final = {"content-type": b"application/cloudevents+json; charset=UTF-8"}


@dataclass(frozen=True, slots=True)
class Release:
    """An open permit, ready for use. `ticket` opens its rows in the database to who reads as a subscriber."""

    permit: str
    policy: Policy
    ids: Ids
    revision: int
    granted: str | None
    ticket: str = field(repr=False)


def permit_owner(permit: str) -> bytes:
    """What a permit's key is wrapped for."""
    return b"permit\n" + permit.encode()


def release_from(stored: StoredPermit, vault: Vault) -> Release:
    """The permit compiled and its key unwrapped. Raises PermitError, KeyBroken."""
    if stored.definition is None or stored.key is None:
        raise PermitError("the permit has no definition or no key")
    permit = read_permit(stored.definition)
    if permit.id != stored.permit:
        raise PermitError("the definition is that of another permit")
    ids = Ids(vault.unwrap(stored.key, permit_owner(stored.permit)))
    ticket = hashlib.sha256(stored.key).hexdigest()
    return Release(stored.permit, Policy(permit, stored.granted), ids, stored.revision, stored.granted, ticket)


def open_body(vault: Vault, facts: Facts, key: bytes | None, body: bytes | None) -> dict[str, Any]:
    """A record from its sealed body. Raises KeyBroken."""
    if key is None or body is None:
        raise KeyBroken("its key or its body is gone")
    try:
        record: dict[str, Any] = msgspec.msgpack.decode(vault.open(facts.subject, key, body, facts.event_id), type=dict)
    except msgspec.MsgspecError:
        raise KeyBroken("its body is not a record") from None
    return record


def target(link: PatientLink) -> str:
    """The patient that a link's subjects now belong to."""
    if isinstance(link, SubjectsLinked):
        return link.patient
    return link.survivor if isinstance(link, PatientsMerged) else link.new_patient


@dataclass(frozen=True, slots=True)
class Move:
    """Subjects that went from one patient to another by one link."""

    link: PatientsMerged | PatientSplit
    old: str
    subjects: frozenset[bytes]


@dataclass(slots=True)
class Work:
    """What a batch may have changed. `subjects` are all those of every patient concerned, as they now are."""

    subjects: Mapping[bytes, Subject]
    cause: Message
    records: dict[bytes, Facts] = field(default_factory=dict)
    contents: dict[bytes, Content] = field(default_factory=dict)
    priors: Mapping[bytes, Prior] = field(default_factory=dict)
    causes: dict[bytes, Message] = field(default_factory=dict)
    patients: set[str] = field(default_factory=set)
    moves: list[Move] = field(default_factory=list)
    delivers: bool = False
    """Whether it is a delivery, and not what a batch has brought."""

    def subjects_of(self) -> dict[str, list[Subject]]:
        """The subjects by their patient."""
        found: defaultdict[str, list[Subject]] = defaultdict(list)
        for one in self.subjects.values():
            found[one.patient].append(one)
        return found

    def touched(self) -> set[str]:
        """Every patient that something may have changed for."""
        of_records = {one.subject for one in self.records.values()}
        before = {prior.facts.subject for prior in self.priors.values()}
        return {self.subjects[one].patient for one in of_records | before} | self.patients


@dataclass(slots=True)
class _View:
    """One permit's view, as far as the work concerns it."""

    release: Release
    qualified: dict[str, bool]
    persons: dict[str, Person]
    whole: set[str] = field(default_factory=set)
    facts: dict[bytes, Facts] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    controls: list[_Control] = field(default_factory=list)
    withheld: list[bytes] = field(default_factory=list)
    deferred: list[bytes] = field(default_factory=list)
    remembered: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Control:
    """A control event to send to one of the two patients it is about."""

    patient: str
    kind: str
    link_version: int
    data: dict[str, str]


class Reconciler:
    """Works within the loop's transaction, on patients that are claimed."""

    def __init__(self, history: History, vault: Vault, partitions: int, clock: Callable[[], dt.datetime]) -> None:
        self._history = history
        self._vault = vault
        self._partitions = partitions
        self._clock = clock

    def reconcile(self, releases: Sequence[Release], work: Work, outputs: Outputs) -> None:
        """Bring the views of these permits to what they should hold, as far as `work` may have changed it.

        A record is looked at alone while its person stays the same under the permit. Otherwise, and after a change
        of links, all that the history has of the person is compared with all that the view holds of them.
        """
        if not releases:
            return
        subjects_of, touched = work.subjects_of(), work.touched()
        seen = self._history.seen([one.permit for one in releases], touched)
        demographics = {
            patient: views.demographics_of(views.newest(one.told for one in subjects_of.get(patient, ())))
            for patient in touched
        }
        opposed = self._history.opposed(touched)
        found = [self._view(release, demographics, opposed, seen, work) for release in releases]
        held = self._held(found, work)
        histories = self._histories(set().union(*(one.whole for one in found)), subjects_of)
        for one in found:
            self._plan(one, held.get(one.release.permit, {}), histories, work)
        waiting = [(one.release.permit, event_id) for one in found for event_id in one.deferred]
        self._history.defer(waiting, self._clock())
        found = [one for one in found if one.changes or one.controls or one.remembered or one.withheld]
        if found:
            self._publish(found, work, outputs)

    def _view(
        self,
        release: Release,
        demographics: Mapping[str, Demographics],
        opposed: Mapping[str, frozenset[str]],
        seen: Mapping[tuple[str, str], Seen],
        work: Work,
    ) -> _View:
        """Who the patients are under this permit, and which of them have to be looked at as a whole."""
        permit, policy = release.permit, release.policy
        # without a digest: seen under a former definition
        before = {
            patient: one for patient in demographics if (one := seen.get((permit, patient))) is not None and one.digest
        }
        qualified = self._qualified(policy, demographics.keys(), before, work)
        persons = {
            patient: views.person_under(policy, known, qualified[patient], opposed.get(patient, frozenset()))
            for patient, known in demographics.items()
        }
        view = _View(release, qualified, persons, whole=set(work.patients))
        for patient, person in persons.items():
            if patient not in before:
                # never seen: with a population, remember that they were looked at, for they may enter it later
                if policy.population is not None:
                    view.remembered.add(patient)
            elif before[patient].digest != person.digest:
                view.whole.add(patient)
                view.remembered.add(patient)
            elif before[patient].qualified != qualified[patient]:
                view.remembered.add(patient)
        return view

    def _qualified(
        self, policy: Policy, patients: Iterable[str], before: Mapping[str, Seen], work: Work
    ) -> dict[str, bool]:
        """Whether each patient's records give the evidence; the history is asked only where it is in doubt."""
        evidence = policy.evidence
        if not evidence.is_asked():
            return dict.fromkeys(patients, False)
        known = {patient: before[patient].qualified if patient in before else False for patient in patients}
        doubtful = {patient for patient in known if patient in work.patients or patient not in before}
        for event_id, facts in work.records.items():
            content, prior = work.contents.get(event_id), work.priors.get(event_id)
            patient = work.subjects[facts.subject].patient
            # what adds to enough changes nothing
            if (
                content is not None
                and not known[patient]
                and evidence.is_in(facts, diagnoses(facts.type, content.record))
            ):
                doubtful.add(patient)
            if prior is not None and evidence.is_in(prior.facts, prior.diagnoses):
                doubtful.add(work.subjects[prior.facts.subject].patient)
        having = self._history.qualified(doubtful, evidence) if doubtful else set()
        return known | {patient: patient in having for patient in doubtful}

    def _held(self, found: Sequence[_View], work: Work) -> dict[str, dict[bytes, Entry]]:
        """What the views hold of the records and of the whole patients that are looked at."""
        known = [event_id for event_id in work.records if event_id in work.priors]
        held = self._history.entries([one.release.permit for one in found], known) if known else {}
        pairs = [(one.release.permit, patient) for one in found for patient in one.whole]
        if pairs:
            for permit, entries in self._history.entries_of(pairs).items():
                held.setdefault(permit, {}).update(entries)
        return held

    def _histories(
        self, patients: Collection[str], subjects_of: Mapping[str, Sequence[Subject]]
    ) -> dict[str, dict[bytes, Facts]]:
        found: dict[str, dict[bytes, Facts]] = {patient: {} for patient in patients}
        patient_of = {one.subject: patient for patient in patients for one in subjects_of.get(patient, ())}
        if patient_of:
            for facts in self._history.facts_of(patient_of):
                found[patient_of[facts.subject]][facts.event_id] = facts
        return found

    def _plan(
        self, view: _View, held: Mapping[bytes, Entry], histories: Mapping[str, Mapping[bytes, Facts]], work: Work
    ) -> None:
        policy = view.release.policy
        in_force = policy.in_force(self._clock())
        view.facts = dict(work.records)
        for patient in view.whole:
            view.facts.update(histories[patient])
        wanted: dict[bytes, Entry | None] = {}
        for event_id, facts in view.facts.items():
            subject = work.subjects[facts.subject]
            if subject.key is not None:  # an erased subject leaves every view
                person = view.persons[subject.patient]
                # of a permit that is over nothing but erasures are told
                now = views.wanted_entry(policy, facts, subject.patient, person) if in_force else held.get(event_id)
                wanted[event_id] = now
                if event_id in work.records and event_id not in held and views.withheld(policy, facts, person):
                    view.withheld.append(event_id)
        view.changes = views.difference(wanted, held)
        if policy.waits and not work.delivers:
            # what leaves, leaves at once
            view.deferred = [one.event_id for one in view.changes if one.publish]
            view.changes = [replace(one, publish=None) for one in view.changes if one.withdraw]
        for move in work.moves:
            if any(
                entry.patient == move.old and event_id in view.facts and view.facts[event_id].subject in move.subjects
                for event_id, entry in held.items()
            ):
                view.controls += _controls(view.release.ids, move)

    def _publish(self, found: Sequence[_View], work: Work, outputs: Outputs) -> None:
        """Number the messages of each patient, put them out, and write down what the views now hold."""
        records = self._opened(found, work)
        hour = hour_of(self._clock())
        for view in found:
            view.changes = [one for one in view.changes if one.withdraw or one.event_id in records]
        numbers = self._numbers(found, records)
        written: list[EntryToWrite] = []
        deleted: list[tuple[str, bytes]] = []
        for view in found:
            permit = view.release.permit
            kinds: Counter[str] = Counter()
            told: defaultdict[str, list[str]] = defaultdict(list)
            if view.withheld:
                told["withheld"] = [view.release.ids.record(event_id) for event_id in view.withheld]
            for change, event in self._messages(view, records, numbers):
                cause = work.cause if change is None else work.causes.get(change.event_id, work.cause)
                outputs.emit(cause, self._emit(permit, event, hour))
                published = change is not None and event.type not in _VERDICTS
                if change is not None and change.publish is not None and published:
                    where = indicators.counted(view.release.policy.permit, event)
                    written.append(EntryToWrite(permit, change.event_id, change.publish, event.sequence, where))
                kinds["published" if published else event.type] += 1
                told["released" if published else _VERDICTS[event.type]].append(event.id)
            deleted += [
                (permit, one.event_id) for one in view.changes if one.publish is None or one.event_id not in records
            ]
            for kind, count in kinds.items():
                VIEW_MESSAGES.labels(permit, kind).inc(count)
            for verdict, ids in sorted(told.items()):
                leaf = audit.leaf(verdict, ACCESS, self._clock(), permit=permit, ids=ids)
                outputs.emit(work.cause, Emit(*audit.message(leaf), trace="none"))
        self._history.mark(
            [
                (view.release.permit, change.event_id)
                for view in found
                if view.release.policy.permit.indicators
                for change in view.changes
            ]
        )
        self._history.delete_entries(deleted)
        self._history.write_entries(written)

    def _opened(self, found: Sequence[_View], work: Work) -> dict[bytes, Mapping[str, Any]]:
        """The records to publish: those of the batch as they came, the others opened from the history."""
        opened: dict[bytes, Mapping[str, Any]] = {one: content.record for one, content in work.contents.items()}
        sealed = {
            change.event_id: view.facts[change.event_id]
            for view in found
            for change in view.changes
            if change.publish is not None and change.event_id not in opened
        }
        bodies = self._history.bodies(sealed) if sealed else {}
        for event_id, facts in sealed.items():
            try:
                key = work.subjects[facts.subject].key
                opened[event_id] = open_body(self._vault, facts, key, bodies.get(event_id))
            except KeyBroken as broken:
                log.error("a record is not released: %s", broken)
        return opened

    def _numbers(self, found: Sequence[_View], records: Collection[bytes]) -> dict[tuple[str, str], int]:
        """For each (permit, patient) the sequence number before the first of its messages."""
        wanted = []
        for view in found:
            counts = Counter(one.withdraw for one in view.changes if one.withdraw)
            counts.update(one.publish.patient for one in view.changes if one.publish and one.event_id in records)
            counts.update(one.patient for one in view.controls)
            for patient in counts.keys() | view.remembered:
                person, qualified = view.persons.get(patient), view.qualified.get(patient, False)
                wanted.append(
                    Numbering(
                        view.release.permit,
                        patient,
                        view.release.ids.subject(patient),
                        counts[patient],
                        qualified,
                        person.digest if person else b"",
                    )
                )
        last = self._history.number(wanted)
        return {(one.permit, one.patient): last[one.permit, one.patient] - one.messages for one in wanted}

    def _messages(
        self, view: _View, records: Mapping[bytes, Mapping[str, Any]], numbers: dict[tuple[str, str], int]
    ) -> Iterable[tuple[Change | None, Event]]:
        """The view's messages in the order of the project's own ids, which tells nothing of the hub's order.

        Withdrawals come first: where both subjects of a moved record share a partition, compaction keeps the last
        message of the key, and that has to be the one that publishes it.
        """
        ids, policy = view.release.ids, view.release.policy

        def number(patient: str) -> int:
            numbers[view.release.permit, patient] += 1
            return numbers[view.release.permit, patient]

        steps: list[tuple[bool, str, str, str, Change]] = []
        for change in view.changes:
            record = ids.record(change.event_id)
            if change.withdraw:
                steps.append((False, ids.subject(change.withdraw), record, change.withdraw, change))
            if change.publish and change.event_id in records:
                patient = change.publish.patient
                steps.append((True, ids.subject(patient), record, patient, change))
        for publishes, subject, record, patient, change in sorted(steps, key=lambda step: step[:3]):
            if publishes:
                facts, body, person = view.facts[change.event_id], records[change.event_id], view.persons[patient]
                yield change, views.published(policy, facts, body, person, record, subject, number(patient))
            else:
                yield change, views.withdrawn(record, subject, number(patient))
        for one in view.controls:
            subject = ids.subject(one.patient)
            message_id = ids.control(one.link_version, subject)
            yield None, views.control(message_id, one.kind, subject, number(one.patient), one.data)

    def resets(self, release: Release, revision: int) -> Iterator[Emit]:
        """What tells the readers of each partition of a view that it is made anew."""
        hour = hour_of(self._clock())
        for number in range(self._partitions):
            yield self._emit(release.permit, views.reset(release.ids.reset(revision, number)), hour, number)

    def _emit(self, permit: str, event: Event, hour: int, partition: int | None = None) -> Emit:
        if partition is None:
            partition = views.partition(str(event.subject), self._partitions)
        return Emit(
            topic=f"view-{permit}",
            key=event.id.encode(),
            value=views.encode(event),
            headers=_CONTENT_TYPE,
            partition=partition,
            trace="fresh",
            timestamp=hour,
        )


_VERDICTS: Final = {
    views.WITHDRAWN: "withdrawn",
    views.MERGED: "patients-merged",
    views.SPLIT: "patients-split",
}
"""What the audit log calls the messages that put no record into a view."""


def hour_of(moment: dt.datetime) -> int:
    """When the hour began (UTC, ms since the epoch): all that a message of a view says of when it was made.

    A finer time is the same in two views for one record, and joins them.
    """
    return int(moment.timestamp()) // 3600 * 3_600_000


def _controls(ids: Ids, move: Move) -> list[_Control]:
    """What tells both patients of a move, in the project's own ids."""
    new = target(move.link)
    if isinstance(move.link, PatientsMerged):
        kind, data = views.MERGED, {"survivor": ids.subject(new), "retired": ids.subject(move.old)}
    else:
        kind, data = views.SPLIT, {"patient": ids.subject(move.old), "new_patient": ids.subject(new)}
    return [_Control(patient, kind, move.link.link_version, data) for patient in (move.old, new)]
