"""The reference service on a real cluster: its network policy, port by port, and its addresses."""

import asyncio
from pathlib import Path

import pytest

from ..harness import network
from ..harness.kubernetes import Service
from ..harness.load import Load, Tally
from .conftest import wait_for_policy
from .under_load import SECONDS, SHORT


@pytest.mark.parametrize(
    ("namespace", "allowed"), [("ingress", {8000}), ("monitoring", {9090}), ("elsewhere", set())]
)
def test_network_policy_admits_only_the_ports_of_the_namespace(
    service: Service, namespace: str, allowed: set[int]
) -> None:
    client = service.cluster.client(namespace)

    for address in service.addresses():
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
