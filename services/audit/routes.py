"""HTTP of audit: the log's entries, its signed heads, and proofs. For auditors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field
from starlette.responses import Response

from contracts.audit import LONGEST
from contracts.permits import PERMIT_ID
from runtime.http import (
    NO_NUL,
    Authorization,
    ProblemError,
    Readiness,
    create_app,
    problem_response,
    problems,
)
from runtime.messages import RetryLater
from runtime.oidc import GUARDED, Gate
from services.audit.adapters import Reader, Wanted
from services.audit.domain.proofs import Span, consistency, inclusion, nodes_of, proof


@dataclass(frozen=True, slots=True)
class Auditor:
    """Somebody who may read the log."""

    name: str


class EntryShown(BaseModel):
    """An entry of the log."""

    number: int
    line: str = Field(description="The entry as it is hashed: JSON, see `services/audit/domain/entries.py`.")
    hash: str = Field(description="The hash that is kept of it, as hexadecimal: SHA-256 of 0x00 and the line.")


class Entries(BaseModel):
    """A page of the log."""

    entries: list[EntryShown]
    next_start: int | None = Field(description="`start` of the next page; null where nothing follows now.")


class State(BaseModel):
    """Whether the log is held fast."""

    entries: int = Field(description="How many there are.")
    signed: int = Field(description="How many the newest checkpoint holds fast.")
    note: str | None = Field(description="The newest checkpoint, a signed note (C2SP tlog-checkpoint).")
    trouble: str | None = Field(description="Why it is not signed just now; null where all is well.")
    distrusted: bool = Field(description="Whether the log is not what was signed before: nothing is signed any more.")


class CheckpointShown(BaseModel):
    """A signed head of the log."""

    size: int
    note: str = Field(description="The signed note (C2SP tlog-checkpoint).")


class Checkpoints(BaseModel):
    """A page of the signed heads, by size."""

    checkpoints: list[CheckpointShown]
    next_after: int | None = Field(description="`after` of the next page; null where nothing follows now.")


class Proof(BaseModel):
    """Hashes that lead to the root of a tree of `size` entries."""

    size: int
    hashes: list[str] = Field(description="As hexadecimal, in the order of RFC 9162.")


_MOST = 2**62
_MOMENT = r"^\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d{3})?Z)?$"
_MOMENT_WORDS = "A day, or a moment in UTC such as 2026-03-01T10:00:00Z"
Start = Annotated[
    int | None, Query(ge=0, le=_MOST, description="The number of the first entry; where absent the oldest, or newest.")
]
Order = Annotated[Literal["oldest", "newest"], Query(description="Which come first.")]
Limit = Annotated[int, Query(ge=1, le=10_000, description="How many at the most.")]
OfPermit = Annotated[str | None, Query(pattern=PERMIT_ID, description="Only those under this permit.")]
OfActor = Annotated[
    str | None, Query(max_length=LONGEST, pattern=NO_NUL, description="Only what this actor did, as `officer:name`.")
]
OfAction = Annotated[str | None, Query(max_length=LONGEST, pattern=NO_NUL, description="Only acts of this name.")]
Begin = Annotated[str | None, Query(alias="from", pattern=_MOMENT, description=f"{_MOMENT_WORDS}; included.")]
End = Annotated[str | None, Query(alias="to", pattern=_MOMENT, description=f"{_MOMENT_WORDS}; not included.")]
Number = Annotated[int, Query(ge=0, le=_MOST, description="The entry's number.")]
Old = Annotated[int, Query(ge=0, le=_MOST, description="The size of the older tree.")]
Size = Annotated[int | None, Query(ge=0, le=_MOST, description="The size of the tree; all entries, if absent.")]


class Signing(Protocol):
    """How the signing goes."""

    def readiness(self) -> str | None:
        """None when it signs, otherwise why not."""

    def distrusts(self) -> bool:
        """Whether the log was not what was signed before, when it was last looked at."""


def application(ready: Readiness, reader: Reader, auditors: Gate, signing: Signing) -> FastAPI:
    """The application of this service."""
    app = create_app("Estuaire audit", "What was done with whose data under which permit, and by whom.", ready)
    router = APIRouter(prefix="/v1", responses=problems({**GUARDED, 503: _AWAY}))

    def auditor(authorization: Authorization) -> Auditor:
        return Auditor(auditors.name(authorization))

    @router.get("/entries", summary="Read the log", response_description="A page.", responses=problems({422: _FORM}))
    def entries(
        start: Start = None,
        limit: Limit = 1000,
        order: Order = "oldest",
        permit: OfPermit = None,
        actor: OfActor = None,
        action: OfAction = None,
        begin: Begin = None,
        end: End = None,
        _auditor: Auditor = Depends(auditor),
    ) -> Entries:
        """The entries from a number on, or back from it: all, or those of a permit, an actor, an action, a time."""
        wanted = Wanted(permit, actor, action, begin, end)
        if order == "oldest":
            found = reader.entries(start or 0, limit, wanted)
            following = found[-1].number + 1 if len(found) == limit else None
        else:
            found = reader.entries_back(_MOST if start is None else start, limit, wanted)
            following = found[-1].number - 1 if len(found) == limit and found[-1].number else None
        shown = [EntryShown(number=one.number, line=one.line.decode(), hash=one.hashed.hex()) for one in found]
        return Entries(entries=shown, next_start=following)

    @router.get("/state", summary="See whether the log is held fast", response_description="Its state.")
    def state(_auditor: Auditor = Depends(auditor)) -> State:
        """How much there is, how much of it is signed, and whether signing goes on. (It says what this service says of
        itself; who trusts nobody verifies the log with `estuaire audit verify`.)"""
        kept, note = reader.size(), reader.last_checkpoint()
        signed = int(note.splitlines()[1]) if note else 0
        trouble, distrusted = signing.readiness(), signing.distrusts()
        return State(entries=kept, signed=signed, note=note, trouble=trouble, distrusted=distrusted)

    @router.get(
        "/checkpoint",
        summary="Read the newest checkpoint",
        response_class=PlainTextResponse,
        response_description="The log's size and root, as a signed note (C2SP tlog-checkpoint).",
        responses=problems({404: _NOTHING}),
    )
    def checkpoint(_auditor: Auditor = Depends(auditor)) -> PlainTextResponse:
        """The head of the log as it was signed last: whoever keeps it can tell if what it holds is changed."""
        note = reader.last_checkpoint()
        if note is None:
            raise ProblemError(404, "nothing is signed", _NOTHING)
        return PlainTextResponse(note)

    @router.get(
        "/checkpoints", summary="Read all checkpoints", response_description="A page.", responses=problems({422: _FORM})
    )
    def checkpoints(after: Old = 0, limit: Limit = 1000, _auditor: Auditor = Depends(auditor)) -> Checkpoints:
        """Every head that was signed, by its size."""
        found = reader.checkpoints(after, limit)
        shown = [CheckpointShown(size=size, note=note) for size, note in found]
        return Checkpoints(checkpoints=shown, next_after=shown[-1].size if len(shown) == limit else None)

    @router.get(
        "/proofs/inclusion",
        summary="Prove that an entry is in the log",
        response_description="The proof.",
        responses=problems({422: "The tree of this size has no such entry, or the log is not so long."}),
    )
    def prove_inclusion(number: Number, size: Size = None, _auditor: Auditor = Depends(auditor)) -> Proof:
        """The hashes that lead from an entry's own to the root of a tree of so many entries."""
        total = _size(reader, size)
        if number >= total:
            raise ProblemError(422, "no such entry", f"A tree of {total} entries has numbers from 0 to {total - 1}.")
        return _proof(reader, inclusion(number, total), total)

    @router.get(
        "/proofs/consistency",
        summary="Prove that the log was only added to",
        response_description="The proof.",
        responses=problems({422: "The older tree is the larger one, or the log is not so long."}),
    )
    def prove_consistency(old: Old, size: Size = None, _auditor: Auditor = Depends(auditor)) -> Proof:
        """The hashes by which a tree of so many entries is an older one with more at its end."""
        total = _size(reader, size)
        if old > total:
            raise ProblemError(422, "not an older tree", f"`old` is at the most `size`, which is {total}.")
        return _proof(reader, consistency(old, total), total)

    @app.exception_handler(RetryLater)
    async def away(_request: Request, _error: RetryLater) -> Response:
        return problem_response(503, "try again later", _AWAY, {"Retry-After": "5"})

    app.include_router(router)
    return app


def _size(reader: Reader, size: int | None) -> int:
    there = reader.size()
    if size is not None and size > there:
        raise ProblemError(422, "the log is not so long", f"It has {there} entries.")
    return there if size is None else size


def _proof(reader: Reader, spans: Sequence[Span], size: int) -> Proof:
    hashes = proof(spans, reader.nodes(nodes_of(spans)))
    return Proof(size=size, hashes=[one.hex() for one in hashes])


_AWAY = "The database of the log does not answer."
_FORM = "A parameter is not of its form."
_NOTHING = "No checkpoint was signed yet: it is seconds after the first entry."
