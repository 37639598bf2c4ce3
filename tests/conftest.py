"""One broker, one PostgreSQL and one platform a session; each test has topics, databases and sources of its own."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from contracts.registry import topics_to_create
from estuaire import broker as broker_module
from estuaire.broker import start_broker
from estuaire.database import Database, start_database
from estuaire.platform import Platform
from estuaire.process import free_port
from runtime.kafka import create_topics
from runtime.settings import RuntimeSettings
from tests.hub import Hub, free_base_port

# Of two processes that start a broker at one moment, one would be without a port.
broker_module.DEFAULT_PORT = free_port()
# A loaded machine is slow at making examples, which says nothing of the code.
settings.register_profile("estuaire", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("estuaire")


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


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """The whole platform: real broker, real database, all services."""
    home = tmp_path_factory.mktemp("hub")
    with Platform(home, free_base_port(), report=lambda _line: None, trace_ratio=0.0) as platform:
        yield Hub(platform)


@pytest.fixture(scope="session")
def observation() -> Callable[..., dict[str, Any]]:
    """Makes an observation about a person of the tests; the number is the person's."""

    def make(source: str, record_id: str, person: int, value: float = 72, **changes: Any) -> dict[str, Any]:
        return {
            "specversion": "1.0",
            "id": record_id,
            "source": source,
            "type": "observation.v1",
            "time": "2026-03-01T10:00:00Z",
            "datacontenttype": "application/json",
            "data": {
                "identity": {"identifiers": [{"system": "ipp", "assigner": source, "value": f"P{person:06d}"}]},
                "record": {
                    "resourceType": "Observation",
                    "status": "final",
                    "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
                    "effectiveDateTime": "2026-03-01T10:00:00Z",
                    "valueQuantity": {"value": value, "system": "http://unitsofmeasure.org", "code": "/min"},
                },
            },
        } | changes

    return make
