"""HL7 v2 ADT as PAM.fr has it: what each event comes to, in any order and any bytes."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Iterator
from itertools import permutations
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.events import Event
from contracts.messages import Headers
from services.ingest.domain import content
from services.ingest.domain.flow import LANES
from services.ingest.domain.refusals import Refusal
from services.ingest.formats.hl7v2 import messages as hl7v2
from services.ingest.formats.hl7v2.messages import LONGEST, events_of, header, messages, read
from services.ingest.formats.reading import Outcome
from services.linkage.domain.states import Coordinates, State, Verdict, accept, judge, place
from tests.unit.ingest.conftest import Ingest, new_intake
from tests.unit.ingest.samples import NOW, SOURCE

pytestmark = pytest.mark.unit

PLANTED = "KERGUELEN-DE-TREMAREC"
HOSPITAL = "CHU RENNES&1.2.250.1.71.4.2.2.99&ISO"
ASSIGNER = "1.2.250.1.71.4.2.2.99"


def segment(name: str, fields: dict[int, str]) -> str:
    """A segment, by the numbers of its fields."""
    return "|".join([name, *(fields.get(number, "") for number in range(1, max(fields, default=0) + 1))])


PID = {
    1: "1",
    3: f"8812^^^{HOSPITAL}^PI~285053523800148^^^ASIP-SANTE-INS-NIR&1.2.250.1.213.1.4.8&ISO^INS~77^^^PREF&&M^DL",
    5: "LE GOFF^ANNE^ANNE MARIE LOUISE^^^^L~MARTIN^ANNE^^^MME^^D",
    7: "19850512",
    8: "F",
    11: "12 rue du Port^Bât. C^Saint-Malo^^35400^FRA^H^^35288~^^Rennes^^^FRA^BDL^^35238",
    18: f"AN1234^^^{HOSPITAL}^AN",
    23: "RENNES (35000)",
    30: "N",
    32: "VALI",
}
PV1 = {
    1: "1",
    2: "I",
    3: "CARD^101^1^CHU",
    4: "R",
    7: "10001234567^DOC^JEAN^^^^^^ASIP-SANTE-PS&1.2.250.1.71.4.2.1&ISO^L^^^RPPS",
    19: f"VN778^^^{HOSPITAL}^VN",
    44: "20260301095500+0100",
}
DG1 = {1: "1", 3: "I500^Insuffisance cardiaque congestive^I10", 5: "20260301", 6: "W"}


def adt(trigger: str, number: int, at: str, *rest: str, pid: dict[int, str] | None = None) -> bytes:
    """A message of event time `at`, with an unknown segment at its end."""
    kind = f"ADT^{trigger}^ADT_{trigger}"
    msh = f"MSH|^~\\&|DXCARE|CHU RENNES|||{at}||{kind}|MSG{number:05}|P|2.5^FRA^2.10|||||FRA|UNICODE UTF-8"
    evn = segment("EVN", {2: at, 6: at})
    segments = [msh, evn, segment("PID", PID if pid is None else pid), *rest, "ZFD|||N|N"]
    return ("\r".join(segments) + "\r").encode()


def changed(message: bytes, name: str, field: int, value: str) -> bytes:
    """The message with another value in a field of the first segment of that name."""
    lines = message.decode().split("\r")
    at = next(index for index, line in enumerate(lines) if line.startswith(name))
    parts = lines[at].split("|")
    field -= name == "MSH"
    parts += [""] * (field + 1 - len(parts))
    parts[field] = value
    lines[at] = "|".join(parts)
    return "\r".join(lines).encode()


A01 = adt("A01", 1, "20260301100000+0100", segment("PV1", PV1), segment("DG1", DG1))
A08 = adt("A08", 2, "20260303080000+0100", segment("PV1", PV1 | {2: "I", 4: "U"}))
A03 = adt("A03", 3, "20260306150000+0100", segment("PV1", PV1 | {45: "20260306143000+0100"}), segment("DG1", DG1))
A04 = adt("A04", 4, "20260310090000+0100", segment("PV1", PV1 | {2: "E", 19: "VN779", 44: ""}))
A31 = adt("A31", 5, "20260312110000+0100", "PV1|1|N", pid=PID | {5: "LE GOFF^ANNE^ANNE MARIE^^^^L"})
A40 = adt("A40", 6, "20260313120000+0100", segment("MRG", {1: f"9901^^^{HOSPITAL}^PI"}), "PV1|1|N")

IDENTITY = {
    "identifiers": [
        {"system": "ipp", "assigner": ASSIGNER, "value": "8812"},
        {"system": "ins-nir", "value": "285053523800148"},
    ],
    "identity_status": "qualified",
    "birth_family_name": "LE GOFF",
    "used_family_name": "MARTIN",
    "given_names": ["ANNE", "MARIE", "LOUISE"],
    "sex": "female",
    "birth_date": "1985-05-12",
    "birth_place": "35238",
    "residence": {
        "address": "12 rue du Port Bât. C",
        "city": "Saint-Malo",
        "postcode": "35400",
        "commune": "35288",
    },
}
UNTOLD = "stay without its state"
ACT = "http://terminology.hl7.org/CodeSystem/v3-ActCode"


def events(message: bytes, **told: Any) -> list[dict[str, Any]]:
    """The events of a message of which nothing is refused; each is valid, and its record is kept whole."""
    found = [one for one in events_of(message, SOURCE, **told) if one != UNTOLD]
    assert all(isinstance(one, dict) for one in found), found
    for one in found:
        assert isinstance(one, dict)
        event = Event.model_validate(one)
        if event.data.record:
            assert content.strip(event.record_type, event.data.record) == (event.data.record, 0, ())
    return [one for one in found if isinstance(one, dict)]


def identity(**fields: str) -> dict[str, Any]:
    """The identity of A31's patient with other fields: `pid_7="..."`."""
    pid = PID | {int(name.removeprefix("pid_")): value for name, value in fields.items()}
    found: dict[str, Any] = events(adt("A31", 1, "20260301100000+0100", pid=pid))[0]["data"]["identity"]
    return found


