"""What the next rule version would be, from what the index holds: estimated and named, and only proposed."""

from __future__ import annotations

import hashlib
from itertools import combinations
from typing import Final, Protocol

import msgspec
import numpy as np

from contracts.messages import TokenBlock
from services.linkage.adapters import Holder
from services.linkage.domain.comparison import compare_tagged
from services.linkage.domain.components import Pair, pair_of
from services.linkage.domain.estimation import estimate
from services.linkage.domain.rules import RuleVersion
from services.linkage.domain.scoring import chance_of_names
from services.linkage.domain.tokens import BIRTH, BLOCKING, NAMES, SYSTEMS, search_tokens

SAMPLED: Final = 100_000
"""How many subjects' tokens are looked at; of a larger index as large a share of the tokens."""

_MOST: Final = 10_000
"""Tokens of each kind that a version names, so that it can travel."""


class Sampler(Protocol):
    """What an estimation reads."""

    def count_subjects(self) -> int:
        """How many subjects there are."""

    def sample(self, share: float, most: int) -> list[list[Holder]]:
        """Who carries each of this share of the tokens, of those that two to `most` carry."""

    def blocks(self, subjects: list[bytes]) -> dict[bytes, TokenBlock]:
        """Subjects' blocks."""

    def frequent(self, kind: str, least: int) -> dict[bytes, int]:
        """How many carry each token of a kind, where it is this many at least."""


def propose(index: Sampler, before: RuleVersion) -> RuleVersion:
    """The version after `before` that fits the index best. The same index and version give the same proposal."""
    subjects = index.count_subjects()
    share = min(1.0, SAMPLED / max(subjects, 1))
    met: dict[Pair, tuple[bytes, bytes]] = {}
    for holders in index.sample(share, before.most_in_block):
        for one, other in combinations(holders, 2):
            met.setdefault(pair_of(one.subject, other.subject), (one.codes, other.codes))
    levels = compare_tagged(list(met.values()))
    systems = {
        subject: search_tokens(block)
        for subject, block in index.blocks(sorted({one for pair in met for one in pair})).items()
    }
    tokens = {subject: frozenset(own) for subject, own in systems.items()}
    dates = frozenset(token for own in systems.values() for token, kind in own.items() if kind == BIRTH)
    # who shares more tokens is met more often: each pair counts once
    shared = [tokens[left] & tokens[right] for left, right in met]
    counts = np.array([1 / max(1, len(one)) for one in shared]) if share < 1 else None
    by_date = np.array([len(one) == 1 and one <= dates for one in shared], bool)
    found = estimate(levels, levels[by_date], counts, max(1, round(subjects * share)), before.weights)
    # of those who carry somebody's names, so many are not that person's own records
    others = {token: count - 1 - found.repeats for token, count in index.frequent(NAMES, 3).items()}
    weights = msgspec.structs.replace(
        found,
        strangers=float(max(subjects, 2)),
        frequent_names={
            token: count / subjects
            for token, count in sorted(others.items(), key=lambda one: (-one[1], one[0]))[:_MOST]
            if count / subjects > chance_of_names(before.weights)
        },
    )
    common = {
        token: count
        for system in (*BLOCKING, *SYSTEMS)
        for token, count in index.frequent(system, before.most(system) + 1).items()
    }
    # the others are found again as they are met
    commonest = frozenset(sorted(common, key=lambda token: (-common[token], token))[:_MOST])
    proposed = msgspec.structs.replace(before, weights=weights, too_common=commonest)
    return msgspec.structs.replace(proposed, name=f"{before.name.partition('+')[0][:50]}+{_digest(proposed)}")


def _digest(version: RuleVersion) -> str:
    content = (version.weights, sorted(version.too_common))
    return hashlib.sha256(msgspec.msgpack.encode(content)).hexdigest()[:8]
