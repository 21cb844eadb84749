"""The reference service on a real Kubernetes: planned changes lose no request.

All in one file: a cluster is started once.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from ..harness import kubernetes, network
from ..harness.kubernetes import Kubernetes, Service
from ..harness.load import Load, Tally
from ..harness.pods import Deployment

REQUESTS = int(os.environ.get("CLUSTER_REQUESTS", 20_000))
RATE = 800
SECONDS = 600
SHORT = [*["/health/live", "POST /echo"] * 4, "/large-response?size_kb=64"]
LONG = ["/hold?seconds=3"]
"""Of a budget of 5 s."""
ROOMS = 4


@pytest.fixture(scope="module")
def cluster(production: Deployment) -> Iterator[Kubernetes]:
    """Two nodes."""
    if missing := kubernetes.missing_tools():
        pytest.skip(f"no cluster without {', '.join(missing)}")
    with kubernetes.run() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def service(cluster: Kubernetes, production: Deployment) -> Service:
    """The reference service in production."""
    service = Service(cluster, production)
    service.install()
    return service


@pytest.fixture(scope="module")
def ingress(cluster: Kubernetes) -> Path:
    """The network namespace of a pod where the ingress controller would be."""
    return cluster.client("ingress")


@dataclass
class Outcome:
    """The outcome of requests and WebSockets in flight."""

    short: Tally
    long: Tally
    closed: list[int] = field(default_factory=list)
    """The close codes of WebSockets."""


def under_way(service: Service, client: Path, event: Callable[[], object]) -> Outcome:
    """Call a function during short requests, long ones and WebSockets."""
    host, closed = service.address, []

    async def room() -> None:
        while True:
            sock = network.connect(80, client, host=host)
            async with connect(f"ws://{host}/echo", sock=sock) as chat:
                try:
                    await chat.recv()
                except ConnectionClosed as end:
                    closed.append(end.rcvd.code if end.rcvd else 1006)

    async def run() -> Outcome:
        short = Load(80, SHORT, rate=RATE, namespace=client, host=host)
        long = Load(80, LONG, connections=8, namespace=client, host=host)
        rooms = [asyncio.create_task(room()) for _ in range(ROOMS)]
        async with asyncio.timeout(SECONDS):
            await short.answered(REQUESTS // 20)
            await asyncio.to_thread(event)
            await short.answered(max(REQUESTS, short.tally.answered + REQUESTS // 20))
            tallies = await asyncio.gather(short.stop(), long.stop())
        for task in rooms:
            task.cancel()
        ended = await asyncio.gather(*rooms, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended
        return Outcome(*tallies, closed)

    return asyncio.run(run())


def assert_nothing_lost(outcome: Outcome) -> None:
    assert outcome.short == Tally(answered=outcome.short.answered), outcome
    assert outcome.long == Tally(answered=outcome.long.answered), outcome
    assert outcome.short.answered >= REQUESTS
    assert outcome.long.answered > 0
    assert set(outcome.closed) <= {1012}, outcome


def restart(service: Service) -> None:
    service.kubectl("rollout", "restart", f"deployment/{service.name}")
    service.wait_for_rollout()


def undo(service: Service) -> None:
    service.kubectl("rollout", "undo", f"deployment/{service.name}")
    service.wait_for_rollout()


def test_a_rolling_update_and_its_rollback_lose_nothing(service: Service, ingress: Path) -> None:
    before = service.names()

    def update() -> None:
        restart(service)
        undo(service)

    outcome = under_way(service, ingress, update)

    assert_nothing_lost(outcome)
    assert len(outcome.closed) >= ROOMS, "each WebSocket was told to come back"
    assert not before & service.names()


def test_a_drained_node_loses_nothing(service: Service, ingress: Path) -> None:
    def drain() -> None:
        kubectl = service.cluster.kubectl
        kubectl("drain", "node2", "--delete-emptydir-data", "--timeout=300s")
        service.wait_for_rollout()
        kubectl("uncordon", "node2")

    outcome = under_way(service, ingress, drain)

    assert_nothing_lost(outcome)
    assert {pod["spec"]["nodeName"] for pod in service.pods()} == {"node1"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("set", "image", "app=registry.example.com/nothing:1"), "ImagePull"),
        (("set", "env", "ENVIRONMENT=prod"), "CrashLoopBackOff"),
    ],
)
def test_a_release_that_fails_loses_nothing(
    service: Service, ingress: Path, change: tuple[str, str, str], reason: str
) -> None:
    command, what, value = change
    before = service.names()

    def waiting() -> list[str]:
        return [
            status.get("state", {}).get("waiting", {}).get("reason", "")
            for pod in service.pods()
            for status in pod["status"].get("containerStatuses", [])
        ]

    def release() -> None:
        service.kubectl(command, what, f"deployment/{service.name}", value)
        service.cluster.wait_until(lambda: any(reason in said for said in waiting()), reason)
        undo(service)

    outcome = under_way(service, ingress, release)

    assert_nothing_lost(outcome)
    assert service.names() == before
    assert outcome.closed == []


def reaches(client: Path, address: str, port: int) -> bool:
    """Whether a connection from a pod's network namespace is accepted."""
    try:
        network.connect(port, client, host=address).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("namespace", "allowed"), [("ingress", {8000}), ("monitoring", {9090}), ("elsewhere", set())]
)
def test_pods_are_reached_only_from_where_the_policy_says(
    service: Service, namespace: str, allowed: set[int]
) -> None:
    client = service.cluster.client(namespace)

    for pod in service.pods():
        address = pod["status"]["podIP"]
        for port in allowed:  # the policies learn of a new pod with a delay
            service.cluster.wait_until(partial(reaches, client, address, port), "reached")
        assert {port for port in (8000, 9090) if reaches(client, address, port)} == allowed
