"""The serving layer compared with other FastAPI templates, on the same requests in one run.

    nice -n -15 .venv/bin/python -m bench.peers [ROUNDS [SECONDS]]

Each template, of the version pinned here, makes a project with the answers nearest to a plain API,
which gets the dependencies that it asks for and is started as its image or its Compose file for
production starts it. The same route is put first in each application, so that the routes that a
template brings cost nothing. All servers have one core together, wrk another, round by round; CPU
and memory (PSS) are of all processes of a server. What each does for a request is seen from
outside.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.harness.project import UV, Project, find_python
from tests.harness.server import Server, free_port, launch

from . import meter
from .meter import MIB, Row
from .plot import Chart, panel
from .probes import rendered
from .results import Figures, MissingError, Table, show, versions
from .serving import BARE, PATH, ROUTE, start

FULL, QUICK = (5, 2), (1, 1)

PYTHON = "3.13"
"""Both templates from PyPI support it; their images have 3.13 and 3.12."""

FASTAPI_TEMPLATE = "fastapi_template==6.1.2"
FASTAPI_FULLSTACK = "fastapi-fullstack==0.2.21"

LEFT_OUT = {
    "full-stack-fastapi-template": "it is not on a package index. `fastapi run, 4 workers` is the"
    " command of its image, with the bare application",
}
"""Templates that are not measured, with the reason."""

# The measured route precedes those of the template; the large one follows them.
FIRST = """
app.router.routes.insert(0, app.router.routes.pop())

@app.get("/large")
async def large() -> list[str]:
    return ["the same again"] * 10_000
