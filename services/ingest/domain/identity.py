"""An identity in its one spelling: names without accents and particles, numbers checked by their rules. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from typing import Final, NamedTuple

from contracts.events import Identifier, Identity
from contracts.messages import Demographics

FICTITIOUS: Final = "fictitious"
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


def _spaced(text: str) -> str:
    """Words in one spelling, a space between two."""
    return " ".join(_WORDS.findall(plain(text))).replace("'", " ")


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
    given_names: tuple[str, ...] = ()
    sex: str = ""
    birth_date: str = ""
    birth_place: str = ""
    commune: str = ""
    postcode: str = ""
    city: str = ""
    address: str = ""
    flags: tuple[str, ...] = ()

    def linkable(self) -> bool:
        """Whether there is enough to find other records of the same person by: a number, or two of the family name,
        the given name, the birth date and the residence."""
        home = self.address or self.city or self.postcode or self.commune
        traits = (self.birth_family_name or self.used_family_name, self.given_name, self.birth_date, home)
        return self.status != FICTITIOUS and (bool(self.numbers) or sum(map(bool, traits)) >= 2)


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
        given_names=tuple(given),
        sex=sex,
        birth_date=identity.birth_date or "",
        birth_place=identity.birth_place or _place_in_number(numbers, flags),
        commune=(residence and residence.commune) or "",
        postcode=given_name((residence and residence.postcode) or ""),
        city=given_name((residence and residence.city) or ""),
        address=_spaced((residence and residence.address) or ""),
        flags=tuple(sorted(flags)),
    )


def _place_in_number(numbers: Iterable[Number], flags: Collection[str]) -> str:
    """The birth place that a NIR has in its sixth to tenth character (INSEE), unless it contradicts its bearer."""
    places = {number.value[5:10] for number in numbers if number.namespace == "ins-nir"}
    return places.pop() if len(places) == 1 and not flags else ""


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
