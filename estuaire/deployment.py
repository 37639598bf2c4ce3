"""A hub in containers: the folder with its keys, accounts and certificates, and what these make of its servers.

`prepare` writes the folder, which is a home like that of the platform on one machine: the commands work in it. Each
service is given its own parts alone. `establish` brings a broker and a database to what the folder says. On Kubernetes
the operators of Kafka and PostgreSQL do that, from Secrets that `prepare` writes.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, NamedTuple

import psycopg
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from contracts import acl
from contracts.registry import topics_to_create
from estuaire.broker import BROKER, INFRA, answers, security
from estuaire.console import links_folder
from estuaire.database import ADMIN as DATABASE_ADMIN
from estuaire.database import Database, close_shared
from estuaire.home import addresses
from estuaire.keyring import ADMIN, ISSUER, Keyring
from estuaire.passwords import Passwords, sasl
from estuaire.platform import CHECKPOINTS, DATABASES, OWN_FILES, READERS, SERVICES
from estuaire.process import Report, StartError
from estuaire.rights import Rights, RightsKeeper, write_accounts
from runtime.kafka import create_topics
from runtime.settings import RuntimeSettings

USER: Final = 65532
"""Whom the containers run as, where the folder is made by root."""
PORT: Final = 8000
"""Where every service listens in its container."""
RIGHTS: Final = "rights"
"""Who keeps the rights of subscribers, as the operator."""
KAFKA, POSTGRES, KEYCLOAK = "kafka", "postgres", "keycloak"
"""Where the servers of the compose files listen in their networks."""
HERE: Final = "localhost"
CERTIFICATE_DAYS, AUTHORITY_DAYS = 825, 3650
WAIT_SECONDS: Final = 120


class Surroundings(NamedTuple):
    """Where a deployment's servers are, and how their clients know them."""

    broker: str
    database: str
    """The host of the database `{name}`."""
    options: str = ""
    """What a database's URL ends with."""
    connection: Mapping[str, str] = {}
    """How clients connect to the broker besides."""


COMPOSE: Final = Surroundings(f"{KAFKA}:9093", POSTGRES)
KUBERNETES: Final = Surroundings(
    "hub-kafka-bootstrap:9093",
    "{name}-database-rw",
    "?sslmode=verify-full&sslrootcert=/etc/estuaire/database-ca/ca.crt",
    {"security.protocol": "SASL_SSL", "ssl.ca.location": "/etc/estuaire/broker-ca/ca.crt"},
)


class Deployment:
    """The hub of a folder, as a client of it sees it from where its names lead to its servers."""

    def __init__(self, folder: Path) -> None:
        self.keyring = Keyring(folder)
        self._addresses = addresses(folder)
        if not self._addresses:
            raise StartError(f"{folder} is not the folder of a deployment: make it by `estuaire deployment prepare`")

    @property
    def ingest_url(self) -> str:
        """Where producers send."""
        return self._addresses["ESTUAIRE_INGEST_URL"]

    @property
    def access_url(self) -> str:
        """Where subscribers and officers ask."""
        return self._addresses["ESTUAIRE_ACCESS_URL"]

    def settings(self) -> RuntimeSettings:
        """Settings for the operator."""
        return self.settings_as(ADMIN)

    def settings_as(self, principal: str) -> RuntimeSettings:
        """Settings for a client that goes by this principal."""
        return self._settings(self.keyring.kafka_config(principal))

    def settings_as_broker(self) -> RuntimeSettings:
        """Settings for the broker's own account, which is there before any other; of the compose file's broker."""
        password = self.keyring.passwords([BROKER])[BROKER]
        return self._settings(
            self.keyring.kafka_config(ADMIN)
            | {name: value for name, value in sasl("PLAIN", BROKER, password).items() if name != "security.protocol"}
        )

    def _settings(self, kafka_config: Mapping[str, str]) -> RuntimeSettings:
        found = RuntimeSettings(bootstrap_servers=self._addresses["ESTUAIRE_BROKER"])
        return found.model_copy(update={"kafka_config": dict(kafka_config)})


