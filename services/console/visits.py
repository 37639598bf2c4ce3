"""Somebody at a page: in which language, as whom, and what every answer to them carries.

A route says by the type of its first parameter who comes in: `AtPage` is anybody, `SignedIn` somebody with a session
and a role that `menu.py` lets in there, `Sent` the same with a form that was really shown to them.
"""

from __future__ import annotations

import datetime as dt
import hmac
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

from fastapi import Depends, Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Match

from runtime.http import ProblemError
from runtime.oidc import Issuer, forbidden
from services.console.adapters import Hub, Links, Refusal
from services.console.domain.forms import Given, as_yaml
from services.console.menu import MENU, roles_at
from services.console.sessions import Session, Sessions
from services.console.sign_in import Provider
from services.console.wording import LANGUAGES, PARIS, Words, breakable, preferred

LANGUAGE: Final = "estuaire-language"
FORM_KEY: Final = "form_key"
"""The field of every form that shows that we have made it for this session."""
_LONGEST_FORM: Final = 1_000_000
_FORM: Final = "application/x-www-form-urlencoded"


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
    def undone(self) -> str:
        """The cookie of who has sent a form without a session: nothing was done."""
        return f"{self.cookie}-undone"

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

    def told(self, away: list[str], *asked: tuple[str, str]) -> list[Any]:
        """What services say at these paths, all asked at once; None where one knows nothing of it, or fails, which is
        noted in `away`: who is there is not asked again. Raises Refusal for what was not to be asked."""

        def answered(one: tuple[str, str]) -> Any:
            of, path = one
            try:
                return None if of in away else self.ask("GET", path, of=of)
            except Refusal as refusal:
                return refusal

        with ThreadPoolExecutor(len(asked)) as threads:
            found = list(threads.map(answered, asked))
        for (of, _), one in zip(asked, found, strict=True):
            if not isinstance(one, Refusal) or one.status == 404:
                continue
            if one.status < 500:
                raise one
            if of not in away:
                away.append(of)
        return [None if isinstance(one, Refusal) else one for one in found]

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page, or a part of one."""
        path = self.request.url.path
        query = f"?{self.request.url.query}" if self.request.url.query and self.request.method == "GET" else ""
        common = {
            "t": self.words,
            "status": status,
            "languages": LANGUAGES,
            "session": self.session,
            "roles": self.roles,
            "menu": [one for one in MENU if not one.roles or one.roles & self.roles],
            "path": path,
            "traces": self.desk.traces,
            "here": quote(path + query, safe="/"),
            "undone": self.desk.undone in self.request.cookies,
        }
        answer = HTMLResponse(_templates().get_template(template).render(common | values), status)
        if common["undone"] and self.session and not self.is_part:
            self.desk.forget(answer, self.desk.undone)
        return answer

    def go(self, path: str, done: str = "") -> Response:
        """To another page, after what was done here, which it then says once."""
        if self.session and done:
            self.session.done = (path, done)
        return RedirectResponse(path, 303)

    def done(self) -> str:
        """What was done that led to this page, once."""
        if self.session is None or self.is_part or self.session.done[0] != self.request.url.path:
            return ""
        (_, done), self.session.done = self.session.done, ("", "")
        return done


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
    """Somebody with a session, and a role that is let in here. Raises SignInNeeded, or a 403 problem."""
    if visit.session is None:
        raise SignInNeeded(whereabouts(visit.request))
    roles = roles_at(visit.request.scope["route"].path, visit.request.path_params.get("act", ""))
    if roles and not roles & visit.roles:
        raise forbidden(*sorted(roles))
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
    """Somebody who sent a form that we have shown to them. Raises what `signed_in` does, or a 403 problem for another's
    form."""
    key = visit.session.form_key if visit.session else ""
    if not hmac.compare_digest(key.encode(), "".join(given.pop(FORM_KEY, ())).encode()):
        raise ProblemError(403, "not sent from here", "The form was not made for this session: load its page again.")
    return Posted(visit, given)


Sent = Annotated[Posted, Depends(posted)]


def whereabouts(request: Request) -> str:
    """The page that somebody is on, to come back to."""
    if "hx-request" in request.headers:
        page = _split(request.headers.get("hx-current-url", ""))
    elif request.method == "POST":
        page = _page_of_form(request)
    else:
        page = _split(str(request.url))
    return within(page.path + (f"?{page.query}" if page.query else ""))


def _page_of_form(request: Request) -> SplitResult:
    """Where a form was sent from, as the browser says; if that is no page of ours, the one of the menu it is of."""
    desk: Desk = request.app.state.desk
    page = _split(request.headers.get("referer", ""))
    routes = request.app.routes
    scope = {"type": "http", "method": "GET", "path": page.path}
    # the first of this path, whatever its method: the pattern of another page may fit the address of an act
    at = next((getattr(one, "path", None) for one in routes if one.matches(scope)[0] is not Match.NONE), None)
    answers = any(getattr(one, "path", None) == at and "GET" in (getattr(one, "methods", None) or ()) for one in routes)
    if page.netloc == urlsplit(desk.url).netloc and answers:
        return page
    path = request.url.path
    return urlsplit(next((one.path for one in MENU if path.startswith(f"{one.path}/")), "/"))


def _split(address: str) -> SplitResult:
    """An address in its parts; nothing of what is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


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
    made.filters["breakable"] = breakable
    return made
