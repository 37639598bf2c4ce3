"""From an identity to keyed tokens: normalisation, the rules of the NIR, level 1. Pure, and nothing here is kept.

A token is 16 bytes of HMAC-SHA-256, chained over the versions of secret 1: T_1 = HMAC(K_1, domain NUL value),
T_v = HMAC(K_v, T_v-1), each cut to 16 bytes, so that tokens written under an old version move on without an
identity. The domain keeps systems and traits apart: equal values in two domains have unrelated tokens.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import unicodedata
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from contracts.events import Identifier, Identity
from contracts.messages import Demographics, IdentifierToken, TokenBlock

TOKEN_BYTES: Final = 16
FICTITIOUS: Final = "fictitious"
UNLINKABLE: Final = "unlinkable"
CONTRADICTS_SEX: Final = "nir-contradicts-sex"
CONTRADICTS_BIRTH: Final = "nir-contradicts-birth-date"

NAMESPACES: Final = {
    "ins-nir": "ins-nir",
    "ins-nia": "ins-nia",
    "ben-nir-psa": "pseudo-nir",
    "nir-ano-17": "pseudo-nir",
    "ben-nir-ano": "ben-nir-ano",
    "nir-opener": "nir-opener",
    "ipp": "ipp",
}
"""The token namespace of each identifier system."""


class InvalidIdentity(Exception):
    """An identifier cannot be one: a reason, and a detail that names the place and the fix, never the value."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


# --- names ---

_LIGATURES: Final = str.maketrans(
    {"Œ": "OE", "œ": "oe", "Æ": "AE", "æ": "ae", "ß": "ss", "ẞ": "SS", "Ø": "O", "ø": "o", "Ł": "L", "ł": "l"}
    | {"Đ": "D", "đ": "d", "ı": "i"}
    | dict.fromkeys("’‘ʼʹ´`′＇", "'")
)
_WORDS: Final = re.compile(r"[^\W_]+'?")
_PARTICLES: Final = frozenset(("DE", "DU", "DES", "D", "D'"))
_ARTICLES_AFTER_DE: Final = frozenset(("LA", "L", "L'"))


def plain(text: str) -> str:
    """Upper case without accents, ligatures written out, apostrophes all alike."""
    if text.isascii():
        return text.upper().replace("`", "'")
    decomposed = unicodedata.normalize("NFKD", text.translate(_LIGATURES))
    return "".join(one for one in decomposed if not unicodedata.combining(one)).upper()


def given_name(text: str) -> str:
    """The form in which given names are compared: letters and digits alone; empty if there are none."""
    return "".join(_WORDS.findall(plain(text))).replace("'", "")


def family_name(text: str) -> str:
    """The form in which family names are compared: nobiliary particles go where another word follows.

    DE, DU, DES, D', DE LA and DE L' are particles; LE and LA by themselves are part of the name.
    """
    words = _WORDS.findall(plain(text))
    kept: list[str] = []
    at, last = 0, len(words) - 1
    while at <= last:
        if at < last and words[at] in _PARTICLES:
            has_article = words[at] == "DE" and at + 1 < last and words[at + 1] in _ARTICLES_AFTER_DE
            at += 2 if has_article else 1
            continue
        kept.append(words[at])
        at += 1
    return "".join(kept).replace("'", "")


# --- numbers ---

_NIR: Final = re.compile(
    r"(?P<sex>[123478])(?P<year>\d\d)(?P<month>0[1-9]|1[0-2]|[23]\d|4[0-2]|[5-9]\d)(?:\d\d|2[AB])\d{6}", re.ASCII
)
_SEPARATORS: Final = re.compile(r"[\s.\-]+")
_MALE: Final = frozenset("137")


def nir_key(number: str) -> int:
    """The key of a NIR of 13 characters: 97 - n mod 97, where 2A counts as 19 and 2B as 18 (INSEE)."""
    return 97 - int(number.replace("2A", "19").replace("2B", "18")) % 97


def nir(text: str, place: str = "value") -> str:
    """The 13 characters of a NIR or NIA given with or without its key. Raises InvalidIdentity.

    Months 20 to 42 and 50 to 99 are those of the incomplete and the foreign; sexes 3, 4, 7 and 8 those of numbers
    being assigned.
    """
    text = _SEPARATORS.sub("", text).upper()
    number = text[:13]
    if len(text) not in (13, 15) or not _NIR.fullmatch(number):
        raise InvalidIdentity(
            "bad-identifier",
            f"{place}: not a NIR; give its 13 characters, or 15 with the key (digits; 2A or 2B for Corsica)",
        )
    key = text[13:]
    if key and not (key.isascii() and key.isdigit() and int(key) == nir_key(number)):
        raise InvalidIdentity(
            "bad-nir-key", f"{place}: the key does not fit the number; correct it, or send the 13 characters without"
        )
    return number


