"""FHIR R4 to the hub's events: a Bundle or a resource becomes one CloudEvent per resource taken. Pure, stateless.

A resource finds its person by the server's Patient id alone, so resources may come in any order and in any bundle. An
id counts within its server: Patient/123 of the source's own server has the source as its assigner, one of another
server has the source and that server's base. The own server is the one that a bundle's full URLs name, if they name
one; a relative reference is to it, and so is all that has no URL. A Patient with a full URL goes by both names, so that
an absolute reference finds it from outside of its bundle, too.
What the events carry is still whole: `content.strip` prunes it. Nothing here raises on any JSON value, and no detail
of a refusal repeats a value of the input.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from contracts.events import DELETED, EARLIEST, LATEST
from services.ingest.domain import ins


class Refusal(NamedTuple):
    """Why a resource became no event: a word for the reason, and a sentence that names the place and the fix."""

    reason: str
    detail: str


class FhirEvents(NamedTuple):
    """The events (or refusals) in the order of their resources, and how many of which type are not the hub's."""

    events: list[dict[str, Any] | Refusal]
    not_taken: dict[str, int]


def events_of(document: Any, source: str) -> FhirEvents:
    """The events of a decoded FHIR R4 resource or Bundle (hl7.org/fhir/R4/bundle.html), to be validated as `Event`.

    An event carries `data.identity` and, unless it retracts or is an identity, `data.record`; its time is None where
    the resource tells none.
    """
    if not isinstance(document, dict) or not isinstance(document.get("resourceType"), str):
        return FhirEvents([Refusal("not-fhir", "the document is not a JSON object with a resourceType")], {})
    if document["resourceType"] != "Bundle":
        entries: list[Any] = [{"resource": document}]
    elif document.get("type", "collection") not in _BUNDLES:
        return FhirEvents([Refusal("bundle-type", f"Bundle.type is not one of {', '.join(_BUNDLES)}")], {})
    elif not isinstance(document.get("entry", []), list):
        return FhirEvents([Refusal("malformed", "Bundle.entry is not a list")], {})
    else:
        entries = document.get("entry", [])
    targets = _targets(entries)
    bases = {target.base for target in targets.values()} - {None}
    reader = _Reader(source, targets, bases.pop() if len(bases) == 1 else None)
    events: list[dict[str, Any] | Refusal] = []
    not_taken: Counter[str] = Counter()
    for index, entry in enumerate(entries):
        try:
            read = reader.event(entry)
        except _Refused as refused:
            place = f"entry[{index}]: " if document["resourceType"] == "Bundle" else ""
            events.append(Refusal(refused.reason, place + refused.detail))
            continue
        if isinstance(read, str):
            not_taken[read] += 1
        else:
            events.append(read)
    return FhirEvents(events, dict(not_taken))


_BUNDLES: Final = ("transaction", "batch", "collection", "history", "searchset", "document")

_TYPES: Final = {
    "Patient": "identity.v1",
    "Encounter": "encounter.v1",
    "Condition": "diagnosis.v1",
    "Observation": "observation.v1",
    "Procedure": "procedure.v1",
    "Immunization": "immunization.v1",
    "MedicationRequest": "medication.v1",
    "Claim": "claim.v1",
    "ExplanationOfBenefit": "claim.v1",
    "DiagnosticReport": "report.v1",
}

_TIMES: Final = {
    "Encounter": ("period.start",),
    "Condition": ("onsetDateTime", "onsetPeriod.start", "recordedDate"),
    "Observation": ("effectiveDateTime", "effectiveInstant", "effectivePeriod.start", "issued"),
    "Procedure": ("performedDateTime", "performedPeriod.start"),
    "Immunization": ("occurrenceDateTime", "recorded"),
    "MedicationRequest": ("authoredOn",),
    "Claim": ("billablePeriod.start", "created"),
    "ExplanationOfBenefit": ("billablePeriod.start", "created"),
    "DiagnosticReport": ("effectiveDateTime", "effectivePeriod.start", "issued"),
}
"""Where a resource says when it happened, best first; `meta.lastUpdated` follows for all."""

_PERSON: Final = {"Immunization": "patient", "Claim": "patient", "ExplanationOfBenefit": "patient"}
"""The element that refers to the Patient, where it is not `subject`."""

_ID = re.compile(r"[A-Za-z0-9.\-]{1,64}", re.ASCII)
_DATETIME = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:(T\d\d:\d\d:\d\d(?:\.\d{1,9})?)(Z|[+-]\d\d:\d\d))?)?)?", re.ASCII
)
_PARTIAL_DATE = re.compile(r"\d{4}(-\d\d(-\d\d)?)?", re.ASCII)
_ETAG = re.compile(r'(?:W/)?"(\d{1,10})"', re.ASCII)


