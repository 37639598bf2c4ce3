"""An act that is asked for over HTTP and that the loop does: what is wrong with it in words, and the wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from contracts.projects import DocumentError
from runtime.http import ProblemError
from services.access.domain.projects import Refused

_LOOK: Final = 0.02
_Found = TypeVar("_Found")


@contextmanager
def in_words() -> Iterator[None]:
    """Turn what is refused, or not said as it has to be, into a problem."""
    try:
        yield
    except DocumentError as wrong:
        raise ProblemError(422, "this cannot be taken as it is written", str(wrong)) from None
    except Refused as refused:
        raise ProblemError(409, refused.title, refused.detail) from None


def wait_until_done(look: Callable[[], _Found | None], seconds: float) -> _Found:
    """What `look` finds once the act is done; it raises for an act that has become impossible. Raises ProblemError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (found := look()) is not None:
            return found
        time.sleep(_LOOK)
    raise ProblemError(503, "it is not done yet", "The log has it: look again in a while.", {"Retry-After": "5"})
