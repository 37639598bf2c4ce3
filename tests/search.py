"""Looking for what must not be there: many strings, in every form a careless step could leave them, in any bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

SHORTEST = 10
_PREFIX = 8
_CHUNK = 8 << 20
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


class Hit(NamedTuple):
    """Where something was found, and in which form; never the thing itself."""

    place: str
    form: str
    needle: int


Forms = Callable[[str], Iterator[tuple[str, bytes]]]
"""The names and patterns (of eight bytes or more) of what a needle may have become."""


def forms(needle: str) -> Iterator[tuple[str, bytes]]:
    """The forms a string could be left in: as it is and in capitals, without accents, encoded, or hashed unkeyed."""
    plain = "".join(one for one in unicodedata.normalize("NFKD", needle) if not unicodedata.combining(one))
    for text in {needle, needle.upper(), needle.lower(), plain.upper(), plain}:
        raw = text.encode()
        yield "utf-8", raw
        yield "utf-16-le", text.encode("utf-16-le")
        yield "utf-16-be", text.encode("utf-16-be")
        yield "hex", raw.hex().encode()
        yield "hex", raw.hex().upper().encode()
        escaped = json.dumps(text)[1:-1].encode()
        if escaped != raw:
            yield "json", escaped
        for skip in range(3):
            # Inside a longer text the first and last characters of the encoding depend on the neighbours.
            whole = base64.b64encode(bytes(skip) + raw)
            core = whole[(0, 2, 3)[skip] : len(whole) - (4 if (skip + len(raw)) % 3 else 0)]
            if len(core) >= _PREFIX:
                yield "base64", core
        for name in ("md5", "sha1", "sha256"):
            digest = hashlib.new(name, raw).digest()
            yield name, digest
            yield name, digest.hex().encode()
            yield name, base64.b64encode(digest)[:-4]


class Search:
    """Finds any of the needles (those of ten characters or more) in UTF-8, UTF-16, base64, hex, and unkeyed hashes, or
    in other forms."""

    def __init__(self, needles: Iterable[str], forms: Forms = forms) -> None:
        self.needles = sorted({needle for needle in needles if len(needle) >= SHORTEST})
        self._patterns: dict[bytes, list[tuple[bytes, str, int]]] = {}
        for number, needle in enumerate(self.needles):
            for form, pattern in forms(needle):
                self._patterns.setdefault(pattern[:_PREFIX], []).append((pattern, form, number))
        self._prefixes = np.sort(np.frombuffer(b"".join(self._patterns), dtype="<u8"))
        bits = (8 * len(self._prefixes) | 0xFFFF).bit_length()
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, dtype=bool)
        self._table[self._slots(self._prefixes)] = True
        self._longest = max((len(one[0]) for many in self._patterns.values() for one in many), default=_PREFIX)

    def _slots(self, windows: np.ndarray) -> np.ndarray:
        slots: np.ndarray = windows * _FACTOR
        slots >>= self._shift
        return slots.view(np.int64)

    def bytes(self, place: str, data: bytes) -> Iterator[Hit]:
        """Every hit in some bytes."""
        if len(data) < _PREFIX:
            return
        for shift in range(_PREFIX):
            count = (len(data) - shift) // _PREFIX
            if not count:
                return
            windows = np.frombuffer(data, dtype="<u8", count=count, offset=shift)
            for index in self._begun(windows):
                at = shift + index * _PREFIX
                for pattern, form, number in self._patterns[data[at : at + _PREFIX]]:
                    if data.startswith(pattern, at):
                        yield Hit(place, form, number)

    def _begun(self, windows: np.ndarray) -> list[int]:
        """Where a pattern may begin: by a small table first, which lets some pass that are none."""
        near = np.flatnonzero(self._table.take(self._slots(windows)))
        found = np.searchsorted(self._prefixes, windows[near])
        found[found == len(self._prefixes)] = 0
        begun: list[int] = near[self._prefixes[found] == windows[near]].tolist()
        return begun

    def file(self, path: Path) -> Iterator[Hit]:
        """Every hit in a file, read in overlapping pieces; stretches of zeros are passed over."""
        with path.open("rb") as file:
            tail = b""
            while chunk := file.read(_CHUNK):
                if chunk.count(0) == len(chunk):
                    tail = b""
                    continue
                yield from self.bytes(str(path), tail + chunk)
                tail = chunk[-self._longest :]

    def folder(self, folder: Path) -> Iterator[Hit]:
        """Every hit in the files below a folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield from self.file(path)
