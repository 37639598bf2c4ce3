"""The broker's accounts and access rules: what the contracts and the open permits say, and nothing else.

Kept up by whoever operates the broker, beside the services: the right to give rights is the right to everything.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from threading import Event
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)
from prometheus_client import CollectorRegistry, Gauge, start_http_server
from rich.table import Table

from contracts.acl import SUBSCRIBER, Right, is_ours, permit_rights, rights_of, service_rights
from contracts.messages import PermitClosed, PermitGranted, PermitMessage
from contracts.permits import Permit, PermitError, read_permit
from runtime import telemetry
from runtime.kafka import common, consumer_config
from runtime.settings import RuntimeSettings

log = logging.getLogger("estuaire.rights")

PERMITS = "permits"
_SCRAM = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
_SECONDS = 20
REGISTRY = CollectorRegistry()
# When the broker's rules were last found, or made, what contracts and permits say (seconds since the epoch).
CHECKED = Gauge("estuaire_rights_checked_seconds", "When access rules were checked.", registry=REGISTRY)


def write_accounts(settings: RuntimeSettings, passwords: Mapping[str, str]) -> None:
    """Tell the broker the passwords of these principals. Raises KafkaException."""
    wanted: list[UserScramCredentialAlteration] = [
        UserScramCredentialUpsertion(name, _SCRAM, password.encode()) for name, password in passwords.items()
    ]
    if wanted:
        admin = AdminClient(common(settings))
        for written in admin.alter_user_scram_credentials(wanted, request_timeout=_SECONDS).values():
            written.result()


class Rights:
    """The access rules of one deployment. Those of principals that are not its own are left alone."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self._admin = AdminClient(common(settings))
        self._prefix = settings.topic_prefix

    def replace(self, wanted: Iterable[Right]) -> tuple[int, int]:
        """Allow what is wanted and nothing else; returns how many rules it deleted and made. Raises KafkaException."""
        rules = {_rule(right) for right in wanted}
        named = {rule.principal for rule in rules}
        present = {rule for rule in self._present() if rule.principal in named or self._is_ours(rule)}
        if gone := present - rules:
            filters = [_filter(rule) for rule in gone]
            for deleted in self._admin.delete_acls(filters, request_timeout=_SECONDS).values():
                deleted.result()
        if fresh := rules - present:
            for made in self._admin.create_acls(list(fresh), request_timeout=_SECONDS).values():
                made.result()
        return len(gone), len(fresh)

    def _is_ours(self, rule: AclBinding) -> bool:
        return is_ours(str(rule.principal).removeprefix("User:"), self._prefix)

    def _present(self) -> set[AclBinding]:
        anybodys: Any = None
        everything = AclBindingFilter(
            ResourceType.ANY,
            anybodys,
            ResourcePatternType.ANY,
            anybodys,
            anybodys,
            AclOperation.ANY,
            AclPermissionType.ALLOW,
        )
        return set(self._admin.describe_acls(everything, request_timeout=_SECONDS).result())


class OpenPermits:
    """Which permits are open, from the messages of `permits` in their order, as access opens them."""

    def __init__(self) -> None:
        self._permits: dict[str, Permit] = {}
        self._closed: set[str] = set()
        self._revisions: dict[str, int] = {}
        self._suspended: set[str] = set()
        self._decoder = msgspec.msgpack.Decoder(PermitMessage)

    def apply(self, value: bytes | None) -> None:
        """Follow one message: of two grants the higher revision holds, else the first; what is closed stays closed."""
        try:
            message = self._decoder.decode(value or b"")
        except msgspec.MsgspecError:
            return
        if isinstance(message, PermitClosed):
            self._permits.pop(message.permit, None)
            self._closed.add(message.permit)
        elif isinstance(message, PermitGranted) and message.revision > self._revisions.get(message.permit, -1):
            self._define(message)

    def _define(self, said: PermitGranted) -> None:
        try:
            permit = read_permit(said.definition)
        except PermitError:
            return
        if permit.id == said.permit and permit.id not in self._closed:
            self._permits[permit.id], self._revisions[permit.id] = permit, said.revision
            (self._suspended.add if said.suspended else self._suspended.discard)(permit.id)

    def on(self, today: dt.date) -> Iterator[Permit]:
        """Those that are open on this day."""
        standing = (one for one in self._permits.values() if one.id not in self._suspended)
        return (one for one in standing if today <= one.expires)


