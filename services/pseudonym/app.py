"""The composition root of pseudonym: the only file that knows everything."""

from __future__ import annotations

import logging

from contracts.audit import replayed
from contracts.messages import restored
from runtime.dead_letter_routes import add_dead_letter_routes
from runtime.dead_letters import DeadLetters
from runtime.keys import FolderKeyStore, KeyUnavailable
from runtime.loop import Loop, Route
from runtime.oidc import Issuer, Role
from runtime.service import serve
from runtime.settings import read_settings
from runtime.telemetry import start_logging, start_tracing
from services.pseudonym.adapters import step_from
from services.pseudonym.handlers import OPPOSITIONS, PERMITS, PSEUDONYMISED, RECEIVED
from services.pseudonym.routes import application
from services.pseudonym.settings import PseudonymSettings

ROUTE = Route(
    lanes=(OPPOSITIONS, PERMITS, RECEIVED, f"{RECEIVED}-backfill"),
    forward={RECEIVED: (PSEUDONYMISED,), f"{RECEIVED}-backfill": (f"{PSEUDONYMISED}-backfill",)},
)


def main() -> int:
    """Run until asked to stop; returns the exit code."""
    settings = read_settings(PseudonymSettings)
    start_logging(settings.log_level)
    try:
        step = step_from(FolderKeyStore(settings.keys), settings.topic_prefix)
        operators = Role(Issuer(settings), "operator")
    except (KeyUnavailable, ValueError) as missing:
        logging.getLogger("estuaire.pseudonym").critical("%s", missing)
        return 2
    loop = Loop("pseudonym", settings, step, ROUTE, start_tracing("pseudonym", settings.trace_file))
    letters = DeadLetters("pseudonym", settings, ROUTE.lanes, restored, replayed)
    app = application(loop.readiness)
    add_dead_letter_routes(app, letters, operators.name)
    return serve(app, settings, [loop, letters])
