"""Forms are what contracts say, with what is written in them; what they say is what contracts read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts.projects import ACTS, document_of
from services.console.domain.forms import KEY, Field, Form, Unreadable, read

pytestmark = pytest.mark.unit

LIFE = Path(__file__).parents[3] / "examples" / "life_of_a_project"
PAPER = {"title": "protocol.pdf", "date": "2026-01-01", "sha256": "0" * 64}
WITH_PAPER = {"request": "protocol", "give-opinion": "document", "authorise": "document"}
EXAMPLES = {
    "announce": "call",
    "apply": "application",
    "review": "review",
    "request": "request",
    "give-opinion": "opinion",
    "authorise": "decision",
    "close": "closing",
}


def example(act: str) -> dict[str, Any]:
    said = yaml.safe_load((LIFE / f"{EXAMPLES[act]}.yaml").read_text())
    found: dict[str, Any] = json.loads(json.dumps(said, default=str))
    return found | ({WITH_PAPER[act]: PAPER} if act in WITH_PAPER else {})


def written(fields: tuple[Field, ...], says: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """What somebody would write into these fields to say this."""
    for one in fields:
        value = says.get(one.name)
        if value is None:
            continue
        match one.kind:
            case "group":
                yield from written(one.fields, value)
            case "permit":
                yield one.path, [yaml.safe_dump(value)]
            case "choices":
                yield one.path, value
            case "yes":
                yield one.path, ["yes"] if value else []
            case "rows":
                rows = list(value) if isinstance(value, list) else [_row(*pair) for pair in value.items()]
                yield f"{one.path}.rows", [str(len(rows))]
                for number, row in enumerate(rows):
                    for name, text in row.items():
                        yield f"{one.path}.{number}.{name}", [str(text)]
            case _:
                yield one.path, [str(value)]


def _row(key: str, said: Any) -> dict[str, Any]:
    return {KEY: key, **(said if isinstance(said, dict) else {"title": said})}


@pytest.mark.parametrize("act", EXAMPLES)
def test_what_is_written_into_a_form_is_what_it_says(act: str) -> None:
    says = example(act)
    known = {"scores": {name: name.title() for name in says["scores"]}} if act == "review" else {}
    form = Form(ACTS[act].says, dict(written(Form(ACTS[act].says, None, known).fields, says)), known)
    assert form.says() == says
    assert document_of(act, form.says()) == document_of(act, says)


@pytest.mark.parametrize("act", ACTS)
def test_every_act_has_a_form_that_says_nothing_at_first(act: str) -> None:
    form = Form(ACTS[act].says)
    assert {one.name for one in form.fields} == set(ACTS[act].says.model_fields)
    assert form.says() == {}


def test_another_row_is_shown_when_it_is_asked_for_and_one_left_empty_says_nothing() -> None:
    given = {"contributions.rows": ["1"], "contributions.0.title": ["Codes"], "more": ["contributions"]}
    (rows, _) = Form(ACTS["close"].says, given).fields
    assert [row[1].value for row in rows.rows] == ["Codes", ""]
    assert Form(ACTS["close"].says, given).says() == {"contributions": [{"title": "Codes"}]}


def test_a_row_that_has_the_name_of_one_before_is_found() -> None:
    def announced(*names: str) -> Form:
        given = {"themes.rows": [str(len(names))]}
        for number, name in enumerate(names):
            given |= {f"themes.{number}.key": [name], f"themes.{number}.title": [name and "A title"]}
        return Form(ACTS["announce"].says, given)

    assert announced("research", "care", "research").twice() == ["themes.2.key"]
    assert announced("research", "", "", "care").twice() == [], "one left empty has no name"


def test_a_sentence_is_beside_the_field_that_it_is_about() -> None:
    form = Form(ACTS["request"].says)
    said = "permit: sources: this clause is missing; expires: use a day; look; protocol.sha256: 64 digits"
    every, by_place = form.by_place(said)
    assert every == [
        "permit: sources: this clause is missing",
        "expires: use a day; look",
        "protocol.sha256: 64 digits",
    ]
    assert by_place == {
        "permit": ["sources: this clause is missing", "expires: use a day; look"],
        "protocol.sha256": ["64 digits"],
    }
    assert form.by_place("a sentence of its own") == (["a sentence of its own"], {})


def test_a_number_that_is_none_is_sent_as_it_is_written_so_that_the_service_says_so() -> None:
    assert Form(ACTS["announce"].says, {"places": ["ten"]}).says() == {"places": "ten"}
    assert Form(ACTS["announce"].says, {"places": [" 10 "]}).says() == {"places": 10}


@pytest.mark.parametrize("text", ["{", "a: &a [1]\nb: *a", "? [a]\n: b", "a: !!python/object:os.system x", "\x00"])
def test_what_is_neither_yaml_nor_json_is_told_so(text: str) -> None:
    with pytest.raises(Unreadable):
        read(text)


def test_dates_stay_texts() -> None:
    assert read("expires: 2035-12-31") == {"expires": "2035-12-31"}
