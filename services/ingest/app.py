"""The composition root of ingest: the only file that knows everything."""

from __future__ import annotations

import logging

from runtime.keys import FolderKeyStore, KeyUnavailable
from runtime.service import serve
from runtime.settings import read_settings
from runtime.telemetry import start_logging, start_tracing
from services.ingest.adapters import KafkaOutbox, Markers, ProducersFile, SummariesReader, intake_from, tracing
from services.ingest.domain.flow import Flow, ThrottleRule
from services.ingest.mllp import MllpListener, tls_of
from services.ingest.routes import Desk, application
from services.ingest.settings import IngestSettings


def main() -> int:
    """Run until asked to stop; returns the exit code."""
    settings = read_settings(IngestSettings)
    start_logging(settings.log_level)
    trace = tracing(start_tracing("ingest", settings.trace_file), settings.trace_ratio)
    try:
        intake = intake_from(FolderKeyStore(settings.keys), trace, settings.remember_identities)
        producers = ProducersFile(settings.producers)
        tls = tls_of(settings)
    except (KeyUnavailable, ValueError) as missing:
        logging.getLogger("estuaire.ingest").critical("%s", missing)
        return 2
    rule = ThrottleRule(settings.throttle_share, settings.throttle_least, settings.throttle_seconds)
    flow = Flow(settings.hot_partitions, rule)
    outbox = KafkaOutbox(settings)
    summaries = SummariesReader(settings, flow)
    desk = Desk(intake, outbox, flow, Markers(flow, outbox, settings.hot_partitions), producers, settings)
    try:
        app = application(lambda: outbox.readiness() or summaries.readiness(), desk)
        listeners = [MllpListener(desk, settings, tls)] if settings.listening else []
        return serve(app, settings, [outbox, summaries, *listeners])
    finally:
        desk.close()
