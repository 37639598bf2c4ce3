"""The answer to an HL7 v2 message, in the original mode (HL7 v2.5.1, 2.9.2 and 2.15.8). Pure.

AA says that the broker has all that the message came to. AE says that something of it is refused for what it says,
and AR that nothing was looked at because of what kind of message it is (2.9.2.2); each refusal has an ERR segment. None
is an invitation to send again: a hub that cannot take a message now, or fails on it, does not answer it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from services.ingest.domain.refusals import Refusal
from services.ingest.formats.hl7v2.messages import (
    EVENT_NOT_TAKEN,
    MESSAGE_NOT_TAKEN,
    NOT_FOR_PRODUCTION,
    Header,
)

ACCEPTED: Final = "AA"
ERROR: Final = "AE"
REJECTED: Final = "AR"

_CONDITIONS: Final = {
    MESSAGE_NOT_TAKEN: "200^Unsupported message type",
    EVENT_NOT_TAKEN: "201^Unsupported event code",
    NOT_FOR_PRODUCTION: "202^Unsupported processing id",
    "missing-field": "101^Required field missing",
    "no-id": "101^Required field missing",
    "bad-date": "102^Data type error",
    "bad-identifier": "102^Data type error",
    "bad-nir-key": "102^Data type error",
    "unknown-system": "103^Table value not found",
}
"""Table 0357, by the reasons of refusals; anything else is a data type error."""
_KINDS: Final = frozenset((MESSAGE_NOT_TAKEN, EVENT_NOT_TAKEN, NOT_FOR_PRODUCTION))
_PLACE: Final = re.compile(r"([A-Z][A-Z0-9]{2})(?:-(\d{1,2})(?:\.(\d{1,2}))?)?(?=:)", re.ASCII)
_LONGEST: Final = 256
"""Bytes of a field of the sender's that is given back."""
_UNKNOWN: Final = Header((b"|", b"^~\\&"))


def code_of(refusals: Sequence[Refusal]) -> str:
    """AA, AE or AR."""
    if not refusals:
        return ACCEPTED
    return REJECTED if all(one.reason in _KINDS for one in refusals) else ERROR


def acknowledgement(head: Header | None, refusals: Sequence[Refusal], now: datetime, control_id: str) -> bytes:
    """The message that answers one with this header; without a header it answers nobody in particular.

    It has the sender's separators and repeats of its message the names of MSH-3 to MSH-6 (turned round), and MSH-10.
    """
    head = head or _UNKNOWN
    bar, (component, repetition, escape, sub) = head.fields[0], (head.fields[1][at : at + 1] for at in range(4))
    event = head.component(9, 2)
    kind = component.join((b"ACK", event, b"ACK")) if re.fullmatch(rb"[A-Z]\d\d", event) else b"ACK"
    stamp = now.strftime("%Y%m%d%H%M%S%z").encode()
    msh = [b"MSH" + bar + head.fields[1], *(head.field(number)[:_LONGEST] for number in (5, 6, 3, 4)), stamp, b"", kind]
    msh += [control_id.encode(), head.field(11)[:_LONGEST] or b"P", b"2.5", *[b""] * 5, head.field(18)[:_LONGEST]]
    msa = [b"MSA", code_of(refusals).encode(), head.field(10)[:_LONGEST]]

    def written(text: str) -> bytes:
        """Text of our own, in ASCII, with the separators escaped that it may have (2.7.1)."""
        escapes = {bar: b"F", component: b"S", repetition: b"R", escape: b"E", sub: b"T"}
        parts = (text[at : at + 1].encode("ascii", "replace") for at in range(len(text)))
        return b"".join(escape + escapes[one] + escape if one in escapes else one for one in parts)

    segments = [bar.join(msh), bar.join(msa)]
    for refusal in refusals[:_MOST_ERRORS]:
        condition = _CONDITIONS.get(refusal.reason, "102^Data type error").partition("^")
        where = b""
        if place := _PLACE.match(refusal.detail):
            name, field, part = (group.encode() if group else b"" for group in place.groups())
            where = component.join((name, b"1", field, b"1", part) if part else (name, b"1", field)).rstrip(component)
        error = component.join((condition[0].encode(), condition[2].encode(), b"HL70357"))
        own = component.join((written(refusal.reason), b"", b"L"))
        segments.append(bar.join((b"ERR", b"", where, error, b"E", own, b"", b"", written(refusal.detail))))
    return b"\r".join(segments) + b"\r"


_MOST_ERRORS: Final = 20
