"""The operators' pages in a real browser: from what was rejected to the record, and to the producer that sent it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from estuaire.console import sign_in_link
from services.console.visits import MENU
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
    answer = hub.send(source, [observation(source, f"o{number}", number) for number in range(40)])
    hub.send(source, [observation(source, "o1", 1, value=1), bad])
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
    operator.sees("Among the dead letters: records-pseudonymised-dlq")
    operator.is_accessible()
    operator.picture("record")
    assert "1985" not in operator.page.content()

    operator.go("/rejects")
    linkage = operator.page.locator("form[action='/rejects/linkage/replay']")
    linkage.get_by_label("at most").fill("1000")
    linkage.get_by_role("button", name="Replay the oldest").click()
    operator.page.wait_for_url("**/rejects?sent=*")
    operator.sees("sent round again from records-pseudonymised-dlq")
    operator.is_accessible()

    operator.go("/rejects")
    refused = operator.page.get_by_role("link", name=source)
    hub.wait_for(lambda: bool(refused.count() or operator.page.reload() is None))
    refused.click()
    operator.sees("bad-value")
    operator.is_accessible()
    operator.picture("report")
    operator.go("/producers")
    operator.page.get_by_role("row", name=source).get_by_text("Active").wait_for()
    operator.is_accessible()
    operator.picture("producers")


def test_a_record_is_found_by_keyboard_and_what_is_no_id_is_told(enter: Enter) -> None:
    page = enter("operator").go("/records")
    page.get_by_label("The hub’s id of the record").focus()
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


@pytest.mark.parametrize(("language", "said"), [("en-GB", "Producers"), ("fr-FR", "Producteurs")])
@pytest.mark.parametrize("scheme", ["light", "dark"])
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
    """As services decide: the console only leads people to pages that are for them."""
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
    officer.go("/rejects")
    officer.sees("This is for: operator.")


def test_the_flow_is_a_live_picture_that_can_be_replayed(hub: Hub, enter: Enter, observation: Make) -> None:
    source = hub.source()
    hub.send(source, [observation(source, f"f{number}", number) for number in range(300)])
    operator = enter("operator")
    operator.go("/flow")
    access = operator.page.locator(".stage", has=operator.page.get_by_role("heading", name="Access"))
    rates = operator.page.locator(".stage strong")
    hub.wait_for(lambda: all(float(one) > 0 for one in rates.all_inner_texts()))
    assert access.get_by_text("Since accepted").is_visible()
    operator.page.locator("#chart canvas").wait_for()
    operator.is_accessible()
    operator.picture("flow")
    operator.choose("Producer", source)
    operator.press("Show")
    operator.page.wait_for_url("**/flow?source=*")
    operator.page.locator("#chart canvas").wait_for()
    operator.page.get_by_role("slider").fill("-3000")
    operator.sees("The minute before")
    assert set(rates.all_inner_texts()) == {"0.0"}
    operator.press("Replay")
    assert operator.page.get_by_role("button", name="Replay").get_attribute("aria-pressed") == "true"
    slider = operator.page.get_by_role("slider")
    hub.wait_for(lambda: int(slider.input_value()) > -2990)
    operator.press("Replay")
    operator.is_accessible()
