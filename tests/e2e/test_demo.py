"""The README's first command, and the promise behind it: no identity anywhere, in any form."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from confluent_kafka import Producer
from playwright.sync_api import Browser

from estuaire.database import start_database
from estuaire.platform import Platform
from estuaire.sample import sample
from runtime.kafka import producer_config
from services.console.menu import MENU
from tests.browser import PHONE
from tests.crawl import pages
from tests.e2e.conftest import sign_in
from tests.e2e.test_console_stewards import mothers_and_newborns
from tests.hub import Hub, content, free_base_port
from tests.search import Hit, Search

pytestmark = pytest.mark.e2e

SYNTHEA = Path(__file__).parents[3] / "shared" / "data" / "synthea"
CLINICAL = {
    "Encounter",
    "Condition",
    "Observation",
    "Procedure",
    "Immunization",
    "MedicationRequest",
    "Claim",
    "ExplanationOfBenefit",
    "DiagnosticReport",
}


def demo(home: Path, *arguments: str) -> dict[str, Any]:
    """Run `estuaire demo --once --json` and read its last line."""
    command = [
        sys.executable,
        "-m",
        "estuaire",
        "demo",
        "--once",
        "--json",
        "--port",
        str(free_base_port()),
        *arguments,
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "ESTUAIRE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["sent"] == result["accepted"] + result["rejected"]
    assert result["accepted"] == result["linked"] + result["duplicates"] + result["dead_lettered"]
    return result


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the demo has run once."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def result(home: Path) -> dict[str, Any]:
    return demo(home)


def test_the_numbers_add_up_and_are_those_of_the_sample(result: dict[str, Any]) -> None:
    events = list(sample())
    people = {one.person for one in events}
    assert result["sent"] == len(events) >= 5000
    assert result["rejected"] == sum(not one.accepted for one in events)
    assert result["duplicates"] > 0
    assert result["dead_lettered"] > 0
    assert result["patients"] == len(people) >= 500
    assert all(count > 0 for count in result["views"].values())


@pytest.mark.long
def test_a_second_demo_changes_nothing(home: Path, result: dict[str, Any]) -> None:
    again = demo(home)
    assert again["linked"] == 0
    assert again["patients"] == result["patients"]
    assert again["views"] == result["views"]


@pytest.mark.skipif(not SYNTHEA.is_dir(), reason="the reference data are not beside this checkout")
@pytest.mark.long
def test_every_clinical_resource_arrives_with_its_patient(tmp_path: Path) -> None:
    bundles = [json.loads(path.read_bytes()) for path in sorted(SYNTHEA.glob("*.json"))]
    kinds = [entry["resource"]["resourceType"] for bundle in bundles for entry in bundle["entry"]]
    result = demo(tmp_path, "--records", str(SYNTHEA))
    assert result["patients"] == len(bundles) == 6
    assert result["rejected"] == 0
    assert result["views"]["parcours-national"] == sum(kind in CLINICAL for kind in kinds)


@dataclass
class Seen:
    """A platform with something on every page, and what each person sees on those that they can get to."""

    platform: Platform
    pages: dict[str, list[tuple[str, bytes]]]
    end: Callable[[], None]


@pytest.fixture(scope="module")
def seen(home: Path, result: dict[str, Any], observation: Callable[..., Any]) -> Iterator[Seen]:
    assert result["accepted"]
    with ExitStack() as stack:
        platform = stack.enter_context(Platform(home, free_base_port(), report=lambda _line: None))
        _ask_and_apply(platform)
        mothers_and_newborns(Hub(platform), observation, 1)
        found = {name: list(pages(platform, name, role)) for name, role in PEOPLE.items()}
        yield Seen(platform, found, stack.close)


@pytest.mark.long
def test_every_kind_of_page_is_accessible_in_french_in_the_dark_on_a_phone(seen: Seen, browser: Browser) -> None:
    """What each of them is about, tests of their own say."""
    left = {kind: pattern for kind, pattern in KINDS.items() if kind not in NO_PAGES}
    for name, role in PEOPLE.items():
        person = sign_in(browser, Hub(seen.platform), name, role, language="fr-FR", scheme="dark", size=PHONE)
        for place, _ in seen.pages[name]:
            mine = [kind for kind, pattern in left.items() if re.fullmatch(pattern, place)]
            if mine:
                page = person.go(place)
                assert page.locator("html").get_attribute("lang") == "fr"
                person.is_accessible()
                left = {kind: pattern for kind, pattern in left.items() if kind not in mine}
        person.leave()
    assert not left


def test_no_identity_is_anywhere(home: Path, seen: Seen) -> None:
    search = Search([NIR_OF_TWO, *(string for one in sample() for string in one.planted)])
    assert len(search.needles) > 1000
    hits: list[Hit] = []
    hub = Hub(seen.platform)
    for topic in hub.topics():
        hits += search.bytes(topic, content(hub.messages(topic)))
    kinds: Counter[str] = Counter()
    for place, data in [*itertools.chain(*seen.pages.values()), *_refusals(seen.platform)]:
        kinds.update(kind for kind, pattern in KINDS.items() if re.fullmatch(pattern, place))
        hits += search.bytes(place, data)
    seen.end()
    # the logs, too, of all that was asked for here
    hits += search.folder(home)
    assert kinds.keys() == KINDS.keys()
    assert not hits, {(hit.place, hit.form) for hit in hits}


KINDS = {one.path: re.escape(one.path) for one in MENU} | {
    "a record": r"/records\?event_id=[0-9a-f]{32}",
    "dead letters of a reason": r"/rejects/\w+\?topic=.*",
    "the report on a producer": r"/producers/report\?source=.*",
    "the last hour as figures": r"/flow/series\?.*",
    "a project": r"/projects/[\w-]+",
    "an act on a project": r"/projects/[\w-]+/acts/[\w-]+",
    "a request": r"/requests/[0-9a-f]{32}",
    "an act on a request": r"/requests/[0-9a-f]{32}/\w+(\?.*)?",
    "a pair": r"/reviews/[0-9a-f-]{65}(\?.*)?",
    "an entry of the audit log": r"/audit/\d+",
    "the audit log as a file": r"/audit/export\?.*",
    "the end of a permit": r"/permits/[\w-]+/close",
    "an entry of the catalogue": r"/catalogue/.+",
    "what a form comes to": r"POST /.*",
    "what a role may not see": r"403 /.*",
    "what is not there": r"404 /.*",
    "what ingest refuses": r"/v1/\w+",
}
"""The pages that have to be gone through, by their addresses."""
NO_PAGES = {
    "the last hour as figures",
    "the audit log as a file",
    "what a form comes to",
    "what a role may not see",
    "what is not there",
    "what ingest refuses",
}
"""Those that are none, or that a test of their own looks at."""
NIR_OF_TWO = "2850535238000"
"""That of the mother and the newborn who are a doubtful pair."""
PEOPLE = {
    "operator": "operator",
    "officer": "officer",
    "steward": "steward",
    "auditor": "auditor",
    "reviewer": "reviewer",
    "team-cardio": "subscriber",
}


def _ask_and_apply(platform: Platform) -> None:
    """A person asks for what is held of them, and somebody applies with a project, so that there are pages of both."""
    hub, one = Hub(platform), next(one for one in sample() if one.accepted)
    data: Any = one.event["data"]
    asks = {"id": "access-1", "kind": "access", "received": "2026-11-02", "identity": data["identity"]}
    with hub.producer(one.source) as producer:
        id_of = producer.ask(asks).accepted[0]["event_id"]
    application = {
        "id": "hearts",
        "title": "Hearts",
        "summary": "Hearts",
        "organisation": {"name": "Santé publique France", "kind": "public-body"},
        "purposes": ["surveillance"],
        "public_interest": "Fewer of them.",
    }
    headers = {"Authorization": f"Bearer {platform.keyring.token('team-cardio', 'subscriber')}"}
    applied = httpx.post(f"{platform.access_url}/v1/projects", json=application, headers=headers, timeout=30)
    assert applied.status_code == httpx.codes.CREATED
    hub.wait_for(lambda: id_of in hub.get("/v1/requests", "officers", "officer").text)


def _refusals(platform: Platform) -> Iterator[tuple[str, bytes]]:
    """What ingest says to who sends what it refuses, one by one and as something else than it is."""
    for one in sample():
        if not one.accepted:
            token = platform.keyring.producer_token(one.source)
            for path in ("/v1/events", "/v1/fhir", "/v1/oppositions"):
                headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/cloudevents+json"}
                answer = httpx.post(platform.ingest_url + path, json=one.event, headers=headers, timeout=30)
                assert answer.is_client_error, answer.status_code
                yield path, answer.content


@pytest.mark.long
def test_the_search_finds_what_is_planted_in_each_kind_of_file(home: Path, result: dict[str, Any]) -> None:
    assert result["accepted"]
    planted = "PLANTED-KERGUELEN-DE-TREMAREC"
    with Platform(home, free_base_port(), report=lambda _line: None) as platform:
        producer = Producer(producer_config(platform.settings()) | {"compression.type": "none"})
        producer.produce("audit", planted.encode())
        assert producer.flush(30) == 0
    with start_database(home, report=lambda _line: None) as database, psycopg.connect(database.url("access")) as access:
        access.execute("CREATE TABLE planted (name text)")
        access.execute("INSERT INTO planted VALUES (%s)", [planted])
    with (home / "logs" / "ingest.log").open("a") as log:
        log.write(f"{planted}\n")
    places = {_kind(home, hit) for hit in Search([planted]).folder(home)}
    assert {"kafka", "postgres", "logs"} <= places


def _kind(home: Path, hit: Hit) -> str:
    return Path(hit.place).relative_to(home).parts[0]
