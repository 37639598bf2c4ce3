"""How alike two subjects are, trait by trait, from their codes under one shared token. Pure, many pairs at once.

A trait's likeness is one of a few levels, written as a number from 0 (another) to 1 (the same); each level means the
same wherever it is read: in a decision, in the index, on a steward's page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from contracts.comparison import CODE_BYTES, PARTS, ROW_BYTES, ROW_CODES
from contracts.messages import TokenBlock

Codes = NDArray[np.uint16]
Levels = NDArray[np.int8]
Evidence = Mapping[str, float]
"""By trait, the value of its level; a trait that one side lacks is not there."""

FAMILY_NAME: Final = "family_name"
GIVEN_NAME: Final = "given_name"
BIRTH_DATE: Final = "birth_date"
SEX: Final = "sex"
BIRTH_PLACE: Final = "birth_place"
RESIDENCE: Final = "residence"

LEVELS: Final[dict[str, tuple[float, ...]]] = {
    # Of twelve codes of the bigrams: all, nine, six, five, fewer. The best of birth and used names, either way.
    FAMILY_NAME: (1.0, 0.75, 0.5, 0.3, 0.0),
    # The same of the first given name; 0.6: another given name is the same, whole.
    GIVEN_NAME: (1.0, 0.75, 0.6, 0.5, 0.3, 0.0),
    # All digits; all but one, or day and month swapped; all but two; fewer. Of a part of the date: the same, another.
    BIRTH_DATE: (1.0, 0.9, 0.5, 0.0, 0.8, 0.1),
    SEX: (1.0, 0.0),
    # The place; its department (or born abroad); another.
    BIRTH_PLACE: (1.0, 0.4, 0.0),
    # Of twelve codes of the address: eleven, seven, with the commune or postcode and the city; seven with one of them;
    # four with both; seven alone; no address, but both; one; nothing.
    RESIDENCE: (1.0, 0.95, 0.9, 0.8, 0.6, 0.5, 0.3, 0.0),
    # Given and family name are each other's.
    "names_in_order": (1.0, 0.0),
}
TRAITS: Final = tuple(LEVELS)
ABSENT: Final = -1
TAGGED_CODES: Final = 1 + ROW_CODES
"""A row of codes after the tag of its version."""
_BIRTH_PARTS: Final = {"year": slice(4), "month": slice(4, 6), "day": slice(6, 8)}
"""Where the parts of a birth date are among its digits."""
_NAME_LIMITS: Final = (12, 9, 6, 5)
_AT_ONCE: Final = 4096
"""Pairs that are compared at once: about as many as a processor's cache holds."""


