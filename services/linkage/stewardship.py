"""What stewards say of pairs: kept in the index at once, and sent to the loop where it changes what is in force."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import psycopg

from contracts import audit, messages
from contracts.messages import StewardDecision
from runtime.kafka import Publisher
from services.linkage.domain.components import Pair, pair_id
from services.linkage.domain.opinions import UNSURE, InForce, Opines, Opinion, Says, in_force, waits
from services.linkage.erasure import DECISIONS
from services.linkage.lookup import Review, SqlLookup

Clock = Callable[[], dt.datetime]
TOGETHER: Final[dict[Says, bool | None]] = {"together": True, "apart": False, "as-the-rules-say": None}


class NoPair(Exception):
    """One of the two subjects is not there."""


class Unsaid(Exception):
    """The steward has said nothing of the pair."""


class Changed(Exception):
    """The pair is not what the steward has seen. `decided` where others have decided on it meanwhile."""

    def __init__(self, decided: bool) -> None:
        super().__init__("the pair is not what was seen")
        self.decided = decided


class Outcome(NamedTuple):
    """What came of a word: what holds of the pair now, and whether the word waits for a second steward's."""

    holds: InForce | None
    waits: bool
    at: dt.datetime


class Stewardship:
    """Takes stewards' words, one at a time for each pair, so that of two at once the second sees the first.

    A word that takes a second (`four_eyes`), or decides nothing, is told to the audit log from here; one that changes
    what is in force by the loop, when it does. If the broker does not acknowledge either, the word is not kept.
    """

    def __init__(self, lookup: SqlLookup, publisher: Publisher, four_eyes: bool, clock: Clock) -> None:
        self._lookup = lookup
        self._publisher = publisher
        self.four_eyes = four_eyes
        self._clock = clock

    def say(self, pair: Pair, steward: str, says: Opines, as_seen: str | None) -> Outcome:
        """Keep what a steward says, in place of what they said before.

        Raises NoPair, Changed, BrokerAway, RetryLater.
        """

        def said(review: Review, now: dt.datetime) -> list[Opinion]:
            if as_seen not in (None, review.as_seen):
                raise Changed(in_force(review.opinions) is not None)
            others = [one for one in review.opinions if one.steward != steward]
            return [*others, Opinion(steward, says, now, not self.four_eyes)]

        act = "link-doubted" if says == UNSURE else "link-proposed"
        return self._change(pair, steward, said, act, "" if says == UNSURE else says)

    def take_back(self, pair: Pair, steward: str) -> Outcome:
        """Forget what a steward has said. Raises NoPair, Unsaid, BrokerAway, RetryLater."""

        def left(review: Review, _now: dt.datetime) -> list[Opinion]:
            found = [one for one in review.opinions if one.steward != steward]
            if len(found) == len(review.opinions):
                raise Unsaid
            return found

        return self._change(pair, steward, left, "link-taken-back", "")

    def _change(
        self,
        pair: Pair,
        steward: str,
        change: Callable[[Review, dt.datetime], list[Opinion]],
        act: str,
        about: str,
    ) -> Outcome:
        try:
            with self._lookup.answer() as connection, connection.cursor(binary=True) as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [_ONE_BY_ONE, pair_id(pair)])
                review = self._lookup.review_by(cursor, pair)
                if review is None:
                    raise NoPair
                now = _to_milliseconds(self._clock())
                opinions = change(review, now)
                before, holds = in_force(review.opinions), in_force(opinions)
                _write(cursor, pair, opinions, holds)
                if holds != before:
                    topic, key, value = _decision(pair, holds, steward, now)
                else:
                    told = audit.leaf(act, audit.actor("steward", steward), now, ids=_ids(pair), about=about)
                    topic, key, value = audit.AUDIT, audit.actor("steward", steward), messages.encode(told)
                self._publisher.publish(topic, key, value)
        except psycopg.errors.ForeignKeyViolation:  # an erasure came in between
            raise NoPair from None
        return Outcome(holds, any(one.steward == steward and waits(one, holds) for one in opinions), now)


def _write(
    cursor: psycopg.Cursor[tuple[Any, ...]], pair: Pair, opinions: Sequence[Opinion], holds: InForce | None
) -> None:
    cursor.execute("DELETE FROM steward_opinions WHERE a = %s AND b = %s", pair)
    cursor.executemany(
        "INSERT INTO steward_opinions (a, b, steward, says, said_at, alone, waits) VALUES (%s, %s, %s, %s, %s, %s, %s)",
        [(*pair, *one, waits(one, holds)) for one in opinions],
    )


def _decision(pair: Pair, holds: InForce | None, steward: str, now: dt.datetime) -> tuple[str, str, bytes]:
    """What the loop is told: without anything that holds, that this steward leaves the pair to the rules."""
    at = round(now.timestamp() * 1000)
    if holds is None:
        said = StewardDecision(*pair, None, steward, at)
    else:
        said = StewardDecision(*pair, TOGETHER[holds.says], holds.steward, at, holds.second or "")
    return DECISIONS, pair_id(pair), messages.encode(said)


def _ids(pair: Pair) -> tuple[str, ...]:
    return tuple(one.hex() for one in pair)


def _to_milliseconds(moment: dt.datetime) -> dt.datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


_ONE_BY_ONE: Final = 4053024
"""The first half of the lock of a pair, which nobody but stewards' words takes."""
