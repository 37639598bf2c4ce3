"""What of a record may be kept: the allow-lists of `contracts/content`, compiled to plain functions.

Every leaf that passes is named by the record type's allow-list and matches its grammar: a date, a code of a named
system with its check digit, a bounded number, a unit. Everything else goes and is counted. Pure, but for reading the
packaged allow-lists on first use.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable, Iterator, Mapping
from decimal import ROUND_HALF_UP, Decimal
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

import yaml

MAX_ITEMS: Final = 10_000
"""As many acts as fit into the largest record that is kept (900 kB).

A longer list in an allowed place refuses the record: cutting it short would change what it says."""

HOLLOW: Final = frozenset(("resourceType", "status", "use", "intent", "outcome"))
"""Fields that say nothing about care by themselves: a record of nothing else is refused."""


class InvalidRecord(Exception):
    """The record cannot be kept: `path` is in the allow-list's words, `expected` says what belongs there.

    Neither repeats anything of the record.
    """

    def __init__(self, path: str, expected: str) -> None:
        super().__init__(f"{path}: expected {expected}")
        self.path = path
        self.expected = expected


class Stripped(NamedTuple):
    """What is kept of a record, and how many leaves were dropped (of one huge subtree, at least 100,000).

    `invalid` are the named top-level fields in which a value is not of its grammar. A coding of a system that is not in
    `systems.yaml` is none, where another is taken.
    """

    record: dict[str, Any]
    removed: int
    invalid: tuple[str, ...] = ()


class Leaf(NamedTuple):
    """One place of an allow-list: the form it belongs to, its path ([] for a list), and its grammar."""

    form: str
    path: str
    grammar: str


def strip(record_type: str, record: Mapping[str, Any]) -> Stripped:
    """The record reduced to its allow-list. The record is not changed; strings and numbers are shared with it.

    Raises InvalidRecord where a required leaf is missing or not of its grammar, where a list is too long, and where
    nothing is left that says anything.
    """
    by_kind = forms().get(record_type)
    if by_kind is None:
        raise InvalidRecord("type", "a type that has a record")
    kind = record.get("resourceType")
    form = by_kind.get(kind) if kind is None or type(kind) is str else None
    if form is None:
        raise InvalidRecord("resourceType", " or ".join(name or "none" for name in by_kind))
    tally = [0, 0]
    kept = form.prune(record, tally)
    for name, expected in form.required:
        if name not in kept:
            raise InvalidRecord(name, expected)
    for names in form.any_of:
        if kept.keys().isdisjoint(names):
            raise InvalidRecord(names[0], f"at least one of {', '.join(names)}")
    if kept.keys() <= HOLLOW:
        raise InvalidRecord("record", "a code, a number or a date that its allow-list names")
    return Stripped(kept, tally[0], _invalid(form, record) if tally[1] else ())


def _invalid(form: Form, record: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields of which a value was not taken: looked for again, since few records have any."""
    found = []
    for name, item in record.items():
        rule = form.inner.rules.get(name)
        tally = [0, 0]
        if rule is not None and item is not None and (rule.keep(item, tally) is GONE or tally[1]):
            found.append(name)
    return tuple(found)


@cache
def allowed(record_type: str) -> tuple[Leaf, ...]:
    """Every leaf that a record of this type may keep: for documents, permits and tests."""
    return tuple(leaf for form in forms()[record_type].values() for leaf in form.leaves)


@lru_cache(maxsize=1 << 16)
def known(pattern: str, code: str) -> bool:
    """Whether a code is one by a pattern of `systems.yaml`, such as cim10."""
    return _book().patterns[pattern][0](code)


# --- grammars: each takes a value and gives it back (perhaps in its one spelling), or GONE ---

Keep = Callable[[Any, list[int]], Any]
"""The list has two tallies: leaves that are dropped, and how often a named place has a value that is not taken."""

GONE: Final = object()
"""What a grammar gives for a value that is none of its own."""

_DAY = r"((?:1[89]|2[01])\d\d)(?:-(0[1-9]|1[0-2])(?:-(0[1-9]|[12]\d|3[01]))?)?"
_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d{1,9})?"
_ZONE = r"(?:Z|[+-](?:0\d|1[0-4]):[0-5]\d)"
_FRACTION = re.compile(r"(\.\d{3})\d+", re.ASCII)
_DATE = re.compile(_DAY, re.ASCII)
_TIME = re.compile(_CLOCK, re.ASCII)
_DATETIME = re.compile(rf"{_DAY}(?P<time>(?<=-\d\d-\d\d)T{_CLOCK}{_ZONE})?", re.ASCII)

