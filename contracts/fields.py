"""The fields of each type of record, as the allow-lists of `contracts/content` name them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

HERE: Final = Path(__file__).parent / "content"

_DATATYPES: Final = {
    "boolean": "boolean",
    "count": "integer",
    "number": "decimal",
    "date": "date",
    "datetime": "dateTime",
}


class Variable(NamedTuple):
    """A field of a record: its name, what its value is by the allow-list, and its type (CSVW)."""

    name: str
    kind: str
    datatype: str


@cache
def variables() -> Mapping[str, tuple[Variable, ...]]:
    """By record type, the fields of all its forms, each once."""
    found = {}
    for path in sorted(HERE.glob("*.v1.yaml")):
        fields: dict[str, Variable] = {}
        for form in yaml.safe_load(path.read_text(encoding="utf-8"))["forms"].values():
            for name, rule in form.items():
                if name not in ("one_of", "any_of", "resourceType"):
                    one = _variable(name.removesuffix("[]"), rule)
                    fields.setdefault(one.name, one)
        found[path.stem] = tuple(fields.values())
    return found


def _variable(name: str, rule: Any) -> Variable:
    kind = rule if isinstance(rule, str) else str(rule.get("is", "group")) if isinstance(rule, dict) else "group"
    return Variable(name, kind, _DATATYPES.get(kind, "string"))
