"""The folder of a hub in containers."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from contracts import acl
from contracts.acl import subscriber
from estuaire.deployment import COMPOSE, KUBERNETES, Deployment, prepare
from estuaire.keyring import Keyring
from estuaire.process import StartError
from runtime.keys import FolderKeyStore

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("deployment") / "hub"
    prepare(made, COMPOSE, ["kafka.hub.example"])
    return made


def test_every_client_of_the_broker_has_an_account_and_knows_its_authority(folder: Path) -> None:
    for service in acl.services():
        config = json.loads((folder / "secrets" / service / "ESTUAIRE_KAFKA_CONFIG").read_text())
        assert config["sasl.username"] == service
        assert config["security.protocol"] == "SASL_SSL"
        assert config["ssl.ca.pem"] == (folder / "kafka" / "config" / "ca.pem").read_text()
    hub = Deployment(folder)
    assert hub.settings().kafka_config["sasl.username"] == "admin"
    assert hub.settings_as(subscriber("team-cardio")).kafka_config["group.id"] == "subscriber/team-cardio/estuaire"
    assert hub.settings_as_broker().kafka_config["sasl.mechanism"] == "PLAIN"
    assert hub.settings_as_broker().kafka_config["security.protocol"] == "SASL_SSL"


def test_the_brokers_certificate_is_its_authoritys_and_for_its_names(folder: Path) -> None:
    config = folder / "kafka" / "config"
    authority, broker = (
        x509.load_pem_x509_certificate((config / name).read_bytes()) for name in ("ca.pem", "broker.pem")
    )
    broker.verify_directly_issued_by(authority)
    names = broker.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["kafka", "localhost", "kafka.hub.example"]
    assert 820 < (broker.not_valid_after_utc - broker.not_valid_before_utc).days < 830
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config / "broker.pem")


def test_the_identity_provider_has_a_certificate_of_the_same_authority_and_a_password(folder: Path) -> None:
    own = folder / "keycloak" / "config"
    provider = x509.load_pem_x509_certificate((own / "server.pem").read_bytes())
    provider.verify_directly_issued_by(
        x509.load_pem_x509_certificate((folder / "kafka" / "config" / "ca.pem").read_bytes())
    )
    names = provider.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["keycloak", "localhost"], "not the broker's"
    assert len((own / "admin").read_text()) >= 32


def test_the_broker_listens_outside_by_accounts_alone_and_only_if_it_is_told(folder: Path) -> None:
    settings = dict(
        line.split("=", 1)
        for line in (folder / "kafka" / "config" / "broker.properties").read_text().splitlines()
        if "=" in line and not line.startswith("#")
    )
    assert "OUTSIDE" not in settings["listeners"] + settings["advertised.listeners"]
    assert "OUTSIDE:SASL_SSL" in settings["listener.security.protocol.map"].split(",")
    assert settings["listener.name.outside.sasl.enabled.mechanisms"] == "SCRAM-SHA-512"
    assert "ESTUAIRE_BROKER_OUTSIDE=kafka.hub.example:9093\n" in (folder / "compose.env").read_text()


def test_a_certificate_that_is_taken_away_is_renewed_by_the_same_authority(folder: Path) -> None:
    config = folder / "kafka" / "config"
    authority, old = (config / "ca.pem").read_text(), (config / "broker.pem").read_text()
    (config / "broker.pem").unlink()
    prepare(folder, COMPOSE)
    assert (config / "ca.pem").read_text() == authority
    assert (config / "broker.pem").read_text() != old


def test_what_the_operator_has_written_stays(folder: Path) -> None:
    (folder / "compose.env").write_text("MINE=1\n")
    (folder / "hub" / "sources.yaml").write_text("sources: []\n")
    prepare(folder, COMPOSE)
    assert (folder / "compose.env").read_text() == "MINE=1\n"
    assert (folder / "hub" / "sources.yaml").read_text() == "sources: []\n"


def test_the_secrets_of_kubernetes_hold_the_same_keys(tmp_path: Path) -> None:
    prepare(tmp_path, KUBERNETES)
    secrets = {
        one["metadata"]["name"]: one for one in yaml.safe_load_all((tmp_path / "kubernetes/secrets.yaml").read_text())
    }
    with tempfile.TemporaryDirectory() as mounted:
        for name, text in secrets["pseudonym-keys"]["data"].items():
            Path(mounted, name).write_bytes(base64.b64decode(text))
        as_given = FolderKeyStore(Path(mounted)).secret("level-2")
    assert as_given == FolderKeyStore(Keyring(tmp_path).folder("pseudonym")).secret("level-2")
    assert "level-1.json" not in secrets["pseudonym-keys"]["data"]
    assert secrets["database-access-staff"]["type"] == "kubernetes.io/basic-auth"
    assert not any("checkpoint.json" in one["data"] for name, one in secrets.items() if name != "audit-keys")


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="estuaire deployment prepare"):
        Deployment(tmp_path)


def test_the_list_of_producers_follows_the_tokens_of_a_home_from_before(tmp_path: Path) -> None:
    token = Keyring(tmp_path).producer_token("urn:a")
    Keyring(tmp_path).producers.unlink()
    Keyring(tmp_path).prepare()
    assert Keyring(tmp_path).producer_token("urn:a") == token
    assert "urn:a" in Keyring(tmp_path).producers.read_text()


def test_who_keeps_the_rights_of_subscribers_is_given_no_key(folder: Path) -> None:
    """Its secret is the operator's account; accounts that it makes are in a folder that has nothing else."""
    config = json.loads((folder / "secrets" / "rights" / "ESTUAIRE_KAFKA_CONFIG").read_text())
    assert (config["sasl.username"], config) == ("admin", Deployment(folder).settings().kafka_config)
    made = Keyring(folder).passwords([subscriber("team-cardio"), "site-b", "ingest"])
    assert json.loads((folder / "accounts" / "kafka.json").read_text()) == {
        name: made[name] for name in (subscriber("team-cardio"), "site-b")
    }
    assert json.loads((folder / "keys" / "kafka.json").read_text())["ingest"] == made["ingest"]


def test_producers_that_were_entered_by_hand_stay(folder: Path) -> None:
    keyring = Keyring(folder)
    keyring.ensure_producers(["urn:test:leaked"])
    by_hand = {"source": "urn:test:by-hand", "token_sha256": "0" * 64}
    keyring.producers.write_text(yaml.safe_dump({"producers": [by_hand]}))
    keyring.ensure_producers(["urn:test:fresh", "urn:test:leaked"])
    assert [one["source"] for one in yaml.safe_load(keyring.producers.read_text())["producers"]] == [
        "urn:test:by-hand",
        "urn:test:fresh",
    ], "and one that was taken out is not put back"
