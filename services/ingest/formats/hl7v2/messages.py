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
from calendar import monthrange
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from hashlib import sha256
from typing import Any, BinaryIO, Final, NamedTuple
from zoneinfo import ZoneInfo

import hl7

from contracts.events import DELETED, EARLIEST, LATEST
from services.ingest.domain.content import known
from services.ingest.domain.identity import InvalidIdentity, is_dummy, nir
from services.ingest.domain.refusals import NUL_BYTE, Refusal, Refused
from services.ingest.formats import ins
from services.ingest.formats.reading import Read

LONGEST: Final = 2**20
"""Bytes of a message."""
MOST_READ: Final = 2**15
"""Characters of those segments that are read, which bounds what parsing them costs."""
PARIS: Final = ZoneInfo("Europe/Paris")
"""Where times without an offset are from, if nothing else is said."""

MESSAGE_NOT_TAKEN: Final = "message-not-taken"
EVENT_NOT_TAKEN: Final = "event-not-taken"
NOT_FOR_PRODUCTION: Final = "not-for-production"

Outcome = dict[str, Any] | Refusal | str
"""An event, why there is none, or the name of something that the hub has no place for."""


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
_UPDATE: Final = b"A08"
_STATUS: Final = {
    b"A01": "in-progress",
    b"A03": "finished",
    b"A04": "in-progress",
    _UPDATE: "in-progress",
    b"A11": "cancelled",
    b"A13": "in-progress",
}
"""The events about a visit, and its status after each: admit, discharge, register, update, cancel of either (3.3)."""
_MERGE: Final = b"A40"
_ABOUT_PERSONS: Final = frozenset((b"A28", b"A31", _MERGE))
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


class _Frame(NamedTuple):
    """What the events of one message have in common."""

    source: str
    version: int
    time: str
    """When it happened (EVN-6, else EVN-2)."""

    def event(self, kind: str, name: str, time: str, data: dict[str, Any]) -> dict[str, Any]:
        """A state of a record."""
        return {
            "specversion": "1.0",
            "id": name,
            "source": self.source,
            "type": kind,
            "time": time,
            "correction": True,
            "version": self.version,
            "data": data,
        }


def _outcomes(message: bytes, source: str, zone: tzinfo) -> Iterator[Outcome]:
    if len(message) > LONGEST:
        raise _refused("too-long", f"the message has more than {LONGEST} bytes: leave out what is no text")
    head = header(message)
    if head is None:
        raise _refused("not-hl7", "MSH: the message does not begin with MSH and its separators, as in MSH|^~\\&|")
    if b"\0" in message:
        raise Refused(NUL_BYTE)
    text = _Text(_text(message, head), _Clock(zone, _sent(head, zone)))
    evn, groups = _groups(text)
    trigger = _trigger(head, text, evn)
    recorded = _recorded(text, evn, head)
    occurred = text.time(evn, 6, "EVN")
    version = int((recorded - _BEGINNING).total_seconds())
    if not 0 < version < 2**31:
        raise _refused("bad-date", "EVN-2: not within 2000 to 2067: messages are ordered by seconds since 2000")
    frame = _Frame(source, version, (occurred.moment if occurred else recorded).isoformat())
    if not groups:
        raise _refused("missing-field", "PID: the segment is missing")
    if len(groups) > 1 and trigger != _MERGE:
        raise _refused("malformed", "PID: the message has more than one: send a message for each patient")
    for group in groups:
        try:
            yield from _Group(frame, text, trigger, occurred, group).outcomes()
        except Refused as refused:
            yield refused.refusal


_BEGINNING: Final = datetime(2000, 1, 1, tzinfo=UTC)


def _text(message: bytes, head: Header) -> hl7.Message:
    """The segments that are read, in the message's character set (2.15.9.18)."""
    lines = _LINE_END.split(message.strip(_FRAMING))
    wanted = b"\r".join(line for line in lines[1:] if line[:3] in _READ and line[3:4] in (head.fields[0], b""))
    charset = _CHARSETS.get(head.component(18).upper())
    if charset is None:
        raise _refused("bad-encoding", "MSH-18: not one of ASCII, 8859/1 to 8859/9, 8859/15 and UNICODE UTF-8")
    text = _decoded(wanted, charset)
    if len(text) > MOST_READ:
        raise _refused("too-long", f"PID, PV1 and DG1 have more than {MOST_READ} characters: look for a repeated value")
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
        raise _refused("bad-encoding", "MSH-18: names a part of ISO 8859, but the text is UTF-8: say UNICODE UTF-8")
    try:
        text = data.decode(charset or "iso8859-1")
    except UnicodeDecodeError:
        raise _refused("bad-encoding", "MSH-18: the text is not in the character set that it names") from None
    if _ANCIENT.search(text):
        raise _refused("bad-encoding", "MSH-18: the text has characters that ISO 8859 has not: send UNICODE UTF-8")
    return text