_BOUND: Final = 100_000_000
"""Numbers stay under nine digits: no measure needs more, and a telephone number or a NIR has them."""
_YYYYMMDD: Final = re.compile(r"(1[89]|2[01])\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", re.ASCII)
_DDMMYYYY: Final = re.compile(r"([12]\d|3[01])(0[1-9]|1[0-2])(1[89]|2[01])\d\d", re.ASCII)
"""A day as a number of eight digits, which may be a birth date. A rounded measure is none: its day or month is 00."""


def _in_calendar(match: re.Match[str]) -> bool:
    day = match[3]
    return day is None or day <= "28" or int(day) <= monthrange(int(match[1]), int(match[2]))[1]


def _date(value: Any, _: list[int]) -> Any:
    if type(value) is str and (match := _DATE.fullmatch(value)) and _in_calendar(match):
        return value
    return GONE


def _datetime(value: Any, _: list[int]) -> Any:
    if type(value) is str and (match := _DATETIME.fullmatch(value)) and _in_calendar(match):
        return _to_milliseconds(value)
    return GONE


def _instant(value: Any, _: list[int]) -> Any:
    if type(value) is str and (match := _DATETIME.fullmatch(value)) and match["time"] and _in_calendar(match):
        return _to_milliseconds(value)
    return GONE


def _time(value: Any, _: list[int]) -> Any:
    return _to_milliseconds(value) if type(value) is str and _TIME.fullmatch(value) else GONE


def _to_milliseconds(value: str) -> str:
    """Nine digits after a second are a telephone number's; no measure needs more than three."""
    return _FRACTION.sub(r"\1", value, 1) if "." in value else value


def _boolean(value: Any, _: list[int]) -> Any:
    return value if value is True or value is False else GONE


def _bounded(value: Any) -> Any:
    if (type(value) is float or type(value) is int) and -_BOUND < value < _BOUND:  # false for NaN
        return value if -10_000_000 < value < 10_000_000 or not _is_day(value) else GONE
    return GONE


def _is_day(number: float) -> bool:
    text = str(abs(int(number)))
    return number == int(number) and bool(_YYYYMMDD.fullmatch(text) or _DDMMYYYY.fullmatch(text))


def _number(value: Any, _: list[int]) -> Any:
    """To nine significant digits: a NIR with a point in it is a number, too."""
    return _bounded(float(f"{value:.9g}")) if type(value) is float else _bounded(value)


def _count(value: Any, _: list[int]) -> Any:
    return value if type(value) is int and 0 <= value < 100_000 else GONE


def _amount(value: Any, _: list[int]) -> Any:
    value = _bounded(value)  # and two digits after the point at most
    if type(value) is float and round(value, 2) != value:
        return float(Decimal(repr(value)).quantize(Decimal("0.01"), ROUND_HALF_UP))
    return value


def _ucum(value: Any, _: list[int]) -> Any:
    return value if type(value) is str and len(value) <= 40 and _is_unit(value) else GONE


def _coding(value: Any, tally: list[int]) -> Any:
    """FHIR R4 Coding (datatypes.html#Coding): system and code together or not at all."""
    if type(value) is not dict:
        return GONE
    system, code = value.get("system"), value.get("code")
    if not _is_code(system, code):
        return GONE
    if len(value) > 2:
        tally[0] += sum(_leaves(item) for name, item in value.items() if name != "system" and name != "code")
    return {"system": system, "code": code}


def _quantity(value: Any, tally: list[int]) -> Any:
    """FHIR R4 Quantity (datatypes.html#Quantity): the number, its coded unit, and `unit` where that is UCUM too."""
    if type(value) is not dict or (number := _number(value.get("value"), tally)) is GONE:
        return GONE
    kept: dict[str, Any] = {"value": number}
    if (comparator := value.get("comparator")) in ("<", "<=", ">=", ">"):
        kept["comparator"] = comparator
    if (unit := value.get("unit")) is not None and _ucum(unit, tally) is not GONE:
        kept["unit"] = unit
    system, code = value.get("system"), value.get("code")
    if _is_code(system, code):
        kept["system"], kept["code"] = system, code
    if len(kept) < len(value):
        tally[0] += sum(_leaves(item) for name, item in value.items() if name not in kept)
        tally[1] += "code" in value and "code" not in kept and not _is_elsewhere(value)
    return kept


