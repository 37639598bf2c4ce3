"""Records with level-2 tokens in; records with their subject out, and which subjects are which patient."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from contracts import audit, messages
from contracts.comparison import ROW_BYTES
from contracts.events import DELETED, OF_RIGHTS, OPPOSITION
from contracts.messages import (
    Headers,
    RecordLinked,
    RecordPseudonymised,
    Rescan,
    RulesMessage,
    RulesSwitched,
    StewardDecision,
    SubjectsErased,
    TokenBlock,
)
from runtime.messages import Emit, InvalidMessage, Message, Outputs, Reason
from runtime.sealing import Opener, SealBroken
from services.linkage.adapters import EVERYBODY, AnotherVersion, PatientIndex, Range, Saved, Tally
from services.linkage.domain.rules import RulesError, from_bytes
from services.linkage.domain.states import Coordinates, State, Verdict, accept, judge, place
from services.linkage.domain.tokens import is_unlinkable
from services.linkage.erasure import DECISIONS, forget
from services.linkage.linking import Affected, Linker

PSEUDONYMISED: Final = "records-pseudonymised"
LINKED: Final = "records-linked"
OPPOSITIONS: Final = "oppositions-pseudonymised"
ERASURES: Final = "erasures"
RULES_SWITCHED: Final = "link-rules"
BACKFILL: Final = "-backfill"
RESCANS: Final = RULES_SWITCHED + BACKFILL
LANES: Final = (ERASURES, OPPOSITIONS, DECISIONS, RULES_SWITCHED, PSEUDONYMISED, PSEUDONYMISED + BACKFILL, RESCANS)
RESCANNED: Final = 500
"""How many subjects a batch searches again at the most, so that records do not wait long behind them."""
NOBODY: Final = b""
"""The subject of records whose subject was erased."""


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


class Link:
    """The step of this service. It opens tokens, never content."""

    def __init__(
        self,
        index: PatientIndex,
        opener: Opener,
        *,
        hot_partitions: int = 2,
        slot: int = 0,
        topic_prefix: str = "",
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._index = index
        self._opener = opener
        self._linker = Linker(index, hot_partitions=hot_partitions, slot=slot)
        self._hot_partitions = hot_partitions
        self._slot = slot
        self._prefix = topic_prefix
        self._clock = clock
        self._record = msgspec.msgpack.Decoder(RecordPseudonymised)
        self._block = msgspec.msgpack.Decoder(TokenBlock)
        self._erasure = msgspec.msgpack.Decoder(SubjectsErased)
        self._decision = msgspec.msgpack.Decoder(StewardDecision)
        self._rules_message: msgspec.msgpack.Decoder[RulesMessage] = msgspec.msgpack.Decoder(RulesMessage)
        self._batch: tuple[Sequence[Message], list[Opened | InvalidMessage]] = ([], [])

    def prepare(self, batch: Sequence[Message]) -> None:
        """Insert the new subjects of what will be admitted, committed, so that of two workers at least one sees the
        other.

        A message that `handle` will reject leaves no subject through which others would link. (If another slot admits
        another state of the same record between the two, in the other lane, one subject too many may stay.)
        """
        opened = [one for one in self._open(batch) if isinstance(one, Opened)]
        with self._index.apart():
            strange = self._index.find_strange({one.block.subject for one in opened})
            events = {one.event for one in opened if one.block.subject in strange}
            if not events:
                return
            judged = self._judge([one for one in opened if one.event in events]).judged
            admitted = {
                one.state.subject: one.block
                for one, verdict in judged
                if verdict not in _REFUSED and one.block.subject == one.state.subject in strange
            }
            self._index.insert(list(admitted.values()))

    def origin(self, message: Message) -> tuple[str, int]:
        """The record's source, and when the hub accepted it."""
        revision = message.headers.get(Headers.REVISION, b"").decode("utf-8", "replace")
        accepted = messages.accepted_at(revision) if _is_whole(revision) else 0
        return message.headers.get(Headers.SOURCE, b"").decode("utf-8", "replace"), accepted

    def handle(self, batch: Sequence[Message]) -> Outputs:
        """Tell new states from re-sends and conflicts, find each new subject's patient, and pass the records on."""
        outputs = Outputs()
        erased = self._erase(batch, outputs)
        rescans = self._obey(batch, outputs)
        for message, subjects in erased:
            self._forget(subjects, message, outputs)
        admitted = self._admit(batch, outputs)
        patients = self._settle(admitted, self._hear(batch, outputs), self._rescan(rescans, outputs), outputs)
        for one in admitted.accepted:
            self._pass_on(one, patients.get(one.state.subject, NOBODY), outputs)
        for message, subjects in self._lifted(admitted):
            self._forget(subjects, message, outputs)
        return outputs

    # erasures

    def _erase(self, batch: Sequence[Message], outputs: Outputs) -> list[tuple[Message, set[bytes]]]:
        """Mark those whom officers have erased, before anything else of the batch; whom each message says."""
        found = []
        for message in batch:
            if self._topic(message) != ERASURES:
                continue
            try:
                subjects = set(self._erasure.decode(message.value).subjects)
            except msgspec.MsgspecError:
                outputs.reject(message, InvalidMessage(Reason.DECODING, "the body is no SubjectsErased"))
                continue
            if any(len(one) != 16 for one in subjects):
                outputs.reject(message, InvalidMessage(Reason.SCHEMA, "a subject is not 16 bytes long"))
            elif subjects:
                found.append((message, subjects))
        if found:
            self._index.erase(set().union(*(subjects for _, subjects in found)))
        return found

    def _forget(self, subjects: Collection[bytes], cause: Message, outputs: Outputs) -> None:
        forget(self._index, self._linker, subjects, cause, self._slot, outputs)

    def _lifted(self, admitted: Admitted) -> list[tuple[Message, set[bytes]]]:
        """Those who were erased, were known again for what they wanted of the hub, and have taken it back."""
        ended = {one.state.subject: one.message for one in admitted.accepted if one.state.retracted and _is_right(one)}
        erased = self._index.find_erased(ended) if ended else set()
        return [(ended[subject], {subject}) for subject in sorted(self._index.find_deserted(erased))]

    # records

    def _open(self, batch: Sequence[Message]) -> list[Opened | InvalidMessage]:
        """Each message opened, or why it cannot be; kept from `prepare` to `handle`."""
        if self._batch[0] is not batch:
            self._batch = batch, [self._open_one(message) for message in batch if self._topic(message) not in _ASIDE]
        return self._batch[1]

    def _topic(self, message: Message) -> str:
        return message.topic.removeprefix(self._prefix)

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
        records = (message for message in batch if self._topic(message) not in _ASIDE)
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
        self._index.keep_oppositions(
            {event: (states[0].subject, not states[0].retracted) for event, states in after.items() if _objects(states)}
        )
        fresh = sum(event not in before for event in after)
        self._index.count(self._slot, Tally(records=fresh))
        left = {
            before[one.event][0].subject: one.message
            for one in accepted
            if one.event in before and one.event in after and before[one.event][0] != after[one.event][0]
        }
        left.pop(NOBODY, None)
        held = {one[0].subject for one in after.values() if not one[0].retracted} - {NOBODY}
        return Admitted(accepted, held, left)

    def _judge(self, opened: Sequence[Opened]) -> Judged:
        """Each message with its verdict, and its state with its subject and place; nothing is written."""
        before = self._index.find_states({one.event: None for one in opened})
        erased = self._index.find_erased({one.block.subject for one in opened})
        after: dict[bytes, list[State]] = {}
        judged = []
        for one in opened:
            known = after.get(one.event) or before.get(one.event, [])
            state = one.state
            if known and _names_nobody(one):
                state = msgspec.structs.replace(state, subject=known[0].subject)
            elif state.subject in erased and not _is_right(one):
                state = msgspec.structs.replace(state, subject=NOBODY)
            if not state.subject:
                state = msgspec.structs.replace(state, type="")
            state = place(state, known)
            verdict = judge(state, known)
            if verdict in (Verdict.FIRST, Verdict.NEXT):
                after[one.event] = accept(state, known)
            judged.append((one if state is one.state else replace(one, state=state), verdict))
        return Judged(judged, before, after)

    def _pass_on(self, one: Opened, patient: bytes, outputs: Outputs) -> None:
        topic = self._topic(one.message)
        into = "oppositions-linked" if topic == OPPOSITIONS else LINKED + topic.removeprefix(PSEUDONYMISED)
        placed = {Headers.REVISION: one.state.revision.encode(), Headers.PATIENT_ID: patient.hex().encode()}
        headers = {**one.message.headers, **placed}
        value = messages.encode(RecordLinked(one.state.subject, one.content if one.state.subject else b""))
        outputs.emit(one.message, Emit(into, one.message.key, value, headers))

    # stewards

    def _hear(self, batch: Sequence[Message], outputs: Outputs) -> dict[bytes, Message]:
        """Keep what stewards have decided; the subjects that it is about."""
        heard: dict[bytes, Message] = {}
        decisions = []
        for message in batch:
            if self._topic(message) != DECISIONS or not message.value:
                continue
            try:
                one = self._decision.decode(message.value)
            except msgspec.MsgspecError:
                outputs.reject(message, InvalidMessage(Reason.DECODING, "the body is no StewardDecision"))
                continue
            if not (len(one.left) == len(one.right) == 16 and one.left < one.right):
                outputs.reject(message, InvalidMessage(Reason.SCHEMA, "left and right are no two subjects in order"))
                continue
            if self._is_gone(one.left, one.right):
                continue
            decisions.append(one)
            pair = one.left.hex(), one.right.hex()
            by, first = audit.actor("steward", one.second or one.steward), audit.actor("steward", one.steward)
            about = _SAID[one.together] + (f", as {first} had said" if one.second else "")
            told = audit.leaf("link-decided", by, self._clock(), ids=pair, about=about)
            outputs.emit(message, Emit(*audit.message(told), trace="none"))
            heard |= dict.fromkeys((one.left, one.right), message)
        self._index.keep_stewards(decisions)
        return heard

    def _is_gone(self, *pair: bytes) -> bool:
        """Whether one of them was erased and is not known again: what is said of the two would know it again."""
        erased = self._index.find_erased(pair)
        return bool(erased and self._index.find_strange(erased))

    # rules

    def _obey(self, batch: Sequence[Message], outputs: Outputs) -> list[tuple[Message, Rescan]]:
        """Switch to the rule version that an operator has put in place; whom to search again."""
        rescans = []
        for message in batch:
            if self._topic(message) not in (RULES_SWITCHED, RESCANS):
                continue
            try:
                one = self._rules_message.decode(message.value)
                if isinstance(one, Rescan):
                    rescans.append((message, one))
                else:
                    self._switch(message, one, outputs)
            except msgspec.MsgspecError:
                outputs.reject(message, InvalidMessage(Reason.DECODING, "the body is no RulesSwitched and no Rescan"))
            except SealBroken as broken:
                outputs.reject(message, InvalidMessage(Reason.KEYS, f"the version cannot be opened: {broken}"))
            except RulesError as why:
                outputs.reject(message, InvalidMessage(Reason.SCHEMA, str(why)))
            except AnotherVersion as name:
                detail = f"there is a rule version {name} with other content: give this one another name"
                outputs.reject(message, InvalidMessage(Reason.CONFLICT, detail))
        self._linker.use(self._index.rules())
        return rescans

    def _switch(self, message: Message, switched: RulesSwitched, outputs: Outputs) -> None:
        ranges = _ranges(self._hot_partitions)
        rules = from_bytes(self._opener.open(switched.rules, messages.rules_associated(switched.name)))
        if rules.name != switched.name:
            raise RulesError(f"name: {switched.name} in the message, another in the version")
        if self._index.switch(switched, rules, ranges):
            by = audit.actor("operator", switched.operator)
            told = audit.leaf("rules-switched", by, self._clock(), about=rules.name)
            outputs.emit(message, Emit(*audit.message(told), trace="none"))
            for number, one in enumerate(ranges):
                outputs.emit(message, _rescan(Rescan(switched.name, *one), number))

    def _rescan(
        self, rescans: Sequence[tuple[Message, Rescan]], outputs: Outputs
    ) -> tuple[dict[bytes, Message], dict[bytes, TokenBlock]]:
        """The next subjects to be searched again, and the causes of that; those after them are left to another message.

        Whoever they have met is settled with them: not everybody whom they met before would be found again.
        """
        causes: dict[bytes, Message] = {}
        found: dict[bytes, TokenBlock] = {}
        name = self._linker.rules.name
        most = max(1, RESCANNED // max(1, len(rescans)))
        for message, one in rescans:
            if one.rules != name:
                continue
            given = Range(one.after, one.until)
            blocks = self._index.subjects_in(given, most)
            done = len(blocks) < most
            after = one.until if done else max(blocks)
            if not self._index.reach(given, after):
                continue
            found |= blocks
            causes |= dict.fromkeys((*blocks, *self._index.met(blocks)), message)
            if not done:
                outputs.emit(message, _rescan(Rescan(name, after, one.until), message.partition))
        return causes, found

    # patients

    def _settle(
        self,
        admitted: Admitted,
        heard: Mapping[bytes, Message],
        rescanned: tuple[Mapping[bytes, Message], Mapping[bytes, TokenBlock]],
        outputs: Outputs,
    ) -> dict[bytes, bytes]:
        """The patient of every subject of the batch.

        New subjects are searched and decided, and so are those that a new rule version has searched again. Their
        components are settled anew, and so are those of subjects that retire or return, and those that stewards have
        spoken of.
        """
        about: dict[bytes, Opened] = {}
        for one in admitted.accepted:
            if one.state.subject:
                about.setdefault(one.state.subject, one)
        known = self._index.find_subjects({**about, **admitted.left})
        patients = {subject: found.patient for subject, found in known.items() if found.settled and found.patient}
        fresh = {subject: one.block for subject, one in about.items() if subject not in patients}
        self._index.insert([block for subject, block in fresh.items() if subject not in known])
        deserted = self._index.find_deserted((fresh.keys() | admitted.left.keys()) - admitted.held)
        retired = {subject for subject, found in known.items() if found.retired}
        turned = (deserted ^ retired) & (deserted | admitted.held)
        causes = {
            subject: one.message
            for subject, one in about.items()
            if subject in fresh or subject in turned or self._topic(one.message) == OPPOSITIONS
        }
        causes |= {subject: cause for subject, cause in admitted.left.items() if subject in turned} | dict(heard)
        causes, fresh = {**rescanned[0], **causes}, {**rescanned[1], **fresh}
        affected = Affected(causes, fresh, deserted, admitted.held, turned)
        return patients | self._linker.settle(affected, outputs) if causes else patients


def _ranges(count: int) -> list[Range]:
    """All subjects, in as many ranges of about the same size."""
    ends = [(number << 128) // count for number in range(1, count)]
    bounds = [EVERYBODY.after, *(end.to_bytes(16) for end in ends), EVERYBODY.until]
    return [Range(*bounds[number : number + 2]) for number in range(count)]


def _rescan(rescan: Rescan, partition: int) -> Emit:
    return Emit(RESCANS, rescan.until.hex().encode(), messages.encode(rescan), partition=partition)


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


def _objects(states: Sequence[State]) -> bool:
    return states[0].type.removesuffix(DELETED) == OPPOSITION


def _is_right(one: Opened) -> bool:
    return one.state.type.removesuffix(DELETED) in OF_RIGHTS


def _count(one: Opened, outputs: Outputs) -> None:
    outputs.count(one.source, "linked")
    if not one.state.subject:
        outputs.count(one.source, "erased")
        return
    if one.state.correction:
        outputs.count(one.source, "corrections")
    if one.state.retracted:
        outputs.count(one.source, "retractions")
    elif is_unlinkable(one.block):
        outputs.count(one.source, "unlinkable")


_ASIDE: Final = (ERASURES, DECISIONS, RULES_SWITCHED, RESCANS)
"""The lanes that hold no records."""
_SAID: Final = {True: "together", False: "apart", None: "as-the-rules-say"}
_HEX: Final = frozenset("0123456789abcdef")
_NEEDED: Final = (Headers.EVENT_ID, Headers.TYPE, Headers.SOURCE, Headers.DIGEST, Headers.REVISION)
_REFUSED: Final = (Verdict.CONFLICT, Verdict.DUPLICATE)
