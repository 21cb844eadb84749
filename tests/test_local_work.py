"""What a team does on its own machine, by the commands that its README names."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest

from .conftest import Render
from .harness.project import UV, Project
from .harness.server import free_port, launch
from .harness.template import commit, git

DIGEST = "registry.example.com/team/ledger@sha256:" + "0123456789abcdef" * 4
PATH = os.pathsep.join([str(Path(UV).parent), os.environ["PATH"]])


def make(project: Project, *arguments: str, check: bool = True) -> str:
    """What `make` prints in a project."""
    return project.run("make", *arguments, env={"PATH": PATH}, check=check).stdout


@pytest.fixture
def own(project: Project, tmp_path: Path) -> Project:
    """A project that a test may change, with its virtual environment."""
    environment = shutil.ignore_patterns(".venv", ".mypy_cache", ".ruff_cache")
    path = Path(shutil.copytree(project.path, tmp_path / "own", ignore=environment))
    own = Project(path)
    commit(path, "copied")
    return own


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_the_readme_names_each_command_and_make_lists_it(project: Project) -> None:
    listed = re.findall(r"^(\w+) +\S", make(project), re.MULTILINE)
    readme = (project.path / "README.md").read_text()

    assert listed[0] == "help"
    assert [name for name in listed[1:] if f"make {name}" not in readme] == []
    assert {"run", "test", "lint", "format", "validate", "image"} <= {*listed}


VALIDATED_BY = ("kubectl", "nginx", "promtool", "systemd-analyze")


def test_lint_and_validate_find_nothing(project: Project) -> None:
    if missing := [tool for tool in VALIDATED_BY if not find(tool)]:
        pytest.skip(f"nothing is validated without {', '.join(missing)}")

    make(project, "lint")
    make(project, "validate")


def find(tool: str) -> str | None:
    return shutil.which(tool, path=f"{PATH}{os.pathsep}/usr/sbin")


ALERTS = "deploy/kubernetes/components/alerts/prometheusrule.yaml"


def test_validate_does_find_something(own: Project, target: str) -> None:
    slug = own.answers["project_slug"]
    mistakes = {
        "kubernetes": [
            ("deploy/kubernetes/base/deployment.yaml", "  strategy:", "  strateggy:", "strateggy"),
            ("deploy/kubernetes/base/kustomization.yaml", "service.yaml", "svc.yaml", "svc.yaml"),
            (ALERTS, "histogram_quantile(", "histogram_quantil(", "histogram_quantil"),
            ("deploy/kubernetes/deploy", '"$directory"', "$directory", "SC2086"),
        ],
        "vm": [
            (f"deploy/vm/systemd/{slug}.service", "User=", "Usr=", "Usr"),
            (f"deploy/vm/systemd/{slug}.service", "CapabilityBoundingSet=\n", "", "exposure"),
            (f"deploy/vm/nginx/{slug}.conf", "proxy_pass ", "proxy_pas ", "proxy_pas"),
            ("deploy/vm/gunicorn.conf.py", "workers = ", "workers = -", "workers"),
            (f"deploy/vm/prometheus/{slug}.rules.yml", "for: 2m", "fro: 2m", "fro"),
            ("deploy/vm/deploy", '"$host"', "$host", "SC2086"),
        ],
    }[target]
    mistakes.append(
        ("Dockerfile", "-slim-trixie\nLABEL", "-slim-trixie\nRUN cd /\nLABEL", "DL3003")
    )
    for name, right, wrong, complaint in mistakes:
        file = own.path / name
        replace(file, right, wrong)
        done = own.run("make", "validate", env={"PATH": PATH}, check=False)
        git(own.path, "checkout", "--", name)
        assert done.returncode != 0, (name, done.stdout)
        assert complaint in done.stdout, name


def test_run_takes_the_settings_in_env(own: Project, tmp_path: Path) -> None:
    port = free_port()
    shutil.copy(own.path / ".env.example", own.path / ".env")
    replace(own.path / ".env", "METRICS_PORT=9090", "METRICS_PORT=0")
    own.uv("sync", "--quiet")
    environment = {"PATH": PATH, "UVICORN_PORT": str(port)}
    running = Project(own.path, own.python, environment)

    with launch(running, ["make", "run"], tmp_path / "log", port) as server:
        server.wait_until_ready()
        url = f"http://127.0.0.1:{port}/health/live"
        assert httpx2.get(url, trust_env=False).json() == {"status": "live"}

    assert "--env-file .env " in make(own, "--dry-run", "run")
    (own.path / ".env").unlink()
    assert "--env-file" not in make(own, "--dry-run", "run")


def test_a_setting_that_env_example_does_not_have_is_red(own: Project) -> None:
    settings = own.path / f"src/{own.package}/settings.py"
    settings.write_text(settings.read_text() + '\n    greeting: str = "hello"\n')
    test = ("run", "--quiet", "pytest", "tests/test_env_example.py")

    assert "GREETING" in own.uv(*test, check=False).stdout

    with (own.path / ".env.example").open("a") as example:
        example.write("GREETING=hullo\n")
    assert own.uv(*test, check=False).returncode == 1, "another default"
    replace(own.path / ".env.example", "hullo", "hello")
    own.uv(*test)


def test_an_ignored_vulnerability_without_a_day_is_red(own: Project) -> None:
    ignored = own.path / ".trivyignore.yaml"
    entry = "vulnerabilities:\n  - id: CVE-2026-0001\n    statement: not reachable\n"
    test = ("run", "--quiet", "pytest", "tests/test_trivyignore.py")

    replace(ignored, "vulnerabilities: []\n", entry)
    assert own.uv(*test, check=False).returncode == 1

    ignored.write_text(ignored.read_text() + "    expired_at: 2027-01-31\n")
    own.uv(*test)


def test_the_hooks_find_nothing_and_do_find_something(own: Project) -> None:
    hooks = (f"{UV}x", "prek", "run", "--all-files", "--show-diff-on-failure")

    assert "Failed" not in own.run(*hooks, env={"PATH": PATH}).stdout

    settings = own.path / f"src/{own.package}/settings.py"
    settings.write_text(settings.read_text() + "\n    greeting: strr\n")
    (own.path / "scripts/validate").write_text("#!/bin/bash\necho $1\n")
    done = own.run(*hooks, env={"PATH": PATH}, check=False)
    failed = re.findall(r"^(\S.*?)\.+Failed$", done.stdout, re.MULTILINE)
    assert {"ruff check", "mypy", "shellcheck"} <= {*failed}


# ── deploy/kubernetes/deploy ──────────────────────────────────────────────────────────────


@pytest.fixture
def deploy(render: Render, tmp_path: Path) -> Project:
    """A project for Kubernetes to deploy from, and a `kubectl` that has no cluster to speak to."""
    if shutil.which("kubectl") is None:
        pytest.skip("no manifests without kubectl")
    path = Path(shutil.copytree(render(deployment="kubernetes").path, tmp_path / "own"))
    programs = tmp_path / "bin"
    programs.mkdir()
    kubectl = programs / "kubectl"
    kubectl.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        f'[ "$1" != "$STOPS_AT" ] || exit 1\n'
        f'[ "$1" != apply ] || {shutil.which("kubectl")} kustomize "$3" > /dev/null\n'
    )
    kubectl.chmod(0o755)
    return Project(path, environment={"STOPS_AT": "", "PATH": f"{programs}:{PATH}"})


SCRIPT = "deploy/kubernetes/deploy"


def test_the_image_is_deployed_by_its_digest_and_waited_for(deploy: Project) -> None:
    deploy.run(SCRIPT, "staging", DIGEST)

    applied, waited = (deploy.path.parent / "calls").read_text().splitlines()
    assert applied.startswith("apply --kustomize ./release.")
    slug = deploy.answers["project_slug"]
    assert waited.startswith(f"--namespace {slug}-staging rollout status")
    assert waited.endswith(f"deployment/{slug}")
    assert list(deploy.path.glob("deploy/kubernetes/release.*")) == []


def test_the_rest_is_what_the_overlay_says(render: Render) -> None:
    project = render(deployment="kubernetes")
    kustomize = ("kubectl", "kustomize", "deploy/kubernetes/overlays/production")

    deployed = project.run(SCRIPT, "--dry-run", "production", DIGEST).stdout
    overlay = project.run(*kustomize).stdout

    assert deployed.count(f"image: {DIGEST}\n") == 1
    image = r"image: \S+"
    assert re.sub(image, "", deployed) == re.sub(image, "", overlay)


def test_a_refused_deploy_is_red(deploy: Project) -> None:
    done = deploy.run(SCRIPT, "staging", DIGEST, env={"STOPS_AT": "apply"}, check=False)
    assert done.returncode != 0
    done = deploy.run(SCRIPT, "staging", DIGEST, env={"STOPS_AT": "--namespace"}, check=False)
    assert done.returncode != 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "deploy: it takes an environment and an image: staging NAME@sha256:…"),
        (["nowhere", DIGEST], "deploy: there is no environment nowhere"),
        (["staging", "ledger:latest"], "deploy: ledger:latest names no digest: NAME@sha256:…"),
        (["staging", f"a\nb@{DIGEST}"], "deploy: a"),
    ],
)
def test_what_it_does_not_take_is_a_line(deploy: Project, arguments: list[str], line: str) -> None:
    done = deploy.run(SCRIPT, *arguments, check=False)

    assert done.returncode == 1
    assert done.stdout.startswith(line)
    assert not (deploy.path.parent / "calls").exists()


def test_the_hooks_and_ci_run_what_make_runs(render: Render, target: str) -> None:
    """One place says how it is linted and tested."""
    project = render(deployment=target)
    ci = (project.path / ".github/workflows/ci.yml").read_text()
    pipeline = (render(deployment=target, ci="gitlab").path / ".gitlab-ci.yml").read_text()

    for command in ("make lint", "make test", "make validate"):
        assert f"run: {command}\n" in ci
        assert f"- {command}\n" in pipeline


def test_the_image_is_built_by_the_same_command(render: Render, target: str) -> None:
    project = render(deployment=target)
    command = ["make", "--no-print-directory", "--dry-run", "image"]

    said = subprocess.run(command, cwd=project.path, check=True, capture_output=True, text=True)

    assert (
        f"run: {said.stdout.strip()}\n" in (project.path / ".github/workflows/ci.yml").read_text()
    )