def refusals(message: bytes) -> list[Refusal]:
    return [one for one in events_of(message, SOURCE) if isinstance(one, Refusal)]


# --- the events ---


def test_an_admission() -> None:
    patient, stay, diagnosis = events(A01)
    assert patient == {
        "specversion": "1.0",
        "id": f"Patient/{ASSIGNER}|8812",
        "source": SOURCE,
        "type": "identity.v1",
        "time": "2026-03-01T10:00:00+01:00",
        "correction": True,
        "version": 825_670_800,  # 9556 days of 86400 s, and nine hours
        "data": {"identity": IDENTITY},
    }
    assert (stay["id"], stay["type"]) == (f"Encounter/{ASSIGNER}|VN778", "encounter.v1")
    assert stay["time"] == "2026-03-01T09:55:00+01:00"
    assert stay["data"] == {
        "identity": IDENTITY,
        "record": {
            "resourceType": "Encounter",
            "status": "in-progress",
            "class": {"system": ACT, "code": "IMP"},
            "period": {"start": "2026-03-01T09:55:00+01:00"},
            "type": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0007", "code": "R"}]}],
        },
    }
    assert (diagnosis["id"], diagnosis["type"]) == (f"Condition/{ASSIGNER}|VN778/I500", "diagnosis.v1")
    assert diagnosis["time"] == "2026-03-01T00:00:00+00:00"
    record = diagnosis["data"]["record"]
    assert record["code"] == {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10", "code": "I500"}]}
    assert record["onsetDateTime"] == "2026-03-01"


def test_a_discharge_ends_the_stay() -> None:
    stay = events(A03)[1]["data"]["record"]
    assert stay["status"] == "finished"
    assert stay["period"] == {"start": "2026-03-01T09:55:00+01:00", "end": "2026-03-06T14:30:00+01:00"}
    told_by_event = events(changed(A03, "PV1", 45, ""))[1]["data"]["record"]
    assert (told_by_event["status"], told_by_event["period"]["end"]) == ("finished", "2026-03-06T15:00:00+01:00")


def test_a_registration_begins_when_it_happened() -> None:
    stay = events(A04)[1]
    assert stay["id"] == f"Encounter/{SOURCE}|VN779"
    assert stay["data"]["record"]["class"]["code"] == "EMER"
    assert stay["data"]["record"]["period"] == {"start": "2026-03-10T09:00:00+01:00"}


@pytest.mark.parametrize(
    ("told", "status", "end"), [("20260303", "finished", "2026-03-03"), ('""', "in-progress", None)]
)
def test_an_update_is_as_the_discharge_says(told: str, status: str, end: str | None) -> None:
    stay = events(changed(A08, "PV1", 45, told))[1]["data"]["record"]
    assert (stay["status"], stay["period"].get("end")) == (status, end)


def test_an_update_that_tells_no_discharge_leaves_the_stay_as_it_is() -> None:
    outcomes = events_of(A08 + segment("DG1", DG1).encode(), SOURCE)
    assert [one["type"] if isinstance(one, dict) else one for one in outcomes] == [
        "identity.v1",
        UNTOLD,
        "diagnosis.v1",
    ]


def test_an_update_of_a_person_has_no_stay() -> None:
    (patient,) = events(A31)
    assert patient["id"] == events(A01)[0]["id"]
    assert patient["version"] > events(A01)[0]["version"]
    assert "used_family_name" not in patient["data"]["identity"]


def test_a_merge_has_both_numbers_and_its_own_record() -> None:
    patient, merge = events(A40)
    assert patient["data"]["identity"] == IDENTITY
    assert merge["type"] == "identity.v1"
    assert merge["id"] == f"Merge/{ASSIGNER}|8812/{ASSIGNER}|9901"
    numbers = merge["data"]["identity"].pop("identifiers")
    assert numbers == [*IDENTITY["identifiers"], {"system": "ipp", "assigner": ASSIGNER, "value": "9901"}]
    assert merge["data"]["identity"] == {name: value for name, value in IDENTITY.items() if name != "identifiers"}


def test_several_merges_in_one_message() -> None:
    second = segment("PID", PID | {3: f"5501^^^{HOSPITAL}^PI"}) + "\r" + segment("MRG", {1: f"5502^^^{HOSPITAL}^PI"})
    message = A40.replace(b"PV1|1|N", second.encode())
    ids = [one["id"].replace(ASSIGNER, "") for one in events(message)]
    assert ids == ["Patient/|8812", "Merge/|8812/|9901", "Patient/|5501", "Merge/|5501/|5502"]


@pytest.mark.parametrize(
    ("trigger", "status"), [("A11", "cancelled"), ("A13", "in-progress"), ("A01", "in-progress"), ("A08", "finished")]
)
def test_what_is_cancelled(trigger: str, status: str) -> None:
    message = adt(trigger, 1, "20260307", segment("PV1", PV1 | ({} if trigger == "A01" else {45: "20260306"})))
    assert events(message)[1]["data"]["record"]["status"] == status


@pytest.mark.parametrize(
    ("told", "kept", "status"),
    [("O", "AMB", "in-progress"), ("P", "PRENC", "planned"), ("R", "AMB", "in-progress"), ("B", "IMP", "in-progress")],
)
def test_classes(told: str, kept: str, status: str) -> None:
    record = events(changed(A01, "PV1", 2, told))[1]["data"]["record"]
    assert (record["class"]["code"], record["status"]) == (kept, status)


def test_a_visit_that_is_none() -> None:
    for told in ("N", "C", ""):
        assert [one["type"] for one in events(changed(A08, "PV1", 2, told))] == ["identity.v1"]
    without = A08.replace(b"\rPV1", b"\rZV1")
    assert [one["type"] for one in events(without)] == ["identity.v1"]


def test_a_death() -> None:
    _, death = events(adt("A31", 1, "20260401", pid=PID | {29: "20260331221500+0200", 30: "Y"}))
    assert (death["id"], death["type"]) == (f"Death/{ASSIGNER}|8812", "death.v1")
    assert death["data"] == {"identity": IDENTITY, "record": {"date": "2026-03-31"}}
    assert death["time"] == "2026-03-31T22:15:00+02:00"
    taken_back = events(adt("A31", 1, "20260402", pid=PID | {29: '""', 30: "N"}))[1]
    assert (taken_back["id"], taken_back["type"]) == (death["id"], "death.v1.deleted")
    assert "record" not in taken_back["data"]
    assert events_of(adt("A31", 1, "20260401", pid=PID | {30: "Y"}), SOURCE)[1] == "death without its day"


@pytest.mark.parametrize(
    ("told", "date", "day"),
    [("202402", "2024-02", "2024-02-29"), ("20240200", "2024-02", "2024-02-29"), ("2024", "2024", "2024-12-31")],
)
def test_a_death_that_is_not_known_to_the_day(told: str, date: str, day: str) -> None:
    death = events(adt("A31", 1, "20260401", pid=PID | {29: told, 30: "Y"}))[1]
    assert death["data"]["record"] == {"date": date}
    assert death["time"] == f"{day}T00:00:00+00:00"


def test_diagnoses() -> None:
    def of(**fields: str) -> Outcome:
        dg1 = DG1 | {int(name.removeprefix("dg1_")): value for name, value in fields.items()}
        message = adt("A08", 1, "20260301", segment("PV1", PV1), segment("DG1", dg1))
        return events_of(message, SOURCE)[2]

    def code_of(outcome: Outcome) -> Any:
        assert isinstance(outcome, dict)
        return outcome["data"]["record"]["code"]["coding"][0]

    assert code_of(of(dg1_3="e11.9^^CIM10"))["code"] == "E11.9"
    assert code_of(of(dg1_3="I10"))["system"] == "http://hl7.org/fhir/sid/icd-10"
    assert code_of(of(dg1_2="I9C", dg1_3="250.00"))["system"] == "http://hl7.org/fhir/sid/icd-9-cm"
    named = of(dg1_20="D1^CHU")
    assert isinstance(named, dict)
    assert named["id"].endswith("VN778/D1")
    deleted = of(dg1_21="D")
    assert isinstance(deleted, dict)
    assert (deleted["type"], deleted["id"]) == ("diagnosis.v1.deleted", f"Condition/{ASSIGNER}|VN778/I500")
    assert of(dg1_3="^chest pain") == "diagnosis without a code"
    for refused, reason in ((of(dg1_3=f"X^^{PLANTED}"), "unknown-system"), (of(dg1_3=PLANTED), "bad-value")):
        assert isinstance(refused, Refusal)
        assert refused.reason == reason


@pytest.mark.parametrize(
    ("told", "name"),
    [("J961+0", "J961+0"), ("j96.1+0", "J961+0"), ("B24+1", "B24+1"), ("I50.0", "I500"), ("I10", "I10")],
)
def test_codes_of_cim10_with_and_without_the_dot_and_the_french_extension(told: str, name: str) -> None:
    diagnosis = events(changed(A01, "DG1", 3, f"{told}^^I10"))[2]
    assert diagnosis["data"]["record"]["code"]["coding"][0]["code"] == told.upper()
    assert diagnosis["id"].endswith(f"/{name}")


@pytest.mark.parametrize("told", ["I50.", ".I50", "I5.00", "I50..0", "I50.0.0", "I500+", "I500123", "50"])
def test_what_is_no_code_of_cim10(told: str) -> None:
    assert [one.detail for one in refusals(changed(A01, "DG1", 3, told))] == ["DG1-3: not a code of CIM-10"]


# --- names of records ---


def ids(message: bytes) -> list[str]:
    return [one["id"] for one in events(message)]


def test_numbers_with_separators_in_them_name_different_records() -> None:
    def named(visit: str, number: str) -> list[str]:
        return ids(changed(changed(A01, "PV1", 19, visit), "DG1", 20, number))[1:]

    assert named("1", "2/3") == [f"Encounter/{SOURCE}|1", f"Condition/{SOURCE}|1/2%2F3"]
    assert named("1/2", "3") == [f"Encounter/{SOURCE}|1%2F2", f"Condition/{SOURCE}|1%2F2/3"]
    assert named("1%2F2", "3")[0] == f"Encounter/{SOURCE}|1%252F2"
    assert named("1^^^a\\F\\b", "")[0] != named("b\\F\\1^^^a", "")[0]


def test_the_order_of_numbers_moves_no_record() -> None:
    numbers = ("9^^^A^PI", "8^^^B^PI", "7^^^A^PI", "1^^^A^MR", "285053523800148^^^ASIP-SANTE-INS-NIR^INS")
    for order in permutations(numbers):
        pid = PID | {3: "~".join(order), 29: "20260331", 30: "Y"}
        told = adt("A31", 1, "20260401", pid=pid)
        assert ids(told) == [f"Patient/{SOURCE}%7CA|7", f"Death/{SOURCE}%7CA|7"]
        taken_back = events(changed(changed(told, "PID", 29, '""'), "PID", 30, ""))[1]
        assert (taken_back["id"], taken_back["type"]) == (f"Death/{SOURCE}%7CA|7", "death.v1.deleted")
    mrg = ("3^^^B^PI", "4^^^A^PI")
    assert len({ids(changed(A40, "MRG", 1, "~".join(order)))[1] for order in permutations(mrg)}) == 1


def test_an_insured_persons_number_names_no_patient() -> None:
    """It may be a parent's, and that of several children."""
    insured, own = "285053523800148^^^ASIP-SANTE-INS-NIR^NH", "118013523800119^^^ASIP-SANTE-INS-NIR^INS"
    assert refusals(changed(A31, "PID", 3, insured))[0].reason == "no-id"
    assert ids(changed(A31, "PID", 3, f"{insured}~{own}")) == ["Patient/ins-nir|118013523800119"]


def test_a_code_that_is_told_twice_is_one_diagnosis() -> None:
    def told(*fields: dict[int, str]) -> list[Outcome]:
        message = adt("A01", 1, "20260301100000", segment("PV1", PV1), *(segment("DG1", DG1 | one) for one in fields))
        return events_of(message, SOURCE)[2:]

    first, later, deleted = {5: "20260301", 6: "A"}, {5: "20260305", 6: "F"}, {21: "D"}
    for order in permutations((first, later, deleted)):
        assert told(*order) == told(first)
    assert told(later, deleted) == told(later)
    assert told(deleted, deleted) == told(deleted)
    named = {20: "D1"}
    assert told(named, named | {3: "I10^^I10"}) == [
        Refusal("bad-value", "DG1-20: the same for two codes: it is the number of one diagnosis"),
        *told(named),
    ]


# --- the identity ---


def test_numbers() -> None:
    def numbers(told: str, **more: str) -> Any:
        return [
            (one["system"], one.get("assigner"), one["value"]) for one in identity(pid_3=told, **more)["identifiers"]
        ]

    assert numbers("1^^^CHU^PI") == [("ipp", f"{SOURCE}|CHU", "1")]
    assert numbers("1^^^^PI~2") == [("ipp", SOURCE, "1"), ("ipp", SOURCE, "2")]
    assert numbers("1^^^350000022^PI") == [("ipp", "350000022", "1")]
    assert numbers("1^^^CHU&350000022&M^PI") == [("ipp", "350000022", "1")]
    assert numbers("1^^^2A0000014^PI") == [("ipp", "2A0000014", "1")]
    assert numbers("1^^^350000021^PI") == [("ipp", f"{SOURCE}|350000021", "1")]  # another check digit: no FINESS number
    assert numbers("1^^^CHU&77&M^PI") == [("ipp", f"{SOURCE}|77", "1")]
    assert numbers("1^^^CHU&urn:oid:1.2.3&ISO^MR") == [("ipp", "1.2.3", "1")]
    assert numbers("1^^^A^PI~2^^^A^SS~3^^^A^VN~4^^^A^PPN") == [("ipp", f"{SOURCE}|A", "1")]
    ins = "285053523800148"
    assert numbers(f"{ins}^^^ASIP-SANTE-INS-NIR^INS") == [("ins-nir", None, ins)]
    assert numbers(f"{ins}^^^X&1.2.250.1.213.1.4.9&ISO^INS") == [("ins-nia", None, ins)]
    assert numbers(f"1~{ins}^^^X&1.2.250.1.213.1.4.8&ISO^NH")[1] == ("nir-opener", None, ins)


def test_made_up_people_are_fictitious() -> None:
    told = identity(pid_3="1~999999999999999^^^ASIP-SANTE-INS-NIR&1.2.250.1.213.1.4.10&ISO^INS")
    assert told["identity_status"] == "fictitious"
    test, shown = (f"9999999999999{key}^^^&1.2.250.1.213.1.4.1{at}&ISO^INS" for key, at in (("99", 0), ("98", 1)))
    assert identity(pid_3=f"1~{test}~{shown}") == identity(pid_3=f"1~{test}") | {
        "identifiers": [
            {"system": "ipp", "assigner": SOURCE, "value": "1"},
            {"system": "ins-nir", "value": "999999999999999"},
            {"system": "ins-nir", "value": "999999999999998"},
        ]
    }


@pytest.mark.parametrize(
    ("told", "with_ins", "without"),
    [
        ("VALI", "qualified", "validated"),
        ("PROV", "retrieved", "provisional"),
        ("VIDE", None, None),
        ("DOUB~VALI", "qualified", "validated"),
        ("VALI~USUR", "fictitious", "fictitious"),
        ("", None, None),
    ],
)
def test_reliability(told: str, with_ins: str | None, without: str | None) -> None:
    assert identity(pid_32=told).get("identity_status") == with_ins
    assert identity(pid_32=told, pid_3="1").get("identity_status") == without


def test_names() -> None:
    def names(told: str) -> tuple[Any, ...]:
        found = identity(pid_5=told)
        return tuple(found.get(name) for name in ("birth_family_name", "used_family_name", "given_names"))

    assert names("LE GOFF^ANNE") == ("LE GOFF", None, ["ANNE"])
    assert names("LE GOFF^ANNE^MARIE LOUISE^^^^L") == ("LE GOFF", None, ["ANNE", "MARIE", "LOUISE"])
    assert names("LE GOFF^ANNE MARIE^ANNE MARIE LOUISE^^^^L") == ("LE GOFF", None, ["ANNE MARIE", "LOUISE"])
    assert names("MARTIN^ANNE^^^^^L~LE GOFF^^^^^^M") == ("LE GOFF", "MARTIN", ["ANNE"])
    assert names("MARTIN^ANNE^^^^^D") == (None, "MARTIN", ["ANNE"])
    assert names("~LE GOFF^ANNE^^^^^L~") == ("LE GOFF", None, ["ANNE"])
    assert names("LE GOFF&&LE^ANNE^^^^^L~LE GOFF^^^^^^D") == ("LE GOFF", None, ["ANNE"])
    assert names("ALIAS^X^^^^^S") == (None, None, None)
    assert names(f"{'X' * 201}^ANNE^^^^^L") == (None, None, ["ANNE"])


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("19850512", "1985-05-12"),
        ("19850512000000", "1985-05-12"),
        ("198505", "1985-05"),
        ("1985", "1985"),
        ("19850500", "1985-05"),
        ("19850000", "1985"),
        ("19001231000000", "1900-12-31"),
        ('""', None),
        ("", None),
    ],
)
def test_birth_dates(told: str, kept: str | None) -> None:
    assert identity(pid_7=told).get("birth_date") == kept


