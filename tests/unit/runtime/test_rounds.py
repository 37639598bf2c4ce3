"""What a service does by itself goes on whatever is away, and ends when it is asked to."""

from __future__ import annotations

import threading

import psycopg
import pytest

from runtime.kafka import BrokerAway
from runtime.messages import RetryLater
from runtime.rounds import Rounds

pytestmark = pytest.mark.unit


def test_rounds_go_on_while_something_is_away_and_end_when_asked() -> None:
    done = threading.Event()
    troubles: list[Exception] = [psycopg.OperationalError("away"), BrokerAway("away"), RetryLater("away")]

    def act() -> None:
        if troubles:
            raise troubles.pop()
        done.set()

    rounds = Rounds("tests", act, 0.01)
    thread = threading.Thread(target=rounds.run)
    thread.start()
    assert done.wait(10)
    rounds.stop()
    thread.join(10)
    assert not thread.is_alive()


def test_what_is_wrong_is_not_passed_over() -> None:
    def act() -> None:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        Rounds("tests", act, 0.01).run()
