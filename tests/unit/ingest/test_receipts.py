"""A day's receipt is the same however it was answered in parts, and whoever has written which of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.domain.receipts import Day, Receipts

pytestmark = pytest.mark.unit

DAY = Day("urn:a", "2026-03-01")
Answers = list[tuple[list[str], dict[str, int]]]
ids = st.binary(min_size=16, max_size=16).map(bytes.hex)
answers = st.lists(st.tuples(st.lists(ids, max_size=4), st.dictionaries(st.sampled_from("xyz"), st.integers(1, 3))))


@given(mine=answers, theirs=answers, often=st.integers(1, 4))
def test_the_day_is_the_sum_of_all_processes_in_any_order(mine: Answers, theirs: Answers, often: int) -> None:
    here, there, alone = Receipts("here"), Receipts("there"), Receipts("alone")
    for receipts, answered in ((here, mine), (there, theirs), (alone, [*theirs, *mine])):
        for number, (event_ids, reasons) in enumerate(answered):
            receipts.answered(DAY, event_ids, reasons)
            for one in there.changed() if number % often == 0 else ():
                here.heard(one)
    for one in (*there.changed(), *here.changed()):
        here.heard(one)
        here.heard(one)
    total, expected = here.of(DAY), alone.of(DAY)
    assert (total.accepted, total.rejected, total.digest) == (expected.accepted, expected.rejected, expected.digest)


def test_only_days_that_changed_are_written_again() -> None:
    receipts = Receipts("here")
    receipts.answered(DAY, ["0" * 31 + "1"], {})
    receipts.answered(Day("urn:b", DAY.date), [], {"not-json": 1})
    assert [one.source for one in receipts.changed()] == ["urn:a", "urn:b"]
    assert receipts.changed() == []
    receipts.answered(DAY, ["f" * 32], {})
    (again,) = receipts.changed()
    assert (again.accepted, again.digest) == (2, bytes(16))
