"""Who may do what over HTTP: `policies.cedar`, asked for each request. Whatever is in doubt is denied."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final, Literal

from cedarpy import Decision, PolicySet, Schema, is_authorized

from contracts.permits import Permit
from runtime.http import Authorization
from runtime.oidc import Caller, Callers, forbidden

log = logging.getLogger("estuaire.access")

Action = Literal[
    "grant", "change", "close", "try", "list", "see", "read", "take-part", "answer", "trace", "count", "replay"
]
_WHO: Final[dict[Action, tuple[str, ...]]] = {
    "grant": ("officers",),
    "change": ("officers",),
    "close": ("officers",),
    "try": ("officers",),
    "list": ("officers", "subscribers"),
    "see": ("officers", "subscribers"),
    "read": ("subscribers",),
    "take-part": ("officers", "reviewers", "subscribers"),
    "answer": ("officers",),
    "trace": ("operators",),
    "count": ("operators",),
    "replay": ("operators",),
}
"""Whom to name in a refusal."""
_HUB: Final = {"uid": {"type": "Hub", "id": "hub"}, "attrs": {}, "parents": []}


def policies() -> tuple[PolicySet, Schema]:
    """The policies and their schema. Raises ValueError."""
    here = files("services.access")
    schema = Schema.from_str((here / "policies.cedarschema").read_text())
    return PolicySet.from_str((here / "policies.cedar").read_text()), schema


class Doors:
    """Lets in whom the policies let in."""

    def __init__(self, callers: Callers) -> None:
        """Raises ValueError for policies that cannot be read."""
        self._callers = callers
        self._policies, self._schema = policies()

    def may(self, action: Action) -> Callable[[Authorization], Caller]:
        """A dependency: who calls, if they may do this. It raises a 401 or a 403 problem."""

        def enter(authorization: Authorization) -> Caller:
            caller = self._callers.caller(authorization)
            if not self._allows(caller, action, _HUB):
                raise forbidden(*_WHO[action])
            return caller

        return enter

    def is_subscriber(self, authorization: Authorization) -> Caller:
        """A dependency: who calls, if they may read what a permit says. It raises a 401 or a 403 problem."""
        caller = self._callers.caller(authorization)
        if "subscriber" not in caller.roles:
            raise forbidden(*_WHO["read"])
        return caller

    def sees(self, caller: Caller, permit: Permit | None) -> bool:
        """Whether they may see that there is this permit; None for one that cannot be read."""
        return self._allows(caller, "see", _permit(permit, is_open=False))

    def reads(self, caller: Caller, permit: Permit, *, is_open: bool) -> bool:
        """Whether they may read its view."""
        return self._allows(caller, "read", _permit(permit, is_open=is_open))

    def _allows(self, caller: Caller, action: Action, resource: dict[str, Any]) -> bool:
        user = {"type": "User", "id": caller.name}
        roles = [{"type": "Role", "id": one} for one in sorted(caller.roles)]
        entities = [{"uid": user, "attrs": {"name": caller.name}, "parents": roles}, resource]
        request = {"principal": user, "action": {"type": "Action", "id": action}, "resource": resource["uid"]}
        try:
            answer = is_authorized(request, self._policies, entities, self._schema)
        except ValueError:
            log.error("the policies cannot be asked: everything is denied")
            return False
        if answer.diagnostics.errors:
            log.error("a policy fails, and what it would permit is denied")
        return answer.decision is Decision.Allow


def _permit(permit: Permit | None, *, is_open: bool) -> dict[str, Any]:
    subscribers = sorted(permit.subscribers) if permit else []
    uid = {"type": "Permit", "id": permit.id if permit else ""}
    return {"uid": uid, "attrs": {"subscribers": subscribers, "open": is_open}, "parents": []}
