"""Signing in at an OpenID Connect issuer: authorization code with PKCE (RFC 7636), state and nonce.

The issuer is asked by the browser for a code, and by the console for tokens. What it answers counts only if it carries
the state and the nonce that this browser was sent away with, and is signed by the issuer for this client.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode, urlsplit

import httpx

from runtime.http import ProblemError
from runtime.oidc import Caller, Issuer, check_address, trust
from services.console.settings import ConsoleSettings

CALLBACK: Final = "/signed-in"
AWAY: Final = "away"
"""Why nobody is signed in, where the issuer does not answer: it may later."""


class SignInError(Exception):
    """Nobody is signed in. Which of the sentences of the sign-in page says why."""


class Tokens(NamedTuple):
    """What somebody came back with: who they are, the access token and until when it is good, and what renews it."""

    caller: Caller
    access: str
    expires: float
    refresh: str | None = None
    identity: str | None = None


class Errand(NamedTuple):
    """What a browser keeps while it is at the issuer: nobody else can bring back its code. `back` is where it was."""

    state: str
    nonce: str
    verifier: str
    back: str

    def packed(self) -> str:
        """As a cookie's value."""
        return base64.urlsafe_b64encode(json.dumps(self).encode()).decode().rstrip("=")


def unpacked(cookie: str | None) -> Errand:
    """From a cookie's value. Raises SignInError."""
    try:
        state, nonce, verifier, back = json.loads(base64.urlsafe_b64decode((cookie or "") + "=="))
        errand = Errand(str(state), str(nonce), str(verifier), str(back))
        "".join(errand).encode()  # which half a character cannot be
        return errand
    except (ValueError, TypeError, RecursionError):
        raise SignInError("interrupted") from None


def tokens_of(issuer: Issuer, access: str, refresh: str | None = None, identity: str | None = None) -> Tokens:
    """Tokens whose access token is the issuer's, for the hub. Raises SignInError."""
    try:
        claims = issuer.claims(access)
        return Tokens(issuer.called(claims), access, float(claims["exp"]), refresh, identity)
    except ProblemError as problem:
        raise SignInError(AWAY if problem.status_code == httpx.codes.SERVICE_UNAVAILABLE else "refused") from None


class Provider:
    """The issuer, where it has a page to sign in on."""

    def __init__(self, settings: ConsoleSettings, issuer: Issuer, http: httpx.Client | None = None) -> None:
        """Raises ValueError for an issuer that is at no address one can trust."""
        self._settings = settings
        self._issuer = issuer
        # an identity token is for the client, where an access token is for the hub
        self._identities = Issuer(settings.model_copy(update={"oidc_audience": settings.client_id}))
        check_address(settings.oidc_document)
        self._http = http or httpx.Client(timeout=10, verify=trust(settings))
        self._configuration: dict[str, Any] | None = None
        self.origin = "{0.scheme}://{0.netloc}".format(urlsplit(settings.oidc_issuer))

    def begin(self, back: str) -> tuple[str, Errand]:
        """Where to send the browser, and what it keeps meanwhile. Raises SignInError."""
        errand = Errand(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(32), back)
        digest = hashlib.sha256(errand.verifier.encode()).digest()
        asked = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._settings.url + CALLBACK,
            "scope": self._settings.scope,
            "state": errand.state,
            "nonce": errand.nonce,
            "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        return f"{self._known()['authorization_endpoint']}?{urlencode(asked)}", errand

    def finish(self, errand: Errand, state: str, code: str) -> Tokens:
        """Tokens for the code that the browser came back with. Raises SignInError."""
        if not hmac.compare_digest(errand.state.encode(), state.encode()):
            raise SignInError("interrupted")
        said = self._ask(
            grant_type="authorization_code",
            code=code,
            redirect_uri=self._settings.url + CALLBACK,
            code_verifier=errand.verifier,
        )
        identity = str(said.get("id_token", ""))
        try:
            claims = self._identities.claims(identity)
        except ProblemError:
            raise SignInError("refused") from None
        if not hmac.compare_digest(str(claims.get("nonce", "")).encode(), errand.nonce.encode()):
            raise SignInError("interrupted")
        return self._tokens(said, identity)

    def renew(self, refresh: str) -> Tokens:
        """New tokens for a refresh token. Raises SignInError."""
        return self._tokens(self._ask(grant_type="refresh_token", refresh_token=refresh), None)

    def leave(self, identity: str | None) -> str | None:
        """Where to end the issuer's own session (RP-Initiated Logout 1.0); None where it has no page for that.

        Raises SignInError.
        """
        page = self._known().get("end_session_endpoint")
        if not page:
            return None
        asked = {"client_id": self._settings.client_id, "post_logout_redirect_uri": f"{self._settings.url}/sign-in"}
        return f"{page}?{urlencode(asked | ({'id_token_hint': identity} if identity else {}))}"

    def _tokens(self, said: dict[str, Any], identity: str | None) -> Tokens:
        return tokens_of(self._issuer, str(said.get("access_token", "")), said.get("refresh_token"), identity)

    def _ask(self, **form: str) -> dict[str, Any]:
        """The token endpoint's answer. Raises SignInError."""
        client, secret = self._settings.client_id, self._settings.client_secret.get_secret_value()
        sent = {**form, "client_id": client} | ({"client_secret": secret} if secret else {})
        try:
            answer = self._http.post(self._known()["token_endpoint"], data=sent)
            said = answer.json()
        except (httpx.HTTPError, ValueError):
            raise SignInError(AWAY) from None
        if answer.is_server_error:
            raise SignInError(AWAY)
        if not answer.is_success or not isinstance(said, dict):
            raise SignInError("refused")
        return said

    def _known(self) -> dict[str, Any]:
        """The issuer's configuration, asked for once. Raises SignInError."""
        if self._configuration is None:
            try:
                found = self._http.get(self._settings.oidc_document).raise_for_status().json()
                if found["issuer"] != self._settings.oidc_issuer or "authorization_endpoint" not in found:
                    raise ValueError
                check_address(found["token_endpoint"])
            except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
                raise SignInError(AWAY) from None
            self._configuration = found
        return self._configuration
