"""From an identity to keyed tokens and comparison codes: level 1. Pure, and nothing here is kept.

A token is 16 bytes of HMAC-SHA-256, chained over the versions of secret 1: T_1 = HMAC(K_1, domain NUL value),
T_v = HMAC(K_v, T_v-1), each cut to 16 bytes, so that tokens written under an old version move on without an
identity. The domain keeps systems and kinds apart: equal values in two domains have unrelated tokens. Comparison codes
(see `encodings`) do not move on: they are made under the newest version, and compare within it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from contracts.events import Identity
from contracts.messages import BlockingToken, IdentifierToken, TokenBlock
from services.ingest.domain.encodings import Comparable, blocking_values
from services.ingest.domain.identity import FICTITIOUS, Person, normalise

TOKEN_BYTES: Final = 16
UNLINKABLE: Final = "unlinkable"
STRICT: Final = "strict"
"""The system of the token that the strict traits make together."""


class FirstLevel:
    """Tokens under all versions of secret 1, the newest last."""

    def __init__(self, secret: Mapping[int, bytes]) -> None:
        """Raises ValueError unless the versions are 1, 2, 3 and so on: a chain has no gaps."""
        if not secret or sorted(secret) != list(range(1, len(secret) + 1)):
            raise ValueError("the versions are not 1, 2, 3 and so on; put the missing ones back")
        self.version = len(secret)
        self._first = secret[1]
        self._further = [secret[version] for version in range(2, self.version + 1)]

    def token(self, domain: str, value: str) -> bytes:
        """The token of a value in a domain, under the newest version."""
        token = hmac.digest(self._first, f"{domain}\0{value}".encode(), "sha256")[:TOKEN_BYTES]
        for key in self._further:
            token = hmac.digest(key, token, "sha256")[:TOKEN_BYTES]
        return token


class Tokeniser:
    """Identities to token blocks. The last `remember` identities cost little when they come again. For one thread.

    They are remembered by a digest under a key of this process, so that memory holds tokens and no identity.
    """

    def __init__(self, secret: Mapping[int, bytes], remember: int = 20_000) -> None:
        self._level = FirstLevel(secret)
        self.version = self._level.version
        self._comparable = Comparable(secret[self.version])
        self._remember = remember
        self._known: OrderedDict[bytes, TokenBlock] = OrderedDict()
        self._salt = os.urandom(32)

    def block(self, source: str, identity: Identity, event_id: str) -> TokenBlock:
        """The identity's block, without `correction`. Raises InvalidIdentity.

        A fictitious or an unlinkable identity is a subject of its own, made from the event's id.
        """
        canonical = f"{source}\0".encode() + identity.__pydantic_serializer__.to_json(identity)
        place = hashlib.blake2b(canonical, key=self._salt, digest_size=16).digest()
        block = self._known.get(place)
        if block is None:
            block = self._known[place] = self._make(source, normalise(identity))
            if len(self._known) > self._remember:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(place)
        if block.subject:
            return block
        return msgspec.structs.replace(block, subject=self._level.token("subject of an event", event_id))

    def _make(self, source: str, person: Person) -> TokenBlock:
        if not person.linkable():
            flags = () if person.status == FICTITIOUS else tuple(sorted({*person.flags, UNLINKABLE}))
            return TokenBlock(subject=b"", source=source, status=person.status, flags=flags)
        spelling = msgspec.json.encode(person._replace(flags=())).decode()
        identifiers = tuple(
            IdentifierToken(one.namespace, self._level.token(one.namespace, one.value), one.rank, one.scheme)
            for one in person.numbers
        )
        strict = strict_traits(person)
        if strict:
            identifiers += (IdentifierToken(STRICT, self._level.token(STRICT, strict)),)
        blocking = tuple(
            BlockingToken(kind, self._level.token(f"blocking {kind}", value)) for kind, value in blocking_values(person)
        )
        return TokenBlock(
            subject=self._level.token("subject", f"{source}\0{spelling}"),
            source=source,
            status=person.status,
            identifiers=identifiers,
            blocking=blocking,
            codes=self._comparable.rows(
                person, [*(one.token for one in identifiers), *(one.token for one in blocking)]
            ),
            code_version=str(self.version),
            present=tuple(present_traits(person)),
            flags=person.flags,
        )


def strict_traits(person: Person) -> str:
    """The strict traits of the INS as one text, or nothing where one is missing.

    Source: Référentiel national d'identitovigilance, "traits stricts".
    """
    full_date = person.birth_date if len(person.birth_date) == 10 else ""
    strict = (person.birth_family_name, person.given_name, full_date, person.sex, person.birth_place)
    return "\0".join(strict) if all(strict) else ""


def present_traits(person: Person) -> Iterator[str]:
    """The names of the traits that linkage has rules about, as far as they are there."""
    if len(person.birth_date) == 10:
        yield "birth_date"
    if person.given_name:
        yield "given_name"
    if person.birth_family_name or person.used_family_name:
        yield "family_name"
