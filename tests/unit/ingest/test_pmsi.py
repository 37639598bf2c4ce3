"""PMSI MCO: what stands in the lines is what is kept, and what cannot be read harms no other stay."""

from __future__ import annotations

import datetime as dt
import io
import random
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from contracts.events import Event
from estuaire.generate import pmsi as generate
from services.ingest.domain import content, identity
from services.ingest.domain.refusals import Refusal, Refused
from services.ingest.files import File, join
from services.ingest.formats.fixed_width import tables
from services.ingest.formats.pmsi import values
from services.ingest.formats.pmsi.mco import PmsiMco
from services.ingest.formats.reading import Line, Piece, Read
from tests.unit.ingest.pmsi_lines import (
    ACT,
    ANO,
    CHILD_RUM,
    CHILD_VID_HOSP,
    FINESS,
    INSURED,
    KEY,
    PSEUDONYM,
    RSA,
    RUM,
    VID_HOSP,
    changed,
)

FORM = PmsiMco()
SECRETS = (INSURED, "12051985", "25000777", "8812", "0000042", "MEDECIN", PSEUDONYM, "1985-05-12")
"""What no sentence may repeat."""


def read(**parts: bytes | list[bytes]) -> list[Read]:
    """The records of one file of each part; `vid_hosp` is vid-hosp."""
    told = {name.replace("_", "-"): body if isinstance(body, list) else [body] for name, body in parts.items()}
    files = [File(part, part, io.BytesIO(b"\r\n".join(lines))) for part, lines in told.items()]
    return list(join(FORM, files, "urn:x"))


def events(found: list[Read]) -> list[dict[str, Any]]:
    return [one.outcome for one in found if isinstance(one.outcome, dict)]


def refusals(found: list[Read]) -> list[Refusal]:
    return [one.outcome for one in found if isinstance(one.outcome, Refusal)]


def one_event(**parts: bytes | list[bytes]) -> dict[str, Any]:
    (found,) = read(**parts)
    assert isinstance(found.outcome, dict), found
    return found.outcome


def one_refusal(**parts: bytes | list[bytes]) -> Refusal:
    (found,) = read(**parts)
    assert isinstance(found.outcome, Refusal), found
    assert not any(secret in found.outcome.detail for secret in SECRETS)
    return found.outcome


def as_kept(event: dict[str, Any]) -> Event:
    """The event as the edge takes it, and whose record loses nothing there."""
    taken = Event.model_validate(event)
    assert taken.data.record
    stripped = content.strip(taken.record_type, taken.data.record)
    assert (stripped.record, stripped.removed) == (taken.data.record, 0)
    return taken


# --- RSS and VID-HOSP ---


def test_a_stay_of_one_unit_is_what_its_lines_say() -> None:
    event = one_event(rss=RUM, vid_hosp=VID_HOSP)
    as_kept(event)
    assert event == {
        "specversion": "1.0",
        "id": f"rss:{FINESS}:25000777:0000042",
        "source": "urn:x",
        "type": "hospital-stay.v1",
        "time": "2025-02-24T00:00:00Z",
        "correction": True,
        "data": {
            "identity": {
                "identifiers": [
                    {"system": "nir-opener", "value": INSURED, "rank": 1},
                    {"system": "ipp", "value": "8812", "assigner": FINESS},
                ],
                "sex": "female",
                "birth_date": "1985-05-12",
                "residence": {"postcode": "35400"},
            },
            "record": {
                "entry": "2025-02-24",
                "exit": "2025-03-01",
                "entry_mode": "8",
                "exit_mode": "8",
                "emergency": "5",
                "principal_diagnosis": "I500",
                "related_diagnosis": "I10",
                "associated_diagnoses": ["E119", "J961+0"],
                "documentary_codes": ["Z8671"],
                "acts": [{"code": "DEQP003-01", "activity": "1", "phase": "0", "count": 2, "date": "2025-02-25"}],
                "units": [{"bed": "08", "entry": "2025-02-24", "exit": "2025-03-01", "igs2": 34}],
                "ghm": "05M092",
                "ghm_version": 11,
                "finess": FINESS,
            },
        },
    }


def other_formats() -> Iterator[tuple[str, bytes]]:
    new = changed(RUM[:192], (10, "123"), (25, "023")) + b" " * 13 + RUM[192:-29] + ACT + b"021"
    yield "123", new
    yield "022", RUM[15:]
    yield "023", new[15:]


