"""Level 2 as a permutation, and the step around it."""

from __future__ import annotations

import dataclasses
import os

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from contracts import messages
from contracts.comparison import PARTS, ROW_CODES
from contracts.messages import (
    BlockingToken,
    Headers,
    IdentifierToken,
    PermitGranted,
    PermitKeyWrapped,
    RecordPseudonymised,
    RecordReceived,
    TokenBlock,
)
from runtime.messages import Message, Outputs, Reason
from runtime.sealing import Opener, Sealer
from services.pseudonym.domain import SecondLevel, permit_key
from services.pseudonym.handlers import PERMITS, RECEIVED, Pseudonymise

pytestmark = pytest.mark.unit

PSEUDONYM, LINKAGE, ACCESS = (X25519PrivateKey.generate() for _ in range(3))
SECRET = {1: b"2" * 32}
token = st.binary(min_size=16, max_size=16)


def step() -> Pseudonymise:
    return Pseudonymise(
        SecondLevel(SECRET),
        {1: b"3" * 32},
        Opener([PSEUDONYM]),
        Sealer(LINKAGE.public_key()),
        Sealer(ACCESS.public_key()),
    )


def received(block: TokenBlock, number: int = 1, lane: str = "", revision: str = "0") -> Message:
    texts = {
        Headers.EVENT_ID: f"{number:032x}",
        Headers.TYPE: "observation.v1",
        Headers.SOURCE: "urn:estuaire:producer:x",
        Headers.DIGEST: "d" * 32,
        Headers.REVISION: revision,
        Headers.KEY_VERSION: "1",
    }
    bound = messages.associated(
        texts[Headers.EVENT_ID], texts[Headers.TYPE], texts[Headers.SOURCE], texts[Headers.DIGEST]
    )
    sealed = Sealer(PSEUDONYM.public_key()).seal(messages.encode(block), bound)
    value = messages.encode(RecordReceived(sealed, b"content, opaque"))
    encoded = {name: text.encode() for name, text in texts.items()}
    return Message(RECEIVED + lane, 0, 40 + number, 1_790_000_000_000, texts[Headers.EVENT_ID].encode(), value, encoded)


CODES = b"\1\2" * ROW_CODES


def block_of(*tokens: bytes) -> TokenBlock:
    return TokenBlock(
        subject=tokens[0],
        source="urn:estuaire:producer:x",
        status="qualified",
        identifiers=tuple(IdentifierToken("ins-nir", one, rank=1) for one in tokens[1:2]),
        blocking=tuple(BlockingToken("names", one) for one in tokens[2:]),
        codes=CODES * (len(tokens) - 1),
        code_version="1",
    )


def opened(outputs: Outputs) -> list[TokenBlock]:
    blocks = []
    for cause, emit in outputs.emits:
        record = msgspec.msgpack.decode(emit.value or b"", type=RecordPseudonymised)
        bound = messages.associated(
            *(cause.header(name) for name in (Headers.EVENT_ID, Headers.TYPE, Headers.SOURCE, Headers.DIGEST))
        )
        blocks.append(msgspec.msgpack.decode(Opener([LINKAGE]).open(record.tokens, bound), type=TokenBlock))
    return blocks


@given(st.lists(token, unique=True, max_size=40))
def test_level_2_is_a_permutation(tokens: list[bytes]) -> None:
    second = list(SecondLevel(SECRET).tokens(tokens))
    assert len(set(second)) == len(tokens)
    assert second == [next(SecondLevel(SECRET).tokens([one])) for one in tokens]
    assert not set(second) & set(tokens)


def test_another_secret_gives_other_tokens() -> None:
    tokens = [os.urandom(16) for _ in range(10)]
    other = SecondLevel({1: b"4" * 32})
    assert not set(other.tokens(tokens)) & set(SecondLevel(SECRET).tokens(tokens))


def codes_of(secret: dict[int, bytes], rows: np.ndarray, token: bytes) -> np.ndarray:
    (found,) = SecondLevel(secret).codes([rows.astype("<u2").tobytes()], [token] * len(rows))
    return np.frombuffer(found, "<u2").reshape(len(rows), ROW_CODES)


