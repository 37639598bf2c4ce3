"""Whom new subjects meet under their tokens, and which of these pairs say more than that two are strangers. Pure.

A batch meets a hundred thousand pairs and keeps a few thousand of them; until then they are rows of arrays.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.linkage.domain.comparison import TAGGED_CODES, Evidence, compare_rows, distinct_births, evidence
from services.linkage.domain.components import Pair, pair_of
from services.linkage.domain.rules import RuleVersion
from services.linkage.domain.scoring import Scorer
from services.linkage.domain.tokens import BLOCKING

SUBJECT_BYTES: Final = 16
_HOLDER: Final = np.dtype([("subject", f"V{SUBJECT_BYTES}"), ("codes", "<u2", TAGGED_CODES)])
_SIZE: Final = _HOLDER.itemsize


@dataclass(frozen=True, slots=True)
class Holders:
    """The subjects that carry a token: each one's id and its tagged row of codes (zeros for none), end to end."""

    rows: bytes

    @property
    def count(self) -> int:
        """How many they are."""
        return len(self.rows) // _SIZE

    def subjects(self) -> Iterator[bytes]:
        """Their ids."""
        return (self.rows[at : at + SUBJECT_BYTES] for at in range(0, len(self.rows), _SIZE))

    def codes(self) -> Iterator[bytes]:
        """Their rows of codes, in the same order."""
        return (self.rows[at + SUBJECT_BYTES : at + _SIZE] for at in range(0, len(self.rows), _SIZE))

    def place(self, subject: bytes) -> int:
        """Which of them this subject is; -1 if it is none of them."""
        at = self.rows.find(subject)
        while at >= 0 and at % _SIZE:
            at = self.rows.find(subject, at + 1)
        return at // _SIZE


def is_over(rules: RuleVersion, system: str, holders: Holders) -> bool:
    """Whether so many carry a token that it says nothing of who they are."""
    if holders.count > rules.most(system):
        return True
    few = holders.count <= rules.most_births or system in BLOCKING
    return not few and distinct_births(holders.codes()) > rules.most_births


class Meetings:
    """The subjects of a search with everybody who carries one of their tokens, themselves included."""

    def __init__(self, searched: Mapping[bytes, Iterable[bytes]], holders: Mapping[bytes, Holders]) -> None:
        self._searched = {
            subject: sorted(token for token in tokens if holders[token].count > 1)
            for subject, tokens in searched.items()
        }
        self._holders = holders
        self._order = {subject: number for number, subject in enumerate(searched)}
        tokens = set().union(*self._searched.values())
        self._rows = np.frombuffer(b"".join(holders[token].rows for token in tokens), _HOLDER)
        counts = np.array([holders[token].count for token in tokens], np.intp)
        start = dict(zip(tokens, (np.cumsum(counts) - counts).tolist(), strict=True))
        met = [(subject, token) for subject, own in self._searched.items() for token in own]
        own = np.array([start[token] + holders[token].place(subject) for subject, token in met], np.intp)
        sizes = np.array([holders[token].count for _, token in met], np.intp)
        first = np.cumsum(sizes) - sizes
        self._first: dict[tuple[bytes, bytes], int] = dict(zip(met, first.tolist(), strict=True))
        self._left = np.repeat(own, sizes)
        starts = np.array([start[token] for _, token in met], np.intp)
        self._right = np.arange(len(self._left)) + np.repeat(starts - first, sizes)

    def worth_deciding(
        self, identifying: Collection[bytes], rules: RuleVersion, scorer: Scorer
    ) -> dict[Pair, Evidence]:
        """The pairs that share a token of `identifying`, or whose traits are not strangers', with their evidence.

        A pair is compared under the least token that it shares (codes agree alike under each, but for rare collisions).
        """
        levels = compare_rows(self._rows["codes"], self._left, self._right)
        alike = scorer.reach(levels, rules.review, rules.household) & (self._left != self._right)
        identified = set(self._sharing(identifying))
        found: dict[Pair, Evidence] = {}
        for pair in identified.union(map(self._pair, np.flatnonzero(alike).tolist())):
            entry = self._entry(pair)
            if alike[entry] or pair in identified:
                found[pair] = evidence(levels[entry])
        return found

    def _sharing(self, tokens: Collection[bytes]) -> Iterator[Pair]:
        for subject, own in self._searched.items():
            for token in own:
                if token in tokens:
                    others = (other for other in self._holders[token].subjects() if other != subject)
                    yield from (pair_of(subject, other) for other in others)

    def _pair(self, entry: int) -> Pair:
        left, right = self._rows["subject"][[self._left[entry], self._right[entry]]].tolist()
        return pair_of(left, right)

    def _entry(self, pair: Pair) -> int:
        """Where a pair is compared: as the one searched first sees it, under the least token that the two share."""
        subject = min(pair, key=lambda it: self._order.get(it, len(self._order)))
        other = pair[pair[0] == subject]
        for token in self._searched[subject]:
            if (place := self._holders[token].place(other)) >= 0:
                return self._first[subject, token] + place
        raise ValueError("the two share no token")
