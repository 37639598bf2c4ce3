"""Rule versions as they are kept and changed."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from services.linkage.domain.rules import LARGEST, RULES, RulesError, changed, checked, from_bytes, to_bytes

pytestmark = pytest.mark.unit

BEGINNINGS = {"2026-2": "63ce40069517270a"}
"""The versions that hubs have begun with, by name. A hub keeps the one it has: what changes gets another name."""


def test_what_a_hub_begins_with_never_changes_under_its_name() -> None:
    assert BEGINNINGS[RULES.name] == hashlib.sha256(to_bytes(RULES)).hexdigest()[:16]


def test_a_version_travels_whole() -> None:
    weights = msgspec.structs.replace(RULES.weights, frequent_names={b"n" * 16: 0.01})
    rules = msgspec.structs.replace(RULES, weights=weights, too_common=frozenset((b"a" * 16, b"b" * 16)))
    assert from_bytes(to_bytes(rules)) == rules
    assert to_bytes(from_bytes(to_bytes(rules))) == to_bytes(rules)


def test_a_higher_limit_forgets_what_was_too_common() -> None:
    rules = msgspec.structs.replace(RULES, too_common=frozenset((b"a" * 16,)))
    assert changed(rules, "x", {"most_in_block": 500}).too_common == frozenset()
    assert changed(rules, "x", {"most_in_block": 50, "link": 3}).too_common == rules.too_common


def test_thresholds_can_be_changed_under_another_name() -> None:
    rules = changed(RULES, "stricter", {"link": 3, "most_holders": 20.0})
    assert (rules.name, rules.link, rules.most_holders, rules.review) == ("stricter", 3.0, 20, RULES.review)
    with pytest.raises(RulesError, match=r"^most_births: a whole number"):
        changed(RULES, "x", {"most_births": 2.7})
    with pytest.raises(RulesError, match=r"^most_births: a whole number"):
        changed(RULES, "x", {"most_births": float("inf")})
    with pytest.raises(RulesError, match=r"^linkk: there is no such threshold; these are: link, "):
        changed(RULES, "x", {"linkk": 1})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "two words"}, "name"),
        ({"link": -9.0}, "link"),
        ({"most_holders": 0}, "most_holders"),
        ({"most_reviews": -1}, "most_reviews"),
        ({"margin": float("nan")}, "margin"),
        ({"review": float("-inf")}, "review"),
        ({"weights": {"repeats": 0.0}}, "weights.repeats"),
        ({"weights": {"strangers": float("inf")}}, "weights.strangers"),
        ({"weights": {"twin_share": 1.0}}, "weights.twin_share"),
        ({"weights": {"same_number": (0.9, 0.1)}}, "weights.same_number"),
        ({"weights": {"one": {**RULES.weights.one, "sex": (1.0, 0.0)}}}, "weights.one.sex"),
        ({"weights": {"twins": {**RULES.weights.twins, "shoe": (0.5,)}}}, "weights.twins.shoe"),
    ],
)
def test_what_cannot_decide_is_refused_by_its_field(changes: dict[str, Any], field: str) -> None:
    if "weights" in changes:
        changes = {"weights": msgspec.structs.replace(RULES.weights, **changes["weights"])}
    with pytest.raises(RulesError, match=f"^{field}: "):
        checked(msgspec.structs.replace(RULES, **changes))


def test_what_is_too_large_to_travel_is_refused() -> None:
    tokens = frozenset(number.to_bytes(16) for number in range(LARGEST // 17))
    with pytest.raises(RulesError, match="leave the rarest"):
        from_bytes(to_bytes(msgspec.structs.replace(RULES, too_common=tokens)))
