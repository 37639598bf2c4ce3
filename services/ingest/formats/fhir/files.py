"""Files of FHIR R4: a Bundle or a resource as JSON, or NDJSON (bulk export).

Memory is bounded by the largest entry that is taken (LARGEST), whatever the file's size. What full URLs stand for is in
a temporary database on disk; only a history without versions takes about 100 bytes more for each of its records.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from typing import Any, BinaryIO, Final

import ijson
import msgspec

from services.ingest.domain import batches, refusals
from services.ingest.domain.refusals import Refusal, Refused
from services.ingest.formats.fhir import entries as fhir
from services.ingest.formats.fhir.references import Servers, Target, says_nothing_new, target_of
from services.ingest.formats.reading import Outcome, Read
from services.ingest.formats.streams import lines, scratch

LARGEST: Final = 16 * 2**20
"""Characters of an entry, in which a number counts as eight, or bytes of a line; what is larger is refused, and is not
held. An entry of that size takes up to 200 MB while it is read."""
DEEPEST: Final = 100
"""Levels of an entry; no resource of R4 has a third of it."""
_STRETCH: Final = 2**18
_CACHE_KIB: Final = 16 * 1024
_BOM: Final = b"\xef\xbb\xbf"
_TOO_LARGE: Final = Refusal(
    "too-large",
    f"more than {LARGEST} bytes: send documents and images elsewhere, the hub keeps none, and send it again",
)
_TWICE: Final = Refusal(
    "duplicate-name", "an object has a name twice (R4, json.html): which value is meant is not clear"
)
_BROKEN: Final = Refusal(
    "not-json",
    "the JSON (RFC 8259, UTF-8) is broken or cut short here, what follows is not read: correct it, and send it again",
)
_ENDLESS: Final = Refusal(
    "too-large", f"a text of more than {LARGEST} bytes, and what follows is not read: take it out, and send it again"
)
_UNREADABLE: Final = Refusal(
    "bad-value",
    "a number with an exponent beyond all bounds, and what follows is not read: correct it, and send it again",
)
_TWO_LISTS: Final = Refusal("duplicate-name", "Bundle.entry is there twice: put all entries into one list")


def read(content: BinaryIO, file_name: str, source: str) -> Iterator[Read]:
    """What each resource of an open, seekable file comes to, in the file's order.

    No bytes raise: what is wrong with them is a refusal. Reading can raise (OSError), and so can a disk that is full of
    full URLs (sqlite3.Error).

    `line` is the entry's position in a Bundle, or the number of a line of NDJSON. What stands before a broken place is
    read. A Bundle is read twice, so that an entry may refer to a later one; a line refers to no other by its full URL.
    """
    outcomes = _of_lines if _has_lines(content, file_name) else _of_document
    for place, outcome in outcomes(content, source):
        yield Read(file_name, place, outcome)


def _has_lines(content: BinaryIO, file_name: str) -> bool:
    """Whether a file is NDJSON: by its name, or because its first line is whole and another follows it."""
    if file_name.lower().endswith((".ndjson", ".jsonl")):
        return True
    content.seek(0, os.SEEK_SET)
    first = content.readline(LARGEST).removeprefix(_BOM)
    if not first.startswith(b"{") or not first.endswith(b"\n"):
        return False
    second = next((line for line in iter(lambda: content.readline(LARGEST), b"") if line.strip()), b"")
    if not second.startswith(b"{"):
        return False
    try:
        _decoded(first)
    except Refused:
        return False
    return True


# --- NDJSON ---


def _of_lines(content: BinaryIO, source: str) -> Iterator[tuple[int, Outcome]]:
    """hl7.org/fhir/uv/bulkdata: a resource a line. A line may hold a Bundle, too."""
    for number, _, data in lines(content, LARGEST):
        if data is None:
            yield number, _TOO_LARGE
            continue
        if number == 1:
            data = data.removeprefix(_BOM)
        if not data.strip():
            continue
        try:
            document = _decoded(data)
        except Refused as refused:
            yield number, refused.refusal
            continue
        for _, outcome in fhir.outcomes_of(document, source):
            yield number, outcome


def _decoded(data: bytes) -> Any:
    """A line's JSON, with the values that the same line has over HTTP. Raises Refused.

    It refuses two things more: a number beyond 64 bits or of LONGEST_NUMBER characters, which over HTTP goes as any
    value does that is no measure, and a line of a million values, which would take many times its size.
    """
    if 8 * sum(data.count(mark) for mark in (b",", b"[", b"{")) > LARGEST:
        raise Refused(_TOO_LARGE)
    try:
        json.loads(data, object_pairs_hook=_once, parse_float=_number, parse_int=_number)
        document = _json.decode(data)
    except msgspec.ValidationError:
        raise Refused(refusals.NUMBER_OUT_OF_RANGE) from None
    except RecursionError:
        raise Refused(refusals.TOO_DEEP) from None
    except (msgspec.MsgspecError, ValueError):
        raise Refused(refusals.NOT_JSON) from None
    if b"\\u0000" in data and batches.has_nul(document):
        raise Refused(refusals.NUL_BYTE)
    return document


_json: Final = msgspec.json.Decoder()


def _once(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise Refused(_TWICE)


def _number(number: str) -> None:
    if len(number) >= LONGEST_NUMBER or (number.removeprefix("-").isdigit() and not _is_bounded(int(number))):
        raise Refused(refusals.NUMBER_OUT_OF_RANGE)


# --- JSON ---

Token = tuple[str, Any]
"""As ijson gives them: an event and its value."""

_OPEN: Final = frozenset(("start_map", "start_array"))
_CLOSE: Final = frozenset(("end_map", "end_array"))


class _Broken(Exception):
    """From here on the file cannot be read."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