@pytest.mark.parametrize(("version", "rum"), list(other_formats()))
def test_other_formats_of_one_stay_say_the_same(version: str, rum: bytes) -> None:
    grouped, other = one_event(rss=RUM), one_event(rss=rum)
    if version.startswith("0"):
        del grouped["data"]["record"]["ghm"], grouped["data"]["record"]["ghm_version"]
    assert other == grouped


@pytest.mark.parametrize("version, tail", [("V014", b""), ("V015", b""), ("V016", b"0"), ("V016", b"00")])
def test_the_number_is_read_in_every_version_of_vid_hosp(version: str, tail: bytes) -> None:
    event = one_event(rss=RUM, vid_hosp=changed(VID_HOSP, (49, version)) + tail)
    assert event["data"]["identity"]["identifiers"][0]["value"] == INSURED


@pytest.mark.parametrize(("version", "size"), [("V014", 47), ("V015", 50)])
def test_disciplines_follow_a_vid_hosp_line(version: str, size: int) -> None:
    two = changed(VID_HOSP, (49, version), (467, "02"))
    assert events(read(rss=RUM, vid_hosp=two + b"1" * size * 2)) == [one_event(rss=RUM, vid_hosp=VID_HOSP)]
    found = refusals(read(rss=RUM, vid_hosp=two + b"1" * (size * 2 - 1)))
    assert [one.reason for one in found] == ["line-length"]
    assert f"should have {468 + 2 * size} characters" in found[0].detail


def three_units() -> list[bytes]:
    first = changed(RUM, (103, "26022025"), (111, "6"), (112, "1"))
    second = changed(RUM, (68, "0002"), (93, "26022025"), (101, "6"), (102, "1"), (103, "26022025"), (111, "6"))
    second = changed(second, (112, "1"), (141, "J189"), (149, "   "), (193, "I10     I10     "))
    third = changed(RUM, (68, "0003"), (93, "26022025"), (101, "6"), (102, "1"), (157, "000"))
    return [first, second, third]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_shuffled_units_are_one_stay(order: tuple[int, ...]) -> None:
    units = three_units()
    event = one_event(rss=[units[one] for one in order], vid_hosp=VID_HOSP)
    as_kept(event)
    record = event["data"]["record"]
    assert (record["entry"], record["exit"]) == ("2025-02-24", "2025-03-01")
    assert (record["entry_mode"], record["exit_mode"]) == ("8", "8")
    assert "principal_diagnosis" not in record  # they differ, and the grouping function chooses
    assert record["associated_diagnoses"] == ["I500", "I10", "E119", "J961+0", "J189"]
    assert len(record["acts"]) == 3
    assert [one["entry"] for one in record["units"]] == ["2025-02-24", "2025-02-26", "2025-02-26"]
    assert [one["principal_diagnosis"] for one in record["units"]] == ["I500", "J189", "I500"]
    assert record["units"][1]["associated_diagnoses"] == ["I10", "I10"]
    assert [one.get("igs2") for one in record["units"]] == [34, 34, None]


@pytest.mark.parametrize(
    ("left_out", "reason"), [(0, "incomplete-stay"), (1, None), (2, "incomplete-stay")], ids=["first", "middle", "last"]
)
def test_a_stay_whose_first_or_last_unit_is_missing_is_refused(left_out: int, reason: str | None) -> None:
    units = three_units()  # the middle one came and went on one day: nothing says that it is missing
    del units[left_out]
    found = read(rss=units)
    assert [one.reason for one in refusals(found)] == ([reason] if reason else [])


def test_a_gap_between_units_is_refused() -> None:
    first, _, third = three_units()
    refusal = one_refusal(rss=[first, changed(third, (93, "27022025"))])
    assert refusal.reason == "broken-sequence"
    assert "line 2: the entry into the unit (positions 93-100) is not the exit of the RUM before it" in refusal.detail


def test_a_stay_that_is_suspended_for_another_hospital_resumes_later() -> None:
    first = changed(RUM, (103, "26022025"), (111, "0"), (112, "1"))
    again = changed(RUM, (68, "0002"), (93, "27022025"), (101, "0"), (102, "1"))
    assert len(one_event(rss=[first, again])["data"]["record"]["units"]) == 2


def test_files_of_cumulative_transmissions_overlap() -> None:
    first, second, third = three_units()
    assert one_event(rss=[first, second, first, third, second]) == one_event(rss=[first, second, third])
    refusal = one_refusal(rss=[first, changed(first, (141, "J189")), second, third])
    assert refusal.reason == "second-line"


