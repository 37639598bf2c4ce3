"""Whom an opposition withholds besides its own patient: everybody who may be the same person. Pure.

An objection must not fail because a link is in doubt: what suffices to ask a steward suffices to withhold, until the
steward says that the two are apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from services.linkage.domain.components import Pair


def suspects(
    opposed: Iterable[bytes], patients: Mapping[bytes, bytes], doubts: Iterable[Pair], apart: Collection[Pair]
) -> dict[bytes, frozenset[bytes]]:
    """For each subject that objects, those of other patients whom a doubt ties to a subject of its own patient.

    `patients` has every subject of the components concerned; `apart` are the pairs that stewards have separated.
    """
    tied: defaultdict[bytes, set[bytes]] = defaultdict(set)
    for pair in doubts:
        if pair not in apart and patients[pair[0]] != patients[pair[1]]:
            for one, other in (pair, pair[::-1]):
                tied[patients[one]].add(other)
    return {subject: frozenset(tied.get(patients[subject], ())) for subject in opposed}
