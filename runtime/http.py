"""What every service answers over HTTP: health, readiness, metrics, and problems as RFC 9457 documents."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.models import HTTPBearer
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security.base import SecurityBase
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, generate_latest
from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue, models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("estuaire.http")

# 1 while the service is ready to do all of its work, else 0; why not, /readyz says.
READY: Final = Gauge("estuaire_ready", "Whether the service is ready.")
# Answers over HTTP by status, but for those of the probes and of this page itself.
ANSWERS: Final = Counter("estuaire_http_answers", "Answers over HTTP.", ["status"])
_PROBES: Final = frozenset(("/healthz", "/readyz", "/metrics"))

PROBLEM: Final = "application/problem+json"

NO_NUL: Final = r"^[^\x00]*$"
"""The pattern of a text that a database can be asked for."""

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


def not_found() -> ProblemError:
    """The same for what is not there and for what is not theirs."""
    return ProblemError(404, "not found", "There is nothing here that this token may see.")


def unauthenticated() -> ProblemError:
    """The same for every token that is none."""
    return ProblemError(
        401, "not authenticated", "Send `Authorization: Bearer <token>`.", {"WWW-Authenticate": "Bearer"}
    )


def problem_response(status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """The response that carries a problem document."""
    body = Problem(title=title, status=status, detail=detail)
    return JSONResponse(body.model_dump(), status, dict(headers or {}), PROBLEM)


def reference(model: type[BaseModel]) -> dict[str, Any]:
    """A schema that stands for this model, which the application has to be created with."""
    return {"$ref": _COMPONENTS.format(model=model.__name__)}


def problems(descriptions: Mapping[int, str], model: type[BaseModel] = Problem) -> dict[int | str, dict[str, Any]]:
    """The documentation of a route's problem answers: when it gives which status."""
    return {
        status: {
            "description": description,
            "content": {PROBLEM: {"schema": reference(model)}},
            **({"headers": {name: _HEADERS[name] for name in _SENT_WITH[status]}} if status in _SENT_WITH else {}),
        }
        for status, description in descriptions.items()
    }


class _Application(FastAPI):
    """Documents what is really answered: problems, where FastAPI assumes errors of its own, and the models named."""

    models: tuple[type[BaseModel], ...] = ()

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            for operations in document.get("paths", {}).values():
                for operation in operations.values():
                    if _ASSUMED in str(operation["responses"].get("422")):
                        del operation["responses"]["422"]
                    operation["responses"] = dict(sorted(operation["responses"].items()))
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for name in (_ASSUMED, "ValidationError"):
                schemas.pop(name, None)
            _, named = models_json_schema([(one, "validation") for one in self.models], ref_template=_COMPONENTS)
            document["components"]["schemas"] = named["$defs"] | schemas
            self.openapi_schema = document
        return self.openapi_schema


class _Counted:
    """Counts what is answered; what goes through is not touched."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                ANSWERS.labels(str(message["status"])).inc()
            await send(message)

        try:
            await self._app(scope, receive, counted)
        except Exception:  # which becomes an answer further out
            ANSWERS.labels("500").inc()
            raise


_FORMS: Final = {
    "missing": "it is missing",
    "json_invalid": "it is not JSON",
    "dict_type": "it has to be a map",
    "extra_forbidden": "nothing has this name; look for a spelling mistake",
}
"""What pydantic's types of errors ask for; the others are named as they are."""
_ASSUMED: Final = "HTTPValidationError"
_COMPONENTS: Final = "#/components/schemas/{model}"
_HEADERS: Final = {
    "Retry-After": {"description": "Seconds to wait before the next attempt.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {"description": "Always `Bearer`.", "schema": {"type": "string"}},
}
_SENT_WITH: Final = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}


def create_app(
    title: str, description: str, ready: Readiness, *models: type[BaseModel], documented: bool = True
) -> FastAPI:
    """An application with `/healthz`, `/readyz`, `/metrics` and, where it is `documented`, `/docs`.

    The service adds its own routes. `models` are those that its routes document by `reference`.
    """
    app = _Application(
        title=title,
        description=description,
        version="1",
        generate_unique_id_function=lambda route: route.name,
        openapi_url="/openapi.json" if documented else None,
    )
    app.models = (Problem, *models)
    app.add_middleware(_Counted)
    for status in ("429", "500", "503"):  # from 0 on, or the first one is no increase to whoever watches
        ANSWERS.labels(status)
    READY.set_function(lambda: float(ready() is None))

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
        if error.status_code == 400 and not isinstance(error, ProblemError):
            return problem_response(422, "the body is not JSON", "Send it as JSON, in UTF-8.")
        title = error.title if isinstance(error, ProblemError) else str(error.detail)
        return problem_response(error.status_code, title, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        places = (f"{'.'.join(map(str, one['loc']))}: {_FORMS.get(one['type'], one['type'])}" for one in error.errors())
        return problem_response(422, "the request does not have the expected form", "; ".join(places))

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
        raise unauthenticated()


def hash_token(token: str) -> str:
    """The form in which a bearer token is kept. Tokens are random, so a plain hash is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


class _BearerScheme(SecurityBase):
    """The header as it was sent, for `Bearers` to judge; documented as a bearer token, so that "Authorize" works."""

    def __init__(self) -> None:
        self.model = HTTPBearer(description="The token that the operator has given out, without the word `Bearer`.")
        self.scheme_name = "bearer"

    async def __call__(self, request: Request) -> str | None:
        return request.headers.get("authorization")


Authorization = Annotated[str | None, Security(_BearerScheme())]
Json = dict[str, Any]


class Documented:
    """Documents a body as what it has to be, or one of these. It is read as any object: errors are sentences."""

    def __init__(self, *models: type[BaseModel]) -> None:
        self._models = models

    def __get_pydantic_json_schema__(self, _schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schemas = [handler(one.__pydantic_core_schema__) for one in self._models]
        return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