def test_one_administrative_number_may_have_several_rss() -> None:
    session = changed(RUM, (28, "0000099"), (93, "03032025"), (103, "03032025"), (132, "01"))
    found = events(read(rss=[RUM, session], vid_hosp=VID_HOSP))
    assert [one["id"][-7:] for one in found] == ["0000042", "0000099"]
    assert found[0]["data"]["identity"] == found[1]["data"]["identity"]
    assert found[1]["data"]["record"]["sessions"] == 1


def test_a_mother_and_her_newborn_on_one_number_stay_two() -> None:
    found = events(read(rss=[RUM, CHILD_RUM], vid_hosp=[CHILD_VID_HOSP, VID_HOSP]))
    people = [identity.normalise(as_kept(one).data.identity) for one in found]
    openers = [number.value for person in people for number in person.numbers if number.namespace == "nir-opener"]
    assert [one.split("\0")[0] for one in openers] == [INSURED, INSURED]
    assert len(set(openers)) == 2
    assert found[1]["data"]["record"]["weight"] == 3210


def test_a_stay_without_vid_hosp_is_taken_by_what_it_has() -> None:
    told = one_event(rss=RUM)["data"]["identity"]
    assert told == {"sex": "female", "birth_date": "1985-05-12", "residence": {"postcode": "35400"}}


def test_a_vid_hosp_line_without_its_stay_is_refused() -> None:
    found = read(rss=RUM, vid_hosp=[VID_HOSP, changed(VID_HOSP, (29, "25000999"))])
    assert [(one.file, one.line, one.outcome.reason) for one in found if isinstance(one.outcome, Refusal)] == [
        ("vid-hosp", 2, "no-stay")
    ]
    assert len(events(found)) == 1


def test_a_residence_abroad_is_no_postcode() -> None:
    assert "residence" not in one_event(rss=changed(RUM, (113, "99109")))["data"]["identity"]


@pytest.mark.parametrize(
    ("change", "numbers"),
    [
        ([(1, "X" * 13), (14, "XX")], ["ipp"]),
        ([(1, "X" * 13), (14, "XX"), (354, "X" * 20)], []),
        ([(354, " " * 20)], ["nir-opener"]),
        ([(374, INSURED + KEY)], ["ins-nir", "nir-opener", "ipp"]),
        ([(62, INSURED + KEY)], ["ins-nir", "nir-opener", "ipp"]),
        ([(62, INSURED + "  ")], ["ins-nir", "nir-opener", "ipp"]),
        *(([(62, first + INSURED[1:])], ["ins-nia", "nir-opener", "ipp"]) for first in "3478"),
        *(([(374, first + INSURED[1:])], ["ins-nia", "nir-opener", "ipp"]) for first in "3478"),
        ([(62, "X" * 15), (374, " " * 15)], ["nir-opener", "ipp"]),
    ],
)
def test_numbers_that_stand_for_none_are_none(change: list[tuple[int, str]], numbers: list[str]) -> None:
    event = one_event(rss=RUM, vid_hosp=changed(VID_HOSP, *change))
    assert [one["system"] for one in event["data"]["identity"].get("identifiers", [])] == numbers
    assert "identity_status" not in event["data"]["identity"]


def test_without_a_birth_rank_the_insured_number_has_none() -> None:
    told = one_event(rss=RUM, vid_hosp=changed(VID_HOSP, (190, " ")))["data"]["identity"]["identifiers"]
    assert told[0] == {"system": "nir-opener", "value": INSURED}


@pytest.mark.parametrize(
    ("change", "reason", "named"),
    [
        ((14, "47"), "bad-nir-key", "the key of the insured person's number (positions 14-15)"),
        ((1, "28505AB"), "bad-identifier", "the insured person's number (positions 1-13)"),
        ((374, "285053523800147"), "bad-nir-key", "the national health identity (positions 374-388)"),
        ((62, "28505AB"), "bad-identifier", "the individual number (positions 62-74)"),
        ((20, "31021985"), "bad-date", "the birth date (positions 20-27)"),
        ((20, "13051985"), "identities-disagree", "the birth date (positions 20-27)"),
        ((28, "1"), "identities-disagree", "the sex (position 28)"),
        ((49, "V013"), "format-version", "the version of the format (positions 49-52)"),
    ],
)
def test_a_bad_vid_hosp_line_is_refused_and_its_stay_taken(change: tuple[int, str], reason: str, named: str) -> None:
    found = read(rss=RUM, vid_hosp=changed(VID_HOSP, change))
    assert "identifiers" not in events(found)[0]["data"]["identity"]
    (refusal,) = refusals(found)
    assert refusal.reason == reason
    assert named in refusal.detail
    assert not any(secret in refusal.detail for secret in SECRETS)


