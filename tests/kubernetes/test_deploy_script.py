"""Parts of deploy/kubernetes/deploy that need no cluster."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from ..conftest import Render
from ..harness.project import Project

PRODUCTION = "deploy/kubernetes/overlays/production"
IMAGE = "registry.example.com/team/other@sha256:" + "a" * 64
SIDECAR = """patches:
  - target: {kind: Deployment}
    patch: |-
      apiVersion: apps/v1
      kind: Deployment
      metadata: {name: any}
      spec: {template: {spec: {containers: [{name: proxy, image: "registry.example.com/proxy:2"}]}}}
"""
CRON_JOB = """
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: "0 3 * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: nightly, image: zebra-9-ledger}]
"""


@pytest.mark.parametrize(
    ("pods", "surge", "ready", "batches"),
    [(3, "25%", 5, 3), (10, "25%", 300, 4), (40, "25%", 300, 4), (4, "2", 60, 2)],
)
def test_timeout_of_a_rollout_covers_the_slowest_start_of_each_batch(
    render: Render, pods: int, surge: str, ready: int, batches: int
) -> None:
    script = (render(deployment="kubernetes").path / "deploy/kubernetes/deploy").read_text()
    [function] = re.findall(r"^rollout_timeout\(\) \{\n.*?^\}\n", script, re.MULTILINE | re.DOTALL)

    command = f"{function}rollout_timeout {pods} {surge} {ready}"
    done = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, check=True)

    start = 60  # failureThreshold and periodSeconds of the startup probe
    assert int(done.stdout) >= batches * (start + ready + 5)


@pytest.fixture
def overlay(render: Render, tmp_path: Path) -> Project:
    """A service whose production overlay adds a sidecar, which is first, and a CronJob."""
    rendered = render(deployment="kubernetes")
    project = Project(Path(shutil.copytree(rendered.path, tmp_path / "service")))
    (project.path / PRODUCTION / "nightly.yaml").write_text(CRON_JOB)
    file = project.path / PRODUCTION / "kustomization.yaml"
    text = file.read_text().replace("  - ../../base\n", "  - ../../base\n  - nightly.yaml\n")
    file.write_text(text + SIDECAR)
    return project


def test_every_container_of_the_service_gets_the_image_and_no_other(overlay: Project) -> None:
    printed = overlay.run("deploy/kubernetes/deploy", "--dry-run", "production", IMAGE).stdout

    objects = {each["kind"]: each for each in yaml.safe_load_all(printed)}
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    images = [(container["name"], container["image"]) for container in pod["containers"]]
    assert images == [("proxy", "registry.example.com/proxy:2"), ("app", IMAGE)]
    nightly = objects["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert [container["image"] for container in nightly["containers"]] == [IMAGE]


def test_deployment_without_the_container_app_prints_one_line(overlay: Project) -> None:
    file = overlay.path / "deploy/kubernetes/base/deployment.yaml"
    file.write_text(file.read_text().replace("name: app\n", "name: main\n"))

    command = ("deploy/kubernetes/deploy", "--dry-run", "production", IMAGE)
    result = overlay.run(*command, check=False)

    assert result.returncode == 1
    assert result.stdout == (
        "deploy: the Deployment zebra-9-ledger of overlays/production has no container app\n"
    )
