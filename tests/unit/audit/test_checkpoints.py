"""Signed heads: the note format of C2SP, and what is refused."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.audit.domain.checkpoints import Checkpoint, NoteBroken, Signer, Verifier

pytestmark = pytest.mark.unit

ORIGIN = "example.org/audit"
SIGNER = Signer(ORIGIN, bytes(range(32)))
AT = dt.datetime(2026, 3, 1, 10, tzinfo=dt.UTC)
HEAD = Checkpoint(ORIGIN, 41, bytes(range(32)), AT)
VERIFIER = Verifier([SIGNER.verifier_key()])


def test_a_note_is_written_as_the_format_says() -> None:
    text, signature = SIGNER.sign(HEAD).split("\n\n")
    assert text.splitlines() == [
        ORIGIN,
        "41",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "time 2026-03-01T10:00:00Z",
    ]
    assert signature.startswith(f"— {ORIGIN} ")
    assert signature.endswith("\n")
    assert VERIFIER.checkpoint(SIGNER.sign(HEAD)) == HEAD


def test_a_note_of_another_implementation_verifies() -> None:
    """The example of golang.org/x/mod/sumdb/note; it is signed, and no checkpoint."""
    key = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    note = (
        "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
        "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    with pytest.raises(NoteBroken, match="no key of this log has signed it"):
        Verifier([key]).checkpoint(note)
    with pytest.raises(NoteBroken, match="forged"):
        Verifier([key]).checkpoint(note.replace("problem is", "problem was"))


@given(st.data())
def test_no_bit_of_a_note_can_be_changed(data: st.DataObject) -> None:
    note = SIGNER.sign(HEAD).encode()
    at, bit = data.draw(st.integers(0, len(note) - 1)), data.draw(st.integers(0, 7))
    changed = (note[:at] + bytes([note[at] ^ 1 << bit]) + note[at + 1 :]).decode("utf-8", "replace")
    with pytest.raises(NoteBroken):
        VERIFIER.checkpoint(changed)


def test_what_another_key_has_signed_is_refused_and_one_of_several_suffices() -> None:
    note = SIGNER.sign(HEAD)
    other = Signer(ORIGIN, b"x" * 32)
    with pytest.raises(NoteBroken, match="no key of this log"):
        VERIFIER.checkpoint(other.sign(HEAD))
    # what an unknown key says besides is passed over: so keys are rotated, and witnesses sign
    both = note + other.sign(HEAD).partition("\n\n")[2]
    assert VERIFIER.checkpoint(both) == HEAD
    assert Verifier([other.verifier_key(), SIGNER.verifier_key()]).checkpoint(note) == HEAD
    named_otherwise = Signer("example.org/other", bytes(range(32)))
    with pytest.raises(NoteBroken, match="no key of this log"):
        Verifier([named_otherwise.verifier_key()]).checkpoint(named_otherwise.sign(HEAD))


@pytest.mark.parametrize("note", ["", "\n\n", "a\n1\nb\n", "— a b\n", SIGNER.sign(HEAD)[:-1], "x" * 200_000])
def test_what_is_no_note_is_refused(note: str) -> None:
    with pytest.raises(NoteBroken):
        VERIFIER.checkpoint(note)


@pytest.mark.parametrize("head", [HEAD._replace(size=-1), HEAD._replace(root=b"short"), HEAD._replace(root=b"")])
def test_what_is_signed_and_no_checkpoint_is_refused(head: Checkpoint) -> None:
    with pytest.raises(NoteBroken, match="no checkpoint"):
        VERIFIER.checkpoint(SIGNER.sign(head))


def test_a_head_is_dated_to_the_second() -> None:
    assert VERIFIER.checkpoint(SIGNER.sign(HEAD._replace(at=AT.replace(microsecond=5)))) == HEAD


def test_keys_and_origins_are_checked() -> None:
    for key in ("", "a+b", "a+00000000+AA==", SIGNER.verifier_key().replace("example", "sample")):
        with pytest.raises(NoteBroken, match="verifier key"):
            Verifier([key])
    with pytest.raises(NoteBroken, match="no key"):
        Verifier([])
    for origin in ("", "a b", "a+b", "a\nb"):
        with pytest.raises(ValueError, match="origin"):
            Signer(origin, bytes(32))
