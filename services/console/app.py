"""The composition root of the console: the only file that knows everything."""

from __future__ import annotations

import logging

from runtime.oidc import Issuer
from runtime.service import serve
from runtime.settings import read_settings
from runtime.telemetry import start_logging
from services.console.adapters import HttpHub, Links
from services.console.routes import application
from services.console.sessions import Sessions
from services.console.settings import ConsoleSettings
from services.console.sign_in import Provider
from services.console.visits import Desk


def main() -> int:
    """Run until asked to stop; returns the exit code."""
    settings = read_settings(ConsoleSettings)
    start_logging(settings.log_level)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log what people look for
    try:
        issuer = Issuer(settings)
        provider = Provider(settings, issuer) if settings.client_id else None
    except ValueError as wrong:
        logging.getLogger("estuaire.console").critical("%s", wrong)
        return 2
    hub = HttpHub(settings.services)
    sessions = Sessions(provider.renew if provider else None)
    links, follows = Links(settings.links), settings.traces_api is not None
    desk = Desk(hub, sessions, issuer, links, settings.url, provider, settings.traces, follows)
    try:
        return serve(application(desk), settings, [])
    finally:
        hub.close()
