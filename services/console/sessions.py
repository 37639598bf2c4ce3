"""Who has signed in: sessions in memory, so that a token never reaches a browser, and a session ends when it is ended.

A restart of the console forgets them; where there is an identity provider, signing in again asks nobody for a password
as long as its own session lasts.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final

from runtime.oidc import Caller
from services.console.sign_in import AWAY, SignInError, Tokens

LONGEST: Final = 12 * 3600.0
"""Seconds after which somebody signs in anew, whatever the issuer would go on with."""
_MOST: Final = 10_000
_EARLY: Final = 15.0
_APART: Final = 5.0
"""Seconds until an issuer that was away is asked again."""

Renew = Callable[[str], Tokens]
"""Tokens for a refresh token. Raises SignInError."""


@dataclass(slots=True)
class Session:
    """Somebody who has signed in, with their tokens. `form_key` is in each of their forms."""

    tokens: Tokens
    began: float
    renews: float = 0.0
    """Not before this moment is the issuer asked for new tokens."""
    form_key: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    rounds: dict[str, Any] = field(default_factory=dict)
    """What they sent round again last at each step, as it has answered."""
    done: tuple[str, str] = ("", "")
    """A page, and what was done that led to it, until that page has said so."""
    lock: Lock = field(default_factory=Lock)

    @property
    def caller(self) -> Caller:
        """By what name, and as what."""
        return self.tokens.caller


class Sessions:
    """All sessions, by the secret that a cookie has."""

    def __init__(self, renew: Renew | None, clock: Callable[[], float] = time.time) -> None:
        self._renew = renew
        self._clock = clock
        self._lock = Lock()
        self._sessions: dict[str, Session] = {}

    def begin(self, tokens: Tokens) -> str:
        """Begin one; the secret for the cookie."""
        secret = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._sessions) >= _MOST:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[secret] = Session(tokens, self._clock())
        return secret

    def find(self, secret: str | None) -> Session | None:
        """The session, with a token that is good for a while yet; None where there is none any more."""
        session = self._sessions.get(secret or "")
        if session is None:
            return None
        with session.lock:  # of two pages at once, one renews
            good = self._is_good(session)
        if good is False:
            self.end(secret)
        return session if good else None

    def end(self, secret: str | None) -> Session | None:
        """End it; the session that it was."""
        with self._lock:
            return self._sessions.pop(secret or "", None)

    def _is_good(self, session: Session) -> bool | None:
        """None where it may be good again, once the issuer answers."""
        now = self._clock()
        if now - session.began > LONGEST:
            return False
        if now < session.tokens.expires - _EARLY:
            return True
        if self._renew is None or session.tokens.refresh is None:
            return now < session.tokens.expires
        if now < session.renews:
            return now < session.tokens.expires or None
        try:
            renewed = self._renew(session.tokens.refresh)
        except SignInError as why:
            now = self._clock()
            session.renews = now + _APART
            return (now < session.tokens.expires or None) if str(why) == AWAY else False
        kept = session.tokens
        session.tokens = renewed._replace(refresh=renewed.refresh or kept.refresh, identity=kept.identity)
        return True