def test_of_two_vid_hosp_lines_that_differ_the_first_counts() -> None:
    found = read(rss=RUM, vid_hosp=[VID_HOSP, changed(VID_HOSP, (354, "9999")), VID_HOSP])
    assert events(found) == [one_event(rss=RUM, vid_hosp=VID_HOSP)]
    assert [one.reason for one in refusals(found)] == ["second-line"]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_physicians_accents_move_nothing(encoding: str) -> None:
    named = VID_HOSP.decode().replace("MEDECIN", "MÉDECIN").encode(encoding)
    assert one_event(rss=RUM, vid_hosp=named) == one_event(rss=RUM, vid_hosp=VID_HOSP)


def test_a_byte_order_mark_and_spaces_after_the_end_are_nothing() -> None:
    assert one_event(rss=b"\xef\xbb\xbf" + RUM + b"  ") == one_event(rss=RUM)


def test_a_documentary_code_of_another_classification_is_dropped_and_counted() -> None:
    stay = one_event(rss=changed(RUM, (209, "8140/3")))
    kept = content.strip("hospital-stay.v1", stay["data"]["record"])
    assert (kept.removed, kept.invalid) == (1, ("documentary_codes",))
    assert kept.record == {name: value for name, value in stay["data"]["record"].items() if name != "documentary_codes"}


def test_what_may_be_read_is_what_may_be_kept() -> None:
    shapes = yaml.safe_load((files("contracts") / "content" / "hospital-stay.v1.yaml").read_text("utf-8"))["shapes"]
    assert set(shapes["exit-mode"]["values"]) == values.EXIT_MODES
    assert set(shapes["entry-mode"]["values"]) == values.ENTRY_MODES
    assert set(shapes["field-of-care"]["values"]) == values.FIELDS_OF_CARE


def test_a_long_stay_has_all_its_acts() -> None:
    rum = changed(RUM[:216], (138, "900")) + ACT * 900
    first = changed(rum, (103, "26022025"), (111, "6"), (112, "1"))
    second = changed(rum, (68, "0002"), (93, "26022025"), (101, "6"), (102, "1"))
    event = one_event(rss=[first, second])
    as_kept(event)
    assert len(event["data"]["record"]["acts"]) == 1800


BAD_RUMS = {
    "a format of another year": (changed(RUM, (10, "121")), "format-version", "(positions 10-12)"),
    "cut within the acts": (RUM[:-1], "line-length", "it ends at 244: it should have 245 characters"),
    "cut within the fixed part": (RUM[:150], "line-length", "line 2: it ends at 150: it should have 192 characters"),
    "cut within the number": (RUM[:60], "line-length", "the administrative number of the stay (positions 48-67)"),
    "something after the end": (RUM + b"x", "line-length", "it ends at 246: it should have 245 characters"),
    "more acts announced": (changed(RUM, (138, "003")), "line-length", "3 as the number of acts (positions 138-140)"),
    "no number of acts": (changed(RUM, (138, "0a1")), "bad-number", "the number of acts (positions 138-140)"),
    "no such day": (changed(RUM, (93, "30022025")), "bad-date", "the entry into the unit (positions 93-100)"),
    "no date": (changed(RUM, (103, " " * 8)), "bad-date", "the exit from the unit (positions 103-110)"),
    "an exit before the entry": (changed(RUM, (103, "23022025")), "bad-date", "is before the entry"),
    "a birth after the entry": (changed(RUM, (78, "25022025")), "bad-date", "the birth date (positions 78-85)"),
    "a year that is none": (changed(RUM, (78, "12050985")), "bad-date", "the birth date (positions 78-85)"),
    "an unknown sex": (changed(RUM, (86, "4")), "unknown-code", "the sex (position 86) is not one of 1, 2, 3"),
    "an unknown mode": (changed(RUM, (101, "Z")), "unknown-code", "the mode of entry (position 101)"),
    "an unknown destination": (changed(RUM, (112, "9")), "unknown-code", "the destination (position 112)"),
    "an unknown diagnosis": (
        changed(RUM, (141, "50I0")),
        "unknown-code",
        "the principal diagnosis (positions 141-148)",
    ),
    "no diagnosis": (changed(RUM, (141, " " * 8)), "missing-field", "the principal diagnosis (positions 141-148)"),
    "an unknown associated one": (
        changed(RUM, (201, "961+0 ")),
        "unknown-code",
        "the associated diagnosis (positions 201-208) is not a CIM-10 code",
    ),
    "an unknown act": (changed(RUM, (225, "D3Q")), "unknown-code", "the CCAM code (positions 225-231)"),
    "an act on no day": (changed(RUM, (217, "31112025")), "bad-date", "the date of the act (positions 217-224)"),
    "an unknown activity": (changed(RUM, (236, "9")), "unknown-code", "the activity (position 236)"),
    "an unknown GHM": (changed(RUM, (3, "05X092")), "unknown-code", "the GHM (positions 3-8)"),
    "no number of the stay": (changed(RUM, (48, " " * 20)), "missing-field", "(positions 48-67) is blank"),
    "a FINESS with another check digit": (changed(RUM, (16, "350000023")), "bad-finess", "(positions 16-24)"),
    "another FINESS": (changed(RUM, (16, "35000002X")), "bad-finess", "(positions 16-24)"),
    "a number in Latin-1": (RUM.replace(b"25000777", b"2500077\xe9"), "bad-characters", "(positions 48-67)"),
    "all bytes": (bytes(range(14, 256)), "format-version", "(positions 10-12)"),
}


