"""Somebody at a page: in which language, as whom, and what every answer to them carries.

A route says by the type of its first parameter whom it is for: `AtPage` is anybody, `SignedIn` somebody with a session,
`Sent` somebody with a session whose form was really shown to them.
"""

from __future__ import annotations

import datetime as dt
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

from fastapi import Depends, Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse, Response

from runtime.http import ProblemError
from runtime.oidc import Issuer
from services.console.adapters import Hub, Links, Refusal
from services.console.domain.forms import Given, as_yaml
from services.console.sessions import Session, Sessions
from services.console.sign_in import Provider
from services.console.wording import LANGUAGES, PARIS, Words, preferred

LANGUAGE: Final = "estuaire-language"
FORM_KEY: Final = "form_key"
"""The field of every form that shows that we have made it for this session."""
_LONGEST_FORM: Final = 1_000_000
_FORM: Final = "application/x-www-form-urlencoded"


class Page(NamedTuple):
    """A page of the menu, for those who have one of these roles; for everybody, if it names none."""

    path: str
    word: str
    roles: frozenset[str] = frozenset()


MENU: Final = (
    Page("/flow", "menu.flow", frozenset({"operator"})),
    Page("/producers", "menu.producers", frozenset({"operator"})),
    Page("/records", "menu.records", frozenset({"operator"})),
    Page("/rejects", "menu.rejects", frozenset({"operator"})),
    Page("/projects", "menu.projects", frozenset({"officer", "reviewer", "subscriber"})),
    Page("/calls", "menu.calls", frozenset({"officer", "reviewer", "subscriber"})),
    Page("/permits", "menu.permits", frozenset({"officer", "subscriber"})),
    Page("/requests", "menu.requests", frozenset({"officer"})),
    Page("/reviews", "menu.reviews", frozenset({"steward"})),
    Page("/audit", "menu.audit", frozenset({"auditor"})),
    Page("/catalogue", "menu.catalogue"),
)
"""What it leads to each service allows or refuses by itself."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What the routes work with."""

    hub: Hub
    sessions: Sessions
    issuer: Issuer
    links: Links
    url: str
    provider: Provider | None = None
    traces: str | None = None
    follows: bool = False
    """Whether the hub has a trace store that can be asked."""
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)

    @property
    def secure(self) -> bool:
        """Whether browsers reach us over HTTPS."""
        return self.url.startswith("https://")

    @property
    def cookie(self) -> str:
        """The session's cookie. Those of one machine are shared by its ports, so the port is in its name."""
        return "__Host-estuaire" if self.secure else f"estuaire-{urlsplit(self.url).port or 80}"

    @property
    def headers(self) -> dict[str, str]:
        """What every answer carries: nothing is loaded from elsewhere, framed, kept, or guessed at."""
        # a form that signs out is led on to the issuer, which browsers hold to be a target of the form
        elsewhere = f" {self.provider.origin}" if self.provider else ""
        policy = {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "img-src": "'self'",
            "connect-src": "'self'",
            "form-action": f"'self'{elsewhere}",
            "base-uri": "'none'",
            "frame-ancestors": "'none'",
        }
        return {
            "Content-Security-Policy": "; ".join(f"{name} {where}" for name, where in policy.items()),
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
            "Vary": "Cookie, Accept-Language, HX-Request",
        } | ({"Strict-Transport-Security": "max-age=31536000"} if self.secure else {})

    def keep(self, answer: Response, name: str, value: str, seconds: int | None = None) -> None:
        """Have the browser keep a cookie that no script and no other site can use."""
        answer.set_cookie(name, value, max_age=seconds, path="/", secure=self.secure, httponly=True, samesite="lax")

    def forget(self, answer: Response, name: str) -> None:
        """Have the browser forget a cookie."""
        answer.delete_cookie(name, path="/", secure=self.secure, httponly=True, samesite="lax")


class SignInNeeded(Exception):
    """Nobody has signed in, or not any more. `back` is where they were."""

    def __init__(self, back: str) -> None:
        super().__init__("sign in")
        self.back = back