def _of_document(content: BinaryIO, source: str) -> Iterator[tuple[int, Outcome]]:
    with closing(_Targets()) as targets:
        head, broken = _survey(_tokens(content), targets)
        if broken is not None and ("resourceType" not in head or head["resourceType"] != "Bundle"):
            yield 0, broken
        elif (refusal := fhir.refusal_of(head)) is not None:
            yield 0, refusal
        elif head["resourceType"] == "Bundle":
            servers = Servers(source, targets, fhir.own_base(targets.bases))
            yield from _of_entries(_tokens(content), fhir.Entries(servers, head.get("type")))
        else:
            tokens = _tokens(content)
            try:
                for outcome in fhir.outcomes({"resource": _value(tokens, *next(tokens))}, Servers(source, {}, None)):
                    yield 0, outcome
            except Refused as refused:
                yield 0, refused.refusal


def _of_entries(tokens: Iterator[Token], entries: fhir.Entries) -> Iterator[tuple[int, Outcome]]:
    """The second reading of a Bundle: its entries, one after another."""
    lists = 0
    try:
        for name, event, value in _members(tokens):
            if name != "entry" or event != "start_array":
                _skip(tokens, event)
                continue
            lists += 1
            if lists > 1:
                yield entries.refuse(_TWO_LISTS)
                return
            for event, value in tokens:
                if event == "end_array":
                    break
                try:
                    entry = _value(tokens, event, value)
                except Refused as refused:
                    yield entries.refuse(refused.refusal)
                    continue
                yield from entries.read(entry)
    except _Broken as broken:
        yield entries.refuse(broken.refusal)


def _survey(tokens: Iterator[Token], targets: _Targets) -> tuple[dict[str, Any], Refusal | None]:
    """The first reading: what the document says of itself, what its entries' full URLs stand for, and what is broken.

    The head is empty where the document is no object; in it, `entry` is empty if it is a list.
    """
    head: dict[str, Any] = {}
    try:
        for name, event, value in _members(tokens):
            if name in ("resourceType", "type"):
                if name in head:
                    return {}, _TWICE
                head[name] = value
                _skip(tokens, event)
            elif name == "entry" and event == "start_array":
                head[name] = []
                for inner, _ in tokens:
                    if inner == "end_array":
                        break
                    if inner == "start_map":
                        targets.add(_address(tokens))
                    else:
                        _skip(tokens, inner)
            else:
                if name == "entry":
                    head[name] = value
                _skip(tokens, event)
    except _Broken as broken:
        return head, broken.refusal
    return head, None


