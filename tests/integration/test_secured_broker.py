"""A secured broker: each principal tries everything, and what succeeds is what the table says, cell by cell."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from confluent_kafka.cimpl import NewPartitions, NewTopic

from contracts.acl import service_rights, subscriber
from contracts.messages import PermitClosed, PermitGranted, encode
from contracts.permits import Permit
from contracts.registry import topics_to_create, view_topic
from estuaire import broker as broker_module
from estuaire.broker import start_broker
from estuaire.keyring import ADMIN, Keyring
from estuaire.passwords import sasl
from estuaire.rights import Rights, RightsKeeper, write_accounts
from runtime.kafka import KafkaPublisher, common, consumer_config, create_topics, producer_config
from runtime.settings import RuntimeSettings

pytestmark = pytest.mark.integration

G, P, L, A, S, U = SERVICES = ("ingest", "pseudonym", "linkage", "access", "statistics", "audit")
FIRST, SECOND = "team-rennes", "équipe / nantes"
ONE, OTHER = subscriber(FIRST), subscriber(SECOND)
NOBODY = "nobody"
PRINCIPALS = (*SERVICES, ONE, OTHER, NOBODY)

# Written out from the design, not from contracts/topics: topic, who writes it, who reads it. Who has dead letters of a
# topic reads them, and may send them round again.
TABLE: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("audit", (A, L, P, U), (U,)),
    ("audit-dlq", (U,), (U,)),
    ("erasures", (A, L), (L,)),
    ("erasures-dlq", (L,), (L,)),
    ("flow-summaries", (G, P, L, A, U), (G, S)),
    ("flow-windows", (S,), (S,)),
    ("link-decisions", (L,), (L,)),
    ("link-decisions-dlq", (L,), (L,)),
    ("link-reviews", (L,), ()),
    ("link-rules", (L,), (L,)),
    ("link-rules-backfill", (L,), (L,)),
    ("link-rules-dlq", (L,), (L,)),
    ("opposition-reach", (L, A), (A,)),
    ("opposition-reach-dlq", (A,), (A,)),
    ("oppositions", (G, P), (P,)),
    ("oppositions-dlq", (P,), (P,)),
    ("oppositions-pseudonymised", (P, L), (L,)),
    ("oppositions-pseudonymised-dlq", (L,), (L,)),
    ("oppositions-linked", (L, A), (A,)),
    ("oppositions-linked-dlq", (A,), (A,)),
    ("patient-links", (L, A), (A,)),
    ("patient-links-dlq", (A,), (A,)),
    ("permits", (A, P), (A, P)),
    ("permits-dlq", (A, P), (A, P)),
    ("projects", (A,), (A,)),
    ("projects-dlq", (A,), (A,)),
    ("receipts", (G,), (G,)),
    ("request-acts", (A,), (A,)),
    ("request-acts-dlq", (A,), (A,)),
    ("records-received", (G, P), (P,)),
    ("records-received-backfill", (G, P), (P,)),
    ("records-received-dlq", (P,), (P,)),
    ("records-pseudonymised", (P, L), (L,)),
    ("records-pseudonymised-backfill", (P, L), (L,)),
    ("records-pseudonymised-dlq", (L,), (L,)),
    ("records-linked", (L, A), (A,)),
    ("records-linked-backfill", (L, A), (A,)),
    ("records-linked-dlq", (A,), (A,)),
    ("view-first", (A,), (ONE,)),
    ("view-both", (A,), (ONE, OTHER)),
    ("view-not-granted", (A,), ()),
    ("theirs", (), ()),
)
MAY_WRITE = {(name, who) for name, writers, _ in TABLE for who in writers}
MAY_READ = {(name, who) for name, _, readers in TABLE for who in readers}
TOPICS = tuple(name for name, _, _ in TABLE)

NOT_ALLOWED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}


@dataclass(slots=True)
class Secured:
    """A secured broker with all topics, an account for each principal, and somebody who keeps up its rules."""

    address: str
    keyring: Keyring
    today: dt.date = field(default_factory=lambda: dt.datetime.now(dt.UTC).date())

    def settings(self, principal: str = ADMIN, **changes: str) -> RuntimeSettings:
        config = self.keyring.kafka_config(principal) | changes
        return RuntimeSettings(bootstrap_servers=self.address, kafka_config=config)

    def admin(self, principal: str = ADMIN) -> AdminClient:
        return AdminClient(common(self.settings(principal)))

    def consumer(self, principal: str, group: str = "", **changes: Any) -> Consumer:
        config = consumer_config(self.settings(principal), group or principal)
        return Consumer(config | ({"group.id": group} if group else {}) | changes)

    def grant(self, name: str, *subscribers: str, expires: dt.date = dt.date(2036, 12, 31)) -> None:
        self.create_view(name)
        given = {"id": name, "title": "A", "purpose": "Tests", "sources": ["*"], "types": ["claim.v1"]}
        permit = Permit.model_validate(given | {"expires": expires, "subscribers": subscribers})
        self._publish(name, PermitGranted(name, permit.definition(), "2026-01-01T00:00:00+00:00"))

    def close(self, name: str) -> None:
        self._publish(name, PermitClosed(name, "tests"))

    def create_view(self, name: str) -> None:
        create_topics(self.settings(), [view_topic(name, 2)])
        self.fill(f"view-{name}")

    def fill(self, *topics: str) -> None:
        """A message in each, so that there is something to read."""
        producer = Producer(producer_config(self.settings()))
        for topic in topics:
            producer.produce(topic, b"something", b"key", partition=0)
        assert producer.flush(20) == 0

    def _publish(self, key: str, message: PermitGranted | PermitClosed) -> None:
        KafkaPublisher(self.settings()).publish("permits", key, encode(message))


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    home = tmp_path_factory.mktemp("secured")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
        patch.setattr(broker_module, "_in_container", lambda *_: None)
        with start_broker(home, report=lambda _line: None, secured=True) as broker:
            it = Secured(broker.bootstrap_servers, Keyring(home))
            itself = RuntimeSettings(bootstrap_servers=it.address, kafka_config=dict(broker.kafka_config))
            write_accounts(itself, it.keyring.passwords([ADMIN, NOBODY, *SERVICES]))
            theirs = NewTopic("theirs", num_partitions=1, replication_factor=1)
            admin = it.admin()
            admin.create_topics([theirs])["theirs"].result()
            create_topics(it.settings(), topics_to_create(2))
            it.fill(*(name for name in TOPICS if not name.startswith("view-")))
            it.create_view("not-granted")
            it.grant("first", FIRST)
            it.grant("both", FIRST, SECOND)
            keeper = RightsKeeper(
                it.settings(),
                lambda names: write_accounts(it.settings(), it.keyring.passwords(names)),
                lambda: dt.datetime.combine(it.today, dt.time(12), dt.UTC),
            )
            thread = Thread(target=keeper.run)
            thread.start()
            try:
                assert keeper.settled.wait(30)
                yield it
            finally:
                keeper.stop()
                thread.join(20)


def written(it: Secured, who: str) -> set[str]:
    """The topics that this principal can write."""
    producer = Producer(producer_config(it.settings(who)) | {"enable.idempotence": False})
    answers: dict[str, KafkaError | None] = {}

    def note(topic: str) -> Callable[[KafkaError | None, Any], None]:
        return lambda error, _message: answers.update({topic: error})

    for topic in TOPICS:
        producer.produce(topic, b"tried", b"key", on_delivery=note(topic))
    assert producer.flush(30) == 0
    assert {error.code() for error in answers.values() if error is not None} <= NOT_ALLOWED
    return {topic for topic, error in answers.items() if error is None}


def read(it: Secured, who: str) -> set[str]:
    """The topics that this principal can read. One that it cannot find it cannot read: to read implies to describe."""
    consumer = it.consumer(who)
    got: set[str] = set()
    try:
        shown = consumer.list_topics(timeout=10).topics
        refused = set(TOPICS) - shown.keys()
        consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING) for topic in TOPICS])
        deadline = time.monotonic() + 30
        while len(got | refused) < len(TOPICS):
            assert time.monotonic() < deadline, set(TOPICS) - got - refused
            for message in consumer.consume(500, 0.2):
                error = message.error()
                if error is None:
                    got.add(str(message.topic()))
                else:
                    assert error.code() in NOT_ALLOWED, error
                    refused.add(str(message.topic()))
    finally:
        consumer.close()
    assert not got & refused
    return got


def code_of(error: KafkaException) -> int:
    return int(error.args[0].code())


def test_exactly_the_cells_of_the_table_can_be_written(secured: Secured) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda who: {(topic, who) for topic in written(secured, who)}, PRINCIPALS)
        assert set().union(*found) == MAY_WRITE
    assert written(secured, ADMIN) == set(TOPICS)


def test_exactly_the_cells_of_the_table_can_be_read(secured: Secured) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda who: {(topic, who) for topic in read(secured, who)}, PRINCIPALS)
        assert set().union(*found) == MAY_READ
    assert read(secured, ADMIN) == set(TOPICS)


@pytest.mark.parametrize("who", PRINCIPALS)
def test_other_topics_are_not_even_seen(secured: Secured, who: str) -> None:
    admin = secured.admin(who)
    shown = {name for name in admin.list_topics(timeout=10).topics if not name.startswith("__")}
    assert shown == {name for name, one in MAY_READ | MAY_WRITE if one == who}
    for name in set(TOPICS) - shown:
        error = admin.list_topics(name, timeout=10).topics[name].error
        assert error is not None
        assert error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED


@pytest.mark.parametrize("who", SERVICES)
def test_a_service_has_its_own_groups_and_transactions(secured: Secured, who: str) -> None:
    for owner in SERVICES:
        for group in (owner, f"{owner}-0"):
            assert joins(secured, who, group) == (owner == who), group
        own = owner == who and owner in (P, L, A)
        config = producer_config(secured.settings(who), f"{owner}-0")
        if own or owner != who:
            assert begins(config) == own, owner


def joins(it: Secured, who: str, group: str) -> bool:
    """Whether this principal can commit, in this group, an offset of a topic that it may read."""
    topic = min(name for name, one in MAY_READ if one == who)
    wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 0)])
    admin = it.admin(who)
    try:
        (committed,) = admin.alter_consumer_group_offsets([wanted])[group].result(10).topic_partitions
        error = committed.error
    except KafkaException as raised:
        error = raised.args[0]
    assert error is None or error.code() in NOT_ALLOWED, error
    return error is None


def begins(config: dict[str, Any]) -> bool:
    """Whether a transaction can be begun."""
    try:
        Producer(config).init_transactions(10)
    except KafkaException as error:
        assert code_of(error) in NOT_ALLOWED, error
        return False
    return True


def test_a_subscriber_has_groups_of_its_own_alone(secured: Secured) -> None:
    for who in (ONE, OTHER):
        assert joins(secured, who, f"{who}/daily")
        for group in (ONE, OTHER, f"{ONE}-2", f"{ONE}/daily", f"{OTHER}/daily", "access", "other"):
            assert joins(secured, who, group) == group.startswith(f"{who}/"), group


@pytest.mark.parametrize("who", PRINCIPALS)
def test_nobody_manages_the_broker(secured: Secured, who: str) -> None:
    admin = secured.admin(who)
    mine = AclBinding(
        ResourceType.TOPIC,
        "records-received",
        ResourcePatternType.LITERAL,
        f"User:{who}",
        "*",
        AclOperation.ALL,
        AclPermissionType.ALLOW,
    )
    password = UserScramCredentialUpsertion(
        ADMIN, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), b"mine from now on"
    )
    entry = ConfigEntry("retention.ms", "1", incremental_operation=AlterConfigOpType.SET)
    settings = ConfigResource(ConfigResource.Type.TOPIC, "records-received", incremental_configs=[entry])
    tried: dict[str, Mapping[Any, Any]] = {
        "create": admin.create_topics([NewTopic("mine", num_partitions=1, replication_factor=1)]),
        "delete": admin.delete_topics(["records-linked"]),
        "alter": admin.incremental_alter_configs([settings]),
        "grow": admin.create_partitions([NewPartitions("records-received", 9)]),
        "look": admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, "records-received")]),
        "allow": admin.create_acls([mine]),
        "password": admin.alter_user_scram_credentials([password]),
        "groups": admin.delete_consumer_groups(["somebody"]),
    }
    for what, futures in tried.items():
        for future in futures.values():
            with pytest.raises(KafkaException) as refused:
                future.result(10)
            assert code_of(refused.value) in NOT_ALLOWED, what
    name = f"view-{who.replace('/', '-').replace('%', '')}-new"
    (future,) = admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1)]).values()
    if who == A:
        future.result(10)
    else:
        with pytest.raises(KafkaException):
            future.result(10)
    assert secured.settings(ADMIN).kafka_config["sasl.password"]
    assert "records-linked" in secured.admin().list_topics(timeout=10).topics


@pytest.mark.parametrize("who", PRINCIPALS)
def test_access_alone_empties_views_and_nothing_else(secured: Secured, who: str) -> None:
    admin = secured.admin(who)
    for name in ("view-not-granted", "records-linked", "permits"):
        nothing = TopicPartition(name, 0, 0)  # up to the first offset, should it be allowed
        (future,) = admin.delete_records([nothing], request_timeout=5, operation_timeout=5).values()
        try:
            future.result(20)
            assert (name, who) == ("view-not-granted", A)
        except KafkaException as refused:
            assert (name, who) != ("view-not-granted", A)
            assert code_of(refused) in {*NOT_ALLOWED, KafkaError._NOENT}, "not even its leader is told"


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="no SASL"),
        pytest.param(sasl("SCRAM-SHA-512", "unheard-of", "x"), id="no account"),
        pytest.param(sasl("SCRAM-SHA-512", ADMIN, "x"), id="wrong password"),
        pytest.param(sasl("SCRAM-SHA-512", ADMIN, ""), id="empty password"),
        pytest.param(sasl("SCRAM-SHA-512", "broker", "x"), id="the broker's name"),
        pytest.param(sasl("PLAIN", "broker", "x"), id="the broker's account"),
        pytest.param(sasl("PLAIN", ADMIN, "x"), id="an account in another mechanism"),
        pytest.param(sasl("SCRAM-SHA-256", ADMIN, "x"), id="another mechanism"),
    ],
)
def test_nobody_comes_in_without_an_account(secured: Secured, config: dict[str, str]) -> None:
    errors: list[KafkaError] = []
    given: dict[str, Any] = {"bootstrap.servers": secured.address, "log_level": 0, "error_cb": errors.append}
    admin = AdminClient(given | {name: value or "none" for name, value in config.items()})
    with pytest.raises(KafkaException):
        admin.list_topics(timeout=1)
    admin.poll(0)
    expected = KafkaError._AUTHENTICATION if config else KafkaError._ALL_BROKERS_DOWN
    assert expected in {error.code() for error in errors}


def test_a_principals_own_password_in_plain_is_refused(secured: Secured) -> None:
    own = secured.settings(ADMIN, **{"sasl.mechanism": "PLAIN"})
    with pytest.raises(KafkaException):
        AdminClient(common(own) | {"log_level": 0}).list_topics(timeout=2)


def test_a_running_reader_loses_its_view_at_once(secured: Secured) -> None:
    def close(name: str) -> None:
        secured.close(name)

    def expire(_name: str) -> None:
        secured.today = dt.date(2026, 7, 1)

    secured.today = dt.date(2026, 6, 30)
    for name, end in (("closing", close), ("expiring", expire)):
        secured.grant(name, FIRST, "another", expires=dt.date(2026, 6, 30))
        consumer = secured.consumer(ONE)
        try:
            consumer.assign([TopicPartition(f"view-{name}", 0, OFFSET_BEGINNING)])
            wait_for(consumer, lambda error: error is None)
            begun = time.monotonic()
            end(name)
            lost = wait_for(consumer, lambda error: error is not None)
            assert lost is not None
            assert lost.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
            assert time.monotonic() - begun < 5
        finally:
            consumer.close()
    assert read(secured, ONE) == {"view-first", "view-both"}
    secured.grant("closing", FIRST)
    secured.grant("after", SECOND)
    consumer = secured.consumer(OTHER)
    consumer.assign([TopicPartition("view-after", 0, OFFSET_BEGINNING)])
    wait_for(consumer, lambda error: error is None)
    consumer.close()
    assert read(secured, ONE) == {"view-first", "view-both"}, "what was closed is open again"


def wait_for(consumer: Consumer, condition: Callable[[KafkaError | None], bool]) -> KafkaError | None:
    """Poll until a message's error, or its absence, is as wished for."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        message = consumer.poll(0.1)
        if message is not None and condition(message.error()):
            return message.error()
    raise AssertionError("nothing of the kind is read in time")


