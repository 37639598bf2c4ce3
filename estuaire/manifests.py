"""What infra/kubernetes has from elsewhere: topics, accounts with their rights, who may connect to whom, and alerts.

Written by `python -m estuaire.documents`, so that a cluster allows what the declarations say, and a test that it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import yaml

from contracts import acl
from contracts.acl import Right, rights_of
from contracts.registry import topics_to_create
from estuaire.deployment import PORT, RIGHTS
from estuaire.keyring import ADMIN
from estuaire.observe import RULES
from estuaire.platform import DATABASES, SERVICES

KAFKA: Final = "hub"
"""The name of the Kafka cluster."""
HOT_PARTITIONS: Final = 48
OUTSIDE: Final = ("access", "console", "ingest")
"""What is called from outside: by producers, by subscribers and officers, by browsers."""
WITH_ISSUER: Final = ("access", "audit", "console", "linkage", "statistics")
"""Who takes tokens, and so fetches the keys of who issues them."""
OPERATOR: Final = "operator"
"""Where the operator's commands run: by the same account at the broker as who keeps the rights of subscribers."""
BROKER_PORT, DATABASE_PORT, COLLECTOR_PORT, TRACES_PORT = 9093, 5432, 4318, 16686
BROKER_METRICS, DATABASE_METRICS = 9404, 9187
NAME: Final = "app.kubernetes.io/name"

Manifest = dict[str, Any]


def manifests() -> dict[str, list[Manifest]]:
    """Every generated file by its name, and the resources in it."""
    return {
        "topics": list(kafka_topics()),
        "users": list(kafka_users()),
        "network": list(network_policies()),
        "rules": list(prometheus_rules()),
    }


def kafka_topics() -> Iterator[Manifest]:
    """A KafkaTopic for every topic, lane and dead-letter queue. Views are access's own to make."""
    for topic in topics_to_create(HOT_PARTITIONS):
        spec = {"partitions": topic.partitions, "replicas": 3, "config": {"min.insync.replicas": "2", **topic.settings}}
        yield _of_kafka("KafkaTopic", topic.name, spec)


def kafka_users() -> Iterator[Manifest]:
    """A KafkaUser for every service, with its rights, and the operator's, who has all."""
    for service in sorted(acl.services()):
        rules = [_rule(right) for right in sorted(rights_of(service, service))]
        yield _of_kafka("KafkaUser", service, _account(service) | {"authorization": {"type": "simple", "acls": rules}})
    yield _of_kafka("KafkaUser", ADMIN, _account(ADMIN))


def prometheus_rules() -> Iterator[Manifest]:
    """The rules of infra/prometheus, for the operator of Prometheus."""
    for path in sorted(RULES.glob("*.yaml")):
        labels = {"app.kubernetes.io/part-of": "estuaire"}
        yield {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": path.stem, "labels": labels},
            "spec": yaml.safe_load(path.read_text()),
        }


def network_policies() -> Iterator[Manifest]:
    """Nobody reaches anybody, but for what the design's table says."""
    yield _policy("deny-all", {}, ingress=[], egress=[])
    names = {"k8s-app": "kube-dns"}
    dns = _to([_elsewhere("kube-system", names)], (53, "UDP"), (53, "TCP"))
    yield _policy("names", {}, egress=[dns])
    for service in sorted(SERVICES):
        yield _policy(service, {NAME: service}, ingress=_called(service), egress=_calls(service))
    to_broker = _to([_brokers()], (BROKER_PORT, "TCP"))
    yield _policy(RIGHTS, {NAME: RIGHTS}, ingress=[_watched()], egress=[to_broker])
    yield _policy(OPERATOR, {NAME: OPERATOR}, egress=[to_broker, _to_others("console")])
    yield _policy(
        "kafka",
        {"strimzi.io/cluster": KAFKA},
        ingress=[
            _from([_named([*sorted(acl.services()), OPERATOR, RIGHTS])], BROKER_PORT),
            _watched(BROKER_METRICS),
            {"from": [_brokers(), _elsewhere("strimzi", {"name": "strimzi-cluster-operator"})]},
        ],
        egress=[{"to": [_brokers()]}, _to_the_api()],
    )
    for service in sorted(DATABASES):
        servers = _databases(service)
        yield _policy(
            f"{service}-database",
            servers["podSelector"]["matchLabels"],
            ingress=[
                _from([_named([service])], DATABASE_PORT),
                _watched(DATABASE_METRICS),
                {"from": [servers, _elsewhere("cnpg-system", {NAME: "cloudnative-pg"})]},
            ],
            egress=[{"to": [servers]}, _to_the_api()],
        )