def _address(tokens: Iterator[Token]) -> dict[str, Any]:
    """Of an entry that has been opened, its full URL, its resource's type and id, and its request's method and URL."""
    entry: dict[str, Any] = {}
    for name, event, value in _inside(tokens):
        if name in _ADDRESSES and event == "start_map":
            entry[name] = inner = {}
            for inner_name, inner_event, inner_value in _inside(tokens):
                if inner_name in _ADDRESSES[name]:
                    inner[inner_name] = inner_value
                _skip(tokens, inner_event)
        else:
            if name in ("fullUrl", *_ADDRESSES):
                entry[name] = value
            _skip(tokens, event)
    return entry


_ADDRESSES: Final = {"resource": ("resourceType", "id"), "request": ("method", "url")}


def _members(tokens: Iterator[Token]) -> Iterator[tuple[str, str, Any]]:
    """The names of a document's object, each with the token that its value begins with. None if it is no object."""
    event, _ = next(tokens)
    if event == "start_map":
        yield from _inside(tokens)
    else:
        _skip(tokens, event)
    for _ in tokens:  # to its end, where what is broken shows
        pass


def _inside(tokens: Iterator[Token]) -> Iterator[tuple[str, str, Any]]:
    for event, name in tokens:
        if event == "end_map":
            return
        yield (name, *next(tokens))


def _skip(tokens: Iterator[Token], event: str) -> None:
    """Pass over the value that a token begins."""
    if event in _OPEN:
        _leave(tokens, 1)


def _leave(tokens: Iterator[Token], depth: int) -> None:
    """Pass over what is left of `depth` values within one another."""
    for event, _ in tokens:
        if event in _OPEN:
            depth += 1
        elif event in _CLOSE:
            depth -= 1
            if not depth:
                return


def _value(tokens: Iterator[Token], event: str, value: Any) -> Any:
    """The value that a token begins, up to its end. Raises Refused after that, where it cannot be kept."""
    if event not in _OPEN:
        return value
    root: Any = {} if event == "start_map" else []
    holder, name, size = root, "", 0
    holders: list[tuple[Any, str]] = []
    fault: Refusal | None = None
    for event, value in tokens:
        if event == "map_key":
            name = value
            size += len(name)
            if name in holder:
                fault = _TWICE
            elif "\0" in name:
                fault = refusals.NUL_BYTE
        elif event in _CLOSE:
            if not holders:
                return root
            holder, name = holders.pop()
            continue
        else:
            if event == "string":
                size += len(value)
                if "\0" in value:
                    fault = refusals.NUL_BYTE
            elif event == "number":
                if type(value) is Decimal:
                    value = float(value)
                if not _is_bounded(value):
                    fault = refusals.NUMBER_OUT_OF_RANGE
            elif event in _OPEN:
                value = {} if event == "start_map" else []
            if type(holder) is dict:
                holder[name] = value
            else:
                holder.append(value)
            if event in _OPEN:
                holders.append((holder, name))
                holder = value
                if len(holders) > DEEPEST:
                    fault = refusals.TOO_DEEP
        size += 8
        if size > LARGEST:
            fault = _TOO_LARGE
        if fault is not None:
            _leave(tokens, len(holders) + 1)
            raise Refused(fault)
    return root


def _is_bounded(number: float) -> bool:
    """Whether a number is finite, and of 64 bits where it is whole: no measure needs more, and events hold no more."""
    return -(2**63) <= number < 2**64 if type(number) is int else -math.inf < number < math.inf


def _tokens(content: BinaryIO) -> Iterator[Token]:
    """The tokens of a file's JSON. Raises _Broken where there is none, or one that no entry can have."""
    found: list[Token] = ijson.sendable_list()
    parser = ijson.basic_parse_coro(found)
    silent = 0
    for stretch in _bounded(content):
        broken: Refusal | None = None
        try:
            parser.send(stretch) if stretch else parser.close()
        except (ijson.JSONError, ValueError):
            broken = _BROKEN
        except ArithmeticError:
            broken = _UNREADABLE
        silent = 0 if found else silent + _STRETCH
        yield from found
        found.clear()
        if broken is not None:
            raise _Broken(broken)
        if silent > LARGEST:
            raise _Broken(_ENDLESS)


