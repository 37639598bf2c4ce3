"""A hospital's HL7 v2 feed about given people: ADT as PAM.fr 2.10 has it, in the order of its event times.

A visit is an admission or a registration, updates and a discharge, some with diagnoses. After some of them a person's
demographics are told anew (A31) or they die. Some people are first registered under a number that is then merged into
their own (A40). Visits of many people are under way at once; no two messages are of one second.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count as count_from
from random import Random
from typing import Final, NamedTuple

from estuaire.population import CHU, Person

START: Final = dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))
"""Before it, nothing has happened."""
UNDER_WAY: Final = 300
"""Visits at one time, at most."""
MERGED: Final = 0.04
"""The share of visits that begin under a number which is then merged."""
DEAD: Final = 0.01
"""The share of visits that end in a death."""
DIAGNOSES: Final = ("I500", "I10", "E119", "J189", "N183", "K359", "S7200", "C509", "I639", "F322", "Z370", "A419")
_STAMP: Final = "%Y%m%d%H%M%S+0100"
_AUTHORITY: Final = "ASIP-SANTE-INS-NIR&1.2.250.1.213.1.4.8&ISO"


class Message(NamedTuple):
    """A message, and what it is about, for those who count: the person's place in the list, the visit's number."""

    data: bytes
    trigger: str
    person: int
    visit: str


@dataclass(slots=True)
class _Visit:
    """A visit under way: whose, what is still to be told of it, and when it began (`_STAMP`; not yet, if empty)."""

    person: int
    steps: Iterator[_Step]
    began: str = ""


class _Step(NamedTuple):
    """A message without its times: `@now` stands for its own, `@began` for when the visit began."""

    trigger: str
    visit: str
    pid: str
    rest: tuple[str, ...]


def messages(seed: int, people: Sequence[Person], count: int, *, assigner: str = CHU) -> Iterator[Message]:
    """`count` messages about these people, the same for the same seed; a longer feed begins with the shorter one.

    Everyone has a number at `assigner`, the hospital. Nobody who has died comes again: there may be fewer messages.
    """
    feed = _Feed(Random(seed), people, assigner)  # noqa: S311 - reproducible, no secret
    chance, now = feed.chance, START
    open_visits: list[_Visit] = []
    for number in count_from(1):
        if number > count:
            return
        step = None
        while step is None:
            if len(open_visits) < UNDER_WAY and (began := feed.visit()) is not None:
                open_visits.append(began)
            if not open_visits:
                return
            at = chance.randrange(len(open_visits))
            visit = open_visits[at]
            step = next(visit.steps, None)
            if step is None:
                open_visits[at] = open_visits[-1]
                open_visits.pop()
                feed.over(visit.person)
        now += dt.timedelta(seconds=chance.randrange(1, 240))
        visit.began = visit.began or f"{now:{_STAMP}}"
        yield Message(_written(step, now, visit.began, number), step.trigger, visit.person, step.visit)


def _written(step: _Step, now: dt.datetime, began: str, number: int) -> bytes:
    stamp = f"{now:{_STAMP}}"
    structure = {"A04": "A01", "A08": "A01", "A31": "A05", "A40": "A39"}.get(step.trigger, step.trigger)
    kind = f"ADT^{step.trigger}^ADT_{structure}"
    rest = "\r".join(step.rest).replace("@began", began).replace("@now", stamp)

    def text(charset: str) -> str:
        msh = f"MSH|^~\\&|DXCARE|CHU|ESTUAIRE|HUB|{stamp}||{kind}|{number:08}|P|2.5^FRA^2.10|||||FRA|{charset}"
        return f"{msh}\rEVN||{stamp}||||{stamp}\r{step.pid.replace('@now', stamp[:8])}\r{rest}\r"

    if number % 10 == 0:  # one in ten from a system that is older still
        try:
            return text("8859/15").encode("iso8859-15")
        except UnicodeEncodeError:
            pass
    return text("UNICODE UTF-8").encode()


class _Feed:
    """The people and the visits under way."""

    def __init__(self, chance: Random, people: Sequence[Person], assigner: str) -> None:
        self.chance = chance
        self._people = people
        self._assigner = f"CHU&{assigner}&M"
        self._own = assigner
        self._away = list(range(len(people)))
        self._dead: set[int] = set()
        self._visits = count_from(1)
        self._retired = count_from(1)

    def visit(self) -> _Visit | None:
        """A visit of somebody who is not there, or None if nobody is left."""
        if not self._away:
            return None
        at = self.chance.randrange(len(self._away))
        number, self._away[at] = self._away[at], self._away[-1]
        self._away.pop()
        merged = self.chance.random() < MERGED
        return _Visit(number, self._merge(number) if merged else self._stay(number))

    def over(self, person: int) -> None:
        """The person may come again, if they live."""
        if person not in self._dead:
            self._away.append(person)

    def _stay(self, number: int) -> Iterator[_Step]:
        chance, person, visit = self.chance, self._people[number], f"V{next(self._visits):07}"
        pid = self._pid(person, person.ipp(self._own), with_ins=True)
        inpatient = chance.random() < 0.4
        kind = "I" if inpatient else chance.choice("OE")
        codes = chance.sample(DIAGNOSES, chance.randrange(3))
        dg1 = tuple(f"DG1|{place}||{code}^^I10||@began|W" for place, code in enumerate(codes, 1))
        begun = self._pv1(kind, visit, "@began", "")
        yield _Step("A01" if inpatient else "A04", visit, pid, (begun,))
        for _ in range(chance.randrange(3)):
            yield _Step("A08", visit, pid, (begun, *dg1))
        yield _Step("A03", visit, pid, (self._pv1(kind, visit, "@began", "@now"), *dg1))
        if chance.random() < DEAD:
            self._dead.add(number)
            yield _Step("A31", visit, pid.replace("||N||VALI", "|@now|Y||VALI"), ("PV1|1|N",))
        elif chance.random() < 0.15:
            yield _Step("A31", visit, pid, ("PV1|1|N",))

    def _merge(self, number: int) -> Iterator[_Step]:
        """The same person under a number of the moment, without the INS; then known, and merged."""
        person, visit, retired = self._people[number], f"V{next(self._visits):07}", f"X{next(self._retired):06}"
        provisional = self._pid(person, retired, with_ins=False)
        yield _Step("A04", visit, provisional, (self._pv1("E", visit, "@began", ""),))
        yield _Step("A03", visit, provisional, (self._pv1("E", visit, "@began", "@now"),))
        own = self._pid(person, person.ipp(self._own), with_ins=True)
        yield _Step("A40", visit, own, (f"MRG|{retired}^^^{self._assigner}^PI", "PV1|1|N"))

    def _pid(self, person: Person, local: str, *, with_ins: bool) -> str:
        numbers = f"{local}^^^{self._assigner}^PI"
        if with_ins:
            numbers += f"~{person.nir_with_key}^^^{_AUTHORITY}^INS"
        first = _escaped(person.given_names[0])
        listed = " ".join(map(_escaped, person.given_names))
        names = f"{_escaped(person.birth_family_name)}^{first}^{listed}^^^^L"
        if person.used_family_name != person.birth_family_name:
            names += f"~{_escaped(person.used_family_name)}^{first}^^^^^D"
        home = person.residence
        address = f"{_escaped(home.address)}^^{_escaped(home.city)}^^{home.postcode}^FRA^H^^{home.commune}"
        address += f"~^^^^^^BDL^^{person.birth_place}"
        sex = "F" if person.sex == "female" else "M"
        status = "VALI" if with_ins else "PROV"
        born = person.birth_date.strftime("%Y%m%d")
        return f"PID|1||{numbers}||{names}||{born}|{sex}|||{address}||^PRN^PH|{'|' * 14}||N||{status}"

    def _pv1(self, kind: str, visit: str, begun: str, ended: str) -> str:
        return f"PV1|1|{kind}|CARD^101^1^CHU|R{'|' * 15}{visit}^^^{self._assigner}^VN{'|' * 25}{begun}|{ended}"


_SPECIAL: Final = {"\\": "\\E\\", "|": "\\F\\", "^": "\\S\\", "&": "\\T\\", "~": "\\R\\"}


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(one, one) for one in text)
