"""The HTTP of a service's dead letters: for operators, what waits and why, and some of it sent round again."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Annotated, Final

from fastapi import Body, Depends, FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field

from runtime.dead_letters import MOST, Busy, DeadLetters, Letter, Places
from runtime.http import NO_NUL, Authorization, ProblemError, problems
from runtime.kafka import BrokerAway
from runtime.oidc import GUARDED


class LetterShown(BaseModel):
    """A dead letter: where it is, and why it is one. What is in it, nobody can see."""

    topic: str
    partition: int
    offset: int
    at: dt.datetime = Field(description="When it became one.")
    reason: str
    detail: str = Field(description="What is wrong, and in which field; no value.")
    source: str
    type: str
    event_id: str = Field(description="The hub's id of the record; empty where it is about none.")
    trace: str = Field(description="The trace that ends in it; empty if there is none.")


class LetterCount(BaseModel):
    """Letters of one topic, reason and source."""

    topic: str
    reason: str
    source: str
    count: int
    first: dt.datetime
    last: dt.datetime


class DeadLettersShown(BaseModel):
    """What waits among the dead letters of this service's topics."""

    topics: list[str]
    waiting: int = Field(description=f"How many wait, of the {MOST:,} newest.")
    groups: list[LetterCount]
    letters: list[LetterShown] = Field(description="The newest of those that were asked for, the newest first.")


class Replay(BaseModel):
    """What to send round again: the oldest that wait."""

    topic: Annotated[str, Field(max_length=200, description="One of `topics`.")]
    most: Annotated[int, Field(ge=1, le=1000, description="At the most so many.")] = 100


class SentTo(BaseModel):
    """Where messages went that were sent round again."""

    model_config = ConfigDict(from_attributes=True)

    topic: Annotated[str, Field(max_length=200)]
    partition: Annotated[int, Field(ge=0, lt=2**31)]
    offsets: Annotated[list[Annotated[int, Field(ge=0, lt=2**63)]], Field(max_length=1000)]


class Replayed(BaseModel):
    """How many went round again. What is still wrong comes back as a new letter, with a new reason."""

    topic: str
    replayed: int
    sent_to: list[SentTo] = Field(description="To be asked with what became of them.")


class Round(BaseModel):
    """Messages that were sent round again, as that was answered."""

    sent_to: Annotated[list[SentTo], Field(max_length=1000)]


class RoundShown(BaseModel):
    """What became of messages that were sent round again, as far as it is known."""

    taken: int = Field(description="How many the step has taken.")
    died: dict[str, int] = Field(description="By reason, how many are dead letters again.")
    unknown: int = Field(description="To how many it has not come yet.")


_Asked = Annotated[str | None, Query(max_length=256, pattern=NO_NUL)]
_AWAY: Final = "The broker does not answer: try again later."


def add_dead_letter_routes(app: FastAPI, letters: DeadLetters, enter: Callable[[str | None], str]) -> None:
    """Add them to a service's application; `enter` is the gate of operators, which returns a name."""

    def operator(authorization: Authorization) -> str:
        return enter(authorization)

    @app.get(
        "/v1/dead-letters",
        summary="See what could not be processed",
        response_description="What waits, by topic, reason and source, and the newest letters.",
        responses=problems({**GUARDED, 422: "A parameter is not of its form."}),
    )
    def list_dead_letters(
        topic: _Asked = None,
        reason: _Asked = None,
        source: _Asked = None,
        event_id: _Asked = None,
        limit: Annotated[int, Query(ge=1, le=1000, description="Letters to show, at most.")] = 100,
        _operator: str = Depends(operator),
    ) -> DeadLettersShown:
        """The dead letters of this service's topics that nobody has sent round again."""
        waiting = letters.waiting()
        wanted = {"topic": topic, "reason": reason, "source": source, "event_id": event_id}
        asked = [one for one in waiting if all(part in (None, getattr(one, name)) for name, part in wanted.items())]
        return DeadLettersShown(
            topics=list(letters.topics),
            waiting=len(waiting),
            groups=_groups(asked),
            letters=[LetterShown(**one._asdict() | {"at": _moment(one.at)}) for one in reversed(asked[-limit:])],
        )

    @app.post(
        "/v1/dead-letters/replay",
        summary="Send dead letters round again",
        response_description="How many.",
        responses=problems(
            {
                **GUARDED,
                409: "Somebody is sending letters round already.",
                422: "There is no such topic, or too many are asked for.",
                503: _AWAY,
            }
        ),
    )
    def replay_dead_letters(body: Annotated[Replay, Body()], by: str = Depends(operator)) -> Replayed:
        """Send the oldest letters of a topic back to where they came from. Each goes once, and keeps its revision:
        replayed, it changes nothing that came later. The audit log has who did it."""
        if body.topic not in letters.topics:
            raise ProblemError(422, "no such topic", f"topic: the topics are {', '.join(letters.topics)}.")
        try:
            sent = letters.replay(body.topic, body.most, by)
            count = sum(len(one.offsets) for one in sent)
            return Replayed(topic=body.topic, replayed=count, sent_to=[SentTo.model_validate(one) for one in sent])
        except Busy:
            raise ProblemError(409, "somebody is at it already", "Look at what waits when that is done.") from None
        except BrokerAway:
            raise _away("Look at what waits, and try again.") from None

    @app.post(
        "/v1/dead-letters/became",
        summary="Ask what became of letters that were sent round again",
        response_description="What is known by now.",
        responses=problems({**GUARDED, 422: "A topic is none that this service reads.", 503: _AWAY}),
    )
    def tell_what_became(body: Annotated[Round, Body()], _operator: str = Depends(operator)) -> RoundShown:
        """How many of these messages the step has taken, and how many are dead letters again. Nothing is changed."""
        if {one.topic for one in body.sent_to} - letters.lanes:
            raise ProblemError(422, "no such topic", "sent_to: give it as the replay has answered.")
        try:
            sent = [Places(one.topic, one.partition, one.offsets) for one in body.sent_to]
            return RoundShown(**letters.became(sent)._asdict())
        except BrokerAway:
            raise _away(_AWAY) from None


def _away(detail: str) -> ProblemError:
    return ProblemError(503, "the broker does not answer", detail, {"Retry-After": "5"})


def _groups(letters: Sequence[Letter]) -> list[LetterCount]:
    moments: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for one in letters:
        moments[one.topic, one.reason, one.source].append(one.at)
    return [
        LetterCount(
            topic=topic, reason=reason, source=source, count=len(at), first=_moment(min(at)), last=_moment(max(at))
        )
        for (topic, reason, source), at in sorted(moments.items(), key=lambda one: -len(one[1]))
    ]


def _moment(ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC)
