"""HL7 v2 over MLLP: acknowledged when kept, a place for each refusal, and silence where the hub cannot take it."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client import REGISTRY

from runtime.http import hash_token
from runtime.loop import Stopped
from runtime.watched import WatchedFile
from services.ingest.adapters import Markers, producers_from
from services.ingest.domain import content
from services.ingest.domain.flow import Flow, ThrottleRule
from services.ingest.domain.measures import Tally
from services.ingest.domain.receipts import Receipts
from services.ingest.formats.hl7v2.messages import LONGEST
from services.ingest.mllp import MllpListener, tls_of
from services.ingest.routes import Desk
from services.ingest.settings import IngestSettings
from tests.unit.ingest.conftest import SOURCE, TOKEN, FakeOutbox, new_intake
from tests.unit.ingest.test_hl7v2 import A01, A03, changed

pytestmark = pytest.mark.unit

SECOND = "urn:estuaire:producer:ch-vannes"
Hearing = Callable[..., "_Hub"]


class _Hub:
    """A listener on loopback, with what stands behind it."""

    def __init__(self, folder: Path, patience: float = 5.0, **changes: object) -> None:
        producers = folder / "producers.yaml"
        producers.write_text(json.dumps({"producers": [{"source": SOURCE, "token_sha256": hash_token(TOKEN)}]}))
        hearing = f"127.0.0.1:0={SOURCE} 127.0.0.1:0={SECOND}"
        told: dict[str, Any] = {
            "bootstrap_servers": "nowhere:1",
            "keys": folder,
            "producers": producers,
            "mllp": hearing,
        } | changes
        settings = IngestSettings(**told)
        self.outbox, self.flow, self.tally = FakeOutbox(), Flow(2, ThrottleRule()), Tally()
        markers, sources = Markers(self.flow, self.outbox, 2), WatchedFile(producers, producers_from)
        self.desk = Desk(new_intake(), self.outbox, self.flow, markers, sources, settings, self.tally, Receipts("here"))
        self.listener = MllpListener(self.desk, settings, tls_of(settings), patience)
        self.thread = threading.Thread(target=self.listener.run)
        self.thread.start()
        assert self.listener.started.wait(10)

    def close(self) -> None:
        self.listener.stop()
        self.thread.join(10)
        self.desk.close()
        assert not self.thread.is_alive()

    @contextmanager
    def connected(self, at: int = 0) -> Iterator[socket.socket]:
        with socket.create_connection(self.listener.addresses[at], timeout=10) as connection:
            yield connection


@pytest.fixture
def hearing(tmp_path: Path) -> Iterator[Hearing]:
    hubs: list[_Hub] = []

    def start(**changes: object) -> _Hub:
        hubs.append(_Hub(tmp_path, **changes))  # type: ignore[arg-type]
        return hubs[-1]

    yield start
    for hub in hubs:
        hub.close()


def framed(message: bytes) -> bytes:
    return b"\x0b" + message + b"\x1c\r"


def received(connection: socket.socket) -> bytes:
    """What comes until the end of a frame, or of the connection."""
    data = b""
    while not data.endswith(b"\x1c\r") and (part := connection.recv(4096)):
        data += part
    return data


def exchange(connection: socket.socket, message: bytes) -> list[list[str]]:
    """The fields of the answer's segments."""
    connection.sendall(framed(message))
    data = received(connection)
    assert data.startswith(b"\x0b"), data
    assert data.endswith(b"\x1c\r"), data
    return [segment.split("|") for segment in data[1:-2].decode().split("\r") if segment]


def closed(source: str, cause: str) -> float:
    found = REGISTRY.get_sample_value("estuaire_ingest_mllp_closed_total", {"source": source, "cause": cause})
    return found or 0.0


