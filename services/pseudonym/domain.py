"""Level 2: tokens permuted and codes hashed anew under secret 2, and the keys of projects from one root. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from contracts.comparison import CODE_BYTES, ROW_BYTES, ROW_CODES, sort_sets

TOKEN_BYTES = 16


class SecondLevel:
    """What secret 2 makes of tokens and codes, under its newest version.

    AES is a permutation of 128-bit values; tokens are outputs of HMAC, so applying it block by block (ECB) shows
    equality alone, which is what a token is for. A code is hashed with the level-1 token that its row belongs to, by
    AES under another key: whoever holds secret 1 and these rows can predict no code, and learns how many are equal.
    """

    def __init__(self, secret: Mapping[int, bytes]) -> None:
        self.version = max(secret)
        key = _derive(secret[self.version], b"estuaire level 2 tokens", 32)
        self._cipher = Cipher(AES256(key), ECB())  # noqa: S305 - a permutation is what is wanted, see above
        codes_key = _derive(secret[self.version], b"estuaire level 2 codes", 32)
        self._codes = Cipher(AES256(codes_key), ECB())  # noqa: S305 - a PRF on distinct blocks, see above

    def tokens(self, tokens: Iterable[bytes]) -> Iterator[bytes]:
        """The tokens of 16 bytes each at level 2, in their order. Raises ValueError on another length."""
        together = b"".join(_checked(tokens))
        encryptor = self._cipher.encryptor()
        permuted = encryptor.update(together) + encryptor.finalize()
        return (permuted[at : at + TOKEN_BYTES] for at in range(0, len(permuted), TOKEN_BYTES))

    def codes(self, rows: Sequence[bytes], tokens: Sequence[bytes]) -> list[bytes]:
        """Rows of codes at level 2, several together in each of `rows`; `tokens` are those of all rows, in order.

        Absent codes stay absent. Raises ValueError where the bytes are no whole rows, or not as many as the tokens.
        """
        together = b"".join(rows)
        if len(together) != ROW_BYTES * len(tokens):
            raise ValueError("the codes are not one row for each token")
        if not together:
            return list(rows)
        first = np.frombuffer(together, "<u2").reshape(-1, ROW_CODES)
        under = np.frombuffer(b"".join(tokens), "<u2").reshape(-1, 1, TOKEN_BYTES // CODE_BYTES)
        blocks = np.broadcast_to(under, (len(first), ROW_CODES, under.shape[2])).copy()
        blocks[:, :, 0] ^= first
        encryptor = self._codes.encryptor()
        hashed = np.frombuffer(encryptor.update(blocks.tobytes()), "<u2")
        second = hashed.reshape(blocks.shape)[:, :, 0].copy()
        second[second == 0] = 1
        second[first == 0] = 0
        rekeyed = sort_sets(second).tobytes()
        found, start = [], 0
        for one in rows:
            found.append(rekeyed[start : start + len(one)])
            start += len(one)
        return found


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
