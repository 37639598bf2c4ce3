"""The composition root of access: the only file that knows everything."""

from __future__ import annotations

import datetime as dt
import logging
from importlib.resources import files
from pathlib import Path
from threading import Event
from typing import Final

import psycopg
from confluent_kafka import KafkaException
from prometheus_client import Gauge

from contracts import audit
from contracts.messages import encode, restored
from contracts.permits import PermitError, read_permit
from contracts.registry import view_topic
from contracts.sources import sources_from
from runtime.database import Database
from runtime.dead_letter_routes import add_dead_letter_routes
from runtime.dead_letters import DeadLetters
from runtime.http import ProblemError
from runtime.kafka import BrokerAway, KafkaPublisher, Publisher, create_topics, empty_topic
from runtime.keys import FolderKeyStore, KeyUnavailable
from runtime.loop import Loop, Route
from runtime.messages import RetryLater
from runtime.oidc import Issuer
from runtime.rounds import Rounds
from runtime.sealing import Opener
from runtime.service import Worker, serve
from runtime.settings import read_settings
from runtime.telemetry import start_logging, start_tracing
from runtime.watched import WatchedFile
from services.access.adapters import STATES, PostgresHistory
from services.access.authorization import Doors
from services.access.catalogue import add_catalogue_route
from services.access.deliveries import Deliveries
from services.access.domain.catalogue import publisher_from
from services.access.expiry import Expiry
from services.access.handlers import LANES, Access
from services.access.indicators import Releaser
from services.access.lookup import PostgresReader, Reader, WrongRole, check_role
from services.access.pages import PostgresPages
from services.access.projects import PostgresSteps, Registrar, read_terms
from services.access.requests import Keeper, PostgresRequests
from services.access.routes import application, grant
from services.access.settings import AccessSettings
from services.access.vault import Vault

log = logging.getLogger("estuaire.access")

# Permits by state; one that is filling has a view that is brought up to date.
PERMITS_BY_STATE: Final = Gauge("estuaire_permits", "Permits by state.", ["state"])
# Oppositions in force.
OPPOSED: Final = Gauge("estuaire_oppositions_in_force", "Oppositions in force.")


class PermitsFolder:
    """Grants the permits of a folder once, as an officer would; a broken or changed one is named and left."""

    def __init__(self, folder: Path, reader: Reader, publisher: Publisher) -> None:
        self._folder = folder
        self._reader = reader
        self._publisher = publisher
        self._stop = Event()

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()

    def run(self) -> None:
        """Grant them all, trying again while database or broker are away."""
        files = sorted(one for one in self._folder.iterdir() if one.suffix in (".yaml", ".yml", ".json"))
        for file in files:
            while not self._stop.is_set() and not self._is_settled(file):
                self._stop.wait(1.0)

    def _is_settled(self, file: Path) -> bool:
        try:
            permit, by = read_permit(file.read_bytes()), audit.actor("service", "access")
            grant(permit, by, self._reader, self._publisher, _now)
        except (psycopg.OperationalError, BrokerAway) as away:
            log.warning("%s waits: %s", file.name, type(away).__name__)
            return False
        except (PermitError, ProblemError, OSError) as error:
            log.error("%s is not granted: %s", file.name, error)
        return True


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def count(reader: PostgresReader) -> None:
    """Show how many permits and oppositions there are. Raises psycopg.Error."""
    found = reader.count_permits()
    for state in STATES:
        PERMITS_BY_STATE.labels(state).set(found.get(state, 0))
    OPPOSED.set(sum(many for _, many in reader.oppositions()))


def _empty(settings: AccessSettings, topic: str) -> None:
    """Raises RetryLater."""
    try:
        empty_topic(settings, topic)
    except KafkaException as error:
        log.error("%s cannot be emptied: %s", topic, error.args[0].name())
        raise RetryLater("a view's topic cannot be emptied") from None


def main() -> int:
    """Run until asked to stop; returns the exit code."""
    settings = read_settings(AccessSettings)
    start_logging(settings.log_level)
    try:
        keys = FolderKeyStore(settings.keys)
        vault, opener = Vault(keys.secret("history")), Opener(keys.private("access-private"))
        terms = read_terms(settings.terms)
        publisher = WatchedFile(settings.catalogue, publisher_from).now()
        sources = WatchedFile(settings.sources, sources_from).now if settings.sources else dict
        doors = Doors(Issuer(settings))
    except (KeyUnavailable, ValueError) as wrong:
        log.critical("%s", wrong)
        return 2
    url = settings.database_url.get_secret_value()
    database = Database(url, files("services.access") / "migrations")
    step = Access(
        history=PostgresHistory(database, vault, settings.beyond()),
        vault=vault,
        opener=opener,
        registrar=Registrar(PostgresSteps(database)),
        keeper=Keeper(PostgresRequests(database)),
        create_views=lambda permits: create_topics(
            settings, [view_topic(one, settings.hot_partitions, settings.topic_prefix) for one in permits]
        ),
        empty_view=lambda permit: _empty(settings, f"{settings.topic_prefix}view-{permit}"),
        partitions=settings.hot_partitions,
        topic_prefix=settings.topic_prefix,
        scan_chunk=settings.scan_chunk,
    )
    loop = Loop("access", settings, step, Route(LANES), start_tracing("access", settings.trace_file), database)
    staff_url, subscriber_url = settings.staff_url.get_secret_value(), settings.subscriber_url.get_secret_value()
    reader, pages = PostgresReader(staff_url, settings.readers), PostgresPages(subscriber_url, settings.readers)
    writer = KafkaPublisher(settings)
    letters = DeadLetters("access", settings, LANES, restored, audit.replayed)
    app = application(loop.readiness, reader, pages, writer, vault, doors, terms=terms, quota=settings.quota)
    add_catalogue_route(app, reader, publisher, sources)
    may_replay = doors.may("replay")
    add_dead_letter_routes(app, letters, lambda authorization: may_replay(authorization).name)
    releaser = Releaser(url, vault, lambda leaf: writer.publish(audit.AUDIT, leaf.actor, encode(leaf)), _now)
    expiry, deliveries = Expiry(reader, writer, _now), Deliveries(reader, writer, vault, _now)
    workers: list[Worker] = [
        loop,
        letters,
        Rounds("permits that expire", expiry.close_expired, 2.0),
        Rounds("deliveries", deliveries.order_due, 5.0),
        Rounds("indicators", releaser.release_due, 30.0),
        Rounds("counts of permits and oppositions", lambda: count(reader), 5.0),
    ]
    if settings.permits is not None:
        workers.append(PermitsFolder(settings.permits, reader, writer))
    try:
        database.connection  # noqa: B018 - brings the schema up to date before anybody reads
        check_role(staff_url)
        check_role(subscriber_url)
    except RetryLater:
        log.warning("the database does not answer yet")
    except (WrongRole, psycopg.errors.UndefinedObject) as wrong:
        log.critical("%s; see Roles in services/access/README.md", str(wrong).splitlines()[0])
        return 2
    reader.open()
    pages.open()
    try:
        return serve(app, settings, workers)
    finally:
        reader.close()
        pages.close()
        database.close()
