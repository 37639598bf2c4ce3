"""What refreshes by itself: it can be told apart, and keeps the focus of who is in it."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

pytestmark = pytest.mark.unit

TEMPLATES = {one.name: one.read_text() for one in (files("services.console") / "templates").iterdir()}
REFRESHING = re.compile(r'<[^>]*hx-trigger="every [^>]*>')
FOCUSABLE = re.compile(r"<(?:a|button|input|select|textarea|summary)\b[^>]*>|<[^>]*\btabindex=[^>]*>")


def within(name: str) -> set[str]:
    """The parts that a template includes, and those that these include."""
    parts = set(re.findall(r'include "(\w+_part\.html)"', TEMPLATES[name]))
    return parts.union(*map(within, parts))


def refreshing() -> list[str]:
    """Parts that come anew by themselves."""
    found: set[str] = set()
    for name, text in TEMPLATES.items():
        if REFRESHING.search(text):
            found |= within(name) | ({name} if name.endswith("_part.html") else set())
    return sorted(found)


def test_what_refreshes_by_itself_has_a_name_and_can_be_paused() -> None:
    found = [tag for text in TEMPLATES.values() for tag in REFRESHING.findall(text)]
    assert len(found) >= 4
    assert not [tag for tag in found if " data-live" not in tag or " id=" not in tag]


def test_whatever_can_be_focused_in_it_has_an_id_by_which_the_focus_is_kept() -> None:
    assert {"board_part.html", "flow_part.html", "permits_part.html", "producers_part.html"} <= set(refreshing())
    tags = [tag for name in refreshing() for tag in FOCUSABLE.findall(TEMPLATES[name])]
    assert len(tags) >= 4
    assert not [tag for tag in tags if " id=" not in tag and 'type="hidden"' not in tag]
