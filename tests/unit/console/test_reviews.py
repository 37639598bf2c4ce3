"""Doubtful pairs: what their pages show, what a steward's word comes to, and what may come between."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from services.console.adapters import Refusal
from services.console.domain.pairs import Seats, pair
from tests.unit.console.desk import PAIR, PROGRESS, Console

pytestmark = pytest.mark.unit

PATH = f"/reviews/{PAIR['id']}"
OTHER = PAIR | {"id": f"{'6' * 32}-{'7' * 32}"}
SAID = {"decision": "apart", "in_force": "apart", "waits": False}
PART = {"HX-Request": "true"}


@pytest.fixture
def console(tmp_path: Path) -> Console:
    made = Console(tmp_path)
    made.hub.answers["GET", "linkage/v1/reviews?which=all&limit=5"] = {"reviews": [OTHER]}
    return made


def say(console: Console, says: str, answer: Any, **more: str) -> Any:
    key = console.sign_in("steward")
    console.hub.answers["POST", f"linkage/v1{PATH}"] = answer
    form = {"form_key": key, "says": says, "as_seen": PAIR["as_seen"], "which": "all"} | more
    return console.http.post(PATH, data=form, headers=PART)


def shown(text: str) -> str:
    """The pair that a page asks about."""
    found = re.search(r'action="(/reviews/[0-9a-f-]{65})"', text)
    assert found
    return found[1]


def test_a_word_is_sent_with_what_was_seen_and_the_next_pair_comes_with_the_answer(console: Console) -> None:
    text = say(console, "apart", SAID).text
    assert ("POST", f"linkage/v1{PATH}", {"decision": "apart", "as_seen": PAIR["as_seen"]}) in console.hub.asked
    assert shown(text) == f"/reviews/{OTHER['id']}"
    assert "Separated." in text
    assert "<html" not in text


def test_without_scripts_a_word_is_answered_by_a_page(console: Console) -> None:
    key = console.sign_in("steward")
    console.hub.answers["POST", f"linkage/v1{PATH}"] = SAID | {"in_force": None, "waits": True}
    text = console.http.post(PATH, data={"form_key": key, "says": "apart"}).text
    assert "<html" in text
    assert "it is in force when a second steward says the same" in text


@pytest.mark.parametrize(
    ("changed", "said", "next_one"),
    [
        ({"in_force": "together"}, "Others had linked that pair meanwhile.", OTHER),
        ({"in_force": None}, "has changed since you saw it", PAIR),
    ],
)
def test_what_came_between_is_said(console: Console, changed: dict[str, Any], said: str, next_one: Any) -> None:
    console.hub.answers["GET", f"linkage/v1{PATH}"] = PAIR | changed | {"as_seen": "f" * 32}
    text = say(console, "apart", Refusal(409, "it has changed", "")).text
    assert said in text
    assert shown(text) == f"/reviews/{next_one['id']}"
    assert ("f" * 32 in text) == (next_one is PAIR), "what is seen now is what is decided on next"


def test_an_erased_pair_and_a_linkage_that_is_away_are_said(console: Console) -> None:
    assert "one of the two was erased" in say(console, "apart", Refusal(404, "no such pair", "")).text
    away = say(console, "apart", Refusal(503, "linkage does not answer", "Try again later."))
    assert (away.status_code, away.headers["hx-retarget"]) == (503, "#said"), "the pair stays where it is"
    assert say(console, "perhaps", SAID).status_code == 422


def test_the_last_word_is_taken_back_and_its_pair_shown(console: Console) -> None:
    key, last = console.sign_in("steward"), PROGRESS["last"]["id"]
    console.hub.answers["DELETE", f"linkage/v1/reviews/{last}"] = SAID | {"decision": None}
    console.hub.answers["GET", f"linkage/v1/reviews/{last}"] = PAIR | {"id": last}
    text = console.http.post("/reviews/undo", data={"form_key": key, "pair": last}, headers=PART).text
    assert "Taken back." in text
    assert shown(text) == f"/reviews/{last}"
    del console.hub.answers["DELETE", f"linkage/v1/reviews/{last}"]
    text = console.http.post("/reviews/undo", data={"form_key": key, "pair": last}, headers=PART).text
    assert "nothing to take back" in text


def test_keys_can_be_turned_off_and_stay_so(console: Console) -> None:
    key = console.sign_in("steward")
    assert 'data-key="l"' in console.http.get(PATH).text
    answer = console.http.post("/reviews/keys", data={"form_key": key, "keys": "off"})
    assert answer.headers["location"] == "/reviews/next?which=all"
    text = console.http.get(PATH).text
    assert "data-key" not in text
    assert "Turn the keys on" in text


def test_nothing_that_identifies_or_joins_is_on_the_page(console: Console) -> None:
    console.sign_in("steward")
    text = console.http.get(PATH).text
    body = re.sub(r'(action|hx-post|href|value)="[^"]*"', "", text)
    assert not re.search(r"[12]{32}", body), "not even the ids of subjects"
    assert "day and month are swapped" in text
    assert "Two people are about 3 times as likely as one." in text
    assert "another, and one person has only one" in text
    assert "Given and family name are each other" in text


def test_nothing_waits(console: Console) -> None:
    console.sign_in("steward")
    console.hub.answers["GET", "linkage/v1/reviews?which=all&limit=5"] = {"reviews": []}
    assert "No pair is left for you." in console.http.get("/reviews/next").text


def test_a_reason_that_names_the_number_is_not_said_twice(console: Console) -> None:
    console.sign_in("steward")
    assert "(<span>the likeness of names" in console.http.get(PATH).text
    named = PAIR | {"reason": "the same ins-nir, but no trait agrees", "method": "the same NIR (INS)"}
    console.hub.answers["GET", f"linkage/v1{PATH}"] = named
    text = console.http.get(PATH).text
    assert "the same NIR (INS), but no trait agrees" in text
    assert "(<span>the same NIR" not in text


def test_odds_are_rounded_to_what_can_be_read() -> None:
    odds = [pair(PAIR | {"weight": weight}).odds for weight in (0.0, 3.0, 13.3, -13.3, 400.0)]
    assert odds == [1, 8, 10_000, 10_000, 1_200_000_000_000_000_000]
    assert pair(PAIR | {"weight": None}).odds is None


def test_two_stewards_are_not_given_the_same_pair_while_there_is_another() -> None:
    now = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    clock = [now]
    seats = Seats(lambda: clock[0])
    one, two = {"id": "1"}, {"id": "2"}
    assert seats.take([one, two], "ada") is one
    assert seats.take([one, two], "ada") is one
    assert seats.take([one, two], "ben") is two
    assert seats.take([one], "cas") is one, "one that is looked at is better than none"
    assert (seats.others("cas"), seats.others("eve")) == (1, 2)
    assert seats.take([], "cas") is None
    clock[0] += dt.timedelta(minutes=3)
    assert seats.take([one, two], "dan") is one


def test_many_stewards_at_once_are_given_as_many_pairs(console: Console) -> None:
    pairs = [PAIR | {"id": f"{number:032x}-{'f' * 32}"} for number in range(20)]
    for most in range(5, 20):
        address = ("GET", f"linkage/v1/reviews?which=all&limit={most}")
        console.hub.answers[address] = {"reviews": pairs[:most]}
    given = []
    for number in range(12):
        console.sign_in("steward", sub=f"steward-{number}")
        given.append(shown(console.http.get("/reviews/next").text))
    assert len(set(given)) == 12


def test_two_stewards_who_ask_in_the_same_moment_are_not_given_the_same_pair() -> None:
    seats = Seats(lambda: dt.datetime(2026, 3, 1, tzinfo=dt.UTC))
    pairs = [{"id": "1"}, {"id": "2"}]
    given: dict[str, Any] = {}

    class Meanwhile(list[Any]):
        """Pairs, while somebody else asks for one, too, who has it before these are gone through unless they wait."""

        def __iter__(self) -> Iterator[Any]:
            other.start()
            other.join(0.2)
            return super().__iter__()

    other = Thread(target=lambda: given.update(ben=seats.take(pairs, "ben")))
    given["ada"] = seats.take(Meanwhile(pairs), "ada")
    other.join(10)
    assert sorted(one["id"] for one in given.values()) == ["1", "2"]
