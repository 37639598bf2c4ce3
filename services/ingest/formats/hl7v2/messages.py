"""HL7 v2 ADT to the hub's events: of one message, an identity and what it tells of a stay. Pure, stateless.

Sources: HL7 v2.5.1, chapters 2 (encoding), 2A (data types) and 3 (ADT); IHE ITI TF-2, ITI-30 and ITI-31 (PAM), with
the French national extension (PAM.fr 2.10: ITI TF-4, France); the segment maps of HL7's v2-to-FHIR guide 1.0.0.

A message is the state of things at its event time, so the version of all its events is that time (EVN-2, else MSH-7) in
seconds since 2000: a late message overwrites nothing newer, in any order of arrival. Where EVN-2 has no more than the
day or the minute, it is the moment of these that is nearest to MSH-7. They are corrections, too: two messages of one
second are no contradiction, the one that arrives last holds.

What a message does not say, it says nothing of: an update (A08) tells whether a stay goes on only where PV1-45 has the
discharge, or says by "" that there is none. Else it leaves the stay as it is, and tells the identity and the diagnoses.
(HL7's guide has the status `unknown` there, for the message by itself; as a state it would reopen what has ended.)

An event is known by numbers that stay: Patient/<number>, Encounter/<visit number, PV1-19>, Condition/<visit>/<code>,
Death/<number>, each number as <authority>|<value>, in which /, | and % are percent-encoded. Of several numbers of one
patient it is the same in any order of them: one of type PI before others, then the first by authority and value.

A merge (A40) is an identity of its own, Merge/<surviving>/<retired>, which nothing overwrites: the surviving patient's
traits with both numbers. It shares a number with each of the two subjects, and linkage brings them together by its rule
for such numbers: where one trait agrees if both have traits, and by review where the two contradict each other. What a
retired number's records were, they stay.

Numbers are the authority's where its name holds everywhere (an OID, a FINESS number). A bare namespace, which two
hospitals with the same software share, names an authority as this source knows it.

Nothing here raises on any bytes, and no detail of a refusal repeats a value of the input.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, BinaryIO, Final, NamedTuple
from zoneinfo import ZoneInfo

import hl7

from services.ingest.domain.refusals import NUL_BYTE, Refused, refusing
from services.ingest.formats.hl7v2.fields import Clock, Text, Time, time_of
from services.ingest.formats.hl7v2.visits import MERGE, STATUS, Frame, Group
from services.ingest.formats.reading import Outcome, Read

LONGEST: Final = 2**20
"""Bytes of a message."""
MOST_READ: Final = 2**15
"""Characters of those segments that are read, which bounds what parsing them costs."""
PARIS: Final = ZoneInfo("Europe/Paris")
"""Where times without an offset are from, if nothing else is said."""

MESSAGE_NOT_TAKEN: Final = "message-not-taken"
EVENT_NOT_TAKEN: Final = "event-not-taken"
NOT_FOR_PRODUCTION: Final = "not-for-production"


class Header(NamedTuple):
    """The fields of MSH as they were sent, by their number less one (the first is the separator itself)."""

    fields: tuple[bytes, ...]

    def field(self, number: int) -> bytes:
        """MSH-<number>, empty where it is not there."""
        return self.fields[number - 1].strip() if number <= len(self.fields) else b""

    def component(self, number: int, at: int = 1) -> bytes:
        """A component of the first repetition of MSH-<number>."""
        component, repetition = self.fields[1][:1], self.fields[1][1:2]
        parts = self.field(number).partition(repetition)[0].split(component)
        return parts[at - 1].strip() if at <= len(parts) else b""


def header(message: bytes) -> Header | None:
    """The header of a message, if it begins with one: MSH, and four or five separators that differ (2.5.4)."""
    first = _LINE_END.split(message[: LONGEST + 1].lstrip(_FRAMING), maxsplit=1)[0]
    match = _MSH.match(first)
    if match is None or len({*match[1], *match[2]}) <= len(match[2]):
        return None
    return Header((match[1], match[2], *first[match.end() :].split(match[1])))


def events_of(message: bytes, source: str, zone: tzinfo = PARIS) -> list[Outcome]:
    """What becomes of one message: events to be validated as `Event`, refusals, names of what is passed over.

    `zone` is where times without an offset are from; of the hour that it has twice in autumn, the first is taken where
    MSH-7 does not tell by its offset which one it is.
    """
    try:
        return list(_outcomes(message, source, zone))
    except Refused as refused:
        return [refused.refusal]


def messages(content: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The messages of a file, each with the line (segment) that it begins at, in bounded memory.

    Batch envelopes (2.10.3: FHS, BHS, BTS, FTS) and the framing of MLLP are left out. Lines that belong to no message
    come as one, which then is none; what is longer than a message may be is cut, and then is too long.
    """
    begun, size = 0, 0
    held: list[bytes] = []
    for number, line in _lines(content):
        envelope = line[:3] in _ENVELOPE
        if held and (envelope or line[:3] == b"MSH"):
            yield begun, b"\r".join(held)
            held, size = [], 0
        if not line or envelope:
            continue
        if not held:
            begun = number
        if size <= LONGEST:
            held.append(line[: LONGEST + 1])
            size += len(line) + 1
    if held:
        yield begun, b"\r".join(held)


