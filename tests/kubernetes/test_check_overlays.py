"""scripts/checks/overlays.py reports routes that match every host."""

import shutil
import sys
from pathlib import Path

import pytest

from ..conftest import Render
from ..harness.project import Project

CHECK = (sys.executable, "scripts/checks/overlays.py")
OVERLAYS = "deploy/kubernetes/overlays"
SLUG = "zebra-9-ledger"
KINDS = {"httproute": "HTTPRoute", "ingress": "Ingress"}
WHERE = f"{OVERLAYS}/qa/kustomization.yaml"

# A copy of an overlay of release 0.1.0 or 0.2.0.
BEFORE_ROUTES = f"""\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: {SLUG}-qa
resources:
  - ../../base
"""
OWN_ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {name}
spec:
  hostnames: [qa.example.com]
  rules:
    - backendRefs:
        - name: zebra-9-ledger
          port: 80
"""


@pytest.fixture(params=KINDS)
def route(request: pytest.FixtureRequest) -> str:
    """Each choice of `route`."""
    return str(request.param)


@pytest.fixture(params=["base", "component"])
def manifest(request: pytest.FixtureRequest) -> str:
    """The place of the route before and since 0.5.0."""
    return str(request.param)


@pytest.fixture
def bare(route: str, manifest: str) -> str:
    """An overlay with the route and without a hostname."""
    component = f"components:\n  - ../../components/{route}\n" if manifest == "component" else ""
    return BEFORE_ROUTES.replace("resources:", f"{component}resources:")


@pytest.fixture
def project(render: Render, route: str, manifest: str, tmp_path: Path) -> Project:
    """The manifests of a service and the check."""
    rendered = render(deployment="kubernetes", route=route, route_manifest=manifest).path
    for name in ("deploy", "scripts"):
        shutil.copytree(rendered / name, tmp_path / "service" / name)
    return Project(tmp_path / "service")


def add(project: Project, **files: str) -> None:
    """Add an overlay, qa, of these files."""
    directory = project.path / OVERLAYS / "qa"
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)


def check(project: Project) -> tuple[int, str]:
    result = project.run(*CHECK, check=False)
    return result.returncode, result.stdout


def test_rendered_overlays_pass(project: Project) -> None:
    assert check(project) == (0, "")


def test_renamed_overlay_keeps_its_hostname(project: Project) -> None:
    overlays = project.path / OVERLAYS
    (overlays / "staging").rename(overlays / "qa")

    assert check(project) == (0, "")


def test_overlay_without_a_hostname_prints_one_line(
    project: Project, route: str, bare: str
) -> None:
    add(project, kustomization=bare)

    status, output = check(project)

    assert (status, output.count("\n")) == (1, 1)
    assert output.startswith(f"{WHERE}: {KINDS[route]} {SLUG} has no hostname, ")


def test_overlay_without_the_component_has_no_route(project: Project, manifest: str) -> None:
    add(project, kustomization=BEFORE_ROUTES)

    assert check(project)[0] == (1 if manifest == "base" else 0)


def test_nested_overlay_inherits_its_hostname(project: Project) -> None:
    add(project, kustomization=BEFORE_ROUTES.replace("../../base", "../staging"))

    assert check(project) == (0, "")


def test_comment_exempts_an_overlay(project: Project, bare: str) -> None:
    add(project, kustomization=f"# for every hostname\n{bare}")

    assert check(project) == (0, "")


@pytest.mark.parametrize("route", ["httproute"], indirect=True)
@pytest.mark.parametrize(
    ("name", "section", "status"),
    [
        (SLUG, "patches:\n  - path: own.yaml\n", 0),
        ("public", "  - own.yaml\n", 1),  # an own route in addition to the base's
    ],
)
def test_hostname_of_another_route_does_not_count(
    project: Project, bare: str, name: str, section: str, status: int
) -> None:
    add(project, kustomization=bare + section, own=OWN_ROUTE.format(name=name))

    found, output = check(project)

    assert found == status
    assert output.startswith(f"{WHERE}: HTTPRoute {SLUG} has no hostname" if status else "")


@pytest.mark.parametrize("route", ["httproute"], indirect=True)
def test_deleted_route_needs_no_hostname(project: Project, bare: str) -> None:
    patch = f"$patch: delete\napiVersion: x\nkind: HTTPRoute\nmetadata:\n  name: {SLUG}\n"
    add(project, kustomization=bare + "patches:\n  - path: gone.yaml\n", gone=patch)

    assert check(project) == (0, "")


def test_hostname_patch_in_a_separate_file_counts(project: Project, bare: str, route: str) -> None:
    target = f"patches:\n  - target:\n      kind: {KINDS[route]}\n    path: host.yaml\n"
    path = {"httproute": "/spec/hostnames", "ingress": "/spec/rules/0/host"}[route]
    add(
        project,
        kustomization=bare + target,
        host=f"- op: add\n  path: {path}\n  value: qa.example.com\n",
    )

    assert check(project) == (0, "")
