"""Files of any size and order, read as records in bounded memory."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from hashlib import blake2b
from io import BytesIO
from itertools import groupby
from typing import Any, BinaryIO, Final, NamedTuple

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from services.ingest.domain.batches import BadBody
from services.ingest.domain.refusals import NUL_BYTE, Refusal, Refused
from services.ingest.formats.pmsi.mco import PmsiMco
from services.ingest.formats.reading import JoinedFormat, Layout, Line, Piece, Read
from services.ingest.formats.snds.beneficiaries import Register
from services.ingest.formats.snds.cepidc import Cepidc
from services.ingest.formats.snds.dcir import Dcir
from services.ingest.formats.streams import lines, scratch

FORMATS: Final[dict[str, JoinedFormat]] = {form.name: form for form in (PmsiMco(), Dcir(), Register(), Cepidc())}
"""The formats whose records are made of lines of several files, by name."""

HEAD: Final = 8192
"""Bytes of a file's beginning by which it is known."""

LONGEST_LINE: Final = 2**20
"""Bytes of a line; what is longer is refused unread."""
MOST_LINES: Final = 20_000
"""Lines of one record."""
_CACHE_KIB: Final = 32 * 1024
_TOO_LONG: Final = Refusal("line-too-long", f"a line has more than {LONGEST_LINE} bytes: look for a missing line end")


def too_many(count: int) -> Refusal:
    """So many lines have one key: they are refused together, at the first."""
    detail = f"{count} lines have the same key, and a record has {MOST_LINES} at the most: look for a key left empty"
    return Refusal("too-many-lines", detail)


class File(NamedTuple):
    """An open file, from its start and seekable, and the part that it is of its format."""

    name: str
    part: str
    content: BinaryIO


def part_of(file: str, head: bytes) -> tuple[JoinedFormat, str] | None:
    """The format and part that a file is of, by its name or its beginning, or None where no format knows it."""
    return next(((form, part) for form in FORMATS.values() if (part := form.part_of(file, head))), None)


def uploaded(form: JoinedFormat, body: bytes, content_type: str) -> list[File]:
    """The files of a request: a file by itself, or several as multipart/form-data (RFC 7578). Raises BadBody.

    A field that has the name of a part holds a file of that part; what another one holds is told by its file's name or
    its beginning. Files go by the names of their parts here, for a producer's own may say whom they are about.
    """
    kind, options = parse_options_header(content_type)
    sent = _fields(body, options.get("boundary", "")) if kind == "multipart/form-data" else [("", "", body)]
    counts: Counter[str] = Counter()
    files = []
    for number, (field, name, content) in enumerate(sent, 1):
        part = field if field in form.parts else form.part_of(name, content[:HEAD])
        if part is None:
            raise BadBody(
                f"file {number} is none of {', '.join(form.parts)} of {form.name}: name its field after one of them,"
                " and look at its first line"
            )
        counts[part] += 1
        files.append(File(part if counts[part] == 1 else f"{part}-{counts[part]}", part, BytesIO(content)))
    return files


def _fields(body: bytes, boundary: str) -> list[tuple[str, str, bytes]]:
    """The name, file name and content of each field of multipart/form-data."""
    found: list[tuple[str, str, list[bytes]]] = []
    try:
        with PushMultipartParser(boundary, max_segment_count=64) as parser:
            for event in parser.parse(body):
                if isinstance(event, MultipartSegment):
                    found.append((event.name, event.filename or "", []))
                elif event:
                    found[-1][2].append(bytes(event))
    except (MultipartError, ValueError):
        raise BadBody("the body is not multipart/form-data (RFC 7578), or has more than 64 fields") from None
    return [(field, name, b"".join(chunks)) for field, name, chunks in found]


def join(form: JoinedFormat, files: Sequence[File], source: str) -> Iterator[Read]:
    """The records of files that belong together, in the order of their first lines.

    What cannot be read is refused, and the rest goes on. The keys of all lines go to a temporary database of this
    process, which no name leads to and which goes with it; lines are read again where they stand.
    """
    with closing(scratch(_CACHE_KIB)) as index:
        index.execute("CREATE TABLE ids (id BLOB PRIMARY KEY, times INT NOT NULL) WITHOUT ROWID")
        index.execute(
            "CREATE TABLE lines (rank INTEGER PRIMARY KEY, key BLOB, file INT, line INT, start INT, size INT)"
        )
        layouts: dict[int, Layout] = {}
        index.execute("BEGIN")
        ordered = sorted(enumerate(files), key=lambda one: form.parts.index(one[1].part))
        for number, file in ordered:
            yield from _index(index, form, number, file, layouts)
        index.execute("CREATE INDEX by_key ON lines (key, rank, file, line, start, size)")
        for one in _records(index, form, files, layouts, source):
            if isinstance(one.outcome, dict):
                _tell_apart(index, one.outcome)
            yield one


def _tell_apart(index: sqlite3.Connection, event: dict[str, Any]) -> None:
    """Number the second and later records of one id, so that none replaces another of the same files.

    The RSA of two stays may differ in nothing that an id can be made of. Which of them is the second is nothing that
    matters: sent again in another order, each takes the other's place, and both are there.
    """
    place = blake2b(event["id"].encode(errors="replace"), digest_size=16).digest()
    again = "INSERT INTO ids VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET times = times + 1 RETURNING times"
    (times,) = index.execute(again, (place,)).fetchone()
    if times > 1:
        event["id"] += f":{times}"


def _index(
    index: sqlite3.Connection, form: JoinedFormat, number: int, file: File, layouts: dict[int, Layout]
) -> Iterator[Read]:
    """Note where each line of a file stands, by its key; the lines that have none are refused."""
    insert = "INSERT INTO lines (key, file, line, start, size) VALUES (?, ?, ?, ?, ?)"
    rows: list[tuple[bytes, int, int, int, int]] = []
    layout: Layout | None = None
    for line, start, data in lines(file.content, LONGEST_LINE):
        try:
            if data is None:
                raise Refused(_TOO_LONG)
            if layout is None:
                layout = layouts[number] = form.layout(file.part, data)
            if line <= layout.headings or not data.strip():
                continue
            if b"\0" in data:
                raise Refused(NUL_BYTE)
            rows.append((layout.key(data), number, line, start, len(data)))
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
    alike = "SELECT file, line, start, size FROM lines WHERE key = ? ORDER BY rank"
    keys = "SELECT min(rank) AS first, key, count(*) FROM lines GROUP BY key ORDER BY first"
    for first, key, count in index.execute(keys):
        if count > MOST_LINES:
            number, line = index.execute("SELECT file, line FROM lines WHERE rank = ?", (first,)).fetchone()
            yield Read(files[number].name, line, too_many(count))
            continue
        found = index.execute(alike, (key,)).fetchall()
        pieces = []
        for number, rows in groupby(found, key=lambda row: row[0]):
            file, layout = files[number], layouts[number]
            for _, line, start, size in rows:
                file.content.seek(start)
                pieces.append(Piece(layout, Line(file.name, line, file.content.read(size)), key))
        yield from form.events(pieces, source)
