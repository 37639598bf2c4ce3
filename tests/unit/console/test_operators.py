"""The operators' pages: a record's way, what was rejected, and producers, with fake services behind."""

from __future__ import annotations

import datetime as dt
import re
import time
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from starlette.requests import Request

from services.console.adapters import HttpHub, Refusal
from services.console.domain.flow import Health, Passage, picture, rows, series
from services.console.domain.journey import journey
from services.console.domain.spans import Span, Trace
from services.console.visits import Visit
from tests.unit.console.desk import EVENT_ID, LETTERS, LINKED, OF_CONFLICTS, STORED, TRACE, Console

pytestmark = pytest.mark.unit
AWAY = Refusal(503, "away", "Try again later.")


@pytest.fixture
def console(tmp_path: Path) -> Console:
    made = Console(tmp_path)
    made.sign_in("operator")
    return made


def test_a_record_is_followed_in_the_order_in_which_things_happened() -> None:
    stops = journey(LINKED, STORED, [("linkage", LETTERS["letters"][0])])
    assert [(one.step, one.word, one.at[11:23]) for one in stops] == [
        ("ingest", "stop.accepted", "14:13:20+00:"),
        ("pseudonym", "stop.passed", ""),
        ("linkage", "stop.correction", "14:13:21.500"),
        ("linkage", "stop.linked", "14:13:21.500"),
        ("access", "stop.kept", "14:13:22.250"),
        ("linkage", "stop.dead", "14:13:24+00:"),
        ("view", "stop.view", "10:00:00.500"),
        ("view", "stop.view", ""),
        ("access", "stop.objects-to-all", ""),
    ]
    later = LINKED | {"link": LINKED["link"] | {"decided_at": "2026-10-02T08:00:00+00:00"}}
    linked = next(one for one in journey(later, None, []) if one.word == "stop.linked")
    assert (linked.at, linked.values["decided"]) == ("2026-10-02T08:00:00+00:00", None)
    assert stops[3].values["decided"] == LINKED["link"]["decided_at"], "it was linked before this record came"
    erased = journey(LINKED | {"patient_id": "", "link": None}, None, [])
    assert [(one.word, one.at) for one in erased][-1] == ("stop.erased", "")
    assert [one.word for one in journey(LINKED | {"link": None}, None, [])][-2:] == ["stop.own", "stop.unseen"]
    assert journey(LINKED, STORED | {"views": {}, "withheld": []}, [])[-1].word == "stop.no-view"
    for changes in ({"withheld": ["*"]}, {"withheld": [], "retracted": True}):
        assert "stop.no-view" not in [one.word for one in journey(LINKED, STORED | {"views": {}} | changes, [])]
    assert [one.word for one in journey(None, STORED, [])][:3] == ["stop.accepted", "stop.passed", "stop.kept"]
    assert journey(None, None, []) == []


def test_a_step_that_keeps_nothing_has_the_time_of_its_trace_and_no_other() -> None:
    def traced(seconds: float) -> list[tuple[str, str]]:
        span = Span("pseudonym", "record", seconds * 1000, 1.0, 0.0, 1.0, "")
        trace = Trace("7e" * 16, "2026-09-21T14:13:20+00:00", 1.0, [span], 0)
        return [(one.word, one.at) for one in journey(LINKED, None, [], [trace])][:2]

    assert traced(0.75)[1] == ("stop.traced", "2026-09-21T14:13:20.750000+00:00")
    assert traced(90)[1] == ("stop.passed", ""), "the trace of another time"


def test_the_record_page_says_where_a_record_is(console: Console) -> None:
    page = console.http.get(f"/records?event_id=%20{EVENT_ID.upper()}%20").text
    assert "21 September 2026, 16:13:22.250" in page
    assert "In the view of hearts." in page
    assert "30 November 2026, 11:00:00.500" in page
    assert page.count("21 September 2026, 16:13:22.250") == 1, "nothing else has the time of its storage"
    assert "the same id with other content" in page
    assert "Its person objects to everything." in page
    console.hub.answers["GET", f"/v1/records/{EVENT_ID}"] = STORED | {"withheld": ["urn:other"]}
    assert "Its person objects to: urn:other." in console.http.get(f"/records?event_id={EVENT_ID}").text


