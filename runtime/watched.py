"""A file that says something and may change while we run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

import yaml

log = logging.getLogger("estuaire.runtime")

T = TypeVar("T")


class WatchedFile(Generic[T]):
    """What a YAML file says, read again when it changes; one that cannot be read then changes nothing."""

    def __init__(self, path: Path, read: Callable[[Any], T]) -> None:
        """`read` makes of the file's data what it says, or raises ValueError in one line. Raises ValueError."""
        self._path = path
        self._read = read
        self._lock = Lock()
        self._stamp = self._look()
        self._says = self._now()

    def now(self) -> T:
        """What it says."""
        with self._lock:
            if (stamp := self._look()) != self._stamp:
                self._stamp = stamp
                try:
                    self._says = self._now()
                except ValueError as error:
                    log.error("what it said before goes on: %s", error)
            return self._says

    def _look(self) -> tuple[int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size

    def _now(self) -> T:
        try:
            return self._read(yaml.safe_load(self._path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"{self._path} cannot be read as YAML ({type(error).__name__})") from None
        except ValueError as error:
            raise ValueError(f"{self._path}: {error}") from None
