"""Links that sign in at the local platform's console."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from estuaire.console import LIFETIME, links_folder, sign_in_link
from estuaire.keyring import Keyring
from services.console.adapters import Links

pytestmark = pytest.mark.unit

URL = "http://127.0.0.1:8080"


def test_a_link_gives_the_console_a_token_once(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    keyring.prepare()
    secret = sign_in_link(tmp_path, URL, "ada", "officer", "reviewer").removeprefix(f"{URL}/enter?link=")
    token = Links(links_folder(tmp_path)).open(secret)
    assert token is not None
    keys = KeySet.import_key_set(json.loads(keyring.issuer_keys.read_text()))
    claims = jwt.decode(token, keys).claims
    assert (claims["sub"], claims["roles"]) == ("ada", ["officer", "reviewer"])
    assert Links(links_folder(tmp_path)).open(secret) is None


def test_links_are_nobody_elses_do_not_tell_their_secret_and_do_not_pile_up(tmp_path: Path) -> None:
    Keyring(tmp_path).prepare()
    secret = sign_in_link(tmp_path, URL, "ada", "officer").rpartition("=")[2]
    (old,) = links_folder(tmp_path).iterdir()
    assert secret not in old.name + old.read_text()
    assert (old.stat().st_mode | links_folder(tmp_path).stat().st_mode) & 0o077 == 0
    os.utime(old, (0, time.time() - LIFETIME - 1))
    sign_in_link(tmp_path, URL, "ada", "officer")
    assert not old.exists()
