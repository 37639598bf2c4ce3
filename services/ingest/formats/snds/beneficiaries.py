"""Who the lines of SNDS are about, and its register of beneficiaries, IR_BEN_R (CSV), as `identity.v1`. Pure.

A line of the register says that a number of the DCIR, BEN_NIR_PSA with its rank, is the person of BEN_NIR_ANO, which
is one for a whole life, and by which the causes of death know them. There are as many lines about a person as there
were people who insured them (documentation-snds: "Identifiants des bénéficiaires"; CNAM, guide of the causes of
death). Next year's register says where the person lives then: what is sent again replaces what was there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from services.ingest.domain.refusals import Refused
from services.ingest.formats.reading import Piece, Read, event, read_as
from services.ingest.formats.separated import Separated, Table, columns
from services.ingest.formats.snds.lines import DUPLICATE, conflicting, values_of
from services.ingest.formats.snds.values import Unreadable, born, code, commune, missing, pseudonym

PERSON: Final = (
    *("BEN_NIR_PSA", "BEN_RNG_GEM", "ORG_AFF_BEN", "BEN_NIR_ANO", "BEN_IDT_ANO", "BEN_IDT_TOP", "BEN_CDI_NIR"),
    *("BEN_SEX_COD", "BEN_NAI_ANN", "BEN_NAI_MOI", "BEN_RES_DPT", "BEN_RES_COM"),
)
"""The columns that tell who it is about; a table has some of them."""

RANK_SCHEME: Final = "rang-gemellaire"
"""What BEN_RNG_GEM counts in the general scheme: births of one sex on one day."""
_GENERAL_SCHEME: Final = ("01", "91", "92", "93", "94", "95", "96", "99")
"""How ORG_AFF_BEN begins in it: its funds, the mutual societies that act for it, unknown (IR_GRG_V)."""
_FICTITIOUS: Final = frozenset(("01", "05", "06", "08", "09", "11", "12", "13", "14", "15"))
"""BEN_CDI_NIR of numbers that many people share (IR_NIR_V, TOP_NIR_SNI 1)."""

_sex = code("[12]", "0, 1, 2 or 9 (IR_SEX_V)", none=("0", "9"))
_rank = code(r"\d{1,2}", "a rank from 0 to 99 (IR_BER_V)", none=("0", "00"))


def person(table: str, values: Sequence[str]) -> dict[str, Any]:
    """The identity that the columns of PERSON come to. Raises Refused, naming the column."""
    psa, rank, organisation, ano, synthetic, is_ano, kind, sex, year, month, department, place = values
    identity: dict[str, Any] = {"identifiers": (identifiers := [])}
    column = ""
    try:
        column = "BEN_NIR_PSA"
        number = pseudonym(psa)
        column = "BEN_RNG_GEM"
        ranked = _rank(rank)
        column = "BEN_NIR_ANO"
        lasting = pseudonym(ano)
        if synthetic and lasting is None:
            column = "BEN_IDT_ANO"
            if is_ano.strip() == "1":
                lasting = pseudonym(synthetic)
            elif is_ano.strip() == "0" and number is None:
                number, ranked = pseudonym(synthetic.strip()[:-1]), _rank(synthetic.strip()[-1:])
        if number is not None:
            identifiers.append(_pseudo_nir(number, ranked, organisation.strip()))
        if lasting is not None:
            identifiers.append({"system": "ben-nir-ano", "value": lasting})
        column = "BEN_SEX_COD"
        if (known := _sex(sex)) is not None:
            identity["sex"] = "male" if known == "1" else "female"
        column = "BEN_NAI_ANN"
        if (birth := born(year, month)) is not None:
            identity["birth_date"] = birth
    except Unreadable as unreadable:
        raise Refused(unreadable.refusal(table, column)) from None
    if (home := commune(department, place)) is not None:
        identity["residence"] = {"commune": home}
    if kind and kind.strip().zfill(2) in _FICTITIOUS:
        identity["identity_status"] = "fictitious"
    return identity


def _pseudo_nir(value: str, rank: str | None, organisation: str) -> dict[str, Any]:
    """BEN_NIR_PSA with its rank, in the general scheme or where ORG_AFF_BEN does not tell the scheme.

    In the others the rank is a place in the family, which changes, and nobody can be known by it (documentation-snds,
    "Identifiants des bénéficiaires"): twins are not told apart there.
    """
    found: dict[str, Any] = {"system": "ben-nir-psa", "value": value}
    if rank is not None and (not organisation or organisation.startswith(_GENERAL_SCHEME)):
        found["rank"], found["scheme"] = int(rank), RANK_SCHEME
    return found


# --- the register ---

_NAME: Final = "IR_BEN_R"
_TABLE: Final = Table(_NAME, ("BEN_NIR_PSA", "BEN_RNG_GEM"), ("BEN_NIR_PSA", "BEN_RNG_GEM", "BEN_NIR_ANO"), PERSON)
_CONFLICT: Final = conflicting(_NAME)


class Register:
    """The format `ir-ben-r` (a JoinedFormat)."""

    name = "ir-ben-r"
    parts: tuple[str, ...] = (_NAME,)

    def part_of(self, file: str, head: bytes) -> str | None:
        named = columns(head)
        told = {"BEN_NIR_PSA", "BEN_RNG_GEM", "BEN_NAI_MOI"} <= named and "PRS_NAT_REF" not in named
        return _NAME if told or _NAME in file.upper() else None

    def layout(self, part: str, first: bytes) -> Separated:  # noqa: ARG002
        return Separated(_TABLE, _key, first)

    def events(self, pieces: Sequence[Piece], source: str) -> Iterator[Read]:
        first, *others = pieces
        try:
            values = values_of(first)
            if any(values_of(one) != values for one in others):
                raise Refused(_CONFLICT)
            name, data = f"ben:{first.key.decode()}", {"identity": person(_NAME, values)}
            register = event(source, "identity.v1", name, None, data, correction=True)
        except Refused as refused:
            told = pieces if refused.refusal is _CONFLICT else (first,)
            yield from (read_as(one, refused.refusal) for one in told)
            return
        yield read_as(first, register)
        yield from (read_as(one, DUPLICATE) for one in others)


def _key(values: tuple[str, ...]) -> bytes:
    number, rank = values
    column = "BEN_NIR_PSA"
    try:
        found = pseudonym(number)
        column = "BEN_RNG_GEM"
        ranked = _rank(rank)
    except Unreadable as unreadable:
        raise Refused(unreadable.refusal(_NAME, column)) from None
    if found is None:
        raise Refused(missing(_NAME, "BEN_NIR_PSA"))
    return f"{found}-{int(ranked or 0)}".encode()