def test_places() -> None:
    def places(told: str) -> tuple[Any, Any]:
        found = identity(pid_11=told)
        return found.get("birth_place"), found.get("residence")

    assert places("^^^^^^BDL^^80606") == ("80606", None)
    assert places("^^PORTO NUEVO^^99327^BEN^BDL^^99327~^^FORT DE FRANCE^^97200^FRA^H") == (
        "99327",
        {"city": "FORT DE FRANCE", "postcode": "97200"},
    )
    assert places("^^Rennes^^35000^FRA^BDL") == (None, None)
    assert places("1 rue X^^Brest^^29200^FRA^O~2 rue Y&rue Y&2^^Brest^^29200^FRA^H") == (
        None,
        {"address": "2 rue Y", "city": "Brest", "postcode": "29200"},
    )


def test_sexes() -> None:
    assert [identity(pid_8=told).get("sex") for told in ("F", "M", "O", "U", "", PLANTED)] == [
        "female",
        "male",
        "other",
        "unknown",
        None,
        None,
    ]


# --- encoding ---


def test_escapes() -> None:
    told = r"A\F\B\S\C\T\D\R\E\E\F^\X41\\X4E4E45\\Xzz\\H\\N\\.br\^^^^^L"
    found = identity(pid_5=told)
    assert (found["birth_family_name"], found["given_names"]) == (r"A|B^C&D~E\F", ["ANNE"])
    assert identity(pid_5=r"A\X00\B^C^^^^^L")["birth_family_name"] == "A B"
    assert identity(pid_5=r"A\XC389\\XE9\B\C^C^^^^^L")["birth_family_name"] == "AÉéB\\C"


