"""A number behind a hash without a key is found by trying all there are: the reason why every token is keyed."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets

import pytest

from services.ingest.domain.identity import nir_key
from tests.dictionary import attack, in_clear, keyed, nirs, unkeyed

pytestmark = pytest.mark.unit

ALL = nirs(85, "35238")
VICTIM = "2850535238148"


def test_the_dictionary_is_every_number_of_a_year_and_a_commune() -> None:
    assert len(ALL) == len(set(ALL)) == 23_976
    assert {len(one) for one in ALL} == {13}
    assert VICTIM in ALL


def test_an_unkeyed_hash_is_broken_however_it_is_kept() -> None:
    number, with_key = VICTIM.encode(), f"{VICTIM}{nir_key(VICTIM):02d}".encode()
    kept = {
        "raw": hashlib.sha256(number).digest(),
        "16 bytes": hashlib.sha256(number).digest()[:16],
        "hex": hashlib.sha256(number).hexdigest().encode(),
        "base64": base64.b64encode(hashlib.sha256(number).digest()),
        "with its key": hashlib.sha256(with_key).digest(),
        "as a token": hashlib.sha256(b"ins-nir\0" + number).hexdigest()[:32].upper().encode(),
    }
    tables = {name: os.urandom(1001) + value + os.urandom(50) for name, value in kept.items()}
    hits = list(attack(ALL, {"sha256": unkeyed("sha256")}, tables.items()))
    assert sorted(hit.place for hit in hits) == sorted(kept)
    assert {sorted(ALL)[hit.needle] for hit in hits} == {VICTIM}


def test_a_keyed_hash_is_broken_by_its_key_alone() -> None:
    key = secrets.token_bytes(32)
    born_in_may = [one for one in ALL if one.startswith(VICTIM[:5])]
    table = [("table", os.urandom(1001) + keyed(key)(VICTIM.encode())[:16])]
    (hit,) = attack(born_in_may, {"its key": keyed(key)}, table)
    assert sorted(born_in_may)[hit.needle] == VICTIM
    others = {"none": unkeyed("sha256"), "another": keyed(secrets.token_bytes(32))}
    assert not list(attack(born_in_may, others, table))


def test_a_number_in_the_clear_is_read() -> None:
    hits = in_clear(ALL, [("log", f"patient {VICTIM} seen".encode()), ("else", b"patient 1850535999148 seen")])
    assert {(hit.place, hit.form) for hit in hits} == {("log", "utf-8")}
