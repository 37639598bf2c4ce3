"""`python -m tests.fuzz TARGET --seconds N`: atheris (libFuzzer) on one target; any other way to end is a fault.

What is found is kept under `.fuzz/<target>`: the corpus, and the input of each crash. atheris is no dependency:
`uv run --with atheris python -m tests.fuzz ...`.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path


def main() -> None:
    """Fuzz one target for so many seconds, from its seeds and what earlier runs have found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", nargs="?")
    parser.add_argument("--list", action="store_true", help="only name the targets")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--folder", type=Path, default=Path(".fuzz"))
    chosen = parser.parse_args()
    if chosen.list:
        sys.stdout.write(" ".join(import_module("tests.fuzz.targets").TARGETS) + "\n")
        return
    atheris = import_module("atheris")
    with atheris.instrument_imports(include=["services", "contracts"]):
        targets = import_module("tests.fuzz.targets")
    if chosen.target not in targets.TARGETS:
        parser.error(f"there is no target {chosen.target}: {', '.join(targets.TARGETS)}")
    corpus = chosen.folder / chosen.target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(targets.seeds(chosen.target)):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={chosen.seconds}",
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-max_len=20000",
        f"-artifact_prefix={corpus}-",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], targets.TARGETS[chosen.target])
    atheris.Fuzz()


main()
