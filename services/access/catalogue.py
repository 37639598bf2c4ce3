"""The catalogue over HTTP, for everybody: what the hub holds, counted again once an hour."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import Annotated, Any, Final, Protocol

import msgspec
from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from contracts.fields import variables
from contracts.sources import Registered
from runtime.http import problems
from services.access.domain.catalogue import Given, Holding, Publisher, catalogue
from services.access.domain.projects import Register
from services.access.projects import StepRow, register_of

JSON_LD: Final = "application/ld+json"
_HOUR: Final = 3600.0

Words = Annotated[str, Query(max_length=200, description="Words that an entry has to have, all of them.")]


class Reader(Protocol):
    """What it reads."""

    def holdings(self) -> list[Holding]: ...
    def project_steps(self) -> list[StepRow]: ...


class Holdings:
    """What is kept, counted at most once in a while: a count goes over the whole history."""

    def __init__(self, reader: Reader, every: float = _HOUR) -> None:
        self._reader = reader
        self._every = every
        self._lock = Lock()
        self._counted: tuple[float, list[Holding]] | None = None

    def now(self) -> list[Holding]:
        """As it was counted last."""
        with self._lock:
            if self._counted is None or time.monotonic() - self._counted[0] > self._every:
                self._counted = time.monotonic(), self._reader.holdings()
            return self._counted[1]


def add_catalogue_route(
    app: FastAPI, reader: Reader, publisher: Publisher, sources: Callable[[], Mapping[str, Registered]]
) -> None:
    """Add it to the application of access."""
    holdings = Holdings(reader)

    @app.get("/v1/catalogue", summary="Find out what data there are", **_CATALOGUE)
    def read_catalogue(request: Request, q: Words = "") -> Response:
        """The catalogue of data as HealthDCAT-AP, to be read and harvested by everybody."""
        register = register_of(reader.project_steps())
        home = publisher.home or str(request.base_url).rstrip("/")
        named = publisher.model_copy(update={"home": home})
        found = catalogue(named, sources().values(), holdings.now(), _given(register), variables(), q)
        return Response(msgspec.json.encode(found), media_type=JSON_LD)


def _given(register: Register) -> Iterator[Given]:
    for name, project in register.projects.items():
        for one in project.contributions:
            yield Given(name, project.application.title, project.application.organisation.name, one)


_CATALOGUE: Final[dict[str, Any]] = {
    "response_class": Response,
    "responses": problems({422: "The words are too long.", 503: "The database does not answer: try again later."})
    | {200: {"description": "The catalogue.", "content": {JSON_LD: {"schema": {"type": "object"}}}}},
}
