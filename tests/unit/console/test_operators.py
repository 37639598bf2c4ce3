"""The operators' pages: a record's way, what was rejected, and producers, with fake services behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.console.adapters import Refusal
from services.console.domain.journey import journey
from tests.unit.console.desk import EVENT_ID, LETTERS, LINKED, STORED, Console

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
