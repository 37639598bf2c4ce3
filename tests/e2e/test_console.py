"""The console in a real browser: a project's whole life by its pages alone, on the real platform."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from playwright.sync_api import Browser

from contracts.projects import ACTS, OF_PROJECTS
from services.console.wording import Words
from tests.browser import PHONE, Person
from tests.commands import estuaire
from tests.e2e.conftest import Enter
from tests.hub import Hub

pytestmark = pytest.mark.e2e

FOLDER = Path(__file__).parents[2] / "examples" / "life_of_a_project"
TITLE = "Life after a transplant"
PROJECT, CALL, SOURCE = "hearts", "call-of-the-console", "urn:estuaire:producer:chu-rennes"


def document(name: str) -> dict[str, object]:
    found: dict[str, object] = yaml.load((FOLDER / f"{name}.yaml").read_text(), yaml.BaseLoader)
    return found


def paper(person: Person, what: str = "Paper") -> None:
    """Have a paper read off its file, which the browser keeps."""
    person.page.get_by_label("Read it off a file").set_input_files(FOLDER / "paper.txt")
    person.page.wait_for_function("() => document.querySelector('[name$=\".sha256\"]').value.length === 64")


def act(person: Person, name: str) -> None:
    """Go to the form of an act that comes next."""
    page = person.go(f"/projects/{PROJECT}")
    if not page.get_by_role("link", name=name, exact=True).count():
        page.get_by_text("Other acts").click()
    person.follow(name)
    page.wait_for_url(f"**/projects/{PROJECT}/acts/**")
    person.is_accessible()


def done(person: Person, name: str) -> None:
    """Send the form, and be told that it is done."""
    person.press(name)
    person.sees(f"Done: {name}.")


def permit() -> str:
    request = yaml.safe_load((FOLDER / "request.yaml").read_text())
    wanted = request["permit"] | {"id": PROJECT, "title": TITLE, "purpose": TITLE, "subscribers": ["team-hearts"]}
    return yaml.safe_dump(wanted, allow_unicode=True, sort_keys=False)


@pytest.mark.long
def test_a_project_goes_from_its_call_to_its_first_record_and_to_its_end_in_the_browser(
    hub: Hub, enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FOLDER)
    estuaire(hub, "send", "stay.ndjson", "--source", SOURCE)
    officer, lead = enter("officer"), enter("team-hearts")
    _announce(officer)
    _apply(lead)
    for name in ("reviewer-1", "reviewer-2"):
        _review(enter(name))

    act(officer, "Choose")
    officer.write("Reason", "First of its theme.")
    done(officer, "Choose")

    act(lead, "Request the permit")
    lead.choose("Path", "Decision of the authority")
    paper(lead)
    lead.write("Permit", permit().replace("environment:", "environs:"))
    with lead.expects(f"422 at /projects/{PROJECT}/acts/request"):
        lead.press("Request the permit")
        lead.sees("no clause has this name")
    assert lead.page.evaluate("document.activeElement.id") == "wrong", "whoever cannot see it hears it"
    assert lead.page.get_by_label("Permit", exact=True).get_attribute("aria-invalid") == "true"
    lead.is_accessible()
    lead.picture("request")
    lead.write("Permit", permit())
    done(lead, "Request the permit")

    officer.go(f"/projects/{PROJECT}")
    officer.press("Try it")
    officer.sees("Volumes by type")
    officer.is_accessible()
    officer.picture("project")
    for name, title in (("falls", "Falls at home"), ("sepsis", "Sepsis after surgery")):
        _applied(hub, name, title)
    officer.go("/projects")
    officer.sees("Completeness check")
    officer.is_accessible()
    officer.picture("board")

    _find_complete_by_keyboard(officer)
    act(officer, "Record the opinion")
    officer.choose("Opinion", "Favourable, with recommendations")
    paper(officer)
    done(officer, "Record the opinion")
    act(officer, "Record the authorisation")
    officer.write("Reference", "DR-2026-042")
    paper(officer)
    done(officer, "Record the authorisation")
    act(officer, "Sign the agreement")
    paper(officer)
    done(officer, "Sign the agreement")
    act(officer, "Open the view")
    done(officer, "Open the view")

    officer.go("/permits")
    row = officer.page.locator(f"#p-{PROJECT}")
    row.get_by_text("open", exact=True).wait_for()
    officer.page.wait_for_function(
        f"() => document.querySelector('#p-{PROJECT} [data-label=Records]').textContent.trim() === '1'"
    ) if int(row.locator("[data-label=Records]").inner_text()) == 0 else None
    officer.is_accessible()
    officer.picture("permits")
    timelines = hub.get(f"/v1/permits/{PROJECT}/timelines", "subscribers", "team-hearts")
    assert '"entry":"2026-02-20"' in timelines.text

    act(lead, "Ask to take an output out")
    lead.choose("Kind", "Table")
    paper(lead)
    lead.write("Description", "Stays by year.")
    lead.write("People in the smallest cell (optional)", "9")
    with lead.expects(f"422 at /projects/{PROJECT}/acts/ask-output"):
        lead.press("Ask to take an output out")
        lead.sees("group or withhold what stands for fewer than 11")
    lead.write("People in the smallest cell (optional)", "11")
    done(lead, "Ask to take an output out")
    act(officer, "Check an output")
    officer.choose("Output", "paper.txt")
    officer.choose("Decision", "It leaves")
    officer.write("Reason", "Nobody is alone in it.")
    done(officer, "Check an output")
    officer.sees("paper.txt (Table): It leaves")

    act(officer, "Close")
    officer.press("Add another")
    officer.choose("Kind", "Code list")
    officer.write("Title", "Codes of hearts")
    officer.write("Description", "Codes of what transplants are for, and of what goes wrong.")
    officer.picture("close")
    done(officer, "Close")
    officer.go("/catalogue")
    officer.write("Words to look for", "codes of hearts")
    officer.page.get_by_role("link", name="Codes of hearts").wait_for()
    officer.sees("Entries: 1")
    officer.go("/catalogue")
    officer.picture("catalogue")
    told = hub.get(f"/v1/projects/{PROJECT}", "officers", "officer").json()
    assert [(one["act"], one["actor"]) for one in told["steps"]] == [
        ("apply", "team-hearts"),
        ("review", "reviewer-1"),
        ("review", "reviewer-2"),
        ("choose", "officer"),
        ("request", "team-hearts"),
        ("find-complete", "officer"),
        ("give-opinion", "officer"),
        ("authorise", "officer"),
        ("sign", "officer"),
        ("open", "officer"),
        ("ask-output", "team-hearts"),
        ("check-output", "officer"),
        ("close", "officer"),
    ]


def _announce(officer: Person) -> None:
    call = document("call")
    officer.go("/calls")
    officer.follow("Announce a call")
    officer.is_accessible()
    officer.write("Short name", CALL)
    officer.write("Title", "First call for projects")
    themes, criteria = call["themes"], call["criteria"]
    assert isinstance(themes, dict)
    assert isinstance(criteria, dict)
    for number, (name, title) in enumerate(themes.items()):
        group = officer.page.get_by_role("group", name=f"Themes {number + 1}", exact=True)
        if number:
            officer.page.get_by_role("group", name="Themes", exact=True).get_by_role("button").click()
        group.get_by_label("Short name").fill(name)
        group.get_by_label("Title").fill(title)
    for number, (name, one) in enumerate(criteria.items()):
        group = officer.page.get_by_role("group", name=f"Criteria {number + 1}", exact=True)
        if number:
            officer.page.get_by_role("group", name="Criteria", exact=True).get_by_role("button").click()
        group.get_by_label("Short name").fill(name)
        group.get_by_label("Title").fill(one["title"])
        group.get_by_label("Weight").fill(one.get("weight", ""))
    officer.write("Opens", str(call["opens"]))
    officer.write("Closes", str(call["closes"]))
    officer.write("Places", str(call["places"]))
    officer.picture("announce")
    officer.press("Announce a call")
    officer.sees("The call is announced.")
    officer.is_accessible()
    officer.picture("calls")


def _apply(lead: Person) -> None:
    lead.go("/calls")
    lead.page.locator("li.card", has_text=CALL).get_by_role("link", name="Apply with a project").click()
    lead.is_accessible()
    lead.write("Short name", PROJECT)
    lead.write("Title", TITLE)
    lead.write("Summary", "How people with a new heart are followed up in the two years after.")
    lead.write("Name", "CHU de Rennes")
    lead.choose("Kind", "Health establishment")
    lead.tick("Promotion of health products (forbidden)")
    lead.write("Public interest", "Fewer people who come back to hospital, whoever treats them.")
    lead.choose("Theme", "Research")
    with lead.expects("422 at /apply"):
        lead.press("Apply with a project")
        lead.sees("the purpose is forbidden")
    assert lead.page.get_by_label("Title", exact=True).input_value() == TITLE
    lead.page.get_by_label("Promotion of health products (forbidden)").uncheck()
    lead.tick("Research, studies, evaluation")
    lead.picture("apply")
    done(lead, "Apply with a project")


def _applied(hub: Hub, name: str, title: str, **of_call: str) -> None:
    """Another project, of no call if none is named."""
    application = {
        "id": name,
        "title": title,
        "summary": title,
        "organisation": {"name": "Santé publique France", "kind": "public-body"},
        "purposes": ["surveillance"],
        "public_interest": "Fewer of them.",
    }
    _sent(hub, "projects", application | of_call, "team-spf", "subscriber")


def _sent(hub: Hub, what: str, body: dict[str, Any], name: str, role: str) -> None:
    token = hub.platform.keyring.token(name, role)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    url = f"{hub.platform.access_url}/v1/{what}"
    answer = httpx.post(url, content=json.dumps(body, default=str), headers=headers, timeout=30)
    assert answer.status_code == httpx.codes.CREATED, answer.text


def _review(reviewer: Person) -> None:
    act(reviewer, "Review")
    for title in ("Maturity of the project", "Novelty", "Expected return", "Public interest"):
        reviewer.write(title, "4")
    reviewer.write("Contribution to the catalogue of data", "3")
    reviewer.write("Contribution to shared tools", "2")
    reviewer.write("Comment", "Sound, and useful beyond the hospital.")
    reviewer.tick("I have no conflict of interest with this project")
    reviewer.picture("review")
    done(reviewer, "Review")


def _find_complete_by_keyboard(officer: Person) -> None:
    """Nothing but keys: over the skip link to the content, and on with Tab."""
    page = officer.go("/projects")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    officer.tab_to(TITLE)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/projects/{PROJECT}")
    officer.tab_to("Find it complete")
    page.keyboard.press("Enter")
    page.wait_for_url("**/acts/find-complete")
    officer.tab_to("Find it complete", "BUTTON")
    page.keyboard.press("Enter")
    officer.sees("Done: Find it complete.")


PAGES = ("/projects", "/calls", "/calls/announce", "/permits", "/permits/try", "/catalogue", f"/catalogue/{SOURCE}")


@pytest.mark.parametrize(
    ("language", "said"), [pytest.param("en-GB", "Permits", marks=pytest.mark.long), ("fr-FR", "Autorisations")]
)
@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.long), "dark"])
def test_every_page_is_accessible_in_both_languages_light_and_dark_on_a_desk_and_on_a_phone(
    enter: Enter, language: str, said: str, scheme: str
) -> None:
    phone = scheme == "dark"
    officer = enter("officer", language=language, scheme=scheme, **({"size": PHONE} if phone else {}))
    with officer.expects("404 at /nowhere"):
        officer.go("/nowhere")
        officer.is_accessible()
    for path in (*PAGES, "/sign-in"):
        page = officer.go(path)
        assert page.get_by_role("navigation").first.get_by_role("link", name=said).is_visible()
        assert page.locator("html").get_attribute("lang") == language[:2]
        officer.is_accessible()
        if language == "fr-FR" and path in ("/permits", "/calls/announce"):
            officer.picture(f"{'phone' if phone else 'french'}-{path.strip('/').replace('/', '-')}")


def test_every_act_has_a_form_in_french_that_is_accessible_on_a_phone(hub: Hub, enter: Enter) -> None:
    call = yaml.safe_load((FOLDER / "call.yaml").read_text())
    _sent(hub, "calls", call | {"id": "call-of-forms"}, "officer", "officer")
    _applied(hub, "forms", "Forms", call="call-of-forms", theme=next(iter(call["themes"])))
    names = {"officer": "officer", "lead": "team-spf", "reviewer": "reviewer-1"}
    people = {role: enter(name, language="fr-FR", size=PHONE, scheme="dark") for role, name in names.items()}
    people["officer"].go("/projects/forms")
    people["officer"].is_accessible()
    for act in OF_PROJECTS:
        person = people[ACTS[act].role]
        page = person.go(f"/projects/forms/acts/{act}")
        assert page.get_by_role("heading", level=1).inner_text() == Words("fr")(f"act.{act}")
        person.is_accessible()


def test_a_permit_is_tried_and_what_is_wrong_with_it_is_said_beside_it(
    hub: Hub, enter: Enter, observation: Callable[..., dict[str, Any]]
) -> None:
    source = hub.source()
    events = [observation(source, f"e{number}", number % 90, value=number % 40) for number in range(240)]
    for number, event in enumerate(events):
        born = f"{1940 + number % 90 % 4 * 10}-05-{1 + number % 90 % 28:02}"
        event["data"]["identity"] |= {"sex": ("female", "male")[number % 90 % 7 > 3], "birth_date": born}
    hub.permit(source)
    hub.send(source, events)
    wide = yaml.safe_load(permit()) | {"sources": [source], "types": ["observation.v1", "diagnosis.v1"]}
    wide["fields"] = {"observation.v1": ["*"]}
    officer = enter("officer")
    officer.go("/permits/try")
    expires = "expires: 2035-12-31"
    for text, said in (
        ("id: [", "neither YAML nor JSON"),
        (permit().replace(expires, "expires: never"), "expires: "),
        (permit().replace(expires, "potential_identifiers: .nan"), "potential_identifiers: it is no number"),
    ):
        with officer.expects("422 at /permits/try"):
            officer.write("Permit", text)
            officer.press("Try it")
            officer.sees(said)
    officer.write("Permit", yaml.safe_dump(wide, sort_keys=False))
    officer.press("Try it")
    officer.sees("in the smallest cell")
    assert officer.page.get_by_role("row", name="observation.v1 240 90").is_visible()
    officer.is_accessible()
    officer.picture("try")


def test_the_language_is_switched_and_stays(enter: Enter) -> None:
    officer = enter("officer")
    officer.go("/calls")
    officer.follow("Français")
    officer.page.wait_for_url("**/calls")
    officer.sees("Appels à projets")
    officer.go("/permits")
    officer.sees("Autorisations")


def test_a_link_signs_in_once_and_who_is_out_comes_back_to_where_they_were(hub: Hub, browser: Browser) -> None:
    url = hub.platform.console_url
    link = estuaire(hub, "console", "team-hearts", "--role", "subscriber").stdout.strip()
    person = Person(browser, url)
    assert "/sign-in?back=%2Fpermits" in person.go("/permits").url
    person.is_accessible()
    person.picture("sign-in")
    person.go(link)
    person.sees("team-hearts")
    assert httpx.get(f"{link}", follow_redirects=False).headers["location"].startswith("/sign-in?why=used")
    assert person.go("/permits").get_by_role("heading", name="Permits", level=1).is_visible()
    person.press("Sign out")
    person.sees("This platform runs on one machine")

    person.go(estuaire(hub, "console", "team-hearts", "--role", "subscriber").stdout.strip())
    person.go("/apply")
    person.write("Short name", "too-late")
    person.page.context.clear_cookies()
    person.page.locator("form.document").evaluate("form => form.submit()")
    person.page.wait_for_url("**/sign-in?back=%2Fapply")
    person.sees("nothing was done")
    person.leave()
