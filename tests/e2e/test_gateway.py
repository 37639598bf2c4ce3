"""A second ingest, in another building: one person from both is one patient, and neither site learns of the other's."""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml

from contracts.messages import Headers, associated
from estuaire import gateway
from estuaire.platform import Service
from estuaire.process import free_port
from estuaire.producer import Producer
from runtime.http import hash_token
from runtime.keys import FolderKeyStore
from runtime.messages import Message
from runtime.sealing import Opener
from services.ingest.domain.identity import nir_key
from services.ingest.domain.tokens import FirstLevel
from services.ingest.handlers import Ids
from tests.hub import Hub, content
from tests.search import Search

pytestmark = pytest.mark.e2e

Make = Callable[..., dict[str, Any]]
NIR, OTHER_NIR, THIRD_NIR = "2850535238001", "2850535238002", "2850535238003"
TOKEN = "the token that site B gave its producer"


class Site:
    """A gateway with keys and producers of its own, in a folder of its own."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.source = hub.source()
        self.keys = folder / "keys"
        self.keys.mkdir()
        for name in (gateway.SHARED, *gateway.GIVEN):
            shutil.copy(hub.platform.keyring.folder("ingest") / f"{name}.json", self.keys)
        self.fingerprints = gateway.prepare(self.keys)
        producers = folder / "producers.yaml"
        listed = [{"source": self.source, "token_sha256": hash_token(TOKEN)}]
        producers.write_text(yaml.safe_dump({"producers": listed}))
        port = free_port()
        environment = {
            **hub.platform.services["ingest"].environment,
            "ESTUAIRE_PORT": str(port),
            "ESTUAIRE_TRACE_FILE": str(folder / "spans.ndjson"),
            "ESTUAIRE_INGEST_KEYS": str(self.keys),
            "ESTUAIRE_INGEST_PRODUCERS": str(producers),
        }
        self.folder = folder
        self.service = Service("ingest", f"http://127.0.0.1:{port}", folder / "ingest.log", environment)
        self.service.start()
        self.service.wait(time.monotonic() + 30)

    def send(self, *events: dict[str, Any]) -> None:
        with Producer(self.service.url, TOKEN) as producer:
            (answer,) = producer.send(events)
            assert not answer.rejected
            assert producer.wait_for_views(self.source)


@pytest.fixture(scope="module")
def site(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    one = Site(hub, tmp_path_factory.mktemp("site-b"))
    yield one
    one.service.stop()


def person(number: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        "identity": {
            "identifiers": [
                {"system": "ins-nir", "value": f"{number}{nir_key(number):02d}"},
                {"system": "ipp", "assigner": "b", "value": name},
            ],
            "identity_status": "qualified",
            "birth_family_name": name,
            "given_names": ["Maximilienne-Gwenaelle"],
            "sex": "female",
            "birth_date": "1985-05-12",
            "residence": {"address": "1234 impasse du Vieux-Moulin", "city": "Saint-Malo-de-Beignon"},
        },
        **more,
    }


def about(event: dict[str, Any], number: str, name: str) -> dict[str, Any]:
    record = {**event["data"]["record"], "note": [{"text": f"{name} called from 02 99 00 47 11"}]}
    return {**event, "data": person(number, name, record=record)}


def test_a_person_seen_at_both_sites_is_one_patient(hub: Hub, site: Site, observation: Make) -> None:
    here = hub.source()
    permit = hub.permit(here, site.source)
    hub.send(here, [about(observation(here, "here", 1), NIR, "KERGUELEN-TREMAREC")])
    site.send(about(observation(site.source, "there", 1), NIR, "KERGUELEN-TREMAREC"))
    entries = hub.view(permit).entries()
    assert len(entries) == 2
    assert len({entry.subject for entry in entries}) == 1


def test_no_identity_leaves_the_gateway(hub: Hub, site: Site, observation: Make) -> None:
    name = "PLOUGASTEL-DAOULAS-LE-BIHAN"
    site.send(about(observation(site.source, f"record-{name}", 2), OTHER_NIR, name))
    planted = [
        name,
        OTHER_NIR,
        f"{OTHER_NIR}{nir_key(OTHER_NIR):02d}",
        "Maximilienne-Gwenaelle",
        "1234 impasse du Vieux-Moulin",
        TOKEN,
    ]
    planted += ["Saint-Malo-de-Beignon", "02 99 00 47 11", f"record-{name}"]
    search = Search(planted)
    assert len(search.needles) == len(planted)
    hits = [hit for topic in hub.topics() for hit in search.bytes(topic, content(hub.messages(topic)))]
    for path in (site.folder / "ingest.log", site.folder / "spans.ndjson"):
        hits += list(search.file(path)) if path.exists() else []
    assert not {(hit.place, hit.form) for hit in hits}
    assert list(search.bytes("planted", b"x" + name.encode())), "the search finds what is there"


def test_another_site_with_secret_1_cannot_test_a_number(hub: Hub, site: Site, observation: Make) -> None:
    """Site B holds secret 1 and reads all of records-received. It knows the number and even the whole record."""
    here = hub.source()
    event = observation(here, "guessable-0001", 3)
    event["data"] = person(THIRD_NIR, "TREGASTEL", record=event["data"]["record"])
    hub.send(here, [event])
    received = [one for one in hub.messages("records-received") if one.value]
    haystack = content(received)

    mine, theirs = FolderKeyStore(site.keys), FolderKeyStore(hub.platform.keyring.folder("ingest"))
    token = FirstLevel(mine.secret("level-1")).token("ins-nir", THIRD_NIR)
    for form in (token, token.hex().encode(), base64.b64encode(token)[:20]):
        assert form not in haystack
    (opened,) = _opened(hub, received, here)
    assert token in opened, "it is the token of level 1, and pseudonym alone can read it"

    guess = ("observation.v1", event["time"], None, event["data"])
    for keys, found in ((mine, False), (theirs, True)):
        ids = Ids(keys.secret("event-id")[1], keys.secret("digest")[1])
        assert (ids.event_id(here, "guessable-0001").encode() in haystack) is found
        assert (ids.digest(*guess).encode() in haystack) is found


def test_a_site_without_secret_1_does_not_start_and_fingerprints_tell_whose_is_another(
    hub: Hub, site: Site, tmp_path: Path
) -> None:
    other = gateway.prepare(hub.platform.keyring.folder("ingest"))
    assert {name for name in other if other[name] == site.fingerprints[name]} == {gateway.SHARED, *gateway.GIVEN}
    response = httpx.post(f"{site.service.url}/v1/events", json={}, headers={"Authorization": "Bearer not B's"})
    assert response.status_code == httpx.codes.UNAUTHORIZED
    (tmp_path / "keys").mkdir()
    environment = {**site.service.environment, "ESTUAIRE_INGEST_KEYS": str(tmp_path / "keys")}
    keyless = Service("ingest", "http://127.0.0.1:1", tmp_path / "log", environment)
    keyless.start()
    hub.wait_for(lambda: not keyless.running())
    assert "level-1" in keyless.last_error()


def _opened(hub: Hub, received: list[Message], source: str) -> list[bytes]:
    """The token blocks of a source, opened by pseudonym's key."""
    opener = Opener(FolderKeyStore(hub.platform.keyring.folder("pseudonym")).private("pseudonym-private"))
    names = (Headers.EVENT_ID, Headers.TYPE, Headers.SOURCE, Headers.DIGEST)
    return [
        opener.open(msgspec.msgpack.decode(one.value)["tokens"], associated(*(one.header(name) for name in names)))
        for one in received
        if one.header(Headers.SOURCE) == source
    ]