def eventually(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


def test_what_is_acknowledged_is_kept(hearing: Hearing) -> None:
    hub = hearing()
    with hub.connected() as connection:
        msh, msa = exchange(connection, A01)
        assert (msh[2], msh[4], msh[8]) == ("", "DXCARE", "ACK^A01^ACK")
        assert msa == ["MSA", "AA", "MSG00001"]
        assert {one.headers["ce_type"] for one in hub.outbox.sent} == {b"identity.v1", b"encounter.v1", b"diagnosis.v1"}
        assert all(one.headers["ce_source"] == SOURCE.encode() for one in hub.outbox.sent)
        _, msa = exchange(connection, A03)
        assert msa[1:] == ["AA", "MSG00003"]
    assert hub.flow.counts(SOURCE)["ingest"]["accepted"] == len(hub.outbox.sent)


def test_an_address_stands_for_its_source(hearing: Hearing) -> None:
    hub = hearing()
    with hub.connected(1) as connection:
        exchange(connection, A01)
    assert {one.headers["ce_source"] for one in hub.outbox.sent} == {SECOND.encode()}


def test_a_refusal_names_its_place_and_no_value(hearing: Hearing) -> None:
    hub = hearing()
    with hub.connected() as connection:
        _, msa, err = exchange(connection, changed(A01, "PID", 7, "12 may of KERGUELEN"))
        assert msa[1:] == ["AE", "MSG00001"]
        assert err[2] == "PID^1^7"
        assert err[3] == "102^Data type error^HL70357"
        assert (err[4], err[5]) == ("E", "bad-date^^L")
        assert err[8].startswith("PID-7: not a time")
        assert "KERGUELEN" not in str(err)
        assert hub.outbox.sent == []
        _, msa, err = exchange(connection, changed(A01, "PV1", 19, ""))
        assert (msa[1], err[2], err[3]) == ("AE", "PV1^1^19", "101^Required field missing^HL70357")
        assert [one.headers["ce_type"] for one in hub.outbox.sent] == [b"identity.v1"]


@pytest.mark.parametrize(
    ("message", "code", "place"),
    [
        (changed(A01, "MSH", 9, "ADT^A02^ADT_A02"), "201", "MSH^1^9"),
        (changed(A01, "MSH", 9, "ORU^R01^ORU_R01"), "200", "MSH^1^9"),
        (changed(A01, "MSH", 11, "T"), "202", "MSH^1^11"),
    ],
)
def test_another_kind_of_message_is_rejected(hearing: Hearing, message: bytes, code: str, place: str) -> None:
    with hearing().connected() as connection:
        _, msa, err = exchange(connection, message)
    assert (msa[1], err[2], err[3].partition("^")[0]) == ("AR", place, code)


def test_separators_of_the_sender_are_those_of_the_answer(hearing: Hearing) -> None:
    message = A01.translate(bytes.maketrans(b"|^", b"!*")).replace(b"!19850512!", b"!19850532!")
    with hearing().connected() as connection:
        connection.sendall(framed(message))
        msh, msa, err = received(connection)[1:-2].decode().strip("\r").split("\r")
    assert msh.startswith("MSH!*~\\&!")
    assert msa == "MSA!AE!MSG00001"
    assert err.split("!")[2] == "PID*1*7"


def test_what_is_no_message_is_answered_and_the_next_one_is_taken(hearing: Hearing) -> None:
    with hearing().connected() as connection:
        assert exchange(connection, b"KERGUELEN|KERGUELEN")[1][:2] == ["MSA", "AE"]
        assert exchange(connection, b"")[1][:2] == ["MSA", "AE"]
        assert exchange(connection, A01)[1][:2] == ["MSA", "AA"]


def test_a_message_in_pieces_and_two_at_once(hearing: Hearing) -> None:
    with hearing().connected() as connection:
        for at in range(0, len(framed(A01)), 7):
            connection.sendall(framed(A01)[at : at + 7])
        assert b"MSA|AA|MSG00001" in received(connection)
        connection.sendall(framed(A01) + b"\r\n" + framed(A03))
        data = b""
        while data.count(b"\x1c\r") < 2:
            data += received(connection)
        assert [data.count(b"MSA|AA|" + one) for one in (b"MSG00001", b"MSG00003")] == [1, 1]


def test_a_hub_that_cannot_take_it_does_not_answer(hearing: Hearing) -> None:
    """The broker is away: nothing is said, and the connection ends. Repeated later, the message is taken."""
    hub = hearing(patience=0.2)
    hub.outbox.failing = True
    before = closed(SOURCE, "busy")
    with hub.connected() as connection:
        connection.sendall(framed(A01))
        assert received(connection) == b""
    assert eventually(lambda: closed(SOURCE, "busy") == before + 1)
    hub.outbox.failing = False
    with hub.connected() as connection:
        assert exchange(connection, A01)[1][1] == "AA"


def test_it_waits_for_a_hub_that_is_busy(hearing: Hearing) -> None:
    hub = hearing()
    hub.outbox.room = False
    with hub.connected() as connection:
        connection.sendall(framed(A01))
        time.sleep(0.3)
        assert hub.outbox.sent == []
        hub.outbox.room = True
        assert b"MSA|AA" in received(connection)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (A01, "broken"),
        (b"\x0b" + A01 + b"\x1c", "broken"),
        (b"\x0b" + b"A" * (LONGEST + 1000) + b"\x1c\r", "too-long"),
    ],
)
def test_a_broken_frame_ends_the_connection(hearing: Hearing, data: bytes, cause: str) -> None:
    hub = hearing()
    before = closed(SOURCE, cause)
    with hub.connected() as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            assert received(connection) == b""
        except ConnectionError:  # closed with data that nobody has read
            pass
    assert eventually(lambda: closed(SOURCE, cause) == before + 1)
    assert hub.outbox.sent == []


def test_silence_ends_the_connection(hearing: Hearing) -> None:
    hub = hearing(mllp_idle_seconds=0.1)
    with hub.connected() as connection:
        assert received(connection) == b""
    assert closed(SOURCE, "idle") > 0