class _Refused(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class _Target(NamedTuple):
    """A resource as <type>/<id>, and the base of its server where that is known."""

    name: str
    base: str | None


class _Reader(NamedTuple):
    source: str
    targets: Mapping[str, _Target]
    own: str | None
    """The base of the source's own server, where the bundle tells it."""

    def event(self, entry: Any) -> dict[str, Any] | str:
        """The entry's event, or the name of a type that is not taken."""
        if not isinstance(entry, dict):
            raise _Refused("malformed", "the entry is not an object")
        request = entry.get("request")
        request = request if isinstance(request, dict) else {}
        deletes = request.get("method") == "DELETE"
        resource = entry.get("resource")
        if resource is None and deletes:
            return self._deletion(entry, request)
        if resource is None:
            raise _Refused("no-resource", "the entry has no resource, and its request is not a DELETE")
        if not isinstance(resource, dict) or not isinstance(kind := resource.get("resourceType"), str):
            raise _Refused("malformed", "the resource is not an object with a resourceType")
        if kind == "Bundle":
            raise _Refused("nested-bundle", "a Bundle within a Bundle is not read: send its entries by themselves")
        if kind not in _TYPES:
            return kind if kind in _KNOWN else "unknown"
        name = resource.get("id")
        if not isinstance(name, str) or not _ID.fullmatch(name):
            raise _Refused("no-id", f"{kind}.id is not there, or not a FHIR id (1 to 64 letters, digits, - and .)")
        meta = resource.get("meta")
        meta = meta if isinstance(meta, dict) else {}
        gone = deletes or _entered_in_error(resource)
        base = _base_of(entry.get("fullUrl"), f"{kind}/{name}")
        data: dict[str, Any]
        if kind == "Patient" and not gone:
            data = {"identity": _identity(resource, self._locals(name, base))}
        elif kind == "Patient":
            data = {"identity": {"identifiers": self._locals(name, base)}}
        elif gone:
            data = {"identity": self._person_if_told(resource, kind, base)}
        else:
            data = {"identity": self._person(resource, kind, base), "record": _with_contained_medication(resource)}
        times = [(path, _at(resource, path)) for path in (*_TIMES.get(kind, ()), "meta.lastUpdated")]
        return self._event(kind, name, gone, times, meta.get("versionId"), data)

    def _event(
        self, kind: str, name: str, gone: bool, times: list[tuple[str, Any]], version: Any, data: dict[str, Any]
    ) -> dict[str, Any]:
        event: dict[str, Any] = {
            "specversion": "1.0",
            "id": f"{kind}/{name}",
            "source": self.source,
            "type": _TYPES[kind] + (DELETED if gone else ""),
            "time": _first(kind, times, gone),
            "data": data,
        }
        if isinstance(version, str) and version.isascii() and version.isdigit() and 0 < int(version[:11]) < 2**31:
            event["version"] = int(version[:11])
        return event

    def _deletion(self, entry: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any] | str:
        """A DELETE in a transaction or a history names what it deletes in its URL only (R4, http.html#history)."""
        url = request.get("url")
        kind, _, name = url.partition("/") if isinstance(url, str) else ("", "", "")
        if kind not in _TYPES:
            return kind if kind in _KNOWN else "unknown"
        if not _ID.fullmatch(name):
            raise _Refused("no-id", f"the DELETE's request.url is not {kind}/<id>")
        response = entry.get("response")
        response = response if isinstance(response, dict) else {}
        etag = response.get("etag")
        version = match[1] if isinstance(etag, str) and (match := _ETAG.fullmatch(etag)) else None
        base = _base_of(entry.get("fullUrl"), f"{kind}/{name}")
        data = {"identity": {"identifiers": self._locals(name, base)} if kind == "Patient" else {}}
        return self._event(kind, name, True, [("", response.get("lastModified"))], version, data)

    def _local(self, patient: str, base: str | None) -> dict[str, str]:
        assigner = self.source if base is None or base == self.own else ins.assigner(self.source, base)
        return {"system": "ipp", "assigner": assigner, "value": patient}

    def _locals(self, patient: str, base: str | None) -> list[dict[str, str]]:
        """What a Patient is known by; the last is what its own server's references give."""
        local = self._local(patient, base)
        if base is None or base != self.own:
            return [local]
        return [{**local, "assigner": ins.assigner(self.source, base)}, local]

    def _person_if_told(self, resource: Mapping[str, Any], kind: str, base: str | None) -> dict[str, Any]:
        try:
            return self._person(resource, kind, base)
        except _Refused:
            return {}

    def _person(self, resource: Mapping[str, Any], kind: str, base: str | None) -> dict[str, Any]:
        """Who the resource is about, by its reference (hl7.org/fhir/R4/references.html) or a national identifier."""
        element = _PERSON.get(kind, "subject")
        place = f"{kind}.{element}"
        person = resource.get(element)
        if not isinstance(person, dict):
            raise _Refused("no-person", f"{place} is not there: it has to refer to the Patient, as Patient/<id>")
        reference = person.get("reference")
        if isinstance(reference, str) and reference:
            return {"identifiers": [self._local(*self._patient(reference, place, base))]}
        identity: dict[str, Any] = {}
        if isinstance(person.get("identifier"), dict):
            identity = _numbers([person["identifier"]])
        if not identity.get("identifiers"):
            raise _Refused("no-person", f"{place}.reference is not there: it has to be Patient/<id>")
        return identity

    def _patient(self, reference: str, place: str, base: str | None) -> _Target:
        """The id of the Patient that is referred to, and its server; of a relative reference it is the resource's."""
        target = self.targets.get(reference)
        if target is None:
            reference = reference.partition("/_history/")[0]
            target = self.targets.get(reference)
        if target is None:
            if reference.startswith("#"):
                raise _Refused(
                    "no-person", f"{place}.reference is to a contained resource: send the Patient on its own"
                )
            scheme, _, name = reference.rpartition(":" if reference.startswith("urn:") else "/")
            if scheme == "urn:uuid":
                target = _Target(f"Patient/{name}", None)
            elif scheme == "Patient":
                target = _Target(reference, base)
            else:
                target = _Target(f"Patient/{name}", _base_of(reference, f"Patient/{name}"))
                target = target if scheme.endswith("/Patient") else _Target("", None)
        kind, _, name = target.name.partition("/")
        if kind != "Patient" or not _ID.fullmatch(name):
            raise _Refused("no-person", f"{place}.reference is not to a Patient: it has to be Patient/<id>")
        return _Target(name, target.base)


def _targets(entries: list[Any]) -> dict[str, _Target]:
    """What the full URLs of a bundle's entries stand for (R4, bundle.html#references)."""
    targets = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("resource"), dict):
            continue
        url, kind, name = entry.get("fullUrl"), entry["resource"].get("resourceType"), entry["resource"].get("id")
        if isinstance(url, str) and isinstance(kind, str) and isinstance(name, str):
            targets[url] = _Target(f"{kind}/{name}", _base_of(url, f"{kind}/{name}"))
    return targets


