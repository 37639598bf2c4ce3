"""Files of any size and order, read as records in bounded memory."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import groupby
from typing import BinaryIO, Final, NamedTuple

from services.ingest.domain.reading import JoinedFormat, Layout, Line, Piece, Read
from services.ingest.domain.refusals import Refusal, Refused

LONGEST_LINE: Final = 2**20
"""Bytes of a line; what is longer is refused unread."""
MOST_LINES: Final = 20_000
"""Lines of one record."""
_CACHE_KIB: Final = 32 * 1024
_TOO_LONG: Final = Refusal("line-too-long", f"a line has more than {LONGEST_LINE} bytes: look for a missing line end")
_TOO_MANY: Final = Refusal(
    "too-many-lines", f"more than {MOST_LINES} lines have the same key: look for a key that was left empty"
)


class File(NamedTuple):
    """An open file, from its start and seekable, and the part that it is of its format."""

    name: str
    part: str
    content: BinaryIO


def join(form: JoinedFormat, files: Sequence[File], source: str) -> Iterator[Read]:
    """The records of files that belong together, in the order of their first lines.

    What cannot be read is refused, and the rest goes on. The keys of all lines go to a temporary database of this
    process, which no name leads to and which goes with it; lines are read again where they stand.
    """
    with closing(sqlite3.connect("", isolation_level=None)) as index:
        index.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        index.execute("PRAGMA journal_mode = OFF")
        index.execute(
            "CREATE TABLE lines (rank INTEGER PRIMARY KEY, key BLOB, part INT, file INT, line INT, start INT, size INT)"
        )
        layouts: dict[int, Layout] = {}
        index.execute("BEGIN")
        ordered = sorted(enumerate(files), key=lambda one: form.parts.index(one[1].part))
        for number, file in ordered:
            yield from _index(index, form, number, file, layouts)
        index.execute("CREATE INDEX by_key ON lines (key, rank, part, file, line, start, size)")
        yield from _records(index, form, files, layouts, source)


def _index(
    index: sqlite3.Connection, form: JoinedFormat, number: int, file: File, layouts: dict[int, Layout]
) -> Iterator[Read]:
    """Note where each line of a file stands, by its key; the lines that have none are refused."""
    part = form.parts.index(file.part)
    insert = "INSERT INTO lines (key, part, file, line, start, size) VALUES (?, ?, ?, ?, ?, ?)"
    rows: list[tuple[bytes, int, int, int, int, int]] = []
    layout: Layout | None = None
    for line, start, data in lines(file.content, LONGEST_LINE):
        if data is None:
            yield Read(file.name, line, _TOO_LONG)
            continue
        try:
            if layout is None:
                layout = layouts[number] = form.layout(file.part, data)
            if line <= layout.headings or not data.strip():
                continue
            rows.append((layout.key(data), part, number, line, start, len(data)))
        except Refused as refused:
            yield Read(file.name, line, refused.refusal)
            if layout is None:
                return
        if len(rows) >= 1000:
            index.executemany(insert, rows)
            rows.clear()
    index.executemany(insert, rows)


def _records(
    index: sqlite3.Connection, form: JoinedFormat, files: Sequence[File], layouts: dict[int, Layout], source: str
) -> Iterator[Read]:
    alike = "SELECT rank, file, line, start, size FROM lines WHERE key = ? ORDER BY rank LIMIT ?"
    for rank, key in index.execute("SELECT rank, key FROM lines ORDER BY rank"):
        found = index.execute(alike, (key, MOST_LINES + 1)).fetchall()
        if found[0][0] != rank:
            continue
        if len(found) > MOST_LINES:
            yield Read(files[found[0][1]].name, found[0][2], _TOO_MANY)
            continue
        pieces = []
        for number, rows in groupby(found, key=lambda row: row[1]):
            file, layout = files[number], layouts[number]
            for _, _, line, start, size in rows:
                file.content.seek(start)
                pieces.append(Piece(layout, Line(file.name, line, file.content.read(size))))
        yield from form.events(pieces, source)


def lines(content: BinaryIO, longest: int) -> Iterator[tuple[int, int, bytes | None]]:
    """Number, position and content of each line without its end; no content for one of more than `longest` bytes."""
    content.seek(0, os.SEEK_SET)
    number = start = 0
    while data := content.readline(longest + 2):
        number += 1
        length = len(data)
        whole = data.endswith(b"\n") or length < longest + 2
        while not whole:
            rest = content.readline(LONGEST_LINE)
            length += len(rest)
            whole = rest.endswith(b"\n") or not rest
            data = b""
        text = data.rstrip(b"\r\n")
        too_long = length > len(data) or len(text) > longest
        yield number, start, None if too_long else text
        start += length
