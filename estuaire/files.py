"""Files of records, in any format that the hub takes, sent in batches; what was kept before is not sent again."""

from __future__ import annotations

import gzip
import re
import shutil
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import tzinfo
from os import SEEK_END
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, Final, NamedTuple, cast

import msgspec

from estuaire.client import SendError
from estuaire.ledger import Ledger
from estuaire.producer import BATCH, BATCH_BYTES, Answer, Producer, line_of
from services.ingest.domain import batches
from services.ingest.domain.refusals import TOO_LARGE, Refusal
from services.ingest.files import FORMATS, HEAD, File, join, part_of
from services.ingest.formats.fhir import files as fhir_files
from services.ingest.formats.hl7v2 import messages as hl7v2
from services.ingest.formats.reading import JoinedFormat
from services.ingest.formats.streams import lines

CLOUDEVENTS: Final = "CloudEvents"
FHIR: Final = "FHIR"
HL7V2: Final = "HL7 v2"
KNOWN: Final = (
    "CloudEvents or FHIR as .json or .ndjson, HL7 v2"
    + "".join(f", {name}" for name in FORMATS)
    + "; each also with .gz"
)
LARGEST: Final = 8 * 2**20
"""Bytes of one event beyond which it is not even tried."""
MOST_AT_ONCE: Final = 16 * 2**20
"""Bytes of a JSON document of CloudEvents, which is read as a whole."""
_REJECTED: Final = ".rejected.ndjson"


class Record(NamedTuple):
    """One record of a file: its event as JSON, why it has none, or the name of a kind that the hub does not take."""

    file: Path
    line: int
    event: bytes | Refusal | str


class Group(NamedTuple):
    """Files that are read together, and what they are: `FHIR`, `CloudEvents` or a format of several files."""

    kind: str
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """The files in a word or two."""
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return self.files[0].name + more

    @property
    def reasons(self) -> str:
        """Where the reasons of what was refused are."""
        return ", ".join(name for path in self.files if (found := _reasons(path)).exists() for name in [found.name])


@dataclass(slots=True)
class Sent:
    """What became of some files; `known` are those that were kept by an earlier call, and not sent again."""

    accepted: int = 0
    rejected: int = 0
    known: int = 0
    not_taken: Counter[str] = field(default_factory=Counter)

    def add(self, answer: Answer) -> None:
        """Count one more answer."""
        self.include(Sent(len(answer.accepted), len(answer.rejected), 0, Counter(answer.not_taken)))

    def include(self, other: Sent) -> None:
        """Count all that another has counted."""
        self.accepted += other.accepted
        self.rejected += other.rejected
        self.known += other.known
        self.not_taken += other.not_taken

    @property
    def sent(self) -> int:
        """Every event that was decided on by this call."""
        return self.accepted + self.rejected


def groups_of(paths: Iterable[Path]) -> tuple[list[Group], list[Path]]:
    """The files, and those below the folders, by what is read together; and those below folders that no format knows.

    Files of one format that are named, or that lie in one folder, belong together. Raises SendError.
    """
    found: defaultdict[tuple[Any, ...], list[Path]] = defaultdict(list)
    left: list[Path] = []
    for given in paths:
        if not given.exists():
            raise SendError(f"{given} does not exist")
        for path in sorted(given.rglob("*")) if given.is_dir() else [given]:
            if path.is_dir() or path.name.endswith(_REJECTED):
                continue
            kind = _kind_of(path) if path.is_file() else None
            if kind is None:
                left.append(path)
                continue
            found[(kind, path.parent if given.is_dir() else None) if kind in FORMATS else (kind, path)].append(path)
        if not given.is_dir() and given in left:
            raise SendError(f"{given.name}: no format knows it; send {KNOWN}")
    if not found:
        raise SendError(f"no file of records is there; send {KNOWN}")
    return [Group(kind, tuple(files)) for (kind, *_), files in found.items()], left


