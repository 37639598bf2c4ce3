"""A view as a table: the columns of its Parquet files, wherever they are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import IO, Any


def write_parquet(events: Iterable[Mapping[str, Any]], out: IO[bytes] | str) -> None:
    """Write events of a view, as JSON has them, an event a row: its attributes, who it is about, and `record` as JSON.

    The columns are the same for every permit and every page; what a permit does not release is null.
    """
    import msgspec
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.string()
    demographics = pyarrow.struct(
        [
            ("sex", text),
            ("birth_year", pyarrow.int32()),
            ("birth_month", pyarrow.int32()),
            ("department", text),
            ("commune", text),
            ("deceased", text),
        ]
    )
    schema = pyarrow.schema(
        [
            ("id", text),
            ("subject", text),
            ("sequence", pyarrow.int64()),
            ("type", text),
            ("time", text),
            ("source", text),
            ("demographics", demographics),
            ("undated", pyarrow.bool_()),
            ("after_death", pyarrow.bool_()),
            ("record", text),
        ]
    )
    rows = []
    for event in events:
        data = event["data"]
        rows.append(
            {
                **{name: event.get(name) for name in ("id", "subject", "sequence", "type", "time", "source")},
                "demographics": data.get("demographics") or {},
                "undated": data.get("undated", False),
                "after_death": data.get("after_death", False),
                "record": msgspec.json.encode(data.get("record", {})).decode(),
            }
        )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema), out)
