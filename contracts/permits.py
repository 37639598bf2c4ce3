"""A data permit: what may leave, about whom, how precisely, to whom and until when. Whatever it does not say is denied.

Dates are calendar days in UTC, and both ends of a range are included.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from contracts.events import IN_NO_TIMELINE, OF_RIGHTS, RECORD_TYPES, InseeCode, Sex

PERMIT_ID = r"^[a-z0-9][a-z0-9-]{1,40}$"
EVERYTHING = "*"
IDENTITY = "identity.v1"
DEATH = "death.v1"
SMALL_CELL = 11
"""Fewer people than this are a small cell."""

PermitId = Annotated[str, StringConstraints(pattern=PERMIT_ID)]
Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Prose = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4000)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=256)]
FieldPath = Annotated[str, StringConstraints(pattern=r"^(\*|[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*)$", max_length=200)]
Department = Annotated[str, StringConstraints(pattern=r"^(\d{2}|2[AB]|9[78]\d)$")]
CodePrefix = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.]{2,18}$")]
DemographicName = Literal["sex", "birth_year", "birth_month", "department", "commune", "deceased"]


class PermitError(ValueError):
    """The permit cannot be granted as it is written. One sentence for each thing to correct."""


class _Clause(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, hide_input_in_errors=True)


class Period(_Clause):
    """Event times that may leave; an absent end is open."""

    start: dt.date | None = Field(None, alias="from")
    end: dt.date | None = Field(None, alias="to")

    @model_validator(mode="after")
    def _is_in_order(self) -> Period:
        if self.start and self.end and self.end < self.start:
            raise ValueError("`to` is before `from`: exchange the two dates")
        return self


class _Range(_Clause):
    start: int | None = Field(None, alias="from")
    end: int | None = Field(None, alias="to")

    @model_validator(mode="after")
    def _is_in_order(self) -> _Range:
        if self.start is None and self.end is None:
            raise ValueError("give `from`, `to` or both")
        if self.start is not None and self.end is not None and self.end < self.start:
            raise ValueError("`to` is before `from`: exchange the two")
        return self

    def includes(self, value: int | None) -> bool:
        """Whether a value is within; one that is not known is not."""
        if value is None:
            return False
        return (self.start is None or value >= self.start) and (self.end is None or value <= self.end)


class Years(_Range):
    """A range of birth years; an absent end is open."""

    start: Annotated[int, Field(ge=1850, le=2200)] | None = Field(None, alias="from")
    end: Annotated[int, Field(ge=1850, le=2200)] | None = Field(None, alias="to")


class Ages(_Range):
    """A range of ages in whole years; an absent end is open."""

    start: Annotated[int, Field(ge=0, le=150)] | None = Field(None, alias="from")
    end: Annotated[int, Field(ge=0, le=150)] | None = Field(None, alias="to")


class Population(_Clause):
    """Whom the permit is about: a person must meet every criterion that is given, and an unknown value meets none."""

    sex: tuple[Sex, ...] | None = None
    birth_year: Years | None = None
    age: Ages | None = Field(
        None,
        description="What leaves of a person is of the years in which they reach these ages: year less birth year."
        " A record whose time its source did not state has none.",
    )
    departments: tuple[Department, ...] | None = Field(None, description="Lives in one of these, or of `communes`.")
    communes: tuple[InseeCode, ...] | None = None
    diagnoses: tuple[CodePrefix, ...] | None = Field(
        None, description="Has a diagnosis whose code starts with one of these, dots left aside."
    )
    cohort: Name | None = Field(None, description="Has a record from this producer, a registry for one, of any type.")

    @field_validator("cohort")
    @classmethod
    def _cohort_is_one_producer(cls, cohort: str | None) -> str | None:
        if cohort == EVERYTHING:
            raise ValueError("name the producer whose people are meant; leave it out if any producer's are")
        return cohort

    @model_validator(mode="after")
    def _says_something(self) -> Population:
        given = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        if not given:
            raise ValueError("it names no criterion: leave `population` out if the permit is about everybody")
        empty = [name for name, value in given.items() if value == ()]
        if empty:
            raise ValueError(f"{', '.join(empty)}: the list is empty, so nobody would meet it; fill it or leave it out")
        return self


class Precision(_Clause):
    """How precisely times, sources and places leave."""

    time: Literal["exact", "day", "month", "year"] = "day"
    source: Literal["hub", "exact"] = "hub"
    place: Literal["department", "commune"] = "department"


Every = Literal["week", "month", "quarter"]
Delivery = Literal["hourly", "daily"]


class Indicators(_Clause):
    """How many people the view has, by period, area and diagnosis, with small cells withheld."""

    every: Every = Field(description="The period of the cells, and how often they are released: when one is over.")


class Permit(_Clause):
    """One permit. Default deny: a type that `fields` does not list releases that it happened, and no field."""

    id: PermitId
    title: Line
    purpose: Prose
    sources: Annotated[tuple[Name, ...], Field(min_length=1, description='Producers, or ["*"] for all of them.')]
    types: Annotated[tuple[str, ...], Field(min_length=1)]
    fields: dict[str, tuple[FieldPath, ...]] = Field(
        default_factory=dict, description='For each type its fields, as names or dotted paths, or ["*"].'
    )
    demographics: tuple[DemographicName, ...] = ()
    population: Population | None = Field(None, description="About whom; everybody if absent.")
    period: Period = Field(default_factory=lambda: Period())
    history_years: Annotated[int, Field(ge=0, le=150)] | None = Field(
        None,
        description="How many calendar years of history leave besides the year (UTC) in which the permit is granted;"
        " all of it if absent.",
    )
    precision: Precision = Precision()
    potential_identifiers: Annotated[int, Field(ge=0, le=5)] | None = Field(
        None, description="How many of the data by which somebody could be found may leave together; one if absent."
    )
    delivery: Delivery | None = Field(
        None, description="When what is new reaches the view: with all that an hour or a day has brought, else at once."
    )
    indicators: Indicators | None = Field(None, description="Counts of people to release; none if absent.")
    opposition_exemption: Prose | None = Field(
        None, description="The legal ground on which it is not bound by people's oppositions; bound by them if absent."
    )
    environment: Line | None = Field(None, description="The secure environment that rows may go to, and no further.")
    expires: dt.date = Field(description="The last day on which anything leaves.")
    subscribers: Annotated[tuple[Name, ...], Field(min_length=1)]

    @field_validator("types")
    @classmethod
    def _types_are_known(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        if IDENTITY in types:
            raise ValueError(f"{IDENTITY} makes no entry in a timeline; `demographics` says what is known of a person")
        for one in OF_RIGHTS:
            if one in types:
                raise ValueError(f"{one} makes no entry in a timeline: who wants what of the hub is nobody's to know")
        unknown = [one for one in types if one not in RECORD_TYPES]
        if unknown:
            known = ", ".join(one for one in RECORD_TYPES if one not in IN_NO_TIMELINE)
            raise ValueError(f"{', '.join(unknown)} is not a type of record; the types are {known}")
        return types

    @model_validator(mode="after")
    def _clauses_agree(self) -> Permit:
        idle = [one for one in self.fields if one not in self.types]
        if idle:
            raise ValueError(f"`fields` releases fields of {', '.join(idle)}, which `types` does not list")
        if EVERYTHING in self.sources and len(self.sources) > 1:
            raise ValueError('`sources` names producers beside "*": keep one or the other')
        if "commune" in self.demographics and self.precision.place != "commune":
            raise ValueError(
                "`demographics` releases the commune, but `precision.place` is department:"
                " ask for the department instead, or set `precision.place` to commune"
            )
        if self.indicators and self.precision.time in _TOO_COARSE[self.indicators.every]:
            raise ValueError(
                f"`indicators` counts by {self.indicators.every}, but `precision.time` is {self.precision.time}, which"
                " does not tell the period: ask for a more precise time, or count by a longer period"
            )
        return self

    @property
    def cohort(self) -> str | None:
        """The producer that has to know whom the permit is about, if one has to."""
        return self.population.cohort if self.population else None

    def all_sources(self) -> tuple[str, ...]:
        """Whose data it uses: those whose records leave, and the one that draws the cohort."""
        return self.sources if self.cohort is None else (*self.sources, self.cohort)

    def definition(self) -> bytes:
        """The permit as JSON, always in the same form."""
        return self.model_dump_json(by_alias=True, exclude_none=True).encode()


_TOO_COARSE = {"week": ("month", "year"), "month": ("year",), "quarter": ("year",)}


def normal_code(code: str) -> str:
    """A code as it is compared: capitals without dots, so that `i50.1` and `I501` are one."""
    return code.replace(".", "").upper()


def potential_identifiers(permit: Permit) -> list[str]:
    """Which of the data by which somebody could be found leave under a permit, wherever they stand.

    The five `identifiants potentiels` of the SNDS. Every entry of a view has a time, at the permit's precision.
    """
    to_the_day = permit.precision.time in ("exact", "day")
    to_the_commune = permit.precision.place == "commune"
    of_death = permit.fields.get(DEATH, ())
    found = {
        "birth month": "birth_month" in permit.demographics,
        "commune of residence": "commune" in permit.demographics,
        "day of care": to_the_day and any(one != DEATH for one in permit.types),
        "day of death": to_the_day and (DEATH in permit.types or "deceased" in permit.demographics),
        "commune of death": to_the_commune and any(one in (EVERYTHING, "commune") for one in of_death),
    }
    return [name for name, leaves in found.items() if leaves]


def check_grantable(permit: Permit) -> None:
    """Whether the permit may be granted as it is now, beyond being readable. Raises PermitError."""
    found = potential_identifiers(permit)
    if len(found) > (most := _most(permit)):
        raise PermitError(
            f"potential_identifiers: it releases {', '.join(found)}, by which somebody could be found, and {most} may"
            f" leave together: release fewer of them, lower `precision`, or ask for {len(found)}"
        )


def read_permit(text: str | bytes) -> Permit:
    """A permit from YAML or JSON. Raises PermitError."""
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        raise PermitError(f"the permit is neither YAML nor JSON{place}") from None
    return permit_from(data)


def permit_from(data: Any) -> Permit:
    """A permit from a mapping. Raises PermitError."""
    if not isinstance(data, dict):
        raise PermitError("the permit is not a map of clauses such as `id`, `types`, `fields`, `expires`")
    try:
        return Permit.model_validate(data)
    except ValidationError as error:
        raise PermitError(sentences(error, _PATTERNS)) from None


def sentences(error: ValidationError, patterns: Mapping[str, str]) -> str:
    """What to correct, a sentence each; `patterns` says of fields by name what their values look like."""
    said = (_sentence(one["loc"], one["type"], one["msg"], patterns) for one in error.errors(include_input=False))
    return "; ".join(dict.fromkeys(said))


def widened(new: Permit, old: Permit) -> list[str]:
    """The clauses by which a permit would allow something that another does not; none if it is narrower, or equal.

    Whether a clause is narrower is asked of each by itself. `title` may change, `id`, `purpose` and `environment` not.
    """
    narrower = {
        "id": new.id == old.id,
        "purpose": new.purpose == old.purpose,
        "environment": new.environment == old.environment,
        "sources": EVERYTHING in old.sources or set(new.sources) <= set(old.sources),
        "types": set(new.types) <= set(old.types),
        "fields": all(
            any(_covers(wide, path) for wide in old.fields.get(kind, ()))
            for kind, paths in new.fields.items()
            for path in paths
        ),
        "demographics": set(new.demographics) <= set(old.demographics)
        or ("commune" in old.demographics and set(new.demographics) <= {*old.demographics, "department"}),
        "population": old.population is None
        or (new.population is not None and _meets_more(new.population, old.population)),
        "period": _within(new.period, old.period),
        "history_years": old.history_years is None
        or (new.history_years is not None and new.history_years <= old.history_years),
        "delivery": _DELIVERIES.index(new.delivery) >= _DELIVERIES.index(old.delivery),
        "precision": all(
            scale.index(getattr(new.precision, name)) >= scale.index(getattr(old.precision, name))
            for name, scale in _SCALES.items()
        ),
        "potential_identifiers": _most(new) <= _most(old),
        "indicators": new.indicators in (None, old.indicators),
        "opposition_exemption": new.opposition_exemption in (None, old.opposition_exemption),
        "expires": new.expires <= old.expires,
        "subscribers": set(new.subscribers) <= set(old.subscribers),
    }
    return [name for name, is_narrower in narrower.items() if not is_narrower]


_DELIVERIES = (None, "hourly", "daily")
_SCALES: dict[str, tuple[str, ...]] = {
    "time": ("exact", "day", "month", "year"),
    "source": ("exact", "hub"),
    "place": ("commune", "department"),
}
"""From the most precise on."""


def _covers(wide: str, path: str) -> bool:
    return wide in (EVERYTHING, path) or path.startswith(f"{wide}.")


def _within(new: Any, old: Any) -> bool:
    """Whether a range (`start`, `end`), whose absent ends are open, is within another of its kind."""
    begins = old.start is None or (new.start is not None and new.start >= old.start)
    return begins and (old.end is None or (new.end is not None and new.end <= old.end))


def _meets_more(new: Population, old: Population) -> bool:
    """Whether whoever is in one population is in another, as far as their criteria tell."""
    if old.sex is not None and not (new.sex is not None and set(new.sex) <= set(old.sex)):
        return False
    for asked_for, allowed in ((new.birth_year, old.birth_year), (new.age, old.age)):
        if allowed is not None and (asked_for is None or not _within(asked_for, allowed)):
            return False
    if old.cohort not in (None, new.cohort):
        return False
    if old.diagnoses is not None:
        prefixes = tuple(map(normal_code, old.diagnoses))
        asked = [normal_code(one) for one in new.diagnoses or ()]
        if not asked or not all(one.startswith(prefixes) for one in asked):
            return False
    return _lives_within(new, old)


def _lives_within(new: Population, old: Population) -> bool:
    """Departments and communes are one criterion: somebody lives in one of all these."""
    if old.departments is None and old.communes is None:
        return True
    if new.departments is None and new.communes is None:
        return False
    departments = tuple(old.departments or ())
    communes = all(one in (old.communes or ()) or one.startswith(departments) for one in new.communes or ())
    return communes and set(new.departments or ()) <= set(departments)


def _most(permit: Permit) -> int:
    """How many potential identifiers may leave together."""
    return 1 if permit.potential_identifiers is None else permit.potential_identifiers


_SENTENCES = {
    "missing": "this clause is missing",
    "extra_forbidden": "no clause has this name; look for a spelling mistake",
}
_PATTERNS = {
    "id": "use 2 to 41 small letters, digits and hyphens",
    "fields": 'use field names such as `code` or `code.coding`, or "*" for all',
    "departments": "use department numbers such as 35, 2A or 974",
    "communes": "use INSEE codes of five characters such as 35238",
    "diagnoses": "use the first 3 characters of a code or more, such as I50",
}


def _sentence(place: tuple[int | str, ...], kind: str, message: str, patterns: Mapping[str, str]) -> str:
    names = [str(one) for one in place]
    text = _SENTENCES.get(kind, message.removeprefix("Value error, "))
    if kind == "string_pattern_mismatch":
        text = next((hint for name, hint in patterns.items() if name in names), text)
    return f"{'.'.join(names)}: {text}" if names else text
