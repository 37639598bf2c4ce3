"""The manifests are ones that Kubernetes and its operators take, and allow what the contracts say, and no more."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from contracts import acl
from contracts.acl import Right, service_rights
from contracts.registry import topics_to_create
from estuaire.database import SETTINGS
from estuaire.deployment import KUBERNETES, prepare
from estuaire.keyring import SECRETS
from estuaire.observe import RULES
from estuaire.platform import DATABASES, SERVICES
from runtime.settings import IssuerSettings, ServiceSettings
from services.access.settings import AccessSettings
from services.audit.settings import AuditSettings
from services.console.settings import ConsoleSettings
from services.ingest.settings import IngestSettings
from services.linkage.settings import LinkageSettings
from services.pseudonym.settings import PseudonymSettings
from services.statistics.settings import StatisticsSettings

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
OVERLAY = ROOT / "infra" / "kubernetes" / "overlays" / "production"
CRDS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "tests" / "fixtures" / "crds").glob("*.json")}
VERSION = "1.33"
KINDS: dict[str, type[ServiceSettings]] = {
    "access": AccessSettings,
    "audit": AuditSettings,
    "console": ConsoleSettings,
    "ingest": IngestSettings,
    "linkage": LinkageSettings,
    "pseudonym": PseudonymSettings,
    "statistics": StatisticsSettings,
}
"""The settings of each service."""
Resource = dict[str, Any]


@pytest.fixture(scope="module")
def resources() -> list[Resource]:
    """Everything that the overlay applies."""
    for command in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, str(OVERLAY)], capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            return [one for one in yaml.safe_load_all(done.stdout) if one]
    pytest.skip("NEITHER KUBECTL NOR KUSTOMIZE: the manifests have not been rendered, nor validated")


def of(resources: list[Resource], *kinds: str) -> dict[str, Resource]:
    return {one["metadata"]["name"]: one for one in resources if one["kind"] in kinds}


def strict(schema: Any) -> Any:
    """An operator's schema, under which a name that it does not know is a mistake, as `--validate=strict` has it."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items() if key != "nullable"}
    closed = isinstance(made.get("properties"), dict) and "type" in made
    if closed and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if made.get("x-kubernetes-int-or-string"):
        made = {"type": ["integer", "string"]}
    return made