# --- the folder ---


def prepare(folder: Path, surroundings: Surroundings, names: Iterable[str] = ()) -> None:
    """Make what a deployment needs and is not there; keys, passwords and certificates that are there stay.

    `names` are those that the broker's certificate is for, besides the one in its network; by the first, clients
    elsewhere are to reach it. Raises OSError.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    keyring, passwords = Keyring(folder), Passwords(folder / "keys" / "postgres.json")
    keyring.prepare()
    (folder / "hub").mkdir(exist_ok=True)
    for name in OWN_FILES:
        if not (folder / "hub" / name).exists():
            (folder / "hub" / name).write_bytes((files("estuaire") / "data" / name).read_bytes())
    if surroundings is COMPOSE:
        names = tuple(names)
        authority = _Authority(folder / "kafka")
        authority.issue(folder / "kafka" / "config" / "broker.pem", "Estuaire broker", (KAFKA, HERE, *names))
        authority.issue(folder / KEYCLOAK / "config" / "server.pem", "Estuaire identity provider", (KEYCLOAK, HERE))
        keyring.connect({"security.protocol": "SASL_SSL", "ssl.ca.pem": authority.pem})
        _write_servers(folder, keyring, passwords, next(iter(names), HERE))
    else:
        keyring.connect(surroundings.connection)
    for service, found in _settings(keyring, passwords, surroundings).items():
        for name, value in found.items():
            _write(folder / "secrets" / service / name, value)
    (folder / "addresses.json").write_text(json.dumps(_addresses(surroundings), indent=1))
    if surroundings is KUBERNETES:
        documents = secrets_of(folder, keyring, passwords)
        _write(folder / "kubernetes" / "secrets.yaml", yaml.safe_dump_all(documents, sort_keys=False))
    _give_away(folder)


def _settings(keyring: Keyring, passwords: Passwords, surroundings: Surroundings) -> dict[str, dict[str, str]]:
    """The secret settings of each service, by the variable that each stands for."""
    found: dict[str, dict[str, str]] = {}
    for service in acl.services():
        found[service] = {"ESTUAIRE_KAFKA_CONFIG": json.dumps(keyring.kafka_config(service))}
    found[RIGHTS] = {"ESTUAIRE_KAFKA_CONFIG": json.dumps(keyring.kafka_config(ADMIN))}
    for service in DATABASES:
        own = f"ESTUAIRE_{service.upper()}_"
        for setting, role in roles_of(service).items():
            host = surroundings.database.format(name=service)
            address = f"{role}:{passwords.of(role)}@{host}:5432/{service}{surroundings.options}"
            found[service][f"{own}{setting}"] = f"postgresql://{address}"
    return found


def roles_of(service: str) -> dict[str, str]:
    """The roles of a service's database, by the setting that has the URL: its owner, and those that read."""
    readers = {f"{reader.upper()}_URL": f"{service}_{reader}" for reader in READERS.get(service, ())}
    return {"DATABASE_URL": service} | readers


def _addresses(surroundings: Surroundings) -> dict[str, str]:
    found = {f"ESTUAIRE_{service.upper()}_URL": f"http://{service}:{PORT}" for service in SERVICES}
    return found | {"ESTUAIRE_BROKER": surroundings.broker, "ESTUAIRE_BROKER_USER": ADMIN}


