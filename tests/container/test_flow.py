"""The end-to-end suite, through containers; and what an image holds."""

from __future__ import annotations

import subprocess

import pytest

from estuaire.platform import SERVICES
from tests.container.conftest import image
from tests.e2e.test_flow import *  # noqa: F403 - the very same tests, on another platform

pytestmark = pytest.mark.container


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_holds_no_other_services_code(images: None, service: str) -> None:
    listing = ["docker", "run", "--rm", "--entrypoint", "ls", image(service), "services"]
    found = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()
    assert sorted(found) == sorted(["__init__.py", service])


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_runs_as_nobody(images: None, service: str) -> None:
    who = ["docker", "run", "--rm", "--entrypoint", "id", image(service), "-u"]
    assert subprocess.run(who, capture_output=True, text=True, check=True).stdout.strip() == "65532"
