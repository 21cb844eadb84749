"""Memory of all gunicorn workers after 10,000 requests.

    .venv/bin/python -m bench.memory [ROUNDS [REQUESTS]]

The rendered service as its unit starts it, with 1, 2 and 4 workers, and with 4 without what keeps
their memory shared; the variants take turns. PSS: a page that processes share counts once.
"""

import asyncio
import subprocess
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tests.harness.load import Load
from tests.harness.project import Project
from tests.harness.server import free_port, launch, start_command

from . import meter
from .meter import MIB
from .plot import Bar, Chart, Panel
from .probes import rendered
from .results import Figures, Table, show, versions

FULL, QUICK = (1, 10_000), (1, 1_000)
PATHS = ["/health/live", "/large-response?size_kb=4", "/large-response?size_kb=100"]

# Appended to the rendered configuration.
VARIANTS = {
    "as rendered": "",
    "without gc.freeze": "del when_ready",
    "without preload": "preload_app = False\ndel when_ready",
}


CASES = [
    ("as rendered", 1),
    ("as rendered", 2),
    ("as rendered", 4),
    ("without gc.freeze", 4),
    ("without preload", 4),
]


def main() -> None:
    show(measure, tables, FULL)


def measure(rounds: int, requests: int) -> Figures:
    """MiB of the master and its workers, medians over the rounds."""
    with TemporaryDirectory() as directory:
        project = rendered(Path(directory), deployment="vm")
        project.uv("sync", "--quiet", "--no-dev")
        measured: dict[tuple[str, int], list[float]] = {case: [] for case in CASES}
        for number in range(1, rounds + 1):
            meter.say(f"  round {number} of {rounds}: {len(CASES)} servers, {requests} requests")
            for variant, workers in CASES:
                held = hold(project, variant, workers, requests, Path(directory))
                measured[variant, workers].append(held)
        rows = [
            {"name": variant, "workers": workers, "pss_mib": round(median(held), 1)}
            for (variant, workers), held in measured.items()
        ]
        return {
            "rounds": rounds,
            "requests": requests,
            "versions": versions(project),
            "rows": rows,
        }


def tables(figures: Figures) -> dict[str, Table]:
    """All of it."""
    rows = [
        (row["name"], str(row["workers"]), f"{row['pss_mib']:.0f} MiB") for row in figures["rows"]
    ]
    return {"memory": [("", "workers", "master and workers, PSS"), *rows]}


def charts(figures: Figures) -> dict[str, Chart]:
    """All of it."""
    bars = [
        Bar(
            f"{row['workers']} worker{'s' if row['workers'] > 1 else ''}, {row['name']}",
            row["pss_mib"],
            f"{row['pss_mib']:.0f}",
            "ours" if row["name"] == "as rendered" else "other",
        )
        for row in figures["rows"]
    ]
    return {
        "memory": Chart(
            "Memory by workers",
            f"PSS of gunicorn and its workers together after {figures['requests']:,} requests",
            [Panel("gunicorn and its workers, PSS, MiB", bars)],
        )
    }


def hold(project: Project, variant: str, workers: int, requests: int, directory: Path) -> float:
    """Return the total MiB of master and workers after the load."""
    config = directory / "gunicorn.conf.py"
    rendered_config = (project.path / "deploy/vm/gunicorn.conf.py").read_text()
    config.write_text(f"{rendered_config}\n{VARIANTS[variant]}\n")
    port = free_port()
    command, environment = start_command(project, f"{project.package}.app:app", port)
    command = [str(config) if word.endswith("gunicorn.conf.py") else word for word in command]
    environment |= {"ENVIRONMENT": "production", "WEB_CONCURRENCY": str(workers)}
    with launch(project, command, directory / "log", port, environment) as server:
        server.wait_until_ready()
        asyncio.run(load(port, requests))
        running = (server.process.pid, *children(server.process.pid, workers))
        held = meter.memory(*running)["Pss"] / MIB
        server.stop()
    return held


def children(process: int, workers: int) -> list[int]:
    """Return the workers; raises `AssertionError` for another number than requested."""
    result = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True)
    pids = [int(pid) for pid in result.stdout.split()]
    assert len(pids) == workers, pids
    return pids


async def load(port: int, requests: int) -> None:
    clients = Load(port, PATHS)
    await clients.answered(requests)
    await clients.stop()


if __name__ == "__main__":
    main()
