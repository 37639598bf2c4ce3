"""What is written from the contracts: schemas, the AsyncAPI document, manifests, the table of topics in the README.

`python -m estuaire.documents` writes what is out of date; a contract test holds that nothing is.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml
from pydantic import BaseModel

from contracts import messages
from contracts.events import Event, Receipt, ViewEvent
from contracts.messages import Headers
from contracts.permits import Permit
from contracts.registry import DAY_MS, DEAD_LETTERS, Topic, topics
from estuaire.manifests import manifests
from runtime.messages import MARKER, ORIGIN, TRACEPARENT, FlowSummary

ROOT: Final = Path(__file__).parent.parent
BEGIN, END = "<!-- topics -->", "<!-- /topics -->"
HOT_PARTITIONS: Final = 48
"""What the documents state for hot topics: the number in production. A deployment sets its own."""

TOPIC_VALUES: Final[dict[str, Any]] = {**messages.VALUES, "flow-summaries": FlowSummary, "view": ViewEvent}
"""The type of every topic's values."""

OTHER_VALUES: Final[dict[str, Any]] = {
    "event": Event,
    "receipt": Receipt,
    "permit": Permit,
    "token-block": messages.TokenBlock,
    "content": messages.Content,
    "measures": messages.Measures,
}
"""What is no topic's value but promised all the same: the edge, permits, and what travels sealed inside."""

OTHER_VERSIONS: Final[dict[str, int]] = {"token-block": 2}
"""The newest version of what is no topic's value, where it is not the first."""

_GENERATED = "# Written by `python -m estuaire.documents` from contracts/topics and infra/prometheus: do not edit.\n"
_TRACE = {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"}
_HEADERS: Final[dict[str, dict[str, Any]]] = {
    Headers.EVENT_ID: {"type": "string", "description": "The hub's event id; also the message key."},
    Headers.SOURCE: {"type": "string", "description": "The producer, as it was authenticated."},
    Headers.TYPE: {"type": "string", "description": "The record's type; ends in `.deleted` for a retraction."},
    Headers.DIGEST: {"type": "string", "description": "A keyed digest of what was sent: equal for a duplicate."},
    Headers.REVISION: {
        "type": "string",
        "pattern": r"^\d+(-\d+-\d+)?$",
        "description": "In records-received the producer's version or 0, from then on the whole revision.",
    },
    Headers.KEY_VERSION: {"type": "string", "description": "Versions of secret 1 and, after pseudonym, secret 2."},
    Headers.PATIENT_ID: {"type": "string", "description": "A hint: patient-links decides."},
}
_SCHEMES: Final[dict[str, Any]] = {
    "scram": {"type": "scramSha512", "description": "An account for each service and subscriber (docs/broker.md)."},
}
_SERVER: Final[dict[str, Any]] = {
    "host": "{address}",
    "protocol": "kafka-secure",
    "description": "Denies what is not an operation here. On one machine it is not encrypted.",
    "variables": {"address": {"default": "127.0.0.1:9092", "description": "KAFKA_BOOTSTRAP_SERVERS."}},
    "security": [{"$ref": "#/components/securitySchemes/scram"}],
}
_CONTENT_TYPES = {"msgpack": "application/vnd.msgpack", "json": "application/cloudevents+json"}


def schema(name: str, value: Any, number: int) -> dict[str, Any]:
    """The JSON Schema of a value as it is decoded; bytes are base64 text."""
    if inspect.isclass(value) and issubclass(value, BaseModel):
        generated = value.model_json_schema()
    else:
        generated = msgspec.json.schema(value)
    definitions = generated.pop("$defs", {})
    found = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:estuaire:schema:{name}:{number}",
        **generated,
    }
    if definitions:
        found["$defs"] = {one: definitions[one] for one in sorted(definitions)}
    return {key: _dedented(each) for key, each in found.items()}


def headers_schema(topic: Topic) -> dict[str, Any]:
    """The JSON Schema of a topic's headers, each as text."""
    properties = {name: _HEADERS[name] for name in topic.headers} | {TRACEPARENT: _TRACE}
    found: dict[str, Any] = {"type": "object", "properties": properties}
    return found | ({"required": list(topic.headers)} if topic.headers else {})


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3 document: a channel for each topic, lane and dead-letter queue; an operation for each right."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    components: dict[str, Any] = {}
    for topic in topics().values():
        carried = []
        for number in topic.schema_versions:
            carried.append(f"{topic.name}.v{number}")
            components[carried[-1]] = _message(topic, number)
        if topic.markers:
            carried.append(MARKER)
        for lane in topic.lane_names():
            channels[lane] = _channel(topic, lane, carried)
            operations |= _operations(lane, carried, topic.writers, topic.consumers)
        if topic.dead_letters:
            dead = topic.name + DEAD_LETTERS
            channels[dead] = _dead_letters(topic)
            operations |= _operations(dead, ["dead-letter"], topic.consumers, topic.consumers)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Estuaire",
            "version": version("estuaire"),
            "description": "A health data hub: who writes and reads which topic, and what is in it.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": _CONTENT_TYPES["msgpack"],
        "servers": {"broker": _SERVER},
        "channels": channels,
        "operations": operations,
        "components": {"messages": components | _shared_messages(), "securitySchemes": _SCHEMES},
    }


def table() -> str:
    """Who may write and read which topic, for how long it is kept, and by what it is keyed."""
    rows = ["| topic | written by | read by | key | kept |", "|---|---|---|---|---|"]
    for topic in topics().values():
        name = f"`{topic.name}-<permit>`" if topic.per_permit else f"`{topic.name}`"
        lanes = " and `-backfill`" if "backfill" in topic.lanes else ""
        readers = ", ".join(topic.consumers) or "operators"
        rows.append(f"| {name}{lanes} | {', '.join(topic.producers)} | {readers} | {topic.key} | {_kept(topic)} |")
        if topic.dead_letters:
            who = ", ".join(topic.consumers)
            rows.append(f"| `{topic.name}{DEAD_LETTERS}` | {who} | {who} | as the message had it | 7 days |")
    return "\n".join(rows)


