"""What a FHIR R4 Consent says against the use of a person's data (hl7.org/fhir/R4/consent.html). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from services.ingest.formats.fhir.elements import at, codes, objects, time
from services.ingest.formats.fhir.references import Servers, Target


class Opposition(NamedTuple):
    """A person objects, or no longer does. `start` (RFC 3339) says from when, where the Consent does.

    `id` is that of the Consent's record.
    """

    id: str
    identity: dict[str, Any]
    made: bool
    start: str | None


_CARE: Final = frozenset(("treatment", "adr"))
"""The scopes that are about care itself (consentscope: treatment, advance directives), not about other use of data."""
_IN_FORCE: Final = "active"
_OVER: Final = frozenset(("inactive", "entered-in-error"))
_REJECTED: Final = "rejected"


def is_opposition(consent: Mapping[str, Any]) -> bool:
    """Whether a Consent objects to other use than care, or did.

    One that denies anything in any of its provisions, or by its policy rule (v3-ActCode: OPTOUT, OPTOUTE); and a
    permission that was rejected. What has a scope that is not known may be about research, and counts.
    """
    scopes, status = codes(consent.get("scope")), consent.get("status")
    if scopes and scopes <= _CARE:
        return False
    if status == _REJECTED:
        return True
    return status in (_IN_FORCE, *_OVER) and _denies(consent)


def opposition_of(consent: Mapping[str, Any], name: str, servers: Servers, base: str | None) -> Opposition:
    """What a Consent that is an opposition comes to. Raises Refused where it is of no person.

    It is made while it is active, and lifted when it is over; a rejected Consent says the contrary of what it has.
    """
    rejected = consent.get("status") == _REJECTED
    return Opposition(
        id=servers.record(Target(f"Consent/{name}", base)),
        identity=servers.person(consent, "Consent", base),
        made=not _denies(consent) if rejected else consent.get("status") == _IN_FORCE,
        start=time(at(consent, "provision.period.start")) or time(consent.get("dateTime")),
    )


def _denies(consent: Mapping[str, Any]) -> bool:
    if any(code.startswith("OPTOUT") for code in codes(consent.get("policyRule"))):
        return True
    waiting: list[Any] = [consent.get("provision")]
    for _ in range(_MOST_PROVISIONS):
        if not waiting:
            return False
        provision = waiting.pop()
        if isinstance(provision, dict):
            if provision.get("type") == "deny":
                return True
            waiting.extend(objects(provision, "provision"))
    return True  # more than anyone reads: one of them may well deny


_MOST_PROVISIONS: Final = 10_000
