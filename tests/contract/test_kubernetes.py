"""The manifests are ones that Kubernetes and its operators take, and allow what the contracts say, and no more."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from contracts import acl
from contracts.acl import Right, service_rights
from contracts.registry import topics_to_create
from estuaire import broker, local
from estuaire.database import SETTINGS
from estuaire.deployment import KUBERNETES, prepare
from estuaire.home import home_folder
from estuaire.keyring import SECRETS, Keyring
from estuaire.observe import RULES
from estuaire.platform import DATABASES, SERVICES
from runtime.settings import IssuerSettings, ServiceSettings
from services.access.lookup import PooledReader
from services.access.settings import AccessSettings
from services.audit.settings import AuditSettings
from services.console.settings import ConsoleSettings
from services.ingest.settings import IngestSettings
from services.linkage.lookup import SqlLookup
from services.linkage.settings import LinkageSettings
from services.pseudonym.settings import PseudonymSettings
from services.statistics.settings import StatisticsSettings

pytestmark = pytest.mark.contract

ROOT = Path(__file__).parents[2]
OVERLAY = ROOT / "infra" / "kubernetes" / "overlays" / "production"
FIXTURES = ROOT / "tests" / "fixtures" / "crds"
CRDS = {path.stem: json.loads(path.read_text()) for path in FIXTURES.glob("*.json")}
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
SPARE = 20
"""Connections of a database that are the server's own and an administrator's."""
Resource = dict[str, Any]


@pytest.fixture(scope="module")
def resources() -> list[Resource]:
    """Everything that the overlay applies."""
    return rendered(OVERLAY)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> list[Resource]:
    """The same, of a hub that lets in subscribers and gateways at its broker."""
    return rendered(upon(tmp_path_factory.mktemp("opened"), components=[OVERLAY / "broker-outside"]))


def rendered(folder: Path) -> list[Resource]:
    for command in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(command[0]):
            done = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr
            return [one for one in yaml.safe_load_all(done.stdout) if one]
    pytest.skip("NEITHER KUBECTL NOR KUSTOMIZE: the manifests have not been rendered, nor validated")


def upon(folder: Path, components: Iterable[Path] = (), patches: Iterable[Resource] = ()) -> Path:
    """A folder whose overlay is the overlay and more."""
    there = [os.path.relpath(one, folder.resolve()) for one in (OVERLAY, *components)]
    more = {"resources": there[:1], "components": there[1:], "patches": list(patches), "namespace": "estuaire"}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(more))
    return folder


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


def mistakes(resources: Iterable[Resource]) -> dict[str, str]:
    return {f"{one['kind']} {one['metadata']['name']}": why for one in resources if (why := wrong(one))}


def test_kubernetes_and_its_operators_take_every_resource(resources: list[Resource], opened: list[Resource]) -> None:
    assert len(resources) > 100
    assert mistakes(resources) == mistakes(opened) == {}


def test_a_mistake_is_found(resources: list[Resource]) -> None:
    """Of each kind, one resource with a name in its `spec` that is none."""
    for one in {one["kind"]: one for one in resources if "spec" in one}.values():
        assert wrong(one | {"spec": one["spec"] | {"replicsa": 1}}), one["kind"]


def test_every_namespaced_resource_is_in_the_one_namespace(resources: list[Resource], opened: list[Resource]) -> None:
    for all_of_them in (resources, opened):
        assert {one["metadata"].get("namespace") for one in all_of_them if one["kind"] != "Namespace"} == {"estuaire"}
    labels = of(resources, "Namespace")["estuaire"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


# --- processes ---


def workloads(resources: list[Resource]) -> dict[str, Resource]:
    return of(resources, "StatefulSet", "Deployment")


def test_every_process_is_held_to_the_restricted_profile(resources: list[Resource]) -> None:
    assert workloads(resources).keys() == {*SERVICES, "statistics-windows", "rights", "operator"}
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
        if name not in ("rights", "operator"):
            assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
            assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
            assert "startupProbe" in container
        assert of(resources, "ServiceAccount")[pod["serviceAccountName"]]["automountServiceAccountToken"] is False


def test_processes_of_one_service_go_to_different_nodes(resources: list[Resource]) -> None:
    """A constraint counts the pods that have what its selector says, and the keys of the pod that is to be placed."""
    found = {name: one["spec"]["template"] for name, one in workloads(resources).items()}
    labels = {name: template["metadata"]["labels"] for name, template in found.items()}
    for name, template in found.items():
        (spread,) = template["spec"]["topologySpreadConstraints"]
        assert spread["topologyKey"] == "kubernetes.io/hostname"
        own = {key: labels[name][key] for key in spread["matchLabelKeys"] if key in labels[name]}
        wanted = spread["labelSelector"]["matchLabels"] | own
        assert [one for one, have in labels.items() if wanted.items() <= have.items()] == [name]
    (brokers,) = of(resources, "Kafka")["hub"]["spec"]["kafka"]["template"]["pod"]["topologySpreadConstraints"]
    assert brokers["labelSelector"] == {"matchLabels": {"strimzi.io/name": "hub-kafka"}}


def test_the_operators_commands_find_the_hub_and_bring_no_token(
    resources: list[Resource], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, KUBERNETES)
    secrets = {
        one["metadata"]["name"]: {name: base64.b64decode(text) for name, text in one["data"].items()}
        for one in yaml.safe_load_all((tmp_path / "kubernetes/secrets.yaml").read_text())
    }
    operator = workloads(resources)["operator"]["spec"]
    assert operator["replicas"] == 0, "somebody has to ask for it"
    pod = operator["template"]["spec"]
    (container,) = pod["containers"]
    told = of(resources, "ConfigMap")[container["envFrom"][0]["configMapRef"]["name"]]["data"]
    told |= {one["name"]: one["value"] for one in container["env"]}
    volumes = {one["name"]: one["secret"] for one in pod["volumes"] if "secret" in one}
    for mount in container["volumeMounts"]:
        if (volume := volumes.get(mount["name"])) and volume["secretName"] in secrets:
            data = secrets[volume["secretName"]]
            for item in volume.get("items", [{"key": name, "path": name} for name in data]):
                path = tmp_path / "pod" / mount["mountPath"][1:] / item["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data[item["key"]])
    for name, value in told.items():
        monkeypatch.setenv(name, str(tmp_path / "pod" / value[1:]) if value.startswith("/") else value)
    account = local.at_broker(told["KAFKA_BOOTSTRAP_SERVERS"]).kafka_config
    assert (account["sasl.username"], account["security.protocol"]) == ("admin", "SASL_SSL")
    assert {local.service_url(one) for one in SERVICES} == {f"http://{one}:8000" for one in SERVICES}
    assert Keyring(home_folder()).verifier_key.read_text() == Keyring(tmp_path).verifier_key.read_text()
    held = {path.name for path in (tmp_path / "pod").rglob("*") if path.is_file()}
    assert held == {"addresses.json", "audit-verifier.txt", "ESTUAIRE_KAFKA_CONFIG"}, "no key, and nobody's token"
    assert all(one["readOnly"] for one in container["volumeMounts"] if one["name"] != "tmp")


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


def test_the_broker_is_a_version_that_strimzi_runs_and_the_one_of_here(resources: list[Resource]) -> None:
    """docs/adr/0014 says why none that is newer."""
    recorded = yaml.safe_load((FIXTURES / "kafka-versions.yaml").read_text())
    found = of(resources, "Kafka")["hub"]["spec"]["kafka"]["version"]
    assert found in recorded["supported"]
    assert found.split(".")[:2] == broker.version().split(".")[:2] == ["4", "2"]
    assert f"Strimzi {recorded['strimzi']}: " in (FIXTURES / "README.md").read_text(), "recorded together"


def test_a_broker_may_write_to_its_disks(resources: list[Resource]) -> None:
    """What is given for a pod replaces Strimzi's own, which is group 0: that of the user of its images."""
    kafka = of(resources, "Kafka")["hub"]["spec"]["kafka"]
    assert kafka["template"]["pod"]["securityContext"]["fsGroup"] == 0


