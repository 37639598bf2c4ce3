"""`python -m services.statistics.flow`: the composition root of the flow's worker, a process of its own.

As many of them as flow-summaries has partitions share the work.
"""

from __future__ import annotations

import logging
import sys

from contracts.sources import sources_from
from runtime.http import create_app
from runtime.keys import FolderKeyStore, KeyUnavailable
from runtime.sealing import Opener
from runtime.service import serve
from runtime.settings import read_settings
from runtime.telemetry import start_logging
from runtime.watched import WatchedFile
from services.statistics.handlers import Opening
from services.statistics.settings import FlowSettings
from services.statistics.worker import FlowWorker


def main() -> int:
    """Run until asked to stop; returns the exit code."""
    settings = read_settings(FlowSettings)
    start_logging(settings.log_level)
    for talkative in ("faust", "mode", "aiokafka", "services.statistics.worker"):
        logging.getLogger(talkative).setLevel("INFO" if settings.log_level == "DEBUG" else "WARNING")
    try:
        opening = Opening(Opener(FolderKeyStore(settings.keys).private("statistics-private")))
        registry = WatchedFile(settings.sources, sources_from).now if settings.sources else dict
        worker = FlowWorker(settings, opening, lambda source: source in registry())
    except (KeyUnavailable, ValueError) as missing:
        logging.getLogger("estuaire.flow").critical("%s", missing)
        return 2
    app = create_app("Estuaire flow", "Windows of the flow.", worker.readiness, documented=False)
    return serve(app, settings, [worker])


if __name__ == "__main__":
    sys.exit(main())
