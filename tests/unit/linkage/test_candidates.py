"""Whom a search meets, as arrays: the same pairs and evidence as one by one."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from random import Random
from typing import Any

import pytest

from contracts.messages import TokenBlock
from services.linkage.domain.candidates import SUBJECT_BYTES, Holders, Meetings
from services.linkage.domain.comparison import TAGGED_CODES, compare_tagged, evidence, tagged_rows
from services.linkage.domain.components import Pair, pair_of
from services.linkage.domain.rules import RULES
from services.linkage.domain.scoring import Scorer
from services.linkage.domain.tokens import identifying_tokens, search_tokens
from tests.unit.linkage.builders import identity, number
from tests.unit.linkage.test_handlers import ANNE

pytestmark = pytest.mark.unit

NO_CODES = bytes(2 * TAGGED_CODES)


def held(blocks: list[TokenBlock]) -> dict[bytes, Holders]:
    """What a search brings, as the index has it."""
    rows: defaultdict[bytes, bytes] = defaultdict(bytes)
    for block in blocks:
        own = tagged_rows(block)
        for token in search_tokens(block):
            rows[token] += block.subject + (own[token] or NO_CODES)
    return {token: Holders(one) for token, one in rows.items()}


def one_by_one(blocks: list[TokenBlock]) -> dict[Pair, dict[str, float]]:
    """The same from the definition."""
    found = {}
    for left, right in combinations(blocks, 2):
        mine, theirs = tagged_rows(left), tagged_rows(right)
        if not (shared := search_tokens(left).keys() & search_tokens(right).keys()):
            continue
        levels = compare_tagged([(mine[min(shared)], theirs[min(shared)])])
        weights, relatives = Scorer(RULES.weights).scores(levels)
        identified = identifying_tokens(left).keys() & identifying_tokens(right).keys()
        if weights[0] >= RULES.review or relatives[0] >= RULES.household or identified:
            found[pair_of(left.subject, right.subject)] = evidence(levels[0])
    return found


def people(seed: int) -> list[TokenBlock]:
    """People who share much with one another, some of them without traits."""
    rng = Random(seed)
    blocks = []
    for name in range(30):
        traits: dict[str, Any] = ANNE | {
            "given_name": rng.choice(("ANNE", "LEA", "PAUL")),
            "birth_date": rng.choice(("1985-05-12", "1985-12-05", "1961-11-30")),
            "family_name": rng.choice(("MARTIN", "LEGOFF")),
        }
        numbers = [number("ipp", str(rng.randrange(12)))]
        blocks.append(identity(f"{seed}.{name}", *numbers, blocked=True, **traits if rng.random() < 0.9 else {}))
    return blocks


@pytest.mark.parametrize("seed", range(5))
def test_a_batch_finds_what_each_pair_says(seed: int) -> None:
    blocks = people(seed)
    holders = held(blocks)
    for searched in (blocks, blocks[:7]):
        meetings = Meetings({one.subject: search_tokens(one).keys() for one in searched}, holders)
        identifying = {token for one in searched for token in identifying_tokens(one)}
        found = meetings.worth_deciding(identifying, RULES, Scorer(RULES.weights))
        wanted = {one.subject for one in searched}
        expected = {pair: seen for pair, seen in one_by_one(blocks).items() if not wanted.isdisjoint(pair)}
        assert found == expected
        assert found


def test_who_is_alone_meets_nobody() -> None:
    blocks = [identity("a", number("ipp", "1"), blocked=True, **ANNE), identity("b")]
    meetings = Meetings({one.subject: search_tokens(one).keys() for one in blocks}, held(blocks))
    assert meetings.worth_deciding((), RULES, Scorer(RULES.weights)) == {}


def test_a_subject_is_found_at_its_own_place_alone() -> None:
    first, second = bytes(range(1, 17)), bytes(range(2, 18))
    rows = first + second.ljust(2 * TAGGED_CODES, b"\1") + second + NO_CODES
    holders = Holders(rows)
    assert holders.count == 2
    assert [holders.place(one) for one in (first, second, bytes(range(3, 19)))] == [0, 1, -1]
    assert list(holders.subjects()) == [first, second]
    assert [len(codes) for codes in holders.codes()] == [2 * TAGGED_CODES] * 2
    assert len(first) == SUBJECT_BYTES
