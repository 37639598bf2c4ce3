"""HTTP of linkage: where a record is in the index, what waits for a steward, which rules decide. No token leaves it.

(A subject's or patient's id is a pseudonym of the hub's own, by which nothing can be searched.)
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from contracts import audit, messages
from contracts.messages import RulesSwitched
from runtime.http import (
    NO_NUL,
    Authorization,
    ProblemError,
    Readiness,
    create_app,
    problem_response,
    problems,
)
from runtime.kafka import BrokerAway, Publisher
from runtime.messages import RetryLater
from runtime.oidc import GUARDED, Gate
from services.linkage.domain.rules import RuleVersion, to_bytes
from services.linkage.domain.states import State
from services.linkage.handlers import PSEUDONYMISED, RULES_SWITCHED, event_key
from services.linkage.lookup import Lookup, RecordStatus
from services.linkage.review_routes import PairEvidence, Steward, add_review_routes, evidence_of
from services.linkage.stewardship import Stewardship

Clock = Callable[[], dt.datetime]


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who may trace records and see counts."""

    name: str


@dataclass(frozen=True, slots=True)
class Doors:
    """Who may come in as what."""

    operators: Gate
    stewards: Gate

    def operator(self, authorization: Authorization) -> Operator:
        return Operator(self.operators.name(authorization))

    def steward(self, authorization: Authorization) -> Steward:
        return Steward(self.stewards.name(authorization))


class Coordinates(BaseModel):
    """Where the message was read."""

    topic: str
    partition: int
    offset: int


class RecordState(BaseModel):
    """One accepted state of a record."""

    revision: str
    type: str
    retracted: bool
    correction: bool
    linked_at: dt.datetime
    coordinates: Coordinates


class RecordLink(PairEvidence):
    """How a record's identity came to its patient: what decided on it and another identity of that patient. Who the
    other is, stewards see."""

    stewarded: bool = Field(description="Whether stewards have put the two together: then that decides.")
    decided_at: dt.datetime


class LinkedRecord(BaseModel):
    """Where a record stands: its patient, how it came to it, and its states, the current one first."""

    event_id: str
    source: str
    subject_id: str = Field(description="The identity it came with; two of them make the address of a pair.")
    patient_id: str
    revision: str
    linked_at: dt.datetime
    coordinates: Coordinates
    link: RecordLink | None = Field(description="What decides most; null where the patient has no other identity.")
    states: list[RecordState]


DEFINITION = (
    "Of the distinct identities of this source that current records are about and that have something to be linked by,"
    " the share whose patient has an identity of another source, too."
)
EventId = Annotated[str, Path(description="The hub's own id of the record: `event_id` of the receipt.")]


class RuleVersions(BaseModel):
    """The rule version that decides, and all that are kept, the one kept last first."""

    active: str
    operator: str | None = Field(description="Who switched it on; null where the hub began with it.")
    switched_at: dt.datetime | None
    searched: float = Field(description="The share of all subjects searched again under it, from 0 to 1.")
    kept: list[KeptVersion]


class KeptVersion(BaseModel):
    """A rule version; it never changes."""

    name: str
    kept_at: dt.datetime


class RuleContent(BaseModel):
    """What a rule version decides by: see `services/linkage/domain/rules.py` and `scoring.py` for each field."""

    name: str
    thresholds: dict[str, float] = Field(description="Bits from which on a pair links, and limits.")
    weights: dict[str, Any] = Field(description="Probabilities of each level of each trait, and prior odds.")
    frequent_names: int = Field(description="How many names it knows as frequent.")
    too_common: int = Field(description="How many tokens decide nothing from the start.")


class Switch(BaseModel):
    """Which version is to decide."""

    model_config = ConfigDict(extra="forbid")

    name: str


class Switched(BaseModel):
    """The version decides from now on; subjects are searched again under it, records first."""

    name: str
    switched_at: dt.datetime


VersionName = Annotated[str, Path(description="The version's name, as `GET /v1/rules` lists it.")]


class Counts(BaseModel):
    """How much the index holds."""

    subjects: int
    patients: int
    records: int
    unlinkable: int


class LinkageRate(BaseModel):
    """How far the identities of a source are linked, now."""

    source: str
    subjects: int = Field(description="Distinct identities of the source that current records are about; estimated.")
    share: float = Field(description="About the share of them that was looked at, from 0 to 1; 1 is all.")
    sampled: int = Field(description="The identities that the rest counts.")
    unlinkable: int = Field(description="Of these, those that have nothing to be linked by.")
    with_another_identity: int = Field(description="Those whose patient has another identity, of any source.")
    with_another_source: int = Field(description="Those whose patient has an identity of another source.")
    rate: float | None = Field(description="The linkage rate, as `definition` says; null without such identities.")
    definition: str = DEFINITION


OfSource = Annotated[str, Query(alias="source", max_length=256, pattern=NO_NUL, description="The producer's source.")]


