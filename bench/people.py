"""The people of the linkage benchmark: whom the index knows, who comes again otherwise, and who is new.

A made-up population of the whole country. Who a record is about, and what it says, follows from the person's number
alone, so that several processes agree on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from random import Random
from typing import Final, NamedTuple

import msgspec

from contracts.events import Identity
from contracts.messages import TokenBlock
from estuaire.population import CHU, Person, View, identity, population
from estuaire.traps import CLINIC, INSURANCE, LABORATORY, SOURCES, TRAPS
from services.ingest.domain.tokens import Tokeniser
from services.pseudonym.domain import SecondLevel

SEED: Final = 1
CHUNK: Final = 2_000
OTHER: Final = "urn:estuaire:producer:garde"
_HOSPITAL: Final[tuple[str, View]] = (CHU, "hospital")
_LABORATORY: Final[tuple[str, View]] = (LABORATORY, "provisional")
_INSURANCE: Final[tuple[str, View]] = (INSURANCE, "insurance")
_FIRST: Final = (*[_HOSPITAL] * 5, *[_LABORATORY] * 2, *[_INSURANCE] * 3)
_SLIPS: Final = ("letter-wrong", "married-name", "digit-wrong", "day-month-swapped", "birth-place-missing-or-wrong")

Known = tuple[str, dict[str, object]]
"""A source, and what it says of a person."""


class Newcomer(NamedTuple):
    """A record of a new subject, and the one by which the index knows the same person, if it does."""

    record: Known
    first: Known | None


class Tokens:
    """Identities to blocks as linkage gets them: the code of ingest, then that of pseudonym."""

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        self._first = Tokeniser({1: secrets["level-1"]}, remember=1)
        self._second = SecondLevel({1: secrets["level-2"]})

    def blocks(self, records: Sequence[Known]) -> list[TokenBlock]:
        """The block of each record, at level 2."""
        first = [
            self._first.block(source, Identity.model_validate(said), str(number))
            for number, (source, said) in enumerate(records)
        ]
        permuted = self._second.tokens(chain.from_iterable(one.tokens() for one in first))
        compared = [list(one.meeting_tokens()) if one.codes else [] for one in first]
        codes = self._second.codes([one.codes for one in first], list(chain.from_iterable(compared)))
        return [
            msgspec.structs.replace(one.with_tokens(permuted), codes=rows, code_version=f"{one.code_version}.1")
            for one, rows in zip(first, codes, strict=True)
        ]


def chunks(people: int, part: int = 0, parts: int = 1) -> Iterator[list[Person]]:
    """The population in lists of up to CHUNK; of `parts` processes that share the work, one each `parts` lists."""
    everyone = population(SEED, people, assigners=(CHU, CLINIC))
    for number in range((people + CHUNK - 1) // CHUNK):
        chunk = list(islice(everyone, CHUNK))
        if number % parts == part:
            yield chunk


def first_record(person: Person) -> Known:
    """How the index knows a person: a hospital (half of them), a laboratory or the insurance."""
    source, view = Random(f"first record {person.number}").choice(_FIRST)  # noqa: S311
    return SOURCES[source], identity(person, view)


def another_record(person: Person) -> Known:
    """What another source says: a hospital, with the NIR, or a laboratory or an emergency room, half wrongly."""
    rng = Random(f"another record {person.number}")  # noqa: S311
    if rng.random() < 0.5:
        return SOURCES[CLINIC], identity(person, "hospital", assigner=CLINIC)
    drafts = TRAPS[rng.choice(_SLIPS)](rng, person, ()) if rng.random() < 0.5 else []
    return OTHER, drafts[0].known if drafts else identity(person, "provisional")


def newcomers(known: Sequence[Person], strangers: Sequence[Person]) -> list[Newcomer]:
    """Records of new subjects, in no order: of people whom the index knows, and of strangers."""
    found = [Newcomer(another_record(one), first_record(one)) for one in known]
    found += [Newcomer(first_record(one), None) for one in strangers]
    Random(SEED).shuffle(found)  # noqa: S311
    return found