def test_the_broker_is_closed_to_the_outside_and_opened_to_accounts_alone(
    resources: list[Resource], opened: list[Resource]
) -> None:
    (within,) = of(resources, "Kafka")["hub"]["spec"]["kafka"]["listeners"]
    inside, outside = of(opened, "Kafka")["hub"]["spec"]["kafka"]["listeners"]
    assert inside == within
    for one in (inside, outside):
        assert one["tls"] is True
        assert one["authentication"] == {"type": "scram-sha-512"}
    settings = outside["configuration"]
    assert settings["externalTrafficPolicy"] == "Local", "or the policy would see a node's address"
    assert settings["loadBalancerSourceRanges"] == [one["ipBlock"]["cidr"] for one in outside["networkPolicyPeers"]]
    (gateway,) = of(opened, "KafkaUser").keys() - of(resources, "KafkaUser").keys()
    users = of(opened, "KafkaUser")
    assert users[gateway]["spec"]["authorization"] == users["ingest"]["spec"]["authorization"]
    assert "password" not in users[gateway]["spec"]["authentication"], "Strimzi makes it"


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


def test_the_loss_of_a_server_stops_no_database(resources: list[Resource]) -> None:
    """What waits for a standby needs another when one is lost; counts are made again, so they need not wait."""
    for name, one in of(resources, "Cluster").items():
        kept = one["spec"]["postgresql"]["synchronous"]
        assert kept["number"] == 1, name
        assert kept["dataDurability"] == ("preferred" if name == "statistics-database" else "required"), name
        assert one["spec"]["instances"] >= (2 if kept["dataDurability"] == "preferred" else 3), name