def _base_of(url: Any, name: str) -> str | None:
    """The base of the server that an absolute URL of <type>/<id> names, in one spelling; None if it names none."""
    if not isinstance(url, str) or not url.endswith(f"/{name}"):
        return None
    server, slashes, path = url.removesuffix(name).partition("://")
    host, slash, path = path.partition("/")
    return f"{server}{slashes}{host}".lower() + f"{slash}{path}".rstrip("/") if slashes and host else None


def _entered_in_error(resource: Mapping[str, Any]) -> bool:
    if resource.get("status") == "entered-in-error":
        return True
    verification = resource.get("verificationStatus")
    codings = verification.get("coding") if isinstance(verification, dict) else None
    return isinstance(codings, list) and any(
        isinstance(coding, dict) and coding.get("code") == "entered-in-error" for coding in codings
    )


def _with_contained_medication(resource: dict[str, Any]) -> dict[str, Any]:
    """A prescription whose medicine is contained in it says its code itself: contained resources do not pass."""
    reference = _at(resource, "medicationReference.reference")
    contained = resource.get("contained")
    if not isinstance(reference, str) or "medicationCodeableConcept" in resource or not isinstance(contained, list):
        return resource
    for one in contained:
        if isinstance(one, dict) and one.get("resourceType") == "Medication" and reference == f"#{one.get('id')}":
            return {**resource, "medicationCodeableConcept": one.get("code")}
    return resource


# --- times ---


def _at(resource: Mapping[str, Any], path: str) -> Any:
    value: Any = resource
    for name in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _time(value: Any) -> str | None:
    """A FHIR date, dateTime or instant as RFC 3339 in UTC; what it leaves open is its earliest moment."""
    match = _DATETIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    year, month, day, clock, zone = match.groups()
    try:
        moment = datetime.fromisoformat(f"{year}-{month or '01'}-{day or '01'}{clock or 'T00:00:00'}{zone or 'Z'}")
        return _utc(moment)
    except (ValueError, OverflowError):
        return None


