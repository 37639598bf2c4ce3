"""Signed heads of the log, as notes of C2SP: signed-note v1 with Ed25519, tlog-checkpoint v1. Pure.

The note's text is the origin, the size, the root in base64, and `time` with the second (UTC) in an extension line,
which other readers of such notes pass over.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from contracts.merkle import HASH_BYTES

ORIGIN: Final = "estuaire.local/audit"
"""The name of a log that was given none."""
_ED25519: Final = b"\x01"
_DASH: Final = "\N{EM DASH} "
_LONGEST: Final = 100_000


class NoteBroken(ValueError):
    """A note is none, or no key that is known has signed it. One line."""


class Checkpoint(NamedTuple):
    """The head of a log: how many entries, their root, and when it was signed (UTC, to the second)."""

    origin: str
    size: int
    root: bytes
    at: dt.datetime

    def text(self) -> str:
        """What is signed."""
        moment = self.at.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\ntime {moment}\n"


class Signer:
    """Signs heads in the name of a log."""

    def __init__(self, origin: str, seed: bytes) -> None:
        """`seed` are the 32 bytes of an Ed25519 private key. Raises ValueError where the origin can name no key."""
        if not origin or "+" in origin or any(one.isspace() for one in origin) or not origin.isprintable():
            raise ValueError("the origin of the log has to be a word without spaces and +, such as example.org/audit")
        self.origin = origin
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self._public = self._key.public_key().public_bytes_raw()

    def sign(self, checkpoint: Checkpoint) -> str:
        """The note."""
        text = checkpoint.text()
        signature = _key_id(self.origin, self._public) + self._key.sign(text.encode())
        return f"{text}\n{_DASH}{self.origin} {base64.b64encode(signature).decode()}\n"

    def verifier_key(self) -> str:
        """The public key, as whoever verifies keeps it: `<name>+<key id>+<key>`."""
        encoded = base64.b64encode(_ED25519 + self._public).decode()
        return f"{self.origin}+{_key_id(self.origin, self._public).hex()}+{encoded}"


class Verifier:
    """Opens notes with the keys that it was given."""

    def __init__(self, keys: Iterable[str]) -> None:
        """Keys are as `Signer.verifier_key` writes them. Raises NoteBroken."""
        self._keys: Mapping[tuple[str, bytes], Ed25519PublicKey] = dict(map(_read_key, keys))
        if not self._keys:
            raise NoteBroken("there is no key to verify checkpoints with")

    def checkpoint(self, note: str) -> Checkpoint:
        """What a note says. Raises NoteBroken, also where one of several signatures of known keys does not hold."""
        text, parted, signatures = note.rpartition("\n\n")
        text += "\n"
        if not parted or len(note) > _LONGEST or not signatures.endswith("\n"):
            raise NoteBroken("it is no signed note")
        signed = False
        for line in signatures.splitlines():
            name, _, encoded = line.removeprefix(_DASH).partition(" ")
            signature = _decoded(encoded)
            key = self._keys.get((name, signature[:4]))
            if not line.startswith(_DASH) or len(signature) < 5:
                raise NoteBroken("it is no signed note")
            if key is None:
                continue
            try:
                key.verify(signature[4:], text.encode())
            except InvalidSignature:
                raise NoteBroken("its signature is forged, or its text was changed") from None
            signed = name == text.partition("\n")[0] or signed
        if not signed:
            raise NoteBroken("no key of this log has signed it")
        return _read_text(text)


def _read_text(text: str) -> Checkpoint:
    lines = text.splitlines()
    try:
        origin, size, root, moment = lines
        read = Checkpoint(origin, int(size), _decoded(root), dt.datetime.fromisoformat(moment.removeprefix("time ")))
    except ValueError:
        raise NoteBroken("it is no checkpoint") from None
    if read.text() != text or read.size < 0 or len(read.root) != HASH_BYTES:
        raise NoteBroken("it is no checkpoint")
    return read


def _read_key(key: str) -> tuple[tuple[str, bytes], Ed25519PublicKey]:
    name, key_id, encoded = (*key.strip().split("+", 2), "", "")[:3]
    public = _decoded(encoded)
    if public[:1] != _ED25519 or len(public) != 33 or _key_id(name, public[1:]).hex() != key_id:
        raise NoteBroken("a verifier key is not of the form <name>+<key id>+<key>")
    return (name, bytes.fromhex(key_id)), Ed25519PublicKey.from_public_bytes(public[1:])


def _key_id(name: str, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


def _decoded(text: str) -> bytes:
    """The bytes, or none where the text is not the one base64 of them."""
    try:
        read = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return read if base64.b64encode(read).decode() == text else b""