def _groups(text: _Text) -> tuple[Sequence[Any], list[list[Sequence[Any]]]]:
    """EVN, and each PID with what follows it: a message of merges has several (3.3.40)."""
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


def _trigger(head: Header, text: _Text, evn: Sequence[Any]) -> bytes:
    """The event that the message is of, if it is taken."""
    if head.component(9) != b"ADT":
        raise _refused(MESSAGE_NOT_TAKEN, "MSH-9: not ADT: no other messages are taken")
    if head.component(11) not in (b"P", b""):
        raise _refused(NOT_FOR_PRODUCTION, "MSH-11: not P: messages for training or debugging are no care")
    code = head.component(9, 2) or text.value(text.first(evn, 1)).encode()
    if code in _STATUS or code in _ABOUT_PERSONS:
        return code
    taken = ", ".join(one.decode() for one in sorted((*_STATUS, *_ABOUT_PERSONS)))
    name = f"{code.decode()} is not taken" if _EVENTS.fullmatch(code) else "not an event of table 0003 for ADT"
    raise _refused(EVENT_NOT_TAKEN, f"MSH-9: {name}: send {taken}")


def _header_time(head: Header, zone: tzinfo) -> _Time | None:
    told = head.component(7)
    return _time(told.decode(errors="replace"), "MSH-7", _Clock(zone)) if told else None


def _sent(head: Header, zone: tzinfo) -> _Time | None:
    """When the message was sent, if that can be read."""
    try:
        return _header_time(head, zone)
    except Refused:
        return None


def _recorded(text: _Text, evn: Sequence[Any], head: Header) -> datetime:
    """The moment by which messages are ordered: of what EVN-2 may be, the nearest to a finer MSH-7. Raises Refused."""
    recorded, sent = text.time(evn, 2, "EVN"), text.clock.sent
    if recorded is None:
        recorded = _header_time(head, text.clock.zone)
    elif sent is not None and sent.last - sent.first < recorded.last - recorded.first:
        return min(max(sent.first, recorded.first), recorded.last)
    if recorded is None:
        raise _refused("missing-field", "EVN-2: neither there nor in MSH-7 is the time by which messages are ordered")
    return recorded.moment


def _refused(reason: str, detail: str) -> Refused:
    return Refused(Refusal(reason, detail))


# --- fields ---

_NULL: Final = '""'
"""The value that says "delete what you have" (2.5.3)."""
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f]+")


class _Time(NamedTuple):
    """A time as FHIR writes it, as precise as it was told; its day, where it was; the first and last second of it."""

    stated: str
    day: str
    first: datetime
    last: datetime
    has_clock: bool
    has_offset: bool

    @property
    def moment(self) -> datetime:
        """Its earliest. A day has no zone: it begins at midnight in UTC, as in all that the hub reads."""
        return self.first if self.has_clock else _midnight(self.first)

    @property
    def latest(self) -> datetime:
        """The moment of its last day, if it has no clock."""
        return self.first if self.has_clock else _midnight(self.last)


def _midnight(day: datetime) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


class _Clock(NamedTuple):
    """Where times without an offset are from, and when the message with them was sent."""

    zone: tzinfo
    sent: _Time | None = None

    def at(self, moment: datetime) -> datetime:
        """A moment without an offset. Of an hour that the zone has twice, which one MSH-7 tells, if it is of a day."""
        first, second = moment.replace(tzinfo=self.zone), moment.replace(tzinfo=self.zone, fold=1)
        offset = second.utcoffset() or timedelta()
        if self.sent is not None and self.sent.has_offset and offset < (first.utcoffset() or timedelta()):
            sent = self.sent.first
            if sent.utcoffset() == offset and abs(sent - second) < timedelta(days=1):
                return second.astimezone(timezone(offset))
        return first


