"""What `content.strip` takes out of a record, by place and reason: for whoever has to see what the hub does not keep.

Slower than stripping, so only for those who ask. Pure. Places are told in words of FHIR R4 and of the allow-lists
alone: any other name may be an identity, and is told as `*`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cache
from typing import Any, Final, NamedTuple

from services.ingest.domain.content import GONE, Form, Inner, InvalidRecord, Rule, forms
from services.ingest.domain.fhir_names import NAMES


class Reason(StrEnum):
    """Why a value is removed."""

    NO_PLACE = "no-place"
    """The allow-list does not name the element."""
    BAD_VALUE = "bad-value"
    """The element is named, and the value is not of its grammar: no known code, no date, no unit."""
    INCOMPLETE = "incomplete"
    """The value is good, but what it belongs to lacks an element that must be there."""
    ANOTHER_CHOICE = "another-choice"
    """The value is good, but it is one of several of which only the first is kept (value[x])."""


class Removal(NamedTuple):
    """A place, such as `Observation.note[].text`, and the reason."""

    path: str
    reason: Reason


def removals(record_type: str, record: Mapping[str, Any]) -> Counter[Removal]:
    """How many values go from where and why, of a record that `content.strip` keeps; they add up to `removed` there.

    Raises InvalidRecord where the record has no form.
    """
    known = forms().get(record_type, {})
    kind = record.get("resourceType")
    form: Form | None = known.get(kind) if kind is None or type(kind) is str else None
    if form is None:
        raise InvalidRecord("resourceType", " or ".join(name or "none" for name in known) or "a type that has a record")
    found: Counter[Removal] = Counter()
    _of_object(form.inner, record, kind or record_type, found)
    return found


def _explain(rule: Rule, value: Any, path: str, found: Counter[Removal]) -> Counter[str]:
    """The places of the values that stay; none where all goes, which is in `found` then."""
    if rule.item is not None:
        return _of_list(rule.item, value, path, found)
    if rule.inner is not None:
        return _of_object(rule.inner, value, path, found)
    kept = rule.keep(value, [0])
    if type(value) is not dict or not value:
        if kept is not GONE:
            return Counter((path,))
        _note(value, path, Reason.BAD_VALUE, found)
        return Counter()
    kept = {} if kept is GONE else kept
    for name, item in value.items():
        if name not in kept:
            _note(item, _under(path, name), Reason.BAD_VALUE if name in _PARTS else Reason.NO_PLACE, found)
    return Counter(_under(path, name) for name in kept)


_PARTS: Final = frozenset(("system", "code", "value", "comparator", "unit", "currency"))
"""Of codes, quantities and amounts of money."""


def _of_list(item: Rule, value: Any, path: str, found: Counter[Removal]) -> Counter[str]:
    kept: Counter[str] = Counter()
    if type(value) is not list or not value:
        _note(value, path, Reason.BAD_VALUE, found)
        return kept
    for one in value:
        kept += _explain(item, one, f"{path}[]", found)
    return kept


def _of_object(inner: Inner, value: Any, path: str, found: Counter[Removal]) -> Counter[str]:
    if not isinstance(value, dict) or not value:
        _note(value, path, Reason.BAD_VALUE, found)
        return Counter()
    by_name: dict[str, Counter[str]] = {}
    for name, item in value.items():
        rule = inner.rules.get(name)
        here = _under(path, name)
        if rule is None:
            _note(item, here, Reason.NO_PLACE, found)
        elif kept := _explain(rule, item, here, found):
            by_name[name] = kept
    for group in inner.one_of:
        for name in [name for name in group if name in by_name][1:]:
            _note_each(by_name.pop(name), Reason.ANOTHER_CHOICE, found)
    kept = sum(by_name.values(), Counter())
    lacks = any(name not in by_name for name in inner.required)
    if lacks or any(by_name.keys().isdisjoint(group) for group in inner.any_of):
        _note_each(kept, Reason.INCOMPLETE, found)
        return Counter()
    return kept


def _note_each(paths: Counter[str], reason: Reason, found: Counter[Removal]) -> None:
    for path, count in paths.items():
        found[Removal(path, reason)] += count


def _note(value: Any, path: str, reason: Reason, found: Counter[Removal]) -> None:
    _note_each(Counter(_leaves(value, path)), reason, found)


_MOST_LEAVES: Final = 100_000
_MOST_STEPS: Final = 1_000_000
_DEEPEST: Final = 12


def _leaves(value: Any, path: str) -> Iterator[str]:
    """The places of all scalars and empty containers, as many as `content.strip` counts; no path has no end."""
    waiting = [(value, path, 0)]
    steps = leaves = 0
    while waiting and (steps := steps + 1) < _MOST_STEPS and leaves < _MOST_LEAVES:
        item, here, depth = waiting.pop()
        inner: list[tuple[Any, str]]
        if type(item) is dict:
            inner = [(one, _under(here, name)) for name, one in item.items()]
        else:
            inner = [(one, f"{here}[]") for one in item] if type(item) is list else []
        if inner:
            waiting.extend((one, there if depth < _DEEPEST else here, depth + 1) for one, there in inner)
        else:
            leaves += 1
            yield here


def _under(path: str, name: Any) -> str:
    if type(name) is str and (name in _vocabulary() or (name[:1] == "_" and name[1:] in _vocabulary())):
        return f"{path}.{name}"
    return f"{path}.*"


@cache
def _vocabulary() -> frozenset[str]:
    """FHIR's words, and those of the hub's own forms."""
    own = (leaf.path for known in forms().values() for form in known.values() for leaf in form.leaves)
    return NAMES | {name for path in own for name in path.replace("[]", "").split(".")}
