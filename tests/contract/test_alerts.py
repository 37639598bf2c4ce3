"""The alert rules: sound, each fired by its cause in promtool's tests, each with its place in the runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from estuaire.platform import SERVICES

pytestmark = pytest.mark.contract

HERE = Path(__file__).resolve().parent.parent
PROMETHEUS = HERE.parent / "infra" / "prometheus"
RUNBOOK = HERE.parent / "docs" / "runbook.md"
TESTS = HERE / "prometheus"
FILES = ("alerts.yaml", "ingest.yaml")


def alerts(*files: str) -> dict[str, dict[str, Any]]:
    """Those of these files of rules; of all, where none is named."""
    read = [yaml.safe_load((PROMETHEUS / "rules" / file).read_text()) for file in files or FILES]
    rules = [rule for one in read for group in one["groups"] for rule in group["rules"] if "alert" in rule]
    found = {rule["alert"]: rule for rule in rules}
    assert len(found) == len(rules)
    return found


def promtool(*arguments: str, folder: Path = PROMETHEUS) -> str:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here, so no alert rule is tried: apt install prometheus, brew install prometheus")
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "config", "prometheus.yaml")
    loaded = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())["rule_files"]
    assert sorted(loaded) == sorted(f"rules/{path.name}" for path in (PROMETHEUS / "rules").iterdir())


def test_who_is_watched_is_missed_where_it_is_not_there_at_all() -> None:
    (job,) = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())["scrape_configs"]
    watched = {one["labels"]["service"] for one in job["static_configs"]}
    assert watched == {"statistics-windows", "rights", *SERVICES}
    missed = {
        name: re.findall(r'absent\(up{job="estuaire",service="(.+?)"}\)', alerts()[name]["expr"])
        for name in ("ServiceDown", "IngestDown")
    }
    assert sorted(missed["ServiceDown"]) == sorted(watched - {"ingest"})
    assert missed["IngestDown"] == ["ingest"]


def test_where_a_third_party_runs_ingest_no_rule_of_the_hub_asks_for_it() -> None:
    of_ingest = re.compile(r'estuaire_ingest_|service="ingest"')
    assert not [name for name, rule in alerts("alerts.yaml").items() if of_ingest.search(rule["expr"])]


@pytest.mark.parametrize("file", FILES)
def test_each_alert_fires_for_its_cause_and_clears(file: str) -> None:
    promtool("test", "rules", file, folder=TESTS)


@pytest.mark.parametrize("file", FILES)
def test_each_alert_has_such_a_test(file: str) -> None:
    assert [one["name"] for one in yaml.safe_load((TESTS / file).read_text())["tests"]] == list(alerts(file))


@pytest.mark.parametrize("name", alerts())
def test_an_alert_says_how_bad_it_is_what_it_means_and_where_to_read_on(name: str) -> None:
    rule = alerts()[name]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["labels"]["hub"] == "estuaire", "dashboards ask for it, where others' alerts are kept too"
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"


def test_the_runbook_has_each_alert_under_its_own_heading_and_no_other() -> None:
    _, _, after = RUNBOOK.read_text().partition("\n## Alerts\n")
    part, _, _ = after.partition("\n## ")
    assert re.findall(r"^### (\S+)$", part, re.MULTILINE) == list(alerts())


@pytest.mark.parametrize("name", alerts())
def test_the_runbook_says_what_it_means_how_to_look_and_how_to_act(name: str) -> None:
    _, _, after = RUNBOOK.read_text().partition(f"\n### {name}\n")
    part = re.split(r"^#", after, maxsplit=1, flags=re.MULTILINE)[0]
    for question in ("**Means**", "**Look**", "**Act**"):
        assert question in part
