"""The catalogue is what its profile asks for, tells no small number, and is searched without accents."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from pyshacl import validate
from rdflib import Graph
from rdflib.namespace import DCAT, RDF

from contracts.events import RECORD_TYPES
from contracts.fields import variables
from contracts.projects import Contribution
from contracts.sources import Registered
from services.access.domain.catalogue import Given, Holding, catalogue, publisher_from, two_digits

pytestmark = pytest.mark.unit

SHAPES = Path(__file__).parents[2] / "fixtures" / "catalogue" / "shapes.ttl"
PUBLISHER = publisher_from(
    {
        "title": "Data of a hub",
        "description": "Of invented people.",
        "name": "A hub",
        "email": "hub@hub.example",
        "home": "https://access.hub.example",
        "access_body": "An access body",
        "access_body_email": "body@hub.example",
    }
)
SOURCES = [
    Registered(source="urn:estuaire:producer:chu", title="CHU de Saint-Étienne", contact="DIM, dim@chu.example"),
    Registered(source="urn:estuaire:producer:cnam", title="Health insurance", keywords=("reimbursements",)),
    Registered(source="urn:estuaire:producer:new"),
]
HOLDINGS = [
    Holding("urn:estuaire:producer:chu", ["hospital-stay.v1", "device-measure.v1"], 123_456, 45_678, 2018, 2026),
    Holding("urn:estuaire:producer:cnam", ["claim.v1"], 6400, 311, 2020, 2021),
]
GIVEN = [
    Given("heart", "Heart paths", "CHU", Contribution(kind="dataset", title="Cohort", description="Of hearts.")),
    Given(
        "heart",
        "Heart paths",
        "CHU",
        Contribution(kind="code-list", title="Codes", description="ICD-10.", address="https://codes.example/list"),
    ),
    Given("heart", "Heart paths", "CHU", Contribution(kind="tool", title="Tool", description="Counts.")),
]


def made(words: str = "") -> dict[str, Any]:
    return catalogue(PUBLISHER, SOURCES, HOLDINGS, GIVEN, variables(), words)


def violations(document: dict[str, Any]) -> str:
    """What of the profile a catalogue does not keep; nothing if it does."""
    graph = Graph().parse(data=json.dumps(document), format="json-ld")
    assert len(list(graph.subjects(RDF.type, DCAT.Dataset))) == len(document["dcat:dataset"])
    conforms, _, text = validate(graph, shacl_graph=Graph().parse(SHAPES), advanced=True)
    return "" if conforms else str(text)


def test_it_is_what_the_profile_asks_for() -> None:
    assert violations(made()) == ""


@pytest.mark.parametrize(
    "name",
    [
        "dct:title",
        "dct:description",
        "dct:identifier",
        "dct:accessRights",
        "dct:type",
        "dct:publisher",
        "dct:provenance",
        "dcat:theme",
        "dcat:keyword",
        "dcat:contactPoint",
        "dcat:distribution",
        "dcatap:applicableLegislation",
        "healthdcatap:hdab",
        "healthdcatap:healthCategory",
        "healthdcatap:hasStructuredData",
        "healthdcatap:hasVariables",
    ],
)
def test_a_dataset_that_lacks_something_would_be_found(name: str) -> None:
    document = copy.deepcopy(made())
    del document["dcat:dataset"][0][name]
    assert violations(document) != ""


def test_numbers_are_of_two_digits_and_small_holdings_have_none() -> None:
    chu, cnam, new, _ = made()["dcat:dataset"]
    assert chu["healthdcatap:numberOfRecords"]["@value"] == "120000"
    assert chu["healthdcatap:numberOfUniqueIndividuals"]["@value"] == "45000"
    assert chu["dct:temporal"]["dcat:startDate"]["@value"] == "2018-01-01"
    for one in (cnam, new):
        assert not any(name.startswith("healthdcatap:number") or name == "dct:temporal" for name in one)
    assert "2020" not in json.dumps(cnam)
    assert [two_digits(one) for one in (7, 1000, 1099, 99_999)] == [7, 1000, 1000, 99_000]


def test_categories_follow_from_what_is_held_and_variables_from_the_allow_lists() -> None:
    chu, cnam, new, given = made()["dcat:dataset"]

    def codes(dataset: dict[str, Any]) -> list[str]:
        return [one["@id"].rpartition("/")[2] for one in dataset["healthdcatap:healthCategory"]]

    assert [codes(one) for one in (chu, cnam, new, given)] == [["EHRS", "PGEH"], ["HRAD"], ["EHRS"], ["RQSH"]]
    tables = {one["dct:title"]: one["csvw:column"] for one in chu["healthdcatap:hasVariables"]["csvw:table"]}
    assert {"entry", "exit", "principal_diagnosis"} <= {one["csvw:name"] for one in tables["hospital-stay.v1"]}
    assert new["healthdcatap:hasStructuredData"] is False
    assert variables().keys() == set(RECORD_TYPES) - {"identity.v1"}


def test_it_is_searched_by_words_whatever_their_accents() -> None:
    def titles(words: str) -> set[str]:
        found = made(words)
        return {one["dct:title"] for one in (*found["dcat:dataset"], *found["dcat:resource"])}

    assert titles("saint etienne") == {"CHU de Saint-Étienne"}
    assert titles("REIMBURSEMENTS") == {"Health insurance"}
    assert titles("heart paths") == {"Cohort", "Codes", "Tool"}
    assert titles("heart icd-10") == {"Codes"}
    assert titles("nobody") == set()


def test_who_runs_the_hub_is_said_in_sentences_or_refused() -> None:
    with pytest.raises(ValueError, match="email: write an address"):
        publisher_from({**PUBLISHER.model_dump(), "email": "x"})
    with pytest.raises(ValueError, match="without a slash"):
        publisher_from({**PUBLISHER.model_dump(), "home": "https://hub.example/"})
