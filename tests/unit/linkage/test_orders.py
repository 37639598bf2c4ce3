"""Any order of arrival ends in the same patients: those that all the records give from scratch, at once.

A labelled population, a part of it corrected to another identity, corrected back or retracted, with stewards' decisions
among the records. `make orders` runs 200 orders of 5,000 records.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Final, NamedTuple

import msgspec
import pytest

from contracts import messages
from contracts.events import Identity
from contracts.messages import StewardDecision, TokenBlock
from estuaire.traps import labelled
from runtime.messages import Message, Outputs
from services.ingest.domain.tokens import Tokeniser
from services.linkage import handlers
from services.linkage.adapters import PatientIndex
from services.linkage.domain.comparison import compare_tagged, distinct_births, evidence, tagged_rows
from services.linkage.domain.components import Pair, Stewarded, pair_id, pair_of
from services.linkage.domain.decide import Outcome, is_worth_keeping
from services.linkage.domain.patients import Component, Decided, Subject, decide_pairs, settle
from services.linkage.domain.rules import RULES, RuleVersion
from services.linkage.domain.scoring import Scorer
from services.linkage.domain.tokens import BLOCKING, identifying_tokens, search_tokens
from services.linkage.erasure import DECISIONS
from services.linkage.handlers import RESCANS, Link
from tests.unit.linkage.builders import Topic, apply_links, opener, sets, switched
from tests.unit.linkage.memory import MemoryIndex

pytestmark = pytest.mark.unit

ORDERS: Final = int(os.environ.get("ESTUAIRE_ORDERS", "6"))
RECORDS: Final = int(os.environ.get("ESTUAIRE_ORDER_RECORDS", "600"))


VERSIONS: Final = {
    one.name: one
    for one in (
        RULES,
        msgspec.structs.replace(
            RULES,
            name="looser",
            link=-4.0,
            link_kin=0.0,
            link_contradicted=-2.0,
            review=-6.0,
            most_holders=90,
            margin=1.0,
        ),
        msgspec.structs.replace(
            RULES, name="stricter", link=9.0, review=3.0, household=9.0, most_in_block=6, most_births=2, margin=9.0
        ),
    )
}


class History(NamedTuple):
    """Messages in any order; the subjects that a record is still about; who is whose in the end; the pairs kept."""

    messages: Sequence[Message]
    live: frozenset[bytes]
    patients: Mapping[bytes, bytes]
    pairs: frozenset[Pair]


@cache
def history(seed: int, records: int, under: str = RULES.name) -> History:
    """`records` records; one in eight has a second state, one in twenty a third, one in forty is retracted.

    The patients are who they are `under` the version of this name.
    """
    rng = random.Random(seed)
    tokeniser = Tokeniser({1: b"1" * 32})
    drawn = [one.event for one in labelled(seed, max(100, records // 3), records)]
    blocks = [
        tokeniser.block(one["source"], Identity.model_validate(one["data"]["identity"]), one["id"]) for one in drawn
    ]
    topic = Topic()
    found, current = [], {}
    for number, block in enumerate(blocks):
        states = [block]
        if rng.random() < 0.125:
            states.append(rng.choice(blocks))
            if rng.random() < 0.4:
                states.append(rng.choice((block, rng.choice(blocks))))
        for version, state in enumerate(states, 1):
            block = msgspec.structs.replace(state, correction=version > 1)
            found.append(topic.record(f"e{number}", block, digest=f"d{version}", version=version))
        current[number] = states[-1].subject
        if rng.random() < 0.025:
            gone = msgspec.structs.replace(states[-1], correction=False)
            found.append(topic.record(f"e{number}", gone, digest="x", kind="claim.v1.deleted", version=9))
            del current[number]
    known = {block.subject: block for block in blocks}
    live = frozenset(current.values())
    doubtful = from_scratch(known, live, {}, RULES)[1]
    said: dict[Pair, bool] = {}
    asked = [one.pair for one in doubtful if one.decision.outcome is Outcome.REVIEW or one.links]
    chosen = rng.sample(sorted(asked), min(len(asked), records // 25))
    chosen += [pair_of(*rng.sample(sorted(live), 2)) for _ in range(records // 100)]
    for at, pair in enumerate(chosen):
        words = [rng.choice((True, False, None)) for _ in range(rng.choice((1, 1, 2)))]
        for turn, together in enumerate(words):
            found.append(_decision(StewardDecision(*pair, together, "steward", 10 * at + turn), len(found)))
        said.pop(pair, None)
        if words[-1] is not None:
            said[pair] = words[-1]
    component, kept = from_scratch(known, live, said, VERSIONS[under])
    return History(found, live, component.patients, frozenset(one.pair for one in kept))


def _decision(said: StewardDecision, offset: int) -> Message:
    key = pair_id((said.left, said.right)).encode()
    return Message(DECISIONS, 0, offset, 0, key, messages.encode(said), {})


def from_scratch(
    blocks: Mapping[bytes, TokenBlock], live: frozenset[bytes], said: Mapping[Pair, bool], rules: RuleVersion
) -> tuple[Component, list[Decided]]:
    """Everybody as one component, every pair that shares a token compared, without an index."""
    holders: defaultdict[bytes, list[bytes]] = defaultdict(list)
    systems: dict[bytes, str] = {}
    rows = {subject: tagged_rows(block) for subject, block in blocks.items()}
    for subject, block in blocks.items():
        for token, system in search_tokens(block).items():
            holders[token].append(subject)
            systems[token] = system
    common = frozenset(
        token for token, who in holders.items() if _says_nothing(systems[token], token, who, rows, rules)
    )
    rules = rules.without(common)
    pairs = sorted(
        {pair_of(*pair) for token, who in holders.items() if token not in common for pair in combinations(who, 2)}
    )
    met = [min(rows[left].keys() & rows[right].keys() - common) for left, right in pairs]
    levels = compare_tagged(
        [(rows[left][token], rows[right][token]) for (left, right), token in zip(pairs, met, strict=True)]
    )
    weights, relatives = Scorer(rules.weights).scores(levels)
    near = (weights >= rules.review) | (relatives >= rules.household)
    subjects = {
        subject: Subject(seq, None, block, subject not in live) for seq, (subject, block) in enumerate(blocks.items())
    }
    seen = {
        (left, right): evidence(levels[at])
        for at, (left, right) in enumerate(pairs)
        if near[at] or identifying_tokens(blocks[left]).keys() & identifying_tokens(blocks[right]).keys() - common
    }
    kept = [one for one in decide_pairs(seen, subjects, rules) if is_worth_keeping(one.decision)]
    return settle(subjects, kept, [Stewarded(*pair, together) for pair, together in said.items()], rules), kept


def _says_nothing(
    system: str,
    token: bytes,
    who: Sequence[bytes],
    rows: Mapping[bytes, Mapping[bytes, bytes]],
    rules: RuleVersion,
) -> bool:
    births = distinct_births(rows[subject][token] for subject in who)
    return len(who) > rules.most(system) or (system not in BLOCKING and births > rules.most_births)


def fed(index: PatientIndex, given: Sequence[Message], rng: random.Random) -> dict[bytes, str]:
    """Who is whose, as a consumer of patient-links knows it after these messages in batches of any size."""
    step = Link(index, opener())
    known: dict[bytes, str] = {}
    rest = list(given)
    while rest:
        size = rng.choice((1, 7, 50, 400))
        batch, rest = rest[:size], rest[size:]
        step.prepare(batch)
        with index.apart():
            outputs: Outputs = step.handle(batch)
        assert not outputs.dead
        apply_links(known, outputs)
        for _, emit in outputs.emits:
            if emit.topic == RESCANS:
                again = Message(RESCANS, emit.partition, len(rest), 0, emit.key, emit.value or b"", {})
                rest.insert(rng.randrange(len(rest) + 1), again)
    return known


@pytest.mark.parametrize("order", range(ORDERS))
def test_any_order_and_batching_is_the_partition_from_scratch(order: int) -> None:
    given = history(order % 5, RECORDS)
    rng = random.Random(order)
    index = MemoryIndex()
    known = fed(index, rng.sample(given.messages, len(given.messages)), rng)
    assert given.live <= known.keys()
    assert sets(known) == sets({subject: given.patients[subject] for subject in known})
    check_pairs(index, given)


def check_pairs(index: MemoryIndex, given: History) -> None:
    """All the pairs that are worth keeping, and no others but those that a token brought together before it lapsed."""
    tokens = {subject: search_tokens(one.block).keys() for subject, one in index.subjects.items()}
    kept = {pair for pair in given.pairs if index.subjects.keys() >= set(pair)}
    assert kept <= index.edges.keys()
    assert all(index.common & tokens[left] & tokens[right] for left, right in index.edges.keys() - kept)
    bound = {one.pair for one in index.edges.values() if one.binds} | index.said.keys()
    assert {pair_of(one, other) for one, others in index.near.items() for other in others} == bound


@pytest.mark.parametrize("order", range(ORDERS))
def test_rules_switched_amid_the_records_end_in_the_partition_of_the_last(
    order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was linked before under others, and whether it was looser or stricter than the last or neither."""
    rng = random.Random(order)
    monkeypatch.setattr(handlers, "RESCANNED", rng.choice((7, 40)))
    names = [rng.choice(sorted(VERSIONS))]
    while len(names) < 4:
        names.append(rng.choice(sorted(VERSIONS.keys() - {names[-1]})))
    names = names[-rng.choice((2, 3, 4)) :]
    given = history(order % 5, RECORDS, names[-1])
    mixed = rng.sample(given.messages, len(given.messages))
    places = sorted(rng.sample(range(len(mixed) + 1), len(names) - 1), reverse=True)
    for turn, name in reversed(list(enumerate(names[1:]))):
        mixed.insert(places.pop(0), switched(VERSIONS[name], turn))
    index = MemoryIndex(VERSIONS[names[0]])
    known = fed(index, mixed, rng)
    assert given.live <= known.keys()
    assert sets(known) == sets({subject: given.patients[subject] for subject in known})
    assert {one.rules for one in index.edges.values()} == {names[-1]}
    assert set(index.reached) == set(index.reached.values()), "everybody has been searched again"
    check_pairs(index, given)
