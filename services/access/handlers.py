"""Projects, permits, links and records in; the history kept; what changes in the views out."""

from __future__ import annotations

import datetime as dt
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from prometheus_client import Counter as Metric
from prometheus_client import Gauge, Histogram

from contracts import audit, messages
from contracts.events import DELETED, OF_RIGHTS, OPPOSITION, REQUESTS
from contracts.messages import (
    AuditLeaf,
    Content,
    Headers,
    OppositionReach,
    PatientLink,
    PatientsMerged,
    PatientSplit,
    PermitClosed,
    PermitGranted,
    PermitKeyWrapped,
    RecordLinked,
    SubjectsErased,
    SubjectsLinked,
    ViewScan,
)
from contracts.permits import EVERYTHING, Permit, PermitError, read_permit
from runtime.messages import Emit, InvalidMessage, Message, Outputs, Reason
from runtime.sealing import Opener, SealBroken
from services.access.adapters import (
    CLOSED,
    FILLING,
    OPEN,
    PLACE_BYTES,
    SUSPENDED,
    WAITING_FOR_GRANT,
    WAITING_FOR_KEY,
    History,
    Prior,
    StoredPermit,
    StoredRecord,
    Subject,
    shard_range,
)
from services.access.domain import views
from services.access.domain.policy import Facts, diagnoses
from services.access.domain.views import Told
from services.access.erasure import Eraser
from services.access.projects import PERMITS, PROJECTS, Registrar
from services.access.reconciliation import (
    ACCESS,
    Move,
    Reconciler,
    Release,
    Work,
    permit_owner,
    release_from,
    target,
)
from services.access.requests import REQUEST_ACTS, Keeper
from services.access.vault import KeyBroken, Vault

log = logging.getLogger("estuaire.access")

LINKS = "patient-links"
LINKED = "records-linked"
OPPOSITIONS = "oppositions-linked"
REACH = "opposition-reach"
ERASURES = "erasures"
_UNKNOWN: Final = audit.actor("service", "unknown")
"""Who granted or closed a permit before messages said so."""
LANES = (REQUEST_ACTS, OPPOSITIONS, REACH, PROJECTS, PERMITS, LINKS, LINKED, f"{LINKED}-backfill")

# Permits that should be open and release nothing, because their definition or key cannot be used.
UNUSABLE: Final = Gauge("estuaire_permits_unusable", "Permits whose definition or key cannot be used.")
# Grants that the loop refused: the same id with another definition, or closed before.
REFUSED: Final = Metric("estuaire_permits_refused", "Grants of an id that is taken.")


# Seconds from the acceptance of an opposition, or of its end, to the batch of access that applies it.
OPPOSITION_SECONDS: Final = Histogram(
    "estuaire_opposition_seconds",
    "Seconds until an opposition is in force.",
    buckets=(0.5, 1, 2, 3, 5, 10, 30, 60, 600, 3600),
)


@dataclass(slots=True)
class _Record:
    """A record as it comes in."""

    cause: Message
    facts: Facts
    hint: str
    content: Content | None


