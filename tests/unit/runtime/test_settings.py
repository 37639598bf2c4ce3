"""A setting is a variable or a file, and one that is missing is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.settings import RuntimeSettings, read_settings

pytestmark = pytest.mark.unit


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESTUAIRE_SECRETS", str(tmp_path))
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "nowhere:1")
    monkeypatch.delenv("ESTUAIRE_KAFKA_CONFIG", raising=False)
    return tmp_path


def test_a_setting_may_be_a_file_named_like_its_variable(secrets: Path) -> None:
    (secrets / "ESTUAIRE_KAFKA_CONFIG").write_text('{"sasl.username": "ingest"}\n')
    assert read_settings(RuntimeSettings).kafka_config == {"sasl.username": "ingest"}


def test_a_variable_goes_before_a_file(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secrets / "ESTUAIRE_TOPIC_PREFIX").write_text("file.")
    monkeypatch.setenv("ESTUAIRE_TOPIC_PREFIX", "variable.")
    assert read_settings(RuntimeSettings).topic_prefix == "variable."


def test_a_file_that_cannot_be_read_as_its_setting_is_named_and_not_repeated(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (secrets / "ESTUAIRE_HOT_PARTITIONS").write_text("s3cret")
    with pytest.raises(SystemExit, match="hot_partitions") as wrong:
        read_settings(RuntimeSettings)
    assert "s3cret" not in str(wrong.value)
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS")
    with pytest.raises(SystemExit, match="KAFKA_BOOTSTRAP_SERVERS: missing"):
        read_settings(RuntimeSettings)