def test_its_own_separators() -> None:
    table = bytes.maketrans(b"|^~\\&", b"#!*?%")
    assert events(A01.translate(table)) == events(A01)
    assert events(A01.replace(rb"MSH|^~\&|", rb"MSH|^~\&#|")) == events(A01)


@pytest.mark.parametrize("ending", [b"\r", b"\n", b"\r\n", b"\r\r\n"])
def test_line_ends(ending: bytes) -> None:
    assert events(A01.replace(b"\r", ending)) == events(A01)


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("UNICODE UTF-8", "utf-8"),
        ("", "utf-8"),
        ("", "iso8859-1"),
        ("8859/1", "iso8859-1"),
        ("8859/15", "iso8859-15"),
        ("8859/1~UNICODE UTF-8", "iso8859-1"),
    ],
)
def test_character_sets(declared: str, encoding: str) -> None:
    name = "HÉLÈNE" if encoding != "iso8859-15" else "HÉLÈNE ŒUVRAY"
    message = changed(changed(A31, "MSH", 18, declared), "PID", 5, f"{name}^ANNE^^^^^L")
    (patient,) = events(message.decode().encode(encoding))
    assert patient["data"]["identity"]["birth_family_name"] == name


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [("ASCII", "utf-8"), ("UNICODE UTF-8", "iso8859-1"), ("8859/1", "utf-8"), ("8859/1", "cp1252"), (PLANTED, "utf-8")],
)
def test_a_wrong_character_set_is_refused(declared: str, encoding: str) -> None:
    message = changed(changed(A31, "MSH", 18, declared), "PID", 5, "CŒUR HÉLÈNE ’^ANNE^^^^^L")
    if encoding == "iso8859-1":
        message = message.decode().replace("Œ", "É").replace("’", "").encode()
    (refusal,) = refusals(message.decode().encode(encoding))
    assert (refusal.reason, refusal.detail[:7]) == ("bad-encoding", "MSH-18:")


