"""An auditor's client of the audit log: read it, and see whether it is what was signed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from estuaire.client import Client, SendError
from services.audit.adapters import SecondPlace
from services.audit.domain.checkpoints import NoteBroken, Verifier
from services.audit.domain.verification import Finding, Stored, Verification, opened

PAGE = 5000
PATIENCE = 5.0
"""Seconds in which a checkpoint of the database has to be in the second place, too."""


class AuditLog:
    """The audit service over HTTP, with an auditor's token. All raise SendError."""

    def __init__(self, url: str, token: str) -> None:
        self._audit = Client(f"{url}/v1", token, 60)

    def entries(self, filters: Mapping[str, str] | None = None, start: int = 0, page: int = PAGE) -> Iterator[Stored]:
        """The entries from a number on; `filters` are the parameters of `GET /v1/entries`."""
        following: int | None = start
        while following is not None:
            params = {**(filters or {}), "start": following, "limit": page}
            read = self._audit.ask("GET", "/entries", params=params)
            for one in read["entries"]:
                yield Stored(one["number"], one["line"].encode(), bytes.fromhex(one["hash"]))
            following = read["next_start"]

    def notes(self) -> list[str]:
        """Every signed checkpoint of the database."""
        found: list[str] = []
        after: int | None = 0
        while after is not None:
            read = self._audit.ask("GET", "/checkpoints", params={"after": after, "limit": PAGE})
            found += [one["note"] for one in read["checkpoints"]]
            after = read["next_after"]
        return found


class Verified(NamedTuple):
    """What came of a verification."""

    entries: int
    checkpoints: int
    unsigned: int
    findings: list[Finding]


def verify(log: AuditLog, folder: Path, keys: Path) -> Verified:
    """Hash every entry anew, and compare with every checkpoint of the database and of the folder.

    While it runs the log grows: what is signed meanwhile is left to the next time. Raises SendError.
    """
    try:
        verifier = Verifier(keys.read_text(encoding="utf-8").split())
    except (OSError, NoteBroken) as wrong:
        raise SendError(f"no key to verify with in {keys}: {getattr(wrong, 'strerror', None) or wrong}") from None
    if not folder.is_dir():
        raise SendError(
            f"there is no folder {folder} with checkpoints: say with --checkpoints where the second place is"
        )
    place = SecondPlace(folder)
    before, kept = place.notes(), log.notes()
    there = before + [note for note in _caught_up(place, kept)[len(before) :] if note in set(kept)]
    signed, findings = opened({"the database": kept, "the second place": there}, verifier)
    verification = Verification.begin(signed)
    for entry in log.entries():
        verification.add(entry)
    findings = [*verification.finish(), *findings]
    return Verified(verification.tree.size, len({one.checkpoint for one in signed}), verification.unsigned, findings)


def _caught_up(place: SecondPlace, kept: list[str]) -> list[str]:
    """The notes of the second place, once it has the newest of the database, for which it may wait a little."""
    deadline = time.monotonic() + PATIENCE
    while True:
        there = place.notes()
        if not kept or kept[-1] in there or time.monotonic() > deadline:
            return there
        time.sleep(0.1)


def entries_table(entries: Iterable[Stored]) -> Table:
    """Entries, a row each."""
    table = Table("entry", "time (UTC)", "who", "did", "permit", "ids", "about")
    for one in entries:
        said: dict[str, Any] = json.loads(one.line)
        moment = said["at"][:19].replace("T", " ")
        about = said["about"]
        table.add_row(
            str(one.number), moment, said["actor"], said["action"], said["permit"] or "", str(said["count"]), about
        )
    return table
