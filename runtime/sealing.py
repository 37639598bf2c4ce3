"""Bodies only their recipient can open: AES-256-GCM under data keys wrapped to a public key (HPKE, RFC 9180).

A sealed body is `version (1 byte) | recipient key id (8) | wrapped data key (80) | nonce (12) | ciphertext`.
The plaintext is padded to a size class first, so that a length tells no more than its class.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

_SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_INFO = b"estuaire data key v1"
_VERSION = b"\x01"
_ID, _WRAPPED, _NONCE = 8, 80, 12
_HEAD = 1 + _ID + _WRAPPED + _NONCE
DATA_KEY_SECONDS = 3600.0
SMALLEST_CLASS = 256


class SealBroken(Exception):
    """The body cannot be opened: not for this recipient, not for this record, or altered."""


class KeyNotHeld(SealBroken):
    """The body is sealed to a key that its reader does not hold: another's, or a version that is not there yet."""


def key_id(public: X25519PublicKey) -> bytes:
    """The 8 bytes that name a recipient's public key."""
    return hashlib.sha256(public.public_bytes_raw()).digest()[:_ID]


def size_class(length: int) -> int:
    """The smallest class that holds `length` bytes: 256, 384, 512, 768, 1024 and so on, at most half as much again."""
    size = SMALLEST_CLASS
    while size < length:
        if size + size // 2 >= length:
            return size + size // 2
        size *= 2
    return size


def pad(plaintext: bytes) -> bytes:
    """Length, plaintext, zeros up to the size class."""
    length = len(plaintext)
    return length.to_bytes(4) + plaintext + bytes(size_class(length + 4) - length - 4)


def unpad(padded: bytes) -> bytes:
    """The inverse of `pad`."""
    return padded[4 : 4 + int.from_bytes(padded[:4])]


class Sealer:
    """Seals to one recipient; the data key is replaced every hour. For one thread."""

    def __init__(self, recipient: X25519PublicKey, clock: Callable[[], float] = time.monotonic) -> None:
        self._recipient = recipient
        self._clock = clock
        self._expires = float("-inf")
        self._head = b""
        self._cipher: AESGCM

    def seal(self, plaintext: bytes, associated: bytes) -> bytes:
        """The sealed body; only the recipient opens it, and only with the same associated data."""
        if self._clock() >= self._expires:
            self._renew()
        nonce = os.urandom(_NONCE)
        return self._head + nonce + self._cipher.encrypt(nonce, pad(plaintext), associated)

    def _renew(self) -> None:
        data_key = AESGCM.generate_key(256)
        wrapped = _SUITE.encrypt(data_key, self._recipient, _INFO)
        self._head = _VERSION + key_id(self._recipient) + wrapped
        self._cipher = AESGCM(data_key)
        self._expires = self._clock() + DATA_KEY_SECONDS


class Opener:
    """Opens what was sealed to any of these private keys, remembering the data keys it has unwrapped."""

    def __init__(self, keys: Iterable[X25519PrivateKey], remember: int = 4096) -> None:
        self._keys = {key_id(key.public_key()): key for key in keys}
        self._ciphers: OrderedDict[bytes, AESGCM] = OrderedDict()
        self._remember = remember

    def open(self, sealed: bytes, associated: bytes) -> bytes:
        """The plaintext. Raises SealBroken, which names no content."""
        head, nonce, body = sealed[: _HEAD - _NONCE], sealed[_HEAD - _NONCE : _HEAD], sealed[_HEAD:]
        if len(nonce) < _NONCE or head[:1] != _VERSION:
            raise SealBroken("not a sealed body of version 1")
        cipher = self._ciphers.get(head) or self._unwrap(head)
        try:
            return unpad(cipher.decrypt(nonce, body, associated))
        except InvalidTag:
            raise SealBroken("altered, or moved from another record") from None

    def _unwrap(self, head: bytes) -> AESGCM:
        key = self._keys.get(head[1 : 1 + _ID])
        if key is None:
            raise KeyNotHeld("sealed to a key that this service does not hold")
        try:
            cipher = AESGCM(_SUITE.decrypt(head[1 + _ID :], key, _INFO))
        except Exception:
            raise SealBroken("the data key cannot be unwrapped") from None
        self._ciphers[head] = cipher
        if len(self._ciphers) > self._remember:
            self._ciphers.popitem(last=False)
        return cipher
