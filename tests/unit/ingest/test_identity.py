"""Names and numbers in their one spelling, and tokens that tell nothing across domains."""

from __future__ import annotations

import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.comparison import ROW_BYTES
from contracts.events import Identity
from contracts.messages import TokenBlock
from services.ingest.domain import identity as own
from services.ingest.domain.identity import InvalidIdentity
from services.ingest.domain.tokens import FirstLevel, Tokeniser

pytestmark = pytest.mark.unit

SOURCE = "urn:s"
NIR = "2850535238001"


def with_key(number: str) -> str:
    return f"{number}{own.nir_key(number):02d}"


def block(secret: dict[int, bytes] | None = None, source: str = SOURCE, event: str = "e", **fields: Any) -> TokenBlock:
    return Tokeniser(secret or {1: b"k" * 32}).block(source, Identity.model_validate(fields), event)


def number(system: str, value: str, **more: Any) -> dict[str, Any]:
    return {"identifiers": [{"system": system, "value": value, **more}]}


ANNE: dict[str, Any] = {
    "birth_family_name": "Le Goff",
    "used_family_name": "Martin",
    "given_names": ["Anne", "Marie"],
    "sex": "female",
    "birth_date": "1985-05-12",
    "birth_place": "35238",
}


@pytest.mark.parametrize(
    ("written", "compared"),
    [
        ("Lévêque", "LEVEQUE"),
        ("Le Goff", "LEGOFF"),
        ("LE-GOFF", "LEGOFF"),
        ("La", "LA"),
        ("de La Tour", "TOUR"),
        ("DE LA TOUR D'AUVERGNE", "TOURAUVERGNE"),
        ("de l'Isle", "ISLE"),
        ("DE L ISLE", "ISLE"),
        ("d'Ormesson", "ORMESSON"),
        ("d’Ormesson", "ORMESSON"),
        ("du Bellay", "BELLAY"),
        ("des Essarts", "ESSARTS"),
        ("Dubois", "DUBOIS"),
        ("De", "DE"),
        ("DE LA", "LA"),
        ("de de", "DE"),
        ("Cœur", "COEUR"),
        ("Lætitia", "LAETITIA"),
        ("Strauß", "STRAUSS"),
        ("O'Neill", "ONEILL"),
        ("N’Guyen", "NGUYEN"),
        ("  Saint - Just  ", "SAINTJUST"),
        ("?", ""),
        ("Ελένη", "ΕΛΕΝΗ"),
        ("e\u0301tienne", "ETIENNE"),
    ],
)
def test_family_names_have_one_spelling(written: str, compared: str) -> None:
    assert own.family_name(written) == compared


@given(st.text(max_size=40))
def test_the_one_spelling_is_stable(text: str) -> None:
    once = own.family_name(text)
    assert own.given_name(once) == once


def test_particles_stay_in_given_names() -> None:
    assert own.given_name("Marie de l'Enfant-Jésus") == "MARIEDELENFANTJESUS"


@pytest.mark.parametrize(
    "written",
    [
        NIR,
        with_key(NIR),
        "2 85 05 35 238 001 48",
        "299022A004001",
        with_key("199022A004001"),
        with_key("199022b004001".upper()),
    ],
)
def test_a_nir_is_13_characters(written: str) -> None:
    assert own.nir(written) == written.replace(" ", "")[:13]


def test_the_key_is_that_of_the_interface() -> None:
    assert with_key("2850535238001") == "285053523800148"


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("285053523800149", "bad-nir-key"),
        ("2850535238001AA", "bad-nir-key"),
        ("28505352380014", "bad-identifier"),
        ("9850535238001", "bad-identifier"),
        ("2851335238001", "bad-identifier"),
        ("2854535238001", "bad-identifier"),
        ("28505352380٠1", "bad-identifier"),
        ("285052C238001", "bad-identifier"),
        ("-", "bad-identifier"),
    ],
)
def test_a_bad_nir_is_refused_and_not_repeated(written: str, reason: str) -> None:
    with pytest.raises(InvalidIdentity) as caught:
        own.nir(written, "place")
    assert caught.value.reason == reason
    assert caught.value.detail.startswith("place: ")
    assert len(written) < 5 or written not in str(caught.value)


