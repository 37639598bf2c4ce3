"""A real Keycloak: its distribution from Maven Central, in the user's cache, run natively over `infra/keycloak`."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx

from estuaire.process import Child, Lock, free_port

VERSION = "26.7.3"
REALM = Path(__file__).parents[1] / "infra" / "keycloak" / "realm.json"
SCOPE = "estuaire"


class NoKeycloak(Exception):
    """It cannot be had here. One line that says why."""


class Keycloak:
    """Started with `with`, in development mode on 127.0.0.1 over plain HTTP."""

    def __init__(self, folder: Path) -> None:
        self._home = folder / f"keycloak-{VERSION}"
        self._folder = folder
        self._password = os.urandom(12).hex()
        self.url = f"http://127.0.0.1:{free_port()}"
        self.issuer = f"{self.url}/realms/estuaire"
        self._child: Child | None = None
        self._http = httpx.Client(base_url=self.url, timeout=30)

    def __enter__(self) -> Keycloak:
        with zipfile.ZipFile(distribution()) as archive:
            archive.extractall(self._folder)
        (self._home / "data" / "import").mkdir(parents=True, exist_ok=True)
        shutil.copy(REALM, self._home / "data" / "import")
        environment = os.environ | {
            "KC_BOOTSTRAP_ADMIN_USERNAME": "admin",
            "KC_BOOTSTRAP_ADMIN_PASSWORD": self._password,
            "JAVA_OPTS_KC_HEAP": "-Xms128m -Xmx512m",
            "JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1",
        }
        port = self.url.rpartition(":")[2]
        options = ["--http-host=127.0.0.1", f"--http-port={port}", "--import-realm", "--cache=local"]
        command = ["sh", str(self._home / "bin" / "kc.sh"), "start-dev", *options]
        log = self._folder / "keycloak.log"
        self._child = Child(command, log, environment=environment)
        deadline = time.monotonic() + 240
        while not self._answers():
            assert self._child.running() and time.monotonic() < deadline, self._child.last_error()
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        if self._child is not None:
            self._child.stop()

    def client(self, name: str, *roles: str, scope: bool = True, **attributes: str) -> str:
        """Make a confidential client with a service account in these roles; returns its secret."""
        secret = os.urandom(16).hex()
        made = self._admin(
            "POST",
            "/clients",
            {
                "clientId": name,
                "secret": secret,
                "publicClient": False,
                "serviceAccountsEnabled": True,
                "standardFlowEnabled": False,
                "defaultClientScopes": ["basic", *([SCOPE] if scope else [])],
                "attributes": attributes,
            },
        )
        account = self._admin("GET", f"/clients/{_id(made)}/service-account-user").json()
        self._give_roles(account["id"], roles)
        return secret

    def page_client(self, name: str, url: str) -> None:
        """Make a public client, as the realm's `console` is, for a console at another address."""
        (like,) = self._admin("GET", "/clients?clientId=console").json()
        own = {"redirectUris": [f"{url}/signed-in"], "clientId": name}
        attributes = like["attributes"] | {"post.logout.redirect.uris": f"{url}/sign-in"}
        self._admin("POST", "/clients", {**like, **own, "attributes": attributes, "id": None})

    def user(self, name: str, *roles: str) -> str:
        """Make somebody in these roles; returns their password."""
        password = os.urandom(16).hex()
        person = {"firstName": name, "lastName": name, "email": f"{name}@hub.example", "emailVerified": True}
        credentials = [{"type": "password", "value": password, "temporary": False}]
        made = self._admin("POST", "/users", {"username": name, "enabled": True, **person, "credentials": credentials})
        self._give_roles(_id(made), roles)
        return password

    def sign_in(self, address: str, name: str, password: str) -> str:
        """Sign in on its page, as a browser would; returns where it leads back to, with a code."""
        with httpx.Client(timeout=30, follow_redirects=False) as browser:
            page = browser.get(address)
            assert page.status_code == httpx.codes.OK, page.text
            action = re.search(r'<form[^>]*action="([^"]+)"', page.text)
            assert action is not None, page.text
            # its cookies are `Secure`, which browsers send to 127.0.0.1 all the same, and httpx does not
            cookies = "; ".join(f"{one.name}={one.value}" for one in browser.cookies.jar)
            form = {"username": name, "password": password}
            answer = browser.post(html.unescape(action[1]), data=form, headers={"Cookie": cookies})
            assert answer.status_code == httpx.codes.FOUND, answer.text
            return str(answer.headers["location"])

    def tokens(self, name: str, secret: str, scope: str = "", realm: str = "estuaire") -> dict[str, Any]:
        """What its token endpoint gives this client for its credentials."""
        form = {"grant_type": "client_credentials", "client_id": name, "client_secret": secret}
        if scope:
            form["scope"] = scope
        answer = self._http.post(f"/realms/{realm}/protocol/openid-connect/token", data=form)
        assert answer.status_code == httpx.codes.OK, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def token(self, name: str, secret: str) -> str:
        """An access token of this client."""
        return str(self.tokens(name, secret)["access_token"])

    def admins_token(self) -> str:
        """A token of the realm `master`, for its own administration."""
        form = {"grant_type": "password", "client_id": "admin-cli", "username": "admin", "password": self._password}
        answer = self._http.post("/realms/master/protocol/openid-connect/token", data=form)
        assert answer.status_code == httpx.codes.OK, answer.text
        return str(answer.json()["access_token"])

    def rotate(self) -> None:
        """Sign with a new key from now on."""
        realm = self._admin("GET", "").json()
        config = {"priority": ["200"], "keySize": ["2048"], "algorithm": ["RS256"], "active": ["true"]}
        key = {"name": "next", "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider"}
        self._admin("POST", "/components", {**key, "parentId": realm["id"], "config": config})

    def _give_roles(self, user: str, roles: Iterable[str]) -> None:
        known = {one["name"]: one for one in self._admin("GET", "/roles").json()}
        self._admin("POST", f"/users/{user}/role-mappings/realm", [known[one] for one in roles])

    def _admin(self, method: str, path: str, body: Any = None) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.admins_token()}"}
        answer = self._http.request(method, f"/admin/realms/estuaire{path}", headers=headers, json=body)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer

    def _answers(self) -> bool:
        try:
            return self._http.get("/realms/estuaire/.well-known/openid-configuration").is_success
        except httpx.TransportError:
            return False


def _id(made: httpx.Response) -> str:
    """The id of what was made."""
    return str(made.headers["location"]).rpartition("/")[2]


def distribution() -> Path:
    """The distribution's archive, downloaded once into the user's cache. Raises NoKeycloak."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "estuaire"
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / f"keycloak-quarkus-dist-{VERSION}.zip"
    if archive.exists():
        return archive
    if shutil.which("java") is None or (maven := shutil.which("mvn")) is None:
        raise NoKeycloak("Java 17 and Maven are needed")
    with Lock(cache / "keycloak.lock"):
        if not archive.exists():
            artifact = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
            command = [maven, "-q", "-B", "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"]
            loading = cache / "keycloak.loading"
            done = subprocess.run(
                [*command, f"-Dartifact={artifact}", f"-DoutputDirectory={loading}"],
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
                cwd=cache,
            )
            if done.returncode:
                raise NoKeycloak(f"it cannot be downloaded: {json.dumps(done.stdout[-300:])}")
            (loading / archive.name).replace(archive)
    return archive
