"""What an HL7 v2 message tells of a patient: PID, PV1, DG1 and MRG, to the hub's events. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from contracts.events import DELETED
from services.ingest.domain.content import known
from services.ingest.domain.refusals import Refusal, Refused, refusing
from services.ingest.formats.hl7v2.fields import NULL, Text, Time
from services.ingest.formats.hl7v2.patient import MOST_NUMBERS, Number, Patient, assigner, name_of, quoted
from services.ingest.formats.reading import Outcome, bounded, event

UPDATE: Final = b"A08"
STATUS: Final = {
    b"A01": "in-progress",
    b"A03": "finished",
    b"A04": "in-progress",
    UPDATE: "in-progress",
    b"A11": "cancelled",
    b"A13": "in-progress",
}
"""The events about a visit, and its status after each: admit, discharge, register, update, cancel of either (3.3)."""
MERGE: Final = b"A40"

_CLASSES: Final = {"E": "EMER", "I": "IMP", "O": "AMB", "P": "PRENC", "R": "AMB", "B": "IMP"}
"""Table 0004 by the v2-to-FHIR guide. R and B, which it leaves in the table, are ours: in PAM.fr R are the sessions
(dialysis, chemotherapy) of patients who go home, and B are deliveries."""
_NO_VISIT: Final = frozenset(("N", "C", ""))
"""Not applicable, as in messages that have to have PV1 (ITI-30); a commercial account; no class, thus no visit."""
_ACT: Final = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
_ICD10: Final = "http://hl7.org/fhir/sid/icd-10"
_CODE_SYSTEMS: Final = {
    **dict.fromkeys(("", "I10", "ICD10", "ICD-10", "CIM10", "CIM-10", "2.16.840.1.113883.6.3"), _ICD10),
    "I9C": "http://hl7.org/fhir/sid/icd-9-cm",
    "SCT": "http://snomed.info/sct",
}
"""Table 0396, and what French hospitals write; a code without a system is CIM-10, as in all they have to report."""
_IN_DIAGNOSES: Final = [
    {
        "coding": [
            {"system": "http://terminology.hl7.org/CodeSystem/condition-category", "code": "encounter-diagnosis"},
        ]
    }
]


class Frame(NamedTuple):
    """What the events of one message have in common."""

    source: str
    version: int
    time: str
    """When it happened (EVN-6, else EVN-2)."""

    def event(self, kind: str, name: str, time: str, data: dict[str, Any]) -> dict[str, Any]:
        """A state of a record."""
        return event(self.source, kind, name, time, data, correction=True, version=self.version)


class Group(NamedTuple):
    """A PID with what follows it."""

    frame: Frame
    text: Text
    trigger: bytes
    occurred: Time | None
    segments: Sequence[Sequence[Any]]

    def outcomes(self) -> Iterator[Outcome]:
        """What it comes to. Raises Refused, after those that stand."""
        frame, pid = self.frame, self.segments[0]
        patient = Patient(self.text, frame.source, pid)
        numbers = patient.numbers(pid, 3, "PID")
        identity = patient.identity(numbers)
        number = name_of(numbers)
        yield frame.event("identity.v1", _id("Patient", number), frame.time, {"identity": identity})
        yield from self._death(identity, number)
        if self.trigger == MERGE:
            yield self._merge(patient, identity, number)
        elif self.trigger in STATUS:
            yield from self._visit(identity)

    def _named(self, name: str) -> Iterator[Sequence[Any]]:
        return (segment for segment in self.segments if segment[0][0] == name)

    def _merge(self, patient: Patient, identity: dict[str, Any], number: str) -> Outcome:
        """Both numbers on the traits of the patient who stays (A40; MRG-1)."""
        mrg = next(self._named("MRG"), ())
        retired = sorted(one for one in patient.numbers(mrg, 1, "MRG") if one.system == "ipp")
        if not retired:
            return Refusal("missing-field", "MRG-1: no local number (type PI): it names the patient that is merged")
        told = (one.identifier() for one in retired)
        numbers = [*identity["identifiers"], *(one for one in told if one not in identity["identifiers"])]
        both = {**identity, "identifiers": numbers[:MOST_NUMBERS]}
        name = _id("Merge", number, *(one.name() for one in retired))
        return self.frame.event("identity.v1", name, self.frame.time, {"identity": both})

    def _death(self, identity: dict[str, Any], number: str) -> Iterator[Outcome]:
        """PID-29 and PID-30: null in either takes back a death; one without its date has no place in the hub.

        One of a month or a year is put at its last day, so that no care stands after it by what is not known.
        """
        pid = self.segments[0]
        day, dead = (self.text.raw(self.text.first(pid, field)).strip() for field in (29, 30))
        if NULL in (day, dead):
            yield self.frame.event("death.v1" + DELETED, _id("Death", number), self.frame.time, {"identity": identity})
        elif dead != "N" and (time := self.text.time(pid, 29, "PID")):
            record = {"date": time.day}
            data = {"identity": identity, "record": record}
            yield self.frame.event("death.v1", _id("Death", number), time.latest.isoformat(), data)
        elif dead == "Y":
            yield "death without its day"

    def _visit(self, identity: dict[str, Any]) -> Iterator[Outcome]:
        pv1 = next(self._named("PV1"), ())
        text = self.text
        told = text.value(text.first(pv1, 2))
        if told in _NO_VISIT:
            return
        if told not in _CLASSES:
            yield Refusal("bad-value", "PV1-2: not a class of table 0004 that says how a patient is there")
            return
        visit = self._numbered(pv1, 19)
        if not visit:
            yield Refusal("no-id", "PV1-19: the visit number is missing, by which the hub knows a stay")
            return
        if self.trigger != UPDATE or text.raw(text.first(pv1, 45)).strip():
            yield self._stay(pv1, told, identity, visit)
        else:
            yield "stay without its state"
        yield from self._diagnoses(identity, visit)

    def _stay(self, pv1: Sequence[Any], told: str, identity: dict[str, Any], visit: str) -> Outcome:
        """PV1 as an Encounter, by the v2-to-FHIR guide. Raises Refused."""
        text = self.text
        admitted = text.time(pv1, 44, "PV1")
        discharged = text.time(pv1, 45, "PV1") if self.trigger not in (b"A11", b"A13") else None
        if self.trigger in (b"A01", b"A04"):
            admitted = admitted or self.occurred
        if self.trigger == b"A03":
            discharged = discharged or self.occurred
        status = "finished" if discharged else STATUS[self.trigger]
        record: dict[str, Any] = {
            "resourceType": "Encounter",
            "status": "planned" if told == "P" and status == "in-progress" else status,
            "class": {"system": _ACT, "code": _CLASSES[told]},
        }
        if period := {
            name: time.stated for name, time in (("start", admitted), ("end", discharged)) if time is not None
        }:
            record["period"] = period
        if kind := text.value(text.first(pv1, 4)):
            record["type"] = [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0007", "code": kind}]}]
        if text.value(text.first(pv1, 13)) == "R":
            coding = {"system": "http://terminology.hl7.org/CodeSystem/v2-0092", "code": "R"}
            record["hospitalization"] = {"reAdmission": {"coding": [coding]}}
        time = admitted.moment.isoformat() if admitted else self.frame.time
        return self.frame.event("encounter.v1", _id("Encounter", visit), time, {"identity": identity, "record": record})

    def _numbered(self, segment: Sequence[Any], field: int) -> str:
        """A number with its authority (2.A.14: CX), or nothing."""
        cx = self.text.first(segment, field)
        value = self.text.value(cx)
        return Number("", assigner(self.text, cx, self.frame.source), value).name() if value else ""

    def _diagnoses(self, identity: dict[str, Any], visit: str) -> Iterator[Outcome]:
        """Those of DG1, each once: a code that is told twice (at admission and as final) is one diagnosis."""
        found: dict[str, dict[str, Any]] = {}
        for segment in self._named("DG1"):
            try:
                diagnosis = self._diagnosis(segment, identity, visit)
                if isinstance(diagnosis, dict):
                    before = found.get(diagnosis["id"])
                    found[diagnosis["id"]] = _joined(before, diagnosis) if before else diagnosis
                else:
                    yield diagnosis
            except Refused as refused:
                yield refused.refusal
        yield from found.values()

    def _diagnosis(self, dg1: Sequence[Any], identity: dict[str, Any], visit: str) -> Outcome:
        """DG1 (6.5.2) as a Condition, by the v2-to-FHIR guide."""
        text = self.text
        coded = text.first(dg1, 3)
        code = text.value(coded).upper()
        if not code:
            return "diagnosis without a code"
        system = _CODE_SYSTEMS.get((text.value(coded, 3) or text.value(text.first(dg1, 2))).upper())
        if system is None:
            raise refusing("unknown-system", "DG1-3.3: not a code system of table 0396 that the hub knows: say I10")
        plain = code
        if system == _ICD10:
            plain = code[:3] + code[4:] if code[3:4] == "." and code[4:] else code
            if not known("cim10", plain):
                raise refusing("bad-value", "DG1-3: not a code of CIM-10")
        name = _id("Condition", visit, quoted(text.value(text.first(dg1, 20)) or plain))
        if text.value(text.first(dg1, 21)) == "D":
            return self.frame.event("diagnosis.v1" + DELETED, name, self.frame.time, {"identity": identity})
        found = text.time(dg1, 5, "DG1")
        record = {
            "resourceType": "Condition",
            "category": _IN_DIAGNOSES,
            "code": {"coding": [{"system": system, "code": code}]},
        } | ({"onsetDateTime": found.stated} if found else {})
        time = found.moment.isoformat() if found else self.frame.time
        return self.frame.event("diagnosis.v1", name, time, {"identity": identity, "record": record})


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Of two states of one diagnosis in one message, the one that is not deleted, or is earlier. Raises Refused."""
    first, second = sorted(
        (one, other), key=lambda state: ("record" not in state["data"], datetime.fromisoformat(state["time"]))
    )
    if "record" in second["data"] and first["data"]["record"]["code"] != second["data"]["record"]["code"]:
        raise refusing("bad-value", "DG1-20: the same for two codes: it is the number of one diagnosis")
    return first


def _id(*parts: str) -> str:
    """The name of a record, of parts without a slash of their own. One that is too long is known by its digest."""
    name = "/".join(parts)
    return name if len(name) <= 256 else f"{parts[0]}/{bounded(name, 256)}"
