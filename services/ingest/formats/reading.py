"""What the readers of formats share: lines, what was read at them, how lines of several files find together. Pure."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from services.ingest.domain.refusals import Refusal

Outcome = dict[str, Any] | Refusal | str
"""An event (to be validated as `Event`), why there is none, or the name of what the hub does not take."""


class Line(NamedTuple):
    """A line without its end, counted from 1 within its file. `file` tells files of one part from one another."""

    file: str
    number: int
    data: bytes


class Read(NamedTuple):
    """What one record came to.

    `file` and `line` say where the record begins; of a document that has no lines, `line` is the record's position.
    """

    file: str
    line: int
    outcome: Outcome


class Layout(Protocol):
    """How the lines of one file are made."""

    part: str
    """The part that the file is of its format."""
    headings: int
    """Lines at its beginning that are no records."""

    def key(self, data: bytes) -> bytes:
        """What the lines of one record have in common, in all parts. Raises Refused."""


class Piece(NamedTuple):
    """A line, how it is made, and its key."""

    layout: Layout
    line: Line
    key: bytes


class JoinedFormat(Protocol):
    """A format whose records are made of lines of several files, in any order.

    Whatever the bytes are, nothing but Refused is raised, and that only where it is said.
    """

    name: str
    """As in `POST /v1/files/{format}`."""
    parts: tuple[str, ...]
    """Its kinds of files; a record begins at its first line of the first part that it has lines of."""

    def part_of(self, file: str, head: bytes) -> str | None:
        """Which part a file is, by its name or its beginning (some kilobytes), or None if it is not of this format."""

    def layout(self, part: str, first: bytes) -> Layout:
        """The layout of a file whose first line this is. Raises Refused, for the whole file."""

    def events(self, pieces: Sequence[Piece], source: str) -> Iterator[Read]:
        """The records made of all lines of one key: by part in the order of `parts`, then as they stand in files."""


def read_as(piece: Piece, outcome: Outcome) -> Read:
    """What the record that begins at this line came to."""
    return Read(piece.line.file, piece.line.number, outcome)


def event(
    source: str,
    kind: str,
    name: str,
    time: str | None,
    data: dict[str, Any],
    *,
    correction: bool = False,
    version: int | None = None,
) -> dict[str, Any]:
    """The CloudEvent of one state of a record, as `contracts.events.Event` has it; `name` is the record's id."""
    told: dict[str, Any] = {
        "specversion": "1.0",
        "id": name,
        "source": source,
        "type": kind,
        "time": time,
        "data": data,
    }
    if correction:
        told["correction"] = True
    if version is not None:
        told["version"] = version
    return told


def last_day(date: str) -> str:
    """The last day of a year, a month or a day, so that no care stands after a death only as its day is not known."""
    if len(date) == len("YYYY-MM-DD"):
        return date
    year, month = int(date[:4]), int(date[5:] or 12)
    return f"{year:04}-{month:02}-{monthrange(year, month)[1]}"


def bounded(name: str, longest: int) -> str:
    """A name, or its digest where it has more than that many characters."""
    return name if len(name) <= longest else f"sha256:{sha256(name.encode(errors='replace')).hexdigest()}"
