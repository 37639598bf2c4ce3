"""What every service answers over HTTP: health, readiness, metrics, and problems as RFC 9457 documents."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

Readiness = Callable[[], str | None]
"""None when ready, otherwise the reason why not."""


class Problem(BaseModel):
    """An RFC 9457 problem document. It never repeats what was sent."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str


class ProblemError(HTTPException):
    """Answer with a problem document."""

    def __init__(self, status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.title = title


def problem_response(status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """The response that carries a problem document."""
    body = Problem(title=title, status=status, detail=detail)
    return JSONResponse(body.model_dump(), status, dict(headers or {}), "application/problem+json")


def create_app(title: str, description: str, ready: Readiness) -> FastAPI:
    """An application with `/healthz`, `/readyz`, `/metrics` and `/docs`; the service adds its own routes."""
    app = FastAPI(title=title, description=description, version="1", openapi_url="/openapi.json")

    @app.get("/healthz", include_in_schema=False)
    def healthz() -> PlainTextResponse:
        return PlainTextResponse("alive\n")

    @app.get("/readyz", include_in_schema=False)
    def readyz() -> PlainTextResponse:
        reason = ready()
        return PlainTextResponse("ready\n" if reason is None else f"{reason}\n", 200 if reason is None else 503)

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(HTTPException)
    async def http_problem(_request: Request, error: HTTPException) -> Response:
        title = error.title if isinstance(error, ProblemError) else str(error.detail)
        return problem_response(error.status_code, title, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        places = "; ".join(f"{'.'.join(str(part) for part in one['loc'])}: {one['type']}" for one in error.errors())
        return problem_response(422, "the request does not have the expected form", places)

    @app.exception_handler(Exception)
    async def internal(_request: Request, _error: Exception) -> Response:
        return problem_response(500, "internal error", "The error has been logged; try again later.")

    return app


class Bearers:
    """Who holds which bearer token: names by the SHA-256 of their token, so that no file holds a token."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = dict(names)

    def name(self, authorization: str | None) -> str:
        """The holder of an `Authorization: Bearer` header. Raises a 401 problem, the same for every failure."""
        scheme, _, token = (authorization or "").partition(" ")
        digest = hash_token(token.strip())
        if scheme.lower() == "bearer":
            for known, name in self._names.items():
                if hmac.compare_digest(known, digest):
                    return name
        raise ProblemError(
            401, "not authenticated", "Send `Authorization: Bearer <token>`.", {"WWW-Authenticate": "Bearer"}
        )


def hash_token(token: str) -> str:
    """The form in which a bearer token is kept. Tokens are random, so a plain hash is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


Authorization = Annotated[str | None, Header(alias="authorization")]
Json = dict[str, Any]