@pytest.mark.parametrize(
    ("nir", "sex", "birth_date", "flags"),
    [
        (NIR, "female", "1985-05-12", ()),
        (NIR, "female", "1985", ()),
        (NIR, "male", "1985-05-12", ("nir-contradicts-sex",)),
        (NIR, "unknown", None, ()),
        (NIR, "female", "1986-05-12", ("nir-contradicts-birth-date",)),
        (NIR, "male", "1985-06", ("nir-contradicts-birth-date", "nir-contradicts-sex")),
        ("2852035238001", "female", "1985-06-01", ()),
        ("2855035238001", "female", "1985-06-01", ()),
        ("7850535238001", "male", "1985-05-12", ()),
        ("8850535238001", "male", "1985-05-12", ("nir-contradicts-sex",)),
    ],
)
def test_a_contradiction_is_flagged(nir: str, sex: str, birth_date: str | None, flags: tuple[str, ...]) -> None:
    made = block(**number("ins-nir", nir), sex=sex, birth_date=birth_date)
    assert made.flags == flags
    assert len(made.identifiers) == 1


def test_the_token_is_of_the_13() -> None:
    assert block(**number("ins-nir", NIR)).identifiers == block(**number("ins-nir", with_key(NIR))).identifiers


def test_two_systems_are_one_namespace() -> None:
    psa = block(**number("ben-nir-psa", "A1B2C3D4E5F6G7H8I", rank=2, scheme="01"))
    ano = block(**number("nir-ano-17", "A1B2C3D4E5F6G7H8I"))
    other = block(**number("ben-nir-ano", "A1B2C3D4E5F6G7H8I"))
    assert psa.identifiers[0].token == ano.identifiers[0].token != other.identifiers[0].token
    assert (psa.identifiers[0].system, psa.identifiers[0].rank, psa.identifiers[0].scheme) == ("pseudo-nir", 2, "01")
    assert (other.identifiers[0].system, other.identifiers[0].rank) == ("ben-nir-ano", None)


@pytest.mark.parametrize("system", ["ben-nir-psa", "nir-ano-17", "ben-nir-ano", "ins-nir", "ins-nia"])
@pytest.mark.parametrize("dummy", ["x" * 17, "X" * 17, "0" * 13, "x" * 16 + "D", "9" * 15])
def test_a_dummy_makes_no_token(system: str, dummy: str) -> None:
    made = block(**number(system, dummy), **ANNE)
    assert systems(made) <= {"strict"}
    assert made.codes
    assert block(**number(system, dummy)).flags == ("unlinkable",)


def test_an_openers_number_is_a_persons_with_date_sex_and_rank_only() -> None:
    whole: dict[str, Any] = {"birth_date": "2020-01-02", "sex": "male"}
    made = block(**number("nir-opener", NIR, rank=1), **whole)
    assert made.identifiers[0].system == "nir-opener"
    assert made.identifiers == block(**number("nir-opener", with_key(NIR), rank=1), **whole).identifiers
    twin = block(**number("nir-opener", NIR, rank=2), **whole)
    assert twin.identifiers[0].token != made.identifiers[0].token
    for less in (
        block(**number("nir-opener", NIR), **whole),
        block(**number("nir-opener", NIR, rank=1), sex="male"),
        block(**number("nir-opener", NIR, rank=1), sex="male", birth_date="2020-01"),
        block(**number("nir-opener", NIR, rank=1), sex="unknown", birth_date="2020-01-02"),
    ):
        assert less.identifiers == ()


def test_an_ipp_is_its_assigners() -> None:
    one, other = (block(**number("ipp", "8812", assigner=assigner)).identifiers[0] for assigner in ("1", "2"))
    assert one.system == "ipp"
    assert one.token != other.token


def systems(made: TokenBlock) -> set[str]:
    return {one.system for one in made.identifiers}


def test_a_block_has_a_row_of_codes_for_each_token() -> None:
    made = block(**ANNE, residence={"address": "12 rue du Port", "postcode": "35400", "commune": "35288"})
    assert [one.kind for one in made.blocking] == [
        "birth-date",
        "names",
        "family-place",
        "names",
        "family-place",
        "given-place",
        "street-place",
        "street-number",
    ]
    assert systems(made) == {"strict"}
    assert all(len(token) == 16 for token in made.tokens())
    assert len(set(made.tokens())) == 10
    assert len(made.codes) == 9 * ROW_BYTES
    assert (made.code_version, made.present) == ("1", ("birth_date", "given_name", "family_name"))


def test_a_number_alone_has_no_codes() -> None:
    made = block(**number("ben-nir-ano", "ANO12345"))
    assert (len(made.identifiers), made.blocking, made.codes, made.present) == (1, (), b"", ())


