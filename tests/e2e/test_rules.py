"""A rule version from the command line: changed, tried, switched on, and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.linkage.domain.rules import RULES
from tests.commands import estuaire
from tests.e2e.test_stewards import trace
from tests.hub import Hub

pytestmark = pytest.mark.e2e


def person(source: str, name: str, given: str) -> dict[str, Any]:
    """An identity with traits alone."""
    identity = {"birth_family_name": "QUEMENEUR", "given_names": [given], "birth_date": "1971-03-14"}
    return {
        "specversion": "1.0",
        "id": name,
        "source": source,
        "type": "identity.v1",
        "time": "2026-03-01T09:00:00Z",
        "data": {"identity": identity},
    }


def test_a_version_is_changed_tried_and_switched_on(hub: Hub) -> None:
    source, other = hub.source(), hub.source()
    hub.send(source, [person(source, "a", "Maël")])
    hub.send(other, [person(other, "b", "Gwenaëlle")])

    def patients() -> set[str]:
        return {trace(hub, *record)["patient_id"] for record in ((source, "a"), (other, "b"))}

    assert len(patients()) == 2, "twins, it may be"
    listed = estuaire(hub, "rules", "list").stdout
    assert RULES.name in listed
    assert "decides from the beginning" in listed
    wide = ("link=-15", "link_contradicted=-15", "link_kin=-15", "review=-15")
    assert "wide is kept" in estuaire(hub, "rules", "change", RULES.name, "--as", "wide", *wide).stdout
    shown = json.loads(estuaire(hub, "rules", "show", "wide").stdout)
    assert (shown["thresholds"]["link"], shown["thresholds"]["margin"]) == (-15, 4)

    tried = json.loads(estuaire(hub, "rules", "try", "wide", "--json", "--examples", "50").stdout)
    assert tried["merged"] >= 1
    assert len(patients()) == 2, "nothing is changed by a trial"
    pair = "-".join(sorted(trace(hub, *record)["subject_id"] for record in ((source, "a"), (other, "b"))))
    assert pair in {one["pair"] for one in tried["examples"] if one["after"] == "link"}
    told = estuaire(hub, "rules", "try", "wide").stdout
    assert "merged" in told
    assert "-> link" in told

    try:
        assert "wide decides" in estuaire(hub, "rules", "switch", "wide").stdout
        assert len(patients()) == 1
        assert trace(hub, source, "a")["link"]["rule_version"] == "wide"
        assert "decides since 20" in estuaire(hub, "rules", "list").stdout
    finally:
        estuaire(hub, "rules", "switch", RULES.name)
    assert len(patients()) == 2, "and so does the way back"
    assert "link under wide until 20" in estuaire(hub, "review", "show", pair).stdout


def test_what_is_no_version_or_no_threshold_is_said(hub: Hub) -> None:
    for arguments, words in (
        (("switch", "nowhere"), "No rule version of this name is kept. `estuaire rules list` shows those that are."),
        (("try", "nowhere"), "no rule version nowhere is kept; `estuaire rules list` shows those that are"),
        (("change", RULES.name, "--as", "x", "links=2"), "links: there is no such threshold; these are: link, "),
        (("change", RULES.name, "--as", "x", "link=two"), "link=two: write a threshold and a number, such as link=2.5"),
        (("change", RULES.name, "--as", "two words", "link=2"), "name: up to 64 letters, digits, and . + - _"),
        (("change", RULES.name, "--as", RULES.name, "link=2"), "with other content: choose another name"),
        (("propose", "--index", "linkage:s3cret@host/linkage"), "--index: not of the form postgresql://"),
        (("propose", "--index", "postgresql://nobody@127.0.0.1:1/x"), "the index: the database does not answer"),
    ):
        said = estuaire(hub, "rules", *arguments, expect=1).stderr
        assert words in said
        assert "s3cret" not in said
    proposed = estuaire(hub, "rules", "propose").stdout
    assert proposed.startswith(f"{RULES.name}+")
    assert proposed.split()[0] in estuaire(hub, "rules", "list").stdout
