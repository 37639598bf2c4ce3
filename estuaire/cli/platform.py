"""For whoever runs the whole hub on one machine: start it, see its main job once through, and measure it."""

from __future__ import annotations

import json
import signal
import threading
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from estuaire.cli.options import CONSOLE, Port, err, out, say, show
from estuaire.home import home_folder

if TYPE_CHECKING:
    from estuaire.platform import Platform


Observe = Annotated[
    bool, typer.Option("--observe", help="With Prometheus and a trace store, each where it can be had here.")
]


def up(port: Port = 8000, observe: Observe = False) -> None:
    """Start broker, database and all services here; stop with Ctrl-C."""
    from estuaire.platform import Platform

    with Platform(home_folder(), port, report=say, observe=observe) as platform:
        _stay(platform)


def token(
    name: Annotated[str, typer.Argument(help="Who it is for: a subscriber as permits name it, or any name.")],
    roles: Annotated[
        list[str],
        typer.Option(
            "--role", help="officer, reviewer, subscriber, operator, steward, auditor; more than one, if need be."
        ),
    ],
) -> None:
    """Print a token of the platform here for somebody, good for an hour."""
    from estuaire.keyring import Keyring

    print(Keyring(home_folder()).token(name, *roles))  # noqa: T201 - the result itself


def console(
    name: Annotated[str, typer.Argument(help="Who you are: a subscriber as permits name it, or any name.")] = "officer",
    roles: Annotated[
        list[str] | None,
        typer.Option("--role", help="As what; more than one, if need be. An officer, if none is named."),
    ] = None,
    url: Annotated[str, typer.Option("--url", envvar="ESTUAIRE_CONSOLE_URL", help="Where it listens.")] = CONSOLE,
) -> None:
    """Print a link that signs in once at the console of the platform here, within ten minutes."""
    from estuaire.console import sign_in_link

    show(sign_in_link(home_folder(), url, name, *(roles or ["officer"])))


def demo(
    port: Port = 8000,
    once: Annotated[bool, typer.Option("--once", help="Stop by itself at the end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
    records: Annotated[Path | None, typer.Option(help="A file or folder to send in place of the sample.")] = None,
    observe: Observe = False,
) -> None:
    """Start the platform, stream the sample (or FILE) through it, and print what came out of each step."""
    from estuaire.demo import as_table, run
    from estuaire.files import groups_of
    from estuaire.platform import Platform

    if records is not None:
        groups_of([records])
    with Platform(home_folder(), port, report=say, observe=observe) as platform:
        err.print("streaming the sample" if records is None else f"streaming {records}")
        result = run(platform, records)
        if not as_json or not once:
            out.print(as_table(result))
            out.print(f"state and logs: {platform.home}")
            out.print(f"console: {platform.console_url} (sign in by `uv run estuaire console`)", soft_wrap=True)
        if as_json:
            print(result.json(), flush=True)  # noqa: T201 - the result itself
        if not once:
            _stay(platform)


def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="flow: all services beside a pass-through; ingest: each format, beside a public reader;"
            " linkage: its step, beside Splink; loop: beside Faust; devices: many, and how long one measure takes;"
            " pages: the console's in Chromium, while records flow."
        ),
    ] = "flow",
    people: Annotated[
        str, typer.Option(help="linkage: how many are in the index, one size after another.")
    ] = "10000,100000",
    records: Annotated[int, typer.Option(min=1000, help="ingest: about how many of each format.")] = 20_000,
    as_json: Annotated[bool, typer.Option("--json", help="Only the JSON object.")] = False,
    port: Port = 8000,
) -> None:
    """The benchmarks; figures of one run compare with each other, not with another machine's."""
    from estuaire.client import SendError

    if name in ("flow", "devices", "pages"):
        try:
            bench = import_module(f"bench.{name}")
        except ModuleNotFoundError as missing:
            raise SendError(f"this benchmark needs {missing.name}: run it in a checkout, with `uv run`") from None
        with TemporaryDirectory(prefix="estuaire-bench-") as folder:
            result = bench.main(Path(folder), port)
    elif name == "ingest":
        from bench import ingest

        result = ingest.main(records)
    elif name == "loop":
        from bench import loop

        result = loop.main()
    elif name == "linkage":
        from bench import linkage

        sizes = [int(size) for size in people.split(",") if size.isdecimal()]
        if not sizes or min(sizes) < linkage.SMALLEST:
            raise SendError(f"--people takes numbers from {linkage.SMALLEST} on, with commas between them")
        result = linkage.main(sizes, as_json)
    else:
        raise SendError(f"there is no benchmark {name}: flow, ingest, linkage, loop, devices or pages")
    if not as_json:
        for key, value in result.items():
            err.print(f"{key}: {value}")
    print(json.dumps(result), flush=True)  # noqa: T201 - the result itself


def _stay(platform: Platform) -> None:
    """Say where everything listens, and return when interrupted."""
    err.print(f"ingest    {platform.ingest_url}/docs")
    err.print(f"access    {platform.access_url}/docs")
    err.print(f"console   {platform.console_url} (sign in by `uv run estuaire console`)", soft_wrap=True)
    err.print(f"broker    {platform.bootstrap_servers}")
    for name, url in (platform.observers.addresses() if platform.observers else {}).items():
        err.print(f"{name:9} {url}")
    err.print("Ctrl-C stops everything")
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    done.wait()
    err.print("stopping")
