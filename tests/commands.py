"""`estuaire` as its users run it: each command in a process of its own, forked from one that has imported all of it.

To import all of it takes a core a second or two, which a suite of a hundred commands need not pay for a hundred times.
"""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
import sys
import tempfile
from pathlib import Path
from subprocess import CompletedProcess

import estuaire as package
from estuaire.cli import main
from tests.hub import Hub

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(
    [__name__, *(f"estuaire.{one.name}" for one in pkgutil.iter_modules(package.__path__) if one.name != "__main__")]
)
# Rich asks for it once, when a console is made.
os.environ["COLUMNS"] = "200"


def estuaire(hub: Hub, *arguments: str, expect: int = 0, within: float = 120) -> CompletedProcess[str]:
    """Run a command against the platform of the tests; it has to end with this code within so many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("stdout", "stderr")]
        environment = {**os.environ, "ESTUAIRE_HOME": str(hub.platform.home)}
        process = _forks.Process(target=_command, args=(arguments, environment, Path.cwd(), files))
        process.start()
        process.join(within)
        if process.exitcode is None:
            process.kill()
            process.join()
        said, wrong = (one.read_text() if one.exists() else "" for one in files)
    assert process.exitcode == expect, (process.exitcode, said[-1000:], wrong[-1000:])
    return CompletedProcess(arguments, expect, said, wrong)


def _command(arguments: tuple[str, ...], environment: dict[str, str], place: Path, files: list[Path]) -> None:
    for number, path in enumerate(files, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(place)
    sys.argv = ["estuaire", *arguments]
    main()
