"""An act by its form: done, or what is wrong with it."""

from __future__ import annotations

from typing import Final

from services.console.adapters import Refusal
from services.console.domain.forms import MORE, Form, Unreadable
from services.console.visits import Posted

_JUDGED: Final = (409, 422)
"""What an act is refused with that whoever asked can mend."""
_AS_WRITTEN: Final = "this cannot be taken as it is written"


class Wrong:
    """Why an act was not done: what it is, every sentence, and those about a field by its path."""

    def __init__(self, form: Form, title: str = "", detail: str = "") -> None:
        self.title = title
        self.sentences, self.by_place = form.by_place(detail) if detail else ([], {})


def do(sent: Posted, form: Form, path: str) -> Wrong | None:
    """Have it done; what is wrong with it, if it was not. Without a sentence, where another row was asked for."""
    if MORE in sent.given:
        return Wrong(form)
    if twice := form.twice():
        return Wrong(form, _AS_WRITTEN, "; ".join(f"{one}: another row has this name" for one in twice))
    try:
        sent.visit.ask("POST", path, form.says())
    except Unreadable as unreadable:
        return Wrong(form, _AS_WRITTEN, f"permit: {unreadable}")
    except Refusal as refusal:
        if refusal.status not in _JUDGED:
            raise
        return Wrong(form, refusal.title, refusal.detail or refusal.title)
    return None
