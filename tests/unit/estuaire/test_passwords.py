"""Passwords of accounts: made once each, whoever asks at the same time."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from estuaire.passwords import Passwords

pytestmark = pytest.mark.unit


def test_of_many_that_are_made_at_once_none_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "accounts" / "kafka.json"
    names = [f"team-{number}" for number in range(40)] * 2
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda name: Passwords(path).of(name), names))
    assert json.loads(path.read_text()) == dict(zip(names, given, strict=True))
    assert len(set(given)) == 40
    assert path.stat().st_mode & 0o077 == 0
