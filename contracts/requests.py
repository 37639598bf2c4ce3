"""What an officer does about a person's request, and what each act has to say. Days are calendar days in France.

Who may act when is the business of access (`services.access.domain.requests`); this is the form of what is said. The
articles are those of the GDPR.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from contracts.permits import Prose
from contracts.projects import Paper, said_in

Kind = Literal["access", "erasure"]
Ground = Literal[
    "manifestly-unfounded",
    "excessive",
    "not-identified",
    "rights-of-others",
    "no-ground",
    "freedom-of-expression",
    "legal-obligation",
    "public-health",
    "research",
    "legal-claims",
]
GROUNDS: Final[Mapping[Kind, Mapping[str, str]]] = {
    "access": {
        "manifestly-unfounded": "12(5)",
        "excessive": "12(5)",
        "not-identified": "12(2)",
        "rights-of-others": "15(4)",
    },
    "erasure": {
        "manifestly-unfounded": "12(5)",
        "excessive": "12(5)",
        "not-identified": "12(2)",
        "no-ground": "17(1)",
        "freedom-of-expression": "17(3)(a)",
        "legal-obligation": "17(3)(b)",
        "public-health": "17(3)(c)",
        "research": "17(3)(d)",
        "legal-claims": "17(3)(e)",
    },
}
"""On which ground what kind of request may be refused, and the article that has it."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Answer(_Document):
    """The person has been told, by this letter."""

    document: Paper


class Refusal(_Document):
    """The person has been told, by this letter, that nothing is done, why, and where to complain (art. 12(4))."""

    ground: Ground
    reason: Prose
    document: Paper


class Extension(_Document):
    """Two months more, of which the person has been told with the reason, by this letter (art. 12(3))."""

    reason: Prose
    document: Paper


class Erasure(_Document):
    """Erase what is held. `as_seen` is that of the report that was looked at: where it has changed, nothing is done."""

    as_seen: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] = Field(
        description="`as_seen` of the report."
    )


ACTS: Final[Mapping[str, type[BaseModel]]] = {
    "answer": Answer,
    "refuse": Refusal,
    "extend": Extension,
    "erase": Erasure,
}
"""All acts, with what each says."""


def document_of(act: str, data: Any) -> Any:
    """What an act says, from a mapping. Raises DocumentError, in sentences."""
    return said_in(ACTS[act], act, data, _PATTERNS)


_PATTERNS: Final = {
    "sha256": "use the SHA-256 of the document, 64 digits of 0-9 and a-f",
    "as_seen": "use the 32 digits of the report",
}
