"""The reference service on a real cluster: requests during events of its nodes, and faults."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ..harness.kubernetes import Service
from ..harness.load import Load, Tally
from .under_load import RATE, SHORT, assert_nothing_lost, under_load


def drain_node(service: Service) -> None:
    kubectl = service.cluster.kubectl
    try:
        kubectl("drain", "node2", "--delete-emptydir-data", "--timeout=600s", "--ignore-daemonsets")
        service.wait_for_rollout()
        assert {pod["spec"]["nodeName"] for pod in service.pods()} == {"node1"}
    finally:
        kubectl("uncordon", "node2")


def scale_up_and_down(service: Service) -> None:
    """Let the autoscaler double the pods because of their CPU, and halve them again.

    The load is above the first target and below the second.
    """
    original = service.get("hpa", service.name)["spec"]
    least = original["minReplicas"]
    at_once = [{"type": "Percent", "value": 100, "periodSeconds": 15}]
    with service.cluster.metrics():
        for percent, number in ((1, 2 * least), (1000, least)):
            [metric] = original["metrics"]
            metric["resource"]["target"]["averageUtilization"] = percent
            changed = {
                "maxReplicas": 2 * least,
                "metrics": [metric],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0, "policies": at_once}},
            }
            patch = json.dumps({"spec": changed})
            service.kubectl("patch", "hpa", service.name, f"--patch={patch}")
            service.cluster.wait_until(partial(service.has_ready, number), f"{number} pods")
    service.apply()
    service.wait_for_rollout()


def restart_kubelets(service: Service) -> None:
    """Restart the kubelet of one node after the other."""
    cluster, before = service.cluster, service.names()
    kubelets = partial(cluster.processes, "kubelet")

    def renewed() -> dict[str, str]:
        leases = cluster.get("leases", "--namespace=kube-node-lease")["items"]
        return {each["metadata"]["name"]: each["spec"]["renewTime"] for each in leases}

    def restarted(pid: int) -> bool:
        now = kubelets()
        return pid not in now and len(now) == 2

    def all_renewed_since(times: dict[str, str]) -> bool:
        now = renewed()
        return all(now[node] > time for node, time in times.items())

    for pid in kubelets():
        os.kill(pid, signal.SIGTERM)
        cluster.wait_until(partial(restarted, pid), "restarted")
        cluster.wait_until(partial(all_renewed_since, renewed()), "renewed")
        ready = ("wait", "--for=condition=Ready", "--timeout=600s", "node/node1", "node/node2")
        cluster.kubectl(*ready)
    assert service.names() == before


def stop_api_server(service: Service) -> None:
    """Stop the API server for a minute."""
    before = service.names()
    [pid] = service.cluster.processes("kube-apiserver")
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(60)  # the length of the outage
    finally:
        os.kill(pid, signal.SIGCONT)
    service.restart()
    assert not before & service.names()


EVENTS: dict[str, Callable[[Service], None]] = {
    "drained node": drain_node,
    "autoscaling up and down": scale_up_and_down,
    "restarted kubelets": restart_kubelets,
    "API server away for a minute": stop_api_server,
}


@pytest.mark.parametrize("event", EVENTS)
def test_planned_event_loses_no_request(service: Service, client: Path, event: str) -> None:
    outcome = under_load(service, client, lambda: EVENTS[event](service))

    assert_nothing_lost(outcome)


def kill(service: Service, pod: dict[str, Any], client: Path) -> str:
    for pid in service.cluster.processes_of(pod):
        os.kill(pid, signal.SIGKILL)
    return "Error"


def exhaust_memory(service: Service, pod: dict[str, Any], client: Path) -> str:
    """Make the process exceed its memory limit."""
    url = f"http://{pod['status']['podIP']}:8000/allocate?mebibytes=400"
    subprocess.run(["nsenter", f"--net={client}", "curl", "--silent", url], check=False)
    return "OOMKilled"


@pytest.mark.parametrize("fault", [kill, exhaust_memory])
def test_killed_process_loses_only_the_requests_of_its_pod(
    service: Service, client: Path, fault: Callable[..., str]
) -> None:
    broken, other, *_ = service.pods()
    name = broken["metadata"]["name"]
    [before] = broken["status"]["containerStatuses"]

    def status() -> dict[str, Any]:
        [status] = service.get("pod", name)["status"]["containerStatuses"]
        return dict(status)

    def restarted() -> bool:
        now = status()
        return bool(now["ready"] and now["restartCount"] > before["restartCount"])

    async def run() -> tuple[Tally, Tally, str]:
        through_service = Load(80, SHORT, rate=RATE, namespace=client, host=service.address)
        to_other = Load(8000, SHORT, rate=100, namespace=client, host=other["status"]["podIP"])
        await through_service.answered(1_000)
        reason = await asyncio.to_thread(fault, service, broken, client)
        await asyncio.to_thread(service.cluster.wait_until, restarted, "restarted")
        await through_service.answered(through_service.tally.answered + 1_000)
        return await through_service.stop(), await to_other.stop(), reason

    through_service, to_other, reason = asyncio.run(run())
    after = under_load(service, client, lambda: None, requests=2_000)

    assert status()["lastState"]["terminated"]["reason"] == reason
    assert to_other == Tally(answered=to_other.answered)
    assert through_service.failed == 0
    assert through_service.lost <= 16, "at most the request in flight on each connection"
    assert_nothing_lost(after, 2_000)