def test_a_links_evidence_is_in_words_of_the_page_without_a_value(console: Console) -> None:
    console.http.cookies.set("estuaire-language", "fr")
    page = console.http.get(f"/records?event_id={EVENT_ID}").text
    for said in (
        "<strong><span>le même NIR (INS)</span></strong>",
        '<li class="good">NIR (INS)\u00a0: le même</li>',
        "un chiffre diffère, ou jour et mois sont intervertis, même année, même mois, jour différent</li>",
        "Décidé avant son arrivée\u00a0: 20 septembre 2026, 10:00.",
        "Actuellement",
        "Entre les deux\u00a0; l’heure n’est pas conservée",
    ):
        assert said in page
    assert "strict" not in page
    address = ("GET", f"linkage/v1/records/{EVENT_ID}")
    console.hub.answers[address] = LINKED | {"link": LINKED["link"] | {"stewarded": True, "weight": 12.5}}
    page = console.http.get(f"/records?event_id={EVENT_ID}").text
    assert "<strong>la décision de gestionnaires de données</strong>" in page
    assert "Une seule personne est environ 5\u202f800 fois plus probable que deux." in page
    assert "12,5\u00a0bits" in page


def test_a_record_that_nobody_knows_is_told_from_services_that_do_not_answer(console: Console) -> None:
    unknown = f"/records?event_id={'9' * 32}"
    answer = console.http.get(unknown)
    assert (answer.status_code, "No step has kept anything of it yet" in answer.text) == (404, True)
    assert 'See: <a href="/flow">Flow</a>' in answer.text
    console.hub.answers["GET", f"linkage/v1/records/{'9' * 32}"] = AWAY
    answer = console.http.get(unknown)
    assert (answer.status_code, "Linkage does not answer." in answer.text) == (200, True)
    assert "No step has kept" not in answer.text
    answer = console.http.get("/records?event_id=8812")
    assert (answer.status_code, 'aria-invalid="true"' in answer.text) == (422, True)


