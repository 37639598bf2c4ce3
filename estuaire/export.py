"""A subscriber's copy of a view as a file: NDJSON, or Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from contracts.events import ViewEvent


def write_ndjson(entries: Iterable[ViewEvent], out: IO[str]) -> None:
    """An event a line."""
    for event in entries:
        out.write(json.dumps(event.model_dump(mode="json", exclude_none=True), ensure_ascii=False) + "\n")


def write_parquet(entries: Iterable[ViewEvent], path: Path) -> None:
    """An event a row, its attributes as columns and its `data` as JSON."""
    import pyarrow
    import pyarrow.parquet

    rows = [event.model_dump(mode="json", exclude_none=True) for event in entries]
    for row in rows:
        row["data"] = json.dumps(row["data"], ensure_ascii=False)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
