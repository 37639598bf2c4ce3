"""The policies: every role against every action, and what happens when they fail."""

from __future__ import annotations

from importlib.resources import files
from typing import Any, get_args

import pytest
from cedarpy import validate_policies

from runtime.http import ProblemError
from services.access import authorization
from services.access.authorization import Action, Doors
from tests.unit.access.hub import Known, permit

pytestmark = pytest.mark.unit

ROLES = ("officer", "reviewer", "subscriber", "operator", "steward")
DOORS = Doors(Known({one: [one, *(["strangers"] if one == "subscriber" else [])] for one in ROLES}))
ALLOWED = {
    "grant": {"officer"},
    "change": {"officer"},
    "close": {"officer"},
    "try": {"officer"},
    "list": {"officer", "subscriber"},
    "take-part": {"officer", "reviewer", "subscriber"},
    "answer": {"officer"},
    "trace": {"operator"},
    "count": {"operator"},
    "replay": {"operator"},
    "see": set(),
    "read": set(),
}
"""What may be done to the hub; `see` and `read` are asked of permits alone."""


@pytest.mark.parametrize("action", get_args(Action))
@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_do_what_the_table_says(action: Any, role: str) -> None:
    try:
        entered = DOORS.may(action)(f"Bearer {role}").name == role
    except ProblemError as refused:
        assert refused.status_code == 403
        entered = False
    assert entered == (role in ALLOWED[action])


def test_a_permit_is_seen_and_read_by_those_whom_it_names() -> None:
    named = permit(subscribers=["subscriber", 'a"; permit(principal, action, resource);'])
    callers = {one: DOORS._callers.caller(f"Bearer {one}") for one in (*ROLES, "strangers")}
    assert {who for who, one in callers.items() if DOORS.sees(one, named)} == {"officer", "subscriber"}
    assert {who for who, one in callers.items() if DOORS.sees(one, None)} == {"officer"}
    assert {who for who, one in callers.items() if DOORS.reads(one, named, is_open=True)} == {"subscriber"}
    assert not any(DOORS.reads(one, named, is_open=False) for one in callers.values())


def test_a_name_cannot_write_policies() -> None:
    sly = 'x"; permit(principal, action, resource); "'
    doors = Doors(Known({"reviewer": [sly]}))
    caller = doors._callers.caller(f"Bearer {sly}")
    assert caller.name == sly
    assert not doors.reads(caller, permit(subscribers=["team"]), is_open=True)
    assert doors.may("take-part")(f"Bearer {sly}") == caller


def test_the_policies_are_valid_by_their_schema() -> None:
    here = files("services.access")
    found = validate_policies((here / "policies.cedar").read_text(), (here / "policies.cedarschema").read_text())
    assert found.validation_passed, found.errors


@pytest.mark.parametrize("broken", ["", "permit(principal", "permit(principal, action, resource) when { 1 };"])
def test_without_policies_that_can_be_asked_everything_is_denied(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, schema = authorization.policies()
    monkeypatch.setattr(authorization, "policies", lambda: (broken, schema))
    with pytest.raises(ProblemError) as refused:
        Doors(Known({"officer": ["officer"]})).may("grant")("Bearer officer")
    assert refused.value.status_code == 403
