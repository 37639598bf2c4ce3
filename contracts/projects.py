"""A call for projects, a project, and what each act of their lives has to say. Dates are calendar days in France.

Who may act when is the business of access; this is the form of what is said. The purposes are those of the Code de la
santé publique, art. L1461-1 III, and the two forbidden ones those of its V.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from contracts.permits import SMALL_CELL, Line, Name, Permit, PermitError, Prose, permit_from, sentences

PROJECT_ID: Final = r"^[a-z0-9][a-z0-9-]{1,40}$"

Id = Annotated[str, StringConstraints(pattern=PROJECT_ID)]
Word = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z-]{1,40}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

Purpose = Literal[
    "information-on-care",
    "health-policies",
    "expenditure",
    "information-of-professionals",
    "surveillance",
    "research",
    "promotion-of-products",
    "insurance-risk",
]
FORBIDDEN: Final = ("promotion-of-products", "insurance-risk")
"""Refused at once: promoting health products to professionals or establishments, and excluding from guarantees of
insurance or changing premiums by risk (L1461-1 V)."""

Path = Literal["standard", "mr-004", "mr-005", "mr-006", "permanent"]
"""How a project comes to be authorised: by a decision of the data protection authority, by a declaration that it
conforms to one of its reference methodologies, or as a body to which a decree gives permanent access."""


Role = Literal["officer", "reviewer", "lead"]
"""Who acts: for the hub, on a call's behalf, or for a project."""


class DocumentError(ValueError):
    """What was sent cannot be taken as it is written. One sentence for each thing to correct."""


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Criterion(_Document):
    """What reviewers judge, from 0 to 5, and how much it counts."""

    title: Line
    weight: Annotated[int, Field(ge=1, le=100)] = 1


class Call(_Document):
    """A call for projects: until when who may apply for what, and by what applications are judged."""

    id: Id
    title: Line
    themes: Annotated[dict[Word, Line], Field(min_length=1, max_length=50)]
    criteria: Annotated[dict[Word, Criterion], Field(min_length=1, max_length=50)]
    opens: dt.date
    closes: dt.date = Field(description="The last day on which somebody may apply.")
    places: Annotated[int, Field(ge=1, le=10_000, description="How many projects can be chosen.")]
    reviewers: Annotated[
        int, Field(ge=1, le=50, description="Reviews that each application needs before it can be chosen.")
    ] = 2
    accompanied_months: Annotated[int, Field(ge=0, le=60, description="For how long chosen ones are accompanied.")] = 12

    @model_validator(mode="after")
    def _is_in_order(self) -> Call:
        if self.closes < self.opens:
            raise ValueError("`closes` is before `opens`: exchange the two dates")
        return self


class Organisation(_Document):
    """Who is responsible for the project."""

    name: Line
    kind: Literal["public-body", "health-establishment", "research", "association", "company"]


class Application(_Document):
    """A project, as whoever leads it presents it; of a call, or of nobody's."""

    id: Id
    title: Line
    summary: Prose = Field(description="For the public, too: it goes into the register of projects.")
    organisation: Organisation
    purposes: Annotated[tuple[Purpose, ...], Field(min_length=1, max_length=8)]
    public_interest: Prose = Field(description="What the public gains from it.")
    call: Id | None = None
    theme: Word | None = None

    @model_validator(mode="after")
    def _is_of_a_theme(self) -> Application:
        if (self.call is None) != (self.theme is None):
            raise ValueError("`call` and `theme` go together: give the call's id and one of its themes, or neither")
        return self


class Paper(_Document):
    """A document that is kept elsewhere, by its title, its day and its SHA-256."""

    title: Line
    date: dt.date
    sha256: Sha256


class Nothing(_Document):
    """An act that says itself."""


class Reason(_Document):
    """Why."""

    reason: Prose


class Review(_Document):
    """What one reviewer holds of an application: of each criterion of the call, 0 (not at all) to 5 (wholly)."""

    scores: Annotated[dict[Word, Annotated[int, Field(ge=0, le=5)]], Field(max_length=50)]
    comment: Prose
    no_conflict_of_interest: Literal[True] = Field(description="The reviewer's own statement, by name.")


def _read_permit(data: Any) -> Any:
    if isinstance(data, Permit):
        return data
    try:
        return permit_from(data)
    except PermitError as wrong:
        raise ValueError(str(wrong)) from None


class Request(_Document):
    """What is asked for, and by which path: the permit as it would be granted, to the letter.

    Whether it may be granted is asked with the act, not here: a request that was made under other rules stays readable.
    """

    path: Path
    permit: Permit
    protocol: Paper
    laboratory: Line | None = Field(
        None, description="With mr-006: the research laboratory or consultancy that works on the data (L1461-3 II)."
    )

    _reads_the_permit = field_validator("permit", mode="before")(_read_permit)

    @model_validator(mode="after")
    def _says_where_and_through_whom(self) -> Request:
        if self.permit.environment is None:
            raise ValueError("`permit.environment` is missing: name the secure environment that rows may go to")
        if (self.path == "mr-006") != (self.laboratory is not None):
            raise ValueError("`laboratory` is for mr-006, and mr-006 needs it: who works on the data for the company")
        return self


class Narrowing(_Document):
    """An open permit that is to allow less: as it is from now on, whole, and why."""

    permit: Permit
    reason: Prose

    _reads_the_permit = field_validator("permit", mode="before")(_read_permit)


class Incomplete(_Document):
    """What is missing."""

    missing: Annotated[tuple[Line, ...], Field(min_length=1, max_length=100)]