def _money(value: Any, tally: list[int]) -> Any:
    """FHIR R4 Money (datatypes.html#Money), to the cent."""
    if type(value) is not dict or (amount := _amount(value.get("value"), tally)) is GONE:
        return GONE
    kept: dict[str, Any] = {"value": amount}
    currency = value.get("currency")
    if type(currency) is str and currency in _book().currencies:
        kept["currency"] = currency
    if len(kept) < len(value):
        tally[0] += sum(_leaves(item) for name, item in value.items() if name not in kept)
    return kept


GRAMMARS: Final[dict[str, tuple[Keep, str]]] = {
    "date": (_date, "a date (YYYY, YYYY-MM or YYYY-MM-DD)"),
    "datetime": (_datetime, "a date, or a date and time with its offset (RFC 3339)"),
    "instant": (_instant, "a date and time with its offset (RFC 3339)"),
    "time": (_time, "a time of day (HH:MM:SS)"),
    "boolean": (_boolean, "true or false"),
    "number": (
        _number,
        "a finite number of less than nine digits before the point, rounded to nine in all, and no day as one number",
    ),
    "count": (_count, "a whole number from 0 to 99999"),
    "amount": (_amount, "an amount of money as a number"),
    "money": (_money, "an amount with its ISO 4217 currency"),
    "ucum": (_ucum, "a UCUM unit"),
    "coding": (_coding, "a system and a code that contracts/content/systems.yaml knows"),
    "quantity": (_quantity, "a number with its UCUM unit"),
}
"""The grammars that are code; a fixed list (`is: code`), a pattern or a shape of `systems.yaml` is any other."""


# --- check digits ---


def _luhn_sum(digits: str) -> int:
    total = 0
    for index, digit in enumerate(reversed(digits)):
        number = int(digit) * (1 + index % 2)
        total += number - 9 if number > 9 else number
    return total


def _luhn(code: str) -> bool:
    """Mod 10 (ISO/IEC 7812-1, annex B); FINESS numbers carry it. Those of Corsica have a letter and go unchecked."""
    return not code.isdigit() or _luhn_sum(code) % 10 == 0


def _loinc(code: str) -> bool:
    """LOINC Users' Guide, appendix "Calculating mod 10 check digits".

    Answers (LA...) count their letters too, which adds 5 to an even number of digits and 8 to an odd one: found from,
    and true of, all 181 answers in the examples of FHIR R4.
    """
    letters = 0 if code[0] != "L" else 8 if len(code) % 2 else 5
    return (_luhn_sum(code.lstrip("LA").replace("-", "")) + letters) % 10 == 0


_DIHEDRAL = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    (1, 2, 3, 4, 0, 6, 7, 8, 9, 5),
    (2, 3, 4, 0, 1, 7, 8, 9, 5, 6),
    (3, 4, 0, 1, 2, 8, 9, 5, 6, 7),
    (4, 0, 1, 2, 3, 9, 5, 6, 7, 8),
    (5, 9, 8, 7, 6, 0, 4, 3, 2, 1),
    (6, 5, 9, 8, 7, 1, 0, 4, 3, 2),
    (7, 6, 5, 9, 8, 2, 1, 0, 4, 3),
    (8, 7, 6, 5, 9, 3, 2, 1, 0, 4),
    (9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
)
_PERMUTED = (
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
    (1, 5, 7, 6, 2, 8, 3, 0, 9, 4),
    (5, 8, 0, 3, 7, 9, 6, 1, 4, 2),
    (8, 9, 1, 6, 0, 4, 3, 5, 2, 7),
    (9, 4, 5, 3, 1, 2, 6, 8, 7, 0),
    (4, 2, 8, 6, 5, 7, 3, 9, 0, 1),
    (2, 7, 9, 3, 8, 0, 6, 4, 1, 5),
    (7, 0, 4, 6, 9, 1, 3, 2, 5, 8),
)


def _verhoeff(code: str) -> bool:
    """Verhoeff's dihedral check (SNOMED CT Release File Specifications, section 6.4)."""
    check = 0
    for index, digit in enumerate(reversed(code)):
        check = _DIHEDRAL[check][_PERMUTED[index % 8][int(digit)]]
    return check == 0


