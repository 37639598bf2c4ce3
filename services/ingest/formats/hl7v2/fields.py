"""The fields of a parsed HL7 v2 message: their text, and times of any precision. Pure."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any, Final, NamedTuple

import hl7

from contracts.events import EARLIEST, LATEST
from services.ingest.domain.refusals import refusing

NULL: Final = '""'
"""The value that says "delete what you have" (2.5.3)."""
_CONTROLS: Final = re.compile("[\x00-\x1f\x7f]+")


class Time(NamedTuple):
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


class Clock(NamedTuple):
    """Where times without an offset are from, and when the message with them was sent."""

    zone: tzinfo
    sent: Time | None = None

    def at(self, moment: datetime) -> datetime:
        """A moment without an offset. Of an hour that the zone has twice, which one MSH-7 tells, if it is of a day."""
        first, second = moment.replace(tzinfo=self.zone), moment.replace(tzinfo=self.zone, fold=1)
        offset = second.utcoffset() or timedelta()
        if self.sent is not None and self.sent.has_offset and offset < (first.utcoffset() or timedelta()):
            sent = self.sent.first
            if sent.utcoffset() == offset and abs(sent - second) < timedelta(days=1):
                return second.astimezone(timezone(offset))
        return first


class Text(NamedTuple):
    """Access to the parts of a parsed message, by the numbers of the standard."""

    message: hl7.Message
    clock: Clock

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
        if not text or text == NULL:
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

    def time(self, segment: Sequence[Any], field: int, name: str) -> Time | None:
        """A time (2.A.77: TS), or None where there is none. Raises Refused."""
        told = self.value(self.first(segment, field))
        return time_of(told, f"{name}-{field}", self.clock) if told else None


def _part(whole: Any, at: int) -> Any:
    if isinstance(whole, str):
        return whole if at == 1 else ""
    return whole[at - 1] if at <= len(whole) else ""


_TIME: Final = re.compile(
    r"(\d{4})(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:(\d\d)(?:\.\d{1,4})?)?)?)?)?)?([+-](?:0\d|1[0-4])[0-5]\d)?",
    re.ASCII,
)


def time_of(told: str, place: str, clock: Clock) -> Time:
    """A time of any precision (2.A.77). A month or day of 00 is not known. Raises Refused."""
    match = _TIME.fullmatch(told)
    if match is None:
        raise refusing("bad-date", f"{place}: not a time as YYYY[MM[DD[HH[MM[SS]]]]][+/-ZZZZ]")
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
        time = Time(first.isoformat() if has_clock else day, day, first, last, has_clock, offset is not None)
        in_range = EARLIEST <= time.moment < LATEST
    except (ValueError, OverflowError):
        raise refusing("bad-date", f"{place}: not a day of the calendar, or not a time of it") from None
    if not in_range:
        raise refusing("bad-date", f"{place}: not within {EARLIEST.year} to {LATEST.year - 1}")
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