class Visit:
    """Somebody at a page."""

    def __init__(self, request: Request, session: Session | None) -> None:
        chosen = request.cookies.get(LANGUAGE, "")
        self.request = request
        self.desk: Desk = request.app.state.desk
        self.session = session
        self.words = Words(chosen if chosen in LANGUAGES else preferred(request.headers.get("accept-language", "")))

    @property
    def roles(self) -> frozenset[str]:
        """As what they have signed in."""
        return self.session.caller.roles if self.session else frozenset()

    @property
    def is_part(self) -> bool:
        """Whether htmx asks, for a part of a page; when it goes back, it asks for the whole."""
        return "hx-request" in self.request.headers and "hx-history-restore-request" not in self.request.headers

    @property
    def today(self) -> dt.date:
        """The day in France, by which calls and deadlines go."""
        return self.desk.clock().astimezone(PARIS).date()

    def ask(self, method: str, path: str, body: Any = None, *, of: str = "access") -> Any:
        """What a service answers this person. Raises Refusal."""
        return self.desk.hub.ask(of, method, path, self.session.tokens.access if self.session else None, body)

    def told(self, path: str, of: str, away: list[str]) -> Any:
        """What a service says; None where it knows nothing of it, or does not answer, which is noted in `away`. Raises
        Refusal."""
        try:
            return self.ask("GET", path, of=of)
        except Refusal as refusal:
            if refusal.status not in (404, 503):
                raise
            if refusal.status == 503 and of not in away:
                away.append(of)
            return None

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page, or a part of one."""
        path = self.request.url.path
        query = f"?{self.request.url.query}" if self.request.url.query and self.request.method == "GET" else ""
        common = {
            "t": self.words,
            "languages": LANGUAGES,
            "session": self.session,
            "roles": self.roles,
            "menu": [one for one in MENU if not one.roles or one.roles & self.roles],
            "path": path,
            "traces": self.desk.traces,
            "here": quote(path + query, safe="/"),
        }
        return HTMLResponse(_templates().get_template(template).render(common | values), status)

    def go(self, path: str) -> Response:
        """To another page, after what was done here."""
        return RedirectResponse(path, 303)


class Posted(NamedTuple):
    """Somebody who sent a form that we have shown to them, and what is in it."""

    visit: Visit
    given: Given

    def one(self, name: str) -> str:
        """What is in a field; nothing, if it is not there."""
        return (self.given.get(name) or ("",))[0]


def at_page(request: Request) -> Visit:
    """Anybody, with their session if they have one."""
    desk: Desk = request.app.state.desk
    return Visit(request, desk.sessions.find(request.cookies.get(desk.cookie)))


AtPage = Annotated[Visit, Depends(at_page)]


def signed_in(visit: AtPage) -> Visit:
    """Somebody with a session. Raises SignInNeeded."""
    if visit.session is None:
        raise SignInNeeded(whereabouts(visit.request))
    return visit


SignedIn = Annotated[Visit, Depends(signed_in)]


async def _given(request: Request) -> dict[str, list[str]]:
    """The fields of a form. Raises a problem for what is none, or too long."""
    if request.headers.get("content-type", "").partition(";")[0] != _FORM:
        raise ProblemError(415, "not a form", "Send it from its page.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_FORM:
            raise ProblemError(413, "too long", "A form takes a million characters.")
    try:
        return parse_qs(body.decode(), keep_blank_values=True, max_num_fields=5000)
    except ValueError:
        raise ProblemError(422, "not a form", "Send it from its page.") from None


def posted(visit: SignedIn, given: Annotated[dict[str, list[str]], Depends(_given)]) -> Posted:
    """Somebody who sent a form that we have shown to them. Raises SignInNeeded, or a 403 problem for another's."""
    key = visit.session.form_key if visit.session else ""
    if not hmac.compare_digest(key.encode(), "".join(given.pop(FORM_KEY, ())).encode()):
        raise ProblemError(403, "not sent from here", "The form was not made for this session: load its page again.")
    return Posted(visit, given)


Sent = Annotated[Posted, Depends(posted)]


def whereabouts(request: Request) -> str:
    """The page that somebody is on, to come back to."""
    if "hx-request" in request.headers:
        parts = urlsplit(request.headers.get("hx-current-url", ""))
        return within(parts.path + (f"?{parts.query}" if parts.query else ""))
    query = f"?{request.url.query}" if request.url.query and request.method == "GET" else ""
    return within(request.url.path + query)


def within(back: str) -> str:
    """A path of ours; the first page, for whatever leads elsewhere."""
    ours = back.startswith("/") and not back.startswith("//") and "\\" not in back and back.isprintable()
    return back if ours else "/"


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("services.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["yaml"] = as_yaml
    return made
