"""The operators' pages in a real browser: from what was rejected to the record, and to the producer that sent it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

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
    operator.page.wait_for_function(f"document.body.textContent.includes('{source}')") if not row.count() else None
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


PAGES = ("/rejects", "/records", "/producers", "/rejects/linkage?topic=records-pseudonymised-dlq&reason=conflict")


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
        if language == "fr-FR" and path in ("/rejects", "/producers"):
            operator.picture(f"{'phone' if phone else 'french'}-{path.strip('/')}")


def test_who_is_no_operator_is_told_so(enter: Enter) -> None:
    officer = enter("officer")
    for path in PAGES[:1]:
        officer.go(path)
        officer.sees("This is for: operator.")
