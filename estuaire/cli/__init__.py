"""`estuaire`: the hub on one machine, and the clients of any hub."""

from __future__ import annotations

import os
import sys

import typer
from rich.text import Text

from estuaire.cli import audit, deployment, linkage, operators, platform, producers, projects, requests
from estuaire.cli.options import err
from estuaire.home import addresses, home_folder

# Commands import what they run when they run: to import everything takes longer than all else that --help does.
COMMANDS = (
    operators.quality,
    platform.up,
    platform.demo,
    producers.send,
    producers.oppose,
    producers.relay,
    producers.keys,
    linkage.link,
    linkage.evaluate,
    linkage.population,
    operators.tap,
    operators.trace,
    operators.replay,
    operators.rights,
    projects.subscribe,
    platform.token,
    platform.console,
    platform.bench,
)
"""In the order of the help."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for command in COMMANDS:
    app.command()(command)
app.add_typer(projects.calls, name="call")
app.add_typer(projects.lives, name="project")
app.add_typer(projects.permits, name="permit")
app.add_typer(requests.requests, name="request")
app.add_typer(audit.audits, name="audit")
app.add_typer(linkage.reviews, name="review")
app.add_typer(linkage.rules, name="rules")
app.add_typer(deployment.deployments, name="deployment")


def main() -> None:
    """Run a command; what goes wrong is one line on standard error and exit code 1."""
    for name, address in addresses(home_folder()).items():
        os.environ.setdefault(name, address)
    try:
        app()
    except Exception as error:
        line = _in_one_line(error)
        if line is None:
            raise
        err.print(Text.assemble(("error", "red"), ": ", line), soft_wrap=True)
        sys.exit(1)


def _in_one_line(error: Exception) -> str | None:
    """What to say of an error that may happen; None for a defect."""
    import httpx
    from confluent_kafka import KafkaException

    from contracts.permits import PermitError
    from estuaire.client import SendError
    from estuaire.link import LinkError
    from estuaire.process import StartError
    from estuaire.relay import RelayError
    from estuaire.subscriber import ViewError
    from estuaire.topics import TopicError
    from runtime.keys import KeyUnavailable

    match error:
        case (
            StartError()
            | SendError()
            | RelayError()
            | KeyUnavailable()
            | TopicError()
            | LinkError()
            | PermitError()
            | ViewError()
        ):
            return str(error)
        case KafkaException():
            return f"the broker: {error.args[0].str()}"
        case OSError():
            return f"{error.filename or ''}: {error.strerror}"
        case httpx.TransportError():
            return f"no answer from {error.request.url} ({type(error).__name__})"
    return None