@pytest.mark.parametrize(
    ("path", "questions"),
    [(f"/records?event_id={EVENT_ID}", 6), ("/rejects", 5), ("/producers/report?source=urn%3Achu", 2)],
)
def test_what_several_services_are_asked_they_are_asked_at_once(
    console: Console, path: str, questions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    together, ask = Barrier(questions, timeout=10), console.hub.ask

    def asked(*question: Any) -> Any:
        together.wait()
        return ask(*question)

    monkeypatch.setattr(console.hub, "ask", asked)
    assert console.http.get(path).status_code == 200
    assert len(console.hub.asked) == questions


@pytest.mark.parametrize("status", [500, 503])
def test_a_service_that_fails_is_named_in_its_part_and_the_rest_stands(console: Console, status: int) -> None:
    broken = Refusal(status, "internal error", "The error has been logged.")
    answers, record = console.hub.answers, f"/records?event_id={EVENT_ID}"
    answers["GET", f"/v1/records/{EVENT_ID}"] = broken
    answers["GET", f"/v1/dead-letters?event_id={EVENT_ID}"] = broken
    answer = console.http.get(record)
    assert (answer.status_code, answer.text.count("Access does not answer.")) == (200, 1)
    assert "the same id with other content" in answer.text
    answers["GET", "audit/v1/dead-letters?limit=1"] = broken
    page = console.http.get("/rejects").text
    assert "Audit log does not answer." in page
    assert "2 waiting" in page
    report = "/producers/report?source=urn%3Achu"
    answers["GET", "linkage/v1/linkage?source=urn%3Achu"] = broken
    page = console.http.get(report).text
    assert "Linkage does not answer." in page
    assert "impossible-date" in page
    answers["GET", "statistics/v1/sources/quality?source=urn%3Achu"] = broken
    answer = console.http.get(report)
    assert (answer.status_code, "Statistics does not answer." in answer.text) == (200, True)
    answers["GET", f"linkage/v1/records/{EVENT_ID}"] = Refusal(403, "not allowed", "This is for: nobody.")
    assert console.http.get(record).status_code == 403, "a refusal is no silence"


def test_who_does_not_answer_is_not_asked_again_for_the_same_page(console: Console) -> None:
    (session,) = console.sessions._sessions.values()
    scope = {"type": "http", "headers": [], "app": console.app}
    visit, away = Visit(Request(scope), session), list[str]()
    console.hub.answers["GET", "linkage/v1/one"] = AWAY
    assert visit.told(away, ("linkage", "/v1/one"), ("access", "/v1/none")) == [None, None]
    assert visit.told(away, ("linkage", "/v1/two"), ("access", "/v1/calls"))[0] is None
    assert away == ["linkage"]
    assert "linkage/v1/two" not in [path for _, path, _ in console.hub.asked]


def test_a_producer_that_nobody_knows_is_none(console: Console) -> None:
    assert console.http.get("/producers/report?source=urn%3Anobody").status_code == 404


def test_a_poll_that_fails_leaves_the_part_to_be_asked_for_again(console: Console) -> None:
    console.hub.answers["GET", "statistics/v1/sources"] = AWAY
    part = console.http.get("/producers", headers={"HX-Request": "true"})
    assert (part.status_code, part.headers["hx-reswap"]) == (503, "innerHTML")


def test_dead_letters_are_shown_by_reason_and_one_click_leads_to_the_field(console: Console) -> None:
    page = console.http.get("/rejects").text
    address = "/rejects/linkage?topic=records-pseudonymised-dlq&amp;reason=conflict&amp;source=urn%3Achu"
    assert f'<a id="l-linkage-1" href="{address}">Conflict</a>' in page
    assert "2 waiting" in page
    report = '<a href="/producers/report?source=urn%3Achu#refused">CHU de Rennes</a>'
    assert re.search(rf"Wrong date <code.*?<td[^>]*>4</td>.*?{re.escape(report)} \(4\)", page, re.DOTALL)
    of_all = address.replace("&amp;source=urn%3Achu", "").replace("&amp;", "&")
    console.hub.answers["GET", f"linkage/v1/dead-letters?{of_all.partition('?')[2]}"] = LETTERS
    assert "2 waiting" in console.http.get(of_all).text, "of all producers"
    letters = console.http.get(address.replace("&amp;", "&")).text
    assert "the same id with other content" in letters
    assert f'href="/records?event_id={EVENT_ID}"' in letters
    assert "sent other content under an id" in letters
    console.hub.answers["GET", "pseudonym/v1/dead-letters?limit=1"] = AWAY
    console.hub.answers["GET", "statistics/v1/sources"] = AWAY
    page = console.http.get("/rejects").text
    assert "Pseudonym does not answer." in page
    assert "Statistics does not answer." in page
    assert console.http.get("/rejects/nowhere").status_code == 404


def test_a_dead_letter_leads_to_its_trace_where_there_is_a_store_with_pages(console: Console) -> None:
    pages = (f"/records?event_id={EVENT_ID}", f"/rejects/linkage?{OF_CONFLICTS}")
    assert not any("/trace/" in console.http.get(page).text for page in pages)
    console.app.state.desk = replace(console.desk, traces="https://traces.example")
    assert all(f'href="https://traces.example/trace/{"7e" * 16}"' in console.http.get(page).text for page in pages)


def test_a_record_has_its_trace_beside_it_and_no_token_goes_to_the_store(console: Console) -> None:
    address = f"/records?event_id={EVENT_ID}"
    assert "Its trace" not in console.http.get(address).text
    console.app.state.desk = replace(console.desk, traces="https://traces.example", follows=True)
    page = console.http.get(address).text
    assert "1,000.0\u00a0ms from its first step to its last" in page
    assert "dead letter: Conflict" in page
    assert '<rect class="part" x="80.00" width="20.00" height="8"/>' in page
    assert 'x="0.00" width="0.40"' in page, "a short one is seen"
    assert "Messages of views under traces of their own: 1" in page
    assert "8f" * 16 not in page, "by which views were joined"
    asked = [one for one in zip(console.hub.asked, console.hub.tokens, strict=True) if "/api/" in one[0][1]]
    assert [token for _, token in asked] == [None, None]
    spans = [dict(parse_qsl(urlsplit(path).query)) for (_, path, _), _ in asked]
    assert [(one["service"], one["limit"]) for one in spans] == [("ingest", "5"), ("access", "100")]
    now = time.time() * 1e6
    assert all(int(one["start"]) < now - 7 * 86_400e6 < now < int(one["end"]) for one in spans), (
        "as long as messages are"
    )
    for name in [one for one in console.hub.answers if one[1].startswith("traces/")]:
        console.hub.answers[name] = {"data": None}
    assert "The store has no trace of it." in console.http.get(address).text
    console.hub.answers["GET", f"traces/{'7e' * 16}"] = {"data": [TRACE]}
    assert "dead letter: Conflict" in console.http.get(address).text, "of what was not followed there is the end"
    console.hub.answers["GET", f'traces/ingest?{{"event_id": "{"9" * 32}"}}'] = {"data": [TRACE]}
    answer = console.http.get(f"/records?event_id={'9' * 32}")
    assert (answer.status_code, "dead letter: Conflict" in answer.text) == (200, True)
    assert "No step has kept anything of it yet" in answer.text, "it waits"
    answer = console.http.get(f"/records?event_id={'8' * 32}")
    assert (answer.status_code, "Its trace" in answer.text) == (404, False)
    console.hub.answers["GET", f'traces/ingest?{{"event_id": "{EVENT_ID}"}}'] = AWAY
    page = console.http.get(address).text
    assert "The trace store does not answer." in page
    assert "In the view of hearts" in page
    console.hub.answers["GET", f'traces/ingest?{{"event_id": "{EVENT_ID}"}}'] = {"errors": []}
    assert "The trace store does not answer." in console.http.get(address).text, "it answers as no such store does"


def test_a_replay_is_bounded_and_says_what_became_of_it(console: Console) -> None:
    key = console.sign_in("operator")
    sent = {"form_key": key, "topic": "records-pseudonymised-dlq", "most": "50"}
    places = [{"topic": "records-pseudonymised", "partition": 1, "offsets": [7, 8]}]
    done = {"topic": sent["topic"], "replayed": 2, "sent_to": places}
    console.hub.answers["POST", "linkage/v1/dead-letters/replay"] = done
    answer = console.http.post("/rejects/linkage/replay", data=sent)
    assert answer.headers["location"] == "/rejects"
    assert console.hub.asked[-1][2] == {"topic": sent["topic"], "most": 50}
    became = "linkage/v1/dead-letters/became"
    console.hub.answers["POST", became] = {"taken": 0, "died": {}, "unknown": 2}
    page = console.http.get("/rejects").text
    assert "Sent round again from records-pseudonymised-dlq: 2" in page
    assert "Not there yet: 2" in page
    assert 'hx-get="/rejects/rounds"' in page
    assert '<div class="sheet">' in page, "nothing is good yet"
    part = console.http.get("/rejects/rounds", headers={"HX-Request": "true"}).text
    assert 'id="letters"' not in part, "what is written there stays"
    asked = [path for _, path, _ in console.hub.asked]
    assert ("POST", became, {"sent_to": places}) in console.hub.asked
    assert asked.index(became) < asked.index("linkage/v1/dead-letters?limit=1"), "what came back by then waits there"
    for why in (AWAY, Refusal(404, "not found", "")):  # of an older version, it has no such desk
        console.hub.answers["POST", became] = why
        page = console.http.get("/rejects").text
        assert "Linkage does not answer" in page
        assert 'hx-get="/rejects/rounds"' in page, "it is asked again"
    console.hub.answers["POST", became] = {"taken": 1, "died": {"conflict": 1}, "unknown": 0}
    page = console.http.get("/rejects/rounds", headers={"HX-Request": "true"}).text
    assert "Taken by Linkage this time: 1" in page
    assert '<div class="wrong">' in page
    assert '<section id="letters" aria-labelledby="dead" hx-swap-oob="true">' in page, "what waits by then comes along"
    assert "2 waiting" in page
    letters = "/rejects/linkage?topic=records-pseudonymised-dlq&amp;reason=conflict"
    assert f'Among the dead letters again: 1 (<a id="d-linkage-conflict" href="{letters}">Conflict</a>)' in page
    assert "hx-get" not in page, "there is nothing left to wait for"
    console.hub.answers["POST", became] = AWAY
    assert "Linkage does not answer." in console.http.get("/rejects").text
    console.sign_in("operator")
    assert "Sent round" not in console.http.get("/rejects?sent=9&topic=forged").text, "nor is an address believed"
    key = console.sign_in("operator")
    console.hub.answers["POST", "linkage/v1/dead-letters/replay"] = Refusal(
        422, "not of its form", "body.most: too much"
    )
    answer = console.http.post("/rejects/linkage/replay", data=sent | {"most": "x", "form_key": key})
    assert (answer.status_code, "body.most: too much" in answer.text) == (422, True)


def test_producers_with_an_alarm_come_first(console: Console) -> None:
    page = console.http.get("/producers").text
    assert page.index("urn:quiet") < page.index("CHU de Rennes")
    assert "seen 0, expected 40" in page
    console.hub.answers["GET", "statistics/v1/alarms"] = AWAY
    assert "no telling who went silent" in console.http.get("/producers").text


def test_the_report_of_a_producer(console: Console) -> None:
    page = console.http.get("/producers/report?source=urn%3Achu").text
    for one in ("impossible-date", "91.3%", "within an hour", "amount", 'value="2026-08-23"', "Linkage, Conflict: 2"):
        assert one in page
    assert 'Birth date <code class="by">identity.birth_date</code>' in page, "the field that was refused"
    asked = "statistics/v1/sources/quality?source=urn%3Achu&from=2026-02-31"
    console.hub.answers["GET", asked] = Refusal(422, "not of its form", "query.from: date_from_datetime_parsing")
    answer = console.http.get("/producers/report?source=urn%3Achu&from=2026-02-31")
    assert (answer.status_code, "query.from" in answer.text) == (422, True)


AT = dt.datetime(2026, 9, 21, 14, 0, tzinfo=dt.UTC)


def ago(seconds: float) -> str:
    return (AT - dt.timedelta(seconds=seconds)).isoformat()


def flowing(counted: float | None = 0, **changes: Any) -> dict[str, Any]:
    """What statistics tells of two minutes of 100 records a second, of which the last seconds are not counted; every
    step read a second ago. `changes` are of steps, in all windows."""
    last = {"waiting": 0, "last_read": ago(1), "age_seconds": None, "verdicts": {}}
    windows = []
    for start in range(120, -10, -10):
        steps = {
            step: last | {"records": 1000 if start >= 10 else 300} | changes.get(step, {})
            for step in ("ingest", "pseudonym", "linkage", "access")
        }
        windows.append({"at": ago(start), "steps": steps})
    return {"window_seconds": 10, "counted_until": None if counted is None else ago(counted), "windows": windows}


def passage(told: Any, step: str = "linkage", at: dt.datetime = AT, **health: Health) -> Passage:
    (found,) = (one for one in picture(told, at, health).passages if one.step == step)
    return found


@pytest.mark.parametrize("after", [0, 3.7, 9.9])
def test_a_steady_flow_shows_its_rate_whenever_one_looks(after: float) -> None:
    shown = picture(flowing(), AT + dt.timedelta(seconds=after), {})
    assert [one.rate for one in shown.passages] == [100.0] * 4
    assert (shown.until, shown.is_behind) == (AT, False)


def test_the_picture_is_the_minute_before_a_moment() -> None:
    read = {"records": 100, "age_seconds": {"mean": 2.0, "max": 5.0}}
    told = flowing(linkage=read | {"verdicts": {"linked": 97, "dead_lettered:conflict": 3}}, access={"waiting": 12})
    told["windows"][-3]["steps"]["linkage"] |= {"records": 700, "age_seconds": {"mean": 6.0, "max": 7.0}}
    linkage = passage(told)
    assert (linkage.rate, linkage.age, linkage.oldest, linkage.rejects) == (20.0, 13 / 3, 7.0, 18)
    assert (passage(told, "access").waiting, passage(told, "access").states) == (12, ["well"])
    told["windows"] = told["windows"][:1]
    assert passage(told).rate is None
    assert [one.states for one in picture(None, AT, {}).passages] == [["unknown"]] * 4


def test_what_is_new_to_the_views_is_what_access_has_kept() -> None:
    assert picture(flowing(access={"verdicts": {"stored": 90, "retracted": 5, "superseded": 99}}), AT, {}).kept == 9.5


@pytest.mark.parametrize(
    ("waiting", "last_read", "states"),
    [
        (50_000, 29, ["well"]),
        (50_000, 31, ["standing"]),
        (50_000, 40_000, ["standing"]),
        (50_000, None, ["never"]),
        (0, 40_000, ["well"]),
        (None, None, ["unknown"]),
    ],
)
def test_a_step_for_which_something_waits_and_that_reads_nothing_stands(
    waiting: int | None, last_read: float | None, states: list[str]
) -> None:
    last = {"records": 0, "waiting": waiting, "last_read": last_read and ago(last_read)}
    found = passage(flowing(linkage=last))
    tones = {"standing": "bad", "never": "bad", "well": "good"}
    assert (found.states, found.tone) == (states, tones.get(states[0], ""))


def test_nobody_stands_because_the_counting_does() -> None:
    told = flowing(counted=60, linkage={"waiting": 9, "last_read": ago(70)})
    shown = picture(told, AT, {})
    assert (shown.is_behind, shown.until) == (True, AT - dt.timedelta(seconds=60))
    assert shown.passages[2].states == ["well"]
    assert not picture(flowing(counted=None), AT, {}).is_behind


@pytest.mark.parametrize(("rejects", "states"), [(0, ["well"]), (9, ["well"]), (10, ["rejecting"])])
def test_one_reject_among_thousands_is_told_and_is_no_alarm(rejects: int, states: list[str]) -> None:
    found = passage(flowing(ingest={"verdicts": {"accepted": 1000, "rejected": rejects}}), "ingest")
    assert (found.rejects, found.states) == (6 * rejects, states)
    few = passage(flowing(ingest={"records": 5, "verdicts": {"accepted": 4, "rejected": 1}}), "ingest")
    assert (few.rejects, few.states) == (6, ["well"])


def test_a_step_says_how_it_is() -> None:
    told = flowing(linkage={"waiting": 9, "last_read": ago(31)})
    assert passage(told, linkage=Health("away")).states == ["away", "standing"]
    assert passage(told, linkage=Health("unready", "no database")).tone == "bad"
    assert passage(told, linkage=Health("ready")).states == ["standing"]
    assert passage(None, linkage=Health("away")).states == ["away"]


def test_the_chart_has_every_window_that_is_whole() -> None:
    for end, counted in [(AT + dt.timedelta(seconds=9), None), (AT + dt.timedelta(seconds=60), -9)]:
        found = series(flowing(counted), end)
        assert [at - int(AT.timestamp()) for at in found["at"]] == list(range(-120, 0, 10))
        assert set(found["rates"]["access"]) == {100.0}, "the last one does not dip"


def test_the_hour_is_a_table_of_means_by_five_minutes() -> None:
    at = [int(AT.timestamp()) + seconds for seconds in (-20, -10, 0, 290, 300)]
    rates = {step: [1.0, 3.0, 5.0, 6.0, 0.5] for step in ("ingest", "pseudonym", "linkage", "access")}
    found = rows({"at": at, "rates": rates})
    assert [(moment - AT).total_seconds() for moment, _ in found] == [-300, 0, 300]
    assert [means for _, means in found] == [[2.0] * 4, [5.5] * 4, [0.5] * 4]


@pytest.fixture
def flow(console: Console) -> Console:
    """A console before which 100 records a second flow; it is 14:00 UTC."""
    console.app.state.desk = replace(console.desk, clock=lambda: AT)
    console.hub.answers["GET", "statistics/v1/flow"] = flowing()
    return console


def test_the_flow_is_asked_anew_while_it_is_live_and_not_while_it_is_replayed(flow: Console) -> None:
    assert 'hx-trigger="every 5s"' in flow.http.get("/flow?source=urn%3Achu").text
    flow.hub.answers["GET", "linkage/readyz"] = AWAY
    part = flow.http.get("/flow?ago=10", headers={"HX-Request": "true"}).text
    assert "every 5s" not in part
    assert "<html" not in part
    assert part.count("<strong>100.0</strong>") == 4
    assert "does not answer" not in part, "that is of now"
    asked = [path for _, path, _ in flow.hub.asked]
    assert "statistics/v1/flow/sources" in asked
    assert flow.http.get("/flow?ago=4000").status_code == 404


def test_the_chart_is_told_in_words_and_as_a_table_too(flow: Console) -> None:
    figures = flow.http.get("/flow/series").json()
    assert figures["names"]["access"] == "Access"
    assert len(figures["at"]) == len(figures["rates"]["linkage"]) == 12
    assert figures["means"] == "Ingest 100.0, Pseudonym 100.0, Linkage 100.0, Access 100.0"
    assert figures["rows"] == [["15:55:00", "100.0", "100.0", "100.0", "100.0"]], "at the time of clocks in France"


def test_a_step_that_stands_is_told_in_words_with_since_when(flow: Console) -> None:
    told = flowing(linkage={"records": 0, "waiting": 50_000, "last_read": ago(3600)})
    flow.hub.answers["GET", "statistics/v1/flow"] = told
    page = flow.http.get("/flow").text
    assert "nothing was read since" in page
    assert "21 September 2026, 15:00" in page
    assert "50,000" in page
    assert page.count("In order") == 3
    assert "Waiting, of all producers" not in page
    assert "Waiting, of all producers" in flow.http.get("/flow?source=urn%3Achu").text
    told = flowing(linkage={"records": 0, "waiting": 50_000, "last_read": None})
    flow.hub.answers["GET", "statistics/v1/flow"] = told
    assert "It stands: it has read nothing yet.</p>" in flow.http.get("/flow").text


def test_the_producer_that_is_asked_for_is_the_one_that_is_chosen(flow: Console) -> None:
    for source, chosen in (("urn:chu", 'value="urn:chu" selected>CHU'), ("urn:none", "selected>urn:none</option>")):
        page = flow.http.get("/flow", params={"source": source}).text
        assert (page.count(" selected>"), chosen in page) == (1, True)


def test_a_step_that_is_away_or_not_ready_is_shown_so_with_its_reason(flow: Console) -> None:
    flow.hub.answers["GET", "pseudonym/readyz"] = AWAY
    flow.hub.answers["GET", "access/readyz"] = "waiting for <partitions>"
    flow.hub.answers["GET", "ingest/readyz"] = Refusal(404, "not found", "Nobody has said where it listens.")
    answer = flow.http.get("/flow")
    assert answer.status_code == 200
    assert answer.text.count("It does not answer") == 1
    assert 'Not ready: <span class="by" lang="en">waiting for &lt;partitions&gt;</span>' in answer.text
    assert answer.text.count("In order") == 2


@pytest.mark.parametrize("headers", [{}, {"HX-Request": "true"}])
def test_without_statistics_the_page_says_so_and_how_the_steps_are(flow: Console, headers: dict[str, str]) -> None:
    for path in ("flow", "flow/sources"):
        flow.hub.answers["GET", f"statistics/v1/{path}"] = AWAY
    flow.hub.answers["GET", "statistics/readyz"] = "reading flow-windows"
    flow.hub.answers["GET", "linkage/readyz"] = AWAY
    answer = flow.http.get("/flow", headers=headers)
    assert answer.status_code == 200
    assert "The statistics of the flow do not answer" in answer.text
    assert "(reading flow-windows)" in answer.text
    assert answer.text.count("It does not answer") == 1
    assert "nothing was read since" not in answer.text
    assert "The minute before" not in answer.text


def test_links_that_come_anew_keep_the_focus(flow: Console) -> None:
    """htmx puts it back to who has the same id."""
    told = flowing(linkage={"verdicts": {"dead_lettered:conflict": 3}})
    flow.hub.answers["GET", "statistics/v1/flow"] = told
    part = flow.http.get("/flow", headers={"HX-Request": "true"}).text
    assert part.count("<a ") == part.count('<a id="') == 1
    assert '<a id="rejects-linkage" href="/rejects">18</a> <span class="by">(0.3%)</span>' in part


def test_who_is_asked_how_it_is_may_be_away_or_say_why_it_is_not_ready() -> None:
    def answered(request: httpx.Request) -> httpx.Response:
        assert (request.url.path, request.headers.get("authorization")) == ("/readyz", None)
        if request.url.host == "away":
            raise httpx.ConnectError("nobody")
        if request.url.host == "proxy":
            return httpx.Response(502, html="<p>Bad gateway</p>")
        return httpx.Response(200 if request.url.host == "well" else 503, text="no database\n")

    addresses = {"access": "http://well", "linkage": "http://ill", "pseudonym": "http://away", "audit": "http://proxy"}
    hub = HttpHub(addresses, httpx.Client(transport=httpx.MockTransport(answered)), lambda host: [host])
    assert [hub.ready(one) for one in ("access", "linkage", "audit")] == [None, "no database", "HTTP 502"]
    for service, status in (("pseudonym", 503), ("ingest", 404)):
        with pytest.raises(Refusal) as refusal:
            hub.ready(service)
        assert refusal.value.status == status


@pytest.mark.parametrize(
    ("processes", "said"),
    [
        (["10.0.0.1", "10.0.0.2"], None),
        (["10.0.0.1", "10.0.0.9"], "1 of 2 processes: partition 3 is stopped"),
        (["10.0.0.1", "10.0.0.2", "10.0.0.8"], "1 of 3 processes: it does not answer"),
    ],
)
def test_every_process_that_a_name_leads_to_is_asked(processes: list[str], said: str | None) -> None:
    def answered(request: httpx.Request) -> httpx.Response:
        assert request.headers["host"] == "linkage:8000"
        assert request.url.port == 8000
        if request.url.host == "10.0.0.8":
            raise httpx.ConnectError("nobody")
        stands = request.url.host == "10.0.0.9"
        return httpx.Response(503, text="partition 3 is stopped") if stands else httpx.Response(200, text="ready")

    client = httpx.Client(transport=httpx.MockTransport(answered))
    assert HttpHub({"linkage": "http://linkage:8000"}, client, lambda _host: processes).ready("linkage") == said


def test_a_name_that_leads_nowhere_does_not_answer() -> None:
    with pytest.raises(Refusal) as refusal:
        HttpHub({"linkage": "http://nowhere.invalid:8000"}).ready("linkage")
    assert refusal.value.status == 503