def application(
    ready: Readiness,
    lookup: Lookup,
    stewardship: Stewardship,
    publisher: Publisher,
    doors: Doors,
    seal: Callable[[bytes, bytes], bytes],
    clock: Clock = lambda: dt.datetime.now(dt.UTC),
) -> FastAPI:
    """The application of this service."""
    app = create_app("Estuaire linkage", "Which subjects are which patient, and where a record is.", ready)
    router = APIRouter(prefix="/v1", responses=problems({**GUARDED, 503: _AWAY}))

    @router.get(
        "/records/{event_id}",
        summary="Trace a record",
        response_description="Where the record stands.",
        responses=problems({404: "No record with this event id has been linked."}),
    )
    def record(event_id: EventId, operator: Operator = Depends(doors.operator)) -> LinkedRecord:
        """Where a record is in the index: its patient, how it came to it, and every accepted state. The audit log has
        that it was asked before the answer comes."""
        status = lookup.record(event_key(event_id))
        if status is None:
            raise ProblemError(404, "no such record", "No record with this event id has been linked.")
        by = audit.actor("operator", operator.name)
        told = audit.leaf("record-traced", by, clock(), ids=(event_id,), about="linkage")
        publisher.publish(audit.AUDIT, by, messages.encode(told))
        return _linked_record(event_id, status)

    @router.get("/counts", summary="Count the index", response_description="How much the index holds.")
    def counts(_operator: Operator = Depends(doors.operator)) -> Counts:
        """How many subjects, patients and records the index holds, and how many subjects nothing could be linked by."""
        return Counts(**lookup.counts()._asdict())

    @router.get(
        "/linkage",
        summary="Ask how far a source is linked",
        response_description="The linkage rate.",
        responses=problems({422: "No source is named."}),
    )
    def linkage(source: OfSource, _operator: Operator = Depends(doors.operator)) -> LinkageRate:
        """The linkage rate of a source as the index has it now, whatever came first: of a large source from a
        random sample of its identities, of any other from all."""
        found = lookup.linked_source(source)
        linkable = found.sampled - found.unlinkable
        return LinkageRate(
            source=source,
            subjects=round(found.sampled / found.share),
            share=round(found.share, 4),
            sampled=found.sampled,
            unlinkable=found.unlinkable,
            with_another_identity=found.shared,
            with_another_source=found.elsewhere,
            rate=round(found.elsewhere / linkable, 4) if linkable else None,
        )

    @router.get("/rules", summary="List the rule versions", response_description="The versions.")
    def versions(_operator: Operator = Depends(doors.operator)) -> RuleVersions:
        """The rule version that decides, how far the index has followed it, and all versions that are kept."""
        found = lookup.versions()
        return RuleVersions(
            active=found.active,
            operator=found.operator or None,
            switched_at=found.switched_at,
            searched=round(found.searched, 4),
            kept=[KeptVersion(name=name, kept_at=kept_at) for name, kept_at in found.kept],
        )

    @router.get(
        "/rules/{name}",
        summary="Read a rule version",
        response_description="The version.",
        responses=problems({404: _NO_VERSION}),
    )
    def version(name: VersionName, _operator: Operator = Depends(doors.operator)) -> RuleContent:
        """A version's thresholds, limits and probabilities. Of its tokens only how many there are."""
        rules = _known(lookup, name)
        fields = msgspec.to_builtins(rules)
        weights = fields.pop("weights")
        del fields["name"], fields["too_common"], weights["frequent_names"]
        return RuleContent(
            name=rules.name,
            thresholds=fields,
            weights=weights,
            frequent_names=len(rules.weights.frequent_names),
            too_common=len(rules.too_common),
        )

    @router.post(
        "/rules",
        status_code=202,
        summary="Switch to a rule version",
        response_description="The switch is kept.",
        responses=problems({404: _NO_VERSION, 422: "The body names no rule version."}),
    )
    def switch(body: Switch, operator: Operator = Depends(doors.operator)) -> Switched:
        """Let a version that is kept decide from now on. The answer comes when the switch is kept for good; every
        subject is then searched again under it, after the records that wait. `estuaire rules try` says before what
        that would change."""
        rules = _known(lookup, body.name)
        now = int(clock().timestamp() * 1000)
        sealed = seal(to_bytes(rules), messages.rules_associated(rules.name))
        publisher.publish(
            RULES_SWITCHED, "rules", messages.encode(RulesSwitched(rules.name, sealed, operator.name, now))
        )
        return Switched(name=rules.name, switched_at=dt.datetime.fromtimestamp(now / 1000, dt.UTC))

    @app.exception_handler(RetryLater)
    async def away(_request: Request, _error: RetryLater) -> Response:
        return problem_response(503, "try again later", "The patient index does not answer.", {"Retry-After": "5"})

    @app.exception_handler(BrokerAway)
    async def broker_away(_request: Request, _error: BrokerAway) -> Response:
        detail = "The broker has not acknowledged it: send it again later."
        return problem_response(503, "the broker does not answer", detail, {"Retry-After": "5"})

    add_review_routes(router, lookup, stewardship, doors.steward)
    app.include_router(router)
    return app


def _known(lookup: Lookup, name: str) -> RuleVersion:
    rules = lookup.version(name)
    if rules is None:
        raise ProblemError(404, "no such rule version", f"{_NO_VERSION} `estuaire rules list` shows those that are.")
    return rules


def _linked_record(event_id: str, status: RecordStatus) -> LinkedRecord:
    states = [_record_state(state, linked_at) for state, linked_at in status.states]
    current, link = states[0], status.link
    return LinkedRecord(
        event_id=event_id,
        source=status.source,
        subject_id=status.subject.hex(),
        patient_id=status.patient.hex(),
        revision=current.revision,
        linked_at=current.linked_at,
        coordinates=current.coordinates,
        link=RecordLink(stewarded=link.stewarded, decided_at=link.decided_at, **evidence_of(link.review))
        if link
        else None,
        states=states,
    )


def _record_state(state: State, linked_at: dt.datetime) -> RecordState:
    at = state.coordinates
    topic = f"{PSEUDONYMISED}-backfill" if at.backfill else PSEUDONYMISED
    return RecordState(
        revision=state.revision,
        type=state.type,
        retracted=state.retracted,
        correction=state.correction,
        linked_at=linked_at,
        coordinates=Coordinates(topic=topic, partition=at.partition, offset=at.offset),
    )


_NO_VERSION = "No rule version of this name is kept."
_AWAY = "The patient index or the broker does not answer."
