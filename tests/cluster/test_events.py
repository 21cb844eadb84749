"""The reference service on a real cluster: requests during planned events and faults."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from ..harness import network
from ..harness.images import CommandFailed
from ..harness.kubernetes import Kubernetes, Service
from ..harness.load import Load, Tally
from ..harness.pods import Deployment

REQUESTS = int(os.environ.get("CLUSTER_REQUESTS", 20_000))
RATE = 400
SECONDS = 1800
SHORT = [*["/health/live", "POST /echo"] * 4, "/large-response?size_kb=64"]
LONG_SECONDS = 4
"""Seconds of a long request; the budget is 5."""
UPLOAD_SECONDS = 3
"""Seconds of an upload; shorter, because a client that waits for the CPU sends its parts late."""
WEBSOCKETS = 4
TOKEN = "a-secret-of-this-test"


@pytest.fixture(scope="module")
def service(cluster: Kubernetes, production: Deployment) -> Service:
    """The reference service in production."""
    service = Service(cluster, production)
    service.install()
    return service


@pytest.fixture(scope="module")
def client(service: Service) -> Path:
    """The network namespace of a pod in the namespace of the ingress controller."""
    client = service.cluster.client("ingress")
    for address in addresses(service):
        wait_for_policy(service, client, address, 8000)
    return client


def addresses(service: Service) -> list[str]:
    """Return the IPv4 addresses of its pods; the cluster has no policies for IPv6."""
    return [pod["status"]["podIP"] for pod in service.pods()]


def wait_for_policy(service: Service, client: Path, address: str, port: int) -> None:
    """Return once the client reaches the port: policies apply to a new pod with a delay."""
    service.cluster.wait_until(partial(network.accepts, port, client, address), "reached")


@dataclass
class Outcome:
    """Outcomes of the requests and WebSockets during an event."""

    requests: dict[str, Tally]
    """Outcomes by kind of request."""
    close_codes: list[int] = field(default_factory=list)
    """Close codes of the WebSockets that the service closed."""
    failed_connects: list[str] = field(default_factory=list)
    """Why a WebSocket could not be opened, once per attempt."""


def under_load(
    service: Service, client: Path, event: Callable[[], object], requests: int = REQUESTS
) -> Outcome:
    """Call a function during short and long requests, streams, uploads and open WebSockets.

    It returns after at least `requests` short requests, some of them before and after the event.
    """
    outcome, host = Outcome({}), service.address

    def load(*paths: str, **options: Any) -> Load:
        return Load(80, list(paths), namespace=client, host=host, **options)

    async def open_websocket() -> None:
        while True:
            try:
                sock = await asyncio.to_thread(network.connect, 80, client, host=host)
                async with connect(f"ws://{host}/echo", sock=sock) as websocket:
                    await websocket.recv()
            except ConnectionClosed as end:
                outcome.close_codes.append(end.rcvd.code if end.rcvd else 1006)
            except (OSError, InvalidHandshake) as error:
                outcome.failed_connects.append(repr(error))
                await asyncio.sleep(0.1)

    async def run() -> Outcome:
        short = load(*SHORT, rate=RATE)
        loads = {
            "short": short,
            "long": load(f"/hold?seconds={LONG_SECONDS}", connections=8),
            # Otherwise the connection of a stream from before SIGTERM would be reused.
            "stream": load(f"/stream?seconds={LONG_SECONDS}", connections=4, keep_alive=False),
            "upload": load("POST /echo", connections=4, upload_seconds=UPLOAD_SECONDS),
        }
        websockets = [asyncio.create_task(open_websocket()) for _ in range(WEBSOCKETS)]
        async with asyncio.timeout(SECONDS):
            await short.answered(requests // 20)
            await asyncio.to_thread(event)
            await short.answered(max(requests, short.tally.answered + requests // 20))
            tallies = await asyncio.gather(*(each.stop() for each in loads.values()))
        for task in websockets:
            task.cancel()
        ended = await asyncio.gather(*websockets, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
        outcome.requests = dict(zip(loads, tallies, strict=True))
        return outcome

    return asyncio.run(run())


def assert_nothing_lost(outcome: Outcome) -> None:
    for kind, tally in outcome.requests.items():
        assert tally == Tally(answered=tally.answered), (kind, outcome)
        assert tally.answered > 0, kind
    assert outcome.requests["short"].answered >= REQUESTS
    assert set(outcome.close_codes) <= {1012}, outcome
    assert not outcome.failed_connects, outcome


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


def fail_release(change: tuple[str, ...], reason: str, service: Service) -> None:
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

EVENTS: dict[str, Callable[[Service], None]] = {
    "rolling update": Service.restart,
    "rollback": undo,
    "changed setting": change_setting,
    "changed secret": change_secret,
    "eviction of each pod": evict_each_pod,
    "drained node": drain_node,
    "autoscaling up and down": scale_up_and_down,
    "restarted kubelets": restart_kubelets,
    "API server away for a minute": stop_api_server,
    "missing image": partial(
        fail_release, ("set image", "app=registry.example.com/nothing:1"), "ImagePull"
    ),
    "bad setting": partial(fail_release, ("set env", "ENVIRONMENT=prod"), "CrashLoopBackOff"),
    "failing start": partial(
        fail_release, ("patch", "--type=json", f"--patch={FAILING_START}"), "CrashLoopBackOff"
    ),
}

REPLACE_ALL_PODS = (
    "rolling update",
    "rollback",
    "changed setting",
    "changed secret",
    "eviction of each pod",
)


@pytest.mark.parametrize("event", EVENTS)
def test_planned_event_loses_no_request(service: Service, client: Path, event: str) -> None:
    outcome = under_load(service, client, lambda: EVENTS[event](service))

    assert_nothing_lost(outcome)
    if event in REPLACE_ALL_PODS:
        assert len(outcome.close_codes) >= WEBSOCKETS


def test_rolling_update_without_pre_stop_and_drain_loses_requests(
    service: Service, client: Path
) -> None:
    """Checks that the load detects lost requests."""
    service.kubectl("patch", "deployment", service.name, f"--patch={service.without_shutdown()}")
    service.wait_for_rollout()

    outcome = under_load(service, client, service.restart, requests=2_000)
    service.apply()
    service.wait_for_rollout()

    assert sum(tally.lost + tally.refused for tally in outcome.requests.values()) > 0


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
    after = under_load(service, client, lambda: None)

    assert status()["lastState"]["terminated"]["reason"] == reason
    assert to_other == Tally(answered=to_other.answered)
    assert through_service.failed == 0
    assert through_service.lost <= 16, "at most the request in flight on each connection"
    assert_nothing_lost(after)


@pytest.mark.parametrize(
    ("namespace", "allowed"), [("ingress", {8000}), ("monitoring", {9090}), ("elsewhere", set())]
)
def test_network_policy_admits_only_the_ports_of_the_namespace(
    service: Service, namespace: str, allowed: set[int]
) -> None:
    client = service.cluster.client(namespace)

    for address in addresses(service):
        for port in allowed:
            wait_for_policy(service, client, address, port)
        ports = {port for port in (8000, 9090) if network.accepts(port, client, address)}
        assert ports == allowed, address


def test_service_responds_over_ipv4_and_ipv6(service: Service, client: Path) -> None:
    spec = service.get("service", service.name)["spec"]

    for address in spec["clusterIPs"]:
        asyncio.run(assert_answered(client, address, 100))

    assert spec["ipFamilies"] == ["IPv4", "IPv6"]
    assert [len(pod["status"]["podIPs"]) for pod in service.pods()] == [2] * service.least


async def assert_answered(client: Path, host: str, requests: int) -> None:
    """Send that many requests to an address; all are answered."""
    load = Load(80, SHORT, namespace=client, host=host)
    async with asyncio.timeout(SECONDS):
        await load.answered(requests)
        tally = await load.stop()
    assert tally == Tally(answered=tally.answered)
