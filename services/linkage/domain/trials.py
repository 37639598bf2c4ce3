"""What other rules would make of the pairs that an index keeps: decided again, and settled whole. Pure.

An index keeps no pair of strangers, so a trial cannot link what lies below the thresholds under which it was kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from services.linkage.domain.components import Stewarded
from services.linkage.domain.patients import Decided, Subject, settle, take_apart
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
    patients: dict[bytes, bytes] = {}
    for part in take_apart(subjects, decided, stewards)[0]:
        patients |= settle({it: subjects[it] for it in part.members}, part.decided, part.stewards, rules).patients
    return patients
