"""Records with level-2 tokens in; records with their subject out, and which subjects are which patient."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

import msgspec

from contracts import messages
from contracts.comparison import ROW_BYTES
from contracts.events import DELETED
from contracts.messages import Headers, LinkReview, RecordLinked, RecordPseudonymised, StewardDecision, TokenBlock
from runtime.messages import Emit, InvalidMessage, Message, Outputs, Reason
from runtime.sealing import Opener, SealBroken
from services.linkage.adapters import Holder, Locked, Move, PatientIndex, Saved, Tally
from services.linkage.domain.changes import Change, compare_partitions
from services.linkage.domain.comparison import Evidence, compare_tagged, distinct_births, evidence, tagged_rows
from services.linkage.domain.components import Pair, Stewarded, pair_of, split_into_components
from services.linkage.domain.decide import Outcome, decide, is_worth_keeping
from services.linkage.domain.patients import LAPSED, Component, Decided, Subject, settle, worth_asking
from services.linkage.domain.rules import RULES, RuleVersion
from services.linkage.domain.scoring import Scorer
from services.linkage.domain.states import Coordinates, State, Verdict, accept, judge, place
from services.linkage.domain.tokens import BLOCKING, identifying_tokens, is_unlinkable, search_tokens

PSEUDONYMISED: Final = "records-pseudonymised"
LINKED: Final = "records-linked"
PATIENT_LINKS: Final = "patient-links"
REVIEWS: Final = "link-reviews"
DECISIONS: Final = "link-decisions"
BACKFILL: Final = "-backfill"
LANES: Final = (DECISIONS, PSEUDONYMISED, PSEUDONYMISED + BACKFILL)


@dataclass(frozen=True, slots=True)
class Opened:
    """A message whose tokens are open: the record's key and state, the identity's block, the content still sealed."""

    message: Message
    source: str
    event: bytes
    state: State
    block: TokenBlock
    content: bytes


@dataclass(frozen=True, slots=True)
class Judged:
    """The messages of a batch with their verdicts, and the states of their records before and after it."""

    judged: Sequence[tuple[Opened, Verdict]]
    before: Mapping[bytes, list[State]]
    after: Mapping[bytes, list[State]]


@dataclass(frozen=True, slots=True)
class Admitted:
    """The messages that are a new state of their record; the subjects that hold one now; those that one has left."""

    accepted: Sequence[Opened]
    held: Set[bytes]
    left: Mapping[bytes, Message]


@dataclass(frozen=True, slots=True)
class Recomputed:
    """A component after the batch: who is whose and which links guards hold back, what that changes, whom to ask."""

    cause: Message
    component: Component
    changes: Sequence[Change]
    reviews: Sequence[LinkReview]
    more: Tally


class Link:
    """The step of this service. It opens tokens, never content."""

    def __init__(
        self,
        index: PatientIndex,
        opener: Opener,
        *,
        rules: RuleVersion = RULES,
        hot_partitions: int = 2,
        slot: int = 0,
        topic_prefix: str = "",
    ) -> None:
        self._index = index
        self._opener = opener
        self._rules = rules
        self._scorer = Scorer(rules.weights)
        self._hot_partitions = hot_partitions
        self._slot = slot
        self._prefix = topic_prefix
        self._record = msgspec.msgpack.Decoder(RecordPseudonymised)
        self._block = msgspec.msgpack.Decoder(TokenBlock)
        self._decision = msgspec.msgpack.Decoder(StewardDecision)
        self._batch: tuple[Sequence[Message], list[Opened | InvalidMessage]] = ([], [])

    def prepare(self, batch: Sequence[Message]) -> None:
        """Insert the new subjects of what will be admitted, committed, so that of two workers at least one sees the
        other.

        A message that `handle` will reject leaves no subject through which others would link. (If another slot admits
        another state of the same record between the two, in the other lane, one subject too many may stay.)
        """
        with self._index.apart():
            admitted = self._judge([one for one in self._open(batch) if isinstance(one, Opened)])
            self._index.insert_new(
                list(
                    {
                        one.state.subject: one.block
                        for one, verdict in admitted.judged
                        if verdict not in _REFUSED and one.block.subject == one.state.subject
                    }.values()
                )
            )

    def origin(self, message: Message) -> tuple[str, int]:
        """The record's source, and when the hub accepted it."""
        revision = message.headers.get(Headers.REVISION, b"").decode("utf-8", "replace")
        accepted = messages.accepted_at(revision) if _is_whole(revision) else 0
        return message.headers.get(Headers.SOURCE, b"").decode("utf-8", "replace"), accepted

    def handle(self, batch: Sequence[Message]) -> Outputs:
        """Tell new states from re-sends and conflicts, find each new subject's patient, and pass the records on."""
        outputs = Outputs()
        admitted = self._admit(batch, outputs)
        patients = self._settle(admitted, self._hear(batch, outputs), outputs)
        for one in admitted.accepted:
            self._pass_on(one, patients[one.state.subject], outputs)
        return outputs

    # records

    def _open(self, batch: Sequence[Message]) -> list[Opened | InvalidMessage]:
        """Each message opened, or why it cannot be; kept from `prepare` to `handle`."""
        if self._batch[0] is not batch:
            self._batch = batch, [self._open_one(message) for message in batch if not self._is_decision(message)]
        return self._batch[1]

    def _is_decision(self, message: Message) -> bool:
        return message.topic.removeprefix(self._prefix) == DECISIONS

    def _open_one(self, message: Message) -> Opened | InvalidMessage:
        try:
            event_id, kind, source, digest, revision = (message.header(name) for name in _NEEDED)
            if any("\0" in text for text in (event_id, kind, source, digest)):
                raise InvalidMessage(Reason.SCHEMA, "a header holds a NUL character")
            if not _is_whole(revision):
                raise InvalidMessage(Reason.SCHEMA, "header revision is not a whole revision")
            record = self._record.decode(message.value)
            bound = messages.associated(event_id, kind, source, digest)
            block = self._block.decode(self._opener.open(record.tokens, bound))
        except InvalidMessage as why:
            return why
        except SealBroken as broken:
            return InvalidMessage(Reason.KEYS, f"the tokens cannot be opened: {broken}")
        except msgspec.MsgspecError:
            return InvalidMessage(Reason.DECODING, "the body is not a RecordPseudonymised with a TokenBlock")
        if any(len(token) != 16 for token in block.tokens()):
            return InvalidMessage(Reason.SCHEMA, "a token is not 16 bytes long")
        if block.codes and len(block.codes) != ROW_BYTES * (len(block.identifiers) + len(block.blocking)):
            return InvalidMessage(Reason.SCHEMA, "the codes are not one row for each token")
        at = Coordinates(message.topic.endswith(BACKFILL), message.partition, message.offset)
        state = State(digest, revision, kind, kind.endswith(DELETED), block.correction, at, block.subject)
        return Opened(message, source, event_key(event_id), state, block, record.content)

    def _admit(self, batch: Sequence[Message], outputs: Outputs) -> Admitted:
        """The messages that are a new state of their record (or the very same message again), in their order."""
        opened = []
        records = (message for message in batch if not self._is_decision(message))
        for message, one in zip(records, self._open(batch), strict=True):
            if isinstance(one, InvalidMessage):
                outputs.reject(message, one)
            else:
                opened.append(one)
        judged = self._judge(opened)
        accepted = []
        for one, verdict in judged.judged:
            if verdict is Verdict.CONFLICT:
                outputs.reject(
                    one.message,
                    InvalidMessage(Reason.CONFLICT, "the record has other content, and this is no correction"),
                )
            elif verdict is Verdict.DUPLICATE:
                outputs.count(one.source, "duplicates")
            else:
                accepted.append(one)
                _count(one, outputs)
        before, after = judged.before, judged.after
        self._index.save([Saved(event, before.get(event, []), states) for event, states in after.items()])
        fresh = sum(event not in before for event in after)
        self._index.count(self._slot, Tally(records=fresh))
        left = {
            before[one.event][0].subject: one.message
            for one in accepted
            if one.event in before and one.event in after and before[one.event][0] != after[one.event][0]
        }
        return Admitted(accepted, {one[0].subject for one in after.values() if not one[0].retracted}, left)

    def _judge(self, opened: Sequence[Opened]) -> Judged:
        """Each message with its verdict, and its state with its subject and place; nothing is written."""
        before = self._index.find_states({one.event: None for one in opened})
        after: dict[bytes, list[State]] = {}
        judged = []
        for one in opened:
            known = after.get(one.event) or before.get(one.event, [])
            state = one.state
            if known and _names_nobody(one):
                state = msgspec.structs.replace(state, subject=known[0].subject)
            state = place(state, known)
            verdict = judge(state, known)
            if verdict in (Verdict.FIRST, Verdict.NEXT):
                after[one.event] = accept(state, known)
            judged.append((replace(one, state=state), verdict))
        return Judged(judged, before, after)

    def _pass_on(self, one: Opened, patient: bytes, outputs: Outputs) -> None:
        lane = one.message.topic.removeprefix(self._prefix).removeprefix(PSEUDONYMISED)
        placed = {Headers.REVISION: one.state.revision.encode(), Headers.PATIENT_ID: patient.hex().encode()}
        headers = {**one.message.headers, **placed}
        value = messages.encode(RecordLinked(one.state.subject, one.content))
        outputs.emit(one.message, Emit(LINKED + lane, one.message.key, value, headers))

    # stewards

    def _hear(self, batch: Sequence[Message], outputs: Outputs) -> dict[bytes, Message]:
        """Keep what stewards have decided; the subjects that it is about."""
        heard: dict[bytes, Message] = {}
        decisions = []
        for message in batch:
            if not self._is_decision(message):
                continue
            try:
                one = self._decision.decode(message.value)
            except msgspec.MsgspecError:
                outputs.reject(message, InvalidMessage(Reason.DECODING, "the body is no StewardDecision"))
                continue
            if not (len(one.left) == len(one.right) == 16 and one.left < one.right):
                outputs.reject(message, InvalidMessage(Reason.SCHEMA, "left and right are no two subjects in order"))
                continue
            decisions.append(one)
            heard |= dict.fromkeys((one.left, one.right), message)
        self._index.keep_stewards(decisions)
        return heard

    # patients

    def _settle(self, admitted: Admitted, heard: Mapping[bytes, Message], outputs: Outputs) -> dict[bytes, bytes]:
        """The patient of every subject of the batch.

        New subjects are searched and decided. Their components are settled anew, and so are those of subjects that
        retire or return, and those that stewards have spoken of.
        """
        about: dict[bytes, Opened] = {}
        for one in admitted.accepted:
            about.setdefault(one.state.subject, one)
        known = self._index.find_subjects({**about, **admitted.left})
        patients = {subject: found.patient for subject, found in known.items() if found.settled and found.patient}
        fresh = {subject: one for subject, one in about.items() if subject not in patients}
        self._index.insert([one.block for subject, one in fresh.items() if subject not in known])
        deserted = self._index.find_deserted((fresh.keys() | admitted.left.keys()) - admitted.held)
        retired = {subject for subject, found in known.items() if found.retired}
        turned = (deserted ^ retired) & (deserted | admitted.held)
        causes = {subject: one.message for subject, one in about.items() if subject in fresh or subject in turned}
        causes |= {subject: cause for subject, cause in admitted.left.items() if subject in turned} | dict(heard)
        if not causes:
            return patients
        pairs, crowded = self._find_pairs(fresh, outputs)
        locked = self._index.lock_components({*causes, *chain.from_iterable(pairs), *crowded})
        stands = {
            subject: one._replace(retired=subject in deserted or (one.retired and subject not in admitted.held))
            for subject, one in locked.subjects.items()
        }
        held = {subject: search_tokens(one.block).keys() for subject, one in stands.items()}
        common = self._index.find_common(set(chain.from_iterable(held.values())))
        rules = self._rules.without(common)
        again = [one for one in locked.decided if common and not common.isdisjoint(held[one.left] & held[one.right])]
        lapsed = {one.pair: one for one in self._decide({it.pair: it.decision.evidence for it in again}, stands, rules)}
        known_pairs = {one.pair for one in locked.decided}
        fresh_pairs = {pair: seen for pair, seen in pairs.items() if pair not in known_pairs}
        new = [one for one in self._decide(fresh_pairs, stands, rules) if is_worth_keeping(one.decision)]
        recomputed = self._recompute(causes, locked, stands, lapsed, new, rules)
        self._keep_edges(recomputed, locked.decided, lapsed, new)
        self._keep_patients(recomputed, stands, fresh.keys(), turned, outputs)
        self._ask_stewards(recomputed, outputs)
        for settled in recomputed:
            patients |= settled.component.patients
        return patients

    def _find_pairs(self, fresh: Mapping[bytes, Opened], outputs: Outputs) -> tuple[dict[Pair, Evidence], set[bytes]]:
        """Each new subject with everybody who carries one of its tokens (unless too many do) and may be the same.

        Beside the pairs, those who carry a token that has just become too common: it no longer links them either.
        """
        tokens = {subject: search_tokens(one.block) for subject, one in fresh.items()}
        systems = {token: system for own in tokens.values() for token, system in own.items()}
        common = self._index.find_common(systems) | self._rules.too_common
        holders = self._index.search([token for token in systems if token not in common])
        over = {token for token, who in holders.items() if self._is_over(systems[token], who)}
        self._index.mark_common(over)
        common |= over
        met: dict[Pair, tuple[bytes, bytes, bytes]] = {}
        identified: set[Pair] = set()
        for subject, own in tokens.items():
            block = fresh[subject].block
            identifying = identifying_tokens(block).keys()
            if not common.isdisjoint(identifying):
                outputs.count(fresh[subject].source, "too_common")
            rows = tagged_rows(block)
            for token in own.keys() - common:
                for other in holders.get(token, ()):
                    if other.subject == subject:
                        continue
                    pair = pair_of(subject, other.subject)
                    # under whichever token they are compared, codes agree alike, but for rare collisions
                    if pair not in met or token < met[pair][0]:
                        met[pair] = token, rows[token], other.codes
                    if token in identifying:
                        identified.add(pair)
        return self._alike(met, identified), {one.subject for token in over for one in holders[token]}

    def _is_over(self, system: str, holders: Sequence[Holder]) -> bool:
        """Whether so many carry a token that it says nothing of who they are."""
        if len(holders) > self._rules.most(system):
            return True
        few = len(holders) <= self._rules.most_births or system in BLOCKING
        return not few and distinct_births(one.codes for one in holders) > self._rules.most_births

    def _alike(self, met: Mapping[Pair, tuple[bytes, bytes, bytes]], identified: set[Pair]) -> dict[Pair, Evidence]:
        """The pairs that share an identifier, or whose traits are not those of strangers, with their evidence."""
        levels = compare_tagged([(mine, theirs) for _, mine, theirs in met.values()])
        weights, relatives = self._scorer.scores(levels)
        kept = (weights >= self._rules.review) | (relatives >= self._rules.household)
        return {pair: evidence(levels[place]) for place, pair in enumerate(met) if kept[place] or pair in identified}

    def _decide(
        self, pairs: Mapping[Pair, Evidence], subjects: Mapping[bytes, Subject], rules: RuleVersion
    ) -> list[Decided]:
        return [
            Decided(left, right, decide(subjects[left].block, subjects[right].block, pairs[left, right], rules))
            for left, right in sorted(pairs)
        ]

    def _recompute(
        self,
        causes: Mapping[bytes, Message],
        locked: Locked,
        stands: Mapping[bytes, Subject],
        lapsed: Mapping[Pair, Decided],
        new: Sequence[Decided],
        rules: RuleVersion,
    ) -> list[Recomputed]:
        """Every component the batch touches, in the order in which the batch touches them.

        `stands` are the subjects as the batch leaves them; `lapsed` are the pairs that share a token that has become
        too common, as they are decided without it.
        """
        order = {subject: place for place, subject in enumerate(causes)}
        pairs = [*locked.decided, *new]
        bound = chain((one.pair for one in pairs if one.binds), ((one.left, one.right) for one in locked.stewards))
        members = split_into_components(stands, bound)
        place = {subject: number for number, component in enumerate(members) for subject in component}
        ages = {subject: one.seq for subject, one in stands.items()}
        within: list[list[Decided]] = [[] for _ in members]
        across: list[list[Decided]] = [[] for _ in members]
        for one in pairs:
            if place[one.left] == place[one.right]:
                within[place[one.left]].append(lapsed.get(one.pair, one))
            else:
                across[place[max(one.pair, key=ages.__getitem__)]].append(one)
        told: list[list[Stewarded]] = [[] for _ in members]
        for said in locked.stewards:
            told[place[said.left]].append(said)
        asked = {one.pair for one in locked.decided if one.guard or one.decision.outcome is Outcome.REVIEW}
        asked |= {(one.left, one.right) for one in locked.stewards}
        found = []
        last = max(causes, key=order.__getitem__)
        for component, own, outward, said_of in zip(members, within, across, told, strict=True):
            first = min((subject for subject in component if subject in order), key=order.__getitem__, default=None)
            if first is None and not own and not outward:
                continue
            inside = {it: stands[it] for it in component}
            settled = settle(inside, own, said_of, rules)
            before = {it: locked.subjects[it].patient for it in component}
            doubts = (
                one
                for one in (*own, *outward)
                if one.pair not in asked and not any(stands[it].retired for it in one.pair)
            )
            questions = worth_asking(doubts, settled.patients, settled.guards, ages, rules.most_reviews)
            reviews = [
                LinkReview(
                    *one.pair, settled.guards.get(one.pair, one.decision.reason), one.decision.evidence, rules.name
                )
                for one in questions
            ]
            changes = compare_partitions(before, settled.patients)
            more = _tally(locked.subjects, inside, settled.patients)
            found.append((order[first or last], Recomputed(causes[first or last], settled, changes, reviews, more)))
        return [one for _, one in sorted(found, key=lambda it: it[0])]

    def _keep_edges(
        self,
        recomputed: Sequence[Recomputed],
        decided: Sequence[Decided],
        lapsed: Mapping[Pair, Decided],
        new: Sequence[Decided],
    ) -> None:
        guards = {
            one.pair: LAPSED for one in decided if one.links and one.pair in lapsed and not lapsed[one.pair].links
        }
        for one in recomputed:
            guards |= one.component.guards
        turned = {one.pair: guards.get(one.pair, "") for one in decided if one.guard != guards.get(one.pair, "")}
        fresh = [one._replace(guard=guards.get(one.pair, "")) for one in new]
        self._index.write_edges(fresh, turned, self._rules.name)

    def _keep_patients(
        self,
        recomputed: Sequence[Recomputed],
        stands: Mapping[bytes, Subject],
        fresh: Collection[bytes],
        turned: Collection[bytes],
        outputs: Outputs,
    ) -> None:
        """Write who is whose, and tell it to the partition of every patient affected, in the order of versions."""
        changes = [(one.cause, change) for one in recomputed for change in one.changes]
        versions = self._index.next_link_versions(len(changes)) if changes else []
        patients = {subject: patient for one in recomputed for subject, patient in one.component.patients.items()}
        moved: dict[bytes, int | None] = {subject: None for subject in (*fresh, *turned) if subject in patients}
        for (cause, change), version in zip(changes, versions, strict=True):
            moved |= dict.fromkeys(change.subjects, version)
            value = messages.encode(change.link(version))
            partitions = {self._partition(patient): patient for patient in reversed(change.patients)}
            for number, patient in partitions.items():
                outputs.emit(cause, Emit(PATIENT_LINKS, patient.hex().encode(), value, partition=number))
        self._index.move(
            [
                Move(subject, patients[subject], version, subject in fresh, stands[subject].retired)
                for subject, version in sorted(moved.items())
            ]
        )
        more = zip(*(one.more for one in recomputed), strict=True)
        self._index.count(self._slot, Tally(*(sum(column) for column in more)))

    def _ask_stewards(self, recomputed: Sequence[Recomputed], outputs: Outputs) -> None:
        for one in recomputed:
            source, _ = self.origin(one.cause)
            for review in one.reviews:
                key = pair_id((review.left, review.right)).encode()
                outputs.emit(one.cause, Emit(REVIEWS, key, messages.encode(review)))
                outputs.count(source, "reviews")

    def _partition(self, patient: bytes) -> int:
        return int(patient.hex()[:8], 16) % self._hot_partitions


