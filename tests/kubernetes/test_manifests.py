"""The Kubernetes manifests of each overlay."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate.utils import validate

from ..conftest import Render
from ..harness.project import Project
from ..harness.server import serve

KUBERNETES = ("1.30", "1.37")
"""The oldest and the newest minor version that is supported: 1.30 has preStop.sleep by default."""

PORT = 8000
METRICS_PORT = 9090

CUSTOM = ("HTTPRoute", "PodMonitor", "PrometheusRule")
"""Custom kinds, which Kubernetes' schemas do not contain."""

only_on_kubernetes = pytest.mark.parametrize("target", ["kubernetes"], indirect=True)

Manifest = dict[str, Any]


def kustomize(directory: Path) -> list[Manifest]:
    """Return the manifests that `kubectl apply -k` would send."""
    if shutil.which("kubectl") is None:
        pytest.skip("no manifests without kubectl")
    result = subprocess.run(["kubectl", "kustomize", directory], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return list(yaml.safe_load_all(result.stdout))


def of_kind(kind: str, manifests: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def nodes(tree: object, key: str) -> Iterator[Any]:
    """Yield every value of a key, at any depth."""
    if isinstance(tree, dict):
        if key in tree:
            yield tree[key]
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            yield from nodes(branch, key)


@pytest.fixture(scope="module", params=["httproute", "ingress"])
def kubernetes(render: Render, request: pytest.FixtureRequest) -> Project:
    """The project for Kubernetes, with each kind of route."""
    return render(deployment="kubernetes", route=request.param)


@pytest.fixture(scope="module", params=["staging", "production"])
def overlay(kubernetes: Project, request: pytest.FixtureRequest) -> Path:
    """Each overlay."""
    return kubernetes.path / "deploy/kubernetes/overlays" / str(request.param)


@pytest.fixture(scope="module")
def manifests(overlay: Path) -> list[Manifest]:
    """The manifests of the overlay."""
    return kustomize(overlay)


@pytest.fixture(scope="module")
def pod(manifests: list[Manifest]) -> Manifest:
    """The pod template of the Deployment."""
    [deployment] = of_kind("Deployment", manifests)
    template: Manifest = deployment["spec"]["template"]
    return template


@pytest.fixture(scope="module")
def container(pod: Manifest) -> Manifest:
    """The only container of its pods."""
    [container] = pod["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize("version", KUBERNETES)
def test_manifests_match_the_kubernetes_schemas(manifests: list[Manifest], version: str) -> None:
    known = [manifest for manifest in manifests if manifest["kind"] not in CUSTOM]

    assert len(known) >= 8
    for manifest in known:
        assert validate(manifest, version, strict=True) == version


def test_readme_names_the_supported_kubernetes_versions(kubernetes: Project) -> None:
    readme = " ".join((kubernetes.path / "deploy/README.md").read_text().split())

    assert f"Kubernetes {KUBERNETES[0]} to {KUBERNETES[1]}" in readme


BUILT_IN = {
    "Namespace",
    "ServiceAccount",
    "ConfigMap",
    "Service",
    "Deployment",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
    "NetworkPolicy",
}


@pytest.mark.parametrize("route", ["httproute", "ingress"])
def test_base_has_only_built_in_kinds(render: Render, route: str) -> None:
    base = render(deployment="kubernetes", route=route).path / "deploy/kubernetes/base"

    assert {manifest["kind"] for manifest in kustomize(base)} == BUILT_IN


@pytest.mark.parametrize("route", ["httproute", "ingress"])
@pytest.mark.parametrize("manifest", ["component", "base"])
def test_local_overlay_is_one_pod_of_built_in_kinds(
    render: Render, route: str, manifest: str
) -> None:
    project = render(deployment="kubernetes", route=route, route_manifest=manifest)
    manifests = kustomize(project.path / "deploy/kubernetes/overlays/local")

    not_local = {"HorizontalPodAutoscaler", "PodDisruptionBudget"}
    assert {manifest["kind"] for manifest in manifests} == BUILT_IN - not_local
    [config] = of_kind("ConfigMap", manifests)
    assert config["data"]["ENVIRONMENT"] == "development"
    [deployment] = of_kind("Deployment", manifests)
    assert deployment["spec"].get("replicas", 1) == 1
    [namespace] = of_kind("Namespace", manifests)
    assert namespace["metadata"]["name"] == "zebra-9-ledger-local"


@pytest.mark.parametrize("name", ["staging", "production"])
def test_answers_without_gateway_and_operator_render_built_in_kinds_only(
    render: Render, name: str
) -> None:
    project = render(deployment="kubernetes", route="ingress", prometheus_operator=False)
    overlay = project.path / "deploy/kubernetes/overlays" / name

    assert {manifest["kind"] for manifest in kustomize(overlay)} == {*BUILT_IN, "Ingress"}
    assert "\n\n" not in (overlay / "kustomization.yaml").read_text()


@pytest.mark.parametrize("route", ["httproute", "ingress"])
def test_route_in_the_base_renders_like_the_component(
    render: Render, overlay: Path, route: str
) -> None:
    """Services from before 0.5.0 have it in the base."""
    old, new = (
        render(deployment="kubernetes", route=route, route_manifest=place).path
        for place in ("base", "component")
    )
    here = Path("deploy/kubernetes/overlays") / overlay.name

    by_kind = [{m["kind"]: m for m in kustomize(path / here)} for path in (old, new)]
    for found in by_kind:
        for manifest in found.values():
            manifest["metadata"].pop("labels", None)
    assert by_kind[0] == by_kind[1]


def test_openshift_component_removes_user_and_group(overlay: Path, tmp_path: Path) -> None:
    """OpenShift refuses a user ID outside the range of the namespace."""
    shutil.copytree(overlay.parents[1], tmp_path, dirs_exist_ok=True)
    kustomization = tmp_path / "overlays" / overlay.name / "kustomization.yaml"
    text = kustomization.read_text()
    kustomization.write_text(
        text.replace("components:\n", "components:\n  - ../../components/openshift\n")
    )

    [deployment] = of_kind("Deployment", kustomize(kustomization.parent))

    assert deployment["spec"]["template"]["spec"]["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_only_components_need_the_prometheus_operator(
    overlay: Path, manifests: list[Manifest], tmp_path: Path
) -> None:
    """Monitors are in each overlay, alerts in production only."""
    monitoring = of_kind("PodMonitor", manifests) + of_kind("PrometheusRule", manifests)
    shutil.copytree(overlay.parents[1], tmp_path, dirs_exist_ok=True)
    kustomization = tmp_path / "overlays" / overlay.name / "kustomization.yaml"
    text, left_out = re.subn(r"  - \S+/(?:podmonitor|alerts)\b.*\n", "", kustomization.read_text())
    kustomization.write_text(text)

    assert left_out == len(monitoring) == (2 if overlay.name == "production" else 1)
    assert {m["apiVersion"] for m in monitoring} == {"monitoring.coreos.com/v1"}
    assert kustomize(kustomization.parent) == [m for m in manifests if m not in monitoring]


def test_secret_is_mounted_as_files_and_in_no_environment(
    pod: Manifest, container: Manifest, kubernetes: Project
) -> None:
    slug = kubernetes.answers["project_slug"]
    [volume] = [entry for entry in pod["spec"]["volumes"] if "secret" in entry]
    [mount] = [entry for entry in container["volumeMounts"] if entry["name"] == volume["name"]]
    environment = {variable["name"]: variable["value"] for variable in container["env"]}

    assert volume["secret"] == {"secretName": slug, "optional": True}
    assert mount["readOnly"]
    assert environment["SECRETS_DIR"] == mount["mountPath"]
    assert not [source for source in container["envFrom"] if "secretRef" in source]


def test_external_secrets_component_adds_only_the_mounted_secret(
    overlay: Path, manifests: list[Manifest], pod: Manifest, tmp_path: Path
) -> None:
    shutil.copytree(overlay.parents[1], tmp_path, dirs_exist_ok=True)
    kustomization = tmp_path / "overlays" / overlay.name / "kustomization.yaml"
    text, taken_in = re.subn(
        "^components:$",
        "components:\n  - ../../components/external-secrets",
        kustomization.read_text(),
        flags=re.MULTILINE,
    )
    kustomization.write_text(text)

    [added] = [m for m in kustomize(kustomization.parent) if m not in manifests]

    [mounted] = [volume["secret"] for volume in pod["spec"]["volumes"] if "secret" in volume]
    assert taken_in == 1
    assert (added["apiVersion"], added["kind"]) == ("external-secrets.io/v1", "ExternalSecret")
    assert added["spec"]["target"]["name"] == mounted["secretName"]
    assert added["metadata"]["namespace"] == manifests[-1]["metadata"]["namespace"]


def test_every_object_has_the_recommended_labels(
    overlay: Path, manifests: list[Manifest], kubernetes: Project
) -> None:
    slug = kubernetes.answers["project_slug"]
    components = overlay.parents[1] / "components"
    unused = [
        document
        for name in ("keda/scaledobject", "external-secrets/externalsecret")
        for document in yaml.safe_load_all((components / f"{name}.yaml").read_text())
    ]

    for manifest in manifests + unused:
        assert (
            manifest["metadata"].get("labels", {}).items()
            >= {
                "app.kubernetes.io/name": slug,
                "app.kubernetes.io/part-of": slug,
                "app.kubernetes.io/managed-by": "kustomize",
            }.items()
        ), manifest["kind"]


def test_kubeconfig_for_ci_has_the_token_and_no_administrator_credentials(
    kubernetes: Project, tmp_path: Path
) -> None:
    """Runs the commands of deploy/README.md, except the creation of the token."""
    readme = (kubernetes.path / "deploy/README.md").read_text()
    [block] = re.findall(r"((?:    .+\n)*    .* > ci\.kubeconfig\)\n(?:    .+\n)*)", readme)
    script, replaced = re.subn(r"\$\([^)]*create token[^)]*\)", "the-token", block)
    user = {"name": "administrator", "user": {"token": "all-rights"}}
    cluster = {"server": "https://192.0.2.1:6443", "certificate-authority-data": "Q0E="}
    context = {"cluster": "here", "user": "administrator", "namespace": "default"}
    admin = tmp_path / "admin.kubeconfig"
    admin.write_text(
        yaml.safe_dump(
            {
                **{"apiVersion": "v1", "kind": "Config", "current-context": "here"},
                "clusters": [{"name": "here", "cluster": cluster}],
                "contexts": [{"name": "here", "context": context}],
                "users": [user],
            }
        )
    )

    subprocess.run(
        ["bash", "-euc", script],
        check=True,
        cwd=tmp_path,
        capture_output=True,
        env={"PATH": os.environ["PATH"], "KUBECONFIG": str(admin)},
    )

    made = yaml.safe_load((tmp_path / "ci.kubeconfig").read_text())
    assert replaced == 1
    assert (tmp_path / "ci.kubeconfig").stat().st_mode & 0o077 == 0
    assert f"create token {kubernetes.answers['project_slug']}-deploy" in block
    assert [entry["cluster"] for entry in made["clusters"]] == [cluster]
    assert made["users"] == [{"name": "ci", "user": {"token": "the-token"}}]
    [used] = [context for context in made["contexts"] if context["name"] == made["current-context"]]
    assert (used["context"]["cluster"], used["context"]["user"]) == ("here", "ci")


def test_selectors_match_the_pods_of_every_version(
    manifests: list[Manifest], pod: Manifest
) -> None:
    """A Deployment's selector is immutable: a version in it would prevent updates."""
    labels = pod["metadata"]["labels"]
    selectors = [
        selector.get("matchLabels", selector)
        for key in ("selector", "labelSelector", "podSelector")
        for selector in nodes(manifests, key)
    ]

    assert len(selectors) == 8  # including those of the topology and of the policy for DNS
    for selector in selectors:
        assert selector.items() <= labels.items() or "matchExpressions" in selector
        assert not any("version" in label for label in selector)


def test_three_probes_use_the_port_of_the_server(container: Manifest, kubernetes: Project) -> None:
    used = {
        probe: container[f"{probe}Probe"]["httpGet"]
        for probe in ("startup", "readiness", "liveness")
    }

    assert used == {
        "startup": {"path": "/health/live", "port": "http"},
        "readiness": {"path": "/health/ready", "port": "http"},
        "liveness": {"path": "/health/live", "port": "http"},
    }
    assert container["ports"] == [
        {"name": "http", "containerPort": PORT},
        {"name": "metrics", "containerPort": METRICS_PORT},
    ]
    assert f'"--port", "{PORT}"' in (kubernetes.path / "Dockerfile").read_text()


def test_pod_meets_the_restricted_security_standard(
    manifests: list[Manifest], pod: Manifest, container: Manifest
) -> None:
    """The `restricted` pod security standard, and a read-only root."""
    [namespace] = of_kind("Namespace", manifests)
    for mode in ("enforce", "warn", "audit"):
        label = f"pod-security.kubernetes.io/{mode}"
        assert namespace["metadata"]["labels"][label] == "restricted"
        assert namespace["metadata"]["labels"][f"{label}-version"] == f"v{KUBERNETES[1]}"
    assert pod["spec"]["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    [account] = of_kind("ServiceAccount", manifests)
    assert pod["spec"]["serviceAccountName"] == account["metadata"]["name"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert account["automountServiceAccountToken"] is False
    assert {*pod["spec"]} & {"hostNetwork", "hostPID", "hostIPC", "initContainers"} == set()
    for volume in pod["spec"]["volumes"]:
        assert volume.keys() - {"name"} <= {"emptyDir", "configMap", "secret", "projected"}


def test_memory_and_disk_have_limits_cpu_has_none(container: Manifest) -> None:
    assert container["resources"]["requests"].keys() == {"cpu", "memory", "ephemeral-storage"}
    assert container["resources"]["limits"].keys() == {"memory", "ephemeral-storage"}


def test_service_selects_only_the_pods_of_the_service(manifests: list[Manifest]) -> None:
    """Metrics have a separate port, which is not public."""
    services = of_kind("Service", manifests)

    assert services
    assert {port["targetPort"] for port in nodes(services, "ports") for port in port} == {"http"}


def test_overlay_sets_its_environment(
    overlay: Path, manifests: list[Manifest], container: Manifest
) -> None:
    [config] = of_kind("ConfigMap", manifests)

    assert config["data"]["ENVIRONMENT"] == overlay.name
    assert container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
    [namespace] = of_kind("Namespace", manifests)
    assert namespace["metadata"]["name"].endswith(f"-{overlay.name}")
    for manifest in manifests:
        if manifest != namespace:
            assert manifest["metadata"]["namespace"] == namespace["metadata"]["name"]


def test_overlay_sets_its_image_once(overlay: Path, manifests: list[Manifest]) -> None:
    [image] = yaml.safe_load((overlay / "kustomization.yaml").read_text())["images"]

    assert list(nodes(manifests, "image")) == [f"{image['newName']}:{image['newTag']}"]


def test_overlay_accepts_a_digest(overlay: Path, tmp_path: Path) -> None:
    shutil.copytree(overlay.parents[1], tmp_path, dirs_exist_ok=True)
    kustomization = tmp_path / "overlays" / overlay.name / "kustomization.yaml"
    digest = f"sha256:{'0' * 64}"
    text, named = re.subn(r"newTag: .*", f"digest: {digest}", kustomization.read_text())
    kustomization.write_text(text)

    [image] = nodes(kustomize(kustomization.parent), "image")

    assert named == 1
    assert image.endswith(f"@{digest}")


def test_deployment_leaves_replicas_to_the_autoscaler(manifests: list[Manifest]) -> None:
    [deployment] = of_kind("Deployment", manifests)
    [scaler] = of_kind("HorizontalPodAutoscaler", manifests)
    reference = scaler["spec"]["scaleTargetRef"]

    assert "replicas" not in deployment["spec"]
    assert reference == {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": deployment["metadata"]["name"],
    }
    assert 2 <= scaler["spec"]["minReplicas"] < scaler["spec"]["maxReplicas"]
    [up] = scaler["spec"]["behavior"]["scaleUp"]["policies"]
    [down] = scaler["spec"]["behavior"]["scaleDown"]["policies"]
    assert up["value"] / up["periodSeconds"] > 10 * down["value"] / down["periodSeconds"]


def test_disruption_budget_allows_draining_a_node(manifests: list[Manifest]) -> None:
    """One pod may be evicted with the minimum of pods, and a pod that is not ready at any time."""
    [budget] = of_kind("PodDisruptionBudget", manifests)
    [scaler] = of_kind("HorizontalPodAutoscaler", manifests)

    assert budget["spec"]["maxUnavailable"] == 1 < scaler["spec"]["minReplicas"]
    assert "minAvailable" not in budget["spec"]
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_network_policy_denies_by_default(manifests: list[Manifest], container: Manifest) -> None:
    [policy] = of_kind("NetworkPolicy", manifests)
    incoming = [
        (peer["namespaceSelector"]["matchLabels"], [port["port"] for port in rule["ports"]])
        for rule in policy["spec"]["ingress"]
        for peer in rule["from"]
    ]
    outgoing = policy["spec"]["egress"]

    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert incoming == [
        ({"kubernetes.io/metadata.name": "ingress"}, [PORT]),
        ({"kubernetes.io/metadata.name": "monitoring"}, [METRICS_PORT]),
    ]
    assert [{port["port"] for port in rule["ports"]} for rule in outgoing] == [{53}, {5353}]
    assert all(peer for rule in outgoing for peer in rule["to"]), (
        "an empty peer matches every address"
    )


NAMES = [
    ("kubeadm", {"namespace": "kube-system", "k8s-app": "kube-dns"}, 53),
    ("node-local cache", {"namespace": "kube-system", "k8s-app": "node-local-dns"}, 53),
    ("node-local cache", "169.254.20.10/32", 53),
    ("GKE's Cloud DNS", "169.254.169.254/32", 53),
    ("OpenShift", {"namespace": "openshift-dns"}, 5353),
]


@pytest.mark.parametrize(("where", "server", "port"), NAMES, ids=[where for where, *_ in NAMES])
def test_network_policy_allows_dns_of_common_clusters(
    manifests: list[Manifest], where: str, server: str | dict[str, str], port: int
) -> None:
    [policy] = of_kind("NetworkPolicy", manifests)
    admitted = []
    for rule in policy["spec"]["egress"]:
        assert {(p["port"], p["protocol"]) for p in rule["ports"]} in (
            {(53, "UDP"), (53, "TCP")},
            {(5353, "UDP"), (5353, "TCP")},
        )
        ports = {p["port"] for p in rule["ports"]}
        for peer in rule["to"]:
            if block := peer.get("ipBlock"):
                admitted += [(block["cidr"], port) for port in ports]
                continue
            labels = peer["namespaceSelector"]["matchLabels"]
            namespace = {"namespace": labels["kubernetes.io/metadata.name"]}
            expressions = peer.get("podSelector", {}).get("matchExpressions", [])
            pods = [{e["key"]: v} for e in expressions for v in e["values"]] or [{}]
            admitted += [({**namespace, **pod}, port) for pod in pods for port in ports]

    assert (server, port) in admitted, where


def test_route_targets_the_service(overlay: Path, manifests: list[Manifest]) -> None:
    """The overlay sets its host, the answer `route` its kind."""
    [service] = of_kind("Service", manifests)
    name, [port] = service["metadata"]["name"], service["spec"]["ports"]
    host = "zebra-9-ledger-staging" if overlay.name == "staging" else "zebra-9-ledger"
    [route] = [m for m in manifests if m["kind"] in ("HTTPRoute", "Ingress")]

    if route["kind"] == "HTTPRoute":
        assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
        assert route["spec"] == {
            "parentRefs": [{"name": "public", "namespace": "ingress"}],
            "hostnames": [f"{host}.example.com"],
            "rules": [
                {
                    "backendRefs": [{"name": name, "port": port["port"]}],
                    "timeouts": {"request": "0s"},
                }
            ],
        }
    else:
        [rule], [tls] = route["spec"]["rules"], route["spec"]["tls"]
        [path] = rule["http"]["paths"]
        assert rule["host"] == f"{host}.example.com"
        assert tls == {"secretName": f"{name}-tls", "hosts": [rule["host"]]}
        assert path["backend"] == {"service": {"name": name, "port": {"name": port["name"]}}}
        assert "annotations" not in route["metadata"], "those are of one controller"
        assert "ingressClassName" not in route["spec"]


def test_podmonitor_selects_the_metrics_port(
    manifests: list[Manifest], pod: Manifest, container: Manifest
) -> None:
    [monitor] = of_kind("PodMonitor", manifests)

    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["spec"] == {
        "selector": {"matchLabels": pod["metadata"]["labels"]},
        "podMetricsEndpoints": [{"port": "metrics"}],
    }


def test_topology_spread_is_preferred_not_required(pod: Manifest) -> None:
    spread = {rule["topologyKey"]: rule for rule in pod["spec"]["topologySpreadConstraints"]}

    assert spread.keys() == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    for rule in spread.values():
        assert rule["whenUnsatisfiable"] == "ScheduleAnyway"
        assert rule["matchLabelKeys"] == ["pod-template-hash"]


@only_on_kubernetes
@pytest.mark.parametrize("by_manifest", [True, False], ids=["manifest", "without"])
def test_configmap_does_not_override_web_concurrency(
    project: Project, tmp_path: Path, by_manifest: bool
) -> None:
    """uvicorn would start WEB_CONCURRENCY processes without the manifest's `env`."""
    base = yaml.safe_load((project.path / "deploy/kubernetes/base/deployment.yaml").read_text())
    [container] = base["spec"]["template"]["spec"]["containers"]
    variables = {"WEB_CONCURRENCY": "2"}  # as if from the ConfigMap: `env` has precedence
    if by_manifest:
        variables |= {variable["name"]: variable["value"] for variable in container["env"]}
        variables["SECRETS_DIR"] = str(tmp_path)  # instead of the volume

    with serve(project, tmp_path / "log", env=variables) as server:
        process = server.process.pid
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()

    assert len(children) == 0 if by_manifest else len(children) >= 2


@only_on_kubernetes
@pytest.mark.parametrize(
    ("network", "client"), [("127.0.0.0/8", "203.0.113.9"), ("10.0.0.0/8", "127.0.0.1")]
)
def test_forwarded_headers_are_trusted_from_the_ingress_network_only(
    render: Render, project: Project, tmp_path: Path, network: str, client: str
) -> None:
    rendered = render(deployment="kubernetes", proxy_network=network)
    [config] = of_kind(
        "ConfigMap", kustomize(rendered.path / "deploy/kubernetes/overlays/production")
    )

    with serve(project, tmp_path / "log", env=config["data"]) as server:
        server.get("/somewhere", **{"X-Forwarded-For": "203.0.113.9"})

        server.wait_for_log('"event":"request"')
        [line] = server.requests
        assert line["client"] == client
