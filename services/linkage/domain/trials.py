"""What other rules would make of the pairs that an index keeps: decided again, and settled whole. Pure.

An index keeps no pair of strangers, so a trial cannot link what lies below the thresholds under which it was kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Final

import msgspec

from services.linkage.domain.components import Stewarded, split_into_components
from services.linkage.domain.patients import Decided, Subject, settle
from services.linkage.domain.rules import RuleVersion

LINKING: Final = ("link", "link_nameless", "link_contradicted", "link_kin", "link_against")
"""The thresholds from which on a weight links. (Those of reviews, households and the margin guard and ask.)"""


def shifted(rules: RuleVersion, bits: float) -> RuleVersion:
    """The rules with every linking threshold so many bits higher. Nothing links by a weight below `review`."""
    return msgspec.structs.replace(rules, **{name: getattr(rules, name) + bits for name in LINKING})


def settle_all(
    subjects: Mapping[bytes, Subject], decided: Sequence[Decided], stewards: Sequence[Stewarded], rules: RuleVersion
) -> dict[bytes, bytes]:
    """The founding subject of each subject's patient, component by component."""
    bound = chain((one.pair for one in decided if one.binds), ((one.left, one.right) for one in stewards))
    members = split_into_components(subjects, bound)
    place = {subject: number for number, component in enumerate(members) for subject in component}
    within: list[list[Decided]] = [[] for _ in members]
    for one in decided:
        if place[one.left] == place[one.right]:
            within[place[one.left]].append(one)
    told: list[list[Stewarded]] = [[] for _ in members]
    for said in stewards:
        told[place[said.left]].append(said)
    patients: dict[bytes, bytes] = {}
    for component, own, said_of in zip(members, within, told, strict=True):
        patients |= settle({it: subjects[it] for it in component}, own, said_of, rules).patients
    return patients