def test_codes_agree_as_they_did_under_their_own_token_and_nowhere_else() -> None:
    rows = np.random.default_rng(1).integers(1, 2**16, (2, ROW_CODES))
    rows[1, ::2] = rows[0, ::2]
    rows[:, PARTS["sex"].start] = 0
    one, other = codes_of(SECRET, rows, b"m" * 16)
    for part in PARTS.values():
        before = len(set(rows[0, part.start : part.stop]) & set(rows[1, part.start : part.stop]))
        assert len(set(one[part.start : part.stop]) & set(other[part.start : part.stop])) == before
        if part.is_set:
            assert list(one[part.start : part.stop]) == sorted(one[part.start : part.stop])
    assert one[PARTS["sex"].start] == 0
    elsewhere, _ = codes_of(SECRET, rows, b"n" * 16)
    strange, _ = codes_of({1: b"another secret of 32 bytes......"}, rows, b"m" * 16)
    assert (one == elsewhere).sum() <= 3
    assert (one == strange).sum() <= 3


def test_codes_that_are_no_whole_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="one row"):
        SecondLevel(SECRET).codes([CODES], [b"m" * 16] * 2)
    message = received(msgspec.structs.replace(block_of(b"s" * 16, b"i" * 16), codes=b"\1\2"))
    outputs = step().handle([message])
    assert [why.reason for _, why in outputs.dead] == [Reason.SCHEMA]


def test_a_token_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="15 bytes"):
        list(SecondLevel(SECRET).tokens([b"x" * 15]))


@given(st.lists(st.lists(token, min_size=1, max_size=6), min_size=1, max_size=5))
def test_a_batch_equals_its_records_one_by_one(people: list[list[bytes]]) -> None:
    batch = [received(block_of(*tokens), number) for number, tokens in enumerate(people)]
    together = opened(step().handle(batch))
    apart = [opened(step().handle([message]))[0] for message in batch]
    assert together == apart
    for tokens, block in zip(people, together, strict=True):
        assert list(block.tokens()) == list(SecondLevel(SECRET).tokens(block_of(*tokens).tokens()))


def test_content_passes_on_unopened_and_the_lane_is_kept() -> None:
    ((_, emit),) = step().handle([received(block_of(b"s" * 16), lane="-backfill")]).emits
    assert emit.topic == "records-pseudonymised-backfill"
    assert msgspec.msgpack.decode(emit.value or b"", type=RecordPseudonymised).content == b"content, opaque"


def test_the_revision_becomes_whole_and_a_replayed_one_is_kept() -> None:
    ((_, first),) = step().handle([received(block_of(b"s" * 16), revision="7")]).emits
    whole = first.headers[Headers.REVISION].decode()
    assert whole == "0000000007-1790000000000-000000000041"
    ((_, again),) = step().handle([received(block_of(b"s" * 16), 9, revision=whole)]).emits
    assert again.headers[Headers.REVISION].decode() == whole
    assert first.headers[Headers.KEY_VERSION] == b"1.1"


def test_what_cannot_be_opened_is_a_dead_letter_and_the_others_go_on() -> None:
    good, bad = received(block_of(b"s" * 16), 1), received(block_of(b"t" * 16), 2)
    swapped = dataclasses.replace(bad, value=good.value)
    garbled = dataclasses.replace(bad, value=b"\xff\xff")
    short = received(block_of(b"s" * 15), 3)
    nameless = dataclasses.replace(good, headers={})
    outputs = step().handle([swapped, good, garbled, short, nameless])
    assert len(outputs.emits) == 1
    assert [why.reason for _, why in outputs.dead] == [Reason.KEYS, Reason.DECODING, Reason.SCHEMA, Reason.SCHEMA]


def test_a_permits_key_is_wrapped_to_access_alone() -> None:
    granted = messages.encode(PermitGranted("cardio", b"{}", "2026-01-01T00:00:00Z"))
    message = Message(PERMITS, 0, 1, 0, b"cardio", granted, {})
    (_, emit), (_, told) = step().handle([message]).emits
    wrapped = msgspec.msgpack.decode(emit.value or b"", type=messages.PermitMessage)
    assert isinstance(wrapped, PermitKeyWrapped)
    key = Opener([ACCESS]).open(wrapped.key, messages.permit_associated("cardio"))
    assert key == permit_key({1: b"3" * 32}, "cardio") != permit_key({1: b"3" * 32}, "other")
    assert (emit.topic, emit.key) == (PERMITS, b"cardio#key")
    leaf = msgspec.msgpack.decode(told.value or b"", type=messages.AuditLeaf)
    assert (told.topic, leaf.actor, leaf.action, leaf.permit) == (
        *("audit", "service:pseudonym"),
        *("permit-key-derived", "cardio"),
    )
    tombstone = dataclasses.replace(message, value=b"")
    assert not step().handle([tombstone]).emits
