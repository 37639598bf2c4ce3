"""For research projects: their calls, their lives, the permits that open their views, and a view's subscriber."""

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
    show,
    standard_output,
)
from estuaire.home import home_folder

if TYPE_CHECKING:
    from contracts.projects import Role
    from estuaire.permits import Officer
    from estuaire.projects import Projects

permits = typer.Typer(no_args_is_help=True, help="Grant, close and list data permits.")
calls = typer.Typer(no_args_is_help=True, help="Announce and list calls for projects.")
lives = typer.Typer(no_args_is_help=True, help="Apply with a project, take it step by step to its permit, and look.")

As = Annotated[
    str | None, typer.Option("--as", metavar="NAME", help="Who you are on the local platform: a lead or a reviewer.")
]


def subscribe(
    permit: str,
    form: Annotated[str, typer.Option("--format", help="ndjson, or parquet (with --out).")] = "ndjson",
    output: Annotated[Path | None, typer.Option("--out", help="A file, in place of standard output.")] = None,
    name: Annotated[
        str,
        typer.Option("--as", metavar="NAME", help="Who you are on the local platform: a subscriber."),
    ] = "",
    broker: Broker = LOCAL_BROKER,
) -> None:
    """A subscriber's client: read the view to its end, apply merges and withdrawals, print what holds."""
    from contracts import acl
    from estuaire.client import SendError
    from estuaire.export import write_ndjson, write_parquet
    from estuaire.subscriber import Subscriber

    principal = acl.subscriber(name) if name else ""
    entries = Subscriber(at_broker(broker, principal), permit).read().entries()
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

    permit = read_permit(file.read_text())
    _officer(access, token).grant(permit)
    out.print(f"granted {permit.id}")


@permits.command("try")
def permit_try(
    file: Path,
    people: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many people to look at, at most.")] = 20_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    access: AccessUrl = ACCESS,
    token: Token = None,
) -> None:
    """See what the permit that FILE (YAML or JSON) describes would release, and who could be found; nothing leaves."""
    import json

    from contracts.permits import read_permit
    from estuaire.permits import dry_run_tables

    found = _officer(access, token).try_out(read_permit(file.read_text()), people)
    if as_json:
        show(json.dumps(found))
        return
    for table in dry_run_tables(found):
        out.print(table)


@permits.command("indicators")
def permit_indicators(
    permit: str,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Who you are on the local platform: a subscriber.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
    access: AccessUrl = ACCESS,
    token: Token = None,
) -> None:
    """How many people a permit's view has, by period, area and diagnosis, as it was released last."""
    import json

    from estuaire.client import SendError
    from estuaire.permits import indicators, indicators_table

    if token is None and name is None:
        raise SendError("say who you are: --as NAME, as a subscriber of the local platform, or --token")
    found = indicators(access, token or local_token("subscribers", name or ""), permit)
    if as_json:
        show(json.dumps(found))
        return
    out.print(indicators_table(found))


@permits.command("narrow")
def permit_narrow(file: Path, access: AccessUrl = ACCESS, token: Token = None) -> None:
    """Let an open permit allow less: as FILE (YAML or JSON) describes it. Its view is emptied and filled anew."""
    from contracts.permits import read_permit

    permit = read_permit(file.read_text())
    _officer(access, token).narrow(permit)
    out.print(f"narrowed {permit.id}")


@permits.command("suspend")
def permit_suspend(permit: str, access: AccessUrl = ACCESS, token: Token = None) -> None:
    """Suspend a permit: its view is emptied, and nothing leaves until it is resumed."""
    _officer(access, token).suspend(permit)
    out.print(f"suspended {permit}")


@permits.command("resume")
def permit_resume(permit: str, access: AccessUrl = ACCESS, token: Token = None) -> None:
    """Resume a suspended permit: its view is filled anew, under the same ids."""
    _officer(access, token).resume(permit)
    out.print(f"resumed {permit}")


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


@calls.command("announce")
def call_announce(file: Path, access: AccessUrl = ACCESS, token: Token = None) -> None:
    """Announce the call that FILE (YAML or JSON) describes."""
    from estuaire.projects import read_document

    call = read_document(file)
    _projects(access, token, "officer", None).announce(call)
    show(f"announced {call['id']}")


@calls.command("list")
def call_list(access: AccessUrl = ACCESS, token: Token = None) -> None:
    """All calls for projects."""
    from estuaire.projects import calls_table

    out.print(calls_table(_projects(access, token, "officer", None).calls()))


@lives.command("apply")
def project_apply(file: Path, name: As = None, access: AccessUrl = ACCESS, token: Token = None) -> None:
    """Apply with the project that FILE (YAML or JSON) describes; you lead it."""
    from estuaire.projects import life_table, read_document

    out.print(life_table(_projects(access, token, "lead", name).apply(read_document(file))))


@lives.command("list")
def project_list(name: As = None, access: AccessUrl = ACCESS, token: Token = None) -> None:
    """Projects: where each stands, what comes next, and what is due until when. All of them, as an officer."""
    from estuaire.projects import projects_table

    out.print(projects_table(_onlooker(access, token, name).projects()))


@lives.command("show")
def project_show(project: str, name: As = None, access: AccessUrl = ACCESS, token: Token = None) -> None:
    """A project and every step of its life, with what was said: all of it, as an officer."""
    from estuaire.projects import life_table

    out.print(life_table(_onlooker(access, token, name).project(project)))


@lives.command("do")
def project_do(
    project: str,
    act: str,
    file: Annotated[Path | None, typer.Argument(help="What the act says, as YAML or JSON.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for acts that give a reason.")] = None,
    document: Annotated[
        Path | None, typer.Option("--paper", help="The paper of the act: its name, the day and its SHA-256 are kept.")
    ] = None,
    name: As = None,
    access: AccessUrl = ACCESS,
    token: Token = None,
) -> None:
    """Take PROJECT one step on: `show` says which comes next. (An ACT that there is not lists them all.)"""
    import datetime as dt

    from contracts.projects import ACTS, OF_PROJECTS
    from estuaire.client import SendError
    from estuaire.projects import life_table, paper, read_document

    if act not in OF_PROJECTS:
        raise SendError(f"there is no act {act}: {', '.join(OF_PROJECTS)}")
    says = read_document(file) if file else {}
    if reason is not None:
        says["reason"] = reason
    if document is not None:
        says["protocol" if act == "request" else "document"] = paper(document, dt.date.today())
    out.print(life_table(_projects(access, token, ACTS[act].role, name).do(project, act, says)))


def _onlooker(access: str, token: str | None, name: str | None) -> Projects:
    """Whoever looks: on the local platform an officer, or somebody by name, as lead and as reviewer."""
    from estuaire.keyring import Keyring
    from estuaire.projects import Projects

    if token is None and name is not None:
        token = Keyring(home_folder()).token(name, "subscriber", "reviewer")
    return Projects(access, token) if token else _projects(access, None, "officer", None)


def _projects(access: str, token: str | None, role: Role, name: str | None) -> Projects:
    from estuaire.client import SendError
    from estuaire.keyring import OFFICER
    from estuaire.projects import Projects

    if token is None and role != "officer" and name is None:
        raise SendError(f"say who you are: --as NAME, as a {role} of the local platform, or --token")
    holders = {"officer": "officers", "reviewer": "reviewers", "lead": "subscribers"}[role]
    return Projects(access, token or local_token(holders, name or OFFICER))


def _officer(access: str, token: str | None) -> Officer:
    from estuaire.keyring import OFFICER
    from estuaire.permits import Officer

    return Officer(access, token or local_token("officers", OFFICER))
