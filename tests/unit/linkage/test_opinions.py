"""What stewards' words on a pair come to."""

from __future__ import annotations

import datetime as dt
import itertools

import pytest

from services.linkage.domain.opinions import Opines, Opinion, in_force, waits

pytestmark = pytest.mark.unit


def said(steward: str, says: Opines, minute: int, *, alone: bool = False) -> Opinion:
    return Opinion(steward, says, dt.datetime(2026, 3, 1, 10, minute, tzinfo=dt.UTC), alone)


def test_one_word_is_in_force_where_one_suffices_and_the_last_holds() -> None:
    first, last = said("ada", "together", 1, alone=True), said("ben", "apart", 2, alone=True)
    holds = in_force([first])
    assert holds
    assert (holds.says, holds.steward, holds.second) == ("together", "ada", None)
    holds = in_force([first, last])
    assert holds
    assert (holds.says, holds.steward) == ("apart", "ben")
    assert in_force([said("ada", "unsure", 1, alone=True)]) is None


def test_with_four_eyes_two_have_to_say_the_same() -> None:
    ada, ben, cas = said("ada", "together", 1), said("ben", "apart", 2), said("cas", "together", 3)
    assert in_force([ada]) is None
    assert waits(ada, None)
    assert in_force([ada, ben]) is None, "two who disagree leave it to a third"
    holds = in_force([ada, ben, cas])
    assert holds
    assert (holds.says, holds.steward, holds.second) == ("together", "ada", "cas")
    assert not waits(ada, holds)
    assert waits(ben, holds), "whoever sees it otherwise waits for somebody who does, too"
    assert not waits(said("ben", "unsure", 2), holds)


def test_what_two_say_later_outweighs_what_two_have_said_before() -> None:
    before = [said("ada", "together", 1), said("ben", "together", 2)]
    after = [said("cas", "apart", 3), said("dan", "apart", 4)]
    holds = in_force([*before, *after])
    assert holds
    assert (holds.says, holds.second) == ("apart", "dan")
    again = in_force([said("ada", "together", 5), before[1], *after])
    assert again
    assert again.says == "apart", "one who repeats it does not turn it round"
    beside_an_old_one = in_force([before[0], said("eve", "together", 5), *after])
    assert beside_an_old_one
    assert beside_an_old_one.says == "apart", "nor does one new word beside an old one"
    turned = in_force([said("ada", "together", 5), said("ben", "together", 6), *after])
    assert turned
    assert turned.says == "together"


def test_one_word_does_not_undo_what_one_alone_had_decided_before_four_eyes() -> None:
    holds = in_force([said("ada", "together", 1, alone=True), said("ben", "apart", 2)])
    assert holds
    assert (holds.says, holds.steward) == ("together", "ada")


def test_the_order_in_which_words_are_read_does_not_matter() -> None:
    words = [said("ada", "together", 1), said("ben", "apart", 1), said("cas", "apart", 1), said("dan", "together", 1)]
    assert len({in_force(order) for order in itertools.permutations(words)}) == 1
