"""Erasure on a real PostgreSQL: what is left of somebody in each database, byte by byte."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from psycopg import sql

from contracts.messages import TokenBlock
from services.linkage.domain.comparison import tagged_rows
from services.linkage.domain.tokens import search_tokens
from tests.integration.test_linkage_index import Worker, new_database, server, stored  # noqa: F401
from tests.unit.linkage.builders import Topic, identity, number, sets
from tests.unit.linkage.test_erasure import HERE, LATER, THERE, erasure
from tests.unit.linkage.test_handlers import TWINS, population
from tests.unit.linkage.test_handlers import Worker as InMemory
from tests.unit.linkage.test_oppositions import parts

pytestmark = pytest.mark.integration

_TABLES = """
SELECT relname FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
"""


def everything(url: str, *but: str) -> bytes:
    """Every row of every table, as PostgreSQL writes it; but for some tables."""
    found = []
    with psycopg.connect(url) as connection:
        for (table,) in connection.execute(_TABLES).fetchall():
            copy = sql.SQL("COPY (TABLE {}) TO STDOUT (FORMAT binary)").format(sql.Identifier(table))
            if table not in but:
                with connection.cursor().copy(copy) as rows:
                    found += [bytes(row) for row in rows]
    return b"\n".join(found)


def traces(url: str, *secrets: bytes) -> list[int]:
    """Which of these are anywhere in the database, as bytes or in hexadecimal."""
    data = everything(url)
    return [place for place, one in enumerate(secrets) if one in data or one.hex().encode() in data]


def tokens(*blocks: TokenBlock) -> list[bytes]:
    """All by which these may be known, and their codes."""
    return [it for one in blocks for it in (one.subject, *search_tokens(one), *tagged_rows(one).values()) if it]


@pytest.fixture
def url(server: str) -> str:  # noqa: F811
    return new_database(server)


@pytest.fixture
def worker(url: str) -> Iterator[Worker]:
    with closing(Worker(url)) as one:
        yield one


# linkage


def test_linkage_keeps_no_byte_of_who_is_erased(worker: Worker, url: str) -> None:
    records, oppositions = Topic(), Topic(name="oppositions-pseudonymised")
    ours = (
        identity("a", number("ins-nir", "1"), given_name="ANNE", family_name="LE GOFF", birth_date="1985-05-12"),
        identity("b", number("ins-nir", "1"), number("ipp", "7"), given_name="ANNE", birth_date="1985-05-12"),
    )
    theirs = identity("c", number("ins-nia", "2"), given_name="PAUL", birth_date="2015-01-02")
    worker.take(records.record("e1", ours[0]), records.record("e2", ours[1]), records.record("e3", theirs))
    correction = identity("c", number("ins-nia", "2"), given_name="PAUL", birth_date="2015-01-02", correction=True)
    worker.take(records.record("e1", correction, digest="d2"), records.record("e4", ours[0]))
    worker.take(records.record("e4", ours[0], digest="d2", kind="claim.v1.deleted"))
    worker.take(oppositions.record("o", ours[1], kind="opposition.v1"))
    worker.take(oppositions.record("o", ours[1], kind="opposition.v1.deleted", digest="d2"))
    assert len(traces(url, *tokens(*ours))) == len(tokens(*ours))
    worker.take(erasure(*(one.subject for one in ours)))
    assert traces(url, *tokens(*ours)) == []
    assert stored(url) == {theirs.subject: theirs.subject}
    worker.take(records.record("e2", ours[1]), records.record("e5", ours[0]))
    assert traces(url, *tokens(*ours)) == []


def test_who_objects_keeps_the_identity_by_which_that_holds(worker: Worker, url: str) -> None:
    made = parts()
    worker.take(*(made[name] for name in ("twin", "other twin", "objects")))
    worker.take(erasure(*(one.subject for one in TWINS[:2])))
    assert traces(url, *(one.subject for one in TWINS[:2])) == []
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM opposition_suspects").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM oppositions").fetchone() == (1,)


@pytest.mark.parametrize("seed", range(3))
def test_the_index_ends_as_the_one_in_memory(worker: Worker, url: str, seed: int) -> None:
    chance = random.Random(seed)
    memory, topic = InMemory(), Topic()
    blocks = [block for _, block in population(20, 60, seed)]
    messages = [topic.record(f"e{at}", block) for at, block in enumerate(blocks)]
    for at in range(4):
        erased = chance.sample([one.subject for one in blocks], 8)
        messages.insert(chance.randrange(len(messages)), erasure(*erased, offset=at))
    while messages:
        batch, messages = messages[:7], messages[7:]
        worker.take(*batch)
        memory.take(*batch)
    assert sets(stored(url)) == sets({it: one for it, one in memory.index.patients().items() if one})
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT sum(subjects), sum(patients) FROM counts").fetchone() == (
            memory.index.tally.subjects,
            memory.index.tally.patients,
        )


def test_a_record_on_its_way_through_another_worker_brings_nobody_back(url: str) -> None:
    """The other worker has inserted the subject and not yet ended its batch; or it begins after the erasure."""
    with closing(Worker(url)) as one, closing(Worker(url, slot=1)) as other:
        records = Topic()
        first, second = records.record("e1", HERE), records.record("e2", HERE)
        other.step.prepare([first])
        with other.database.transaction():
            other.step.handle([first])
            erasing = threading.Thread(target=lambda: one.take(erasure(HERE.subject)))
            erasing.start()
            erasing.join(0.2)
            assert erasing.is_alive(), "it waits for the batch under way"
        erasing.join(10)
        assert traces(url, HERE.subject) == []
        other.step.prepare([second])
        other.handle(second)
        assert traces(url, HERE.subject) == []


def test_erasing_is_all_or_nothing_and_may_be_done_again(worker: Worker, url: str) -> None:
    worker.take(Topic().record("e1", HERE), Topic(1).record("e2", THERE))
    with pytest.raises(ZeroDivisionError), worker.database.transaction():
        worker.step.handle([erasure(HERE.subject, THERE.subject)])
        raise ZeroDivisionError
    assert traces(url, HERE.subject, THERE.subject) == [0, 1]
    for at in range(2):
        worker.take(erasure(HERE.subject, THERE.subject, offset=at))
        assert traces(url, HERE.subject, THERE.subject) == []
    worker.take(Topic(2).record("e3", LATER))
    assert stored(url) == {LATER.subject: LATER.subject}