@pytest.mark.parametrize("name", BAD_RUMS)
def test_a_bad_rum_is_refused_by_line_and_field_and_the_rest_goes_on(name: str) -> None:
    bad, reason, named = BAD_RUMS[name]
    found = read(rss=[CHILD_RUM, bad])
    assert [one["id"] for one in events(found)] == [f"rss:{FINESS}:25000778:0000043"]
    (refused,) = [one for one in found if isinstance(one.outcome, Refusal)]
    assert isinstance(refused.outcome, Refusal)
    assert (refused.line, refused.outcome.reason) == (2, reason)
    assert named in refused.outcome.detail
    assert not any(secret in refused.outcome.detail for secret in SECRETS)


def test_one_bad_unit_refuses_its_whole_stay() -> None:
    first, second, third = three_units()
    assert one_refusal(rss=[first, second[:-3], third]).reason == "line-length"


def test_units_of_one_rss_are_about_one_person() -> None:
    first, second, third = three_units()
    refusal = one_refusal(rss=[first, changed(second, (78, "13051985")), third])
    assert refusal.reason == "identities-disagree"


# --- RSA and ANO ---


def test_a_rsa_is_what_it_and_its_chaining_line_say() -> None:
    event = one_event(rsa=RSA, ano=ANO)
    as_kept(event)
    assert event == {
        "specversion": "1.0",
        "id": f"rsa:{FINESS}:{PSEUDONYM}:1:2025-02-24:2025-03-01",
        "source": "urn:x",
        "type": "hospital-stay.v1",
        "time": "2025-02-24T00:00:00Z",
        "correction": True,
        "data": {
            "identity": {
                "sex": "female",
                "identifiers": [{"system": "nir-ano-17", "value": PSEUDONYM, "rank": 1, "scheme": "pmsi"}],
                "residence": {"postcode": "35400"},
            },
            "record": {
                "entry": "2025-02-24",
                "exit": "2025-03-01",
                "entry_mode": "8",
                "exit_mode": "8",
                "emergency": "5",
                "nights": 5,
                "age_years": 39,
                "principal_diagnosis": "I500",
                "related_diagnosis": "I10",
                "associated_diagnoses": ["E119"],
                "acts": [{"code": "DEQP003-01", "activity": "1", "phase": "0", "count": 2, "date": "2025-02-25"}],
                "units": [{"code": "07A", "hospitalisation": "C", "finess": FINESS, "nights": 5, "igs2": 34}],
                "ghm": "05M092",
                "ghm_version": 11,
                "finess": FINESS,
            },
        },
    }


def test_without_its_chaining_line_a_rsa_is_nobodys_and_refused() -> None:
    refusal = one_refusal(rsa=RSA)
    assert refusal.reason == "not-chained"
    assert "send the RSA and ANO files of one transmission together" in refusal.detail


def test_without_the_days_in_its_chaining_line_a_rsa_has_a_month_of_exit() -> None:
    event = one_event(rsa=RSA, ano=changed(ANO, (50, "2025"), (172, " " * 16)))
    as_kept(event)
    assert event["id"] == f"rsa:{FINESS}:{PSEUDONYM}:1::2025-03"
    assert event["time"] == "2025-03-01T00:00:00Z"
    record = event["data"]["record"]
    assert (record.get("entry"), record["exit"], record["nights"]) == (None, "2025-03", 5)
    assert record["acts"] == [{"code": "DEQP003-01", "activity": "1", "phase": "0", "count": 2, "day": 1}]


