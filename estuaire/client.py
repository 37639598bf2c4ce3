"""Somebody's client of a service over HTTP: what it answers as JSON, what it refuses in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx


class SendError(Exception):
    """The hub cannot take what was sent. One line that says why, and never what."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """The hub's answer, where there was one."""


class Client:
    """A service, asked with somebody's token."""

    def __init__(self, url: str, token: str, seconds: float = 30) -> None:
        """`seconds` is how long an answer may take."""
        self._url = re.sub("(?<!:)//+", "/", url)  # no base_url of the client's, which puts a slash after it
        self._http = httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=seconds)

    def ask(self, method: str, path: str, body: Any = None, params: Mapping[str, Any] | None = None) -> Any:
        """The answer. Raises SendError with the service's problem, and httpx.TransportError where there is none."""
        response = self._http.request(method, self._url + path, json=body, params=params)
        try:
            found = response.json()
            problem = f"{found['title']}: {found['detail']}" if response.is_error else None
        except (ValueError, LookupError, TypeError):
            status = response.status_code
            raise SendError(f"{response.url} does not answer as a service of the hub ({status})", status) from None
        if problem:
            raise SendError(problem, response.status_code)
        return found

    def find(self, path: str) -> Any:
        """The answer; None where there is nothing. Raises SendError, httpx.TransportError."""
        try:
            return self.ask("GET", path)
        except SendError as refused:
            if refused.status != httpx.codes.NOT_FOUND:
                raise
            return None
