"""The console's pages, with a fake access: what they show, to whom, and what every answer of theirs carries."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from starlette.routing import Route

from contracts.projects import OF_PROJECTS
from contracts.requests import ACTS as OF_REQUESTS
from services.console.adapters import HttpHub, Refusal, path_of
from services.console.domain.forms import read
from services.console.menu import ROUTES, roles_at
from services.console.visits import within
from tests.unit.console.desk import CALL, PAIR, PROJECT, RELEASED, REQUEST, ROLES, URL, Console, FakeIssuer

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
    console.sign_in(*ROLES)
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


PROBES = {"/healthz", "/readyz", "/metrics"}
NAMES = {"project": "hearts", "permit": "hearts", "step": "linkage", "one": PAIR["id"], "request": REQUEST["id"]}
NAMES |= {"number": "0", "entry:path": "urn:x:y", "language": "fr"}


def routes(console: Console) -> list[tuple[str, str, str, str]]:
    """Every route of the console, of each act: as it is written, its method, the act, and an address of it."""
    found = []
    for route in console.app.routes:
        if isinstance(route, Route) and route.path not in PROBES:
            of_project = OF_PROJECTS if "project" in route.path else OF_REQUESTS
            path = re.sub(r"{([\w:]+)}", lambda one: NAMES.get(one[1], one[0]), route.path)
            for act in of_project if "{act}" in path else ("",):
                found += [(route.path, method, act, path.replace("{act}", act)) for method in route.methods or ()]
    return found


def posts(console: Console) -> list[str]:
    return [address for _, method, _, address in routes(console) if method == "POST"]


def test_every_route_says_whom_it_is_for_and_holds_off_the_others_before_a_service_is_asked(console: Console) -> None:
    assert {path for path, *_ in routes(console)} == ROUTES.keys()
    for role in ROLES:
        for path, method, act, address in routes(console):
            key = console.sign_in(role)
            console.hub.asked.clear()
            answer = console.http.request(method, address, data={"form_key": key} if method == "POST" else None)
            for_them = roles_at(path, act)
            is_refused = bool(for_them) and role not in for_them
            assert (answer.status_code == 403) is is_refused, (role, method, address)
            assert not is_refused or not console.hub.asked, (role, method, address)


@pytest.mark.parametrize(
    ("role", "path"),
    [
        ("steward", "/calls/announce"),
        ("steward", "/apply"),
        ("steward", "/permits/try"),
        ("subscriber", "/calls/announce"),
        ("subscriber", "/permits/hearts/close"),
        ("subscriber", "/projects/hearts/acts/open"),
        ("officer", "/projects/hearts/acts/review"),
        ("officer", "/apply"),
        ("reviewer", "/permits"),
        ("officer", "/flow/series"),
        ("operator", f"/requests/{REQUEST['id']}"),
        ("operator", "/audit/export"),
        ("auditor", "/reviews/next"),
    ],
)
def test_who_it_is_not_for_is_told_so(console: Console, role: str, path: str) -> None:
    console.sign_in(role)
    answer = console.http.get(path)
    assert (answer.status_code, "This is for: " in answer.text) == (403, True)


def test_no_form_is_taken_that_was_not_shown_to_this_session(console: Console, tmp_path: Path) -> None:
    key = console.sign_in(*ROLES)
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


@pytest.mark.parametrize(
    ("path", "headers", "back"),
    [
        ("/rejects/linkage/replay", {"Referer": f"{URL}/rejects?sent=2"}, "/rejects?sent=2"),
        ("/rejects/linkage/replay", {}, "/rejects"),
        ("/reviews/undo", {"Referer": f"{URL}/reviews/undo"}, "/reviews"),
        ("/reviews/undo", {"Referer": "https://elsewhere.example/permits"}, "/reviews"),
        ("/reviews/undo", {"Referer": "http://[permits"}, "/reviews"),
        ("/permits/hearts/close", {"Referer": f"{URL}/permits/hearts/close"}, "/permits/hearts/close"),
        ("/apply", {}, "/"),
        ("/permits/try", {"HX-Request": "true", "HX-Current-URL": f"{URL}/permits/try"}, "/permits/try"),
    ],
)
def test_who_sent_a_form_too_late_comes_back_to_its_page_and_is_told_that_nothing_was_done(
    console: Console, path: str, headers: dict[str, str], back: str
) -> None:
    answer = console.http.post(path, data={"form_key": "of a session that ended"}, headers=headers)
    address = answer.headers.get("hx-redirect") or answer.headers["location"]
    assert address == f"/sign-in?back={quote(back, safe='')}"
    console.sign_in(*ROLES)
    page = console.http.get(back if back != "/" else "/catalogue")
    assert (page.status_code, "nothing was done" in page.text) == (200, True)
    assert "nothing was done" not in console.http.get("/catalogue").text, "once"
    assert not console.hub.tokens or console.hub.tokens[0] is not None


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
    assert answer.headers["location"] == "/projects/hearts"
    assert ("POST", "/v1/projects/hearts/find-complete", {}) in console.hub.asked
    assert "Done: Find it complete." in console.http.get(answer.headers["location"]).text
    assert "Done:" not in console.http.get("/projects/hearts?done=find-complete").text, "once"


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
    assert '<p class="error" id="e-scores.novelty"><span lang="en">too high</span></p>' in answer.text
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
    assert answer.headers["location"] == "/projects/hearts"
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


def test_two_rows_of_one_name_are_refused_beside_the_second_before_anything_is_asked(console: Console) -> None:
    key = console.sign_in("officer")
    sent = {"form_key": key, "themes.rows": "2", "themes.0.key": "research", "themes.1.key": "research"}
    answer = console.http.post("/calls/announce", data=sent, headers={"Accept-Language": "fr"})
    assert answer.status_code == 422
    assert '<p class="error" id="e-themes.1.key"><span>une autre ligne porte ce nom</span></p>' in answer.text
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
    assert '<li><span lang="en">id: use small letters</span></li>' in answer.text


def test_a_permit_is_closed_after_it_was_asked(console: Console) -> None:
    key = console.sign_in("officer")
    assert "1,200" in console.http.get("/permits/hearts/close").text
    assert console.http.get("/permits/none/close").status_code == 404
    console.hub.answers["POST", "/v1/permits/hearts/close"] = {}
    assert "closed, or will be" not in console.http.get("/permits?done=close").text
    assert console.http.post("/permits/hearts/close", data={"form_key": key}).headers["location"] == "/permits"
    part = console.http.get("/permits", headers={"HX-Request": "true"})
    assert "closed, or will be" not in part.text
    assert "closed, or will be" in console.http.get("/permits").text, "the page says so, not its part"


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
    assert path_of("projects", "../permits", "a/b?c", "...") == "/projects/..%2Fpermits/a%2Fb%3Fc/..."
    for one in ("..", ".", ""):
        with pytest.raises(Refusal) as refused:
            path_of("projects", one, "permits")
        assert refused.value.status == 404


def test_a_service_without_an_address_is_said_to_have_none(tmp_path: Path) -> None:
    settings = FakeIssuer(tmp_path).settings.model_copy(update={"linkage": "http://127.0.0.1:8003"})
    assert settings.services == {"access": "http://127.0.0.1:8001", "linkage": "http://127.0.0.1:8003"}
    hub = HttpHub(settings.services)
    with pytest.raises(Refusal, match="does not know where audit is") as refused:
        hub.ask("audit", "GET", "/v1/checkpoint")
    assert refused.value.status == 503
    assert refused.value.detail == "ESTUAIRE_CONSOLE_AUDIT says where it listens."
    hub.close()


def test_a_page_waits_seconds_for_what_it_shows_and_longer_for_an_act(tmp_path: Path) -> None:
    waits: list[float] = []

    def answered(request: httpx.Request) -> httpx.Response:
        waits.append(request.extensions["timeout"]["read"])
        raise httpx.ReadTimeout("never")

    settings = FakeIssuer(tmp_path).settings.model_copy(update={"traces_api": "http://127.0.0.1:8009"})
    hub = HttpHub(settings.services, httpx.Client(transport=httpx.MockTransport(answered)))
    for service, method in (("access", "GET"), ("traces", "GET"), ("access", "POST")):
        with pytest.raises(Refusal, match="does not answer"):
            hub.ask(service, method, "/v1/permits")
    assert waits == [5.0, 3.0, 120.0]


def test_what_cannot_be_said_in_json_is_told_with_its_place_and_not_as_a_service_that_is_away(tmp_path: Path) -> None:
    hub = HttpHub(FakeIssuer(tmp_path).settings.services)
    written = 'id: hearts\nlimits: {least: [1, .nan]}\ntitle: "\\ud800"\nfields: {"\\udfff": {"\\udfff": -.inf}}'
    with pytest.raises(Refusal) as refused:
        hub.ask("access", "POST", "/v1/permits/dry-run", body=read(written))
    hub.close()
    assert refused.value.status == 422
    assert [one.partition(" ")[0] for one in refused.value.detail.split("; ") if ": " in one] == [
        "limits.least.1:",
        "title:",
        "fields:",
        "fields.?:",
        "fields.?.?:",
    ]
    refused.value.detail.encode()
