"""The nurses' service: follows the view and prints an alert, once, for each measure that asks for one."""

import datetime as dt
import json
import sys
from collections.abc import Iterator
from typing import Any

from contracts.events import ViewEvent
from estuaire import local
from estuaire.subscriber import View

PERMIT, TEAM = "remote-monitoring", "telesuivi-nurses"
WEIGHT, OXYGEN, PULSE = "29463-7", "59408-5", "8867-4"  # LOINC
GAIN_KG, GAIN_WITHIN = 2.0, dt.timedelta(days=3)
"""More than 2 kg in 3 days: European Society of Cardiology, heartfailurematters.org, "Weight gain"."""


def alerts(timeline: list[ViewEvent]) -> Iterator[dict[str, Any]]:
    """The alerts that one patient's measures ask for, whatever the order in which they arrived."""
    weights: list[tuple[dt.datetime, float]] = []
    for one in timeline:
        record = one.data["record"]
        metric, value = record["metric"]["code"], record["value"]
        measured = dt.datetime.fromisoformat(record["measured"])
        rule = None
        if metric == WEIGHT:
            recent = [weight for moment, weight in weights if measured - moment <= GAIN_WITHIN]
            rule = "weight" if recent and value - min(recent) > GAIN_KG else None
            weights.append((measured, value))
        elif metric == OXYGEN and value < 90:
            rule = "oxygen"
        elif metric == PULSE and not 40 <= value <= 120:
            rule = "pulse"
        if rule:
            yield {
                "alert": rule,
                "patient": one.subject,
                "record": one.id,
                "value": value,
                "measured": record["measured"],
            }


def main() -> None:
    """Follow the view until Ctrl-C; with `--once`, to its present end."""
    once = "--once" in sys.argv
    view, told = View(), set()
    for event in local.subscriber(PERMIT, TEAM).follow(view, stopped=lambda: once):
        # A late or corrected measure may change what the others mean: look at the patient's whole timeline.
        for alert in alerts(view.timeline(event.subject or "")):
            if (alert["record"], alert["alert"]) not in told:
                told.add((alert["record"], alert["alert"]))
                print(json.dumps(alert), flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
