"""A real Chromium, as tests use it: Debian's, or whichever `ESTUAIRE_CHROMIUM` names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

from playwright.sync_api import Browser, Page, sync_playwright

AXE: Final = Path(__file__).parent / "axe" / "axe.min.js"
SCREENSHOTS: Final = Path(__file__).parents[1] / "docs" / "screenshots"
WANTED: Final = "ESTUAIRE_SCREENSHOTS"
"""The environment variable by which screenshots in docs are written anew."""
PHONE: Final = {"width": 360, "height": 740}
DESK: Final = {"width": 1200, "height": 800}


class NoChromium(Exception):
    """It cannot be had here. One line that says why."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser without a window. Raises NoChromium."""
    path = os.environ.get("ESTUAIRE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise NoChromium("no chromium is installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Person:
    """Somebody at a browser of their own: what they do in a word each, and what went wrong on any page."""

    def __init__(
        self,
        browser: Browser,
        url: str,
        language: str = "en-GB",
        scheme: Literal["light", "dark"] = "light",
        size: dict[str, int] = DESK,
    ) -> None:
        self._context = browser.new_context(
            base_url=url,
            locale=language,
            color_scheme=scheme,
            viewport={"width": size["width"], "height": size["height"]},
        )
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(20_000)
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda one: self._heard(one.type, one.text))
        self.page.on("request", lambda one: self._asked(one.url, url))
        self.page.on("response", lambda one: self._answered(one.status, one.url.removeprefix(url)))

    def _asked(self, address: str, ours: str) -> None:
        if not address.startswith(ours):
            self.wrong.append(f"elsewhere: {address}")

    def _answered(self, status: int, path: str) -> None:
        if status >= 400:
            self.wrong.append(f"{status} at {path}")

    def _heard(self, kind: str, text: str) -> None:
        # which is told with its address when it is answered
        if kind == "error" and "the server responded with a status" not in text:
            self.wrong.append(text)

    @contextmanager
    def expects(self, *wrong: str) -> Iterator[None]:
        """Until its end, each of these is among what goes wrong on the page, and is what is wanted."""
        before = len(self.wrong)
        yield
        new = self.wrong[before:]
        assert all(any(one in said for said in new) for one in wrong), (wrong, new)
        self.wrong[before:] = [said for said in new if not any(one in said for one in wrong)]

    def go(self, path: str) -> Page:
        """To a page."""
        self.page.goto(path)
        return self.page

    def follow(self, name: str, exact: bool = True) -> None:
        """Follow the first link of this name."""
        self.page.get_by_role("link", name=name, exact=exact).first.click()

    def press(self, name: str) -> None:
        """Press a button."""
        self.page.get_by_role("button", name=name, exact=True).last.click()

    def tab_to(self, text: str, kind: str = "A") -> None:
        """Go by Tab to a link, or to what else is of this kind and says this."""
        for _ in range(40):
            self.page.keyboard.press("Tab")
            found = self.page.evaluate("[document.activeElement.tagName, document.activeElement.textContent.trim()]")
            if found == [kind, text]:
                return
        raise AssertionError(f"no {kind} that says {text} is reached by Tab")

    def write(self, label: str, text: str, nth: int = 0) -> None:
        """Write into a field."""
        self.page.get_by_label(label, exact=True).nth(nth).fill(text)

    def tick(self, *labels: str) -> None:
        """Tick boxes."""
        for label in labels:
            self.page.get_by_label(label, exact=True).check()

    def choose(self, label: str, option: str) -> None:
        """Choose one of a list."""
        self.page.get_by_label(label, exact=True).select_option(label=option)

    def sees(self, text: str) -> None:
        """Whether a text is shown, soon."""
        self.page.get_by_text(text).first.wait_for()

    def is_accessible(self) -> None:
        """Whether axe-core finds nothing serious or critical on this page, and it is no wider than its window."""
        self.page.evaluate(AXE.read_text())
        found: dict[str, Any] = self.page.evaluate("axe.run({resultTypes: ['violations']})")
        bad = [
            (one["id"], one["impact"], [node["target"] for node in one["nodes"]][:3])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert not bad, f"{self.page.url}: {bad}"
        wide, window = self.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
        assert wide <= window, f"{self.page.url} is {wide} wide in a window of {window}"

    def picture(self, name: str, whole: bool = True) -> None:
        """A screenshot for docs, of the whole page or what the window shows, where the environment asks for them."""
        if os.environ.get(WANTED):
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=whole)

    def leave(self) -> None:
        """Close the browser's window. Nothing may have gone wrong on any page."""
        self._context.close()
        assert not self.wrong, self.wrong
