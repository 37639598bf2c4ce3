"""Records, links and permits in; the history kept; what changes in the views out."""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from prometheus_client import Counter as Metric
from prometheus_client import Gauge

from contracts import messages
from contracts.events import DELETED
from contracts.messages import (
    Content,
    Demographics,
    Headers,
    PatientLink,
    PatientsMerged,
    PatientSplit,
    PermitClosed,
    PermitGranted,
    PermitKeyWrapped,
    RecordLinked,
    SubjectsLinked,
    ViewScan,
)
from contracts.permits import PermitError, read_permit
from runtime.messages import Emit, InvalidMessage, Message, Outputs, Reason
from runtime.sealing import Opener, SealBroken
from services.access.adapters import (
    CLOSED,
    FILLING,
    OPEN,
    WAITING_FOR_GRANT,
    WAITING_FOR_KEY,
    History,
    KeyBroken,
    Numbering,
    Prior,
    Seen,
    StoredPermit,
    StoredRecord,
    Subject,
    Vault,
    shard_range,
)
from services.access.domain import views
from services.access.domain.policy import Facts, Policy, diagnoses
from services.access.domain.views import Change, Entry, Ids, Person, Told

log = logging.getLogger("estuaire.access")

PERMITS = "permits"
LINKS = "patient-links"
LINKED = "records-linked"
LANES = (PERMITS, LINKS, LINKED, f"{LINKED}-backfill")

# Messages put into views, by permit and kind.
VIEW_MESSAGES: Final = Metric("estuaire_view_messages", "Messages put into views.", ["permit", "kind"])
# Permits that should be open and release nothing, because their definition or key cannot be used.
UNUSABLE: Final = Gauge("estuaire_permits_unusable", "Permits whose definition or key cannot be used.")
# Grants that the loop refused: the same id with another definition, or closed before.
REFUSED: Final = Metric("estuaire_permits_refused", "Grants of an id that is taken.")

_CONTENT_TYPE: Final = {"content-type": b"application/cloudevents+json; charset=UTF-8"}


def permit_owner(permit: str) -> bytes:
    """What a permit's key is wrapped for."""
    return b"permit\n" + permit.encode()


@dataclass(frozen=True, slots=True)
class Release:
    """An open permit, ready for use."""

    permit: str
    version: int
    policy: Policy
    ids: Ids


def release_from(stored: StoredPermit, vault: Vault) -> Release:
    """The permit compiled and its key unwrapped. Raises PermitError, KeyBroken."""
    if stored.definition is None or stored.key is None:
        raise PermitError("the permit has no definition or no key")
    permit = read_permit(stored.definition)
    if permit.id != stored.permit:
        raise PermitError("the definition is that of another permit")
    key = vault.unwrap(stored.key, permit_owner(stored.permit))
    return Release(stored.permit, stored.version, Policy(permit), Ids(key))


@dataclass(slots=True)
class _Record:
    """A record as it comes in."""

    cause: Message
    facts: Facts
    hint: str
    content: Content | None


@dataclass(slots=True)
class _Work:
    """What a batch may have changed, for `reconcile` to look at."""

    subjects: dict[bytes, Subject]
    cause: Message
    records: dict[bytes, Facts] = field(default_factory=dict)
    contents: dict[bytes, Content] = field(default_factory=dict)
    priors: dict[bytes, Prior] = field(default_factory=dict)
    causes: dict[bytes, Message] = field(default_factory=dict)
    patients: set[str] = field(default_factory=set)
    moves: list[_Move] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Move:
    """Subjects that went from one patient to another by one link."""

    link: PatientsMerged | PatientSplit
    old: str
    subjects: frozenset[bytes]


@dataclass(slots=True)
class _Planned:
    """What one permit's view needs."""

    release: Release
    persons: dict[str, Person]
    diagnosed: dict[str, bool]
    facts: dict[bytes, Facts]
    changes: list[Change]
    controls: list[tuple[str, int, str, dict[str, str]]]
    remembered: set[str]