def test_what_is_not_read_may_be_in_any_encoding() -> None:
    assert events(A31 + b"OBX|1|ED|\xff\xfe\x80\r") == events(A31)


def test_times_without_an_offset_are_those_of_the_zone() -> None:
    def version(at: str, zone: str = "Europe/Paris") -> int:
        found: int = events(adt("A31", 1, at), zone=ZoneInfo(zone))[0]["version"]
        return found

    assert version("20260301100000") == version("20260301100000+0100") == version("20260301090000+0000")
    assert version("20260701100000") == version("20260701100000+0200") == version("20260701100000.1234")
    assert version("20260301100000", "America/Martinique") == version("20260301150000")
    assert version("20680118000000+0000") < 2**31
    with_clock = events(changed(A01, "PV1", 44, "20260701100000"))[1]["data"]["record"]["period"]
    assert with_clock == {"start": "2026-07-01T10:00:00+02:00"}


@pytest.mark.parametrize("told", ["20260301", "20260301+0100", "20260301-0400"])
def test_a_day_stays_that_day(told: str) -> None:
    begun = "2026-03-01T00:00:00+00:00"
    stay, diagnosis = events(changed(changed(A01, "PV1", 44, told), "DG1", 5, told))[1:]
    assert (stay["time"], stay["data"]["record"]["period"]["start"]) == (begun, "2026-03-01")
    assert (diagnosis["time"], diagnosis["data"]["record"]["onsetDateTime"]) == (begun, "2026-03-01")
    death = events(changed(changed(A31, "PID", 29, told), "PID", 30, "Y"))[1]
    assert (death["time"], death["data"]["record"]["date"]) == (begun, "2026-03-01")
    occurred = changed(changed(changed(A31, "EVN", 2, told), "EVN", 6, told), "MSH", 7, told)
    assert (events(occurred)[0]["time"], events(occurred)[0]["version"]) == (begun, 825_638_400)


