"""A permit, compiled once to filters on rows, columns, precision and population. Pure; what is in doubt is denied."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from contracts.events import IN_NO_TIMELINE, OF_RIGHTS
from contracts.messages import Demographics
from contracts.permits import EVERYTHING, Permit, PermitError, Population, normal_code

HUB = "urn:estuaire:hub"
UNKNOWN_DAY = dt.datetime.max.replace(tzinfo=dt.UTC)

_DATE: Final = re.compile(r"\d{4}-\d{2}(-\d{2}([T ].*)?)?")
_CLOCK: Final = re.compile(r"\d{2}:\d{2}.*")
_COMMUNE: Final = re.compile(r"(\d{2}|2[AB])\d{3}")
_NOTHING: Final[tuple[Any, ...]] = (None, {}, [])
_CHARACTERS: Final = {"year": 4, "month": 7, "day": 10}

_DIAGNOSES: Final[dict[str, tuple[str, ...]]] = {
    "diagnosis.v1": ("code",),
    "hospital-stay.v1": ("principal_diagnosis", "related_diagnosis", "associated_diagnoses"),
    "encounter.v1": ("reasonCode",),
    "claim.v1": ("diagnosis.diagnosisCodeableConcept",),
    "procedure.v1": ("reasonCode",),
    "immunization.v1": ("reasonCode",),
    "medication.v1": ("reasonCode",),
    "report.v1": ("conclusionCode",),
    "death.v1": ("causes",),
}
"""Where a record says what its person has. (Not every code is one: C03 is a tumour in ICD-10, a diuretic in ATC.)"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a record without opening it. `time` is aware, and that of arrival where it is not `dated`."""

    event_id: bytes
    subject: bytes
    revision: str
    type: str
    source: str
    time: dt.datetime
    retracted: bool
    dated: bool = True


class Rows(NamedTuple):
    """The records a permit asks for, as far as their facts tell; `sources`, `start` and `before` are open if None."""

    types: frozenset[str]
    sources: frozenset[str] | None
    start: dt.datetime | None
    before: dt.datetime | None

    def include(self, facts: Facts) -> bool:
        """Whether this record, as it now is, is one of them."""
        return (
            not facts.retracted
            and facts.type in self.types
            and (self.sources is None or facts.source in self.sources)
            and (self.start is None or facts.time >= self.start)
            and (self.before is None or facts.time < self.before)
        )


class Evidence(NamedTuple):
    """What a population asks of a person's records: of one a diagnosis, of the same or another that it is the cohort's.

    No `prefixes` and no `cohort` (None) ask nothing. What a person wants of the hub makes nobody one of a cohort.
    """

    prefixes: tuple[str, ...]
    cohort: str | None

    def is_asked(self) -> bool:
        """Whether anything is asked."""
        return bool(self.prefixes) or self.cohort is not None

    def is_in(self, facts: Facts, codes: Iterable[str]) -> bool:
        """Whether a record, which tells these diagnoses, gives some of what is asked."""
        return not facts.retracted and (self._is_diagnosis(codes) or self._is_of_cohort(facts))

    def qualifies(self, records: Collection[tuple[Facts, Iterable[str]]]) -> bool:
        """Whether a person with these records, and the diagnoses that each tells, has all that is asked."""
        held = [(facts, codes) for facts, codes in records if not facts.retracted]
        has_diagnosis = not self.prefixes or any(self._is_diagnosis(codes) for _, codes in held)
        return has_diagnosis and (self.cohort is None or any(self._is_of_cohort(facts) for facts, _ in held))

    def _is_diagnosis(self, codes: Iterable[str]) -> bool:
        return any(code.startswith(self.prefixes) for code in codes)

    def _is_of_cohort(self, facts: Facts) -> bool:
        return facts.source == self.cohort and facts.type not in OF_RIGHTS


