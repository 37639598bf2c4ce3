"""Level 2: a keyed permutation of 128-bit tokens, and the keys of projects derived from one root. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

TOKEN_BYTES = 16


class SecondLevel:
    """The permutation under the newest version of secret 2.

    AES is a permutation of 128-bit values; tokens are outputs of HMAC, so applying it block by block (ECB) shows
    equality alone, which is what a token is for.
    """

    def __init__(self, secret: Mapping[int, bytes]) -> None:
        self.version = max(secret)
        key = _derive(secret[self.version], b"estuaire level 2 tokens", 32)
        self._cipher = Cipher(AES256(key), ECB())  # noqa: S305 - a permutation is what is wanted, see above

    def tokens(self, tokens: Iterable[bytes]) -> Iterator[bytes]:
        """The tokens of 16 bytes each at level 2, in their order. Raises ValueError on another length."""
        together = b"".join(_checked(tokens))
        encryptor = self._cipher.encryptor()
        permuted = encryptor.update(together) + encryptor.finalize()
        return (permuted[at : at + TOKEN_BYTES] for at in range(0, len(permuted), TOKEN_BYTES))


def permit_key(root: Mapping[int, bytes], permit: str) -> bytes:
    """K_permit: 32 bytes, from the oldest root version so that a permit keeps its key for life (HKDF, RFC 5869)."""
    return _derive(root[min(root)], b"estuaire permit\n" + permit.encode(), 32)


def _derive(secret: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt=None, info=info).derive(secret)


def _checked(tokens: Iterable[bytes]) -> Iterator[bytes]:
    for token in tokens:
        if len(token) != TOKEN_BYTES:
            raise ValueError(f"a token has {len(token)} bytes instead of {TOKEN_BYTES}")
        yield token
