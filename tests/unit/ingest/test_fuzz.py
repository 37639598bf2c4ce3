"""The fuzzer's targets hold on good inputs, on mutilated ones and on noise; `make fuzz` goes deeper."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, seeds

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=150)
@given(data=st.data())
def test_no_input_ends_otherwise_than_in_events_or_refusals(name: str, data: st.DataObject) -> None:
    body = data.draw(st.sampled_from([*seeds(name), b""]))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(body)))
        body = body[:at] + data.draw(st.binary(max_size=6)) + body[at + data.draw(st.integers(0, 8)) :]
    TARGETS[name](body)