class _Text(NamedTuple):
    """Access to the parts of a parsed message, by the numbers of the standard."""

    message: hl7.Message
    clock: _Clock

    def repetitions(self, segment: Sequence[Any], field: int) -> Sequence[Any]:
        """Those of a field; one without a value is none."""
        if field >= len(segment):
            return ()
        return [one for one in segment[field] if one not in ("", [""])]

    def first(self, segment: Sequence[Any], field: int) -> Any:
        """The first repetition of a field; empty if there is none."""
        found = self.repetitions(segment, field)
        return found[0] if found else ""

    def raw(self, repetition: Any, component: int = 1, sub: int = 1) -> str:
        """A subcomponent as it was sent. A part without separators is its own first part (2.7.1)."""
        part = _part(_part(repetition, component), sub)
        return part if isinstance(part, str) else str(part)

    def value(self, repetition: Any, component: int = 1, sub: int = 1) -> str:
        """A subcomponent without its escapes (2.7); empty where it is not there, or null."""
        text = self.raw(repetition, component, sub).strip()
        if not text or text == _NULL:
            return ""
        escape = str(self.message.esc)
        if escape in text:
            text = self._unescaped(text, escape)
        return _CONTROLS.sub(" ", text).strip()

    def _unescaped(self, text: str, escape: str) -> str:
        """Escaped separators and hexadecimal bytes; highlights and formatting are left out (2.7.1 to 2.7.6)."""
        parts = text.split(escape)
        if len(parts) % 2 == 0:  # the last one has no end: it is text
            parts[-2:] = [escape.join(parts[-2:])]
        separators = dict(zip("FRST", str(self.message.separators)[1:], strict=False)) | {"E": escape}
        for at in range(1, len(parts), 2):
            code = parts[at]
            if code[:1] == "X":
                try:
                    data = bytes.fromhex(code[1:])
                except ValueError:
                    data = b""
                try:
                    parts[at] = data.decode()
                except UnicodeDecodeError:
                    parts[at] = data.decode("iso8859-1")
            else:
                parts[at] = separators.get(code, " " if code[:1] == "." else "")
        return "".join(parts)

    def time(self, segment: Sequence[Any], field: int, name: str) -> _Time | None:
        """A time (2A.77: TS), or None where there is none. Raises Refused."""
        told = self.value(self.first(segment, field))
        return _time(told, f"{name}-{field}", self.clock) if told else None


def _part(whole: Any, at: int) -> Any:
    if isinstance(whole, str):
        return whole if at == 1 else ""
    return whole[at - 1] if at <= len(whole) else ""


_TIME: Final = re.compile(
    r"(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.\d{1,4})?)?)?)?)?)?([+-](?:0\d|1[0-4])[0-5]\d)?",
    re.ASCII,
)


def _time(told: str, place: str, clock: _Clock) -> _Time:
    """A time of any precision (2A.77). A month or day of 00 is not known. Raises Refused."""
    match = _TIME.fullmatch(told)
    if match is None:
        raise _refused("bad-date", f"{place}: not a time as YYYY[MM[DD[HH[MM[SS]]]]][+/-ZZZZ]")
    *parts, offset = match.groups()
    if "00" in parts[1:3]:
        parts = parts[: parts.index("00", 1)]
    stated = [int(part) for part in parts if part is not None]
    try:
        first = datetime(*(*stated, 1, 1)[: max(len(stated), 3)])  # type: ignore[arg-type]
        last = _last_second(first, len(stated))
        if offset:
            minutes = int(offset[1:3]) * 60 + int(offset[3:])
            zone = timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
            first, last = first.replace(tzinfo=zone), last.replace(tzinfo=zone)
        else:
            first, last = clock.at(first), clock.at(last)
        if (first.utcoffset() or timedelta()).seconds % 60:  # a town's own time, before there were zones
            first, last = first.astimezone(UTC), last.astimezone(UTC)
        day = "-".join(part for part in parts[:3] if part)
        has_clock = len(stated) > 3
        time = _Time(first.isoformat() if has_clock else day, day, first, last, has_clock, offset is not None)
        in_range = EARLIEST <= time.moment < LATEST
    except (ValueError, OverflowError):
        raise _refused("bad-date", f"{place}: not a day of the calendar, or not a time of it") from None
    if not in_range:
        raise _refused("bad-date", f"{place}: not within {EARLIEST.year} to {LATEST.year - 1}")
    return time


