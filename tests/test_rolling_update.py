"""A rolling update under load: two pods of the production overlay and the Service before them."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import cluster, contents
from .harness.cluster import PORT, Cluster
from .harness.load import Load, Tally
from .harness.pods import Deployment

REPEATS = 5 if os.environ.get("DEMAND_EVERY_TIER") else 1
REQUESTS = 20_000
RATE = 1_500  # a second: about as many while the pods are replaced
PATHS = [*["/health/live", "/large-response?size_kb=4"] * 4, "/large-response?size_kb=64"]

# On one line, because podman can't read back what it makes of several. The options follow.
UVICORN_WITHOUT_THE_DRAIN = (
    "from uvicorn.main import main; from {package}.serving import lifecycle; "
    "lifecycle.drain_before_shutdown = lambda *_, **__: None; main()"
)


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
    program = UVICORN_WITHOUT_THE_DRAIN.format(package=deployment.project.package)
    options = contents.configuration(deployment.container["image"])["Cmd"][1:]
    changed = deployment.with_command("python", "-c", program, *options)
    with cluster.run(changed, tmp_path) as running:
        yield running


def update_under_load(
    running: Cluster, requests: int = REQUESTS, *, pre_stop: bool = True
) -> tuple[list[int], Tally]:
    """The old pods' exit codes, and what became of at least so many requests."""

    async def update() -> tuple[list[int], Tally]:
        load = Load(PORT, PATHS, rate=RATE, namespace=running.node)
        await load.answered(1_000)
        codes = await running.roll_out(pre_stop=pre_stop)
        await load.answered(requests)
        return codes, await load.stop()

    return asyncio.run(update())


@pytest.mark.parametrize("repeat", range(1, REPEATS + 1))
def test_no_request_fails(running: Cluster, repeat: int) -> None:
    codes, tally = update_under_load(running)

    assert tally.answered >= REQUESTS
    assert tally == Tally(answered=tally.answered), "and nothing else"
    assert codes == [0, 0], "each ended by itself, before its grace period did"


def test_without_pre_stop_and_drain_requests_fail(without_drain: Cluster) -> None:
    codes, tally = update_under_load(without_drain, 2_000, pre_stop=False)

    assert tally.lost > 0, tally
    assert codes == [0, 0], "they were stopped, not killed"