def version(recorded: str, sent: str, zone: str = "Europe/Paris") -> int:
    message = changed(changed(changed(A31, "EVN", 2, recorded), "EVN", 6, ""), "MSH", 7, sent)
    found: int = events(message, zone=ZoneInfo(zone))[0]["version"]
    return found


def seconds(at: str) -> int:
    return version(at, at)


@pytest.mark.parametrize(
    ("recorded", "sent", "at"),
    [
        ("20261025023000", "20261025023001+0200", "20261025003000+0000"),
        ("20261025023000", "20261025023001+0100", "20261025013000+0000"),
        ("20261025023000", "20261025110000+0100", "20261025013000+0000"),
        ("20261025023000", "20261025023001", "20261025003000+0000"),  # it does not tell
        ("20261025023000", "20261027023001+0100", "20261025003000+0000"),  # nor two days later
        ("20261025013000", "20261025110000+0100", "20261024233000+0000"),  # there was but one
        ("20261025023000+0200", "20261025023001+0100", "20261025003000+0000"),
        ("20260329023000", "20260329033001+0200", "20260329013000+0000"),  # an hour that there was not
        ("20261025023000", "garbage", "20261025003000+0000"),
    ],
)
def test_the_header_tells_which_hour_of_autumn(recorded: str, sent: str, at: str) -> None:
    assert version(recorded, sent) == seconds(at)


@pytest.mark.parametrize(
    ("recorded", "sent", "at"),
    [
        ("20260301", "20260301101502+0100", "20260301101502+0100"),
        ("20260301", "20260301003000+0100", "20260301003000+0100"),
        ("202603011015", "20260301101502+0100", "20260301101502+0100"),
        ("202603011015", "20260301101602+0100", "20260301101559+0100"),
        ("20260301", "20260302020000+0100", "20260301235959+0100"),  # sent in the night
        ("20260301", "20260228020000+0100", "20260301000000+0100"),
        ("202603", "20260305020000+0100", "20260305020000+0100"),
        ("20260301101500", "20260301101502+0100", "20260301101500+0100"),
        ("20260301101500", "20260301", "20260301101500+0100"),
        ("20260301", "garbage", "20260301000000+0000"),
    ],
)
def test_the_header_tells_what_the_event_leaves_open(recorded: str, sent: str, at: str) -> None:
    assert version(recorded, sent) == seconds(at)


def test_the_time_of_the_header_stands_in() -> None:
    assert events(changed(A31, "EVN", 2, ""))[0]["version"] == events(A31)[0]["version"]
    (refusal,) = refusals(changed(changed(A31, "EVN", 2, ""), "MSH", 7, ""))
    assert (refusal.reason, refusal.detail[:6]) == ("missing-field", "EVN-2:")


# --- refusals ---


@pytest.mark.parametrize(
    ("message", "reason", "detail"),
    [
        (changed(A01, "PID", 7, f"12 {PLANTED}"), "bad-date", "PID-7: not a time"),
        (changed(A01, "PID", 7, "19850230"), "bad-date", "PID-7: not a day"),
        (changed(A01, "PID", 7, "17850230"), "bad-date", "PID-7: not "),
        (changed(A01, "PID", 7, "17850210"), "bad-date", "PID-7: not within 1850"),
        (changed(A01, "EVN", 2, "19991231"), "bad-date", "EVN-2: not within 2000 to 2067"),
        (changed(A01, "EVN", 2, "20690101"), "bad-date", "EVN-2: not within 2000 to 2067"),
        (changed(A01, "PID", 3, ""), "no-id", "PID-3: no local number"),
        (changed(A01, "PID", 3, "1" * 65), "bad-value", "PID-3: a number has more"),
        (changed(A01, "PID", 3, f"{PLANTED}^^^&1.2.250.1.213.1.4.8&ISO"), "bad-identifier", "PID-3: not a NIR"),
        (changed(A01, "PID", 3, "285053523800199^^^&1.2.250.1.213.1.4.8&ISO"), "bad-nir-key", "PID-3: the key"),
        (changed(A01, "PV1", 19, ""), "no-id", "PV1-19: the visit number is missing"),
        (changed(A01, "PV1", 2, PLANTED), "bad-value", "PV1-2: not a class"),
        (changed(A01, "PV1", 44, PLANTED), "bad-date", "PV1-44: not a time"),
        (changed(A01, "DG1", 5, PLANTED), "bad-date", "DG1-5: not a time"),
        (changed(A40, "MRG", 1, ""), "missing-field", "MRG-1: no local number"),
        (changed(A01, "MSH", 9, f"{PLANTED}^A01"), "message-not-taken", "MSH-9: not ADT"),
        (changed(A01, "MSH", 9, "ADT^A02"), "event-not-taken", "MSH-9: A02 is not taken: send A01,"),
        (changed(A01, "MSH", 9, f"ADT^{PLANTED}"), "event-not-taken", "MSH-9: not an event of table 0003"),
        (changed(A01, "MSH", 11, "D"), "not-for-production", "MSH-11: not P"),
        (A01.replace(b"\rPID", b"\rZID"), "missing-field", "PID: the segment is missing"),
        (A01 + A01[A01.index(b"PID") :], "malformed", "PID: the message has more than one"),
        (A01.replace(b"SH|^~\\&|", b"SH|^~|"), "not-hl7", "MSH: "),
        (A01.replace(b"SH|^~\\&|", b"SH|^^\\&|"), "not-hl7", "MSH: "),
        (A01.replace(b"ANNE", b"AN\0NE"), "nul-byte", "the event has a NUL"),
        (changed(A01, "DG1", 3, "A" * 33_000), "too-long", "PID, PV1 and DG1"),
        (A01 + b"OBX|" + b"A" * LONGEST, "too-long", "the message has more than"),
        (PLANTED.encode(), "not-hl7", "MSH: "),
        (b"", "not-hl7", "MSH: "),
    ],
)
def test_a_refusal_names_the_field_and_never_a_value(message: bytes, reason: str, detail: str) -> None:
    (refusal,) = refusals(message)
    assert refusal.reason == reason
    assert refusal.detail.startswith(detail)
    assert PLANTED not in str(refusal)


