"""Rights at the broker as they follow from the declarations: nobody has more than its part of the table."""

from __future__ import annotations

import pytest

from contracts.acl import Right, is_ours, permit_rights, service_rights, services, subscriber, subscriber_group
from contracts.registry import topics_to_create
from estuaire.platform import SERVICES

pytestmark = pytest.mark.contract

NAMES = ["ingest", "admin", "broker", "a", "a/b", "a%2Fb", "équipe / nantes", "User:admin", "*", "a;b,c=d"]


def test_the_principals_are_the_services_but_for_the_console_which_has_no_business_at_the_broker() -> None:
    assert services() == set(SERVICES) - {"console"}


def test_every_topic_is_written_by_somebody_and_none_is_named_that_does_not_exist() -> None:
    names = {one.name for one in topics_to_create(2)}
    on_topics = {right for right in service_rights() if right.resource == "topic" and not right.prefixed}
    assert {right.name for right in on_topics} == names
    assert {right.name for right in on_topics if right.operation == "write"} == names


def test_only_views_groups_and_transactions_go_by_how_a_name_begins() -> None:
    prefixed = {(right.principal, right.resource, right.name) for right in service_rights() if right.prefixed}
    assert {one for one in prefixed if one[1] == "topic"} == {("access", "topic", "view-")}
    for principal, resource, name in prefixed:
        assert resource == "topic" or name == f"{principal}-"
    begun = {principal for principal, resource, _ in prefixed if resource == "transactional_id"}
    assert begun == {"pseudonym", "linkage", "access", "audit"}


def test_a_prefix_of_topics_is_one_of_everything() -> None:
    plain = service_rights() | permit_rights("one", ["a"])
    prefixed = service_rights("eu.") | permit_rights("one", ["a"], "eu.")
    assert {right._replace(principal=f"eu.{right.principal}", name=f"eu.{right.name}") for right in plain} == prefixed
    assert all(is_ours(right.principal, "eu.") for right in prefixed)
    assert not any(is_ours(right.principal) for right in prefixed)


@pytest.mark.parametrize("name", NAMES)
def test_no_name_makes_a_subscriber_anybody_else(name: str) -> None:
    principal = subscriber(name)
    assert principal.count("/") == 1
    assert principal not in services() | {"admin", "broker"}
    assert is_ours(principal)
    others = [subscriber_group(other) for other in NAMES if other != name]
    assert not any(one.startswith(subscriber_group(name)) or subscriber_group(name).startswith(one) for one in others)


def test_a_subscriber_reads_its_view_in_its_own_groups() -> None:
    assert permit_rights("one", ["a"]) == {
        Right("subscriber/a", "topic", "view-one", "read"),
        Right("subscriber/a", "group", "subscriber/a/", "read", prefixed=True),
    }
    assert permit_rights("one", []) == frozenset()