class Policy:
    """What one permit releases. Every method is a function of its arguments and the permit alone."""

    def __init__(self, permit: Permit, granted: str | None = None) -> None:
        """`granted` is the moment of the grant (ISO 8601), from which the depth of history counts.

        Raises PermitError where the permit limits that, and the moment cannot be read.
        """
        self.permit = permit
        self.population = permit.population
        self.ages = permit.population.age if permit.population else None
        codes = (permit.population and permit.population.diagnoses) or ()
        self.evidence = Evidence(tuple(normal_code(one) for one in codes), permit.cohort)
        self.rows = Rows(
            types=frozenset(permit.types) - frozenset(IN_NO_TIMELINE),
            sources=None if EVERYTHING in permit.sources else frozenset(permit.sources),
            start=_start(permit, granted),
            before=_midnight_after(permit.period.end),
        )
        self.exempt = permit.opposition_exemption is not None
        self.waits = permit.delivery is not None
        self._closes = _midnight_after(permit.expires) or UNKNOWN_DAY
        self._columns = {kind: _tree(paths) for kind, paths in permit.fields.items()}
        self._characters = _CHARACTERS.get(permit.precision.time)

    def delivered_until(self, now: dt.datetime) -> dt.datetime:
        """What has come until then is delivered: until now, or until this hour or this day (UTC) began."""
        hour = now.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)
        return {None: now, "hourly": hour, "daily": hour.replace(hour=0)}[self.permit.delivery]

    def in_force(self, now: dt.datetime) -> bool:
        """Whether anything may leave at this moment."""
        return now < self._closes

    def allows(self, facts: Facts, born: int | None = None) -> bool:
        """Whether this record, as it now is, may leave, if its person, born in that year, is in the population."""
        return self.rows.include(facts) and (self.ages is None or self.ages.includes(age_at(facts, born)))

    def admits(self, person: Demographics, qualified: bool) -> bool:
        """Whether a person is in the population; `qualified` says whether their records give the `evidence`."""
        return self.population is None or _meets(self.population, person, qualified)

    def withholds(self, opposed: Collection[str], source: str) -> bool:
        """Whether a person's oppositions keep a record of this source back: everything (`*`), or that source.

        Whatever leaves says of its person that the cohort's source knows them, so that this one withholds it too.
        """
        if not opposed or self.exempt:
            return False
        return EVERYTHING in opposed or source in opposed or self.evidence.cohort in opposed

    def record(self, kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a record (plain dicts and lists) that may leave, at the permit's precision."""
        return self._fields(record, self._columns.get(kind, {}))

    def demographics(self, person: Demographics) -> dict[str, Any]:
        """What may be said of the person, at the permit's precision."""
        said = {
            "sex": person.sex,
            "birth_year": person.birth_year,
            "birth_month": person.birth_month,
            "department": department(person.commune),
            "commune": person.commune,
            "deceased": self._shortened(person.deceased) if person.deceased else None,
        }
        return {name: value for name in self.permit.demographics if (value := said[name]) is not None}

    def time(self, moment: dt.datetime) -> str:
        """An event's time, in UTC."""
        return moment.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")[: self._characters]

    def source(self, source: str) -> str:
        """A record's source: the producer, or the hub in its place."""
        return source if self.permit.precision.source == "exact" else HUB

    def _fields(self, record: Mapping[str, Any], columns: _Tree | None) -> dict[str, Any]:
        """Those fields of a map that `columns` names (None: all); what becomes empty is left out."""
        chosen = record if columns is None else [name for name in columns if name in record]
        found = {}
        for name in chosen:
            value = self._value(name, record[name], None if columns is None else columns[name])
            if value not in _NOTHING:
                found[name] = value
        return found

    def _value(self, name: str, value: Any, columns: _Tree | None) -> Any:
        kind = type(value)
        if kind is dict:
            return self._fields(value, columns)
        if kind is list:
            return [kept for one in value if (kept := self._value(name, one, columns)) not in _NOTHING]
        if columns is not None:
            return None
        # the value itself: places and establishments by the name of their field, times wherever they stand
        if name == "finess" and self.permit.precision.source != "exact":
            return None
        if name == "commune" and self.permit.precision.place != "commune":
            return department(value)
        return self._shortened(value) if kind is str else value

    def _shortened(self, text: str) -> str | None:
        if self._characters is None or len(text) < 5 or not text[0].isdecimal():
            return text
        if _CLOCK.fullmatch(text):
            return None
        return text[: self._characters] if _DATE.fullmatch(text) else text


def age_at(facts: Facts, born: int | None) -> int | None:
    """The age that somebody born in that year reaches in the year (UTC) of a record; None where it is not known.

    INSEE's "âge atteint dans l'année" (insee.fr/en/metadonnees/definition/c1187): the year of birth alone tells it, and
    it stays what it is as time goes on.
    """
    if born is None or not facts.dated:
        return None
    age = facts.time.astimezone(dt.UTC).year - born
    return age if age >= 0 else None


def diagnoses(kind: str, record: Mapping[str, Any]) -> list[str]:
    """The codes of what a record says its person has, normalised, sorted, each once."""
    found: set[str] = set()
    for path in _DIAGNOSES.get(kind, ()):
        found.update(normal_code(one) for one in _texts(_at(record, path.split("."))) if " " not in one)
    return sorted(found)


def department(commune: str | None) -> str | None:
    """The department of an INSEE commune: two characters, or three overseas."""
    if not isinstance(commune, str) or not _COMMUNE.fullmatch(commune):
        return None
    return commune[:3] if commune[:2] in ("97", "98") else commune[:2]


def _meets(population: Population, person: Demographics, qualified: bool) -> bool:
    if population.sex is not None and person.sex not in population.sex:
        return False
    if population.birth_year is not None and not population.birth_year.includes(person.birth_year):
        return False
    if population.departments is not None or population.communes is not None:
        in_commune = person.commune in (population.communes or ())
        if not in_commune and department(person.commune) not in (population.departments or ()):
            return False
    return qualified or (population.diagnoses is None and population.cohort is None)


_Tree = dict[str, Any]
"""Fields by name; below each, a tree of its own, or None where everything is released."""


def _tree(paths: Iterable[str]) -> _Tree | None:
    root: _Tree = {}
    for path in paths:
        if path == EVERYTHING:
            return None
        at, parts = root, path.split(".")
        for part in parts[:-1]:
            below = at.setdefault(part, {})
            if below is None:
                break
            at = below
        else:
            at[parts[-1]] = None
    return root


def _start(permit: Permit, granted: str | None) -> dt.datetime | None:
    """The moment before which nothing leaves: of the period and of the depth of history the later. Raises PermitError.

    The depth is stated as the "profondeur historique" of accesses to the SNDS: calendar years besides the current one.
    """
    start = _midnight(permit.period.start)
    if permit.history_years is None:
        return start
    try:
        moment = dt.datetime.fromisoformat(granted or "")
        year = (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).astimezone(dt.UTC).year
        deepest = dt.datetime(year - permit.history_years, 1, 1, tzinfo=dt.UTC)
    except (ValueError, OverflowError):
        raise PermitError("history_years: it is not known when the permit was granted") from None
    return max(start, deepest) if start else deepest


def _midnight(day: dt.date | None) -> dt.datetime | None:
    return None if day is None else dt.datetime(day.year, day.month, day.day, tzinfo=dt.UTC)


def _midnight_after(day: dt.date | None) -> dt.datetime | None:
    if day is None or day == dt.date.max:
        return None
    return _midnight(day + dt.timedelta(days=1))


def _at(value: Any, path: Sequence[str]) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for one in value:
            yield from _at(one, path)
    elif not path:
        yield value
    elif isinstance(value, Mapping) and path[0] in value:
        yield from _at(value[path[0]], path[1:])


def _texts(values: Iterable[Any]) -> Iterator[str]:
    """The codes among values: texts, and the `code` of codings."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from _texts(_at(value, ["code"]))
            yield from _texts(_at(value, ["coding"]))
