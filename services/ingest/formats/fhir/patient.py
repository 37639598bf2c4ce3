"""The identity that a FHIR R4 Patient tells (hl7.org/fhir/R4/patient.html; hl7.fr/ig/fhir/core). Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from services.ingest.domain.refusals import Refused, refusing
from services.ingest.formats import ins
from services.ingest.formats.fhir.elements import at, extensions, is_out_of_range, items, text, time
from services.ingest.formats.fhir.references import Servers, Target, national_numbers
from services.ingest.formats.reading import last_day

MOST_LINKS: Final = 10
"""Other Patients that one may be linked to; an identity has twenty numbers at most."""

_PARTIAL_DATE = re.compile(r"\d{4}(-\d\d(-\d\d)?)?", re.ASCII)


class Links(NamedTuple):
    """The other Patients that one is said to be (hl7.org/fhir/R4/patient.html#Patient.link)."""

    numbers: list[dict[str, str]]
    is_replaced: bool
    """Whether this Patient "must no longer be used", and another is to be used in its place."""
    passed_over: int
    """Links to no Patient that can be found, of no type of R4, or beyond MOST_LINKS."""


_SAME_PERSON: Final = ("replaced-by", "replaces", "refer", "seealso")
"""All four types say so: a link is to "another patient resource that concerns the same actual person"."""


def links_of(patient: Mapping[str, Any], servers: Servers, own: Target) -> Links:
    """The links of the Patient `own`. A link to itself says nothing; circles do no harm, nothing is followed."""
    own_numbers = servers.numbers(own)
    found: list[dict[str, str]] = []
    replaced, passed_over = False, 0
    links = patient.get("link")
    for link in links if isinstance(links, list) else []:
        reference = at(link, "other.reference") if isinstance(link, dict) else None
        kind = link.get("type") if isinstance(link, dict) else None
        try:
            if kind not in _SAME_PERSON or not isinstance(reference, str):
                raise refusing("no-person", "Patient.link names no Patient")
            number = servers.number(servers.patient(reference, "Patient.link.other", own.base))
        except Refused:
            passed_over += 1
            continue
        if number in own_numbers or number in found:
            continue
        if len(found) == MOST_LINKS:
            passed_over += 1
            continue
        found.append(number)
        replaced |= kind == "replaced-by"
    return Links(found, replaced, passed_over)


def identity_of(patient: Mapping[str, Any], local: list[dict[str, str]], links: Links) -> dict[str, Any]:
    """The identity of a Patient that its server knows by the numbers `local`. Raises Refused.

    The numbers of linked Patients are its own, too, and link as every number does: not against the person's own
    traits. Of a Patient that is replaced the numbers are all: its names and national numbers are no longer to be used,
    and would stand against those of the Patient in its place.
    """
    local = [*links.numbers, *local]
    if links.is_replaced:
        is_fictitious = _status(patient, has_ins=False) == "fictitious"
        return {"identifiers": local} | ({"identity_status": "fictitious"} if is_fictitious else {})
    identity = national_numbers(items(patient, "identifier"))
    has_ins = any(one["system"] in ("ins-nir", "ins-nia") for one in identity["identifiers"])
    identity["identifiers"] = [*identity["identifiers"][: 20 - len(local)], *local]
    if "identity_status" not in identity and (status := _status(patient, has_ins)):
        identity["identity_status"] = status
    identity |= _names(patient)
    if patient.get("gender") in ("male", "female", "other", "unknown"):
        identity["sex"] = patient["gender"]
    if (birth := patient.get("birthDate")) is not None:
        if not isinstance(birth, str) or not _PARTIAL_DATE.fullmatch(birth) or not time(birth):
            raise refusing("bad-date", "Patient.birthDate is not a date of the calendar (YYYY, YYYY-MM or YYYY-MM-DD)")
        identity["birth_date"] = birth
    for extension in extensions(patient, "patient-birthPlace"):
        if place := _insee(extension.get("valueAddress")):
            identity["birth_place"] = place
    if residence := _residence(patient):
        identity["residence"] = residence
    return identity


class Death(NamedTuple):
    """The date of a death, to the precision that is told, and when it was (RFC 3339)."""

    date: str
    time: str | None


def death_of(patient: Mapping[str, Any]) -> Death | None:
    """The death that is told; None if none is. Raises Refused.

    Of a month or a year the last day counts.
    """
    died = patient.get("deceasedDateTime")
    if died is None:
        return None
    if not isinstance(died, str) or not time(died) or is_out_of_range(died):
        raise refusing("bad-date", "Patient.deceasedDateTime is not a date, or not one of 1850 to 2199")
    day = died[:10]
    return Death(day, time(died) if len(day) == 10 else f"{last_day(day)}T00:00:00Z")


def _status(patient: Mapping[str, Any], has_ins: bool) -> str | None:
    codes = [
        code
        for extension in extensions(patient, "fr-core-identity-reliability")
        for part in extensions(extension, "identityStatus")
        for code in [at(part, "valueCoding.code")]
        if isinstance(code, str)
    ]
    return ins.status(codes, has_ins)


def _names(patient: Mapping[str, Any]) -> dict[str, Any]:
    """Birth name and name in use: `maiden` is the birth name where given, else `official` is, as in FR Core."""
    by_use: dict[str, dict[str, Any]] = {}
    for name in items(patient, "name"):
        if not isinstance(name, dict):
            raise refusing("malformed", "Patient.name has an item that is not an object")
        use = name.get("use", "official")
        if isinstance(use, str):
            by_use.setdefault(use, name)
    official, usual = by_use.get("official"), by_use.get("usual")
    maiden = by_use.get("maiden") or by_use.get("birthname")
    in_use = text((usual or {}).get("family"))
    birth = text((maiden or official or {}).get("family"))
    if maiden and not in_use:
        in_use = text((official or {}).get("family"))
    names: dict[str, Any] = {}
    if birth:
        names["birth_family_name"] = birth
    if in_use and in_use != birth:
        names["used_family_name"] = in_use
    if given := _given(official or maiden or usual or {}):
        names["given_names"] = given
    return names


def _given(name: Mapping[str, Any]) -> list[str]:
    told = [one for given in items(name, "given") if (one := text(given))]
    for extension in extensions(name, "birth-list-given-name"):
        if listed := text(extension.get("valueString")):
            known = {one.casefold() for one in told}
            told += [one for one in re.split(r"[\s,]+", listed) if one and one.casefold() not in known]
    return told[:20]


def _residence(patient: Mapping[str, Any]) -> dict[str, str]:
    for address in items(patient, "address"):
        if not isinstance(address, dict):
            raise refusing("malformed", "Patient.address has an item that is not an object")
        if address.get("use") in ("old", "temp", "billing", "work"):
            continue
        lines = " ".join(part for line in items(address, "line") if (part := text(line)))
        parts = {
            "address": text(lines),
            "city": text(address.get("city")),
            "postcode": text(address.get("postalCode"), 64),
            "commune": _insee(address),
        }
        if residence := {name: value for name, value in parts.items() if value}:
            return residence
    return {}


def _insee(address: Any) -> str | None:
    """The INSEE code of an address, from FR Core's extension on it or on its city."""
    if not isinstance(address, dict):
        return None
    city = address.get("_city")
    for holder in (address, city if isinstance(city, dict) else {}):
        for extension in [*extensions(holder, "insee-code"), *extensions(holder, "FrAddressInseeCode")]:
            code = at(extension, "valueCoding.code") or extension.get("valueString") or extension.get("valueCode")
            if isinstance(code, str) and ins.COMMUNE.fullmatch(code):
                return code
    return None
