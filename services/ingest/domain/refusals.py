"""Why an event is refused, in words that name the field and the fix, and never repeat a value or an unknown key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ValidationError

from contracts.events import RECORD_TYPES, Event, EventData, Identifier, Identity, Objection, PersonsRequest, Residence

_MODELS: Final[tuple[type[BaseModel], ...]] = (
    Event,
    EventData,
    Identity,
    Identifier,
    Residence,
    Objection,
    PersonsRequest,
)
_FIELDS: Final = frozenset(name for model in _MODELS for name in model.model_fields)


class Refusal(NamedTuple):
    """A short reason in kebab case, and a sentence for whoever has to correct the event."""

    reason: str
    detail: str


class Refused(Exception):
    """This event is not taken; the others of its batch are not concerned."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


def refusing(reason: str, detail: str) -> Refused:
    """The error that refuses what is being read."""
    return Refused(Refusal(reason, detail))


NOT_JSON: Final = Refusal(
    "not-json", "the event is not JSON (RFC 8259) in UTF-8: look for a missing quote or comma, NaN, or a lone surrogate"
)
NOT_AN_OBJECT: Final = Refusal("bad-value", "the event is not a JSON object: send a CloudEvent of version 1.0")
NUL_BYTE: Final = Refusal("nul-byte", "the event has a NUL character: take it out")
TOO_DEEP: Final = Refusal("too-deep", "the event is nested too deeply: a record needs a few levels only")
NUMBER_OUT_OF_RANGE: Final = Refusal("bad-value", "a number is too large: send what a measure can be")
UNKNOWN_TYPE: Final = Refusal(
    "unknown-type", f"type: not one of {', '.join(RECORD_TYPES)}, nor one of them with .deleted at its end"
)
SOURCE_NOT_YOURS: Final = Refusal("source-not-yours", "source: not the one that your token was given for")
BAD_TIME: Final = Refusal("bad-value", "time: not a moment with its offset, such as 2026-03-01T10:00:00Z (RFC 3339)")
NO_RECORD: Final = Refusal("missing-field", "data.record: this field is missing; it holds the fields of the type")
NOBODY_FOUND: Final = Refusal(
    "nobody-found",
    "data.identity: nobody could be found by it: give an identifier, or two of family name, given name, birth date and"
    " residence, and no fictitious status",
)
NO_RECORD_TAKEN: Final = Refusal(
    "invalid-record", "data.record: identity.v1 has none; send the record under a type of its own"
)
TOO_LARGE: Final = Refusal("not-kept", "the record is larger than the hub keeps (900 kB): send it in parts")
INTERNAL: Final = Refusal("internal-error", "the hub could not read this event and has logged why; the others went on")


def invalid_record(path: str, expected: str) -> Refusal:
    """A record that its allow-list refuses; both texts are the allow-list's own."""
    return Refusal("invalid-record", f"data.record.{path}: expected {expected}")


def from_validation(error: ValidationError) -> Refusal:
    """The refusal for what pydantic found; the first three places are named."""
    found = error.errors(include_url=False, include_input=False)
    kinds = [one["type"] for one in found]
    reason = next((_REASONS[kind] for kind in kinds if kind in _REASONS), "bad-value")
    sentences = dict.fromkeys(_sentence(one["loc"], one["type"], one.get("ctx", {})) for one in found)
    return Refusal(reason, "; ".join(list(sentences)[:3]))


_REASONS: Final = {"missing": "missing-field", "extra_forbidden": "unknown-field"}
_SENTENCES: Final = {
    "missing": "this field is missing",
    "string_type": "not text",
    "string_too_short": "empty",
    "string_too_long": "longer than {max_length} characters",
    "too_long": "more than {max_length} items",
    "literal_error": "not one of {expected}",
    "int_type": "not a whole number",
    "int_parsing": "not a whole number",
    "int_from_float": "not a whole number",
    "bool_type": "neither true nor false",
    "bool_parsing": "neither true nor false",
    "greater_than_equal": "less than {ge}",
    "less_than_equal": "more than {le}",
    "timezone_aware": "without its offset: end it in Z or +01:00",
    "tuple_type": "not a list",
    "dict_type": "not an object",
    "model_type": "not an object",
    "model_attributes_type": "not an object",
}
_FORMS: Final = {
    "time": "not a moment with its offset, such as 2026-03-01T10:00:00Z (RFC 3339)",
    "received": "not a day as YYYY-MM-DD",
    "birth_date": "not a date as YYYY-MM-DD, YYYY-MM or YYYY",
    "birth_place": "not an INSEE code of five characters, such as 35238",
    "commune": "not an INSEE code of five characters, such as 35238",
    "traceparent": "not a W3C traceparent",
}


def _sentence(place: tuple[int | str, ...], kind: str, limits: dict[str, Any]) -> str:
    where = "".join(_steps(place[:-1] if kind == "extra_forbidden" else place)).removeprefix(".")
    if kind == "extra_forbidden":
        return f"{where or 'the event'}: it has a field that no event has; look for a spelling mistake"
    if kind == "value_error":  # raised by the rules of contracts.events, whose sentences hold no value
        return f"{where}: {limits['error']}" if where else str(limits["error"])
    last = place[-1] if place else ""
    form = _SENTENCES.get(kind)
    if form is None:
        form = _FORMS.get(str(last), "not of the expected form")
    return f"{where or 'the event'}: {form.format(**limits)}"


def _steps(place: tuple[int | str, ...]) -> Iterator[str]:
    for step in place:
        if isinstance(step, int):
            yield f"[{step}]"
        else:
            yield f".{step}" if step in _FIELDS else ".*"
