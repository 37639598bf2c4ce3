"""What a next version of the weights would be: expectation and maximisation over pairs that met. Pure.

Learnt are what the records of one person have in common, how many records of one person and of relatives there are, and
how often strangers are of one place, where that is often (half of a city's people on one file). Pairs that met by a
token are no sample of strangers, but those are, nearly, that share their birth date's token and no other, and whose
other traits rather say so: about one in fifty is garbled records of one person, so an agreement up to that share is
taken for theirs. It proposes; a version changes nothing until it is switched on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from services.linkage.domain.comparison import (
    ABSENT,
    BIRTH_DATE,
    BIRTH_PLACE,
    FAMILY_NAME,
    GIVEN_NAME,
    LEVELS,
    RESIDENCE,
    TRAITS,
    Levels,
)
from services.linkage.domain.scoring import Scorer, Weights

_ROUNDS: Final = 100
_FIRM: Final = 100.0
"""How many pairs the former probabilities of a trait count for."""
_GARBLED: Final = 0.02
"""The share of pairs with a birth date alone in common that may be records of one person all the same."""
_CLEARLY: Final = -2.0
"""The weight (bits) of the traits besides the date up to which two with one birth date count as strangers."""
_ANOTHER: Final = {FAMILY_NAME: 0.1, GIVEN_NAME: 0.12, BIRTH_DATE: 0.05}
"""The largest share of a person's records that may have another name or birth date (bounds on m: Winkler 1993).

Without them, namesakes count as garbled dates, and, from some share of them on, all who share a house as one person."""
_FEWEST: Final = 1e-5
_HOUSEHOLD: Final = 3.0
"""The most relatives that a record has: what looks like more are neighbours."""


def estimate(
    levels: Levels, strangers: Levels, counts: NDArray[np.float64] | None, subjects: int, before: Weights
) -> Weights:
    """The weights that fit pairs (rows of `compare`, each counted so often) of so many subjects best.

    `strangers` are those of the pairs that share their birth date's token and no other.

    Expectation-maximisation (Dempster, Laird and Rubin 1977; for linkage, Winkler 1988).
    """
    places = {trait: _raised(trait, strangers, before) for trait in (BIRTH_PLACE, RESIDENCE)}
    by_chance = before.strangers_by_trait | places
    found = msgspec.structs.replace(before, strangers=float(max(subjects, 2)), strangers_by_trait=by_chance)
    if not len(levels):
        return found
    distinct, where = np.unique(levels, axis=0, return_inverse=True)
    together = np.bincount(where.ravel(), counts, len(distinct))
    for _ in range(_ROUNDS):
        logs = np.stack(Scorer(found).logarithms(distinct))
        shares = np.exp2(logs - np.logaddexp2.reduce(logs, axis=0)) * together
        found = msgspec.structs.replace(
            found,
            one={trait: _fit(trait, distinct[:, at], shares[0], before.one) for at, trait in enumerate(TRAITS)},
            repeats=max(_FEWEST, 2 * float(shares[0].sum()) / subjects),
            relatives=max(_FEWEST, 2 * float(shares[1].sum()) / subjects),
        )
    return msgspec.structs.replace(found, relatives=min(found.relatives, _HOUSEHOLD))


def _raised(trait: str, levels: Levels, before: Weights) -> tuple[float, ...]:
    """How often strangers agree in a place, raised where the sample shows more than garbled records account for."""
    former = before.strangers_by_trait[trait]
    undated = levels.copy()
    undated[:, TRAITS.index(BIRTH_DATE)] = ABSENT
    one, _, strangers = Scorer(msgspec.structs.replace(before, repeats=1, strangers=1)).logarithms(undated)
    there = undated[one - strangers < _CLEARLY, TRAITS.index(trait)]
    there = there[there != ABSENT]
    if len(there) < _FIRM:
        return former
    shares = np.bincount(there, minlength=len(former)) / len(there)
    raised = [max(one, float(share) - _GARBLED) for one, share in zip(former[:-1], shares, strict=False)]
    return (*raised, max(_FEWEST, 1 - sum(raised)))


def _bounded(probabilities: NDArray[np.float64], most: float) -> NDArray[np.float64]:
    """The same with the last at `most`, if it is above; the others grow in proportion."""
    if probabilities[-1] <= most:
        return probabilities
    return np.append(probabilities[:-1] * (1 - most) / (1 - probabilities[-1]), most)


def _fit(
    trait: str, levels: Levels, shares: NDArray[np.float64], before: Mapping[str, tuple[float, ...]]
) -> tuple[float, ...]:
    """The probabilities of a trait's levels; those of a part of a birth date add up to one by themselves."""
    size = len(LEVELS[trait])
    there = levels >= 0
    seen = np.bincount(levels[there], shares[there], size)
    former = np.array(before[trait])
    groups = [slice(0, 4), slice(4, 6)] if trait == BIRTH_DATE else [slice(0, size)]
    fitted = np.empty(size)
    for group in groups:
        fitted[group] = (seen[group] + _FIRM * former[group]) / (seen[group].sum() + _FIRM)
        if group.start == 0 and trait in _ANOTHER:
            fitted[group] = _bounded(fitted[group], _ANOTHER[trait])
    return tuple(fitted.tolist())