def connections_of_a_slot(service: str, told: Mapping[str, str]) -> int:
    """How many a process may have open at once."""
    sources = [path.read_text() for path in (ROOT / "services" / service).rglob("*.py")]
    opened = Counter(
        itertools.chain(*(re.findall(r"ConnectionPool|psycopg\.connect|Database(?=\()", one) for one in sources))
    )
    if service == "linkage":
        # the loop's and the pool; a trial of rules has two, in the command's own process
        assert opened == {"Database": 2, "ConnectionPool": 2, "psycopg.connect": 1}
        return 1 + SqlLookup("")._pool.max_size
    # the loop's, a pool for each role, and the release of indicators; the roles are looked at before the pools open
    assert opened == {"Database": 1, "ConnectionPool": 2, "psycopg.connect": 2}
    readers = int(told.get("ESTUAIRE_ACCESS_READERS", AccessSettings.model_fields["readers"].default))
    return 1 + 2 * PooledReader("", readers)._pool.max_size + 1


@pytest.mark.parametrize("service", ["linkage", "access"])
def test_the_database_has_a_connection_for_every_slot_there_may_be(resources: list[Resource], service: str) -> None:
    settings = of(resources, "ConfigMap")
    (told,) = (one["data"] for name, one in settings.items() if name.startswith(f"{service}-settings"))
    most = of(resources, "ScaledObject")[service]["spec"]["maxReplicaCount"]
    limit = int(of(resources, "Cluster")[f"{service}-database"]["spec"]["postgresql"]["parameters"]["max_connections"])
    assert most * connections_of_a_slot(service, told) + SPARE <= limit