def test_the_format_of_2024_has_three_characters_less() -> None:
    older = changed(RSA[:163], (10, "228")) + RSA[166:]
    assert one_event(rsa=older, ano=ANO) == one_event(rsa=RSA, ano=ANO)


def test_units_share_out_what_stands_at_the_end() -> None:
    two = changed(RSA[:265], (51, "02"), (227, "0003"), (231, "00001"))
    first = changed(RSA[274:334], (33, "02"), (35, "000"))
    second = changed(RSA[274:334], (1, "02"), (16, "J189"))
    body = two + RSA[265:274] + first + second + b"E119  I10   N179  " + RSA[-24:]
    record = one_event(rsa=body, ano=ANO)["data"]["record"]
    assert record["principal_diagnosis"] == "I500"
    assert record["associated_diagnoses"] == ["J189", "E119", "N179"]
    assert [one.get("associated_diagnoses") for one in record["units"]] == [["E119", "I10"], ["N179"]]
    assert [len(one.get("acts", [])) for one in record["units"]] == [0, 1]
    refusal = one_refusal(rsa=two + RSA[265:274] + first + first + b"E119  I10   N179  " + RSA[-24:])
    assert refusal.reason == "counts-disagree"


@pytest.mark.parametrize("position", range(54, 63))
def test_a_stay_counts_only_where_all_nine_return_codes_are_nought(position: int) -> None:
    assert one_refusal(rsa=RSA, ano=changed(ANO, (position, "1"))).reason == "not-chained"


@pytest.mark.parametrize("pseudonym", ["x" * 17, "X" * 16 + "D", " " * 17])
def test_a_pseudonym_that_stands_for_none_is_none(pseudonym: str) -> None:
    assert one_refusal(rsa=RSA, ano=changed(ANO, (63, pseudonym))).reason == "not-chained"


def test_a_mothers_chaining_number_is_nobodys_here() -> None:
    assert "M" * 32 not in str(one_event(rsa=RSA, ano=ANO))


def test_a_stay_keeps_its_name_when_the_next_transmission_numbers_it_anew() -> None:
    later = one_event(rsa=changed(RSA, (13, "0000000019")), ano=changed(ANO, (162, "0000000019")))
    assert later == one_event(rsa=RSA, ano=ANO)


def test_a_stay_is_chained_by_the_next_transmission_whatever_number_it_has_there() -> None:
    other = changed(RSA, (71, "0002"))
    other_chain = changed(ANO, (63, "zY2xW4vU6tS8rQ0pN"), (172, "27022025"))
    before = read(rsa=[RSA, changed(other, (13, "0000000008"))], ano=[changed(other_chain, (162, "0000000008"))])
    after = read(rsa=[changed(RSA, (13, "0000000008")), other], ano=[changed(ANO, (162, "0000000008")), other_chain])
    assert [one.reason for one in refusals(before)] == ["not-chained"]
    assert refusals(after) == []
    names = [one["id"] for one in events(after)]
    assert len(set(names)) == 2
    assert [one["id"] for one in events(before)] == [name for name in names if "zY2xW4vU6tS8rQ0pN" in name]


def test_a_corrected_weight_or_ghm_is_no_other_stay() -> None:
    first = one_event(rsa=RSA, ano=ANO)
    for change in ((85, "2310"), (42, "28Z07Z"), (42, "05M093")):
        later = one_event(rsa=changed(RSA, change), ano=ANO)
        assert later["id"] == first["id"]
        assert later["data"]["record"] != first["data"]["record"]


def test_stays_of_one_person_on_the_same_days_are_several_and_of_twins_two() -> None:
    chemotherapy, dialysis = changed(RSA, (42, "28Z07Z")), changed(RSA, (13, "0000000008"), (42, "28Z04Z"))
    again = changed(ANO, (162, "0000000008"))
    found = [
        {one["id"]: one["data"]["record"]["ghm"] for one in events(read(rsa=rsa, ano=[ANO, again]))}
        for rsa in ([chemotherapy, dialysis], [dialysis, chemotherapy])
    ]
    assert [len(one) for one in found] == [2, 2]
    assert found[0].keys() == found[1].keys()
    assert [sorted(one.values()) for one in found] == [["28Z04Z", "28Z07Z"]] * 2
    assert one_event(rsa=RSA, ano=changed(ANO, (435, "2")))["id"] != one_event(rsa=RSA, ano=ANO)["id"]


