"""Rolling updates on a real Kubernetes under load: failed requests, latency, and duration.

    .venv/bin/python -m bench.rollout [RATE [PODS …]]

The rendered service in production, on a cluster of two nodes (tests/harness/kubernetes.py), under a
load of RATE requests per second through its Service. Each number of pods is replaced once, the
first also without preStop and drain.
"""

import asyncio
import json
import re
import subprocess
import time
import uuid
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

from tests.harness import kubernetes, network, pods
from tests.harness.kubernetes import Service
from tests.harness.load import Load
from tests.harness.pods import Deployment

from . import meter
from .plot import Bar, Chart, Panel
from .probes import rendered
from .results import Figures, MissingError, Table, show

FULL, QUICK = (300, 3, 10, 40), (100, 3)
PATHS = [*["/health/live", "/large-response?size_kb=4"] * 4, "/large-response?size_kb=64"]
SECONDS_BEFORE = 10
SECONDS_OF_WRK = 10
LIMIT_SECONDS = 900
# Each node has the cores of this machine, and must have room for the requests of 40 pods.
SMALL = json.dumps(
    [
        {
            "op": "replace",
            "path": "/spec/template/spec/containers/0/resources/requests/cpu",
            "value": "10m",
        }
    ]
)


def main() -> None:
    show(measure, tables, FULL)


def measure(rate: int, *numbers: int) -> Figures:
    """Return a row for each rolling update; raises `MissingError` if a tool is missing."""
    if missing := kubernetes.missing_tools():
        raise MissingError(f"bench.rollout: it needs {', '.join(missing)}")
    with TemporaryDirectory() as directory:
        slug = f"orders-{uuid.uuid4().hex[:8]}"  # a unique name for the image
        project = rendered(Path(directory), project_slug=slug, request_timeout_seconds=5)
        deployment = Deployment.production(project)
        meter.say("  building the image")
        with pods.image(deployment), kubernetes.run() as cluster:
            service = Service(cluster, deployment)
            service.install()
            service.kubectl("patch", "deployment", service.name, "--type=json", f"--patch={SMALL}")
            client = cluster.client("ingress")
            speed = requests_per_second(service, client)
            rows = []
            for number in numbers:
                name = "as rendered" if number == numbers[0] else f"as rendered, {number} pods"
                rows.append({"name": name, **roll_out(service, client, rate, number)})
            service.scale(numbers[0])
            without = service.without_shutdown()
            service.kubectl("patch", "deployment", service.name, f"--patch={without}")
            service.wait_for_rollout()
            rows.append(
                {"name": "without preStop and drain", **roll_out(service, client, rate, numbers[0])}
            )
    return {"rate": rate, **speed, "rows": rows}


def roll_out(service: Service, client: Path, rate: int, number: int) -> Figures:
    """Replace `number` pods under load; return the figures."""
    meter.say(f"  {number} pods")
    service.scale(number)

    async def run() -> Figures:
        load = Load(80, PATHS, rate=rate, namespace=client, host=service.address)
        async with asyncio.timeout(LIMIT_SECONDS):
            await asyncio.sleep(SECONDS_BEFORE)
            before, begun = len(load.milliseconds), time.monotonic()
            await asyncio.to_thread(service.restart)
            seconds = time.monotonic() - begun
            tally = await load.stop()
        outcome = asdict(tally)
        del outcome["posted"]
        return {
            "pods": number,
            "seconds": round(seconds),
            **outcome,
            "p99_before_ms": round(p99(load.milliseconds[:before]), 1),
            "p99_ms": round(p99(load.milliseconds[before:]), 1),
        }

    return asyncio.run(run())


def p99(milliseconds: list[float]) -> float:
    return quantiles(milliseconds, n=100)[-1]


def requests_per_second(service: Service, client: Path) -> Figures:
    """Return the requests per second of one pod, and of all pods through the Service."""
    found = {}
    pod = service.pods()[0]["status"]["podIP"]
    for name, host, port in (("pod", pod, 8000), ("service", service.address, 80)):
        # Network policies apply to a new client with a delay.
        service.cluster.wait_until(partial(network.accepts, port, client, host), "reached")
        wrk = ("wrk", "--threads=1", "--connections=16", f"--duration={SECONDS_OF_WRK}s")
        command = ["nsenter", f"--net={client}", *wrk, f"http://{host}:{port}/health/live"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        [found[f"per_second_{name}"]] = map(float, re.findall(r"Requests/sec: *([\d.]+)", output))
    return found


def failures(row: Figures) -> int:
    """Return the number of failures, as seen by a client."""
    return int(row["lost"] + row["failed"] + row["refused"])


def tables(figures: Figures) -> dict[str, Table]:
    """All of it."""
    rows = [
        (
            row["name"],
            f"{row['pods']}",
            f"{failures(row):,}",
            f"{row['answered'] + failures(row):,}",
            f"{row['p99_before_ms']:.1f}",
            f"{row['p99_ms']:.1f}",
            f"{row['seconds']}",
        )
        for row in figures["rows"]
    ]
    head = ("a rolling update", "pods", "failed", "of", "p99 before, ms", "p99, ms", "seconds")
    return {"rollout": [head, *rows]}


def charts(figures: Figures) -> dict[str, Chart]:
    """Return the failures of each case."""
    bars = [
        Bar(
            row["name"],
            failures(row),
            f"{failures(row):,} of {row['answered'] + failures(row):,}",
            "bad" if row["name"] == "without preStop and drain" else "ours",
        )
        for row in figures["rows"]
    ]
    return {
        "rollout": Chart(
            "Failed requests in a rolling update",
            "On a real cluster of two nodes, as rendered, and without preStop and drain",
            [Panel("failed requests", bars)],
        )
    }


if __name__ == "__main__":
    main()
