"""The second wall: whatever a query asks for, PostgreSQL gives a subscriber's page the rows of its permit alone."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, Final

import psycopg
import pytest
from fastapi.testclient import TestClient
from psycopg.conninfo import make_conninfo

from estuaire.database import Database as Server
from runtime.database import Database
from services.access.adapters import PostgresHistory
from services.access.authorization import Doors
from services.access.domain.indicators import Cell
from services.access.lookup import PostgresReader, WrongRole, check_role
from services.access.pages import Pages, PostgresPages
from services.access.reconciliation import Release, release_from
from services.access.routes import application
from services.access.vault import Vault
from tests.integration.test_access_history import KNOWN, Broker, as_, code, reading
from tests.unit.access.hub import Hub, event_id, permit

pytestmark = pytest.mark.integration

CARDIO: Final = permit(population={"diagnoses": ["I50"]})
RENAL: Final = permit("renal", population={"diagnoses": ["N18"]}, opposition_exemption="A law.")
HELD: Final = {"cardio": {"heart", "both"}, "renal": {"kidney", "both"}}
"""Whose records each view has. Everybody but the first objects to what a source sends that has nothing else of them."""

ALL: Final = {"SELECT"}
RIGHTS: Final = {
    "subscriber": {
        "view_entries": {"permit", "event_id", "patient", "sequence"},
        "view_patients": {"permit", "patient", "subject"},
        "indicator_cells": ALL,
        "indicator_releases": ALL,
        "history": {"event_id", "subject", "revision", "type", "source", "time", "retracted", "dated", "body"},
        "subjects": {"subject", "patient", "key", "demographics"},
    },
    "staff": dict.fromkeys(
        (
            *("permits", "permit_scans", "project_steps", "requests", "request_acts", "opposed", "oppositions"),
            *("view_entries", "view_patients", "view_pending", "history", "subjects"),
        ),
        ALL,
    ),
}
"""What each role may read: the whole of it, or these columns. It may do nothing else. Kept by hand."""


@dataclass(frozen=True, slots=True)
class Wall:
    """A hub with two views, and the URLs of the roles of its database."""

    hub: Hub
    database: Database
    vault: Vault
    owner: str
    staff: str
    subscriber: str

    def release(self, name: str) -> Release:
        stored = PostgresHistory(self.database, self.vault).permit(name)
        assert stored is not None
        return release_from(stored, self.vault)


@contextmanager
def build(postgres: Server) -> Iterator[Wall]:
    name = f"test_{secrets.token_hex(6)}"
    owner = postgres.url(name)
    staff, subscriber = postgres.reader_url(name, "staff"), postgres.reader_url(name, "subscriber")
    vault = Vault({1: b"m" * 32})
    database = Database(owner, files("services.access") / "migrations")
    hub = Hub(PostgresHistory(database, vault), vault, database.transaction)
    hub.opened(CARDIO, RENAL)
    hub.run(
        hub.record("h", "heart", "heart", code("I50.1"), sex="female", birth_year=1950),
        hub.record("k", "kidney", "kidney", code("N18.5"), sex="male", birth_year=1960),
        hub.record("b1", "both", "both", code("I50.9")),
        hub.record("b2", "both", "both", code("N18.3")),
        hub.record("n", "nobody", "nobody", code("J45.9")),
    )
    for who in ("kidney", "both", "nobody"):
        hub.run(hub.objection(f"o-{who}", who, who, "source", source="urn:elsewhere"))
    for view in HELD:
        row = database.connection.execute("SELECT count(*) FROM view_entries WHERE permit = %s", [view]).fetchone()
        assert row == (3,)
        database.connection.execute("INSERT INTO indicator_cells VALUES (%s, '2026-03-01', '', '', 25)", [view])
        database.connection.execute("INSERT INTO indicator_releases VALUES (%s, '2026-04-01')", [view])
    yield Wall(hub, database, vault, owner, staff, subscriber)
    database.close()


@pytest.fixture(scope="module")
def wall(postgres: Server) -> Iterator[Wall]:
    """One that nobody changes."""
    with build(postgres) as made:
        yield made


@pytest.fixture
def own(postgres: Server) -> Iterator[Wall]:
    """One to change."""
    with build(postgres) as made:
        yield made


@pytest.fixture
def pages(wall: Wall) -> Iterator[PostgresPages]:
    with reading(wall.staff, wall.subscriber) as (_, made):
        yield made


@pytest.fixture
def session(wall: Wall) -> Iterator[psycopg.Connection[Any]]:
    with in_a_page(wall) as connection:
        yield connection


@contextmanager
def in_a_page(wall: Wall) -> Iterator[psycopg.Connection[Any]]:
    """As whoever could run SQL in a page of the permit `cardio`."""
    with psycopg.connect(wall.subscriber) as connection:
        connection.execute("SELECT set_config('estuaire.ticket', %s, false)", [wall.release("cardio").ticket])
        connection.commit()
        yield connection


EVERYBODY: Final = ["heart", "kidney", "both", "nobody"]
Ask = Callable[[Pages, Release], Any]
STATEMENTS: Final[dict[str, Ask]] = {
    "subjects": lambda pages, release: {one.patient for one in pages.subjects(release, "", 100)[0]},
    "timelines": lambda pages, release: {one.patient for one in pages.timelines(release, EVERYBODY)[0]},
    "qualified": lambda pages, release: pages.qualified(release, EVERYBODY),
    "opposed": lambda pages, release: pages.opposed(release, EVERYBODY).keys() | {"heart"},
    "indicators": lambda pages, release: pages.indicators(release, None, None),
}
ALSO: Final[dict[str, Ask]] = {
    "what is said of people": lambda pages, release: set(pages.timelines(release, EVERYBODY)[1]),
}


def test_every_statement_is_tried() -> None:
    assert STATEMENTS.keys() == {name for name in vars(Pages) if not name.startswith("_")}


@pytest.mark.parametrize("name", [*STATEMENTS, *ALSO])
def test_a_statement_gives_what_is_its_permits_and_nothing_of_another(
    wall: Wall, pages: PostgresPages, name: str
) -> None:
    ask = (STATEMENTS | ALSO)[name]
    cardio, renal = wall.release("cardio"), wall.release("renal")
    own = {"cardio": {"heart", "both"}, "renal": {"kidney", "both"}}
    own["renal"] |= {"heart"} if name == "opposed" else set()  # which is added above, for who objects to nothing
    nothing: Any = (None, []) if name == "indicators" else {"heart"} if name == "opposed" else set()
    for release in (cardio, renal):
        shown = ask(pages, release)
        if name == "indicators":
            assert shown == (dt.date(2026, 4, 1), [Cell(dt.date(2026, 3, 1), "", "", 25)])
        else:
            assert shown == own[release.permit]
    crossed = ask(pages, replace(cardio, permit="renal", policy=renal.policy))
    if name in ("subjects", "timelines", "indicators"):
        assert crossed == nothing
    else:  # these ask for people, not for a permit: those of the other view alone are not answered
        assert crossed <= own["cardio"]
    for ticket in ("", "00" * 32, wall.release("renal").ticket[:-2]):
        assert ask(pages, replace(cardio, ticket=ticket)) == nothing
    for ticket in ("cardio", "%"):
        with pytest.raises(psycopg.DataError):
            ask(pages, replace(cardio, ticket=ticket))


def test_a_forgotten_condition_gives_the_rows_of_the_permit_alone(session: psycopg.Connection[Any]) -> None:
    for table in ("view_entries", "view_patients", "indicator_cells", "indicator_releases"):
        assert set(session.execute(f"SELECT permit FROM {table}".encode())) == {("cardio",)}, table
    events = {bytes.fromhex(event_id(name)) for name in ("h", "b1", "b2")}
    assert {event for (event,) in session.execute("SELECT event_id FROM history")} == events
    assert set(session.execute("SELECT patient FROM subjects")) == {("heart",), ("both",)}
    with session.cursor().copy("COPY view_patients (permit) TO STDOUT") as copy:
        assert set(copy.rows()) == {("cardio",)}
    for table in ("view_entries", "history", "subjects"):
        assert session.execute("SELECT FROM pg_stats WHERE tablename = %s", [table]).fetchall() == []


def test_whoever_left_a_view_is_not_seen_any_more(own: Wall) -> None:
    own.hub.run(own.hub.objection("o", "both", "both", "all"))
    with in_a_page(own) as session:
        assert set(session.execute("SELECT patient FROM subjects")) == {("heart",)}
        assert len(session.execute("SELECT event_id FROM history").fetchall()) == 1


def test_a_ticket_is_good_while_the_permit_is_open(own: Wall) -> None:
    release = own.release("cardio")
    with reading(own.staff, own.subscriber) as (_, pages):
        for state, is_open in (("filling", True), ("suspended", False), ("closed", False), ("open", True)):
            own.database.connection.execute("UPDATE permits SET state = %s WHERE permit = 'cardio'", [state])
            assert bool(pages.subjects(release, "", 100)[0]) == is_open
            assert bool(pages.timelines(release, EVERYBODY)[0]) == is_open
            assert bool(pages.indicators(release, None, None)[1]) == is_open
            assert bool(pages.qualified(release, EVERYBODY)) == bool(pages.opposed(release, EVERYBODY)) == is_open


def test_a_ticket_is_of_one_transaction(wall: Wall) -> None:
    with reading(wall.staff, wall.subscriber, 1) as (_, pages):
        assert pages.timelines(wall.release("cardio"), EVERYBODY)[0]
        with pages._pool.connection() as connection:  # the only one
            for table in ("view_entries", "view_patients", "indicator_cells", "history", "subjects"):
                assert connection.execute(f"SELECT FROM {table}".encode()).fetchall() == [], table


@pytest.mark.parametrize("role", ["staff", "subscriber"])
def test_a_role_reads_what_is_written_down_here_and_does_nothing_else(wall: Wall, role: str) -> None:
    url = wall.subscriber if role == "subscriber" else wall.staff
    with psycopg.connect(url) as connection:
        relations = connection.execute(
            "SELECT relname, has_table_privilege(oid, 'SELECT'), has_any_column_privilege(oid, 'INSERT, UPDATE,"
            " REFERENCES') OR has_table_privilege(oid, 'DELETE, TRUNCATE, TRIGGER'), ARRAY(SELECT attname::text FROM"
            " pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND has_column_privilege(c.oid, attnum, 'SELECT'))"
            " FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'S')"
        ).fetchall()
        functions = connection.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
            " AND has_function_privilege(oid, 'EXECUTE')"
        ).fetchall()
        member_of = connection.execute("SELECT FROM pg_auth_members WHERE member = current_user::regrole").fetchall()
    found = {name: ALL if whole else set(columns) for name, whole, _, columns in relations if whole or columns}
    assert found == RIGHTS[role]
    assert not [name for name, _, writes, _ in relations if writes]
    expected = {"opened_permit", "qualified_in_view", "opposed_in_view"} if role == "subscriber" else set()
    assert {name for (name,) in functions} == expected
    assert member_of == []


REFUSED: Final = (
    "SELECT key FROM permits",
    "SELECT permit FROM permits",
    "SELECT * FROM project_steps",
    "SELECT * FROM oppositions",
    "SELECT * FROM opposed",
    "SELECT outputs FROM progress",
    "SELECT record_key FROM patients",
    "SELECT told FROM history",
    "SELECT diagnoses FROM history",
    "SELECT event_id FROM history_0",
    "SELECT permit FROM view_entries_0",
    "SET row_security = off; SELECT permit FROM view_entries",
    "INSERT INTO view_entries VALUES ('cardio', '', 'kidney', '', 1)",
    "UPDATE view_entries SET permit = 'cardio'",
    "UPDATE subjects SET patient = 'both'",
    "DELETE FROM view_patients",
    "TRUNCATE history",
    "SELECT permit FROM view_entries FOR UPDATE",
    "COPY view_entries FROM STDIN",
    "COPY history TO STDOUT",
    "COPY permits (key) TO STDOUT",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "COPY (SELECT 1) TO '/tmp/out'",
    "SET ROLE {owner}",
    "SET ROLE {staff}",
    "SET SESSION AUTHORIZATION {owner}",
    "GRANT SELECT ON permits TO CURRENT_USER",
    "ALTER TABLE view_entries DISABLE ROW LEVEL SECURITY",
    "DROP POLICY subscriber ON view_entries",
    "CREATE POLICY more ON view_entries USING (true)",
    "ALTER ROLE CURRENT_USER BYPASSRLS",
    "CREATE TABLE mine (a int)",
    "CREATE TEMP TABLE mine (a int)",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql RETURN 1",
)


@pytest.mark.parametrize("statement", REFUSED)
def test_what_a_subscribers_page_could_be_made_to_run_is_refused(
    wall: Wall, session: psycopg.Connection[Any], statement: str
) -> None:
    owner = wall.database.connection.info.user
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute(statement.format(owner=owner, staff=f"{owner}_staff").encode())


def test_a_reset_of_the_role_changes_nothing(wall: Wall, session: psycopg.Connection[Any]) -> None:
    who = f"{wall.database.connection.info.user}_subscriber"
    for statement in ("RESET ROLE", "SET ROLE NONE", "RESET SESSION AUTHORIZATION", "SET row_security = on"):
        session.execute(statement.encode())
        assert session.execute("SELECT current_user::text, session_user::text").fetchone() == (who, who)
        assert set(session.execute("SELECT permit FROM view_entries")) == {("cardio",)}


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO permits (permit, state) VALUES ('mine', 'open')",
        "UPDATE permits SET state = 'open'",
        "DELETE FROM project_steps",
        "SELECT outputs FROM progress",
        "SELECT record_key FROM patients",
        "SET ROLE {owner}",
        "SET ROLE {owner}_subscriber",
        "CREATE TEMP TABLE mine (a int)",
    ],
)
def test_the_staff_reads_and_no_more(wall: Wall, statement: str) -> None:
    with psycopg.connect(wall.staff) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement.format(owner=wall.database.connection.info.user).encode())


def test_requests_for_two_permits_on_one_pool_never_mix(own: Wall) -> None:
    hub = own.hub
    hub.run(*(hub.record(f"h{n}", f"hs{n}", f"hp{n}", code("I50.1")) for n in range(40)))
    hub.run(*(hub.record(f"k{n}", f"ks{n}", f"kp{n}", code("N18.5")) for n in range(40)))
    expected = {name: {event.id for event in hub.views[name].entries()} for name in HELD}
    assert not expected["cardio"] & expected["renal"]
    with (
        reading(own.staff, own.subscriber, 2) as (reader, pages),
        TestClient(
            application(lambda: None, reader, pages, Broker(hub), own.vault, Doors(KNOWN), lambda: hub.now)
        ) as api,
    ):

        def ask(number: int) -> tuple[str, set[str]]:
            name = ("cardio", "renal")[number % 2]
            answer = api.get(f"/v1/permits/{name}/timelines", headers=as_("team"))
            assert answer.status_code == 200, answer.text
            return name, {line.split('"id":"')[1].split('"')[0] for line in answer.text.splitlines()}

        with ThreadPoolExecutor(6) as threads:
            for name, found in threads.map(ask, range(200)):
                assert found == expected[name]


def test_a_role_that_is_not_held_reads_nothing(own: Wall, postgres: Server) -> None:
    check_role(own.subscriber)
    check_role(own.staff)
    with pytest.raises(WrongRole, match="does not hold the role"):
        check_role(own.owner)
    owner = own.database.connection.info.user
    role = f"{owner}_subscriber"
    with psycopg.connect(**postgres._admin, autocommit=True) as admin:
        for right, no_right in (
            (f"ALTER ROLE {role} BYPASSRLS", f"ALTER ROLE {role} NOBYPASSRLS"),
            (f"GRANT {owner} TO {role} WITH INHERIT FALSE", f"REVOKE {owner} FROM {role}"),
        ):
            admin.execute(right.encode())
            with pytest.raises(WrongRole, match="does not hold the role"):
                check_role(own.subscriber)
            admin.execute(no_right.encode())
    check_role(own.subscriber)
    pages = PostgresPages(own.owner, 1)
    pages._pool.timeout = 0.5
    pages.open()
    with pytest.raises(psycopg.OperationalError):
        pages.subjects(own.release("cardio"), "", 1)
    pages.close()


def test_a_role_that_is_missing_is_named(wall: Wall, database: Callable[[], str]) -> None:
    with pytest.raises(WrongRole, match="the role absent cannot be used: ") as refused:
        check_role(make_conninfo(wall.subscriber, user="absent", password="secret"))
    assert "secret" not in str(refused.value)
    bare = Database(database(), files("services.access") / "migrations")
    with pytest.raises(psycopg.errors.UndefinedObject, match=r'role "test_\w+_subscriber" does not exist'):
        bare.connection  # noqa: B018
    bare.close()


def test_the_staff_finds_a_record_and_whom_it_is_withheld_for(wall: Wall) -> None:
    reader = PostgresReader(wall.staff, 1)
    reader.open()
    row = reader.record(bytes.fromhex(event_id("b1")))
    assert row is not None and list(row.views) == ["cardio", "renal"]
    assert reader.opposed(EVERYBODY).keys() == {"kidney", "both", "nobody"}
    assert reader.counts() == (8, 4, {"cardio": 3, "renal": 3})
    assert len(reader.people("", 10)) == 4
    reader.close()
