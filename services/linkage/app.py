"""The composition root of linkage: the only file that knows everything."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Final

from prometheus_client import Gauge

from contracts.audit import replayed
from contracts.messages import restored
from runtime.database import Database
from runtime.dead_letter_routes import add_dead_letter_routes
from runtime.dead_letters import DeadLetters
from runtime.kafka import KafkaPublisher
from runtime.keys import FolderKeyStore, KeyUnavailable
from runtime.loop import Loop, Route
from runtime.oidc import Issuer, Role
from runtime.rounds import Rounds
from runtime.sealing import Opener, Sealer
from runtime.service import serve
from runtime.settings import read_settings
from runtime.telemetry import start_logging, start_tracing
from services.linkage.adapters import MIGRATIONS, SqlPatientIndex, index_conninfo
from services.linkage.handlers import BACKFILL, LANES, LINKED, PSEUDONYMISED, Link
from services.linkage.linking import PATIENT_LINKS
from services.linkage.lookup import Lookup, SqlLookup
from services.linkage.routes import Doors, application
from services.linkage.settings import LinkageSettings
from services.linkage.stewardship import Stewardship

ROUTE = Route(
    lanes=LANES,
    forward={PSEUDONYMISED: (LINKED,), PSEUDONYMISED + BACKFILL: (LINKED + BACKFILL,)},
    broadcast={PSEUDONYMISED: (PATIENT_LINKS,), PSEUDONYMISED + BACKFILL: (PATIENT_LINKS,)},
)

# Pairs that wait for a steward, counted up to 10,000.
REVIEWS: Final = Gauge("estuaire_reviews_waiting", "Pairs that wait for a steward.")
# How long the oldest of them has waited.
OLDEST_REVIEW: Final = Gauge("estuaire_reviews_oldest_seconds", "Seconds the oldest pair has waited for a steward.")
REVIEWS_EVERY_SECONDS: Final = 30.0


def _count_reviews(lookup: Lookup) -> None:
    """Raises RetryLater."""
    count, seconds = lookup.waiting()
    REVIEWS.set(count)
    OLDEST_REVIEW.set(seconds)


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
        SqlPatientIndex(database, settings.beyond()),
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

    letters = DeadLetters("linkage", settings, LANES, restored, replayed)
    reviews = Rounds("counts of reviews", lambda: _count_reviews(lookup), REVIEWS_EVERY_SECONDS)
    app = application(loop.readiness, lookup, stewardship, publisher, doors, seal)
    add_dead_letter_routes(app, letters, doors.operators.name)
    try:
        return serve(app, settings, [loop, letters, reviews])
    finally:
        lookup.close()
        database.close()