def _called(service: str) -> list[Manifest]:
    """The console and the operator's commands ask the others, Prometheus everybody; from outside comes who passes the
    ingress controller."""
    found = [_watched()]
    if service != "console":
        found.append(_from([_named(["console", OPERATOR])], PORT))
    if service in OUTSIDE:
        found.append(_from([_elsewhere("ingress-nginx", {NAME: "ingress-nginx"})], PORT))
    return found


def _calls(service: str) -> list[Manifest]:
    found = []
    if service in acl.services():
        found += [
            _to([_brokers()], (BROKER_PORT, "TCP")),
            _to([_elsewhere("observability", {NAME: "opentelemetry-collector"})], (COLLECTOR_PORT, "TCP")),
        ]
    if service in DATABASES:
        found.append(_to([_databases(service)], (DATABASE_PORT, "TCP")))
    if service == "console":
        found.append(_to_others(service))
        found.append(_to([_elsewhere("observability", {NAME: "jaeger"})], (TRACES_PORT, "TCP")))
    if service in WITH_ISSUER:
        # outside of the cluster; a provider within it is named by an overlay
        public = {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]}
        found.append(_to([{"ipBlock": public}], (443, "TCP")))
    return found


def _watched(port: int = PORT) -> Manifest:
    return _from([_elsewhere("monitoring", {NAME: "prometheus"})], port)


def _to_others(than: str) -> Manifest:
    return _to([_named(one for one in sorted(SERVICES) if one != than)], (PORT, "TCP"))


def _to_the_api() -> Manifest:
    """The operators' own processes ask Kubernetes; where it listens is a cluster's own, so an overlay narrows it."""
    return _to([{"ipBlock": {"cidr": "0.0.0.0/0"}}], (443, "TCP"), (6443, "TCP"))


def _named(services: Iterable[str]) -> Manifest:
    return {"podSelector": {"matchExpressions": [{"key": NAME, "operator": "In", "values": list(services)}]}}


def _brokers() -> Manifest:
    return {"podSelector": {"matchLabels": {"strimzi.io/cluster": KAFKA}}}


def _databases(service: str) -> Manifest:
    return {"podSelector": {"matchLabels": {"cnpg.io/cluster": f"{service}-database"}}}


def _elsewhere(namespace: str, labels: Mapping[str, str]) -> Manifest:
    there = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    return {"namespaceSelector": there, "podSelector": {"matchLabels": dict(labels)}}


def _from(peers: list[Manifest], port: int) -> Manifest:
    return {"from": peers, "ports": [{"port": port, "protocol": "TCP"}]}


def _to(peers: list[Manifest], *ports: tuple[int, str]) -> Manifest:
    return {"to": peers, "ports": [{"port": port, "protocol": protocol} for port, protocol in ports]}


def _policy(
    name: str,
    labels: Mapping[str, str],
    *,
    ingress: list[Manifest] | None = None,
    egress: list[Manifest] | None = None,
) -> Manifest:
    directions = {"ingress": ingress, "egress": egress}
    given = {direction: rules for direction, rules in directions.items() if rules is not None}
    selector = {"matchLabels": dict(labels)} if labels else {}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {"podSelector": selector, "policyTypes": [one.capitalize() for one in given], **given},
    }


def _of_kafka(kind: str, name: str, spec: Manifest) -> Manifest:
    metadata = {"name": name, "labels": {"strimzi.io/cluster": KAFKA}}
    return {"apiVersion": "kafka.strimzi.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _account(principal: str) -> Manifest:
    password = {"valueFrom": {"secretKeyRef": {"name": f"kafka-{principal}", "key": "password"}}}
    return {"authentication": {"type": "scram-sha-512", "password": password}}


def _rule(right: Right) -> Manifest:
    kind = {"topic": "topic", "group": "group", "transactional_id": "transactionalId"}[right.resource]
    pattern = "prefix" if right.prefixed else "literal"
    return {
        "resource": {"type": kind, "name": right.name, "patternType": pattern},
        "operations": [right.operation.capitalize()],
    }
