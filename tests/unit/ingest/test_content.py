"""What passes the allow-lists, and what does not."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from contracts.events import RECORD_TYPES
from services.ingest.domain import content
from services.ingest.domain.content import GRAMMARS, MAX_ITEMS, InvalidRecord, allowed, known, strip

from .samples import PLANTED, records, with_corners_filled, with_each_place_replaced, with_each_text_spoilt

pytestmark = pytest.mark.unit

WITH_RECORD = tuple(kind for kind in RECORD_TYPES if kind != "identity.v1")
SYSTEMS = yaml.safe_load((files("contracts") / "content" / "systems.yaml").read_text(encoding="utf-8"))
OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "8302-2"}]},
    "valueQuantity": {"value": 176.3, "system": "http://unitsofmeasure.org", "code": "cm"},
}


def observation(**fields: Any) -> dict[str, Any]:
    return copy.deepcopy(OBSERVATION) | fields


# --- the allow-lists themselves ---


def test_every_record_type_has_one_allow_list() -> None:
    names = {entry.name for entry in (files("contracts") / "content").iterdir() if entry.name.endswith(".yaml")}
    assert names == {f"{kind}.yaml" for kind in WITH_RECORD} | {"systems.yaml"}


@pytest.mark.parametrize("kind", WITH_RECORD)
def test_every_leaf_has_a_known_grammar(kind: str) -> None:
    leaves = allowed(kind)
    assert leaves
    assert {leaf.grammar for leaf in leaves} <= GRAMMARS.keys() | SYSTEMS["patterns"].keys() | {"code"}


@pytest.mark.parametrize("kind", WITH_RECORD)
def test_no_leaf_is_where_identities_live(kind: str) -> None:
    """Elements that hold text, names, numbers or references in FHIR R4 are in no allow-list."""
    never = {
        *("id", "text", "display", "reference", "identifier", "extension", "modifierExtension", "contained", "note"),
        *("comment", "conclusion", "valueString", "lotNumber", "photo", "telecom", "address", "name", "meta", "url"),
        *("subject", "patient", "encounter", "performer", "recorder", "asserter", "serviceProvider", "disposition"),
        *("patientInstruction", "presentedForm", "result", "version", "implicitRules", "dietPreference"),
    }
    for leaf in allowed(kind):
        assert never.isdisjoint(leaf.path.replace("[]", "").split(".")), leaf.path


def test_systems_say_what_they_are_and_how_their_codes_look() -> None:
    for url, system in SYSTEMS["systems"].items():
        assert system["about"], url
        assert system.keys() <= {"about", "pattern", "values", "check", "denied"}, url
        assert system.keys() & {"pattern", "values", "check"}, url
        assert all(isinstance(value, str) for value in system.get("values", ())), url


def test_no_pattern_takes_an_identity() -> None:
    texts = [value for value in PLANTED if isinstance(value, str) and value not in ("Anne", "MARTIN")]
    for name, told in (SYSTEMS["systems"] | SYSTEMS["patterns"]).items():
        for text in texts:
            assert "pattern" not in told or not re.fullmatch(told["pattern"], text), (name, text)


# --- codes and their check digits ---


@pytest.mark.parametrize(
    ("system", "good", "bad"),
    [
        ("http://loinc.org", ("8302-2", "85354-9", "LA33-6", "LA15920-4"), ("8302-3", "LA33-5", "LP123-4", "8302")),
        ("http://snomed.info/sct", ("40055000", "428191000124101", "8517006"), ("40055001", "123456789", "0")),
        (
            "http://hl7.org/fhir/sid/icd-10",
            ("I50.0", "I10", "C80.0", "I500", "J961+0", "J96.1+0"),
            ("I50.0 LE GOFF", "50", "i50.0"),
        ),
        (
            "http://data.esante.gouv.fr/ansm/medicament/UCD",
            ("3400892592190", "3400891990263", "9259219", "9261110", "9197694"),
            ("3400892592191", "1720729019042", "9259218", "9123456"),
        ),
        ("urn:oid:1.2.250.1.213.2.3.2", ("3400935163905",), ("3400935163906",)),
        ("http://www.whocc.no/atc", ("C03CA01", "N02"), ("C03CA1", "MARTIN")),
        ("http://standardterms.edqm.eu", ("20053000",), ("19720714",)),
        ("http://hl7.org/fhir/sid/ndc", (), ("0002-7510-01", "0612-3456-78")),
        ("http://www.cms.gov/Medicare/Coding/ICD10", (), ("DUPRE12", "0DTJ4ZZ")),
        ("http://www.nlm.nih.gov/research/umls/rxnorm", ("1594660",), ("19720714", "0612345")),
        ("http://data.esante.gouv.fr/ansm/medicament/codeSMS", ("100000092629",), ("100000881234", "172072901904")),
        ("urn:oid:1.2.250.1.213.2.59", ("MV00003245",), ("MV85053523", "MV06123456")),
        ("http://terminology.hl7.org/CodeSystem/condition-clinical", ("active",), ("LE GOFF", "Active")),
        ("http://chu.example/thesaurus", (), ("I50.0", "1")),
    ],
)
def test_codes(system: str, good: tuple[str, ...], bad: tuple[str, ...]) -> None:
    def kept(code: str) -> bool:
        return "bodySite" in strip("observation.v1", observation(bodySite=concept(system, code))).record

    assert [code for code in good if not kept(code)] == []
    assert [code for code in bad if kept(code)] == []


@pytest.mark.parametrize(
    ("code", "is_act"),
    [
        *[(code, True) for code in ("DEQP003", "1104", "1136581", "2203240", "2287916", "2243339")],
        *[(code, False) for code in ("0612345", "MARTIN", "72345", "12345678")],
    ],
)
def test_an_act_has_one_of_three_forms(code: str, is_act: bool) -> None:
    assert known("act", code) is is_act


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        *[
            (value, True)
            for value in (20_000_000, 45_000_000, 99_999_999, 20101000, 13131313, 1_072_015, 7.25, -2_000_000)
        ],
        *[(value, False) for value in (19720714, 14071972, 19720714.0, -19720714, 612345678)],
    ],
)
def test_a_quantity_is_no_date_of_birth(value: float, kept: bool) -> None:
    found = strip("observation.v1", observation(valueQuantity={"value": value, "unit": "/mL"})).record
    assert ("valueQuantity" in found) is kept


def concept(system: str, code: str) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code, "display": "x"}], "text": "x"}


@pytest.mark.parametrize(
    "unit",
    [
        "mm[Hg]",
        "kg/m2",
        "10*3/uL",
        "10^9/L",
        "mmol/L",
        "%",
        "{score}",
        "/min",
        "{beats}/min",
        "mL/min/{1.73_m2}",
        "[iU]/mL",
        "mg/(24.h)",
        "mL/min/(173.10*-2.m2)",
        "ug/mL{FEU}",
        "m[IU]/L",
        "Cel",
        "10*-6.mol",
        "L/s",
        "dB",
        "kPa",
        "a",
        "1",
    ],
)
def test_units(unit: str) -> None:
    quantity = {"value": 1, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}
    assert strip("observation.v1", observation(valueQuantity=quantity)).record["valueQuantity"] == quantity


@pytest.mark.parametrize(
    "unit",
    [
        "{Anne LE GOFF}",
        "{0612345678}",
        "0612345678",
        "172.072.901.904.286",
        "MARTIN",
        "µg",
        "mm Hg",
        "{legoff}/min",
        "",
        "/",
        "m1.m7.m2.m0.m7.m2.m9",
        "((m))",
        "kg{",
        "10*61234",
        "612.345.678",
        "mmHg",
    ],
)
def test_what_is_no_unit(unit: str) -> None:
    quantity = {"value": 1, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}
    assert strip("observation.v1", observation(valueQuantity=quantity)).record["valueQuantity"] == {"value": 1}


# --- values ---


@pytest.mark.parametrize(
    "value",
    ["2026", "2026-03", "2026-03-01", "2024-02-29", "2026-03-01T10:00:00Z", "2026-03-01T10:00:00.123+02:00"],
)
def test_dates(value: str) -> None:
    assert strip("observation.v1", observation(effectiveDateTime=value)).record["effectiveDateTime"] == value


@pytest.mark.parametrize("field", ["effectiveDateTime", "issued", "valueTime"])
def test_times_are_to_the_millisecond(field: str) -> None:
    day = "" if field == "valueTime" else "2026-03-01T"
    zone = "" if field == "valueTime" else "+02:00"
    record = observation(**{field: f"{day}10:00:00.612345678{zone}"})
    record.pop("valueQuantity")
    stripped = strip("observation.v1", record)
    assert (stripped.record[field], stripped.removed) == (f"{day}10:00:00.612{zone}", 0)
    assert strip("observation.v1", stripped.record) == stripped


@pytest.mark.parametrize(
    "value",
    [
        "2026-02-29",
        "2026-13",
        "2026-03-01T10:00:00",
        "2026-03T10:00:00Z",
        "26-03-01",
        "2026-03-01\n",
        "٢٠٢٦",
        "0612-03",
        "2026-03-01T25:00:00Z",
        "2026-03-01T10:00:00Z LE GOFF",
        20260301,
        None,
        True,
        ["2026"],
        "1172-07-29",
    ],
)
def test_what_is_no_date(value: Any) -> None:
    stripped = strip("observation.v1", observation(effectiveDateTime=value))
    assert "effectiveDateTime" not in stripped.record
    assert stripped.removed == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e8, -612345678, True, "12", None, 10**400])
def test_what_is_no_number(value: Any) -> None:
    assert "valueInteger" not in strip("observation.v1", observation(valueInteger=value)).record


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (2.85053523800148, 2.85053524),
        (-28505352.3800148, -28505352.4),
        (2.85053523800148e-7, 2.85053524e-7),
        (176.3, 176.3),
        (0.1 + 0.2, 0.3),
        (12345678, 12345678),
    ],
)
def test_numbers_have_nine_digits(value: float, kept: float) -> None:
    record = strip("observation.v1", observation(valueQuantity={"value": value})).record
    assert record["valueQuantity"] == {"value": kept}
    assert strip("observation.v1", record).record == record


def test_a_number_is_bounded_as_rounded() -> None:
    stripped = strip("observation.v1", observation(valueQuantity={"value": 99999999.99}, valueBoolean=True))
    assert "valueQuantity" not in stripped.record


def test_amounts_are_to_the_cent() -> None:
    record = {"care_date": "2026-03-02", "amount_paid": 112.41600000000001, "amount_reimbursed": -16.555}
    assert strip("claim.v1", record).record == {
        "care_date": "2026-03-02",
        "amount_paid": 112.42,
        "amount_reimbursed": -16.56,
    }


def test_a_quantity_keeps_a_unit_only_as_ucum() -> None:
    quantity = {"value": 5.2, "unit": "mmol par litre de M. LE GOFF", "system": "http://example.org", "code": "x"}
    stripped = strip("observation.v1", observation(valueQuantity=quantity))
    assert stripped.record["valueQuantity"] == {"value": 5.2}
    assert stripped.removed == 3


def test_codes_given_as_numbers_become_text() -> None:
    stripped = strip("claim.v1", {"care_date": "2026-03-02", "nature": 1111, "specialty": 1})
    assert stripped.record == {"care_date": "2026-03-02", "nature": "1111", "specialty": "1"}


# --- records ---


@pytest.mark.parametrize(("kind", "record"), records(), ids=lambda value: value if isinstance(value, str) else "")
def test_samples_pass_and_stripping_again_changes_nothing(kind: str, record: dict[str, Any]) -> None:
    before = copy.deepcopy(record)
    once = strip(kind, record)
    assert record == before
    assert strip(kind, once.record) == (once.record, 0, ())


def test_hub_records_pass_whole() -> None:
    for kind, record in records():
        if "resourceType" not in record:
            assert strip(kind, record) == (record, 0, ())


@pytest.mark.parametrize(
    ("kind", "change", "path"),
    [
        ("observation.v1", {"code": concept("http://chu.example", "LE GOFF")}, "code"),
        ("observation.v1", {"status": "LE GOFF"}, "status"),
        ("observation.v1", {"resourceType": "Patient"}, "resourceType"),
        ("observation.v1", {"resourceType": None}, "resourceType"),
        ("observation.v1", {"resourceType": ["Observation"]}, "resourceType"),
        ("observation.v1", {"component": [{}] * (MAX_ITEMS + 1)}, "component[]"),
        ("identity.v1", {}, "type"),
        ("hub-secret.v1", {}, "type"),
    ],
)
def test_refusals_name_the_place_and_no_value(kind: str, change: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidRecord) as refused:
        strip(kind, observation(**change))
    assert refused.value.path == path
    assert "LE GOFF" not in str(refused.value)


def test_a_required_leaf_of_a_hub_record() -> None:
    with pytest.raises(InvalidRecord) as refused:
        strip("dispensation.v1", {"date": "2026-03-03", "cip13": "3400935163906"})
    assert refused.value.path == "cip13"
    with pytest.raises(InvalidRecord, match="entry: expected at least one of entry, exit"):
        strip("hospital-stay.v1", {"entry": "01/03/2026"})


def test_a_record_of_nothing_but_its_status_is_refused() -> None:
    with pytest.raises(InvalidRecord) as refused:
        strip("claim.v1", {"resourceType": "Claim", "status": "active", "use": "claim", "insurer": {"display": "x"}})
    assert refused.value.path == "record"


@pytest.mark.parametrize("code", SYSTEMS["systems"]["http://loinc.org"]["denied"])
def test_a_code_whose_value_is_an_identity_is_denied(code: str) -> None:
    stated = {"code": concept("http://loinc.org", code), "valueDateTime": "1985-05-12"}
    assert re.fullmatch(SYSTEMS["systems"]["http://loinc.org"]["pattern"], code)
    assert content._loinc(code)
    with pytest.raises(InvalidRecord, match="code"):
        strip("observation.v1", observation(**stated))
    kept = strip("observation.v1", observation(component=[stated])).record
    assert "1985" not in json.dumps(kept)


def test_an_item_without_its_required_leaf_goes_alone() -> None:
    good = {"code": concept("http://loinc.org", "8480-6"), "valueQuantity": {"value": 148}}
    bad = {"code": concept("http://chu.example", "PAS"), "valueQuantity": {"value": 92}}
    stripped = strip("observation.v1", observation(component=[good, bad]))
    assert [one["valueQuantity"]["value"] for one in stripped.record["component"]] == [148]
    assert stripped.removed == 2 + 5


def test_of_a_choice_the_first_stays() -> None:
    stripped = strip("observation.v1", observation(valueBoolean=True))
    assert "valueBoolean" not in stripped.record
    assert stripped.removed == 1


def test_deep_and_cyclic_values_end() -> None:
    deep: Any = "x"
    for _ in range(10_000):
        deep = [deep]
    cyclic: dict[str, Any] = {}
    cyclic["again"] = [cyclic, cyclic]
    assert strip("observation.v1", observation(extension=deep, component=deep)).removed == 2
    assert strip("observation.v1", observation(extension=cyclic)).record == OBSERVATION


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(PLANTED[:18])
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
)
NAMES = sorted(
    {part.removesuffix("[]") for kind in WITH_RECORD for leaf in allowed(kind) for part in leaf.path.split(".")}
)
FHIR_LIKE = st.recursive(
    SCALARS | st.sampled_from(("final", "active", "8302-2", "http://loinc.org", "mm[Hg]", "2026-03-01")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*NAMES, "coding", "system", "code", "value", "unit", "extension"]), inner, max_size=5
        )
    ),
    max_leaves=30,
)


# --- identities ---


@pytest.mark.parametrize(("kind", "record"), records(), ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("planted", PLANTED, ids=str)
def test_planted_identities_do_not_survive(kind: str, record: dict[str, Any], planted: Any) -> None:
    variants = [*with_each_place_replaced(record, planted), with_corners_filled(record, planted)]
    for variant in variants:
        try:
            kept = strip(kind, variant).record
        except InvalidRecord as refused:
            assert not told(planted, str(refused))
        else:
            assert not told(planted, json.dumps(kept, ensure_ascii=False))
            assert places(kept) <= open_places(kind)
    corners = strip(kind, with_corners_filled(record, planted))
    assert corners.record == strip(kind, record).record


def test_every_form_has_a_sample() -> None:
    sampled = {(kind, record.get("resourceType", "hub")) for kind, record in records()}
    assert sampled == {(kind, leaf.form) for kind in WITH_RECORD for leaf in allowed(kind)}


@pytest.mark.parametrize(("kind", "record"), records(), ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("planted", ["LEGOFF", "legoff", "0612345678", "1720729019042", "19720714"])
def test_identities_hidden_in_codes_units_and_systems_do_not_survive(
    kind: str, record: dict[str, Any], planted: str
) -> None:
    for variant in with_each_text_spoilt(record, planted):
        try:
            kept = strip(kind, variant).record
        except InvalidRecord as refused:
            assert planted not in str(refused)
        else:
            assert planted not in json.dumps(kept)


IDENTITIES = st.sampled_from(["LE GOFF", "legoff", "0612345678", "172072901904286", "yves.legoff@example.org"])
ANYWHERE = st.recursive(
    IDENTITIES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*NAMES, "coding", "system", "code", "value", "unit", "id", "extension", "valueString", "display"]
            )
            | st.sampled_from(NAMES).map("_{}".format)
            | IDENTITIES,
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(
    sample=st.sampled_from(records()),
    changes=st.dictionaries(
        st.sampled_from(NAMES) | st.sampled_from(NAMES).map("_{}".format) | IDENTITIES, ANYWHERE, max_size=6
    ),
)
def test_identities_in_any_element_of_any_shape_do_not_survive(
    sample: tuple[str, dict[str, Any]], changes: dict[str, Any]
) -> None:
    kind, record = sample
    try:
        kept = json.dumps(strip(kind, record | changes).record)
    except InvalidRecord as refused:
        kept = str(refused)
    for planted in ("GOFF", "goff", "0612345678", "172072901904286", "@"):
        assert planted not in kept


def told(planted: Any, text: str) -> bool:
    words = planted.values() if isinstance(planted, dict) else planted if isinstance(planted, list) else [planted]
    return any(f'"{word}"' in text or (len(str(word)) > 5 and str(word) in text) for word in words)


def places(value: Any, path: str = "") -> set[str]:
    """The paths of a stripped record's scalars, in the allow-list's words."""
    if isinstance(value, dict):
        return {place for name, inner in value.items() for place in places(inner, f"{path}.{name}" if path else name)}
    if isinstance(value, list):
        return {place for inner in value for place in places(inner, path + "[]")}
    return {path}


def open_places(kind: str) -> set[str]:
    parts = {
        "coding": ("system", "code"),
        "quantity": ("value", "comparator", "unit", "system", "code"),
        "money": ("value", "currency"),
    }

    def spread() -> Iterator[str]:
        for leaf in allowed(kind):
            yield from (f"{leaf.path}.{part}" for part in parts.get(leaf.grammar, ()))
            if leaf.grammar not in parts:
                yield leaf.path

    return set(spread())


# --- arbitrary input ---


@given(kind=st.sampled_from(WITH_RECORD), record=st.dictionaries(st.text(max_size=12), JSON, max_size=5))
def test_arbitrary_json_is_refused_or_stripped(kind: str, record: dict[str, Any]) -> None:
    check(kind, record)


@given(
    sample=st.sampled_from(records()),
    changes=st.dictionaries(st.sampled_from(NAMES), FHIR_LIKE, max_size=6),
)
def test_records_with_arbitrary_elements_are_refused_or_stripped(
    sample: tuple[str, dict[str, Any]], changes: dict[str, Any]
) -> None:
    kind, record = sample
    check(kind, record | changes)


def check(kind: str, record: dict[str, Any]) -> None:
    try:
        stripped = strip(kind, record)
    except InvalidRecord as refused:
        words = {part for leaf in allowed(kind) for part in leaf.path.split(".")}
        assert set(refused.path.split(".")) <= words | {part + "[]" for part in words} | {"record", "resourceType"}
        return
    assert places(stripped.record) <= open_places(kind)
    assert stripped.removed >= 0
    assert strip(kind, stripped.record).record == stripped.record


def test_a_misspelt_allow_list_does_not_compile() -> None:
    shapes: dict[str, Any] = {"endless": {"again": "endless"}}
    for fields in (
        {"code": "free-text"},
        {"code": {"is": "coding", "requierd": True}},
        {"code": "coding", "one_of": [["cod"]]},
        {"again": "endless"},
        {"code": {"is": "code", "values": [1]}},
    ):
        with pytest.raises(ValueError):
            content._form("hub", fields, shapes)


@pytest.mark.parametrize(
    ("kind", "change", "invalid"),
    [
        ("hospital-stay.v1", {"principal_diagnosis": "no code"}, ("principal_diagnosis",)),
        ("hospital-stay.v1", {"associated_diagnoses": ["Z602", "no code"]}, ("associated_diagnoses",)),
        ("hospital-stay.v1", {"units": [{"code": "01", "entry": "2026-02-30"}]}, ("units",)),
        ("hospital-stay.v1", {"principal_diagnosis": None, "surname": "LE GOFF"}, ()),
        (
            "observation.v1",
            {"valueQuantity": {"value": 1, "system": "http://unitsofmeasure.org", "code": "no unit"}},
            ("valueQuantity",),
        ),
        ("observation.v1", {"valueQuantity": {"value": 1, "unit": "beats per minute"}}, ()),
        ("observation.v1", {"valueQuantity": {"value": 1, "system": "urn:local", "code": "x"}}, ()),
        ("observation.v1", {"bodySite": {"coding": [{"system": "urn:local", "code": "x"}]}}, ("bodySite",)),
        ("observation.v1", {"effectiveDateTime": "yesterday"}, ("effectiveDateTime",)),
    ],
)
def test_fields_with_a_value_outside_of_their_grammar_are_named(
    kind: str, change: dict[str, Any], invalid: tuple[str, ...]
) -> None:
    stay = {"entry": "2026-03-01", "exit": "2026-03-04"}
    record = {**(OBSERVATION if kind == "observation.v1" else stay), **change}
    assert strip(kind, record).invalid == invalid


def test_a_coding_of_another_system_beside_one_that_is_taken_is_not_invalid() -> None:
    local = {"system": "urn:local", "code": "x"}
    code = {"coding": [*OBSERVATION["code"]["coding"], local]}
    stripped = strip("observation.v1", observation(code=code, category=[{"coding": [local]}, code]))
    assert stripped.invalid == ()
    assert stripped.removed > 0
    wrong = {"coding": [*OBSERVATION["code"]["coding"], {"system": "http://loinc.org", "code": "0-0"}]}
    assert strip("observation.v1", observation(code=wrong)).invalid == ("code",)
