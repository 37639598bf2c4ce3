"""What may change in a schema without breaking those who read by it. Pure: schemas in, sentences out.

A version of a schema is a promise in both directions, because old messages stay in the log and services are updated
one by one: what was written by the old schema must be read by the new one, and the other way round. A reader ignores
properties it does not know, so an optional one may be added; nothing is ever taken away. Whatever breaks goes into a
new version beside the old. A keyword that no rule covers may not change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Schema = Mapping[str, Any] | bool
Promise = Literal["both", "accept", "answer"]
"""Who is bound: both sides (topics), the hub to what others write (`accept`), or to what others read (`answer`)."""

_ANNOTATIONS = frozenset({"$schema", "$id", "$defs", "title", "description", "examples", "discriminator", "deprecated"})
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_RULED = frozenset(
    {"$ref", "anyOf", "type", "enum", "const", "pattern", "default", "required", "properties", "additionalProperties"}
    | {"items", "prefixItems", *_LOWER, *_UPPER}
)


def schema_breaks(old: Schema, new: Schema, promise: Promise = "both") -> list[str]:
    """Every way in which `new` breaks the promise that `old` made, as sentences; empty if it keeps it."""
    found: list[str] = []
    if promise in ("both", "accept"):
        found += _Reading(old, new, strict=True).problems("value", old, new)
    if promise in ("both", "answer"):
        found += _Reading(new, old, strict=False).problems("value", new, old)
    return list(dict.fromkeys(found))


def topic_breaks(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Every way in which a topic's declaration breaks what its producers and consumers rely on."""
    found = [
        f"{name} changed from {old[name]} to {new.get(name)}"
        for name in ("key", "partitions", "encoding")
        if name in old and old[name] != new.get(name) and not (name == "partitions" and _grown(old, new))
    ]
    found += [
        f"{name} changed" for name in ("per_permit", "append_time") if old.get(name, False) != new.get(name, False)
    ]
    for name in ("lanes", "headers", "schema_versions"):
        gone = [str(one) for one in old.get(name, ()) if one not in new.get(name, ())]
        found += [f"{name} lost {one}" for one in gone]
    return found


