"""Records with level-2 tokens in; records with their subject out, and which subjects are which patient."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, NamedTuple

import msgspec

from contracts import messages
from contracts.events import DELETED
from contracts.messages import Headers, LinkReview, RecordLinked, RecordPseudonymised, TokenBlock
from runtime.messages import Emit, InvalidMessage, Message, Outputs, Reason
from runtime.sealing import Opener, SealBroken
from services.linkage.adapters import Decided, Move, PatientIndex, Saved, Subject, Tally
from services.linkage.domain.changes import Change, compare_partitions
from services.linkage.domain.components import (
    Pair,
    pairs_apart,
    partition,
    split_into_components,
    without_a_place,
)
from services.linkage.domain.decide import EXACT, Outcome, RuleVersion, decide, is_unlinkable, search_tokens
from services.linkage.domain.states import Coordinates, State, Verdict, accept, judge

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
class Recomputed:
    """A component after the batch: who is whose, what changed for others, and which links guards hold back."""

    cause: Message
    before: Mapping[bytes, bytes | None]
    after: Mapping[bytes, bytes]
    changes: Sequence[Change]
    guards: Mapping[Pair, str]


class _Publication(NamedTuple):
    cause: Message
    change: Change


class Link:
    """The step of this service. It opens tokens, never content."""

    def __init__(
        self,
        index: PatientIndex,
        opener: Opener,
        *,
        rules: RuleVersion = EXACT,
        hot_partitions: int = 2,
        slot: int = 0,
        topic_prefix: str = "",
    ) -> None:
        self._index = index
        self._opener = opener
        self._rules = rules
        self._hot_partitions = hot_partitions
        self._slot = slot
        self._prefix = topic_prefix
        self._record = msgspec.msgpack.Decoder(RecordPseudonymised)
        self._block = msgspec.msgpack.Decoder(TokenBlock)
        self._batch: tuple[Sequence[Message], list[Opened | InvalidMessage]] = ([], [])

    def prepare(self, batch: Sequence[Message]) -> None:
        """Insert new subjects with their tokens, committed, so that of two workers at least one sees the other."""
        fresh = {
            one.state.subject: one.block
            for one in self._open(batch)
            if isinstance(one, Opened) and not _names_nobody(one)
        }
        self._index.insert_apart(list(fresh.values()))

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
        before = self._index.find_states({one.event: None for one in opened})
        after: dict[bytes, list[State]] = {}
        accepted = []
        for one in opened:
            known = after.get(one.event) or before.get(one.event, [])
            if known and _names_nobody(one):
                one = _about(known[0].subject, one)
            verdict = judge(one.state, known)
            if verdict is Verdict.CONFLICT:
                outputs.reject(
                    one.message,
                    InvalidMessage(Reason.CONFLICT, "the record has other content, and this is no correction"),
                )
                continue
            if verdict is Verdict.DUPLICATE:
                outputs.count(one.source, "duplicates")
                continue
            if verdict is not Verdict.AGAIN:
                after[one.event] = accept(one.state, known)
            accepted.append(one)
            _count(one, outputs)
        self._index.save([Saved(event, before.get(event, []), states) for event, states in after.items()])
        fresh = sum(event not in before for event in after)
        self._index.count(self._slot, Tally(records=fresh))
        return accepted

    def _pass_on(self, one: Opened, patient: bytes, outputs: Outputs) -> None:
        lane = one.message.topic.removeprefix(self._prefix).removeprefix(PSEUDONYMISED)
        headers = {**one.message.headers, Headers.PATIENT_ID: patient.hex().encode()}
        value = messages.encode(RecordLinked(one.state.subject, one.content))
        outputs.emit(one.message, Emit(LINKED + lane, one.message.key, value, headers))

    # patients

    def _settle(self, accepted: Sequence[Opened], outputs: Outputs) -> dict[bytes, bytes]:
        """The patient of every subject of the batch; those not seen before are searched, decided and published."""
        about = {one.state.subject: one for one in reversed(accepted)}
        known = self._index.find_subjects(about)
        patients = {subject: one.patient for subject, one in known.items() if one.settled and one.patient}
        fresh = {subject: one for subject, one in reversed(about.items()) if subject not in patients}
        if not fresh:
            return patients
        self._index.insert([one.block for subject, one in fresh.items() if subject not in known])
        pairs = self._find_pairs(fresh)
        subjects, decided = self._index.lock_components({*fresh, *chain.from_iterable(pairs)})
        new = self._decide(pairs - {one.pair for one in decided}, subjects)
        components = self._recompute(fresh, subjects, [*decided, *new])
        self._write(fresh, subjects, decided, new, components)
        self._publish(components, outputs)
        self._ask_stewards(components, decided, new, outputs)
        for one in components:
            patients |= one.after
        return patients

    def _find_pairs(self, fresh: Mapping[bytes, Opened]) -> set[Pair]:
        """Each new subject with everybody who carries one of its tokens."""
        tokens = {
            subject: search_tokens(one.block).keys() - self._rules.too_common for subject, one in fresh.items()
        }
        holders = self._index.search(dict.fromkeys(chain.from_iterable(tokens.values())))
        return {
            (min(subject, other), max(subject, other))
            for subject, own in tokens.items()
            for token in own
            for other in holders.get(token, ())
            if other != subject
        }

    def _decide(self, pairs: Iterable[Pair], subjects: Mapping[bytes, Subject]) -> list[Decided]:
        return [
            Decided(left, right, decide(subjects[left].block, subjects[right].block, self._rules))
            for left, right in sorted(pairs)
        ]

    def _recompute(
        self, fresh: Mapping[bytes, Opened], subjects: Mapping[bytes, Subject], decided: Sequence[Decided]
    ) -> list[Recomputed]:
        """Every component the batch touches, in the order in which the batch touches them."""
        order = {subject: place for place, subject in enumerate(fresh)}
        member_of: dict[bytes, int] = {}
        members = split_into_components(subjects, (one.pair for one in decided))
        for number, component in enumerate(members):
            member_of |= dict.fromkeys(component, number)
        within: list[list[Decided]] = [[] for _ in members]
        for one in decided:
            within[member_of[one.left]].append(one)
        found = []
        for component, own in zip(members, within, strict=True):
            first = min((subject for subject in component if subject in order), key=order.__getitem__)
            found.append((order[first], _recompute(fresh[first].message, component, subjects, own)))
        return [one for _, one in sorted(found, key=lambda it: it[0])]

    def _write(
        self,
        fresh: Mapping[bytes, Opened],
        subjects: Mapping[bytes, Subject],
        decided: Sequence[Decided],
        new: Sequence[Decided],
        components: Sequence[Recomputed],
    ) -> None:
        guarded = {pair for one in components for pair in one.guards}
        turned = {one.pair: one.pair in guarded for one in decided if one.guarded != (one.pair in guarded)}
        self._index.write_edges(new, {**turned, **{one.pair: True for one in new if one.pair in guarded}}, self._rules.name)
        changed = sum(len(one.changes) for one in components)
        versions = iter(self._index.next_link_versions(changed) if changed else ())
        moves = {
            subject: Move(subject, patient, None, settled=True)
            for one in components
            for subject, patient in one.after.items()
            if subject in fresh
        }
        for one in components:
            for change in one.changes:
                version = next(versions)

