"""What stewards' words on a pair come to: which is in force, and what waits for a second steward. Pure.

Each steward has one opinion of a pair, the last. One that was said while a steward alone sufficed is in force at once;
with four eyes it takes two who say the same. Who takes theirs back no longer stands behind it.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

Says = Literal["together", "apart", "as-the-rules-say"]
"""What linkage can do with a pair."""
Opines = Literal["together", "apart", "as-the-rules-say", "unsure"]
"""What a steward can say of it: somebody who is unsure leaves it to others."""
UNSURE: Final = "unsure"


class Opinion(NamedTuple):
    """What a steward said of a pair last; `alone` where that needed nobody else."""

    steward: str
    says: Opines
    said_at: dt.datetime
    alone: bool


class InForce(NamedTuple):
    """What holds of a pair, who said it, and the second who said the same, if it took one."""

    says: Says
    steward: str
    second: str | None
    since: dt.datetime


def in_force(opinions: Iterable[Opinion]) -> InForce | None:
    """What holds: what one alone has said, or two have; of several that whose last word, or last two, are newer, so
    that one new word beside an old one turns nothing round. Any order gives the same."""
    by_says: defaultdict[Says, list[Opinion]] = defaultdict(list)
    for one in sorted(opinions, key=lambda it: (it.said_at, it.steward)):
        if one.says != UNSURE:
            by_says[one.says].append(one)
    found = [_backed(says, backers) for says, backers in by_says.items()]
    return max((one for one in found if one), key=lambda it: (it.since, it.says), default=None)


def waits(one: Opinion, holds: InForce | None) -> bool:
    """Whether an opinion waits for somebody who says the same."""
    return one.says != UNSURE and not one.alone and not (holds and holds.says == one.says)


def _backed(says: Says, backers: list[Opinion]) -> InForce | None:
    """Whether those who say this, in the order of time, suffice."""
    alone = [InForce(says, one.steward, None, one.said_at) for one in backers if one.alone]
    two = [InForce(says, backers[-2].steward, backers[-1].steward, backers[-2].said_at)] if len(backers) > 1 else []
    return max((*alone, *two), key=lambda it: it.since, default=None)