def contradictions(number: str, sex: str | None, birth_date: str | None) -> Iterator[str]:
    """Flags where a NIR of 13 characters disagrees with what else is said of its holder."""
    if sex in ("male", "female") and (number[0] in _MALE) != (sex == "male"):
        yield CONTRADICTS_SEX
    if birth_date:
        year, month = number[1:3], number[3:5]
        stated = birth_date[5:7]
        if year != birth_date[2:4] or (stated and month <= "12" and month != stated):
            yield CONTRADICTS_BIRTH


def is_dummy(text: str) -> bool:
    """Whether a number stands for none: one character over and over, with another at the end at most (SNDS)."""
    return len(set(text)) <= 1 or (len(text) >= 13 and len(set(text[:-1])) == 1)


class Number(NamedTuple):
    """A number in its one spelling, in its token namespace."""

    namespace: str
    value: str
    rank: int | None = None
    scheme: str | None = None


class Person(NamedTuple):
    """An identity in its one spelling: what subjects and tokens are made from. Absent parts are empty."""

    status: str
    numbers: tuple[Number, ...] = ()
    birth_family_name: str = ""
    used_family_name: str = ""
    given_name: str = ""
    given_names: str = ""
    sex: str = ""
    birth_date: str = ""
    birth_place: str = ""
    commune: str = ""
    postcode: str = ""
    city: str = ""
    address: str = ""
    flags: tuple[str, ...] = ()

    def linkable(self) -> bool:
        """Whether there is enough to find other records of the same person by."""
        named = (self.birth_family_name or self.used_family_name) and self.given_name and self.birth_date
        return self.status != FICTITIOUS and bool(self.numbers or named)


def normalise(identity: Identity) -> Person:
    """The identity in its one spelling. Raises InvalidIdentity; never for a fictitious one."""
    if identity.identity_status == FICTITIOUS:
        return Person(FICTITIOUS)
    given = [given_name(one) for one in identity.given_names]
    sex = identity.sex if identity.sex and identity.sex != "unknown" else ""
    residence = identity.residence
    flags: set[str] = set()
    numbers = {
        number
        for position, one in enumerate(identity.identifiers)
        if (number := _number(one, identity, position, flags)) is not None
    }
    return Person(
        status=identity.identity_status,
        numbers=tuple(sorted(numbers, key=str)),
        birth_family_name=family_name(identity.birth_family_name or ""),
        used_family_name=family_name(identity.used_family_name or ""),
        given_name=given[0] if given else "",
        given_names="".join(given),
        sex=sex,
        birth_date=identity.birth_date or "",
        birth_place=identity.birth_place or "",
        commune=(residence and residence.commune) or "",
        postcode=given_name((residence and residence.postcode) or ""),
        city=given_name((residence and residence.city) or ""),
        address=given_name((residence and residence.address) or ""),
        flags=tuple(sorted(flags)),
    )


def demographics(identity: Identity, deceased: str | None = None) -> Demographics:
    """The part of an identity that a permit may release."""
    born = identity.birth_date
    return Demographics(
        sex=identity.sex,
        birth_year=int(born[:4]) if born else None,
        birth_month=int(born[5:7]) if born and len(born) > 4 else None,
        commune=identity.residence.commune if identity.residence else None,
        deceased=deceased,
    )


def _number(one: Identifier, identity: Identity, position: int, flags: set[str]) -> Number | None:
    """The number, or None where it stands for nobody: a dummy, or an opener's without what makes it a person's."""
    namespace = NAMESPACES[one.system]
    if namespace == "ipp":
        return Number(namespace, f"{one.assigner}\0{one.value}")
    value = _SEPARATORS.sub("", one.value).upper()
    if is_dummy(value):
        return None
    if namespace in ("ins-nir", "ins-nia"):
        value = nir(value, f"data.identity.identifiers[{position}].value")
        flags.update(contradictions(value, identity.sex, identity.birth_date))
        return Number(namespace, value)
    if namespace == "nir-opener":
        full_date = identity.birth_date if identity.birth_date and len(identity.birth_date) == 10 else None
        if full_date is None or identity.sex not in ("male", "female") or one.rank is None:
            return None
        opener = value[:13] if _is_nir_with_key(value) else value
        return Number(namespace, "\0".join((opener, full_date, identity.sex, str(one.rank))))
    if namespace == "pseudo-nir":
        return Number(namespace, value, one.rank, one.scheme)
    return Number(namespace, value)


