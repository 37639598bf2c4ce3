"""The examples run as their READMEs say, and find what their producers made up."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from examples.emergency_weekly import produce as emergency
from examples.emergency_weekly import subscribe as weekly
from examples.remote_monitoring import produce as monitoring
from examples.transplant_cohort import produce as transplants
from tests.commands import estuaire
from tests.hub import Hub

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]


def environment(hub: Hub) -> dict[str, str]:
    return {**os.environ, "ESTUAIRE_HOME": str(hub.platform.home)}


def run(hub: Hub, *arguments: str) -> str:
    """Run a command of a README in the checkout, against the platform of the tests."""
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(hub), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def grant(hub: Hub, example: str) -> None:
    estuaire(hub, "permit", "grant", str(ROOT / "examples" / example / "permit.yaml"))
    name = example.replace("_", "-")
    hub.wait_for(lambda: f"{name} " in (listed := estuaire(hub, "permit", "list").stdout) and "open" in listed)


def produce(hub: Hub, example: str) -> None:
    said = run(hub, f"examples.{example}.produce")
    assert "False" not in said, said


@pytest.mark.long
def test_alerts_are_raised_for_the_measures_that_ask_for_one_and_for_no_other(hub: Hub) -> None:
    grant(hub, "remote_monitoring")
    hub.wait_for(lambda: hub.messages("view-remote-monitoring") is not None)
    command = [sys.executable, "-m", "examples.remote_monitoring.subscribe"]
    live = subprocess.Popen(command, cwd=ROOT, env=environment(hub), stdout=subprocess.PIPE, text=True)
    heard: list[dict[str, Any]] = []
    assert live.stdout is not None
    reader = threading.Thread(target=lambda: heard.extend(json.loads(line) for line in live.stdout or ()))
    reader.start()
    try:
        produce(hub, "remote_monitoring")
        expected = Counter(
            (one.alert, one.value, one.measured.isoformat()) for one in monitoring.measures() if one.alert
        )
        hub.wait_for(lambda: len(heard) >= expected.total())
        produce(hub, "remote_monitoring")
    finally:
        live.terminate()
        reader.join(10)
    assert Counter((one["alert"], one["value"], one["measured"]) for one in heard) == expected
    again = [json.loads(line) for line in run(hub, "examples.remote_monitoring.subscribe", "--once").splitlines()]
    assert sorted(again, key=str) == sorted(heard, key=str)
    assert len({one["patient"] for one in heard}) == 9


def test_the_cohort_is_joined_from_three_sources_and_holds_nobody_else(hub: Hub) -> None:
    grant(hub, "transplant_cohort")
    produce(hub, "transplant_cohort")
    rows = list(csv.DictReader(StringIO(run(hub, "examples.transplant_cohort.subscribe"))))
    found = Counter(tuple(row.values())[1:] for row in rows)
    _, truth = transplants.story()
    assert found == Counter(tuple(map(str, one)) for one in truth)
    assert len({row["patient"] for row in rows}) == transplants.TRANSPLANTED
    subjects = {json.loads(one.value)["subject"] for one in hub.messages("view-transplant-cohort")}
    assert subjects == {row["patient"] for row in rows}


@pytest.mark.long
def test_weekly_counts_are_those_of_the_visits_and_small_ones_are_withheld(hub: Hub) -> None:
    grant(hub, "emergency_weekly")
    produce(hub, "emergency_weekly")
    rows = list(csv.DictReader(StringIO(run(hub, "examples.emergency_weekly.subscribe"))))
    counts = emergency.counts()
    shown = {(row["week"], row["syndrome"], group): row[group] for row in rows for _, group in weekly.AGES}
    assert set(counts) <= set(shown)
    for place, value in shown.items():
        assert value == (str(counts[place]) if counts[place] >= weekly.SMALLEST else "<11"), place
    assert Counter(value == "<11" for value in shown.values())[False] > 10
    view = b"".join(one.value for one in hub.messages("view-emergency-weekly"))
    assert b"as the patient put it" not in view


def test_examples_have_the_same_shape() -> None:
    folders = [one.parent for one in (ROOT / "examples").glob("*/produce.py")]
    assert len(folders) == 3
    for folder in folders:
        files = {one.name for one in folder.iterdir() if not one.name.startswith("__")}
        assert files == {"README.md", "permit.yaml", "produce.py", "subscribe.py"}
        readme = (folder / "README.md").read_text()
        for command in ("permit grant", f"examples.{folder.name}.produce", f"examples.{folder.name}.subscribe"):
            assert command in readme
        assert len((folder / "subscribe.py").read_text().splitlines()) <= 80
