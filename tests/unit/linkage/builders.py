"""Identities and messages as linkage receives them, from short names."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from contracts import messages
from contracts.messages import (
    BlockingToken,
    Headers,
    IdentifierToken,
    PatientLink,
    RecordPseudonymised,
    RulesSwitched,
    TokenBlock,
    rules_associated,
)
from runtime.messages import Message, Outputs
from runtime.sealing import Opener, Sealer
from services.ingest.domain.encodings import Comparable, blocking_values
from services.ingest.domain.identity import Person
from services.ingest.domain.tokens import present_traits
from services.linkage.domain.comparison import compare_tagged, evidence, tagged_rows
from services.linkage.domain.rules import RuleVersion, to_bytes
from services.linkage.handlers import RULES_SWITCHED

KEY = X25519PrivateKey.generate()
SEALER = Sealer(KEY.public_key())
COMPARABLE = Comparable(b"k" * 32)


def switched(rules: RuleVersion, at: int) -> Message:
    """An operator's switch to a rule version, at a time in milliseconds."""
    sealed = SEALER.seal(to_bytes(rules), rules_associated(rules.name))
    said = RulesSwitched(rules.name, sealed, "Camille", at)
    return Message(RULES_SWITCHED, 0, at, 0, b"rules", messages.encode(said), {})


def opener() -> Opener:
    """Opens what these builders have sealed."""
    return Opener([KEY])


def token(text: str) -> bytes:
    """A token of 16 bytes."""
    return hashlib.sha256(text.encode()).digest()[:16]


def number(system: str, value: str, rank: int | None = None, scheme: str | None = None) -> IdentifierToken:
    """An identifier's token."""
    return IdentifierToken(system, token(f"{system}:{value}"), rank, scheme)


def identity(
    name: str,
    *numbers: IdentifierToken,
    status: str = "provisional",
    flags: tuple[str, ...] = (),
    correction: bool = False,
    source: str = "urn:test",
    blocked: bool = False,
    **traits: Any,
) -> TokenBlock:
    """A subject called `name`, with codes of these traits of `Person` under its tokens.

    `family_name` is the one at birth; what is no name or date stands for one. A strict token is added where given name,
    family name and birth date are there, blocking tokens only if it is to be `blocked`.
    """
    person = Person(status, **_traits(traits))
    if person.given_name and person.birth_family_name and person.birth_date:
        strict = "|".join((person.birth_family_name, person.given_name, person.birth_date))
        numbers += (IdentifierToken("strict", token(strict)),)
    blocking = tuple(
        BlockingToken(kind, token(f"{kind}:{value}")) for kind, value in blocking_values(person) if blocked
    )
    return TokenBlock(
        token(f"subject:{name}"),
        source,
        status,
        numbers,
        blocking,
        COMPARABLE.rows(person, [*(one.token for one in numbers), *(one.token for one in blocking)]),
        "1.1",
        tuple(present_traits(person)),
        flags,
        correction,
    )


def _traits(given: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name == "birth_date":
            found[name] = value if value[:1].isdigit() else _date(value)
        elif name == "given_name":
            found[name] = _word(value)
            found["given_names"] = (found[name],)
        elif name == "family_name":
            found["birth_family_name"] = _word(value)
        else:
            found[name] = _word(value) if "name" in name else value
    return found


def _word(label: str) -> str:
    """A word for a label that is none: labels that differ by a digit are words that have nothing in common."""
    if label.isalpha():
        return label
    return "".join(chr(65 + byte % 26) for byte in hashlib.sha256(label.encode()).digest()[:8])


def _date(label: str) -> str:
    number = int.from_bytes(hashlib.sha256(label.encode()).digest()[:4])
    return (dt.date(1920, 1, 1) + dt.timedelta(days=number % 36_500)).isoformat()


def evidence_of(left: TokenBlock, right: TokenBlock) -> dict[str, float]:
    """What the codes of two subjects say under a token they share; nothing where they share none."""
    mine, theirs = tagged_rows(left), tagged_rows(right)
    shared = sorted(mine.keys() & theirs.keys())
    return evidence(compare_tagged([(mine[shared[0]], theirs[shared[0]])])[0]) if shared else {}


class Topic:
    """A partition of records-pseudonymised that messages are written to, one offset after another."""

    def __init__(self, partition: int = 0, *, backfill: bool = False, start: int = 0, name: str = "") -> None:
        self.name = name or ("records-pseudonymised-backfill" if backfill else "records-pseudonymised")
        self.partition = partition
        self.offset = start

    def record(
        self,
        event: str,
        block: TokenBlock,
        *,
        digest: str = "d1",
        kind: str = "claim.v1",
        version: int = 0,
        accepted: int | None = None,
    ) -> Message:
        """The next message: a state of the record `event`."""
        event_id = token(event).hex()
        revision = messages.revision(str(version), self.offset if accepted is None else accepted, self.offset)
        bound = messages.associated(event_id, kind, block.source, digest)
        value = RecordPseudonymised(SEALER.seal(msgspec.msgpack.encode(block), bound), b"content")
        headers = {
            Headers.EVENT_ID: event_id,
            Headers.SOURCE: block.source,
            Headers.TYPE: kind,
            Headers.DIGEST: digest,
            Headers.REVISION: revision,
            Headers.KEY_VERSION: "1.1",
        }
        message = Message(
            self.name,
            self.partition,
            self.offset,
            0,
            event_id.encode(),
            messages.encode(value),
            {key: text.encode() for key, text in headers.items()},
        )
        self.offset += 1
        return message


def links(outputs: Outputs) -> list[PatientLink]:
    """The patient-links messages, each once."""
    decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(PatientLink)
    found: dict[int, PatientLink] = {}
    for _, emit in outputs.emits:
        if emit.topic == "patient-links":
            assert emit.value is not None
            link = decoder.decode(emit.value)
            found[link.link_version] = link
    return [found[version] for version in sorted(found)]


def apply_links(patients: dict[bytes, str], outputs: Outputs) -> None:
    """What a consumer of patient-links knows after these outputs."""
    for link in links(outputs):
        new = {"SubjectsLinked": "patient", "PatientsMerged": "survivor", "PatientSplit": "new_patient"}
        patient = getattr(link, new[type(link).__name__])
        patients |= dict.fromkeys(link.subjects, patient)


def sets(patients: Mapping[bytes, object]) -> set[frozenset[bytes]]:
    """The partition that a mapping of subjects to patients is."""
    found: defaultdict[object, set[bytes]] = defaultdict(set)
    for subject, patient in patients.items():
        found[patient].add(subject)
    return {frozenset(one) for one in found.values()}


def counts(outputs: Outputs) -> dict[str, int]:
    """The verdicts, over all sources; dead letters by reason."""
    found: dict[str, int] = {}
    for (_, verdict), count in outputs.counts.items():
        found[verdict] = found.get(verdict, 0) + count
    for _, why in outputs.dead:
        found[why.reason.value] = found.get(why.reason.value, 0) + 1
    return found


def of(outputs: Sequence[Outputs]) -> dict[str, int]:
    """The verdicts of several batches together."""
    found: dict[str, int] = {}
    for one in outputs:
        for verdict, count in counts(one).items():
            found[verdict] = found.get(verdict, 0) + count
    return found
