"""The match weight of a pair by its traits: Fellegi and Sunter, with relatives as a third possibility. Pure.

Two records are of one person, of two people of one household, or of two strangers. Under each of the three a trait's
level has a probability (m, r, u); traits count as independent within each. The weight is the binary logarithm of
the odds of one person against the other two, priors included (Fellegi and Sunter 1969; a third class as in Winkler's
latent class models): repeats M / (relatives R + strangers U), where the priors are how many other records each record
has of the three kinds. Without the third possibility, a twin with the same name, date and address but for one trait
would outweigh any threshold.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log2
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from services.linkage.domain.comparison import (
    BIRTH_DATE,
    BIRTH_PLACE,
    FAMILY_NAME,
    GIVEN_NAME,
    LEVELS,
    RESIDENCE,
    SEX,
    TRAITS,
    Evidence,
    Levels,
    levels_of,
)


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Probabilities of each level by trait, in the order of `LEVELS`: of one person, of a household, of strangers.

    `repeats`, `relatives`, `strangers`: how many other records there are of one person, of relatives, of strangers, for
    each record; `twin_share` of the relatives are twins, who have more in common. `another_number` and `same_number`:
    the probabilities (m, r, u) that numbers of a system that gives a person one differ, or that they are the same
    though the traits contradict (a relative's card, a number given twice). `frequent_names` are blocking tokens of
    names with the share of all subjects that other people with them are, where it is above what u says: they weigh
    less.
    """

    one: dict[str, tuple[float, ...]]
    household: dict[str, tuple[float, ...]]
    twins: dict[str, tuple[float, ...]]
    strangers_by_trait: dict[str, tuple[float, ...]]
    twin_share: float = 0.012
    repeats: float = 1.0
    relatives: float = 3.0
    strangers: float = 1e6
    another_number: tuple[float, float, float] = (0.004, 0.98, 0.98)
    same_number: tuple[float, float, float] = (0.97, 0.05, 1e-8)
    frequent_names: dict[bytes, float] = {}


class Score(msgspec.Struct, frozen=True):
    """A pair's weight; the odds of one person against relatives alone; those of relatives against the rest (bits)."""

    weight: float
    kin: float
    relatives: float


DEFAULT: Final = Weights(
    # Error rates as identity monitoring in French hospitals and linkage studies report them: one to three in a hundred.
    one={
        FAMILY_NAME: (0.92, 0.035, 0.012, 0.006, 0.027),
        GIVEN_NAME: (0.93, 0.025, 0.02, 0.006, 0.004, 0.015),
        BIRTH_DATE: (0.96, 0.022, 0.006, 0.012, 0.97, 0.03),
        SEX: (0.993, 0.007),
        BIRTH_PLACE: (0.95, 0.02, 0.03),
        RESIDENCE: (0.45, 0.15, 0.05, 0.03, 0.01, 0.08, 0.03, 0.2),
        "names_in_order": (0.99, 0.01),
    },
    # A household: parents and children, couples, siblings.
    household={
        FAMILY_NAME: (0.72, 0.01, 0.01, 0.02, 0.24),
        GIVEN_NAME: (0.03, 0.005, 0.03, 0.01, 0.03, 0.895),
        BIRTH_DATE: (0.0005, 0.003, 0.012, 0.9845, 0.05, 0.95),
        SEX: (0.5, 0.5),
        BIRTH_PLACE: (0.35, 0.2, 0.45),
        RESIDENCE: (0.65, 0.15, 0.03, 0.02, 0.01, 0.03, 0.02, 0.09),
        "names_in_order": (0.7, 0.3),
    },
    # One birth in sixty is of twins (INSEE); of three relatives on record, one in eighty is one.
    twins={
        FAMILY_NAME: (0.96, 0.01, 0.005, 0.005, 0.02),
        GIVEN_NAME: (0.002, 0.005, 0.03, 0.01, 0.03, 0.923),
        BIRTH_DATE: (0.97, 0.015, 0.005, 0.01, 0.97, 0.03),
        SEX: (0.65, 0.35),
        BIRTH_PLACE: (0.95, 0.02, 0.03),
        RESIDENCE: (0.65, 0.15, 0.03, 0.02, 0.01, 0.03, 0.02, 0.09),
        "names_in_order": (0.7, 0.3),
    },
    strangers_by_trait={
        FAMILY_NAME: (0.002, 0.0008, 0.005, 0.02, 0.9722),
        GIVEN_NAME: (0.006, 0.0015, 0.02, 0.006, 0.03, 0.9365),
        BIRTH_DATE: (0.00004, 0.0006, 0.01, 0.98936, 0.02, 0.98),
        SEX: (0.5, 0.5),
        BIRTH_PLACE: (0.01, 0.04, 0.95),
        RESIDENCE: (1e-7, 5e-7, 1e-6, 0.00002, 0.001, 0.0007, 0.002, 0.9962784),
        "names_in_order": (0.7, 0.3),
    },
)


