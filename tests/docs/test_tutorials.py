"""The tutorials and two how-to pages: every command is run, on a real host."""

from pathlib import Path

import pytest

from ..harness import machine
from ..harness.machine import ENVIRONMENT, Machine
from ..harness.pages import follow, reader
from ..harness.project import Project, find_python
from ..harness.template import ROOT, commit, git, render
from ..harness.update import tree

DOCS = ROOT / "docs"
SHORTER = {"PYTEST_ADDOPTS": "--ignore=tests/serving/test_server.py"}
"""Without server tests, which take ten seconds each: rendering/test_projects.py runs them."""

# Replaces ssh over the network between laptop and host.
SSH = """\
#!/bin/sh
[ "$1" = "{host}" ] || exit 255
shift
case $* in # a line may be on its way to the journal
    journalctl*) nsenter --target={leader} --all journalctl --sync </dev/null ;;
esac
exec env --ignore-environment {environment} nsenter --target={leader} --all sh -c "$*"
"""
HOST = "root@orders.example.com"


def newcomer(directory: Path, template: Path, **environment: str) -> Project:
    """Return a user's empty directory."""
    return Project(
        directory, environment=reader(directory / "home", template) | SHORTER | environment
    )


def wire(project: Project, host: Machine) -> None:
    """Make the reader's ssh connect to a machine."""
    environment = " ".join(f"{name}={value}" for name, value in ENVIRONMENT.items())
    ssh = project.path / "home/bin/ssh"
    ssh.write_text(SSH.format(host=HOST, environment=environment, leader=host.leader))
    ssh.chmod(0o755)


def test_on_a_vm(template: Path, tmp_path: Path) -> None:
    if missing := machine.missing_tools():
        pytest.skip(f"no machine without {', '.join(missing)}")
    python = find_python(machine.DEBIAN_13.python)
    assert python, "uv's cache is to hold what that Debian's Python takes"
    project = newcomer(tmp_path, template, HOST=HOST, UV_PYTHON=python)

    with machine.boot() as host:
        wire(project, host)
        follow((DOCS / "tutorials/on-a-vm.md").read_text(), project)

        serving = host.show("orders-api.service", "ActiveState")

    assert serving == "active"
    assert git(tmp_path / "orders-api", "status", "--porcelain") == ""


def test_on_kubernetes(template: Path, tmp_path: Path) -> None:
    follow((DOCS / "tutorials/on-kubernetes.md").read_text(), newcomer(tmp_path, template))

    assert git(tmp_path / "orders-api", "status", "--porcelain") == ""


@pytest.fixture
def service(template: Path, tmp_path: Path) -> Project:
    """The service of the how-to pages."""
    home = newcomer(tmp_path, template)
    project = Project(tmp_path / "orders-api", environment=home.environment)
    render(template, project.path, {"project_name": "Orders API", "deployment": "kubernetes"})
    git(project.path, "init", "--quiet", "--initial-branch", "main")
    project.uv("sync", "--quiet")
    commit(project.path, "copied")
    return project


def test_customise(service: Project) -> None:
    follow((DOCS / "how-to/customise.md").read_text(), service)

    assert "readiness.add(" in tree(service)["src/orders_api/app.py"]


def test_opt_out(service: Project) -> None:
    follow((DOCS / "how-to/opt-out.md").read_text(), service)

    assert git(service.path, "status", "--porcelain") == ""
    left = tree(service)
    assert not [file for file in left if file.startswith((".github", "renovate", ".copier"))]
    assert "podmonitor" not in left["deploy/kubernetes/overlays/production/kustomization.yaml"]
    assert "large_response" not in left["src/orders_api/app.py"]
