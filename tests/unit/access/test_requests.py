"""What may be done about a person's request when, and until when it has to be."""

from __future__ import annotations

import datetime as dt
from typing import Any, get_args

import msgspec
import pytest

from contracts.messages import Content, RequestAct
from contracts.projects import DocumentError
from contracts.requests import GROUNDS, Ground, document_of
from runtime.messages import Outputs
from services.access.domain.projects import Refused
from services.access.domain.requests import Done, Request, check, received_on
from services.access.lookup import Held
from services.access.request_routes import Desk
from services.access.requests import ActRow, Keeper, RequestRow, request_of
from tests.unit.access.hub import Hub, MemoryRequests, event_id

pytestmark = pytest.mark.unit

DAY = dt.date(2026, 5, 11)
PAPER = {"title": "letter.pdf", "date": "2026-05-20", "sha256": "0" * 64}
SAYS: dict[str, dict[str, Any]] = {
    "answer": {"document": PAPER},
    "refuse": {"ground": "excessive", "reason": "The tenth this year.", "document": PAPER},
    "extend": {"reason": "There is much of it.", "document": PAPER},
    "erase": {"as_seen": "0" * 32},
}


def at(day: dt.date) -> dt.datetime:
    return dt.datetime(day.year, day.month, day.day, 9, tzinfo=dt.UTC)


def after(kind: Any, *acts: str, taken_back: bool = False) -> Request:
    done = [Done(act, "officer:camille", at(DAY), document_of(act, SAYS[act])) for act in acts]
    return Request(kind, DAY, taken_back, done)


def may(request: Request, day: dt.date = DAY) -> set[str]:
    """What can be done."""
    found = set()
    for act, says in SAYS.items():
        try:
            check(request, act, document_of(act, says), at(day))
        except Refused:
            continue
        found.add(act)
    return found


@pytest.mark.parametrize(
    ("kind", "acts", "standing", "possible"),
    [
        ("access", (), "open", {"answer", "refuse", "extend"}),
        ("access", ("extend",), "open", {"answer", "refuse"}),
        ("access", ("answer",), "answered", set()),
        ("access", ("extend", "refuse"), "refused", set()),
        ("erasure", (), "open", {"erase", "refuse", "extend"}),
        ("erasure", ("extend",), "open", {"erase", "refuse"}),
        ("erasure", ("erase",), "erased", {"answer", "extend"}),
        ("erasure", ("erase", "answer"), "answered", set()),
        ("erasure", ("refuse",), "refused", set()),
    ],
)
def test_what_can_be_done(kind: str, acts: tuple[str, ...], standing: str, possible: set[str]) -> None:
    request = after(kind, *acts)
    assert (request.standing, may(request)) == (standing, possible)
    taken_back = after(kind, *acts, taken_back=True)
    assert taken_back.standing == ("taken-back" if standing == "open" else standing)
    assert request.is_open == bool(possible)


@pytest.mark.parametrize(
    ("received", "due", "extended"),
    [
        (dt.date(2026, 5, 11), dt.date(2026, 6, 11), dt.date(2026, 8, 11)),
        (dt.date(2026, 1, 30), dt.date(2026, 3, 2), dt.date(2026, 4, 30)),  # the 28th is a Saturday
        (dt.date(2026, 4, 14), dt.date(2026, 5, 15), dt.date(2026, 7, 15)),  # Ascension, the national day
        (dt.date(2026, 11, 30), dt.date(2026, 12, 30), dt.date(2027, 3, 1)),
    ],
)
def test_a_month_ends_on_a_working_day(received: dt.date, due: dt.date, extended: dt.date) -> None:
    assert Request("access", received, False).due == due
    assert Request("access", received, False, after("access", "extend").acts).due == extended


def test_it_is_extended_within_the_month() -> None:
    assert "extend" in may(after("access"), dt.date(2026, 6, 11))
    assert "extend" not in may(after("access"), dt.date(2026, 6, 12))
    assert "answer" in may(after("access"), dt.date(2026, 6, 12)), "late is better than never"


@pytest.mark.parametrize(
    ("stated", "day"),
    [
        ("2026-05-11", DAY),
        ("2026-05", dt.date(2026, 5, 1)),
        ("2027-01-01", dt.date(2026, 5, 20)),
        ("", None),
        ("?", None),
    ],
)
def test_the_deadline_runs_from_the_day_that_is_stated_but_not_later_than_arrival(
    stated: str, day: dt.date | None
) -> None:
    arrived = dt.date(2026, 5, 20)
    assert received_on(stated, at(arrived)) == (day or arrived)