"""
ROUTES = ROUTE + FIRST

OURS = "from {package}.app import create_app\nfrom {package} import serving\napp = create_app()\n"
IN_FACTORY = "\napp = get_app()\n{routes}\nget_app = lambda: app\n"

DOES = ("log line", "request id", "metrics", "security headers", "compression", "body limit")

ASKED = 20
LOG_SECONDS = 2
ACCEPT = {"Accept-Encoding": "gzip"}
BODY = b"x" * 2 * 1024 * 1024

Command = tuple[list[str], dict[str, str]]


@dataclass(frozen=True)
class Candidate:
    """A server: its project and start command."""

    name: str
    project: Project
    start: Callable[[int], Command]
    kind: str = "other"
    metrics_port: int = 0
    """The address of its metrics, if not on the port of its routes."""


def main() -> None:
    show(measure, tables, FULL)


def measure(rounds: int, seconds: int) -> Figures:
    """Medians over the rounds of each server, its memory after them, and its detected features.

    An unavailable template is listed in `left_out` with the reason; the others are measured.
    """
    one, other = meter.cores()
    everywhere = os.sched_getaffinity(0)
    left_out = dict(LEFT_OUT)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        logs = Path(stack.enter_context(TemporaryDirectory(dir=meter.memory_directory())))
        candidates = list(_candidates(directory, left_out))
        rows: list[Row] = []
        for candidate in list(candidates):
            try:
                server = stack.enter_context(_started(candidate, logs / f"{len(rows)}.log", one))
            except AssertionError as error:
                if candidate.kind == "ours":
                    raise
                candidates.remove(candidate)
                _leave_out(candidate.name, error, left_out)
                continue
            rows.append(Row(candidate.name, server))
        stack.callback(os.sched_setaffinity, 0, everywhere)
        os.sched_setaffinity(0, {other})
        meter.in_turn(rows, PATH, rounds, seconds)
        found = [_figures(*pair) for pair in zip(candidates, rows, strict=True)]
    return {"rounds": rounds, "seconds": seconds, "rows": found, "left_out": left_out}


@contextmanager
def _started(candidate: Candidate, log: Path, core: int) -> Iterator[Server]:
    """Start its server on one core; raises `AssertionError` if it does not respond."""
    port = free_port()
    command, environment = candidate.start(port)
    command = ["taskset", "--cpu-list", str(core), *command]
    with launch(candidate.project, command, log, port, environment) as server:
        server.metrics_port = candidate.metrics_port or port
        server.wait_until_ready(PATH)
        yield server


def _leave_out(name: str, error: Exception, left_out: dict[str, str]) -> None:
    """Record why something is not measured: the last line of output."""
    left_out[name] = str(error).strip().splitlines()[-1].strip()
    meter.say(f"  without {name}: {left_out[name]}")


def _figures(candidate: Candidate, row: Row) -> Figures:
    """Return the figures of a server, and its detected features."""
    running = meter.processes(row.server)
    return {
        **row.figures(),
        "kind": candidate.kind,
        "processes": len(running),
        "pss_mib": round(meter.memory(*running)["Pss"] / MIB),
        "does": _seen(row.server),
        "versions": versions(candidate.project),
    }


# ── The servers ───────────────────────────────────────────────────────────────────────────────


def _candidates(directory: Path, left_out: dict[str, str]) -> Iterator[Candidate]:
    """Return every server; unavailable ones are recorded in `left_out`."""
    python = find_python(PYTHON)
    if python is None:
        raise MissingError(f"bench.peers: there is no Python {PYTHON}")
    meter.say("  rendering and installing")
    yield from _ours(directory, python)
    for name, generate in PEERS.items():
        try:
            yield from generate(_empty(directory / name), python)
        except (AssertionError, OSError) as error:
            _leave_out(name, error, left_out)


def _ours(directory: Path, python: str) -> Iterator[Candidate]:
    """Yield the bare application, the naive install, and the rendered service of each target."""
    targets = {}
    for target in ("kubernetes", "vm"):
        project = replace(rendered(_empty(directory / target), deployment=target), python=python)
        project.uv("sync", "--quiet", "--no-dev")
        targets[target] = project
    pod = targets["kubernetes"]
    slow = {"uvloop": "asyncio", "httptools": "h11"}
    for name, instead in {"bare": {}, "naive": slow}.items():
        yield Candidate(name, pod, partial(start, pod, name, BARE + ROUTES, instead))
    for target, project in targets.items():
        metrics_port = free_port()
        yield Candidate(
            f"this template, {target}",
            project,
            partial(_start_ours, project, metrics_port),
            "ours",
            metrics_port,
        )


def _start_ours(project: Project, metrics_port: int, port: int) -> Command:
    code = OURS.format(package=project.package) + ROUTES
    command, environment = start(project, "complete", code, {}, port)
    return command, environment | {"METRICS_PORT": str(metrics_port)}


def _fastapi_template(directory: Path, python: str) -> Iterator[Candidate]:
    """Unchanged, and with gunicorn; its image runs `python -m PACKAGE` with one worker.

    The image leaves `.env` out, which has it reload on each change.
    """
    for name, options in {"uvicorn": [], "gunicorn": ["--gunicorn"]}.items():
        package = f"with_{name}"
        arguments = ["--quiet", f"--name={package}", "--api-type=rest", "--db=none", "--ci=none"]
        project = _generate(directory, python, FASTAPI_TEMPLATE, *arguments, *options, into=package)
        (project.path / ".env").unlink()
        with (project.path / package / "web/application.py").open("a") as application:
            application.write(IN_FACTORY.format(routes=ROUTES))

        def start(port: int, project: Project = project, package: str = package) -> Command:
            prefix = package.upper()
            address = {f"{prefix}_HOST": "127.0.0.1", f"{prefix}_PORT": str(port)}
            return [project.program("python"), "-m", package], address

        yield Candidate(f"fastapi_template, {name}", project, start)


def _fastapi_fullstack(directory: Path, python: str) -> Iterator[Candidate]:
    """With the command of its image, and with that of its production Compose file.

    There is always a database in it: nothing here asks for one, so none is running.
    """
    arguments = ["create", "orders", "--ai-framework=none", "--no-logfire", "--ci=none"]
    project = _generate(directory, python, FASTAPI_FULLSTACK, *arguments, into="orders/backend")
    with (project.path / "app/main.py").open("a") as application:
        application.write(ROUTES)
    environment = {"ENVIRONMENT": "production", "DEBUG": "false"}
    environment |= {name: secrets.token_hex(32) for name in ("SECRET_KEY", "API_KEY")}
    image = ["python", "-m", "cli.commands", "server", "run"]
    compose = ["uvicorn", "app.main:app", "--workers", "4"]
    for name, command in {"image": image, "Compose, 4 workers": compose}.items():

        def start(port: int, command: list[str] = command) -> Command:
            address = ["--host", "127.0.0.1", "--port", str(port)]
            return [project.program(command[0]), *command[1:], *address], environment

        yield Candidate(f"fastapi-fullstack, {name}", project, start)


def _fastapi_run(directory: Path, python: str) -> Iterator[Candidate]:
    """FastAPI's own command with four workers, before the bare application."""
    project = Project(directory, python)
    (directory / "pyproject.toml").write_text(
        '[project]\nname = "bare"\nversion = "1"\nrequires-python = ">=3.11"\n'
        'dependencies = ["fastapi[standard]"]\n'
    )
    (directory / "main.py").write_text(BARE + ROUTES)
    project.uv("sync", "--quiet")

    def start(port: int) -> Command:
        address = ["--host", "127.0.0.1", "--port", str(port)]
        return [project.program("fastapi"), "run", "main.py", "--workers", "4", *address], {}

    yield Candidate("fastapi run, 4 workers", project, start)


