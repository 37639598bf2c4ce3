"""Reports for people: tables, and pages that load nothing, run nothing and say nothing unescaped."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console, RenderableType

from contracts.sources import Registered
from estuaire.quality import quality_table, sources_table
from estuaire.quality_page import percent, render_quality, render_sources
from services.statistics.domain.quality import listed, report
from tests.unit.statistics.test_quality import COUNTS, DAYS, NOW, PERIOD

pytestmark = pytest.mark.unit

HOSTILE = "<script>alert(1)</script> & \"'"
LINKAGE = {
    "subjects": 1200,
    "share": 0.5,
    "sampled": 600,
    "unlinkable": 100,
    "with_another_identity": 300,
    "with_another_source": 250,
    "rate": 0.5,
    "definition": "Of the identities, those that are linked.",
}


def found(linkage: dict[str, Any] | None = LINKAGE, title: str = "Rennes") -> dict[str, Any]:
    """A report as it comes over HTTP."""
    known = Registered(source="urn:estuaire:producer:chu-rennes", title=title)
    counts = COUNTS | {("", "refused.not-json"): 5, ("", "wrong.time"): 2}
    made = report(known, PERIOD, counts, DAYS, is_registered=True)
    return {**json.loads(made.model_dump_json(by_alias=True)), "linkage": linkage}


def sources(title: str = "Rennes") -> list[dict[str, Any]]:
    registered = {
        "urn:a": Registered(source="urn:a", title=title, contact="DIM", formats=("fhir",), expected_per_day=9)
    }
    day = dt.timedelta(days=1)
    seen = {"urn:a": (NOW, NOW, 12_345, {"not-json": 2}), "urn:b": (NOW - 5 * day, NOW - 4 * day, 1, {})}
    return [json.loads(one.model_dump_json()) for one in listed(registered, seen, NOW)]


class Page(HTMLParser):
    """The elements of a page, with those of each table."""

    VOID = ("meta", "br", "rect", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.tables: list[list[tuple[str, dict[str, str | None]]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if "table" in self.open:
            self.tables[-1].append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)


@pytest.mark.parametrize(
    "text", [render_quality(found()), render_quality(found(None, "")), render_sources(sources()), render_sources([])]
)
def test_a_page_is_whole_and_needs_nothing(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert ("html", {"lang": "en"}) in page.elements
    names = {name for name, _ in page.elements}
    assert names.isdisjoint({"script", "link", "img", "iframe", "form", "a", "base"})
    attributes = {attribute for _, given in page.elements for attribute in given}
    assert not {one for one in attributes if one.startswith("on") or one in ("style", "src", "href")}
    (policy,) = [str(given["content"]) for name, given in page.elements if given.get("http-equiv")]
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}';")
    assert "url(" not in style
    for table in page.tables:
        inside = [name for name, _ in table]
        assert inside.count("caption") == 1
        assert all(given.get("scope") in ("col", "row") for name, given in table if name == "th")


def test_what_others_wrote_is_escaped() -> None:
    hostile = found(LINKAGE | {"definition": HOSTILE}, HOSTILE)
    hostile["reasons"][0]["name"] = HOSTILE
    hostile["types"][0]["type"] = hostile["types"][0]["fields"][0]["name"] = HOSTILE
    for text in (render_quality(hostile), render_sources(sources(HOSTILE))):
        assert "<script" not in text
        assert "&lt;script&gt;" in text


def test_the_page_has_the_figures() -> None:
    text = render_quality(found())
    for said in ("12", "40.0% of all", "75.0%", "1,200 distinct identities (estimated from 600", LINKAGE["definition"]):
        assert str(said) in text, said
    assert "linkage did not answer" in render_quality(found(None))
    listing = render_sources(sources())
    assert "12,345" in listing
    assert "not in the registry" in listing


def test_the_tables_have_the_figures() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(quality_table(found()), sources_table(sources()))
    text = console.export_text()
    said = (
        "Rennes, 2026-03-01 to 2026-03-10",
        "not-json",
        "time",
        "within a day",
        "finess",
        "12,345",
        "not registered",
    )
    for one in said:
        assert one in text, one
    assert "By the field that is wrong" in render_quality(found())


STYLED = "urn:[/evil]:heart:chu[red]-x[/red]"


def printed(*tables: RenderableType, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO(), highlight=False)
    console.print(*tables)
    return console.export_text()


def test_names_are_shown_as_they_are_and_are_no_styles() -> None:
    listing = sources(STYLED)
    listing[1]["source"] = listing[0]["contact"] = STYLED
    report = found(LINKAGE, STYLED)
    for part in (report["reasons"][0], report["flags"][0], report["types"][0], report["types"][0]["fields"][0]):
        part["name"] = STYLED
    report["types"][0]["type"] = report["types"][0]["fields"][-1]["name"] = STYLED
    assert printed(sources_table(listing), width=200).count(STYLED) == 3
    assert printed(quality_table(report), width=200).count(STYLED) >= 5


def test_at_80_columns_every_producer_is_told_from_the_others_and_is_whole() -> None:
    one = sources("Centre hospitalier universitaire de Rennes")[0]
    listing = []
    for name in ("rennes", "brest"):
        source = f"urn:estuaire:producer:chu-{name}"
        listing.append(one | {"source": source, "contact": f"dim@chu-{name}.example", "formats": ["fhir", "pmsi-mco"]})
    text = printed(sources_table(listing), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for said in ("urn:estuaire:producer:chu-brest", "fhir, pmsi-mco ", "dim@chu-rennes.example", "12,345 accepted"):
        assert said in text, said
    longest = printed(sources_table([one | {"source": "urn:" + "x" * 252}]), width=80)
    assert longest.count("x") >= 252, "folded, not cut"


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, ""), (0, "0%"), (1, "100%"), (0.5, "50.0%"), (0.9996, "99.96%"), (0.0004, "0.04%"), (1.5, "150.0%")],
)
def test_shares_are_not_rounded_to_all_or_nothing(share: float | None, text: str) -> None:
    assert percent(share) == text
