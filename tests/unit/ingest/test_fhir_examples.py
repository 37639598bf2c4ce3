"""The examples of FHIR R4: each is taken or refused with a reason, and nothing outside of the allow-lists is kept.

The checker here reads the allow-lists by itself and plainly, so that it does not share a mistake with what it checks.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from contracts.events import RECORD_TYPES, Event
from services.ingest.domain.content import InvalidRecord, strip
from services.ingest.domain.fhir_names import NAMES
from services.ingest.domain.identity import demographics
from services.ingest.domain.refusals import Refusal
from services.ingest.domain.removals import removals
from services.ingest.formats.fhir import entries as fhir
from services.ingest.formats.fhir import files as fhir_files

from .samples import ROOT, SOURCE, events_of

pytestmark = pytest.mark.unit

SAMPLE = ROOT / "tests/fixtures/fhir/examples"
PACKAGE = os.environ.get("ESTUAIRE_FHIR_EXAMPLES")
FOLDER = Path(PACKAGE) if PACKAGE else SAMPLE
EXAMPLES = [path for path in sorted(FOLDER.glob("*.json")) if path.name not in ("package.json", ".index.json")]


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    counts: Counter[str] = Counter()
    yield counts
    if PACKAGE:
        listed = "".join(f"{count:7} {what}\n" for what, count in sorted(counts.items()))
        sys.stdout.write(f"\n{len(EXAMPLES)} examples:\n{listed}")


@pytest.mark.parametrize("path", [SAMPLE, FOLDER], ids=["sample", "folder"])
def test_there_are_examples_of_all_that_is_taken(path: Path) -> None:
    names = {one.name.partition("-")[0] for one in path.glob("*.json")}
    assert fhir.TYPES.keys() | {"Bundle", "Consent"} <= names


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_taken_or_refused_and_only_what_is_allowed_is_kept(path: Path, tally: Counter[str]) -> None:
    content = path.read_bytes()
    document = msgspec.json.decode(content)
    told = events_of(document, SOURCE)
    in_parts = [one.outcome for one in fhir_files.read(io.BytesIO(content), path.name, SOURCE)]
    assert [one for one in in_parts if not isinstance(one, str)] == told.events
    assert Counter(one for one in in_parts if isinstance(one, str)) == told.not_taken
    assert told.events or told.not_taken or not document.get("entry")
    for kind, count in told.not_taken.items():
        tally[f"not taken: {kind}"] += count
    strings = set(texts(document))
    for event in told.events:
        if isinstance(event, Refusal):
            tally[f"refused: {event.reason}"] += 1
            assert_no_text_of(strings, event.detail)
            continue
        valid = Event.model_validate(event)
        if valid.deleted or valid.record_type == "identity.v1":
            tally[f"kept: {event['type']}"] += 1
            continue
        record = event["data"]["record"]
        try:
            stripped = strip(event["type"], record)
        except InvalidRecord as refused:
            tally[f"refused: invalid-record {event['type']}, {refused.path}"] += 1
            assert_no_text_of(strings, str(refused))
            continue
        tally[f"kept: {event['type']}"] += 1
        assert removals(event["type"], record).total() == stripped.removed
        kept = Checker(event["type"]).check(stripped.record)
        body = [stripped.record, msgspec.to_builtins(demographics(valid.data.identity))]
        values = " ".join(map(str, scalars(body)))
        for text in set(texts(record)) - kept:
            if len(text) > 3 and not any(text in one for one in kept):
                assert text not in values


def scalars(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from scalars(inner)
    else:
        yield value


def texts(value: Any) -> Iterator[str]:
    return (one for one in scalars(value) if isinstance(one, str))


def assert_no_text_of(strings: set[str], detail: str) -> None:
    """A refusal has no text of the example, but for the standard's own words."""
    for text in strings:
        if len(text) > 5 and re.search(r"[\s\d:/]", text):
            assert text not in detail


# --- a plain reading of the allow-lists ---

BOOK = yaml.safe_load((files("contracts") / "content" / "systems.yaml").read_text(encoding="utf-8"))
DATE = r"\d{4}(-\d\d(-\d\d)?)?"
CLOCK = r"\d\d:\d\d:\d\d(\.\d+)?"
TEXTS = {
    "date": DATE,
    "datetime": rf"{DATE}|\d{{4}}-\d\d-\d\dT{CLOCK}(Z|[+-]\d\d:\d\d)",
    "instant": rf"\d{{4}}-\d\d-\d\dT{CLOCK}(Z|[+-]\d\d:\d\d)",
    "time": CLOCK,
    "ucum": r"""[A-Za-z0-9%\[\]{}()_'/.*^+#-]{1,40}""",
}
COMPOSED = {
    "coding": {"system", "code"},
    "quantity": {"value", "comparator", "unit", "system", "code"},
    "money": {"value", "currency"},
}


