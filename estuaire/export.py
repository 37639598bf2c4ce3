"""A subscriber's copy of a view as a file: NDJSON, or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from contracts import table
from contracts.events import ViewEvent


def write_ndjson(entries: Iterable[ViewEvent], out: IO[str]) -> None:
    """An event a line."""
    for event in entries:
        out.write(json.dumps(event.model_dump(mode="json", exclude_none=True), ensure_ascii=False) + "\n")


def write_parquet(entries: Iterable[ViewEvent], path: Path) -> None:
    """An event a row, in the columns that every view has."""
    table.write_parquet((event.model_dump(mode="json", exclude_none=True) for event in entries), str(path))
