"""A real Keycloak: its distribution from Maven Central, in the user's cache, run as the compose file has it."""

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
import yaml

from estuaire.deployment import COMPOSE, prepare
from estuaire.process import Child, Lock, free_port

INFRA = Path(__file__).parents[1] / "infra"
FILE, BUILD = INFRA / "compose.keycloak.yaml", INFRA / "keycloak" / "Dockerfile"
VERSION = str(re.findall(r"keycloak:([\d.]+)\}", FILE.read_text())[0])
WITHIN = "https://keycloak:8443"
"""Where services ask it, in the compose file's networks."""
SCOPE = "estuaire"


class NoKeycloak(Exception):
    """It cannot be had here. One line that says why."""


class Realm:
    """The realm of infra/keycloak at a Keycloak that runs, and what its administrator does there."""

    def __init__(self, url: str, password: str) -> None:
        self.url = url
        self.issuer = f"{url}/realms/estuaire"
        self._password = password
        self._http = httpx.Client(base_url=url, timeout=30)

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

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            return self._http.get("/realms/estuaire/.well-known/openid-configuration").is_success
        except httpx.TransportError:
            return False


class Keycloak(Realm):
    """Started with `with`, by the command and settings of infra/compose.keycloak.yaml, on a deployment's certificate.

    Other than there it listens on 127.0.0.1: for browsers at `url` over plain HTTP, for services over TLS.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._hub = folder, folder / "hub"
        http, self._port = free_port(), free_port()
        super().__init__(f"http://127.0.0.1:{http}", "")
        self._child: Child | None = None

    def __enter__(self) -> Keycloak:
        home = Path(shutil.copytree(built(), self._folder / "keycloak"))
        prepare(self._hub, COMPOSE)
        self._password = (self._hub / "keycloak" / "config" / "admin").read_text()
        own = self._composed("keycloak", {"/opt/keycloak": str(home)})
        (home / "data" / "import").mkdir(parents=True)
        shutil.copy(INFRA / "keycloak" / "realm.json", home / "data" / "import")
        environment = os.environ | own["environment"]
        environment |= {"KC_HTTP_HOST": "127.0.0.1", "KC_HTTPS_PORT": str(self._port)}
        environment |= {"KC_HTTP_PORT": self.url.rpartition(":")[2], "JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1"}
        self._child = Child(
            [*own["entrypoint"], *own["command"]], self._folder / "keycloak.log", environment=environment
        )
        deadline = time.monotonic() + 240
        while not self.answers():
            assert self._child.running() and time.monotonic() < deadline, self._child.last_error()
            time.sleep(0.2)
        return self

    def settings(self, service: str) -> dict[str, str]:
        """What the compose file tells a service of it, by the names of `IssuerSettings`."""
        found = self._composed(service, {WITHIN: f"https://localhost:{self._port}"})["environment"]
        return {name.removeprefix("ESTUAIRE_").lower(): text for name, text in found.items() if "_OIDC_" in name}

    def _composed(self, service: str, places: dict[str, str]) -> Any:
        """A service of the compose file, with what it mounts where that is here, and these places for those there."""
        variables = {"KEYCLOAK_URL": self.url, "ESTUAIRE_FOLDER": str(self._hub)}
        text = re.sub(
            r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda one: variables.get(one[1], one[2] or ""), FILE.read_text()
        )
        found = yaml.safe_load(text)["services"][service]
        mounts = (one.split(":") for one in found["volumes"])
        places = {target: source for source, target, *_ in mounts if source.startswith("/")} | places
        for there, here in [*places.items(), ("$$", "$")]:
            found = json.loads(json.dumps(found).replace(there, here))
        return found

    def __exit__(self, *_: object) -> None:
        self._http.close()
        if self._child is not None:
            self._child.stop()


def _id(made: httpx.Response) -> str:
    """The id of what was made."""
    return str(made.headers["location"]).rpartition("/")[2]


def cache() -> Path:
    """The user's."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "estuaire"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def built() -> Path:
    """Its distribution, built as infra/keycloak has it, once in the user's cache. Raises NoKeycloak."""
    archive, folder = distribution(), cache() / f"keycloak-{VERSION}"
    with Lock(cache() / "keycloak.lock") as lock:
        if not lock.take(600):
            raise NoKeycloak(f"another process holds {lock.path}")
        if not folder.exists():
            partial = cache() / "keycloak.partial"
            shutil.rmtree(partial, ignore_errors=True)
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(partial)
            settings = dict(re.findall(r"^ENV (\w+)=(\S+)$", BUILD.read_text(), re.MULTILINE))
            program = partial / folder.name / "bin" / "kc.sh"
            program.chmod(0o755)
            done = subprocess.run(
                [str(program), "build"],
                env=os.environ | settings,
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
            )
            if done.returncode:
                raise NoKeycloak(f"it cannot be built: {json.dumps(done.stdout[-300:])}")
            (partial / folder.name).rename(folder)
    return folder


def distribution() -> Path:
    """The distribution's archive, downloaded once into the user's cache. Raises NoKeycloak."""
    archive = cache() / f"keycloak-quarkus-dist-{VERSION}.zip"
    if archive.exists():
        return archive
    if shutil.which("java") is None or (maven := shutil.which("mvn")) is None:
        raise NoKeycloak("Java 17 and Maven are needed")
    with Lock(cache() / "keycloak.loading.lock") as lock:
        if lock.take(600) and not archive.exists():
            artifact = f"org.keycloak:keycloak-quarkus-dist:{VERSION}:zip"
            command = [maven, "-q", "-B", "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"]
            loading = cache() / "keycloak.loading"
            done = subprocess.run(
                [*command, f"-Dartifact={artifact}", f"-DoutputDirectory={loading}"],
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
                cwd=cache(),
            )
            if done.returncode:
                raise NoKeycloak(f"it cannot be downloaded: {json.dumps(done.stdout[-300:])}")
            (loading / archive.name).replace(archive)
    return archive
