"""The composition root of statistics: the only file that knows everything."""

from __future__ import annotations

import logging

from contracts.sources import sources_from
from runtime.database import Database
from runtime.keys import FolderKeyStore, KeyUnavailable
from runtime.oidc import Issuer, Role
from runtime.rounds import Rounds
from runtime.sealing import Opener
from runtime.service import serve
from runtime.settings import read_settings
from runtime.telemetry import start_logging
from runtime.watched import WatchedFile
from services.statistics.adapters import MIGRATIONS, PostgresMemory, PostgresReader
from services.statistics.handlers import Count, Opening
from services.statistics.published import Published, WindowsReader
from services.statistics.routes import application
from services.statistics.settings import StatisticsSettings
from services.statistics.summaries import SummariesReader
from services.statistics.watch import Watch


def main() -> int:
    """Run until asked to stop; returns the exit code."""
    settings = read_settings(StatisticsSettings)
    start_logging(settings.log_level)
    try:
        opener = Opener(FolderKeyStore(settings.keys).private("statistics-private"))
        operators = Role(Issuer(settings), "operator")
        registry = WatchedFile(settings.sources, sources_from).now if settings.sources else dict
    except (KeyUnavailable, ValueError) as missing:
        logging.getLogger("estuaire.statistics").critical("%s", missing)
        return 2
    url = settings.database_url.get_secret_value()
    database = Database(url, MIGRATIONS)
    count = Count(PostgresMemory(database), Opening(opener), lambda source: source in registry())
    summaries = SummariesReader(settings, database, count)
    reader = PostgresReader(url)
    reader.open()
    published = Published()
    windows = WindowsReader(settings, published)
    watch = Watch(published, reader, registry)

    def ready() -> str | None:
        return summaries.readiness() or windows.readiness()

    try:
        app = application(
            ready, reader, registry, operators, published=published, reading=windows.readiness, remembered=reader
        )
        return serve(app, settings, [summaries, windows, Rounds("alarms", watch.look, Watch.EVERY_SECONDS)])
    finally:
        reader.close()
        database.close()