def test_every_ground_is_of_the_law_and_refuses_something() -> None:
    assert set(get_args(Ground)) == {ground for grounds in GROUNDS.values() for ground in grounds}
    for kind, grounds in GROUNDS.items():
        for ground in get_args(Ground):
            says = document_of("refuse", {**SAYS["refuse"], "ground": ground})
            if ground in grounds:
                check(after(kind), "refuse", says, at(DAY))
            else:
                with pytest.raises(Refused, match="no ground"):
                    check(after(kind), "refuse", says, at(DAY))


@pytest.mark.parametrize(
    ("act", "says", "field"),
    [
        ("answer", {}, "document: this clause is missing"),
        ("erase", {"as_seen": "x"}, "as_seen: use the 32 digits of the report"),
        ("refuse", {**SAYS["refuse"], "ground": "because"}, "ground: "),
        ("extend", {**SAYS["extend"], "months": 9}, "months: no clause has this name"),
        ("answer", [], "is not a map"),
    ],
)
def test_what_an_act_does_not_say_is_named(act: str, says: Any, field: str) -> None:
    with pytest.raises(DocumentError, match=field):
        document_of(act, says)


def judged(keeper: Keeper, *batch: Any) -> tuple[list[str], list[str]]:
    """The acts that are done, and why others are not."""
    outputs = Outputs()
    done = []
    for _, act in keeper.judged(batch, outputs):
        keeper.keep(act, [])
        done.append(act.act)
    return done, [f"{why.reason.value}: {why.detail}" for _, why in outputs.dead]


def test_acts_are_judged_in_the_order_of_the_log() -> None:
    requests, hub = MemoryRequests(), Hub.__new__(Hub)
    hub._acts, hub._offset, hub.now = 0, 0, at(DAY)
    keeper = Keeper(requests)
    first, second = hub.act("r", "erase"), hub.act("r", "answer")
    assert judged(keeper, first) == (["erase"], []), "the log is read again, before the request"
    facts = _facts("r", "erasure-request.v1")
    keeper.ask(facts, Content("erasure-request.v1", "2026-05-11T10:00:00Z", record={"received": "2026-05-11"}))
    assert judged(keeper, first, second, hub.act("r", "answer")) == (
        ["erase", "answer"],
        ["conflict: the request is answered"],
    )
    row = requests.find(bytes.fromhex(event_id("r")))
    assert row is not None
    assert request_of(row, requests.done(row.event_id)).standing == "answered"
    bad = hub.message("request-acts", "x", b"\xc1")
    nobody = hub.act("r", "answer", "s")
    assert judged(keeper, bad, nobody)[1] == [
        "decoding: the body is no RequestAct",
        "schema: nobody is to be forgotten but by an erasure",
    ]


def _facts(name: str, kind: str) -> Any:
    from services.access.domain.policy import Facts

    revision = "0000000000-1778493600000-000000000001"
    return Facts(bytes.fromhex(event_id(name)), b"s" * 16, revision, kind, "urn:portal", at(DAY), False)


class Slow:
    """A register whose loop does an act just after it has been looked at: from the third look on it is there."""

    def __init__(self) -> None:
        self.looks = 0
        self.done: list[ActRow] = []

    def requests(self, only: bytes | None = None) -> list[tuple[RequestRow, list[ActRow]]]:
        assert only is not None
        self.looks += 1
        row = RequestRow(only, b"s" * 16, "erasure", "urn:h", DAY, False)
        return [(row, self.done if self.looks > 2 else [])]

    def held(self, request: bytes) -> Held:
        return Held([b"s" * 16], [], [], [], [], "0" * 32)

    def oppositions(self) -> list[tuple[str, int]]:
        return []

    def publish(self, topic: str, key: str, value: bytes) -> None:
        act = msgspec.msgpack.decode(value, type=RequestAct)
        self.done.append(ActRow(act.request, act.id, act.act, act.by, at(DAY), act.details, 0))


def test_an_act_that_the_loop_has_just_done_is_not_judged_a_second_time() -> None:
    slow = Slow()
    Desk(slow, slow, lambda: at(DAY)).do(event_id("r"), "erase", "camille", SAYS["erase"])
    assert slow.looks == 3