PEERS = {
    "fastapi_template": _fastapi_template,
    "fastapi-fullstack": _fastapi_fullstack,
    "fastapi run": _fastapi_run,
}


def _generate(directory: Path, python: str, package: str, *arguments: str, into: str) -> Project:
    """Return a project that a generator from PyPI creates, with its non-dev dependencies.

    Raises `AssertionError` with what was said last.
    """
    name, _, _ = package.partition("==")
    path = os.pathsep.join([str(Path(UV).parent), os.environ["PATH"]])  # one generator requires uv
    generator = Project(directory, python, {"PATH": path, "UV_PYTHON_DOWNLOADS": "never"})
    generator.uv("tool", "run", "--quiet", "--from", package, name, *arguments)
    project = replace(generator, path=directory / into)
    project.uv("sync", "--quiet", "--no-dev")
    return project


def _empty(directory: Path) -> Path:
    directory.mkdir()
    return directory


# ── Features per request ──────────────────────────────────────────────────────────────────────


def _seen(server: Server) -> list[str]:
    """Features detected in responses, log and metrics."""
    before = server.log.count("\n")
    for _ in range(ASKED):
        response = server.get(PATH)
    deadline = time.monotonic() + LOG_SECONDS
    while (lines := server.log.count("\n") - before) < ASKED and time.monotonic() < deadline:
        time.sleep(0.05)
    seen = {
        "log line": lines >= ASKED,
        "request id": "x-request-id" in response.headers,
        "metrics": _counted(server),
        "security headers": "x-content-type-options" in response.headers,
        "compression": "content-encoding" in server.get("/large", **ACCEPT).headers,
        "body limit": server.request("POST", "/large", BODY).status == 413,
    }
    return [what for what, is_seen in seen.items() if is_seen]


def _counted(server: Server) -> bool:
    """Return whether its metrics have a label for the route."""
    try:
        metrics = replace(server, port=server.metrics_port).get("/metrics")
    except OSError:
        return False
    return metrics.status == 200 and b"/orders/{id}" in metrics.body


# ── Tables and plots ──────────────────────────────────────────────────────────────────────────


def tables(figures: Figures) -> dict[str, Table]:
    """Return the tables: figures, features, and a summary of both for the README."""
    head = (
        "one core",
        "FastAPI",
        "processes",
        "CPU per request",
        "requests per second",
        "p99",
        "memory, PSS",
    )
    rows = [
        (
            row["name"],
            row["versions"]["fastapi"],
            str(row["processes"]),
            f"{row['cpu_us']:.0f} µs",
            f"{row['per_second']:,}",
            f"{row['p99_ms']:.1f} ms",
            f"{row['pss_mib']} MiB",
        )
        for row in figures["rows"]
    ]
    does = [
        (row["name"], *("yes" if what in row["does"] else "" for what in DOES))
        for row in figures["rows"]
    ]
    left_out = [*figures["left_out"].items()] or [("none", "")]
    first = [
        (line[0], *line[3:], ", ".join(what for what in DOES if what in row["does"]))
        for row, line in zip(figures["rows"], rows, strict=True)
    ]
    return {
        "peers-first": [(head[0], *head[3:], "with"), *first],
        "peers": [head, *rows],
        "peers-do": [("for a request", *DOES), *does],
        "peers-left-out": [("not measured", "because"), *left_out],
    }


def charts(figures: Figures) -> dict[str, Chart]:
    """CPU, throughput, p99 and memory of each server."""
    rows = figures["rows"]
    kinds = {row["name"]: row["kind"] for row in rows}
    return {
        "peers": Chart(
            "This template compared with others",
            "Server CPU per request, requests per second, p99 and memory of the same small JSON"
            " route, every server on one core",
            [
                panel("CPU per request, µs", rows, "cpu_us", "{:.0f}", kinds),
                panel("requests per second, one core", rows, "per_second", "{:,}", kinds),
                panel("p99, ms", rows, "p99_ms", "{:.1f}", kinds),
                panel("memory of all processes, PSS, MiB", rows, "pss_mib", "{}", kinds),
            ],
        )
    }


if __name__ == "__main__":
    main()