class Checker:
    """Every leaf of a record of one type is at a place of its allow-list, and of that place's grammar."""

    def __init__(self, kind: str) -> None:
        told = yaml.safe_load((files("contracts") / "content" / f"{kind}.yaml").read_text(encoding="utf-8"))
        self.forms = told["forms"]
        self.shapes = BOOK["shapes"] | told.get("shapes", {})

    def check(self, record: Mapping[str, Any]) -> set[str]:
        """The record's texts."""
        self.kept: set[str] = set()
        self.fields(self.forms[record.get("resourceType", "hub")], record)
        return self.kept

    def fields(self, allowed: Mapping[str, Any], value: Any) -> None:
        assert isinstance(value, dict)
        for name, item in value.items():
            if f"{name}[]" in allowed:
                assert isinstance(item, list)
                for one in item:
                    self.place(allowed[f"{name}[]"], one)
            else:
                assert name in allowed, name
                self.place(allowed[name], item)

    def place(self, allowed: Any, value: Any) -> None:
        options = {"is": allowed} if isinstance(allowed, str) else allowed
        grammar = options.get("is")
        if grammar is None:
            self.fields(options, value)
        elif grammar == "code":
            self.text(value in options["values"], value)
        elif grammar in self.shapes:
            self.place(self.shapes[grammar], value)
        elif grammar in BOOK["patterns"]:
            self.text(matches(BOOK["patterns"][grammar], value), value)
        elif grammar in TEXTS:
            self.text(re.fullmatch(TEXTS[grammar], value, re.ASCII), value)
        elif grammar == "boolean":
            assert isinstance(value, bool)
        elif grammar in ("number", "count", "amount"):
            assert_is_number(value)
        else:
            self.composed(grammar, value)

    def composed(self, grammar: str, value: Any) -> None:
        assert value.keys() <= COMPOSED[grammar]
        if grammar != "coding":
            assert_is_number(value["value"])
        if "system" in value or "code" in value:
            self.text(value["system"] in BOOK["systems"], value["system"])
            system = BOOK["systems"][value["system"]]
            self.text(matches(system, value["code"]), value["code"])
        if "unit" in value:
            self.text(re.fullmatch(TEXTS["ucum"], value["unit"]), value["unit"])
        if "currency" in value:
            self.text(value["currency"] in BOOK["currencies"], value["currency"])
        if "comparator" in value:
            self.text(value["comparator"] in ("<", "<=", ">=", ">"), value["comparator"])

    def text(self, good: Any, value: str) -> None:
        assert isinstance(value, str)
        assert good, value
        self.kept.add(value)


def matches(told: Mapping[str, Any], code: str) -> bool:
    if code in told.get("denied", ()):
        return False
    if "values" in told:
        return code in told["values"]
    return bool(re.fullmatch(told.get("pattern", TEXTS["ucum"]), code, re.ASCII))


def assert_is_number(value: Any) -> None:
    assert type(value) in (int, float)
    assert abs(value) < 1e8
    assert len(re.sub(r"e.*|[-.]", "", repr(value)).strip("0")) <= 9


@pytest.mark.parametrize("kind", [kind for kind in RECORD_TYPES if kind != "identity.v1"])
def test_the_checker_finds_what_does_not_belong(kind: str) -> None:
    checker = Checker(kind)
    for name in checker.forms:
        start = {} if name == "hub" else {"resourceType": name}
        for planted in ("text", "id", "note", "LE GOFF"):
            with pytest.raises(AssertionError):
                checker.check(start | {planted: "LE GOFF"})
        for field in checker.forms[name]:
            if field not in ("one_of", "any_of"):
                with pytest.raises((AssertionError, AttributeError, KeyError, TypeError)):
                    checker.check(start | {field.removesuffix("[]"): "LE GOFF"})


# --- the words of the standard ---


@pytest.mark.skipif(not PACKAGE, reason="the names are derived from the whole package: make fhir-examples")
def test_the_names_are_those_of_the_structure_definitions() -> None:
    names: set[str] = set()
    for path in FOLDER.glob("StructureDefinition-*.json"):
        told = json.loads(path.read_bytes())
        is_taken = told["kind"] == "resource" and told["type"] in (*fhir.TYPES, "Resource", "DomainResource")
        if told.get("derivation") == "constraint" or not (told["kind"] == "complex-type" or is_taken):
            continue
        for element in told["snapshot"]["element"]:
            _, dot, name = element["path"].rpartition(".")
            types = [one["code"].rpartition(".")[2] for one in element.get("type", ())]
            if name.endswith("[x]"):
                names |= {name.removesuffix("[x]") + one[0].upper() + one[1:] for one in types}
            elif dot:
                names.add(name)
    assert names == NAMES
