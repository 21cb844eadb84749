"""A rolling update under load: two pods of the production overlay and the Service before them."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..harness import cluster
from ..harness.cluster import Cluster
from ..harness.load import Tally
from ..harness.pods import Deployment

REPEATS = 5 if os.environ.get("DEMAND_EVERY_TIER") else 1
REQUESTS = 20_000


@pytest.fixture(scope="module")
def deployment(production: Deployment) -> Deployment:
    """What the cluster runs."""
    if missing := cluster.missing_tools():
        pytest.skip(f"no cluster without {', '.join(missing)}")
    return production


@pytest.fixture(scope="module")
def running(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two pods."""
    with cluster.run(deployment, tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def without_drain(deployment: Deployment, tmp_path: Path) -> Iterator[Cluster]:
    """The same with a uvicorn that shuts down in its own way."""
    with cluster.run(cluster.without_drain(deployment), tmp_path) as running:
        yield running


@pytest.mark.parametrize("repeat", range(1, REPEATS + 1))
def test_no_request_fails(running: Cluster, repeat: int) -> None:
    codes, tally = running.update_under_load(REQUESTS)

    assert tally.answered >= REQUESTS
    assert tally == Tally(answered=tally.answered), "and nothing else"
    assert codes == [0, 0], "each ended by itself, before its grace period did"


def test_without_pre_stop_and_drain_requests_fail(without_drain: Cluster) -> None:
    codes, tally = without_drain.update_under_load(2_000, pre_stop=False)

    assert tally.lost > 0, tally
    assert codes == [0, 0], "they were stopped, not killed"
