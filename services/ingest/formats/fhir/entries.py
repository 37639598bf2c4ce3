"""FHIR R4 to the hub's events: a Bundle or a resource becomes CloudEvents. Pure, stateless.

What the events carry is still whole: `content.strip` prunes it. Any JSON value comes to events, refusals or names, and
raises nothing; no detail of a refusal repeats a value of the input.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from contracts.events import DELETED, EARLIEST, LATEST, OPPOSITION
from services.ingest.domain.refusals import Refusal, Refused, refusing
from services.ingest.formats.fhir.consent import Opposition, is_opposition, opposition_of
from services.ingest.formats.fhir.elements import ID, at, codes, is_out_of_range, time
from services.ingest.formats.fhir.patient import death_of, identity_of, links_of
from services.ingest.formats.fhir.references import (
    Servers,
    Target,
    base_of,
    deleted_of,
    id_of,
    says_nothing_new,
    target_of,
)
from services.ingest.formats.reading import Outcome, event


def outcomes_of(document: Any, source: str) -> Iterator[tuple[int, Outcome]]:
    """What each resource of a decoded resource or Bundle comes to (hl7.org/fhir/R4/bundle.html), by its position.

    An event carries `data.identity` and, unless it retracts or is an identity, `data.record`; its time is None where
    the resource tells none.

    What is not the hub's goes by the name of a resource type, of an element of a Patient that says something which no
    event can say, or SUPERSEDED.
    """
    if (refusal := refusal_of(document)) is not None:
        yield 0, refusal
        return
    if document["resourceType"] != "Bundle":
        for outcome in outcomes({"resource": document}, Servers(source, {}, None)):
            yield 0, outcome
        return
    entries = document.get("entry", [])
    told = [found for entry in entries if (found := target_of(entry))]
    targets = {url: target for url, target in told if not says_nothing_new(url, target)}
    servers = Servers(source, targets, own_base(map(server_of, entries)))
    reader = Entries(servers, document.get("type"))
    for entry in entries:
        yield from reader.read(entry)


def refusal_of(document: Any) -> Refusal | None:
    """Why a document (without its entries) is neither a resource nor a Bundle that is read, if it is not."""
    if not isinstance(document, dict) or not isinstance(document.get("resourceType"), str):
        return Refusal("not-fhir", "the document is not a JSON object with a resourceType")
    if document["resourceType"] != "Bundle":
        return None
    if document.get("type", "collection") not in BUNDLES:
        return Refusal("bundle-type", f"Bundle.type is not one of {', '.join(BUNDLES)}")
    if not isinstance(document.get("entry", []), list):
        return Refusal("malformed", "Bundle.entry is not a list")
    return None


def own_base(bases: Iterable[str | None]) -> str | None:
    """The server that a bundle's full URLs name, if they name one."""
    named = set(bases) - {None}
    return named.pop() if len(named) == 1 else None


def server_of(entry: Any) -> str | None:
    """The base of the server that has an entry's resource, where the entry tells it.

    Of resources that the hub does not take, none: a practitioner from a directory makes no bundle one of two servers.
    """
    if (told := target_of(entry)) is not None:
        return told[1].base if told[1].name.partition("/")[0] in (*TYPES, "Consent") else None
    if not isinstance(entry, dict) or entry.get("resource") is not None:
        return None
    deleted = deleted_of(entry)
    return deleted.base if deleted is not None and deleted.name.partition("/")[0] in TYPES else None


class Entries:
    """Reads the entries of one bundle, one after another.

    A history has the newest state first (R4, http.html#history). Where no version tells states apart, only the newest
    is taken, and the others count as superseded.
    """

    def __init__(self, servers: Servers, kind: Any) -> None:
        self.index = 0
        self._servers = servers
        self._seen: set[int] | None = set() if kind == "history" else None

    def read(self, entry: Any) -> Iterator[tuple[int, Outcome]]:
        """What the next entry comes to, and its position; a refusal says that, too."""
        found = outcomes(entry, self._servers)
        for outcome in [SUPERSEDED] if self._is_superseded(found) else found:
            yield self.index, self._placed(outcome)
        self.index += 1

    def refuse(self, refusal: Refusal) -> tuple[int, Outcome]:
        """The next entry is refused without a look at it."""
        self.index += 1
        return self.index - 1, Refusal(refusal.reason, f"entry[{self.index - 1}]: {refusal.detail}")

    def _placed(self, outcome: Outcome) -> Outcome:
        if isinstance(outcome, Refusal):
            return Refusal(outcome.reason, f"entry[{self.index}]: {outcome.detail}")
        return outcome

    def _is_superseded(self, found: list[Outcome]) -> bool:
        first = found[0]
        if self._seen is None or not isinstance(first, dict) or "version" in first:
            return False
        name = hash(first["id"])
        if name in self._seen:
            return True
        self._seen.add(name)
        return False


