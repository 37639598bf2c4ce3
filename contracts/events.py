"""What a producer sends and what a subscriber reads: CloudEvents 1.0 as pydantic models."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

RECORD_TYPES = (
    "identity.v1",
    "hospital-stay.v1",
    "hospital-act.v1",
    "claim.v1",
    "dispensation.v1",
    "diagnosis.v1",
    "observation.v1",
    "procedure.v1",
    "immunization.v1",
    "encounter.v1",
    "medication.v1",
    "report.v1",
    "device-measure.v1",
    "death.v1",
    "opposition.v1",
)
"""Every type a producer may send; each may also end in `.deleted`, which retracts the record."""

DELETED = ".deleted"
OPPOSITION = "opposition.v1"
"""A person objects to what the hub does with their data; its retraction lifts that."""
OF_RIGHTS = (OPPOSITION,)
"""What a person wants of the hub, and no data about them."""
IN_NO_TIMELINE = ("identity.v1", *OF_RIGHTS)
"""What makes no entry in a timeline, and can be in no permit."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Code = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
InseeCode = Annotated[str, StringConstraints(pattern=r"^(\d{2}|2[AB])\d{3}$")]
PartialDate = Annotated[str, StringConstraints(pattern=r"^\d{4}(-\d{2}(-\d{2})?)?$")]
IdentitySystem = Literal["ins-nir", "ins-nia", "ben-nir-psa", "nir-ano-17", "ben-nir-ano", "nir-opener", "ipp"]
IdentityStatus = Literal["qualified", "validated", "retrieved", "provisional", "fictitious"]
Sex = Literal["female", "male", "other", "unknown"]


EARLIEST = dt.datetime(1850, 1, 1, tzinfo=dt.UTC)
LATEST = dt.datetime(2200, 1, 1, tzinfo=dt.UTC)
"""An event is not before the one, and is before the other: 9999-12-31 says "no end", and is no time of anything."""


def _in_range(time: dt.datetime) -> dt.datetime:
    if not EARLIEST <= time < LATEST:
        raise ValueError("not within 1850 to 2199 (UTC): send when it happened, and no date that stands for none")
    return time


