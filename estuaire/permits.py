"""A permit officer's client of access: grant, close and list data permits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpx
from rich.table import Table

from contracts.permits import Permit
from estuaire.producer import checked


class Officer:
    """Access over HTTP, with an officer's token. All raise SendError."""

    def __init__(self, url: str, token: str) -> None:
        self._url = f"{url}/v1/permits"
        self._headers = {"Authorization": f"Bearer {token}"}

    def grant(self, permit: Permit) -> None:
        """Grant a permit, or grant it anew as it is now."""
        self._ask("POST", f"/{permit.id}/grant", permit.model_dump(mode="json", by_alias=True))

    def close(self, permit: str) -> None:
        """Close a permit."""
        self._ask("POST", f"/{permit}/close")

    def permits(self) -> list[dict[str, Any]]:
        """All permits, their state and the size of their views."""
        found: list[dict[str, Any]] = self._ask("GET")["permits"]
        return found

    def _ask(self, method: str, path: str = "", body: Any = None) -> Any:
        return checked(httpx.request(method, self._url + path, headers=self._headers, json=body, timeout=30))


def permits_table(permits: Iterable[dict[str, Any]]) -> Table:
    """The permits, a row each."""
    table = Table("permit", "state", "records", "expires", "title")
    for one in permits:
        table.add_row(one["id"], one["state"], str(one["records"]), one["expires"], one["title"])
    return table