def test_backups_are_gone_after_35_days_and_those_of_linkage_and_access_in_different_hands(
    resources: list[Resource],
) -> None:
    stores, rounds = of(resources, "ObjectStore"), of(resources, "ScheduledBackup")
    clusters = of(resources, "Cluster")
    assert stores.keys() == rounds.keys() == clusters.keys()
    for name, one in clusters.items():
        (archiver,) = one["spec"]["plugins"]
        assert archiver["isWALArchiver"] is True
        assert archiver["parameters"] == {"barmanObjectName": name}
        taken = rounds[name]["spec"]
        assert (taken["cluster"]["name"], taken["method"]) == (name, "plugin")
        assert taken["pluginConfiguration"]["name"] == archiver["name"]
        assert re.fullmatch(r"0 \d+ \d+ \* \* \*", taken["schedule"]), "once a day"
        # the backup before the window is kept, and what is too old goes with the next one
        assert int(stores[name]["spec"]["retentionPolicy"].removesuffix("d")) + 1 + 1 <= 35
        assert stores[name]["spec"]["configuration"]["data"]["encryption"] == "AES256"
    where = {name: one["spec"]["configuration"] for name, one in stores.items()}
    assert len({one["s3Credentials"]["secretAccessKey"]["name"] for one in where.values()}) == len(DATABASES)
    assert where["linkage-database"]["endpointURL"] != where["access-database"]["endpointURL"]


def test_a_database_is_made_from_its_backup(resources: list[Resource], tmp_path: Path) -> None:
    patch = {"target": {"kind": "Cluster", "name": "linkage-database"}, "patch": (OVERLAY / "restore.yaml").read_text()}
    clusters, found = of(resources, "Cluster"), of(rendered(upon(tmp_path, patches=[patch])), "Cluster")
    assert [name for name, one in found.items() if one != clusters[name]] == ["linkage-database"]
    assert mistakes(found.values()) == {}
    spec, before = found["linkage-database"]["spec"], clusters["linkage-database"]["spec"]
    bootstrap = spec["bootstrap"]["recovery"]
    assert spec["bootstrap"].keys() == {"recovery"}
    assert {key: bootstrap[key] for key in ("database", "owner", "secret")} == {
        key: before["bootstrap"]["initdb"][key] for key in ("database", "owner", "secret")
    }
    (origin,) = spec["externalClusters"]
    assert origin["name"] == bootstrap["source"]
    read, written = origin["plugin"]["parameters"], spec["plugins"][0]["parameters"]
    assert read == {"barmanObjectName": "linkage-database", "serverName": "linkage-database"}
    assert written["serverName"] != read["serverName"], "an archive that is not empty is refused"


# --- the network ---

