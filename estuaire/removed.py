"""What the allow-lists take out of records that are sent, told apart by element and reason.

It is counted where the records are sent from, with the code that ingest strips them by, so that nobody but the producer
sees it. It costs about as much as reading the files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from rich.table import Table

from contracts.events import DELETED
from estuaire.producer import Answer, Producer
from services.ingest.domain.content import InvalidRecord
from services.ingest.domain.removals import Removal, removals

NO_RECORD: Final = "identity.v1"


class Removed:
    """Counts what is removed of one event after another. Pure."""

    def __init__(self) -> None:
        self.found: Counter[Removal] = Counter()

    def add(self, event: bytes) -> None:
        """Count what goes from the record of an event (JSON) that ingest has kept; of any other, nothing."""
        try:
            told = _json.decode(event)
            kind, record = told["type"], told["data"]["record"]
            if isinstance(record, Mapping) and not kind.endswith(DELETED) and kind != NO_RECORD:
                self.found.update(removals(kind, record))
        except (msgspec.MsgspecError, InvalidRecord, LookupError, TypeError, AttributeError, RecursionError):
            return


_json: Final = msgspec.json.Decoder()


class WatchedProducer(Producer):
    """A producer that counts in `removed` what the hub does not keep of the events that it accepts."""

    def __init__(self, url: str, token: str, **options: Any) -> None:
        super().__init__(url, token, **options)
        self.removed = Removed()

    def post(self, path: str, body: bytes, content_type: str) -> Answer:
        answer = super().post(path, body, content_type)
        refused = {one["index"] for one in answer.rejected}
        for place, event in enumerate(body.split(b"\n")):
            if place not in refused:
                self.removed.add(event)
        return answer


def removed_table(removed: Removed) -> Table:
    """Element, reason and count, the most frequent first."""
    table = Table("element", "reason", "count", title=f"{removed.found.total():,} values not kept")
    for (path, reason), count in sorted(removed.found.items(), key=lambda one: (-one[1], one[0])):
        table.add_row(path, reason.value, f"{count:,}")
    return table
