"""Records with level-2 tokens in; records with their subject out, and which subjects are which patient."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

import msgspec

from contracts import messages
from contracts.events import DELETED
from contracts.messages import Headers, LinkReview, RecordLinked, RecordPseudonymised, TokenBlock
from runtime.messages import Emit, InvalidMessage, Message, Outputs, Reason
from runtime.sealing import Opener, SealBroken
from services.linkage.adapters import Decided, Holder, Move, PatientIndex, Saved, Subject, Tally
from services.linkage.domain.changes import Change, compare_partitions
from services.linkage.domain.comparison import Evidence, compare_tagged, distinct_births, evidence, tagged_rows
from services.linkage.domain.components import (
    Pair,
    between_two_sides,
    contradicted,
    pair_of,
    pairs_apart,
    partition,
    split_into_components,
    without_a_place,
)
from services.linkage.domain.decide import RELATIVES, Outcome, decide, is_worth_keeping
from services.linkage.domain.rules import RULES, RuleVersion
from services.linkage.domain.scoring import Scorer
from services.linkage.domain.states import Coordinates, State, Verdict, accept, judge, place
from services.linkage.domain.tokens import BLOCKING, identifying_tokens, is_unlinkable, search_tokens

PSEUDONYMISED: Final = "records-pseudonymised"
LINKED: Final = "records-linked"
PATIENT_LINKS: Final = "patient-links"
REVIEWS: Final = "link-reviews"
BACKFILL: Final = "-backfill"
LANES: Final = (PSEUDONYMISED, PSEUDONYMISED + BACKFILL)


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
class Recomputed:
    """A component after the batch: who is whose, what that changes, which links guards hold back, which lapse with a
    token that has become too common, and whom to ask."""

    cause: Message
    after: Mapping[bytes, bytes]
    changes: Sequence[Change]
    guarded: Mapping[Pair, str]
    lapsing: Collection[Pair]
    reviews: list[LinkReview]
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
        accepted = self._admit(batch, outputs)
        patients = self._settle(accepted, outputs)
        for one in accepted:
            self._pass_on(one, patients[one.state.subject], outputs)
        return outputs

    # records

    def _open(self, batch: Sequence[Message]) -> list[Opened | InvalidMessage]:
        """Each message opened, or why it cannot be; kept from `prepare` to `handle`."""
        if self._batch[0] is not batch:
            self._batch = batch, [self._open_one(message) for message in batch]
        return self._batch[1]

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
        at = Coordinates(message.topic.endswith(BACKFILL), message.partition, message.offset)
        state = State(digest, revision, kind, kind.endswith(DELETED), block.correction, at, block.subject)
        return Opened(message, source, event_key(event_id), state, block, record.content)

    def _admit(self, batch: Sequence[Message], outputs: Outputs) -> list[Opened]:
        """The messages that are a new state of their record (or the very same message again), in their order."""
        opened = []
        for message, one in zip(batch, self._open(batch), strict=True):
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
        return accepted

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

    # patients

    def _settle(self, accepted: Sequence[Opened], outputs: Outputs) -> dict[bytes, bytes]:
        """The patient of every subject of the batch; those not seen before are searched, decided and published."""
        about: dict[bytes, Opened] = {}
        for one in accepted:
            about.setdefault(one.state.subject, one)
        known = self._index.find_subjects(about)
        patients = {subject: found.patient for subject, found in known.items() if found.settled and found.patient}
        fresh = {subject: one for subject, one in about.items() if subject not in patients}
        if not fresh:
            return patients
        self._index.insert([one.block for subject, one in fresh.items() if subject not in known])
        pairs, crowded = self._find_pairs(fresh, outputs)
        subjects, decided = self._index.lock_components({*fresh, *chain.from_iterable(pairs), *crowded})
        known_pairs = {one.pair for one in decided}
        held = {subject: search_tokens(one.block).keys() for subject, one in subjects.items()}
        common = self._index.find_common(set(chain.from_iterable(held.values())))
        rules = self._rules.without(common)
        again = [one for one in decided if common and not common.isdisjoint(held[one.left] & held[one.right])]
        lapsed = {
            one.pair: one for one in self._decide({it.pair: it.decision.evidence for it in again}, subjects, rules)
        }
        fresh_pairs = {pair: seen for pair, seen in pairs.items() if pair not in known_pairs}
        new = [one for one in self._decide(fresh_pairs, subjects, rules) if is_worth_keeping(one.decision)]
        components = self._recompute(fresh, subjects, decided, lapsed, new, rules)
        self._keep_edges(components, decided, new)
        self._keep_patients(components, fresh, outputs)
        self._ask_stewards(components, outputs)
        for component in components:
            patients |= component.after
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
        fresh: Mapping[bytes, Opened],
        subjects: Mapping[bytes, Subject],
        decided: Sequence[Decided],
        lapsed: Mapping[Pair, Decided],
        new: Sequence[Decided],
        rules: RuleVersion,
    ) -> list[Recomputed]:
        """Every component the batch touches, in the order in which the batch touches them.

        `lapsed` are the pairs that share a token that has become too common, as they are decided without it.
        """
        order = {subject: place for place, subject in enumerate(fresh)}
        pairs = [*decided, *new]
        members = split_into_components(subjects, (one.pair for one in pairs if one.binds))
        place = {subject: number for number, component in enumerate(members) for subject in component}
        ages = {subject: one.seq for subject, one in subjects.items()}
        within: list[list[Decided]] = [[] for _ in members]
        across: list[list[Decided]] = [[] for _ in members]
        for one in pairs:
            if place[one.left] == place[one.right]:
                within[place[one.left]].append(one)
            else:
                across[place[max(one.pair, key=ages.__getitem__)]].append(one)
        asked = {one.pair for one in decided if one.guarded or one.decision.outcome is Outcome.REVIEW}
        found = []
        last = max(fresh, key=order.__getitem__)
        for component, own, outward in zip(members, within, across, strict=True):
            first = min((subject for subject in component if subject in order), key=order.__getitem__, default=None)
            if first is None and not own and not outward:
                continue
            cause = fresh[first or last].message
            inside = {it: subjects[it] for it in component}
            recomputed = self._recompute_one(cause, inside, own, lapsed, rules)
            doubts = [*(lapsed.get(one.pair, one) for one in own), *outward]
            for one in self._worth_asking(doubts, recomputed.guarded, asked, ages):
                reason = recomputed.guarded.get(one.pair, one.decision.reason)
                recomputed.reviews.append(LinkReview(*one.pair, reason, one.decision.evidence, rules.name))
            found.append((order[first or last], recomputed))
        return [component for _, component in sorted(found, key=lambda one: one[0])]

    def _recompute_one(
        self,
        cause: Message,
        subjects: Mapping[bytes, Subject],
        stored: Sequence[Decided],
        lapsed: Mapping[Pair, Decided],
        rules: RuleVersion,
    ) -> Recomputed:
        decided = [lapsed.get(one.pair, one) for one in stored]
        blocks = {subject: one.block for subject, one in subjects.items()}
        links = [one.edge for one in decided if one.decision.outcome is Outcome.LINK]
        placeless = without_a_place(blocks, links)
        followed = [edge for edge in links if (edge.left, edge.right) not in placeless]
        doubtful = [one.edge for one in decided if one.decision.outcome is Outcome.REVIEW]
        seen = {one.pair: one.decision.evidence for one in decided}
        apart = pairs_apart(blocks, followed) | contradicted(blocks, doubtful, seen)
        undecided = between_two_sides(blocks, followed, apart, seen, rules)
        followed = [edge for edge in followed if (edge.left, edge.right) not in undecided]
        ages = {subject: one.seq for subject, one in subjects.items()}
        household = [one.pair for one in decided if one.decision.reason in RELATIVES]
        after = partition(ages, followed, apart, household=household, margin=rules.margin)
        before = {subject: one.patient for subject, one in subjects.items()}
        reasons = dict.fromkeys(undecided, _TWO_SIDES) | dict.fromkeys(placeless, _NO_PLACE)
        guarded = {
            (edge.left, edge.right): reasons.get((edge.left, edge.right), _KEPT_APART)
            for edge in links
            if after[edge.left] != after[edge.right]
        }
        lapsing = {
            one.pair: _TOO_COMMON
            for one in stored
            if one.decision.outcome is Outcome.LINK
            and one.pair in lapsed
            and lapsed[one.pair].decision.outcome is not Outcome.LINK
        }
        joined = [subject for subject, patient in before.items() if patient is None]
        more = Tally(
            subjects=len(joined),
            patients=len(set(after.values())) - len(set(before.values()) - {None}),
            unlinkable=sum(is_unlinkable(blocks[subject]) for subject in joined),
        )
        return Recomputed(cause, after, compare_partitions(before, after), guarded, lapsing, [], more)

    def _worth_asking(
        self,
        decided: Sequence[Decided],
        guarded: Mapping[Pair, str],
        asked: set[Pair],
        ages: Mapping[bytes, int],
    ) -> list[Decided]:
        """The doubtful pairs not asked before; of those of one newer subject only the strongest, the others stay in
        the index."""
        found = []
        per_subject: Counter[bytes] = Counter()
        for one in sorted(decided, key=lambda it: (it.decision.rank, -it.decision.weight, it.pair)):
            if one.pair in asked or not (one.pair in guarded or one.decision.outcome is Outcome.REVIEW):
                continue
            newer = max(one.pair, key=ages.__getitem__)
            per_subject[newer] += 1
            if per_subject[newer] <= self._rules.most_reviews:
                found.append(one)
        return found

    def _keep_edges(self, components: Sequence[Recomputed], decided: Sequence[Decided], new: Sequence[Decided]) -> None:
        guarded = {pair for component in components for pair in (*component.guarded, *component.lapsing)}
        turned = {one.pair: one.pair in guarded for one in decided if one.guarded != (one.pair in guarded)}
        fresh = [one._replace(guarded=one.pair in guarded) for one in new]
        self._index.write_edges(fresh, turned, self._rules.name)

    def _keep_patients(self, components: Sequence[Recomputed], fresh: Mapping[bytes, Opened], outputs: Outputs) -> None:
        """Write who is whose, and tell it to the partition of every patient affected, in the order of versions."""
        changes = [(component.cause, change) for component in components for change in component.changes]
        versions = self._index.next_link_versions(len(changes)) if changes else []
        moves = {
            subject: Move(subject, component.after[subject], None, settled=True)
            for component in components
            for subject in component.after.keys() & fresh.keys()
        }
        for (cause, change), version in zip(changes, versions, strict=True):
            for subject in change.subjects:
                moves[subject] = Move(subject, change.patient, version, settled=subject in fresh)
            value = messages.encode(change.link(version))
            partitions = {self._partition(patient): patient for patient in reversed(change.patients)}
            for number, patient in partitions.items():
                outputs.emit(cause, Emit(PATIENT_LINKS, patient.hex().encode(), value, partition=number))
        self._index.move(sorted(moves.values()))
        more = zip(*(component.more for component in components), strict=True)
        self._index.count(self._slot, Tally(*(sum(column) for column in more)))

    def _ask_stewards(self, components: Sequence[Recomputed], outputs: Outputs) -> None:
        for component in components:
            source = component.cause.header(Headers.SOURCE)
            for review in component.reviews:
                key = f"{review.left.hex()}:{review.right.hex()}".encode()
                outputs.emit(component.cause, Emit(REVIEWS, key, messages.encode(review)))
                outputs.count(source, "reviews")

    def _partition(self, patient: bytes) -> int:
        return int(patient.hex()[:8], 16) % self._hot_partitions


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
_TOO_COMMON: Final = "too many others carry the number"
_NO_PLACE: Final = "the number carries two ranks, and one of the two subjects has none"
_TWO_SIDES: Final = "the number links to people who must not meet, and nothing says which of them this is"
_KEPT_APART: Final = "the link would bring together what must not be one patient"
