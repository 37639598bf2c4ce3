"""What the fuzzer calls with its bytes: it is a fault to end otherwise than with events, refusals or a `BadBody`."""

from __future__ import annotations

import gzip as packer
import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from estuaire.generate import dcir, pmsi
from estuaire.generate.hl7v2 import messages
from estuaire.population import population
from services.ingest.domain import batches
from services.ingest.domain.batches import BadBody, Element, NoRoom, TooLarge
from services.ingest.domain.refusals import INTERNAL
from services.ingest.files import FORMATS, File, join, uploaded
from services.ingest.formats.fhir import files as fhir_files
from services.ingest.formats.hl7v2.messages import PARIS
from services.ingest.handlers import Document, Taken, messages_of
from tests.people import people
from tests.unit.ingest.conftest import EXAMPLES, SOURCE, new_intake
from tests.unit.ingest.samples import NOW, french_stay

SEPARATOR: Final = b"\n%%%%\n"
"""Between the parts of one input that stand for several files."""
_intake = new_intake()


def events(data: bytes) -> None:
    """One CloudEvent."""
    _checked(_intake.take([Element(0, data)], SOURCE, "live", NOW), 1)


def array(data: bytes) -> None:
    """A JSON array of CloudEvents, whole or broken."""
    try:
        elements = batches.array(data)
    except BadBody:
        return
    _checked(_intake.take(elements, SOURCE, "live", NOW), len(elements))


def fhir(data: bytes) -> None:
    """A FHIR document."""
    try:
        documents, _ = _intake.documents(data, SOURCE)
    except BadBody:
        return
    _checked(_intake.take(documents, SOURCE, "live", NOW), len(documents))


def fhir_file(data: bytes) -> None:
    """A file of FHIR, as JSON and by the line."""
    for name in ("x.json", "x.ndjson"):
        outcomes = [one.outcome for one in fhir_files.read(io.BytesIO(data), name, SOURCE)]
        documents = [Document(at, one) for at, one in enumerate(outcomes) if not isinstance(one, str)]
        _checked(_intake.take(documents, SOURCE, "live", NOW), len(documents))


def hl7v2(data: bytes) -> None:
    """HL7 v2 messages."""
    try:
        found = messages_of(data, 1000)
    except BadBody:
        return
    documents, _ = _intake.messages(found, 0, SOURCE, PARIS)
    _checked(_intake.take(documents, SOURCE, "live", NOW), len(documents))


def gzip(data: bytes) -> None:
    """A body that calls itself gzip."""
    with suppress(BadBody, TooLarge, NoRoom):
        assert len(batches.unpack(data, 2**20, lambda count: count < 2**20)) <= 2**20


def multipart(data: bytes) -> None:
    """The files of a request."""
    for form in FORMATS.values():
        with suppress(BadBody):
            uploaded(form, data, "multipart/form-data; boundary=x")


def joined(name: str) -> Callable[[bytes], None]:
    """Files of a format that is made of several, one for each part, between separators."""
    form = FORMATS[name]

    def read(data: bytes) -> None:
        contents = zip(form.parts, data.split(SEPARATOR), strict=False)
        files = [File(part, part, io.BytesIO(content)) for part, content in contents]
        outcomes = [one.outcome for one in join(form, files, SOURCE)]
        documents = [Document(at, one) for at, one in enumerate(outcomes) if not isinstance(one, str)]
        _checked(_intake.take(documents, SOURCE, "live", NOW), len(documents))

    return read


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "events": events,
    "array": array,
    "fhir": fhir,
    "fhir-file": fhir_file,
    "gzip": gzip,
    "hl7v2": hl7v2,
    "multipart": multipart,
    **{name: joined(name) for name in FORMATS},
}


@cache
def seeds(name: str) -> tuple[bytes, ...]:
    """Good inputs to begin with."""
    return tuple(_seeds(name))


def _seeds(name: str) -> Iterator[bytes]:
    examples = [path.read_bytes() for path in sorted(Path(EXAMPLES).glob("*.json"))]
    if name == "events":
        yield from examples
    elif name == "array":
        yield b"[" + b",".join(examples) + b"]"
    elif name in ("fhir", "fhir-file"):
        yield json.dumps(french_stay()).encode()
        yield from (json.dumps(one["resource"]).encode() for one in french_stay()["entry"] if "resource" in one)
        yield from (b'{"resourceType":"Bundle","entry":[{"n":%s},{}]}' % number for number in _NUMBERS)
    elif name == "gzip":
        yield packer.compress(b"".join(examples))
    elif name == "hl7v2":
        yield from (one.data for one in messages(7, list(population(7, 3)), 12))
    elif name == "multipart":
        yield b'--x\r\nContent-Disposition: form-data; name="a"; filename="b"\r\n\r\nc\r\n--x--\r\n'

    elif name in FORMATS:
        yield from _files(FORMATS[name].parts)


_NUMBERS: Final = (b"1" * 5000, b"-1." + b"1" * 5000, b"1e99999999999999999999", b"18446744073709551616", b"1e999")
"""What Python, ijson and JSON (RFC 8259, section 6) have different bounds for."""


def _files(parts: tuple[str, ...]) -> Iterator[bytes]:
    """A few records of every format, joined as the target wants them."""
    who = people(3)
    with TemporaryDirectory() as name:
        folder = Path(name)
        pmsi.write(folder, [one.patient() for one in who], 4, seed=1)
        pmsi.write(folder, [one.patient() for one in who], 4, seed=1, anonymous=True)
        dcir.write_dcir(folder, [one.insured() for one in who], 12, seed=1)
        dcir.write_register(folder / "IR_BEN_R.csv", [one.insured() for one in who])
        dcir.write_deaths(folder, [one.insured() for one in who], seed=1)
        found = {path.name.lower(): path.read_bytes() for path in folder.iterdir()}
    names = [(f"{part}.csv".lower(), f"2025.{part.replace('-', '')}") for part in parts]
    contents = [found.get(table, found.get(lines, b"")) for table, lines in names]
    yield SEPARATOR.join(contents)
    yield from contents


def _checked(taken: Taken, count: int) -> None:
    assert len(taken.kept) + len(taken.rejected) == count
    assert all(refusal != INTERNAL for _, refusal in taken.rejected)