def _last_second(first: datetime, stated: int) -> datetime:
    """Of a time of which that many parts are stated: year, month, day, hour, minute, second."""
    if stated == 1:
        first = first.replace(month=12)
    if stated < 3:
        first = first.replace(day=monthrange(first.year, first.month)[1])
    if stated < 4:
        first = first.replace(hour=23)
    if stated < 5:
        first = first.replace(minute=59)
    return first.replace(second=59) if stated < 6 else first


# --- a patient, and the visit ---

_CLASSES: Final = {"E": "EMER", "I": "IMP", "O": "AMB", "P": "PRENC", "R": "AMB", "B": "IMP"}
"""Table 0004 by the v2-to-FHIR guide. R and B, which it leaves in the table, are ours: in PAM.fr R are the sessions
(dialysis, chemotherapy) of patients who go home, and B are deliveries."""
_NO_VISIT: Final = frozenset(("N", "C", ""))
"""Not applicable, as in messages that have to have PV1 (ITI-30); a commercial account; no class, thus no visit."""
_ACT: Final = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
_ICD10: Final = "http://hl7.org/fhir/sid/icd-10"
_CODE_SYSTEMS: Final = {
    **dict.fromkeys(("", "I10", "ICD10", "ICD-10", "CIM10", "CIM-10", "2.16.840.1.113883.6.3"), _ICD10),
    "I9C": "http://hl7.org/fhir/sid/icd-9-cm",
    "SCT": "http://snomed.info/sct",
}
"""Table 0396, and what French hospitals write; a code without a system is CIM-10, as in all they have to report."""
_IN_DIAGNOSES: Final = [
    {
        "coding": [
            {"system": "http://terminology.hl7.org/CodeSystem/condition-category", "code": "encounter-diagnosis"},
        ]
    }
]


