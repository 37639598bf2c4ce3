"""One broker and one PostgreSQL a session; topics and databases of its own for each test."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest

from contracts.registry import topics_to_create
from estuaire.broker import start_broker
from estuaire.database import Database, start_database
from runtime.kafka import create_topics
from runtime.settings import RuntimeSettings


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real broker: `KAFKA_BOOTSTRAP_SERVERS`, or one for this session."""
    with start_broker(tmp_path_factory.mktemp("broker"), report=lambda _line: None) as started:
        yield started.bootstrap_servers


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A real PostgreSQL: `DATABASE_URL`, or one for this session."""
    with start_database(tmp_path_factory.mktemp("postgres"), report=lambda _line: None) as started:
        yield started


@pytest.fixture
def database(postgres: Database) -> Callable[[], str]:
    """Makes an empty database and gives its URL."""
    return lambda: postgres.url(f"test_{secrets.token_hex(6)}")


@pytest.fixture
def topics(broker: str) -> str:
    """The prefix of a set of topics that only this test uses."""
    prefix = f"test-{secrets.token_hex(4)}-"
    create_topics(RuntimeSettings(bootstrap_servers=broker), topics_to_create(2, prefix))
    return prefix
