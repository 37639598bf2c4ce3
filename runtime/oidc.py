"""Who calls: bearer tokens of an OpenID Connect issuer, and as what it lets them in.

A token is a JWT (RFC 9068 in spirit): signed with one of three algorithms by a key of the issuer's, for our audience,
within its time. Anything else about it is the issuer's business, but for two claims that name the caller and its roles.
"""

from __future__ import annotations

import json
import logging
import ssl
import time
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from threading import Lock
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jwt import JWTClaimsRegistry

from runtime.http import ProblemError, unauthenticated
from runtime.settings import IssuerSettings

log = logging.getLogger("estuaire.oidc")

ALGORITHMS: Final = ("ES256", "PS256", "RS256")
"""Signatures alone, by keys that the issuer keeps to itself."""
LEEWAY: Final = 30
"""Seconds that the clocks of the issuer and of ours may differ."""
_FRESH, _STALE, _APART = 300.0, 3600.0, 10.0
_LONGEST_TOKEN: Final = 16_384
_LONGEST_ANSWER: Final = 1_000_000


GUARDED: Final = {401: "No token of the issuer's.", 403: "It is for another role."}
"""What a route behind a gate answers besides."""


class Caller(NamedTuple):
    """Somebody whom the issuer knows: by what name, and as what."""

    name: str
    roles: frozenset[str]


class Gate(Protocol):
    """Lets somebody in, or not."""

    def name(self, authorization: str | None) -> str:
        """Who holds an `Authorization` header. Raises a 401 problem, or a 403 problem for who may not come in here."""


class Callers(Protocol):
    """Knows who calls."""

    def caller(self, authorization: str | None) -> Caller:
        """Who holds an `Authorization` header. Raises a 401 problem."""


class KeysAway(Exception):
    """The issuer's keys cannot be had."""


class Issuer:
    """Reads an issuer's tokens. Its keys are fetched when they are needed, and again every five minutes."""

    def __init__(
        self,
        settings: IssuerSettings,
        fetch: Callable[[str], Any] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`fetch` gives the JSON document at an address; raises OSError or ValueError. Raises ValueError."""
        self._issuer = settings.oidc_issuer
        self._keys_at = settings.oidc_keys
        self._document = settings.oidc_document
        check_address(self._keys_at or self._document)
        self._name_claim = settings.oidc_name_claim
        self._roles_claim = settings.oidc_roles_claim.split(".")
        self._claims = JWTClaimsRegistry(
            lambda: int(clock()),
            LEEWAY,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": settings.oidc_audience},
            exp={"essential": True},
            iat={"essential": True},
        )
        self._fetch = fetch or partial(_fetch, trust(settings))
        self._clock = clock
        self._lock = Lock()
        self._keys: KeySet | None = None
        self._fetched = self._tried = float("-inf")

    def caller(self, authorization: str | None) -> Caller:
        """Who holds the token. Raises a 401 problem, the same for every failure, or a 503 problem without keys."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise unauthenticated()
        return self.called(self.claims(token.strip()))

    def claims(self, token: str) -> dict[str, Any]:
        """What a token says that is the issuer's, for our audience, in time. Raises what `caller` does."""
        if not token or len(token) > _LONGEST_TOKEN:
            raise unauthenticated()
        try:
            claims = self._read(token)
            self._claims.validate(claims)
        except KeysAway:
            raise ProblemError(
                503, "the issuer of tokens does not answer", "Try again later.", {"Retry-After": "10"}
            ) from None
        except (JoseError, ValueError, TypeError, KeyError, AttributeError):
            raise unauthenticated() from None
        return claims

    def called(self, claims: Mapping[str, Any]) -> Caller:
        """Who holds a token that says this. Raises a 401 problem where it names nobody."""
        name = claims.get(self._name_claim)
        if not isinstance(name, str) or not 0 < len(name) <= 256:
            raise unauthenticated()
        found: Any = claims
        for part in self._roles_claim:
            found = found.get(part) if isinstance(found, Mapping) else None
        listed = found if isinstance(found, list) else []
        return Caller(name, frozenset(one for one in listed if isinstance(one, str)))

    def _read(self, token: str) -> dict[str, Any]:
        """The claims of a token whose signature is good. A key that is not known may be a new one."""
        keys = self._known(again=False)
        try:
            return jwt.decode(token, keys, list(ALGORITHMS)).claims
        except (JoseError, ValueError):
            newer = self._known(again=True)
            if newer is keys:
                raise
            return jwt.decode(token, newer, list(ALGORITHMS)).claims

    def _known(self, *, again: bool) -> KeySet:
        """The issuer's keys, fetched if they are old or are asked for again, but not more often than in 10 seconds."""
        with self._lock:
            now = self._clock()
            if (again or now - self._fetched > _FRESH) and now - self._tried > _APART:
                self._tried = now
                try:
                    self._keys = self._get()
                    self._fetched = now
                except (OSError, ValueError, KeyError, TypeError, AttributeError, JoseError) as trouble:
                    log.warning("the keys of the issuer of tokens cannot be had: %s", type(trouble).__name__)
            if self._keys is None or now - self._fetched > _STALE:
                raise KeysAway
            return self._keys

    def _get(self) -> KeySet:
        address = self._keys_at
        if not address:
            found = self._fetch(self._document)
            if found["issuer"] != self._issuer:
                raise ValueError("the document is another issuer's")
            address = str(found["jwks_uri"])
            check_address(address)
        listed = self._fetch(address)["keys"]
        signing = [one for one in listed if one.get("use", "sig") == "sig" and one.get("kty") in ("EC", "RSA")]
        return KeySet.import_key_set({"keys": signing})


class Role:
    """A gate for those who have one role."""

    def __init__(self, callers: Callers, role: str) -> None:
        self._callers = callers
        self._role = role

    def name(self, authorization: str | None) -> str:
        """Who comes in. Raises a 401 problem, or a 403 problem without the role."""
        caller = self._callers.caller(authorization)
        if self._role not in caller.roles:
            raise forbidden(self._role)
        return caller.name


def forbidden(*roles: str) -> ProblemError:
    """For who is known, and may not do this."""
    return ProblemError(403, "not allowed", f"This is for: {', '.join(roles)}.")


def check_address(address: str) -> None:
    """Raises ValueError for one where anybody on the way could answer in the issuer's place."""
    parts = urlsplit(address)
    if parts.scheme not in ("https", "file") and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError("the issuer of tokens and its keys have to be at https:// addresses, or on this machine")


_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")


def trust(settings: IssuerSettings) -> ssl.SSLContext:
    """By whose word a server is the issuer's: the system's authorities, or the one that is named. Raises ValueError."""
    try:
        return ssl.create_default_context(cafile=settings.oidc_ca or None)
    except OSError:
        raise ValueError("the authority of the issuer's certificate (ESTUAIRE_OIDC_CA) cannot be read") from None


def _fetch(trusted: ssl.SSLContext, address: str) -> Any:
    request = urllib.request.Request(address, headers={"Accept": "application/json"})  # noqa: S310 - checked before
    with urllib.request.urlopen(request, timeout=5, context=trusted) as answer:  # noqa: S310
        return json.loads(answer.read(_LONGEST_ANSWER))
