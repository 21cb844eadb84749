"""Parts of deploy/kubernetes/deploy that need no cluster."""

import re
import subprocess

import pytest

from ..conftest import Render


@pytest.mark.parametrize(
    ("pods", "surge", "ready", "batches"),
    [(3, "25%", 5, 3), (10, "25%", 300, 4), (40, "25%", 300, 4), (4, "2", 60, 2)],
)
def test_timeout_of_a_rollout_covers_the_slowest_start_of_each_batch(
    render: Render, pods: int, surge: str, ready: int, batches: int
) -> None:
    script = (render(deployment="kubernetes").path / "deploy/kubernetes/deploy").read_text()
    [function] = re.findall(r"^rollout_timeout\(\) \{\n.*?^\}\n", script, re.MULTILINE | re.DOTALL)

    command = f"{function}rollout_timeout {pods} {surge} {ready}"
    done = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, check=True)

    start = 60  # failureThreshold and periodSeconds of the startup probe
    assert int(done.stdout) >= batches * (start + ready + 5)
