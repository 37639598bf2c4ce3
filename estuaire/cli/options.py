"""What several commands share: their options, addresses and consoles, and how they print."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from estuaire.home import home_folder

if TYPE_CHECKING:
    from rich.progress import Progress

    from runtime.settings import RuntimeSettings

INGEST, ACCESS, LINKAGE = "http://127.0.0.1:8000", "http://127.0.0.1:8001", "http://127.0.0.1:8003"
STATISTICS, AUDIT = "http://127.0.0.1:8004", "http://127.0.0.1:8005"
CONSOLE = "http://127.0.0.1:8080"
LOCAL_BROKER = "127.0.0.1:9092"

Port = Annotated[
    int,
    typer.Option(
        help="Base port: ingest here, access one up, then pseudonym, linkage, statistics, audit; the console 80 up."
    ),
]
Broker = Annotated[
    str, typer.Option("--broker", envvar=["KAFKA_BOOTSTRAP_SERVERS", "ESTUAIRE_BROKER"], help="The broker's address.")
]
IngestUrl = Annotated[str, typer.Option("--url", envvar="ESTUAIRE_INGEST_URL", help="Where ingest listens.")]
AccessUrl = Annotated[str, typer.Option("--access", envvar="ESTUAIRE_ACCESS_URL", help="Where access listens.")]
LinkageUrl = Annotated[str, typer.Option("--linkage", envvar="ESTUAIRE_LINKAGE_URL", help="Where linkage listens.")]
Token = Annotated[
    str | None, typer.Option(envvar="ESTUAIRE_TOKEN", help="Bearer token; the local platform's if absent.")
]

err = Console(stderr=True, highlight=False, markup=False, emoji=False)
out = Console(highlight=False, markup=False, emoji=False)


def say(line: str) -> None:
    """A line for whoever watches, on standard error."""
    err.print(line, soft_wrap=True)


def show(text: str) -> None:
    """Text as it is, however wide: ids are there to be copied."""
    out.print(text, soft_wrap=True)


def bar(counted: str = "") -> Progress:
    """A progress bar on standard error, to be entered; its tasks have a `count`, if something is `counted`."""
    from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn()]
    if counted:
        columns.append(TextColumn(f"{{task.fields[count]}} {counted}"))
    return Progress(*columns, TimeElapsedColumn(), console=err)


@contextmanager
def standard_output() -> Iterator[Any]:
    """Standard output where a file may stand; it stays open."""
    yield sys.stdout


def local_token(role: str, holder: str) -> str:
    """A token on the platform here, of a producer or of somebody in a role, such as `officers`."""
    from estuaire.keyring import Keyring

    keyring = Keyring(home_folder())
    return keyring.producer_token(holder) if role == "producers" else keyring.token(holder, role.removesuffix("s"))


def at_broker(broker: str, principal: str = "") -> RuntimeSettings:
    """The settings of a client of this broker: on the local platform as this principal, else as its operator."""
    from estuaire import local

    return local.at_broker(broker, principal)
