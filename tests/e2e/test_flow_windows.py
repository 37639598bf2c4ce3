"""The flow over the whole platform: its windows are what was sent; who stops raises an alarm that clears."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import Enter
from tests.hub import Hub

pytestmark = pytest.mark.e2e

Make = Callable[..., dict[str, Any]]


def ask(hub: Hub, path: str, **params: Any) -> dict[str, Any]:
    answer = hub.get(path, "operators", "olga", service="statistics", **params)
    assert answer.status_code == httpx.codes.OK, answer.text
    found: dict[str, Any] = answer.json()
    return found


def counted(hub: Hub, source: str) -> dict[str, int]:
    """Records by step, over all windows of the last hour."""
    shown = ask(hub, "/v1/flow", source=source)
    return {
        step: sum(one["steps"][step]["records"] for one in shown["windows"] if step in one["steps"])
        for step in shown["steps"]
    }


def alarm(hub: Hub, source: str, kind: str) -> dict[str, Any] | None:
    alarms = ask(hub, "/v1/alarms")["alarms"]
    return next((one for one in alarms if (one["source"], one["kind"]) == (source, kind)), None)


def silence(hub: Hub, source: str) -> dict[str, Any] | None:
    return alarm(hub, source, "silence")


def metrics(hub: Hub) -> str:
    return httpx.get(f"{hub.platform.services['statistics'].url}/metrics").text


def silent_seconds(hub: Hub, source: str) -> str | None:
    """How long a source was silent when it was judged last; each judgement says something else."""
    begin = f'estuaire_source_silent_seconds{{source="{source}"}} '
    return next((one.removeprefix(begin) for one in metrics(hub).splitlines() if one.startswith(begin)), None)


def test_the_windows_are_what_was_sent(hub: Hub, observation: Make) -> None:
    source = hub.source()
    begun = dt.datetime.now(dt.UTC)
    hub.send(source, [observation(source, f"w{number}", number % 5) for number in range(30)])
    hub.send(source, [observation(source, "bad", 1, type="horoscope.v1")])
    expected = {"ingest": 31, "pseudonym": 30, "linkage": 30, "access": 30}
    hub.wait_for(lambda: counted(hub, source) == expected, 60)
    shown = ask(hub, "/v1/flow", source=source, **{"from": begun.isoformat()})
    assert shown["window_seconds"] == 10
    steps = [one["steps"] for one in ask(hub, "/v1/flow", source=source)["windows"]]
    verdicts = [one["ingest"]["verdicts"] for one in steps if "ingest" in one and one["ingest"]["records"]]
    assert sum(one.get("accepted", 0) for one in verdicts) == 30
    assert sum(one.get("rejected", 0) for one in verdicts) == 1
    at_access = [one["access"] for one in steps if one.get("access", {}).get("records")]
    assert all(one["age_seconds"]["max"] >= one["age_seconds"]["mean"] > 0 for one in at_access)
    assert all(one["waiting"] is not None for one in at_access)
    (listed,) = (one for one in ask(hub, "/v1/flow/sources")["sources"] if one["source"] == source)
    assert (listed["records"]["hour"], listed["rejected"]["hour"]) == (31, 1)
    assert listed["last_seen"] is not None
    wrong = hub.get("/v1/flow", "operators", "olga", service="statistics", **{"from": "yesterday"})
    assert (wrong.status_code, wrong.headers["content-type"]) == (422, "application/problem+json")
    assert hub.get("/v1/alarms", "officers", "olga", service="statistics").status_code == httpx.codes.FORBIDDEN


def test_a_tenfold_volume_raises_an_alarm_and_shows_on_the_page(hub: Hub, enter: Enter, observation: Make) -> None:
    source = hub.source()
    hub.register(source)
    hub.remember(source, 120, 21)

    def records(span: str) -> int:
        (listed,) = (one for one in ask(hub, "/v1/flow/sources")["sources"] if one["source"] == source)
        found: int = listed["records"][span]
        return found

    hub.send(source, [observation(source, f"usual{number}", number % 5) for number in range(130)])
    hub.wait_for(lambda: records("hour") >= 130 and records("day") >= 130 + 120, 120)
    before = silent_seconds(hub, source)
    hub.wait_for(lambda: silent_seconds(hub, source) != before, 120)  # all of them are judged
    assert alarm(hub, source, "volume") is None, "what is usual at this time of the day"
    with hub.producer(source) as producer:
        list(producer.send(observation(source, f"more{number}", number % 300) for number in range(1_300)))
    hub.wait_for(lambda: alarm(hub, source, "volume") is not None, 120)
    raised = alarm(hub, source, "volume")
    assert raised is not None
    assert (raised["expected"], raised["seen"] >= 1_200) == (120.0, True)
    operator = enter("operator")
    operator.go("/producers")
    card = operator.page.get_by_role("listitem").filter(has_text="Unusual volume").filter(has_text="expected 120")
    assert card.count() == 1
    operator.is_accessible()


@pytest.mark.long
def test_a_producer_that_stops_raises_an_alarm_that_survives_a_restart_and_clears(
    hub: Hub, enter: Enter, observation: Make
) -> None:
    source = hub.source()
    hub.send(source, [observation(source, "first", 1)])
    hub.register(source, "30m")
    hub.wait_for(lambda: silent_seconds(hub, source) is not None, 120)
    assert silence(hub, source) is None
    hub.register(source, "1m")
    hub.wait_for(lambda: silence(hub, source) is not None, 300)
    raised = silence(hub, source)
    assert raised is not None
    assert (raised["seen"], raised["title"]) == (0, "Of the tests")
    assert 'estuaire_alarms{kind="silence"}' in metrics(hub)
    operator = enter("operator")
    operator.go("/producers")
    assert operator.page.get_by_role("row", name=source).get_by_text("Silent").is_visible()
    assert operator.page.get_by_role("region", name="Alarms").get_by_text("Of the tests").first.is_visible()
    operator.is_accessible()
    for name in ("statistics", "statistics.flow"):
        hub.platform.services[name].kill()
    hub.platform.start_services("statistics", "statistics.flow")
    assert silence(hub, source) == raised
    hub.send(source, [observation(source, "second", 2)])
    hub.wait_for(lambda: silence(hub, source) is None, 180)
    hub.wait_for(lambda: counted(hub, source)["access"] == 2, 120)
    hub.register(source, None)