_SHAPE: Final = tuple(len(levels) + 1 for levels in LEVELS.values())
_STRIDES: Final = np.array([int(np.prod(_SHAPE[at + 1 :])) for at in range(len(_SHAPE))])


class Scorer:
    """Weights as tables, to look many pairs up at once."""

    def __init__(self, weights: Weights) -> None:
        of = (weights.one, weights.household, weights.twins, weights.strangers_by_trait)
        self._tables = [_table(probabilities) for probabilities in of]
        self._priors = [log2(prior) for prior in _priors(weights)]

    def scores(self, levels: Levels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The weight, and the odds of relatives (both binary logarithms), of each pair (rows of `compare`)."""
        one, household, strangers = self.logarithms(levels)
        return one - np.logaddexp2(household, strangers), household - np.logaddexp2(one, strangers)

    def reach(self, levels: Levels, weight: float, relatives: float) -> NDArray[np.bool_]:
        """Whether a pair's weight, or the odds of relatives, are this high; of each level of traits reckoned once."""
        keys = (levels + 1).astype(np.intp) @ _STRIDES
        distinct = np.flatnonzero(np.bincount(keys))
        weights, odds = self.scores(np.stack(np.unravel_index(distinct, _SHAPE), axis=1).astype(np.int8) - np.int8(1))
        found = np.zeros(np.prod(_SHAPE), np.bool_)
        found[distinct] = (weights >= weight) | (odds >= relatives)
        reached: NDArray[np.bool_] = found[keys]
        return reached

    def logarithms(self, levels: Levels) -> list[NDArray[np.float64]]:
        """For each of the three possibilities, the binary logarithm of prior and probability of each pair."""
        columns = np.arange(len(TRAITS))
        one, household, twins, strangers = (
            table[columns, levels].sum(axis=1) + prior for table, prior in zip(self._tables, self._priors, strict=True)
        )
        return [one, np.logaddexp2(household, twins), strangers]


def score(
    weights: Weights, found: Evidence, name_share: float = 0.0, numbers: tuple[float, float, float] | None = None
) -> Score:
    """The score of one pair. `name_share`: the share of all subjects with these names, where known to be large."""
    one, household, twins, strangers = (log2(prior) for prior in _priors(weights))
    levels = levels_of(found)
    for trait, level in levels.items():
        one += log2(weights.one[trait][level])
        household += log2(weights.household[trait][level])
        twins += log2(weights.twins[trait][level])
        strangers += log2(weights.strangers_by_trait[trait][level])
    strangers += _of_frequent_names(weights, levels, name_share)
    relatives = float(np.logaddexp2(household, twins))
    if numbers is not None:
        one, relatives, strangers = one + log2(numbers[0]), relatives + log2(numbers[1]), strangers + log2(numbers[2])
    return Score(
        weight=float(one - np.logaddexp2(relatives, strangers)),
        kin=one - relatives,
        relatives=float(relatives - np.logaddexp2(one, strangers)),
    )


def _priors(weights: Weights) -> tuple[float, float, float, float]:
    """How many other records each has of the same person, of relatives that are no twins, of twins, of strangers."""
    twins = weights.relatives * weights.twin_share
    return weights.repeats, weights.relatives - twins, twins, weights.strangers


def _of_frequent_names(weights: Weights, levels: Mapping[str, int], share: float) -> float:
    """How much likelier strangers with these very names are than u says, as a binary logarithm; 0 or more."""
    if not share or levels.get(FAMILY_NAME, 9) > 1 or levels.get(GIVEN_NAME, 9) > 1:
        return 0.0
    return max(0.0, log2(share / chance_of_names(weights)))


def chance_of_names(weights: Weights) -> float:
    """How likely two strangers have the same family and given name."""
    return weights.strangers_by_trait[FAMILY_NAME][0] * weights.strangers_by_trait[GIVEN_NAME][0]


def _table(probabilities: Mapping[str, tuple[float, ...]]) -> NDArray[np.float64]:
    """Logarithms by trait and level; the last column, which level -1 finds, says nothing."""
    width = max(map(len, LEVELS.values())) + 1
    table = np.zeros((len(TRAITS), width))
    for place, trait in enumerate(TRAITS):
        table[place, : len(probabilities[trait])] = np.log2(probabilities[trait])
    return table