def compare(left: Codes, right: Codes) -> Levels:
    """The level of each trait (columns: TRAITS) for pairs of rows (shape: pairs, ROW_CODES).

    ABSENT where one of the two lacks it. Raises ValueError on rows of another layout.
    """
    if not left.shape[1] == right.shape[1] == ROW_CODES:
        raise ValueError("rows of another layout")
    found = np.full((len(left), len(TRAITS)), ABSENT, np.int8)
    for start in range(0, len(left), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        found[some] = _compare(np.ascontiguousarray(left[some].T), np.ascontiguousarray(right[some].T)).T
    return found


def _compare(left: Codes, right: Codes) -> Levels:
    """`compare` on columns (shapes: ROW_CODES, pairs and TRAITS, pairs), so that each operation is on many pairs."""
    family, given, in_order = _names(left, right)
    columns = {
        FAMILY_NAME: family,
        GIVEN_NAME: given,
        BIRTH_DATE: _birth_date(left, right),
        SEX: _whole(left, right, "sex"),
        BIRTH_PLACE: _birth_place(left, right),
        RESIDENCE: _residence(left, right),
        "names_in_order": in_order,
    }
    return np.stack([columns[trait] for trait in TRAITS])


def tagged_rows(block: TokenBlock) -> dict[bytes, bytes]:
    """By each token of a block its row of codes, after a tag of the version that they compare within; or nothing."""
    tokens = list(block.meeting_tokens())
    if not block.codes:
        return dict.fromkeys(tokens, b"")
    tag = hashlib.sha256(block.code_version.encode()).digest()[:CODE_BYTES]
    rows = (tag + block.codes[start : start + ROW_BYTES] for start in range(0, len(block.codes), ROW_BYTES))
    return dict(zip(tokens, rows, strict=True))


def compare_tagged(pairs: Sequence[tuple[bytes, bytes]]) -> Levels:
    """`compare` on rows as `tagged_rows` has them; all ABSENT where one has none, or another version."""
    found = np.full((len(pairs), len(TRAITS)), ABSENT, np.int8)
    places = [
        place
        for place, (left, right) in enumerate(pairs)
        if len(left) == len(right) == CODE_BYTES + ROW_BYTES and left[:CODE_BYTES] == right[:CODE_BYTES]
    ]
    if places:
        left, right = (
            np.frombuffer(b"".join(pairs[place][side] for place in places), "<u2").reshape(len(places), -1)[:, 1:]
            for side in (0, 1)
        )
        found[places] = compare(left, right)
    return found


def compare_rows(rows: Codes, left: NDArray[np.intp], right: NDArray[np.intp]) -> Levels:
    """`compare` on pairs of tagged rows (shape: rows, TAGGED_CODES), by their numbers; all ABSENT where tags differ."""
    found = np.empty((len(left), len(TRAITS)), np.int8)
    for start in range(0, len(left), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        mine, theirs = (np.ascontiguousarray(rows[side[some]].T) for side in (left, right))
        found[some] = np.where(mine[0] == theirs[0], _compare(mine[1:], theirs[1:]), ABSENT).T
    return found


def birth_parts(left: bytes, right: bytes) -> dict[str, bool]:
    """Whether year, month and day of birth are the same, by two tagged rows under one token; none that one lacks."""
    if not (len(left) == len(right) == CODE_BYTES + ROW_BYTES and left[:CODE_BYTES] == right[:CODE_BYTES]):
        return {}
    mine, theirs = (_codes(np.frombuffer(one, "<u2")[1:], "birth_digits") for one in (left, right))
    return {
        part: bool((mine[digits] == theirs[digits]).all())
        for part, digits in _BIRTH_PARTS.items()
        if mine[digits].all() and theirs[digits].all()
    }


def distinct_births(rows: Iterable[bytes]) -> int:
    """How many different whole birth dates there are among tagged rows under one token."""
    start, stop = (CODE_BYTES * (1 + place) for place in (PARTS["birth_digits"].start, PARTS["birth_digits"].stop))
    dates = {row[start:stop] for row in rows}
    return sum(b"\0\0" not in {date[at : at + 2] for at in range(0, len(date), 2)} for date in dates if date)


def evidence(levels: Levels) -> dict[str, float]:
    """One pair's levels as evidence."""
    return {
        trait: LEVELS[trait][level] for trait, level in zip(TRAITS, levels.tolist(), strict=True) if level != ABSENT
    }


def levels_of_all(found: Sequence[Evidence]) -> Levels:
    """The levels of each evidence (shape: evidences, TRAITS), ABSENT where it says nothing."""
    levels = np.full((len(found), len(TRAITS)), ABSENT, np.int8)
    for place, one in enumerate(found):
        for trait, level in levels_of(one).items():
            levels[place, TRAITS.index(trait)] = level
    return levels


def levels_of(found: Evidence) -> dict[str, int]:
    """The level of each trait of an evidence; traits and values that this version does not know are left out."""
    return {
        trait: LEVELS[trait].index(value)
        for trait, value in found.items()
        if trait in LEVELS and value in LEVELS[trait]
    }


def _codes(columns: Codes, part: str) -> Codes:
    return columns[PARTS[part].start : PARTS[part].stop]


def _shared(left: Codes, right: Codes) -> Levels:
    """How many codes of the left sets are in the right ones; -1 where one is absent."""
    count = np.zeros(left.shape[1], np.int8)
    for code in left:
        count += (right == code).any(axis=0) & (code != 0)
    count[~(left.any(axis=0) & right.any(axis=0))] = -1
    return count


def _names(left: Codes, right: Codes) -> tuple[Levels, Levels, Levels]:
    families = ("birth_family_name", "used_family_name")

    def best(mine: tuple[str, ...], theirs: tuple[str, ...]) -> NDArray[np.intp]:
        found = [_shared(_codes(left, one), _codes(right, other)) for one in mine for other in theirs]
        best_of: NDArray[np.intp] = np.max(found, axis=0)
        return best_of

    family, given = best(families, families), best(("given_name",), ("given_name",))
    crossed = best(families, ("given_name",)), best(("given_name",), families)
    straight = np.maximum(family, 0) + np.maximum(given, 0)
    swapped = np.maximum(crossed[0], 0) + np.maximum(crossed[1], 0) >= straight + 7
    another = _shared(_codes(left, "given_names"), _codes(right, "given_names")) > 0
    # either way round, the same two give the same evidence
    family = _graded(np.where(swapped, np.maximum(*crossed), family), _NAME_LIMITS)
    given = _graded(np.where(swapped, np.minimum(*crossed), given), _NAME_LIMITS)
    given = np.where(given >= 2, given + 1, given)
    given = np.where(another & (given > 2), 2, given)
    in_order = np.where(swapped, 1, np.where((family == ABSENT) | (given == ABSENT), ABSENT, 0))
    return family.astype(np.int8), given.astype(np.int8), in_order.astype(np.int8)


def _graded(shared: NDArray[np.intp], limits: tuple[int, ...]) -> NDArray[np.intp]:
    level = np.zeros(len(shared), np.intp)
    for limit in limits:
        level += shared < limit
    level[shared < 0] = ABSENT
    return level


def _whole(left: Codes, right: Codes, part: str, place: int = 0) -> Levels:
    """0: the same, 1: another."""
    one, other = _codes(left, part)[place], _codes(right, part)[place]
    return np.where((one == 0) | (other == 0), ABSENT, (one != other).astype(np.int8)).astype(np.int8)


def _birth_date(left: Codes, right: Codes) -> Levels:
    mine, theirs = _codes(left, "birth_digits"), _codes(right, "birth_digits")
    both = (mine != 0) & (theirs != 0)
    digits = both.sum(axis=0)
    wrong = ((mine != theirs) & both).sum(axis=0)
    swapped = _whole(left, right, "birth_swapped") == 0
    whole = np.select([wrong == 0, (wrong == 1) | swapped, wrong == 2], [0, 1, 2], 3)
    partial = np.where(wrong == 0, 4, 5)
    return np.select([digits == 8, digits >= 4], [whole, partial], ABSENT).astype(np.int8)


def _birth_place(left: Codes, right: Codes) -> Levels:
    place, department = _whole(left, right, "birth_place"), _whole(left, right, "birth_place", 1)
    return np.where((place == 1) & (department == 1), 2, place).astype(np.int8)


def _residence(left: Codes, right: Codes) -> Levels:
    address = _shared(_codes(left, "address"), _codes(right, "address"))
    city = _shared(_codes(left, "city"), _codes(right, "city"))
    commune = _whole(left, right, "commune")
    postcode = _whole(left, right, "postcode"), _whole(left, right, "postcode", 1)
    at_all = (address >= 0) | (city >= 0) | (commune >= 0) | (postcode[0] >= 0)
    # digits in another order are a slip where the city agrees, and chance where it does not
    place = (commune == 0) | (postcode[0] == 0) | ((postcode[1] == 0) & (city >= 4))
    agreeing = place.astype(np.int8) + (city >= 4)
    # without the other's city or place, one that agrees stands for both
    agreeing = np.where((agreeing == 1) & ((city < 0) | ((commune < 0) & (postcode[0] < 0))), 2, agreeing)
    both, one = agreeing == 2, agreeing == 1
    near, some = address >= 7, address >= 4
    levels = [(address >= 11) & both, near & both, near & one, some & both, near, both, one]
    level = np.select(levels, list(range(len(levels))), len(levels))
    return np.where(at_all, level, ABSENT).astype(np.int8)
