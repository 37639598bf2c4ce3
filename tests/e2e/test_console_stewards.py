"""Stewards, officers and auditors in a real browser, on the real platform: doubtful links, requests, the audit log."""

from __future__ import annotations

import datetime as dt
import logging
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from estuaire.console import links_folder
from runtime.kafka import KafkaPublisher
from runtime.oidc import Issuer, Role
from services.console.adapters import HttpHub, Links
from services.console.routes import application as console
from services.console.sessions import Sessions
from services.console.visits import Desk
from services.linkage.lookup import SqlLookup
from services.linkage.routes import Doors
from services.linkage.routes import application as linkage
from services.linkage.settings import LinkageSettings
from services.linkage.stewardship import Stewardship
from tests.browser import PHONE
from tests.e2e.conftest import Enter
from tests.hub import Hub

pytestmark = pytest.mark.e2e

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parents[2] / "examples" / "life_of_a_project"
MANY = 112
"""Doubtful pairs: a hundred are decided by keyboard, and some are left."""
Make = Callable[..., dict[str, Any]]


@contextmanager
def served(app: FastAPI, listening: socket.socket) -> Iterator[None]:
    """An application that listens."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = Thread(target=server.run, args=[[listening]])
    thread.start()
    yield
    server.should_exit = True
    thread.join()


def listening() -> tuple[socket.socket, str]:
    made = socket.create_server(("127.0.0.1", 0))
    return made, f"http://127.0.0.1:{made.getsockname()[1]}"


@pytest.fixture
def four_eyes(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a console whose linkage asks for two stewards, over the platform's index and log."""
    for name, value in hub.platform.services["linkage"].environment.items():
        monkeypatch.setenv(name, value)
    settings = LinkageSettings()
    with ExitStack() as stack:
        issuer = Issuer(settings)
        lookup = stack.enter_context(closing(SqlLookup(settings.database_url.get_secret_value())))
        lookup.open()
        publisher = KafkaPublisher(settings)
        stewardship = Stewardship(lookup, publisher, True, lambda: dt.datetime.now(dt.UTC))
        doors = Doors(Role(issuer, "operator"), Role(issuer, "steward"))
        of_linkage, address = listening()
        app = linkage(lambda: None, lookup, stewardship, publisher, doors, lambda one, _two: one)
        stack.enter_context(served(app, of_linkage))
        of_console, url = listening()
        asks = stack.enter_context(closing(HttpHub({"linkage": address})))
        desk = Desk(asks, Sessions(None), issuer, Links(links_folder(hub.platform.home)), url)
        stack.enter_context(served(console(desk), of_console))
        yield url


def mothers_and_newborns(hub: Hub, observation: Make, count: int, first: int = 0) -> str:
    """Newborns who came with their mothers' numbers: so many pairs that a steward has to settle."""
    source, events = hub.source(), []
    for number in range(first, first + count):
        nir = {"system": "ins-nir", "value": f"2850535238{number:03}"}
        mother: dict[str, Any] = {
            "birth_family_name": f"LE GOFF{number}",
            "given_names": ["Anne"],
            "birth_date": "1985-05-12",
        }
        child: dict[str, Any] = {
            "birth_family_name": f"LE GOFF{number}",
            "given_names": ["Lou"],
            "birth_date": "2026-01-02",
        }
        for name, known in (("m", mother), ("n", child)):
            event = observation(source, f"{name}{number}", number)
            known |= {"sex": "female", "identifiers": [nir], "identity_status": "qualified"}
            event["data"]["identity"] = known
            events.append(event)
    hub.send(source, events)
    return source


