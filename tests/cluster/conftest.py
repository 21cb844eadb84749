"""The cluster of these tests, and the reference service on it."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ..harness import kubernetes, network
from ..harness.kubernetes import Kubernetes, Service
from ..harness.pods import Deployment


@pytest.fixture(scope="package")
def cluster() -> Iterator[Kubernetes]:
    """A cluster of two nodes with network policies and DNS; it has built-in kinds only.

    It ends with the last of these tests, because an idle cluster takes a tenth of a core.
    """
    if missing := kubernetes.missing_tools():
        pytest.skip(f"no cluster without {', '.join(missing)}")
    with kubernetes.run() as cluster:
        cluster.serve_names()
        yield cluster


@pytest.fixture(scope="package")
def service(cluster: Kubernetes, production: Deployment) -> Service:
    """The reference service in production."""
    service = Service(cluster, production)
    service.install()
    return service


@pytest.fixture(scope="package")
def client(service: Service) -> Path:
    """The network namespace of a pod in the namespace of the ingress controller."""
    client = service.cluster.client("ingress")
    for address in service.addresses():
        wait_for_policy(service, client, address, 8000)
    return client


def wait_for_policy(service: Service, client: Path, address: str, port: int) -> None:
    """Return once the client reaches the port: policies apply to a new pod with a delay."""
    service.cluster.wait_until(partial(network.accepts, port, client, address), "reached")
