"""Every alert's cause, made on a live platform, and a Prometheus whose rules have an hour as a minute."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import psycopg
import yaml
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from contracts import audit
from contracts.messages import Measures, encode, measures_associated
from estuaire.database import running_database
from estuaire.dead_letters import replay
from estuaire.observe import RULES
from estuaire.platform import CHECKPOINTS
from runtime.messages import SUMMARIES, FlowSummary
from runtime.sealing import Sealer
from tests.hub import Hub, meanwhile

Make = Callable[..., dict[str, Any]]

SMALLEST, SHORTER = 2, 60
"""Live, an hour of a rule is a minute; a window has at least so many seconds, for it needs two scrapes."""
AWAITED = 240.0


def scaled(folder: Path) -> Path:
    """The rules with an hour as a minute, in a folder of their own; of the thresholds, those that would take long."""
    folder.mkdir()
    seconds = {"s": 1, "m": 60, "h": 3600}

    def short(found: re.Match[str]) -> str:
        return f"{max(SMALLEST, int(found[1]) * seconds[found[2]] // SHORTER)}s"

    for path in RULES.glob("*.yaml"):
        document = yaml.safe_load(path.read_text())
        for group in document["groups"]:
            for rule in group["rules"]:
                windows = re.sub(r"(?<=\[)(\d+)([smh])(?=:?\])", short, rule["expr"])
                rule["expr"] = windows.replace("[2s]", "[4s]")
                if rule.get("for"):
                    rule["for"] = re.sub(r"^(\d+)([smh])$", short, rule["for"]) if rule["for"] != "0m" else "0s"
                for long, less in THRESHOLDS.get(rule.get("alert", ""), {}).items():
                    if long == "for":
                        rule["for"] = less
                        continue
                    assert long in rule["expr"], rule["expr"]
                    rule["expr"] = rule["expr"].replace(long, less)
        (folder / path.name).write_text(yaml.safe_dump(document))
    return folder


THRESHOLDS = {
    "StepStands": {"> 600": "> 10"},
    "RecordsLate": {"> 60": "> 4", "for": "0s"},
    "DeadLettersWait": {"for": "5s"},
    "DeadLettersMany": {"> 100": "> 5"},
    "RejectsHigh": {"> 20": "> 2"},
    "OutputsWait": {"> 60": "> 6"},
    "CheckpointsOld": {"> 300": "> 15"},
    "ProducerResets": {"> 3": "> 0"},
    "FlowBehind": {"> 300": "> 20"},
    "RightsOld": {"> 300": "> 15"},
    "StatisticsBehind": {"> 300": "> 20"},
    "LagGrows": {"> 10000": "> 500", "for": "0s"},
    "AuditBehind": {"> 1000": "> 200", "for": "0s"},
}
"""What is waited for less long or of which less is made, so that a run takes minutes."""


class Alarms:
    """What fires on a Prometheus with the scaled rules, and the ways to make it."""

    def __init__(self, hub: Hub, observation: Make, url: str) -> None:
        self.hub = hub
        self.observation = observation
        self._url = url

    def firing(self) -> set[str]:
        data = httpx.get(f"{self._url}/api/v1/alerts", timeout=30).json()["data"]["alerts"]
        return {one["labels"]["alertname"] for one in data if one["state"] == "firing"}

    def _is_known(self, metric: str) -> bool:
        data = httpx.get(f"{self._url}/api/v1/query", params={"query": metric}, timeout=30).json()["data"]
        return bool(data["result"])

    def fires(self, name: str) -> None:
        self.hub.wait_for(lambda: name in self.firing(), AWAITED)

    def clears(self, name: str) -> None:
        self.hub.wait_for(lambda: name not in self.firing(), AWAITED)

    def down(self) -> Iterator[None]:
        yield from self._stopped("console")

    def ingest_down(self) -> Iterator[None]:
        yield from self._stopped("ingest")

    def _stopped(self, name: str) -> Iterator[None]:
        service = self.hub.platform.services[name]
        service.stop()
        yield
        service.start()
        service.wait(time.monotonic() + 60)

    def rejects(self) -> Iterator[None]:
        source = self.hub.source()
        bad = self.observation(source, "bad", 1) | {"type": "no-such-type.v1"}
        client = self.hub.producer(source)

        def send(stop: Event) -> None:
            with client as producer:
                while not stop.wait(0.2):
                    list(producer.send(iter([bad, self.observation(source, "good", 1)]), 2))

        with meanwhile(send, 30):
            yield

    def silent(self) -> Iterator[None]:
        source = self.hub.source()
        self.hub.send(source, [self.observation(source, "first", 1)])
        self.hub.register(source, "1m")
        yield
        self.hub.send(source, [self.observation(source, "second", 2)])

    def uncounted(self) -> Iterator[None]:
        yield from self.standing("statistics.flow")

    def unopened(self) -> Iterator[None]:
        """Measures are sealed to a key that nobody has, once it is known that there were none."""
        self.hub.wait_for(lambda: self._is_known("estuaire_statistics_summaries_ignored_total"))
        sealer, at = Sealer(X25519PrivateKey.generate().public_key()), round(time.time() * 1000)
        measures = encode(Measures(os.urandom(8), 1, {self.hub.source(): {"claim.v1": {"records": 1}}}))
        summary = FlowSummary("ingest", 0, at, (), measures=sealer.seal(measures, measures_associated(at)))
        self._flood([(SUMMARIES, b"ingest-0", encode(summary))])
        yield

    def locked(self) -> Iterator[None]:
        """Somebody holds a lock in the database of statistics, while records come."""
        source = self.hub.source()
        with psycopg.connect(**self._admin("statistics")) as admin:
            admin.execute("LOCK TABLE measures IN ACCESS EXCLUSIVE MODE")
            self.hub.send(source, [self.observation(source, "a", 1)])
            yield

    def another_schema(self) -> Iterator[None]:
        """The database of statistics is that of another version."""
        rename = "ALTER TABLE measures RENAME COLUMN {} TO {}"
        headers = {"Authorization": f"Bearer {self.hub.platform.keyring.token('operator', 'operator')}"}
        with psycopg.connect(**self._admin("statistics"), autocommit=True) as admin:
            admin.execute(rename.format("count", "how_many").encode())
            try:
                url = f"{self.hub.platform.services['statistics'].url}/v1/sources"
                assert httpx.get(url, headers=headers, timeout=30).status_code == 500
                yield
            finally:
                admin.execute(rename.format("how_many", "count").encode())

    def standing(self, process: str = "linkage") -> Iterator[None]:
        """A process, linkage's unless another is named, stands still, while records come."""
        child = self.hub.platform.services[process].process
        assert child is not None
        source = self.hub.source()
        self.hub.send(source, [self.observation(source, "first", 1)])  # or its figures begin with what is late
        client = self.hub.producer(source)

        def send(stop: Event) -> None:
            with client as producer:
                for number in range(100_000):
                    list(producer.send(iter([self.observation(source, f"s{number}", 1)]), 1))
                    if stop.wait(0.2):
                        return

        with meanwhile(send):
            os.kill(child.pid, signal.SIGSTOP)
            try:
                yield
            finally:
                os.kill(child.pid, signal.SIGCONT)

    def in_a_batch(self) -> Iterator[None]:
        """Somebody holds a lock in linkage's database, and the batch of a record waits for it."""
        source = self.hub.source()
        with psycopg.connect(**self._admin("linkage")) as admin, self.hub.producer(source) as producer:
            admin.execute("LOCK TABLE records IN ACCESS EXCLUSIVE MODE")
            list(producer.send(iter([self.observation(source, "a", 1)]), 1))
            yield

    def late(self) -> Iterator[None]:
        """Records wait at linkage for a while, and are late in access when it goes on."""
        standing, begun = self.standing(), time.monotonic()
        next(standing)
        self.hub.wait_for(lambda: time.monotonic() > begun + 15)
        next(standing, None)
        yield

    def opposed_late(self) -> Iterator[None]:
        source = self.hub.source()
        self.hub.send(source, [self.observation(source, "o", 1)])
        child = self.hub.platform.services["linkage"].process
        assert child is not None
        begun, client = time.monotonic(), self.hub.producer(source)

        def oppose(_stop: Event) -> None:
            with client as producer:
                known = self.observation(source, "o", 1)["data"]["identity"]
                producer.oppose({"id": "objection", "identity": known})

        os.kill(child.pid, signal.SIGSTOP)
        with meanwhile(oppose):
            try:
                self.hub.wait_for(lambda: time.monotonic() > begun + 7)
            finally:
                os.kill(child.pid, signal.SIGCONT)
        yield

    def database_away(self) -> Iterator[None]:
        """Linkage's role may not connect, and what it has is cut."""
        with psycopg.connect(**self._admin(), autocommit=True) as admin:
            admin.execute("ALTER ROLE linkage NOLOGIN")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'linkage'")
            source = self.hub.source()
            with self.hub.producer(source) as producer:
                list(producer.send(iter([self.observation(source, "a", 1)]), 1))
            try:
                yield
            finally:
                admin.execute("ALTER ROLE linkage LOGIN")

    def wrong_key(self) -> Iterator[None]:
        """Pseudonym is started with another's private key, as a wrong deployment would; with the right one, what died
        goes round again."""
        service = self.hub.platform.services["pseudonym"]
        right = service.environment
        folder = self.hub.platform.home / "wrong-keys"
        shutil.copytree(right["ESTUAIRE_PSEUDONYM_KEYS"], folder)
        others = Path(self.hub.platform.services["linkage"].environment["ESTUAIRE_LINKAGE_KEYS"])
        for mine, wrong in zip(folder.glob("pseudonym-private*"), others.glob("linkage-private*"), strict=True):
            shutil.copy(wrong, mine)
        service.stop()
        service.environment = dict(right) | {"ESTUAIRE_PSEUDONYM_KEYS": str(folder)}
        service.start()
        service.wait(time.monotonic() + 60)
        source = self.hub.source()
        with self.hub.producer(source) as producer:
            dead = len(self.hub.messages("records-received-dlq"))
            few = [self.observation(source, f"k{number}", number) for number in range(40)]
            list(producer.send(iter(few), len(few)))
            self.hub.wait_for(lambda: len(self.hub.messages("records-received-dlq")) >= dead + 40)
            many = [self.observation(source, f"m{number}", number) for number in range(600)]
            list(producer.send(iter(many), len(many)))
        try:
            yield
        finally:
            service.stop()
            service.environment = right
            service.start()
            service.wait(time.monotonic() + 60)
            shutil.rmtree(folder)
            token = self.hub.platform.keyring.token("operator", "operator")
            while replay(service.url, "records-received-dlq", 1_000, token):
                pass

    def unusual(self) -> Iterator[None]:
        """Ten times what is usual at this time of the day, until that has been usual."""
        source = self.hub.source()
        self.hub.remember(source, 120, 21)
        self.hub.send(source, [self.observation(source, f"u{at}", at % 300) for at in range(1_400)])
        yield
        self.hub.remember(source, 1_400, 21)

    def flooded(self) -> Iterator[None]:
        """More records than the steps keep up with."""
        source = self.hub.source()
        events = (self.observation(source, f"l{at}", at % 500) for at in range(20_000))
        client = self.hub.producer(source)

        def send(_stop: Event) -> None:
            with client as producer:
                list(producer.send(events, 500))

        with meanwhile(send, 300):
            yield
        with self.hub.producer(source) as producer:
            assert producer.wait_for_views(source, 300)

    def many_acts(self) -> Iterator[None]:
        told = audit.leaf("record-traced", audit.actor("operator", "flood"), dt.datetime.now(dt.UTC), ids=("ab" * 16,))
        self._flood(itertools.repeat(audit.message(told), 40_000))
        yield

    def _flood(self, messages: Iterable[tuple[str, bytes, bytes]]) -> None:
        with self.hub.writing() as producer:
            for topic, key, value in messages:
                while True:
                    try:
                        producer.produce(topic, value, key)
                        break
                    except BufferError:
                        producer.poll(0.5)

    def conflicts(self) -> Iterator[None]:
        source = self.hub.source()
        self.hub.send(source, [self.observation(source, f"c{at}", at) for at in range(300)])
        self.hub.send(source, [self.observation(source, f"c{at}", at, value=1) for at in range(200)])
        yield

    def refusing(self) -> Iterator[None]:
        """A producer that has to wait sends on all the same."""
        source = self.hub.source()
        self.hub.send(source, [self.observation(source, f"c{at}", at) for at in range(300)])
        self.hub.send(source, [self.observation(source, f"c{at}", at, value=1) for at in range(200)])
        with self._posting(source, [self.observation(source, "again", 1)]):
            yield

    @contextmanager
    def _posting(self, source: str, events: list[dict[str, Any]]) -> Iterator[None]:
        """These are sent again and again, whatever the answer, and some are refused or given up meanwhile."""
        token = self.hub.platform.keyring.producer_token(source)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/x-ndjson"}

        def send(stop: Event) -> None:
            while not stop.wait(0.1):
                lines = "\n".join(json.dumps(one | {"id": f"{one['id']}-{time.monotonic_ns()}"}) for one in events)
                with suppress(httpx.TransportError):
                    httpx.post(f"{self.hub.platform.ingest_url}/v1/events", content=lines, headers=headers, timeout=2)

        with meanwhile(send, 30):
            yield

    def no_second_place(self) -> Iterator[None]:
        place = self.hub.platform.home / CHECKPOINTS
        aside = place.with_name("aside")
        place.rename(aside)
        place.write_text("not a folder")
        source = self.hub.source()
        try:
            self.hub.permit(source)
            self.hub.send(source, [self.observation(source, "a", 1)])
            yield
        finally:
            place.unlink()
            aside.rename(place)

    def changed_log(self) -> Iterator[None]:
        """A bit of each node is turned over, and back."""
        source = self.hub.source()
        self.hub.permit(source)
        self.hub.send(source, [self.observation(source, "a", 1)])
        turn = "UPDATE nodes SET hash = set_byte(hash, 0, get_byte(hash, 0) # 1) WHERE index < 100000"
        with psycopg.connect(**self._admin("audit"), autocommit=True) as admin:
            admin.execute("SET session_replication_role = replica")
            admin.execute(turn)
            try:
                yield
            finally:
                admin.execute(turn)

    def broken_permit(self) -> Iterator[None]:
        source = self.hub.source()
        permit = self.hub.permit(source)
        turn = "UPDATE permits SET key = set_byte(key, 20, get_byte(key, 20) # 1) WHERE permit = %s"
        with psycopg.connect(**self._admin("access"), autocommit=True) as admin:
            admin.execute(turn, [permit.id])
            self.hub.send(source, [self.observation(source, "a", 1)])
            try:
                yield
            finally:
                admin.execute(turn, [permit.id])
                self.hub.send(source, [self.observation(source, "b", 1)])

    def filling(self) -> Iterator[None]:
        permit = self.hub.permit(self.hub.source())
        state = "UPDATE permits SET state = %s WHERE permit = %s"
        with psycopg.connect(**self._admin("access"), autocommit=True) as admin:
            admin.execute(state, ["filling", permit.id])
            try:
                yield
            finally:
                admin.execute(state, ["open", permit.id])

    def old_reviews(self) -> Iterator[None]:
        """A mother's number on her newborn waits for a steward, for eight days by its date."""
        source = self.hub.source()
        nir = {"system": "ins-nir", "value": "285053523800148"}
        shared = {"identifiers": [nir], "birth_family_name": "LE GOFF", "identity_status": "qualified"}
        people = (
            {"given_names": ["Anne"], "birth_date": "1985-05-12"},
            {"given_names": ["Lou"], "birth_date": "2026-01-02"},
        )
        events = [self.observation(source, f"r{at}", at) for at, _ in enumerate(people)]
        for event, person in zip(events, people, strict=True):
            event["data"]["identity"] = shared | {"sex": "female"} | person
        self.hub.send(source, events)
        older = "UPDATE edges SET decided_at = decided_at {} interval '8 days' WHERE outcome = 'review' OR guard <> ''"
        with psycopg.connect(**self._admin("linkage"), autocommit=True) as admin:
            assert admin.execute(older.format("-").encode()).rowcount
            try:
                yield
            finally:
                admin.execute(older.format("+").encode())

    def broker_away(self) -> Iterator[None]:
        """The broker's process stands still, again and again: once it is amid a step's transaction, and for longer than
        counts may wait."""
        broker = next(pid for pid in self._children() if b"kafka.Kafka" in Path(f"/proc/{pid}/cmdline").read_bytes())
        source = self.hub.source()
        good = [self.observation(source, f"g{at}", at) for at in range(50)]

        def stand(stop: Event) -> None:
            while not stop.wait(5):
                os.kill(broker, signal.SIGSTOP)
                stop.wait(30)
                os.kill(broker, signal.SIGCONT)

        posted = self._posting(source, [*good, self.observation(source, "bad", 1) | {"type": "no-such-type.v1"}])
        with posted, meanwhile(stand):
            yield

    def _children(self) -> list[int]:
        mine = Path(f"/proc/{os.getpid()}/task").glob("*/children")
        return [int(pid) for one in mine for pid in one.read_text().split()]

    def _admin(self, name: str = "postgres") -> dict[str, Any]:
        return dict(running_database(self.hub.platform.home)._admin) | {"dbname": name}


