"""The composition root of audit: the only file that knows everything."""

from __future__ import annotations

import logging
from functools import partial

from contracts.audit import replayed
from contracts.messages import restored
from runtime.database import Database
from runtime.dead_letter_routes import add_dead_letter_routes
from runtime.dead_letters import DeadLetters
from runtime.keys import FolderKeyStore, KeyUnavailable
from runtime.loop import Loop, Route
from runtime.messages import RetryLater
from runtime.oidc import Issuer, Role
from runtime.service import serve
from runtime.settings import read_settings
from runtime.telemetry import start_logging, start_tracing
from services.audit.adapters import MIGRATIONS, Notary, PostgresLog, PostgresReader, SecondPlace, keys_of
from services.audit.domain.checkpoints import Signer
from services.audit.handlers import LANES, Append
from services.audit.routes import application
from services.audit.settings import AuditSettings

log = logging.getLogger("estuaire.audit")


def main() -> int:
    """Run until asked to stop; returns the exit code."""
    settings = read_settings(AuditSettings)
    start_logging(settings.log_level)
    try:
        issuer = Issuer(settings)
        signer, verifier = keys_of(partial(Signer, settings.origin), FolderKeyStore(settings.keys).secret("checkpoint"))
    except (KeyUnavailable, ValueError) as wrong:
        log.critical("%s", wrong)
        return 2
    url = settings.database_url.get_secret_value()
    database = Database(url, MIGRATIONS)
    step = Append(PostgresLog(database), settings.topic_prefix)
    loop = Loop("audit", settings, step, Route(LANES), start_tracing("audit", settings.trace_file), database)
    reader = PostgresReader(url)
    notary = Notary(reader, SecondPlace(settings.checkpoints), signer, verifier, settings.checkpoint_seconds)
    try:
        database.connection  # noqa: B018 - brings the schema up to date before anybody reads
    except RetryLater:
        log.warning("the database does not answer yet")
    reader.open()
    letters = DeadLetters("audit", settings, LANES, restored, replayed)
    auditors, operators = Role(issuer, "auditor"), Role(issuer, "operator")
    app = application(lambda: loop.readiness() or notary.readiness(), reader, auditors, notary)
    add_dead_letter_routes(app, letters, operators.name)
    try:
        return serve(app, settings, [loop, notary, letters])
    finally:
        reader.close()
        database.close()
