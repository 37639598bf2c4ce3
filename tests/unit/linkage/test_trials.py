"""What other thresholds would make of an index's pairs: the same code, and nothing else than the service's own word."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import msgspec
import pytest

from contracts.events import Identity
from estuaire.traps import labelled
from services.ingest.domain.tokens import Tokeniser
from services.linkage.domain.decide import SCORED
from services.linkage.domain.patients import Decided, Subject, decide_again
from services.linkage.domain.rules import RULES
from services.linkage.domain.trials import LINKING, settle_all, shifted
from tests.unit.linkage.builders import sets
from tests.unit.linkage.test_orders import from_scratch

pytestmark = pytest.mark.unit


@cache
def population() -> tuple[dict[bytes, Subject], list[Decided], set[frozenset[bytes]]]:
    """Subjects, the pairs kept of them, and the partition as one component."""
    tokeniser = Tokeniser({1: b"1" * 32})
    events = [one.event for one in labelled(seed=3, people=150, records=450)]
    blocks = {
        block.subject: block
        for block in (
            tokeniser.block(one["source"], Identity.model_validate(one["data"]["identity"]), one["id"])
            for one in events
        )
    }
    component, kept = from_scratch(blocks, frozenset(blocks), {}, RULES)
    subjects = {subject: Subject(seq, None, block) for seq, (subject, block) in enumerate(blocks.items())}
    return subjects, kept, sets(component.patients)


def test_no_shift_changes_nothing() -> None:
    subjects, kept, partition = population()
    assert shifted(RULES, 0) == RULES
    assert decide_again(kept, subjects, RULES) == kept
    assert sets(settle_all(subjects, kept, [], RULES)) == partition


def test_every_threshold_that_links_is_moved_and_no_other() -> None:
    before, after = (msgspec.structs.asdict(rules) for rules in (RULES, shifted(RULES, 3)))
    assert {name for name, value in before.items() if after[name] != value} == set(LINKING)
    assert all(after[name] == before[name] + 3 for name in LINKING)


def test_higher_thresholds_link_no_more() -> None:
    """Which is why a pair that is decided alike at both ends is decided alike between."""
    subjects, kept, _ = population()
    linked = [
        {one.pair for one in decide_again(kept, subjects, shifted(RULES, bits)) if one.links} for bits in range(-9, 21)
    ]
    assert all(later <= earlier for earlier, later in pairwise(linked))
    assert linked[0] > linked[9] > linked[-1]


def test_identifiers_alone_link_whatever_the_thresholds() -> None:
    subjects, kept, _ = population()
    firm = {one.pair for one in kept if one.links and one.decision.rank < SCORED}
    assert firm <= {one.pair for one in decide_again(kept, subjects, shifted(RULES, 1000)) if one.links}
