"""The Kubernetes manifests, as each overlay gives them to the cluster."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate.utils import validate

from .conftest import Render
from .harness.project import Project

KUBERNETES = ("1.30", "1.37")
"""The oldest and the newest minor version that is supported: 1.30 has preStop.sleep by default."""

PORT = 8000

Manifest = dict[str, Any]


def kustomize(directory: Path) -> list[Manifest]:
    """What `kubectl apply -k` would send."""
    if shutil.which("kubectl") is None:
        pytest.skip("no manifests without kubectl")
    done = subprocess.run(["kubectl", "kustomize", directory], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(kind: str, manifests: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def nodes(tree: object, key: str) -> Iterator[Any]:
    """Every value that stands under a key, at any depth."""
    if isinstance(tree, dict):
        if key in tree:
            yield tree[key]
        tree = list(tree.values())
    if isinstance(tree, list):
        for branch in tree:
            yield from nodes(branch, key)


@pytest.fixture(scope="module")
def kubernetes(render: Render) -> Project:
    """The project for Kubernetes."""
    return render(deployment="kubernetes")


@pytest.fixture(scope="module", params=["staging", "production"])
def overlay(kubernetes: Project, request: pytest.FixtureRequest) -> Path:
    """Each overlay."""
    return kubernetes.path / "deploy/kubernetes/overlays" / str(request.param)


@pytest.fixture(scope="module")
def manifests(overlay: Path) -> list[Manifest]:
    """Its manifests."""
    return kustomize(overlay)


@pytest.fixture(scope="module")
def pod(manifests: list[Manifest]) -> Manifest:
    """The template of its pods."""
    [deployment] = of_kind("Deployment", manifests)
    template: Manifest = deployment["spec"]["template"]
    return template


@pytest.fixture(scope="module")
def container(pod: Manifest) -> Manifest:
    """The one container of its pods."""
    [container] = pod["spec"]["containers"]
    return dict(container)


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_knows_every_field(manifests: list[Manifest], version: str) -> None:
    for manifest in manifests:
        assert validate(manifest, version, strict=True) == version


def test_the_oldest_kubernetes_is_named_to_whoever_deploys(kubernetes: Project) -> None:
    readme = (kubernetes.path / "deploy/README.md").read_text()

    assert f"Kubernetes {KUBERNETES[0]} or later" in readme


def test_a_selector_finds_the_pods_of_every_version(
    manifests: list[Manifest], pod: Manifest
) -> None:
    """A selector of a Deployment can't be changed: a version in it would end the updates."""
    labels = pod["metadata"]["labels"]
    selectors = [
        selector.get("matchLabels", selector)
        for key in ("selector", "labelSelector", "podSelector")
        for selector in nodes(manifests, key)
    ]

    assert len(selectors) >= 2
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not any("version" in label for label in selector)


def test_three_probes_ask_the_port_of_the_server(container: Manifest, kubernetes: Project) -> None:
    asked = {
        probe: container[f"{probe}Probe"]["httpGet"]
        for probe in ("startup", "readiness", "liveness")
    }

    assert asked == {
        "startup": {"path": "/health/live", "port": "http"},
        "readiness": {"path": "/health/ready", "port": "http"},
        "liveness": {"path": "/health/live", "port": "http"},
    }
    assert {"name": "http", "containerPort": PORT} in container["ports"]
    assert f'"--port", "{PORT}"' in (kubernetes.path / "Dockerfile").read_text()


def test_the_pod_is_restricted(pod: Manifest, container: Manifest) -> None:
    """The `restricted` pod security standard, and a root that can't be written."""
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
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert {*pod["spec"]} & {"hostNetwork", "hostPID", "hostIPC", "initContainers"} == set()
    for volume in pod["spec"]["volumes"]:
        assert volume.keys() - {"name"} <= {"emptyDir", "configMap", "secret", "projected"}


def test_its_memory_is_limited_and_its_cpu_is_not(container: Manifest) -> None:
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert container["resources"]["limits"].keys() == {"memory"}


def test_a_service_leads_to_the_service_alone(manifests: list[Manifest]) -> None:
    """Metrics have a port of their own, which nothing public reaches."""
    services = of_kind("Service", manifests)

    assert services
    assert {port["targetPort"] for port in nodes(services, "ports") for port in port} == {"http"}


def test_an_overlay_says_in_which_environment_it_runs(
    overlay: Path, manifests: list[Manifest], container: Manifest
) -> None:
    [config] = of_kind("ConfigMap", manifests)

    assert config["data"]["ENVIRONMENT"] == overlay.name
    assert container["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
    for manifest in manifests:
        assert manifest["metadata"]["namespace"].endswith(f"-{overlay.name}")


def test_an_overlay_names_its_image_once(overlay: Path, manifests: list[Manifest]) -> None:
    [image] = yaml.safe_load((overlay / "kustomization.yaml").read_text())["images"]

    assert list(nodes(manifests, "image")) == [f"{image['newName']}:{image['newTag']}"]
