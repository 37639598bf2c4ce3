"""Topics, schemas, examples and generated documents agree with one another and with the classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError

from contracts import examples
from contracts.events import DELETED, RECORD_TYPES, Event
from contracts.messages import VALUES, Content, TokenBlock, associated, permit_associated
from contracts.permits import read_permit
from contracts.projects import ACTS
from contracts.registry import DAY_MS, Topic, topics, topics_to_create, view_topic
from contracts.requests import ACTS as REQUEST_ACTS
from contracts.requests import GROUNDS
from estuaire import documents
from runtime.sealing import Opener
from tests.contract.seal_examples import private_key

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "contracts" / "schemas"
ALL_VALUES = documents.TOPIC_VALUES | documents.OTHER_VALUES
PROMISED = [
    *((topic.name, number) for topic in topics().values() for number in topic.schema_versions),
    *((name, number + 1) for name in documents.OTHER_VALUES for number in range(documents.OTHER_VERSIONS.get(name, 1))),
]
EXAMPLES = [(name, number, path) for name, number in PROMISED for path in examples.paths(name, number)]
PARTIES = {path.name for path in (ROOT / "services").iterdir() if (path / "__init__.py").exists()} | {"runtime"}


def named(case: tuple[str, int, Path]) -> str:
    name, number, path = case
    return f"{name}.v{number}-{path.stem}"


def schema(name: str, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.v{number}.schema.json").read_text())
    return found


def value_of(name: str, path: Path) -> Any:
    document = json.loads(path.read_text())
    return document["value"] if name in topics() else document


# no orphans


def test_every_schema_and_example_belongs_to_a_promise() -> None:
    assert {path.name for path in SCHEMAS.iterdir()} == {f"{name}.v{number}.schema.json" for name, number in PROMISED}
    folders = {path.name for path in examples.HERE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {name for name, _ in PROMISED}


@pytest.mark.parametrize("topic", topics().values(), ids=lambda topic: topic.name)
def test_a_topic_is_complete(topic: Topic) -> None:
    assert topic.schema_versions == tuple(range(1, len(topic.schema_versions) + 1))
    assert topic.name in documents.TOPIC_VALUES
    assert topic.description.endswith(".")


@pytest.mark.parametrize(("name", "number"), PROMISED)
def test_each_version_has_two_examples(name: str, number: int) -> None:
    assert len(examples.paths(name, number)) >= 2


@pytest.mark.parametrize("topic", topics().values(), ids=lambda topic: topic.name)
def test_owner_producers_and_consumers_exist(topic: Topic) -> None:
    assert topic.owner in PARTIES
    assert topic.producers
    assert set(topic.producers) <= PARTIES
    assert topic.owner in topic.producers or topic.owner == "runtime"
    outside = set(topic.consumers) - PARTIES
    assert outside == ({"subscribers of the permit"} if topic.per_permit else set())


def test_values_are_those_of_topics() -> None:
    assert documents.TOPIC_VALUES.keys() == topics().keys()
    assert VALUES.keys() <= topics().keys()


# classes, schemas and generated documents


@pytest.mark.parametrize("path", documents.documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_generated_is_up_to_date(path: Path) -> None:
    assert path.exists(), "run `python -m estuaire.documents`"
    assert path.read_text() == documents.documents()[path], "run `python -m estuaire.documents`"


@pytest.mark.parametrize(("name", "number"), PROMISED)
def test_schemas_are_schemas(name: str, number: int) -> None:
    found = schema(name, number)
    Draft202012Validator.check_schema(found)
    assert found["$id"] == f"urn:estuaire:schema:{name}:{number}"


def test_the_readme_takes_the_table_between_its_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "README.md").write_text("# Before\n<!-- topics -->\nold\n<!-- /topics -->\nAfter\n")
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    text = documents.documents()[tmp_path / "README.md"]
    assert text == f"# Before\n<!-- topics -->\n{documents.table()}\n<!-- /topics -->\nAfter\n"
    assert "| `records-received` and `-backfill` | ingest | pseudonym | event id | 7 days |" in text


# examples


@pytest.mark.parametrize("case", EXAMPLES, ids=named)
def test_examples_are_valid_and_decode(case: tuple[str, int, Path]) -> None:
    name, number, path = case
    value = value_of(name, path)
    Draft202012Validator(schema(name, number)).validate(value)
    kind = ALL_VALUES[name]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        kind.model_validate(value)
    else:
        text = json.dumps(value)
        decoded = msgspec.json.decode(text, type=kind)
        if number == documents.OTHER_VERSIONS.get(name, number):
            assert json.loads(msgspec.json.encode(decoded)) == value, "the class does not keep all of the example"


@pytest.mark.parametrize("topic", topics().values(), ids=lambda topic: topic.name)
def test_envelopes_have_their_topics_headers(topic: Topic) -> None:
    check = Draft202012Validator({**documents.headers_schema(topic), "additionalProperties": False})
    for path in examples.paths(topic.name):
        envelope = json.loads(path.read_text())
        assert envelope.keys() == {"key", "headers", "value"}
        check.validate(envelope["headers"])
        if "ce_id" in topic.headers:
            assert envelope["key"] == envelope["headers"]["ce_id"]


@pytest.mark.parametrize("topic", topics())
def test_loaded_examples_decode_as_a_consumer_does(topic: str) -> None:
    for example in examples.load(topic):
        if topics()[topic].encoding == "json":
            assert json.loads(example.value)
        else:
            assert msgspec.msgpack.decode(example.value, type=documents.TOPIC_VALUES[topic])


@pytest.mark.parametrize("record_type", RECORD_TYPES)
def test_every_record_type_has_an_example_event(record_type: str) -> None:
    event = Event.model_validate_json((examples.HERE / "event" / "1" / f"{record_type[:-3]}.json").read_text())
    assert event.type == record_type
    assert (event.data.record is None) == (record_type == "identity.v1")


@pytest.mark.parametrize("path", examples.paths("event"), ids=lambda path: path.stem)
def test_example_records_hold_only_what_is_allowed(path: Path) -> None:
    event = Event.model_validate_json(path.read_text())
    if event.data.record is None:
        return
    declared = yaml.safe_load((ROOT / "contracts" / "content" / f"{event.record_type}.yaml").read_text())["forms"]
    form = declared[event.data.record.get("resourceType", "hub")]
    assert event.data.record.keys() <= {name.removesuffix("[]") for name in form}
    assert event.data.record.keys() >= {
        name for name, leaf in form.items() if isinstance(leaf, dict) and leaf.get("required")
    }


def test_an_example_event_retracts_and_one_corrects() -> None:
    events = [Event.model_validate_json(path.read_text()) for path in examples.paths("event")]
    assert any(event.type.endswith(DELETED) for event in events)
    assert any(event.correction for event in events)
    states = {(event.source, event.id, event.version, event.deleted) for event in events}
    assert len(states) == len(events)


@pytest.mark.parametrize("name", ["records-received", "records-pseudonymised", "records-linked"])
def test_sealed_bodies_open_for_their_recipient(name: str) -> None:
    recipients = {"records-received": "pseudonym", "records-pseudonymised": "linkage"}
    to_access = Opener([private_key("access")])
    for example in examples.load(name):
        bound = associated(*(example.headers[one].decode() for one in ("ce_id", "ce_type", "ce_source", "digest")))
        value = msgspec.msgpack.decode(example.value, type=VALUES[name])
        content = msgspec.msgpack.decode(to_access.open(value.content, bound), type=Content)
        assert content.type == example.headers["ce_type"].decode()
        if name in recipients:
            opened = Opener([private_key(recipients[name])]).open(value.tokens, bound)
            block = msgspec.msgpack.decode(opened, type=TokenBlock)
            assert all(len(token) == 16 for token in block.tokens())


def test_the_wrapped_permit_key_opens_for_access() -> None:
    (path,) = (one for one in examples.paths("permits") if one.stem == "key-wrapped")
    message = msgspec.json.decode(json.dumps(value_of("permits", path)), type=VALUES["permits"])
    assert len(Opener([private_key("access")]).open(message.key, permit_associated(message.permit))) == 32


def test_the_granted_permit_is_a_permit() -> None:
    (path,) = (one for one in examples.paths("permits") if one.stem == "granted")
    message = msgspec.json.decode(json.dumps(value_of("permits", path)), type=VALUES["permits"])
    permit = read_permit(message.definition)
    assert permit.id == message.permit
    assert permit.definition() == message.definition


# the edge refuses what the schema does not say


@pytest.mark.parametrize(
    "change",
    [
        {"type": "horoscope.v1"},
        {"specversion": "0.3"},
        {"time": "yesterday"},
        {"time": "2026-03-01T10:00:00"},
        {"surprise": 1},
        {"data": {}},
        {"data": {"identity": {"birth_date": "1985-02-30"}, "record": {"code": "x"}}},
        {"data": {"identity": {"identifiers": [{"system": "ipp", "value": "1"}]}, "record": {"code": "x"}}},
    ],
    ids=lambda change: "-".join(change),
)
def test_the_edge_refuses(change: dict[str, Any]) -> None:
    event = json.loads((examples.HERE / "event" / "1" / "hospital-stay.json").read_text())
    with pytest.raises(ValidationError):
        Event.model_validate(event | change)


# topics


def test_topics_to_create_follow_the_declarations() -> None:
    wanted = {one.name: one for one in topics_to_create(hot_partitions=6, prefix="x.")}
    assert len(wanted) == len(topics_to_create(6))
    for topic in topics().values():
        if topic.per_permit:
            assert f"x.{topic.name}" not in wanted
            continue
        for lane in topic.lane_names():
            made = wanted[f"x.{lane}"]
            assert made.partitions == (6 if topic.partitions == "hot" else topic.partitions)
            assert made.settings["cleanup.policy"] == topic.cleanup
        assert (f"x.{topic.name}-dlq" in wanted) == topic.dead_letters


def test_settings_of_known_topics() -> None:
    week = str(7 * DAY_MS)
    received = topics()["records-received"]
    assert received.lane_names() == ("records-received", "records-received-backfill")
    assert received.settings() == {
        "cleanup.policy": "delete",
        "retention.ms": week,
        "message.timestamp.type": "LogAppendTime",
    }
    assert topics()["audit"].settings() == {"cleanup.policy": "delete", "retention.ms": str(5 * int(week))}
    assert topics()["permits"].settings() == {"cleanup.policy": "compact"}
    view = view_topic("cardio-2026", hot_partitions=6, prefix="x.")
    assert (view.name, view.partitions) == ("x.view-cardio-2026", 6)
    assert view.settings == {"cleanup.policy": "compact,delete", "retention.ms": "-1"}


@pytest.mark.parametrize("topic", topics().values(), ids=lambda topic: topic.name)
def test_lanes_meet_at_the_same_partitions(topic: Topic) -> None:
    assert topic.lanes[0] == "live"
    if topic.cleanup == "delete":
        assert topic.retention_days
    if "backfill" in topic.lanes:
        assert topic.partitions == "hot"
        assert topic.dead_letters


# the AsyncAPI document


def test_asyncapi_is_whole() -> None:
    document = yaml.safe_load((ROOT / "contracts" / "asyncapi.yaml").read_text())
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= document["info"].keys()
    for channel in document["channels"].values():
        assert channel["messages"]
        assert channel["bindings"]["kafka"]["partitions"] > 0
        named = {part[1:-1] for part in channel["address"].split("-") if part.startswith("{")}
        assert named == channel.get("parameters", {}).keys()
        for message in channel["messages"].values():
            assert at(document, message["$ref"])
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
        channel = at(document, operation["channel"]["$ref"])
        assert {one["$ref"].rsplit("/", 1)[1] for one in operation["messages"]} == channel["messages"].keys()
    for message in document["components"]["messages"].values():
        Draft202012Validator.check_schema(message["headers"])
        if "payload" in message:
            assert (ROOT / "contracts" / message["payload"]["schema"]["$ref"]).exists()


def test_asyncapi_names_every_topic_and_right() -> None:
    document = documents.asyncapi()
    wanted = {one.name for one in topics_to_create(1)} | {"view"}
    assert document["channels"].keys() == wanted
    rights = document["operations"].keys()
    assert {"ingest-writes-records-received", "linkage-reads-records-pseudonymised-backfill"} <= rights
    assert {"access-writes-view", "subscriber-reads-view", "access-writes-records-linked-dlq"} <= rights
    assert "access-reads-records-received" not in rights


def at(document: Any, reference: str) -> Any:
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document


@pytest.mark.parametrize("act", ACTS)
def test_the_document_says_what_each_act_says(act: str) -> None:
    role, says = ACTS[act]
    fields = [f"`{name}`" + ("" if one.is_required() else "?") for name, one in says.model_fields.items()]
    row = f"| {act} | {role} | {', '.join(fields) or '-'} |"
    assert row in (ROOT / "docs" / "projects.md").read_text().splitlines()


@pytest.mark.parametrize("act", REQUEST_ACTS)
def test_the_document_says_what_each_act_about_a_request_says(act: str) -> None:
    fields = ", ".join(f"`{name}`" for name in REQUEST_ACTS[act].model_fields)
    rows = (ROOT / "docs" / "rights.md").read_text().splitlines()
    assert any(row.startswith(f"| {act} | {fields} | ") for row in rows)


def test_the_document_names_each_ground_with_its_article() -> None:
    rows = (ROOT / "docs" / "rights.md").read_text().splitlines()
    for ground in {one for grounds in GROUNDS.values() for one in grounds}:
        articles = " | ".join(GROUNDS[kind].get(ground, "-") for kind in GROUNDS)
        assert f"| {ground} | {articles} |" in rows