class FileSender:
    """Sends files for one source, and writes down in a ledger what is kept. What the ledger knows is passed over: so a
    repeated call sends what is new, what was corrected, and what an interrupted one did not come to; unless it is to
    send everything `again`."""

    def __init__(
        self,
        producer: Producer,
        source: str,
        ledger: Ledger | None = None,
        zone: tzinfo = hl7v2.PARIS,
        *,
        again: bool = False,
        batch: int = BATCH,
    ) -> None:
        self._producer = producer
        self._source = source
        self._ledger = ledger
        self._zone = zone
        self._again = again
        self._batch = batch

    def look_ahead(self, groups: Iterable[Group]) -> None:
        """Find out in which state each record ends, where some are known: call it before these are sent, if at all.

        Without it, a file that has several states of a record is sent as if it ended with each. Raises SendError.
        """
        if self._ledger is None or self._again or self._ledger.is_empty():
            return
        for group in groups:
            for records in self._batches(Reading(group, self._source, self._zone).records()):
                self._ledger.look_ahead(one.event for one in records if isinstance(one.event, bytes))

    def send(self, group: Group, progress: Callable[[Sent, float], object] = lambda _sent, _share: None) -> Sent:
        """Send the files; refused records are listed in `<file>.rejected.ndjson` with line, reason and detail.

        `progress` is called with all that was done so far, and which share of the files that is. Raises SendError where
        the hub is away for good, or a file is not what its name says; what was sent until then stays sent.
        """
        total = Sent()
        for path in group.files:
            _reasons(path).unlink(missing_ok=True)
        reading = Reading(group, self._source, self._zone)
        for records in self._batches(reading.records()):
            total.include(self._send(records))
            progress(total, reading.share())
        return total

    def _send(self, records: Sequence[Record]) -> Sent:
        part = Sent()
        fresh: list[tuple[Record, bytes]] = []
        refused: list[tuple[Record, str, str]] = []
        for one in records:
            if isinstance(one.event, bytes):
                fresh.append((one, one.event))
            elif isinstance(one.event, Refusal):
                refused.append((one, *one.event))
            else:
                part.not_taken[one.event] += 1
        if self._ledger is not None and not self._again and fresh:
            known = self._ledger.knows([event for _, event in fresh])
            part.known = sum(known)
            fresh = [one for one, is_known in zip(fresh, known, strict=True) if not is_known]
        if fresh:
            events = [event for _, event in fresh]
            answer = self._producer.send_lines([line_of(event) for event in events])
            bad = {one["index"] for one in answer.rejected}
            part.accepted = len(answer.accepted)
            refused += [(fresh[one["index"]][0], one["reason"], one["detail"]) for one in answer.rejected]
            if self._ledger is not None:
                self._ledger.keep(event for at, event in enumerate(events) if at not in bad)
        part.rejected = len(refused)
        _list(refused)
        return part

    def _batches(self, records: Iterable[Record]) -> Iterator[list[Record]]:
        batch: list[Record] = []
        size = 0
        for one in records:
            batch.append(one)
            size += len(one.event) if isinstance(one.event, bytes) else 0
            if len(batch) >= self._batch or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


class Reading:
    """Files that belong together, while they are read. `zone` is where times are from that do not say it (HL7 v2)."""

    def __init__(self, group: Group, source: str, zone: tzinfo = hl7v2.PARIS) -> None:
        self._group = group
        self._source = source
        self._zone = zone
        self._leading: list[tuple[BinaryIO, int]] = []

    def records(self) -> Iterator[Record]:
        """The records, one by one. Raises SendError where a file cannot be read to its end."""
        kind, files = self._group
        try:
            with ExitStack() as opened:
                if kind in FORMATS:
                    yield from self._joined(FORMATS[kind], opened)
                elif kind == CLOUDEVENTS:
                    content = opened.enter_context(_open(files[0]))
                    self._leads(content, files[0].stat().st_size)
                    yield from _cloudevents(files[0], content)
                else:
                    yield from self._alone(files[0], opened.enter_context(_seekable(files[0])))
        except (EOFError, zlib.error, OSError) as broken:
            raise SendError(f"{self._group.name} cannot be read to its end ({type(broken).__name__})") from None

    def share(self) -> float:
        """How far the reading has come, from 0 to 1; of a format of several files, in those that lead."""
        whole = sum(size for _, size in self._leading)
        read = sum(size if content.closed else content.tell() for content, size in self._leading)
        return read / whole if whole else 1.0

    def _alone(self, path: Path, content: BinaryIO) -> Iterator[Record]:
        self._leads(content, _size(content))
        if self._group.kind == FHIR:
            reads = fhir_files.read(content, _plain_name(path), self._source)
        else:
            reads = hl7v2.read(content, path.name, self._source, self._zone)
        for read in reads:
            yield Record(path, read.line, _as_json(read.outcome))

    def _joined(self, form: JoinedFormat, opened: ExitStack) -> Iterator[Record]:
        by_name = {str(path): path for path in self._group.files}
        files = []
        for name, path in by_name.items():
            content = opened.enter_context(_seekable(path))
            known = part_of(_plain_name(path), content.read(HEAD))
            if known is not None:
                files.append(File(name, known[1], content))
        first = min((form.parts.index(one.part) for one in files), default=0)
        for one in files:
            if form.parts.index(one.part) == first:
                self._leads(one.content, _size(one.content))
        for read in join(form, files, self._source):
            yield Record(by_name[read.file], read.line, _as_json(read.outcome))

    def _leads(self, content: BinaryIO, size: int) -> None:
        self._leading.append((getattr(content, "fileobj", content), size))


