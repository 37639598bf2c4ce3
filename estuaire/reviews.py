"""A data steward's client: the pairs that wait, one pair in words, and a decision until it holds."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from typing import Any

from estuaire.client import Client, SendError

Review = dict[str, Any]
UNSURE = "unsure"
PATIENCE = 30.0
"""Seconds until a decision has to hold."""


class Stewardship:
    """Linkage over HTTP, with a steward's token. All raise SendError."""

    def __init__(self, url: str, token: str) -> None:
        self._linkage = Client(f"{url}/v1/reviews", token)

    def waiting(self, most: int) -> Iterator[Review]:
        """So many of the pairs that wait for a steward, those that decide most first."""
        cursor: str | None = ""
        while most > 0 and cursor is not None:
            limit = min(most, 100)
            params: dict[str, Any] = {"limit": limit} | ({"cursor": cursor} if cursor else {})
            page = self._linkage.ask("GET", "", params=params)
            yield from page["reviews"]
            most, cursor = most - limit, page["next_cursor"]

    def pair(self, pair: str) -> Review:
        """Two subjects, their ids joined by a hyphen."""
        found: Review = self._linkage.ask("GET", f"/{pair}")
        return found

    def decide(self, pair: str, decision: str) -> Review:
        """Decide, and wait until the index has followed, if it is in force; the pair as it is then."""
        said = self._linkage.ask("POST", f"/{pair}", {"decision": decision})
        if said["waits"] or decision == UNSURE:
            return self.pair(pair)
        since = dt.datetime.fromisoformat(said["decided_at"])
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = self.pair(pair)
            word = found["word"]
            if word and dt.datetime.fromisoformat(word["decided_at"]) >= since:
                return found
            time.sleep(0.1)
        raise SendError("the decision is kept, but linkage has not followed it yet: look again with `review show`")

    def take_back(self, pair: str) -> Review:
        """Take back what one has said; the pair after that, which the index follows within seconds."""
        self._linkage.ask("DELETE", f"/{pair}")
        return self.pair(pair)


def described(review: Review) -> str:
    """A pair in a few lines."""
    left, right = review["left"], review["right"]
    one = left["patient_id"] == right["patient_id"]
    lines = [review["id"], f"  {review['reason'] or review['method'] or 'nothing that they share'}"]
    if review["evidence"]:
        weight = "" if review["weight"] is None else f"; weight {review['weight']:.1f} bits"
        traits = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in review["evidence"].items())
        lines.append(f"  {traits}{weight}")
    lines += [_side(side) for side in (left, right)]
    lines += [
        f"  {one['outcome']} under {one['rule_version']} until {one['replaced_at'][:19]}" for one in review["former"]
    ]
    if word := review["word"]:
        second = f" and {word['second']}" if word["second"] else ""
        lines.append(f"  {word['steward']}{second} said {word['decision']}, {word['decided_at'][:19]}")
    if (mine := review["mine"]) and mine != review["in_force"]:
        waits = "" if mine == UNSURE else ", which waits for a second steward"
        lines.append(f"  you said {mine}{waits}")
    lines.append(f"  one patient: {left['patient_id']}" if one else "  two patients")
    return "\n".join(lines)


def _side(side: dict[str, Any]) -> str:
    known = ", ".join((*side["identifiers"], *(one.replace("_", " ") for one in side["traits"]))) or "nothing"
    records = f"{side['records']} record{'' if side['records'] == 1 else 's'}"
    return f"  {side['source']}: {records} ({', '.join(side['event_ids'][:2])}), {side['identity_status']}, has {known}"