def alike(hub: Hub, observation: Make) -> None:
    """Two hospitals' records that may be of one person, by their traits alone."""
    traits = {"birth_family_name": "KERVELLA", "used_family_name": "MARTIN", "sex": "female", "birth_place": "35238"}
    home = {"residence": {"address": "12 rue du Port", "city": "Saint-Malo", "postcode": "35400", "commune": "35288"}}
    one = {**traits, "given_names": ["Maelle"], "birth_date": "1985-05-12", **home}
    other = {**traits, "given_names": ["Maelys"], "birth_date": "1985-12-05", **home}
    for known, number in ((one, "9001"), (other, "9002")):
        source = hub.source()
        event = observation(source, "alike", int(number))
        event["data"]["identity"] = {
            **known,
            "identifiers": [{"system": "ipp", "assigner": source, "value": f"IPP{number}"}],
        }
        hub.send(source, [event])


def waiting(hub: Hub, name: str = "sam") -> list[dict[str, Any]]:
    """The pairs that wait for a steward."""
    found: list[dict[str, Any]] = hub.get("/v1/reviews", "stewards", name, service="linkage", limit=100).json()[
        "reviews"
    ]
    return found


def test_a_steward_settles_a_hundred_pairs_by_keyboard(hub: Hub, enter: Enter, observation: Make) -> None:
    alike(hub, observation)
    (scored,) = (one for one in waiting(hub) if one["weight"] is not None)
    mothers_and_newborns(hub, observation, MANY)
    steward = enter("sam", "steward")
    steward.go("/reviews")
    steward.is_accessible()
    steward.picture("reviews", whole=False)
    page = steward.go(f"/reviews/{scored['id']}")
    steward.is_accessible()
    steward.picture("pair")
    for word in ("KERVELLA", "MARTIN", "Maelle", "Maelys", "IPP9001", "1985-05-12", "rue du Port", "Saint-Malo"):
        assert word not in page.content()
    # a pair is addressed by the ids that linkage alone has of its two: forms are sent there, no text has them
    told = re.sub(r'(?:action|hx-post|href|value)="[^"]*"', "", page.content())
    assert not [side for side in ("left", "right") if scored[side]["subject_id"] in told]

    steward.go("/reviews")
    steward.tab_to("Begin with the first")
    page.keyboard.press("Enter")
    page.locator("h1:focus").wait_for()  # whoever cannot see it hears the question
    left = int(page.get_by_text("Pairs left:").inner_text().split()[-1].rstrip("+"))
    began = time.monotonic()
    for number in range(100):
        seen = page.locator(".decide form").first.get_attribute("action")
        page.keyboard.press("ssslsssslu"[number % 10])
        page.wait_for_function(
            "seen => document.querySelector('.decide form').getAttribute('action') !== seen", arg=seen
        )
        page.locator("h1:focus").wait_for()
    log.warning("a hundred decisions by keyboard: %.1f s", time.monotonic() - began)
    steward.sees("Done today: 100")
    steward.sees(f"Pairs left: {left - 100}")
    steward.is_accessible()

    last = page.locator("[name=pair]").get_attribute("value")
    page.keyboard.press("z")
    steward.sees("Taken back.")
    assert page.locator("form[action^='/reviews/']").first.get_attribute("action") == f"/reviews/{last}"
    steward.sees("Done today: 99")
    page.locator("h1:focus").wait_for()  # or it would be taken from the button
    page.get_by_role("button", name="Separate").focus()
    page.keyboard.press("Enter")
    steward.sees("Separated.")
    page.locator("h1:focus").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.value") == "together", "from the question, Tab leads to the answers"

    steward.press("Turn the keys off")
    page.get_by_role("button", name="Turn the keys on").wait_for()
    page.keyboard.press("s")
    page.keyboard.press("l")
    steward.sees("Done today: 100")
    assert not page.locator("[data-key]").count()
    hub.wait_for(lambda: not {one["id"] for one in waiting(hub, "nobody")} & {last})