def _size(content: BinaryIO) -> int:
    size = content.seek(0, SEEK_END)
    content.seek(0)
    return size


def _cloudevents(path: Path, file: BinaryIO) -> Iterator[Record]:
    if _is_lines(path):
        for line, _, event in lines(file, LARGEST):
            if event is None:
                yield Record(path, line, TOO_LARGE)
            elif event := event.strip():
                yield Record(path, line, event)
        return
    body = file.read(MOST_AT_ONCE + 1)
    if len(body) > MOST_AT_ONCE:
        raise SendError(
            f"{path.name} is one document of more than {MOST_AT_ONCE} bytes: write it as .ndjson, an event a line"
        )
    try:
        elements = batches.one_or_many(body)
    except batches.BadBody as bad:
        raise SendError(f"{path.name}: {bad}") from None
    for place, event in elements:
        yield Record(path, place + 1, event if len(event) <= LARGEST else TOO_LARGE)


def _as_json(outcome: dict[str, Any] | Refusal | str) -> bytes | Refusal | str:
    return msgspec.json.encode(outcome) if isinstance(outcome, dict) else outcome


def _list(refused: Sequence[tuple[Record, str, str]]) -> None:
    """Add to the list of reasons beside each file."""
    by_file: defaultdict[Path, list[bytes]] = defaultdict(list)
    for one, reason, detail in refused:
        by_file[one.file].append(msgspec.json.encode({"line": one.line, "reason": reason, "detail": detail}) + b"\n")
    for path, listed in by_file.items():
        with _reasons(path).open("ab") as out:
            out.writelines(listed)


def _reasons(path: Path) -> Path:
    return path.with_name(path.name + _REJECTED)


def _kind_of(path: Path) -> str | None:
    """What a file is: by its name where that tells, and by its beginning."""
    name = _plain_name(path)
    with _open(path) as file:
        try:
            head = file.read(HEAD)
        except (EOFError, zlib.error, OSError):
            head = b""
    if name.lower().endswith((".json", ".ndjson", ".jsonl")):
        return FHIR if _RESOURCE.search(head) and not _SPECVERSION.search(head) else CLOUDEVENTS
    if _MESSAGE.match(head):
        return HL7V2
    known = part_of(name, head)
    return known[0].name if known else None


_RESOURCE: Final = re.compile(rb'"resourceType"\s*:')
_MESSAGE: Final = re.compile(rb"[\x0b\s\xef\xbb\xbf]*(MSH|FHS|BHS)[^\w\s]")
_SPECVERSION: Final = re.compile(rb'"specversion"\s*:')


def _is_lines(path: Path) -> bool:
    return not _plain_name(path).lower().endswith(".json")


def _plain_name(path: Path) -> str:
    return path.name.removesuffix(".gz")


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _seekable(path: Path) -> BinaryIO:
    """The file, unpacked where it is gzip to a temporary file that no name leads to."""
    if path.suffix != ".gz":
        return path.open("rb")
    unpacked = TemporaryFile()  # noqa: SIM115 - the caller closes it
    with _open(path) as packed:
        shutil.copyfileobj(packed, unpacked)
    unpacked.seek(0)
    return cast(BinaryIO, unpacked)
