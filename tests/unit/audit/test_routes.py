"""What the audit log answers over HTTP, as its document says it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.testclient import TestClient

from contracts.merkle import Tree, extends, includes, leaf_hash
from estuaire.platform import SERVICES
from runtime.http import Bearers, hash_token
from runtime.messages import RetryLater
from services.audit.adapters import Wanted
from services.audit.domain.proofs import Node
from services.audit.domain.verification import Stored
from services.audit.routes import application
from tests.unit.runtime.test_http import check_documents

pytestmark = pytest.mark.unit

AUDITOR = {"Authorization": "Bearer secret"}


class FakeReader:
    """A log of five entries with two checkpoints; away, if it is told so."""

    def __init__(self) -> None:
        self.lines = [b'{"number":%d}' % number for number in range(5)]
        self.tree = Tree()
        self.known = {node[:2]: node[2] for line in self.lines for node in self.tree.append(leaf_hash(line))}
        self.asked: list[Wanted] = []
        self.notes = [(3, "three"), (5, "five")]
        self.away = False

    def size(self) -> int:
        if self.away:
            raise RetryLater("away")
        return len(self.lines)

    def nodes(self, wanted: Iterable[Node]) -> dict[Node, bytes]:
        return {node: self.known[node] for node in wanted}

    def entries(self, start: int, most: int, wanted: Wanted) -> list[Stored]:
        self.asked.append(wanted)
        found = [Stored(number, line, leaf_hash(line)) for number, line in enumerate(self.lines)]
        return found[start:][:most]

    def entries_back(self, start: int, most: int, wanted: Wanted) -> list[Stored]:
        self.asked.append(wanted)
        return [one for one in self.entries(0, 100, wanted)[::-1] if one.number <= start][:most]

    def checkpoints(self, after: int, most: int) -> list[tuple[int, str]]:
        return [one for one in self.notes if one[0] > after][:most]

    def last_checkpoint(self) -> str | None:
        return self.notes[-1][1] if self.notes else None


@dataclass(frozen=True)
class FakeSigning:
    """How the signing is said to go."""

    trouble: str | None = None
    is_distrusted: bool = False

    def readiness(self) -> str | None:
        return self.trouble

    def distrusts(self) -> bool:
        return self.is_distrusted


AUDITORS, WELL = Bearers({hash_token("secret"): "auditor"}), FakeSigning()


@pytest.fixture
def reader() -> FakeReader:
    return FakeReader()


@pytest.fixture
def client(reader: FakeReader) -> TestClient:
    return TestClient(application(lambda: None, reader, AUDITORS, WELL), headers=AUDITOR)


def test_the_document_says_what_is_answered() -> None:
    nothing: Any = None
    check_documents(
        application(lambda: None, nothing, Bearers({}), WELL),
        {
            "GET /v1/entries": {200, 401, 403, 422, 503},
            "GET /v1/state": {200, 401, 403, 503},
            "GET /v1/checkpoint": {200, 401, 403, 404, 503},
            "GET /v1/checkpoints": {200, 401, 403, 422, 503},
            "GET /v1/proofs/inclusion": {200, 401, 403, 422, 503},
            "GET /v1/proofs/consistency": {200, 401, 403, 422, 503},
        },
    )


@pytest.mark.parametrize(
    "path", ["entries", "state", "checkpoint", "checkpoints", "proofs/inclusion?number=0", "proofs/consistency?old=1"]
)
def test_it_is_for_auditors_alone(client: TestClient, path: str) -> None:
    for token in ("", "Bearer other"):
        assert client.get(f"/v1/{path}", headers={"Authorization": token}).status_code == 401


def test_pages_lead_on_until_nothing_follows(client: TestClient, reader: FakeReader) -> None:
    first = client.get("/v1/entries?limit=3&permit=cardio&actor=officer:anne&from=2026-03-01").json()
    assert [one["number"] for one in first["entries"]] == [0, 1, 2]
    assert first["entries"][1] == {"number": 1, "line": '{"number":1}', "hash": leaf_hash(b'{"number":1}').hex()}
    assert reader.asked == [Wanted("cardio", "officer:anne", None, "2026-03-01", None)]
    rest = client.get(f"/v1/entries?limit=3&start={first['next_start']}").json()
    assert ([one["number"] for one in rest["entries"]], rest["next_start"]) == ([3, 4], None)
    page = client.get("/v1/checkpoints?limit=1").json()
    assert page == {"checkpoints": [{"size": 3, "note": "three"}], "next_after": 3}
    assert client.get("/v1/checkpoints?after=3").json()["next_after"] is None
    assert client.get("/v1/checkpoint").text == "five"


def test_pages_lead_back_from_the_newest(client: TestClient) -> None:
    first = client.get("/v1/entries?limit=3&order=newest").json()
    assert ([one["number"] for one in first["entries"]], first["next_start"]) == ([4, 3, 2], 1)
    rest = client.get(f"/v1/entries?limit=2&order=newest&start={first['next_start']}").json()
    assert ([one["number"] for one in rest["entries"]], rest["next_start"]) == ([1, 0], None)


def test_the_state_says_how_much_is_signed_and_why_no_more_is(reader: FakeReader) -> None:
    reader.notes = [(3, "estuaire.local/audit\n3\nroot\n")]
    for signing in (FakeSigning("damaged", is_distrusted=True), FakeSigning("late"), WELL):
        client = TestClient(application(lambda: None, reader, AUDITORS, signing), headers=AUDITOR)
        said = {"trouble": signing.trouble, "distrusted": signing.is_distrusted}
        found = client.get("/v1/state").json()
        assert found == {"entries": 5, "signed": 3, "note": reader.notes[0][1]} | said
    reader.notes = []
    assert (client.get("/v1/state").json()["signed"], client.get("/v1/state").json()["note"]) == (0, None)


def test_proofs_prove(client: TestClient, reader: FakeReader) -> None:
    root = reader.tree.root()
    for number, line in enumerate(reader.lines):
        proof = hashes(client, f"/v1/proofs/inclusion?number={number}")
        assert includes(root, 5, number, leaf_hash(line), proof)
    older = Tree()
    for line in reader.lines[:3]:
        older.append(leaf_hash(line))
    assert extends(older.root(), 3, root, 5, hashes(client, "/v1/proofs/consistency?old=3&size=5"))


def hashes(client: TestClient, path: str) -> list[bytes]:
    return [bytes.fromhex(one) for one in client.get(path).json()["hashes"]]


@pytest.mark.parametrize(
    "path",
    [
        *(
            "entries?start=-1",
            "entries?limit=0",
            "entries?order=best",
            "entries?limit=10001",
            "entries?from=yesterday",
            "entries?permit=A%20B",
        ),
        *("checkpoints?after=-1", "proofs/inclusion", "proofs/inclusion?number=5", "proofs/inclusion?number=0&size=6"),
        *("proofs/consistency?old=4&size=3", "proofs/consistency?old=1&size=6", "proofs/inclusion?number=0&size=0"),
    ],
)
def test_what_cannot_be_is_refused(client: TestClient, path: str) -> None:
    answer = client.get(f"/v1/{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_nothing_signed_and_nobody_there_are_said(client: TestClient, reader: FakeReader) -> None:
    reader.notes = []
    assert client.get("/v1/checkpoint").status_code == 404
    reader.away = True
    answer = client.get("/v1/proofs/inclusion?number=0")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_its_port_is_the_sixth() -> None:
    assert SERVICES[5] == "audit"