def test_a_stay_of_several_units_may_have_been_suspended() -> None:
    two = changed(RSA[:265], (51, "02"), (227, "0002"), (231, "00002")) + RSA[265:274] + RSA[274:334] * 2
    two += b"E119  " * 2 + RSA[-24:] * 2
    assert events(read(rsa=changed(two, (71, "0003")), ano=ANO))
    found = read(rsa=changed(two, (71, "0006")), ano=ANO)
    assert [one.reason for one in refusals(found)] == ["not-of-this-stay", "not-chained"]


BAD_CHAINS = {
    "of a stay of another month": (changed(ANO, (180, "01042025")), "not-of-this-stay"),
    "of a longer stay": (changed(ANO, (172, "20022025")), "not-of-this-stay"),
    "with no such day": (changed(ANO, (172, "30022025")), "bad-date"),
    "cut short": (ANO[:-1], "line-length"),
    "with a short number": (changed(ANO, (70, " " * 10)), "bad-identifier"),
}


@pytest.mark.parametrize("name", BAD_CHAINS)
def test_a_bad_chaining_line_is_refused_and_its_stay_with_it(name: str) -> None:
    ano, reason = BAD_CHAINS[name]
    found = read(rsa=RSA, ano=ano)
    assert [one.reason for one in refusals(found)] == [reason, "not-chained"]
    assert events(found) == []


def test_a_chaining_line_without_its_stay_is_refused() -> None:
    assert one_refusal(ano=ANO).reason == "no-stay"
    assert {one.reason for one in refusals(read(rsa=RSA, ano=changed(ANO, (180, "01032024"))))} == {
        "no-stay",
        "not-chained",
    }


def test_several_lines_of_one_number_are_ambiguous() -> None:
    found = read(rsa=[RSA, changed(RSA, (59, "1"))], ano=ANO)
    assert [one.reason for one in refusals(found)] == ["second-line", "second-line"]
    found = read(rsa=[RSA, RSA], ano=[ANO, changed(ANO, (63, "Q"))])
    assert [one.reason for one in refusals(found)] == ["second-line", "second-line", "not-chained"]


BAD_RSAS = {
    "an associated diagnosis that is none": (
        changed(RSA, (335, "8140/3")),
        "unknown-code",
        "the associated diagnosis (positions 335-340)",
    ),
    "a format of another year": (changed(RSA, (10, "227")), "format-version", "(positions 10-12)"),
    "cut short": (RSA[:-2], "line-length", "it should have 364 characters"),
    "no such month": (changed(RSA, (62, "13")), "bad-date", "the month of exit (positions 62-63)"),
    "no year": (changed(RSA, (64, "2O25")), "bad-number", "the year of exit (positions 64-67)"),
    "an unknown act": (changed(RSA, (344, "1234567")), "unknown-code", "the CCAM code (positions 344-350)"),
    "an unknown authorisation": (
        changed(RSA, (316, "ABC")),
        "unknown-code",
        "type of authorisation (positions 316-318)",
    ),
    "an unknown diagnosis": (
        changed(RSA, (215, "????")),
        "unknown-code",
        "the principal diagnosis (positions 215-220)",
    ),
}


@pytest.mark.parametrize("name", BAD_RSAS)
def test_a_bad_rsa_is_refused_by_line_and_field(name: str) -> None:
    bad, reason, named = BAD_RSAS[name]
    refusal = one_refusal(rsa=bad)
    assert refusal.reason == reason
    assert named in refusal.detail


# --- files ---


@pytest.mark.parametrize(
    ("name", "head", "part"),
    [
        ("x.txt", RUM, "rss"),
        ("x.txt", RUM[15:], "rss"),
        ("x.txt", b"\r\n" + changed(RUM, (10, "199")), "rss"),
        ("x.rss", VID_HOSP, "vid-hosp"),
        ("x.txt", changed(VID_HOSP, (49, "V099")), "vid-hosp"),
        ("x.txt", RSA, "rsa"),
        ("x.txt", ANO, "ano"),
        ("x.txt", b"", None),
        ("x.csv", b"BEN_NIR_PSA;FLX_DIS_DTD\r\n1;2", None),
        ("350000022.2025.3.rss.txt", b"", "rss"),
        ("VID-HOSP_2025.txt", b"", "vid-hosp"),
        ("350000022.2025.3.ano.txt", b"", "ano"),
        ("350000022.2025.3.rsa", b"\xff\xfe", "rsa"),
        ("anomalies.txt", b"", None),
    ],
)
def test_a_file_is_known_by_its_first_line_or_its_name(name: str, head: bytes, part: str | None) -> None:
    assert FORM.part_of(name, head) == part


