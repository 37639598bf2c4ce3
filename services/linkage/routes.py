"""HTTP of linkage: where a record is in the index, and how much the index holds. No token leaves it."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from fastapi import APIRouter, FastAPI, Path, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from runtime.http import Authorization, Bearers, ProblemError, Readiness, create_app, problem_response, problems
from runtime.messages import RetryLater
from services.linkage.adapters import Lookup, RecordStatus
from services.linkage.domain.decide import METHODS
from services.linkage.domain.states import State
from services.linkage.handlers import PSEUDONYMISED, event_key


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


class LinkedRecord(BaseModel):
    """Where a record stands: its patient, how it came to it, and its states, the current one first."""

    event_id: str
    source: str
    patient_id: str
    revision: str
    linked_at: dt.datetime
    coordinates: Coordinates
    method: str = Field(description="How the record's subject came to its patient, in words.")
    rule_version: str | None
    states: list[RecordState]


EventId = Annotated[str, Path(description="The hub's own id of the record: `event_id` of the receipt.")]


class Counts(BaseModel):
    """How much the index holds."""

    subjects: int
    patients: int
    records: int
    unlinkable: int


def application(ready: Readiness, lookup: Lookup, operators: Bearers) -> FastAPI:
    """The application of this service."""
    app = create_app("Estuaire linkage", "Which subjects are which patient, and where a record is.", ready)
    router = APIRouter(
        prefix="/v1", responses=problems({401: "No operator's token.", 503: "The patient index does not answer."})
    )

    @router.get(
        "/records/{event_id}",
        summary="Trace a record",
        response_description="Where the record stands.",
        responses=problems({404: "No record with this event id has been linked."}),
    )
    def record(event_id: EventId, authorization: Authorization) -> LinkedRecord:
        """Where a record is in the index: its patient, how it came to it, and every accepted state."""
        operators.name(authorization)
        status = lookup.record(event_key(event_id))
        if status is None:
            raise ProblemError(404, "no such record", "No record with this event id has been linked.")
        return _linked_record(event_id, status)

    @router.get("/counts", summary="Count the index", response_description="How much the index holds.")
    def counts(authorization: Authorization) -> Counts:
        """How many subjects, patients and records the index holds, and how many subjects nothing could be linked by."""
        operators.name(authorization)
        return Counts(**lookup.counts()._asdict())

    @app.exception_handler(RetryLater)
    async def away(_request: Request, _error: RetryLater) -> Response:
        return problem_response(503, "try again later", "The patient index does not answer.", {"Retry-After": "5"})

    app.include_router(router)
    return app


def _linked_record(event_id: str, status: RecordStatus) -> LinkedRecord:
    states = [_record_state(state, linked_at) for state, linked_at in status.states]
    current = states[0]
    return LinkedRecord(
        event_id=event_id,
        source=status.source,
        patient_id=status.patient.hex(),
        revision=current.revision,
        linked_at=current.linked_at,
        coordinates=current.coordinates,
        method=METHODS.get(status.method, status.method) if status.method else _ALONE,
        rule_version=status.rule_version,
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


_ALONE = "no other identity is linked to this one"
