"""Dead letters, as whoever may replay them asks the services that made them."""

from __future__ import annotations

from contracts.registry import DEAD_LETTERS, topics
from estuaire.client import Client, SendError


def owners_of(topic: str) -> tuple[str, ...]:
    """The services whose dead letters a topic has. Raises SendError where it is none of dead letters."""
    declared = topics().get(topic.removesuffix(DEAD_LETTERS))
    if not topic.endswith(DEAD_LETTERS) or declared is None or not declared.dead_letters:
        known = ", ".join(f"{name}{DEAD_LETTERS}" for name, one in topics().items() if one.dead_letters)
        raise SendError(f"{topic} is no dead-letter topic: they are {known}")
    return declared.consumers


def replay(url: str, topic: str, most: int, token: str) -> int:
    """Have a service send its oldest dead letters of a topic round again; how many went. Raises SendError."""
    body = {"topic": topic, "most": most}
    count: int = Client(url, token, 120).ask("POST", "/v1/dead-letters/replay", body)["replayed"]
    return count
