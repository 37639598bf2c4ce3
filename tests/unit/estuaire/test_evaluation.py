"""The figures of an evaluation as a person reads them."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any, Final

import pytest
from rich.console import Console

from estuaire.evaluation import Evaluation, Tally, as_table
from estuaire.link import Name

pytestmark = pytest.mark.unit

STYLED: Final = "urn:[/evil]:heart:chu[red]-x[/red]"


def test_labels_and_names_are_shown_as_they_are_and_are_no_styles() -> None:
    pair = (Name(STYLED, "1"), Name("urn:b", "2"))
    found = Evaluation(2, 1, Tally(), {STYLED: Tally()}, {STYLED: (2, 1)}, [pair], [pair])
    linked: Any = SimpleNamespace(seconds=1.0, rules=SimpleNamespace(name=STYLED))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(as_table(found, linked))
    assert console.export_text().count(STYLED) == 5