def wrong(resource: Resource) -> str | None:
    """Why the API would refuse it, if it would."""
    kind = resource["kind"]
    if kind not in CRDS:
        try:
            kubernetes_validate.validate(resource, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            return f"{'.'.join(map(str, error.path))}: {error.message}"
        return None
    if resource["apiVersion"] != CRDS[kind]["apiVersion"]:
        return f"apiVersion is not {CRDS[kind]['apiVersion']}"
    schema = strict(CRDS[kind]["schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    errors = Draft202012Validator(schema).iter_errors(resource)
    return next((f"{one.json_path}: {one.message[:200]}" for one in errors), None)


def test_kubernetes_and_its_operators_take_every_resource(resources: list[Resource]) -> None:
    assert len(resources) > 100
    mistakes = {f"{one['kind']} {one['metadata']['name']}": why for one in resources if (why := wrong(one))}
    assert mistakes == {}


def test_a_mistake_is_found(resources: list[Resource]) -> None:
    """Of each kind, one resource with a name in its `spec` that is none."""
    for one in {one["kind"]: one for one in resources if "spec" in one}.values():
        assert wrong(one | {"spec": one["spec"] | {"replicsa": 1}}), one["kind"]


def test_every_namespaced_resource_is_in_the_one_namespace(resources: list[Resource]) -> None:
    assert {one["metadata"].get("namespace") for one in resources if one["kind"] != "Namespace"} == {"estuaire"}
    labels = of(resources, "Namespace")["estuaire"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


# --- processes ---


def workloads(resources: list[Resource]) -> dict[str, Resource]:
    return of(resources, "StatefulSet", "Deployment")


def test_every_process_is_held_to_the_restricted_profile(resources: list[Resource]) -> None:
    assert workloads(resources).keys() == {*SERVICES, "statistics-windows", "rights"}
    for name, one in workloads(resources).items():
        pod = one["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert "memory" in container["resources"]["limits"], name
        assert re.search(r":\d+\.\d+\.\d+$", container["image"]), f"{name} has no version"
        if name != "rights":
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
            assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
            assert "startupProbe" in container
        assert of(resources, "ServiceAccount")[pod["serviceAccountName"]]["automountServiceAccountToken"] is False


def test_a_step_has_the_slot_of_its_pod(resources: list[Resource]) -> None:
    """What has a transactional id or a place in a group has the same one after every restart."""
    steps = {right.principal for right in service_rights() if right.resource == "transactional_id"}
    sets = of(resources, "StatefulSet")
    assert steps <= sets.keys()
    for name, one in sets.items():
        (container,) = one["spec"]["template"]["spec"]["containers"]
        (slot,) = container["env"]
        assert slot["name"] == "ESTUAIRE_SLOT", name
        assert slot["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['apps.kubernetes.io/pod-index']"


def test_more_slots_than_partitions_are_never_asked_for(resources: list[Resource]) -> None:
    scaled = of(resources, "ScaledObject")
    assert scaled.keys() == {"pseudonym", "linkage", "access"}
    for one in scaled.values():
        assert one["spec"]["maxReplicaCount"] <= 48
        target = of(resources, "StatefulSet")[one["spec"]["scaleTargetRef"]["name"]]
        assert "replicas" not in target["spec"], "or each `apply` would set it back"
    budgets = of(resources, "PodDisruptionBudget")
    assert scaled.keys() <= budgets.keys()
    assert all(one["spec"]["maxUnavailable"] == 1 for one in budgets.values())


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_told_every_setting_that_it_has_no_default_for(
    resources: list[Resource], service: str, tmp_path: Path
) -> None:
    kind = KINDS[service]
    prepare(tmp_path, KUBERNETES)
    secrets = {
        one["metadata"]["name"]: one for one in yaml.safe_load_all((tmp_path / "kubernetes/secrets.yaml").read_text())
    }
    pod = workloads(resources)[service]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    told = {
        name
        for source in container["envFrom"]
        for name in of(resources, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    }
    told |= secrets.get(f"{service}-settings", {"data": {}})["data"].keys()
    needed = {
        field.validation_alias.choices[0] if field.validation_alias else f"ESTUAIRE_{name.upper()}"  # type: ignore[union-attr]
        for name, field in kind.model_fields.items()
        if field.is_required()
    }
    assert needed <= told
    mounted = {volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    made = {name for name in mounted if name in secrets}
    by_operators = {"hub-cluster-ca-cert", f"{service}-database-ca"}
    assert mounted - made <= by_operators | ({"console-settings"} if service == "console" else set())
    own = {f"{service}-keys", f"{service}-settings"} | ({"producers"} if service == "ingest" else set())
    assert mounted <= own | by_operators, "nobody else's"
    if SECRETS[service]:
        assert f"{service}-keys" in made


# --- the broker ---


def test_the_accounts_have_the_rights_of_the_contracts_and_no_other(resources: list[Resource]) -> None:
    allowed: set[Right] = set()
    for name, user in of(resources, "KafkaUser").items():
        if name == "admin":
            assert "authorization" not in user["spec"]
            continue
        for rule in user["spec"]["authorization"]["acls"]:
            assert rule.keys() == {"resource", "operations"}, "from every host, allowed"
            kind = re.sub("([A-Z])", r"_\1", rule["resource"]["type"]).lower()
            prefixed = rule["resource"]["patternType"] == "prefix"
            for operation in rule["operations"]:
                allowed.add(Right(name, kind, rule["resource"]["name"], operation.lower(), prefixed))  # type: ignore[arg-type]
    assert allowed == service_rights()
    assert of(resources, "Kafka")["hub"]["spec"]["kafka"]["authorization"]["superUsers"] == ["admin"]


def test_the_topics_are_those_of_the_contracts(resources: list[Resource]) -> None:
    declared = {one.name: (one.partitions, one.settings) for one in topics_to_create(48)}
    made = {}
    for name, topic in of(resources, "KafkaTopic").items():
        settings = dict(topic["spec"]["config"])
        assert (topic["spec"]["replicas"], settings.pop("min.insync.replicas")) == (3, "2"), name
        made[name] = (topic["spec"]["partitions"], settings)
    assert made == declared


# --- databases ---


def test_each_database_has_a_server_of_its_own_that_logs_no_value(resources: list[Resource]) -> None:
    clusters = of(resources, "Cluster")
    assert clusters.keys() == {f"{name}-database" for name in DATABASES}
    quiet = {name: value for name, value in SETTINGS.items() if re.match("log_(min|error|statement|param)", name)}
    for name, one in clusters.items():
        assert quiet.items() <= one["spec"]["postgresql"]["parameters"].items(), name
        assert one["spec"]["bootstrap"]["initdb"]["owner"] == name.removesuffix("-database")
    roles = clusters["access-database"]["spec"]["managed"]["roles"]
    assert {role["name"] for role in roles} == {"access_staff", "access_subscriber"}
    assert all(not role.get("superuser") and not role.get("bypassrls") for role in roles)


# --- the network ---

FROM_OUTSIDE, PROMETHEUS, COLLECTOR, NAMES, ISSUER = "outside", "prometheus", "collector", "names", "issuer"
KUBE, STRIMZI, CNPG, TRACES = "kubernetes", "strimzi", "cnpg", "traces"
ELSEWHERE = {
    "ingress-nginx": FROM_OUTSIDE,
    "monitoring": PROMETHEUS,
    "opentelemetry-collector": COLLECTOR,
    "jaeger": TRACES,
    "kube-system": NAMES,
    "strimzi": STRIMZI,
    "cnpg-system": CNPG,
}
Edge = tuple[str, str, int | None]


def table() -> set[Edge]:
    """Who may open a connection to whom, and on which port: the design's table, written out by hand."""
    steps = ("ingest", "pseudonym", "linkage", "access", "statistics", "audit")
    everybody = (*steps, "console")
    edges: set[Edge] = {(one, "kafka", 9093) for one in (*steps, "rights")}
    edges |= {(one, f"{one}-database", 5432) for one in ("linkage", "access", "statistics", "audit")}
    edges |= {("console", one, 8000) for one in steps}
    edges |= {(FROM_OUTSIDE, one, 8000) for one in ("ingest", "access", "console")}
    edges |= {(PROMETHEUS, one, 8000) for one in everybody}
    edges |= {(one, COLLECTOR, 4318) for one in steps} | {("console", TRACES, 16686)}
    edges |= {(one, ISSUER, 443) for one in ("linkage", "access", "statistics", "audit", "console")}
    servers = ("kafka", "linkage-database", "access-database", "statistics-database", "audit-database")
    edges |= {(one, NAMES, 53) for one in (*everybody, "rights", *servers)}
    edges |= {(one, one, None) for one in servers}
    edges |= {(one, KUBE, port) for one in servers for port in (443, 6443)}
    edges |= {(STRIMZI, "kafka", None)} | {(CNPG, one, None) for one in servers[1:]}
    return edges


def pods(resources: list[Resource]) -> dict[str, dict[str, str]]:
    """All pods of the namespace by name, with their labels; those that operators make have the operators' labels."""
    found = {name: one["spec"]["template"]["metadata"]["labels"] for name, one in workloads(resources).items()}
    del found["statistics-windows"]  # by its labels it is `statistics`
    found |= {name: {"cnpg.io/cluster": name} for name in of(resources, "Cluster")}
    return found | {"kafka": {"strimzi.io/cluster": "hub"}}


def selects(selector: Resource, labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {})
    one_of = selector.get("matchExpressions", [])
    assert all(one["operator"] == "In" for one in one_of)
    return wanted.items() <= labels.items() and all(labels.get(one["key"]) in one["values"] for one in one_of)


def peers(rules: list[Resource], side: str, here: dict[str, dict[str, str]]) -> Iterator[tuple[str, int | None]]:
    """Who is meant by these rules, and on which port."""
    for rule in rules:
        assert rule.get(side), "a rule that names nobody is about everybody"
        ports = [one["port"] for one in rule.get("ports", [])] or [None]
        for peer, port in itertools.product(rule[side], ports):
            if "ipBlock" in peer:
                yield (ISSUER if "except" in peer["ipBlock"] else KUBE), port
            elif "namespaceSelector" in peer:
                assert peer["podSelector"]["matchLabels"], "a whole namespace"
                where = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
                (who,) = peer["podSelector"]["matchLabels"].values()
                yield ELSEWHERE[who if where == "observability" else where], port
            else:
                yield from ((name, port) for name, labels in here.items() if selects(peer["podSelector"], labels))


def test_the_rules_of_prometheus_are_those_of_infra(resources: list[Resource]) -> None:
    found = of(resources, "PrometheusRule")
    assert {name: one["spec"] for name, one in found.items()} == {
        path.stem: yaml.safe_load(path.read_text()) for path in RULES.glob("*.yaml")
    }
    assert found.keys() == {"alerts", "recording"}


def test_a_service_leads_to_one_workload_alone(resources: list[Resource]) -> None:
    found = workloads(resources)
    labels = {name: one["spec"]["template"]["metadata"]["labels"] for name, one in found.items()}
    for name, service in of(resources, "Service").items():
        selector = service["spec"]["selector"].items()
        assert [one for one, have in labels.items() if selector <= have.items()] == [name]
    for name, one in found.items():
        selector = one["spec"]["selector"]["matchLabels"].items()
        assert [other for other, have in labels.items() if selector <= have.items()] == [name]


def test_the_network_allows_the_designs_table_and_no_more(resources: list[Resource]) -> None:
    here = pods(resources)
    came: set[Edge] = set()
    went: set[Edge] = set()
    denied = {"Ingress": set(here), "Egress": set(here)}
    for policy in of(resources, "NetworkPolicy").values():
        spec = policy["spec"]
        for name in (one for one, labels in here.items() if selects(spec["podSelector"], labels)):
            for direction in spec["policyTypes"]:
                denied[direction].discard(name)
            came |= {(who, name, port) for who, port in peers(spec.get("ingress", []), "from", here)}
            went |= {(name, whom, port) for whom, port in peers(spec.get("egress", []), "to", here)}
    assert denied == {"Ingress": set(), "Egress": set()}, "who is named by no policy is open to everybody"
    within = {edge for edge in came | went if edge[0] in here and edge[1] in here}
    assert within & came == within & went == within, "an edge needs both ends"
    assert came | went == table()


def test_the_table_is_that_of_the_declarations(resources: list[Resource]) -> None:
    edges = table()
    assert {who for who, whom, _ in edges if whom == "kafka"} - {STRIMZI, "kafka", "rights"} == acl.services()
    assert {who for who, whom, _ in edges if whom.endswith("-database")} - {CNPG} - {
        whom for _, whom, _ in edges if whom.endswith("-database")
    } == set(DATABASES)
    # pseudonym has the issuer's keys as a file: it reaches the broker, and nothing else
    assert {who for who, whom, _ in edges if whom == ISSUER} | {"pseudonym"} == {
        name for name, kind in KINDS.items() if issubclass(kind, IssuerSettings)
    }
    (listener,) = of(resources, "Kafka")["hub"]["spec"]["kafka"]["listeners"]
    (peer,) = listener["networkPolicyPeers"]
    (expression,) = peer["podSelector"]["matchExpressions"]
    assert set(expression["values"]) == acl.services() | {"rights"}, "Strimzi's own policy opens no more than ours"
    assert listener["tls"] is True