def _grown(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a topic that may grow has only become more."""
    before, after = old["partitions"], new.get("partitions")
    return bool(new.get("may_grow")) and isinstance(before, int) and isinstance(after, int) and before < after


@dataclass(frozen=True)
class _Reading:
    """Documents written by one schema and read by another. Strict: the reader is the new schema."""

    writer: Schema
    reader: Schema
    strict: bool
    seen: frozenset[tuple[str, str]] = frozenset()

    def problems(self, path: str, written: Schema, read: Schema) -> list[str]:
        if isinstance(written, Mapping) and isinstance(read, Mapping) and "$ref" in written and "$ref" in read:
            pair = (written["$ref"], read["$ref"])
            if pair in self.seen:
                return []
            return replace(self, seen=self.seen | {pair}).problems(
                path, _resolved(self.writer, written), _resolved(self.reader, read)
            )
        written, read = _resolved(self.writer, written), _resolved(self.reader, read)
        if read is True or read == {} or written is False:
            return []
        if read is False:
            return [f"{path} is no longer allowed"]
        if not isinstance(written, Mapping):
            return [f"{path} may no longer be anything"]
        changed = []
        if "default" in written and "default" in read and written["default"] != read["default"]:
            changed = [f"{path}: the default changed, and with it what its absence means"]
        choices = _alternatives(self.reader, read)
        return changed + [
            problem
            for one in _alternatives(self.writer, written)
            for problem in self._with_the_best_choice(path, one, choices)
        ]

    def _with_the_best_choice(
        self, path: str, written: Mapping[str, Any], choices: list[Mapping[str, Any]]
    ) -> list[str]:
        types = _types(written)
        fitting = [one for one in choices if not _types(one) or (types and types <= _types(one))]
        if not fitting:
            return [f"{path} may be {' or '.join(sorted(types)) or 'anything'}, which its readers do not accept"]
        return min((self._differences(path, written, one) for one in fitting), key=len)

    def _differences(self, path: str, written: Mapping[str, Any], read: Mapping[str, Any]) -> list[str]:
        unruled = sorted({*written, *read} - _ANNOTATIONS - _RULED)
        return [
            *(f"{path}: {name} changed" for name in unruled if written.get(name) != read.get(name)),
            *self._values(path, written, read),
            *self._limits(path, written, read),
            *self._object(path, written, read),
            *self._array(path, written, read),
        ]

    def _values(self, path: str, written: Mapping[str, Any], read: Mapping[str, Any]) -> Iterator[str]:
        allowed, said = _enumerated(read), _enumerated(written)
        if allowed is not None and said is None:
            yield f"{path} is narrowed to fixed values"
        elif allowed is not None and said is not None:
            for value in said:
                if value not in allowed:
                    yield f"{path} may be {value!r}, which its readers do not accept"
        if "pattern" in read and written.get("pattern") != read["pattern"]:
            yield f"{path}: the pattern changed, and its readers do not accept the same texts"

    def _limits(self, path: str, written: Mapping[str, Any], read: Mapping[str, Any]) -> Iterator[str]:
        for name in _LOWER:
            if name in read and written.get(name, float("-inf")) < read[name]:
                yield f"{path}: {name} is narrower for readers"
        for name in _UPPER:
            if name in read and written.get(name, float("inf")) > read[name]:
                yield f"{path}: {name} is narrower for readers"

    def _object(self, path: str, written: Mapping[str, Any], read: Mapping[str, Any]) -> Iterator[str]:
        here, there = written.get("properties", {}), read.get("properties", {})
        for name in sorted(here.keys() - there.keys() if self.strict else there.keys() - here.keys()):
            yield f"{path}.{name} is removed"
        for name in read.get("required", ()):
            if name not in written.get("required", ()) and name in here:
                yield f"{path}.{name} may be absent, and its readers need it"
            elif name not in here and self.strict:
                yield f"{path}.{name} is new and required"
        for name in sorted(here.keys() & there.keys()):
            yield from self.problems(f"{path}.{name}", here[name], there[name])
        further, accepted = written.get("additionalProperties", True), read.get("additionalProperties", True)
        if accepted is False and further is not False and self.strict:
            yield f"{path} no longer takes further properties"
        if isinstance(accepted, Mapping) and further is not False:
            yield from self.problems(f"{path}.*", further, accepted)

    def _array(self, path: str, written: Mapping[str, Any], read: Mapping[str, Any]) -> Iterator[str]:
        here, there = written.get("prefixItems", ()), read.get("prefixItems", ())
        gone = len(here) - len(there) if self.strict else len(there) - len(here)
        if gone > 0:
            yield f"{path} lost its last {gone} of {max(len(here), len(there))} positions"
        for position, (one, other) in enumerate(zip(here, there, strict=False)):
            yield from self.problems(f"{path}[{position}]", one, other)
        if "items" in read and read["items"] is not False:
            yield from self.problems(f"{path}[]", written.get("items", True), read["items"])
        elif read.get("items") is False and written.get("items") is not False:
            yield f"{path} may be longer than its readers accept"


def _resolved(root: Schema, schema: Schema) -> Schema:
    while isinstance(schema, Mapping) and "$ref" in schema:
        at: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            at = at[part]
        beside = {name: value for name, value in schema.items() if name != "$ref"}
        schema = {**at, **beside} if beside and isinstance(at, Mapping) else at
    return schema


def _alternatives(root: Schema, schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "anyOf" not in schema:
        return [schema]
    beside = {name: value for name, value in schema.items() if name in _RULED - {"anyOf", "default"}}
    found: list[Mapping[str, Any]] = []
    for one in schema["anyOf"]:
        resolved = _resolved(root, one)
        found += _alternatives(root, {**beside, **resolved} if isinstance(resolved, Mapping) else beside)
    return found


def _types(schema: Mapping[str, Any]) -> frozenset[str]:
    stated = schema.get("type", ())
    types = frozenset([stated] if isinstance(stated, str) else stated)
    return types | {"integer"} if "number" in types else types


def _enumerated(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return None if values is None else list(values)
