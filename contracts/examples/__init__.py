"""An example of everything that is promised, for readers and for tests.

`<topic>/<version>/*.json` are envelopes: key, headers and the decoded value, bytes as base64. `event/`, `receipt/`
and `permit/` hold the documents themselves; `token-block/`, `content/` and `measures/` what is sealed inside. All
identities are invented. Sealed bodies are really sealed, under keys that anybody can work out (`throwaway_key`).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from contracts.messages import VALUES
from contracts.registry import topics

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Example:
    """One message as a consumer reads it. `name` is its file, for the names of tests."""

    name: str
    key: bytes | None
    headers: Mapping[str, bytes]
    value: bytes


def paths(name: str, version: int = 1) -> list[Path]:
    """The files of the examples of a topic or document, sorted."""
    return sorted((HERE / name / str(version)).glob("*.json"))


def load(topic: str, version: int = 1) -> list[Example]:
    """The examples of a topic, encoded as on the wire."""
    found = []
    for path in paths(topic, version):
        envelope = json.loads(path.read_text())
        key = envelope["key"]
        headers = {name: text.encode() for name, text in envelope["headers"].items()}
        value = _encoded(topic, envelope["value"])
        found.append(Example(path.stem, None if key is None else key.encode(), headers, value))
    return found


def throwaway_key(name: str) -> bytes:
    """The 32 bytes of a key that the examples use and nothing else may: private keys of services, secrets."""
    return hashlib.sha256(b"estuaire example key\n" + name.encode()).digest()


def _encoded(topic: str, value: Any) -> bytes:
    if topics()[topic].encoding == "json":
        return json.dumps(value, ensure_ascii=False).encode()
    if topic in VALUES:
        return msgspec.msgpack.encode(msgspec.json.decode(json.dumps(value), type=VALUES[topic]))
    sealed = {name: base64.b64decode(text) for name, text in value.items() if name == "measures"}
    return msgspec.msgpack.encode(value | sealed)