class Access:
    """The step of this service. `handle` runs inside the transaction of the loop."""

    def __init__(
        self,
        history: History,
        vault: Vault,
        opener: Opener,
        registrar: Registrar,
        keeper: Keeper,
        create_views: Callable[[Iterable[str]], object],
        empty_view: Callable[[str], object],
        partitions: int,
        topic_prefix: str = "",
        scan_chunk: int = 500,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._history = history
        self._views = Reconciler(history, vault, partitions, clock)
        self._vault = vault
        self._opener = opener
        self._registrar = registrar
        self._keeper = keeper
        self._eraser = Eraser(history, vault, self._views)
        self._create_views = create_views
        self._empty_view = empty_view
        self._partitions = partitions
        self._prefix = topic_prefix
        self._chunk = scan_chunk
        self._clock = clock
        self._has_views = False
        self._releases: dict[str, Release | None] = {}
        self._digests: dict[str, str] = {}
        self._permit = msgspec.msgpack.Decoder(messages.PermitMessage)
        self._link = msgspec.msgpack.Decoder(PatientLink)
        self._linked = msgspec.msgpack.Decoder(RecordLinked)
        self._reached = msgspec.msgpack.Decoder(OppositionReach)
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
        """Projects and permits first, then erasures, links, records and oppositions, and the filling of views."""
        outputs = Outputs()
        of: defaultdict[str, list[Message]] = defaultdict(list)
        for message in batch:
            of[message.topic.removeprefix(self._prefix).removesuffix("-backfill")].append(message)
        # no batch may be under way that does not know of an opposition or an erasure, as of a permit
        self._history.enter(alone=not of.keys().isdisjoint((PERMITS, OPPOSITIONS, REACH, REQUEST_ACTS)))
        if not self._has_views:
            self._create_views(self._history.open_permits())  # for a broker that was made anew has none
            self._has_views = True
        if of[PROJECTS]:
            self._registrar.handle(of[PROJECTS], outputs)
        scans = [scan for message in of[PERMITS] for scan in self._permits(message, outputs)]
        releases = self._open_releases()
        if of[REQUEST_ACTS]:
            self._acts(of[REQUEST_ACTS], outputs)
        if of[LINKS]:
            self._links(of[LINKS], releases, outputs)
        if of[REACH]:
            self._reach(of[REACH], releases, outputs)
        if of[OPPOSITIONS] or of[LINKED]:
            self._records([*of[OPPOSITIONS], *of[LINKED]], releases, outputs)
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
        permit = _defined(granted)
        known = self._history.permit(permit.id) or StoredPermit(permit.id, None, None, None, "", -1)
        wanted = known._replace(
            definition=permit.definition(), granted=known.granted or granted.granted, revision=granted.revision
        )
        if known.state == CLOSED or granted.revision < known.revision:
            return self._refused(message, known, granted, outputs)
        if granted.revision > known.revision or known.definition is None:
            return self._changed(message, known, wanted, granted, outputs)
        if known.definition != wanted.definition or (known.state == SUSPENDED) != granted.suspended:
            return self._refused(message, known, granted, outputs)
        if known.state == FILLING:
            # granted again: a filling that was cut short, because the permit could not be used, goes on
            self._order_scans(message, known, self._history.scans_left(permit.id), outputs)
        return self._log_grant("permit-granted", message, granted, outputs)

    def _refused(self, message: Message, known: StoredPermit, granted: PermitGranted, outputs: Outputs) -> None:
        """The last word on the topic, which compaction keeps, has to be what holds."""
        REFUSED.inc()
        log.error("a grant is refused: permit %s is %s, at revision %d", known.permit, known.state, known.revision)
        holds: PermitGranted | PermitClosed = PermitClosed(known.permit, "it was closed before it was granted again")
        if known.state != CLOSED and known.definition is not None:
            suspended = known.state == SUSPENDED
            of_access = (known.definition, known.granted or "", ACCESS, known.revision)
            holds = PermitGranted(known.permit, *of_access, suspended=suspended)
        if holds != msgspec.structs.replace(granted, by=ACCESS):
            outputs.emit(message, Emit(PERMITS, known.permit.encode(), messages.encode(holds)))
        self._log_grant("permit-grant-refused", message, granted, outputs)

    def _changed(
        self, message: Message, known: StoredPermit, wanted: StoredPermit, granted: PermitGranted, outputs: Outputs
    ) -> None:
        """What the view holds goes, from its topic too; then it is filled again, unless it is suspended."""
        held, was_open = 0, known.state in (FILLING, OPEN)
        if was_open:
            held = self._history.clear_view(known.permit)
            self._empty_view(known.permit)
        if granted.suspended:
            self._history.save_permit(wanted._replace(state=SUSPENDED))
        elif wanted.key is None:
            self._history.save_permit(wanted._replace(state=WAITING_FOR_KEY))
        else:
            self._open(message, wanted, outputs)
        if was_open:
            self._reset(message, wanted, outputs)
        act = "suspended" if granted.suspended else "granted" if known.definition is None else "narrowed"
        if known.state == SUSPENDED and not granted.suspended:
            act = "resumed"
        self._log_grant(f"permit-{act}", message, granted, outputs, held)

    def _reset(self, message: Message, permit: StoredPermit, outputs: Outputs) -> None:
        """Tell the view's readers that nothing holds any more."""
        try:
            release = release_from(permit, self._vault)
        except (PermitError, KeyBroken):
            log.error("readers of the view of %s are not told that it begins anew: its key cannot be used", permit[0])
            return
        for emit in self._views.resets(release, permit.revision):
            outputs.emit(message, emit)

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
            self._history.save_permit(StoredPermit(wrapped.permit, None, None, kept, WAITING_FOR_GRANT))
        elif known.state == WAITING_FOR_KEY and known.definition is not None:
            self._open(message, known._replace(key=kept), outputs)
        elif known.state == SUSPENDED and known.key is None:
            self._history.save_permit(known._replace(key=kept))

    def _open(self, message: Message, permit: StoredPermit, outputs: Outputs) -> None:
        """The topic first, then the row, then the order to fill it, shard by shard."""
        self._create_views([permit.permit])
        self._history.save_permit(permit._replace(state=FILLING))
        self._history.start_scans(permit.permit, self._partitions)
        self._order_scans(message, permit, range(self._partitions), outputs)

    def _order_scans(self, message: Message, permit: StoredPermit, shards: Iterable[int], outputs: Outputs) -> None:
        for shard in shards:
            outputs.emit(message, _scan_order(ViewScan(permit.permit, shard, revision=permit.revision)))

    def _closed(self, message: Message, closed: PermitClosed, outputs: Outputs) -> None:
        known = self._history.permit(closed.permit)
        if known is not None and known.state == CLOSED:
            return
        before = known or StoredPermit(closed.permit, None, None, None, "")
        self._history.save_permit(before._replace(state=CLOSED, key=None))
        held = self._history.drop_view(closed.permit)
        if known is not None and known.state in (FILLING, OPEN):
            self._empty_view(closed.permit)
        told = audit.leaf("permit-closed", closed.by or _UNKNOWN, self._clock(), permit=closed.permit, count=held)
        self._log(message, told, outputs)
        outputs.emit(message, _tombstone(f"{closed.permit}#key"))

    def _log_grant(self, act: str, message: Message, granted: PermitGranted, outputs: Outputs, count: int = 0) -> None:
        by = granted.by or _UNKNOWN
        self._log(message, audit.leaf(act, by, self._clock(), permit=granted.permit, count=count), outputs)

    def _log(self, message: Message, leaf: AuditLeaf, outputs: Outputs) -> None:
        outputs.emit(message, Emit(*audit.message(leaf), trace="none"))

    def _open_releases(self) -> list[Release]:
        """The permits that release something now; one that cannot be used is left out, and an alarm is raised."""
        digests = self._history.open_permits()
        for permit, digest in digests.items():
            if self._digests.get(permit) == digest:
                continue
            stored = self._history.permit(permit)
            try:
                self._releases[permit] = release_from(stored, self._vault) if stored else None
            except (PermitError, KeyBroken):
                log.error("permit %s releases nothing: its definition or its key cannot be used", permit)
                self._releases[permit] = None
        self._digests = digests
        self._releases = {permit: self._releases[permit] for permit in digests}
        UNUSABLE.set(sum(one is None for one in self._releases.values()))
        now = self._clock()
        return [one for one in self._releases.values() if one is not None and one.policy.in_force(now)]

    def _scan(self, message: Message, scan: ViewScan, releases: Sequence[Release], outputs: Outputs) -> None:
        """One chunk of one shard, for one permit; then the order for the next.

        Shards and chunks follow places that the permit's own key gives: what is released together in one view is
        not what is released together in another, so that chunks tell nobody which records are the same.
        """
        stored = self._history.permit(scan.permit)
        if stored is None or scan.revision != stored.revision:
            return
        if not scan.pending and scan.shard not in self._history.scans_left(scan.permit):
            return
        release = next((one for one in releases if one.permit == scan.permit), None)
        if release is None:
            log.error("the view of %s is not filled: the permit is expired or cannot be used", scan.permit)
            return
        if scan.pending:
            self._deliver(message, release, stored, outputs)
            return
        low, high = shard_range(scan.shard, self._partitions)
        after = scan.after
        if len(after) != PLACE_BYTES:
            self._history.order_scan(scan.permit, release.ids.order(), low, high, release.policy.rows)
            after = low
        page = self._history.page(scan.permit, after, high, self._chunk)
        if page:
            self._fill(message, release, [event_id for _, event_id in page], outputs)
        if len(page) == self._chunk:
            outputs.emit(message, _scan_order(ViewScan(scan.permit, scan.shard, page[-1][0], scan.revision)))
            return
        outputs.emit(message, _tombstone(_scan_key(scan.permit, scan.shard)))
        self._history.end_scan(scan.permit, scan.shard, low, high)
        if stored.state == FILLING and not self._history.scans_left(scan.permit):
            self._history.save_permit(stored._replace(state=OPEN))

    def _fill(self, message: Message, release: Release, event_ids: Sequence[bytes], outputs: Outputs) -> None:
        """Bring a view to what it should hold of these records of the history."""
        hints = {prior.facts.subject: "" for prior in self._priors(event_ids).values()}
        subjects = self._history.claim(hints, ())
        priors = self._priors(event_ids)
        records = {one: prior.facts for one, prior in priors.items()}
        self._views.reconcile([release], Work(subjects, message, records, priors=priors, delivers=True), outputs)

    def _deliver(self, message: Message, release: Release, stored: StoredPermit, outputs: Outputs) -> None:
        """One chunk of what has waited, in the view's own order; then the order for the next."""
        if stored.state != OPEN:
            return
        until = release.policy.delivered_until(self._clock())
        event_ids = self._history.deferred(stored.permit, release.ids.order(), until, self._chunk)
        if event_ids:
            self._fill(message, release, event_ids, outputs)
            self._history.deliver(stored.permit, event_ids)
        if len(event_ids) == self._chunk:
            outputs.emit(message, delivery(stored))
        else:
            outputs.emit(message, _tombstone(_delivery_key(stored.permit)))

    def _priors(self, event_ids: Collection[bytes]) -> dict[bytes, Prior]:
        """What is held of these records, but of those whose subject was erased."""
        return {one: prior for one, prior in self._history.priors(event_ids).items() if prior.facts.subject}

    # requests

    def _acts(self, batch: Sequence[Message], outputs: Outputs) -> None:
        """Keep what officers do about people's requests, and erase whom they say."""
        usable = [one for one in self._releases.values() if one is not None]
        for message, act in self._keeper.judged(batch, outputs):
            erased = []
            if act.subjects:
                erased = self._eraser.erase(act.subjects, message, usable, outputs)
                told = messages.encode(SubjectsErased(act.request, act.subjects))
                outputs.emit(message, Emit(ERASURES, act.request.hex().encode(), told, trace="none"))
            self._log(message, self._keeper.keep(act, [one.hex() for one in erased]), outputs)

    def _gone(self, subjects: Collection[bytes]) -> set[bytes]:
        """Those of the subjects that were erased and are not known again by what they wanted since."""
        erased = self._history.find_erased(subjects)
        return erased - self._history.find_known(erased) if erased else erased

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
            if "\0" in target(link):
                outputs.reject(message, InvalidMessage(Reason.SCHEMA, "a patient id has a NUL in it"))
                continue
            for subject in link.subjects:
                if subject not in newest or newest[subject].link_version < link.link_version:
                    newest[subject] = link
        for subject in self._gone(newest):
            del newest[subject]
        hints = {subject: target(link) for subject, link in newest.items()}
        subjects = self._history.claim(hints, hints.values())
        moves: dict[bytes, tuple[str, int]] = {}
        gone: defaultdict[tuple[int, str], set[bytes]] = defaultdict(set)
        work = Work(subjects, batch[0])
        by_version = {link.link_version: link for link in newest.values()}
        for subject, link in newest.items():
            known = subjects[subject]
            if known.link_version >= link.link_version:
                continue
            patient = target(link)
            moves[subject] = (patient, link.link_version)
            if known.patient != patient:
                work.patients |= {known.patient, patient}
                gone[link.link_version, known.patient].add(subject)
                known.patient = patient
        self._history.relink(moves)
        for (version, old), moved in sorted(gone.items()):
            link = by_version[version]
            if not isinstance(link, SubjectsLinked):
                work.moves.append(Move(link, old, frozenset(moved)))
        if work.patients:
            self._views.reconcile(releases, work, outputs)
            if ended := self._erased_patients(work.patients):
                self._history.sweep((), ended)

    def _erased_patients(self, patients: Iterable[str]) -> set[str]:
        """Those that are called after a subject that was erased: whoever is left of such a one moves to another."""
        founders = {bytes.fromhex(one): one for one in patients if len(one) == 32 and _HEX.issuperset(one)}
        return {founders[subject] for subject in self._history.find_erased(founders)}

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
        erased = self._history.find_erased({it.facts.subject for it in arrived if it.facts.type not in OF_RIGHTS})
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
        priors = {event_id: prior for event_id, prior in priors.items() if prior.facts.subject}
        hints = {one.facts.subject: one.hint for one in arrived if not _is_about(erased, one)}
        hints |= {prior.facts.subject: "" for prior in priors.values()}
        subjects = self._history.claim(hints, ())
        work = Work(subjects, batch[0], priors=priors)
        rows, let_go = [], []
        for event_id, one in newest.items():
            prior = priors.get(event_id)
            if _is_about(erased, one):
                # of a record about somebody else before, this is the end; of any other there is nothing to change
                outputs.count(one.facts.source, "erased")
                let_go.append(event_id)
                one.content = None
                if prior is None:
                    rows.append(StoredRecord(_nobodys(one.facts), 0, (), None, {}))
                    continue
            else:
                outputs.count(one.facts.source, "retracted" if one.facts.retracted else "stored")
            row = self._row(one, subjects, prior)
            rows.append(row)
            work.records[event_id] = row.facts
            work.causes[event_id] = one.cause
            if one.content is not None:
                work.contents[event_id] = one.content
        self._history.store(rows)
        self._tell(rows, priors, subjects)
        self._ask(rows, newest)
        work.patients |= self._oppose(rows, newest, subjects)
        if objections := [row.facts.event_id.hex() for row in rows if row.facts.type == OPPOSITION]:
            told = audit.leaf("opposition-applied", ACCESS, self._clock(), ids=objections)
            self._log(batch[0], told, outputs)
        self._views.reconcile(releases, work, outputs)
        self._history.let_go(let_go)
        self._forget_again(rows, batch[0], outputs)

    def _ask(self, rows: Iterable[StoredRecord], newest: Mapping[bytes, _Record]) -> None:
        """Keep the requests among the records."""
        for row in rows:
            if row.facts.type in REQUESTS:
                self._keeper.ask(row.facts, newest[row.facts.event_id].content)

    def _forget_again(self, rows: Iterable[StoredRecord], cause: Message, outputs: Outputs) -> None:
        """Whoever was erased, was known again by what they wanted of the hub, and has taken it back."""
        ended = {row.facts.subject for row in rows if row.facts.retracted and row.facts.type in OF_RIGHTS}
        if erased := self._history.find_erased(ended):
            deserted = erased - {one.subject for one in self._history.facts_of(erased) if not one.retracted}
            self._eraser.erase(deserted, cause, (), outputs)

    def _oppose(
        self, rows: Iterable[StoredRecord], newest: Mapping[bytes, _Record], subjects: dict[bytes, Subject]
    ) -> set[str]:
        """Keep the oppositions among the records; the patients that they are about, or may be, in `subjects` too."""
        said: dict[bytes, tuple[bytes, str | None]] = {}
        for row in rows:
            if row.facts.type == OPPOSITION:
                content = newest[row.facts.event_id].content
                scope = None if content is None else content.record.get("scope")
                # whatever is not understood withholds everything
                withholds = None if content is None else row.facts.source if scope == "source" else EVERYTHING
                said[row.facts.event_id] = row.facts.subject, withholds
        if not said:
            return set()
        self._history.oppose(said)
        now = self._clock().timestamp()
        for event_id in said:
            if accepted := messages.accepted_at(newest[event_id].facts.revision):
                OPPOSITION_SECONDS.observe(max(0.0, now - accepted / 1000))
        objectors = {subject for subject, _ in said.values()}
        suspected = self._history.suspects_of(objectors)
        subjects.update(self._history.claim({}, suspected.values()))
        return {subjects[one].patient for one in objectors} | set(suspected.values())

    def _reach(self, batch: Sequence[Message], releases: Sequence[Release], outputs: Outputs) -> None:
        """Of each subject that objects the newest word on who else may be the same person holds."""
        newest: dict[bytes, OppositionReach] = {}
        for message in batch:
            if not message.value:
                continue
            try:
                reach = self._reached.decode(message.value)
            except msgspec.MsgspecError:
                outputs.reject(message, InvalidMessage(Reason.DECODING, "the body is not an OppositionReach"))
                continue
            if reach.subject not in newest or newest[reach.subject].version < reach.version:
                newest[reach.subject] = reach
        gone = self._gone({it for reach in newest.values() for it in (reach.subject, *reach.suspects)})
        newest = {
            subject: OppositionReach(subject, one.version, tuple(it for it in one.suspects if it not in gone))
            for subject, one in newest.items()
            if subject not in gone
        }
        before = self._history.suspects_of(newest)
        self._history.keep_suspects([(one.subject, one.version, one.suspects) for one in newest.values()])
        patients = {*before.values(), *self._history.suspects_of(newest).values()}
        if patients:
            work = Work(self._history.claim({}, patients), batch[0], patients=patients)
            self._views.reconcile(releases, work, outputs)

    def _read(self, message: Message) -> _Record:
        event_id, kind, source, digest, revision, hint = (message.header(name) for name in _RECORD_HEADERS)
        try:
            linked = self._linked.decode(message.value)
            content = self._opened(linked, messages.associated(event_id, kind, source, digest))
            moment = dt.datetime.fromisoformat(content.time)
            facts = Facts(
                event_id=bytes.fromhex(event_id),
                subject=linked.subject,
                revision=revision,
                type=kind.removesuffix(DELETED),
                source=source,
                time=_utc(moment),
                retracted=kind.endswith(DELETED),
                dated=content.dated,
            )
        except SealBroken as broken:
            raise InvalidMessage(Reason.KEYS, f"the content cannot be opened: {broken}") from None
        except (msgspec.MsgspecError, ValueError):
            raise InvalidMessage(Reason.DECODING, "the body is not a RecordLinked with a Content") from None
        nobodys = not linked.subject and not linked.content
        wrong = len(facts.event_id) != 16 or not (nobodys or (linked.subject and hint))
        if wrong or "\0" in f"{source}{kind}{revision}{hint}":
            raise InvalidMessage(Reason.SCHEMA, "an id has a wrong length, or a header a NUL in it")
        return _Record(message, facts, hint, None if facts.retracted else content)

    def _opened(self, linked: RecordLinked, associated: bytes) -> Content:
        """The content; none came with a record whose subject was erased."""
        if not linked.subject and not linked.content:
            return Content("", _EPOCH)
        return self._content.decode(self._opener.open(linked.content, associated))

    def _tell(
        self, kept: Iterable[StoredRecord], priors: Mapping[bytes, Prior], subjects: Mapping[bytes, Subject]
    ) -> None:
        """What is known of the subjects after these records. One that took something back has all its records asked."""
        told: defaultdict[bytes, list[Told]] = defaultdict(list)
        again: set[bytes] = set()
        for one in kept:
            if one.told:
                told[one.facts.subject].append(views.told_by(one.told, one.facts.revision))
            prior = priors.get(one.facts.event_id)
            if prior is not None and prior.told:
                again |= {prior.facts.subject, one.facts.subject}
        tellings = self._history.tellings(again) if again else {}
        changed = {}
        for subject in told.keys() | again:
            known = subjects[subject]
            newest = views.newest(tellings.get(subject, ()) if subject in again else [known.told, *told[subject]])
            if newest != {name: tuple(one) for name, one in known.told.items()}:
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
            return StoredRecord(facts, 1, (), None, {})
        key = subjects[facts.subject].key
        body = None
        if key is not None:
            body = self._vault.seal(facts.subject, key, msgspec.msgpack.encode(one.content.record), facts.event_id)
        codes = diagnoses(facts.type, one.content.record)
        return StoredRecord(facts, one.content.schema_version, codes, body, views.telling(one.content.demographics))


def _defined(said: PermitGranted) -> Permit:
    """The permit that a message defines. Raises InvalidMessage."""
    try:
        permit = read_permit(said.definition)
    except PermitError:
        log.error("a granted permit releases nothing: its definition is broken")
        raise InvalidMessage(Reason.SCHEMA, "the permit's definition is broken") from None
    if permit.id != said.permit:
        raise InvalidMessage(Reason.SCHEMA, "the definition is that of another permit")
    return permit


def _is_about(erased: Collection[bytes], one: _Record) -> bool:
    """Whether a record's subject was erased; what they want of the hub is taken all the same."""
    return not one.facts.subject or (one.facts.subject in erased and one.facts.type not in OF_RIGHTS)


def _nobodys(facts: Facts) -> Facts:
    """All that is kept of a record whose subject was erased: its id and its revision."""
    return Facts(facts.event_id, b"", facts.revision, "", "", dt.datetime.fromisoformat(_EPOCH), True, False)


def _utc(moment: dt.datetime) -> dt.datetime:
    """The moment in UTC (which it is in where it does not say); one outside of Python's years becomes their end."""
    if moment.tzinfo is None:
        return moment.replace(tzinfo=dt.UTC)
    try:
        return moment.astimezone(dt.UTC)
    except OverflowError:
        return (dt.datetime.max if moment.year > 1 else dt.datetime.min).replace(tzinfo=dt.UTC)


def delivery(permit: StoredPermit) -> Emit:
    """The order to deliver what has waited."""
    order = ViewScan(permit.permit, 0, revision=permit.revision, pending=True)
    return Emit(PERMITS, _delivery_key(permit.permit).encode(), messages.encode(order), trace="none")


def _delivery_key(permit: str) -> str:
    return f"{permit}#pending"


def _scan_key(permit: str, shard: int) -> str:
    return f"{permit}#scan#{shard}"


def _scan_order(scan: ViewScan) -> Emit:
    return Emit(PERMITS, _scan_key(scan.permit, scan.shard).encode(), messages.encode(scan), trace="none")


def _tombstone(key: str) -> Emit:
    return Emit(PERMITS, key.encode(), None, trace="none")


_EPOCH: Final = "1970-01-01T00:00:00+00:00"
_HEX: Final = frozenset("0123456789abcdef")
_RECORD_HEADERS = (
    Headers.EVENT_ID,
    Headers.TYPE,
    Headers.SOURCE,
    Headers.DIGEST,
    Headers.REVISION,
    Headers.PATIENT_ID,
)
