"""Who has which right at the broker, from the declarations of topics and from permits. What is not listed is denied.

A service has one principal, named like itself; a subscriber's is kept apart from all services' by its form, so that no
name that a permit gives can be theirs. A deployment that prefixes its topics prefixes its principals too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple
from urllib.parse import quote

from contracts.registry import DEAD_LETTERS, Topic, topics, view_topic

SUBSCRIBER: Final = "subscriber/"

Resource = Literal["topic", "group", "transactional_id"]
Operation = Literal["read", "write", "create", "delete"]


class Right(NamedTuple):
    """One allowed operation. Read and write imply describe; there is no right to deny."""

    principal: str
    resource: Resource
    name: str
    operation: Operation
    prefixed: bool = False
    """Whether it is about every resource whose name begins so."""


def services() -> frozenset[str]:
    """All that write topics, or read those that are not a permit's."""
    declared = topics().values()
    writers = {name for topic in declared for name in topic.producers}
    return frozenset(writers | {name for topic in declared if not topic.per_permit for name in topic.consumers})


def subscriber(name: str, prefix: str = "") -> str:
    """A subscriber's principal, whatever its name: no slash but the first is in it."""
    return f"{prefix}{SUBSCRIBER}{quote(name, safe='')}"


def subscriber_group(name: str, prefix: str = "") -> str:
    """What the names of a subscriber's consumer groups begin with; no other subscriber's begin so."""
    return f"{subscriber(name, prefix)}/"


def is_ours(principal: str, prefix: str = "") -> bool:
    """Whether this deployment, and nobody else, says what the principal may do."""
    return principal.removeprefix(prefix) in services() or principal.startswith(prefix + SUBSCRIBER)


def service_rights(prefix: str = "") -> frozenset[Right]:
    """Everything that the services need, and nothing else."""
    return frozenset(right for service in services() for right in rights_of(service, prefix + service, prefix))


def rights_of(service: str, principal: str, prefix: str = "") -> Iterator[Right]:
    """What a service needs, for the principal that it goes by."""
    for topic in topics().values():
        yield from _on_topic(topic, service, principal, prefix)
    steps = [topic for topic in topics().values() if service in topic.consumers and topic.dead_letters]
    yield Right(principal, "group", prefix + service, "read")
    yield Right(principal, "group", f"{prefix}{service}-", "read", prefixed=True)
    if steps:
        yield Right(principal, "transactional_id", f"{prefix}{service}-", "write", prefixed=True)


def permit_rights(permit: str, subscribers: Iterable[str], prefix: str = "") -> frozenset[Right]:
    """What the subscribers of an open permit may do: read its view, in groups of their own."""
    view = view_topic(permit, 1, prefix).name
    found = set()
    for name in subscribers:
        principal = subscriber(name, prefix)
        found |= {
            Right(principal, "topic", view, "read"),
            Right(principal, "group", subscriber_group(name, prefix), "read", prefixed=True),
        }
    return frozenset(found)


def _on_topic(topic: Topic, service: str, principal: str, prefix: str) -> Iterator[Right]:
    if topic.per_permit:
        if service in topic.producers:
            for operation in ("create", "delete", "write"):
                yield Right(principal, "topic", view_topic("", 1, prefix).name, operation, prefixed=True)
        return
    for lane in topic.lane_names():
        if service in topic.writers:
            yield Right(principal, "topic", prefix + lane, "write")
        if service in topic.consumers:
            yield Right(principal, "topic", prefix + lane, "read")
    if topic.dead_letters and service in topic.consumers:
        yield Right(principal, "topic", prefix + topic.name + DEAD_LETTERS, "write")
        yield Right(principal, "topic", prefix + topic.name + DEAD_LETTERS, "read")
