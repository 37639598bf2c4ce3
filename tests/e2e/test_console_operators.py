"""The operators' pages in a real browser: from what was rejected to the record, and to the producer that sent it."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playwright.sync_api import Route

from estuaire.console import sign_in_link
from services.console.menu import MENU
from tests.browser import PHONE
from tests.e2e.conftest import Enter
from tests.hub import Hub

pytestmark = pytest.mark.e2e

Make = Callable[..., dict[str, Any]]


def test_what_was_rejected_leads_to_the_record_and_its_producer(hub: Hub, enter: Enter, observation: Make) -> None:
    source = hub.source()
    permit = hub.permit(source)
    bad = observation(source, "bad", 2)
    bad["data"]["identity"]["birth_date"] = "1985-02-31"
    events = [observation(source, f"o{number}", number) for number in range(40)]
    identity = events[1]["data"]["identity"]
    identity |= {"birth_family_name": "KERGUELEN", "given_names": ["Maelys"], "birth_date": "1985-05-12"}
    again = observation(source, "o1", 1, value=1)
    again["data"]["identity"] = identity
    answer = hub.send(source, events)
    hub.send(source, [again, bad])
    event_id = next(one["event_id"] for one in answer.accepted if one["id"] == "o1")
    operator = enter("operator")

    operator.go("/rejects")
    row = operator.page.get_by_role("row", name=source).first
    hub.wait_for(lambda: bool(row.count() or operator.page.reload() is None))
    operator.is_accessible()
    operator.picture("rejects")
    row.get_by_role("link", name="Conflict").click()
    operator.sees("1 waiting")
    operator.is_accessible()
    operator.picture("letters")
    operator.page.get_by_role("link", name=event_id[:12]).click()
    operator.sees(f"In the view of {permit.id}")
    operator.sees("No other identity is linked to this one")
    ids = {entry.id for entry in hub.view(permit).entries()}
    assert len(ids) == 40
    assert not [one for one in ids if one in operator.page.content()], "whoever had them side by side could join views"
    operator.sees("Among the dead letters: records-pseudonymised-dlq")
    operator.is_accessible()
    operator.picture("record")
    _shows_nothing_of(operator.page.content(), identity)

    operator.go("/rejects")
    linkage = operator.page.locator("form[action='/rejects/linkage/replay']")
    linkage.get_by_label("at most").fill("1000")
    linkage.get_by_role("button", name="Send the oldest again").click()
    operator.sees("Sent round again from records-pseudonymised-dlq")
    operator.sees("Among the dead letters again: ")
    operator.page.get_by_text("Not there yet").wait_for(state="detached")
    assert operator.page.locator("#letters").get_by_role("row").count(), "what came back waits there"
    operator.is_accessible()
    operator.picture("rounds")

    operator.go("/rejects")
    refused = operator.page.get_by_role("link", name=source).first
    hub.wait_for(lambda: bool(refused.count() or operator.page.reload() is None))
    refused.click()
    operator.sees("Wrong value")
    operator.sees("identity.birth_date")
    operator.is_accessible()
    operator.picture("report")
    operator.go("/producers")
    operator.page.get_by_role("row", name=source).get_by_text("Active").wait_for()
    operator.is_accessible()
    operator.picture("producers")


def _shows_nothing_of(page: str, identity: dict[str, Any]) -> None:
    """Whether nothing that was sent of a person is anywhere on a page."""
    values = [identity["birth_family_name"], *identity["given_names"], identity["birth_date"]]
    values += [one["value"] for one in identity["identifiers"]]
    assert not [one for one in values if one in page]


def test_a_page_that_refreshes_says_since_when_it_does_not_and_goes_on_by_itself(
    hub: Hub, enter: Enter, observation: Make
) -> None:
    source = hub.source()
    hub.register(source)
    hub.send(source, [observation(source, "live", 1)])
    operator = enter("operator")
    page = operator.page
    page.clock.install()  # polls come when the test lets time pass
    row, note = page.get_by_role("row", name=source), page.get_by_role("status").filter(has_text="Not up to date since")
    hub.wait_for(lambda: bool(operator.go("/producers").get_by_role("row", name=source).count()), 120)

    def refreshed(status: int = 200) -> None:
        """Until the part has been asked for again, and answered so."""
        with page.expect_response(lambda one: one.url.endswith("/producers") and one.status == status):
            page.clock.run_for(10_000)

    def recovered() -> bool:
        page.clock.run_for(10_000)
        return not note.count()

    row.get_by_role("link").focus()
    refreshed()
    page.wait_for_function("() => !document.querySelector('.htmx-request, .htmx-swapping, .htmx-settling')")
    assert page.evaluate("document.activeElement.id") == f"s-{source}", "the focus is where it was"

    hub.platform.services["statistics"].kill()
    with operator.expects("503 at /producers"):
        refreshed(503)
        note.filter(has_text="statistics does not answer").wait_for()
        operator.is_accessible()
        operator.picture("stale", whole=False)
        assert row.is_visible(), "what was shown stays"
        hub.platform.start_services("statistics")
        hub.wait_for(recovered, 60)

    page.context.set_offline(True)
    with operator.expects("ERR_INTERNET_DISCONNECTED", "htmx:"):
        page.clock.run_for(10_000)
        note.filter(has_text="the hub cannot be reached").wait_for()
        page.context.set_offline(False)
        refreshed()
        note.wait_for(state="detached")
    kept = page.context.cookies()
    page.context.clear_cookies()
    with operator.expects("401 at /producers"):
        refreshed(401)
        note.filter(has_text="your session has ended").wait_for()
        assert note.get_by_role("link", name="Sign in").get_attribute("href") == page.url
        assert row.is_visible()
    page.context.add_cookies([{"name": one["name"], "value": one["value"], "url": page.url} for one in kept])
    refreshed()
    note.wait_for(state="detached")

    asked: list[str] = []
    page.on("request", lambda one: asked.append(one.url))
    operator.press("Pause updates")
    page.clock.run_for(60_000)
    assert page.get_by_role("button", name="Pause updates", pressed=True).is_visible()
    assert not asked
    operator.press("Pause updates")
    refreshed()


def test_a_record_is_found_by_keyboard_and_what_is_no_id_is_told(enter: Enter) -> None:
    operator = enter("operator")
    page = operator.go("/records")
    page.get_by_label("The hub’s id of the record").focus()
    with operator.expects("422 at /records"):
        page.keyboard.type("8812")
        page.keyboard.press("Enter")
        page.get_by_text("An id is 32 characters").wait_for()
    assert page.get_by_label("The hub’s id of the record").get_attribute("aria-invalid") == "true"


OF_NOBODY = {"/records": f"?event_id={'0' * 32}"}
PAGES = (
    "/flow",
    "/rejects",
    "/records",
    "/producers",
    "/rejects/linkage?topic=records-pseudonymised-dlq&reason=conflict",
)


@pytest.mark.parametrize(
    ("language", "said"), [pytest.param("en-GB", "Producers", marks=pytest.mark.long), ("fr-FR", "Producteurs")]
)
@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.long), "dark"])
def test_every_page_is_accessible_in_both_languages_light_and_dark_on_a_desk_and_on_a_phone(
    enter: Enter, language: str, said: str, scheme: str
) -> None:
    phone = scheme == "dark"
    operator = enter("operator", language=language, scheme=scheme, **({"size": PHONE} if phone else {}))
    for path in PAGES:
        page = operator.go(path)
        assert page.get_by_role("navigation").first.get_by_role("link", name=said).is_visible()
        operator.is_accessible()
        if language == "fr-FR" and path in ("/flow", "/rejects", "/producers"):
            operator.picture(f"{'phone' if phone else 'french'}-{path.strip('/')}")


def test_every_page_of_the_menu_is_for_its_roles_alone(hub: Hub) -> None:
    """Whom the console lets in, the services let in, too; how each holds off the others is tested on its own."""
    url = hub.platform.console_url
    for role in sorted(set().union(*(one.roles for one in MENU))):
        with httpx.Client(base_url=url, follow_redirects=True, timeout=30) as browser:
            browser.get(sign_in_link(hub.platform.home, url, f"{role}-of-pages", role))
            # of a record an id is asked for first, and then the services
            found = {one: browser.get(one.path + OF_NOBODY.get(one.path, "")).status_code for one in MENU}
        for page, status in found.items():
            open_to = not page.roles or role in page.roles
            assert (status != httpx.codes.FORBIDDEN) is open_to, f"{role} at {page.path}: {status}"
            assert status < httpx.codes.INTERNAL_SERVER_ERROR


def test_who_is_no_operator_is_told_so(enter: Enter) -> None:
    officer = enter("officer")
    with officer.expects("403 at /rejects"):
        officer.go("/rejects")
        officer.sees("This is for: operator.")


def test_the_flow_is_a_live_picture_that_can_be_replayed(hub: Hub, enter: Enter, observation: Make) -> None:
    source = hub.source()
    hub.send(source, [observation(source, f"f{number}", number) for number in range(300)])
    hub.send(source, [observation(source, "bad", 1, type="horoscope.v1")])
    operator = enter("operator")
    page = operator.go("/flow")
    rates, moment, slider = page.locator(".arrow strong"), page.locator("#flow time").first, page.get_by_role("slider")

    def flows() -> bool:
        """Whether records pass on each of the five arrows."""
        found = rates.all_inner_texts()
        return len(found) == 5 and all(float(one) > 0 for one in found)

    hub.wait_for(flows, 60)
    # what other tests had rejected is of the minute before, for a while
    hub.wait_for(lambda: flows() and page.get_by_text("In order").count() == 4, 90)
    page.get_by_role("img", name="on average: Ingest").wait_for()
    page.get_by_text("The hour as a table").click()
    assert page.get_by_role("table", name="Records a second").get_by_role("row").count() > 2
    operator.is_accessible()
    page.get_by_text("The hour as a table").click()
    operator.picture("flow")

    page.locator("#rejects-ingest").focus()
    shown = moment.get_attribute("datetime")
    hub.wait_for(lambda: moment.get_attribute("datetime") != shown)
    assert page.evaluate("document.activeElement.id") == "rejects-ingest", "the focus is where it was"

    operator.choose("Producer", source)
    operator.press("Show")
    page.wait_for_url("**/flow?source=*")
    assert slider.get_attribute("aria-valuetext") == "live"
    slider.fill("-3000")
    operator.sees("The minute before")
    hub.wait_for(lambda: set(rates.all_inner_texts()) == {"0.0"})
    assert re.fullmatch(r"\d\d:\d\d:\d\d", slider.get_attribute("aria-valuetext") or "")
    slider.fill("-3590")
    operator.press("Replay")
    assert page.get_by_role("button", name="Replay").get_attribute("aria-pressed") == "true"
    hub.wait_for(lambda: int(slider.input_value()) > -3580)
    slider.fill("-70")  # it plays on from there, into the minutes in which something flowed
    hub.wait_for(flows)
    hub.wait_for(lambda: slider.input_value() == "0")
    operator.is_accessible()


def test_the_moment_that_is_asked_for_last_is_shown_however_slow_the_answers_are(hub: Hub, enter: Enter) -> None:
    page = enter("operator").go("/flow")
    held: list[Route] = []
    page.route(re.compile("ago="), lambda one: held.append(one))
    for ago in (600, 1200, 1800):
        page.get_by_role("slider").fill(str(-ago))

    def shown() -> float:
        """How long ago the moment is that is shown, once what was held by now is answered."""
        while held:
            held.pop(0).continue_()
        at = page.locator("#flow time").first.get_attribute("datetime") or ""
        return (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(at)).total_seconds()

    hub.wait_for(lambda: shown() > 1700)


@pytest.mark.long
def test_a_step_that_is_killed_is_shown_so_with_what_waits_for_it(hub: Hub, enter: Enter, observation: Make) -> None:
    source = hub.source()
    hub.send(source, [observation(source, "first", 1)])
    operator = enter("operator")
    page = operator.go("/flow")
    linkage = page.locator(".stage").filter(has=page.get_by_role("heading", name="Linkage"))
    before_linkage = page.locator(".arrow").nth(2).locator("dd").first
    linkage.get_by_text("In order").wait_for()
    hub.platform.services["linkage"].kill()
    linkage.get_by_text("It does not answer").wait_for(timeout=60_000)
    numbers = itertools.count()
    with hub.producer(source) as producer:

        def stands() -> bool:
            list(producer.send([observation(source, f"while{next(numbers)}", 1)]))
            return linkage.get_by_text("It stands").count() > 0

        hub.wait_for(stands, 120)
    assert int(before_linkage.inner_text().replace(",", "")) >= 50
    operator.is_accessible()
    operator.picture("flow-standing")
    hub.platform.start_services("linkage")
    linkage.get_by_text("In order").wait_for(timeout=60_000)
    hub.wait_for(lambda: before_linkage.inner_text() == "0", 60)
