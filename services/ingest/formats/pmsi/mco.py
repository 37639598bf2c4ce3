"""PMSI MCO: the stays of RSS with their VID-HOSP, and of RSA with their chaining file (ANO). Pure.

- RSS and VID-HOSP find together by FINESS number and administrative number of the stay, which may have several RSS
  (a series of sessions); RSA and ANO by FINESS number, year of exit and number of the RSA. The year of a stay is that
  of its exit (ATIH, guide méthodologique MCO).
- The version of a format stands in each line; the tables are in `services/ingest/formats/pmsi-mco.yaml`.
- A line that cannot be read refuses the whole stay. A VID-HOSP line that cannot be read, or that is at odds with its
  stay, is refused by itself: the stay is taken by what it has. A RSA has nothing else than its ANO line to be known by,
  and is refused without one.
- Transmissions are cumulative over a year: every event is a correction, and what is not sent again stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from services.ingest.domain.content import known
from services.ingest.domain.refusals import refusing
from services.ingest.formats.fixed_width import Table, tables, text_of
from services.ingest.formats.pmsi import rsa, rss
from services.ingest.formats.reading import Layout, Piece, Read

NAME: Final = "pmsi-mco"
PARTS: Final = ("rss", "vid-hosp", "rsa", "ano")

_KEYS: Final = {
    "rss": ("finess", "stay"),
    "vid-hosp": ("finess", "stay"),
    "rsa": ("finess", "exit_year", "number"),
    "ano": ("finess", "exit_year", "number"),
}
_FINESS: Final = re.compile(r"\d{9}|2[AB]\d{7}", re.ASCII)
"""What tells a file. A line is of no hospital unless the check digit fits, too (`content.known`)."""
_NAMES: Final = (
    (re.compile(r"vid[-_.]?hosp|\.vid\b|(^|[-_. ])vh[-_. ]", re.IGNORECASE), "vid-hosp"),
    (re.compile(r"(^|[-_. ])ano(\.txt)?$", re.IGNORECASE), "ano"),
    (re.compile(r"(^|[-_. ])rsa([-_. ]|$)", re.IGNORECASE), "rsa"),
    (re.compile(r"(^|[-_. ])(rss|rum)([-_. ]|$)", re.IGNORECASE), "rss"),
)


class PmsiMco:
    """The format `pmsi-mco` (`reading.JoinedFormat`)."""

    name = NAME
    parts: tuple[str, ...] = PARTS

    def part_of(self, file: str, head: bytes) -> str | None:
        """By where the first line has its version, whichever it is, and else by the file's name.

        The chaining file has none whose value is published: its FINESS number, its return codes and the format of the
        VID-HOSP that it was made from tell it.
        """
        text = text_of(next((line for line in head.splitlines() if line.strip()), b""))
        if re.fullmatch(r"V\d{3}", text[48:52], re.ASCII) and _FINESS.fullmatch(text[52:61]):
            return "vid-hosp"
        if re.fullmatch(r"\d{3}[\d ]{6}\d{9}", text[44:62], re.ASCII) and _FINESS.fullmatch(text[32:41]):
            return "ano"
        if re.fullmatch(r"2\d\d", text[9:12], re.ASCII) and _FINESS.fullmatch(text[:9]):
            return "rsa"
        if re.fullmatch(r"1\d\d", text[9:12], re.ASCII) and _FINESS.fullmatch(text[15:24]):
            return "rss"
        if re.fullmatch(r"0\d\d", text[9:12], re.ASCII) and _FINESS.fullmatch(text[:9]):
            return "rss"
        return next((part for name, part in _NAMES if name.search(file)), None)

    def layout(self, part: str, first: bytes) -> Layout:  # noqa: ARG002
        """Every line says its version by itself, so a file of another version is refused line by line."""
        return _Lines(part)

    def events(self, pieces: Sequence[Piece], source: str) -> Iterator[Read]:
        """One event for each RSS, or for the RSA."""
        read = rss.reads if pieces[0].layout.part in ("rss", "vid-hosp") else rsa.reads
        return read(pieces, source)


class _Lines:
    """The lines of one part (`reading.Layout`)."""

    headings = 0

    def __init__(self, part: str) -> None:
        self.part = part
        self._family = b"rss\0" if part in ("rss", "vid-hosp") else b"rsa\0"
        self._table: Table = tables(NAME)[part]

    def key(self, data: bytes) -> bytes:
        text = text_of(data)
        shape = self._table.shape(text)
        found = []
        for name in _KEYS[self.part]:
            field = shape.fields[name]
            value = field.of(text)
            if name == "exit_year" and self.part == "ano":
                # the year by itself is filler in what a hospital gets back (ATIH, formats anonymes MCO 2023)
                value = shape.fields["exit"].of(text)[4:].strip() or value
            value = value.strip(" ")
            if len(text) < field.end:
                raise refusing("line-length", f"the line ends before the end of {field.named()}")
            if not value:
                raise refusing("missing-field", f"{field.named()} is blank")
            if not (value.isascii() and value.isprintable()):
                raise refusing("bad-characters", f"{field.named()} has characters that are not ASCII")
            if name == "finess" and not known("finess", value):
                raise refusing("bad-finess", f"{field.named()} is none, or its check digit does not fit")
            found.append(value)
        return self._family + "\0".join(found).encode()
