"""What a service's image has installed is what its code imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from estuaire.platform import SERVICES

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OWN = {"contracts", "runtime", "services"}
UNNAMED = {"access": {"pyarrow"}, "ingest": {"tzdata"}, "statistics": {"cramjam"}}
"""What is needed without a name in the service's code: `contracts.table`, `zoneinfo`, and Faust's client for LZ4."""


def imported(*folders: str) -> set[str]:
    """The distributions that the code of these folders imports."""
    names: set[str] = set()
    for file in (one for folder in folders for one in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {one.name for one in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(str(node.module))
    tops = {name.partition(".")[0] for name in names} - OWN - sys.stdlib_module_names
    known = packages_distributions()
    return {_plain(known[top][0]) for top in tops}


def listed(requirements: list[object]) -> set[str]:
    return {_plain(str(re.split(r"[\[<>=~ ]", one)[0])) for one in requirements if isinstance(one, str)}


def _plain(name: str) -> str:
    return re.sub("[-_.]+", "-", name).lower()


@pytest.mark.parametrize("service", SERVICES)
def test_a_services_packages_are_those_that_its_code_imports(service: str) -> None:
    shared = listed(PROJECT["project"]["dependencies"])
    own = listed(PROJECT["dependency-groups"][service])
    needed = imported(f"services/{service}") - {"starlette", "opentelemetry-api", "psycopg-pool"}
    assert own == (needed - shared) | UNNAMED.get(service, set())


def test_what_all_have_is_what_the_runtime_and_the_contracts_import() -> None:
    shared = listed(PROJECT["project"]["dependencies"])
    needed = imported("runtime", "contracts") - {"starlette", "opentelemetry-api", "pyarrow", "pydantic-core"}
    assert needed - shared == set()
    assert shared - needed <= {"opentelemetry-exporter-otlp-proto-http", "opentelemetry-sdk"}
