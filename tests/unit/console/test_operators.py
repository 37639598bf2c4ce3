"""The operators' pages: a record's way, what was rejected, and producers, with fake services behind."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from services.console.adapters import Refusal
from services.console.domain.flow import picture, series
from services.console.domain.journey import journey
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
    assert [(one.step, one.word) for one in stops] == [
        ("ingest", "stop.accepted"),
        ("linkage", "stop.correction"),
        ("linkage", "stop.linked"),
        ("access", "stop.kept"),
        ("access", "stop.withheld"),
        ("view", "stop.view"),
        ("linkage", "stop.dead"),
    ]
    assert [one.word for one in journey(LINKED | {"patient_id": "", "method": ""}, None, [])][-1] == "stop.erased"
    assert [one.word for one in journey(LINKED | {"method": ""}, None, [])][-2:] == ["stop.own", "stop.unseen"]
    assert journey(LINKED, STORED | {"views": {}, "withheld": []}, [])[-1].word == "stop.no-view"
    assert journey(None, None, []) == []


def test_the_record_page_says_where_a_record_is(console: Console) -> None:
    page = console.http.get(f"/records?event_id=%20{EVENT_ID.upper()}%20").text
    assert "21 September 2026, 16:13:22.250" in page
    assert "In the view of hearts, as level-3-id." in page
    assert '<span lang="en">the same NIR (INS)</span>' in page
    assert "the same id with other content" in page


def test_a_record_that_nobody_knows_is_told_from_services_that_do_not_answer(console: Console) -> None:
    unknown = f"/records?event_id={'9' * 32}"
    answer = console.http.get(unknown)
    assert (answer.status_code, "No step has seen this record" in answer.text) == (404, True)
    console.hub.answers["GET", f"linkage/v1/records/{'9' * 32}"] = AWAY
    answer = console.http.get(unknown)
    assert (answer.status_code, "Linkage does not answer." in answer.text) == (200, True)
    assert "No step has seen" not in answer.text
    answer = console.http.get("/records?event_id=8812")
    assert (answer.status_code, 'aria-invalid="true"' in answer.text) == (422, True)


def test_dead_letters_are_shown_by_reason_and_one_click_leads_to_the_field(console: Console) -> None:
    page = console.http.get("/rejects").text
    address = "/rejects/linkage?topic=records-pseudonymised-dlq&amp;reason=conflict&amp;source=urn%3Achu"
    assert f'<a href="{address}">Conflict</a>' in page
    assert "2 waiting" in page
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
    assert "1,000.0 ms from its first step to its last" in page
    assert "dead letter: Conflict" in page
    assert '<rect class="part" x="80.00" width="20.00" height="8"/>' in page
    assert 'x="0.00" width="0.40"' in page, "a short one is seen"
    assert f'href="https://traces.example/trace/{"8f" * 16}"' in page
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
    console.hub.answers["GET", f'traces/ingest?{{"event_id": "{EVENT_ID}"}}'] = AWAY
    page = console.http.get(address).text
    assert "The trace store does not answer." in page
    assert "In the view of hearts" in page
    console.hub.answers["GET", f'traces/ingest?{{"event_id": "{EVENT_ID}"}}'] = {"errors": []}
    assert "The trace store does not answer." in console.http.get(address).text, "it answers as no such store does"


def test_a_replay_is_bounded_and_says_how_many_went(console: Console) -> None:
    key = console.sign_in("operator")
    sent = {"form_key": key, "topic": "records-pseudonymised-dlq", "most": "50"}
    console.hub.answers["POST", "linkage/v1/dead-letters/replay"] = {"topic": sent["topic"], "replayed": 2}
    answer = console.http.post("/rejects/linkage/replay", data=sent)
    assert answer.headers["location"] == "/rejects?sent=2&topic=records-pseudonymised-dlq"
    assert console.hub.asked[-1][2] == {"topic": sent["topic"], "most": 50}
    assert "2 sent round again from records-pseudonymised-dlq" in console.http.get(answer.headers["location"]).text
    console.hub.answers["POST", "linkage/v1/dead-letters/replay"] = Refusal(
        422, "not of its form", "body.most: too much"
    )
    answer = console.http.post("/rejects/linkage/replay", data=sent | {"most": "x"})
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
    asked = "statistics/v1/sources/quality?source=urn%3Achu&from=2026-02-31"
    console.hub.answers["GET", asked] = Refusal(422, "not of its form", "query.from: date_from_datetime_parsing")
    answer = console.http.get("/producers/report?source=urn%3Achu&from=2026-02-31")
    assert (answer.status_code, "query.from" in answer.text) == (422, True)


AT = dt.datetime(2026, 9, 21, 14, 0, tzinfo=dt.UTC)


def window(seconds_ago: int, **steps: Any) -> dict[str, Any]:
    """A window of ten seconds, that began so many seconds ago."""
    empty = {"records": 0, "verdicts": {}, "waiting": None, "age_seconds": None}
    return {
        "at": (AT - dt.timedelta(seconds=seconds_ago)).isoformat(),
        "steps": {step: empty | told for step, told in steps.items()},
    }


def test_the_picture_is_the_minute_before_a_moment() -> None:
    passages = picture(
        [
            window(70, linkage={"records": 9999, "waiting": 9}),
            window(
                50,
                linkage={
                    "records": 90,
                    "verdicts": {"linked": 87, "dead_lettered:conflict": 3},
                    "waiting": 40,
                    "age_seconds": {"mean": 2.0, "max": 5.0},
                },
            ),
            window(10, linkage={"records": 30, "waiting": 4, "age_seconds": {"mean": 6.0, "max": 7.0}}),
            window(20, access={"waiting": 12}),
            window(-10, linkage={"records": 9999}),
        ],
        AT,
    )
    found = {one.step: one for one in passages}
    linkage = found["linkage"]
    assert (linkage.rate, linkage.waiting, linkage.age, linkage.oldest, linkage.rejects) == (2.0, 4, 3.0, 7.0, 3)
    assert (linkage.tone, found["access"].tone, found["pseudonym"].tone) == ("bad", "wait", "")
    assert found["pseudonym"].waiting is None


def test_the_chart_has_every_window_of_the_hour_also_where_nothing_flowed() -> None:
    told = [window(20, ingest={"records": 50}), window(10, ingest={"records": 5})]
    found = series(told, 10, AT - dt.timedelta(seconds=40), AT)
    assert [at - int(AT.timestamp()) for at in found["at"]] == [-40, -30, -20, -10]
    assert found["rates"]["ingest"] == [0, 0, 5.0, 0.5]
    assert found["rates"]["access"] == [0, 0, 0, 0]


def test_the_flow_is_asked_anew_while_it_is_live_and_not_while_it_is_replayed(console: Console) -> None:
    assert 'hx-trigger="every 5s"' in console.http.get("/flow?source=urn%3Achu").text
    part = console.http.get("/flow?ago=600", headers={"HX-Request": "true"}).text
    assert "every 5s" not in part
    assert "<html" not in part
    asked = [path for _, path, _ in console.hub.asked]
    assert "statistics/v1/flow/sources" in asked
    figures = console.http.get("/flow/series").json()
    assert figures["names"]["access"] == "Access"
    assert len(figures["at"]) in (360, 361)
    assert console.http.get("/flow?ago=4000").status_code == 404
