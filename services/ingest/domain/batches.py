"""From the bytes of a request to the bytes of its events. Pure."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import msgspec


class BadBody(Exception):
    """The body as a whole cannot be read; the text says why, and repeats nothing of it."""


class TooLarge(Exception):
    """The body is, unpacked, larger than it may be."""


class NoRoom(Exception):
    """There is no place for what the body is, unpacked."""


class Element(NamedTuple):
    """One event as it was sent: its position in the request, and its JSON."""

    place: int
    json: bytes


MEMBERS: Final = 64
"""Of one gzip body: each costs a copy of what is left of it."""
STRETCH: Final = 2**20
"""Bytes that are unpacked at a time."""

_BOM: Final = b"\xef\xbb\xbf"
_WHITESPACE: Final = b" \t\r\n"
_raw_list: Final = msgspec.json.Decoder(list[msgspec.Raw])


def unpack(body: bytes, limit: int, take: Callable[[int], bool]) -> bytes:
    """The content of a gzip body (RFC 1952), of at most `limit` bytes. Raises BadBody, TooLarge, NoRoom.

    `take` is asked for every stretch that is unpacked, and says whether there is place for it.
    """
    parts: list[bytes] = []
    size = 0
    for _ in range(MEMBERS):
        stream = zlib.decompressobj(wbits=31)
        while body and not stream.eof:
            try:
                part = stream.decompress(body, min(STRETCH, limit - size + 1))
            except zlib.error:
                raise BadBody("Content-Encoding is gzip, but the body is not, or it is broken: pack it again") from None
            size += len(part)
            if size > limit:
                raise TooLarge
            if not take(len(part)):
                raise NoRoom
            parts.append(part)
            body = stream.unconsumed_tail
        if parts and not stream.eof:
            raise BadBody("the gzip body is cut short: send all of it")
        body = stream.unused_data
        if not body:
            return b"".join(parts)
    raise BadBody(f"the gzip body has more than {MEMBERS} members: pack it as one")


def lines(body: bytes) -> list[Element]:
    """The events of NDJSON: a line each, by its position; empty lines count but are none."""
    found = (Element(index, line.strip(_WHITESPACE)) for index, line in enumerate(_content(body).split(b"\n")))
    return [one for one in found if one.json]


def array(body: bytes) -> list[Element]:
    """The events of a JSON array. Raises BadBody where no array can be made out.

    An element that is itself broken does not harm the others: they are told apart by brackets and quotes then.
    """
    body = _content(body)
    try:
        return [Element(index, bytes(raw)) for index, raw in enumerate(_raw_list.decode(body))]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        found = _by_brackets(body)
    if found is None:
        raise BadBody("the body is not a JSON array of events: look for a missing bracket or quote")
    return [Element(index, part) for index, part in enumerate(found)]


def one_or_many(body: bytes) -> list[Element]:
    """One event, or an array of them. Raises BadBody."""
    body = _content(body)
    return array(body) if body.startswith(b"[") else one(body)


def one(body: bytes) -> list[Element]:
    """One event; none in an empty body."""
    body = _content(body)
    return [Element(0, body)] if body else []


def has_nul(value: Any) -> bool:
    """Whether a decoded JSON value has a NUL character in any text or name."""
    return any("\0" in text for text in _texts(value))


def _content(body: bytes) -> bytes:
    return body.removeprefix(_BOM).strip(_WHITESPACE)


_MARKS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{},]', re.DOTALL)


def _by_brackets(body: bytes) -> list[bytes] | None:
    """The elements of an array whose brackets and quotes pair up, whatever else is wrong with them."""
    if not body.startswith(b"["):
        return None
    found: list[bytes] = []
    depth = begun = 0
    for mark in _MARKS.finditer(body):
        sign = mark[0]
        if sign == b'"':
            return None
        if sign in (b"[", b"{"):
            depth += 1
            if depth == 1:
                begun = mark.end()
        elif sign in (b"]", b"}"):
            depth -= 1
        if depth == 0 or (depth == 1 and sign == b","):
            found.append(body[begun : mark.start()].strip(_WHITESPACE))
            begun = mark.end()
            if depth == 0:
                return found if mark.end() == len(body) else None
    return None


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