def _bounded(content: BinaryIO) -> Iterator[bytes]:
    """The stretches of a file, an empty one at last. What is too long for a number is one that is out of range.

    Python makes no int of more than 4,300 digits, and ijson (3.6) then gives a token that ends the process. Numbers
    are looked for in earnest only from where there may be such a one, and where texts are is found out then.
    """
    at = content.seek(len(_BOM) if _begins_with_bom(content) else 0, os.SEEK_SET)
    numbers: _Numbers | None = None
    while stretch := content.read(_STRETCH):
        if numbers is None and _LONG in stretch.translate(_DIGITS):
            read, numbers = content.tell() - len(stretch), _Numbers()
            content.seek(at, os.SEEK_SET)
            while (left := read - content.tell()) > 0:
                numbers.bounded(content.read(min(left, _STRETCH)))
            content.seek(read + len(stretch), os.SEEK_SET)
        yield (stretch if numbers is None else numbers.bounded(stretch)) or b" "
    if numbers is not None and (held := numbers.held):
        yield held
    yield b""


def _begins_with_bom(content: BinaryIO) -> bool:
    content.seek(0, os.SEEK_SET)
    return content.read(len(_BOM)) == _BOM


LONGEST_NUMBER: Final = 1000
"""Characters of a number; one of so many or more is out of range."""
_LONG: Final = b"0" * LONGEST_NUMBER
_NUMERIC: Final = b"-+.0123456789eE"
_DIGITS: Final = bytes(ord("0") if code in _NUMERIC else ord(" ") for code in range(256))
_MARK: Final = re.compile(rb'"|[-+.0-9eE]++')
_TEXT: Final = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_OUT_OF_RANGE: Final = b"1e999"


class _Numbers:
    """Bounds the numbers of JSON that comes in stretches; texts stay as they are. `held` is not given out yet."""

    def __init__(self) -> None:
        self.held = b""
        self._in_text = False

    def bounded(self, stretch: bytes) -> bytes:
        """The next stretch."""
        stretch, self.held = self.held + stretch, b""
        out = bytearray()
        at = 0
        while at < len(stretch):
            if self._in_text:
                end = found.end() if (found := _TEXT.match(stretch, at)) else at
                out += stretch[at:end]
                at = end + 1
                if stretch[end:at] == b"\\":
                    self.held = b"\\"
                elif stretch[end:at]:
                    out += b'"'
                    self._in_text = False
            elif (mark := _MARK.search(stretch, at)) is None:
                out += stretch[at:]
                at = len(stretch)
            else:
                out += stretch[at : mark.start()]
                at = mark.end()
                if mark[0] == b'"':
                    out += b'"'
                    self._in_text = True
                elif at == len(stretch):
                    self.held = mark[0] if len(mark[0]) < LONGEST_NUMBER else _OUT_OF_RANGE.ljust(LONGEST_NUMBER, b"0")
                else:
                    out += mark[0] if len(mark[0]) < LONGEST_NUMBER else _OUT_OF_RANGE
        return bytes(out)


class _Targets:
    """What full URLs stand for, in a temporary database of this process: a bundle may have millions."""

    def __init__(self) -> None:
        self.bases: set[str | None] = set()
        self._rows: list[tuple[bytes, str, str | None]] = []
        self._is_empty = True
        self._index = scratch(_CACHE_KIB)
        self._index.execute("CREATE TABLE targets (url BLOB PRIMARY KEY, name TEXT, base TEXT) WITHOUT ROWID")

    def add(self, entry: dict[str, Any]) -> None:
        """Note where an entry's full URL leads, unless the URL says it by itself."""
        if (base := fhir.server_of(entry)) is not None and len(self.bases) < 3:
            self.bases.add(base)
        if (found := target_of(entry)) is None:
            return
        url, target = found
        if not says_nothing_new(url, target):
            self._rows.append((url.encode(errors="replace"), *target))
            if len(self._rows) >= 1000:
                self._keep()

    def get(self, url: str, /) -> Target | None:
        """What a URL stands for, or None where no entry has it, or it says so by itself."""
        self._keep()
        if self._is_empty:
            return None
        row = self._index.execute(
            "SELECT name, base FROM targets WHERE url = ?", (url.encode(errors="replace"),)
        ).fetchone()
        return Target(*row) if row else None

    def close(self) -> None:
        """Forget all."""
        self._index.close()

    def _keep(self) -> None:
        if self._rows:
            self._is_empty = False
            self._index.execute("BEGIN")
            self._index.executemany("INSERT OR REPLACE INTO targets VALUES (?, ?, ?)", self._rows)
            self._index.execute("COMMIT")
            self._rows.clear()