def people(count: int) -> list[generate.Patient]:
    rng = random.Random(5)
    return [
        generate.Patient(
            birth_date=dt.date(1930, 1, 1) + dt.timedelta(days=rng.randrange(33_000)),
            sex=rng.choice(("female", "male")),
            insured=f"{rng.choice('12')}{rng.randrange(100):02}{rng.randrange(1, 13):02}35{rng.randrange(10**6):06}",
            ipp=f"H{number:06}",
            pseudo_nir=f"{number:05}aBcDeFgHiJkL",
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("anonymous", [False, True], ids=["rss", "rsa"])
@pytest.mark.parametrize("year", [2024, 2025, 2026])
def test_made_up_files_of_every_year_are_read_whole(tmp_path: Path, year: int, anonymous: bool) -> None:
    patients = people(120)
    paths = generate.write(tmp_path, patients, 300, seed=3, year=year, anonymous=anonymous)
    for part, path in paths.items():
        assert FORM.part_of("unnamed", path.read_bytes()[:2048]) == part
    files = [File(path.name, part, io.BytesIO(path.read_bytes())) for part, path in paths.items()]
    found = list(join(FORM, files, "urn:x"))
    assert refusals(found) == []
    kept = [as_kept(one) for one in events(found)]
    assert len({one.id for one in kept}) == 300
    made = {
        (one.patient.ipp, one.patient.pseudo_nir, one.entry, one.exit) for one in generate.stays(patients, 300, 3, year)
    }
    told = {
        (number.value, one.data.record["exit"])
        for one in kept
        for number in one.data.identity.identifiers
        if one.data.record
    }
    for ipp, pseudonym, _, exit_ in made:
        assert (pseudonym if anonymous else ipp, exit_.isoformat()) in told
    assert {one.data.record["exit"][:4] for one in kept if one.data.record} == {str(year)}


def test_the_same_seed_makes_the_same_files(tmp_path: Path) -> None:
    def body(folder: str, seed: int) -> list[bytes]:
        (tmp_path / folder).mkdir()
        return [path.read_bytes() for path in generate.write(tmp_path / folder, people(9), 40, seed).values()]

    assert body("one", 1) == body("again", 1) != body("other", 2)


# --- whatever comes ---

GOOD = {"rss": RUM, "vid-hosp": VID_HOSP, "rsa": RSA, "ano": ANO}


def read_anything(part: str, data: bytes) -> list[Read]:
    """What the format makes of a line; what it raises is Refused or nothing."""
    FORM.part_of(data[:20].decode("latin-1"), data)
    try:
        layout = FORM.layout(part, data)
        layout.key(data)
    except Refused:
        pass
    line = Line("f", 1, data)
    other = "rss" if part == "vid-hosp" else "rsa"
    with_stay = [Piece(FORM.layout(other, b""), Line("g", 1, GOOD[other]), b"k")] if part in ("vid-hosp", "ano") else []
    return list(FORM.events([*with_stay, Piece(FORM.layout(part, data), line, b"k")], "urn:x"))


@given(part=st.sampled_from(FORM.parts), data=st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(part: str, data: bytes) -> None:
    for one in read_anything(part, data):
        assert isinstance(one.outcome, Refusal | dict)


@given(
    part=st.sampled_from(FORM.parts),
    changes=st.lists(
        st.tuples(
            st.integers(0, 1200), st.one_of(st.sampled_from([b"0", b"9", b" ", b"X", b"A"]), st.binary(max_size=4))
        ),
        min_size=1,
        max_size=4,
    ),
    cut=st.one_of(st.none(), st.integers(0, 1200)),
)
def test_a_line_with_anything_changed_is_read_or_refused(
    part: str, changes: list[tuple[int, bytes]], cut: int | None
) -> None:
    made = bytearray(GOOD[part])
    for position, change in changes:
        made[position : position + len(change)] = change
    for one in read_anything(part, bytes(made[:cut])):
        if isinstance(one.outcome, dict):
            taken = Event.model_validate(one.outcome)
            assert content.strip("hospital-stay.v1", taken.data.record or {}).record
        else:
            assert isinstance(one.outcome, Refusal)
            assert not any(secret in one.outcome.detail for secret in SECRETS)


def test_tables_hold_together() -> None:
    for kind, table in tables("pmsi-mco").items():
        for version, shape in table.shapes.items():
            for name, field in shape.fields.items():
                assert 0 <= field.start < field.end, (kind, version, name)
                assert field.end <= shape.length or name == "disciplines", (kind, version, name)
