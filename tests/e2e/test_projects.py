"""From a call for projects to the first record and to the end, by the commands of the example's README alone."""

from __future__ import annotations

import os
import re
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.commands import estuaire
from tests.hub import Hub

pytestmark = pytest.mark.e2e

FOLDER = Path(__file__).parents[2] / "examples" / "life_of_a_project"


def commands() -> list[list[str]]:
    """The commands of the README, without `uv run estuaire`."""
    blocks = re.findall(r"```sh\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert all(line[:3] == ["uv", "run", "estuaire"] for line in lines)
    return [line[3:] for line in lines]


def test_a_project_goes_from_its_call_to_its_first_record_and_to_its_end(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FOLDER)
    *before, subscribe, close = commands()
    assert (subscribe[0], close[3]) == ("subscribe", "close")
    for command in before:
        said = estuaire(hub, *command).stdout
        if command[:2] == ["project", "show"]:
            assert "reviewer-1" in said
            assert "no_conflict_of_interest: true" in said
    hub.wait_for(lambda: state(hub) == "open")
    hub.wait_for(lambda: '"entry": "2026-02-20"' in estuaire(hub, *subscribe).stdout)
    told = hub.get("/v1/projects/heart-paths", "officers", "officer").json()
    acts = [one["act"] for one in told["steps"]]
    assert acts == [
        one[1] if one[1] == "apply" else one[3]
        for one in before
        if one[0] == "project" and one[1] not in ("list", "show")
    ]
    assert (told["standing"], told["selection"], told["permit"]) == ("open", "chosen", "heart-paths")
    assert "heart-paths" not in hub.get("/v1/projects", "subscribers", "another-team").text
    as_reviewer = estuaire(hub, "project", "show", "heart-paths", "--as", "reviewer-1").stdout
    assert as_reviewer.count("scores:") == 1
    assert "heart-paths" in estuaire(hub, "project", "list", "--as", "team-heart").stdout
    refused = estuaire(hub, "project", "do", "heart-paths", "sign", "--paper", "paper.txt", expect=1).stderr
    assert "the project is open" in refused
    estuaire(hub, *close)
    hub.wait_for(lambda: state(hub) == "closed")
    given = httpx.get(f"{hub.platform.access_url}/v1/catalogue", params={"q": "heart failure"}).json()["dcat:resource"]
    assert [one["dct:title"] for one in given] == ["Codes of heart failure"]
    page = hub.get("/v1/permits/heart-paths/timelines", "subscribers", "team-heart")
    assert page.status_code == 403


def state(hub: Hub) -> str:
    permits = hub.get("/v1/permits", "officers", "officer").json()["permits"]
    found: str = next(one["state"] for one in permits if one["id"] == "heart-paths")
    return found


def test_of_two_officers_at_one_moment_one_is_told(hub: Hub) -> None:
    def post(path: str, role: str, name: str, body: dict[str, Any]) -> httpx.Response:
        token = hub.platform.keyring.token(name, role.removesuffix("s"))
        url = f"{hub.platform.access_url}/v1/projects{path}"
        return httpx.post(url, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=30)

    number = os.getpid()
    name = f"race-{number}"
    application = {
        "id": name,
        "title": "A race",
        "summary": "Two at once.",
        "organisation": {"name": "Santé publique France", "kind": "public-body"},
        "purposes": ["surveillance"],
        "public_interest": "None.",
    }
    assert post("", "subscribers", "team-race", application).status_code == 201
    assert post("", "subscribers", "another-team", application).status_code == 409
    permit = {
        "id": name,
        "title": "A race",
        "purpose": "Tests",
        "sources": ["*"],
        "types": ["death.v1"],
        "environment": "A bubble",
        "expires": "2035-12-31",
        "subscribers": ["team-race"],
    }
    paper = {"title": "p", "date": "2026-01-01", "sha256": "0" * 64}
    request = {"path": "permanent", "permit": permit, "protocol": paper}
    assert post(f"/{name}/request", "subscribers", "another-team", request).status_code == 404
    assert post(f"/{name}/request", "subscribers", "team-race", request).status_code == 200
    with ThreadPoolExecutor(6) as pool:
        acts = ["find-complete", "find-incomplete"] * 3
        bodies: list[dict[str, Any]] = [{}, {"missing": ["Statistics"]}] * 3
        answers = list(
            pool.map(
                lambda one: post(f"/{name}/{one[0]}", "officers", "officer", one[1]), zip(acts, bodies, strict=True)
            )
        )
    assert sorted(one.status_code for one in answers) == [200, 409, 409, 409, 409, 409]
    (done,) = [one.json()["standing"] for one in answers if one.status_code == 200]
    told = hub.get(f"/v1/projects/{name}", "officers", "officer").json()
    assert (told["standing"], len(told["steps"])) == (done, 3)
