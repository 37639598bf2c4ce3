"""The search of the privacy test can fail: it finds each form, wherever it stands."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path

import pytest

from tests.search import Search

pytestmark = pytest.mark.unit

NEEDLE = "LE GOFFRÉDO Anne-Marie"


@pytest.mark.parametrize("offset", range(9))
@pytest.mark.parametrize(
    ("form", "planted"),
    [
        ("utf-8", NEEDLE.encode()),
        ("utf-8", b"LE GOFFREDO ANNE-MARIE"),
        ("utf-16-le", NEEDLE.encode("utf-16-le")),
        ("hex", NEEDLE.encode().hex().encode()),
        ("base64", base64.b64encode(b"a" + NEEDLE.encode() + b"tail")),
        ("base64", base64.b64encode(b"ab" + NEEDLE.encode())),
        ("base64", base64.b64encode(NEEDLE.encode() + b"xy")),
        ("json", rb"LE GOFFR\u00c9DO Anne-Marie"),
        ("md5", hashlib.md5(NEEDLE.encode()).digest()),
        ("sha256", hashlib.sha256(NEEDLE.upper().encode()).hexdigest().encode()),
    ],
)
def test_finds_each_form_at_any_offset(form: str, planted: bytes, offset: int) -> None:
    data = os.urandom(1000 + offset) + planted + os.urandom(100)
    assert form in {hit.form for hit in Search([NEEDLE]).bytes("here", data)}


def test_finds_nothing_where_nothing_is() -> None:
    assert not list(Search([NEEDLE]).bytes("here", os.urandom(1 << 20)))


def test_short_needles_are_left_out() -> None:
    assert Search(["MARTIN"]).needles == []


def test_finds_across_the_pieces_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    planted = NEEDLE.encode()
    path.write_bytes(b"x" * ((8 << 20) - 5) + planted + bytes(9 << 20) + planted)
    assert len([hit for hit in Search([NEEDLE]).file(path) if hit.form == "utf-8"]) == 2