SUPERSEDED: Final = "superseded"


def outcomes(entry: Any, servers: Servers) -> list[Outcome]:
    """What an entry of a bundle comes to; of a resource that is no entry, `entry` has nothing but the resource."""
    try:
        return list(_Entry(servers).read(entry))
    except Refused as why:
        return [why.refusal]


BUNDLES: Final = ("transaction", "batch", "collection", "history", "searchset", "document")

IDENTITY: Final = "identity.v1"
DEATH: Final = "death.v1"
TYPES: Final = {
    "Patient": IDENTITY,
    "Encounter": "encounter.v1",
    "Condition": "diagnosis.v1",
    "Observation": "observation.v1",
    "Procedure": "procedure.v1",
    "Immunization": "immunization.v1",
    "MedicationRequest": "medication.v1",
    "Claim": "claim.v1",
    "ExplanationOfBenefit": "claim.v1",
    "DiagnosticReport": "report.v1",
    "MedicationDispense": "dispensation.v1",
    "MedicationAdministration": "medication.v1",
    "MedicationStatement": "medication.v1",
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
    "MedicationDispense": ("whenHandedOver", "whenPrepared"),
    "MedicationAdministration": ("effectiveDateTime", "effectivePeriod.start"),
    "MedicationStatement": ("effectiveDateTime", "effectivePeriod.start", "dateAsserted"),
}
"""Where a resource says when it happened, best first; `meta.lastUpdated` follows for all."""

_ETAG = re.compile(r'(?:W/)?"(\d{1,10})"', re.ASCII)


class _Entry(NamedTuple):
    servers: Servers

    def read(self, entry: Any) -> Sequence[Outcome]:
        if not isinstance(entry, dict):
            raise refusing("malformed", "the entry is not an object")
        request = entry.get("request")
        request = request if isinstance(request, dict) else {}
        deletes = request.get("method") == "DELETE"
        resource = entry.get("resource")
        if resource is None and deletes:
            return self._deletion(entry, request)
        if resource is None:
            raise refusing("no-resource", "the entry has no resource, and its request is not a DELETE")
        if not isinstance(resource, dict) or not isinstance(kind := resource.get("resourceType"), str):
            raise refusing("malformed", "the resource is not an object with a resourceType")
        if kind == "Bundle":
            raise refusing("nested-bundle", "a Bundle within a Bundle is not read: send its entries by themselves")
        objects = kind == "Consent" and not deletes and is_opposition(resource)
        if kind not in TYPES and not objects:
            return [kind if kind in _KNOWN else "unknown"]
        name = id_of(resource, entry.get("fullUrl"))
        if not isinstance(name, str) or not ID.fullmatch(name):
            raise refusing("no-id", f"{kind}.id is not there, or not a FHIR id (1 to 64 letters, digits, - and .)")
        base = base_of(entry.get("fullUrl"), f"{kind}/{name}")
        version = _version(at(resource, "meta.versionId"))
        if objects:
            return [self._opposition(opposition_of(resource, name, self.servers, base), version)]
        replaces = request.get("method") in ("PUT", "PATCH")
        gone = deletes or _entered_in_error(resource)
        times = [(path, at(resource, path)) for path in (*_TIMES.get(kind, ()), "meta.lastUpdated")]
        when = _first(kind, times, gone)
        if kind == "Patient":
            found = self._patient(resource, Target(name, base), gone, when, version)
            return [replacing(one) if replaces and isinstance(one, dict) else one for one in found]
        data: dict[str, Any]
        if gone:
            data = {"identity": self.servers.person_if_told(resource, kind, base)}
        else:
            person = self.servers.person(resource, kind, base)
            data = {"identity": person, "record": _with_contained_medication(resource)}
        record = self.servers.record(Target(f"{kind}/{name}", base))
        state = self._event(TYPES[kind], record, gone, when, version, data)
        return [replacing(state) if replaces else state]

    def _event(
        self, kind: str, name: str, gone: bool, when: str | None, version: int | None, data: dict[str, Any]
    ) -> dict[str, Any]:
        return event(self.servers.source, kind + (DELETED if gone else ""), name, when, data, version=version)

    def _opposition(self, said: Opposition, version: int | None) -> dict[str, Any]:
        """Against every use: a Consent names scopes of many kinds, and in doubt the person is heard.

        It holds until it is lifted, whatever its period says, for nothing here happens because time has passed.
        """
        data = {"identity": said.identity} | ({"record": {"scope": "all"}} if said.made else {})
        return replacing(self._event(OPPOSITION, said.id, not said.made, said.start, version, data))

    def _patient(
        self, patient: Mapping[str, Any], own: Target, gone: bool, when: str | None, version: int | None
    ) -> Iterator[Outcome]:
        """The identity, and a death as a record of its own.

        A death is withdrawn by a Patient who is said to live (but not by its first version), is deleted, or is
        replaced. A later state that says nothing of a death withdraws none: a retraction with every Patient of the
        living would double what they cost.
        """
        local = self.servers.numbers(own)
        links = links_of(patient, self.servers, own)
        identity = {"identifiers": local} if gone else identity_of(patient, local, links)
        record = self.servers.record(Target(f"Patient/{own.name}", own.base))
        yield self._event(IDENTITY, record, gone, when, version, {"identity": identity})
        yield from ["Patient.link"] * (0 if gone else links.passed_over)
        name = f"{record}#deceased"
        lives = patient.get("deceasedBoolean") is False and version != 1
        if gone or links.is_replaced or lives:
            yield self._event(DEATH, name, True, when, version, {"identity": identity})
            return
        try:
            death = death_of(patient)
        except Refused as why:
            yield why.refusal
            return
        if death is not None:
            data = {"identity": identity, "record": {"date": death.date}}
            yield self._event(DEATH, name, False, death.time, version, data)
        elif patient.get("deceasedBoolean") is True:
            yield "Patient.deceasedBoolean"

    def _deletion(self, entry: Mapping[str, Any], request: Mapping[str, Any]) -> list[Outcome]:
        """A DELETE in a transaction or a history, which has no resource."""
        target = deleted_of(entry)
        kind, _, name = target.name.partition("/") if target is not None else ("", "", "")
        if target is None or (kind not in TYPES and kind not in _KNOWN):
            raise refusing(
                "no-id",
                "the DELETE's request.url is not <type>/<id>: name each resource that is deleted by its id",
            )
        if kind not in TYPES:
            return [kind]
        response = entry.get("response")
        response = response if isinstance(response, dict) else {}
        etag = response.get("etag")
        match = _ETAG.fullmatch(etag) if isinstance(etag, str) else None
        version = _version(match[1] if match else str(request.get("url")).partition("/_history/")[2])
        when = _first(kind, [("", response.get("lastModified"))], gone=True)
        if kind == "Patient":
            return list(self._patient({}, Target(name, target.base), True, when, version))
        return [self._event(TYPES[kind], self.servers.record(target), True, when, version, {"identity": {}})]


