"""What the console says, in each language: `words.yaml`, and days and moments as people write them."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final
from zoneinfo import ZoneInfo

import yaml

LANGUAGES: Final = {"en": "English", "fr": "Français"}
PARIS: Final = ZoneInfo("Europe/Paris")


class Words:
    """What there is to say, in one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._said = {name: said[language] for name, said in catalogue().items()}

    def __call__(self, name: str, /, **values: Any) -> str:
        """What has this name. What has no words yet, such as an act that is new in contracts, is said by its name."""
        said = self._said.get(name)
        return plain(name) if said is None else said.format(**values)

    def knows(self, name: str) -> bool:
        """Whether there are words for it."""
        return name in self._said

    def sentence(self, family: str, said: str) -> str | None:
        """A service's sentence in this language, where `family` has it in English, or under the name of its kind
        (`int_parsing`); None for one that is not known. The place before it (`title: it is missing`) stays.

        What stands for `{system}` is a system of identifiers, if there are words for these; several have commas.
        """
        if found := self._known(family, said):
            return found
        place, colon, rest = said.partition(": ")
        found = self._known(family, rest) if colon and _PLACE.fullmatch(place) else None
        return found and self("layout.of", name=place, said=found)

    def _known(self, family: str, said: str) -> str | None:
        if "_" in said and self.knows(f"{family}.{said}"):  # one of pydantic's own
            return self(f"{family}.{said}")
        for name, pattern in _sentences(family):
            if (found := pattern.fullmatch(said)) and (filled := self._filled(found.groupdict())) is not None:
                return self(name, **filled)
        return None

    def _filled(self, blanks: Mapping[str, str]) -> dict[str, str] | None:
        """What stands for each blank, in this language; None if it is not what the blank is for."""
        filled = {}
        for blank, said in blanks.items():
            if blank in _families():
                names = [f"{blank}.{one}" for one in said.split(", ")]
                if not all(map(self.knows, names)):
                    return None
                said = ", ".join(map(_within, map(self, names)))
            filled[blank] = said
        return filled

    def day(self, text: str) -> str:
        """A day, from its ISO form."""
        try:
            day = dt.date.fromisoformat(text[:10])
        except ValueError:
            return text
        number = "1er" if day.day == 1 and self.language == "fr" else day.day
        return f"{number} {self._said['months'].split()[day.month - 1]} {day.year}"

    def moment(self, text: str) -> str:
        """A moment, as clocks in France show it, from its ISO form."""
        moment = dt.datetime.fromisoformat(text).astimezone(PARIS)
        return f"{self.day(moment.date().isoformat())}, {moment:%H:%M}"

    def instant(self, text: str) -> str:
        """A moment to the millisecond, as clocks in France show it, from its ISO form."""
        moment = dt.datetime.fromisoformat(text).astimezone(PARIS)
        mark = "," if self.language == "fr" else "."
        return f"{self.day(moment.date().isoformat())}, {moment:%H:%M:%S}{mark}{moment.microsecond // 1000:03d}"

    def number(self, value: float) -> str:
        """A number, its thousands apart; a narrow space does not break."""
        return f"{value:,}".replace(",", "\u202f" if self.language == "fr" else ",")

    def clock(self, text: str) -> str:
        """The time of a moment, as clocks in France show it, from its ISO form."""
        return f"{dt.datetime.fromisoformat(text).astimezone(PARIS):%H:%M:%S}"

    def decimal(self, value: float) -> str:
        """A number with one digit after the point, or the comma."""
        text = f"{value:,.1f}"
        return text.translate(str.maketrans(",.", "\u202f,")) if self.language == "fr" else text

    def share(self, value: float) -> str:
        """A share of one, as a percentage."""
        return f"{value * 100:.1f}\u202f%".replace(".", ",") if self.language == "fr" else f"{value:.1%}"


@cache
def catalogue() -> Mapping[str, Mapping[str, str]]:
    """All names, with what they are in each language; in French no line breaks before a mark that a space is before."""
    text = (files("services.console") / "words.yaml").read_text(encoding="utf-8")
    found = _flat(yaml.safe_load(text), "")
    return {name: said | {"fr": _MARKS.sub("\u00a0", said["fr"])} for name, said in found}


_MARKS: Final = re.compile(r" (?=[:;?!»])|(?<=«) ")


@cache
def _sentences(family: str) -> list[tuple[str, re.Pattern[str]]]:
    named = [(name, said["en"]) for name, said in catalogue().items() if name.startswith(f"{family}.")]
    return [(name, re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[\\w ,'.-]+)", re.escape(one)))) for name, one in named]


@cache
def _families() -> frozenset[str]:
    return frozenset(name.partition(".")[0] for name in catalogue())


def _within(said: str) -> str:
    """A name within a sentence: without its capital, if it is no abbreviation."""
    return said[:1].lower() + said[1:] if said[1:2].islower() else said


_PLACE: Final = re.compile(r"[\w.-]+")


def _flat(below: Mapping[str, Any], at: str) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    for name, one in below.items():
        found += [(f"{at}{name}", one)] if one.keys() <= LANGUAGES.keys() else _flat(one, f"{at}{name}.")
    return found


def breakable(name: str) -> list[str]:
    """The parts of a source or another address between which a line may break: no word is torn."""
    return [one for one in re.split(r"(?<=[:/])(?<!^urn:)", name) if one]


def plain(name: str) -> str:
    """The last part of a name, to be read."""
    said = name.rpartition(".")[2].replace("-", " ").replace("_", " ")
    return said[:1].upper() + said[1:]


def preferred(accept: str) -> str:
    """The language that an `Accept-Language` header likes best of those there are; English, if it names none."""
    liked: list[tuple[float, str]] = []
    for one in accept[:500].split(","):
        tag, _, weight = one.partition(";q=")
        language = tag.strip().lower().partition("-")[0]
        if language in LANGUAGES:
            try:
                liked.append((float(weight or 1), language))
            except ValueError:
                continue
    return max(liked, key=lambda one: one[0])[1] if liked else "en"