def test_systems_do_not_compare() -> None:
    assert block(**number("ins-nir", NIR)).identifiers[0].token != block(**number("ins-nia", NIR)).identifiers[0].token


def test_a_nir_says_where_its_bearer_was_born_unless_it_is_not_theirs() -> None:
    assert own.normalise(Identity.model_validate(number("ins-nir", NIR))).birth_place == "35238"
    other = Identity.model_validate(number("ins-nir", NIR) | {"sex": "male"})
    assert own.normalise(other).birth_place == ""


@pytest.mark.parametrize("absent", ["birth_family_name", "given_names", "birth_date", "sex", "birth_place"])
def test_strict_needs_all_five(absent: str) -> None:
    assert "strict" in systems(block(**ANNE))
    assert "strict" not in systems(block(**{name: value for name, value in ANNE.items() if name != absent}))


def test_a_partial_date_is_no_birth_date_to_meet_by() -> None:
    made = block(**ANNE | {"birth_date": "1985-05"})
    assert "birth_date" not in made.present
    assert "birth-date" not in {one.kind for one in made.blocking}


def test_tokens_chain_over_versions() -> None:
    first, second = b"1" * 32, b"2" * 32
    old, new = FirstLevel({1: first}), FirstLevel({2: second, 1: first})
    carried = hmac.digest(second, old.token("sex", "male"), "sha256")[:16]
    assert new.token("sex", "male") == carried
    assert (old.version, new.version) == (1, 2)
    for gap in ({}, {2: second}, {1: first, 3: second}):
        with pytest.raises(ValueError, match="versions"):
            FirstLevel(gap)


def test_tokens_need_the_key() -> None:
    one, other = block(**ANNE), block({1: b"other" * 8}, **ANNE)
    assert not set(one.tokens()) & set(other.tokens())


def test_the_same_identity_of_a_source_is_one_subject() -> None:
    numbers = [{"system": "ins-nir", "value": NIR}, {"system": "ipp", "assigner": "1", "value": "2"}]
    one = block(**ANNE, identifiers=numbers)
    again = block(**ANNE | {"birth_family_name": "LE GOFF"}, identifiers=numbers[::-1], event="f")
    assert one.subject == again.subject
    assert one.subject != block(**ANNE, identifiers=numbers, source="urn:other").subject
    assert one.subject != block(**ANNE, identifiers=numbers, identity_status="qualified").subject
    assert one.subject != block(**ANNE, identifiers=numbers[:1]).subject


def test_a_fictitious_identity_has_nothing_but_a_subject_of_its_own() -> None:
    bad = {"system": "ins-nir", "value": "no NIR"}
    made = block(**ANNE, identifiers=[bad], identity_status="fictitious")
    assert (made.identifiers, made.blocking, made.codes, made.present, made.flags) == ((), (), b"", (), ())
    assert made.status == "fictitious"
    assert made.subject != block(**ANNE, identifiers=[bad], identity_status="fictitious", event="f").subject


@pytest.mark.parametrize(
    "identity",
    [
        {},
        {"sex": "male"},
        {"birth_date": "1985-05-12", "sex": "female", "birth_place": "35238"},
        {"birth_family_name": "Le Goff"},
        {"birth_family_name": "Le Goff", "given_names": ["?"]},
    ],
)
def test_too_little_is_a_person_of_its_own(identity: dict[str, Any]) -> None:
    made = block(**identity)
    assert made.flags == ("unlinkable",)
    assert (made.identifiers, made.blocking, made.codes) == ((), (), b"")
    assert made.subject == block(**identity).subject != block(**identity, event="f").subject


def test_a_name_in_use_is_a_name() -> None:
    assert block(used_family_name="Martin", given_names=["Anne"], birth_date="1985").flags == ()


def test_what_is_remembered_is_the_same_and_bounded() -> None:
    tokeniser = Tokeniser({1: b"k" * 32}, remember=2)
    people = [Identity.model_validate(ANNE | {"birth_date": f"198{year}-01-01"}) for year in range(5)]
    fresh = [tokeniser.block(SOURCE, person, "e") for person in people]
    assert [tokeniser.block(SOURCE, person, "e") for person in people] == fresh
    assert len(tokeniser._known) == 2
    assert "1984" not in repr(tokeniser._known)
    nobody = Identity()
    assert tokeniser.block(SOURCE, nobody, "e").subject != tokeniser.block(SOURCE, nobody, "f").subject