class _Group(NamedTuple):
    """A PID with what follows it."""

    frame: _Frame
    text: _Text
    trigger: bytes
    occurred: _Time | None
    segments: Sequence[Sequence[Any]]

    def outcomes(self) -> Iterator[Outcome]:
        frame, pid = self.frame, self.segments[0]
        patient = _Patient(self.text, frame.source, pid)
        identity = patient.identity()
        number = patient.number()
        yield frame.event("identity.v1", _id("Patient", number), frame.time, {"identity": identity})
        yield from self._death(identity, number)
        if self.trigger == _MERGE:
            yield self._merge(patient, identity, number)
        elif self.trigger in _STATUS:
            yield from self._visit(identity)

    def _named(self, name: str) -> Iterator[Sequence[Any]]:
        return (segment for segment in self.segments if segment[0][0] == name)

    def _merge(self, patient: _Patient, identity: dict[str, Any], number: str) -> Outcome:
        """Both numbers on the traits of the patient who stays (3.3.40; MRG-1, 3.4.10.1)."""
        mrg = next(self._named("MRG"), ())
        retired = sorted(one for one in patient.numbers(mrg, 1, "MRG") if one.system == "ipp")
        if not retired:
            return Refusal("missing-field", "MRG-1: no local number (type PI): it names the patient that is merged")
        told = (one.identifier() for one in retired)
        numbers = [*identity["identifiers"], *(one for one in told if one not in identity["identifiers"])]
        both = {**identity, "identifiers": numbers[:_MOST_NUMBERS]}
        name = _id("Merge", number, *(one.name() for one in retired))
        return self.frame.event("identity.v1", name, self.frame.time, {"identity": both})

    def _death(self, identity: dict[str, Any], number: str) -> Iterator[Outcome]:
        """PID-29 and PID-30: null in either takes back a death; one without its date has no place in the hub.

        One of a month or a year is put at its last day, so that no care stands after it by what is not known.
        """
        pid = self.segments[0]
        day, dead = (self.text.raw(self.text.first(pid, field)).strip() for field in (29, 30))
        if _NULL in (day, dead):
            yield self.frame.event("death.v1" + DELETED, _id("Death", number), self.frame.time, {"identity": identity})
        elif dead != "N" and (time := self.text.time(pid, 29, "PID")):
            record = {"date": time.day}
            data = {"identity": identity, "record": record}
            yield self.frame.event("death.v1", _id("Death", number), time.latest.isoformat(), data)
        elif dead == "Y":
            yield "death without its day"

    def _visit(self, identity: dict[str, Any]) -> Iterator[Outcome]:
        pv1 = next(self._named("PV1"), ())
        text = self.text
        told = text.value(text.first(pv1, 2))
        if told in _NO_VISIT:
            return
        if told not in _CLASSES:
            yield Refusal("bad-value", "PV1-2: not a class of table 0004 that says how a patient is there")
            return
        visit = self._numbered(pv1, 19)
        if not visit:
            yield Refusal("no-id", "PV1-19: the visit number is missing, by which the hub knows a stay")
            return
        if self.trigger != _UPDATE or text.raw(text.first(pv1, 45)).strip():
            yield self._stay(pv1, told, identity, visit)
        else:
            yield "stay without its state"
        yield from self._diagnoses(identity, visit)

    def _stay(self, pv1: Sequence[Any], told: str, identity: dict[str, Any], visit: str) -> Outcome:
        """PV1 as an Encounter, by the v2-to-FHIR guide. Raises Refused."""
        text = self.text
        admitted = text.time(pv1, 44, "PV1")
        discharged = text.time(pv1, 45, "PV1") if self.trigger not in (b"A11", b"A13") else None
        if self.trigger in (b"A01", b"A04"):
            admitted = admitted or self.occurred
        if self.trigger == b"A03":
            discharged = discharged or self.occurred
        status = "finished" if discharged else _STATUS[self.trigger]
        record: dict[str, Any] = {
            "resourceType": "Encounter",
            "status": "planned" if told == "P" and status == "in-progress" else status,
            "class": {"system": _ACT, "code": _CLASSES[told]},
        }
        if period := {
            name: time.stated for name, time in (("start", admitted), ("end", discharged)) if time is not None
        }:
            record["period"] = period
        if kind := text.value(text.first(pv1, 4)):
            record["type"] = [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0007", "code": kind}]}]
        if text.value(text.first(pv1, 13)) == "R":
            coding = {"system": "http://terminology.hl7.org/CodeSystem/v2-0092", "code": "R"}
            record["hospitalization"] = {"reAdmission": {"coding": [coding]}}
        time = admitted.moment.isoformat() if admitted else self.frame.time
        return self.frame.event("encounter.v1", _id("Encounter", visit), time, {"identity": identity, "record": record})

    def _numbered(self, segment: Sequence[Any], field: int) -> str:
        """A number with its authority (2A.14: CX), or nothing."""
        cx = self.text.first(segment, field)
        value = self.text.value(cx)
        return _Number("", _assigner(self.text, cx, self.frame.source), value).name() if value else ""

    def _diagnoses(self, identity: dict[str, Any], visit: str) -> Iterator[Outcome]:
        """Those of DG1, each once: a code that is told twice (at admission and as final) is one diagnosis."""
        found: dict[str, dict[str, Any]] = {}
        for segment in self._named("DG1"):
            try:
                diagnosis = self._diagnosis(segment, identity, visit)
                if isinstance(diagnosis, dict):
                    before = found.get(diagnosis["id"])
                    found[diagnosis["id"]] = _joined(before, diagnosis) if before else diagnosis
                else:
                    yield diagnosis
            except Refused as refused:
                yield refused.refusal
        yield from found.values()

    def _diagnosis(self, dg1: Sequence[Any], identity: dict[str, Any], visit: str) -> Outcome:
        """DG1 (6.5.2) as a Condition, by the v2-to-FHIR guide."""
        text = self.text
        coded = text.first(dg1, 3)
        code = text.value(coded).upper()
        if not code:
            return "diagnosis without a code"
        system = _CODE_SYSTEMS.get((text.value(coded, 3) or text.value(text.first(dg1, 2))).upper())
        if system is None:
            raise _refused("unknown-system", "DG1-3.3: not a code system of table 0396 that the hub knows: say I10")
        plain = code
        if system == _ICD10:
            plain = code[:3] + code[4:] if code[3:4] == "." and code[4:] else code
            if not known("cim10", plain):
                raise _refused("bad-value", "DG1-3: not a code of CIM-10")
        name = _id("Condition", visit, _quoted(text.value(text.first(dg1, 20)) or plain))
        if text.value(text.first(dg1, 21)) == "D":
            return self.frame.event("diagnosis.v1" + DELETED, name, self.frame.time, {"identity": identity})
        found = text.time(dg1, 5, "DG1")
        record = {
            "resourceType": "Condition",
            "category": _IN_DIAGNOSES,
            "code": {"coding": [{"system": system, "code": code}]},
        } | ({"onsetDateTime": found.stated} if found else {})
        time = found.moment.isoformat() if found else self.frame.time
        return self.frame.event("diagnosis.v1", name, time, {"identity": identity, "record": record})


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Of two states of one diagnosis in one message, the one that is not deleted, or is earlier. Raises Refused."""
    first, second = sorted(
        (one, other), key=lambda event: ("record" not in event["data"], datetime.fromisoformat(event["time"]))
    )
    if "record" in second["data"] and first["data"]["record"]["code"] != second["data"]["record"]["code"]:
        raise _refused("bad-value", "DG1-20: the same for two codes: it is the number of one diagnosis")
    return first


def _id(*parts: str) -> str:
    """The name of a record, of parts without a slash of their own. One that is too long is known by its digest."""
    name = "/".join(parts)
    return name if len(name) <= 256 else f"{parts[0]}/sha256:{sha256(name.encode(errors='replace')).hexdigest()}"


def _quoted(text: str) -> str:
    """The text without the characters that part a name, so that no two names become one."""
    return text.replace("%", "%25").replace("/", "%2F").replace("|", "%7C")


# --- the identity ---

_MOST_NUMBERS: Final = 20
_NAMESPACES: Final = {"ASIP-SANTE-INS-NIR": "ins-nir", "ASIP-SANTE-INS-NIA": "ins-nia"}
"""PAM.fr's names of the authorities, for messages that leave their OIDs out."""
_INS: Final = frozenset(("ins-nir", "ins-nia"))
_LOCAL: Final = frozenset(("PI", "MR", "PT", ""))
"""Table 0203: a patient's numbers. A visit's, a passport's, an insured person's are not."""
_EVERYWHERE: Final = frozenset(("ISO", "UUID", "GUID", "DNS", "URI"))
"""Table 0301: kinds of authorities' ids that hold everywhere."""
_SEXES: Final = {"F": "female", "M": "male", "O": "other", "A": "other", "U": "unknown"}
_RESIDENCES: Final = ("H", "", "L", "P", "C", "M", "RH")
"""Table 0190: addresses where a person lives, best first."""
_LIST: Final = re.compile(r"[\s,]+")


def _assigner(text: _Text, cx: Any, source: str) -> str:
    """Who gave a number out (CX-4, 2A.36: HD)."""
    namespace, universal, kind = (text.value(cx, 4, part) for part in (1, 2, 3))
    if universal and kind.upper() in _EVERYWHERE and len(universal) <= 256:
        return universal.removeprefix("urn:oid:")
    for one in (universal, namespace):
        if known("finess", one):
            return one
    return ins.assigner(source, universal or namespace) if universal or namespace else source


class _Number(NamedTuple):
    """A number of a person or a visit."""

    system: str
    assigner: str
    value: str
    kind: str = ""
    """Table 0203."""
    made_up: bool = False

    def name(self) -> str:
        """The number as the name of a record has it."""
        return f"{_quoted(self.assigner or self.system)}|{_quoted(self.value)}"

    def identifier(self) -> dict[str, Any]:
        """The number as an identity has it."""
        told = {"system": self.system, "assigner": self.assigner, "value": self.value}
        return {name: value for name, value in told.items() if value}


class _Patient(NamedTuple):
    """PID (3.4.2), read as PAM.fr has it."""

    text: _Text
    source: str
    pid: Sequence[Any]

    def identity(self) -> dict[str, Any]:
        """An identity as the events carry it. Raises Refused."""
        numbers = self.numbers(self.pid, 3, "PID")
        made_up = any(one.made_up for one in numbers)
        has_ins = any(one.system in _INS for one in numbers)
        codes = [self.text.value(one) for one in self.text.repetitions(self.pid, 32)]
        status = "fictitious" if made_up else ins.status(codes, has_ins)
        if status != "fictitious":
            _check(numbers)
        identity: dict[str, Any] = {"identifiers": [one.identifier() for one in numbers[:_MOST_NUMBERS]]}
        if status:
            identity["identity_status"] = status
        identity |= self._names()
        if sex := _SEXES.get(self.text.value(self.text.first(self.pid, 8))):
            identity["sex"] = sex
        if born := self.text.time(self.pid, 7, "PID"):
            identity["birth_date"] = born.day
        return identity | self._places()

    def number(self) -> str:
        """The number that the patient's own record is known by: a local one, else an INS. Raises Refused."""
        numbers = sorted(self.numbers(self.pid, 3, "PID"))
        local = [one for one in numbers if one.system == "ipp"]
        best = next((one for one in local if one.kind == "PI"), next(iter(local), None))
        best = best or next((one for one in numbers if one.system in _INS), None)
        if best is None:
            raise _refused("no-id", "PID-3: no local number (type PI) and no INS, by which the hub knows a patient")
        return best.name()

    def numbers(self, segment: Sequence[Any], field: int, name: str) -> list[_Number]:
        """The national and local numbers of a list (2A.14: CX), local ones as their type says. Raises Refused."""
        text = self.text
        found: list[_Number] = []
        for cx in text.repetitions(segment, field):
            value, kind = text.value(cx), text.value(cx, 5)
            if not value:
                continue
            if len(value) > 64:
                raise _refused("bad-value", f"{name}-{field}: a number has more than 64 characters")
            system, made_up = ins.AUTHORITIES.get(
                text.value(cx, 4, 2), (_NAMESPACES.get(text.value(cx, 4, 1).upper(), ""), False)
            )
            if system:
                insured = system == "ins-nir" and kind == ins.INSURED
                found.append(_Number("nir-opener" if insured else system, "", value, kind, made_up))
            elif kind in _LOCAL:
                found.append(_Number("ipp", _assigner(text, cx, self.source), value, kind))
        return found

    def _names(self) -> dict[str, Any]:
        """PID-5: L is the birth name and D the one in use (PAM.fr); where M is there, it is the birth name (0200).

        XPN-2 is the first given name and XPN-3 the list of all (PAM.fr 2.10), or those after the first (2A.89).
        """
        text = self.text
        by_type: dict[str, Any] = {}
        for xpn in text.repetitions(self.pid, 5):
            by_type.setdefault(text.value(xpn, 7) or "L", xpn)
        legal, usual = by_type.get("L"), by_type.get("D")
        maiden = by_type.get("M") or by_type.get("B")
        birth = self._short(maiden or legal or "")
        in_use = self._short(usual or (maiden and legal) or "")
        names: dict[str, Any] = {}
        if birth:
            names["birth_family_name"] = birth
        if in_use and in_use != birth:
            names["used_family_name"] = in_use
        for xpn in (legal, maiden, usual):
            if xpn and (given := self._given(xpn)):
                names["given_names"] = given
                break
        return names

    def _short(self, part: Any, component: int = 1, longest: int = 200) -> str:
        value = self.text.value(part, component)
        return value if len(value) <= longest else ""

    def _given(self, xpn: Any) -> list[str]:
        first, listed = self._short(xpn, 2), self._short(xpn, 3)
        told = [first] if first else []
        if first and listed.casefold().startswith(first.casefold()):
            listed = listed[len(first) :]
        known = {first.casefold()}
        told += [one for one in _LIST.split(listed) if one and one.casefold() not in known]
        return told[:20]

    def _places(self) -> dict[str, Any]:
        """PID-11: the residence; and the birth place, of type BDL, by its INSEE code (XAD-9, PAM.fr).

        PID-23 tells the birth place in words, or by a postcode, which looks like an INSEE code and is none.
        """
        text = self.text
        by_type: dict[str, Any] = {}
        for xad in text.repetitions(self.pid, 11):
            by_type.setdefault(text.value(xad, 7), xad)
        places: dict[str, Any] = {}
        if (born := by_type.get("BDL")) and ins.COMMUNE.fullmatch(code := text.value(born, 9)):
            places["birth_place"] = code
        home = next((by_type[kind] for kind in _RESIDENCES if kind in by_type), None)
        if home is not None:
            street = " ".join(part for part in (self._short(home), self._short(home, 2)) if part)
            commune = text.value(home, 9)
            parts = {
                "address": street if len(street) <= 200 else "",
                "city": self._short(home, 3),
                "postcode": self._short(home, 5, 64),
                "commune": commune if ins.COMMUNE.fullmatch(commune) else "",
            }
            if residence := {name: value for name, value in parts.items() if value}:
                places["residence"] = residence
        return places


def _check(numbers: Sequence[_Number]) -> None:
    """Refuse a national number that can be none here, where its field can be named. Raises Refused."""
    for one in numbers:
        value = "".join(one.value.split())
        if one.system in _INS and not is_dummy(value):
            try:
                nir(value, "PID-3")
            except InvalidIdentity as invalid:
                raise _refused(invalid.reason, invalid.detail) from None
