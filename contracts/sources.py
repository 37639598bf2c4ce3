"""The registry of producers, as whoever runs the hub has written it down."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

_SPAN: Final = re.compile(r"([1-9][0-9]{0,3})(m|h|d)", re.ASCII)
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days"}


def _span(text: Any) -> dt.timedelta:
    """`30m`, `6h` or `2d`, of up to a year."""
    found = _SPAN.fullmatch(text) if isinstance(text, str) else None
    span = dt.timedelta(**{_UNITS[found[2]]: int(found[1])}) if found else None
    if span is None or span > dt.timedelta(days=366):
        raise PydanticCustomError("span", "write it like 30m, 6h or 2d, up to 366d")
    return span


class Registered(BaseModel):
    """A producer as the registry has it. `description` and `keywords` are for the catalogue of data.

    `silent_after` is how long it may say nothing before that is an alarm; without it, its own rhythm tells.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    title: str = ""
    contact: str = ""
    formats: tuple[str, ...] = ()
    expected_per_day: Annotated[float, Field(gt=0)] | None = None
    silent_after: Annotated[dt.timedelta, BeforeValidator(_span)] | None = None
    description: str = ""
    keywords: tuple[str, ...] = ()


def sources_from(data: Any) -> dict[str, Registered]:
    """The producers by their source, from `{"sources": [...]}`. Raises ValueError, in one line."""
    try:
        return {one.source: one for one in _LISTED.validate_python(data["sources"])}
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc']))}: {one['msg'] if one['type'] == 'span' else one['type']}"
            for one in error.errors()[:3]
        )
        raise ValueError(wrong) from None
    except (LookupError, TypeError):
        raise ValueError("not a list of sources") from None


_LISTED: Final = TypeAdapter(list[Registered])
