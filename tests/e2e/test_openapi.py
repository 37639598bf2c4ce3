"""Each service answers what its OpenAPI document says, whatever is sent: generated requests, valid and not."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.result import Ok

from tests.hub import Hub

pytestmark = pytest.mark.e2e

log = logging.getLogger("tests")

REQUESTS = int(os.environ.get("ESTUAIRE_HTTP_REQUESTS", "1000"))
"""About how many to send, over all services."""
SERVICES = ("ingest", "access", "linkage", "statistics", "audit")
ROLES = ("officer", "reviewer", "subscriber", "operator", "steward", "auditor")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@schemathesis.serializer("application/hl7-v2", "x-application/hl7-v2+er7")
def _text(_context: Any, value: Any) -> bytes:
    return str(value).encode(errors="replace")


def operations(hub: Hub, service: str) -> Iterator[Any]:
    schema = schemathesis.openapi.from_url(f"{hub.platform.services[service].url}/openapi.json")
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        yield found.ok()


def test_whatever_is_sent_is_answered_as_documented(hub: Hub) -> None:
    listed = {name: list(operations(hub, name)) for name in SERVICES}
    each = max(2, REQUESTS // sum(len(one) for one in listed.values()) // 2)
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    for service, found in listed.items():
        token = (
            hub.platform.keyring.producer_token("urn:estuaire:producer:anything")
            if service == "ingest"
            else hub.platform.keyring.token("somebody", *ROLES)
        )
        for operation in found:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                try:
                    send(operation, mode, each, token, statuses)
                except (Exception, BaseExceptionGroup) as error:
                    wrong.append(f"{service} {operation.label} ({mode.value}): {error}")
    log.warning("%d requests: %s", statuses.total(), dict(sorted(statuses.items())))
    assert not wrong, "\n\n".join(wrong)
    assert statuses.total() >= REQUESTS // 2
    assert statuses[200] + statuses[202] and statuses[422] and statuses[404]


def send(operation: Any, mode: GenerationMode, count: int, token: str, statuses: Counter[int]) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    def one(case: Any) -> None:
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {token}"}
        answer = case.call(timeout=60)
        statuses[answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    one()
