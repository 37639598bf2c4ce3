"""Keys in a folder: versions, permissions, and failures that show no value."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from runtime.keys import FolderKeyStore, KeyUnavailable, write_key

pytestmark = pytest.mark.unit


def test_a_key_comes_back_with_its_versions_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    versions = {1: b"1" * 32, 2: b"2" * 32}
    write_key(tmp_path / "keys", "level-2", {1: b"0" * 32})
    write_key(tmp_path / "keys", "level-2", versions)
    assert FolderKeyStore(tmp_path / "keys").secret("level-2") == versions
    assert (tmp_path / "keys" / "level-2.json").stat().st_mode & 0o077 == 0
    assert [one.name for one in (tmp_path / "keys").iterdir()] == ["level-2.json"]


def test_private_keys_are_newest_first_and_the_public_key_is_the_newest(tmp_path: Path) -> None:
    old, new = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    write_key(tmp_path, "access-private", {1: old.private_bytes_raw(), 2: new.private_bytes_raw()})
    write_key(tmp_path, "access-public", {n: k.public_key().public_bytes_raw() for n, k in ((1, old), (2, new))})
    store = FolderKeyStore(tmp_path)
    assert [one.private_bytes_raw() for one in store.private("access-private")] == [
        new.private_bytes_raw(),
        old.private_bytes_raw(),
    ]
    assert store.public("access-public").public_bytes_raw() == new.public_key().public_bytes_raw()


SHORT = base64.b64encode(b"short secret").decode()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"one": "AAAA"}', '{"1": 5}', '{"1": "no base64!"}', f'{{"1": "{SHORT}"}}', '"text"'],
)
def test_a_broken_key_is_named_and_not_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "level-2.json").write_text(text)
    with pytest.raises(KeyUnavailable) as unavailable:
        FolderKeyStore(tmp_path).secret("level-2")
    assert "level-2" in str(unavailable.value)
    assert SHORT not in str(unavailable.value)
    assert "short secret" not in str(unavailable.value)


def test_a_missing_key_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailable, match="JSON map of version to base64"):
        FolderKeyStore(tmp_path).secret("level-2")