class RightsKeeper:
    """Keeps the broker's access rules what contracts and open permits say, from moment to moment.

    `introduce` is told the principals of subscribers and sites before they are given their first right; `sites` are
    principals that run an ingest of their own, with ingest's rights.
    """

    PAUSE_SECONDS = 0.3
    CHECK_SECONDS = 60
    """After this long the broker's rules are compared anew, should somebody else have changed them."""

    def __init__(
        self,
        settings: RuntimeSettings,
        introduce: Callable[[Iterable[str]], None] = lambda _principals: None,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
        sites: Iterable[str] = (),
    ) -> None:
        self._settings = settings
        prefix = settings.topic_prefix
        self._sites = frozenset(sites)
        self._always = service_rights(prefix).union(*(rights_of("ingest", site, prefix) for site in self._sites))
        self._introduce = introduce
        self._clock = clock
        self._introduced: set[str] = set()
        self._stop = Event()
        self.settled = Event()
        """Set when the rules were right for the first time."""

    def stop(self) -> None:
        """Ask it to end."""
        self._stop.set()

    def run(self) -> None:
        """Follow the permits until asked to stop; while the broker is away, try again."""
        while not self._stop.is_set():
            try:
                self._follow()
            except Exception as error:
                why = error.args[0].str() if isinstance(error, KafkaException) else telemetry.where(error)
                log.warning("access rules are not kept up: %s", why)
                self._stop.wait(1.0)

    def _follow(self) -> None:
        rights, permits = Rights(self._settings), OpenPermits()
        applied: frozenset[Right] = frozenset()
        checked = 0.0
        for _ in self._permits(permits, on=True):
            wanted = self._wanted(permits)
            if wanted != applied or time.monotonic() > checked + self.CHECK_SECONDS:
                self._meet(wanted)
                deleted, made = rights.replace(wanted)
                log.info("%d access rules deleted, %d made", deleted, made)
                applied, checked = wanted, time.monotonic()
                CHECKED.set_to_current_time()
                self.settled.set()

    def wanted(self) -> frozenset[Right]:
        """What is to be allowed at this moment. Raises KafkaException."""
        permits = OpenPermits()
        for _ in self._permits(permits, on=False):
            pass
        return self._wanted(permits)

    def _permits(self, permits: OpenPermits, *, on: bool) -> Iterator[None]:
        """Bring `permits` up to date, from the beginning of the topic; gives when it is, and goes on if it is to."""
        name = self._settings.topic_prefix + PERMITS
        group = f"{self._settings.topic_prefix}rights"
        consumer = Consumer(consumer_config(self._settings, group) | {"enable.partition.eof": True})
        try:
            found = consumer.list_topics(name, timeout=_SECONDS).topics[name]
            if found.error is not None:
                raise KafkaException(found.error)
            consumer.assign([TopicPartition(name, one, OFFSET_BEGINNING) for one in found.partitions])
            unread = set(found.partitions)
            while not self._stop.is_set():
                for message in consumer.consume(500, self.PAUSE_SECONDS):
                    error = message.error()
                    if error is None:
                        permits.apply(message.value())
                    elif error.code() == KafkaError._PARTITION_EOF:
                        unread.discard(message.partition() or 0)
                    else:
                        raise KafkaException(error)
                if not unread:
                    yield
                    if not on:
                        return
        finally:
            consumer.close()

    def _wanted(self, permits: OpenPermits) -> frozenset[Right]:
        prefix = self._settings.topic_prefix
        today = self._clock().astimezone(dt.UTC).date()
        open_ones = (permit_rights(one.id, one.subscribers, prefix) for one in permits.on(today))
        return self._always.union(*open_ones)

    def _meet(self, wanted: Iterable[Right]) -> None:
        subscribers = {right.principal for right in wanted if SUBSCRIBER in right.principal}
        if fresh := (subscribers | self._sites) - self._introduced:
            self._introduce(fresh)
            self._introduced |= fresh


def tell_metrics(port: int, address: str = "0.0.0.0") -> None:  # noqa: S104  as services listen in their containers
    """Tell Prometheus at this port, until the process ends. Raises OSError."""
    start_http_server(port, address, REGISTRY)


def rights_table(rights: Iterable[Right]) -> Table:
    """Rights for a person, a principal after the other."""
    table = Table("principal", "may", "what", "name")
    for one in sorted(rights):
        resource = one.resource.replace("_", " ")
        table.add_row(one.principal, one.operation, resource, f"{one.name}{'*' if one.prefixed else ''}")
    return table


def _rule(right: Right) -> AclBinding:
    pattern = ResourcePatternType.PREFIXED if right.prefixed else ResourcePatternType.LITERAL
    return AclBinding(
        ResourceType[right.resource.upper()],
        right.name,
        pattern,
        f"User:{right.principal}",
        "*",
        AclOperation[right.operation.upper()],
        AclPermissionType.ALLOW,
    )


def _filter(rule: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        rule.restype,
        rule.name,
        rule.resource_pattern_type,
        rule.principal,
        rule.host,
        rule.operation,
        rule.permission_type,
    )