def _write_servers(folder: Path, keyring: Keyring, passwords: Passwords, outside: str) -> None:
    """What the compose files mount into the servers, and their variables."""
    password = keyring.passwords([BROKER])[BROKER]
    own = security(sasl("PLAIN", BROKER, password))
    _write(
        folder / "kafka" / "config" / "broker.properties", (INFRA / "broker.properties").read_text() + own + _LISTENERS
    )
    servers = ("kafka/data", "postgres", f"{KEYCLOAK}/h2", "observe/prometheus", "observe/grafana", "accounts")
    for written in (*(folder / one for one in servers), folder / CHECKPOINTS, links_folder(folder)):
        written.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(folder / "secrets" / POSTGRES / "password", passwords.of(DATABASE_ADMIN))
    for administrator in (folder / KEYCLOAK / "config" / "admin", folder / "observe" / "grafana-admin"):
        if not administrator.exists():
            _write(administrator, secrets.token_urlsafe(24))
    (folder / "secrets" / "console").mkdir(exist_ok=True, mode=0o700)
    path = folder / "compose.env"
    if not path.exists():
        owner = f"{os.getuid() or USER}:{os.getgid() or USER}"
        _write(path, _VARIABLES.format(folder=folder, owner=owner, issuer=ISSUER, outside=outside))


_LISTENERS = f"""
# In its networks everybody speaks TLS; what the broker says to itself does not leave its container. OUTSIDE is for
# clients elsewhere, who do not come by the broker's own account: start.sh opens it for infra/compose.broker.yaml.
listeners=CLIENT://:9093,CONTROLLER://127.0.0.1:9094
advertised.listeners=CLIENT://{KAFKA}:9093
controller.quorum.voters=1@127.0.0.1:9094
listener.security.protocol.map=CLIENT:SASL_SSL,OUTSIDE:SASL_SSL,CONTROLLER:SASL_PLAINTEXT
listener.name.outside.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.outside.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location=/etc/estuaire/kafka/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location=/etc/estuaire/kafka/ca.pem
log.dirs=/var/lib/kafka/data
"""

_VARIABLES = """# The variables of infra/compose.yaml. Written once: yours to edit.
ESTUAIRE_FOLDER={folder}
# Whom all containers run as: who owns the folder.
ESTUAIRE_USER={owner}
ESTUAIRE_VERSION=latest
# The second place of the audit log: best a disk that the database's administrator cannot write to.
ESTUAIRE_CHECKPOINTS={folder}/checkpoints
# Partitions of the hot topics: they are never changed, so think of the day when one machine is not enough.
ESTUAIRE_HOT_PARTITIONS=12
# How clients elsewhere know the broker, with infra/compose.broker.yaml: a name of its certificate (`--broker-name`).
ESTUAIRE_BROKER_OUTSIDE={outside}:9093
# Who issues people's tokens. As it stands, whoever reads this folder does: for a trial. With people, name your identity
# provider (docs/roles.md), and leave the keys empty: they are found by its configuration.
ESTUAIRE_OIDC_ISSUER={issuer}
ESTUAIRE_OIDC_KEYS=file:///etc/estuaire/issuer.jwks
"""


class _Authority:
    """Whom the servers' certificates are of: this deployment's own, made where it is missing."""

    def __init__(self, folder: Path) -> None:
        """`folder` keeps its key, `config` in it its certificate."""
        self._certificate, self._key = folder / "config" / "ca.pem", folder / "ca.key"
        if not self._certificate.exists():
            signing = ec.generate_private_key(ec.SECP256R1())
            name = _name("Estuaire authority")
            made = _certificate(name, signing.public_key(), AUTHORITY_DAYS).add_extension(
                x509.BasicConstraints(ca=True, path_length=0), critical=True
            )
            _write(self._key, _pem(signing))
            _write(self._certificate, _signed(made, name, signing))

    @property
    def pem(self) -> str:
        """Its certificate."""
        return self._certificate.read_text()

    def issue(self, path: Path, title: str, names: Iterable[str]) -> None:
        """A server's key and certificate, in one file, good for 825 days; one that is there stays."""
        if path.exists():
            return
        signing: ec.EllipticCurvePrivateKey = load_pem_private_key(self._key.read_bytes(), None)  # type: ignore[assignment]
        issuer = x509.load_pem_x509_certificate(self.pem.encode()).subject
        own = ec.generate_private_key(ec.SECP256R1())
        made = _certificate(_name(title), own.public_key(), CERTIFICATE_DAYS).add_extension(
            x509.SubjectAlternativeName([x509.DNSName(one) for one in names]), critical=False
        )
        _write(path, _pem(own) + _signed(made, issuer, signing))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(subject: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    begun = x509.CertificateBuilder().subject_name(subject).public_key(key).serial_number(x509.random_serial_number())
    return begun.not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(days=days))


