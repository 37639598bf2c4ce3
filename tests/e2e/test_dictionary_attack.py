"""Whoever tries every NIR of a year and a commune on all that the hub keeps finds nobody, inside the hub or out.

The attacker reads every topic and every table, and has opened every seal; they hold the keys of one service at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import psycopg
import pytest
from psycopg import sql

from contracts.messages import measures_associated
from estuaire.keyring import Keyring
from runtime.keys import FolderKeyStore
from runtime.messages import SUMMARIES, FlowSummary
from runtime.sealing import Opener
from services.access.vault import Vault
from services.ingest.domain.identity import nir_key
from services.ingest.domain.tokens import FirstLevel
from services.pseudonym.domain import SecondLevel
from tests.dictionary import UNKEYED, Hash, attack, in_clear, keyed, nirs
from tests.hub import Hub, content, opened

pytestmark = pytest.mark.e2e

Make = Callable[..., dict[str, Any]]
Places = dict[str, bytes]
"""All that lies in one place, by its name."""

ALL = nirs(85, "35360")
VICTIMS = ("2850535360148", "1851235360001", "2850135360999", "1850735360512")
SEALED = ("records-received", "records-pseudonymised", "records-linked")


@pytest.fixture(scope="module")
def places(hub: Hub) -> Places:
    """Everything the hub keeps after records of these people went through it, some of them in the dead letters."""
    source = hub.source()
    permit = hub.permit(source)
    events = [_event(source, victim, number) for number, victim in enumerate(VICTIMS)]
    changed = _event(source, VICTIMS[0], 0)
    changed["data"]["record"]["valueQuantity"]["value"] = 99
    hub.send(source, [*events, changed])
    assert len(hub.view(permit).entries()) == len(VICTIMS)
    return _topics(hub) | _tables(hub)


def test_nobody_is_found_with_the_keys_of_one_service(hub: Hub, places: Places) -> None:
    assert sum(map(len, places.values())) > 10_000
    assert not {(hit.place, hit.form) for hit in in_clear(ALL, places.items())}
    assert not {(hit.place, hit.form) for hit in attack(ALL, UNKEYED | _single(hub), places.items())}


def test_the_attack_is_real(hub: Hub, places: Places) -> None:
    """With secret 1 the opened tokens of level 1 fall, with secret 2 as well linkage's tables, and nothing else."""
    first = FirstLevel(FolderKeyStore(hub.platform.keyring.folder("ingest")).secret("level-1"))
    second = SecondLevel(FolderKeyStore(hub.platform.keyring.folder("pseudonym")).secret("level-2"))

    def one(text: bytes) -> bytes:
        domain, _, value = text.decode().partition("\0")
        return first.token(domain, value)

    def both(text: bytes) -> bytes:
        return next(second.tokens([one(text)]))

    hits = list(attack(ALL, {"level 1": one, "level 2": both}, places.items()))
    assert {sorted(ALL)[hit.needle] for hit in hits} == set(VICTIMS)
    found = {(hit.form, hit.place) for hit in hits}
    assert {place for form, place in found if form == "level 1"} == {"records-received, opened"}
    assert {place for form, place in found if form == "level 2"} == {
        "linkage.subjects",
        "linkage.subject_tokens",
        "records-pseudonymised, opened",
        "records-pseudonymised-dlq, opened",
    }


def test_what_is_planted_is_found(places: Places) -> None:
    planted = {place: data + UNKEYED["sha256"](VICTIMS[0].encode())[:16] for place, data in places.items()}
    hits = attack(ALL, {"sha256": UNKEYED["sha256"]}, planted.items())
    assert {hit.place for hit in hits} == places.keys()


_TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
"""
_BODIES = """
SELECT subject, key, body, event_id FROM history JOIN subjects USING (subject)
WHERE body IS NOT NULL AND key IS NOT NULL
"""


def _event(source: str, nir: str, number: int) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": nir,
        "source": source,
        "type": "observation.v1",
        "time": "2026-03-01T10:00:00Z",
        "data": {
            "identity": {
                "identifiers": [
                    {"system": "ins-nir", "value": nir if number % 2 else f"{nir}{nir_key(nir):02d}"},
                    {"system": "nir-opener", "value": nir, "rank": 1},
                ],
                "identity_status": "qualified" if number < 2 else "provisional",
                "birth_family_name": "LE GOFF",
                "given_names": ["Anne"],
                "sex": "male" if nir[0] == "1" else "female",
                "birth_date": f"1985-{nir[3:5]}-12",
            },
            "record": {
                "resourceType": "Observation",
                "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
                "effectiveDateTime": "2026-03-01T10:00:00Z",
                "valueQuantity": {"value": 72, "system": "http://unitsofmeasure.org", "code": "/min"},
            },
        },
    }


def _single(hub: Hub) -> dict[str, Hash]:
    """What each service but ingest can make of a number with the keys that it holds."""
    hashes: dict[str, Hash] = {}
    for service in ("pseudonym", "linkage", "access", "statistics", "audit"):
        folder = hub.platform.keyring.folder(service)
        for path in sorted(folder.glob("*.json")):
            for version, key in FolderKeyStore(folder).secret(path.stem).items():
                hashes[f"HMAC of {service} under {path.stem} {version}"] = keyed(key)
    second = SecondLevel(FolderKeyStore(hub.platform.keyring.folder("pseudonym")).secret("level-2"))
    hashes["level 2 of an unkeyed hash"] = lambda text: next(second.tokens([UNKEYED["sha256"](text)[:16]]))
    return hashes


def _topics(hub: Hub) -> Places:
    """Every topic's keys, headers and values, and beside it what is under its seals."""
    keyring = hub.platform.keyring
    openers = [_opener(keyring, service) for service in ("pseudonym", "linkage", "access")]
    found: Places = {}
    for name in hub.topics():
        messages = hub.messages(name)
        found[name] = content(messages)
        if name.startswith(SEALED):
            found[f"{name}, opened"] = b"\n".join(part for one in messages for part in opened(one, openers))
    found[f"{SUMMARIES}, opened"] = b"\n".join(_measures(hub))
    assert all(found[f"{name}, opened"] for name in (*SEALED, SUMMARIES))
    return {name: data for name, data in found.items() if data}


def _opener(keyring: Keyring, service: str) -> Opener:
    return Opener(FolderKeyStore(keyring.folder(service)).private(f"{service}-private"))


def _measures(hub: Hub) -> Iterator[bytes]:
    """What ingest has counted, as statistics reads it."""
    opener = _opener(hub.platform.keyring, "statistics")
    for message in hub.messages(SUMMARIES):
        summary = msgspec.msgpack.decode(message.value, type=FlowSummary)
        if summary.measures:
            yield opener.open(summary.measures, measures_associated(summary.at))


def _tables(hub: Hub) -> Places:
    """Every table, as PostgreSQL writes it, and the bodies of access's history opened."""
    found: Places = {}
    for service in ("audit", "statistics", "linkage", "access"):
        url = hub.platform.services[service].environment[f"ESTUAIRE_{service.upper()}_DATABASE_URL"]
        with psycopg.connect(url) as connection:
            for (table,) in connection.execute(_TABLES).fetchall():
                copy = sql.SQL("COPY (TABLE {}) TO STDOUT (FORMAT binary)").format(sql.Identifier(table))
                with connection.cursor().copy(copy) as rows:
                    found[f"{service}.{table}"] = b"".join(bytes(row) for row in rows)
    vault = Vault(FolderKeyStore(hub.platform.keyring.folder("access")).secret("history"))
    with psycopg.connect(url) as connection:
        bodies = connection.execute(_BODIES).fetchall()
    found["access.history, opened"] = b"\n".join(vault.open(*one) for one in bodies)
    assert found["access.history, opened"]
    return found
