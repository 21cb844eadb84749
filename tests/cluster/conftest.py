"""The cluster of these tests."""

from collections.abc import Iterator

import pytest

from ..harness import kubernetes
from ..harness.kubernetes import Kubernetes


@pytest.fixture(scope="session")
def cluster() -> Iterator[Kubernetes]:
    """A cluster of two nodes with network policies and DNS; it has built-in kinds only.

    It is started once.
    """
    if missing := kubernetes.missing_tools():
        pytest.skip(f"no cluster without {', '.join(missing)}")
    with kubernetes.run() as cluster:
        cluster.serve_names()
        yield cluster
