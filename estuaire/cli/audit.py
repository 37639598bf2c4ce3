"""For auditors: read the audit log, and see whether it is what was signed."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from estuaire.cli.options import AUDIT, Token, local_token, out, say, show
from estuaire.home import home_folder

if TYPE_CHECKING:
    from estuaire.audit import AuditLog

audits = typer.Typer(no_args_is_help=True, help="Read the audit log, and verify it.")

AuditUrl = Annotated[str, typer.Option("--url", envvar="ESTUAIRE_AUDIT_URL", help="Where audit listens.")]


@audits.command("list")
def audit_list(
    permit: Annotated[str | None, typer.Option(help="Only what was done under this permit.")] = None,
    actor: Annotated[str | None, typer.Option(help="Only what this actor did, such as steward:steward.")] = None,
    action: Annotated[str | None, typer.Option(help="Only acts of this name, such as view-read.")] = None,
    begin: Annotated[str | None, typer.Option("--from", metavar="TIME", help="First day or moment (UTC).")] = None,
    end: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Day or moment (UTC) before which.")] = None,
    start: Annotated[int, typer.Option(min=0, help="The number of the first entry.")] = 0,
    most: Annotated[int, typer.Option("--max", min=1, help="At the most so many.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="The entries as they are hashed, a line each.")] = False,
    url: AuditUrl = AUDIT,
    token: Token = None,
) -> None:
    """Entries of the log: who did what, when, under which permit, and to how many ids."""
    from estuaire.audit import PAGE, entries_table

    asked = {"permit": permit, "actor": actor, "action": action, "from": begin, "to": end}
    filters = {name: value for name, value in asked.items() if value is not None}
    entries = islice(_log(url, token).entries(filters, start, min(most, PAGE)), most)
    if as_json:
        for one in entries:
            show(one.line.decode())
    else:
        out.print(entries_table(entries))


@audits.command("verify")
def audit_verify(
    checkpoints: Annotated[
        Path | None, typer.Option(help="The second place of the checkpoints; that of the platform here if absent.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="The log's verifier keys, one a line; that of the platform here if absent.")
    ] = None,
    url: AuditUrl = AUDIT,
    token: Token = None,
) -> None:
    """Hash every entry anew and compare with all that was signed; says what is wrong, and then exits with 1."""
    from estuaire.audit import verify
    from estuaire.keyring import Keyring
    from estuaire.platform import CHECKPOINTS

    place, keys = checkpoints or home_folder() / CHECKPOINTS, key or Keyring(home_folder()).verifier_key
    found = verify(_log(url, token), place, keys)
    for one in found.findings:
        say(one.says)
    size = f"{found.entries} entries, {found.checkpoints} checkpoints"
    if found.findings:
        say(f"the log is not what was signed ({size})")
        raise typer.Exit(1)
    newer = f"; {found.unsigned} are newer than the last checkpoint" if found.unsigned else ""
    show(f"the log is what was signed: {size}{newer}")


def _log(url: str, token: str | None) -> AuditLog:
    from estuaire.audit import AuditLog
    from estuaire.keyring import AUDITOR

    return AuditLog(url, token or local_token("auditors", AUDITOR))