def replacing(state: dict[str, Any]) -> dict[str, Any]:
    """The event of an update: it replaces what was there where no version says which is the later."""
    return state if "version" in state else {**state, "correction": True}


def _version(version: Any) -> int | None:
    """A version id that is a number orders the states of a resource; any other does not (R4, resource.html#Meta)."""
    if isinstance(version, str) and version.isascii() and version.isdigit() and 0 < int(version[:11]) < 2**31:
        return int(version[:11])
    return None


def _first(kind: str, times: list[tuple[str, Any]], gone: bool) -> str | None:
    """The first that is a time. One that no event can have refuses the resource, but never hinders a retraction."""
    for path, value in times:
        if is_out_of_range(value):
            if not gone:
                raise refusing("bad-date", f"{kind}.{path} is not within {EARLIEST.year} to {LATEST.year - 1}")
        elif when := time(value):
            return when
    return None


def _entered_in_error(resource: Mapping[str, Any]) -> bool:
    if resource.get("status") == "entered-in-error":
        return True
    return "entered-in-error" in codes(resource.get("verificationStatus"))


def _with_contained_medication(resource: dict[str, Any]) -> dict[str, Any]:
    """A prescription whose medicine is contained in it says its code itself: contained resources do not pass."""
    reference = at(resource, "medicationReference.reference")
    contained = resource.get("contained")
    if (
        not isinstance(reference, str)
        or reference[:1] != "#"
        or "medicationCodeableConcept" in resource
        or not isinstance(contained, list)
    ):
        return resource
    for one in contained:
        if isinstance(one, dict) and one.get("resourceType") == "Medication" and one.get("id") == reference[1:]:
            return {**resource, "medicationCodeableConcept": one.get("code")}
    return resource


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
    MeasureReport Media Medication MedicationKnowledge
    MedicinalProduct MedicinalProductAuthorization MedicinalProductContraindication
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