def test_a_pair_that_others_settle_or_linkage_sees_anew_is_said_to_be(
    hub: Hub, enter: Enter, observation: Make
) -> None:
    mothers_and_newborns(hub, observation, 4, first=300)
    one, other = enter("one", "steward"), enter("other", "steward")
    one.go("/reviews/next")
    other.go("/reviews/next")
    pairs = [person.page.locator(".decide form").first.get_attribute("action") for person in (one, other)]
    assert pairs[0] != pairs[1], "two who work at once are not given the same pair"
    other.go(str(pairs[0]))
    one.press("Separate")
    one.sees("Separated.")
    other.press("Link")
    other.sees("Others had separated that pair meanwhile.")
    other.is_accessible()
    assert other.page.locator(".decide form").first.get_attribute("action") not in (None, pairs[0])


def test_with_four_eyes_a_second_steward_decides_without_having_seen_what_the_first_said(
    hub: Hub, enter: Enter, observation: Make, four_eyes: str
) -> None:
    mothers_and_newborns(hub, observation, 2, first=400)
    first, second = enter("first", "steward", four_eyes), enter("second", "steward", four_eyes)
    first.go("/reviews/next")
    pair = str(first.page.locator(".decide form").first.get_attribute("action"))
    first.press("Separate")
    first.sees("it is in force when a second steward says the same")
    first.go("/reviews?which=mine")
    assert first.page.locator(f"a[href^='{pair}?']").is_visible()
    second.go("/reviews?which=second")
    second.is_accessible()
    second.picture("reviews-four-eyes")
    second.page.locator(f"a[href^='{pair}?']").click()
    second.sees("yours is the second word")
    assert "first" not in second.page.locator("#why").inner_text().lower().split()
    second.picture("pair-second-look")
    second.is_accessible()
    second.press("Separate")
    second.sees("Separated.")
    id_of = pair.rpartition("/")[2]

    def decided() -> bool:
        word = hub.get(f"/v1/reviews/{id_of}", "stewards", "sam", service="linkage").json()["word"]
        return bool(word) and (word["decision"], word["steward"], word["second"]) == ("apart", "first", "second")

    hub.wait_for(decided)


@pytest.mark.parametrize(
    ("language", "said"), [pytest.param("en-GB", "Doubtful links", marks=pytest.mark.long), ("fr-FR", "Liens douteux")]
)
@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.long), "dark"])
def test_the_pages_of_stewards_are_accessible_in_both_languages_light_and_dark_on_a_desk_and_on_a_phone(
    hub: Hub, enter: Enter, observation: Make, language: str, scheme: str, said: str
) -> None:
    if not waiting(hub):
        mothers_and_newborns(hub, observation, 2, first=500)
    phone = scheme == "dark"
    person = enter("sam", "steward", language=language, scheme=scheme, **({"size": PHONE} if phone else {}))
    for path in ("/reviews", "/reviews/next", "/reviews?which=mine"):
        page = person.go(path)
        assert page.get_by_role("navigation").first.get_by_role("link", name=said).is_visible()
        person.is_accessible()
        if language == "fr-FR" and path == "/reviews/next":
            person.picture(f"{'phone' if phone else 'french'}-pair", whole=not phone)