def _first(kind: str, times: list[tuple[str, Any]], gone: bool) -> str | None:
    """The first that is a time. One that no event can have refuses the resource, but never hinders a retraction."""
    for path, value in times:
        stated = _DATETIME.fullmatch(value) if isinstance(value, str) else None
        if stated and not EARLIEST.year <= int(stated[1]) < LATEST.year:
            if not gone:
                raise _Refused("bad-date", f"{kind}.{path} is not within {EARLIEST.year} to {LATEST.year - 1}")
        elif time := _time(value):
            return time
    return None


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


# --- the Patient ---

_NATIONAL: Final = {f"urn:oid:{oid}": system for oid, system in ins.AUTHORITIES.items()}


def _identity(patient: Mapping[str, Any], local: list[dict[str, str]]) -> dict[str, Any]:
    """The identity of a Patient (hl7.org/fhir/R4/patient.html; hl7.fr/ig/fhir/core)."""
    identity = _numbers(_list(patient, "identifier"))
    has_ins = any(one["system"] in ("ins-nir", "ins-nia") for one in identity["identifiers"])
    identity["identifiers"] = [*identity["identifiers"][: 20 - len(local)], *local]
    if "identity_status" not in identity and (status := _status(patient, has_ins)):
        identity["identity_status"] = status
    identity |= _names(patient)
    if patient.get("gender") in ("male", "female", "other", "unknown"):
        identity["sex"] = patient["gender"]
    if (birth := patient.get("birthDate")) is not None:
        if not isinstance(birth, str) or not _PARTIAL_DATE.fullmatch(birth) or not _time(birth):
            raise _Refused("bad-date", "Patient.birthDate is not a date of the calendar (YYYY, YYYY-MM or YYYY-MM-DD)")
        identity["birth_date"] = birth
    for extension in _extensions(patient, "patient-birthPlace"):
        if place := _insee(extension.get("valueAddress")):
            identity["birth_place"] = place
    if residence := _residence(patient):
        identity["residence"] = residence
    return identity


def _numbers(identifiers: list[Any]) -> dict[str, Any]:
    """The national numbers among identifiers; all others are dropped."""
    found = []
    fictitious = False
    for one in identifiers:
        if not isinstance(one, dict):
            raise _Refused("malformed", "an identifier is not an object")
        system, value = one.get("system"), one.get("value")
        if not isinstance(system, str) or system not in _NATIONAL:
            continue
        if not isinstance(value, str) or not 0 < len(value := "".join(value.split())) <= 64:
            raise _Refused("malformed", "the value of a national identifier is not text")
        name, made_up = _NATIONAL[system]
        fictitious |= made_up
        insured = name == "ins-nir" and ins.INSURED in _codes(one.get("type"))
        found.append({"system": "nir-opener" if insured else name, "value": value})
    return {"identifiers": found} | ({"identity_status": "fictitious"} if fictitious else {})


def _status(patient: Mapping[str, Any], has_ins: bool) -> str | None:
    codes = [
        code
        for extension in _extensions(patient, "fr-core-identity-reliability")
        for part in _extensions(extension, "identityStatus")
        for code in [_at(part, "valueCoding.code")]
        if isinstance(code, str)
    ]
    return ins.status(codes, has_ins)


def _names(patient: Mapping[str, Any]) -> dict[str, Any]:
    """Birth name and name in use: `maiden` is the birth name where given, else `official` is, as in FR Core."""
    by_use: dict[str, dict[str, Any]] = {}
    for name in _list(patient, "name"):
        if not isinstance(name, dict):
            raise _Refused("malformed", "Patient.name has an item that is not an object")
        use = name.get("use", "official")
        if isinstance(use, str):
            by_use.setdefault(use, name)
    official, usual = by_use.get("official"), by_use.get("usual")
    maiden = by_use.get("maiden") or by_use.get("birthname")
    in_use = _text((usual or {}).get("family"))
    birth = _text((maiden or official or {}).get("family"))
    if maiden and not in_use:
        in_use = _text((official or {}).get("family"))
    names: dict[str, Any] = {}
    if birth:
        names["birth_family_name"] = birth
    if in_use and in_use != birth:
        names["used_family_name"] = in_use
    if given := _given(official or maiden or usual or {}):
        names["given_names"] = given
    return names


def _given(name: Mapping[str, Any]) -> list[str]:
    told = [text for given in _list(name, "given") if (text := _text(given))]
    for extension in _extensions(name, "birth-list-given-name"):
        if listed := _text(extension.get("valueString")):
            known = {text.casefold() for text in told}
            told += [text for text in re.split(r"[\s,]+", listed) if text and text.casefold() not in known]
    return told[:20]


