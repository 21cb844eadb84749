"""Duration of a scrape, and its delay of the event loop, on each target, in milliseconds.

    .venv/bin/python -m bench.scrape [SETS [SCRAPES]]

A service with SETS sets of method, route and status, on a VM in each of 4 workers. Beside the
scrape the event loop does nothing but notice how long it has not run: with a scrape, as long
without one, and with a scrape that is rendered on the event loop. Medians of the longest time of
each scrape. It is CPU time of the process: what other processes take does not count.
"""

import http.client
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.harness.project import Project
from tests.harness.server import Server, free_port, launch, start_command

from .probes import rendered
from .results import arguments
from .workers import children

APPLICATION = """
import asyncio
import os
import time
from contextlib import asynccontextmanager

from fastapi import FastAPI

from {package} import serving
from {package}.serving.observability import metrics, metrics_server

longest = 0.0


async def notice():
    global longest
    before = time.process_time()
    while True:
        await asyncio.sleep(0)
        now = time.process_time()
        longest = max(longest, now - before)
        before = now


@asynccontextmanager
async def lifespan(_):
    for number in range({sets}):
        metrics.DURATION.labels("GET", f"/orders/{{{{order}}}}/lines/{{number}}", 200).observe(0.01)
    noticing = asyncio.create_task(notice())
    yield
    noticing.cancel()


if "ON_THE_LOOP" in os.environ:
    class ToThread:
        @staticmethod
        async def run_sync(function, **_):
            return function()

    metrics_server.to_thread = ToThread

app = FastAPI(lifespan=lifespan)
serving.install(app, serving.ServingSettings())


@app.get("/longest")
async def take() -> float:
    global longest
    taken, longest = longest, 0.0
    return taken * 1000
"""


def main() -> None:
    sets, scrapes = arguments((1000, 20))
    print("| | held without a scrape | with one | one on the loop | takes | KiB |")
    print("|---|---|---|---|---|---|")
    for target in ("kubernetes", "vm"):
        with TemporaryDirectory() as directory:
            project = rendered(Path(directory), deployment=target)
            project.uv("sync", "--quiet", "--no-dev")
            text = APPLICATION.format(package=project.package, sets=sets)
            (project.path / "scraped.py").write_text(text)
            with serve(project, Path(directory), {}) as server:
                idle, held, takes, size = measure(server, scrapes)
            with serve(project, Path(directory), {"ON_THE_LOOP": "yes"}) as server:
                _, on_the_loop, _, _ = measure(server, scrapes)
            row = (f"{each:.1f}" for each in (idle, held, on_the_loop, takes))
            print(f"| {target} | {' | '.join(row)} | {size / 1024:,.0f} |", flush=True)


@contextmanager
def serve(project: Project, directory: Path, env: dict[str, str]) -> Iterator[Server]:
    """Yield the application above; on a VM, one of 4 workers remains, with the files of all."""
    port, metrics_port = free_port(), free_port()
    command, options = start_command(project, "scraped:app", port)
    variables = {"METRICS_PORT": str(metrics_port), "LOG_LEVEL": "warning", **env}
    if project.answers["deployment"] == "vm":
        variables["WEB_CONCURRENCY"] = "4"
    with launch(project, command, directory / "log", port, options | variables) as server:
        server.wait_until_ready()
        server.metrics_port = metrics_port
        for left in range(len(children(server)), 1, -1):
            server.process.send_signal(signal.SIGTTOU)
            while len(children(server)) >= left:
                time.sleep(0.1)
        yield server


def measure(server: Server, scrapes: int) -> tuple[float, float, float, int]:
    """Return medians: longest delay without and with a scrape, and its duration and bytes."""
    idle, held, takes, size = [], [], [], 0
    for _ in range(scrapes):
        get(server.port, "/longest")
        started = time.perf_counter()
        size = len(get(server.metrics_port, "/metrics"))
        took = time.perf_counter() - started
        held.append(float(get(server.port, "/longest")))
        time.sleep(took)
        idle.append(float(get(server.port, "/longest")))
        takes.append(took * 1000)
    return statistics.median(idle), statistics.median(held), statistics.median(takes), size


def get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


if __name__ == "__main__":
    main()
