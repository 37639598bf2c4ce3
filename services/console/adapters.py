"""What the console needs from outside: the services' HTTP, and the sign-in links of the local platform."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

import httpx

from runtime.http import hash_token
from services.console.settings import TRACES, TRACES_SECONDS

_SHOW_SECONDS: Final = 5.0
"""How long a service may take over what a page only shows."""
_READY_SECONDS: Final = 1.0
"""How long it may take to be reached, and again to say whether it is ready."""
_SILENT: Final = "it does not answer"
_QUESTIONS: Final = ("/v1/dead-letters/became",)
"""What is asked by POST, for it is too long for an address."""
_ACT_SECONDS: Final = 120.0
"""An act that is given up is done all the same."""


class Refusal(Exception):
    """A service does not do it. `title` and `detail` are the sentences of its problem document."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.detail = detail


class Hub(Protocol):
    """The services of the hub, asked over HTTP."""

    def ask(self, service: str, method: str, path: str, token: str | None = None, body: Any = None) -> Any:
        """The JSON that a service answers whoever holds the token. Raises Refusal: of status 503 where none answers, of
        422 for a body that cannot be said in JSON."""

    def ready(self, service: str) -> str | None:
        """Why a service is not ready, in its own words; None if it is. Raises Refusal: of status 503 where none
        answers, of 404 where nobody has said where it listens."""


class HttpHub:
    """Asks over HTTP, on connections that it keeps."""

    def __init__(
        self,
        addresses: Mapping[str, str],
        http: httpx.Client | None = None,
        resolve: Callable[[str], Collection[str]] | None = None,
    ) -> None:
        """`resolve` gives the addresses of a name, or raises OSError."""
        self._addresses = addresses
        self._resolve = resolve or _resolved
        self._http = http or httpx.Client()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def ask(self, service: str, method: str, path: str, token: str | None = None, body: Any = None) -> Any:
        """The JSON that a service answers whoever holds the token. Raises Refusal: of status 503 where none answers, of
        422 for a body that cannot be said in JSON."""
        if service not in self._addresses:
            where = f"ESTUAIRE_CONSOLE_{service.upper()} says where it listens."
            raise Refusal(503, f"the console does not know where {service} is", where)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if wrong := list(_unsaid(body)):
            detail = "; ".join(wrong).encode(errors="replace").decode()
            raise Refusal(422, "this cannot be taken as it is written", detail)
        patience = _SHOW_SECONDS if method == "GET" or path in _QUESTIONS else _ACT_SECONDS
        patience = TRACES_SECONDS if service == TRACES else patience
        try:
            answer = self._http.request(
                method, self._addresses[service] + path, headers=headers, json=body, timeout=patience
            )
            found = answer.json()
        except (httpx.HTTPError, ValueError):
            raise Refusal(503, f"{service} does not answer", "Try again later.") from None
        if answer.is_success:
            return found
        said = found if isinstance(found, dict) else {}
        raise Refusal(answer.status_code, str(said.get("title", "")), str(said.get("detail", "")))

    def ready(self, service: str) -> str | None:
        """Why a service is not ready, in its own words; None if it is. Raises Refusal: of status 503 where none
        answers, of 404 where nobody has said where it listens.

        Its name may lead to several processes: each is asked, and the first that is not ready is told of.
        """
        if service not in self._addresses:
            raise Refusal(404, "not found", "Nobody has said where it listens.")
        address = httpx.URL(f"{self._addresses[service]}/readyz")
        try:
            processes = self._resolve(address.host)
        except OSError:
            processes = []
        told = (self._said(address, one) for one in processes)
        fault = next((one for one in told if one is not None), None)
        if len(processes) > 1:
            return fault and f"1 of {len(processes)} processes: {fault}"
        if fault == _SILENT or not processes:
            raise Refusal(503, f"{service} does not answer", "Try again later.")
        return fault

    def _said(self, address: httpx.URL, host: str) -> str | None:
        """Why a process is not ready; None if it is."""
        try:
            answer = self._http.get(
                address.copy_with(host=host),
                headers={"Host": address.netloc.decode()},
                extensions={"sni_hostname": address.host},
                timeout=_READY_SECONDS,
            )
        except httpx.HTTPError:
            return _SILENT
        if answer.is_success:
            return None
        is_said = answer.headers.get("content-type", "").startswith("text/plain")
        return answer.text.strip()[:300] if is_said else f"HTTP {answer.status_code}"


def _resolved(host: str) -> Collection[str]:
    """Of one family, for a process may have an address of each."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return {str(place[0]) for family, *_, place in found if family == found[0][0]}


class Links:
    """One-time links that sign in, as `estuaire console` makes them: a file each, under the hash of its secret."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def open(self, secret: str) -> str | None:
        """The token that a link gives, the first time; None for one that is used, too old, or none."""
        if self._folder is None:
            return None
        path = self._folder / hash_token(secret)
        mine = path.with_name(f".{path.name}.opened")
        try:
            path.rename(mine)  # of two who open it at once, one does
            kept = json.loads(mine.read_text())
            mine.unlink()
        except (OSError, ValueError):
            return None
        return str(kept["token"]) if time.time() <= kept["until"] else None


def path_of(*parts: str) -> str:
    """A path of these parts, each of which stays one whatever it is. Raises Refusal (404) for what can be none."""
    if not {"", ".", ".."}.isdisjoint(parts):
        raise Refusal(404, "not found", "Nothing has this name.")
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _unsaid(value: Any, at: str = "") -> Iterator[str]:
    """What of a document cannot be said in JSON: a sentence each, that begins with its place."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _text(name, f"{at or 'the document'}: a name")
            yield from _unsaid(one, f"{at}.{name}" if at else str(name))
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from _unsaid(one, f"{at}.{number}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{at}: it is no number that can be counted with; write another"
    elif isinstance(value, str):
        yield from _text(value, f"{at}: it")


def _text(text: str, what: str) -> Iterator[str]:
    try:
        text.encode()
    except UnicodeEncodeError:
        yield f"{what} has half a character (\\uD800 to \\uDFFF); write the character itself"
