"""A line of the log: what is hashed, kept and shown. Pure."""

from __future__ import annotations

import datetime as dt
from hashlib import sha256

import msgspec

from contracts.audit import LONGEST
from contracts.messages import AuditLeaf

UNREADABLE = "unreadable"
NOBODY = "service:unknown"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a line says: its number from 0, the leaf (`root` as hexadecimal), and `origin`, where the topic had it.

    All of it follows from the message: a log that is read again from the topic is the same, byte by byte.
    """

    number: int
    at: str
    actor: str
    action: str
    permit: str | None
    count: int
    root: str
    about: str
    origin: str


def line_of(number: int, leaf: AuditLeaf, origin: str) -> bytes:
    """The line of a leaf, as JSON in the order of the fields."""
    rest = (leaf.at, leaf.actor, leaf.action, leaf.permit, leaf.count, leaf.root.hex(), leaf.about, origin)
    return msgspec.json.encode(Entry(number, *rest))


def unreadable(value: bytes, timestamp: int) -> AuditLeaf:
    """What stands for a message of this time (ms since the epoch) that is no leaf: not lost, and not repeated."""
    at = dt.datetime.fromtimestamp(timestamp / 1000, dt.UTC).isoformat(timespec="milliseconds")
    return AuditLeaf(at.replace("+00:00", "Z"), NOBODY, UNREADABLE, None, 1, sha256(value).digest())


def is_well_formed(leaf: AuditLeaf) -> bool:
    """Whether a leaf can stand in the log: printable names of bounded length, a time in UTC, a root or none."""
    names = (leaf.actor, leaf.action, leaf.permit or "-", leaf.about or "-")
    try:
        moment = dt.datetime.fromisoformat(leaf.at)
    except ValueError:
        return False
    return (
        all(name.isprintable() and 0 < len(name) <= LONGEST for name in names)
        and leaf.at.endswith("Z")
        and len(leaf.at) == len("2026-03-01T10:00:05.123Z")
        and moment.utcoffset() == dt.timedelta(0)
        and 0 <= leaf.count < 2**53
        and len(leaf.root) in (0, 32)
    )