def test_what_is_refused_of_a_stay_leaves_the_identity() -> None:
    outcomes = events_of(changed(A01, "PV1", 19, ""), SOURCE)
    assert outcomes[0] == events(A01)[0]
    assert len(outcomes) == 2


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    events_of(data, SOURCE)
    events_of(b"MSH|^~\\&|" + data, SOURCE)
    events_of(A31 + data, SOURCE)


@settings(max_examples=300)
@given(st.sampled_from((A01, A03, A04, A08, A31, A40)), st.randoms(use_true_random=False), st.integers(1, 12))
def test_no_damage_raises(message: bytes, chance: random.Random, times: int) -> None:
    """Good messages with bytes changed, doubled and left out; what still is an event is one that can be judged."""
    data = bytearray(message)
    for _ in range(times):
        at, end = sorted(chance.randrange(len(data)) for _ in range(2))
        match chance.randrange(4):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                data[at:at] = chance.choice((b"|", b"^", b"~", b"&", b"\\", b"\r", b'""', b"\\X00\\", b"\xe9", b"00"))
            case 2:
                del data[at : min(end, at + 5)]
            case _:
                data[at:at] = data[at : min(end, at + 30)]
    for outcome in events_of(bytes(data), SOURCE):
        if isinstance(outcome, dict):
            Event.model_validate(outcome)


def test_the_parts_of_a_long_message_are_bounded() -> None:
    assert isinstance(events_of(changed(A01, "PID", 5, "^" * 32_000), SOURCE)[0], dict)


# --- order ---


def states_of(order: list[dict[str, Any]]) -> tuple[list[Verdict], State]:
    """The verdicts of linkage on the states of one record in this order of arrival, and the one that holds."""
    intake = new_intake()
    known: list[State] = []
    verdicts = []
    for offset, event in enumerate(order):
        digest = intake.ids.digest(event["type"], event["time"], event["version"], event["data"])
        revision = f"{event['version']:010}-{offset:020}"
        at = Coordinates(False, 0, offset)
        state = place(State(digest, revision, event["type"], False, event["correction"], at, b"s"), known)
        verdicts.append(judge(state, known))
        if verdicts[-1] in (Verdict.FIRST, Verdict.NEXT):
            known = accept(state, known)
    return verdicts, known[0]


LATE_A08 = adt("A08", 7, "20260308080000+0100", segment("PV1", PV1 | {4: "U"}))
REOPENED = adt("A13", 8, "20260307080000+0100", segment("PV1", PV1))


@pytest.mark.parametrize(
    ("told", "last"),
    [
        ((A01, A08, A03), A03),
        ((A01, A03, LATE_A08), A03),
        ((A01, A08, A03, LATE_A08), A03),
        ((A01, A03, changed(LATE_A08, "PV1", 45, "20260306")), changed(LATE_A08, "PV1", 45, "20260306")),
        ((A01, A03, REOPENED, LATE_A08), REOPENED),
    ],
)
def test_any_order_of_arrival_ends_in_the_last_state(told: tuple[bytes, ...], last: bytes) -> None:
    digests = set()
    for order in permutations(told):
        stays = [one for message in order for one in events(message) if one["type"] == "encounter.v1"]
        assert len({stay["id"] for stay in stays}) == 1
        verdicts, holding = states_of(stays)
        assert Verdict.CONFLICT not in verdicts
        digests.add(holding.digest)
    assert digests == {states_of([events(last)[1]])[1].digest}


def test_an_update_is_the_last_word_on_the_person() -> None:
    for order in permutations((A01, A03, changed(LATE_A08, "PID", 8, "M"))):
        holding = states_of([events(message)[0] for message in order])[1]
        assert holding.revision.startswith(f"{events(LATE_A08)[0]['version']:010}")


def test_a_message_that_is_sent_again_is_no_news() -> None:
    first = events(A01)[0]
    assert states_of([first, first])[0] == [Verdict.FIRST, Verdict.DUPLICATE]
    later = events(A31)[0]
    assert states_of([first, later, first])[0] == [Verdict.FIRST, Verdict.NEXT, Verdict.DUPLICATE]


def test_two_messages_of_one_second_do_not_contradict_each_other() -> None:
    one, other = events(A31)[0], events(changed(A31, "PID", 8, "M"))[0]
    assert one["version"] == other["version"]
    verdicts, holding = states_of([one, other])
    assert verdicts == [Verdict.FIRST, Verdict.NEXT]
    assert holding.digest == states_of([other])[1].digest


# --- files and HTTP ---


