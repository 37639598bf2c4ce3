"""Lines whose fields stand at fixed positions, by tables that say where: `services/ingest/formats/*.yaml`.

Pure, but for reading the packaged tables on first use. A refusal names the line, the field and its positions; of the
input it says how long a line is and how many pieces it announces, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from operator import itemgetter
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

import yaml

from services.ingest.domain.refusals import refusing

Row = TypeVar("Row", bound=tuple[str, ...])

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class Field(NamedTuple):
    """A field from `start` (counted from 0) to before `end`, and what it is called in a refusal."""

    start: int
    end: int
    about: str

    def of(self, text: str) -> str:
        """What stands there."""
        return text[self.start : self.end]

    def named(self, base: int = 0) -> str:
        """The field with its positions as the descriptions of formats count them, in a piece that starts at `base`."""
        first, last = base + self.start + 1, base + self.end
        return f"the {self.about} (position{f's {first}-{last}' if last > first else f' {first}'})"


class Group(NamedTuple):
    """Pieces that follow the fixed part: as many of `size` characters as the field `counter` says."""

    counter: str
    size: int


class Shape(NamedTuple):
    """One version of a line. An `open` one has more after `length` than its table describes."""

    length: int
    fields: Mapping[str, Field]
    groups: tuple[Group, ...]
    open: bool


class Table(NamedTuple):
    """The versions of a kind of line, by what stands where its version does; without `version` it has one, ""."""

    version: Field | None
    shapes: Mapping[str, Shape]

    def shape(self, text: str) -> Shape:
        """The shape of a line by its version. Raises Refused."""
        at = self.version
        found = self.shapes.get(at.of(text) if at else "")
        if found is None:
            assert at is not None
            raise refusing("format-version", f"{at.named()} is not one of {', '.join(self.shapes)}")
        return found


class Place(NamedTuple):
    """Where something stands: the line, its fields, and where the piece of the line begins that they count from."""

    line: int
    fields: Mapping[str, Field]
    base: int = 0

    def refuse(self, field: str, reason: str, says: str) -> NoReturn:
        """Raises Refused: `says` ends the sentence that begins with the line and the field."""
        raise refusing(reason, f"line {self.line}: {self.fields[field].named(self.base)} {says}")

    def number(self, field: str, text: str) -> int | None:
        """A whole number, or None where it is blank."""
        if text.isascii() and text.isdigit():
            return int(text)
        text = text.strip()
        if not text:
            return None
        if not (text.isascii() and text.isdigit()):
            self.refuse(field, "bad-number", "is not a whole number")
        return int(text)


def text_of(data: bytes) -> str:
    """A line as characters: UTF-8 where it is that, and Latin-1 where it is not. Never raises."""
    data = data.removeprefix(_BYTE_ORDER_MARK)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def pieces_of(text: str, shape: Shape, place: Place) -> list[list[str]]:
    """What follows the fixed part, by group. Raises Refused where the line is shorter or longer than it announces."""
    ends = len(text)
    if ends < shape.length:
        raise refusing("line-length", f"line {place.line}: it ends at {ends}: it should have {shape.length} characters")
    counts = [place.number(name, shape.fields[name].of(text)) or 0 for name, _ in shape.groups]
    expected = shape.length + sum(count * group.size for count, group in zip(counts, shape.groups, strict=True))
    if expected != ends and (expected > ends or (not shape.open and text[expected:].strip(" "))):
        announced = [
            f"{count} as {shape.fields[group.counter].named()}"
            for count, group in zip(counts, shape.groups, strict=True)
            if count
        ]
        why = f", since it announces {', '.join(announced)}" if announced else ""
        raise refusing(
            "line-length", f"line {place.line}: it ends at {ends}: it should have {expected} characters{why}"
        )
    found = []
    at = shape.length
    for count, group in zip(counts, shape.groups, strict=True):
        end = at + count * group.size
        found.append([text[start : start + group.size] for start in range(at, end, group.size)])
        at = end
    return found


def cutter(shape: Shape, row: type[Row]) -> Callable[[str], Row]:
    """Cuts a line (or a piece of one) into a named tuple, by the names of its fields; what the shape lacks is ""."""
    names: tuple[str, ...] = row._fields  # type: ignore[attr-defined]
    slices = [slice(at.start, at.end) if (at := shape.fields.get(name)) else slice(0) for name in names]
    make: Callable[[tuple[str, ...]], Row] = row._make  # type: ignore[attr-defined]
    get = itemgetter(*slices)
    return lambda text: make(get(text))


@cache
def tables(name: str) -> Mapping[str, Table]:
    """The tables of a format, by the kind of line."""
    told = yaml.safe_load((files("services.ingest") / "formats" / f"{name}.yaml").read_text(encoding="utf-8"))
    return {kind: _table(table) for kind, table in told.items()}


def _table(told: Mapping[str, Any]) -> Table:
    version = told.get("version")
    return Table(
        version=_field(version, 0) if version else None,
        shapes={name: _shape(one, told["fields"]) for name, one in told["versions"].items()},
    )


def _shape(told: Mapping[str, Any], fields: Mapping[str, Any]) -> Shape:
    shift = told.get("shift", 0)
    fields = {**fields, **told.get("fields", {})}
    return Shape(
        length=told["length"],
        fields={name: _field(one, shift) for name, one in fields.items() if one[0] + shift > 0},
        groups=tuple(Group(one["count"], one["size"]) for one in told.get("groups", ())),
        open=told.get("open", False),
    )


def _field(told: tuple[int, int, str], shift: int) -> Field:
    position, size, about = told
    return Field(position - 1 + shift, position - 1 + shift + size, about)