def test_an_officer_answers_and_erases_by_these_pages(hub: Hub, enter: Enter, observation: Make) -> None:
    source = hub.source()
    hub.permit(source, title="Falls at home")
    hub.send(source, [observation(source, f"r{number}", 1) for number in range(4)])
    identity = observation(source, "x", 1)["data"]["identity"]
    ids = {}
    with hub.producer(source) as producer:
        for kind in ("access", "erasure"):
            asking = {"id": f"{kind}-1", "kind": kind, "received": "2026-11-02", "identity": identity}
            ids[kind] = producer.ask(asking).accepted[0]["event_id"]
    officer = enter("olga", "officer")
    page = officer.page
    hub.wait_for(lambda: bool(officer.go("/requests").locator(f"a[href='/requests/{ids['erasure']}']").count()))
    officer.is_accessible()
    officer.picture("requests")

    officer.go(f"/requests/{ids['access']}")
    officer.sees("Falls at home")
    officer.follow("Record the answer")
    officer.is_accessible()
    page.get_by_label("Read it off a file").set_input_files(FOLDER / "paper.txt")
    page.wait_for_function("() => document.querySelector('[name$=\".sha256\"]').value.length === 64")
    officer.press("Record the answer")
    officer.sees("Done: Record the answer.")

    officer.go(f"/requests/{ids['erasure']}")
    officer.is_accessible()
    officer.picture("request-of-a-person")
    officer.follow("Erase the person")
    hub.send(source, [observation(source, "late", 1)])
    with officer.expects(f"422 at /requests/{ids['erasure']}/erase"):
        officer.press("Erase the person")
        officer.sees("something else is held by now")
    officer.is_accessible()
    officer.follow("Cancel")
    officer.follow("Erase the person")
    officer.picture("erase")
    officer.press("Erase the person")
    officer.sees("Records erased:")
    officer.sees("No record is held.")
    assert not page.get_by_role("link", name="Refuse").count()


def test_an_auditor_finds_an_entry_and_sees_it_proven(
    hub: Hub, enter: Enter, observation: Make, tmp_path: Path
) -> None:
    source = hub.source()
    permit = hub.permit(source, title="Hearts")
    hub.send(source, [observation(source, f"a{number}", number) for number in range(3)])
    auditor = enter("ines", "auditor")
    page = auditor.page

    def found() -> bool:
        auditor.go(f"/audit?permit={permit.id}")
        return page.locator("table").get_by_text("records released").count() > 0

    hub.wait_for(found)
    auditor.go("/audit")
    auditor.is_accessible()
    auditor.picture("audit", whole=False)
    auditor.write("Permit", permit.id)
    auditor.choose("Did", "permit granted")
    auditor.press("Search")
    page.wait_for_url("**action=permit-granted**")
    page.get_by_role("row").nth(1).wait_for()
    hub.wait_for(lambda: page.get_by_role("row").count() == 2)
    for form, holds in (("CSV", f",permit-granted,{permit.id},"), ("NDJSON", '"action":"permit-granted"')):
        with page.expect_download() as download:
            page.get_by_role("link", name=form, exact=True).click()
        download.value.save_as(tmp_path / form)
        assert holds in (tmp_path / form).read_text()
    entry = page.get_by_role("row").nth(1).get_by_role("link")
    path = str(entry.get_attribute("href"))

    def proven() -> bool:
        return "is in the log that was signed" in auditor.go(path).locator("main").inner_text()

    hub.wait_for(proven)
    auditor.is_accessible()
    auditor.picture("audit-entry")
    with auditor.expects("422 at /audit", "404 at /audit/99999999"):
        auditor.go("/audit?permit=No+such")
        assert page.get_by_role("alert").inner_text()
        assert auditor.go("/audit/99999999").get_by_text("There is no such entry.").is_visible()


@pytest.mark.parametrize("language", [pytest.param("en-GB", marks=pytest.mark.long), "fr-FR"])
@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.long), "dark"])
def test_the_pages_of_officers_and_auditors_are_accessible_on_a_phone_too(
    hub: Hub, enter: Enter, language: str, scheme: str
) -> None:
    def logged() -> bool:
        return bool(hub.get("/v1/entries", "auditors", "ines", service="audit", limit=1).json()["entries"])

    if not logged():
        hub.permit(hub.source())
        hub.wait_for(logged)
    options: dict[str, Any] = {"language": language, "scheme": scheme, "size": PHONE}
    for name, role, paths in (
        ("olga", "officer", ("/requests?all=true",)),
        ("ines", "auditor", ("/audit", "/audit/0")),
    ):
        person = enter(name, role, **options)
        for path in paths:
            page = person.go(path)
            assert page.locator("html").get_attribute("lang") == language[:2]
            person.is_accessible()
            if language == "fr-FR" and path == "/audit" and scheme == "dark":
                person.picture("phone-audit", whole=False)
