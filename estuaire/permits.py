"""A permit officer's client of access: grant, close and list data permits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.table import Table

from contracts.permits import SMALL_CELL, Permit
from estuaire.client import Client


class Officer:
    """Access over HTTP, with an officer's token. All raise SendError."""

    def __init__(self, url: str, token: str) -> None:
        self._access = Client(f"{url}/v1/permits", token)

    def grant(self, permit: Permit) -> None:
        """Grant a permit, or grant it anew as it is now."""
        self._access.ask("POST", f"/{permit.id}/grant", permit.model_dump(mode="json", by_alias=True))

    def narrow(self, permit: Permit) -> None:
        """Let an open permit allow less: as it is now."""
        self._access.ask("POST", f"/{permit.id}/narrow", permit.model_dump(mode="json", by_alias=True))

    def suspend(self, permit: str) -> None:
        """Let nothing leave under a permit for a while."""
        self._access.ask("POST", f"/{permit}/suspend")

    def resume(self, permit: str) -> None:
        """Let a suspended permit be in force again."""
        self._access.ask("POST", f"/{permit}/resume")

    def close(self, permit: str) -> None:
        """Close a permit."""
        self._access.ask("POST", f"/{permit}/close")

    def permits(self) -> list[dict[str, Any]]:
        """All permits, their state and the size of their views."""
        found: list[dict[str, Any]] = self._access.ask("GET", "")["permits"]
        return found

    def try_out(self, permit: Permit, people: int) -> dict[str, Any]:
        """What a permit would release of so many people."""
        body = permit.model_dump(mode="json", by_alias=True, exclude_none=True)
        found: dict[str, Any] = self._access.ask("POST", f"/dry-run?people={people}", body)
        return found


def permits_table(permits: Iterable[dict[str, Any]]) -> Table:
    """The permits, a row each."""
    table = Table("permit", "state", "records", "expires", "title")
    for one in permits:
        table.add_row(one["id"], one["state"], str(one["records"]), one["expires"], one["title"])
    return table


def indicators(url: str, token: str, permit: str) -> dict[str, Any]:
    """The indicators of a permit, as they were released last, for one of its subscribers. Raises SendError."""
    found: dict[str, Any] = Client(url, token).ask("GET", f"/v1/permits/{permit}/indicators")
    return found


def indicators_table(found: dict[str, Any]) -> Table:
    """The cells that are shown, a row each."""
    released, following = found["released"] or "nothing yet", found["next"] or "none"
    table = Table(
        *("period", "area", "diagnosis", "people", "deviation"),
        title=f"released: {released}; next: {following}",
        caption="what is not listed is withheld, or nobody",
    )
    for one in found["cells"]:
        area, diagnosis = one["area"] or "everywhere", one["diagnosis"] or "any"
        table.add_row(one["period"], area, diagnosis, str(one["people"]), f"± {one['deviation']}")
    return table


def dry_run_tables(found: dict[str, Any]) -> list[Table]:
    """What a permit would release: volumes and fields, how people stand out, and whom other views meet."""
    released = found["released"]
    looked_at = f"{released['looked_at']} people{'' if found['whole'] else ', a sample'}"
    volumes = Table("type", "records", "people", "fields", title=f"{released['people']} of {looked_at}")
    for kind, one in released["types"].items():
        fields = ", ".join(f"{name} {count}" for name, count in one["fields"].items())
        volumes.add_row(kind, str(one["records"]), str(one["people"]), fields)
    cells, unique = released["cells"], released["uniqueness"]
    privacy = Table("who could be found", "", title="people")
    privacy.add_row("potential identifiers", ", ".join(found["potential_identifiers"]) or "none")
    privacy.add_row("smallest cell of demographics", str(cells["smallest"]))
    small = f"{cells['small']} of {cells['cells']}, with {cells['people_in_small']} people"
    privacy.add_row(f"cells under {SMALL_CELL}", small)
    privacy.add_row("unique by demographics", _percent(unique["demographics"]))
    privacy.add_row("unique with one event besides", _percent(unique["one_event"]))
    privacy.add_row("unique by the whole timeline", _percent(unique["timeline"]))
    joins = Table("permit that is open", "people in both views", "of these could be joined", title="other views")
    for name, one in released["joins"].items():
        joins.add_row(name, str(one["people_in_both"]), str(one["joined"]))
    return [volumes, privacy, *([joins] if released["joins"] else [])]


def _percent(share: float) -> str:
    return f"{share:.1%}"
