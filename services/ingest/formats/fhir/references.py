"""Who a FHIR R4 resource is about: references to Patients, and the numbers that Patients are known by. Pure.

A resource finds its person by the server's Patient id alone, so resources may come in any order and in any bundle. An
id counts within its server: Patient/123 of the source's own server has the source as its assigner, one of another
server has the source and that server's base. The own server is the one that a bundle's full URLs name, if they name
one; a relative reference is to it, and so is all that has no URL. A Patient with a full URL goes by both names, so that
an absolute reference finds it from outside of its bundle, too. Records are named by the same rule: two servers may both
have a Condition/9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import parse_qsl

from services.ingest.domain.refusals import Refused, refusing
from services.ingest.formats import ins
from services.ingest.formats.fhir.elements import ID, codes
from services.ingest.formats.reading import bounded

_PERSON: Final = dict.fromkeys(("Immunization", "Claim", "ExplanationOfBenefit", "Consent"), "patient")
"""The element that refers to the Patient, where it is not `subject`."""

_LONGEST_BASE: Final = 128
"""Characters of a base, which leaves place for a type and an id in the id of an event."""
_NATIONAL: Final = {f"urn:oid:{oid}": system for oid, system in ins.AUTHORITIES.items()}


class Target(NamedTuple):
    """A resource as <type>/<id>, and the base of its server where that is known."""

    name: str
    base: str | None


class Targets(Protocol):
    """What the full URLs of a bundle's entries stand for (R4, bundle.html#references)."""

    def get(self, url: str, /) -> Target | None: ...


class Servers(NamedTuple):
    """What references within one bundle are read by."""

    source: str
    targets: Targets
    own: str | None
    """The base of the source's own server, where the bundle tells it."""

    def record(self, resource: Target) -> str:
        """The id of a resource's record: <type>/<id>, behind the base of its server where that is not the own one."""
        if resource.base is None or resource.base == self.own:
            return resource.name
        return f"{bounded(resource.base, _LONGEST_BASE)}/{resource.name}"

    def number(self, patient: Target) -> dict[str, str]:
        """The number that a Patient has: its id, within its server."""
        own = patient.base is None or patient.base == self.own
        assigner = self.source if own else ins.assigner(self.source, patient.base or "")
        return {"system": "ipp", "assigner": assigner, "value": patient.name}

    def numbers(self, patient: Target) -> list[dict[str, str]]:
        """What a Patient is known by; the last is what its own server's references give."""
        number = self.number(patient)
        if patient.base is None or patient.base != self.own:
            return [number]
        return [{**number, "assigner": ins.assigner(self.source, patient.base)}, number]

    def person_if_told(self, resource: Mapping[str, Any], kind: str, base: str | None) -> dict[str, Any]:
        """The same as `person`, but nobody where it cannot be told."""
        try:
            return self.person(resource, kind, base)
        except Refused:
            return {}

    def person(self, resource: Mapping[str, Any], kind: str, base: str | None) -> dict[str, Any]:
        """Who the resource is about, by its reference (hl7.org/fhir/R4/references.html) or a national identifier.

        `base` is of the server that has the resource, if it is known. Raises Refused.
        """
        element = _PERSON.get(kind, "subject")
        place = f"{kind}.{element}"
        person = resource.get(element)
        if not isinstance(person, dict):
            raise refusing("no-person", f"{place} is not there: it has to refer to the Patient, as Patient/<id>")
        reference = person.get("reference")
        identity: dict[str, Any] = {}
        if isinstance(reference, str) and reference.startswith(_SEARCH):
            identity = national_numbers(_identifiers(reference.removeprefix(_SEARCH)))
        elif isinstance(reference, str) and reference:
            return {"identifiers": [self.number(self.patient(reference, place, base))]}
        elif isinstance(person.get("identifier"), dict):
            identity = national_numbers([person["identifier"]])
        if not identity.get("identifiers"):
            raise refusing("no-person", f"{place}.reference is not there: it has to be Patient/<id>")
        return identity

    def patient(self, reference: str, place: str, base: str | None) -> Target:
        """The id of the Patient that is referred to, and its server; of a relative reference it is the resource's.

        Raises Refused.
        """
        target = self.targets.get(reference)
        if target is None:
            reference = reference.partition("/_history/")[0]
            target = self.targets.get(reference)
        if target is None:
            if reference.startswith("#"):
                raise refusing(
                    "no-person", f"{place}.reference is to a contained resource: send the Patient on its own"
                )
            target = _read(reference, base)
        kind, _, name = target.name.partition("/")
        if kind != "Patient" or not ID.fullmatch(name):
            raise refusing("no-person", f"{place}.reference is not to a Patient: it has to be Patient/<id>")
        return Target(name, target.base)


