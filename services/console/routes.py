"""Pages over HTTP: what all of them share, and signing in and out. The pages themselves are in `*_routes.py`."""

from __future__ import annotations

import logging
from importlib.resources import files
from typing import Annotated
from urllib.parse import urlencode

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.base import RequestResponseEndpoint
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from runtime.http import ProblemError, create_app
from services.console.adapters import Refusal
from services.console.audit_routes import add_audit_routes
from services.console.catalogue_routes import add_catalogue_routes
from services.console.flow_routes import add_flow_routes
from services.console.menu import MENU
from services.console.permit_routes import add_permit_routes
from services.console.project_routes import add_project_routes
from services.console.record_routes import add_record_routes
from services.console.reject_routes import add_reject_routes
from services.console.request_routes import add_request_routes
from services.console.review_routes import add_review_routes
from services.console.sign_in import CALLBACK, SignInError, Tokens, tokens_of, unpacked
from services.console.source_routes import add_source_routes
from services.console.visits import (
    LANGUAGE,
    AtPage,
    Desk,
    Sent,
    SignInNeeded,
    Visit,
    at_page,
    whereabouts,
    within,
)
from services.console.wording import LANGUAGES

log = logging.getLogger("estuaire.console")

_YEAR = 365 * 86_400
_ERRAND_SECONDS = 600
Back = Annotated[str, Query(max_length=2000)]


def application(desk: Desk) -> FastAPI:
    """The application of this service."""
    app = create_app("Estuaire console", "Pages over the hub's services.", lambda: None, documented=False)
    app.state.desk = desk
    errand = f"{desk.cookie}-errand"

    @app.middleware("http")
    async def harden(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return _hardened(request, await call_next(request))

    def _hardened(request: Request, answer: Response) -> Response:
        answer.headers.update(desk.headers)
        is_static = request.url.path.startswith("/static/")
        answer.headers["Cache-Control"] = "no-cache" if is_static else "no-store"
        return answer

    # --- what goes wrong ---

    def problem(request: Request, status: int, title: str, detail: str) -> Response:
        try:
            visit = at_page(request)
        except Exception:  # whatever it was, it is being told already
            visit = Visit(request, None)
        template = "problem_part.html" if visit.is_part else "problem.html"
        answer = visit.page(template, status, title=title, detail=detail)
        if visit.is_part:
            answer.headers["HX-Reswap"] = "innerHTML"  # what it was asked for stays, to be asked for again
        return answer

    @app.exception_handler(SignInNeeded)
    async def sign_in_first(request: Request, needed: SignInNeeded) -> Response:
        page = "/sign-in/start" if desk.provider else "/sign-in"
        address = f"{page}?{urlencode({'back': needed.back})}"
        answer: Response = RedirectResponse(address, 303)
        if "hx-request" in request.headers:
            answer = Response(status_code=401, headers={"HX-Redirect": address})
        if request.method == "POST":
            desk.keep(answer, desk.undone, "1", _ERRAND_SECONDS)
        return answer

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        if refusal.status == 401:  # the token is not good any more, whatever it said of itself
            desk.sessions.end(request.cookies.get(desk.cookie))
            return await sign_in_first(request, SignInNeeded(whereabouts(request)))
        return await run_in_threadpool(problem, request, refusal.status, refusal.title, refusal.detail)

    @app.exception_handler(HTTPException)
    async def http_problem(request: Request, error: HTTPException) -> Response:
        title = error.title if isinstance(error, ProblemError) else str(error.detail)
        return await run_in_threadpool(problem, request, error.status_code, title, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, _error: RequestValidationError) -> Response:
        return await run_in_threadpool(problem, request, 404, "not found", "There is no such page.")

    @app.exception_handler(Exception)
    async def internal(request: Request, _error: Exception) -> Response:
        detail = "The error has been logged; try again later."
        return _hardened(request, await run_in_threadpool(problem, request, 500, "internal error", detail))

    # --- signing in and out ---

    def begun(tokens: Tokens, back: str) -> Response:
        answer = RedirectResponse(within(back), 303)
        desk.keep(answer, desk.cookie, desk.sessions.begin(tokens))
        desk.forget(answer, errand)
        return answer

    def not_begun(why: SignInError, back: str = "/") -> Response:
        log.warning("a sign-in came to nothing: %s", why)
        return RedirectResponse(f"/sign-in?{urlencode({'why': str(why), 'back': back})}", 303)

    @app.get("/")
    def first_page(visit: AtPage) -> Response:
        """The first page of the menu that is theirs."""
        return visit.go(next(one.path for one in MENU if not one.roles or one.roles & visit.roles))

    @app.get("/sign-in")
    def sign_in(visit: AtPage, back: Back = "/", why: Annotated[str, Query(max_length=20)] = "") -> Response:
        """How to sign in, and why it failed if it has."""
        said = f"sign-in.{why}" if visit.words.knows(f"sign-in.{why}") else None
        start = f"/sign-in/start?{urlencode({'back': within(back)})}" if desk.provider else None
        return visit.page("sign_in.html", why=said, start=start)

    @app.get("/sign-in/start")
    def start(back: Back = "/") -> Response:
        """Off to the issuer."""
        if desk.provider is None:
            return RedirectResponse("/sign-in", 303)
        try:
            address, kept = desk.provider.begin(within(back))
        except SignInError as error:
            return not_begun(error, back)
        answer = RedirectResponse(address, 303)
        desk.keep(answer, errand, kept.packed(), _ERRAND_SECONDS)
        return answer

    @app.get(CALLBACK)
    def come_back(request: Request, state: str = "", code: str = "") -> Response:
        """Back from the issuer."""
        try:
            if desk.provider is None:
                raise SignInError("interrupted")
            kept = unpacked(request.cookies.get(errand))
            return begun(desk.provider.finish(kept, state, code), kept.back)
        except SignInError as error:
            return not_begun(error)

    @app.get("/enter")
    def enter(link: Annotated[str, Query(max_length=200)] = "") -> Response:
        """In by a link of the local platform."""
        token = desk.links.open(link)
        try:
            if token is None:
                raise SignInError("used")
            return begun(tokens_of(desk.issuer, token), "/")
        except SignInError as error:
            return not_begun(error)

    @app.post("/sign-out")
    def sign_out(sent: Sent) -> Response:
        """Out, here and at the issuer."""
        session = desk.sessions.end(sent.visit.request.cookies.get(desk.cookie))
        try:
            address = desk.provider.leave(session.tokens.identity) if desk.provider and session else None
        except SignInError:
            address = None
        answer = RedirectResponse(address or "/sign-in", 303)
        desk.forget(answer, desk.cookie)
        return answer

    @app.get("/language/{language}")
    def choose_language(language: str, back: Back = "/") -> Response:
        """Another language, from here on."""
        answer = RedirectResponse(within(back), 303)
        if language in LANGUAGES:
            desk.keep(answer, LANGUAGE, language, _YEAR)
        return answer

    add_project_routes(app)
    add_permit_routes(app)
    add_catalogue_routes(app)
    add_flow_routes(app)
    add_record_routes(app)
    add_reject_routes(app)
    add_source_routes(app)
    add_review_routes(app)
    add_request_routes(app)
    add_audit_routes(app)
    app.mount("/static", StaticFiles(directory=str(files("services.console") / "static")))
    return app
