"""Custom kinds of the components, and of Argo CD and Flux in the docs, match their CRDs."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ..conftest import Render
from ..harness import golang, prometheus
from ..harness.template import ROOT
from .test_manifests import BUILT_IN, Manifest, kustomize, of_kind

CRDS = {
    "Application": ("github.com/argoproj/argo-cd/v3", "manifests/crds/application-crd.yaml"),
    "ExternalSecret": (
        "github.com/external-secrets/external-secrets",
        "config/crds/bases/external-secrets.io_externalsecrets.yaml",
    ),
    "GitRepository": (
        "github.com/fluxcd/source-controller",
        "config/crd/bases/source.toolkit.fluxcd.io_gitrepositories.yaml",
    ),
    "HTTPRoute": (
        "sigs.k8s.io/gateway-api",
        "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
    ),
    "Kustomization": (
        "github.com/fluxcd/kustomize-controller",
        "config/crd/bases/kustomize.toolkit.fluxcd.io_kustomizations.yaml",
    ),
    "PodMonitor": (
        "github.com/prometheus-operator/prometheus-operator",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
    ),
    "PrometheusRule": (
        "github.com/prometheus-operator/prometheus-operator",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    "ScaledObject": (
        "github.com/kedacore/keda/v2",
        "config/crd/bases/keda.sh_scaledobjects.yaml",
    ),
}
"""The Go module and file of each CRD."""

SLUG = "orders-api"

Faults = Callable[[Manifest], list[str]]


def closed(schema: Any) -> Any:
    """Return a schema that rejects fields that the CRD does not define."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    open_anyway = ("additionalProperties", "x-kubernetes-preserve-unknown-fields")
    if isinstance(schema.get("properties"), dict) and not any(key in schema for key in open_anyway):
        found["additionalProperties"] = False
    return found


@pytest.fixture(scope="module")
def faults() -> Faults:
    """Check a manifest against the CRD of its kind."""
    modules = golang.downloaded("crds")
    schemas: dict[tuple[str, str], Any] = {}
    for kind, (module, file) in CRDS.items():
        crd = yaml.load((modules[module] / file).read_text(), Loader=yaml.CSafeLoader)
        for version in crd["spec"]["versions"]:
            if version["served"]:
                group = f"{crd['spec']['group']}/{version['name']}"
                schemas[group, kind] = closed(version["schema"]["openAPIV3Schema"])

    def faults(manifest: Manifest) -> list[str]:
        schema = schemas[manifest["apiVersion"], manifest["kind"]]
        errors = jsonschema.Draft202012Validator(schema).iter_errors(manifest)
        return [f"{error.json_path}: {error.message}" for error in errors]

    return faults


def overlay(
    render: Render, directory: Path, *components: str, first: bool = False, **answers: object
) -> Path:
    """Render a service, and build its production overlay with additional components."""
    project = render(project_name="Orders API", deployment="kubernetes", **answers)
    shutil.copytree(project.path / "deploy/kubernetes", directory, dirs_exist_ok=True)
    file = directory / "overlays/production/kustomization.yaml"
    changed = yaml.safe_load(file.read_text())
    there = changed["components"]
    changed["components"] = [*components, *there] if first else [*there, *components]
    file.write_text(yaml.safe_dump(changed))
    return file.parent


@pytest.mark.parametrize("database", ["none", "postgresql"])
def test_custom_objects_of_the_components_match_their_crds(
    render: Render, faults: Faults, tmp_path: Path, database: str
) -> None:
    components = ("../../components/keda", "../../components/external-secrets")
    manifests = kustomize(overlay(render, tmp_path, *components, database=database))
    custom = [manifest for manifest in manifests if manifest["kind"] not in BUILT_IN]

    assert {manifest["kind"] for manifest in custom} == {
        *("HTTPRoute", "PodMonitor", "PrometheusRule", "ScaledObject", "ExternalSecret")
    }
    for manifest in custom:
        assert faults(manifest) == [], manifest["kind"]


def test_crd_refuses_a_field_with_a_typo(render: Render, faults: Faults, tmp_path: Path) -> None:
    manifests = kustomize(overlay(render, tmp_path, "../../components/keda"))
    [scaled] = of_kind("ScaledObject", manifests)
    scaled["spec"]["maxReplicasCount"] = scaled["spec"].pop("maxReplicaCount")

    [fault] = faults(scaled)

    assert "maxReplicasCount" in fault


# ── Argo CD and Flux ──────────────────────────────────────────────────────────────────────────


