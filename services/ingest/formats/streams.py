"""How files of any size are read in bounded memory: line by line, with what has to be looked up on disk."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from typing import BinaryIO, Final

_STRETCH: Final = 2**20


def lines(content: BinaryIO, longest: int) -> Iterator[tuple[int, int, bytes | None]]:
    """Number, position and content of each line without its end; no content for one of more than `longest` bytes."""
    content.seek(0, os.SEEK_SET)
    number = start = 0
    while data := content.readline(longest + 2):
        number += 1
        length = len(data)
        whole = data.endswith(b"\n") or length < longest + 2
        while not whole:
            rest = content.readline(_STRETCH)
            length += len(rest)
            whole = rest.endswith(b"\n") or not rest
            data = b""
        text = data.rstrip(b"\r\n")
        too_long = length > len(data) or len(text) > longest
        yield number, start, None if too_long else text
        start += length


def scratch(cache_kib: int) -> sqlite3.Connection:
    """A database for one reading, of which that many KiB are held; its file has no name, and goes when it is closed."""
    index = sqlite3.connect("", isolation_level=None)
    index.execute(f"PRAGMA cache_size = -{cache_kib}")
    index.execute("PRAGMA journal_mode = OFF")
    return index