def _ean13(code: str) -> bool:
    """GS1 General Specifications, section 7.9; CIP13 and UCD13 are EAN-13. Shorter codes have no check digit."""
    return len(code) != 13 or sum(int(digit) * (1 + index % 2 * 2) for index, digit in enumerate(code)) % 10 == 0


def _cip(code: str) -> bool:
    """EAN-13 for 13 digits; for seven (CIP7, UCD7) the sum by weights 2 to 7, modulo 11, where ten is written 0.

    Club Inter Pharmaceutique names the modulus. The weights are found from their codes, and true of each of those in
    tests/unit/ingest/test_content.py. Codes of other lengths have no check digit.
    """
    if len(code) != 7 or not code.isdigit():
        return _ean13(code)
    return sum(int(digit) * weight for weight, digit in enumerate(code[:6], 2)) % 11 % 10 == int(code[6])


def _unit_code(code: str) -> bool:
    return _is_unit(code)


_CHECKS: Final[dict[str, Callable[[str], bool]]] = {
    "luhn": _luhn,
    "loinc": _loinc,
    "verhoeff": _verhoeff,
    "ean13": _ean13,
    "cip": _cip,
    "ucum": _unit_code,
}


# --- the systems, patterns and units of systems.yaml ---


class _Book(NamedTuple):
    systems: dict[str, Callable[[str], bool]]
    patterns: dict[str, tuple[Callable[[str], bool], str]]
    shapes: dict[str, Any]
    currencies: frozenset[str]
    unit: re.Pattern[str]
    annotations: frozenset[str]


@cache
def _book() -> _Book:
    told = _read("systems.yaml")
    ucum = told["ucum"]
    return _Book(
        systems={url: _matcher(system) for url, system in told["systems"].items()},
        patterns={name: (_matcher(pattern), pattern["about"]) for name, pattern in told["patterns"].items()},
        shapes=told["shapes"],
        currencies=frozenset(told["currencies"]),
        unit=_unit_pattern(ucum),
        annotations=frozenset(ucum["annotations"]),
    )


def _read(name: str) -> Any:
    return yaml.safe_load((files("contracts") / "content" / name).read_text(encoding="utf-8"))


def _matcher(told: Mapping[str, Any]) -> Callable[[str], bool]:
    match = _form_of(told)
    denied = frozenset(told.get("denied", ()))
    return (lambda code: code not in denied and match(code)) if denied else match


def _form_of(told: Mapping[str, Any]) -> Callable[[str], bool]:
    if "values" in told:
        return frozenset(told["values"]).__contains__
    check = _CHECKS[told["check"]] if "check" in told else None
    if "pattern" not in told:
        if check is None:
            raise ValueError("a system needs values, a pattern or a check")
        return check
    pattern = re.compile(told["pattern"], re.ASCII)
    if check is None:
        return lambda code: pattern.fullmatch(code) is not None
    return lambda code: pattern.fullmatch(code) is not None and check(code)


def _is_code(system: Any, code: Any) -> bool:
    if type(system) is not str or type(code) is not str or len(system) > 100 or len(code) > 100:
        return False
    return _is_known_code(system, code)


@lru_cache(maxsize=1 << 16)
def _is_known_code(system: str, code: str) -> bool:
    match = _book().systems.get(system)
    return match is not None and match(code)


def _is_elsewhere(value: Any) -> bool:
    """Whether a coding, or every coding of a concept, is of a system that is not in `systems.yaml`."""
    if type(value) is not dict:
        return False
    codings = value.get("coding")
    systems = [
        one.get("system") if type(one) is dict else None
        for one in (codings[:MAX_ITEMS] if type(codings) is list and codings else (value,))
    ]
    return all(type(system) is str and system not in _book().systems for system in systems)


def _unit_pattern(ucum: Mapping[str, list[str]]) -> re.Pattern[str]:
    """The grammar of UCUM (ucum.org/ucum, sections 5 to 12) without nested brackets, over the listed units."""

    def any_of(words: list[str]) -> str:
        return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))

    prefixed = rf"(?:{any_of(ucum['prefixes'])})?(?:{any_of(ucum['prefixed'])})"
    atom = rf"(?:(?:{any_of(ucum['plain'])}|{prefixed})(?:[+-]?[1-9])?)"
    note = r"\{[^{}]*\}"
    term = rf"(?:(?:{atom}|10[*^](?:[+-]?[1-9]\d?)?|[1-9]\d{{0,2}})(?:{note})?|{note})"
    group = rf"(?:{term}|\({term}(?:[./]{term}){{0,3}}\)(?:{note})?)"
    return re.compile(rf"/?{group}(?:[./]{group}){{0,5}}", re.ASCII)


