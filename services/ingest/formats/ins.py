"""The national health identity (INS) as FHIR and HL7 v2 both carry it: authorities, reliability, communes. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from services.ingest.formats.reading import bounded

AUTHORITIES: Final = {
    "1.2.250.1.213.1.4.8": ("ins-nir", False),
    "1.2.250.1.213.1.4.9": ("ins-nia", False),
    "1.2.250.1.213.1.4.10": ("ins-nir", True),
    "1.2.250.1.213.1.4.11": ("ins-nir", True),
}
"""The identifier system of an OID, and whether its people are made up.

ANS, "Liste des OID des autorités d'affectation des INS", as in FR Core's Patient profile; the last two are the test
and the demonstration numbers, whose people do not exist."""

INSURED: Final = "NH"
"""FR Core and PAM.fr give the insured person's number (NSS) the INS's OID and this type: it may be a parent's."""

RELIABILITY: Final = {
    "QUAL": "qualified",
    "VALI": "validated",
    "RECUP": "retrieved",
    "PROV": "provisional",
    "FICT": "fictitious",
    "ANOM": "fictitious",
    "CACH": "fictitious",
    "USUR": "fictitious",
}
"""The French table 0445 and RNIV's four statuses; an anonymous, masked or usurped identity is nobody's."""

COMMUNE: Final = re.compile(r"(\d{2}|2[AB])\d{3}", re.ASCII)
"""INSEE's code of a commune, or of a country."""


def status(codes: Collection[str], has_ins: bool) -> str | None:
    """RNIV's status: two of the four are told by whether the identity came with an INS (PAM.fr gives one code)."""
    told = [RELIABILITY.get(code) for code in codes]
    if "fictitious" in told:
        return "fictitious"
    first = next((one for one in told if one), None)
    if has_ins:
        return {"validated": "qualified", "provisional": "retrieved"}.get(first or "", first)
    return first


def assigner(source: str, authority: str) -> str:
    """An authority whose name only this source knows; hashed where that is longer than an assigner may be."""
    return bounded(f"{source}|{authority}", 256)
