"""The linkage benchmark measures what it says: a quick sample of it, which asserts no rates."""

from __future__ import annotations

import pytest

from bench import linkage, splinked

pytestmark = pytest.mark.integration


def test_a_small_index_is_filled_and_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splinked, "find_spec", lambda _name: None)
    found = linkage.main([1000, 2000], known=200, new=90)
    assert found.keys() == {"people", "new_cost_ratio"}
    assert found["new_cost_ratio"] > 0
    assert found["people"].keys() == {"1000", "2000"}
    for row in found["people"].values():
        assert row.keys() == {
            "known_per_second",
            "new_per_second",
            "cpu_us_per_known",
            "cpu_us_per_new",
            "candidates_per_new",
            "found",
            "fill_seconds",
        }
        assert min(row.values()) > 0
        assert row["found"] > 0.7
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "SKIPPED: Splink" in captured.err


def test_splink_gets_the_same_people_in_the_clear() -> None:
    records = splinked.table(1000)
    assert records.num_rows == 1100
    assert records["birth_date"].null_count == 0
    assert 0 < records["nir"].null_count < 500
