"""Forms as the documents of contracts have them: which fields to show, what is written in them, and what that says.

A form is made of its document's schema, so that a field or an act that is new in contracts is in the console too. What
is written is not judged here, but by the service that it is sent to. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel

from contracts.permits import Permit

Kind = Literal["line", "prose", "choice", "choices", "yes", "date", "number", "lines", "permit", "group", "rows"]
Given = Mapping[str, Sequence[str]]
"""What was sent, by the names of inputs."""

ROWS: Final = "rows"
"""The input that says how many rows were shown, and the one that asks for another: `<path>.rows`, `more`."""
MORE: Final = "more"
KEY: Final = "key"
"""The field of a row that has its name, where rows have names."""
_LINE: Final = 256


class Unreadable(Exception):
    """Something is neither YAML nor JSON. On which line, if that is known."""

    def __init__(self, line: int | None) -> None:
        super().__init__(f"it is neither YAML nor JSON (line {line})" if line else "it is neither YAML nor JSON")


@dataclass(frozen=True, slots=True)
class Field:
    """A field, or several that belong together. `name` is the document's, `path` is the name of its input."""

    name: str
    path: str
    kind: Kind
    required: bool = False
    values: tuple[str, ...] = ()
    choices: Mapping[str, str | None] = field(default_factory=dict)
    """By value what to call it, if it has a name of its own."""
    label: str | None = None
    """What to call it, if it has a name of its own."""
    low: int | None = None
    high: int | None = None
    pattern: str | None = None
    longest: int | None = None
    absent: str = ""
    """What is taken if nothing is written."""
    named: bool = False
    """Whether rows have names."""
    fields: tuple[Field, ...] = ()
    rows: tuple[tuple[Field, ...], ...] = ()

    @property
    def value(self) -> str:
        """What is written in it."""
        return self.values[0] if self.values else ""