FROM_OUTSIDE, PROMETHEUS, COLLECTOR, NAMES, ISSUER = "outside", "prometheus", "collector", "names", "issuer"
KUBE, STRIMZI, CNPG, TRACES, SUBSCRIBERS = "kubernetes", "strimzi", "cnpg", "traces", "subscribers"
ELSEWHERE = {
    ("ingress-nginx", "app.kubernetes.io/name=ingress-nginx"): FROM_OUTSIDE,
    ("monitoring", "app.kubernetes.io/name=prometheus"): PROMETHEUS,
    ("observability", "app.kubernetes.io/name=opentelemetry-collector"): COLLECTOR,
    ("observability", "app.kubernetes.io/name=jaeger"): TRACES,
    ("kube-system", "k8s-app=kube-dns"): NAMES,
    ("strimzi", "name=strimzi-cluster-operator"): STRIMZI,
    ("cnpg-system", "app.kubernetes.io/name=cloudnative-pg"): CNPG,
}
"""Pods of other namespaces, by theirs and their labels."""
BLOCKS = {
    ("0.0.0.0/0", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"): ISSUER,
    ("0.0.0.0/0",): KUBE,
    ("192.0.2.0/24",): SUBSCRIBERS,
}
"""Ranges of addresses, each followed by what is not in it."""
Edge = tuple[str, str, int | None]


def table() -> set[Edge]:
    """Who may open a connection to whom, and on which port: the design's table, written out by hand."""
    steps = ("ingest", "pseudonym", "linkage", "access", "statistics", "audit")
    everybody = (*steps, "console")
    edges: set[Edge] = {(one, "kafka", 9093) for one in (*steps, "rights", "operator")}
    edges |= {(one, f"{one}-database", 5432) for one in ("linkage", "access", "statistics", "audit")}
    edges |= {(who, one, 8000) for who in ("console", "operator") for one in steps}
    edges |= {(FROM_OUTSIDE, one, 8000) for one in ("ingest", "access", "console")}
    edges |= {(PROMETHEUS, one, 8000) for one in (*everybody, "rights")} | {(PROMETHEUS, "kafka", 9404)}
    edges |= {(PROMETHEUS, f"{one}-database", 9187) for one in ("linkage", "access", "statistics", "audit")}
    edges |= {(one, COLLECTOR, 4318) for one in steps} | {("console", TRACES, 16686)}
    edges |= {(one, ISSUER, 443) for one in ("linkage", "access", "statistics", "audit", "console")}
    servers = ("kafka", "linkage-database", "access-database", "statistics-database", "audit-database")
    edges |= {(one, NAMES, 53) for one in (*everybody, "rights", "operator", *servers)}
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
                yield BLOCKS[peer["ipBlock"]["cidr"], *peer["ipBlock"].get("except", [])], port
            elif "namespaceSelector" in peer:
                assert [*peer["namespaceSelector"], *peer["podSelector"]] == ["matchLabels"] * 2, "and nothing else"
                ((name, where),) = peer["namespaceSelector"]["matchLabels"].items()
                assert name == "kubernetes.io/metadata.name"
                labels = ",".join(f"{key}={value}" for key, value in sorted(peer["podSelector"]["matchLabels"].items()))
                yield ELSEWHERE[where, labels], port
            else:
                yield from ((name, port) for name, labels in here.items() if selects(peer["podSelector"], labels))


def test_the_rules_of_prometheus_are_those_of_infra(resources: list[Resource]) -> None:
    found = of(resources, "PrometheusRule")
    assert {name: one["spec"] for name, one in found.items()} == {
        path.stem: yaml.safe_load(path.read_text()) for path in RULES.glob("*.yaml")
    }
    assert found.keys() == {"alerts", "ingest", "recording"}


def test_a_service_leads_to_one_workload_alone(resources: list[Resource]) -> None:
    found = workloads(resources)
    labels = {name: one["spec"]["template"]["metadata"]["labels"] for name, one in found.items()}
    for name, service in of(resources, "Service").items():
        selector = service["spec"]["selector"].items()
        assert [one for one, have in labels.items() if selector <= have.items()] == [name]
    for name, one in found.items():
        selector = one["spec"]["selector"]["matchLabels"].items()
        assert [other for other, have in labels.items() if selector <= have.items()] == [name]


def test_the_name_of_a_step_leads_to_each_of_its_slots_ready_or_not(resources: list[Resource]) -> None:
    """The console asks each how it is, and one that stands is to answer."""
    specs = {name: one["spec"] for name, one in of(resources, "Service").items()}
    slots = of(resources, "StatefulSet").keys() & specs.keys()  # nobody calls `statistics-windows`
    assert len(slots) == 5
    assert {name for name, one in specs.items() if one.get("clusterIP") == "None"} == slots
    assert {name for name, one in specs.items() if one.get("publishNotReadyAddresses")} == slots


def allowed(resources: list[Resource]) -> set[Edge]:
    """Who may open a connection to whom, each end's policy being asked."""
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
    # Strimzi makes a policy of its own, of the peers of the listeners
    for listener in of(resources, "Kafka")["hub"]["spec"]["kafka"]["listeners"]:
        rule = {"from": listener["networkPolicyPeers"], "ports": [{"port": listener["port"]}]}
        came |= {(who, "kafka", port) for who, port in peers([rule], "from", here)}
    assert denied == {"Ingress": set(), "Egress": set()}, "who is named by no policy is open to everybody"
    within = {edge for edge in came | went if edge[0] in here and edge[1] in here}
    assert within & came == within & went == within, "an edge needs both ends"
    return came | went


def test_the_network_allows_the_designs_table_and_no_more(resources: list[Resource], opened: list[Resource]) -> None:
    assert allowed(resources) == table()
    assert allowed(opened) == table() | {(SUBSCRIBERS, "kafka", 9094)}


def test_who_is_named_wrongly_is_nobody_of_the_table() -> None:
    """A range with another exception, another pod of a known namespace, more labels than are looked at."""
    public = {"cidr": "0.0.0.0/0", "except": ["192.168.0.0/16"]}
    other = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    for peer in ({"ipBlock": public}, other | {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "grafana"}}}):
        with pytest.raises(KeyError):
            list(peers([{"to": [peer]}], "to", {}))


