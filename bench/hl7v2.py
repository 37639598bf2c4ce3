"""HL7 v2: from a message's bytes to its events, beside the bare parser on the same messages in the same run.

`python -m bench.hl7v2`: CPU seconds of one process; the parser takes whole messages, the reader leaves out what it
does not read. The best of `ROUNDS` of each counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

import hl7

from estuaire.generate.hl7v2 import messages
from estuaire.population import population
from services.ingest.domain.hl7v2 import events_of

MESSAGES, PEOPLE, ROUNDS = 5000, 2000, 3


def _parsed(feed: Sequence[bytes]) -> None:
    for message in feed:
        hl7.parse(message, encoding="utf-8")


def _read(feed: Sequence[bytes]) -> None:
    for message in feed:
        events_of(message, "urn:estuaire:producer:bench")


def _seconds(act: Callable[[Sequence[bytes]], None], feed: Sequence[bytes]) -> float:
    begun = time.process_time()
    act(feed)
    return time.process_time() - begun


def run() -> dict[str, float | int]:
    """The figures."""
    feed = [one.data for one in messages(7, list(population(7, PEOPLE)), MESSAGES)]
    feed = [message for message in feed if b"UNICODE UTF-8" in message]  # the parser is told one character set
    best = {act: min(_seconds(act, feed) for _ in range(ROUNDS)) for act in (_parsed, _read)}
    events = sum(len(events_of(message, "urn:estuaire:producer:bench")) for message in feed)
    parser, reader = len(feed) / best[_parsed], len(feed) / best[_read]
    return {
        "messages_per_second": round(reader),
        "parser_messages_per_second": round(parser),
        "ratio": round(reader / parser, 2),
        "events_per_message": round(events / len(feed), 2),
    }


if __name__ == "__main__":
    print(json.dumps(run()))