def target_of(entry: Any) -> tuple[str, Target] | None:
    """What the full URL of a bundle's entry stands for, where its resource has an id."""
    if not isinstance(entry, dict) or not isinstance(resource := entry.get("resource"), dict):
        return None
    url, kind = entry.get("fullUrl"), resource.get("resourceType")
    name = id_of(resource, url)
    if not isinstance(url, str) or not isinstance(kind, str) or not isinstance(name, str):
        return None
    return url, Target(f"{kind}/{name}", base_of(url, f"{kind}/{name}"))


def deleted_of(entry: Mapping[str, Any]) -> Target | None:
    """What a DELETE names, which stands in its URL only (R4, http.html#history).

    The URL may be relative, of the server, or of the version that the deletion made. None if it names no resource.
    """
    request = entry.get("request")
    url = request.get("url") if isinstance(request, dict) and request.get("method") == "DELETE" else None
    if not isinstance(url, str):
        return None
    url = url.partition("/_history/")[0]
    server, slash, name = url.rpartition("/")
    before, _, kind = server.rpartition("/")
    if not slash or not ID.fullmatch(name):
        return None
    if not before:
        return Target(f"{kind}/{name}", base_of(entry.get("fullUrl"), f"{kind}/{name}"))
    base = base_of(url, f"{kind}/{name}")
    return Target(f"{kind}/{name}", base) if base else None


def id_of(resource: Mapping[str, Any], url: Any) -> Any:
    """The id of a resource, unchecked: its own, or what stands for it until its server gives one (R4, bundle.html)."""
    if "id" not in resource and isinstance(url, str) and url.startswith(_UUID):
        return url.removeprefix(_UUID)
    return resource.get("id")


_UUID: Final = "urn:uuid:"
_SEARCH: Final = "Patient?"


def _identifiers(query: str) -> list[Any]:
    """The identifiers that a conditional reference searches by (R4, http.html#trules), if it does by nothing else."""
    try:
        stated = parse_qsl(query, keep_blank_values=True, max_num_fields=5)
    except ValueError:
        return []
    if any(name != "identifier" for name, _ in stated):
        return []
    return [dict(zip(("system", "value"), value.split("|", 1), strict=False)) for _, value in stated]


def _read(reference: str, base: str | None) -> Target:
    """A reference by its form alone."""
    if reference.startswith(_UUID):
        return Target(f"Patient/{reference.removeprefix(_UUID)}", None)
    scheme, _, name = reference.rpartition("/")
    if scheme == "Patient":
        return Target(reference, base)
    if scheme.endswith("/Patient"):
        return Target(f"Patient/{name}", base_of(reference, f"Patient/{name}"))
    return Target("", None)


def says_nothing_new(url: str, target: Target) -> bool:
    """Whether a reference by a full URL finds the same Patient, or none, without the entry that has it."""
    if ":" not in url:
        return False
    told = _read(url, None)
    return told == target or not (told.name or target.name.startswith("Patient/"))


def base_of(url: Any, name: str) -> str | None:
    """The base of the server that an absolute URL of <type>/<id> names, in one spelling; None if it names none."""
    if not isinstance(url, str) or not url.endswith(f"/{name}"):
        return None
    server, slashes, path = url.removesuffix(name).partition("://")
    host, slash, path = path.partition("/")
    return f"{server}{slashes}{host}".lower() + f"{slash}{path}".rstrip("/") if slashes and host else None


def national_numbers(identifiers: list[Any]) -> dict[str, Any]:
    """The national numbers among identifiers, as part of an identity; all others are dropped. Raises Refused."""
    found = []
    fictitious = False
    for one in identifiers:
        if not isinstance(one, dict):
            raise refusing("malformed", "an identifier is not an object")
        system, value = one.get("system"), one.get("value")
        if not isinstance(system, str) or system not in _NATIONAL:
            continue
        if not isinstance(value, str) or not 0 < len(value := "".join(value.split())) <= 64:
            raise refusing("malformed", "the value of a national identifier is not text")
        name, made_up = _NATIONAL[system]
        fictitious |= made_up
        insured = name == "ins-nir" and ins.INSURED in codes(one.get("type"))
        found.append({"system": "nir-opener" if insured else name, "value": value})
    return {"identifiers": found} | ({"identity_status": "fictitious"} if fictitious else {})
