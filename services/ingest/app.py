"""The composition root of ingest: the only file that knows everything."""

from __future__ import annotations

import logging
import secrets

from runtime.keys import FolderKeyStore, KeyUnavailable
from runtime.sealing import Sealer
from runtime.service import serve
from runtime.settings import read_settings
from runtime.telemetry import start_logging, start_tracing
from runtime.watched import WatchedFile
from services.ingest.adapters import (
    KafkaOutbox,
    Markers,
    MeasuresSender,
    ReceiptsKeeper,
    SummariesReader,
    intake_from,
    producers_from,
    tracing,
)
from services.ingest.domain.flow import Flow, ThrottleRule
from services.ingest.domain.keys import TO_STATISTICS
from services.ingest.domain.measures import Tally
from services.ingest.domain.receipts import Receipts
from services.ingest.mllp import MllpListener, tls_of
from services.ingest.routes import Desk, application
from services.ingest.settings import IngestSettings


def main() -> int:
    """Run until asked to stop; returns the exit code."""
    settings = read_settings(IngestSettings)
    start_logging(settings.log_level)
    trace = tracing(start_tracing("ingest", settings.trace_file), settings.trace_ratio)
    try:
        keys = FolderKeyStore(settings.keys)
        intake = intake_from(keys, trace, settings.remember_identities)
        to_statistics = Sealer(keys.public(TO_STATISTICS))
        producers = WatchedFile(settings.producers, producers_from)
        tls = tls_of(settings)
    except (KeyUnavailable, ValueError) as missing:
        logging.getLogger("estuaire.ingest").critical("%s", missing)
        return 2
    rule = ThrottleRule(settings.throttle_share, settings.throttle_least, settings.throttle_seconds)
    flow = Flow(settings.hot_partitions, rule)
    outbox = KafkaOutbox(settings)
    summaries = SummariesReader(settings, flow)
    tally = Tally()
    measures = MeasuresSender(settings, tally, outbox, to_statistics)
    receipts = Receipts(secrets.token_hex(8))
    keeper = ReceiptsKeeper(settings, receipts, outbox)
    markers = Markers(flow, outbox, settings.hot_partitions)
    desk = Desk(intake, outbox, flow, markers, producers, settings, tally, receipts, keeper.is_complete)
    try:
        app = application(lambda: outbox.readiness() or summaries.readiness(), desk)
        listeners = [MllpListener(desk, settings, tls)] if settings.listening else []
        return serve(app, settings, [*listeners, measures, keeper, outbox, summaries])
    finally:
        desk.close()
