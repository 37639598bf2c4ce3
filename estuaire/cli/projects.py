"""For research projects: subscribe to a view, and grant, close and list the permits that open them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from estuaire.cli.options import (
    ACCESS,
    LOCAL_BROKER,
    AccessUrl,
    Broker,
    Token,
    at_broker,
    local_token,
    out,
    standard_output,
)
from estuaire.home import home_folder

if TYPE_CHECKING:
    from estuaire.permits import Officer

permits = typer.Typer(no_args_is_help=True, help="Grant, close and list data permits.")


def subscribe(
    permit: str,
    form: Annotated[str, typer.Option("--format", help="ndjson, or parquet (with --out).")] = "ndjson",
    output: Annotated[Path | None, typer.Option("--out", help="A file, in place of standard output.")] = None,
    broker: Broker = LOCAL_BROKER,
) -> None:
    """A subscriber's client: read the view to its end, apply merges and withdrawals, print what holds."""
    from estuaire.export import write_ndjson, write_parquet
    from estuaire.producer import SendError
    from estuaire.subscriber import Subscriber

    entries = Subscriber(at_broker(broker), permit).read().entries()
    if form == "parquet":
        if output is None:
            raise SendError("a Parquet file needs --out FILE")
        write_parquet(entries, output)
    elif form == "ndjson":
        with output.open("w") if output else standard_output() as file:
            write_ndjson(entries, file)
    else:
        raise SendError(f"--format {form} is not known: ndjson or parquet")


@permits.command("grant")
def permit_grant(file: Path, access: AccessUrl = ACCESS, token: Token = None) -> None:
    """Grant the permit that FILE (YAML or JSON) describes."""
    from contracts.permits import read_permit
    from estuaire.keyring import Keyring

    permit = read_permit(file.read_text())
    Keyring(home_folder()).ensure("subscribers", permit.subscribers)
    _officer(access, token).grant(permit)
    out.print(f"granted {permit.id}")


@permits.command("close")
def permit_close(permit: str, access: AccessUrl = ACCESS, token: Token = None) -> None:
    """Close a permit: nothing more leaves under it, and its key is destroyed."""
    _officer(access, token).close(permit)
    out.print(f"closed {permit}")


@permits.command("list")
def permit_list(access: AccessUrl = ACCESS, token: Token = None) -> None:
    """All permits, their state and the size of their views."""
    from estuaire.permits import permits_table

    out.print(permits_table(_officer(access, token).permits()))


def _officer(access: str, token: str | None) -> Officer:
    from estuaire.keyring import OFFICER
    from estuaire.permits import Officer

    return Officer(access, token or local_token("officers", OFFICER))
