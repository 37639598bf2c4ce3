"""What the readers of files share: lines, what was read at them, and how lines of several files find together. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from services.ingest.domain.refusals import Refusal


class Line(NamedTuple):
    """A line without its end, counted from 1 within its file. `file` tells files of one part from one another."""

    file: str
    number: int
    data: bytes


class Read(NamedTuple):
    """What one record came to: an event, why there is none, or the name of a kind that the hub does not take.

    `file` and `line` say where the record begins; of a document that has no lines, `line` is the record's position.
    """

    file: str
    line: int
    outcome: dict[str, Any] | Refusal | str


class Layout(Protocol):
    """How the lines of one file are made."""

    part: str
    """The part that the file is of its format."""
    headings: int
    """Lines at its beginning that are no records."""

    def key(self, data: bytes) -> bytes:
        """What the lines of one record have in common, in all parts. Raises Refused."""


class Piece(NamedTuple):
    """A line, and how it is made."""

    layout: Layout
    line: Line


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