def pair_id(pair: Pair) -> str:
    """Two subjects as the key of a message and as an address: their ids in hexadecimal, joined by a hyphen."""
    return "-".join(one.hex() for one in pair)


def _tally(before: Mapping[bytes, Subject], stands: Mapping[bytes, Subject], patients: Mapping[bytes, bytes]) -> Tally:
    """How many more there are in a component. A patient counts while a record is about one of its subjects."""
    joined = [subject for subject in stands if before[subject].patient is None]
    existed = {before[subject].patient for subject in stands if not before[subject].retired} - {None}
    return Tally(
        subjects=len(joined),
        patients=len({patients[subject] for subject, one in stands.items() if not one.retired}) - len(existed),
        unlinkable=sum(is_unlinkable(stands[subject].block) for subject in joined),
    )


def event_key(event_id: str) -> bytes:
    """An event id as the index keeps it: the 16 bytes that its 32 hexadecimal digits are, or a hash of other forms."""
    if len(event_id) == 32 and set(event_id) <= _HEX:
        return bytes.fromhex(event_id)
    return hashlib.sha256(event_id.encode()).digest()


def _is_whole(revision: str) -> bool:
    parts = revision.split("-")
    return len(parts) == 3 and all(part.isascii() and part.isdigit() for part in parts)


def _names_nobody(one: Opened) -> bool:
    """A retraction may come without an identity: it is about whoever the record is about."""
    return one.state.retracted and is_unlinkable(one.block)


def _count(one: Opened, outputs: Outputs) -> None:
    outputs.count(one.source, "linked")
    if one.state.correction:
        outputs.count(one.source, "corrections")
    if one.state.retracted:
        outputs.count(one.source, "retractions")
    elif is_unlinkable(one.block):
        outputs.count(one.source, "unlinkable")


_HEX: Final = frozenset("0123456789abcdef")
_NEEDED: Final = (Headers.EVENT_ID, Headers.TYPE, Headers.SOURCE, Headers.DIGEST, Headers.REVISION)
_REFUSED: Final = (Verdict.CONFLICT, Verdict.DUPLICATE)
