"""Failed requests of a rolling update, with and without the shutdown budget.

    .venv/bin/python -m bench.rollout [ROUNDS [REQUESTS]]

The rendered image and its production overlay, two pods run by podman, and a Service before them
that hears of its endpoints 1.5 s late; see tests/harness/cluster.py. The budget has two parts that
can be taken away: the pause before SIGTERM (`preStop`) and the drain after it. Sums of the rounds.
"""

import uuid
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.harness import cluster, pods
from tests.harness.cluster import ENDPOINT_LAG
from tests.harness.pods import Deployment

from . import meter
from .plot import Bar, Chart, Panel
from .probes import rendered
from .results import Figures, MissingError, Table, show

FULL, QUICK = (1, 8_000), (1, 2_000)

CASES = {
    "as rendered": (True, True),
    "without the drain": (True, False),
    "without preStop": (False, True),
    "without both": (False, False),
}
"""Whether there is preStop, and the drain."""


def main() -> None:
    show(measure, tables, FULL)


def measure(rounds: int, requests: int) -> Figures:
    """Return the outcomes of the requests; raises `MissingError` if a tool is missing."""
    if missing := cluster.missing_tools():
        raise MissingError(f"bench.rollout: it needs {', '.join(missing)}")
    counted = {case: {"answered": 0, "lost": 0, "failed": 0, "refused": 0} for case in CASES}
    with TemporaryDirectory() as directory:
        slug = f"orders-{uuid.uuid4().hex[:8]}"  # and so the image, whatever else runs here
        project = rendered(Path(directory), project_slug=slug, request_timeout_seconds=5)
        deployment = Deployment.production(project)
        meter.say("  building the image")
        with pods.image(deployment):
            without = cluster.without_drain(deployment)
            for number in range(1, rounds + 1):
                for case, (pre_stop, drain) in CASES.items():
                    meter.say(f"  round {number} of {rounds}: {case}")
                    with (
                        TemporaryDirectory() as files,
                        cluster.run(deployment if drain else without, Path(files)) as running,
                    ):
                        _, tally = running.update_under_load(requests, pre_stop=pre_stop)
                    for what, count in asdict(tally).items():
                        counted[case][what] += count
    rows = [{"name": case, **counts} for case, counts in counted.items()]
    return {"rounds": rounds, "requests": requests, "lag_seconds": ENDPOINT_LAG, "rows": rows}


def failures(row: Figures) -> int:
    """Return the number of failures, as seen by a client."""
    return int(row["lost"] + row["failed"] + row["refused"])


def tables(figures: Figures) -> dict[str, Table]:
    """All of it."""
    rows = [
        (
            row["name"],
            f"{failures(row):,}",
            f"{row['answered'] + failures(row):,}",
            f"{row['lost']:,}",
            f"{row['refused']:,}",
            f"{row['failed']:,}",
        )
        for row in figures["rows"]
    ]
    head = ("a rolling update", "failed", "of", "cut off", "refused", "answered with an error")
    return {"rollout": [head, *rows]}


def charts(figures: Figures) -> dict[str, Chart]:
    """The failures of each case."""
    bars = [
        Bar(
            row["name"],
            failures(row),
            f"{failures(row):,} of {row['answered'] + failures(row):,}",
            "ours" if row["name"] == "as rendered" else "bad",
        )
        for row in figures["rows"]
    ]
    return {
        "rollout": Chart(
            "Requests that fail in a rolling update",
            "With the shutdown budget, without the drain, without preStop, and without both;"
            f" the balancer hears of its endpoints {figures['lag_seconds']} s late",
            [Panel("failed requests", bars)],
        )
    }


if __name__ == "__main__":
    main()