def read(content: BinaryIO, file: str, source: str, zone: tzinfo = PARIS) -> Iterator[Read]:
    """What the messages of a file came to, in their order."""
    for line, message in messages(content):
        for outcome in events_of(message, source, zone):
            yield Read(file, line, outcome)


_CHUNK: Final = 2**18
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_FRAMING: Final = b"\x0b\x1c\xef\xbb\xbf\r\n "
_ENVELOPE: Final = frozenset((b"FHS", b"BHS", b"BTS", b"FTS"))


def _lines(content: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, each with its number."""
    number, rest = 1, b""
    while chunk := content.read(_CHUNK):
        whole = rest + chunk
        half = whole.endswith(b"\r")  # perhaps of \r\n
        *lines, rest = _LINE_END.split(whole[:-1] if half else whole)
        for at, line in enumerate(lines, number):
            if line:
                yield at, line.strip(_FRAMING)
        number += len(lines)
        rest = rest[: LONGEST + 1] + b"\r" * half
    yield number, rest.strip(_FRAMING)


# --- the message ---

_MSH: Final = re.compile(rb"MSH([!-/:-@\[-`{-~])([!-/:-@\[-`{-~]{4,5})\1")
_READ: Final = frozenset((b"EVN", b"PID", b"PV1", b"DG1", b"MRG"))
_ABOUT_PERSONS: Final = frozenset((b"A28", b"A31", MERGE))
_EVENTS: Final = re.compile(rb"A(0[1-9]|[1-5]\d|6[0-2])")
"""Table 0003, ADT: a code outside of it could be anything."""
_CHARSETS: Final = {
    b"": "",
    b"ASCII": "ascii",
    b"UNICODE UTF-8": "utf-8",
    b"UTF-8": "utf-8",
    b"8859/15": "iso8859-15",
} | {f"8859/{part}".encode(): f"iso8859-{part}" for part in range(1, 10)}
"""Table 0211, as far as its sets agree with ASCII byte for byte."""
_ANCIENT: Final = re.compile("[\x80-\x9f]")


def _outcomes(message: bytes, source: str, zone: tzinfo) -> Iterator[Outcome]:
    if len(message) > LONGEST:
        raise refusing("too-long", f"the message has more than {LONGEST} bytes: leave out what is no text")
    head = header(message)
    if head is None:
        raise refusing("not-hl7", "MSH: the message does not begin with MSH and its separators, as in MSH|^~\\&|")
    if b"\0" in message:
        raise Refused(NUL_BYTE)
    text = Text(_text(message, head), Clock(zone, _sent(head, zone)))
    evn, groups = _groups(text)
    trigger = _trigger(head, text, evn)
    recorded = _recorded(text, evn, head)
    occurred = text.time(evn, 6, "EVN")
    version = int((recorded - _BEGINNING).total_seconds())
    if not 0 < version < 2**31:
        raise refusing("bad-date", "EVN-2: not within 2000 to 2067: messages are ordered by seconds since 2000")
    frame = Frame(source, version, (occurred.moment if occurred else recorded).isoformat())
    if not groups:
        raise refusing("missing-field", "PID: the segment is missing")
    if len(groups) > 1 and trigger != MERGE:
        raise refusing("malformed", "PID: the message has more than one: send a message for each patient")
    for group in groups:
        try:
            yield from Group(frame, text, trigger, occurred, group).outcomes()
        except Refused as refused:
            yield refused.refusal


_BEGINNING: Final = datetime(2000, 1, 1, tzinfo=UTC)


def _text(message: bytes, head: Header) -> hl7.Message:
    """The segments that are read, in the message's character set (2.15.9.18)."""
    lines = _LINE_END.split(message.strip(_FRAMING))
    wanted = b"\r".join(line for line in lines[1:] if line[:3] in _READ and line[3:4] in (head.fields[0], b""))
    charset = _CHARSETS.get(head.component(18).upper())
    if charset is None:
        raise refusing("bad-encoding", "MSH-18: not one of ASCII, 8859/1 to 8859/9, 8859/15 and UNICODE UTF-8")
    text = _decoded(wanted, charset)
    if len(text) > MOST_READ:
        raise refusing("too-long", f"PID, PV1 and DG1 have more than {MOST_READ} characters: look for a repeated value")
    separators = b"".join(head.fields[:2]).decode()
    parsed: hl7.Message = hl7.parse(f"MSH{separators}{separators[0]}\r{text}")
    return parsed


def _decoded(data: bytes, charset: str) -> str:
    """The text, if it is in that set: one without (empty) is UTF-8 where it can be, else ISO 8859-1."""
    if data.isascii():
        return data.decode("ascii")
    try:
        utf8: str | None = data.decode()
    except UnicodeDecodeError:
        utf8 = None
    if charset in ("", "utf-8") and utf8 is not None:
        return utf8
    if charset.startswith("iso8859") and utf8 is not None:
        raise refusing("bad-encoding", "MSH-18: names a part of ISO 8859, but the text is UTF-8: say UNICODE UTF-8")
    try:
        text = data.decode(charset or "iso8859-1")
    except UnicodeDecodeError:
        raise refusing("bad-encoding", "MSH-18: the text is not in the character set that it names") from None
    if _ANCIENT.search(text):
        raise refusing("bad-encoding", "MSH-18: the text has characters that ISO 8859 has not: send UNICODE UTF-8")
    return text


def _groups(text: Text) -> tuple[Sequence[Any], list[list[Sequence[Any]]]]:
    """EVN, and each PID with what follows it: a message of merges has several."""
    evn: Sequence[Any] = ()
    groups: list[list[Sequence[Any]]] = []
    for segment in text.message[1:]:
        name = str(segment[0])
        if name == "EVN":
            evn = evn or segment
        elif name == "PID":
            groups.append([segment])
        elif groups:
            groups[-1].append(segment)
    return evn, groups


def _trigger(head: Header, text: Text, evn: Sequence[Any]) -> bytes:
    """The event that the message is of, if it is taken."""
    if head.component(9) != b"ADT":
        raise refusing(MESSAGE_NOT_TAKEN, "MSH-9: not ADT: no other messages are taken")
    if head.component(11) not in (b"P", b""):
        raise refusing(NOT_FOR_PRODUCTION, "MSH-11: not P: messages for training or debugging are no care")
    code = head.component(9, 2) or text.value(text.first(evn, 1)).encode()
    if code in STATUS or code in _ABOUT_PERSONS:
        return code
    taken = ", ".join(one.decode() for one in sorted((*STATUS, *_ABOUT_PERSONS)))
    name = f"{code.decode()} is not taken" if _EVENTS.fullmatch(code) else "not an event of table 0003 for ADT"
    raise refusing(EVENT_NOT_TAKEN, f"MSH-9: {name}: send {taken}")


def _header_time(head: Header, zone: tzinfo) -> Time | None:
    told = head.component(7)
    return time_of(told.decode(errors="replace"), "MSH-7", Clock(zone)) if told else None


def _sent(head: Header, zone: tzinfo) -> Time | None:
    """When the message was sent, if that can be read."""
    try:
        return _header_time(head, zone)
    except Refused:
        return None


def _recorded(text: Text, evn: Sequence[Any], head: Header) -> datetime:
    """The moment by which messages are ordered: of what EVN-2 may be, the nearest to a finer MSH-7. Raises Refused."""
    recorded, sent = text.time(evn, 2, "EVN"), text.clock.sent
    if recorded is None:
        recorded = _header_time(head, text.clock.zone)
    elif sent is not None and sent.last - sent.first < recorded.last - recorded.first:
        return min(max(sent.first, recorded.first), recorded.last)
    if recorded is None:
        raise refusing("missing-field", "EVN-2: neither there nor in MSH-7 is the time by which messages are ordered")
    return recorded.moment
