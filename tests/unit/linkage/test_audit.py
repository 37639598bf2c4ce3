"""What linkage tells the audit log: whoever decided, and what."""

from __future__ import annotations

import datetime as dt

import msgspec
import pytest

from contracts.merkle import root_of
from contracts.messages import AuditLeaf
from runtime.messages import Message, Outputs
from services.linkage.domain.rules import RULES
from tests.unit.linkage.builders import switched
from tests.unit.linkage.test_handlers import TWINS
from tests.unit.linkage.test_oppositions import OBJECTOR, Hub, parts

pytestmark = pytest.mark.unit


def told(outputs: Outputs) -> list[AuditLeaf]:
    leaves = [emit for _, emit in outputs.emits if emit.topic == "audit"]
    assert all(one.trace == "none" and not one.headers for one in leaves)
    return [msgspec.msgpack.decode(one.value or b"", type=AuditLeaf) for one in leaves]


def test_a_stewards_decision_names_the_steward_and_the_pair() -> None:
    (leaf,) = told(Hub().take(parts()["apart"]))
    assert (leaf.actor, leaf.action, leaf.about, leaf.permit) == ("steward:steward", "link-decided", "apart", None)
    assert (leaf.count, leaf.root) == (2, root_of([OBJECTOR.subject.hex(), TWINS[1].subject.hex()]))
    assert dt.datetime.fromisoformat(leaf.at).utcoffset() == dt.timedelta(0)


def test_a_switch_of_rules_names_the_operator_and_is_told_once() -> None:
    hub = Hub()
    rules = msgspec.structs.replace(RULES, name="stricter", link=RULES.link + 1)
    (leaf,) = told(hub.take(switched(rules, 1)))
    assert (leaf.actor, leaf.action, leaf.about) == ("operator:Camille", "rules-switched", "stricter")
    assert told(hub.take(switched(rules, 1))) == []


def test_what_is_refused_is_not_told() -> None:
    assert told(Hub().take(Message("link-decisions", 0, 0, 0, b"pair", b"nonsense", {}))) == []
