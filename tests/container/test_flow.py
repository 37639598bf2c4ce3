"""The end-to-end suite, through containers."""

from __future__ import annotations

import pytest

from tests.container.conftest import Contained
from tests.e2e.test_flow import *  # noqa: F403 - the very same tests, on another platform
from tests.hub import Hub

pytestmark = [pytest.mark.container, pytest.mark.long]  # type: ignore[assignment]


def test_no_service_was_root_or_could_have_written_into_its_own_folders(hub: Hub) -> None:
    for name, service in hub.platform.services.items():
        assert isinstance(service, Contained)
        assert service.container is not None
        told = service.container.exec(["sh", "-c", "id -u; touch /app/mine /opt/mine 2>&1; cat /proc/1/status"])
        text = told.output.decode()
        assert int(text.splitlines()[0]) > 0, name
        assert text.count("Read-only file system") == 2, name
        assert "CapEff:\t0000000000000000" in text, name
