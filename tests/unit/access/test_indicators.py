"""Which period, area and diagnoses a released record counts in, and which cells are shown as what."""

from __future__ import annotations

import datetime as dt
import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.permits import Permit, PermitError
from services.access.domain.indicators import (
    BASE,
    NOISE,
    SHIFTS,
    SMALLEST,
    Cell,
    Count,
    Counted,
    Perturbation,
    areas_of,
    begins,
    counted,
    follows,
    most,
    period_name,
    within,
)
from services.access.domain.views import Event
from tests.unit.access.hub import permit

pytestmark = pytest.mark.unit

MARCH = dt.date(2026, 3, 1)
MONTHLY: dict[str, Any] = {"indicators": {"every": "month"}}


def shown(perturbation: Perturbation, given: Permit, *counts: tuple[str, int], key: int = 1) -> dict[str, int]:
    cells = perturbation.cells(given, [Count(MARCH, area, "I50", people, key) for area, people in counts])
    return {one.area: one.people for one in cells}


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


def test_what_is_shown_stands_for_eleven_people_at_least_and_is_a_multiple_of_five_near_them() -> None:
    for secret in range(200):
        perturbation = Perturbation({1: bytes([secret])})
        for people in range(60):
            found = shown(perturbation, permit(**MONTHLY), ("35", people), key=people * 7919)
            if people < SMALLEST:
                assert "35" not in found
            if people >= 27:
                assert "35" in found
            if "35" in found:
                assert found["35"] % BASE == 0
                assert abs(found["35"] - people) <= within(1) == 10
            assert "" not in found


def test_of_few_areas_everywhere_is_shown_from_fewer_people_than_of_all() -> None:
    here = permit(**MONTHLY, population={"departments": ["35"], "communes": ["35238", "29019", "29020"]})
    assert areas_of(here) == ("29", "35")
    assert len(areas_of(permit())) == 108
    assert (most(1), most(2), most(108)) == (6, 12, 198)
    for secret in range(50):
        perturbation = Perturbation({1: bytes([secret])})
        for people in range(11, 300):
            found = shown(perturbation, here, ("29", 0), ("35", people))
            assert ("" in found) >= (people >= 11 + 4 + 24)
            everywhere = shown(perturbation, permit(**MONTHLY), ("35", people))
            assert "" not in everywhere or people >= SMALLEST


def test_the_shift_of_everywhere_is_the_sum_of_those_of_the_areas() -> None:
    """So that what is added up, or taken away from it, tells no more of an area than the area's own cell."""
    given = permit(**MONTHLY, population={"departments": ["35", "29", "2A"]})
    for secret in range(50):
        perturbation = Perturbation({1: bytes([secret])})
        (cell,) = [
            one
            for one in perturbation.cells(given, [Count(MARCH, area, "", 1000, 5) for area in ("35", "29", "2A")])
            if not one.area
        ]
        shift = sum(map(perturbation.shift, ("35", "29", "2A")))
        assert abs(cell.people - (3000 + shift + perturbation.noise(15))) <= BASE // 2


def test_areas_are_shown_where_rows_show_them() -> None:
    given = permit(**MONTHLY, demographics=["sex"], population={"departments": ["35"]})
    assert set(shown(Perturbation({1: b"k"}), given, ("other", 100))) == {""}


def test_shifts_and_noises_are_evenly_drawn_and_lasting() -> None:
    perturbation = Perturbation({2: b"newer", 1: b"first"})
    shifts = [perturbation.shift(str(number)) for number in range(6000)]
    assert set(shifts) == set(SHIFTS)
    assert abs(statistics.mean(shifts) + 0.5) < 0.2
    noises = [perturbation.noise(number * 2**40) for number in range(5000)]
    assert set(noises) == set(range(-NOISE, NOISE + 1))
    assert abs(statistics.mean(noises)) < 0.1
    again = Perturbation({1: b"first"})
    assert shifts == [again.shift(str(number)) for number in range(6000)]
    assert noises == [again.noise(number * 2**40 - 2**64) for number in range(5000)]


def test_the_same_people_are_the_same_number_in_every_category_period_and_permit() -> None:
    perturbation = Perturbation({1: b"k"})
    given = [permit("one", **MONTHLY), permit("two", indicators={"every": "week"}, demographics=["commune"],
                                              precision={"place": "commune"})]  # fmt: skip
    found: set[int] = set()
    for one in given:
        for period in (MARCH, dt.date(2026, 3, 2)):
            for code in ("", "I50"):
                found |= {cell.people for cell in perturbation.cells(one, [Count(period, "35", code, 47, 99)])
                          if cell.area == "35"}  # fmt: skip
    assert len(found) == 1


def test_cells_say_nothing_of_record_keys() -> None:
    assert Cell._fields == ("period", "area", "diagnosis", "people")