def _is_nir_with_key(text: str) -> bool:
    try:
        return len(text) == 15 and bool(nir(text))
    except InvalidIdentity:
        return False


# --- tokens ---


class FirstLevel:
    """Tokens under all versions of secret 1, the newest last."""

    def __init__(self, secret: Mapping[int, bytes]) -> None:
        """Raises ValueError unless the versions are 1, 2, 3 and so on: a chain has no gaps."""
        if not secret or sorted(secret) != list(range(1, len(secret) + 1)):
            raise ValueError("the versions are not 1, 2, 3 and so on; put the missing ones back")
        self.version = len(secret)
        self._first = secret[1]
        self._further = [secret[version] for version in range(2, self.version + 1)]

    def token(self, domain: str, value: str) -> bytes:
        """The token of a value in a domain, under the newest version."""
        token = hmac.digest(self._first, f"{domain}\0{value}".encode(), "sha256")[:TOKEN_BYTES]
        for key in self._further:
            token = hmac.digest(key, token, "sha256")[:TOKEN_BYTES]
        return token


class Tokeniser:
    """Identities to token blocks. The last `remember` identities cost little when they come again. For one thread.

    They are remembered by a digest under a key of this process, so that memory holds tokens and no identity.
    """

    def __init__(self, secret: Mapping[int, bytes], remember: int = 20_000) -> None:
        self._level = FirstLevel(secret)
        self.version = self._level.version
        self._remember = remember
        self._known: OrderedDict[bytes, TokenBlock] = OrderedDict()
        self._salt = os.urandom(32)

    def block(self, source: str, identity: Identity, event_id: str) -> TokenBlock:
        """The identity's block, without `correction`. Raises InvalidIdentity.

        A fictitious or an unlinkable identity is a subject of its own, made from the event's id.
        """
        canonical = f"{source}\0".encode() + identity.__pydantic_serializer__.to_json(identity)
        place = hashlib.blake2b(canonical, key=self._salt, digest_size=16).digest()
        block = self._known.get(place)
        if block is None:
            block = self._known[place] = self._make(source, normalise(identity))
            if len(self._known) > self._remember:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(place)
        if block.subject:
            return block
        return msgspec.structs.replace(block, subject=self._level.token("subject of an event", event_id))

    def _make(self, source: str, person: Person) -> TokenBlock:
        if not person.linkable():
            flags = () if person.status == FICTITIOUS else tuple(sorted({*person.flags, UNLINKABLE}))
            return TokenBlock(subject=b"", source=source, status=person.status, flags=flags)
        spelling = msgspec.json.encode(person._replace(flags=())).decode()
        return TokenBlock(
            subject=self._level.token("subject", f"{source}\0{spelling}"),
            source=source,
            status=person.status,
            identifiers=tuple(
                IdentifierToken(one.namespace, self._level.token(one.namespace, one.value), one.rank, one.scheme)
                for one in person.numbers
            ),
            traits={name: self._level.token(domain, value) for name, domain, value in _traits(person) if value},
            flags=person.flags,
        )


def _traits(person: Person) -> Iterator[tuple[str, str, str]]:
    """Name, domain and value of every trait. (`blocks` and `encodings`, for similarity, are made beside these.)"""
    born = person.birth_date
    full_date = born if len(born) == 10 else ""
    yield "birth_family_name", "family-name", person.birth_family_name
    yield "used_family_name", "family-name", person.used_family_name
    yield "given_name", "given-name", person.given_name
    yield "given_names", "given-names", person.given_names
    yield "birth_date", "birth-date", full_date
    yield "birth_year", "birth-year", born[:4]
    yield "birth_month", "birth-month", born[5:7]
    yield "birth_day", "birth-day", born[8:10]
    yield "sex", "sex", person.sex
    yield "birth_place", "birth-place", person.birth_place
    yield "commune", "commune", person.commune
    # The strict traits of the INS (Référentiel national d'identitovigilance, "traits stricts").
    strict = (person.birth_family_name, person.given_name, full_date, person.sex, person.birth_place)
    yield "strict", "strict", "\0".join(strict) if all(strict) else ""
