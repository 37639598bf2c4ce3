"""A breaking change against main fails: every schema and topic is compared with what main promised."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts.compatibility import Promise, schema_breaks, topic_breaks

pytestmark = pytest.mark.contract

ROOT = Path(__file__).resolve().parents[2]
PROMISES: dict[str, Promise] = {"event": "accept", "permit": "accept", "receipt": "answer"}
"""Who is bound by what is no topic; everything else binds both sides."""

Side = Callable[[str], str | None]
"""Reads a file of one state of the repository; None if it is not there."""


def git(*arguments: str) -> str | None:
    """What git answers, or None when it refuses."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def commit(name: str) -> Side:
    return lambda path: git("show", f"{name}:{path}")


def working_tree(path: str) -> str | None:
    return (ROOT / path).read_text() if (ROOT / path).exists() else None


@cache
def comparisons() -> list[tuple[str, str | None]]:
    """Pairs of states to compare, the older first; None is the working tree. Skips without a history."""
    top, head = git("rev-parse", "--show-toplevel"), git("rev-parse", "--verify", "HEAD^{commit}")
    if head is None or top is None or Path(top).resolve() != ROOT:
        pytest.skip("NOTHING TO COMPARE WITH: this folder has no git history of its own (an export?)")
    for main in ("origin/main", "main"):
        base = git("merge-base", "HEAD", main)
        if base is not None and base != head:
            return [(base, None)]
    parent = git("rev-parse", "--verify", "HEAD~1^{commit}")
    return [(head, None)] if parent is None else [(head, None), (parent, head)]


def promised(name: str) -> list[str]:
    """The schemas and topics of a commit. A topic that says that nothing writes it yet promises nothing."""
    listed = (git("ls-tree", "-r", "--name-only", name, "contracts/schemas", "contracts/topics") or "").splitlines()
    topics = {Path(path).stem: git("show", f"{name}:{path}") or "" for path in listed if path.endswith(".yaml")}
    planned = {topic for topic, text in topics.items() if "Nothing writes it yet." in text}
    schemas_and_topics = [path for path in listed if path.endswith((".schema.json", ".yaml"))]
    return [path for path in schemas_and_topics if Path(path).name.split(".")[0] not in planned]


def broken(path: str, before: Side, after: Side) -> list[str]:
    """What a file's change breaks."""
    old, new = before(path), after(path)
    assert old is not None
    if new is None:
        return ["removed, while messages of it may be in the log and in stores"]
    if path.endswith(".yaml"):
        return topic_breaks(yaml.safe_load(old), yaml.safe_load(new))
    name = Path(path).name.split(".")[0]
    return schema_breaks(json.loads(old), json.loads(new), PROMISES.get(name, "both"))


def test_no_promise_is_broken() -> None:
    found = []
    for older, newer in comparisons():
        after = working_tree if newer is None else commit(newer)
        for path in promised(older):
            against = f"{newer[:8] if newer else 'working tree'} against {older[:8]}"
            found += [f"{path} ({against}): {why}" for why in broken(path, commit(older), after)]
    assert not found, "add a new schema version beside the old instead:\n" + "\n".join(found)


# the rules themselves


def record(properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), **more}


TEXT, NUMBER, NOTHING = {"type": "string"}, {"type": "integer"}, {"type": "null"}
A, B = record({"type": {"enum": ["a"]}, "x": TEXT}, "type", "x"), record({"type": {"enum": ["b"]}}, "type")

KEPT: dict[str, tuple[Any, Any]] = {
    "nothing changed": (record({"x": TEXT}, "x"), record({"x": TEXT}, "x")),
    "an optional property added": (record({"x": TEXT}, "x"), record({"x": TEXT, "y": NUMBER}, "x")),
    "words changed": (record({"x": TEXT}), record({"x": {**TEXT, "description": "An x."}}, title="X")),
    "a reference in place": ({"$ref": "#/$defs/T", "$defs": {"T": TEXT}}, TEXT),
    "a constant as an enum of one": ({"const": "a"}, {"enum": ["a"]}),
    "choices in another order": ({"anyOf": [TEXT, NOTHING]}, {"anyOf": [NOTHING, TEXT]}),
    "a choice of one": ({"anyOf": [A]}, A),
    "an optional position added": (
        {"type": "array", "prefixItems": [TEXT], "minItems": 1},
        {"type": "array", "prefixItems": [TEXT, NUMBER], "minItems": 1},
    ),
    "an optional property in a closed record": (
        record({"x": TEXT}, additionalProperties=False),
        record({"x": TEXT, "y": TEXT}, additionalProperties=False),
    ),
}

