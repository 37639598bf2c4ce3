"""How two identities are compared though nobody knows them: the layout of comparison codes.

For each token by which two subjects may meet (an identifier's or a blocking token), a subject carries one row of
codes, 2 bytes each: keyed hashes of what its traits are made of, under that very token. Two rows under one token show
how many codes agree; rows under different tokens show nothing, not even whether two people have the same name. Code 0
says that the part is absent.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

CODE_BYTES: Final = 2


class Part(NamedTuple):
    """Some neighbouring codes of a row. In a set they are sorted, so that their places say nothing."""

    start: int
    stop: int
    is_set: bool

    @property
    def size(self) -> int:
        """How many codes."""
        return self.stop - self.start


def _lay_out(*parts: tuple[str, int, bool]) -> dict[str, Part]:
    found: dict[str, Part] = {}
    start = 0
    for name, size, is_set in parts:
        found[name] = Part(start, start + size, is_set)
        start += size
    return found


PARTS: Final = _lay_out(
    ("birth_family_name", 12, True),
    ("used_family_name", 12, True),
    ("given_name", 12, True),
    # The given names whole, up to three.
    ("given_names", 3, True),
    # The digits of YYYYMMDD, then the date with day and month in either order.
    ("birth_digits", 8, False),
    ("birth_swapped", 1, False),
    ("sex", 1, False),
    # The INSEE code, then its department or, for the foreign born, 99.
    ("birth_place", 2, False),
    ("commune", 1, False),
    # The postcode, then its characters in any order.
    ("postcode", 2, False),
    ("city", 6, True),
    ("address", 12, True),
)
ROW_CODES: Final = max(part.stop for part in PARTS.values())
ROW_BYTES: Final = ROW_CODES * CODE_BYTES


def sort_sets(codes: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Rows (shape: rows, ROW_CODES) with the codes of each set sorted, in place."""
    for part in PARTS.values():
        if part.is_set:
            codes[:, part.start : part.stop].sort(axis=1)
    return codes
