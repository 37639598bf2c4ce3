"""People at browsers, for the tests of pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from estuaire.console import sign_in_link
from tests.browser import NoChromium, Person, chromium
from tests.hub import Hub

ROLES = {
    "reviewer-1": "reviewer",
    "reviewer-2": "reviewer",
    "team-hearts": "subscriber",
    "team-spf": "subscriber",
}
"""As what people are signed in; anybody else is in the role of their name."""
Enter = Callable[..., Person]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with chromium() as started:
            yield started
    except NoChromium as why:
        pytest.skip(f"NO CHROMIUM: the console has not been tried in a browser: {why}")


def sign_in(browser: Browser, hub: Hub, name: str, role: str, url: str = "", **options: Any) -> Person:
    """Somebody at the console of a hub, signed in by a link."""
    url = url or hub.platform.console_url
    person = Person(browser, url, **options)
    person.go(sign_in_link(hub.platform.home, url, name, role))
    return person


@pytest.fixture
def enter(browser: Browser, hub: Hub) -> Iterator[Enter]:
    """Signs somebody in, by a link."""
    people: list[Person] = []

    def signed_in(name: str, role: str = "", url: str = "", **options: Any) -> Person:
        people.append(sign_in(browser, hub, name, role or ROLES.get(name, name), url, **options))
        return people[-1]

    yield signed_in
    for person in people:
        person.leave()
