"""The keys of people and permits, wrapped, and what is sealed under them."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE = 12


class KeyBroken(Exception):
    """A wrapped key or a sealed body cannot be opened. Names nothing of it."""


class Vault:
    """Keys wrapped under the master secret: a version byte, a nonce, and the key under AES-256-GCM."""

    def __init__(self, master: Mapping[int, bytes], remember: int = 50_000) -> None:
        self._masters = {version: AESGCM(secret[:32]) for version, secret in master.items()}
        self._newest = max(master)
        self._ciphers: OrderedDict[bytes, AESGCM] = OrderedDict()
        self._remember = remember
        self._lock = threading.Lock()

    def wrap(self, key: bytes, owner: bytes) -> bytes:
        """The key as the database keeps it; it opens for the same owner only."""
        nonce = os.urandom(_NONCE)
        return bytes([self._newest]) + nonce + self._masters[self._newest].encrypt(nonce, key, owner)

    def unwrap(self, wrapped: bytes, owner: bytes) -> bytes:
        """The key. Raises KeyBroken."""
        try:
            master = self._masters[wrapped[0]]
            return master.decrypt(wrapped[1 : 1 + _NONCE], wrapped[1 + _NONCE :], owner)
        except (InvalidTag, KeyError, IndexError, ValueError):
            raise KeyBroken("a wrapped key cannot be opened") from None

    def seal(self, subject: bytes, wrapped: bytes, plaintext: bytes, event_id: bytes) -> bytes:
        """A record's body under its subject's key, bound to the record."""
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher(subject, wrapped).encrypt(nonce, plaintext, event_id)

    def open(self, subject: bytes, wrapped: bytes, body: bytes, event_id: bytes) -> bytes:
        """A record's body. Raises KeyBroken."""
        try:
            return self._cipher(subject, wrapped).decrypt(body[:_NONCE], body[_NONCE:], event_id)
        except (InvalidTag, ValueError):
            raise KeyBroken("a body cannot be opened") from None

    def _cipher(self, subject: bytes, wrapped: bytes) -> AESGCM:
        with self._lock:
            cipher = self._ciphers.get(wrapped)
            if cipher is None:
                cipher = self._ciphers[wrapped] = AESGCM(self.unwrap(wrapped, b"subject\n" + subject))
                if len(self._ciphers) > self._remember:
                    self._ciphers.popitem(last=False)
            return cipher

    def forget(self, keys: Iterable[bytes]) -> None:
        """Remember nothing of these wrapped keys, which are destroyed."""
        with self._lock:
            for wrapped in keys:
                self._ciphers.pop(wrapped, None)

    def new_subject_key(self, subject: bytes) -> bytes:
        """A fresh key for a subject, wrapped."""
        return self.wrap(AESGCM.generate_key(256), b"subject\n" + subject)