def test_the_messages_of_a_file() -> None:
    segments = [message.count(b"\r") for message in (A01, A03)]
    for ending in (b"\r", b"\n", b"\r\n"):
        batch = b"FHS|^~\\&|X\rBHS|^~\\&|X\r" + A01 + b"\r" + A03 + b"BTS|2\rFTS|1\r"
        found = list(messages(io.BytesIO(batch.replace(b"\r", ending))))
        assert [line for line, _ in found] == [3, 3 + segments[0] + 1]
        assert [events(message) for _, message in found] == [events(A01), events(A03)]
    framed = b"".join(b"\x0b" + message + b"\x1c\r" for message in (A01, A03))
    assert [events(message) for _, message in messages(io.BytesIO(framed))] == [events(A01), events(A03)]


def test_what_belongs_to_no_message_is_refused_once() -> None:
    found = list(read(io.BytesIO(b"\xef\xbb\xbfgarbage\r\nmore\r\n\r\n" + A31), "x.hl7", SOURCE))
    assert [(one.file, one.line) for one in found] == [("x.hl7", 1), ("x.hl7", 4)]
    assert isinstance(found[0].outcome, Refusal)
    assert found[1].outcome == events(A31)[0]


class _Endless(io.RawIOBase):
    """A file that is one line of many megabytes, then a message."""

    def __init__(self, size: int, end: bytes) -> None:
        self._left, self._end = size, io.BytesIO(end)

    def read(self, size: int = -1) -> bytes:
        part, self._left = b"A" * min(size, self._left), self._left - min(size, self._left)
        return part or self._end.read(size)


def test_a_file_is_read_in_bounded_memory() -> None:
    content_of: Any = _Endless(30 * LONGEST, b"\r" + A31)
    found = list(messages(content_of))
    assert [len(message) <= LONGEST + 1 for _, message in found] == [True, True]
    assert refusals(found[0][1])[0].reason == "too-long"
    assert events(found[1][1]) == events(A31)


@given(st.integers(1, 9), st.sampled_from((b"\r", b"\n", b"\r\n")))
def test_where_a_file_is_cut_into_chunks_changes_nothing(chunk: int, ending: bytes) -> None:
    whole = (A01 + A03).replace(b"\r", ending)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hl7v2, "_CHUNK", chunk)
        assert list(messages(io.BytesIO(whole))) == [(1, A01.strip()), (1 + A01.count(b"\r"), A03.strip())]


def test_messages_over_http(ingest: Ingest) -> None:
    response = ingest.post(A01 + changed(A08, "PID", 7, PLANTED) + A31, "application/hl7-v2", "/v1/hl7v2")
    assert response.status_code == 202, response.text
    receipt = response.json()
    assert [one["id"].partition("/")[0] for one in receipt["accepted"]] == [
        "Patient",
        "Encounter",
        "Condition",
        "Patient",
    ]
    assert [(one["index"], one["reason"]) for one in receipt["rejected"]] == [(1, "bad-date")]
    assert PLANTED not in response.text
    assert {one.headers[Headers.REVISION] for one in ingest.outbox.sent} == {b"825670800", b"826624800"}
    assert {emit.topic for emit in ingest.outbox.sent} == {"records-received"}
    block, kept = ingest.outbox.opened(0)
    assert (kept.demographics.commune if kept.demographics else None, block.correction) == ("35288", True)


def test_bodies_over_http(ingest: Ingest) -> None:
    def status(body: bytes, kind: str = "x-application/hl7-v2+er7; charset=utf-8", path: str = "/v1/hl7v2") -> int:
        return ingest.post(body, kind, path).status_code

    assert status(A31) == 202
    assert status(A31, path="/v1/hl7v2?lane=backfill") == 202
    assert ingest.outbox.sent[-1].topic == "records-received-backfill"
    assert LANES == ("live", "backfill")
    assert status(changed(A31, "MSH", 9, "ADT^A02")) == 422
    assert status(b"") == 422
    assert status(b"FHS|^~\\&|\rFTS|0\r") == 422
    assert status(A31, "text/plain") == 415
    nothing = ingest.post(adt("A31", 1, "20260401", pid=PID | {30: "Y"}), "application/hl7-v2", "/v1/hl7v2")
    assert nothing.json()["not_taken"] == {"death without its day": 1}


def test_no_more_is_read_of_a_body_than_a_request_may_have(ingest: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    read_so_far: list[int] = []
    threads: set[str] = set()

    def lines(content: io.BytesIO) -> Iterator[tuple[int, bytes]]:
        threads.add(threading.current_thread().name.partition("_")[0])
        for number, line in _lines(content):
            read_so_far.append(number)
            yield number, line

    _lines = hl7v2._lines
    monkeypatch.setattr(hl7v2, "_lines", lines)
    most = 1000
    response = ingest.post(b"MSH\r" * (most * 20), "application/hl7-v2", "/v1/hl7v2")
    assert (response.status_code, response.json()["title"]) == (413, "too many events")
    assert len(read_so_far) <= most + 2
    assert "intake" not in threads  # which others wait for


def test_every_event_is_kept_whole_by_the_intake() -> None:
    intake = new_intake()
    for message in (A01, A03, A04, A08, A31, A40):
        documents, passed_over = intake.messages([message], 0, SOURCE, hl7v2.PARIS)
        taken = intake.take(documents, SOURCE, "live", NOW)
        assert (taken.rejected, passed_over) == ([], {UNTOLD: 1} if message == A08 else {})
        assert [one.removed for one in taken.kept] == [0] * len(documents)


def test_a_header_is_read_from_what_begins_with_one() -> None:
    found = header(b"\x0b\r\n" + A01)
    assert found is not None
    assert (found.field(1), found.field(2), found.field(10)) == (b"|", b"^~\\&", b"MSG00001")
    assert (found.component(9, 2), found.component(9, 4), found.component(99)) == (b"A01", b"", b"")
    assert header(b"PID|" + A01) is None