def examples() -> list[Manifest]:
    """Return the objects of Argo CD and Flux in the documentation."""
    page = (ROOT / "docs/how-to/gitops.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    documents = [manifest for block in blocks for manifest in yaml.safe_load_all(block)]
    return [manifest for manifest in documents if "kind" in manifest]


def test_examples_for_argo_cd_and_flux_match_their_crds(faults: Faults) -> None:
    found = examples()

    assert [item["kind"] for item in found] == [
        *("Application", "GitRepository", "Kustomization", "Kustomization")
    ]
    for manifest in found:
        assert faults(manifest) == [], manifest["metadata"]["name"]


def built(path: Path, options: dict[str, Any]) -> list[Manifest]:
    """Build an overlay like Argo CD and Flux, which add their options to its kustomization."""
    file = path / "kustomization.yaml"
    before = file.read_text()
    changed = yaml.safe_load(before)
    for name in ("components", "patches"):
        if name in options:
            changed[name] = changed.get(name, []) + options[name]
    if "nameSuffix" in options:
        changed["nameSuffix"] = options["nameSuffix"]
    file.write_text(yaml.safe_dump(changed))
    try:
        return kustomize(path)
    finally:
        file.write_text(before)


@pytest.fixture
def production(render: Render, tmp_path: Path) -> Path:
    """The production overlay of a service with PostgreSQL, with an image by its digest."""
    path = overlay(render, tmp_path, database="postgresql")
    file = path / "kustomization.yaml"
    changed = yaml.safe_load(file.read_text())
    [image] = changed["images"]
    del image["newTag"]
    image["digest"] = f"sha256:{'0' * 64}"
    file.write_text(yaml.safe_dump(changed))
    return path


def pod_of(kind: str, manifests: list[Manifest]) -> Manifest:
    [found] = of_kind(kind, manifests)
    spec: Manifest = found["spec"]["template"]["spec"]
    return spec


def test_argo_cd_migrates_after_its_dependencies_and_before_the_deployment(
    production: Path,
) -> None:
    [application] = of_kind("Application", examples())
    source = application["spec"]["source"]
    assert production.match(f"*/{Path(source['path']).relative_to('deploy/kubernetes')}")

    manifests = built(production, source["kustomize"])

    waves: dict[str, set[int]] = {}
    for manifest in manifests:
        wave = manifest["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-wave", "0")
        waves.setdefault(manifest["kind"], set()).add(int(wave))
    [job] = of_kind("Job", manifests)
    assert job["metadata"]["annotations"]["argocd.argoproj.io/hook"] == "Sync"
    assert waves["ServiceAccount"] == waves["ConfigMap"] == waves["NetworkPolicy"] == {-2}
    assert waves["Job"] == {-1}
    assert waves["Deployment"] == waves["HorizontalPodAutoscaler"] == {0}
    migration, service = pod_of("Job", manifests), pod_of("Deployment", manifests)
    assert migration["serviceAccountName"] == service["serviceAccountName"]
    for key in ("image", "envFrom"):
        assert migration["containers"][0][key] == service["containers"][0][key]
    assert service["containers"][0]["image"].endswith(f"@sha256:{'0' * 64}")
    assert "ttlSecondsAfterFinished" not in job["spec"]


def test_flux_migrates_before_it_applies_the_overlay(
    production: Path,
) -> None:
    migration, service = of_kind("Kustomization", examples())
    assert service["spec"]["dependsOn"] == [{"name": migration["metadata"]["name"]}]
    assert migration["spec"]["wait"]
    plain = kustomize(production)

    first = built(production, migration["spec"])
    then = built(production, service["spec"])

    def names(manifests: list[Manifest]) -> set[tuple[str, str]]:
        return {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}

    kinds = {"ServiceAccount", "ConfigMap", "NetworkPolicy", "Job"}
    assert {manifest["kind"] for manifest in first} == kinds
    assert names(first) & names(then) == set()
    assert names(then) == names(plain)
    pod = pod_of("Job", first)
    [container] = pod["containers"]
    assert ("ServiceAccount", pod["serviceAccountName"]) in names(first)
    assert ("ConfigMap", container["envFrom"][0]["configMapRef"]["name"]) in names(first)
    assert container["image"] == pod_of("Deployment", then)["containers"][0]["image"]
    [job] = of_kind("Job", first)
    assert job["metadata"]["annotations"]["kustomize.toolkit.fluxcd.io/force"] == "Enabled"
    assert "ttlSecondsAfterFinished" not in job["spec"]
    labels = job["spec"]["template"]["metadata"]["labels"]
    selected = [
        manifest["spec"]["podSelector"]["matchLabels"]
        for manifest in of_kind("NetworkPolicy", first)
    ]
    assert labels in selected
    kept = [
        manifest["kind"]
        for manifest in then
        if manifest["metadata"].get("annotations", {}).get("kustomize.toolkit.fluxcd.io/prune")
        == "disabled"
    ]
    assert sorted(kept) == ["ConfigMap", "Namespace"]


# ── KEDA ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_keda_component_replaces_the_autoscaler_of_the_overlay(
    render: Render, tmp_path: Path, first: bool
) -> None:
    before = kustomize(overlay(render, tmp_path / "before"))
    after = kustomize(overlay(render, tmp_path / "after", "../../components/keda", first=first))

    [autoscaler] = of_kind("HorizontalPodAutoscaler", before)
    [scaled] = of_kind("ScaledObject", after)
    assert [manifest for manifest in before if manifest not in after] == [autoscaler]
    assert [manifest for manifest in after if manifest not in before] == [scaled]
    spec, old = scaled["spec"], autoscaler["spec"]
    config = spec["advanced"]["horizontalPodAutoscalerConfig"]
    assert spec["scaleTargetRef"]["name"] == old["scaleTargetRef"]["name"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (
        old["minReplicas"],
        old["maxReplicas"],
    )
    assert config == {"name": autoscaler["metadata"]["name"], "behavior": old["behavior"]}
    annotations = scaled["metadata"]["annotations"]
    assert annotations["scaledobject.keda.sh/transfer-hpa-ownership"] == "true"
    [cpu] = [trigger for trigger in spec["triggers"] if trigger["type"] == "cpu"]
    [metric] = old["metrics"]
    assert int(cpu["metadata"]["value"]) == metric["resource"]["target"]["averageUtilization"]


def test_migrate_applies_no_scaled_object_before_the_release(
    render: Render, tmp_path: Path
) -> None:
    overlay(render, tmp_path, "../../components/keda", database="postgresql")
    image = f"registry.example.com/{SLUG}@sha256:{'0' * 64}"
    command = [str(tmp_path / "migrate"), "--dry-run", "production", image]

    result = subprocess.run(command, check=True, capture_output=True, text=True)

    kinds = {"Namespace", "ServiceAccount", "ConfigMap", "NetworkPolicy", "Job"}
    assert {manifest["kind"] for manifest in yaml.safe_load_all(result.stdout)} == kinds


def queries(render: Render, directory: Path, database: str) -> dict[str, str]:
    """Return the queries of the component by the names of their triggers."""
    path = overlay(render, directory, "../../components/keda", database=database)
    [scaled] = of_kind("ScaledObject", kustomize(path))
    triggers = [
        trigger for trigger in scaled["spec"]["triggers"] if trigger["type"] == "prometheus"
    ]
    for trigger in triggers:
        assert trigger["metadata"]["threshold"] == "0.6"
        assert trigger["metadata"]["ignoreNullValues"] == "false"
    return {trigger["name"]: trigger["metadata"]["query"] for trigger in triggers}


SAMPLES = {
    "http_requests_in_flight": (450, 90),
    "http_requests_in_flight_limit": (500, 500),
    "threads_in_use": (40, 20),
    "threads_waiting": (30, 0),
    "threads_limit": (40, 40),
    "database_pool_in_use": (10, 10),
    "database_pool_waiting": (15, 0),
    "database_pool_size": (10, 10),
}
"""Metrics of two pods."""

FULL = {"http_requests_in_flight": 1.08, "threads": 2.25, "database_pool": 3.5}
"""The expected number of pods for that load."""


@pytest.mark.parametrize("database", ["none", "postgresql"])
def test_keda_queries_return_the_pods_that_the_load_fills(
    render: Render, tmp_path: Path, database: str
) -> None:
    if prometheus.missing_tools():
        pytest.skip("no Prometheus")
    found = queries(render, tmp_path / "service", database)
    series = [
        {
            "series": f'{name}{{job="{SLUG}-{environment}/{SLUG}", pod="{pod}"}}',
            "values": f"{value * share}x3",
        }
        for name, values in SAMPLES.items()
        for environment, share in (("production", 1), ("staging", 0))
        for pod, value in enumerate(values)
    ]
    tests = [
        {
            "expr": query,
            "eval_time": "2m",
            "exp_samples": [{"labels": "{}", "value": FULL[name]}],
        }
        for name, query in found.items()
    ]
    file = tmp_path / "tests.yml"
    file.write_text(
        yaml.safe_dump({"tests": [{"input_series": series, "promql_expr_test": tests}]})
    )

    result = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)

    assert found.keys() == FULL.keys() - ({"database_pool"} if database == "none" else set())
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("component", "group", "resource"),
    [
        ("keda", "keda.sh", "scaledobjects"),
        ("external-secrets", "external-secrets.io", "externalsecrets"),
    ],
)
def test_component_of_the_bootstrap_adds_one_rule_to_the_role(
    render: Render, tmp_path: Path, component: str, group: str, resource: str
) -> None:
    bootstrap = overlay(render, tmp_path).parents[1] / "bootstrap/production"
    before = kustomize(bootstrap)
    file = bootstrap / "kustomization.yaml"
    file.write_text(f"{file.read_text()}components:\n  - ../{component}\n")
    after = kustomize(bootstrap)

    [role] = of_kind("Role", after)
    [added] = [each for each in role["rules"] if each["apiGroups"] == [group]]
    assert added["resources"] == [resource]
    role["rules"].remove(added)
    assert after == before
