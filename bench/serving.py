"""The cost of the serving layer: CPU per request and throughput of a small JSON route.

    nice -n -15 .venv/bin/python -m bench.serving [ROUNDS [SECONDS]]

Every row is a server that runs throughout, on one core; wrk, on another, loads one after the other,
round by round, so that what else the machine does hits all alike. Figures are medians over the
rounds, `x` is the CPU by that of the bare FastAPI: no serving layer, no access log, on uvloop and
httptools. The naive one has the loop and the parser of `pip install fastapi uvicorn`. The log goes
to a file in memory.
"""

import os
import re
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.harness.project import Project
from tests.harness.server import Server, free_port, launch, start_command

from . import meter
from .meter import Row
from .plot import Chart, panel
from .probes import rendered
from .results import Figures, Table, show, versions

FULL, QUICK = (7, 3), (1, 1)
PATH = "/orders/7"

ROUTE = """
from pydantic import BaseModel

class Order(BaseModel):
    id: int
    state: str
    total: float

@app.get("/orders/{id}")
async def order(id: int) -> Order:
    return Order(id=id, state="paid", total=12.5)
"""
# With this many routes before it, which FastAPI matches one after another.
BARE = """
from fastapi import APIRouter, FastAPI

app = FastAPI()
app.add_api_route("/health/live", lambda: None)
app.add_api_route("/health/ready", lambda: None)
example = APIRouter()
example.add_api_route("/large-response", lambda: None)
app.include_router(example)
"""
# Replacements in the serving layer, made before the application is created.
WITHOUT = {
    "the log": ("observability.logs.Log.write", "lambda *_: None"),
    "metrics": (
        "observability.metrics.DURATION.labels",
        "lambda *_: SimpleNamespace(observe=int)",
    ),
    "security headers": (
        "asgi.headers.completed",
        "lambda start, request_id: {**start, 'headers': [*start['headers'], (b'x-request-id',"
        " request_id.encode())]}",
    ),
    "deadlines": (
        "asgi.deadlines.Deadlines.begin",
        "lambda *_, none=SimpleNamespace(cancel_scope=nullcontext(), expired=False, end=int): none",
    ),
    "other limits": ("asgi.limits.Limits.refusal", "lambda *_: None"),
    "compression": ("asgi.middleware.negotiate", "lambda *_: None"),
    "the middleware": (
        "wrap",
        "lambda app, *, lifespan, http, websocket, wrap=serving.wrap: wrap("
        "app, lifespan=lifespan, http=lambda inner: inner, websocket=lambda inner: inner)",
    ),
}
# `patch` raises `AttributeError` for a name that does not exist.
COMPLETE = """
from contextlib import nullcontext
from types import SimpleNamespace
from unittest.mock import patch

from {package} import serving

{replace}
from {package}.app import create_app

app = create_app()
"""


# The name of a server, its application, and replacements in its command.
Candidate = tuple[str, str, dict[str, str]]


def main() -> None:
    show(measure, tables, FULL)


def measure(rounds: int, seconds: int) -> Figures:
    """Medians over the rounds of each server."""
    one, other = meter.cores()
    everywhere = os.sched_getaffinity(0)
    with TemporaryDirectory(dir=meter.memory_directory()) as directory, ExitStack() as stack:
        project = rendered(Path(directory))
        project.uv("sync", "--quiet", "--no-dev")
        rows = [
            Row(name, stack.enter_context(started(project, name, code, options, one)))
            for name, code, options in servers(project.package)
        ]
        for row in rows:
            row.server.wait_until_ready()
        stack.callback(os.sched_setaffinity, 0, everywhere)
        os.sched_setaffinity(0, {other})
        meter.in_turn(rows, PATH, rounds, seconds)
        return {
            "rounds": rounds,
            "seconds": seconds,
            "versions": versions(project),
            "rows": [row.figures() for row in rows],
        }


def tables(figures: Figures) -> dict[str, Table]:
    """Return the tables: all rows, and those for event loop and parser."""
    bare = figures["rows"][0]
    head = ("", "CPU per request", "of bare", "requests per second", "of bare", "p99")
    lines = {
        row["name"]: (
            row["name"],
            f"{row['cpu_us']:.0f} µs",
            f"x {row['cpu_us'] / bare['cpu_us']:.2f}",
            f"{row['per_second']:,}",
            f"x {row['per_second'] / bare['per_second']:.2f}",
            f"{row['p99_ms']:.1f} ms",
        )
        for row in figures["rows"]
    }
    told = ("bare", "naive", "complete")
    return {
        "serving": [head, *lines.values()],
        "loop": [head, *(lines[name] for name in told)],
    }


def charts(figures: Figures) -> dict[str, Chart]:
    """CPU, throughput and p99 of each server."""
    rows, kinds = figures["rows"], {"complete": "ours", "naive": "bad"}
    return {
        "serving": Chart(
            "Cost of the serving layer",
            "Server CPU per request, requests per second and p99 of a small JSON route on one core:"
            " bare FastAPI, the naive install, the serving layer complete and without each part",
            [
                panel("CPU per request, µs", rows, "cpu_us", "{:.0f}", kinds),
                panel("requests per second", rows, "per_second", "{:,}", kinds),
                panel("p99, ms", rows, "p99_ms", "{:.1f}", kinds),
            ],
        )
    }


def servers(package: str) -> list[Candidate]:
    """Return the name of each server, its application, and replacements in its command."""
    slow = {"uvloop": "asyncio", "httptools": "h11"}
    bare: list[Candidate] = [("bare", BARE + ROUTE, {}), ("bare again", BARE + ROUTE, {})]
    ours: list[Candidate] = [("complete", complete(package) + ROUTE, {})]
    for part, (name, instead) in WITHOUT.items():
        replace = f'patch("{package}.serving.{name}", {instead}).start()'
        ours.append((f"without {part}", complete(package, replace) + ROUTE, {}))
    return [*bare, ("naive", BARE + ROUTE, slow), *ours]


def complete(package: str, replace: str = "") -> str:
    """Return the source of the service, with replacements in its serving layer."""
    return COMPLETE.format(package=package, replace=replace)


def started(
    project: Project, name: str, code: str, instead: dict[str, str], core: int
) -> AbstractContextManager[Server]:
    """Return the server of an application, on one core."""
    port = free_port()
    command, environment = start(project, name, code, instead, port)
    command = ["taskset", "--cpu-list", str(core), *command]
    log = project.path / f"{module(name)}.log"
    return launch(project, command, log, port, environment)


def start(
    project: Project, name: str, code: str, instead: dict[str, str], port: int
) -> tuple[list[str], dict[str, str]]:
    """Return the server command of an application, as in the image or unit, and its settings."""
    (project.path / f"{module(name)}.py").write_text(code)
    command, environment = start_command(project, f"{module(name)}:app", port)
    command = [instead.get(word, word) for word in command]
    if "serving" not in code:
        command.append("--no-access-log")
    return command, environment | {"ENVIRONMENT": "production"}


def module(name: str) -> str:
    """Return the import string of an application."""
    return "bench_" + re.sub(r"\W", "_", name)


if __name__ == "__main__":
    main()
