"""HTTP for stewards: the pairs that wait, what linkage makes of each, and what a steward says of it.

What other stewards say is not told before it is in force, so that each looks for themselves.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from runtime.http import ProblemError, problems
from services.linkage.domain.components import Pair, pair_id, pair_of
from services.linkage.domain.decide import METHODS, SCORED
from services.linkage.domain.decide import Outcome as RuleOutcome
from services.linkage.domain.opinions import Opines, Says, in_force, waits
from services.linkage.lookup import MOST_COUNTED, Lookup, Review, Side, Which
from services.linkage.stewardship import TOGETHER, Changed, NoPair, Outcome, Stewardship, Unsaid


@dataclass(frozen=True, slots=True)
class Steward:
    """Somebody who may decide which subjects are one person."""

    name: str


class PairSide(BaseModel):
    """One of the two subjects of a pair: what is known of it, without anything of its identity."""

    subject_id: str
    patient_id: str
    source: str
    identity_status: str
    identifiers: list[str] = Field(description="The systems that it has a number of.")
    traits: list[str] = Field(description="The traits that it has.")
    records: int = Field(description="How many records are about it, counted up to 1,000.")
    event_ids: list[str] = Field(description="The hub's ids of up to five of them, by which the source can find them.")


class StewardWord(BaseModel):
    """What stewards decided of a pair last."""

    decision: Says
    steward: str
    second: str | None = Field(description="Who confirmed it, where that took two.")
    decided_at: dt.datetime


class FormerDecision(BaseModel):
    """What an earlier rule version made of a pair."""

    outcome: RuleOutcome
    rule_version: str
    replaced_at: dt.datetime


Numbers = Literal["same", "different", "none-in-common"]


class PairEvidence(BaseModel):
    """What the rules make of two subjects, without a value of either."""

    method: str = Field(description="The rule that was asked, in words; empty where the two share nothing.")
    weight: float | None = Field(description="The match weight in bits, where the traits decided.")
    evidence: dict[str, float] = Field(description="How alike each trait is, from 0 (another) to 1 (the same).")
    birth_date_parts: dict[str, bool] = Field(
        description="By year, month and day, of those that both have: whether it is the same."
    )
    numbers: dict[str, Numbers] = Field(
        description="By each system of which both have a number; `different`, where one person has only one of it."
    )
    rule_version: str | None


class PairReview(PairEvidence):
    """Two subjects, what the rules make of them, and what stewards have said."""

    id: str
    reason: str = Field(description="Why it is a question; empty where it is none.")
    left: PairSide
    right: PairSide
    word: StewardWord | None = Field(description="What the index follows.")
    former: list[FormerDecision] = Field(description="What earlier rule versions made of it, the latest first.")
    in_force: Says | None = Field(description="What stewards' words come to; the index follows within seconds.")
    mine: Opines | None = Field(description="What you have said of it.")
    others: int = Field(description="How many other stewards have said something that waits for a second.")
    as_seen: str = Field(description="To be said with a decision: changes with what linkage makes of the pair.")


class Reviews(BaseModel):
    """Pairs that wait for a steward, those that decide most first."""

    reviews: list[PairReview]
    next_cursor: str | None


class LastWord(BaseModel):
    """What you said last."""

    id: str
    decision: Opines
    said_at: dt.datetime


class ReviewProgress(BaseModel):
    """Your work."""

    waiting: int = Field(description=f"How many pairs wait for you, counted up to {MOST_COUNTED:,}.")
    seconds: int = Field(description="On how many another steward's word waits for a second, counted as far.")
    mine: int = Field(description="On how many yours does, counted as far.")
    done: int = Field(description="Of how many you have spoken since the moment that was asked about.")
    four_eyes: bool = Field(description="Whether a decision takes two stewards.")
    last: LastWord | None


class Decision(BaseModel):
    """What a steward says: once in force it outranks every rule until it is taken back."""

    model_config = ConfigDict(extra="forbid")

    decision: Opines
    as_seen: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{32}$",
        description="Of the pair that you looked at: if it has changed, nothing is kept.",
    )


class Decided(BaseModel):
    """What you said is kept; if it is in force, the patients follow within seconds."""

    id: str
    decision: Opines | None = Field(description="What you have said of it now.")
    decided_at: dt.datetime
    in_force: Says | None = Field(description="What holds of the pair.")
    waits: bool = Field(description="Whether what you said waits for a second steward's word.")


_PAIR = r"^[0-9a-f]{32}-[0-9a-f]{32}$"
PairId = Annotated[
    str,
    Path(pattern=_PAIR, description="Two subjects' ids joined by a hyphen, in either order."),
]
Cursor = Annotated[str | None, Query(pattern=_PAIR, description="`next_cursor` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=100, description="Pairs a page.")]
OfWhich = Annotated[
    Which,
    Query(description="All that wait for you, or where another's word waits for a `second`, or yours does (`mine`)."),
]
Since = Annotated[AwareDatetime, Query(description="From when on what you have done counts.")]


def add_review_routes(
    router: APIRouter, lookup: Lookup, stewardship: Stewardship, as_steward: Callable[..., Steward]
) -> None:
    """Add them to the routes of linkage."""

    @router.get(
        "/reviews",
        summary="List the pairs that wait for you",
        response_description="A page of pairs.",
        responses=problems({422: "The cursor, the limit or `which` is none."}),
    )
    def reviews(
        cursor: Cursor = None, limit: Limit = 20, which: OfWhich = "all", steward: Steward = Depends(as_steward)
    ) -> Reviews:
        """The doubtful pairs and the links that guards hold back, unless they are decided, or you have spoken of them:
        exact rules before weights, the strongest first. Who was unsure is asked again when the evidence changes."""
        found = lookup.reviews(_pair(cursor) if cursor else None, limit, steward.name, which)
        shown = [_review(one, steward) for one in found]
        return Reviews(reviews=shown, next_cursor=shown[-1].id if len(shown) == limit else None)

    @router.get(
        "/reviews/progress",
        summary="See how your work goes",
        response_description="Your work.",
        responses=problems({422: "`since` is no moment with its offset from UTC."}),
    )
    def progress(since: Since, steward: Steward = Depends(as_steward)) -> ReviewProgress:
        """How much waits, and what you have done."""
        found = lookup.progress(steward.name, since)
        last = found.last
        return ReviewProgress(
            waiting=found.waiting,
            seconds=found.seconds,
            mine=found.mine,
            done=found.done,
            four_eyes=stewardship.four_eyes,
            last=LastWord(id=pair_id(last.pair), decision=last.says, said_at=last.said_at) if last else None,
        )

    @router.get(
        "/reviews/{pair}",
        summary="See a pair",
        response_description="The pair.",
        responses=problems({404: _NO_PAIR, 422: "The address is no pair of subjects."}),
    )
    def review(pair: PairId, steward: Steward = Depends(as_steward)) -> PairReview:
        """Any two subjects: what the rules make of them, whose they are, and what stewards have said."""
        found = lookup.review(_pair(pair))
        if found is None:
            raise _no_pair()
        return _review(found, steward)

    @router.post(
        "/reviews/{pair}",
        status_code=202,
        summary="Say what you think of a pair",
        response_description="It is kept.",
        responses=problems(
            {
                404: _NO_PAIR,
                409: "Others have decided on it, or its evidence has changed, since it was seen.",
                422: "The body is no decision, or the address no pair of subjects.",
            }
        ),
    )
    def decide(pair: PairId, body: Decision, steward: Steward = Depends(as_steward)) -> Decided:
        """Say that two subjects are one person, or are not, or leave it to the rules again, or that you are unsure. The
        answer comes when it is kept for good; patients, timelines and views follow within seconds. Where decisions take
        two stewards, it is in force when a second says the same."""
        ends = _pair(pair)
        try:
            return _decided(ends, body.decision, stewardship.say(ends, steward.name, body.decision, body.as_seen))
        except NoPair:
            raise _no_pair() from None
        except Changed as changed:
            title = "it is decided by now" if changed.decided else "its evidence has changed"
            raise ProblemError(409, title, "Look at the pair again, and say its `as_seen`.") from None

    @router.delete(
        "/reviews/{pair}",
        status_code=202,
        summary="Take back what you have said of a pair",
        response_description="It is forgotten.",
        responses=problems({404: _UNSAID, 422: "The address is no pair of subjects."}),
    )
    def take_back(pair: PairId, steward: Steward = Depends(as_steward)) -> Decided:
        """Take back what you have said. What is in force by it no longer is: what others said holds, or the rules."""
        ends = _pair(pair)
        try:
            return _decided(ends, None, stewardship.take_back(ends, steward.name))
        except (NoPair, Unsaid):
            raise ProblemError(404, "nothing to take back", _UNSAID) from None


def _pair(text: str) -> Pair:
    left, right = (bytes.fromhex(one) for one in text.split("-"))
    if left == right:
        raise ProblemError(422, "one subject is no pair", "Give the ids of two different subjects.")
    return pair_of(left, right)


def _no_pair() -> ProblemError:
    return ProblemError(404, "no such pair", _NO_PAIR)


def _decided(pair: Pair, said: Opines | None, outcome: Outcome) -> Decided:
    holds = outcome.holds.says if outcome.holds else None
    return Decided(id=pair_id(pair), decision=said, decided_at=outcome.at, in_force=holds, waits=outcome.waits)


def evidence_of(found: Review) -> dict[str, Any]:
    """The fields of `PairEvidence`."""
    decision = found.decided.decision if found.decided else None
    return {
        "method": METHODS.get(decision.method, decision.method) if decision else "",
        "weight": decision.weight if decision and decision.rank >= SCORED else None,
        "evidence": decision.evidence if decision else {},
        "birth_date_parts": found.birth,
        "numbers": {system: _NUMBERS[same] for system, same in found.numbers.items()},
        "rule_version": found.decided.rules if found.decided else None,
    }


def _review(found: Review, steward: Steward) -> PairReview:
    decided, word = found.decided, found.word
    holds = in_force(found.opinions)
    return PairReview(
        id=pair_id(found.pair),
        reason=(decided.guard or decided.decision.reason) if decided else "",
        **evidence_of(found),
        left=_side(found.left),
        right=_side(found.right),
        word=StewardWord(
            decision=_SAYS[word.together],
            steward=word.steward,
            second=word.second or None,
            decided_at=word.decided_at,
        )
        if word
        else None,
        former=[FormerDecision(**one._asdict()) for one in found.former],
        in_force=holds.says if holds else None,
        mine=next((one.says for one in found.opinions if one.steward == steward.name), None),
        others=sum(one.steward != steward.name and waits(one, holds) for one in found.opinions),
        as_seen=found.as_seen,
    )


def _side(side: Side) -> PairSide:
    return PairSide(
        subject_id=side.subject.hex(),
        patient_id=side.patient.hex(),
        source=side.source,
        identity_status=side.status,
        identifiers=list(side.systems),
        traits=list(side.traits),
        records=side.records,
        event_ids=[one.hex() for one in side.events],
    )


_NO_PAIR = "The index does not hold both subjects."
_UNSAID = "You have said nothing of this pair, or it is no longer there."
_NUMBERS: dict[bool | None, Numbers] = {True: "same", False: "different", None: "none-in-common"}
_SAYS: dict[bool | None, Says] = {said: words for words, said in TOGETHER.items()}
