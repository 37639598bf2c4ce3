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


def pages(platform: Platform, name: str, role: str, most: int) -> Iterator[tuple[str, bytes]]:
    """Addresses and pages, followed from the first page on, `most` of them at the most.

    A page is given as it came, then as text, for in HTML an accent or an apostrophe may be written otherwise.
    """
    url = platform.console_url
    with httpx.Client(base_url=url, follow_redirects=True, timeout=60) as browser:
        first = browser.get(sign_in_link(platform.home, url, name, role))
        assert first.status_code == httpx.codes.OK
        left, seen = [first.url.path], {first.url.path}
        while left and most > 0:
            address = left.pop(0)
            answer = browser.get(address)
            if "text/html" not in answer.headers["content-type"]:
                continue
            assert answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR, address
            most -= 1
            yield address, answer.content
            yield address, html.unescape(answer.text).encode()
            for link in _LINK.findall(answer.text):
                target = urlsplit(urljoin(url + address, html.unescape(link)))
                path = target.path + (f"?{target.query}" if target.query else "")
                ours = f"{target.scheme}://{target.netloc}" == url and not _NOT_FOLLOWED.match(path)
                if ours and path not in seen:
                    seen.add(path)
                    left.append(path)
