"""The console's pages, with a fake access: what they show, to whom, and what every answer of theirs carries."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.routing import Route

from contracts.requests import ACTS as OF_REQUESTS
from services.console.adapters import HttpHub, Refusal, path_of
from services.console.visits import within
from tests.unit.console.desk import CALL, PAIR, PROJECT, RELEASED, REQUEST, Console, FakeIssuer

pytestmark = pytest.mark.unit

PAGES = (
    "/projects",
    "/projects/hearts",
    "/projects/hearts/acts/find-complete",
    "/projects/hearts/acts/request",
    "/projects/hearts/acts/review",
    "/calls",
    "/calls/announce",
    "/apply",
    "/apply?call=call",
    "/permits",
    "/permits/try",
    "/permits/hearts/close",
    "/flow",
    "/flow?ago=600&source=urn%3Achu",
    "/records",
    "/records?event_id=0123456789abcdef0123456789abcdef",
    "/rejects",
    "/rejects/linkage?topic=records-pseudonymised-dlq&reason=conflict&source=urn%3Achu",
    "/producers",
    "/producers/report?source=urn%3Achu",
    "/requests",
    "/requests?all=true",
    f"/requests/{REQUEST['id']}",
    *(f"/requests/{REQUEST['id']}/{act}" for act in OF_REQUESTS),
    "/audit",
    "/audit/0",
    "/reviews",
    "/reviews/next",
    f"/reviews/{PAIR['id']}",
    "/catalogue",
    "/catalogue/urn:x:y",
    "/sign-in",
)
OPEN_TO_ALL = ("/catalogue", "/catalogue/urn:x:y", "/sign-in")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path)


@pytest.mark.parametrize("language", ["en", "fr"])
@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_hardened_and_says_nothing_of_its_own_into_scripts(
    console: Console, path: str, language: str
) -> None:
    console.sign_in("officer", "subscriber", "reviewer")
    answer = console.http.get(path, headers={"Accept-Language": language})
    assert answer.status_code == 200
    _is_hard(answer.headers)
    assert f'<html lang="{language}">' in answer.text
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|style=|javascript:", answer.text)
    assert not re.search(r'(src|href|action)="(https?:)?//', answer.text), "nothing is loaded from elsewhere"
    assert "<script>" not in answer.text


@pytest.mark.parametrize("path", ["/nowhere", "/projects/nobody", "/static/nothing.js", "/docs", "/openapi.json"])
def test_what_is_not_there_is_a_page_too(console: Console, path: str) -> None:
    console.sign_in()
    answer = console.http.get(path)
    assert answer.status_code == 404
    _is_hard(answer.headers)


def _is_hard(headers: Any) -> None:
    policy = dict(one.split(" ", 1) for one in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] in ("no-store", "no-cache")
    assert headers["referrer-policy"] == "same-origin"


def test_a_defect_is_a_hardened_page_without_its_message(console: Console) -> None:
    console.sign_in()
    console.hub.answers["GET", "/v1/projects"] = {"projects": [{"secret": "of somebody"}]}
    answer = console.http.get("/projects")
    assert (answer.status_code, "of somebody" in answer.text) == (500, False)
    _is_hard(answer.headers)


@pytest.mark.parametrize("path", [one for one in PAGES if one not in OPEN_TO_ALL])
def test_who_has_not_signed_in_does_so_and_comes_back(console: Console, path: str) -> None:
    answer = console.http.get(path)
    back = quote(path, safe="")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/sign-in?back={back}")
    part = console.http.get(path, headers={"HX-Request": "true", "HX-Current-URL": f"http://127.0.0.1:8080{path}"})
    assert (part.status_code, part.headers["hx-redirect"]) == (401, f"/sign-in?back={back}")


def posts(console: Console) -> list[str]:
    found = [one.path for one in console.app.routes if isinstance(one, Route) and "POST" in (one.methods or ())]
    names = {"project": "hearts", "act": "sign", "permit": "hearts", "step": "linkage"}
    names |= {"one": PAIR["id"], "request": REQUEST["id"]}
    return [re.sub(r"{(\w+)}", lambda one: names[one[1]], path) for path in found]


def test_no_form_is_taken_that_was_not_shown_to_this_session(console: Console, tmp_path: Path) -> None:
    key = console.sign_in()
    paths = posts(console)
    assert len(paths) >= 7
    for path in paths:
        for sent in ("", "form_key=", f"form_key={key[:-1]}", f"form_key={key}&form_key={key}", "form_key=%C3%A9"):
            answer = console.http.post(path, content=sent, headers=FORM)
            assert answer.status_code == 403, (path, sent)
        assert console.http.post(path, json={"form_key": key}).status_code == 415, path
    assert all(method == "GET" for method, _, _ in console.hub.asked)
    console.http.cookies.clear()
    assert all(console.http.post(path, data={"form_key": key}).status_code == 303 for path in paths)
    assert not any(method == "POST" for method, _, _ in console.hub.asked)


def test_a_form_that_is_too_long_is_refused(console: Console) -> None:
    key = console.sign_in()
    answer = console.http.post("/permits/try", data={"form_key": key, "permit": "x" * 1_000_001})
    assert answer.status_code == 413


def test_access_is_asked_with_the_persons_own_token(console: Console) -> None:
    console.sign_in("officer")
    console.http.get("/projects")
    (session,) = console.sessions._sessions.values()
    assert set(console.hub.tokens) == {session.tokens.access}
    console.http.cookies.clear()
    console.http.get("/catalogue")
    assert console.hub.tokens[-1] is None


def test_a_token_that_access_does_not_take_ends_the_session(console: Console) -> None:
    console.sign_in()
    console.hub.answers["GET", "/v1/projects"] = Refusal(401, "not authenticated", "")
    assert console.http.get("/projects").headers["location"] == "/sign-in?back=%2Fprojects"
    del console.hub.answers["GET", "/v1/projects"]
    assert console.http.get("/projects").status_code == 303


@pytest.mark.parametrize(("status", "shown"), [(403, 403), (404, 404), (503, 503)])
def test_what_access_refuses_is_said(console: Console, status: int, shown: int) -> None:
    console.sign_in()
    console.hub.answers["GET", "/v1/permits"] = Refusal(status, "not now", "Because <b>.")
    answer = console.http.get("/permits")
    assert answer.status_code == shown
    assert "not now" in answer.text
    assert "Because &lt;b&gt;." in answer.text
    part = console.http.get("/permits", headers={"HX-Request": "true"})
    assert (part.status_code, "<html" in part.text, "not now" in part.text) == (shown, False, True)


def test_the_board_marks_what_is_overdue_and_says_who_is_to_act(console: Console) -> None:
    console.sign_in("officer")
    text = console.http.get("/projects").text
    assert "Hearts &lt;script&gt;" in text
    assert "overdue" in text
    assert "an officer" in text
    assert "5 January 2026" in text
    assert 'href="/apply"' not in text, "that is for leads"


def test_an_act_is_done_and_told(console: Console) -> None:
    key = console.sign_in("officer")
    console.hub.answers["POST", "/v1/projects/hearts/find-complete"] = PROJECT
    answer = console.http.post("/projects/hearts/acts/find-complete", data={"form_key": key})
    assert answer.headers["location"] == "/projects/hearts?done=find-complete"
    assert ("POST", "/v1/projects/hearts/find-complete", {}) in console.hub.asked
    assert "Done: Find it complete." in console.http.get(answer.headers["location"]).text


def test_what_is_wrong_with_an_act_is_beside_its_field_and_nothing_that_was_written_is_lost(console: Console) -> None:
    key = console.sign_in("reviewer")
    console.hub.answers["POST", "/v1/projects/hearts/review"] = Refusal(
        422, "as it is written", "scores.novelty: too high"
    )
    sent = {"form_key": key, "scores.novelty": "9", "comment": "<good>", "no_conflict_of_interest": "yes"}
    answer = console.http.post("/projects/hearts/acts/review", data=sent)
    assert answer.status_code == 422
    assert console.hub.asked[-2][2] or console.hub.asked[-1][2]
    said = next(body for method, _, body in console.hub.asked if method == "POST")
    assert said == {"scores": {"novelty": 9}, "comment": "<good>", "no_conflict_of_interest": True}
    assert '<p class="error" id="e-scores.novelty" lang="en">too high</p>' in answer.text
    assert 'aria-invalid="true"' in answer.text
    assert 'value="9"' in answer.text
    assert "&lt;good&gt;</textarea>" in answer.text


def test_a_permit_is_asked_for_as_it_was_last(console: Console) -> None:
    key = console.sign_in("subscriber")
    assert "id: hearts\nsources:" in console.http.get("/projects/hearts/acts/request").text
    answer = console.http.post("/projects/hearts/acts/request", data={"form_key": key, "permit": "a: ["})
    assert answer.status_code == 422
    assert "neither YAML nor JSON (line 1)" in answer.text
    assert not any(method == "POST" for method, _, _ in console.hub.asked)


def test_an_output_is_checked_that_awaits_it(console: Console) -> None:
    console.sign_in("officer")
    page = console.http.get("/projects/hearts").text
    assert "stays.csv (Table): It leaves" in page
    assert "model.onnx (Model): Its check is awaited" in page
    form = console.http.get("/projects/hearts/acts/check-output").text
    assert f'<option value="{"ef" * 32}">model.onnx</option>' in form
    assert "stays.csv" not in form


def test_an_application_is_for_the_call_that_was_chosen(console: Console) -> None:
    key = console.sign_in("subscriber")
    assert '<option value="research">Research</option>' in console.http.get("/apply?call=call").text
    assert 'name="theme"' not in console.http.get("/apply").text
    console.hub.answers["POST", "/v1/projects"] = PROJECT
    sent = {"form_key": key, "id": "hearts", "call": "call", "theme": "research", "organisation.name": " CHU "}
    answer = console.http.post("/apply?call=call", data=sent)
    assert answer.headers["location"] == "/projects/hearts?done=apply"
    assert console.hub.asked[-1] == (
        "POST",
        "/v1/projects",
        {"id": "hearts", "call": "call", "theme": "research", "organisation": {"name": "CHU"}},
    )


def test_a_row_more_is_no_act(console: Console) -> None:
    key = console.sign_in("officer")
    sent = {"form_key": key, "themes.rows": "1", "themes.0.key": "research", "more": "themes"}
    answer = console.http.post("/calls/announce", data=sent)
    assert answer.status_code == 200
    assert 'name="themes.1.key"' in answer.text
    assert 'value="research"' in answer.text
    assert not any(method == "POST" for method, _, _ in console.hub.asked)


def test_a_dry_run_is_a_picture_whose_numbers_are_written_out(console: Console) -> None:
    key = console.sign_in("officer")
    console.hub.answers["POST", "/v1/permits/dry-run"] = RELEASED
    for path, sent in (("/permits/try", {"permit": "id: hearts"}), ("/projects/hearts/dry-run", {})):
        for headers in ({}, {"HX-Request": "true"}):
            answer = console.http.post(path, data={"form_key": key} | sent, headers=headers)
            assert answer.status_code == 200
            assert ("<html" in answer.text) == (not headers)
            for one in ("<svg", ">240</td>", "80.0%", ">74</td>", "day of care", "<strong>9</strong>", "(a sample)"):
                assert one in answer.text, one
    assert console.hub.asked[-1][2] == {"id": "hearts", "sources": ["*"]}
    console.hub.answers["POST", "/v1/permits/dry-run"] = Refusal(422, "no", "id: use small letters; types: missing")
    answer = console.http.post("/permits/try", data={"form_key": key, "permit": "id: X"}, headers={"HX-Request": "1"})
    assert "<li>id: use small letters</li>" in answer.text


def test_a_permit_is_closed_after_it_was_asked(console: Console) -> None:
    key = console.sign_in("officer")
    assert "1,200" in console.http.get("/permits/hearts/close").text
    assert console.http.get("/permits/none/close").status_code == 404
    console.hub.answers["POST", "/v1/permits/hearts/close"] = {}
    assert (
        console.http.post("/permits/hearts/close", data={"form_key": key}).headers["location"] == "/permits?done=close"
    )


def test_permits_are_looked_at_again_while_a_view_fills(console: Console) -> None:
    console.sign_in("subscriber")
    assert 'hx-trigger="every 2s"' in console.http.get("/permits").text
    permits = console.hub.answers["GET", "/v1/permits"]["permits"]
    console.hub.answers["GET", "/v1/permits"] = {"permits": [permits[0] | {"state": "open"}]}
    text = console.http.get("/permits").text
    assert "hx-trigger" not in text
    assert "/close" not in text, "that is for officers"


def test_a_call_that_is_open_invites_leads(console: Console) -> None:
    console.sign_in("subscriber")
    assert "/apply?call=call" in console.http.get("/calls").text
    console.hub.answers["GET", "/v1/calls"] = {"calls": [CALL | {"closes": "2026-01-02"}]}
    assert "/apply?call=call" not in console.http.get("/calls").text


def test_the_language_is_chosen_and_kept(console: Console) -> None:
    answer = console.http.get("/language/fr?back=/catalogue")
    assert answer.headers["location"] == "/catalogue"
    assert "Mots à chercher" in console.http.get("/catalogue").text
    assert "set-cookie" not in console.http.get("/language/xx").headers


@pytest.mark.parametrize("back", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "", "/a\nb"])
def test_nobody_is_led_elsewhere(console: Console, back: str) -> None:
    assert within(back) == "/"
    assert console.http.get("/language/fr", params={"back": back}).headers["location"] == "/"


def test_a_part_of_a_path_stays_one() -> None:
    assert path_of("projects", "../permits", "a/b?c") == "/projects/..%2Fpermits/a%2Fb%3Fc"


def test_a_service_without_an_address_is_said_to_have_none(tmp_path: Path) -> None:
    settings = FakeIssuer(tmp_path).settings.model_copy(update={"linkage": "http://127.0.0.1:8003"})
    assert settings.services == {"access": "http://127.0.0.1:8001", "linkage": "http://127.0.0.1:8003"}
    hub = HttpHub(settings.services)
    with pytest.raises(Refusal, match="does not know where audit is") as refused:
        hub.ask("audit", "GET", "/v1/checkpoint")
    assert refused.value.status == 503
    assert refused.value.detail == "ESTUAIRE_CONSOLE_AUDIT says where it listens."
    hub.close()
