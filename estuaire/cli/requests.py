"""For people's requests: whoever sends them, and the officers who answer them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from estuaire.cli.options import ACCESS, INGEST, AccessUrl, IngestUrl, Token, local_token, out, show

if TYPE_CHECKING:
    from estuaire.requests import Requests

requests = typer.Typer(no_args_is_help=True, help="Send and answer people's requests: what is held of them, erasure.")

Id = Annotated[str, typer.Argument(metavar="REQUEST", help="Its id, as `send` and `list` print it.")]
Letter = Annotated[Path, typer.Option("--paper", help="The letter: its name, the day and its SHA-256 are kept.")]
Reason = Annotated[str, typer.Option(help="Why, as the person was told.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@requests.command("send")
def request_send(
    file: Annotated[
        Path, typer.Argument(help="Who asks: id, kind, received and identity, as YAML or JSON; - reads them.")
    ],
    source: Annotated[str, typer.Option(help="The source that sends it, e.g. urn:estuaire:producer:chu-rennes.")],
    take_back: Annotated[bool, typer.Option("--take-back", help="The person no longer asks.")] = False,
    url: IngestUrl = INGEST,
    token: Token = None,
) -> None:
    """Send a person's request: for access to what is held of them, or for erasure."""
    from estuaire.client import SendError
    from estuaire.producer import Producer
    from estuaire.projects import read_document

    said = read_document(Path("/dev/stdin") if str(file) == "-" else file)
    if take_back:
        said["made"] = False
    with Producer(url, token or local_token("producers", source)) as producer:
        answer = producer.ask(said)
    for refused in answer.rejected:
        raise SendError(f"{refused['reason']}: {refused['detail']}")
    (kept,) = answer.accepted
    show(f"{'taken back' if said.get('made') is False else 'sent'}: {kept['id']}, kept as {kept['event_id']}")


@requests.command("list")
def request_list(
    every: Annotated[bool, typer.Option("--all", help="Those that are done, too.")] = False,
    as_json: AsJson = False,
    access: AccessUrl = ACCESS,
    token: Token = None,
) -> None:
    """What people have asked for, and until when each has to be told."""
    import json

    from estuaire.requests import requests_table

    found = _officer(access, token).list(every=every)
    if as_json:
        show(json.dumps(found))
        return
    out.print(requests_table(found))


@requests.command("show")
def request_show(request: Id, as_json: AsJson = False, access: AccessUrl = ACCESS, token: Token = None) -> None:
    """A request, what is held of the person, and where it went. The audit log tells that you looked."""
    _print(_officer(access, token).show(request), as_json)


@requests.command("answer")
def request_answer(
    request: Id, paper: Letter, as_json: AsJson = False, access: AccessUrl = ACCESS, token: Token = None
) -> None:
    """The person has been told what they asked for, or that they are erased."""
    _print(_officer(access, token).do(request, "answer", {"document": _letter(paper)}), as_json)


@requests.command("refuse")
def request_refuse(
    request: Id,
    ground: Annotated[str, typer.Option(help="The ground of the law; one that there is not lists those there are.")],
    reason: Reason,
    paper: Letter,
    as_json: AsJson = False,
    access: AccessUrl = ACCESS,
    token: Token = None,
) -> None:
    """The person has been told that nothing is done, why, and where to complain."""
    says = {"ground": ground, "reason": reason, "document": _letter(paper)}
    _print(_officer(access, token).do(request, "refuse", says), as_json)


@requests.command("extend")
def request_extend(
    request: Id,
    reason: Reason,
    paper: Letter,
    as_json: AsJson = False,
    access: AccessUrl = ACCESS,
    token: Token = None,
) -> None:
    """Take two months more, of which the person has been told within the first."""
    _print(_officer(access, token).do(request, "extend", {"reason": reason, "document": _letter(paper)}), as_json)


@requests.command("erase")
def request_erase(
    request: Id,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether this is the one.")] = False,
    as_json: AsJson = False,
    access: AccessUrl = ACCESS,
    token: Token = None,
) -> None:
    """Erase the person: show what is held, ask, and do it. Nothing brings it back."""
    officer = _officer(access, token)
    found = officer.show(request)
    if not yes:
        _print(found, as_json)
        typer.confirm("Erase all of this, for good?", abort=True)
    _print(officer.do(request, "erase", {"as_seen": found["report"]["as_seen"]}), as_json)


def _print(found: dict[str, Any], as_json: bool) -> None:
    import json

    from estuaire.requests import report_tables

    if as_json:
        show(json.dumps(found))
        return
    for table in report_tables(found):
        if table.row_count:
            out.print(table)


def _letter(path: Path) -> dict[str, str]:
    import datetime as dt

    from estuaire.projects import paper

    return paper(path, dt.date.today())


def _officer(access: str, token: str | None) -> Requests:
    from estuaire.keyring import OFFICER
    from estuaire.requests import Requests

    return Requests(access, token or local_token("officers", OFFICER))
