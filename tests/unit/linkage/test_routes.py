"""What the index answers over HTTP, as its document says it."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.http import Bearers
from services.linkage.routes import Doors, application
from tests.unit.runtime.test_http import check_documents

pytestmark = pytest.mark.unit


def test_the_document_says_what_is_answered() -> None:
    nothing: Any = None
    check_documents(
        application(lambda: None, nothing, nothing, nothing, Doors(Bearers({}), Bearers({})), nothing),
        {
            "GET /v1/records/{event_id}": {200, 401, 403, 404, 503},
            "GET /v1/counts": {200, 401, 403, 503},
            "GET /v1/linkage": {200, 401, 403, 422, 503},
            "GET /v1/reviews": {200, 401, 403, 422, 503},
            "GET /v1/reviews/{pair}": {200, 401, 403, 404, 422, 503},
            "GET /v1/reviews/progress": {200, 401, 403, 422, 503},
            "POST /v1/reviews/{pair}": {202, 401, 403, 404, 409, 422, 503},
            "DELETE /v1/reviews/{pair}": {202, 401, 403, 404, 422, 503},
            "GET /v1/rules": {200, 401, 403, 503},
            "GET /v1/rules/{name}": {200, 401, 403, 404, 503},
            "POST /v1/rules": {202, 401, 403, 404, 422, 503},
        },
    )
