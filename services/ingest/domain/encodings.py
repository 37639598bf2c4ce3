"""From traits to what may be compared without being known: blocking tokens, and comparison codes under each. Pure.

A trait is broken into features (bigrams of a name, digits of a date), each a keyed 16-byte value. A row of codes
belongs to one token M by which two subjects may meet: a code is the first 2 bytes of AES_K(feature xor M), so the same
name has unrelated codes under two tokens, and no frequency of a name is left to count. A name gives always the same
number of features (the smallest by their keyed values, or copies of the few there are: a bottom-k sketch, Cohen and
Kaplan 2007), so that a row says nothing of a name's length; the share of equal codes estimates the overlap of bigrams.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

from contracts.comparison import PARTS, ROW_CODES, sort_sets
from services.ingest.domain.identity import Person

FEATURE_BYTES: Final = 16
_ABSENT: Final = bytes(FEATURE_BYTES)

# --- phonetics ---

_OTHER: Final = re.compile("[^A-Z]+")
_FINAL_O: Final = re.compile("E?AU[XDTLS]*$|AUL[DT]$|O[TX]$")
_SOFT_C: Final = re.compile("C(?=[EIY])|SC(?=[EIY])")
_SOFT_G: Final = re.compile("G(?=[EIY])")
_GROUPS: Final = dict(zip("BFPVCGJKQSXZDTLMNR", "111122222222334556", strict=True))


def sound(name: str) -> str:
    """How a name sounds, roughly: Soundex (Russell 1918) after a few rules of French spelling. Empty without letters.

    The rules are those that the French Soundex variants (Soundex 2, Phonex) share: PH is F, silent H and final
    consonants go, EAU and AULT are O, K and Q are C, C before E is S, Y is I.
    """
    letters = _OTHER.sub("", name)
    letters = letters.replace("PH", "F")
    if "AU" in letters or letters.endswith(("OT", "OX")):
        letters = _FINAL_O.sub("O", letters)
    letters = letters.replace("CK", "C").replace("QU", "C").replace("Q", "C").replace("K", "C")
    if "C" in letters:
        letters = _SOFT_C.sub("S", letters)
    if "G" in letters:
        letters = _SOFT_G.sub("J", letters)
    letters = (letters.replace("H", "") or letters).replace("Y", "I").replace("W", "V")
    if not letters:
        return ""
    letters = letters[0] + letters[1:].rstrip("DTSXZPE")
    found = letters[0]
    before = _GROUPS.get(found)
    for letter in letters[1:]:
        group = _GROUPS.get(letter)
        if group and group != before:
            found += group
        if letter not in "HW":
            before = group
    return found[:4].ljust(4, "0")


_sound_of_city: Final = lru_cache(20_000)(sound)

# --- blocking ---

_WAY_TYPES: Final = frozenset(
    [
        "RUE",
        "AVENUE",
        "BOULEVARD",
        "PLACE",
        "IMPASSE",
        "CHEMIN",
        "ALLEE",
        "ALLEES",
        "ROUTE",
        "QUAI",
        "SQUARE",
        "COURS",
        "PASSAGE",
        "RESIDENCE",
        "LOTISSEMENT",
        "HAMEAU",
        "SENTIER",
        "FAUBOURG",
        "ESPLANADE",
        "LIEU",
        "BATIMENT",
        "APPARTEMENT",
        "STREET",
        "ROAD",
        "AVENUE",
        "CRESCENT",
        "CLOSE",
        "COURT",
        "DRIVE",
        "CIRCUIT",
        "CIRCLE",
        "TERRACE",
    ]
)


def blocking_values(person: Person) -> Iterator[tuple[str, str]]:
    """Kind and value of every blocking key: what two records of one person are likely to share, though parts differ.

    Names of both families, for either may be the one that another source has; postcodes with their digits in order, for
    two are often swapped.
    """
    given, city = sound(person.given_name), _sound_of_city(person.city)
    place = "".join(sorted(person.postcode)) or person.commune
    if len(person.birth_date) == 10:
        yield "birth-date", person.birth_date
    for family in dict.fromkeys((sound(person.birth_family_name), sound(person.used_family_name))):
        if family and given:
            yield "names", "\0".join(sorted((family, given)))
        if family and place:
            yield "family-place", f"{family}\0{place}"
    if given and (city or place):
        yield "given-place", f"{given}\0{city or place}"
    words = person.address.split()
    streets = [word for word in words if len(word) > 3 and word.isalpha() and word not in _WAY_TYPES]
    longest = sorted(streets, key=lambda it: (-len(it), it))[:2]
    number = next((word for word in words if word.isdigit()), "")
    for street in dict.fromkeys(map(sound, longest)):
        if place or city:
            yield "street-place", f"{street}\0{place or city}"
    if number and streets:
        yield "street-number", f"{sound(longest[0])}\0{number}"


# --- features ---


class Comparable:
    """Rows of comparison codes under one version of secret 1. For one thread."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"comparison features", "sha256")
        cipher = Cipher(AES256(hmac.digest(secret, b"comparison codes", "sha256")), ECB())  # noqa: S305 - a PRF, see above
        self._encryptor = cipher.encryptor()
        # bigrams, digits and places come again; no name and no address is remembered
        self._common: Callable[[str, str], bytes] = lru_cache(100_000)(self._feature)
        self._city: Callable[[str], bytes] = lru_cache(20_000)(partial(self._sketch, "place", size=PARTS["city"].size))

    def rows(self, person: Person, tokens: Sequence[bytes]) -> bytes:
        """A row of codes under each token; nothing at all of a person without traits."""
        features = b"".join(self._features(person))
        if not tokens or features == _ABSENT * ROW_CODES:
            return b""
        under = np.frombuffer(b"".join(tokens), np.uint8).reshape(-1, 1, FEATURE_BYTES)
        parts = np.frombuffer(features, np.uint8).reshape(1, ROW_CODES, FEATURE_BYTES)
        blocks = self._encryptor.update((under ^ parts).tobytes())
        codes = np.frombuffer(blocks, "<u2").reshape(len(tokens), ROW_CODES, -1)[:, :, 0].copy()
        codes[codes == 0] = 1
        codes[:, ~np.any(parts[0], axis=1)] = 0
        return sort_sets(codes).tobytes()

    def _feature(self, domain: str, value: str) -> bytes:
        return hmac.digest(self._key, f"{domain}\0{value}".encode(), "sha256")[:FEATURE_BYTES]

    def _sketch(self, kind: str, text: str, size: int) -> bytes:
        """`size` features of the text's bigrams, word by word; none of no text."""
        if not text:
            return _ABSENT * size
        seen: dict[str, int] = {}
        keyed = []
        for word in text.split():
            padded = f"_{word}_"
            for at in range(len(word) + 1):
                bigram = padded[at : at + 2]
                seen[bigram] = count = seen.get(bigram, 0) + 1
                counted = f"{bigram}{count}"
                keyed.append((self._common(kind, counted), counted))
        keyed.sort()
        chosen = [feature for feature, _ in keyed[:size]]
        copies = 0
        while len(chosen) < size:
            copies += 1
            chosen += [self._common(f"{kind} {copies}", bigram) for _, bigram in keyed][: size - len(chosen)]
        return b"".join(chosen)

    def _features(self, person: Person) -> Iterator[bytes]:
        """The features of every part of a row, in its order."""
        yield self._sketch("name", person.birth_family_name, PARTS["birth_family_name"].size)
        yield self._sketch("name", person.used_family_name, PARTS["used_family_name"].size)
        yield self._sketch("name", person.given_name, PARTS["given_name"].size)
        yield self._wholes("given name", dict.fromkeys(person.given_names), PARTS["given_names"].size)
        digits = person.birth_date.replace("-", "")
        yield from (self._common(f"digit {place}", digit) for place, digit in enumerate(digits))
        yield _ABSENT * (PARTS["birth_digits"].size - len(digits))
        either = "".join((digits[:4], *sorted((digits[4:6], digits[6:])))) if len(digits) == 8 else ""
        yield self._whole("birth date either way", either)
        yield self._whole("sex", person.sex)
        yield self._whole("birth place", person.birth_place)
        yield self._whole("birth department", person.birth_place[:2])
        yield self._whole("commune", person.commune)
        yield self._whole("postcode", person.postcode)
        yield self._whole("postcode any order", "".join(sorted(person.postcode)))
        yield self._city(person.city)
        words = person.address.split()
        particular = " ".join(word for word in words if word not in _WAY_TYPES) or person.address
        yield self._sketch("place", particular, PARTS["address"].size)

    def _whole(self, domain: str, value: str) -> bytes:
        return self._common(domain, value) if value else _ABSENT

    def _wholes(self, domain: str, values: Sequence[str] | dict[str, None], size: int) -> bytes:
        found = [self._feature(domain, one) for one in list(values)[:size] if one]
        return b"".join(found) + _ABSENT * (size - len(found))
