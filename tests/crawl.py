"""Every page of the console that somebody can get to from where they sign in, as the bytes that their browser gets."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from urllib.parse import urljoin, urlsplit

import httpx

from estuaire.console import sign_in_link
from estuaire.platform import Platform

_LINK = re.compile(r'(?:href|hx-get)="([^"]+)"')
_NOT_FOLLOWED = re.compile(r"^/(sign-|static/|language)")


def pages(platform: Platform, name: str, role: str, alike: int = 20) -> Iterator[tuple[str, bytes]]:
    """Addresses and what is there, followed from the first page on, `alike` of those that differ in their parameters or
    ids alone. Whatever a page leads to has to be there.

    A page is given as it came, then as text, for in HTML an accent or an apostrophe may be written otherwise.
    """
    url = platform.console_url
    with httpx.Client(base_url=url, follow_redirects=True, timeout=60) as browser:
        first = browser.get(sign_in_link(platform.home, url, name, role))
        left, seen, kinds = [first.url.path], {first.url.path}, dict[str, int]()
        while left:
            address = left.pop(0)
            answer = browser.get(address)
            assert answer.status_code == httpx.codes.OK, f"{address} leads to {answer.status_code}"
            yield address, answer.content
            yield address, html.unescape(answer.text).encode()
            for link in _LINK.findall(answer.text):
                target = urlsplit(urljoin(url + address, html.unescape(link)))
                path = target.path + (f"?{target.query}" if target.query else "")
                kind = "/".join(target.path.split("/")[:2]) + ("?" if target.query else "")
                ours = f"{target.scheme}://{target.netloc}" == url and not _NOT_FOLLOWED.match(path)
                if ours and path not in seen and kinds.get(kind, 0) < alike:
                    kinds[kind] = kinds.get(kind, 0) + 1
                    seen.add(path)
                    left.append(path)