BROKEN: dict[str, tuple[Any, Any, str]] = {
    "an optional property removed": (
        record({"x": TEXT, "y": TEXT}, "x"),
        record({"x": TEXT}, "x"),
        "value.y is removed",
    ),
    "a required property added": (
        record({"x": TEXT}, "x"),
        record({"x": TEXT, "y": TEXT}, "x", "y"),
        "value.y is new and required",
    ),
    "an optional property made required": (record({"x": TEXT}), record({"x": TEXT}, "x"), "value.x may be absent"),
    "a required property made optional": (record({"x": TEXT}, "x"), record({"x": TEXT}), "value.x may be absent"),
    "a type changed": (record({"x": TEXT}), record({"x": NUMBER}), "value.x may be string"),
    "a type narrowed": ({"type": "number"}, NUMBER, "value may be"),
    "null no longer allowed": ({"anyOf": [TEXT, NOTHING]}, TEXT, "value may be null"),
    "null allowed": (TEXT, {"anyOf": [TEXT, NOTHING]}, "value may be null"),
    "an enum value removed": ({"enum": ["a", "b"]}, {"enum": ["a"]}, "value may be 'b'"),
    "an enum value added": ({"enum": ["a"]}, {"enum": ["a", "b"]}, "value may be 'b'"),
    "an enum introduced": (TEXT, {**TEXT, "enum": ["a"]}, "narrowed to fixed values"),
    "a pattern introduced": (TEXT, {**TEXT, "pattern": "^a"}, "pattern changed"),
    "a pattern changed": ({**TEXT, "pattern": "^b"}, {**TEXT, "pattern": "^a"}, "pattern changed"),
    "a maximum length lowered": ({**TEXT, "maxLength": 9}, {**TEXT, "maxLength": 8}, "maxLength is narrower"),
    "a minimum introduced": (NUMBER, {**NUMBER, "minimum": 0}, "minimum is narrower"),
    "an encoding changed": ({**TEXT, "contentEncoding": "base64"}, TEXT, "contentEncoding changed"),
    "an encoding changed in a choice": (
        {"anyOf": [{**TEXT, "contentEncoding": "base64"}, NOTHING]},
        {"anyOf": [TEXT, NOTHING]},
        "contentEncoding changed",
    ),
    "a format changed": ({**TEXT, "format": "date"}, {**TEXT, "format": "date-time"}, "format changed"),
    "a default changed": ({**TEXT, "default": "a"}, {**TEXT, "default": "b"}, "default changed"),
    "a kind of message added": ({"anyOf": [A]}, {"anyOf": [A, B]}, "value.type may be 'b'"),
    "a kind of message removed": ({"anyOf": [A, B]}, {"anyOf": [A]}, "value.type may be 'b'"),
    "a record closed": (
        record({"x": TEXT}),
        record({"x": TEXT}, additionalProperties=False),
        "no longer takes further",
    ),
    "a map's values changed": (
        {"type": "object", "additionalProperties": TEXT},
        {"type": "object", "additionalProperties": NUMBER},
        "value.* may be string",
    ),
    "a list's items changed": ({"type": "array", "items": TEXT}, {"type": "array", "items": NUMBER}, "value[] may be"),
    "a position removed": (
        {"type": "array", "prefixItems": [TEXT, TEXT]},
        {"type": "array", "prefixItems": [TEXT]},
        "lost its last 1 of 2",
    ),
    "a position of another type": (
        {"type": "array", "prefixItems": [TEXT]},
        {"type": "array", "prefixItems": [NUMBER]},
        "value[0] may be string",
    ),
    "something deep inside, by reference": (
        {"$ref": "#/$defs/A", "$defs": {"A": record({"b": {"$ref": "#/$defs/B"}}), "B": record({"c": TEXT})}},
        {"$ref": "#/$defs/A", "$defs": {"A": record({"b": {"$ref": "#/$defs/B"}}), "B": record({"c": NUMBER})}},
        "value.b.c may be string",
    ),
    "a keyword that no rule covers": (TEXT, {**TEXT, "not": {"const": ""}}, "not changed"),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept(case: str) -> None:
    assert schema_breaks(*KEPT[case]) == []


@pytest.mark.parametrize("case", BROKEN)
def test_broken(case: str) -> None:
    old, new, why = BROKEN[case]
    assert why in "\n".join(schema_breaks(old, new))


def test_recursion_ends() -> None:
    tree = {
        "$ref": "#/$defs/T",
        "$defs": {"T": record({"children": {"type": "array", "items": {"$ref": "#/$defs/T"}}})},
    }
    assert schema_breaks(tree, tree) == []


def test_what_the_hub_accepts_may_widen_and_what_it_answers_may_narrow() -> None:
    narrow, wide = {"enum": ["a"]}, {"enum": ["a", "b"]}
    assert schema_breaks(narrow, wide, "accept") == []
    assert schema_breaks(wide, narrow, "accept")
    assert schema_breaks(wide, narrow, "answer") == []
    assert schema_breaks(narrow, wide, "answer")
    optional, required = record({"x": TEXT}), record({"x": TEXT}, "x")
    assert schema_breaks(required, optional, "accept") == []
    assert schema_breaks(optional, required, "answer") == []
    for promise in ("accept", "answer"):
        assert schema_breaks(optional, record({}), promise) == ["value.x is removed"]


@pytest.mark.parametrize("path", sorted((ROOT / "contracts" / "schemas").iterdir()), ids=lambda path: path.stem)
def test_each_schema_keeps_its_own_promise_and_would_miss_each_property(path: Path) -> None:
    text = path.read_text()
    schema = json.loads(text)
    assert schema_breaks(schema, schema) == []
    for properties in objects(schema):
        for name in list(properties):
            taken = properties.pop(name)
            assert any(f".{name} is removed" in why for why in schema_breaks(json.loads(text), schema)), name
            properties[name] = taken


def objects(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [found for one in schema for found in objects(one)]
    if not isinstance(schema, dict):
        return []
    inside = [found for name, one in schema.items() if name != "properties" for found in objects(one)]
    here = schema.get("properties", {})
    return [*([here] if here else []), *inside, *(found for one in here.values() for found in objects(one))]


TOPIC = {
    "key": "event id",
    "partitions": "hot",
    "lanes": ["live", "backfill"],
    "headers": ["a"],
    "encoding": "msgpack",
    "schema_versions": [1],
}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"key": "patient"}, "key changed"),
        ({"partitions": 1}, "partitions changed"),
        ({"lanes": ["live"]}, "lanes lost backfill"),
        ({"headers": []}, "headers lost a"),
        ({"schema_versions": [2]}, "schema_versions lost 1"),
        ({"encoding": "json"}, "encoding changed"),
        ({"append_time": True}, "append_time changed"),
    ],
)
def test_topics_broken(change: dict[str, Any], why: str) -> None:
    assert why in "\n".join(topic_breaks(TOPIC, TOPIC | change))


def test_topics_kept() -> None:
    grown = {"headers": ["a", "b"], "schema_versions": [1, 2], "description": "More.", "consumers": ["access"]}
    assert topic_breaks(TOPIC, TOPIC | grown) == []
    assert topic_breaks(TOPIC, TOPIC | {"per_permit": False}) == []


@pytest.mark.parametrize("kind", ["export", "one commit", "branch", "main"])
def test_the_states_compared(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    monkeypatch.setitem(globals(), "ROOT", tmp_path.resolve())
    states = comparisons.__wrapped__
    if kind == "export":
        with pytest.raises(pytest.skip.Exception, match="NOTHING TO COMPARE WITH"):
            states()
        return
    run("init", "-q", "-b", "main")
    run("commit", "-q", "--allow-empty", "-m", "one")
    first = run("rev-parse", "HEAD")
    if kind == "one commit":
        assert states() == [(first, None)]
        return
    if kind == "branch":
        run("checkout", "-q", "-b", "work")
    run("commit", "-q", "--allow-empty", "-m", "two")
    head = run("rev-parse", "HEAD")
    assert states() == ([(first, None)] if kind == "branch" else [(head, None), (first, head)])
