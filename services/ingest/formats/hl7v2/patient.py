"""Who an HL7 v2 message is about: PID (3.4.2) as PAM.fr has it, to an identity. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from services.ingest.domain.content import known
from services.ingest.domain.identity import InvalidIdentity, is_dummy, nir
from services.ingest.domain.refusals import refusing
from services.ingest.formats import ins
from services.ingest.formats.hl7v2.fields import Text

MOST_NUMBERS: Final = 20
_NAMESPACES: Final = {"ASIP-SANTE-INS-NIR": "ins-nir", "ASIP-SANTE-INS-NIA": "ins-nia"}
"""PAM.fr's names of the authorities, for messages that leave their OIDs out."""
_INS: Final = frozenset(("ins-nir", "ins-nia"))
_LOCAL: Final = frozenset(("PI", "MR", "PT", ""))
"""Table 0203: a patient's numbers. A visit's, a passport's, an insured person's are not."""
_EVERYWHERE: Final = frozenset(("ISO", "UUID", "GUID", "DNS", "URI"))
"""Table 0301: kinds of authorities' ids that hold everywhere."""
_SEXES: Final = {"F": "female", "M": "male", "O": "other", "A": "other", "U": "unknown"}
_RESIDENCES: Final = ("H", "", "L", "P", "C", "M", "RH")
"""Table 0190: addresses where a person lives, best first."""
_LIST: Final = re.compile(r"[\s,]+")


def assigner(text: Text, cx: Any, source: str) -> str:
    """Who gave a number out (CX-4, 2.A.36: HD)."""
    namespace, universal, kind = (text.value(cx, 4, part) for part in (1, 2, 3))
    if universal and kind.upper() in _EVERYWHERE and len(universal) <= 256:
        return universal.removeprefix("urn:oid:")
    for one in (universal, namespace):
        if known("finess", one):
            return one
    return ins.assigner(source, universal or namespace) if universal or namespace else source


class Number(NamedTuple):
    """A number of a person or a visit."""

    system: str
    assigner: str
    value: str
    kind: str = ""
    """Table 0203."""
    made_up: bool = False

    def name(self) -> str:
        """The number as the name of a record has it."""
        return f"{quoted(self.assigner or self.system)}|{quoted(self.value)}"

    def identifier(self) -> dict[str, Any]:
        """The number as an identity has it."""
        told = {"system": self.system, "assigner": self.assigner, "value": self.value}
        return {name: value for name, value in told.items() if value}


