"""What a step reads and writes: messages in, outputs out, and the two ways to fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, NamedTuple, Protocol

import msgspec

TRACEPARENT: Final = "traceparent"
TYPE: Final = "ce_type"
MARKER: Final = "marker"
ORIGIN: Final = "marker_origin"
DEAD_LETTERS: Final = "-dlq"
BACKFILL: Final = "-backfill"


class Reason(StrEnum):
    """Why a message is a dead letter. The first four are the hub's own fault, and stop a partition in numbers."""

    DECODING = "decoding"
    SCHEMA = "schema"
    KEYS = "keys"
    INTERNAL = "internal"
    CONFLICT = "conflict"
    REFUSED = "refused"

    @property
    def ours(self) -> bool:
        """Whether the hub, not a producer, is to blame."""
        return self in (Reason.DECODING, Reason.SCHEMA, Reason.KEYS, Reason.INTERNAL)


class InvalidMessage(Exception):
    """This message can never be processed: it goes to the dead letters. The detail names no value."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class RetryLater(Exception):
    """Something the step needs is away: back off and try the same batch again; nothing is committed."""


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it was read. `timestamp` is in milliseconds since the epoch; a tombstone's value is empty."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes
    headers: Mapping[str, bytes]

    @property
    def place(self) -> Place:
        """The partition it was read from."""
        return Place(self.topic, self.partition)

    def header(self, name: str) -> str:
        """A header as text. Raises InvalidMessage when it is missing or no text."""
        try:
            return self.headers[name].decode()
        except (KeyError, UnicodeDecodeError):
            raise InvalidMessage(Reason.SCHEMA, f"header {name} is missing or not text") from None


class Emit(msgspec.Struct, array_like=True):
    """One message to write. `partition` -1 lets the key decide; `timestamp` is in ms since the epoch, 0 for now.

    `trace` says what becomes of the cause's trace. A `fresh` one looks the same on every message, sampled or not, so
    that it tells no reader which records somebody follows.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: dict[str, bytes] = {}
    partition: int = -1
    trace: Literal["continue", "fresh", "none"] = "continue"
    timestamp: int = 0


@dataclass(slots=True)
class Outputs:
    """What a step makes of a batch, each output tied to the message that caused it."""

    emits: list[tuple[Message, Emit]] = field(default_factory=list)
    dead: list[tuple[Message, InvalidMessage]] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def emit(self, cause: Message, emit: Emit) -> None:
        """Write `emit`, because of `cause`."""
        self.emits.append((cause, emit))

    def reject(self, cause: Message, why: InvalidMessage) -> None:
        """Send `cause` to the dead letters of its topic."""
        self.dead.append((cause, why))

    def count(self, source: str, verdict: str) -> None:
        """Count one record of a source under a verdict."""
        self.counts[source, verdict] += 1


class Step(Protocol):
    """What a service gives to the loop."""

    def prepare(self, batch: Sequence[Message]) -> None:
        """Writes that are harmless to repeat, committed before `handle`. Most steps have none."""

    def handle(self, batch: Sequence[Message]) -> Outputs:
        """The batch's outputs. With a store, runs inside the transaction that moves the progress row."""

    def origin(self, message: Message) -> tuple[str, int]:
        """The message's source, and when the hub accepted it (ms since the epoch; 0 if unknown)."""


class Passed(msgspec.Struct, frozen=True, array_like=True):
    """A marker that reached a step: which, on what topic and partition, and the partition it started in."""

    marker: str
    topic: str
    partition: int
    origin: int


class FlowSummary(msgspec.Struct, frozen=True, omit_defaults=True):
    """flow-summaries: one batch of one step. `inputs` are (topic, partition, first offset, next offset);
    `counts` are by source and verdict; `seconds` is the time the batch took. `measures` are more that a step has
    counted, sealed to whoever it is for. `types` are the records read, by source and type. `ages` are by source: of how
    many records, the sum and the highest of their times since acceptance (ms). `waiting` are (topic, partition, number)
    of messages that the slot has not read yet, on all it is assigned; one offset that is left counts as none, for it is
    as a rule the end of a transaction."""

    step: str
    slot: int
    at: int
    inputs: tuple[tuple[str, int, int, int], ...]
    counts: dict[str, dict[str, int]] = {}
    passed: tuple[Passed, ...] = ()
    seconds: float = 0.0
    measures: bytes = b""
    types: dict[str, dict[str, int]] = {}
    ages: dict[str, tuple[int, int, int]] = {}
    waiting: tuple[tuple[str, int, int], ...] = ()


SUMMARIES: Final = "flow-summaries"
