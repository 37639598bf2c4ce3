"""Lines of SNDS tables as the tests of their readers write them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any

from contracts.events import Event
from services.ingest.domain.content import strip
from services.ingest.domain.refusals import Refusal
from services.ingest.files import File, join
from services.ingest.formats.reading import JoinedFormat, Read

SOURCE = "urn:estuaire:producer:cnam"


def table(columns: Iterable[str], *rows: Mapping[str, str], separator: str = ";") -> bytes:
    """A file with a header, a line for each row, and nothing where a row has no value."""
    named = list(columns)
    lines = [named, *([row.get(column, "") for column in named] for row in rows)]
    return "".join(separator.join(line) + "\n" for line in lines).encode()


def read(form: JoinedFormat, **files: bytes) -> list[Read]:
    """What files make, each named by its part; events are checked as ingest checks them, and lose nothing there."""
    found = list(join(form, [File(f"{part}.csv", part, io.BytesIO(body)) for part, body in files.items()], SOURCE))
    for one in found:
        if isinstance(one.outcome, dict):
            event = Event.model_validate(one.outcome)
            if event.data.record is not None:
                kept = strip(event.type, event.data.record)
                assert (kept.record, kept.removed) == (event.data.record, 0)
    return found


def events(found: Iterable[Read]) -> list[dict[str, Any]]:
    return [one.outcome for one in found if isinstance(one.outcome, dict)]


def records(found: Iterable[Read]) -> list[dict[str, Any]]:
    return [event["data"]["record"] for event in events(found)]


def refusals(found: Iterable[Read]) -> list[tuple[str, int, str]]:
    return [(one.file, one.line, one.outcome.reason) for one in found if isinstance(one.outcome, Refusal)]


def passed_over(found: Iterable[Read]) -> list[tuple[str, int, str]]:
    return [(one.file, one.line, one.outcome) for one in found if isinstance(one.outcome, str)]


def details(found: Iterable[Read]) -> list[str]:
    return [one.outcome.detail for one in found if isinstance(one.outcome, Refusal)]