def test_connections_are_bounded(hearing: Hearing) -> None:
    hub = hearing(mllp_connections=1)
    with hub.connected() as first:
        exchange(first, A01)
        with hub.connected() as second:
            assert received(second) == b""
        assert exchange(first, A01)[1][1] == "AA"
    assert eventually(lambda: not hub.listener._tasks)
    with hub.connected() as third:
        assert exchange(third, A01)[1][1] == "AA"


def test_a_defect_is_not_answered(hearing: Hearing, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = hearing()

    async def broken(*_: object) -> None:
        raise RuntimeError("KERGUELEN")

    monkeypatch.setattr(hub.desk, "message", broken)
    with hub.connected() as connection:
        connection.sendall(framed(A01))
        assert received(connection) == b""
    assert closed(SOURCE, "failed") > 0


def test_a_defect_with_one_record_is_not_answered(hearing: Hearing, monkeypatch: pytest.MonkeyPatch) -> None:
    """AE would be final. Repeated when the defect is mended, the message is taken."""
    hub = hearing()
    before = closed(SOURCE, "failed")
    strip = content.strip

    def broken(kind: str, record: dict[str, Any]) -> object:
        if kind == "encounter.v1":
            raise RuntimeError("KERGUELEN")
        return strip(kind, record)

    with monkeypatch.context() as patch, hub.connected() as connection:
        patch.setattr(content, "strip", broken)
        connection.sendall(framed(A01))
        assert received(connection) == b""
    assert eventually(lambda: closed(SOURCE, "failed") == before + 1)
    with hub.connected() as connection:
        assert exchange(connection, A01)[1][1] == "AA"


def test_stopping_ends_what_is_open(hearing: Hearing) -> None:
    hub = hearing()
    with hub.connected() as connection:
        exchange(connection, A01)
        hub.listener.stop()
        assert received(connection) == b""


def test_an_address_that_is_taken_stops_the_service(hearing: Hearing, tmp_path: Path) -> None:
    hub = hearing()
    port = hub.listener.addresses[0][1]
    settings = hub.listener._settings.model_copy(update={"mllp": f"127.0.0.1:{port}={SOURCE}"})
    with pytest.raises(Stopped, match=f"127.0.0.1:{port}"):
        MllpListener(hub.desk, settings).run()


def test_certificates_on_both_sides(hearing: Hearing, tmp_path: Path) -> None:
    ours, clients = certified(tmp_path, "hub"), certified(tmp_path, "hospital")
    certified(tmp_path, "stranger")
    hub = hearing(mllp_certificate=ours, mllp_key=tmp_path / "hub.key", mllp_clients=clients)

    def answer(name: str | None) -> bytes:
        context = ssl.create_default_context(cafile=ours)
        if name:
            context.load_cert_chain(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
        try:
            with hub.connected() as plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as connection:
                connection.sendall(framed(A01))
                return received(connection)
        except OSError:
            return b""

    assert b"MSA|AA" in answer("hospital")
    assert (answer("stranger"), answer(None)) == (b"", b"")
    with hub.connected() as plain:
        plain.sendall(framed(A01))
        assert b"MSA" not in received(plain)


def certified(folder: Path, name: str) -> Path:
    """A certificate of its own authority, with its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"mllp": "127.0.0.1=urn:x"},
        {"mllp": "127.0.0.1:99999=urn:x"},
        {"mllp": "127.0.0.1:2575"},
        {"hl7_timezone": "Europe/Rennes"},
        {"hl7_timezone": "../../etc/passwd"},
    ],
)
def test_settings_that_cannot_be_meant(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        IngestSettings(bootstrap_servers="nowhere:1", keys=tmp_path, producers=tmp_path / "p.yaml", **changes)  # type: ignore[arg-type]


def test_settings_name_addresses_and_sources(tmp_path: Path) -> None:
    told = "127.0.0.1:2575=urn:a [::1]:2576=urn:b=c hub.local:2577=urn:d"
    settings = IngestSettings(bootstrap_servers="nowhere:1", keys=tmp_path, producers=tmp_path / "p.yaml", mllp=told)
    assert settings.listening == (
        ("127.0.0.1", 2575, "urn:a"),
        ("::1", 2576, "urn:b=c"),
        ("hub.local", 2577, "urn:d"),
    )


@pytest.mark.parametrize("names", [("mllp_key",), ("mllp_certificate", "mllp_key", "mllp_clients")])
def test_certificates_that_are_not_there(tmp_path: Path, names: tuple[str, ...]) -> None:
    told: dict[str, Any] = dict.fromkeys(names, tmp_path / "nothing.pem")
    settings = IngestSettings(bootstrap_servers="nowhere:1", keys=tmp_path, producers=tmp_path / "p.yaml", **told)
    with pytest.raises(ValueError, match="MLLP"):
        tls_of(settings)