class Form:
    """A document as a form, with what is written in it.

    `known` gives fields that name something else its names: choices of a field, or the names that a map has to have.
    """

    def __init__(
        self,
        document: type[BaseModel],
        given: Given | None = None,
        known: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        schema = document.model_json_schema()
        self._definitions = schema.get("$defs", {})
        self._given = given or {}
        self._known = known or {}
        self.fields = self._of(schema, "")

    def says(self) -> dict[str, Any]:
        """What is written, as the document; nothing of what was left empty. Raises Unreadable."""
        return _said(self.fields)

    def twice(self) -> list[str]:
        """The paths of names that a row before has, too."""
        found = []
        for one in _walk(self.fields):
            rows = [row for row in one.rows if one.named and _said(row)]
            names = [_said(row).get(KEY, "") for row in rows]
            found += [row[0].path for number, row in enumerate(rows) if names[number] in names[:number]]
        return found

    def by_place(self, sentences: str) -> tuple[list[str], dict[str, list[str]]]:
        """A service's sentences: all of them, and those about a field by its path.

        A sentence begins with its place in the document. One whose place is not of the form goes with the one before.
        """
        paths = {one.path for one in _walk(self.fields)}
        found: dict[str, list[str]] = {}
        every = _NEXT.split(sentences)
        last: str | None = None
        for one in every:
            place = one.partition(": ")[0] if _NEXT.match(f"; {one}") else ""
            while place and place not in paths:
                place = place.rpartition(".")[0]
            last = place or last
            if last:
                found.setdefault(last, []).append(one.removeprefix(f"{last}: "))
        return every, found

    def _of(self, schema: Mapping[str, Any], at: str) -> tuple[Field, ...]:
        required = schema.get("required", ())
        return tuple(
            self._field(name, f"{at}{name}", one, name in required)
            for name, one in schema.get("properties", {}).items()
        )

    def _field(self, name: str, path: str, schema: Mapping[str, Any], required: bool) -> Field:
        absent = schema.get("default")
        for one in schema.get("anyOf", ()):
            if one.get("type") != "null":
                schema = one
        made = Field(
            name,
            path,
            "line",
            required,
            tuple(self._given.get(path, ())),
            absent=str(absent) if type(absent) is int else "",
        )
        if name in self._known and "patternProperties" not in schema:
            choices = self._known[name]
            return replace(made, kind="choice", choices=choices, required=bool(choices))
        if reference := schema.get("$ref"):
            title = reference.rpartition("/")[2]
            if title == Permit.__name__:
                return replace(made, kind="permit")
            return replace(made, kind="group", fields=self._of(self._definitions[title], f"{path}."))
        match schema.get("type"):
            case "boolean":
                return replace(made, kind="yes", required=schema.get("const") is True)
            case "integer":
                return replace(made, kind="number", low=schema.get("minimum"), high=schema.get("maximum"))
            case "array":
                return self._several(made, schema)
            case "object":
                return self._map(made, schema)
        if names := schema.get("enum"):
            return replace(made, kind="choice", choices=dict.fromkeys(names))
        if schema.get("format") == "date":
            return replace(made, kind="date")
        longest = schema.get("maxLength")
        kind: Kind = "prose" if longest and longest > _LINE else "line"
        # browsers read a pattern with the flag v, for which a hyphen that ends a class is a mistake
        pattern = schema["pattern"].replace("-]", r"\-]") if "pattern" in schema else None
        return replace(made, kind=kind, pattern=pattern, longest=longest)

    def _several(self, made: Field, schema: Mapping[str, Any]) -> Field:
        items = schema["items"]
        if names := items.get("enum"):
            return replace(made, kind="choices", choices=dict.fromkeys(names))
        if "$ref" not in items:
            return replace(made, kind="lines")
        return self._rows(made, self._definitions[items["$ref"].rpartition("/")[2]], named=False)

    def _map(self, made: Field, schema: Mapping[str, Any]) -> Field:
        (value,) = schema["patternProperties"].values()
        if made.name in self._known:
            within = (
                replace(self._field(name, f"{made.path}.{name}", value, required=True), label=label)
                for name, label in self._known[made.name].items()
            )
            return replace(made, kind="group", fields=tuple(within))
        if "$ref" in value:
            return self._rows(made, self._definitions[value["$ref"].rpartition("/")[2]], named=True)
        return self._rows(made, {"properties": {"title": value}, "required": ["title"]}, named=True)

    def _rows(self, made: Field, schema: Mapping[str, Any], named: bool) -> Field:
        shown = (self._given.get(f"{made.path}.{ROWS}") or ("",))[0]
        count = int(shown) if shown.isdecimal() and len(shown) < 3 else int(made.required)
        count += made.path in self._given.get(MORE, ())
        if named:
            schema = {
                "properties": {KEY: {"type": "string"}, **schema["properties"]},
                "required": [KEY, *schema.get("required", ())],
            }
        rows = tuple(self._of(schema, f"{made.path}.{number}.") for number in range(count))
        return replace(made, kind="rows", named=named, rows=rows)


def _said(fields: Sequence[Field]) -> dict[str, Any]:
    found = ((one.name, _value(one)) for one in fields)
    return {name: value for name, value in found if value not in (None, "", [], {})}


def _value(one: Field) -> Any:
    match one.kind:
        case "group":
            return _said(one.fields)
        case "rows":
            rows = [said for row in one.rows if (said := _said(row))]
            if not one.named:
                return rows
            only_titles = {"key", "title"} == {field.name for row in one.rows for field in row}
            named = {str(row.pop(KEY, "")): row for row in rows}
            return {name: row.get("title", "") for name, row in named.items()} if only_titles else named
        case "choices":
            return list(one.values)
        case "lines":
            return [line for line in one.value.splitlines() if line.strip()]
        case "yes":
            return True if one.values else None
        case "number":
            return int(one.value) if _NUMBER.match(one.value) else one.value
        case "permit":
            return read(one.value) if one.value.strip() else None
    return one.value.strip()


def read(text: str) -> Any:
    """What YAML or JSON says, as JSON has it: dates are texts. Raises Unreadable."""
    try:
        if any(isinstance(one, yaml.AliasToken) for one in yaml.scan(text)):
            raise Unreadable(None)  # a few lines of them say as much as a library
        return json.loads(json.dumps(yaml.safe_load(text), default=str))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise Unreadable(mark.line + 1 if mark else None) from None
    except (ValueError, TypeError, RecursionError):
        raise Unreadable(None) from None


def as_yaml(said: Mapping[str, Any]) -> str:
    """What is said, to be read and changed."""
    return yaml.safe_dump(dict(said), allow_unicode=True, sort_keys=False)


def _walk(fields: Sequence[Field]) -> Iterator[Field]:
    for one in fields:
        yield one
        yield from _walk(one.fields)
        for row in one.rows:
            yield from _walk(row)


_NEXT: Final = re.compile(r"; (?=[\w.-]+: )")
_NUMBER: Final = re.compile(r"^\s*-?\d{1,9}\s*$")
