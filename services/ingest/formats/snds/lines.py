"""What the tables of SNDS share: the values of a line, and lines that come twice or contradict one another. Pure."""

from __future__ import annotations

from typing import Final, cast

from services.ingest.domain.refusals import Refusal
from services.ingest.formats.reading import Piece
from services.ingest.formats.separated import Separated

DUPLICATE: Final = "duplicate-line"
"""The name of what is not taken since a line before it says the same."""


def values_of(piece: Piece) -> tuple[str, ...]:
    """Raises Refused."""
    return cast("Separated", piece.layout).values(piece.line.data)


def conflicting(table: str) -> Refusal:
    """For each of several lines of a table that should be one and say different things."""
    says = "lines that differ have the same key (and the same number within it): only one can be right"
    return Refusal("conflicting-lines", f"{table}: {says}")
