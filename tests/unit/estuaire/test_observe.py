"""What looks at the platform is found, or its lack is said in a sentence and the platform starts without it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from estuaire.observe import INFRA, RULES, Observers, built_jaeger, find_jaeger, scrape_configuration, version
from estuaire.platform import SERVICES
from estuaire.process import StartError

pytestmark = pytest.mark.unit


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing on the path and nothing in the cache."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "bin").mkdir()
    return tmp_path


def program(folder: Path, name: str, says: str) -> None:
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)


def test_without_either_both_are_said_to_be_missing_and_how_to_get_them(bare: Path) -> None:
    said: list[str] = []
    observers = Observers(bare, said.append)
    observers.start_traces()
    observers.start_prometheus({})
    assert [("jaeger" in line and "Go 1.26+" in line, "apt install prometheus" in line) for line in said] == [
        (True, False),
        (False, True),
    ]
    assert observers.addresses() == observers.environment() == {}


def test_a_go_that_is_too_old_builds_nothing(bare: Path) -> None:
    program(bare, "go", "go1.21.3")
    with pytest.raises(StartError, match=r"Go 1\.26\+"):
        find_jaeger(lambda _line: None)


def test_a_build_that_fails_is_no_program(bare: Path) -> None:
    (bare / "bin" / "go").write_text(
        '#!/bin/sh\n[ "$1" = env ] && echo go1.26.8 || { echo "no such module" >&2; exit 1; }\n'
    )
    (bare / "bin" / "go").chmod(0o755)
    with pytest.raises(StartError, match="no such module"):
        find_jaeger(lambda _line: None)
    assert not built_jaeger().exists()


def test_what_is_built_is_taken(bare: Path) -> None:
    built_jaeger().parent.mkdir(parents=True)
    built_jaeger().touch()
    assert find_jaeger(lambda _line: None) == built_jaeger()
    assert built_jaeger().name == f"jaeger-{version()}"


def test_both_configurations_scrape_every_service_by_the_same_rules() -> None:
    production = yaml.safe_load((INFRA / "prometheus" / "prometheus.yaml").read_text())
    local = scrape_configuration({name: f"http://127.0.0.1:{port}" for port, name in enumerate(SERVICES)}, RULES, "5s")
    (theirs,), (ours,) = production["scrape_configs"], local["scrape_configs"]
    assert {one["labels"]["service"] for one in theirs["static_configs"]} == {*SERVICES, "statistics-windows", "rights"}
    assert [one["labels"] for one in ours["static_configs"]] == [{"service": name} for name in SERVICES]
    assert ours["static_configs"][0]["targets"] == ["127.0.0.1:0"]
    assert local["rule_files"] == [str(INFRA / "prometheus" / "rules" / "*.yaml")]