def test_what_is_for_probes_and_prometheus_is_not_outside(resources: list[Resource]) -> None:
    """By its path a request goes where the longest prefix says: to a port that no service has."""
    ports = {
        name: {one["port"] for one in service["spec"]["ports"]} for name, service in of(resources, "Service").items()
    }
    for ingress in of(resources, "Ingress").values():
        for rule in ingress["spec"]["rules"]:
            paths = {one["path"]: one["backend"]["service"] for one in rule["http"]["paths"]}
            assert all(one["pathType"] == "Prefix" for one in rule["http"]["paths"])
            for probe in ("/healthz", "/readyz", "/metrics"):
                longest = max((one for one in paths if f"{probe}/".startswith(f"{one.rstrip('/')}/")), default=None)
                backend = paths.get(longest or "", {"name": "", "port": {"number": 0}})
                assert backend["port"].get("number", 8000) not in ports.get(backend["name"], ()), (rule["host"], probe)


def test_the_console_asks_the_trace_store_that_its_policy_leads_to(resources: list[Resource]) -> None:
    (told,) = (one["data"] for name, one in of(resources, "ConfigMap").items() if name.startswith("console-settings"))
    asked, shown = urlsplit(told["ESTUAIRE_CONSOLE_TRACES_API"]), urlsplit(told["ESTUAIRE_CONSOLE_TRACES"])
    assert asked.hostname == "jaeger.observability"
    assert ("console", TRACES, asked.port) in table()
    assert shown.scheme == "https"


def test_what_prometheus_is_told_has_the_labels_that_the_rules_ask_for(resources: list[Resource]) -> None:
    monitor = of(resources, "PodMonitor")["estuaire"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    targets = {}
    for name, one in workloads(resources).items():
        template = one["spec"]["template"]
        (container,) = template["spec"]["containers"]
        if endpoint["port"] in {port["name"] for port in container.get("ports", [])}:
            labels = template["metadata"]["labels"]
            assert selects(monitor["spec"]["selector"], labels)
            targets[name] = relabelled(endpoint["relabelings"], labels)
    assert {name: one["service"] for name, one in targets.items()} == {name: name for name in targets}
    assert {one["job"] for one in targets.values()} == {"estuaire"}
    rules = "".join(path.read_text() for path in RULES.glob("*.yaml"))
    asked = set(re.findall(r'absent\(up\{job="estuaire",service="([a-z-]+)"', rules))
    assert {one["service"] for one in targets.values()} == asked


def relabelled(rules: list[Resource], labels: dict[str, str]) -> dict[str, str]:
    """What Prometheus makes of a pod's labels."""
    found = {f"__meta_kubernetes_pod_label_{re.sub('[^a-z]', '_', key)}": value for key, value in labels.items()}
    for rule in rules:
        text = ";".join(found.get(one, "") for one in rule.get("sourceLabels", []))
        if re.fullmatch(rule.get("regex", "(.*)"), text):
            found[rule["targetLabel"]] = rule.get("replacement", text)
    return found


def test_the_table_is_that_of_the_declarations() -> None:
    edges = table()
    assert {who for who, whom, _ in edges if whom == "kafka"} - {
        STRIMZI,
        PROMETHEUS,
        "kafka",
        "rights",
        "operator",
    } == acl.services()
    assert {who for who, whom, _ in edges if whom.endswith("-database")} - {CNPG, PROMETHEUS} - {
        whom for _, whom, _ in edges if whom.endswith("-database")
    } == set(DATABASES)
    # pseudonym has the issuer's keys as a file: it reaches the broker, and nothing else
    assert {who for who, whom, _ in edges if whom == ISSUER} | {"pseudonym"} == {
        name for name, kind in KINDS.items() if issubclass(kind, IssuerSettings)
    }