def documents() -> dict[Path, str]:
    """Every generated file and what it has to be."""
    found = {path: _json(schema(name, value, number)) for path, name, value, number in _schemas()}
    head = "# Written by `python -m estuaire.documents` from topics/*.yaml: do not edit.\n"
    text = yaml.dump(asyncapi(), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)
    found[ROOT / "contracts" / "asyncapi.yaml"] = head + text
    for name, resources in manifests().items():
        text = yaml.dump_all(resources, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)
        found[ROOT / "infra" / "kubernetes" / "base" / "generated" / f"{name}.yaml"] = _GENERATED + text
    readme = ROOT / "README.md"
    before, begin, rest = readme.read_text().partition(BEGIN)
    if begin:
        _, end, after = rest.partition(END)
        found[readme] = f"{before}{BEGIN}\n{table()}\n{end}{after}"
    return found


def main() -> None:
    """Write what is out of date, and name it."""
    for path, text in documents().items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            sys.stdout.write(f"{path.relative_to(ROOT)}\n")


class _Plain(yaml.SafeDumper):
    """YAML without anchors: the same list twice is written twice."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _schemas() -> Iterator[tuple[Path, str, Any, int]]:
    """The newest version of each schema. Older ones stay as they were committed: their classes have moved on."""
    folder = ROOT / "contracts" / "schemas"
    for name, value in (TOPIC_VALUES | OTHER_VALUES).items():
        number = max(topics()[name].schema_versions) if name in TOPIC_VALUES else OTHER_VERSIONS.get(name, 1)
        yield folder / f"{name}.v{number}.schema.json", name, value, number


def _message(topic: Topic, number: int) -> dict[str, Any]:
    return {
        "summary": topic.description,
        "contentType": _CONTENT_TYPES[topic.encoding],
        "headers": headers_schema(topic),
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": {"$ref": f"./schemas/{topic.name}.v{number}.schema.json"},
        },
        "bindings": {"kafka": {"key": {"type": "string", "description": topic.key}, "bindingVersion": "0.5.0"}},
    }


def _shared_messages() -> dict[str, Any]:
    dead = {f"dlq_{name}": {"type": "string"} for name in ("step", "reason", "detail", "topic")}
    dead |= {f"dlq_{name}": {"type": "string", "pattern": r"^\d+$"} for name in ("partition", "offset", "timestamp")}
    return {
        MARKER: {
            "summary": "A mark that passes through in order: what was sent before it has arrived when it does.",
            "headers": {
                "type": "object",
                "properties": {
                    MARKER: {"type": "string", "description": "Its id."},
                    ORIGIN: {"type": "string", "pattern": r"^\d+$", "description": "The partition it started in."},
                },
                "required": [MARKER, ORIGIN],
            },
        },
        "dead-letter": {
            "summary": "A message as it was read, its content still sealed, with its coordinates and the reason.",
            "headers": {"type": "object", "properties": dead, "required": list(dead)},
        },
    }


def _channel(topic: Topic, lane: str, carried: list[str]) -> dict[str, Any]:
    count = HOT_PARTITIONS if topic.partitions == "hot" else topic.partitions
    found: dict[str, Any] = {"address": lane, "description": topic.description}
    if topic.per_permit:
        found["address"] = f"{lane}-{{permit}}"
        found["parameters"] = {"permit": {"description": "The permit's id."}}
    return found | {
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in carried},
        "bindings": {"kafka": _binding(found["address"], count, topic.settings())},
    }


def _dead_letters(topic: Topic) -> dict[str, Any]:
    name = topic.name + DEAD_LETTERS
    settings = {"cleanup.policy": "delete", "retention.ms": str(7 * DAY_MS)}
    return {
        "address": name,
        "description": f"What could not be processed of {topic.name}.",
        "messages": {"dead-letter": {"$ref": "#/components/messages/dead-letter"}},
        "bindings": {"kafka": _binding(name, 1, settings)},
    }


def _binding(name: str, partitions: int, settings: dict[str, str]) -> dict[str, Any]:
    shaped: dict[str, Any] = {**settings, "cleanup.policy": settings["cleanup.policy"].split(",")}
    if "retention.ms" in shaped:
        shaped["retention.ms"] = int(shaped["retention.ms"])
    return {"topic": name, "partitions": partitions, "topicConfiguration": shaped, "bindingVersion": "0.5.0"}


def _operations(
    channel: str, carried: list[str], producers: tuple[str, ...], consumers: tuple[str, ...]
) -> dict[str, Any]:
    found = {}
    for action, verb, who in (("send", "writes", producers), ("receive", "reads", consumers)):
        for one in who:
            service = "subscriber" if one.startswith("subscribers") else one
            found[f"{service}-{verb}-{channel}"] = {
                "action": action,
                "channel": {"$ref": f"#/channels/{channel}"},
                "tags": [{"name": service}],
                "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in carried],
            }
    return found


def _kept(topic: Topic) -> str:
    if "compact" in topic.cleanup:
        return "the newest for each key"
    return "for ever" if topic.retention_days == -1 else f"{topic.retention_days} days"


def _dedented(value: Any) -> Any:
    """Descriptions come from docstrings: their indentation is the source's."""
    if isinstance(value, dict):
        return {
            key: inspect.cleandoc(each) if key == "description" and isinstance(each, str) else _dedented(each)
            for key, each in value.items()
        }
    return [_dedented(one) for one in value] if isinstance(value, list) else value


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
