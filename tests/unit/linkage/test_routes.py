"""What the index answers over HTTP, as its document says it."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.http import Bearers
from services.linkage.routes import application
from tests.unit.runtime.test_http import check_documents

pytestmark = pytest.mark.unit


def test_the_document_says_what_is_answered() -> None:
    lookup: Any = None
    check_documents(
        application(lambda: None, lookup, Bearers({})),
        {"GET /v1/records/{event_id}": {200, 401, 404, 503}, "GET /v1/counts": {200, 401, 503}},
    )
