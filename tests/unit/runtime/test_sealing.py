"""Sealed bodies: only their recipient, only their record, no more of the length than its class."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from runtime.sealing import DATA_KEY_SECONDS, Opener, SealBroken, Sealer, key_id, pad, size_class, unpad

pytestmark = pytest.mark.unit

KEY = X25519PrivateKey.generate()
HEAD = 1 + 8 + 80


@given(plaintext=st.binary(max_size=5000), bound=st.binary(max_size=100))
def test_what_is_sealed_opens_again(plaintext: bytes, bound: bytes) -> None:
    sealed = Sealer(KEY.public_key()).seal(plaintext, bound)
    assert Opener([KEY]).open(sealed, bound) == plaintext


@given(plaintext=st.binary(max_size=20_000))
def test_padding_comes_off_and_shows_a_class_alone(plaintext: bytes) -> None:
    padded = pad(plaintext)
    assert unpad(padded) == plaintext
    assert len(padded) == size_class(len(plaintext) + 4)


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, 256), (256, 256), (257, 384), (384, 384), (385, 512), (513, 768), (769, 1024), (1025, 1536), (70_000, 98_304)],
)
def test_size_classes(length: int, expected: int) -> None:
    assert size_class(length) == expected


@given(length=st.integers(min_value=1, max_value=10**7))
def test_a_class_is_at_most_half_as_much_again(length: int) -> None:
    size = size_class(length)
    assert length <= size <= max(256, length * 3 // 2)


def test_bodies_of_one_class_have_one_length() -> None:
    sealer = Sealer(KEY.public_key())
    assert len({len(sealer.seal(bytes(length), b"")) for length in range(253)}) == 1


def test_another_recipient_cannot_open() -> None:
    sealed = Sealer(KEY.public_key()).seal(b"words", b"record 1")
    with pytest.raises(SealBroken, match="does not hold"):
        Opener([X25519PrivateKey.generate()]).open(sealed, b"record 1")


def test_a_body_opens_for_its_own_record_only() -> None:
    sealed = Sealer(KEY.public_key()).seal(b"words", b"record 1")
    with pytest.raises(SealBroken, match="moved from another record"):
        Opener([KEY]).open(sealed, b"record 2")


@given(at=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_no_byte_can_be_altered(at: int, flip: int) -> None:
    sealed = bytearray(Sealer(KEY.public_key()).seal(b"words", b"record"))
    sealed[at % len(sealed)] ^= flip
    with pytest.raises(SealBroken):
        Opener([KEY]).open(bytes(sealed), b"record")


@given(garbage=st.binary(max_size=300))
def test_garbage_is_refused_without_repeating_it(garbage: bytes) -> None:
    with pytest.raises(SealBroken) as broken:
        Opener([KEY]).open(garbage, b"")
    assert repr(garbage[:8]) not in str(broken.value) or len(garbage) < 8


def test_the_data_key_is_replaced_every_hour() -> None:
    now = 0.0
    sealer = Sealer(KEY.public_key(), clock=lambda: now)
    first, second = sealer.seal(b"a", b""), sealer.seal(b"a", b"")
    assert first[:HEAD] == second[:HEAD]
    assert first != second, "every body has its own nonce"
    now = DATA_KEY_SECONDS
    third = sealer.seal(b"a", b"")
    assert third[:HEAD] != first[:HEAD]
    opener = Opener([KEY])
    assert [opener.open(one, b"") for one in (first, second, third)] == [b"a"] * 3


def test_an_older_private_key_still_opens_and_few_data_keys_are_remembered() -> None:
    older = X25519PrivateKey.generate()
    opener = Opener([KEY, older], remember=2)
    bodies = [Sealer(one.public_key()).seal(b"a", b"") for one in (KEY, older, KEY, older)]
    assert [opener.open(one, b"") for one in bodies * 2] == [b"a"] * 8
    assert len(opener._ciphers) == 2
    assert bodies[0][1:9] == key_id(KEY.public_key())
