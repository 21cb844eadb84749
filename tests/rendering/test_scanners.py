"""Scanners of images and manifests find nothing in the rendered ones."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from ..conftest import Render
from ..harness import golang
from ..harness.project import UV
from ..harness.template import ROOT
from ..kubernetes.test_manifests import kustomize, of_kind

CHECKOV = ("run", "--quiet", "--locked", "--isolated", "--only-group", "checkov", "checkov")
"""Offline, if uv's cache has it."""

WORSE = {
    "deployment": ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "CKV_K8S_22"),
    "Dockerfile": ("USER 10001:10001", "USER root", "CKV_DOCKER_8"),
}


@dataclass
class Findings:
    """The results of checkov for one file: failed checks, and skipped ones with their reasons."""

    passed: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)


def checkov(directory: Path) -> dict[str, Findings]:
    """Scan a directory; return the findings by relative path."""
    options = ("--framework", "kubernetes", "dockerfile", "--skip-download", "--output", "json")
    command = [UV, CHECKOV[0], f"--python={sys.executable}", *CHECKOV[1:], *options]
    result = subprocess.run(
        [*command, "--directory", str(directory)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.stdout.startswith(("[", "{")), result.stderr
    found: dict[str, Findings] = {}
    for report in json.loads(result.stdout):
        for check in (check for checks in report["results"].values() for check in checks):
            findings = found.setdefault(check["file_path"].removeprefix("/"), Findings())
            match check["check_result"]["result"]:
                case "PASSED":
                    findings.passed.add(check["check_id"])
                case "SKIPPED":
                    reason = check["check_result"]["suppress_comment"]
                    findings.skipped[check["check_id"]] = reason
                case _:
                    findings.failed.add(check["check_id"])
    return found


@pytest.fixture(scope="module")
def found(render: Render, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Findings]:
    """The results of checkov for all Kubernetes files, and for copies with faults, in one scan."""
    if shutil.which("kubectl") is None:
        pytest.skip("no manifests without kubectl")
    directory = tmp_path_factory.mktemp("scan")
    for route in ("httproute", "ingress"):
        project = render(deployment="kubernetes", route=route)
        for overlay in ("staging", "production"):
            rendered = subprocess.run(
                ["kubectl", "kustomize", project.path / "deploy/kubernetes/overlays" / overlay],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            write(directory / f"{route}-{overlay}.yaml", rendered, WORSE["deployment"])
    write(directory / "Dockerfile", (project.path / "Dockerfile").read_text(), WORSE["Dockerfile"])
    return checkov(directory)


def write(file: Path, text: str, worse: tuple[str, str, str]) -> None:
    """Write a file, and next to it a copy with a fault."""
    right, wrong, _ = worse
    assert right in text
    file.write_text(text)
    (file.parent / "worse").mkdir(exist_ok=True)
    (file.parent / "worse" / file.name).write_text(text.replace(right, wrong))


def test_checkov_finds_nothing(found: dict[str, Findings]) -> None:
    ours = {name: findings for name, findings in found.items() if "/" not in name}

    assert len(ours) == 5
    for name, findings in ours.items():
        assert findings.failed == set(), name
        assert len(findings.passed) > 20
        assert all(findings.skipped.values()), "each with its reason"
    assert ours["Dockerfile"].skipped.keys() == {"CKV_DOCKER_2"}
    assert ours["httproute-production.yaml"].skipped.keys() == {
        "CKV_K8S_11",
        "CKV_K8S_15",
        "CKV_K8S_43",
    }


def test_checkov_reports_worse_files(found: dict[str, Findings]) -> None:
    worse = {name: findings for name, findings in found.items() if name.startswith("worse/")}

    assert len(worse) == 5
    for name, findings in worse.items():
        _, _, check = WORSE["Dockerfile" if name.endswith("Dockerfile") else "deployment"]
        assert check in findings.failed


EXPLAINED = {
    "container-resources": "no CPU limit: it throttles while the node is idle",
    "container-image-pull-policy": "a tag never moves, and no start waits for the registry",
    "deployment-has-host-podantiaffinity": "topologySpreadConstraints spread the pods over nodes",
}
"""Accepted findings of kube-score, with the reason."""


def kube_score(manifests: str) -> set[str]:
    """Return the checks that fail."""
    options = ("--output-format=json", "--kubernetes-version=v1.37", "-")
    result = golang.go("kube-score", "tool", "kube-score", "score", *options, stdin=manifests)
    assert result.stdout.startswith("["), result.stderr
    checks = [check for found in json.loads(result.stdout) for check in found["checks"]]
    assert len(checks) > 20
    return {each["check"]["id"] for each in checks if each["grade"] < 10 and not each["skipped"]}


@pytest.mark.parametrize(("route", "database"), [("httproute", "none"), ("ingress", "postgresql")])
def test_kube_score_finds_only_explained_findings(
    render: Render, route: str, database: str
) -> None:
    project = render(deployment="kubernetes", route=route, database=database)
    path = project.path / "deploy/kubernetes"
    found = kustomize(path / "overlays/production")
    if database == "postgresql":
        image = f"registry.example.com/ledger@sha256:{'0' * 64}"
        command = [str(path / "migrate"), "--dry-run", "production", image]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        found += of_kind("Job", list(yaml.safe_load_all(result.stdout)))
    manifests = yaml.safe_dump_all(found)

    assert kube_score(manifests) == EXPLAINED.keys()
    worse = manifests.replace("ephemeral-storage: 1Gi", "").replace("runAsUser: 10001", "")
    assert kube_score(worse) - EXPLAINED.keys() == {
        "container-ephemeral-storage-request-and-limit",
        "container-security-context-user-group-id",
    }


def hadolint(text: str) -> str:
    program = str(Path(sys.executable).with_name("hadolint"))
    command = [program, "--no-color", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True).stdout


def test_hadolint_finds_nothing(render: Render, target: str) -> None:
    assert hadolint((render(deployment=target).path / "Dockerfile").read_text()) == ""


def test_hadolint_reports_a_worse_dockerfile(render: Render, target: str) -> None:
    dockerfile = (render(deployment=target).path / "Dockerfile").read_text()

    assert "DL3006" in hadolint(dockerfile.replace("-slim-trixie\n", "\n").replace(":3.14", ""))
    assert "DL3025" in hadolint(f"{dockerfile}\nCMD uvicorn\n")


def shellcheck(text: str) -> str:
    program = str(Path(sys.executable).with_name("shellcheck"))
    command = [program, "--color=never", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True).stdout


def test_shellcheck_finds_nothing(render: Render) -> None:
    assert shellcheck((render(deployment="vm").path / "deploy/vm/deploy").read_text()) == ""


def test_shellcheck_reports_a_worse_script(render: Render) -> None:
    script = (render(deployment="vm").path / "deploy/vm/deploy").read_text()

    assert "SC2086" in shellcheck(script.replace('"$host"', "$host"))
