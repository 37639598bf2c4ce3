"""Elements of a decoded FHIR R4 resource: each reader takes any JSON value and says what it stands for. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from contracts.events import EARLIEST, LATEST
from services.ingest.domain.refusals import refusing

ID: Final = re.compile(r"[A-Za-z0-9.\-]{1,64}", re.ASCII)
"""hl7.org/fhir/R4/datatypes.html#id"""

_DATETIME = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:(T\d\d:\d\d:\d\d(?:\.\d{1,9})?)(Z|[+-]\d\d:\d\d))?)?)?", re.ASCII
)


def at(resource: Mapping[str, Any], path: str) -> Any:
    """The value at a path of names, or None."""
    value: Any = resource
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def objects(holder: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The objects in a list; none where there is no list."""
    value = holder.get(name)
    if isinstance(value, list):
        yield from (one for one in value if isinstance(one, dict))


def items(holder: Mapping[str, Any], name: str) -> list[Any]:
    """A list; empty if it is not there. Raises Refused where there is something else."""
    value = holder.get(name, [])
    if not isinstance(value, list):
        raise refusing("malformed", f"{name} is not a list")
    return value


def text(value: Any, longest: int = 200) -> str | None:
    """Text that is neither blank nor too long."""
    stripped = value.strip() if isinstance(value, str) else ""
    return stripped if 0 < len(stripped) <= longest else None


def codes(concept: Any) -> set[str]:
    """The codes of a CodeableConcept, whatever their systems."""
    if not isinstance(concept, dict):
        return set()
    return {one["code"] for one in objects(concept, "coding") if isinstance(one.get("code"), str)}


def extensions(holder: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The extensions whose URL ends in a name: the canonical base of FR Core has changed with its versions."""
    return [
        one for one in objects(holder, "extension") if isinstance(url := one.get("url"), str) and url.endswith(name)
    ]


def time(value: Any) -> str | None:
    """A FHIR date, dateTime or instant as RFC 3339 in UTC; what it leaves open is its earliest moment."""
    match = _DATETIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    year, month, day, clock, zone = match.groups()
    try:
        moment = datetime.fromisoformat(f"{year}-{month or '01'}-{day or '01'}{clock or 'T00:00:00'}{zone or 'Z'}")
        return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except (ValueError, OverflowError):
        return None


def is_out_of_range(value: Any) -> bool:
    """Whether this is written as a date, but as one of a year that no event can have."""
    stated = _DATETIME.fullmatch(value) if isinstance(value, str) else None
    return stated is not None and not EARLIEST.year <= int(stated[1]) < LATEST.year
