"""What a message of a producer's own Kafka is, and what a file of settings may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estuaire import relay
from estuaire.relay import Relay, RelayError, Theirs, event_of, read_config
from services.ingest.domain.refusals import Refusal

pytestmark = pytest.mark.unit

ATTRIBUTES = {
    "specversion": "1.0",
    "id": "é1",
    "source": "urn:x",
    "type": "observation.v1",
    "time": "2026-03-01T10:00:00Z",
}
STRUCTURED = ("content-type", b"application/CloudEvents+json; charset=UTF-8")


class Message:
    """As the client gives it."""

    def __init__(self, value: bytes | None, *headers: tuple[str, bytes | None]) -> None:
        self._value = value
        self._headers = list(headers) or None

    def value(self) -> bytes | None:
        return self._value

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return self._headers


def event(value: bytes | None, *headers: tuple[str, bytes | None]) -> Any:
    found = event_of(Message(value, *headers))  # type: ignore[arg-type]
    return json.loads(found) if isinstance(found, bytes) else found


def binary(**more: str) -> list[tuple[str, bytes | None]]:
    return [(f"ce_{name}", text.encode()) for name, text in (ATTRIBUTES | more).items()]


def test_a_structured_event_is_its_value_with_or_without_headers() -> None:
    value = json.dumps(ATTRIBUTES | {"data": {"a": "b\nc"}}, indent=1).encode()
    for headers in ((), (STRUCTURED,), (STRUCTURED, *binary(id="other"))):
        assert event(value, *headers) == ATTRIBUTES | {"data": {"a": "b\nc"}}
    assert b"\n" not in event_of(Message(value))  # type: ignore[arg-type, operator]


def test_a_binary_event_is_its_headers_and_its_value() -> None:
    json_type = ("Content-Type", b"application/json; charset=utf-8")
    found = event(b'{"record": {}}', json_type, *binary(correction="true", version="3"), ("other", b"\xff"))
    assert found == ATTRIBUTES | {
        "datacontenttype": "application/json",
        "correction": True,
        "version": 3,
        "data": {"record": {}},
    }
    assert "data" not in event(None, *binary(type="observation.v1.deleted")), "an event without data"
    assert event(b"{}", ("content-type", b"text/xml"), *binary())["datacontenttype"] == "text/xml"


def test_what_ingest_has_to_judge_is_left_as_it_is() -> None:
    found = event(b"{}", *binary(correction="perhaps", version="3.5"))
    assert (found["correction"], found["version"]) == ("perhaps", "3.5")
    assert event_of(Message(b"\xff{broken")) == b"\xff{broken"  # type: ignore[arg-type]
    assert event(b"") is None, "an empty value is sent as null, and refused"


def test_a_binary_event_that_cannot_be_written_as_json_is_refused() -> None:
    for value in (b'{}, "source": "urn:other"', b"\xff", b"[" * 100_000):
        assert event(value, *binary())[0] == "not-json"
    assert isinstance(event(b"{}", *binary(), ("ce_subject", b"\xff")), Refusal)


def test_no_value_and_no_attributes_is_a_tombstone() -> None:
    assert event_of(Message(None)) is None  # type: ignore[arg-type]
    assert event_of(Message(None, STRUCTURED)) is None  # type: ignore[arg-type]


def write(folder: Path, text: str) -> Path:
    path = folder / "broker.properties"
    path.write_text(text)
    return path


def test_settings_are_read_as_properties(tmp_path: Path) -> None:
    text = "# theirs\nsecurity.protocol = SASL_SSL\n\n! more\nsasl.password=a=b #c\n"
    assert read_config(write(tmp_path, text)) == {"security.protocol": "SASL_SSL", "sasl.password": "a=b #c"}


def test_settings_that_break_the_promise_or_are_java_s_are_refused(tmp_path: Path) -> None:
    for text, words in (
        ("enable.auto.commit=true", "enable.auto.commit is the relay's own"),
        ("x\nS3CRET", "line 1: not name=value"),
        ("sasl.jaas.config=S3CRET", "sasl.username"),
    ):
        with pytest.raises(RelayError, match=words) as error:
            read_config(write(tmp_path, text))
        assert "S3CRET" not in str(error.value)


def test_settings_that_are_not_utf_8_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "broker.properties"
    path.write_bytes("# propriétaire\nsasl.password=S3CRET".encode("latin-1"))
    with pytest.raises(RelayError, match=r"broker\.properties is not UTF-8: save it as UTF-8") as error:
        read_config(path)
    assert "S3CRET" not in str(error.value)
    path.write_bytes(b"\xef\xbb\xbfsecurity.protocol=SSL")
    assert read_config(path) == {"security.protocol": "SSL"}


def test_a_broker_that_is_away_is_one_error_and_no_line_of_the_client(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(relay, "ANSWER_SECONDS", 1.0)
    relaying = Relay(Theirs("127.0.0.1:1", "t", "g", {}), "http://hub", "token", print)
    with pytest.raises(RelayError, match=r"the broker of t: .*Connection refused"):
        relaying.run()
    assert capfd.readouterr() == ("", "")


def test_a_wrong_setting_is_named_and_its_value_is_not() -> None:
    for name, value in (("security.protocol", "S3CRET"), ("no.such.setting", "S3CRET"), ("fetch.min.bytes", "S3CRET")):
        with pytest.raises(RelayError, match=name) as error:
            Relay(Theirs("localhost:1", "t", "g", {name: value}), "http://hub", "token", print)
        assert "S3CRET" not in str(error.value)
