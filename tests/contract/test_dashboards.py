"""The dashboards' queries, where Prometheus watches others beside the hub. Live: tests/e2e/test_observing.py."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.contract.test_alerts import promtool

pytestmark = pytest.mark.contract

FOLDER = Path(__file__).parents[2] / "infra" / "grafana" / "dashboards"
OTHERS = re.compile(r"\b(ALERTS|up|process_\w+)\b(\{[^}]*\})?")


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in FOLDER.glob("*.json"):
        for panel in json.loads(path.read_text())["panels"]:
            yield f"{path.stem}: {panel['title']}", panel


def test_what_others_have_too_is_asked_of_the_hub_alone() -> None:
    asked = [
        (name, metric, labels)
        for name, panel in panels()
        for target in panel["targets"]
        for metric, labels in OTHERS.findall(target["expr"])
    ]
    assert {metric for _, metric, _ in asked} >= {"ALERTS", "up", "process_cpu_seconds_total"}
    ours = {"ALERTS": 'hub="estuaire"'}
    assert not [one for one in asked if ours.get(one[1], 'job="estuaire"') not in one[2]]


def test_a_line_in_time_is_no_sum_over_all_of_the_time_shown() -> None:
    lines = [(name, it["expr"]) for name, one in panels() if one["type"] == "timeseries" for it in one["targets"]]
    assert len(lines) > 20
    assert not [name for name, query in lines if "$__range" in query]


def test_who_does_not_answer_is_not_ready(tmp_path: Path) -> None:
    (ready,) = (one["targets"][0]["expr"] for name, one in panels() if name == "operators: Ready")
    series = {
        'up{job="estuaire",service="access"}': "0",
        'up{job="estuaire",service="linkage"}': "1",
        'estuaire_ready{job="estuaire",service="linkage"}': "1",
        'up{job="others",service="theirs"}': "0",
    }
    samples = [{"labels": f'{{service="{name}"}}', "value": value} for name, value in (("access", 0), ("linkage", 1))]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": value} for name, value in series.items()],
        "promql_expr_test": [{"expr": ready, "eval_time": "0m", "exp_samples": samples}],
    }
    (tmp_path / "ready.yaml").write_text(yaml.safe_dump({"tests": [test]}))
    promtool("test", "rules", "ready.yaml", folder=tmp_path)
