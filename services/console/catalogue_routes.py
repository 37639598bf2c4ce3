"""The pages of the catalogue, for everybody: search, and an entry."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import FastAPI, Query
from starlette.responses import Response

from runtime.http import ProblemError
from services.console.domain.datasets import entries
from services.console.visits import AtPage


def add_catalogue_routes(app: FastAPI) -> None:
    """Add them to the application of the console."""

    @app.get("/catalogue")
    def search(visit: AtPage, q: Annotated[str, Query(max_length=200)] = "") -> Response:
        """The entries that have all these words."""
        found = list(entries(visit.ask("GET", f"/v1/catalogue?{urlencode({'q': q})}")))
        return visit.page("catalogue_part.html" if visit.is_part else "catalogue.html", entries=found, q=q)

    @app.get("/catalogue/{entry:path}")
    def see_entry(visit: AtPage, entry: str) -> Response:
        """One entry."""
        found = next((one for one in entries(visit.ask("GET", "/v1/catalogue")) if one.id == entry), None)
        if found is None:
            raise ProblemError(404, "not found", "There is no such entry.")
        return visit.page("entry.html", entry=found)
