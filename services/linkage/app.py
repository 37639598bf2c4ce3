"""The composition root of linkage: the only file that knows everything."""

from __future__ import annotations

import datetime as dt
import logging

from runtime.database import Database
from runtime.kafka import KafkaPublisher
from runtime.keys import FolderKeyStore, KeyUnavailable
from runtime.loop import Loop, Route
from runtime.oidc import Issuer, Role
from runtime.sealing import Opener, Sealer
from runtime.service import serve
from runtime.settings import read_settings
from runtime.telemetry import start_logging, start_tracing
from services.linkage.adapters import MIGRATIONS, SqlPatientIndex, index_conninfo
from services.linkage.handlers import BACKFILL, LANES, LINKED, PSEUDONYMISED, Link
from services.linkage.linking import PATIENT_LINKS
from services.linkage.lookup import SqlLookup
from services.linkage.routes import Doors, application
from services.linkage.settings import LinkageSettings
from services.linkage.stewardship import Stewardship

ROUTE = Route(
    lanes=LANES,
    forward={PSEUDONYMISED: (LINKED,), PSEUDONYMISED + BACKFILL: (LINKED + BACKFILL,)},
    broadcast={PSEUDONYMISED: (PATIENT_LINKS,), PSEUDONYMISED + BACKFILL: (PATIENT_LINKS,)},
)


def main() -> int:
    """Run until asked to stop; returns the exit code."""
    settings = read_settings(LinkageSettings)
    start_logging(settings.log_level)
    try:
        private = FolderKeyStore(settings.keys).private("linkage-private")
        issuer = Issuer(settings)
    except (KeyUnavailable, ValueError) as missing:
        logging.getLogger("estuaire.linkage").critical("%s", missing)
        return 2
    url = settings.database_url.get_secret_value()
    database = Database(index_conninfo(url), MIGRATIONS)
    step = Link(
        SqlPatientIndex(database),
        Opener(private),
        hot_partitions=settings.hot_partitions,
        slot=settings.slot,
        topic_prefix=settings.topic_prefix,
    )
    tracer = start_tracing("linkage", settings.trace_file)
    loop = Loop("linkage", settings, step, ROUTE, tracer, database)
    lookup = SqlLookup(url)
    lookup.open()

    publisher = KafkaPublisher(settings)
    stewardship = Stewardship(lookup, publisher, settings.four_eyes, lambda: dt.datetime.now(dt.UTC))
    doors = Doors(Role(issuer, "operator"), Role(issuer, "steward"))

    def seal(plaintext: bytes, associated: bytes) -> bytes:
        return Sealer(private[0].public_key()).seal(plaintext, associated)

    try:
        return serve(application(loop.readiness, lookup, stewardship, publisher, doors, seal), settings, [loop])
    finally:
        lookup.close()
        database.close()
