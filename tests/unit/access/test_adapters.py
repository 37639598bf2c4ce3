"""Keys under the master secret, and who holds which token."""

from __future__ import annotations

import os

import pytest

from services.access.vault import KeyBroken, Vault

pytestmark = pytest.mark.unit


def test_a_key_opens_for_its_owner_only_and_after_a_rotation() -> None:
    old, fresh = os.urandom(32), os.urandom(32)
    wrapped = Vault({1: old}).wrap(b"k" * 32, b"me")
    assert Vault({1: old, 2: fresh}).unwrap(wrapped, b"me") == b"k" * 32
    for vault, owner, key in (
        (Vault({1: old}), b"you", wrapped),
        (Vault({2: fresh}), b"me", wrapped),
        (Vault({1: old}), b"me", wrapped[:-1]),
        (Vault({1: old}), b"me", b""),
    ):
        with pytest.raises(KeyBroken):
            vault.unwrap(key, owner)


def test_a_body_opens_for_its_record_and_subject_only() -> None:
    vault = Vault({1: os.urandom(32)})
    mine, theirs = vault.new_subject_key(b"mine"), vault.new_subject_key(b"theirs")
    body = vault.seal(b"mine", mine, b"text", b"event")
    assert vault.open(b"mine", mine, body, b"event") == b"text"
    for subject, key, event in ((b"mine", mine, b"other"), (b"theirs", theirs, b"event")):
        with pytest.raises(KeyBroken):
            vault.open(subject, key, body, event)
    with pytest.raises(KeyBroken):
        Vault({1: os.urandom(32)}).open(b"mine", mine, body, b"event")
