"""What travels between the services: small MessagePack maps beside Kafka headers.

A message's value is one of the structs below, encoded with `encode`; its headers are `Headers`.
Tokens are 16 bytes. Sealed fields are opaque to everybody but their recipient (see `runtime.sealing`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec


class Headers:
    """Kafka header names. Values are UTF-8 text; routing needs no more."""

    EVENT_ID: Final = "ce_id"
    SOURCE: Final = "ce_source"
    TYPE: Final = "ce_type"
    DIGEST: Final = "digest"
    REVISION: Final = "revision"
    TRACEPARENT: Final = "traceparent"
    KEY_VERSION: Final = "key_version"
    PATIENT_ID: Final = "patient_id"


class IdentifierToken(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A keyed token of one identifier: its system, and the rank that tells twins apart."""

    system: str
    token: bytes
    rank: int | None = None
    scheme: str | None = None


class BlockingToken(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A keyed token that people who may be one share: what it is made of, and its value."""

    kind: str
    token: bytes


class TokenBlock(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """All that linkage may know of an identity: tokens and codes, never a value.

    `subject` names the identity as its source gives it. `codes` has a row of comparison codes (`contracts.comparison`)
    for each of the identifiers, then for each of the blocking tokens, or is empty where the identity has no trait;
    rows compare where `code_version` is the same. `present` are the names of the traits there are. `flags` are words
    such as `nir-contradicts-sex`. (Bodies of version 1 have traits instead; they read as if without any.)
    """

    subject: bytes
    source: str
    status: str
    identifiers: tuple[IdentifierToken, ...] = ()
    blocking: tuple[BlockingToken, ...] = ()
    codes: bytes = b""
    code_version: str = ""
    present: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    correction: bool = False

    def tokens(self) -> Iterator[bytes]:
        """Every 16-byte token of the block: the subject, then those it may meet others by, in the order of `codes`."""
        yield self.subject
        yield from self.meeting_tokens()

    def meeting_tokens(self) -> Iterator[bytes]:
        """The tokens that rows of codes belong to, in their order."""
        for identifier in self.identifiers:
            yield identifier.token
        for blocking in self.blocking:
            yield blocking.token

    def with_tokens(self, tokens: Iterator[bytes]) -> TokenBlock:
        """The same block with each token replaced by the next of `tokens`."""
        return msgspec.structs.replace(
            self,
            subject=next(tokens),
            identifiers=tuple(
                IdentifierToken(one.system, next(tokens), one.rank, one.scheme) for one in self.identifiers
            ),
            blocking=tuple(BlockingToken(one.kind, next(tokens)) for one in self.blocking),
        )


class Demographics(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a permit may release about a person, and populations are drawn by."""

    sex: str | None = None
    birth_year: int | None = None
    birth_month: int | None = None
    commune: str | None = None
    deceased: str | None = None


class Content(msgspec.Struct, frozen=True, omit_defaults=True):
    """The stripped record, as only access reads it. `time` is RFC 3339 in UTC: of arrival, where it is not `dated`."""

    type: str
    time: str
    schema_version: int = 1
    record: dict[str, Any] = {}
    demographics: Demographics = Demographics()
    dated: bool = True


class Measures(msgspec.Struct, frozen=True):
    """What ingest has counted, sealed to statistics in a flow summary: by source, record type and measure.

    `contracts.measures` has the names. `writer` is the process that counted; its messages are numbered, and one that
    comes again under its number is the same. Sealed, because a second in which one record came describes that record.
    """

    writer: bytes
    number: int
    counts: dict[str, dict[str, dict[str, int]]]


class RecordReceived(msgspec.Struct, frozen=True):
    """records-received: `tokens` (a TokenBlock) sealed to pseudonym, `content` (a Content) sealed to access."""

    tokens: bytes
    content: bytes


class RecordPseudonymised(msgspec.Struct, frozen=True):
    """records-pseudonymised: `tokens` at level 2, sealed to linkage; `content` passed on unopened."""

    tokens: bytes
    content: bytes


class RecordLinked(msgspec.Struct, frozen=True):
    """records-linked: the subject the record belongs to for ever, and its content still unopened.

    Both are empty where the subject was erased: that there is such a state is all that is told of it.
    """

    subject: bytes
    content: bytes


class SubjectsLinked(msgspec.Struct, frozen=True, tag="linked"):
    """patient-links: these subjects now belong to this patient, as of this link version."""

    link_version: int
    patient: str
    subjects: tuple[bytes, ...]


class PatientsMerged(msgspec.Struct, frozen=True, tag="merged"):
    """patient-links: `retired` was found to be `survivor`; `subjects` have moved."""

    link_version: int
    survivor: str
    retired: str
    subjects: tuple[bytes, ...]


class PatientSplit(msgspec.Struct, frozen=True, tag="split"):
    """patient-links: `subjects` have left `patient` and are `new_patient` from this link version on."""

    link_version: int
    patient: str
    new_patient: str
    subjects: tuple[bytes, ...]


PatientLink = SubjectsLinked | PatientsMerged | PatientSplit


class LinkReview(msgspec.Struct, frozen=True):
    """link-reviews: a pair that a steward has to decide on, with the evidence as words and weights."""

    left: bytes
    right: bytes
    reason: str
    evidence: dict[str, float]
    rule_version: str


class StewardDecision(msgspec.Struct, frozen=True, omit_defaults=True):
    """link-decisions: what a data steward says of two subjects, `left` the smaller id; it outranks every rule.

    The latest word on a pair holds. `together` is null where the rules are to decide again. `decided_at` is in
    milliseconds since the epoch. `second` is who confirmed it, where that takes two; else it is empty.
    """

    left: bytes
    right: bytes
    together: bool | None
    steward: str
    decided_at: int
    second: str = ""


class RulesSwitched(msgspec.Struct, frozen=True, tag="switched"):
    """link-rules: the rule version that decides from now on; `rules` is as linkage's domain has it, sealed to linkage,
    since tokens are in it.

    `switched_at` is in milliseconds since the epoch.
    """

    name: str
    rules: bytes
    operator: str
    switched_at: int


class Rescan(msgspec.Struct, frozen=True, tag="rescan"):
    """link-rules-backfill: the subjects after one id up to another are to be searched again under a rule version."""

    rules: str
    after: bytes
    until: bytes


RulesMessage = RulesSwitched | Rescan


class PermitGranted(msgspec.Struct, frozen=True, tag="granted"):
    """permits: a permit to open; `definition` is the JSON of `contracts.permits.Permit`, `by` whoever granted it.

    `revision` counts its changes: of two the higher holds, and of equal ones the first. The view of a changed permit is
    made anew; while one is `suspended`, nothing leaves.
    """

    permit: str
    definition: bytes
    granted: str
    by: str = ""
    revision: int = 0
    suspended: bool = False


class PermitKeyWrapped(msgspec.Struct, frozen=True, tag="key-wrapped"):
    """permits: the permit's own key, derived by pseudonym and sealed to access."""

    permit: str
    key: bytes


class ViewScan(msgspec.Struct, frozen=True, tag="scan"):
    """permits: go on filling a view from the history, after the place `after` in this shard's own order.

    It is of a `revision` of the permit; an order of an older one is nothing any more. One of what is `pending` is to
    deliver what has waited since before this hour, or this day.
    """

    permit: str
    shard: int
    after: bytes = b""
    revision: int = 0
    pending: bool = False


class PermitClosed(msgspec.Struct, frozen=True, tag="closed"):
    """permits: nothing more leaves under this permit; its key is destroyed. `by` is who closed it."""

    permit: str
    reason: str
    by: str = ""


PermitMessage = PermitGranted | PermitKeyWrapped | ViewScan | PermitClosed


class ProjectStep(msgspec.Struct, frozen=True):
    """projects: an act in the life of a call (`call/<id>`) or a project (`project/<id>`), as somebody wants it done.

    The steps of a subject are numbered from 1: of two with one number the first holds, the other is refused. `id` is
    the act's own, `details` the JSON of its document (`contracts.projects.ACTS`), `at` in milliseconds since the epoch.
    """

    subject: str
    number: int
    id: str
    act: str
    actor: str
    role: str
    at: int
    details: bytes


class OppositionReach(msgspec.Struct, frozen=True):
    """opposition-reach: an opposition of `subject` also withholds `suspects`, who may be the same person.

    The highest version of a subject holds.
    """

    subject: bytes
    version: int
    suspects: tuple[bytes, ...]


class RequestAct(msgspec.Struct, frozen=True):
    """request-acts: what an officer wants done about a person's request, which is known by its event id (16 bytes).

    `id` is the act's own, `act` one of `contracts.requests.ACTS`, `by` who does it, `details` the JSON of what it says,
    `at` in milliseconds since the epoch. Of an erasure, `subjects` are all who were the person when the officer looked:
    they are forgotten, and nobody else.
    """

    request: bytes
    id: str
    act: str
    by: str
    at: int
    details: bytes
    subjects: tuple[bytes, ...] = ()


class SubjectsErased(msgspec.Struct, frozen=True):
    """erasures: an act about this request (its event id, 16 bytes) has erased these subjects: access has."""

    request: bytes
    subjects: tuple[bytes, ...]


class DailyReceipt(msgspec.Struct, frozen=True):
    """receipts: what one process of ingest has answered a source on a day (UTC, YYYY-MM-DD) by now.

    `rejected` is by reason; `digest` is the sum of the event ids acknowledged, as numbers, modulo 2^128.
    """

    writer: str
    source: str
    date: str
    accepted: int
    rejected: dict[str, int]
    digest: bytes


class AuditLeaf(msgspec.Struct, frozen=True, omit_defaults=True):
    """audit: one act, as `contracts.audit` makes it: of a batch under one permit, of a person, or with a key.

    `at` is RFC 3339 in UTC with milliseconds; `actor` is `<role>:<name>`; `action` is one of `contracts.audit.ACTS`.
    `count` and `root` are the number and the Merkle root of the ids concerned (the project's own ids where there is a
    permit, else the hub's); `root` is empty where there are none to give. `about` names what else it concerns, such as
    a rule version: never a person, and nothing of a record.
    """

    at: str
    actor: str
    action: str
    permit: str | None
    count: int
    root: bytes
    about: str = ""


class FlowWindow(msgspec.Struct, omit_defaults=True):
    """flow-windows: what one step made of one source's records in one window, as one partition of flow-summaries tells
    it; what several partitions tell is added up by who reads it.

    The window begins at `start` (s since the epoch) and is `seconds` long. `offset` is that of the last summary in it:
    what is not newer is counted. `last` is the newest moment (ms). `types` are records by type (of ingest: all that it
    answered for), `verdicts` what became of them. `ages` are of how many records, and the sum and the highest of their
    times since acceptance (ms). An empty `source` is for the step itself and what names no source: there, `waiting` has
    by topic and partition when it was known last (ms), and how many messages were left to read then. `writers` are the
    last numbers of the messages of measures, by their writer in hexadecimal digits.
    """

    step: str
    source: str
    start: int
    seconds: int
    offset: int = -1
    last: int = 0
    types: dict[str, int] = {}
    verdicts: dict[str, int] = {}
    ages: tuple[int, int, int] = (0, 0, 0)
    waiting: dict[str, tuple[int, int]] = {}
    writers: dict[str, int] = {}


def associated(event_id: str, record_type: str, source: str, digest: str) -> bytes:
    """What a record's sealed bodies are bound to, so that nobody in between can swap them."""
    return "\n".join((event_id, record_type, source, digest)).encode()


def rules_associated(name: str) -> bytes:
    """What a rule version is sealed with: it opens under its own name alone."""
    return f"rules\n{name}".encode()


def measures_associated(at: int) -> bytes:
    """What the measures of a flow summary are bound to: the moment it states (ms since the epoch)."""
    return f"measures\n{at}".encode()


def mark_of(subject: bytes) -> bytes:
    """What is kept of a subject that was erased, so that records about it are known again; nobody has it from the mark.

    A subject is 16 bytes of an HMAC, so there is nothing to try. Whoever has the subject from elsewhere can tell.
    """
    return hashlib.sha256(b"erased\n" + subject).digest()


def permit_associated(permit: str) -> bytes:
    """What a permit's wrapped key is bound to."""
    return b"permit\n" + permit.encode()


def revision(stated: str, accepted: int, offset: int) -> str:
    """The revision of a record's state, as text that sorts: the producer's version, then arrival.

    `stated` is the header as ingest wrote it (the producer's version, or 0), or a whole revision, which a replayed
    message keeps. Arrival is the broker's append time (ms) and the offset in records-received: the two lanes have
    offsets of their own, and only the time compares across them.
    """
    return stated if "-" in stated else f"{int(stated):010d}-{accepted:013d}-{offset:012d}"


def restored(headers: Mapping[str, bytes]) -> dict[str, bytes]:
    """The headers of a message as it was, from those of its dead letter; the revision is made whole from where it was
    first received, so that a message that is sent again never outranks a newer one."""
    kept = {name: value for name, value in headers.items() if not name.startswith("dlq_")}
    stated = kept.get(Headers.REVISION, b"").decode(errors="replace")
    if "-" in stated or stated.isdecimal():  # what is no number is why it is a dead letter, and is again
        whole = revision(stated, int(headers["dlq_timestamp"]), int(headers["dlq_offset"]))
        kept[Headers.REVISION] = whole.encode()
    return kept


def accepted_at(revision: str) -> int:
    """When the hub accepted this state (ms since the epoch); 0 where the revision is not whole."""
    parts = revision.split("-")
    return int(parts[1]) if len(parts) == 3 else 0


def encode(message: msgspec.Struct) -> bytes:
    """The message as MessagePack."""
    return _encoder.encode(message)


_encoder = msgspec.msgpack.Encoder()

VALUES: Final[dict[str, Any]] = {
    "records-received": RecordReceived,
    "records-pseudonymised": RecordPseudonymised,
    "records-linked": RecordLinked,
    "patient-links": PatientLink,
    "link-reviews": LinkReview,
    "link-decisions": StewardDecision,
    "link-rules": RulesMessage,
    "permits": PermitMessage,
    "projects": ProjectStep,
    "oppositions": RecordReceived,
    "oppositions-pseudonymised": RecordPseudonymised,
    "oppositions-linked": RecordLinked,
    "opposition-reach": OppositionReach,
    "request-acts": RequestAct,
    "erasures": SubjectsErased,
    "audit": AuditLeaf,
    "receipts": DailyReceipt,
    "flow-windows": FlowWindow,
}
"""The type of a topic's values. (`flow-summaries` is the runtime's, `view-<permit>` is `events.ViewEvent`.)"""