class Opinion(_Document):
    """The committee's scientific and ethical opinion. One that is taken as given, since time has passed, is `tacit`."""

    verdict: Literal["favourable", "favourable-with-recommendations", "unfavourable"]
    document: Paper
    tacit: bool = False

    @model_validator(mode="after")
    def _silence_is_plain(self) -> Opinion:
        if self.tacit and self.verdict != "favourable":
            raise ValueError("a tacit opinion is `favourable`: silence recommends nothing and forbids nothing")
        return self


class Extension(_Document):
    """The authority takes as long again, once, and says why."""

    document: Paper


class Decision(_Document):
    """The authority's decision, or that none was given in time (`tacit`), with the paper that shows it."""

    reference: Name
    document: Paper
    tacit: bool = False


class Refusal(_Document):
    """The authority refuses."""

    reference: Name
    document: Paper
    reason: Prose


class Declaration(_Document):
    """The project declares that it conforms to a reference methodology."""

    document: Paper


class Agreement(_Document):
    """The agreement between the hub and whoever is responsible for the project, signed by both."""

    document: Paper


Output = Literal["table", "figure", "model", "code", "text"]
COUNTED: Final = ("table", "figure", "model")
"""Outputs that stand for groups of people, the smallest of which has to be said."""


class OutputRequest(_Document):
    """What a project would take out of the secure environment; the file stays there until it is checked."""

    kind: Output
    document: Paper
    description: Prose = Field(description="What it shows, and for whom it leaves.")
    smallest_cell: Annotated[int, Field(ge=1)] | None = Field(
        None, description="How few people anything in it stands for; for a table, a figure or a model."
    )

    @model_validator(mode="after")
    def _hides_everybody(self) -> OutputRequest:
        if (self.kind in COUNTED) != (self.smallest_cell is not None):
            raise ValueError(f"`smallest_cell` is for {', '.join(COUNTED)}, which need it: how few people one cell has")
        if self.smallest_cell is not None and self.smallest_cell < SMALL_CELL:
            raise ValueError(
                f"`smallest_cell` is {self.smallest_cell}: group or withhold what stands for fewer than {SMALL_CELL}"
            )
        return self


class OutputCheck(_Document):
    """What the check of an output came to: whether the file of this digest leaves the secure environment."""

    output: Sha256 = Field(description="The SHA-256 of the output's document.")
    decision: Literal["leaves", "stays"]
    reason: Prose


class Contribution(_Document):
    """What a project gives back to all."""

    kind: Literal["dataset", "tool", "code-list"]
    title: Line
    description: Prose
    address: Annotated[str, StringConstraints(pattern=r"^https://\S{4,500}$")] | None = None


class Closing(_Document):
    """The end of a project, with what it contributes; where that is nothing, why."""

    contributions: Annotated[tuple[Contribution, ...], Field(max_length=100)] = ()
    reason: Prose | None = None

    @model_validator(mode="after")
    def _contributes_or_says_why(self) -> Closing:
        if not self.contributions and self.reason is None:
            raise ValueError(
                "`contributions` is empty: list what the project gives back, or say why nothing in `reason`"
            )
        return self


class Act(NamedTuple):
    """Who does it, and what it says. An officer writes down what a committee or an authority has decided."""

    role: Role
    says: type[BaseModel]


ACTS: Final[Mapping[str, Act]] = {
    "announce": Act("officer", Call),
    "apply": Act("lead", Application),
    "review": Act("reviewer", Review),
    "choose": Act("officer", Reason),
    "pass-over": Act("officer", Reason),
    "request": Act("lead", Request),
    "find-incomplete": Act("officer", Incomplete),
    "find-complete": Act("officer", Nothing),
    "give-opinion": Act("officer", Opinion),
    "extend": Act("officer", Extension),
    "authorise": Act("officer", Decision),
    "refuse": Act("officer", Refusal),
    "declare": Act("lead", Declaration),
    "sign": Act("officer", Agreement),
    "open": Act("officer", Nothing),
    "narrow": Act("officer", Narrowing),
    "suspend": Act("officer", Reason),
    "resume": Act("officer", Reason),
    "revoke": Act("officer", Reason),
    "ask-output": Act("lead", OutputRequest),
    "check-output": Act("officer", OutputCheck),
    "close": Act("officer", Closing),
    "withdraw": Act("lead", Reason),
}
"""All acts in the life of a call or a project."""

OF_PROJECTS: Final = tuple(act for act in ACTS if act not in ("announce", "apply"))
"""Those that take a project on."""


def document_of(act: str, data: Any) -> Any:
    """What an act says, from a mapping. Raises DocumentError, in sentences."""
    return said_in(ACTS[act].says, act, data, _PATTERNS)


def said_in(form: type[BaseModel], act: str, data: Any, patterns: Mapping[str, str]) -> Any:
    """A document of this form from a mapping; `patterns` as `sentences` takes them. Raises DocumentError."""
    if not isinstance(data, dict):
        raise DocumentError(f"what `{act}` says is not a map")
    try:
        return form.model_validate(data)
    except ValidationError as error:
        raise DocumentError(sentences(error, patterns)) from None


_PATTERNS: Final = {
    "id": "use 2 to 41 small letters, digits and hyphens",
    "call": "use the id of a call",
    "theme": "use one of the call's themes, in small letters and hyphens",
    "themes": "name each theme in small letters and hyphens",
    "criteria": "name each criterion in small letters and hyphens",
    "scores": "name each criterion as the call does",
    "sha256": "use the SHA-256 of the document, 64 digits of 0-9 and a-f",
    "output": "use the SHA-256 of the output's document, 64 digits of 0-9 and a-f",
    "address": "use an address that begins with https://",
}
