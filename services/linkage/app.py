"""The composition root of linkage: the only file that knows everything."""

from __future__ import annotations

import logging
from pathlib import Path

import yaml

from runtime.database import Database
from runtime.http import Bearers
from runtime.keys import FolderKeyStore, KeyUnavailable
from runtime.loop import Loop, Route
from runtime.sealing import Opener
from runtime.service import serve
from runtime.settings import read_settings
from runtime.telemetry import start_logging, start_tracing
from services.linkage.adapters import MIGRATIONS, SqlLookup, SqlPatientIndex, index_conninfo
from services.linkage.handlers import BACKFILL, LANES, LINKED, PATIENT_LINKS, PSEUDONYMISED, Link
from services.linkage.routes import application
from services.linkage.settings import LinkageSettings

ROUTE = Route(
    lanes=LANES,
    forward={PSEUDONYMISED: (LINKED,), PSEUDONYMISED + BACKFILL: (LINKED + BACKFILL,)},
    broadcast={PSEUDONYMISED: (PATIENT_LINKS,), PSEUDONYMISED + BACKFILL: (PATIENT_LINKS,)},
)


def main() -> int:
    """Run until asked to stop; returns the exit code."""
    settings = read_settings(LinkageSettings)
    start_logging(settings.log_level)
    log = logging.getLogger("estuaire.linkage")
    try:
        opener = Opener(FolderKeyStore(settings.keys).private("linkage-private"))
        operators = read_operators(settings.operators)
    except KeyUnavailable as missing:
        log.critical("%s", missing)
        return 2
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        log.critical("operators cannot be read: expected %s as `operators: [{name, token_sha256}]`", settings.operators)
        return 2
    url = settings.database_url.get_secret_value()
    database = Database(index_conninfo(url), MIGRATIONS)
    step = Link(
        SqlPatientIndex(database),
        opener,
        hot_partitions=settings.hot_partitions,
        slot=settings.slot,
        topic_prefix=settings.topic_prefix,
    )
    tracer = start_tracing("linkage", settings.trace_file)
    loop = Loop("linkage", settings, step, ROUTE, tracer, database)
    lookup = SqlLookup(url)
    lookup.open()
    try:
        return serve(application(loop.readiness, lookup, operators), settings, [loop])
    finally:
        lookup.close()
        database.close()


def read_operators(path: Path) -> Bearers:
    """Who may ask, from YAML: names by the hash of their token."""
    listed = yaml.safe_load(path.read_text())["operators"]
    return Bearers({one["token_sha256"]: one["name"] for one in listed})