def _signed(made: x509.CertificateBuilder, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> str:
    return made.issuer_name(issuer).sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    path.write_text(text)


def _give_away(folder: Path) -> None:
    """Root gives the folder to whom the containers run as; anybody else's is theirs already."""
    if os.getuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, USER, USER, follow_symlinks=False)


# --- Kubernetes ---


def secrets_of(folder: Path, keyring: Keyring, passwords: Passwords) -> Iterator[dict[str, Any]]:
    """The Secrets that `infra/kubernetes` names, from a folder that is prepared."""
    for service in (*SERVICES, RIGHTS):
        keys = {path.name: path.read_bytes() for path in sorted(keyring.folder(service).glob("*.json"))}
        if keys:
            yield _secret(f"{service}-keys", keys)
        settings = folder / "secrets" / service
        if settings.exists():
            yield _secret(f"{service}-settings", {one.name: one.read_bytes() for one in sorted(settings.iterdir())})
    yield _secret("producers", {"producers.yaml": keyring.producers.read_bytes()})
    home = (folder / "addresses.json", keyring.verifier_key)
    yield _secret("operator-home", {path.name: path.read_bytes() for path in home})
    for principal, password in keyring.passwords([ADMIN, *sorted(acl.services())]).items():
        yield _secret(f"kafka-{principal}", {"password": password.encode()})
    for service in DATABASES:
        for role in roles_of(service).values():
            yield _secret(
                f"database-{role.replace('_', '-')}",
                {"username": role.encode(), "password": passwords.of(role).encode()},
                "kubernetes.io/basic-auth",
            )


def _secret(name: str, data: Mapping[str, bytes], kind: str = "Opaque") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "estuaire", "labels": {"app.kubernetes.io/part-of": "estuaire"}},
        "type": kind,
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


# --- the servers of the compose file ---


def establish(folder: Path, report: Report = print) -> None:
    """Bring broker and database to what the folder says: accounts, topics, rights; roles and databases.

    It may be run again, and is at each start: what is there stays, and accounts have the passwords that the folder
    has of them. Raises StartError, KafkaException.
    """
    hub = Deployment(folder)
    itself = hub.settings_as_broker()
    if not answers(itself.bootstrap_servers, WAIT_SECONDS, config=itself.kafka_config):
        raise StartError(f"no broker answers at {itself.bootstrap_servers} within {WAIT_SECONDS} s")
    write_accounts(itself, hub.keyring.passwords([ADMIN, *sorted(acl.services())]))
    settings = hub.settings()
    made = create_topics(settings, topics_to_create(settings.hot_partitions, settings.topic_prefix))
    deleted, allowed = Rights(settings).replace(RightsKeeper(settings).wanted())
    report(f"broker: {len(made)} topics made; {deleted} access rules deleted, {allowed} made")
    passwords = Passwords(folder / "keys" / "postgres.json")
    admin = {"host": POSTGRES, "user": DATABASE_ADMIN, "password": passwords.of(DATABASE_ADMIN), "dbname": "postgres"}
    database = Database(admin, passwords)
    _wait_for(admin)
    for service in DATABASES:
        database.url(service)
        for reader in READERS.get(service, ()):
            database.reader_url(service, reader)
    report(f"database: {', '.join(DATABASES)}")


def _wait_for(admin: Mapping[str, Any]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        with suppress(psycopg.OperationalError), psycopg.connect(**admin, connect_timeout=5, autocommit=True) as one:
            close_shared(one)
            return
        time.sleep(0.2)
    raise StartError(f"no database answers at {admin['host']} within {WAIT_SECONDS} s")
