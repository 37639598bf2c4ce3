"""Leaves in, numbered lines of the log out; it knows no Kafka and no database."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec
from prometheus_client import Counter

from contracts.audit import AUDIT
from contracts.merkle import Tree, leaf_hash
from contracts.messages import AuditLeaf
from runtime.messages import Message, Outputs
from services.audit.domain.entries import is_well_formed, line_of, unreadable
from services.audit.domain.proofs import Node

log = logging.getLogger("estuaire.audit")

LANES: Final = (AUDIT,)

# Entries of the log, by what they tell of.
ENTRIES: Final = Counter("estuaire_audit_entries", "Entries that were appended to the audit log.", ["action"])


class Log(Protocol):
    """The log, within the loop's transaction."""

    def tree(self) -> Tree:
        """The tree over it; nobody else appends until the transaction ends."""

    def append(self, lines: Sequence[tuple[int, bytes]], nodes: Sequence[tuple[Node, bytes]]) -> None:
        """Write lines by their numbers at the end, and the nodes of the tree that they make whole."""


class Append:
    """The step of this service: every message becomes an entry, in the order of the topic; none is dropped."""

    def __init__(self, log: Log, topic_prefix: str = "") -> None:
        self._log = log
        self._prefix = topic_prefix
        self._leaf = msgspec.msgpack.Decoder(AuditLeaf)

    def prepare(self, batch: Sequence[Message]) -> None:
        """Nothing: all writes belong to the batch's transaction."""

    def origin(self, _message: Message) -> tuple[str, int]:
        """It is about no record of a source."""
        return "", 0

    def handle(self, batch: Sequence[Message]) -> Outputs:
        """Append the batch."""
        tree = self._log.tree()
        lines: list[tuple[int, bytes]] = []
        nodes: list[tuple[Node, bytes]] = []
        actions = []
        for message in batch:
            leaf = self._read(message)
            line = line_of(tree.size, leaf, f"{message.partition}@{message.offset}")
            lines.append((tree.size, line))
            nodes += [((level, index), hashed) for level, index, hashed in tree.append(leaf_hash(line))]
            actions.append(leaf.action)
        self._log.append(lines, nodes)
        for action in actions:
            ENTRIES.labels(action).inc()
        return Outputs()

    def _read(self, message: Message) -> AuditLeaf:
        try:
            leaf = self._leaf.decode(message.value)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            leaf = None
        if leaf is not None and is_well_formed(leaf):
            return leaf
        log.error("what is at %d/%d of the topic is no leaf: the log has its hash", message.partition, message.offset)
        return unreadable(message.value, message.timestamp)
