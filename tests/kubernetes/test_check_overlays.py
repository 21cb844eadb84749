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

# As a team has them that copied an overlay of release 0.1.0 or 0.2.0.
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
    """Each answer."""
    return str(request.param)


@pytest.fixture(params=["base", "component"])
def manifest(request: pytest.FixtureRequest) -> str:
    """Where the route is, before 0.5.0 and since."""
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
    done = project.run(*CHECK, check=False)
    return done.returncode, done.stdout


def test_the_overlays_of_a_copy_pass(project: Project) -> None:
    assert check(project) == (0, "")


def test_a_renamed_overlay_of_now_keeps_its_hostname(project: Project) -> None:
    overlays = project.path / OVERLAYS
    (overlays / "staging").rename(overlays / "qa")

    assert check(project) == (0, "")


def test_an_overlay_without_a_hostname_is_one_line(project: Project, route: str, bare: str) -> None:
    add(project, kustomization=bare)

    status, said = check(project)

    assert (status, said.count("\n")) == (1, 1)
    assert said.startswith(f"{WHERE}: {KINDS[route]} {SLUG} has no hostname, ")


def test_an_overlay_without_the_component_has_no_route(project: Project, manifest: str) -> None:
    add(project, kustomization=BEFORE_ROUTES)

    assert check(project)[0] == (1 if manifest == "base" else 0)


def test_an_overlay_of_an_overlay_has_its_hostname(project: Project) -> None:
    add(project, kustomization=BEFORE_ROUTES.replace("../../base", "../staging"))

    assert check(project) == (0, "")


def test_a_comment_exempts_an_overlay(project: Project, bare: str) -> None:
    add(project, kustomization=f"# for every hostname\n{bare}")

    assert check(project) == (0, "")


@pytest.mark.parametrize("route", ["httproute"], indirect=True)
@pytest.mark.parametrize(
    ("name", "section", "status"),
    [
        (SLUG, "patches:\n  - path: own.yaml\n", 0),
        ("public", "  - own.yaml\n", 1),  # a route of their own beside the base's
    ],
)
def test_a_hostname_counts_for_its_own_route(
    project: Project, bare: str, name: str, section: str, status: int
) -> None:
    add(project, kustomization=bare + section, own=OWN_ROUTE.format(name=name))

    found, said = check(project)

    assert found == status
    assert said.startswith(f"{WHERE}: HTTPRoute {SLUG} has no hostname" if status else "")


@pytest.mark.parametrize("route", ["httproute"], indirect=True)
def test_a_route_that_an_overlay_deletes_needs_none(project: Project, bare: str) -> None:
    patch = f"$patch: delete\napiVersion: x\nkind: HTTPRoute\nmetadata:\n  name: {SLUG}\n"
    add(project, kustomization=bare + "patches:\n  - path: gone.yaml\n", gone=patch)

    assert check(project) == (0, "")


def test_a_patch_in_a_file_of_its_own_counts(project: Project, bare: str, route: str) -> None:
    target = f"patches:\n  - target:\n      kind: {KINDS[route]}\n    path: host.yaml\n"
    path = {"httproute": "/spec/hostnames", "ingress": "/spec/rules/0/host"}[route]
    add(
        project,
        kustomization=bare + target,
        host=f"- op: add\n  path: {path}\n  value: qa.example.com\n",
    )

    assert check(project) == (0, "")
