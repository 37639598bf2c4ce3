"""Every page of the console that somebody can get to from where they sign in, as the bytes that their browser gets:
what links and scripts lead to, what forms come to, and what the console refuses."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

import httpx

from estuaire.console import sign_in_link
from estuaire.platform import Platform
from services.console.menu import MENU

_LINK = re.compile(r'(?:href|hx-get|data-series)="([^"]+)"')
_NOT_FOLLOWED = re.compile(r"^/(sign-|static/|language)")
_NOT_SENT = re.compile(r"^/(sign-out$|.*/(close|erase)$)")
"""What would end what is looked at."""
_NOWHERE = (
    "/nowhere",
    "/projects/nobody",
    f"/records?event_id={'9' * 32}",
    "/records?event_id=8812",
    "/audit/99999999",
)


class Sent(NamedTuple):
    """A form as it is shown, sent to an address."""

    address: str
    fields: tuple[tuple[str, str], ...]


class _Forms(HTMLParser):
    """The forms of a page that are posted, with what is written in them and no button pressed."""

    def __init__(self, address: str, text: str) -> None:
        super().__init__()
        self.found: list[Sent] = []
        self._at = address
        self._fields: list[tuple[str, str]] | None = None
        self._text: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if tag == "form" and said.get("method") == "post":
            self._fields, self._action = [], urljoin(self._at, said.get("action", ""))
        elif self._fields is None or ("name" not in said and tag != "option"):
            return
        elif tag == "input" and (said.get("type") != "checkbox" or "checked" in said):
            self._fields.append((said["name"], said.get("value", "")))
        elif tag == "select":
            self._select = said["name"]
        elif tag == "option" and ("selected" in said or self._select not in dict(self._fields)):
            self._fields.append((self._select, said.get("value", "")))
        elif tag == "textarea":
            self._text, self._name = "", said["name"]

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea" and self._fields is not None and self._text is not None:
            self._fields.append((self._name, self._text))
            self._text = None
        elif tag == "form" and self._fields is not None:
            self.found.append(Sent(self._action, tuple(self._fields)))
            self._fields = None


def pages(platform: Platform, name: str, role: str, alike: int = 20) -> Iterator[tuple[str, bytes]]:
    """Addresses and what is there, followed from the first page on, `alike` of those that differ in their parameters or
    ids alone. Whatever a page leads to has to be there, and whatever is sent has to be answered by a page.

    A page is given as it came, then as text, for in HTML an accent or an apostrophe may be written otherwise.
    """
    url = platform.console_url
    with httpx.Client(base_url=url, follow_redirects=True, timeout=60) as browser:
        first = browser.get(sign_in_link(platform.home, url, name, role))
        left, seen, kinds, forms = [first.url.path], {first.url.path}, dict[str, int](), dict[str, Sent]()
        while left:
            address = left.pop(0)
            answer = browser.get(address)
            assert answer.status_code == httpx.codes.OK, f"{address} leads to {answer.status_code}"
            yield from _read(address, answer)
            for link in _LINK.findall(answer.text):
                target = urlsplit(urljoin(url + address, html.unescape(link)))
                path = target.path + (f"?{target.query}" if target.query else "")
                kind = "/".join(target.path.split("/")[:2]) + ("?" if target.query else "")
                ours = f"{target.scheme}://{target.netloc}" == url and not _NOT_FOLLOWED.match(path)
                if ours and path not in seen and kinds.get(kind, 0) < alike:
                    kinds[kind] = kinds.get(kind, 0) + 1
                    seen.add(path)
                    left.append(path)
            for form in _Forms(address, answer.text).found:
                if not _NOT_SENT.match(form.address.partition("?")[0]):
                    forms.setdefault(form.address, form)
        for form in forms.values():
            for fields in (form.fields, [one for one in form.fields if one[0] != "form_key"]):
                answer = browser.post(form.address, data=dict(fields))
                assert not answer.is_server_error, f"{form.address} comes to {answer.status_code}"
                yield from _read(f"POST {form.address}", answer)
        for address in (*_NOWHERE, *(one.path for one in MENU if one.roles and role not in one.roles)):
            answer = browser.get(address)
            assert answer.is_client_error, f"{address} leads to {answer.status_code}"
            yield from _read(f"{answer.status_code} {address}", answer)


def _read(address: str, answer: httpx.Response) -> Iterator[tuple[str, bytes]]:
    yield address, answer.content
    yield address, html.unescape(answer.text).encode()
