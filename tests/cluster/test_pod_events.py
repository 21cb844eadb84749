"""The reference service on a real cluster: requests while its pods are replaced."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ..harness.images import CommandFailed
from ..harness.kubernetes import Service
from .under_load import WEBSOCKETS, assert_nothing_lost, under_load

TOKEN = "a-secret-of-this-test"


def undo(service: Service) -> None:
    service.kubectl("rollout", "undo", f"deployment/{service.name}")
    service.wait_for_rollout()


def evict_each_pod(service: Service) -> None:
    """Evict all pods like `kubectl drain`: the disruption budget delays all but the first."""
    before = service.names()
    for name in before:
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": service.namespace},
        }
        url = f"/api/v1/namespaces/{service.namespace}/pods/{name}/eviction"

        def evicted(url: str = url, body: str = json.dumps(eviction)) -> bool:
            try:
                service.kubectl("create", "--raw", url, "--filename=-", stdin=body)
            except CommandFailed as refused:
                if "disruption budget" not in refused.stderr:
                    raise
                return False
            return True

        service.cluster.wait_until(evicted, "evicted")
    service.cluster.wait_until(lambda: not before & service.names(), "without the evicted pods")
    service.wait_for_rollout()


def change_setting(service: Service) -> None:
    """Apply the overlay with another setting."""
    path = service.deployment.project.path / "deploy/kubernetes"
    changed = path.with_name("changed")
    shutil.copytree(path, changed)
    overlay = changed / "overlays/production/kustomization.yaml"
    text = overlay.read_text()
    overlay.write_text(
        text.replace("- ENVIRONMENT=production", "- ENVIRONMENT=production\n      - THREADS=7")
    )
    service.apply(changed)
    shutil.rmtree(changed)
    service.wait_for_rollout()
    for name in service.names():
        assert service.kubectl("exec", name, "--", "printenv", "THREADS") == "7\n"


def change_secret(service: Service) -> None:
    """Change a key of the Secret and restart, as docs/reference/kubernetes.md says."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": service.name},
        "stringData": {"API_TOKEN": TOKEN},
    }
    service.kubectl("apply", "--filename=-", stdin=json.dumps(secret))
    service.restart()
    for name in service.names():
        read = ("cat", "/run/secrets/settings/API_TOKEN")
        assert service.kubectl("exec", name, "--", *read) == TOKEN


def fail_release(service: Service, change: tuple[str, ...], reason: str) -> None:
    """Change the Deployment so that its new pod never becomes ready, and undo it."""
    before = service.names()

    def waiting() -> list[str]:
        return [
            status.get("state", {}).get("waiting", {}).get("reason", "")
            for pod in service.pods()
            for status in pod["status"].get("containerStatuses", [])
        ]

    command, *arguments = change
    service.kubectl(*command.split(), f"deployment/{service.name}", *arguments)
    service.cluster.wait_until(lambda: any(reason in each for each in waiting()), reason)
    undo(service)
    assert service.names() == before


FAILING_START = json.dumps(
    [
        {
            "op": "replace",
            "path": "/spec/template/spec/containers/0/command",
            "value": ["python", "-c", "raise SystemExit('no database')"],
        }
    ]
)

FAILED_RELEASES = {
    ("set image", "app=registry.example.com/nothing:1"): "ImagePull",
    ("set env", "ENVIRONMENT=prod"): "CrashLoopBackOff",
    ("patch", "--type=json", f"--patch={FAILING_START}"): "CrashLoopBackOff",
}


def fail_releases(service: Service) -> None:
    for change, reason in FAILED_RELEASES.items():
        fail_release(service, change, reason)


EVENTS: dict[str, Callable[[Service], None]] = {
    "rolling update": Service.restart,
    "rollback": undo,
    "changed setting": change_setting,
    "changed secret": change_secret,
    "eviction of each pod": evict_each_pod,
    "failed releases": fail_releases,
}


@pytest.mark.parametrize("event", EVENTS)
def test_planned_event_loses_no_request(service: Service, client: Path, event: str) -> None:
    outcome = under_load(service, client, lambda: EVENTS[event](service))

    assert_nothing_lost(outcome)
    if event != "failed releases":
        assert len(outcome.close_codes) >= WEBSOCKETS


def test_rolling_update_without_pre_stop_and_drain_loses_requests(
    service: Service, client: Path
) -> None:
    """Checks that the load detects lost requests."""
    all_at_once = json.dumps({"spec": {"strategy": {"rollingUpdate": {"maxSurge": "100%"}}}})
    for patch in (all_at_once, service.without_shutdown()):
        service.kubectl("patch", "deployment", service.name, f"--patch={patch}")
    service.wait_for_rollout()

    outcome = under_load(service, client, service.restart, requests=2_000)
    service.apply()
    service.wait_for_rollout()

    assert sum(tally.lost + tally.refused for tally in outcome.requests.values()) > 0
