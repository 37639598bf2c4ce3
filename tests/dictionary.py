"""The dictionary attack on a number: all that it can be, hashed in every way an attacker may try, and looked for.

A NIR is sex, year, month, commune and an order number: of one year and commune there are 23,976.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import product

from services.ingest.domain.identity import nir_key
from tests.search import Hit, Search

Hash = Callable[[bytes], bytes]
Bytes = Iterable[tuple[str, bytes]]
"""Places, and what lies there."""


def unkeyed(name: str) -> Hash:
    """A hash that anybody can work out."""
    return lambda text: hashlib.new(name, text).digest()


def keyed(key: bytes) -> Hash:
    """HMAC-SHA-256 under a key."""
    return lambda text: hmac.digest(key, text, "sha256")


UNKEYED = {name: unkeyed(name) for name in ("md5", "sha1", "sha256", "sha512", "blake2b")}


def nirs(year: int, commune: str) -> list[str]:
    """Every NIR (13 characters) of those born in a year of the century (two digits) in a commune."""
    return [
        f"{sex}{year:02d}{month:02d}{commune}{order:03d}"
        for sex, month, order in product((1, 2), range(1, 13), range(1, 1000))
    ]


def attack(dictionary: Iterable[str], hashes: Mapping[str, Hash], haystack: Bytes) -> Iterator[Hit]:
    """Every place where a number of the dictionary is, hashed in one of these ways and cut to eight bytes or more."""
    numbers, places = list(dictionary), list(haystack)
    for name, digest in hashes.items():
        search = Search(numbers, partial(_hashed, name, digest))
        for place, data in places:
            yield from search.bytes(place, data)


def in_clear(dictionary: Iterable[str], haystack: Bytes) -> Iterator[Hit]:
    """Every place where a number of the dictionary can be read, as text or encoded."""
    search = Search(dictionary)
    for place, data in haystack:
        yield from search.bytes(place, data)


def _hashed(name: str, digest: Hash, number: str) -> Iterator[tuple[str, bytes]]:
    """What the number's hash begins with: 13 characters, 15 with the key, or as ingest spells it in a token."""
    for spelling in (number, f"{number}{nir_key(number):02d}", f"ins-nir\0{number}"):
        head = digest(spelling.encode())[:9]
        yield name, head[:8]
        for digits in {head[:8].hex(), head[:8].hex().upper()}:
            yield f"{name}, hex", digits.encode()
        for text in {base64.b64encode(head), base64.urlsafe_b64encode(head)}:
            yield f"{name}, base64", text[:10]