class Access:
    """The step of this service. `handle` runs inside the transaction of the loop."""

    def __init__(
        self,
        history: History,
        vault: Vault,
        opener: Opener,
        create_view: Callable[[str], object],
        partitions: int,
        topic_prefix: str = "",
        scan_chunk: int = 500,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._history = history
        self._vault = vault
        self._opener = opener
        self._create_view = create_view
        self._partitions = partitions
        self._prefix = topic_prefix
        self._chunk = scan_chunk
        self._clock = clock
        self._releases: dict[str, Release | None] = {}
        self._versions: dict[str, int] = {}
        self._permit = msgspec.msgpack.Decoder(messages.PermitMessage)
        self._link = msgspec.msgpack.Decoder(PatientLink)
        self._linked = msgspec.msgpack.Decoder(RecordLinked)
        self._content = msgspec.msgpack.Decoder(Content)

    def prepare(self, batch: Sequence[Message]) -> None:
        """Nothing: all writes belong to the batch's transaction."""

    def origin(self, message: Message) -> tuple[str, int]:
        """The record's source, and when the hub accepted it."""
        source = message.headers.get(Headers.SOURCE, b"").decode("utf-8", "replace")
        revision = message.headers.get(Headers.REVISION, b"").decode("ascii", "replace")
        try:
            return source, messages.accepted_at(revision)
        except ValueError:
            return source, 0

    def handle(self, batch: Sequence[Message]) -> Outputs:
        """Permits first, then links, then records, then the filling of views."""
        outputs = Outputs()
        of: defaultdict[str, list[Message]] = defaultdict(list)
        for message in batch:
            of[message.topic.removeprefix(self._prefix).removesuffix("-backfill")].append(message)
        self._history.enter(alone=PERMITS in of)
        scans = [scan for message in of[PERMITS] for scan in self._permits(message, outputs)]
        releases = self._open_releases()
        if of[LINKS]:
            self._links(of[LINKS], releases, outputs)
        if of[LINKED]:
            self._records(of[LINKED], releases, outputs)
        for message, scan in scans:
            self._scan(message, scan, releases, outputs)
        return outputs

    # permits

    def _permits(self, message: Message, outputs: Outputs) -> list[tuple[Message, ViewScan]]:
        if not message.value:
            return []
        try:
            decoded = self._permit.decode(message.value)
            if isinstance(decoded, ViewScan):
                return [(message, decoded)]
            if isinstance(decoded, PermitGranted):
                self._granted(message, decoded, outputs)
            elif isinstance(decoded, PermitKeyWrapped):
                self._key(message, decoded, outputs)
            else:
                self._closed(message, decoded, outputs)
        except msgspec.MsgspecError:
            outputs.reject(message, InvalidMessage(Reason.DECODING, "the body is not a PermitMessage"))
        except InvalidMessage as why:
            outputs.reject(message, why)
        return []

    def _granted(self, message: Message, granted: PermitGranted, outputs: Outputs) -> None:
        try:
            permit = read_permit(granted.definition)
        except PermitError:
            log.error("a granted permit releases nothing: its definition is broken")
            raise InvalidMessage(Reason.SCHEMA, "the permit's definition is broken") from None
        if permit.id != granted.permit:
            raise InvalidMessage(Reason.SCHEMA, "the definition is that of another permit")
        known = self._history.permit(permit.id)
        definition = permit.definition()
        if known is None:
            self._history.save_permit(permit.id, WAITING_FOR_KEY, definition, granted.granted, None)
        elif known.state == WAITING_FOR_GRANT and known.key is not None:
            self._open(message, permit.id, definition, granted.granted, known.key, outputs)
        elif known.state == CLOSED or known.definition != definition:
            REFUSED.inc()
            log.error("a grant is refused: permit %s is %s with another definition or closed", permit.id, known.state)

    def _key(self, message: Message, wrapped: PermitKeyWrapped, outputs: Outputs) -> None:
        known = self._history.permit(wrapped.permit)
        if known is not None and known.state == CLOSED:
            outputs.emit(message, _tombstone(f"{wrapped.permit}#key"))
            return
        try:
            key = self._opener.open(wrapped.key, messages.permit_associated(wrapped.permit))
        except SealBroken as broken:
            log.error("permit %s releases nothing: its key cannot be opened", wrapped.permit)
            raise InvalidMessage(Reason.KEYS, f"the permit's key cannot be opened: {broken}") from None
        if len(key) != 32:
            raise InvalidMessage(Reason.KEYS, "the permit's key does not have 32 bytes")
        kept = self._vault.wrap(key, permit_owner(wrapped.permit))
        if known is None:
            self._history.save_permit(wrapped.permit, WAITING_FOR_GRANT, None, None, kept)
        elif known.state == WAITING_FOR_KEY and known.definition is not None:
            self._open(message, wrapped.permit, known.definition, known.granted, kept, outputs)

    def _open(
        self,
        message: Message,
        permit: str,
        definition: bytes,
        granted: str | None,
        key: bytes,
        outputs: Outputs,
    ) -> None:
        """The topic first, then the row, then the order to fill it, shard by shard."""
        self._create_view(permit)
        self._history.save_permit(permit, FILLING, definition, granted, key)
        self._history.start_scans(permit, self._partitions)
        for shard in range(self._partitions):
            outputs.emit(message, _scan_order(ViewScan(permit, shard)))

    def _closed(self, message: Message, closed: PermitClosed, outputs: Outputs) -> None:
        known = self._history.permit(closed.permit)
        if known is not None and known.state == CLOSED:
            return
        definition, granted = (known.definition, known.granted) if known else (None, None)
        self._history.save_permit(closed.permit, CLOSED, definition, granted, None)
        self._history.drop_view(closed.permit)
        outputs.emit(message, _tombstone(f"{closed.permit}#key"))

    def _open_releases(self) -> list[Release]:
        """The permits that release something now; one that cannot be used is left out, and an alarm is raised."""
        versions = self._history.open_permits()
        for permit, version in versions.items():
            if self._versions.get(permit) == version:
                continue
            stored = self._history.permit(permit)
            try:
                self._releases[permit] = release_from(stored, self._vault) if stored else None
            except (PermitError, KeyBroken):
                log.error("permit %s releases nothing: its definition or its key cannot be used", permit)
                self._releases[permit] = None
        self._versions = versions
        self._releases = {permit: self._releases[permit] for permit in versions}
        UNUSABLE.set(sum(one is None for one in self._releases.values()))
        now = self._clock()
        return [one for one in self._releases.values() if one is not None and one.policy.in_force(now)]

    def _scan(self, message: Message, scan: ViewScan, releases: Sequence[Release], outputs: Outputs) -> None:
        """One chunk of one shard, for one permit; then the order for the next."""
        if not self._history.is_scanning(scan.permit, scan.shard):
            return
        release = next((one for one in releases if one.permit == scan.permit), None)
        if release is None:
            log.error("the view of %s is not filled: the permit is expired or cannot be used", scan.permit)
            return
        page = self._history.page(scan.after, *shard_range(scan.shard, self._partitions), self._chunk)
        if page:
            hints = {one.subject: "" for one in page}
            subjects = self._history.claim(hints, ())
            facts = {
                event_id: prior.facts for event_id, prior in self._history.priors([f.event_id for f in page]).items()
            }
            work = _Work(subjects, message, records=facts, priors=dict.fromkeys(facts, _HELD))
            self._reconcile([release], work, outputs)
        if len(page) == self._chunk:
            outputs.emit(message, _scan_order(ViewScan(scan.permit, scan.shard, page[-1].event_id)))
            return
        outputs.emit(message, _tombstone(_scan_key(scan.permit, scan.shard)))
        if self._history.end_scan(scan.permit, scan.shard):
            stored = self._history.permit(scan.permit)
            if stored is not None and stored.state == FILLING:
                self._history.save_permit(stored.permit, OPEN, stored.definition, stored.granted, stored.key)

    # links

    def _links(self, batch: Sequence[Message], releases: Sequence[Release], outputs: Outputs) -> None:
        """Of each subject the highest link version holds; a patient that really changes is reconciled, both ways."""
        newest: dict[bytes, messages.SubjectsLinked | PatientsMerged | PatientSplit] = {}
        for message in batch:
            try:
                link = self._link.decode(message.value)
            except msgspec.MsgspecError:
                outputs.reject(message, InvalidMessage(Reason.DECODING, "the body is not a PatientLink"))
                continue
            if "\0" in _target(link):
                outputs.reject(message, InvalidMessage(Reason.SCHEMA, "a patient id has a NUL in it"))
                continue
            for subject in link.subjects:
                if subject not in newest or newest[subject].link_version < link.link_version:
                    newest[subject] = link
        hints = {subject: _target(link) for subject, link in newest.items()}
        subjects = self._history.claim(hints, hints.values())
        moves: dict[bytes, tuple[str, int]] = {}
        gone: defaultdict[tuple[int, str], set[bytes]] = defaultdict(set)
        work = _Work(subjects, batch[0])
        by_version = {link.link_version: link for link in newest.values()}
        for subject, link in newest.items():
            known = subjects[subject]
            if known.link_version >= link.link_version:
                continue
            target = _target(link)
            moves[subject] = (target, link.link_version)
            if known.patient != target:
                work.patients |= {known.patient, target}
                gone[link.link_version, known.patient].add(subject)
                known.patient = target
        self._history.relink(moves)
        for (version, old), moved in sorted(gone.items()):
            link = by_version[version]
            if not isinstance(link, SubjectsLinked):
                work.moves.append(_Move(link, old, frozenset(moved)))
        if work.patients:
            self._reconcile(releases, work, outputs)

    # records

    def _records(self, batch: Sequence[Message], releases: Sequence[Release], outputs: Outputs) -> None:
        """Keep the highest revision of each record, and what its person's demographics are."""
        arrived: list[_Record] = []
        for message in batch:
            try:
                arrived.append(self._read(message))
            except InvalidMessage as why:
                outputs.reject(message, why)
        if not arrived:
            return
        priors = self._history.priors({one.facts.event_id for one in arrived})
        newest: dict[bytes, _Record] = {}
        for one in arrived:
            event_id = one.facts.event_id
            prior, other = priors.get(event_id), newest.get(event_id)
            stale = prior is not None and prior.facts.revision >= one.facts.revision
            if stale or (other is not None and other.facts.revision >= one.facts.revision):
                outputs.count(one.facts.source, "superseded")
                continue
            if other is not None:
                outputs.count(other.facts.source, "superseded")
            newest[event_id] = one
        hints = {one.facts.subject: one.hint for one in arrived}
        hints |= {prior.facts.subject: "" for prior in priors.values()}
        subjects = self._history.claim(hints, ())
        self._tell(arrived, subjects)
        work = _Work(subjects, batch[0], priors=priors)
        rows = []
        for event_id, one in newest.items():
            outputs.count(one.facts.source, "retracted" if one.facts.retracted else "stored")
            row = self._row(one, subjects, priors.get(event_id))
            rows.append(row)
            work.records[event_id] = row.facts
            work.causes[event_id] = one.cause
            if one.content is not None:
                work.contents[event_id] = one.content
        self._history.store(rows)
        self._reconcile(releases, work, outputs)

    def _read(self, message: Message) -> _Record:
        event_id, kind, source, digest, revision, hint = (message.header(name) for name in _RECORD_HEADERS)
        try:
            linked = self._linked.decode(message.value)
            opened = self._opener.open(linked.content, messages.associated(event_id, kind, source, digest))
            content = self._content.decode(opened)
            moment = dt.datetime.fromisoformat(content.time)
            facts = Facts(
                event_id=bytes.fromhex(event_id),
                subject=linked.subject,
                revision=revision,
                type=kind.removesuffix(DELETED),
                source=source,
                time=moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC),
                retracted=kind.endswith(DELETED),
            )
        except SealBroken as broken:
            raise InvalidMessage(Reason.KEYS, f"the content cannot be opened: {broken}") from None
        except (msgspec.MsgspecError, ValueError):
            raise InvalidMessage(Reason.DECODING, "the body is not a RecordLinked with a Content") from None
        if len(facts.event_id) != 16 or not linked.subject or not hint or "\0" in f"{source}{kind}{revision}{hint}":
            raise InvalidMessage(Reason.SCHEMA, "an id has a wrong length, or a header a NUL in it")
        return _Record(message, facts, hint, None if facts.retracted else content)

    def _tell(self, arrived: Iterable[_Record], subjects: Mapping[bytes, Subject]) -> None:
        told: defaultdict[bytes, list[Told]] = defaultdict(list)
        for one in arrived:
            if one.content is not None and (said := views.telling(one.content.demographics, one.facts.revision)):
                told[one.facts.subject].append(said)
        changed = {}
        for subject, sayings in told.items():
            known = subjects[subject]
            newest = views.newest([known.told, *sayings])
            if views.demographics_of(newest) != views.demographics_of(known.told) or _is_newer(newest, known.told):
                changed[subject] = known.told = newest
        self._history.tell(changed)

    def _row(self, one: _Record, subjects: Mapping[bytes, Subject], prior: Prior | None) -> StoredRecord:
        facts = one.facts
        if one.content is None:
            if prior is not None:
                facts = Facts(
                    *(facts.event_id, prior.facts.subject, facts.revision, prior.facts.type),
                    *(facts.source, prior.facts.time, True),
                )
            return StoredRecord(facts, 1, (), None)
        key = subjects[facts.subject].key
        body = None
        if key is not None:
            body = self._vault.seal(facts.subject, key, msgspec.msgpack.encode(one.content.record), facts.event_id)
        codes = diagnoses(facts.type, one.content.record)
        return StoredRecord(facts, one.content.schema_version, codes, body)

    # views

    def _reconcile(self, releases: Sequence[Release], work: _Work, outputs: Outputs) -> None:
        """Bring the views of these permits to what they should hold, as far as `work` may have changed it.

        A record is looked at alone while its person stays the same under the permit; otherwise, and after a change of
        links, the person's whole history is compared with the whole of what the view holds of them.
        """
        if not releases:
            return
        patient_of = {subject: one.patient for subject, one in work.subjects.items()}
        touched = {patient_of[facts.subject] for facts in work.records.values()} | work.patients
        touched |= {
            patient_of[prior.facts.subject] for prior in work.priors.values() if prior.facts.subject in patient_of
        }
        subjects_of: defaultdict[str, list[Subject]] = defaultdict(list)
        for one in work.subjects.values():
            subjects_of[one.patient].append(one)
        persons = {
            patient: views.demographics_of(views.newest(one.told for one in subjects_of[patient]))
            for patient in touched
        }
        names = [one.permit for one in releases]
        seen = self._history.seen(names, touched)
        under = {one.permit: self._persons_under(one, persons, seen, subjects_of, work) for one in releases}
        whole = {
            (permit, patient)
            for permit, (people, _) in under.items()
            for patient, person in people.items()
            if patient in work.patients
            or ((before := seen.get((permit, patient))) is not None and before.digest != person.digest)
        }
        held = self._held(names, whole, work)
        histories = self._histories({patient for _, patient in whole}, subjects_of)
        planned = []
        for release in releases:
            people, diagnosed = under[release.permit]
            mine = {patient for permit, patient in whole if permit == release.permit}
            facts = {**work.records}
            for patient in mine:
                facts.update(histories[patient])
            holds = held.get(release.permit, {})
            wanted = {
                event_id: views.wanted_entry(release.policy, one, patient, people[patient])
                for event_id, one in facts.items()
                if (patient := patient_of[one.subject]) in people and work.subjects[one.subject].key is not None
            }
            changes = views.difference(wanted, holds)
            remembered = {
                patient
                for patient, person in people.items()
                if ((before := seen.get((release.permit, patient))) is None and release.policy.population is not None)
                or (before is not None and before != Seen(diagnosed[patient], person.digest))
            }
            controls = self._controls(release, work, holds, facts)
            if changes or remembered or controls:
                planned.append(_Planned(release, people, diagnosed, facts, changes, controls, remembered))
        if planned:
            self._publish(planned, work, outputs)

    def _persons_under(
        self,
        release: Release,
        persons: Mapping[str, Demographics],
        seen: Mapping[tuple[str, str], Seen],
        subjects_of: Mapping[str, Sequence[Subject]],
        work: _Work,
    ) -> tuple[dict[str, Person], dict[str, bool]]:
        policy = release.policy
        diagnosed = dict.fromkeys(persons, False)
        if policy.prefixes:
            doubtful = {
                patient for patient in persons if patient in work.patients or (release.permit, patient) not in seen
            }
            for event_id, facts in work.records.items():
                doubtful |= self._doubted(policy, work, event_id, facts)
            asked = [one.subject for patient in doubtful for one in subjects_of[patient]]
            having = self._history.diagnosed(asked, policy.prefixes) if asked else set()
            for patient in persons:
                if patient in doubtful:
                    diagnosed[patient] = any(one.subject in having for one in subjects_of[patient])
                else:
                    diagnosed[patient] = seen[release.permit, patient].diagnosed
        people = {
            patient: views.person_under(policy, demographics, diagnosed[patient])
            for patient, demographics in persons.items()
        }
        return people, diagnosed

    def _doubted(self, policy: Policy, work: _Work, event_id: bytes, facts: Facts) -> set[str]:
        """The patients whose diagnoses this record may have changed, as far as the permit asks for them."""
        found = set()
        content = work.contents.get(event_id)
        if content is not None and any(
            code.startswith(policy.prefixes) for code in diagnoses(facts.type, content.record)
        ):
            found.add(work.subjects[facts.subject].patient)
        prior = work.priors.get(event_id)
        if prior is not None and any(code.startswith(policy.prefixes) for code in prior.diagnoses):
            found.add(work.subjects[prior.facts.subject].patient)
        return found

    def _held(
        self, permits: Collection[str], whole: Collection[tuple[str, str]], work: _Work
    ) -> dict[str, dict[bytes, Entry]]:
        """What the views hold of the records and of the whole patients that are looked at."""
        before = [event_id for event_id in work.records if event_id in work.priors]
        held = self._history.entries(permits, before) if before else {}
        if whole:
            for permit, entries in self._history.entries_of(whole).items():
                held.setdefault(permit, {}).update(entries)
        return held

    def _histories(
        self, patients: Collection[str], subjects_of: Mapping[str, Sequence[Subject]]
    ) -> dict[str, dict[bytes, Facts]]:
        patient_of = {one.subject: patient for patient in patients for one in subjects_of.get(patient, ())}
        found: dict[str, dict[bytes, Facts]] = {patient: {} for patient in patients}
        if patient_of:
            for facts in self._history.facts_of(patient_of):
                found[patient_of[facts.subject]][facts.event_id] = facts
        return found

    def _controls(
        self, release: Release, work: _Work, holds: Mapping[bytes, Entry], facts: Mapping[bytes, Facts]
    ) -> list[tuple[str, int, str, dict[str, str]]]:
        """(patient to tell, link version, kind, data) for each link that moved entries of this view."""
        controls = []
        for move in work.moves:
            concerned = any(
                entry.patient == move.old and event_id in facts and facts[event_id].subject in move.subjects
                for event_id, entry in holds.items()
            )
            if not concerned:
                continue
            old, new = release.ids.subject(move.old), release.ids.subject(_target(move.link))
            if isinstance(move.link, PatientsMerged):
                kind, data = views.MERGED, {"survivor": new, "retired": old}
            else:
                kind, data = views.SPLIT, {"patient": old, "new_patient": new}
            controls += [(patient, move.link.link_version, kind, data) for patient in (move.old, _target(move.link))]
        return controls

    def _publish(self, planned: Sequence[_Planned], work: _Work, outputs: Outputs) -> None:
        """Number the messages of each subject, write what the views now hold, and put the messages out.

        Within a batch a view's messages are in the order of the project's own ids, which tells nothing of the hub's.
        """
        records = self._contents(planned, work)
        numbering: list[Numbering] = []
        for plan in planned:
            plan.changes = [
                one for one in plan.changes if one.publish is None or one.event_id in records or one.withdraw
            ]
            counts: Counter[str] = Counter(one.withdraw for one in plan.changes if one.withdraw)
            counts.update(one.publish.patient for one in plan.changes if one.publish and one.event_id in records)
            counts.update(patient for patient, *_ in plan.controls)
            for patient in counts.keys() | plan.remembered:
                person, permit = plan.persons[patient], plan.release.permit
                subject = plan.release.ids.subject(patient)
                numbering.append(
                    Numbering(permit, patient, subject, counts[patient], plan.diagnosed[patient], person.digest)
                )
        last = self._history.number(numbering)
        next_number = {(one.permit, one.patient): last[one.permit, one.patient] - one.count for one in numbering}
        subject_of = {(one.permit, one.patient): one.subject for one in numbering}
        written: list[tuple[str, bytes, Entry, int]] = []
        deleted: list[tuple[str, bytes]] = []

        for plan in planned:
            permit, ids, policy = plan.release.permit, plan.release.ids, plan.release.policy

            def number(patient: str, permit: str = permit) -> int:
                next_number[permit, patient] += 1
                return next_number[permit, patient]

            steps: list[tuple[str, str, Change, bool]] = []
            for change in plan.changes:
                record_id = ids.record(change.event_id)
                if change.withdraw:
                    steps.append((subject_of[permit, change.withdraw], record_id, change, False))
                if change.publish and change.event_id in records:
                    steps.append((subject_of[permit, change.publish.patient], record_id, change, True))
                else:
                    deleted.append((permit, change.event_id))
            steps.sort(key=_by_ids)
            kinds: Counter[str] = Counter()
            for subject, record_id, change, publishes in steps:
                cause = work.causes.get(change.event_id, work.cause)
                if publishes and change.publish:
                    sequence = number(change.publish.patient)
                    facts, person = plan.facts[change.event_id], plan.persons[change.publish.patient]
                    event = views.published(policy, ids, facts, records[change.event_id], person, subject, sequence)
                    written.append((permit, change.event_id, change.publish, sequence))
                    kinds["published"] += 1
                else:
                    event = views.withdrawn(record_id, subject, number(change.withdraw or ""))
                    kinds["withdrawn"] += 1
                outputs.emit(cause, self._message(permit, event))
            for patient, version, kind, data in plan.controls:
                subject = subject_of[permit, patient]
                event = views.control(ids.control(version, subject), kind, subject, number(patient), data)
                outputs.emit(work.cause, self._message(permit, event))
                kinds[kind] += 1
            for word, count in kinds.items():
                VIEW_MESSAGES.labels(permit, word).inc(count)
        self._history.delete_entries(deleted)
        self._history.write_entries(written)

    def _contents(self, planned: Sequence[_Planned], work: _Work) -> dict[bytes, Mapping[str, Any]]:
        """The records to publish: those of the batch, the others opened from the history."""
        found: dict[bytes, Mapping[str, Any]] = {
            event_id: content.record for event_id, content in work.contents.items()
        }
        facts = {
            one.event_id: plan.facts[one.event_id]
            for plan in planned
            for one in plan.changes
            if one.publish and one.event_id not in found
        }
        if facts:
            bodies = self._history.bodies(facts)
            for event_id, one in facts.items():
                try:
                    found[event_id] = open_body(self._vault, one, work.subjects[one.subject].key, bodies.get(event_id))
                except KeyBroken as broken:
                    log.error("a record is not released: %s", broken)
        return found

    def _message(self, permit: str, event: Any) -> Emit:
        return Emit(
            topic=f"view-{permit}",
            key=event.id.encode(),
            value=views.encode(event),
            headers=_CONTENT_TYPE,
            partition=views.partition(event.subject, self._partitions),
            trace="fresh",
        )


