"""The end-to-end suite, through containers."""

from __future__ import annotations

import pytest

from tests.e2e.test_flow import *  # noqa: F403 - the very same tests, on another platform

pytestmark = pytest.mark.container