class _Edge(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


class Identifier(_Edge):
    """One number a source knows a person by."""

    system: IdentitySystem
    value: Code
    assigner: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = Field(
        None, description="Who gives the number out; required for `ipp`."
    )
    rank: Annotated[int, Field(ge=0, le=99)] | None = Field(None, description="Birth rank, for twins.")
    scheme: Code | None = Field(None, description="The numbering scheme that `rank` counts within.")

    @model_validator(mode="after")
    def _local_numbers_name_their_assigner(self) -> Identifier:
        if self.system == "ipp" and self.assigner is None:
            raise ValueError("an ipp needs its assigner, e.g. the hospital's FINESS number")
        return self


class Residence(_Edge):
    """Where a person lives: a weak trait, used for linkage only."""

    address: Text | None = None
    city: Text | None = None
    postcode: Code | None = None
    commune: InseeCode | None = None


class Identity(_Edge):
    """Whatever a source knows about who a record is about; every field may be absent."""

    identifiers: Annotated[tuple[Identifier, ...], Field(max_length=20)] = ()
    identity_status: IdentityStatus = "provisional"
    birth_family_name: Text | None = None
    used_family_name: Text | None = None
    given_names: Annotated[tuple[Text, ...], Field(max_length=20)] = ()
    sex: Sex | None = None
    birth_date: PartialDate | None = None
    birth_place: InseeCode | None = None
    residence: Residence | None = None

    @model_validator(mode="after")
    def _birth_date_is_a_date(self) -> Identity:
        if self.birth_date is not None:
            year, month, day = (*(int(part) for part in self.birth_date.split("-")), 1, 1)[:3]
            try:
                dt.date(year, month, day)
            except ValueError:
                raise ValueError("birth_date is not a date of the calendar (YYYY, YYYY-MM, YYYY-MM-DD)") from None
        return self


class EventData(_Edge):
    """Who the record is about, and the record itself (absent in a retraction and in `identity.v1`)."""

    identity: Identity = Identity()
    record: dict[str, Any] | None = None


class Event(_Edge):
    """A producer's CloudEvent. `source` and `id` together name the record for ever."""

    specversion: Literal["1.0"]
    id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    source: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    type: Annotated[str, StringConstraints(max_length=64)]
    time: Annotated[AwareDatetime, AfterValidator(_in_range)] | None = Field(
        description="When it happened. null says that the source does not know: the moment of arrival is taken then."
    )
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: Annotated[str, StringConstraints(max_length=256)] | None = None
    subject: Annotated[str, StringConstraints(max_length=256)] | None = Field(
        None, description="Accepted and dropped: it may identify a person."
    )
    traceparent: Annotated[str, StringConstraints(pattern=r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")] | None = None
    tracestate: Annotated[str, StringConstraints(max_length=512)] | None = None
    correction: bool = Field(False, description="Replaces the record of the same source and id.")
    version: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None, description="Orders the states of one record; without it, arrival does."
    )
    data: EventData = EventData()

    @model_validator(mode="after")
    def _type_is_known(self) -> Event:
        kind = self.type.removesuffix(DELETED)
        if kind not in RECORD_TYPES:
            raise ValueError(f"type is not one of {', '.join(RECORD_TYPES)} (or one of them with {DELETED})")
        if self.deleted or kind == "identity.v1":
            return self
        if not self.data.record:
            raise ValueError(f"data.record is missing: a {kind} needs its fields there")
        return self

    @property
    def deleted(self) -> bool:
        """Whether this event retracts its record."""
        return self.type.endswith(DELETED)

    @property
    def record_type(self) -> str:
        """The type of the record, without the retraction's suffix."""
        return self.type.removesuffix(DELETED)


class Objection(_Edge):
    """What `POST /v1/oppositions` takes: a person objects, or no longer does (`made` is false).

    `id` is the opposition's own, by which it is lifted or made again; of several states the last holds, or the one
    with the highest `version`. `scope` is `all` (every use beyond the person's care) or `source` (the use of what this
    source has sent).
    """

    id: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    identity: Identity = Identity()
    scope: Literal["all", "source"] = "all"
    made: bool = True
    version: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None


class Accepted(BaseModel):
    """One event the hub has kept."""

    source: str
    id: str
    event_id: str = Field(description="The hub's own id: a keyed hash of source and id.")


class Rejected(BaseModel):
    """One event the hub has refused, by its position in the request; of a file, also by file and line."""

    index: int
    file: str | None = Field(None, description="The part of the format, with a number where several files are of it.")
    line: int | None = Field(None, description="Where the record begins in that file, counted from 1.")
    reason: str
    detail: str


class Receipt(BaseModel):
    """The answer to a batch: what is kept and what is refused, and why."""

    accepted: list[Accepted]
    rejected: list[Rejected]
    not_taken: dict[str, int] = Field(default_factory=dict, description="FHIR resource types passed over, with counts.")
    removed: int = Field(0, description="Values that no allow-list names, removed before anything was kept.")


ControlType = Literal["patient.merged", "patient.split", "record.withdrawn", "view.reset"]


class ViewEvent(BaseModel):
    """A message of `view-<permit>`: a record under the project's own ids, or a control event.

    `id` is HMAC(K_permit, event id), `subject` HMAC(K_permit, patient); `sequence` increases strictly for a
    subject. `data` has the `record`, the `demographics`, `undated` (true) where the time is that of arrival, and
    `after_death` (true) where the record is later than the death of its person and the permit releases the death.
    Control events carry in `data` what they name: `record` (the id withdrawn), `survivor`, `retired`. `view.reset`
    has no subject: nothing holds any more that came in its partition before, and what does is published again.
    """

    model_config = ConfigDict(extra="ignore")

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str
    type: str
    subject: str | None = None
    time: str | None = Field(None, description="At the permit's precision.")
    datacontenttype: Literal["application/json"] = "application/json"
    sequence: int
    traceparent: str | None = None
    data: dict[str, Any]
