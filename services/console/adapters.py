"""What the console needs from outside: the services' HTTP, and the sign-in links of the local platform."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import httpx

from runtime.http import hash_token
from services.console.settings import TRACES, TRACES_SECONDS


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
        """The JSON that a service answers whoever holds the token. Raises Refusal; of status 503 where none answers."""


class HttpHub:
    """Asks over HTTP, on connections that it keeps."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._addresses = addresses
        self._http = httpx.Client(timeout=30)

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def ask(self, service: str, method: str, path: str, token: str | None = None, body: Any = None) -> Any:
        """The JSON that a service answers whoever holds the token. Raises Refusal; of status 503 where none answers."""
        if service not in self._addresses:
            where = f"ESTUAIRE_CONSOLE_{service.upper()} says where it listens."
            raise Refusal(503, f"the console does not know where {service} is", where)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            patience = 30.0 if method == "GET" else 120.0  # an act that is given up is done all the same
            patience = TRACES_SECONDS if service == TRACES else patience
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
    """A path of these parts, each of which stays one whatever it is."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)
