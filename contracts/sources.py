"""The registry of producers, as whoever runs the hub has written it down."""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError


class Registered(BaseModel):
    """A producer as the registry has it. `description` and `keywords` are for the catalogue of data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    title: str = ""
    contact: str = ""
    formats: tuple[str, ...] = ()
    expected_per_day: Annotated[float, Field(gt=0)] | None = None
    description: str = ""
    keywords: tuple[str, ...] = ()


def sources_from(data: Any) -> dict[str, Registered]:
    """The producers by their source, from `{"sources": [...]}`. Raises ValueError, in one line."""
    try:
        return {one.source: one for one in _LISTED.validate_python(data["sources"])}
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['type']}" for one in error.errors()[:3])
        raise ValueError(wrong) from None
    except (LookupError, TypeError):
        raise ValueError("not a list of sources") from None


_LISTED: Final = TypeAdapter(list[Registered])
