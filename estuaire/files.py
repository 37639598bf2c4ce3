"""Files of records, sent in pieces that can be taken up again where they stopped."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

import msgspec

from estuaire.producer import NDJSON, Answer, Producer, SendError

FHIR = "application/fhir+json"


@dataclass(slots=True)
class Sent:
    """What became of a file, or of several."""

    accepted: int = 0
    rejected: int = 0
    not_taken: dict[str, int] = field(default_factory=dict)

    def add(self, answer: Answer) -> None:
        """Count one more answer."""
        self.include(Sent(len(answer.accepted), len(answer.rejected), answer.not_taken))

    def include(self, other: Sent) -> None:
        """Count all that another has counted."""
        self.accepted += other.accepted
        self.rejected += other.rejected
        for kind, count in other.not_taken.items():
            self.not_taken[kind] = self.not_taken.get(kind, 0) + count

    @property
    def sent(self) -> int:
        """Every event that was decided on."""
        return self.accepted + self.rejected


def files_of(path: Path) -> list[Path]:
    """The path itself, or the record files in a folder, sorted. Raises SendError."""
    if path.is_dir():
        found = sorted(one for one in path.rglob("*") if one.is_file() and _form(one))
        if not found:
            raise SendError(f"{path} holds no file of records (.json, .ndjson, or either with .gz)")
        return found
    if not path.exists():
        raise SendError(f"{path} does not exist")
    if not _form(path):
        raise SendError(
            f"{path.name}: the form is not known; send .json (FHIR, CloudEvents) or .ndjson, or either with .gz"
        )
    return [path]


class FileSender:
    """Sends one file for one source. After each acknowledged piece the place is kept, until the file is through."""

    def __init__(self, producer: Producer, source: str, state: Path, batch: int = 500) -> None:
        self._producer = producer
        self._source = source
        self._state = state
        self._batch = batch

    def send(self, path: Path, progress: Callable[[int, int], None] = lambda _sent, _refused: None) -> Sent:
        """Send the file; refused records are listed in `<file>.rejected.ndjson` with line, reason and detail.

        Raises SendError where the hub is away for good, or the file is not what its name says; a repeated call goes
        on after the last piece that was kept.
        """
        place = self._state / (hashlib.sha256(f"{path.absolute()}\n{self._source}".encode()).hexdigest()[:32] + ".json")
        before = json.loads(place.read_text()) if place.exists() else {"lines": 0}
        total = Sent()
        reasons = path.with_name(path.name + ".rejected.ndjson")
        if not before["lines"]:
            reasons.unlink(missing_ok=True)
        for first, last, answer in self._pieces(path, before["lines"]):
            total.add(answer)
            if answer.rejected:
                with reasons.open("ab") as out:
                    out.writelines(_reason(first, one) for one in answer.rejected)
            self._state.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps({"lines": last}))
            progress(len(answer.accepted), len(answer.rejected))
        place.unlink(missing_ok=True)
        return total

    def _pieces(self, path: Path, skip: int) -> Iterator[tuple[int, int, Answer]]:
        """(first line, next line, answer) of each piece; a JSON document counts as one line."""
        form = _form(path)
        with _open(path) as file:
            try:
                if form == ".json":
                    if not skip:
                        yield 0, 1, self._document(file.read())
                    return
                lines = islice(file, skip, None)
                while chunk := list(islice(lines, self._batch)):
                    yield skip, skip + len(chunk), self._producer.post("/v1/events", b"".join(chunk), NDJSON)
                    skip += len(chunk)
            except (EOFError, gzip.BadGzipFile, OSError) as broken:
                raise SendError(f"{path.name} cannot be read to its end ({type(broken).__name__})") from None

    def _document(self, body: bytes) -> Answer:
        try:
            head: Any = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            head = None
        if isinstance(head, dict) and "resourceType" in head:
            return self._producer.post("/v1/fhir", body, FHIR)
        form = "application/cloudevents-batch+json" if isinstance(head, list) else "application/cloudevents+json"
        return self._producer.post("/v1/events", body, form)


def _reason(first: int, rejected: dict[str, Any]) -> bytes:
    listed = {"line": first + rejected["index"] + 1, "reason": rejected["reason"], "detail": rejected["detail"]}
    return msgspec.json.encode(listed) + b"\n"


def _form(path: Path) -> str | None:
    name = path.name.removesuffix(".gz")
    if name.endswith(".rejected.ndjson"):
        return None
    return next((form for form in (".json", ".ndjson") if name.endswith(form)), None)


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