def test_rules_that_somebody_adds_are_gone_with_the_next_look(secured: Secured) -> None:
    foreign, stray = (
        AclBinding(
            ResourceType.TOPIC,
            "permits",
            ResourcePatternType.LITERAL,
            f"User:{who}",
            "*",
            AclOperation.READ,
            AclPermissionType.ALLOW,
        )
        for who in ("another-application", "ingest")
    )
    admin = secured.admin()
    for made in admin.create_acls([foreign, stray]).values():
        made.result()
    rights = Rights(secured.settings())
    wanted = service_rights()
    rights.replace(wanted)
    present = rights._present()
    assert foreign in present
    assert stray not in present
    assert len(present) == len(wanted) + 1
    assert rights.replace(wanted) == (0, 0)


def test_the_password_of_nobody_is_on_a_command_line_or_in_a_log(secured: Secured, tmp_path: Path) -> None:
    home = secured.keyring.folder("x").parents[1]
    assert (home / "keys" / "kafka.json").stat().st_mode & 0o077 == 0
    assert (home / "kafka" / "broker.properties").stat().st_mode & 0o077 == 0
    passwords = secured.keyring.passwords([ADMIN, *SERVICES]).values()
    log = (home / "logs" / "kafka.log").read_text()
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    for password in passwords:
        assert password not in log
        assert not any(password.encode() in line for line in lines)


@pytest.mark.long
def test_a_home_from_before_is_secured_with_what_it_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setattr(broker_module, "_in_container", lambda *_: None)
    with start_broker(tmp_path) as open_to_all:
        create_topics(RuntimeSettings(bootstrap_servers=open_to_all.bootstrap_servers), [view_topic("kept", 1)])
    with start_broker(tmp_path, secured=True) as broker:
        itself = RuntimeSettings(bootstrap_servers=broker.bootstrap_servers, kafka_config=dict(broker.kafka_config))
        write_accounts(itself, Keyring(tmp_path).passwords([ADMIN]))
        admin = itself.model_copy(update={"kafka_config": Keyring(tmp_path).kafka_config(ADMIN)})
        assert "view-kept" in AdminClient(common(admin)).list_topics(timeout=10).topics
        with pytest.raises(KafkaException):
            AdminClient({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0}).list_topics(timeout=1)
