"""Lines of values with a separator between two (RFC 4180, and with ; as exports in France have it). Pure."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

from services.ingest.domain.refusals import Refusal, Refused, refusing

SEPARATORS: Final = ";,\t"
LONGEST_VALUE: Final = 64
"""Characters of a value that is read, without the spaces around it."""
_BOM: Final = b"\xef\xbb\xbf"
_BAD_QUOTES: Final = Refusal(
    "bad-quotes", 'the line has a quote that is not closed, or text after one: write " within a value as ""'
)
_OTHER_WIDTH: Final = Refusal(
    "wrong-columns",
    "the line has more or fewer values than the header has names: look for a line that was cut off, for a line end"
    " within a value, or quote values that have the separator in them",
)

Key = Callable[[tuple[str, ...]], bytes]
"""From the values of the key's columns to the key. Raises Refused."""


class Table(NamedTuple):
    """A kind of file, and its columns by their names in capitals."""

    name: str
    key: tuple[str, ...]
    required: tuple[str, ...]
    columns: tuple[str, ...]
    """What is read of a line; a file may lack those that are not required."""


class Separated:
    """The lines of one file of a table (a Layout), whose first line names the columns, in any order.

    A line is read as Latin-1, in which any bytes are text: every value that a table asks for is ASCII in UTF-8 and in
    Latin-1 alike, and what is not ASCII stands in columns that nobody reads, or is none of a column's values.
    """

    headings = 1

    def __init__(self, table: Table, key: Key, first: bytes) -> None:
        """Raises Refused, naming the column, if one that is required is not there, or one is there twice."""
        separator, names = _named(first)
        for name in (*table.key, *table.required):
            if name not in names:
                raise Refused(_no_column(table, name))
        for name in table.columns:
            if names.count(name) > 1:
                raise refusing("repeated-column", f"{table.name}: the header names {name} twice")
        self.part = table.name
        self.has: Final = frozenset(name for name in table.columns if name in names)
        self._table: Final = table
        self._separator = separator
        self._width = len(names)
        self._key = key
        self._pick_key = _picker(names, table.key)
        self._pick = _picker(names, table.columns)

    def key(self, data: bytes) -> bytes:
        return self._key(self._trimmed(self._pick_key(self._split(data)), self._table.key))

    def values(self, data: bytes) -> tuple[str, ...]:
        """The values of the table's columns without spaces around them, of at most LONGEST_VALUE characters.

        Those of columns that the file lacks are empty. Raises Refused.
        """
        return self._trimmed(self._pick(self._split(data)), self._table.columns)

    def _trimmed(self, values: tuple[str, ...], names: Sequence[str]) -> tuple[str, ...]:
        """What readers may keep in memory, whatever a line is padded with. Raises Refused, naming the column."""
        trimmed = tuple(map(str.strip, values))
        if max(map(len, trimmed)) > LONGEST_VALUE:
            name = next(name for name, value in zip(names, trimmed, strict=True) if len(value) > LONGEST_VALUE)
            raise refusing("value-too-long", f"{self.part}, {name}: the value has more than {LONGEST_VALUE} characters")
        return trimmed

    def _split(self, data: bytes) -> list[str]:
        """All values, and an empty one behind them, which stands for the columns that are not there."""
        text = data.decode("latin-1")
        if '"' in text:
            try:
                values = next(csv.reader((text,), delimiter=self._separator, strict=True), [])
            except csv.Error:
                raise Refused(_BAD_QUOTES) from None
        else:
            values = text.split(self._separator)
        if len(values) != self._width:
            raise Refused(_OTHER_WIDTH)
        values.append("")
        return values


def columns(head: bytes) -> frozenset[str]:
    """The names in the first line of a file that begins like this."""
    return frozenset(_named(head.partition(b"\n")[0])[1])


def _named(first: bytes) -> tuple[str, list[str]]:
    text = first.removeprefix(_BOM).decode("latin-1")
    separator = max(SEPARATORS, key=text.count)
    return separator, [name.strip().strip('"').strip().upper() for name in text.split(separator)]


def _picker(names: Sequence[str], wanted: Sequence[str]) -> Callable[[list[str]], tuple[str, ...]]:
    places = [names.index(name) if name in names else len(names) for name in wanted]
    if len(places) == 1:
        (only,) = places
        return lambda values: (values[only],)
    return itemgetter(*places)


def _no_column(table: Table, name: str) -> Refusal:
    return Refusal(
        "missing-column",
        f"{table.name}: the header does not name {name}; the first line has the names of the columns, with ; or ,"
        " between two",
    )
