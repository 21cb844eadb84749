"""How much memory four gunicorn workers hold together after 10,000 requests.

    .venv/bin/python -m bench.memory [ROUNDS]

The rendered service as its unit starts it, and without what keeps its workers' memory shared; the
variants take turns. PSS: a page that processes share counts once.
"""

import asyncio
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tests.harness.load import Load
from tests.harness.project import Project
from tests.harness.server import free_port, launch, start_command

from .probes import MIB, Memory, rendered

WORKERS = 4
REQUESTS = 10_000
PATHS = ["/health/live", "/large-response?size_kb=4", "/large-response?size_kb=100"]

# What is appended to the rendered configuration.
VARIANTS = {
    "as rendered": "",
    "without gc.freeze": "del when_ready",
    "without preload": "preload_app = False\ndel when_ready",
}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with TemporaryDirectory() as directory:
        project = rendered(Path(directory), deployment="vm")
        project.uv("sync", "--quiet", "--no-dev")
        measured: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
        for _ in range(rounds):
            for variant in VARIANTS:
                measured[variant].append(hold(project, variant, Path(directory)))
    for variant, figures in measured.items():
        each = ", ".join(f"{figure:.0f}" for figure in figures)
        print(f"{variant}: PSS {median(figures):.0f} MiB with {WORKERS} workers ({each})")


def hold(project: Project, variant: str, directory: Path) -> float:
    """The MiB that the master and its workers hold together after the load."""
    config = directory / "gunicorn.conf.py"
    rendered_config = (project.path / "deploy/vm/gunicorn.conf.py").read_text()
    config.write_text(f"{rendered_config}\n{VARIANTS[variant]}\n")
    port = free_port()
    command, environment = start_command(project, f"{project.package}.app:app", port)
    command = [str(config) if word.endswith("gunicorn.conf.py") else word for word in command]
    environment |= {"ENVIRONMENT": "production", "WEB_CONCURRENCY": str(WORKERS)}
    with launch(project, command, directory / "log", port, environment) as server:
        server.wait_until_ready()
        asyncio.run(load(port))
        memory = 0.0
        for process in (server.process.pid, *children(server.process.pid)):
            held = Memory()
            held.look(process)
            memory += held.pss / MIB
        server.stop()
    return memory


def children(process: int) -> list[int]:
    """The workers; raises `AssertionError` when they aren't as many as was asked for."""
    found = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True)
    workers = [int(pid) for pid in found.stdout.split()]
    assert len(workers) == WORKERS, workers
    return workers


async def load(port: int) -> None:
    clients = Load(port, PATHS)
    await clients.answered(REQUESTS)
    await clients.stop()


if __name__ == "__main__":
    main()