class Patient(NamedTuple):
    """PID (3.4.2), read as PAM.fr has it."""

    text: Text
    source: str
    pid: Sequence[Any]

    def identity(self, numbers: Sequence[Number]) -> dict[str, Any]:
        """An identity with these numbers, as the events carry it. Raises Refused."""
        made_up = any(one.made_up for one in numbers)
        has_ins = any(one.system in _INS for one in numbers)
        codes = [self.text.value(one) for one in self.text.repetitions(self.pid, 32)]
        status = "fictitious" if made_up else ins.status(codes, has_ins)
        if status != "fictitious":
            _check(numbers)
        identity: dict[str, Any] = {"identifiers": [one.identifier() for one in numbers[:MOST_NUMBERS]]}
        if status:
            identity["identity_status"] = status
        identity |= self._names()
        if sex := _SEXES.get(self.text.value(self.text.first(self.pid, 8))):
            identity["sex"] = sex
        if born := self.text.time(self.pid, 7, "PID"):
            identity["birth_date"] = born.day
        return identity | self._places()

    def numbers(self, segment: Sequence[Any], field: int, name: str) -> list[Number]:
        """The national and local numbers of a list (2.A.14: CX), local ones as their type says. Raises Refused."""
        text = self.text
        found: list[Number] = []
        for cx in text.repetitions(segment, field):
            value, kind = text.value(cx), text.value(cx, 5)
            if not value:
                continue
            if len(value) > 64:
                raise refusing("bad-value", f"{name}-{field}: a number has more than 64 characters")
            system, made_up = ins.AUTHORITIES.get(
                text.value(cx, 4, 2), (_NAMESPACES.get(text.value(cx, 4, 1).upper(), ""), False)
            )
            if system:
                insured = system == "ins-nir" and kind == ins.INSURED
                found.append(Number("nir-opener" if insured else system, "", value, kind, made_up))
            elif kind in _LOCAL:
                found.append(Number("ipp", assigner(text, cx, self.source), value, kind))
        return found

    def _names(self) -> dict[str, Any]:
        """PID-5: L is the birth name and D the one in use (PAM.fr); where M is there, it is the birth name (0200).

        XPN-2 is the first given name and XPN-3 the list of all (PAM.fr 2.10), or those after the first (2.A.88: XPN).
        """
        text = self.text
        by_type: dict[str, Any] = {}
        for xpn in text.repetitions(self.pid, 5):
            by_type.setdefault(text.value(xpn, 7) or "L", xpn)
        legal, usual = by_type.get("L"), by_type.get("D")
        maiden = by_type.get("M") or by_type.get("B")
        birth = self._short(maiden or legal or "")
        in_use = self._short(usual or (maiden and legal) or "")
        names: dict[str, Any] = {}
        if birth:
            names["birth_family_name"] = birth
        if in_use and in_use != birth:
            names["used_family_name"] = in_use
        for xpn in (legal, maiden, usual):
            if xpn and (given := self._given(xpn)):
                names["given_names"] = given
                break
        return names

    def _short(self, part: Any, component: int = 1, longest: int = 200) -> str:
        value = self.text.value(part, component)
        return value if len(value) <= longest else ""

    def _given(self, xpn: Any) -> list[str]:
        first, listed = self._short(xpn, 2), self._short(xpn, 3)
        told = [first] if first else []
        if first and listed.casefold().startswith(first.casefold()):
            listed = listed[len(first) :]
        known = {first.casefold()}
        told += [one for one in _LIST.split(listed) if one and one.casefold() not in known]
        return told[:20]

    def _places(self) -> dict[str, Any]:
        """PID-11: the residence; and the birth place, of type BDL, by its INSEE code (XAD-9, PAM.fr).

        PID-23 tells the birth place in words, or by a postcode, which looks like an INSEE code and is none.
        """
        text = self.text
        by_type: dict[str, Any] = {}
        for xad in text.repetitions(self.pid, 11):
            by_type.setdefault(text.value(xad, 7), xad)
        places: dict[str, Any] = {}
        if (born := by_type.get("BDL")) and ins.COMMUNE.fullmatch(code := text.value(born, 9)):
            places["birth_place"] = code
        home = next((by_type[kind] for kind in _RESIDENCES if kind in by_type), None)
        if home is not None:
            street = " ".join(part for part in (self._short(home), self._short(home, 2)) if part)
            commune = text.value(home, 9)
            parts = {
                "address": street if len(street) <= 200 else "",
                "city": self._short(home, 3),
                "postcode": self._short(home, 5, 64),
                "commune": commune if ins.COMMUNE.fullmatch(commune) else "",
            }
            if residence := {name: value for name, value in parts.items() if value}:
                places["residence"] = residence
        return places


def name_of(numbers: Iterable[Number]) -> str:
    """The number of PID-3 that the patient's own record is known by: a local one, else an INS. Raises Refused."""
    ordered = sorted(numbers)
    local = [one for one in ordered if one.system == "ipp"]
    best = next((one for one in local if one.kind == "PI"), next(iter(local), None))
    best = best or next((one for one in ordered if one.system in _INS), None)
    if best is None:
        raise refusing("no-id", "PID-3: no local number (type PI) and no INS, by which the hub knows a patient")
    return best.name()


def _check(numbers: Sequence[Number]) -> None:
    """Refuse a national number that can be none here, where its field can be named. Raises Refused."""
    for one in numbers:
        value = "".join(one.value.split())
        if one.system in _INS and not is_dummy(value):
            try:
                nir(value, "PID-3")
            except InvalidIdentity as invalid:
                raise refusing(invalid.reason, invalid.detail) from None


def quoted(text: str) -> str:
    """The text without the characters that part a name, so that no two names become one."""
    return text.replace("%", "%25").replace("/", "%2F").replace("|", "%7C")
