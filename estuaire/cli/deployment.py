"""For whoever runs a hub in containers: make its folder, bring its servers to it, and try it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from estuaire.cli.options import err, out, say, show
from estuaire.home import home_folder

deployments = typer.Typer(no_args_is_help=True, help="Run a hub in containers (docs/deployment.md).")


@deployments.command("prepare")
def prepare(
    folder: Annotated[Path, typer.Argument(help="Where its keys, accounts and certificates are kept. Back it up.")],
    kubernetes: Annotated[
        bool, typer.Option("--kubernetes", help="For infra/kubernetes, in place of infra/compose.yaml.")
    ] = False,
    names: Annotated[
        list[str] | None,
        typer.Option("--broker-name", help="A name by which clients elsewhere reach the broker; may be given again."),
    ] = None,
) -> None:
    """Make the keys, accounts, certificates and secrets of a hub, where they are missing."""
    from estuaire.deployment import COMPOSE, KUBERNETES
    from estuaire.deployment import prepare as make

    make(folder, KUBERNETES if kubernetes else COMPOSE, names or ())
    if kubernetes:
        show(f"kubectl apply -f {folder / 'kubernetes' / 'secrets.yaml'}")
    else:
        show(f"docker compose --env-file {folder / 'compose.env'} -f infra/compose.yaml up -d")


@deployments.command("establish")
def establish() -> None:
    """Make the accounts, topics, rights, databases and roles that a hub's folder ($ESTUAIRE_HOME) speaks of."""
    from estuaire.deployment import establish as bring

    bring(home_folder(), say)


@deployments.command("try")
def attempt(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Stream the demo's sample through the hub of $ESTUAIRE_HOME. Not on one that holds data of real people."""
    from estuaire.demo import as_table, run
    from estuaire.deployment import Deployment

    err.print("streaming the sample")
    result = run(Deployment(home_folder()), None)
    if as_json:
        print(result.json(), flush=True)  # noqa: T201 - the result itself
    else:
        out.print(as_table(result))
