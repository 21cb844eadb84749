"""The cluster of these tests."""

from collections.abc import Iterator

import pytest

from ..harness import kubernetes
from ..harness.kubernetes import Kubernetes


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