_NOTE = re.compile(r"\{([^{}]*)\}")


@lru_cache(maxsize=1 << 12)
def _is_unit(unit: str) -> bool:
    book = _book()
    if len(unit) > 40 or not book.unit.fullmatch(unit):
        return False
    if any(note.lower() not in book.annotations for note in _NOTE.findall(unit)):
        return False
    return sum(letter.isdigit() for letter in _NOTE.sub("", unit)) <= 7


# --- from an allow-list to functions ---


class Inner(NamedTuple):
    """The fields of an object, and the groups that they make."""

    rules: Mapping[str, Rule]
    one_of: tuple[tuple[str, ...], ...]
    required: tuple[str, ...]
    any_of: tuple[tuple[str, ...], ...]


class Form(NamedTuple):
    """What is kept of a record of one form."""

    inner: Inner
    prune: Callable[[Mapping[str, Any], list[int]], dict[str, Any]]
    required: tuple[tuple[str, str], ...]
    any_of: tuple[tuple[str, ...], ...]
    leaves: tuple[Leaf, ...]


class Rule(NamedTuple):
    """What may stand at one place: `inner` is of an object, `item` of a list."""

    keep: Keep
    expected: str
    required: bool
    inner: Inner | None = None
    item: Rule | None = None


@cache
def forms() -> dict[str, dict[str | None, Form]]:
    """Every record type's forms, by resourceType; the hub's own form has none."""
    found: dict[str, dict[str | None, Form]] = {}
    for entry in sorted((files("contracts") / "content").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml") and entry.name != "systems.yaml":
            told = _read(entry.name)
            shapes = _book().shapes | told.get("shapes", {})
            if clash := shapes.keys() & (GRAMMARS.keys() | _book().patterns.keys()):
                raise ValueError(f"{entry.name}: {', '.join(clash)} is a grammar or a pattern already")
            found[entry.name.removesuffix(".yaml")] = {
                None if name == "hub" else name: _form(name, fields, shapes) for name, fields in told["forms"].items()
            }
    return found


def _form(name: str, fields: Mapping[str, Any], shapes: Mapping[str, Any]) -> Form:
    leaves: list[Leaf] = []
    rules = _rules(fields, shapes, "", lambda path, grammar: leaves.append(Leaf(name, path, grammar)), 0)
    one_of = _groups(fields, "one_of")
    return Form(
        inner=Inner(rules, one_of, (), ()),
        prune=_pruner(rules, one_of),
        required=tuple((field, rule.expected) for field, rule in rules.items() if rule.required),
        any_of=_groups(fields, "any_of"),
        leaves=tuple(leaves),
    )


_DEEPEST: Final = 12
_DIRECTIVES: Final = ("one_of", "any_of")


def _groups(fields: Mapping[str, Any], directive: str) -> tuple[tuple[str, ...], ...]:
    groups = tuple(tuple(group) for group in fields.get(directive, ()))
    if unknown := [name for group in groups for name in group if name not in fields]:
        raise ValueError(f"{directive} names {unknown[0]}, which is not a field that is no list")
    return groups


def _rules(
    fields: Mapping[str, Any], shapes: Mapping[str, Any], path: str, note: Callable[[str, str], None], depth: int
) -> dict[str, Rule]:
    if depth > _DEEPEST:
        raise ValueError(f"{path}: shapes within shapes without an end")
    rules = {}
    for field, told in fields.items():
        if field in _DIRECTIVES:
            continue
        here = f"{path}.{field}" if path else field
        rule = _rule(told, shapes, here, note, depth)
        if field.endswith("[]"):
            rule = Rule(_list(rule.keep, here), f"a list with {rule.expected}", rule.required, item=rule)
        rules[field.removesuffix("[]")] = rule
    return rules


def _rule(told: Any, shapes: Mapping[str, Any], path: str, note: Callable[[str, str], None], depth: int) -> Rule:
    options: Mapping[str, Any] = {"is": told} if isinstance(told, str) else told
    if "is" not in options:
        rules = _rules(told, shapes, path, note, depth + 1)
        required = tuple(field for field, rule in rules.items() if rule.required)
        inner = Inner(rules, _groups(told, "one_of"), required, _groups(told, "any_of"))
        return Rule(_object(inner), f"an object with {', '.join(required) or 'one of its fields'}", False, inner)
    if options.keys() - {"is", "values", "required"}:
        raise ValueError(f"{path}: an option that is not is, values or required")
    name, required_here = options["is"], options.get("required", False)
    if name == "code":
        note(path, name)
        return Rule(_closed(options["values"]), f"one of {', '.join(options['values'])}", required_here)
    if name in GRAMMARS:
        note(path, name)
        return Rule(*GRAMMARS[name], required_here)
    if name in _book().patterns:
        note(path, name)
        match, about = _book().patterns[name]
        return Rule(_coded(match), about, required_here)
    if name not in shapes:
        raise ValueError(f"{path}: {name} is not a grammar, a pattern or a shape")
    rule = _rule(shapes[name], shapes, path, note, depth + 1)
    expected = "a code of a system in contracts/content/systems.yaml" if name == "concept" else rule.expected
    return rule._replace(expected=expected, required=required_here or rule.required)


def _closed(values: list[str]) -> Keep:
    known = frozenset(values)
    if not all(type(value) is str for value in known):
        raise ValueError("a fixed list has text only: quote its numbers")
    return _coded(known.__contains__)


def _coded(match: Callable[[str], bool]) -> Keep:
    def keep(value: Any, _: list[int]) -> Any:
        if type(value) is int and 0 <= value < 10_000:  # SNDS gives its short codes as numbers
            value = str(value)
        return value if type(value) is str and len(value) <= 64 and match(value) else GONE

    return keep


def _list(keep: Keep, path: str) -> Keep:
    def keep_list(value: Any, tally: list[int]) -> Any:
        if type(value) is not list:
            return GONE
        if len(value) > MAX_ITEMS:
            raise InvalidRecord(path, f"at most {MAX_ITEMS} items")
        before = tally[:]
        kept = []
        for item in value:
            found = keep(item, tally)
            if found is GONE:
                tally[0] += _leaves(item)
                tally[1] += not _is_elsewhere(item)
            else:
                kept.append(found)
        if kept:
            return kept
        tally[:] = before
        return GONE

    return keep_list


def _object(inner: Inner) -> Keep:
    rules, one_of, required, any_of = inner
    prune = _pruner(rules, one_of)

    def keep_object(value: Any, tally: list[int]) -> Any:
        if type(value) is not dict:
            return GONE
        before = tally[:]
        kept = prune(value, tally)
        for name in required:
            if name not in kept:
                break
        else:
            if kept and not any(kept.keys().isdisjoint(group) for group in any_of):
                return kept
        tally[:] = before
        return GONE

    return keep_object


def _pruner(
    rules: Mapping[str, Rule], one_of: tuple[tuple[str, ...], ...]
) -> Callable[[Mapping[str, Any], list[int]], dict[str, Any]]:
    find = {name: rule.keep for name, rule in rules.items()}.get

    def prune(value: Mapping[str, Any], tally: list[int]) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for name, item in value.items():
            keep = find(name)
            if keep is None or (found := keep(item, tally)) is GONE:
                tally[0] += _leaves(item)
                tally[1] += keep is not None and item is not None
            else:
                kept[name] = found
        for group in one_of:
            _keep_first(group, kept, tally)
        return kept

    return prune


def _keep_first(group: tuple[str, ...], kept: dict[str, Any], tally: list[int]) -> None:
    """Of value[x] one may be there (FHIR R4, formats.html#choice): the first that the allow-list names stays."""
    first = True
    for name in group:
        if name in kept:
            if not first:
                tally[0] += _leaves(kept.pop(name))
            first = False


def _leaves(value: Any) -> int:
    """How many scalars (and empty containers) there are in a value, however deep; it stops counting at 100,000."""
    if type(value) is not dict and type(value) is not list:
        return 1
    count = 0
    for _ in _scalars(value):
        count += 1
        if count >= 100_000:
            break
    return count


def _scalars(value: Any) -> Iterator[Any]:
    waiting = [value]
    steps = 0
    while waiting and (steps := steps + 1) < 1_000_000:
        item = waiting.pop()
        inner = item.values() if type(item) is dict else item if type(item) is list else ()
        if inner:
            waiting.extend(inner)
        else:
            yield item