CAUSES: dict[str, Callable[[Alarms], Iterator[None]]] = {
    "ServiceDown": Alarms.down,
    "IngestDown": Alarms.ingest_down,
    "RejectsHigh": Alarms.rejects,
    "StepWaits": Alarms.database_away,
    "ServiceNotReady": Alarms.database_away,
    "RecordsLate": Alarms.late,
    "OppositionsLate": Alarms.opposed_late,
    "StepStands": Alarms.standing,
    "StepStands: in a batch": Alarms.in_a_batch,
    "ProducerSilent": Alarms.silent,
    "ProducerUnusual": Alarms.unusual,
    "LagGrows": Alarms.flooded,
    "AuditBehind": Alarms.many_acts,
    "FlowBehind": Alarms.uncounted,
    "StatisticsBehind": Alarms.locked,
    "SummariesUnopened": Alarms.unopened,
    "AnswersFail": Alarms.another_schema,
    "DeadLettersOfOurs": Alarms.wrong_key,
    "DeadLettersWait": Alarms.wrong_key,
    "PartitionStopped": Alarms.wrong_key,
    "DeadLettersMany": Alarms.conflicts,
    "ProducerThrottled": Alarms.conflicts,
    "IngestRefuses": Alarms.refusing,
    "CheckpointsOld": Alarms.no_second_place,
    "AuditLogChanged": Alarms.changed_log,
    "PermitsUnusable": Alarms.broken_permit,
    "PermitsFillLong": Alarms.filling,
    "ReviewsOld": Alarms.old_reviews,
    "OutputsWait": Alarms.broker_away,
    "ProducerResets": Alarms.broker_away,
    "RightsOld": Alarms.broker_away,
}
"""By alert, and where there are several by its cause, what is done to the platform: begun, and ended once it fires."""