def _residence(patient: Mapping[str, Any]) -> dict[str, str]:
    for address in _list(patient, "address"):
        if not isinstance(address, dict):
            raise _Refused("malformed", "Patient.address has an item that is not an object")
        if address.get("use") in ("old", "temp", "billing", "work"):
            continue
        lines = " ".join(text for line in _list(address, "line") if (text := _text(line)))
        parts = {
            "address": _text(lines),
            "city": _text(address.get("city")),
            "postcode": _text(address.get("postalCode"), 64),
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
        for extension in [*_extensions(holder, "insee-code"), *_extensions(holder, "FrAddressInseeCode")]:
            code = _at(extension, "valueCoding.code") or extension.get("valueString") or extension.get("valueCode")
            if isinstance(code, str) and ins.COMMUNE.fullmatch(code):
                return code
    return None


def _extensions(holder: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The extensions whose URL ends in a name: the canonical base of FR Core has changed with its versions."""
    extensions = holder.get("extension")
    if not isinstance(extensions, list):
        return []
    return [one for one in extensions if isinstance(one, dict) and str(one.get("url")).endswith(name)]


def _codes(concept: Any) -> set[str]:
    codings = concept.get("coding") if isinstance(concept, dict) else None
    if not isinstance(codings, list):
        return set()
    return {one["code"] for one in codings if isinstance(one, dict) and isinstance(one.get("code"), str)}


def _list(holder: Mapping[str, Any], name: str) -> list[Any]:
    value = holder.get(name, [])
    if not isinstance(value, list):
        raise _Refused("malformed", f"{name} is not a list")
    return value


def _text(value: Any, longest: int = 200) -> str | None:
    text = value.strip() if isinstance(value, str) else ""
    return text if 0 < len(text) <= longest else None


_KNOWN: Final = frozenset(
    """Account ActivityDefinition AdverseEvent AllergyIntolerance Appointment AppointmentResponse AuditEvent Basic
    Binary BiologicallyDerivedProduct BodyStructure Bundle CapabilityStatement CarePlan CareTeam CatalogEntry
    ChargeItem ChargeItemDefinition ClaimResponse ClinicalImpression CodeSystem Communication CommunicationRequest
    CompartmentDefinition Composition ConceptMap Consent Contract Coverage CoverageEligibilityRequest
    CoverageEligibilityResponse DetectedIssue Device DeviceDefinition DeviceMetric DeviceRequest
    DeviceUseStatement DocumentManifest DocumentReference EffectEvidenceSynthesis Endpoint EnrollmentRequest
    EnrollmentResponse EpisodeOfCare EventDefinition Evidence EvidenceVariable ExampleScenario FamilyMemberHistory
    Flag Goal GraphDefinition Group GuidanceResponse HealthcareService ImagingStudy ImmunizationEvaluation
    ImmunizationRecommendation ImplementationGuide InsurancePlan Invoice Library Linkage List Location Measure
    MeasureReport Media Medication MedicationAdministration MedicationDispense MedicationKnowledge
    MedicationStatement MedicinalProduct MedicinalProductAuthorization MedicinalProductContraindication
    MedicinalProductIndication MedicinalProductIngredient MedicinalProductInteraction MedicinalProductManufactured
    MedicinalProductPackaged MedicinalProductPharmaceutical MedicinalProductUndesirableEffect MessageDefinition
    MessageHeader MolecularSequence NamingSystem NutritionOrder ObservationDefinition OperationDefinition
    OperationOutcome Organization OrganizationAffiliation Parameters PaymentNotice PaymentReconciliation Person
    PlanDefinition Practitioner PractitionerRole Provenance Questionnaire QuestionnaireResponse RelatedPerson
    RequestGroup ResearchDefinition ResearchElementDefinition ResearchStudy ResearchSubject RiskAssessment
    RiskEvidenceSynthesis Schedule SearchParameter ServiceRequest Slot Specimen SpecimenDefinition
    StructureDefinition StructureMap Subscription Substance SubstanceNucleicAcid SubstancePolymer SubstanceProtein
    SubstanceReferenceInformation SubstanceSourceMaterial SubstanceSpecification SupplyDelivery SupplyRequest Task
    TerminologyCapabilities TestReport TestScript ValueSet VerificationResult VisionPrescription
    """.split()  # noqa: SIM905 - a hundred quotes say no more
)
"""The other resource types of R4 (resourcelist.html): a name outside could be anything, and is counted as unknown."""
