"""Identities and messages as linkage receives them, from short names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from contracts import messages
from contracts.messages import Headers, IdentifierToken, PatientLink, RecordPseudonymised, TokenBlock
from runtime.messages import Message, Outputs
from runtime.sealing import Opener, Sealer

KEY = X25519PrivateKey.generate()
SEALER = Sealer(KEY.public_key())


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
    **traits: Any,
) -> TokenBlock:
    """A subject called `name`, with tokens of these traits; `strict` is added when all three parts are there."""
    named = {"family_name": "birth_family_name"}
    tokens = {
        named.get(trait, trait): token(f"{'family' if 'family' in trait else trait}:{value}")
        for trait, value in traits.items()
    }
    if {"birth_date", "given_name", "family_name"} <= traits.keys():
        tokens["strict"] = token("|".join(traits[one] for one in ("family_name", "given_name", "birth_date")))
    return TokenBlock(token(f"subject:{name}"), source, status, numbers, tokens, flags=flags, correction=correction)


class Topic:
    """A partition of records-pseudonymised that messages are written to, one offset after another."""

    def __init__(self, partition: int = 0, *, backfill: bool = False, start: int = 0) -> None:
        self.name = "records-pseudonymised-backfill" if backfill else "records-pseudonymised"
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
    return {
        frozenset(subject for subject in patients if patients[subject] == patient) for patient in set(patients.values())
    }


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