def open_body(vault: Vault, facts: Facts, key: bytes | None, body: bytes | None) -> dict[str, Any]:
    """A record from its sealed body. Raises KeyBroken."""
    if key is None or body is None:
        raise KeyBroken("its key or its body is gone")
    try:
        record: dict[str, Any] = msgspec.msgpack.decode(vault.open(facts.subject, key, body, facts.event_id), type=dict)
    except msgspec.MsgspecError:
        raise KeyBroken("its body is not a record") from None
    return record


def _target(link: SubjectsLinked | PatientsMerged | PatientSplit) -> str:
    if isinstance(link, SubjectsLinked):
        return link.patient
    return link.survivor if isinstance(link, PatientsMerged) else link.new_patient


def _is_newer(told: Told, before: Told) -> bool:
    return any(name not in before or before[name][1] < revision for name, (_, revision) in told.items())


def _by_ids(step: tuple[str, str, Change, bool]) -> tuple[str, str]:
    return step[0], step[1]


def _scan_key(permit: str, shard: int) -> str:
    return f"{permit}#scan#{shard}"


def _scan_order(scan: ViewScan) -> Emit:
    return Emit(PERMITS, _scan_key(scan.permit, scan.shard).encode(), messages.encode(scan), trace="none")


def _tombstone(key: str) -> Emit:
    return Emit(PERMITS, key.encode(), None, trace="none")


_HELD = Prior(Facts(b"", b"", "", "", "", dt.datetime.min.replace(tzinfo=dt.UTC), False), ())
_RECORD_HEADERS = (
    Headers.EVENT_ID,
    Headers.TYPE,
    Headers.SOURCE,
    Headers.DIGEST,
    Headers.REVISION,
    Headers.PATIENT_ID,
)
