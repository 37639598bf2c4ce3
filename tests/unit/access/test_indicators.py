"""Which period, area and diagnoses a released record counts in, and which cells are shown as what."""

from __future__ import annotations

import datetime as dt
import random
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.permits import Permit, PermitError
from services.access.domain.indicators import (
    BASE,
    HEAVIEST,
    LIGHTEST,
    SMALLEST,
    THOUSAND,
    Count,
    Counted,
    begins,
    cells,
    counted,
    deviation,
    follows,
    period_name,
    rounded,
    weight,
)
from services.access.domain.views import Event
from tests.unit.access.hub import permit

pytestmark = pytest.mark.unit

MARCH = dt.date(2026, 3, 1)
MONTHLY: dict[str, Any] = {"indicators": {"every": "month"}}


def shown(given: Permit, *counts: tuple[str, int], key: int = 1, before: int | None = None) -> dict[str, int]:
    known = {} if before is None else {(MARCH, "35", "I50"): before}
    listed = [Count(MARCH, area, "I50", weight, key) for area, weight in counts]
    return {one.area: one.people for one in cells(given, listed, known)}


def event(time: str, kind: str = "diagnosis.v1", record: dict[str, Any] | None = None, **data: Any) -> Event:
    return Event(
        id="1", source="s", type=kind, subject="p", time=time, sequence=1,
        data={"record": record or {}, "demographics": {}, **data},
    )  # fmt: skip


def test_periods_begin_on_mondays_and_on_first_days() -> None:
    day = dt.date(2026, 11, 26)
    assert [begins("week", day), begins("month", day), begins("quarter", day)] == [
        dt.date(2026, 11, 23), dt.date(2026, 11, 1), dt.date(2026, 10, 1),
    ]  # fmt: skip
    assert [follows("week", day), follows("month", day), follows("quarter", day)] == [
        dt.date(2026, 11, 30), dt.date(2026, 12, 1), dt.date(2027, 1, 1),
    ]  # fmt: skip
    assert period_name("week", dt.date(2026, 12, 28)) == "2026-W53"
    assert period_name("month", dt.date(985, 3, 1)) == "0985-03"
    assert period_name("quarter", dt.date(2026, 10, 1)) == "2026-Q4"
    assert begins("week", dt.date.min) == dt.date.min


@given(st.dates(max_value=dt.date(9998, 12, 31)), st.sampled_from(["week", "month", "quarter"]))
def test_each_day_is_in_one_period(day: dt.date, every: Any) -> None:
    begin, end = begins(every, day), follows(every, day)
    assert begin <= day < end
    assert begins(every, begin) == begin == begins(every, end - dt.timedelta(days=1))
    assert begins(every, end) == end


def test_a_record_counts_by_what_is_released_of_it_and_by_nothing_else() -> None:
    given = permit(**MONTHLY)
    coded = event("2026-03-17", record={"code": "I50.1"}, demographics={"department": "35", "sex": "male"})
    assert counted(given, coded) == Counted(MARCH, "35", ("I50",))
    stay = {"principal_diagnosis": "I50.1", "associated_diagnoses": ["I500", "E11", "not a code", "42343007"]}
    assert counted(given, event("2026-03", "hospital-stay.v1", stay)) == Counted(MARCH, "other", ("E11", "I50"))
    abroad = event("2026-03-17T10:00:00Z", demographics={"commune": "99123"})
    assert counted(given, abroad) == Counted(MARCH, "other", ())
    assert counted(given, event("2026-03-17", undated=True)) is None
    assert counted(given, event("2026")) is None
    assert counted(permit(), coded) is None


def test_indicators_ask_for_times_that_tell_their_period() -> None:
    with pytest.raises(PermitError, match=r"counts by week, but `precision.time` is month"):
        permit(indicators={"every": "week"}, precision={"time": "month"})
    assert permit(indicators={"every": "month"}, precision={"time": "month"}).indicators
    with pytest.raises(PermitError, match=r"indicators\.every"):
        permit(indicators={"every": "day"})


def test_what_is_shown_stands_for_eleven_people_at_least_and_is_a_multiple_of_five_next_to_their_sum() -> None:
    dice = random.Random(1)
    seen: set[int] = set()
    for people in (*range(60), 400):
        for _ in range(50):
            keys = [dice.getrandbits(64) - 2**63 for _ in range(people)]
            total = sum(map(weight, keys))
            found = shown(permit(**MONTHLY), ("35", total), key=sum(keys))
            if people < SMALLEST:
                assert found == {}
            if people >= 44:
                assert set(found) == {"35", ""}
            for number in found.values():
                assert number % BASE == 0
                assert abs(number * THOUSAND - total) < BASE * THOUSAND
                seen.add(number)
    assert min(seen) == 20


def test_weights_are_evenly_spread_and_numbers_right_on_average() -> None:
    dice = random.Random(2)
    keys = [dice.getrandbits(64) - 2**63 for _ in range(20_000)]
    weights = list(map(weight, keys))
    assert (min(weights), max(weights)) == (LIGHTEST, HEAVIEST)
    assert abs(statistics.mean(weights) - THOUSAND) < 10
    for people in (30, 120):
        errors = []
        for _ in range(4000):
            members = dice.sample(keys, people)
            errors.append(rounded(sum(map(weight, members)), sum(members)) - people)
        assert abs(statistics.mean(errors)) < people / 50
        assert statistics.stdev(errors) == pytest.approx(deviation(people), rel=0.05)


def test_a_number_stays_while_it_is_within_five_of_the_sum() -> None:
    given = permit(**MONTHLY, population={"departments": ["35"]})
    for total, expected in (
        (34_999, {30}),
        (26_000, {30}),
        (25_001, {30}),
        (25_000, {25}),
        (35_000, {35}),
        (37_000, {35, 40}),
    ):
        found = {shown(given, ("35", total), key=key, before=30)["35"] for key in range(100)}
        assert found == expected
    assert shown(given, ("35", 20_899), before=20) == {}


def test_everywhere_is_the_sum_of_its_areas_weights_and_areas_are_shown_where_rows_show_them() -> None:
    assert set(shown(permit(**MONTHLY), ("35", 12_000), ("29", 12_000))) == {""}
    hidden = permit(**MONTHLY, demographics=["sex"])
    assert set(shown(hidden, ("other", 100_000))) == {""}
    both = shown(permit(**MONTHLY), ("35", 100_000), key=7)
    assert both == {"35": 100, "": 100}


def test_the_same_people_are_the_same_number_in_every_category_period_and_permit() -> None:
    communes = permit("two", indicators={"every": "week"}, demographics=["commune"], precision={"place": "commune"})
    found: set[int] = set()
    for one in (permit("one", **MONTHLY), communes):
        for period in (MARCH, dt.date(2026, 3, 2)):
            for code in ("", "I50"):
                found |= {cell.people for cell in cells(one, [Count(period, "35", code, 47_123, 99)], {})}
    assert len(found) == 1
